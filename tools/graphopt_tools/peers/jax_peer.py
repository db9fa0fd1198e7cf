"""JAX: the whole step under one jit, parameters and optimizer state donated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Step = Callable[..., Any]


class Kit:
    """What the programs need of JAX. XLA takes its thread count from the CPUs that the process may use."""

    def __init__(self, variant: str, threads: int) -> None:
        del variant, threads
        self.version = f"jax {jax.__version__}"

    def tensor(self, array: np.ndarray) -> Any:
        return jnp.array(array)

    def numpy(self, value: Any) -> np.ndarray:
        return np.asarray(value)

    def wait(self, result: Any) -> None:
        jax.block_until_ready(result)

    def weights(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The initial weights."""
        return {name: jnp.array(value) for name, value in arrays.items()}

    def training(self, loss: Step, weights: Any, optimizer: Any) -> Step:
        """A step that returns the loss of its batch before the update; `optimizer` has optax's init and update."""

        def update(weights: Any, state: Any, *batch: Any) -> Any:
            value, gradients = jax.value_and_grad(loss)(weights, *batch)
            change, state = optimizer.update(gradients, state, weights)
            return jax.tree.map(jnp.add, weights, change), state, value

        return self.stateful(update, weights, optimizer.init(weights))

    def stateful(self, update: Step, *state: Any, shows_first: bool = False) -> Step:
        """A step that keeps state: update(*state, *batch) returns the new state and the result.

        The state's memory is donated. shows_first: the result is the first of the state.
        """
        compiled = jax.jit(update, donate_argnums=tuple(range(len(state))))

        def step(*batch: Any) -> Any:
            nonlocal state
            *state, result = compiled(*state, *batch)
            return state[0] if shows_first else result

        return step

    def gradients(self, function: Step, count: int) -> Step:
        """A step that returns the value of a function and its gradients for the first `count` inputs."""

        def flat(*inputs: Any) -> Any:
            value, gradients = jax.value_and_grad(function, argnums=tuple(range(count)))(*inputs)
            return value, *gradients

        return jax.jit(flat)

    def plain(self, function: Step) -> Step:
        """A step that returns what a function returns."""
        return jax.jit(function)
