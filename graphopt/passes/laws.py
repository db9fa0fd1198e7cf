"""The algebra of elementwise ops: laws as pairs of functions, and rules that compute a constant.

A law without `exact=False` holds for every bit: signed zeros, infinities and NaN included (which NaN is left open).
"""

from __future__ import annotations

from math import frexp

from graphopt.ir.graph import Node, with_inputs
from graphopt.ir.types import FLOATS, INTEGERS, NUMBERS, DType, bool_
from graphopt.opdefs import REGISTRY
from graphopt.opdefs.bits import logical_and, logical_not, logical_or, logical_xor
from graphopt.opdefs.elementwise import abs_, cast, eq, floordiv, maximum, minimum, mod, ne, neg, select, sub
from graphopt.opdefs.math import ceil, floor, round_, trunc
from graphopt.opdefs.opdef import constant, full, opdef
from graphopt.opdefs.shape import broadcast, reshape
from graphopt.passes.rewrite import law, number, rewrite

CONDITION = {"c": bool_}
BOOL = (bool_,)
COMMUTATIVE = ("add", "mul", "maximum", "minimum", "eq", "ne", "logical_and", "logical_or", "logical_xor")
ELEMENTWISE = tuple(name for name, d in REGISTRY.items() if d.kind == "elementwise")


@rewrite(*COMMUTATIVE)
def constant_right(n: Node) -> Node | None:
    """number + x = x + number: the laws below look for numbers on the right only."""
    a, b = n.inputs
    return with_inputs(n, (b, a)) if number(a) is not None and number(b) is None else None


@rewrite("alias", "stop_gradient")
def dissolve(n: Node) -> Node | None:
    """alias(x) = stop_gradient(x) = x: after differentiation they say nothing."""
    return n.inputs[0]


law("add_zero_integer", lambda x: x + 0, lambda x: x, dtypes=INTEGERS)
law("add_negative_zero", lambda x: x + -0.0, lambda x: x, dtypes=FLOATS)
law("add_zero", lambda x: x + 0.0, lambda x: x, exact=False, dtypes=FLOATS)
law("sub_zero", lambda x: x - 0.0, lambda x: x, dtypes=NUMBERS)
law("mul_one", lambda x: x * 1, lambda x: x, dtypes=NUMBERS)
law("div_one", lambda x: x / 1.0, lambda x: x, dtypes=FLOATS)
law("mul_zero_integer", lambda x: x * 0, lambda x: 0, dtypes=INTEGERS)
law("mul_zero", lambda x: x * 0.0, lambda x: 0.0, exact=False, dtypes=FLOATS)
law("mul_minus_one", lambda x: x * -1.0, lambda x: -x, dtypes=FLOATS)
law("sub_self_integer", lambda x: x - x, lambda x: 0, dtypes=INTEGERS)
law("floordiv_one_integer", lambda x: floordiv(x, 1), lambda x: x, dtypes=INTEGERS)
law("mod_one_integer", lambda x: mod(x, 1), lambda x: 0, dtypes=INTEGERS)
law("factor", lambda a, b, c: a * c + b * c, lambda a, b, c: (a + b) * c, exact=False, dtypes=FLOATS)

law("neg_neg", lambda x: neg(neg(x)), lambda x: x, dtypes=NUMBERS)
law("add_neg", lambda a, b: a + -b, lambda a, b: a - b, dtypes=NUMBERS)
law("neg_add", lambda a, b: -a + b, lambda a, b: b - a, dtypes=NUMBERS)
law("sub_neg", lambda a, b: sub(a, neg(b)), lambda a, b: a + b, dtypes=NUMBERS)
law("mul_neg", lambda a, b: a * -b, lambda a, b: -(a * b), dtypes=NUMBERS)
law("neg_mul", lambda a, b: -a * b, lambda a, b: -(a * b), dtypes=NUMBERS)
law("div_neg", lambda a, b: a / -b, lambda a, b: -(a / b), dtypes=FLOATS)
law("neg_div", lambda a, b: -a / b, lambda a, b: -(a / b), dtypes=FLOATS)
law("abs_neg", lambda x: abs(-x), abs, dtypes=FLOATS)
law("abs_abs", lambda x: abs_(abs_(x)), abs_, dtypes=NUMBERS)

law("maximum_same", lambda x: maximum(x, x), lambda x: x, dtypes=NUMBERS)
law("minimum_same", lambda x: minimum(x, x), lambda x: x, dtypes=NUMBERS)
law("maximum_again", lambda x, y: maximum(maximum(x, y), y), maximum, dtypes=NUMBERS)
law("minimum_again", lambda x, y: minimum(minimum(x, y), y), minimum, dtypes=NUMBERS)
law("floor_floor", lambda x: floor(floor(x)), floor, dtypes=FLOATS)
law("ceil_ceil", lambda x: ceil(ceil(x)), ceil, dtypes=FLOATS)
law("round_round", lambda x: round_(round_(x)), round_, dtypes=FLOATS)
law("trunc_trunc", lambda x: trunc(trunc(x)), trunc, dtypes=FLOATS)

law("not_not", lambda c: logical_not(logical_not(c)), lambda c: c, dtypes=BOOL)
law("not_eq", lambda a, b: logical_not(eq(a, b)), ne)
law("not_ne", lambda a, b: logical_not(ne(a, b)), eq)
law("and_true", lambda c: logical_and(c, True), lambda c: c, dtypes=BOOL)
law("and_false", lambda c: logical_and(c, False), lambda c: False, dtypes=BOOL)
law("and_same", lambda c: logical_and(c, c), lambda c: c, dtypes=BOOL)
law("or_false", lambda c: logical_or(c, False), lambda c: c, dtypes=BOOL)
law("or_true", lambda c: logical_or(c, True), lambda c: True, dtypes=BOOL)
law("or_same", lambda c: logical_or(c, c), lambda c: c, dtypes=BOOL)
law("xor_false", lambda c: logical_xor(c, False), lambda c: c, dtypes=BOOL)
law("xor_true", lambda c: logical_xor(c, True), logical_not, dtypes=BOOL)

law("select_same", lambda c, x: select(c, x, x), lambda c, x: x, kinds=CONDITION)
law("select_not", lambda c, a, b: select(logical_not(c), a, b), lambda c, a, b: select(c, b, a), kinds=CONDITION)
law("select_nested_a", lambda c, a, b, d: select(c, select(c, a, d), b), lambda c, a, b, d: select(c, a, b), kinds=CONDITION)
law("select_nested_b", lambda c, a, b, d: select(c, a, select(c, d, b)), lambda c, a, b, d: select(c, a, b), kinds=CONDITION)
law("select_bool", lambda c: select(c, constant(True), constant(False)), lambda c: c, dtypes=BOOL)


@rewrite("select")
def select_known(n: Node) -> Node | None:
    """select(True, a, b) = a, select(False, a, b) = b."""
    condition, a, b = n.inputs
    known = number(condition)
    return None if known is None else a if known else b


@rewrite("neg")
def neg_of_scaled(n: Node) -> Node | None:
    """-(x * number) = x * -number; the same for a quotient. Not for unsigned integers, whose numbers have no sign."""
    (inner,) = n.inputs
    if inner.op not in ("mul", "div") or n.dtype.kind == "u":
        return None
    scale = number(inner.inputs[1])
    return None if scale is None else opdef(inner.op)(inner.inputs[0], full(n.shape, -scale, n.dtype))


@rewrite("div")
def divide_by_power_of_two(n: Node) -> Node | None:
    """x / 2**k = x * 2**-k, exact when both are normal numbers of the dtype; a product is cheaper."""
    x, divisor = n.inputs
    value = number(divisor)
    if value is None or value == 0 or abs(frexp(value)[0]) != 0.5 or not 2.0**-14 <= abs(value) <= 2.0**14:
        return None
    return x * full(n.shape, 1.0 / value, n.dtype)


@rewrite("pow")
def small_power(n: Node) -> Node | None:
    """x**0, x**1, x**2, x**3, 1 / x: within an ulp of pow, and x**2 and 1 / x nearer to the truth than pow itself."""
    x, exponent = n.inputs
    match number(exponent):
        case 0:
            return full(n.shape, 1, n.dtype)
        case 1:
            return x
        case 2:
            return x * x
        case 3:
            return x * x * x
        case -1 if n.dtype.is_float:
            return full(n.shape, 1, n.dtype) / x
    return None


@rewrite("cast")
def cast_of_cast(n: Node) -> Node | None:
    """cast(x, own dtype) = x; cast(cast(x, wider), d) = cast(x, d) when the wider dtype holds every value of x's."""
    (x,) = n.inputs
    if x.dtype is n.dtype:
        return x
    if x.op != "cast" or not holds(x.dtype, x.inputs[0].dtype):
        return None
    source = x.inputs[0].dtype
    if x.dtype.is_float and not source.is_float and not n.dtype.is_float:
        return None  # a float clamps where an integer wraps
    return cast(x.inputs[0], dtype=n.dtype)


def holds(wide: DType, narrow: DType) -> bool:
    """Every value of `narrow` is a value of `wide`."""
    if wide is narrow or narrow is bool_:
        return True
    if wide.is_float:
        significand = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}
        if narrow.is_float:
            return wide.bits > narrow.bits
        return narrow.bits - (narrow.kind == "i") <= significand[wide.name]
    if wide.is_integer and narrow.is_integer:
        return wide.bits > narrow.bits and (wide.kind == "i" or narrow.kind == "u")
    return False


@rewrite(*ELEMENTWISE)
def lift_broadcast(n: Node) -> Node | None:
    """f(broadcast(x), broadcast(y)) = broadcast(f(x, y)) when both repeat along the same axes; numbers fit any x."""
    axes: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    for i in n.inputs:
        if i.op != "broadcast":
            return None
        if i.attrs["axes"]:
            if axes and i.attrs["axes"] != axes:
                return None
            axes, shape = i.attrs["axes"], i.inputs[0].shape
    small = tuple([_spread(i.inputs[0], shape) for i in n.inputs])
    inner = Node(n.op, small, n.attrs, n.type.with_shape(shape), n.where)
    return broadcast(inner, shape=n.shape, axes=axes)


def _spread(x: Node, shape: tuple[int, ...]) -> Node:
    return x if x.shape == shape else broadcast(x, shape=shape, axes=())


@rewrite(*ELEMENTWISE)
def lift_reshape(n: Node) -> Node | None:
    """f(reshape(x), reshape(y)) = reshape(f(x, y)) where the reshapes only add axes of size 1; numbers fit any x.

    Row values that kept their reduced axis (softmax, normalisation) take part in fusion without it.
    """
    inner: tuple[int, ...] | None = None
    for i in n.inputs:
        if (
            i.op == "reshape"
            and len(i.inputs[0].shape) < len(n.shape)
            and _without_ones(i.inputs[0].shape) == _without_ones(n.shape)
        ):
            if inner is not None and i.inputs[0].shape != inner:
                return None
            inner = i.inputs[0].shape
        elif i.op != "broadcast" or i.attrs["axes"]:
            return None
    if inner is None:
        return None
    small = tuple([i.inputs[0] if i.op == "reshape" else broadcast(i.inputs[0], shape=inner, axes=()) for i in n.inputs])
    return reshape(Node(n.op, small, n.attrs, n.type.with_shape(inner), n.where), shape=n.shape)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple([k for k in shape if k != 1])
