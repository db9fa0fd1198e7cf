"""Dead code. Unreachable nodes need no pass: a graph consists of what its roots need."""

from __future__ import annotations

from dataclasses import replace

from graphopt.ir.graph import Graph
from graphopt.passes.rewrite import Steps


def dce(graph: Graph, steps: Steps) -> Graph:
    """Drop updates that give a state the value it has.

    Claim:     what remains of `updates` changes its state.
    Invariant: inputs, state and outputs stay, used or not: they are the graph's signature.
    Cost:      O(updates).
    """
    kept = tuple((s, v) for s, v in graph.updates if v is not s or not steps.take("drop_update"))
    return graph if len(kept) == len(graph.updates) else replace(graph, updates=kept)
