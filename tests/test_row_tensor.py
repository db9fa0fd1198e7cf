"""Row-sparse gradients: RowTensor, where they come from, how they travel, and what an update with them costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from golden_cases import in_mode

import graphopt as ms
from graphopt import Parameter, RowTensor, Tensor, config, nn, ops
from graphopt import compile as compiler
from graphopt.kernel.step import Step
from graphopt_tools.show import graph_of

MODES = [ms.PYNATIVE_MODE, ms.GRAPH_MODE]
IDS = Tensor(np.array([[1, 3, 1], [0, 4, 3]], np.int32))
TABLE = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
ROWS_ONLY = {
    "LazyAdam": lambda p, **kwargs: nn.LazyAdam(p, 0.1, **kwargs),
    "Adam(use_lazy)": lambda p, **kwargs: nn.Adam(p, 0.1, use_lazy=True, **kwargs),
    "FTRL": lambda p, **kwargs: nn.FTRL(p, learning_rate=0.1, l1=0.01, **kwargs),
    "ProximalAdagrad": lambda p, **kwargs: nn.ProximalAdagrad(p, learning_rate=0.1, l1=0.01, l2=0.1, **kwargs),
}


class Lookup(nn.Cell):
    """A table and a function of (self, ids) that reads it."""

    def __init__(self, read: Callable[..., Any], table: np.ndarray = TABLE) -> None:
        super().__init__()
        self.table = Parameter(Tensor(table), name="table")
        self.read = read

    def construct(self, ids: Tensor) -> Any:
        return self.read(self.table, ids)


def squares(x: Tensor) -> Tensor:
    return ops.reduce_sum(x * x * x)


READS: dict[str, Callable[..., Any]] = {
    "SparseGatherV2": lambda w, ids: squares(ops.SparseGatherV2()(w, ids, 0)),
    "EmbeddingLookup": lambda w, ids: squares(ops.EmbeddingLookup()(w, ids + 2, 2)),
    "half": lambda w, ids: squares(ops.SparseGatherV2()(w.astype(ms.float16), ids, 0).astype(ms.float32)),
    "twice": lambda w, ids: squares(ops.SparseGatherV2()(w, ids, 0)) + squares(ops.EmbeddingLookup()(w, ids[0], 0)),
}
DENSE: dict[str, Callable[..., Any]] = {
    "half": lambda w, ids: squares(ops.gather(w.astype(ms.float16), ids, 0).astype(ms.float32)),
    "twice": lambda w, ids: squares(ops.gather(w, ids, 0)) + squares(ops.gather(w, ids[0], 0)),
}


def gradient(net: Lookup, ids: Tensor = IDS) -> Any:
    return ms.grad(net, None, net.table)(ids)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", READS)
def test_a_look_up_has_rows_as_its_gradient(name: str, mode: int) -> None:
    dense = DENSE.get(name, lambda w, ids: squares(ops.gather(w, ids, 0)))
    with in_mode(mode):
        found, expected = gradient(Lookup(READS[name])), gradient(Lookup(dense))
    assert isinstance(found, RowTensor) and isinstance(expected, Tensor)
    assert found.dense_shape == (6, 4) and found.dtype is ms.float32
    assert found.indices.shape == ((9,) if name == "twice" else (6,)) and found.values.shape == (found.indices.size, 4)
    assert sorted(set(found.indices.asnumpy().tolist())) == [0, 1, 3, 4]
    assert np.allclose(found.to_dense().asnumpy(), expected.asnumpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_a_table_that_is_also_read_as_a_whole_has_a_dense_gradient(mode: int) -> None:
    with in_mode(mode):
        found = gradient(Lookup(lambda w, ids: squares(ops.SparseGatherV2()(w, ids, 0)) + ops.reduce_sum(w)))
        expected = gradient(Lookup(lambda w, ids: squares(ops.gather(w, ids, 0)) + ops.reduce_sum(w)))
        other_axis = gradient(Lookup(lambda w, ids: squares(ops.SparseGatherV2()(w, ids[0], 1))))
    assert isinstance(found, Tensor) and np.allclose(found.asnumpy(), expected.asnumpy(), rtol=0, atol=1e-6)
    assert isinstance(other_axis, Tensor) and other_axis.shape == (6, 4)


@pytest.mark.parametrize("mode", MODES)
def test_every_way_to_ask_for_a_gradient_gives_rows(mode: int) -> None:
    net = Lookup(READS["SparseGatherV2"])
    with in_mode(mode):
        value, (by_weights,) = ms.value_and_grad(net, None, net.trainable_params())(IDS)
        (by_list,) = ops.GradOperation(get_by_list=True)(net, [net.table])(IDS)
        by_argument = ms.grad(READS["SparseGatherV2"])(Tensor(TABLE), IDS)
        named = nn.TrainOneStepCell(net, nn.LazyAdam([net.table]), return_grad=True)(IDS)[1]
    assert float(value) == pytest.approx(float((TABLE[IDS.asnumpy()] ** 3).sum()), rel=1e-5)
    expected = 3 * TABLE[IDS.asnumpy().reshape(-1)] ** 2
    for g in (by_weights, by_list, by_argument, named["table"]):
        assert isinstance(g, RowTensor) and np.allclose(g.values.asnumpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_the_gradient_of_a_gradient(mode: int) -> None:
    def norm_of_gradient(w: Tensor, ids: Tensor) -> Any:
        g = ms.grad(READS["SparseGatherV2"])(w, ids)
        return ops.reduce_sum(g.to_dense() ** 2)

    def expected(w: Tensor, ids: Tensor) -> Any:
        return ops.reduce_sum(ms.grad(lambda w, ids: squares(ops.gather(w, ids, 0)))(w, ids) ** 2)

    with in_mode(mode):
        found = ms.grad(norm_of_gradient)(Tensor(TABLE), IDS)
        of_rows = ms.grad(ms.grad(READS["SparseGatherV2"]))(Tensor(TABLE), IDS)
        assert np.allclose(found.to_dense().asnumpy(), ms.grad(expected)(Tensor(TABLE), IDS).asnumpy(), rtol=1e-5)
    counts = np.bincount(IDS.asnumpy().reshape(-1), minlength=6)
    assert np.allclose(of_rows.to_dense().asnumpy(), 6 * TABLE * counts[:, None], rtol=1e-5)


class Branching(Lookup):
    """Reads more rows, or none at all, by the sign of a number."""

    def construct(self, ids: Tensor, x: Tensor) -> Any:
        y = squares(ops.SparseGatherV2()(self.table, ids, 0))
        if x > 0:
            y = y + squares(ops.SparseGatherV2()(self.table, ids[0] + 1, 0))
        return y * x


def looping(w: Tensor, ids: Tensor) -> Any:
    """A look-up on each of six trips of a loop."""

    def trip(total: Tensor, row: Tensor) -> Any:
        return total + squares(ops.SparseGatherV2()(w, row, 0)), row

    return ms.control.scan(trip, Tensor(np.float32(0.0)), ids)[0]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_rows_come_through_branches(sign: float) -> None:
    """As in PYNATIVE_MODE, where only the branch taken is there; what stands for no row changes none."""
    tables = []
    for mode in MODES:
        net = Branching(lambda w, ids: w)
        optimizer = nn.LazyAdam(net.trainable_params(), 0.1)
        with in_mode(mode):
            grad = ms.grad(net, None, net.table)
            for _ in range(2):
                g = grad(IDS, Tensor(np.float32(sign)))
                assert isinstance(g, RowTensor)
                optimizer((g,))
            nn.TrainOneStepCell(net, optimizer)(IDS, Tensor(np.float32(sign)))
        tables.append(net.table.asnumpy())
        if sign < 0:
            assert np.array_equal(tables[-1][[2, 5]], TABLE[[2, 5]])
    assert np.allclose(tables[0], tables[1], rtol=0, atol=1e-6) and not np.array_equal(tables[0][1], TABLE[1])


def test_rows_come_out_of_loops() -> None:
    ids = Tensor(np.random.default_rng(4).integers(0, 6, (6, 3)).astype(np.int32))
    with in_mode(ms.GRAPH_MODE):
        found = ms.grad(looping)(Tensor(TABLE), ids)
    counts = np.bincount(ids.asnumpy().reshape(-1), minlength=6)
    assert found.indices.shape == (18,)
    assert np.allclose(found.to_dense().asnumpy(), 3 * TABLE**2 * counts[:, None], rtol=1e-5)


def test_steps_inside_a_loop_change_the_table_as_calls_do() -> None:
    ids = np.random.default_rng(0).integers(0, 50, (4, 9)).astype(np.int32)
    tables = []
    for looped in (False, True):
        net = nn.EmbeddingLookup(50, 4, param_init=Tensor(np.ones((50, 4), np.float32)))
        step = nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), nn.LazyAdam(net.trainable_params(), 0.1))
        target = ops.zeros((9, 4))

        @ms.jit
        def steps(rows: Tensor, step: nn.Cell = step, target: Tensor = target) -> Any:
            return ms.control.scan(lambda total, x: (total + step(x, target), x), Tensor(np.float32(0.0)), rows)[0]

        with in_mode(ms.GRAPH_MODE):
            if looped:
                steps(Tensor(ids))
            else:
                for row in ids:
                    step(Tensor(row), target)
        tables.append(net.embedding_table.asnumpy())
    assert np.array_equal(tables[0], tables[1]) and (tables[0] < 0.9).any()


# RowTensor by itself


def rows(indices: Any = (2, 0), count: int = 2, shape: Any = (3, 2)) -> RowTensor:
    return RowTensor(Tensor(np.array(indices, np.int32)), Tensor(np.ones((count, 2), np.float32)), shape)


def test_what_a_row_tensor_holds() -> None:
    x = rows()
    assert x.dense_shape == x.shape == (3, 2) and x.dtype is ms.float32
    assert RowTensor(row_tensor=x).values is x.values and "RowTensor(shape=[3, 2]" in repr(x)
    assert rows((0, 0)).to_dense().asnumpy().tolist() == [[2, 2], [0, 0], [0, 0]]
    assert RowTensor(Tensor([0]), Tensor([1.0]), (2,)).to_dense().asnumpy().tolist() == [1, 0]


AT, ONES = Tensor([0, 2]), Tensor(np.ones((2, 2), np.float32))
MISTAKES: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (RowTensor, TypeError, "indices must be a Tensor"),
    (lambda: RowTensor([0, 2], ONES, (3, 2)), TypeError, "indices must be a Tensor, found [0, 2]"),
    (lambda: RowTensor(AT, np.ones((2, 2)), (3, 2)), TypeError, "values must be a Tensor, found a numpy array"),
    (lambda: RowTensor(AT, ONES, [3, 2]), TypeError, "shape must be a tuple of ints, found [3, 2]"),
    (lambda: RowTensor(AT, ONES, (3.0, 2)), TypeError, "shape must be a tuple of ints"),
    (lambda: RowTensor(AT, ONES), TypeError, "shape must be a tuple of ints, found None"),
    (lambda: RowTensor(Tensor([0.0, 2.0]), ONES, (3, 2)), TypeError, "indices must be integers"),
    (lambda: RowTensor(Tensor([[0, 2]]), ONES, (3, 2)), ValueError, "indices must have one axis, found shape (1, 2)"),
    (lambda: RowTensor(Tensor([0]), ONES, (3, 2)), ValueError, "1 rows of shape (3, 2), found shape (2, 2)"),
    (lambda: RowTensor(AT, ONES, (3, 5)), ValueError, "values must be 2 rows of shape (3, 5)"),
    (lambda: RowTensor(AT, ONES, ()), ValueError, "found ()"),
    (lambda: RowTensor(row_tensor=3), TypeError, "row_tensor must be a RowTensor, found 3"),
    (lambda: RowTensor(AT, row_tensor=rows()), TypeError, "excludes"),
    (lambda: ops.add(rows(), 1.0), TypeError, "found a RowTensor f32[3,2]; its to_dense() is one"),
    (lambda: Tensor([1.0]) * rows(), TypeError, "found a RowTensor f32[3,2]; its to_dense() is a Tensor"),
    (lambda: nn.Dense(2, 2)(rows()), TypeError, "argument x must be a Tensor, found a RowTensor f32[3,2]"),
    (lambda: nn.EmbeddingLookup(0, 2), ValueError, "vocab_size"),
    (lambda: nn.EmbeddingLookup(2.0, 2), TypeError, "vocab_size"),
    (lambda: nn.EmbeddingLookup(2, -1), ValueError, "embedding_size"),
    (lambda: nn.EmbeddingLookup(2, 2, target="GPU"), ValueError, "target"),
    (lambda: nn.EmbeddingLookup(2, 2, sparse=False), ValueError, "sparse must be True"),
    (lambda: nn.EmbeddingLookup(2, 2, sparse=1), TypeError, "sparse"),
    (lambda: nn.EmbeddingLookup(2, 2, slice_mode="rows"), ValueError, "slice_mode"),
    (lambda: nn.EmbeddingLookup(2, 2, manual_shapes=[1]), TypeError, "manual_shapes"),
    (lambda: nn.EmbeddingLookup(2, 2, max_norm=-1.0), ValueError, "max_norm"),
    (lambda: nn.EmbeddingLookup(2, 2)(Tensor([0.5])), TypeError, "integers"),
    (lambda: nn.LazyAdam([table()])((rows(),)), ValueError, "must have shape (6, 4), found (3, 2)"),
    (lambda: nn.LazyAdam([table()])((given(np.array([0, 6]), 1.0),)), ValueError, "index 6 at position 1 is outside [0, 6)"),
    (lambda: nn.FTRL([table()])((given(np.array([-1]), 1.0),)), ValueError, "index -1 at position 0"),
    (lambda: nn.SGD([table()])((given(np.array([7]), 1.0),)), ValueError, "index 7 at position 0"),
    (lambda: nn.Adam([table()])((given(np.array([0]), np.float64(1.0)),)), TypeError, "must fit Float32, found Float64"),
    (lambda: nn.ProximalAdagrad([table()])((given(np.array([0]), 1.0),) * 2), RuntimeError, "of 2"),
]


def table() -> Parameter:
    return Parameter(Tensor(TABLE), name="table")


def given(indices: np.ndarray, value: Any) -> RowTensor:
    """A gradient of `table()` with one value everywhere."""
    values = np.full((len(indices), 4), value, np.float64 if isinstance(value, np.float64) else np.float32)
    return RowTensor(Tensor(indices.astype(np.int32)), Tensor(values), (6, 4))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("call", "error", "text"), MISTAKES)
def test_mistakes(call: Callable[[], Any], error: type[Exception], text: str, mode: int) -> None:
    with in_mode(mode), pytest.raises(error) as caught:
        call()
    assert text in str(caught.value), caught.value


@pytest.mark.parametrize("mode", MODES)
def test_an_id_outside_the_table_stops_a_step_before_it_begins(mode: int) -> None:
    net = nn.EmbeddingLookup(6, 4)
    loss = nn.WithLossCell(net, nn.MSELoss())
    step = nn.TrainOneStepCell(loss, nn.LazyAdam(net.trainable_params(), 0.1)).set_train()
    with in_mode(mode):
        step(IDS, ops.zeros((2, 3, 4)))
        before = {p.name: p.asnumpy().copy() for p in step.get_parameters()}
        with pytest.raises(ValueError, match=r"index 6 at position (4|\(1, 1\)) is outside \[0, 6\)"):
            step(Tensor(np.array([[1, 3, 1], [0, 6, 3]], np.int32)), ops.zeros((2, 3, 4)))
    assert all(np.array_equal(before[p.name], p.asnumpy()) for p in step.get_parameters())
    assert net(Tensor([9])).asnumpy().tolist() == [[0, 0, 0, 0]]


def test_rows_of_the_result_can_be_limited() -> None:
    net = nn.EmbeddingLookup(6, 4, param_init=Tensor(TABLE), max_norm=0.5)
    lengths = np.linalg.norm(net(IDS).asnumpy(), axis=-1)
    assert np.allclose(lengths, np.minimum(np.linalg.norm(TABLE[IDS.asnumpy()], axis=-1), 0.5), rtol=1e-5)
    dense = nn.EmbeddingLookup(6, 4, target="DEVICE", sparse=False)
    assert isinstance(ms.grad(dense, None, dense.embedding_table)(IDS), Tensor)


# on the way through Cells and functions


class Halved(nn.Cell):
    def construct(self, pair: Any) -> Any:
        x, factor = pair
        return {"rows": RowTensor(x.indices, x.values * factor, x.dense_shape), "same": x}


@pytest.mark.parametrize("mode", MODES)
def test_rows_are_arguments_and_results(mode: int) -> None:
    cell = Halved()
    with in_mode(mode):
        for k in range(3):
            made = cell((rows((k, 0)), 0.5))
            assert made["rows"].to_dense().asnumpy().sum() == 2.0 and made["same"].indices.asnumpy().tolist() == [k, 0]
        if mode == ms.GRAPH_MODE:
            assert cell.compile_cache.compiles == 1
            cell((rows(shape=(4, 2)), 0.5))
            assert cell.compile_cache.compiles == 2 and "RowTensor[4, 2] of i32[2], f32[2,2]" in cell.compile_cache.explain()
    assert ms.jit(lambda x: x.to_dense() + 1.0)(rows()).asnumpy().tolist() == [[2, 2], [1, 1], [2, 2]]
    assert bool(ms.amp.all_finite(rows())) and ms.amp.StaticLossScaler(2).unscale(rows()).values.asnumpy().max() == 0.5


@pytest.mark.parametrize("mode", MODES)
def test_a_cell_hands_gradients_it_built_to_an_optimizer(mode: int) -> None:
    class Feed(nn.Cell):
        def __init__(self, optimizer: nn.Optimizer) -> None:
            super().__init__(auto_prefix=False)
            self.optimizer = optimizer

        def construct(self, indices: Tensor, values: Tensor) -> Any:
            return self.optimizer((RowTensor(indices, values, (6, 4)),))

    p = table()
    with in_mode(mode):
        returned = Feed(nn.SGD([p], 0.5))(Tensor([1, 1]), ops.ones((2, 4)))
        with pytest.raises(ValueError, match="index 6"):
            Feed(nn.SGD([p], 0.5))(Tensor([1, 6]), ops.ones((2, 4)))
    assert returned == (True,)
    assert np.allclose(p.asnumpy(), TABLE - np.eye(6, dtype=np.float32)[1][:, None], rtol=0, atol=1e-6)


# updates


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ROWS_ONLY)
def test_other_rows_are_left_alone(name: str, mode: int) -> None:
    """To the bit, in the table and in every state; the rows named change as a table of these alone would."""
    whole, part = table(), Parameter(Tensor(TABLE[[1, 4]]), name="table")
    optimizer = ROWS_ONLY[name]([whole], weight_decay=0.1, loss_scale=4.0)
    alone = ROWS_ONLY[name]([part], weight_decay=0.1, loss_scale=4.0)
    before = {p.name: p.asnumpy().copy() for p in optimizer.get_parameters()}
    with in_mode(mode):
        for t in range(3):
            optimizer((given(np.array([4, 1]), 0.25 + t),))
            alone((Tensor(np.full((2, 4), 0.25 + t, np.float32)),))
    for p, q in zip(optimizer.get_parameters(), alone.get_parameters(), strict=True):
        if p.shape == (6, 4):
            assert np.array_equal(p.asnumpy()[[0, 2, 3, 5]], before[p.name][[0, 2, 3, 5]])
            assert np.allclose(p.asnumpy()[[1, 4]], q.asnumpy(), rtol=0, atol=1e-6), p.name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ROWS_ONLY)
def test_half_precision_tables_and_gradients(name: str, mode: int) -> None:
    half, single = Parameter(Tensor(TABLE.astype(np.float16)), name="table"), table()
    with in_mode(mode):
        for p in (half, single):
            optimizer = ROWS_ONLY[name]([p])
            for _ in range(2):
                g = given(np.array([4, 1, 4]), 0.25)
                optimizer((RowTensor(g.indices, g.values.astype(ms.float16), (6, 4)),))
    assert half.dtype is ms.float16 and np.allclose(half.asnumpy(), single.asnumpy(), rtol=0, atol=0.01)


@pytest.mark.parametrize("mode", MODES)
def test_an_overflow_leaves_the_table_alone(mode: int) -> None:
    net = nn.EmbeddingLookup(6, 4, param_init=Tensor(TABLE))
    update = nn.DynamicLossScaleUpdateCell(16.0, 2, 100)
    optimizer = nn.LazyAdam(net.trainable_params(), 0.1)
    step = nn.TrainOneStepWithLossScaleCell(nn.WithLossCell(net, nn.MSELoss()), optimizer, update).set_train()
    with in_mode(mode):
        _, overflow, scale = step(IDS, Tensor(np.full((2, 3, 4), np.inf, np.float32)))
        assert bool(overflow) and float(scale) == 8.0 and np.array_equal(net.embedding_table.asnumpy(), TABLE)
        assert not bool(step(IDS, ops.zeros((2, 3, 4)))[1])
    assert np.array_equal(net.embedding_table.asnumpy()[[2, 5]], TABLE[[2, 5]])
    assert np.allclose(np.abs(net.embedding_table.asnumpy() - TABLE)[[0, 1, 3, 4]], 0.1, atol=1e-3)


# cost


def step_of(make: Callable[..., nn.Optimizer], size: int, loss_scale: bool = False) -> nn.Cell:
    """A training step over a table of `size` rows."""
    ms.set_seed(1)
    net = nn.SequentialCell(nn.EmbeddingLookup(size, 24), nn.Dense(24, 1))
    loss, optimizer = nn.WithLossCell(net, nn.MSELoss()), make(net.trainable_params())
    if loss_scale:
        update = nn.DynamicLossScaleUpdateCell(16.0, 2, 100)
        return nn.TrainOneStepWithLossScaleCell(loss, optimizer, update).set_train()
    return nn.TrainOneStepCell(loss, optimizer).set_train()


def kernels(step: nn.Cell) -> Step:
    ids, y = Tensor(np.arange(64, dtype=np.int32) % 50), Tensor(np.zeros((64, 1), np.float32))
    with in_mode(ms.GRAPH_MODE):
        graph = graph_of(step, (ids, y))
    return compiler.lower_graph(compiler.optimize(graph), compiler.machine_of(compiler.engine.host()))


@pytest.mark.parametrize("loss_scale", [False, True])
@pytest.mark.parametrize("name", ROWS_ONLY)
def test_the_cost_does_not_depend_on_the_size_of_the_table(name: str, loss_scale: bool) -> None:
    """The same kernels with the same work for 1,000 and 200,000 rows; besides the tables, which are written in place,
    nothing has their size but scratch memory of 4 bytes a row, which is not swept.
    """
    small, large = (kernels(step_of(ROWS_ONLY[name], n, loss_scale)) for n in (1_000, 200_000))
    assert [(k.name, k.work) for k in small.kernels] == [(k.name, k.work) for k in large.kernels]
    states = {b for b, kind, _ in large.args if kind == "state"}
    sized = [b for k in large.kernels for b in k.args if b.size >= 200_000 and b not in states]
    assert {b.name.rstrip("0123456789") for b in sized} <= {"scratch"}
    assert large.plan.arena_bytes - small.plan.arena_bytes <= 4 * 200_000
    assert "copy" not in {k.name for k in large.kernels}


@pytest.mark.parametrize("name", ROWS_ONLY)
def test_any_number_of_threads_gives_the_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.kernel.step._TEAM_WORK", 0.0)
    rng = np.random.default_rng(3)
    ids = rng.integers(0, 90, (4, 300)).astype(np.int32)
    targets = rng.normal(size=(300, 1)).astype(np.float32)
    found = []
    for threads in (1, 2, 3):
        with in_mode(ms.GRAPH_MODE), config.override(threads=threads, cache="off"):
            step = step_of(ROWS_ONLY[name], 100)
            losses = [float(step(Tensor(ids[k % 4]), Tensor(targets))) for k in range(12)]
        assert losses[8] < losses[0]
        found.append([p.asnumpy().tobytes() for p in step.get_parameters()])
    assert found[0] == found[1] == found[2]
