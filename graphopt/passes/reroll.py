"""Unrolled loops made loops again: a Python loop whose trips do the same thing leaves its body many times in the trace.

Nodes in the order in which they were made are a text; a loop is a part of it that repeats itself after `period` nodes. A
trip may read what it made itself, what the trip before it made (the carry), what is the same on every trip (constants),
and neighbouring slices of one array (rows).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphopt.ir.graph import Graph, Node, input_node, state_node, substitute, users, walk
from graphopt.ir.types import TupleType
from graphopt.opdefs.control import items, loop
from graphopt.opdefs.opdef import full, opdef
from graphopt.opdefs.shape import concat, reshape, reverse, slice_, transpose
from graphopt.passes.control import fresh_names
from graphopt.passes.cse import exact_key
from graphopt.passes.rewrite import Steps
from graphopt.where import at

LEAST_TRIPS = 8
LEAST_NODES = 48  # of the text that becomes one body
_FUSED_NODES = 512  # a shorter text without sums is computed element by element in few kernels: as a loop it would go
_FEW_ELEMS = 64  # through memory on every trip, unless its values are so small that the loop is one kernel
_CANDIDATES = 6  # periods that are looked at
_KEPT_BYTES = 64  # constants up to this size are compared by value


def reroll(graph: Graph, steps: Steps) -> Graph:
    """Replace what an unrolled loop left by a loop, where LEAST_TRIPS trips or more are alike.

    Claim:     values stay the same, in the same order of operations.
    Cost:      O(nodes + edges) for each loop that is found, and once more.
    """
    roots, _ = rolled(graph.roots, steps)
    return graph if all(a is b for a, b in zip(roots, graph.roots, strict=True)) else graph.with_roots(roots)


def rolled(
    roots: Sequence[Node], steps: Steps, fixed: Sequence[Node] = ()
) -> tuple[list[Node], dict[Node, Node]]:
    """(the roots computed with loops, what stands now for nodes of former bodies that others use).

    fixed: nodes that count as leaves: they and what they are made of stay as they are.
    """
    current, replaced = list(roots), dict[Node, Node]()
    same = {n: n for n in fixed}
    while True:
        found = _first_loop(current, fixed)
        if not found or not steps.take("reroll"):
            return current, replaced
        keys = list(replaced)
        changed = substitute([*current, *replaced.values()], found | same)
        current = changed[: len(current)]
        replaced = dict(zip(keys, changed[len(current) :], strict=True)) | found


def _first_loop(roots: Sequence[Node], fixed: Sequence[Node]) -> dict[Node, Node]:
    """What stands for the nodes of the longest repetition; nothing when there is none."""
    below = set(walk(fixed))
    order = [n for n in walk(roots) if n not in below]
    nodes = sorted([n for n in order if n.op not in ("input", "state", "constant")], key=lambda n: n.born)
    if len(nodes) < LEAST_NODES:
        return {}
    text = _Text(nodes)
    runs = [text.longest_run(p) for p in text.periods()]
    for run in (part for whole in sorted(runs, key=lambda r: r.nodes, reverse=True) for part in whole.parts()):
        if run.trips >= LEAST_TRIPS and run.nodes >= LEAST_NODES:
            try:
                return _Body(text, run, order, roots).replacements()
            except _NoLoop:
                continue
    return {}


class _NoLoop(Exception):
    """A repetition that is no loop after all."""


@dataclass(frozen=True)
class _Run:
    """Trips of `period` nodes each, from the node number `start` on."""

    start: int
    period: int
    trips: int

    @property
    def nodes(self) -> int:
        return self.period * self.trips

    def parts(self) -> tuple[_Run, _Run, _Run]:
        """The run, and without its last and its first trip: at its ends it may read from elsewhere."""
        shorter = self.trips - 1
        return self, _Run(self.start, self.period, shorter), _Run(self.start + self.period, self.period, shorter)


class _Text:
    """Nodes as a text: what each of them is, apart from what it reads."""

    def __init__(self, nodes: Sequence[Node]):
        self.nodes = nodes
        self.place = {n: k for k, n in enumerate(nodes)}
        known: dict[Any, int] = {}
        self.words = [known.setdefault(_word(n), len(known)) for n in nodes]

    def periods(self) -> list[int]:
        """Distances at which words stand again most often."""
        last: dict[int, int] = {}
        gaps: Counter[int] = Counter()
        for k, word in enumerate(self.words):
            if word in last:
                gaps[k - last[word]] += 1
            last[word] = k
        return [gap for gap, times in gaps.most_common(_CANDIDATES) if times >= LEAST_TRIPS - 1]

    def longest_run(self, period: int) -> _Run:
        """The longest part of the text that repeats itself after `period` nodes."""
        best = _Run(0, period, 0)
        start: int | None = None
        for k in range(period, len(self.nodes) + 1):
            if k < len(self.nodes) and self._repeats(k, period):
                start = k if start is None else start
            elif start is not None:
                found = _Run(start - period, period, (k - start + period) // period)
                best = max(best, found, key=lambda r: r.nodes)
                start = None
        return best

    def _repeats(self, k: int, period: int) -> bool:
        """Does node k do what node k - period did, a trip later?"""
        if self.words[k] != self.words[k - period]:
            return False
        new, old = self.nodes[k], self.nodes[k - period]
        for slot, (a, b) in enumerate(zip(new.inputs, old.inputs, strict=True)):
            if same_value(a, b) or self._shifted(a, b, period) or (_row_of(a) or 0) == (_row_of(b) or 1):
                continue
            after = k + period  # the first trip reads what came before the loop
            if after >= len(self.nodes) or self.words[after] != self.words[k]:
                return False
            if not self._shifted(self.nodes[after].inputs[slot], a, period):
                return False
        return True

    def _shifted(self, a: Node, b: Node, period: int) -> bool:
        x, y = self.place.get(a), self.place.get(b)
        return x is not None and y is not None and x - y == period


def same_value(a: Node, b: Node) -> bool:
    """One node, or small constants of the same bits."""
    if a is b or a.op != "constant" or b.op != "constant":
        return a is b
    x, y = a.attrs["value"], b.attrs["value"]
    return a.type == b.type and x.nbytes <= _KEPT_BYTES and bool(x.tobytes() == y.tobytes())


def _word(n: Node) -> Any:
    where = None if n.where is None else (n.where.file, n.where.line)
    skipped = ("start", "stop") if n.op == "slice" else ()
    return n.op, n.type, tuple([(k, exact_key(n.attrs[k])) for k in sorted(n.attrs) if k not in skipped]), where


def _row_of(n: Node) -> Any:
    """What a slice, or a reshaped one, is a part of; None for other nodes."""
    n = n.inputs[0] if n.op == "reshape" else n
    return (n.inputs[0], n.type) if n.op == "slice" else None


@dataclass
class _Body:
    """The body of a repetition: node j of each trip, and where its inputs come from."""

    text: _Text
    run: _Run
    order: Sequence[Node]
    roots: Sequence[Node]
    made: dict[int, Node] = field(default_factory=dict)  # node j of the body
    constants: dict[Node, Node] = field(default_factory=dict)  # operand -> leaf
    rows: list[tuple[Node, Node]] = field(default_factory=list)  # leaf, stacked operand
    carry: dict[tuple[int, Node], Node] = field(default_factory=dict)  # (node j of the trip before, first value) -> leaf

    def node(self, trip: int, j: int) -> Node:
        return self.text.nodes[self.run.start + trip * self.run.period + j]

    def replacements(self) -> dict[Node, Node]:
        self.name = fresh_names(())
        run = self.run
        self.inside = {self.node(t, j): (t, j) for t in range(run.trips) for j in range(run.period)}
        used = self._used_outside()
        needed = self._needed({j for _, j in used})
        for j in range(run.period):
            if j in needed:
                self.made[j] = self._of(j)
        if not self.carry or not self._pays():
            raise _NoLoop
        return self._built(used)

    def _pays(self) -> bool:
        kinds = {opdef(n.op).kind for n in self.made.values() if n.op not in ("input", "state", "constant")}
        largest = max(n.type.size for n in self.made.values())
        return bool(kinds - {"elementwise", "movement"}) or largest <= _FEW_ELEMS or self.run.nodes >= _FUSED_NODES

    def _used_outside(self) -> list[tuple[int, int]]:
        """(trip, j) of everything that something after or beside the loop reads."""
        found: dict[Node, None] = dict.fromkeys(r for r in self.roots if r in self.inside)
        for n, readers in users(self.order).items():
            if n in self.inside and any(r not in self.inside for r in readers):
                found[n] = None
        return [self.inside[n] for n in found]

    def _needed(self, wanted: set[int]) -> set[int]:
        """The nodes of a trip that matter: all that reach what is used, in any later trip."""
        stack, seen = list(wanted), set(wanted)
        while stack:
            j = stack.pop()
            for source in self.node(1, j).inputs:
                k = self.inside.get(source, (0, j))[1]
                if k not in seen:
                    seen.add(k)
                    stack.append(k)
        return seen

    def _of(self, j: int) -> Node:
        like = self.node(1, j)
        if isinstance(like.type, TupleType):
            raise _NoLoop  # a loop inside stays as it is
        if like.op == "slice" and any(self.node(t, j).attrs["start"] != like.attrs["start"] for t in range(self.run.trips)):
            return self._row([self.node(t, j) for t in range(self.run.trips)], like)
        inputs = tuple([self._input(j, slot) for slot in range(len(like.inputs))])
        return Node(like.op, inputs, like.attrs, like.type, like.where)

    def _input(self, j: int, slot: int) -> Node:
        sources = [self.node(t, j).inputs[slot] for t in range(self.run.trips)]
        first, *later = [self.inside.get(s) for s in sources]
        if first is None and all(same_value(s, sources[0]) for s in sources):
            return sources[0] if sources[0].op == "constant" else self._constant(sources[0])
        if first is not None and all(found == (t, first[1]) for t, found in enumerate([first, *later])):
            return self.made[first[1]]
        k = later[0][1] if later[0] is not None else -1
        if first is None and all(found == (t, k) for t, found in enumerate(later)):
            return self._carried(k, sources[0])
        if first is None and all(found is None for found in later):
            return self._row(sources, sources[0])
        raise _NoLoop

    def _constant(self, operand: Node) -> Node:
        if operand not in self.constants:
            self.constants[operand] = input_node(self.name(_called(operand)), operand.type, operand.where)
        return self.constants[operand]

    def _carried(self, k: int, first: Node) -> Node:
        if first.type != self.node(0, k).type:
            raise _NoLoop
        if (k, first) not in self.carry:
            self.carry[k, first] = state_node(self.name(_called(first)), first.type, first.where)
        return self.carry[k, first]

    def _row(self, parts: Sequence[Node], like: Node) -> Node:
        """A leaf for neighbouring slices of one array."""
        cuts = [n.inputs[0] if n.op == "reshape" else n for n in parts]
        source = cuts[0].inputs[0] if cuts[0].op == "slice" else None
        if source is None or source in self.inside or any(c.op != "slice" or c.inputs[0] is not source for c in cuts):
            raise _NoLoop
        leaf = input_node(self.name("row"), like.type, like.where)
        self.rows.append((leaf, _stack(cuts, source, like)))
        return leaf

    def _built(self, used: Sequence[tuple[int, int]]) -> dict[Node, Node]:
        """The loop, and what stands for what others read of it."""
        run = self.run
        carried = {k: n for n, (k, _) in enumerate(self.carry)}
        state, first = list(self.carry.values()), [f for _, f in self.carry]
        fresh = [self.made[k] for k, _ in self.carry]
        outputs: dict[int, int] = {}
        for t, j in used:
            if t < run.trips - 1:
                outputs.setdefault(j, len(outputs))
        for t, j in used:
            if t == run.trips - 1 and j not in outputs and j not in carried:
                carried[j] = len(state)
                node = self.made[j]
                state.append(state_node(self.name("last"), node.type))
                first.append(full(node.shape, 0, node.dtype))
                fresh.append(node)
        leaves = (*(leaf for leaf, _ in self.rows), *self.constants.values())
        operands = (*first, *(stack for _, stack in self.rows), *self.constants)
        if not self.inside.keys().isdisjoint(walk(operands)):
            raise _NoLoop  # something beside the loop stands between two trips
        updates = tuple(zip(state, fresh, strict=True))
        body = Graph("body", leaves, tuple(state), tuple([self.made[j] for j in outputs]), updates)
        with at(self.node(0, 0).where):
            made = items(
                loop(
                    *operands, body=body, test=None, length=run.trips, reverse=False, stacked=len(self.rows), counted=False
                )
            )
            found: dict[Node, Node] = {}
            for t, j in used:
                last = t == run.trips - 1 and j in carried and j not in outputs
                found[self.node(t, j)] = made[carried[j]] if last else _pick(made[len(state) + outputs[j]], t)
            stacks = {j: made[len(state) + k] for j, k in outputs.items()}
            return found | self._stacked(stacks)

    def _stacked(self, stacks: Mapping[int, Node]) -> dict[Node, Node]:
        """What stands for nodes that put the results of trips side by side: parts of the stacks themselves."""
        found: dict[Node, Node] = {}
        for n in self.order:
            if n.op != "concat" or n.attrs["axis"] != 0 or n in self.inside:
                continue
            parts: list[Node] = []
            k, places = 0, [self._row_put(i) for i in n.inputs]
            while k < len(places):
                end, by = k + 1, 0
                while end < len(places) and _follows(places[end - 1], places[end], by):
                    by = places[end][0] - places[end - 1][0]  # type: ignore[index]
                    end += 1
                first, last = places[k], places[end - 1]
                if first is None or last is None or end == k + 1 or first[1] not in stacks:
                    parts += n.inputs[k:end]
                else:
                    rows = _rows(stacks[first[1]], min(first[0], last[0]), max(first[0], last[0]) + 1)
                    parts.append(reverse(rows, axes=(0,)) if by < 0 else rows)
                k = end
            if len(parts) < len(n.inputs):
                found[n] = parts[0] if len(parts) == 1 else concat(*parts, axis=0)
        return found

    def _row_put(self, n: Node) -> tuple[int, int] | None:
        """(trip, j) of what a node makes a row of."""
        whole = n.op == "reshape" and n.shape == (1, *n.inputs[0].shape)
        return self.inside.get(n.inputs[0]) if whole else None


def _called(n: Node) -> str:
    return str(n.attrs.get("name", n.op))


def _follows(a: tuple[int, int] | None, b: tuple[int, int] | None, by: int) -> bool:
    """Is b the result of a trip beside a's, in the direction `by` (0: either)?"""
    return a is not None and b is not None and a[1] == b[1] and b[0] - a[0] in ((by,) if by else (1, -1))


def _rows(stack: Node, start: int, stop: int) -> Node:
    rest = stack.shape[1:]
    if (start, stop) == (0, stack.shape[0]):
        return stack
    return slice_(stack, start=(start, *[0] * len(rest)), stop=(stop, *rest), step=(1,) * len(stack.shape))


def _pick(stack: Node, row: int) -> Node:
    """A row of a stack."""
    return reshape(_rows(stack, row, row + 1), shape=stack.shape[1:])


def _stack(cuts: Sequence[Node], source: Node, like: Node) -> Node:
    """Neighbouring slices as the rows of one array, each row of the type of `like`."""
    starts = [c.attrs["start"] for c in cuts]
    first, step = starts[0], cuts[0].attrs["step"]
    moving = [a for a in range(len(first)) if starts[1][a] != first[a]]
    if len(moving) != 1 or step[moving[0]] != 1:
        raise _NoLoop
    axis = moving[0]
    size, by = cuts[0].shape[axis], starts[1][axis] - first[axis]
    wanted = [(*first[:axis], first[axis] + t * by, *first[axis + 1 :]) for t in range(len(cuts))]
    if starts != wanted or abs(by) != size or any(c.type != cuts[0].type for c in cuts):
        raise _NoLoop
    low = min(first[axis], starts[-1][axis])
    stop = list(cuts[0].attrs["stop"])
    start = (*first[:axis], low, *first[axis + 1 :])
    stop[axis] = low + len(cuts) * size
    whole = slice_(source, start=start, stop=tuple(stop), step=step)
    split = (*whole.shape[:axis], len(cuts), size, *whole.shape[axis + 1 :])
    rows = reshape(whole, shape=split)
    rows = transpose(rows, perm=(axis, *range(axis), *range(axis + 1, len(split)))) if axis else rows
    rows = reshape(rows, shape=(len(cuts), *like.shape))
    return reverse(rows, axes=(0,)) if by < 0 else rows


__all__ = ["LEAST_TRIPS", "reroll", "rolled"]
