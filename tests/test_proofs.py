"""Whole problems whose derivatives somebody else knows: JAX in float64, polynomials, closed forms, finite differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt as ms
from graphopt import Parameter, ParameterTuple, Tensor, nn, ops

RECORDED = np.load(Path(__file__).parent / "goldens" / "derivatives.npz")  # see goldens/make_derivatives.py
NAMES = [f"{kind}{k}" for k in range(3) for kind in "wb"]
NU = 0.01 / np.pi


@pytest.fixture(params=[ms.PYNATIVE_MODE, ms.GRAPH_MODE], ids=["pynative", "graph"], autouse=True)
def mode(request: pytest.FixtureRequest) -> Iterator[int]:
    ms.set_context(mode=request.param)
    yield request.param
    ms.set_context(mode=ms.PYNATIVE_MODE)


def t(values: Any, dtype: Any = ms.float64) -> Tensor:
    return Tensor(np.asarray(values), dtype)


def close(found: Any, expected: Any, tolerance: float = 1e-10) -> None:
    """Equal to a relative tolerance of the largest element."""
    array = found.asnumpy() if isinstance(found, Tensor) else np.asarray(found)
    assert array.shape == np.shape(expected)
    scale = float(np.max(np.abs(expected), initial=0.0)) or 1.0
    assert float(np.max(np.abs(array - expected), initial=0.0)) <= tolerance * scale


# Burgers' equation


class Field(nn.Cell):
    """u(t, x), a tanh network."""

    def __init__(self, dtype: Any = ms.float64) -> None:
        super().__init__()
        for name in NAMES:
            setattr(self, name, Parameter(t(RECORDED[name], dtype), name=name))

    def construct(self, time: Tensor, x: Tensor) -> Tensor:
        return network({n: getattr(self, n) for n in NAMES}, time, x)


def network(params: Any, time: Tensor, x: Tensor) -> Tensor:
    h = ops.stack([time, x])
    for k in range(2):
        h = ops.tanh(ops.matmul(h, params[f"w{k}"]) + params[f"b{k}"])
    return (ops.matmul(h, params["w2"]) + params["b2"])[0]


def residual(u: Callable[..., Tensor], point: Tensor) -> Tensor:
    """u_t + u u_x - nu u_xx."""
    time, x = point[0], point[1]
    ut, ux = ms.grad(u, (0, 1))(time, x)
    uxx = ms.grad(ms.grad(u, 1), 1)(time, x)
    return ut + u(time, x) * ux - NU * uxx


class Burgers(nn.Cell):
    """The mean square residual."""

    def __init__(self, dtype: Any = ms.float64) -> None:
        super().__init__(auto_prefix=False)
        self.u = Field(dtype)

    def construct(self, points: Tensor) -> Tensor:
        return (ms.vmap(lambda p: residual(self.u, p))(points) ** 2).mean()


def test_burgers_residual_and_its_gradient_are_those_of_jax() -> None:
    net = Burgers()
    points = t(RECORDED["points"])
    close(ms.vmap(lambda p: residual(net.u, p))(points), RECORDED["residual"])
    loss, gradients = ms.value_and_grad(net, None, net.trainable_params())(points)
    close(loss, RECORDED["loss"])
    for p, gradient in zip(net.trainable_params(), gradients, strict=True):
        close(gradient, RECORDED[f"g_{p.name}"])


def test_hessian_vector_product_of_weights_is_that_of_jax() -> None:
    """Reverse over reverse, by Parameters."""
    net = Burgers()
    weights = ParameterTuple(net.trainable_params())
    directions = [t(RECORDED[f"v_{p.name}"]) for p in weights]

    def slope(points: Tensor) -> Tensor:
        gradients = ms.grad(net, None, weights)(points)
        return sum(((g * v).sum() for g, v in zip(gradients, directions, strict=True)), t(0.0))

    for p, product in zip(weights, ms.grad(slope, None, weights)(t(RECORDED["points"])), strict=True):
        close(product, RECORDED[f"h_{p.name}"])


def test_hessian_vector_product_of_arguments_is_that_of_jax() -> None:
    """Forward over reverse, by arguments; the loss without a Cell."""
    points = t(RECORDED["points"])

    def loss(*params: Tensor) -> Tensor:
        named = dict(zip(NAMES, params, strict=True))
        return (ms.vmap(lambda p: residual(lambda a, b: network(named, a, b), p))(points) ** 2).mean()

    given = tuple(t(RECORDED[n]) for n in NAMES)
    along = tuple(t(RECORDED[f"v_{n}"]) for n in NAMES)
    gradients, products = ms.jvp(ms.grad(loss, tuple(range(6))), given, along)
    for n, gradient, product in zip(NAMES, gradients, products, strict=True):
        close(gradient, RECORDED[f"g_{n}"])
        close(product, RECORDED[f"h_{n}"])


def test_a_network_whose_loss_holds_derivatives_trains(mode: int) -> None:
    """Adam on the residual and the initial condition: the way down that JAX takes, in one compiled step."""

    class Loss(nn.Cell):
        def __init__(self) -> None:
            super().__init__(auto_prefix=False)
            self.burgers = Burgers(ms.float32)

        def construct(self, points: Tensor) -> Tensor:
            start = ms.vmap(lambda p: self.burgers.u(p[0] * 0, p[1]) + ops.sin(np.pi * p[1]))(points)
            return self.burgers(points) + (start**2).mean()

    net = Loss()
    step = nn.TrainOneStepCell(net, nn.Adam(net.trainable_params(), 5e-3)).set_train()
    points = t(RECORDED["points"], ms.float32)
    count = 60 if mode == ms.GRAPH_MODE else 6
    losses = [float(step(points).asnumpy()) for _ in range(count)]
    if mode == ms.GRAPH_MODE:
        assert step.compile_cache.compiles == 1
        assert losses[-1] < 0.5 * losses[0]
    np.testing.assert_allclose(losses[:6], RECORDED["losses"], rtol=2e-5)


# the fourth derivative


def tanh_polynomial(order: int) -> np.polynomial.Polynomial:
    """The order-th derivative of tanh as a polynomial in y = tanh: p' (1 - y^2) again and again."""
    y = np.polynomial.Polynomial([0.0, 1.0])
    p = y
    for _ in range(order):
        p = p.deriv() * (1 - y**2)
    return p


def nested(f: Callable[[Tensor], Tensor], order: int) -> Callable[[Tensor], Tensor]:
    for _ in range(order):
        f = ms.grad(f)
    return f


W, B, C = (np.random.default_rng(k).normal(size=6) for k in range(3))


def shallow(x: Tensor) -> Tensor:
    return (ops.tanh(x * t(W) + t(B)) * t(C)).sum()


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_derivatives_of_a_tanh_network_are_polynomials(order: int) -> None:
    for x in (-0.7, 0.0, 1.3):
        expected = (C * W**order * tanh_polynomial(order)(np.tanh(W * x + B))).sum()
        close(nested(shallow, order)(t(x)), expected, 1e-11)


def test_the_fourth_derivative_in_forward_mode() -> None:
    one = t(1.0)

    def along(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: ms.jvp(f, x, one)[1]

    f = shallow
    for _ in range(4):
        f = along(f)
    close(f(t(0.4)), (C * W**4 * tanh_polynomial(4)(np.tanh(W * 0.4 + B))).sum(), 1e-11)


def taylor_tanh(z: np.ndarray) -> np.ndarray:
    """The Taylor coefficients of tanh(z) from those of z (axis 0): y' = (1 - y^2) z'."""
    y = np.zeros_like(z)
    y[0] = np.tanh(z[0])
    for k in range(1, len(z)):
        slope = [-sum(y[i] * y[m - i] for i in range(m + 1)) + (m == 0) for m in range(k)]
        y[k] = sum(slope[k - j] * j * z[j] for j in range(1, k + 1)) / k
    return y


def test_the_fourth_derivative_of_a_deep_network() -> None:
    """Two hidden layers, against Taylor arithmetic."""
    rng = np.random.default_rng(7)
    first, second, last = rng.normal(size=(1, 5)), rng.normal(size=(5, 5)) / 2, rng.normal(size=(5,))

    def deep(x: Tensor) -> Tensor:
        h = ops.tanh(x * t(first[0]))
        return (ops.tanh(ops.matmul(h, t(second))) * t(last)).sum()

    x = 0.3
    z = np.zeros((5, 5))
    z[0], z[1] = x * first[0], first[0]
    coefficients = taylor_tanh(taylor_tanh(z) @ second) @ last
    close(nested(deep, 4)(t(x)), 24 * coefficients[4])


# learning to learn


def test_gradient_through_an_inner_loop() -> None:
    """MAML on quadratics (w - a)^2 / 2: after k steps w is a + (1 - r)^k (w - a), and all derivatives are known."""
    rate, steps, task, goal = 0.1, 5, np.array([1.0, -2.0]), np.array([0.5, 0.5])

    def adapted(w: Tensor) -> Tensor:
        for _ in range(steps):
            w = w - rate * ms.grad(lambda v: ((v - t(task)) ** 2).sum() / 2)(w)
        return w

    def outer(w: Tensor) -> Tensor:
        return ((adapted(w) - t(goal)) ** 2).sum() / 2

    w = np.array([3.0, 4.0])
    shrink = (1 - rate) ** steps
    there = task + shrink * (w - task)
    close(adapted(t(w)), there, 1e-14)
    close(ms.grad(outer)(t(w)), shrink * (there - goal), 1e-13)
    close(ms.jacfwd(ms.grad(outer))(t(w)), shrink**2 * np.eye(2), 1e-13)


def test_meta_training_with_weights_of_a_network() -> None:
    """Two tasks under vmap, an inner step on weights handed through as arguments, the outer step by Adam."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 8, 1)).astype(np.float32)
    y = np.sin(x + np.array([0.0, 1.0]).reshape(2, 1, 1)).astype(np.float32)

    class Meta(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.w = Parameter(Tensor(0.5 * rng.normal(size=(1, 16)).astype(np.float32)), name="w")
            self.b = Parameter(Tensor(np.zeros(16, np.float32)), name="b")
            self.v = Parameter(Tensor(0.5 * rng.normal(size=(16, 1)).astype(np.float32)), name="v")

        def loss(self, w: Tensor, b: Tensor, v: Tensor, x: Tensor, y: Tensor) -> Tensor:
            return ((ops.matmul(ops.tanh(ops.matmul(x, w) + b), v) - y) ** 2).mean()

        def construct(self, x: Tensor, y: Tensor) -> Tensor:
            def task(x: Tensor, y: Tensor) -> Tensor:
                weights = (self.w.value(), self.b.value(), self.v.value())
                gradients = ms.grad(self.loss, (0, 1, 2))(*weights, x, y)
                inner = [a - 0.1 * g for a, g in zip(weights, gradients, strict=True)]
                return self.loss(*inner, x, y)

            return ms.vmap(task)(x, y).mean()

    net = Meta()
    report = ms.check_grads(net, (Tensor(x), Tensor(y)), order=1, modes=("rev",))
    assert {row.what for row in report.rows} >= {"w", "b", "v"}
    step = nn.TrainOneStepCell(net, nn.Adam(net.trainable_params(), 0.02)).set_train()
    losses = [float(step(Tensor(x), Tensor(y)).asnumpy()) for _ in range(25)]
    assert losses[-1] < 0.6 * losses[0]


# a gradient penalty


class Critic(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Dense(2, 16), nn.Dense(16, 1)

    def construct(self, x: Tensor) -> Tensor:
        return self.second(ops.tanh(self.first(x)))


class GradientPenalty(nn.Cell):
    """WGAN-GP's critic loss: D(fake) - D(real) + 10 (|grad D(between)| - 1)^2."""

    def __init__(self, critic: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.critic = critic

    def construct(self, real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
        between = share * real + (1 - share) * fake
        slope = ms.grad(lambda x: self.critic(x).sum())(between)
        norm = ops.sqrt((slope * slope).sum(1) + 1e-12)
        return self.critic(fake).mean() - self.critic(real).mean() + 10 * ((norm - 1) ** 2).mean()


def test_gradient_penalty() -> None:
    rng = np.random.default_rng(4)
    real, fake = (Tensor(rng.normal(size=(8, 2)).astype(np.float32) + shift) for shift in (1.0, -1.0))
    share = Tensor(rng.uniform(size=(8, 1)).astype(np.float32))
    net = GradientPenalty(Critic())
    report = ms.check_grads(net, (real, fake, share), order=1)
    assert len(report.rows) == 14 and report.worst.off < 1
    step = nn.TrainOneStepCell(net, nn.Adam(net.trainable_params(), 0.01)).set_train()
    losses = [float(step(real, fake, share).asnumpy()) for _ in range(30)]
    assert losses[-1] < losses[0] - 2


# a neural ordinary differential equation

ERROR, END = 1e-3, 1 - 1e-9
ODE = [np.random.default_rng(k).normal(size=s) for k, s in enumerate([(2, 5), (5,), (5, 2)], 20)]
START, TARGET = np.array([0.8, -1.1]), np.array([0.3, 0.4])


class Flow(nn.Cell):
    """y after dy/dt = v(y) from 0 to 1: Heun's method, whose steps are as long as the error allows, or are taken back."""

    def __init__(self, dtype: Any = ms.float64) -> None:
        super().__init__()
        for name, value in zip(("w", "b", "v"), ODE, strict=True):
            setattr(self, name, Parameter(t(value, dtype), name=name))

    def field(self, y: Tensor) -> Tensor:
        return ops.matmul(ops.tanh(ops.matmul(3 * y, self.w) + self.b), self.v)

    def construct(self, y: Tensor) -> tuple[Tensor, Tensor]:
        time, h, steps = y[0] * 0, y[0] * 0 + 0.9, 0
        while time < END:
            if h > 1 - time:
                h = 1 - time
            first = self.field(y)
            second = self.field(y + h * first)
            error = ops.sqrt(((second - first) ** 2).sum()) * h / 2 + 1e-12
            if error <= ERROR:
                y = y + h / 2 * (first + second)
                time = time + h
            change = 0.9 * ops.sqrt(ERROR / error)
            if change > 3:
                change = change * 0 + 3
            h = h * change
            steps = steps + 1
        return y, Tensor(steps) if isinstance(steps, int) else steps


class Distance(nn.Cell):
    def __init__(self, flow: Flow) -> None:
        super().__init__(auto_prefix=False)
        self.flow = flow

    def construct(self, y: Tensor, target: Tensor) -> Tensor:
        end, _ = self.flow(y)
        return ((end - target) ** 2).sum()


def flow(weights: list[np.ndarray], y: np.ndarray) -> tuple[np.ndarray, int, int]:
    """(where y goes, the steps tried, those taken) of the same method in numpy, also of complex numbers."""
    w, b, v = weights
    time, h, tried, taken = 0.0, 0.9, 0, 0
    while np.real(time) < END:
        h = 1 - time if np.real(h) > np.real(1 - time) else h
        first = np.tanh(3 * y @ w + b) @ v
        second = np.tanh(3 * (y + h * first) @ w + b) @ v
        error = np.sqrt(((second - first) ** 2).sum()) * h / 2 + 1e-12
        if np.real(error) <= ERROR:
            y, time, taken = y + h / 2 * (first + second), time + h, taken + 1
        change = 0.9 * np.sqrt(ERROR / error)
        h = h * (3.0 if np.real(change) > 3 else change)
        tried += 1
    return y, tried, taken


def slopes(weights: list[np.ndarray], y: np.ndarray) -> list[np.ndarray]:
    """The derivative of the distance by each weight and by y, exact to rounding: a complex step has no cancellation."""
    at = [*weights, y]
    found = [np.zeros(a.shape) for a in at]
    for k, whole in enumerate(found):
        for place in np.ndindex(whole.shape):
            moved = [a.astype(complex) for a in at]
            moved[k][place] += 1e-30j
            whole[place] = np.imag(((flow(moved[:3], moved[3])[0] - TARGET) ** 2).sum()) / 1e-30
    return found


def test_an_adaptive_solver_is_differentiated_through_its_steps() -> None:
    """Its steps, some of them taken back, are a while loop; their lengths depend on the weights, and count."""
    net = Flow()
    end, tried, taken = flow(ODE, START)
    assert tried > taken + 1 > 5
    found, steps = net(t(START))
    close(found, end, 1e-13)
    assert int(steps) == tried
    distance = Distance(net)
    by_inputs, by_weights = ms.grad(distance, 0, distance.trainable_params())(t(START), t(TARGET))
    for gradient, expected in zip((*by_weights, by_inputs), slopes(ODE, START), strict=True):
        close(gradient, expected, 1e-11)


def test_the_second_derivative_of_an_adaptive_solver() -> None:
    """Against differences of the first, forward over reverse and reverse over reverse."""
    distance = Distance(Flow())
    slope, way = ms.grad(distance), np.array([0.6, -0.8])
    ahead, behind = (slopes(ODE, START + e * way)[3] for e in (1e-6, -1e-6))
    expected = (ahead - behind) / 2e-6
    close(ms.jvp(lambda y: slope(y, t(TARGET)), (t(START),), (t(way),))[1], expected, 1e-7)
    close(ms.grad(lambda y: (slope(y, t(TARGET)) * t(way)).sum())(t(START)), expected, 1e-7)


def test_an_adaptive_solver_is_trained(mode: int) -> None:
    """One compile, however many steps the solver needs."""
    net = Flow(ms.float32)
    distance = Distance(net)
    step = nn.TrainOneStepCell(distance, nn.Adam(distance.trainable_params(), 0.05)).set_train()
    start, target = t(START, ms.float32), t(TARGET, ms.float32)
    before = int(net(start)[1])
    losses = [float(step(start, target).asnumpy()) for _ in range(40 if mode == ms.GRAPH_MODE else 5)]
    assert losses[-1] < losses[0]
    if mode == ms.GRAPH_MODE:
        assert losses[-1] < 0.01 * losses[0] and int(net(start)[1]) != before
        assert step.compile_cache.compiles == 1
