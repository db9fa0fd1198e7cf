"""Loops that turn a matrix: what they read along rows they write along columns.

Copies in the order of tiles are such loops. A gather reads its lanes one by one; vectors read along the rows and shuffled
take a third of its time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphopt.ir.index import Index, Var
from graphopt.kernel.loops import Const, For, IndexValue, Load, Store, expressions


@dataclass(frozen=True, slots=True)
class Turned:
    """target[... + k * pitch + lane] = source[... + lane * stride + k], for all lanes; the mask does not know of k."""

    lane: For
    store: Store
    load: Load


def turned(s: For, width: Callable[[int], int]) -> tuple[Turned, ...]:
    """What a loop over k turns; nothing where it does anything else, or not whole squares of vectors.

    width: elements of a vector, from the bytes of one
    """
    if s.kind != "serial":
        return ()
    parts = tuple([part for x in s.body if isinstance(x, For) and (part := _turned(s, x)) is not None])
    if len(parts) != len(s.body):
        return ()
    for x in parts:
        square = width(x.load.dtype.itemsize)
        if s.var.size % square or x.lane.var.size < 2 or x.load.dtype is not parts[0].load.dtype:
            return ()
    return parts


def _turned(s: For, lane: For) -> Turned | None:
    store = lane.body[0]
    if lane.kind != "lanes" or len(lane.body) != 1 or not isinstance(store, Store) or not isinstance(store.value, Load):
        return None
    load = store.value
    if load.buffer.local or load.buffer is store.buffer:
        return None
    strides = (_moves(store.index, lane.var), _moves(load.index, s.var))
    crossing = (_moves(store.index, s.var), _moves(load.index, lane.var))
    if strides != (1, 1) or None in crossing or not _mask_is_steady(load, s.var):
        return None
    return Turned(lane, store, load)


def _moves(i: Index, var: Var) -> int | None:
    """How far an index moves with a variable; None where that changes."""
    return i.coefficient(var) if all(a is var or not Index(0, ((a, 1),)).depends(var) for a, _ in i.terms) else None


def _mask_is_steady(load: Load, var: Var) -> bool:
    """Is there no mask that changes with the variable, and 0 in the place of what it hides?"""
    if load.mask is None:
        return True
    if not isinstance(load.other, Const) or load.other.value != 0:
        return False
    return not any(isinstance(e, Load) or isinstance(e, IndexValue) and e.index.depends(var) for e in expressions(load.mask))


def transposed(rows: Sequence[str], shuffle: Callable[[str, str, Sequence[int]], str]) -> list[str]:
    """The columns of a square of vectors, a power of two of them: each stage interleaves the halves like a deck of cards.

    shuffle: picks elements of two vectors, numbered through, and says where they are then
    """
    size = len(rows)
    half = size // 2
    low = [k // 2 + size * (k % 2) for k in range(size)]
    current = list(rows)
    stage = 1
    while stage < size:
        pairs = [(current[k], current[k + half]) for k in range(half)]
        current = [shuffle(a, b, [x + shift for x in low]) for a, b in pairs for shift in (0, half)]
        stage *= 2
    return current


__all__ = ["Turned", "transposed", "turned"]
