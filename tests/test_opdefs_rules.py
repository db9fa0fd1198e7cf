"""The lowering rules of movement, contraction and kernel ops on the smallest machines that can run them.

Each machine follows its protocol to the letter and nothing more: a guarded read outside its condition, an index out of
range, or two independent iterations that meet in one element are failures, whatever the values.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest

from graphopt.errors import CompileError
from graphopt.ir.graph import input_node
from graphopt.ir.types import DType, TensorType, dtype_of
from graphopt.kernel.numpy_scalars import NumpyScalars
from graphopt.opdefs import REGISTRY
from graphopt.opdefs.conv import conv_general, explicit_padding
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.opdef import OpDef, Sample
from tests.tolerances import assert_close

Place = tuple[Any, ...]


class ArrayReader:
    """The Reader protocol for all elements of the output at once: an index is an integer array."""

    def __init__(self, arrays: Sequence[np.ndarray], places: int):
        self.arrays = arrays
        self.s = NumpyScalars()
        self.active: Any = np.ones(places, bool)

    def read(self, k: int, index: Place) -> Any:
        array = self.arrays[k]
        where = [np.asarray(i) for i in index]
        for axis, i in enumerate(where):
            outside = self.active & ((i < 0) | (i >= array.shape[axis]))
            assert not np.any(outside), f"input {k}: a read beyond axis {axis}"
        if array.size == 0:
            return np.zeros((), array.dtype)
        return array[tuple(np.where(self.active, i, 0) for i in where)]

    def within(self, index: Any, low: int, high: int) -> Any:
        return (np.asarray(index) >= low) & (np.asarray(index) < high)

    def guard(self, condition: Any, then: Callable[[], Any], other: Any) -> Any:
        before = self.active
        self.active = before & condition
        try:
            return np.where(condition, then(), other)
        finally:
            self.active = before

    def value(self, index: Any, dtype: DType) -> Any:
        return np.asarray(index).astype(dtype.numpy)

    def index(self, value: Any) -> Any:
        return np.asarray(value).astype(np.int64)


class ArrayContracts:
    """The Contracts protocol: every dimension is an axis of one big array, which is summed over."""

    RANK = 14

    def __init__(self, a: np.ndarray, b: np.ndarray):
        self.a, self.b = a, b
        self.sizes: list[int] = []
        self.summed: list[int] = []

    def _dimension(self, size: int) -> np.ndarray:
        axis = len(self.sizes)
        self.sizes.append(size)
        return np.arange(size).reshape((1,) * axis + (size,) + (1,) * (self.RANK - axis - 1))

    def out(self, size: int) -> Any:
        return self._dimension(size)

    def sum(self, size: int) -> Any:
        self.summed.append(len(self.sizes))
        return self._dimension(size)

    def product(self, out: Sequence[Any], a: Sequence[Any], b: Sequence[Any]) -> np.ndarray:
        terms = self.a[tuple(a)] * self.b[tuple(b)]
        terms = np.broadcast_to(terms, tuple(self.sizes) + (1,) * (self.RANK - len(self.sizes)))
        sums = terms.sum(axis=tuple(self.summed), keepdims=True, dtype=terms.dtype)
        shape = tuple(int(np.max(i)) + 1 for i in out)
        result = np.zeros(shape, terms.dtype)
        places = np.broadcast_arrays(*out, sums) if out else [sums]
        result[tuple(places[:-1])] = places[-1] if out else sums.reshape(())
        return result


class AnyMemory:
    """Scratch memory that holds anything, which one iteration may use."""

    def __init__(self, loops: ScalarLoops, size: int, dtype: DType):
        self.loops = loops
        self.array = loops.rng.integers(-3, 9, size).astype(dtype.numpy)
        self.users: set[int] = set()

    def load(self, i: int) -> Any:
        return self._used(i)[i]

    def store(self, i: int, value: Any) -> None:
        self._used(i)[i] = value

    def _used(self, i: int) -> np.ndarray:
        assert 0 <= i < len(self.array), f"{i} is outside the scratch memory"
        self.users.add(self.loops.iteration)
        assert len(self.users) == 1, "two iterations use one scratch memory"
        return self.array


class ScalarLoops:
    """The Loops protocol, one element at a time, the independent iterations in a random order."""

    def __init__(
        self, arrays: Sequence[np.ndarray], out: TensorType, rng: np.random.Generator, starts_from: int | None = None
    ):
        self.arrays = arrays
        self.starts = starts_from is not None
        self.out = np.zeros(out.shape, out.dtype.numpy) if starts_from is None else arrays[starts_from].copy()
        self.owner = np.full(out.shape, -1)
        self.iteration = -1
        self.conditions: list[bool] = []
        self.inside_each = False
        self.rng = rng
        self.s = NumpyScalars()

    def independent(self, shape: tuple[int, ...], body: Callable[[Place], None], lanes: bool) -> None:
        assert self.iteration == -1, "independent loops are outermost"
        assert shape or not lanes, "lanes need an axis"
        places = list(product(*map(range, shape)))
        met: dict[Place, list[bool]] = {}
        for k in self.rng.permutation(len(places)):
            self.iteration, self.conditions = int(k), []
            body(places[k])
            if lanes:
                same = met.setdefault(places[k][:-1], self.conditions)
                assert same == self.conditions, "neighbouring lanes met different conditions"
        self.iteration = -1

    def serial(self, shape: tuple[int, ...], body: Callable[[Place], None]) -> None:
        for place in product(*map(range, shape)):
            body(place)

    def each(self, size: int, body: Callable[[Any], None]) -> None:
        self.inside_each = True
        for i in self.rng.permutation(size):
            body(int(i))
        self.inside_each = False

    def when(self, condition: Any, body: Callable[[], None]) -> None:
        self.conditions.append(bool(condition))
        if condition:
            body()

    def read(self, k: int, place: Place) -> Any:
        self._check(self.arrays[k].shape, place)
        return self.arrays[k][place]

    def load(self, place: Place) -> Any:
        self._check(self.out.shape, place)
        if self.starts and self.owner[place] == -1:
            self.owner[place] = self.iteration
        assert self.owner[place] == self.iteration, "a load of what another iteration stores"
        return self.out[place]

    def store(self, place: Place, value: Any) -> None:
        self._check(self.out.shape, place)
        assert self.owner[place] in (-1, self.iteration), "two iterations store one element"
        self.owner[place] = self.iteration
        self.out[place] = value

    def keep(self, value: Any) -> Any:
        assert not self.inside_each, "a value is kept inside `each`"
        return value

    def scratch(self, size: int, dtype: DType) -> AnyMemory:
        return AnyMemory(self, size, dtype)

    def value(self, index: Any, dtype: DType) -> Any:
        return np.asarray(index).astype(dtype.numpy)

    def within(self, index: Any, low: int, high: int) -> bool:
        return bool(low <= index < high)

    def index(self, value: Any) -> int:
        return int(value)

    def _check(self, shape: tuple[int, ...], place: Place) -> None:
        assert all(0 <= i < n for i, n in zip(place, shape, strict=True)), f"{place} is outside {shape}"


def cases(kind: str) -> list[Any]:
    ops = [d for d in REGISTRY.values() if d.kind == kind]
    return [pytest.param(d, dtype, id=f"{d.name}-{dtype.short}") for d in ops for dtype in d.dtypes]


def prepared(d: OpDef, dtype: DType) -> Iterator[tuple[Sample, list[np.ndarray], list[TensorType], TensorType]]:
    for k, sample in enumerate(d.samples):
        arrays = sample.arrays(np.random.default_rng(zlib.crc32(f"{d.name} {k}".encode())), dtype)
        types = [TensorType(dtype_of(a.dtype), a.shape) for a in arrays]
        yield sample, arrays, types, d.infer(*types, **sample.attrs)


@pytest.mark.parametrize(("d", "dtype"), cases("movement"))
def test_at_rule_reads_what_numpy_means(d: OpDef, dtype: DType) -> None:
    for sample, arrays, types, out in prepared(d, dtype):
        places = tuple(i.reshape(-1) for i in np.indices(out.shape))
        with np.errstate(all="ignore"):
            value = np.asarray(d.rules["at"](ArrayReader(arrays, out.size), places, *types, **sample.attrs))
        assert value.dtype == out.dtype.numpy
        actual = np.broadcast_to(value, (out.size,)).reshape(out.shape)
        assert_close(actual, d.evaluate(out, arrays, sample.attrs), what=f"{d.name} {dict(sample.attrs)}")


@pytest.mark.parametrize(
    ("d", "dtype"), [c for c in cases("contraction") if c.values[1].name in ("int8", "uint32", "float64")]
)
def test_contract_rule_sums_what_numpy_means(d: OpDef, dtype: DType) -> None:
    for sample, arrays, types, out in prepared(d, dtype):
        attrs, operands = sample.attrs, arrays
        if d is conv_general and (any(map(any, attrs["padding"])) or max(attrs["lhs_dilation"]) > 1):
            with pytest.raises(CompileError, match="explicit pad"):
                d.rules["contract"](ArrayContracts(*arrays), *types, **attrs)
            x = input_node("x", types[0])
            padded, attrs = explicit_padding(x, attrs)
            operands = [*evaluate_nodes([padded], {x: arrays[0]}), arrays[1]]
            types = [padded.type, types[1]]
        actual = d.rules["contract"](ArrayContracts(*operands), *types, **attrs)
        expected = d.evaluate(out, arrays, sample.attrs)
        scale = d.evaluate(out, [np.abs(a) for a in arrays], sample.attrs) if dtype.is_float else 0.0
        assert_close(actual, expected, scale=scale, what=f"{d.name} {dict(attrs)}")


@pytest.mark.parametrize(("d", "dtype"), cases("kernel"))
def test_loops_rule_stores_what_numpy_means(d: OpDef, dtype: DType) -> None:
    for sample, arrays, types, out in prepared(d, dtype):
        loops = ScalarLoops(arrays, out, np.random.default_rng(5), d.starts_from)
        d.rules["loops"](loops, *types, **sample.attrs)
        assert out.size == 0 or loops.starts or loops.owner.min() >= 0, "an element was not stored"
        magnitudes = [a if a.dtype.kind in "iub" else np.abs(a) for a in arrays]
        scale = d.evaluate(out, magnitudes, sample.attrs) if dtype.is_float else 0.0
        expected = d.evaluate(out, arrays, sample.attrs)
        if d.name == "definite_inverse":  # every element of an inverse depends on all of them
            scale = np.abs(expected).max(initial=0.0)
        what = f"{d.name} {dict(sample.attrs)}"
        assert_close(loops.out, expected, scale=np.asarray(scale, np.float64), what=what)
