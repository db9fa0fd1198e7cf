"""All laws at once: the algebra of elements, of movement and of rows, and constant folding.

The rules register themselves when their files are imported; folding stands first, so laws see constants.
"""

from __future__ import annotations

from graphopt.ir.graph import Graph
from graphopt.passes import fold, laws, rows, views
from graphopt.passes.rewrite import RULES, Steps, sweep

FAMILIES = (fold, laws, views, rows)


def simplify(graph: Graph, steps: Steps) -> Graph:
    """Apply every exact law and every rule until none matches.

    Claim:     a fixed point of the algebra; `alias` and `stop_gradient` are gone.
    Invariant: values stay the same: laws in every bit, reductions within their own rounding.
    Cost:      one visit per node and one per rewrite.
    """
    return sweep(graph, RULES, steps)
