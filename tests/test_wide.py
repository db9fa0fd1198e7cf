"""The interpreter on whole axes: the bits of the plain one, for the iterations that are asked for and no others."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given, settings

from graphopt import compile as compiler
from graphopt.ir.graph import Graph
from graphopt.ir.index import Index, index
from graphopt.ir.types import f32, i32
from graphopt.kernel import wide
from graphopt.kernel.loops import (
    Buffer,
    Const,
    Fold,
    For,
    If,
    IndexValue,
    Kernel,
    Load,
    Recorder,
    Stmt,
    Store,
    loop,
    make_kernel,
)
from graphopt.kernel.run import run
from graphopt.kernel.step import lower_graph
from graphopt.kernel.wide import prices, run_wide
from graphopt.llvm.target import machine_of
from graphopt.passes.pipeline import optimize
from graphopt_runtime import engine
from graphopt_tools.check import traced
from graphopt_tools.workloads import EVERY
from tests.graphs import graphs, values

S = Recorder()
X, OUT = Buffer("x", f32, 240), Buffer("out", f32, 240)
ACC = Buffer("acc", f32, 16, local=True)


def both(kernel: Kernel, arrays: Mapping[Buffer, np.ndarray]) -> dict[Buffer, np.ndarray]:
    """The arrays after the kernel has run, which both interpreters leave alike."""
    plain, whole = ({b: a.copy() for b, a in arrays.items()} for _ in range(2))
    run(kernel, plain)
    run_wide(kernel, whole)
    for b in arrays:
        assert plain[b].tobytes() == whole[b].tobytes()
    return whole


def check_step(graph: Graph, inputs: list[np.ndarray], state: list[np.ndarray]) -> None:
    def compare(kernel: Kernel, memory: compiler.Memory) -> None:
        own = {b: memory[b].copy() for b in kernel.args}
        written = run_wide(kernel, own)
        before = {b: memory[b].copy() for b in written}
        run(kernel, memory)
        for b in kernel.args:
            assert own[b].tobytes() == memory[b].tobytes(), f"{kernel.name}: {b}"
        for b, mask in written.items():
            assert before[b][~mask].tobytes() == memory[b][~mask].tobytes(), f"{kernel.name}: {b} is written elsewhere"

    compiler.run_loops(lower_graph(optimize(graph), machine_of(engine.host())), inputs, state, compare)


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "gpt", "lstm_loop", "wide_deep", "softmax_xent", "pinn", "rows_LazyAdam"])
def test_kernels_of_networks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide, "_ELEMS", 1 << 7)  # several pieces of each axis
    graph, leaves = traced(*EVERY[name].shrunk().in_graphopt())
    check_step(graph, [leaves[n].copy() for n in graph.inputs], [leaves[n].copy() for n in graph.state])


@settings(max_examples=25)
@given(graphs(steps=8))
def test_kernels_of_random_graphs(graph: Graph) -> None:
    leaves = values(graph)
    check_step(graph, [leaves[n].copy() for n in graph.inputs], [leaves[n].copy() for n in graph.state])


def ramp(size: int = 240) -> np.ndarray:
    return np.arange(1, size + 1).astype(np.float32)


def kernel_of(*body: Stmt) -> Kernel:
    return make_kernel("hand", body, 16)


def whole_loops(kernel: Kernel) -> list[str]:
    return sorted(s.var.name for s in wide._whole_loops(kernel.body))


def test_loops_whose_iterations_meet_run_one_by_one() -> None:
    """Running sums along q, for each of four rows at once."""

    def row(r: Index) -> list[Stmt]:
        return loop("serial", "q", 59, lambda q: [Store(OUT, r * 60 + q + 1, S.add(Load(OUT, r * 60 + q), Load(X, r * 60 + q)))])

    kernel = kernel_of(*loop("serial", "r", 4, row))
    assert whole_loops(kernel) == ["r"]
    found = both(kernel, {X: ramp(), OUT: np.zeros(240, np.float32)})
    assert found[OUT][59] == sum(range(1, 60))


@pytest.mark.parametrize(
    ("place", "apart"),
    [
        (lambda i, j: i * 7 + j, True),
        (lambda i, j: i * 6 + j, False),  # the last of one is the first of the next
        (lambda i, j: j * 20 + i, True),  # one lies between those of another: seen element by element
        (lambda i, j: j * 9 + i, False),  # the last of one is the first of another
        (lambda i, j: j, False),
        (lambda i, j: i // 2 * 20 + j, False),
        (lambda i, j: i * 14 + j // 2, True),
    ],
)
def test_which_loops_are_run_whole(place: Callable[[Index, Index], Index], apart: bool) -> None:
    def inner(i: Index) -> list[Stmt]:
        return loop("unroll", "j", 7, lambda j: [Store(OUT, place(i, j), S.add(Load(OUT, place(i, j)), Load(X, i * 7 + j)))])

    kernel = kernel_of(*loop("serial", "i", 10, inner))
    assert ("i" in whole_loops(kernel)) is apart
    both(kernel, {X: ramp(), OUT: ramp()})


def test_local_buffers_belong_to_an_iteration() -> None:
    def one(p: Index) -> list[Stmt]:
        def add(q: Index) -> list[Stmt]:
            return loop("lanes", "l", 16, lambda x: [Store(ACC, x, S.add(Load(ACC, x), Load(X, p * 48 + q * 16 + x)))])

        first = loop("lanes", "l", 16, lambda x: [Store(ACC, x, Const(0.0, f32))])
        sums = loop("serial", "q", 3, add)
        return [*first, *sums, Store(OUT, p, Fold("add", ACC, index(0), 16))]

    kernel = kernel_of(*loop("par", "p", 5, one))
    assert whole_loops(kernel) == []
    found = both(kernel, {X: ramp(), OUT: np.zeros(240, np.float32)})
    assert found[OUT][:5].tolist() == [sum(range(48 * p + 1, 48 * p + 49)) for p in range(5)]


@pytest.mark.parametrize(
    ("filled", "outside", "whole"),
    [
        (16, False, True),
        (15, False, False),  # the last element is the one that the iteration before left
        (16, True, False),  # what is left of it is read behind the loop
    ],
)
def test_what_iterations_fill_for_themselves_has_copies(filled: int, outside: bool, whole: bool) -> None:
    """A loop of tiles: an accumulator that each of them clears, as contractions in loops have it."""

    def tile(p: Index, m: Index) -> list[Stmt]:
        def add(q: Index) -> list[Stmt]:
            return loop("lanes", "l", 16, lambda x: [Store(ACC, x, S.add(Load(ACC, x), Load(X, p * 48 + q * 16 + x)))])

        first = loop("lanes", "l", filled, lambda x: [Store(ACC, x, S.mul(Load(X, m * 16 + x), Const(2.0, f32)))])
        last = loop("lanes", "l", 16, lambda x: [Store(OUT, p * 48 + m * 16 + x, Load(ACC, x))])
        return [*first, *loop("serial", "q", 3, add), *last]

    def one(p: Index) -> list[Stmt]:
        first = loop("lanes", "l", 16, lambda x: [Store(ACC, x, Const(7.0, f32))] * (not whole))
        return [*first, *loop("serial", "m", 3, lambda m: tile(p, m)), *([Store(OUT, p, Load(ACC, index(0)))] if outside else [])]

    kernel = kernel_of(*loop("par", "p", 5, one))
    assert ("m" in whole_loops(kernel)) is whole
    both(kernel, {X: ramp(), OUT: np.zeros(240, np.float32)})


def test_conditions_choose_among_parallel_iterations() -> None:
    def one(p: Index) -> list[Stmt]:
        odd = S.eq(IndexValue(p % 2, i32), Const(1, i32))
        small = S.lt(Load(X, p * 16), Const(100.0, f32))
        inner = loop("lanes", "l", 16, lambda x: [Store(OUT, p * 16 + x, S.mul(Load(ACC, x), Load(X, p * 16 + x)))])
        return [
            *loop("lanes", "l", 16, lambda x: [Store(ACC, x, S.add(Load(X, p * 16 + x), Const(1.0, f32)))]),
            If(odd, (If(small, tuple(inner)), Store(OUT, p * 16, Load(ACC, index(3))))),
        ]

    found = both(kernel_of(*loop("par", "p", 15, one)), {X: ramp(), OUT: np.zeros(240, np.float32)})
    expected = [16 * p + k for p in range(1, 15, 2) for k in range(16 if 16 * p + 1 < 100 else 1)]
    assert np.flatnonzero(found[OUT]).tolist() == expected


def test_buffers_that_lie_in_the_same_memory_are_left_in_order() -> None:
    kernel = kernel_of(*loop("serial", "q", 239, lambda q: [Store(OUT, q + 1, Load(X, q))]))
    assert whole_loops(kernel) == ["q"]
    memory = ramp()
    plain = memory.copy()
    run(kernel, dict.fromkeys((X, OUT), plain))
    run_wide(kernel, dict.fromkeys((X, OUT), memory))
    assert memory.tobytes() == plain.tobytes() and (memory == 1).all()


def copying() -> Kernel:
    return kernel_of(
        *loop("par", "p", 15, lambda p: loop("lanes", "l", 16, lambda x: [Store(OUT, p * 16 + x, Load(X, p * 16 + x))]))
    )


def test_chosen_iterations_and_no_others() -> None:
    kernel = copying()
    (s,) = kernel.body
    assert isinstance(s, For)
    out = np.zeros(240, np.float32)
    written = run_wide(kernel, {X: ramp(), OUT: out}, {s: np.array([0, 7, 14])})
    expected = np.zeros(15, bool)
    expected[[0, 7, 14]] = True
    assert list(written) == [OUT] and (written[OUT] == np.repeat(expected, 16)).all()
    assert (out != 0).tolist() == written[OUT].tolist()


def test_prices_tell_how_many_iterations_a_time_is_enough_for() -> None:
    kernel = copying()
    rest, (price,) = prices(kernel)
    assert rest == 0.0 and price.loop is kernel.body[0]
    assert price.affordable(1.0) == 15 and price.seconds(15) < 1.0
    big = wide.Price(For(price.loop.var, "par", ()), 4, 1.0, 0.5)
    assert [big.affordable(t) for t in (0.0, 6.0, 9.0, 100.0)] == [4, 8, 12, 15]
