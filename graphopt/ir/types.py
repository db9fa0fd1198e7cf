"""dtypes and tensor types. A type is a value: equal types are interchangeable."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import prod

import ml_dtypes
import numpy as np


@dataclass(frozen=True, eq=False)
class DType:
    """A dtype: one object each, compared by identity; prints as MindSpore prints it (`Float32`).

    short: the name in graph text (`f32`); name: numpy's name; kind: b bool, i signed, u unsigned, f float.
    """

    short: str
    name: str
    kind: str
    bits: int

    @cached_property
    def numpy(self) -> np.dtype:
        return np.dtype(ml_dtypes.bfloat16) if self.name == "bfloat16" else np.dtype(self.name)

    @property
    def itemsize(self) -> int:
        return max(self.bits // 8, 1)

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_integer(self) -> bool:
        return self.kind in "iu"

    def __repr__(self) -> str:
        stem = {"b": "Bool", "i": "Int", "u": "UInt", "f": "BFloat" if self.name == "bfloat16" else "Float"}[self.kind]
        return stem if self.kind == "b" else f"{stem}{self.bits}"

    def __reduce__(self) -> tuple[object, ...]:
        return (dtype_of, (self.name,))


bool_ = DType("b1", "bool", "b", 8)
i8 = DType("i8", "int8", "i", 8)
i16 = DType("i16", "int16", "i", 16)
i32 = DType("i32", "int32", "i", 32)
i64 = DType("i64", "int64", "i", 64)
u8 = DType("u8", "uint8", "u", 8)
u16 = DType("u16", "uint16", "u", 16)
u32 = DType("u32", "uint32", "u", 32)
u64 = DType("u64", "uint64", "u", 64)
f16 = DType("f16", "float16", "f", 16)
bf16 = DType("bf16", "bfloat16", "f", 16)
f32 = DType("f32", "float32", "f", 32)
f64 = DType("f64", "float64", "f", 64)

DTYPES = (bool_, i8, i16, i32, i64, u8, u16, u32, u64, f16, bf16, f32, f64)
FLOATS = (f16, bf16, f32, f64)
INTEGERS = (i8, i16, i32, i64, u8, u16, u32, u64)
NUMBERS = INTEGERS + FLOATS

_by_name = {d.name: d for d in DTYPES} | {d.short: d for d in DTYPES}
_by_numpy = {d.numpy: d for d in DTYPES}


def dtype_of(spec: object) -> DType:
    """The DType for a DType, a name (`float32`, `f32`), a numpy dtype, or a Python type.

    Errors: TypeError when graphopt has no such dtype.
    """
    if isinstance(spec, DType):
        return spec
    if isinstance(spec, str) and spec in _by_name:
        return _by_name[spec]
    if spec is bool or spec is int or spec is float:  # identity: np.dtype("int64") == int
        return {bool: bool_, int: i64, float: f32}[spec]
    try:
        return _by_numpy[np.dtype(spec)]  # type: ignore[call-overload]
    except (TypeError, KeyError):
        raise TypeError(f"no such dtype: {spec!r}; graphopt has {', '.join(d.name for d in DTYPES)}") from None


@dataclass(frozen=True, slots=True)
class TensorType:
    """dtype and static shape of a dense tensor in row-major order; prints `f32[64,10]`."""

    dtype: DType
    shape: tuple[int, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.size * self.dtype.itemsize

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def with_shape(self, shape: tuple[int, ...]) -> TensorType:
        return TensorType(self.dtype, tuple(shape))

    def __str__(self) -> str:
        return f"{self.dtype.short}[{','.join(map(str, self.shape))}]"

    __repr__ = __str__


PARTS = DType("tuple", "tuple", "t", 64)
"""What stands in the place of a dtype in a TupleType; no array has it."""


@dataclass(frozen=True, slots=True)
class TupleType(TensorType):
    """Several results of one node, each read by an `item`; prints `(f32[3], f32[10,3])`. Made by `tuple_of`."""

    parts: tuple[TensorType, ...] = ()

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.parts))}{',' if len(self.parts) == 1 else ''})"

    __repr__ = __str__


def tuple_of(parts: Iterable[TensorType]) -> TupleType:
    """The type of a node with these results."""
    return TupleType(PARTS, (), tuple(parts))
