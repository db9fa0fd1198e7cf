"""Where barriers stand: only where one thread's data meet another's.

A kernel's parallel loops are divided the same way every time: of `size` iterations, thread t of T has those from
size * t // T to size * (t + 1) // T. So the bytes that a thread can touch are known for every team, as intervals: interval
arithmetic over the index with the loop variable in the thread's range. A kernel that is dealt out in chunks may do any of its
iterations on any thread, and dealing is a barrier itself. Kernels that divide the rows of a buffer alike
need no barrier between them; whether they do can depend on the size of the team (16 and 64 rows are cut alike for 4
threads, not for 3), so every size up to TEAMS is decided for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.index import Atom, Index, Loaded, Quotient, Var
from graphopt.kernel.loops import Buffer, Expr, For, If, Kernel, Load, Stmt, Store, expressions, loaded, statements
from graphopt.passes.memory import MemoryPlan

TEAMS = 8
"""Up to this many threads slices are compared; larger teams have a barrier wherever two kernels touch the same memory."""

LARGER = 63
"""Stands for all larger teams."""

_OUTSIDE = 1 << 44  # bytes from one buffer outside of the arena to the next
_SIZES = tuple(range(2, TEAMS + 1))
Bounds = tuple[np.ndarray, np.ndarray]
Terms = tuple[tuple[Atom, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Touch:
    """What a kernel does to a buffer, which has the bytes start to end of a memory in which all buffers lie.

    first, last: the elements that a thread touches, and one more, in bytes; [team size - 2, thread]
    kernel, team, write: which kernel; whether it is shared; whether it writes them
    """

    start: int
    end: int
    first: np.ndarray
    last: np.ndarray
    kernel: int
    team: bool
    write: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Hull:
    """What one statement does to a parameter: the bytes that each thread touches, counted from its beginning.

    idle: the threads that touch nothing; all arrays are [team size - 2, thread].
    """

    buffer: Buffer
    write: bool
    idle: np.ndarray
    first: Any
    last: Any


def place_barriers(
    kernels: Sequence[Kernel], parallel: Sequence[bool], dealt: Sequence[bool], plan: MemoryPlan
) -> tuple[tuple[bool, ...], tuple[int, ...]]:
    """(whether a barrier stands before each kernel, the team sizes that do without it: bit T for T threads, bit 63 for all
    above TEAMS).

    A barrier stands before a kernel that is dealt out, and before one that touches memory which another kernel has touched
    since the last barrier, when one of the two writes it and they are, or may be, different threads.
    Cost: O(kernels x buffers touched since a barrier).
    """
    if not any(parallel):
        return (False,) * len(kernels), (0,) * len(kernels)
    places: dict[Buffer, int] = {b: at for b, at in plan.offsets.items() if isinstance(b, Buffer)}
    since = dict.fromkeys((*_SIZES, LARGER), 0)  # the kernel behind each team's last barrier
    pending: list[_Touch] = []
    known: dict[tuple[tuple[Stmt, ...], bool, bool], list[list[_Hull]]] = {}
    barriers: list[bool] = []
    spared: list[int] = []
    for k, kernel in enumerate(kernels):
        key = kernel.body, parallel[k], dealt[k]
        if key not in known:
            known[key] = [_hulls(s, parallel[k], dealt[k]) for s in kernel.body]
        mine = _touches(kernel, k, parallel[k], places, known[key])
        clashes = [
            (a.kernel, _meetings(a, b))
            for b in mine
            for a in pending
            if a.start < b.end and b.start < a.end and (a.write or b.write) and (a.team or b.team)
        ]
        needed = 0
        for size, begin in since.items():
            if dealt[k] or any(begin <= before and (size == LARGER or meet[size - 2]) for before, meet in clashes):
                needed |= 1 << size
                since[size] = k
        barriers.append(bool(needed))
        spared.append(sum(1 << s for s in since if not needed >> s & 1) if needed else 0)
        oldest = min(since.values())
        pending = [a for a in pending if a.kernel >= oldest] + mine if needed else pending + mine
    return tuple(barriers), tuple(spared)


def _meetings(a: _Touch, b: _Touch) -> np.ndarray:
    """For each team size up to TEAMS, whether a byte of one thread's interval in `a` lies in another thread's in `b`."""
    low, high = a.first[:, :, None], a.last[:, :, None]
    other_low, other_high = b.first[:, None, :], b.last[:, None, :]
    meet = (low < other_high) & (other_low < high) & (low < high) & (other_low < other_high)
    meet[:, range(TEAMS), range(TEAMS)] = False
    return np.asarray(meet.any(axis=(1, 2)))


def _touches(
    kernel: Kernel, number: int, team: bool, places: dict[Buffer, int], hulls: Sequence[Sequence[_Hull]]
) -> list[_Touch]:
    """Every buffer that a kernel touches, apart for each of its outermost statements.

    places: where buffers begin; those outside of the arena get places of their own behind it.
    """
    found: list[_Touch] = []
    called = dict(zip(kernel.params, kernel.args, strict=True))
    for h in (h for of_statement in hulls for h in of_statement):
        buffer = called[h.buffer]
        start = places.setdefault(buffer, _OUTSIDE * (1 + len(places)))
        first, last = np.where(h.idle, 0, start + h.first), np.where(h.idle, 0, start + h.last)
        found.append(_Touch(start, start + buffer.size * buffer.dtype.itemsize, first, last, number, team, h.write))
    return found


def _hulls(s: Stmt, team: bool, dealt: bool) -> list[_Hull]:
    """What an outermost statement touches."""
    share: dict[Var, Bounds] = {}
    idle = np.arange(TEAMS)[None, :] >= (np.array(_SIZES)[:, None] if team else 1)
    if team and not dealt and isinstance(s, For) and s.kind == "par":
        share[s.var] = _slices(s.var.size)
        idle = idle | (share[s.var][1] < share[s.var][0])
    hulls: dict[tuple[Buffer, bool], tuple[Any, Any]] = {}
    for (buffer, write, terms), (least, greatest) in _accesses([s]).items():
        low, high = 0, buffer.size - 1
        if _is_known(terms):
            low, high = _bounds(terms, share)
            low, high = low + least, high + greatest
        known = hulls.get((buffer, write))
        hull = (low, high) if known is None else (np.minimum(known[0], low), np.maximum(known[1], high))
        hulls[buffer, write] = hull
    return [
        _Hull(b, write, idle, low * b.dtype.itemsize, (high + 1) * b.dtype.itemsize) for (b, write), (low, high) in hulls.items()
    ]


def _slices(size: int) -> Bounds:
    """First and last iteration of each thread, [team size - 2, thread]; the last is below the first where there is none."""
    teams = np.array(_SIZES)[:, None]
    threads = np.minimum(np.arange(TEAMS)[None, :], teams - 1)
    return size * threads // teams, size * (threads + 1) // teams - 1


def _accesses(body: Sequence[Stmt]) -> dict[tuple[Buffer, bool, Terms], tuple[int, int]]:
    """What parameters are read or written at: (buffer, whether written, varying part of the index) -> least and greatest
    constant part.
    """
    found: dict[tuple[Buffer, bool, Terms], tuple[int, int]] = {}

    def add(buffer: Buffer, i: Index, write: bool) -> None:
        low, high = found.get((buffer, write, i.terms), (i.const, i.const))
        found[buffer, write, i.terms] = (min(low, i.const), max(high, i.const))

    seen: set[int] = set()
    for s in statements(body):
        values: list[Expr] = []
        if isinstance(s, Store):
            values = [s.value, *loaded(s.index)]
            if not s.buffer.local:
                add(s.buffer, s.index, True)
        elif isinstance(s, If):
            values = [s.condition]
        for v in values:
            for e in expressions(v, seen):
                if isinstance(e, Load) and not e.buffer.local:
                    add(e.buffer, e.index, False)
    return found


def _is_known(terms: Terms) -> bool:
    """Whether an index depends on loop variables alone."""
    return all(isinstance(a, Var) or (not isinstance(a, Loaded) and _is_known(a.index.terms)) for a, _ in terms)


def _bounds(terms: Terms, share: dict[Var, Bounds]) -> tuple[Any, Any]:
    """Least and greatest value of a sum: numbers, or arrays of one for each team and thread."""
    low: Any = 0
    high: Any = 0
    for atom, c in terms:
        assert not isinstance(atom, Loaded)
        if isinstance(atom, Var):
            a, b = share.get(atom, atom.range)
        else:
            a, b = _bounds(atom.index.terms, share)
            a, b = a + atom.index.const, b + atom.index.const
            first, last = a // atom.by, b // atom.by
            if isinstance(atom, Quotient):
                a, b = first, last
            else:
                one = first == last
                a, b = np.where(one, a % atom.by, 0), np.where(one, b % atom.by, atom.by - 1)
        low, high = low + c * (a if c > 0 else b), high + c * (b if c > 0 else a)
    return low, high


__all__ = ["LARGER", "TEAMS", "place_barriers"]
