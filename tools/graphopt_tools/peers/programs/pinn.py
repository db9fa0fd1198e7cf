"""Burgers' equation by a network: the residual u_t + u u_x - c u_xx at random points, its square trained with Adam.

sizes: points, hidden (sizes of the layers between the point (t, x) and u).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import pi
from typing import Any

import numpy as np

from .classifier import ADAM_EPS, uniform

RATE, VISCOSITY = 0.001, 0.01 / pi


def arrays(sizes: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    widths = [2, *sizes["hidden"], 1]
    for k, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
        found[f"weight.{k}"] = 2 * uniform(rng, outputs, inputs)
        found[f"weight.{k}.bias"] = uniform(rng, outputs)
    found["batch.points"] = rng.uniform(-1, 1, (1, sizes["points"], 2)).astype(np.float32)
    return found


def in_torch(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    import torch
    from torch.func import grad

    w = kit.weights(arrays)
    last = len(sizes["hidden"])

    def u(points: torch.Tensor) -> torch.Tensor:
        for k in range(last):
            points = torch.tanh(torch.nn.functional.linear(points, w[f"{k}"], w[f"{k}.bias"]))
        return torch.nn.functional.linear(points, w[f"{last}"], w[f"{last}.bias"])

    def loss(points: torch.Tensor) -> torch.Tensor:
        slope = grad(lambda p: u(p).sum())
        first = slope(points)
        second = grad(lambda p: slope(p)[:, 1].sum())(points)[:, 1]
        residual = first[:, 0] + u(points)[:, 0] * first[:, 1] - VISCOSITY * second
        return residual.square().mean()

    return kit.training(loss, [torch.optim.Adam(w.values(), RATE, eps=ADAM_EPS, fused=True)])


def in_jax(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    import jax
    import jax.numpy as jnp
    import optax

    last = len(sizes["hidden"])

    def u(w: Any, points: Any) -> Any:
        for k in range(last):
            points = jnp.tanh(points @ w[f"{k}"].T + w[f"{k}.bias"])
        return points @ w[f"{last}"].T + w[f"{last}.bias"]

    def loss(w: Any, points: Any) -> Any:
        slope = jax.grad(lambda p: u(w, p).sum())
        first = slope(points)
        second = jax.grad(lambda p: slope(p)[:, 1].sum())(points)[:, 1]
        residual = first[:, 0] + u(w, points)[:, 0] * first[:, 1] - VISCOSITY * second
        return jnp.square(residual).mean()

    return kit.training(loss, kit.weights(arrays), optax.adam(RATE, eps=ADAM_EPS))


def in_mindspore(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    nn, ops = kit.ms.nn, kit.ms.ops
    widths = [2, *sizes["hidden"], 1]

    class Sum(nn.Cell):
        """Of one column of what a Cell gives."""

        def __init__(self, inner: Any, column: int) -> None:
            super().__init__()
            self.inner, self.column = inner, column

        def construct(self, points: Any) -> Any:
            return self.inner(points)[:, self.column].sum()

    class Slope(nn.Cell):
        """The gradient of a Cell wrt its input."""

        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner, self.gradient = inner, ops.GradOperation()

        def construct(self, points: Any) -> Any:
            return self.gradient(self.inner)(points)

    class Loss(nn.Cell):
        def __init__(self, u: Any) -> None:
            super().__init__()
            self.u = u
            self.first = Slope(Sum(u, 0))
            self.second = Slope(Sum(self.first, 1))

        def construct(self, points: Any) -> Any:
            first = self.first(points)
            residual = first[:, 0] + self.u(points)[:, 0] * first[:, 1] - VISCOSITY * self.second(points)[:, 1]
            return ops.square(residual).mean()

    layers: list[Any] = []
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        layers += [nn.Dense(inputs, outputs), nn.Tanh()]
    net = kit.load(nn.SequentialCell(*layers[:-1]), arrays)
    return kit.training(Loss(net), nn.Adam(net.trainable_params(), RATE, eps=ADAM_EPS))
