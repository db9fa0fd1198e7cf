"""Nodes and graphs: pure values. A pass never changes one, it builds another and shares what stayed the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from graphopt.ir.types import TensorType
from graphopt.where import Where

NO_ATTRS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One use of an op: the node is its value. Compared by identity.

    Leaves are ops without inputs: `input` and `state` (attrs: name), `constant` (attrs: value, a numpy array).
    Arithmetic operators on nodes are attached by `opdefs`.
    """

    op: str
    inputs: tuple[Node, ...]
    attrs: Mapping[str, Any]
    type: TensorType
    where: Where | None = None
    born: int = field(default_factory=count().__next__)  # nodes in the order in which they were made

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def dtype(self) -> Any:
        return self.type.dtype

    def __repr__(self) -> str:
        return f"<{self.op} {self.type}>"

    if TYPE_CHECKING:  # what opdefs/operators.py attaches, for the type checker

        def __add__(self, other: Node | Any) -> Node: ...
        def __neg__(self) -> Node: ...

        __sub__ = __mul__ = __truediv__ = __floordiv__ = __mod__ = __pow__ = __add__
        __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rfloordiv__ = __rmod__ = __rpow__ = __add__
        __lt__ = __le__ = __gt__ = __ge__ = __and__ = __or__ = __xor__ = __add__
        __abs__ = __invert__ = __neg__


@dataclass(frozen=True, slots=True)
class Memory:
    """What is asked of the memory of a graph's temporaries.

    budget: the most bytes of the arena; None for no limit.
    cells:  (path, outputs too) of Cells whose values are computed again for the backward pass.
    """

    budget: int | None = None
    cells: tuple[tuple[str, bool], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A function from inputs and state to outputs and new state.

    inputs, state: leaf nodes (`input`, `state`), in the order they are bound; state persists between calls.
    outputs:       the values returned.
    updates:       (state leaf, new value) pairs; a state without a pair keeps its value.
    memory:        what is asked of its temporaries; no part of its meaning, nor of its text.
    """

    name: str
    inputs: tuple[Node, ...]
    state: tuple[Node, ...]
    outputs: tuple[Node, ...]
    updates: tuple[tuple[Node, Node], ...] = ()
    memory: Memory = Memory()

    @property
    def roots(self) -> tuple[Node, ...]:
        """Everything the graph must compute."""
        return self.outputs + tuple(value for _, value in self.updates)

    def with_roots(self, roots: Sequence[Node]) -> Graph:
        """The same graph computing `roots` instead (outputs first, then the updates' values)."""
        k = len(self.outputs)
        updates = tuple((s, v) for (s, _), v in zip(self.updates, roots[k:], strict=True))
        return replace(self, outputs=tuple(roots[:k]), updates=updates)


def input_node(name: str, type: TensorType, where: Where | None = None) -> Node:
    return Node("input", (), MappingProxyType({"name": name}), type, where)


def state_node(name: str, type: TensorType, where: Where | None = None) -> Node:
    return Node("state", (), MappingProxyType({"name": name}), type, where)


def subgraphs(node: Node) -> tuple[Graph, ...]:
    """The graphs among a node's attrs: the bodies of control flow."""
    return tuple([value for value in node.attrs.values() if type(value) is Graph])


def walk(roots: Iterable[Node]) -> list[Node]:
    """All nodes that `roots` need, each after its inputs, in a fixed order.

    Cost: O(nodes + edges), without recursion.
    """
    order: list[Node] = []
    done: set[Node] = set()
    for root in roots:
        if root in done:
            continue
        stack: list[tuple[Node, int]] = [(root, 0)]
        done.add(root)
        while stack:
            node, k = stack.pop()
            inputs = node.inputs
            while k < len(inputs) and inputs[k] in done:
                k += 1
            if k < len(inputs):
                stack.append((node, k + 1))
                done.add(inputs[k])
                stack.append((inputs[k], 0))
            else:
                order.append(node)
    return order


def users(order: Iterable[Node]) -> dict[Node, list[Node]]:
    """For every node of `order`, the nodes of `order` that use it; a node that uses it twice stands twice."""
    result: dict[Node, list[Node]] = {}
    for node in order:
        result.setdefault(node, [])
        for source in node.inputs:
            result.setdefault(source, []).append(node)
    return result


def with_inputs(node: Node, inputs: tuple[Node, ...]) -> Node:
    """The same op on other inputs of the same types; the node itself when nothing changed."""
    if inputs == node.inputs:  # nodes compare by identity
        return node
    return Node(node.op, inputs, node.attrs, node.type, node.where, node.born)


def rebuild(graph: Graph, change: Callable[[Node], Node]) -> Graph:
    """Apply `change` to every node, inputs first; it sees each node with its inputs already changed.

    Leaves of the signature (`input`, `state`) are kept.
    """
    new: dict[Node, Node] = {}
    for node in walk(graph.roots):
        if node.op in ("input", "state"):
            new[node] = node
            continue
        new[node] = change(with_inputs(node, tuple(new[i] for i in node.inputs)))
    roots = [new[r] for r in graph.roots]
    if all(a is b for a, b in zip(roots, graph.roots, strict=True)):
        return graph
    return graph.with_roots(roots)


def substitute(roots: Sequence[Node], mapping: Mapping[Node, Node]) -> list[Node]:
    """`roots` computed from other leaves (or inner nodes): each key of `mapping` is replaced by its value."""
    new: dict[Node, Node] = dict(mapping)
    for node in walk(roots):
        if node not in new:
            new[node] = with_inputs(node, tuple(new[i] for i in node.inputs))
    return [new[r] for r in roots]
