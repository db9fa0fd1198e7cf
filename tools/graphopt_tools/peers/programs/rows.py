"""One table, some of whose rows are looked up and changed by lazy Adam: the cost must not depend on the table's height.

sizes: batch (look-ups), rows and width of the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from .classifier import BATCHES

RATE, EPS = 1e-3, 1e-8


def arrays(sizes: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    rows, width, batch = sizes["rows"], sizes["width"], sizes["batch"]
    return {
        "weight.table": rng.standard_normal((rows, width), np.float32) / 100,
        "batch.ids": rng.integers(0, rows, (BATCHES, batch)).astype(np.int32),
        "batch.targets": rng.standard_normal((BATCHES, batch, width), np.float32),
    }


def in_torch(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    import torch
    from torch.nn import functional as F

    w = kit.weights(arrays)["table"]

    def loss(ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(F.embedding(ids, w, sparse=True), targets)

    return kit.training(loss, [torch.optim.SparseAdam([w], RATE, eps=EPS)], compiled=False)


def in_jax(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    import jax
    import jax.numpy as jnp

    from .jax_rules import at_rows, lazy_adam, rows_of

    def loss(looked_up: Any, targets: Any) -> Any:
        return ((looked_up - targets) ** 2).mean()

    def update(state: Any, ids: Any, targets: Any) -> Any:
        t, table = state["t"] + 1, state["table"]
        value, gradient = jax.value_and_grad(loss)(table[0][ids], targets)
        rows, summed = rows_of(ids, sizes["rows"])
        table = at_rows(partial(lazy_adam, RATE, EPS, t), table, rows, summed(gradient))
        return {"t": t, "table": table}, value

    table = kit.weights(arrays)["table"]
    return kit.stateful(update, {"t": jnp.zeros(()), "table": (table, jnp.zeros_like(table), jnp.zeros_like(table))})


def in_mindspore(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    nn = kit.ms.nn

    class Loss(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.EmbeddingLookup(sizes["rows"], sizes["width"], target="CPU", sparse=True)
            self.error = nn.MSELoss()

        def construct(self, ids: Any, targets: Any) -> Any:
            return self.error(self.table(ids), targets)

    loss = kit.load(Loss(), arrays)
    return kit.training(loss, nn.LazyAdam(loss.trainable_params(), RATE, eps=EPS))
