"""Python's cycle collector while something is compiled."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def resting_collector() -> Iterator[None]:
    """Within the block, or the function it decorates, Python does not look for cycles.

    Compiling makes hundreds of thousands of objects that live until it is done; looking through all of them again and again
    took a third of its time, and more for larger graphs.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
