"""Vector math: exp, log, tanh, erf, ... written with the core of the Scalars protocol, without branches.

The same text makes LLVM vectors and runs on numpy arrays. f32 and f64 have their own polynomials; f16 and bf16 are
computed in f32. All handle +-0, infinities, NaN and denormal arguments and results; odd functions keep the sign of
zero. `fma` may be rounded once or twice: nothing here depends on it being exact. What is needed is that add, sub and
mul are rounded as written: sums must not be reassociated, nor products contracted into sums.

Units: the largest errors found, in units in the last place; where two are given, the second is without a fused
multiply-add. f32: every argument between 2^-26 and the end of the function's range (sin, cos: 2^13; log: 2^-7 to
2^7), and each eleventh of all 2^32; pow 8 * 10^7 pairs. f64: 4 * 10^6 arguments each, of all exponents and dense
where the functions bend; pow 1.2 * 10^7 pairs. Operations: of one f32 vector.

    function  f32          f64          operations
    exp       1.61  1.96   1.38  1.72   16, or 14
    expm1     1.41  1.49   1.56  1.67   20
    log       1.52         1.50         30
    log1p     1.66         1.64         30
    tanh      1.59         1.60         25, one of them a division, or 27
    sigmoid   2.00         2.00         23, one of them a division, or 20
    erf       1.43  1.59   1.25  1.32   29
    sin, cos  1.55         0.81         48
    pow       0.51         1.80  2.13   64, most in f64, one of them a division

Source: reductions in the manner of W. J. Cody and W. Waite, Software Manual for the Elementary Functions (1980).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graphopt.ir.types import bf16, f16, f32, f64
from graphopt.kernel.vmath_pow import pow32, pow64
from graphopt.kernel.vmath_steps import (
    INF,
    NAN,
    expm1_polynomial,
    horner,
    integer_value,
    nearest_multiple,
    power_of_two,
    remainder,
)
from graphopt.kernel.vmath_tables import (
    ERF32,
    ERF64,
    ERF64_CENTERS,
    ERF64_EDGES,
    FORMATS,
    LN2,
    LOG32,
    LOG64,
    Format,
    bits64,
)
from graphopt.kernel.vmath_trig import cos32, cos64, sin32, sin64
from graphopt.opdefs.opdef import Scalars


def _exp(s: Scalars, x: Any, f: Format) -> Any:
    """exp(x) for x <= f.most_exp or NaN.

    Steps of ln 4, so that 2^(2n) is applied as two equal factors: the first product is normal and exact, the second
    overflows or becomes denormal with one rounding. Far below, both factors are 0, as their exponent's bits are.
    """
    x = s.max(x, s.const(-2.0 * LN2 * f.bias, f.dtype))
    n, biased = nearest_multiple(s, x, f, 2.0 * LN2, f.bias)
    r = remainder(s, x, n, f, 2.0)
    p = horner(s, r, (1.0, 1.0, *f.exp))
    scale = power_of_two(s, f, biased)
    return s.mul(s.mul(p, scale), scale)


def exp(s: Scalars, x: Any) -> Any:
    """Of what is hidden by a mask nothing is left, without underflow: that takes processors 150 cycles for a vector."""
    f = FORMATS[s.dtype_of(x)]
    y = s.min(x, s.const(f.most_exp, f.dtype))
    if not _scales(s, f):
        return _exp(s, y, f)
    n, _ = nearest_multiple(s, y, f, LN2, 0)
    value = s.scale(horner(s, remainder(s, y, n, f, 1.0), (1.0, 1.0, *f.expm1_near)), n)
    return s.select(s.lt(x, s.const(f.least_exp, f.dtype)), s.const(0.0, f.dtype), value)


def _reciprocal(s: Scalars, x: Any) -> Any:
    """1 / x within 0.6 units in the last place."""
    one = s.const(1.0, f32)
    first = s.estimate(x)
    return s.fma(first, s.fma(s.neg(x), first, one), first)


def _scales(s: Scalars, f: Format) -> bool:
    return f.dtype is f32 and s.scales


def expm1(s: Scalars, x: Any) -> Any:
    """scale * (scale * expm1(r) + (scale - 1/scale)), where exp(x) = scale^2 * exp(r)."""
    f = FORMATS[s.dtype_of(x)]
    y = s.min(s.max(x, s.const(f.least_expm1, f.dtype)), s.const(f.most_exp, f.dtype))
    n, biased = nearest_multiple(s, y, f, 2.0 * LN2, f.bias)
    m = expm1_polynomial(s, remainder(s, y, n, f, 2.0), f.expm1)
    scale = power_of_two(s, f, biased)
    twice_bias = s.const(2 * f.bias << f.mantissa_bits, f.signed)
    inverse = s.bitcast(s.sub(twice_bias, s.bitcast(scale, f.signed)), f.dtype)
    return s.copysign(s.mul(scale, s.fma(scale, m, s.sub(scale, inverse))), x)


def sigmoid(s: Scalars, x: Any) -> Any:
    """q = 1 / (1 + exp|x|) for negative x, 1 - q otherwise.

    With exp|x| = (1 + m) / (u v), u and v powers of two, q = (u / (1 + (m + u v))) v: nothing overflows, the last
    product becomes denormal gradually, and the sum of 1 and the rest is rounded once.
    """
    f = FORMATS[s.dtype_of(x)]
    one = s.const(1.0, f.dtype)
    if _scales(s, f):
        return _scaled_sigmoid(s, x, f)
    a = s.min(s.abs(x), s.const(-f.least_exp, f.dtype))
    n, biased = nearest_multiple(s, a, f, -LN2, 2 * f.bias)
    m = expm1_polynomial(s, remainder(s, a, n, f, -1.0), f.expm1_near)
    half = s.shr(biased, s.const(1, f.signed))
    u = power_of_two(s, f, half)
    v = power_of_two(s, f, s.sub(biased, half))
    q = s.mul(s.div(u, s.add(one, s.fma(u, v, m))), v)
    return s.select(s.lt(x, s.const(0.0, f.dtype)), q, s.sub(one, q))


def _scaled_sigmoid(s: Scalars, x: Any, f: Format) -> Any:
    """2^n / (2^n + exp(-r)) where x = n ln 2 + r. Newton's step takes the summands apart: their sum is never rounded."""
    one = s.const(1.0, f.dtype)
    y = s.min(s.max(x, s.const(f.least_exp, f.dtype)), s.const(80.0, f.dtype))
    n, _ = nearest_multiple(s, y, f, LN2, 0)
    r = remainder(s, y, n, f, 1.0)
    slope = horner(s, r, (-1.0, *[-c if k % 2 else c for k, c in enumerate(f.expm1_near)]))
    drop = s.mul(r, slope)  # exp(-r) - 1
    whole = s.scale(one, n)
    first = s.estimate(s.add(s.add(one, whole), drop))
    error = s.fma(s.neg(drop), first, s.fma(s.neg(whole), first, s.sub(one, first)))
    return s.scale(s.fma(first, error, first), n)


def tanh(s: Scalars, x: Any) -> Any:
    """x + x^3 q(x^2) below 0.55; above, 1 - 1 / (1/2 + exp(2|x|)/2), where the quotient is no more than half."""
    f = FORMATS[s.dtype_of(x)]
    a = s.abs(x)
    a2 = s.mul(a, a)
    near = s.fma(s.mul(a, a2), horner(s, a2, f.tanh), a)
    y = s.min(a, s.const(f.tanh_end, f.dtype))
    n, biased = nearest_multiple(s, y, f, 0.5 * LN2, f.bias - 1)
    # one word of ln 2 is enough: n is small wherever the exponential matters
    r = s.fma(n, s.const(-0.5 * LN2, f.dtype), y)
    half_scale = power_of_two(s, f, biased)
    below = s.fma(horner(s, r, (1.0, *f.exp_double)), half_scale, s.const(0.5, f.dtype))
    one = s.const(1.0, f.dtype)
    far = s.sub(one, _reciprocal(s, below) if _scales(s, f) else s.div(one, below))
    return s.copysign(s.select(s.lt(a, s.const(0.55, f.dtype)), near, far), x)


def erf(s: Scalars, x: Any) -> Any:
    """-expm1(log(erfc(|x|))): one smooth exponent serves the whole range.

    The exponent is w + w q(t) with w = -t. Its two terms stay apart to the end, reduced by the two words of ln 2, so
    that the larger one enters without an error of its own.
    """
    f = FORMATS[s.dtype_of(x)]
    t = s.min(s.abs(x), s.const(f.erf_end, f.dtype))
    w = s.neg(t)
    rest = s.mul(w, horner(s, t, ERF32) if f.dtype is f32 else _erf_exponent64(s, t))
    n, biased = nearest_multiple(s, s.add(w, rest), f, LN2, f.bias)
    high = s.fma(n, s.const(-f.ln2[0], f.dtype), w)
    low = s.fma(n, s.const(-f.ln2[1], f.dtype), rest)
    r = s.add(high, low)
    m = s.add(high, s.fma(s.mul(r, r), horner(s, r, f.expm1_near), low))
    scale = power_of_two(s, f, biased)
    return s.copysign(s.fma(scale, m, s.sub(scale, s.const(1.0, f.dtype))), x)


def _erf_exponent64(s: Scalars, t: Any) -> Any:
    """q of t's piece, by coefficients from tables."""
    f = FORMATS[f64]
    piece = s.const(0, f.signed)
    for edge in ERF64_EDGES:
        piece = s.add(piece, s.cast(s.ge(t, s.const(edge, f64)), f.signed))

    def column(values: Sequence[float]) -> Any:
        return s.bitcast(s.table(tuple(bits64(v) for v in values), piece, f.unsigned), f64)

    u = s.sub(t, column(ERF64_CENTERS))
    columns = [column(values) for values in zip(*ERF64, strict=True)]
    q = columns[-1]
    for c in reversed(columns[:-1]):
        q = s.fma(q, u, c)
    return q


def log(s: Scalars, x: Any) -> Any:
    f = FORMATS[s.dtype_of(x)]
    c = s.const
    # a denormal is scaled up, and its exponent set right afterwards
    denormal = s.lt(x, c(2.0 ** (1 - f.bias), f.dtype))
    normal = s.select(denormal, s.mul(x, c(2.0**f.mantissa_bits, f.dtype)), x)
    offset = s.sub(s.bitcast(normal, f.signed), c(f.sqrt_half, f.signed))
    fraction = s.and_(offset, c((1 << f.mantissa_bits) - 1, f.signed))
    m = s.bitcast(s.add(fraction, c(f.sqrt_half, f.signed)), f.dtype)
    k = s.shr(offset, c(f.mantissa_bits, f.signed))
    n = s.sub(integer_value(s, k, f), s.select(denormal, c(f.mantissa_bits, f.dtype), c(0.0, f.dtype)))
    y = _log_sum(s, s.sub(m, c(1.0, f.dtype)), n, f)
    y = s.select(s.lt(x, c(INF, f.dtype)), y, x)
    edge = s.select(s.eq(x, c(0.0, f.dtype)), c(-INF, f.dtype), c(NAN, f.dtype))
    return s.select(s.gt(x, c(0.0, f.dtype)), y, edge)


def log1p(s: Scalars, x: Any) -> Any:
    """log(1 + x) = k ln 2 + log(1 + g), g = 2^-k x + (2^-k - 1), where k makes 1 + g lie around 1: g = x near 0."""
    f = FORMATS[s.dtype_of(x)]
    c = s.const
    one = c(1.0, f.dtype)
    offset = s.sub(s.bitcast(s.add(one, x), f.signed), c(f.sqrt_half, f.signed))
    k = s.shr(offset, c(f.mantissa_bits, f.signed))
    shift = s.shl(k, c(f.mantissa_bits, f.signed))
    scaled = s.bitcast(s.sub(s.bitcast(x, f.signed), shift), f.dtype)
    # beyond half the exponents 2^-k is lost in g anyway, and further on its bits would not be a number
    shift = s.min(shift, c((f.bias // 2) << f.mantissa_bits, f.signed))
    one_scaled = s.bitcast(s.sub(c(f.bias << f.mantissa_bits, f.signed), shift), f.dtype)
    y = _log_sum(s, s.add(scaled, s.sub(one_scaled, one)), integer_value(s, k, f), f)
    y = s.select(s.lt(x, c(INF, f.dtype)), s.copysign(y, x), x)
    edge = s.select(s.eq(x, c(-1.0, f.dtype)), c(-INF, f.dtype), c(NAN, f.dtype))
    return s.select(s.gt(x, c(-1.0, f.dtype)), y, edge)


def _log_sum(s: Scalars, g: Any, n: Any, f: Format) -> Any:
    """n ln 2 + log(1 + g) with sqrt(1/2) <= 1 + g < sqrt(2): the small parts are added before the large ones."""
    if f.dtype is f32:
        small = s.mul(s.mul(g, g), horner(s, g, LOG32))
    else:
        # log(1 + g) = g - z (g - z^2 (2/3 + ...)) with z = g / (2 + g)
        z = s.div(g, s.add(g, s.const(2.0, f.dtype)))
        z2 = s.mul(z, z)
        small = s.mul(z, s.sub(s.mul(z2, horner(s, z2, LOG64)), g))
    small = s.fma(n, s.const(f.ln2[1], f.dtype), small)
    return s.add(s.fma(n, s.const(f.ln2[0], f.dtype), g), small)


def _widened(s: Scalars, function: Callable[..., Any], *values: Any) -> Any:
    """The function in f32 for 16-bit floats, in the values' own format otherwise."""
    dtype = s.dtype_of(values[0])
    if dtype in (f16, bf16):
        return s.cast(function(s, *[s.cast(v, f32) for v in values]), dtype)
    return function(s, *values)


class VectorMath:
    """The mathematical functions of the Scalars protocol, for classes that have its core."""

    def exp(self: Scalars, x: Any) -> Any:
        return _widened(self, exp, x)

    def expm1(self: Scalars, x: Any) -> Any:
        return _widened(self, expm1, x)

    def log(self: Scalars, x: Any) -> Any:
        return _widened(self, log, x)

    def log1p(self: Scalars, x: Any) -> Any:
        return _widened(self, log1p, x)

    def tanh(self: Scalars, x: Any) -> Any:
        return _widened(self, tanh, x)

    def sigmoid(self: Scalars, x: Any) -> Any:
        return _widened(self, sigmoid, x)

    def erf(self: Scalars, x: Any) -> Any:
        return _widened(self, erf, x)

    def sin(self: Scalars, x: Any) -> Any:
        return _widened(self, lambda s, v: (sin64 if s.dtype_of(v) is f64 else sin32)(s, v), x)

    def cos(self: Scalars, x: Any) -> Any:
        return _widened(self, lambda s, v: (cos64 if s.dtype_of(v) is f64 else cos32)(s, v), x)

    def pow(self: Scalars, x: Any, y: Any) -> Any:
        return _widened(self, lambda s, v, w: (pow64 if s.dtype_of(v) is f64 else pow32)(s, v, w), x, y)
