"""The gradient pass: paths, sums, errors, cost. The derivative of each op is tested in test_ops.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from graphopt.errors import CompileError, DTypeError, GraphError, ShapeError
from graphopt.ir.graph import Graph, Node, input_node, state_node, walk
from graphopt.ir.text import print_graph
from graphopt.ir.types import TensorType, f32, f64, i32
from graphopt.opdefs.elementwise import cast, gt, stop_gradient
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.index import gather
from graphopt.opdefs.linalg import matmul
from graphopt.opdefs.math import tanh
from graphopt.opdefs.opdef import constant, full, opdef
from graphopt.opdefs.reduce import reduce_sum
from graphopt.passes.gradient import gradient, vjp
from graphopt.passes.pipeline import check, optimize
from graphopt.where import Where, at
from tests.graphs import graphs, values

X = input_node("x", TensorType(f64, (3,)))
Y = input_node("y", TensorType(f64, (3,)))
SCALAR = TensorType(f64, ())
A, B = np.array([1.0, 2.0, 3.0]), np.array([-1.0, 0.5, 2.0])


def _ones(x: Node) -> Node:
    return full(x.shape, 1, x.dtype)


def _value(node: Node | None) -> np.ndarray:
    assert node is not None
    return evaluate_nodes([node], {X: A, Y: B})[0]


def test_cotangents_of_all_paths_are_summed() -> None:
    z = X * X + X
    (g,) = vjp([z], [_ones(z)], [X])
    np.testing.assert_array_equal(_value(g), 2 * A + 1)


def test_several_outputs_are_summed_and_none_contributes_nothing() -> None:
    p, q = X * 2.0, X * Y
    np.testing.assert_array_equal(_value(vjp([p, q], [_ones(p), _ones(q)], [X])[0]), 2 + B)
    np.testing.assert_array_equal(_value(vjp([p, q], [_ones(p), None], [X])[0]), np.full(3, 2.0))
    assert vjp([p, q], [_ones(p), None], [Y]) == [None]
    np.testing.assert_array_equal(_value(vjp([p, p], [_ones(p), _ones(p)], [X])[0]), np.full(3, 4.0))


def test_without_a_path_there_is_no_gradient() -> None:
    z = X * 2.0
    assert vjp([z], [_ones(z)], [Y]) == [None]
    assert vjp([], [], [X]) == [None]
    cut = stop_gradient(X) * Y
    assert vjp([cut], [_ones(cut)], [X])[0] is None


def test_an_output_is_its_own_gradient() -> None:
    ct = _ones(X)
    assert vjp([X], [ct], [X]) == [ct]


def test_inner_nodes_and_nodes_above_each_other() -> None:
    inner = X * Y
    z = inner * inner
    gi, gx, again = vjp([z], [_ones(z)], [inner, X, inner])
    np.testing.assert_array_equal(_value(gi), 2 * A * B)
    np.testing.assert_array_equal(_value(gx), 2 * A * B * B)
    assert again is gi


def test_only_nodes_on_a_path_are_visited(monkeypatch: pytest.MonkeyPatch) -> None:
    z = X * 2.0 + tanh(Y)
    rules = dict(opdef("tanh").rules)
    rules.pop("vjp")
    monkeypatch.setattr(opdef("tanh"), "rules", rules)
    monkeypatch.setattr(opdef("tanh"), "no_vjp_reason", "it is taken away here")
    np.testing.assert_array_equal(_value(vjp([z], [_ones(z)], [X])[0]), np.full(3, 2.0))
    with at(Where("net.py", 31, "fc")):
        w = tanh(Y)
    with pytest.raises(DTypeError) as caught:
        vjp([w], [_ones(w)], [Y])
    what = "tanh: has no derivative: it is taken away here\n  called at net.py:31 in fc\n  input 0: f64[3]"
    assert str(caught.value).startswith(what)
    assert isinstance(caught.value, GraphError) and "hint: stop_gradient" in str(caught.value)


def test_integers_and_bools_end_the_walk_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = {k: v for k, v in opdef("gt").rules.items() if k != "vjp"}
    monkeypatch.setattr(opdef("gt"), "rules", rules)
    mask = cast(gt(X, 0.0), dtype=f64)
    z = mask * X
    np.testing.assert_array_equal(_value(vjp([z], [_ones(z)], [X])[0]), np.ones(3))
    above = gt(X, 0.0)
    assert vjp([above], [_ones(above)], [X]) == [None]


def test_the_gradient_passes_through_casts_to_integers() -> None:
    z = cast(cast(X, dtype=i32), dtype=f64) * 2.0
    np.testing.assert_array_equal(_value(vjp([z], [_ones(z)], [X])[0]), np.full(3, 2.0))


def test_an_integer_has_an_integer_gradient() -> None:
    k = input_node("k", TensorType(i32, (2,)))
    z = k * k
    (g,) = vjp([z], [_ones(z)], [k])
    assert g is not None and g.dtype is i32
    (found,) = evaluate_nodes([g], {k: np.array([3, 4], np.int32)})
    np.testing.assert_array_equal(found, [6, 8])


def test_gradient_nodes_carry_the_forward_line() -> None:
    with at(Where("net.py", 5)):
        h = tanh(X)
    with at(Where("net.py", 6)):
        z = h * Y
    before = set(walk([z]))
    with at(Where("train.py", 99)):
        ct = _ones(z)
        (g,) = vjp([z], [ct], [X])
    assert g is not None
    made = [n for n in walk([g]) if n not in before and n not in walk([ct])]
    assert {n.where.line for n in made if n.where} == {5, 6}


def test_gradient_of_gradient_of_gradient() -> None:
    z = X * X * X * X
    for _ in range(3):
        (g,) = vjp([z], [_ones(z)], [X])
        assert g is not None
        z = g
    np.testing.assert_allclose(_value(z), 24 * A)


@pytest.mark.parametrize(
    ("ct", "error", "message"),
    [
        (full((2,), 1, f64), ShapeError, r"cotangent of shape \(2,\) for an output of shape \(3,\)"),
        (full((3,), 1, f32), DTypeError, "cotangent of dtype Float32 for an output of dtype Float64"),
    ],
)
def test_a_cotangent_of_another_type_is_refused(ct: Node, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        vjp([X * 2.0], [ct], [X])


def test_a_wrong_derivative_rule_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    z = tanh(X)
    monkeypatch.setitem(opdef("tanh").rules, "vjp", lambda ct, out, x: (reduce_sum(ct, axes=(0,)),))
    with pytest.raises(CompileError, match=r"derivative of tanh: cotangent 0 is f64\[\], its input is f64\[3\]"):
        vjp([z], [_ones(z)], [X])
    monkeypatch.setitem(opdef("tanh").rules, "vjp", lambda ct, out, x: ())
    with pytest.raises(CompileError, match="derivative of tanh: 0 cotangents for 1 inputs"):
        vjp([z], [_ones(z)], [X])


def test_gradient_of_a_graph() -> None:
    w = state_node("w", TensorType(f64, (3, 2)))
    unused = state_node("unused", TensorType(f64, (2,)))
    x = input_node("x", TensorType(f64, (4, 3)))
    graph = Graph("net", (x,), (w, unused), (matmul(x, w),), ((unused, unused * 2.0),))
    made = gradient(graph, [w, unused])
    check(made)
    assert (made.inputs, made.state, made.updates) == (graph.inputs, graph.state, graph.updates)
    array = np.arange(12.0).reshape(4, 3)
    found = evaluate_nodes(made.outputs, {x: array, w: np.ones((3, 2)), unused: np.ones(2)})
    np.testing.assert_array_equal(found[0], array.T @ np.ones((4, 2)))
    np.testing.assert_array_equal(found[1], np.zeros(2))


def test_gradient_of_a_graph_with_a_sensitivity_as_input() -> None:
    sens = input_node("sens", TensorType(f64, (3,)))
    made = gradient(Graph("net", (X,), (), (X * X,)), [X], [sens * 2.0])
    check(made)
    assert made.inputs == (X, sens)
    (found,) = evaluate_nodes(made.outputs, {X: A, sens: B})
    np.testing.assert_array_equal(found, 4 * A * B)


def test_golden(golden) -> None:  # type: ignore[no-untyped-def]
    x = input_node("x", TensorType(f32, (4, 3)))
    w = state_node("w", TensorType(f32, (3, 2)))
    graph = Graph("net", (x,), (w,), (reduce_sum(tanh(matmul(x, w)), axes=(0, 1)),))
    made = gradient(graph, [w])
    golden("gradient_dense.graph", print_graph(optimize(made), where=False), before=print_graph(graph, where=False))


@given(graphs())
def test_random_graphs_have_valid_gradients(graph: Graph) -> None:
    found = gradient(graph, graph.inputs + graph.state)
    check(found)
    assert [g.type for g in found.outputs] == [n.type for n in graph.inputs + graph.state]
    evaluate_nodes(found.roots, values(graph))


def test_deep_graphs_need_no_recursion_and_visit_each_node_once(monkeypatch: pytest.MonkeyPatch) -> None:
    visits = []
    rule = opdef("tanh").rules["vjp"]
    monkeypatch.setitem(opdef("tanh").rules, "vjp", lambda ct, out, x: visits.append(out) or rule(ct, out, x))
    z = X
    for _ in range(3000):
        z = tanh(z) + z
    (g,) = vjp([z], [_ones(z)], [X])
    assert g is not None
    assert len(visits) == len(set(visits)) == 3000
    assert len(walk([g])) < 12 * 3000


def test_repeated_indices_add_up() -> None:
    table = gather(X, constant(np.array([0, 0, 2], np.int32)), axis=0)
    np.testing.assert_array_equal(_value(vjp([table], [_ones(table)], [X])[0]), [2.0, 0.0, 1.0])
