"""Values that cost less to compute again than to keep: no kernel stores them for another one.

What a derivative needs of an activation is often several large values that follow from one: an argument, an exponential,
a product of both. Each is written by one kernel and read by a later one, where memory is the slowest part of both. Here the
later kernel gets twins of the elementwise nodes instead, which read what is stored anyway.

`remat` does the same where a budget of memory asks for it, whatever it costs; here no step may become slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from graphopt.ir.graph import Graph, Node, walk, with_inputs
from graphopt.ir.types import TensorType
from graphopt.opdefs.opdef import opdef
from graphopt.passes.fuse import Group, fuse
from graphopt.passes.materialise import INLINE, LEAVES

_LEAST_BYTES = 1 << 17  # less stays near in the second-level cache until it is read
_WRITE, _READ = 24.0, 12.0  # cycles of a thread for a line of the cache that another kernel will read, or has written
_SMALL = 16  # a value this many times smaller than the one it is spread to is read for nothing
_CHEAP = 1.5  # cycles for a line of f32 of an op that is not named below
_CYCLES = {
    "div": 16.0, "sqrt": 19.0, "rsqrt": 24.0, "floordiv": 40.0, "mod": 40.0,
    "exp": 12.0, "expm1": 18.0, "log": 20.0, "log1p": 20.0, "sigmoid": 16.0, "tanh": 24.0, "erf": 24.0,
    "sin": 32.0, "cos": 32.0, "pow": 60.0,
}  # fmt: skip


@dataclass
class _Plan:
    """Who stores and who reads.

    fixed:   values that are stored in any case.
    readers: of a value that groups other than its own read at its point, those groups.
    reads:   per group, the large values of others that it reads.
    dropped: values that are not stored any more. twinned: per group, what it computes again for them.
    """

    graph: Graph
    of: dict[Node, Group]
    stored: set[Node]
    updated: set[Node]
    fixed: set[Node] = field(default_factory=set)
    readers: dict[Node, dict[Group, None]] = field(default_factory=dict)
    reads: dict[Group, set[Node]] = field(default_factory=dict)
    dropped: set[Node] = field(default_factory=set)
    twinned: dict[Group, set[Node]] = field(default_factory=dict)

    def reader(self, node: Node) -> Group | None:
        """The group in whose loops a node reads its operands."""
        group = self.of.get(node)
        return group.finishes.get(node, group) if group is not None else None

    def is_base(self, node: Node) -> bool:
        """Is a value in memory, for whoever computes another one again?"""
        return node in self.stored and node not in self.dropped

    def stays(self, node: Node) -> bool:
        """Does a twin read this operand where it is, rather than have a twin of it?"""
        return node.op in INLINE or node.op in LEAVES or self.is_base(node) or node in self.of[node].rows


def fuse_again(graph: Graph) -> tuple[Graph, list[Group]]:
    """A materialised graph with twins for values that are better computed again, and its groups.

    Claim: outputs and updates are computed by the same ops from the same values: every bit stays. Less is stored.
    Cost:  of `fuse`, and where anything is computed again, twice that.
    """
    groups = fuse(graph)
    plan = _plan(graph, groups)
    for node in walk(graph.roots):
        if node in plan.readers and node not in plan.fixed:
            _decide(plan, node)
    if not plan.dropped:
        return graph, groups
    changed, twins = _with_twins(plan)
    fewer = fuse(changed, twins)
    return (changed, fewer) if _stored_bytes(fewer) < _stored_bytes(groups) else (graph, groups)


def _bytes(node: Node) -> int:
    size: int = node.type.size * node.dtype.itemsize
    return size


def _stored_bytes(groups: Sequence[Group]) -> int:
    return sum(_bytes(n) for g in groups for n in g.stores if type(n.type) is TensorType)


def _plan(graph: Graph, groups: Sequence[Group]) -> _Plan:
    of = {n: g for g in groups for n in g.nodes}
    plan = _Plan(graph, of, {n for g in groups for n in g.stores}, {state for state, _ in graph.updates}, set(graph.roots))
    for node in walk(graph.roots):
        group = plan.reader(node)
        at_its_point = group is not None and opdef(node.op).kind in ("elementwise", "reduction")
        for i in node.inputs:
            if i not in plan.stored:
                continue
            if group is None or not at_its_point:
                plan.fixed.add(i)
            elif group is not plan.of[i]:
                plan.readers.setdefault(i, {})[group] = None
                plan.reads.setdefault(group, set()).add(i)
    return plan


def _decide(plan: _Plan, node: Node) -> None:
    """Drop a stored value when twins in all groups that read it cost less than its way through memory."""
    group = plan.of[node]
    if opdef(node.op).kind != "elementwise" or _bytes(node) < _LEAST_BYTES:
        return
    if group.kind not in ("loops", "contraction") or node.shape != group.full or node in group.rows:
        return
    cone = _cone(plan, node)
    if cone is None:
        return
    again, bases = cone
    readers = plan.readers[node]
    saved = _bytes(node) * (_WRITE + _READ * len(readers))
    for reader in readers:
        saved -= sum(_work(n) for n in again - plan.twinned.get(reader, set()))
        saved -= sum(_READ * _bytes(b) for b in bases - plan.reads[reader] if plan.of[b] is not reader)
    if saved <= 0.0:
        return
    plan.dropped.add(node)
    for reader in readers:
        plan.twinned.setdefault(reader, set()).update(again)
        plan.reads[reader] = plan.reads[reader] - {node} | bases


def _work(node: Node) -> float:
    """Cycles, in units of what a byte costs: small floats are computed as f32, logic on lanes of its operands."""
    size: int = node.type.size * max(4, *(i.dtype.itemsize for i in (node, *node.inputs)))
    return _CYCLES.get(node.op, _CHEAP) * size


def _cone(plan: _Plan, node: Node) -> tuple[set[Node], set[Node]] | None:
    """The nodes to compute again for a value, and the large ones that they read; None when it does not follow from what
    is stored."""
    again: set[Node] = set()
    bases: set[Node] = set()
    stack = [node]
    while stack:
        n = stack.pop()
        if n in again:
            continue
        again.add(n)
        for i in n.inputs:
            small = i.type.size * _SMALL <= node.type.size
            if i.op in INLINE or i.op in LEAVES:
                if not all(_held(plan, b, node) for b in _behind(i)):
                    return None
            elif plan.is_base(i):
                bases |= set() if small else {i}
            elif i in plan.of[node].rows:
                if not small:
                    return None
            elif opdef(i.op).kind == "elementwise" and plan.of[i] is plan.of[node] and i.shape == node.shape:
                stack.append(i)
            else:
                return None
    return again, bases


def _behind(node: Node) -> list[Node]:
    """The leaves and computed values behind inline movement."""
    if node.op not in INLINE or node.op in LEAVES:
        return [node]
    return [b for i in node.inputs for b in _behind(i)]


def _held(plan: _Plan, node: Node, user: Node) -> bool:
    """Can a late user read this through movement? A state that is updated in place would have to be copied: a small one."""
    small = node.type.size * _SMALL <= user.type.size
    if node.op in LEAVES:
        return small or node not in plan.updated
    return plan.is_base(node) or (small and node in plan.of[node].rows)


def _with_twins(plan: _Plan) -> tuple[Graph, frozenset[Node]]:
    new: dict[Node, Node] = {}
    twins: dict[tuple[Node, Group], Node] = {}

    def twin(node: Node, reader: Group) -> Node:
        """Of a dropped value, or of what it follows from, for one group."""
        if (node, reader) not in twins:
            inputs = tuple([new[i] if plan.stays(i) else twin(i, reader) for i in node.inputs])
            twins[node, reader] = Node(node.op, inputs, node.attrs, node.type, node.where)
        return twins[node, reader]

    for node in walk(plan.graph.roots):
        reader = plan.reader(node)
        inputs = []
        for i in node.inputs:
            apart = i in plan.dropped and reader is not None and reader is not plan.of[i]
            inputs.append(twin(i, reader) if apart and reader is not None else new[i])
        new[node] = with_inputs(node, tuple(inputs))
    return plan.graph.with_roots([new[r] for r in plan.graph.roots]), frozenset(twins.values())


__all__ = ["fuse_again"]
