"""The smallest graph that still shows a fault: outputs are left out, and nodes replaced by inputs with their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from graphopt.ir.graph import Graph, Node, input_node, substitute, walk
from graphopt.ir.types import TupleType
from graphopt.opdefs.evaluate import evaluate_nodes

Values = Mapping[Node, np.ndarray]
Fails = Callable[[Graph, Values], bool]
_LEAVES = ("input", "state", "constant")


def reduce_graph(graph: Graph, leaves: Values, fails: Fails) -> tuple[Graph, dict[Node, np.ndarray]]:
    """A graph without state that still fails, none of whose nodes can be left out, and values of its inputs.

    fails: whether a graph shows the fault, given values of its leaves. The graph as it is given does.

    Where the fault needs updates of state, the graph itself comes back.
    Cost: one call of `fails` for each node, each time on a graph of one node; then, when no single node is at fault,
          up to a few for each node of the smaller and smaller graph.
    Source: delta debugging (Zeller, Hildebrandt 2002), along the graph's own order.
    """
    order = walk(graph.roots)
    values = dict(zip(order, evaluate_nodes(order, leaves), strict=True))

    def attempt(roots: Sequence[Node], cut: set[Node]) -> tuple[Graph, dict[Node, np.ndarray]] | None:
        made, given = _cut(graph.name, roots, cut, values)
        return (made, given) if fails(made, given) else None

    for node in order:
        if node.op not in _LEAVES and not isinstance(node.type, TupleType):
            single = attempt([node], set(_sources(node)))
            if single is not None:
                return single
    found = attempt(graph.roots, set())
    if found is None:
        return graph, dict(leaves)
    roots = _fewer_roots(list(graph.roots), lambda some: attempt(some, set()) is not None)
    cut: set[Node] = set()
    for size in _halves(len(order)):
        inner = [n for n in order if n.op not in _LEAVES and n not in roots]
        for start in range(0, len(inner), size):
            more = cut | set(inner[start : start + size])
            smaller = attempt(roots, more)
            if smaller is not None:
                cut, found = more, smaller
    return attempt(roots, cut) or found


def graph_of_nodes(name: str, nodes: Sequence[Node], leaves: Values) -> tuple[Graph, dict[Node, np.ndarray]]:
    """A graph of these nodes alone, whatever they are computed from an input, and values of its inputs."""
    mine = set(nodes)
    used = {i for n in nodes for i in n.inputs}
    ends = [n for n in dict.fromkeys(nodes) if n not in used and not isinstance(n.type, TupleType)]
    cut = {i for i in used - mine if not isinstance(i.type, TupleType)}
    order = walk(ends)
    return _cut(name, ends, cut, dict(zip(order, evaluate_nodes(order, leaves), strict=True)))


def _fewer_roots(roots: list[Node], still: Callable[[list[Node]], bool]) -> list[Node]:
    """One root that fails by itself, or as few as possible."""
    for root in roots:
        if root.op not in _LEAVES and still([root]):
            return _inward(root, still)
    for root in list(roots):
        rest = [r for r in roots if r is not root]
        if rest and still(rest):
            roots = rest
    return roots


def _inward(root: Node, still: Callable[[list[Node]], bool]) -> list[Node]:
    """The innermost node whose own value is wrong already."""
    while True:
        inner = next((i for i in _sources(root) if i.op not in _LEAVES and still([i])), None)
        if inner is None:
            return [root]
        root = inner


def _sources(node: Node) -> tuple[Node, ...]:
    """What a node is computed from; of a result of a branch or loop, the operands of that."""
    return node.inputs[0].inputs if node.op == "item" else node.inputs


def _halves(count: int) -> list[int]:
    sizes = []
    while count > 1:
        count = (count + 1) // 2
        sizes.append(count)
    return sizes or [1]


def _cut(name: str, roots: Sequence[Node], cut: set[Node], values: Values) -> tuple[Graph, dict[Node, np.ndarray]]:
    """`roots` as outputs, with every node of `cut` and every leaf but constants an input of its own."""
    replaced: dict[Node, Node] = {}
    for node in walk(roots):
        several = isinstance(node.type, TupleType)
        if node.op in ("input", "state") or (node in cut and node not in roots and node.op != "constant" and not several):
            replaced[node] = input_node(f"v{len(replaced)}", node.type, node.where)
    outputs = substitute(roots, replaced)
    needed = set(walk(outputs))
    given = {new: values[old] for old, new in replaced.items() if new in needed}
    return Graph(name, tuple(given), (), tuple(outputs)), given
