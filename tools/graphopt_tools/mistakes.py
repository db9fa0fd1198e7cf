"""How a command ends when its user made a mistake: one line on stderr, exit code 2."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

P = ParamSpec("P")
R = TypeVar("R")


class Mistake(Exception):
    """Something that the user of the command can put right; its text is the whole message."""


def reports_mistakes(command: Callable[P, R]) -> Callable[P, R]:
    """The command, ending with one line and exit code 2 instead of a traceback when its user made a mistake.

    Mistakes are `Mistake` and every `GraphError`, which is a mistake in the user's program; the latter keep their
    further lines (the user's line, operands, hint). With GRAPHOPT_DEBUG set to 1 or more the traceback is shown.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except Exception as error:
            if os.environ.get("GRAPHOPT_DEBUG", "0") not in ("", "0") or not is_mistake(error):
                raise
            typer.echo(f"graphopt {command.__name__.replace('_', ' ')}: {error}", err=True)
            raise typer.Exit(2) from None

    return run


def is_mistake(error: Exception) -> bool:
    """True when the user's input, not graphopt, is at fault; a switch with a wrong value already fails the import."""
    if isinstance(error, Mistake) or (isinstance(error, ValueError) and str(error).startswith("GRAPHOPT_")):
        return True
    from graphopt.errors import GraphError

    return isinstance(error, GraphError)
