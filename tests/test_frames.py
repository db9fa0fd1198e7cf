"""Values that are stored with a border around them at once: when they are, and that every reader finds them there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from graphopt.ir.graph import Graph, Node, walk
from graphopt.ir.types import DType, f16, f32, f64, i32
from graphopt.kernel.machine import AVX2
from graphopt.kernel.step import Step, lower_graph
from graphopt.llvm.ahead import streamed
from graphopt.opdefs.conv import conv
from graphopt.opdefs.elementwise import maximum
from graphopt.opdefs.linalg import dot_general
from graphopt.opdefs.math import rsqrt, tanh
from graphopt.opdefs.opdef import constant
from graphopt.opdefs.reduce import reduce_max, reduce_sum
from graphopt.opdefs.shape import broadcast, pad, reshape, reverse, slice_, transpose
from graphopt.opdefs.window import window_max
from graphopt.passes.gradient import vjp
from graphopt.passes.pipeline import optimize
from graphopt.passes.remat import estimate
from tests.steps import agree, arguments, compiled, leaf, meaning, run, state


def framed(x: Node, low: tuple[int, ...], high: tuple[int, ...], fill: float = 0) -> Node:
    return pad(x, constant(fill, x.dtype), low=low, high=high, interior=(0,) * x.type.rank)


def copies(step: Step) -> int:
    """Kernels that only copy."""
    return sum(1 for k in step.kernels if k.nodes and {n.op for n in k.nodes} == {"alias"})


def graph_of(*outputs: Node) -> Graph:
    nodes = walk(outputs)
    leaves = [tuple(n for n in nodes if n.op == op) for op in ("input", "state")]
    return Graph("g", *leaves, outputs)


def held(graph: Graph, count: int = 0) -> None:
    """A graph needs so many copies, and all machines agree on what it computes."""
    assert copies(lower_graph(optimize(graph), AVX2)) == count
    inputs, states = arguments(graph)
    expected = meaning(graph, inputs, states)
    for backend in ("loops", "llvm"):
        agree(run(compiled(graph, backend), inputs, states), expected, backend)


def relu_net(batch: int, channels: int, size: int) -> Graph:
    """Convolutions behind batch normalisation, a shortcut over the second, the third with strides, and all gradients."""
    x = leaf("x", batch, channels, size, size)
    w = [state(f"w{k}", channels, channels, 3, 3) for k in range(4)]

    def layer(x: Node, w: Node, stride: int = 1) -> Node:
        y = conv(x, w, (stride, stride), ((1, 1), (1, 1)), (1, 1), 1)
        mean = reduce_sum(y, axes=(0, 2, 3)) / float(y.type.size // channels)
        away = y - broadcast(mean, shape=y.shape, axes=(1,))
        variance = reduce_sum(away * away, axes=(0, 2, 3)) / float(y.type.size // channels)
        return away * broadcast(rsqrt(variance + 1e-5), shape=y.shape, axes=(1,))

    h = maximum(layer(x, w[0]), 0.0)
    h = maximum(layer(h, w[1]) + h, 0.0)
    h = maximum(layer(h, w[2], 2), 0.0)
    loss = reduce_sum(tanh(layer(h, w[3])), axes=(0, 1, 2, 3))
    grads = [g for g in vjp([loss], [constant(1.0, loss.dtype)], w) if g is not None]
    return Graph("relu_net", (x,), tuple(w), (loss,), tuple(zip(w, grads, strict=True)))


def test_a_convolutional_step_copies_its_input_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.passes.canon.LARGE_PRODUCTS", 0)  # the strides' zeros are skipped
    held(relu_net(2, 16, 6), 1)
    held(relu_net(16, 4, 5), 1)  # with the batch last


def test_what_a_pool_leaves_is_framed_too() -> None:
    x, first, second = leaf("x", 2, 16, 8, 8), state("first", 16, 16, 1, 1), state("second", 16, 16, 3, 3)
    h = maximum(conv(x, first, (1, 1), ((0, 0), (0, 0)), (1, 1), 1), 0.0)
    h = conv(window_max(h, (2, 2), (2, 2), ((0, 0), (0, 0))), second, (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    loss = reduce_sum(h * h, axes=(0, 1, 2, 3))
    grads = vjp([loss], [constant(1.0, loss.dtype)], [first, second])
    held(graph_of(loss, *(g for g in grads if g is not None)), 1)  # the input


def everyone(x: Node, low: tuple[int, ...], high: tuple[int, ...], fill: float) -> tuple[Node, ...]:
    """A value, in a frame for an output, and all kinds of other readers."""
    v = tanh(x) if x.dtype.is_float else x + x
    rows = v + broadcast(reduce_max(v, axes=(0, 1)), shape=v.shape, axes=(2,))
    product = dot_general(v, v, contract=((0, 2), (0, 2)), batch=((), ()))
    moved = transpose(v, perm=(2, 0, 1)) + transpose(reverse(v, axes=(1,)), perm=(2, 0, 1))
    some = slice_(v, start=(1, 0, 2), stop=(4, 5, 19), step=(2, 1, 3)) * 2
    again = broadcast(v, shape=(2, *v.shape), axes=(1, 2, 3)) * leaf("y", 2, *v.shape, dtype=v.dtype)
    return framed(v, low, high, fill), v * v, rows, reduce_sum(v, axes=(2,)), product, moved, some, again


@pytest.mark.parametrize("dtype", [f32, f64, f16, i32], ids=str)
@pytest.mark.parametrize(
    ("low", "high"), [((0, 1, 0), (0, 1, 0)), ((2, 0, 0), (0, 3, 0)), ((1, 2, 0), (0, 0, 0)), ((0, 0, 0), (0, 2, 0))]
)
def test_all_readers_read_inside(dtype: DType, low: tuple[int, ...], high: tuple[int, ...]) -> None:
    held(graph_of(*everyone(leaf("x", 4, 5, 19, dtype=dtype), low, high, 3)))


def test_what_a_product_computes_is_framed_too() -> None:
    x, w = leaf("x", 6, 5, 16), leaf("w", 16, 24)
    v = maximum(dot_general(x, w, contract=((2,), (0,)), batch=((), ())), 0.0)
    held(graph_of(framed(v, (1, 1, 0), (1, 2, 0)), reduce_sum(v, axes=(0,))))
    few, long = leaf("few", 1, 2, 5000), leaf("long", 5000, 3)  # a sum in parts
    v = tanh(dot_general(few, long, contract=((2,), (0,)), batch=((), ())))
    held(graph_of(framed(v, (0, 1, 0), (0, 1, 0)), v * 2.0))


def test_rows_are_framed() -> None:
    x = leaf("x", 5, 6, 7, 9)
    v = reduce_sum(tanh(x), axes=(3,)) * 2.0
    held(graph_of(framed(v, (1, 1, 0), (1, 0, 0), 1.5), v + 1.0, x - broadcast(v, shape=x.shape, axes=(0, 1, 2))))


def _reshaped(v: Node) -> Node:
    return reshape(v, shape=(20, 19)) * reshape(v, shape=(20, 19))


REFUSED: dict[str, Callable[[Node], tuple[Node, ...]]] = {
    "lanes": lambda v: (framed(v, (0, 0, 1), (0, 0, 1)), v * 2.0),
    "cropped": lambda v: (framed(v, (-1, 1, 0), (0, 1, 0)), v * 2.0),
    "output": lambda v: (framed(v, (0, 1, 0), (0, 1, 0)), v),
    "reshaped": lambda v: (framed(v, (0, 1, 0), (0, 1, 0)), dot_general(_reshaped(v), v, contract=((1,), (2,)), batch=((), ()))),
    "wide": lambda v: (framed(v, (4, 9, 0), (4, 9, 0)), v * 2.0),
    "spread": lambda v: (pad(v, constant(0.0, f32), low=(0,) * 3, high=(0,) * 3, interior=(0, 1, 0)), v * 2.0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_copied_still(name: str) -> None:
    held(graph_of(*REFUSED[name](tanh(leaf("x", 4, 5, 19)))), 1)


def test_the_widest_of_several_frames_serves_all() -> None:
    """Products read a value with different borders: all within one."""
    v, w = maximum(leaf("x", 4, 5, 19), 0.5), leaf("w", 4, 7, 19)
    long, some = framed(v, (0, 2, 0), (0, 1, 0)), framed(v, (0, 0, 0), (0, 2, 0))
    products = [dot_general(f, w, contract=((0, 2), (0, 2)), batch=((), ())) for f in (long, some)]
    held(graph_of(*products, v * 2.0))
    moved = dot_general(framed(leaf("y", 4, 5, 19), (0, 2, 0), (0, 1, 0)), w, contract=((0, 2), (0, 2)), batch=((), ()))
    held(graph_of(*products, moved), 1)


def test_what_lies_in_a_frame_needs_no_memory_of_its_own() -> None:
    v = tanh(leaf("x", 4, 5, 19))
    graph = optimize(graph_of(framed(v, (0, 1, 0), (0, 1, 0)), v * 2.0))
    assert estimate(graph) == lower_graph(graph, AVX2).plan.arena_bytes == 0


def test_what_is_read_in_order_is_asked_for_ahead_in_frames_too() -> None:
    x, bias = leaf("x", 4096, 64, 8), leaf("bias", 8)
    v = tanh(x + broadcast(bias, shape=x.shape, axes=(2,)))
    (kernel,) = lower_graph(optimize(graph_of(framed(v, (0, 2, 0), (0, 2, 0)))), AVX2).kernels
    assert streamed(kernel)


def test_one_frame_for_a_value() -> None:
    """Of two that are outputs, the second is copied from the first."""
    v = tanh(leaf("x", 4, 5, 19))
    held(graph_of(framed(v, (0, 1, 0), (0, 1, 0)), framed(v, (0, 0, 0), (0, 2, 0), 1.0), v * 3.0), 1)
