"""Reverse mode: one walk over existing nodes, from outputs back to what they are differentiated by.

The gradient is made of ordinary nodes, so it can be differentiated again, optimized and printed like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from graphopt.errors import CompileError, DTypeError, ShapeError, layout
from graphopt.ir.graph import Graph, Node, walk
from graphopt.ir.types import TupleType, bool_
from graphopt.opdefs.opdef import full, opdef
from graphopt.opdefs.rows import added, as_rows, joined_rows
from graphopt.passes.control import pull_back_region
from graphopt.where import at, derivative_of


@dataclass(frozen=True, eq=False)
class Derivative:
    """A derivative of the user's own for a part of a graph.

    outputs: nodes through which no ordinary derivative passes; inputs: what `rule` gives cotangents for.
    rule:    cotangents of the outputs (None: nothing flows) -> cotangents of the inputs (None: zero). It may call for
             derivatives of its own, and is asked whenever something flows into an output.
    """

    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    rule: Callable[[Sequence[Node | None]], Sequence[Node | None]]


def vjp(
    outputs: Sequence[Node],
    cotangents: Sequence[Node | None],
    wrt: Sequence[Node],
    own: Sequence[Derivative] = (),
) -> list[Node | None]:
    """For each node of `wrt`, the sum over outputs of cotangent times Jacobian; None where no path leads to it.

    A cotangent None means that nothing flows into that output; nor does anything flow into a bool. Any node may
    stand in `wrt`, also one that another node of `wrt` depends on, and an output itself. An op without a derivative
    ends the walk when its result is an integer or a bool; a float result on the way is an error. Parts of the graph
    that have a derivative of their `own` are asked for it.

    Errors: ShapeError, DTypeError when a cotangent does not have its output's type; DTypeError naming the op and the
            reason when the way leads through an op without a derivative.
    Cost:   O(nodes + edges) calls of derivative rules, without recursion.
    """
    parts_of = {node: part for part in own for node in part.outputs}
    order = walk_derivatives(outputs, parts_of) if own else walk(outputs)
    first = {parts_of[node]: node for node in reversed(order) if node in parts_of}
    reaching = _reaching(order, wrt, parts_of)
    parts: dict[Node, list[Node]] = {}
    for output, cotangent in zip(outputs, cotangents, strict=True):
        if cotangent is not None and output.dtype is not bool_:
            _check_cotangent(output, cotangent)
            parts.setdefault(output, []).append(cotangent)
    results: dict[Node, dict[int, list[Node]]] = {}  # what flows into each result of a node with several
    total: dict[Node, Node] = {}
    wanted = set(wrt) | set(parts_of)
    for node in reversed(order):
        flowing = parts.pop(node, None)
        part = parts_of.get(node)
        if part is None and (flowing is None or node not in reaching):
            continue
        with at(derivative_of(node.where)):
            if isinstance(node.type, TupleType):
                found = results.pop(node)
                arrived = [_sum(found[k]) if k in found else None for k in range(len(node.type.parts))]
                wants = [i in reaching for i in node.inputs]
                pairs = list(zip(node.inputs, pull_back_region(vjp, node, arrived, wants), strict=True))
            else:
                cotangent = None if flowing is None else _sum(flowing)
                if cotangent is not None and node in wanted:
                    total[node] = cotangent
                if part is not None:
                    pairs = _ask(part, total) if first[part] is node else []
                elif node.op == "item":
                    assert cotangent is not None
                    parts.setdefault(node.inputs[0], [])
                    results.setdefault(node.inputs[0], {}).setdefault(node.attrs["index"], []).append(cotangent)
                    continue
                else:
                    assert cotangent is not None
                    pairs = list(zip(node.inputs, _pull_back(node, cotangent, reaching), strict=True))
            for source, contribution in pairs:
                if contribution is not None and source in reaching:
                    parts.setdefault(source, []).append(contribution)
    return [total.get(n) for n in wrt]


def walk_derivatives(roots: Iterable[Node], parts_of: Mapping[Node, Derivative]) -> list[Node]:
    """`walk` along the ways that derivatives take: from outputs of a part with its own to that part's inputs."""
    order: list[Node] = []
    done: set[Node] = set()
    stack = [(root, False) for root in reversed(list(roots))]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif node not in done:
            done.add(node)
            part = parts_of.get(node)
            stack.append((node, True))
            stack.extend((i, False) for i in reversed(node.inputs if part is None else part.inputs) if i not in done)
    return order


def _ask(part: Derivative, total: Mapping[Node, Node]) -> list[tuple[Node, Node | None]]:
    """(input, cotangent) of a part with a derivative of its own; nothing when nothing flows into it."""
    arrived = [total.get(n) for n in part.outputs]
    if all(ct is None for ct in arrived):
        return []
    return list(zip(part.inputs, part.rule(arrived), strict=True))


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


def _reaching(order: Iterable[Node], wrt: Sequence[Node], parts_of: Mapping[Node, Derivative]) -> set[Node]:
    """The nodes of `order` that are in `wrt` or depend on it, and those that lead to a part with its own derivative."""
    reaching = set(wrt) | set(parts_of)
    for node in order:
        if node not in reaching and any(source in reaching for source in node.inputs):
            reaching.add(node)
    return reaching


def _sum(parts: Sequence[Node]) -> Node:
    """The parts added from left to right, few rows last; where all are rows of a table, they are only put side by side."""
    if len(parts) == 1:
        return parts[0]
    rows = [as_rows(p) for p in parts]
    if all(r is not None for r in rows):
        return joined_rows([r for r in rows if r is not None])
    return added(parts)


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
