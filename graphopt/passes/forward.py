"""Forward mode: one walk over existing nodes, from what is differentiated by to outputs.

An op's tangent is its `jvp` rule. Without one it comes from the vjp: an elementwise op has a diagonal Jacobian, which is
its own transpose; of any other, the vjp is linear in the cotangent, so its derivative by the cotangent is applied to
tangents. So forward and reverse mode agree by construction, also
where a derivative is a convention, and the primal result is not computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from graphopt.errors import DTypeError, TraceError, layout
from graphopt.ir.graph import Node, input_node, walk
from graphopt.ir.types import TupleType, bool_
from graphopt.opdefs.opdef import opdef
from graphopt.opdefs.rule import ruled_back
from graphopt.passes.control_forward import push_region
from graphopt.passes.gradient import Derivative, vjp, walk_derivatives
from graphopt.where import at, derivative_of, here

Own = Callable[[], Sequence[Derivative]]


def jvp(outputs: Sequence[Node], wrt: Sequence[Node], tangents: Sequence[Node | None], own: Own = tuple) -> list[Node | None]:
    """For each output, the sum over `wrt` of Jacobian times tangent; None where no path leads to it.

    own: gives the parts of the graph that have a derivative of their own. They are transposed, so they must be linear
         in their cotangents; parts that appear while one is asked are transposed with it.

    Errors: DTypeError naming the op and the reason when the way leads through an op without a derivative; TraceError
            when a derivative of the user's own is not linear.
    Cost:   O(nodes + edges) calls of derivative rules, without recursion.
    """
    parts_of = {node: part for part in own() for node in part.outputs}
    found = {n: t for n, t in zip(wrt, tangents, strict=True) if t is not None and n.dtype is not bool_}
    fixed = set(wrt)
    several: dict[Node, list[Node | None]] = {}  # tangents of nodes with several results
    for node in walk_derivatives(outputs, parts_of):
        if node in fixed or node.type.dtype is bool_:
            continue
        part = parts_of.get(node)
        with at(derivative_of(node.where)):
            if node.op == "with_rule":
                several[node] = _through_rule(node, [found.get(i) for i in node.inputs])
            elif isinstance(node.type, TupleType):
                several[node] = push_region(jvp, node, [found.get(i) for i in node.inputs])
            elif node.op == "item":
                tangent = several[node.inputs[0]][node.attrs["index"]]
                if tangent is not None:
                    found[node] = tangent
            elif part is None:
                tangent = _push(node, [found.get(i) for i in node.inputs])
                if tangent is not None:
                    found[node] = tangent
            else:
                fixed.update(part.outputs)
                given = [found.get(i) for i in part.inputs]
                pushed = zip(part.outputs, _through(part, given, own), strict=True)
                found.update((n, t) for n, t in pushed if t is not None)
    return [found.get(o) for o in outputs]


def _push(node: Node, tangents: Sequence[Node | None]) -> Node | None:
    """The tangent of a node, from those of its inputs."""
    if all(t is None for t in tangents):
        return None
    definition = opdef(node.op)
    rule = definition.rules.get("jvp")
    if rule is not None:
        result: Node | None = rule(tangents, node, *node.inputs, **node.attrs)
        return result
    back = definition.rules.get("vjp")
    if back is None:
        if not node.dtype.is_float:
            return None
        reason = definition.no_vjp_reason or "no derivative is declared"
        operands = [f"input {k}: {n.type}  = {n.op} at {n.where}" for k, n in enumerate(node.inputs)]
        hint = "stop_gradient on the way cuts it off"
        raise DTypeError(layout(f"{node.op}: has no derivative: {reason}", node.where, operands, hint))
    if definition.kind == "elementwise" and all(t is None or t.type == node.type for t in tangents):
        return _diagonal(back, node, tangents)
    cotangent = input_node("ct", node.type)
    return _transposed(back(cotangent, node, *node.inputs, **node.attrs), tangents, [cotangent])[0]


def _diagonal(back: Callable[..., Any], node: Node, tangents: Sequence[Node | None]) -> Node | None:
    total: Node | None = None
    for k, tangent in enumerate(tangents):
        if tangent is not None:
            part = back(tangent, node, *node.inputs, **node.attrs)[k]
            if part is not None:
                total = part if total is None else opdef("add")(total, part)
    return total


def _transposed(
    cotangents: Iterable[Node | None],
    tangents: Iterable[Node | None],
    arrived: Sequence[Node],
    own: Sequence[Derivative] = (),
) -> list[Node | None]:
    """The transpose of the linear map from `arrived` to `cotangents`, applied to tangents."""
    pairs = [(c, t) for c, t in zip(cotangents, tangents, strict=True) if c is not None and t is not None]
    return vjp([c for c, _ in pairs], [t for _, t in pairs], arrived, own)


def _through(part: Derivative, tangents: Sequence[Node | None], own: Own) -> list[Node | None]:
    """The tangents of the outputs of a part with a derivative of its own."""
    if all(t is None for t in tangents):
        return [None] * len(part.outputs)
    arrived = [input_node("ct", n.type) for n in part.outputs]
    begun = len(own())
    return _linear(_transposed(part.rule(arrived), tangents, arrived, own()[begun:]), arrived)


def _through_rule(node: Node, tangents: Sequence[Node | None]) -> list[Node | None]:
    """The tangents of the results of a `with_rule`."""
    count, sources = node.attrs["results"], node.attrs["sources"]
    moving = [t is not None and count <= k < count + sources for k, t in enumerate(tangents)]
    arrived = [input_node("ct", n.type) for n in node.inputs[:count]]
    if not any(moving):
        return [None] * count
    return _linear(_transposed(ruled_back(node, arrived), tangents, arrived), arrived)


def _linear(tangents: list[Node | None], arrived: Sequence[Node]) -> list[Node | None]:
    """Tangents from a transposed rule, in which no cotangent is left.

    Errors: TraceError when one is.
    """
    if not set(arrived).isdisjoint(walk([t for t in tangents if t is not None])):
        what = "forward mode: a derivative of one's own must be linear in the gradient it receives"
        raise TraceError(layout(what, here(), hint="use reverse mode: vjp, jacrev or grad"))
    return tangents
