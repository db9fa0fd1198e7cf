"""Errors: who made the mistake, and how its report is laid out.

`GraphError` and its two kinds are the user's mistake and are also the built-in types that MindSpore documents
(`ValueError` for shapes and values, `TypeError` for dtypes and kinds). `VerifyError` and `CompileError` are ours.
"""

from __future__ import annotations

from collections.abc import Iterable


class GraphError(Exception):
    """A program that graphopt cannot accept, reported with the user's own line."""


class ShapeError(GraphError, ValueError):
    """Shapes, axes or values that do not fit."""


class DTypeError(GraphError, TypeError):
    """dtypes or kinds of arguments that do not fit."""


class NamingError(GraphError, KeyError):
    """A name that is empty, unknown, or in use for something else."""

    __str__ = Exception.__str__


class TraceError(GraphError, RuntimeError):
    """Something that needs a tensor's value while only its type is known."""


class NonFiniteError(GraphError, FloatingPointError):
    """A step that made a NaN or an infinity, while `check_nan` watches."""


class GradientError(GraphError, AssertionError):
    """A derivative that finite differences contradict."""


class VerifyError(RuntimeError):
    """A graph that breaks a rule of the IR: a pass is at fault."""


class CompileError(RuntimeError):
    """Lowering or code generation failed: graphopt is at fault."""


def layout(what: str, where: object | None, operands: Iterable[str] = (), hint: str = "") -> str:
    """The text of an error: what happened, the user's line, the operands, a cure."""
    lines = [what]
    if where is not None:
        lines.append(f"  called at {where}")
    lines.extend(f"  {operand}" for operand in operands)
    if hint:
        lines.append(f"  hint: {hint}")
    return "\n".join(lines)
