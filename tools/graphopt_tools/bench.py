"""`graphopt bench`: the benchmarks of workloads.py, each contestant in a process of its own, measured in turns."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from graphopt_tools import probes
from graphopt_tools.contest import measure
from graphopt_tools.mistakes import Mistake
from graphopt_tools.standings import Standing, html, table
from graphopt_tools.workloads import EVERY, SETS

PEERS = ("torch", "jax", "mindspore")


def run_bench(
    workloads: Sequence[str],
    peers: Sequence[str],
    json_file: Path | None,
    html_file: Path | None,
    threads: int,
    seconds: float,
    limit: float,
) -> None:
    """The command `graphopt bench`.

    Errors: Mistake for an unknown workload or peer, a file that cannot be written, and, when everything has been printed,
    for results that differ and for a workload that graphopt itself cannot do.
    """
    names = chosen(workloads)
    pythons = {"graphopt": sys.executable, **dict(parse_peer(peer) for peer in peers)}
    for file in (json_file, html_file):
        if file is not None and not file.absolute().parent.is_dir():
            raise Mistake(f"{file}: there is no folder {file.absolute().parent}")
    console = Console()
    with console.status("measuring the machine"):
        speeds = probes.measure(threads)
    standings = []
    for name in names:
        with console.status(f"{name}: {', '.join(pythons)}"):
            results = measure(EVERY[name], pythons, threads, seconds, limit)
        standings.append(Standing(name, EVERY[name].about, results, speeds))
        if json_file is not None:  # after each workload: what was measured stays, whatever comes
            write(json_file, json.dumps(report(standings, speeds), indent=1) + "\n")
        if html_file is not None:
            write(html_file, html(standings, machine()))
    console.print(table(standings))
    wrong = complaints(standings)
    if wrong:
        raise Mistake("not everything is as it should be\n" + "\n".join(wrong))


def chosen(workloads: Sequence[str]) -> list[str]:
    """The names that are asked for, sets resolved, each once.

    Errors: Mistake for an unknown one, or none.
    """
    names = [name for asked in workloads for name in SETS.get(asked, (asked,))]
    unknown = [name for name in names if name not in EVERY]
    if unknown or not names:
        there = ", ".join((*SETS, *(n for n in EVERY if n not in SETS["optimizers"])))
        raise Mistake(f"no workload {', '.join(unknown) or 'given'}; there are {there}")
    return list(dict.fromkeys(names))


def parse_peer(text: str) -> tuple[str, str]:
    """NAME=PYTHON -> (name, python).

    Errors: Mistake when there is no such peer or no interpreter.
    """
    name, equals, python = text.partition("=")
    if not equals or not python or name not in PEERS:
        raise Mistake(f"--peer {text}: expected NAME=PYTHON with a name of {', '.join(PEERS)}")
    found = shutil.which(python)
    if found is None:
        raise Mistake(f"--peer {text}: there is no program {python}")
    return name, os.path.abspath(found)


def complaints(standings: Sequence[Standing]) -> list[str]:
    """Results that differ, and what graphopt failed at; that a peer fails stands in the table alone."""
    found = []
    for standing in standings:
        found += [f"{standing.name}: {r.name}: {r.difference}" for r in standing.results if r.difference]
        found += [f"{standing.name}: {r.failure}" for r in standing.results[:1] if r.failure]
    return found


def machine() -> str:
    """When and where: a line for reports."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{date.today().isoformat()}, {_processor()}, {cores} cores, load {os.getloadavg()[0]:.1f}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def report(standings: Sequence[Standing], speeds: probes.Speeds) -> dict[str, Any]:
    """Every number, as plain data."""
    return {
        "machine": machine(),
        "threads": speeds.threads,
        "gflops": speeds.gflops,
        "gigabytes_per_second": speeds.bandwidth,
        "workloads": {standing.name: standing.summary() for standing in standings},
    }


def write(file: Path, text: str) -> None:
    """Write a report.

    Errors: Mistake when that does not work.
    """
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Mistake(f"cannot write {file}: {error.strerror or error}") from None
