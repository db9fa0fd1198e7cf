"""Elementwise arithmetic, comparison, selection and casts.

A node's inputs have one shape (a call broadcasts them first), so a shape rule here is a dtype rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.errors import DTypeError
from graphopt.ir.graph import Node
from graphopt.ir.types import DTYPES, FLOATS, NUMBERS, DType, TensorType, bool_, f32, f64
from graphopt.opdefs.division import floor_division
from graphopt.opdefs.opdef import Sample, Scalars, full, op
from graphopt.opdefs.scaffold import (
    binary_samples,
    claim,
    flat,
    in_f32,
    special_pairs,
    special_values,
    unary_samples,
    zero_of,
)


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


@sub.jvp
def _(tangents: Sequence[Node | None], out: Node, a: Node, b: Node) -> Node | None:
    left, right = tangents
    if right is None:
        return left
    return neg(right) if left is None else sub(left, right)


@op(binary_samples((-250, 250), (-1e-6, 1e-6)), "elementwise", NUMBERS)
def mul(a: TensorType, b: TensorType) -> TensorType:
    """Product of two numbers; integers wrap."""
    return claim(a, b)


mul.numpy(in_f32(np.multiply))
mul.scalar(lambda s, a, b: s.mul(a, b))


mul.linear((0,), (1,))


@mul.vjp
def _(ct: Node, out: Node, a: Node, b: Node) -> tuple[Node, Node | None]:
    if a is b:
        return mul(add(ct, ct), a), None  # a cotangent is often fewer numbers than the square: those of a sum's rows
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


neg.linear()


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
    """All of ct where `wins`, half where `ties`, nothing elsewhere."""
    half = mul(ct, 0.5) if ct.dtype.is_float else floordiv(ct, 2)
    return select(wins, ct, select(ties, half, zero_of(ct)))


@maximum.vjp
def _(ct: Node, out: Node, a: Node, b: Node) -> tuple[Node, Node]:
    ties = eq(a, b)
    return _share(ct, gt(a, b), ties), _share(ct, lt(a, b), ties)


@minimum.vjp
def _(ct: Node, out: Node, a: Node, b: Node) -> tuple[Node, Node]:
    ties = eq(a, b)
    return _share(ct, lt(a, b), ties), _share(ct, gt(a, b), ties)


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
floordiv.scalar(lambda s, a, b: floor_division(s, a, b)[0])
mod.scalar(lambda s, a, b: floor_division(s, a, b)[1])


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
eq.numpy(np.equal)
ne.numpy(np.not_equal)
lt.numpy(np.less)
le.numpy(np.less_equal)
gt.numpy(np.greater)
ge.numpy(np.greater_equal)
for _d in (eq, ne, lt, le, gt, ge):
    flat(_d, 2)


@op(
    [
        Sample(s, dtypes=(bool_, None, None))
        for s in ([(5, 33)] * 3, [()] * 3, [(5, 1), (7,), ()], [(0, 3)] * 3)
    ],
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


select.linear((1, 2))


@select.vjp
def _(ct: Node, out: Node, condition: Node, a: Node, b: Node) -> tuple[None, Node, Node]:
    return None, select(condition, ct, zero_of(ct)), select(condition, zero_of(ct), ct)


def _cast_samples() -> list[Sample]:
    ranged = [Sample([(37,)], {"dtype": d}, low=-3e3, high=3e3) for d in DTYPES]
    special = [
        Sample([(1,)], {"dtype": d}, values=lambda rng, dtype: [special_values(dtype)]) for d in DTYPES
    ]
    return [Sample([s], {"dtype": f32}) for s in [(5, 33), (), (0, 3)]] + ranged + special


@op(_cast_samples(), "elementwise")
def cast(x: TensorType, *, dtype: DType) -> TensorType:
    """The element in another dtype.

    Floats become integers towards 0; what the integer dtype cannot hold, NaN included, becomes the lowest
    signed integer, or is clamped for unsigned ones (NaN to 0). Integers wrap. Every number but 0 is True.
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


alias.linear()


@alias.vjp
def _(ct: Node, out: Node, x: Node) -> tuple[Node]:
    return (ct,)


def zeros_like(x: Node) -> Node:
    """Zeros of x's type."""
    return full(x.shape, 0, x.dtype)
