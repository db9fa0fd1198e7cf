"""Loops that do the same become one.

Differentiation asks a loop for more outputs, or lets tangents go along with its carry, and makes another loop for it that
shares leaves, updates and operands with the first. Here the narrower one is read from the wider one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from graphopt.ir.graph import Graph, Node, subgraphs, walk, with_inputs
from graphopt.opdefs.control import item, parts_of
from graphopt.passes.control import with_body
from graphopt.passes.rewrite import Steps


def join(graph: Graph, steps: Steps) -> Graph:
    """Make one loop of those that do the same, of which one may carry more; then the same in the bodies.

    Claim:     no loop of the graph does what another one does beside its own.
    Invariant: this pass sees loops before others rewrite their bodies one by one: what is shared is known by identity.
    Cost:      O(nodes + edges), and the product of the sizes of a family of loops.
    """
    order = walk(graph.roots)
    if not any(subgraphs(n) for n in order):
        return graph
    widest: dict[Node, Node] = {}
    families: dict[Any, list[Node]] = {}
    for node in order:
        if node.op == "loop":
            families.setdefault(_family(node), []).append(node)
    for members in families.values():
        leaders: list[Node] = []
        for node in sorted(members, key=lambda n: len(n.attrs["body"].state), reverse=True):
            leader = next((m for m in leaders if _covers(m, node)), None)
            if leader is None or not steps.take("join_loops"):
                leaders.append(node)
            else:
                widest[node] = leader
    try:
        graph = _joined(graph, order, widest)
    except _Cycle:
        same = {n: m for n, m in widest.items() if n.inputs == m.inputs}
        graph = _joined(graph, order, same)
    return each_region(graph, lambda n: _inside(n, lambda g: join(g, steps)))


class _Cycle(Exception):
    """A wider loop that needs, among what it carries besides, a result of the loop it covers."""


def _joined(graph: Graph, order: Sequence[Node], widest: Mapping[Node, Node]) -> Graph:
    """Every loop's results read from the loop that covers it, which gets all their outputs."""
    outputs: dict[Node, dict[Node, None]] = {}
    for node in order:
        if node.op == "loop":
            leader = widest.get(node, node)
            outputs.setdefault(leader, dict.fromkeys(leader.attrs["body"].outputs)).update(
                dict.fromkeys(node.attrs["body"].outputs)
            )
    new: dict[Node, Node] = {}
    entered: set[Node] = set()

    def of(root: Node) -> Node:
        stack = [root]
        while stack:
            n = stack[-1]
            source = widest.get(n, n)
            missing = [i for i in ([source] if source is not n else n.inputs) if i not in new]
            if n not in new and missing:
                entered.add(n)
                if not entered.isdisjoint(missing):
                    raise _Cycle
                stack.extend(missing)
                continue
            if n not in new:
                new[n] = new[source] if source is not n else _changed(n, new, outputs)
            stack.pop()
        return new[root]

    return graph.with_roots([of(r) for r in graph.roots]) if widest else graph


def _changed(node: Node, new: Mapping[Node, Node], outputs: Mapping[Node, dict[Node, None]]) -> Node:
    if node.op in ("input", "state"):
        return node
    changed = with_inputs(node, tuple([new[i] for i in node.inputs]))
    if node.op == "loop" and len(outputs[node]) > len(node.attrs["body"].outputs):
        return with_body(changed, replace(node.attrs["body"], outputs=tuple(outputs[node])))
    if node.op == "item" and node.inputs[0].op == "loop" and changed is not node:
        return item(changed.inputs[0], index=_moved(node, changed.inputs[0]))
    return changed


def _family(node: Node) -> Any:
    """What loops that may be one have in common."""
    body, a = node.attrs["body"], node.attrs
    first = body.state[0] if body.state else body.inputs
    return first, node.inputs[0] if node.inputs else None, a["length"], a["reverse"], a["counted"], a["test"] is None


def _covers(wide: Node, node: Node) -> bool:
    """Does the wide loop all that the other one does, to the same operands?"""
    a, b = wide.attrs["body"], node.attrs["body"]
    p, q = parts_of(wide), parts_of(node)
    carried = len(b.state)
    if a.state[:carried] != b.state or p.carry[:carried] != q.carry or p.trips != q.trips:
        return False
    fresh, wanted = dict(a.updates), dict(b.updates)
    if any(fresh.get(s, s) is not wanted.get(s, s) for s in b.state):
        return False
    given = dict(zip(a.inputs, (*p.rows, *p.constants), strict=True))
    rows = a.inputs[: len(p.rows)]
    for k, (leaf, n) in enumerate(zip(b.inputs, (*q.rows, *q.constants), strict=True)):
        if given.get(leaf) is not n or (leaf in rows) != (k < len(q.rows)):
            return False
    test, other = wide.attrs["test"], node.attrs["test"]
    if test is None or other is None:
        return test is other
    same_leaves = test.state[:carried] == other.state and test.inputs == other.inputs
    return bool(same_leaves and test.outputs == other.outputs and p.test_constants == q.test_constants)


def _moved(item_node: Node, whole: Node) -> int:
    """Where the result of an item stands in the loop that its own became part of."""
    k: int = item_node.attrs["index"]
    own, body = item_node.inputs[0].attrs["body"], whole.attrs["body"]
    if k < len(own.state):
        return k
    if k < len(own.state) + len(own.outputs):
        return len(body.state) + int(body.outputs.index(own.outputs[k - len(own.state)]))
    return len(body.state) + len(body.outputs)


def each_region(graph: Graph, change: Callable[[Node], Node]) -> Graph:
    """The graph with `change` applied to every branch and loop."""
    new: dict[Node, Node] = {}
    for node in walk(graph.roots):
        changed = node if node.op in ("input", "state") else with_inputs(node, tuple([new[i] for i in node.inputs]))
        new[node] = change(changed) if subgraphs(changed) else changed
    roots = [new[r] for r in graph.roots]
    return graph if all(a is b for a, b in zip(roots, graph.roots, strict=True)) else graph.with_roots(roots)


def _inside(node: Node, change: Callable[[Graph], Graph]) -> Node:
    inner = {k: change(v) if type(v) is Graph else v for k, v in node.attrs.items()}
    if all(v is node.attrs[k] for k, v in inner.items()):
        return node
    return Node(node.op, node.inputs, MappingProxyType(inner), node.type, node.where)
