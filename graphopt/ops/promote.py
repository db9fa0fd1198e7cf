"""Arguments of public ops brought to one dtype, as MindSpore does; axes and shapes brought to one form. Works on
nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from graphopt.common.checks import found
from graphopt.common.dtype import promote, promote_number
from graphopt.common.row_tensor import RowTensor
from graphopt.common.trace import active
from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node
from graphopt.ir.types import DType, bool_, dtype_of, f32, f64, i64
from graphopt.opdefs.elementwise import cast
from graphopt.opdefs.opdef import constant
from graphopt.opdefs.shape import reshape


def as_node(x: Any, like: DType | None = None) -> Node:
    """A node as it is; a number as a constant (of dtype `like` when given).

    Errors: DTypeError for anything else, arrays and lists too.
    """
    if isinstance(x, Node):
        return x
    if isinstance(x, bool) and like is None:
        return constant(x, bool_)
    if isinstance(x, (int, float, np.generic)):
        return constant(x, like or (f32 if isinstance(x, float) else i64 if isinstance(x, int) else None))
    cure = "; wrap it: Tensor(...)" if isinstance(x, (np.ndarray, list, tuple)) else ""
    cure = "; its to_dense() is one" if isinstance(x, RowTensor) else cure
    raise DTypeError(f"expected a Tensor or a number, found {found(x)}{cure}")


def to_dtype(x: Node, dtype: DType) -> Node:
    return x if x.dtype is dtype else cast(x, dtype=dtype)


def promoted(*args: Any) -> list[Node]:
    """All arguments as nodes of one dtype; Python numbers, and run-time scalars that were Python floats, follow the
    tensors.
    """
    trace = active()
    scalars = trace.scalars if trace is not None else ()
    nodes = [a for a in args if isinstance(a, Node) and a not in scalars]
    nodes = nodes or [a for a in args if isinstance(a, Node)] or [as_node(args[0])]
    arrays = [as_node(a) for a in args if isinstance(a, np.generic)]
    dtype = reduce(promote, [n.dtype for n in nodes + arrays])
    for a in args:
        if isinstance(a, Node) and a in scalars:
            dtype = promote_number(dtype, 1.0)
        elif isinstance(a, (int, float)) and not isinstance(a, np.generic):
            dtype = promote_number(dtype, a)
    return [to_dtype(as_node(a, None if isinstance(a, Node) else dtype), dtype) for a in args]


def floating(x: Any) -> Node:
    """x as floats: integers and bools become float32."""
    node = as_node(x)
    return node if node.dtype.is_float else cast(node, dtype=f32)


def promoted_floats(*args: Any) -> list[Node]:
    """`promoted`, and integers and bools become float32."""
    return [floating(x) for x in promoted(*args)]


def axes_of(axis: Any, rank: int, owner: str = "axis") -> tuple[int, ...]:
    """Sorted axes from an int, a tuple or list of ints, or None and () for all.

    Errors: ShapeError for an axis that is not there or comes twice; DTypeError for other things.
    """
    if axis is None or (isinstance(axis, (tuple, list)) and not axis):
        return tuple(range(rank))
    listed = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    axes = tuple(axis_of(a, rank, owner) for a in listed)
    if len(set(axes)) != len(axes):
        raise ShapeError(f"{owner}: an axis comes twice in {axis}")
    return tuple(sorted(axes))


def axis_of(axis: Any, rank: int, owner: str = "axis") -> int:
    """One axis, counted from the start."""
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise DTypeError(f"{owner}: axis must be an int, found {found(axis)}")
    if not -max(rank, 1) <= axis < max(rank, 1):
        raise ShapeError(f"{owner}: axis {axis} is outside [{-rank}, {rank})")
    return int(axis) % max(rank, 1)


def shape_of(shape: Any, owner: str = "shape") -> tuple[int, ...]:
    """A shape from an int or a tuple or list of ints."""
    listed = shape if isinstance(shape, (tuple, list)) else (shape,)
    for n in listed:
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
            raise DTypeError(f"{owner}: expected a shape of ints, found {found(shape)}")
    return tuple(int(n) for n in listed)


def dtype_arg(dtype: Any, default: DType) -> DType:
    return default if dtype is None else dtype_of(dtype)


def keep(x: Node, shape: Sequence[int], axes: Sequence[int], keep_dims: bool) -> Node:
    """x, from whose `shape` axes were reduced away, with size-1 axes put back when keep_dims."""
    return reshape(x, shape=tuple(1 if k in axes else n for k, n in enumerate(shape))) if keep_dims else x


def in_float32(rule: Any) -> Any:
    """An update rule on nodes that computes in float32 when the parameter is narrower, and rounds its results back.

    rule: (parameter, *states, gradient, *scalars) -> new parameter and states; results take the dtypes of the first
    inputs.
    """

    def run(*nodes: Node) -> tuple[Node, ...]:
        wide = [widened(n) for n in nodes]
        kind = wide[0].dtype
        made = rule(*(n if n.dtype is kind else cast(n, dtype=kind) for n in wide))
        return tuple(m if m.dtype is n.dtype else cast(m, dtype=n.dtype) for m, n in zip(made, nodes, strict=False))

    return run


def widened(n: Node) -> Node:
    """In float32, unless it is wider."""
    return n if n.dtype in (f32, f64) else cast(n, dtype=f32)
