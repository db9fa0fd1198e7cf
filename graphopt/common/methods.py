"""Methods of Tensors that change the shape or reduce."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from graphopt.common.arithmetic import absolute, as_dtype, div, method, mul, sub, truth, unary
from graphopt.common.dtype import bool_, check_dtype, float16, float32, int32, int64
from graphopt.common.tensor import Tensor, apply
from graphopt.errors import ShapeError, layout
from graphopt.opdefs import math, reduce, shape
from graphopt.opdefs.opdef import broadcast_to as broadcast_node
from graphopt.where import here

Axes = int | Sequence[int] | None


def normal_axis(name: str, axis: Any, rank: int) -> int:
    """A non-negative axis.

    Errors: TypeError when it is no int, ValueError when there is no such axis.
    """
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise TypeError(f"{name}: axis must be int, found {axis!r} of type {type(axis).__name__}")
    if not -max(rank, 1) <= axis < max(rank, 1):
        raise ShapeError(layout(f"{name}: axis {axis} is out of range for a tensor of {rank} axes", here()))
    return axis % max(rank, 1)


def normal_axes(name: str, axis: Axes, rank: int) -> tuple[int, ...]:
    """Sorted non-negative axes; all of them for None or ().

    Errors: as `normal_axis`; ValueError when an axis stands twice.
    """
    if axis is None or axis == () or axis == []:
        return tuple(range(rank))
    listed = axis if isinstance(axis, (tuple, list)) else (axis,)
    axes = tuple(sorted(normal_axis(name, a, rank) for a in listed))
    if len(set(axes)) < len(axes):
        raise ShapeError(layout(f"{name}: axis {axis} names an axis twice", here()))
    return axes if rank else ()


def sizes(name: str, given: Sequence[Any]) -> tuple[int, ...]:
    """The ints of `f(2, 3)` or `f((2, 3))`.

    Errors: TypeError when one is no int.
    """
    if len(given) == 1 and isinstance(given[0], (tuple, list)):
        given = given[0]
    for n in given:
        if isinstance(n, bool) or not hasattr(n, "__index__"):
            raise TypeError(f"{name}: expected ints, found {n!r} of type {type(n).__name__}")
    return tuple(n.__index__() for n in given)


def reduced(op: Any, x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    """A reduction over axes, which stay with size 1 when `keepdims` is set."""
    result = apply(op, x, axes=axes)
    return keep(result, x.shape, axes) if keepdims else result


def keep(x: Tensor, before: tuple[int, ...], axes: Sequence[int]) -> Tensor:
    """x with the axes that were reduced away put back with size 1."""
    return apply(shape.reshape, x, shape=tuple(1 if k in axes else n for k, n in enumerate(before)))


# dtype ----------------------------------------------------------------------------------------------------


@method("to")
def to(self: Tensor, dtype: Any) -> Tensor:
    """The elements in another dtype."""
    return as_dtype(self, check_dtype("to", dtype))


for _name, _dtype in (("float", float32), ("half", float16), ("int", int32), ("long", int64), ("bool", bool_)):
    method(_name)(lambda self, _dtype=_dtype: as_dtype(self, _dtype))


# shape ----------------------------------------------------------------------------------------------------


@method("reshape", "view")
def reshape(self: Tensor, *shape_: Any) -> Tensor:
    """The same elements under another shape; one size may be -1.

    Errors: ValueError when the number of elements differs.
    """
    wanted = sizes("reshape", shape_)
    known = prod(n for n in wanted if n != -1)
    if wanted.count(-1) == 1 and known and self.size % known == 0:
        wanted = tuple(self.size // known if n == -1 else n for n in wanted)
    if any(n < 0 for n in wanted) or prod(wanted) != self.size:
        what = f"reshape: cannot reshape {self.shape} ({self.size} elements) to {sizes('reshape', shape_)}"
        raise ShapeError(layout(what, here()))
    return apply(shape.reshape, self, shape=wanted)


@method("reshape_as", "view_as")
def reshape_as(self: Tensor, other: Tensor) -> Tensor:
    """The same elements under the shape of another tensor."""
    return reshape(self, other.shape)


@method("flatten")
def flatten(self: Tensor, order: str = "C", *, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The axes from start_dim to end_dim as one; order 'F' lets the first axis vary fastest.

    Errors: ValueError for another order, or when start_dim comes after end_dim.
    """
    if order not in ("C", "F"):
        raise ValueError(f"flatten: order must be 'C' or 'F', found {order!r}")
    x = self if order == "C" else transpose(self)
    first, last = normal_axis("flatten", start_dim, x.ndim), normal_axis("flatten", end_dim, x.ndim)
    if first > last:
        raise ValueError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
    return reshape(x, *x.shape[:first], prod(x.shape[first : last + 1]), *x.shape[last + 1 :])


@method("ravel")
def ravel(self: Tensor) -> Tensor:
    """All elements in one axis."""
    return reshape(self, -1) if self.size else reshape(self, 0)


@method("transpose", "permute")
def transpose(self: Tensor, *axes: Any) -> Tensor:
    """The axes in another order; reversed when none is given.

    Errors: ValueError when `axes` is no permutation.
    """
    if not axes or axes == (None,):
        perm = tuple(reversed(range(self.ndim)))
    else:
        perm = tuple(normal_axis("transpose", a, self.ndim) for a in sizes("transpose", axes))
        if sorted(perm) != list(range(self.ndim)):
            raise ShapeError(layout(f"transpose: {perm} is no order of the {self.ndim} axes", here()))
    return apply(shape.transpose, self, perm=perm)


Tensor.T = property(transpose, doc="The axes in reverse order.")


@method("t")
def t(self: Tensor) -> Tensor:
    """The transpose of a matrix; a vector stays.

    Errors: ValueError for more than two axes.
    """
    if self.ndim > 2:
        raise ShapeError(layout(f"t: expected at most 2 axes, found shape {self.shape}", here()))
    return transpose(self)


@method("swapaxes", "swapdims")
def swapaxes(self: Tensor, axis0: int, axis1: int) -> Tensor:
    """Two axes exchanged."""
    i, j = normal_axis("swapaxes", axis0, self.ndim), normal_axis("swapaxes", axis1, self.ndim)
    perm = list(range(self.ndim))
    perm[i], perm[j] = perm[j], perm[i]
    return apply(shape.transpose, self, perm=tuple(perm))


@method("expand_dims", "unsqueeze")
def expand_dims(self: Tensor, axis: Any) -> Tensor:
    """A new axis of size 1 (or several) at the position it has in the result."""
    listed = axis if isinstance(axis, (tuple, list)) else (axis,)
    rank = self.ndim + len(listed)
    new = normal_axes("expand_dims", tuple(listed), rank)
    rest = iter(self.shape)
    return apply(shape.reshape, self, shape=tuple(1 if k in new else next(rest) for k in range(rank)))


@method("squeeze")
def squeeze(self: Tensor, axis: Axes = None) -> Tensor:
    """Axes of size 1 left out: all of them, or the given ones.

    Errors: ValueError when a given axis has another size.
    """
    axes = [k for k, n in enumerate(self.shape) if n == 1] if axis is None else normal_axes("squeeze", axis, self.ndim)
    for k in axes:
        if self.shape[k] != 1:
            raise ShapeError(layout(f"squeeze: axis {k} has size {self.shape[k]}, expected 1", here()))
    return apply(shape.reshape, self, shape=tuple(n for k, n in enumerate(self.shape) if k not in axes))


@method("broadcast_to", "expand")
def broadcast_to(self: Tensor, *shape_: Any) -> Tensor:
    """Repeated along axes of size 1 and new leading ones; -1 keeps a size.

    Errors: ValueError when the shapes do not fit.
    """
    wanted = sizes("broadcast_to", shape_)
    lead = len(wanted) - self.ndim
    if lead >= 0 and all(n != -1 for n in wanted[:lead]):
        wanted = wanted[:lead] + tuple(m if n == -1 else n for n, m in zip(wanted[lead:], self.shape, strict=True))
    return apply(broadcast_node, self, shape=wanted)


@method("expand_as")
def expand_as(self: Tensor, other: Tensor) -> Tensor:
    """Broadcast to the shape of another tensor."""
    return broadcast_to(self, other.shape)


@method("tile")
def tile(self: Tensor, *reps: Any) -> Tensor:
    """The whole tensor repeated along each axis."""
    counts = sizes("tile", reps)
    rank = max(len(counts), self.ndim)
    counts = (1,) * (rank - len(counts)) + counts
    before = (1,) * (rank - self.ndim) + self.shape
    apart = apply(shape.reshape, self, shape=tuple(m for n in before for m in (1, n)))
    repeated = apply(broadcast_node, apart, shape=tuple(m for c, n in zip(counts, before, strict=True) for m in (c, n)))
    return apply(shape.reshape, repeated, shape=tuple(c * n for c, n in zip(counts, before, strict=True)))


@method("split")
def split(self: Tensor, split_size_or_sections: Any, axis: int = 0) -> tuple[Tensor, ...]:
    """Parts of the given size along an axis (the last may be smaller), or of the given sizes.

    Errors: ValueError when the sizes do not add up.
    """
    k = normal_axis("split", axis, self.ndim)
    n = self.shape[k]
    if isinstance(split_size_or_sections, int):
        if split_size_or_sections < 1:
            raise ShapeError(layout(f"split: a part must have at least size 1, found {split_size_or_sections}", here()))
        parts = [min(split_size_or_sections, n - at) for at in range(0, n, split_size_or_sections)]
    else:
        parts = list(split_size_or_sections)
        if sum(parts) != n:
            raise ShapeError(layout(f"split: sizes {parts} add up to {sum(parts)}, axis {k} has size {n}", here()))
    ends = [sum(parts[: i + 1]) for i in range(len(parts))]
    return tuple(apply(shape.along, self, k, end - size, end) for size, end in zip(parts, ends, strict=True))


# reductions -----------------------------------------------------------------------------------------------


@method("sum")
def sum_(self: Tensor, axis: Axes = None, dtype: Any = None, keepdims: bool = False, initial: Any = None) -> Tensor:
    """The sum over axes; of bools and signed integers in int64."""
    narrow = self.dtype is bool_ or self.dtype.kind == "i" or self.dtype.name == "uint8"
    x = as_dtype(self, check_dtype("sum", dtype) if dtype is not None else int64 if narrow else self.dtype)
    result = reduced(reduce.reduce_sum, x, normal_axes("sum", axis, self.ndim), keepdims)
    return result if initial is None else result + initial


@method("prod")
def prod_(self: Tensor, axis: Axes = None, keep_dims: bool = False, dtype: Any = None) -> Tensor:
    """The product over axes; of bools and signed integers in int64."""
    narrow = self.dtype is bool_ or self.dtype.kind == "i" or self.dtype.name == "uint8"
    x = as_dtype(self, check_dtype("prod", dtype) if dtype is not None else int64 if narrow else self.dtype)
    return reduced(reduce.reduce_prod, x, normal_axes("prod", axis, self.ndim), keep_dims)


@method("mean")
def mean(self: Tensor, axis: Axes = None, keep_dims: bool = False) -> Tensor:
    """The mean over axes; of integers cut to an integer."""
    axes = normal_axes("mean", axis, self.ndim)
    count = prod(self.shape[k] for k in axes)
    if self.dtype.is_float:
        return div(reduced(reduce.reduce_sum, self, axes, keep_dims), count)
    total = reduced(reduce.reduce_sum, as_dtype(self, int64), axes, keep_dims)
    return as_dtype(div(total, count), self.dtype)


@method("var")
def var(self: Tensor, axis: Axes = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
    """The mean square distance from the mean over axes; `ddof` is taken off the count."""
    x = self if self.dtype.is_float else as_dtype(self, float32)
    axes = normal_axes("var", axis, x.ndim)
    count = prod(x.shape[k] for k in axes) - ddof
    apart = sub(x, mean(x, axes, True)) if axes else sub(x, x)
    total = reduced(reduce.reduce_sum, mul(apart, apart), axes, keepdims)
    return div(total, count)


@method("std")
def std(self: Tensor, axis: Axes = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
    """The square root of the variance."""
    return unary(math.sqrt, var(self, axis, ddof, keepdims))


def _extreme(name: str, op: Any, of_bools: Any, position: Any) -> Any:
    def extreme(self: Tensor, axis: Axes = None, keepdims: bool = False, *, return_indices: bool = False) -> Any:
        x = self
        axes = normal_axes(name, axis, x.ndim)
        values = reduced(of_bools if x.dtype is bool_ else op, x, axes, keepdims)
        if return_indices and axis is not None:
            return values, position(self, axes[0], keepdims)
        return values

    extreme.__name__ = name
    extreme.__doc__ = f"The {name}imum over axes; with return_indices and one axis, (values, positions)."
    return extreme


def _position(name: str, op: Any) -> Any:
    def position(self: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
        x = self if axis is not None else ravel(self)
        k = normal_axis(name, 0 if axis is None else axis, x.ndim)
        if x.dtype is bool_:
            x = as_dtype(x, int32)
        if x.ndim == 0:
            x = reshape(x, 1)
        result = apply(op, x, axis=k, dtype=int64)
        if not keepdims:
            return result if self.ndim or axis is None else reshape(result, ())
        return keep(result, self.shape, (k,) if axis is not None else range(self.ndim))

    position.__name__ = name
    position.__doc__ = f"The position ({name}) along an axis, or among all elements in row-major order; the first of several."
    return position


argmax = method("argmax")(_position("argmax", reduce.argmax))
argmin = method("argmin")(_position("argmin", reduce.argmin))
max_ = method("max")(_extreme("max", reduce.reduce_max, reduce.reduce_or, argmax))
min_ = method("min")(_extreme("min", reduce.reduce_min, reduce.reduce_and, argmin))


@method("all")
def all_(self: Tensor, axis: Axes = None, keep_dims: bool = False) -> Tensor:
    """Whether all elements over axes hold."""
    return reduced(reduce.reduce_and, truth(self), normal_axes("all", axis, self.ndim), keep_dims)


@method("any")
def any_(self: Tensor, axis: Axes = None, keep_dims: bool = False) -> Tensor:
    """Whether an element over axes holds."""
    return reduced(reduce.reduce_or, truth(self), normal_axes("any", axis, self.ndim), keep_dims)


@method("norm")
def norm(self: Tensor, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The Euclidean length over axes."""
    return unary(math.sqrt, sum_(mul(absolute(self), absolute(self)), axis, None, keepdims))
