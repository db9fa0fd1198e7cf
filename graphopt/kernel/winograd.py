"""Convolutions with windows of 3 x 3 by minimal filtering: 16 products where the definition takes 36.

A tile is 2 x 2 pixels of the output of a convolution, which depend on 4 x 4 pixels of the image. Sums and differences of those
16, of the window's 9 elements, and of the 16 products of the two, give the 4 outputs. Over many tiles and channels the products
are 16 independent matrix products, done by the contraction engine. The same transforms give the derivative by the window:
there the 2 x 2 pixels are the other factor, and 3 x 3 sums come out.

Each thread transforms a block of tiles into memory of its own, multiplies, and transforms back. Differences of infinities are
not what the definition gives: a block with a result that is not finite is computed again by the definition.

Source: S. Winograd, Arithmetic Complexity of Computations, 1980; A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural
Networks, 2015, F(2 x 2, 3 x 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from graphopt.ir.graph import Node
from graphopt.ir.index import ZERO, Index, Var, delinear, index
from graphopt.ir.types import DType, f32, f64
from graphopt.kernel.asked import Finish, lines_of
from graphopt.kernel.loops import Buffer, Const, Expr, Fetch, Fold, If, Load, Recorder, Stmt, Store, loop
from graphopt.kernel.machine import Machine
from graphopt.kernel.tile import Operand, Problem, Tiling, divisor
from graphopt.kernel.tiles import Tiler

Matrix = tuple[tuple[float, ...], ...]
Temporary = Callable[[str, DType, int], Buffer]
Factors = Callable[[Index, Index], tuple[Expr, Expr]]

IMAGE: Matrix = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
WINDOW: Matrix = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
PIXELS: Matrix = ((1, 1, 1, 0), (0, 1, -1, -1))
"""PIXELS (IMAGE d * WINDOW g) are 2 neighbours of the correlation of 4 pixels d with a window g of 3."""

FACTOR: Matrix = ((1, 0), (0.5, 0.5), (0.5, -0.5), (0, 1))
TAPS: Matrix = ((1, 1, 1, 0), (0, 1, -1, 0), (0, 1, 1, -1))
"""TAPS (IMAGE d * FACTOR g) are the 3 elements of the correlation of 4 pixels d with 2 pixels g."""

_PRODUCTS = 16
_TAPS = 9
_TILES = 32  # of a block, about: what is read of the transformed window serves so many
_MORE_TILES = 64  # the same where the second-level cache does not hold that window
_MANY_ELEMS = 1 << 13  # input times output channels of such windows
_BLOCK_ELEMS = 1 << 18  # of a block's transformed pixels, at most: they should stay in the second-level cache
_WINDOW_ELEMS = 1 << 16  # input times output channels, at most: otherwise the memory's speed is the limit
_SUM_ELEMS = 1 << 14  # of them in a derivative by the window that a thread adds up at a time, in its cache
_LEAST_TILES = 256  # fewer are not worth the transformation of the window
_SLICES = 8  # of a sum over tiles, about: each is transformed back
_LEAST_SLICES = 4  # times panels: fewer leave threads idle
_MOST_VECTORS = 4  # of a tile of registers
_ABREAST = 8  # accumulators of the definition
_LINE = 16  # elements by which planes are shifted against each other, so that they do not share sets of the cache


@dataclass(frozen=True, slots=True)
class Filtering:
    """A convolution that minimal filtering can do.

    p: its problem, all dimensions apart: outs (batch, outputs, row, column), sums (inputs, row, column of the window).
    taps: the 3 x 3 are its outputs (a derivative by the window: "batch" counts input channels, "inputs" the images).
    rows: rows of tiles of all images together, each of `cols` tiles; `high` of them are an image.
    block: rows of tiles that are done together. inputs, outputs: channels.
    """

    p: Problem
    taps: bool
    rows: int
    high: int
    cols: int
    block: int
    inputs: int
    outputs: int

    @property
    def tiles(self) -> int:
        """Tiles of a block."""
        return self.block * self.cols

    @property
    def panel(self) -> int:
        """Output channels whose sums over tiles a thread keeps at a time."""
        width = self.p.width
        return width * divisor(self.outputs // width, max(1, _SUM_ELEMS // self.inputs // width))

    @property
    def slices(self) -> int:
        """Into how many parts a sum over all tiles is cut."""
        return divisor(self.rows // self.block, max(2, _SLICES * self.panel // self.outputs))


def filtering(node: Node, p: Problem) -> Filtering | None:
    """How minimal filtering does a contraction with problem `p`; None where it cannot, or is not worth its transforms.

    Images lie with their channels last, which are whole vectors; the pixels are whole tiles, and a row of them is a block
    at most.
    """
    if node.op != "conv_general" or len(node.shape) != 4 or node.attrs["groups"] != 1 or p.dtype not in (f32, f64):
        return None
    if any(d != 1 for d in (*node.attrs["strides"], *node.attrs["rhs_dilation"])) or node.dtype is not p.dtype:
        return None
    n, o, i, j = p.outs
    c, u, v = p.sums
    taps = (i.size, j.size) == (3, 3)
    if not taps and (u.size, v.size) != (3, 3):
        return None
    images, inputs, high, cols = (c, n, u, v) if taps else (n, c, i, j)
    apart = p.a.stride(inputs) == 1 and (not taps or p.b.stride(o) == 1)
    plain = all(operand.buffer.dtype is p.dtype for operand in (p.a, p.b))
    if not apart or not plain or high.size % 2 or cols.size % 2 or inputs.size % p.width or o.size % p.width:
        return None
    rows = images.size * high.size // 2
    many = inputs.size * p.width > _SUM_ELEMS if taps else inputs.size * o.size > _WINDOW_ELEMS
    if many or rows * cols.size // 2 < _LEAST_TILES:
        return None
    tiles = _TILES if inputs.size * o.size <= _MANY_ELEMS else _MORE_TILES
    most = _BLOCK_ELEMS // (_PRODUCTS * max(inputs.size, o.size))
    if cols.size // 2 > most:
        return None
    block = _rows_of_block(rows, max(1, min(tiles, most) // (cols.size // 2)))
    found = Filtering(p, taps, rows, high.size // 2, cols.size // 2, block, inputs.size, o.size)
    return found if not taps or found.slices * found.outputs // found.panel >= _LEAST_SLICES else None


def _rows_of_block(rows: int, most: int) -> int:
    """As many as there may be; somewhat fewer where a number of blocks follows that teams and slices divide."""
    block = divisor(rows, most)
    even = [d for d in range(1, block + 1) if rows % (d * _SLICES) == 0]
    return even[-1] if even and 2 * even[-1] > block else block


class Winograd:
    """Writes the kernels of a filtering."""

    s = Recorder()

    def __init__(self, f: Filtering, machine: Machine, temporary: Temporary):
        self.f = f
        self.p = f.p
        self.width = f.p.width
        self.machine = machine
        self.temporary = temporary
        self.seen = Buffer("seen", f.p.dtype, self.width, local=True)
        n, o, i, j = f.p.outs
        c, u, v = f.p.sums
        self.image, self.channel = (c, n) if f.taps else (n, c)
        self.output = o
        self.pixel, self.tap = ((u, v), (i, j)) if f.taps else ((i, j), (u, v))
        self.pixels = self._plane("pixels", f.tiles * f.inputs)

    def _pitch(self, channels: int) -> int:
        """Elements from one plane of a block's tiles to the next."""
        return self.f.tiles * channels + _LINE

    @property
    def _window_pitch(self) -> int:
        """Elements from one plane of transformed windows to the next."""
        return self.f.inputs * self.f.outputs + _LINE

    @property
    def _sum_pitch(self) -> int:
        """The same of sums over tiles."""
        return self.f.inputs * self.f.panel + _LINE

    def _plane(self, name: str, size: int) -> Buffer:
        """16 planes of products, or of what they are made of."""
        return Buffer(name, self.p.dtype, _PRODUCTS * (size + _LINE), local=True)

    # transforms

    def _transform(self, matrix: Matrix, values: Callable[[int, int], Expr]) -> list[list[Expr]]:
        """matrix @ values @ matrix.T"""
        size = len(matrix[0])
        table = [[values(k, m) for m in range(size)] for k in range(size)]
        half = [[self._combined(row, [table[k][m] for k in range(size)]) for m in range(size)] for row in matrix]
        return [[self._combined(row, line) for row in matrix] for line in half]

    def _combined(self, factors: Sequence[float], values: Sequence[Expr]) -> Expr:
        """Sum of values times factors, of which one at least is positive, and all that are not 0 are of one size."""
        plus = [v for v, c in zip(values, factors, strict=True) if c > 0]
        minus = [v for v, c in zip(values, factors, strict=True) if c < 0]
        total = plus[0]
        for v in plus[1:]:
            total = self.s.add(total, v)
        for v in minus:
            total = self.s.sub(total, v)
        size = max(map(abs, factors))
        return total if size == 1 else self.s.mul(total, Const(size, self.p.dtype))

    def _bound(self, place: _Place) -> dict[Var, Index]:
        """A place in terms of the problem's dimensions."""
        image, high = delinear(place.start + place.row, (self.f.rows // self.f.high, self.f.high))
        return {self.image: image, self.pixel[0]: high * 2 + place.half, self.pixel[1]: place.col, self.output: place.channel}

    def _each(self, count: int, body: Callable[[Index, Index], list[Stmt]]) -> list[Stmt]:
        """Channels by vectors: the channel, and its lane."""

        def vector(v: Index) -> list[Stmt]:
            return loop("lanes", "l", self.width, lambda x: body(v * self.width + x, x))

        return loop("serial", "v", count // self.width, vector)

    def _tiles(self, body: Callable[[Index, Index], list[Stmt]]) -> list[Stmt]:
        """Tiles of a block: row and column."""
        return loop("serial", "r", self.f.block, lambda r: loop("serial", "x", self.f.cols, lambda x: body(r, x)))

    def _clear(self, buffer: Buffer) -> list[Stmt]:
        zero = Const(0, buffer.dtype)

        def vector(v: Index) -> list[Stmt]:
            return loop("lanes", "l", self.width, lambda x: [Store(buffer, v * self.width + x, zero)])

        return loop("serial", "z", buffer.size // self.width, vector)

    def _transformed(
        self, start: Index, target: Buffer, size: int, values: Callable[[dict[Var, Index], Index], list[list[Expr]]]
    ) -> list[Stmt]:
        """Transformed tiles of a block that starts at row `start` of tiles: planes of products, tiles, channels."""

        def tile(r: Index, x: Index) -> list[Stmt]:
            place = self._bound(_Place(start, r, ZERO, x * 2, ZERO))

            def vector(c: Index, _: Index) -> list[Stmt]:
                at = (r * self.f.cols + x) * size + c
                return [Store(target, at + k * self._pitch(size), e) for k, e in enumerate(_flat(values(place, c)))]

            return self._each(size, vector)

        return self._tiles(tile)

    def _pixels(self, start: Index) -> list[Stmt]:
        """A block's tiles of the image, transformed."""
        o = self.p.a

        def values(place: dict[Var, Index], c: Index) -> list[list[Expr]]:
            def pixel(k: int, m: int) -> Expr:
                where = {**place, self.channel: c, self.tap[0]: index(k), self.tap[1]: index(m)}
                return Load(o.buffer, o.offset.substitute(where))

            return self._transform(IMAGE, pixel)

        return self._transformed(start, self.pixels, self.f.inputs, values)

    # results that are not finite

    def _watch(self, x: Index, values: Sequence[Expr]) -> Stmt:
        """Add to what is infinite or not a number as soon as one value is."""
        total = values[0]
        for v in values[1:]:
            total = self.s.add(total, v)
        return Store(self.seen, x, self.s.add(Load(self.seen, x), total))

    def _unless_finite(self, body: Sequence[Stmt]) -> Stmt:
        total = Fold("add", self.seen, ZERO, self.width)
        return If(self.s.ne(self.s.sub(total, total), Const(0, self.p.dtype)), tuple(body))

    def _added(
        self,
        many: int,
        steps: Callable[[Callable[[Factors], list[Stmt]]], list[Stmt]],
        keep: Callable[[Index, Index, Expr], list[Stmt]],
    ) -> list[Stmt]:
        """Sums of products by the definition, `many` vectors of them at once.

        steps: writes the loops over the sum, given what writes a step for its factors. keep: stores vector e's lane x.
        """
        acc = Buffer("acc", self.p.dtype, many * self.width, local=True)

        def each(body: Callable[[Index, Index, Index], list[Stmt]]) -> list[Stmt]:
            def vector(e: Index) -> list[Stmt]:
                return loop("lanes", "l", self.width, lambda x: body(e, x, e * self.width + x))

            return loop("unroll", "e", many, vector)

        def step(factors: Factors) -> list[Stmt]:
            return each(lambda e, x, at: [Store(acc, at, self.s.fma(*factors(e, x), Load(acc, at)))])

        cleared = each(lambda e, x, at: [Store(acc, at, Const(0, self.p.dtype))])
        return cleared + steps(step) + each(lambda e, x, at: keep(e, x, Load(acc, at)))

    # memory

    def _asked(self, start: Index, q: Index, lines: Callable[[_Place], list[Stmt]]) -> list[Stmt]:
        """Ask for the lines that belong to the pixels of some tiles, a share for each of the products: they come meanwhile."""
        few = -(-self.f.tiles // _PRODUCTS)

        def tile(e: Index) -> list[Stmt]:
            r, x = delinear(q * few + e, (_PRODUCTS * few, self.f.cols))
            first = _Place(start, r, ZERO, x * 2, ZERO)
            four = [replace(first, half=index(k)).beside(index(m), ZERO) for k, m in product(range(2), range(2))]
            return [s for place in four for s in lines(place)]

        return loop("serial", "e", few, tile)

    def _next(self, o: Operand, place: _Place, channel: Var, first: Index, count: int) -> list[Stmt]:
        """Ask for what the next block reads first of an operand, for a pixel: some channels, by vectors."""
        bound = {**self._bound(place), **dict.fromkeys(self.tap, index(2))}

        def vector(v: Index) -> list[Stmt]:
            where = {**bound, channel: first + v * self.width}
            return [Fetch(o.buffer, o.offset.substitute(where), ahead=self._further(o))]

        return loop("unroll", "v", count, vector)

    def _further(self, o: Operand) -> int:
        """Elements from a block's pixels to the next one's, where both are parts of one image or whole ones."""
        f = self.f
        images, rest = divmod(f.block, f.high)
        return images * o.stride(self.image) if not rest else f.block * 2 * o.stride(self.pixel[0])

    # matrix products

    def _tiling(self, row: Var, lane: Var, vectors: int) -> Tiling:
        most = max(r for r in range(1, 17) if r * vectors + vectors + 2 <= self.machine.vector_registers)
        even = divisor(row.size, most)
        rows = even if 2 * even >= most else -(-row.size // -(-row.size // most))
        return Tiling("broadcast", lane, row, None, rows, 1, vectors, 0.0)

    def _vectors(self) -> int:
        """Vectors of output channels that a tile of registers takes: the more, the fewer elements does it read."""
        most = _MOST_VECTORS if self.machine.vector_registers > 16 else 2
        return divisor((self.f.panel if self.f.taps else self.f.outputs) // self.width, most)

    def _multiplied(self, q: Problem, row: Var, lane: Var, finish: Finish) -> list[Stmt]:
        tiling = self._tiling(row, lane, self._vectors())
        return Tiler(q, tiling, finish, self.temporary, much=False).body("serial")

    # convolutions

    def windows(self) -> tuple[list[Stmt], Buffer]:
        """What makes the windows' transforms, and behind them the windows as they are: planes of inputs, outputs."""
        f, o = self.f, self.p.b
        target = self.temporary("windows", self.p.dtype, (_PRODUCTS + _TAPS) * self._window_pitch)

        def vector(c: Index, out: Index) -> list[Stmt]:
            where = {self.channel: c, self.output: out}

            def element(k: int, m: int) -> Expr:
                return Load(o.buffer, o.offset.substitute({**where, self.tap[0]: index(k), self.tap[1]: index(m)}))

            window = [[element(k, m) for m in range(3)] for k in range(3)]
            found = [*_flat(self._transform(WINDOW, lambda k, m: window[k][m])), *_flat(window)]
            return [Store(target, c * f.outputs + out + k * self._window_pitch, e) for k, e in enumerate(found)]

        return loop("par", "c", f.inputs, lambda c: self._each(f.outputs, lambda out, _: vector(c, out))), target

    def convolution(self, windows: Buffer, finish: Finish, much: bool) -> list[Stmt]:
        """The nest of a convolution. `finish` stores a value at a point of the result.

        much: it does more than that, and should see each value once, after it is known to be finite.
        """
        f, dtype = self.f, self.p.dtype
        pitch = self._vectors() * self.width
        products = self._plane("products", f.tiles * pitch)
        image = Buffer("image", dtype, 4 * f.tiles * f.outputs, local=True)

        def keep(place: _Place, lane: Index, value: Expr) -> list[Stmt]:
            if much:
                return [Store(image, place.number(f) * f.outputs + place.channel, value)]
            return finish(value, self._bound(place), lane)

        ask = lines_of(self.p, finish, self.output, self.pixel[1])

        def block(t: Index) -> list[Stmt]:
            start = t * f.block
            body = self._pixels(start) + self._clear(self.seen)
            body += loop("serial", "o", f.outputs // pitch, lambda o: panel(start, o))
            body.append(self._unless_finite(self._defined(start, windows, keep)))
            return body + (self._points(start, stored) if much else [])

        def panel(start: Index, o: Index) -> list[Stmt]:
            multiplied = loop("serial", "q", _PRODUCTS, lambda q: self._asked(start, q, lambda at: lines(o, at)) + multiply(q, o))
            return multiplied + self._tiles(lambda r, x: back(start, o, r, x))

        def lines(o: Index, place: _Place) -> list[Stmt]:
            bound = self._bound(place)
            ends = loop("unroll", "v", pitch // self.width, lambda v: ask({**bound, self.output: o * pitch + v * self.width}))
            share = -(-f.inputs // self.width // (f.outputs // pitch))
            return ends + self._next(self.p.a, place, self.channel, o * (share * self.width), share)

        def multiply(q: Index, o: Index) -> list[Stmt]:
            m, k, s = Var("m", f.tiles), Var("k", pitch), Var("s", f.inputs)
            a = Operand(self.pixels, q * self._pitch(f.inputs) + index(m) * f.inputs + index(s))
            b = Operand(windows, q * self._window_pitch + index(s) * f.outputs + o * pitch + index(k))
            c = q * self._pitch(pitch) + index(m) * pitch + index(k)
            problem = Problem((m, k), (s,), a, b, (c,), c, dtype, self.width)
            return self._multiplied(problem, m, k, lambda value, bound, _: [Store(products, c.substitute(bound), value)])

        def back(start: Index, o: Index, r: Index, x: Index) -> list[Stmt]:
            def vector(channel: Index, lane: Index) -> list[Stmt]:
                first = (r * f.cols + x) * pitch + channel
                found = self._transform(PIXELS, lambda k, m: Load(products, first + (4 * k + m) * self._pitch(pitch)))
                stmts: list[Stmt] = [self._watch(lane, _flat(found))]
                for k, m in product(range(2), range(2)):
                    stmts += keep(_Place(start, r, index(k), x * 2 + m, o * pitch + channel), lane, found[k][m])
                return stmts

            return self._each(pitch, vector)

        def stored(place: _Place, lane: Index) -> list[Stmt]:
            return finish(Load(image, place.number(f) * f.outputs + place.channel), self._bound(place), lane)

        return loop("par", "t", f.rows // f.block, block)

    def _points(self, start: Index, body: Callable[[_Place, Index], list[Stmt]]) -> list[Stmt]:
        """All pixels of a block, and their channels by vectors."""
        f = self.f

        def pixel(r: Index, k: Index, x: Index) -> list[Stmt]:
            return self._each(f.outputs, lambda c, lane: body(_Place(start, r, k, x, c), lane))

        return self._rows(lambda r, k: loop("serial", "x", 2 * f.cols, lambda x: pixel(r, k, x)))

    def _rows(self, body: Callable[[Index, Index], list[Stmt]]) -> list[Stmt]:
        """Rows of a block's tiles, and the two rows of pixels in each."""
        return loop("serial", "r", self.f.block, lambda r: loop("serial", "k", 2, lambda k: body(r, k)))

    def _defined(self, start: Index, windows: Buffer, keep: Callable[[_Place, Index, Expr], list[Stmt]]) -> list[Stmt]:
        """A block by the definition: several neighbours of a row at once."""
        f, o = self.f, self.p.a
        many = divisor(2 * f.cols, _ABREAST)

        def run(first: _Place, v: Index) -> list[Stmt]:
            def factors(u: Index, w: Index, c: Index, e: Index, x: Index) -> tuple[Expr, Expr]:
                where = {**self._bound(first.beside(e, v * self.width)), self.channel: c, self.tap[0]: u, self.tap[1]: w}
                at = (u * 3 + w + _PRODUCTS) * self._window_pitch + c * f.outputs + v * self.width + x
                return Load(o.buffer, o.offset.substitute(where)), Load(windows, at)

            def steps(step: Callable[[Factors], list[Stmt]]) -> list[Stmt]:
                def tap(u: Index, w: Index) -> list[Stmt]:
                    return loop("serial", "c", f.inputs, lambda c: step(lambda e, x: factors(u, w, c, e, x)))

                return loop("serial", "u", 3, lambda u: loop("serial", "w", 3, lambda w: tap(u, w)))

            return self._added(many, steps, lambda e, x, value: keep(first.beside(e, v * self.width + x), x, value))

        def runs(r: Index, k: Index, x: Index) -> list[Stmt]:
            return loop("serial", "v", f.outputs // self.width, lambda v: run(_Place(start, r, k, x * many, ZERO), v))

        return self._rows(lambda r, k: loop("serial", "x", 2 * f.cols // many, lambda x: runs(r, k, x)))

    # derivatives by the window

    def derivative(self, target: Buffer) -> list[Stmt]:
        """The nest of a derivative by the window: results of `Filtering.slices` slices of the tiles, one behind the other."""
        f, p = self.f, self.p
        sums = self._plane("sums", f.inputs * f.panel)
        factors = self._plane("factors", f.tiles * f.panel)
        blocks = f.rows // f.block // f.slices
        size = prod(v.size for v in p.outs)

        def one(s: Index, first: Index) -> list[Stmt]:
            def block(b: Index) -> list[Stmt]:
                start = (s * blocks + b) * f.block
                summed = loop("serial", "q", _PRODUCTS, lambda q: self._asked(start, q, lines) + self._summed(q, factors, sums))
                return self._pixels(start) + self._factors(start, first, factors) + summed

            def lines(place: _Place) -> list[Stmt]:
                images = self._next(p.a, place, self.channel, ZERO, f.inputs // self.width)
                return images + self._next(p.b, place, self.output, first, f.panel // self.width)

            def keep(c: Index, out: Index, u: Index, w: Index, value: Expr) -> list[Stmt]:
                place = {self.channel: c, self.output: first + out, self.tap[0]: u, self.tap[1]: w}
                return [Store(target, p.c.substitute(place) + s * size, value)]

            def back(c: Index, out: Index, lane: Index) -> list[Stmt]:
                at = c * f.panel + out
                found = self._transform(TAPS, lambda k, m: Load(sums, at + (4 * k + m) * self._sum_pitch))
                stmts: list[Stmt] = [self._watch(lane, _flat(found))]
                for u, w in product(range(3), range(3)):
                    stmts += keep(c, out, index(u), index(w), found[u][w])
                return stmts

            body = self._clear(sums) + self._clear(self.seen) + loop("serial", "b", blocks, block)
            body += loop("serial", "c", f.inputs, lambda c: self._each(f.panel, lambda out, x: back(c, out, x)))
            body.append(self._unless_finite(self._defined_sums(s * (blocks * f.block), blocks * f.block, first, keep)))
            return body

        def part(t: Index) -> list[Stmt]:
            s, o = delinear(t, (f.slices, f.outputs // f.panel))
            return one(s, o * f.panel)

        return loop("par", "s", f.slices * (f.outputs // f.panel), part)

    def _factors(self, start: Index, first: Index, target: Buffer) -> list[Stmt]:
        """A block's tiles of the other factor, transformed: a panel's channels."""
        o = self.p.b

        def values(place: dict[Var, Index], c: Index) -> list[list[Expr]]:
            def pixel(k: int, m: int) -> Expr:
                high, col = (place[v] + i for v, i in zip(self.pixel, (k, m), strict=True))
                where = {**place, self.output: first + c, self.pixel[0]: high, self.pixel[1]: col}
                return Load(o.buffer, o.offset.substitute(where))

            return self._transform(FACTOR, pixel)

        return self._transformed(start, target, self.f.panel, values)

    def _summed(self, q: Index, factors: Buffer, sums: Buffer) -> list[Stmt]:
        """Add one of a block's products."""
        f = self.f
        m, k, s = Var("m", f.inputs), Var("k", f.panel), Var("s", f.tiles)
        a = Operand(self.pixels, q * self._pitch(f.inputs) + index(s) * f.inputs + index(m))
        b = Operand(factors, q * self._pitch(f.panel) + index(s) * f.panel + index(k))
        c = q * self._sum_pitch + index(m) * f.panel + index(k)
        problem = Problem((m, k), (s,), a, b, (c,), c, self.p.dtype, self.width)

        def add(value: Expr, bound: dict[Var, Index], _: Index) -> list[Stmt]:
            at = c.substitute(bound)
            return [Store(sums, at, self.s.add(Load(sums, at), value))]

        return self._multiplied(problem, m, k, add)

    def _defined_sums(
        self, start: Index, rows: int, first: Index, keep: Callable[[Index, Index, Index, Index, Expr], list[Stmt]]
    ) -> list[Stmt]:
        """A slice by the definition: several input channels at once."""
        f, p = self.f, self.p
        many = divisor(f.inputs, _ABREAST)

        def run(u: Index, w: Index, c: Index, v: Index) -> list[Stmt]:
            def factors(place: _Place, e: Index, x: Index) -> tuple[Expr, Expr]:
                taps = {self.tap[0]: u, self.tap[1]: w}
                where = {**self._bound(place), **taps, self.channel: c * many + e, self.output: first + v * self.width + x}
                a, b = (Load(o.buffer, o.offset.substitute(where)) for o in (p.a, p.b))
                return a, b

            def steps(step: Callable[[Factors], list[Stmt]]) -> list[Stmt]:
                def pixel(r: Index, k: Index, col: Index) -> list[Stmt]:
                    return step(lambda e, x: factors(_Place(start, r, k, col, ZERO), e, x))

                def pixels(r: Index, k: Index) -> list[Stmt]:
                    return loop("serial", "x", 2 * f.cols, lambda col: pixel(r, k, col))

                return loop("serial", "r", rows, lambda r: loop("serial", "k", 2, lambda k: pixels(r, k)))

            return self._added(many, steps, lambda e, x, value: keep(c * many + e, v * self.width + x, u, w, value))

        def taps(u: Index, w: Index) -> list[Stmt]:
            def channels(c: Index) -> list[Stmt]:
                return loop("serial", "v", f.panel // self.width, lambda v: run(u, w, c, v))

            return loop("serial", "c", f.inputs // many, channels)

        return loop("serial", "u", 3, lambda u: loop("serial", "w", 3, lambda w: taps(u, w)))


@dataclass(frozen=True, slots=True)
class _Place:
    """A pixel of a block that starts at a row of tiles: row of tiles in it, row of the two, column; and a channel."""

    start: Index
    row: Index
    half: Index
    col: Index
    channel: Index

    def number(self, f: Filtering) -> Index:
        """Which pixel of the block."""
        return (self.row * 2 + self.half) * (2 * f.cols) + self.col

    def beside(self, cols: Index, channels: Index) -> _Place:
        return replace(self, col=self.col + cols, channel=self.channel + channels)


def _flat(table: Sequence[Sequence[Expr]]) -> list[Expr]:
    return [e for line in table for e in line]
