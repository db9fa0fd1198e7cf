"""Copies of operands that several contractions want are made once.

A contraction that copies an operand into the order of its tiles does so in a kernel of its own. Gradients of weights that share
an operand, projections of one input, ask for the same copy soon after each other: the later ones read the first one's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphopt.kernel.items import Item, kernels_of, windows_of
from graphopt.kernel.loops import Buffer, Kernel, reads_and_writes, signature

COPIES = ("_pack", "_rows", "_windows")  # how the names of such kernels of contractions end
_NEAR = 8  # items later a copy is given up: kept for longer it would cost memory


@dataclass(frozen=True, slots=True)
class _Copy:
    place: int
    text: str
    sources: frozenset[Buffer]
    target: Buffer


def share_copies(items: Sequence[Item]) -> list[Item]:
    """The items without kernels that copy what still stands in another copy; who reads theirs reads that one.

    Invariant: between the two neither the source nor the copy is written.
    """
    known: list[_Copy] = []
    swap: dict[Buffer, Buffer] = {}
    result: list[Item] = []
    for i in items:
        if isinstance(i, Kernel) and any(b in swap for b in i.args):
            i = replace(i, args=tuple([swap.get(b, b) for b in i.args]))
        known = [c for c in known if c.place > len(result) - _NEAR]
        made = _copy(i, len(result)) if isinstance(i, Kernel) else None
        same = next((c for c in known if made and (c.text, c.sources) == (made.text, made.sources)), None)
        if made is not None and same is not None:
            swap[made.target] = same.target
            continue
        written = _written(i)
        known = [c for c in known if c.target not in written and c.sources.isdisjoint(written)]
        known += [made] if made is not None else []
        result.append(i)
    return result


def _copy(kernel: Kernel, place: int) -> _Copy | None:
    """What a contraction's kernel copies, and where to; None for all other kernels."""
    if not kernel.name.endswith(COPIES) or not kernel.contracts:
        return None
    reads, writes = reads_and_writes(kernel)
    if len(writes) != 1 or reads & writes:
        return None
    (target,) = writes
    return _Copy(place, signature(kernel), frozenset(reads), target)


def _written(item: Item) -> set[Buffer]:
    """Everything that an item may write; of stacks that it writes by the row, the whole."""
    written = {b for k in kernels_of([item]) for b in reads_and_writes(k)[1]}
    windows = windows_of([item])
    for row in list(written):
        while row in windows:
            row = windows[row]
            written.add(row)
    return written


__all__ = ["share_copies"]
