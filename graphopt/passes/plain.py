"""What derivatives of one's own leave when nothing is differentiated any more: the values themselves."""

from __future__ import annotations

from graphopt.ir.graph import Graph, Node, rebuild
from graphopt.passes.rewrite import Steps


def plain(graph: Graph, steps: Steps) -> Graph:
    """Put the results of `with_rule` nodes in the place of their items.

    Claim: no `with_rule` is left. Cost: O(nodes).
    """

    def change(node: Node) -> Node:
        if node.op == "item" and node.inputs[0].op == "with_rule":
            index: int = node.attrs["index"]
            return node.inputs[0].inputs[index]
        return node

    return rebuild(graph, change)
