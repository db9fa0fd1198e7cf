"""`graphopt memory`: what a step's temporaries need, and what it costs to give them less."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from graphopt import config
from graphopt.compile import Compiled, compile_graph
from graphopt_tools.show import compiled_function
from graphopt_tools.targets import resolve

PARTS = (0.8, 0.65, 0.5, 0.4, 0.3, 0.2)


@dataclass(frozen=True, slots=True)
class Point:
    """A step within a budget: the budget and the planned arena in bytes, the median of a step's seconds."""

    budget: int
    arena: int
    seconds: float


def run_memory(target: str, types: Sequence[str], threads: int, seconds: float) -> None:
    """The command `graphopt memory`.

    Errors: Mistake when the object cannot be found or called.
    """
    function, inputs = resolve(target, types)
    console = Console()
    with console.status("measuring"):
        points, refusal = curve(function, inputs, threads, seconds)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=refusal)
    for heading in ("arena MB", "of all", "step ms", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for p in points:
        share, ratio = p.arena / max(points[0].arena, 1), p.seconds / points[0].seconds
        table.add_row(f"{p.arena / 1e6:.1f}", f"{100 * share:.0f} %", f"{p.seconds * 1e3:.2f}", f"{ratio:.2f} x")
    console.print(table)


def curve(
    function: Callable[..., Any], inputs: Sequence[Any], threads: int = 0, seconds: float = 1.0
) -> tuple[list[Point], str | None]:
    """The step without a budget, then within less and less of its memory; and what refused the first budget too small.

    The steps take turns, so that a change of the machine's speed meets them all; Parameters keep their values.
    seconds: measuring time for each.
    """
    with config.override(**({"threads": threads} if threads else {})):
        entry, arrays = compiled_function(function).entry(tuple(inputs), {})
        graph, state = entry.graph, [p._data().copy() for p in entry.parameters]
        whole = entry.compiled  # a number of rows that is an input, or a budget: once more without
        if not isinstance(whole, Compiled) or graph.memory.budget is not None:
            whole = compile_graph(replace(graph, memory=replace(graph.memory, budget=None)))
        made: list[tuple[int, Compiled]] = [(whole.arena_bytes, whole)]
        refusal = None
        for part in PARTS:
            budget = int(part * whole.arena_bytes)
            if budget >= made[-1][1].arena_bytes:
                continue
            try:
                made.append((budget, compile_graph(replace(graph, memory=replace(graph.memory, budget=budget)))))
            except ValueError as error:
                refusal = str(error)
                break
    times = _timed([compiled for _, compiled in made], arrays, state, seconds)
    return [Point(b, c.arena_bytes, t) for (b, c), t in zip(made, times, strict=True)], refusal


def _timed(steps: Sequence[Compiled], inputs: Sequence[np.ndarray], state: Sequence[np.ndarray], seconds: float) -> list[float]:
    times: list[list[float]] = [[] for _ in steps]
    end = time.perf_counter() + seconds * len(steps)
    while len(times[0]) < 3 or time.perf_counter() < end:
        for step, taken in zip(steps, times, strict=True):
            start = time.perf_counter()
            step.run(inputs, state)
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken[1:]) for taken in times]
