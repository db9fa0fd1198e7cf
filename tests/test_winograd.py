"""Convolutions by minimal filtering: when they are, that every machine agrees, and what becomes of infinities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from graphopt import config
from graphopt.compile import compile_graph
from graphopt.ir.graph import Graph, Node, input_node, state_node
from graphopt.ir.types import DType, TensorType, f16, f32, f64
from graphopt.kernel import winograd
from graphopt.kernel.loops import Kernel, own_places
from graphopt.kernel.machine import AVX2, AVX512, SSE2, Machine
from graphopt.kernel.run import Interpreter
from graphopt.kernel.step import lower_graph
from graphopt.kernel.wide import run_wide
from graphopt.kernel.winograd import FACTOR, IMAGE, PIXELS, TAPS, WINDOW, Matrix
from graphopt.llvm.target import machine_of
from graphopt.opdefs.conv import conv
from graphopt.opdefs.elementwise import maximum
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.math import tanh
from graphopt.passes.gradient import vjp
from graphopt.passes.pipeline import optimize
from graphopt_runtime import engine
from tests.steps import agree, arguments, compiled, meaning, run
from tests.test_llvm import TARGETS, compiled_for, each_target


@dataclass(frozen=True)
class Case:
    """Images (n, c, h, w) and windows (o, c, 3, 3); `low`, `high`: zeros around the image."""

    n: int
    c: int
    o: int
    h: int
    w: int
    dtype: DType = f32
    low: tuple[int, int] = (1, 1)
    high: tuple[int, int] = (1, 1)

    def leaves(self, k: int = 0) -> tuple[Node, Node]:
        shapes = ((self.n, self.c, self.h, self.w), (self.o, self.c, 3, 3))
        return tuple(input_node(f"{name}{k}", TensorType(self.dtype, s)) for name, s in zip("xw", shapes, strict=True))  # type: ignore[return-value]

    def conv(self, x: Node, w: Node) -> Node:
        return conv(x, w, (1, 1), tuple(zip(self.low, self.high, strict=True)), (1, 1), 1)


CASES = {
    "one block and more": Case(4, 16, 16, 16, 16),
    "channels differ": Case(5, 16, 48, 12, 20),
    "several panels": Case(3, 32, 96, 18, 20),
    "images smaller than a block": Case(20, 16, 32, 8, 8),
    "one image": Case(1, 32, 16, 34, 38),
    "no borders": Case(4, 16, 16, 18, 20, low=(0, 0), high=(0, 0)),
    "borders on some sides": Case(4, 16, 16, 17, 18, low=(1, 2), high=(0, 2)),
    "sums in panels": Case(4, 160, 192, 16, 18),
    "float64": Case(4, 16, 24, 16, 18, f64),
}


def forward(case: Case) -> Graph:
    x, w = case.leaves()
    return Graph("forward", (x, w), (), (case.conv(x, w),))


def training(case: Case) -> Graph:
    """Two layers with a shortcut, all derivatives, and an update: every kernel has something behind it."""
    x, w = case.leaves()
    square = Case(case.n, case.o, case.o, 0, 0, case.dtype)
    v, m = (state_node(k, TensorType(case.dtype, (case.o, case.o, 3, 3))) for k in ("v", "m"))
    first = maximum(case.conv(x, w) * (9 * case.c) ** -0.5, 0.0)
    out = tanh(square.conv(first, v) * (9 * case.o) ** -0.5 + first)
    found = vjp([out], [out], [x, w, v])
    assert all(n is not None for n in found)
    gx, gw, gv = (n for n in found if n is not None)
    moved = m * 0.9 + gv
    return Graph("training", (x, w), (v, m), (out, gx, gw), ((v, v - moved * 0.01), (m, moved)))


def kernels(graph: Graph, machine: Machine = AVX512) -> list[Kernel]:
    return list(lower_graph(optimize(graph), machine).kernels)


def filtered(graph: Graph, machine: Machine = AVX512) -> tuple[int, int]:
    """(convolutions by minimal filtering, derivatives by the window by it)."""
    found = kernels(graph, machine)
    planes = [k for k in found if any(b.name == "pixels" for b in k.locals)]
    taps = sum(1 for k in planes if any(b.name == "factors" for b in k.locals))
    windows = sum(1 for k in found if k.name.endswith("_windows"))
    assert windows == len(planes) - taps
    return windows, taps


# the algebra


@pytest.mark.parametrize(("factors", "back", "count"), [(WINDOW, PIXELS, 2), (FACTOR, TAPS, 3)], ids=["window", "factor"])
def test_products_give_the_correlation(factors: Matrix, back: Matrix, count: int) -> None:
    """In one dimension and exactly: of all pairs of unit vectors, so of everything."""
    size = len(factors[0])
    for d in np.eye(4):
        for g in np.eye(size):
            found = np.array(back) @ ((np.array(IMAGE) @ d) * (np.array(factors) @ g))
            np.testing.assert_array_equal(found, [d[k : k + size] @ g for k in range(count)])


# where it is done


def test_convolutions_of_training_are_filtered() -> None:
    assert filtered(forward(CASES["one block and more"])) == (1, 0)
    assert filtered(training(CASES["one block and more"])) == (4, 2)


def test_convolutions_with_the_same_windows_transform_them_once() -> None:
    case = CASES["one block and more"]
    (x, w), (y, _) = case.leaves(), case.leaves(1)
    found = kernels(Graph("siamese", (x, y, w), (), (case.conv(x, w), case.conv(y, w))))
    assert [k.name for k in found if not k.name.startswith("alias")] == ["conv_general_windows", "conv_general", "conv_general"]


UNFIT: dict[str, Callable[[Node, Node], Node]] = {
    "strides": lambda x, w: conv(x, w, (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    "dilated": lambda x, w: conv(x, w, (1, 1), ((2, 2), (2, 2)), (2, 2), 1),
    "odd pixels": lambda x, w: conv(x, w, (1, 1), ((1, 0), (1, 0)), (1, 1), 1),
}


@pytest.mark.parametrize("name", UNFIT)
def test_others_are_computed_by_the_definition(name: str) -> None:
    x, w = Case(4, 16, 16, 16, 16).leaves()
    assert filtered(Graph("g", (x, w), (), (UNFIT[name](x, w),))) == (0, 0)


NOT_WORTH_IT = {
    "float16": Case(4, 16, 16, 16, 16, f16),
    "few channels": Case(4, 8, 16, 16, 16),
    "channels that fill no vector": Case(4, 16, 24, 16, 16),
    "few tiles": Case(1, 16, 16, 8, 8),
    "many channels": Case(2, 256, 512, 32, 32),
    "long rows": Case(1, 64, 64, 2, 1024),
}


@pytest.mark.parametrize("name", NOT_WORTH_IT)
def test_what_is_not_worth_it_is_computed_by_the_definition(name: str) -> None:
    assert filtered(forward(NOT_WORTH_IT[name])) == (0, 0)


def test_groups_are_computed_by_the_definition() -> None:
    x, w = input_node("x", TensorType(f32, (4, 32, 16, 16))), input_node("w", TensorType(f32, (32, 16, 3, 3)))
    y = conv(x, w, (1, 1), ((1, 1), (1, 1)), (1, 1), 2)
    assert filtered(Graph("g", (x, w), (), (y,))) == (0, 0)


@pytest.mark.parametrize("machine", [AVX2, SSE2], ids=["avx2", "sse2"])
def test_narrow_vectors_are_filled_sooner(machine: Machine) -> None:
    assert filtered(forward(Case(4, 8, 24, 16, 16)), machine) == (1, 0)


def test_what_a_thread_keeps_is_bounded() -> None:
    """Transformed blocks and sums of windows stay about within a usual second-level cache."""
    for case in (*CASES.values(), Case(8, 256, 256, 16, 16), Case(8, 64, 128, 28, 28)):
        for kernel in kernels(forward(case)) + kernels(training(case)):
            assert own_places(kernel)[1] <= 5 << 19


# what it computes


@pytest.mark.parametrize("name", CASES)
def test_training_agrees_with_numpy(name: str) -> None:
    graph = training(CASES[name])
    assert filtered(graph) != (0, 0)
    inputs, states = arguments(graph)
    agree(run(compiled(graph), inputs, states), meaning(graph, inputs, states), name)


SMALL = Case(1, 16, 16, 8, 6)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that the interpreter gets through are worth it, too."""
    monkeypatch.setattr(winograd, "_LEAST_TILES", 1)
    monkeypatch.setattr(winograd, "_TILES", 3)


def test_the_interpreter_agrees_with_numpy(small_blocks: None) -> None:
    graph = training(SMALL)
    assert filtered(graph, machine_of(engine.host())) == (4, 2)
    inputs, states = arguments(graph)
    agree(run(compiled(graph, "loops"), inputs, states), meaning(graph, inputs, states), "loops")


def test_the_interpreter_on_whole_axes_gives_the_same_bits(small_blocks: None) -> None:
    rng = np.random.default_rng(0)
    for kernel in kernels(training(SMALL)):
        arrays = {b: rng.normal(size=b.size).astype(b.dtype.numpy) for b in kernel.args}
        wide = {b: a.copy() for b, a in arrays.items()}
        Interpreter(kernel, [arrays[b] for b in kernel.args]).run()
        run_wide(kernel, wide)
        for b in kernel.args:
            np.testing.assert_array_equal(wide[b], arrays[b])


@each_target
def test_every_target_agrees_with_numpy(name: str) -> None:
    graph = training(Case(4, 16, 32, 16, 20))
    inputs, states = arguments(graph)
    agree(run(compiled_for(graph, TARGETS[name]), inputs, states), meaning(graph, inputs, states), name)


def test_bits_do_not_depend_on_threads() -> None:
    graph = training(CASES["several panels"])
    inputs, states = arguments(graph)
    first, *others = (run(compiled(graph, threads=t), inputs, states) for t in (1, 2, 3))
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_rounding_is_that_of_the_definition() -> None:
    """Errors against float64, of a deep sum: no more than twice those of sums of products in float32."""
    case = CASES["several panels"]
    rng = np.random.default_rng(0)
    x, w = case.leaves()
    graph = forward(case)
    arrays = [rng.normal(size=n.shape).astype(np.float32) for n in (x, w)]
    wide = [n.astype(np.float64) for n in arrays]
    exact = evaluate_nodes(graph.outputs, dict(zip(graph.inputs, wide, strict=True)))[0]
    plain = evaluate_nodes(graph.outputs, dict(zip(graph.inputs, arrays, strict=True)))[0]
    found = run(compiled(graph), arrays, [])[0]
    assert np.abs(found - exact).max() <= 2 * np.abs(plain - exact).max()
    assert np.sqrt(np.square(found - exact).mean()) <= 2 * np.sqrt(np.square(plain - exact).mean())


# infinities


@pytest.mark.parametrize("backend", ["llvm", "loops"])
@pytest.mark.parametrize("which", ["image", "window", "both"])
def test_infinities_and_nan_are_where_the_definition_has_them(which: str, backend: str, small_blocks: None) -> None:
    graph = training(SMALL if backend == "loops" else CASES["one block and more"])
    inputs, states = arguments(graph)
    x, w = inputs
    if which != "window":
        x[0, 1, 0, 0], x[0, 2, 7, 5], x[-1, 3, -1, -1], x[-1, 0, 4, 4] = np.inf, -np.inf, np.inf, np.nan
    if which != "image":
        w[3, 2, 1, 1], w[5, 0, 2, 0] = np.inf, -np.inf
    with np.errstate(all="ignore"):
        found, expected = run(compiled(graph, backend), inputs, states), meaning(graph, inputs, states)
    assert not np.isfinite(expected[0]).all() or not np.isfinite(expected[2]).all()
    for a, e in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(e))
        np.testing.assert_array_equal(a[~np.isfinite(e)], e[~np.isfinite(e)])
    agree(found, expected, which)


def test_an_infinity_in_a_plain_convolution() -> None:
    """Where nothing follows, values are stored before they are known to be finite, and again."""
    graph = forward(CASES["images smaller than a block"])
    inputs, _ = arguments(graph)
    inputs[0][7, 3, 0, 7], inputs[0][19, 0, 3, 3] = np.inf, -np.inf
    with np.errstate(all="ignore"):
        found, expected = run(compiled(graph), inputs, []), meaning(graph, inputs, [])
    assert np.isinf(expected[0]).sum() == (4 + 9) * 32
    np.testing.assert_array_equal(found[0][~np.isfinite(expected[0])], expected[0][~np.isfinite(expected[0])])
    agree(found, expected, "plain")


def test_sums_that_overflow_on_the_way_do_not() -> None:
    """Sums and differences of large pixels leave float32, though no product does."""
    graph = forward(CASES["one block and more"])
    inputs = [np.full(graph.inputs[0].shape, 2e38, np.float32), np.zeros(graph.inputs[1].shape, np.float32)]
    inputs[1][:, 0, 1, 1] = 1
    with config.override(backend="llvm", cache="off"):
        found = compile_graph(graph).run(inputs, [])
    np.testing.assert_array_equal(found[0], np.full(found[0].shape, 2e38, np.float32))
