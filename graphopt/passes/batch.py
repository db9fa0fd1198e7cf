"""Many examples at once: the nodes of one example, rewritten so that all of them are computed together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphopt.errors import DTypeError, layout
from graphopt.ir.graph import Node, input_node, walk, with_inputs
from graphopt.ir.types import TupleType
from graphopt.opdefs.opdef import opdef, repeated
from graphopt.opdefs.reduce import reduce_sum
from graphopt.passes.batch_control import Result, batch_region
from graphopt.passes.gradient import Derivative
from graphopt.where import at


class Examples:
    """`size` examples of something: which node of one example stands for which node of all of them.

    Nodes that depend on no example are the same for all and stay as they are.
    """

    def __init__(self, size: int):
        self.size = size
        self._all: dict[Node, Node] = {}
        self._same: dict[Node, Node] = {}  # nodes that are the same for all, but computed from others now
        self._several: dict[Node, list[Result]] = {}

    def stand_for(self, one: Node, all_of_them: Node) -> None:
        """Let `one`, a leaf, stand for the examples along axis 0 of the other node."""
        self._all[one] = all_of_them

    def __contains__(self, one: Node) -> bool:
        """Whether a node, once it went through `of`, differs from example to example."""
        return one in self._all

    def _now(self, one: Node) -> Node:
        return self._all.get(one) or self._same.get(one, one)

    def of(self, ones: Sequence[Node]) -> list[Node]:
        """The nodes of all examples, along axis 0; those that are the same for all without.

        Errors: DTypeError naming an op that cannot be mapped, and the reason.
        Cost:   O(nodes + edges) calls of batch rules, without recursion.
        """
        found = self._all
        for node in walk(ones):
            if node in found or node in self._same or node in self._several:
                continue
            inputs = tuple(self._now(i) for i in node.inputs)
            mapped = tuple(i in found for i in node.inputs)
            with at(node.where):
                if node.op == "item" and node.inputs[0] in self._several:
                    value, has = self._several[node.inputs[0]][node.attrs["index"]]
                    (found if has else self._same)[node] = value
                elif not any(mapped):
                    if inputs != node.inputs:
                        self._same[node] = with_inputs(node, inputs)
                elif isinstance(node.type, TupleType):
                    self._several[node] = batch_region(self._inside, self.size, node, inputs, mapped)
                else:
                    found[node] = self._rule(node)(self.size, mapped, *inputs, **node.attrs)
        return [self._now(n) for n in ones]

    def _rule(self, node: Node) -> Callable[..., Node]:
        definition = opdef(node.op)
        rule = definition.rules.get("batch")
        if rule is None:
            raise DTypeError(layout(f"{node.op}: cannot be mapped: {definition.no_batch_reason}", node.where))
        return rule

    def _inside(
        self, leaves: Sequence[Node], known: Sequence[Node], mapped: Sequence[bool], roots: Sequence[Node]
    ) -> list[Result]:
        """The roots of a graph inside a node, for all examples; see `batch_region`."""
        inner = Examples(self.size)
        for leaf, value, has in zip(leaves, known, mapped, strict=True):
            (inner._all if has else inner._same)[leaf] = value
        return [(node, root in inner) for root, node in zip(roots, inner.of(roots), strict=True)]

    def derivative(self, part: Derivative) -> Derivative:
        """A derivative of one's own for one example, as that of all examples."""
        inputs, outputs = self.of(part.inputs), self.of(part.outputs)
        if not any(n in self for n in part.outputs):
            return part

        def rule(cotangents: Sequence[Node | None]) -> list[Node | None]:
            arrived: list[Node | None] = []
            for node, cotangent in zip(part.outputs, cotangents, strict=True):
                if cotangent is None or node not in self:
                    arrived.append(cotangent)
                    continue
                one = input_node("ct", node.type)
                self.stand_for(one, cotangent)
                arrived.append(one)
            result = part.rule(arrived)
            return [None if g is None else self._gathered(n, g) for n, g in zip(part.inputs, result, strict=True)]

        return Derivative(tuple(inputs), tuple(outputs), rule)

    def _gathered(self, one: Node, cotangent: Node) -> Node:
        """The cotangent of all examples of `one`; their sum when it is the same for all."""
        rows = self.of([cotangent])[0]
        rows = rows if cotangent in self else repeated(rows, self.size)
        return rows if one in self else reduce_sum(rows, axes=(0,))
