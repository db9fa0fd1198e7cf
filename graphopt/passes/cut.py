"""Into how many pieces a space is cut whose reductions several threads share: its shape alone decides."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from graphopt.ir.graph import Node

ROWS_FOR_TEAM = 8  # a reduction joins its operand's group only if that leaves this many rows to share among threads,
SMALL_ELEMS = 1 << 15  # or the whole space is this small: below it, one thread is quicker than a barrier and a second pass
MOST_SLICES = 64
FEW_SLICES = 8
SLICE_ELEMS = 1 << 10  # at least, and PER_RESULT for each partial result: writing those must not count
PER_RESULT = 16
LONG_COLUMN = 512  # columns that are reduced by themselves: from this length on it pays to read row by row
FEW_COLUMNS = 128  # eight vectors: a team that walks down fewer than these has nothing for its threads


def shares(full: tuple[int, ...], axes: tuple[int, ...]) -> bool:
    """Does a reduction leave rows enough for a team, or is its space too small for one?"""
    rows = total = 1
    for k, n in enumerate(full):
        total *= n
        rows *= 1 if k in axes else n
    return rows >= ROWS_FOR_TEAM or total <= SMALL_ELEMS


def innermost(shape: tuple[int, ...]) -> int:
    """The last axis that has a length."""
    return max([k for k, n in enumerate(shape) if n != 1], default=0)


def _rows(full: tuple[int, ...], axes: tuple[int, ...] | None, sinks: Sequence[Node]) -> int:
    """Into how many slices at most a pass with reductions over `axes` can be cut for these sinks.

    Slices are runs of its rows, and a pass that walks down columns has none; where no sink keeps the innermost axis,
    long rows are cut themselves. A sum in registers lasts for a row: a sink that reduces the innermost axis may not
    keep another one that a row runs over.
    """
    inner = innermost(full)
    if axes:
        within = any(inner in s.attrs["axes"] and not set(axes) <= set(s.attrs["axes"]) for s in sinks)
        return prod([n for k, n in enumerate(full) if k not in axes]) if inner in axes and not within else 0
    keeps = any(inner not in s.attrs["axes"] for s in sinks)
    return prod(full[:inner]) if keeps else prod(full) // SLICE_ELEMS


def slices(full: tuple[int, ...], axes: tuple[int, ...] | None, sink: Node) -> int:
    """Into how many slices a space is cut for a sink; 0 when it is too small for that."""
    total, results = prod(full), sink.type.size
    if total <= SMALL_ELEMS or not results:
        return 0
    many = min(MOST_SLICES, _rows(full, axes, [sink]), total // SLICE_ELEMS, total // (PER_RESULT * results))
    return many if many >= FEW_SLICES else 0


def sliceable(full: tuple[int, ...], axes: tuple[int, ...] | None, sinks: Sequence[Node], many: int) -> bool:
    """Can one pass serve these sinks in so many slices? Partial results must stay few."""
    return not sinks or many <= _rows(full, axes, sinks) and all(2 * many * s.type.size <= prod(full) for s in sinks)


__all__ = ["FEW_COLUMNS", "LONG_COLUMN", "SMALL_ELEMS", "innermost", "shares", "sliceable", "slices"]
