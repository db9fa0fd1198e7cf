"""Update rules that optax does not have, in its form: init and update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _elementwise(rule: Callable[..., Any], *starts: float) -> Any:
    """A transformation from rule(w, g, count, *states) -> (change of w, new states); `starts` fill the states."""
    import jax
    import jax.numpy as jnp
    import optax

    def init(weights: Any) -> Any:
        return jnp.zeros(()), [[jnp.full_like(w, start) for start in starts] for w in jax.tree.leaves(weights)]

    def update(gradients: Any, state: Any, weights: Any) -> Any:
        count = state[0] + 1
        leaves, shape = jax.tree.flatten(gradients)
        rows = zip(jax.tree.leaves(weights), leaves, state[1], strict=True)
        found = [rule(w, g, count, *states) for w, g, states in rows]
        return jax.tree.unflatten(shape, [change for change, *_ in found]), (count, [states for _, *states in found])

    return optax.GradientTransformation(init, update)


def adam_weight_decay(rate: float, beta1: float, beta2: float, eps: float, decay: float) -> Any:
    """Adam without bias correction and with decoupled weight decay."""
    import jax.numpy as jnp

    def rule(w: Any, g: Any, _: Any, first: Any, second: Any) -> Any:
        first = beta1 * first + (1 - beta1) * g
        second = beta2 * second + (1 - beta2) * g * g
        return -rate * (first / (jnp.sqrt(second) + eps) + decay * w), first, second

    return _elementwise(rule, 0.0, 0.0)


def ftrl(rate: float, start: float, l1: float, l2: float) -> Any:
    """Follow the regularized leader, with the power -0.5."""
    import jax.numpy as jnp

    def rule(w: Any, g: Any, _: Any, total: Any, linear: Any) -> Any:
        grown = total + g * g
        linear = linear + g - (jnp.sqrt(grown) - jnp.sqrt(total)) / rate * w
        kept = (jnp.clip(linear, -l1, l1) - linear) / (jnp.sqrt(grown) / rate + 2 * l2)
        return kept - w, grown, linear

    return _elementwise(rule, start, 0.0)


def asgd(rate: float, decay: float = 1e-4, power: float = 0.75, begin: float = 1e6) -> Any:
    """Gradient descent whose weights are averaged from a step on."""
    import jax.numpy as jnp

    def rule(w: Any, g: Any, count: Any, average: Any) -> Any:
        before = jnp.maximum(count - 1, 0)
        eta = rate / (1 + decay * rate * before) ** power
        share = 1 / jnp.maximum(before - begin, 1.0)
        change = -eta * (g + decay * w)
        return change, jnp.where(share == 1, w + change, average + (w + change - average) * share)

    return _elementwise(rule, 0.0)


def rprop(rate: float) -> Any:
    """Steps whose sizes follow the signs of the gradients; optax's own takes each of them one call later."""
    import jax.numpy as jnp

    def rule(w: Any, g: Any, _: Any, before: Any, size: Any) -> Any:
        agreement = g * before
        size = jnp.clip(size * jnp.where(agreement > 0, 1.2, jnp.where(agreement < 0, 0.5, 1.0)), 1e-6, 50.0)
        g = jnp.where(agreement < 0, 0.0, g)
        return -jnp.sign(g) * size, g, size

    return _elementwise(rule, 0.0, rate)
