"""All or nothing for calls that run op by op: what an interrupted call wrote to Parameters is taken back."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from graphopt.common.parameter import Parameter

_Former = dict[int, tuple["Parameter", np.ndarray]]

_journal: ContextVar[_Former | None] = ContextVar("graphopt_journal", default=None)


class UndoneOnError:
    """Within the block, Parameters that are written to are noted; an error that leaves the outermost such block puts
    their former values back.

    Cost: a copy of each Parameter written to.
    """

    __slots__ = ("_token",)

    _token: Token[_Former | None] | None

    def __enter__(self) -> None:
        self._token = _journal.set({}) if _journal.get() is None else None

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if self._token is None:
            return
        former = _journal.get()
        _journal.reset(self._token)
        if kind is not None and former is not None:
            for parameter, values in former.values():
                if parameter._data().shape == values.shape:
                    parameter._data()[...] = values


def note(parameter: Parameter) -> None:
    """Say that a Parameter is about to be written to."""
    former = _journal.get()
    if former is not None and id(parameter) not in former:
        former[id(parameter)] = (parameter, parameter._data().copy())


def noting() -> bool:
    """Whether a call that runs op by op is under way and wants to hear of writes."""
    return _journal.get() is not None
