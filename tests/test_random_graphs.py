"""Random graphs: every prefix of the pipeline keeps the values, the signature and validity."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given

from graphopt.ir.graph import Graph
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.passes.pipeline import PASSES, check, close
from graphopt.passes.rewrite import Steps
from tests.graphs import graphs, values


def _with_all_updates(graph: Graph, like: Graph) -> Graph:
    """An update that `dce` dropped gives its state the value it has."""
    known = dict(graph.updates)
    return replace(graph, updates=tuple((s, known.get(s, s)) for s, _ in like.updates))


@given(graphs())
def test_every_prefix_of_the_pipeline_keeps_the_values(graph: Graph) -> None:
    check(graph)
    leaves = values(graph)
    expected = evaluate_nodes(graph.roots, leaves)
    current = graph
    for step in PASSES:
        current = step.run(current, Steps())
        check(current)
        assert current.inputs == graph.inputs and current.state == graph.state
        found = evaluate_nodes(_with_all_updates(current, graph).roots, leaves)
        for a, b in zip(expected, found, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype and close(a, b), f"{step.name}: {a} became {b}"


@given(graphs())
def test_passes_are_idempotent(graph: Graph) -> None:
    for step in PASSES:
        once = step.run(graph, Steps())
        again = Steps()
        twice = step.run(once, again)
        assert again.names == [], f"{step.name} did not reach its fixed point"
        assert twice is once
        graph = once
