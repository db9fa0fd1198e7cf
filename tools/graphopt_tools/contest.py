"""Contestants of `graphopt bench`: processes that work on command, and turns in which they are measured."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Self

import numpy as np

from graphopt_tools.mistakes import Mistake
from graphopt_tools.workloads import Workload

PEER_FOLDER = Path(__file__).with_name("peers")
CHECKED_STEPS = 10
TOLERANCE = 1e-3  # of results after a few steps: float32 sums in another order differ by 1e-5, another algorithm by far more
TURN_SECONDS = 0.1
TURNS = 5  # at least, so that a median means something
QUIET_SECONDS = 0.05  # before a turn: threads of some libraries spin for a while after their last work, where another should run
Results = list[list[list[float]]]


@dataclass(slots=True)
class Result:
    """What one contestant did with one workload; times in seconds, `seconds` per step for each turn.

    failure: why there are no times. difference: where its results are not the reference's.
    results: for each of the first steps, for each tensor, what serve.py's `summary` says.
    counts: the work that cannot be avoided, and of what the native function consists (graphopt only).
    """

    name: str
    version: str = ""
    failure: str = ""
    difference: str = ""
    first_seconds: float = 0.0
    cached_seconds: float | None = None
    results: Results = field(default_factory=list)
    counts: dict[str, int] | None = None
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def measured(self) -> bool:
        return not self.failure and bool(self.seconds)

    @property
    def step_seconds(self) -> float:
        return median(self.seconds)

    def summary(self) -> dict[str, Any]:
        """Every number, for the JSON file."""
        found: dict[str, Any] = {"contestant": self.name, "version": self.version}
        if self.failure:
            return found | {"failure": self.failure}
        return found | {
            "step_ms": self.step_seconds * 1e3,
            "step_ms_min": min(self.seconds) * 1e3,
            "turns": len(self.seconds),
            "first_call_s": self.first_seconds,
            "first_call_from_cache_s": self.cached_seconds,
            "peak_bytes": self.peak_bytes,
            "difference": self.difference,
            "results": self.results,
            "counts": self.counts,
        }


class Contestant:
    """A process that works on command and is stopped in between, as some frameworks' idle threads are never quiet. Leaving
    the `with` block ends it.

    limit: seconds after which an answer is no longer waited for.
    """

    def __init__(
        self, framework: str, variant: str, python: str, threads: int, environment: Mapping[str, str], limit: float
    ) -> None:
        command = [python, str(PEER_FOLDER / "serve.py"), framework, variant, str(threads)]
        self.name = f"{framework} {variant}".strip()
        self.limit = limit
        self.folder = tempfile.TemporaryDirectory(prefix="graphopt-peer-")  # some frameworks leave files where they run
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed on exit)
        self.rest = b""
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.log,
                env=dict(environment),
                cwd=self.folder.name,
                bufsize=0,
                start_new_session=True,  # a group of its own, with whatever processes it starts
            )
        except OSError as error:
            self.log.close()
            self.folder.cleanup()
            raise Mistake(f"cannot start {python} for {framework}: {error.strerror or error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self.process.communicate()
        self.log.close()
        self.folder.cleanup()

    def end(self) -> None:
        """Kill it, if it has not ended."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Let it work on one command and wait for its answer.

        Errors: Mistake with the contestant's own words when it failed, died or took too long.
        """
        self._signal(signal.SIGCONT)
        line = self._exchange((json.dumps({"command": command, **arguments}) + "\n").encode())
        self._signal(signal.SIGSTOP)
        if not line:
            raise Mistake(f"{self.name} ended without an answer{self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Mistake(f"{self.name} failed: {answer['error']}")
        return answer

    def _exchange(self, request: bytes) -> bytes:
        """The line that answers; empty when the process has ended."""
        stdin, stdout = self.process.stdin, self.process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("a contestant is started with pipes")
        deadline = time.monotonic() + self.limit
        try:
            stdin.write(request)
        except BrokenPipeError:
            return b""
        with selectors.DefaultSelector() as ready:
            ready.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self.rest:
                if not ready.select(max(0.0, deadline - time.monotonic())):
                    self.end()
                    raise Mistake(f"{self.name} gave no answer within {self.limit:g} s")
                part = stdout.read(1 << 16)
                if not part:
                    return b""
                self.rest += part
        line, _, self.rest = self.rest.partition(b"\n")
        return line

    def _last_words(self) -> str:
        self.process.wait()
        self.log.seek(0)
        lines = [line.strip() for line in self.log if line.strip()]
        return f": {lines[-1]}" if lines else ""


def measure(workload: Workload, pythons: Mapping[str, str], threads: int, seconds: float, limit: float) -> list[Result]:
    """Every contestant's result, graphopt's first; turns go round so that a disturbance meets all alike."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="graphopt-bench-"))
        data = os.path.join(folder, "data.npz")
        np.savez(data, **workload.arrays())  # type: ignore[arg-type]
        environment = child_environment(threads, folder)
        stack.enter_context(only_cpus(threads))
        contestants = [
            stack.enter_context(Contestant(framework, variant, python, threads, environment, limit))
            for framework, python in pythons.items()
            for variant in (workload.variants if framework == "torch" else ("",))
        ]
        late = [wait_for(contestant) for contestant in contestants]  # all import at the same time, before anyone is timed
        pairs = zip(contestants, late, strict=True)
        results = [failed or start(contestant, workload, data) for contestant, failed in pairs]
        own = results[0]
        if not own.failure:
            with Contestant("graphopt", "", pythons["graphopt"], threads, environment, limit) as second:
                wait_for(second)
                own.cached_seconds = start(second, workload, data).first_seconds
        take_turns(contestants, results, seconds)
    compare(results)
    return results


def wait_for(contestant: Contestant) -> Result | None:
    """Until it has imported its framework; if it cannot, why."""
    try:
        contestant.ask("ready")
    except Mistake as failure:
        return Result(contestant.name, failure=str(failure))
    return None


def start(contestant: Contestant, workload: Workload, data: str) -> Result:
    """Build the workload and take the first steps, or say why not."""
    try:
        answer = contestant.ask("init", **workload.spec(), file=data, warm=CHECKED_STEPS)
    except Mistake as failure:
        contestant.end()
        return Result(contestant.name, failure=str(failure))
    return Result(
        contestant.name,
        answer["version"],
        first_seconds=answer["first_seconds"],
        results=answer["results"],
        counts=answer["counts"],
    )


def take_turns(contestants: Sequence[Contestant], results: Sequence[Result], seconds: float) -> None:
    """Let each contestant work for about TURN_SECONDS, one after the other with a pause, until each had `seconds` in all.

    One whose steps are long has TURNS turns of one step; if even they take much more than `seconds`, fewer.
    """
    pairs = [(c, r) for c, r in zip(contestants, results, strict=True) if not r.failure]
    steps: dict[str, int] = {}
    for contestant, result in pairs:
        one = _run(contestant, result, 2) / 2
        steps[result.name] = max(1, round(min(TURN_SECONDS, seconds) / max(one, 1e-7)))
        result.seconds.clear()
    for turn in range(max(TURNS, round(seconds / TURN_SECONDS))):
        for contestant, result in pairs:
            used = sum(result.seconds) * steps[result.name]
            if not result.failure and (turn < 2 or used < 4 * seconds) and (turn < TURNS or used < seconds):
                _run(contestant, result, steps[result.name])


def _run(contestant: Contestant, result: Result, count: int) -> float:
    """One turn, when the others are quiet: seconds in all; a contestant that fails now has failed."""
    time.sleep(QUIET_SECONDS)
    try:
        answer = contestant.ask("run", steps=count)
    except Mistake as failure:
        result.failure = str(failure)
        return 0.0
    result.seconds.append(answer["seconds"] / count)
    result.peak_bytes = answer["peak_bytes"]
    seconds: float = answer["seconds"]
    return seconds


def child_environment(threads: int, folder: str) -> dict[str, str]:
    """The contestants' environment: the same number of threads for everybody's libraries, empty caches, stock BLAS."""
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
    if "PYTHONPATH" in environment:  # contestants run in folders of their own
        paths = environment["PYTHONPATH"].split(os.pathsep)
        environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in paths if path)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GRAPHOPT_THREADS"):
        environment[variable] = str(threads)
    return environment | {
        "GRAPHOPT_CACHE": os.path.join(folder, "cache"),
        "TORCHINDUCTOR_CACHE_DIR": os.path.join(folder, "inductor"),
        "JAX_PLATFORMS": "cpu",
    }


@contextmanager
def only_cpus(threads: int) -> Iterator[None]:
    """Processes started inside may use the first `threads` CPUs only: for frameworks that count CPUs, not variables."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def compare(results: Sequence[Result]) -> None:
    """Note for each contestant whose results are not the first one's where they differ."""
    reference, *others = [r for r in results if not r.failure] or [Result("")]
    for other in others:
        other.difference = difference(reference, other)


def difference(reference: Result, other: Result) -> str:
    """Where the results of another contestant first leave the reference's; empty if nowhere."""
    for k, (ours, theirs) in enumerate(zip(reference.results, other.results, strict=True)):
        if len(ours) != len(theirs):
            return f"step {k + 1} gives {len(theirs)} tensors, with {reference.name} {len(ours)}"
        for tensor, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            near = TOLERANCE * max(abs(a[0]), abs(b[0]))
            for x, y in zip(a, b, strict=True):
                if not abs(x - y) <= near:
                    what = f"tensor {tensor} of step {k + 1}" if len(ours) > 1 else f"the result of step {k + 1}"
                    return f"{what} is {y:.6g}, with {reference.name} {x:.6g}"
    return ""
