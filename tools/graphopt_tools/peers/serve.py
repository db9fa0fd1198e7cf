"""One contestant in a process of its own, driven by JSON lines: init, run, quit. Run as a script, never imported.

A contestant is a module `<name>_peer.py` beside this file with a function
`contestant(spec, arrays, threads) -> (step, value)`: `step(k)` trains on batch k and may return before the work is
done; `value(loss)` waits for what `step` returned and is a Python float.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any, TextIO

import numpy as np


def claim_stdout() -> TextIO:
    """The real stdout for answers; whatever a framework prints goes to stderr from now on."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def peak_bytes() -> int:
    """The most memory this process has held."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Server:
    """The contestant's side of the conversation; each method answers one command."""

    def __init__(self, name: str) -> None:
        self.module = importlib.import_module(f"{name}_peer")
        self.version = self.module.version()  # imports the framework, which is not part of the first step
        self.steps_done = 0

    def init(self, spec: dict[str, Any], file: str, threads: int, warm: int) -> dict[str, Any]:
        """Build the workload and train `warm` steps: the losses, and the time of the first step, building included."""
        with np.load(file) as stored:
            arrays = {key: stored[key] for key in stored.files}
        self.batches = len(arrays["images"])
        start = time.perf_counter()
        self.step, self.value = self.module.contestant(spec, arrays, threads)
        losses = [self.value(self.step(0))]
        first_seconds = time.perf_counter() - start
        losses += [self.value(self.step(k % self.batches)) for k in range(1, warm)]
        self.steps_done = warm
        return {"first_seconds": first_seconds, "losses": losses, "version": self.version}

    def run(self, steps: int) -> dict[str, Any]:
        """Train that many steps, waiting only for the last: seconds for all of them."""
        start = time.perf_counter()
        for k in range(self.steps_done, self.steps_done + steps):
            loss = self.step(k % self.batches)
        self.value(loss)
        seconds = time.perf_counter() - start
        self.steps_done += steps
        return {"seconds": seconds, "peak_bytes": peak_bytes()}


def main() -> None:
    """Answer commands from stdin until `quit` or its end. An exception is an answer too."""
    answers = claim_stdout()
    server: Server | None = None
    for line in sys.stdin:
        request = json.loads(line)
        command = request.pop("command")
        if command == "quit":
            return
        try:
            if server is None:
                server = Server(sys.argv[1])
            answer = getattr(server, command)(**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
