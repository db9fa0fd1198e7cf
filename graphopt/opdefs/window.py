"""Sliding windows over the trailing axes: sums, maxima, the place of the maximum; pooling written with them.

The three ops read every element of a window explicitly, so they are meant for small windows. The builders
`window_sum` and `window_max` take any window: beyond `LARGEST` elements they work axis by axis and by halves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node
from graphopt.ir.types import NUMBERS, DType, TensorType, f32, i32
from graphopt.opdefs.conv import Padding, dilated
from graphopt.opdefs.elementwise import add, mul
from graphopt.opdefs.index import put_along_add, spread, take_along
from graphopt.opdefs.linalg import accumulator
from graphopt.opdefs.opdef import OpDef, Reader, Sample, all_mapped, broadcast_to, constant, op
from graphopt.opdefs.reduce import reduce_sum
from graphopt.opdefs.shape import pad, reshape, slice_

LARGEST = 64  # elements of a window that is read at once
SHORT = 8  # elements of a window along one axis that is not halved
Sizes = tuple[int, ...]


def _attrs(window: Sizes, **changes: Any) -> dict[str, Any]:
    ones = (1,) * len(window)
    return {
        "window": window,
        "strides": ones,
        "padding": ((0, 0),) * len(window),
        "dilation": ones,
        **changes,
    }


def _ties_and_nans(rng: np.random.Generator, dtype: DType) -> list[np.ndarray]:
    """Few different values, so that windows have several maxima; for floats also several NaNs in a window."""
    x = rng.integers(0, 3, (2, 6, 9)).astype(dtype.numpy)
    if dtype.is_float:
        x[0, 1, 2:5] = x[0, 2, 3] = np.nan
        x[1, 0, :4] = -np.inf
    return [x]


SAMPLES = (
    Sample([(2, 3, 9, 8)], _attrs((3, 2), strides=(2, 2))),
    Sample([(1,)], _attrs((1,))),
    Sample([()], _attrs(())),
    Sample([(2, 7, 5)], _attrs((3, 3), padding=((1, 1), (1, 1)), strides=(2, 1))),
    Sample([(3, 11)], _attrs((3,), dilation=(3,), padding=((2, 0),))),
    Sample([(2, 4, 5, 3)], _attrs((2, 2, 2), padding=((0, 1), (1, 0), (0, 0)))),
    Sample([(1, 2, 6, 7)], _attrs((2, 3), strides=(3, 4))),
    Sample([(2, 33)], _attrs((5,), strides=(2,), padding=((2, 2),)), low=0, high=1),
    Sample([(2, 6, 9)], _attrs((3, 4), padding=((1, 1), (3, 0))), values=_ties_and_nans),
)


def _out_sizes(
    sizes: Sequence[int], window: Sizes, strides: Sizes, padding: Padding, dilation: Sizes
) -> list[int]:
    spans = (dilated(k, d) for k, d in zip(window, dilation, strict=True))
    return [
        (n + lo + hi - span) // s + 1
        for n, span, s, (lo, hi) in zip(sizes, spans, strides, padding, strict=True)
    ]


def _infer(x: TensorType, window: Sizes, strides: Sizes, padding: Padding, dilation: Sizes) -> TensorType:
    rank = len(window)
    if rank > x.rank:
        raise ShapeError(f"a window of {rank} axes does not fit into {x.rank} axes")
    for name, values in (("strides", strides), ("padding", padding), ("dilation", dilation)):
        if len(values) != rank:
            raise ShapeError(f"{name} has {len(values)} entries, window has {rank}")
    for name, steps in (("window", window), ("strides", strides), ("dilation", dilation)):
        if any(n < 1 for n in steps):
            raise ShapeError(f"{name} must be positive, found {steps}")
    if any(n < 0 for side in padding for n in side):
        raise ShapeError(f"padding must not be negative, found {padding}")
    lead = x.rank - rank
    for k, (size, side) in enumerate(zip(x.shape[lead:], padding, strict=True)):
        span, room = dilated(window[k], dilation[k]), size + sum(side)
        if span > room:
            raise ShapeError(
                f"the window exceeds the padded input: {span} (dilated), {room} (axis {lead + k}, padded)"
            )
    return x.with_shape((*x.shape[:lead], *_out_sizes(x.shape[lead:], window, strides, padding, dilation)))


@op(SAMPLES, "movement", NUMBERS)
def reduce_window_sum(
    x: TensorType, *, window: Sizes, strides: Sizes, padding: Padding, dilation: Sizes
) -> TensorType:
    """Sum of each window over the trailing axes; padding counts as 0. 16-bit floats are summed in float32.

    Shapes: x (*lead, *sizes), as many sizes as window has entries -> (*lead, *out), where an axis of out has
            (padded - extent of the dilated window) // stride + 1 elements.
    Errors: ShapeError when an attribute does not fit the window or the window exceeds the padded input.
    Cost:   code grows with the window: `window_sum` splits large ones.
    """
    return _infer(x, window, strides, padding, dilation)


@op(SAMPLES, "movement", NUMBERS)
def reduce_window_max(
    x: TensorType, *, window: Sizes, strides: Sizes, padding: Padding, dilation: Sizes
) -> TensorType:
    """Maximum of each window over the trailing axes; padding counts as the least value, NaN wins.

    The derivative goes to the first maximum of the window in row-major order.

    Shapes: as reduce_window_sum.
    Errors: ShapeError as reduce_window_sum.
    Cost:   code grows with the window: `window_max` splits large ones.
    """
    return _infer(x, window, strides, padding, dilation)


@op(SAMPLES, "movement", NUMBERS)
def window_argmax(
    x: TensorType, *, window: Sizes, strides: Sizes, padding: Padding, dilation: Sizes
) -> TensorType:
    """Where each window has its maximum: the row-major position in the plane of the trailing axes, i32.

    The first of equal maxima; the first NaN wins. A window of padding alone gives the plane's size, which
    `take_along` reads as 0 and `put_along_add` drops.

    Shapes: as reduce_window_sum.
    Errors: ShapeError as reduce_window_sum.
    """
    return _infer(x, window, strides, padding, dilation).with_dtype(i32)


window_argmax.no_vjp("positions are integers")
reduce_window_sum.linear()


def _window_batch(op: OpDef) -> None:
    """Windows cover trailing axes, so examples are one more leading axis."""

    @op.batch
    def _(size: int, mapped: tuple[bool, ...], *inputs: Node, **attrs: Any) -> Node:
        return op(*all_mapped(size, mapped, inputs), **attrs)


for _op in (reduce_window_sum, reduce_window_max, window_argmax):
    _window_batch(_op)


def lowest(dtype: DType) -> float:
    """The neutral value of a maximum."""
    return -float("inf") if dtype.is_float else int(np.iinfo(dtype.numpy).min)


def _slices(
    x: np.ndarray, window: Sizes, strides: Sizes, padding: Padding, dilation: Sizes, fill: Any
) -> Iterator[np.ndarray]:
    """For each element of the window in row-major order, the view that holds it for all windows at once."""
    lead = x.ndim - len(window)
    out = _out_sizes(x.shape[lead:], window, strides, padding, dilation)
    everything = (slice(None),) * lead
    if any(map(any, padding)):
        x = np.pad(x, ((0, 0),) * lead + tuple(padding), constant_values=fill)
    for offsets in product(*map(range, window)):
        starts = [k * d for k, d in zip(offsets, dilation, strict=True)]
        inside = [slice(a, a + dilated(n, s), s) for a, n, s in zip(starts, out, strides, strict=True)]
        yield np.asarray(x[(*everything, *inside)])


@reduce_window_sum.numpy
def _(x: np.ndarray, **attrs: Any) -> np.ndarray:
    parts = _slices(x, fill=0, **attrs)
    total = next(parts).astype(accumulator(x.dtype), copy=True)
    for part in parts:
        total += part
    return total


@reduce_window_max.numpy
def _(x: np.ndarray, **attrs: Any) -> np.ndarray:
    parts = _slices(x, fill=_lowest_of(x), **attrs)
    best = np.array(next(parts))
    for part in parts:
        np.maximum(best, part, out=best)
    return best


def _lowest_of(x: np.ndarray) -> Any:
    return np.iinfo(x.dtype).min if x.dtype.kind in "iu" else np.array(-np.inf, x.dtype)


@window_argmax.numpy
def _(x: np.ndarray, *, window: Sizes, **attrs: Any) -> np.ndarray:
    sizes = x.shape[x.ndim - len(window) :]
    plane = prod(sizes)
    places = _slices(np.arange(plane, dtype=np.int32).reshape(sizes), window, fill=plane, **attrs)
    best: Any = None
    for value, flat in zip(_slices(x, window, fill=_lowest_of(x), **attrs), places, strict=True):
        place = np.broadcast_to(flat, value.shape)
        if best is None:
            best, position = value, place
            continue
        better = (place < plane) & (
            (position == plane) | (value > best) | ((value != value) & (best == best))
        )
        best, position = np.where(better, value, best), np.where(better, place, position)
    return np.asarray(position)


Visit = Callable[[int, tuple[Any, ...], Any], None]


def _visit(
    r: Reader, index: tuple[Any, ...], x: TensorType, visit: Visit, *, window: Sizes, **attrs: Any
) -> None:
    """Call `visit(number, source index, condition)` for each element of the window that `index` belongs to.

    condition: a bool value, or None where the element is inside the input whatever the index.
    """
    lead = x.rank - len(window)
    strides, padding, dilation = attrs["strides"], attrs["padding"], attrs["dilation"]
    out = _out_sizes(x.shape[lead:], window, strides, padding, dilation)
    for number, offsets in enumerate(product(*map(range, window))):
        source: list[Any] = list(index[:lead])
        condition: Any = None
        for k, offset in enumerate(offsets):
            shift = offset * dilation[k] - padding[k][0]
            place = index[lead + k] * strides[k] + shift
            size = x.shape[lead + k]
            source.append(place)
            if shift < 0 or (out[k] - 1) * strides[k] + shift >= size:
                inside = r.within(place, 0, size)
                condition = inside if condition is None else r.s.and_(condition, inside)
        visit(number, tuple(source), condition)


def _read(r: Reader, source: tuple[Any, ...], condition: Any, other: Any) -> Any:
    return r.read(0, source) if condition is None else r.guard(condition, lambda: r.read(0, source), other)


@reduce_window_sum.at
def _(r: Reader, index: tuple[Any, ...], x: TensorType, **attrs: Any) -> Any:
    s = r.s
    work = f32 if x.dtype.is_float and x.dtype.bits == 16 else x.dtype
    total: list[Any] = []

    def visit(number: int, source: tuple[Any, ...], condition: Any) -> None:
        value = s.cast(_read(r, source, condition, s.const(0, x.dtype)), work)
        total[:] = [s.add(total[0], value) if total else value]

    _visit(r, index, x, visit, **attrs)
    return s.cast(total[0], x.dtype)


@reduce_window_max.at
def _(r: Reader, index: tuple[Any, ...], x: TensorType, **attrs: Any) -> Any:
    s = r.s
    best: list[Any] = []

    def visit(number: int, source: tuple[Any, ...], condition: Any) -> None:
        value = _read(r, source, condition, s.const(lowest(x.dtype), x.dtype))
        best[:] = [s.max(best[0], value) if best else value]

    _visit(r, index, x, visit, **attrs)
    return best[0]


@window_argmax.at
def _(r: Reader, index: tuple[Any, ...], x: TensorType, **attrs: Any) -> Any:
    s = r.s
    sizes = x.shape[x.rank - len(attrs["window"]) :]
    plane = prod(sizes)
    nowhere = s.const(plane, i32)
    best: list[Any] = []

    def visit(number: int, source: tuple[Any, ...], condition: Any) -> None:
        flat: Any = 0
        for place, size in zip(source[x.rank - len(sizes) :], sizes, strict=True):
            flat = place if isinstance(flat, int) else flat * size + place
        position = r.value(flat, i32) if sizes else s.const(0, i32)
        value = _read(r, source, condition, s.const(lowest(x.dtype), x.dtype))
        if not best:
            best[:] = [value, position if condition is None else s.select(condition, position, nowhere)]
            return
        better = s.or_(s.eq(best[1], nowhere), s.gt(value, best[0]))
        if x.dtype.is_float:
            better = s.or_(better, s.and_(s.ne(value, value), s.eq(best[0], best[0])))
        if condition is not None:
            better = s.and_(better, condition)
        best[:] = [s.select(better, value, best[0]), s.select(better, position, best[1])]

    _visit(r, index, x, visit, **attrs)
    return best[1]


@reduce_window_sum.vjp
def _(
    ct: Node, out: Node, x: Node, *, window: Sizes, strides: Sizes, padding: Padding, dilation: Sizes
) -> tuple[Node]:
    """Each element collects the cotangents of the windows that hold it: a window sum once more."""
    lead = x.type.rank - len(window)
    low, high = [0] * lead, [0] * lead
    for k, size in enumerate(x.shape[lead:]):
        span = dilated(window[k], dilation[k])
        low.append(span - 1 - padding[k][0])
        high.append(size + span - 1 - dilated(ct.shape[lead + k], strides[k]) - low[-1])
    interior = (0,) * lead + tuple(s - 1 for s in strides)
    apart = pad(ct, constant(0, ct.dtype), low=tuple(low), high=tuple(high), interior=interior)
    return (reduce_window_sum(apart, **_attrs(window, dilation=dilation)),)


def _unpool_sample(shape: tuple[int, ...], sizes: Sizes, window: Sizes) -> Sample:
    return Sample(
        [shape],
        {"sizes": sizes, "window": window},
        values=lambda rng, dtype: _unpool_values(rng, dtype, shape, sizes, window),
    )


@op(
    [
        _unpool_sample((3, 4, 5), (8, 10), (2, 2)),
        _unpool_sample((2, 3), (11,), (3,)),
        _unpool_sample((2, 17), (34,), (2,)),
        _unpool_sample((1, 1), (1, 1), (1, 1)),
    ],
    "movement",
    NUMBERS,
)
def unpool(x: TensorType, positions: TensorType, *, sizes: Sizes, window: Sizes) -> TensorType:
    """Each element put back where its window had its maximum; 0 elsewhere. Windows lie side by side.

    The derivative of reduce_window_max with strides like the window and no padding: every place has one window, so
    the result is read element by element instead of scattered.

    Shapes: x and positions (*lead, *out), positions from window_argmax over planes of `sizes` -> (*lead, *sizes).
    Errors: ShapeError when shapes and windows do not fit; DTypeError when positions are not i32.
    """
    lead = x.rank - len(window)
    if positions.shape != x.shape or len(sizes) != len(window) or lead < 0:
        raise ShapeError(f"expects positions of shape {x.shape} and as many sizes as window has entries, found {positions}")
    if x.shape[lead:] != tuple(n // w for n, w in zip(sizes, window, strict=True)):
        raise ShapeError(f"{x.shape[lead:]} windows of {window} do not fill planes of {sizes}")
    if positions.dtype is not i32:
        raise DTypeError(f"positions must be i32, found {positions.dtype.short}")
    return x.with_shape((*x.shape[:lead], *sizes))


def _unpool_values(
    rng: np.random.Generator, dtype: DType, shape: tuple[int, ...], sizes: Sizes, window: Sizes
) -> list[np.ndarray]:
    """Cotangents, and positions that lie in their windows."""
    lead = len(shape) - len(window)
    flat = np.zeros(shape, np.int32)
    for k, (n, w) in enumerate(zip(sizes, window, strict=True)):
        along = np.arange(shape[lead + k]).reshape((-1,) + (1,) * (len(window) - 1 - k))
        flat = flat * n + along * w + rng.integers(0, w, shape)
    return [np.asarray(rng.integers(0, 5, shape)).astype(dtype.numpy), flat.astype(np.int32)]


unpool.linear((0,))
_window_batch(unpool)


@unpool.numpy
def _(x: np.ndarray, positions: np.ndarray, *, sizes: Sizes, window: Sizes) -> np.ndarray:
    lead = x.ndim - len(window)
    rows = x.reshape(prod(x.shape[:lead]), prod(x.shape[lead:]))
    result = np.zeros((rows.shape[0], prod(sizes)), x.dtype)
    np.put_along_axis(result, positions.reshape(rows.shape), rows, axis=1)
    return result.reshape((*x.shape[:lead], *sizes))


@unpool.at
def _(r: Reader, index: tuple[Any, ...], x: TensorType, positions: TensorType, *, sizes: Sizes, window: Sizes) -> Any:
    s, lead = r.s, x.rank - len(window)
    flat: Any = 0
    source = list(index[:lead])
    condition: Any = None
    for place, n, w in zip(index[lead:], sizes, window, strict=True):
        flat = place if isinstance(flat, int) else flat * n + place
        source.append(place // w)
        if n % w:
            inside = r.within(place // w, 0, n // w)
            condition = inside if condition is None else s.and_(condition, inside)
    nothing = s.const(0, x.dtype)

    def chosen() -> Any:
        here = s.eq(r.read(1, tuple(source)), r.value(flat, i32))
        return s.select(here, r.read(0, tuple(source)), nothing)

    return chosen() if condition is None else r.guard(condition, chosen, nothing)


@unpool.vjp
def _(ct: Node, out: Node, x: Node, positions: Node, *, sizes: Sizes, window: Sizes) -> tuple[Node | None, ...]:
    axis = x.type.rank - len(window)
    places = (*x.shape[:axis], prod(x.shape[axis:]))
    plane = reshape(ct, shape=(*ct.shape[:axis], prod(sizes)))
    return (reshape(take_along(plane, reshape(positions, shape=places), axis=axis), shape=x.shape), None)


@reduce_window_max.vjp
def _(ct: Node, out: Node, x: Node, **attrs: Any) -> tuple[Node]:
    window = attrs["window"]
    axis = x.type.rank - len(window)
    found = window_argmax(x, **attrs)
    if attrs["strides"] == window and not any(map(any, attrs["padding"])) and set(attrs["dilation"]) <= {1}:
        return (unpool(ct, found, sizes=x.shape[axis:], window=window),)
    flat = (*x.shape[:axis], prod(x.shape[axis:]))
    places = (*ct.shape[:axis], prod(ct.shape[axis:]))
    position = reshape(found, shape=places)
    total = spread(put_along_add, ct.type.with_shape(flat), position, reshape(ct, shape=places), axis)
    return (reshape(total, shape=x.shape),)


def _along(op: OpDef, x: Node, axis: int, rank: int, size: int, stride: int, step: int) -> Node:
    """`op` with a window along one of the `rank` trailing axes: a long window is two halves a distance apart.

    Halves of a maximum may overlap; those of a sum may not, so an odd size adds its last element by itself.
    Both keep the order of elements: the first maximum stays the first.
    """

    def direct(source: Node, window: int, stride: int, step: int) -> Node:
        sizes, strides, steps = (
            tuple(v if k == axis else 1 for k in range(rank)) for v in (window, stride, step)
        )
        return op(source, **_attrs(sizes, strides=strides, dilation=steps))

    if size <= SHORT:
        return direct(x, size, stride, step)
    if op is not reduce_window_sum or size % 2 == 0:
        half = -(-size // 2)
        return direct(_along(op, x, axis, rank, half, 1, step), 2, stride, (size - half) * step)
    place = x.type.rank - rank + axis
    length, last = x.shape[place], (size - 1) * step
    out = (length - last - 1) // stride + 1
    even = _along(op, _cut(x, place, 0, length - step, 1), axis, rank, size - 1, stride, step)
    return add(even, _cut(x, place, last, last + dilated(out, stride), stride))


def _cut(x: Node, axis: int, start: int, stop: int, step: int) -> Node:
    starts, stops, steps = [0] * x.type.rank, list(x.shape), [1] * x.type.rank
    starts[axis], stops[axis], steps[axis] = start, stop, step
    return slice_(x, start=tuple(starts), stop=tuple(stops), step=tuple(steps))


def _any_window(op: OpDef, x: Node, neutral: float, attrs: Mapping[str, Any]) -> Node:
    """`op` for a window of any size; a large one goes axis by axis, the last axis first."""
    window, padding = attrs["window"], attrs["padding"]
    op.infer_type([x.type], attrs, [x])  # errors name the whole window
    if prod(window) <= LARGEST:
        return op(x, **attrs)
    lead = x.type.rank - len(window)
    if any(map(any, padding)):
        low, high = ((0,) * lead + side for side in zip(*padding, strict=True))
        x = pad(x, constant(neutral, x.dtype), low=low, high=high, interior=(0,) * x.type.rank)
    for axis in reversed(range(len(window))):
        if window[axis] > 1 or attrs["strides"][axis] > 1:
            steps = attrs["strides"][axis], attrs["dilation"][axis]
            x = _along(op, x, axis, len(window), window[axis], *steps)
    return x


def window_attrs(
    window: Sizes, strides: Sizes | None = None, padding: Padding | None = None, dilation: Sizes | None = None
) -> dict[str, Any]:
    """The attributes of the window ops; what is omitted is plain: stride 1, no padding, no dilation."""
    given = {"strides": strides, "padding": padding, "dilation": dilation}
    return _attrs(window, **{name: value for name, value in given.items() if value is not None})


def window_sum(
    x: Node,
    window: Sizes,
    strides: Sizes | None = None,
    padding: Padding | None = None,
    dilation: Sizes | None = None,
) -> Node:
    """reduce_window_sum for a window of any size; one that covers everything is a plain sum.

    Cost: up to `LARGEST` elements, one read for each; beyond, O(log(size)) reads along each axis.
    """
    attrs = window_attrs(window, strides, padding, dilation)
    lead = x.type.rank - len(window)
    if (
        window
        and x.shape[lead:] == window
        and not any(map(any, attrs["padding"]))
        and set(attrs["dilation"]) == {1}
    ):
        total = reduce_sum(x, axes=tuple(range(lead, x.type.rank)))
        return reshape(total, shape=(*x.shape[:lead], *(1,) * len(window)))
    return _any_window(reduce_window_sum, x, 0, attrs)


def window_max(
    x: Node,
    window: Sizes,
    strides: Sizes | None = None,
    padding: Padding | None = None,
    dilation: Sizes | None = None,
) -> Node:
    """reduce_window_max for a window of any size; its derivative goes to the first maximum all the same.

    Cost: as window_sum.
    """
    attrs = window_attrs(window, strides, padding, dilation)
    return _any_window(reduce_window_max, x, lowest(x.dtype), attrs)


def window_mean(
    x: Node,
    window: Sizes,
    strides: Sizes | None = None,
    padding: Padding | None = None,
    count_padding: bool = True,
    divisor: int | None = None,
) -> Node:
    """Mean of each window of any size, for float dtypes.

    count_padding: padding counts as elements; else each window is divided by the number of its own elements.
    divisor: divide by this instead.
    """
    total = window_sum(x, window, strides, padding)
    attrs = window_attrs(window, strides, padding)
    if divisor is not None or count_padding or not any(map(any, attrs["padding"])):
        return mul(total, 1.0 / (divisor or prod(window)))
    lead = x.type.rank - len(window)
    counts = np.ones(())
    for size, k, s, (lo, hi) in zip(x.shape[lead:], window, attrs["strides"], attrs["padding"], strict=True):
        first = np.arange((size + lo + hi - k) // s + 1) * s - lo
        counts = np.multiply.outer(counts, np.minimum(first + k, size) - np.maximum(first, 0))
    shares = constant(1.0 / np.maximum(counts, 1), x.dtype)
    return mul(total, broadcast_to(shares, total.shape))
