"""Reductions over axes, and the positions of extremes.

A reduction drops its axes; `axes` is an increasing tuple. 16-bit floats are summed and multiplied in f32 and
rounded once; a lowering keeps its running value in f32 for them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node
from graphopt.ir.types import FLOATS, NUMBERS, DType, TensorType, bool_, f32, i32
from graphopt.opdefs.bits import logical_or
from graphopt.opdefs.elementwise import cast, div, eq, floordiv, mul, select
from graphopt.opdefs.math import is_nan
from graphopt.opdefs.opdef import Sample, constant, op
from graphopt.opdefs.scaffold import claim, flat, in_f32, special_values, zero_of
from graphopt.opdefs.shape import Ints, along, broadcast, check_axes, concat, iota, pad, reshape, transpose


def _samples(*more: Sample) -> list[Sample]:
    """Last, first, middle, several, all and no axes; odd and smallest sizes."""
    usual = [
        ((33, 65), (1,)),
        ((33, 5), (0,)),
        ((3, 4, 5), (1,)),
        ((3, 4, 5), (0, 2)),
        ((7, 5), (0, 1)),
        ((), ()),
        ((1,), (0,)),
        ((3, 5), ()),
        ((0, 3), (1,)),
    ]
    return [Sample([shape], {"axes": axes}) for shape, axes in usual] + list(more)


_EMPTY = Sample([(3, 0)], {"axes": (1,)})


def _reduced(x: TensorType, axes: Ints) -> TensorType:
    check_axes(axes, x.rank)
    return x.with_shape(tuple(n for k, n in enumerate(x.shape) if k not in axes))


def spread(x: Node, shape: Ints, axes: Ints) -> Node:
    """x, from which `axes` were reduced away, repeated along them."""
    return broadcast(x, shape=shape, axes=tuple(k for k in range(len(shape)) if k not in axes))


def _numbers(x: TensorType, hint: str) -> TensorType:
    return claim(x, among=NUMBERS, hint=hint)


@op(_samples(_EMPTY, Sample([(9, 37)], {"axes": (1,)}, low=-1e3, high=1e3)), "reduction", NUMBERS)
def reduce_sum(x: TensorType, *, axes: Ints) -> TensorType:
    """Sum over axes, in the input's dtype: integers wrap. The sum of nothing is 0."""
    return _reduced(_numbers(x, "cast it to an integer to count"), axes)


def _sum(x: np.ndarray, *, axes: Ints) -> np.ndarray:
    """float32 in float64: numpy adds outer axes one by one, and a sum should not be worse where its axes lie elsewhere."""
    wide = np.float64 if x.dtype == np.float32 else x.dtype
    with np.errstate(over="ignore"):
        return np.asarray(np.sum(x, axes, dtype=wide)).astype(x.dtype, copy=False)


reduce_sum.numpy(in_f32(_sum))
reduce_sum.combine(lambda s, running, element: s.add(running, element))
reduce_sum.initial(lambda dtype: 0)


reduce_sum.linear()


@reduce_sum.vjp
def _(ct: Node, out: Node, x: Node, *, axes: Ints) -> tuple[Node]:
    return (spread(ct, x.shape, axes),)


def _with_zeros(rng: np.random.Generator, dtype: DType) -> list[np.ndarray]:
    """Rows without a zero, with one, two, and only zeros."""
    x = rng.integers(1, 4, (4, 7))
    x[1, 2] = x[2, 0] = x[2, 6] = 0
    x[3] = 0
    return [x.astype(dtype.numpy)]


@op(_samples(_EMPTY, Sample([(4, 7)], {"axes": (1,)}, values=_with_zeros)), "reduction", NUMBERS)
def reduce_prod(x: TensorType, *, axes: Ints) -> TensorType:
    """Product over axes, in the input's dtype: integers wrap. The product of nothing is 1."""
    return _reduced(_numbers(x, "use reduce_and"), axes)


reduce_prod.numpy(in_f32(lambda x, *, axes: np.prod(x, axes, dtype=x.dtype)))
reduce_prod.combine(lambda s, running, element: s.mul(running, element))
reduce_prod.initial(lambda dtype: 1)


@reduce_prod.vjp
def _(ct: Node, out: Node, x: Node, *, axes: Ints) -> tuple[Node]:
    """For each element the product of all others, without a division, so that zeros do no harm at any order.

    A tree of pairwise products is walked back: the cotangent of a pair's left element is that of the pair
    times its right element. O(elements) work in 2 log2(n) steps.
    """
    kept = tuple(k for k in range(x.type.rank) if k not in axes)
    perm = kept + axes
    moved = transpose(x, perm=perm)
    rows = moved.type.size if not axes else out.type.size
    length = int(np.prod([x.shape[k] for k in axes], dtype=np.int64))
    if length == 0:
        return (x,)
    level = reshape(moved, shape=(rows, length))
    pairs: list[tuple[Node, Node, int]] = []
    while level.shape[1] > 1:
        n = level.shape[1]
        if n % 2:
            level = pad(level, constant(1, x.dtype), low=(0, 0), high=(0, 1), interior=(0, 0))
        half = level.shape[1] // 2
        left, right = along(level, 1, 0, half), along(level, 1, half, 2 * half)
        pairs.append((left, right, n))
        level = mul(left, right)
    back = reshape(ct, shape=(rows, 1))
    for left, right, n in reversed(pairs):
        back = along(concat(mul(back, right), mul(back, left), axis=1), 1, 0, n)
    return (transpose(reshape(back, shape=moved.shape), perm=tuple(int(k) for k in np.argsort(perm))),)


def _extreme(x: TensorType, axes: Ints) -> TensorType:
    result = _reduced(_numbers(x, "use reduce_or or reduce_and"), axes)
    empty = next((k for k in axes if x.shape[k] == 0), None)
    if empty is not None and result.size > 0:
        raise ShapeError(f"axis {empty} is empty: nothing has no extreme")
    return result


def _ties(rng: np.random.Generator, dtype: DType) -> list[np.ndarray]:
    return [np.array([[1, 3, 3, 2], [2, 2, 2, 2], [0, 1, 2, 3]]).astype(dtype.numpy)]


def _specials(rng: np.random.Generator, dtype: DType) -> list[np.ndarray]:
    """One delicate value in each row, at a position of its own, among ordinary ones."""
    values = special_values(dtype)
    x = rng.integers(0, 3, (len(values), 5)).astype(dtype.numpy)
    x[np.arange(len(values)), np.arange(len(values)) % 5] = values
    return [x]


_extreme_samples = [Sample([(3, 4)], {"axes": (1,)}, values=v) for v in (_ties, _specials)]


@op(_samples(*_extreme_samples), "reduction", NUMBERS)
def reduce_max(x: TensorType, *, axes: Ints) -> TensorType:
    """The largest number over axes; NaN if one is NaN. Equal maxima share the derivative equally.

    Errors: ShapeError when a reduced axis is empty.
    """
    return _extreme(x, axes)


@op(_samples(*_extreme_samples), "reduction", NUMBERS)
def reduce_min(x: TensorType, *, axes: Ints) -> TensorType:
    """The smallest number over axes; NaN if one is NaN. Equal minima share the derivative equally.

    Errors: ShapeError when a reduced axis is empty.
    """
    return _extreme(x, axes)


reduce_max.numpy(in_f32(lambda x, *, axes: np.max(x, axes)))
reduce_min.numpy(in_f32(lambda x, *, axes: np.min(x, axes)))
reduce_max.combine(lambda s, running, element: s.max(running, element))
reduce_min.combine(lambda s, running, element: s.min(running, element))
reduce_max.initial(lambda dtype: -np.inf if dtype.is_float else int(np.iinfo(dtype.numpy).min))
reduce_min.initial(lambda dtype: np.inf if dtype.is_float else int(np.iinfo(dtype.numpy).max))


def _equal_shares(ct: Node, out: Node, x: Node, *, axes: Ints) -> tuple[Node]:
    chosen = eq(x, spread(out, x.shape, axes))
    counting = f32 if x.dtype.is_float and x.dtype.bits == 16 else x.dtype
    count = reduce_sum(cast(chosen, dtype=counting), axes=axes)
    wide = ct if ct.dtype is counting else cast(ct, dtype=counting)
    share = div(wide, count) if counting.is_float else floordiv(wide, count)
    share = share if counting is x.dtype else cast(share, dtype=x.dtype)
    return (select(chosen, spread(share, x.shape, axes), zero_of(ct)),)


reduce_max.vjp(_equal_shares)
reduce_min.vjp(_equal_shares)


def _truth(x: TensorType) -> TensorType:
    if x.dtype is not bool_:
        raise DTypeError(f"expects bool, found {x.dtype.short}; compare it with 0")
    return x


@op(_samples(_EMPTY), "reduction", (bool_,))
def reduce_and(x: TensorType, *, axes: Ints) -> TensorType:
    """Whether all elements over axes hold; True for none."""
    return _reduced(_truth(x), axes)


@op(_samples(_EMPTY), "reduction", (bool_,))
def reduce_or(x: TensorType, *, axes: Ints) -> TensorType:
    """Whether an element over axes holds; False for none."""
    return _reduced(_truth(x), axes)


reduce_and.numpy(lambda x, *, axes: np.all(x, axes))
reduce_or.numpy(lambda x, *, axes: np.any(x, axes))
reduce_and.combine(lambda s, running, element: s.and_(running, element))
reduce_or.combine(lambda s, running, element: s.or_(running, element))
reduce_and.initial(lambda dtype: True)
reduce_or.initial(lambda dtype: False)
flat(reduce_and, 1)
flat(reduce_or, 1)


def argmax(x: Node, *, axis: int, dtype: DType = i32) -> Node:
    """The position of the largest element along an axis: the first of several; NaN counts as the extreme.

    Shapes: the axis vanishes.
    Errors: ShapeError when the axis is empty or not there.
    """
    return _position(reduce_max, x, axis, dtype)


def argmin(x: Node, *, axis: int, dtype: DType = i32) -> Node:
    """The position of the smallest element along an axis: the first of several; NaN counts as the extreme.

    Shapes: the axis vanishes.
    Errors: ShapeError when the axis is empty or not there.
    """
    return _position(reduce_min, x, axis, dtype)


def _position(extreme: Callable[..., Node], x: Node, axis: int, dtype: DType) -> Node:
    if x.dtype is bool_:
        x = cast(x, dtype=i32)
    found = eq(x, spread(extreme(x, axes=(axis,)), x.shape, (axis,)))
    if x.dtype in FLOATS:
        found = logical_or(found, is_nan(x))
    places = select(found, iota(shape=x.shape, axis=axis, dtype=dtype), constant(x.shape[axis], dtype))
    return reduce_min(places, axes=(axis,))
