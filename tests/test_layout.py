"""The order of images: which is chosen, that values stay, and that the images really lie in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from graphopt import config
from graphopt.compile import compile_graph
from graphopt.ir.graph import Graph, Node, input_node, state_node, walk
from graphopt.ir.types import DType, TensorType, f16, f32, f64
from graphopt.opdefs.conv import conv, conv_general, same_padding
from graphopt.opdefs.elementwise import maximum, mul
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.linalg import dot_general
from graphopt.opdefs.math import rsqrt, tanh
from graphopt.opdefs.opdef import constant
from graphopt.opdefs.reduce import reduce_sum
from graphopt.opdefs.shape import broadcast, concat, reshape, reverse, slice_, transpose
from graphopt.opdefs.window import window_max, window_mean
from graphopt.passes.canon import canon
from graphopt.passes.cse import cse
from graphopt.passes.gradient import vjp
from graphopt.passes.layout import layout
from graphopt.passes.pipeline import check, random_array
from graphopt.passes.rewrite import Steps
from graphopt.passes.simplify import simplify

CHANNELS_LAST = {3: (0, 2, 1), 4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}
BATCH_LAST = {3: (1, 2, 0), 4: (1, 2, 3, 0)}


class Net:
    """Collects weights while a network is written down."""

    def __init__(self, x: tuple[int, ...], dtype: DType = f64):
        self.x = input_node("x", TensorType(dtype, x))
        self.weights: list[Node] = []

    def weight(self, *shape: int) -> Node:
        self.weights.append(state_node(f"w{len(self.weights)}", TensorType(self.x.dtype, shape)))
        return self.weights[-1]

    def conv(self, x: Node, o: int, k: int, stride: int = 1, same: bool = True, groups: int = 1, dilation: int = 1) -> Node:
        n = x.type.rank - 2
        w = self.weight(o, x.shape[1] // groups, *(k,) * n)
        strides, spread = (stride,) * n, (dilation,) * n
        padding = same_padding(x.shape[2:], w.shape[2:], strides, spread) if same else ((0, 0),) * n
        return conv(x, w, strides, padding, spread, groups)

    def norm(self, x: Node) -> Node:
        axes = tuple(k for k in range(x.type.rank) if k != 1)
        count = float(x.type.size // x.shape[1])

        def spread(v: Node) -> Node:
            return broadcast(v, shape=x.shape, axes=(1,))

        centred = x - spread(reduce_sum(x, axes=axes) / count)
        deviation = rsqrt(reduce_sum(mul(centred, centred), axes=axes) / count + 1e-5)
        return centred * spread(deviation) * spread(self.weight(x.shape[1])) + spread(self.weight(x.shape[1]))

    def dense(self, x: Node, o: int) -> Node:
        return dot_general(x, self.weight(o, x.shape[1]), contract=((1,), (1,)), batch=((), ()))

    def step(self, out: Node) -> Graph:
        """A step of gradient descent on the sum of squares, in the forms that `layout` meets."""
        loss = reduce_sum(mul(out, out), axes=tuple(range(out.type.rank)))
        grads = vjp([loss], [constant(1.0, out.dtype)], self.weights)
        updates = tuple((w, w - g * 0.01) for w, g in zip(self.weights, grads, strict=True) if g is not None)
        graph = Graph("net", (self.x,), tuple(self.weights), (loss, out), updates)
        for step in (simplify, canon, cse, simplify, cse):
            graph = step(graph, Steps())
        return graph


def relu(x: Node) -> Node:
    return maximum(x, 0.0)


def residual() -> Graph:
    net = Net((2, 3, 8, 6))
    x = relu(net.norm(net.conv(net.x, 16, 3)))
    x = relu(x + net.norm(net.conv(relu(net.norm(net.conv(x, 16, 3))), 16, 3)))
    x = relu(net.conv(x, 32, 1, stride=2, same=False) + net.conv(x, 32, 3, stride=2))
    return net.step(net.dense(reduce_sum(x, axes=(2, 3)), 5))


def pooled() -> Graph:
    net = Net((16, 1, 12, 12))
    x = window_max(relu(net.conv(net.x, 6, 5, same=False)), (2, 2), (2, 2))
    x = window_max(relu(net.conv(x, 5, 3, same=False)), (2, 2), (2, 2))
    return net.step(net.dense(reshape(x, shape=(16, 5)), 3))


def overlapping() -> Graph:
    net = Net((2, 4, 9, 7))
    x = window_max(net.conv(net.x, 16, 3), (3, 2), (2, 1), ((1, 1), (0, 1)))
    x = window_mean(net.conv(x, 16, 3, dilation=2), (2, 2), (1, 1), ((1, 0), (0, 0)))
    return net.step(reshape(x, shape=(2, 16 * x.shape[2] * x.shape[3])))


def grouped() -> Graph:
    net = Net((2, 16, 6, 5))
    x = net.conv(tanh(net.conv(net.x, 32, 3, groups=4)), 32, 3, groups=32)
    return net.step(net.norm(x))


def line() -> Graph:
    net = Net((4, 3, 21))
    x = tanh(net.conv(net.x, 16, 5, stride=2))
    return net.step(transpose(tanh(net.conv(x, 16, 3)), perm=(2, 0, 1)))


def solid() -> Graph:
    net = Net((1, 2, 4, 5, 4))
    return net.step(net.conv(tanh(net.conv(net.x, 16, 3)), 16, 2, same=False))


def moved() -> Graph:
    net = Net((3, 2, 7, 6))
    a = net.conv(net.x, 16, 3)
    b = concat(a, reverse(a, axes=(1, 2)), net.conv(net.x, 16, 1), axis=1)
    c = slice_(b, start=(0, 2, 1, 0), stop=(3, 48, 6, 6), step=(1, 3, 2, 1))
    d = reshape(c, shape=(3, 2, c.shape[1] // 2, c.shape[2], c.shape[3])) * 2.0
    return net.step(reshape(net.conv(reshape(d, shape=c.shape), 16, 1), shape=(3, 16 * c.shape[2] * 6)))


def twice() -> Graph:
    """An output that is also read on, and a window that is itself the result of a convolution."""
    net = Net((2, 3, 6, 6))
    a = net.conv(net.x, 16, 3)
    b = transpose(a, perm=(1, 0, 2, 3))
    return Graph("twice", (net.x,), tuple(net.weights), (a, relu(a), conv_general(b, b, **_PLAIN)))


_PLAIN: dict[str, Any] = {
    "strides": (1, 1), "padding": ((0, 0), (0, 0)), "lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "groups": 1,
}  # fmt: skip


def empty() -> Graph:
    net = Net((0, 3, 6, 6))
    return net.step(relu(net.conv(net.x, 16, 3)))


NETS: list[Callable[[], Graph]] = [residual, pooled, overlapping, grouped, line, solid, moved, empty]


def _leaves(graph: Graph) -> dict[Node, np.ndarray]:
    rng = np.random.default_rng(0)
    return {n: random_array(n.type, rng) for n in (*graph.inputs, *graph.state)}


@pytest.mark.parametrize("net", [*NETS, twice])
def test_values_stay(net: Callable[[], Graph]) -> None:
    graph = net()
    laid = layout(graph, Steps())
    check(laid)
    leaves = _leaves(graph)
    for a, b in zip(evaluate_nodes(graph.roots, leaves), evaluate_nodes(laid.roots, leaves), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-9 * max(1.0, np.max(np.abs(a), initial=0.0)))


@pytest.mark.parametrize("net", [*NETS, twice])
def test_laid_out_graphs_stay_as_they_are(net: Callable[[], Graph]) -> None:
    laid = layout(net(), Steps())
    again = Steps()
    assert layout(laid, again) is laid
    assert again.names == []


@pytest.mark.parametrize("net", [residual, pooled, twice])
def test_compiled_steps_agree(net: Callable[[], Graph]) -> None:
    """With the graph's meaning; of a large network the interpreter is left out, which would take a minute and a half."""
    slow = [] if net is residual else [("loops", 1)]
    graph = net()
    leaves = _leaves(graph)
    expected = evaluate_nodes(graph.roots, leaves)
    bits: list[list[bytes]] = []
    for backend, threads in (*slow, ("llvm", 1), ("llvm", 3)):
        states = [leaves[s].copy() for s in graph.state]
        with config.override(backend=backend, threads=threads, cache="off"):
            outputs = compile_graph(graph).run([leaves[n] for n in graph.inputs], states)
        after = dict(zip(graph.state, states, strict=True))
        found = [*outputs, *(after[s] for s, _ in graph.updates)]
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-9 * max(1.0, np.max(np.abs(a), initial=0.0)))
        bits.append([a.tobytes() for a in found])
    assert bits[-2] == bits[-1], "the number of threads changes bits"


def _orders(graph: Graph) -> list[tuple[int, ...]]:
    """How results of layers are transposed at once."""
    order = walk(layout(graph, Steps()).roots)
    layers = {n for n in order if n.op == "conv_general" and n.inputs[1].op == "state"}
    return [n.attrs["perm"] for n in order if n.op == "transpose" and n.inputs[0] in layers]


@pytest.mark.parametrize(
    ("net", "order"),
    [(residual, CHANNELS_LAST), (grouped, CHANNELS_LAST), (line, CHANNELS_LAST), (solid, CHANNELS_LAST), (pooled, BATCH_LAST)],
)
def test_the_order_that_fills_lanes(net: Callable[[], Graph], order: dict[int, tuple[int, ...]]) -> None:
    found = set(_orders(net()))
    assert found and found <= {order[len(p)] for p in found}


@pytest.mark.parametrize(
    ("batch", "channels", "width", "dtype", "last"),
    [
        (1, 64, 7, f32, 1),
        (64, 6, 28, f32, 0),
        (1, 3, 64, f32, None),
        (8, 8, 10, f64, 1),
        (20, 20, 32, f32, None),
        (3, 16, 9, f16, 1),
    ],
)
def test_choice_by_sizes(batch: int, channels: int, width: int, dtype: DType, last: int | None) -> None:
    net = Net((batch, channels, width, width), dtype)
    out = net.conv(net.x, channels, 1)
    graph = Graph("g", (net.x,), tuple(net.weights), (relu(out),))
    orders = _orders(graph)
    assert orders == ([] if last is None else [tuple(k for k in range(4) if k != last) + (last,)])


def _copies(graph: Graph) -> Sequence[Node]:
    return [n for n in walk(graph.roots) if n.op == "alias"]


def test_images_are_padded_once_and_copied_at_the_border_alone() -> None:
    """A padded image serves the layer and its weight's gradient; pooling and flattening move nothing."""
    graph = pooled()
    copies = _copies(layout(graph, Steps()))
    assert sorted(n.inputs[0].op for n in copies) == ["pad", "transpose"]  # the cotangent of layer 2, and the input
    laid = walk(layout(residual(), Steps()).roots)
    stride_one = [n for n in laid if n.op == "pad" and n.attrs["low"] == n.attrs["high"] and not any(n.attrs["interior"])]
    padded = [n.inputs[0] for n in stride_one]
    assert len(padded) == len(set(padded)) == 5, "an image is padded twice"


def test_graphs_without_layers_are_left_alone() -> None:
    x = input_node("x", TensorType(f32, (4, 8, 9, 9)))
    graph = Graph("g", (x,), (), (tanh(x),))
    steps = Steps()
    assert layout(graph, steps) is graph
    assert steps.names == []
    assert layout(residual(), Steps(0)) is not None
