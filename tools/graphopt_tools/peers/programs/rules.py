"""Update rules that optax does not have, in its form: init and update."""

from __future__ import annotations

from typing import Any


def adam_weight_decay(rate: float, beta1: float, beta2: float, eps: float, decay: float) -> Any:
    """Adam without bias correction and with decoupled weight decay."""
    import jax
    import jax.numpy as jnp
    import optax

    def init(weights: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, weights), jax.tree.map(jnp.zeros_like, weights)

    def update(gradients: Any, state: Any, weights: Any) -> Any:
        first = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state[0], gradients)
        second = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state[1], gradients)
        change = jax.tree.map(lambda m, v, w: -rate * (m / (jnp.sqrt(v) + eps) + decay * w), first, second, weights)
        return change, (first, second)

    return optax.GradientTransformation(init, update)
