"""Sinks: reductions over several sets of axes from one pass, in slices that the shapes alone decide."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.ir.graph import Graph, Node, walk
from graphopt.ir.types import DType, bf16, f16, f32
from graphopt.opdefs.elementwise import maximum
from graphopt.opdefs.math import exp, tanh
from graphopt.opdefs.opdef import constant, opdef
from graphopt.opdefs.reduce import reduce_sum
from graphopt.opdefs.shape import broadcast, transpose
from graphopt.passes import cut
from graphopt.passes.fuse import Group, fuse
from graphopt.passes.gradient import vjp
from graphopt.passes.materialise import materialise
from graphopt.passes.pipeline import optimize
from tests.steps import agree, arguments, compiled, leaf, meaning, normalised, run, state

REDUCE = ["reduce_sum", "reduce_max", "reduce_min", "reduce_prod"]


def _groups(*outputs: Node, updates: tuple[tuple[Node, Node], ...] = ()) -> list[Group]:
    leaves = walk([*outputs, *(v for _, v in updates), *(s for s, _ in updates)])
    inputs, states = ([n for n in leaves if n.op == op] for op in ("input", "state"))
    return fuse(materialise(optimize(Graph("g", tuple(inputs), tuple(states), outputs, updates))))


def _check(graph: Graph, what: str, factor: float = 8.0) -> None:
    """Native code and the interpreter agree with numpy; one thread and three give the same bits."""
    inputs, states = arguments(graph)
    expected = meaning(graph, inputs, states)
    one = run(compiled(graph), inputs, states)
    agree(one, expected, what, factor)
    for a, b in zip(one, run(compiled(graph, threads=3), inputs, states), strict=True):
        assert a.tobytes() == b.tobytes(), f"{what}: the number of threads changes bits"
    agree(run(compiled(graph, "loops"), inputs, states), expected, f"{what}, interpreted", factor)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small spaces are cut too, into slices of a few elements."""
    thresholds = {"SMALL_ELEMS": 0, "FEW_SLICES": 2, "SLICE_ELEMS": 16, "PER_RESULT": 1, "LONG_COLUMN": 2, "FEW_COLUMNS": 0}
    for name, value in thresholds.items():
        monkeypatch.setattr(cut, name, value)


SPLITS = [
    ((1 << 16,), (0,)),
    ((65537,), (0,)),
    ((3, 1 << 15), (1,)),
    ((40000, 10), (0,)),
    ((2, 3, 5, 3000), (0, 1, 2, 3)),
    ((7, 60000, 3), (1,)),
    ((33000, 2, 5), (0, 2)),
]


@pytest.mark.parametrize(("shape", "axes"), SPLITS)
@pytest.mark.parametrize("name", REDUCE)
def test_large_reductions_to_few_results_come_in_slices(name: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    x = leaf("x", *shape)
    out = opdef(name)(x, axes=axes)
    first, second = _groups(out)
    assert first.sinks == [out] and not first.nodes and first.slices >= 8
    assert second.finishes == {out: first} and second.full == (first.slices, *out.shape)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((cut.SMALL_ELEMS,), (0,)), ((64, 1 << 15), (1,)), ((400, 300), (0,)), ((0, 1 << 15), (1,)), ((0,), (0,))],
    ids=["small", "many results", "short columns", "no results", "empty"],
)
def test_other_reductions_are_one_kernel(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    assert [g.sinks for g in _groups(reduce_sum(leaf("x", *shape), axes=axes))] == [[]]


@pytest.mark.parametrize("dtype", [f16, bf16])
def test_halves_are_summed_in_f32_between_the_slices(dtype: DType) -> None:
    x = leaf("x", 1 << 16, dtype=dtype)
    array = np.random.default_rng(0).uniform(0, 0.5, 1 << 16).astype(dtype.numpy)
    (found,) = compiled(Graph("sum", (x,), (), (reduce_sum(x, axes=(0,)),))).run([array], [])
    exact = np.float64(array.astype(np.float64).sum()).astype(np.float32).astype(dtype.numpy)
    assert found.dtype == dtype.numpy and found == exact


SHAPES = [(65,), (1, 130), (130, 1), (40, 33), (9, 64), (3, 5, 17), (8, 2, 16), (17, 1, 20), (2, 130, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [f32, f16], ids=str)
def test_every_set_of_axes_from_one_space(shape: tuple[int, ...], dtype: DType, eager: None) -> None:
    x, y = leaf("x", *shape, dtype=dtype), leaf("y", *shape, dtype=dtype)
    value = tanh(x) * y
    sets = [tuple(k for k in range(len(shape)) if bits >> k & 1) for bits in range(1, 1 << len(shape))]
    outputs = [opdef(name)(value, axes=axes) for name in REDUCE[:3] for axes in sets]
    _check(Graph("sets", (x, y), (), (*outputs, value)), f"{shape}")


def _normalisation(rows: int, width: int) -> Graph:
    x, gamma, beta = leaf("x", rows, width), state("gamma", width), state("beta", width)
    y = normalised(x, (1,))[0] * broadcast(gamma, shape=x.shape, axes=(1,)) + broadcast(beta, shape=x.shape, axes=(1,))
    loss = reduce_sum(y * y, axes=(0, 1))
    dx, dgamma, dbeta = (g for g in vjp([loss], [constant(1.0, f32)], [x, gamma, beta]) if g is not None)
    return Graph("layer_norm", (x,), (gamma, beta), (loss, dx), ((gamma, gamma - dgamma), (beta, beta - dbeta)))


def test_a_normalisation_and_all_its_gradients_read_memory_once() -> None:
    graph = _normalisation(256, 200)
    groups = fuse(materialise(optimize(graph)))
    assert [len(g.sinks) for g in groups] == [3, 0, 0]
    assert not any(n.op in ("mul", "sub", "add") for n in groups[0].stores if n.shape != (256, 200))
    _check(graph, "layer norm", 64.0)


def test_the_sum_of_what_is_computed_anyway_needs_no_pass() -> None:
    x = leaf("x", 1 << 16)
    value = exp(x)
    (grad,) = vjp([reduce_sum(value, axes=(0,))], [constant(1.0, f32)], [x])
    assert grad is not None
    first, second = _groups(reduce_sum(value, axes=(0,)), grad)
    assert first.sinks and [n.op for n in second.nodes] == ["reduce_sum"]


def test_what_returns_to_its_columns_stays_in_one_kernel() -> None:
    """Columns are summed down one by one when the sum is used all along the column, unless a team would find too few."""
    for width, count in ((256, 1), (16, 3)):
        x = leaf("x", 4096, width)
        total = reduce_sum(x, axes=(0,))
        assert len(_groups(x - broadcast(total, shape=x.shape, axes=(1,)))) == count
        assert len(_groups(total * total)) == 2


def test_normalised_channels_that_lie_last() -> None:
    """Few channels of many points: threads share the points."""
    x, ct = leaf("x", 8, 24, 24, 16), leaf("ct", 8, 24, 24, 16)
    y = normalised(x, (0, 1, 2))[0]
    (dx,) = vjp([y], [ct], [x])
    assert dx is not None
    _check(Graph("channels_last", (x, ct), (), (y, dx)), "channels last", 64.0)


def test_slices_of_a_state_that_the_same_pass_replaces(eager: None) -> None:
    s, x = state("s", 40, 33), leaf("x", 40, 33)
    new = s + x
    graph = Graph("g", (x,), (s,), (reduce_sum(s * s, axes=(0, 1)), reduce_sum(new, axes=(0,))), ((s, maximum(new, 0.0)),))
    _check(graph, "state")


def test_a_sink_may_read_through_movement(eager: None) -> None:
    x = leaf("x", 33, 40)
    moved = transpose(x, perm=(1, 0))
    _check(Graph("g", (x,), (), (reduce_sum(moved, axes=(0,)), reduce_sum(exp(moved), axes=(0, 1)))), "moved")
