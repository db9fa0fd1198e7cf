"""The way back through a loop whose number of trips nobody limits.

What it needs of each trip cannot be kept, as there may be any number of trips. So the loop is run again, now that its
trips are counted, and what it carries is kept at the start of each of a fixed number of equal spans. On the way back a
trip's carry is computed again from the start of its span. While there are no more trips than spans, that costs nothing.
Only spans that hold trips are run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.ir.graph import Graph, Node, input_node, state_node, substitute
from graphopt.ir.types import TensorType, i32
from graphopt.opdefs.control import items, loop, parts_of
from graphopt.opdefs.elementwise import add, floordiv, ge, lt, maximum, minimum, sub
from graphopt.opdefs.opdef import constant, full
from graphopt.opdefs.rows import added

Vjp = Callable[[Sequence[Node], Sequence[Node | None], Sequence[Node]], list[Node | None]]

KEPT_BYTES = 1 << 24
FEWEST_SPANS, MOST_SPANS = 16, 1024

_COUNT = TensorType(i32, ())
_SPANS, _TRIPS = ("spans", "spans_back"), ("trip", "trip_back")  # names of the bodies made here


def pull_back_unbounded(
    vjp: Vjp, node: Node, cotangents: Sequence[Node | None], wanted: Sequence[bool]
) -> list[Node | None]:
    """The cotangents of the operands of a loop without a length; None for those that nothing reaches.

    Cost: with T trips and S spans the time of 3 + T / 2S forward loops, the memory of S carries.
    """
    return _Unbounded(vjp, node, cotangents, wanted).run()


class _Unbounded:
    def __init__(self, vjp: Vjp, node: Node, cotangents: Sequence[Node | None], wanted: Sequence[bool]):
        self.body: Graph = node.attrs["body"]
        self.parts = parts_of(node)
        self.trips = items(node)[-1]
        carry = self.body.state
        self.vjp = vjp
        self.floats = [k for k, s in enumerate(carry) if s.dtype.is_float]
        offset = len(carry)
        self.wanted = [
            k for k, n in enumerate(self.body.inputs) if wanted[offset + k] and n.dtype.is_float
        ]  # constants of the body
        self.arriving = [_or_zeros(cotangents[k], carry[k]) for k in self.floats]
        bytes_kept = sum(s.type.size * s.dtype.itemsize for s in carry)
        self.spans = max(FEWEST_SPANS, min(MOST_SPANS, KEPT_BYTES // max(bytes_kept, 1)))
        self.node = node

    def run(self) -> list[Node | None]:
        starts, done, span, used = self._spans()
        cts, sums = self._back(starts, done, span, used)
        result: list[Node | None] = [None] * len(self.node.inputs)
        for k, ct in zip(self.floats, cts, strict=True):
            result[k] = ct
        for k, total in zip(self.wanted, sums, strict=True):
            result[len(self.body.state) + k] = total
        return result

    def _spans(self) -> tuple[Sequence[Node], Node, Node, Node]:
        """(carries at the start of the spans, stacked; trips before each span, stacked; trips of a whole span; how many
        spans hold trips: were the others run too, each order of a derivative would run a thousand times as many).
        """
        span = maximum(floordiv(add(self.trips, self.spans - 1), self.spans), constant(1, i32))
        used = floordiv(add(self.trips, sub(span, 1)), span)
        leaves = _Leaves()
        carry, constants = leaves.states(self.body.state), leaves.inputs(self.body.inputs)
        done = leaves.state("done", _COUNT)
        limit, whole = leaves.input("trips", _COUNT), leaves.input("span", _COUNT)
        count = _in_span(limit, done, whole)
        after = self._advanced(carry, constants, count)
        body = Graph(
            _SPANS[0],
            (*constants, limit, whole),
            (*carry, done),
            (*carry, done),
            (*zip(carry, after, strict=True), (done, add(done, count))),
        )
        operands = (*self.parts.carry, constant(0, i32), *self.parts.constants, self.trips, span, used)
        made = items(
            loop(*operands, body=body, test=None, length=self.spans, reverse=False, stacked=0, counted=True)
        )[len(carry) + 1 :]
        return made[:-1], made[-1], span, used

    def _advanced(self, carry: Sequence[Node], constants: Sequence[Node], count: Node) -> Sequence[Node]:
        """The carry after `count` more trips, which are known to happen."""
        leaves = _Leaves()
        inside, given = leaves.states(self.body.state), leaves.inputs(self.body.inputs)
        k = leaves.state("k", _COUNT)
        fresh = self._trip(inside, given)
        body = Graph(_TRIPS[0], tuple(given), (*inside, k), (), (*zip(inside, fresh, strict=True), (k, add(k, 1))))
        operands = (*carry, constant(0, i32), *constants, count)
        return items(_while(operands, body, lambda state, limit: lt(state[-1], limit[0]), [_COUNT]))[: len(inside)]

    def _trip(self, carry: Sequence[Node], constants: Sequence[Node]) -> list[Node]:
        """The carry after one trip."""
        swap = dict(zip((*self.body.state, *self.body.inputs), (*carry, *constants), strict=True))
        updates = dict(self.body.updates)
        return substitute([updates.get(s, s) for s in self.body.state], swap)

    def _back(self, starts: Sequence[Node], done: Node, span: Node, used: Node) -> tuple[Sequence[Node], Sequence[Node]]:
        """(cotangents of the first carry, of the wanted constants)."""
        leaves = _Leaves()
        rows = leaves.inputs(self.body.state)
        before = leaves.input("done", _COUNT)
        constants = leaves.inputs(self.body.inputs)
        limit, whole = leaves.input("trips", _COUNT), leaves.input("span", _COUNT)
        flowing = leaves.states([self.body.state[k] for k in self.floats])
        totals = leaves.states([self.body.inputs[k] for k in self.wanted])
        count = _in_span(limit, before, whole)
        after = self._span_back(rows, constants, [*flowing, *totals], count)
        state = (*flowing, *totals)
        body = Graph(_SPANS[1], (*rows, before, *constants, limit, whole), state, (), tuple(zip(state, after, strict=True)))
        zeros = [full(n.shape, 0, n.dtype) for n in totals]
        operands = (*self.arriving, *zeros, *starts, done, *self.parts.constants, self.trips, span, used)
        made = items(
            loop(*operands, body=body, test=None, length=self.spans, reverse=True, stacked=len(rows) + 1, counted=True)
        )
        return made[: len(flowing)], made[len(flowing) : len(state)]

    def _span_back(
        self, start: Sequence[Node], constants: Sequence[Node], flowing: Sequence[Node], count: Node
    ) -> Sequence[Node]:
        """What flows through a span's trips, the last one first; each trip's carry is computed again from the start."""
        leaves = _Leaves()
        first, given = leaves.inputs(self.body.state), leaves.inputs(self.body.inputs)
        state = leaves.states(flowing)
        k = leaves.state("k", _COUNT)
        carry = self._advanced(first, given, k)
        cts, totals = state[: len(self.floats)], state[len(self.floats) :]
        fresh = self._trip_back(carry, given, cts)
        summed = [t if f is None else added([t, f]) for t, f in zip(totals, fresh[len(cts) :], strict=True)]
        after = [*(_or_zeros(f, c) for f, c in zip(fresh, cts, strict=False)), *summed, sub(k, 1)]
        held = (*state, k)
        body = Graph(_TRIPS[1], (*first, *given), held, (), tuple(zip(held, after, strict=True)))
        operands = (*flowing, sub(count, 1), *start, *constants)
        return items(_while(operands, body, lambda s, _: ge(s[-1], constant(0, i32)), []))[: len(state)]

    def _trip_back(self, carry: Sequence[Node], constants: Sequence[Node], cts: Sequence[Node]) -> list[Node | None]:
        """The cotangents of a trip's float carries and wanted constants."""
        updates = dict(self.body.updates)
        outputs = [updates.get(self.body.state[k], self.body.state[k]) for k in self.floats]
        wrt = [*(self.body.state[k] for k in self.floats), *(self.body.inputs[k] for k in self.wanted)]
        found = self.vjp(outputs, cts, wrt)
        swap = dict(zip((*self.body.state, *self.body.inputs), (*carry, *constants), strict=True))
        made = iter(substitute([n for n in found if n is not None], swap))
        return [None if n is None else next(made) for n in found]


@dataclass(frozen=True, slots=True)
class Span:
    """Where in the loop without a length a body of what stands for it is: at work on trip `trip` of `trips`.

    trip: 0 in a body of whole spans. before: the trips before the span.
    """

    trip: int
    trips: int
    before: int


def span_of(node: Node, values: Mapping[Node, Any], around: Span | None) -> Span | None:
    """Where a trip of the loop `node` is, by the values of its body's leaves; None for loops that nothing here made.

    around: where the loop that it is in is.
    """
    body: Graph = node.attrs["body"]
    found = {str(n.attrs["name"]).rpartition("_")[0]: n for n in (*body.inputs, *body.state)}
    if body.name in _SPANS and "done" in found and "trips" in found:
        return Span(0, int(values[found["trips"]]), int(values[found["done"]]))
    if body.name in _TRIPS and "k" in found and around is not None:
        return Span(around.before + int(values[found["k"]]) + 1, around.trips, around.before)
    return None


class _Leaves:
    """Leaves of a graph in the making, with names of their own."""

    def __init__(self) -> None:
        self._count = 0

    def _name(self, name: str) -> str:
        self._count += 1
        return f"{name}_{self._count}"

    def input(self, name: str, type: TensorType) -> Node:
        return input_node(self._name(name), type)

    def state(self, name: str, type: TensorType) -> Node:
        return state_node(self._name(name), type)

    def inputs(self, like: Sequence[Node]) -> list[Node]:
        return [self.input(str(n.attrs.get("name", n.op)), n.type) for n in like]

    def states(self, like: Sequence[Node]) -> list[Node]:
        return [self.state(str(n.attrs.get("name", n.op)), n.type) for n in like]


def _while(
    operands: Sequence[Node],
    body: Graph,
    test: Callable[[Sequence[Node], Sequence[Node]], Node],
    constants: Sequence[TensorType],
) -> Node:
    """A loop without a length; `test` of the state and of constants of its own, the last operands."""
    leaves = _Leaves()
    state = leaves.states(body.state)
    given = [leaves.input("limit", t) for t in constants]
    check = Graph("test", tuple(given), tuple(state), (test(state, given),), ())
    return loop(*operands, body=body, test=check, length=None, reverse=False, stacked=0, counted=False)


def _in_span(limit: Node, done: Node, whole: Node) -> Node:
    """How many trips there are in the span that begins after `done` of `limit` trips."""
    return minimum(sub(limit, done), whole)


def _or_zeros(node: Node | None, like: Node) -> Node:
    return full(like.shape, 0, like.dtype) if node is None else node


__all__ = ["Span", "pull_back_unbounded", "span_of"]
