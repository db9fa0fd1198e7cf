"""The Scalars protocol on numpy arrays: the arithmetic of the loop interpreter, and the oracle of compiled arithmetic.

A value is a numpy array or number; one dtype per value, Python numbers come in through `const`.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache, wraps
from typing import Any

import numpy as np

from graphopt.errors import CompileError
from graphopt.ir.types import DTYPES, DType
from graphopt.kernel.vmath import VectorMath

_OF_NUMPY = {d.numpy: d for d in DTYPES}


def _quiet(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method without numpy's warnings: overflow and NaN are results, not accidents."""

    @wraps(method)
    def call(*args: Any) -> Any:
        with np.errstate(all="ignore"):
            return method(*args)

    return call


def _is_small(x: Any) -> bool:
    """A 16-bit float: numpy's half or bfloat16, which numpy sees as a void kind."""
    return bool(x.dtype.itemsize == 2 and x.dtype.kind not in "iub")


def _apply(f: Callable[..., Any], *xs: Any) -> Any:
    """f on the values; 16-bit floats are computed in float32 and rounded once, which is exact for + - * / and sqrt."""
    if _is_small(xs[0]):
        return f(*[x.astype(np.float32) for x in xs]).astype(xs[0].dtype)
    return f(*xs)


class NumpyScalars(VectorMath):
    """Each method is one numpy operation with the meaning the protocol gives it.

    fma of f32 and f64 is rounded once, over the whole range; that of f16 and bf16 is the one of f32, rounded again, as
    compiled code does it. min and max of zeros of either sign may give either; float `rem` is C's fmod.
    Cost: f64 fma takes about 60 array operations, the others one to six.
    """

    scales = False

    def dtype_of(self, x: Any) -> DType:
        return _OF_NUMPY[x.dtype]

    @_quiet
    def const(self, value: Any, dtype: DType) -> Any:
        if dtype.is_integer:
            n = int(value) & ((1 << dtype.bits) - 1)
            return np.array(n, f"u{dtype.itemsize}").view(dtype.numpy)
        return np.asarray(value).astype(dtype.numpy)

    # arithmetic

    @_quiet
    def add(self, a: Any, b: Any) -> Any:
        return _apply(np.add, a, b)

    @_quiet
    def sub(self, a: Any, b: Any) -> Any:
        return _apply(np.subtract, a, b)

    @_quiet
    def mul(self, a: Any, b: Any) -> Any:
        return _apply(np.multiply, a, b)

    @_quiet
    def div(self, a: Any, b: Any) -> Any:
        return self.idiv(a, b) if a.dtype.kind in "iu" else _apply(np.divide, a, b)

    @_quiet
    def idiv(self, a: Any, b: Any) -> Any:
        """The floor quotient, plus one where it was rounded away from zero."""
        zero = b == 0
        by = np.where(zero, np.ones_like(b), b)
        q = np.floor_divide(a, by)
        if a.dtype.kind == "i":
            away = (np.remainder(a, by) != 0) & ((a < 0) != (by < 0))
            q = q + away.astype(a.dtype)
        return np.where(zero, np.zeros_like(q), q)

    @_quiet
    def rem(self, a: Any, b: Any) -> Any:
        if a.dtype.kind not in "iu":
            return _apply(np.fmod, a, b)
        zero = b == 0
        r = np.fmod(a, np.where(zero, np.ones_like(b), b))
        return np.where(zero, np.zeros_like(r), r)

    @_quiet
    def fma(self, a: Any, b: Any, c: Any) -> Any:
        if a.dtype.kind in "iu":
            return a * b + c
        if a.dtype == np.float64:
            return _fma64(a, b, c)
        product, c = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
        return _rounded_once(product, c).astype(a.dtype)

    @_quiet
    def neg(self, x: Any) -> Any:
        return np.negative(x)

    @_quiet
    def abs(self, x: Any) -> Any:
        return np.abs(x)

    @_quiet
    def min(self, a: Any, b: Any) -> Any:
        return np.minimum(a, b)

    @_quiet
    def max(self, a: Any, b: Any) -> Any:
        return np.maximum(a, b)

    @_quiet
    def copysign(self, magnitude: Any, sign: Any) -> Any:
        return _apply(np.copysign, magnitude, sign)

    @_quiet
    def sqrt(self, x: Any) -> Any:
        return _apply(np.sqrt, x)

    @_quiet
    def floor(self, x: Any) -> Any:
        return x if x.dtype.kind in "iub" else _apply(np.floor, x)

    @_quiet
    def ceil(self, x: Any) -> Any:
        return x if x.dtype.kind in "iub" else _apply(np.ceil, x)

    @_quiet
    def trunc(self, x: Any) -> Any:
        return x if x.dtype.kind in "iub" else _apply(np.trunc, x)

    @_quiet
    def round(self, x: Any) -> Any:
        return x if x.dtype.kind in "iub" else _apply(np.rint, x)

    @_quiet
    def scale(self, x: Any, n: Any) -> Any:
        return np.ldexp(x, np.nan_to_num(n).astype(np.int32))

    @_quiet
    def estimate(self, x: Any) -> Any:
        return np.reciprocal(x)

    # comparison and bits

    @_quiet
    def eq(self, a: Any, b: Any) -> Any:
        return np.equal(a, b)

    @_quiet
    def ne(self, a: Any, b: Any) -> Any:
        return np.not_equal(a, b)

    @_quiet
    def lt(self, a: Any, b: Any) -> Any:
        return np.less(a, b)

    @_quiet
    def le(self, a: Any, b: Any) -> Any:
        return np.less_equal(a, b)

    @_quiet
    def gt(self, a: Any, b: Any) -> Any:
        return np.greater(a, b)

    @_quiet
    def ge(self, a: Any, b: Any) -> Any:
        return np.greater_equal(a, b)

    def and_(self, a: Any, b: Any) -> Any:
        return np.bitwise_and(a, b)

    def or_(self, a: Any, b: Any) -> Any:
        return np.bitwise_or(a, b)

    def xor(self, a: Any, b: Any) -> Any:
        return np.bitwise_xor(a, b)

    def not_(self, x: Any) -> Any:
        return np.invert(x)

    def shl(self, a: Any, b: Any) -> Any:
        return np.left_shift(a, b)

    def shr(self, a: Any, b: Any) -> Any:
        return np.right_shift(a, b)

    def select(self, condition: Any, a: Any, b: Any) -> Any:
        return np.where(condition, a, b)

    # conversion

    @_quiet
    def cast(self, x: Any, dtype: DType) -> Any:
        x = np.asarray(x)
        if dtype.kind == "b":
            return x != x.dtype.type(0)
        if dtype.is_integer and x.dtype.kind not in "iub":
            return _to_integer(x.astype(np.float64), dtype)
        return x.astype(dtype.numpy)

    def bitcast(self, x: Any, dtype: DType) -> Any:
        x = np.asarray(x)
        if x.dtype.itemsize != dtype.itemsize:
            raise CompileError(f"bitcast: {self.dtype_of(x).short} and {dtype.short} differ in size")
        return x.view(dtype.numpy)

    def table(self, values: tuple[int, ...], index: Any, dtype: DType) -> Any:
        return _table(values, dtype)[np.clip(np.asarray(index).astype(np.int64), 0, len(values) - 1)]


@lru_cache(maxsize=64)
def _table(values: tuple[int, ...], dtype: DType) -> np.ndarray:
    if not dtype.is_integer:
        return np.array(values).astype(dtype.numpy)
    return np.array([v & ((1 << dtype.bits) - 1) for v in values], f"u{dtype.itemsize}").view(dtype.numpy)


def _to_integer(x: Any, dtype: DType) -> Any:
    """float64 -> integer towards zero; out of range and NaN: the lowest for signed, the nearest (NaN: 0) for unsigned."""
    info = np.iinfo(dtype.numpy)
    low, end = float(info.min), float(info.max // 2 + 1) * 2.0  # end = largest + 1, exact
    whole = np.trunc(x)
    inside = (whole >= low) & (whole < end)
    result = np.where(inside, whole, 0.0).astype(dtype.numpy)
    if dtype.kind == "i":
        return np.where(inside, result, dtype.numpy.type(info.min))
    return np.where(whole >= end, dtype.numpy.type(info.max), result)


# fused multiply-add. Rounding to odd (the last bit of an inexact result is set) followed by a rounding to at least
# two bits less equals one rounding of the exact value.


def _two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """The rounded sum, and its exact error."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _sum_to_odd(a: Any, b: Any) -> Any:
    """a + b in float64, rounded to odd."""
    s, error = _two_sum(a, b)
    bits = np.asarray(s).view(np.int64)
    step = np.where((error > 0) == (s > 0), 1, -1)
    odd = np.isfinite(s) & (error != 0) & (bits & 1 == 0)
    return np.where(odd, bits + step, bits).view(np.float64)


def _rounded_once(a: Any, b: Any) -> Any:
    """a + b of float64, in float32. Rounded to float64 first, a sum is wrong only where that makes a tie of it: halfway
    between two float32, or near the end of their range, where they lie as far apart as denormals.
    """
    s = np.asarray(a + b)
    bits = s.view(np.int64)
    doubtful = (bits & 0x1FFFFFFF == 0x10000000) | ((np.abs(s) < 2.0**-125) & (s != 0))
    if not doubtful.any():
        return s.astype(np.float32)
    result = np.asarray(s.astype(np.float32))
    a, b, _ = np.broadcast_arrays(a, b, s)
    result[doubtful] = _sum_to_odd(a[doubtful], b[doubtful]).astype(np.float32)
    return result


def _two_product(a: Any, b: Any) -> tuple[Any, Any]:
    """The rounded product of numbers near 1, and its exact error (Dekker's splitting)."""
    p = a * b
    ah = a * 134217729.0
    ah = ah - (ah - a)
    bh = b * 134217729.0
    bh = bh - (bh - b)
    al, bl = a - ah, b - bh
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def _fma64(a: Any, b: Any, c: Any) -> Any:
    """a*b + c of float64, rounded once.

    Source: Boldo and Melquiond, "Emulation of FMA and correctly rounded sums" (2008), on significands near 1. The few
    elements whose result is near the denormal range are summed as fractions.
    """
    a, b, c = np.broadcast_arrays(a, b, c)
    plain = a * b + c
    (fa, ea), (fb, eb), (fc, ec) = np.frexp(a), np.frexp(b), np.frexp(c)
    exponent = (ea + eb).astype(np.int32)
    gap = np.clip(ec.astype(np.int32) - exponent, -250, 250)
    p, p_error = _two_product(fa, fb)
    t, t_error = _two_sum(np.ldexp(fc, gap), p_error)
    v, v_error = _two_sum(p, t)
    total = np.ldexp(v + _sum_to_odd(t_error, v_error), exponent)
    total = np.where(ec - exponent > 200, c, total)  # the product is below half a unit of c
    usable = np.isfinite(a) & np.isfinite(b) & np.isfinite(c) & (a != 0) & (b != 0) & (c != 0)
    result = np.where(usable, total, plain)
    near = usable & (np.abs(total) < 2.0**-1000)
    if near.any():
        result[near] = [_exact(*map(float, abc)) for abc in zip(a[near], b[near], c[near], strict=True)]
    return result


def _exact(a: float, b: float, c: float) -> float:
    """a*b + c as fractions, rounded once, denormals included."""
    total = Fraction(a) * Fraction(b) + Fraction(c)
    size = abs(total.numerator) / total.denominator
    return -size if total < 0 else size
