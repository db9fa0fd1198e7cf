"""Activations, under MindSpore's names."""

from __future__ import annotations

import math as pymath
from typing import Any

from graphopt.common.checks import check_choice
from graphopt.errors import ShapeError
from graphopt.ir.graph import Node
from graphopt.ir.types import DType, dtype_of
from graphopt.opdefs import elementwise, math, reduce
from graphopt.opdefs import shape as shapes
from graphopt.opdefs.opdef import full
from graphopt.opdefs.scaffold import zero_of
from graphopt.ops.lift import lift
from graphopt.ops.promote import as_node, axes_of, axis_of, floating, promoted, to_dtype
from graphopt.ops.reduction import log_sum_exp


def positive(x: Node) -> Node:
    return elementwise.gt(x, zero_of(x))


@lift
def relu(input: Any, inplace: bool = False) -> Any:
    """max(x, 0), with derivative 0 at 0.

    >>> import graphopt as ms
    >>> ms.ops.relu(ms.Tensor([-1.0, 2.0])).asnumpy().tolist()
    [0.0, 2.0]
    """
    x = as_node(input)
    return elementwise.select(elementwise.le(x, zero_of(x)), zero_of(x), x)


@lift
def relu6(x: Any) -> Any:
    """min(max(x, 0), 6).

    >>> import graphopt as ms
    >>> ms.ops.relu6(ms.Tensor([-1.0, 2.0, 9.0])).asnumpy().tolist()
    [0.0, 2.0, 6.0]
    """
    node = as_node(x)
    top = full(node.shape, 6, node.dtype)
    capped = elementwise.select(elementwise.ge(node, top), top, node)
    return relu.on_nodes(capped)


@lift
def leaky_relu(input: Any, alpha: float = 0.2) -> Any:
    """x where positive, alpha * x elsewhere.

    >>> import graphopt as ms
    >>> [round(v, 4) for v in ms.ops.leaky_relu(ms.Tensor([-1.0, 2.0]), 0.1).asnumpy().tolist()]
    [-0.1, 2.0]
    """
    x = floating(input)
    return elementwise.select(positive(x), x, x * alpha)


@lift
def prelu(input: Any, weight: Any) -> Any:
    """x where positive, weight * x elsewhere; weight has one element, or one per channel (axis 1).

    Errors: ValueError when weight has another size.

    >>> import graphopt as ms
    >>> ms.ops.prelu(ms.Tensor([[-4.0, 2.0]]), ms.Tensor([0.25, 0.5])).asnumpy().tolist()
    [[-1.0, 2.0]]
    """
    x, w = promoted(input, weight)
    channels = x.shape[1] if x.type.rank > 1 else 1
    if w.type.size not in (1, channels):
        raise ShapeError(f"prelu: expected a weight of size 1 or {channels}, found {w.type}")
    shape = (w.type.size, *(1,) * (x.type.rank - 2)) if x.type.rank > 1 else ()
    return elementwise.select(positive(x), x, x * shapes.reshape(w, shape=shape))


@lift
def elu(input_x: Any, alpha: float = 1.0) -> Any:
    """x where positive, alpha * (exp(x) - 1) elsewhere.

    >>> import graphopt as ms
    >>> [round(v, 4) for v in ms.ops.elu(ms.Tensor([-1.0, 2.0])).asnumpy().tolist()]
    [-0.6321, 2.0]
    """
    x = floating(input_x)
    below = elementwise.select(positive(x), zero_of(x), x)
    return elementwise.select(positive(x), x, math.expm1(below) * alpha)


@lift
def celu(x: Any, alpha: float = 1.0) -> Any:
    """x where positive, alpha * (exp(x/alpha) - 1) elsewhere.

    >>> import graphopt as ms
    >>> [round(v, 4) for v in ms.ops.celu(ms.Tensor([-1.0, 2.0])).asnumpy().tolist()]
    [-0.6321, 2.0]
    """
    if alpha == 0:
        raise ShapeError("celu: alpha must not be 0")
    node = floating(x)
    below = elementwise.select(positive(node), zero_of(node), node)
    return elementwise.select(positive(node), node, math.expm1(below * (1.0 / alpha)) * alpha)


@lift
def selu(input_x: Any) -> Any:
    """1.0507… times elu with alpha 1.67326…: keeps mean 0 and variance 1.

    >>> import graphopt as ms
    >>> [round(v, 4) for v in ms.ops.selu(ms.Tensor([-1.0, 2.0])).asnumpy().tolist()]
    [-1.1113, 2.1014]
    """
    return elu.on_nodes(input_x, 1.6732632423543772) * 1.0507009873554805


@lift
def gelu(input: Any, approximate: str = "none") -> Any:
    """x times the normal distribution function: exact ('none') or by tanh ('tanh').

    Errors: ValueError for another `approximate`.

    >>> import graphopt as ms
    >>> round(float(ms.ops.gelu(ms.Tensor(1.0)).asnumpy()), 4)
    0.8413
    """
    check_choice("gelu", "approximate", approximate, ("none", "tanh"))
    x = floating(input)
    if approximate == "none":
        return x * 0.5 * (math.erf(x * pymath.sqrt(0.5)) + 1.0)
    slope = 2.0 * pymath.sqrt(2.0 / pymath.pi)
    return x * math.sigmoid(x * (x * x * (0.044715 * slope) + slope))  # (1 + tanh(y)) / 2 = sigmoid(2 y)


@lift
def fast_gelu(x: Any) -> Any:
    """x * sigmoid(1.702 x), written so that it cannot overflow.

    >>> import graphopt as ms
    >>> [round(v, 4) for v in ms.ops.fast_gelu(ms.Tensor([-1.0, 2.0])).asnumpy().tolist()]
    [-0.1542, 1.9357]
    """
    node = floating(x)
    return node * math.sigmoid(node * 1.702)


@lift
def silu(input: Any) -> Any:
    """x * sigmoid(x).

    >>> import graphopt as ms
    >>> [round(v, 4) for v in ms.ops.silu(ms.Tensor([-1.0, 2.0])).asnumpy().tolist()]
    [-0.2689, 1.7616]
    """
    x = floating(input)
    return x * math.sigmoid(x)


@lift
def sigmoid(input: Any) -> Any:
    """1 / (1 + exp(-x)).

    >>> import graphopt as ms
    >>> ms.ops.sigmoid(ms.Tensor([0.0])).asnumpy().tolist()
    [0.5]
    """
    return math.sigmoid(floating(input))


@lift
def softplus(input: Any, beta: float = 1, threshold: float = 20) -> Any:
    """log(1 + exp(beta x)) / beta; the line x itself where beta x > threshold.

    >>> import graphopt as ms
    >>> [round(v, 4) for v in ms.ops.softplus(ms.Tensor([0.0, 30.0])).asnumpy().tolist()]
    [0.6931, 30.0]
    """
    x = floating(input)
    scaled = x * float(beta)
    high = elementwise.gt(scaled, full(x.shape, threshold, x.dtype))
    low = elementwise.select(high, zero_of(x), scaled)
    return elementwise.select(high, x, softplus_node(low) * (1.0 / beta))


def softplus_node(x: Node) -> Node:
    """log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|))."""
    return relu.on_nodes(x) + math.log1p(math.exp(-elementwise.abs_(x)))


@lift
def mish(x: Any) -> Any:
    """x * tanh(log(1 + exp(x))).

    >>> import graphopt as ms
    >>> [round(v, 4) for v in ms.ops.mish(ms.Tensor([-1.0, 2.0])).asnumpy().tolist()]
    [-0.3034, 1.944]
    """
    node = floating(x)
    return node * math.tanh(softplus_node(node))


@lift
def logsigmoid(x: Any) -> Any:
    """log(sigmoid(x)), without overflow.

    >>> import graphopt as ms
    >>> [round(v, 4) for v in ms.ops.logsigmoid(ms.Tensor([-1.0, 0.0])).asnumpy().tolist()]
    [-1.3133, -0.6931]
    """
    return -softplus_node(-floating(x))


@lift
def softsign(x: Any) -> Any:
    """x / (1 + |x|).

    >>> import graphopt as ms
    >>> ms.ops.softsign(ms.Tensor([-1.0, 3.0])).asnumpy().tolist()
    [-0.5, 0.75]
    """
    node = floating(x)
    return node / (elementwise.abs_(node) + 1.0)


@lift
def tanhshrink(input: Any) -> Any:
    """x - tanh(x).

    >>> import graphopt as ms
    >>> [round(v, 4) for v in ms.ops.tanhshrink(ms.Tensor([0.0, 1.0])).asnumpy().tolist()]
    [0.0, 0.2384]
    """
    x = floating(input)
    return x - math.tanh(x)


@lift
def hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    """x brought into [min_val, max_val].

    >>> import graphopt as ms
    >>> ms.ops.hardtanh(ms.Tensor([-4.0, 0.5, 4.0])).asnumpy().tolist()
    [-1.0, 0.5, 1.0]
    """
    x = floating(input)
    low, high = full(x.shape, min_val, x.dtype), full(x.shape, max_val, x.dtype)
    x = elementwise.select(elementwise.lt(x, low), low, x)
    return elementwise.select(elementwise.gt(x, high), high, x)


def _gate(x: Node) -> Node:
    """x + 3 brought into [0, 6], over 6."""
    return relu6.on_nodes(x + 3.0) * (1.0 / 6.0)


@lift
def hardsigmoid(input: Any) -> Any:
    """(x + 3) / 6 brought into [0, 1].

    >>> import graphopt as ms
    >>> ms.ops.hardsigmoid(ms.Tensor([-4.0, 0.0, 4.0])).asnumpy().tolist()
    [0.0, 0.5, 1.0]
    """
    return _gate(floating(input))


@lift
def hardswish(input: Any) -> Any:
    """x * hardsigmoid(x).

    >>> import graphopt as ms
    >>> ms.ops.hardswish(ms.Tensor([-4.0, 0.0, 4.0])).asnumpy().tolist()
    [-0.0, 0.0, 4.0]
    """
    x = floating(input)
    return x * _gate(x)


hsigmoid, hswish = hardsigmoid, hardswish


@lift
def hardshrink(input: Any, lambd: float = 0.5) -> Any:
    """x where |x| > lambd, 0 elsewhere.

    >>> import graphopt as ms
    >>> ms.ops.hardshrink(ms.Tensor([-1.0, 0.5, 2.0])).asnumpy().tolist()
    [-1.0, 0.0, 2.0]
    """
    x = floating(input)
    return elementwise.select(elementwise.abs_(x) > lambd, x, zero_of(x))


@lift
def softshrink(input: Any, lambd: float = 0.5) -> Any:
    """x moved towards 0 by lambd, 0 when it is nearer.

    >>> import graphopt as ms
    >>> ms.ops.softshrink(ms.Tensor([-1.0, 0.5, 2.0])).asnumpy().tolist()
    [-0.5, 0.0, 1.5]
    """
    x = floating(input)
    shrunk = x - elementwise.sign(x) * lambd
    return elementwise.select(elementwise.abs_(x) > lambd, shrunk, zero_of(x))


@lift
def threshold(input: Any, thr: float, value: float) -> Any:
    """x where x > thr, `value` elsewhere.

    >>> import graphopt as ms
    >>> ms.ops.threshold(ms.Tensor([0.5, 2.0]), 1.0, 9.0).asnumpy().tolist()
    [9.0, 2.0]
    """
    x = as_node(input)
    return elementwise.select(x > thr, x, full(x.shape, value, x.dtype))


@lift
def glu(x: Any, axis: int = -1) -> Any:
    """The first half along an axis times the sigmoid of the second.

    >>> import graphopt as ms
    >>> ms.ops.glu(ms.Tensor([[4.0, 6.0, 0.0, 0.0]])).asnumpy().tolist()
    [[2.0, 3.0]]
    """
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

    >>> import graphopt as ms
    >>> ms.ops.softmax(ms.Tensor([1.0, 1.0])).asnumpy().tolist()
    [0.5, 0.5]
    """
    x = floating(input if dtype is None else to_dtype(as_node(input), dtype_of(dtype)))
    return softmax_node(x, axes_of(axis, x.type.rank, "softmax")) if x.type.rank else x * 0.0 + 1.0


@lift
def log_softmax(logits: Any, axis: int = -1) -> Any:
    """log(softmax(x)), without overflow.

    >>> import graphopt as ms
    >>> [round(v, 4) for v in ms.ops.log_softmax(ms.Tensor([[1.0, 1.0]])).asnumpy()[0].tolist()]
    [-0.6931, -0.6931]
    """
    x = floating(logits)
    return x - log_sum_exp(x, (axis_of(axis, x.type.rank, "log_softmax"),))


@lift
def softmin(x: Any, axis: int = -1, *, dtype: DType | None = None) -> Any:
    """softmax(-x).

    >>> import graphopt as ms
    >>> ms.ops.softmin(ms.Tensor([1.0, 1.0])).asnumpy().tolist()
    [0.5, 0.5]
    """
    return softmax.on_nodes(-floating(x), axis, dtype=dtype)
