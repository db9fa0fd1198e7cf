"""Updates of the rows that a row-sparse gradient names; what they cost does not depend on the size of the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt import ops
from graphopt.common.parameter import Parameter
from graphopt.common.row_tensor import RowTensor
from graphopt.common.tensor import apply
from graphopt.ir.graph import Node
from graphopt.nn.optim.optimizer import update
from graphopt.opdefs.index import gather, scatter_add
from graphopt.opdefs.opdef import full
from graphopt.opdefs.rows import last_rows, scatter_set
from graphopt.ops.promote import in_float32, widened
from graphopt.ops.row_updates import on_rows


def update_touched(rule: Any, state: Sequence[Parameter], gradient: Any, *others: Any) -> None:
    """Run an elementwise update rule where the gradient is: everywhere for a Tensor; for a RowTensor on its rows, those
    of equal indices added up first.
    """
    if not isinstance(gradient, RowTensor):
        update(rule, state, gradient, *others)
        return

    def run(indices: Node, values: Node, *nodes: Node) -> tuple[Node, ...]:
        tables, rest = nodes[: len(state)], nodes[len(state) :]
        return on_rows(rule, tables, indices, values, rest)

    _assign(state, apply(run, gradient.indices, gradient.values, *state, *others))


def update_each(rule: Any, state: Sequence[Parameter], gradient: RowTensor, *others: Any) -> None:
    """Run an elementwise rule that subtracts from the parameter once for each row, also of equal indices: all start
    from the old states, the parameter takes every step, and the states of the last remain.
    """
    size = state[0].shape[0]

    def run(indices: Node, values: Node, *nodes: Node) -> tuple[Node, ...]:
        (table, *states), rest = nodes[: len(state)], nodes[len(state) :]
        rows = [gather(t, indices, axis=0) for t in states]
        still = full(values.shape, 0, table.dtype)
        step, *made = in_float32(rule)(still, *rows, widened(values), *rest)
        last = last_rows(indices, size)
        written = (scatter_set(t, last, m) for t, m in zip(states, made, strict=True))
        return scatter_add(table, indices, step, axis=0), *written

    _assign(state, apply(run, gradient.indices, gradient.values, *state, *others))


def _assign(state: Sequence[Parameter], made: Sequence[Any]) -> None:
    for p, value in zip(state, made, strict=True):
        ops.assign(p, value)
