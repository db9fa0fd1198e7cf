"""Forward mode through control flow: tangents go through a branch or loop beside what they are tangents of.

A loop's tangents are more values of its carry. The loop without them becomes one with it in the pass `join`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphopt.ir.graph import Graph, Node, input_node, state_node
from graphopt.opdefs.control import branch, items, loop, parts_of
from graphopt.opdefs.opdef import full
from graphopt.passes.control import fresh_names

Jvp = Callable[[Sequence[Node], Sequence[Node], Sequence[Node | None]], list[Node | None]]


def push_region(jvp: Jvp, node: Node, tangents: Sequence[Node | None]) -> list[Node | None]:
    """The tangents of the results of a branch or loop, from those of its operands; None where there is none."""
    floats = [t if n.dtype.is_float else None for n, t in zip(node.inputs, tangents, strict=True)]
    return _branch_forward(jvp, node, floats) if node.op == "branch" else _loop_forward(jvp, node, floats)


def _branch_forward(jvp: Jvp, node: Node, tangents: Sequence[Node | None]) -> list[Node | None]:
    moving = [k for k, t in enumerate(tangents[1:]) if t is not None]
    sides = [node.attrs["then"], node.attrs["other"]]
    leaves: list[list[Node]] = []
    found: list[list[Node | None]] = []
    for graph in sides:
        name = fresh_names(graph.inputs)
        leaves.append([input_node(name(f"d_{graph.inputs[k].attrs['name']}"), graph.inputs[k].type) for k in moving])
        found.append(jvp(graph.outputs, [graph.inputs[k] for k in moving], leaves[-1]))
    count = len(sides[0].outputs)
    kept = [k for k in range(count) if any(side[k] is not None for side in found)]
    result: list[Node | None] = [None] * count
    if kept:
        graphs = [
            Graph(f"{g.name}_forward", (*g.inputs, *mine), (), tuple([_or_zeros(side[k], g.outputs[k]) for k in kept]))
            for g, mine, side in zip(sides, leaves, found, strict=True)
        ]
        given = [t for t in tangents[1:] if t is not None]
        made = items(branch(*node.inputs, *given, then=graphs[0], other=graphs[1]))
        for k, tangent in zip(kept, made, strict=True):
            result[k] = tangent
    return result


def _or_zeros(tangent: Node | None, like: Node) -> Node:
    return full(like.shape, 0, like.dtype) if tangent is None else tangent


def _loop_forward(jvp: Jvp, node: Node, tangents: Sequence[Node | None]) -> list[Node | None]:
    body, test, stacked = node.attrs["body"], node.attrs["test"], node.attrs["stacked"]
    parts, carried = parts_of(node), len(body.state)
    name = fresh_names((*body.inputs, *body.state, *(test.inputs if test is not None else ())))
    given = tangents[carried : carried + len(body.inputs)]
    beside = {
        leaf: input_node(name(f"d_{leaf.attrs['name']}"), leaf.type)
        for leaf, t in zip(body.inputs, given, strict=True) if t is not None
    }  # fmt: skip
    fresh = [dict(body.updates).get(s, s) for s in body.state]
    moving: dict[int, Node] = {}
    new = [k for k in range(carried) if tangents[k] is not None]
    found: list[Node | None] | None = None
    while new or found is None:
        moving |= {k: state_node(name(f"d_{body.state[k].attrs['name']}"), body.state[k].type) for k in new}
        moving = dict(sorted(moving.items()))
        wrt = [*(body.state[k] for k in moving), *beside]
        found = jvp([*fresh, *body.outputs], wrt, [*moving.values(), *beside.values()])
        new = [k for k in range(carried) if found[k] is not None and k not in moving]
    kept = [k for k in range(len(body.outputs)) if found[carried + k] is not None]
    result: list[Node | None] = [None] * (carried + len(body.outputs) + (test is not None))
    if not moving and not kept:
        return result
    updates = [(moving[k], _or_zeros(found[k], body.state[k])) for k in moving]
    rows, constants = body.inputs[:stacked], body.inputs[stacked:]
    d_rows, d_constants = ([beside[n] for n in leaves if n in beside] for leaves in (rows, constants))
    whole = Graph(
        body.name,
        (*rows, *d_rows, *constants, *d_constants),
        (*body.state, *moving.values()),
        tuple([n for k in kept if (n := found[carried + k]) is not None]),
        (*zip(body.state, fresh, strict=True), *updates),
    )
    check = None if test is None else Graph(test.name, test.inputs, (*test.state, *moving.values()), test.outputs)
    first = [_or_zeros(tangents[k], parts.carry[k]) for k in moving]
    moved = [t for t in given if t is not None]
    made = items(
        loop(
            *parts.carry, *first, *parts.rows, *moved[: len(d_rows)], *parts.constants, *moved[len(d_rows) :],
            *parts.test_constants, *parts.trips, body=whole, test=check, length=node.attrs["length"],
            reverse=node.attrs["reverse"], stacked=stacked + len(d_rows), counted=node.attrs["counted"],
        )
    )  # fmt: skip
    for k, tangent in zip([*moving, *(carried + k for k in kept)], made[carried:], strict=False):
        result[k] = tangent
    return result


__all__ = ["push_region"]
