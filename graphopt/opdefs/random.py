"""Random bits: counter based, so element k is the same on every machine and with any number of threads."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node
from graphopt.ir.types import TensorType, u32, u64
from graphopt.opdefs.opdef import Reader, Sample, op

ROUNDS = 10
MULTIPLIER = 0xD256D193
WEYL = 0x9E3779B9
_LOW = np.uint64(0xFFFFFFFF)
_BITS = np.uint64(32)


def philox2x32(low: np.ndarray, high: np.ndarray, key: int) -> tuple[np.ndarray, np.ndarray]:
    """Philox2x32-10 of the counters (low, high) under one 32-bit key: two words per counter, as uint32.

    Source: Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
    """
    a, b = low.astype(np.uint64), high.astype(np.uint64)
    for k in range(ROUNDS):
        round_key = np.uint64((key + k * WEYL) & 0xFFFFFFFF)
        product = a * np.uint64(MULTIPLIER)
        a, b = (product >> _BITS) ^ round_key ^ b, product & _LOW
    return a.astype(np.uint32), b.astype(np.uint32)


@op(
    [
        Sample([(2,)], {"shape": (45, 65)}, 0, 2**32 - 1),
        Sample([(2,)], {"shape": ()}, 0, 2**32 - 1),
        Sample([(2,)], {"shape": (7, 3, 5)}, 0, 1),
        Sample([(2,)], {"shape": (1,)}, 2**32 - 1, 2**32 - 1),
        Sample([(2,)], {"shape": (0, 3)}, 0, 2**32 - 1),
        Sample([(3, 2)], {"shape": (5, 4)}, 0, 2**32 - 1),
        Sample([(2, 3, 2)], {"shape": ()}, 0, 2**32 - 1),
    ],
    "movement",
    (u32,),
)
def random_bits(key: TensorType, *, shape: tuple[int, ...]) -> TensorType:
    """Uniform random 32-bit words: element k is the first word of Philox2x32-10 at counter k.

    The cipher has one 32-bit key word: that is key[0]. key[1] is folded (exclusive or) into the counter's
    high word, so it numbers 2^32 streams of 2^32 elements each under one key[0]; they do not overlap.

    Shapes: key u32[*lead, 2] -> u32[*lead, *shape], for every key what it gives alone.
    Errors: DTypeError when the key is not uint32; ShapeError when it has not exactly two words.
    """
    if key.dtype is not u32:
        raise DTypeError(f"expects a key of u32, found {key.dtype.short}")
    if key.shape[-1:] != (2,):
        raise ShapeError(f"expects a key of two words, found shape {key.shape}")
    return TensorType(u32, (*key.shape[:-1], *shape))


@random_bits.numpy
def _(key: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
    number = np.arange(prod(shape), dtype=np.uint64)
    words = []
    for first, second in np.asarray(key, np.uint32).reshape(-1, 2):
        high = (number >> _BITS) ^ second.astype(np.uint64)
        words.append(philox2x32(number & _LOW, high, int(first))[0])
    return np.array(words, np.uint32).reshape((*np.shape(key)[:-1], *shape))


random_bits.no_vjp("random bits do not depend smoothly on their key")


@random_bits.batch
def _(size: int, mapped: tuple[bool, ...], key: Node, *, shape: tuple[int, ...]) -> Node:
    return random_bits(key, shape=shape)


@random_bits.at
def _(r: Reader, index: tuple[Any, ...], key: TensorType, *, shape: tuple[int, ...]) -> Any:
    s = r.s
    lead, number = index[: key.rank - 1], 0
    for position, size in zip(index[key.rank - 1 :], shape, strict=True):
        number = position if isinstance(number, int) else number * size + position
    if not shape:
        low, high = s.const(0, u32), s.const(0, u32)
    elif prod(shape) <= 2**32:
        low, high = s.cast(r.value(number, u64), u32), s.const(0, u32)
    else:
        wide = r.value(number, u64)
        low, high = s.cast(wide, u32), s.cast(s.shr(wide, s.const(32, u64)), u32)
    round_key = r.read(0, (*lead, 0))
    a, b = low, s.xor(high, r.read(0, (*lead, 1)))
    multiplier, shift = s.const(MULTIPLIER, u64), s.const(32, u64)
    for k in range(ROUNDS):
        product = s.mul(s.cast(a, u64), multiplier)
        a, b = s.xor(s.xor(s.cast(s.shr(product, shift), u32), round_key), b), s.cast(product, u32)
        if k + 1 < ROUNDS:
            round_key = s.add(round_key, s.const(WEYL, u32))
    return a
