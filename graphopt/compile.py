"""Graph -> Program -> something that runs: the whole route, named in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.ir.graph import Graph
from graphopt.opdefs.evaluate import evaluate


@dataclass(frozen=True, eq=False)
class Compiled:
    """A graph ready to run."""

    graph: Graph

    def run(self, inputs: Sequence[np.ndarray], state: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Outputs, freshly allocated; the arrays of `state` are updated in place."""
        return evaluate(self.graph, inputs, state)


def compile_graph(graph: Graph) -> Compiled:
    """Compile a graph."""
    return Compiled(graph)
