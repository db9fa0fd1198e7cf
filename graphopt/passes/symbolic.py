"""One graph for several sizes of a symbolic axis: what two traces of the same code, for different numbers of rows, share.

`analyse` compares a graph traced for `capacity` rows with the same code's graph for another number, node by node: they
must be equal but for sizes and for constants that follow from sizes. `matches` holds a third trace against that, so
code that decides by the number of rows is found out by its trace. `passes.masks` makes the graph that serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.ir.graph import Graph, Node, walk
from graphopt.ir.types import TensorType, TupleType, tuple_of
from graphopt.opdefs.control import parts_of
from graphopt.passes.symbolic_rules import ANY, Axes, Mask, Unfit, Use, axes_of

Nodes = Mapping[Node, Node]
NO_NODES: Nodes = {}

_REPEATS = {"broadcast", "reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or"}
_MOVING = _REPEATS | {"reshape", "transpose", "slice"}
_SHAPED = {"broadcast", "reshape", "iota", "random_bits"}  # ops that say their result's shape in attrs


@dataclass(eq=False)
class Region:
    """A graph traced for `capacity` rows, and what is known of its symbolic axes.

    axes:    of each node (of a node with several results, of each); leaves included.
    masks:   for each node the masks on its inputs, by their number.
    varying: constants whose value depends on the number of rows, which is the same for all their elements.
    inside:  the graphs in a node's attrs.
    """

    graph: Graph
    capacity: int
    axes: dict[Node, Axes] = field(default_factory=dict)
    parts: dict[Node, tuple[Axes, ...]] = field(default_factory=dict)
    masks: dict[Node, dict[int, Mask]] = field(default_factory=dict)
    varying: list[Node] = field(default_factory=list)
    inside: dict[Node, dict[str, Region]] = field(default_factory=dict)

    def type_at(self, node: Node, rows: int) -> TensorType:
        """The type of a node for another number of rows."""
        if not isinstance(node.type, TupleType):
            return sized(node.type, self.axes[node], self.capacity, rows)
        return tuple_of([sized(t, m, self.capacity, rows) for t, m in zip(node.type.parts, self.parts[node], strict=True)])

    def regions(self) -> Iterator[Region]:
        """This one and all inside it, in a fixed order."""
        yield self
        for found in self.inside.values():
            for region in found.values():
                yield from region.regions()


def analyse(graph: Graph, capacity: int, other: Graph, rows: int) -> Region:
    """What `graph`, traced for `capacity` rows, has in common with `other`, traced for `rows` of them.

    Errors: Unfit, with the op and the user's line, when one graph cannot serve both.
    Cost:   about 10 us per node.
    """
    given = []
    for a, b in zip((*graph.inputs, *graph.state), (*other.inputs, *other.state), strict=True):
        axes = tuple(int(m != n) for m, n in zip(a.shape, b.shape, strict=True))
        if any(k and (m, n) != (capacity, rows) for k, m, n in zip(axes, a.shape, b.shape, strict=True)):
            raise Unfit(f"{a.attrs['name']} has an axis whose size is no number of rows", a)
        given.append(axes)
    region = _analysed(graph, capacity, other, rows, given)
    for leaf, value in graph.updates:
        if any(region.axes[value]):
            raise Unfit(f"{leaf.attrs['name']} would get a shape that changes with the number of rows", value)
    for k, node in enumerate(graph.outputs):
        if any(m not in (0, ANY) and m * capacity != size for m, size in zip(region.axes[node], node.shape, strict=True)):
            raise Unfit(f"result {k} has rows that are merged into an axis with others", node)
    matches(region, other, rows)
    return region


def _analysed(graph: Graph, capacity: int, other: Graph, rows: int, given: Sequence[Axes]) -> Region:
    region = Region(graph, capacity)
    region.axes.update(zip((*graph.inputs, *graph.state), given, strict=True))
    for node, twin in _paired(graph, other):
        if node in region.axes:
            continue
        if isinstance(node.type, TupleType):
            region.parts[node] = _control(region, node, twin, rows)
            continue
        free = _free(node, twin, capacity, rows)
        if node.op == "constant":
            region.axes[node] = _constant(region, node, twin, rows, free)
        elif node.op == "item":
            region.axes[node] = region.parts[node.inputs[0]][node.attrs["index"]]
        else:
            use = Use(node, tuple(region.axes[i] for i in node.inputs), free, capacity)
            region.axes[node] = axes_of(use)
            if use.masks:
                region.masks[node] = use.masks
    return region


def _paired(graph: Graph, other: Graph, same: Nodes = NO_NODES, twins_same: Nodes = NO_NODES) -> list[tuple[Node, Node]]:
    """The nodes of both graphs beside each other. same, twins_same: nodes of each for which others stand.

    Errors: Unfit when one graph is not built like the other.
    """
    nodes, twins = _ordered(graph, same), _ordered(other, twins_same)
    twin_of: dict[Node, Node] = {}
    for node, twin in zip(nodes, twins, strict=False):
        twin_of[node] = twin
        if node.op != twin.op or [twin_of[same.get(i, i)] for i in node.inputs] != [twins_same.get(i, i) for i in twin.inputs]:
            raise Unfit(f"the code does something else for another number of rows: {twin.op} instead of {node.op}", twin)
    ends = [*graph.roots, *(leaf for leaf, _ in graph.updates)]
    other_ends = [*other.roots, *(leaf for leaf, _ in other.updates)]
    alike = len(nodes) == len(twins) and len(graph.outputs) == len(other.outputs)
    if not alike or [twin_of[same.get(n, n)] for n in ends] != [twins_same.get(n, n) for n in other_ends]:
        raise Unfit(f"the code does something else for another number of rows: {len(twins)} instead of {len(nodes)} operations")
    return list(zip(nodes, twins, strict=True))


def _ordered(graph: Graph, same: Nodes) -> list[Node]:
    """What `walk` gives for a graph's leaves and roots, with other nodes for those in `same`."""
    ends = (*graph.inputs, *graph.state, *graph.roots)
    if not same:
        return walk(ends)
    order: dict[Node, None] = {}
    for end in ends:
        stack = [(same.get(end, end), False)]
        while stack:
            node, ready = stack.pop()
            if ready:
                order.setdefault(node)
            elif node not in order:
                stack.append((node, True))
                stack.extend((same.get(i, i), False) for i in reversed(node.inputs))
    return list(order)


def _bases(graph: Graph, type_of: Callable[[Node], TensorType]) -> dict[Node, Node]:
    """For nodes that hold another's elements in the same order, whatever the shape, that one."""
    found: dict[Node, Node] = {}
    for node in walk(graph.roots):
        if node.op in _MOVING and type_of(node).size == type_of(node.inputs[0]).size:
            if node.op != "transpose" or _keeps_order(node, type_of(node.inputs[0])):
                found[node] = found.get(node.inputs[0], node.inputs[0])
    return found


def _keeps_order(node: Node, before: TensorType) -> bool:
    moved = [k for k in node.attrs["perm"] if before.shape[k] != 1]
    return moved == sorted(moved)


def _free(node: Node, twin: Node, capacity: int, rows: int) -> tuple[bool, ...]:
    """Which axes have another size for another number of rows."""
    if node.dtype is not twin.dtype or len(node.shape) != len(twin.shape):
        raise Unfit(f"{node.op} gives {node.type} for {capacity} rows, {twin.type} for {rows}", node)
    for m, n in zip(node.shape, twin.shape, strict=True):
        if m != n and (m % capacity or n != m // capacity * rows):
            raise Unfit(f"{node.op} gives {node.type} for {capacity} rows, {twin.type} for {rows}: no multiple of them", node)
    return tuple(m != n for m, n in zip(node.shape, twin.shape, strict=True))


def _constant(region: Region, node: Node, twin: Node, rows: int, free: tuple[bool, ...]) -> Axes:
    a, b = node.attrs["value"], twin.attrs["value"]
    if _alike(a) and _alike(b):
        if a.size and a.reshape(-1)[:1].tobytes() != b.reshape(-1)[:1].tobytes():
            region.varying.append(node)
        return tuple(ANY if f else 0 for f in free)
    return tuple(size // region.capacity if f else 0 for f, size in zip(free, a.shape, strict=True))


def _alike(array: np.ndarray) -> bool:
    """Whether all elements are the same, bit by bit."""
    if array.size <= 1:
        return True
    flat = array.reshape(-1).view(np.dtype((np.void, array.dtype.itemsize)))
    return bool((flat == flat[0]).all())


# control flow -----------------------------------------------------------------------------------------------------


def _control(region: Region, node: Node, twin: Node, rows: int) -> tuple[Axes, ...]:
    """The axes of each result of a branch or loop, whose graphs are analysed with those of its operands."""
    assert isinstance(node.type, TupleType) and isinstance(twin.type, TupleType)
    if [set(node.attrs)] != [set(twin.attrs)] or any(type(v) is not type(twin.attrs[k]) for k, v in node.attrs.items()):
        raise Unfit(f"{node.op} has other parts for another number of rows", node)
    axes = [region.axes[i] for i in node.inputs]
    inner: dict[str, Region] = {}

    def inside(name: str, given: Sequence[Axes]) -> list[Axes]:
        made = _analysed(node.attrs[name], region.capacity, twin.attrs[name], rows, given)
        inner[name] = made
        return [made.axes[r] for r in made.graph.roots]

    if node.op == "branch":
        then, other = inside("then", axes[1:]), inside("other", axes[1:])
        found = [_agreed(node, a, b) for a, b in zip(then, other, strict=True)]
    else:
        found = _loop(node, axes, inside)
    region.inside[node] = inner
    return tuple(found)


def _loop(node: Node, axes: Sequence[Axes], inside: Any) -> list[Axes]:
    """A carry lies the same way before and after each trip; a row of a stack is one of its fixed number of trips."""
    of = dict(zip(map(id, node.inputs), axes, strict=True))
    parts, a = parts_of(node), node.attrs
    if any(of[id(n)][0] for n in parts.rows):
        raise Unfit("a loop goes over the rows, whose number changes", node)
    body, test = a["body"], a["test"]
    carry = [of[id(n)] for n in parts.carry]
    rows = [of[id(n)][1:] for n in parts.rows]
    constants = [of[id(n)] for n in parts.constants]
    while True:
        found = inside("body", [*rows, *constants, *carry])
        count = len(body.outputs)
        values = dict(zip((leaf for leaf, _ in body.updates), found[count:], strict=True))
        after = [_agreed(node, c, values.get(leaf, c)) for leaf, c in zip(body.state, carry, strict=True)]
        if after == carry:
            break
        carry = after
    if test is not None:
        inside("test", [*[of[id(n)] for n in parts.test_constants], *carry])
    return [*carry, *[(0, *m) for m in found[:count]], *[()] * (test is not None)]


def _agreed(node: Node, a: Axes, b: Axes) -> Axes:
    made = []
    for m, n in zip(a, b, strict=True):
        if m != n and ANY not in (m, n):
            raise Unfit(f"{node.op} gives rows that lie in different places", node)
        made.append(max(m, n))
    return tuple(made)


# another trace ----------------------------------------------------------------------------------------------------


def matches(region: Region, other: Graph, rows: int) -> list[np.ndarray]:
    """The values that the varying constants have in `other`, traced for `rows` rows: those of each region in order.

    Errors: Unfit, with the op and the user's line, when `other` is not what the region's graph means for so many rows.
    """
    values: dict[tuple[Region, Node], np.ndarray] = {}
    _match(region, other, rows, values)
    keys = [(inner, node) for inner in region.regions() for node in inner.varying]
    if any(key not in values for key in keys):
        raise Unfit("the code leaves out a constant that others depend on")
    return [values[key] for key in keys]


def _match(region: Region, other: Graph, rows: int, values: dict[tuple[Region, Node], np.ndarray]) -> None:
    varying = set(region.varying)
    for node, twin in _pairs_at(region, other, rows):
        if isinstance(node.type, TupleType):
            inner = region.inside[node]
            for name, value in node.attrs.items():
                if name in inner:
                    _match(inner[name], twin.attrs[name], rows, values)
                elif type(value) is not Graph and value != twin.attrs[name]:
                    raise _differs(node, twin, name)
            continue
        if rows == 1 and node.op in _REPEATS:
            _match_single(region, node, twin)
            continue
        if twin.type != region.type_at(node, rows):
            raise Unfit(f"the code gives {twin.type} for {rows} rows, {node.type} for {region.capacity}", twin)
        if node.op == "constant":
            _match_constant(region, node, twin, rows, node in varying)
            if node in varying:
                values[region, node] = twin.attrs["value"].reshape(-1)[:1].reshape(())
        else:
            _match_attrs(region, node, twin, rows)


def _pairs_at(region: Region, other: Graph, rows: int) -> list[tuple[Node, Node]]:
    """The nodes of both graphs beside each other. A single row is repeated, and summed, by doing nothing or by a change of
    shape: there these are looked through, and what reads them must find the same shapes.
    """
    if rows != 1:
        return _paired(region.graph, other)

    def type_at(node: Node) -> TensorType:
        return region.type_at(node, rows)

    pairs = _paired(region.graph, other, _bases(region.graph, type_at), _bases(other, lambda n: n.type))
    ends = [*zip(region.graph.roots, other.roots, strict=True)]
    for node, twin in pairs:
        if node.op not in _REPEATS:
            ends += zip(node.inputs, twin.inputs, strict=True)
    for node, twin in ends:
        if type_at(node) != twin.type:
            raise Unfit(f"the code gives {twin.type} for a single row, {node.type} for {region.capacity}", twin)
    return pairs


def _match_single(region: Region, node: Node, twin: Node) -> None:
    """Broadcasts and reductions of a single row, but for axes of size 1."""

    def meaning(n: Node, own: TensorType, source: TensorType) -> tuple[Any, ...]:
        shape, before = (tuple(k for k in t.shape if k != 1) for t in (own, source))
        sizes = own.shape if n.op == "broadcast" else source.shape
        if n.op == "broadcast":
            axes = tuple(a for a, k in zip(n.attrs["axes"], source.shape, strict=True) if k != 1)
        else:
            axes = tuple(a for a in n.attrs["axes"] if source.shape[a] != 1)
        return shape, before, axes, sizes, own.dtype

    found = meaning(twin, twin.type, twin.inputs[0].type)
    if meaning(node, region.type_at(node, 1), region.type_at(node.inputs[0], 1)) != found:
        raise _differs(node, twin, "axes")


def sized(type: TensorType, axes: Axes, capacity: int, rows: int) -> TensorType:
    """The type for another number of rows."""
    return type.with_shape(tuple(n // capacity * rows if m else n for n, m in zip(type.shape, axes, strict=True)))


def _match_constant(region: Region, node: Node, twin: Node, rows: int, varies: bool) -> None:
    a, b = node.attrs["value"], twin.attrs["value"]
    if varies:
        fits = _alike(b) and b.size > 0
    elif ANY in region.axes[node]:
        fits = _alike(b) and a.reshape(-1)[:1].tobytes() == b.reshape(-1)[:1].tobytes()
    else:
        fits = _same_memory(a, b) or a[tuple(slice(n) for n in b.shape)].tobytes() == b.tobytes()
    if not fits:
        raise Unfit("the code uses other constants for another number of rows", twin)


def _same_memory(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.ctypes.data == b.ctypes.data


def _match_attrs(region: Region, node: Node, twin: Node, rows: int) -> None:
    for name, value in node.attrs.items():
        if value == twin.attrs.get(name):
            if name not in ("start", "stop", "high", "low"):
                continue
        elif (name == "shape" and node.op in _SHAPED) or name in ("start", "stop", "high", "low"):
            pass  # shapes are compared with the types
        elif name != "name":
            raise _differs(node, twin, name)
        if name in ("start", "stop") and node.op == "slice":
            free = region.axes[node]
            expected = tuple(v // region.capacity * rows if m else v for v, m in zip(value, free, strict=True))
            if twin.attrs[name] != expected:
                raise _differs(node, twin, name)
        elif name in ("high", "low") and node.op == "pad":
            _match_pad(region, node, twin, rows, name)


def _match_pad(region: Region, node: Node, twin: Node, rows: int, name: str) -> None:
    """Whole blocks are added to rows; behind rows of a fixed number comes what the smaller size has place for."""
    before = region.axes[node.inputs[0]]
    for k, (count, m) in enumerate(zip(node.attrs[name], region.axes[node], strict=True)):
        if m and before[k]:
            count = count // region.capacity * rows
        elif m and name == "high":
            count -= node.shape[k] - node.shape[k] // region.capacity * rows
        if twin.attrs[name][k] != count or (m and count < 0):
            raise _differs(node, twin, name)


def _differs(node: Node, twin: Node, name: str) -> Unfit:
    return Unfit(f"{node.op} has another {name} for another number of rows: {twin.attrs.get(name)}", node)


__all__ = ["Region", "Unfit", "analyse", "matches", "sized"]
