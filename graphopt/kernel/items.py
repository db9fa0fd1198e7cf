"""What a step runs: kernels, and the branches and loops they stand in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphopt.kernel.loops import Buffer, Kernel


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A row of a stack: `row` stands for `base` from element `row.size` * number of the trip on."""

    row: Buffer
    base: Buffer


@dataclass(frozen=True, slots=True, eq=False)
class Choose:
    """One of two sequences, by a bool in memory."""

    pred: Buffer
    then: tuple[Item, ...]
    other: tuple[Item, ...]
    given: frozenset[Buffer]


@dataclass(frozen=True, slots=True, eq=False)
class Repeat:
    """A sequence repeated.

    length:  the most trips, None without limit; trips: where their number stands; reverse: rows are taken backwards.
    test:    runs before each trip and stores whether to go on in `goes_on`; count: where the number of trips goes.
    windows: what moves on from trip to trip; given: buffers that are not of one trip alone.
    """

    body: tuple[Item, ...]
    windows: tuple[Window, ...]
    length: int | None
    reverse: bool
    trips: Buffer | None
    test: tuple[Item, ...]
    goes_on: Buffer | None
    count: Buffer | None
    given: frozenset[Buffer]


Item = Kernel | Choose | Repeat


def kernels_of(items: Sequence[Item]) -> Iterator[Kernel]:
    """The kernels in their order."""
    for i in items:
        if isinstance(i, Kernel):
            yield i
        elif isinstance(i, Choose):
            yield from kernels_of((*i.then, *i.other))
        else:
            yield from kernels_of((*i.test, *i.body))


def show_items(items: Sequence[Item], indent: str = "") -> list[str]:
    """Kernels with the branches and loops they stand in, a line for each."""
    lines: list[str] = []
    for i in items:
        if isinstance(i, Kernel):
            lines.append(f"{indent}{i.name}")
        elif isinstance(i, Choose):
            lines += [f"{indent}if {i.pred}:", *show_items(i.then, indent + "  ")]
            lines += [f"{indent}else:", *show_items(i.other, indent + "  ")]
        else:
            most = "" if i.length is None else f" {i.length} times"
            counted = f", at most {i.trips}" if i.trips is not None else ""
            lines.append(f"{indent}repeat{most}{counted}{' backwards' if i.reverse else ''}:")
            if i.goes_on is not None:
                lines += [*show_items(i.test, indent + "  "), f"{indent}  stop unless {i.goes_on}"]
            lines += show_items(i.body, indent + "  ")
    return lines


def windows_of(items: Sequence[Item]) -> dict[Buffer, Buffer]:
    """Row -> the stack it is of."""
    found: dict[Buffer, Buffer] = {}
    for i in items:
        if isinstance(i, Choose):
            found |= windows_of((*i.then, *i.other))
        elif isinstance(i, Repeat):
            found |= {w.row: w.base for w in i.windows} | windows_of((*i.test, *i.body))
    return found


def controls_of(items: Sequence[Item]) -> Iterator[Choose | Repeat]:
    """The branches and loops, outer before inner."""
    for i in items:
        if isinstance(i, Choose):
            yield i
            yield from controls_of((*i.then, *i.other))
        elif isinstance(i, Repeat):
            yield i
            yield from controls_of((*i.test, *i.body))
