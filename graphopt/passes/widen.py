"""A graph's mathematics without its rounding: every float is a float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.ir.graph import Graph, Node, input_node, state_node, walk
from graphopt.ir.types import DType, f64
from graphopt.opdefs.opdef import constant, opdef


def widen(roots: Sequence[Node]) -> tuple[list[Node], dict[Node, Node]]:
    """`roots` with float64 in place of every other float, and for each leaf of the signature the one that replaces it.

    Casts between floats become identities; integers and bools stay.
    """
    new: dict[Node, Node] = {}
    leaves: dict[Node, Node] = {}
    for node in walk(roots):
        if node.op in ("input", "state"):
            make = input_node if node.op == "input" else state_node
            type = node.type.with_dtype(_wide(node.dtype))
            new[node] = leaves[node] = make(node.attrs["name"], type, node.where)
        elif node.op == "constant":
            new[node] = constant(node.attrs["value"], _wide(node.dtype))
        else:
            new[node] = opdef(node.op)(*(new[i] for i in node.inputs), **{k: _wide_attr(v) for k, v in node.attrs.items()})
    return [new[r] for r in roots], leaves


def _wide(dtype: Any) -> Any:
    return f64 if dtype.is_float else dtype


def _wide_attr(value: Any) -> Any:
    """An attr in float64: a dtype, or a graph inside a node."""
    if isinstance(value, DType):
        return _wide(value)
    if not isinstance(value, Graph):
        return value
    leaves = (*value.inputs, *value.state)
    roots, replaced = widen([*leaves, *value.roots])
    state = tuple(replaced[s] for s in value.state)
    found = roots[len(leaves) :]
    outputs, fresh = found[: len(value.outputs)], found[len(value.outputs) :]
    updates = tuple((replaced[s], v) for (s, _), v in zip(value.updates, fresh, strict=True))
    return Graph(value.name, tuple(replaced[n] for n in value.inputs), state, tuple(outputs), updates)
