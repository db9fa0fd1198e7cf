"""What is stored: every value that cannot be computed where it is read gets memory of its own.

Movement is not stored: `follow` finds what lies behind it, and where. What else needs memory does not read it in a way that
movement can serve: contractions at places that are not affine, reshapes of movement, ops with their own loop nests, regions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.ir.graph import Graph, Node, users, walk, with_inputs
from graphopt.ir.index import Dims, Index, delinear, linear
from graphopt.opdefs.opdef import opdef
from graphopt.opdefs.shape import pad, slice_
from graphopt.passes.rewrite import number
from graphopt.where import at

INLINE = frozenset({"broadcast", "reshape", "transpose", "slice", "pad", "concat", "reverse", "iota", "constant", "random_bits"})
LEAVES = frozenset({"input", "state", "constant"})
_MOST_BORDER = 4  # times larger than what lies in it: more is not worth keeping for as long


class _NotAffine(Exception):
    pass


class _Through:
    """A Reader that only follows single reads: what an index becomes on the way to the node that is really stored."""

    s: Any = None

    def __init__(self, node: Node):
        self.node = node

    def read(self, k: int, index: tuple[Index, ...]) -> tuple[Node, tuple[Index, ...]]:
        return self.node.inputs[k], index

    def __getattr__(self, name: str) -> Any:
        raise _NotAffine(name)


def follow(node: Node, idx: tuple[Index, ...]) -> tuple[Node, tuple[Index, ...]] | None:
    """The first node behind pure single-read movement, and the index there; None when a value decides the index.

    Reshapes of what is stored end the walk too: the caller addresses them by their element number.
    """
    while node.op in INLINE and node.op not in LEAVES:
        if node.op in ("iota", "random_bits", "pad", "concat"):
            return None
        if node.op == "reshape":
            if not moves(stored_base(node)):
                break
            (inner,) = node.inputs
            node, idx = inner, delinear(linear(idx, node.shape), inner.shape)
            continue
        try:
            node, idx = opdef(node.op).rules["at"](_Through(node), idx, *(i.type for i in node.inputs), **node.attrs)
        except _NotAffine:
            return None
    return node, idx


def moves(node: Node) -> bool:
    """Is it movement, which nobody stores unless it must be?"""
    return node.op in INLINE - LEAVES - {"reshape"}


def stored_base(node: Node) -> Node:
    """What holds the elements of a chain of reshapes."""
    while node.op == "reshape":
        node = node.inputs[0]
    return node


def _is_contraction(node: Node) -> bool:
    return node.op not in LEAVES and opdef(node.op).kind == "contraction"


def dims_of(node: Node) -> Dims:
    """The loop dimensions and operand indices of a contraction."""
    dims = Dims()
    opdef(node.op).rules["contract"](dims, *(i.type for i in node.inputs), **node.attrs)
    return dims


def _stored_operands(node: Node) -> Node:
    """The node reading through memory what it cannot read through movement."""
    alias = opdef("alias")
    kind = opdef(node.op).kind
    inputs = list(node.inputs)
    if node.op == "reshape" and moves(stored_base(node)):
        inputs[0] = alias(inputs[0])
    elif kind == "kernel" or node.op in ("branch", "loop"):
        inputs = [alias(i) if moves(stored_base(i)) else i for i in inputs]
        start = opdef(node.op).starts_from
        if start is not None and stored_base(inputs[start]).op == "constant":
            inputs[start] = alias(inputs[start])  # numbers among the constants have no memory to start from
    elif kind == "contraction":
        dims = dims_of(node)
        inputs = [i if _reaches(i, idx) else alias(i) for i, idx in zip(inputs, (dims.a, dims.b), strict=True)]
    return with_inputs(node, tuple(inputs))


def _reaches(operand: Node, idx: tuple[Index, ...]) -> bool:
    """Is what a contraction reads in memory, at places that are affine in its dimensions?"""
    found = follow(operand, idx)
    return found is not None and stored_base(found[0]).op not in INLINE - LEAVES and all(i.is_affine for i in found[1])


def _operands(node: Node, new: Mapping[Node, Node], direct: Mapping[Node, Node]) -> tuple[Node, ...]:
    """The inputs of a node as they are now: of a contraction, past what others need stored, where it can read that far."""
    if not _is_contraction(node):
        return tuple([new[i] for i in node.inputs])
    dims = dims_of(node)
    places = zip(node.inputs, (dims.a, dims.b), strict=True)
    return tuple([direct[i] if _reaches(direct[i], idx) else new[i] for i, idx in places])


def computed_for(node: Node, use: Mapping[Node, Sequence[Node]], roots: set[Node]) -> bool:
    """Is everything that a concat puts side by side computed for it alone, where each value is stored by itself?"""
    parts = node.inputs
    kinds = ("elementwise", "reduction", "contraction")
    single = all(i.op not in LEAVES and opdef(i.op).kind in kinds and len(use[i]) == 1 and i not in roots for i in parts)
    return single and len(set(parts)) == len(parts) > 1 and all(i.type.size for i in parts)


def framed(node: Node, use: Mapping[Node, Sequence[Node]], roots: set[Node]) -> Node | None:
    """The value that an alias stores with a border of one number around it, if that value may lie inside from the start.

    Its own readers read it there, which no reshape, branch or loop can, nor an op that starts from it. The innermost axis
    has no border: vectors lie as they would without one.
    """
    frame = node.inputs[0]
    if not _is_frame(frame):
        return None
    value, low, high = frame.inputs[0], frame.attrs["low"], frame.attrs["high"]
    inner = max((k for k, n in enumerate(frame.shape) if n != 1), default=0)
    if low[inner] or high[inner] or not 0 < frame.type.size <= _MOST_BORDER * value.type.size:
        return None
    kinds = ("elementwise", "reduction", "contraction", "movement")
    computed = value.op not in INLINE and value.op not in LEAVES and opdef(value.op).kind in kinds
    return value if computed and value not in roots and all(_reads_inside(u, value) for u in use[value]) else None


def _is_frame(node: Node) -> bool:
    """Is it a value with a border of one number around it, and nothing but that?"""
    if node.op != "pad" or number(node.inputs[1]) is None:
        return False
    return not any(node.attrs["interior"]) and min(*node.attrs["low"], *node.attrs["high"], 0) == 0


def _reads_inside(user: Node, value: Node) -> bool:
    """Can a user read a value that lies inside another one?"""
    d = opdef(user.op)
    starts = d.starts_from is not None and user.inputs[d.starts_from] is value
    return user.op not in ("reshape", "item") and d.kind != "region" and not starts


def _widest(graph: Graph) -> Graph:
    """Of a value that is stored with several borders of the same number, the widest serves whoever reads it."""
    order = walk(graph.roots)
    use = users(order)
    roots = set(graph.roots)
    found: dict[tuple[Node, str], list[Node]] = {}
    for node in order:
        if node.op == "alias" and _is_frame(node.inputs[0]) and node not in roots:
            value, fill = node.inputs[0].inputs
            if all(_reads_inside(u, node) and opdef(u.op).kind != "kernel" for u in use[node]):
                found.setdefault((value, str(number(fill))), []).append(node)
    several = {n: frames for frames in found.values() if len(frames) > 1 for n in frames}
    wide: dict[Node, Node] = {}
    new: dict[Node, Node] = {}
    for node in order:
        new[node] = with_inputs(node, tuple([new[i] for i in node.inputs]))
        if node in several:
            first = several[node][0]
            with at(node.where):
                if first not in wide:
                    wide[first] = _around(new[first.inputs[0].inputs[0]], several[node])
                new[node] = _part(wide[first], node)
    return graph.with_roots([new[r] for r in graph.roots]) if several else graph


def _around(value: Node, frames: Sequence[Node]) -> Node:
    """A value, stored with a border as wide as the widest of frames on each side."""
    low, high = ([max(a) for a in zip(*(n.inputs[0].attrs[side] for n in frames), strict=True)] for side in ("low", "high"))
    frame = frames[0].inputs[0]
    whole = pad(value, frame.inputs[1], low=tuple(low), high=tuple(high), interior=frame.attrs["interior"])
    return opdef("alias")(whole)


def _part(wide: Node, frame: Node) -> Node:
    """What a wide frame holds of another one."""
    start = [a - b for a, b in zip(wide.inputs[0].attrs["low"], frame.inputs[0].attrs["low"], strict=True)]
    stop = [a + n for a, n in zip(start, frame.shape, strict=True)]
    same = wide.shape == frame.shape
    return wide if same else slice_(wide, start=tuple(start), stop=tuple(stop), step=(1,) * wide.type.rank)


def _for_it_alone(node: Node, shared: bool) -> bool:
    """Is a value computed for one user, into a buffer of its own?"""
    return not shared and node.op not in INLINE and node.op not in LEAVES and node.op != "item"


def _may_start_from(value: Node, state: Node) -> bool:
    """Is a value of an op that stores only what differs from a state, or from what such an op made of it?"""
    while value.op not in LEAVES and (start := opdef(value.op).starts_from) is not None:
        value = stored_base(value.inputs[start])
        if value is state:
            return True
    return False


def materialise(graph: Graph) -> Graph:
    """Give a buffer of its own to everything that needs one.

    Claim: afterwards every root is computed by a group and differs from every other root, every operand of a
    contraction is stored and read with affine indices, every operand of a reshape, a `kernel` op or a region is stored,
    there is one item for each result of a region, and the first value of a carry is computed for its loop alone.
    """
    alias = opdef("alias")
    order = walk(graph.roots)
    use = users(order)
    new: dict[Node, Node] = {}
    direct: dict[Node, Node] = {}  # the same, but movement is of what the node it moves was made of
    picked: dict[tuple[Node, int], Node] = {}
    roots_before = set(graph.roots)
    for node in order:
        changed = node if node.op in LEAVES else _stored_operands(with_inputs(node, _operands(node, new, direct)))
        if node.op == "item":
            changed = picked.setdefault((changed.inputs[0], node.attrs["index"]), changed)
        elif node.op == "loop":
            mine = [_for_it_alone(i, len(use[i]) > 1 or i in roots_before) for i in node.inputs[: len(node.attrs["body"].state)]]
            given = zip(changed.inputs, node.inputs, mine, strict=False)
            carry = [c if m or c is not new[i] else alias(c) for c, i, m in given]
            changed = with_inputs(changed, (*carry, *changed.inputs[len(carry) :]))
        source = node.inputs[0] if node.op == "transpose" else node
        if source is not node and _is_contraction(source) and len(use[source]) == 1 and source not in roots_before:
            changed = alias(changed)  # the contraction writes its result transposed at once
        elif node.op == "concat" and changed.op == "concat" and computed_for(node, use, roots_before):
            changed = alias(changed)  # its parts are stored side by side at once
        new[node] = changed
        moves = node.op in INLINE and node.op not in LEAVES and changed.op == node.op
        direct[node] = with_inputs(node, tuple([direct[i] for i in node.inputs])) if moves else changed
    graph = _widest(graph.with_roots([new[r] for r in graph.roots]))
    taken: set[Node] = set()
    roots: list[Node] = []
    leaf_of = [None] * len(graph.outputs) + [s for s, _ in graph.updates]
    for root, state in zip(graph.roots, leaf_of, strict=True):
        if state is not None and _may_start_from(stored_base(root), state) and stored_base(root) not in taken:
            root = stored_base(root)  # the same memory under another shape
        if root is not state and (root.op in INLINE or root.op in LEAVES or root in taken):
            root = alias(root)
        taken.add(root)
        roots.append(root)
    return graph.with_roots(roots)


__all__ = ["INLINE", "LEAVES", "computed_for", "dims_of", "follow", "framed", "materialise", "moves", "stored_base"]
