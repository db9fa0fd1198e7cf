"""The arena: nothing that lives at the same time overlaps, and its size is what is really used."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.ir.graph import Graph
from graphopt.kernel.loops import Buffer, reads_and_writes
from graphopt.kernel.step import Step
from graphopt.passes.memory import ALIGN_BYTES, Lifetime, lifetimes, plan_memory
from tests.graphs import graphs
from tests.steps import GRAPHS, compiled, lowered, mlp_step

Golden = Callable[..., None]

LIVES = st.dictionaries(
    st.integers(0, 40),
    st.builds(
        lambda size, first, length: Lifetime(size, first, first + length),
        st.one_of(st.integers(1, 300), st.integers(1, 5000)),
        st.integers(0, 20),
        st.integers(0, 8),
    ),
    max_size=24,
)


def aligned(size: int) -> int:
    return -(-size // ALIGN_BYTES) * ALIGN_BYTES


@given(LIVES)
def test_what_lives_together_lies_apart(lives: dict[int, Lifetime]) -> None:
    plan = plan_memory(lives)
    assert set(plan.offsets) == set(lives)
    ends = [plan.offsets[n] + aligned(life.size) for n, life in lives.items()]
    assert plan.arena_bytes == max(ends, default=0), "the arena is as large as its last byte"
    assert all(at >= 0 and at % ALIGN_BYTES == 0 for at in plan.offsets.values())
    for a, x in lives.items():
        for b, y in lives.items():
            if a < b and x.first <= y.last and y.first <= x.last:
                p, q = plan.offsets[a], plan.offsets[b]
                assert p + x.size <= q or q + y.size <= p, (a, b)


@given(LIVES)
def test_the_arena_lies_between_the_live_bytes_and_their_sum(lives: dict[int, Lifetime]) -> None:
    """At no time do fewer bytes do; greedy by size may need more, but never more than everything side by side."""
    peak = max((sum(aligned(y.size) for y in lives.values() if y.first <= t <= y.last) for t in range(30)), default=0)
    plan = plan_memory(lives)
    assert peak <= plan.arena_bytes <= sum(aligned(life.size) for life in lives.values())
    starts = sorted(lives.values(), key=lambda life: life.first)
    if all(a.last < b.first for a, b in zip(starts, starts[1:], strict=False)):
        assert plan.arena_bytes == peak, "what never meets shares its memory"


def test_lifetimes_reach_from_the_first_to_the_last_touch() -> None:
    lives = lifetimes([["a"], ["a", "b"], [], ["b", "a"], ["c"]], {"a": 4, "b": 8, "c": 100})
    assert lives == {"a": Lifetime(4, 0, 3), "b": Lifetime(8, 1, 3), "c": Lifetime(100, 4, 4)}
    plan = plan_memory(lives)
    assert plan.offsets == {"c": 0, "b": 0, "a": 64} and plan.arena_bytes == 128


def test_plan_golden(golden: Golden) -> None:
    """The arena of a training step: offset, bytes, from which kernel to which, what."""
    step = lowered(mlp_step())
    spans = lives_of(step)
    lines = [f"arena {step.plan.arena_bytes} bytes"]
    for b in sorted(spans, key=lambda b: (spans[b][0], step.plan.offsets[b])):
        first, last = spans[b]
        lines.append(f"{step.plan.offsets[b]:6} {nbytes(b):6} kernels {first:2}..{last:2} {b}")
    golden("memory_mlp_step.txt", "\n".join([*lines, ""]))


# the plans of steps


def nbytes(b: Buffer) -> int:
    return b.size * b.dtype.itemsize


def lives_of(step: Step) -> dict[Buffer, tuple[int, int]]:
    """First and last kernel that touches each temporary, from the statements themselves."""
    fixed = {b for b, _, _ in step.args}
    spans: dict[Buffer, tuple[int, int]] = {}
    for k, kernel in enumerate(step.kernels):
        reads, writes = reads_and_writes(kernel)
        for b in (reads | writes) - fixed:
            assert b in spans or b in writes, f"kernel {k} reads {b} before anything wrote it"
            spans[b] = (spans.get(b, (k, k))[0], k)
    return spans


def check_plan(step: Step) -> None:
    spans = lives_of(step)
    offsets = step.plan.offsets
    assert set(offsets) == set(spans), "planned and used temporaries differ"
    assert step.plan.arena_bytes == max((offsets[b] + aligned(nbytes(b)) for b in spans), default=0)
    for a, (first, last) in spans.items():
        for b, (begin, end) in spans.items():
            if a is not b and first <= end and begin <= last:
                assert offsets[a] + nbytes(a) <= offsets[b] or offsets[b] + nbytes(b) <= offsets[a], (a, b)


@pytest.mark.parametrize("name", GRAPHS)
def test_plans_of_training_steps(name: str) -> None:
    step = lowered(GRAPHS[name]())
    check_plan(step)
    assert compiled(GRAPHS[name](), "loops").arena_bytes == compiled(GRAPHS[name]()).arena_bytes


@given(graphs())
def test_plans_of_random_graphs(graph: Graph) -> None:
    check_plan(lowered(graph))
