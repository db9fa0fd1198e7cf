"""Functions whose result's size depends on values: they run on the host, on tensors that have values."""

from __future__ import annotations

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
