"""Execution order, and updates written straight into their state: only where nobody reads the old value afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.ir.graph import Graph, Node, walk
from graphopt.ir.text import print_graph
from graphopt.ir.types import f32, i32
from graphopt.opdefs.elementwise import maximum
from graphopt.opdefs.index import gather, put_along_add, scatter_add
from graphopt.opdefs.linalg import dot_general, matmul
from graphopt.opdefs.math import exp, tanh
from graphopt.opdefs.opdef import constant, full
from graphopt.opdefs.reduce import reduce_max, reduce_sum
from graphopt.opdefs.rows import scatter_set
from graphopt.opdefs.shape import broadcast, concat, pad, reshape, reverse, slice_, transpose
from graphopt.passes.fuse import Group, fuse
from graphopt.passes.materialise import INLINE, LEAVES, materialise
from graphopt.passes.order import Schedule, order, owned
from graphopt.passes.pipeline import optimize
from tests.graphs import graphs
from tests.steps import GRAPHS, agree, arguments, compiled, leaf, lowered, meaning, rows, run, state

Golden = Callable[..., None]

A, B = state("a", 8, 8), state("b", 8, 8)
X = leaf("x", 8, 8)


def scheduled(graph: Graph) -> tuple[Graph, Schedule]:
    stored = materialise(optimize(graph))
    return stored, order(stored, fuse(stored))


def text_of(graph: Graph, schedule: Schedule) -> str:
    """What runs when: the values each group stores, `->` the state that receives one in place."""
    names = {n: f"%{k}" for k, n in enumerate(walk(graph.roots))}
    lines = []
    for g in schedule.groups:
        stores = [
            f"{names[n]} {n.op}" + (f" -> {schedule.in_place[n].attrs['name']}" if n in schedule.in_place else "")
            for n in g.stores
        ]
        lines.append(f"{g.kind} {list(g.full)}: {', '.join(stores)}")
    copied = [s.attrs["name"] for s, v in graph.updates if v is not s and v not in schedule.in_place]
    return "\n".join([*lines, f"copied at the end: {', '.join(copied) or 'nothing'}", ""])


@pytest.mark.parametrize("name", ["adam_after_dot", "batch_norm_training", "mlp_step"])
def test_order_golden(name: str, golden: Golden) -> None:
    graph = GRAPHS[name]()
    golden(f"order_{name}.txt", text_of(*scheduled(graph)), before=print_graph(graph, where=False))


def test_a_sum_to_one_number_stands_where_its_operand_is_read_or_made() -> None:
    """That of an input in front of the first product, that of what a product makes behind it."""
    x, w = leaf("x", 128, 512), leaf("w", 512, 512)
    hidden = tanh(matmul(x, w))
    result = matmul(matmul(tanh(matmul(hidden, w)), w), w)
    sums = [reshape(reduce_sum(n, axes=(0, 1)), shape=(1,)) for n in (result, x, hidden)]
    _, schedule = scheduled(Graph("g", (x, w), (), (result, reduce_sum(concat(*sums, axis=0), axes=(0,)))))
    large = ["product" if g.kind == "contraction" else "sum" for g in schedule.groups if g.full[0] == 128]
    assert large == ["sum", "product", "sum", "product", "product", "product", "sum"]


# which updates are in place


def in_place(updates: dict[Node, Node], *outputs: Node) -> set[str]:
    """Names of the states that are updated in place; on the way, all backends compute the numpy meaning."""
    graph = Graph("g", (X,), (A, B), outputs, tuple(updates.items()))
    _, schedule = scheduled(graph)
    inputs, states = arguments(graph)
    expected = meaning(graph, inputs, states)
    for backend in ("loops", "llvm"):
        agree(run(compiled(graph, backend), inputs, states), expected, backend)
    return {s.attrs["name"] for s in schedule.in_place.values()}


def test_plain_updates_are_in_place() -> None:
    assert in_place({A: A + X, B: B * 0.9}) == {"a", "b"}
    assert in_place({A: maximum(matmul(X, X) + A, 0.0)}) == {"a"}
    assert in_place({A: X * 2.0}) == {"a"}


def test_a_reader_elsewhere_runs_first() -> None:
    assert in_place({A: A + X}, reduce_sum(exp(A), axes=(0,)), matmul(A, X)) == {"a"}
    assert in_place({A: A + X}, transpose(A, perm=(1, 0))) == {"a"}
    assert in_place({A: A + B, B: B * 0.5}) == {"a", "b"}


def test_a_swap_is_not_in_place_twice() -> None:
    assert len(in_place({A: B, B: A})) <= 1
    assert len(in_place({A: B + 1.0, B: A * 2.0})) <= 2
    assert in_place({A: A + B, B: A - B}) <= {"a", "b"}


def test_a_state_that_is_read_after_its_update_is_copied() -> None:
    changed = A + X
    total = reduce_sum(matmul(changed, X), axes=(0, 1))
    assert in_place({A: changed}, A * broadcast(total, shape=(8, 8), axes=())) == set()
    assert in_place({A: changed, B: B + matmul(changed, A)}) == {"b"}


def test_a_state_read_at_another_point_is_copied() -> None:
    """The value at one point depends on the old value at another, which may have been overwritten."""
    reshaped = reshape(reshape(A, shape=(64,)), shape=(8, 8))
    for moved in (transpose(A, perm=(1, 0)), reverse(A, axes=(1,)), reverse(A, axes=(0,)), reshaped):
        found = in_place({A: A + moved * 0.5})
        assert found == set() or moved.op == "reshape", moved
    cut = slice_(A, start=(0, 1), stop=(8, 8), step=(1, 1))
    shifted = pad(cut, constant(0.0, A.dtype), low=(0, 0), high=(0, 1), interior=(0, 0))
    assert in_place({A: A + shifted}) == set()
    assert in_place({A: matmul(A, A)}) == set()
    assert in_place({A: matmul(A, X) + A}) == set()
    assert in_place({A: A + gather(A, constant([0] * 8, i32), axis=0)}) == set()
    row = slice_(A, start=(0, 0), stop=(1, 8), step=(1, 1))
    in_place({A: A + broadcast(reshape(row, shape=(8,)), shape=(8, 8), axes=(1,))})  # the row may be copied first


def test_a_state_read_in_a_later_pass_over_its_row_is_copied() -> None:
    softmax = exp(A - rows(reduce_max(A, axes=(1,)), A.shape))
    in_place({A: softmax / rows(reduce_sum(softmax, axes=(1,)), A.shape)})
    new = A * 0.5
    later = A - rows(reduce_sum(new, axes=(1,)), A.shape)
    assert in_place({A: new}, later) == set()
    assert in_place({A: later}, new) <= {"a"}
    cheap = A * 3.0 + 1.0  # computed again in the second pass, from the old value
    assert in_place({A: cheap * 0.5}, cheap * rows(reduce_sum(cheap, axes=(1,)), A.shape)) == set()


PLACES = constant([6, 1, 9], i32)
THREE = slice_(X, start=(0, 0), stop=(3, 8), step=(1, 1))


def test_an_op_that_starts_from_a_state_changes_it_where_it_lies() -> None:
    assert in_place({A: scatter_add(A, constant([1, 1, 5], i32), THREE, axis=0)}) == {"a"}
    assert in_place({A: scatter_set(A, PLACES, THREE * 2.0)}) == {"a"}
    column = slice_(X, start=(0, 0), stop=(8, 1), step=(1, 1))
    assert in_place({A: put_along_add(A, constant([[0], [1], [1]] + [[7]] * 5, i32), column, axis=1)}) == {"a"}


def test_rows_of_the_old_value_are_read_before_others_are_written() -> None:
    """The look-ups before a step, the rows an update starts from, and rows that only change places."""
    assert in_place({A: scatter_set(A, PLACES, gather(A, PLACES, axis=0) * 0.5 + THREE)}, gather(A, PLACES, axis=0)) == {"a"}
    assert in_place({A: scatter_set(A, PLACES, gather(A, constant([1, 6, 0], i32), axis=0))}, matmul(X, A)) == {"a"}
    assert in_place({A: scatter_set(A, PLACES, slice_(A, start=(0, 0), stop=(3, 8), step=(1, 1)))}) == {"a"}
    assert in_place({A: scatter_set(A, PLACES, THREE)}, A, transpose(A, perm=(1, 0))) == {"a"}


def test_several_changes_one_after_the_other_are_made_in_place() -> None:
    once = scatter_set(A, PLACES, THREE)
    flat = reshape(once, shape=(64,))
    assert in_place({A: scatter_add(once, PLACES, THREE, axis=0)}) == {"a"}
    assert in_place({A: scatter_add(once, PLACES, gather(once, PLACES, axis=0), axis=0)}) == {"a"}
    around = scatter_set(flat, PLACES, gather(flat, reverse(PLACES, axes=(0,)), axis=0))
    assert in_place({A: reshape(around, shape=(8, 8))}) == {"a"}
    assert in_place({A: scatter_add(once, PLACES, THREE, axis=0)}, reduce_sum(once, axes=(0,))) == {"a"}
    assert in_place({A: scatter_add(once, PLACES, THREE, axis=0)}, once) == set()
    assert in_place({A: scatter_add(once, PLACES, gather(A, PLACES, axis=0), axis=0)}) == {"a"}
    assert in_place({A: scatter_add(once, PLACES, THREE, axis=0)}, reduce_sum(once, axes=(0, 1)) * A) == set()


def test_a_table_is_copied_when_its_old_value_is_needed_while_or_after_it_changes() -> None:
    changed = scatter_set(A, PLACES, THREE)
    assert in_place({A: scatter_set(A, constant(list(range(7, -1, -1)), i32), A)}) == set()
    assert in_place({A: changed}, reduce_sum(changed, axes=(0, 1)) * A) == set()
    assert in_place({A: changed}, gather(changed, PLACES, axis=0)) == {"a"}
    assert in_place({A: scatter_set(B, PLACES, THREE), B: scatter_add(A, PLACES, THREE, axis=0)}) == set()


def test_an_op_continues_a_temporary_that_nobody_reads_later() -> None:
    def copies(*outputs: Node) -> int:
        graph = Graph("g", (X,), (A, B), outputs)
        inputs, states = arguments(graph)
        expected = meaning(graph, inputs, states)
        for backend in ("loops", "llvm"):
            agree(run(compiled(graph, backend), inputs, states), expected, backend)
        return sum(k.name == "copy" for k in lowered(graph).kernels)

    base = tanh(X)
    assert copies(scatter_add(full((8, 8), 0.0, f32), PLACES, THREE, axis=0)) == 0
    assert copies(scatter_add(base, PLACES, THREE, axis=0)) == 0
    assert copies(scatter_set(scatter_add(base, PLACES, THREE, axis=0), PLACES, THREE)) == 0
    assert copies(scatter_add(base, PLACES, THREE, axis=0), reduce_sum(base * base, axes=(0,))) == 0
    changed = scatter_add(base, PLACES, THREE, axis=0)
    assert copies(changed, reduce_sum(base * reduce_sum(changed, axes=(0, 1)), axes=(0,))) == 1
    assert copies(scatter_add(base, PLACES, THREE, axis=0), base) == 1
    assert copies(scatter_add(base, PLACES, slice_(base, start=(0, 0), stop=(3, 8), step=(1, 1)), axis=0)) == 0
    assert copies(scatter_add(A, PLACES, THREE, axis=0)) == 1


def test_an_output_of_the_new_or_the_old_value_keeps_it() -> None:
    changed = A + X
    in_place({A: changed}, changed)
    in_place({A: changed}, A)
    in_place({A: B, B: B}, A, B)


# properties


def _state_read(node: Node, memo: dict[Node, set[Node]]) -> set[Node]:
    """State leaves behind movement."""
    if node not in memo:
        memo[node] = (
            {node} if node.op == "state"
            else set().union(*(_state_read(i, memo) for i in node.inputs)) if node.op in INLINE - LEAVES and node.inputs
            else set()
        )  # fmt: skip
    return memo[node]


def check_schedule(graph: Graph, schedule: Schedule) -> None:
    """Every group follows what it reads; every reader of a state that is updated in place runs before its writer."""
    owner = {n: g for g in schedule.groups for n in g.nodes}
    place = {g: k for k, g in enumerate(schedule.groups)}
    readers: dict[Node, set[Group]] = {}
    memo: dict[Node, set[Node]] = {}
    for g in schedule.groups:
        for n in g.nodes:
            for i in n.inputs:
                for s in _state_read(i, memo):
                    readers.setdefault(s, set()).add(g)
                stack = [i]
                while stack:
                    source = stack.pop()
                    if source in owner:
                        assert place[owner[source]] <= place[g]
                    else:
                        stack.extend(source.inputs)
    updates = dict(graph.updates)
    assert {updates[s] for s in schedule.in_place.values()} <= set(schedule.in_place)
    for value, s in schedule.in_place.items():
        assert value in owner[value].stores and value.type.size == s.type.size and value.dtype is s.dtype
        assert updates[s] is value or value in schedule.continued.values()
        assert all(place[r] <= place[owner[value]] for r in readers.get(s, ())), f"{s} is read after it was overwritten"
    for value, former in schedule.continued.items():
        assert former not in graph.roots
        for g in schedule.groups:
            if any(former in owned(i, owner) for n in g.members for i in n.inputs):
                assert place[g] <= place[owner[value]], f"{former} is read after it was overwritten"


@pytest.mark.parametrize("name", GRAPHS)
def test_schedules_of_training_steps(name: str) -> None:
    check_schedule(*scheduled(GRAPHS[name]()))


@given(graphs())
def test_schedules_of_random_graphs(graph: Graph) -> None:
    check_schedule(*scheduled(graph))


_MOVES: tuple[Callable[[Node], Node], ...] = (
    lambda x: transpose(x, perm=(1, 0)),
    lambda x: reverse(x, axes=(0,)),
    tanh,
    lambda x: x * 0.5,
    lambda x: rows(reduce_sum(x, axes=(1,)), x.shape) * 0.25,
    lambda x: broadcast(reduce_sum(x, axes=(0,)), shape=x.shape, axes=(1,)) * 0.25,
    lambda x: dot_general(x, X, contract=((1,), (1,)), batch=((), ())) * 0.1,
    lambda x: scatter_set(x, PLACES, THREE),
    lambda x: scatter_add(x, PLACES, gather(x, constant([1, 0, 6], i32), axis=0), axis=0),
    lambda x: reshape(
        scatter_set(
            reshape(x, shape=(64,)), PLACES, slice_(reshape(x, shape=(64,)), start=(0,), stop=(3,), step=(1,))
        ),
        shape=(8, 8),
    ),
    lambda x: reshape(transpose(reshape(x, shape=(4, 2, 8)), perm=(1, 0, 2)), shape=(8, 8)),
)


@st.composite
def state_graphs(draw: Callable[..., object]) -> Graph:
    """Three states of one shape whose new values are mixed from old and new ones in every way."""
    states = [A, B, state("c", 8, 8)]
    pool: list[Node] = [X, *states]
    for _ in range(draw(st.integers(2, 7))):  # type: ignore[arg-type,type-var]
        x = draw(st.sampled_from(pool))
        assert isinstance(x, Node)
        if draw(st.booleans()):
            y = draw(st.sampled_from(pool))
            pool.append(x + y)  # type: ignore[operator]
        else:
            pool.append(draw(st.sampled_from(_MOVES))(x))  # type: ignore[operator]
    updates = tuple((s, draw(st.sampled_from(pool[1:]))) for s in states)
    return Graph("states", (X,), tuple(states), tuple(pool[-2:]), updates)  # type: ignore[arg-type]


@given(state_graphs())
def test_states_receive_their_new_values_whatever_reads_them(graph: Graph) -> None:
    check_schedule(*scheduled(graph))
    inputs, states = arguments(graph)
    expected = meaning(graph, inputs, states)
    found = run(compiled(graph, "loops"), inputs, states)
    agree(found, expected, print_graph(graph, where=False), factor=64)  # sums of sums, up to seven deep
