"""One compile for many numbers of rows: whole training steps against steps that are compiled for each number alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import graphopt as ms
from graphopt import Parameter, Tensor, config, nn, ops
from graphopt.dataset import NumpySlicesDataset

TWENTY = (32, 7, 1, 30, 64, 3, 12, 2, 31, 33, 5, 40, 17, 29, 63, 8, 50, 20, 11, 48)


@pytest.fixture(autouse=True)
def graph_mode() -> Iterator[None]:
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE, check_nan="off")


def mlp() -> nn.Cell:
    return nn.SequentialCell(nn.Dense(20, 32), nn.ReLU(), nn.Dense(32, 5))


class Images(nn.Cell):
    """Convolutions with batch normalization, pooling, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.second, self.other = nn.Conv2d(8, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.pool, self.flatten, self.out = nn.MaxPool2d(2, 2), nn.Flatten(), nn.Dense(32, 5)
        self.drop = nn.Dropout(p=0.25)

    def construct(self, x: Tensor) -> Tensor:
        x = self.pool(ops.relu(self.norm(self.first(x))))
        return self.out(self.drop(self.flatten(ops.relu(self.other(self.second(x))))))


class Text(nn.Cell):
    """An embedding, attention over words, layer normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(11, 6), nn.Dense(6, 5)
        self.query, self.norm = nn.Dense(6, 6), nn.LayerNorm((6,))

    def construct(self, x: Tensor) -> Tensor:
        e = self.words(x)
        weights = ops.softmax(ops.matmul(self.query(e), e.swapaxes(1, 2)), -1)
        return self.out(self.norm(e + ops.matmul(weights, e)).mean(1))


class Recurrent(nn.Cell):
    """An LSTM, whose trips become a loop in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(4, 6, batch_first=True), nn.Dense(6, 5)

    def construct(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x)[0][:, -1])


class Deciding(nn.Cell):
    """Branches and loops on values that are computed from all rows."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Dense(20, 5)

    def construct(self, x: Tensor) -> Tensor:
        y = self.dense(x)
        if y.mean() > 0:
            y = y * 2
        k = 0
        while y.sum() < 3.0 and k < 5:
            y, k = y + 0.5, k + 1
        return y


def step_of(net: nn.Cell, shape: Sequence[int] | None, dtype: Any = ms.float32) -> nn.TrainOneStepCell:
    if shape is not None:
        net.set_inputs(Tensor(shape=[None, *shape], dtype=dtype))
    loss = nn.WithLossCell(net, nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean"))
    step = nn.TrainOneStepCell(loss, nn.Adam(net.trainable_params(), 0.01))
    step.set_train()
    return step


def batches(sizes: Sequence[int], shape: Sequence[int], words: bool = False) -> list[tuple[Tensor, Tensor]]:
    rng = np.random.default_rng(0)
    found = []
    for n in sizes:
        x = rng.integers(0, 11, (n, *shape)).astype(np.int32) if words else rng.normal(size=(n, *shape)).astype(np.float32)
        found.append((Tensor(x), Tensor(rng.integers(0, 5, n).astype(np.int32))))
    return found


def values(cell: nn.Cell) -> list[np.ndarray]:
    return [p.asnumpy() for p in cell.get_parameters()]


def both(make: Callable[[], nn.Cell], shape: Sequence[int], sizes: Sequence[int], words: bool = False) -> nn.TrainOneStepCell:
    """Train with symbolic rows, and with a graph of its own for each number of rows: the same losses and states."""
    results = []
    for symbolic in (True, False):
        ms.set_seed(3)
        step = step_of(make(), shape if symbolic else None, ms.int32 if words else ms.float32)
        with config.override(backend=config.current().backend if symbolic else "numpy"):
            losses = [step(*batch).asnumpy() for batch in batches(sizes, shape, words)]
        results.append((step, losses))
    (step, found), (plain, expected) = results
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
    for a, b in zip(values(step), values(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4)  # Adam divides by the root of squared gradients
    return step


def test_twenty_sizes_of_a_dense_network_are_two_compiles() -> None:
    step = both(mlp, (20,), TWENTY)
    assert step.compile_cache.compiles <= 2, step.compile_cache.explain()
    assert "serves up to 32 rows, so far 1, 2" in step.compile_cache.explain()


def test_twenty_sizes_of_a_convolution_with_batch_normalization_are_two_compiles() -> None:
    step = both(Images, (3, 8, 8), TWENTY)
    assert step.compile_cache.compiles <= 2, step.compile_cache.explain()


@pytest.mark.parametrize(
    ("make", "shape", "words"),
    [(Text, (7,), True), (Recurrent, (5, 4), False), (Deciding, (20,), False)],
    ids=["text", "recurrent", "deciding"],
)
def test_other_networks(make: Callable[[], nn.Cell], shape: Sequence[int], words: bool) -> None:
    step = both(make, shape, (8, 3, 1, 6), words)
    assert step.compile_cache.compiles == 1, step.compile_cache.explain()


def test_the_limit_of_a_symbol_is_the_only_compile() -> None:
    net = mlp()
    net.set_inputs(Tensor(shape=[ms.Symbol(max=64), 20], dtype=ms.float32))
    step = step_of(net, None)
    for batch in batches(TWENTY, (20,)):
        step(*batch)
    assert step.compile_cache.compiles == 1, step.compile_cache.explain()


def test_the_last_short_batch_of_an_epoch() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(22, 20)).astype(np.float32), rng.integers(0, 5, 22).astype(np.int32)
    weights = []
    for symbolic in (True, False):
        ms.set_seed(1)
        net = mlp()
        if symbolic:
            net.set_inputs(Tensor(shape=[None, 20], dtype=ms.float32))
        loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
        model = ms.Model(net, loss, nn.Momentum(net.trainable_params(), 0.1, 0.9), metrics={"acc"})
        data = NumpySlicesDataset(rows, shuffle=False).batch(8, drop_remainder=False)
        for sink in (False, True):
            model.train(2, data, dataset_sink_mode=sink)
        accuracy = model.eval(data)["acc"]
        weights.append((*values(net), np.array(accuracy)))
        compiles = model._train_network.compile_cache.compiles, model._eval_network.compile_cache.compiles  # type: ignore[union-attr]
        assert compiles == ((1, 1) if symbolic else (2, 2))
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_results_have_the_rows_that_were_given() -> None:
    net = mlp()
    net.set_inputs(Tensor(shape=[None, 20], dtype=ms.float32))
    for (x, _), n in zip(batches((6, 4, 1), (20,)), (6, 4, 1), strict=True):
        found = net(x)
        assert found.shape == (n, 5) and found.asnumpy().shape == (n, 5)
        with config.override(backend="numpy"):
            expected = mlp_like(net)(x)
        np.testing.assert_allclose(found.asnumpy(), expected.asnumpy(), rtol=1e-5, atol=1e-6)
    assert net.compile_cache.compiles == 1


def mlp_like(net: nn.Cell) -> nn.Cell:
    made = mlp()
    for a, b in zip(made.get_parameters(), net.get_parameters(), strict=True):
        a.set_data(b)
    return made


def test_nan_of_an_earlier_larger_batch_stays_there() -> None:
    for _ in range(2):
        net = mlp()
        net.set_inputs(Tensor(shape=[None, 20], dtype=ms.float32))
        gradient = ops.GradOperation(get_by_list=True)(net, net.trainable_params())
        (x, _), (few, _) = batches((8, 3), (20,))
        nasty = x.asnumpy().copy()
        nasty[3:] = np.nan
        assert any(np.isnan(g.asnumpy()).any() for g in gradient(Tensor(nasty)))
        assert all(np.isfinite(g.asnumpy()).all() for g in gradient(few))
        nasty[:] = np.inf
        gradient(Tensor(nasty))
        assert all(np.isfinite(g.asnumpy()).all() for g in gradient(few))
        assert gradient.compile_cache.compiles == 1  # type: ignore[attr-defined]


def test_gradient_functions_and_loss_scale() -> None:
    net = mlp()
    net.set_inputs(Tensor(shape=[None, 20], dtype=ms.float32))
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    both_of = ops.value_and_grad(lambda x, y: loss(net(x), y), None, net.trainable_params())
    scaled = nn.TrainOneStepWithLossScaleCell(
        nn.WithLossCell(net, loss), nn.SGD(net.trainable_params(), 0.0), nn.DynamicLossScaleUpdateCell(2.0**10, 2, 100)
    )
    for x, y in batches((8, 5, 2), (20,)):
        value, _ = both_of(x, y)
        found, overflow, _ = scaled(x, y)
        assert not overflow
        np.testing.assert_allclose(found.asnumpy(), value.asnumpy(), rtol=1e-5)
    assert both_of.compile_cache.compiles == scaled.compile_cache.compiles == 1


def test_check_nan_looks_at_the_valid_rows_only() -> None:
    ms.set_context(check_nan="first")
    step = step_of(mlp(), (20,))
    full, part = batches((8, 3), (20,))
    step(*full)
    step(*part)
    assert step.compile_cache.compiles == 1
    bad = part[0].asnumpy().copy()
    bad[0] = np.inf
    before = values(step)
    with pytest.raises(FloatingPointError, match="input data"):
        step(Tensor(bad), part[1])
    for a, b in zip(before, values(step), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_same_bits_for_any_number_of_threads() -> None:
    found = []
    for threads in (1, 2, 3):
        ms.set_seed(5)
        with config.override(threads=threads):
            step = step_of(nn.SequentialCell(nn.Dense(64, 256), nn.ReLU(), nn.Dense(256, 5)), (64,))
            losses = [step(*batch).asnumpy() for batch in batches((96, 50, 7), (64,))]
        found.append([*losses, *values(step)])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


# what does not fit one program -------------------------------------------------------------------------------------


class Turned(nn.Cell):
    def construct(self, x: Tensor) -> Tensor:
        return ops.flip(x, (0,)) * 2


class ByNumber(nn.Cell):
    """Another function for many rows than for few."""

    def construct(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] > 4 else x - x.shape[0]


def test_an_op_without_a_symbolic_meaning_has_compiles_of_its_own() -> None:
    net = Turned()
    net.set_inputs(Tensor(shape=[None], dtype=ms.float32))
    for n in (4, 3):
        x = np.arange(n, dtype=np.float32)
        np.testing.assert_array_equal(net(Tensor(x)).asnumpy(), x[::-1] * 2)
    assert net.compile_cache.compiles == 2
    assert "for this number of rows alone: reverse turns round the rows" in net.compile_cache.explain()
    assert "test_rows.py" in net.compile_cache.explain()


def test_code_that_asks_for_the_number_of_rows_keeps_its_meaning() -> None:
    net = ByNumber()
    net.set_inputs(Tensor(shape=[None], dtype=ms.float32))
    for n in (8, 3, 6, 2, 4, 5, 1):
        x = np.arange(n, dtype=np.float32)
        np.testing.assert_array_equal(net(Tensor(x)).asnumpy(), x * 2 if n > 4 else x - n)
    assert net.compile_cache.compiles <= 3, net.compile_cache.explain()


def test_an_attribute_that_changes_is_compiled_anew() -> None:
    class Scaled(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.by = 2.0
            self.table = Parameter(Tensor([1.0, 2.0]), name="table")

        def construct(self, x: Tensor) -> Tensor:
            return x * self.by + self.table.sum()

    net = Scaled()
    net.set_inputs(Tensor(shape=[None], dtype=ms.float32))
    one, two = Tensor(np.ones(6, np.float32)), Tensor(np.ones(4, np.float32))
    assert net(one).tolist() == [5.0] * 6 and net(two).tolist() == [5.0] * 4
    net.by = 3.0
    assert net(two).tolist() == [6.0] * 4 and net(one).tolist() == [6.0] * 6
    assert net.compile_cache.compiles == 2


def test_explain_says_how_to_avoid_a_compile() -> None:
    net = mlp()
    for x, _ in batches((8, 3), (20,)):
        net(x)
    assert "set_inputs(Tensor(shape=[None, 20], dtype=float32))" in net.compile_cache.explain()


# declarations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "text"),
    [
        ((4, 19), np.float32, ValueError, r"argument input_cells_0 was declared with shape \(None, 20\), found \(4, 19\)"),
        ((20,), np.float32, ValueError, r"declared with shape \(None, 20\), found \(20,\)"),
        ((4, 20), np.float16, TypeError, "was declared as float32, found float16"),
    ],
)
def test_arguments_that_do_not_fit(shape: tuple[int, ...], dtype: type, error: type[Exception], text: str) -> None:
    net = nn.SequentialCell(nn.Dense(20, 2))
    net.set_inputs(Tensor(shape=[None, 20], dtype=ms.float32))
    with pytest.raises(error, match=text.replace("input_cells_0", r"\w+")):
        net(Tensor(np.ones(shape, dtype)))


def test_sizes_that_a_symbol_does_not_stand_for() -> None:
    net = nn.ReLU()
    net.set_inputs(Tensor(shape=[ms.Symbol(max=8, divisor=2), 3], dtype=ms.float32))
    assert net(Tensor(np.ones((4, 3), np.float32))).shape == (4, 3)
    for n in (3, 10):
        with pytest.raises(ValueError, match=r"Symbol\(max=8, divisor=2\), 3\), found"):
            net(Tensor(np.ones((n, 3), np.float32)))


def test_a_unique_symbol() -> None:
    size = ms.Symbol(unique=True)
    add = ops.Add()

    class Sum(nn.Cell):
        def construct(self, x: Tensor, y: Tensor) -> Tensor:
            return add(x, y)

    net = Sum()
    net.set_inputs(*[Tensor(shape=[size], dtype=ms.float32)] * 2)
    assert net(ops.ones((3,)), ops.ones((3,))).tolist() == [2.0] * 3
    with pytest.raises(ValueError, match="argument y has size 4 where x has 3"):
        net(ops.ones((3,)), ops.ones((4,)))


def test_mistakes_in_declarations() -> None:
    described = Tensor(shape=[None, 3], dtype=ms.float32)
    assert described.shape == (-1, 3) and described.dtype is ms.float32
    with pytest.raises(ValueError, match="only describes an argument"):
        described.asnumpy()
    with pytest.raises(ValueError, match="needs a dtype"):
        Tensor(shape=[None, 3])
    with pytest.raises(ValueError, match="found both"):
        nn.ReLU().set_inputs(described, x=described)
    with pytest.raises(ValueError, match="found 'z'"):
        nn.ReLU().set_inputs(z=described)
    with pytest.raises(ValueError, match="2 inputs do not fit"):
        nn.ReLU().set_inputs(described, described)
    with pytest.raises(ValueError, match="expected arguments as names"):
        ms.enable_dynamic()
    with pytest.raises(ValueError, match="found 'z'"):
        ms.enable_dynamic(z=described)(lambda x: x)
    for given, error in (
        ({"max": "a"}, TypeError), ({"unique": 1}, TypeError), ({"min": 0}, ValueError), ({"divisor": 0}, ValueError),
        ({"divisor": 2, "remainder": 2}, ValueError), ({"max": 2, "min": 3}, ValueError),
    ):  # fmt: skip
        with pytest.raises(error, match="Symbol: "):
            ms.Symbol(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("dynamic", [False, True])
def test_functions(dynamic: bool) -> None:
    def total(x: Tensor, w: Tensor, s: float) -> Any:
        return (x @ w).sum(axis=0) * s, x * 2

    described = Tensor(shape=[None, 3], dtype=ms.float32)
    made = ms.jit(total, dynamic=1) if dynamic else ms.jit(ms.enable_dynamic(x=described)(total))
    w = np.ones((3, 2), np.float32)
    for n in (5, 3, 1, 4):
        x = np.full((n, 3), float(n), np.float32)
        found, twice = made(Tensor(x), Tensor(w), 0.5)
        np.testing.assert_allclose(found.asnumpy(), x.sum() / 2 * np.ones(2))
        assert twice.shape == (n, 3)
    assert made.compile_cache.compiles == 1, made.compile_cache.explain()
