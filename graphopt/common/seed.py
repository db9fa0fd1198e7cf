"""The global seed, and every random stream that is drawn from it.

Two kinds of randomness: host draws (initial values, shuffling) come from numpy generators, one per draw; random
bits inside a graph come from a two-word key. Both are numbered, so a program that draws in the same order after
`set_seed(n)` sees the same numbers on every machine.
"""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Callable

import numpy as np

_seed: int | None = None
_entropy = secrets.randbits(63)
_draws = 0
_settings = 0
_listeners: list[Callable[[], None]] = []


def set_seed(seed: int) -> None:
    """Set the global seed: initial values, shuffling, dropout and random ops repeat from here on.

    Errors: TypeError when seed is no int, ValueError when it is negative.

    >>> import graphopt as ms
    >>> ms.set_seed(1)
    >>> ms.get_seed()
    1
    """
    global _seed, _draws, _settings
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"set_seed: expected an int, found {seed!r} of type {type(seed).__name__}")
    if seed < 0:
        raise ValueError(f"set_seed: expected a seed >= 0, found {seed}")
    _seed, _draws, _settings = int(seed), 0, _settings + 1
    for listener in _listeners:
        listener()


def get_seed() -> int | None:
    """The seed that `set_seed` was given; None when it was not called.

    >>> import graphopt as ms
    >>> ms.set_seed(7)
    >>> ms.get_seed()
    7
    """
    return _seed


def base_seed() -> int:
    """The seed in force: the global one, or this process's own when none was set."""
    return _entropy if _seed is None else _seed


def when_set(listener: Callable[[], None]) -> None:
    """Call `listener` after each `set_seed`: streams kept elsewhere start again."""
    _listeners.append(listener)


def settings() -> int:
    """How often `set_seed` was called: streams that count for themselves start again when it changes."""
    return _settings


def next_generator(seed: int | None = None) -> np.random.Generator:
    """A generator for the next host draw; with `seed` one that depends on that number alone."""
    global _draws
    if seed is not None:
        return np.random.default_rng([7, int(seed)])
    _draws += 1
    return np.random.default_rng([base_seed(), _draws])


def next_key(seed: int | None = None) -> np.ndarray:
    """A fresh key u32[2] for `random_bits`."""
    return next_generator(seed).integers(0, 2**32, size=2, dtype=np.uint64).astype(np.uint32)


def named_generator(name: str, number: int) -> np.random.Generator:
    """The generator of stream `name` at position `number`: independent of what else was drawn."""
    return np.random.default_rng([base_seed(), zlib.crc32(name.encode()), number])
