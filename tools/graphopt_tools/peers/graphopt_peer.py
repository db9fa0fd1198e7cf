"""graphopt: the MindSpore program, run by graphopt."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

Contestant = tuple[Callable[[int], Any], Callable[[Any], float]]


def version() -> str:
    return f"graphopt {import_module('graphopt').__version__}"


def contestant(spec: dict[str, Any], arrays: dict[str, np.ndarray], threads: int) -> Contestant:
    """See serve.py."""
    step, value = import_module("mindspore_peer").contestant(spec, arrays, threads, "graphopt")
    return step, value
