"""A whole graph as kernels: fuse, order, lower, plan memory, place barriers.

The graphs inside branches and loops are lowered like the one around them, into the same arena. Their kernels stand in one
list with the others, in the order in which they run; what happens between them is a tree over that list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log2

import numpy as np

from graphopt.ir.graph import Graph, Node, walk
from graphopt.kernel.barriers import EVERY, place_barriers
from graphopt.kernel.contract import lower_contraction
from graphopt.kernel.copies import share_copies
from graphopt.kernel.items import Choose, Item, Repeat, Window, kernels_of, windows_of
from graphopt.kernel.loops import Buffer, Kernel, reads_and_writes
from graphopt.kernel.lower import Lowering, lower_loops
from graphopt.kernel.machine import Machine
from graphopt.kernel.nests import copy_kernel, lower_kernel, zero_kernel
from graphopt.kernel.repeats import Repeats
from graphopt.kernel.small import Places, is_small, lower_small
from graphopt.opdefs.control import parts_of
from graphopt.passes.again import fuse_again
from graphopt.passes.fuse import Group
from graphopt.passes.materialise import dims_of, follow, materialise, stored_base
from graphopt.passes.memory import MemoryPlan, lifetimes, plan_memory
from graphopt.passes.order import Schedule, order

_TEAM_WORK = 6000.0  # instructions (2.4 us) below which one thread is as quick: a barrier costs 0.2 us, and data cross
_AMONG_WORK = 500.0  # the same for a kernel in a loop at least half of whose kernels are shared
_START_WORK = 1.5  # times as many, for all kernels together: a job costs 1.3 us more on two threads than on one
_CHUNK_WORK = 12_000.0  # instructions (5 us) of a chunk: taking one costs some 20 ns, and at the end threads wait for one
_MOST_CHUNKS = 32  # a power of two, as are all numbers of chunks: teams mostly are
_DENSE_RATE = 2.2  # the multiply-adds of a contraction run so many times as fast as other instructions

_LOWER = {"contraction": lower_contraction, "kernel": lower_kernel, "loops": lower_loops, "join": lower_loops}


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """Kernels in execution order with everything code generation needs.

    args:     parameter buffers that are not in the arena, with their kind and their node, in binding order
    plan:     arena offsets of the others
    parallel: per kernel, whether the team shares it (otherwise thread 0 runs it alone)
    chunks:   per kernel, into how many chunks it is cut that are dealt out as threads ask for them; 1: an even share for each
    barriers: per kernel, whether a barrier stands before it
    spared:   per kernel, the team sizes that do without that barrier, as bits; see `place_barriers`
    items:    the kernels in their branches and loops
    graphs:   the graph and those inside it, as they were lowered, each with its groups
    waits:    branches and loops with a barrier before they begin; loops with one before they read the test's result are
              in `test_waits`
    """

    graph: Graph
    groups: tuple[Group, ...]
    kernels: tuple[Kernel, ...]
    args: tuple[tuple[Buffer, str, Node], ...]
    plan: MemoryPlan
    parallel: tuple[bool, ...]
    chunks: tuple[int, ...]
    barriers: tuple[bool, ...]
    spared: tuple[int, ...]
    items: tuple[Item, ...]
    graphs: tuple[tuple[Graph, tuple[Group, ...]], ...] = ()
    waits: frozenset[Item] = frozenset()
    test_waits: frozenset[Item] = frozenset()


def lower_graph(graph: Graph, machine: Machine) -> Step:
    """All kernels of an optimized graph."""
    assembly = _Assembly(machine)
    whole = assembly.whole(graph)
    items = tuple(whole.items)
    kernels = tuple(kernels_of(items))
    parallel = _shared(items)
    chunks = tuple([_chunks(k) if team else 1 for k, team in zip(kernels, parallel, strict=True)])
    plan = _plan(items, {buffer for buffer, _, _ in assembly.args})
    shared = {k for k, team in zip(kernels, parallel, strict=True) if team}
    dealt = {k for k, n in zip(kernels, chunks, strict=True) if n > 1}
    placed = place_barriers(items, shared, dealt, plan)
    needing = [placed.before.get(k, 0) for k in kernels]
    return Step(
        graph=whole.graph,
        groups=tuple([g for _, groups in assembly.graphs for g in groups]),
        kernels=kernels,
        args=tuple(assembly.args),
        plan=plan,
        parallel=parallel,
        chunks=chunks,
        barriers=tuple(map(bool, needing)),
        spared=tuple([EVERY & ~n if n else 0 for n in needing]),
        items=items,
        graphs=tuple(assembly.graphs),
        waits=frozenset(placed.before.keys() - set(kernels)),
        test_waits=frozenset(placed.before_test),
    )


def _shared(items: Sequence[Item]) -> tuple[bool, ...]:
    """For each kernel, whether a team is quicker with it than one thread; none of them when all together, of which those
    in loops count for many, are not worth the team's start.

    Between kernels of a loop that are shared, one that is not takes data from other threads, and gives them back.
    """
    kernels = tuple(kernels_of(items))
    most = dict.fromkeys(kernels, _TEAM_WORK)
    for i in items:
        inside = () if isinstance(i, Kernel) else tuple(kernels_of([i]))
        if 2 * sum(k.extent > 1 and _instructions(k) >= _TEAM_WORK for k in inside) >= len(inside):
            most |= dict.fromkeys(inside, _AMONG_WORK)
    chosen = tuple(k.extent > 1 and _instructions(k) >= most[k] for k in kernels)
    total = sum(_instructions(k) for k, team in zip(kernels, chosen, strict=True) if team)
    worth = total >= _START_WORK * _TEAM_WORK or kernels != tuple(items)
    return chosen if worth else (False,) * len(kernels)


def _chunks(kernel: Kernel) -> int:
    """Into how many chunks a kernel is cut. Which thread computes what changes no bit of it."""
    most = min(_instructions(kernel) / _CHUNK_WORK, kernel.extent, _MOST_CHUNKS)
    return 1 << int(log2(most)) if most >= 4 else 1


def _instructions(kernel: Kernel) -> float:
    """Instructions of ordinary speed; for a contraction, by its multiply-adds, as its tiles share what they load."""
    if kernel.flops and kernel.contracts:
        return min(kernel.work, kernel.flops / (2 * kernel.width) / _DENSE_RATE)
    return kernel.work


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
        self.graphs: list[tuple[Graph, tuple[Group, ...]]] = []
        self.constants: dict[Node, Buffer] = {}
        self.repeats = Repeats()

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

    def lower(
        self, graph: Graph, place: dict[Node, Buffer], outputs: Sequence[Buffer], steady: dict[Buffer, int] | None = None
    ) -> _Lowered:
        """A graph whose leaves and outputs have buffers; steady: see Lowering."""
        graph, groups = fuse_again(materialise(graph))
        schedule = order(graph, groups)
        self.graphs.append((graph, schedule.groups))
        place = place | dict(zip(graph.outputs, outputs, strict=True)) | self._constants(graph, schedule)
        place |= {value: place[state] for value, state in schedule.in_place.items()}
        for group in schedule.groups:
            if group.kind == "region":
                _place_results(group, place)
        lowering = Lowering(self.machine, place, steady)
        for value, source in reversed(schedule.continued.items()):
            if source not in lowering.place:
                lowering.place[source] = lowering.buffer(value)
        made = _Lowered(graph)
        lowering.inside |= schedule.inside
        wholes = {whole for whole, _ in schedule.inside.values()}
        for group in schedule.groups:
            if not wholes.isdisjoint(group.nodes):
                continue
            if group.kind == "region":
                made.items += self._region(group, lowering)
            else:
                made.items += self.repeats.kernels(group, lowering, _LOWER[group.kind])
        made.items = share_copies(made.items)
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
        if always and is_small(body):
            return [self._small_loop(node, lowering, results)]
        place = dict(zip(body.state, carry, strict=True))
        constants = body.inputs[node.attrs["stacked"] :]
        held = [lowering.buffer(n) for n in parts.constants]
        place |= dict(zip(constants, held, strict=True))
        windows = [_window(leaf, lowering.buffer(n)) for leaf, n in zip(body.inputs, parts.rows, strict=False)]
        place |= {leaf: w.row for leaf, w in zip(body.inputs, windows, strict=False)}
        first: list[Item] = []
        outputs = []
        for k, n in enumerate(body.outputs):
            stack = results.get(len(carry) + k) or Buffer(f"unused{k}", n.dtype, n.type.size * length)
            outputs.append(_window(n, stack))
            if not always and stack.size:
                first += zero_kernel(stack, self.machine)  # rows of trips that may not happen
        inside = self.lower(body, place, [w.row for w in outputs], dict.fromkeys(held, length or 1))
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
        given |= {b for k in moved for b in reads_and_writes(k)[1]}
        made = Repeat(
            tuple(rest), (*windows, *outputs), length, node.attrs["reverse"], trips, tuple(tested), goes_on, count,
            frozenset(given),
        )  # fmt: skip
        return [*first, *moved, made] if rest or tested else first


    def _small_loop(self, node: Node, lowering: Lowering, results: dict[int, Buffer]) -> Kernel:
        """A loop over a few numbers, as one kernel."""
        body, length, parts = node.attrs["body"], node.attrs["length"], parts_of(node)
        leaves = dict(zip(body.state, [lowering.buffer(n) for n in parts.carry], strict=True))
        constants = body.inputs[len(parts.rows) :]
        leaves |= {leaf: lowering.buffer(n) for leaf, n in zip(constants, parts.constants, strict=True)}
        rows = {leaf: lowering.buffer(n) for leaf, n in zip(body.inputs, parts.rows, strict=False)}
        outputs = [
            results.get(len(parts.carry) + k) or Buffer(f"unused{k}", n.dtype, n.type.size * length)
            for k, n in enumerate(body.outputs)
        ]
        return lower_small(body, length, node.attrs["reverse"], Places(leaves, rows, outputs), self.machine)


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
        for b in reads_and_writes(k)[1]:
            written[b] = written.get(b, 0) + 1
    fixed = {b for b in given if b not in written}
    rest: list[Item] = []
    moved: list[Kernel] = []
    for i in items:
        if isinstance(i, Kernel):
            reads, writes = reads_and_writes(i)
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
                touched.append([b for p in i.args if (b := base(p)) not in fixed])
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


def constant_bytes(step: Step) -> tuple[bytes, ...]:
    """The values of the constant arguments, in binding order."""
    return tuple(np.ascontiguousarray(n.attrs["value"]).tobytes() for _, kind, n in step.args if kind == "constant")


__all__ = ["Step", "constant_bytes", "lower_graph"]
