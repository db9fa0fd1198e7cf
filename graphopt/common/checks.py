"""Argument checks of the public API: each names the owner, the argument, what was expected and what was found."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from graphopt.ir.graph import Node
from graphopt.ir.types import TensorType


def found(value: Any) -> str:
    """How a wrong value is shown: itself when short, and its type."""
    tensor_type = getattr(value, "_type", None) or (value.type if isinstance(value, Node) else None)
    if isinstance(tensor_type, TensorType):
        return f"a {'Tensor' if isinstance(value, Node) else type(value).__name__} {tensor_type}"
    if isinstance(value, np.ndarray):
        return f"a numpy array of shape {value.shape} and dtype {value.dtype}"
    text = repr(value)
    if "\n" in text or " at 0x" in text:
        name = getattr(value, "__name__", "")
        return f"{name} of type {type(value).__name__}" if name else f"an object of type {type(value).__name__}"
    return f"{text if len(text) <= 60 else text[:57] + '...'} of type {type(value).__name__}"


# What other libraries call an argument.
_ELSEWHERE = {
    "lr": "learning_rate", "bias": "has_bias", "in_features": "in_channels", "out_features": "out_channels", "groups": "group",
    "params": "params", "dim": "axis", "keepdim": "keepdims", "num_embeddings": "vocab_size", "embedding_dim": "embedding_size",
    "padding_mode": "pad_mode", "nesterov": "use_nesterov", "amsgrad": "use_amsgrad", "alpha": "negative_slope", "axis": "dim",
}  # fmt: skip


def meant(name: str, known: Iterable[str]) -> str:
    """"; did you mean 'x'?" when one of `known` is likely; else nothing."""
    listed = list(known)
    near = [_ELSEWHERE[name]] if _ELSEWHERE.get(name) in listed else difflib.get_close_matches(name, listed, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def check_type(owner: str, name: str, value: Any, *types: type) -> Any:
    """`value`, which must be an instance of one of `types`; a bool counts as an int only when bool is listed."""
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types and object not in types):
        expected = " or ".join("None" if t is type(None) else t.__name__ for t in types)
        raise TypeError(f"{owner}: {name} must be {expected}, found {found(value)}")
    return value


_UNITS = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}


def check_bytes(owner: str, name: str, value: Any) -> int:
    """Bytes, from an int or a text such as "512MB" or "1.5 GB"; a KB is 1024 bytes."""
    check_type(owner, name, value, int, str)
    if isinstance(value, int):
        return check_int(owner, name, value, 1)
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B)\s*", value.upper())
    count = int(float(parts[1]) * _UNITS[parts[2]]) if parts else 0
    if count < 1:
        raise ValueError(f"{owner}: {name} must be bytes, or a text such as '512MB' or '1.5GB', found {value!r}")
    return count


def check_bool(owner: str, name: str, value: Any) -> bool:
    check_type(owner, name, value, bool)
    return value


def check_int(owner: str, name: str, value: Any, low: int | None = None) -> int:
    """An int (no bool), at least `low`."""
    check_type(owner, name, value, int)
    if low is not None and value < low:
        raise ValueError(f"{owner}: {name} must be an int >= {low}, found {value}")
    return value


def check_number(owner: str, name: str, value: Any, low: float | None = None, ints: bool = True) -> float:
    """A finite number, at least `low`; with ints=False only a float will do."""
    check_type(owner, name, value, *((int, float) if ints else (float,)))
    if not math.isfinite(value):
        raise ValueError(f"{owner}: {name} must be finite, found {value}")
    if low is not None and value < low:
        raise ValueError(f"{owner}: {name} must be >= {low}, found {value}")
    return value


def check_positive(owner: str, name: str, value: Any, ints: bool = True) -> float:
    """A finite number > 0; with ints=False only a float will do."""
    check_number(owner, name, value, ints=ints)
    if value <= 0:
        raise ValueError(f"{owner}: {name} must be > 0, found {value}")
    return value


def check_format(owner: str, data_format: Any) -> None:
    """Images are declared as NCHW; how they lie in memory is the compiler's choice."""
    if data_format != "NCHW":
        raise ValueError(
            f"{owner}: data_format must be 'NCHW' on a CPU, found {data_format!r}; the compiler chooses layouts"
        )


def check_between(owner: str, name: str, value: Any, low: float, high: float, ints: bool = True) -> float:
    """low < value < high."""
    check_number(owner, name, value, ints=ints)
    if not low < value < high:
        raise ValueError(f"{owner}: {name} must be in ({low}, {high}), found {value}")
    return value


def check_choice(owner: str, name: str, value: Any, choices: Sequence[Any]) -> Any:
    """One of `choices`."""
    if value not in choices:
        expected = ", ".join(repr(c) for c in choices)
        raise ValueError(f"{owner}: {name} must be one of {expected}, found {value!r}")
    return value


def int_tuple(owner: str, name: str, value: Any, length: int, low: int = 1) -> tuple[int, ...]:
    """`length` ints >= low, from one int or a tuple/list of that many."""
    if isinstance(value, (tuple, list)):
        if len(value) != length:
            raise ValueError(f"{owner}: {name} must be an int or a tuple of {length} ints, found {found(value)}")
        return tuple(check_int(owner, f"{name}[{k}]", v, low) for k, v in enumerate(value))
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{owner}: {name} must be an int or a tuple of {length} ints, found {found(value)}")
    return (check_int(owner, name, value, low),) * length
