"""Unrolled Python loops: which become loops again, and that their values stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphopt as ms
from graphopt import config, control, ops
from graphopt.ir.graph import Graph, subgraphs, walk
from graphopt.ir.text import print_graph
from graphopt.passes.pipeline import optimize
from graphopt.passes.reroll import reroll
from graphopt.passes.rewrite import Steps

TRIPS = 12
RNG = np.random.default_rng(0)
X, H = RNG.normal(size=(TRIPS, 2, 3)), RNG.normal(size=(2, 3))
W, V = RNG.normal(size=(3, 3)) / 2, RNG.normal(size=(3, 3)) / 2


def cell(x: Any, h: Any, w: Any) -> Any:
    z = x + h @ w
    return z.tanh() * (z * 0.5 + 1.0).sigmoid()


def recurrent(x: Any, h: Any, w: Any, v: Any) -> Any:
    total = 0.0
    for k in range(TRIPS):
        h = cell(x[k], h, w)
        total = total + (h * h).sum()
    return total


def last_only(x: Any, h: Any, w: Any, v: Any) -> Any:
    for k in range(TRIPS):
        h = cell(x[k] @ v, h, w)
    return (h * h).sum()


def backwards(x: Any, h: Any, w: Any, v: Any) -> Any:
    results = []
    for k in reversed(range(TRIPS)):
        h = cell(x[k], h, w)
        results.append(h @ v)
    return (ops.stack(results) ** 2).sum() + results[3].sum()


def all_outputs(x: Any, h: Any, w: Any, v: Any) -> Any:
    """Every trip's result side by side, some of them backwards, and one for itself."""
    results = []
    for k in range(TRIPS):
        h = cell(x[k], h, w)
        results.append(h * 2.0)
    backwards = ops.stack(results[:0:-1])
    return (ops.stack(results) * x).sum() + (backwards * x[1:] * x[1:]).sum() + results[5].sum() + (results[-1] @ v).sum()


def batch_first(x: Any, h: Any, w: Any, v: Any) -> Any:
    x = x.swapaxes(0, 1)
    for k in range(TRIPS):
        h = cell(x[:, k], h, w)
    return h.sum()


def two_carries(x: Any, h: Any, w: Any, v: Any) -> Any:
    g = h * 2.0
    for k in range(TRIPS):
        h, g = cell(x[k], g, w), h * 0.5 + g * 0.25
    return (h * g).sum()


def runge_kutta(x: Any, h: Any, w: Any, v: Any) -> Any:
    def slope(h: Any) -> Any:
        return (h @ w).sin() - h * 0.1

    for _ in range(TRIPS):
        a = slope(h)
        b = slope(h + a * 0.05)
        c = slope(h + b * 0.05)
        h = h + (a + b * 2.0 + c) * 0.025
    return (h * h).sum()


def two_layers(x: Any, h: Any, w: Any, v: Any) -> Any:
    first, below = [], h
    for k in range(TRIPS):
        below = cell(x[k], below, w)
        first.append(below)
    for row in first:
        h = cell(row, h, v)
    return h.sum()


def odd_in_the_middle(x: Any, h: Any, w: Any, v: Any) -> Any:
    for k in range(2 * TRIPS + 1):
        h = (h @ v) * 0.5 if k == TRIPS else cell(x[k % TRIPS], h, w)
    return h.sum()


ROLLED = (recurrent, last_only, backwards, all_outputs, batch_first, two_carries, runge_kutta, two_layers, odd_in_the_middle)


def short(x: Any, h: Any, w: Any, v: Any) -> Any:
    for k in range(5):
        h = cell(x[k], h, w)
    return h.sum()


def other_weights(x: Any, h: Any, w: Any, v: Any) -> Any:
    for k in range(TRIPS):
        h = cell(h, h, w if k % 3 else v) + float(k)
    return h.sum()


def independent(x: Any, h: Any, w: Any, v: Any) -> Any:
    return ops.stack([cell(x[k], h, w) for k in range(TRIPS)]).sum()


def pointwise(x: Any, h: Any, w: Any, v: Any) -> Any:
    """Newton's method for many numbers: fused, it goes through memory once."""
    x = ops.concat([x, x + 1.0], 2)
    y = x * 0.1
    for _ in range(TRIPS):
        y = y * (1.5 - 0.5 * x * y * y).tanh()
    return y.sum()


def fibonacci(x: Any, h: Any, w: Any, v: Any) -> Any:
    a, b = h, h * 0.5
    for _ in range(2 * TRIPS):
        a, b = b, cell(a, b, w)
    return (a + b).sum()


def learning(x: Any, h: Any, w: Any, v: Any) -> Any:
    """Gradients inside of the loop, each by what the trip before made."""

    def loss(u: Any, row: Any) -> Any:
        return ((h @ u).tanh() * row).sum() + (u * u).sum() * 0.1

    for k in range(TRIPS):
        w = w - 0.1 * ms.grad(loss)(w, x[k])
    return (h @ w @ v).sum()


LEFT = (short, other_weights, independent, pointwise)
ARGS = (X, H, W, V)


def tensors() -> list[ms.Tensor]:
    return [ms.Tensor(a) for a in ARGS]


def loops(graph: Graph) -> int:
    return sum(bool(subgraphs(n)) for n in walk(graph.roots))


def traced(f: Callable[..., Any]) -> Graph:
    with config.override(backend="numpy"):
        return ms.jit(f).compile_cache.graph(tensors(), {})


@pytest.mark.parametrize("f", ROLLED, ids=lambda f: f.__name__)
def test_loops_are_found(f: Callable[..., Any]) -> None:
    graph = traced(f)
    found = reroll(graph, Steps())
    assert loops(graph) == 0 and loops(found) == 1 + (f in (two_layers, odd_in_the_middle))
    assert len(walk(found.roots)) < len(walk(graph.roots)) / 2


@pytest.mark.parametrize("f", LEFT, ids=lambda f: f.__name__)
def test_what_is_no_loop_stays(f: Callable[..., Any]) -> None:
    graph = traced(f)
    assert reroll(graph, Steps()) is graph


@pytest.mark.parametrize("f", (*ROLLED, *LEFT, fibonacci, learning), ids=lambda f: f.__name__)
def test_values_and_gradients_stay(f: Callable[..., Any]) -> None:
    wanted, gradients = ms.value_and_grad(f, (0, 1, 2, 3))(*tensors())
    compiled = ms.jit(ms.value_and_grad(f, (0, 1, 2, 3)))
    with config.override(backend="llvm", cache="off", threads=1, verify=1):
        found, parts = compiled(*tensors())
        optimize(traced(f))
    for a, b in zip((wanted, *gradients), (found, *parts), strict=True):
        np.testing.assert_allclose(b.asnumpy(), a.asnumpy(), rtol=1e-10, atol=1e-12)


def test_the_gradient_is_that_of_a_loop() -> None:
    def scanned(x: Any, h: Any, w: Any, v: Any) -> Any:
        return control.scan(lambda h, x: (cell(x @ v, h, w), None), h, x)[0].sum()

    def unrolled(x: Any, h: Any, w: Any, v: Any) -> Any:
        for k in range(TRIPS):
            h = cell(x[k] @ v, h, w)
        return h.sum()

    sizes = [len(walk(optimize(traced(ms.grad(f, (0, 1, 2, 3)))).roots)) for f in (scanned, unrolled)]
    assert abs(sizes[0] - sizes[1]) <= 4
    assert loops(optimize(traced(ms.grad(unrolled, (0, 1, 2, 3))))) == 2


def test_second_derivatives() -> None:
    def twice(x: Any, h: Any, w: Any, v: Any) -> Any:
        return (ms.grad(recurrent, 2)(x, h, w, v) * v).sum()

    wanted = ms.grad(twice, (1, 2))(*tensors())
    with config.override(backend="llvm", cache="off", threads=1):
        found = ms.jit(ms.grad(twice, (1, 2)))(*tensors())
    for a, b in zip(wanted, found, strict=True):
        np.testing.assert_allclose(b.asnumpy(), a.asnumpy(), rtol=1e-9, atol=1e-10)


def test_size_does_not_grow_with_the_trips() -> None:
    def sized(trips: int) -> int:
        def f(h: Any, w: Any) -> Any:
            for _ in range(trips):
                h = cell(h, h, w)
            return h.sum()

        with config.override(backend="numpy"):
            return len(print_graph(optimize(ms.jit(f).compile_cache.graph([ms.Tensor(H), ms.Tensor(W)], {})), where=False))

    assert abs(sized(64) - sized(16)) <= 8


def test_stacked_results_are_the_stack() -> None:
    def f(x: Any, h: Any, w: Any, v: Any) -> Any:
        results = []
        for k in range(TRIPS):
            h = cell(x[k], h, w)
            results.append(h)
        return (ops.stack(results) ** 2).sum()

    graph = optimize(traced(ms.grad(f, (0, 1, 2))))
    assert {n.op for n in walk(graph.roots)}.isdisjoint({"concat", "slice", "pad"})
