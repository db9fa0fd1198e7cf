"""Register tiles of a contraction as loop nests.

A tile's steps are a serial loop over the sum with all accumulators in registers. Its vectors come from one operand, its scalars
from the other, where they lie or from copies in the order of the tiles; vectors of copies are asked for a few steps ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import prod

from graphopt.ir.index import ZERO, Index, Var, delinear, index, linear
from graphopt.ir.types import f32, f64, i32
from graphopt.kernel.asked import Ask, Finish, lines_of
from graphopt.kernel.loops import Buffer, Const, Expr, Fetch, Fold, IndexValue, Load, Recorder, Stmt, Store, loop
from graphopt.kernel.panels import Panels, Stripes, Temporary
from graphopt.kernel.tile import (
    FIRST_LEVEL_BYTES,
    GROUP_BYTES,
    LINE_BYTES,
    Operand,
    Problem,
    Tiling,
    near_panels,
    row_operand,
    vector_operand,
)

_UNROLLED = 4  # steps of a sum that are one turn of its loop
_MOST_ASKED = 64  # lines at once
_LONG_STEP = 1024  # bytes
_LONG_SUM = 16
_AHEAD_PANEL = 8  # steps of a sum before its use that a vector of a panel is asked for: some 100 cycles
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
        temporary: Temporary,
        much: bool,
    ):
        self.p = p
        self.t = t
        self.finish = finish
        self.much = much
        self.lane = t.lane if t.form == "broadcast" else None
        self.outer = tuple(u for u in p.outs if u is not t.row and u is not t.col and u is not self.lane)
        self.pitch = t.vectors * p.width
        by_lane = t.form == "broadcast"
        row_inside = t.row is not None and p.c.coefficient(t.row) == 1 and p.c.coefficient(t.lane) != 1
        self.across = by_lane and row_inside and t.rows <= p.width
        self.streamed = self._in_place()
        vector = vector_operand(p, t.lane) if t.packed else None
        self.panels = Panels(p, t, vector, temporary) if vector is not None else None
        scalars = row_operand(p, t.lane, t.row) if t.rows_packed else None
        self.stripes = Stripes(p, t, scalars, temporary) if scalars is not None else None

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
        if near or step * size < _LONG_STEP or o.stride(self.lane) != 1 or p.sums[-1].size < _LONG_SUM:
            return None
        return o

    def body(self, kind: str = "par") -> list[Stmt]:
        """Loops over full tiles, then over the remainders of every tiled dimension."""
        t = self.t
        stmts: list[Stmt] = []
        for lanes in self._pieces(self.lane, t.vectors * self.p.width):
            if self.panels is not None and self.panels.own:
                near = self.panels.near if lanes[2] % self.panels.near == 0 else 1
                stmts += loop(kind, "t", lanes[2] // near, lambda n, lanes=lanes, near=near: self._own_group(n, near, lanes))
                continue
            for cols, rows in product(self._pieces(t.col, t.cols), self._pieces(t.row, t.rows)):
                stmts += self._tiles(rows, cols, lanes, kind)
        return stmts

    def _own_group(self, group: Index, near: int, lanes: Piece) -> list[Stmt]:
        """All tiles that read a group of panels that the thread copies itself.

        Where lanes are neighbours in memory, the first tile of each panel copies it, and multiplies while lines are on their way.
        """
        t, panels = self.t, self.panels
        assert panels is not None and self.lane is not None and t.col is None
        lane = self.lane
        first, *others = self._pieces(t.row, t.rows)
        outer = tuple(u.size for u in self.outer)

        def tile(n: Index, rows: Piece, j: Index, copying: bool = False) -> list[Stmt]:
            *where, i = delinear(n, (*outer, rows[2]))
            start = {**dict(zip(self.outer, where, strict=True)), lane: (group * near + j) * lanes[0] + lanes[1]}
            if t.row is not None:
                start[t.row] = i * rows[0] + rows[1]
            share = (j, near) if rows is first else None
            return self._tile(start, rows[0], 1, lanes[0], j, i + rows[1] // t.rows, share, copying)

        def tiles(rows: Piece, done: int) -> list[Stmt]:
            many = prod(outer) * rows[2] - done
            return loop("serial", "i", many, lambda i: loop("serial", "j", near, lambda j: tile(i + done, rows, j)))

        if panels.operand.stride(lane) == 1:
            stmts = loop("serial", "j", near, lambda j: tile(ZERO, first, j, copying=True)) + tiles(first, 1)
        else:
            at = group * near + lanes[1] // self.pitch
            stmts = loop("serial", "j", near, lambda j: panels.copied_alone(at + j, j)) + tiles(first, 0)
        return stmts + [s for rows in others for s in tiles(rows, 0)]

    @staticmethod
    def _pieces(var: Var | None, tile: int) -> list[Piece]:
        if var is None:
            return [(1, 0, 1)]
        full, rest = divmod(var.size, tile)
        return [(tile, 0, full)] * (full > 0) + [(rest, full * tile, 1)] * (rest > 0)

    def _tiles(self, rows: Piece, cols: Piece, lanes: Piece, kind: str) -> list[Stmt]:
        """All tiles of one size.

        Dimensions turn in the order of the result's memory, so that threads, which divide the slowest one, write and
        re-read regions of their own, the same ones from kernel to kernel. Slowest turn dimensions along which both
        operands move: what they divide shares nothing. Next turn groups of panels of the operand along the lanes, where
        the second-level cache cannot hold it whole, or where threads should divide it.
        """
        t, p = self.t, self.p
        pieces = [(v, piece) for v, piece in ((t.row, rows), (t.col, cols), (self.lane, lanes)) if v is not None]
        turns = [(u, u.size, 1, False) for u in self.outer]
        turns += [(v, piece[2], 1, False) for v, piece in pieces]
        near = near_panels(p, t, lanes[2]) if self.lane is not None else lanes[2]
        if self.lane is not None and near < lanes[2]:
            turns[-1] = (self.lane, near, 1, False)
            turns.append((self.lane, lanes[2] // near, near, True))

        def speed(turn: tuple[Var, int, int, bool]) -> tuple[bool, bool, int]:
            apart = p.a.stride(turn[0]) != 0 and p.b.stride(turn[0]) != 0
            return not apart, not turn[3], -p.c.coefficient(turn[0])

        turns.sort(key=speed)
        sizes = tuple(count for _, count, _, _ in turns)

        def one(n: Index) -> list[Stmt]:
            turned = {v: ZERO for v, _, _, _ in turns}
            for (v, _, step, _), k in zip(turns, delinear(n, sizes), strict=True):
                turned[v] = turned[v] + k * step
            start = {**turned, **{v: turned[v] * piece[0] + piece[1] for v, piece in pieces}}
            panel = turned[self.lane] + lanes[1] // self.pitch if self.lane is not None else ZERO
            stripe = turned[t.row] + rows[1] // t.rows if t.row is not None else ZERO
            share = (delinear(n, sizes)[-1], sizes[-1]) if turns and turns[-1][0] is self.lane else None
            return self._tile(start, rows[0], cols[0], lanes[0], panel, stripe, share)

        return loop(kind, "t", prod(sizes), one)

    def _coming(self, start: dict[Var, Index], panel: Index, vectors: int, copying: bool) -> Ask | None:
        """What asks for the vectors that are multiplied a few steps later: where tiles read more than is near, or copy it."""
        p, t, panels = self.p, self.t, self.panels
        source = panels.operand if panels is not None and copying else self.streamed
        if source is not None:
            lanes = [start[t.lane] + k * p.width for k in range(vectors)]
            further = _AHEAD_PANEL * source.stride(p.sums[-1])

            def in_place(summed: dict[Var, Index]) -> list[Stmt]:
                where = {**start, **summed}
                return [Fetch(source.buffer, source.offset.substitute({**where, t.lane: x}), ahead=further) for x in lanes]

            return in_place
        if panels is None or panels.buffer.size * panels.buffer.dtype.itemsize <= FIRST_LEVEL_BYTES:
            return None

        def from_copy(summed: dict[Var, Index]) -> list[Stmt]:
            first = panels.element({**start, **summed}, panel, ZERO).index
            return [Fetch(panels.buffer, first + k * p.width, ahead=_AHEAD_PANEL * self.pitch) for k in range(vectors)]

        return from_copy

    def _next_rows(self, start: dict[Var, Index], stripe: Index, place: Index, tiles: int) -> Ask | None:
        """What asks for the next tile's rows, where there are so many that they come from afar: each of the tiles that read the
        present ones asks for its part of them, a line or so at a time; more tiles than there are parts look further ahead.
        """
        p, t, along = self.p, self.t, self.t.row
        sums = tuple(v.size for v in p.sums)
        if along is None or self.panels is None or not sums or sums[-1] % _UNROLLED:
            return None
        other = p.b if self.panels.operand is p.a else p.a
        rows = self.stripes.buffer if self.stripes is not None else other.buffer
        line = LINE_BYTES // rows.dtype.itemsize
        if rows.size * rows.dtype.itemsize <= GROUP_BYTES:
            return None
        if self.stripes is not None:
            few = _UNROLLED * t.rows // tiles
            size = prod(sums) * t.rows
            first = self.stripes.element({**start, **dict.fromkeys(p.sums, ZERO)}, stripe, ZERO).index
            first += place * (prod(sums) // _UNROLLED * few)

            def of_copy(summed: dict[Var, Index]) -> list[Stmt]:
                at = first + linear(tuple(summed[v] for v in p.sums), sums) // _UNROLLED * few
                return [Fetch(rows, at, ahead=size + k, level=2) for k in range(0, few, line)]

            return of_copy if few else None
        turns = line // _UNROLLED  # that read one line of a row
        each = -(-t.rows // (turns * tiles))
        if other.stride(p.sums[-1]) != 1 or not other.stride(along) or sums[-1] % line:
            return None

        def in_place(summed: dict[Var, Index]) -> list[Stmt]:
            turn = summed[p.sums[-1]] // _UNROLLED
            row = (turn % turns * tiles + place) * each
            where = {**start, **summed, p.sums[-1]: turn // turns * line}
            at = [{**where, along: start[along] + row + k} for k in range(each)]
            return [Fetch(rows, other.offset.substitute(x), ahead=t.rows * other.stride(along), level=2) for x in at]

        return in_place

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
        copying: bool = False,
    ) -> list[Stmt]:
        """One tile: clear the accumulators, sum, finish.

        panel, stripe: its place in the copies. share: which it is, and of how many tiles that follow each other with these rows.
        copying: its vectors are read where they are, and copied to the panel.
        """
        p, t, panels, stripes = self.p, self.t, self.panels, self.stripes
        vectors_of = panels.operand if panels is not None and not copying else None
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
                        if panels is not None and o is vectors_of:
                            copies[n] = panels.element(bound, panel, k * width + x)
                        elif stripes is not None and o is stripes.operand:
                            copies[n] = stripes.element(bound, stripe, r, own)
                    mask = self._mask(x, actives[k] if count is None else count)
                    return [self._product(bound, at(r, c, k) + x, acc, mask, copies, own)]

                return loop("lanes", "l", width, lane)

            copied = panels.copied_beside({**start, **summed}, panel, actives) if panels is not None and copying else []
            return copied + each(own, 0, apart) + each(body, apart, rows - apart)

        stmts = each(lambda r, c, k: loop("lanes", "l", width, lambda x: [Store(acc, at(r, c, k) + x, zero)]))
        if by_lane:
            stmts = self._asked(start, rows, cols, lanes) + stmts
            coming = self._coming(start, panel, len(actives), copying)
            later = self._next_rows(start, stripe, *share) if share is not None and rows == t.rows else None
            stmts += self._sums(lambda summed: vector(start[t.lane], summed, None), p.sums, _UNROLLED, coming, later)
            return stmts + self._finished(acc, each, at, place, rows, cols, lanes)
        stmts += self._sums(lambda summed: self._dot(summed, vector), [v for v in p.sums if v is not t.lane], 1)
        return stmts + each(lambda r, c, k: self.finish(Fold("add", acc, at(r, c, k), width), place(r, c), ZERO))

    def _finished(
        self,
        acc: Buffer,
        each: Callable[[Callable[[Index, Index, int], list[Stmt]]], list[Stmt]],
        at: Callable[[Index, Index, int], Index],
        place: Callable[[Index, Index], dict[Var, Index]],
        rows: int,
        cols: int,
        lanes: int,
    ) -> list[Stmt]:
        """Finish every vector of the tile; where much follows, from memory and in a loop, so that its code stands once.

        Where the result's neighbours lie along the rows, the tile is read back across: whole lines are written then.
        """
        across, width, lane = self.across and rows > 1, self.p.width, self.t.lane
        vectors = -(-lanes // width)

        def moved(r: Index, c: Index, further: Index) -> dict[Var, Index]:
            bound = place(r, c)
            return {**bound, lane: bound[lane] + further}

        def done(tile: Buffer, r: Index, c: Index, k: int) -> list[Stmt]:
            def one(x: Index) -> list[Stmt]:
                return self.finish(Load(tile, at(r, c, k) + x), moved(r, c, x + k * width), x)

            return loop("lanes", "l", min(width, lanes - k * width), one)

        def line(tile: Buffer, c: Index, e: Index, pitch: int) -> list[Stmt]:
            return loop("lanes", "l", rows, lambda x: self.finish(Load(tile, (x * cols + c) * pitch + e), moved(x, c, e), x))

        if not self.much and not across:
            return each(lambda r, c, k: done(acc, r, c, k))
        tile = Buffer("tile", acc.dtype, acc.size, local=True)
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

    def _dot(self, summed: dict[Var, Index], vector: Callable[[Index, dict[Var, Index], int | None], list[Stmt]]) -> list[Stmt]:
        """Whole vectors along the summed lanes, then the rest."""
        t, width = self.t, self.p.width
        if t.lane not in self.p.sums:
            return vector(ZERO, summed, None)
        blocks, rest = divmod(t.lane.size, width)
        stmts = loop("serial", "j", blocks, lambda j: vector(j * width, summed, None))
        return stmts + (vector(index(blocks * width), summed, rest) if rest else [])


__all__ = ["Tiler"]
