"""The oracle's own arithmetic, against exact rational and integer arithmetic."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphopt.errors import CompileError
from graphopt.ir.types import (
    DTYPES,
    FLOATS,
    INTEGERS,
    DType,
    bf16,
    bool_,
    f16,
    f32,
    f64,
    i8,
    i32,
    i64,
    u8,
    u32,
    u64,
)
from graphopt.kernel.numpy_scalars import NumpyScalars

S = NumpyScalars()


def anything(dtype: DType, rng: np.random.Generator, count: int) -> np.ndarray:
    """Values of any bits; floats without NaN and infinity."""
    raw = rng.integers(0, 256, (count, dtype.itemsize), dtype=np.uint8).view(dtype.numpy).ravel()
    with np.errstate(invalid="ignore"):  # widening a signalling NaN
        return raw[np.isfinite(raw.astype(np.float64))] if dtype.is_float else raw


def nearest(value: Fraction, dtype: DType) -> float:
    """The value rounded once to the nearest number of a float format, ties to even."""
    if value == 0:
        return 0.0
    digits = {f16: 11, bf16: 8, f32: 24, f64: 53}[dtype]
    least = {f16: -24, bf16: -133, f32: -149, f64: -1074}[dtype]
    most = {f16: 16, bf16: 128, f32: 128, f64: 1024}[dtype]
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    unit = Fraction(2) ** max(exponent - digits + 1, least)
    rounded = round(size / unit) * unit
    result = float("inf") if rounded >= Fraction(2) ** most else float(rounded)
    return result if value > 0 else -result


@pytest.mark.parametrize("dtype", FLOATS)
def test_fma_is_rounded_once(dtype: DType) -> None:
    """16-bit floats: once to f32, then to their own format."""
    rng = np.random.default_rng(4)
    x, y = [rng.uniform(-2, 2, 1500).astype(dtype.numpy) for _ in range(2)]
    tiny = float(np.finfo(np.float64).tiny if dtype is f64 else ml_dtypes.finfo(dtype.numpy).tiny) ** 0.5
    small = (x * np.array(tiny, dtype.numpy)).astype(dtype.numpy)
    eps = float(2 * np.finfo(np.float64).epsneg if dtype is f64 else ml_dtypes.finfo(dtype.numpy).eps)
    above, below = [(1 + sign * eps * rng.integers(0, 9, 500)).astype(dtype.numpy) for sign in (1, -1)]
    with np.errstate(all="ignore"):
        # any bits; sums that cancel; of one size; around the denormal range; nearly halfway between two numbers
        cases = [[anything(dtype, rng, 3000)[:2500] for _ in range(3)], [x, y, -(x * y)], [x, y, y[::-1]]]
        cases += [[small, small[::-1], x * (small * small)], [small, small, -(small * small)]]
        cases += [[above, below, np.full(500, eps * eps)], [above, above, np.full(500, -eps * eps / 8)]]
    a, b, c = [np.concatenate(column).astype(dtype.numpy) for column in zip(*cases, strict=True)]
    found = S.fma(a, b, c)
    assert found.dtype == dtype.numpy
    for p, q, r, got in zip(*[v.astype(np.float64) for v in (a, b, c, found)], strict=True):
        expected = nearest(Fraction(float(p)) * Fraction(float(q)) + Fraction(float(r)), f32 if dtype.bits == 16 else dtype)
        if dtype.bits == 16 and abs(expected) != float("inf"):
            expected = nearest(Fraction(expected), dtype)
        assert got == expected, f"{p!r} * {q!r} + {r!r}: {got!r}, expected {expected!r}"


@pytest.mark.parametrize("dtype", FLOATS)
def test_fma_of_special_values(dtype: DType) -> None:
    values = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan]
    a, b, c = [v.ravel().astype(dtype.numpy) for v in np.meshgrid(values, values, values)]
    with np.errstate(all="ignore"):
        expected = a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)
    found = S.fma(a, b, c).astype(np.float64)
    same = (found == expected) & (np.signbit(found) == np.signbit(expected)) | np.isnan(found) & np.isnan(expected)
    assert same.all()


@pytest.mark.parametrize("dtype", [f16, bf16])
@pytest.mark.parametrize("name", ["add", "sub", "mul", "div"])
def test_small_floats_round_after_every_operation(name: str, dtype: DType) -> None:
    rng = np.random.default_rng(5)
    a, b = [anything(dtype, rng, 1100)[:1000] for _ in range(2)]
    b = np.where(b == 0, np.ones_like(b), b)
    found = getattr(S, name)(a, b)
    assert found.dtype == dtype.numpy
    exact = {"add": lambda p, q: p + q, "sub": lambda p, q: p - q, "mul": lambda p, q: p * q, "div": lambda p, q: p / q}[name]
    for p, q, got in zip(*[v.astype(np.float64) for v in (a, b, found)], strict=True):
        assert got == nearest(exact(Fraction(float(p)), Fraction(float(q))), dtype)


def _wrapped(value: int, dtype: DType) -> int:
    value &= (1 << dtype.bits) - 1
    return value - (1 << dtype.bits) if dtype.kind == "i" and value >> (dtype.bits - 1) else value


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_wrap_and_divide_as_in_c(dtype: DType) -> None:
    rng = np.random.default_rng(6)
    info = np.iinfo(dtype.numpy)
    edges = np.array([info.min, info.max, 0, 1, _wrapped(-1, dtype), 2, _wrapped(-2, dtype), 7], dtype.numpy)
    a, b = [v.ravel() for v in np.meshgrid(edges, edges)]
    a = np.concatenate([a, anything(dtype, rng, 500)])
    b = np.concatenate([b, anything(dtype, rng, 500) >> np.array(dtype.bits // 2, dtype.numpy)])
    rules: dict[str, Any] = {
        "add": lambda p, q: p + q,
        "sub": lambda p, q: p - q,
        "mul": lambda p, q: p * q,
        "idiv": lambda p, q: 0 if q == 0 else abs(p) // abs(q) * (1 if (p < 0) == (q < 0) else -1),
        "rem": lambda p, q: 0 if q == 0 else abs(p) % abs(q) * (-1 if p < 0 else 1),
        "min": min,
        "max": max,
    }
    for name, rule in rules.items():
        found = getattr(S, name)(a, b)
        assert found.dtype == dtype.numpy, name
        expected = [_wrapped(rule(int(p), int(q)), dtype) for p, q in zip(a, b, strict=True)]
        assert found.tolist() == expected, name
    assert S.neg(edges).tolist() == [_wrapped(-int(v), dtype) for v in edges]
    assert S.abs(edges).tolist() == [_wrapped(abs(int(v)), dtype) for v in edges]
    three = np.array(3, dtype.numpy)
    assert S.shr(edges, three).tolist() == [int(v) >> 3 for v in edges]
    assert S.shl(edges, three).tolist() == [_wrapped(int(v) << 3, dtype) for v in edges]


@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("dtype", INTEGERS)
def test_float_to_integer_saturates(source: DType, dtype: DType) -> None:
    info = np.iinfo(dtype.numpy)
    bound = 2.0 ** (dtype.bits - (dtype.kind == "i"))
    values = [0.0, -0.0, 1.9, -1.9, 100.5, -100.5, np.inf, -np.inf, np.nan, bound, bound / 2, -bound, -bound / 2, 3e38, -3e38]
    with np.errstate(all="ignore"):
        x = np.array(values).astype(source.numpy)
    found = S.cast(x, dtype)
    assert found.dtype == dtype.numpy
    for v, got in zip(x.astype(np.float64).tolist(), found.tolist(), strict=True):
        if v == v and abs(v) != np.inf and info.min <= int(v) <= info.max:
            expected = int(v)
        elif dtype.kind == "i":
            expected = info.min
        else:
            expected = info.max if v > 0 else 0
        assert got == expected, f"{v} -> {dtype}"


@pytest.mark.parametrize("dtype", FLOATS)
def test_extremes_hand_on_nan(dtype: DType) -> None:
    a = np.array([np.nan, 1.0, np.nan, 2.0], dtype.numpy)
    b = np.array([1.0, np.nan, np.nan, 3.0], dtype.numpy)
    for found, last in ((S.min(a, b), 2.0), (S.max(a, b), 3.0)):
        assert found.dtype == dtype.numpy
        assert np.isnan(found[:3].astype(np.float64)).all() and float(found[3]) == last


@pytest.mark.parametrize("dtype", FLOATS)
def test_rounding_is_to_even(dtype: DType) -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 2.25], dtype.numpy)
    expected = {
        "round": [0, 2, 2, 0, -2, -2, 2],
        "floor": [0, 1, 2, -1, -2, -3, 2],
        "ceil": [1, 2, 3, 0, -1, -2, 3],
        "trunc": [0, 1, 2, 0, -1, -2, 2],
    }
    for name, values in expected.items():
        found = getattr(S, name)(x)
        assert found.dtype == dtype.numpy and found.astype(np.float64).tolist() == values, name
    assert np.signbit(S.round(x)[3])


def test_constants_keep_all_bits() -> None:
    assert int(S.const(0xFFFFFFFFFFFFFFFF, u64)) == 0xFFFFFFFFFFFFFFFF
    assert int(S.const(0x80000000, i32)) == -(2**31)
    assert int(S.const(-1, u32)) == 0xFFFFFFFF
    for dtype in DTYPES:
        assert S.dtype_of(S.const(1, dtype)) is dtype


def test_bits_and_tables() -> None:
    x = np.array([1.0, -0.0], np.float32)
    assert S.bitcast(x, u32).tolist() == [0x3F800000, 0x80000000]
    assert S.bitcast(S.bitcast(x, i32), f32).tobytes() == x.tobytes()
    with pytest.raises(CompileError, match="f32 and i64 differ in size"):
        S.bitcast(x, i64)
    values = (0xFFFFFFFFFFFFFFFF, 5, 1 << 63)
    assert S.table(values, np.array([2, 0, 1, 9, -4]), u64).tolist() == [1 << 63, (1 << 64) - 1, 5, 1 << 63, (1 << 64) - 1]
    assert S.not_(np.array([True, False])).tolist() == [False, True]
    assert S.not_(np.array([0, 5], np.uint8)).tolist() == [255, 250]
    assert S.cast(np.array([0.0, -0.0, 0.25, np.nan]), bool_).tolist() == [False, False, True, True]
    assert S.cast(np.array([300, -1], np.int32), u8).tolist() == [44, 255]
    assert S.cast(np.array([200], np.uint8), i8).tolist() == [-56]


def test_nothing_warns(recwarn: pytest.WarningsRecorder) -> None:
    zero, one, big = [np.array([v], np.float32) for v in (0.0, 1.0, 3e38)]
    S.div(one, zero)
    S.mul(big, big)
    S.sqrt(S.neg(one))
    S.log(zero)
    S.pow(S.neg(one), np.array([0.5], np.float32))
    S.add(S.const(2**31 - 1, i32), S.const(1, i32))
    assert not recwarn.list
