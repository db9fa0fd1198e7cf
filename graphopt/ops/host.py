"""Functions that run on the host: on Python values, or on tensors whose values decide the size of the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.common.tensor import Tensor


def unique(input: Tensor) -> tuple[Tensor, Tensor]:
    """(distinct elements in order of appearance, the position among them of every element).

    >>> import graphopt as ms
    >>> values, positions = ms.ops.unique(ms.Tensor([3, 1, 3]))
    >>> values.asnumpy().tolist(), positions.asnumpy().tolist()
    ([3, 1], [0, 1, 0])
    """
    flat = input.asnumpy().reshape(-1)
    values, first, inverse = np.unique(flat, return_index=True, return_inverse=True)
    order = np.argsort(first)
    places = np.argsort(order)
    return Tensor(values[order]), Tensor(places[inverse].astype(np.int32).reshape(input.shape))


def nonzero(input: Tensor) -> Tensor:
    """The positions of the elements that are not 0, one row each.

    >>> import graphopt as ms
    >>> ms.ops.nonzero(ms.Tensor([0, 5, 7])).asnumpy().tolist()
    [[1], [2]]
    """
    return Tensor(np.argwhere(input.asnumpy()).astype(np.int64))


def constexpr(fn: Callable[..., Any] | None = None, get_instance: bool = True, name: str | None = None, **_: Any) -> Any:
    """`fn` as it is: whatever works on Python values alone runs while the graph is traced. A decorator, with or without
    arguments.

    >>> import graphopt as ms
    >>> @ms.ops.constexpr
    ... def half(n):
    ...     return n // 2
    >>> half(7)
    3
    """
    return constexpr if fn is None else fn


def make_range(*limits: int) -> tuple[int, ...]:
    """The ints of range(*limits) as a tuple.

    >>> import graphopt as ms
    >>> ms.ops.make_range(1, 6, 2)
    (1, 3, 5)
    """
    return tuple(range(*limits))


def tuple_len(x: Any) -> int:
    """The number of elements of a tuple or list.

    >>> import graphopt as ms
    >>> ms.ops.tuple_len((1, 2))
    2
    """
    return len(x)
