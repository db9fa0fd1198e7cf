"""Compiled functions: one trace and one compile per signature, kept, counted and explained."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from graphopt import context
from graphopt.collector import resting_collector
from graphopt.common import nan_check
from graphopt.common.branching import prepared
from graphopt.common.dispatch import OTHERWISE, Shortcut, run_many, shortcut
from graphopt.common.journal import note
from graphopt.common.parameter import Parameter
from graphopt.common.row_tensor import RowTensor
from graphopt.common.signature import Template, check_call, describe, positional_names, traced
from graphopt.common.sized import AtRows, Retrace, Rows, RowsProgram, Wanted
from graphopt.common.symbol import Specs, symbolic_arguments
from graphopt.common.tensor import Tensor, epoch
from graphopt.common.trace import Settling, Trace
from graphopt.compile import Compiled, compile_graph
from graphopt.errors import TraceError
from graphopt.ir.graph import Graph, Memory
from graphopt.ir.types import TensorType
from graphopt.passes.guard import guarded


@dataclass(frozen=True)
class Compilation:
    """One compile: its number, why it was needed, its signature, and the seconds it took.

    serves: the program, when its number of rows is an input. note: why it is not although that was declared.
    hint:   how this compile could have been avoided.
    """

    number: int
    reason: str
    signature: str
    seconds: float
    serves: RowsProgram | None = None
    note: str = ""
    hint: str = ""

    def __str__(self) -> str:
        line = f"{self.number}. {self.reason}: {self.signature} ({1e3 * self.seconds:.0f} ms)"
        more = [str(self.serves)] if self.serves is not None else []
        more += [f"for this number of rows alone: {self.note}"] if self.note else []
        return "\n   ".join([line, *more])


@dataclass(eq=False)
class Entry:
    """A compiled signature: what it was traced with, and what it ran over.

    fresh: whether a compile was needed. note: why one of its own, where its number of rows was declared to be symbolic.
    """

    names: tuple[str, ...]
    key: Any
    floats: bool
    graph: Graph
    compiled: Compiled | AtRows
    parameters: tuple[Parameter, ...]
    template: Template
    watched: tuple[tuple[Any, int, tuple[Any, ...]], ...]
    objects: tuple[Any, ...]
    guards: tuple[Callable[[], None], ...]
    settling: tuple[Settling, ...]
    checks: tuple[tuple[int, Callable[[np.ndarray], None]], ...]
    choices: tuple[tuple[Callable[[], Any], str, Any], ...]
    results: tuple[str, ...]
    epoch: int
    checked: bool
    budget: Callable[[], int | None]
    fresh: bool = True
    note: str = ""
    shortcut: Shortcut | None = None
    settled: bool = field(init=False)

    def __post_init__(self) -> None:
        self.settled = not self.settling

    def stale(self) -> bool:
        """Whether something the trace read has changed for good."""
        return any(thing._version != version for thing, version, _ in self.watched)

    def chosen(self) -> bool:
        """Whether the host answers what it answered when this was traced."""
        return all(ask() == answer for ask, _, answer in self.choices)

    def fits(self) -> bool:
        """Whether all Cells are in the state (training or not) they were traced in."""
        if self.epoch != epoch():
            if self.checked != (nan_check.mode() == "first") or self.graph.memory.budget != self.budget():
                return False
            if not all(_flags(thing) == flags for thing, _, flags in self.watched):
                return False
            self.epoch = epoch()
            self.settled = not self.settling
        return True

    def run(self, arrays: list[np.ndarray]) -> Any:
        for guard in self.guards:
            guard()
        for k, check in self.checks:
            check(arrays[k])
        for parameter in self.parameters:
            note(parameter)
        for work in self.settling:
            work.before()
        state = [p._data() for p in self.parameters]
        result = self._filled(arrays, state)
        done = [work.after() for work in self.settling]
        self.settled = all(done)
        return result

    def _filled(self, arrays: list[np.ndarray], state: list[np.ndarray]) -> Any:
        outputs = self.compiled.run(arrays, state)
        for held, error in zip(outputs[len(self.template.nodes) :], self.results, strict=False):
            if not held:
                raise RuntimeError(error)
        if self.checked and not outputs[-1]:
            raise nan_check.post_mortem(self.graph.name, self.graph, arrays, state)
        return self.template.fill(outputs)

    def state(self) -> dict[int, np.ndarray]:
        """Copies of the Parameters' values, by id."""
        return {id(p): p._data().copy() for p in self.parameters}

    def run_on(self, arrays: list[np.ndarray], state: Mapping[int, np.ndarray]) -> Any:
        """The result on former values of the Parameters, which stay as they are."""
        values = [state[id(p)].copy() if id(p) in state else p._data().copy() for p in self.parameters]
        return self._filled(arrays, values)


def _flags(thing: Any) -> tuple[Any, ...]:
    flags = getattr(thing, "_trace_flags", None)
    return () if flags is None else flags()


class CompiledFunction:
    """A function that is traced and compiled once per signature.

    The signature is: dtypes and shapes of Tensors, the values of ints, bools, strings and None, the structure of
    containers, which Cells are training, and whatever attributes of Cells the trace may have read. Python floats are
    run-time scalars, unless the code asks for their value; then that argument list is compiled per value. Signatures
    that differ in numbers of rows which were declared to be symbolic share a compile (`common.sized`).

    declared: what the arguments were declared to be, asked before every trace; None: nothing.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        signature: inspect.Signature | None,
        check: bool = True,
        budget: int | None = None,
    ):
        self.name = name
        self._budget = budget
        self.compilations: list[Compilation] = []
        self._function = function
        self._signature = signature
        self._check = check
        self._entries: dict[Any, list[Entry]] = {}
        self._by_value: set[Any] = set()
        self._last: Entry | None = None
        self._rewrites = False
        self._rows = Rows()
        self.declared: Callable[[], Specs | str | None] = _nothing
        self.shortcut: Shortcut | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes along: the function, nothing compiled."""
        fresh: dict[str, Any] = {"compilations": [], "_entries": {}, "_by_value": set()}
        fresh |= {"_last": None, "shortcut": None, "_rows": Rows()}
        return self.__dict__ | fresh

    @property
    def compiles(self) -> int:
        """How many times the function was traced and compiled."""
        return len(self.compilations)

    @property
    def last(self) -> Entry | None:
        """The compiled signature that was used last; None before the first call."""
        return self._last

    def explain(self) -> str:
        """A line for each compile: why it was needed, for which signature, and how long it took.

        Under it, which numbers of rows it serves, or why no others; and how the compile could have been avoided.
        """
        hints = list(dict.fromkeys(c.hint for c in self.compilations if c.hint))[-1:]
        return "\n".join([*map(str, self.compilations), *hints]) or "not compiled yet"

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        tried = self.shortcut
        if tried is not None and not kwargs:
            done = tried(args)
            if done is not OTHERWISE:
                return done
        entry, arrays = self.entry(args, kwargs)
        done = entry.run(arrays)
        if not kwargs:
            if entry.shortcut is None or entry.shortcut is tried:
                entry.shortcut = shortcut(entry, args)
            self.shortcut = entry.shortcut
        return done

    def run_many(self, rows: Sequence[Sequence[Any]]) -> Any:
        """Call with each row as arguments: the last one's result. Rows of one signature are one native call."""
        result: Any = None
        while rows:
            entry, arrays = self.entry(rows[0], {})
            count, result = run_many(entry, rows)
            if not count:
                count, result = 1, entry.run(arrays)
            rows = rows[count:]
        return result

    def asks_the_host(self, args: Sequence[Any]) -> bool:
        """Whether calls like this one may run other code from time to time, as the host says before each."""
        return bool(self.entry(args, {})[0].choices)

    def graph(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Graph:
        """The traced graph for these arguments, before optimization."""
        return self.entry(args, kwargs)[0].graph

    def entry(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Entry, list[np.ndarray]]:
        """The compiled signature of these arguments, compiled now if it is new, and the arrays to run it on."""
        key, arrays = self._describe(args, kwargs, True)
        if key in self._by_value:
            key, arrays = self._describe(args, kwargs, False)
        known = self._entries.get(key, [])
        for entry in known:
            if entry.epoch == epoch() and entry.chosen():
                self._last = entry
                return entry, arrays
        dropped = [entry for entry in known if entry.stale()]
        for entry in known:
            if entry not in dropped and entry.fits() and entry.chosen():
                self._last = entry
                return entry, arrays
        self._entries[key] = [entry for entry in known if entry not in dropped]
        return self._compile(key, arrays, args, kwargs, dropped)

    def _describe(self, args: Sequence[Any], kwargs: Mapping[str, Any], floats: bool) -> tuple[Any, list[np.ndarray]]:
        arrays: list[np.ndarray] = []
        names = self._names(args)
        parts = [describe(v, n, self.name, arrays, floats) for n, v in zip(names, args, strict=True)]
        parts += [(n, describe(v, n, self.name, arrays, floats)) for n, v in kwargs.items()]
        return tuple(parts), arrays

    def _names(self, args: Sequence[Any]) -> list[str]:
        return positional_names(self._signature, len(args))

    @resting_collector()
    def _compile(
        self, key: Any, arrays: list[np.ndarray], args: Sequence[Any], kwargs: Mapping[str, Any], dropped: list[Entry]
    ) -> tuple[Entry, list[np.ndarray]]:
        start = time.perf_counter()
        if self._check:
            check_call(self.name, self._signature, args, kwargs)
        floats = key not in self._by_value and self._describe(args, kwargs, True)[0] == key
        try:
            entry = self._trace_as_needed(key, args, kwargs, floats)
        except TraceError as error:
            if not (floats and getattr(error, "scalar", False)):
                raise
            self._by_value.add(key)
            key, arrays = self._describe(args, kwargs, False)
            entry = self._trace_as_needed(key, args, kwargs, False)
        reason = self._reason(entry, dropped)
        self._entries.setdefault(key, []).append(entry)
        before, self._last = self._last, entry
        if entry.fresh:
            signature = ", ".join(f"{n}: {_shown(k)}" for n, k in zip(entry.names, key, strict=True))
            seconds = time.perf_counter() - start
            serves = entry.compiled.of if isinstance(entry.compiled, AtRows) else None
            hint = _avoidable(before, entry) if serves is None and not entry.note else ""
            self.compilations.append(
                Compilation(self.compiles + 1, reason, f"({signature})", seconds, serves, entry.note, hint)
            )
        return entry, arrays

    def _trace_as_needed(self, key: Any, args: Sequence[Any], kwargs: Mapping[str, Any], floats: bool) -> Entry:
        """Trace the functions as they are; when a Tensor turns out to be a condition, trace their rewritten twins."""
        try:
            return self._trace(key, args, kwargs, floats)
        except TraceError as error:
            if self._rewrites or getattr(error, "scalar", False) or not getattr(error, "condition", False):
                raise
        self._rewrites = True
        return self._trace(key, args, kwargs, floats)

    def _trace(self, key: Any, args: Sequence[Any], kwargs: Mapping[str, Any], floats: bool) -> Entry:
        names = self._names(args)
        at = epoch()
        objects = _objects([*args, *kwargs.values()])
        checked = nan_check.mode() == "first"
        specs = self.declared()
        arguments = [*zip(names, args, strict=True), *kwargs.items()]
        declared, most = ([], 0) if specs is None else symbolic_arguments(self.name, specs, arguments, floats)
        trace, template, graph = self._traced(args, kwargs, floats, objects, {})
        wanted = Wanted(declared or sorted(trace.symbolic), max(most, *trace.symbolic.values(), 0))

        def retrace(resized: dict[int, int]) -> tuple[Graph, Sequence[Parameter]]:
            again, _, made = self._traced(args, kwargs, floats, objects, resized)
            return guarded(made) if checked else made, again.parameters

        compiled, fresh, note = self._compiled(guarded(graph) if checked else graph, trace, wanted, retrace)
        return Entry(
            names=(*names, *kwargs),
            key=key,
            floats=floats,
            graph=graph,
            compiled=compiled,
            fresh=fresh,
            note=note,
            checked=checked,
            parameters=tuple(trace.parameters),
            template=template,
            watched=tuple(trace.visited.values()),
            objects=objects,
            epoch=at,
            guards=tuple(trace.guards),
            settling=tuple(trace.settling),
            checks=tuple(trace.checks),
            results=tuple(error for _, error in trace.results),
            choices=tuple((ask, what, answer) for ask, (what, answer) in trace.choices.items()),
            budget=self._memory_budget,
        )

    def _traced(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], floats: bool, objects: Sequence[Any], resized: dict[int, int]
    ) -> tuple[Trace, Template, Graph]:
        """One run of the function over nodes. resized: inputs (by number) that shall have another number of rows."""
        trace = Trace(self.name, rewrites=self._rewrites, resized=resized)
        for thing in (self._function, *objects):
            trace.watch(thing)
        with trace.running():
            given = [traced(v, n, trace, floats) for n, v in zip(self._names(args), args, strict=True)]
            named = {n: traced(v, n, trace, floats) for n, v in kwargs.items()}
            template = Template(prepared(self._function)(*given, **named), trace, self.name)
        graph = trace.graph([*template.nodes, *(flag for flag, _ in trace.results)])
        cells = tuple(sorted(trace.recomputed.items())) if trace.derived else ()
        return trace, template, replace(graph, memory=Memory(self._memory_budget(), cells))

    def _compiled(
        self, graph: Graph, trace: Trace, wanted: Wanted, retrace: Retrace
    ) -> tuple[Compiled | AtRows, bool, str]:
        """What runs a traced graph; whether it was compiled now; why for this number of rows alone, where it is."""
        note = ""
        if wanted.declared:
            found, fresh, note = self._rows.serve(wanted, graph, trace.parameters, retrace)
            if found is not None:
                return found, fresh, ""
        return compile_graph(graph), True, note

    def _memory_budget(self) -> int | None:
        """This function's own budget, or else the context's."""
        return self._budget if self._budget is not None else context.memory_budget()

    def _reason(self, entry: Entry, dropped: list[Entry]) -> str:
        """Why the entries there were did not do."""
        if self._last is None:
            return "first call"
        for gone in dropped:
            for thing, version, _ in gone.watched:
                if thing._version != version:
                    return _change(thing)
        before = self._last
        if before.checked != entry.checked:
            return f"check_nan: {'first' if entry.checked else 'off'}"
        if before.graph.memory.budget != entry.graph.memory.budget:
            return f"memory_budget: {before.graph.memory.budget} -> {entry.graph.memory.budget}"
        if before.key != entry.key:
            if len(before.key) != len(entry.key) or before.names != entry.names:
                return f"arguments ({', '.join(before.names)}) -> ({', '.join(entry.names)})"
            for name, old, new in zip(entry.names, before.key, entry.key, strict=True):
                if old != new:
                    return f"argument {name}: {_shown(old)} -> {_shown(new)}"
        for (_, what, old), (_, _, new) in zip(before.choices, entry.choices, strict=False):
            if old != new:
                return f"{what}: {old} -> {new}"
        for (thing, _, old), (other, _, new) in zip(before.watched, entry.watched, strict=False):
            if thing is other and old != new:
                return f"training of {type(thing).__name__}: {old[0]} -> {new[0]}"
        return "state of the Cells"


def _nothing() -> None:
    """No declaration of the arguments."""


def _avoidable(before: Entry | None, entry: Entry) -> str:
    """How the compile would not have been needed: when it is one more number of rows alone that made it."""
    if before is None or before.names != entry.names:
        return ""
    shapes = []
    for old, new in zip(before.key, entry.key, strict=True):
        tensors = isinstance(old, TensorType) and isinstance(new, TensorType)
        if tensors and old != new and old.rank and new.rank and old.with_shape((new.shape[0], *old.shape[1:])) == new:
            shapes.append(f"Tensor(shape={[None, *new.shape[1:]]}, dtype={new.dtype.name})")
        elif old != new:
            return ""
        else:
            known = isinstance(new, TensorType)
            shapes.append(f"Tensor(shape={list(new.shape)}, dtype={new.dtype.name})" if known else "...")
    if not any("None" in shape for shape in shapes):
        return ""
    return f"one compile serves any number of rows: set_inputs({', '.join(shapes)}), for a function @jit(dynamic=1)"


def _change(thing: Any) -> str:
    change = getattr(thing, "_last_change", None)
    if change is None:
        what = f"Parameter {thing.name}" if isinstance(thing, Parameter) else "a captured Tensor"
        return f"{what} was changed"
    name, old, new = change
    return f"attribute {name} of {type(thing).__name__}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _shown(key: Any) -> str:
    """A part of a signature as the user would write it."""
    if isinstance(key, TensorType):
        return str(key)
    if isinstance(key, tuple) and key and key[0] == "hooked":
        return f"{key[1]} with hooks"
    if key is float:
        return "float"
    if isinstance(key, tuple) and key and key[0] in (tuple, list):
        inner = ", ".join(_shown(k) for k in key[1:])
        return f"({inner})" if key[0] is tuple else f"[{inner}]"
    if isinstance(key, tuple) and key and key[0] is dict:
        return "{" + ", ".join(f"{k!r}: {_shown(v)}" for k, v in key[1:]) + "}"
    if isinstance(key, tuple) and key and key[0] is RowTensor:
        return f"RowTensor{list(key[1])} of {', '.join(_shown(k) for k in key[2:])}"
    if isinstance(key, tuple) and len(key) == 2:
        if key[0] in ("parameter", "object"):
            return str(key[0])
        return _shown(key[1]) if isinstance(key[0], str) else repr(key[1])
    return str(key)


def _objects(values: Sequence[Any]) -> tuple[Any, ...]:
    """The arguments that stand in a key by identity: kept alive, so that the identity stays theirs."""
    found: list[Any] = []
    for value in values:
        if isinstance(value, (tuple, list)):
            found.extend(_objects(value))
        elif isinstance(value, RowTensor):
            found.extend(_objects([value.indices, value.values]))
        elif isinstance(value, dict):
            found.extend(_objects(list(value.values())))
        elif isinstance(value, Parameter) or (not isinstance(value, Tensor) and hasattr(value, "__dict__")):
            found.append(value)
    return tuple(found)
