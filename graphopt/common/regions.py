"""Bodies of control flow: tracing a function into a graph of its own, and the structures its values come in.

Whatever such a function uses from outside becomes an operand of the op that holds the graph. A Parameter that it assigns
to goes through the op as one more value, and is assigned to outside with what comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.common.tensor import Tensor, to_tensor, wrap_node
from graphopt.common.trace import Rule, Trace
from graphopt.errors import ShapeError, TraceError, layout
from graphopt.ir.graph import Graph, Node, input_node, state_node, substitute, walk
from graphopt.ir.types import TensorType, bool_
from graphopt.opdefs.bits import logical_and
from graphopt.opdefs.control import items
from graphopt.opdefs.opdef import constant
from graphopt.opdefs.rule import with_rule
from graphopt.passes.control import border
from graphopt.where import here

if TYPE_CHECKING:
    from graphopt.common.parameter import Parameter

NUMBERS = (bool, int, float, np.number, np.bool_)
MOST_DEEP = 4
"""How often a derivative of one's own that uses itself is traced within itself: so many orders can be differentiated."""


class Region(Trace):
    """The trace of a body inside another symbolic trace.

    captured: outer node -> the leaf that stands for it inside.
    counters: leaves whose value is the number of a trip, and what it counts through.
    depth:    how many derivatives of one's own are being traced, one within the other.
    """

    certain = False

    def __init__(self, name: str, parent: Trace):
        super().__init__(name)
        self.parent = parent
        self.rewrites = parent.rewrites
        self.captured: dict[Node, Node] = {}
        self.counters: dict[Node, range] = {}
        self.depth: int = parent.depth if isinstance(parent, Region) else 0

    def knows(self, tensor: Tensor) -> bool:
        return tensor._trace is self or self.parent.knows(tensor)

    def leaf(self, name: str, type: TensorType) -> Node:
        """A new leaf that stands for an operand."""
        return input_node(self._unique(name), type, here())

    def node_of(self, tensor: Tensor) -> Node:
        if tensor._trace is not self and not tensor._is_parameter and self.parent.knows(tensor):
            leaf = self.capture(self.parent.node_of(tensor))
            if tensor._weak:
                self.scalars.add(leaf)
            return leaf
        return super().node_of(tensor)

    def capture(self, outer: Node) -> Node:
        """The leaf that stands for a node of the surrounding trace."""
        if outer not in self.captured:
            name = outer.attrs.get("name", outer.op)
            self.captured[outer] = self.leaf(str(name), outer.type)
        return self.captured[outer]

    def read(self, parameter: Parameter) -> Node:
        key = id(parameter)
        if key not in self._current:
            leaf = self.capture(self.parent.read(parameter))
            self._states[key] = (parameter, leaf)
            self._current[key] = leaf
        return self._current[key]

    def guard(self, check: Callable[[], None]) -> None:
        self.parent.guard(check)

    def choose(self, what: str, ask: Callable[[], Any]) -> Any:
        return self.parent.choose(what, ask)

    def visit(self, thing: Any, version: int, flags: tuple[Any, ...] = ()) -> None:
        self.parent.visit(thing, version, flags)

    def check_value(self, node: Node, check: Callable[[np.ndarray], None]) -> bool:
        if node.op == "constant":
            check(node.attrs["value"])
            return True
        checked = [self.parent.check_value(outer, check) for outer, leaf in self.captured.items() if leaf is node]
        return any(checked)

    def within(self, node: Node, low: int, high: int) -> bool:
        if node in self.counters:
            counted = self.counters[node]
            return not counted or (low <= counted[0] and counted[-1] < high)
        return any(leaf is node and self.parent.within(outer, low, high) for outer, leaf in self.captured.items())

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`function(*args, **kwargs)` traced here."""
        with self.running():
            return function(*args, **kwargs)

    def ruled(self, sources: Sequence[Node], results: Sequence[Node], rule: Rule) -> tuple[Node, ...]:
        """As in `Trace`; but the rule becomes part of the body, so it is traced now.

        Errors: TraceError when the rule assigns to a Parameter or bounds a `while_loop`, which only a body itself may.
        """
        values = [self.leaf("out", n.type) for n in results]
        arrived = [self.leaf("ct", n.type) for n in results]
        found: list[tuple[Node, Node]] = []  # source, its cotangent
        if self.depth < MOST_DEEP:
            before, held = self.current, len(self.results)
            self.depth += 1
            found = [(s, ct) for s, ct in zip(sources, rule(values, arrived), strict=True) if ct is not None]
            self.depth -= 1
            if any(self.written_since(before)) or len(self.results) > held:
                what = "a derivative of one's own in a body of control flow assigns to a Parameter, or bounds a while_loop"
                raise TraceError(layout(what, here(), hint="move it out of the body, or leave that out of it"))
        roots = [ct for _, ct in found]
        known = set(walk([*results, *sources])) | {n for n in walk(roots) if n.op == "input"}
        saved = border(roots, known - {*values, *arrived})
        leaves = [input_node(f"saved{k}", n.type) for k, n in enumerate(saved)]
        inside = substitute(roots, dict(zip(saved, leaves, strict=True)))
        back = Graph("rule", (*values, *leaves, *arrived), (), tuple(inside)) if self.depth < MOST_DEEP else None
        given = [s for s, _ in found] if back is not None else list(sources)
        return items(with_rule(*results, *given, *saved, back=back, results=len(results), sources=len(given)))

    def graph_of(
        self, inputs: Sequence[Node], outputs: Sequence[Node], carry: Sequence[Node] = (), fresh: Sequence[Node] = ()
    ) -> Graph:
        """The traced body. inputs, carry: its leaves; outputs: its results; fresh: the new values of the carry, if any."""
        states = {leaf: state_node(leaf.attrs["name"], leaf.type, leaf.where) for leaf in carry}
        roots = substitute([*outputs, *fresh], states)
        updates = tuple(zip(states.values(), roots[len(outputs) :], strict=True)) if fresh else ()
        return Graph(self.name, tuple(inputs), tuple(states.values()), tuple(roots[: len(outputs)]), updates)


def all_hold(flags: Sequence[Node]) -> Node:
    """One bool of several; True of none."""
    total = constant(True, bool_)
    for flag in flags:
        total = flag if total.op == "constant" else logical_and(total, flag)
    return total


# structures ---------------------------------------------------------------------------------------------------


class Structure:
    """A nested value taken apart: its Tensors and numbers, and everything else, which must not change.

    numbers: which of the tensors were Python numbers.
    paths: where each leaf stands, as the user would write it: `[0]['h']`.
    """

    def __init__(self, value: Any):
        self.tensors: list[Tensor] = []
        self.numbers: list[bool] = []
        self.paths: list[str] = []
        self.fixed: list[tuple[str, Any]] = []
        self.shape = self._take(value, "")

    def _take(self, value: Any, path: str) -> Any:
        if isinstance(value, (Tensor, *NUMBERS)):
            self.tensors.append(value if isinstance(value, Tensor) else to_tensor(value))
            self.numbers.append(not isinstance(value, Tensor))
            self.paths.append(path)
            return len(self.tensors) - 1
        if isinstance(value, (tuple, list)):
            return (type(value), [self._take(v, f"{path}[{k}]") for k, v in enumerate(value)])
        if isinstance(value, dict):
            return (dict, [(k, self._take(v, f"{path}[{k!r}]")) for k, v in value.items()])
        self.fixed.append((path, value))
        return (None, value)

    def fill(self, values: Sequence[Any]) -> Any:
        """The same structure around other values."""
        return _filled(self.shape, values)

    def wrapped(self, nodes: Sequence[Node], trace: Trace) -> Any:
        """The same structure around nodes of a trace."""
        return self.fill([wrap_node(n, trace) for n in nodes])

    def pairs(self, other: Structure, what: str, names: tuple[str, str]) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(path, tensor here, tensor there) of two equal structures.

        Errors: ShapeError when the structures, or what is no tensor in them, differ; it names where.
        """
        if (self.paths, [p for p, _ in self.fixed]) != (other.paths, [p for p, _ in other.fixed]):
            mine, theirs = (_outline(s.shape) for s in (self, other))
            raise ShapeError(layout(f"{what}: {names[0]} {mine}, {names[1]} {theirs}", here()))
        for (path, a), (_, b) in zip(self.fixed, other.fixed, strict=True):
            if a is not b and a != b:
                raise ShapeError(layout(f"{what}: element {path or 'itself'}: {names[0]} {a!r}, {names[1]} {b!r}", here()))
        yield from zip(self.paths, self.tensors, other.tensors, strict=True)


def _filled(shape: Any, values: Sequence[Any]) -> Any:
    if isinstance(shape, int):
        return values[shape]
    kind, parts = shape
    if kind is None:
        return parts
    if kind is dict:
        return {k: _filled(v, values) for k, v in parts}
    made = [_filled(v, values) for v in parts]
    return kind(*made) if hasattr(kind, "_fields") else kind(made)


def _outline(shape: Any) -> str:
    if isinstance(shape, int):
        return "a Tensor"
    kind, parts = shape
    if kind is None:
        return repr(parts)
    if kind is dict:
        return "{" + ", ".join(f"{k!r}: {_outline(v)}" for k, v in parts) + "}"
    inner = ", ".join(_outline(v) for v in parts)
    return f"[{inner}]" if issubclass(kind, list) else f"({inner}{',' if len(parts) == 1 else ''})"


def same_types(what: str, before: Structure, after: Structure, names: tuple[str, str]) -> list[Tensor]:
    """The tensors of `after`, which has the structure and types of `before`.

    Errors: ShapeError naming the element that differs, what it was and what it became.
    """
    result = []
    for path, old, new in before.pairs(after, what, names):
        if old._type != new._type:
            place = f"element {path}" if path else "it"
            told = f"{what}: {place}: {names[0]} {_spelled(old)}, {names[1]} {_spelled(new)}"
            raise ShapeError(layout(told, here(), _origins(new), hint="cast, reshape or broadcast it to the type it starts with"))
        result.append(new)
    return result


def _spelled(tensor: Tensor) -> str:
    return f"{tensor.dtype.name}{list(tensor.shape)}"


def _origins(tensor: Tensor) -> list[str]:
    node = tensor._node
    return [] if node is None or node.where is None else [f"it is {node.type}  = {node.op} at {node.where}"]
