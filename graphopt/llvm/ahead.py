"""What a kernel asks memory for before it needs it: lines of arrays larger than caches hold.

Processors guess well where one loop runs through an array, but not beyond a page, nor from a row to the next one when
several passes over each row lie between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from graphopt.ir.index import Index
from graphopt.kernel.loops import Buffer, For, If, Kernel, Load, Stmt, Store, expressions, statements, work_of

LINE = 64  # bytes of a cache line
TURNS = 1024  # bytes, how far before its use a line of a stream is asked for: four turns of a loop unrolled four times
_CACHED = 8 << 20  # bytes that may lie in caches; what exceeds them comes from memory
_LARGE = 1 << 20  # bytes of an array that is worth asking for
_LONG = 64  # turns of a loop that is worth it
_FAR = 1 << 14  # bytes from a row to the next one: longer rows push each other out of the first-level cache


@dataclass(slots=True)
class Ahead:
    """What a pass over a row asks for.

    reads:  arrays, and the bytes from a row to the next one, which is asked for.
    writes: for such an array, those of the same form that a pass stores, and how many bytes further on they are asked for.
    """

    reads: dict[Buffer, int] = field(default_factory=dict)
    writes: dict[Buffer, list[tuple[Buffer, int]]] = field(default_factory=dict)


def streamed(kernel: Kernel) -> frozenset[Buffer]:
    """The arrays that a kernel reads once, in order, from memory: those of straight code over more than caches hold, also
    where each thread has slices of it, whose partial results it sums.
    """
    if not _from_memory(kernel):
        return frozenset()
    reading = [s for s in kernel.body if _reads(s)]
    straight = not any(isinstance(s, If) or isinstance(s, For) and s.kind == "serial" for s in statements(reading))
    return frozenset(kernel.params) if straight or _is_sliced(kernel) else frozenset()


def _is_sliced(kernel: Kernel) -> bool:
    """Has each slice one loop that reads arrays, some of them a long one?"""
    loops = [_reading(s) for s in kernel.body if isinstance(s, For)]
    single = all(len(x) <= 1 and all(_is_pass(y) for y in x) for x in loops)
    return single and any(x[0].var.size >= _LONG for x in loops if x) and not kernel.contracts


def _reading(s: For) -> list[For]:
    """The loops directly inside one that read an array, or that hold other loops."""
    inner = [x for x in s.body if isinstance(x, For) and x.kind == "serial"]
    return [x for x in inner if not _is_pass(x) or _reads(x)]


def _reads(s: Stmt) -> bool:
    """Does a statement read an array?"""
    return any(not b.local and not stored for b, _, stored in _accesses([s]))


def rows_ahead(kernel: Kernel) -> dict[Stmt, Ahead]:
    """For loops that pass over rows of large arrays, and the lanes behind them, what they ask for.

    The next row of what a kernel reads is asked for by the longest pass that reads this one, and what is stored to a row
    by the longest pass before: where there is most to compute, memory has most time.
    """
    if not _from_memory(kernel) or kernel.contracts:
        return {}
    found: dict[Stmt, Ahead] = {}
    for s in statements(kernel.body):
        if isinstance(s, For) and s.kind in ("par", "serial"):
            _plan(kernel, s, found)
    return found


def _from_memory(kernel: Kernel) -> bool:
    return sum(b.size * b.dtype.itemsize for b in kernel.params) >= _CACHED


def _passes(rows: For) -> list[list[Stmt]]:
    """The passes over a row: loops, each with the lanes behind it that do what its turns are too wide for."""
    passes: list[list[Stmt]] = []
    behind = False
    for s in rows.body:
        if isinstance(s, For) and s.kind == "serial" and _is_pass(s):
            passes.append([s])
            behind = True
        elif behind and isinstance(s, For) and s.kind == "lanes":
            passes[-1].append(s)
        else:
            behind = False
    return passes


def _is_pass(s: For) -> bool:
    return all(isinstance(x, Store) or isinstance(x, For) and x.kind in ("unroll", "lanes") for x in statements(s.body))


def _accesses(part: list[Stmt]) -> Iterator[tuple[Buffer, Index, bool]]:
    """(array, index, is it stored) for whatever a pass reads and writes."""
    seen: set[int] = set()
    for s in statements(part):
        if isinstance(s, Store):
            yield s.buffer, s.index, True
            yield from ((e.buffer, e.index, False) for e in expressions(s.value, seen) if isinstance(e, Load))


def _plan(kernel: Kernel, rows: For, found: dict[Stmt, Ahead]) -> None:
    reads: dict[Buffer, tuple[int, int]] = {}  # the number of the longest pass that reads it, bytes from row to row
    writes: dict[Buffer, tuple[int, int]] = {}
    passes = _passes(rows)
    work = [work_of(part, kernel.width) for part in passes]
    for k, part in enumerate(passes):
        for buffer, i, stored in _accesses(part):
            step = (i.coefficient(rows.var) if i.is_affine else 0) * buffer.dtype.itemsize
            if buffer.local or not 0 < step <= _FAR or buffer.size * buffer.dtype.itemsize < _LARGE:
                continue
            if stored and buffer not in kernel.reads:
                writes[buffer] = (k, step)
            elif not stored and (buffer not in reads or work[k] > work[reads[buffer][0]]):
                reads[buffer] = (k, step)
    for buffer, (k, step) in reads.items():
        form = (step, buffer.dtype.itemsize, buffer.size)
        targets = [t for t, (_, rate) in writes.items() if (rate, t.dtype.itemsize, t.size) == form]
        later = [(t, 0 if writes.pop(t)[0] > k else step) for t in targets]
        for s in passes[k]:
            ahead = found.setdefault(s, Ahead())
            ahead.reads[buffer] = step
            ahead.writes[buffer] = later


__all__ = ["LINE", "TURNS", "Ahead", "rows_ahead", "streamed"]
