"""Arithmetic, comparison, reduction and products of matrices, under MindSpore's names.

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
from graphopt.ir.types import DType, bool_, dtype_of, f32, i32, i64
from graphopt.opdefs import bits, elementwise, linalg, math, reduce, shape
from graphopt.opdefs.opdef import broadcast_to, constant
from graphopt.opdefs.scaffold import zero_of
from graphopt.opdefs.window import window_sum
from graphopt.ops.lift import lift
from graphopt.ops.promote import as_node, axes_of, axis_of, floating, keep, promoted, to_dtype

# one input


def _unary(name: str, rule: Callable[[Node], Node], doc: str) -> Callable[..., Any]:
    """A public function of one Tensor."""

    def function(input: Any) -> Any:
        return rule(as_node(input))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return lift(function)


def _on_floats(rule: Callable[[Node], Node]) -> Callable[[Node], Node]:
    return lambda x: rule(floating(x))


def _kept_integers(rule: Callable[[Node], Node]) -> Callable[[Node], Node]:
    """Rounding: integers are round already."""
    return lambda x: rule(x) if x.dtype.is_float else x


def _never(rule: Callable[[Node], Node], value: bool) -> Callable[[Node], Node]:
    """Tests on floats; integers all answer `value`."""
    return lambda x: rule(x) if x.dtype.is_float else broadcast_to(constant(value, bool_), x.shape)


abs = _unary("abs", elementwise.abs_, "The absolute value of each element.")
neg = _unary("neg", elementwise.neg, "Minus each element.")
sign = _unary("sign", elementwise.sign, "-1, 0 or 1 by the sign of each element.")
square = _unary("square", lambda x: x * x, "Each element times itself.")
exp = _unary("exp", _on_floats(math.exp), "e to the power of each element.")
expm1 = _unary("expm1", _on_floats(math.expm1), "exp(x) - 1, exact near 0.")
log = _unary("log", _on_floats(math.log), "Natural logarithm of each element.")
log1p = _unary("log1p", _on_floats(math.log1p), "log(1 + x), exact near 0.")
log2 = _unary("log2", _on_floats(lambda x: math.log(x) * (1 / pymath.log(2))), "Logarithm to base 2.")
log10 = _unary("log10", _on_floats(lambda x: math.log(x) * (1 / pymath.log(10))), "Logarithm to base 10.")
sqrt = _unary("sqrt", _on_floats(math.sqrt), "Square root of each element.")
rsqrt = _unary("rsqrt", _on_floats(math.rsqrt), "1 / sqrt(x).")
reciprocal = _unary("reciprocal", _on_floats(lambda x: 1.0 / x), "1 / x.")
sin = _unary("sin", _on_floats(math.sin), "Sine of each element, in radians.")
cos = _unary("cos", _on_floats(math.cos), "Cosine of each element, in radians.")
tan = _unary("tan", _on_floats(lambda x: math.sin(x) / math.cos(x)), "Tangent of each element, in radians.")
tanh = _unary("tanh", _on_floats(math.tanh), "Hyperbolic tangent of each element.")
erf = _unary("erf", _on_floats(math.erf), "The Gauss error function.")
erfc = _unary("erfc", _on_floats(lambda x: 1.0 - math.erf(x)), "1 - erf(x).")
floor = _unary("floor", _kept_integers(math.floor), "The largest whole number not above each element.")
ceil = _unary("ceil", _kept_integers(math.ceil), "The smallest whole number not below each element.")
trunc = _unary("trunc", _kept_integers(math.trunc), "Each element without its fraction.")
isnan = _unary("isnan", _never(math.is_nan, False), "True where an element is NaN.")
isinf = _unary("isinf", _never(math.is_inf, False), "True where an element is infinite.")
isfinite = _unary("isfinite", _never(math.is_finite, True), "True where an element is neither NaN nor infinite.")
logical_not = _unary(
    "logical_not", lambda x: bits.logical_not(to_dtype(x, bool_)), "True where an element is 0 or False."
)
bitwise_not = _unary("bitwise_not", bits.invert, "Each bit flipped.")
absolute, negative, invert, inv = abs, neg, bitwise_not, reciprocal


def _sinh(x: Node) -> Node:
    grown = math.expm1(x)
    return (grown + grown / (grown + 1.0)) * 0.5


def _asinh(x: Node) -> Node:
    size = elementwise.abs_(x)
    return elementwise.sign(x) * math.log1p(size + size * size / (math.sqrt(size * size + 1.0) + 1.0))


sinh = _unary("sinh", _on_floats(_sinh), "Hyperbolic sine of each element.")
cosh = _unary("cosh", _on_floats(lambda x: (math.exp(x) + math.exp(-x)) * 0.5), "Hyperbolic cosine of each element.")
asinh = _unary("asinh", _on_floats(_asinh), "Inverse hyperbolic sine.")
acosh = _unary(
    "acosh",
    _on_floats(lambda x: math.log1p((x - 1.0) + math.sqrt((x - 1.0) * (x + 1.0)))),
    "Inverse hyperbolic cosine.",
)
atanh = _unary("atanh", _on_floats(lambda x: 0.5 * (math.log1p(x) - math.log1p(-x))), "Inverse hyperbolic tangent.")
arcsinh, arccosh, arctanh = asinh, acosh, atanh


@lift
def round(input: Any, *, decimals: int = 0) -> Any:
    """Each element rounded to `decimals` digits after the point, halves to even."""
    x = as_node(input)
    if not x.dtype.is_float:
        return x
    if decimals == 0:
        return math.round_(x)
    factor = 10.0**decimals
    return math.round_(x * factor) / factor


rint = round

# two inputs


def _binary(name: str, rule: Callable[[Node, Node], Node], doc: str) -> Callable[..., Any]:
    """A public function of two Tensors or numbers, brought to one dtype and shape."""

    def function(input: Any, other: Any) -> Any:
        return rule(*promoted(input, other))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return lift(function)


def _true_divide(a: Node, b: Node) -> Node:
    return elementwise.div(floating(a), floating(b))


def _power(a: Node, b: Node) -> Node:
    if b.op == "constant" and b.shape == () and b.attrs["value"] == 2:
        return a * a
    return math.pow_(a, b)


def _truth(rule: Callable[[Node, Node], Node]) -> Callable[[Node, Node], Node]:
    return lambda a, b: rule(to_dtype(a, bool_), to_dtype(b, bool_))


add = _binary("add", lambda a, b: bits.either(a, b) if a.dtype is bool_ else elementwise.add(a, b), "input + other.")
mul = _binary("mul", lambda a, b: bits.both(a, b) if a.dtype is bool_ else elementwise.mul(a, b), "input * other.")
pow = _binary("pow", _power, "input to the power of other.")
floor_div = _binary("floor_div", elementwise.floordiv, "The quotient rounded down.")
floor_mod = _binary("floor_mod", elementwise.mod, "What floor_div leaves; it has the sign of the divisor.")
maximum = _binary("maximum", elementwise.maximum, "The larger of two elements; a tie shares its derivative.")
minimum = _binary("minimum", elementwise.minimum, "The smaller of two elements; a tie shares its derivative.")
equal = _binary("equal", elementwise.eq, "True where the elements are equal.")
not_equal = _binary("not_equal", elementwise.ne, "True where the elements differ.")
less = _binary("less", elementwise.lt, "True where input < other.")
less_equal = _binary("less_equal", elementwise.le, "True where input <= other.")
greater = _binary("greater", elementwise.gt, "True where input > other.")
greater_equal = _binary("greater_equal", elementwise.ge, "True where input >= other.")
logical_and = _binary("logical_and", _truth(bits.logical_and), "True where both are.")
logical_or = _binary("logical_or", _truth(bits.logical_or), "True where one or both are.")
logical_xor = _binary("logical_xor", _truth(bits.logical_xor), "True where exactly one is.")
bitwise_and = _binary("bitwise_and", bits.both, "Bits that are set in both.")
bitwise_or = _binary("bitwise_or", bits.either, "Bits that are set in one or both.")
bitwise_xor = _binary("bitwise_xor", bits.differ, "Bits that are set in exactly one.")
bitwise_left_shift = _binary("bitwise_left_shift", bits.shift_left, "Bits moved up by other places.")
bitwise_right_shift = _binary(
    "bitwise_right_shift", bits.shift_right, "Bits moved down by other places; the sign is kept."
)
squared_difference = _binary("squared_difference", lambda a, b: (a - b) * (a - b), "(input - other) squared.")
xlogy = _binary(
    "xlogy",
    lambda a, b: elementwise.select(elementwise.eq(a, zero_of(a)), zero_of(a), a * math.log(b)),
    "input * log(other), 0 where input is 0.",
)
hypot = _binary(
    "hypot", lambda a, b: math.sqrt(floating(a) * floating(a) + floating(b) * floating(b)), "sqrt(a² + b²)."
)
remainder = fmod_floor = floor_mod
truncate_mod = _binary(
    "truncate_mod",
    lambda a, b: (
        a - b * (math.trunc(a / b) if a.dtype.is_float else to_dtype(math.trunc(floating(a) / floating(b)), a.dtype))
    ),
    "What the quotient rounded to 0 leaves; it has the sign of input.",
)
fmod = truncate_mod
tensor_add, tensor_mul, floormod, mod = add, mul, floor_mod, floor_mod
eq, ne, lt, le, gt, ge = equal, not_equal, less, less_equal, greater, greater_equal
multiply, floor_divide, tensor_pow = mul, floor_div, pow


@lift
def sub(input: Any, other: Any) -> Any:
    """input - other."""
    return elementwise.sub(*promoted(input, other))


@lift
def subtract(input: Any, other: Any, *, alpha: float = 1) -> Any:
    """input - alpha * other."""
    a, b = promoted(input, other)
    return a - (b if alpha == 1 else b * alpha)


@lift
def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """input / other; integers give float32. rounding_mode: None, 'floor' or 'trunc'.

    Errors: ValueError for another rounding_mode.
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
    """x / y, 0 where y is 0."""
    a, b = (floating(v) for v in promoted(x, y))
    none = elementwise.eq(b, zero_of(b))
    safe = elementwise.select(none, broadcast_to(constant(1, b.dtype), b.shape), b)
    return elementwise.select(none, zero_of(b), a / safe)


@lift
def addcmul(input: Any, tensor1: Any, tensor2: Any, value: Any = 1) -> Any:
    """input + value * tensor1 * tensor2."""
    a, b, c = promoted(input, tensor1, tensor2)
    return a + b * c * value


@lift
def addcdiv(input: Any, tensor1: Any, tensor2: Any, value: Any = 1) -> Any:
    """input + value * tensor1 / tensor2."""
    a, b, c = promoted(input, tensor1, tensor2)
    return a + b / c * value


@lift
def lerp(input: Any, end: Any, weight: Any) -> Any:
    """input + weight * (end - input)."""
    a, b = promoted(input, end)
    return a + (b - a) * weight


@lift
def addn(x: Any) -> Any:
    """The sum of a tuple or list of Tensors of one shape.

    Errors: TypeError when x is no tuple or list of Tensors; ValueError when it is empty.
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


# reductions


def _reduce(rule: Callable[..., Node], x: Node, axis: Any, keep_dims: bool, owner: str) -> Node:
    axes = axes_of(axis, x.type.rank, owner)
    return keep(rule(x, axes=axes) if axes else x, x.shape, axes, keep_dims)


@lift
def sum(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: DType | None = None) -> Any:
    """The sum over the axes `dim` (None: all). bool and integer inputs are summed as int64."""
    x = as_node(input)
    if dtype is not None:
        x = to_dtype(x, dtype_of(dtype))
    elif not x.dtype.is_float:
        x = to_dtype(x, i64)
    return _reduce(reduce.reduce_sum, x, dim, keepdim, "sum")


@lift
def reduce_sum(x: Any, axis: Any = (), keep_dims: bool = False) -> Any:
    """The sum over `axis` (() and None: all axes), in the input's dtype."""
    return _reduce(reduce.reduce_sum, as_node(x), axis, keep_dims, "reduce_sum")


@lift
def mean(x: Any, axis: Any = None, keep_dims: bool = False) -> Any:
    """The mean over `axis` (None and (): all axes); integers give float32."""
    return _mean(floating(x), axes_of(axis, as_node(x).type.rank, "mean"), keep_dims)


reduce_mean = mean


def _mean(x: Node, axes: tuple[int, ...], keep_dims: bool) -> Node:
    count = pymath.prod(x.shape[k] for k in axes)
    if not axes:
        return x
    return keep(reduce.reduce_sum(x, axes=axes) * (1.0 / count if count else pymath.nan), x.shape, axes, keep_dims)


@lift
def prod(input: Any, axis: Any = None, keep_dims: bool = False, dtype: DType | None = None) -> Any:
    """The product over `axis` (None: all axes)."""
    x = as_node(input)
    x = x if dtype is None else to_dtype(x, dtype_of(dtype))
    return _reduce(reduce.reduce_prod, x, axis, keep_dims, "prod")


@lift
def amax(input: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The largest element over `axis` (None: all); several share the derivative equally."""
    return _reduce(reduce.reduce_max, as_node(input), axis, keepdims, "amax")


@lift
def amin(input: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """The smallest element over `axis` (None: all); several share the derivative equally."""
    return _reduce(reduce.reduce_min, as_node(input), axis, keepdims, "amin")


@lift
def all(input: Any, axis: Any = None, keep_dims: bool = False) -> Any:
    """True where all elements over `axis` are."""
    return _reduce(reduce.reduce_and, to_dtype(as_node(input), bool_), axis, keep_dims, "all")


@lift
def any(input: Any, axis: Any = None, keep_dims: bool = False) -> Any:
    """True where at least one element over `axis` is."""
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
    """(largest elements, their positions) along `axis`; without an axis the largest of all and 0."""
    return _extreme("max", input, axis, keepdims)


@lift
def min(input: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """(smallest elements, their positions) along `axis`; without an axis the smallest of all and 0."""
    return _extreme("min", input, axis, keepdims)


def _arg(where: Callable[..., Node], x: Node, axis: Any, keepdims: bool, dtype: DType) -> Node:
    if axis is None:
        return where(shape.reshape(x, shape=(x.type.size,)), axis=0, dtype=dtype)
    at = axis_of(axis, x.type.rank)
    return keep(where(x, axis=at, dtype=dtype), x.shape, (at,), keepdims)


@lift
def argmax(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The position (int64) of the first largest element along `dim`; None: in the flattened input."""
    return _arg(reduce.argmax, as_node(input), dim, keepdim, i64)


@lift
def argmin(input: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """The position (int64) of the first smallest element along `axis`; None: in the flattened input."""
    return _arg(reduce.argmin, as_node(input), axis, keepdims, i64)


@lift
def argmax_with_value(input: Any, axis: int = 0, keep_dims: bool = False) -> Any:
    """(positions as int32, largest elements) along `axis`."""
    x = as_node(input)
    values, _ = _extreme("max", x, axis, keep_dims)
    return _arg(reduce.argmax, x, axis, keep_dims, i32), values


@lift
def argmin_with_value(input: Any, axis: int = 0, keep_dims: bool = False) -> Any:
    """(positions as int32, smallest elements) along `axis`."""
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
    """The variance over `axis` (None: all): squared distances from the mean over (count - ddof)."""
    return _variance(input, axis, ddof, keepdims)[0]


@lift
def std(input: Any, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """The square root of var."""
    return math.sqrt(_variance(input, axis, ddof, keepdims)[0])


@lift
def var_mean(input: Any, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """(variance, mean) over `axis`."""
    return _variance(input, axis, ddof, keepdims)


@lift
def std_mean(input: Any, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """(standard deviation, mean) over `axis`."""
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
    """log(sum(exp(input))) over `axis`, without overflow."""
    x = floating(input)
    axes = axes_of(axis, x.type.rank, "logsumexp")
    value = log_sum_exp(x, axes)
    return value if keepdims else shape.reshape(value, shape=tuple(n for k, n in enumerate(x.shape) if k not in axes))


@lift
def norm(A: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: DType | None = None) -> Any:
    """The vector norm over `dim` (None: all elements): ord None or 2 (Euclid), 1, inf, -inf, 0, or any number p.

    'fro' is the same as 2. Matrix norms of other kinds (nuclear, spectral) are not offered.
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
    """How many elements over `axis` are not 0."""
    node = as_node(x)
    there = elementwise.ne(node, zero_of(node)) if node.dtype is not bool_ else node
    return _reduce(reduce.reduce_sum, to_dtype(there, dtype_of(dtype)), axis, keep_dims, "count_nonzero")


@lift
def cumsum(x: Any, axis: int, dtype: DType | None = None) -> Any:
    """Running sums along `axis`.

    Cost: O(n log n) reads along the axis.
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


# products


@lift
def matmul(input: Any, other: Any) -> Any:
    """The matrix product as numpy's: leading axes broadcast, a vector's axis vanishes.

    Shapes: (…, m, k), (…, k, n) -> (…, m, n).
    Errors: ValueError when the inner sizes differ or an input has no axis.
    """
    return linalg.matmul(*promoted(input, other))


def matmul_flags(a: Node, b: Node, transpose_a: bool, transpose_b: bool) -> Node:
    """The product of two matrices or batches of them, each possibly transposed; no transposed copy is made."""
    if a.type.rank < 2 or a.type.rank != b.type.rank:
        if transpose_a or transpose_b or a.type.rank < 2:
            raise ShapeError(f"matmul: expected two tensors of equal rank >= 2, found {a.type} and {b.type}")
        return linalg.matmul(a, b)
    if a.shape[:-2] != b.shape[:-2]:
        a = shape.transpose(a, perm=_swapped(a)) if transpose_a else a
        return linalg.matmul(a, shape.transpose(b, perm=_swapped(b)) if transpose_b else b)
    lead = tuple(range(a.type.rank - 2))
    inner = (len(lead) + (0 if transpose_a else 1), len(lead) + (1 if transpose_b else 0))
    if a.shape[inner[0]] != b.shape[inner[1]]:
        raise ShapeError(
            f"matmul: inner sizes differ: {a.shape[inner[0]]} of {a.type}, {b.shape[inner[1]]} of {b.type}"
        )
    return linalg.dot_general(a, b, contract=((inner[0],), (inner[1],)), batch=(lead, lead))


def _swapped(x: Node) -> tuple[int, ...]:
    rank = x.type.rank
    return (*range(rank - 2), rank - 1, rank - 2)


@lift
def bmm(input_x: Any, mat2: Any) -> Any:
    """The matrix product of two batches (b, m, k) and (b, k, n)."""
    a, b = promoted(input_x, mat2)
    return matmul_flags(a, b, False, False)


mm = bmm


@lift
def mv(mat: Any, vec: Any) -> Any:
    """Matrix (m, k) times vector (k,)."""
    return linalg.matmul(*promoted(mat, vec))


@lift
def outer(input: Any, vec2: Any) -> Any:
    """All products of two vectors: (m,), (n,) -> (m, n)."""
    a, b = promoted(input, vec2)
    return shape.reshape(a, shape=(a.type.size, 1)) * shape.reshape(b, shape=(1, b.type.size))


ger = outer


@lift
def addmm(input: Any, mat1: Any, mat2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta * input + alpha * (mat1 @ mat2)."""
    a, b, c = promoted(input, mat1, mat2)
    return a * beta + linalg.matmul(b, c) * alpha


baddbmm = addmm


@lift
def tensor_dot(x1: Any, x2: Any, axes: Any) -> Any:
    """Sums of products over axes: an int (the last of x1 with the first of x2) or a pair of axes or tuples of
    axes.
    """
    a, b = promoted(x1, x2)
    if isinstance(axes, int):
        pair = tuple(range(a.type.rank - axes, a.type.rank)), tuple(range(axes))
    else:
        listed = [tuple(v) if isinstance(v, (tuple, list)) else (v,) for v in axes]
        pair = tuple(axis_of(k, a.type.rank) for k in listed[0]), tuple(axis_of(k, b.type.rank) for k in listed[1])
    return linalg.dot_general(a, b, contract=pair, batch=((), ()))


@lift
def clip_by_norm(x: Any, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False) -> Any:
    """Tensors scaled down together so that the norm of all of them is at most max_norm."""
    listed = list(x) if isinstance(x, (tuple, list)) else [x]
    return _scaled(x, [floating(v) for v in listed], max_norm, norm_type)


@lift
def clip_by_global_norm(x: Any, clip_norm: float = 1.0, use_norm: Any = None) -> Any:
    """Tensors scaled down together so that their global Euclidean norm is at most clip_norm.

    Errors: ValueError when clip_norm <= 0.
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
