"""Tilings of a contraction, and what each would cost: the model that steers the contraction engine.

Two forms:

    broadcast  lanes run along an output dimension: vectors of one operand times scalars of the other
    dot        lanes run along a summed dimension: vectors of both, folded once at the end

Costs are cycles of one core that starts two multiply-adds and two loads each; the constants were measured on a machine
with AVX-512 and only their ratios matter. The choice never depends on the number of threads.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, product
from math import prod

from graphopt.ir.index import Index, Var
from graphopt.ir.types import DType
from graphopt.kernel.loops import Buffer
from graphopt.kernel.machine import Machine

_LATENCY = 4.0  # cycles until a multiply-add's result can be added to
_FOLD = 8.0  # cycles to fold one vector to a scalar
_GATHER = 0.7  # cycles per gathered lane
_STRADDLE = 2.2  # cost of a masked vector load, or of one that crosses cache lines half the time
_LOOP = 10.0  # cycles around a tile
_SCATTER = 0.8  # cycles per scattered lane
_CONFLICT = 1.35  # slowdown when the rows of a panel are a multiple of this many bytes apart and share few cache sets
_CONFLICT_BYTES = 1024
_PACKED_BYTES = 1 << 26  # no copies beyond this size
FIRST_LEVEL_BYTES = 1 << 15
LINE_BYTES = 64
_FAR_STEP = 4.0  # cycles more for a step of the sum whose scalars lie on a line that the first-level cache has lost
_CONFLICT_STEP = 12.0  # the same where the second-level cache loses it, too
_ROWS_APART = 8  # rows that are pages apart share a set of the first-level cache: more of them push each other out
_STREAMED = 0.1  # cycles more for a vector of a panel that the first-level cache cannot hold, also when it was asked for ahead
_SECOND_LEVEL = 1.5  # cost of a vector load from the second-level cache
PAGE_BYTES = 4096
_FAR_STORE = 4.0  # cycles more for a vector that is stored on a page of its own
_BARRIER = 1000.0  # cycles a kernel more costs
_CROSSING = 16.0  # cycles more for a line that another thread has written, when several are on their way
NEAR_BYTES = 7 << 18  # what a usual second-level cache holds of one operand
GROUP_BYTES = 1 << 20  # and what of it when it does not hold all
_GROUPS = 4  # of panels, where threads divide them
_OWN_PANELS = 8  # at least, where each thread copies those that it reads
_OWN_GROUPS = 16  # the same of groups of several panels
_OWN_WORK = 1 << 28  # multiply-adds of such a group, at most: threads that are late get less to do, a group less at least
_OWN_BYTES = 1 << 19  # of a panel, at most
_WAITED = 0.5  # cost more of the last panel, if it is not full, where each thread copies its own: the others wait


@dataclass(frozen=True, slots=True)
class Operand:
    """Where an operand lies, and how far each loop dimension moves in it (in elements).

    runs: how many runs of the kernel read the same of it: a copy that serves them is made once.
    """

    buffer: Buffer
    offset: Index
    runs: int = 1

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

    @property
    def flops(self) -> int:
        return 2 * prod(v.size for v in (*self.outs, *self.sums))


@dataclass(frozen=True, slots=True)
class Tiling:
    """Which dimensions a tile spans, and how far.

    lane:    the dimension of the lanes (of the output in the broadcast form, of the sum in the dot form)
    vectors: vectors along the lanes (broadcast form)
    row, col: two more output dimensions (None: none); rows x cols x vectors accumulators
    packed:  the vector operand is copied into the order in which the tiles read it: see `own_panels`
    rows_packed: so is the other operand, by a kernel of its own
    """

    form: str
    lane: Var
    row: Var | None
    col: Var | None
    rows: int
    cols: int
    vectors: int
    cost: float
    packed: bool = False
    rows_packed: bool = False


def choose(p: Problem, machine: Machine) -> Tiling:
    """The cheapest form and tile.

    Cost: a few thousand evaluations of the model, 5 to 30 ms for a convolution; equal problems are priced once.
    """
    key = _key(p, machine)
    dims: list[Var | None] = [*p.outs, *p.sums, None]
    if key not in _chosen:
        t = _cheapest(p, machine)
        where = [dims.index(v) if v in dims else -1 for v in (t.lane, t.row, t.col)]
        if where[0] < 0:
            return t
        _chosen[key] = (t, (where[0], where[1], where[2]))
    t, (lane, row, col) = _chosen[key]
    found = dims[lane]
    assert found is not None
    return replace(t, lane=found, row=dims[row], col=dims[col])


_chosen: dict[Hashable, tuple[Tiling, tuple[int, int, int]]] = {}


def _key(p: Problem, machine: Machine) -> Hashable:
    """All that the model looks at: sizes and strides of the dimensions, what offsets are multiples of, dtypes."""
    dims = tuple((v.size, p.a.stride(v), p.b.stride(v), p.c.coefficient(v)) for v in (*p.outs, *p.sums))
    kinds = tuple((o.buffer.dtype.itemsize, o.offset.const, o.runs) for o in (p.a, p.b))
    return len(p.outs), dims, kinds, p.width, machine


def _cheapest(p: Problem, machine: Machine) -> Tiling:
    best = Tiling("dot", p.sums[0] if p.sums else Var("one", 1), None, None, 1, 1, 1, float("inf"))
    for t in chain(_broadcast_tilings(p, machine), _dot_tilings(p, machine)):
        if t.cost < best.cost:
            best = t
    return best


def _step(fmas: float, loads: float) -> float:
    """Cycles of one step of the sum: two multiply-adds and two loads start per cycle; few accumulators wait."""
    return max(fmas / 2, loads / 2, _LATENCY if fmas < 8 else 0.0)


def _load_cost(o: Operand, p: Problem, lane: Var) -> float:
    """A scalar or an aligned vector costs 1; a vector that straddles cache lines more; a gather most."""
    stride = o.stride(lane)
    if stride == 0:
        return 1.0
    if stride != 1:
        return p.width * _GATHER * 2
    whole = all(c % p.width == 0 for v, c in o.offset.terms if v is not lane) and lane.size % p.width == 0
    return 1.0 if whole else _STRADDLE


@dataclass(frozen=True, slots=True)
class _Reach:
    """How one operand is read by tiles with lanes along v, rows along m, columns along u."""

    moves: tuple[bool, bool, bool]  # along m, v, u
    strides: tuple[int, int, int]
    cost: float  # of one load from the first-level cache
    steps: int  # elements read along the sum
    span: int  # distance of the first from the last of them
    size: int

    @staticmethod
    def of(o: Operand, p: Problem, v: Var, m: Var | None, u: Var | None) -> _Reach:
        strides = (abs(o.stride(m)), abs(o.stride(v)), abs(o.stride(u)))
        summed = [(w.size, abs(c)) for w in p.sums if (c := o.stride(w))]
        moves = (strides[0] > 0, strides[1] > 0, strides[2] > 0)
        span = sum((n - 1) * c for n, c in summed)
        return _Reach(moves, strides, _load_cost(o, p, v), prod(n for n, _ in summed), span, o.buffer.dtype.itemsize)

    def load(self, rows: int, vectors: int, cols: int, width: int, packed: bool) -> float:
        """The cost of a load; vectors are dearer when what one tile reads of them exceeds the first-level cache."""
        if packed:
            return 1.0
        if not self.moves[1]:
            return self.cost
        sizes = (rows, vectors * width, cols)
        span = 1 + self.span + sum((n - 1) * c for n, c in zip(sizes, self.strides, strict=True))
        count = self.steps * prod(n for n, c in zip(sizes, self.strides, strict=True) if c)
        return self.cost * (1.0 if min(span, count) * self.size <= FIRST_LEVEL_BYTES else _SECOND_LEVEL)


def _conflicts(o: Operand, p: Problem) -> bool:
    """Do the panel's rows fall into few sets of the first-level cache?"""
    rows = p.sums[-1] if p.sums else None
    if rows is None or rows.size < 64 or o.stride(rows) <= 0:
        return False
    return o.stride(rows) * o.buffer.dtype.itemsize % _CONFLICT_BYTES == 0


def _parts(size: int, tile: int) -> list[tuple[int, int]]:
    """(tile size, how many): full tiles and the remainder."""
    full, rest = divmod(size, tile)
    return [(tile, full)] * (full > 0) + [(rest, 1)] * (rest > 0)


def size_of(v: Var | None) -> int:
    return v.size if v is not None else 1


def vector_operand(p: Problem, v: Var) -> Operand | None:
    """The operand that changes along the lanes, when the other does not: the one worth packing."""
    for o, other in ((p.a, p.b), (p.b, p.a)):
        if o.stride(v) and not other.stride(v):
            return o
    return None


def row_operand(p: Problem, v: Var, m: Var | None) -> Operand | None:
    """The operand of scalars, when caches read it badly: a tile's rows are neighbours in it and steps of the sum lie lines
    apart, or steps are neighbours and rows lie whole pages apart.
    """
    vector = vector_operand(p, v)
    if vector is None or m is None or not p.sums or vector.stride(m):
        return None
    o = p.b if vector is p.a else p.a
    far = abs(o.stride(p.sums[-1])) * o.buffer.dtype.itemsize >= LINE_BYTES
    return o if (o.stride(m) == 1 and far) or pages_apart(o, p, m) else None


def pages_apart(o: Operand, p: Problem, m: Var) -> bool:
    """Are steps of the sum neighbours, and do rows lie whole pages apart, so that they share sets of each cache?"""
    pages, rest = divmod(abs(o.stride(m)) * o.buffer.dtype.itemsize, PAGE_BYTES)
    return o.stride(p.sums[-1]) == 1 and pages > 0 and rest == 0


def kept_near(p: Problem, v: Var, vector: Operand) -> bool:
    """Does a copy of the operand along the lanes stay in the second-level cache of every thread, from run to run?

    Then threads divide rows, and what a run reads of the last one's result is what the same thread has written.
    """
    return vector.runs > 1 and _copied(p, v, vector) * vector.buffer.dtype.itemsize <= NEAR_BYTES


def lanes_divide(p: Problem, lane: Var, vector: Operand) -> bool:
    """Should threads divide the copied operand, and not the rows?

    A line that another thread has written takes a tenth of a microsecond. Threads that divide rows read the whole copy,
    which others have written, and take its lines away again for the next; those that divide lanes read
    all rows of the other operand, and rows of the result are in several hands. A copy that each thread keeps is taken
    away by nobody.
    """
    if kept_near(p, lane, vector):
        return False
    copied = prod(v.size for v in (lane, *p.sums)) * vector.buffer.dtype.itemsize
    other = p.b if vector is p.a else p.a
    return 2 * copied >= _elements(p, other) * other.buffer.dtype.itemsize + prod(v.size for v in p.outs) * p.dtype.itemsize


def near_panels(p: Problem, t: Tiling, panels: int) -> int:
    """How many of so many panels of the operand along the lanes are a group, which stays near while rows turn: a divisor."""
    vector = vector_operand(p, t.lane)
    if vector is None or (t.packed and any(vector.stride(u) for u in p.outs if u is not t.lane)):
        return panels
    size = t.vectors * p.width * prod(v.size for v in p.sums) * vector.buffer.dtype.itemsize
    most = panels if panels * size <= NEAR_BYTES else GROUP_BYTES // size
    if t.packed and lanes_divide(p, t.lane, vector):
        most = min(most, panels // _GROUPS)
    return divisor(panels, most)


def own_panels(p: Problem, lane: Var, vector: Operand, pitch: int) -> int:
    """How many panels of `pitch` lanes each thread copies at a time into memory of its own; 0: all threads read one copy.

    Own copies stay in the thread's second-level cache, and where lanes are neighbours a panel is copied by the first tile that
    reads it, which multiplies meanwhile; a common copy, by a kernel of its own, is read from the cache of the thread that
    made it. But each thread reads the whole of the other operand for every group, so that must not have more elements.
    Few groups are hard to divide among threads.
    """
    panels, full = -(-lane.size // pitch), lane.size // pitch
    panel = prod(v.size for v in p.sums) * pitch
    size = panel * vector.buffer.dtype.itemsize
    depends = any(vector.stride(u) for u in p.outs if u is not lane)
    if not p.sums or depends or vector.runs > 1 or not lanes_divide(p, lane, vector):
        return 0
    if panels < _OWN_PANELS or not 0 < size <= _OWN_BYTES or _elements(p, p.b if vector is p.a else p.a) > panels * panel:
        return 0
    work = prod(v.size for v in p.outs if v is not lane) * panel
    return divisor(full, min(full // _OWN_GROUPS, GROUP_BYTES // size, _OWN_WORK // work))


def _elements(p: Problem, o: Operand) -> int:
    return prod(v.size for v in (*p.outs, *p.sums) if o.stride(v))


def divisor(count: int, most: int) -> int:
    """The largest divisor of `count` that is at most `most`; 1 where there is none."""
    return max((d for d in range(1, min(count, most) + 1) if count % d == 0), default=1)


def _crossing(p: Problem, vector: Operand) -> float:
    """Cycles more for lines that cross between threads, when tiles do not give each of them as many rows."""
    other = p.b if vector is p.a else p.a
    rows = prod(w.size for w in (*p.outs, *p.sums) if other.stride(w)) * other.buffer.dtype.itemsize
    return (rows + prod(w.size for w in p.outs) * p.dtype.itemsize) / LINE_BYTES * _CROSSING


def _step_cost(o: Operand, p: Problem, m: Var) -> float:
    """Cycles more for each step of the sum, when its scalars are read where they are."""
    steps = prod(s.size for s in p.sums)
    if pages_apart(o, p, m):
        return 0.0  # a line is read from the second-level cache meanwhile, if few rows share the first one's sets
    if _conflicts(o, p):
        return _CONFLICT_STEP
    return _FAR_STEP if steps * LINE_BYTES > FIRST_LEVEL_BYTES else 0.0


def _broadcast_tilings(p: Problem, machine: Machine) -> Iterator[Tiling]:
    for v in p.outs:
        few = -(-v.size // p.width) <= 2
        others = [u for u in p.outs if u is not v]
        for m in [*others, None]:
            yield from _broadcast_tiles(p, machine, v, m, None)
            for u in others if few and m is not None else ():
                if u is not m:
                    yield from _broadcast_tiles(p, machine, v, m, u)


def _tile_sizes(size: int, most: int) -> list[int]:
    """Sizes worth trying along a dimension: as many as fit, and those that leave as little over."""
    most = min(most, size)
    least = -(-size // most)
    return sorted({most, *(-(-size // n) for n in range(least, least + 3))})


def _far(p: Problem, v: Var | None) -> bool:
    """Do neighbours along `v` lie on different pages of the result?"""
    return v is not None and p.c.coefficient(v) * p.dtype.itemsize >= PAGE_BYTES


def _broadcast_tiles(p: Problem, machine: Machine, v: Var, m: Var | None, u: Var | None) -> Iterator[Tiling]:
    """Tiles with lanes along `v`, rows along `m`, columns along `u`, with the vector operand in place and packed."""
    total = -(-v.size // p.width)
    steps = prod(s.size for s in p.sums)
    others = prod(w.size for w in p.outs if w is not v and w is not m and w is not u)
    store = 1.0 if p.c.coefficient(v) == 1 else p.width * _SCATTER
    store += _FAR_STORE * (_far(p, m) + _far(p, u))
    vector = vector_operand(p, v)
    reach = [_Reach.of(o, p, v, m, u) for o in (p.a, p.b)]
    slow = _CONFLICT if vector is not None and _conflicts(vector, p) else 1.0
    copied = _copied(p, v, vector) if vector is not None else 0
    copying = 0.0
    if vector is not None:
        copying = (copied / p.width * (1.0 + _load_cost(vector, p, v)) + _BARRIER) / vector.runs
    packable = vector is not None and copied * vector.buffer.dtype.itemsize <= _PACKED_BYTES
    crossing = _crossing(p, vector) if vector is not None and kept_near(p, v, vector) else 0.0
    scalars = row_operand(p, v, m) if u is None else None
    further = _step_cost(scalars, p, m) * steps * others if scalars is not None and m is not None else 0.0
    turned = scalars is not None and m is not None and scalars.stride(m) != 1
    lines = prod(w.size for w in p.outs if w is not m and scalars is not None and scalars.stride(w)) * steps
    apart = m is not None and any(abs(o.stride(m)) * o.buffer.dtype.itemsize >= PAGE_BYTES for o in (p.a, p.b))
    for vectors in range(1, min(4, total) + 1) if u is None else (min(2, total),):
        panel = steps * vectors * p.width * vector.buffer.dtype.itemsize if vector is not None else 0
        streamed = _STREAMED if panel > FIRST_LEVEL_BYTES else 0.0
        uneven = vector is not None and v.size % (vectors * p.width) > 0 and own_panels(p, v, vector, vectors * p.width) > 0
        for cols in (1,) if u is None else range(2, min(6, u.size) + 1):
            most = max(
                (r for r in range(1, 17) if r * vectors * cols + vectors * min(r, cols) + 2 <= machine.vector_registers),
                default=0,
            )
            held = min(most, _ROWS_APART) if apart and u is None else most
            sizes = {*_tile_sizes(size_of(m), held), *(_tile_sizes(size_of(m), most) if scalars is not None else ())}
            for rows in sorted(sizes) if most else ():
                if rows < cols <= size_of(m):
                    continue  # the same tile with rows and columns exchanged
                *_, last = lanes = _parts(total, vectors)
                shares = list(product(_parts(size_of(m), rows), lanes, _parts(size_of(u), cols)))
                for packed in (False, True) if packable else (False,):
                    factor = 1.0 if packed else slow
                    loads = [
                        (r.load(rows, vectors, cols, p.width, packed and o is vector), *r.moves)
                        for o, r in zip((p.a, p.b), reach, strict=True)
                    ]
                    cost = copying + crossing * (size_of(m) % (2 * rows) > 0) if packed else 0.0
                    for (mt, mc), (nt, nc), (ut, uc) in shares:
                        fmas = mt * nt * ut
                        moved = 0.0
                        for c, by_row, by_lane, by_col in loads:
                            moved += c * (mt if by_row else 1) * (nt if by_lane else 1) * (ut if by_col else 1)
                        step = _step(fmas, moved) * factor + streamed * nt
                        waited = _WAITED if packed and uneven and (nt, nc) == last else 0.0
                        cost += mc * (nc + waited) * uc * (step * steps + fmas * (store + 1.0) + _LOOP) * others
                    tall, wide = -(-size_of(m) // rows), -(-total // vectors)
                    if rows <= held:
                        yield Tiling("broadcast", v, m, u, rows, cols, vectors, cost + further * tall * wide, packed)
                    if scalars is not None:
                        line = 1.0 + rows * _GATHER if turned else 2.0 + _FAR_STEP
                        cost += (line * lines * tall + _BARRIER) / scalars.runs
                        yield Tiling("broadcast", v, m, u, rows, cols, vectors, cost, packed, rows_packed=True)


def _copied(p: Problem, v: Var, vector: Operand) -> int:
    """Elements of a packed copy: one per lane, step of the sum and outer dimension that the operand depends on."""
    outer = prod(u.size for u in p.outs if u is not v and vector.stride(u))
    return outer * -(-v.size // p.width) * p.width * prod(s.size for s in p.sums)


def _dot_tilings(p: Problem, machine: Machine) -> Iterator[Tiling]:
    for r in p.sums:
        if p.a.stride(r) != 1 or p.b.stride(r) != 1:
            continue
        blocks = -(-r.size // p.width) * prod(s.size for s in p.sums if s is not r)
        a, b = (_load_cost(o, p, r) for o in (p.a, p.b))
        rows_of: list[Var | None] = [u for u in p.outs if p.a.stride(u) and not p.b.stride(u)] or [None]
        cols_of: list[Var | None] = [u for u in p.outs if p.b.stride(u) and not p.a.stride(u)] or [None]
        for m, n in product(rows_of, cols_of):
            others = prod(u.size for u in p.outs if u is not m and u is not n)
            for rows, cols in product(range(1, min(8, size_of(m)) + 1), range(1, min(8, size_of(n)) + 1)):
                if rows * cols + rows + cols > machine.vector_registers:
                    continue
                cost = 0.0
                for (mt, mc), (nt, nc) in product(_parts(size_of(m), rows), _parts(size_of(n), cols)):
                    cost += mc * nc * (_step(mt * nt, mt * a + nt * b) * blocks + mt * nt * _FOLD + _LOOP)
                yield Tiling("dot", r, m, n, rows, cols, 1, cost * others)
