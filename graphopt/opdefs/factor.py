"""Inverses of symmetric positive definite matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node
from graphopt.ir.types import DType, TensorType, f32, f64
from graphopt.opdefs.linalg import dot_general
from graphopt.opdefs.opdef import Loops, Sample, op
from graphopt.opdefs.shape import transpose

Values = Callable[[np.random.Generator, DType], list[np.ndarray]]


def _definite(*shape: int, least: float = 1.0) -> Values:
    """Random symmetric matrices whose smallest eigenvalue is about `least`."""

    def values(rng: np.random.Generator, dtype: DType) -> list[np.ndarray]:
        n = shape[-1]
        half = rng.normal(size=(*shape[:-2], n, 2 * n)) / np.sqrt(2 * n)
        return [(half @ half.swapaxes(-1, -2) + least * np.eye(n)).astype(dtype.numpy)]

    return values


@op(
    [
        Sample([(5, 5)], values=_definite(5, 5)),
        Sample([(1, 1)], values=_definite(1, 1)),
        Sample([(33, 33)], values=_definite(33, 33)),
        Sample([(3, 17, 17)], values=_definite(3, 17, 17)),
        Sample([(2, 2, 4, 4)], values=_definite(2, 2, 4, 4, least=0.1)),
        Sample([(0, 3, 3)], values=_definite(0, 3, 3)),
    ],
    "kernel",
    (f32, f64),
)
def definite_inverse(x: TensorType) -> TensorType:
    """Inverse of each symmetric positive definite matrix; of others it is not specified.

    Shapes: x (*batch, n, n) -> x's.
    Errors: DTypeError when x is not f32 or f64; ShapeError when it holds no square matrices.
    Source: Gauss-Jordan elimination in place, which needs no pivots when all leading minors are positive; on
            such matrices it is as exact as a Cholesky factor, and its rows are whole vectors.
    """
    if x.dtype not in (f32, f64):
        raise DTypeError(f"expects f32 or f64, found {x.dtype.short}; cast it")
    if x.rank < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeError(f"expects square matrices in the last two axes, found shape {x.shape}")
    return x


@definite_inverse.numpy
def _(x: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.inv(x.astype(np.float64)).astype(x.dtype)
    except np.linalg.LinAlgError:
        return np.full_like(x, np.nan)


@definite_inverse.batch
def _(size: int, mapped: tuple[bool, ...], x: Node) -> Node:
    return definite_inverse(x)


@definite_inverse.vjp
def _(ct: Node, out: Node, x: Node) -> tuple[Node]:
    """The derivative of the inverse of any matrix: -(out^T ct out^T)."""
    lead = x.type.rank - 2
    batch = (tuple(range(lead)), tuple(range(lead)))
    flipped = transpose(out, perm=(*range(lead), lead + 1, lead))
    half = dot_general(flipped, ct, contract=((lead + 1,), (lead,)), batch=batch)
    return (-dot_general(half, flipped, contract=((lead + 1,), (lead,)), batch=batch),)


@definite_inverse.loops
def _(nest: Loops, x: TensorType) -> None:
    """Matrices are independent. Column k becomes a unit column of what is left, and of the inverse in the making."""
    s, n = nest.s, x.shape[-1]
    one = s.const(1.0, x.dtype)

    def invert(lead: tuple[Any, ...]) -> None:
        def copy(place: tuple[Any, ...]) -> None:
            nest.each(n, lambda j: nest.store((*lead, place[0], j), nest.read(0, (*lead, place[0], j))))

        def eliminate(place: tuple[Any, ...]) -> None:
            k = place[0]
            pivot = nest.keep(s.div(one, nest.load((*lead, k, k))))
            nest.store((*lead, k, k), one)
            nest.each(n, lambda j: nest.store((*lead, k, j), s.mul(nest.load((*lead, k, j)), pivot)))

            def subtract(i: Any) -> None:
                share = nest.keep(s.neg(nest.load((*lead, i, k))))
                nest.store((*lead, i, k), s.const(0.0, x.dtype))

                def element(j: Any) -> None:
                    moved = s.fma(share, nest.load((*lead, k, j)), nest.load((*lead, i, j)))
                    nest.store((*lead, i, j), moved)

                nest.each(n, element)

            def other(row: tuple[Any, ...]) -> None:
                gap = row[0] - k
                nest.when(s.or_(nest.within(gap, 1 - n, 0), nest.within(gap, 1, n)), lambda: subtract(row[0]))

            if n > 1:
                nest.serial((n,), other)

        nest.serial((n,), copy)
        nest.serial((n,), eliminate)

    nest.independent(x.shape[:-2], invert, lanes=False)
