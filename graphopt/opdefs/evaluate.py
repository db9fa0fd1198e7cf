"""Run a graph by its ops' numpy meaning: slow, obviously right, the oracle of everything below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphopt.ir.graph import Graph, Node, walk
from graphopt.opdefs.opdef import opdef


def evaluate_nodes(roots: Sequence[Node], leaves: Mapping[Node, np.ndarray]) -> list[np.ndarray]:
    """The values of `roots`, given the values of the `input` and `state` leaves they need. Others go when nobody needs them."""
    values: dict[Node, np.ndarray] = dict(leaves)
    order = walk(roots)
    last = {i: node for node in order for i in node.inputs}
    kept = {*roots, *leaves}
    for node in order:
        if node in values:
            continue
        if node.op == "constant":
            values[node] = node.attrs["value"]
            continue
        values[node] = opdef(node.op).evaluate(node.type, [values[i] for i in node.inputs], node.attrs)
        for i in {*node.inputs} - kept:
            if last[i] is node:
                del values[i]
    return [values[r] for r in roots]


def evaluate(graph: Graph, inputs: Sequence[np.ndarray], state: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of the graph; the arrays of `state` receive their updates in place, after everything is computed."""
    leaves = dict(zip(graph.inputs, inputs, strict=True)) | dict(zip(graph.state, state, strict=True))
    values = evaluate_nodes(graph.roots, leaves)
    k = len(graph.outputs)
    fresh = [np.array(v) for v in values]
    where = dict(zip(graph.state, state, strict=True))
    for (leaf, _), value in zip(graph.updates, fresh[k:], strict=True):
        where[leaf][...] = value
    return fresh[:k]
