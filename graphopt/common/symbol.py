"""Sizes that are not known before a call: `Symbol`, Tensors that only describe an argument, and what calls must fit."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.common.checks import found, meant
from graphopt.common.row_tensor import RowTensor
from graphopt.common.tensor import Tensor
from graphopt.errors import DTypeError, ShapeError, layout
from graphopt.where import here


class Symbol:
    """A size that is known when a compiled function is called: for `Tensor(shape=[Symbol(max=64), 10], dtype=...)`.

    max:                the largest, 0 for no limit; memory is planned for it at once, so all sizes are one compile.
    min:                the smallest.
    divisor, remainder: sizes are divisor * N + remainder.
    unique:             wherever the same object stands, the size is the same.

    Errors: TypeError for a number that is no int or a unique that is no bool; ValueError for a min or divisor below 1,
            a remainder outside of 0 .. divisor - 1, or a max below min. A call with another size is a ValueError.

    >>> import graphopt as ms
    >>> ms.Symbol(max=64, divisor=8)
    Symbol(max=64, divisor=8)
    """

    def __init__(self, max: int = 0, min: int = 1, divisor: int = 1, remainder: int = 0, unique: bool = False):
        given = {"max": max, "min": min, "divisor": divisor, "remainder": remainder}
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"Symbol: {name} must be int, found {found(value)}")
        if not isinstance(unique, bool):
            raise TypeError(f"Symbol: unique must be bool, found {found(unique)}")
        for name in ("min", "divisor"):
            if given[name] < 1:
                raise ValueError(f"Symbol: {name} must be positive, found {given[name]}")
        if not 0 <= remainder < divisor:
            raise ValueError(f"Symbol: remainder must be in 0 .. {divisor - 1}, found {remainder}")
        if max and max < min:
            raise ValueError(f"Symbol: max must be 0 or at least min {min}, found {max}")
        self.max, self.min, self.divisor, self.remainder, self.unique = max, min, divisor, remainder, unique

    def admits(self, size: int) -> bool:
        """Whether a size is one that it stands for."""
        fits = self.min <= size and (not self.max or size <= self.max)
        return fits and size % self.divisor == self.remainder

    def __repr__(self) -> str:
        usual = {"max": 0, "min": 1, "divisor": 1, "remainder": 0, "unique": False}
        shown = [f"{name}={getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value]
        return f"Symbol({', '.join(shown)})"


Specs = Mapping[str, Any]
"""What the arguments of a call were declared to be, by their names."""

ALL = "all"
"""Instead of Specs: every Tensor may have another number of rows."""


def described(value: Any) -> tuple[Any, ...] | None:
    """The shape of a Tensor that only describes an argument, with None and Symbols; None for any other value."""
    return value._described if isinstance(value, Tensor) else None


def leading(shape: Sequence[Any]) -> bool:
    """Whether the first size is symbolic, and no other: what one compile serves."""
    return bool(shape) and not isinstance(shape[0], int)


def most_rows(shape: Sequence[Any]) -> int:
    """The largest first size that a described shape allows, 0 for no limit."""
    return shape[0].max if isinstance(shape[0], Symbol) else 0


def symbolic_arguments(
    owner: str, specs: Specs | str, arguments: Sequence[tuple[str, Any]], floats: bool
) -> tuple[list[int], int]:
    """Which of a call's inputs, numbered as `signature.describe` numbers their arrays, may have another number of rows
    in another call; and the most rows that were declared, 0 for no limit.

    Errors: ValueError naming the argument, the declared and the found shape, when they do not fit; TypeError for dtypes.
    """
    rows: list[int] = []
    most = number = 0
    unique: dict[int, tuple[str, int]] = {}
    for name, value in arguments:
        spec = None if isinstance(specs, str) else specs.get(name)
        for path, leaf, wanted in _leaves(name, value, spec, floats):
            if isinstance(leaf, Tensor):
                shape = described(wanted)
                if specs == ALL and leaf.ndim and not rows:
                    rows.append(number)
                elif isinstance(wanted, Tensor):
                    _check(owner, path, leaf, wanted, unique)
                    if shape is not None and leading(shape):
                        rows.append(number)
                        most = max(most, most_rows(shape))
            number += 1
    return rows, most


def _leaves(path: str, value: Any, spec: Any, floats: bool) -> Iterator[tuple[str, Any, Any]]:
    """Everything in an argument that is an input of a trace, in `signature.describe`'s order, beside its declaration."""
    if isinstance(value, Tensor):
        if not value._is_parameter:
            yield path, value, spec
    elif isinstance(value, (float, np.floating)) and floats:
        yield path, value, None
    elif isinstance(value, (tuple, list)):
        listed = spec if isinstance(spec, (tuple, list)) and len(spec) == len(value) else [None] * len(value)
        for k, (part, wanted) in enumerate(zip(value, listed, strict=True)):
            yield from _leaves(f"{path}[{k}]", part, wanted, floats)
    elif isinstance(value, RowTensor):
        yield from ((path, part, None) for part in (value.indices, value.values))
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(f"{path}[{key!r}]", part, spec.get(key) if isinstance(spec, dict) else None, floats)


def _check(owner: str, path: str, value: Tensor, wanted: Tensor, unique: dict[int, tuple[str, int]]) -> None:
    """Errors: see `symbolic_arguments`."""
    shape = described(wanted) or wanted.shape
    if value.dtype is not wanted.dtype:
        what = f"argument {path} was declared as {wanted.dtype.name}, found {value.dtype.name}"
        raise DTypeError(layout(f"{owner}: {what}", here()))
    fits = len(shape) == value.ndim
    for expected, size in zip(shape, value.shape, strict=False):
        fits = fits and (expected is None or (expected.admits(size) if isinstance(expected, Symbol) else expected == size))
    if not fits:
        what = f"argument {path} was declared with shape {shown_shape(shape)}, found {shown_shape(value.shape)}"
        raise ShapeError(layout(f"{owner}: {what}", here(), hint="declare what calls have: set_inputs(...)"))
    for expected, size in zip(shape, value.shape, strict=True):
        if isinstance(expected, Symbol) and expected.unique:
            first, known = unique.setdefault(id(expected), (path, size))
            if known != size:
                what = f"argument {path} has size {size} where {first} has {known}, both declared with one unique {expected!r}"
                raise ShapeError(layout(f"{owner}: {what}", here()))


def shown_shape(shape: Sequence[Any]) -> str:
    """A shape as the user writes it: `(None, 784)`."""
    return str(tuple(shape))


def check_specs(
    owner: str, values: Sequence[Any] | Mapping[str, Any], signature: inspect.Signature | None
) -> None:
    """What arguments were declared to be, by position or by name, for a function of this signature.

    Errors: TypeError for a numpy array, which says nothing of others; ValueError for a name that is no argument.
    """
    for value in values.values() if isinstance(values, Mapping) else values:
        if isinstance(value, np.ndarray):
            raise TypeError(f"{owner}: expected Tensors, found {found(value)}")
    if signature is None or not isinstance(values, Mapping):
        return
    known = list(signature.parameters)
    for name in values:
        if name not in known:
            raise ValueError(f"{owner}: expected names of {known}, found {name!r}{meant(name, known)}")


__all__ = ["ALL", "Specs", "Symbol", "check_specs", "described", "leading", "most_rows", "shown_shape", "symbolic_arguments"]
