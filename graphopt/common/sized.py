"""One compile for many numbers of rows: which arguments' first axis is symbolic, the programs there are, and how a call
of fewer rows runs on one.

A function is traced for every number of rows; that is cheap. The trace is held against the graph of a program that was
compiled for `capacity` rows (`passes.symbolic`): where they agree, the program runs with the number of rows as an
input, on arrays with room for `capacity` rows. So whatever Python code makes of the number of rows is respected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from threading import RLock
from typing import Any
from weakref import WeakSet

import numpy as np

from graphopt.common.parameter import Parameter
from graphopt.compile import Compiled, compile_graph
from graphopt.ir.graph import Graph, Memory
from graphopt.ir.types import TensorType
from graphopt.passes.masks import masked
from graphopt.passes.symbolic import Region, Unfit, analyse, matches
from graphopt_runtime.executor import Caller, Column
from graphopt_runtime.profile import Profile
from graphopt_runtime.program import Program

Retrace = Callable[[dict[int, int]], tuple[Graph, Sequence[Parameter]]]
"""Trace the function again, some inputs with another number of rows: {number of the input: rows}."""

_HEADROOM = 2  # rows that came after a compile are a sign that more will: room for so many times as many; all cost time
_ROOM = 32  # rows, for how many there is room then at least
_LEAST = 4  # rows; a single one is often a case of its own


@dataclass(eq=False)
class RowsProgram:
    """A program for any number of rows up to its capacity.

    inputs: the numbers of the inputs whose first axis is symbolic. served: the numbers of rows there were.
    """

    region: Region
    compiled: Compiled
    inputs: tuple[int, ...]
    parameters: tuple[Parameter, ...]
    memory: Memory
    served: set[int] = field(default_factory=set)
    lock: RLock = field(default_factory=RLock)
    room: dict[int, np.ndarray] = field(default_factory=dict)
    filled: int = 0

    @property
    def capacity(self) -> int:
        return self.region.capacity

    def takes(self, types: Sequence[TensorType], rows: int) -> bool:
        """Whether inputs of these types are those of this program with `rows` rows."""
        own = self.region.graph.inputs
        if rows > self.capacity or len(types) != len(own):
            return False
        wanted = [_resized(n.type, rows) if k in self.inputs else n.type for k, n in enumerate(own)]
        return list(types) == wanted

    def staged(self, inputs: Sequence[np.ndarray], rows: int) -> list[np.ndarray]:
        """The inputs in arrays with room for `capacity` rows, zeros behind the valid ones."""
        arrays = list(inputs)
        if rows == self.capacity:
            return arrays
        for k in self.inputs:
            if k not in self.room:
                kind = self.region.graph.inputs[k].type
                self.room[k] = np.zeros(kind.shape, kind.dtype.numpy)
            room = self.room[k]
            room[:rows] = arrays[k]
            room[rows : self.filled] = 0
            arrays[k] = room
        self.filled = rows
        return arrays

    def cut(self, outputs: Sequence[np.ndarray], rows: int) -> list[np.ndarray]:
        """The valid rows of the outputs, on memory of their own."""
        if rows == self.capacity:
            return list(outputs)
        found = []
        for array, node in zip(outputs, self.region.graph.outputs, strict=True):
            axes = self.region.axes[node]
            valid = tuple(slice(n // self.capacity * rows if m else n) for n, m in zip(array.shape, axes, strict=True))
            found.append(array[valid].copy() if any(axes) else array)
        return found

    def __str__(self) -> str:
        served = ", ".join(map(str, sorted(self.served)))
        return f"serves up to {self.capacity} rows, so far {served}"


def _resized(kind: TensorType, rows: int) -> TensorType:
    return kind.with_shape((rows, *kind.shape[1:]))


@dataclass(eq=False)
class AtRows:
    """A program at one number of rows: what `Compiled` is for a graph of fixed sizes.

    graph: the one that was traced for so many rows. values: the number of rows and the constants that follow from it.
    """

    graph: Graph
    rows: int
    of: RowsProgram
    values: list[np.ndarray]

    @property
    def executable(self) -> AtRows | None:
        """What runs natively; None for the other backends."""
        return self if self.of.compiled.executable is not None else None

    @property
    def program(self) -> Program | None:
        return self.of.compiled.program

    @property
    def arena_bytes(self) -> int:
        return self.of.compiled.arena_bytes

    @property
    def seconds(self) -> float:
        return self.of.compiled.seconds

    @property
    def cached(self) -> bool:
        return self.of.compiled.cached

    def run(self, inputs: Sequence[np.ndarray], state: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Outputs for the rows there are; the arrays of `state` are updated in place."""
        with self._lock():
            outputs = self.of.compiled.run([*self.of.staged(inputs, self.rows), *self.values], state)
        return self.of.cut(outputs, self.rows)

    def caller(self, state: Sequence[np.ndarray]) -> Caller:
        """`run` for this state, as a function of the inputs."""
        executable = self.of.compiled.executable
        assert executable is not None
        call, of, rows, values = executable.caller(state), self.of, self.rows, self.values
        if rows == of.capacity:
            return lambda inputs: call([*inputs, *values])

        def staged(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            with of.lock:
                outputs = call([*of.staged(inputs, rows), *values])
            return of.cut(outputs, rows)

        return staged

    def run_many(
        self, steps: int, inputs: Sequence[Column], state: Sequence[np.ndarray], last: bool = True
    ) -> list[np.ndarray]:
        """Perform that many steps one after the other: the last one's outputs. One native call where all rows are there."""
        executable = self.of.compiled.executable
        assert executable is not None and last
        if self.rows == self.of.capacity:
            return executable.run_many(steps, [*inputs, *[[v] * steps for v in self.values]], state, last=True)
        outputs: list[np.ndarray] = []
        for k in range(steps):
            outputs = self.run([column[k] for column in inputs], state)
        return outputs

    def profile(self, inputs: Sequence[np.ndarray], state: Sequence[np.ndarray], seconds: float = 1.0) -> Profile:
        """Where a step's time goes; see `Compiled.profile`."""
        with self._lock():
            return self.of.compiled.profile([*self.of.staged(inputs, self.rows), *self.values], state, seconds)

    def _lock(self) -> AbstractContextManager[Any]:
        return self.of.lock


@dataclass
class Wanted:
    """A call whose first axes are symbolic.

    declared: the numbers of the inputs that were declared so. most: the most rows that were declared, 0 for no limit.
    """

    declared: Sequence[int]
    most: int


class Rows:
    """The programs of a function whose arguments have symbolic first axes, and why there is none for a signature."""

    def __init__(self) -> None:
        self._programs: WeakSet[RowsProgram] = WeakSet()
        self._refused: dict[Any, str] = {}

    def serve(
        self, wanted: Wanted, graph: Graph, parameters: Sequence[Parameter], retrace: Retrace
    ) -> tuple[AtRows | None, bool, str]:
        """What runs `graph`, traced for the rows that a call has; whether it was compiled for that; else why there is none."""
        types = [n.type for n in graph.inputs]
        rows = types[wanted.declared[0]].shape[0]
        if rows < 1:
            return None, False, "there are no rows"
        alike = tuple(k for k, t in enumerate(types) if t.rank and t.shape[0] == rows)
        reason, known = "", [p for p in self._programs if _same_family(p, types, parameters, graph.memory)]
        for program in sorted(known, key=lambda p: p.capacity):
            if program.takes(types, rows):
                try:
                    return _at(program, graph, rows), False, ""
                except Unfit as error:
                    reason = str(error)
        family = (tuple(_resized(t, 0) if k in alike else t for k, t in enumerate(types)), graph.memory)
        if family in self._refused:
            return None, False, self._refused[family]
        choices = [alike, tuple(k for k in wanted.declared if types[k].shape[0] == rows)]
        for capacity in _capacities(rows, [p.capacity for p in known], wanted.most):
            for inputs in dict.fromkeys(choices):
                try:
                    program = _made(graph, parameters, rows, capacity, inputs, retrace)
                    at = _at(program, graph, rows)
                except Unfit as error:
                    reason = reason or str(error)
                    continue
                self._programs.add(program)
                return at, True, ""
        if rows > 1:
            self._refused[family] = reason
        return None, False, reason


def _same_family(program: RowsProgram, types: Sequence[TensorType], parameters: Sequence[Parameter], memory: Memory) -> bool:
    own = program.region.graph.inputs
    if len(own) != len(types) or program.memory != memory or program.parameters != tuple(parameters):
        return False
    return all(
        n.type == t or (k in program.inputs and t.rank and _resized(t, 0) == _resized(n.type, 0))
        for k, (n, t) in enumerate(zip(own, types, strict=True))
    )


def _capacities(rows: int, known: Sequence[int], most: int) -> list[int]:
    """For how many rows to compile, the best first. known: capacities of programs that do not do."""
    if most:
        first = most
    elif known and max(known) >= rows:
        first = max(known)
    else:
        first = max(_HEADROOM * rows, _ROOM) if known else max(rows, _LEAST)
    return list(dict.fromkeys([first, rows]))


def _made(
    graph: Graph, parameters: Sequence[Parameter], rows: int, capacity: int, inputs: tuple[int, ...], retrace: Retrace
) -> RowsProgram:
    """A program for `capacity` rows, compiled. A single row says little of others, as its axis may be broadcast.

    Errors: Unfit.
    """
    if capacity == 1:
        raise Unfit("a single row is a case of its own")

    def traced(for_rows: int) -> Graph:
        made, used = _retraced(retrace, inputs, for_rows)
        if tuple(used) != tuple(parameters):
            raise Unfit(f"the code uses other Parameters for {for_rows} rows than for {rows}")
        return made

    whole = graph if capacity == rows else traced(capacity)
    part, fewer = (graph, rows) if rows not in (1, capacity) else (traced(capacity + 1), capacity + 1)
    region = analyse(whole, capacity, part, fewer)
    compiled = compile_graph(masked(region, [whole.inputs[k] for k in inputs]))
    return RowsProgram(region, compiled, inputs, tuple(parameters), graph.memory)


def _retraced(retrace: Retrace, inputs: Sequence[int], rows: int) -> tuple[Graph, Sequence[Parameter]]:
    try:
        return retrace(dict.fromkeys(inputs, rows))
    except Exception as error:
        why = next(iter(str(error).splitlines()), repr(error))
        raise Unfit(f"the code cannot be traced for {rows} rows: {why}") from None


def _at(program: RowsProgram, graph: Graph, rows: int) -> AtRows:
    values = matches(program.region, graph, rows)
    program.served.add(rows)
    return AtRows(graph, rows, program, [np.asarray(rows, np.int32), *values])


__all__ = ["AtRows", "Rows", "RowsProgram", "Wanted"]
