"""Update rules that optax lacks: those that change only the rows of a table that were looked up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def lazy_adam(rate: float, eps: float, t: Any, w: Any, m: Any, v: Any, g: Any) -> tuple[Any, Any, Any]:
    """The t-th update, the first is 1."""
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * g * g
    rate_now = rate * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    return w - rate_now * m / (jnp.sqrt(v) + eps), m, v


def rows_of(ids: Any, height: int) -> tuple[Any, Callable[[Any], Any]]:
    """The distinct rows among the look-ups, and what sums the look-ups' gradients per such row; `height` fills up."""
    count = ids.size
    rows, place = jnp.unique(ids.reshape(-1), return_inverse=True, size=count, fill_value=height)

    def summed(gradient: Any) -> Any:
        return jax.ops.segment_sum(gradient.reshape(count, -1), place.reshape(-1), count)

    return rows, summed


def at_rows(rule: Callable[..., Sequence[Any]], tables: Sequence[Any], rows: Any, gradient: Any) -> tuple[Any, ...]:
    """The tables, changed by a rule in some rows alone."""
    found = rule(*(t.at[rows].get(mode="fill", fill_value=0) for t in tables), gradient)
    return tuple(t.at[rows].set(f, mode="drop") for t, f in zip(tables, found, strict=True))
