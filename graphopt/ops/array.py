"""Shapes, joining and cutting, indexing, making tensors, dtypes: MindSpore's names, written on nodes and lifted."""

from __future__ import annotations

import builtins
import math
from typing import Any

import numpy as np

from graphopt.common.checks import found
from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node
from graphopt.ir.types import DType, bool_, dtype_of, f32, i32, i64
from graphopt.opdefs import elementwise, index
from graphopt.opdefs import shape as shapes
from graphopt.opdefs.opdef import broadcast_to as broadcast_node
from graphopt.opdefs.opdef import constant
from graphopt.opdefs.opdef import full as full_node
from graphopt.opdefs.scaffold import zero_of
from graphopt.ops.lift import lift
from graphopt.ops.promote import as_node, axes_of, axis_of, dtype_arg, promoted, shape_of, to_dtype

# shapes


@lift
def reshape(input: Any, shape: Any) -> Any:
    """The same elements in another shape; one size may be -1.

    Errors: ValueError when the sizes do not fit.
    """
    x, sizes = as_node(input), list(shape_of(shape, "reshape"))
    if sizes.count(-1) > 1 or builtins.any(n < -1 for n in sizes):
        raise ShapeError(f"reshape: expected sizes >= 0 and at most one -1, found {tuple(sizes)}")
    if -1 in sizes:
        known = -math.prod(sizes)
        if known == 0 or x.type.size % known:
            raise ShapeError(f"reshape: {x.type} does not fit shape {tuple(sizes)}")
        sizes[sizes.index(-1)] = x.type.size // known
    if math.prod(sizes) != x.type.size:
        raise ShapeError(f"reshape: {x.type} has {x.type.size} elements, shape {tuple(sizes)} has {math.prod(sizes)}")
    return shapes.reshape(x, shape=tuple(sizes))


@lift
def transpose(input: Any, dims: Any) -> Any:
    """The axes in another order: axis k of the result is axis dims[k] of the input.

    Errors: ValueError when dims is no permutation of the axes.
    """
    x = as_node(input)
    order = tuple(axis_of(k, x.type.rank, "transpose") for k in shape_of(dims, "transpose"))
    if sorted(order) != list(range(x.type.rank)):
        raise ShapeError(f"transpose: expected a permutation of {x.type.rank} axes, found {dims}")
    return shapes.transpose(x, perm=order)


permute = transpose


@lift
def swapaxes(input: Any, axis0: int, axis1: int) -> Any:
    """Two axes exchanged."""
    x = as_node(input)
    order = list(range(x.type.rank))
    i, j = axis_of(axis0, x.type.rank), axis_of(axis1, x.type.rank)
    order[i], order[j] = order[j], order[i]
    return shapes.transpose(x, perm=tuple(order))


swapdims = swapaxes


@lift
def t(input: Any) -> Any:
    """A matrix transposed; fewer axes stay as they are."""
    x = as_node(input)
    if x.type.rank > 2:
        raise ShapeError(f"t: expected at most 2 axes, found {x.type}")
    return shapes.transpose(x, perm=tuple(reversed(range(x.type.rank))))


@lift
def movedim(x: Any, source: Any, destination: Any) -> Any:
    """Axes moved from `source` to `destination`; the others keep their order."""
    node = as_node(x)
    rank = node.type.rank
    here = [axis_of(k, rank) for k in shape_of(source)]
    there = [axis_of(k, rank) for k in shape_of(destination)]
    if len(here) != len(there):
        raise ShapeError(f"movedim: expected as many destinations as sources, found {source} and {destination}")
    order = [k for k in range(rank) if k not in here]
    for to, origin in sorted(zip(there, here, strict=True)):
        order.insert(to, origin)
    return shapes.transpose(node, perm=tuple(order))


moveaxis = movedim


@lift
def expand_dims(input_x: Any, axis: int) -> Any:
    """An axis of size 1 put in at `axis`."""
    x = as_node(input_x)
    at = axis_of(axis, x.type.rank + 1, "expand_dims")
    return shapes.reshape(x, shape=(*x.shape[:at], 1, *x.shape[at:]))


unsqueeze = expand_dims


@lift
def squeeze(input: Any, axis: Any = None) -> Any:
    """Axes of size 1 taken out: all, or those named.

    Errors: ValueError when a named axis has another size.
    """
    x = as_node(input)
    if axis is None or axis == ():
        return shapes.reshape(x, shape=tuple(n for n in x.shape if n != 1))
    axes = axes_of(axis, x.type.rank, "squeeze")
    if builtins.any(x.shape[k] != 1 for k in axes):
        raise ShapeError(f"squeeze: expected size 1 at axis {axis} of {x.type}")
    return shapes.reshape(x, shape=tuple(n for k, n in enumerate(x.shape) if k not in axes))


@lift
def flatten(input: Any, order: str = "C", *, start_dim: int = 1, end_dim: int = -1) -> Any:
    """The axes start_dim … end_dim as one; order 'F' reads the elements in column-major order."""
    x = as_node(input)
    if order not in ("C", "F"):
        raise ShapeError(f"flatten: order must be 'C' or 'F', found {order!r}")
    if order == "F":
        x = shapes.transpose(x, perm=(0, *reversed(range(1, x.type.rank))))
    if x.type.rank == 0:
        return shapes.reshape(x, shape=(1,))
    if x.type.rank == 1:
        return x
    first, last = axis_of(start_dim, x.type.rank, "flatten"), axis_of(end_dim, x.type.rank, "flatten")
    if first > last:
        raise ShapeError(f"flatten: start_dim must not be after end_dim, found {start_dim} and {end_dim}")
    return shapes.reshape(x, shape=(*x.shape[:first], math.prod(x.shape[first : last + 1]), *x.shape[last + 1 :]))


@lift
def ravel(input: Any) -> Any:
    """All elements in one axis."""
    x = as_node(input)
    return shapes.reshape(x, shape=(x.type.size,))


@lift
def broadcast_to(input: Any, shape: Any) -> Any:
    """Repeated to a shape; -1 keeps the size of an axis.

    Errors: ValueError when the shapes do not fit.
    """
    x, sizes = as_node(input), list(shape_of(shape, "broadcast_to"))
    lead = len(sizes) - x.type.rank
    sizes = [x.shape[k - lead] if n == -1 and k >= lead else n for k, n in enumerate(sizes)]
    return broadcast_node(x, tuple(sizes))


@lift
def tile(input: Any, dims: Any) -> Any:
    """The input repeated dims[k] times along axis k."""
    x, times = as_node(input), shape_of(dims, "tile")
    rank = builtins.max(x.type.rank, len(times))
    sizes = (1,) * (rank - x.type.rank) + x.shape
    times = (1,) * (rank - len(times)) + times
    paired = tuple(n for k in range(rank) for n in (times[k], sizes[k]))
    spread = shapes.broadcast(shapes.reshape(x, shape=sizes), shape=paired, axes=tuple(range(1, 2 * rank, 2)))
    return shapes.reshape(spread, shape=tuple(a * b for a, b in zip(times, sizes, strict=True)))


@lift
def repeat_elements(x: Any, rep: int, axis: int = 0) -> Any:
    """Each element repeated `rep` times in place, along `axis`."""
    node = as_node(x)
    at = axis_of(axis, node.type.rank, "repeat_elements")
    sizes = (*node.shape[: at + 1], rep, *node.shape[at + 1 :])
    spread = shapes.broadcast(node, shape=sizes, axes=tuple(k for k in range(len(sizes)) if k != at + 1))
    return shapes.reshape(spread, shape=(*node.shape[:at], node.shape[at] * rep, *node.shape[at + 1 :]))


@lift
def repeat_interleave(input: Any, repeats: int, axis: int | None = None) -> Any:
    """Each element repeated `repeats` times in place; without an axis the flattened input."""
    x = as_node(input)
    if axis is None:
        x, axis = shapes.reshape(x, shape=(x.type.size,)), 0
    return repeat_elements.on_nodes(x, repeats, axis)


# joining and cutting


@lift
def concat(tensors: Any, axis: int = 0) -> Any:
    """Tensors joined along an axis.

    Errors: ValueError when there is none or other axes differ.
    """
    nodes = _several("concat", tensors)
    return shapes.concat(*nodes, axis=axis_of(axis, nodes[0].type.rank, "concat"))


cat = concat


@lift
def stack(tensors: Any, axis: int = 0) -> Any:
    """Tensors of one shape joined along a new axis."""
    nodes = _several("stack", tensors)
    at = axis_of(axis, nodes[0].type.rank + 1, "stack")
    if len({n.shape for n in nodes}) > 1:
        raise ShapeError(f"stack: expected equal shapes, found {', '.join(str(n.shape) for n in nodes)}")
    lifted = [shapes.reshape(n, shape=(*n.shape[:at], 1, *n.shape[at:])) for n in nodes]
    return shapes.concat(*lifted, axis=at)


def _several(owner: str, tensors: Any) -> list[Node]:
    if not isinstance(tensors, (tuple, list)):
        raise DTypeError(f"{owner}: expected a tuple or list of Tensors, found {found(tensors)}")
    if not tensors:
        raise ShapeError(f"{owner}: expected at least one Tensor, found none")
    return promoted(*tensors)


@lift
def unstack(input_x: Any, axis: int = 0) -> Any:
    """A tuple of the slices along an axis, which vanishes."""
    x = as_node(input_x)
    at = axis_of(axis, x.type.rank, "unstack")
    rest = (*x.shape[:at], *x.shape[at + 1 :])
    return tuple(shapes.reshape(shapes.along(x, at, k, k + 1), shape=rest) for k in range(x.shape[at]))


unbind = unstack


@lift
def split(tensor: Any, split_size_or_sections: Any, axis: int = 0) -> Any:
    """A tuple of pieces along an axis: of the given size (the last may be smaller), or of the given list of sizes.

    Errors: ValueError when the sizes do not add up.
    """
    x = as_node(tensor)
    at = axis_of(axis, x.type.rank, "split")
    size = x.shape[at]
    if isinstance(split_size_or_sections, int):
        if split_size_or_sections < 1:
            raise ShapeError(f"split: expected a size >= 1, found {split_size_or_sections}")
        sections = [builtins.min(split_size_or_sections, size - k) for k in range(0, size, split_size_or_sections)]
    else:
        sections = list(shape_of(split_size_or_sections, "split"))
        if builtins.sum(sections) != size:
            raise ShapeError(
                f"split: sections {sections} do not add up to {size}, the size of axis {axis} of {x.type}"
            )
    return _pieces(x, at, sections)


def _pieces(x: Node, axis: int, sections: list[int]) -> tuple[Node, ...]:
    ends = np.cumsum([0, *sections]).tolist()
    return tuple(shapes.along(x, axis, a, b) for a, b in zip(ends[:-1], ends[1:], strict=True))


@lift
def split_equal(input_x: Any, axis: int, output_num: int) -> Any:
    """A tuple of output_num equal pieces along an axis."""
    x = as_node(input_x)
    at = axis_of(axis, x.type.rank, "split")
    if output_num < 1 or x.shape[at] % output_num:
        raise ShapeError(f"split: {output_num} equal pieces do not fit axis {axis} of {x.type}")
    return _pieces(x, at, [x.shape[at] // output_num] * output_num)


@lift
def chunk(input: Any, chunks: int, axis: int = 0) -> Any:
    """A tuple of at most `chunks` pieces of equal size (the last may be smaller) along an axis."""
    x = as_node(input)
    at = axis_of(axis, x.type.rank, "chunk")
    step = -(-x.shape[at] // chunks)
    return _pieces(x, at, [builtins.min(step, x.shape[at] - k) for k in range(0, x.shape[at], builtins.max(step, 1))])


@lift
def slice(input_x: Any, begin: Any, size: Any) -> Any:
    """`size` elements from `begin` on each axis; size -1 means to the end."""
    x = as_node(input_x)
    start, sizes = shape_of(begin, "slice"), shape_of(size, "slice")
    if len(start) != x.type.rank or len(sizes) != x.type.rank:
        raise ShapeError(f"slice: expected begin and size with {x.type.rank} entries, found {begin} and {size}")
    stop = tuple(n if m == -1 else a + m for n, a, m in zip(x.shape, start, sizes, strict=True))
    if builtins.any(a < 0 or b > n or b < a for n, a, b in zip(x.shape, start, stop, strict=True)):
        raise ShapeError(f"slice: begin {start} and size {sizes} do not fit {x.type}")
    return shapes.slice_(x, start=start, stop=stop, step=(1,) * x.type.rank)


@lift
def narrow(input: Any, axis: int, start: int, length: int) -> Any:
    """`length` elements from `start` on, along one axis."""
    x = as_node(input)
    at = axis_of(axis, x.type.rank, "narrow")
    if start < 0 or start + length > x.shape[at]:
        raise ShapeError(f"narrow: elements {start} to {start + length} do not fit axis {axis} of {x.type}")
    return shapes.along(x, at, start, start + length)


def take_slices(x: Node, keys: list[Any]) -> Node:
    """x[keys] for one Python slice per axis, negative steps included."""
    start, stop, step, flipped = [], [], [], []
    for axis, (n, key) in enumerate(zip(x.shape, keys, strict=True)):
        r = range(n)[key]
        if r.step < 0:
            flipped.append(axis)
            r = r[::-1]
        start.append(r.start if len(r) else 0)
        stop.append(r[-1] + 1 if len(r) else 0)
        step.append(r.step)
    cut = shapes.slice_(x, start=tuple(start), stop=tuple(stop), step=tuple(step))
    return shapes.reverse(cut, axes=tuple(flipped)) if flipped else cut


@lift
def strided_slice(
    input_x: Any,
    begin: Any,
    end: Any,
    strides: Any,
    begin_mask: int = 0,
    end_mask: int = 0,
    ellipsis_mask: int = 0,
    new_axis_mask: int = 0,
    shrink_axis_mask: int = 0,
) -> Any:
    """input_x[begin:end:strides] per axis; bit k of a mask says: ignore begin / end of entry k, entry k is an
    ellipsis, a new axis, or an index whose axis vanishes.
    """
    x = as_node(input_x)
    starts, ends, steps = (shape_of(v, "strided_slice") for v in (begin, end, strides))
    if not len(starts) == len(ends) == len(steps):
        raise ShapeError(
            f"strided_slice: expected begin, end, strides of one length, found {starts}, {ends}, {steps}"
        )
    keys: list[Any] = []
    for k, (a, b, s) in enumerate(zip(starts, ends, steps, strict=True)):
        bit = 1 << k
        if ellipsis_mask & bit:
            keys.append(Ellipsis)
        elif new_axis_mask & bit:
            keys.append(None)
        elif shrink_axis_mask & bit:
            keys.append(a)
        else:
            keys.append(builtins.slice(None if begin_mask & bit else a, None if end_mask & bit else b, s))
    return _indexed(x, keys)


def _indexed(x: Node, keys: list[Any]) -> Node:
    """numpy's basic indexing."""
    real = [k for k in keys if k is not None and k is not Ellipsis]
    missing = [builtins.slice(None)] * (x.type.rank - len(real))
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        keys = keys[:at] + missing + keys[at + 1 :]
    else:
        keys = keys + missing
    slices, sizes, axis = [], [], 0
    for key in keys:
        if key is None:
            continue
        if isinstance(key, int):
            at = axis_of(key, x.shape[axis], "index")
            slices.append(builtins.slice(at, at + 1))
        else:
            slices.append(key)
        axis += 1
    cut, axis = take_slices(x, slices), 0
    for key in keys:
        if key is None:
            sizes.append(1)
        else:
            if not isinstance(key, int):
                sizes.append(cut.shape[axis])
            axis += 1
    return shapes.reshape(cut, shape=tuple(sizes))


@lift
def flip(input: Any, dims: Any) -> Any:
    """The elements in reverse order along `dims`."""
    x = as_node(input)
    return shapes.reverse(x, axes=axes_of(dims, x.type.rank, "flip"))


reverse = flip


@lift
def roll(input: Any, shifts: Any, dims: Any = None) -> Any:
    """Elements moved forward along axes; what leaves at the end comes in at the start. Without dims the flattened
    input.
    """
    x = as_node(input)
    if dims is None:
        flat = shapes.reshape(x, shape=(x.type.size,))
        return shapes.reshape(_rolled(flat, shape_of(shifts)[0], 0), shape=x.shape)
    for shift, axis in zip(shape_of(shifts), shape_of(dims), strict=True):
        x = _rolled(x, shift, axis_of(axis, x.type.rank, "roll"))
    return x


def _rolled(x: Node, shift: int, axis: int) -> Node:
    n = x.shape[axis]
    cut = -shift % n if n else 0
    if not cut:
        return x
    return shapes.concat(shapes.along(x, axis, cut, n), shapes.along(x, axis, 0, cut), axis=axis)


@lift
def pad(input_x: Any, padding: Any, mode: str = "constant", value: Any = None) -> Any:
    """Elements added at the ends: padding is (last axis before, after, last but one before, after, …); negative
    numbers cut.

    mode: 'constant' (with `value`, 0 by default), 'reflect', 'replicate' or 'circular'.
    Errors: ValueError for another mode, an odd number of entries, or a reflection wider than the axis.
    """
    x, numbers = as_node(input_x), shape_of(padding, "pad")
    if len(numbers) % 2 or len(numbers) > 2 * x.type.rank:
        raise ShapeError(f"pad: expected pairs for at most {x.type.rank} axes, found {numbers}")
    pairs = [(0, 0)] * (x.type.rank - len(numbers) // 2) + [
        numbers[k : k + 2] for k in range(len(numbers) - 2, -1, -2)
    ]
    if mode == "constant":
        fill = to_dtype(value, x.dtype) if isinstance(value, Node) else constant(value or 0, x.dtype)
        low, high = zip(*pairs, strict=True) if pairs else ((), ())
        return shapes.pad(x, fill, low=tuple(low), high=tuple(high), interior=(0,) * x.type.rank)
    if mode not in ("reflect", "replicate", "circular"):
        raise ShapeError(f"pad: mode must be constant, reflect, replicate or circular, found {mode!r}")
    numpy_mode = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    for axis, (before, after) in enumerate(pairs):
        n = x.shape[axis]
        if builtins.max(before, after) >= n + (mode != "reflect") and mode != "replicate":
            raise ShapeError(f"pad: {mode} padding {(before, after)} is too wide for axis {axis} of {x.type}")
        if before or after:
            positions = np.pad(np.arange(n, dtype=np.int32), (before, after), mode=numpy_mode)  # type: ignore[call-overload]
            x = index.gather(x, constant(positions), axis=axis)
    return x


# indexing


@lift
def gather(input_params: Any, input_indices: Any, axis: int, batch_dims: int = 0) -> Any:
    """The slices of input_params at input_indices along `axis`; repeated indices add up in the derivative.

    Shapes: params.shape[:axis] + indices.shape[batch_dims:] + params.shape[axis+1:].
    Errors: TypeError when indices are no integers. Out of range reads 0.
    """
    x, at = as_node(input_params), _indices("gather", input_indices)
    k = axis_of(axis, x.type.rank, "gather")
    if batch_dims == 0:
        return index.gather(x, at, axis=k)
    if batch_dims != 1 or k != 1 or x.type.rank != 2 or at.type.rank != 2:
        raise ShapeError("gather: batch_dims is offered for matrices along axis 1")
    return index.take_along(x, at, axis=1)


@lift
def index_select(input: Any, axis: int, index: Any) -> Any:
    """The slices at the positions `index` (1-d) along `axis`."""
    x = as_node(input)
    return gather.on_nodes(x, index, axis_of(axis, x.type.rank, "index_select"))


@lift
def gather_elements(input: Any, dim: int, index: Any) -> Any:
    """Along `dim`, the element at each position of `index`; the result has the shape of index."""
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
    """The elements or slices that the last axis of indices names."""
    x, at = as_node(input_x), as_node(indices)
    flat, depth = _flat_positions("gather_nd", x.shape, at)
    rows = shapes.reshape(x, shape=(math.prod(x.shape[:depth]), *x.shape[depth:]))
    return shapes.reshape(index.gather(rows, flat, axis=0), shape=(*at.shape[:-1], *x.shape[depth:]))


@lift
def tensor_scatter_add(input_x: Any, indices: Any, updates: Any) -> Any:
    """input_x plus `updates` at the places the last axis of indices names; repeats add up."""
    x, new = promoted(input_x, updates)
    return _scatter_nd_add("tensor_scatter_add", x, indices, new)


@lift
def tensor_scatter_sub(input_x: Any, indices: Any, updates: Any) -> Any:
    """input_x minus `updates` at the places the last axis of indices names; repeats add up."""
    x, new = promoted(input_x, updates)
    return _scatter_nd_add("tensor_scatter_sub", x, indices, -new)


def _scatter_nd_add(owner: str, x: Node, indices: Any, updates: Node) -> Node:
    flat, depth = _flat_positions(owner, x.shape, indices)
    rows = shapes.reshape(x, shape=(math.prod(x.shape[:depth]), *x.shape[depth:]))
    new = shapes.reshape(updates, shape=(flat.shape[0], *x.shape[depth:]))
    return shapes.reshape(index.scatter_add(rows, flat, new, axis=0), shape=x.shape)


@lift
def scatter_nd(indices: Any, updates: Any, shape: Any) -> Any:
    """Zeros plus `updates` at the places the last axis of indices names."""
    new = as_node(updates)
    return _scatter_nd_add("scatter_nd", full_node(shape_of(shape), 0, new.dtype), indices, new)


@lift
def tensor_scatter_elements(input_x: Any, indices: Any, updates: Any, axis: int = 0, reduction: str = "none") -> Any:
    """input_x with updates at `indices` along `axis`: put there ('none'; positions must differ) or added ('add')."""
    x, new = promoted(input_x, updates)
    at, k = _indices("tensor_scatter_elements", indices), axis_of(axis, x.type.rank)
    if reduction == "add":
        return index.put_along_add(x, at, new, axis=k)
    if reduction != "none":
        raise ShapeError(f"tensor_scatter_elements: reduction must be 'none' or 'add', found {reduction!r}")
    hits = index.put_along_add(full_node(x.shape, 0, i32), at, full_node(at.shape, 1, i32), axis=k)
    placed = index.put_along_add(zero_of(x), at, new, axis=k)
    return elementwise.select(elementwise.eq(hits, full_node(x.shape, 0, i32)), x, placed)


@lift
def unsorted_segment_sum(input_x: Any, segment_ids: Any, num_segments: int) -> Any:
    """Sums of the slices with equal segment ids; an id outside [0, num_segments) is left out."""
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
    """
    at = _indices("one_hot", indices)
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
        raise ShapeError(f"one_hot: depth must be an int >= 0, found {found(depth)}")
    k = axis_of(axis, at.type.rank + 1, "one_hot")
    shape = (*at.shape[:k], depth, *at.shape[k:])
    wide = shapes.broadcast(at, shape=shape, axes=tuple(a for a in range(len(shape)) if a != k))
    on, off = promoted(as_node(on_value), as_node(off_value))
    chosen = elementwise.eq(wide, shapes.iota(shape=shape, axis=k, dtype=at.dtype))
    return elementwise.select(chosen, broadcast_node(_scalar(on), shape), broadcast_node(_scalar(off), shape))


def _scalar(x: Node) -> Node:
    return shapes.reshape(x, shape=()) if x.type.rank else x


@lift
def where(condition: Any, input: Any, other: Any) -> Any:
    """input where the condition holds, other elsewhere; shapes broadcast."""
    a, b = promoted(input, other)
    return elementwise.select(to_dtype(as_node(condition), bool_), a, b)


select = where


@lift
def masked_fill(input_x: Any, mask: Any, value: Any) -> Any:
    """input_x with `value` where the mask is True.

    Errors: TypeError when the mask is not bool.
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
    """The lower triangle of the last two axes, zeros above `diagonal`."""
    return _triangle(as_node(input), True, diagonal)


@lift
def triu(input: Any, diagonal: int = 0) -> Any:
    """The upper triangle of the last two axes, zeros below `diagonal`."""
    return _triangle(as_node(input), False, diagonal)


@lift
def diag(input: Any) -> Any:
    """A matrix with the vector on its diagonal, or the diagonal of a matrix."""
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
    at = constant(np.arange(builtins.min(n, m), dtype=np.int32) * (m + 1))
    return index.gather(shapes.reshape(x, shape=(n * m,)), at, axis=0)


@lift
def meshgrid(*inputs: Any, indexing: str = "xy") -> Any:
    """Coordinate tensors of a grid from vectors; 'xy' swaps the first two axes, 'ij' does not."""
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


# making tensors


@lift
def zeros(size: Any, dtype: DType | None = None) -> Any:
    """Zeros; float32 unless a dtype is given."""
    return full_node(shape_of(size, "zeros"), 0, dtype_arg(dtype, f32))


@lift
def ones(shape: Any, dtype: DType | None = None) -> Any:
    """Ones; float32 unless a dtype is given."""
    return full_node(shape_of(shape, "ones"), 1, dtype_arg(dtype, f32))


@lift
def full(size: Any, fill_value: Any, *, dtype: DType | None = None) -> Any:
    """One number everywhere: float32 for a float, int64 for an int, unless a dtype is given."""
    value = as_node(fill_value)
    return broadcast_node(to_dtype(_scalar(value), dtype_arg(dtype, value.dtype)), shape_of(size, "full"))


@lift
def fill(type: DType, shape: Any, value: Any) -> Any:
    """One number everywhere, in the dtype `type`."""
    return full_node(shape_of(shape, "fill"), value, dtype_of(type))


@lift
def zeros_like(input: Any, *, dtype: DType | None = None) -> Any:
    """Zeros of the input's shape and (unless given) dtype."""
    x = as_node(input)
    return full_node(x.shape, 0, dtype_arg(dtype, x.dtype))


@lift
def ones_like(input: Any, *, dtype: DType | None = None) -> Any:
    """Ones of the input's shape and (unless given) dtype."""
    x = as_node(input)
    return full_node(x.shape, 1, dtype_arg(dtype, x.dtype))


@lift
def full_like(input: Any, fill_value: Any, *, dtype: DType | None = None) -> Any:
    """One number everywhere, in the input's shape and (unless given) dtype."""
    x = as_node(input)
    return full_node(x.shape, fill_value, dtype_arg(dtype, x.dtype))


@lift
def eye(n: int, m: int | None = None, dtype: DType | None = None) -> Any:
    """Ones on the diagonal of an (n, m) matrix, zeros elsewhere."""
    return constant(np.eye(n, m), dtype_arg(dtype, f32))


@lift
def arange(start: Any = 0, end: Any = None, step: Any = 1, *, dtype: DType | None = None) -> Any:
    """start, start + step, … below end; arange(n) counts from 0. int64, or float32 when an argument is a float.

    Errors: ValueError when step is 0.
    """
    first, last = (0, start) if end is None else (start, end)
    if step == 0:
        raise ShapeError("arange: step must not be 0")
    kind = f32 if builtins.any(isinstance(v, float) for v in (first, last, step)) else i64
    return constant(np.arange(first, last, step), dtype_arg(dtype, kind))


@lift
def range_(start: int, end: int, step: int, maxlen: int = 1000000) -> Any:
    """start, start + step, … below end, as int64 (float32 for floats)."""
    kind = f32 if builtins.any(isinstance(v, float) for v in (start, end, step)) else i64
    return constant(np.arange(start, end, step)[:maxlen], kind)


@lift
def linspace(start: Any, end: Any, steps: int) -> Any:
    """`steps` numbers from start to end, both included, as float32."""
    return constant(np.linspace(float(start), float(end), int(steps)), f32)


@lift
def scalar_to_tensor(input_x: Any, dtype: DType = f32) -> Any:
    """A number as a 0-d Tensor."""
    return constant(input_x, dtype_of(dtype))


@lift
def tuple_to_array(input_x: Any) -> Any:
    """A tuple of numbers as a Tensor: int64 for ints, float32 for floats."""
    return constant(np.asarray(input_x), f32 if builtins.any(isinstance(v, float) for v in input_x) else i64)


# dtypes, facts, and the graph itself


@lift
def cast(input: Any, dtype: DType) -> Any:
    """The elements in another dtype; floats become integers towards 0. The derivative passes through."""
    return to_dtype(as_node(input), dtype_of(dtype))


@lift
def type_as(input: Any, other: Any) -> Any:
    """The elements in the dtype of other."""
    return to_dtype(as_node(input), as_node(other).dtype)


@lift
def stop_gradient(value: Any) -> Any:
    """The value itself, with derivative 0. Numbers and None are handed through; tuples and lists element by
    element.
    """
    if isinstance(value, (tuple, list)):
        return type(value)(stop_gradient.on_nodes(v) for v in value)
    return elementwise.stop_gradient(value) if isinstance(value, Node) else value


@lift
def depend(value: Any, expr: Any) -> Any:
    """The value. `expr` only says what stands before it: in a graph, state is updated in program order anyway."""
    return value


@lift
def identity(x: Any) -> Any:
    """The input itself."""
    return x


deepcopy = identity


@lift
def shape(input_x: Any) -> Any:
    """The shape as a tuple of ints."""
    return as_node(input_x).shape


@lift
def rank(input_x: Any) -> Any:
    """The number of axes, an int."""
    return as_node(input_x).type.rank


@lift
def size(input_x: Any) -> Any:
    """The number of elements, an int."""
    return as_node(input_x).type.size


numel = size


@lift
def dtype(input_x: Any) -> Any:
    """The dtype."""
    return as_node(input_x).dtype
