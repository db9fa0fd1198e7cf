"""Normalisation, under MindSpore's names."""

from __future__ import annotations

import math as pymath
from typing import Any

from graphopt.common.parameter import Parameter
from graphopt.common.tensor import Tensor, apply
from graphopt.errors import ShapeError
from graphopt.ir.graph import Node
from graphopt.ir.types import f32, f64
from graphopt.opdefs import elementwise, math, reduce
from graphopt.opdefs import shape as shapes
from graphopt.opdefs.opdef import constant
from graphopt.ops.lift import lift
from graphopt.ops.promote import axes_of, floating, keep, promoted, to_dtype
from graphopt.ops.state import assign


def per_channel(v: Node, x: Node) -> Node:
    """v (C,) along axis 1 of x."""
    return shapes.broadcast(v, shape=x.shape, axes=(1,))


def wide_enough(x: Node) -> Node:
    """x in float32 at least: sums over many elements need the digits."""
    return x if x.dtype is f64 else to_dtype(x, f32)


def moments(x: Node, axes: tuple[int, ...]) -> tuple[Node, Node]:
    """(mean, biased variance) over `axes`, which stay with size 1; their derivatives take a sum less than the definition's.

    The variance is the mean square of x - c less the square of mean - c, whatever the constant c. With the mean's value
    as c its derivatives, of any order, are those of a variance and need no sum over x - mean, which is zero: so a count
    divides, as its rounded reciprocal would make another mean.
    """
    count = float(max(pymath.prod(x.shape[k] for k in axes), 1))
    middle = keep(reduce.reduce_sum(x, axes=axes) / count, x.shape, axes, True)
    fixed = elementwise.stop_gradient(middle)
    centred, off = x - fixed, middle - fixed
    return middle, keep(reduce.reduce_sum(centred * centred, axes=axes) / count, x.shape, axes, True) - off * off


def batch_norm_train(x: Node, weight: Node, bias: Node, eps: float) -> tuple[Node, Node, Node]:
    """(normalised x, batch mean, unbiased batch variance): what training needs. Statistics are in float32 at
    least.
    """
    kind = weight.dtype if weight.dtype is f64 else f32
    wide, weight, bias = (to_dtype(n, kind) for n in (x, weight, bias))
    axes = (0, *range(2, x.type.rank))
    middle, variance = moments(wide, axes)
    shape = tuple(1 if k in axes else n for k, n in enumerate(x.shape))
    scale = shapes.reshape(weight, shape=shape) * math.rsqrt(variance + eps)
    y = (wide - middle) * scale + shapes.reshape(bias, shape=shape)
    count = x.type.size // x.shape[1]
    unbiased = shapes.reshape(variance, shape=(x.shape[1],)) * (count / max(count - 1, 1))
    return to_dtype(y, x.dtype), shapes.reshape(middle, shape=(x.shape[1],)), unbiased


def batch_norm_infer(x: Node, mean: Node, variance: Node, weight: Node, bias: Node, eps: float) -> Node:
    """x normalised by given statistics, in float32 at least."""
    kind = weight.dtype if weight.dtype is f64 else f32
    wide, mean, variance, weight, bias = (to_dtype(n, kind) for n in (x, mean, variance, weight, bias))
    scale = weight * math.rsqrt(variance + eps)
    y = wide * per_channel(scale, x) + per_channel(bias - mean * scale, x)
    return to_dtype(y, x.dtype)


def running_batch_norm(
    x: Tensor, scale: Any, bias: Any, mean: Any, variance: Any, training: bool, momentum: float, eps: float
) -> tuple[Any, Any, Any, Any, Any]:
    """(y, mean, variance, mean, variance), normalised by the given statistics, or when training by the batch's.

    Training moves Parameters `mean` and `variance` by `momentum` towards the batch's mean and unbiased variance.
    """
    if not training:
        y = apply(lambda n, m, v, g, b: batch_norm_infer(n, m, v, g, b, eps), x, mean, variance, scale, bias)
        return y, mean, variance, mean, variance
    y, batch_mean, batch_variance = apply(lambda n, g, b: batch_norm_train(n, g, b, eps), x, scale, bias)
    for state, value in ((mean, batch_mean), (variance, batch_variance)):
        if isinstance(state, Parameter):
            assign(state, state * (1.0 - momentum) + value.astype(state.dtype) * momentum)
    return y, batch_mean, batch_variance, batch_mean, batch_variance


def batch_norm(
    input_x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any,
    bias: Any,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Channels (axis 1) normalised by the running statistics, or when training by the batch's.

    Training moves Parameters running_mean and running_var by `momentum` towards the batch's mean and unbiased
    variance.

    >>> import graphopt as ms
    >>> zero, one = ms.ops.zeros(1), ms.ops.ones(1)
    >>> ms.ops.batch_norm(ms.Tensor([[3.0], [5.0]]), one, 4 * one, one, zero, eps=0.0).asnumpy().tolist()
    [[1.0], [2.0]]
    """
    return running_batch_norm(input_x, weight, bias, running_mean, running_var, training, momentum, eps)[0]


@lift
def layer_norm(input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-05) -> Any:
    """The last axes (normalized_shape) brought to mean 0 and variance 1, times weight, plus bias.

    Errors: ValueError when normalized_shape is not the end of the input's shape.

    >>> import graphopt as ms
    >>> ms.ops.layer_norm(ms.Tensor([[1.0, 3.0]]), (2,), eps=0.0).asnumpy().tolist()
    [[-1.0, 1.0]]
    """
    x = floating(input)
    tail = tuple(normalized_shape) if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
    if x.shape[x.type.rank - len(tail) :] != tail:
        raise ShapeError(f"layer_norm: expected an input ending with {tail}, found {x.type}")
    wide = wide_enough(x)
    middle, variance = moments(wide, tuple(range(x.type.rank - len(tail), x.type.rank)))
    y = (wide - middle) * math.rsqrt(variance + eps)
    y = y if weight is None else y * to_dtype(weight, wide.dtype)
    return to_dtype(y if bias is None else y + to_dtype(bias, wide.dtype), x.dtype)


@lift
def group_norm(input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-05) -> Any:
    """Channels in num_groups groups, each brought to mean 0 and variance 1, times weight, plus bias (per channel).

    Shapes: (N, C, …); num_groups divides C.
    Errors: ValueError when it does not.

    >>> import graphopt as ms
    >>> ms.ops.group_norm(ms.Tensor([[[1.0], [3.0], [2.0], [6.0]]]), 2, eps=0.0).asnumpy().ravel().tolist()
    [-1.0, 1.0, -1.0, 1.0]
    """
    x = floating(input)
    if x.type.rank < 2 or x.shape[1] % num_groups:
        raise ShapeError(f"group_norm: expected channels in multiples of {num_groups}, found {x.type}")
    wide = wide_enough(x)
    rows = shapes.reshape(wide, shape=(x.shape[0], num_groups, x.type.size // max(x.shape[0] * num_groups, 1)))
    middle, variance = moments(rows, (2,))
    y = shapes.reshape((rows - middle) * math.rsqrt(variance + eps), shape=x.shape)
    y = y if weight is None else y * per_channel(to_dtype(weight, wide.dtype), x)
    return to_dtype(y if bias is None else y + per_channel(to_dtype(bias, wide.dtype), x), x.dtype)


@lift
def rms_norm(x: Any, gamma: Any, epsilon: float = 1e-6) -> Any:
    """(x / rms(x) * gamma, 1 / rms) over the axes of gamma, the last ones.

    >>> import graphopt as ms
    >>> [[round(v, 4) for v in x.asnumpy().tolist()] for x in ms.ops.rms_norm(ms.Tensor([1.0, 7.0]), ms.ops.ones(2))]
    [[0.2, 1.4], [0.2]]
    """
    node, weight = promoted(x, gamma)
    axes = tuple(range(node.type.rank - weight.type.rank, node.type.rank))
    count = max(pymath.prod(weight.shape), 1)
    square = keep(reduce.reduce_sum(node * node, axes=axes) * (1.0 / count), node.shape, axes, True)
    scale = math.rsqrt(square + epsilon)
    return node * scale * weight, scale


@lift
def l2_normalize(x: Any, axis: Any = 0, epsilon: float = 1e-4) -> Any:
    """x over its Euclidean norm along `axis`; the squared norm is not below epsilon.

    >>> import graphopt as ms
    >>> [round(v, 4) for v in ms.ops.l2_normalize(ms.Tensor([3.0, 4.0])).asnumpy().tolist()]
    [0.6, 0.8]
    """
    node = floating(x)
    axes = axes_of(axis, node.type.rank, "l2_normalize")
    square = keep(reduce.reduce_sum(node * node, axes=axes), node.shape, axes, True)
    return node * math.rsqrt(elementwise.maximum(square, constant(epsilon, node.dtype)))
