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
    """Zeros; float32 unless a dtype is given.

    >>> import graphopt as ms
    >>> ms.ops.zeros((1, 2)).asnumpy().tolist()
    [[0.0, 0.0]]
    """
    return full_node(shape_of(size, "zeros"), 0, dtype_arg(dtype, f32))


@lift
def ones(shape: Any, dtype: DType | None = None) -> Any:
    """Ones; float32 unless a dtype is given.

    >>> import graphopt as ms
    >>> ms.ops.ones((1, 2), ms.int32).asnumpy().tolist()
    [[1, 1]]
    """
    return full_node(shape_of(shape, "ones"), 1, dtype_arg(dtype, f32))


@lift
def full(size: Any, fill_value: Any, *, dtype: DType | None = None) -> Any:
    """One number everywhere: float32 for a float, int64 for an int, unless a dtype is given.

    >>> import graphopt as ms
    >>> ms.ops.full((2,), 7.0).asnumpy().tolist()
    [7.0, 7.0]
    """
    value = as_node(fill_value)
    return broadcast_node(to_dtype(as_scalar(value), dtype_arg(dtype, value.dtype)), shape_of(size, "full"))


@lift
def fill(type: DType, shape: Any, value: Any) -> Any:
    """One number everywhere, in the dtype `type`.

    >>> import graphopt as ms
    >>> ms.ops.fill(ms.int32, (2, 2), 7).asnumpy().tolist()
    [[7, 7], [7, 7]]
    """
    return full_node(shape_of(shape, "fill"), value, dtype_of(type))


@lift
def zeros_like(input: Any, *, dtype: DType | None = None) -> Any:
    """Zeros of the input's shape and (unless given) dtype.

    >>> import graphopt as ms
    >>> ms.ops.zeros_like(ms.Tensor([1.0, 2.0])).asnumpy().tolist()
    [0.0, 0.0]
    """
    x = as_node(input)
    return full_node(x.shape, 0, dtype_arg(dtype, x.dtype))


@lift
def ones_like(input: Any, *, dtype: DType | None = None) -> Any:
    """Ones of the input's shape and (unless given) dtype.

    >>> import graphopt as ms
    >>> ms.ops.ones_like(ms.Tensor([3, 4])).asnumpy().tolist()
    [1, 1]
    """
    x = as_node(input)
    return full_node(x.shape, 1, dtype_arg(dtype, x.dtype))


@lift
def full_like(input: Any, fill_value: Any, *, dtype: DType | None = None) -> Any:
    """One number everywhere, in the input's shape and (unless given) dtype.

    >>> import graphopt as ms
    >>> ms.ops.full_like(ms.ops.ones(3), 7.0).asnumpy().tolist()
    [7.0, 7.0, 7.0]
    """
    x = as_node(input)
    return full_node(x.shape, fill_value, dtype_arg(dtype, x.dtype))


@lift
def eye(n: int, m: int | None = None, dtype: DType | None = None) -> Any:
    """Ones on the diagonal of an (n, m) matrix, zeros elsewhere.

    >>> import graphopt as ms
    >>> ms.ops.eye(2).asnumpy().tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return constant(np.eye(n, m), dtype_arg(dtype, f32))


@lift
def arange(start: Any = 0, end: Any = None, step: Any = 1, *, dtype: DType | None = None) -> Any:
    """start, start + step, … below end; arange(n) counts from 0. int64, or float32 when an argument is a float.

    Errors: ValueError when step is 0.

    >>> import graphopt as ms
    >>> ms.ops.arange(1, 6, 2).asnumpy().tolist()
    [1, 3, 5]
    """
    first, last = (0, start) if end is None else (start, end)
    if step == 0:
        raise ShapeError("arange: step must not be 0")
    kind = f32 if any(isinstance(v, float) for v in (first, last, step)) else i64
    return constant(np.arange(first, last, step), dtype_arg(dtype, kind))


@lift
def range_(start: int, end: int, step: int, maxlen: int = 1000000) -> Any:
    """start, start + step, … below end, as int64 (float32 for floats).

    >>> import graphopt as ms
    >>> ms.ops.range(1, 8, 3).asnumpy().tolist()
    [1, 4, 7]
    """
    kind = f32 if any(isinstance(v, float) for v in (start, end, step)) else i64
    return constant(np.arange(start, end, step)[:maxlen], kind)


@lift
def linspace(start: Any, end: Any, steps: int) -> Any:
    """`steps` numbers from start to end, both included, as float32.

    >>> import graphopt as ms
    >>> ms.ops.linspace(0.0, 1.0, 5).asnumpy().tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    return constant(np.linspace(float(start), float(end), int(steps)), f32)


@lift
def scalar_to_tensor(input_x: Any, dtype: DType = f32) -> Any:
    """A number as a 0-d Tensor.

    >>> import graphopt as ms
    >>> float(ms.ops.scalar_to_tensor(3))
    3.0
    """
    return constant(input_x, dtype_of(dtype))


@lift
def tuple_to_array(input_x: Any) -> Any:
    """A tuple of numbers as a Tensor: int64 for ints, float32 for floats.

    >>> import graphopt as ms
    >>> ms.ops.tuple_to_array((1, 2, 3)).asnumpy().tolist()
    [1, 2, 3]
    """
    return constant(np.asarray(input_x), f32 if any(isinstance(v, float) for v in input_x) else i64)
