"""Where barriers stand: only where one thread's data meet another's.

A kernel's parallel loops are divided the same way every time: of `size` iterations, thread t of T has those from
size * t // T to size * (t + 1) // T. So the bytes that a thread can touch are known for every team, as intervals: interval
arithmetic over the index with the loop variable in the thread's range. A kernel that is dealt out in chunks may do any of its
iterations on any thread, and dealing is a barrier itself. Kernels that divide the rows of a buffer alike
need no barrier between them; whether they do can depend on the size of the team (16 and 64 rows are cut alike for 4
threads, not for 3), so every size up to TEAMS is decided for itself: a set of sizes is a number with a bit for each.

A row of a stack, which moves on from trip to trip, meets only itself in the same place: rows of other trips are apart. What else
touches the stack meets all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.index import Atom, Index, Loaded, Quotient, Var
from graphopt.kernel.items import Choose, Item, Repeat, controls_of, kernels_of, windows_of
from graphopt.kernel.loops import (
    Buffer,
    Expr,
    For,
    If,
    Kernel,
    Load,
    Stmt,
    Store,
    expressions,
    loaded,
    reads_and_writes,
    statements,
)
from graphopt.passes.memory import MemoryPlan

TEAMS = 8
"""Up to this many threads slices are compared; larger teams have a barrier wherever two kernels touch the same memory."""

LARGER = 63
"""Stands for all larger teams."""

_OUTSIDE = 1 << 44  # bytes from one buffer outside of the arena to the next
_SIZES = tuple(range(2, TEAMS + 1))
EVERY = sum(1 << s for s in (*_SIZES, LARGER))
Bounds = tuple[np.ndarray, np.ndarray]
Terms = tuple[tuple[Atom, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Touch:
    """What an item does to a buffer, which has the bytes start to end of a memory in which all buffers lie.

    row: the row of a stack that it is touched as; start and end are those of the stack then.
    first, last: the bytes that a thread touches, and one more, of a row from the row's beginning; [team size - 2, thread]
    team, write: whether the item is shared by the team; whether it writes them
    """

    start: int
    end: int
    row: Buffer | None
    first: np.ndarray
    last: np.ndarray
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


@dataclass(frozen=True, slots=True)
class Placed:
    """The sizes of teams that need a barrier: before an item, and before each reading of the result of a loop's test."""

    before: dict[Item, int]
    before_test: dict[Item, int]


def place_barriers(items: Sequence[Item], shared: set[Kernel], dealt: set[Kernel], plan: MemoryPlan) -> Placed:
    """Where a step's barriers stand; shared, dealt: kernels that the team divides, and those that it takes in chunks.

    A barrier stands before a kernel that is dealt out, and before what touches memory that something else has touched since
    the last barrier, when one of the two writes it and they are, or may be, different threads.
    Cost: O(kernels x buffers touched since a barrier); loops are gone through until nothing new is found.
    """
    placing = _Placing(shared, dealt, plan, windows_of(items))
    if shared:
        placing.sequence(items)
    return Placed(placing.before, placing.before_test)


class _Placing:
    """pending: what has been touched, and by teams of which sizes since their last barrier."""

    def __init__(self, shared: set[Kernel], dealt: set[Kernel], plan: MemoryPlan, windows: dict[Buffer, Buffer]):
        self.shared = shared
        self.dealt = dealt
        self.windows = windows
        self.places: dict[Buffer, int] = {b: at for b, at in plan.offsets.items() if isinstance(b, Buffer)}
        self.before: dict[Item, int] = dict.fromkeys(dealt, EVERY)
        self.before_test: dict[Item, int] = {}
        self.pending: dict[_Touch, int] = {}
        self._of: dict[tuple[Item, bool], list[_Touch]] = {}
        self._hulls: dict[tuple[tuple[Stmt, ...], bool, bool], list[_Hull]] = {}

    def sequence(self, items: Sequence[Item]) -> None:
        for i in items:
            if isinstance(i, Kernel) or self.shared.isdisjoint(kernels_of([i])):
                self._touch(i, self.before, self._of_item(i))
            elif isinstance(i, Choose):
                self._touch(i, self.before, self._control(i, False))
                start = dict(self.pending)
                self.sequence(i.then)
                after, self.pending = self.pending, start
                self.sequence(i.other)
                self._join(after)
            else:
                self._repeat(i)

    def _repeat(self, loop: Repeat) -> None:
        """A barrier before the loop, where there would be one on every trip for what was touched before."""
        inside = [t for k in kernels_of([loop]) for t in self._of_item(k)]
        self._touch(loop, self.before, self._control(loop, False), inside)
        while True:
            start, found = dict(self.pending), (dict(self.before), dict(self.before_test))
            self.sequence(loop.test)
            if loop.goes_on is not None:
                self._touch(loop, self.before_test, self._control(loop, True))
            leaving = dict(self.pending)
            self.sequence(loop.body)
            self._join(start)
            if self.pending == start and found == (self.before, self.before_test):
                break
        self.pending = leaving if loop.goes_on is not None else self.pending
        if loop.count is not None:
            self.pending |= {t: EVERY for t in self._control(loop, False) if t.write}

    def _join(self, other: dict[_Touch, int]) -> None:
        """What is pending on one of two ways."""
        for t, sizes in other.items():
            self.pending[t] = self.pending.get(t, 0) | sizes

    def _touch(self, item: Item, barriers: dict[Item, int], mine: Sequence[_Touch], later: Sequence[_Touch] = ()) -> None:
        """later: what a loop touches on its trips."""
        needed = barriers.get(item, 0)
        for a, sizes in self.pending.items():
            if sizes & ~needed:
                for b in (*mine, *later):
                    if a.start < b.end and b.start < a.end and (a.write or b.write) and (a.team or b.team):
                        needed |= sizes & _meetings(a, b)
        if needed:
            barriers[item] = needed
            self.pending = {t: left for t, sizes in self.pending.items() if (left := sizes & ~needed)}
        self.pending |= dict.fromkeys(mine, EVERY)

    # what items touch

    def _of_item(self, item: Item) -> list[_Touch]:
        """What a kernel touches, or a branch or loop that thread 0 runs alone."""
        if (item, False) not in self._of:
            if isinstance(item, Kernel):
                found = self._of_kernel(item)
            else:
                found = [t for c in controls_of([item]) for late in (False, True) for t in self._made(c, late, False)]
                for k in kernels_of([item]):
                    reads, writes = reads_and_writes(k)
                    found += [self._whole(b, b in writes, False) for b in reads | writes]
            self._of[item, False] = found
        return self._of[item, False]

    def _control(self, item: Choose | Repeat, late: bool) -> list[_Touch]:
        """What the threads read to find their way through a branch or loop; what thread 0 notes at its end."""
        if (item, late) not in self._of:
            self._of[item, late] = self._made(item, late, True)
        return self._of[item, late]

    def _made(self, item: Choose | Repeat, late: bool, team: bool) -> list[_Touch]:
        """late: of a loop, what is read behind its test and not before it."""
        if isinstance(item, Choose):
            return [] if late else [self._whole(item.pred, False, team)]
        read = item.goes_on if late else item.trips
        count = [self._whole(item.count, True, False)] if item.count is not None and not late else []
        return count + ([self._whole(read, False, team)] if read is not None else [])

    def _whole(self, buffer: Buffer, write: bool, team: bool) -> _Touch:
        """All of a buffer, by every thread of a team or by thread 0."""
        idle = np.arange(TEAMS)[None, :] >= (np.array(_SIZES)[:, None] if team else 1)
        return self._made_of(_Hull(buffer, write, idle, 0, buffer.size * buffer.dtype.itemsize), buffer, team)

    def _of_kernel(self, kernel: Kernel) -> list[_Touch]:
        """Every buffer that a kernel touches, apart for each of its outermost statements."""
        team, dealt = kernel in self.shared, kernel in self.dealt
        key = kernel.body, team, dealt
        if key not in self._hulls:
            self._hulls[key] = [h for s in kernel.body for h in _hulls(s, team, dealt)]
        called = dict(zip(kernel.params, kernel.args, strict=True))
        return [self._made_of(h, called[h.buffer], team) for h in self._hulls[key]]

    def _made_of(self, h: _Hull, buffer: Buffer, team: bool) -> _Touch:
        """Buffers outside of the arena get places of their own behind it."""
        base, row = buffer, buffer if buffer in self.windows else None
        while base in self.windows:
            base = self.windows[base]
        start = self.places.setdefault(base, _OUTSIDE * (1 + len(self.places)))
        end = start + base.size * base.dtype.itemsize
        at = start if row is None else 0
        first, last = np.where(h.idle, 0, at + h.first), np.where(h.idle, 0, at + h.last)
        return _Touch(start, end, row, first, last, team, h.write)


def _meetings(a: _Touch, b: _Touch) -> int:
    """The team sizes for which a byte of one thread's interval in `a` lies in another thread's in `b`."""
    if a.row is not b.row:
        return EVERY
    low, high = a.first[:, :, None], a.last[:, :, None]
    other_low, other_high = b.first[:, None, :], b.last[:, None, :]
    meet = (low < other_high) & (other_low < high) & (low < high) & (other_low < other_high)
    meet[:, range(TEAMS), range(TEAMS)] = False
    return sum(1 << size for k, size in enumerate(_SIZES) if meet[k].any()) | 1 << LARGER


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


__all__ = ["EVERY", "LARGER", "TEAMS", "Placed", "place_barriers"]
