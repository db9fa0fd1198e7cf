"""Shapes, dtypes and facts of tensors, under MindSpore's names."""

from __future__ import annotations

import math
from typing import Any

from graphopt.errors import ShapeError
from graphopt.ir.graph import Node
from graphopt.ir.types import DType, dtype_of
from graphopt.opdefs import elementwise
from graphopt.opdefs import shape as shapes
from graphopt.opdefs.opdef import broadcast_to as broadcast_node
from graphopt.ops.lift import lift
from graphopt.ops.promote import as_node, axes_of, axis_of, shape_of, to_dtype

# shapes


@lift
def reshape(input: Any, shape: Any) -> Any:
    """The same elements in another shape; one size may be -1.

    Errors: ValueError when the sizes do not fit.

    >>> import graphopt as ms
    >>> ms.ops.reshape(ms.ops.ones((2, 3)), (3, -1)).shape
    (3, 2)
    """
    x, sizes = as_node(input), list(shape_of(shape, "reshape"))
    if sizes.count(-1) > 1 or any(n < -1 for n in sizes):
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

    >>> import graphopt as ms
    >>> ms.ops.transpose(ms.ops.ones((2, 3)), (1, 0)).shape
    (3, 2)
    """
    x = as_node(input)
    order = tuple(axis_of(k, x.type.rank, "transpose") for k in shape_of(dims, "transpose"))
    if sorted(order) != list(range(x.type.rank)):
        raise ShapeError(f"transpose: expected a permutation of {x.type.rank} axes, found {dims}")
    return shapes.transpose(x, perm=order)


permute = transpose


@lift
def swapaxes(input: Any, axis0: int, axis1: int) -> Any:
    """Two axes exchanged.

    >>> import graphopt as ms
    >>> ms.ops.swapaxes(ms.ops.ones((2, 3, 4)), 0, 2).shape
    (4, 3, 2)
    """
    x = as_node(input)
    order = list(range(x.type.rank))
    i, j = axis_of(axis0, x.type.rank), axis_of(axis1, x.type.rank)
    order[i], order[j] = order[j], order[i]
    return shapes.transpose(x, perm=tuple(order))


swapdims = swapaxes


@lift
def t(input: Any) -> Any:
    """A matrix transposed; fewer axes stay as they are.

    >>> import graphopt as ms
    >>> ms.ops.t(ms.Tensor([[1, 2], [3, 4]])).asnumpy().tolist()
    [[1, 3], [2, 4]]
    """
    x = as_node(input)
    if x.type.rank > 2:
        raise ShapeError(f"t: expected at most 2 axes, found {x.type}")
    return shapes.transpose(x, perm=tuple(reversed(range(x.type.rank))))


@lift
def movedim(x: Any, source: Any, destination: Any) -> Any:
    """Axes moved from `source` to `destination`; the others keep their order.

    >>> import graphopt as ms
    >>> ms.ops.movedim(ms.ops.ones((2, 3, 4)), 0, 2).shape
    (3, 4, 2)
    """
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
    """An axis of size 1 put in at `axis`.

    >>> import graphopt as ms
    >>> ms.ops.expand_dims(ms.ops.ones((2, 3)), 0).shape
    (1, 2, 3)
    """
    x = as_node(input_x)
    at = axis_of(axis, x.type.rank + 1, "expand_dims")
    return shapes.reshape(x, shape=(*x.shape[:at], 1, *x.shape[at:]))


unsqueeze = expand_dims


@lift
def squeeze(input: Any, axis: Any = None) -> Any:
    """Axes of size 1 taken out: all, or those named.

    Errors: ValueError when a named axis has another size.

    >>> import graphopt as ms
    >>> ms.ops.squeeze(ms.ops.ones((1, 3, 1))).shape
    (3,)
    """
    x = as_node(input)
    if axis is None or axis == ():
        return shapes.reshape(x, shape=tuple(n for n in x.shape if n != 1))
    axes = axes_of(axis, x.type.rank, "squeeze")
    if any(x.shape[k] != 1 for k in axes):
        raise ShapeError(f"squeeze: expected size 1 at axis {axis} of {x.type}")
    return shapes.reshape(x, shape=tuple(n for k, n in enumerate(x.shape) if k not in axes))


@lift
def flatten(input: Any, order: str = "C", *, start_dim: int = 1, end_dim: int = -1) -> Any:
    """The axes start_dim … end_dim as one; order 'F' reads the elements in column-major order.

    >>> import graphopt as ms
    >>> ms.ops.flatten(ms.ops.ones((2, 3, 4))).shape
    (2, 12)
    """
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
    """All elements in one axis.

    >>> import graphopt as ms
    >>> ms.ops.ravel(ms.Tensor([[1, 2], [3, 4]])).asnumpy().tolist()
    [1, 2, 3, 4]
    """
    x = as_node(input)
    return shapes.reshape(x, shape=(x.type.size,))


@lift
def broadcast_to(input: Any, shape: Any) -> Any:
    """Repeated to a shape; -1 keeps the size of an axis.

    Errors: ValueError when the shapes do not fit.

    >>> import graphopt as ms
    >>> ms.ops.broadcast_to(ms.Tensor([1, 2]), (2, 2)).asnumpy().tolist()
    [[1, 2], [1, 2]]
    """
    x, sizes = as_node(input), list(shape_of(shape, "broadcast_to"))
    lead = len(sizes) - x.type.rank
    sizes = [x.shape[k - lead] if n == -1 and k >= lead else n for k, n in enumerate(sizes)]
    return broadcast_node(x, tuple(sizes))


@lift
def tile(input: Any, dims: Any) -> Any:
    """The input repeated dims[k] times along axis k.

    >>> import graphopt as ms
    >>> ms.ops.tile(ms.Tensor([1, 2]), (2,)).asnumpy().tolist()
    [1, 2, 1, 2]
    """
    x, times = as_node(input), shape_of(dims, "tile")
    rank = max(x.type.rank, len(times))
    sizes = (1,) * (rank - x.type.rank) + x.shape
    times = (1,) * (rank - len(times)) + times
    paired = tuple(n for k in range(rank) for n in (times[k], sizes[k]))
    spread = shapes.broadcast(shapes.reshape(x, shape=sizes), shape=paired, axes=tuple(range(1, 2 * rank, 2)))
    return shapes.reshape(spread, shape=tuple(a * b for a, b in zip(times, sizes, strict=True)))


@lift
def repeat_elements(x: Any, rep: int, axis: int = 0) -> Any:
    """Each element repeated `rep` times in place, along `axis`.

    >>> import graphopt as ms
    >>> ms.ops.repeat_elements(ms.Tensor([1, 2]), 2).asnumpy().tolist()
    [1, 1, 2, 2]
    """
    node = as_node(x)
    at = axis_of(axis, node.type.rank, "repeat_elements")
    sizes = (*node.shape[: at + 1], rep, *node.shape[at + 1 :])
    spread = shapes.broadcast(node, shape=sizes, axes=tuple(k for k in range(len(sizes)) if k != at + 1))
    return shapes.reshape(spread, shape=(*node.shape[:at], node.shape[at] * rep, *node.shape[at + 1 :]))


@lift
def repeat_interleave(input: Any, repeats: int, axis: int | None = None) -> Any:
    """Each element repeated `repeats` times in place; without an axis the flattened input.

    >>> import graphopt as ms
    >>> ms.ops.repeat_interleave(ms.Tensor([[1, 2], [3, 4]]), 2, 1).asnumpy().tolist()
    [[1, 1, 2, 2], [3, 3, 4, 4]]
    """
    x = as_node(input)
    if axis is None:
        x, axis = shapes.reshape(x, shape=(x.type.size,)), 0
    return repeat_elements.on_nodes(x, repeats, axis)


# dtypes, facts, and the graph itself


@lift
def cast(input: Any, dtype: DType | str) -> Any:
    """The elements in another dtype; floats become integers towards 0. The derivative passes through.

    >>> import graphopt as ms
    >>> ms.ops.cast(ms.Tensor([1.7]), ms.int32).asnumpy().tolist()
    [1]
    """
    return to_dtype(as_node(input), dtype_of(dtype))


@lift
def type_as(input: Any, other: Any) -> Any:
    """The elements in the dtype of other.

    >>> import graphopt as ms
    >>> ms.ops.type_as(ms.Tensor([1, 2]), ms.Tensor(0.5)).dtype
    Float32
    """
    return to_dtype(as_node(input), as_node(other).dtype)


@lift
def stop_gradient(value: Any) -> Any:
    """The value itself, with derivative 0. Numbers and None are handed through; tuples and lists element by
    element.

    >>> import graphopt as ms
    >>> print(ms.grad(lambda x: x * ms.ops.stop_gradient(x))(ms.Tensor([3.0])))
    [3.]
    """
    if isinstance(value, (tuple, list)):
        return type(value)(stop_gradient.on_nodes(v) for v in value)
    return elementwise.stop_gradient(value) if isinstance(value, Node) else value


@lift
def depend(value: Any, expr: Any) -> Any:
    """The value. `expr` only says what stands before it: in a graph, state is updated in program order anyway.

    >>> import graphopt as ms
    >>> ms.ops.depend(ms.Tensor([1.0]), ms.Tensor([2.0])).asnumpy().tolist()
    [1.0]
    """
    return value


@lift
def identity(x: Any) -> Any:
    """The input itself.

    >>> import graphopt as ms
    >>> ms.ops.identity(ms.Tensor([1.0])).asnumpy().tolist()
    [1.0]
    """
    return x


deepcopy = identity


@lift
def shape(input_x: Any) -> Any:
    """The shape as a tuple of ints.

    >>> import graphopt as ms
    >>> ms.ops.shape(ms.ops.ones((2, 3)))
    (2, 3)
    """
    return as_node(input_x).shape


@lift
def rank(input_x: Any) -> Any:
    """The number of axes, an int.

    >>> import graphopt as ms
    >>> ms.ops.rank(ms.ops.ones((2, 3)))
    2
    """
    return as_node(input_x).type.rank


@lift
def size(input_x: Any) -> Any:
    """The number of elements, an int.

    >>> import graphopt as ms
    >>> ms.ops.size(ms.ops.ones((2, 3)))
    6
    """
    return as_node(input_x).type.size


numel = size


@lift
def dtype(input_x: Any) -> Any:
    """The dtype.

    >>> import graphopt as ms
    >>> ms.ops.dtype(ms.Tensor([1.0]))
    Float32
    """
    return as_node(input_x).dtype
