"""Groups that do the same are lowered once: layers of one shape, their gradients, the updates of their weights.

What a group does is told by its nodes in order, what they read, and which of it lies in the same memory. Kernels of the next
group like it share the body of the first one's and work on buffers of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

from graphopt.ir.graph import Node
from graphopt.kernel.elements import Lowering
from graphopt.kernel.loops import Buffer, Kernel
from graphopt.passes.cse import exact_key
from graphopt.passes.fuse import Group
from graphopt.passes.materialise import moves, stored_base
from graphopt.passes.rewrite import number

Lower = Callable[[Group, Lowering], list[Kernel]]


@dataclass(frozen=True, slots=True)
class _Made:
    """A group's kernels, the buffers it was told with, the temporaries it took, and its partial results in order."""

    kernels: tuple[Kernel, ...]
    buffers: tuple[Buffer, ...]
    temporaries: tuple[Buffer, ...]
    partial: tuple[Buffer, ...]
    nodes: dict[Node, int]


class Repeats:
    """The kernels of groups, each different one lowered once."""

    def __init__(self) -> None:
        self._known: dict[Hashable, _Made] = {}

    def kernels(self, group: Group, lowering: Lowering, lower: Lower) -> list[Kernel]:
        """What `lower` makes of a group."""
        told = _Told(group, lowering)
        key = told.group()
        buffers = tuple(told.buffers)
        members = [*group.nodes, *group.sinks]
        known = self._known.get(key)
        if known is None:
            start = len(lowering.temporaries)
            kernels = lower(group, lowering)
            partial = tuple([lowering.partial[n] for n in group.sinks])
            places = {n: k for k, n in enumerate(members)}
            self._known[key] = _Made(tuple(kernels), buffers, tuple(lowering.temporaries[start:]), partial, places)
            return kernels
        mine = dict(zip(known.buffers, buffers, strict=True))
        for b in known.temporaries:
            mine[b] = lowering.temporary(b.name.rstrip("0123456789"), b.dtype, b.size)
        lowering.partial |= {n: mine[b] for n, b in zip(group.sinks, known.partial, strict=True)}
        return [
            replace(k, args=tuple([mine[b] for b in k.args]), nodes=tuple([members[known.nodes[n]] for n in k.nodes]))
            for k in known.kernels
        ]


class _Told:
    """All that lowering a group depends on, with nodes and buffers numbered in the order in which they are met."""

    def __init__(self, group: Group, lowering: Lowering):
        self._group = group
        self._lowering = lowering
        self._numbers: dict[Node, int] = {}
        self._mine = {*group.nodes, *group.sinks}
        self._parts: list[Hashable] = []
        self.buffers: dict[Buffer, int] = {}

    def group(self) -> Hashable:
        g = self._group
        nodes = tuple([(self._node(n), n in g.rows, n in g.finishes) for n in g.nodes])
        sinks = tuple([self._node(n) for n in g.sinks])
        stores = tuple([(self._numbers[n], *self._target(n)) for n in g.stores])
        result = None if g.result is None else self._numbers[g.result]
        return g.kind, g.full, g.axes, g.slices, nodes, sinks, stores, result, tuple(self._parts)

    def _buffer(self, buffer: Buffer) -> Hashable:
        number = self.buffers.setdefault(buffer, len(self.buffers))
        return number, buffer.dtype.name, buffer.size, self._lowering.steady.get(buffer, 1)

    def _target(self, node: Node) -> tuple[Hashable, ...]:
        """Where a value is stored, and in which frame."""
        if node not in self._lowering.inside:
            return (self._buffer(self._lowering.buffer(node)),)
        whole, start = self._lowering.inside[node]
        border = number(whole.inputs[0].inputs[1]) if whole.inputs[0].op == "pad" else None
        return self._buffer(self._lowering.buffer(whole)), whole.shape, start, str(border)

    def _node(self, node: Node) -> int:
        known = self._numbers.get(node)
        if known is None:
            part = (node.dtype.name, node.shape, *self._meaning(node))
            known = self._numbers[node] = len(self._parts)
            self._parts.append(part)
        return known

    def _meaning(self, node: Node) -> tuple[Hashable, ...]:
        """A node of the group or movement that it reads through, by its inputs; anything else by where it lies."""
        if node in self._group.finishes:
            inputs = tuple([(i.dtype.name, i.shape) for i in node.inputs])
            return "finish", node.op, _attrs(node), inputs, self._buffer(self._lowering.partial[node])
        if node in self._mine or moves(stored_base(node)):
            return node.op, _attrs(node), tuple([self._node(i) for i in node.inputs])
        base = stored_base(node)
        value = base.attrs["value"].tobytes() if base.op == "constant" and base.type.size == 1 else None
        if value is not None and base not in self._lowering.place:
            return "number", value, node is base
        if base in self._mine:
            self._node(base)
        return "stored", value, node is base, *self._target(base)


def _attrs(node: Node) -> Hashable:
    return tuple([(k, exact_key(v)) for k, v in sorted(node.attrs.items())])


__all__ = ["Repeats"]
