"""Fused groups -> kernels.

A `loops` group becomes one nest: a parallel loop over the kept axes, inside it one pass over the reduced axes for each
level of reductions. Two layouts:

    rows     the innermost axis is reduced: lanes run along it, a ROW value is one scalar (softmax, layer norm)
    columns  the innermost axis is kept: lanes run along it, a ROW value is a vector (bias gradients, plain maps)

The order of every sum is decided by shapes alone, so results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

from graphopt.ir.graph import Node
from graphopt.ir.index import ZERO, Index, Loaded, delinear, index, linear
from graphopt.kernel.elements import Elements, Lowering, lanes_of
from graphopt.kernel.frames import borders
from graphopt.kernel.loops import (
    HEAVY,
    Buffer,
    Const,
    Expr,
    Fold,
    Kernel,
    Load,
    Op,
    Stmt,
    Store,
    accumulator,
    loop,
    make_kernel,
)
from graphopt.kernel.picks import picked
from graphopt.kernel.slices import Sinks
from graphopt.opdefs.opdef import opdef
from graphopt.passes.fuse import Group
from graphopt.passes.materialise import INLINE, LEAVES

Given = Mapping[Node, Callable[[tuple[Index, ...]], Expr]]

_ROWS_FOR_TEAM = 8
_SCRATCH_ELEMS = 1 << 13  # rows of values are kept on the stack instead of computed again, up to this size together
_CHAIN = 3  # operations that are cheaper than a store and a load


class LoopsGroup:
    """Lowers one group of kind `loops` (or what follows a contraction, with `given` values)."""

    def __init__(self, group: Group, lowering: Lowering, given: Given | None = None):
        self.group = group
        self.lowering = lowering
        self.given = dict(given or {})
        self.nodes = [n for n in group.nodes if n not in self.given]
        self.level = group.levels()
        self.reductions = [n for n in self.nodes if opdef(n.op).kind == "reduction"]
        self.axes: tuple[int, ...] = (group.axes or ()) if self.reductions else ()
        members = self.nodes + group.sinks
        dtypes = [n.dtype for n in members] + [i.dtype for n in members for i in n.inputs]
        self.width = lanes_of(lowering.machine, dtypes)
        self.rank = len(group.full)
        self._split_axes()
        self.picks = {n: p for n in self.reductions if self.by_rows and n not in group.finishes and (p := picked(n)) is not None}
        self.part = ZERO
        self.abreast = 1  # vectors of kept elements that a block of columns reduces together
        self.row_value: dict[Node, Buffer] = {}
        self.row_scratch: dict[Node, Buffer] = {}
        self.last = max((self.level[n] for n in self.nodes), default=0)
        self._plan_scratch()
        self.sinks = Sinks(group, self.width, self.lane_run, self._outer, lowering.temporary)
        lowering.partial |= self.sinks.partial

    # axes

    def _split_axes(self) -> None:
        """Runs of axes that every access treats as one; which of them lanes run along."""
        full = self.group.full
        breaks = {k for k in range(1, self.rank) if (k in self.axes) != (k - 1 in self.axes)}
        for n in self.group.sinks:
            breaks.update(k for k in range(1, self.rank) if (k in n.attrs["axes"]) != (k - 1 in n.attrs["axes"]))
        for n in self.group.members:
            for i in n.inputs:
                if opdef(n.op).kind not in ("elementwise", "reduction"):
                    breaks.update(range(1, self.rank))
                elif i.op == "broadcast":
                    kept = i.attrs["axes"]
                    breaks.update(k for k in range(1, len(i.shape)) if (k in kept) != (k - 1 in kept))
                    if i.inputs[0].op in INLINE - LEAVES - {"reshape"} or i.inputs[0] in self.lowering.inside:
                        breaks.update(range(1, self.rank))
                elif i.op in INLINE - LEAVES - {"reshape"}:
                    breaks.update(range(1, self.rank))
                elif i.shape == full:
                    breaks.update(self.lowering.cuts(i))
                elif i in self.lowering.inside:
                    breaks.update(range(1, self.rank))
        for n in self.group.stores:
            if n in self.lowering.inside:
                breaks.update(self.lowering.cuts(n) if n.shape == full else range(1, self.rank))
        runs: list[list[int]] = []
        for k in range(self.rank):
            if runs and k not in breaks:
                runs[-1].append(k)
            else:
                runs.append([k])
        kept_runs = [r for r in runs if r[0] not in self.axes]
        self.reduced_runs = [r for r in runs if r[0] in self.axes]
        inner = [k for k in range(self.rank) if full[k] != 1]
        self.by_rows = bool(self.axes) and (not inner or inner[-1] in self.axes)
        if self.by_rows:
            self.lane_run = next(r for r in reversed(self.reduced_runs) if not inner or inner[-1] in r)
            self.reduced_runs.remove(self.lane_run)
            self.outer_runs = kept_runs
        else:
            self.lane_run = next((r for r in reversed(kept_runs) if inner and inner[-1] in r), kept_runs[-1] if kept_runs else [])
            self.outer_runs = [r for r in kept_runs if r is not self.lane_run]
        self.lane_size = self._size(self.lane_run)
        self.outer_size = prod(self._size(r) for r in self.outer_runs)

    def _size(self, run: list[int]) -> int:
        return prod(self.group.full[k] for k in run)

    def _spread(self, runs: Sequence[list[int]], indices: Sequence[Index], into: dict[int, Index]) -> None:
        for run, i in zip(runs, indices, strict=True):
            for k, part in zip(run, delinear(i, tuple(self.group.full[k] for k in run)), strict=True):
                into[k] = part

    def _outer(self, p: Index) -> dict[int, Index]:
        """Axis -> index for the outer kept axes at iteration p."""
        place: dict[int, Index] = {}
        self._spread(self.outer_runs, delinear(p, tuple(self._size(r) for r in self.outer_runs)), place)
        return place

    # scratch rows: heavy values that a later stage needs again

    def _plan_scratch(self) -> None:
        """Keep what a later stage would have to work for again: heavy values, and those at the end of a long chain.

        What is kept is computed at its own stage, where it may need again what an earlier one has: until nothing more is.
        """
        size = prod(self.group.full[k] for k in self.axes)
        if not self.by_rows or size > _SCRATCH_ELEMS:
            return
        known = -1
        while known < len(self.row_scratch):
            known = len(self.row_scratch)
            for stage in range(1, self.last + 1):
                self._keep_for(stage, size)

    def _keep_for(self, stage: int, size: int) -> None:
        fresh = self._fresh(stage)
        for n in self._needed(stage):
            if self.level[n] == stage or n in self.group.stores or n in self.row_scratch:
                continue
            edge = n in fresh and self._chain(n, stage) > _CHAIN and len(self.row_scratch) * size < _SCRATCH_ELEMS
            if n.op in HEAVY or edge:
                padded = -(-size // self.width) * self.width + self.width
                self.row_scratch[n] = Buffer(f"row_{n.op}{len(self.row_scratch)}", n.dtype, padded, local=True)

    def _fresh(self, stage: int) -> set[Node]:
        """Operands of what only this stage can compute."""
        feeds, stores = self._targets(stage)
        sinks = self.sinks_at(stage)
        ends = [n for n in self._needed(stage) if self.level[n] == stage]
        return {i for n in ends for i in n.inputs} | {n.inputs[0] for n in (*feeds, *sinks)} | set(stores)

    def _chain(self, node: Node, stage: int) -> int:
        """Operations that computing a value of an earlier stage again would take."""
        stack, seen = [node], {node}
        while stack:
            for i in stack.pop().inputs:
                known = i not in self.level or i in self.group.rows or self._reloads(i, stage)
                if not known and i not in seen:
                    seen.add(i)
                    stack.append(i)
        return len(seen)

    # stages

    def _targets(self, stage: int) -> tuple[list[Node], list[Node]]:
        """(reductions fed, FULL values stored) by a stage's pass over the reduced axes."""
        feeds = [n for n in self.reductions if self.level[n] == stage + 1 and n not in self.picks]
        stores = [
            n
            for n in self.group.nodes
            if n not in self.group.rows and self.level[n] == stage and (n in self.group.stores or n in self.row_scratch)
        ]
        return feeds, stores

    def sinks_at(self, stage: int) -> list[Node]:
        """Sinks whose operands are known first at this stage."""
        return [n for n in self.group.sinks if self.level.get(n.inputs[0], 0) == stage]

    def _needed(self, stage: int, wanted: set[Node] | None = None) -> list[Node]:
        """FULL nodes whose values the stage needs, or those that `wanted` values need there, in order."""
        if wanted is None:
            feeds, stores = self._targets(stage)
            wanted = set(stores) | {n.inputs[0] for n in (*feeds, *self.sinks_at(stage))}
        for n in reversed(self.nodes):
            if n in wanted and n not in self.group.rows and not self._reloads(n, stage):
                wanted.update(i for i in n.inputs if i in self.level)
        return [n for n in self.group.nodes if n in wanted and n not in self.group.rows]

    def _reloads(self, node: Node, stage: int) -> bool:
        return self.level[node] < stage and (node in self.group.stores or node in self.row_scratch)

    def _compute(self, node: Node, values: Mapping[Node, Expr], elements: Elements, idx: tuple[Index, ...]) -> Expr:
        """One element of a node from the values of its operands at the same point."""
        d = opdef(node.op)
        if d.kind == "movement":
            return elements.movement(node, idx)
        operands: list[Expr] = []
        for i in node.inputs:
            if i in values:
                operands.append(values[i])
            elif i.op == "broadcast" and i.inputs[0] in values:
                operands.append(values[i.inputs[0]])
            else:
                operands.append(elements.read(i, idx))
        value: Expr = d.rules["scalar"](elements.s, *operands, **node.attrs)
        return value

    def _full_values(
        self,
        stage: int,
        idx: tuple[Index, ...],
        rows: Mapping[Node, Expr],
        place: Index,
        wanted: set[Node] | None = None,
    ) -> dict[Node, Expr]:
        """Values of the FULL nodes a stage needs, at one point; `place` is the point's position within its row."""
        elements = Elements(self.lowering)
        values: dict[Node, Expr] = dict(rows)
        for n in self._needed(stage, wanted):
            if n in self.given:
                values[n] = self.given[n](idx)
            elif not self._reloads(n, stage):
                values[n] = self._compute(n, values, elements, idx)
            elif n in self.row_scratch:
                values[n] = Load(self.row_scratch[n], place)
            else:
                values[n] = elements.read(n, idx)
        return values

    # rows: ROW values of one iteration

    def _row_read(self, lane: Index) -> dict[Node, Expr]:
        at = ZERO if self.by_rows else lane
        return {n: Load(b, at) for n, b in self.row_value.items()}

    def _row_nodes(self, level: int, idx: tuple[Index, ...], lane: Index) -> list[Stmt]:
        """Compute the ROW nodes of a level (reductions are there already), then store those that are wanted."""
        at = ZERO if self.by_rows else lane
        body: list[Stmt] = []
        stores: list[Stmt] = []
        elements = Elements(self.lowering)
        for n in self.nodes:
            if n not in self.group.rows or self.level[n] != level:
                continue
            if opdef(n.op).kind != "reduction":
                value = self._compute(n, self._row_read(lane), elements, idx)
                body.append(Store(self._row_buffer(n), at, value))
            if n in self.group.stores:
                stores.append(Store(*self.lowering.spot(n, idx, self.group.kept), Load(self._row_buffer(n), at)))
        # before a pass that may store over what it is chosen from
        next_level = [n for n in self.picks if self.level[n] == level + 1]
        return body + stores + [Store(self._row_buffer(n), at, self._picked(n, idx)) for n in next_level]

    def _picked(self, node: Node, kept: tuple[Index, ...]) -> Expr:
        """A sum of which one summand counts, of a row: that one, or 0 where there is none; never -0, as a sum."""
        numbers, values = self.picks[node]
        (axis,) = self.axes
        elements, rows, s = Elements(self.lowering), self._row_read(ZERO), Elements.s
        source = numbers.inputs[0]
        number = rows[source] if source in rows else elements.read(numbers, (*kept[:axis], ZERO, *kept[axis:]))
        last = Const(self.group.full[axis] - 1, number.dtype)
        at = Index(0, ((Loaded(s.min(s.max(number, Const(0, number.dtype)), last)), 1),))
        idx = (*kept[:axis], at, *kept[axis:])
        known = self._full_values(self.level[node] - 1, idx, rows, at, {values})
        value = known[values] if values in known else elements.read(values, idx)
        there = s.and_(s.ge(number, Const(0, number.dtype)), s.le(number, last))
        zero = Const(0, value.dtype)
        return s.cast(s.add(s.select(there, value, zero), zero), node.dtype)

    def _row_buffer(self, node: Node) -> Buffer:
        if node not in self.row_value:
            size = 1 if self.by_rows else self.abreast * self.width
            self.row_value[node] = Buffer(f"r{len(self.row_value)}_{node.op}", node.dtype, size, local=True)
        return self.row_value[node]

    def _kept_index(self, place: Mapping[int, Index]) -> tuple[Index, ...]:
        return tuple(place[k] for k in range(self.rank) if k not in self.axes)

    # stores of one point

    def _store_point(
        self, stores: Sequence[Node], values: Mapping[Node, Expr], idx: tuple[Index, ...], row: Index, lane: Index
    ) -> list[Stmt]:
        """Store FULL values; several go through registers first, so that none reads what another has overwritten."""
        targets: list[tuple[Buffer, Index, Expr]] = []
        for n in stores:
            if n in self.group.stores:
                targets.append((*self.lowering.spot(n, idx, self.group.full), values[n]))
            if n in self.row_scratch:
                targets.append((self.row_scratch[n], row, values[n]))
        if len(targets) == 1:
            return [Store(*targets[0])]
        held = [Buffer(f"v{k}", v.dtype, self.width, local=True) for k, (_, _, v) in enumerate(targets)]
        first: list[Stmt] = [Store(h, lane, v) for h, (_, _, v) in zip(held, targets, strict=True)]
        return first + [Store(b, i, Load(h, lane)) for h, (b, i, _) in zip(held, targets, strict=True)]

    def finish_point(self, idx: tuple[Index, ...], lane: Index) -> list[Stmt]:
        """What follows a contraction at one point of its result: compute the group's nodes there and store them."""
        _, stores = self._targets(0)
        return self._store_point(stores, self._full_values(0, idx, {}, ZERO), idx, ZERO, lane)

    # nests

    def kernel(self) -> Kernel:
        body = self._rows_body() if self.by_rows else self._columns_body()
        nodes = self.nodes + self.group.sinks
        reduced = {*self.group.rows, *self.group.sinks} - set(self.group.finishes)
        flops = sum(n.inputs[0].type.size if n in reduced and n.inputs else n.type.size for n in nodes)
        body = body + borders(self.group, self.lowering, self.width)
        return make_kernel(self._name(), body, self.width, flops, tuple(nodes))

    def _name(self) -> str:
        ops = list(dict.fromkeys(n.op for n in self.nodes + self.group.sinks))
        return "_".join(ops[:4]) + (f"_and_{len(ops) - 4}_more" if len(ops) > 4 else "")

    def _rows_body(self) -> list[Stmt]:
        def row(p: Index) -> list[Stmt]:
            self.row_value = {}
            outer = self._outer(p)
            kept = self._kept_index(outer)
            body = self._row_nodes(0, kept, ZERO)
            for stage in range(self.last + 1):
                body += self._row_stage(stage, outer)
                body += self._row_nodes(stage + 1, kept, ZERO)
            return body

        if self.outer_size == 1:
            return row(ZERO)
        if self.group.sinks:
            return self.sinks.slices(self.outer_size, row, lambda p: p, None)
        return loop("par", "p", self.outer_size, row)

    def _row_stage(self, stage: int, outer: Mapping[int, Index]) -> list[Stmt]:
        """One pass over the reduced axes of one row: lane-wise partial results, folded at the end."""
        feeds, stores = self._targets(stage)
        sinks = self.sinks_at(stage)
        if not feeds and not stores and not sinks:
            return []
        width = self.width
        vectors = self.lane_size // width
        unroll = 4 if vectors >= 8 and len(self._needed(stage)) <= 12 else 2 if vectors >= 4 else 1
        partial, body = self._started(feeds, unroll)
        rows = self._row_read(ZERO)

        def vector(reduced: Sequence[Index], base: Index, part: Index, active: int) -> list[Stmt]:
            def lanes(x: Index) -> list[Stmt]:
                place = dict(outer)
                self._spread(self.reduced_runs, reduced, place)
                self._spread([self.lane_run], [base + x], place)
                idx = tuple(place[k] for k in range(self.rank))
                row = linear([*reduced, base + x], (*(self._size(r) for r in self.reduced_runs), self.lane_size))
                values = self._full_values(stage, idx, rows, row)
                stmts = self._accumulate(feeds, partial, values, idx, part * width + x)
                stmts += self._sunk(sinks, values, idx, part * width + x)
                return stmts + self._store_point(stores, values, idx, row, x) if stores else stmts

            return loop("lanes", "l", active, lanes)

        def across(reduced: tuple[Index, ...]) -> list[Stmt]:
            blocks, rest = divmod(self.lane_size, unroll * width)
            inner = loop(
                "serial", "j", blocks,
                lambda j: loop("unroll", "u", unroll, lambda u: vector(reduced, (j * unroll + u) * width, u, width)),
            )
            start = blocks * unroll * width
            for k in range(-(-rest // width)):
                inner += vector(reduced, index(start + k * width), index(k % unroll), min(width, rest - k * width))
            return inner

        body += self._over(self.reduced_runs, across)
        for n, b in partial.items():
            element = Const(0, b.dtype)
            name = opdef(n.op).rules["combine"](Elements.s, element, element).name
            total: Expr = Fold(name, b, ZERO, b.size)
            body.append(Store(self._row_buffer(n), ZERO, Elements.s.cast(total, n.dtype)))
        return body

    def _started(self, feeds: Sequence[Node], vectors: int) -> tuple[dict[Node, Buffer], list[Stmt]]:
        """Running values of reductions, `vectors` vectors of each, and what sets them to their start."""
        width = self.width
        partial = {n: Buffer(f"a{k}_{n.op}", accumulator(n.dtype), vectors * width, local=True) for k, n in enumerate(feeds)}
        body: list[Stmt] = []
        for n, b in partial.items():
            start = Const(opdef(n.op).rules["initial"](n.dtype), b.dtype)
            body += loop(
                "unroll",
                "u",
                vectors,
                lambda u, b=b, start=start: loop("lanes", "l", width, lambda x: [Store(b, u * width + x, start)]),
            )
        return partial, body

    def _accumulate(
        self,
        feeds: Sequence[Node],
        partial: Mapping[Node, Buffer],
        values: Mapping[Node, Expr],
        idx: tuple[Index, ...],
        at: Index,
    ) -> list[Stmt]:
        """Fold one point into the running values of the reductions."""
        body: list[Stmt] = []
        elements = Elements(self.lowering)
        for n in feeds:
            b = partial[n]
            operand = n.inputs[0]
            if n in self.group.finishes:
                element: Expr = Load(self.lowering.partial[n], linear(idx, self.group.full))
            else:
                element = Elements.s.cast(values[operand] if operand in values else elements.read(operand, idx), b.dtype)
            body.append(Store(b, at, opdef(n.op).rules["combine"](Elements.s, Load(b, at), element)))
        return body

    def _sunk(self, sinks: Sequence[Node], values: Mapping[Node, Expr], idx: tuple[Index, ...], part: Index) -> list[Stmt]:
        elements = Elements(self.lowering)
        return self.sinks.accumulate(sinks, lambda n: values[n] if n in values else elements.read(n, idx), idx, part)

    def _over(self, runs: Sequence[list[int]], body: Callable[[tuple[Index, ...]], list[Stmt]]) -> list[Stmt]:
        """Serial loops over several runs of axes."""

        def nest(k: int, done: tuple[Index, ...]) -> list[Stmt]:
            if k == len(runs):
                return body(done)
            return loop("serial", f"q{k}", self._size(runs[k]), lambda i: nest(k + 1, (*done, i)))

        return nest(0, ())

    def _columns_body(self) -> list[Stmt]:
        """Blocks of lanes along the innermost kept axis, each with all stages."""
        width = self.width
        abreast = self._vectors_abreast()
        per_block = abreast
        if not self.reductions and self.lane_size >= 8 * width:
            per_block = 4 if len(self.nodes) + len(self.group.sinks) <= 24 else 3
        blocks, rest = divmod(self.lane_size, per_block * width)

        def block(p: Index, base: Index, active: int, abreast: int = 1) -> list[Stmt]:
            self.abreast = abreast
            return self._column_vector(self._outer(p), base, active)

        def full(p: Index, j: Index) -> list[Stmt]:
            if abreast > 1:
                return block(p, j * per_block * width, width, abreast)

            def one(u: Index) -> list[Stmt]:
                self.part = u
                return block(p, (j * per_block + u) * width, width)

            return loop("unroll", "u", per_block, one)

        def tail(p: Index) -> list[Stmt]:
            self.part = ZERO
            body: list[Stmt] = []
            for k in range(-(-rest // width)):
                body += block(p, index((blocks * per_block + k) * width), min(width, rest - k * width))
            return body

        outer = self.outer_size
        if outer == 0 or self.lane_size == 0:
            return []
        if self.group.sinks:
            return self.sinks.pieces(outer, blocks, full, tail if rest else None)
        if outer >= _ROWS_FOR_TEAM or (outer > 1 and blocks <= 1):
            return loop("par", "p", outer, lambda p: loop("serial", "j", blocks, lambda j: full(p, j)) + tail(p))
        body: list[Stmt] = []
        if blocks:
            body += loop("par", "t", outer * blocks, lambda t: full(t // blocks, t % blocks))
        if rest:
            body += loop("par", "p", outer, tail) if outer > 1 else tail(ZERO) if not blocks else loop("par", "p", 1, tail)
        return body

    def _vectors_abreast(self) -> int:
        """How many vectors of kept elements are reduced together: what lies side by side in memory is read so. One, where
        a point does more than to add to some sums.
        """
        points = {n for stage in range(self.last + 1) for n in (*self._targets(stage)[1], *self.sinks_at(stage))}
        feeds = sum(len(self._targets(stage)[0]) for stage in range(self.last + 1))
        plain = not points and 1 <= feeds <= 2 and len(self.nodes) <= 12
        return 4 if plain and self.lane_size >= 8 * self.width else 1

    def _column_vector(self, outer: Mapping[int, Index], base: Index, active: int) -> list[Stmt]:
        """All stages for one vector of kept elements, or for `abreast` full ones."""
        self.row_value = {}
        abreast = self.abreast

        def lanes(body: Callable[[Index], list[Stmt]]) -> list[Stmt]:
            if self.lane_size == 1:
                return body(ZERO)
            return loop("unroll", "u", abreast, lambda u: loop("lanes", "l", active, lambda x: body(u * self.width + x)))

        def kept(x: Index) -> dict[int, Index]:
            place = dict(outer)
            if self.lane_run:
                self._spread([self.lane_run], [base + x], place)
            return place

        def rows(level: int) -> Callable[[Index], list[Stmt]]:
            return lambda x: self._row_nodes(level, self._kept_index(kept(x)), x)

        body = lanes(rows(0)) if self.axes else []
        for stage in range(self.last + 1):
            body += self._column_stage(stage, kept, lanes)
            if self.axes:
                body += lanes(rows(stage + 1))
        return body

    def _column_stage(
        self, stage: int, kept: Callable[[Index], dict[int, Index]], lanes: Callable[..., list[Stmt]]
    ) -> list[Stmt]:
        feeds, stores = self._targets(stage)
        sinks = self.sinks_at(stage)
        if not feeds and not stores and not sinks:
            return []
        partial, body = self._started(feeds, self.abreast)

        def one(reduced: tuple[Index, ...]) -> list[Stmt]:
            def at(x: Index) -> list[Stmt]:
                place = kept(x)
                self._spread(self.reduced_runs, reduced, place)
                idx = tuple(place[k] for k in range(self.rank))
                values = self._full_values(stage, idx, self._row_read(x), ZERO)
                stored = self._store_point(stores, values, idx, ZERO, x) if stores else []
                stored = self._sunk(sinks, values, idx, self.part * self.width + x) + stored
                return self._accumulate(feeds, partial, values, idx, x) + stored

            return lanes(at)

        body += self._over(self.reduced_runs, one)
        for n, b in partial.items():
            body += lanes(lambda x, n=n, b=b: [Store(self._row_buffer(n), x, Elements.s.cast(Load(b, x), n.dtype))])
        return body


def lower_loops(group: Group, lowering: Lowering) -> list[Kernel]:
    """The kernel of a `loops` group; none when it has no elements."""
    lowered = LoopsGroup(group, lowering)
    kernel = lowered.kernel()
    return [kernel] if kernel.body else []


__all__ = ["Elements", "Given", "Lowering", "LoopsGroup", "Op", "lanes_of", "lower_loops"]
