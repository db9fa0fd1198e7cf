"""What the elementwise families share: dtype rules, samples at delicate places, precision, no derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node
from graphopt.ir.types import DTYPES, FLOATS, INTEGERS, NUMBERS, DType, TensorType, bool_, f32
from graphopt.opdefs.opdef import OpDef, Sample, Scalars, constant

_WORDS = {DTYPES: "any dtype", NUMBERS: "numbers", FLOATS: "floats", INTEGERS: "integers", (bool_,): "bool"}


def claim(*types: TensorType, among: Sequence[DType] = NUMBERS, hint: str = "") -> TensorType:
    """The common type of an elementwise op's inputs.

    Errors: DTypeError when dtypes differ or are not `among` those the op takes; ShapeError when shapes
            differ, which a call cannot cause, only a graph written by hand.
    """
    first = types[0]
    if any(t.dtype is not first.dtype for t in types):
        found = " and ".join(t.dtype.short for t in types)
        raise DTypeError(f"expects inputs of one dtype, found {found}; cast one of them")
    if first.dtype not in among:
        words = _WORDS.get(tuple(among)) or ", ".join(d.short for d in among)
        raise DTypeError(f"expects {words}, found {first.dtype.short}" + (f"; {hint}" if hint else ""))
    if any(t.shape != first.shape for t in types):
        raise ShapeError(f"expects inputs of one shape, found {' and '.join(str(t.shape) for t in types)}")
    return first


_ENDS = {
    "float16": (65504.0, 6e-8),
    "bfloat16": (3.39e38, 1e-40),
    "float32": (3.4e38, 1e-45),
    "float64": (1.7e308, 5e-324),
}


def special_values(dtype: DType) -> np.ndarray:
    """Where arithmetic is delicate: zeros, ones, the ends of the range, infinities, NaN, subnormals."""
    if dtype.kind == "b":
        return np.array([False, True])
    if dtype.is_integer:
        ends = np.iinfo(dtype.numpy)
        small = [0, 1, 2, 3, 7] + [-1, -2, -7] * (dtype.kind == "i")
        return np.array([*small, ends.max - 1, ends.max, ends.min, ends.min + 1], dtype.numpy)
    largest, smallest = _ENDS[dtype.name]
    positive = [0.0, 1.0, 0.5, 2.5, 3.0, largest, smallest, np.inf]
    return np.array(positive + [-v for v in positive] + [np.nan]).astype(dtype.numpy)


def special_pairs(dtype: DType) -> list[np.ndarray]:
    """Every pair of `special_values`."""
    values = special_values(dtype)
    return [np.repeat(values, len(values)), np.tile(values, len(values))]


def special_sample(inputs: int) -> Sample:
    """`special_values` of one input, or all pairs of them in two."""

    def values(rng: np.random.Generator, dtype: DType) -> list[np.ndarray]:
        return [special_values(dtype)] if inputs == 1 else special_pairs(dtype)

    return Sample([(1,)] * inputs, values=values)


def unary_samples(*ranges: tuple[float, float], low: float = -2.0, high: float = 2.0) -> list[Sample]:
    """Usual, smallest, odd and empty shapes in [low, high]; an odd one in each range; special values."""
    shapes: list[tuple[int, ...]] = [(5, 33), (), (1, 7, 1), (0, 3)]
    usual = [Sample([shape], low=low, high=high) for shape in shapes]
    return usual + [Sample([(37,)], low=a, high=b) for a, b in ranges] + [special_sample(1)]


def binary_samples(*ranges: tuple[float, float], low: float = -2.0, high: float = 2.0) -> list[Sample]:
    """As `unary_samples`, for two inputs; two of the shapes broadcast."""
    shapes: list[list[tuple[int, ...]]] = [
        [(5, 33), (5, 33)],
        [(), ()],
        [(5, 1), (7,)],
        [(), (3, 1)],
        [(0, 3), (1, 3)],
    ]
    usual = [Sample(s, low=low, high=high) for s in shapes]
    return usual + [Sample([(37,), (37,)], low=a, high=b) for a, b in ranges] + [special_sample(2)]


def in_f32(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A numpy rule that computes 16-bit floats in float32; the result is rounded once, later."""

    def wide(*arrays: np.ndarray, **attrs: Any) -> Any:
        return rule(
            *[a.astype(np.float32) if a.dtype.kind in "fV" and a.itemsize == 2 else a for a in arrays],
            **attrs,
        )

    return wide


def widened(s: Scalars, rule: Callable[..., Any], *values: Any) -> Any:
    """A scalar expression of several steps: 16-bit floats take them in f32 and are rounded once."""
    dtype = s.dtype_of(values[0])
    if not dtype.is_float or dtype.bits > 16:
        return rule(*values)
    return s.cast(rule(*[s.cast(v, f32) for v in values]), dtype)


def zero_of(x: Node) -> Node:
    """A 0-d zero of x's dtype."""
    return constant(0, x.dtype)


def flat(d: OpDef, inputs: int) -> None:
    """Declare that no cotangent flows through `d`: its result is constant almost everywhere."""

    @d.vjp
    def _(ct: Node, out: Node, *xs: Node, **attrs: Any) -> tuple[None, ...]:
        return (None,) * inputs
