"""Loops over a few numbers: the whole loop is one kernel, and each element of each value of the body a scalar of its own.

A body of three floats spends its time between kernels rather than in them. Here nothing stands between: values of a trip
live in registers, and one thread runs all trips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from graphopt.ir.graph import Graph, Node, walk
from graphopt.ir.index import Index, Var, index, linear
from graphopt.kernel.elements import Elements
from graphopt.kernel.loops import Buffer, Const, Expr, Kernel, Load, Stmt, Store, accumulator, loop, make_kernel
from graphopt.kernel.machine import Machine
from graphopt.opdefs.opdef import opdef
from graphopt.passes.materialise import dims_of

MOST_ELEMS = 64  # of one value
MOST_WORK = 1000  # scalar operations of a body: LLVM takes some 40 us for each


@dataclass(frozen=True)
class Places:
    """Where a loop's operands and results lie: leaves of the body in memory, rows and outputs in stacks."""

    leaves: Mapping[Node, Buffer]
    rows: Mapping[Node, Buffer]
    outputs: Sequence[Buffer]


def is_small(body: Graph) -> bool:
    """Is it quicker to compute the body's elements one by one than to call kernels?"""
    total = 0
    for n in (*body.inputs, *body.state, *walk(body.roots)):
        if n.op in ("input", "state", "constant"):
            if n.type.size > MOST_ELEMS * 4:
                return False
            continue
        kind = opdef(n.op).kind
        if n.type.size > MOST_ELEMS or kind in ("kernel", "region") or n.op in ("gather", "take_along"):
            return False
        if kind == "contraction":
            total += n.type.size * prod(v.size for v in dims_of(n).sums)
        elif kind != "movement":
            total += max(n.type.size, *[i.type.size for i in n.inputs]) if kind == "reduction" else n.type.size
    return 0 < total <= MOST_WORK


class _Scalars(Elements):
    """Elements of the body's values at fixed places."""

    def __init__(self, places: Places, row: Index):
        self.places = places
        self.row = row
        self.mask: Expr | None = None
        self.local: dict[Node, Buffer] = {}
        self.body: list[Stmt] = []

    def read(self, node: Node, idx: tuple[Index, ...]) -> Expr:
        if node.op == "constant":
            return Const(node.attrs["value"].reshape(-1)[linear(idx, node.shape).const], node.dtype)
        place = linear(idx, node.shape)
        if node in self.local:
            return self._load(self.local[node], place)
        if node in self.places.leaves:
            return self._load(self.places.leaves[node], place)
        if node in self.places.rows:
            return self._load(self.places.rows[node], self.row * node.type.size + place)
        return self.movement(node, idx)

    def _load(self, buffer: Buffer, place: Index) -> Expr:
        return Load(buffer, place, self.mask, None if self.mask is None else Const(0, buffer.dtype))

    def keep(self, node: Node) -> None:
        """Compute all elements of a value."""
        held = Buffer(f"{node.op}{len(self.local)}", node.dtype, node.type.size, local=True)
        for idx in _places(node.shape):
            self.body.append(Store(held, linear(idx, node.shape), self._element(node, idx)))
        self.local[node] = held

    def _element(self, node: Node, idx: tuple[Index, ...]) -> Expr:
        if node.op in ("input", "state", "constant"):
            return self.read(node, idx)
        d = opdef(node.op)
        if d.kind == "elementwise":
            value: Expr = d.rules["scalar"](self.s, *[self.read(i, idx) for i in node.inputs], **node.attrs)
            return value
        if d.kind == "reduction":
            return self._reduced(node, idx)
        if d.kind == "contraction":
            return self._summed(node, idx)
        return self.read(node, idx)

    def _reduced(self, node: Node, idx: tuple[Index, ...]) -> Expr:
        (x,), axes = node.inputs, node.attrs["axes"]
        d, wide = opdef(node.op), accumulator(node.dtype)
        total: Expr = Const(d.rules["initial"](node.dtype), wide)
        for inner in _places(tuple([x.shape[a] for a in axes])):
            place = list(idx)
            for a, i in zip(axes, inner, strict=True):
                place.insert(a, i)
            total = d.rules["combine"](self.s, total, self.s.cast(self.read(x, tuple(place)), wide))
        return self.s.cast(total, node.dtype)

    def _summed(self, node: Node, idx: tuple[Index, ...]) -> Expr:
        dims, wide = dims_of(node), accumulator(node.dtype)
        at: dict[Var, Index] = {}
        for c, i in zip(dims.c, idx, strict=True):
            at.update((v, i) for v in c.variables())
        total: Expr = Const(0.0, wide)
        for inner in _places(tuple([v.size for v in dims.sums])):
            where = at | dict(zip(dims.sums, inner, strict=True))
            a, b = (
                self.s.cast(self.read(n, tuple([i.substitute(where) for i in side])), wide)
                for n, side in zip(node.inputs, (dims.a, dims.b), strict=True)
            )
            total = self.s.fma(a, b, total) if wide.is_float else self.s.add(total, self.s.mul(a, b))
        return self.s.cast(total, node.dtype)


def _places(shape: tuple[int, ...]) -> list[tuple[Index, ...]]:
    return [tuple([index(k) for k in place]) for place in product(*[range(n) for n in shape])]


def lower_small(body: Graph, length: int, backwards: bool, places: Places, machine: Machine) -> Kernel:
    """A loop whose trips all happen as one kernel; see `is_small`."""

    def trip(i: Index) -> list[Stmt]:
        row = (length - 1) - i if backwards else i
        made = _Scalars(places, index(row))
        for n in walk(body.roots):
            if n.op not in ("input", "state", "constant") and opdef(n.op).kind != "movement":
                made.keep(n)
        updates = [(s, v) for s, v in body.updates if v is not s]
        for n in dict.fromkeys([*body.outputs, *(v for _, v in updates)]):
            if n not in made.local:
                made.keep(n)
        stores = [*zip(body.outputs, places.outputs, [index(row) * n.type.size for n in body.outputs], strict=True)]
        stores += [(v, places.leaves[s], index(0)) for s, v in updates]
        for n, target, start in stores:
            made.body += [Store(target, start + k, Load(made.local[n], index(k))) for k in range(n.type.size)]
        return made.body

    nodes = tuple([n for n in walk(body.roots) if n.where is not None])[:1]
    return make_kernel(f"loop_of_{length}", loop("serial", "i", length, trip), machine.lanes(4), nodes=nodes)


__all__ = ["Places", "is_small", "lower_small"]
