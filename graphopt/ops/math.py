"""Arithmetic and comparison, element by element, under MindSpore's names.

Every function here is written on nodes and lifted: it takes Tensors (and numbers), follows MindSpore's dtype rules,
and becomes part of the graph inside a trace.
"""

from __future__ import annotations

import math as pymath
from collections.abc import Callable
from typing import Any

from graphopt.common.checks import found
from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node
from graphopt.ir.types import bool_
from graphopt.opdefs import bits, elementwise, math
from graphopt.opdefs.opdef import broadcast_to, constant
from graphopt.opdefs.scaffold import zero_of
from graphopt.ops.lift import lift
from graphopt.ops.promote import as_node, floating, promoted, promoted_floats, to_dtype

# one input


def _told(name: str, doc: str, example: str) -> str:
    """A docstring with an example: "first argument, others -> values", or "~> values" with four digits."""
    rounded = " ~> " in example
    given, _, values = example.partition(" ~> " if rounded else " -> ")
    first, close, others = given.partition("]")
    call = f"ms.ops.{name}(ms.Tensor({first}{close}){others}).asnumpy().tolist()"
    shown = f"[round(v, 4) for v in {call}]" if rounded else call
    return f"{doc}\n\n    >>> import graphopt as ms\n    >>> {shown}\n    {values}\n    "


def _unary(name: str, rule: Callable[[Node], Node], doc: str, example: str) -> Callable[..., Any]:
    """A public function of one Tensor."""

    def function(input: Any) -> Any:
        return rule(as_node(input))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = _told(name, doc, example)
    return lift(function)


def _on_floats(rule: Callable[[Node], Node]) -> Callable[[Node], Node]:
    return lambda x: rule(floating(x))


def _kept_integers(rule: Callable[[Node], Node]) -> Callable[[Node], Node]:
    """Rounding: integers are round already."""
    return lambda x: rule(x) if x.dtype.is_float else x


def _never(rule: Callable[[Node], Node], value: bool) -> Callable[[Node], Node]:
    """Tests on floats; integers all answer `value`."""
    return lambda x: rule(x) if x.dtype.is_float else broadcast_to(constant(value, bool_), x.shape)


abs = _unary("abs", elementwise.abs_, "The absolute value of each element.", "[-1.5, 2.0] -> [1.5, 2.0]")
neg = _unary("neg", elementwise.neg, "Minus each element.", "[-1.5, 2.0] -> [1.5, -2.0]")
sign = _unary("sign", elementwise.sign, "-1, 0 or 1 by the sign of each element.", "[-3.0, 0.0, 2.0] -> [-1.0, 0.0, 1.0]")
square = _unary("square", lambda x: x * x, "Each element times itself.", "[-3.0, 2.0] -> [9.0, 4.0]")
exp = _unary("exp", _on_floats(math.exp), "e to the power of each element.", "[0.0, 1.0] ~> [1.0, 2.7183]")
expm1 = _unary("expm1", _on_floats(math.expm1), "exp(x) - 1, exact near 0.", "[0.0, 1.0] ~> [0.0, 1.7183]")
log = _unary("log", _on_floats(math.log), "Natural logarithm of each element.", "[1.0, 2.0] ~> [0.0, 0.6931]")
log1p = _unary("log1p", _on_floats(math.log1p), "log(1 + x), exact near 0.", "[0.0, 1.0] ~> [0.0, 0.6931]")
log2 = _unary("log2", _on_floats(lambda x: math.log(x) * (1 / pymath.log(2))), "Logarithm to base 2.", "[1.0, 8.0] ~> [0.0, 3.0]")
log10 = _unary(
    "log10", _on_floats(lambda x: math.log(x) * (1 / pymath.log(10))), "Logarithm to base 10.", "[1.0, 1000.0] ~> [0.0, 3.0]"
)
sqrt = _unary("sqrt", _on_floats(math.sqrt), "Square root of each element.", "[4.0, 9.0] -> [2.0, 3.0]")
rsqrt = _unary("rsqrt", _on_floats(math.rsqrt), "1 / sqrt(x).", "[4.0, 16.0] -> [0.5, 0.25]")
reciprocal = _unary("reciprocal", _on_floats(lambda x: 1.0 / x), "1 / x.", "[2.0, -4.0] -> [0.5, -0.25]")
sin = _unary("sin", _on_floats(math.sin), "Sine of each element, in radians.", "[0.0, 1.0] ~> [0.0, 0.8415]")
cos = _unary("cos", _on_floats(math.cos), "Cosine of each element, in radians.", "[0.0, 1.0] ~> [1.0, 0.5403]")
tan = _unary(
    "tan", _on_floats(lambda x: math.sin(x) / math.cos(x)), "Tangent of each element, in radians.", "[0.0, 1.0] ~> [0.0, 1.5574]"
)
tanh = _unary("tanh", _on_floats(math.tanh), "Hyperbolic tangent of each element.", "[0.0, 1.0] ~> [0.0, 0.7616]")
erf = _unary("erf", _on_floats(math.erf), "The Gauss error function.", "[0.0, 1.0] ~> [0.0, 0.8427]")
erfc = _unary("erfc", _on_floats(lambda x: 1.0 - math.erf(x)), "1 - erf(x).", "[0.0, 1.0] ~> [1.0, 0.1573]")
floor = _unary(
    "floor", _kept_integers(math.floor), "The largest whole number not above each element.", "[-1.5, 1.5] -> [-2.0, 1.0]"
)
ceil = _unary(
    "ceil", _kept_integers(math.ceil), "The smallest whole number not below each element.", "[-1.5, 1.5] -> [-1.0, 2.0]"
)
trunc = _unary("trunc", _kept_integers(math.trunc), "Each element without its fraction.", "[-1.5, 1.5] -> [-1.0, 1.0]")
isnan = _unary("isnan", _never(math.is_nan, False), "True where an element is NaN.", '[1.0, float("nan")] -> [False, True]')
isinf = _unary("isinf", _never(math.is_inf, False), "True where an element is infinite.", '[1.0, float("-inf")] -> [False, True]')
isfinite = _unary(
    "isfinite",
    _never(math.is_finite, True),
    "True where an element is neither NaN nor infinite.",
    '[1.0, float("inf")] -> [True, False]',
)
logical_not = _unary(
    "logical_not",
    lambda x: bits.logical_not(to_dtype(x, bool_)),
    "True where an element is 0 or False.",
    "[True, False] -> [False, True]",
)
bitwise_not = _unary("bitwise_not", bits.invert, "Each bit flipped.", "[0, 5] -> [-1, -6]")
absolute, negative, invert, inv = abs, neg, bitwise_not, reciprocal


def _sinh(x: Node) -> Node:
    grown = math.expm1(x)
    return (grown + grown / (grown + 1.0)) * 0.5


def _asinh(x: Node) -> Node:
    size = elementwise.abs_(x)
    return elementwise.sign(x) * math.log1p(size + size * size / (math.sqrt(size * size + 1.0) + 1.0))


sinh = _unary("sinh", _on_floats(_sinh), "Hyperbolic sine of each element.", "[0.0, 1.0] ~> [0.0, 1.1752]")
cosh = _unary(
    "cosh",
    _on_floats(lambda x: (math.exp(x) + math.exp(-x)) * 0.5),
    "Hyperbolic cosine of each element.",
    "[0.0, 1.0] ~> [1.0, 1.5431]",
)
asinh = _unary("asinh", _on_floats(_asinh), "Inverse hyperbolic sine.", "[0.0, 1.0] ~> [0.0, 0.8814]")
acosh = _unary(
    "acosh",
    _on_floats(lambda x: math.log1p((x - 1.0) + math.sqrt((x - 1.0) * (x + 1.0)))),
    "Inverse hyperbolic cosine.",
    "[1.0, 2.0] ~> [0.0, 1.317]",
)
atanh = _unary(
    "atanh",
    _on_floats(lambda x: 0.5 * (math.log1p(x) - math.log1p(-x))),
    "Inverse hyperbolic tangent.",
    "[0.0, 0.5] ~> [0.0, 0.5493]",
)
arcsinh, arccosh, arctanh = asinh, acosh, atanh


@lift
def round(input: Any, *, decimals: int = 0) -> Any:
    """Each element rounded to `decimals` digits after the point, halves to even.

    >>> import graphopt as ms
    >>> ms.ops.round(ms.Tensor([0.5, 1.5, -2.6])).asnumpy().tolist()
    [0.0, 2.0, -3.0]
    """
    x = as_node(input)
    if not x.dtype.is_float:
        return x
    if decimals == 0:
        return math.round_(x)
    factor = 10.0**decimals
    return math.round_(x * factor) / factor


rint = round

# two inputs


def _binary(name: str, rule: Callable[[Node, Node], Node], doc: str, example: str) -> Callable[..., Any]:
    """A public function of two Tensors or numbers, brought to one dtype and shape."""

    def function(input: Any, other: Any) -> Any:
        return rule(*promoted(input, other))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = _told(name, doc, example)
    return lift(function)


def _true_divide(a: Node, b: Node) -> Node:
    return elementwise.div(floating(a), floating(b))


def _power(a: Node, b: Node) -> Node:
    if b.op == "constant" and b.shape == () and b.attrs["value"] == 2:
        return a * a
    return math.pow_(a, b)


def _truth(rule: Callable[[Node, Node], Node]) -> Callable[[Node, Node], Node]:
    return lambda a, b: rule(to_dtype(a, bool_), to_dtype(b, bool_))


add = _binary(
    "add",
    lambda a, b: bits.either(a, b) if a.dtype is bool_ else elementwise.add(a, b),
    "input + other.",
    "[1.0, 2.0], 3.0 -> [4.0, 5.0]",
)
mul = _binary(
    "mul",
    lambda a, b: bits.both(a, b) if a.dtype is bool_ else elementwise.mul(a, b),
    "input * other.",
    "[1.0, 2.0], 3.0 -> [3.0, 6.0]",
)
pow = _binary("pow", _power, "input to the power of other.", "[2.0, 3.0], 2.0 -> [4.0, 9.0]")
floor_div = _binary("floor_div", elementwise.floordiv, "The quotient rounded down.", "[7, -7], 2 -> [3, -4]")
floor_mod = _binary(
    "floor_mod", elementwise.mod, "What floor_div leaves; it has the sign of the divisor.", "[7, -7], 3 -> [1, 2]"
)
maximum = _binary(
    "maximum", elementwise.maximum, "The larger of two elements; a tie shares its derivative.", "[1.0, 5.0], 3.0 -> [3.0, 5.0]"
)
minimum = _binary(
    "minimum", elementwise.minimum, "The smaller of two elements; a tie shares its derivative.", "[1.0, 5.0], 3.0 -> [1.0, 3.0]"
)
equal = _binary("equal", elementwise.eq, "True where the elements are equal.", "[1, 2], 2 -> [False, True]")
not_equal = _binary("not_equal", elementwise.ne, "True where the elements differ.", "[1, 2], 2 -> [True, False]")
less = _binary("less", elementwise.lt, "True where input < other.", "[1, 2, 3], 2 -> [True, False, False]")
less_equal = _binary("less_equal", elementwise.le, "True where input <= other.", "[1, 2, 3], 2 -> [True, True, False]")
greater = _binary("greater", elementwise.gt, "True where input > other.", "[1, 2, 3], 2 -> [False, False, True]")
greater_equal = _binary("greater_equal", elementwise.ge, "True where input >= other.", "[1, 2, 3], 2 -> [False, True, True]")
logical_and = _binary("logical_and", _truth(bits.logical_and), "True where both are.", "[True, False], True -> [True, False]")
logical_or = _binary(
    "logical_or", _truth(bits.logical_or), "True where one or both are.", "[True, False], False -> [True, False]"
)
logical_xor = _binary(
    "logical_xor", _truth(bits.logical_xor), "True where exactly one is.", "[True, False], True -> [False, True]"
)
bitwise_and = _binary("bitwise_and", bits.both, "Bits that are set in both.", "[6, 5], 3 -> [2, 1]")
bitwise_or = _binary("bitwise_or", bits.either, "Bits that are set in one or both.", "[6, 5], 3 -> [7, 7]")
bitwise_xor = _binary("bitwise_xor", bits.differ, "Bits that are set in exactly one.", "[6, 5], 3 -> [5, 6]")
bitwise_left_shift = _binary("bitwise_left_shift", bits.shift_left, "Bits moved up by other places.", "[1, 5], 2 -> [4, 20]")
bitwise_right_shift = _binary(
    "bitwise_right_shift", bits.shift_right, "Bits moved down by other places; the sign is kept.", "[8, -8], 2 -> [2, -2]"
)
squared_difference = _binary(
    "squared_difference", lambda a, b: (a - b) * (a - b), "(input - other) squared.", "[1.0, 5.0], 2.0 -> [1.0, 9.0]"
)
xlogy = _binary(
    "xlogy",
    lambda a, b: elementwise.select(elementwise.eq(a, zero_of(a)), zero_of(a), a * math.log(b)),
    "input * log(other), 0 where input is 0.",
    "[0.0, 2.0], 3.0 ~> [0.0, 2.1972]",
)
hypot = _binary(
    "hypot",
    lambda a, b: math.sqrt(floating(a) * floating(a) + floating(b) * floating(b)),
    "sqrt(a² + b²).",
    "[3.0, 5.0], ms.Tensor([4.0, 12.0]) -> [5.0, 13.0]",
)
remainder = floor_mod
truncate_mod = _binary(
    "truncate_mod",
    lambda a, b: a - b * (math.trunc(a / b) if a.dtype.is_float else to_dtype(math.trunc(floating(a) / floating(b)), a.dtype)),
    "What the quotient rounded to 0 leaves; it has the sign of input.",
    "[7, -7], 3 -> [1, -1]",
)
fmod = truncate_mod
tensor_add, tensor_mul, floormod, mod = add, mul, floor_mod, floor_mod
eq, ne, lt, le, gt, ge = equal, not_equal, less, less_equal, greater, greater_equal
multiply, floor_divide, tensor_pow = mul, floor_div, pow


@lift
def sub(input: Any, other: Any) -> Any:
    """input - other.

    >>> import graphopt as ms
    >>> ms.ops.sub(ms.Tensor([1.0, 2.0]), 3.0).asnumpy().tolist()
    [-2.0, -1.0]
    """
    return elementwise.sub(*promoted(input, other))


@lift
def subtract(input: Any, other: Any, *, alpha: float = 1) -> Any:
    """input - alpha * other.

    >>> import graphopt as ms
    >>> ms.ops.subtract(ms.Tensor([5.0, 6.0]), ms.Tensor([1.0, 2.0]), alpha=2).asnumpy().tolist()
    [3.0, 2.0]
    """
    a, b = promoted(input, other)
    return a - (b if alpha == 1 else b * alpha)


@lift
def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """input / other; integers give float32. rounding_mode: None, 'floor' or 'trunc'.

    Errors: ValueError for another rounding_mode.

    >>> import graphopt as ms
    >>> ms.ops.div(ms.Tensor([7.0]), 2.0).asnumpy().tolist()
    [3.5]
    """
    a, b = promoted(input, other)
    if rounding_mode == "floor":
        return elementwise.floordiv(a, b)
    if rounding_mode not in (None, "trunc"):
        raise ShapeError(f"div: rounding_mode must be None, 'floor' or 'trunc', found {rounding_mode!r}")
    quotient = _true_divide(a, b)
    return quotient if rounding_mode is None else to_dtype(math.trunc(quotient), a.dtype)


divide = true_divide = tensor_div = realdiv = div


@lift
def div_no_nan(x: Any, y: Any) -> Any:
    """x / y, 0 where y is 0.

    >>> import graphopt as ms
    >>> ms.ops.div_no_nan(ms.Tensor([1.0, 1.0]), ms.Tensor([2.0, 0.0])).asnumpy().tolist()
    [0.5, 0.0]
    """
    a, b = promoted_floats(x, y)
    none = elementwise.eq(b, zero_of(b))
    safe = elementwise.select(none, broadcast_to(constant(1, b.dtype), b.shape), b)
    return elementwise.select(none, zero_of(b), a / safe)


@lift
def addcmul(input: Any, tensor1: Any, tensor2: Any, value: Any = 1) -> Any:
    """input + value * tensor1 * tensor2.

    >>> import graphopt as ms
    >>> ms.ops.addcmul(ms.Tensor([1.0]), ms.Tensor([2.0]), ms.Tensor([3.0]), 0.5).asnumpy().tolist()
    [4.0]
    """
    a, b, c = promoted(input, tensor1, tensor2)
    return a + b * c * value


@lift
def addcdiv(input: Any, tensor1: Any, tensor2: Any, value: Any = 1) -> Any:
    """input + value * tensor1 / tensor2.

    >>> import graphopt as ms
    >>> ms.ops.addcdiv(ms.Tensor([1.0]), ms.Tensor([6.0]), ms.Tensor([3.0]), 0.5).asnumpy().tolist()
    [2.0]
    """
    a, b, c = promoted(input, tensor1, tensor2)
    return a + b / c * value


@lift
def lerp(input: Any, end: Any, weight: Any) -> Any:
    """input + weight * (end - input).

    >>> import graphopt as ms
    >>> ms.ops.lerp(ms.Tensor([1.0, 2.0]), ms.Tensor([3.0, 6.0]), 0.5).asnumpy().tolist()
    [2.0, 4.0]
    """
    a, b = promoted(input, end)
    return a + (b - a) * weight


@lift
def addn(x: Any) -> Any:
    """The sum of a tuple or list of Tensors of one shape.

    Errors: TypeError when x is no tuple or list of Tensors; ValueError when it is empty.

    >>> import graphopt as ms
    >>> ms.ops.addn([ms.Tensor([1.0, 2.0]), ms.Tensor([3.0, 4.0]), ms.Tensor([5.0, 6.0])]).asnumpy().tolist()
    [9.0, 12.0]
    """
    if not isinstance(x, (tuple, list)):
        raise DTypeError(f"addn: expected a tuple or list of Tensors, found {found(x)}")
    if not x:
        raise ShapeError("addn: expected at least one Tensor, found none")
    total, *rest = promoted(*x)
    for term in rest:
        total = total + term
    return total


accumulate_n = addn


@lift
def clip_by_value(x: Any, clip_value_min: Any = None, clip_value_max: Any = None) -> Any:
    """Each element brought into [clip_value_min, clip_value_max]; None leaves that side open. A tuple or list is
    clipped one by one.

    The derivative is 1 inside and on both bounds, 0 outside.
    Errors: ValueError when both bounds are None.

    >>> import graphopt as ms
    >>> ms.ops.clip_by_value(ms.Tensor([-2.0, 0.5, 9.0]), 0.0, 1.0).asnumpy().tolist()
    [0.0, 0.5, 1.0]
    """
    if clip_value_min is None and clip_value_max is None:
        raise ShapeError("clip_by_value: expected clip_value_min or clip_value_max, found None for both")
    if isinstance(x, (tuple, list)):
        return type(x)(_clip(as_node(v), clip_value_min, clip_value_max) for v in x)
    return _clip(as_node(x), clip_value_min, clip_value_max)


clamp = clip = clip_by_value


def _clip(x: Node, low: Any, high: Any) -> Node:
    """select rather than maximum: a tie on a bound must hand on the whole derivative."""
    if low is not None:
        x, bound = promoted(x, low)
        x = elementwise.select(elementwise.lt(x, bound), *_same(bound, x))
    if high is not None:
        x, bound = promoted(x, high)
        x = elementwise.select(elementwise.gt(x, bound), *_same(bound, x))
    return x


def _same(a: Node, b: Node) -> tuple[Node, Node]:
    return (broadcast_to(a, b.shape), b) if len(a.shape) <= len(b.shape) and a.shape != b.shape else (a, b)
