"""Whether tensors hold finite numbers only."""

from __future__ import annotations

from typing import Any

from graphopt.common.checks import found
from graphopt.common.row_tensor import RowTensor
from graphopt.common.signature import leaves
from graphopt.common.tensor import Tensor, apply
from graphopt.ir.graph import Node
from graphopt.opdefs import bits, math, reduce
from graphopt.opdefs.opdef import constant


def all_finite(inputs: Any) -> Tensor:
    """Whether every element of every tensor is neither NaN nor infinite: a bool Tensor of shape ().

    inputs: a Tensor or RowTensor, or tuples, lists and dicts of them; without tensors the answer is True.
    Errors: TypeError for anything else.

    >>> import graphopt as ms
    >>> bool(ms.amp.all_finite((ms.Tensor([1.0, 2.0]), ms.Tensor(float("inf")))))
    False
    """
    if not isinstance(inputs, (Tensor, RowTensor, tuple, list, dict)):
        raise TypeError(f"all_finite: inputs must be a Tensor or a tuple of Tensors, found {found(inputs)}")
    tensors = [t for t in leaves(inputs) if t.dtype.is_float]
    return apply(_all_finite, *tensors) if tensors else Tensor(True)


def _all_finite(*nodes: Node) -> Node:
    finite = constant(True)
    for n in nodes:
        flags = math.is_finite(n)
        if n.type.rank > 1:  # rows first: they are shared among threads
            flags = reduce.reduce_and(flags, axes=tuple(range(1, n.type.rank)))
        finite = bits.logical_and(finite, reduce.reduce_and(flags, axes=tuple(range(flags.type.rank))))
    return finite
