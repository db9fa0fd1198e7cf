"""Movement: every element of the output is read from one place of one input.

One file although it is long: the derivatives use each other (slice and pad, concat and slice).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np

from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node
from graphopt.ir.types import NUMBERS, DType, TensorType, bf16, bool_, f32, i32, u8
from graphopt.opdefs.elementwise import select
from graphopt.opdefs.opdef import Reader, Sample, all_mapped, full, op, opdef, repeated, shifted
from graphopt.opdefs.scaffold import zero_of

Ints = tuple[int, ...]
Mapped = tuple[bool, ...]
Index = tuple[Any, ...]


def check_axes(axes: Sequence[int], rank: int, what: str = "axes") -> None:
    """`axes` are different axes of a tensor of this rank, in increasing order.

    Errors: ShapeError.
    """
    for axis in axes:
        if not 0 <= axis < rank:
            raise ShapeError(f"{what} {tuple(axes)}: axis {axis} is outside 0..{rank - 1}")
    if any(a >= b for a, b in zip(axes, axes[1:], strict=False)):
        raise ShapeError(f"{what} {tuple(axes)}: expects increasing axes, each once")


def _check_lengths(x: TensorType, **attrs: Ints) -> None:
    for name, values in attrs.items():
        if len(values) != x.rank:
            raise ShapeError(
                f"{name} {tuple(values)}: expects {x.rank} numbers, one for each axis, found {len(values)}"
            )


@op(
    [
        Sample([(7,)], {"shape": (5, 7), "axes": (1,)}),
        Sample([(5,)], {"shape": (5, 7), "axes": (0,)}),
        Sample([()], {"shape": (3, 5), "axes": ()}),
        Sample([()], {"shape": (), "axes": ()}),
        Sample([(3, 4)], {"shape": (3, 2, 4, 5), "axes": (0, 2)}),
        Sample([(3,)], {"shape": (3, 0), "axes": (0,)}),
    ],
    "movement",
)
def broadcast(x: TensorType, *, shape: Ints, axes: Ints) -> TensorType:
    """x repeated along new axes; input axis k becomes output axis axes[k].

    Errors: ShapeError when `axes` do not increase, leave the shape, or join axes of different sizes.
    """
    if len(axes) != x.rank:
        raise ShapeError(f"axes {axes}: expects {x.rank} axes, one for each of the input, found {len(axes)}")
    check_axes(axes, len(shape))
    for k, axis in enumerate(axes):
        if x.shape[k] != shape[axis]:
            raise ShapeError(f"axis {k} of size {x.shape[k]} cannot become axis {axis} of size {shape[axis]}")
    return x.with_shape(shape)


@broadcast.numpy
def _(x: np.ndarray, *, shape: Ints, axes: Ints) -> np.ndarray:
    return np.broadcast_to(np.expand_dims(x, [k for k in range(len(shape)) if k not in axes]), shape)


@broadcast.at
def _(r: Reader, index: Index, x: TensorType, *, shape: Ints, axes: Ints) -> Any:
    return r.read(0, tuple(index[axis] for axis in axes))


@broadcast.batch
def _(size: int, mapped: Mapped, x: Node, *, shape: Ints, axes: Ints) -> Node:
    return broadcast(x, shape=(size, *shape), axes=(0, *shifted(axes)))


broadcast.linear()


@broadcast.vjp
def _(ct: Node, out: Node, x: Node, *, shape: Ints, axes: Ints) -> tuple[Node]:
    repeated = tuple(k for k in range(len(shape)) if k not in axes)
    return (opdef("reduce_sum")(ct, axes=repeated) if repeated else ct,)


@op(
    [
        Sample([(4, 6)], {"shape": (24,)}),
        Sample([(24,)], {"shape": (2, 3, 4)}),
        Sample([(4, 6)], {"shape": (6, 4)}),
        Sample([(2, 3, 4, 5)], {"shape": (6, 20)}),
        Sample([(2, 6, 5)], {"shape": (2, 2, 3, 5)}),
        Sample([(3, 4, 5)], {"shape": (3, 1, 20, 1)}),
        Sample([(1, 3, 1)], {"shape": (3,)}),
        Sample([()], {"shape": (1, 1)}),
        Sample([(1,)], {"shape": ()}),
        Sample([(0, 3)], {"shape": (2, 0, 5)}),
    ],
    "movement",
)
def reshape(x: TensorType, *, shape: Ints) -> TensorType:
    """The same elements in row-major order under another shape.

    Errors: ShapeError when the numbers of elements differ or a size is negative.
    """
    if any(n < 0 for n in shape) or prod(shape) != x.size:
        raise ShapeError(f"{x.size} elements of shape {x.shape} do not fill shape {tuple(shape)}")
    return x.with_shape(shape)


reshape.numpy(lambda x, *, shape: x.reshape(shape))


def regroup(source: Ints, target: Ints) -> list[tuple[Ints, Ints]]:
    """The smallest runs of axes of two equally large shapes that hold the same elements, no axes of size 1.

    Sizes are not zero.
    """
    a = [k for k, n in enumerate(source) if n != 1]
    b = [k for k, n in enumerate(target) if n != 1]
    groups = []
    while a:
        left, right = [a.pop(0)], [b.pop(0)]
        m, n = source[left[0]], target[right[0]]
        while m != n:
            if m < n:
                left.append(a.pop(0))
                m *= source[left[-1]]
            else:
                right.append(b.pop(0))
                n *= target[right[-1]]
        groups.append((tuple(left), tuple(right)))
    return groups


@reshape.at
def _(r: Reader, index: Index, x: TensorType, *, shape: Ints) -> Any:
    source: list[Any] = [0] * x.rank
    if x.size == 0:
        return r.read(0, tuple(source))
    for inner, outer in regroup(x.shape, shape):
        place = index[outer[0]]
        for axis in outer[1:]:
            place = place * shape[axis] + index[axis]
        for axis in reversed(inner[1:]):
            source[axis] = place % x.shape[axis]
            place = place // x.shape[axis]
        source[inner[0]] = place
    return r.read(0, tuple(source))


@reshape.batch
def _(size: int, mapped: Mapped, x: Node, *, shape: Ints) -> Node:
    return reshape(x, shape=(size, *shape))


reshape.linear()


@reshape.vjp
def _(ct: Node, out: Node, x: Node, *, shape: Ints) -> tuple[Node]:
    return (reshape(ct, shape=x.shape),)


@op(
    [
        Sample([(33, 17)], {"perm": (1, 0)}),
        Sample([(2, 3, 4)], {"perm": (2, 0, 1)}),
        Sample([(2, 3, 4, 5)], {"perm": (0, 3, 1, 2)}),
        Sample([()], {"perm": ()}),
        Sample([(5,)], {"perm": (0,)}),
        Sample([(0, 3)], {"perm": (1, 0)}),
    ],
    "movement",
)
def transpose(x: TensorType, *, perm: Ints) -> TensorType:
    """The axes in another order: output axis k is input axis perm[k].

    Errors: ShapeError when `perm` does not name every axis once.
    """
    if sorted(perm) != list(range(x.rank)):
        raise ShapeError(f"perm {tuple(perm)}: expects each of the {x.rank} axes once")
    return x.with_shape(tuple(x.shape[k] for k in perm))


transpose.numpy(lambda x, *, perm: np.transpose(x, perm))


def inverse(perm: Sequence[int]) -> Ints:
    """The permutation that undoes `perm`."""
    return tuple(sorted(range(len(perm)), key=perm.__getitem__))


@transpose.at
def _(r: Reader, index: Index, x: TensorType, *, perm: Ints) -> Any:
    return r.read(0, tuple(index[k] for k in inverse(perm)))


@transpose.batch
def _(size: int, mapped: Mapped, x: Node, *, perm: Ints) -> Node:
    return transpose(x, perm=(0, *shifted(perm)))


transpose.linear()


@transpose.vjp
def _(ct: Node, out: Node, x: Node, *, perm: Ints) -> tuple[Node]:
    return (transpose(ct, perm=inverse(perm)),)


@op(
    [
        Sample([(9, 13)], {"start": (1, 2), "stop": (8, 13), "step": (1, 1)}),
        Sample([(9, 13)], {"start": (1, 0), "stop": (9, 13), "step": (3, 5)}),
        Sample([(2, 3, 4)], {"start": (0, 2, 0), "stop": (2, 3, 4), "step": (1, 1, 2)}),
        Sample([()], {"start": (), "stop": (), "step": ()}),
        Sample([(5,)], {"start": (2,), "stop": (2,), "step": (2,)}),
    ],
    "movement",
)
def slice_(x: TensorType, *, start: Ints, stop: Ints, step: Ints) -> TensorType:
    """Every step[k]-th element from start[k] to before stop[k], on every axis k.

    Errors: ShapeError when not 0 <= start <= stop <= size, or a step is not positive.
    """
    _check_lengths(x, start=start, stop=stop, step=step)
    for k, n in enumerate(x.shape):
        if not 0 <= start[k] <= stop[k] <= n:
            raise ShapeError(
                f"{start[k]}:{stop[k]} on axis {k}: expects 0 <= start <= stop <= {n}, the size of the axis"
            )
        if step[k] < 1:
            raise ShapeError(
                f"step {step[k]} on axis {k}: expects a positive step; reverse the axis for a negative one"
            )
    return x.with_shape(tuple(-(-(b - a) // c) for a, b, c in zip(start, stop, step, strict=True)))


@slice_.numpy
def _(x: np.ndarray, *, start: Ints, stop: Ints, step: Ints) -> np.ndarray:
    return x[tuple(slice(a, b, c) for a, b, c in zip(start, stop, step, strict=True))]


def _scaled(index: Any, factor: int) -> Any:
    return index if factor == 1 else index * factor


def _shifted(index: Any, offset: int) -> Any:
    return index if offset == 0 else index + offset


@slice_.at
def _(r: Reader, index: Index, x: TensorType, *, start: Ints, stop: Ints, step: Ints) -> Any:
    return r.read(0, tuple(_shifted(_scaled(i, c), a) for i, a, c in zip(index, start, step, strict=True)))


@slice_.batch
def _(size: int, mapped: Mapped, x: Node, *, start: Ints, stop: Ints, step: Ints) -> Node:
    return slice_(x, start=(0, *start), stop=(size, *stop), step=(1, *step))


slice_.linear()


@slice_.vjp
def _(ct: Node, out: Node, x: Node, *, start: Ints, stop: Ints, step: Ints) -> tuple[Node]:
    covered = [m + max(m - 1, 0) * (c - 1) for m, c in zip(out.shape, step, strict=True)]
    high = tuple(n - a - m for n, a, m in zip(x.shape, start, covered, strict=True))
    return (pad(ct, zero_of(ct), low=start, high=high, interior=tuple(c - 1 for c in step)),)


@op(
    [
        Sample([(5, 7), ()], {"low": (1, 0), "high": (2, 3), "interior": (0, 0)}),
        Sample([(5, 7), ()], {"low": (0, 2), "high": (0, 0), "interior": (1, 2)}),
        Sample([(5, 7), ()], {"low": (-1, 2), "high": (3, -2), "interior": (0, 1)}),
        Sample([(2, 3, 4), ()], {"low": (0, 0, -1), "high": (0, 1, -1), "interior": (0, 0, 3)}),
        Sample([(), ()], {"low": (), "high": (), "interior": ()}),
        Sample([(0, 2), ()], {"low": (2, 0), "high": (1, 0), "interior": (1, 0)}),
        Sample([(4,), ()], {"low": (-2,), "high": (-2,), "interior": (0,)}),
    ],
    "movement",
)
def pad(x: TensorType, value: TensorType, *, low: Ints, high: Ints, interior: Ints) -> TensorType:
    """x with copies of the 0-d `value` around it: `interior` between neighbours, `low` before, `high` after.

    Negative low and high crop instead.

    Errors: ShapeError when `value` is no scalar, an interior is negative or more is cropped than there is;
            DTypeError when dtypes differ.
    """
    _check_lengths(x, low=low, high=high, interior=interior)
    if value.dtype is not x.dtype:
        raise DTypeError(f"expects a value of the input's dtype {x.dtype.short}, found {value.dtype.short}")
    if value.rank != 0:
        raise ShapeError(f"expects a 0-d value, found shape {value.shape}")
    if any(n < 0 for n in interior):
        raise ShapeError(f"interior {interior}: expects no negative number")
    shape = tuple(n + a + b for n, a, b in zip(_dilated(x.shape, interior), low, high, strict=True))
    if any(n < 0 for n in shape):
        raise ShapeError(
            f"low {low} and high {high} crop more than the shape {x.shape} with interior {interior} has"
        )
    return x.with_shape(shape)


def _dilated(shape: Ints, interior: Ints) -> Ints:
    return tuple(n + max(n - 1, 0) * gap for n, gap in zip(shape, interior, strict=True))


@pad.numpy
def _(x: np.ndarray, value: np.ndarray, *, low: Ints, high: Ints, interior: Ints) -> np.ndarray:
    inner = np.full(_dilated(x.shape, interior), value, x.dtype)
    inner[tuple(slice(None, None, gap + 1) for gap in interior)] = x
    inner = inner[
        tuple(slice(max(-a, 0), n - max(-b, 0)) for n, a, b in zip(inner.shape, low, high, strict=True))
    ]
    before, after = [max(a, 0) for a in low], [max(b, 0) for b in high]
    out = np.full([n + a + b for n, a, b in zip(inner.shape, before, after, strict=True)], value, x.dtype)
    out[tuple(slice(a, a + n) for a, n in zip(before, inner.shape, strict=True))] = inner
    return out


@pad.at
def _(
    r: Reader, index: Index, x: TensorType, value: TensorType, *, low: Ints, high: Ints, interior: Ints
) -> Any:
    source, conditions = [], []
    for k, n in enumerate(_dilated(x.shape, interior)):
        place = _shifted(index[k], -low[k])
        if low[k] > 0 or high[k] > 0:
            conditions.append(r.within(place, 0, n))
        gap = interior[k] + 1
        if gap > 1:
            conditions.append(r.within(place % gap, 0, 1))
        source.append(place if gap == 1 else place // gap)
    if not conditions:
        return r.read(0, tuple(source))
    holds = conditions[0]
    for condition in conditions[1:]:
        holds = r.s.and_(holds, condition)
    return r.guard(holds, lambda: r.read(0, tuple(source)), r.read(1, ()))


@pad.batch
def _(size: int, mapped: Mapped, x: Node, value: Node, *, low: Ints, high: Ints, interior: Ints) -> Node:
    """Examples with paddings of their own are padded with zeros and take their value where those are."""
    wide = {"low": (0, *low), "high": (0, *high), "interior": (0, *interior)}
    rows = x if mapped[0] else repeated(x, size)
    if not mapped[1]:
        return pad(rows, value, **wide)
    inside = pad(full(rows.shape, 1, bool_), full((), 0, bool_), **wide)
    padded = pad(rows, zero_of(x), **wide)
    return select(inside, padded, broadcast(value, shape=padded.shape, axes=(0,)))


pad.linear()


@pad.vjp
def _(
    ct: Node, out: Node, x: Node, value: Node, *, low: Ints, high: Ints, interior: Ints
) -> tuple[Node, Node]:
    none = (0,) * x.type.rank
    whole = pad(ct, zero_of(ct), low=tuple(-a for a in low), high=tuple(-b for b in high), interior=none)
    for_x = slice_(whole, start=none, stop=whole.shape, step=tuple(gap + 1 for gap in interior))
    inside = pad(full(x.shape, 1, bool_), full((), 0, bool_), low=low, high=high, interior=interior)
    around = select(inside, zero_of(ct), ct)
    axes = tuple(range(out.type.rank))
    return for_x, opdef("reduce_sum")(around, axes=axes) if axes else around


@op(
    [
        Sample([(4, 7), (2, 7), (1, 7)], {"axis": 0}),
        Sample([(3, 5), (3, 8)], {"axis": 1}),
        Sample([(2, 3, 4), (2, 0, 4), (2, 1, 4)], {"axis": 1}),
        Sample([(1,), (1,)], {"axis": 0}),
        Sample([(5,)], {"axis": 0}),
    ],
    "movement",
)
def concat(*xs: TensorType, axis: int) -> TensorType:
    """The inputs one after the other along an axis.

    Errors: ShapeError when sizes of other axes differ, there is no input, or no such axis; DTypeError when
            dtypes differ.
    """
    if not xs:
        raise ShapeError("expects at least one input, found none")
    first = xs[0]
    if not 0 <= axis < first.rank:
        raise ShapeError(f"axis {axis} is outside 0..{first.rank - 1}")
    for k, x in enumerate(xs):
        if x.dtype is not first.dtype:
            raise DTypeError(
                f"dtypes differ: {first.dtype.short} (input 0), {x.dtype.short} (input {k})"
            )
        if (
            x.shape[:axis] != first.shape[:axis]
            or x.shape[axis + 1 :] != first.shape[axis + 1 :]
            or x.rank != first.rank
        ):
            raise ShapeError(
                f"shapes differ outside axis {axis}: {first.shape} (input 0), {x.shape} (input {k})"
            )
    size = sum(x.shape[axis] for x in xs)
    return first.with_shape((*first.shape[:axis], size, *first.shape[axis + 1 :]))


concat.numpy(lambda *xs, axis: np.concatenate(xs, axis))


@concat.at
def _(r: Reader, index: Index, *xs: TensorType, axis: int) -> Any:
    end = sum(x.shape[axis] for x in xs)
    value: Any = None
    for k in reversed(range(len(xs))):
        size = xs[k].shape[axis]
        if size == 0 and len(xs) > 1:
            continue
        end -= size
        place = (*index[:axis], _shifted(index[axis], -end), *index[axis + 1 :])
        if size == sum(x.shape[axis] for x in xs):
            return r.read(k, place)
        other = r.s.const(0, xs[0].dtype) if value is None else value
        value = r.guard(r.within(index[axis], end, end + size), partial(r.read, k, place), other)
    return r.s.const(0, xs[0].dtype) if value is None else value


@concat.batch
def _(size: int, mapped: Mapped, *xs: Node, axis: int) -> Node:
    return concat(*all_mapped(size, mapped, xs), axis=axis + 1)


concat.linear()


@concat.vjp
def _(ct: Node, out: Node, *xs: Node, axis: int) -> tuple[Node, ...]:
    parts, offset = [], 0
    for x in xs:
        parts.append(along(ct, axis, offset, offset + x.shape[axis]))
        offset += x.shape[axis]
    return tuple(parts)


def along(x: Node, axis: int, start: int, stop: int) -> Node:
    """x from `start` to before `stop` on one axis, all of the others."""
    begin, end = [0] * x.type.rank, list(x.shape)
    begin[axis], end[axis] = start, stop
    return slice_(x, start=tuple(begin), stop=tuple(end), step=(1,) * x.type.rank)


@op(
    [
        Sample([(5, 7)], {"axes": (0, 1)}),
        Sample([(2, 3, 4)], {"axes": (1,)}),
        Sample([()], {"axes": ()}),
        Sample([(0, 3)], {"axes": (0,)}),
    ],
    "movement",
)
def reverse(x: TensorType, *, axes: Ints) -> TensorType:
    """The elements in opposite order along `axes`.

    Errors: ShapeError when the axes do not increase or leave the tensor.
    """
    check_axes(axes, x.rank)
    return x


reverse.numpy(lambda x, *, axes: np.flip(x, axes))


@reverse.at
def _(r: Reader, index: Index, x: TensorType, *, axes: Ints) -> Any:
    return r.read(0, tuple(i * -1 + (x.shape[k] - 1) if k in axes else i for k, i in enumerate(index)))


@reverse.batch
def _(size: int, mapped: Mapped, x: Node, *, axes: Ints) -> Node:
    return reverse(x, axes=shifted(axes))


reverse.linear()


@reverse.vjp
def _(ct: Node, out: Node, x: Node, *, axes: Ints) -> tuple[Node]:
    return (reverse(ct, axes=axes),)


@op(
    [
        Sample([], {"shape": (5, 7), "axis": 0, "dtype": i32}),
        Sample([], {"shape": (5, 7), "axis": 1, "dtype": f32}),
        Sample([], {"shape": (1,), "axis": 0, "dtype": f32}),
        Sample([], {"shape": (300,), "axis": 0, "dtype": u8}),
        Sample([], {"shape": (300,), "axis": 0, "dtype": bf16}),
        Sample([], {"shape": (0,), "axis": 0, "dtype": i32}),
    ],
    "movement",
    (f32,),
)
def iota(*, shape: Ints, axis: int, dtype: DType) -> TensorType:
    """The position along one axis: 0, 1, 2, ... (rounded to a 16-bit float, wrapped to a short integer).

    Errors: ShapeError when there is no such axis; DTypeError for bool.
    """
    if not 0 <= axis < len(shape):
        raise ShapeError(f"axis {axis} is outside 0..{len(shape) - 1}")
    if dtype not in NUMBERS:
        raise DTypeError(f"expects a dtype of numbers, found {dtype.short}")
    return TensorType(dtype, tuple(shape))


@iota.numpy
def _(*, shape: Ints, axis: int, dtype: DType) -> np.ndarray:
    return np.broadcast_to(
        np.arange(shape[axis]).reshape([-1] + [1] * (len(shape) - axis - 1)), shape
    ).astype(dtype.numpy)


@iota.at
def _(r: Reader, index: Index, *, shape: Ints, axis: int, dtype: DType) -> Any:
    return r.value(index[axis], dtype)


@iota.vjp
def _(ct: Node, out: Node, *, shape: Ints, axis: int, dtype: DType) -> tuple[()]:
    return ()


iota.no_batch("it has no inputs, so it is the same for all examples")
