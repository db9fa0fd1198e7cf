"""Fusion: which nodes share a kernel, what is stored, and what materialisation promises."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given

from graphopt.ir.graph import Graph, Node, walk
from graphopt.ir.text import print_graph
from graphopt.ir.types import DType, f32, i16, i32, i64
from graphopt.kernel.loops import show
from graphopt.kernel.machine import AVX2
from graphopt.kernel.step import lower_graph
from graphopt.opdefs.elementwise import eq, maximum, select
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.linalg import matmul
from graphopt.opdefs.math import exp, sqrt, tanh
from graphopt.opdefs.opdef import constant, full, opdef
from graphopt.opdefs.reduce import reduce_max, reduce_sum
from graphopt.opdefs.shape import broadcast, concat, iota, reshape, reverse, transpose
from graphopt.passes.fuse import Group, fuse, show_groups
from graphopt.passes.materialise import INLINE, LEAVES, dims_of, follow, materialise, stored_base
from graphopt.passes.order import order
from graphopt.passes.pipeline import check, optimize
from tests.graphs import graphs, values
from tests.steps import GRAPHS, agree, arguments, compiled, leaf, lowered, meaning, rows, run

Golden = Callable[..., None]


def grouped(graph: Graph) -> tuple[Graph, list[Group]]:
    """The materialised graph and its groups in the order in which they run."""
    stored = materialise(optimize(graph))
    groups = fuse(stored)
    schedule = order(stored, groups)
    assert sorted(g.number for g in schedule.groups) == sorted(g.number for g in groups), "a group needs itself"
    return stored, list(schedule.groups)


def text_of(graph: Graph, groups: Sequence[Group]) -> str:
    """Groups as text, without the lines of this repository they were written at."""
    names = {n: f"%{k}" for k, n in enumerate(walk(graph.roots))}
    return re.sub(r"  # .*", "", show_groups(groups, names)) + "\n"


@pytest.mark.parametrize(
    "name", ["softmax_cross_entropy", "layer_norm", "dense_bias_relu", "batch_norm_training", "adam_after_dot"]
)
def test_groups_golden(name: str, golden: Golden) -> None:
    graph = GRAPHS[name]()
    stored, groups = grouped(graph)
    golden(f"fuse_{name}.txt", text_of(stored, groups), before=print_graph(graph, where=False))


# what each pattern must become, said without the golden text


def _kinds(*outputs: Node) -> list[str]:
    leaves = tuple(n for n in walk(outputs) if n.op == "input")
    return [g.kind for g in grouped(Graph("g", leaves, (), outputs))[1]]


def test_softmax_is_one_kernel_and_so_is_what_follows_a_product() -> None:
    x, w, b = leaf("x", 16, 12), leaf("w", 12, 24), leaf("b", 24)
    e = exp(x - rows(reduce_max(x, axes=(1,)), x.shape))
    assert _kinds(e / rows(reduce_sum(e, axes=(1,)), x.shape)) == ["loops"]
    dense = matmul(x, w) + b
    assert _kinds(maximum(dense, 0.0)) == ["contraction"]
    assert _kinds(tanh(dense), dense * 2.0) == ["contraction"]
    assert _kinds(transpose(dense, perm=(1, 0))) == ["contraction", "loops"]


def _beside(x: Node, w: Node, axis: int) -> tuple[Node, ...]:
    """Values of several kinds side by side, of use to an output, a product and a sum."""
    mean = reduce_sum(x, axes=(1,)) * 0.125
    parts = [tanh(x), maximum(matmul(x, w), 0.0), rows(mean, x.shape) - x]
    whole = concat(*parts, axis=axis)
    few = concat(mean * 2.0, tanh(mean), axis=0)
    return whole, matmul(transpose(whole, perm=(1, 0)), whole), reduce_sum(whole, axes=(0,)), few, few * 2.0


@pytest.mark.parametrize("axis", [0, 1])
def test_values_are_stored_side_by_side_at_once(axis: int) -> None:
    """No kernel moves what is computed for a concat alone; its readers read one array."""
    x, w = leaf("x", 5, 19), leaf("w", 19, 19)
    graph = Graph("g", (x, w), (), _beside(x, w, axis))
    kinds = [g.kind for g in grouped(graph)[1]]
    assert kinds.count("join") == 2
    step = lower_graph(graph, AVX2)
    assert not any(n.op == "alias" for k in step.kernels for n in k.nodes)
    inputs, _ = arguments(graph)
    expected = meaning(graph, inputs, [])
    for backend in ("loops", "llvm"):
        agree(run(compiled(graph, backend), inputs, []), expected, backend)
    own = concat(tanh(x), tanh(x), axis=0)
    assert "join" not in _kinds(own) and "join" not in _kinds(concat(x, exp(x), axis=0))


def test_a_transposed_product_is_written_transposed_at_once() -> None:
    x, w = leaf("x", 16, 12), leaf("w", 12, 24)
    stored = materialise(Graph("g", (x, w), (), (transpose(matmul(x, w), perm=(1, 0)),)))
    (group,) = fuse(stored)
    assert group.kind == "contraction" and group.full == (24, 16)
    assert group.nodes[0] not in group.stores and group.stores == (stored.outputs[0],)


def test_what_a_third_group_stands_between_stays_apart() -> None:
    """x + f(x @ x) may not join the group of x's producer: the product would have to run inside it."""
    x = leaf("x", 8, 8)
    y = exp(x) + 1.0
    z = y + tanh(matmul(y, y))
    stored, groups = grouped(Graph("g", (x,), (), (z, y)))
    owner = {n: g for g in groups for n in g.nodes}
    assert owner[stored.outputs[0]] is not owner[stored.outputs[1]]


def test_a_reduction_that_leaves_no_rows_to_share_has_a_pass_of_its_own() -> None:
    wide, small = leaf("wide", 1 << 16), leaf("small", 100)
    for x, kinds in ((wide, ["loops", "loops"]), (small, ["loops"])):
        e = exp(x)
        stored = materialise(Graph("g", (x,), (), (e, reduce_sum(e, axes=(0,)))))
        assert [g.kind for g in fuse(stored)] == kinds


# materialisation


def test_every_root_has_a_buffer_of_its_own() -> None:
    x = leaf("x", 3, 4)
    same, number = exp(x), constant(np.arange(12.0, dtype=np.float32).reshape(3, 4))
    outputs = (x, same, same, transpose(x, perm=(1, 0)), number, broadcast(number, shape=(3, 4), axes=(0, 1)))
    stored = materialise(Graph("g", (x,), (), outputs))
    assert len(set(stored.outputs)) == len(outputs)
    assert all(r.op not in INLINE | LEAVES for r in stored.outputs)
    assert stored.outputs[1] is same


def test_operands_that_no_stride_reads_are_stored_first() -> None:
    x, w = leaf("x", 6, 4), leaf("w", 4, 5)
    free = [x, reverse(x, axes=(0, 1)), transpose(leaf("t", 4, 6), perm=(1, 0)), reshape(leaf("r", 24), shape=(6, 4))]
    for a in free:
        assert _kinds(matmul(a, w)) == ["contraction"], a
    for a in (concat(x, x, axis=0), reshape(transpose(x, perm=(1, 0)), shape=(6, 4)), exp(x)):
        assert _kinds(matmul(a, w)) == ["loops", "contraction"], a


# properties


def _computed_behind(node: Node, owner: dict[Node, Group]) -> set[Node]:
    """The computed values that reading `node` touches, through movement."""
    if node in owner:
        return {node}
    return set().union(*(_computed_behind(i, owner) for i in node.inputs)) if node.inputs else set()


def check_groups(graph: Graph, groups: Sequence[Group]) -> None:
    """Every rule of a grouping that the lowering relies on."""
    owner: dict[Node, Group] = {}
    for g in groups:
        for n in g.nodes:
            assert n not in owner, f"{n} is in two groups"
            owner[n] = g
    for n in walk(graph.roots):
        assert (n in owner) == (n.op not in INLINE | LEAVES) or owner[n].result is n, f"{n} is in no group"
    for root in graph.roots:
        assert root in owner[root].stores if root in owner else root.op == "state"
    place = {g: k for k, g in enumerate(groups)}
    for g in groups:
        position = {n: k for k, n in enumerate(g.nodes)}
        for n in g.nodes:
            expected = g.kept if n in g.rows else g.full
            assert n is g.nodes[0] and g.result is not None or n.shape == expected or opdef(n.op).kind == "reduction"
            for i in n.inputs:
                for source in _computed_behind(i, owner):
                    if owner[source] is g:
                        assert position[source] < position[n], f"{n} stands before {source}"
                    else:
                        assert source in owner[source].stores, f"{source} is read by another group but not stored"
                        assert place[owner[source]] < place[g], f"group {g.number} stands before what it reads"


@given(graphs())
def test_groups_cover_everything_once_in_order_of_dependency(graph: Graph) -> None:
    check_groups(*grouped(graph))


@pytest.mark.parametrize("name", GRAPHS)
def test_groups_of_training_steps(name: str) -> None:
    check_groups(*grouped(GRAPHS[name]()))


@given(graphs())
def test_materialised_graphs_keep_their_values_and_promises(graph: Graph) -> None:
    graph = optimize(graph)
    stored = materialise(graph)
    check(stored)
    leaves = values(graph)
    for a, b in zip(evaluate_nodes(graph.roots, leaves), evaluate_nodes(stored.roots, leaves), strict=True):
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    for n in walk(stored.roots):
        if n.op not in LEAVES and opdef(n.op).kind == "contraction":
            dims = dims_of(n)
            for source, idx in zip(n.inputs, (dims.a, dims.b), strict=True):
                found = follow(source, idx)
                assert found is not None and stored_base(found[0]).op not in INLINE - LEAVES
                assert all(i.is_affine for i in found[1])


def test_shown_groups_name_the_users_line() -> None:
    x = leaf("x", 4)
    stored = materialise(Graph("g", (x,), (), (exp(x),)))
    text = show_groups(fuse(stored), {x: "%0", stored.outputs[0]: "%1"})
    assert re.search(r"\* %1: f32\[4\] = exp\(%0\)  # test_fuse.py:\d+", text)


def test_groups_that_read_the_same_values_become_one() -> None:
    """Two norms, of a state and of its step, and what follows from both, though nothing computes one from the other."""
    w, g = leaf("w", 300, 200), leaf("g", 300, 200)
    step = g * 0.5 + w * 0.1
    norms = [sqrt(reduce_sum(x * x, axes=(0, 1))) for x in (w, step)]
    ratio = broadcast(norms[0] / norms[1], shape=w.shape, axes=())
    stored, groups = grouped(Graph("g", (w, g), (), (w - ratio * step,)))
    assert [len(g.sinks) for g in groups] == [2, 0, 0]
    assert {n.op for n in groups[1].nodes} == {"reduce_sum", "sqrt", "div"}


def test_siblings_stay_apart_when_one_needs_the_other_elsewhere() -> None:
    x = leaf("x", 40, 40)
    y = exp(x)
    z = x * transpose(y, perm=(1, 0))
    assert len(grouped(Graph("g", (x,), (), (y, z)))[1]) == 2


@pytest.mark.parametrize("backend", ["loops", "llvm"])
@pytest.mark.parametrize(("kind", "least"), [(i32, -3), (i64, -3), (i16, 0)], ids=str)
def test_a_sum_of_one_chosen_element_reads_it(kind: DType, least: int, backend: str) -> None:
    """Numbers that are not there choose nothing, -0 becomes a sum's 0, and an element beside the chosen one may be NaN."""
    x, at = leaf("x", 9, 37), leaf("at", 9, dtype=kind)
    away = x - rows(reduce_max(x, axes=(1,)), x.shape)
    chosen = eq(iota(shape=x.shape, axis=1, dtype=kind), rows(at, x.shape))
    total = reduce_sum(select(chosen, away, full(x.shape, 0, f32)), axes=(1,))
    graph = Graph("g", (x, at), (), (exp(total), total))
    values = np.random.default_rng(0).normal(size=(9, 37)).astype(np.float32)
    values[2, 5], values[3, 7] = np.nan, np.inf
    values[4] = values[4].max()
    numbers = np.array([least, 36, 5, 6, 3, 0, 37, 39, 17]).astype(kind.numpy)
    found = run(compiled(graph, backend), [values, numbers], [])
    agree(found, meaning(graph, [values, numbers], []), backend)
    assert not np.signbit(found[1][4])
    folds = ["fold_add" in show(k) for k in lowered(graph).kernels]
    assert any(folds) == (kind is i16)  # narrow numbers wrap, so that one may choose several
