"""The contraction engine: sums of products with affine indices, as register-tiled loop nests.

Dense layers, attention scores and the three convolutions of training differ only in the strides of their operands. A
tile keeps `rows x vectors` accumulators in registers; each step of the sum loads the few elements the tile needs and
multiplies every pair. Two forms:

    broadcast  lanes run along an output dimension: vectors of one operand times scalars of the other
    dot        lanes run along a summed dimension: vectors of both, folded once at the end

`choose` prices every form and tile with a small model (multiply-adds, loads, folds, scattered stores) and takes the
cheapest. A sum that is long while the output is small is split into a fixed number of parts by a first kernel and put
together by a second, so the order of addition depends on shapes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from graphopt.ir.graph import Node
from graphopt.ir.index import ZERO, Index, Var, delinear, index, linear
from graphopt.ir.types import DType
from graphopt.kernel.loops import Buffer, Const, Expr, Fold, Kernel, Load, Recorder, Stmt, Store, loop, make_kernel
from graphopt.kernel.lower import Lowering, LoopsGroup, accumulator, lanes_of
from graphopt.kernel.machine import Machine
from graphopt.passes.fuse import Group, dims_of, follow, stored_base

_LATENCY = 4.0  # cycles until a multiply-add's result can be added to
_FOLD = 8.0  # cycles to fold one vector to a scalar
_GATHER = 0.7  # cycles per gathered lane
_SCATTER = 1.2  # cycles per scattered lane
_CONFLICT = 1.35  # slowdown when the rows of a panel are a multiple of this many bytes apart and share few cache sets
_CONFLICT_BYTES = 2048
_PANEL_BYTES = 1 << 19  # a packed panel stays on the stack and in the second-level cache
_TASKS = 4  # fewer tiles than this leave threads idle: split the sum
_LONG_SUM = 1024  # products per output element before splitting pays for the second pass
_PARTS = 16


@dataclass(frozen=True, slots=True)
class Operand:
    """Where an operand lies, and how far each loop dimension moves in it (in elements)."""

    buffer: Buffer
    offset: Index

    def stride(self, var: Var | None) -> int:
        return 0 if var is None else self.offset.coefficient(var)


@dataclass(frozen=True, slots=True)
class Problem:
    """A contraction over named dimensions; `c` is the element number in the result."""

    outs: tuple[Var, ...]
    sums: tuple[Var, ...]
    a: Operand
    b: Operand
    result: tuple[Index, ...]
    c: Index
    dtype: DType
    width: int


@dataclass(frozen=True, slots=True)
class Tiling:
    """lane: the dimension of the lanes; row: the one tiled beside it (None: none); rows x vectors accumulators.

    packed: the vector operand's panel is first copied into the order in which the tiles read it.
    """

    form: str
    lane: Var
    row: Var | None
    col: Var | None
    rows: int
    vectors: int
    cost: float
    packed: bool = False


def problem_of(group: Group, lowering: Lowering) -> Problem:
    """The group's contraction with its operands' movement folded into strides."""
    node = group.nodes[0]
    dims = dims_of(node)
    gone = {v: ZERO for v in (*dims.outs, *dims.sums) if v.size == 1}
    operands: list[Operand] = []
    for source, idx in zip(node.inputs, (dims.a, dims.b), strict=True):
        found = follow(source, idx)
        assert found is not None, "fuse.materialise stores operands that are not affine"
        base, where = found
        operands.append(Operand(lowering.buffer(stored_base(base)), linear(where, base.shape).substitute(gone)))
    c = tuple(i.substitute(gone) for i in dims.c)
    if group.result is not node:
        assert group.result is not None
        c = tuple(c[k] for k in group.result.attrs["perm"])
    outs = tuple(v for v in dims.outs if v.size != 1)
    sums = _merge_sums(tuple(v for v in dims.sums if v.size != 1), operands)
    wide = accumulator(node.dtype)
    width = lanes_of(lowering.machine, [wide, *(i.dtype for i in node.inputs)])
    return Problem(outs, sums, operands[0], operands[1], c, linear(c, group.full), wide, width)


def _merge_sums(sums: tuple[Var, ...], operands: list[Operand]) -> tuple[Var, ...]:
    """Neighbouring summed dimensions that move alike in both operands become one."""
    done: list[Var] = []
    for v in sums:
        if done:
            u = done[-1]
            if all(o.stride(u) == o.stride(v) * v.size for o in operands):
                both = Var(f"{u.name}{v.name}", u.size * v.size)
                for k, o in enumerate(operands):
                    operands[k] = Operand(o.buffer, o.offset.substitute({u: ZERO, v: ZERO}) + index(both) * o.stride(v))
                done[-1] = both
                continue
        done.append(v)
    return tuple(done)


def choose(p: Problem, machine: Machine) -> Tiling:
    """The cheapest form and tile.

    Cost: a few thousand evaluations of the model, about 2 ms.
    """
    best: Tiling | None = None
    for v in p.outs:
        for m in [*(u for u in p.outs if u is not v), None]:
            for t in _broadcast_tiles(p, v, m, machine):
                if best is None or t.cost < best.cost:
                    best = t
    for r in p.sums:
        if p.a.stride(r) == 1 and p.b.stride(r) == 1:
            for t in _dot_tiles(p, r, machine):
                if best is None or t.cost < best.cost:
                    best = t
    if best is None:
        lane = p.sums[0] if p.sums else Var("one", 1)
        best = Tiling("dot", lane, None, None, 1, 1, 1.0)
    return best


def _step(fmas: float, loads: float, accumulators: int) -> float:
    """Cycles of one step of the sum: two multiply-adds and two loads start per cycle."""
    return max(fmas / 2, loads / 2, _LATENCY if accumulators < 8 else 0.0)


def _load_cost(o: Operand, lane: Var, width: int) -> float:
    return 1.0 if o.stride(lane) in (0, 1) else width * _GATHER * 2


def _conflicts(o: Operand, p: Problem) -> bool:
    """Do the panel's rows fall into few sets of the first-level cache?"""
    rows = p.sums[-1] if p.sums else None
    return rows is not None and rows.size >= 64 and o.stride(rows) > 0 and o.stride(rows) * o.buffer.dtype.itemsize % _CONFLICT_BYTES == 0


def _parts(size: int, tile: int) -> list[tuple[int, int]]:
    """(tile size, how many): full tiles and the remainder."""
    full, rest = divmod(size, tile)
    return [(tile, full)] * (full > 0) + [(rest, 1)] * (rest > 0)


def _broadcast_tiles(p: Problem, v: Var, m: Var | None, machine: Machine) -> list[Tiling]:
    """Every tile with lanes along `v` and rows along `m`, with the vector operand in place and packed."""
    found: list[Tiling] = []
    total = -(-v.size // p.width)
    steps = prod(s.size for s in p.sums)
    others = prod(u.size for u in p.outs if u is not v and u is not m)
    store = 1.0 if p.c.coefficient(v) == 1 else p.width * _SCATTER
    vector = vector_operand(p, v, m)
    height = m.size if m is not None else 1
    for vectors in range(1, min(4, total) + 1):
        panel = steps * vectors * p.width * (vector.buffer.dtype.itemsize if vector else 0)
        for packed in (False, True) if vector and panel <= _PANEL_BYTES and others * -(-total // vectors) > 1 else (False,):
            la, lb = (1.0 if packed and o is vector else _load_cost(o, v, p.width) for o in (p.a, p.b))
            slow = _CONFLICT if vector and not packed and _conflicts(vector, p) else 1.0
            once = steps * total * (1.0 + _load_cost(vector, v, p.width)) if packed and vector else 0.0
            for rows in range(1, min(16, height) + 1):
                if rows * vectors + vectors + 1 > machine.vector_registers:
                    break
                cost = once
                for mt, mc in _parts(height, rows):
                    for nt, nc in _parts(total, vectors):
                        loads = sum(c * (mt if o.stride(m) else 1) * (nt if o.stride(v) else 1) for o, c in ((p.a, la), (p.b, lb)))
                        cost += mc * nc * (_step(mt * nt, loads, mt * nt) * steps * slow + mt * nt * (store + 1.0) + 10.0)
                found.append(Tiling("broadcast", v, m, None, rows, vectors, cost * others, packed))
    return found


def vector_operand(p: Problem, v: Var, m: Var | None) -> Operand | None:
    """The operand that changes along the lanes and not along the rows: the one worth packing."""
    for o, other in ((p.a, p.b), (p.b, p.a)):
        if m is not None and o.stride(v) and not o.stride(m) and not other.stride(v):
            return o
    return None


def _dot_tiles(p: Problem, r: Var, machine: Machine) -> list[Tiling]:
    found: list[Tiling] = []
    blocks = -(-r.size // p.width) * prod(s.size for s in p.sums if s is not r)
    rows_of = [u for u in p.outs if p.a.stride(u) and not p.b.stride(u)] or [None]
    cols_of = [u for u in p.outs if p.b.stride(u) and not p.a.stride(u)] or [None]
    for m, n in product(rows_of, cols_of):
        others = prod(u.size for u in p.outs if u is not m and u is not n)
        for rows in range(1, min(8, m.size if m else 1) + 1):
            for cols in range(1, min(8, n.size if n else 1) + 1):
                if rows * cols + rows + cols > machine.vector_registers:
                    break
                cost = 0.0
                for mt, mc in _parts(m.size if m else 1, rows):
                    for nt, nc in _parts(n.size if n else 1, cols):
                        cost += mc * nc * (_step(mt * nt, mt + nt, mt * nt) * blocks + mt * nt * _FOLD + 10.0)
                found.append(Tiling("dot", r, m, n, rows, cols, cost * others))
    return found


class Tiler:
    """Writes the nest of a problem in a given tiling; `finish` turns tile elements into stores."""

    s = Recorder()

    def __init__(self, p: Problem, t: Tiling, finish: Callable[[Expr, dict[Var, Index], Index], list[Stmt]]):
        self.p = p
        self.t = t
        self.finish = finish
        self.outer = tuple(u for u in p.outs if u is not t.row and u is not (t.lane if t.form == "broadcast" else t.col))

    def body(self) -> list[Stmt]:
        """Parallel loops over full tiles, then over the remainders of rows and columns."""
        t = self.t
        col = t.lane if t.form == "broadcast" else t.col
        unit = self.p.width if t.form == "broadcast" else 1
        stmts: list[Stmt] = []
        for columns, first_col, col_count in self._pieces(col, t.vectors * unit):
            if t.packed:
                stmts += self._packed_tiles(columns, first_col, col_count)
                continue
            for rows, first_row, row_count in self._pieces(t.row, t.rows):
                stmts += self._tiles(rows, first_row, row_count, columns, first_col, col_count)
        return stmts

    @staticmethod
    def _pieces(var: Var | None, tile: int) -> list[tuple[int, int, int]]:
        """(tile size, first element, how many tiles) of the full tiles and of the remainder."""
        if var is None:
            return [(1, 0, 1)]
        full, rest = divmod(var.size, tile)
        return [(tile, 0, full)] * (full > 0) + [(rest, full * tile, 1)] * (rest > 0)

    def _tiles(self, rows: int, first_row: int, row_count: int, columns: int, first_col: int, col_count: int) -> list[Stmt]:
        sizes = (*(u.size for u in self.outer), col_count, row_count)
        build = self._broadcast_tile if self.t.form == "broadcast" else self._dot_tile

        def one(n: Index) -> list[Stmt]:
            *outer, j, i = delinear(n, sizes)
            bound = dict(zip(self.outer, outer, strict=True))
            return build(bound, rows, i * rows + first_row, columns, j * columns + first_col)

        return loop("par", "t", prod(sizes), one)

    def _packed_tiles(self, columns: int, first_col: int, col_count: int) -> list[Stmt]:
        """Columns in parallel; each packs its panel, then runs all rows over it."""
        p, t = self.p, self.t
        vector = vector_operand(p, t.lane, t.row)
        assert vector is not None
        panel_width = -(-columns // p.width) * p.width
        panel = Buffer("panel", vector.buffer.dtype, prod(v.size for v in p.sums) * panel_width, local=True)
        sizes = (*(u.size for u in self.outer), col_count)

        def one(n: Index) -> list[Stmt]:
            *outer, j = delinear(n, sizes)
            bound = dict(zip(self.outer, outer, strict=True))
            col = j * columns + first_col

            def fill(summed: dict[Var, Index]) -> list[Stmt]:
                place = linear(tuple(summed[v] for v in p.sums), tuple(v.size for v in p.sums)) * panel_width
                stmts: list[Stmt] = []
                for k in range(0, columns, p.width):
                    stmts += loop(
                        "lanes", "l", min(p.width, columns - k),
                        lambda x, k=k: [
                            Store(panel, place + k + x, Load(vector.buffer, vector.offset.substitute({**bound, **summed, t.lane: col + k + x})))
                        ],
                    )
                return stmts

            stmts = self._sums(fill, p.sums, 4)
            for rows, first_row, row_count in self._pieces(t.row, t.rows):
                stmts += loop(
                    "serial", "i", row_count,
                    lambda i, rows=rows, first_row=first_row: self._broadcast_tile(
                        bound, rows, i * rows + first_row, columns, col, (vector, panel, panel_width)
                    ),
                )
            return stmts

        return loop("par", "t", prod(sizes), one)

    def _sums(self, body: Callable[[dict[Var, Index]], list[Stmt]], vars: Sequence[Var], unroll: int) -> list[Stmt]:
        """Serial loops over summed dimensions, the last one unrolled a little."""

        def nest(k: int, bound: dict[Var, Index]) -> list[Stmt]:
            if k == len(vars):
                return body(bound)
            v = vars[k]
            if k + 1 < len(vars) or v.size < 2 * unroll:
                kind = "serial" if k + 1 < len(vars) or v.size > 6 else "unroll"
                return loop(kind, f"q{k}", v.size, lambda i: nest(k + 1, {**bound, v: i}))
            blocks, rest = divmod(v.size, unroll)
            stmts = loop(
                "serial", f"q{k}", blocks, lambda i: loop("unroll", "w", unroll, lambda w: nest(k + 1, {**bound, v: i * unroll + w}))
            )
            return stmts + loop("unroll", "w", rest, lambda w: nest(k + 1, {**bound, v: w + blocks * unroll}))

        return nest(0, {})

    def _product(self, bound: dict[Var, Index], acc: Buffer, at: Index, packed: tuple[Operand, Expr] | None = None) -> Stmt:
        a, b = (
            self.s.cast(packed[1] if packed and o is packed[0] else Load(o.buffer, o.offset.substitute(bound)), self.p.dtype)
            for o in (self.p.a, self.p.b)
        )
        return Store(acc, at, self.s.fma(a, b, Load(acc, at)))

    def _broadcast_tile(
        self, outer: dict[Var, Index], rows: int, row: Index, columns: int, col: Index, panel: tuple[Operand, Buffer, int] | None = None
    ) -> list[Stmt]:
        p, t = self.p, self.t
        width = p.width
        actives = [min(width, columns - k * width) for k in range(-(-columns // width))]
        acc = Buffer("acc", p.dtype, rows * len(actives) * width, local=True)
        zero = Const(0, p.dtype)

        def each(body: Callable[[Index, int, Index], list[Stmt]]) -> list[Stmt]:
            def of_row(i: Index) -> list[Stmt]:
                stmts: list[Stmt] = []
                for k, active in enumerate(actives):
                    stmts += loop("lanes", "l", active, lambda x, k=k: body(i, k, x))
                return stmts

            return loop("unroll", "i", rows, of_row)

        def place(i: Index, k: int, x: Index) -> dict[Var, Index]:
            bound = {**outer, t.lane: col + k * width + x}
            if t.row is not None:
                bound[t.row] = row + i
            return bound

        def at(i: Index, k: int, x: Index) -> Index:
            return i * (len(actives) * width) + k * width + x

        stmts = each(lambda i, k, x: [Store(acc, at(i, k, x), zero)])

        def step(summed: dict[Var, Index]) -> list[Stmt]:
            def element(i: Index, k: int, x: Index) -> list[Stmt]:
                packed = None
                if panel is not None:
                    base = linear(tuple(summed[v] for v in p.sums), tuple(v.size for v in p.sums)) * panel[2]
                    packed = (panel[0], Load(panel[1], base + k * width + x))
                return [self._product({**place(i, k, x), **summed}, acc, at(i, k, x), packed)]

            return each(element)

        stmts += self._sums(step, p.sums, 4 if rows * len(actives) <= 12 else 2)
        return stmts + each(lambda i, k, x: self.finish(Load(acc, at(i, k, x)), place(i, k, x), x))

    def _dot_tile(self, outer: dict[Var, Index], rows: int, row: Index, columns: int, col: Index) -> list[Stmt]:
        p, t = self.p, self.t
        width = p.width
        acc = Buffer("acc", p.dtype, rows * columns * width, local=True)
        zero = Const(0, p.dtype)
        others = [v for v in p.sums if v is not t.lane]

        def each(body: Callable[[Index, Index], list[Stmt]]) -> list[Stmt]:
            return loop("unroll", "i", rows, lambda i: loop("unroll", "k", columns, lambda k: body(i, k)))

        def place(i: Index, k: Index) -> dict[Var, Index]:
            bound = dict(outer)
            if t.row is not None:
                bound[t.row] = row + i
            if t.col is not None:
                bound[t.col] = col + k
            return bound

        def start(i: Index, k: Index) -> Index:
            return i * (columns * width) + k * width

        def vector(base: Index, active: int, summed: dict[Var, Index]) -> list[Stmt]:
            def lanes(i: Index, k: Index) -> list[Stmt]:
                return loop("lanes", "l", active, lambda x: [self._product({**place(i, k), **summed, t.lane: base + x}, acc, start(i, k) + x)])

            return each(lanes)

        def run(summed: dict[Var, Index]) -> list[Stmt]:
            if t.lane not in p.sums:
                return vector(ZERO, 1, summed)
            blocks, rest = divmod(t.lane.size, width)
            stmts = loop("serial", "j", blocks, lambda j: vector(j * width, width, summed))
            return stmts + (vector(index(blocks * width), rest, summed) if rest else [])

        stmts = each(lambda i, k: loop("lanes", "l", width, lambda x: [Store(acc, start(i, k) + x, zero)]))
        stmts += self._sums(run, others, 1)
        return stmts + each(lambda i, k: self.finish(Fold("add", acc, start(i, k), width), place(i, k), ZERO))


def lower_contraction(group: Group, lowering: Lowering) -> list[Kernel]:
    """The kernel of a contraction with what follows it; two when the sum is split."""
    p = problem_of(group, lowering)
    if prod(group.full) == 0:
        return []
    node = group.result or group.nodes[0]
    flops = 2 * prod(v.size for v in (*p.outs, *p.sums))
    tiling = choose(p, lowering.machine)
    parts = _split(p, tiling)
    if parts is None:
        after = LoopsGroup(group, lowering, {n: lambda idx: Const(0, node.dtype) for n in _contracted(group)})

        def finish(value: Expr, bound: dict[Var, Index], lane: Index) -> list[Stmt]:
            idx = tuple(i.substitute(bound) for i in p.result)
            cast = Recorder().cast(value, node.dtype)
            after.given = {n: lambda _: cast for n in _contracted(group)}
            after.width = p.width
            return after.finish_point(idx, lane)

        body = Tiler(p, tiling, finish).body()
        return [make_kernel(node.op, body, p.width, tiling.cost, flops, tuple(group.nodes))]
    return _split_kernels(group, lowering, p, parts, flops)


def _contracted(group: Group) -> list[Node]:
    """The nodes whose value is the tile: the contraction, and its transposition."""
    return group.nodes[:2] if group.result is not group.nodes[0] else group.nodes[:1]


def _split(p: Problem, t: Tiling) -> int | None:
    """Into how many parts the longest summed dimension is cut; None when the tiles alone keep the team busy."""
    steps = prod(v.size for v in p.sums)
    col = t.lane if t.form == "broadcast" else t.col
    unit = p.width if t.form == "broadcast" else 1
    tiles = prod(v.size for v in p.outs if v is not t.row and v is not col)
    tiles *= (1 if t.packed else -(-(t.row.size if t.row else 1) // t.rows)) * -(-(col.size if col else 1) // (t.vectors * unit))
    if tiles >= _TASKS or steps < _LONG_SUM:
        return None
    longest = max((v for v in p.sums if v is not t.lane), key=lambda v: v.size, default=None)
    if longest is None:
        return None
    fitting = [d for d in range(2, _PARTS + 1) if longest.size % d == 0]
    return max(fitting) if fitting else None


def _split_kernels(group: Group, lowering: Lowering, p: Problem, parts: int, flops: int) -> list[Kernel]:
    """Partial sums into a temporary, then their sum with what follows."""
    tiling = choose(p, lowering.machine)
    node = group.result or group.nodes[0]
    longest = max((v for v in p.sums if v is not tiling.lane), key=lambda v: v.size)
    part, rest = Var("part", parts), Var("rest", longest.size // parts)
    cut = {longest: index(part) * rest.size + index(rest)}
    size = prod(group.full)
    q = Problem(
        (part, *p.outs),
        tuple(rest if v is longest else v for v in p.sums),
        Operand(p.a.buffer, p.a.offset.substitute(cut)),
        Operand(p.b.buffer, p.b.offset.substitute(cut)),
        p.result,
        p.c + index(part) * size,
        p.dtype,
        p.width,
    )
    tiling = choose(q, lowering.machine)
    temporary = lowering.temporary("parts", p.dtype, parts * size)

    def finish(value: Expr, bound: dict[Var, Index], lane: Index) -> list[Stmt]:
        return [Store(temporary, q.c.substitute(bound), value)]

    first = make_kernel(f"{node.op}_parts", Tiler(q, tiling, finish).body(), p.width, tiling.cost, flops, tuple(group.nodes))
    s = Recorder()

    def total(idx: tuple[Index, ...]) -> Expr:
        offset = linear(idx, group.full)
        value: Expr = Load(temporary, offset)
        for k in range(1, parts):
            value = s.add(value, Load(temporary, offset + k * size))
        return s.cast(value, node.dtype)

    second = LoopsGroup(group, lowering, {n: total for n in _contracted(group)}).kernel()
    return [first, second]


__all__ = ["Problem", "Tiling", "choose", "lower_contraction", "problem_of"]
