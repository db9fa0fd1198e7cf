"""Losses, under MindSpore's names."""

from __future__ import annotations

import math as pymath
from typing import Any

import numpy as np

from graphopt.common.checks import check_choice
from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node
from graphopt.ir.types import i32
from graphopt.opdefs import elementwise, index, math, reduce
from graphopt.opdefs import shape as shapes
from graphopt.opdefs.opdef import constant, full
from graphopt.opdefs.scaffold import zero_of
from graphopt.ops.activation import positive, relu, softmax_node, softplus_node
from graphopt.ops.lift import lift
from graphopt.ops.promote import as_node, axis_of, floating, promoted_floats, to_dtype
from graphopt.ops.reduction import log_sum_exp

REDUCTIONS = ("none", "mean", "sum")


def reduced(loss: Node, reduction: str, owner: str) -> Node:
    """The loss per element, its mean, or its sum."""
    check_choice(owner, "reduction", reduction, REDUCTIONS)
    if reduction == "none":
        return loss
    total = reduce.reduce_sum(loss, axes=tuple(range(loss.type.rank)))
    return total if reduction == "sum" else total * (1.0 / max(loss.type.size, 1))


def weighted(loss: Node, weights: Any, reduction: str, owner: str) -> Node:
    """reduced, of the loss times weights."""
    if not isinstance(weights, Node) and weights == 1.0:
        return reduced(loss, reduction, owner)
    return reduced(
        loss * (to_dtype(weights, loss.dtype) if isinstance(weights, Node) else float(weights)), reduction, owner
    )


def _same_shape(owner: str, a: Any, b: Any) -> tuple[Node, Node]:
    x, y = promoted_floats(a, b)
    if x.shape != y.shape:
        raise ShapeError(f"{owner}: expected equal shapes, found {x.type} and {y.type}")
    return x, y


@lift
def mse_loss(input: Any, target: Any, reduction: str = "mean") -> Any:
    """Squared differences; shapes broadcast.

    >>> import graphopt as ms
    >>> float(ms.ops.mse_loss(ms.Tensor([1.0, 2.0]), ms.Tensor([1.0, 4.0])).asnumpy())
    2.0
    """
    a, b = promoted_floats(input, target)
    return reduced((a - b) * (a - b), reduction, "mse_loss")


@lift
def l1_loss(input: Any, target: Any, reduction: str = "mean") -> Any:
    """Absolute differences; shapes broadcast.

    >>> import graphopt as ms
    >>> float(ms.ops.l1_loss(ms.Tensor([1.0, 5.0]), ms.Tensor([2.0, 2.0])))
    2.0
    """
    a, b = promoted_floats(input, target)
    return reduced(elementwise.abs_(a - b), reduction, "l1_loss")


def _huber(difference: Node, bound: float) -> tuple[Node, Node, Node]:
    size = elementwise.abs_(difference)
    return elementwise.lt(size, full(size.shape, bound, size.dtype)), size, difference * difference


@lift
def smooth_l1_loss(input: Any, target: Any, beta: float = 1.0, reduction: str = "none") -> Any:
    """Half the squared difference over beta where it is below beta, the absolute difference - beta/2 elsewhere.

    Errors: ValueError when beta is negative or shapes differ.

    >>> import graphopt as ms
    >>> ms.ops.smooth_l1_loss(ms.Tensor([0.0, 0.0]), ms.Tensor([0.5, 3.0])).asnumpy().tolist()
    [0.125, 2.5]
    """
    if beta < 0:
        raise ShapeError(f"smooth_l1_loss: beta must be >= 0, found {beta}")
    a, b = _same_shape("smooth_l1_loss", input, target)
    if beta == 0:
        return reduced(elementwise.abs_(a - b), reduction, "smooth_l1_loss")
    near, size, square = _huber(a - b, beta)
    return reduced(elementwise.select(near, square * (0.5 / beta), size - 0.5 * beta), reduction, "smooth_l1_loss")


@lift
def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Any:
    """Half the squared difference where it is at most delta, delta * (|difference| - delta/2) elsewhere.

    Errors: ValueError when delta <= 0.

    >>> import graphopt as ms
    >>> float(ms.ops.huber_loss(ms.Tensor([0.0]), ms.Tensor([3.0])))
    2.5
    """
    if delta <= 0:
        raise ShapeError(f"huber_loss: delta must be > 0, found {delta}")
    a, b = promoted_floats(input, target)
    near, size, square = _huber(a - b, delta)
    return reduced(elementwise.select(near, square * 0.5, (size - 0.5 * delta) * delta), reduction, "huber_loss")


def _log_at_least(x: Node, low: float) -> Node:
    """log(x), not below `low`; where it would be, the derivative is that of a constant x."""
    floor = pymath.exp(low)
    bound = full(x.shape, max(floor, float(np.finfo(np.float32).tiny)), x.dtype)
    under = elementwise.lt(x, bound)
    return elementwise.select(under, full(x.shape, low, x.dtype), math.log(elementwise.select(under, bound, x)))


@lift
def binary_cross_entropy(logits: Any, labels: Any, weight: Any = None, reduction: str = "mean") -> Any:
    """-(y log p + (1 - y) log(1 - p)) for probabilities p in [0, 1]; logarithms are not below -100.

    Errors: ValueError when shapes differ.

    >>> import graphopt as ms
    >>> round(float(ms.ops.binary_cross_entropy(ms.Tensor([0.5]), ms.Tensor([1.0])).asnumpy()), 4)
    0.6931
    """
    p, y = _same_shape("binary_cross_entropy", logits, labels)
    loss = -(y * _log_at_least(p, -100.0) + (1.0 - y) * _log_at_least(1.0 - p, -100.0))
    return weighted(loss, 1.0 if weight is None else weight, reduction, "binary_cross_entropy")


@lift
def binary_cross_entropy_with_logits(
    input: Any, target: Any, weight: Any = None, pos_weight: Any = None, reduction: str = "mean"
) -> Any:
    """binary_cross_entropy of sigmoid(input), without overflow; pos_weight multiplies the loss of positives.

    Errors: ValueError when shapes differ.

    >>> import graphopt as ms
    >>> round(float(ms.ops.binary_cross_entropy_with_logits(ms.Tensor([0.0]), ms.Tensor([1.0]))), 4)
    0.6931
    """
    x, y = _same_shape("binary_cross_entropy_with_logits", input, target)
    if pos_weight is None:
        loss = relu.on_nodes(x) - x * y + math.log1p(math.exp(-elementwise.abs_(x)))
    else:
        loss = (1.0 - y) * x + ((to_dtype(pos_weight, y.dtype) - 1.0) * y + 1.0) * softplus_node(-x)
    return weighted(loss, 1.0 if weight is None else weight, reduction, "binary_cross_entropy_with_logits")


@lift
def kl_div(logits: Any, labels: Any, reduction: str = "mean") -> Any:
    """labels * (log(labels) - logits), 0 where a label is 0; reduction 'batchmean' divides the sum by the first axis.

    Errors: ValueError when shapes differ.

    >>> import graphopt as ms
    >>> round(float(ms.ops.kl_div(ms.ops.log(ms.Tensor([0.5, 0.5])), ms.Tensor([0.25, 0.75]))), 4)
    0.0654
    """
    check_choice("kl_div", "reduction", reduction, (*REDUCTIONS, "batchmean"))
    x, y = _same_shape("kl_div", logits, labels)
    there = positive(y)
    entropy = y * math.log(elementwise.select(there, y, full(y.shape, 1, y.dtype)))
    loss = elementwise.select(there, entropy - y * x, zero_of(x))
    if reduction == "batchmean":
        return reduced(loss, "sum", "kl_div") * (1.0 / max(x.shape[0], 1))
    return reduced(loss, reduction, "kl_div")


@lift
def softmax_cross_entropy_with_logits(logits: Any, labels: Any) -> Any:
    """(loss per row, softmax - labels) for labels as probabilities.

    Shapes: (N, C), (N, C) -> (N,), (N, C).

    >>> import graphopt as ms
    >>> found = ms.ops.softmax_cross_entropy_with_logits(ms.Tensor([[1.0, 1.0]]), ms.Tensor([[1.0, 0.0]]))
    >>> [[round(v, 4) for v in x.asnumpy().ravel().tolist()] for x in found]
    [[0.6931], [-0.5, 0.5]]
    """
    x, y = _same_shape("softmax_cross_entropy_with_logits", logits, labels)
    log_p = x - log_sum_exp(x, (1,))
    return -reduce.reduce_sum(y * log_p, axes=(1,)), softmax_node(x, (1,)) - y


def picked(x: Node, classes: Node, owner: str) -> Node:
    """x[n, classes[n, …], …]: along axis 1, the element of each position's class. A class that is not there gives 0.

    A comparison with every class number, not an indexed read: it is computed in one pass with the softmax before it,
    and so is its derivative.
    """
    if not classes.dtype.is_integer:
        raise DTypeError(f"{owner}: classes must be integers, found {classes.type}")
    expected = (x.shape[:1] + x.shape[2:]) if x.type.rank > 1 else ()
    if classes.shape != expected:
        raise ShapeError(f"{owner}: expected classes of shape {expected} for {x.type}, found {classes.type}")
    at = classes if classes.dtype.bits >= 32 else to_dtype(classes, i32)
    axis = 1 if x.type.rank > 1 else 0
    number = shapes.iota(shape=x.shape, axis=axis, dtype=at.dtype)
    wanted = shapes.broadcast(at, shape=x.shape, axes=tuple(k for k in range(x.type.rank) if k != axis))
    return reduce.reduce_sum(elementwise.select(elementwise.eq(number, wanted), x, zero_of(x)), axes=(axis,))


@lift
def nll_loss(
    inputs: Any,
    target: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """-weight[c] * inputs[n, c] for log-probabilities and classes c; positions of class ignore_index do not count.

    Shapes: (N, C, …) and (N, …). 'mean' divides by the weights that count.
    Errors: ValueError for other shapes or reductions.

    >>> import graphopt as ms
    >>> float(ms.ops.nll_loss(ms.Tensor([[-1.0, -2.0]]), ms.Tensor([1], ms.int32)).asnumpy())
    2.0
    """
    check_choice("nll_loss", "reduction", reduction, REDUCTIONS)
    x, classes = floating(inputs), as_node(target)
    counted = elementwise.ne(classes, full(classes.shape, ignore_index, classes.dtype))
    safe = elementwise.select(counted, classes, zero_of(classes))
    share = to_dtype(counted, x.dtype)
    if weight is not None:
        share = share * index.gather(to_dtype(weight, x.dtype), to_dtype(safe, i32), axis=0)
    loss = -picked(x, safe, "nll_loss") * share
    if label_smoothing:
        axis = 1 if x.type.rank > 1 else 0
        spread = x
        if weight is not None:
            spread = x * shapes.reshape(
                to_dtype(weight, x.dtype), shape=(-1 if not axis else x.shape[1], *(1,) * (x.type.rank - 2))
            )
        smooth = -reduce.reduce_sum(spread, axes=(axis,)) * to_dtype(counted, x.dtype)
        part = label_smoothing / x.shape[axis]
        return _nll_reduced(loss * (1.0 - label_smoothing) + smooth * part, share, reduction)
    return _nll_reduced(loss, share, reduction)


def _nll_reduced(loss: Node, share: Node, reduction: str) -> Node:
    if reduction == "none":
        return loss
    axes = tuple(range(loss.type.rank))
    total = reduce.reduce_sum(loss, axes=axes)
    return total if reduction == "sum" else total / reduce.reduce_sum(share, axes=axes)


@lift
def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """nll_loss of log_softmax(input) for integer classes; for float targets (probabilities of input's shape) their
    cross entropy.

    Shapes: (N, C, …) with (N, …) classes or (N, C, …) probabilities.
    Errors: ValueError for other shapes or reductions, or label_smoothing outside [0, 1].

    >>> import graphopt as ms
    >>> round(float(ms.ops.cross_entropy(ms.Tensor([[0.0, 0.0]]), ms.Tensor([1], ms.int32)).asnumpy()), 4)
    0.6931
    """
    check_choice("cross_entropy", "reduction", reduction, REDUCTIONS)
    if not 0 <= label_smoothing <= 1:
        raise ShapeError(f"cross_entropy: label_smoothing must be in [0, 1], found {label_smoothing}")
    x, y = floating(input), as_node(target)
    axis = 1 if x.type.rank > 1 else 0
    log_p = x - log_sum_exp(x, (axis,))
    if not y.dtype.is_float:
        return nll_loss.on_nodes(log_p, y, weight, ignore_index, reduction, label_smoothing)
    _same_shape("cross_entropy", x, y)
    classes = x.shape[axis]
    y = to_dtype(y, x.dtype)
    if label_smoothing:
        y = y * (1.0 - label_smoothing) + label_smoothing / classes
    if weight is not None:
        y = y * shapes.reshape(to_dtype(weight, x.dtype), shape=(classes, *(1,) * max(x.type.rank - 2, 0)))
    loss = -reduce.reduce_sum(y * log_p, axes=(axis,))
    return reduced(loss, reduction, "cross_entropy")


@lift
def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-08) -> Any:
    """Dot product over the product of norms, along `dim`; norms are not below eps.

    >>> import graphopt as ms
    >>> ms.ops.cosine_similarity(ms.Tensor([[3.0, 4.0]]), ms.Tensor([[-3.0, -4.0]])).asnumpy().tolist()
    [-1.0]
    """
    a, b = promoted_floats(x1, x2)
    at = (axis_of(dim, a.type.rank),)
    floor = constant(eps * eps, a.dtype)
    squares = [elementwise.maximum(reduce.reduce_sum(v * v, axes=at), floor) for v in (a, b)]
    return reduce.reduce_sum(a * b, axes=at) / (math.sqrt(squares[0]) * math.sqrt(squares[1]))
