"""Copies of a contraction's operands, in the order in which its tiles read them.

    panels   of the operand along the lanes: outer dimensions it depends on, panels, steps of the sum, lanes
    stripes  of the operand of scalars: outer dimensions it depends on, stripes, steps of the sum, rows

All threads read a common copy, which a kernel of its own makes. Where threads divide panels, each can instead copy those that it
reads, a group at a time, into memory of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from graphopt.ir.index import Index, Var, delinear, linear
from graphopt.ir.types import DType, i32
from graphopt.kernel.loops import Buffer, Const, IndexValue, Load, Recorder, Stmt, Store, loop
from graphopt.kernel.tile import Operand, Problem, Tiling, divisor, lanes_divide, near_panels, own_panels

Temporary = Callable[[str, DType, int], Buffer]

_COPIED_STEPS = 16  # at most at once: a run of them in the copy is a page at most, and rows of the operand stay near


class Panels:
    """The operand along the lanes, copied.

    own:  each thread has a copy of the panels that it reads.
    near: how many panels are a group, which rows of the other operand meet one after the other.
    """

    def __init__(self, p: Problem, t: Tiling, operand: Operand, temporary: Temporary):
        self.p = p
        self.t = t
        self.operand = operand
        self.pitch = t.vectors * p.width
        self.count = -(-t.lane.size // self.pitch)
        self.depends = tuple(u for u in p.outs if u is not t.lane and operand.stride(u))
        own = own_panels(p, t.lane, operand, self.pitch) if t.col is None else 0
        self.own = own > 0
        self.near = own or near_panels(p, t, self.count)
        size, dtype = prod(v.size for v in p.sums) * self.pitch, operand.buffer.dtype
        if self.own:
            self.buffer = Buffer("panels", dtype, self.near * size, local=True)
        else:
            self.buffer = temporary("packed", dtype, self.count * prod(u.size for u in self.depends) * size)

    def element(self, bound: dict[Var, Index], panel: Index, x: Index) -> Load:
        """Lane x of a panel, at a step of the sum. panel: its number, of an own copy that in its group."""
        p = self.p
        sizes = (*(u.size for u in self.depends), self.near if self.own else self.count, *(v.size for v in p.sums))
        where = (*(bound[u] for u in self.depends), panel, *(bound[v] for v in p.sums))
        return Load(self.buffer, linear(where, sizes) * self.pitch + x)

    def copied(self) -> list[Stmt]:
        """Make a common copy.

        An operand whose lanes are neighbours is read along them: a few steps of the sum for all panels of a group, then the next
        few. One whose steps are neighbours is turned, a few steps at a time.
        """
        p, t = self.p, self.t
        sums = tuple(v.size for v in p.sums)
        steps = prod(sums)
        across = self.operand.stride(t.lane) == 1
        turned = bool(p.sums) and self.operand.stride(p.sums[-1]) == 1
        few = divisor(steps, _COPIED_STEPS) if across or turned else max(prod(sums[1:]), 1)
        near = (self.near if lanes_divide(p, t.lane, self.operand) else self.count) if across else 1
        sizes = (*(u.size for u in self.depends), self.count // near, steps // few, near)

        def one(n: Index) -> list[Stmt]:
            *outer, group, part, inside = delinear(n, sizes)
            panel = group * near + inside
            bound = dict(zip(self.depends, outer, strict=True))
            return loop("serial", "k", few, lambda k: self._step(part * few + k, panel, panel, bound))

        return loop("par", "t", prod(sizes), one)

    def copied_alone(self, panel: Index, place: Index) -> list[Stmt]:
        """Copy a panel to its place in a group, before anything reads it."""
        steps = prod(v.size for v in self.p.sums)
        few = divisor(steps, _COPIED_STEPS)

        def part(n: Index) -> list[Stmt]:
            return loop("serial", "k", few, lambda k: self._step(n * few + k, panel, place, {}))

        return loop("serial", "s", steps // few, part)

    def copied_beside(self, where: dict[Var, Index], place: Index, actives: Sequence[int]) -> list[Stmt]:
        """Copy the vectors of one step of the sum, which a tile multiplies at the same time. actives: their lanes that exist."""
        width, lane = self.p.width, self.t.lane

        def copy(first: int, active: int, x: Index) -> list[Stmt]:
            end = active if active < width else None
            value = _read(self.operand, {**where, lane: where[lane] + first + x}, x, end)
            return [Store(self.buffer, self.element(where, place, first + x).index, value)]

        vectors = [(k * width, n) for k, n in enumerate(actives)]
        return [s for k, n in vectors for s in loop("lanes", "l", width, lambda x, k=k, n=n: copy(k, n, x))]

    def _step(self, step: Index, panel: Index, place: Index, bound: dict[Var, Index]) -> list[Stmt]:
        """Copy what a step of the sum reads of a panel."""
        p, t = self.p, self.t
        where = {**bound, **dict(zip(p.sums, delinear(step, tuple(v.size for v in p.sums)), strict=True))}
        end = t.lane.size if t.lane.size % self.pitch else None

        def copy(x: Index) -> list[Stmt]:
            lane = panel * self.pitch + x
            value = _read(self.operand, {**where, t.lane: lane}, lane, end)
            return [Store(self.buffer, self.element(where, place, x).index, value)]

        return [s for j in range(0, self.pitch, p.width) for s in loop("lanes", "l", p.width, lambda x, j=j: copy(j + x))]


class Stripes:
    """The operand of scalars, copied: a stripe is what the tiles of some rows read."""

    def __init__(self, p: Problem, t: Tiling, operand: Operand, temporary: Temporary):
        assert t.row is not None
        self.p = p
        self.t = t
        self.row = t.row
        self.operand = operand
        self.count = -(-self.row.size // t.rows)
        self.depends = tuple(u for u in p.outs if u is not t.row and operand.stride(u))
        self.steps = prod(v.size for v in p.sums)
        size = prod(u.size for u in self.depends) * self.count * self.steps * t.rows
        self.buffer = temporary("rows", operand.buffer.dtype, size)

    def element(self, bound: dict[Var, Index], stripe: Index, row: Index, own: int = 0) -> Load:
        """A row of a stripe, at a step of the sum."""
        p = self.p
        sizes = (*(u.size for u in self.depends), self.count, *(v.size for v in p.sums))
        where = (*(bound[u] for u in self.depends), stripe, *(bound[v] for v in p.sums))
        return Load(self.buffer, linear(where, sizes) * self.t.rows + row, own=own)

    def copied(self) -> list[Stmt]:
        """Make the copy.

        Where rows are neighbours, the operand is read along them: a few steps of the sum for all stripes, then the next few.
        Where steps are, a stripe is read to its end.
        """
        p, t = self.p, self.t
        sums = tuple(v.size for v in p.sums)
        few = divisor(self.steps, _COPIED_STEPS)
        outer_sizes = tuple(u.size for u in self.depends)
        along = self.operand.stride(self.row) == 1
        counts = (self.steps // few, self.count) if along else (self.count, self.steps // few)
        end = self.row.size if self.row.size % t.rows else None

        def one(n: Index) -> list[Stmt]:
            *outer, first, second = delinear(n, (*outer_sizes, *counts))
            part, stripe = (first, second) if along else (second, first)

            def line(k: Index) -> list[Stmt]:
                step = part * few + k
                bound = dict(zip((*self.depends, *p.sums), (*outer, *delinear(step, sums)), strict=True))

                def copy(x: Index) -> list[Stmt]:
                    row = stripe * t.rows + x
                    value = _read(self.operand, {**bound, self.row: row}, row, end)
                    return [Store(self.buffer, self.element(bound, stripe, x).index, value)]

                return loop("lanes", "l", t.rows, copy)

            return loop("serial", "k", few, line)

        return loop("par", "t", prod(outer_sizes) * (self.steps // few) * self.count, one)


def _read(o: Operand, where: dict[Var, Index], place: Index, end: int | None) -> Load:
    """An element of an operand; 0 where `place` is not below `end` (None: it always is)."""
    at = o.offset.substitute(where)
    if end is None:
        return Load(o.buffer, at)
    return Load(o.buffer, at, Recorder().lt(IndexValue(place, i32), Const(end, i32)), Const(0, o.buffer.dtype))


__all__ = ["Panels", "Stripes", "Temporary"]
