"""dtypes under MindSpore's names, and what mixed operands become.

`mstype.float32` and `graphopt.float32` are one object; it prints `Float32`.
"""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from graphopt.errors import DTypeError
from graphopt.ir import types
from graphopt.ir.types import DTYPES, DType, TensorType, dtype_of

bool_ = types.bool_
int8, int16, int32, int64 = types.i8, types.i16, types.i32, types.i64
uint8, uint16, uint32, uint64 = types.u8, types.u16, types.u32, types.u64
float16, bfloat16, float32, float64 = types.f16, types.bf16, types.f32, types.f64
byte, short, intc, intp, half, single, double, long = int8, int16, int32, int64, float16, float32, float64, int64
ubyte, ushort, uintc, uintp = uint8, uint16, uint32, uint64

number_type = tuple(d for d in DTYPES if d is not bool_)
float_type = (float16, bfloat16, float32, float64)
int_type = (int8, int16, int32, int64)
uint_type = (uint8, uint16, uint32, uint64)
all_types = DTYPES

_UNSIGNED_AND_SIGNED = {8: int16, 16: int32, 32: int64}
_SIGNED = {8: int8, 16: int16, 32: int32, 64: int64}


def dtype_to_nptype(type_: DType) -> Any:
    """The numpy scalar type of a dtype.

    >>> import graphopt as ms
    >>> ms.dtype_to_nptype(ms.int8)
    <class 'numpy.int8'>
    """
    if not isinstance(type_, DType):
        raise TypeError(f"dtype_to_nptype: type_ must be a dtype, found {type_!r} of type {type(type_).__name__}")
    return type_.numpy.type


def dtype_to_pytype(type_: DType) -> type:
    """The Python type that holds an element of a dtype.

    >>> import graphopt as ms
    >>> ms.dtype_to_pytype(ms.int32)
    <class 'int'>
    """
    if not isinstance(type_, DType):
        raise TypeError(f"dtype_to_pytype: type_ must be a dtype, found {type_!r} of type {type(type_).__name__}")
    return {"b": builtins.bool, "i": int, "u": int, "f": float}[type_.kind]


def pytype_to_dtype(obj: Any) -> DType:
    """The dtype of a Python or numpy type: bool, int (int64), float (float32), numpy.int32, …

    >>> import graphopt as ms
    >>> ms.pytype_to_dtype(float)
    Float32
    """
    if isinstance(obj, (DType, TensorType)):
        return obj if isinstance(obj, DType) else obj.dtype
    return dtype_of(obj)


def check_dtype(owner: str, dtype: Any) -> DType:
    """`dtype` as a DType: one of graphopt's dtypes, a name of it, or a numpy or Python type.

    Errors: TypeError naming the owner.
    """
    try:
        return dtype_of(dtype)
    except TypeError:
        names = ", ".join(d.name for d in DTYPES)
        raise TypeError(f"{owner}: dtype must be one of {names}, found {dtype!r}") from None


def promote(a: DType, b: DType) -> DType:
    """The dtype in which operands of two dtypes meet.

    Floats win over integers, whatever their width; bool gives way to everything; float16 with bfloat16 gives float32;
    an unsigned with a signed integer gives the smallest signed one that holds both.

    Errors: DTypeError for uint64 with a signed integer, which nothing holds.
    """
    if a is b or b is bool_:
        return a
    if a is bool_:
        return b
    if a.is_float or b.is_float:
        if not (a.is_float and b.is_float):
            return a if a.is_float else b
        return float32 if a.bits == b.bits else max(a, b, key=_bits)
    if a.kind == b.kind:
        return max(a, b, key=_bits)
    unsigned, signed = (a, b) if a.kind == "u" else (b, a)
    if unsigned.bits == 64:
        raise DTypeError(f"no integer dtype holds both {a!r} and {b!r}; cast one of them")
    return max(_UNSIGNED_AND_SIGNED[unsigned.bits], signed, key=_bits)


def promote_number(tensor: DType, number: int | float) -> DType:
    """The dtype in which a tensor of dtype `tensor` meets a Python number: its own, unless that cannot hold the number's kind.

    bool with an int gives int64; bool and integers with a float give float32.
    """
    if isinstance(number, float) and not tensor.is_float:
        return float32
    if tensor is bool_ and not isinstance(number, builtins.bool):
        return int64
    return tensor


def of_number(value: Any) -> DType:
    """The dtype of a Python or numpy number: float32 for a float, int64 for an int."""
    if isinstance(value, np.generic):
        return dtype_of(value.dtype)
    return dtype_of(type(value))


def _bits(dtype: DType) -> int:
    return dtype.bits
