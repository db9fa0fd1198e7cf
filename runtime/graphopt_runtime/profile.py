"""Where the time of a step goes: per kernel its time, and what it computed and moved in that time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from .executor import Executable
from .program import Call

_TURN = 5  # runs that one of the two twins has before it is the other's turn
_LEAST_RUNS = 15


@dataclass(frozen=True, slots=True)
class KernelTime:
    """A kernel's share of a step, by the clock of thread 0.

    number:  its place in the order of execution. call: what is known about it without running it.
    seconds: in the kernel. wait_seconds: at the barrier before it. runs: how often a step runs it, in loops not once.
    """

    number: int
    call: Call
    seconds: float
    wait_seconds: float
    runs: float = 1.0

    @property
    def gflops(self) -> float:
        """10^9 floating-point operations per second."""
        return self.runs * self.call.flops / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def gbytes(self) -> float:
        """10^9 bytes per second, every buffer counted once."""
        return self.runs * self.call.bytes / self.seconds / 1e9 if self.seconds else 0.0

    def roofline(self, gflops: float, gbytes: float) -> float:
        """The time that a machine of these speeds needs at least, over the time it took; above 1 for what lies in caches."""
        least = self.runs * max(self.call.flops / gflops, self.call.bytes / gbytes) / 1e9
        return least / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Profile:
    """A profiled step.

    Times are means over the middle half of the runs by their total, so that they add up and no outlier counts.

    threads:      how many ran it. runs: how many runs were measured.
    kernels:      in order of execution, each once.
    end_seconds:  thread 0 waiting for the others after its last kernel.
    step_seconds: the same step without clocks in it.
    """

    name: str
    threads: int
    runs: int
    kernels: tuple[KernelTime, ...]
    end_seconds: float
    step_seconds: float

    @property
    def seconds(self) -> float:
        """What the kernels and the waiting add up to."""
        return sum(k.seconds + k.wait_seconds for k in self.kernels) + self.end_seconds

    @property
    def wait_seconds(self) -> float:
        """All waiting at barriers and for the end."""
        return sum(k.wait_seconds for k in self.kernels) + self.end_seconds

    def rows(self, gflops: float = 0.0, gbytes: float = 0.0) -> list[dict[str, Any]]:
        """Plain data, slowest kernel first; with the machine's speeds, also the share of its roofline."""
        rows: list[dict[str, Any]] = []
        for k in sorted(self.kernels, key=lambda k: -k.seconds):
            row = {
                "number": k.number, "kernel": k.call.kernel, "cell": k.call.cell, "where": k.call.where,
                "seconds": k.seconds, "wait_seconds": k.wait_seconds, "share": k.seconds / self.seconds,
                "flops": k.call.flops, "bytes": k.call.bytes, "extent": k.call.extent, "runs": k.runs,
                "gflops_per_second": k.gflops, "gbytes_per_second": k.gbytes,
            }  # fmt: skip
            if gflops and gbytes:
                row["roofline"] = k.roofline(gflops, gbytes)
            rows.append(row)
        return rows


def profile(
    timed: Executable, plain: Executable, inputs: Sequence[np.ndarray], state: Sequence[np.ndarray], seconds: float = 1.0
) -> Profile:
    """Measure a step by its twin `timed`, which measures itself; they take turns on a copy of `state`, for `seconds`.

    Errors: ValueError when `timed` does not measure itself.
    """
    copies = [np.array(v, order="C") for v in state]
    call = plain.caller(copies)
    whole: list[float] = []
    taken: list[np.ndarray] = []
    until = perf_counter() + seconds
    while perf_counter() < until or len(taken) < _LEAST_RUNS:
        timed.times(inputs, copies)  # the first after the other finds its memory cold
        taken += [timed.times(inputs, copies) for _ in range(_TURN)]
        call(inputs)
        for _ in range(_TURN):
            start = perf_counter()
            call(inputs)
            whole.append(perf_counter() - start)
    calls = timed.program.calls
    rows = np.stack(taken)
    middle = _middle(rows[:, : 2 * len(calls) + 1]) * 1e-9
    runs = rows[:, 2 * len(calls) + 1 :].mean(axis=0)
    kernels = tuple(
        KernelTime(k, c, float(middle[2 * k + 1]), float(middle[2 * k]), float(runs[k])) for k, c in enumerate(calls)
    )
    step = float(_middle(np.array(whole)[:, None])[0])
    return Profile(plain.program.name, plain.width, len(taken), kernels, float(middle[-1]), step)


def _middle(runs: np.ndarray) -> np.ndarray:
    """The mean row of the middle half of the rows, by their sum."""
    order = np.argsort(runs.sum(axis=1), kind="stable")
    quarter = len(order) // 4
    return np.asarray(runs[order[quarter : len(order) - quarter]].mean(axis=0))
