"""Reductions, norms, and clipping by a norm, under MindSpore's names."""

from __future__ import annotations

import math as pymath
from collections.abc import Callable
from typing import Any

from graphopt.errors import ShapeError
from graphopt.ir.graph import Node
from graphopt.ir.types import DType, bool_, dtype_of, f32, i32, i64
from graphopt.opdefs import elementwise, math, reduce, shape
from graphopt.opdefs.opdef import broadcast_to, constant
from graphopt.opdefs.scaffold import zero_of
from graphopt.opdefs.window import window_sum
from graphopt.ops.lift import lift
from graphopt.ops.promote import as_node, axes_of, axis_of, floating, keep, to_dtype


def _reduce(rule: Callable[..., Node], x: Node, axis: Any, keep_dims: bool, owner: str) -> Node:
    axes = axes_of(axis, x.type.rank, owner)
    return keep(rule(x, axes=axes) if axes else x, x.shape, axes, keep_dims)


@lift
def sum(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: DType | None = None) -> Any:
    """The sum over the axes `dim` (None: all). bool and integer inputs are summed as int64.

    >>> import graphopt as ms
    >>> ms.ops.sum(ms.Tensor([[1.0, 2.0], [3.0, 4.0]]), 0).asnumpy().tolist()
    [4.0, 6.0]
    """
    x = as_node(input)
    if dtype is not None:
        x = to_dtype(x, dtype_of(dtype))
    elif not x.dtype.is_float:
        x = to_dtype(x, i64)
    return _reduce(reduce.reduce_sum, x, dim, keepdim, "sum")


@lift
def reduce_sum(x: Any, axis: Any = (), keep_dims: bool = False) -> Any:
    """The sum over `axis` (() and None: all axes), in the input's dtype.

    >>> import graphopt as ms
    >>> ms.ops.reduce_sum(ms.Tensor([[1.0, 3.0], [7.0, 5.0]]), 0).asnumpy().tolist()
    [8.0, 8.0]
    """
    return _reduce(reduce.reduce_sum, as_node(x), axis, keep_dims, "reduce_sum")


@lift
def mean(x: Any, axis: Any = None, keep_dims: bool = False) -> Any:
    """The mean over `axis` (None and (): all axes); integers give float32.

    >>> import graphopt as ms
    >>> ms.ops.mean(ms.Tensor([[1.0, 2.0], [3.0, 4.0]]), 1).asnumpy().tolist()
    [1.5, 3.5]
    """
    return _mean(floating(x), axes_of(axis, as_node(x).type.rank, "mean"), keep_dims)


reduce_mean = mean


def _mean(x: Node, axes: tuple[int, ...], keep_dims: bool) -> Node:
    count = pymath.prod(x.shape[k] for k in axes)
    if not axes:
        return x
    return keep(reduce.reduce_sum(x, axes=axes) * (1.0 / count if count else pymath.nan), x.shape, axes, keep_dims)


@lift
def prod(input: Any, axis: Any = None, keep_dims: bool = False, dtype: DType | None = None) -> Any:
    """The product over `axis` (None: all axes).

    >>> import graphopt as ms
    >>> float(ms.ops.prod(ms.Tensor([2.0, 3.0, 4.0])))
    24.0
    """
    x = as_node(input)
    x = x if dtype is None else to_dtype(x, dtype_of(dtype))
    return _reduce(reduce.reduce_prod, x, axis, keep_dims, "prod")


@lift
def amax(input: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The largest element over `axis` (None: all); several share the derivative equally.

    >>> import graphopt as ms
    >>> ms.ops.amax(ms.Tensor([[1.0, 3.0], [7.0, 5.0]]), axis=1).asnumpy().tolist()
    [3.0, 7.0]
    """
    return _reduce(reduce.reduce_max, as_node(input), axis, keepdims, "amax")


@lift
def amin(input: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The smallest element over `axis` (None: all); several share the derivative equally.

    >>> import graphopt as ms
    >>> ms.ops.amin(ms.Tensor([[1.0, 3.0], [7.0, 5.0]]), axis=1).asnumpy().tolist()
    [1.0, 5.0]
    """
    return _reduce(reduce.reduce_min, as_node(input), axis, keepdims, "amin")


@lift
def all(input: Any, axis: Any = None, keep_dims: bool = False) -> Any:
    """True where all elements over `axis` are.

    >>> import graphopt as ms
    >>> ms.ops.all(ms.Tensor([[True, False], [True, True]]), axis=1).asnumpy().tolist()
    [False, True]
    """
    return _reduce(reduce.reduce_and, to_dtype(as_node(input), bool_), axis, keep_dims, "all")


@lift
def any(input: Any, axis: Any = None, keep_dims: bool = False) -> Any:
    """True where at least one element over `axis` is.

    >>> import graphopt as ms
    >>> ms.ops.any(ms.Tensor([[True, False], [False, False]]), axis=1).asnumpy().tolist()
    [True, False]
    """
    return _reduce(reduce.reduce_or, to_dtype(as_node(input), bool_), axis, keep_dims, "any")


def _extreme(kind: str, input: Any, axis: Any, keepdims: bool) -> Any:
    x = as_node(input)
    rule, where = (reduce.reduce_max, reduce.argmax) if kind == "max" else (reduce.reduce_min, reduce.argmin)
    if axis is None:
        return _reduce(rule, x, None, keepdims, kind), constant(0, i64)
    at = axis_of(axis, x.type.rank, kind)
    axes = (at,)
    return (
        keep(rule(x, axes=axes), x.shape, axes, keepdims),
        keep(where(x, axis=at, dtype=i64), x.shape, axes, keepdims),
    )


@lift
def max(input: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """(largest elements, their positions) along `axis`; without an axis the largest of all and 0.

    >>> import graphopt as ms
    >>> float(ms.ops.max(ms.Tensor([1.0, 7.0, 3.0]))[0])
    7.0
    """
    return _extreme("max", input, axis, keepdims)


@lift
def min(input: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """(smallest elements, their positions) along `axis`; without an axis the smallest of all and 0.

    >>> import graphopt as ms
    >>> float(ms.ops.min(ms.Tensor([1.0, 7.0, 3.0]))[0])
    1.0
    """
    return _extreme("min", input, axis, keepdims)


def _arg(where: Callable[..., Node], x: Node, axis: Any, keepdims: bool, dtype: DType) -> Node:
    if axis is None:
        return where(shape.reshape(x, shape=(x.type.size,)), axis=0, dtype=dtype)
    at = axis_of(axis, x.type.rank)
    return keep(where(x, axis=at, dtype=dtype), x.shape, (at,), keepdims)


@lift
def argmax(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The position (int64) of the first largest element along `dim`; None: in the flattened input.

    >>> import graphopt as ms
    >>> int(ms.ops.argmax(ms.Tensor([1.0, 5.0, 2.0])).asnumpy())
    1
    """
    return _arg(reduce.argmax, as_node(input), dim, keepdim, i64)


@lift
def argmin(input: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """The position (int64) of the first smallest element along `axis`; None: in the flattened input.

    >>> import graphopt as ms
    >>> ms.ops.argmin(ms.Tensor([[1.0, 3.0], [7.0, 5.0]]), axis=1).asnumpy().tolist()
    [0, 1]
    """
    return _arg(reduce.argmin, as_node(input), axis, keepdims, i64)


@lift
def argmax_with_value(input: Any, axis: int = 0, keep_dims: bool = False) -> Any:
    """(positions as int32, largest elements) along `axis`.

    >>> import graphopt as ms
    >>> [v.asnumpy().tolist() for v in ms.ops.argmax_with_value(ms.Tensor([[1.0, 3.0], [7.0, 5.0]]), axis=1)]
    [[1, 0], [3.0, 7.0]]
    """
    x = as_node(input)
    values, _ = _extreme("max", x, axis, keep_dims)
    return _arg(reduce.argmax, x, axis, keep_dims, i32), values


@lift
def argmin_with_value(input: Any, axis: int = 0, keep_dims: bool = False) -> Any:
    """(positions as int32, smallest elements) along `axis`.

    >>> import graphopt as ms
    >>> [v.asnumpy().tolist() for v in ms.ops.argmin_with_value(ms.Tensor([[1.0, 3.0], [7.0, 5.0]]), axis=1)]
    [[0, 1], [1.0, 5.0]]
    """
    x = as_node(input)
    values, _ = _extreme("min", x, axis, keep_dims)
    return _arg(reduce.argmin, x, axis, keep_dims, i32), values


def _variance(input: Any, axis: Any, ddof: Any, keepdims: bool) -> tuple[Node, Node]:
    x = floating(input)
    axes = axes_of(axis, x.type.rank, "var")
    count = pymath.prod(x.shape[k] for k in axes)
    middle = _mean(x, axes, True)
    centred = x - middle
    scale = 1.0 / (count - int(ddof)) if count > int(ddof) else pymath.nan
    value = reduce.reduce_sum(centred * centred, axes=axes) * scale
    return keep(value, x.shape, axes, keepdims), middle if keepdims else _mean(x, axes, False)


@lift
def var(input: Any, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """The variance over `axis` (None: all): squared distances from the mean over (count - ddof).

    >>> import graphopt as ms
    >>> float(ms.ops.var(ms.Tensor([1.0, 5.0, 1.0, 5.0])))
    4.0
    """
    return _variance(input, axis, ddof, keepdims)[0]


@lift
def std(input: Any, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """The square root of var.

    >>> import graphopt as ms
    >>> float(ms.ops.std(ms.Tensor([1.0, 3.0, 1.0, 3.0])))
    1.0
    """
    return math.sqrt(_variance(input, axis, ddof, keepdims)[0])


@lift
def var_mean(input: Any, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """(variance, mean) over `axis`.

    >>> import graphopt as ms
    >>> [float(v) for v in ms.ops.var_mean(ms.Tensor([1.0, 5.0, 1.0, 5.0]))]
    [4.0, 3.0]
    """
    return _variance(input, axis, ddof, keepdims)


@lift
def std_mean(input: Any, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """(standard deviation, mean) over `axis`.

    >>> import graphopt as ms
    >>> [float(v) for v in ms.ops.std_mean(ms.Tensor([1.0, 3.0, 1.0, 3.0]))]
    [1.0, 2.0]
    """
    variance, middle = _variance(input, axis, ddof, keepdims)
    return math.sqrt(variance), middle


def log_sum_exp(x: Node, axes: tuple[int, ...]) -> Node:
    """log(sum(exp(x))) over `axes`, which stay with size 1; the maximum goes through no derivative."""
    shape_kept = tuple(1 if k in axes else n for k, n in enumerate(x.shape))
    top = elementwise.stop_gradient(shape.reshape(reduce.reduce_max(x, axes=axes), shape=shape_kept))
    top = elementwise.select(math.is_finite(top), top, zero_of(top))
    total = reduce.reduce_sum(math.exp(x - top), axes=axes)
    return math.log(shape.reshape(total, shape=shape_kept)) + top


@lift
def logsumexp(input: Any, axis: Any, keepdims: bool = False) -> Any:
    """log(sum(exp(input))) over `axis`, without overflow.

    >>> import graphopt as ms
    >>> round(float(ms.ops.logsumexp(ms.Tensor([1000.0, 1000.0]), 0)), 3)
    1000.693
    """
    x = floating(input)
    axes = axes_of(axis, x.type.rank, "logsumexp")
    value = log_sum_exp(x, axes)
    return value if keepdims else shape.reshape(value, shape=tuple(n for k, n in enumerate(x.shape) if k not in axes))


@lift
def norm(A: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: DType | None = None) -> Any:
    """The vector norm over `dim` (None: all elements): ord None or 2 (Euclid), 1, inf, -inf, 0, or any number p.

    'fro' is the same as 2. Matrix norms of other kinds (nuclear, spectral) are not offered.

    >>> import graphopt as ms
    >>> float(ms.ops.norm(ms.Tensor([3.0, 4.0])))
    5.0
    """
    x = floating(A if dtype is None else to_dtype(as_node(A), dtype_of(dtype)))
    axes = axes_of(dim, x.type.rank, "norm")
    size = elementwise.abs_(x)
    if ord in (None, 2, "fro"):
        value = math.sqrt(reduce.reduce_sum(x * x, axes=axes))
    elif ord in (pymath.inf, "inf"):
        value = reduce.reduce_max(size, axes=axes)
    elif ord in (-pymath.inf, "-inf"):
        value = reduce.reduce_min(size, axes=axes)
    elif ord == 1:
        value = reduce.reduce_sum(size, axes=axes)
    elif ord == 0:
        value = reduce.reduce_sum(to_dtype(elementwise.ne(x, zero_of(x)), x.dtype), axes=axes)
    elif isinstance(ord, (int, float)):
        value = math.pow_(reduce.reduce_sum(math.pow_(size, float(ord)), axes=axes), 1.0 / ord)
    else:
        raise ShapeError(f"norm: ord must be None, a number, inf, -inf or 'fro', found {ord!r}")
    return keep(value, x.shape, axes, keepdim)


@lift
def count_nonzero(x: Any, axis: Any = (), keep_dims: bool = False, dtype: DType = i32) -> Any:
    """How many elements over `axis` are not 0.

    >>> import graphopt as ms
    >>> int(ms.ops.count_nonzero(ms.Tensor([1.0, 0.0, -2.0])))
    2
    """
    node = as_node(x)
    there = elementwise.ne(node, zero_of(node)) if node.dtype is not bool_ else node
    return _reduce(reduce.reduce_sum, to_dtype(there, dtype_of(dtype)), axis, keep_dims, "count_nonzero")


@lift
def cumsum(x: Any, axis: int, dtype: DType | None = None) -> Any:
    """Running sums along `axis`.

    Cost: O(n log n) reads along the axis.

    >>> import graphopt as ms
    >>> ms.ops.cumsum(ms.Tensor([1, 2, 3]), 0).asnumpy().tolist()
    [1, 3, 6]
    """
    node = as_node(x)
    node = node if dtype is None else to_dtype(node, dtype_of(dtype))
    at = axis_of(axis, node.type.rank, "cumsum")
    last = node.type.rank - 1
    order = (*(k for k in range(last + 1) if k != at), at)
    moved = shape.transpose(node, perm=order) if at != last else node
    n = node.shape[at]
    if n == 0:
        return node
    summed = window_sum(moved, (n,), padding=((n - 1, 0),))
    return shape.transpose(summed, perm=shape.inverse(order)) if at != last else summed


@lift
def clip_by_norm(x: Any, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False) -> Any:
    """Tensors scaled down together so that the norm of all of them is at most max_norm.

    >>> import graphopt as ms
    >>> [round(v, 4) for v in ms.ops.clip_by_norm(ms.Tensor([3.0, 4.0]), 1.0).asnumpy().tolist()]
    [0.6, 0.8]
    """
    listed = list(x) if isinstance(x, (tuple, list)) else [x]
    return _scaled(x, [floating(v) for v in listed], max_norm, norm_type)


@lift
def clip_by_global_norm(x: Any, clip_norm: float = 1.0, use_norm: Any = None) -> Any:
    """Tensors scaled down together so that their global Euclidean norm is at most clip_norm.

    Errors: ValueError when clip_norm <= 0.

    >>> import graphopt as ms
    >>> [[round(v, 4) for v in x.asnumpy().tolist()] for x in ms.ops.clip_by_global_norm((ms.Tensor([3.0]), ms.Tensor([4.0])))]
    [[0.6], [0.8]]
    """
    if use_norm is not None:
        raise ShapeError("clip_by_global_norm: use_norm must be None")
    if not isinstance(clip_norm, Node) and clip_norm <= 0:
        raise ShapeError(f"clip_by_global_norm: clip_norm must be > 0, found {clip_norm}")
    return _scaled(x, [floating(v) for v in x], clip_norm, 2.0)


def _scaled(given: Any, nodes: list[Node], bound: Any, norm_type: float) -> Any:
    powers = []
    for node in nodes:
        size = elementwise.abs_(node)
        term = node * node if norm_type == 2 else math.pow_(size, float(norm_type))
        powers.append(to_dtype(reduce.reduce_sum(term, axes=tuple(range(node.type.rank))), f32))
    total = powers[0]
    for term in powers[1:]:
        total = total + term
    whole = math.sqrt(total) if norm_type == 2 else math.pow_(total, 1.0 / norm_type)
    limit = to_dtype(as_node(bound), f32) if isinstance(bound, Node) else constant(bound, f32)
    scale = limit / elementwise.maximum(whole, limit)
    scaled = [node * broadcast_to(to_dtype(scale, node.dtype), node.shape) for node in nodes]
    return type(given)(scaled) if isinstance(given, (tuple, list)) else scaled[0]
