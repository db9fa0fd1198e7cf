"""Register tiles of a contraction as loop nests, and the copies of operands that they read.

A tile's steps are a serial loop over the sum with all accumulators in registers. Its vectors come from one operand, its scalars
from the other, where they lie or from copies in the order of the tiles; vectors of copies are asked for a few steps ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import prod

from graphopt.ir.index import ZERO, Index, Var, delinear, index, linear
from graphopt.ir.types import DType, f32, f64, i32
from graphopt.kernel.asked import Ask, Finish, lines_of
from graphopt.kernel.loops import Buffer, Const, Expr, Fetch, Fold, IndexValue, Load, Recorder, Stmt, Store, loop
from graphopt.kernel.tile import (
    FIRST_LEVEL_BYTES,
    LINE_BYTES,
    NEAR_BYTES,
    PAGE_BYTES,
    Operand,
    Problem,
    Tiling,
    kept_near,
    row_operand,
    size_of,
    vector_operand,
)

_GROUP_BYTES = 1 << 20  # and what of it when it does not hold all
_GROUPS = 4  # of panels, where threads divide them
_OWN_PANELS = 8  # at least, where each thread copies those that it reads
_OWN_BYTES = 1 << 18  # of a panel, at most
_COPIED_STEPS = 16
_UNROLLED = 4  # steps of a sum that are one turn of its loop
_MOST_ASKED = 64  # lines at once
_LONG_STEP = 1024  # bytes
_AHEAD_PANEL = 8  # steps of a sum before its use that a vector of a copied panel is asked for: some 100 cycles
_OWN = (0.0, 0.0, 0.65, 0.5, 0.0)  # by vectors, of how many rows each multiply-add reads the scalar itself

Piece = tuple[int, int, int]
"""(tile size, first element, how many tiles) along one dimension."""


class Tiler:
    """Writes the nest of a problem in a given tiling; `finish` turns tile elements into stores."""

    s = Recorder()

    def __init__(
        self,
        p: Problem,
        t: Tiling,
        finish: Finish,
        temporary: Callable[[str, DType, int], Buffer],
        much: bool,
    ):
        self.p = p
        self.t = t
        self.finish = finish
        self.much = much
        self.lane = t.lane if t.form == "broadcast" else None
        self.outer = tuple(u for u in p.outs if u is not t.row and u is not t.col and u is not self.lane)
        self.vector = vector_operand(p, t.lane) if t.packed else None
        self.pitch = t.vectors * p.width
        by_lane = t.form == "broadcast"
        row_inside = t.row is not None and p.c.coefficient(t.row) == 1 and p.c.coefficient(t.lane) != 1
        self.across = by_lane and row_inside and t.rows <= p.width
        self.depends = tuple(u for u in p.outs if u is not t.lane and self.vector is not None and self.vector.stride(u))
        self.streamed = self._in_place()
        self.by_lanes = self.vector is not None and self._lanes_divide(self.vector)
        self.packed: Buffer | None = None
        if self.vector is not None:
            panels, panel = -(-t.lane.size // self.pitch), prod(v.size for v in p.sums) * self.pitch
            if self._copies_own_panels(self.vector, panels, panel):
                self.packed = Buffer("panel", self.vector.buffer.dtype, panel, local=True)
            else:
                count = panels * prod(u.size for u in self.depends)
                self.packed = temporary("packed", self.vector.buffer.dtype, count * panel)
        self.scalars = row_operand(p, t.lane, t.row) if t.rows_packed else None
        self.turning = tuple(u for u in p.outs if u is not t.row and self.scalars is not None and self.scalars.stride(u))
        self.spread: Buffer | None = None
        if self.scalars is not None:
            lines = prod(u.size for u in self.turning) * prod(v.size for v in p.sums)
            self.spread = temporary("rows", self.scalars.buffer.dtype, lines * -(-size_of(t.row) // t.rows) * t.rows)

    def _in_place(self) -> Operand | None:
        """The operand along the lanes, where a tile reads more of it as it lies than the first-level cache holds, in steps so
        long that the processor does not foresee them.
        """
        p = self.p
        o = vector_operand(p, self.t.lane)
        if o is None or self.lane is None or self.t.packed or not p.sums:
            return None
        step, size = abs(o.stride(p.sums[-1])), o.buffer.dtype.itemsize
        near = prod(v.size for v in p.sums) * self.pitch * size <= FIRST_LEVEL_BYTES
        if near or step * size < _LONG_STEP or o.stride(self.lane) != 1 or p.sums[-1].size < _COPIED_STEPS:
            return None
        return o

    def _lanes_divide(self, vector: Operand) -> bool:
        """Should threads divide the copied operand, and not the rows?

        A line that another thread has written takes a tenth of a microsecond. Threads that divide rows read the whole copy,
        which others have written, and take its lines away again for the next; those that divide lanes read
        all rows of the other operand, and rows of the result are in several hands. A copy that each thread keeps is taken
        away by nobody.
        """
        p = self.p
        if kept_near(p, self.t.lane, vector):
            return False
        other = p.b if vector is p.a else p.a
        copied = prod(v.size for v in (self.t.lane, *p.sums)) * vector.buffer.dtype.itemsize
        rows = prod(v.size for v in (*p.outs, *p.sums) if other.stride(v)) * other.buffer.dtype.itemsize
        return 2 * copied >= rows + prod(v.size for v in p.outs) * p.dtype.itemsize

    def _copies_own_panels(self, vector: Operand, panels: int, panel: int) -> bool:
        """Should each thread copy the panels that it reads, one by one, into memory of its own?

        They stay in its second-level cache; a common copy is read from that of the thread that made it. Each thread reads the
        whole of the other operand for every panel, so that should be the smaller one by far. Where steps lie pages apart, a
        panel is a line or two of each page, which no processor foresees: a common copy reads those of many panels at once.
        """
        one_reader = self.by_lanes and not self.depends and vector.runs == 1
        pages = any(abs(vector.stride(v)) * vector.buffer.dtype.itemsize >= PAGE_BYTES for v in self.p.sums[-1:])
        if not one_reader or pages or panels < _OWN_PANELS or panel * vector.buffer.dtype.itemsize > _OWN_BYTES:
            return False
        other = self.p.b if vector is self.p.a else self.p.a
        rows = prod(v.size for v in (*self.p.outs, *self.p.sums) if other.stride(v))
        return 2 * rows <= panels * panel

    def body(self, kind: str = "par") -> list[Stmt]:
        """Loops over full tiles, then over the remainders of every tiled dimension."""
        t = self.t
        stmts: list[Stmt] = []
        for lanes in self._pieces(self.lane, t.vectors * self.p.width):
            if self.packed is not None and self.packed.local:
                stmts += loop("par", "t", lanes[2], lambda n, lanes=lanes: self._panel(n, lanes))
                continue
            for cols, rows in product(self._pieces(t.col, t.cols), self._pieces(t.row, t.rows)):
                stmts += self._tiles(rows, cols, lanes, kind)
        return stmts

    def _panel(self, n: Index, lanes: Piece) -> list[Stmt]:
        """A panel's copy, and all tiles that read it."""
        t = self.t
        steps = prod(v.size for v in self.p.sums)
        few = _few(steps)
        place = n + lanes[1] // self.pitch
        stmts = loop(
            "serial",
            "s",
            steps // few,
            lambda part: loop("serial", "k", few, lambda k: self._copied(part * few + k, part * few + k, place, {})),
        )
        for cols, rows in product(self._pieces(t.col, t.cols), self._pieces(t.row, t.rows)):
            stmts += self._tiles(rows, cols, lanes, "serial", n)
        return stmts

    @staticmethod
    def _pieces(var: Var | None, tile: int) -> list[Piece]:
        if var is None:
            return [(1, 0, 1)]
        full, rest = divmod(var.size, tile)
        return [(tile, 0, full)] * (full > 0) + [(rest, full * tile, 1)] * (rest > 0)

    def _tiles(self, rows: Piece, cols: Piece, lanes: Piece, kind: str, own: Index | None = None) -> list[Stmt]:
        """All tiles of one size, or those of panel `own`.

        Dimensions turn in the order of the result's memory, so that threads, which divide the slowest one, write and
        re-read regions of their own, the same ones from kernel to kernel. Slowest turn dimensions along which both
        operands move: what they divide shares nothing. Next turn groups of panels of the operand along the lanes, where
        the second-level cache cannot hold it whole, or where threads should divide it.
        """
        t, p = self.t, self.p
        pieces = [(v, piece) for v, piece in ((t.row, rows), (t.col, cols), (self.lane, lanes)) if v is not None]
        turns = [(u, u.size, 1, False) for u in self.outer]
        turns += [(v, piece[2], 1, False) for v, piece in pieces if own is None or v is not self.lane]
        near = self._near(lanes[2])
        if own is None and self.lane is not None and near < lanes[2]:
            turns[-1] = (self.lane, near, 1, False)
            turns.append((self.lane, lanes[2] // near, near, True))

        def speed(turn: tuple[Var, int, int, bool]) -> tuple[bool, bool, int]:
            apart = p.a.stride(turn[0]) != 0 and p.b.stride(turn[0]) != 0
            return not apart, not turn[3], -p.c.coefficient(turn[0])

        turns.sort(key=speed)
        sizes = tuple(count for _, count, _, _ in turns)

        def one(n: Index) -> list[Stmt]:
            turned = {v: ZERO for v, _, _, _ in turns}
            if own is not None and self.lane is not None:
                turned[self.lane] = own
            for (v, _, step, _), k in zip(turns, delinear(n, sizes), strict=True):
                turned[v] = turned[v] + k * step
            start = {**turned, **{v: turned[v] * piece[0] + piece[1] for v, piece in pieces}}
            panel = turned[self.lane] + lanes[1] // self.pitch if self.lane is not None else ZERO
            stripe = turned[t.row] + rows[1] // t.rows if t.row is not None else ZERO
            share = (delinear(n, sizes)[-1], sizes[-1]) if turns and turns[-1][0] is self.lane else None
            return self._tile(start, rows[0], cols[0], lanes[0], panel, stripe, share)

        return loop(kind, "t", prod(sizes), one)

    def _near(self, panels: int) -> int:
        """How many panels of the operand along the lanes are a group: a divisor of their number."""
        vector = vector_operand(self.p, self.t.lane)
        if vector is None or self.lane is None or self.depends:
            return panels
        size = self.pitch * prod(v.size for v in self.p.sums) * vector.buffer.dtype.itemsize
        most = panels if panels * size <= NEAR_BYTES else _GROUP_BYTES // size
        if self.by_lanes:
            most = min(most, panels // _GROUPS)
        return max(d for d in range(1, panels + 1) if panels % d == 0 and d <= max(1, most))

    def pack(self) -> list[Stmt]:
        """Copy the vector operand: outer dimensions it depends on, panels of lanes, steps of the sum, lanes.

        An operand whose lanes are neighbours is read along them: a few steps of the sum for all panels of a group, then the next
        few. One whose steps are neighbours is turned, a few steps at a time.
        """
        p, t, vector, packed = self.p, self.t, self.vector, self.packed
        assert vector is not None and packed is not None
        sums = tuple(v.size for v in p.sums)
        steps = prod(sums)
        count = -(-t.lane.size // self.pitch)
        across = vector.stride(t.lane) == 1
        few = _few(steps) if across or vector.stride(p.sums[-1]) == 1 else prod(sums[1:])
        near = (self._near(count) if self.by_lanes else count) if across else 1
        depends = tuple(u.size for u in self.depends)
        sizes = (*depends, count // near, steps // few, near)

        def one(n: Index) -> list[Stmt]:
            *outer, group, part, inside = delinear(n, sizes)
            v = group * near + inside
            bound = dict(zip(self.depends, outer, strict=True))
            line = linear((*outer, v), (*depends, count)) * steps + part * few
            return loop("serial", "k", few, lambda k: self._copied(part * few + k, line + k, v, bound))

        return loop("par", "t", prod(sizes), one)

    def _copied(self, step: Index, line: Index, panel: Index, bound: dict[Var, Index]) -> list[Stmt]:
        """Copy what a step of the sum reads of a panel to a line of the copy."""
        p, t, vector, packed = self.p, self.t, self.vector, self.packed
        assert vector is not None and packed is not None
        summed = dict(zip(p.sums, delinear(step, tuple(v.size for v in p.sums)), strict=True))
        whole = t.lane.size % self.pitch == 0

        def copy(x: Index) -> list[Stmt]:
            place = panel * self.pitch + x
            mask = None if whole else self.s.lt(IndexValue(place, i32), Const(t.lane.size, i32))
            other = None if whole else Const(0, vector.buffer.dtype)
            value = Load(vector.buffer, vector.offset.substitute({**bound, **summed, t.lane: place}), mask, other)
            return [Store(packed, line * self.pitch + x, value)]

        parts = range(0, self.pitch, p.width)
        return [s for j in parts for s in loop("lanes", "l", p.width, lambda x, j=j: copy(j + x))]

    def spread_rows(self) -> list[Stmt]:
        """Copy the operand of scalars: outer dimensions it depends on, tiles of rows, steps of the sum, rows.

        Where rows are neighbours, it is read along them: a few steps of the sum for all tiles, then the next few. Where steps
        are, a tile's rows are read to their ends.
        """
        p, t, source, spread = self.p, self.t, self.scalars, self.spread
        assert source is not None and spread is not None and t.row is not None
        row = t.row
        sums = tuple(v.size for v in p.sums)
        steps, stripes = prod(sums), -(-row.size // t.rows)
        few = _few(steps)
        turning = tuple(u.size for u in self.turning)

        along = source.stride(row) == 1
        counts = (steps // few, stripes) if along else (stripes, steps // few)

        def one(n: Index) -> list[Stmt]:
            *outer, first, second = delinear(n, (*turning, *counts))
            part, stripe = (first, second) if along else (second, first)
            tile = linear((*outer, stripe), (*turning, stripes))

            def line(k: Index) -> list[Stmt]:
                step = part * few + k
                bound = dict(zip((*self.turning, *p.sums), (*outer, *delinear(step, sums)), strict=True))

                def copy(x: Index) -> list[Stmt]:
                    place = stripe * t.rows + x
                    whole = row.size % t.rows == 0
                    mask = None if whole else self.s.lt(IndexValue(place, i32), Const(row.size, i32))
                    other = None if whole else Const(0, source.buffer.dtype)
                    value = Load(source.buffer, source.offset.substitute({**bound, row: place}), mask, other)
                    return [Store(spread, (tile * steps + step) * t.rows + x, value)]

                return loop("lanes", "l", t.rows, copy)

            return loop("serial", "k", few, line)

        return loop("par", "t", prod(turning) * (steps // few) * stripes, one)

    def _spread_at(self, bound: dict[Var, Index], stripe: Index, r: Index, own: int) -> Expr:
        """An element of the copied rows: row r of a tile, at a step of the sum."""
        p, t = self.p, self.t
        assert self.spread is not None
        sizes = (*(u.size for u in self.turning), -(-size_of(t.row) // t.rows), *(v.size for v in p.sums))
        where = (*(bound[u] for u in self.turning), stripe, *(bound[v] for v in p.sums))
        return Load(self.spread, linear(where, sizes) * t.rows + r, own=own)

    def _packed_at(self, bound: dict[Var, Index], panel: Index, x: Index) -> Load:
        """An element of the packed copy: lane x of a panel, at a step of the sum."""
        p = self.p
        assert self.packed is not None
        panels = 1 if self.packed.local else -(-self.t.lane.size // self.pitch)
        sizes = (*(u.size for u in self.depends), panels, *(v.size for v in p.sums))
        where = (*(bound[u] for u in self.depends), ZERO if self.packed.local else panel, *(bound[v] for v in p.sums))
        return Load(self.packed, linear(where, sizes) * self.pitch + x)

    def _coming(self, start: dict[Var, Index], panel: Index, vectors: int) -> Ask | None:
        """What asks for the vectors that are multiplied a few steps later: where tiles read more than is near."""
        p, t = self.p, self.t
        if self.packed is not None and not self.packed.local and self.packed.size * p.dtype.itemsize > FIRST_LEVEL_BYTES:
            packed = self.packed

            def from_copy(summed: dict[Var, Index]) -> list[Stmt]:
                first = self._packed_at({**start, **summed}, panel, ZERO).index
                ahead = _AHEAD_PANEL * self.pitch
                return [Fetch(packed, first + k * p.width, ahead=ahead) for k in range(vectors)]

            return from_copy
        if self.streamed is None:
            return None
        o = self.streamed

        def in_place(summed: dict[Var, Index]) -> list[Stmt]:
            ahead = _AHEAD_PANEL * o.stride(p.sums[-1])
            lanes = [start[t.lane] + k * p.width for k in range(vectors)]
            return [Fetch(o.buffer, o.offset.substitute({**start, **summed, t.lane: x}), ahead=ahead) for x in lanes]

        return in_place

    def _next_rows(self, start: dict[Var, Index], stripe: Index, place: Index, tiles: int) -> Ask | None:
        """What asks for the next tile's rows, where their copy is so large that it comes from afar: each of the tiles that read
        the present ones asks for its part of them, a line or so at a time.
        """
        p, t, spread = self.p, self.t, self.spread
        sums = tuple(v.size for v in p.sums)
        few = _UNROLLED * t.rows // tiles
        if spread is None or spread.size * spread.dtype.itemsize <= _GROUP_BYTES or sums[-1] % _UNROLLED or few == 0:
            return None
        steps = prod(sums)
        sizes = (*(u.size for u in self.turning), -(-size_of(t.row) // t.rows))
        first = linear((*(start[u] for u in self.turning), stripe), sizes) * (steps * t.rows)
        first += place * (steps // _UNROLLED * few)
        line = LINE_BYTES // spread.dtype.itemsize

        def ask(summed: dict[Var, Index]) -> list[Stmt]:
            at = first + linear(tuple(summed[v] for v in p.sums), sums) // _UNROLLED * few
            return [Fetch(spread, at, ahead=steps * t.rows + k, level=2) for k in range(0, few, line)]

        return ask

    def _asked(self, start: dict[Var, Index], rows: int, cols: int, lanes: int) -> list[Stmt]:
        """Ask for the lines that the tile's end reads and writes, where they come from afar: they arrive while it sums."""
        p, t = self.p, self.t
        along, other = (t.row, t.lane) if self.across else (t.lane, t.row)
        first, second = (lanes, 1) if self.across else (rows, -(-lanes // p.width))
        if along is None or other is None or first * cols * second > _MOST_ASKED:
            return []
        ask = lines_of(p, self.finish, along, other)

        def line(n: Index, c: Index, k: int) -> list[Stmt]:
            where = dict(start)
            where[other] += n
            where[along] += k * p.width
            if t.col is not None:
                where[t.col] += c
            return ask(where)

        def lines(n: Index, c: Index) -> list[Stmt]:
            return [s for k in range(second) for s in line(n, c, k)]

        return loop("unroll", "r", first, lambda n: loop("unroll", "c", cols, lambda c: lines(n, c)))

    def _sums(
        self,
        body: Callable[[dict[Var, Index]], list[Stmt]],
        vars: Sequence[Var],
        unroll: int,
        coming: Ask | None = None,
        later: Ask | None = None,
    ) -> list[Stmt]:
        """Serial loops over summed dimensions, the last one unrolled a little; `coming` is done before each of its steps, `later`
        before each turn.
        """

        def nest(k: int, bound: dict[Var, Index]) -> list[Stmt]:
            if k == len(vars):
                return body(bound)
            v = vars[k]
            if k + 1 < len(vars):
                return loop("serial", f"q{k}", v.size, lambda i: nest(k + 1, {**bound, v: i}))
            blocks, rest = divmod(v.size, unroll)
            if blocks <= 1:
                return loop("steps", "w", v.size, lambda w: nest(k + 1, {**bound, v: w}))

            def steps(block: Index) -> list[Stmt]:
                def step(w: Index) -> dict[Var, Index]:
                    return {**bound, v: block * unroll + w}

                def one(w: Index) -> list[Stmt]:
                    return (coming(step(w)) if coming is not None else []) + nest(k + 1, step(w))

                return (later(step(ZERO)) if later is not None else []) + loop("steps", "w", unroll, one)

            rolled = loop("serial", f"q{k}", blocks, steps)
            return rolled + loop("steps", "w", rest, lambda w: nest(k + 1, {**bound, v: w + blocks * unroll}))

        return nest(0, {})

    def _product(
        self, bound: dict[Var, Index], at: Index, acc: Buffer, mask: Expr | None, copies: dict[int, Expr], own: int
    ) -> Stmt:
        """acc[at] += a * b at one point; lanes beyond the mask read nothing, and beyond the end of a sum add nothing.

        copies: for a and b, by their number, the element of a copy that is read instead. own: see `Load`.
        """
        factors: list[Expr] = []
        for k, o in enumerate((self.p.a, self.p.b)):
            value: Expr
            if k in copies:
                value = copies[k]
            elif mask is not None and (o.stride(self.t.lane) or self.t.lane in self.p.sums):
                value = Load(o.buffer, o.offset.substitute(bound), mask, Const(0, o.buffer.dtype))
            else:
                scalar = o.stride(self.t.lane) == 0
                value = Load(o.buffer, o.offset.substitute(bound), own=own if scalar else 0)
            factors.append(self.s.cast(value, self.p.dtype))
        return Store(acc, at, self.s.fma(*factors, Load(acc, at)))

    def _apart(self, rows: int, vectors: int) -> int:
        """In how many rows of a tile each multiply-add reads its scalar from memory itself, where instructions can.

        That is an instruction less and a load more. A core that is shared by two processors starts three instructions a cycle
        for each, on average, and reads nearly two elements. Dtypes that are converted are read once.
        """
        plain = all(o.buffer.dtype is self.p.dtype for o in (self.p.a, self.p.b))
        return round(rows * _OWN[vectors]) if plain and self.p.dtype in (f32, f64) else 0

    def _mask(self, x: Index, active: int) -> Expr | None:
        """The lanes of a partly filled vector, as a condition; accumulators of the others are never looked at."""
        return self.s.lt(IndexValue(x, i32), Const(active, i32)) if active < self.p.width else None

    def _tile(
        self,
        start: dict[Var, Index],
        rows: int,
        cols: int,
        lanes: int,
        panel: Index,
        stripe: Index,
        share: tuple[Index, int] | None,
    ) -> list[Stmt]:
        """One tile: clear the accumulators, sum, finish.

        panel, stripe: its place in the copies. share: which it is, and of how many tiles that follow each other with these rows.
        """
        p, t = self.p, self.t
        by_lane = self.lane is not None
        width = p.width if by_lane or t.lane in p.sums else 1
        actives = [min(width, lanes - k) for k in range(0, lanes, width)] if by_lane else [width]
        acc = Buffer("acc", p.dtype, rows * cols * len(actives) * width + p.width - width, local=True)
        zero = Const(0, p.dtype)

        def each(body: Callable[[Index, Index, int], list[Stmt]], first: int = 0, count: int = rows) -> list[Stmt]:
            def vectors(r: Index, c: Index) -> list[Stmt]:
                return [s for k in range(len(actives)) for s in body(first + r, c, k)]

            return loop("unroll", "r", count, lambda r: loop("unroll", "c", cols, lambda c: vectors(r, c)))

        def at(r: Index, c: Index, k: int) -> Index:
            return (r * cols + c) * (len(actives) * width) + k * width

        def place(r: Index, c: Index) -> dict[Var, Index]:
            bound = dict(start)
            if t.row is not None:
                bound[t.row] = start[t.row] + r
            if t.col is not None:
                bound[t.col] = start[t.col] + c
            return bound

        apart = self._apart(rows, len(actives)) if by_lane else 0

        def vector(base: Index, summed: dict[Var, Index], count: int | None) -> list[Stmt]:
            def own(r: Index, c: Index, k: int) -> list[Stmt]:
                return body(r, c, k, k)

            def body(r: Index, c: Index, k: int, own: int = 0) -> list[Stmt]:
                def lane(x: Index) -> list[Stmt]:
                    bound = {**place(r, c), **summed, t.lane: base + k * width + x}
                    copies: dict[int, Expr] = {}
                    for n, o in enumerate((p.a, p.b)):
                        if o is self.vector:
                            copies[n] = self._packed_at(bound, panel, k * width + x)
                        elif o is self.scalars:
                            copies[n] = self._spread_at(bound, stripe, r, own)
                    mask = self._mask(x, actives[k] if count is None else count)
                    return [self._product(bound, at(r, c, k) + x, acc, mask, copies, own)]

                return loop("lanes", "l", width, lane)

            return each(own, 0, apart) + each(body, apart, rows - apart)

        stmts = each(lambda r, c, k: loop("lanes", "l", width, lambda x: [Store(acc, at(r, c, k) + x, zero)]))
        if by_lane:
            stmts = self._asked(start, rows, cols, lanes) + stmts
            coming = self._coming(start, panel, len(actives))
            later = self._next_rows(start, stripe, *share) if share is not None and rows == t.rows else None
            stmts += self._sums(lambda summed: vector(start[t.lane], summed, None), p.sums, _UNROLLED, coming, later)

            def vector_done(tile: Buffer, r: Index, c: Index, k: int) -> list[Stmt]:
                return loop("lanes", "l", actives[k], lambda x: self._finish_vector(tile, at(r, c, k), place(r, c), k * width, x))

            def line(tile: Buffer, c: Index, e: Index, pitch: int) -> list[Stmt]:
                def one(x: Index) -> list[Stmt]:
                    return self.finish(Load(tile, (x * cols + c) * pitch + e), {**place(x, c), t.lane: start[t.lane] + e}, x)

                return loop("lanes", "l", rows, one)

            return stmts + self._spilled(acc, each, at, vector_done, line, rows, cols, lanes)
        stmts += self._sums(lambda summed: self._dot(summed, vector), [v for v in p.sums if v is not t.lane], 1)
        return stmts + each(lambda r, c, k: self.finish(Fold("add", acc, at(r, c, k), width), place(r, c), ZERO))

    def _spilled(
        self,
        acc: Buffer,
        each: Callable[[Callable[[Index, Index, int], list[Stmt]]], list[Stmt]],
        at: Callable[[Index, Index, int], Index],
        done: Callable[[Buffer, Index, Index, int], list[Stmt]],
        line: Callable[[Buffer, Index, Index, int], list[Stmt]],
        rows: int,
        cols: int,
        lanes: int,
    ) -> list[Stmt]:
        """Finish every vector of the tile; where much follows, from memory and in a loop, so that its code stands once.

        Where the result's neighbours lie along the rows, the tile is read back across: whole lines are written then.
        """
        across = self.across and rows > 1
        if not self.much and not across:
            return each(lambda r, c, k: done(acc, r, c, k))
        tile = Buffer("tile", acc.dtype, acc.size, local=True)
        width = self.p.width
        vectors = -(-lanes // width)
        stmts = each(
            lambda r, c, k: loop("lanes", "l", width, lambda x: [Store(tile, at(r, c, k) + x, Load(acc, at(r, c, k) + x))])
        )
        if across:
            pitch = vectors * width
            return stmts + loop("serial", "c", cols, lambda c: loop("serial", "e", lanes, lambda e: line(tile, c, e, pitch)))
        return stmts + loop(
            "serial",
            "r",
            rows,
            lambda r: loop("serial", "c", cols, lambda c: [s for k in range(vectors) for s in done(tile, r, c, k)]),
        )

    def _finish_vector(self, acc: Buffer, at: Index, bound: dict[Var, Index], first: int, x: Index) -> list[Stmt]:
        return self.finish(Load(acc, at + x), {**bound, self.t.lane: bound[self.t.lane] + first + x}, x)

    def _dot(self, summed: dict[Var, Index], vector: Callable[[Index, dict[Var, Index], int | None], list[Stmt]]) -> list[Stmt]:
        """Whole vectors along the summed lanes, then the rest."""
        t, width = self.t, self.p.width
        if t.lane not in self.p.sums:
            return vector(ZERO, summed, None)
        blocks, rest = divmod(t.lane.size, width)
        stmts = loop("serial", "j", blocks, lambda j: vector(j * width, summed, None))
        return stmts + (vector(index(blocks * width), summed, rest) if rest else [])


def _few(steps: int) -> int:
    """Steps of a sum that are copied together: a run of them in the copy is a page at most, and rows of the operand stay near."""
    return max(d for d in range(1, _COPIED_STEPS + 1) if steps % d == 0)


__all__ = ["Tiler"]
