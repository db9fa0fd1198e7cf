"""Joining, cutting, turning and padding tensors, under MindSpore's names."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from graphopt.common.checks import found
from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node
from graphopt.opdefs import index
from graphopt.opdefs import shape as shapes
from graphopt.opdefs.opdef import constant
from graphopt.ops.lift import lift
from graphopt.ops.promote import as_node, axes_of, axis_of, promoted, shape_of, to_dtype


@lift
def concat(tensors: Any, axis: int = 0) -> Any:
    """Tensors joined along an axis.

    Errors: ValueError when there is none or other axes differ.

    >>> import graphopt as ms
    >>> ms.ops.concat((ms.Tensor([1, 2]), ms.Tensor([3]))).asnumpy().tolist()
    [1, 2, 3]
    """
    nodes = _several("concat", tensors)
    return shapes.concat(*nodes, axis=axis_of(axis, nodes[0].type.rank, "concat"))


cat = concat


@lift
def stack(tensors: Any, axis: int = 0) -> Any:
    """Tensors of one shape joined along a new axis.

    >>> import graphopt as ms
    >>> ms.ops.stack([ms.Tensor([1, 2]), ms.Tensor([3, 4])]).asnumpy().tolist()
    [[1, 2], [3, 4]]
    """
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
    """A tuple of the slices along an axis, which vanishes.

    >>> import graphopt as ms
    >>> [x.asnumpy().tolist() for x in ms.ops.unstack(ms.Tensor([[1, 2], [3, 4]]))]
    [[1, 2], [3, 4]]
    """
    x = as_node(input_x)
    at = axis_of(axis, x.type.rank, "unstack")
    rest = (*x.shape[:at], *x.shape[at + 1 :])
    return tuple(shapes.reshape(shapes.along(x, at, k, k + 1), shape=rest) for k in range(x.shape[at]))


unbind = unstack


@lift
def split(tensor: Any, split_size_or_sections: Any, axis: int = 0) -> Any:
    """A tuple of pieces along an axis: of the given size (the last may be smaller), or of the given list of sizes.

    Errors: ValueError when the sizes do not add up.

    >>> import graphopt as ms
    >>> [part.asnumpy().tolist() for part in ms.ops.split(ms.Tensor([1, 2, 3]), 2)]
    [[1, 2], [3]]
    """
    x = as_node(tensor)
    at = axis_of(axis, x.type.rank, "split")
    size = x.shape[at]
    if isinstance(split_size_or_sections, int):
        if split_size_or_sections < 1:
            raise ShapeError(f"split: expected a size >= 1, found {split_size_or_sections}")
        sections = [min(split_size_or_sections, size - k) for k in range(0, size, split_size_or_sections)]
    else:
        sections = list(shape_of(split_size_or_sections, "split"))
        if sum(sections) != size:
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
    """A tuple of at most `chunks` pieces of equal size (the last may be smaller) along an axis.

    >>> import graphopt as ms
    >>> [x.asnumpy().tolist() for x in ms.ops.chunk(ms.Tensor([1, 2, 3, 4, 5]), 2)]
    [[1, 2, 3], [4, 5]]
    """
    x = as_node(input)
    at = axis_of(axis, x.type.rank, "chunk")
    step = -(-x.shape[at] // chunks)
    return _pieces(x, at, [min(step, x.shape[at] - k) for k in range(0, x.shape[at], max(step, 1))])


@lift
def slice(input_x: Any, begin: Any, size: Any) -> Any:
    """`size` elements from `begin` on each axis; size -1 means to the end.

    >>> import graphopt as ms
    >>> ms.ops.slice(ms.Tensor([[1, 2, 3], [4, 5, 6]]), (0, 1), (2, 2)).asnumpy().tolist()
    [[2, 3], [5, 6]]
    """
    x = as_node(input_x)
    start, sizes = shape_of(begin, "slice"), shape_of(size, "slice")
    if len(start) != x.type.rank or len(sizes) != x.type.rank:
        raise ShapeError(f"slice: expected begin and size with {x.type.rank} entries, found {begin} and {size}")
    stop = tuple(n if m == -1 else a + m for n, a, m in zip(x.shape, start, sizes, strict=True))
    if any(a < 0 or b > n or b < a for n, a, b in zip(x.shape, start, stop, strict=True)):
        raise ShapeError(f"slice: begin {start} and size {sizes} do not fit {x.type}")
    return shapes.slice_(x, start=start, stop=stop, step=(1,) * x.type.rank)


@lift
def narrow(input: Any, axis: int, start: int, length: int) -> Any:
    """`length` elements from `start` on, along one axis.

    >>> import graphopt as ms
    >>> ms.ops.narrow(ms.Tensor([1, 2, 3, 4]), 0, 1, 2).asnumpy().tolist()
    [2, 3]
    """
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

    >>> import graphopt as ms
    >>> ms.ops.strided_slice(ms.Tensor([0, 1, 2, 3, 4, 5]), (1,), (6,), (2,)).asnumpy().tolist()
    [1, 3, 5]
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
    """The elements in reverse order along `dims`.

    >>> import graphopt as ms
    >>> ms.ops.flip(ms.Tensor([[1, 2], [3, 4]]), (1,)).asnumpy().tolist()
    [[2, 1], [4, 3]]
    """
    x = as_node(input)
    return shapes.reverse(x, axes=axes_of(dims, x.type.rank, "flip"))


reverse = flip


@lift
def roll(input: Any, shifts: Any, dims: Any = None) -> Any:
    """Elements moved forward along axes; what leaves at the end comes in at the start. Without dims the flattened
    input.

    >>> import graphopt as ms
    >>> ms.ops.roll(ms.Tensor([1, 2, 3, 4]), 1).asnumpy().tolist()
    [4, 1, 2, 3]
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

    >>> import graphopt as ms
    >>> ms.ops.pad(ms.Tensor([1.0, 2.0]), (1, 2)).asnumpy().tolist()
    [0.0, 1.0, 2.0, 0.0, 0.0]
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
        if max(before, after) >= n + (mode != "reflect") and mode != "replicate":
            raise ShapeError(f"pad: {mode} padding {(before, after)} is too wide for axis {axis} of {x.type}")
        if before or after:
            positions = np.pad(np.arange(n, dtype=np.int32), (before, after), mode=numpy_mode)  # type: ignore[call-overload]
            x = index.gather(x, constant(positions), axis=axis)
    return x
