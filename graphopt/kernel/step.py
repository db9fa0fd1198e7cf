"""A whole graph as kernels: fuse, order, lower, plan memory, place barriers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir.graph import Graph, Node, walk
from graphopt.ir.index import index
from graphopt.kernel.contract import lower_contraction
from graphopt.kernel.loops import Buffer, Kernel, Load, Stmt, Store, loop, make_kernel, reads_and_writes
from graphopt.kernel.lower import Lowering, lower_loops
from graphopt.kernel.machine import Machine
from graphopt.kernel.nests import lower_kernel
from graphopt.passes.fuse import Group, dims_of, follow, fuse, materialise, stored_base
from graphopt.passes.memory import MemoryPlan, lifetimes, plan_memory
from graphopt.passes.order import Schedule, order

_TEAM_WORK = 6000.0  # instructions below which a kernel is quicker on one thread than with a barrier (about 1 us)


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """Kernels in execution order with everything code generation needs.

    args:     parameter buffers that are not in the arena, with their kind and their node, in binding order
    plan:     arena offsets of the others
    parallel: per kernel, whether the team shares it (otherwise thread 0 runs it alone)
    barriers: per kernel, whether a barrier stands before it
    """

    graph: Graph
    groups: tuple[Group, ...]
    kernels: tuple[Kernel, ...]
    args: tuple[tuple[Buffer, str, Node], ...]
    plan: MemoryPlan
    parallel: tuple[bool, ...]
    barriers: tuple[bool, ...]


def lower_graph(graph: Graph, machine: Machine) -> Step:
    """All kernels of an optimized graph."""
    graph = materialise(graph)
    schedule = order(graph, fuse(graph))
    args = _arguments(graph, schedule)
    place = {node: buffer for buffer, _, node in args}
    by_state = {node: buffer for buffer, kind, node in args if kind == "state"}
    place |= {value: by_state[state] for value, state in schedule.in_place.items()}
    lowering = Lowering(machine, place)
    kernels: list[Kernel] = []
    for group in schedule.groups:
        if group.kind == "contraction":
            kernels += lower_contraction(group, lowering)
        elif group.kind == "kernel":
            kernels += lower_kernel(group, lowering)
        else:
            kernels += lower_loops(group, lowering)
    for state, value in graph.updates:
        if value is not state and value not in schedule.in_place:
            kernels.append(_copy(lowering.buffer(value), by_state[state], machine))
    fixed = {buffer for buffer, _, _ in args}
    touched = [[p for p in k.params if p not in fixed] for k in kernels]
    sizes = {b: max(b.size, 1) * b.dtype.itemsize for names in touched for b in names}
    plan = plan_memory(lifetimes(touched, sizes))
    parallel = tuple(k.work >= _TEAM_WORK and k.extent > 1 for k in kernels)
    return Step(graph, schedule.groups, tuple(kernels), args, plan, parallel, place_barriers(kernels, parallel, plan))


def _arguments(graph: Graph, schedule: Schedule) -> tuple[tuple[Buffer, str, Node], ...]:
    """Inputs, state, outputs, constants that are arrays or operands of contractions: everything bound from outside."""
    args: list[tuple[Buffer, str, Node]] = []
    for kind, leaves in (("input", graph.inputs), ("state", graph.state)):
        args += [(Buffer(n.attrs["name"], n.dtype, n.type.size), kind, n) for n in leaves]
    operands = {
        stored_base(found[0])
        for g in schedule.groups
        if g.kind == "contraction"
        for source, idx in zip(g.nodes[0].inputs, (dims_of(g.nodes[0]).a, dims_of(g.nodes[0]).b), strict=True)
        if (found := follow(source, idx)) is not None
    }
    for k, n in enumerate(graph.outputs):
        args.append((Buffer(f"out{k}", n.dtype, n.type.size), "output", n))
    constants = [n for n in walk(graph.roots) if n.op == "constant" and (n.type.size != 1 or n in operands)]
    args += [(Buffer(f"const{k}", n.dtype, n.type.size), "constant", n) for k, n in enumerate(constants)]
    return tuple(args)


def _copy(source: Buffer, target: Buffer, machine: Machine) -> Kernel:
    """A state receives its new value at the end of the step, where writing it in place was not safe."""
    width = machine.lanes(source.dtype.itemsize)
    blocks, rest = divmod(source.size, width)
    body: list[Stmt] = loop(
        "par",
        "j",
        blocks,
        lambda j: loop("lanes", "l", width, lambda x: [Store(target, j * width + x, Load(source, j * width + x))]),
    )
    start = index(blocks * width)
    body += loop("lanes", "l", rest, lambda x: [Store(target, start + x, Load(source, start + x))])
    return make_kernel("copy", body, width)


def place_barriers(kernels: Sequence[Kernel], parallel: Sequence[bool], plan: MemoryPlan) -> tuple[bool, ...]:
    """A barrier stands before a kernel that touches memory another kernel has touched since the last barrier, when one of
    the two writes it, unless thread 0 runs both.

    Cost: O(kernels x buffers touched since a barrier).
    """
    result: list[bool] = []
    pending: list[tuple[Buffer, bool, bool]] = []

    def overlap(a: Buffer, b: Buffer) -> bool:
        if a is b:
            return True
        x, y = plan.offsets.get(a), plan.offsets.get(b)
        if x is None or y is None:
            return False
        return x < y + b.size * b.dtype.itemsize and y < x + a.size * a.dtype.itemsize

    for kernel, team in zip(kernels, parallel, strict=True):
        reads, writes = reads_and_writes(kernel.body)
        mine = [(b, b in writes) for b in reads | writes]
        conflict = any(
            (w or v) and (team or t) and overlap(a, b) for b, w in mine for a, v, t in pending
        )
        if conflict:
            pending = []
        result.append(conflict)
        pending += [(b, w, team) for b, w in mine]
    return tuple(result)


def constant_bytes(step: Step) -> tuple[bytes, ...]:
    """The values of the constant arguments, in binding order."""
    return tuple(np.ascontiguousarray(n.attrs["value"]).tobytes() for _, kind, n in step.args if kind == "constant")


__all__ = ["Step", "constant_bytes", "lower_graph", "place_barriers"]
