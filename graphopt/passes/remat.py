"""Rematerialisation: values computed again where they are used late, so that they need not be kept until then.

The schedule has a turn: the moment across which the most bytes are kept for the longest (in training, the loss). What
runs until then is early, the rest is late. A value kept for late users is replaced by a twin, which is computed from
values that are kept; `order` puts twins right before their first use. Which values are kept is a minimum cut between
what must not be computed twice and the late users, with the bytes of values as capacities.

Twins read kept values through a reshape to the same shape: it costs nothing, and `fuse` does not join a twin to the
group that computed the kept value, where it would live as long as what it replaces.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod
from types import MappingProxyType
from typing import Protocol, TypeVar

from graphopt.ir.graph import Graph, Node, walk, with_inputs
from graphopt.ir.types import TensorType, TupleType
from graphopt.opdefs.opdef import opdef
from graphopt.passes.fuse import fuse
from graphopt.passes.materialise import INLINE, LEAVES, dims_of, materialise
from graphopt.passes.memory import MemoryPlan, lifetimes, plan_memory
from graphopt.passes.order import order, owned

_SUMMARY = 16  # a reduction to this small a part of its operand is kept rather than computed twice
_SEGMENTS = (1, 2, 3, 4, 6, 8, 12, 16)
_PARTS = 4  # the early part is computed again but for contractions in its first quarter, half …
_SLACK = 1.05  # plans are lowered when the estimate of their arena is below this times the budget
_AT_LEAST = 3  # plans that are lowered before the least possible is told


class Planned(Protocol):
    """What `fit` needs to know of a lowered graph."""

    @property
    def plan(self) -> MemoryPlan: ...


P = TypeVar("P", bound=Planned)


@dataclass(eq=False)
class Timeline:
    """A graph as it would run without twins.

    early:    computed nodes before the turn; late_use: those of them that something after the turn uses.
    time:     when a node's group runs; INLINE nodes have none.
    crossing: for every moment before the turn, the stored early values that are used after it before the turn.
    across:   the stored early values that are used after the turn. Both by the numbers that nodes are born with.
    """

    graph: Graph
    turn: int = 0
    time: dict[int, int] = field(default_factory=dict)
    early: dict[Node, None] = field(default_factory=dict)
    late_use: dict[Node, None] = field(default_factory=dict)
    crossing: list[list[int]] = field(default_factory=list)
    across: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """kept: the early values that late users may read. work: what the twins cost, about in floating-point operations."""

    kept: frozenset[Node]
    work: float


def fit(graph: Graph, budget: int, lower: Callable[[Graph], P]) -> P:
    """The lowered graph whose arena is within the budget, with the least work done twice among those tried.

    Claim:  outputs and updates are computed by the same ops from the same values: every bit stays.
    Errors: ValueError when the budget is less than the least possible, telling both.
    Cost:   a minimum cut for each of about 20 candidates, and fusing, ordering and planning each of those that are
            cheaper than the one that fits; lowering of few.
    """
    lowered = lower(graph)
    least = lowered.plan.arena_bytes
    if least <= budget:
        return lowered
    line = timeline(graph)
    tried: list[tuple[int, int, Graph]] = []
    for k, candidate in enumerate(candidates(line)):
        changed = with_twins(line, candidate.kept)
        guess = estimate(changed)
        if guess > _SLACK * budget:
            tried.append((guess, k, changed))
            continue
        lowered = lower(changed)
        if lowered.plan.arena_bytes <= budget:
            return lowered
        least = min(least, lowered.plan.arena_bytes)
    for _, _, changed in sorted(tried, key=lambda t: t[:2])[:_AT_LEAST]:
        lowered = lower(changed)
        if lowered.plan.arena_bytes <= budget:
            return lowered
        least = min(least, lowered.plan.arena_bytes)
    raise ValueError(
        f"{graph.name}: memory_budget is {budget} bytes, but temporaries need at least {least} bytes "
        "with everything computed again that can be; give at least that much, or a smaller batch"
    )


def recompute_cells(graph: Graph) -> Graph:
    """Values computed inside the Cells that the graph names are computed again for late users.

    The outputs of such a Cell are kept, unless it asks for them too.
    """
    line = timeline(graph)
    results = {n for n in line.early if n in set(graph.roots)}
    again: set[Node] = set()
    for path, outputs in graph.memory.cells:
        inside = {n for n in line.early if _within(n, path)}
        again |= inside if outputs else inside - {i for n in line.early if n not in inside for i in n.inputs}
    return with_twins(line, frozenset(n for n in line.early if n not in again or n in results))


def _within(node: Node, path: str) -> bool:
    """Was a node made in the Cell of that path, or in one inside it?"""
    cell = node.where.cell if node.where is not None else None
    return cell is not None and (not path or cell == path or cell.startswith(path + "."))


# the schedule -------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Lives:
    """Per group in execution order, the values it stores and reads; which values are not in the arena."""

    stored: list[list[Node]]
    read: list[list[Node]]
    fixed: set[Node]
    same: dict[Node, Node]


def _lives(graph: Graph) -> tuple[_Lives, dict[int, int]]:
    """The schedule of a graph, and when each node (by the number it was born with) is computed."""
    whole = materialise(graph)
    schedule = order(whole, fuse(whole))
    owner = {n: g for g in schedule.groups for n in g.nodes}
    read = []
    for g in schedule.groups:
        sources = dict.fromkeys(m for n in g.members for i in n.inputs for m in owned(i, owner))
        read.append([m for m in sources if owner[m] is not g])
    stored = [[n for n in g.stores if type(n.type) is TensorType] for g in schedule.groups]
    time = {n.born: k for k, g in enumerate(schedule.groups) for n in g.nodes}
    same = schedule.continued | {part: into for part, (into, _) in schedule.inside.items()}
    return _Lives(stored, read, {*whole.outputs, *schedule.in_place}, same), time


def _bytes(node: Node) -> int:
    parts = node.type.parts if isinstance(node.type, TupleType) else (node.type,)
    return sum(max(t.size, 1) * t.dtype.itemsize for t in parts)


def estimate(graph: Graph) -> int:
    """About the bytes of the arena: what groups store, without what lowering adds inside them."""
    lives, _ = _lives(graph)
    touched = []
    for stored, read in zip(lives.stored, lives.read, strict=True):
        values = (lives.same.get(n, n) for n in (*read, *stored))
        touched.append([n for n in values if n not in lives.fixed and type(n.type) is TensorType])
    sizes = {n: _bytes(n) for values in touched for n in values}
    return plan_memory(lifetimes(touched, sizes)).arena_bytes


def timeline(graph: Graph) -> Timeline:
    """When things are computed, and where the turn is."""
    lives, time = _lives(graph)
    first = {n: k for k, stored in enumerate(lives.stored) for n in stored if n not in lives.fixed}
    uses: dict[Node, list[int]] = {n: [] for n in first}
    for k, read in enumerate(lives.read):
        for n in read:
            if n in uses:
                uses[n].append(k)
    steps = len(lives.stored)
    change = [0] * (steps + 1)
    for n, begin in first.items():
        end = max(uses[n], default=begin)
        change[begin] += _bytes(n) * (end - begin)
        change[end] -= _bytes(n) * (end - begin)
    held = list(accumulate(change))
    line = Timeline(graph, held.index(max(held)), time)
    for n in walk(graph.roots):
        if n.op in LEAVES:
            continue
        before = time.get(n.born, -1) <= line.turn if n.op not in INLINE else True
        if before and all(i in line.early or i.op in LEAVES for i in n.inputs):
            line.early[n] = None
        else:
            line.late_use.update(dict.fromkeys(i for i in n.inputs if i in line.early))
    line.crossing = [[] for _ in range(line.turn + 1)]
    line.across = [n.born for n, begin in first.items() if begin <= line.turn < max(uses[n], default=begin)]
    for n, begin in first.items():
        for k in range(begin, max((u for u in uses[n] if u <= line.turn), default=begin)):
            line.crossing[k].append(n.born)
    return line


# which values are kept ----------------------------------------------------------------------------------------


def candidates(line: Timeline) -> list[Candidate]:
    """Sets of values to keep, those first that lead to the least work done twice.

    The cheap ones compute again only what is not a contraction or a kernel of its own, in the first part or everywhere.
    The others cut the early part into segments at its narrowest places, keep what crosses the cuts, and compute the
    first segments again as a whole.
    """
    found: dict[frozenset[Node], Candidate] = {}

    def add(kept: frozenset[Node]) -> None:
        if kept not in found:
            found[kept] = Candidate(kept, sum(_work(n) for n in _again(line, kept)))

    for end in (*_narrow(line, _PARTS)[:-1], line.turn):
        add(minimum_cut(line, 0, frozenset(b for b in line.across if line.time[b] > end)))
    for segments in _SEGMENTS:
        cuts = _narrow(line, segments)
        for whole in sorted({-(-segments * part // 4) for part in (1, 2, 3, 4)}):
            if whole <= len(cuts):
                ends = cuts[:whole]
                add(minimum_cut(line, ends[-1] + 1, frozenset(b for k in ends for b in line.crossing[k])))
    return sorted(found.values(), key=lambda c: c.work)


def _narrow(line: Timeline, segments: int) -> list[int]:
    """Ends of segments that hold about the same bytes of what is used late, each moved to the narrowest place nearby."""
    size = {n.born: _bytes(n) for n in line.early}
    held = [0] * (line.turn + 1)
    for b in line.across:
        held[line.time[b]] += size.get(b, 0)
    total = list(accumulate(held))
    width = [sum(size.get(b, 0) for b in crossing) for crossing in line.crossing]
    cuts: list[int] = []
    for k in range(1, segments + 1):
        around = [total[-1] * (k + d) / segments for d in (-0.5, 0.5)]
        low, high = (min(bisect_left(total, a), line.turn) for a in around)
        places = range(max(low, cuts[-1] + 1 if cuts else 0), high + 1)
        if k == segments:
            cuts.append(line.turn)
        elif places:
            cuts.append(min(places, key=lambda p: (width[p], p)))
    return sorted(set(cuts))


def minimum_cut(line: Timeline, again_before: int, forced: frozenset[int]) -> frozenset[Node]:
    """The values to keep, of the fewest bytes, so that late users need nothing computed again that must not be.

    Contractions and kernels that run before `again_before` may be computed again, others and summaries not; `forced`
    are kept anyway, by the numbers they were born with.
    """
    import networkx as nx  # takes long to import, and few compiles need it

    outputs = set(line.graph.outputs)
    network = nx.DiGraph()
    network.add_nodes_from(("source", "sink"))
    for n in walk(line.late_use):
        if n.op in LEAVES:
            continue
        given = n.born in forced or n in outputs
        if n.op in INLINE:
            network.add_edge((n, 0), (n, 1))
        else:
            network.add_edge((n, 0), (n, 1), capacity=0 if given else _bytes(n))
        if given or (n.op not in INLINE and not _may_run_again(n, line.time.get(n.born, 0) < again_before)):
            network.add_edge("source", (n, 0))
        else:
            for i in n.inputs:
                if i.op not in LEAVES:
                    network.add_edge((i, 1), (n, 0))
        if n in line.late_use:
            network.add_edge((n, 1), "sink")
    _, (above, _) = nx.minimum_cut(network, "source", "sink")
    return frozenset(n for n in line.early if (n, 0) in above and (n, 1) not in above)


def _may_run_again(node: Node, whole: bool) -> bool:
    kind = opdef(node.op).kind
    if kind == "reduction":
        return node.type.size * _SUMMARY > node.inputs[0].type.size
    return kind in ("elementwise", "movement") or (whole and kind in ("contraction", "kernel"))


def _work(node: Node) -> float:
    """About the floating-point operations of a node, and a few for each element moved."""
    if node.op in INLINE:
        return 0.0
    if opdef(node.op).kind == "contraction":
        dims = dims_of(node)
        return 2.0 * prod(v.size for v in (*dims.outs, *dims.sums))
    return 8.0 * max([_size(node), *(_size(i) for i in node.inputs)])


def _size(node: Node) -> int:
    return node.type.size if type(node.type) is TensorType else 0


# twins --------------------------------------------------------------------------------------------------------


def _again(line: Timeline, kept: frozenset[Node]) -> list[Node]:
    """The nodes that get a twin, each after its inputs."""
    wanted: dict[Node, None] = {}
    stack = [n for n in line.late_use if n not in kept]
    while stack:
        n = stack.pop()
        if n not in wanted and n not in kept and n.op not in LEAVES:
            wanted[n] = None
            stack += n.inputs
    return [n for n in line.early if n in wanted]


def with_twins(line: Timeline, kept: frozenset[Node]) -> Graph:
    """The graph whose late part computes again what it needs of the early part and is not kept."""
    held: dict[Node, Node] = {}

    def read(node: Node) -> Node:
        """A kept value, as an operand that does not join its user to the group it was computed in."""
        if node.op in INLINE or node.op in LEAVES or type(node.type) is not TensorType:
            return node
        if node not in held:
            held[node] = Node("reshape", (node,), MappingProxyType({"shape": node.shape}), node.type, node.where)
        return held[node]

    twin: dict[Node, Node] = {}
    for n in _again(line, kept):
        apart = n.op in INLINE or opdef(n.op).kind in ("elementwise", "reduction")
        inputs = tuple(twin[i] if i in twin else read(i) if apart else i for i in n.inputs)
        twin[n] = n if n.op in INLINE and inputs == n.inputs else Node(n.op, inputs, n.attrs, n.type, n.where)
    new: dict[Node, Node] = {}
    for n in walk(line.graph.roots):
        if n in line.early or n.op in LEAVES:
            new[n] = n
        else:
            new[n] = with_inputs(n, tuple(twin.get(i, i) if i in line.early else new[i] for i in n.inputs))
    return line.graph.with_roots([new[r] for r in line.graph.roots])


__all__ = ["Candidate", "Timeline", "candidates", "estimate", "fit", "recompute_cells", "timeline", "with_twins"]
