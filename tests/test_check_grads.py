"""check_grads: passes what is right, names what is wrong, knows where it knows nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphopt as ms
from graphopt import Parameter, Tensor, nn, ops
from graphopt.errors import GradientError
from graphopt.opdefs.opdef import opdef

RNG = np.random.default_rng(0)


def t(*shape: int) -> Tensor:
    return Tensor(RNG.normal(size=shape).astype(np.float32))


class Mlp(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Dense(3, 4), nn.Dense(4, 2)

    def construct(self, x: Tensor) -> Tensor:
        return self.second(ops.tanh(self.first(x)))


def test_every_argument_and_parameter_has_its_rows() -> None:
    net = Mlp()
    before = [p.asnumpy() for p in net.trainable_params()]
    report = ms.check_grads(net, t(5, 3))
    names = {"x", *(p.name for p in net.trainable_params())}
    assert {row.what for row in report.rows} == names
    assert {row.mode for row in report.rows} == {
        "rev", "fwd", "rev of rev", "fwd of rev", "rev of fwd", "fwd of fwd",
    }  # fmt: skip
    assert len(report.rows) == 6 * len(names)
    assert report.worst.off < 1
    assert all(row.smooth and abs(row.found - row.expected) < 1e-9 for row in report.rows)
    assert str(report).count("\n") == 1 + len(report.rows)
    for p, old in zip(net.trainable_params(), before, strict=True):
        assert np.array_equal(p.asnumpy(), old)


def convolutional() -> nn.Cell:
    net = nn.SequentialCell(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Flatten(), nn.Dense(12, 2))
    return net.set_train()


RIGHT: dict[str, Callable[[], Any]] = {
    "convolutional": lambda: ms.check_grads(convolutional(), t(2, 2, 4, 4), modes=("rev",)),
    "batch normalisation": lambda: ms.check_grads(nn.BatchNorm2d(2).set_train(), t(3, 2, 2, 1)),
    "softmax loss": lambda: ms.check_grads(
        nn.SoftmaxCrossEntropyWithLogits(sparse=True), (t(4, 5), Tensor([0, 1, 4, 2], ms.int32))
    ),
    "containers": lambda: ms.check_grads(lambda p, k: p[0] * ops.sin(p[1]) * k, ((t(3), t(3)), 2.0)),
    "third order": lambda: ms.check_grads(ops.sigmoid, t(3), order=3, modes=("rev",)),
    "a branch on values": lambda: ms.check_grads(lambda x: x * x if x.sum() > 0 else x, Tensor([1.0, 2.0])),
    "half precision": lambda: ms.check_grads(lambda x: ops.exp(x).astype(ms.float32), Tensor([1.0], ms.float16)),
    "a gradient": lambda: ms.check_grads(ms.grad(lambda x: (ops.tanh(x) * x).sum()), t(3), order=1),
    "a loop": lambda: ms.check_grads(lambda x: ms.control.scan(lambda s, row: (ops.tanh(s * row), s + row), x[0], x)[1], t(4, 3)),
    "a map": lambda: ms.check_grads(ms.vmap(lambda x: ops.softmax(x, -1)), t(3, 4)),
}


@pytest.mark.parametrize("mode", [ms.PYNATIVE_MODE, ms.GRAPH_MODE], ids=["pynative", "graph"])
@pytest.mark.parametrize("name", RIGHT)
def test_right_derivatives_pass(name: str, mode: int) -> None:
    ms.set_context(mode=mode)
    try:
        report = RIGHT[name]()
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)
    assert any(row.smooth for row in report.rows)


class Wrong(nn.Cell):
    """tanh(x) y w, whose derivative by y is a thousandth too large."""

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return ops.tanh(x) * y

    def bprop(self, x: Tensor, y: Tensor, out: Tensor, dout: Tensor) -> Any:
        return dout * y * (1 - ops.tanh(x) ** 2), dout * ops.tanh(x) * 1.001


def test_a_wrong_bprop_is_caught_and_named() -> None:
    with pytest.raises(AssertionError) as caught:
        ms.check_grads(Wrong(), (t(3), t(3)))
    assert isinstance(caught.value, GradientError)
    lines = str(caught.value).split("\n")
    assert lines[0].startswith("check_grads: y of Wrong, order 1, ")
    assert any(line.startswith("x ") and line.endswith("ok") for line in lines)
    assert any(line.startswith("y ") and line.endswith("WRONG") for line in lines)


def test_a_wrong_second_derivative_is_caught() -> None:
    """bprop is right, but hides from its own derivative that it depends on x."""

    class Hidden(nn.Cell):
        def construct(self, x: Tensor) -> Tensor:
            return ops.exp(x)

        def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> Any:
            return (dout * ops.stop_gradient(ops.exp(x)),)

    assert ms.check_grads(Hidden(), t(3), order=1).worst.off < 1
    with pytest.raises(GradientError, match="x of Hidden, order 2"):
        ms.check_grads(Hidden(), t(3), order=2)


def test_a_parameter_without_its_gradient_is_caught() -> None:
    class Cut(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.w = Parameter(Tensor([2.0]), name="w")

        def construct(self, x: Tensor) -> Tensor:
            return x * ops.stop_gradient(self.w)

    with pytest.raises(GradientError, match="check_grads: w of Cut, order 1"):
        ms.check_grads(Cut(), t(3), order=1)


def test_a_wrong_rule_of_an_op_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(opdef("sin").rules, "vjp", lambda ct, out, x: (ct * opdef("cos")(x) * 1.00001,))
    with pytest.raises(GradientError, match="input of sin"):
        ms.check_grads(ops.sin, t(3))


def test_kinks_are_not_judged() -> None:
    report = ms.check_grads(ops.relu, Tensor([0.0]))
    assert not any(row.smooth for row in report.rows if row.order == 1)
    assert "not smooth here" in str(report)
    assert ms.check_grads(ops.relu, Tensor([-1.0, 1.0])).rows[0].smooth


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="order must be an int >= 1, found 0"):
        ms.check_grads(ops.tanh, t(2), order=0)
    with pytest.raises(ValueError, match="modes must be some of 'rev' and 'fwd'"):
        ms.check_grads(ops.tanh, t(2), modes=("reverse",))
    with pytest.raises(ValueError, match="expected float Tensors or trainable Parameters"):
        ms.check_grads(lambda x: x, Tensor([1]))
    with pytest.raises(TypeError, match="fn must be a Cell or a function"):
        ms.check_grads(3, t(2))
