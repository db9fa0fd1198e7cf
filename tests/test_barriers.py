"""Threads: where barriers stand, and that nothing inside a kernel depends on which thread runs which iteration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt import compile as compiling
from graphopt.compile import run_loops
from graphopt.ir.graph import Graph, state_node
from graphopt.ir.types import TensorType, f32
from graphopt.kernel import run as interpreter
from graphopt.kernel import small
from graphopt.kernel import step as stepping
from graphopt.kernel.barriers import EVERY, LARGER, TEAMS, place_barriers
from graphopt.kernel.items import Item, Repeat, controls_of
from graphopt.kernel.loops import Buffer, For, Kernel, Load, Store, expressions, loaded, statements
from graphopt.kernel.step import Step
from graphopt.opdefs.control import items, loop
from graphopt.opdefs.elementwise import lt
from graphopt.opdefs.linalg import matmul
from graphopt.opdefs.math import tanh
from graphopt.opdefs.opdef import constant
from graphopt.opdefs.reduce import reduce_sum
from graphopt.passes.gradient import vjp
from tests.graphs import graphs, quarters, values
from tests.steps import GRAPHS, arguments, leaf, lowered, mlp_step, rows
from tests.test_random_control import Written

Span = tuple[str, int, int]


@pytest.fixture
def sliced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the smallest kernel is shared by the team, in equal slices."""
    monkeypatch.setattr(stepping, "_TEAM_WORK", 0.0)
    monkeypatch.setattr(stepping, "_CHUNK_WORK", 1e12)


@pytest.fixture(params=["slices", "chunks"])
def shared(request: pytest.FixtureRequest, sliced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, or dealt out in chunks."""
    if request.param == "chunks":
        monkeypatch.setattr(stepping, "_CHUNK_WORK", 1.0)


# the rule, told again: which bytes each kernel reads and writes, and who runs it


def touched(step: Step, kernel: Kernel) -> tuple[set[Span], set[Span]]:
    """(memory, first byte, byte after the last) of what a kernel reads and writes."""
    reads: set[Span] = set()
    writes: set[Span] = set()

    called = dict(zip(kernel.params, kernel.args, strict=True))

    def span(param: Buffer) -> Span:
        b = called[param]
        at = step.plan.offsets.get(b)
        size = b.size * b.dtype.itemsize
        return ("arena", at, at + size) if at is not None else (f"argument {id(b)}", 0, size)

    for s in statements(kernel.body):
        if isinstance(s, For):
            continue
        if isinstance(s, Store) and not s.buffer.local:
            writes.add(span(s.buffer))
        for e in [s.value, *loaded(s.index)] if isinstance(s, Store) else [s.condition]:
            reads |= {span(x.buffer) for x in expressions(e) if isinstance(x, Load) and not x.buffer.local}
    return reads, writes


def _meet(a: set[Span], b: set[Span]) -> bool:
    return any(m == n and p < s and r < q for m, p, q in a for n, r, s in b)


def standing(step: Step, team: int = 99) -> list[bool]:
    """The barriers that a team of that size waits at."""
    bit = team if team <= TEAMS else LARGER
    return [b and not s >> bit & 1 for b, s in zip(step.barriers, step.spared, strict=True)]


def unguarded(step: Step, barriers: Sequence[bool]) -> list[tuple[int, int]]:
    """Pairs of kernels that depend on each other, may run on different threads, and have no barrier between them.

    What a large team must not have.
    """
    memory = [touched(step, k) for k in step.kernels]
    found = []
    for j in range(len(step.kernels)):
        for i in range(j):
            if any(barriers[i + 1 : j + 1]) or not (step.parallel[i] or step.parallel[j]):
                continue
            (r, w), (q, v) = memory[i], memory[j]
            if _meet(w, q) or _meet(w, v) or _meet(r, v):
                found.append((i, j))
    return found


def placed(step: Step) -> Step:
    """The step with the barriers that its kernels need now."""
    shared = {k for k, team in zip(step.kernels, step.parallel, strict=True) if team}
    dealt = {k for k, n in zip(step.kernels, step.chunks, strict=True) if n > 1}
    before = place_barriers(step.items, shared, dealt, step.plan).before
    needing = [before.get(k, 0) for k in step.kernels]
    return replace(step, barriers=tuple(map(bool, needing)), spared=tuple([EVERY & ~n for n in needing]))


def without(barriers: Sequence[bool], k: int) -> list[bool]:
    return [b and n != k for n, b in enumerate(barriers)]


@pytest.mark.parametrize("name", GRAPHS)
def test_dependent_kernels_have_a_barrier_between_them_and_none_is_idle(name: str, shared: None) -> None:
    step = lowered(GRAPHS[name]())
    barriers = standing(step)
    assert unguarded(step, barriers) == []
    for k, barrier in enumerate(barriers):
        needed = step.chunks[k] > 1 or unguarded(step, without(barriers, k))
        assert not barrier or needed, f"the barrier before kernel {k} guards nothing"


def test_a_step_needs_its_barriers(shared: None) -> None:
    """The check itself can fail: this step has barriers, and each of them is missed."""
    step = lowered(mlp_step())
    assert sum(step.parallel) >= 6 and sum(standing(step)) >= 4
    assert len(unguarded(step, [False] * len(step.kernels))) > sum(standing(step))


def test_thread_0_waits_for_nobody_when_it_runs_everything() -> None:
    step = lowered(mlp_step(3, (4, 5, 3)))
    assert not any(step.parallel) and not any(step.barriers)


def test_mixed_ownership_has_barriers_where_the_owner_changes() -> None:
    """One kernel that the team shares among many that thread 0 runs alone."""
    step = lowered(mlp_step())
    for k in range(len(step.kernels)):
        parallel = tuple(n == k for n in range(len(step.kernels)))
        mixed = placed(replace(step, parallel=parallel, chunks=(1,) * len(parallel)))
        barriers = standing(mixed)
        assert unguarded(mixed, barriers) == []
        for n, barrier in enumerate(barriers):
            assert not barrier or unguarded(mixed, without(barriers, n))


@given(graphs())
def test_barriers_of_random_graphs(graph: Graph) -> None:
    step = lowered(graph)
    step = placed(replace(step, parallel=tuple(k.extent > 1 for k in step.kernels)))
    assert unguarded(step, standing(step)) == []


# inside a kernel: iterations of parallel loops do not meet


class Tracer(interpreter.Interpreter):
    """Records which parallel iteration reads and writes which element; local memory starts every iteration as garbage."""

    iteration: tuple[int, int] | None = None

    def __init__(self, kernel: Kernel, arrays: Sequence[np.ndarray]):
        super().__init__(kernel, arrays)
        self.writer: dict[tuple[Buffer, int], tuple[int, int] | None] = {}
        self.readers: dict[tuple[Buffer, int], set[tuple[int, int] | None]] = {}
        self.loops = 0

    def _loop(self, s: For) -> None:
        if s.kind != "par":
            super()._loop(s)
            return
        self.loops += 1
        for k in range(s.var.size):
            self.iteration = (self.loops, k)
            for b in self.kernel.locals:
                self.memory[b].view(np.uint8)[...] = 0xA5
            self.vars[s.var] = k
            self._body(s.body)
        self.iteration = None

    def _body(self, body: Any) -> None:
        for s in body:
            super()._body([s])
            if isinstance(s, Store) and not s.buffer.local:
                for element in np.atleast_1d(self.index(s.index)).tolist():
                    before = self.writer.setdefault((s.buffer, element), self.iteration)
                    assert before == self.iteration, (
                        f"{s.buffer}[{element}] is written by {before} and {self.iteration}"
                    )

    def _load(self, e: Load) -> Any:
        if not e.buffer.local:
            mask = np.asarray(True if e.mask is None else self.value(e.mask))
            where, mask = np.broadcast_arrays(np.atleast_1d(self.index(e.index)), mask)
            for element in where[mask].tolist():
                assert 0 <= element < e.buffer.size, f"{e.buffer}[{element}] lies outside its {e.buffer.size} elements"
                self.readers.setdefault((e.buffer, element), set()).add(self.iteration)
        return super()._load(e)

    def run(self) -> None:
        super().run()
        for place, readers in self.readers.items():
            if place in self.writer:
                assert readers == {self.writer[place]}, f"{place} is written by {self.writer[place]}, read by {readers}"


def check_iterations(
    step: Step, monkeypatch: pytest.MonkeyPatch, arrays: tuple[list[np.ndarray], list[np.ndarray]]
) -> None:
    expected_states = [s.copy() for s in arrays[1]]
    expected = run_loops(step, arrays[0], expected_states)
    with monkeypatch.context() as patch:
        patch.setattr(interpreter, "Interpreter", Tracer)
        found = run_loops(step, arrays[0], arrays[1])
    for a, b in zip([*expected, *expected_states], [*found, *arrays[1]], strict=True):
        assert a.tobytes() == b.tobytes(), "a value depends on what local memory held before"
    for kernel in step.kernels:
        if kernel.extent > 1:
            assert all(isinstance(s, For) and s.kind == "par" for s in kernel.body), (
                f"all threads run a part of {kernel.name}"
            )


@pytest.mark.parametrize("name", GRAPHS)
def test_iterations_of_training_steps_touch_memory_of_their_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = GRAPHS[name]()
    check_iterations(lowered(graph), monkeypatch, arguments(graph))


@settings(max_examples=30)
@given(graphs(steps=8))
def test_iterations_of_random_graphs_touch_memory_of_their_own(graph: Graph) -> None:
    leaves = values(graph)
    with pytest.MonkeyPatch.context() as patch:
        check_iterations(lowered(graph), patch, ([leaves[n] for n in graph.inputs], [leaves[n] for n in graph.state]))


# small teams: slices of the same memory, and which bytes each thread really touches


class Slices(Tracer):
    """Records for each iteration of each parallel loop which elements it touches; `made` lists all kernels' in order."""

    made: list[Slices] = []

    def __init__(self, kernel: Kernel, arrays: Sequence[np.ndarray]):
        super().__init__(kernel, arrays)
        self.sizes: dict[int, int] = {}
        Slices.made.append(self)

    def _loop(self, s: For) -> None:
        if s.kind == "par":
            self.sizes[self.loops + 1] = s.var.size
        super()._loop(s)

    def threads(self, iteration: tuple[int, int] | None, team: int, dealt: bool) -> int:
        """Who may run an iteration, as bits."""
        if iteration is None or dealt:
            return (1 << team) - 1
        loop, k = iteration
        size = self.sizes[loop]
        return sum(1 << t for t in range(team) if size * t // team <= k < size * (t + 1) // team)

    def masks(self, chunks: int, parallel: bool, team: int, places: dict[Buffer, int], total: int) -> list[np.ndarray]:
        """For each byte of memory, the threads that read it and those that write it."""
        masks = [np.zeros(total, np.int64), np.zeros(total, np.int64)]
        called = dict(zip(self.kernel.params, self.kernel.args, strict=True))
        reads = [((b, k), i) for (b, k), who in self.readers.items() for i in who]
        for mask, touched in zip(masks, (reads, list(self.writer.items())), strict=True):
            for (buffer, element), iteration in touched:
                size = buffer.dtype.itemsize
                at = places[called[buffer]] + element * size
                mask[at : at + size] |= self.threads(iteration, team, chunks > 1) if parallel else 1
        return masks


def meetings(step: Step, team: int, barriers: Sequence[bool], found: Sequence[Slices]) -> list[tuple[int, int]]:
    """Pairs of kernels without a barrier between them of which one writes a byte that another thread touches in the other."""
    places = {b: at for b, at in step.plan.offsets.items() if isinstance(b, Buffer)}
    total = step.plan.arena_bytes + 64
    for b, _, _ in step.args:
        places[b], total = total, total + max(b.size, 1) * b.dtype.itemsize
    masks = [s.masks(n, p, team, places, total) for s, n, p in zip(found, step.chunks, step.parallel, strict=True)]
    pairs = []
    for j in range(len(found)):
        for i in range(j):
            if any(barriers[i + 1 : j + 1]):
                continue
            (r, w), (q, v) = masks[i], masks[j]
            both = [(w, q), (w, v), (r, v)]
            if any(((a != 0) & (b != 0) & ((a | b) & ((a | b) - 1) != 0)).any() for a, b in both):
                pairs.append((i, j))
    return pairs


def traced(step: Step, graph: Graph, arrays: tuple[list[np.ndarray], list[np.ndarray]]) -> list[Slices]:
    Slices.made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "Interpreter", Slices)
        run_loops(step, *arrays)
    return Slices.made


@pytest.mark.parametrize("name", GRAPHS)
def test_no_byte_crosses_threads_without_a_barrier_in_any_small_team(name: str, shared: None) -> None:
    graph = GRAPHS[name]()
    step = lowered(graph)
    step = placed(replace(step, parallel=tuple(k.extent > 1 for k in step.kernels)))
    found = traced(step, graph, arguments(graph))
    for team in range(2, TEAMS + 1):
        assert meetings(step, team, standing(step, team), found) == []
        if any(b and n == 1 for b, n in zip(step.barriers, step.chunks, strict=True)):
            assert meetings(step, team, [False] * len(found), found), "the check itself can fail"


@settings(max_examples=40)
@given(graphs(steps=10))
def test_no_byte_crosses_threads_in_random_graphs(graph: Graph) -> None:
    step, leaves = lowered(graph), values(graph)
    step = placed(replace(step, parallel=tuple(k.extent > 1 for k in step.kernels)))
    found = traced(step, graph, ([leaves[n] for n in graph.inputs], [leaves[n] for n in graph.state]))
    for team in (2, 3, 5, 8):
        assert meetings(step, team, standing(step, team), found) == []


def test_what_is_dealt_out_has_a_barrier_and_no_owner(sliced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of the same rows need no barrier between them for two threads, chunks do, before and behind them."""
    x, w = leaf("x", 48, 32), leaf("w", 32, 64)
    h = matmul(x, w)
    step = lowered(Graph("rows", (x, w), (), (h / rows(reduce_sum(h, axes=(1,)), h.shape),)))
    assert standing(step, 2) == [False, False] and set(step.chunks) == {1}
    for dealt, barriers in (([4, 1], [True, True]), ([1, 4], [False, True]), ([4, 4], [True, True])):
        assert standing(placed(replace(step, chunks=tuple(dealt))), 2) == barriers
    monkeypatch.setattr(stepping, "_CHUNK_WORK", 1.0)
    assert all(n > 1 for n in lowered(step.graph).chunks)


def test_kernels_that_divide_rows_alike_need_no_barrier(sliced: None) -> None:
    """Row after row: softmax of a product's rows; and a step whose slices are alike for some teams only."""
    x, w = leaf("x", 48, 32), leaf("w", 32, 64)  # tiles of 6 rows
    h = matmul(x, w)
    y = h / rows(reduce_sum(h, axes=(1,)), h.shape)
    step = lowered(Graph("rows", (x, w), (), (y,)))
    assert sum(step.parallel) >= 2
    assert sum(standing(step, 2)) < sum(standing(step)), "two threads meet the same rows"
    assert [sum(standing(step, t)) for t in range(2, TEAMS + 1)] != [0] * (TEAMS - 1), "three threads do not"


# branches and loops: the same, as a step goes through them


class Run:
    """A run of a step in its branches and loops: kernels and what threads touched in each, and the places of barriers.

    Bytes are counted from the addresses of arrays, as rows of stacks move.
    """

    def __init__(self, step: Step, arrays: tuple[list[np.ndarray], list[np.ndarray]]):
        self.step = step
        self.events: list[tuple[Item, Slices | None, list[int]]] = []
        loop_of = {r.test: r for r in controls_of(step.items) if isinstance(r, Repeat) and r.test}
        self.tested: set[int] = set()
        whole = compiling._run_items

        def each(sequence: Sequence[Item], memory: dict[Buffer, np.ndarray], run: Any) -> None:
            for item in sequence:
                self.events.append((item, None, []))
                whole((item,), memory, run)
            if tuple(sequence) in loop_of:
                self.tested.add(len(self.events))
                self.events.append((loop_of[tuple(sequence)], None, []))

        def one(kernel: Kernel, memory: dict[Buffer, np.ndarray]) -> None:
            given = [memory[b] for b in kernel.args]
            made = Slices(kernel, given)
            made.run()
            self.events[-1] = kernel, made, [a.__array_interface__["data"][0] for a in given]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compiling, "_run_items", each)
            run_loops(step, *arrays, run=one)

    def met(self, team: int, guarded: bool = True) -> int:
        """How many bytes some thread touched that another had written, or wrote that another had touched, since a barrier."""
        numbers = {k: n for n, k in enumerate(self.step.kernels)}
        waits = standing(self.step, team)
        since: dict[int, tuple[int, int]] = {}
        count = 0
        for n, (item, made, at) in enumerate(self.events):
            if isinstance(item, Kernel):
                barrier = waits[numbers[item]]
            else:
                barrier = item in (self.step.test_waits if n in self.tested else self.step.waits)
            if barrier and guarded:
                since = {}
            if made is None:
                continue
            k = numbers[made.kernel]
            places = dict(zip(made.kernel.params, at, strict=True))
            who = [(b, e, i, False) for (b, e), found in made.readers.items() for i in found]
            who += [(b, e, i, True) for (b, e), i in made.writer.items()]
            for buffer, element, iteration, write in who:
                threads = made.threads(iteration, team, self.step.chunks[k] > 1) if self.step.parallel[k] else 1
                for byte in range(buffer.dtype.itemsize):
                    place = places[buffer] + element * buffer.dtype.itemsize + byte
                    readers, writers = since.get(place, (0, 0))
                    before = readers | writers if write else writers
                    count += bool(before) and (before | threads).bit_count() > 1
                    since[place] = (readers | threads * (not write), writers | threads * write)
        return count


def nested(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> Step:
    """A step whose loops are no single kernels, and whose kernels are all shared, in slices."""
    monkeypatch.setattr(small, "MOST_WORK", 0)
    monkeypatch.setattr(stepping, "_TEAM_WORK", 0.0)
    monkeypatch.setattr(stepping, "_AMONG_WORK", 0.0)
    monkeypatch.setattr(stepping, "_CHUNK_WORK", 1e12)
    return lowered(graph)


def recurrent(backwards: bool = False, n: int = 16) -> Graph:
    """h <- tanh(x W + h V), row by row: its last value, or the derivatives of the sum of all."""
    w, v, h0, xs = leaf("w", n, n), leaf("v", n, n), leaf("h", n, n), leaf("xs", 3, n, n)
    x, a, b = leaf("x", n, n), leaf("a", n, n), leaf("b", n, n)
    h = state_node("s", TensorType(f32, (n, n)))
    fresh = tanh(matmul(x, a) + matmul(h, b))
    body = Graph("body", (x, a, b), (h,), (fresh,), ((h, fresh),))
    made = loop(h0, xs, w, v, body=body, test=None, length=3, reverse=False, stacked=1, counted=False)
    last, stack = items(made)
    if not backwards:
        return Graph("recurrent", (w, v, h0, xs), (), (last,))
    total = reduce_sum(stack, axes=(0, 1, 2))
    found = vjp([total], [constant(1.0, f32)], [w, v, h0])
    return Graph("gradient", (w, v, h0, xs), (), (total, *[g for g in found if g is not None]))


def until(most: float = 60.0) -> Graph:
    """h <- h + tanh(h W) while the sum of h is small."""
    w, h0 = leaf("w", 12, 12), leaf("h", 12, 12)
    a, h = leaf("a", 12, 12), state_node("s", TensorType(f32, (12, 12)))
    body = Graph("body", (a,), (h,), (), ((h, h + tanh(matmul(h, a))),))
    held = state_node("t", h.type)
    goes = lt(reduce_sum(held, axes=(0, 1)), constant(most, f32))
    test = Graph("test", (), (held,), (goes,))
    made = loop(h0, w, body=body, test=test, length=6, reverse=False, stacked=0, counted=False)
    last, count = items(made)
    return Graph("until", (w, h0), (), (last, count))


LOOPS = {"recurrent": recurrent, "gradient": lambda: recurrent(True), "until": until}


@pytest.mark.parametrize("name", LOOPS)
def test_no_byte_crosses_threads_in_loops(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = LOOPS[name]()
    step = nested(graph, monkeypatch)
    run = Run(step, arguments(graph))
    assert any(not isinstance(i, Kernel) for i in step.items) and sum(step.parallel) >= 2
    for team in (2, 3, 4, 8):
        assert run.met(team) == 0
        assert run.met(team, guarded=False), "the check itself can fail"


@settings(max_examples=20)
@given(graphs(steps=6), st.booleans())
def test_no_byte_crosses_threads_in_random_loops(body: Graph, backwards: bool) -> None:
    written = Written(body, backwards)
    leaves = quarters(written.graph)
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        step = nested(written.graph, patch)
        run = Run(step, ([leaves[n] for n in written.leaves], []))
    assert [run.met(team) for team in (2, 3, 5)] == [0, 0, 0]


def test_a_loop_whose_kernels_divide_rows_alike_has_no_barrier_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads go through the trips by themselves: what they read of the weights was copied before."""
    step = nested(recurrent(n=32), monkeypatch)
    (inside,) = [i for i in step.items if isinstance(i, Repeat)]
    kernels = [k for k in inside.body if isinstance(k, Kernel)]
    assert len(kernels) >= 2 and inside in step.waits
    waits = dict(zip(step.kernels, standing(step, 2), strict=True))
    assert not any(waits[k] for k in kernels)
    waits = dict(zip(step.kernels, standing(step), strict=True))
    assert any(waits[k] for k in kernels), "slices of large teams are not compared"
