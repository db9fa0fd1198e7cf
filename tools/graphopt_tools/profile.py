"""`graphopt profile`: where the time of a compiled step goes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from graphopt import config
from graphopt_runtime.profile import Profile
from graphopt_tools.mistakes import Mistake
from graphopt_tools.probes import Speeds, measure
from graphopt_tools.show import compiled_function, origin
from graphopt_tools.targets import resolve


def run_profile(target: str, types: Sequence[str], threads: int, seconds: float, out: Path | None) -> None:
    """The command `graphopt profile`.

    Errors: Mistake when the object cannot be found or called, or there is no native code to time.
    """
    function, inputs = resolve(target, types)
    console = Console()
    with console.status("measuring"):
        found = profile_of(function, inputs, threads, seconds)
        speeds = measure(found.threads)
    console.print(profile_table(found, speeds))
    if out is not None:
        out.write_text(json.dumps(profile_data(found, speeds), indent=1) + "\n")


def profile_of(function: Callable[..., Any], inputs: Sequence[Any], threads: int = 0, seconds: float = 1.0) -> Profile:
    """The profile of a Cell or function, compiled now; Parameters keep their values.

    Errors: Mistake when the backend is not llvm.
    """
    if config.current().backend != "llvm":
        raise Mistake(f"only native code has a profile, and the backend is {config.current().backend} (GRAPHOPT_BACKEND)")
    chosen = {"threads": threads} if threads else {}
    with config.override(**chosen):
        entry, arrays = compiled_function(function).entry(tuple(inputs), {})
    return entry.compiled.profile(arrays, [p._data() for p in entry.parameters], seconds)


def profile_table(found: Profile, speeds: Speeds) -> Table:
    """A row for each kernel, the slowest first; then the waiting and the total."""
    about = f"{found.name}: {found.step_seconds * 1e3:.3f} ms a step on {found.threads} threads, {found.runs} runs"
    limits = f"{speeds.gflops:.0f} GFLOP/s, {speeds.bandwidth:.0f} GB/s from memory"
    caption = f"roof: % of the machine's limit ({limits}); above 100: from caches, or with fewer products than defined"
    table = Table(title=about, caption=caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("kernel", overflow="ellipsis", no_wrap=True, max_width=22)
    for heading in ("us", "%", "wait us", "GFLOP/s", "GB/s", "roof"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("from", overflow="fold", min_width=18)
    for k in sorted(found.kernels, key=lambda k: -k.seconds):
        table.add_row(
            f"{k.number} {k.call.kernel}",
            f"{k.seconds * 1e6:.1f}",
            f"{100 * k.seconds / found.seconds:.1f}",
            f"{k.wait_seconds * 1e6:.1f}",
            f"{k.gflops:.1f}",
            f"{k.gbytes:.1f}",
            f"{100 * k.roofline(speeds.gflops, speeds.bandwidth):.0f}",
            origin(k.call),
        )
    table.add_section()
    work = (sum(k.runs * getattr(k.call, what) for k in found.kernels) for what in ("flops", "bytes"))
    flops, moved = (amount / found.seconds / 1e9 for amount in work)
    total = (f"{found.seconds * 1e6:.1f}", "100.0", f"{found.wait_seconds * 1e6:.1f}", f"{flops:.1f}", f"{moved:.1f}")
    table.add_row("total, with waiting", *total)
    return table


def profile_data(found: Profile, speeds: Speeds) -> dict[str, Any]:
    """Everything as plain data."""
    return {
        "name": found.name,
        "threads": found.threads,
        "runs": found.runs,
        "step_seconds": found.step_seconds,
        "total_seconds": found.seconds,
        "wait_seconds": found.wait_seconds,
        "machine": {"gflops": speeds.gflops, "gbytes": speeds.bandwidth},
        "kernels": found.rows(speeds.gflops, speeds.bandwidth),
    }
