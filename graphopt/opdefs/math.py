"""Elementwise mathematics of floats: roots, powers, exponentials, circular functions, rounding.

16-bit floats are computed in f32 and rounded once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphopt.ir.graph import Node
from graphopt.ir.types import FLOATS, NUMBERS, DType, TensorType, bool_, f32
from graphopt.opdefs.bits import UNSIGNED, logical_and
from graphopt.opdefs.elementwise import add, div, eq, ge, mul, neg, select, sub
from graphopt.opdefs.opdef import Sample, Scalars, constant, op
from graphopt.opdefs.scaffold import binary_samples, claim, flat, in_f32, unary_samples, widened, zero_of


def _float(x: TensorType) -> TensorType:
    return claim(x, among=FLOATS, hint="cast it to a float")


@op(unary_samples((1e-6, 1e-3), (1, 1e4), low=0.1), "elementwise", FLOATS)
def sqrt(x: TensorType) -> TensorType:
    """Square root, correctly rounded; NaN below 0. The derivative at 0 is infinite."""
    return _float(x)


sqrt.numpy(in_f32(np.sqrt))
sqrt.scalar(lambda s, x: s.sqrt(x))


@sqrt.vjp
def _(ct: Node, out: Node, x: Node) -> tuple[Node]:
    return (div(mul(ct, 0.5), out),)


@op(unary_samples((1e-3, 1e-2), (1, 1e4), low=0.1), "elementwise", FLOATS)
def rsqrt(x: TensorType) -> TensorType:
    """1 / sqrt(x); infinite at 0, NaN below."""
    return _float(x)


rsqrt.numpy(in_f32(lambda x: 1 / np.sqrt(x)))


@rsqrt.scalar
def _(s: Scalars, x: Any) -> Any:
    return widened(s, lambda v: s.div(s.const(1, s.dtype_of(v)), s.sqrt(v)), x)


@rsqrt.vjp
def _(ct: Node, out: Node, x: Node) -> tuple[Node]:
    return (mul(mul(ct, -0.5), mul(out, mul(out, out))),)


@op(unary_samples((-300, 300), (-1e-6, 1e-6)), "elementwise", FLOATS)
def exp(x: TensorType) -> TensorType:
    """e to the power x."""
    return _float(x)


exp.numpy(in_f32(np.exp))
exp.scalar(lambda s, x: s.exp(x))


@exp.vjp
def _(ct: Node, out: Node, x: Node) -> tuple[Node]:
    return (mul(ct, out),)


@op(unary_samples((-300, 300), (-1e-6, 1e-6)), "elementwise", FLOATS)
def expm1(x: TensorType) -> TensorType:
    """exp(x) - 1 without losing the digits of a small x."""
    return _float(x)


expm1.numpy(in_f32(np.expm1))
expm1.scalar(lambda s, x: s.expm1(x))


@expm1.vjp
def _(ct: Node, out: Node, x: Node) -> tuple[Node]:
    return (mul(ct, add(out, 1)),)


@op(unary_samples((1e-6, 1e-3), (1, 1e4), low=0.1), "elementwise", FLOATS)
def log(x: TensorType) -> TensorType:
    """Natural logarithm; -inf at 0, NaN below."""
    return _float(x)


log.numpy(in_f32(np.log))
log.scalar(lambda s, x: s.log(x))


@log.vjp
def _(ct: Node, out: Node, x: Node) -> tuple[Node]:
    return (div(ct, x),)


@op(unary_samples((-0.99, -0.5), (-1e-6, 1e-6), (1, 1e4), low=-0.5), "elementwise", FLOATS)
def log1p(x: TensorType) -> TensorType:
    """log(1 + x) without losing the digits of a small x; -inf at -1, NaN below."""
    return _float(x)


log1p.numpy(in_f32(np.log1p))
log1p.scalar(lambda s, x: s.log1p(x))


@log1p.vjp
def _(ct: Node, out: Node, x: Node) -> tuple[Node]:
    return (div(ct, add(x, 1)),)


@op(unary_samples((-300, 300), (-1e-6, 1e-6)), "elementwise", FLOATS)
def tanh(x: TensorType) -> TensorType:
    """Hyperbolic tangent."""
    return _float(x)


tanh.numpy(in_f32(np.tanh))
tanh.scalar(lambda s, x: s.tanh(x))


@tanh.vjp
def _(ct: Node, out: Node, x: Node) -> tuple[Node]:
    return (mul(ct, sub(1, mul(out, out))),)


@op(unary_samples((-300, 300), (-1e-6, 1e-6)), "elementwise", FLOATS)
def sigmoid(x: TensorType) -> TensorType:
    """1 / (1 + exp(-x)), without overflow and with all digits where it is tiny."""
    return _float(x)


@sigmoid.numpy
@in_f32
def _(x: np.ndarray) -> np.ndarray:
    decay = np.exp(-np.abs(x))
    return np.asarray(np.where(x < 0, decay, np.ones_like(x)) / (1 + decay))


sigmoid.scalar(lambda s, x: s.sigmoid(x))


@sigmoid.vjp
def _(ct: Node, out: Node, x: Node) -> tuple[Node]:
    return (mul(ct, mul(out, sub(1, out))),)


@op(unary_samples((-30, 30), (-1e-6, 1e-6)), "elementwise", FLOATS)
def erf(x: TensorType) -> TensorType:
    """The error function 2 / sqrt(pi) * (integral of exp(-t * t) from 0 to x)."""
    return _float(x)


_exact_erf = np.frompyfunc(math.erf, 1, 1)
erf.numpy(in_f32(lambda x: np.asarray(_exact_erf(x)).astype(x.dtype)))
erf.scalar(lambda s, x: s.erf(x))


@erf.vjp
def _(ct: Node, out: Node, x: Node) -> tuple[Node]:
    return (mul(mul(ct, 2 / math.sqrt(math.pi)), exp(neg(mul(x, x)))),)


@op(unary_samples((-300, 300), (-1e-6, 1e-6)), "elementwise", FLOATS)
def sin(x: TensorType) -> TensorType:
    """Sine of an angle in radians; NaN at the infinities."""
    return _float(x)


@op(unary_samples((-300, 300), (-1e-6, 1e-6)), "elementwise", FLOATS)
def cos(x: TensorType) -> TensorType:
    """Cosine of an angle in radians; NaN at the infinities."""
    return _float(x)


sin.numpy(in_f32(np.sin))
cos.numpy(in_f32(np.cos))
sin.scalar(lambda s, x: s.sin(x))
cos.scalar(lambda s, x: s.cos(x))


@sin.vjp
def _(ct: Node, out: Node, x: Node) -> tuple[Node]:
    return (mul(ct, cos(x)),)


@cos.vjp
def _(ct: Node, out: Node, x: Node) -> tuple[Node]:
    return (neg(mul(ct, sin(x))),)


@op(unary_samples((-1e4, 1e4)), "elementwise", FLOATS)
def floor(x: TensorType) -> TensorType:
    """The largest whole number not above x."""
    return _float(x)


@op(unary_samples((-1e4, 1e4)), "elementwise", FLOATS)
def ceil(x: TensorType) -> TensorType:
    """The smallest whole number not below x."""
    return _float(x)


@op(unary_samples((-1e4, 1e4)), "elementwise", FLOATS)
def round_(x: TensorType) -> TensorType:
    """The nearest whole number, the even one of two."""
    return _float(x)


@op(unary_samples((-1e4, 1e4)), "elementwise", FLOATS)
def trunc(x: TensorType) -> TensorType:
    """The whole part of x: the nearest whole number towards 0."""
    return _float(x)


floor.numpy(in_f32(np.floor))
ceil.numpy(in_f32(np.ceil))
round_.numpy(in_f32(np.rint))
trunc.numpy(in_f32(np.trunc))
floor.scalar(lambda s, x: s.floor(x))
ceil.scalar(lambda s, x: s.ceil(x))
round_.scalar(lambda s, x: s.round(x))
trunc.scalar(lambda s, x: s.trunc(x))
for _d in (floor, ceil, round_, trunc):
    flat(_d, 1)


def _integer_power(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    result, power, rest = np.ones_like(a), a, b
    for _ in range(a.dtype.itemsize * 8 - (a.dtype.kind == "i")):
        result = np.where(rest & 1, result * power, result)
        power, rest = power * power, rest >> 1
    if a.dtype.kind == "u":
        return result
    odd = np.where(b & 1, a, 1)
    inverse = np.where(np.abs(a) == 1, odd, 0)
    return np.asarray(np.where(b < 0, inverse, result).astype(a.dtype))


def _whole_powers(rng: np.random.Generator, dtype: DType) -> list[np.ndarray]:
    """Negative bases (where the dtype has them) with a whole exponent."""
    base = -(rng.integers(1, 16, 37) / 8 if dtype.is_float else rng.integers(1, 4, 37))
    return [
        np.abs(base).astype(dtype.numpy) if dtype.kind == "u" else base.astype(dtype.numpy),
        np.array(3).astype(dtype.numpy),
    ]


@op(
    [*binary_samples((1, 9), low=0.25), Sample([(37,), ()], values=_whole_powers)],
    "elementwise",
    NUMBERS,
)
def pow_(a: TensorType, b: TensorType) -> TensorType:
    """a to the power b, by IEEE 754's pow for floats (pow(x, 0) and pow(1, y) are 1, NaN included).

    Integers wrap; a negative power of an integer is 1 / a**|b| towards 0: 1 or -1 of those, 0 of all
    others (of 0 too).
    """
    return claim(a, b)


@pow_.numpy
@in_f32
def _(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.power(a, b) if a.dtype.kind == "f" else _integer_power(a, b)


@pow_.scalar
def _(s: Scalars, a: Any, b: Any) -> Any:
    dtype = s.dtype_of(a)
    if dtype.is_float:
        return s.pow(a, b)
    zero, one = s.const(0, dtype), s.const(1, dtype)
    result, power, rest = one, a, b
    for _ in range(dtype.bits - (dtype.kind == "i")):
        result = s.select(s.ne(s.and_(rest, one), zero), s.mul(result, power), result)
        power, rest = s.mul(power, power), s.shr(rest, one)
    if dtype.kind == "u":
        return result
    odd = s.select(s.ne(s.and_(b, one), zero), a, one)
    inverse = s.select(s.eq(s.abs(a), one), odd, zero)
    return s.select(s.lt(b, zero), inverse, result)


@pow_.vjp
def _(ct: Node, out: Node, a: Node, b: Node) -> tuple[Node, Node | None]:
    """0 times an infinity is avoided: at a = 0 the derivative by b >= 0 is 0, and so is that of 0**0 by a."""
    one = constant(1, a.dtype)
    at_zero = eq(a, zero_of(a))
    base = select(logical_and(at_zero, eq(b, zero_of(b))), one, a)
    slope = mul(ct, mul(b, pow_(base, sub(b, 1))))
    if not a.dtype.is_float:
        return slope, None
    silent = logical_and(at_zero, ge(b, zero_of(b)))
    return slope, mul(ct, mul(out, log(select(silent, one, a))))


@op(unary_samples(), "elementwise", FLOATS)
def is_nan(x: TensorType) -> TensorType:
    """Whether x is NaN. Decided on the bits: no assumption about floats can remove it."""
    return _float(x).with_dtype(bool_)


@op(unary_samples(), "elementwise", FLOATS)
def is_inf(x: TensorType) -> TensorType:
    """Whether x is an infinity. Decided on the bits: no assumption about floats can remove it."""
    return _float(x).with_dtype(bool_)


@op(unary_samples(), "elementwise", FLOATS)
def is_finite(x: TensorType) -> TensorType:
    """Whether x is no NaN and no infinity. Decided on the bits: no assumption about floats can remove it."""
    return _float(x).with_dtype(bool_)


is_nan.numpy(np.isnan)
is_inf.numpy(np.isinf)
is_finite.numpy(np.isfinite)
for _d in (is_nan, is_inf, is_finite):
    flat(_d, 1)


def _magnitude_and_infinity(s: Scalars, x: Any) -> tuple[Any, Any]:
    """The bits of |x| and of infinity, as unsigned integers; NaN has larger bits. 16-bit floats are widened."""
    if s.dtype_of(x).bits == 16:
        x = s.cast(x, f32)
    dtype = s.dtype_of(x)
    unsigned = UNSIGNED[dtype.bits]
    infinity = int(np.array(np.inf).astype(dtype.numpy).view(unsigned.numpy))
    magnitude = s.and_(s.bitcast(x, unsigned), s.const((1 << (dtype.bits - 1)) - 1, unsigned))
    return magnitude, s.const(infinity, unsigned)


@is_nan.scalar
def _(s: Scalars, x: Any) -> Any:
    return s.gt(*_magnitude_and_infinity(s, x))


@is_inf.scalar
def _(s: Scalars, x: Any) -> Any:
    return s.eq(*_magnitude_and_infinity(s, x))


@is_finite.scalar
def _(s: Scalars, x: Any) -> Any:
    return s.lt(*_magnitude_and_infinity(s, x))
