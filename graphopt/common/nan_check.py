"""The post-mortem of a step that is not finite: which op made the first NaN or infinity, of what.

Values are computed op by op, and one that is not finite carries along where that began. Branches and loops whose results
are finite are computed as a whole; the others op by op again, trip by trip, so that what is found lies in their bodies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.common.tensor import bump
from graphopt.errors import NonFiniteError, layout
from graphopt.ir.graph import Graph, Node, walk
from graphopt.opdefs.control import Parts, split
from graphopt.opdefs.evaluate import evaluate
from graphopt.opdefs.opdef import opdef
from graphopt.passes.pipeline import everywhere
from graphopt.passes.plain import plain
from graphopt.passes.reroll import reroll
from graphopt.passes.rewrite import Steps
from graphopt.passes.unbounded import Span, span_of
from graphopt.where import here

MODES = ("off", "first")
_LEAVES = ("input", "state", "constant")
_CHOOSING = ("select", "maximum", "minimum", "reduce_max", "reduce_min", "alias", "stop_gradient", "cast")
_mode = "off"


def set_mode(mode: str) -> None:
    """Choose what is checked: "off" nothing, "first" every step."""
    global _mode
    if mode != _mode:
        _mode = mode
        bump()


def mode() -> str:
    """What is checked."""
    return _mode


@contextmanager
def unchecked() -> Iterator[None]:
    """Within the block gradients may be infinite: somebody looks after them."""
    global _mode
    before, _mode = _mode, "off"
    try:
        yield
    finally:
        _mode = before


@dataclass(frozen=True, slots=True)
class Range:
    """What the values of a node are: the least and largest finite one, and how many are not finite."""

    low: float
    high: float
    nans: int
    infinities: int

    def __str__(self) -> str:
        parts = [f"from {self.low:.6g} to {self.high:.6g}"] if self.low <= self.high else []
        parts += [f"{n} {what}" for n, what in ((self.nans, "NaN"), (self.infinities, "infinite")) if n]
        return ", ".join(parts) or "no elements"


def range_of(array: np.ndarray | tuple[np.ndarray, ...]) -> Range:
    """The range of an array, or of the results of a branch or loop together."""
    if isinstance(array, tuple):
        parts = [range_of(a) for a in array]
        low, high = min((p.low for p in parts), default=np.inf), max((p.high for p in parts), default=-np.inf)
        return Range(low, high, sum(p.nans for p in parts), sum(p.infinities for p in parts))
    if array.dtype.kind == "b":
        array = array.astype(np.int8)
    wide = array if array.dtype.kind in "iu" else array.astype(np.float64)
    finite = wide[np.isfinite(wide)] if wide.dtype.kind == "f" else wide
    nans = int(np.isnan(wide).sum()) if wide.dtype.kind == "f" else 0
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (np.inf, -np.inf)
    return Range(low, high, nans, int(wide.size - finite.size) - nans)


def post_mortem(name: str, graph: Graph, inputs: Sequence[np.ndarray], state: Sequence[np.ndarray]) -> NonFiniteError:
    """The error for a step that was not finite, found by running it once more, op by op, from the same values.

    Cost: one run in numpy, and one more of the loops that are not finite; a value is dropped when nothing needs it any more.
    """
    graph = everywhere(reroll, everywhere(plain, graph, Steps()), Steps())
    given = zip((*graph.inputs, *graph.state), (*inputs, *state), strict=True)
    values = _Examiner(dict(given)).whole(graph.roots)
    return error_of(name, graph.outputs, [v for _, v in graph.updates], values)


def check_values(name: str, outputs: Sequence[Node], updates: Sequence[Node], values: Mapping[Node, Any]) -> None:
    """Errors: NonFiniteError when a float among nodes that have their values is not finite."""
    roots = [n for n in (*outputs, *updates) if n.dtype.is_float and n in values]
    if all(_finite(values[n]) for n in roots):
        return
    raise error_of(name, outputs, updates, _Examiner(values, complete=True).whole(roots))


# how what is not finite came about ----------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _Loop:
    """A loop at work: what the leaves of its body stand for; how many trips there were, once they are known."""

    node: Node
    outside: dict[Node, Node]
    trips: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class _Frame:
    """A body that is at work: the trip of a loop (`row` of the stacks), or a side of a branch.

    span: the part of a loop's trips that it stands for, where it is none of the user's own.
    """

    loop: _Loop
    number: int = 0
    first: bool = False
    span: Span | None = None

    def __str__(self) -> str:
        node = self.loop.node
        place = f" at {node.where}" if node.where is not None else ""
        if node.op == "branch":
            return f"in the branch{place}, its condition {'true' if self.number else 'false'}"
        return f"in trip {self.number} of {self.loop.trips} of the loop{place}"


@dataclass(frozen=True, eq=False, slots=True)
class _Finding:
    """An op that made something that is not finite of what was, in the order of the run."""

    order: int
    node: Node
    made: Range
    inputs: tuple[tuple[Node, Range], ...]
    frames: tuple[_Frame, ...]


@dataclass(frozen=True, eq=False, slots=True)
class _Taint:
    """What a value that is not finite carries along.

    first: what it began with; None when infinite constants brought it in, and it was only moved or chosen since: -inf
           in a mask is no accident. nan: the first that was NaN. rows: of a stack, what its rows carry.
    """

    first: _Finding | None
    nan: _Finding | None
    nans: bool
    rows: Mapping[int, _Taint] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class _Value:
    """An array, or of a node with several results a tuple of them; None when nobody needs it any more."""

    array: Any = None
    taint: Any = None


_NOTHING = _Value()


def _earliest(findings: Iterable[_Finding | None]) -> _Finding | None:
    return min((f for f in findings if f is not None), key=lambda f: f.order, default=None)


def _together(rows: Mapping[int, _Taint]) -> _Taint | None:
    """What a stack carries whose rows carry that."""
    if not rows:
        return None
    parts = rows.values()
    first, nan = _earliest(p.first for p in parts), _earliest(p.nan for p in parts)
    return _Taint(first, nan, any(p.nans for p in parts), rows)


def _finite(array: np.ndarray) -> bool:
    if array.dtype.kind in "biu":
        return True
    return bool(np.isfinite(array if array.dtype.kind == "f" else array.astype(np.float32)).all())


class _Examiner:
    """One run, op by op.

    known: the values of the leaves, or, when `complete`, of all nodes outside bodies that shall be looked at.
    """

    def __init__(self, known: Mapping[Node, Any], complete: bool = False):
        self.known = known
        self.complete = complete
        self.findings = 0

    def whole(self, roots: Sequence[Node]) -> dict[Node, _Value]:
        """What the nodes carry that `roots` need; a value is dropped when nothing needs it any more."""
        order = walk(roots)
        left: dict[Node, int] = {}
        for node in order:
            for source in node.inputs:
                left[source] = left.get(source, 0) + 1
        values: dict[Node, _Value] = {}
        for node in order:
            values[node] = self._visit(node, values, ())
            for source in node.inputs:
                left[source] -= 1
                if not left[source]:
                    values[source] = _Value(None, values[source].taint)
        return values

    def _body(self, order: Sequence[Node], values: dict[Node, _Value], frames: tuple[_Frame, ...]) -> None:
        """Visit the nodes of a body whose leaves have their values."""
        for node in order:
            if node not in values:
                values[node] = self._visit(node, values, frames)

    def _visit(self, node: Node, values: Mapping[Node, _Value], frames: tuple[_Frame, ...]) -> _Value:
        given = [values[i] for i in node.inputs]
        if not frames and (self.complete or node in self.known):
            array = self.known.get(node)
        elif node.op == "constant":
            array = node.attrs["value"]
        else:
            array = opdef(node.op).evaluate(node.type, [v.array for v in given], node.attrs)
        if array is None:
            return _NOTHING
        if node.op == "item" and given[0].array is not None:
            taints = given[0].taint
            return _Value(array, None if taints is None else taints[node.attrs["index"]])
        if isinstance(array, tuple):
            return _Value(array, None if all(map(_finite, array)) else self._several(node, array, given, frames))
        return _Value(array, None if _finite(array) else self._taint(node, array, given, frames))

    def _taint(self, node: Node, array: Any, given: Sequence[_Value], frames: tuple[_Frame, ...]) -> _Taint:
        causes = [v.taint for v in given if v.taint is not None]
        first, nan = _earliest(c.first for c in causes), _earliest(c.nan for c in causes)
        made = range_of(array)
        moved = node.op in _CHOOSING or (node.op not in _LEAVES and opdef(node.op).kind == "movement")
        meant = not made.nans and (node.op == "constant" or (moved and bool(causes)))
        begins = first is None and not meant
        becomes = bool(made.nans) and not any(c.nans for c in causes)
        if begins or becomes:
            self.findings += 1
            ranges = [(i, v.array) for i, v in zip(node.inputs, given, strict=True) if v.array is not None]
            finding = _Finding(self.findings, node, made, tuple([(i, range_of(a)) for i, a in ranges]), frames)
            first = finding if begins else first
            nan = _earliest([nan, finding]) if becomes else nan
        return _Taint(first, nan, bool(made.nans))

    def _several(
        self, node: Node, arrays: tuple[np.ndarray, ...], given: Sequence[_Value], frames: tuple[_Frame, ...]
    ) -> list[_Taint | None]:
        """What each result of a node with several carries."""
        known = all(v.array is not None for v in given)
        if node.op == "with_rule":
            return [v.taint for v in given[: len(arrays)]]
        if node.op == "branch" and known:
            return self._branch(node, given, frames)
        if node.op == "loop" and known:
            return self._loop(node, given, frames)
        taint = self._taint(node, arrays, given, frames)
        return [None if _finite(a) else taint for a in arrays]

    def _branch(self, node: Node, given: Sequence[_Value], frames: tuple[_Frame, ...]) -> list[_Taint | None]:
        holds = bool(given[0].array.item())
        graph: Graph = node.attrs["then" if holds else "other"]
        values = dict(zip(graph.inputs, given[1:], strict=True))
        outside = _Loop(node, dict(zip(graph.inputs, node.inputs[1:], strict=True)))
        self._body(walk(graph.roots), values, (*frames, _Frame(outside, int(holds), True)))
        return [values[n].taint for n in graph.outputs]

    def _loop(self, node: Node, given: Sequence[_Value], frames: tuple[_Frame, ...]) -> list[_Taint | None]:
        a = node.attrs
        body, test, length = a["body"], a["test"], a["length"]
        parts: Parts = split(given, body, test, a["stacked"], a["counted"])
        nodes = split(node.inputs, body, test, a["stacked"], a["counted"])
        order, updates = walk(body.roots), dict(body.updates)
        outside = (*nodes.carry, *nodes.rows, *nodes.constants)
        loop = _Loop(node, dict(zip((*body.state, *body.inputs), outside, strict=True)))
        carry = list(parts.carry)
        stacks: list[dict[int, _Taint]] = [{} for _ in body.outputs]
        most = length
        if a["counted"]:
            trips = max(int(parts.trips[0].array), 0)
            most = trips if length is None else min(trips, length)
        done = 0
        while most is None or done < most:
            if test is not None:
                state = [v.array for v in carry]
                if not evaluate(test, [v.array for v in parts.test_constants], state)[0].item():
                    break
            k = most - 1 - done if a["reverse"] and most is not None else done
            rows = [_row(v, k) for v in parts.rows]
            values = dict(zip((*body.state, *body.inputs), (*carry, *rows, *parts.constants), strict=True))
            frame = self._trip(loop, values, k, not done, frames)
            self._body(order, values, (*frames, frame))
            for stack, n in zip(stacks, body.outputs, strict=True):
                taint = values[n].taint
                if taint is not None:
                    stack[k] = taint
            carry = [values[updates.get(s, s)] for s in body.state]
            done += 1
            loop.trips = max(loop.trips, frame.span.trips if frame.span is not None else done)
        if a["reverse"] and most is not None:
            loop.trips = max(loop.trips, most)
        return [*(v.taint for v in carry), *map(_together, stacks), *[None] * (test is not None)]

    def _trip(
        self, loop: _Loop, values: Mapping[Node, _Value], row: int, first: bool, frames: tuple[_Frame, ...]
    ) -> _Frame:
        """The frame of a trip. Trips of a derivative have the numbers of the trips that they are the derivatives of."""
        given = {n: v.array for n, v in values.items()}
        span = span_of(loop.node, given, frames[-1].span if frames else None)
        return _Frame(loop, row + 1 if span is None else span.trip, first, span)


def _row(value: _Value, k: int) -> _Value:
    """Row k of a stack."""
    array = np.asarray(value.array[k])
    if value.taint is None or _finite(array):
        return _Value(array)
    return _Value(array, value.taint.rows.get(k, value.taint))


# the report ---------------------------------------------------------------------------------------------------


def error_of(name: str, outputs: Sequence[Node], updates: Sequence[Node], values: Mapping[Node, _Value]) -> NonFiniteError:
    """The report, from what the results and new states carry."""
    forward = set(walk(outputs))
    taints = {n: values[n].taint for n in (*outputs, *updates) if n.dtype.is_float and n in values}
    bad = {n: t for n, t in taints.items() if t is not None}
    what = f"{name}: {'a result' if any(n in forward for n in bad) else 'a gradient'} is not finite"
    kept = "all Parameters are as they were before the step"
    first, nan = _earliest(t.first for t in bad.values()), _earliest(t.nan for t in bad.values())
    if first is None:
        lines = ["run op by op the step was finite: something in it is at the edge of overflow"]
        return NonFiniteError(layout(what, here(), [*lines, kept]))
    chain = [first] if first.made.nans or nan is None or nan is first else [first, nan]
    lines = []
    for lead, found in zip(("it begins with", "and becomes NaN in"), chain, strict=False):
        lines.append(f"{lead} {_told(found, forward)}")
        lines += [f"  {frame}" for frame in found.frames if frame.number or frame.loop.node.op == "branch"]
        lines += [f"  input {k}: {i.type} {r}{_origin(i, found.frames)}" for k, (i, r) in enumerate(found.inputs)]
    return NonFiniteError(layout(what, here(), [*lines, kept]))


def _told(finding: _Finding, forward: set[Node]) -> str:
    node, found = finding.node, finding.made
    if node.op in ("input", "state"):
        kind = "input" if node.op == "input" else "Parameter"
        return f"{kind} {node.attrs['name']}, as the step got it: {found}"
    if node.op == "constant":
        return f"a Tensor that the step was given: {node.type} {found}"
    bodies = [f.loop.node for f in finding.frames]
    if _derived(node):
        kind = "backward"
    else:
        kind = "forward" if [*bodies, node][0] in forward or any(map(_derived, bodies)) else "update"
    place = f" at {node.where}" if node.where is not None else ""
    return f"{node.op}{place} ({kind}): {node.type} {found}"


def _result(item: Node) -> Node:
    """What made a result of a loop: an op in its body; of other nodes with several results, the node itself."""
    node, k = item.inputs[0], item.attrs["index"]
    if node.op == "loop":
        body: Graph = node.attrs["body"]
        updates = dict(body.updates)
        results = [*(updates.get(s, s) for s in body.state), *body.outputs, node]
        node = node if results[k].op in _LEAVES else results[k]
        return _result(node) if node.op == "item" else node
    return node


def _derived(node: Node) -> bool:
    return node.where is not None and node.where.derivative


def _origin(node: Node, frames: Sequence[_Frame]) -> str:
    """Where an operand comes from: a leaf of a body from outside, or from the trip before."""
    if frames and node in frames[-1].loop.outside:
        frame = frames[-1]
        if node.op == "state" and not frame.first:
            fresh = dict(frame.loop.node.attrs["body"].updates).get(node, node)
            if fresh is not node:
                return f"{_origin(fresh, frames) if fresh.op not in _LEAVES else ''}, of the trip before"
        return _origin(frame.loop.outside[node], frames[:-1])
    if node.op == "item":
        node = _result(node)
    name = node.attrs["name"] if node.op in ("input", "state") else node.op
    return f"  = {name}" + (f" at {node.where}" if node.where is not None else "")
