"""The contraction engine: sums of products with affine indices, as register-tiled loop nests.

Dense layers, attention scores and the three convolutions of training differ only in the strides of their operands. A
tile keeps `rows x cols x vectors` accumulators in registers; each step of the sum loads the few elements the tile needs
and multiplies every pair. `tile.choose` takes the cheapest form and size.

An operand whose order in memory is slow to read along the lanes is copied first, or by each thread as it goes. A sum that
is long while the output is small is split into a fixed number of parts by a first kernel and put together by a second.
Either way the order of addition depends on shapes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from graphopt.ir.graph import Node
from graphopt.ir.index import ZERO, Index, Var, index, linear
from graphopt.kernel.asked import Finish
from graphopt.kernel.frames import borders
from graphopt.kernel.loops import (
    Buffer,
    Const,
    Expr,
    Kernel,
    Load,
    Recorder,
    Stmt,
    Store,
    accumulator,
    make_kernel,
)
from graphopt.kernel.lower import LoopsGroup, Lowering, lanes_of
from graphopt.kernel.tile import FIRST_LEVEL_BYTES, LINE_BYTES, Operand, Problem, Tiling, choose, size_of, vector_operand
from graphopt.kernel.tiles import Tiler
from graphopt.kernel.winograd import Filtering, Winograd, filtering
from graphopt.passes.fuse import Group
from graphopt.passes.materialise import dims_of, follow

_TASKS = 4  # fewer tiles than this leave threads idle: split the sum
_LONG_SUM = 1024  # products per output element before splitting pays for the second pass
_PARTS = 16
_MOST_PARTS = 64
_SHORT_SUM = 512  # a part should not be shorter
_SLICE_BYTES = 1 << 18  # what tiles read again and again, a line here and a line there, should be this near


def problem_of(group: Group, lowering: Lowering) -> Problem:
    """The group's contraction with its operands' movement folded into strides, and no more dimensions than it needs."""
    return _simple(_whole_problem(group, lowering))


def _simple(p: Problem) -> Problem:
    """The problem without dimensions of one element, and with sums that move alike as one."""
    operands = [p.a, p.b]
    sums = _merge_sums(_near_last([v for v in p.sums if v.size != 1], operands), operands)
    return replace(p, outs=tuple([v for v in p.outs if v.size != 1]), sums=sums, a=operands[0], b=operands[1])


def _whole_problem(group: Group, lowering: Lowering) -> Problem:
    """The group's contraction with all dimensions of its op, in their order."""
    node = group.nodes[0]
    dims = dims_of(node)
    gone = {v: ZERO for v in (*dims.outs, *dims.sums) if v.size == 1}
    operands: list[Operand] = []
    for source, idx in zip(node.inputs, (dims.a, dims.b), strict=True):
        found = follow(source, idx)
        assert found is not None, "materialise stores operands that are not affine"
        base, where = found
        buffer, place = lowering.spot(base, where, base.shape)
        operands.append(Operand(buffer, place.substitute(gone), lowering.steady.get(buffer, 1)))
    c = tuple(i.substitute(gone) for i in dims.c)
    if group.result is not node:
        assert group.result is not None
        c = tuple(c[k] for k in group.result.attrs["perm"])
    wide = accumulator(node.dtype)
    width = lanes_of(lowering.machine, [wide, *(i.dtype for i in node.inputs)])
    return Problem(tuple(dims.outs), tuple(dims.sums), operands[0], operands[1], c, linear(c, group.full), wide, width)


def _near_last(sums: list[Var], operands: list[Operand]) -> tuple[Var, ...]:
    """The order of summation: long strides outside, neighbours inside.

    Steps that follow each other then read neighbours, not what a step of another row of the tile reads too: of those
    LLVM would keep more in registers than there are.
    """
    return tuple(sorted(sums, key=lambda v: -max(abs(o.stride(v)) for o in operands[:1])))


def _merge_sums(sums: tuple[Var, ...], operands: list[Operand]) -> tuple[Var, ...]:
    """Neighbouring summed dimensions that move alike in both operands become one."""
    done: list[Var] = []
    for v in sums:
        if done:
            u = done[-1]
            if all(o.stride(u) == o.stride(v) * v.size for o in operands):
                both = Var(f"{u.name}{v.name}", u.size * v.size)
                for k, o in enumerate(operands):
                    operands[k] = replace(o, offset=o.offset.substitute({u: ZERO, v: ZERO}) + index(both) * o.stride(v))
                done[-1] = both
                continue
        done.append(v)
    return tuple(done)


def lower_contraction(group: Group, lowering: Lowering) -> list[Kernel]:
    """The kernel of a contraction with what follows it; two when the sum is split."""
    if prod(group.full) == 0:
        return []
    node = group.result or group.nodes[0]
    whole = _whole_problem(group, lowering)
    filtered = filtering(group.nodes[0], whole)
    if filtered is not None:
        return _filtered_kernels(group, lowering, filtered)
    p = _simple(whole)
    tiling = choose(p, lowering.machine)
    wanted = _parts(p, tiling)
    counts, cut, sums = _cut(p, tiling, wanted)
    if not counts:
        finish = _finish(group, lowering, p)
        return _tiled_kernels(node.op, p, tiling, finish, group, lowering, borders(group, lowering, p.width))
    return _split_kernels(group, lowering, p, counts, cut, sums)


def _finish(group: Group, lowering: Lowering, p: Problem) -> Finish:
    """What stores a sum, and all that follows from it, at one point of the result."""
    node = group.result or group.nodes[0]
    after = LoopsGroup(group, lowering, {n: lambda idx: Const(0, node.dtype) for n in _contracted(group)})

    def finish(value: Expr, bound: dict[Var, Index], lane: Index) -> list[Stmt]:
        idx = tuple(i.substitute(bound) for i in p.result)
        cast = Recorder().cast(value, node.dtype)
        after.given = {n: lambda _: cast for n in _contracted(group)}
        after.width = p.width
        return after.finish_point(idx, lane)

    return finish


def _filtered_kernels(group: Group, lowering: Lowering, f: Filtering) -> list[Kernel]:
    """A convolution by minimal filtering: the windows' transforms and the tiles, or sums of slices of tiles and their sum."""
    op, nodes = group.nodes[0].op, tuple(group.nodes)
    writer = Winograd(f, lowering.machine, lowering.temporary)
    if f.taps:
        temporary = lowering.temporary("parts", f.p.dtype, f.slices * prod(group.full))
        first = make_kernel(f"{op}_parts", writer.derivative(temporary), f.p.width, f.p.flops, nodes)
        return [first, _sum_of_parts(group, lowering, temporary, f.slices)]
    much = any(n.op != "alias" for n in group.nodes[len(_contracted(group)) :])
    before, windows = writer.windows()
    tiles = [*writer.convolution(windows, _finish(group, lowering, f.p), much), *borders(group, lowering, f.p.width)]
    return [
        make_kernel(f"{op}_windows", before, f.p.width, nodes=nodes),
        make_kernel(op, tiles, f.p.width, f.p.flops, nodes),
    ]


def _tiled_kernels(
    name: str,
    p: Problem,
    t: Tiling,
    finish: Finish,
    group: Group,
    lowering: Lowering,
    borders: Sequence[Stmt] = (),
) -> list[Kernel]:
    """The copies of operands that the tiling wants and no thread makes for itself, and the tiles."""
    tiler = Tiler(p, t, finish, lowering.temporary, much=len(group.nodes) > len(_contracted(group)) + 1)
    nodes = tuple(group.nodes)
    kernels = [make_kernel(name, [*tiler.body(), *borders], p.width, p.flops, nodes)]
    if tiler.panels is not None and not tiler.panels.own:
        kernels.insert(0, make_kernel(f"{name}_pack", tiler.panels.copied(), p.width, nodes=nodes))
    if tiler.stripes is not None:
        kernels.insert(0, make_kernel(f"{name}_rows", tiler.stripes.copied(), t.rows, nodes=nodes))
    return kernels


def _contracted(group: Group) -> list[Node]:
    """The nodes whose value is the tile: the contraction, and its transposition."""
    return group.nodes[:2] if group.result is not group.nodes[0] else group.nodes[:1]


def _parts(p: Problem, t: Tiling) -> int:
    """Into how many parts the sum should be cut: 1 when the tiles keep the team busy and read what the cache can hold."""
    steps = prod(v.size for v in p.sums)
    by_lane = t.form == "broadcast"
    tiles = prod(v.size for v in p.outs if v is not t.row and v is not t.col and not (by_lane and v is t.lane))
    tiles *= -(-size_of(t.row) // t.rows) * -(-size_of(t.col) // t.cols)
    tiles *= -(-t.lane.size // (t.vectors * p.width)) if by_lane else 1
    if steps < _LONG_SUM:
        return 1
    if tiles < _TASKS:
        return _PARTS
    near = -(-_scattered_bytes(p, t) // (_SLICE_BYTES if by_lane else FIRST_LEVEL_BYTES))
    written = prod(v.size for v in p.outs) * p.dtype.itemsize
    read = sum(o.buffer.size * o.buffer.dtype.itemsize for o in (p.a, p.b))
    return max(1, min(near, read // (2 * written), steps // _SHORT_SUM, _MOST_PARTS))


def _scattered_bytes(p: Problem, t: Tiling) -> int:
    """Size of what a tile reads, in whole cache lines, of operands that it does not read in their own order.

    Vectors along the sum take as much of two operands as arithmetic can, in whatever order.
    """
    total = 0
    by_lane = t.form == "broadcast"
    spans = [(v, n) for v, n in ((t.lane, t.vectors * p.width), (t.row, t.rows), (t.col, t.cols)) if v is not None]
    spans = [(v, min(n, v.size)) for v, n in spans if v not in p.sums] + [(v, v.size) for v in p.sums]
    for o in (p.a, p.b):
        if by_lane and (o.stride(p.sums[-1]) == 1 or (t.packed and o is vector_operand(p, t.lane))):
            continue
        size = o.buffer.dtype.itemsize
        count = prod(n for v, n in spans if o.stride(v))
        along = max((n for v, n in spans if abs(o.stride(v)) == 1), default=1)
        total += min(count * max(size, LINE_BYTES // along), o.buffer.size * size)
    return total


def _cut(p: Problem, t: Tiling, wanted: int) -> tuple[tuple[Var, ...], dict[Var, Index], tuple[Var, ...]]:
    """At most `wanted` parts of the sum: (what counts the parts, the cut dimensions in terms of it, the dimensions left)."""
    counts: list[Var] = []
    where: dict[Var, Index] = {}
    left: list[Var] = []
    for v in p.sums:
        room = wanted // prod(c.size for c in counts) if v is not t.lane else 1
        parts = max((d for d in range(1, v.size + 1) if d <= room and v.size % d == 0), default=1)
        if parts == 1:
            left.append(v)
            continue
        counts.append(Var(f"part{len(counts)}", parts))
        where[v] = index(counts[-1])
        if parts < v.size:
            left.append(Var(f"{v.name}r", v.size // parts))
            where[v] = where[v] * left[-1].size + index(left[-1])
    return tuple(counts), where, tuple(left)


def _split_kernels(
    group: Group, lowering: Lowering, p: Problem, counts: tuple[Var, ...], cut: dict[Var, Index], sums: tuple[Var, ...]
) -> list[Kernel]:
    """Partial sums into a temporary, then their sum with what follows."""
    node = group.result or group.nodes[0]
    size = prod(group.full)
    parts = prod(v.size for v in counts)
    q = Problem(
        (*counts, *p.outs),
        sums,
        replace(p.a, offset=p.a.offset.substitute(cut)),
        replace(p.b, offset=p.b.offset.substitute(cut)),
        p.result,
        p.c + linear([index(v) for v in counts], tuple(v.size for v in counts)) * size,
        p.dtype,
        p.width,
    )
    tiling = choose(q, lowering.machine)
    temporary = lowering.temporary("parts", p.dtype, parts * size)

    def finish(value: Expr, bound: dict[Var, Index], lane: Index) -> list[Stmt]:
        return [Store(temporary, q.c.substitute(bound), value)]

    first = _tiled_kernels(f"{node.op}_parts", q, tiling, finish, group, lowering)
    return [*first, _sum_of_parts(group, lowering, temporary, parts)]


def _sum_of_parts(group: Group, lowering: Lowering, temporary: Buffer, parts: int) -> Kernel:
    """The sum of partial results that lie one behind the other, and what follows from it."""
    node = group.result or group.nodes[0]
    size = prod(group.full)
    s = Recorder()

    def total(idx: tuple[Index, ...]) -> Expr:
        offset = linear(idx, group.full)
        value: Expr = Load(temporary, offset)
        for k in range(1, parts):
            value = s.add(value, Load(temporary, offset + k * size))
        return s.cast(value, node.dtype)

    return LoopsGroup(group, lowering, dict.fromkeys(_contracted(group), total)).kernel()


__all__ = ["Problem", "Tiling", "choose", "lower_contraction", "problem_of"]
