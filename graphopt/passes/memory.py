"""Memory: one arena for all temporaries, planned before the first step runs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

ALIGN_BYTES = 64


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A temporary of `size` bytes, written first by step `first` and last touched by step `last` (inclusive)."""

    size: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """offsets in bytes, multiples of ALIGN_BYTES; arena_bytes is the real peak."""

    offsets: Mapping[Hashable, int]
    arena_bytes: int


def lifetimes(touched: Sequence[Sequence[T]], size_of: Mapping[T, int]) -> dict[T, Lifetime]:
    """From the temporaries that each step touches, in order."""
    first: dict[T, int] = {}
    last: dict[T, int] = {}
    for step, names in enumerate(touched):
        for name in names:
            first.setdefault(name, step)
            last[name] = step
    return {name: Lifetime(size_of[name], first[name], last[name]) for name in first}


def plan_memory(lives: Mapping[T, Lifetime], align_bytes: int = ALIGN_BYTES) -> MemoryPlan:
    """Give each temporary an offset in one arena so that no two live at once overlap.

    Units:  offsets and sizes in bytes, multiples of `align_bytes`.
    Cost:   O(n^2) in temporaries.
    Source: greedy by size, Pisarchyk & Lee 2020 (arXiv 2001.03288).
    """
    placed: list[tuple[int, int, Lifetime]] = []
    offsets: dict[Hashable, int] = {}
    peak = 0
    for name in sorted(lives, key=lambda n: (-lives[n].size, lives[n].first)):
        life = lives[name]
        size = -(-life.size // align_bytes) * align_bytes
        at = 0
        for begin, end, other in placed:
            if other.first > life.last or other.last < life.first:
                continue
            if begin >= at + size:
                break
            at = max(at, end)
        offsets[name] = at
        placed.append((at, at + size, life))
        placed.sort(key=lambda p: p[0])
        peak = max(peak, at + size)
    return MemoryPlan(offsets, peak)
