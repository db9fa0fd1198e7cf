"""Lines that are asked for before they are needed: those that the end of a point of a contraction reads and writes."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.ir.index import ZERO, Index, Var, index
from graphopt.kernel.loops import Buffer, Const, Expr, Fetch, Load, Stmt, Store, expressions
from graphopt.kernel.tile import Problem

_FAR_BYTES = 1 << 18  # an array so large is not in the first-level cache when a tile ends

Finish = Callable[[Expr, dict[Var, Index], Index], list[Stmt]]
"""What stores a value at a point, given by the problem's dimensions, in a lane."""

Ask = Callable[[dict[Var, Index]], list[Stmt]]
"""What asks for lines that are needed later, at a point or a step of the sum."""


def lines_of(p: Problem, finish: Finish, along: Var, other: Var) -> Ask:
    """What asks for the lines that the end of a point reads and writes in arrays that are large, where neighbours along one
    dimension lie in one line, and those along another do not.
    """
    marks = {v: Var(v.name, v.size) for v in p.outs}
    places: dict[tuple[Buffer, Index], bool] = {}
    for s in finish(Const(0, p.dtype), {v: index(m) for v, m in marks.items()}, ZERO):
        if isinstance(s, Store):
            for e in expressions(s.value):
                if isinstance(e, Load):
                    places.setdefault((e.buffer, e.index), False)
            places[s.buffer, s.index] = True
    far = {
        (b, i): w
        for (b, i), w in places.items()
        if not b.local and b.size * b.dtype.itemsize >= _FAR_BYTES
        if i.is_affine and i.coefficient(marks[along]) == 1 and i.coefficient(marks[other])
    }

    def ask(where: dict[Var, Index]) -> list[Stmt]:
        bound = {marks[v]: i for v, i in where.items() if v in marks}
        return [Fetch(b, i.substitute(bound), w) for (b, i), w in far.items()]

    return ask


__all__ = ["Ask", "Finish", "lines_of"]
