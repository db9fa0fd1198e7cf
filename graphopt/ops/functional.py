"""All of `graphopt.ops` under its second name: `from graphopt.ops import functional as F; F.relu(x)`."""

from __future__ import annotations

import sys
from typing import Any


def __getattr__(name: str) -> Any:
    """What `graphopt.ops` has under this name.

    >>> from graphopt.ops import functional as F
    >>> F.relu.__name__
    'relu'
    """
    return getattr(sys.modules["graphopt.ops"], name)


def __dir__() -> list[str]:
    return dir(sys.modules["graphopt.ops"])
