"""Where barriers stand in a step with branches and loops."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.kernel.items import Choose, Item, Repeat, controls_of, kernels_of
from graphopt.kernel.loops import Buffer, Kernel, reads_and_writes
from graphopt.passes.memory import MemoryPlan

Touch = tuple[Buffer, bool, bool]  # a buffer, whether it is written, whether by the team


class Barriers:
    """A barrier stands before a kernel that is dealt out in chunks, and before what touches memory that something else has
    touched since the last barrier, when one of the two writes it, unless thread 0 runs both. Slices are not compared, as
    `graphopt.kernel.barriers` does for steps without branches and loops.

    before: kernels, branches and loops with a barrier before them; before_test: loops with one before each reading of
            their test's result.

    Cost: O(kernels x buffers touched since a barrier); loops are gone through until nothing new is found.
    """

    def __init__(self, plan: MemoryPlan, team: set[Kernel], dealt: set[Kernel], windows: dict[Buffer, Buffer]):
        self.plan = plan
        self.team = team
        self.windows = windows
        self.before: set[Item] = set(dealt)
        self.before_test: set[Item] = set()
        self.pending: dict[Touch, None] = {}

    def shared(self, item: Item) -> bool:
        """Does the team take part in it?"""
        return any(k in self.team for k in kernels_of([item]))

    def sequence(self, items: Sequence[Item]) -> None:
        for i in items:
            if isinstance(i, Kernel) or not self.shared(i):
                self._touch(i, self.before, self._all(i))
            elif isinstance(i, Choose):
                self._touch(i, self.before, [(i.pred, False, True)])
                start = self.pending
                self.sequence(i.then)
                after, self.pending = self.pending, start
                self.sequence(i.other)
                self.pending = after | self.pending
            else:
                self._repeat(i)

    def _repeat(self, loop: Repeat) -> None:
        ends = [(loop.trips, False, True)] if loop.trips is not None else []
        self._touch(loop, self.before, ends + ([(loop.count, True, False)] if loop.count is not None else []))
        while True:
            start, found = self.pending, len(self.before) + len(self.before_test)
            self.sequence(loop.test)
            if loop.goes_on is not None:
                self._touch(loop, self.before_test, [(loop.goes_on, False, True)])
            leaving = self.pending
            self.sequence(loop.body)
            self.pending = start | self.pending
            if self.pending.keys() == start.keys() and found == len(self.before) + len(self.before_test):
                break
        self.pending = leaving if loop.goes_on is not None else self.pending
        if loop.count is not None:
            self.pending = self.pending | {(self._base(loop.count), True, False): None}

    def _all(self, item: Item) -> list[Touch]:
        """What a kernel touches, or a branch or loop that thread 0 runs alone."""
        found: dict[Touch, None] = {}
        for k in kernels_of([item]):
            reads, writes = reads_and_writes(k)
            found.update({(b, b in writes, k in self.team): None for b in reads | writes})
        if not isinstance(item, Kernel):
            for inner in controls_of([item]):
                read = [inner.pred] if isinstance(inner, Choose) else [inner.trips, inner.goes_on]
                found.update({(b, False, False): None for b in read if b is not None})
                if isinstance(inner, Repeat) and inner.count is not None:
                    found[inner.count, True, False] = None
        return list(found)

    def _touch(self, item: Item, barriers: set[Item], mine: Sequence[Touch]) -> None:
        mine = [(self._base(b), w, t) for b, w, t in mine]
        if item in barriers or any(
            (w or v) and (team or t) and self._overlap(a, b) for b, w, team in mine for a, v, t in self.pending
        ):
            barriers.add(item)
            self.pending = {}
        self.pending = self.pending | dict.fromkeys(mine)

    def _base(self, b: Buffer) -> Buffer:
        while b in self.windows:
            b = self.windows[b]
        return b

    def _overlap(self, a: Buffer, b: Buffer) -> bool:
        if a is b:
            return True
        x, y = self.plan.offsets.get(a), self.plan.offsets.get(b)
        if x is None or y is None:
            return False
        return x < y + b.size * b.dtype.itemsize and y < x + a.size * a.dtype.itemsize
