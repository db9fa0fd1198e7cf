"""Common subexpressions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from graphopt.ir.graph import Graph, Node, rebuild, walk, with_inputs
from graphopt.ir.text import content_hash, print_graph
from graphopt.passes.rewrite import Steps

_WHOLE_BYTES = 1 << 12
_LEAVES = ("input", "state")


def cse(graph: Graph, steps: Steps) -> Graph:
    """Merge nodes that are the same op with equal attrs on the same inputs; the first in order stays.

    Claim:     no two nodes of the result compute the same expression.
    Invariant: equal means equal bits: 0.0 and -0.0, 1 and 1.0 and True stay apart.
    Cost:      O(nodes + edges) and one pass over the bytes of constants.
    """
    first: dict[Any, Node] = {}

    def change(node: Node) -> Node:
        known = first.setdefault(_key(node), node)
        return known if known is node or steps.take(f"merge_{node.op}") else node

    return rebuild(graph, change)


def merged(graph: Graph, known: Iterable[Node]) -> Graph:
    """The graph with equal nodes merged, with those of `known` too: what was built again as it was is the old node."""
    first = {_key(node): node for node in known}
    return rebuild(graph, lambda node: first.setdefault(_key(node), node))


def met(roots: Sequence[Node], fixed: Iterable[Node]) -> list[Node]:
    """The roots with equal nodes merged, where something is computed twice; `fixed` nodes and what they are made of stay.

    For what will be differentiated: what flows back into twins meets only in what both read, and takes every step down
    to there twice. An alias that is not fixed is what it stands for, as calls of one function on aliases of a value differ
    in nothing else.
    """
    new = {node: node for node in walk(fixed)}
    first = {_key(node): node for node in new}
    twins = False
    for node in walk(roots):
        if node in new:
            continue
        changed = with_inputs(node, tuple([new[i] for i in node.inputs])) if node.op not in _LEAVES else node
        if changed.op == "alias":
            new[node] = changed.inputs[0]
            continue
        new[node] = first.setdefault(_key(changed), changed)
        twins = twins or new[node] is not changed and changed.op not in ("constant", "broadcast")
    return [new[root] for root in roots] if twins else list(roots)


def _key(node: Node) -> Any:
    return (node.op, node.inputs, node.type, _attrs_key(node))


def _attrs_key(node: Node) -> Any:
    attrs = node.attrs
    if not attrs:
        return None
    if node.op == "constant":
        value: np.ndarray = attrs["value"]
        return value.tobytes() if value.nbytes <= _WHOLE_BYTES else content_hash(value)
    return tuple([(k, exact_key(attrs[k])) for k in sorted(attrs)])


def exact_key(value: Any) -> Any:
    """A hashable stand-in that is equal only for the same kind of value with the same bits."""
    kind = type(value)
    if kind is int:
        return value
    if kind is tuple:
        return tuple([v if type(v) is int else exact_key(v) for v in value])
    if kind is float:
        return ("float", value.hex())
    if kind is Graph:
        return ("graph", print_graph(value, where=False))
    return (kind.__name__, value)
