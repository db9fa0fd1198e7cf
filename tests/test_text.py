"""Graph text: what is printed is read back as the same graph, bit for bit."""

from __future__ import annotations

import struct
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import GraphError, VerifyError
from graphopt.ir.graph import Graph, Node, input_node, state_node, walk
from graphopt.ir.text import large_constants, node_names, parse_graph, print_graph
from graphopt.ir.types import DTYPES, DType, TensorType, f32, f64, i32
from graphopt.opdefs.elementwise import add, cast, special_values
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.linalg import matmul
from graphopt.opdefs.opdef import constant
from graphopt.opdefs.reduce import reduce_sum
from graphopt.where import Where, at
from tests.graphs import graphs, values


def small_step() -> Graph:
    """y = x @ w, w <- w - 0.1 * w, on lines 31 and 32 of net.py."""
    x = input_node("x", TensorType(f32, (4, 3)))
    w = state_node("fc.weight", TensorType(f32, (3, 2)))
    with at(Where("/home/user/net.py", 31, "fc")):
        y = matmul(x, w)
    with at(Where("/home/user/net.py", 32)):
        loss = reduce_sum(y, axes=(0, 1))
        after = w - 0.1 * w
    return Graph("step", (x,), (w,), (loss, y), ((w, after),))


def test_golden(golden) -> None:  # type: ignore[no-untyped-def]
    golden("text_step.graph", print_graph(small_step()))


@given(graphs())
def test_round_trip_of_random_graphs(graph: Graph) -> None:
    text = print_graph(graph)
    again = parse_graph(text, large_constants(graph))
    assert print_graph(again) == text
    a = evaluate_nodes(graph.roots, values(graph))
    leaves = dict(zip(again.inputs + again.state, values(graph).values(), strict=True))
    for one, other in zip(a, evaluate_nodes(again.roots, leaves), strict=True):
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes()


def _with_attrs(**attrs: object) -> Graph:
    node = Node("anything", (), MappingProxyType(attrs), TensorType(f32, ()))
    return Graph("g", (), (), (node,))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(DTYPES),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)


def _exact(value: object) -> object:
    if isinstance(value, tuple):
        return tuple(_exact(v) for v in value)
    return (type(value), struct.pack("d", value) if isinstance(value, float) else value)


@given(PLAIN)
def test_attrs_come_back_exactly(value: object) -> None:
    text = print_graph(_with_attrs(a=value, b=1))
    again = parse_graph(text)
    assert _exact(again.outputs[0].attrs["a"]) == _exact(value)
    assert print_graph(again) == text


@given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
def test_any_name_comes_back(name: str, x: str, w: str) -> None:
    leaves = [input_node(x, TensorType(f32, ())), state_node(w + "'", TensorType(f32, (2, 0)))]
    if x == w + "'":
        return
    graph = Graph(name, (leaves[0],), (leaves[1],), tuple(leaves))
    again = parse_graph(print_graph(graph))
    assert (again.name, again.inputs[0].attrs["name"], again.state[0].attrs["name"]) == (name, x, w + "'")


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.short)
def test_constants_come_back_bit_for_bit(dtype: DType) -> None:
    bits = np.random.default_rng(0).integers(0, 256, 12 * dtype.itemsize, np.uint8)
    strange = bits.view(dtype.numpy) if dtype.kind != "b" else bits > 127
    every = np.concatenate([special_values(dtype), strange])
    if dtype.is_float:  # NaN with all bits set, and without the sign
        nan = np.full(dtype.itemsize, 255, np.uint8).view(dtype.numpy)
        every = np.concatenate([every, nan, -nan])
    parts = [every[k : k + 8] for k in range(0, len(every), 8)] + [every[:1].reshape(()), every[:6].reshape(2, 1, 3), every[:0]]
    graph = Graph("constants", (), (), tuple(constant(p, dtype) for p in parts))
    text = print_graph(graph)
    again = parse_graph(text)
    assert print_graph(again) == text
    for part, node in zip(parts, again.outputs, strict=True):
        found = node.attrs["value"]
        assert found.dtype == dtype.numpy and found.shape == part.shape and found.tobytes() == part.tobytes()
        assert not found.flags.writeable


def test_large_constants_stand_as_hashes() -> None:
    array = np.arange(100, dtype=np.float32)
    graph = Graph("big", (), (), (constant(array),))
    text = print_graph(graph)
    assert len(text) < 150
    with pytest.raises(GraphError, match="line 2: the array of constant #[0-9a-f]{32} is not given"):
        parse_graph(text)
    again = parse_graph(text, large_constants(graph))
    np.testing.assert_array_equal(again.outputs[0].attrs["value"], array)
    array[7] = -array[7]
    other = Graph("big", (), (), (constant(array),))
    assert print_graph(other) != text


def test_the_text_is_a_function_of_content_alone() -> None:
    a, b = small_step(), small_step()
    assert a.outputs[0] is not b.outputs[0]
    assert print_graph(a) == print_graph(b)
    with at(Where("other.py", 1)):
        moved = small_step()
    assert print_graph(moved) != "" and "#" not in print_graph(moved, where=False)
    assert print_graph(a, where=False) == print_graph(b, where=False)


def test_what_differs_prints_differently() -> None:
    texts = [print_graph(_with_attrs(a=v)) for v in (0, False, 0.0, -0.0, "0", None, (0,), (0.0,), ((0,),), float("nan"), f32)]
    assert len(set(texts)) == len(texts)
    x = input_node("x", TensorType(f64, (2,)))
    kinds = [Graph("g", (x,), (), (n,)) for n in (cast(x, dtype=f32), cast(x, dtype=i32), add(x, x), x)]
    assert len({print_graph(g) for g in kinds}) == len(kinds)


def test_a_shared_node_is_not_its_twin() -> None:
    x = input_node("x", TensorType(f32, ()))
    shared = x + x
    assert print_graph(Graph("g", (x,), (), (shared + shared,))) != print_graph(Graph("g", (x,), (), ((x + x) + (x + x),)))


def test_long_headers_are_wrapped() -> None:
    state = tuple(state_node(f"layers.{k}.weight", TensorType(f32, (128, 128))) for k in range(6))
    graph = Graph("long", (), state, ())
    text = print_graph(graph)
    assert max(map(len, text.splitlines())) <= 110
    assert print_graph(parse_graph(text)) == text


def test_names_in_the_text() -> None:
    graph = small_step()
    names = node_names(graph)
    text = print_graph(graph)
    for node in walk(graph.roots):
        assert f"{names[node]}: {node.type}" in text


def test_two_leaves_of_one_name_are_refused() -> None:
    twins = (input_node("x", TensorType(f32, ())), input_node("x", TensorType(f32, ())))
    with pytest.raises(VerifyError, match="names: two leaves of graph g are called %x"):
        print_graph(Graph("g", twins, (), twins))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grph g():\n  return\n", "line 1: expected graph, found 'grph'"),
        ("graph g(%x: f32[]):\n  return %y\n", "line 2: %y is used before it is defined"),
        ("graph g(%x: f31[]):\n  return %x\n", "line 1: no such dtype: 'f31'"),
        ("graph g(%x: f32[], %x: f32[]):\n  return %x\n", "line 1: %x is defined twice"),
        ("graph g():\n  %0: f32[] = f(a=[])\n  return %0\n", "line 2: expected a value, found '['"),
        ("graph g():\n  %0: f32[2] = constant([1.0])\n  return %0\n", "line 2: a constant of type f32[2] has 2 elements"),
        ("graph g():\n  return %0 ?\n", "line 2: cannot read '?'"),
        ("graph g(", "line 1: expected node, found 'the end'"),
    ],
)
def test_unreadable_text_names_its_line(text: str, message: str) -> None:
    with pytest.raises(GraphError) as caught:
        parse_graph(text)
    assert message in str(caught.value)
