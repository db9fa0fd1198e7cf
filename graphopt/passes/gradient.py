"""Reverse mode: one walk over existing nodes, from outputs back to what they are differentiated by.

The gradient is made of ordinary nodes, so it can be differentiated again, optimized and printed like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from graphopt.errors import CompileError, DTypeError, ShapeError, layout
from graphopt.ir.graph import Graph, Node, walk
from graphopt.ir.types import TupleType, bool_
from graphopt.opdefs.opdef import full, opdef
from graphopt.opdefs.rows import as_rows, joined_rows
from graphopt.passes.control import pull_back_region
from graphopt.where import at


def vjp(outputs: Sequence[Node], cotangents: Sequence[Node | None], wrt: Sequence[Node]) -> list[Node | None]:
    """For each node of `wrt`, the sum over outputs of cotangent times Jacobian; None where no path leads to it.

    A cotangent None means that nothing flows into that output; nor does anything flow into a bool. Any node may
    stand in `wrt`, also one that another node of `wrt` depends on, and an output itself. An op without a derivative
    ends the walk when its result is an integer or a bool; a float result on the way is an error.

    Errors: ShapeError, DTypeError when a cotangent does not have its output's type; DTypeError naming the op and the
            reason when the way leads through an op without a derivative.
    Cost:   O(nodes + edges) calls of derivative rules, without recursion.
    """
    order = walk(outputs)
    reaching = _reaching(order, wrt)
    parts: dict[Node, list[Node]] = {}
    for output, cotangent in zip(outputs, cotangents, strict=True):
        if cotangent is not None and output.dtype is not bool_:
            _check_cotangent(output, cotangent)
            parts.setdefault(output, []).append(cotangent)
    results: dict[Node, dict[int, list[Node]]] = {}  # what flows into each result of a node with several
    total: dict[Node, Node] = {}
    wanted = set(wrt)
    for node in reversed(order):
        flowing = parts.pop(node, None)
        if flowing is None or node not in reaching:
            continue
        with at(node.where):
            if isinstance(node.type, TupleType):
                found = results.pop(node)
                arrived = [_sum(found[k]) if k in found else None for k in range(len(node.type.parts))]
                pulled: Sequence[Node | None] = pull_back_region(vjp, node, arrived, [i in reaching for i in node.inputs])
            else:
                cotangent = _sum(flowing)
                if node in wanted:
                    total[node] = cotangent
                if node.op == "item":
                    parts.setdefault(node.inputs[0], [])
                    results.setdefault(node.inputs[0], {}).setdefault(node.attrs["index"], []).append(cotangent)
                    continue
                pulled = _pull_back(node, cotangent, reaching)
            for source, part in zip(node.inputs, pulled, strict=True):
                if part is not None and source in reaching:
                    parts.setdefault(source, []).append(part)
    return [total.get(n) for n in wrt]


def gradient(graph: Graph, wrt: Sequence[Node], cotangents: Sequence[Node | None] | None = None) -> Graph:
    """The graph whose outputs are the gradients by `wrt` of the outputs; signature and updates stay.

    cotangents: one for each output, None for ones everywhere; `input` leaves they need that the graph does not have
                are appended to its inputs. A node of `wrt` that no output depends on gets zeros.
    """
    if cotangents is None:
        cotangents = [full(o.shape, 1, o.dtype) for o in graph.outputs]
    found = vjp(graph.outputs, cotangents, wrt)
    outputs = tuple(full(n.shape, 0, n.dtype) if g is None else g for n, g in zip(wrt, found, strict=True))
    known = set(graph.inputs)
    added = tuple(n for n in walk([c for c in cotangents if c is not None]) if n.op == "input" and n not in known)
    return replace(graph, inputs=graph.inputs + added, outputs=outputs)


def _reaching(order: Iterable[Node], wrt: Sequence[Node]) -> set[Node]:
    """The nodes of `order` that are in `wrt` or depend on it."""
    reaching = set(wrt)
    for node in order:
        if node not in reaching and any(source in reaching for source in node.inputs):
            reaching.add(node)
    return reaching


def _sum(parts: Sequence[Node]) -> Node:
    """The parts added from left to right; rows of a table are only put side by side."""
    rows = [as_rows(p) for p in parts] if len(parts) > 1 else []
    if rows and all(r is not None for r in rows):
        return joined_rows([r for r in rows if r is not None])
    total = parts[0]
    for part in parts[1:]:
        total = opdef("add")(total, part)
    return total


def _pull_back(node: Node, cotangent: Node, reaching: set[Node]) -> Sequence[Node | None]:
    """The cotangents of the node's inputs by its op's rule, each checked to have its input's type."""
    nothing = (None,) * len(node.inputs)
    if not any(source in reaching for source in node.inputs):
        return nothing
    rule = opdef(node.op).rules.get("vjp")
    if rule is None:
        if not node.dtype.is_float:
            return nothing
        reason = opdef(node.op).no_vjp_reason or "no derivative is declared"
        operands = [f"input {k}: {n.type}  = {n.op} at {n.where}" for k, n in enumerate(node.inputs)]
        hint = "stop_gradient on the way cuts it off"
        raise DTypeError(layout(f"{node.op}: has no derivative: {reason}", node.where, operands, hint))
    result: Sequence[Node | None] = rule(cotangent, node, *node.inputs, **node.attrs)
    if len(result) != len(node.inputs):
        raise CompileError(f"derivative of {node.op}: {len(result)} cotangents for {len(node.inputs)} inputs")
    for k, (source, part) in enumerate(zip(node.inputs, result, strict=True)):
        if part is not None and part.type != source.type:
            raise CompileError(f"derivative of {node.op}: cotangent {k} is {part.type}, its input is {source.type}")
    return result


def _check_cotangent(output: Node, cotangent: Node) -> None:
    """The cotangent has the type of its output."""
    if cotangent.shape != output.shape:
        what = f"gradient: a cotangent of shape {cotangent.shape} for an output of shape {output.shape}"
        raise ShapeError(layout(what, cotangent.where, [f"output: {output.type}  = {output.op} at {output.where}"]))
    if cotangent.dtype is not output.dtype:
        what = f"gradient: a cotangent of dtype {cotangent.dtype!r} for an output of dtype {output.dtype!r}"
        raise DTypeError(layout(what, cotangent.where, [f"output: {output.type}  = {output.op} at {output.where}"]))
