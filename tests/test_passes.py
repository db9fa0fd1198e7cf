"""The passes one by one, and the pipeline around them: order, skip, limit, checks, dumps, the table."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graphopt import config
from graphopt.errors import VerifyError
from graphopt.ir.graph import Graph, Node, input_node, rebuild, state_node, walk
from graphopt.ir.text import large_constants, parse_graph, print_graph
from graphopt.ir.types import TensorType, f32, i32
from graphopt.opdefs.conv import conv
from graphopt.opdefs.elementwise import alias, gt, maximum, mul, select
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.linalg import matmul
from graphopt.opdefs.math import exp, sigmoid
from graphopt.opdefs.opdef import constant, opdef
from graphopt.opdefs.reduce import reduce_sum
from graphopt.opdefs.shape import full, pad, reshape, transpose
from graphopt.passes.cse import cse, met
from graphopt.passes.dce import dce
from graphopt.passes.gradient import vjp
from graphopt.passes.pipeline import PASSES, Pass, Truth, apart, check, close, explained, optimize, random_array, run_passes
from graphopt.passes.rewrite import Steps
from graphopt.passes.simplify import simplify

Golden = Callable[..., None]
X = input_node("x", TensorType(f32, (4, 3)))
S = state_node("s", TensorType(f32, (4, 3)))


def _graph(*outputs: Node, updates: tuple[tuple[Node, Node], ...] = ()) -> Graph:
    return Graph("g", (X,), (S,), outputs, updates)


def training_step() -> Graph:
    """One dense layer with bias, relu and half the sum of squares; plain gradient descent."""
    x = input_node("x", TensorType(f32, (8, 3)))
    w, b = state_node("w", TensorType(f32, (3, 5))), state_node("b", TensorType(f32, (5,)))
    h = maximum(matmul(x, w) + b, 0.0)
    loss = reduce_sum(h * h, axes=(0, 1)) / 2.0
    grads = vjp([loss], [constant(1.0, f32)], [w, b])
    return Graph("step", (x,), (w, b), (loss,), tuple((s, s - 0.1 * g) for s, g in zip((w, b), grads, strict=True) if g))


# each pass


def test_simplify_golden(golden: Golden) -> None:
    graph = training_step()
    check(simplify(graph, Steps()))
    golden("simplify_step.graph", print_graph(simplify(graph, Steps()), where=False), before=print_graph(graph))


def test_optimize_golden(golden: Golden) -> None:
    graph = training_step()
    golden("optimize_step.graph", print_graph(optimize(graph), where=False), before=print_graph(graph))


def test_cse_merges_equal_nodes_only() -> None:
    a, b = exp(X), exp(X)
    merged = cse(_graph(a, b), Steps())
    assert merged.outputs == (a, a)
    kept = (constant(0.0, f32), constant(-0.0, f32), constant(0, i32), constant([0.0], f32), constant(float("nan"), f32))
    assert cse(_graph(*kept), Steps()).outputs == kept
    same = (constant(np.arange(5000.0)), constant(np.arange(5000.0)), constant(np.arange(5000.0) + 1))
    assert [same.index(n) for n in cse(_graph(*same), Steps()).outputs] == [0, 0, 2]


def test_cse_tells_attrs_apart_by_their_bits() -> None:
    def made(value: object) -> Node:
        return replace(exp(X), attrs={"a": value})

    kept = tuple(made(v) for v in (0, 0.0, -0.0, False, (0,), (0.0,), (-0.0,), "0", f32))
    assert cse(_graph(*kept), Steps()).outputs == kept
    assert len(set(cse(_graph(made((1.5, f32)), made((1.5, f32))), Steps()).outputs)) == 1


def test_twins_meet_before_they_are_differentiated() -> None:
    first, second = exp(alias(X)), exp(alias(alias(X)))
    (merged,) = met([mul(first, second)], [X])
    assert merged.inputs[0] is merged.inputs[1] and merged.inputs[0].inputs == (X,)
    apart = second.inputs[0]
    (kept,) = met([mul(first, second)], [apart])
    assert kept.inputs == (first, second)  # a leaf of the derivative is no twin of anything
    single = mul(exp(alias(X)), constant(2.0, f32) + constant(2.0, f32))
    assert met([single], [X]) == [single]  # nothing is computed twice: nothing is made anew


def test_dce_drops_updates_without_effect_and_keeps_the_signature() -> None:
    graph = _graph(X, updates=((S, S),))
    after = dce(graph, Steps())
    assert (after.inputs, after.state, after.outputs, after.updates) == ((X,), (S,), (X,), ())
    assert dce(after, Steps()) is after
    assert dce(graph, Steps(0)) is graph


def test_update_to_itself_vanishes_in_the_pipeline() -> None:
    assert optimize(_graph(X, updates=((S, alias(S) * 1.0),))).updates == ()


def test_canon_pads_explicitly(golden: Golden) -> None:
    x = input_node("x", TensorType(f32, (2, 3, 8, 8)))
    w = state_node("w", TensorType(f32, (4, 3, 3, 3)))
    padded = pad(x, constant(0.0, f32), low=(0, 0, 1, 1), high=(0, 0, 1, 1), interior=(0,) * 4)
    graph = Graph("conv", (x,), (w,), (conv(padded, w, padding=((1, 0), (0, 2))),))
    after = optimize(graph)
    golden("canon_conv.graph", print_graph(after, where=False), before=print_graph(graph))
    _same_values(graph, after)


def _same_values(before: Graph, after: Graph) -> None:
    leaves = {n: random_array(n.type, np.random.default_rng(0)) for n in before.inputs + before.state}
    for a, b in zip(evaluate_nodes(before.roots, leaves), evaluate_nodes(after.roots, leaves), strict=True):
        assert close(a, b)


# the pipeline


def test_values_stay_and_every_pass_is_checked() -> None:
    graph = training_step()
    with config.override(verify=2):
        after = optimize(graph)
    _same_values(graph, after)
    assert len(walk(after.roots)) < len(walk(graph.roots))


def chaotic() -> Graph:
    """The logistic map again and again: each trip doubles what rounding did, until float32 has no digit in common."""
    y = sigmoid(X)
    for _ in range(16):
        y = mul(y * 4.0, 1.0 - y)
    return _graph(y)


def changing(graph: Graph, change: Callable[[Node, Node], Node]) -> None:
    """A pass that makes something else of (4 y) (1 - y), given 4 y and 1 - y, at level 2 of the checks."""

    def run(graph: Graph, steps: Steps) -> Graph:
        def one(node: Node) -> Node:
            products = node.op == "mul" and node.inputs[1].op == "sub"
            return change(*node.inputs) if products and steps.take("change") else node

        return rebuild(graph, one)

    with np.errstate(all="ignore"):
        run_passes(graph, (Pass("changing", run, "a test"),), replace(config.current(), verify=2))


def test_rounding_is_no_change_of_values() -> None:
    """Other digits of float32, which grow until nothing agrees, are told from other mathematics by float64."""
    graph = chaotic()

    def expanded(a: Node, b: Node) -> Node:
        return a - a * (1.0 - b)

    changing(graph, expanded)
    for wrong in (
        lambda a, b: a * (b * 1.000001),  # too small for float32 to tell from rounding
        lambda a, b: (a + 1e6 - 1e6) * b,  # right in float64, but it costs float32 its digits
        lambda a, b: (a * 1e30) * (b * 1e30) * 1e-30 * 1e-30,  # right in float64, infinite in float32
    ):
        with pytest.raises(VerifyError, match="values: output 0 changed"):
            changing(graph, wrong)


@pytest.mark.parametrize(("nearly", "near"), [(True, True), (False, False)])
def test_a_jump_is_rounding_only_where_noise_jumps_too(nearly: bool, near: bool) -> None:
    """Some of 1,000 numbers are taken for too small to count: right when all of them nearly are, a fault when none is."""
    x, y = (input_node(n, TensorType(f32, (1000,))) for n in "xy")
    counted = select(gt(x, y), full((1000,), 1.0, f32), full((1000,), 0.0, f32))
    graph = Graph("counted", (x, y), (), (reduce_sum(counted, axes=(0,)),))
    values = np.random.default_rng(0).uniform(1, 2, 1000).astype(np.float32)
    below = values - 4 * np.spacing(values) if nearly else values * np.float32(0.5)
    truth = Truth({x: values, y: below})
    (expected,) = evaluate_nodes(graph.roots, truth.leaves)
    assert expected == 1000 and not apart([expected], [expected])
    few, most = expected - np.float32(30), expected * np.float32(-1)
    assert explained(graph, 0, truth, expected, few) is near
    assert not explained(graph, 0, truth, expected, most)


def test_values_that_nobody_needs_any_more_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[weakref.ref[np.ndarray]] = []

    def evaluate(x: np.ndarray) -> np.ndarray:
        made = np.exp(x)
        seen.append(weakref.ref(made))
        assert sum(r() is not None for r in seen) <= 2
        return made

    monkeypatch.setitem(opdef("exp").rules, "numpy", evaluate)
    y = X
    for _ in range(6):
        y = exp(y)
    evaluate_nodes([y], {X: np.full(X.shape, -50, np.float32)})
    assert len(seen) == 6


def test_the_meaning_of_a_sum_does_not_depend_on_where_its_axes_lie() -> None:
    values = np.random.default_rng(0).normal(1, 1e-3, (2, 1 << 16)).astype(np.float32)
    exact = values.astype(np.float64).sum(1)
    for array, axes in ((values, (1,)), (np.ascontiguousarray(values.T), (0,))):
        node = reduce_sum(input_node("x", TensorType(f32, array.shape)), axes=axes)
        (found,) = evaluate_nodes([node], {node.inputs[0]: array})
        assert found.dtype == np.float32 and (found == exact.astype(np.float32)).all()


def test_every_pass_has_a_name_of_its_own_and_a_reason() -> None:
    assert len({p.name for p in PASSES}) == len(PASSES)
    assert all(len(p.why) > 10 and p.run.__doc__ for p in PASSES)


def test_skip_and_limit() -> None:
    graph = _graph(alias(exp(X)) + alias(exp(X)))
    with config.override(skip=tuple(p.name for p in PASSES)):
        assert optimize(graph) is graph
    with config.override(limit=0):
        assert optimize(graph) is graph
    sizes = []
    for limit in range(4):
        with config.override(limit=limit):
            sizes.append(len(walk(optimize(graph).roots)))
    assert sizes == [6, 5, 4, 3]


def test_dumps_can_be_read_back(tmp_path: Path) -> None:
    graph = training_step()
    with config.override(dump=str(tmp_path / "stages")):
        after = optimize(graph)
    files = sorted(p.name for p in (tmp_path / "stages").iterdir())
    assert files == ["00-traced.graph"] + [f"{k:02d}-{p.name}.graph" for k, p in enumerate(PASSES, 1)]
    last = (tmp_path / "stages" / files[-1]).read_text()
    assert last == print_graph(after) == print_graph(parse_graph(last, large_constants(after)))


def test_the_table_and_the_graphs_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with config.override(debug=3):
        optimize(training_step())
    table = capsys.readouterr().err
    assert table.startswith("passes of step:\n  pass") and all(p.name in table for p in PASSES)
    with config.override(debug=4):
        optimize(training_step())
    assert "after simplify:\ngraph step(" in capsys.readouterr().err
    with config.override(debug=2):
        optimize(training_step())
    assert capsys.readouterr().err == ""


def _breaking(graph: Graph, steps: Steps) -> Graph:
    """Two harmless rewrites, then one that gives a node a wrong type."""
    (out,) = graph.outputs
    for name in ("fine", "fine_too"):
        if steps.take(name):
            out = alias(out)
    if steps.take("bad_transpose"):
        out = replace(transpose(out, perm=(1, 0)), type=out.type)
    return replace(graph, outputs=(out,))


def _changing(graph: Graph, steps: Steps) -> Graph:
    return replace(graph, outputs=(graph.outputs[0] * 2.0,)) if steps.take("double") else graph


@pytest.mark.parametrize(
    ("run", "level", "message"),
    [
        (
            _breaking,
            1,
            "typed: %2 is f32[4,3], its op says f32[3,4]\n  after pass layout, rewrite 3 (bad_transpose)\n"
            "  reproduce: graphopt opt 00-traced.graph -p layout --limit 3",
        ),
        (_changing, 2, "values: output 0 changed\n  after pass layout, rewrite 1 (double)"),
        (lambda g, s: replace(g, inputs=()), 1, "leaves: input 'x' is used but is not in the signature\n  after pass layout\n"),
        (lambda g, s: replace(g, state=()), 1, "signature: the inputs or the state changed\n  after pass layout\n"),
        (lambda g, s: replace(g, outputs=(reshape(X, shape=(12,)),)), 1, "signature: the types of the outputs changed"),
    ],
)
def test_a_pass_that_breaks_a_graph_is_named(run: Callable[[Graph, Steps], Graph], level: int, message: str) -> None:
    with pytest.raises(VerifyError) as caught:
        run_passes(_graph(X), (Pass("layout", run, "it breaks things"),), config.Config(verify=level))
    assert str(caught.value).startswith(message)


def test_a_wrong_graph_is_refused_before_the_first_pass() -> None:
    with config.override(verify=1), pytest.raises(VerifyError, match="leaves: input 'x'"):
        optimize(Graph("g", (), (), (X,)))
