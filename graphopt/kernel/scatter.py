"""Ops that bring their own loop nests, and the builder their `loops` rules are written against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graphopt.ir.index import Index, linear
from graphopt.ir.types import i64
from graphopt.kernel.loops import Const, Expr, If, IndexValue, Kernel, Load, Op, Recorder, Stmt, Store, loop, make_kernel
from graphopt.kernel.lower import Elements, Lowering, lanes_of
from graphopt.opdefs.opdef import opdef
from graphopt.passes.fuse import Group


class LoopBuilder:
    """What a `loops` rule sees: loops over index ranges, reads of inputs, updates of the output.

    The rule returns statements. `out` starts uninitialised.
    """

    def __init__(self, group: Group, lowering: Lowering):
        node = group.nodes[0]
        self.node = node
        self.s = Recorder()
        self.out = lowering.buffer(node)
        self.elements = Elements(lowering)
        self.width = lanes_of(lowering.machine, [node.dtype])

    def par(self, size: int, body: Callable[[Index], list[Stmt]]) -> list[Stmt]:
        """Iterations shared among the threads; they must touch disjoint elements."""
        return loop("par", "p", size, body)

    def serial(self, size: int, body: Callable[[Index], list[Stmt]]) -> list[Stmt]:
        return loop("serial", "i", size, body)

    def vector(self, size: int, body: Callable[[Index], list[Stmt]]) -> list[Stmt]:
        """`size` iterations as vectors with a masked tail."""
        blocks, rest = divmod(size, self.width)
        stmts = loop("serial", "j", blocks, lambda j: loop("lanes", "l", self.width, lambda x: body(j * self.width + x)))
        return stmts + loop("lanes", "l", rest, lambda x: body(x + blocks * self.width))

    def read(self, k: int, idx: Sequence[Any]) -> Expr:
        """The element of input k at an index."""
        return self.elements.read(self.node.inputs[k], tuple(idx))

    def index(self, value: Expr) -> Index:
        """A loaded integer as an index."""
        from graphopt.ir.index import Loaded

        return Index(0, ((Loaded(value), 1),))

    def within(self, i: Index, low: int, high: int) -> Expr:
        value = IndexValue(i, i64)
        return Op("and_", (self.s.ge(value, Const(low, i64)), self.s.lt(value, Const(high, i64))), self.s.ge(value, value).dtype)

    def when(self, condition: Expr, body: list[Stmt]) -> list[Stmt]:
        """Statements under a uniform condition."""
        return [If(condition, tuple(body))]

    def store(self, idx: Sequence[Index], value: Expr) -> Stmt:
        return Store(self.out, linear(idx, self.node.shape), value)

    def stored(self, idx: Sequence[Index]) -> Expr:
        """What the output holds so far."""
        return Load(self.out, linear(idx, self.node.shape))


def lower_kernel(group: Group, lowering: Lowering) -> list[Kernel]:
    """The kernels of an op of kind `kernel`: its rule returns one list of statements per kernel."""
    node = group.nodes[0]
    builder = LoopBuilder(group, lowering)
    parts = opdef(node.op).rules["loops"](builder, node.type, *(i.type for i in node.inputs), **node.attrs)
    work = float(sum(i.type.size for i in node.inputs) + node.type.size) / builder.width
    return [make_kernel(node.op, body, builder.width, work=work, nodes=(node,)) for body in parts if body]
