"""Hooks on gradients, of Tensors, Parameters, Cells and operators, in both modes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import graphopt as ms
from graphopt import Parameter, Tensor, nn, ops


@pytest.fixture(params=[ms.PYNATIVE_MODE, ms.GRAPH_MODE], ids=["pynative", "graph"], autouse=True)
def mode(request: pytest.FixtureRequest) -> Iterator[int]:
    ms.set_context(mode=request.param)
    yield request.param
    ms.set_context(mode=ms.PYNATIVE_MODE)


X, Y = [1.0, 2.0], [3.0, 4.0]


def values(result: Any) -> Any:
    return [values(r) for r in result] if isinstance(result, tuple) else result.asnumpy().tolist()


class Product(nn.Cell):
    """x * y * w: gradients (y w, x w)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = Parameter(Tensor([10.0, 10.0]), name="w")

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y * self.w


def both(net: Any) -> Any:
    return values(ms.grad(net, (0, 1))(Tensor(X), Tensor(Y)))


def test_a_tensors_hook_sees_and_replaces_the_gradient_handed_out() -> None:
    seen = []
    x = Tensor(X)
    handle = x.register_hook(lambda g: seen.append(g.shape))
    assert values(ms.grad(lambda a: a * a)(x)) == [2.0, 4.0]
    assert seen == [(2,)]
    second = x.register_hook(lambda g: g + 1)
    assert values(ms.grad(lambda a: a * a)(x)) == [3.0, 5.0]
    handle.remove()
    assert values(ms.grad(lambda a: a * a)(Tensor(X))) == [2.0, 4.0]
    second.remove()
    assert values(ms.grad(lambda a: a * a)(x)) == [2.0, 4.0]


def test_a_hook_inside_acts_from_there_on() -> None:
    def f(a: Tensor) -> Tensor:
        b = a * 2
        before = b * 1
        b.register_hook(lambda g: g * 100)
        return before + b

    assert values(ms.grad(f)(Tensor(X))) == [202.0, 202.0]

    def removed(a: Tensor) -> Tensor:
        b = a * 2
        b.register_hook(lambda g: g * 100).remove()
        return b

    assert values(ms.grad(removed)(Tensor(X))) == [2.0, 2.0]


def test_a_parameters_hook_acts_on_its_gradient_and_on_training() -> None:
    net = Product()
    handle = net.w.register_hook(lambda g: g * 0)
    gradient = ms.grad(net, None, net.w)
    assert values(gradient(Tensor(X), Tensor(Y))) == [0.0, 0.0]
    step = nn.TrainOneStepCell(net, nn.SGD(net.trainable_params(), 1.0))
    step(Tensor(X), Tensor(Y))
    assert net.w.asnumpy().tolist() == [10.0, 10.0]
    handle.remove()
    assert values(gradient(Tensor(X), Tensor(Y))) == [3.0, 8.0]
    step(Tensor(X), Tensor(Y))
    assert net.w.asnumpy().tolist() == [7.0, 2.0]


def test_a_cells_backward_hook() -> None:
    seen: list[Any] = []
    net = Product()
    handle = net.register_backward_hook(lambda cell, gi, go: seen.append((cell, len(gi), len(go))))
    assert both(net) == [[30.0, 40.0], [10.0, 20.0]]
    assert seen == [(net, 2, 1)]
    handle.remove()
    handle = net.register_backward_hook(lambda cell, gi, go: (gi[0] + go[0], gi[1] * 2))
    assert both(net) == [[31.0, 41.0], [20.0, 40.0]]
    assert both(lambda a, b: net(a, b) * 5) == [[155.0, 205.0], [100.0, 200.0]]
    handle.remove()
    assert both(net) == [[30.0, 40.0], [10.0, 20.0]]


def test_a_cells_backward_pre_hook_comes_before_the_others() -> None:
    net = Product()
    net.register_backward_hook(lambda cell, gi, go: (gi[0], go[0]))
    net.register_backward_pre_hook(lambda cell, go: go[0] * 3)
    assert both(net) == [[90.0, 120.0], [3.0, 3.0]]
    weights = ms.grad(net, None, net.w)(Tensor(X), Tensor(Y))
    assert values(weights) == [9.0, 24.0]


def test_backward_hooks_of_cells_in_cells_in_a_training_step() -> None:
    """The hook of an inner Cell clips what flows into the layers before it."""
    rng = np.random.default_rng(0)
    x, label = (Tensor(rng.normal(size=(4, 3)).astype(np.float32)) for _ in range(2))

    def trained(hook: bool) -> list[np.ndarray]:
        ms.set_seed(1)
        net = nn.SequentialCell(nn.Dense(3, 3), nn.Dense(3, 3))
        if hook:
            net[1].register_backward_hook(lambda cell, gi, go: (gi[0] * 0,))
        step = nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), nn.SGD(net.trainable_params(), 0.1))
        before = [p.asnumpy() for p in net.trainable_params()]
        step(x, label)
        return [p.asnumpy() - b for p, b in zip(net.trainable_params(), before, strict=True)]

    plain, hooked = trained(False), trained(True)
    assert not hooked[0].any() and not hooked[1].any() and plain[0].any()
    for a, b in zip(plain[2:], hooked[2:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_backward_hook_is_called_although_no_gradient_reaches_the_inputs() -> None:
    seen = []
    table = nn.Embedding(5, 2)
    table.register_backward_hook(lambda cell, gi, go: seen.append((gi[0].dtype, go[0].shape)))
    ms.grad(lambda i: table(i).sum(), None, table.trainable_params())(Tensor([1, 3], ms.int32))
    assert seen == [(ms.int32, (2, 2))]


def test_hooks_are_differentiated_along() -> None:
    net = Product()
    net.register_backward_hook(lambda cell, gi, go: (gi[0] * gi[0], gi[1]))
    first = ms.grad(net)
    # d/dy of (y w)^2 = 2 y w^2
    assert values(ms.grad(first, 1)(Tensor(X), Tensor(Y))) == [600.0, 800.0]
    rows = ms.vmap(ms.grad(net), (0, None))(Tensor([X, Y]), Tensor(Y))
    assert values(rows) == [[900.0, 1600.0]] * 2


def test_hooks_in_forward_mode() -> None:
    x = Tensor(X)
    x.register_hook(lambda g: g * 3)
    assert values(ms.jvp(lambda a: a * a, x, Tensor([1.0, 1.0]))[1]) == [6.0, 12.0]
    net = Product()
    net.register_backward_hook(lambda cell, gi, go: (gi[0] * 2, gi[1]))
    assert values(ms.jvp(net, (Tensor(X), Tensor(Y)), (Tensor([1.0, 0.0]), Tensor([0.0, 1.0])))[1]) == [60.0, 20.0]


def test_operators_with_hooks() -> None:
    seen = []
    clip = ops.InsertGradientOf(lambda g: ops.clamp(g, -1.0, 1.0))
    watch = ops.HookBackward(lambda grads: seen.append(len(grads)))
    assert values(ms.grad(lambda a: watch(clip(a)) * 7)(Tensor(X))) == [1.0, 1.0]
    assert seen == [1]


def test_mistakes() -> None:
    x, net = Tensor(X), Product()
    for register in (x.register_hook, net.w.register_hook, net.register_backward_hook, net.register_backward_pre_hook):
        with pytest.raises(TypeError, match="hook_fn must be a function, found 3"):
            register(3)
    handle = x.register_hook(lambda g: Tensor([1.0]))
    with pytest.raises(ValueError, match=r"register_hook: the gradient has shape \(1,\), expected \(2,\)"):
        ms.grad(lambda a: a * a)(x)
    handle.remove()
    x.register_hook(lambda g: "no")
    with pytest.raises(TypeError, match="register_hook: the gradient must be a Tensor"):
        ms.grad(lambda a: a * a)(x)
    net.register_backward_hook(lambda cell, gi, go: gi[0])
    with pytest.raises(ValueError, match="Product: grad_inputs: a backward hook must return 2 gradients or None, found 1"):
        both(net)
