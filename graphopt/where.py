"""The user's line: which line outside graphopt asked for the work at hand."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field, replace
from types import CodeType, FrameType

_PACKAGES = frozenset(("graphopt", "graphopt_runtime", "numpy", "contextlib", "functools", "inspect"))
_ours: dict[CodeType, bool] = {}
_path: ContextVar[tuple[str, ...]] = ContextVar("graphopt_cell_path", default=())
_fixed: ContextVar[Where | None] = ContextVar("graphopt_where", default=None)


@dataclass(frozen=True, slots=True)
class Where:
    """A place in the user's program: file, line, and the path of the Cell being traced (may be empty).

    derivative: whether it is not the line's own work, but that of its derivative.
    """

    file: str
    line: int
    cell: str = ""
    derivative: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        place = f"{os.path.basename(self.file)}:{self.line}"
        return f"{place} in {self.cell}" if self.cell else place


def is_ours(frame: FrameType) -> bool:
    """Whether a frame runs code of graphopt, or of what graphopt calls to do its work, and not the user's."""
    known = _ours.get(frame.f_code)
    if known is None:
        known = is_our_module(frame.f_globals) or frame.f_code.co_filename.startswith("<frozen")
        _ours[frame.f_code] = known
    return known


def is_our_module(names: Mapping[str, object]) -> bool:
    """Whether a module, given by its global names, is graphopt's or one that graphopt calls to do its work."""
    return str(names.get("__name__", "")).partition(".")[0] in _PACKAGES


def here() -> Where | None:
    """The innermost line of the call stack that is not graphopt's own; None when there is none."""
    fixed = _fixed.get()
    if fixed is not None:
        return fixed
    frame = user_frame()
    return None if frame is None else in_cell(frame.f_code.co_filename, frame.f_lineno)


def user_frame() -> FrameType | None:
    """The innermost frame of the call stack that is not graphopt's own."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        known = _ours.get(frame.f_code)
        if not (is_ours(frame) if known is None else known):
            return frame
        frame = frame.f_back
    return None


def in_cell(file: str, line: int) -> Where:
    """That line, in the Cell at hand."""
    return Where(file, line, cell_path())


def cell_path() -> str:
    """The path of the Cell at hand."""
    return ".".join(_path.get())


@contextmanager
def at(where: Where | None) -> Iterator[None]:
    """Nodes made inside carry `where`: derivative rules give a gradient node the line of its forward node."""
    token = _fixed.set(where)
    try:
        yield
    finally:
        _fixed.reset(token)


def derivative_of(where: Where | None) -> Where | None:
    """The same place, as that of its derivative."""
    return where if where is None or where.derivative else replace(where, derivative=True)


def enter_cell(name: str) -> Token[tuple[str, ...]]:
    """From here on, until `leave_cell` gets the result, work belongs to the child Cell `name` of the current one."""
    return _path.set((*_path.get(), name) if name else _path.get())


def leave_cell(token: Token[tuple[str, ...]]) -> None:
    """Back to the Cell that was current at `enter_cell`."""
    _path.reset(token)
