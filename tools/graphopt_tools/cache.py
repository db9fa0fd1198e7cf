"""`graphopt cache info|clear`."""

from __future__ import annotations

import os

import typer

from graphopt import compile as compiler
from graphopt import config
from graphopt_runtime.cache import Cache
from graphopt_tools.report import megabytes


def run_info() -> None:
    """The command `graphopt cache info`."""
    info = disk_cache().info()
    if info.folder is None:
        typer.echo("the disk cache is off (GRAPHOPT_CACHE=off)")
        return
    missing = "" if os.path.isdir(info.folder) else " (does not exist yet)"
    typer.echo(f"folder   {info.folder}{missing}")
    typer.echo(f"entries  {info.entries}")
    typer.echo(f"size     {megabytes(info.bytes)} of at most {megabytes(info.limit_bytes)}")


def run_clear() -> None:
    """The command `graphopt cache clear`."""
    removed = disk_cache().clear()
    typer.echo(f"removed {removed} {'entry' if removed == 1 else 'entries'}")


def disk_cache() -> Cache:
    """The cache that compilation uses under the switches in force."""
    return compiler.disk_cache(config.current().cache)
