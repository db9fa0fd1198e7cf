"""Reading and adding at computed positions: whole slices along an axis, or element by element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node
from graphopt.ir.types import (
    DTYPES,
    NUMBERS,
    DType,
    TensorType,
    bf16,
    f16,
    f32,
    i8,
    i16,
    i32,
    i64,
    u8,
    u16,
    u32,
)
from graphopt.opdefs.bits import logical_and
from graphopt.opdefs.elementwise import add, cast, ge, lt, mul, select
from graphopt.opdefs.opdef import Loops, OpDef, Reader, Sample, Scalars, all_mapped, constant, full, op
from graphopt.opdefs.shape import Mapped, iota, reshape, transpose

INDICES = (i8, i16, i32, i64, u8, u16, u32)


def _check(x: TensorType, indices: TensorType, axis: int) -> None:
    if indices.dtype not in INDICES:
        raise DTypeError(
            f"expects indices of an integer dtype up to i64, found {indices.dtype.short} (input 1)"
        )
    if not 0 <= axis < x.rank:
        found = (
            f"axis {axis} is outside 0..{x.rank - 1} of input 0"
            if x.rank
            else "expects a tensor, found a scalar"
        )
        raise ShapeError(found)


def _check_update(x: TensorType, updates: TensorType, expected: Sequence[int]) -> None:
    if x.dtype is not updates.dtype:
        raise DTypeError(f"dtypes differ: {x.dtype.short} (input 0), {updates.dtype.short} (input 2)")
    if x.dtype not in NUMBERS:
        raise DTypeError(f"expects numbers, found {x.dtype.short}")
    if updates.shape != tuple(expected):
        raise ShapeError(
            f"updates differ in shape: expected {tuple(expected)}, found {updates.shape} (input 2)"
        )


def _check_along(x: TensorType, indices: TensorType, axis: int) -> None:
    _check(x, indices, axis)
    if x.rank != indices.rank:
        raise ShapeError(f"ranks differ: {x.rank} (input 0), {indices.rank} (input 1)")
    for k, (n, m) in enumerate(zip(x.shape, indices.shape, strict=True)):
        if k != axis and n != m:
            raise ShapeError(
                f"sizes differ beside axis {axis}: {n} (axis {k} of input 0), {m} (axis {k} of input 1)"
            )


def positions(indices: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices counted from the start, out-of-range ones as 0; and which were in range."""
    wide = indices.astype(np.int64)
    wide = np.where(wide < 0, wide + size, wide)
    valid = (wide >= 0) & (wide < size)
    return np.where(valid, wide, 0), valid


def as_index(s: Scalars, raw: Any, dtype: DType, size: int) -> Any:
    """The loaded integer `raw`, counted from the end of an axis of `size` if negative; in i32 if it fits."""
    work = (
        i32 if dtype.bits <= 32 and size < 2**31 else i64
    )  # u32 beyond 2^31 turns negative: out of range as well
    value = s.cast(raw, work) if dtype is not work else raw
    if dtype.kind == "i":
        value = s.select(s.lt(value, s.const(0, work)), s.add(value, s.const(size, work)), value)
    return value


def _guarded(
    r: Reader, raw: Any, indices: TensorType, x: TensorType, axis: int, read: Callable[[Any], Any]
) -> Any:
    """`read(i)` for the loaded integer `raw` as an index of x's axis; 0 out of range."""
    size = x.shape[axis]
    i = r.index(as_index(r.s, raw, indices.dtype, size))
    return r.guard(r.within(i, 0, size), lambda: read(i), r.s.const(0, x.dtype))


def spread(adder: OpDef, x: TensorType, indices: Node, ct: Node, axis: int) -> Node:
    """The derivative of a read: cotangents added at their indices into zeros, 16-bit floats in float32."""
    dtype = f32 if x.dtype in (f16, bf16) else x.dtype
    wide = ct if dtype is ct.dtype else cast(ct, dtype=dtype)
    total = adder(full(x.shape, 0, dtype), indices, wide, axis=axis)
    return total if dtype is x.dtype else cast(total, dtype=x.dtype)


def _far_indices(rng: np.random.Generator, dtype: DType) -> list[np.ndarray]:
    """Unsigned indices beyond the signed range, which are out of range and not negative."""
    x = rng.integers(0, 2, (4, 5)).astype(dtype.numpy)
    return [x, np.array([0, 2**32 - 1, 3, 2**31, 2**32 - 4], np.uint32)]


@op(
    [
        Sample([(45, 17), (6,)], {"axis": 0}, dtypes=(None, i32)),
        Sample([(1,), ()], {"axis": 0}, low=0, high=0, dtypes=(None, i32)),
        Sample([(5, 3, 7), (2, 4)], {"axis": 1}, dtypes=(None, i64)),
        Sample([(5, 3, 7), (2, 1, 3)], {"axis": 2}, low=-9, high=9, dtypes=(None, i32)),
        Sample([(4, 5), (33,)], {"axis": 1}, low=0, high=1, dtypes=(None, i32)),
        Sample([(4, 5), (3,)], {"axis": 1}, low=0, high=8, dtypes=(None, u8)),
        Sample([(4, 5), (5,)], {"axis": 0}, values=_far_indices),
        Sample([(4, 5), (0,)], {"axis": 0}, dtypes=(None, i32)),
    ],
    "movement",
    DTYPES,
)
def gather(x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
    """Slices of x at `indices` along `axis`; negative ones count from the end, an index out of range reads 0.

    Shapes: x (*before, n, *after), indices any -> (*before, *indices.shape, *after).
    Errors: DTypeError when the indices are no integers; ShapeError when x has no such axis.
    """
    _check(x, indices, axis)
    return TensorType(x.dtype, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


@gather.numpy
def _(x: np.ndarray, indices: np.ndarray, *, axis: int) -> np.ndarray:
    where, valid = positions(indices, x.shape[axis])
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    if not x.shape[axis]:
        return np.zeros(shape, x.dtype)
    out = np.asarray(np.take(x, where, axis=axis))
    if not valid.all():
        out[(slice(None),) * axis + (~valid,)] = 0
    return out


gather.linear((0,))


@gather.batch
def _(size: int, mapped: Mapped, x: Node, indices: Node, *, axis: int) -> Node:
    if not mapped[1]:
        return gather(x, indices, axis=axis + 1)
    rank, after = indices.type.rank, x.type.rank - axis - 1
    if not mapped[0]:
        out = gather(x, indices, axis=axis)
        before = range(axis)
        return transpose(out, perm=(axis, *before, *range(axis + 1, axis + rank + after)))
    rows, places = own_rows(size, x, indices, axis + 1)
    out = gather(rows, places, axis=0)
    order = (0, *range(rank, rank + axis), *range(1, rank), *range(rank + axis, out.type.rank))
    return transpose(out, perm=order)


def own_rows(size: int, x: Node, indices: Node, axis: int) -> tuple[Node, Node]:
    """(examples, *before, n, *after) as (examples * n, *before, *after), and each example's indices into its own rows."""
    n = x.shape[axis]
    moved = transpose(x, perm=(0, axis, *(i for i in range(1, x.type.rank) if i != axis)))
    return reshape(moved, shape=(size * n, *moved.shape[2:])), own_places(size, indices, n)


def own_places(size: int, indices: Node, n: int) -> Node:
    """The indices, (examples, ...), of n places each as places among those of all examples; `size * n` out of range."""
    dtype = i32 if size * n < 2**31 and indices.dtype.bits <= 32 else i64
    wide = indices if indices.dtype is i64 else cast(indices, dtype=i64)
    wide = select(lt(wide, 0), add(wide, n), wide)
    example = iota(shape=indices.shape, axis=0, dtype=i64)
    inside = logical_and(ge(wide, 0), lt(wide, n))
    places = select(inside, add(wide, mul(example, n)), constant(size * n, i64))
    return places if dtype is i64 else cast(places, dtype=dtype)


@gather.vjp
def _(ct: Node, out: Node, x: Node, indices: Node, *, axis: int) -> tuple[Node | None, None]:
    return spread(scatter_add, x.type, indices, ct, axis) if x.dtype in NUMBERS else None, None


@gather.at
def _(r: Reader, index: tuple[Any, ...], x: TensorType, indices: TensorType, *, axis: int) -> Any:
    before, middle, after = index[:axis], index[axis : axis + indices.rank], index[axis + indices.rank :]
    raw = r.read(1, middle)
    return _guarded(r, raw, indices, x, axis, lambda i: r.read(0, (*before, i, *after)))


def add_rows(target: np.ndarray, where: np.ndarray, valid: np.ndarray, updates: np.ndarray) -> None:
    """target[where[k]] += updates[k] for the valid k; repeats add up."""
    if not valid.all():
        where, updates = where[valid], updates[valid]
    if target.dtype.itemsize <= 2 or updates.size == 0:
        np.add.at(target, where, updates)
        return
    order = np.argsort(where, kind="stable")
    where, updates = where[order], updates[order]
    starts = np.flatnonzero(np.concatenate([[True], where[1:] != where[:-1]]))
    target[where[starts]] += np.add.reduceat(updates, starts, axis=0, dtype=target.dtype)


@op(
    [
        Sample([(45, 17), (6,), (6, 17)], {"axis": 0}, dtypes=(None, i32, None)),
        Sample([(1,), (), ()], {"axis": 0}, low=0, high=0, dtypes=(None, i32, None)),
        Sample([(5, 3, 7), (2, 4), (5, 2, 4, 7)], {"axis": 1}, dtypes=(None, i64, None)),
        Sample(
            [(5, 3, 7), (2, 1, 3), (5, 3, 2, 1, 3)], {"axis": 2}, low=-9, high=9, dtypes=(None, i32, None)
        ),
        Sample([(4, 5), (33,), (4, 33)], {"axis": 1}, low=0, high=1, dtypes=(None, i32, None)),
        Sample([(4, 5), (0,), (0, 5)], {"axis": 0}, dtypes=(None, i32, None)),
    ],
    "kernel",
    NUMBERS,
    starts_from=0,
)
def scatter_add(x: TensorType, indices: TensorType, updates: TensorType, *, axis: int) -> TensorType:
    """x plus `updates` at `indices` along `axis`: repeats add up, an index out of range adds nothing.

    Each addition is rounded to the dtype; their order is that of the indices, except that f32 and f64 may sum
    the updates of one index first.

    Shapes: x (*before, n, *after), indices any, updates (*before, *indices.shape, *after) -> x's.
    Errors: DTypeError when the indices are no integers or the other dtypes differ; ShapeError when the shapes
            do not fit.
    """
    _check(x, indices, axis)
    _check_update(x, updates, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    return x


@scatter_add.numpy
def _(x: np.ndarray, indices: np.ndarray, updates: np.ndarray, *, axis: int) -> np.ndarray:
    where, valid = positions(indices.reshape(-1), x.shape[axis])
    flat = updates.reshape(*x.shape[:axis], indices.size, *x.shape[axis + 1 :])
    out = x.copy()
    if out.size:
        add_rows(np.moveaxis(out, axis, 0), where, valid, np.moveaxis(flat, axis, 0))
    return out


scatter_add.linear((0, 2))


@scatter_add.batch
def _(size: int, mapped: Mapped, x: Node, indices: Node, updates: Node, *, axis: int) -> Node:
    x, updates = all_mapped(size, (mapped[0], mapped[2]), (x, updates))
    if not mapped[1]:
        return scatter_add(x, indices, updates, axis=axis + 1)
    rows, places = own_rows(size, x, indices, axis + 1)
    rank = indices.type.rank - 1
    middle = range(axis + 1, axis + 1 + rank)
    rest = [k for k in range(1, updates.type.rank) if k not in middle]
    total = scatter_add(rows, places, transpose(updates, perm=(0, *middle, *rest)), axis=0)
    apart = reshape(total, shape=(size, x.shape[axis + 1], *total.shape[1:]))
    return transpose(apart, perm=(0, *range(2, axis + 2), 1, *range(axis + 2, apart.type.rank)))


@scatter_add.vjp
def _(ct: Node, out: Node, x: Node, indices: Node, updates: Node, *, axis: int) -> tuple[Node, None, Node]:
    return ct, None, gather(ct, indices, axis=axis)


def add_at(nest: Loops, target: tuple[Any, ...], i: Any, size: int, source: tuple[Any, ...], updates: int) -> None:
    """output[target] += input `updates`[source] if the index i is in range."""

    def add() -> None:
        nest.store(target, nest.s.add(nest.load(target), nest.read(updates, source)))

    nest.when(nest.within(i, 0, size), add)


@scatter_add.loops
def _(nest: Loops, x: TensorType, indices: TensorType, updates: TensorType, *, axis: int) -> None:
    """Lines along `axis` are independent; each takes its updates in order, so lanes share the index."""
    size = x.shape[axis]

    def line(place: tuple[Any, ...]) -> None:
        before, after = place[:axis], place[axis:]

        def update(k: tuple[Any, ...]) -> None:
            i = nest.index(as_index(nest.s, nest.read(1, k), indices.dtype, size))
            add_at(nest, (*before, i, *after), i, size, (*before, *k, *after), 2)

        nest.serial(indices.shape, update)

    nest.independent((*x.shape[:axis], *x.shape[axis + 1 :]), line, lanes=axis < x.rank - 1)


@op(
    [
        Sample([(6, 17), (6, 4)], {"axis": 1}, dtypes=(None, i32)),
        Sample([(1,), (1,)], {"axis": 0}, low=0, high=0, dtypes=(None, i32)),
        Sample([(5, 3, 7), (2, 3, 7)], {"axis": 0}, dtypes=(None, i64)),
        Sample([(5, 3, 7), (5, 8, 7)], {"axis": 1}, low=-6, high=6, dtypes=(None, i32)),
        Sample([(4, 33), (4, 1)], {"axis": 1}, low=0, high=1, dtypes=(None, i32)),
    ],
    "movement",
    DTYPES,
)
def take_along(x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
    """Elements of x at per-element positions along `axis`; negative from the end, one out of range reads 0.

    Shapes: x (*before, n, *after), indices (*before, m, *after) -> indices'.
    Errors: DTypeError when the indices are no integers; ShapeError when ranks or the other axes differ.
    """
    _check_along(x, indices, axis)
    return TensorType(x.dtype, indices.shape)


@take_along.numpy
def _(x: np.ndarray, indices: np.ndarray, *, axis: int) -> np.ndarray:
    if not x.shape[axis]:
        return np.zeros(indices.shape, x.dtype)
    where, valid = positions(indices, x.shape[axis])
    out = np.take_along_axis(x, where, axis)
    if not valid.all():
        out[~valid] = 0
    return out


take_along.linear((0,))


@take_along.batch
def _(size: int, mapped: Mapped, x: Node, indices: Node, *, axis: int) -> Node:
    return take_along(*all_mapped(size, mapped, (x, indices)), axis=axis + 1)


@take_along.vjp
def _(ct: Node, out: Node, x: Node, indices: Node, *, axis: int) -> tuple[Node | None, None]:
    return spread(put_along_add, x.type, indices, ct, axis) if x.dtype in NUMBERS else None, None


@take_along.at
def _(r: Reader, index: tuple[Any, ...], x: TensorType, indices: TensorType, *, axis: int) -> Any:
    def read(i: Any) -> Any:
        return r.read(0, (*index[:axis], i, *index[axis + 1 :]))

    return _guarded(r, r.read(1, index), indices, x, axis, read)


@op(
    [
        Sample([(6, 17), (6, 4), (6, 4)], {"axis": 1}, dtypes=(None, i32, None)),
        Sample([(1,), (1,), (1,)], {"axis": 0}, low=0, high=0, dtypes=(None, i32, None)),
        Sample([(5, 3, 7), (2, 3, 7), (2, 3, 7)], {"axis": 0}, dtypes=(None, i64, None)),
        Sample([(5, 3, 7), (5, 8, 7), (5, 8, 7)], {"axis": 1}, low=-6, high=6, dtypes=(None, i32, None)),
        Sample([(4, 5), (4, 33), (4, 33)], {"axis": 1}, low=0, high=1, dtypes=(None, i32, None)),
    ],
    "kernel",
    NUMBERS,
    starts_from=0,
)
def put_along_add(x: TensorType, indices: TensorType, updates: TensorType, *, axis: int) -> TensorType:
    """x plus `updates` at per-element positions along `axis`: repeats add up, one out of range adds nothing.

    The additions happen in the order of the indices, each rounded to the dtype.

    Shapes: x (*before, n, *after), indices and updates (*before, m, *after) -> x's.
    Errors: DTypeError when the indices are no integers or the other dtypes differ; ShapeError when the shapes
            do not fit.
    """
    _check_along(x, indices, axis)
    _check_update(x, updates, indices.shape)
    return x


@put_along_add.numpy
def _(x: np.ndarray, indices: np.ndarray, updates: np.ndarray, *, axis: int) -> np.ndarray:
    size = x.shape[axis]
    last = np.moveaxis(x, axis, -1)
    where, valid = positions(np.moveaxis(indices, axis, -1), size)
    lines = np.arange(prod(last.shape[:-1]), dtype=np.int64).reshape(*last.shape[:-1], 1)
    flat = np.array(last, order="C").reshape(-1)
    np.add.at(flat, (where + lines * size)[valid], np.moveaxis(updates, axis, -1)[valid])
    return np.moveaxis(flat.reshape(last.shape), -1, axis)


put_along_add.linear((0, 2))


@put_along_add.batch
def _(size: int, mapped: Mapped, x: Node, indices: Node, updates: Node, *, axis: int) -> Node:
    return put_along_add(*all_mapped(size, mapped, (x, indices, updates)), axis=axis + 1)


@put_along_add.vjp
def _(ct: Node, out: Node, x: Node, indices: Node, updates: Node, *, axis: int) -> tuple[Node, None, Node]:
    return ct, None, take_along(ct, indices, axis=axis)


@put_along_add.loops
def _(nest: Loops, x: TensorType, indices: TensorType, updates: TensorType, *, axis: int) -> None:
    """Lines along `axis` are independent; each takes its updates in order."""
    size = x.shape[axis]

    def line(place: tuple[Any, ...]) -> None:
        before, after = place[:axis], place[axis:]

        def update(k: tuple[Any, ...]) -> None:
            source = (*before, *k, *after)
            i = nest.index(as_index(nest.s, nest.read(1, source), indices.dtype, size))
            add_at(nest, (*before, i, *after), i, size, source, 2)

        nest.serial((indices.shape[axis],), update)

    nest.independent((*x.shape[:axis], *x.shape[axis + 1 :]), line, lanes=False)
