"""Control flow of many examples: one branch or loop for all of them where its decisions are the same for all.

Where examples decide by themselves, both sides of a branch are computed and chosen from, and a loop goes on while any
example does; those that are done keep their values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.ir.graph import Graph, Node, input_node, state_node
from graphopt.ir.types import bool_, i32
from graphopt.opdefs.bits import logical_and
from graphopt.opdefs.control import branch, items, loop, split
from graphopt.opdefs.elementwise import add, cast, lt, select, sub
from graphopt.opdefs.opdef import constant, full, repeated
from graphopt.opdefs.reduce import reduce_max, reduce_or
from graphopt.opdefs.rule import with_rule
from graphopt.opdefs.shape import broadcast, transpose
from graphopt.passes.control import fresh_names

Result = tuple[Node, bool]  # a node, and whether it has examples along axis 0
Inside = Callable[[Sequence[Node], Sequence[Node], Sequence[bool], Sequence[Node]], list[Result]]
"""(leaves, what stands for each, whether with examples, roots) -> the roots of all examples."""


def batch_region(inside: Inside, size: int, node: Node, inputs: Sequence[Node], mapped: Sequence[bool]) -> list[Result]:
    """The results of a branch, a loop or a derivative of one's own on `size` examples.

    inputs: its operands, of all examples where `mapped`.
    """
    if node.op == "with_rule":
        return _rule(inside, size, node, inputs, mapped)
    if node.op == "branch":
        return _branch(inside, size, node, inputs, mapped)
    return _Loop(inside, size, node, inputs, mapped).run()


def _typed(leaf: Node, size: int, mapped: bool, make: Callable[..., Node] = input_node) -> Node:
    type = leaf.type.with_shape((size, *leaf.shape)) if mapped else leaf.type
    return make(leaf.attrs["name"], type, leaf.where)


def _as(result: Result, mapped: bool, size: int) -> Node:
    return repeated(result[0], size) if mapped and not result[1] else result[0]


def _where(condition: Node, a: Node, b: Node) -> Node:
    """a or b for each example."""
    return select(broadcast(condition, shape=a.shape, axes=(0,)) if a.type.rank > 1 else condition, a, b)


def _branch(inside: Inside, size: int, node: Node, inputs: Sequence[Node], mapped: Sequence[bool]) -> list[Result]:
    sides: tuple[Graph, Graph] = (node.attrs["then"], node.attrs["other"])
    if mapped[0]:
        made = [inside(g.inputs, inputs[1:], mapped[1:], g.outputs) for g in sides]
        pairs = zip(*made, strict=True)
        return [(_where(inputs[0], _as(a, True, size), _as(b, True, size)), True) for a, b in pairs]
    leaves = [[_typed(n, size, m) for n, m in zip(g.inputs, mapped[1:], strict=True)] for g in sides]
    made = [inside(g.inputs, mine, mapped[1:], g.outputs) for g, mine in zip(sides, leaves, strict=True)]
    flags = [a[1] or b[1] for a, b in zip(*made, strict=True)]
    graphs = [
        Graph(g.name, tuple(mine), (), tuple(_as(r, flag, size) for r, flag in zip(results, flags, strict=True)))
        for g, mine, results in zip(sides, leaves, made, strict=True)
    ]
    return list(zip(items(branch(*inputs, then=graphs[0], other=graphs[1])), flags, strict=True))


def _rule(inside: Inside, size: int, node: Node, inputs: Sequence[Node], mapped: Sequence[bool]) -> list[Result]:
    """Results and sources are taken for every example, so that each has a cotangent of its own."""
    count, sources, back = node.attrs["results"], node.attrs["sources"], node.attrs["back"]
    flags = [m or k < count + sources for k, m in enumerate(mapped)]
    operands = [_as((x, m), flag, size) for x, m, flag in zip(inputs, mapped, flags, strict=True)]
    if back is not None:
        of_leaves = [*[True] * count, *flags[count + sources :], *[True] * count]
        leaves = [_typed(n, size, m) for n, m in zip(back.inputs, of_leaves, strict=True)]
        outputs = inside(back.inputs, leaves, of_leaves, back.outputs)
        back = Graph(back.name, tuple(leaves), (), tuple(_as(r, True, size) for r in outputs))
    return [(n, True) for n in items(with_rule(*operands, back=back, results=count, sources=sources))]


@dataclass
class _Traced:
    """A loop's graphs for all examples, with leaves of their own."""

    inputs: list[Node]
    state: list[Node]
    fresh: list[Result]
    outputs: list[Result]
    test_inputs: list[Node]
    test_state: list[Node]
    test: Result | None


class _Loop:
    """A loop on many examples."""

    def __init__(self, inside: Inside, size: int, node: Node, inputs: Sequence[Node], mapped: Sequence[bool]):
        a = node.attrs
        self.inside, self.size, self.attrs = inside, size, a
        self.body: Graph = a["body"]
        self.test: Graph | None = a["test"]
        self.operands = split(inputs, self.body, self.test, a["stacked"], a["counted"])
        self.flags = split(mapped, self.body, self.test, a["stacked"], a["counted"])
        self.carried = list(self.flags.carry)  # which values of the carry differ from example to example
        self.own_trips = any(self.flags.trips)

    def run(self) -> list[Result]:
        """The results."""
        traced = self._settled()
        if self.own_trips or (traced.test is not None and traced.test[1]):
            self.carried = [True] * len(self.carried)
            return self._masked(self._trace())
        return self._plain(traced)

    def _settled(self) -> _Traced:
        """The graphs, once every value of the carry that an example changes is known to differ."""
        while True:
            traced = self._trace()
            wider = [c or r[1] for c, r in zip(self.carried, traced.fresh, strict=True)]
            if wider == self.carried:
                return traced
            self.carried = wider

    def _trace(self) -> _Traced:
        body, test, size = self.body, self.test, self.size
        flags = [*self.flags.rows, *self.flags.constants]
        inputs = [_typed(n, size, m) for n, m in zip(body.inputs, flags, strict=True)]
        state = [_typed(n, size, m, state_node) for n, m in zip(body.state, self.carried, strict=True)]
        updates = dict(body.updates)
        roots = [*(updates.get(s, s) for s in body.state), *body.outputs]
        made = self.inside([*body.inputs, *body.state], [*inputs, *state], [*flags, *self.carried], roots)
        count = len(body.state)
        test_inputs: list[Node] = []
        test_state: list[Node] = []
        answer: Result | None = None
        if test is not None:
            test_inputs = [_typed(n, size, m) for n, m in zip(test.inputs, self.flags.test_constants, strict=True)]
            test_state = [_typed(n, size, m, state_node) for n, m in zip(test.state, self.carried, strict=True)]
            leaves, known = [*test.inputs, *test.state], [*test_inputs, *test_state]
            answer = self.inside(leaves, known, [*self.flags.test_constants, *self.carried], test.outputs)[0]
        return _Traced(inputs, state, made[:count], made[count:], test_inputs, test_state, answer)

    def _carry(self) -> list[Node]:
        triples = zip(self.operands.carry, self.flags.carry, self.carried, strict=True)
        return [_as((x, had), wanted, self.size) for x, had, wanted in triples]

    def _rows(self) -> list[Node]:
        """Stacked operands with their trips in front of their examples."""
        return [_swapped(x) if m else x for x, m in zip(self.operands.rows, self.flags.rows, strict=True)]

    def _plain(self, t: _Traced) -> list[Result]:
        """All examples make the same trips."""
        updates = [(s, _as(r, m, self.size)) for s, r, m in zip(t.state, t.fresh, self.carried, strict=True)]
        body = Graph(self.body.name, tuple(t.inputs), tuple(t.state), tuple(n for n, _ in t.outputs), tuple(updates))
        test = None
        if self.test is not None and t.test is not None:
            test = Graph(self.test.name, tuple(t.test_inputs), tuple(t.test_state), (t.test[0],))
        o = self.operands
        made = self._loop([*self._carry(), *self._rows(), *o.constants, *o.test_constants, *o.trips], body, test)
        flags = [*self.carried, *(m for _, m in t.outputs), *[False] * (test is not None)]
        return self._results(made, flags)

    def _results(self, made: Sequence[Node], flags: Sequence[bool]) -> list[Result]:
        count = len(self.carried)
        stacks = range(count, count + len(self.body.outputs))
        return [(_swapped(n) if m and k in stacks else n, m) for k, (n, m) in enumerate(zip(made, flags, strict=True))]

    def _loop(self, operands: Sequence[Node], body: Graph, test: Graph | None, counted: bool | None = None) -> list[Node]:
        a = self.attrs
        kept: dict[str, Any] = {"length": a["length"], "reverse": a["reverse"], "stacked": a["stacked"]}
        kept["counted"] = a["counted"] if counted is None else counted
        return list(items(loop(*operands, body=body, test=test, **kept)))

    def _masked(self, t: _Traced) -> list[Result]:
        """The loop goes on while an example does; those that are done keep their carry, and their rows are zero."""
        size, o = self.size, self.operands
        name = fresh_names([*t.inputs, *t.state])
        trip = state_node(name("trip"), constant(0, i32).type)
        done = state_node(name("trips"), full((size,), 0, i32).type)
        active, extra = self._active(t, trip, name)
        updates = []
        for s, result in zip(t.state, t.fresh, strict=True):
            updates.append((s, _where(active, _as(result, True, size), s)))
        updates += [(trip, add(trip, 1)), (done, add(done, cast(active, dtype=i32)))]
        outputs = []
        for result in t.outputs:
            row = _as(result, True, size)
            outputs.append(_where(active, row, full(row.shape, 0, row.dtype)))
        inputs = (*t.inputs, *(leaf for leaf, _ in extra))
        body = Graph(self.body.name, inputs, (*t.state, trip, done), tuple(outputs), tuple(updates))
        test = None
        if self.test is not None and t.test is not None:
            again = reduce_or(_as(t.test, True, size), axes=(0,))
            states = (*t.test_state, state_node(name("trip"), trip.type), state_node(name("trips"), done.type))
            test = Graph(self.test.name, tuple(t.test_inputs), states, (again,))
        trips = [reduce_max(x, axes=(0,)) for x in o.trips] if self.own_trips else list(o.trips)
        first = [*self._carry(), constant(0, i32), full((size,), 0, i32)]
        constants = [*o.constants, *(value for _, value in extra)]
        made = self._loop([*first, *self._rows(), *constants, *o.test_constants, *trips], body, test)
        count, stacks = len(self.carried), len(self.body.outputs)
        wanted = [*made[:count], *made[count + 2 : count + 2 + stacks]]
        if test is not None:
            wanted.append(made[count + 1])
        return self._results(wanted, [True] * len(wanted))

    def _active(self, t: _Traced, trip: Node, name: Callable[[str], str]) -> tuple[Node, list[tuple[Node, Node]]]:
        """Which examples go on, in the body; and more constants for the body, (leaf, value), that this takes."""
        extra: list[tuple[Node, Node]] = []
        active = full((self.size,), 1, bool_)
        if self.test is not None:
            for leaf, value, m in zip(self.test.inputs, self.operands.test_constants, self.flags.test_constants, strict=True):
                typed = _typed(leaf, self.size, m)
                extra.append((input_node(name(leaf.attrs["name"]), typed.type), value))
            leaves = [*self.test.inputs, *self.test.state]
            known = [*(leaf for leaf, _ in extra), *t.state]
            (answer,) = self.inside(leaves, known, [*self.flags.test_constants, *self.carried], self.test.outputs)
            active = logical_and(active, _as(answer, True, self.size))
        if self.own_trips:
            most = input_node(name("most"), self.operands.trips[0].type)
            extra.append((most, self.operands.trips[0]))
            row = trip
            if self.attrs["reverse"]:  # those with fewer trips than the longest begin later, at their own last row
                longest = input_node(name("longest"), trip.type)
                extra.append((longest, reduce_max(self.operands.trips[0], axes=(0,))))
                row = sub(sub(longest, 1), trip)
            active = logical_and(active, lt(broadcast(row, shape=most.shape, axes=()), most))
        return active, extra


def _swapped(x: Node) -> Node:
    """Examples and trips, the first two axes, the other way round."""
    return transpose(x, perm=(1, 0, *range(2, x.type.rank)))
