"""Memory budgets and `Cell.recompute`: the same bits from an arena that is as small as asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings

import graphopt as ms
from graphopt import Tensor, nn, ops
from graphopt.compile import compile_graph
from graphopt.ir.graph import Graph, Memory, input_node, state_node
from graphopt.ir.types import TensorType, f32
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.math import tanh
from graphopt.opdefs.opdef import full
from graphopt.opdefs.reduce import reduce_sum
from graphopt.passes.gradient import vjp
from graphopt.passes.pipeline import check, optimize, random_array
from graphopt.passes.remat import candidates, timeline, with_twins
from tests.graphs import graphs
from tests.test_random_graphs import with_gradients


class Mlp(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.SequentialCell([c for _ in range(6) for c in (nn.Dense(32, 32), nn.GELU())])
        self.head = nn.Dense(32, 5)

    def construct(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))  # type: ignore[no-any-return]


class Convolutions(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3)
        self.blocks = nn.SequentialCell([c for _ in range(6) for c in (nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU())])
        self.head = nn.Dense(8, 5)

    def construct(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))  # type: ignore[no-any-return]


class Attention(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm((16,))
        self.query, self.key, self.value = nn.Dense(16, 16), nn.Dense(16, 16), nn.Dense(16, 16)
        self.inner, self.outer, self.gelu = nn.Dense(16, 64), nn.Dense(64, 16), nn.GELU()
        self.head, self.softmax = nn.Dense(16, 5), nn.Softmax()

    def construct(self, x: Tensor) -> Tensor:
        for _ in range(2):
            y = self.norm(x)
            weights = self.softmax(ops.matmul(self.query(y), self.key(y).swapaxes(-1, -2)) * 0.25)
            x = x + ops.matmul(weights, self.value(y))
            x = x + self.outer(self.gelu(self.inner(x)))
        return self.head(x.mean(1))  # type: ignore[no-any-return]


NETWORKS: dict[str, tuple[Callable[[], nn.Cell], tuple[int, ...]]] = {
    "mlp": (Mlp, (64, 32)),
    "convolutions": (Convolutions, (4, 2, 12, 12)),
    "attention": (Attention, (4, 24, 16)),
}


@pytest.fixture(autouse=True)
def _context() -> Iterator[None]:
    yield
    ms.reset_context()
    ms.set_context(runtime_num_threads=0)


def trained(name: str, prepare: Callable[[nn.Cell], None] = lambda net: None) -> tuple[int, list[np.ndarray]]:
    """(arena bytes, losses and all parameters) of three steps."""
    make, shape = NETWORKS[name]
    ms.set_seed(5)
    np.random.seed(5)
    ms.set_context(mode=ms.GRAPH_MODE)
    net = make()
    prepare(net)
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    step = nn.TrainOneStepCell(nn.WithLossCell(net, loss), nn.Adam(net.trainable_params(), 0.01)).set_train()
    rng = np.random.default_rng(1)
    x, y = Tensor(rng.standard_normal(shape).astype(np.float32)), Tensor(rng.integers(0, 5, shape[0]).astype(np.int32))
    losses = [step(x, y).asnumpy() for _ in range(3)]
    entry, _ = step.compile_cache.entry((x, y), {})
    return entry.compiled.arena_bytes, [*losses, *(p.asnumpy().copy() for p in step.get_parameters())]


def equal(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name, part", [("mlp", 0.3), ("convolutions", 0.65), ("attention", 0.5)])
def test_a_part_of_the_memory_gives_the_same_bits(name: str, part: float) -> None:
    arena, expected = trained(name)
    budget = int(part * arena)
    ms.set_context(memory_budget=budget)
    for threads in (1, 2):
        ms.set_context(runtime_num_threads=threads)
        smaller, found = trained(name)
        assert 0 < smaller <= budget
        assert equal(found, expected), "gradients, moving statistics and the optimizer's states keep every bit"


def test_a_generous_budget_changes_nothing() -> None:
    arena, _ = trained("mlp")
    ms.set_context(memory_budget="1GB")
    assert trained("mlp")[0] == arena


def test_too_small_a_budget_tells_the_least_possible_which_then_compiles() -> None:
    ms.set_context(memory_budget=1000)
    with pytest.raises(ValueError, match=r"memory_budget is 1000 bytes, but temporaries need at least \d+ bytes") as error:
        trained("mlp")
    least = int(str(error.value).split("at least ")[1].split()[0])
    ms.set_context(memory_budget=least)
    assert trained("mlp")[0] <= least
    ms.set_context(memory_budget=least - 64)
    with pytest.raises(ValueError, match=f"at least {least} bytes"):
        trained("mlp")


@pytest.mark.parametrize("text, size", [("512MB", 512 << 20), ("1.5 gb", 3 << 29), ("100B", 100), (4096, 4096)])
def test_texts_of_budgets(text: str | int, size: int) -> None:
    ms.set_context(memory_budget=text)
    assert ms.context.memory_budget() == size


@pytest.mark.parametrize("wrong", ["", "many", "12", "-1MB", "1XB", "0MB", 0, -5])
def test_wrong_budgets_are_refused_by_name(wrong: str | int) -> None:
    with pytest.raises(ValueError, match="jit: memory_budget must be") as error:
        ms.jit(memory_budget=wrong)
    assert str(wrong) in str(error.value)
    if wrong != "":
        with pytest.raises(ValueError, match="set_context: memory_budget must be"):
            ms.set_context(memory_budget=wrong)
    with pytest.raises(TypeError, match="memory_budget must be int or str"):
        ms.jit(memory_budget=1.5)  # type: ignore[call-overload]


def test_jit_has_a_budget_of_its_own() -> None:
    """Only gradients come out: the turn is found without a loss among the outputs."""
    rng = np.random.default_rng(0)
    w = [Tensor(rng.standard_normal((48, 48)).astype(np.float32) / 7) for _ in range(6)]
    x = Tensor(rng.standard_normal((64, 48)).astype(np.float32))

    def loss(x: Tensor, *weights: Tensor) -> Tensor:
        for each in weights:
            x = ops.tanh(ops.matmul(x, each)) * ops.sigmoid(x)
        return (x * x).sum()  # type: ignore[no-any-return]

    whole = ms.jit(ops.GradOperation(get_all=True)(loss))
    expected = [g.asnumpy() for g in whole(x, *w)]
    arena = whole.compile_cache.entry((x, *w), {})[0].compiled.arena_bytes
    budget = arena * 2 // 3
    small = ms.jit(memory_budget=budget)(ops.GradOperation(get_all=True)(loss))
    assert equal([g.asnumpy() for g in small(x, *w)], expected)
    assert small.compile_cache.entry((x, *w), {})[0].compiled.arena_bytes <= budget
    assert ms.jit(whole, memory_budget=budget).compile_cache is not whole.compile_cache


def test_another_budget_in_the_context_compiles_again_and_says_so() -> None:
    f = ms.jit(lambda x: x * 2)
    f(Tensor([1.0]))
    ms.set_context(memory_budget="1MB")
    f(Tensor([1.0]))
    f(Tensor([2.0]))
    assert f.compile_cache.compiles == 2 and "memory_budget: None -> 1048576" in f.compile_cache.explain()


def _first_halves(net: nn.Cell) -> None:
    """Each half of the layers is a Cell of its own, which is computed again."""
    layers = list(net.layers)
    net.layers = nn.SequentialCell([nn.SequentialCell(layers[:6]), nn.SequentialCell(layers[6:])])
    if net.again:
        for half in net.layers:
            half.recompute()


class Halves(Mlp):
    again = False


def test_recompute_of_cells_makes_the_arena_smaller_and_keeps_the_bits() -> None:
    NETWORKS["halves"] = (Halves, (64, 32))
    try:
        arena, expected = trained("halves", _first_halves)
        Halves.again = True
        smaller, found = trained("halves", _first_halves)
    finally:
        del NETWORKS["halves"]
        Halves.again = False
    assert smaller < arena and equal(found, expected)


@pytest.mark.parametrize("name, child", [("mlp", "layers"), ("convolutions", "blocks")])
@pytest.mark.parametrize("outputs", [False, True])
def test_recompute_of_one_cell_keeps_the_bits(name: str, child: str, outputs: bool) -> None:
    _, expected = trained(name)
    _, found = trained(name, lambda net: getattr(net, child).recompute(output_recompute=outputs))
    assert equal(found, expected)


def test_recompute_is_noticed_after_a_compile_and_without_gradients_changes_nothing() -> None:
    ms.set_context(mode=ms.GRAPH_MODE)
    net, x = Mlp(), Tensor(np.ones((8, 32), np.float32))
    net(x)
    net.layers.recompute()
    net(x)
    assert net.compile_cache.compiles == 2
    assert net.compile_cache.graph((x,), {}).memory == Memory()


def test_recompute_checks_its_arguments() -> None:
    with pytest.raises(TypeError, match="recompute: mp_comm_recompute must be bool"):
        Mlp().recompute(mp_comm_recompute=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="nothing_known"):
        Mlp().recompute(nothing_known=True)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="context_fn must be None"):
        Mlp().recompute(context_fn=print)


@settings(max_examples=25)
@given(graphs(steps=10))
def test_twins_keep_the_meaning_of_random_graphs(graph: Graph) -> None:
    whole = optimize(with_gradients(graph))
    leaves = {n: random_array(n.type, np.random.default_rng(0)) for n in whole.inputs + whole.state}
    expected = evaluate_nodes(whole.roots, leaves)
    line = timeline(whole)
    for candidate in candidates(line)[-2:]:
        changed = with_twins(line, candidate.kept)
        check(changed)
        for a, b in zip(evaluate_nodes(changed.roots, leaves), expected, strict=True):
            assert a.tobytes() == b.tobytes()


def test_twins_run_late_and_read_states_before_they_are_overwritten() -> None:
    """A state that the twins read is overwritten in place only after them."""
    x = input_node("x", TensorType(f32, (64, 64)))
    w = state_node("w", TensorType(f32, (64, 64)))
    h = [tanh(x * w)]
    for _ in range(4):
        h.append(tanh(h[-1] * w + x))
    loss = reduce_sum(h[-1], axes=(0, 1))
    (slope,) = vjp((loss,), (full((), 1, f32),), (w,))
    graph = Graph("step", (x,), (w,), (loss,), ((w, w - slope),))
    rng = np.random.default_rng(0)
    given_x, start = (rng.standard_normal((64, 64)).astype(np.float32) for _ in range(2))
    results = []
    line = timeline(optimize(graph))
    for changed in (line.graph, *(with_twins(line, c.kept) for c in candidates(line))):
        state = start.copy()
        results.append((compile_graph(changed).run([given_x], [state]), state))
    assert len(results) > 1
    assert all(a.tobytes() == results[0][1].tobytes() for _, a in results)
