"""JAX: the whole step under one jit, parameters and optimizer state donated, images channels last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Weights = dict[str, Any]
Contestant = tuple[Callable[[int], Any], Callable[[Any], float]]


def version() -> str:
    return f"jax {jax.__version__}"


def forward(layers: list[list[Any]], weights: Weights, x: Any) -> Any:
    """The network's outputs; images are (n, h, w, c) inside."""
    for k, (kind, *arguments) in enumerate(layers):
        match kind:
            case "dense":
                x = x @ weights[f"{k}.weight"].T + weights[f"{k}.bias"]
            case "conv":
                kernel = weights[f"{k}.weight"].transpose(2, 3, 1, 0)
                x = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
                x = x + weights[f"{k}.bias"]
            case "maxpool":
                size = (1, arguments[0], arguments[0], 1)
                x = lax.reduce_window(x, -jnp.inf, lax.max, size, size, "VALID")
            case "relu":
                x = jax.nn.relu(x)
            case "flatten":
                x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
            case _:
                raise ValueError(f"no such layer: {kind}")
    return x


def update(optimizer: dict[str, Any], weights: Weights, gradients: Weights, state: Any) -> tuple[Weights, Any]:
    """New weights and optimizer state: (count, first moment, second moment)."""
    rate = optimizer["learning_rate"]
    count, first, second = state
    if optimizer["kind"] == "momentum":
        first = {n: optimizer["momentum"] * first[n] + g for n, g in gradients.items()}
        return {n: w - rate * first[n] for n, w in weights.items()}, (count, first, second)
    count = count + 1
    first = {n: 0.9 * first[n] + 0.1 * g for n, g in gradients.items()}
    second = {n: 0.999 * second[n] + 0.001 * g * g for n, g in gradients.items()}
    rate = rate * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
    return {n: w - rate * first[n] / (jnp.sqrt(second[n]) + optimizer["eps"]) for n, w in weights.items()}, (count, first, second)


def contestant(spec: dict[str, Any], arrays: dict[str, np.ndarray], threads: int) -> Contestant:
    """See serve.py. XLA takes its thread count from the CPUs that the process may use."""
    del threads
    weights = {name: jnp.array(value) for name, value in arrays.items() if "." in name}
    stored = arrays["images"]
    images = [jnp.array(batch if batch.ndim < 4 else batch.transpose(0, 2, 3, 1)) for batch in stored]
    labels = [jnp.array(batch) for batch in arrays["labels"]]
    zeros = {name: jnp.zeros_like(value) for name, value in weights.items()}
    state = (jnp.zeros((), jnp.float32), zeros, {name: jnp.zeros_like(value) for name, value in weights.items()})

    def loss_of(weights: Weights, x: Any, y: Any) -> Any:
        chances = jax.nn.log_softmax(forward(spec["layers"], weights, x))
        return -jnp.mean(jnp.take_along_axis(chances, y[:, None], 1))

    def whole(weights: Weights, state: Any, x: Any, y: Any) -> tuple[Weights, Any, Any]:
        loss, gradients = jax.value_and_grad(loss_of)(weights, x, y)
        return *update(spec["optimizer"], weights, gradients, state), loss

    compiled = jax.jit(whole, donate_argnums=(0, 1))

    def step(k: int) -> Any:
        nonlocal weights, state
        weights, state, loss = compiled(weights, state, images[k], labels[k])
        return loss

    return step, float
