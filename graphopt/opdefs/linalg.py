"""Products of matrices: `dot_general`, and `matmul` written with it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from graphopt.errors import DTypeError, ShapeError, layout
from graphopt.ir.graph import Node
from graphopt.ir.types import NUMBERS, TensorType
from graphopt.opdefs.opdef import Contracts, Sample, broadcast_to, op, shifted
from graphopt.opdefs.shape import transpose
from graphopt.where import here

Pairs = tuple[tuple[int, ...], tuple[int, ...]]
NO_AXES: Pairs = ((), ())


def require_numbers(types: Sequence[TensorType]) -> None:
    """All types have one dtype, and it is no bool.

    Errors: DTypeError.
    """
    dtypes = [t.dtype for t in types]
    if any(d is not dtypes[0] for d in dtypes):
        found = ", ".join(f"{d.short} (input {k})" for k, d in enumerate(dtypes))
        raise DTypeError(f"dtypes differ: {found}")
    if dtypes[0] not in NUMBERS:
        raise DTypeError(f"expects numbers, found {dtypes[0].short}")


def accumulator(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which sums of `dtype` are kept: float32 for the 16-bit floats, else the dtype itself."""
    return np.dtype(np.float32) if dtype.kind not in "iu" and dtype.itemsize == 2 else dtype


def free_axes(rank: int, *taken: Sequence[int]) -> tuple[int, ...]:
    """The axes of a rank that stand in none of `taken`, in order."""
    used = {k for axes in taken for k in axes}
    return tuple(k for k in range(rank) if k not in used)


def _check_axes(what: str, pair: Pairs, types: Sequence[TensorType]) -> None:
    if len(pair[0]) != len(pair[1]):
        raise ShapeError(f"{what} axes do not pair up: {pair[0]} of input 0, {pair[1]} of input 1")
    for k, (axes, t) in enumerate(zip(pair, types, strict=True)):
        for axis in axes:
            if not 0 <= axis < t.rank:
                raise ShapeError(f"{what} axis {axis} of input {k} is outside 0..{t.rank - 1}")
    for i, j in zip(*pair, strict=True):
        m, n = types[0].shape[i], types[1].shape[j]
        if m != n:
            word = "inner" if what == "contract" else what
            raise ShapeError(f"{word} sizes differ: {m} (axis {i} of input 0), {n} (axis {j} of input 1)")


@op(
    [
        Sample([(33, 65), (65, 17)], {"contract": ((1,), (0,)), "batch": NO_AXES}),
        Sample([(1, 1), (1, 1)], {"contract": ((1,), (0,)), "batch": NO_AXES}),
        Sample([(7,), (7,)], {"contract": ((0,), (0,)), "batch": NO_AXES}),
        Sample([(3,), (5,)], {"contract": NO_AXES, "batch": NO_AXES}),
        Sample([(16, 12), (9, 12)], {"contract": ((1,), (1,)), "batch": NO_AXES}),
        Sample([(12, 16), (12, 9)], {"contract": ((0,), (0,)), "batch": NO_AXES}),
        Sample([(2, 3, 5, 4), (2, 3, 4, 7)], {"contract": ((3,), (2,)), "batch": ((0, 1), (0, 1))}),
        Sample([(5, 2, 4, 3), (4, 3, 6, 2)], {"contract": ((2, 3), (0, 1)), "batch": ((1,), (3,))}),
        Sample([(3, 4, 2, 5), (5, 3, 6, 4)], {"contract": ((3, 1), (0, 3)), "batch": ((0,), (1,))}),
        Sample([(4, 3), (4, 3)], {"contract": NO_AXES, "batch": ((0, 1), (0, 1))}),
    ],
    "contraction",
    NUMBERS,
)
def dot_general(a: TensorType, b: TensorType, *, contract: Pairs, batch: Pairs) -> TensorType:
    """Sum of products over the `contract` axes, separately for each place of the `batch` axes.

    Both attributes are pairs (axes of a, axes of b); the k-th axes of a pair belong together. 16-bit floats
    accumulate in float32 and are rounded once; integers wrap.

    Shapes: batch sizes, then a's free axes, then b's free axes, each group in the order of its operand
            (batch in the order of the attribute).
    Errors: DTypeError when dtypes differ or are bool; ShapeError when paired sizes differ or an axis is used
            twice.
    """
    require_numbers((a, b))
    for k, t in enumerate((a, b)):
        used = (*contract[k], *batch[k])
        if len(set(used)) != len(used):
            raise ShapeError(f"an axis of input {k} is used twice: contract {contract[k]}, batch {batch[k]}")
        if len(used) > t.rank:
            raise ShapeError(f"input {k} has {t.rank} axes, found {len(used)} contract and batch axes")
    _check_axes("contract", contract, (a, b))
    _check_axes("batch", batch, (a, b))
    shape = [a.shape[k] for k in batch[0]]
    shape += [a.shape[k] for k in free_axes(a.rank, contract[0], batch[0])]
    shape += [b.shape[k] for k in free_axes(b.rank, contract[1], batch[1])]
    return TensorType(a.dtype, tuple(shape))


@dot_general.numpy
def _(a: np.ndarray, b: np.ndarray, *, contract: Pairs, batch: Pairs) -> np.ndarray:
    rows = free_axes(a.ndim, contract[0], batch[0])
    columns = free_axes(b.ndim, contract[1], batch[1])
    shape = [a.shape[k] for k in (*batch[0], *rows)] + [b.shape[k] for k in columns]
    count = prod(a.shape[k] for k in batch[0])
    inner = prod(a.shape[k] for k in contract[0])
    m, n = prod(a.shape[k] for k in rows), prod(b.shape[k] for k in columns)
    dtype = accumulator(a.dtype)
    left = a.astype(dtype, copy=False).transpose(*batch[0], *rows, *contract[0]).reshape(count, m, inner)
    right = b.astype(dtype, copy=False).transpose(*batch[1], *contract[1], *columns).reshape(count, inner, n)
    return np.asarray(np.matmul(left, right)).reshape(shape)


def _dot_to(x: Node, y: Node, contract: Pairs, batch: Pairs, axis_of: Sequence[dict[int, int]]) -> Node:
    """dot_general(x, y) with its axes in the order of a third tensor.

    axis_of: for x and for y, which axis of that tensor each free axis (and, for x, each batch axis) becomes.
    The operands are exchanged when that alone gives the order.
    """
    made = []
    for k in (0, 1):
        first, second = (x, y) if k == 0 else (y, x)
        taken = (contract[k], contract[1 - k]), (batch[k], batch[1 - k])
        order = [axis_of[0][i] for i in batch[0]]
        order += [axis_of[k][i] for i in free_axes(first.type.rank, taken[0][0], taken[1][0])]
        order += [axis_of[1 - k][i] for i in free_axes(second.type.rank, taken[0][1], taken[1][1])]
        made.append((order, (first, second), taken))
    order, operands, (c, b) = made[1] if made[1][0] == sorted(made[1][0]) else made[0]
    out = dot_general(*operands, contract=c, batch=b)
    return out if order == sorted(order) else transpose(out, perm=tuple(int(k) for k in np.argsort(order)))


dot_general.linear((0,), (1,))


@dot_general.batch
def _(size: int, mapped: tuple[bool, ...], a: Node, b: Node, *, contract: Pairs, batch: Pairs) -> Node:
    """Examples on both sides are one more batch axis; on one side they are a free axis, which moves to the front."""
    axes = [(shifted(contract[k]), shifted(batch[k])) if m else (contract[k], batch[k]) for k, m in enumerate(mapped)]
    lead: Pairs = ((0,), (0,)) if all(mapped) else NO_AXES
    out = dot_general(a, b, contract=(axes[0][0], axes[1][0]), batch=(lead[0] + axes[0][1], lead[1] + axes[1][1]))
    if all(mapped):
        return out
    place = len(batch[0]) if mapped[0] else len(batch[0]) + len(free_axes(a.type.rank, contract[0], batch[0]))
    rest = [k for k in range(out.type.rank) if k != place]
    return transpose(out, perm=(place, *rest)) if place else out


@dot_general.vjp
def _(ct: Node, out: Node, a: Node, b: Node, *, contract: Pairs, batch: Pairs) -> tuple[Node, Node]:
    rows = free_axes(a.type.rank, contract[0], batch[0])
    columns = free_axes(b.type.rank, contract[1], batch[1])
    lead = tuple(range(len(batch[0])))
    ct_rows = tuple(range(len(lead), len(lead) + len(rows)))
    ct_columns = tuple(range(len(lead) + len(rows), len(lead) + len(rows) + len(columns)))

    ct_in_a = dict(zip(lead + ct_rows, batch[0] + rows, strict=True))
    b_in_a = dict(zip(contract[1], contract[0], strict=True))
    for_a = _dot_to(ct, b, (ct_columns, columns), (lead, batch[1]), (ct_in_a, b_in_a))

    ct_in_b = dict(zip(lead + ct_columns, batch[1] + columns, strict=True))
    a_in_b = dict(zip(contract[0], contract[1], strict=True))
    for_b = _dot_to(ct, a, (ct_rows, rows), (lead, batch[0]), (ct_in_b, a_in_b))
    return for_a, for_b


@dot_general.contract
def _(c: Contracts, a: TensorType, b: TensorType, *, contract: Pairs, batch: Pairs) -> Any:
    a_index: list[Any] = [None] * a.rank
    b_index: list[Any] = [None] * b.rank
    out = []
    for i, j in zip(*batch, strict=True):
        a_index[i] = b_index[j] = c.out(a.shape[i])
        out.append(a_index[i])
    for i in free_axes(a.rank, contract[0], batch[0]):
        a_index[i] = c.out(a.shape[i])
        out.append(a_index[i])
    for j in free_axes(b.rank, contract[1], batch[1]):
        b_index[j] = c.out(b.shape[j])
        out.append(b_index[j])
    for i, j in zip(*contract, strict=True):
        a_index[i] = b_index[j] = c.sum(a.shape[i])
    return c.product(out, a_index, b_index)


def matmul(a: Node, b: Node) -> Node:
    """Matrix product as numpy's: matrices in the last two axes, leading axes broadcast, vectors lose theirs.

    Shapes: a (..., m, k), b (..., k, n) -> (..., m, n).
    Errors: ShapeError when an input is a scalar, inner sizes differ, or leading axes do not broadcast.
    """
    for k, x in enumerate((a, b)):
        if x.type.rank == 0:
            raise _refused(f"expects vectors or matrices, found a scalar (input {k})", a, b)
    inner = max(b.type.rank - 2, 0)
    if a.shape[-1] != b.shape[inner]:
        sizes = f"{a.shape[-1]} (axis {a.type.rank - 1} of input 0), {b.shape[inner]} (axis {inner} of input 1)"
        raise _refused(f"inner sizes differ: {sizes}", a, b)
    if a.type.rank == 1 or b.type.rank <= 2:
        return dot_general(a, b, contract=((a.type.rank - 1,), (inner,)), batch=NO_AXES)
    lead = _broadcast_lead(a, b)
    axes = tuple(range(len(lead)))
    a, b = broadcast_to(a, (*lead, *a.shape[-2:])), broadcast_to(b, (*lead, *b.shape[-2:]))
    return dot_general(a, b, contract=((len(lead) + 1,), (len(lead),)), batch=(axes, axes))


def _refused(what: str, a: Node, b: Node) -> ShapeError:
    origins = [f"  = {x.op} at {x.where}" if x.where is not None else "" for x in (a, b)]
    return ShapeError(layout(f"matmul: {what}", here(), [f"input 0: {a.type}{origins[0]}", f"input 1: {b.type}{origins[1]}"]))


def _broadcast_lead(a: Node, b: Node) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise _refused(f"leading axes do not broadcast: {a.shape[:-2]} and {b.shape[:-2]}", a, b) from None
