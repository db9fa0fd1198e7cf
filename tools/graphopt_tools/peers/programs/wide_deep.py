"""Wide & Deep: table look-ups into an MLP beside a linear model; lazy Adam for the deep part, FTRL for the wide one.

sizes: batch, rows (of both tables), fields (look-ups per example), width (of a deep row), hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from .classifier import BATCHES, uniform

ADAM_RATE, EPS = 3.5e-4, 1e-8
FTRL_RATE, FTRL_START, L1, L2 = 0.05, 1.0, 1e-8, 1e-8


def arrays(sizes: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    rows, width, fields = sizes["rows"], sizes["width"], sizes["fields"]
    found: dict[str, np.ndarray] = {
        "weight.wide": rng.standard_normal((rows, 1), np.float32) / 100,
        "weight.wide.bias": np.zeros(1, np.float32),
        "weight.deep": rng.standard_normal((rows, width), np.float32) / 100,
    }
    widths = [fields * width, *sizes["hidden"], 1]
    for k, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
        found[f"weight.{k}"] = uniform(rng, outputs, inputs)
        found[f"weight.{k}.bias"] = uniform(rng, outputs)
    found["batch.ids"] = rng.integers(0, rows, (BATCHES, sizes["batch"], fields)).astype(np.int32)
    found["batch.labels"] = rng.integers(0, 2, (BATCHES, sizes["batch"], 1)).astype(np.float32)
    return found


def in_torch(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    import torch
    from torch.nn import functional as F

    from .torch_rules import FtrlRows

    w = kit.weights(arrays)
    layers = len(sizes["hidden"]) + 1

    def dense(deep: torch.Tensor, wide: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        x = deep.view(sizes["batch"], -1)
        for k in range(layers):
            x = F.linear(x, w[f"{k}"], w[f"{k}.bias"])
            x = torch.relu(x) if k < layers - 1 else x
        return F.binary_cross_entropy_with_logits(x + wide.sum(1) + w["wide.bias"], labels)

    behind = kit.compiled(dense)
    rest = [value for name, value in w.items() if name not in ("wide", "deep", "wide.bias")]
    optimizers = [
        torch.optim.SparseAdam([w["deep"]], ADAM_RATE, eps=EPS),
        torch.optim.Adam(rest, ADAM_RATE, eps=EPS, fused=True),
        FtrlRows([w["wide"], w["wide.bias"]], FTRL_RATE, FTRL_START, L1, L2),
    ]

    def loss(ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        deep = F.embedding(ids, w["deep"], sparse=True)
        value: torch.Tensor = behind(deep, F.embedding(ids, w["wide"], sparse=True), labels)
        return value

    return kit.training(loss, optimizers, compiled=False)


def in_jax(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    import jax
    import jax.numpy as jnp
    import optax

    from .jax_rules import at_rows, lazy_adam, rows_of

    layers = len(sizes["hidden"]) + 1

    def loss(deep: Any, wide: Any, dense: Any, labels: Any) -> Any:
        x = deep.reshape(sizes["batch"], -1)
        for k in range(layers):
            x = x @ dense[f"{k}"].T + dense[f"{k}.bias"]
            x = jax.nn.relu(x) if k < layers - 1 else x
        return optax.sigmoid_binary_cross_entropy(x + wide.sum(1) + dense["wide.bias"], labels).mean()

    def ftrl(w: Any, total: Any, linear: Any, g: Any) -> Any:
        grown = total + g * g
        linear = linear + g - (jnp.sqrt(grown) - jnp.sqrt(total)) / FTRL_RATE * w
        kept = (jnp.clip(linear, -L1, L1) - linear) / (jnp.sqrt(grown) / FTRL_RATE + 2 * L2)
        return kept, grown, linear

    def update(state: Any, ids: Any, labels: Any) -> Any:
        t = state["t"] + 1
        deep, wide, dense = state["deep"], state["wide"], state["dense"]
        weights = {name: parts[0] for name, parts in dense.items()}
        value, (g_deep, g_wide, g) = jax.value_and_grad(loss, (0, 1, 2))(deep[0][ids], wide[0][ids], weights, labels)
        rows, summed = rows_of(ids, sizes["rows"])
        deep = at_rows(partial(lazy_adam, ADAM_RATE, EPS, t), deep, rows, summed(g_deep))
        wide = at_rows(ftrl, wide, rows, summed(g_wide))
        rules: dict[str, Any] = {n: ftrl if n == "wide.bias" else partial(lazy_adam, ADAM_RATE, EPS, t) for n in dense}
        dense = {n: rules[n](*parts, g[n]) for n, parts in dense.items()}
        return {"t": t, "deep": deep, "wide": wide, "dense": dense}, value

    def started(value: Any, first: float) -> Any:
        return value, jnp.full_like(value, first), jnp.zeros_like(value)

    w = kit.weights(arrays)
    dense = {n: started(v, FTRL_START if n == "wide.bias" else 0.0) for n, v in w.items() if n not in ("wide", "deep")}
    tables = {"deep": started(w["deep"], 0.0), "wide": started(w["wide"], FTRL_START)}
    return kit.stateful(update, {"t": jnp.zeros(()), **tables, "dense": dense})


def in_mindspore(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    ms, nn, ops = kit.ms, kit.ms.nn, kit.ms.ops
    rows, fields, width = sizes["rows"], sizes["fields"], sizes["width"]
    widths = [fields * width, *sizes["hidden"], 1]

    class Loss(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.bias = ms.Parameter(ms.Tensor(np.zeros(1, np.float32)), name="bias")
            self.wide = nn.EmbeddingLookup(rows, 1, target="CPU", sparse=True)
            self.deep = nn.EmbeddingLookup(rows, width, target="CPU", sparse=True)
            layers: list[Any] = []
            for inputs, outputs in zip(widths, widths[1:], strict=False):
                layers += [nn.Dense(inputs, outputs), nn.ReLU()]
            self.mlp = nn.SequentialCell(*layers[:-1])
            self.entropy = nn.BCEWithLogitsLoss()

        def construct(self, ids: Any, labels: Any) -> Any:
            deep = self.mlp(self.deep(ids).reshape(sizes["batch"], fields * width))
            return self.entropy(deep + self.wide(ids).sum(1) + self.bias, labels)

    net = Loss()
    for parameter, name in ((net.wide.embedding_table, "wide"), (net.bias, "wide.bias"), (net.deep.embedding_table, "deep")):
        parameter.set_data(ms.Tensor(arrays[name]))
    dense = {name: value for name, value in arrays.items() if name[0].isdigit()}
    kit.load(net.mlp, dense)
    wide = [net.wide.embedding_table, net.bias]
    deep = [net.deep.embedding_table, *net.mlp.trainable_params()]

    class Step(nn.Cell):
        def __init__(self) -> None:
            super().__init__(auto_prefix=False)
            self.net = net
            self.weights = ms.ParameterTuple([*wide, *deep])
            self.gradient = ops.GradOperation(get_by_list=True)
            self.wide = nn.FTRL(wide, FTRL_START, FTRL_RATE, l1=L1, l2=L2)
            self.deep = nn.LazyAdam(deep, ADAM_RATE, eps=EPS)

        def construct(self, ids: Any, labels: Any) -> Any:
            loss = self.net(ids, labels)
            gradients = self.gradient(self.net, self.weights)(ids, labels)
            loss = ops.depend(loss, self.wide(gradients[:2]))
            return ops.depend(loss, self.deep(gradients[2:]))

    return kit.cell(Step().set_train())
