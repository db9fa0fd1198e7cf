"""Frames: values that lie in memory with a border of one number around them.

A convolution reads its image with zeros around it. Who computes the image stores it inside of such a frame at once, and
writes the border in the same kernel; `Lowering.inside` tells every other reader where in the frame the image begins.
"""

from __future__ import annotations

from math import prod

from graphopt.ir.graph import Node
from graphopt.ir.index import Index, delinear, index, linear
from graphopt.kernel.elements import Lowering
from graphopt.kernel.loops import Buffer, Const, Expr, Stmt, Store, loop
from graphopt.passes.fuse import Group
from graphopt.passes.rewrite import number


def borders(group: Group, lowering: Lowering, width: int) -> list[Stmt]:
    """What writes the borders of the frames in which values of a group are stored."""
    body: list[Stmt] = []
    for n in group.stores:
        if n in lowering.inside:
            frame, start = lowering.inside[n]
            if frame.inputs[0].op == "pad":
                body += _border(n, frame, start, lowering.buffer(frame), width)
    return body


def _border(value: Node, frame: Node, start: tuple[int, ...], buffer: Buffer, width: int) -> list[Stmt]:
    """Every element of a frame but those of the value in it, once: the two sides of each axis, where axes before it are
    inside. A side is as long as the axes behind it make it, its rows are dealt out like the value's.
    """
    fill = Const(number(frame.inputs[0].inputs[1]), frame.dtype)
    body: list[Stmt] = []
    for k, (low, size) in enumerate(zip(start, value.shape, strict=True)):
        behind = prod(frame.shape[k + 1 :])
        sides = [(0, low * behind), ((low + size) * behind, (frame.shape[k] - low - size) * behind)]
        if not any(length for _, length in sides):
            continue

        def row(p: Index, k: int = k, sides: list[tuple[int, int]] = sides) -> list[Stmt]:
            inside = [i + s for i, s in zip(delinear(p, value.shape[:k]), start, strict=False)]
            first = linear([*inside, index(0)], frame.shape[: k + 1]) * prod(frame.shape[k + 1 :])
            return [s for at, length in sides for s in _run(buffer, first + at, length, width, fill)]

        body += loop("par", "p", prod(value.shape[:k]), row)
    return body


def _run(buffer: Buffer, first: Index, length: int, width: int, fill: Expr) -> list[Stmt]:
    """One number in neighbouring elements."""
    blocks, rest = divmod(length, width)
    start = first + blocks * width
    vectors = loop(
        "serial", "j", blocks, lambda j: loop("lanes", "l", width, lambda x: [Store(buffer, first + j * width + x, fill)])
    )
    return vectors + loop("lanes", "l", rest, lambda x: [Store(buffer, start + x, fill)])


__all__ = ["borders"]
