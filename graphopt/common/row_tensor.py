"""RowTensor: a tensor of which only some rows are not zero, by their indices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphopt.common.checks import found
from graphopt.common.tensor import Tensor, apply, wrap_node
from graphopt.common.trace import Trace
from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node
from graphopt.ir.types import DType, TensorType
from graphopt.opdefs.rows import as_rows, row_tensor


class RowTensor:
    """Zeros of a shape with `values[k]` added to row `indices[k]`: the gradient of a table that few rows of were read.

    indices:    integers of shape (n,). values: a Tensor of shape (n, *shape[1:]). shape: the whole tensor's, a tuple.
    row_tensor: instead of the three, a RowTensor to take them from.

    `ops.SparseGatherV2`, `ops.EmbeddingLookup` and `nn.EmbeddingLookup` give such gradients, and optimizers take them;
    equal indices mean the sum of their rows. `to_dense()` makes an ordinary Tensor.

    Errors: TypeError for arguments of another kind or indices that are no integers; ValueError for shapes that do not
            fit together.

    >>> import graphopt as ms
    >>> rows = ms.RowTensor(ms.Tensor([2, 0]), ms.Tensor([[1.0, 2.0], [3.0, 4.0]]), (3, 2))
    >>> rows.dense_shape, rows.to_dense().asnumpy().tolist()
    ((3, 2), [[3.0, 4.0], [0.0, 0.0], [1.0, 2.0]])
    """

    def __init__(self, indices: Any = None, values: Any = None, shape: Any = None, row_tensor: Any = None) -> None:
        if row_tensor is not None:
            if not isinstance(row_tensor, RowTensor):
                raise TypeError(f"RowTensor: row_tensor must be a RowTensor, found {found(row_tensor)}")
            if indices is not None or values is not None or shape is not None:
                raise TypeError("RowTensor: row_tensor excludes indices, values and shape")
            indices, values, shape = row_tensor.indices, row_tensor.values, row_tensor.dense_shape
        for name, part in (("indices", indices), ("values", values)):
            if not isinstance(part, Tensor):
                raise TypeError(f"RowTensor: {name} must be a Tensor, found {found(part)}")
        if not isinstance(shape, tuple) or not all(isinstance(n, int) and not isinstance(n, bool) for n in shape):
            raise TypeError(f"RowTensor: shape must be a tuple of ints, found {found(shape)}")
        if not indices.dtype.is_integer:
            raise DTypeError(f"RowTensor: indices must be integers, found {found(indices)}")
        if indices.ndim != 1:
            raise ShapeError(f"RowTensor: indices must have one axis, found shape {indices.shape}")
        if not shape or shape[0] < 0 or values.shape != (indices.size, *shape[1:]):
            rows = f"{indices.size} rows of shape {shape}" if shape else f"rows of a shape with axes, found {shape}"
            raise ShapeError(f"RowTensor: values must be {rows}, found shape {values.shape}")
        self._indices, self._values, self._shape = indices, values, shape

    @property
    def indices(self) -> Tensor:
        """Which rows; shape (n,)."""
        return self._indices

    @property
    def values(self) -> Tensor:
        """The rows; shape (n, *dense_shape[1:])."""
        return self._values

    @property
    def dense_shape(self) -> tuple[int, ...]:
        """The shape of the whole tensor."""
        return self._shape

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole tensor."""
        return self._shape

    @property
    def _type(self) -> TensorType:
        return TensorType(self.dtype, self._shape)

    @property
    def dtype(self) -> DType:
        """The dtype of the values."""
        return self._values.dtype

    def to_dense(self) -> Tensor:
        """The whole tensor; rows of equal indices are added up.

        Errors: none for indices out of range, whose rows are left out.
        """
        made: Tensor = apply(lambda i, v: row_tensor(i, v, shape=self._shape), self._indices, self._values)
        return made

    def map_parts(self, change: Callable[[Tensor], Tensor]) -> RowTensor:
        """`change` of the indices and of the values, in this order."""
        return RowTensor(change(self._indices), change(self._values), self._shape)

    def map_values(self, change: Callable[[Tensor], Tensor]) -> RowTensor:
        """The same rows with other values."""
        return RowTensor(self._indices, change(self._values), self._shape)

    def __repr__(self) -> str:
        return f"RowTensor(shape={list(self._shape)}, indices={self._indices!r}, values={self._values!r})"


def wrap_gradient(node: Node, trace: Trace) -> Tensor | RowTensor:
    """What stands for a gradient's node in its trace: a RowTensor where the node is rows of a table."""
    rows = as_rows(node)
    if rows is None:
        return wrap_node(node, trace)
    indices, values = rows.inputs
    return RowTensor(wrap_node(indices, trace), wrap_node(values, trace), node.shape)


def map_tensor(value: Tensor | RowTensor, change: Callable[[Tensor], Tensor]) -> Any:
    """`change` of a Tensor, or of the values of a RowTensor."""
    return value.map_values(change) if isinstance(value, RowTensor) else change(value)
