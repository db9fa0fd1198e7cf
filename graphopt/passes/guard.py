"""Guarded steps: one more output says whether a step is sound, and where it is not, state keeps its value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from graphopt.ir.graph import Graph, Node, walk
from graphopt.ir.types import f32
from graphopt.opdefs.bits import logical_not
from graphopt.opdefs.elementwise import cast, eq, mul, select
from graphopt.opdefs.opdef import constant, full, opdef
from graphopt.opdefs.reduce import reduce_sum
from graphopt.opdefs.rows import numbered, scatter_set
from graphopt.opdefs.shape import concat, reshape

_LEAVES = ("input", "state", "constant")
_ROWS = ("row_tensor", "scatter_set")  # rows are moved, not computed
_CARRY = frozenset((
    "add", "sub", "mul", "neg", "abs", "sqrt", "dot_general", "reduce_sum", "concat", "reverse", "transpose", "reshape",
    "alias", "stop_gradient", "broadcast",
))  # fmt: skip
_SAME = ("transpose", "reshape", "alias", "stop_gradient", "broadcast")  # their elements are their input's


@dataclass(frozen=True)
class _Test:
    """A node that must be finite; only where `when`, a 0-d bool, holds, if there is one."""

    node: Node
    when: Node | None


def guarded(graph: Graph) -> Graph:
    """The graph with one more output: whether its float outputs and what its updates are computed from are finite.

    When they are not, every state keeps its value. Tested are outputs, and the sums, convolutions and so on that
    updates are elementwise functions of: gradients. A gradient that is a matrix product is not stored before its update,
    so its operands are tested instead, and an operand whose sum is tested anyway (it is a bias' gradient) is not read
    again; nor is what could not be infinite or NaN without something else that is tested being so (x in x @ w + b where
    that is). So a product that overflows although its operands are finite is not found, nor what an update's own
    arithmetic makes.

    Cost: below 2 % of a training step (MLP of 784-512-256-10, LSTM, ResNet-20, LeNet-5; one thread); without the detour
          over operands 30 % for the MLP.
    """
    tests = [_Test(o, None) for o in graph.outputs if o.dtype.is_float]
    for leaf, value in graph.updates:
        when, changed = _condition(leaf, value)
        tests += [_Test(n, when) for n in _sources([changed])]
    zeros = [reshape(_zero_if_finite(test), shape=(1,)) for test in _needed(graph, _stored(tests))]
    total = reduce_sum(concat(*zeros, axis=0), axes=(0,)) if zeros else constant(0.0, f32)
    sound = eq(total, constant(0.0, f32))
    updates = tuple((s, v if v is s else _kept_unless(sound, s, v)) for s, v in graph.updates)
    return replace(graph, outputs=(*graph.outputs, sound), updates=updates)


def _kept_unless(sound: Node, leaf: Node, value: Node) -> Node:
    """The update where the step is sound, else the state. Rows of a table: none are written, instead of all chosen."""
    if value.op == "scatter_set" and value.inputs[0] is leaf:
        _, indices, rows = value.inputs
        places, size = numbered(indices, leaf.shape[0]), leaf.shape[0]
        return scatter_set(leaf, select(sound, places, full(places.shape, size, places.dtype)), rows)
    return select(sound, value, leaf)


def _condition(leaf: Node, value: Node) -> tuple[Node | None, Node]:
    """When an update changes its state at all, a 0-d bool or None for always, and what it is then."""
    if value.op == "select":
        chosen, ahead, other = value.inputs
        scalar = chosen.inputs[0] if chosen.op == "broadcast" else chosen
        if scalar.type.rank == 0 and other is leaf:
            return scalar, ahead
        if scalar.type.rank == 0 and ahead is leaf:
            return logical_not(scalar), other
    return None, value


def _sources(values: Iterable[Node]) -> list[Node]:
    """The float nodes that `values` are computed from element by element, which are no leaves."""
    found: dict[Node, None] = {}
    seen: set[Node] = set()
    stack = list(values)
    while stack:
        node = stack.pop()
        if node in seen or node.op in _LEAVES:
            continue
        seen.add(node)
        if opdef(node.op).kind in ("elementwise", "movement") or node.op in _ROWS:
            stack.extend(node.inputs)
        elif node.dtype.is_float:
            found[node] = None
    return list(found)


def _base(node: Node) -> Node:
    """The node whose elements these are, besides finite constants."""
    while node.op in _SAME or _whole(node):
        node = node.inputs[0]
    return node


def _elements(node: Node) -> Node | tuple[Node, Node]:
    """What two nodes of the same elements have in common: a loop may stack a value twice, in two shapes."""
    node = _base(node)
    loop = node.inputs[0] if node.op == "item" else node
    if loop.op != "loop" or loop is node:
        return node
    body: Graph = loop.attrs["body"]
    k = node.attrs["index"] - len(body.state)
    return (loop, _base(body.outputs[k])) if 0 <= k < len(body.outputs) else node


def _whole(node: Node) -> bool:
    """Whether a slice or pad has all elements of its input, and but for them zeros: derivatives of slices are such sums."""
    if node.op == "slice":
        return node.shape == node.inputs[0].shape
    zeros = node.op == "pad" and node.inputs[1].op == "constant" and node.inputs[1].attrs["value"] == 0
    return zeros and _kept_whole(node)


def _kept_whole(pad: Node) -> bool:
    return min((*pad.attrs["low"], *pad.attrs["high"]), default=0) >= 0


def _stored(tests: Sequence[_Test]) -> list[_Test]:
    """The tests on nodes that are stored anyway, each once."""
    summed = {(_elements(t.node.inputs[0]), t.when) for t in tests if t.node.op == "reduce_sum"}
    found: dict[tuple[Node, Node | None], None] = {}
    for test in tests:
        if test.node.op != "dot_general":
            found[test.node, test.when] = None
            continue
        for operand in map(_base, test.node.inputs):
            elements = _elements(operand)
            known = (elements, test.when) in summed or (elements, None) in summed
            if operand.op not in ("state", "constant") and operand.dtype.is_float and not known:
                found[operand, test.when] = None
    return [_Test(node, when) for node, when in found]


def _needed(graph: Graph, tests: Sequence[_Test]) -> list[_Test]:
    """Without tests of what would not go unnoticed: it makes something else infinite or NaN that is tested always."""
    tested = {t.node for t in tests if t.when is None}
    order = walk(graph.roots)
    noticed: set[Node] = set()
    for node in reversed(order):
        if node.type.size and (node in tested or node in noticed):
            noticed.update(n for n in _carried(node) if n.dtype.is_float)
    return [t for t in tests if t.node not in noticed]


def _carried(node: Node) -> Sequence[Node]:
    """The inputs of which one element that is not finite makes an element of the result that is not, whatever the others."""
    if node.op in _CARRY:
        return node.inputs
    first = node.op == "div" or (node.op == "cast" and node.dtype.is_float) or (node.op == "pad" and _kept_whole(node))
    return node.inputs[:1] if first else ()


def _zero_if_finite(test: _Test) -> Node:
    """A 0-d float32: 0 when the test finds nothing, else NaN."""
    zero = mul(test.node, 0.0)
    if zero.type.rank:
        zero = reduce_sum(zero, axes=tuple(range(zero.type.rank)))
    if zero.dtype is not f32:
        zero = cast(zero, dtype=f32)
    return zero if test.when is None else select(test.when, zero, constant(0.0, f32))
