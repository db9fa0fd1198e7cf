"""Activations, losses, convolutions, pooling, normalisation: MindSpore's names, written on nodes and lifted."""

from __future__ import annotations

import math as pymath
from typing import Any

import numpy as np

from graphopt.common.checks import check_choice, found, int_tuple
from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node
from graphopt.ir.types import DType, dtype_of, i32
from graphopt.opdefs import conv as convs
from graphopt.opdefs import elementwise, index, linalg, math, reduce, window
from graphopt.opdefs import shape as shapes
from graphopt.opdefs.opdef import broadcast_to, constant, full
from graphopt.opdefs.scaffold import zero_of
from graphopt.ops.lift import lift
from graphopt.ops.math import log_sum_exp
from graphopt.ops.promote import as_node, axes_of, axis_of, floating, keep, promoted, to_dtype

REDUCTIONS = ("none", "mean", "sum")

# activations


def _positive(x: Node) -> Node:
    return elementwise.gt(x, zero_of(x))


@lift
def relu(input: Any, inplace: bool = False) -> Any:
    """max(x, 0), with derivative 0 at 0."""
    x = as_node(input)
    return elementwise.select(elementwise.le(x, zero_of(x)), zero_of(x), x)


@lift
def relu6(x: Any) -> Any:
    """min(max(x, 0), 6)."""
    node = as_node(x)
    top = full(node.shape, 6, node.dtype)
    capped = elementwise.select(elementwise.ge(node, top), top, node)
    return relu.on_nodes(capped)


@lift
def leaky_relu(input: Any, alpha: float = 0.2) -> Any:
    """x where positive, alpha * x elsewhere."""
    x = floating(input)
    return elementwise.select(_positive(x), x, x * alpha)


@lift
def prelu(input: Any, weight: Any) -> Any:
    """x where positive, weight * x elsewhere; weight has one element, or one per channel (axis 1).

    Errors: ValueError when weight has another size.
    """
    x, w = promoted(input, weight)
    channels = x.shape[1] if x.type.rank > 1 else 1
    if w.type.size not in (1, channels):
        raise ShapeError(f"prelu: expected a weight of size 1 or {channels}, found {w.type}")
    shape = (w.type.size, *(1,) * (x.type.rank - 2)) if x.type.rank > 1 else ()
    return elementwise.select(_positive(x), x, x * shapes.reshape(w, shape=shape))


@lift
def elu(input_x: Any, alpha: float = 1.0) -> Any:
    """x where positive, alpha * (exp(x) - 1) elsewhere."""
    x = floating(input_x)
    below = elementwise.select(_positive(x), zero_of(x), x)
    return elementwise.select(_positive(x), x, math.expm1(below) * alpha)


@lift
def celu(x: Any, alpha: float = 1.0) -> Any:
    """x where positive, alpha * (exp(x/alpha) - 1) elsewhere."""
    if alpha == 0:
        raise ShapeError("celu: alpha must not be 0")
    node = floating(x)
    below = elementwise.select(_positive(node), zero_of(node), node)
    return elementwise.select(_positive(node), node, math.expm1(below * (1.0 / alpha)) * alpha)


@lift
def selu(input_x: Any) -> Any:
    """1.0507… times elu with alpha 1.67326…: keeps mean 0 and variance 1."""
    return elu.on_nodes(input_x, 1.6732632423543772) * 1.0507009873554805


@lift
def gelu(input: Any, approximate: str = "none") -> Any:
    """x times the normal distribution function: exact ('none') or by tanh ('tanh').

    Errors: ValueError for another `approximate`.
    """
    check_choice("gelu", "approximate", approximate, ("none", "tanh"))
    x = floating(input)
    if approximate == "none":
        return x * 0.5 * (math.erf(x * pymath.sqrt(0.5)) + 1.0)
    inner = (x + x * x * x * 0.044715) * pymath.sqrt(2.0 / pymath.pi)
    return x * 0.5 * (math.tanh(inner) + 1.0)


@lift
def fast_gelu(x: Any) -> Any:
    """x * sigmoid(1.702 x), written so that it cannot overflow."""
    node = floating(x)
    return node * math.sigmoid(node * 1.702)


@lift
def silu(input: Any) -> Any:
    """x * sigmoid(x)."""
    x = floating(input)
    return x * math.sigmoid(x)


@lift
def sigmoid(input: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return math.sigmoid(floating(input))


@lift
def softplus(input: Any, beta: float = 1, threshold: float = 20) -> Any:
    """log(1 + exp(beta x)) / beta; the line x itself where beta x > threshold."""
    x = floating(input)
    scaled = x * float(beta)
    high = elementwise.gt(scaled, full(x.shape, threshold, x.dtype))
    low = elementwise.select(high, zero_of(x), scaled)
    return elementwise.select(high, x, _softplus(low) * (1.0 / beta))


def _softplus(x: Node) -> Node:
    """log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|))."""
    return relu.on_nodes(x) + math.log1p(math.exp(-elementwise.abs_(x)))


@lift
def mish(x: Any) -> Any:
    """x * tanh(log(1 + exp(x)))."""
    node = floating(x)
    return node * math.tanh(_softplus(node))


@lift
def logsigmoid(x: Any) -> Any:
    """log(sigmoid(x)), without overflow."""
    return -_softplus(-floating(x))


@lift
def softsign(x: Any) -> Any:
    """x / (1 + |x|)."""
    node = floating(x)
    return node / (elementwise.abs_(node) + 1.0)


@lift
def tanhshrink(input: Any) -> Any:
    """x - tanh(x)."""
    x = floating(input)
    return x - math.tanh(x)


@lift
def hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    """x brought into [min_val, max_val]."""
    x = floating(input)
    low, high = full(x.shape, min_val, x.dtype), full(x.shape, max_val, x.dtype)
    x = elementwise.select(elementwise.lt(x, low), low, x)
    return elementwise.select(elementwise.gt(x, high), high, x)


def _gate(x: Node) -> Node:
    """x + 3 brought into [0, 6], over 6."""
    return relu6.on_nodes(x + 3.0) * (1.0 / 6.0)


@lift
def hardsigmoid(input: Any) -> Any:
    """(x + 3) / 6 brought into [0, 1]."""
    return _gate(floating(input))


@lift
def hardswish(input: Any) -> Any:
    """x * hardsigmoid(x)."""
    x = floating(input)
    return x * _gate(x)


hsigmoid, hswish = hardsigmoid, hardswish


@lift
def hardshrink(input: Any, lambd: float = 0.5) -> Any:
    """x where |x| > lambd, 0 elsewhere."""
    x = floating(input)
    return elementwise.select(elementwise.abs_(x) > lambd, x, zero_of(x))


@lift
def softshrink(input: Any, lambd: float = 0.5) -> Any:
    """x moved towards 0 by lambd, 0 when it is nearer."""
    x = floating(input)
    shrunk = x - elementwise.sign(x) * lambd
    return elementwise.select(elementwise.abs_(x) > lambd, shrunk, zero_of(x))


@lift
def threshold(input: Any, thr: float, value: float) -> Any:
    """x where x > thr, `value` elsewhere."""
    x = as_node(input)
    return elementwise.select(x > thr, x, full(x.shape, value, x.dtype))


@lift
def glu(x: Any, axis: int = -1) -> Any:
    """The first half along an axis times the sigmoid of the second."""
    node = floating(x)
    at = axis_of(axis, node.type.rank, "glu")
    half = node.shape[at] // 2
    if node.shape[at] % 2:
        raise ShapeError(f"glu: the size of axis {axis} must be even, found {node.type}")
    return shapes.along(node, at, 0, half) * math.sigmoid(shapes.along(node, at, half, 2 * half))


def softmax_node(x: Node, axes: tuple[int, ...]) -> Node:
    """exp(x) over its sum along `axes`; the maximum is taken off first and goes through no derivative."""
    top = elementwise.stop_gradient(reduce.reduce_max(x, axes=axes))
    grown = math.exp(x - reduce.spread(top, x.shape, axes))
    return grown / reduce.spread(reduce.reduce_sum(grown, axes=axes), x.shape, axes)


@lift
def softmax(input: Any, axis: Any = -1, *, dtype: DType | None = None) -> Any:
    """exp(x) over its sum along `axis`, without overflow.

    Errors: ValueError for an axis that is not there.
    """
    x = floating(input if dtype is None else to_dtype(as_node(input), dtype_of(dtype)))
    return softmax_node(x, axes_of(axis, x.type.rank, "softmax")) if x.type.rank else x * 0.0 + 1.0


@lift
def log_softmax(logits: Any, axis: int = -1) -> Any:
    """log(softmax(x)), without overflow."""
    x = floating(logits)
    return x - log_sum_exp(x, (axis_of(axis, x.type.rank, "log_softmax"),))


@lift
def softmin(x: Any, axis: int = -1, *, dtype: DType | None = None) -> Any:
    """softmax(-x)."""
    return softmax.on_nodes(-floating(x), axis, dtype=dtype)


# losses


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
    x, y = (floating(v) for v in promoted(a, b))
    if x.shape != y.shape:
        raise ShapeError(f"{owner}: expected equal shapes, found {x.type} and {y.type}")
    return x, y


@lift
def mse_loss(input: Any, target: Any, reduction: str = "mean") -> Any:
    """Squared differences; shapes broadcast."""
    a, b = (floating(v) for v in promoted(input, target))
    return reduced((a - b) * (a - b), reduction, "mse_loss")


@lift
def l1_loss(input: Any, target: Any, reduction: str = "mean") -> Any:
    """Absolute differences; shapes broadcast."""
    a, b = (floating(v) for v in promoted(input, target))
    return reduced(elementwise.abs_(a - b), reduction, "l1_loss")


def _huber(difference: Node, bound: float) -> tuple[Node, Node, Node]:
    size = elementwise.abs_(difference)
    return elementwise.lt(size, full(size.shape, bound, size.dtype)), size, difference * difference


@lift
def smooth_l1_loss(input: Any, target: Any, beta: float = 1.0, reduction: str = "none") -> Any:
    """Half the squared difference over beta where it is below beta, the absolute difference - beta/2 elsewhere.

    Errors: ValueError when beta is negative or shapes differ.
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
    """
    if delta <= 0:
        raise ShapeError(f"huber_loss: delta must be > 0, found {delta}")
    a, b = (floating(v) for v in promoted(input, target))
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
    """
    x, y = _same_shape("binary_cross_entropy_with_logits", input, target)
    if pos_weight is None:
        loss = relu.on_nodes(x) - x * y + math.log1p(math.exp(-elementwise.abs_(x)))
    else:
        loss = (1.0 - y) * x + ((to_dtype(pos_weight, y.dtype) - 1.0) * y + 1.0) * _softplus(-x)
    return weighted(loss, 1.0 if weight is None else weight, reduction, "binary_cross_entropy_with_logits")


@lift
def kl_div(logits: Any, labels: Any, reduction: str = "mean") -> Any:
    """labels * (log(labels) - logits), 0 where a label is 0; reduction 'batchmean' divides the sum by the first axis.

    Errors: ValueError when shapes differ.
    """
    check_choice("kl_div", "reduction", reduction, (*REDUCTIONS, "batchmean"))
    x, y = _same_shape("kl_div", logits, labels)
    there = _positive(y)
    entropy = y * math.log(elementwise.select(there, y, full(y.shape, 1, y.dtype)))
    loss = elementwise.select(there, entropy - y * x, zero_of(x))
    if reduction == "batchmean":
        return reduced(loss, "sum", "kl_div") * (1.0 / max(x.shape[0], 1))
    return reduced(loss, reduction, "kl_div")


@lift
def softmax_cross_entropy_with_logits(logits: Any, labels: Any) -> Any:
    """(loss per row, softmax - labels) for labels as probabilities.

    Shapes: (N, C), (N, C) -> (N,), (N, C).
    """
    x, y = _same_shape("softmax_cross_entropy_with_logits", logits, labels)
    log_p = x - log_sum_exp(x, (1,))
    return -reduce.reduce_sum(y * log_p, axes=(1,)), softmax_node(x, (1,)) - y


def picked(x: Node, classes: Node, owner: str) -> Node:
    """x[n, classes[n, …], …]: along axis 1, the element of each position's class. A class that is not there gives
    0.
    """
    if not classes.dtype.is_integer:
        raise DTypeError(f"{owner}: classes must be integers, found {classes.type}")
    expected = (x.shape[:1] + x.shape[2:]) if x.type.rank > 1 else ()
    if classes.shape != expected:
        raise ShapeError(f"{owner}: expected classes of shape {expected} for {x.type}, found {classes.type}")
    at = classes if classes.dtype.bits >= 32 else to_dtype(classes, i32)
    axis = 1 if x.type.rank > 1 else 0
    lifted = shapes.reshape(at, shape=(*at.shape[:axis], 1, *at.shape[axis:]))
    return shapes.reshape(index.take_along(x, lifted, axis=axis), shape=at.shape)


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
    """Dot product over the product of norms, along `dim`; norms are not below eps."""
    a, b = (floating(v) for v in promoted(x1, x2))
    at = (axis_of(dim, a.type.rank),)
    floor = constant(eps * eps, a.dtype)
    squares = [elementwise.maximum(reduce.reduce_sum(v * v, axes=at), floor) for v in (a, b)]
    return reduce.reduce_sum(a * b, axes=at) / (math.sqrt(squares[0]) * math.sqrt(squares[1]))


# linear maps


@lift
def bias_add(input_x: Any, bias: Any) -> Any:
    """input_x plus bias along axis 1.

    Errors: ValueError when bias has not the size of axis 1.
    """
    x, b = promoted(input_x, bias)
    if b.type.rank != 1 or x.type.rank < 2 or x.shape[1] != b.shape[0]:
        raise ShapeError(f"bias_add: expected a bias for axis 1 of {x.type}, found {b.type}")
    return x + shapes.broadcast(b, shape=x.shape, axes=(1,))


@lift
def dense(input: Any, weight: Any, bias: Any = None) -> Any:
    """input @ weight.T + bias.

    Shapes: (…, in), (out, in), (out,) -> (…, out).
    Errors: ValueError when sizes do not fit.
    """
    x, w = promoted(input, weight)
    if x.type.rank < 1 or w.type.rank != 2 or x.shape[-1] != w.shape[1]:
        raise ShapeError(f"dense: expected an input (…, {w.shape[-1]}) for weight {w.type}, found {x.type}")
    y = linalg.dot_general(x, w, contract=((x.type.rank - 1,), (1,)), batch=((), ()))
    return y if bias is None else y + to_dtype(bias, y.dtype)


def spatial_padding(
    owner: str,
    pad_mode: str,
    padding: Any,
    image: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: Any,
    dilation: Any,
) -> tuple[tuple[int, int], ...]:
    """(before, after) per spatial axis for 'same', 'valid' or 'pad'; padding is an int, one per axis, or two per
    axis.

    Errors: ValueError for another mode, or padding given without 'pad'.
    """
    mode = check_choice(
        owner, "pad_mode", pad_mode.lower() if isinstance(pad_mode, str) else pad_mode, ("same", "valid", "pad")
    )
    axes = len(kernel)
    numbers = (padding,) * (2 * axes) if isinstance(padding, int) else tuple(padding)
    if len(numbers) == axes:
        numbers = tuple(n for n in numbers for _ in range(2))
    if len(numbers) != 2 * axes or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in numbers):
        raise ShapeError(f"{owner}: padding must be an int >= 0 or {2 * axes} of them, found {padding!r}")
    if mode != "pad" and any(numbers):
        raise ShapeError(f"{owner}: padding must be 0 when pad_mode is {mode!r}, found {padding!r}")
    if mode == "same":
        return convs.same_padding(image, kernel, stride, dilation)
    return tuple((numbers[2 * k], numbers[2 * k + 1]) for k in range(axes))


def _convolution(
    owner: str,
    rank: int,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    pad_mode: str,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Node:
    x, w = promoted(input, weight)
    if x.type.rank != rank + 2 or w.type.rank != rank + 2:
        raise ShapeError(f"{owner}: expected input and weight with {rank + 2} axes, found {x.type} and {w.type}")
    strides = int_tuple(owner, "stride", _spatial(stride, rank), rank)
    steps = int_tuple(owner, "dilation", _spatial(dilation, rank), rank)
    pads = spatial_padding(owner, pad_mode, padding, x.shape[2:], w.shape[2:], strides, steps)
    y = convs.conv(x, w, strides=strides, padding=pads, dilation=steps, groups=groups)
    return y if bias is None else y + shapes.broadcast(to_dtype(bias, y.dtype), shape=y.shape, axes=(1,))


def _spatial(value: Any, rank: int) -> Any:
    """A 1-tuple stands for every axis; a 4-tuple (1, 1, h, w) for its last two."""
    if isinstance(value, (tuple, list)):
        return value[0] if len(value) == 1 else tuple(value)[-rank:] if len(value) == rank + 2 else tuple(value)
    return value


@lift
def conv1d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    pad_mode: str = "valid",
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Cross-correlation over one axis. Shapes: (N, C, L), (O, C/groups, K) -> (N, O, L')."""
    return _convolution("conv1d", 1, input, weight, bias, stride, pad_mode, padding, dilation, groups)


@lift
def conv2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    pad_mode: str = "valid",
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Cross-correlation over two axes. Shapes: (N, C, H, W), (O, C/groups, KH, KW) -> (N, O, H', W').

    pad_mode: 'valid' none, 'same' so that H' = ceil(H/stride), 'pad' by `padding`: an int, (h, w) or (top, bottom,
    left, right).
    Errors: ValueError for shapes or arguments that do not fit.
    """
    return _convolution("conv2d", 2, input, weight, bias, stride, pad_mode, padding, dilation, groups)


@lift
def conv3d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    pad_mode: str = "valid",
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Cross-correlation over three axes. Shapes: (N, C, D, H, W), (O, C/groups, KD, KH, KW)."""
    return _convolution("conv3d", 3, input, weight, bias, stride, pad_mode, padding, dilation, groups)


# pooling


def pool_padding(
    x: Node,
    owner: str,
    kernel: tuple[int, ...],
    stride: Any,
    pad_mode: str,
    padding: Any,
    ceil_mode: bool,
    dilation: Any,
) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """(padding of each spatial axis, the extra elements at its end that ceil_mode asks for)."""
    image = x.shape[x.type.rank - len(kernel) :]
    pads = spatial_padding(owner, pad_mode, padding, image, kernel, stride, dilation)
    extra = []
    for n, k, s, d, (lo, hi) in zip(image, kernel, stride, dilation, pads, strict=True):
        rest = (n + lo + hi - ((k - 1) * d + 1)) % s
        windows = (n + lo + hi - ((k - 1) * d + 1)) // s + 1
        starts_inside = windows * s < n + lo
        extra.append(s - rest if ceil_mode and rest and starts_inside else 0)
    return pads, tuple(extra)


def max_pool_node(
    x: Node,
    owner: str,
    kernel: Any,
    stride: Any,
    pad_mode: str,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    indices: bool,
) -> Any:
    """Largest element of each window, and its position in the plane when asked for."""
    pads, extra = pool_padding(x, owner, kernel, stride, pad_mode, padding, ceil_mode, dilation)
    whole = tuple((lo, hi + e) for (lo, hi), e in zip(pads, extra, strict=True))
    values = window.window_max(x, kernel, stride, whole, dilation)
    if not indices:
        return values
    return values, window.window_argmax(x, **window.window_attrs(kernel, stride, whole, dilation))


def avg_pool_node(
    x: Node,
    owner: str,
    kernel: Any,
    stride: Any,
    pad_mode: str,
    padding: Any,
    ceil_mode: bool,
    count_pad: bool,
    divisor: int | None,
) -> Node:
    """Mean of each window. With 'same', padding never counts; what ceil_mode adds never counts either."""
    x = floating(x)
    ones = (1,) * len(kernel)
    pads, extra = pool_padding(x, owner, kernel, stride, pad_mode, padding, ceil_mode, ones)
    if pad_mode.lower() == "same":
        return window.window_mean(x, kernel, stride, pads, count_padding=False, divisor=divisor)
    if not any(extra):
        return window.window_mean(x, kernel, stride, pads, count_padding=count_pad, divisor=divisor)
    whole = tuple((lo, hi + e) for (lo, hi), e in zip(pads, extra, strict=True))
    total = window.window_sum(x, kernel, stride, whole)
    if divisor is not None:
        return total * (1.0 / divisor)
    counts = np.ones(())
    lead = x.type.rank - len(kernel)
    for n, k, s, (lo, hi), size in zip(x.shape[lead:], kernel, stride, pads, total.shape[lead:], strict=True):
        first = np.arange(size) * s - lo
        low, high = (-lo, n + hi) if count_pad else (0, n)
        counts = np.multiply.outer(counts, np.minimum(first + k, high) - np.maximum(first, low))
    return total * broadcast_to(constant(1.0 / np.maximum(counts, 1), x.dtype), total.shape)


@lift
def max_pool2d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    return_indices: bool = False,
    ceil_mode: bool = False,
) -> Any:
    """The largest element of each window; padding never wins. return_indices: also its position in the (H, W) plane
    (int64).

    Shapes: (N, C, H, W) -> (N, C, H', W'). stride is kernel_size unless given.
    """
    kernel = int_tuple("max_pool2d", "kernel_size", kernel_size, 2)
    steps = int_tuple("max_pool2d", "stride", kernel_size if stride is None else stride, 2)
    spread = int_tuple("max_pool2d", "dilation", dilation, 2)
    made = max_pool_node(as_node(x), "max_pool2d", kernel, steps, "pad", padding, spread, ceil_mode, return_indices)
    return made


def _avg(
    owner: str, rank: int, x: Any, kernel_size: Any, stride: Any, padding: Any, ceil: bool, count: bool, divisor: Any
) -> Node:
    kernel = int_tuple(owner, "kernel_size", kernel_size, rank)
    steps = int_tuple(owner, "stride", stride, rank)
    return avg_pool_node(as_node(x), owner, kernel, steps, "pad", padding, ceil, count, divisor or None)


@lift
def avg_pool1d(
    input_x: Any,
    kernel_size: Any = 1,
    stride: Any = 1,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """The mean of each window. Shapes: (N, C, L) -> (N, C, L')."""
    return _avg("avg_pool1d", 1, input_x, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


@lift
def avg_pool2d(
    input_x: Any,
    kernel_size: Any = 1,
    stride: Any = 1,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int = 0,
) -> Any:
    """The mean of each window. Shapes: (N, C, H, W) -> (N, C, H', W')."""
    return _avg(
        "avg_pool2d", 2, input_x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


@lift
def adaptive_avg_pool2d(input: Any, output_size: Any) -> Any:
    """Means over a grid of output_size windows as equal as can be; None keeps the size of an axis.

    Shapes: (N, C, H, W) or (C, H, W) -> (…, *output_size).
    """
    x = floating(input)
    sizes = output_size if isinstance(output_size, tuple) else (output_size, output_size)
    return _adaptive(x, sizes)


@lift
def adaptive_avg_pool1d(input: Any, output_size: int) -> Any:
    """Means over output_size windows as equal as can be. Shapes: (N, C, L) -> (N, C, output_size)."""
    return _adaptive(floating(input), (output_size,))


def _adaptive(x: Node, sizes: tuple[int | None, ...]) -> Node:
    lead = x.type.rank - len(sizes)
    if lead < 1:
        raise ShapeError(f"adaptive_avg_pool: expected more than {len(sizes)} axes, found {x.type}")
    targets = tuple(n if m is None else m for n, m in zip(x.shape[lead:], sizes, strict=True))
    if all(n % m == 0 for n, m in zip(x.shape[lead:], targets, strict=True)):
        kernel = tuple(n // m for n, m in zip(x.shape[lead:], targets, strict=True))
        return window.window_mean(x, kernel, kernel)
    for axis, (n, m) in enumerate(zip(x.shape[lead:], targets, strict=True), lead):
        share = np.zeros((n, m))
        for k in range(m):
            low, high = k * n // m, -(-(k + 1) * n // m)
            share[low:high, k] = 1.0 / (high - low)
        y = linalg.dot_general(x, constant(share, x.dtype), contract=((axis,), (0,)), batch=((), ()))
        order = (*range(axis), x.type.rank - 1, *range(axis, x.type.rank - 1))
        x = shapes.transpose(y, perm=order) if order != tuple(range(x.type.rank)) else y
    return x


# normalisation


def per_channel(v: Node, x: Node) -> Node:
    """v (C,) along axis 1 of x."""
    return shapes.broadcast(v, shape=x.shape, axes=(1,))


def moments(x: Node, axes: tuple[int, ...]) -> tuple[Node, Node]:
    """(mean, biased variance) over `axes`, which stay with size 1."""
    count = max(pymath.prod(x.shape[k] for k in axes), 1)
    middle = keep(reduce.reduce_sum(x, axes=axes) * (1.0 / count), x.shape, axes, True)
    centred = x - middle
    return middle, keep(reduce.reduce_sum(centred * centred, axes=axes) * (1.0 / count), x.shape, axes, True)


def batch_norm_train(x: Node, weight: Node, bias: Node, eps: float) -> tuple[Node, Node, Node]:
    """(normalised x, batch mean, unbiased batch variance): what training needs. Statistics are in float32 at
    least.
    """
    wide = to_dtype(x, weight.dtype)
    axes = (0, *range(2, x.type.rank))
    middle, variance = moments(wide, axes)
    shape = tuple(1 if k in axes else n for k, n in enumerate(x.shape))
    scale = shapes.reshape(weight, shape=shape) * math.rsqrt(variance + eps)
    y = (wide - middle) * scale + shapes.reshape(bias, shape=shape)
    count = x.type.size // x.shape[1]
    unbiased = shapes.reshape(variance, shape=(x.shape[1],)) * (count / max(count - 1, 1))
    return to_dtype(y, x.dtype), shapes.reshape(middle, shape=(x.shape[1],)), unbiased


def batch_norm_infer(x: Node, mean: Node, variance: Node, weight: Node, bias: Node, eps: float) -> Node:
    """x normalised by given statistics."""
    scale = weight * math.rsqrt(variance + eps)
    y = to_dtype(x, weight.dtype) * per_channel(scale, x) + per_channel(bias - mean * scale, x)
    return to_dtype(y, x.dtype)


@lift
def layer_norm(input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-05) -> Any:
    """The last axes (normalized_shape) brought to mean 0 and variance 1, times weight, plus bias.

    Errors: ValueError when normalized_shape is not the end of the input's shape.
    """
    x = floating(input)
    tail = tuple(normalized_shape) if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
    if x.shape[x.type.rank - len(tail) :] != tail:
        raise ShapeError(f"layer_norm: expected an input ending with {tail}, found {x.type}")
    middle, variance = moments(x, tuple(range(x.type.rank - len(tail), x.type.rank)))
    y = (x - middle) * math.rsqrt(variance + eps)
    y = y if weight is None else y * to_dtype(weight, x.dtype)
    return y if bias is None else y + to_dtype(bias, x.dtype)


@lift
def group_norm(input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-05) -> Any:
    """Channels in num_groups groups, each brought to mean 0 and variance 1, times weight, plus bias (per channel).

    Shapes: (N, C, …); num_groups divides C.
    Errors: ValueError when it does not.
    """
    x = floating(input)
    if x.type.rank < 2 or x.shape[1] % num_groups:
        raise ShapeError(f"group_norm: expected channels in multiples of {num_groups}, found {x.type}")
    rows = shapes.reshape(x, shape=(x.shape[0], num_groups, x.type.size // max(x.shape[0] * num_groups, 1)))
    middle, variance = moments(rows, (2,))
    y = shapes.reshape((rows - middle) * math.rsqrt(variance + eps), shape=x.shape)
    y = y if weight is None else y * per_channel(to_dtype(weight, x.dtype), x)
    return y if bias is None else y + per_channel(to_dtype(bias, x.dtype), x)


@lift
def rms_norm(x: Any, gamma: Any, epsilon: float = 1e-6) -> Any:
    """(x / rms(x) * gamma, 1 / rms) over the axes of gamma, the last ones."""
    node, weight = promoted(x, gamma)
    axes = tuple(range(node.type.rank - weight.type.rank, node.type.rank))
    count = max(pymath.prod(weight.shape), 1)
    square = keep(reduce.reduce_sum(node * node, axes=axes) * (1.0 / count), node.shape, axes, True)
    scale = math.rsqrt(square + epsilon)
    return node * scale * weight, scale


@lift
def l2_normalize(x: Any, axis: Any = 0, epsilon: float = 1e-4) -> Any:
    """x over its Euclidean norm along `axis`; the squared norm is not below epsilon."""
    node = floating(x)
    axes = axes_of(axis, node.type.rank, "l2_normalize")
    square = keep(reduce.reduce_sum(node * node, axes=axes), node.shape, axes, True)
    return node * math.rsqrt(elementwise.maximum(square, constant(epsilon, node.dtype)))


def dropout_node(x: Node, words: Node, p: float) -> tuple[Node, Node]:
    """(x with each element zeroed with probability p and the rest divided by 1 - p, the mask), from random words."""
    bound = full(x.shape, min(int(p * 2.0**32), 2**32 - 1), words.dtype)
    kept = elementwise.ge(words, bound)
    return elementwise.select(kept, x * (1.0 / (1.0 - p)), zero_of(x)), kept


def check_probability(owner: str, name: str, p: Any) -> float:
    """0 <= p < 1."""
    if isinstance(p, bool) or not isinstance(p, (int, float)):
        raise TypeError(f"{owner}: {name} must be a number, found {found(p)}")
    if not 0 <= p < 1:
        raise ValueError(f"{owner}: {name} must be in [0, 1), found {p}")
    return float(p)
