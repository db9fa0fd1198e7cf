"""Parts of training steps as graphs, and how the back end's tests compile and run them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from graphopt import config
from graphopt.compile import Compiled, compile_graph
from graphopt.ir.graph import Graph, Node, input_node, state_node
from graphopt.ir.types import DType, TensorType, f32, i32
from graphopt.kernel.machine import AVX2, Machine
from graphopt.kernel.repeats import Repeats
from graphopt.kernel.step import Step, lower_graph
from graphopt.opdefs.elementwise import cast, eq, gt, maximum, select
from graphopt.opdefs.evaluate import evaluate
from graphopt.opdefs.linalg import dot_general, matmul
from graphopt.opdefs.math import exp, log, rsqrt, sqrt
from graphopt.opdefs.opdef import constant, full
from graphopt.opdefs.reduce import reduce_max, reduce_sum
from graphopt.opdefs.shape import along, broadcast, iota, reshape, transpose
from graphopt.passes.gradient import vjp
from graphopt.passes.pipeline import optimize, random_array
from tests.tolerances import assert_close


def leaf(name: str, *shape: int, dtype: DType = f32) -> Node:
    return input_node(name, TensorType(dtype, shape))


def state(name: str, *shape: int, dtype: DType = f32) -> Node:
    return state_node(name, TensorType(dtype, shape))


def rows(x: Node, shape: tuple[int, ...]) -> Node:
    """A value per row, at every element of the row."""
    return broadcast(x, shape=shape, axes=tuple(range(len(shape) - 1)))


def cross_entropy(logits: Node, labels: Node) -> Node:
    """The mean over rows of -log softmax at the label."""
    n, classes = logits.shape
    shifted = logits - rows(reduce_max(logits, axes=(1,)), logits.shape)
    log_sum = log(reduce_sum(exp(shifted), axes=(1,)))
    hit = eq(rows(labels, logits.shape), iota(shape=(n, classes), axis=1, dtype=i32))
    at_label = reduce_sum(select(hit, shifted, full(logits.shape, 0.0, logits.dtype)), axes=(1,))
    return reduce_sum(log_sum - at_label, axes=(0,)) / float(n)


def softmax_cross_entropy() -> Graph:
    """Loss and the derivative by the logits."""
    logits, labels = leaf("logits", 32, 10), leaf("labels", 32, dtype=i32)
    loss = cross_entropy(logits, labels)
    (grad,) = vjp([loss], [constant(1.0, f32)], [logits])
    assert grad is not None
    return Graph("softmax_cross_entropy", (logits, labels), (), (loss, grad))


def normalised(x: Node, axes: tuple[int, ...], eps: float = 1e-5) -> tuple[Node, Node, Node]:
    """(x less its mean, over its deviation; mean; variance) along `axes`."""
    count = float(np.prod([x.shape[k] for k in axes]))
    kept = tuple(k for k in range(len(x.shape)) if k not in axes)
    mean = reduce_sum(x, axes=axes) / count
    away = x - broadcast(mean, shape=x.shape, axes=kept)
    variance = reduce_sum(away * away, axes=axes) / count
    return away * broadcast(rsqrt(variance + eps), shape=x.shape, axes=kept), mean, variance


def layer_norm() -> Graph:
    """Forward, and the derivatives by x, gamma and beta."""
    x, ct = leaf("x", 16, 64), leaf("ct", 16, 64)
    gamma, beta = leaf("gamma", 64), leaf("beta", 64)
    y = normalised(x, (1,))[0] * broadcast(gamma, shape=x.shape, axes=(1,)) + broadcast(beta, shape=x.shape, axes=(1,))
    grads = vjp([y], [ct], [x, gamma, beta])
    return Graph("layer_norm", (x, gamma, beta, ct), (), (y, *(g for g in grads if g is not None)))


def dense_bias_relu() -> Graph:
    x, w, b = leaf("x", 32, 20), leaf("w", 20, 24), leaf("b", 24)
    return Graph("dense_bias_relu", (x, w, b), (), (maximum(matmul(x, w) + b, 0.0),))


def batch_norm_training() -> Graph:
    """Forward over (N, C, H, W) with moving statistics, and the derivatives by x, gamma and beta."""
    x, ct = leaf("x", 4, 6, 5, 5), leaf("ct", 4, 6, 5, 5)
    gamma, beta = state("gamma", 6), state("beta", 6)
    mean, variance = state("mean", 6), state("variance", 6)
    unit, m, v = normalised(x, (0, 2, 3))
    y = unit * broadcast(gamma, shape=x.shape, axes=(1,)) + broadcast(beta, shape=x.shape, axes=(1,))
    gx, gg, gb = (g for g in vjp([y], [ct], [x, gamma, beta]) if g is not None)
    updates = (
        (mean, mean * 0.9 + m * 0.1),
        (variance, variance * 0.9 + v * 0.1),
        (gamma, gamma - gg),
        (beta, beta - gb),
    )
    return Graph("batch_norm_training", (x, ct), (gamma, beta, mean, variance), (y, gx), updates)


def adam_after_dot(batch: int = 32, m: int = 20, n: int = 24) -> Graph:
    """Adam's update of a dense layer's weights, whose gradient is a product of two matrices."""
    x, ct, rate = leaf("x", batch, m), leaf("ct", batch, n), leaf("rate")
    w, first, second = state("w", m, n), state("first", m, n), state("second", m, n)
    grad = dot_general(x, ct, contract=((0,), (0,)), batch=((), ()))
    m1 = first * 0.9 + grad * 0.1
    m2 = second * 0.999 + grad * grad * 0.001
    new = w - broadcast(rate, shape=(m, n), axes=()) * m1 / (sqrt(m2) + 1e-8)
    return Graph("adam_after_dot", (x, ct, rate), (w, first, second), (), ((w, new), (first, m1), (second, m2)))


def attention() -> Graph:
    """softmax(q kᵀ / sqrt d) v for two heads, from one product with the weights, and the weights' gradient step."""
    x, w = leaf("x", 2, 9, 16), state("w", 16, 48)
    heads = reshape(dot_general(x, w, contract=((2,), (0,)), batch=((), ())), shape=(2, 9, 3, 2, 8))
    parts = transpose(heads, perm=(2, 0, 3, 1, 4))
    q, k, v = (reshape(along(parts, 0, j, j + 1), shape=(2, 2, 9, 8)) for j in range(3))
    scores = dot_general(q, k, contract=((3,), (3,)), batch=((0, 1), (0, 1))) * float(8**-0.5)
    e = exp(scores - rows(reduce_max(scores, axes=(3,)), scores.shape))
    p = e / rows(reduce_sum(e, axes=(3,)), e.shape)
    out = dot_general(p, v, contract=((3,), (2,)), batch=((0, 1), (0, 1)))
    loss = reduce_sum(out * out, axes=(0, 1, 2, 3))
    (grad,) = vjp([loss], [constant(1.0, f32)], [w])
    assert grad is not None
    return Graph("attention", (x,), (w,), (loss,), ((w, w - 0.1 * grad),))


def mlp_step(batch: int = 24, sizes: tuple[int, ...] = (12, 20, 10), rate: float = 0.1) -> Graph:
    """Dense layers with relu, cross-entropy, and gradient descent with momentum on every parameter."""
    x, labels = leaf("x", batch, sizes[0]), leaf("labels", batch, dtype=i32)
    params = [
        p for k, (m, n) in enumerate(zip(sizes, sizes[1:], strict=False))
        for p in (state(f"w{k}", m, n), state(f"b{k}", n))
    ]  # fmt: skip
    h = x
    for k, (w, b) in enumerate(zip(params[::2], params[1::2], strict=True)):
        h = matmul(h, w) + b
        if k + 2 < len(sizes):
            h = select(gt(h, 0.0), h, full(h.shape, 0.0, f32))
    loss = cross_entropy(h, labels)
    grads = vjp([loss], [constant(1.0, f32)], params)
    moments = [state(f"m.{p.attrs['name']}", *p.shape) for p in params]
    updates: list[tuple[Node, Node]] = []
    for p, m, g in zip(params, moments, grads, strict=True):
        assert g is not None
        v = m * 0.9 + g
        updates += [(m, v), (p, p - rate * v)]
    return Graph("mlp_step", (x, labels), (*params, *moments), (loss,), tuple(updates))


GRAPHS = {
    make.__name__: make
    for make in (
        softmax_cross_entropy,
        layer_norm,
        dense_bias_relu,
        batch_norm_training,
        adam_after_dot,
        attention,
        mlp_step,
    )
}


def lower_all(patch: pytest.MonkeyPatch) -> None:
    """Every group is lowered, also one that does what another has done before."""
    patch.setattr(Repeats, "kernels", lambda self, group, lowering, lower: lower(group, lowering))


def lowered(graph: Graph, machine: Machine = AVX2) -> Step:
    """The kernels of a graph, optimized first; for a fixed machine, so that texts are the same everywhere."""
    return lower_graph(optimize(graph), machine)


def compiled(graph: Graph, backend: str = "llvm", threads: int = 1, **switches: object) -> Compiled:
    with config.override(**{"backend": backend, "threads": threads, "cache": "off", **switches}):
        return compile_graph(graph)


def arguments(graph: Graph, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Ordinary inputs and state; second moments and variances are not negative."""
    rng = np.random.default_rng(seed)
    inputs = [np.array(random_array(n.type, rng), order="C") for n in graph.inputs]
    states = [np.array(random_array(n.type, rng), order="C") for n in graph.state]
    for n, a in zip(graph.state, states, strict=True):
        if n.attrs["name"] in ("second", "variance"):
            np.abs(a, out=a)
    return inputs, states


def run(executable: Compiled, inputs: Sequence[np.ndarray], states: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs followed by the new states; the given arrays keep their values."""
    mine = [s.copy() for s in states]
    return [*executable.run(list(inputs), mine), *mine]


def meaning(graph: Graph, inputs: Sequence[np.ndarray], states: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The same by the ops' numpy meaning."""
    mine = [s.copy() for s in states]
    with np.errstate(all="ignore"):
        return [*evaluate(graph, list(inputs), mine), *mine]


def agree(found: Sequence[np.ndarray], expected: Sequence[np.ndarray], what: str, factor: float = 8.0) -> None:
    """Close to the numpy meaning, an array's rounding measured against its largest element.

    factor: a value of a step has gone through many operations, each rounded.
    """
    for k, (a, e) in enumerate(zip(found, expected, strict=True)):
        with np.errstate(all="ignore"):
            finite = np.abs(e[np.isfinite(e)].astype(np.float64)) if e.dtype.kind not in "biu" else np.zeros(1)
        assert_close(a, e, factor=factor, scale=np.max(finite, initial=0.0), what=f"{what}: value {k}")


__all__ = ["GRAPHS", "agree", "arguments", "cast", "compiled", "leaf", "lower_all", "lowered", "meaning", "run", "state"]
