"""The user's line: which line outside graphopt asked for the work at hand."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import CodeType

_PACKAGES = (os.path.dirname(os.path.abspath(__file__)) + os.sep,)
_ours: dict[CodeType, bool] = {}
_path: ContextVar[tuple[str, ...]] = ContextVar("graphopt_cell_path", default=())
_fixed: ContextVar[Where | None] = ContextVar("graphopt_where", default=None)


@dataclass(frozen=True, slots=True)
class Where:
    """A place in the user's program: file, line, and the path of the Cell being traced (may be empty)."""

    file: str
    line: int
    cell: str = ""

    def __str__(self) -> str:
        place = f"{os.path.basename(self.file)}:{self.line}"
        return f"{place} in {self.cell}" if self.cell else place


def _is_ours(code: CodeType) -> bool:
    known = _ours.get(code)
    if known is None:
        file = code.co_filename
        known = file.startswith(_PACKAGES) or file.startswith("<")
        _ours[code] = known
    return known


def here() -> Where | None:
    """The innermost line of the call stack that is not graphopt's own; None when there is none."""
    fixed = _fixed.get()
    if fixed is not None:
        return fixed
    frame = sys._getframe(1)
    while frame is not None:
        if not _is_ours(frame.f_code):
            return Where(frame.f_code.co_filename, frame.f_lineno, ".".join(_path.get()))
        frame = frame.f_back  # type: ignore[assignment]
    return None


@contextmanager
def at(where: Where | None) -> Iterator[None]:
    """Nodes made inside carry `where`: derivative rules give a gradient node the line of its forward node."""
    token = _fixed.set(where)
    try:
        yield
    finally:
        _fixed.reset(token)


@contextmanager
def cell(name: str) -> Iterator[None]:
    """Nodes made inside belong to the child Cell `name` of the current one."""
    token = _path.set((*_path.get(), name))
    try:
        yield
    finally:
        _path.reset(token)
