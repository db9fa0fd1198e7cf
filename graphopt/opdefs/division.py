"""Floor division of scalars: whole quotient and remainder, with arithmetic that every machine has."""

from __future__ import annotations

from typing import Any

from graphopt.ir.types import f64, u64
from graphopt.opdefs.opdef import Scalars

_STEPS = {"float16": 2, "bfloat16": 10, "float32": 10, "float64": 4}


def _remainder(s: Scalars, a: Any, b: Any, steps: int, split: bool) -> Any:
    """C's fmod in f64, by long division: each step takes leading bits of the quotient off, without rounding.

    A product of 26 bits of the quotient with half of b's bits is exact (`split`); so is one of 29 bits with
    a b that was an f32. Two numbers that near have an exact difference. No step needs a fused multiply-add.
    """

    def leading(x: Any, bits: int) -> Any:
        mask = s.const((1 << 64) - (1 << (53 - bits)), u64)
        return s.bitcast(s.and_(s.bitcast(x, u64), mask), f64)

    high = leading(b, 26) if split else b
    low = s.sub(b, high)
    rest = a
    for _ in range(steps):
        quotient = leading(s.trunc(s.div(rest, b)), 26 if split else 29)
        rest = s.sub(rest, s.mul(quotient, high))
        if split:
            rest = s.sub(rest, s.mul(quotient, low))
    over = s.lt(
        s.mul(rest, s.copysign(s.const(1, f64), a)), s.const(0, f64)
    )  # the last quotient was rounded up
    rest = s.select(over, s.add(rest, s.copysign(b, a)), rest)
    return s.select(s.lt(s.abs(a), s.abs(b)), a, rest)


def floor_division(s: Scalars, a: Any, b: Any) -> tuple[Any, Any]:
    """Quotient and remainder, the remainder on the divisor's side of 0 (numpy's and Python's meaning)."""
    dtype = s.dtype_of(a)
    work = f64 if dtype.is_float else dtype
    zero, one = s.const(0, work), s.const(1, work)
    if dtype.is_float:
        a, b = s.cast(a, f64), s.cast(b, f64)
        rest = _remainder(s, a, b, _STEPS[dtype.name], split=dtype is f64)
        quotient = s.round(s.div(s.sub(a, rest), b))
    else:
        quotient, rest = s.idiv(a, b), s.rem(a, b)
    if dtype.kind == "u":
        return quotient, rest
    crosses = s.and_(s.ne(rest, zero), s.ne(s.lt(rest, zero), s.lt(b, zero)))
    quotient = s.select(crosses, s.sub(quotient, one), quotient)
    rest = s.select(crosses, s.add(rest, b), rest)
    if dtype.is_float:
        exact = s.div(a, b)
        quotient = s.select(s.eq(quotient, zero), s.copysign(quotient, exact), quotient)
        quotient = s.select(s.eq(b, zero), exact, quotient)
        rest = s.select(s.eq(rest, zero), s.copysign(rest, b), rest)
        return s.cast(quotient, dtype), s.cast(rest, dtype)
    return quotient, rest
