"""Derivatives of one's own (bprop, hooks, InsertGradientOf) in bodies of control flow: as op by op, to any order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import graphopt as ms
from graphopt import Tensor, config, control, nn, ops
from graphopt.errors import TraceError
from graphopt.ir.graph import Graph, input_node
from graphopt.ir.text import large_constants, parse_graph, print_graph
from graphopt.ir.types import TensorType, f32
from graphopt.opdefs.control import items
from graphopt.opdefs.math import sin
from graphopt.opdefs.rule import with_rule
from graphopt.opdefs.shape import slice_
from graphopt.passes.pipeline import check, optimize


@pytest.fixture(autouse=True, params=("numpy", "loops", "llvm"))
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    with config.override(verify=2, cache="off", backend=request.param):
        yield


class Cube(nn.Cell):
    """Its derivative is 5 x² and depends on a weight, on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.w = ms.Parameter(Tensor([1.0, 2.0, 0.5], ms.float32), name="w")

    def construct(self, x: Any) -> Any:
        return x * x * x * 0.3

    def bprop(self, x: Any, out: Any, dout: Any) -> Any:
        return (5.0 * self.w * x * out * dout,)


class Two(nn.Cell):
    """Two inputs, one of them no Tensor, two outputs of which a user may take one."""

    def construct(self, x: Any, k: Any, y: Any) -> Any:
        return x * y * k, x + y

    def bprop(self, x: Any, k: Any, y: Any, out: Any, dout: Any) -> Any:
        return dout[0] * y * 2 + dout[1], None, None


class Seen(nn.Cell):
    """A Dense layer whose gradients go through hooks."""

    def __init__(self) -> None:
        super().__init__()
        weight = Tensor(np.arange(9, dtype=np.float32).reshape(3, 3) / 10)
        self.dense = nn.Dense(3, 3, weight_init=weight, bias_init="zeros")  # some random ones make the loops ill-conditioned
        self.dense.register_backward_pre_hook(lambda cell, grads: (grads[0] * 2,))
        self.dense.register_backward_hook(lambda cell, inputs, outputs: (inputs[0] * 0.5 + outputs[0],))

    def construct(self, x: Any) -> Any:
        return ops.tanh(self.dense(x.reshape(1, 3))).reshape(3)


CUBE, TWO, SEEN = Cube(), Two(), Seen()
CLIP = ops.InsertGradientOf(lambda g: g * 3)


def scanned(x: Any) -> Any:
    carry, rows = control.scan(lambda c, a: (CUBE(c) + a, c * 2), x, ops.stack([x, x * 2, x]))
    return (carry + rows).sum()


def chosen(x: Any) -> Any:
    return control.cond(x.sum() > 0, lambda: CUBE(x), lambda: TWO(x, 3, x * x)[0]).sum()


def python_loops(x: Any) -> Any:
    y, k = x * 1.0, 0
    while y.sum() < 4 and k < 3:
        if y[0] > 0.6:
            y = TWO(y, 2.0, x)[0] + CLIP(y)
        else:
            y = CUBE(y) + TWO(y, 1, y)[1]
        y.register_hook(lambda g: g * 0.5)
        k += 1
    return y.sum()


def hooked(x: Any) -> Any:
    return control.fori_loop(0, 3, lambda i, c: SEEN(c) + x, x).sum()


def mindspores(x: Any) -> Any:
    y = ops.ForiLoop()(0, 2, lambda i, c: CUBE(c) + x, x)
    z = ops.WhileLoop()(lambda v: v.sum() < 30, lambda v: CLIP(v) * 1.5 + 0.5, y)
    last, rows = ops.Scan()(lambda c, a: (TWO(c, 1, a)[0], SEEN(c)), z, [x, y], 2)
    return last.sum() + ops.stack(list(rows)).sum()


def second(f: Callable[..., Any]) -> Callable[..., Any]:
    return ms.grad(lambda x: (ms.grad(f)(x) * ms.grad(f)(x)).sum())


HOW: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "value": lambda f: f,
    "grad": ms.grad,
    "grad of weights": lambda f: ms.grad(f, None, [CUBE.w, SEEN.dense.weight]),
    "jvp": lambda f: lambda x: ms.jvp(f, (x,), (x * 2,)),
    "second": second,
    "jvp of grad": lambda f: lambda x: ms.jvp(ms.grad(f), (x,), (x,))[1],
    "grad of jvp": lambda f: ms.grad(lambda x: ms.jvp(f, (x,), (x,))[1]),
    "vmap of grad": lambda f: lambda x: ms.vmap(ms.grad(f))(ops.stack([x, x * 1.5])),
}


def arrays(found: Any) -> list[np.ndarray]:
    return [a for part in found for a in arrays(part)] if isinstance(found, tuple) else [found.asnumpy()]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("function", [scanned, chosen, python_loops, hooked, mindspores], ids=lambda f: f.__name__)
def test_as_op_by_op(function: Callable[..., Any], how: str) -> None:
    x = Tensor(np.array([0.4, 0.7, -0.3], np.float32))
    ms.set_context(mode=ms.PYNATIVE_MODE)
    if how == "vmap of grad":
        expected = [np.stack([ms.grad(function)(x * k).asnumpy() for k in (1.0, 1.5)])]
    else:
        expected = arrays(HOW[how](function)(x))
    ms.set_context(mode=ms.GRAPH_MODE)
    found = arrays(ms.jit(HOW[how](function))(x))
    for want, got in zip(expected, found, strict=True):
        np.testing.assert_allclose(got, want, rtol=3e-5, atol=2e-6)


class Sin(nn.Cell):
    def construct(self, x: Any) -> Any:
        return ops.sin(x)

    def bprop(self, x: Any, out: Any, dout: Any) -> Any:
        return Cos()(x) * dout


class Cos(nn.Cell):
    def construct(self, x: Any) -> Any:
        return ops.cos(x)

    def bprop(self, x: Any, out: Any, dout: Any) -> Any:
        return -Sin()(x) * dout


def nth(f: Callable[..., Any], order: int) -> Callable[..., Any]:
    for _ in range(order):
        f = (lambda g: ms.grad(lambda x: g(x).sum()))(f)
    return f


def test_rules_that_use_one_another_are_traced_to_the_fourth_order() -> None:
    x = Tensor(np.array([0.3, 1.2], np.float32))
    ms.set_context(mode=ms.GRAPH_MODE)
    for order in range(5):
        found = ms.jit(nth(lambda x: control.fori_loop(0, 2, lambda i, c: Sin()(c), x), order))(x)
        expected = nth(lambda x: ops.sin(ops.sin(x)), order)(x)
        np.testing.assert_allclose(found.asnumpy(), expected.asnumpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(TraceError, match="has derivatives up to order 4 there"):
        ms.jit(nth(lambda x: control.fori_loop(0, 2, lambda i, c: Sin()(c), x), 5))(x)


class Keeps(nn.Cell):
    """Stores the gradient in a Parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = ms.Parameter(Tensor(np.zeros(2, np.float32)), name="kept")
        self.keep = ops.InsertGradientOf(self.store)

    def store(self, g: Any) -> Any:
        self.kept = g
        return g

    def construct(self, x: Any) -> Any:
        return control.fori_loop(0, 2, lambda i, c: self.keep(c) * 2, x)


def test_what_a_rule_in_a_body_must_not_do() -> None:
    ms.set_context(mode=ms.GRAPH_MODE)
    net = Keeps()
    with pytest.raises(TraceError, match="assigns to a Parameter, or bounds a while_loop"):
        ms.grad(net)(Tensor([1.0, 2.0]))

    def removes(c: Any) -> Any:
        handle = c.register_hook(lambda g: g * 2)
        handle.remove()
        return c

    with pytest.raises(TraceError, match="cannot be removed"):
        ms.jit(lambda x: control.fori_loop(0, 2, lambda i, c: removes(c), x))(Tensor([1.0]))


def test_the_op() -> None:
    """It prints and parses, what is wrong in it is named, and no pass leaves it."""
    x, out, ct = (input_node(n, TensorType(f32, (3,))) for n in ("x", "out", "ct"))
    back = Graph("rule", (out, ct), (), (ct * out,))
    (made,) = items(with_rule(sin(x), x, back=back, results=1, sources=1))
    graph = Graph("g", (x,), (), (made,))
    check(graph)
    text = print_graph(graph)
    assert print_graph(parse_graph(text, large_constants(graph))) == text
    assert "with_rule" not in print_graph(optimize(graph))
    with pytest.raises(ms.errors.ShapeError, match="inputs of back"):
        with_rule(sin(x), x, sin(x), back=back, results=1, sources=1)
    with pytest.raises(ms.errors.ShapeError, match="outputs of back"):
        with_rule(sin(x), slice_(x, start=(0,), stop=(2,), step=(1,)), back=back, results=1, sources=1)
