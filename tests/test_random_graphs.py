"""Random graphs: every prefix of the pipeline keeps values, signature and validity; every backend computes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings

from graphopt import config
from graphopt.compile import compile_graph
from graphopt.ir.graph import Graph, Node, input_node, walk
from graphopt.ir.text import parse_graph, print_graph
from graphopt.ir.types import f32, f64
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.opdef import constant, full, opdef
from graphopt.passes.batch import Examples
from graphopt.passes.forward import jvp
from graphopt.passes.gradient import vjp
from graphopt.passes.pipeline import PASSES, check, close, optimize
from graphopt.passes.rewrite import Steps
from tests.graphs import graphs, quarters, values
from tests.steps import agree, arguments, compiled, leaf, meaning, run


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


# backends


SMOOTH = {
    "exp",
    "expm1",
    "log",
    "log1p",
    "tanh",
    "sigmoid",
    "sqrt",
    "rsqrt",
    "erf",
    "sin",
    "cos",
    "pow",
    "div",
    "reduce_prod",
}
JUMPS = {"eq", "ne", "lt", "le", "gt", "ge", "floor", "ceil", "round", "trunc", "sign", "cast", "floordiv", "mod"}
_EXACT_TO = 4096.0  # quarters below it and their products have room in a float32


def _wide(node: Node, new: Mapping[Node, Node]) -> Node:
    """The node in float64."""
    if node.op in ("input", "state"):
        return node
    attrs = {k: f64 if v is f32 else v for k, v in node.attrs.items()}
    if node.op == "constant" and node.dtype is f32:
        attrs["value"] = node.attrs["value"].astype(np.float64)
    dtype = f64 if node.dtype is f32 else node.dtype
    return Node(node.op, tuple(new[i] for i in node.inputs), MappingProxyType(attrs), replace(node.type, dtype=dtype))


def judged(roots: Sequence[Node], leaves: Mapping[Node, np.ndarray]) -> dict[Node, np.ndarray]:
    """The nodes whose values do not hinge on rounding, with their values in float64.

    A comparison or a step (floor, a cast to an integer) of values that were rounded may go either way; everything
    computed from it is left out. Values are exact while they are small multiples of a power of 1/2.
    """
    order = walk(roots)
    wide: dict[Node, Node] = {}
    for n in order:
        wide[n] = _wide(n, wide)
    given = {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in leaves.items()}
    narrow = dict(zip(order, evaluate_nodes(order, leaves), strict=True))
    exactly = dict(zip(order, evaluate_nodes([wide[n] for n in order], given), strict=True))
    exact: set[Node] = set()
    trusted: dict[Node, np.ndarray] = {}
    for n in order:
        size = float(np.max(np.abs(exactly[n].astype(np.float64)), initial=0.0))
        if not isfinite(size) or any(i not in trusted for i in n.inputs):
            continue
        if n.op in JUMPS and any(i not in exact for i in n.inputs):
            continue
        trusted[n] = exactly[n]
        if all(i in exact for i in n.inputs) and n.op not in SMOOTH and size < _EXACT_TO:
            if np.array_equal(narrow[n].astype(np.float64), exactly[n].astype(np.float64)):
                exact.add(n)
    return trusted


def check_backends(graph: Graph, leaves: Mapping[Node, np.ndarray]) -> int:
    """The interpreter and LLVM on one and two threads against float64; how many roots could be judged."""
    with np.errstate(all="ignore"):
        trusted = judged(graph.roots, leaves)
    found: dict[str, list[np.ndarray]] = {}
    for name, backend, threads in (("loops", "loops", 1), ("llvm", "llvm", 1), ("llvm, two threads", "llvm", 2)):
        states = [leaves[s].copy() for s in graph.state]
        with config.override(backend=backend, threads=threads, cache="off"):
            outputs = compile_graph(graph).run([leaves[n] for n in graph.inputs], states)
        after = dict(zip(graph.state, states, strict=True))
        found[name] = [*outputs, *(after[s] for s, _ in graph.updates)]
        for k, (root, value) in enumerate(zip(graph.roots, found[name], strict=True)):
            if root in trusted:
                expected = trusted[root].astype(value.dtype)
                assert close(expected, value), f"{name}, root {k}: {value}, expected {expected}\n{print_graph(graph)}"
    for a, b in zip(found["llvm"], found["llvm, two threads"], strict=True):
        assert a.tobytes() == b.tobytes(), f"the number of threads changes bits\n{print_graph(graph)}"
    return sum(root in trusted for root in graph.roots)


@pytest.fixture(scope="module", autouse=True)
def shared() -> Iterator[None]:
    """Even the smallest kernel is shared by the team."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graphopt.kernel.step._TEAM_WORK", 0.0)
        yield


@settings(max_examples=100)
@given(graphs())
def test_backends_compute_random_graphs(graph: Graph) -> None:
    check_backends(graph, quarters(graph))


@given(graphs(steps=9, sizes=(17, 3, 33, 1, 8, 24)))
def test_backends_compute_random_graphs_of_whole_vectors_and_rests(graph: Graph) -> None:
    check_backends(graph, quarters(graph))


def with_gradients(graph: Graph) -> Graph:
    """The graph's outputs and their vector-Jacobian products by every leaf, for cotangents that are all 1."""
    leaves = graph.inputs + graph.state
    smooth = [o for o in graph.outputs if o.dtype.is_float]
    found = vjp(smooth, [full(o.shape, 1.0, o.dtype) if o.shape else constant(1.0, o.dtype) for o in smooth], leaves)
    return Graph("gradients", graph.inputs, graph.state, (*graph.outputs, *(g for g in found if g is not None)))


@given(graphs(steps=8))
def test_backends_compute_gradients_of_random_graphs(graph: Graph) -> None:
    whole = with_gradients(graph)
    check_backends(whole, quarters(whole))


@settings(max_examples=30)
@given(graphs(steps=6, sizes=(17, 3, 33, 1, 8)))
def test_backends_compute_gradients_of_whole_vectors_and_rests(graph: Graph) -> None:
    whole = with_gradients(graph)
    check_backends(whole, quarters(whole))


def with_second_derivatives(graph: Graph) -> Graph:
    """The outputs, gradients, and the gradients' derivatives along all leaves, in reverse and in forward mode."""
    first = with_gradients(graph)
    leaves = graph.inputs + graph.state
    gradients = first.outputs[len(graph.outputs) :]
    ones = [full(n.shape, 1.0, n.dtype) for n in gradients]
    backward = vjp(gradients, ones, leaves)
    forward = jvp(gradients, leaves, [full(n.shape, 1.0, n.dtype) for n in leaves])
    return replace(first, outputs=(*first.outputs, *(n for n in (*backward, *forward) if n is not None)))


@settings(max_examples=40)
@given(graphs(steps=6))
def test_backends_compute_second_derivatives_of_random_graphs(graph: Graph) -> None:
    whole = with_second_derivatives(graph)
    check(whole)
    check_backends(whole, quarters(whole))


@given(graphs())
def test_many_examples_of_a_random_graph_are_a_loop(graph: Graph) -> None:
    """Every input has examples, the state is the same for all; then optimized as any graph."""
    size, examples = 3, Examples(3)
    every = [input_node(f"all{k}", replace(n.type, shape=(size, *n.shape))) for k, n in enumerate(graph.inputs)]
    for one, all_of_them in zip(graph.inputs, every, strict=True):
        examples.stand_for(one, all_of_them)
    nodes = examples.of(graph.outputs)
    whole = Graph("many", tuple(every), graph.state, tuple(nodes))
    check(whole)
    draws = [quarters(graph, seed) for seed in range(size)]
    leaves = {a: np.stack([d[n] for d in draws]) for n, a in zip(graph.inputs, every, strict=True)}
    leaves |= {n: draws[0][n] for n in graph.state}
    found = evaluate_nodes(optimize(whole).outputs, leaves)
    for k, draw in enumerate(draws):
        mine = {**draw, **{n: draws[0][n] for n in graph.state}}
        trusted = judged(graph.outputs, mine)
        for one, value in zip(graph.outputs, found, strict=True):
            if one in trusted:
                row = value[k] if one in examples else value
                assert close(trusted[one].astype(row.dtype), row), print_graph(graph)


def test_judging_leaves_out_what_hinges_on_rounding() -> None:
    x = leaf("x", 3)
    exact, rounded = opdef("floor")(x * x), opdef("floor")(opdef("tanh")(x))
    trusted = judged([exact, rounded], {x: np.full(3, 0.75, np.float32)})
    assert exact in trusted and rounded not in trusted and rounded.inputs[0] in trusted


BUGS = sorted((Path(__file__).parent / "golden" / "bugs").glob("*.graph"))


@pytest.mark.parametrize("path", BUGS, ids=lambda path: path.stem)
def test_graphs_that_once_failed(path: Path) -> None:
    """Every backend computes the numpy meaning of the graphs that showed a mistake of the compiler."""
    graph = parse_graph(path.read_text(encoding="utf-8"))
    inputs, states = arguments(graph)
    expected = meaning(graph, inputs, states)
    for backend, threads in (("loops", 1), ("llvm", 1), ("llvm", 2)):
        agree(run(compiled(graph, backend, threads), inputs, states), expected, f"{backend}, {threads} threads")
