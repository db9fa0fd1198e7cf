"""How often the kernels of a step go over their buffers."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.kernel.loops import Buffer, For, If, Load, Stmt, Store, expressions
from graphopt.kernel.step import Step


def sweeps(step: Step) -> dict[str, tuple[float, float]]:
    """(elements read, elements written) over the size, of each buffer that is not local, by name.

    Loads of one element that stand at one point are one: code generation makes them one.
    """
    found: dict[Buffer, list[int]] = {}
    called: dict[Buffer, Buffer] = {}

    def visit(body: Sequence[Stmt], times: int) -> None:
        places: set[tuple[int, Buffer, str]] = set()
        for s in body:
            if isinstance(s, Store):
                places |= {(0, e.buffer, repr(e.index)) for e in expressions(s.value) if isinstance(e, Load)}
                places.add((1, s.buffer, repr(s.index)))
            elif isinstance(s, For | If):
                visit(s.body, times * (s.var.size if isinstance(s, For) else 1))
        for written, buffer, _ in places:
            found.setdefault(called.get(buffer, buffer), [0, 0])[written] += times

    for kernel in step.kernels:
        called |= dict(zip(kernel.params, kernel.args, strict=True))
        visit(kernel.body, 1)
    return {b.name: (r / b.size, w / b.size) for b, (r, w) in found.items() if not b.local and b.size}
