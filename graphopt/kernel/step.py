"""A whole graph as kernels: fuse, order, lower, plan memory, place barriers.

The graphs inside branches and loops are lowered like the one around them, into the same arena. Their kernels stand in one
list with the others, in the order in which they run; what happens between them is a tree over that list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.ir.graph import Graph, Node, walk
from graphopt.kernel.barriers import place_barriers
from graphopt.kernel.contract import lower_contraction
from graphopt.kernel.loops import Buffer, Kernel, reads_and_writes
from graphopt.kernel.lower import Lowering, lower_loops
from graphopt.kernel.machine import Machine
from graphopt.kernel.nests import copy_kernel, lower_kernel, zero_kernel
from graphopt.opdefs.control import parts_of
from graphopt.passes.fuse import Group, dims_of, follow, fuse, materialise, stored_base
from graphopt.passes.memory import MemoryPlan, lifetimes, plan_memory
from graphopt.passes.order import Schedule, order

_TEAM_WORK = 6000.0  # instructions (2.4 us) below which one thread is as quick: a barrier costs 0.2 us, and data cross
_START_WORK = 1.5  # times as many, for all kernels together: a job costs 1.3 us more on two threads than on one
_DENSE_RATE = 2.2  # the multiply-adds of a contraction run so many times as fast as other instructions


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A row of a stack: `row` stands for `base` from element `row.size` * number of the trip on."""

    row: Buffer
    base: Buffer


@dataclass(frozen=True, slots=True, eq=False)
class Choose:
    """One of two sequences, by a bool in memory."""

    pred: Buffer
    then: tuple[Item, ...]
    other: tuple[Item, ...]
    given: frozenset[Buffer]


@dataclass(frozen=True, slots=True, eq=False)
class Repeat:
    """A sequence repeated.

    length:  the most trips, None without limit; trips: where their number stands; reverse: rows are taken backwards.
    test:    runs before each trip and stores whether to go on in `goes_on`; count: where the number of trips goes.
    windows: what moves on from trip to trip; given: buffers that are not of one trip alone.
    """

    body: tuple[Item, ...]
    windows: tuple[Window, ...]
    length: int | None
    reverse: bool
    trips: Buffer | None
    test: tuple[Item, ...]
    goes_on: Buffer | None
    count: Buffer | None
    given: frozenset[Buffer]


Item = Kernel | Choose | Repeat


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """Kernels in execution order with everything code generation needs.

    args:     parameter buffers that are not in the arena, with their kind and their node, in binding order
    plan:     arena offsets of the others
    parallel: per kernel, whether the team shares it (otherwise thread 0 runs it alone)
    barriers: per kernel, whether a barrier stands before it
    spared:   per kernel, the team sizes that do without that barrier, as bits; see `place_barriers`
    items:    the kernels in their branches and loops
    waits:    branches and loops with a barrier before they begin; loops with one before they read the test's result are
              in `test_waits`
    """

    graph: Graph
    groups: tuple[Group, ...]
    kernels: tuple[Kernel, ...]
    args: tuple[tuple[Buffer, str, Node], ...]
    plan: MemoryPlan
    parallel: tuple[bool, ...]
    barriers: tuple[bool, ...]
    spared: tuple[int, ...]
    items: tuple[Item, ...]
    waits: frozenset[Item] = frozenset()
    test_waits: frozenset[Item] = frozenset()


def lower_graph(graph: Graph, machine: Machine) -> Step:
    """All kernels of an optimized graph."""
    assembly = _Assembly(machine)
    whole = assembly.whole(graph)
    items = tuple(whole.items)
    kernels = tuple(kernels_of(items))
    parallel = _shared(items)
    plan = _plan(items, {buffer for buffer, _, _ in assembly.args})
    barriers = Barriers(plan, {k for k, team in zip(kernels, parallel, strict=True) if team}, windows_of(items))
    if items == kernels:
        before, spared = place_barriers(kernels, parallel, plan)
    else:
        barriers.sequence(items)
        before, spared = tuple(k in barriers.before for k in kernels), (0,) * len(kernels)
    return Step(
        graph=whole.graph,
        groups=tuple(assembly.groups),
        kernels=kernels,
        args=tuple(assembly.args),
        plan=plan,
        parallel=parallel,
        barriers=before,
        spared=spared,
        items=items,
        waits=frozenset(barriers.before - set(kernels)),
        test_waits=frozenset(barriers.before_test),
    )


def _shared(items: Sequence[Item]) -> tuple[bool, ...]:
    """For each kernel, whether a team is quicker with it than one thread; none of them when all together, of which those
    in loops count for many, are not worth the team's start.
    """
    kernels = tuple(kernels_of(items))
    chosen = tuple(k.extent > 1 and _instructions(k) >= _TEAM_WORK for k in kernels)
    total = sum(_instructions(k) for k, team in zip(kernels, chosen, strict=True) if team)
    worth = total >= _START_WORK * _TEAM_WORK or kernels != tuple(items)
    return chosen if worth else (False,) * len(kernels)


def _instructions(kernel: Kernel) -> float:
    """Instructions of ordinary speed; for a contraction, by its multiply-adds, as its tiles share what they load."""
    if kernel.flops and any(n.op in ("dot_general", "conv_general") for n in kernel.nodes):
        return min(kernel.work, kernel.flops / (2 * kernel.width) / _DENSE_RATE)
    return kernel.work


def kernels_of(items: Sequence[Item]) -> Iterator[Kernel]:
    """The kernels in their order."""
    for i in items:
        if isinstance(i, Kernel):
            yield i
        elif isinstance(i, Choose):
            yield from kernels_of((*i.then, *i.other))
        else:
            yield from kernels_of((*i.test, *i.body))


def windows_of(items: Sequence[Item]) -> dict[Buffer, Buffer]:
    """Row -> the stack it is of."""
    found: dict[Buffer, Buffer] = {}
    for i in items:
        if isinstance(i, Choose):
            found |= windows_of((*i.then, *i.other))
        elif isinstance(i, Repeat):
            found |= {w.row: w.base for w in i.windows} | windows_of((*i.test, *i.body))
    return found


# lowering -----------------------------------------------------------------------------------------------------


@dataclass
class _Lowered:
    """A graph as materialised, and its items."""

    graph: Graph
    items: list[Item] = field(default_factory=list)


class _Assembly:
    """Lowers a graph and the graphs inside it; collects what they share."""

    def __init__(self, machine: Machine):
        self.machine = machine
        self.args: list[tuple[Buffer, str, Node]] = []
        self.groups: list[Group] = []
        self.constants: dict[Node, Buffer] = {}

    def whole(self, graph: Graph) -> _Lowered:
        """The outermost graph: its leaves and outputs are bound from outside."""
        place: dict[Node, Buffer] = {}
        for kind, leaves in (("input", graph.inputs), ("state", graph.state)):
            for n in leaves:
                place[n] = Buffer(n.attrs["name"], n.dtype, n.type.size)
                self.args.append((place[n], kind, n))
        outputs = [Buffer(f"out{k}", n.dtype, n.type.size) for k, n in enumerate(graph.outputs)]
        self.args += [(b, "output", n) for b, n in zip(outputs, graph.outputs, strict=True)]
        return self.lower(graph, place, outputs)

    def lower(self, graph: Graph, place: dict[Node, Buffer], outputs: Sequence[Buffer]) -> _Lowered:
        """A graph whose leaves and outputs have buffers."""
        graph = materialise(graph)
        schedule = order(graph, fuse(graph))
        self.groups += schedule.groups
        place = place | dict(zip(graph.outputs, outputs, strict=True)) | self._constants(graph, schedule)
        place |= {value: place[state] for value, state in schedule.in_place.items()}
        for group in schedule.groups:
            if group.kind == "region":
                _place_results(group, place)
        lowering = Lowering(self.machine, place)
        for value, source in reversed(schedule.continued.items()):
            if source not in lowering.place:
                lowering.place[source] = lowering.buffer(value)
        made = _Lowered(graph)
        for group in schedule.groups:
            if group.kind == "contraction":
                made.items += lower_contraction(group, lowering)
            elif group.kind == "kernel":
                made.items += lower_kernel(group, lowering)
            elif group.kind == "region":
                made.items += self._region(group, lowering)
            else:
                made.items += lower_loops(group, lowering)
        for state, value in graph.updates:
            if value is not state and value not in schedule.in_place and state.type.size:
                made.items += copy_kernel(lowering.buffer(value), place[state], self.machine)
        return made

    def _constants(self, graph: Graph, schedule: Schedule) -> dict[Node, Buffer]:
        """Constants that are arrays, or that something reads from memory: they are bound from outside too."""
        operands = {
            stored_base(found[0])
            for g in schedule.groups
            if g.kind == "contraction"
            for source, idx in zip(g.nodes[0].inputs, (dims_of(g.nodes[0]).a, dims_of(g.nodes[0]).b), strict=True)
            if (found := follow(source, idx)) is not None
        }
        operands |= {stored_base(i) for g in schedule.groups if g.kind == "region" for i in g.nodes[0].inputs}
        found_here: dict[Node, Buffer] = {}
        for n in walk(graph.roots):
            if n.op == "constant" and (n.type.size != 1 or n in operands):
                if n not in self.constants:
                    self.constants[n] = Buffer(f"const{len(self.constants)}", n.dtype, n.type.size)
                    self.args.append((self.constants[n], "constant", n))
                found_here[n] = self.constants[n]
        return found_here

    def _region(self, group: Group, lowering: Lowering) -> list[Item]:
        node = group.nodes[0]
        results = {n.attrs["index"]: lowering.buffer(n) for n in group.nodes[1:]}
        if node.op == "branch":
            return self._branch(node, lowering, results)
        return self._loop(node, lowering, results)

    def _branch(self, node: Node, lowering: Lowering, results: dict[int, Buffer]) -> list[Item]:
        pred, *operands = [lowering.buffer(i) for i in node.inputs]
        sides = []
        for graph in (node.attrs["then"], node.attrs["other"]):
            outputs = [results.get(k) or Buffer(f"unused{k}", n.dtype, n.type.size) for k, n in enumerate(graph.outputs)]
            sides.append(tuple(self.lower(graph, dict(zip(graph.inputs, operands, strict=True)), outputs).items))
        if not any(sides):
            return []
        return [Choose(pred, sides[0], sides[1], frozenset((pred, *operands, *results.values())))]

    def _loop(self, node: Node, lowering: Lowering, results: dict[int, Buffer]) -> list[Item]:
        body, test, length = node.attrs["body"], node.attrs["test"], node.attrs["length"]
        parts = parts_of(node)
        carry = [lowering.buffer(n) for n in parts.carry]
        always = test is None and not parts.trips
        place = dict(zip(body.state, carry, strict=True))
        constants = body.inputs[node.attrs["stacked"] :]
        place |= {leaf: lowering.buffer(n) for leaf, n in zip(constants, parts.constants, strict=True)}
        windows = [_window(leaf, lowering.buffer(n)) for leaf, n in zip(body.inputs, parts.rows, strict=False)]
        place |= {leaf: w.row for leaf, w in zip(body.inputs, windows, strict=False)}
        first: list[Item] = []
        outputs = []
        for k, n in enumerate(body.outputs):
            stack = results.get(len(carry) + k) or Buffer(f"unused{k}", n.dtype, n.type.size * length)
            outputs.append(_window(n, stack))
            if not always and stack.size:
                first += zero_kernel(stack, self.machine)  # rows of trips that may not happen
        inside = self.lower(body, place, [w.row for w in outputs])
        given = {*place.values(), *(w.base for w in (*windows, *outputs))} - {w.row for w in (*windows, *outputs)}
        tested, goes_on = [], None
        if test is not None:
            goes_on = Buffer("goes_on", test.outputs[0].dtype, 1)
            place = dict(zip(test.state, carry, strict=True))
            place |= {leaf: lowering.buffer(n) for leaf, n in zip(test.inputs, parts.test_constants, strict=True)}
            tested = self.lower(test, place, [goes_on]).items
            given |= set(place.values())
        trips = lowering.buffer(parts.trips[0]) if parts.trips else None
        given |= {trips} if trips is not None else set()
        count = results.get(len(carry) + len(body.outputs))
        rest, moved = _invariant(inside.items, given, {w.row for w in (*windows, *outputs)})
        given |= {count} if count is not None else set()
        given |= {b for k in moved for b in reads_and_writes(k.body)[1]}
        made = Repeat(
            tuple(rest), (*windows, *outputs), length, node.attrs["reverse"], trips, tuple(tested), goes_on, count,
            frozenset(given),
        )  # fmt: skip
        return [*first, *moved, made] if rest or tested else first


def _place_results(group: Group, place: dict[Node, Buffer]) -> None:
    """Buffers of a region's results. The first value of a carry is computed where the carry lives."""
    node, *results = group.nodes
    for n in results:
        if n not in place:
            place[n] = Buffer(f"{node.op}{len(place)}", n.dtype, n.type.size)
    if node.op == "loop":
        last = {n.attrs["index"]: place[n] for n in results}
        for k, n in enumerate(parts_of(node).carry):
            place[n] = last.get(k) or Buffer(f"carry{k}", n.dtype, n.type.size)


def _window(row: Node, stack: Buffer) -> Window:
    return Window(Buffer(f"{stack}_row", row.dtype, row.type.size), stack)


def _invariant(items: Sequence[Item], given: set[Buffer], rows: set[Buffer]) -> tuple[list[Item], list[Kernel]]:
    """(what stays in a loop, kernels that do the same on every trip): operands brought into order for a contraction."""
    written: dict[Buffer, int] = {}
    for k in kernels_of(items):
        for b in reads_and_writes(k.body)[1]:
            written[b] = written.get(b, 0) + 1
    fixed = {b for b in given if b not in written}
    rest: list[Item] = []
    moved: list[Kernel] = []
    for i in items:
        if isinstance(i, Kernel):
            reads, writes = reads_and_writes(i.body)
            if reads and reads <= fixed and all(written[b] == 1 and b not in given and b not in rows for b in writes):
                fixed |= writes
                moved.append(i)
                continue
        rest.append(i)
    return rest, moved


# memory -------------------------------------------------------------------------------------------------------


def _plan(items: Sequence[Item], fixed: set[Buffer]) -> MemoryPlan:
    """Offsets for everything that is not bound from outside. What a loop is given lives as long as the loop runs."""
    windows = windows_of(items)
    touched: list[list[Buffer]] = []

    def base(b: Buffer) -> Buffer:
        while b in windows:
            b = windows[b]
        return b

    def visit(sequence: Sequence[Item]) -> None:
        for i in sequence:
            if isinstance(i, Kernel):
                touched.append([b for p in i.params if (b := base(p)) not in fixed])
                continue
            start = len(touched)
            touched.append([])
            visit((*i.then, *i.other) if isinstance(i, Choose) else (*i.test, *i.body))
            touched.append([])
            outside = {b for p in i.given if (b := base(p)) not in fixed}
            for place in (start, -1):
                touched[place] += sorted(outside, key=lambda b: b.name)

    visit(items)
    sizes = {b: max(b.size, 1) * b.dtype.itemsize for names in touched for b in names}
    return plan_memory(lifetimes(touched, sizes))


# barriers -----------------------------------------------------------------------------------------------------

Touch = tuple[Buffer, bool, bool]  # a buffer, whether it is written, whether by the team


class Barriers:
    """A barrier stands before what touches memory that something else has touched since the last barrier, when one of the
    two writes it, unless thread 0 runs both.

    Slices are not compared, as `graphopt.kernel.barriers` does for steps without branches and loops.

    before: kernels, branches and loops with a barrier before them; before_test: loops with one before each reading of
            their test's result.

    Cost: O(kernels x buffers touched since a barrier); loops are gone through until nothing new is found.
    """

    def __init__(self, plan: MemoryPlan, team: set[Kernel], windows: dict[Buffer, Buffer]):
        self.plan = plan
        self.team = team
        self.windows = windows
        self.before: set[Item] = set()
        self.before_test: set[Item] = set()
        self.pending: dict[Touch, None] = {}

    def shared(self, item: Item) -> bool:
        """Does the team take part in it?"""
        return any(k in self.team for k in kernels_of([item]))

    def sequence(self, items: Sequence[Item]) -> None:
        for i in items:
            if isinstance(i, Kernel) or not self.shared(i):
                self._touch(i, self.before, self._all(i))
            elif isinstance(i, Choose):
                self._touch(i, self.before, [(i.pred, False, True)])
                start = self.pending
                self.sequence(i.then)
                after, self.pending = self.pending, start
                self.sequence(i.other)
                self.pending = after | self.pending
            else:
                self._repeat(i)

    def _repeat(self, loop: Repeat) -> None:
        ends = [(loop.trips, False, True)] if loop.trips is not None else []
        self._touch(loop, self.before, ends + ([(loop.count, True, False)] if loop.count is not None else []))
        while True:
            start, found = self.pending, len(self.before) + len(self.before_test)
            self.sequence(loop.test)
            if loop.goes_on is not None:
                self._touch(loop, self.before_test, [(loop.goes_on, False, True)])
            leaving = self.pending
            self.sequence(loop.body)
            self.pending = start | self.pending
            if self.pending.keys() == start.keys() and found == len(self.before) + len(self.before_test):
                break
        self.pending = leaving if loop.goes_on is not None else self.pending
        if loop.count is not None:
            self.pending = self.pending | {(self._base(loop.count), True, False): None}

    def _all(self, item: Item) -> list[Touch]:
        """What a kernel touches, or a branch or loop that thread 0 runs alone."""
        found: dict[Touch, None] = {}
        for k in kernels_of([item]):
            reads, writes = reads_and_writes(k.body)
            found.update({(b, b in writes, k in self.team): None for b in reads | writes})
        if not isinstance(item, Kernel):
            for inner in _controls([item]):
                read = [inner.pred] if isinstance(inner, Choose) else [inner.trips, inner.goes_on]
                found.update({(b, False, False): None for b in read if b is not None})
                if isinstance(inner, Repeat) and inner.count is not None:
                    found[inner.count, True, False] = None
        return list(found)

    def _touch(self, item: Item, barriers: set[Item], mine: Sequence[Touch]) -> None:
        mine = [(self._base(b), w, t) for b, w, t in mine]
        if item in barriers or any(
            (w or v) and (team or t) and self._overlap(a, b) for b, w, team in mine for a, v, t in self.pending
        ):
            barriers.add(item)
            self.pending = {}
        self.pending = self.pending | dict.fromkeys(mine)

    def _base(self, b: Buffer) -> Buffer:
        while b in self.windows:
            b = self.windows[b]
        return b

    def _overlap(self, a: Buffer, b: Buffer) -> bool:
        if a is b:
            return True
        x, y = self.plan.offsets.get(a), self.plan.offsets.get(b)
        if x is None or y is None:
            return False
        return x < y + b.size * b.dtype.itemsize and y < x + a.size * a.dtype.itemsize


def _controls(items: Sequence[Item]) -> Iterator[Choose | Repeat]:
    for i in items:
        if isinstance(i, Choose):
            yield i
            yield from _controls((*i.then, *i.other))
        elif isinstance(i, Repeat):
            yield i
            yield from _controls((*i.test, *i.body))


def constant_bytes(step: Step) -> tuple[bytes, ...]:
    """The values of the constant arguments, in binding order."""
    return tuple(np.ascontiguousarray(n.attrs["value"]).tobytes() for _, kind, n in step.args if kind == "constant")


__all__ = ["Barriers", "Choose", "Item", "Repeat", "Step", "Window", "constant_bytes", "lower_graph"]
