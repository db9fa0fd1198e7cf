"""How tensors print: `repr` in MindSpore's form, `str` in numpy's."""

from __future__ import annotations

import numpy as np

from graphopt.ir.types import TensorType

_DIGITS = {"float16": 4, "bfloat16": 4, "float32": 8, "float64": 8}


def tensor_repr(type: TensorType, array: np.ndarray | None) -> str:
    """`Tensor(shape=[2], dtype=Float32, value= [ 1.00000000e+00,  2.00000000e+00])`; a traced tensor shows no value."""
    head = f"Tensor(shape={list(type.shape)}, dtype={type.dtype!r}"
    if array is None:
        return head + ")"
    if not type.shape:
        return f"{head}, value= {_scalar(array)})"
    separator = "\n" if len(type.shape) > 1 else " "
    return f"{head}, value={separator}{_elements(type, array)})"


def tensor_str(type: TensorType, array: np.ndarray | None) -> str:
    """As numpy prints the values; a traced tensor prints its `repr`."""
    if array is None:
        return tensor_repr(type, None)
    return str(array.astype(np.float32) if type.dtype.name == "bfloat16" else array)


def _scalar(array: np.ndarray) -> str:
    return f"{float(array):g}" if array.dtype.kind not in "biu" else str(array)


def _elements(type: TensorType, array: np.ndarray) -> str:
    if array.size == 0:
        return ""
    digits = _DIGITS.get(type.dtype.name)
    if digits is None:
        return np.array2string(array, separator=", ", max_line_width=120, threshold=1000)
    width = digits + 7
    wide = array.astype(np.float64)
    text = np.array2string(
        wide,
        separator=", ",
        max_line_width=200,
        threshold=1000,
        formatter={"float_kind": lambda v: f"{v:.{digits}e}".rjust(width) if np.isfinite(v) else f"{v}".rjust(width)},
    )
    return text.replace(", ...,", " ...").replace("\n\n", "\n")
