"""A recurrent classifier: one LSTM layer over a sequence, a dense layer on its last state, Adam.

sizes: batch, length, inputs, hidden, classes; loop: graphopt's network is a Python loop over time instead of nn.LSTM. The
others always use what is best for them: PyTorch and MindSpore their layer, JAX a scan.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .classifier import ADAM_EPS, BATCHES, uniform

RATE = 0.001


def arrays(sizes: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    batch, length, inputs, hidden, classes = (sizes[n] for n in ("batch", "length", "inputs", "hidden", "classes"))
    return {
        "weight.inputs": uniform(rng, 4 * hidden, inputs),
        "weight.hidden": uniform(rng, 4 * hidden, hidden),
        "weight.inputs.bias": uniform(rng, 4 * hidden),
        "weight.hidden.bias": uniform(rng, 4 * hidden),
        "weight.head": uniform(rng, classes, hidden),
        "weight.head.bias": uniform(rng, classes),
        "batch.x": rng.standard_normal((BATCHES, length, batch, inputs)).astype(np.float32),
        "batch.labels": rng.integers(0, classes, (BATCHES, batch)).astype(np.int32),
    }


def in_torch(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    import torch
    from torch import nn

    net = nn.ModuleList([nn.LSTM(sizes["inputs"], sizes["hidden"]), nn.Linear(sizes["hidden"], sizes["classes"])])
    lstm, head = kit.load(net, arrays)

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(head(lstm(x)[0][-1]), y.long())

    return kit.training(loss, [torch.optim.Adam(net.parameters(), RATE, eps=ADAM_EPS, fused=True)])


def in_jax(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    import jax
    import jax.numpy as jnp
    import optax

    def loss(w: Any, x: Any, y: Any) -> Any:
        def cell(state: Any, gates: Any) -> Any:
            h, c = state
            i, f, g, o = jnp.split(gates + h @ w["hidden"].T, 4, 1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

        zeros = jnp.zeros((x.shape[1], sizes["hidden"]), x.dtype)
        gates = x @ w["inputs"].T + (w["inputs.bias"] + w["hidden.bias"])
        (h, _), _ = jax.lax.scan(cell, (zeros, zeros), gates)
        logits = h @ w["head"].T + w["head.bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return kit.training(loss, kit.weights(arrays), optax.adam(RATE, eps=ADAM_EPS))


def in_mindspore(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    ms, nn, ops = kit.ms, kit.ms.nn, kit.ms.ops
    inputs, hidden = sizes["inputs"], sizes["hidden"]
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")

    class Loop(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.inputs = ms.Parameter(ms.Tensor(np.zeros((4 * hidden, inputs), np.float32)), name="inputs")
            self.hidden = ms.Parameter(ms.Tensor(np.zeros((4 * hidden, hidden), np.float32)), name="hidden")
            self.inputs_bias = ms.Parameter(ms.Tensor(np.zeros(4 * hidden, np.float32)), name="inputs_bias")
            self.hidden_bias = ms.Parameter(ms.Tensor(np.zeros(4 * hidden, np.float32)), name="hidden_bias")

        def construct(self, x: Any) -> Any:
            h = c = ops.zeros((sizes["batch"], hidden), ms.float32)
            for t in range(sizes["length"]):
                gates = ops.matmul(x[t], self.inputs.T) + self.inputs_bias
                gates = gates + ops.matmul(h, self.hidden.T) + self.hidden_bias
                i, f, g, o = ops.split(gates, hidden, 1)
                c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
                h = ops.sigmoid(o) * ops.tanh(c)
            return h

    class Layer(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(inputs, hidden)

        def construct(self, x: Any) -> Any:
            zeros = ops.zeros((1, sizes["batch"], hidden), ms.float32)
            return self.lstm(x, (zeros, zeros))[0][-1]

    class Net(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.body = Loop() if sizes["loop"] and kit.framework == "graphopt" else Layer()
            self.head = nn.Dense(hidden, sizes["classes"])

        def construct(self, x: Any) -> Any:
            return self.head(self.body(x))

    net = kit.load(Net(), arrays)
    return kit.training(nn.WithLossCell(net, loss), nn.Adam(net.trainable_params(), RATE, eps=ADAM_EPS))
