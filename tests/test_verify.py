"""Each rule of the verifier is broken once, and reported by name."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from graphopt.errors import VerifyError
from graphopt.ir.graph import Graph, Node, input_node, state_node
from graphopt.ir.types import TensorType, bool_, f32, i32, tuple_of
from graphopt.ir.verify import verify
from graphopt.passes.pipeline import check
from tests.graphs import graphs

F = TensorType(f32, (2, 3))
X = input_node("x", F)
W = state_node("w", F)


def _node(op: str, *inputs: Node, type: TensorType = F, **attrs: Any) -> Node:
    return Node(op, inputs, MappingProxyType(attrs), type)


def _graph(*outputs: Node, inputs: tuple[Node, ...] = (X,), state: tuple[Node, ...] = (W,), updates: Any = ()) -> Graph:
    return Graph("g", inputs, state, outputs, updates)


def _constant(value: Any, type: TensorType = F) -> Node:
    return Node("constant", (), MappingProxyType({"value": value}), type)


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _cycle() -> Graph:
    first = _node("neg", X)
    second = _node("neg", first)
    object.__setattr__(first, "inputs", (second,))
    return _graph(second)


P = input_node("p", TensorType(bool_, ()))
_ONE = Graph("one", (), (), (_constant(_frozen(np.ones((2, 3), np.float32))),))

WRONG: list[tuple[str, Callable[[], Graph]]] = [
    ("signature: <add f32[2,3]> stands among the input leaves of graph g", lambda: _graph(inputs=(_node("add", X, X),))),
    ("signature: <input f32[2,3]> stands among the state leaves of graph g", lambda: _graph(state=(X,))),
    ("names: two leaves of graph g are called %x", lambda: _graph(X, state=(state_node("x", F),))),
    ("leaves: input 'y' is used but is not in the signature", lambda: _graph(_node("neg", input_node("y", F)))),
    ("leaves: state 'x' is used but is not in the signature", lambda: _graph(state_node("x", F))),
    ("acyclic: %0 uses %1, which comes after it", _cycle),
    ("known: %0 uses 'nge', which is no op", lambda: _graph(_node("nge", X))),
    ("plain_attrs: axes=[0] of %0 (reduce_sum) is no plain data", lambda: _graph(_node("reduce_sum", X, axes=[0]))),
    ("plain_attrs: shape=(2, [3]) of %0 (reshape) is no plain data", lambda: _graph(_node("reshape", X, shape=(2, [3])))),
    (
        "results: input 0 of %1 (neg) is a tuple; an item must pick one of its parts",
        lambda: _graph(_node("neg", _node("branch", P, type=tuple_of([F]), then=_ONE, other=_ONE)), inputs=(P,)),
    ),
    ("constant: %0 holds float, expected an array", lambda: _graph(_constant(1.0))),
    (
        "constant: %0 is f32[2,3], its array is float32 of shape (3, 2)",
        lambda: _graph(_constant(_frozen(np.ones((3, 2), np.float32)))),
    ),
    ("constant: the array of %0 can be written or is not contiguous", lambda: _graph(_constant(np.ones((2, 3), np.float32)))),
    (
        "same_shape: %1 (add) is f32[2,3], its input 1 is f32[3]",
        lambda: _graph(_node("add", X, _constant(_frozen(np.ones(3, np.float32)), TensorType(f32, (3,))))),
    ),
    ("typed: %0 is f32[2], its op says f32[3]", lambda: _graph(_node("reduce_sum", X, type=TensorType(f32, (2,)), axes=(0,)))),
    ("typed: %0 is i32[2,3], its op says f32[2,3]", lambda: _graph(_node("neg", X, type=TensorType(i32, (2, 3))))),
    ("typed: %0 is refused by its op reshape: 6 elements", lambda: _graph(_node("reshape", X, shape=(7,)))),
    ("typed: %0 is refused by its op reshape: reshape() missing 1 required", lambda: _graph(_node("reshape", X))),
    ("update: <input f32[2,3]> is updated but is no state of graph g", lambda: _graph(updates=((X, W),))),
    ("update: %w is updated twice", lambda: _graph(updates=((W, X), (W, X)))),
    (
        "update: %w is f32[2,3], its new value %0 is f32[3]",
        lambda: _graph(updates=((W, _node("reduce_sum", X, type=TensorType(f32, (3,)), axes=(0,))),)),
    ),
]


@pytest.mark.parametrize(("message", "make"), WRONG, ids=[m.split(":")[0] for m, _ in WRONG])
def test_a_broken_rule_is_named(message: str, make: Callable[[], Graph]) -> None:
    with pytest.raises(VerifyError) as caught:
        check(make())
    assert str(caught.value).startswith(message)


def test_every_rule_of_the_manual_is_broken_above() -> None:
    manual = [line.split()[0] for line in (verify.__doc__ or "").splitlines() if line.startswith("    ") and "  " in line.strip()]
    broken = {message.split(":")[0] for message, _ in WRONG}
    assert broken == {word for word in manual if not word.endswith(":")}


@given(graphs())
def test_random_graphs_are_valid(graph: Graph) -> None:
    check(graph)


def test_without_the_ops_only_the_form_is_checked() -> None:
    verify(_graph(_node("anything", X, type=TensorType(i32, (7,)))))
