"""The short way of a call: arguments that look like those of the last compiled call go straight to native code.

`shortcut` makes, for one compiled signature, a function of the arguments that gives the result, or `OTHERWISE` when
anything is not as it was; the caller then goes the long way, which decides, compiles, and tells what is wrong. What is
compared: the type of each Tensor by identity (equal types are one object, `common.tensor.type_of`), constants, and the
epoch, which grows whenever a captured object, a Parameter's storage or a training flag changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.common.journal import note, noting
from graphopt.common.parameter import Parameter
from graphopt.common.tensor import Tensor, epoch
from graphopt.ir.types import DType

if TYPE_CHECKING:
    from graphopt.common.compiled import Entry

Shortcut = Callable[[Sequence[Any]], Any]

OTHERWISE = object()
"""What a shortcut gives when the call has to go the long way."""

_PLAIN = (int, bool, str)
_FLOAT = object()  # wanted: any Python float
_NOTHING = object()  # wanted: what only the long way knows


def shortcut(entry: Entry, args: Sequence[Any]) -> Shortcut | None:
    """The short way for calls with arguments like `args`, which `entry` was just found for; None where there is none.

    Cost: about 1 us beside the step itself, and 0.1 us for each argument.
    """
    executable = entry.compiled.executable
    wanted = [_wanted(value, entry.floats) for value in args]
    if executable is None or entry.results or entry.checked or not entry.settled or any(w is _NOTHING for w in wanted):
        return None
    run = executable.caller([p._data() for p in entry.parameters])
    fill, count, now = entry.template.fill, len(args), entry.epoch
    guards, checks, chosen = entry.guards, entry.checks, entry.chosen if entry.choices else None

    def call(args: Sequence[Any]) -> Any:
        if epoch() != now or len(args) != count or noting():
            return OTHERWISE
        arrays: list[np.ndarray] = []
        if not _collect(args, wanted, arrays) or (chosen is not None and not chosen()):
            return OTHERWISE
        if guards or checks:
            try:
                for guard in guards:
                    guard()
                for k, check in checks:
                    check(arrays[k])
            except Exception:
                return OTHERWISE  # raised again on the long way, which says where
        return fill(run(arrays))

    return call


def run_many(entry: Entry, rows: Sequence[Sequence[Any]]) -> tuple[int, Any]:
    """Call with each of the first rows as arguments, as many as look like rows[0], which `entry` was just found for: how
    many these are, and the last one's result. One native call where no check on the host stands between two steps.

    Errors: those of a call; arguments that are out of range are found before the first step.
    """
    first: list[np.ndarray] = []
    wanted = [_wanted(value, entry.floats) for value in rows[0]]
    executable = entry.compiled.executable
    by_hand = entry.guards or entry.choices or entry.results or entry.checked or not entry.settled
    if executable is None or by_hand or not _collect(rows[0], wanted, first):
        return 0, None
    given = [first]
    for row in rows[1:]:
        arrays: list[np.ndarray] = []
        if len(row) != len(wanted) or not _collect(row, wanted, arrays):
            break
        given.append(arrays)
    columns = list(zip(*given, strict=True))
    for k, check in entry.checks:
        try:
            check(np.stack(columns[k]))
        except Exception:
            for array in columns[k]:
                check(array)
            raise
    for parameter in entry.parameters:
        note(parameter)
    state = [p._data() for p in entry.parameters]
    return len(given), entry.template.fill(executable.run_many(len(given), columns, state, last=True))


def _collect(args: Sequence[Any], wanted: Sequence[Any], arrays: list[np.ndarray]) -> bool:
    """Append the arrays of the arguments; whether all of them are as wanted."""
    for value, want in zip(args, wanted, strict=True):
        kind = value.__class__
        if kind is Tensor:
            array = value._array
            if value._type is not want or array is None:
                return False
            arrays.append(array)
        elif want is _FLOAT:
            if kind is not float:
                return False
            arrays.append(np.asarray(value, np.float32))
        elif kind is tuple:
            if want.__class__ is not tuple or len(want) != len(value) or not _collect(value, want, arrays):
                return False
        elif value is not want and (kind not in _PLAIN or kind is not want.__class__ or value != want):
            return False
    return True


def _wanted(value: Any, floats: bool) -> Any:
    """What `_collect` shall find in this argument's place."""
    kind = type(value)
    if kind is Tensor:
        return value._type if value._array is not None else _NOTHING
    if kind is float:
        return _FLOAT if floats else _NOTHING
    if kind is tuple:
        parts = tuple(_wanted(v, floats) for v in value)
        return _NOTHING if any(p is _NOTHING for p in parts) else parts
    if kind in _PLAIN or value is None or isinstance(value, (DType, Parameter)):
        return value
    return _NOTHING


__all__ = ["OTHERWISE", "Shortcut", "run_many", "shortcut"]
