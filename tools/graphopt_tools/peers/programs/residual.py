"""Many equal layers, x + relu(dense(x)), and a dense head with softmax cross entropy, Momentum: what compiling costs per layer.

sizes: batch, width, depth, classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .classifier import BATCHES, uniform

RATE = 0.01


def arrays(sizes: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    width, depth = sizes["width"], sizes["depth"]
    found: dict[str, np.ndarray] = {}
    for k in range(depth):
        found[f"weight.{k}.weight"] = uniform(rng, width, width) / depth  # so that the sum over all layers stays small
        found[f"weight.{k}.bias"] = uniform(rng, width) / depth
    found[f"weight.{depth}.weight"] = uniform(rng, sizes["classes"], width)
    found[f"weight.{depth}.bias"] = uniform(rng, sizes["classes"])
    found["batch.x"] = rng.random((BATCHES, sizes["batch"], width), np.float32)
    found["batch.y"] = rng.integers(0, sizes["classes"], (BATCHES, sizes["batch"])).astype(np.int32)
    return found


def _dense(sizes: dict[str, Any], kind: Any) -> list[Any]:
    """The layers, then the head."""
    return [*(kind(sizes["width"], sizes["width"]) for _ in range(sizes["depth"])), kind(sizes["width"], sizes["classes"])]


def in_torch(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    import torch
    from torch import nn

    net = kit.load(nn.Sequential(*_dense(sizes, nn.Linear)), arrays)

    def loss(x: Any, y: Any) -> Any:
        for layer in net[:-1]:
            x = x + torch.relu(layer(x))
        return nn.functional.cross_entropy(net[-1](x), y.long())

    return kit.training(loss, [torch.optim.SGD(net.parameters(), RATE, 0.9, fused=True)])


def in_jax(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    import jax
    import optax

    def loss(weights: Any, x: Any, y: Any) -> Any:
        def dense(k: int, x: Any) -> Any:
            return x @ weights[f"{k}.weight"].T + weights[f"{k}.bias"]

        for k in range(sizes["depth"]):
            x = x + jax.nn.relu(dense(k, x))
        return optax.softmax_cross_entropy_with_integer_labels(dense(sizes["depth"], x), y).mean()

    return kit.training(loss, kit.weights(arrays), optax.sgd(RATE, 0.9))


def in_mindspore(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    nn, ops = kit.ms.nn, kit.ms.ops

    class Net(nn.Cell):
        def __init__(self, layers: Any, head: Any) -> None:
            super().__init__(auto_prefix=False)
            self.layers = nn.CellList(layers, auto_prefix=False)
            self.head = head

        def construct(self, x: Any) -> Any:
            for layer in self.layers:
                x = x + ops.relu(layer(x))
            return self.head(x)

    *layers, head = kit.load(nn.SequentialCell(*_dense(sizes, nn.Dense)), arrays)
    net = Net(layers, head)
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    return kit.training(nn.WithLossCell(net, loss), nn.Momentum(net.trainable_params(), RATE, 0.9))
