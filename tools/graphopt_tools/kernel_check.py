"""Native kernels beside the loop interpreter: each runs alone, on what the kernels before it left in memory.

A step that the interpreter could not run in reasonable time is still run kernel by kernel, all of it by native code; what
the interpreter can afford of each kernel's parallel iterations it computes from the same inputs, and both must agree there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt import compile as compiler
from graphopt.kernel.items import Choose, Item
from graphopt.kernel.loops import Buffer, For, Kernel
from graphopt.kernel.step import Step
from graphopt.kernel.wide import Price, prices, run_wide
from graphopt.passes import pipeline
from graphopt_runtime.engine import Target

Arrays = list[np.ndarray]
_TRIPS = 16  # that a loop is taken to have whose number of trips shows when it runs


@dataclass(frozen=True)
class Mismatch:
    """A kernel whose native code and loops leave different values in a buffer, and by how much they differ."""

    kernel: Kernel
    buffer: Buffer
    apart: float


@dataclass
class Comparison:
    """What was compared.

    whole, sampled, spared: kernels all of whose iterations were compared, some, or none because their branch was not taken.
    least, share: the smallest share of iterations compared of a sampled kernel, and that of the whole step's work.
    elements, equal: elements compared, and those of them that have the same bits.
    """

    whole: int = 0
    sampled: int = 0
    spared: int = 0
    least: float = 1.0
    share: float = 1.0
    elements: int = 0
    equal: int = 0
    mismatch: Mismatch | None = None
    outputs: Arrays = field(default_factory=list)

    def __str__(self) -> str:
        counts = [f"{self.whole} whole"]
        if self.sampled:
            shares = f"{_percent(self.least)} or more of their iterations, {_percent(self.share)} of all work"
            counts.append(f"{self.sampled} on {shares}")
        if self.spared:
            counts.append(f"{self.spared} not, in branches not taken")
        same = "all" if self.equal == self.elements else _percent(self.equal / self.elements)
        return f"{'; '.join(counts)}; {same} of {self.elements:,} elements equal bit by bit"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %" if share < 0.995 else f"{min(share, 0.99999):.3%}".replace("%", " %")


def seconds_of(step: Step) -> float:
    """About how long the loop interpreter needs for a step."""
    return sum(trips * _seconds(kernel) for kernel, trips in _runs(step.items, 1))


def _seconds(kernel: Kernel) -> float:
    rest, loops = prices(kernel)
    return rest + sum(p.seconds(p.loop.var.size) for p in loops)


def _runs(items: Sequence[Item], trips: int) -> Iterator[tuple[Kernel, int]]:
    """The kernels, and how often each runs."""
    for i in items:
        if isinstance(i, Kernel):
            yield i, trips
        elif isinstance(i, Choose):
            yield from _runs((*i.then, *i.other), trips)
        else:
            yield from _runs((*i.test, *i.body), trips * (_TRIPS if i.length is None else i.length))


def compare_kernels(
    step: Step, target: Target, inputs: Sequence[np.ndarray], state: Sequence[np.ndarray], seconds: float
) -> Comparison:
    """Run a step's native kernels one by one, beside as much of the loop interpreter as fits into about so many seconds.

    The arrays of `state` are updated in place. After the first mismatch nothing is compared any more.
    """
    native = compiler.native_kernels(step, target)
    compared = _Compared(step, seconds)

    def run(kernel: Kernel, memory: compiler.Memory) -> None:
        if compared.made.mismatch is not None:
            return
        chosen = compared.next_run(kernel)
        if chosen is None:
            native(kernel, memory)
            return
        called = dict(zip(kernel.params, kernel.args, strict=True))
        own = dict(memory) | {called[p]: memory[called[p]].copy() for p in kernel.params if p in kernel.writes}
        native(kernel, memory)
        for buffer, written in run_wide(kernel, own, chosen).items():
            compared.add(kernel, buffer, own[buffer][written], memory[buffer][written])

    compared.made.outputs = compiler.run_loops(step, inputs, state, run)
    return compared.summed_up()


class _Compared:
    """Which iterations are compared, and what came of it.

    Every kernel may take the same time, or what it needs. One that needs more, and runs in a loop, is looked at on some trips.
    """

    def __init__(self, step: Step, seconds: float):
        self.made = Comparison()
        self._rng = np.random.default_rng(0)
        self._prices: dict[Kernel, tuple[float, list[Price]]] = {k: prices(k) for k in step.kernels}
        self._ran = dict.fromkeys(step.kernels, 0)
        self._work: dict[Kernel, tuple[float, float]] = dict.fromkeys(step.kernels, (0.0, 0.0))  # compared, of all
        self._trips = dict(_runs(step.items, 1))
        self._seconds = {k: _seconds(k) for k in step.kernels}
        self._most = _level([self._seconds[k] * trips for k, trips in self._trips.items()], seconds)

    def next_run(self, kernel: Kernel) -> Mapping[For, np.ndarray] | None:
        """The iterations to be compared in this run of a kernel, as `run_wide` takes them; None for none.

        Of many trips of a loop those are looked at whose number is a power of two.
        """
        rest, loops = self._prices[kernel]
        trip = self._ran[kernel]
        self._ran[kernel] += 1
        done, total = self._work[kernel]
        each = [p.each * p.loop.var.size for p in loops]
        whole = rest + sum(each)
        trips = self._trips[kernel]
        if trip & (trip - 1) and self._seconds[kernel] * max(trip, trips) > self._most:
            self._work[kernel] = done, total + whole
            return None
        chosen: dict[For, np.ndarray] = {}
        part = rest
        for p, all_of_it in zip(loops, each, strict=True):
            size = p.loop.var.size
            runs = min(trips, 1 + trips.bit_length())
            count = p.affordable(self._most / runs * all_of_it / sum(each))
            if count < size:
                inner = self._rng.choice(np.arange(1, size - 1), count - 2, replace=False)
                chosen[p.loop] = np.array([0, *np.sort(inner), size - 1])
            part += all_of_it * min(count, size) / size
        self._work[kernel] = done + part, total + whole
        return chosen

    def add(self, kernel: Kernel, buffer: Buffer, interpreted: np.ndarray, native: np.ndarray) -> None:
        made = self.made
        made.elements += native.size
        made.equal += int(np.sum(_bits(interpreted) == _bits(native)))
        if made.mismatch is None and not pipeline.close(interpreted, native):
            with np.errstate(all="ignore"):
                apart = np.max(np.abs(interpreted.astype(np.float64) - native.astype(np.float64)), initial=0.0)
            made.mismatch = Mismatch(kernel, buffer, float(apart))

    def summed_up(self) -> Comparison:
        made = self.made
        shares = [1.0 if total == 0.0 else done / total for done, total in self._work.values()]
        ran = [s for s, n in zip(shares, self._ran.values(), strict=True) if n]
        made.spared = len(shares) - len(ran)
        made.sampled = sum(s < 1 - 1e-9 for s in ran)
        made.whole = len(ran) - made.sampled
        made.least = min(ran, default=1.0)
        total = sum(t for _, t in self._work.values())
        made.share = sum(d for d, _ in self._work.values()) / total if total else 1.0
        return made


def _bits(array: np.ndarray) -> np.ndarray:
    return array.view(f"u{array.dtype.itemsize}")


def _level(needs: list[float], total: float) -> float:
    """The most that each may have so that all together have `total`, where none takes more than it needs."""
    left, many = total, len(needs)
    for need in sorted(needs):
        if need * many > left:
            return left / many
        left, many = left - need, many - 1
    return float("inf")
