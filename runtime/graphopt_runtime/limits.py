"""How many threads a team gets: what the user says, else what the machine and its limits allow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from .native import MAX_WIDTH


def width(threads: int | None = None, environ: Mapping[str, str] | None = None, root: Path = Path("/")) -> int:
    """Threads to use: the argument, `GRAPHOPT_THREADS`, `OMP_NUM_THREADS`, or what affinity and cgroup allow.

    The first that is set decides; an argument or `GRAPHOPT_THREADS` of 0 counts as not set.
    root:   where the system's files lie
    Errors: ValueError naming the variable when its value is not a number of threads.
    """
    if threads is not None and threads != 0:
        return _valid("threads", str(threads), threads)
    environ = os.environ if environ is None else environ
    text = environ.get("GRAPHOPT_THREADS", "").strip()
    if text and text != "0":
        return _parse("GRAPHOPT_THREADS", text)
    text = environ.get("OMP_NUM_THREADS", "").strip()
    if text:
        return _parse("OMP_NUM_THREADS", text.split(",")[0])  # a list names the widths of nested teams
    return min(_processors(), _quota(root), MAX_WIDTH)


def _parse(name: str, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    return _valid(name, text, value)


def _valid(name: str, text: str, value: int) -> int:
    if not 1 <= value <= MAX_WIDTH:
        raise ValueError(f"{name}: expected a number of threads from 1 to {MAX_WIDTH}, found {text!r}")
    return value


def _processors() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota(root: Path) -> int:
    """Whole processors' worth of time that the control groups grant: a team that is throttled waits at each barrier."""
    shares = [share for folder, version in _groups(root) if (share := _share(folder, version)) is not None]
    return max(1, int(min(shares))) if shares else MAX_WIDTH


def _groups(root: Path) -> Iterator[tuple[Path, int]]:
    """Folders of the control groups above this process, and the version of their interface.

    Inside a container the path may be the host's, of which only the root is mounted: every parent is tried.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        number, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        inner = Path(path.lstrip("/"))
        if ".." in inner.parts:
            inner = Path()
        if number == "0" and not controllers:
            mounts, version = ("sys/fs/cgroup", "sys/fs/cgroup/unified"), 2
        elif "cpu" in controllers.split(","):
            mounts, version = (f"sys/fs/cgroup/{controllers}", "sys/fs/cgroup/cpu"), 1
        else:
            continue
        for mount in mounts:
            for folder in (inner, *inner.parents):
                yield root / mount / folder, version


def _share(folder: Path, version: int) -> float | None:
    """Processors granted by one control group; None without a limit."""
    try:
        if version == 2:
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return float(quota) / float(period) if float(quota) > 0 else None  # "max" is no number, -1 is no limit
    except (OSError, ValueError, ZeroDivisionError):
        return None
