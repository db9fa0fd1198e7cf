"""The short way of a call: when it is taken, that it sees every change, and that it tells the same errors."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import graphopt as ms
from graphopt import Parameter, Tensor, nn, ops
from graphopt.common.compiled import CompiledFunction

X, Y = Tensor([1.0, 2.0]), Tensor([3.0, 4.0])


@pytest.fixture(autouse=True)
def graph_mode() -> Iterator[None]:
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.fixture
def long_ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the functions whose calls went the long way, in order."""
    went: list[str] = []
    entry = CompiledFunction.entry

    def noted(self: CompiledFunction, args: Any, kwargs: Any) -> Any:
        went.append(self.name)
        return entry(self, args, kwargs)

    monkeypatch.setattr(CompiledFunction, "entry", noted)
    return went


class Net(nn.Cell):
    """w * x * factor, doubled while training."""

    def __init__(self) -> None:
        super().__init__()
        self.w = Parameter(Tensor([1.0, 1.0]), name="w")
        self.factor = 2.0

    def construct(self, x: Any, flag: Any = None) -> Any:
        return self.w * x * self.factor * (2.0 if self.training else 1.0)


def train_step(rate: Any = 0.5) -> tuple[Net, nn.TrainOneStepCell]:
    net = Net()
    loss = nn.WithLossCell(net, nn.MSELoss())
    return net, nn.TrainOneStepCell(loss, nn.SGD(net.trainable_params(), rate))


@ms.jit
def multiplied(x: Any, y: Any) -> Any:
    return x * y


CALLS: dict[str, Callable[[], Callable[[], Any]]] = {
    "Cell": lambda: (lambda net: lambda: net(X))(Net()),
    "TrainOneStepCell": lambda: (lambda step: lambda: step(X, Y))(train_step()[1]),
    "jit": lambda: lambda: multiplied(X, Y),
    "gradient": lambda: (lambda f: lambda: f(X))(ops.GradOperation()(lambda x: x * x)),
    "value_and_grad": lambda: (lambda f: lambda: f(X))(ops.value_and_grad(lambda x: (x * x).sum())),
    "float and constants": lambda: (lambda f: lambda: f(X, 0.5, 3, None, "a"))(ms.jit(lambda x, a, b, c, d: x * a * b)),
    "tuple": lambda: (lambda f: lambda: f((X, (Y, 2))))(ms.jit(lambda p: p[0] * p[1][0] * p[1][1])),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_second_call_goes_the_short_way(name: str, long_ways: list[str]) -> None:
    call = CALLS[name]()
    call()
    del long_ways[:]
    for _ in range(3):
        call()
    assert long_ways == []


def test_results_are_those_of_the_long_way() -> None:
    (net, step), (other, long) = train_step(), train_step()
    for k in range(5):
        x = Tensor(np.array([k, 1], np.float32))
        long.compile_cache.shortcut = None
        assert step(x, Y).asnumpy().tobytes() == long(x, Y).asnumpy().tobytes()
    assert net.w.asnumpy().tobytes() == other.w.asnumpy().tobytes()


def test_a_result_is_not_overwritten_by_the_next_call() -> None:
    net = Net()
    kept = [net(Tensor(np.full(2, k, np.float32))) for k in range(5)]
    assert [float(t.asnumpy()[0]) for t in kept] == [0.0, 2.0, 4.0, 6.0, 8.0]


CHANGES: list[tuple[str, Callable[[Net], Any], list[float]]] = [
    ("set_data", lambda n: n.w.set_data(Tensor([3.0, 3.0])), [6.0, 12.0]),
    ("new Parameter", lambda n: setattr(n, "w", Parameter(Tensor([3.0, 3.0]), name="w")), [6.0, 12.0]),
    ("attribute", lambda n: setattr(n, "factor", 10.0), [10.0, 20.0]),
    ("training", lambda n: n.set_train(), [4.0, 8.0]),
    ("hook", lambda n: n.register_forward_hook(lambda cell, args, output: output + 1), [3.0, 5.0]),
    ("dtype", lambda n: n.w.set_dtype(ms.float64), [2.0, 4.0]),
    ("mode", lambda n: ms.set_context(mode=ms.PYNATIVE_MODE), [2.0, 4.0]),
]


@pytest.mark.parametrize(("change", "expected"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_changes_are_seen(change: Callable[[Net], Any], expected: list[float], long_ways: list[str]) -> None:
    net = Net()
    assert [net(X).asnumpy().tolist() for _ in range(3)] == [[2.0, 4.0]] * 3
    change(net)
    del long_ways[:]
    assert [net(X).asnumpy().tolist() for _ in range(3)] == [expected] * 3
    assert len(long_ways) <= 1


def test_a_captured_tensor_that_changes_is_seen() -> None:
    scale = Tensor([1.0, 1.0])
    f = ms.jit(lambda x: x * scale)
    f(X), f(X)
    scale[0] = 5.0
    assert f(X).asnumpy().tolist() == [5.0, 2.0]


def test_other_arguments_are_other_signatures() -> None:
    f = ms.jit(lambda x, k=1: x * k)
    given: list[tuple[Any, ...]] = [(X,), (X, 2), (X, True), (X, 2.0), (X, 3.0), (Tensor([1, 2]), 2), (Tensor([[1.0, 2.0]]), 2)]
    for _ in range(2):
        for args in given:
            expected = args[0].asnumpy() * (args[1] if len(args) > 1 else 1)
            found = f(*args).asnumpy()
            assert found.shape == expected.shape and np.array_equal(found, expected), args
    assert f(X, k=4).asnumpy().tolist() == [4.0, 8.0]
    assert f.compile_cache.compiles == 7


def test_errors_are_those_of_the_first_call() -> None:
    table = Parameter(Tensor(np.ones((4, 2), np.float32)), name="table")
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    step = ms.jit(lambda x, y: (ops.assign_add(table, table), loss(x, y))[1])
    x, good, bad = Tensor(np.ones((3, 4), np.float32)), Tensor([0, 1, 2], ms.int32), Tensor([0, 9, 2], ms.int32)
    step(x, good)
    texts = []
    for fresh in (False, True):
        if fresh:
            step.compile_cache.shortcut = None
        before = table.asnumpy()
        with pytest.raises(ValueError, match="outside") as caught:
            step(x, bad)
        texts.append(str(caught.value).split("called at")[0])
        assert np.array_equal(before, table.asnumpy())
    assert texts[0] == texts[1]
    with pytest.raises(TypeError, match="numpy array"):
        step(x, good.asnumpy())
    step(x, good)


def test_a_list_of_rates_still_ends() -> None:
    net, step = train_step([0.1, 0.1, 0.1])
    for _ in range(3):
        step(X, Y)
    before = net.w.asnumpy()
    with pytest.raises(RuntimeError, match="learning_rate"):
        step(X, Y)
    assert np.array_equal(before, net.w.asnumpy())


def test_a_failing_call_op_by_op_takes_back_what_compiled_functions_wrote() -> None:
    total = Parameter(Tensor([0.0]), name="total")

    @ms.jit
    def add(x: Any) -> Any:
        return ops.assign_add(total, x)

    class Outer(nn.Cell):
        def construct(self, x: Any) -> Any:
            add(x)
            raise RuntimeError("half way")

    add(Tensor([1.0]))
    add(Tensor([1.0]))
    ms.set_context(mode=ms.PYNATIVE_MODE)
    with pytest.raises(RuntimeError, match="half way"):
        Outer()(Tensor([1.0]))
    assert total.asnumpy().tolist() == [2.0]


def test_copies_have_no_short_way_of_the_original() -> None:
    net = Net()
    net(X), net(X)
    other = copy.deepcopy(net)
    other.w.set_data(Tensor([5.0, 5.0]))
    assert other(X).asnumpy().tolist() == [10.0, 20.0] and net(X).asnumpy().tolist() == [2.0, 4.0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_parent_and_child_go_on_after_a_fork() -> None:
    _, step = train_step()
    step(X, Y), step(X, Y)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.isfinite([float(step(X, Y).asnumpy()) for _ in range(3)]).all() else 1)
    step(X, Y)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_python_threads_share_a_step() -> None:
    count = Parameter(Tensor([0], ms.int32), name="count")
    step = ms.jit(lambda x: (ops.assign_add(count, Tensor([1], ms.int32)), x * 2)[1])
    step(X)
    wrong: list[Any] = []

    def work(k: int) -> None:
        x = Tensor(np.full(2, k, np.float32))
        for _ in range(500):
            found = step(x).asnumpy().tolist()
            if found != [2.0 * k] * 2:
                wrong.append(found)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == [] and count.asnumpy().tolist() == [2001]
