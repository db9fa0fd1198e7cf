"""Products of vectors and matrices, under MindSpore's names."""

from __future__ import annotations

from typing import Any

from graphopt.errors import ShapeError
from graphopt.ir.graph import Node
from graphopt.opdefs import linalg, shape
from graphopt.ops.lift import lift
from graphopt.ops.promote import axis_of, promoted


@lift
def matmul(input: Any, other: Any) -> Any:
    """The matrix product as numpy's: leading axes broadcast, a vector's axis vanishes.

    Shapes: (…, m, k), (…, k, n) -> (…, m, n).
    Errors: ValueError when the inner sizes differ or an input has no axis.

    >>> import graphopt as ms
    >>> ms.ops.matmul(ms.ops.ones((2, 3)), ms.ops.ones((3, 4))).shape
    (2, 4)
    """
    return linalg.matmul(*promoted(input, other))


def matmul_flags(a: Node, b: Node, transpose_a: bool, transpose_b: bool) -> Node:
    """The product of two matrices or batches of them, each possibly transposed; no transposed copy is made."""
    if a.type.rank < 2 or a.type.rank != b.type.rank:
        if transpose_a or transpose_b or a.type.rank < 2:
            raise ShapeError(f"matmul: expected two tensors of equal rank >= 2, found {a.type} and {b.type}")
        return linalg.matmul(a, b)
    if a.shape[:-2] != b.shape[:-2]:
        a = shape.transpose(a, perm=_swapped(a)) if transpose_a else a
        return linalg.matmul(a, shape.transpose(b, perm=_swapped(b)) if transpose_b else b)
    lead = tuple(range(a.type.rank - 2))
    inner = (len(lead) + (0 if transpose_a else 1), len(lead) + (1 if transpose_b else 0))
    if a.shape[inner[0]] != b.shape[inner[1]]:
        raise ShapeError(
            f"matmul: inner sizes differ: {a.shape[inner[0]]} of {a.type}, {b.shape[inner[1]]} of {b.type}"
        )
    return linalg.dot_general(a, b, contract=((inner[0],), (inner[1],)), batch=(lead, lead))


def _swapped(x: Node) -> tuple[int, ...]:
    rank = x.type.rank
    return (*range(rank - 2), rank - 1, rank - 2)


@lift
def bmm(input_x: Any, mat2: Any) -> Any:
    """The matrix product of two batches (b, m, k) and (b, k, n).

    >>> import graphopt as ms
    >>> ms.ops.bmm(ms.ops.ones((5, 2, 3)), ms.ops.ones((5, 3, 4))).shape
    (5, 2, 4)
    """
    a, b = promoted(input_x, mat2)
    return matmul_flags(a, b, False, False)


mm = bmm


@lift
def mv(mat: Any, vec: Any) -> Any:
    """Matrix (m, k) times vector (k,).

    >>> import graphopt as ms
    >>> ms.ops.mv(ms.Tensor([[1.0, 2.0], [3.0, 4.0]]), ms.Tensor([1.0, 10.0])).asnumpy().tolist()
    [21.0, 43.0]
    """
    return linalg.matmul(*promoted(mat, vec))


@lift
def outer(input: Any, vec2: Any) -> Any:
    """All products of two vectors: (m,), (n,) -> (m, n).

    >>> import graphopt as ms
    >>> ms.ops.outer(ms.Tensor([1.0, 2.0]), ms.Tensor([3.0, 4.0])).asnumpy().tolist()
    [[3.0, 4.0], [6.0, 8.0]]
    """
    a, b = promoted(input, vec2)
    return shape.reshape(a, shape=(a.type.size, 1)) * shape.reshape(b, shape=(1, b.type.size))


ger = outer


@lift
def addmm(input: Any, mat1: Any, mat2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta * input + alpha * (mat1 @ mat2).

    >>> import graphopt as ms
    >>> ms.ops.addmm(ms.ops.ones((2, 2)), ms.ops.ones((2, 3)), ms.ops.ones((3, 2)), alpha=2).asnumpy().tolist()
    [[7.0, 7.0], [7.0, 7.0]]
    """
    a, b, c = promoted(input, mat1, mat2)
    return a * beta + linalg.matmul(b, c) * alpha


baddbmm = addmm


@lift
def tensor_dot(x1: Any, x2: Any, axes: Any) -> Any:
    """Sums of products over axes: an int (the last of x1 with the first of x2) or a pair of axes or tuples of
    axes.

    >>> import graphopt as ms
    >>> ms.ops.tensor_dot(ms.ops.ones((2, 3, 4)), ms.ops.ones((3, 4, 5)), 2).shape
    (2, 5)
    """
    a, b = promoted(x1, x2)
    if isinstance(axes, int):
        pair = tuple(range(a.type.rank - axes, a.type.rank)), tuple(range(axes))
    else:
        listed = [tuple(v) if isinstance(v, (tuple, list)) else (v,) for v in axes]
        pair = tuple(axis_of(k, a.type.rank) for k in listed[0]), tuple(axis_of(k, b.type.rank) for k in listed[1])
    return linalg.dot_general(a, b, contract=pair, batch=((), ()))
