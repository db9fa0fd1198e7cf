"""The graph that serves several sizes of a symbolic axis: the number of rows is an input, and what does not count is masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from graphopt.ir.graph import Graph, Node, input_node, walk, with_inputs
from graphopt.ir.types import TensorType, i32
from graphopt.opdefs.bits import logical_and
from graphopt.opdefs.control import parts_of
from graphopt.opdefs.elementwise import add, cast, ge, lt, mod, mul, select
from graphopt.opdefs.opdef import broadcast_to, full
from graphopt.opdefs.shape import broadcast, iota
from graphopt.passes.symbolic import Region
from graphopt.passes.symbolic_rules import Mask

ROWS = TensorType(i32, ())
_SAME = ("alias", "stop_gradient")


def masked(region: Region, zeroed: Sequence[Node]) -> Graph:
    """The region's graph for any number of rows up to its capacity.

    zeroed: inputs whose rows behind the valid ones are zero; those of the outputs hold anything.

    Two kinds of inputs follow the graph's own: the number of rows, i32 [], then the varying constants in the order of
    `matches`.
    Cost: a comparison and a choice for each element of what is summed over the rows, in the kernel that computes it.
    """
    rows = input_node("rows", ROWS)
    leaves = _leaves(region)
    made = _Masking(region, rows, leaves, zeroed).graph()
    return replace(made, inputs=(*made.inputs, rows, *[leaf for inner in region.regions() for leaf in _own(inner, leaves)]))


Leaves = Mapping[tuple[Region, Node], Node]


def _leaves(region: Region) -> dict[tuple[Region, Node], Node]:
    """An input for each varying constant of a region and of those inside it."""
    keys = [(inner, node) for inner in region.regions() for node in inner.varying]
    return {key: input_node(f"size_{k}", TensorType(key[1].dtype, ())) for k, key in enumerate(keys)}


def _own(region: Region, leaves: Leaves) -> list[Node]:
    return [leaves[region, node] for node in region.varying]


@dataclass
class _Masking:
    """The rewriting of one graph. zeroed: inputs whose rows that do not count are zero anyway."""

    region: Region
    rows: Node
    leaves: Leaves
    zeroed: Sequence[Node] = ()
    zeros: dict[Node, dict[int, int]] = field(default_factory=dict)  # nodes that shall be zero, by axis and m
    made: dict[Node, Node] = field(default_factory=dict)
    keeps: dict[tuple[int, int], Node] = field(default_factory=dict)
    chosen: dict[tuple[Node, Mask], Node] = field(default_factory=dict)

    def graph(self) -> Graph:
        graph = self.region.graph
        order = walk((*graph.inputs, *graph.state, *graph.roots))
        others: dict[Node, dict[int, Mask]] = {}
        for node in order:
            for k, mask in self.region.masks.get(node, {}).items():
                if mask.wraps or mask.fill != 0 or not self._ask_zero(node.inputs[k], dict(mask.axes)):
                    others.setdefault(node, {})[k] = mask
        for node in order:
            self.made[node] = self._zero(node, self._rewritten(node, others.get(node, {})))
        return graph.with_roots([self.made[r] for r in graph.roots])

    def _ask_zero(self, node: Node, axes: dict[int, int]) -> bool:
        """Let a node be zero where it does not count, for all its users, or what it is moved from; whether that can be."""
        axes_of = self.region.axes
        while node.op in ("transpose", "reshape", *_SAME):
            source = node.inputs[0]
            if node.op == "transpose":
                axes = {node.attrs["perm"][axis]: m for axis, m in axes.items()}
            elif node.op == "reshape":
                symbolic = [k for k, m in enumerate(axes_of[source]) if m > 0]
                if len(symbolic) != 1 or len(axes) != 1 or sum(map(bool, axes_of[node])) != 1:
                    break
                axes = {symbolic[0]: axes_of[source][symbolic[0]]}
            node = source
        if node in self.zeroed:
            return True
        if node.op in ("input", "state", "constant") or any(axes_of[node][axis] < 0 for axis in axes):
            return False
        self.zeros.setdefault(node, {}).update(axes)
        return True

    def _zero(self, node: Node, made: Node) -> Node:
        axes = self.zeros.get(node)
        return made if axes is None else self._masked(made, Mask(0, tuple(sorted(axes.items()))))

    def _rewritten(self, node: Node, masks: Mapping[int, Mask]) -> Node:
        if node.op in ("input", "state"):
            return node
        if node.op == "constant":
            leaf = self.leaves.get((self.region, node))
            return node if leaf is None else broadcast_to(leaf, node.shape)
        inputs = [self.made[i] for i in node.inputs]
        for k, mask in masks.items():
            key = (inputs[k], mask)
            if key not in self.chosen:
                self.chosen[key] = self._masked(inputs[k], mask)
            inputs[k] = self.chosen[key]
        inner = self.region.inside.get(node)
        return with_inputs(node, tuple(inputs)) if not inner else self._with_regions(node, inputs, inner)

    # masks --------------------------------------------------------------------------------------------------------

    def _masked(self, x: Node, mask: Mask) -> Node:
        other = full(x.shape, mask.fill, x.dtype)
        if mask.wraps:
            x = self._wrapped(x, mask, other)
        keep: Node | None = None
        for axis, m in mask.axes:
            here = broadcast(self._keep(x.shape[axis], m), shape=x.shape, axes=(axis,))
            keep = here if keep is None else logical_and(keep, here)
        return x if keep is None else select(keep, x, other)

    def _keep(self, size: int, m: int) -> Node:
        """bool [size]: which places of an axis count."""
        if (size, m) not in self.keeps:
            place, block = iota(shape=(size,), axis=0, dtype=i32), m * self.region.capacity
            if block != size:
                place = mod(place, block)
            self.keeps[size, m] = lt(place, self._count(m))
        return self.keeps[size, m]

    def _count(self, m: int) -> Node:
        return self.rows if m == 1 else mul(self.rows, m)

    def _wrapped(self, x: Node, mask: Mask, outside: Node) -> Node:
        """Indices from the start of the valid rows; those out of their range are out of range of all."""
        count = self._count(mask.wraps)
        count = broadcast_to(count if x.dtype is i32 else cast(count, dtype=x.dtype), x.shape)
        if x.dtype.kind == "i":
            x = select(lt(x, 0), add(x, count), x)
            return select(logical_and(ge(x, 0), lt(x, count)), x, outside)
        return select(lt(x, count), x, outside)

    # graphs inside ------------------------------------------------------------------------------------------------

    def _with_regions(self, node: Node, inputs: Sequence[Node], inner: Mapping[str, Region]) -> Node:
        """The graphs in a node's attrs get the number of rows and the varying constants as operands."""
        attrs: dict[str, Any] = dict(node.attrs)
        keys = [(deep, n) for region in inner.values() for deep in region.regions() for n in deep.varying]
        more = [self.rows, *[self.leaves[key] for key in keys]]
        added: dict[str, Sequence[Node]] = {}
        for name, region in inner.items():
            rows = input_node("rows", ROWS)
            leaves = {key: input_node(f"size_{k}", TensorType(key[1].dtype, ())) for k, key in enumerate(keys)}
            made = _Masking(region, rows, leaves).graph()
            attrs[name] = replace(made, inputs=(*made.inputs, rows, *leaves.values()))
            added[name] = more
        if node.op == "loop":
            parts = parts_of(node)
            ends = [len(parts.carry) + len(parts.rows) + len(parts.constants)]
            ends.append(ends[0] + len(parts.test_constants))
            given = [*inputs[: ends[0]], *added["body"], *inputs[ends[0] : ends[1]], *added.get("test", ()), *inputs[ends[1] :]]
        else:
            given = [*inputs, *more]
        return Node(node.op, tuple(given), MappingProxyType(attrs), node.type, node.where, node.born)


__all__ = ["masked"]
