"""Elements of values as expressions: where stored values lie, and how movement is read through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphopt.errors import CompileError
from graphopt.ir.graph import Node
from graphopt.ir.index import ZERO, Index, Loaded, index, linear
from graphopt.ir.types import DType, bool_, i64
from graphopt.kernel.loops import Buffer, Const, Expr, IndexValue, Load, Recorder
from graphopt.kernel.machine import Machine
from graphopt.opdefs.opdef import opdef
from graphopt.passes.materialise import INLINE, LEAVES, stored_base


class Lowering:
    """What all groups of a graph share: which buffer holds which value.

    steady: for what a loop's trips find unchanged, how many trips that are.
    inside: a value that is stored as a part of another -> that one, and the place there of its first element
    """

    def __init__(self, machine: Machine, place: Mapping[Node, Buffer], steady: Mapping[Buffer, int] | None = None):
        self.machine = machine
        self.place = dict(place)
        self.steady = dict(steady or {})
        self.inside: dict[Node, tuple[Node, tuple[int, ...]]] = {}
        self.temporaries: list[Buffer] = []
        self.partial: dict[Node, Buffer] = {}

    def buffer(self, node: Node) -> Buffer:
        """Where a stored value lies; a reshape lies where its operand does."""
        base = stored_base(node)
        if base not in self.place:
            if base.op in LEAVES:
                raise CompileError(f"{base!r} is read from memory but not bound to any")
            self.place[base] = Buffer(f"{base.op}{len(self.place)}", base.dtype, base.type.size)
        return self.place[base]

    def spot(self, node: Node, idx: tuple[Index, ...], shape: tuple[int, ...]) -> tuple[Buffer, Index]:
        """The buffer and the element of it where a value of a shape is stored at an index."""
        if node not in self.inside:
            return self.buffer(node), linear(idx, shape)
        whole, start = self.inside[node]
        return self.buffer(whole), linear(tuple([i + k for i, k in zip(idx, start, strict=True)]), whole.shape)

    def cuts(self, node: Node) -> list[int]:
        """The axes of a value that its memory does not run through together with the one before."""
        if node not in self.inside:
            return []
        sizes = zip(node.shape, self.inside[node][0].shape, strict=True)
        return [k for k, (mine, whole) in enumerate(sizes) if mine != whole and k]

    def temporary(self, name: str, dtype: DType, size: int) -> Buffer:
        """A buffer that lives from one kernel of a group to the next."""
        buffer = Buffer(f"{name}{len(self.temporaries)}", dtype, size)
        self.temporaries.append(buffer)
        return buffer


class Elements:
    """Elements of values as expressions: reads through movement, computes indices and guards."""

    s = Recorder()

    def __init__(self, lowering: Lowering):
        self.lowering = lowering
        self.mask: Expr | None = None
        self.known: dict[tuple[Node, tuple[Index, ...], Expr | None], Expr] = {}

    def read(self, node: Node, idx: tuple[Index, ...]) -> Expr:
        """The element of a value that is stored or reached through movement."""
        key = (node, idx, self.mask)
        if key not in self.known:
            self.known[key] = self._read(node, idx)
        return self.known[key]

    def _read(self, node: Node, idx: tuple[Index, ...]) -> Expr:
        if node.op == "constant" and node.type.size == 1:
            return Const(node.attrs["value"].reshape(-1)[0], node.dtype)
        if node.op in INLINE and node.op not in LEAVES and node.op != "reshape":
            return self.movement(node, idx)
        if node.op == "reshape" and stored_base(node).op == "constant" and node.type.size == 1:
            return self._read(stored_base(node), (ZERO,) * stored_base(node).type.rank)
        other = Const(0, node.dtype) if self.mask is not None else None
        return Load(*self.lowering.spot(node, idx, node.shape), self.mask, other)

    def movement(self, node: Node, idx: tuple[Index, ...]) -> Expr:
        """The `at` rule of a movement op."""
        result: Expr = opdef(node.op).rules["at"](Reads(self, node), idx, *(i.type for i in node.inputs), **node.attrs)
        return result


class Reads:
    """The Reader protocol for one movement node."""

    def __init__(self, elements: Elements, node: Node):
        self.elements = elements
        self.node = node
        self.s = elements.s

    def read(self, k: int, idx: tuple[Any, ...]) -> Expr:
        return self.elements.read(self.node.inputs[k], tuple(index(i) for i in idx))

    def within(self, i: Index | int, low: int, high: int) -> Expr:
        i = index(i)
        least, most = i.range
        if low <= least and most < high:
            return Const(True, bool_)
        if most < low or least >= high:
            return Const(False, bool_)
        value = IndexValue(i, i64)
        parts: list[Expr] = []
        if least < low:
            parts.append(self.s.ge(value, Const(low, i64)))
        if most >= high:
            parts.append(self.s.lt(value, Const(high, i64)))
        return parts[0] if len(parts) == 1 else self.s.and_(*parts)

    def guard(self, condition: Expr, then: Callable[[], Expr], other: Expr) -> Expr:
        if isinstance(condition, Const):
            return then() if condition.value else other
        before = self.elements.mask
        self.elements.mask = condition if before is None else self.s.and_(before, condition)
        try:
            value = then()
        finally:
            self.elements.mask = before
        return self.s.select(condition, value, other)

    def value(self, i: Index | int, dtype: DType) -> Expr:
        i = index(i)
        return IndexValue(i, dtype) if i.terms else Const(i.const, dtype)

    def index(self, value: Expr) -> Index:
        if isinstance(value, Const):
            return index(int(value.value))
        return value.index if isinstance(value, IndexValue) else Index(0, ((Loaded(value), 1),))


def lanes_of(machine: Machine, dtypes: Sequence[DType]) -> int:
    """Lanes of a kernel: its widest value fills one vector."""
    return machine.lanes(max((d.itemsize for d in dtypes), default=4))


__all__ = ["Elements", "Lowering", "Reads", "lanes_of"]
