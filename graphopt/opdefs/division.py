"""Division with a whole quotient: floordiv and mod, numpy's and Python's meaning."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir.graph import Node
from graphopt.ir.types import NUMBERS, DType, TensorType, f64, u64
from graphopt.opdefs.elementwise import mul, neg
from graphopt.opdefs.opdef import Sample, Scalars, op
from graphopt.opdefs.scaffold import binary_samples, claim, flat, in_f32, special_pairs


def _quotients_in_reach(rng: np.random.Generator, dtype: DType) -> list[np.ndarray]:
    """Special values, and without the pairs of float64 whose quotient is beyond 2**100."""
    a, b = special_pairs(dtype)
    if dtype is not f64:
        return [a, b]
    with np.errstate(all="ignore"):
        quotient = np.abs(a / b)
    keep = ~(np.isfinite(a) & np.isfinite(b) & (b != 0) & (quotient > 2.0**100))
    return [a[keep], b[keep]]


_division_samples = [
    *binary_samples((-1e3, 1e3), (0.25, 9))[:-1],
    Sample([(1,), (1,)], values=_quotients_in_reach),
]


@op(_division_samples, "elementwise", NUMBERS)
def floordiv(a: TensorType, b: TensorType) -> TensorType:
    """The largest whole number not above a / b, as numpy's floor_divide; an integer divided by 0 gives 0.

    Units: a float's quotient is rounded to its dtype; for f64, |a / b| is at most 2**100 (else NaN).
    """
    return claim(a, b)


@op(_division_samples, "elementwise", NUMBERS)
def mod(a: TensorType, b: TensorType) -> TensorType:
    """a - b * floordiv(a, b), as numpy's mod: it has the sign of b; an integer modulo 0 gives 0.

    Units: exact for floats; for f64, |a / b| is at most 2**100 (else NaN).
    """
    return claim(a, b)


floordiv.numpy(in_f32(np.floor_divide))
mod.numpy(in_f32(np.mod))
flat(floordiv, 2)

_STEPS = {"float16": 2, "bfloat16": 10, "float32": 10, "float64": 4}


def _remainder(s: Scalars, a: Any, b: Any, steps: int, split: bool) -> Any:
    """C's fmod in f64, by long division: each step takes the leading bits of the quotient off, without rounding.

    A product of 26 bits of the quotient with half of b's bits is exact (`split`); so is one of 29 bits with a b
    that was an f32. Two numbers that near have an exact difference.
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


def _floor_division(s: Scalars, a: Any, b: Any) -> tuple[Any, Any]:
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


floordiv.scalar(lambda s, a, b: _floor_division(s, a, b)[0])
mod.scalar(lambda s, a, b: _floor_division(s, a, b)[1])


@mod.vjp
def _(ct: Node, out: Node, a: Node, b: Node) -> tuple[Node, Node]:
    return ct, neg(mul(ct, floordiv(a, b)))
