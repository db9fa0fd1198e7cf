"""Look-ups whose gradient holds the rows that were read."""

from __future__ import annotations

from typing import Any

from graphopt import ops
from graphopt.common.checks import check_bool, check_choice, check_int, check_positive, found
from graphopt.common.dtype import check_dtype, float32
from graphopt.common.signature import operand
from graphopt.common.tensor import Tensor
from graphopt.errors import DTypeError, layout
from graphopt.ir.types import DType
from graphopt.nn.cell import Cell
from graphopt.nn.layer.basic import ClipByNorm, make_parameter
from graphopt.ops.indexing import gather_rows
from graphopt.where import here

_SLICES = ("batch_slice", "field_slice", "table_row_slice", "table_column_slice")


class EmbeddingLookup(Cell):
    """The rows of a table at the given ids; with `sparse` the table's gradient is a RowTensor.

    Optimizers that update rows alone (LazyAdam, FTRL, ProximalAdagrad, Adam with use_lazy) then take a step whose cost
    does not depend on vocab_size.

    Parameters: embedding_table (vocab_size, embedding_size), drawn from param_init.
    target:   'CPU', or 'DEVICE' for which sparse may be False; both compute here.
    max_norm: each row of the result is scaled down to this norm.
    slice_mode, manual_shapes, vocab_cache_size: how several devices would share the table; checked, without effect.

    Shapes: ids of any shape -> ids.shape + (embedding_size,). Dtypes: integer ids.
    An id outside the table gives a row of zeros; in training, optimizers that update rows refuse it.
    Errors: TypeError or ValueError for arguments that do not fit, or ids that are no integers.

    >>> import graphopt as ms
    >>> lookup = ms.nn.EmbeddingLookup(4, 2)
    >>> lookup(ms.Tensor([[1, 0], [3, 2]], ms.int32)).shape
    (2, 2, 2)
    >>> ids = ms.Tensor([3, 1])
    >>> ms.grad(lookup, None, lookup.embedding_table)(ids).indices.asnumpy().tolist()
    [3, 1]
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_size: int,
        param_init: Any = "normal",
        target: str = "CPU",
        slice_mode: str = "batch_slice",
        manual_shapes: tuple[int, ...] | None = None,
        max_norm: float | None = None,
        sparse: bool = True,
        vocab_cache_size: int = 0,
        dtype: DType = float32,
    ) -> None:
        super().__init__()
        owner = "EmbeddingLookup"
        self.vocab_size = check_int(owner, "vocab_size", vocab_size, low=1)
        self.embedding_size = check_int(owner, "embedding_size", embedding_size, low=1)
        self.target = check_choice(owner, "target", target, ("CPU", "DEVICE"))
        self.sparse = check_bool(owner, "sparse", sparse)
        if not sparse and target == "CPU":
            raise ValueError(f"{owner}: sparse must be True for target 'CPU', found False; use target='DEVICE'")
        self.slice_mode = check_choice(owner, "slice_mode", slice_mode, _SLICES)
        if manual_shapes is not None and not isinstance(manual_shapes, tuple):
            raise TypeError(f"{owner}: manual_shapes must be a tuple or None, found {found(manual_shapes)}")
        self.manual_shapes = manual_shapes
        self.max_norm = None if max_norm is None else check_positive(owner, "max_norm", max_norm)
        self.vocab_cache_size = check_int(owner, "vocab_cache_size", vocab_cache_size, low=0)
        shape = (vocab_size, embedding_size)
        self.embedding_table = make_parameter(owner, "param", param_init, shape, check_dtype(owner, dtype))
        self.embedding_table.name = "embedding_table"

    def construct(self, indices: Tensor) -> Any:
        if not indices.dtype.is_integer:
            hint = "convert them: indices.astype(ms.int32)"
            what = f"EmbeddingLookup: indices must be integers, found {indices.dtype!r}"
            raise DTypeError(layout(what, here(), [operand("indices", indices)], hint))
        read = gather_rows if self.sparse else ops.gather
        rows = read(self.embedding_table, indices, 0)
        return rows if self.max_norm is None else ClipByNorm(-1)(rows, self.max_norm)

    def extend_repr(self) -> str:
        return f"vocab_size={self.vocab_size}, embedding_size={self.embedding_size}, sparse={self.sparse}"


__all__ = ["EmbeddingLookup"]
