"""pow: logarithm and exponential with enough digits between them.

f32 goes through f64 arithmetic. f64 takes the logarithm as an unevaluated sum of two numbers, about 2^-66 exact.
"""

from __future__ import annotations

from typing import Any

from graphopt.ir.types import f32, f64, i64, u64
from graphopt.kernel.vmath_steps import (
    INF,
    NAN,
    horner,
    integer_value,
    nearest_multiple,
    power_of_two,
    remainder,
    two_product,
    two_sum,
)
from graphopt.kernel.vmath_tables import (
    EXP_SHORT,
    F64,
    LN2,
    LOG1P_NEAR,
    LOG_SHORT,
    LOG_START,
    log_table,
)
from graphopt.opdefs.opdef import Scalars

_MANTISSA = 52


def pow32(s: Scalars, x: Any, y: Any) -> Any:
    """exp(y log|x|) in f64, where every f32 is normal and 2^n needs no care; rounded to f32 once."""
    c = s.const
    a = s.cast(s.abs(x), f64)
    # y beyond the range of f32 is a multiple of infinity: made finite, it still overflows, and 1^y stays 1
    by = s.min(s.max(s.cast(y, f64), c(-(2.0**128), f64)), c(2.0**128, f64))
    k, m = _split(s, s.bitcast(a, i64), F64.sqrt_half)
    g = s.sub(m, c(1.0, f64))
    z = s.div(g, s.add(m, c(1.0, f64)))
    z2 = s.mul(z, z)
    logarithm = s.fma(s.mul(z, z2), horner(s, z2, LOG_SHORT), s.add(z, z))
    logarithm = s.fma(integer_value(s, k, F64), c(LN2, f64), logarithm)
    logarithm = s.select(s.lt(a, c(INF, f64)), logarithm, a)
    logarithm = s.select(s.eq(a, c(0.0, f64)), c(-INF, f64), logarithm)
    p = s.min(s.max(s.mul(by, logarithm), c(-110.0, f64)), c(90.0, f64))
    n, biased = nearest_multiple(s, p, F64, LN2, F64.bias)
    r = s.fma(n, c(-LN2, f64), p)
    result = s.mul(horner(s, r, (1.0, 1.0, *EXP_SHORT)), power_of_two(s, F64, biased))
    return _settle(s, x, y, s.cast(result, f32))


def pow64(s: Scalars, x: Any, y: Any) -> Any:
    """exp(p + e), where p + e = y (high + low) and high + low = log|x|."""
    c = s.const
    a = s.abs(x)
    by = s.min(s.max(y, c(-(2.0**80), f64)), c(2.0**80, f64))
    high, low = _log_pair(s, a)
    p, e = two_product(s, by, high)
    e = s.fma(by, low, e)
    # zero and infinity: their logarithms are infinite, and nothing is added
    proper = s.and_(s.gt(a, c(0.0, f64)), s.lt(a, c(INF, f64)))
    edge = s.mul(by, s.select(s.eq(a, c(0.0, f64)), c(-INF, f64), a))
    p = s.min(s.max(s.select(proper, p, edge), c(F64.least_exp, f64)), c(F64.most_exp, f64))
    # within the range of p, |e| is below 2^-40; outside, p has settled the result
    e = s.select(proper, s.min(s.max(e, c(-(2.0**-40), f64)), c(2.0**-40, f64)), c(0.0, f64))
    n, biased = nearest_multiple(s, p, F64, 2.0 * LN2, F64.bias)
    r = s.add(remainder(s, p, n, F64, 2.0), e)
    scale = power_of_two(s, F64, biased)
    result = s.mul(s.mul(horner(s, r, (1.0, 1.0, *F64.exp)), scale), scale)
    return _settle(s, x, y, result)


def _split(s: Scalars, bits: Any, start: int) -> tuple[Any, Any]:
    """k and m of a positive number 2^k m, with m from the range of one binade that begins at the bits `start`."""
    offset = s.sub(bits, s.const(start, i64))
    fraction = s.and_(offset, s.const((1 << _MANTISSA) - 1, i64))
    m = s.bitcast(s.add(fraction, s.const(start, i64)), f64)
    return s.shr(offset, s.const(_MANTISSA, i64)), m


def _log_pair(s: Scalars, a: Any) -> tuple[Any, Any]:
    """log(a) of a positive f64 as high + low, for 0 < a < inf.

    a = 2^k m; a table gives an inverse v of few bits near 1/m and its -log(v); then r = m v - 1 is small and exact as a
    pair, and log(a) = k ln 2 - log(v) + log1p(r).
    """
    c = s.const
    denormal = s.lt(a, c(2.0**-1022, f64))
    normal = s.select(denormal, s.mul(a, c(2.0**_MANTISSA, f64)), a)
    k, m = _split(s, s.bitcast(normal, i64), LOG_START)
    n = s.sub(integer_value(s, k, F64), s.select(denormal, c(_MANTISSA, f64), c(0.0, f64)))
    row = s.shr(s.sub(s.bitcast(m, i64), c(LOG_START, i64)), c(_MANTISSA - 7, i64))
    v, log_high, log_low = [s.bitcast(s.table(column, row, u64), f64) for column in log_table()]
    m_high = s.bitcast(s.and_(s.bitcast(m, i64), c(-1 << 27, i64)), f64)
    r, r_low = two_sum(s, s.sub(s.mul(m_high, v), c(1.0, f64)), s.mul(s.sub(m, m_high), v))
    # largest first: k ln 2 - log(v) (exact), r, -r*r/2 (with its error), the rest in one number
    base = s.add(s.mul(n, c(F64.ln2[0], f64)), log_high)
    first, first_low = two_sum(s, base, r)
    square, square_low = two_product(s, r, s.mul(r, c(-0.5, f64)))
    second, second_low = two_sum(s, first, square)
    rest = s.mul(s.mul(r, s.mul(r, r)), horner(s, r, LOG1P_NEAR))
    rest = s.add(rest, s.fma(n, c(F64.ln2[1], f64), log_low))
    rest = s.add(rest, s.add(square_low, s.sub(r_low, s.mul(r, r_low))))
    rest = s.add(rest, s.add(first_low, second_low))
    high = s.add(second, rest)
    return high, s.add(s.sub(second, high), rest)


def _settle(s: Scalars, x: Any, y: Any, power: Any) -> Any:
    """The result from |x|^y: its sign, NaN for a negative number to a broken power, 1 for y = 0 and for x = 1."""
    dtype = s.dtype_of(x)
    c = s.const
    zero, one, half = c(0.0, dtype), c(1.0, dtype), s.mul(y, c(0.5, dtype))
    whole = s.eq(s.floor(y), y)
    odd = s.and_(whole, s.ne(s.floor(half), half))
    power = s.select(s.and_(odd, s.lt(s.copysign(one, x), zero)), s.neg(power), power)
    broken = s.and_(s.and_(s.lt(x, zero), s.gt(x, c(-INF, dtype))), s.not_(whole))
    power = s.select(broken, c(NAN, dtype), power)
    return s.select(s.or_(s.eq(y, zero), s.eq(x, one)), one, power)
