"""Vector math against higher precision, in units in the last place, with and without a fused multiply-add."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphopt.ir.types import DType, f32, f64
from graphopt.kernel.numpy_scalars import NumpyScalars

# the largest error allowed: f32 with fma rounded once, f32 with two roundings, f64 (either)
BOUNDS = {
    "exp": (1.7, 2.0, 2.0),
    "expm1": (1.5, 1.5, 2.0),
    "log": (1.6, 1.6, 2.0),
    "log1p": (1.7, 1.7, 2.0),
    "tanh": (1.7, 1.7, 2.0),
    "sigmoid": (2.0, 2.0, 2.1),
    "erf": (1.5, 1.7, 1.5),
    "sin": (1.6, 1.6, 1.0),
    "cos": (1.6, 1.6, 1.0),
    "pow": (0.51, 0.51, 2.5),
}
# operations of one f32 vector, bit casts not counted
OPERATIONS = {
    "exp": 16,
    "expm1": 20,
    "log": 30,
    "log1p": 30,
    "tanh": 25,
    "sigmoid": 23,
    "erf": 29,
    "sin": 48,
    "cos": 48,
    "pow": 64,
}
UNARY = [name for name in BOUNDS if name != "pow"]
# arguments at which a function changes its way: reduction steps, ends of ranges, pieces
BREAKPOINTS = [0.25, 0.5, 0.55, 2**-0.5, 0.78, math.pi / 4, 1.0, 2**0.5, math.pi / 2, math.pi, 2.0, 3.5, 3.92, 4.0, 5.92, 6.0]
BREAKPOINTS += [k * math.log(2) / 2 for k in range(1, 12)] + [9.0, 10.0, 16.64, 17.33, 20.0, 36.7, 40.0, 87.3, 88.72284, 103.97]
BREAKPOINTS += [104.0, 708.4, 709.782712893384, 744.44, 745.1332191019411, 22.0 * math.pi, 2.0**24, 2.0**53, 1e5, 1e22]


class TwoRoundings(NumpyScalars):
    """A machine without fused multiply-add."""

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return self.add(self.mul(a, b), c)


class Scaling(NumpyScalars):
    """A machine that multiplies by powers of two, and whose estimates are as wrong as allowed."""

    scales = True

    def __init__(self, error: float) -> None:
        self.error = error

    def estimate(self, x: Any) -> Any:
        with np.errstate(all="ignore"):
            return (np.reciprocal(x) * (1 + self.error)).astype(x.dtype)


MACHINES = [NumpyScalars(), TwoRoundings(), Scaling(2.0**-14), Scaling(-(2.0**-14))]


def arguments(dtype: DType, rng: np.random.Generator, per_exponent: int) -> np.ndarray:
    """Every exponent with random and extreme significands, both signs; dense ranges; neighbours of breakpoints."""
    bits, mantissa = (32, 23) if dtype is f32 else (64, 52)
    unsigned = np.dtype(f"u{bits // 8}")
    exponents = np.arange(1 << (bits - 1 - mantissa), dtype=np.uint64)[:, None] << np.uint64(mantissa)
    fractions = rng.integers(0, 1 << mantissa, (len(exponents), per_exponent), dtype=np.uint64)
    fractions[:, :3] = [0, 1, (1 << mantissa) - 1]
    everywhere = (exponents | fractions).ravel().astype(unsigned).view(dtype.numpy)
    near = np.array(BREAKPOINTS).astype(dtype.numpy).view(unsigned)[:, None] + np.arange(-40, 41).astype(unsigned)
    dense = [rng.uniform(0, w, 100 * per_exponent) for w in (1e-3, 0.5, 1.0, 4.0, 20.0, 110.0, 1000.0)]
    values = np.concatenate([everywhere, near.ravel().view(dtype.numpy), *[d.astype(dtype.numpy) for d in dense]])
    return np.concatenate([values, -values])


def pairs(dtype: DType, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Arguments of pow: any bits, results of every size, bases near 1, small integers, all special values together."""
    unsigned = np.dtype(f"u{dtype.itemsize}")
    raw = rng.integers(0, 2**dtype.bits, (2, count), dtype=np.uint64, endpoint=False) if dtype is f32 else None
    if raw is None:
        raw = rng.integers(0, 2**64 - 1, (2, count), dtype=np.uint64, endpoint=True)
    any_x, any_y = raw.astype(unsigned).view(dtype.numpy)
    top = 100.0 if dtype is f32 else 740.0
    bases = np.exp(np.concatenate([rng.uniform(-80, 80, count), rng.uniform(-1, 1, count) * 2.0 ** -rng.uniform(0, 20, count)]))
    bases = bases.astype(dtype.numpy)
    powers = (
        rng.uniform(-top, top, 2 * count) / np.log(bases.astype(np.float64), where=bases != 1, out=np.ones(2 * count))
    ).astype(dtype.numpy)
    whole_x, whole_y = -rng.uniform(0, 30, count).astype(dtype.numpy), rng.integers(-40, 40, count).astype(dtype.numpy)
    big = 2.0**24 if dtype is f32 else 2.0**53
    info = np.finfo(dtype.numpy)
    odd = [0.0, 1.0, 2.0, 3.0, 0.5, 1.5, np.inf, float(info.max), float(info.smallest_subnormal), float(info.tiny)]
    odd += [1 + float(info.eps), 1 - float(info.eps) / 2, big, big - 1, big / 2 + 1, 1e-30, np.nan]
    special = np.array(odd + [-v for v in odd], dtype.numpy)
    grid_x, grid_y = np.meshgrid(special, special)
    xs = [any_x, bases, whole_x, grid_x.ravel()]
    ys = [any_y, powers, whole_y, grid_y.ravel()]
    return np.concatenate(xs), np.concatenate(ys)


def reference(name: str, wide: type) -> Callable[..., np.ndarray]:
    """The function in a wider format. math.erf is double: within a unit of f64, exact enough for f32."""

    def sigmoid(x: np.ndarray) -> np.ndarray:
        e = np.exp(-np.abs(x))
        return np.where(x < 0, e, 1) / (1 + e)

    def erf(x: np.ndarray) -> np.ndarray:
        return np.array([math.erf(v) for v in x.ravel()], wide).reshape(x.shape)

    return {"sigmoid": sigmoid, "erf": erf, "pow": np.power}.get(name) or getattr(np, name)


def ulps(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Errors in units of the found format; inf where NaN, infinity or sign differ from the rounded exact value."""
    dtype = found.dtype
    info = np.finfo(dtype)
    with np.errstate(all="ignore"):
        rounded = exact.astype(dtype)
        unit = np.spacing(np.minimum(np.abs(rounded), np.nextafter(info.max, dtype.type(0)))).astype(exact.dtype)
        errors = np.abs(found.astype(exact.dtype) - exact) / unit
        # a result at the end of the range may go to infinity one unit early or late
        end = np.abs(np.abs(exact) / exact.dtype.type(info.max) - 1) <= 2 * float(info.eps)
    agree = (found == rounded) | (np.isnan(found) & np.isnan(rounded)) | ((np.isinf(rounded) != np.isinf(found)) & end)
    errors = np.where(agree & ~np.isfinite(errors), 0.0, errors)
    signs = (np.signbit(found) == np.signbit(rounded)) | np.isnan(rounded)
    return np.where(np.isfinite(errors) & signs, errors, np.inf).astype(np.float64)


def check(found: np.ndarray, exact: np.ndarray, bound: float, *args: np.ndarray) -> None:
    errors = ulps(found, exact)
    worst = int(np.argmax(errors))
    at = ", ".join(float(a[worst]).hex() for a in args)
    assert errors[worst] <= bound, f"{errors[worst]:.3f} ulp at {at}: {found[worst]!r}, exact {exact[worst]!r}"


@pytest.mark.parametrize("scalars", MACHINES, ids=["fused", "two-roundings", "scaling", "scaling-less"])
@pytest.mark.parametrize("name", UNARY)
def test_accuracy_f32(name: str, scalars: NumpyScalars) -> None:
    x = arguments(f32, np.random.default_rng(1), 100)
    found = getattr(scalars, name)(x)
    assert found.dtype == np.float32
    with np.errstate(all="ignore"):
        exact = reference(name, np.float64)(x.astype(np.float64))
    check(found, exact, BOUNDS[name][isinstance(scalars, TwoRoundings)], x)


@pytest.mark.parametrize("scalars", [NumpyScalars(), TwoRoundings()], ids=["fused", "two-roundings"])
@pytest.mark.parametrize("name", UNARY)
def test_accuracy_f64(name: str, scalars: NumpyScalars) -> None:
    x = arguments(f64, np.random.default_rng(2), 8)
    found = getattr(scalars, name)(x)
    assert found.dtype == np.float64
    with np.errstate(all="ignore"):
        exact = reference(name, np.longdouble)(x.astype(np.longdouble))
    exact_enough = name != "erf" and np.finfo(np.longdouble).nmant > 60
    check(found, np.asarray(exact, np.longdouble), BOUNDS[name][2] + (0.0 if exact_enough else 1.0), x)


@pytest.mark.parametrize("scalars", [NumpyScalars(), TwoRoundings()], ids=["fused", "two-roundings"])
def test_accuracy_pow(scalars: NumpyScalars) -> None:
    for dtype, wide, count in ((f32, np.float64, 30000), (f64, np.longdouble, 10000)):
        x, y = pairs(dtype, np.random.default_rng(3), count)
        found = scalars.pow(x, y)
        assert found.dtype == dtype.numpy
        with np.errstate(all="ignore"):
            exact = np.power(x.astype(wide), y.astype(wide))
        exact_enough = dtype is f32 or np.finfo(np.longdouble).nmant > 60
        bound = BOUNDS["pow"][0 if dtype is f32 else 2] + (0.0 if exact_enough else 1.0)
        check(found, exact, bound, x, y)


# 17 of 40 digits computed once with mpmath at exactly these float64 arguments: not all depends on one library
KNOWN = [
    ("exp", 1.0, 2.718281828459045235),
    ("exp", -745.0, 2.822350730471937076e-324),
    ("expm1", 1e-5, 1.000005000016666790e-5),
    ("log", 3.0, 1.098612288668109691),
    ("log1p", 1e-10, 9.9999999995000003644e-11),
    ("tanh", 0.5, 0.4621171572600097585),
    ("tanh", 0.6, 0.5370495669980352701),
    ("sigmoid", -700.0, 9.859676543759770857e-305),
    ("erf", 0.5, 0.5204998778130465377),
    ("erf", 1.5, 0.9661051464753107271),
    ("erf", 3.0, 0.9999779095030014146),
    ("sin", 1e22, -0.8522008497671888018),
    ("cos", 1e22, 0.5232147853951389455),
    ("sin", 6381956970095103.0 * 2.0**797, 1.0),
    ("cos", 6381956970095103.0 * 2.0**797, -4.687165924254627611e-19),
]


@pytest.mark.parametrize(("name", "x", "exact"), KNOWN)
def test_known_values(name: str, x: float, exact: float) -> None:
    """The last two are the float64 nearest to a multiple of pi/2: the hardest reduction there is."""
    found = getattr(NumpyScalars(), name)(np.array([x]))[0]
    assert abs(found - exact) <= 2 * np.spacing(abs(exact))


@pytest.mark.parametrize("scalars", MACHINES, ids=["fused", "two-roundings", "scaling", "scaling-less"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_arguments(dtype: Any, scalars: NumpyScalars) -> None:
    inf, nan = np.inf, np.nan
    x = np.array([0.0, -0.0, inf, -inf, nan], dtype)
    for name, expected in {
        "exp": [1.0, 1.0, inf, 0.0, nan],
        "expm1": [0.0, -0.0, inf, -1.0, nan],
        "log": [-inf, -inf, inf, nan, nan],
        "log1p": [0.0, -0.0, inf, nan, nan],
        "tanh": [0.0, -0.0, 1.0, -1.0, nan],
        "sigmoid": [0.5, 0.5, 1.0, 0.0, nan],
        "erf": [0.0, -0.0, 1.0, -1.0, nan],
        "sin": [0.0, -0.0, nan, nan, nan],
        "cos": [1.0, 1.0, nan, nan, nan],
    }.items():
        found = getattr(scalars, name)(x)
        same = (found == expected) & (np.signbit(found) == np.signbit(expected)) | np.isnan(found) & np.isnan(expected)
        assert same.all(), f"{name}: {found}, expected {expected}"
    assert np.isneginf(NumpyScalars().log1p(np.array([-1.0], dtype))[0])


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("small", [np.float16, ml_dtypes.bfloat16])
def test_small_floats_are_rounded_once(name: str, small: Any) -> None:
    """All 65536 values: the nearest 16-bit float, but for values that f32 cannot tell from halfway ones."""
    x = np.arange(65536, dtype=np.uint16).view(small)
    found = getattr(NumpyScalars(), name)(x)
    assert found.dtype == np.dtype(small)
    with np.errstate(all="ignore"):
        wide = reference(name, np.float64)(x.astype(np.float64)).astype(np.float32)
        around = [np.nextafter(wide, np.float32(end) * np.ones_like(wide)) for end in (-np.inf, np.inf)]
        nearest = [v.astype(small).astype(np.float64) for v in (wide, *around, *[np.nextafter(v, 2 * v - wide) for v in around])]
    got = found.astype(np.float64)
    same = np.isnan(got) & np.isnan(nearest[0])
    for v in nearest:
        same |= got == v
    assert same.all(), f"{name} of {x[~same][:5]}: {found[~same][:5]}"


class Counting(NumpyScalars):
    """Counts the operations a vector machine carries out."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        if name in _COUNTED:
            object.__getattribute__(self, "counts")[name] += 1
        return method


_COUNTED = {"add", "sub", "mul", "div", "fma", "neg", "abs", "min", "max", "copysign", "floor", "select", "table", "cast"}
_COUNTED |= {"scale", "estimate"}
_COUNTED |= {"eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "xor", "not_", "shl", "shr"}


@pytest.mark.parametrize("name", BOUNDS)
def test_operation_counts(name: str) -> None:
    """The counts that the docstring of vmath names; a cast to the same dtype does not occur."""
    s = Counting()
    x = np.array([0.7], np.float32)
    getattr(s, name)(*([x, x] if name == "pow" else [x]))
    assert sum(s.counts.values()) <= OPERATIONS[name], s.counts
    assert s.counts["div"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", UNARY)
def test_every_f32(name: str, request: pytest.FixtureRequest) -> None:
    """All 2^32 arguments. Takes about half an hour each: only by `-m slow`."""
    if "slow" not in str(request.config.getoption("markexpr")):
        pytest.skip("exhaustive: run with -m slow")
    for start in range(0, 1 << 32, 1 << 20):
        x = np.arange(start, start + (1 << 20), dtype=np.uint32).view(np.float32)
        with np.errstate(all="ignore"):
            exact = reference(name, np.float64)(x.astype(np.float64))
        check(getattr(NumpyScalars(), name)(x), exact, BOUNDS[name][0], x)
        check(getattr(TwoRoundings(), name)(x), exact, BOUNDS[name][1], x)
