"""What a valid graph is. Each rule has a name, and the first broken one is reported with the node's name in the text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from graphopt.errors import GraphError, VerifyError
from graphopt.ir.graph import Graph, Node, walk
from graphopt.ir.text import PLAIN_TYPES, node_names
from graphopt.ir.types import TensorType, TupleType

Infer = Callable[[str, tuple[TensorType, ...], Mapping[str, Any]], TensorType]
Kind = Callable[[str], str | None]


def verify(graph: Graph, infer: Infer | None = None, kind: Kind | None = None) -> None:
    """Raise VerifyError `<rule>: …` for the first rule that the graph breaks.

    infer: the shape rules of the ops: op, input types, attrs -> type. None leaves out the rule `typed`.
    kind:  the kind of an op, None for an unknown op. None leaves out the rules `known` and `same_shape`.

    signature    inputs are `input` nodes and state are `state` nodes
    names        no two leaves of the signature share a name
    leaves       every leaf used is in the signature
    acyclic      a node comes after its inputs
    known        the op exists
    plain_attrs  attrs are hashable plain data: int, float, bool, str, None, DType, tuples of these; or a valid graph
    constant     a constant's array has the node's dtype and shape, is contiguous and cannot be written
    results      a node with several results is read by `item` alone
    same_shape   elementwise inputs and outputs have one shape
    typed        a node has the type that its op's shape rule says
    update       an update's value has its state's type, the state belongs to the graph and is updated once

    Cost: O(nodes + edges) and one call of a shape rule for each node.
    """
    names = _signature(graph)
    leaves = set(graph.inputs + graph.state)
    done: set[Node] = set()
    for node in walk(graph.roots):
        for source in node.inputs:
            if source not in done:
                raise VerifyError(f"acyclic: {names[node]} uses {names[source]}, which comes after it")
        done.add(node)
        if node.op in ("input", "state"):
            if node not in leaves:
                raise VerifyError(f"leaves: {node.op} {node.attrs['name']!r} is used but is not in the signature")
        elif node.op == "constant":
            _constant(node, names[node])
        else:
            _node(node, names[node], infer, kind)
    _updates(graph, names)


def _signature(graph: Graph) -> dict[Node, str]:
    for op, nodes in (("input", graph.inputs), ("state", graph.state)):
        for node in nodes:
            if node.op != op:
                raise VerifyError(f"signature: {node!r} stands among the {op} leaves of graph {graph.name}")
    return node_names(graph)


def _constant(node: Node, name: str) -> None:
    value = node.attrs.get("value")
    if not isinstance(value, np.ndarray):
        raise VerifyError(f"constant: {name} holds {type(value).__name__}, expected an array")
    if value.shape != node.shape or value.dtype != node.dtype.numpy:
        raise VerifyError(f"constant: {name} is {node.type}, its array is {value.dtype} of shape {value.shape}")
    if value.flags.writeable or not value.flags.c_contiguous:
        raise VerifyError(f"constant: the array of {name} can be written or is not contiguous")


def _node(node: Node, name: str, infer: Infer | None, kind: Kind | None) -> None:
    for key, value in node.attrs.items():
        if type(value) is Graph:
            _inner(value, f"{key} of {name} ({node.op})", infer, kind)
        elif not _is_plain(value):
            raise VerifyError(f"plain_attrs: {key}={value!r} of {name} ({node.op}) is no plain data")
    for k, source in enumerate(node.inputs):
        if type(source.type) is TupleType and node.op != "item":
            raise VerifyError(f"results: input {k} of {name} ({node.op}) is a tuple; an item must pick one of its parts")
    if kind is not None:
        found = kind(node.op)
        if found is None:
            raise VerifyError(f"known: {name} uses {node.op!r}, which is no op")
        if found == "elementwise":
            for k, source in enumerate(node.inputs):
                if source.shape != node.shape:
                    what = f"{name} ({node.op}) is {node.type}, its input {k} is {source.type}"
                    raise VerifyError(f"same_shape: {what}")
    if infer is not None:
        try:
            said = infer(node.op, tuple([i.type for i in node.inputs]), node.attrs)
        except (GraphError, TypeError) as error:
            raise VerifyError(f"typed: {name} is refused by its op {node.op}: {error}") from None
        if said != node.type:
            raise VerifyError(f"typed: {name} is {node.type}, its op says {said}")


def _inner(graph: Graph, place: str, infer: Infer | None, kind: Kind | None) -> None:
    try:
        verify(graph, infer, kind)
    except VerifyError as error:
        rule, _, what = str(error).partition(": ")
        raise VerifyError(f"{rule}: in {place}: {what}") from None


def _is_plain(value: Any) -> bool:
    if type(value) is tuple:
        return all(_is_plain(v) for v in value)
    return type(value) in PLAIN_TYPES


def _updates(graph: Graph, names: Mapping[Node, str]) -> None:
    state, seen = set(graph.state), set()
    for leaf, value in graph.updates:
        if leaf not in state:
            raise VerifyError(f"update: {leaf!r} is updated but is no state of graph {graph.name}")
        if leaf in seen:
            raise VerifyError(f"update: {names[leaf]} is updated twice")
        seen.add(leaf)
        if value.type != leaf.type:
            raise VerifyError(f"update: {names[leaf]} is {leaf.type}, its new value {names[value]} is {value.type}")
