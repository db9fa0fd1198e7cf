"""sin and cos by one exact reduction of every argument.

|x| is an integer times 2^e. The integer is multiplied by the fraction of 2^e / (2 pi) from a table; the product mod 1,
in fixed point, says where in the turn the argument lies. No argument loses digits, and none needs a second way.

Source: M. Payne and R. Hanek, "Radian reduction for trigonometric functions" (1983).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from typing import Any

from graphopt.ir.types import f32, f64, i64, u32, u64
from graphopt.kernel.vmath_steps import INF, NAN, horner, integer_value, two_product, two_sum
from graphopt.kernel.vmath_tables import COS32, COS64, F64, SIN32, SIN64, bits64, turn_words
from graphopt.opdefs.opdef import Scalars

# below this an argument is in the first eighth of the turn and stands for itself
_NEAR = 0.78
# 2 pi - float(2 pi)
_TWO_PI_LOW = 2.4492935982947064e-16


def sin32(s: Scalars, x: Any) -> Any:
    quarter, r = _reduce32(s, x)
    sign = s.and_(s.bitcast(x, u32), s.const(1 << 31, u32))
    return _turned(s, x, _sine32(s, r), _cosine32(s, r), quarter, sign)


def cos32(s: Scalars, x: Any) -> Any:
    quarter, r = _reduce32(s, x)
    return _turned(s, x, _sine32(s, r), _cosine32(s, r), s.add(quarter, s.const(1, u32)), s.const(0, u32))


def sin64(s: Scalars, x: Any) -> Any:
    quarter, r, low = _reduce64(s, x)
    sign = s.and_(s.bitcast(x, u64), s.const(1 << 63, u64))
    return _turned(s, x, _sine64(s, r, low), _cosine64(s, r, low), quarter, sign)


def cos64(s: Scalars, x: Any) -> Any:
    quarter, r, low = _reduce64(s, x)
    return _turned(s, x, _sine64(s, r, low), _cosine64(s, r, low), s.add(quarter, s.const(1, u64)), s.const(0, u64))


def _turned(s: Scalars, x: Any, sine: Any, cosine: Any, quarter: Any, sign: Any) -> Any:
    """The sine `quarter` quarter turns further on, its sign flipped by `sign`; NaN for infinite x."""
    dtype = s.dtype_of(x)
    word = s.dtype_of(quarter)
    value = s.select(s.eq(s.and_(quarter, s.const(1, word)), s.const(0, word)), sine, cosine)
    flip = s.shl(s.and_(quarter, s.const(2, word)), s.const(dtype.bits - 2, word))
    value = s.bitcast(s.xor(s.bitcast(value, word), s.xor(flip, sign)), dtype)
    return s.select(s.lt(s.abs(x), s.const(INF, dtype)), value, s.const(NAN, dtype))


def _nearest_quarter(s: Scalars, turn: Any) -> tuple[Any, Any]:
    """A fraction of a turn in 64 bits: the number of its nearest quarter, and the signed distance from it."""
    c = s.const
    quarter = s.shr(s.add(turn, c(1 << 61, u64)), c(62, u64))
    return quarter, s.bitcast(s.sub(turn, s.shl(quarter, c(62, u64))), i64)


def _reduce32(s: Scalars, x: Any) -> tuple[Any, Any]:
    """|x| = quarter * pi/2 + r, |r| <= pi/4; quarter is only right mod 4.

    The integer is shifted so that its power of two is one of 17. It has 31 bits, the fraction 96: the 64 bits of the
    product are off by less than 2^-62 of a turn, and the f32 nearest to a quarter turn is 2^-35 away from it.
    """
    c = s.const
    a = s.abs(x)
    near = s.lt(a, c(_NEAR, f32))
    bits = s.bitcast(a, u32)
    place = s.sub(s.shr(bits, c(23, u32)), c(120, u32))
    integer = s.or_(s.and_(bits, c((1 << 23) - 1, u32)), c(1 << 23, u32))
    integer = s.shl(integer, s.and_(place, c(7, u32)))
    integer = s.cast(s.select(near, c(0, u32), integer), u64)
    upper, lower = [s.table(column, s.shr(place, c(3, u32)), u64) for column in turn_words(17, -30, (64, 32))]
    turn = s.add(s.mul(integer, upper), s.shr(s.mul(integer, lower), c(32, u64)))
    quarter, distance = _nearest_quarter(s, turn)
    r = s.cast(s.mul(s.cast(distance, f64), c(2.0 * pi * 2.0**-64, f64)), f32)
    return s.cast(quarter, u32), s.select(near, a, r)


def _sine32(s: Scalars, r: Any) -> Any:
    r2 = s.mul(r, r)
    return s.fma(s.mul(r, r2), horner(s, r2, SIN32), r)


def _cosine32(s: Scalars, r: Any) -> Any:
    return horner(s, s.mul(r, r), (1.0, -0.5, *COS32))


def _reduce64(s: Scalars, x: Any) -> tuple[Any, Any, Any]:
    """|x| = quarter * pi/2 + (r + low), as in f32: an integer of 60 bits, a fraction of 192, a product of 128."""
    c = s.const
    a = s.abs(x)
    near = s.lt(a, c(_NEAR, f64))
    bits = s.bitcast(a, u64)
    place = s.sub(s.shr(bits, c(52, u64)), c(1016, u64))
    integer = s.or_(s.and_(bits, c((1 << 52) - 1, u64)), c(1 << 52, u64))
    integer = s.shl(integer, s.and_(place, c(7, u64)))
    integer = s.select(near, c(0, u64), integer)
    columns = turn_words(129, -59, (64, 64, 64))
    turn, rest = _fraction128(s, integer, [s.table(column, s.shr(place, c(3, u64)), u64) for column in columns])
    quarter, distance = _nearest_quarter(s, turn)
    # the distance, 64 bits before and 64 behind the point, as an unevaluated sum of two floats
    word = c((1 << 32) - 1, i64)
    upper = s.mul(integer_value(s, s.shr(distance, c(32, i64)), F64), c(2.0**32, f64))
    middle = integer_value(s, s.and_(distance, word), F64)
    fine = s.or_(s.shr(rest, c(12, u64)), c(bits64(2.0**52), u64))
    fine = s.mul(s.sub(s.bitcast(fine, f64), c(2.0**52, f64)), c(2.0**-52, f64))
    sum_low, sum_lowest = two_sum(s, middle, fine)
    f, f_low = two_sum(s, upper, sum_low)
    f, f_low = two_sum(s, f, s.add(f_low, sum_lowest))
    # times 2 pi / 2^64
    r, low = two_product(s, f, c(2.0 * pi, f64))
    low = s.add(low, s.fma(f_low, c(2.0 * pi, f64), s.mul(f, c(_TWO_PI_LOW, f64))))
    unit = c(2.0**-64, f64)
    return quarter, s.select(near, a, s.mul(r, unit)), s.select(near, c(0.0, f64), s.mul(low, unit))


def _fraction128(s: Scalars, integer: Any, words: Sequence[Any]) -> tuple[Any, Any]:
    """The integer times a fraction of three words (most significant first), mod 1: its first two words."""
    first, second, third = words
    product = s.mul(integer, second)
    lower = s.add(product, _high_word(s, integer, third))
    carry = s.cast(s.lt(lower, product), u64)
    upper = s.add(s.add(s.mul(integer, first), _high_word(s, integer, second)), carry)
    return upper, lower


def _high_word(s: Scalars, a: Any, b: Any) -> Any:
    """The upper 64 bits of a product of a < 2^63 and any b."""
    mask, half = s.const((1 << 32) - 1, u64), s.const(32, u64)
    a0, a1, b0, b1 = s.and_(a, mask), s.shr(a, half), s.and_(b, mask), s.shr(b, half)
    cross = s.mul(a0, b1)
    middle = s.add(s.add(s.shr(s.mul(a0, b0), half), s.and_(cross, mask)), s.mul(a1, b0))
    return s.add(s.add(s.mul(a1, b1), s.shr(cross, half)), s.shr(middle, half))


def _sine64(s: Scalars, r: Any, low: Any) -> Any:
    r2 = s.mul(r, r)
    slope = s.fma(r2, s.const(-0.5, f64), s.const(1.0, f64))
    return s.add(r, s.fma(s.mul(r, r2), horner(s, r2, SIN64), s.mul(low, slope)))


def _cosine64(s: Scalars, r: Any, low: Any) -> Any:
    """1 - h + r^4 q - r low with h = r*r/2, the rounding error of 1 - h put back."""
    r2 = s.mul(r, r)
    h = s.mul(r2, s.const(0.5, f64))
    one = s.const(1.0, f64)
    top = s.sub(one, h)
    rest = s.sub(s.mul(s.mul(r2, r2), horner(s, r2, COS64)), s.mul(r, low))
    return s.add(top, s.add(s.sub(s.sub(one, top), h), rest))
