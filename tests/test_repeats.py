"""Groups that do the same are lowered once, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings

from graphopt import Tensor, nn
from graphopt.compile import run_loops
from graphopt.ir.graph import Graph, Node, input_node, state_node, substitute
from graphopt.ir.types import TensorType, f32
from graphopt.kernel import step as stepping
from graphopt.kernel import tile
from graphopt.kernel.copies import COPIES, share_copies
from graphopt.kernel.loops import show, signature
from graphopt.kernel.machine import AVX2
from graphopt.kernel.nests import zero_kernel
from graphopt.kernel.step import Step, lower_graph
from graphopt.llvm.step import emit_step
from graphopt.opdefs.linalg import dot_general
from graphopt.passes.pipeline import optimize
from tests.graphs import graphs, values
from tests.steps import GRAPHS, arguments, compiled, lower_all, run


def twice(graph: Graph) -> Graph:
    """Two of the same graph side by side, on leaves of their own."""
    copy: dict[Node, Node] = {}
    for n in graph.inputs:
        copy[n] = input_node(n.attrs["name"] + "_too", n.type)
    for n in graph.state:
        copy[n] = state_node(n.attrs["name"] + "_too", n.type)
    roots = substitute(graph.roots, copy)
    k = len(graph.outputs)
    updates = tuple((copy[s], v) for (s, _), v in zip(graph.updates, roots[k:], strict=True))
    inputs, state = (ns + tuple(copy[n] for n in ns) for ns in (graph.inputs, graph.state))
    return Graph(graph.name, inputs, state, (*graph.outputs, *roots[:k]), graph.updates + updates)


def alone(graph: Graph) -> Step:
    """Lowered with every group by itself."""

    with pytest.MonkeyPatch.context() as patch:
        lower_all(patch)
        return lower_graph(graph, AVX2)


def check_same(graph: Graph, arrays: Callable[[Graph], tuple[list[np.ndarray], list[np.ndarray]]]) -> Step:
    graph = optimize(graph)
    shared, apart = lower_graph(graph, AVX2), alone(graph)
    assert [signature(k) for k in shared.kernels] == [signature(k) for k in apart.kernels]
    assert [[(n.op, n.type) for n in k.nodes] for k in shared.kernels] == [
        [(n.op, n.type) for n in k.nodes] for k in apart.kernels
    ]
    assert shared.plan.arena_bytes == apart.plan.arena_bytes
    assert (shared.parallel, shared.barriers, shared.spared) == (apart.parallel, apart.barriers, apart.spared)
    (inputs, states), (_, others) = arrays(graph), arrays(graph)
    found = [*run_loops(shared, inputs, states), *states]
    assert [a.tobytes() for a in found] == [a.tobytes() for a in [*run_loops(apart, inputs, others), *others]]
    return shared


@pytest.mark.parametrize("name", GRAPHS)
def test_two_of_a_step_have_the_kernels_of_one(name: str) -> None:
    step = check_same(twice(GRAPHS[name]()), arguments)
    assert {signature(k) for k in step.kernels} == {signature(k) for k in lower_graph(optimize(GRAPHS[name]()), AVX2).kernels}


@settings(max_examples=40)
@given(graphs(steps=10))
def test_two_of_a_random_graph(graph: Graph) -> None:
    def arrays(whole: Graph) -> tuple[list[np.ndarray], list[np.ndarray]]:
        leaves = values(whole)
        return [leaves[n] for n in whole.inputs], [leaves[n] for n in whole.state]

    check_same(twice(graph), arrays)


def test_operands_that_several_products_copy_are_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients of two weights of one layer share an operand; what is written in between is copied again."""
    shared, a, b = (input_node(n, TensorType(f32, (1024, k))) for n, k in (("g", 512), ("x", 192), ("h", 160)))
    both = {"contract": ((0,), (0,)), "batch": ((), ())}
    graph = Graph("step", (shared, a, b), (), (dot_general(shared, a, **both), dot_general(shared, b, **both)))
    arrays, _ = arguments(graph)
    monkeypatch.setattr(tile, "_OWN_PANELS", 99)  # copies that all threads read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stepping, "share_copies", list)
        before, expected = lower_graph(graph, AVX2), run(compiled(graph), arrays, [])
    after, found = lower_graph(graph, AVX2), run(compiled(graph), arrays, [])
    copies = [k for k in before.kernels if k.args[0].name == "g" and k.name.endswith(COPIES)]
    assert len(copies) == 2 and len(after.kernels) == len(before.kernels) - 1
    assert [x.tobytes() for x in found] == [x.tobytes() for x in expected]
    for written in (copies[0].args[0], copies[0].args[1]):
        (change,) = zero_kernel(written, AVX2)
        assert len(share_copies([copies[0], change, copies[1]])) == 3
    (change,) = zero_kernel(after.kernels[-1].args[-1], AVX2)
    assert share_copies([copies[0], change, copies[1]]) == [copies[0], change]


class Residual(nn.Cell):
    def __init__(self, depth: int):
        super().__init__()
        self.first = nn.Dense(12, 16)
        self.blocks = nn.SequentialCell([nn.Dense(16, 16, activation="relu") for _ in range(depth)])
        self.last = nn.Dense(16, 4)

    def construct(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


def training_step(depth: int) -> Graph:
    net = Residual(depth)
    loss = nn.WithLossCell(net, nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean"))
    step = nn.TrainOneStepCell(loss, nn.Momentum(net.trainable_params(), 0.01, 0.9))
    x, y = Tensor(np.ones((8, 12), np.float32)), Tensor(np.zeros(8, np.int32))
    entry, _ = step.compile_cache.entry((x, y), {})
    return entry.graph


def test_a_deeper_network_has_more_kernels_but_no_more_code() -> None:
    """What is compiled does not grow with the number of equal layers; every kernel still names its own nodes."""
    sizes = []
    for depth in (4, 12):
        step = lower_graph(optimize(training_step(depth)), AVX2)
        functions = emit_step("step", step, AVX2, "x86_64-unknown-linux-gnu").count("define internal")
        sizes.append((len(step.kernels), len({k.body for k in step.kernels}), functions))
        assert len({k.nodes for k in step.kernels if k.nodes}) == len([k for k in step.kernels if k.nodes])
    (few, bodies, functions), (many, *deeper) = sizes
    assert many >= few + 3 * 8
    assert deeper == [bodies, functions]


def test_shared_code_is_shown_with_the_buffers_it_works_on() -> None:
    step = lower_graph(optimize(twice(GRAPHS["dense_bias_relu"]())), AVX2)
    texts = [show(k) for k in step.kernels]
    assert len(texts) == 2 * len({k.body for k in step.kernels})
    assert sum("w_too[" in t and "w[" not in t for t in texts) == sum("w[" in t and "w_too[" not in t for t in texts) == 1
