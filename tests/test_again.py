"""Values that are computed again instead of stored: what is dropped, what never is, and that every bit stays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from graphopt import config
from graphopt.compile import compile_graph
from graphopt.ir.graph import Graph, walk
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.linalg import matmul
from graphopt.opdefs.math import exp, sigmoid
from graphopt.opdefs.opdef import full, opdef
from graphopt.opdefs.reduce import reduce_sum
from graphopt.passes import again
from graphopt.passes.again import fuse_again
from graphopt.passes.fuse import fuse
from graphopt.passes.gradient import vjp
from graphopt.passes.materialise import LEAVES, materialise
from graphopt.passes.order import order
from graphopt.passes.pipeline import check, close, optimize
from tests.graphs import graphs, values
from tests.steps import leaf, state
from tests.test_random_graphs import with_gradients


def _gated(rows: int) -> Graph:
    """Two products with x sigmoid(x) between them, and all gradients: backward needs several values that follow from x."""
    x, w, v = leaf("x", rows, 64), state("w", 64, 256), state("v", 256, 64)
    h = matmul(x, w)
    y = matmul(h * sigmoid(h), v)
    loss = reduce_sum(y * y, axes=(0, 1))
    slopes = vjp((loss,), (full((), 1.0, loss.dtype),), (w, v))
    return optimize(Graph("gated", (x,), (w, v), (loss,), tuple((s, s - d) for s, d in zip((w, v), slopes, strict=True) if d)))


def _stored(graph: Graph, again_too: bool) -> dict[str, int]:
    """How many values of each op are stored between kernels."""
    whole = materialise(graph)
    groups = fuse_again(whole)[1] if again_too else fuse(whole)
    found: dict[str, int] = {}
    for n in (n for g in groups for n in g.stores):
        found[n.op] = found.get(n.op, 0) + 1
    return found


def test_what_follows_from_an_activation_is_not_stored() -> None:
    before, after = _stored(_gated(512), False), _stored(_gated(512), True)
    assert before["sigmoid"] == 1 and "sigmoid" not in after
    assert after["dot_general"] == before["dot_general"]
    assert sum(after.values()) < sum(before.values())


def test_small_values_are_stored() -> None:
    assert _stored(_gated(8), True) == _stored(_gated(8), False)


def test_what_costs_more_than_its_way_through_memory_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(again._CYCLES, "sigmoid", 1000.0)
    assert _stored(_gated(512), True)["sigmoid"] == 1


def test_every_bit_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = _gated(512)
    rng = np.random.default_rng(0)
    given_x = rng.standard_normal((512, 64)).astype(np.float32)
    start = [rng.standard_normal(s.shape).astype(np.float32) * 0.1 for s in graph.state]
    results = []
    for least in (again._LEAST_BYTES, 1 << 40):
        monkeypatch.setattr(again, "_LEAST_BYTES", least)
        for threads in (1, 2):
            with config.override(threads=threads, cache="off"):
                now = [s.copy() for s in start]
                results.append(b"".join(a.tobytes() for a in (*compile_graph(graph).run([given_x], now), *now)))
    assert len(set(results)) == 1


def test_twins_leave_updates_in_place() -> None:
    """A large state that a twin would have to read late, after its update, keeps what follows from it stored."""
    w, v = state("w", 512, 256), state("v", 256, 64)
    h = exp(w * w)
    y = matmul(h, v)
    loss = reduce_sum(y * y, axes=(0, 1))
    (slope,) = vjp((loss,), (full((), 1.0, loss.dtype),), (w,))
    assert slope is not None
    graph = optimize(Graph("step", (), (w, v), (loss,), ((w, w - slope),)))
    whole, groups = fuse_again(materialise(graph))
    assert set(order(whole, groups).in_place.values()) == {whole.state[0]}


def _heavy(graph: Graph) -> int:
    """How many nodes there are of kinds that must never be computed twice."""
    nodes = [n for n in walk(graph.roots) if n.op not in LEAVES]
    return sum(opdef(n.op).kind in ("contraction", "reduction", "kernel", "region") for n in nodes)


@settings(max_examples=60)
@given(graphs(steps=10))
def test_random_gradients_keep_their_values(graph: Graph) -> None:
    """All that can be computed again is: valid graphs, contractions and reductions once, the same values."""
    whole = optimize(with_gradients(graph))
    leaves = values(whole)
    with pytest.MonkeyPatch.context() as patch, config.override(backend="loops", cache="off"):
        patch.setattr(again, "_LEAST_BYTES", 1)
        patch.setattr(again, "_WRITE", 1e6)
        stored = materialise(whole)
        changed, groups = fuse_again(stored)
        check(changed)
        order(changed, groups)
        assert _heavy(changed) == _heavy(stored)
        for a, b in zip(evaluate_nodes(changed.roots, leaves), evaluate_nodes(stored.roots, leaves), strict=True):
            assert a.tobytes() == b.tobytes()
        found = compile_graph(whole).run([leaves[n] for n in whole.inputs], [leaves[n].copy() for n in whole.state])
    for a, b in zip(evaluate_nodes(whole.outputs, leaves), found, strict=True):
        assert close(a, b)
