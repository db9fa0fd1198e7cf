"""`graphopt doctor`: what graphopt sees of this machine, and what the machine can do at best."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from rich.console import Console
from rich.table import Table

from graphopt.config import current
from graphopt.kernel.machine import AVX2, AVX512, NEON, SSE2
from graphopt.llvm.target import machine_of
from graphopt_runtime import engine
from graphopt_runtime.limits import width
from graphopt_tools.cache import disk_cache
from graphopt_tools.probes import Speeds, measure

VECTORS = {AVX512: "AVX-512", AVX2: "AVX2 with FMA", SSE2: "SSE2", NEON: "NEON"}
PACKAGES = ("numpy", "networkx", "llvmlite", "ml_dtypes")


def run_doctor() -> None:
    """The command `graphopt doctor`."""
    console = Console()
    facts = Table.grid(padding=(0, 3))
    for name, text in machine_facts().items():
        facts.add_row(name, text)
    console.print(facts)
    with console.status("measuring"):
        speeds = [measure(threads) for threads in sorted({1, width(current().threads)})]
    console.print(speed_table(speeds))


def machine_facts() -> dict[str, str]:
    """What there is to know without measuring."""
    target = engine.host()
    machine = machine_of(target)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": f"{target.cpu} ({target.triple})",
        "vectors": f"{VECTORS[machine]}, {machine.lanes(4)} float32 at once",
        "threads": f"{width(current().threads)} (the process may use {usable} processors)",
        "code by": engine.version(),
        "cache": disk_cache().folder or "off",
        "backend": current().backend,
        "python": f"{platform.python_implementation()} {platform.python_version()} on {sys.platform}",
        "packages": ", ".join(f"{package} {_version(package)}" for package in PACKAGES),
    }


def speed_table(speeds: list[Speeds]) -> Table:
    """One row per number of threads."""
    table = Table(caption="GFLOP/s: float32 multiply-adds in registers; GB/s: arrays larger than the cache")
    for heading in ("threads", "GFLOP/s", "read GB/s", "copy GB/s", "triad GB/s", "update GB/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for s in speeds:
        table.add_row(str(s.threads), f"{s.gflops:.0f}", f"{s.read:.1f}", f"{s.copy:.1f}", f"{s.triad:.1f}", f"{s.update:.1f}")
    return table


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
