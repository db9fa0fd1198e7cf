"""Forward mode on graphs: its size, derivatives of one's own, what it refuses. Each op's own is in test_ops.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from graphopt.errors import DTypeError, TraceError
from graphopt.ir.graph import Graph, Node, input_node, walk
from graphopt.ir.text import print_graph
from graphopt.ir.types import TensorType, f32, f64, i32
from graphopt.opdefs.conv import conv
from graphopt.opdefs.elementwise import alias, cast, maximum, sign, stop_gradient
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.index import gather
from graphopt.opdefs.linalg import matmul
from graphopt.opdefs.math import tanh
from graphopt.opdefs.opdef import opdef
from graphopt.opdefs.reduce import reduce_max, reduce_prod, reduce_sum
from graphopt.opdefs.window import window_max
from graphopt.passes.forward import jvp
from graphopt.passes.gradient import Derivative, vjp
from graphopt.passes.pipeline import check, optimize

Golden = Callable[..., None]
Types = tuple[TensorType, ...]


def forward(name: str, build: Callable[..., Node], *types: TensorType) -> Graph:
    """A function with its tangent by all float inputs."""
    leaves = [input_node(f"x{k}", t) for k, t in enumerate(types)]
    y = build(*leaves)
    wrt = [n for n in leaves if n.dtype.is_float]
    tangents = [input_node(f"t{k}", n.type) for k, n in enumerate(wrt)]
    (slope,) = jvp([y], wrt, tangents)
    assert slope is not None
    return Graph(name, (*leaves, *tangents), (), (y, slope))


def f(*shape: int) -> TensorType:
    return TensorType(f32, shape)


CHAINS: dict[str, tuple[Callable[..., Node], Types]] = {
    "dense": (lambda x, w: tanh(matmul(x, w)), (f(4, 3), f(3, 5))),
    "conv": (
        lambda x, w: reduce_sum(conv(x, w, padding=((1, 1), (1, 1))), axes=(0, 2, 3)),
        (f(2, 3, 8, 8), f(4, 3, 3, 3)),
    ),
    "gather": (lambda x, w, i: gather(x, i, axis=0) * w, (f(4, 3), f(5, 3), TensorType(i32, (5,)))),
    "kinks": (lambda x: reduce_max(maximum(x, 0.0), axes=(1,)), (f(4, 3),)),
    "pooling": (lambda x: window_max(x, (2, 2), (2, 2)), (f(1, 4, 4),)),
    "product": (lambda x: reduce_prod(x, axes=(1,)), (f(2, 4),)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_forward_golden(name: str, golden: Golden) -> None:
    """After the passes a tangent is what one would write by hand: no transposes of transposes, nothing twice."""
    build, types = CHAINS[name]
    graph = forward(name, build, *types)
    check(graph)
    golden(f"forward_{name}.graph", print_graph(optimize(graph), where=False))


def test_a_tangent_costs_no_more_nodes_than_the_function() -> None:
    """A long chain: forward mode adds a bounded number of nodes for each op."""
    x = input_node("x", f(3))
    y = x
    for _ in range(50):
        y = tanh(y * x)
    (slope,) = jvp([y], [x], [input_node("t", x.type)])
    assert slope is not None
    plain = len(walk([y]))
    both = len(walk(optimize(Graph("chain", (x,), (), (y, slope))).roots))
    assert both <= 5 * plain


def test_no_path_is_no_tangent() -> None:
    x, t = input_node("x", f(3)), input_node("t", f(3))
    y = input_node("y", f(3))
    assert jvp([y, stop_gradient(x), sign(x) * y], [x], [t]) == [None, None, None]
    assert jvp([x], [x], [t]) == [t]


def test_casts_hand_tangents_on_as_reverse_mode_does() -> None:
    x = input_node("x", TensorType(f64, (2,)))
    t = input_node("t", x.type)
    (slope,) = jvp([cast(cast(x, dtype=i32), dtype=f64) * 2.0], [x], [t])
    assert slope is not None
    (value,) = evaluate_nodes([slope], {x: np.array([1.5, 2.5]), t: np.array([1.0, -3.0])})
    assert value.tolist() == [2.0, -6.0]


def test_an_op_without_a_derivative_is_named() -> None:
    x = input_node("x", f(3))
    definition = opdef("tanh")
    rules = dict(definition.rules)
    try:
        del definition.rules["vjp"]
        definition.no_vjp("a test took it")
        with pytest.raises(DTypeError, match="tanh: has no derivative: a test took it"):
            jvp([tanh(x)], [x], [x])
    finally:
        definition.rules.update(rules)
        definition.no_vjp("")


X = input_node("x", TensorType(f64, (3,)))
T = input_node("t", X.type)
A, B = np.array([1.0, 2.0, 3.0]), np.array([-1.0, 0.5, 2.0])


def own(rule: Callable[[Node], Node]) -> tuple[Node, Derivative]:
    """exp(x), for all its derivative knows: cut off, with a rule of its own."""
    source = alias(X)
    cut = stop_gradient(tanh(source))
    return cut, Derivative((source,), (cut,), lambda cts: [None if cts[0] is None else rule(cts[0])])


def test_a_derivative_of_ones_own_is_transposed() -> None:
    cut, part = own(lambda ct: ct * 3.0)
    y = cut * cut
    (slope,) = jvp([y], [X], [T], lambda: (part,))
    (pulled,) = vjp([y], [T], [X], (part,))
    assert slope is not None and pulled is not None
    forward_value, reverse_value = evaluate_nodes([slope, pulled], {X: A, T: B})
    np.testing.assert_allclose(forward_value, 6 * np.tanh(A) * B, rtol=1e-15)
    np.testing.assert_allclose(reverse_value, forward_value, rtol=1e-15)


def test_a_derivative_of_ones_own_that_is_not_linear_is_refused() -> None:
    cut, part = own(lambda ct: ct * ct)
    with pytest.raises(TraceError, match="must be linear in the gradient it receives"):
        jvp([cut], [X], [T], lambda: (part,))


def test_a_rule_is_asked_once_for_all_outputs() -> None:
    """Two outputs, one of which feeds the other's user: the rule sees both cotangents at once."""
    asked = []
    source = alias(X)
    first, second = stop_gradient(tanh(source)), stop_gradient(source * 2.0)

    def rule(cts: object) -> list[Node | None]:
        asked.append(cts)
        return [T]

    part = Derivative((source,), (first, second), rule)
    (found,) = vjp([tanh(first) * second], [T], [X], (part,))
    assert len(asked) == 1 and None not in asked[0]  # type: ignore[operator]
    assert found is T
