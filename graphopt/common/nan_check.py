"""The post-mortem of a step that is not finite: which op made the first NaN or infinity, of what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from graphopt.common.tensor import bump
from graphopt.errors import NonFiniteError, layout
from graphopt.ir.graph import Graph, Node, walk
from graphopt.opdefs.opdef import opdef
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

    Cost: one run in numpy; a value is dropped when nothing needs it any more.
    """
    values = dict(zip(graph.inputs, inputs, strict=True)) | dict(zip(graph.state, state, strict=True))
    order = walk(graph.roots)
    left: dict[Node, int] = {}
    for node in order:
        for source in node.inputs:
            left[source] = left.get(source, 0) + 1
    ranges: dict[Node, Range] = {}
    for node in order:
        if node.op == "constant":
            values[node] = node.attrs["value"]
        elif node not in values:
            values[node] = opdef(node.op).evaluate(node.type, [values[i] for i in node.inputs], node.attrs)
        ranges[node] = range_of(values[node])
        for source in node.inputs:
            left[source] -= 1
            if not left[source]:
                values.pop(source, None)
    return error_of(name, graph.outputs, [v for _, v in graph.updates], ranges)


def check_values(name: str, outputs: Sequence[Node], updates: Sequence[Node], values: Mapping[Node, np.ndarray]) -> None:
    """Errors: NonFiniteError when a float among nodes that have their values is not finite."""
    roots = [n for n in (*outputs, *updates) if n.dtype.is_float and n in values]
    if all(np.isfinite(values[n].astype(np.float64)).all() for n in roots):
        return
    ranges = {n: range_of(values[n]) for n in walk(roots) if n in values}
    raise error_of(name, outputs, updates, ranges)


def error_of(name: str, outputs: Sequence[Node], updates: Sequence[Node], ranges: Mapping[Node, Range]) -> NonFiniteError:
    """The report, from the ranges of all nodes."""
    forward = set(walk(outputs))
    roots = [n for n in (*outputs, *updates) if n.dtype.is_float and _bad(ranges.get(n))]
    what = f"{name}: {'a result' if any(n in forward for n in roots) else 'a gradient'} is not finite"
    kept = "all Parameters are as they were before the step"
    chain = _cause(roots, ranges)
    if not chain:
        lines = ["run op by op the step was finite: something in it is at the edge of overflow"]
        return NonFiniteError(layout(what, here(), [*lines, kept]))
    lines = []
    for lead, node in zip(("it begins with", "and becomes NaN in"), chain, strict=False):
        lines.append(f"{lead} {_told(node, ranges[node], node in forward)}")
        lines += [f"  input {k}: {i.type} {ranges[i]}{_origin(i)}" for k, i in enumerate(node.inputs)]
    return NonFiniteError(layout(what, here(), [*lines, kept]))


def _bad(found: Range | None) -> bool:
    return found is not None and bool(found.nans or found.infinities)


def _told(node: Node, found: Range, forward: bool) -> str:
    if node.op in ("input", "state"):
        kind = "input" if node.op == "input" else "Parameter"
        return f"{kind} {node.attrs['name']}, as the step got it: {found}"
    if node.op == "constant":
        return f"a Tensor that the step was given: {node.type} {found}"
    where = node.where
    kind = "backward" if where is not None and where.derivative else "forward" if forward else "update"
    place = f" at {where}" if where is not None else ""
    return f"{node.op}{place} ({kind}): {node.type} {found}"


def _origin(node: Node) -> str:
    name = node.attrs["name"] if node.op in ("input", "state") else node.op
    return f"  = {name}" + (f" at {node.where}" if node.where is not None else "")


def _cause(roots: Iterable[Node], ranges: Mapping[Node, Range]) -> list[Node]:
    """The first op that led to what is wrong with the roots and, if it made an infinity only, the first NaN it led to.

    Only what reaches a root through values that are not finite counts. Infinities that constants bring in are meant.
    """
    roots = list(roots)
    guilty = _reaching(roots, lambda n: _bad(ranges.get(n)))
    meant = _meant(guilty, ranges)
    made = [n for n in guilty if n not in meant and not any(i in guilty and i not in meant for i in n.inputs)]
    if not made:
        return []
    first = made[0]
    if ranges[first].nans or not any(ranges[n].nans for n in roots):
        return [first]
    nan = next((n for n in guilty if ranges[n].nans and not any(_nans(ranges, i) for i in n.inputs)), first)
    return [first] if nan is first else [first, nan]


def _nans(ranges: Mapping[Node, Range], node: Node) -> bool:
    return node in ranges and bool(ranges[node].nans)


def _meant(nodes: Sequence[Node], ranges: Mapping[Node, Range]) -> set[Node]:
    """Infinite constants, and what is only moved or chosen from them: -inf in a mask is no accident."""
    found: set[Node] = set()
    for node in nodes:
        moved = node.op in _CHOOSING or (node.op not in _LEAVES and opdef(node.op).kind == "movement")
        bad = [i for i in node.inputs if i in nodes]
        if ranges[node].nans:
            continue
        if node.op == "constant" or (moved and bad and all(i in found for i in bad)):
            found.add(node)
    return found


def _reaching(roots: Sequence[Node], follows: Callable[[Node], bool]) -> list[Node]:
    """The nodes that `follows` accepts, from `roots` inwards, in the graph's order."""
    reached: set[Node] = set()
    stack = [n for n in roots if follows(n)]
    while stack:
        node = stack.pop()
        if node not in reached:
            reached.add(node)
            stack.extend(i for i in node.inputs if follows(i))
    return [n for n in walk(roots) if n in reached]
