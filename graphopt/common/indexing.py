"""Indexing: `x[...]` and `x[...] = v` as numpy does them, on values and in traces.

Positions may be ints, slices, None, Ellipsis, integer arrays and Tensors. Bool masks decide a shape, so they need a value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.common.arithmetic import method
from graphopt.common.dtype import bool_
from graphopt.common.tensor import Tensor, to_tensor, wrap_node
from graphopt.common.trace import Trace, active, needs_value
from graphopt.errors import layout
from graphopt.ir.graph import Node
from graphopt.ir.types import i32, i64
from graphopt.opdefs.bits import logical_and, logical_or
from graphopt.opdefs.elementwise import add, cast, ge, lt, mul, select
from graphopt.opdefs.index import gather
from graphopt.opdefs.opdef import broadcast_together, constant, full
from graphopt.opdefs.reduce import reduce_and
from graphopt.opdefs.rows import last_rows, numbered, scatter_set
from graphopt.opdefs.shape import broadcast, reshape, reverse, slice_, transpose
from graphopt.where import here

MASK = "choose with ops.select(mask, a, b) or ops.where, which keep the shape; bool masks work in PYNATIVE_MODE"


@dataclass(frozen=True)
class _Plan:
    """An index in two steps: slices on every axis, then integer arrays on some of the axes that are left.

    start, stop, step: per axis; reversed_axes: axes with a negative step (start..stop already turned round).
    kept:     the shape after dropping the axes of ints and adding those of None.
    arrays:   axis of `kept` -> positions (numpy array or Node), at least one for an advanced index.
    adjacent: whether the arrays stand side by side, so that their axes stay where they were.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]
    step: tuple[int, ...]
    reversed_axes: tuple[int, ...]
    kept: tuple[int, ...]
    arrays: dict[int, Any]
    adjacent: bool


@method("__getitem__")
def getitem(self: Tensor, index: Any) -> Tensor:
    """Part of the tensor.

    Errors: IndexError for a position out of range, too many indices or an index of another type;
            TraceError for a bool mask whose values are not known.
    """
    trace = active()
    items = _items(index)
    _check_kinds(items)
    if trace is None or not _traced(self, items, trace):
        values = tuple(_plain(item) for item in items)
        return to_tensor(_part(self._value("indexing"), values))
    plan = _plan(self, _expanded(items, self, trace), trace)
    return wrap_node(_take(trace.node_of(self), plan), trace)


def _part(array: np.ndarray, values: Any) -> np.ndarray:
    try:
        return np.asarray(array[values])
    except IndexError as error:
        raise IndexError(f"index: {error}; the shape is {array.shape}") from None


@method("__setitem__")
def setitem(self: Tensor, index: Any, value: Any) -> None:
    """Replace part of the tensor; inside a trace the name stands for the changed tensor from here on.

    A position in a trace that is out of range is an error before the run where it is an argument, or made of one by
    moving it; else after the run, and no Parameter has changed.

    Errors: as `getitem`; ValueError when `value` does not broadcast to the part; RuntimeError.
    """
    trace = active()
    items = _items(index)
    _check_kinds(items)
    source = to_tensor(value)
    if trace is None or not (_traced(self, items, trace) or trace.knows(source) or source._is_parameter):
        target = self._value("item assignment")
        if not target.flags.writeable:
            target = self._array = target.copy()
        target[tuple(_plain(item) for item in items)] = source._value("item assignment").astype(target.dtype)
        self._changed()
        return
    made = _written(trace.node_of(self), trace.node_of(source.astype(self.dtype)), self, items, trace)
    self._assign(wrap_node(trace.compute([made])[0], trace))


def _written(x: Node, value: Node, tensor: Tensor, items: Sequence[Any], trace: Trace) -> Node:
    """x with a part replaced; of repeated positions the last one counts."""
    mask = items[0] if len(items) == 1 else None
    if isinstance(mask, Tensor) and mask.dtype is bool_ and mask._array is None:
        return _where_masked(x, value, trace.node_of(mask))
    part = _Part(x.shape, _expanded(items, tensor, trace), trace)
    value = broadcast_to_shape(value, part.shape)
    count = len(part.places) if isinstance(part.places, np.ndarray) else part.places.type.size
    value = reshape(value, shape=(count, *part.row))
    places = part.places
    if isinstance(places, np.ndarray):
        positions, last = np.unique(places[::-1], return_index=True)
        if not np.array_equal(positions, places):
            value = gather(value, constant(places.size - 1 - last), axis=0)
        places = constant(positions.astype(np.int32 if part.total < 2**31 else np.int64))
    elif part.repeats:
        places = last_rows(places, part.total)
    if part.total == places.type.size == 1 and places.op == "constant":
        return reshape(value, shape=x.shape)
    table = reshape(x, shape=(part.total, *part.row))
    return reshape(scatter_set(table, places, value), shape=x.shape)


def _where_masked(x: Node, value: Node, mask: Node) -> Node:
    """x with `value` where a mask over its first axes holds.

    Errors: IndexError when the mask does not fit; ValueError when the value has a row for each element that is chosen.
    """
    if mask.shape != x.shape[: mask.type.rank]:
        raise IndexError(f"index: a mask of shape {mask.shape} does not fit a tensor of shape {x.shape}")
    rest = x.shape[mask.type.rank :]
    value = broadcast_to_shape(value, rest)
    axes = range(x.type.rank)
    value = broadcast(value, shape=x.shape, axes=tuple(axes[mask.type.rank :]))
    return select(broadcast(mask, shape=x.shape, axes=tuple(axes[: mask.type.rank])), value, x)


class _Part:
    """The part of a tensor that an index means, as rows of a table: the last axes that are taken whole are the row, those
    before them are one axis of `total` positions.

    shape:   of the part, as numpy has it.
    places:  the positions of its rows in row-major order; known, or a node.
    repeats: whether a position may come twice.
    """

    def __init__(self, sizes: tuple[int, ...], items: Sequence[Any], trace: Trace):
        rank = len(sizes)
        items = [_plain(i) if isinstance(i, slice) else i for i in items]
        while items and isinstance(items[-1], slice) and range(sizes[rank - 1])[items[-1]] == range(sizes[rank - 1]):
            items.pop()
            rank -= 1
        self.row = sizes[rank:]
        self._sizes = sizes[:rank]
        self.total = int(np.prod(self._sizes, dtype=np.int64))
        self._lead: list[int] = []
        found = self._along_axes(items)
        self.shape = (*self._lead, *self.row)
        nodes = {axis: n for axis, n in found.items() if isinstance(n, Node)}
        self.repeats = any(n.type.size > 1 for n in nodes.values())
        wide = {axis: numbered(n, self.total) for axis, n in nodes.items()}
        for axis, positions in wide.items():
            _see_to_range(nodes[axis], positions, self._sizes[axis], axis, trace)
        self.places: Any
        if len(wide) == len(found) == 1 and math.prod(self._lead) == wide[0].type.size:
            self.places = reshape(wide[0], shape=(wide[0].type.size,))
        else:
            self.places = self._merged({axis: p for axis, p in found.items() if isinstance(p, np.ndarray)}, wide)

    def _along_axes(self, items: Sequence[Any]) -> dict[int, Any]:
        """axis -> its positions in the part, shaped so that all broadcast to the part's shape without the row."""
        arrays = [i for i in items if isinstance(i, (Node, np.ndarray))]
        indexed = [k for k, i in enumerate(items) if i is not None and not isinstance(i, slice)] if arrays else []
        block = np.broadcast_shapes(*[a.shape for a in arrays])
        at = -1
        if indexed and indexed[-1] - indexed[0] >= len(indexed):  # numpy's rule: arrays that stand apart go first
            at, self._lead = 0, [*block]
        placed: list[tuple[Any, int]] = []
        for k, item in enumerate(items):
            size = 0 if item is None else self._sizes[len(placed)]
            if item is None:
                self._lead.append(1)
            elif isinstance(item, slice):
                placed.append((np.arange(size)[item], len(self._lead)))
                self._lead.append(len(placed[-1][0]))
            else:
                if at < 0 and k in indexed:
                    at = len(self._lead)
                    self._lead += block
                known = item if isinstance(item, Node) else _checked(np.asarray(item), size, len(placed))
                placed.append((known, at + len(block) - len(known.shape)))
        found = {}
        for axis, (positions, first) in enumerate(placed):
            shape = (*positions.shape, *[1] * (len(self._lead) - first - len(positions.shape)))
            shape = shape if positions.shape else ()
            if positions.shape != shape:
                positions = reshape(positions, shape=shape) if isinstance(positions, Node) else positions.reshape(shape)
            found[axis] = positions
        return found

    def _merged(self, known: dict[int, np.ndarray], nodes: dict[int, Node]) -> Any:
        """Row-major positions; what a node has out of range becomes `total`, out of range too."""
        strides = [math.prod(self._sizes[axis + 1 :]) for axis in range(len(self._sizes))]
        lead = tuple(self._lead)
        flat = np.zeros(lead, np.int64) + sum(p * strides[axis] for axis, p in known.items())
        if not nodes:
            return flat.reshape(-1)
        dtype = i64 if any(n.dtype is i64 for n in nodes.values()) else i32
        total, outside = constant(flat.astype(dtype.numpy)), full(lead, 0, bool_)
        for axis, node in nodes.items():
            n = self._sizes[axis]
            at = broadcast_to_shape(node if node.dtype is dtype else cast(node, dtype=dtype), lead)
            outside = logical_or(outside, logical_or(lt(at, -n), ge(at, n)))
            total = add(total, mul(select(lt(at, 0), add(at, n), at), strides[axis]))
        places = select(outside, full(lead, self.total, dtype), total)
        return reshape(places, shape=(places.type.size,))


def _see_to_range(node: Node, positions: Node, n: int, axis: int, trace: Trace) -> None:
    """An IndexError for positions out of range: now, before every run, or a RuntimeError after it."""

    def check(values: np.ndarray) -> None:
        _checked(values, n, axis)

    if (trace.certain and trace.check_value(node, check)) or trace.concrete or trace.within(node, -n, n):
        return
    inside = logical_and(ge(positions, -n), lt(positions, n))
    flag = reduce_and(inside, axes=tuple(range(inside.type.rank)))
    what = f"item assignment: a position is out of range for axis {axis} of size {n}"
    trace.results.append((flag, layout(what, here())))


def broadcast_to_shape(x: Node, shape: tuple[int, ...]) -> Node:
    """x broadcast to a shape; leading axes of size 1 that are too many are dropped, as numpy's assignment does."""
    while x.type.rank > len(shape) and x.shape[0] == 1:
        x = reshape(x, shape=x.shape[1:])
    both = broadcast_together("item assignment", [x, full(shape, 0, x.dtype)])
    if both[0].shape != shape:
        raise ValueError(f"item assignment: cannot broadcast shape {x.shape} to {shape}")
    return both[0]


def _items(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def _check_kinds(items: Sequence[Any]) -> None:
    for item in items:
        if item is None or item is Ellipsis or isinstance(item, (int, slice, list, np.ndarray, np.integer, np.bool_)):
            continue
        if isinstance(item, Tensor):
            if item.dtype.is_float:
                raise IndexError(f"index: an index tensor must hold integers or bools, found {item.dtype!r}")
            continue
        expected = "int, slice, None, Ellipsis, list, numpy array or Tensor"
        raise IndexError(f"index: expected {expected}, found {item!r} of type {type(item).__name__}")


def _traced(self: Tensor, items: Sequence[Any], trace: Trace) -> bool:
    return any(isinstance(t, Tensor) and (trace.knows(t) or t._is_parameter) for t in (self, *items))


def _plain(item: Any) -> Any:
    """The index as numpy takes it."""
    if isinstance(item, Tensor):
        value = item._value("indexing with a tensor")
        return value if item.ndim or item.dtype is bool_ else int(value)
    if isinstance(item, list):
        return np.array([_plain(i) for i in item]) if item else np.array([], np.int64)
    if isinstance(item, slice):
        return slice(*(_plain(p) if isinstance(p, Tensor) else p for p in (item.start, item.stop, item.step)))
    return item


def _expanded(items: Sequence[Any], x: Tensor, trace: Trace) -> list[Any]:
    """One item for each axis (and None for new axes): Ellipsis filled in, masks as integer arrays, tensors as nodes."""
    result: list[Any] = []
    for item in items:
        if isinstance(item, (list, np.ndarray, Tensor, bool, np.bool_)):
            result.extend(_positions(item, trace))
        else:
            result.append(item)
    used = sum(1 for item in result if item is not None and item is not Ellipsis)
    if used > x.ndim:
        raise IndexError(f"index: too many indices for a tensor of {x.ndim} axes: {used}")
    if sum(1 for item in result if item is Ellipsis) > 1:
        raise IndexError("index: at most one Ellipsis can stand in an index")
    rest = [slice(None)] * (x.ndim - used)
    for k, item in enumerate(result):
        if item is Ellipsis:
            return result[:k] + rest + result[k + 1 :]
    return result + rest


def _positions(item: Any, trace: Trace) -> list[Any]:
    """An array-like index as integer positions; a mask becomes one array for each of its axes."""
    if isinstance(item, Tensor) and item._array is None:
        if item.dtype is bool_:
            raise needs_value("indexing with a bool mask", item, MASK)
        return [trace.node_of(item)]
    if isinstance(item, Tensor) and trace.knows(item) and item.dtype is not bool_:
        return [trace.node_of(item)]
    array = np.asarray(_plain(item))
    if array.dtype != bool:
        return [array]
    if array.ndim == 0:
        return [None, np.zeros(int(array), np.int64)]
    return list(np.nonzero(array))


def _plan(x: Tensor, items: Sequence[Any], trace: Trace) -> _Plan:
    start, stop, step, turned = [], [], [], []
    kept: list[int] = []
    arrays: dict[int, Any] = {}
    axis = 0
    if any(isinstance(item, (Node, np.ndarray)) for item in items):  # an int beside arrays is one, as in numpy
        items = [np.asarray(i) if isinstance(i, (int, np.integer)) else i for i in items]
    for item in items:
        if item is None:
            kept.append(1)
            continue
        n = x.shape[axis]
        if isinstance(item, (Node, np.ndarray)):
            arrays[len(kept)] = item if isinstance(item, Node) else _checked(item, n, axis)
            begin, end, stride = 0, n, 1
            kept.append(n)
        elif isinstance(item, slice):
            begin, end, stride = _plain(item).indices(n)
            count = len(range(begin, end, stride))
            if stride < 0:
                turned.append(axis)
                begin, end, stride = (begin + stride * (count - 1), begin + 1, -stride) if count else (0, 0, 1)
            kept.append(count)
            end = max(begin, end)
        else:
            begin = int(_checked(np.asarray(int(item)), n, axis))
            end, stride = begin + 1, 1
        start.append(begin)
        stop.append(end)
        step.append(stride)
        axis += 1
    axes = sorted(arrays)
    adjacent = not axes or axes == list(range(axes[0], axes[-1] + 1))
    return _Plan(tuple(start), tuple(stop), tuple(step), tuple(turned), tuple(kept), arrays, adjacent)


def _checked(positions: np.ndarray, n: int, axis: int) -> np.ndarray:
    """Positions counted from the front.

    Errors: IndexError when one is out of range.
    """
    bad = (positions < -n) | (positions >= n)
    if np.any(bad):
        worst = int(positions[bad].flat[0]) if positions.ndim else int(positions)
        raise IndexError(f"index {worst} is out of range for axis {axis} of size {n}")
    return np.where(positions < 0, positions + n, positions)


def _take(x: Node, plan: _Plan) -> Node:
    """The part of x that a plan describes."""
    if (plan.start, plan.stop, plan.step) != ((0,) * x.type.rank, x.shape, (1,) * x.type.rank):
        x = slice_(x, start=plan.start, stop=plan.stop, step=plan.step)
    if plan.reversed_axes:
        x = reverse(x, axes=plan.reversed_axes)
    if x.shape != plan.kept:
        x = reshape(x, shape=plan.kept)
    return _gather(x, plan) if plan.arrays else x


def _gather(x: Node, plan: _Plan) -> Node:
    """Integer arrays on some axes: those axes become one, gathered by the position within them all."""
    axes = sorted(plan.arrays)
    arrays = [a if isinstance(a, Node) else constant(a.astype(np.int64)) for a in (plan.arrays[k] for k in axes)]
    first = axes[0] if plan.adjacent else 0
    others = [k for k in range(x.type.rank) if k not in axes]
    before = [k for k in others if k < first] if plan.adjacent else []
    perm = (*before, *axes, *(k for k in others if k not in before))
    if perm != tuple(range(x.type.rank)):
        x = transpose(x, perm=perm)
    if len(axes) == 1:
        return gather(x, arrays[0], axis=len(before))
    sizes = x.shape[len(before) : len(before) + len(axes)]
    total = 1
    for n in sizes:
        total *= n
    merged = reshape(x, shape=(*x.shape[: len(before)], total, *x.shape[len(before) + len(axes) :]))
    return gather(merged, _linear(arrays, sizes), axis=len(before))


def _linear(arrays: Sequence[Node], sizes: Sequence[int]) -> Node:
    """Row-major positions from one array of positions for each axis; negative ones count from the end."""
    total: Node | None = None
    for positions, n in zip(arrays, sizes, strict=True):
        wide = positions if positions.dtype is i64 else cast(positions, dtype=i64)
        if positions.op != "constant":
            wide = select(lt(wide, 0), add(wide, n), wide)
        total = wide if total is None else add(mul(total, n), wide)
    assert total is not None
    return total
