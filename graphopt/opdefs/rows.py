"""Rows of a table: derivatives that keep only the rows that were read, and updates that touch only those.

`gather_rows` is `gather` along axis 0, but for its derivative: a `row_tensor`, which has the table's type and holds
indices and rows. Whoever updates a table takes it apart; to everybody else it is an ordinary tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node
from graphopt.ir.types import DTYPES, NUMBERS, DType, TensorType, bf16, f16, f32, i32, i64, u32
from graphopt.opdefs.elementwise import add, cast, eq, mul, select, sub
from graphopt.opdefs.index import (
    INDICES,
    add_at,
    add_rows,
    as_index,
    gather,
    own_places,
    own_rows,
    positions,
    scatter_add,
)
from graphopt.opdefs.opdef import Loops, Reader, Sample, all_mapped, constant, full, op, opdef
from graphopt.opdefs.shape import Mapped, concat, iota, reshape, reverse

Values = Callable[[np.random.Generator, DType], list[np.ndarray]]


def _check_rows(table: tuple[int, ...], indices: TensorType, rows: TensorType, place: int) -> None:
    """Indices of axis 0 in one row of memory, and for each a row of the table."""
    if indices.dtype not in INDICES:
        raise DTypeError(f"expects indices of an integer dtype up to i64, found {indices.dtype.short} (input {place})")
    if not table:
        raise ShapeError("expects a table of rows, found a scalar")
    if indices.rank != 1:
        raise ShapeError(f"expects indices along one axis, found rank {indices.rank} (input {place})")
    expected = (indices.shape[0], *table[1:])
    if rows.shape != expected:
        raise ShapeError(f"rows differ in shape: expected {expected}, found {rows.shape} (input {place + 1})")


@op(
    [
        Sample([(45, 17), (6,)], dtypes=(None, i32)),
        Sample([(1,), ()], low=0, high=0, dtypes=(None, i32)),
        Sample([(5, 3, 7), (2, 4)], low=-6, high=6, dtypes=(None, i64)),
        Sample([(4, 5), (33,)], low=0, high=1, dtypes=(None, i32)),
        Sample([(4, 5), (0,)], dtypes=(None, i32)),
    ],
    "movement",
    DTYPES,
)
def gather_rows(x: TensorType, indices: TensorType) -> TensorType:
    """Rows of x at `indices`, as `gather` along axis 0; the derivative is a `row_tensor`.

    Shapes: x (n, *row), indices any -> (*indices.shape, *row).
    Errors: DTypeError when the indices are no integers; ShapeError when x is a scalar.
    """
    return gather.infer(x, indices, axis=0)


@gather_rows.numpy
def _(x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    made: np.ndarray = gather.rules["numpy"](x, indices, axis=0)
    return made


gather_rows.linear((0,))


@gather_rows.batch
def _(size: int, mapped: Mapped, x: Node, indices: Node) -> Node:
    """One table for all examples keeps the derivative that knows its rows."""
    if not mapped[0]:
        return gather_rows(x, indices)
    made: Node = gather.rules["batch"](size, mapped, x, indices, axis=0)
    return made


@gather_rows.vjp
def _(ct: Node, out: Node, x: Node, indices: Node) -> tuple[Node | None, None]:
    """16-bit floats are added in float32, as for `gather`."""
    if x.dtype not in NUMBERS:
        return None, None
    flat = reshape(indices, shape=(indices.type.size,))
    rows = reshape(ct, shape=(indices.type.size, *x.shape[1:]))
    if x.dtype in (f16, bf16):
        return cast(row_tensor(flat, cast(rows, dtype=f32), shape=x.shape), dtype=x.dtype), None
    return row_tensor(flat, rows, shape=x.shape), None


@gather_rows.at
def _(r: Reader, index: tuple[Any, ...], x: TensorType, indices: TensorType) -> Any:
    return gather.rules["at"](r, index, x, indices, axis=0)


@op(
    [
        Sample([(6,), (6, 17)], {"shape": (45, 17)}, dtypes=(i32, None)),
        Sample([(1,), (1,)], {"shape": (1,)}, low=0, high=0, dtypes=(i32, None)),
        Sample([(8,), (8, 3, 7)], {"shape": (5, 3, 7)}, low=-6, high=6, dtypes=(i64, None)),
        Sample([(33,), (33, 5)], {"shape": (4, 5)}, low=0, high=1, dtypes=(i32, None)),
        Sample([(0,), (0, 5)], {"shape": (4, 5)}, dtypes=(i32, None)),
    ],
    "kernel",
    NUMBERS,
)
def row_tensor(indices: TensorType, values: TensorType, *, shape: tuple[int, ...]) -> TensorType:
    """Zeros of a shape with rows added at `indices`: repeats add up, an index out of range adds nothing.

    Shapes: indices (n,), values (n, *shape[1:]) -> shape.
    Errors: DTypeError when the indices are no integers or the values no numbers; ShapeError when shapes do not fit.
    """
    _check_rows(shape, indices, values, 0)
    if values.dtype not in NUMBERS:
        raise DTypeError(f"expects numbers, found {values.dtype.short}")
    return TensorType(values.dtype, tuple(shape))


@row_tensor.numpy
def _(indices: np.ndarray, values: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
    out = np.zeros(shape, values.dtype)
    if out.size:
        add_rows(out, *positions(indices, shape[0]), values)
    return out


row_tensor.linear((1,))


@row_tensor.batch
def _(size: int, mapped: Mapped, indices: Node, values: Node, *, shape: tuple[int, ...]) -> Node:
    zeros = full(shape, 0, values.dtype)
    made: Node = scatter_add.rules["batch"](size, (False, *mapped), zeros, indices, values, axis=0)
    return made


@row_tensor.vjp
def _(ct: Node, out: Node, indices: Node, values: Node, *, shape: tuple[int, ...]) -> tuple[None, Node]:
    return None, gather_rows(ct, indices)


@row_tensor.loops
def _(nest: Loops, indices: TensorType, values: TensorType, *, shape: tuple[int, ...]) -> None:
    """Columns are independent; each takes its rows in order."""
    zero = nest.s.const(0, values.dtype)

    def column(rest: tuple[Any, ...]) -> None:
        nest.each(shape[0], lambda i: nest.store((i, *rest), zero))

        def update(k: tuple[Any, ...]) -> None:
            i = nest.index(as_index(nest.s, nest.read(0, k), indices.dtype, shape[0]))
            add_at(nest, (i, *rest), i, shape[0], (*k, *rest), 1)

        nest.serial(indices.shape, update)

    nest.independent(shape[1:], column, lanes=len(shape) > 1)


def _distinct(rows: int, count: int, rest: tuple[int, ...], low: int = 0) -> Values:
    """A table, indices of which none that is in range repeats, and rows."""

    def values(rng: np.random.Generator, dtype: DType) -> list[np.ndarray]:
        indices = rng.permutation(np.arange(low, rows + 3))[:count]
        arrays = [rng.uniform(-2, 2, (rows, *rest)), indices, rng.uniform(-2, 2, (count, *rest))]
        return [a.astype(i32.numpy if k == 1 else dtype.numpy) for k, a in enumerate(arrays)]

    return values


@op(
    [
        Sample([(45, 17), (6,), (6, 17)], values=_distinct(45, 6, (17,))),
        Sample([(1,), (1,), (1,)], values=_distinct(1, 1, ())),
        Sample([(5, 3, 7), (4,), (4, 3, 7)], values=_distinct(5, 4, (3, 7))),
        Sample([(3, 33), (6,), (6, 33)], values=_distinct(3, 6, (33,))),
        Sample([(9,), (12,), (12,)], values=_distinct(9, 12, ())),
        Sample([(4, 5), (0,), (0, 5)], values=_distinct(4, 0, (5,))),
    ],
    "kernel",
    DTYPES,
    starts_from=0,
)
def scatter_set(x: TensorType, indices: TensorType, rows: TensorType) -> TensorType:
    """x with `rows` in place of its own at `indices`; an index out of range writes nothing.

    Indices that are in range must differ from one another: of two equal ones either row may remain.

    Shapes: x (n, *row), indices (k,), rows (k, *row) -> x's.
    Errors: DTypeError when the indices are no integers or the other dtypes differ; ShapeError when shapes do not fit.
    Cost:   that of the rows alone where the result may lie on x's memory.
    """
    _check_rows(x.shape, indices, rows, 1)
    if x.dtype is not rows.dtype:
        raise DTypeError(f"dtypes differ: {x.dtype.short} (input 0), {rows.dtype.short} (input 2)")
    return x


@scatter_set.numpy
def _(x: np.ndarray, indices: np.ndarray, rows: np.ndarray) -> np.ndarray:
    where, valid = positions(indices, x.shape[0])
    out = x.copy()
    out[where[valid]] = rows[valid]
    return out


scatter_set.linear((0, 2))


@scatter_set.batch
def _(size: int, mapped: Mapped, x: Node, indices: Node, rows: Node) -> Node:
    """The tables of all examples as one, each example's indices into its own rows."""
    x, indices, rows = all_mapped(size, mapped, (x, indices, rows))
    table, places = own_rows(size, x, indices, 1)
    count = indices.type.size
    flat = reshape(rows, shape=(count, *rows.shape[2:]))
    return reshape(scatter_set(table, reshape(places, shape=(count,)), flat), shape=x.shape)


@scatter_set.vjp
def _(ct: Node, out: Node, x: Node, indices: Node, rows: Node) -> tuple[Node, None, Node]:
    return scatter_set(ct, indices, full(rows.shape, 0, rows.dtype)), None, gather(ct, indices, axis=0)


@scatter_set.loops
def _(nest: Loops, x: TensorType, indices: TensorType, rows: TensorType) -> None:
    """Every row by itself."""

    def write(place: tuple[Any, ...]) -> None:
        i = nest.index(as_index(nest.s, nest.read(1, place[:1]), indices.dtype, x.shape[0]))
        nest.when(nest.within(i, 0, x.shape[0]), lambda: nest.store((i, *place[1:]), nest.read(2, place)))

    nest.independent(rows.shape, write, lanes=x.rank > 1)


@op(
    [
        Sample([(33,)], {"size": 7}, low=0, high=6),
        Sample([(1,)], {"size": 1}, low=0, high=0),
        Sample([(64,)], {"size": 20}, low=-25, high=25),
        Sample([(9,)], {"size": 1000}, low=0, high=127),
        Sample([(0,)], {"size": 3}),
    ],
    "kernel",
    INDICES,
)
def first_occurrence(indices: TensorType, *, size: int) -> TensorType:
    """For each index of an axis of `size`, the position of the first that is equal to it.

    Negative ones count from the end; one out of range gives its own position.

    Shapes: indices (n,) -> i32[n].
    Errors: DTypeError when the indices are no integers; ShapeError when they are not along one axis.
    Cost:   O(n): of its `size` integers of scratch memory only those at the indices are touched.
    Source: a set by two arrays that vouch for each other, Briggs and Torczon 1993: what is found in memory that
            nothing was written to is believed only if it points back.
    """
    if indices.dtype not in INDICES:
        raise DTypeError(f"expects indices of an integer dtype up to i64, found {indices.dtype.short}")
    if indices.rank != 1:
        raise ShapeError(f"expects indices along one axis, found rank {indices.rank}")
    return TensorType(i32, indices.shape)


first_occurrence.no_vjp("its result is a position")


@first_occurrence.batch
def _(count: int, mapped: Mapped, indices: Node, *, size: int) -> Node:
    """Indices of all examples into one axis, positions counted from each example's own first."""
    places = reshape(own_places(count, indices, size), shape=(indices.type.size,))
    first = reshape(first_occurrence(places, size=count * size), shape=indices.shape)
    example = iota(shape=indices.shape, axis=0, dtype=i32)
    return sub(first, mul(example, indices.shape[1]))


@first_occurrence.numpy
def _(indices: np.ndarray, *, size: int) -> np.ndarray:
    where, valid = positions(indices, size)
    out = np.arange(indices.size, dtype=np.int32)
    known = np.flatnonzero(valid)
    _, first, group = np.unique(where[valid], return_index=True, return_inverse=True)
    out[known] = known[first[group.reshape(-1)]]
    return out


@first_occurrence.loops
def _(nest: Loops, indices: TensorType, *, size: int) -> None:
    """slot[index] holds the first position, if that position holds the index."""
    s, n = nest.s, indices.shape[0]
    slots = nest.scratch(size, i32)

    def at(k: Any) -> Any:
        return nest.index(as_index(s, nest.read(0, (k,)), indices.dtype, size))

    def one(place: tuple[Any, ...]) -> None:
        k = place[0]
        own = nest.value(k, i32)
        nest.store((k,), own)
        i = at(k)

        def look() -> None:
            held = nest.keep(slots.load(i))
            earlier = s.and_(s.ge(held, s.const(0, i32)), s.lt(held, own))
            position = nest.keep(s.select(earlier, held, own))
            same = nest.within(at(nest.index(position)) - i, 0, 1)
            first = nest.keep(s.select(same, position, own))
            nest.store((k,), first)
            slots.store(i, first)

        nest.when(nest.within(i, 0, size), look)

    nest.independent((), lambda _: nest.serial((n,), one), lanes=False)


# what derivatives and updates are made of


def as_rows(node: Node) -> Node | None:
    """The `row_tensor` that a node is, also through changes of dtype; None for any other node."""
    if node.op == "row_tensor":
        return node
    if node.op not in ("cast", "alias", "stop_gradient"):
        return None
    inner = as_rows(node.inputs[0])
    if inner is None or inner.dtype is node.dtype:
        return inner
    indices, values = inner.inputs
    return row_tensor(indices, cast(values, dtype=node.dtype), shape=node.shape)


def joined_rows(parts: Sequence[Node]) -> Node:
    """The sum of `row_tensor` nodes of one type: all their rows."""
    kinds = {p.inputs[0].dtype for p in parts}
    common = kinds.pop() if len(kinds) == 1 else i64 if kinds & {i64, u32} else i32
    indices = [p.inputs[0] if p.inputs[0].dtype is common else cast(p.inputs[0], dtype=common) for p in parts]
    values = [p.inputs[1] for p in parts]
    return row_tensor(concat(*indices, axis=0), concat(*values, axis=0), shape=parts[0].shape)


def added(parts: Sequence[Node]) -> Node:
    """The sum of some nodes of one type: what is scattered onto zeros is scattered onto the rest, so that a few rows
    do not cost as much as the whole.
    """
    changed = any(p.inputs and opdef(p.op).starts_from is not None for p in map(_stored, parts))
    few = [p for p in parts if _scattered(p) or (changed and _padded(p))]
    rest = [p for p in parts if p not in few] or few[:1]
    total = rest[0]
    for part in rest[1:]:
        total = add(total, part)
    for part in few if rest[0] not in few else few[1:]:
        total = _onto(total, part)
    return total


def _stored(node: Node) -> Node:
    while node.op == "reshape":
        node = node.inputs[0]
    return node


def _padded(node: Node) -> bool:
    """Whether a node is little in the midst of many zeros."""
    if node.op != "pad" or node.inputs[0].type.size * 4 > node.type.size or any(node.attrs["interior"]):
        return False
    zero = node.inputs[1]
    return zero.op == "constant" and not zero.attrs["value"].any() and min(*node.attrs["low"], *node.attrs["high"]) >= 0


def _scattered(node: Node) -> bool:
    """Whether a node is zeros with something scattered onto them."""
    if node.op == "row_tensor":
        return True
    some = False
    while node.op in ("scatter_add", "reshape"):
        some |= node.op == "scatter_add"
        node = node.inputs[0]
    return some and node.op == "broadcast" and node.inputs[0].op == "constant" and not node.inputs[0].attrs["value"].any()


def _onto(total: Node, part: Node) -> Node:
    """total + part, for a part that is scattered onto zeros."""
    if part.op == "row_tensor":
        return scatter_add(total, *part.inputs, axis=0)
    if part.op == "pad":
        return _onto_cut(total, part.inputs[0], part.attrs["low"])
    if part.op == "reshape":
        inner = part.inputs[0]
        return reshape(_onto(reshape(total, shape=inner.shape), inner), shape=part.shape)
    if part.op != "scatter_add":
        return total
    return scatter_add(_onto(total, part.inputs[0]), *part.inputs[1:], **part.attrs)


def _onto_cut(total: Node, part: Node, low: tuple[int, ...]) -> Node:
    """total with `part` added to what begins at `low`; the last axes that it fills are rows."""
    rank = total.type.rank
    while rank and part.shape[rank - 1] == total.shape[rank - 1]:
        rank -= 1
    places = np.zeros((), np.int64)
    for start, n, size in zip(low[:rank], part.shape, total.shape, strict=False):
        places = places[..., None] * size + np.arange(start, start + n)
    row = total.shape[rank:]
    table = reshape(total, shape=(prod(total.shape[:rank]), *row))
    rows = reshape(part, shape=(places.size, *row))
    return reshape(scatter_add(table, constant(places.reshape(-1)), rows, axis=0), shape=total.shape)


def rows_of_either(parts: Sequence[Node | None], like: Node) -> list[tuple[Node, Node]] | None:
    """(indices, rows) of each of several gradients of `like`, all of one type: those of a shorter one, or of None, are
    followed by rows of zeros at `no_row`. None when some gradient is no `row_tensor`.
    """
    found = [None if p is None else as_rows(p) for p in parts]
    if any(r is None and p is not None for p, r in zip(parts, found, strict=True)):
        return None
    size = like.shape[0]
    given = [None if r is None else (numbered(r.inputs[0], size), r.inputs[1]) for r in found]
    wide = i64 if any(g is not None and g[0].dtype is i64 for g in given) else i32
    count = max(g[0].shape[0] for g in given if g is not None)
    result: list[tuple[Node, Node]] = []
    for g in given:
        missing = count - (0 if g is None else g[0].shape[0])
        indices = [] if g is None else [g[0] if g[0].dtype is wide else cast(g[0], dtype=wide)]
        rows = [] if g is None else [g[1]]
        indices.append(full((missing,), no_row(wide), wide))
        rows.append(full((missing, *like.shape[1:]), 0, like.dtype))
        result.append((concat(*indices, axis=0), concat(*rows, axis=0)))
    return result


def no_row(dtype: DType) -> int:
    """The index that means none: the least of its dtype, which also counted from the end is out of range."""
    return int(np.iinfo(dtype.numpy).min)


def numbered(indices: Node, size: int) -> Node:
    """The indices in a dtype that has room for `size` itself."""
    wide = i64 if size > 2**31 - 1 or indices.dtype in (i64, u32) else i32
    return indices if indices.dtype is wide else cast(indices, dtype=wide)


def distinct_rows(indices: Node, values: Node, size: int) -> tuple[Node, Node]:
    """(indices, rows) with the rows of equal indices added up at the first of them; the others become `size`, which
    is out of range.
    """
    at = numbered(indices, size)
    first = first_occurrence(at, size=size)
    kept = eq(first, iota(shape=first.shape, axis=0, dtype=i32))
    rows = scatter_add(full(values.shape, 0, values.dtype), first, values, axis=0)
    return select(kept, at, full(at.shape, size, at.dtype)), rows


def last_rows(indices: Node, size: int) -> Node:
    """The indices, with `size`, which is out of range, for each that comes again later."""
    at = numbered(indices, size)
    first = first_occurrence(reverse(at, axes=(0,)), size=size)
    kept = eq(first, iota(shape=first.shape, axis=0, dtype=i32))
    return select(reverse(kept, axes=(0,)), at, full(at.shape, size, at.dtype))


__all__ = [
    "added",
    "as_rows",
    "distinct_rows",
    "first_occurrence",
    "gather_rows",
    "joined_rows",
    "last_rows",
    "no_row",
    "numbered",
    "row_tensor",
    "rows_of_either",
    "scatter_set",
]
