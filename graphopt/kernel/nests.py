"""Ops that bring their own loop nests: the recorder their `loops` rules run against."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from graphopt.errors import CompileError
from graphopt.ir.index import ZERO, Index, delinear, index, linear
from graphopt.ir.types import DType
from graphopt.kernel.elements import Elements, Lowering, Reads, lanes_of
from graphopt.kernel.loops import Buffer, Const, Expr, For, If, Kernel, Load, Stmt, Store, loop, make_kernel
from graphopt.kernel.machine import Machine
from graphopt.opdefs.opdef import opdef
from graphopt.passes.fuse import Group


class Scratch:
    """Memory of an op's own."""

    def __init__(self, nest: NestRecorder, buffer: Buffer):
        self.nest = nest
        self.buffer = buffer

    def load(self, i: Index | int) -> Expr:
        return Load(self.buffer, index(i))

    def store(self, i: Index | int, value: Expr) -> None:
        self.nest.body.append(Store(self.buffer, index(i), value))


class NestRecorder:
    """The `Loops` protocol: every call appends statements to the body being recorded."""

    def __init__(self, group: Group, lowering: Lowering):
        self.lowering = lowering
        self.node = group.nodes[0]
        self.out = lowering.buffer(self.node)
        self.width = lanes_of(lowering.machine, [self.node.dtype])
        self.elements = Elements(lowering)
        self.reads = Reads(self.elements, self.node)
        self.s = self.elements.s
        self.body: list[Stmt] = []
        self.in_lanes = False
        self.kept = 0

    def _record(self, body: Callable[[], None]) -> list[Stmt]:
        outer, self.body = self.body, []
        body()
        inner, self.body = self.body, outer
        return inner

    def independent(self, shape: tuple[int, ...], body: Callable[[tuple[Index, ...]], None], lanes: bool) -> None:
        if not lanes:
            total = prod(shape)
            self.body += loop("par", "p", total, lambda p: self._record(lambda: body(delinear(p, shape))))
            return
        *outer, inner = shape
        blocks, rest = divmod(inner, self.width)

        def vector(p: Index, base: Index, active: int) -> list[Stmt]:
            def one(x: Index) -> list[Stmt]:
                return self._record(lambda: body((*delinear(p, tuple(outer)), base + x)))

            self.in_lanes = True
            stmts = self._lanes_inside(active, one)
            self.in_lanes = False
            return stmts

        rows = prod(outer)
        if blocks:
            self.body += loop("par", "p", rows * blocks, lambda t: vector(t // blocks, t % blocks * self.width, self.width))
        if rest:
            self.body += loop("par", "p", rows, lambda p: vector(p, index(blocks * self.width), rest))

    def _lanes_inside(self, active: int, body: Callable[[Index], list[Stmt]]) -> list[Stmt]:
        """Serial loops stay outside, lanes go around each store."""
        return [s for whole in loop("lanes", "l", active, body) for s in _sink(whole)]

    def serial(self, shape: tuple[int, ...], body: Callable[[tuple[Index, ...]], None]) -> None:
        self.body += loop("serial", "i", prod(shape), lambda k: self._record(lambda: body(delinear(k, shape))))

    def each(self, size: int, body: Callable[[Index], None]) -> None:
        if self.in_lanes:
            self.body += loop("serial", "i", size, lambda k: self._record(lambda: body(k)))
            return
        blocks, rest = divmod(size, self.width)
        width = self.width
        self.body += loop(
            "serial", "j", blocks, lambda j: loop("lanes", "l", width, lambda x: self._record(lambda: body(j * width + x)))
        )
        self.body += loop("lanes", "l", rest, lambda x: self._record(lambda: body(x + blocks * width)))

    def when(self, condition: Expr, body: Callable[[], None]) -> None:
        if isinstance(condition, Const):
            if condition.value:
                body()
            return
        self.body.append(If(condition, tuple(self._record(body))))

    def read(self, k: int, place: tuple[Any, ...]) -> Expr:
        return self.reads.read(k, place)

    def load(self, place: tuple[Any, ...]) -> Expr:
        return Load(self.out, linear((index(i) for i in place), self.node.shape))

    def store(self, place: tuple[Any, ...], value: Expr) -> None:
        self.body.append(Store(self.out, linear((index(i) for i in place), self.node.shape), value))

    def keep(self, value: Expr) -> Expr:
        if self.in_lanes:
            raise CompileError(f"{self.node.op}: a value is kept inside lanes; its loops rule must say lanes=False")
        held = Buffer(f"kept{self.kept}", value.dtype, 1, local=True)
        self.kept += 1
        self.body.append(Store(held, ZERO, value))
        return Load(held, ZERO)

    def scratch(self, size: int, dtype: DType) -> Scratch:
        return Scratch(self, self.lowering.temporary("scratch", dtype, size))

    def within(self, i: Index | int, low: int, high: int) -> Expr:
        return self.reads.within(i, low, high)

    def value(self, i: Index | int, dtype: DType) -> Expr:
        return self.reads.value(i, dtype)

    def index(self, value: Expr) -> Index:
        return self.reads.index(value)


def _sink(s: Stmt) -> list[Stmt]:
    """Push a loop of lanes inwards past loops and conditions, which do not depend on the lane."""
    assert isinstance(s, For)
    result: list[Stmt] = []
    for inner in s.body:
        if isinstance(inner, For):
            result.append(For(inner.var, inner.kind, tuple(x for b in inner.body for x in _sink(For(s.var, "lanes", (b,))))))
        elif isinstance(inner, If):
            result.append(If(inner.condition, tuple(x for b in inner.body for x in _sink(For(s.var, "lanes", (b,))))))
        else:
            result.append(For(s.var, "lanes", (inner,)))
    return result


def _fill(name: str, target: Buffer, machine: Machine, value: Callable[[Index], Expr]) -> list[Kernel]:
    """`value(i)` for every element of a buffer; no kernel when there are none."""
    width = machine.lanes(target.dtype.itemsize)
    blocks, rest = divmod(target.size, width)
    body: list[Stmt] = loop(
        "par",
        "j",
        blocks,
        lambda j: loop("lanes", "l", width, lambda x: [Store(target, j * width + x, value(j * width + x))]),
    )
    start = index(blocks * width)
    body += loop("lanes", "l", rest, lambda x: [Store(target, start + x, value(start + x))])
    return [make_kernel(name, body, width)] if body else []


def copy_kernel(source: Buffer, target: Buffer, machine: Machine) -> list[Kernel]:
    """All elements of one buffer into another, where a new value could not be written over the one it comes from."""
    return _fill("copy", target, machine, lambda i: Load(source, i))


def zero_kernel(target: Buffer, machine: Machine) -> list[Kernel]:
    """Zeros in all elements of a buffer."""
    return _fill("zero", target, machine, lambda _: Const(0, target.dtype))


def lower_kernel(group: Group, lowering: Lowering) -> list[Kernel]:
    """The kernel of an op of kind `kernel`; before it a copy, where the output starts from an input in other memory."""
    node = group.nodes[0]
    d = opdef(node.op)
    nest = NestRecorder(group, lowering)
    kernels: list[Kernel] = []
    if d.starts_from is not None and (source := lowering.buffer(node.inputs[d.starts_from])) is not nest.out:
        kernels = copy_kernel(source, nest.out, lowering.machine)
    d.rules["loops"](nest, *(i.type for i in node.inputs), **node.attrs)
    return kernels + ([make_kernel(node.op, nest.body, nest.width, nodes=(node,))] if nest.body else [])
