"""Random bodies in loops and branches: what they compute, and their derivatives, are those of the same trips written out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt import config
from graphopt.compile import compile_graph
from graphopt.ir.graph import Graph, Node, input_node, state_node, substitute
from graphopt.ir.text import large_constants, parse_graph, print_graph
from graphopt.ir.types import TensorType, f32, i64
from graphopt.kernel import small
from graphopt.kernel import step as stepping
from graphopt.opdefs.control import branch, items, loop
from graphopt.opdefs.elementwise import eq, mod
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.opdef import constant, full
from graphopt.opdefs.shape import iota, reshape, slice_
from graphopt.passes.gradient import vjp
from graphopt.passes.pipeline import check, close, optimize
from tests.graphs import graphs, quarters
from tests.test_random_graphs import judged

TRIPS = 3


class Written:
    """A random body as a loop with a branch inside, and written out trip by trip, over the same leaves.

    The branch runs the body on even rows and keeps the carry on odd ones, where it gives zeros.
    """

    def __init__(self, body: Graph, backwards: bool):
        x, constant_leaf = body.inputs
        (carry,) = body.state
        fresh = dict(body.updates).get(carry, carry)
        self.xs = input_node("xs", x.type.with_shape((TRIPS, *x.shape)))
        self.c, self.h = input_node("c", constant_leaf.type), input_node("h", carry.type)
        self.leaves = (self.xs, self.c, self.h)
        zeros = [full(n.shape, 0, n.dtype) for n in body.outputs]
        looped = self._looped(body, carry, fresh, zeros, backwards)
        self.graph = Graph("looped", self.leaves, (), looped)
        value, rows = self.h, {}
        for k in reversed(range(TRIPS)) if backwards else range(TRIPS):
            row = reshape(self._cut(k), shape=x.shape)
            made = substitute([fresh, *body.outputs], {x: row, constant_leaf: self.c, carry: value})
            value, rows[k] = (made[0], made[1:]) if k % 2 == 0 else (value, zeros)
        self.final = value
        self.rows: list[list[Node]] = [[rows[k][j] for k in range(TRIPS)] for j in range(len(body.outputs))]

    def _cut(self, k: int) -> Node:
        rest = self.xs.shape[1:]
        return slice_(self.xs, start=(k, *[0] * len(rest)), stop=(k + 1, *rest), step=(1,) * (len(rest) + 1))

    def _looped(
        self, body: Graph, carry: Node, fresh: Node, zeros: Sequence[Node], backwards: bool
    ) -> tuple[Node, ...]:
        x, constant_leaf = body.inputs
        inside = input_node("s", carry.type)
        roots = substitute([fresh, *body.outputs], {carry: inside})
        then = Graph("then", (x, constant_leaf, inside), (), tuple(roots))
        others = tuple([input_node(n.attrs["name"], n.type) for n in then.inputs])
        other = Graph("other", others, (), (others[2], *zeros))
        row, trip, c, s = (input_node(*n) for n in (("row", x.type), ("k", TensorType(i64, ())), ("c", constant_leaf.type),
                                                    ("unused", carry.type)))  # fmt: skip
        s = state_node("s", carry.type)
        even = eq(mod(trip, constant(2, i64)), constant(0, i64))
        after, *outputs = items(branch(even, row, c, s, then=then, other=other))
        whole = Graph("body", (row, trip, c), (s,), tuple(outputs), ((s, after),))
        made = loop(
            self.h, self.xs, iota(shape=(TRIPS,), axis=0, dtype=i64), self.c, body=whole, test=None, length=TRIPS,
            reverse=backwards, stacked=2, counted=False,
        )  # fmt: skip
        return items(made)


@settings(max_examples=25)
@given(graphs(), st.booleans(), st.booleans())
def test_backends_agree_with_the_trips_written_out(body: Graph, backwards: bool, shared: bool) -> None:
    written = Written(body, backwards)
    check(written.graph)
    text = print_graph(written.graph)
    assert print_graph(parse_graph(text, large_constants(written.graph))) == text
    check(optimize(written.graph))
    leaves = quarters(written.graph)
    flat = [written.final, *(n for rows in written.rows for n in rows)]
    with np.errstate(all="ignore"):
        trusted = judged(flat, leaves)
    bits: list[list[bytes]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small, "MOST_WORK", 0)
        patch.setattr(stepping, "_TEAM_WORK", 0.0 if shared else 6000.0)
        for backend, threads in (("numpy", 1), ("loops", 1), ("llvm", 1), ("llvm", 2)):
            with config.override(backend=backend, threads=threads, cache="off"):
                found = compile_graph(written.graph).run([leaves[n] for n in written.leaves], [])
            if backend == "llvm":
                bits.append([a.tobytes() for a in found])
            pairs = [(written.final, found[0])]
            pairs += [(n, found[1 + j][k]) for j, rows in enumerate(written.rows) for k, n in enumerate(rows)]
            for node, value in pairs:
                if node in trusted:
                    expected = trusted[node].astype(value.dtype)
                    assert close(expected, value), f"{backend}: {value}, expected {expected}\n{text}"
    assert bits[0] == bits[1], f"the number of threads changes bits\n{text}"


@settings(max_examples=25)
@given(graphs(steps=8), st.booleans())
def test_derivatives_are_those_of_the_trips_written_out(body: Graph, backwards: bool) -> None:
    written = Written(body, backwards)
    leaves = quarters(written.graph)
    rng = np.random.default_rng(1)

    def weights(n: Node) -> Node:
        return constant(rng.integers(-4, 5, n.shape) / 4, n.dtype)

    def gradients(outputs: Sequence[Node], cotangents: Sequence[Node]) -> list[Node]:
        floats = [(n, ct) for n, ct in zip(outputs, cotangents, strict=True) if n.dtype is f32]
        found = vjp([n for n, _ in floats], [ct for _, ct in floats], written.leaves)
        return [full(n.shape, 0, n.dtype) if g is None else g for n, g in zip(written.leaves, found, strict=True)]

    first, *stacks = written.graph.outputs
    ct, *cts = [weights(n) for n in written.graph.outputs]
    flat = [written.final, *(n for rows in written.rows for n in rows)]
    parts = [ct]
    for stack in cts:
        whole = stack.attrs["value"]
        parts += [constant(np.array(whole[k]), stack.dtype) for k in range(TRIPS)]
    looped = gradients((first, *stacks), (ct, *cts))
    expected = evaluate_nodes(gradients(flat, parts), leaves)
    graph = Graph("gradient", written.leaves, (), tuple(looped))
    check(graph)
    optimized = optimize(graph)
    check(optimized)
    with np.errstate(all="ignore"):
        for roots in (graph.outputs, optimized.outputs):
            for a, b in zip(expected, evaluate_nodes(roots, leaves), strict=True):
                assert not np.all(np.isfinite(a)) or close(a, b), f"{b}, expected {a}\n{print_graph(graph)}"
