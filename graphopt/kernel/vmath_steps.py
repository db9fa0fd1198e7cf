"""Steps that the functions of vector math share: polynomials, range reduction by powers of two, exact products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.ir.types import f32, f64, i64
from graphopt.kernel.vmath_tables import Format, bits64
from graphopt.opdefs.opdef import Scalars

INF = float("inf")
NAN = float("nan")


def horner(s: Scalars, x: Any, coefficients: Sequence[float]) -> Any:
    """The polynomial, coefficients from the lowest power up."""
    dtype = s.dtype_of(x)
    total = s.const(coefficients[-1], dtype)
    for c in reversed(coefficients[:-1]):
        total = s.fma(total, x, s.const(c, dtype))
    return total


def nearest_multiple(s: Scalars, x: Any, f: Format, step: float, offset: int) -> tuple[Any, Any]:
    """x / step rounded to an integer n: n, and an integer value whose low bits are n + offset."""
    magic = s.const(f.magic + offset, f.dtype)
    t = s.fma(x, s.const(1.0 / step, f.dtype), magic)
    return s.sub(t, magic), s.bitcast(t, f.signed)


def power_of_two(s: Scalars, f: Format, biased: Any) -> Any:
    """2^(n) from the low bits of n + bias, as `nearest_multiple` gives them."""
    return s.bitcast(s.shl(biased, s.const(f.mantissa_bits, f.signed)), f.dtype)


def remainder(s: Scalars, x: Any, n: Any, f: Format, scale: float) -> Any:
    """x - n * scale * ln 2, exact up to one rounding; scale is a power of two."""
    r = s.fma(n, s.const(-scale * f.ln2[0], f.dtype), x)
    return s.fma(n, s.const(-scale * f.ln2[1], f.dtype), r)


def expm1_polynomial(s: Scalars, r: Any, coefficients: Sequence[float]) -> Any:
    return s.fma(s.mul(r, r), horner(s, r, coefficients), r)


def integer_value(s: Scalars, k: Any, f: Format) -> Any:
    """A small integer as a float. In 64 bits by way of the magic number: few machines convert 64-bit integers."""
    if f.dtype is f32:
        return s.cast(k, f32)
    bits = s.add(k, s.const(bits64(f.magic), f.signed))
    return s.sub(s.bitcast(bits, f64), s.const(f.magic, f64))


def two_sum(s: Scalars, a: Any, b: Any) -> tuple[Any, Any]:
    """The rounded sum, and its exact error (Knuth)."""
    total = s.add(a, b)
    b_part = s.sub(total, a)
    error = s.add(s.sub(a, s.sub(total, b_part)), s.sub(b, b_part))
    return total, error


def upper_half(s: Scalars, x: Any) -> Any:
    """A f64 with the low 27 of its significand bits cleared."""
    return s.bitcast(s.and_(s.bitcast(x, i64), s.const(-1 << 27, i64)), f64)


def two_product(s: Scalars, a: Any, b: Any) -> tuple[Any, Any]:
    """The rounded product of f64, and its error to within 2^-105 of it (Dekker, split by bits: never overflows)."""
    p = s.mul(a, b)
    ah, bh = upper_half(s, a), upper_half(s, b)
    al, bl = s.sub(a, ah), s.sub(b, bh)
    cross = s.add(s.mul(ah, bl), s.mul(al, bh))
    return p, s.add(s.add(s.sub(s.mul(ah, bh), p), cross), s.mul(al, bl))
