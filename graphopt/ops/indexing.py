"""Reading, adding and choosing at positions, under MindSpore's names."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphopt.common.checks import found
from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node
from graphopt.ir.types import bool_, i32, i64
from graphopt.opdefs import elementwise, index
from graphopt.opdefs import shape as shapes
from graphopt.opdefs.opdef import broadcast_to as broadcast_node
from graphopt.opdefs.opdef import constant
from graphopt.opdefs.opdef import full as full_node
from graphopt.opdefs.rows import gather_rows as index_rows
from graphopt.opdefs.scaffold import zero_of
from graphopt.ops.lift import lift
from graphopt.ops.promote import as_node, axis_of, promoted, shape_of, to_dtype


@lift
def gather(input_params: Any, input_indices: Any, axis: int, batch_dims: int = 0) -> Any:
    """The slices of input_params at input_indices along `axis`; repeated indices add up in the derivative.

    Shapes: params.shape[:axis] + indices.shape[batch_dims:] + params.shape[axis+1:].
    Errors: TypeError when indices are no integers. Out of range reads 0.

    >>> import graphopt as ms
    >>> ms.ops.gather(ms.Tensor([10, 20, 30]), ms.Tensor([2, 0]), 0).asnumpy().tolist()
    [30, 10]
    """
    x, at = as_node(input_params), _indices("gather", input_indices)
    k = axis_of(axis, x.type.rank, "gather")
    if batch_dims == 0:
        return index.gather(x, at, axis=k)
    if batch_dims != 1 or k != 1 or x.type.rank != 2 or at.type.rank != 2:
        raise ShapeError("gather: batch_dims is offered for matrices along axis 1")
    return index.take_along(x, at, axis=1)


@lift
def gather_rows(input_params: Any, input_indices: Any, axis: int = 0) -> Any:
    """As `gather`, but along axis 0 the gradient by input_params is a RowTensor."""
    x = as_node(input_params)
    if axis_of(axis, x.type.rank, "gather_rows") != 0:
        return gather.on_nodes(x, input_indices, axis)
    return index_rows(x, _indices("gather_rows", input_indices))


@lift
def embedding_lookup(input_params: Any, input_indices: Any, offset: int) -> Any:
    """The rows at input_indices - offset; what lies before the first or behind the last reads 0."""
    x, at = as_node(input_params), _indices("EmbeddingLookup", input_indices)
    if x.type.rank == 0:
        raise ShapeError(f"EmbeddingLookup: expected a table of rows, found {x.type}")
    if offset:
        at = elementwise.select(elementwise.lt(at, offset), full_node(at.shape, x.shape[0], at.dtype), at - offset)
    return index_rows(x, at)


@lift
def index_select(input: Any, axis: int, index: Any) -> Any:
    """The slices at the positions `index` (1-d) along `axis`.

    >>> import graphopt as ms
    >>> ms.ops.index_select(ms.Tensor([[1, 2], [3, 4]]), 1, ms.Tensor([1])).asnumpy().tolist()
    [[2], [4]]
    """
    x = as_node(input)
    return gather.on_nodes(x, index, axis_of(axis, x.type.rank, "index_select"))


@lift
def gather_elements(input: Any, dim: int, index: Any) -> Any:
    """Along `dim`, the element at each position of `index`; the result has the shape of index.

    >>> import graphopt as ms
    >>> ms.ops.gather_elements(ms.Tensor([[1, 2], [3, 4]]), 1, ms.Tensor([[1], [0]])).asnumpy().tolist()
    [[2], [3]]
    """
    x = as_node(input)
    return _take_along(x, _indices("gather_elements", index), axis_of(dim, x.type.rank, "gather_elements"))


gather_d = gather_elements


def _take_along(x: Node, at: Node, axis: int) -> Node:
    if len(at.shape) != len(x.shape):
        raise ShapeError(f"gather_elements: expected index with {len(x.shape)} axes, found {at.type}")
    for k, (n, m) in enumerate(zip(x.shape, at.shape, strict=True)):
        if k != axis and m < n:
            x = shapes.along(x, k, 0, m)
    return index.take_along(x, at, axis=axis)


def _indices(owner: str, indices: Any) -> Node:
    node = as_node(indices)
    if not node.dtype.is_integer:
        raise DTypeError(f"{owner}: indices must be integers, found {node.type}")
    return to_dtype(node, i32) if node.dtype not in (i32, i64) else node


def _flat_positions(owner: str, shape: tuple[int, ...], indices: Any) -> tuple[Node, int]:
    """Rows named by the last axis of indices, as positions in the flattened leading axes; and how many axes they
    take.
    """
    at = _indices(owner, indices)
    depth = at.shape[-1] if at.type.rank else 0
    if not 0 < depth <= len(shape):
        raise ShapeError(f"{owner}: the last axis of indices must be 1 to {len(shape)} long, found {at.type}")
    flat = None
    for k in range(depth):
        part = shapes.reshape(shapes.along(at, at.type.rank - 1, k, k + 1), shape=(math.prod(at.shape[:-1]),))
        flat = part if flat is None else flat * shape[k] + part
    return flat, depth  # type: ignore[return-value]


@lift
def gather_nd(input_x: Any, indices: Any) -> Any:
    """The elements or slices that the last axis of indices names.

    >>> import graphopt as ms
    >>> ms.ops.gather_nd(ms.Tensor([[1, 2], [3, 4]]), ms.Tensor([[0, 1], [1, 0]])).asnumpy().tolist()
    [2, 3]
    """
    x, at = as_node(input_x), as_node(indices)
    flat, depth = _flat_positions("gather_nd", x.shape, at)
    rows = shapes.reshape(x, shape=(math.prod(x.shape[:depth]), *x.shape[depth:]))
    return shapes.reshape(index.gather(rows, flat, axis=0), shape=(*at.shape[:-1], *x.shape[depth:]))


@lift
def tensor_scatter_add(input_x: Any, indices: Any, updates: Any) -> Any:
    """input_x plus `updates` at the places the last axis of indices names; repeats add up.

    >>> import graphopt as ms
    >>> ms.ops.tensor_scatter_add(ms.Tensor([1, 1, 1]), ms.Tensor([[0], [0]]), ms.Tensor([5, 6])).asnumpy().tolist()
    [12, 1, 1]
    """
    x, new = promoted(input_x, updates)
    return _scatter_nd_add("tensor_scatter_add", x, indices, new)


@lift
def tensor_scatter_sub(input_x: Any, indices: Any, updates: Any) -> Any:
    """input_x minus `updates` at the places the last axis of indices names; repeats add up.

    >>> import graphopt as ms
    >>> ms.ops.tensor_scatter_sub(ms.Tensor([9, 9, 9]), ms.Tensor([[0], [0]]), ms.Tensor([5, 1])).asnumpy().tolist()
    [3, 9, 9]
    """
    x, new = promoted(input_x, updates)
    return _scatter_nd_add("tensor_scatter_sub", x, indices, -new)


def _scatter_nd_add(owner: str, x: Node, indices: Any, updates: Node) -> Node:
    flat, depth = _flat_positions(owner, x.shape, indices)
    rows = shapes.reshape(x, shape=(math.prod(x.shape[:depth]), *x.shape[depth:]))
    new = shapes.reshape(updates, shape=(flat.shape[0], *x.shape[depth:]))
    return shapes.reshape(index.scatter_add(rows, flat, new, axis=0), shape=x.shape)


@lift
def scatter_nd(indices: Any, updates: Any, shape: Any) -> Any:
    """Zeros plus `updates` at the places the last axis of indices names.

    >>> import graphopt as ms
    >>> ms.ops.scatter_nd(ms.Tensor([[1], [3], [1]]), ms.Tensor([5, 6, 7]), (4,)).asnumpy().tolist()
    [0, 12, 0, 6]
    """
    new = as_node(updates)
    return _scatter_nd_add("scatter_nd", full_node(shape_of(shape), 0, new.dtype), indices, new)


@lift
def tensor_scatter_elements(input_x: Any, indices: Any, updates: Any, axis: int = 0, reduction: str = "none") -> Any:
    """input_x with updates at `indices` along `axis`: put there ('none'; positions must differ) or added ('add').

    >>> import graphopt as ms
    >>> ms.ops.tensor_scatter_elements(ms.Tensor([1, 2, 3]), ms.Tensor([2, 0]), ms.Tensor([7, 8])).asnumpy().tolist()
    [8, 2, 7]
    """
    x, new = promoted(input_x, updates)
    at, k = _indices("tensor_scatter_elements", indices), axis_of(axis, x.type.rank)
    if reduction == "add":
        return index.put_along_add(x, at, new, axis=k)
    if reduction != "none":
        raise ShapeError(f"tensor_scatter_elements: reduction must be 'none' or 'add', found {reduction!r}")
    hits = index.put_along_add(full_node(x.shape, 0, i32), at, full_node(at.shape, 1, i32), axis=k)
    placed = index.put_along_add(full_node(x.shape, 0, x.dtype), at, new, axis=k)
    return elementwise.select(elementwise.eq(hits, full_node(x.shape, 0, i32)), x, placed)


@lift
def unsorted_segment_sum(input_x: Any, segment_ids: Any, num_segments: int) -> Any:
    """Sums of the slices with equal segment ids; an id outside [0, num_segments) is left out.

    >>> import graphopt as ms
    >>> ms.ops.unsorted_segment_sum(ms.Tensor([1.0, 2.0, 4.0]), ms.Tensor([1, 0, 1]), 2).asnumpy().tolist()
    [2.0, 5.0]
    """
    x, ids = as_node(input_x), _indices("unsorted_segment_sum", segment_ids)
    rank = ids.type.rank
    if x.shape[:rank] != ids.shape:
        raise ShapeError(f"unsorted_segment_sum: segment_ids {ids.type} must have the leading axes of {x.type}")
    rows = shapes.reshape(x, shape=(ids.type.size, *x.shape[rank:]))
    flat = shapes.reshape(ids, shape=(ids.type.size,))
    flat = elementwise.select(flat < 0, full_node(flat.shape, num_segments, flat.dtype), flat)
    return index.scatter_add(full_node((num_segments, *x.shape[rank:]), 0, x.dtype), flat, rows, axis=0)


@lift
def one_hot(indices: Any, depth: int, on_value: Any = 1, off_value: Any = 0, axis: int = -1) -> Any:
    """on_value where the position along the new axis is the index, off_value elsewhere.

    Dtypes: integers in; the dtype of on_value out (int64 for an int, float32 for a float).
    Errors: TypeError when indices are no integers; ValueError when depth is negative.

    >>> import graphopt as ms
    >>> ms.ops.one_hot(ms.Tensor([1, 0]), 3).asnumpy().tolist()
    [[0, 1, 0], [1, 0, 0]]
    """
    at = _indices("one_hot", indices)
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
        raise ShapeError(f"one_hot: depth must be an int >= 0, found {found(depth)}")
    k = axis_of(axis, at.type.rank + 1, "one_hot")
    shape = (*at.shape[:k], depth, *at.shape[k:])
    wide = shapes.broadcast(at, shape=shape, axes=tuple(a for a in range(len(shape)) if a != k))
    on, off = promoted(as_node(on_value), as_node(off_value))
    chosen = elementwise.eq(wide, shapes.iota(shape=shape, axis=k, dtype=at.dtype))
    return elementwise.select(chosen, broadcast_node(as_scalar(on), shape), broadcast_node(as_scalar(off), shape))


def as_scalar(x: Node) -> Node:
    return shapes.reshape(x, shape=()) if x.type.rank else x


@lift
def where(condition: Any, input: Any, other: Any) -> Any:
    """input where the condition holds, other elsewhere; shapes broadcast.

    >>> import graphopt as ms
    >>> ms.ops.where(ms.Tensor([True, False]), ms.Tensor([1, 2]), ms.Tensor([3, 4])).asnumpy().tolist()
    [1, 4]
    """
    a, b = promoted(input, other)
    return elementwise.select(to_dtype(as_node(condition), bool_), a, b)


select = where


@lift
def masked_fill(input_x: Any, mask: Any, value: Any) -> Any:
    """input_x with `value` where the mask is True.

    Errors: TypeError when the mask is not bool.

    >>> import graphopt as ms
    >>> ms.ops.masked_fill(ms.Tensor([1, 2]), ms.Tensor([True, False]), 0).asnumpy().tolist()
    [0, 2]
    """
    x, there = as_node(input_x), as_node(mask)
    if there.dtype is not bool_:
        raise DTypeError(f"masked_fill: mask must be bool, found {there.type}")
    fill = to_dtype(value, x.dtype) if isinstance(value, Node) else constant(value, x.dtype)
    return elementwise.select(there, fill, x)


def _triangle(x: Node, keep_lower: bool, diagonal: int) -> Node:
    rank = x.type.rank
    if rank < 2:
        raise ShapeError(f"tril, triu: expected two or more axes, found {x.type}")
    row = shapes.iota(shape=x.shape, axis=rank - 2, dtype=i32)
    column = shapes.iota(shape=x.shape, axis=rank - 1, dtype=i32)
    kept = (column - row) <= diagonal if keep_lower else (column - row) >= diagonal
    return elementwise.select(kept, x, zero_of(x))


@lift
def tril(input: Any, diagonal: int = 0) -> Any:
    """The lower triangle of the last two axes, zeros above `diagonal`.

    >>> import graphopt as ms
    >>> ms.ops.tril(ms.Tensor([[1, 2], [3, 4]])).asnumpy().tolist()
    [[1, 0], [3, 4]]
    """
    return _triangle(as_node(input), True, diagonal)


@lift
def triu(input: Any, diagonal: int = 0) -> Any:
    """The upper triangle of the last two axes, zeros below `diagonal`.

    >>> import graphopt as ms
    >>> ms.ops.triu(ms.Tensor([[1, 2], [3, 4]])).asnumpy().tolist()
    [[1, 2], [0, 4]]
    """
    return _triangle(as_node(input), False, diagonal)


@lift
def diag(input: Any) -> Any:
    """A matrix with the vector on its diagonal, or the diagonal of a matrix.

    >>> import graphopt as ms
    >>> ms.ops.diag(ms.Tensor([1, 2])).asnumpy().tolist()
    [[1, 0], [0, 2]]
    """
    x = as_node(input)
    if x.type.rank == 1:
        n = x.shape[0]
        square = shapes.broadcast(x, shape=(n, n), axes=(1,))
        eye_mask = elementwise.eq(
            shapes.iota(shape=(n, n), axis=0, dtype=i32), shapes.iota(shape=(n, n), axis=1, dtype=i32)
        )
        return elementwise.select(eye_mask, square, zero_of(square))
    if x.type.rank != 2:
        raise ShapeError(f"diag: expected a vector or a matrix, found {x.type}")
    n, m = x.shape
    at = constant(np.arange(min(n, m), dtype=np.int32) * (m + 1))
    return index.gather(shapes.reshape(x, shape=(n * m,)), at, axis=0)


@lift
def meshgrid(*inputs: Any, indexing: str = "xy") -> Any:
    """Coordinate tensors of a grid from vectors; 'xy' swaps the first two axes, 'ij' does not.

    >>> import graphopt as ms
    >>> [x.asnumpy().tolist() for x in ms.ops.meshgrid(ms.Tensor([1, 2]), ms.Tensor([5, 6, 7]))]
    [[[1, 2], [1, 2], [1, 2]], [[5, 5], [6, 6], [7, 7]]]
    """
    nodes = [as_node(x) for x in inputs]
    if indexing not in ("xy", "ij"):
        raise ShapeError(f"meshgrid: indexing must be 'xy' or 'ij', found {indexing!r}")
    places = list(range(len(nodes)))
    if indexing == "xy" and len(nodes) > 1:
        places[:2] = [1, 0]
    shape = [0] * len(nodes)
    for x, k in zip(nodes, places, strict=True):
        shape[k] = x.type.size
    return tuple(shapes.broadcast(x, shape=tuple(shape), axes=(k,)) for x, k in zip(nodes, places, strict=True))
