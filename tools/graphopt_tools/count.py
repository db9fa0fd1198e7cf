"""The work that no implementation of a graph can avoid, counted from the graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from math import prod
from typing import Any

from graphopt import config
from graphopt.common.compiled import CompiledFunction
from graphopt.ir.graph import Graph, Node, walk
from graphopt.passes.pipeline import optimize

LOOKUPS = ("gather", "gather_rows", "take_along")
CHANGES = ("scatter_add", "scatter_set", "put_along_add")  # input 0 with input 2 at some places


def counts(function: CompiledFunction) -> dict[str, int]:
    """Of the signature that ran last: flops and bytes that are necessary, and what the native function consists of."""
    entry = function.last
    if entry is None:
        raise ValueError(f"{function.name} has not run yet")
    with config.override(skip=("canon",)):  # which writes padding out, so that its zeros could not be told from an image
        graph = optimize(entry.graph)
    found = {"flops": necessary_flops(graph), "bytes": necessary_bytes(graph)}
    program = entry.compiled.program
    if program is not None:
        found["kernels"] = len(program.calls)
        found["barriers"] = sum(call.barrier for call in program.calls)
        found["arena_bytes"] = program.arena_bytes
    return found


def necessary_flops(graph: Graph) -> int:
    """Of all its nodes, with every trip of a loop; of a branch the cheaper side, of a loop without a limit one trip."""
    return sum(flops(node) for node in walk(graph.roots))


def flops(node: Node) -> int:
    """Two for each multiply-add of a product or convolution, without those with padding or with the zeros of a dilation."""
    if node.op == "loop":
        length = node.attrs["length"]
        return (1 if length is None else length) * necessary_flops(node.attrs["body"])
    if node.op == "branch":
        return min(necessary_flops(node.attrs["then"]), necessary_flops(node.attrs["other"]))
    if node.op == "dot_general":
        contracted: tuple[int, ...] = node.attrs["contract"][0]
        return 2 * prod(node.shape) * prod([node.inputs[0].shape[axis] for axis in contracted])
    if node.op == "conv_general":
        image, window, result = node.inputs[0].shape, node.inputs[1].shape, node.shape
        taps = [_taps(image[k], window[k], result[k], k - 2, node.attrs) for k in range(2, len(image))]
        return 2 * result[0] * result[1] * window[1] * prod(taps)
    return 0


def _taps(image: int, window: int, result: int, axis: int, attrs: Mapping[str, Any]) -> int:
    """How often an element of the window meets one of the image along a spatial axis."""
    stride, before = attrs["strides"][axis], attrs["padding"][axis][0]
    between, apart = attrs["lhs_dilation"][axis], attrs["rhs_dilation"][axis]
    places = (i * stride + k * apart - before for i in range(result) for k in range(window))
    return sum(place % between == 0 and 0 <= place <= (image - 1) * between for place in places)


def necessary_bytes(graph: Graph) -> int:
    """Every input and state read once, every output and every state that changes written once.

    Of a table that is looked up and changed at some of its rows, those rows.
    """
    users: dict[Node, list[tuple[Node, int]]] = defaultdict(list)
    for node in walk(graph.roots):
        for k, source in enumerate(node.inputs):
            users[source].append((node, k))
    read = sum(_read_bytes(leaf, users[leaf]) for leaf in (*graph.inputs, *graph.state))
    written = sum(_bytes(n) for n in graph.outputs)
    return read + written + sum(_bytes(v.inputs[2] if v.op in CHANGES else v) for _, v in graph.updates)


def _read_bytes(leaf: Node, users: list[tuple[Node, int]]) -> int:
    if all(n.op in (*LOOKUPS, *CHANGES) and k == 0 for n, k in users):
        return max((_bytes(n if n.op in LOOKUPS else n.inputs[2]) for n, _ in users), default=0)
    return _bytes(leaf)


def _bytes(node: Node) -> int:
    size: int = node.type.size * node.dtype.bits // 8
    return size
