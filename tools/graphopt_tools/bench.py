"""`graphopt bench`: whole training steps, each contestant in a process of its own, measured in turns."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Self

import numpy as np
from rich.console import Console
from rich.table import Table

from graphopt_tools.mistakes import Mistake
from graphopt_tools.workloads import WORKLOADS, Workload

PEERS = ("torch", "jax", "mindspore")
PEER_FOLDER = Path(__file__).with_name("peers")
CHECKED_STEPS = 10
TOLERANCE = 1e-3  # of losses after a few steps: float32 sums in another order differ by 1e-6, another algorithm by far more
TURN_SECONDS = 0.2
PAUSE_SECONDS = 0.02  # lets the spinning threads of the contestant before fall asleep


@dataclass(slots=True)
class Result:
    """What one contestant did with one workload; times in seconds, `seconds` per step for each turn."""

    contestant: str
    version: str
    first_seconds: float
    cached_seconds: float | None
    losses: list[float]
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def step_seconds(self) -> float:
        return median(self.seconds)

    def summary(self) -> dict[str, Any]:
        """Every number, for the JSON file."""
        return {
            "contestant": self.contestant,
            "version": self.version,
            "step_ms": self.step_seconds * 1e3,
            "step_ms_min": min(self.seconds) * 1e3,
            "turns": len(self.seconds),
            "first_call_s": self.first_seconds,
            "first_call_from_cache_s": self.cached_seconds,
            "peak_bytes": self.peak_bytes,
            "losses": self.losses,
        }


class Contestant:
    """A process that trains on command. Leaving the `with` block ends it."""

    def __init__(self, name: str, python: str, environment: Mapping[str, str]) -> None:
        command = [python, str(PEER_FOLDER / "serve.py"), name]
        self.name = name
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed on exit)
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=dict(environment)
            )
        except OSError as error:
            self.log.close()
            raise Mistake(f"cannot start {python} for {name}: {error.strerror or error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.log.close()

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send one command and wait for its answer.

        Errors: Mistake with the contestant's own words when it failed or died.
        """
        stdin, stdout = self.process.stdin, self.process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("a contestant is started with pipes")
        try:
            stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Mistake(f"{self.name} ended without an answer{self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Mistake(f"{self.name} failed: {answer['error']}")
        return answer

    def _last_words(self) -> str:
        self.log.seek(0)
        lines = [line.strip() for line in self.log if line.strip()]
        return f": {lines[-1]}" if lines else ""


def run_bench(workloads: Sequence[str], peers: Sequence[str], file: Path | None, threads: int, seconds: float) -> None:
    """The command `graphopt bench`.

    Errors: Mistake for an unknown workload or peer, a contestant that fails, or losses that disagree.
    """
    unknown = [name for name in workloads if name not in WORKLOADS]
    if unknown or not workloads:
        raise Mistake(f"no workload {', '.join(unknown) or 'given'}; there are {', '.join(WORKLOADS)}")
    pythons = {"graphopt": sys.executable, **dict(parse_peer(peer) for peer in peers)}
    console = Console()
    report: dict[str, Any] = {"threads": threads, "load_average": list(os.getloadavg()), "workloads": {}}
    table = new_table(threads)
    disagreements: list[str] = []
    for name in workloads:
        with console.status(f"{name}: {', '.join(pythons)}"):
            results = measure(WORKLOADS[name], pythons, threads, seconds)
        disagreements += [f"{name}: {text}" for text in disagreement(results)]
        add_rows(table, name, results)
        report["workloads"][name] = [result.summary() for result in results]
    console.print(table)
    if file is not None:
        try:
            file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise Mistake(f"cannot write {file}: {error.strerror or error}") from None
    if disagreements:
        raise Mistake("the contestants do not compute the same thing\n" + "\n".join(disagreements))


def parse_peer(text: str) -> tuple[str, str]:
    """NAME=PYTHON -> (name, python).

    Errors: Mistake when there is no such peer or no interpreter.
    """
    name, equals, python = text.partition("=")
    if not equals or not python or name not in PEERS:
        raise Mistake(f"--peer {text}: expected NAME=PYTHON with a name of {', '.join(PEERS)}")
    if shutil.which(python) is None:
        raise Mistake(f"--peer {text}: there is no program {python}")
    return name, python


def measure(workload: Workload, pythons: Mapping[str, str], threads: int, seconds: float) -> list[Result]:
    """Every contestant's result, graphopt's first; turns go round so that a disturbance meets all alike."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="graphopt-bench-"))
        data = os.path.join(folder, "data.npz")
        np.savez(data, **workload.arrays())  # type: ignore[arg-type]
        environment = child_environment(threads, os.path.join(folder, "cache"))
        stack.enter_context(only_cpus(threads))
        question = {"spec": workload.spec(), "file": data, "threads": threads, "warm": CHECKED_STEPS}
        contestants, results = [], []
        for name, python in pythons.items():
            contestant = stack.enter_context(Contestant(name, python, environment))
            answer = contestant.ask("init", **question)
            cached = None
            if name == "graphopt":
                with Contestant(name, python, environment) as second:
                    cached = second.ask("init", **question)["first_seconds"]
            contestants.append(contestant)
            results.append(Result(name, answer["version"], answer["first_seconds"], cached, answer["losses"]))
        take_turns(contestants, results, seconds)
    return results


def take_turns(contestants: Sequence[Contestant], results: Sequence[Result], seconds: float) -> None:
    """Let each contestant train for about TURN_SECONDS, one after the other, until each had `seconds` in all."""
    steps = []
    for contestant in contestants:
        one = contestant.ask("run", steps=5)["seconds"] / 5
        steps.append(max(1, round(min(TURN_SECONDS, seconds) / one)))
    for _ in range(max(3, round(seconds / TURN_SECONDS))):
        for contestant, result, count in zip(contestants, results, steps, strict=True):
            time.sleep(PAUSE_SECONDS)
            answer = contestant.ask("run", steps=count)
            result.seconds.append(answer["seconds"] / count)
            result.peak_bytes = answer["peak_bytes"]


def child_environment(threads: int, cache: str) -> dict[str, str]:
    """The contestants' environment: the same number of threads for everybody's libraries, an empty cache, stock BLAS."""
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GRAPHOPT_THREADS"):
        environment[variable] = str(threads)
    return environment | {"GRAPHOPT_CACHE": cache, "JAX_PLATFORMS": "cpu"}


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


def disagreement(results: Sequence[Result]) -> list[str]:
    """For each contestant whose losses are not graphopt's, a sentence that says where."""
    own, *others = results
    texts = []
    for other in others:
        for k, (a, b) in enumerate(zip(own.losses, other.losses, strict=True)):
            if not abs(a - b) <= TOLERANCE * max(1.0, abs(b)):
                texts.append(f"the loss of step {k + 1} is {a:.6f} with graphopt and {b:.6f} with {other.contestant}")
                break
    return texts


def new_table(threads: int) -> Table:
    table = Table(
        title=f"Whole training steps, {threads} threads",
        caption="speedup: of graphopt over each contestant, in its own row over the best of them; "
        "first, cached: building and first step, without and with the disk cache; MB: peak memory",
    )
    for heading in ("workload", "contestant"):
        table.add_column(heading, no_wrap=True)
    for heading in ("ms/step", "speedup", "first s", "cached s", "MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def add_rows(table: Table, name: str, results: Sequence[Result]) -> None:
    """One row per contestant, graphopt's first."""
    own = results[0].step_seconds
    best_peer = min((result.step_seconds for result in results[1:]), default=None)
    for k, result in enumerate(results):
        against = best_peer if k == 0 else result.step_seconds
        table.add_row(
            name if k == 0 else "",
            result.version,
            f"{result.step_seconds * 1e3:.3f}",
            "" if against is None else f"{against / own:.2f}x",
            f"{result.first_seconds:.2f}",
            "" if result.cached_seconds is None else f"{result.cached_seconds:.2f}",
            f"{result.peak_bytes / 1e6:.0f}",
            end_section=k == len(results) - 1,
        )
