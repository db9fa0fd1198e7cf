"""Logic on truth values, and the bits of integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir.graph import Node
from graphopt.ir.types import INTEGERS, TensorType, bool_, u8, u16, u32, u64
from graphopt.opdefs.opdef import OpDef, Sample, Scalars, op
from graphopt.opdefs.scaffold import binary_samples, claim, flat, special_sample, unary_samples

UNSIGNED = {8: u8, 16: u16, 32: u32, 64: u64}


def _truth(*types: TensorType) -> TensorType:
    return claim(*types, among=(bool_,), hint="compare with 0, or use the bitwise ops")


def _integer(*types: TensorType) -> TensorType:
    return claim(*types, among=INTEGERS, hint="truth values have the logical ops")


@op(binary_samples(), "elementwise", (bool_,))
def logical_and(a: TensorType, b: TensorType) -> TensorType:
    """Whether both hold."""
    return _truth(a, b)


@op(binary_samples(), "elementwise", (bool_,))
def logical_or(a: TensorType, b: TensorType) -> TensorType:
    """Whether at least one holds."""
    return _truth(a, b)


@op(binary_samples(), "elementwise", (bool_,))
def logical_xor(a: TensorType, b: TensorType) -> TensorType:
    """Whether exactly one holds."""
    return _truth(a, b)


@op(unary_samples(), "elementwise", (bool_,))
def logical_not(x: TensorType) -> TensorType:
    """Whether it does not hold."""
    return _truth(x)


@op(binary_samples((-1e4, 1e4)), "elementwise", INTEGERS)
def bitwise_and(a: TensorType, b: TensorType) -> TensorType:
    """The bits set in both integers."""
    return _integer(a, b)


@op(binary_samples((-1e4, 1e4)), "elementwise", INTEGERS)
def bitwise_or(a: TensorType, b: TensorType) -> TensorType:
    """The bits set in at least one integer."""
    return _integer(a, b)


@op(binary_samples((-1e4, 1e4)), "elementwise", INTEGERS)
def bitwise_xor(a: TensorType, b: TensorType) -> TensorType:
    """The bits set in exactly one integer."""
    return _integer(a, b)


@op(unary_samples((-1e4, 1e4)), "elementwise", INTEGERS)
def bitwise_not(x: TensorType) -> TensorType:
    """The bits not set."""
    return _integer(x)


logical_and.numpy(np.logical_and)
logical_or.numpy(np.logical_or)
logical_xor.numpy(np.logical_xor)
logical_not.numpy(np.logical_not)
bitwise_and.numpy(np.bitwise_and)
bitwise_or.numpy(np.bitwise_or)
bitwise_xor.numpy(np.bitwise_xor)
bitwise_not.numpy(np.bitwise_not)
for _d in (logical_and, bitwise_and):
    _d.scalar(lambda s, a, b: s.and_(a, b))
for _d in (logical_or, bitwise_or):
    _d.scalar(lambda s, a, b: s.or_(a, b))
for _d in (logical_xor, bitwise_xor):
    _d.scalar(lambda s, a, b: s.xor(a, b))
for _d in (logical_not, bitwise_not):
    _d.scalar(lambda s, x: s.not_(x))
    flat(_d, 1)

_shift_samples = [
    Sample([(37,), (37,)], low=0, high=100),
    Sample([(5, 1), (7,)], low=0, high=9),
    Sample([(), ()]),
    special_sample(2),
]


@op(_shift_samples, "elementwise", INTEGERS)
def shift_left(a: TensorType, b: TensorType) -> TensorType:
    """a moved b bits up; zeros come in. All bits have left when b is negative or the width or more."""
    return _integer(a, b)


@op(_shift_samples, "elementwise", INTEGERS)
def shift_right(a: TensorType, b: TensorType) -> TensorType:
    """a moved b bits down; the sign comes in. All bits have left when b is negative or the width or more."""
    return _integer(a, b)


shift_left.numpy(np.left_shift)
shift_right.numpy(np.right_shift)
for _d in (
    logical_and,
    logical_or,
    logical_xor,
    bitwise_and,
    bitwise_or,
    bitwise_xor,
    shift_left,
    shift_right,
):
    flat(_d, 2)


def _inside(s: Scalars, b: Any) -> Any:
    """Whether b is a shift that machines agree on."""
    dtype = s.dtype_of(b)
    return s.and_(s.ge(b, s.const(0, dtype)), s.lt(b, s.const(dtype.bits, dtype)))


@shift_left.scalar
def _(s: Scalars, a: Any, b: Any) -> Any:
    zero = s.const(0, s.dtype_of(a))
    inside = _inside(s, b)
    return s.select(inside, s.shl(a, s.select(inside, b, zero)), zero)


@shift_right.scalar
def _(s: Scalars, a: Any, b: Any) -> Any:
    dtype = s.dtype_of(a)
    inside = _inside(s, b)
    if dtype.kind == "i":
        return s.shr(a, s.select(inside, b, s.const(dtype.bits - 1, dtype)))
    zero = s.const(0, dtype)
    return s.select(inside, s.shr(a, s.select(inside, b, zero)), zero)


def _dispatch(logical: OpDef, bitwise: OpDef, *operands: Any) -> Node:
    """An operator of Python: logical for truth values, bitwise for integers; one operand may be no node."""
    like = next(x for x in operands if isinstance(x, Node))
    return (logical if like.dtype is bool_ else bitwise)(*operands)


def both(a: Any, b: Any) -> Node:
    """`a & b` of nodes."""
    return _dispatch(logical_and, bitwise_and, a, b)


def either(a: Any, b: Any) -> Node:
    """`a | b` of nodes."""
    return _dispatch(logical_or, bitwise_or, a, b)


def differ(a: Any, b: Any) -> Node:
    """`a ^ b` of nodes."""
    return _dispatch(logical_xor, bitwise_xor, a, b)


def invert(x: Node) -> Node:
    """`~x` of a node."""
    return _dispatch(logical_not, bitwise_not, x)
