"""Tensors made from shapes and numbers, under MindSpore's names."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.errors import ShapeError
from graphopt.ir.types import DType, dtype_of, f32, i64
from graphopt.opdefs.opdef import broadcast_to as broadcast_node
from graphopt.opdefs.opdef import constant
from graphopt.opdefs.opdef import full as full_node
from graphopt.ops.indexing import as_scalar
from graphopt.ops.lift import lift
from graphopt.ops.promote import as_node, dtype_arg, shape_of, to_dtype


@lift
def zeros(size: Any, dtype: DType | None = None) -> Any:
    """Zeros; float32 unless a dtype is given."""
    return full_node(shape_of(size, "zeros"), 0, dtype_arg(dtype, f32))


@lift
def ones(shape: Any, dtype: DType | None = None) -> Any:
    """Ones; float32 unless a dtype is given."""
    return full_node(shape_of(shape, "ones"), 1, dtype_arg(dtype, f32))


@lift
def full(size: Any, fill_value: Any, *, dtype: DType | None = None) -> Any:
    """One number everywhere: float32 for a float, int64 for an int, unless a dtype is given."""
    value = as_node(fill_value)
    return broadcast_node(to_dtype(as_scalar(value), dtype_arg(dtype, value.dtype)), shape_of(size, "full"))


@lift
def fill(type: DType, shape: Any, value: Any) -> Any:
    """One number everywhere, in the dtype `type`."""
    return full_node(shape_of(shape, "fill"), value, dtype_of(type))


@lift
def zeros_like(input: Any, *, dtype: DType | None = None) -> Any:
    """Zeros of the input's shape and (unless given) dtype."""
    x = as_node(input)
    return full_node(x.shape, 0, dtype_arg(dtype, x.dtype))


@lift
def ones_like(input: Any, *, dtype: DType | None = None) -> Any:
    """Ones of the input's shape and (unless given) dtype."""
    x = as_node(input)
    return full_node(x.shape, 1, dtype_arg(dtype, x.dtype))


@lift
def full_like(input: Any, fill_value: Any, *, dtype: DType | None = None) -> Any:
    """One number everywhere, in the input's shape and (unless given) dtype."""
    x = as_node(input)
    return full_node(x.shape, fill_value, dtype_arg(dtype, x.dtype))


@lift
def eye(n: int, m: int | None = None, dtype: DType | None = None) -> Any:
    """Ones on the diagonal of an (n, m) matrix, zeros elsewhere."""
    return constant(np.eye(n, m), dtype_arg(dtype, f32))


@lift
def arange(start: Any = 0, end: Any = None, step: Any = 1, *, dtype: DType | None = None) -> Any:
    """start, start + step, … below end; arange(n) counts from 0. int64, or float32 when an argument is a float.

    Errors: ValueError when step is 0.
    """
    first, last = (0, start) if end is None else (start, end)
    if step == 0:
        raise ShapeError("arange: step must not be 0")
    kind = f32 if any(isinstance(v, float) for v in (first, last, step)) else i64
    return constant(np.arange(first, last, step), dtype_arg(dtype, kind))


@lift
def range_(start: int, end: int, step: int, maxlen: int = 1000000) -> Any:
    """start, start + step, … below end, as int64 (float32 for floats)."""
    kind = f32 if any(isinstance(v, float) for v in (start, end, step)) else i64
    return constant(np.arange(start, end, step)[:maxlen], kind)


@lift
def linspace(start: Any, end: Any, steps: int) -> Any:
    """`steps` numbers from start to end, both included, as float32."""
    return constant(np.linspace(float(start), float(end), int(steps)), f32)


@lift
def scalar_to_tensor(input_x: Any, dtype: DType = f32) -> Any:
    """A number as a 0-d Tensor."""
    return constant(input_x, dtype_of(dtype))


@lift
def tuple_to_array(input_x: Any) -> Any:
    """A tuple of numbers as a Tensor: int64 for ints, float32 for floats."""
    return constant(np.asarray(input_x), f32 if any(isinstance(v, float) for v in input_x) else i64)
