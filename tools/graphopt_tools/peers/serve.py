"""One contestant in a process of its own, driven by JSON lines: ready, init, run. Run as a script, never imported.

A contestant is a module `<framework>_peer.py` beside this file with a class Kit, and for each workload a program in
`programs/` with a function `in_<framework>(kit, sizes, arrays)` that returns `step(*batch)`: it works on one batch and
may return before the work is done; its result is a tensor or a tuple of tensors.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import numpy as np

DIALECTS = {"graphopt": "mindspore"}
PLACES = 3  # of each result these many elements are compared, beside its root mean square


class Stored(Mapping[str, np.ndarray]):
    """The arrays of a file whose names start with `prefix.`, read when they are asked for."""

    def __init__(self, file: Any, prefix: str) -> None:
        self.file = file
        self.prefix = f"{prefix}."
        self.names = [name.removeprefix(self.prefix) for name in file.files if name.startswith(self.prefix)]

    def __getitem__(self, name: str) -> np.ndarray:
        array: np.ndarray = self.file[self.prefix + name]
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def claim_stdout() -> TextIO:
    """The real stdout for answers; whatever a framework prints goes to stderr from now on."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def peak_bytes() -> int:
    """The most memory this program has held; what getrusage tells begins with the memory of the process that started it."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def summary(array: np.ndarray) -> list[float]:
    """What is compared of a result: its root mean square and a few of its elements."""
    values = np.asarray(array).reshape(-1).astype(np.float64)
    size = float(np.sqrt(np.mean(values * values)))
    return [size, *(float(values[(2 * k + 1) * values.size // (2 * PLACES)]) for k in range(PLACES))]


def flat(result: Any) -> list[Any]:
    """The tensors of a result, in order."""
    return [x for part in result for x in flat(part)] if isinstance(result, (tuple, list)) else [result]


class Server:
    """The contestant's side of the conversation; each method answers one command."""

    def __init__(self, name: str, variant: str, threads: int) -> None:
        """Import the framework, which is not part of the first step."""
        self.framework = name
        self.kit = importlib.import_module(f"{name}_peer").Kit(variant, threads)

    def ready(self) -> dict[str, Any]:
        """Nothing: an answer means that the framework is there."""
        return {}

    def init(self, program: str, sizes: dict[str, Any], file: str, warm: int) -> dict[str, Any]:
        """Build the workload and take `warm` steps: what each gave, and the time of the first, building included."""
        module = importlib.import_module(f"programs.{program}")
        make = getattr(module, f"in_{DIALECTS.get(self.framework, self.framework)}")
        with np.load(file) as stored:
            inputs = Stored(stored, "batch")
            columns = [[self.kit.tensor(one) for one in inputs[name]] for name in inputs]
            self.batches = itertools.cycle(list(zip(*columns, strict=True)) or [()])
            start = time.perf_counter()
            self.step = make(self.kit, sizes, Stored(stored, "weight"))
            result = self._step()
            self.kit.wait(result)
            first_seconds = time.perf_counter() - start
        results = [self._summaries(result)]
        results += [self._summaries(self._step()) for _ in range(1, warm)]
        counts = self.kit.counts() if hasattr(self.kit, "counts") else None
        return {"first_seconds": first_seconds, "results": results, "version": self.kit.version, "counts": counts}

    def run(self, steps: int) -> dict[str, Any]:
        """Take that many steps, waiting only for the last: seconds for all of them."""
        step = self.step
        start = time.perf_counter()
        for batch in itertools.islice(self.batches, steps):
            result = step(*batch)
        self.kit.wait(result)
        return {"seconds": time.perf_counter() - start, "peak_bytes": peak_bytes()}

    def _step(self) -> Any:
        return self.step(*next(self.batches))

    def _summaries(self, result: Any) -> list[list[float]]:
        return [summary(self.kit.numpy(value)) for value in flat(result)]


def described(error: Exception) -> str:
    """The kind of an exception and the first lines of its text that say something."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    text = " ".join([line for line in lines if any(c.isalnum() for c in line)][:2])
    return f"{type(error).__name__}: {text}"[:300]


def main() -> None:
    """Import the framework, then answer commands from stdin until its end. An exception is an answer too."""
    answers = claim_stdout()
    name, variant, threads = sys.argv[1:]
    server: Server | None = None
    failure = ""
    try:
        server = Server(name, variant, int(threads))
    except Exception as error:
        failure = described(error)
    for line in sys.stdin:
        request = json.loads(line)
        command = request.pop("command")
        try:
            answer = {"error": failure} if server is None else getattr(server, command)(**request)
        except Exception as error:
            answer = {"error": described(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
