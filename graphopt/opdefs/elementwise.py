"""Elementwise arithmetic, comparison, selection and casts; and what every elementwise family shares.

A node's inputs have one shape (a call broadcasts them first), so a shape rule here is a dtype rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node
from graphopt.ir.types import DTYPES, FLOATS, INTEGERS, NUMBERS, DType, TensorType, bool_, f32
from graphopt.opdefs.opdef import OpDef, Sample, Scalars, constant, full, op

_WORDS = {DTYPES: "any dtype", NUMBERS: "numbers", FLOATS: "floats", INTEGERS: "integers", (bool_,): "bool"}


def claim(*types: TensorType, among: Sequence[DType] = NUMBERS, hint: str = "") -> TensorType:
    """The common type of an elementwise op's inputs.

    Errors: DTypeError when dtypes differ or are not `among` those the op takes; ShapeError when shapes differ,
            which a call cannot cause, only a graph written by hand.
    """
    first = types[0]
    if any(t.dtype is not first.dtype for t in types):
        found = " and ".join(t.dtype.short for t in types)
        raise DTypeError(f"expects inputs of one dtype, found {found}; cast one of them")
    if first.dtype not in among:
        words = _WORDS.get(tuple(among)) or ", ".join(d.short for d in among)
        raise DTypeError(f"expects {words}, found {first.dtype.short}" + (f"; {hint}" if hint else ""))
    if any(t.shape != first.shape for t in types):
        raise ShapeError(f"expects inputs of one shape, found {' and '.join(str(t.shape) for t in types)}")
    return first


def special_values(dtype: DType) -> np.ndarray:
    """Where arithmetic is delicate: zeros, ones, the ends of the range, infinities, NaN, subnormals."""
    if dtype.kind == "b":
        return np.array([False, True])
    if dtype.is_integer:
        ends = np.iinfo(dtype.numpy)
        return np.array([0, 1, 2, 3, 7, ends.max - 1, ends.max, ends.min, ends.min + 1] + [-1, -2, -7] * (dtype.kind == "i"), dtype.numpy)
    largest, smallest = {"float16": (65504.0, 6e-8), "bfloat16": (3.39e38, 1e-40), "float32": (3.4e38, 1e-45), "float64": (1.7e308, 5e-324)}[dtype.name]
    positive = [0.0, 1.0, 0.5, 2.5, 3.0, largest, smallest, np.inf]
    return np.array(positive + [-v for v in positive] + [np.nan]).astype(dtype.numpy)


def special_sample(inputs: int) -> Sample:
    """Every combination of `special_values` in all inputs."""

    def values(rng: np.random.Generator, dtype: DType) -> list[np.ndarray]:
        grid = np.meshgrid(*[np.arange(len(special_values(dtype)))] * inputs)
        return [special_values(dtype)[axis.ravel()] for axis in grid]

    return Sample([(1,)] * inputs, values=values)


def unary_samples(*ranges: tuple[float, float], low: float = -2.0, high: float = 2.0) -> list[Sample]:
    """A usual, the smallest, an odd and an empty shape in [low, high]; an odd shape in each range; special values."""
    usual = [Sample([shape], low=low, high=high) for shape in [(5, 33), (), (1, 7, 1), (0, 3)]]
    return usual + [Sample([(37,)], low=a, high=b) for a, b in ranges] + [special_sample(1)]


def binary_samples(*ranges: tuple[float, float], low: float = -2.0, high: float = 2.0) -> list[Sample]:
    """As `unary_samples`, for two inputs; two of the shapes broadcast."""
    shapes = [[(5, 33), (5, 33)], [(), ()], [(5, 1), (7,)], [(), (3, 1)], [(0, 3), (1, 3)]]
    usual = [Sample(s, low=low, high=high) for s in shapes]
    return usual + [Sample([(37,), (37,)], low=a, high=b) for a, b in ranges] + [special_sample(2)]


def in_f32(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A numpy rule that computes 16-bit floats in float32; the result is rounded once, to the inferred dtype."""

    def wide(*arrays: np.ndarray, **attrs: Any) -> Any:
        return rule(*[a.astype(np.float32) if a.dtype.kind in "fV" and a.itemsize == 2 else a for a in arrays], **attrs)

    return wide


def widened(s: Scalars, rule: Callable[..., Any], *values: Any) -> Any:
    """A scalar expression of several steps: 16-bit floats take them in f32 and are rounded once."""
    dtype = s.dtype_of(values[0])
    if not dtype.is_float or dtype.bits > 16:
        return rule(*values)
    return s.cast(rule(*[s.cast(v, f32) for v in values]), dtype)


def zero_of(x: Node) -> Node:
    """A 0-d zero of x's dtype."""
    return constant(0, x.dtype)


def flat(d: OpDef, inputs: int) -> None:
    """Declare that no cotangent flows through `d`: its result is constant almost everywhere, or not a number."""

    @d.vjp
    def _(ct: Node, out: Node, *xs: Node, **attrs: Any) -> tuple[None, ...]:
        return (None,) * inputs


@op(binary_samples((-1e4, 1e4), (-1e-6, 1e-6)), "elementwise", NUMBERS)
def add(a: TensorType, b: TensorType) -> TensorType:
    """Sum of two numbers; integers wrap."""
    return claim(a, b)


add.numpy(in_f32(np.add))
add.scalar(lambda s, a, b: s.add(a, b))


@add.vjp
def _(ct: Node, out: Node, a: Node, b: Node) -> tuple[Node, Node]:
    return ct, ct


@op(binary_samples((-1e4, 1e4), (-1e-6, 1e-6)), "elementwise", NUMBERS)
def sub(a: TensorType, b: TensorType) -> TensorType:
    """Difference of two numbers; integers wrap."""
    return claim(a, b)


sub.numpy(in_f32(np.subtract))
sub.scalar(lambda s, a, b: s.sub(a, b))


@sub.vjp
def _(ct: Node, out: Node, a: Node, b: Node) -> tuple[Node, Node]:
    return ct, neg(ct)


@op(binary_samples((-250, 250), (-1e-6, 1e-6)), "elementwise", NUMBERS)
def mul(a: TensorType, b: TensorType) -> TensorType:
    """Product of two numbers; integers wrap."""
    return claim(a, b)


mul.numpy(in_f32(np.multiply))
mul.scalar(lambda s, a, b: s.mul(a, b))


@mul.vjp
def _(ct: Node, out: Node, a: Node, b: Node) -> tuple[Node, Node]:
    return mul(ct, b), mul(ct, a)


@op(binary_samples((1, 1e4), (-3, -0.1), low=0.5), "elementwise", FLOATS)
def div(a: TensorType, b: TensorType) -> TensorType:
    """Quotient of two floats, by IEEE 754: x / 0 is an infinity, 0 / 0 is NaN.

    Errors: DTypeError for integers, whose quotient is `floordiv` or needs a cast.
    """
    return claim(a, b, among=FLOATS, hint="cast to a float or use floordiv")


div.numpy(in_f32(np.divide))
div.scalar(lambda s, a, b: s.div(a, b))


@div.vjp
def _(ct: Node, out: Node, a: Node, b: Node) -> tuple[Node, Node]:
    share = div(ct, b)
    return share, neg(mul(share, out))


@op(unary_samples((-1e4, 1e4)), "elementwise", NUMBERS)
def neg(x: TensorType) -> TensorType:
    """The number with the other sign; unsigned integers wrap."""
    return claim(x)


neg.numpy(np.negative)
neg.scalar(lambda s, x: s.neg(x))


@neg.vjp
def _(ct: Node, out: Node, x: Node) -> tuple[Node]:
    return (neg(ct),)


@op(unary_samples((-1e4, 1e4)), "elementwise", NUMBERS)
def abs_(x: TensorType) -> TensorType:
    """Magnitude; the lowest signed integer stays itself. The derivative at 0 is 0."""
    return claim(x)


abs_.numpy(np.abs)
abs_.scalar(lambda s, x: x if s.dtype_of(x).kind == "u" else s.abs(x))


@abs_.vjp
def _(ct: Node, out: Node, x: Node) -> tuple[Node]:
    return (mul(ct, sign(x)),)


@op(unary_samples((-1e4, 1e4)), "elementwise", NUMBERS)
def sign(x: TensorType) -> TensorType:
    """-1, 0 or 1; NaN for NaN."""
    return claim(x)


sign.numpy(in_f32(np.sign))
flat(sign, 1)


@sign.scalar
def _(s: Scalars, x: Any) -> Any:
    dtype = s.dtype_of(x)
    zero, one = s.const(0, dtype), s.const(1, dtype)
    if dtype.kind == "u":
        return s.min(x, one)
    rest = s.select(s.ne(x, x), x, zero) if dtype.is_float else zero
    below = s.select(s.lt(x, zero), s.const(-1, dtype), rest)
    return s.select(s.gt(x, zero), one, below)


@op(binary_samples((-1e4, 1e4)), "elementwise", NUMBERS)
def maximum(a: TensorType, b: TensorType) -> TensorType:
    """The larger number; NaN if one is NaN. On a tie each side gets half of the derivative."""
    return claim(a, b)


@op(binary_samples((-1e4, 1e4)), "elementwise", NUMBERS)
def minimum(a: TensorType, b: TensorType) -> TensorType:
    """The smaller number; NaN if one is NaN. On a tie each side gets half of the derivative."""
    return claim(a, b)


maximum.numpy(in_f32(np.maximum))
minimum.numpy(in_f32(np.minimum))
maximum.scalar(lambda s, a, b: s.max(a, b))
minimum.scalar(lambda s, a, b: s.min(a, b))


def _share(ct: Node, wins: Node, ties: Node) -> Node:
    """All of ct where `wins`, half where `ties` (integers have no half: all of it), nothing elsewhere."""
    half = mul(ct, 0.5) if ct.dtype.is_float else ct
    return select(wins, ct, select(ties, half, zero_of(ct)))


@maximum.vjp
def _(ct: Node, out: Node, a: Node, b: Node) -> tuple[Node, Node]:
    ties = eq(a, b)
    return _share(ct, gt(a, b), ties), _share(ct, lt(a, b), ties)


@minimum.vjp
def _(ct: Node, out: Node, a: Node, b: Node) -> tuple[Node, Node]:
    ties = eq(a, b)
    return _share(ct, lt(a, b), ties), _share(ct, gt(a, b), ties)


def _floor_division(s: Scalars, a: Any, b: Any) -> tuple[Any, Any]:
    """Quotient and remainder with the remainder on the divisor's side of 0 (numpy's and Python's meaning)."""
    dtype = s.dtype_of(a)
    zero, one = s.const(0, dtype), s.const(1, dtype)
    if dtype.is_float:
        quotient = s.trunc(s.div(a, b))
        rest = s.select(s.eq(quotient, zero), a, s.fma(s.neg(quotient), b, a))
        over = s.lt(s.mul(rest, s.copysign(one, a)), zero)  # a / b was rounded up to a whole number
        quotient = s.select(over, s.sub(quotient, s.copysign(one, quotient)), quotient)
        rest = s.select(over, s.add(rest, s.copysign(b, a)), rest)
    else:
        quotient, rest = s.idiv(a, b), s.rem(a, b)
    if dtype.kind == "u":
        return quotient, rest
    crosses = s.and_(s.ne(rest, zero), s.ne(s.lt(rest, zero), s.lt(b, zero)))
    return s.select(crosses, s.sub(quotient, one), quotient), s.select(crosses, s.add(rest, b), rest)


@op(binary_samples((-1e3, 1e3), (0.25, 9)), "elementwise", NUMBERS)
def floordiv(a: TensorType, b: TensorType) -> TensorType:
    """The largest whole number not above a / b, as numpy's floor_divide; an integer divided by 0 gives 0.

    Units: exact for floats while |a / b| < 2**(bits of the significand - 1), rounded beyond.
    """
    return claim(a, b)


@op(binary_samples((-1e3, 1e3), (0.25, 9)), "elementwise", NUMBERS)
def mod(a: TensorType, b: TensorType) -> TensorType:
    """a - b * floordiv(a, b), as numpy's mod: it has the sign of b; an integer modulo 0 gives 0.

    Units: exact for floats while |a / b| < 2**(bits of the significand - 1); beyond, the remainder of the rounded quotient.
    """
    return claim(a, b)


floordiv.numpy(in_f32(np.floor_divide))
mod.numpy(in_f32(np.mod))
flat(floordiv, 2)


@floordiv.scalar
def _(s: Scalars, a: Any, b: Any) -> Any:
    def whole(a: Any, b: Any) -> Any:
        dtype = s.dtype_of(a)
        quotient, rest = _floor_division(s, a, b)
        if not dtype.is_float:
            return quotient
        exact = s.div(a, b)
        quotient = s.select(s.eq(quotient, s.const(0, dtype)), s.copysign(quotient, exact), quotient)
        return s.select(s.eq(b, s.const(0, dtype)), exact, s.select(s.ne(rest, rest), rest, quotient))

    return widened(s, whole, a, b)


@mod.scalar
def _(s: Scalars, a: Any, b: Any) -> Any:
    def remainder(a: Any, b: Any) -> Any:
        rest = _floor_division(s, a, b)[1]
        if not s.dtype_of(a).is_float:
            return rest
        return s.select(s.eq(rest, s.const(0, s.dtype_of(a))), s.copysign(rest, b), rest)

    return widened(s, remainder, a, b)


@mod.vjp
def _(ct: Node, out: Node, a: Node, b: Node) -> tuple[Node, Node]:
    return ct, neg(mul(ct, floordiv(a, b)))


def _comparison(a: TensorType, b: TensorType) -> TensorType:
    return claim(a, b, among=DTYPES).with_dtype(bool_)


@op(binary_samples(), "elementwise")
def eq(a: TensorType, b: TensorType) -> TensorType:
    """Whether two elements are equal (-0 equals 0, NaN equals nothing)."""
    return _comparison(a, b)


@op(binary_samples(), "elementwise")
def ne(a: TensorType, b: TensorType) -> TensorType:
    """Whether two elements differ (NaN differs from everything)."""
    return _comparison(a, b)


@op(binary_samples(), "elementwise")
def lt(a: TensorType, b: TensorType) -> TensorType:
    """a < b; False if one is NaN."""
    return _comparison(a, b)


@op(binary_samples(), "elementwise")
def le(a: TensorType, b: TensorType) -> TensorType:
    """a <= b; False if one is NaN."""
    return _comparison(a, b)


@op(binary_samples(), "elementwise")
def gt(a: TensorType, b: TensorType) -> TensorType:
    """a > b; False if one is NaN."""
    return _comparison(a, b)


@op(binary_samples(), "elementwise")
def ge(a: TensorType, b: TensorType) -> TensorType:
    """a >= b; False if one is NaN."""
    return _comparison(a, b)


eq.scalar(lambda s, a, b: s.eq(a, b))
ne.scalar(lambda s, a, b: s.ne(a, b))
lt.scalar(lambda s, a, b: s.lt(a, b))
le.scalar(lambda s, a, b: s.le(a, b))
gt.scalar(lambda s, a, b: s.gt(a, b))
ge.scalar(lambda s, a, b: s.ge(a, b))
for _d, _meaning in ((eq, np.equal), (ne, np.not_equal), (lt, np.less), (le, np.less_equal), (gt, np.greater), (ge, np.greater_equal)):
    _d.numpy(_meaning)
    flat(_d, 2)


@op(
    [Sample(s, dtypes=(bool_, None, None)) for s in ([(5, 33)] * 3, [()] * 3, [(5, 1), (7,), ()], [(0, 3)] * 3)],
    "elementwise",
)
def select(condition: TensorType, a: TensorType, b: TensorType) -> TensorType:
    """a where the condition holds, b elsewhere. A value that is not chosen has no influence, NaN included."""
    if condition.dtype is not bool_:
        raise DTypeError(f"expects a b1 condition, found {condition.dtype.short}; compare it with something")
    claim(condition, condition.with_shape(a.shape), among=DTYPES)
    return claim(a, b, among=DTYPES)


select.numpy(np.where)
select.scalar(lambda s, condition, a, b: s.select(condition, a, b))


@select.vjp
def _(ct: Node, out: Node, condition: Node, a: Node, b: Node) -> tuple[None, Node, Node]:
    return None, select(condition, ct, zero_of(ct)), select(condition, zero_of(ct), ct)


def _cast_samples() -> list[Sample]:
    ranged = [Sample([(37,)], {"dtype": d}, low=-3e3, high=3e3) for d in DTYPES]
    special = [Sample([(1,)], {"dtype": d}, values=lambda rng, dtype: [special_values(dtype)]) for d in DTYPES]
    return [Sample([s], {"dtype": f32}) for s in [(5, 33), (), (0, 3)]] + ranged + special


@op(_cast_samples(), "elementwise")
def cast(x: TensorType, *, dtype: DType) -> TensorType:
    """The element in another dtype.

    Floats become integers towards 0; what the integer dtype cannot hold, NaN included, becomes the lowest signed
    integer, or is clamped for unsigned ones (NaN to 0). Integers wrap. Every number but 0 is True.
    The derivative passes through casts between numbers, to integers too.
    """
    return x.with_dtype(dtype)


@cast.numpy
def _(x: np.ndarray, *, dtype: DType) -> np.ndarray:
    if not dtype.is_integer or x.dtype.kind in "biu":
        return x.astype(bool) if dtype is bool_ else x.astype(dtype.numpy)
    whole = np.trunc(x if x.itemsize > 2 else x.astype(np.float32))
    ends = np.iinfo(dtype.numpy)
    # The highest integer may not be a float; the power of two above it always is.
    fits = (whole >= float(ends.min)) & (whole < float(2 ** (dtype.bits - (dtype.kind == "i"))))
    beyond = np.where((whole > 0) & (dtype.kind == "u"), ends.max, ends.min).astype(dtype.numpy)
    return np.where(fits, np.where(fits, whole, 0).astype(dtype.numpy), beyond)


cast.scalar(lambda s, x, dtype: s.cast(x, dtype))


@cast.vjp
def _(ct: Node, out: Node, x: Node, *, dtype: DType) -> tuple[Node | None]:
    if bool_ in (dtype, x.dtype):
        return (None,)
    return (ct if ct.dtype is x.dtype else cast(ct, dtype=x.dtype),)


@op(unary_samples(), "elementwise")
def stop_gradient(x: TensorType) -> TensorType:
    """The value itself, without a derivative."""
    return x


@op(unary_samples(), "elementwise")
def alias(x: TensorType) -> TensorType:
    """The value itself under a new identity: the same array in two argument positions is two values."""
    return x


stop_gradient.numpy(lambda x: x)
alias.numpy(lambda x: x)
stop_gradient.scalar(lambda s, x: x)
alias.scalar(lambda s, x: x)
flat(stop_gradient, 1)


@alias.vjp
def _(ct: Node, out: Node, x: Node) -> tuple[Node]:
    return (ct,)


def zeros_like(x: Node) -> Node:
    """Zeros of x's type."""
    return full(x.shape, 0, x.dtype)
