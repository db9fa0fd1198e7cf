"""Sinks: reductions over other axes than those of the pass that feeds them.

The pass runs over its rows in slices. Each slice leaves a partial result of every sink; another kernel reduces those in
the order of the slices, whose number the shapes fix: the bits are the same for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphopt.ir.graph import Node
from graphopt.ir.index import ZERO, Index, linear
from graphopt.kernel.loops import Buffer, Const, Expr, Fold, Load, Op, Recorder, Stmt, Store, accumulator, loop
from graphopt.opdefs.opdef import opdef
from graphopt.passes.fuse import Group

_PARTS = 4  # vectors that consecutive elements are dealt to, so that no addition waits for the one before it

Rows = Callable[[Index], list[Stmt]]


class Sinks:
    """The running values of one group's sinks.

    A sink that keeps the lanes' axis adds to memory, one that does not to registers: for a slice if nothing is kept,
    otherwise for a row, whose total goes to memory.
    """

    s = Recorder()

    def __init__(
        self,
        group: Group,
        width: int,
        lane_axes: Sequence[int],
        outer: Callable[[Index], Mapping[int, Index]],
        temporary: Callable[..., Buffer],
    ):
        self.group = group
        self.width = width
        self.outer = outer
        self.at: Index = ZERO
        self.partial: dict[Node, Buffer] = {}
        self.running: dict[Node, Buffer] = {}
        for k, n in enumerate(group.sinks):
            dtype = accumulator(n.dtype)
            self.partial[n] = temporary("slices", dtype, group.slices * n.type.size)
            if any(a in n.attrs["axes"] for a in lane_axes):
                self.running[n] = Buffer(f"s{k}_{n.op}", dtype, _PARTS * width, local=True)

    # the pass

    def slices(
        self, rows: int, row: Rows, outer_of: Callable[[Index], Index], rest: Callable[[], list[Stmt]] | None
    ) -> list[Stmt]:
        """All rows, in slices of equal size or one more; `rest` is a slice of its own, the last one.

        outer_of: the outer kept axes' position of a row.
        """
        many = self.group.slices - (rest is not None)
        size, more = divmod(rows, many)

        def slices_of(first: int, count: int, size: int, first_row: int) -> list[Stmt]:
            def one(s: Index) -> list[Stmt]:
                start = s * size + first_row
                return self._slice(s + first, lambda: self._rows(size, lambda r: row(start + r), lambda r: outer_of(start + r)))

            return loop("par", "s", count, one)

        body = slices_of(0, more, size + 1, 0) + slices_of(more, many - more, size, more * (size + 1))
        if rest is not None:
            body += loop("par", "s", 1, lambda s: self._slice(s + many, rest))
        return body

    def pieces(self, outer: int, blocks: int, block: Callable[[Index, Index], list[Stmt]], tail: Rows | None) -> list[Stmt]:
        """A plain pass: rows of `blocks` and a tail; few long rows are cut into pieces."""

        def ended(p: Index) -> list[Stmt]:
            return tail(p) if tail is not None else []

        many = self.group.slices
        if outer >= many or not blocks:
            return self.slices(outer, lambda p: loop("serial", "j", blocks, lambda j: block(p, j)) + ended(p), lambda p: p, None)
        cut = min(-(-(many - 1) // outer), blocks)
        size, left = divmod(blocks, cut)

        def piece(t: Index) -> list[Stmt]:
            return loop("serial", "j", size, lambda j: block(t // cut, t % cut * size + j))

        def row_end(p: Index) -> list[Stmt]:
            return loop("serial", "j", left, lambda j: block(p, j + cut * size)) + ended(p)

        def rest() -> list[Stmt]:
            return self._rows(outer, row_end, lambda p: p)

        return self.slices(outer * cut, piece, lambda t: t // cut, rest if left or tail is not None else None)

    # running values

    def _slice(self, at: Index, body: Callable[[], list[Stmt]]) -> list[Stmt]:
        """One slice: its partial results begin as they are where nothing is reduced, and are whole at the end."""
        self.at = at
        before: list[Stmt] = []
        for n in self.group.sinks:
            before += self._cleared(n, self.partial[n], at * n.type.size, n.type.size)
            if self._for_slice(n):
                before += self._cleared(n, self.running[n], ZERO, self.running[n].size)
        after = [x for n in self.group.sinks if self._for_slice(n) for x in self._flushed(n, {})]
        return before + body() + after

    def _rows(self, count: int, row: Rows, outer_of: Callable[[Index], Index]) -> list[Stmt]:
        running = [n for n in self.running if not self._for_slice(n)]

        def one(r: Index) -> list[Stmt]:
            before = [x for n in running for x in self._cleared(n, self.running[n], ZERO, self.running[n].size)]
            after = [x for n in running for x in self._flushed(n, self.outer(outer_of(r)))]
            return before + row(r) + after

        return loop("serial", "r", count, one)

    def _for_slice(self, n: Node) -> bool:
        return n in self.running and n.type.size == 1

    def _cleared(self, n: Node, buffer: Buffer, start: Index, size: int) -> list[Stmt]:
        value = Const(opdef(n.op).rules["initial"](n.dtype), buffer.dtype)
        blocks, rest = divmod(size, self.width)
        kind = "unroll" if buffer.local else "serial"
        body = loop(
            kind, "z", blocks,
            lambda z: loop("lanes", "l", self.width, lambda x: [Store(buffer, start + z * self.width + x, value)]),
        )  # fmt: skip
        return body + loop("lanes", "l", rest, lambda x: [Store(buffer, start + x + blocks * self.width, value)])

    def _flushed(self, n: Node, place: Mapping[int, Index]) -> list[Stmt]:
        """The registers' total joins the slice's partial result."""
        running = self.running[n]
        element = Const(0, running.dtype)
        total = Fold(self._combined(n, element, element).name, running, ZERO, running.size)
        at = self._element(n, place)
        return [Store(self.partial[n], at, self._combined(n, Load(self.partial[n], at), total))]

    def _combined(self, n: Node, running: Expr, element: Expr) -> Op:
        op: Op = opdef(n.op).rules["combine"](self.s, running, element)
        return op

    def _element(self, n: Node, place: Mapping[int, Index]) -> Index:
        """Where this slice's partial result for a point lies; axes of length 1 may be missing in `place`."""
        shape = self.group.full
        kept = [k for k in range(len(shape)) if k not in n.attrs["axes"]]
        return self.at * n.type.size + linear([place.get(k, ZERO) for k in kept], tuple(shape[k] for k in kept))

    def accumulate(self, sinks: Sequence[Node], value: Callable[[Node], Expr], idx: Sequence[Index], part: Index) -> list[Stmt]:
        """Fold one point's values into those sinks; `part`: the vector of running values, and the lane in it."""
        body: list[Stmt] = []
        for n in sinks:
            buffer = self.running.get(n, self.partial[n])
            at = part if n in self.running else self._element(n, dict(enumerate(idx)))
            element = self.s.cast(value(n.inputs[0]), buffer.dtype)
            body.append(Store(buffer, at, self._combined(n, Load(buffer, at), element)))
        return body
