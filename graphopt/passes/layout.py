"""The order in which images lie in memory: what fills the lanes of a convolution comes last.

Users write (batch, channels, *spatial). Vectors along the channels, or along the batch where channels are few, are full
and never straddle a row, so the images between convolutions are kept in that order: a node of the result is the
original one transposed. Transpositions remain where images meet the rest of the graph; movement is not computed, so most
of them cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from graphopt.ir.graph import Graph, Node, walk, with_inputs
from graphopt.opdefs.elementwise import floordiv
from graphopt.opdefs.opdef import full, opdef
from graphopt.opdefs.shape import broadcast, inverse, transpose
from graphopt.passes.cse import merged
from graphopt.passes.rewrite import Steps
from graphopt.passes.views import REDUCTIONS, reshaped
from graphopt.where import at as line_of

Order = tuple[int, ...]

_LINE_BYTES = 64  # a cache line holds as many elements as the widest vectors have lanes
_BATCH_WORTH = 0.9  # lanes along the batch: every output channel reads the whole image again
_ROW_WORTH = 0.75  # lanes along rows: vectors straddle cache lines, and sums along rows cannot use them


def layout(graph: Graph, steps: Steps) -> Graph:
    """Keep images with the channels last, or with the batch last, whichever fills vectors better in this graph.

    Claim:     outputs and updates have the same values, though sums run in another order; equal nodes are merged.
    Invariant: a graph without convolutions, or whose rows fill vectors best, is returned as it is.
    Cost:      one visit per node.
    """
    order = walk(graph.roots)
    convolutions = _on_weights(order)
    last = _innermost(convolutions)
    if last is None:
        return graph
    images = _Images(last, convolutions)
    for node in order:
        with line_of(node.where):
            images.visit(node)
    laid = merged(graph.with_roots([images.at(root, _plain(root)) for root in graph.roots]), order)
    same = all(a is b for a, b in zip(laid.roots, graph.roots, strict=True))
    return graph if same or not steps.take("layout") else laid


def _on_weights(order: Sequence[Node]) -> list[Node]:
    """Convolutions whose windows do not come from other convolutions: those of layers, not of weight gradients."""
    behind: set[Node] = set()
    found: list[Node] = []
    for node in order:
        if node.op == "conv_general":
            if node.inputs[1] not in behind and node.type.size:
                found.append(node)
            behind.add(node)
        elif any(i in behind for i in node.inputs):
            behind.add(node)
    return found


def _innermost(convolutions: Sequence[Node]) -> int | None:
    """The axis along which the convolutions fill their vectors best: 1 channels, 0 batch, None rows, as they are."""
    total = {1: 0.0, 0: 0.0, None: 0.0}
    for n in convolutions:
        lanes = _LINE_BYTES // max(n.dtype.itemsize, 4)
        work = n.type.size * prod(n.inputs[1].shape[1:])
        for axis, worth in ((1, 1.0), (0, _BATCH_WORTH), (None, _ROW_WORTH)):
            size = n.shape[-1 if axis is None else axis]
            total[axis] += work / (worth * size / (-(-size // lanes) * lanes))
    return min(total, key=total.__getitem__) if convolutions else None


def _plain(node: Node) -> Order:
    return tuple(range(node.type.rank))


class _Images:
    """What each visited node became: (node, order), where the new node is the old one with its axes in that order.

    What a layer reads and was no image yet is copied into the order of images, unless it is padded and so copied anyway.
    """

    def __init__(self, last: int, convolutions: Sequence[Node]):
        self.last = last
        self.layers = set(convolutions)
        self.read = {n.inputs[0] for n in convolutions}
        self.framed = {n.inputs[0] for n in self.read if n.op == "pad"}
        self.new: dict[Node, tuple[Node, Order]] = {}
        self.positions: dict[Node, Node] = {}
        self.padded: dict[Node, Node] = {}
        self.known: dict[tuple[Node, Order], Node] = {}

    def at(self, node: Node, order: Order) -> Node:
        """The node with its axes in another order."""
        new, mine = self.new[node]
        return self._moved(new, tuple([mine.index(a) for a in order]))

    def stored(self, node: Node) -> Node:
        """The node as it is, read where its image lies; padding is computed in the image's order, not in the reader's."""
        new, order = self.new[node]
        return self._moved(self._framed(new), inverse(order))

    def _framed(self, x: Node) -> Node:
        """An image, or most of one, of which what is padded is stored."""
        if x.op == "slice" and x.inputs[0].op == "pad" and x.inputs[0].type.size <= 2 * x.type.size:
            return with_inputs(x, (self._framed(x.inputs[0]),))
        if x.op != "pad":
            return x
        if x not in self.padded:
            self.padded[x] = opdef("alias")(x)
        return self.padded[x]

    def _moved(self, x: Node, perm: Order) -> Node:
        """transpose(x), written without a transposition where x is movement itself."""
        if perm == _plain(x):
            return x
        key = (x, perm)
        if key not in self.known:
            self.known[key] = self._transposed(x, perm)
        return self.known[key]

    def _transposed(self, x: Node, perm: Order) -> Node:
        if x.op == "transpose":
            return self._moved(x.inputs[0], tuple([x.attrs["perm"][k] for k in perm]))
        if x.op == "broadcast":
            axes = [perm.index(a) for a in x.attrs["axes"]]
            small = self._moved(x.inputs[0], tuple(sorted(range(len(axes)), key=axes.__getitem__)))
            return broadcast(small, shape=tuple([x.shape[a] for a in perm]), axes=tuple(sorted(axes)))
        return transpose(x, perm=perm)

    def order(self, node: Node) -> Order | None:
        """The order of an image, None for everything else."""
        mine = self.new[node][1]
        return None if mine == _plain(node) else mine

    def home(self, rank: int) -> Order:
        """The order of images of that many axes."""
        return (*[a for a in range(rank) if a != self.last], self.last)

    def visit(self, node: Node) -> None:
        rule = _RULES.get(node.op)
        if rule is None and node.inputs and opdef(node.op).kind == "elementwise":
            rule = _elementwise
        made = rule(self, node) if rule is not None else None
        if made is None:
            made = with_inputs(node, tuple([self.at(i, _plain(i)) for i in node.inputs])), _plain(node)
        if made[1] == _plain(node) and (node in self.read or node in self.framed):
            home = self.home(node.type.rank)
            moved = self._moved(made[0], home)
            copied = node in self.read and moved.op == "transpose"  # padding copies anyway
            made = opdef("alias")(moved) if copied else moved, home
        self.new[node] = made


Made = tuple[Node, Order] | None


def _elementwise(im: _Images, node: Node) -> Made:
    """As its first image lies."""
    order = next((o for i in node.inputs if i.op != "broadcast" and (o := im.order(i)) is not None), None)
    if order is None:
        return None
    return opdef(node.op)(*[im.at(i, order) for i in node.inputs], **node.attrs), order


def _conv(im: _Images, node: Node) -> Made:
    """A layer's result lies as images do, whatever its operands lie like: it reads them where they are."""
    result = opdef("conv_general")(*[im.stored(i) for i in node.inputs], **node.attrs)
    if node not in im.layers:
        return result, _plain(node)
    home = im.home(node.type.rank)
    return transpose(result, perm=home), home


def _transpose(im: _Images, node: Node) -> Made:
    """Another name for the axes."""
    (x,) = node.inputs
    order, perm = im.order(x), inverse(node.attrs["perm"])
    return None if order is None else (im.new[x][0], tuple([perm[a] for a in order]))


def _by_axis(*names: str) -> Callable[[_Images, Node], Made]:
    """Ops whose attrs `names` have an entry per axis."""

    def rule(im: _Images, node: Node) -> Made:
        x, *others = node.inputs
        order = im.order(x)
        if order is None:
            return None
        attrs = {k: tuple([node.attrs[k][a] for a in order]) for k in names}
        return opdef(node.op)(im.new[x][0], *[im.at(i, _plain(i)) for i in others], **attrs), order

    return rule


def _concat(im: _Images, node: Node) -> Made:
    order = next((o for i in node.inputs if (o := im.order(i)) is not None), None)
    if order is None:
        return None
    return opdef("concat")(*[im.at(i, order) for i in node.inputs], axis=order.index(node.attrs["axis"])), order


def _reverse(im: _Images, node: Node) -> Made:
    order = im.order(node.inputs[0])
    if order is None:
        return None
    axes = tuple(sorted([order.index(a) for a in node.attrs["axes"]]))
    return opdef("reverse")(im.new[node.inputs[0]][0], axes=axes), order


def _reduce(im: _Images, node: Node) -> Made:
    """The axes that are left keep their order."""
    (x,) = node.inputs
    order = im.order(x)
    if order is None:
        return None
    axes = node.attrs["axes"]
    kept = [a for a in range(x.type.rank) if a not in axes]
    result = opdef(node.op)(im.new[x][0], axes=tuple(sorted([order.index(a) for a in axes])))
    return result, tuple([kept.index(a) for a in order if a not in axes])


def _reshape(im: _Images, node: Node) -> Made:
    """Axes are split in their place; axes are merged where they are neighbours."""
    (x,) = node.inputs
    order = im.order(x)
    if order is None or not node.type.size:
        return None
    groups = _groups(x.shape, node.shape)
    real = tuple([a for a in order if x.shape[a] != 1])
    result = [k for k, n in enumerate(node.shape) if n == 1]
    at = 0
    while at < len(real):
        old, new = next(g for g in groups if real[at] in g[0])
        if real[at : at + len(old)] != old:
            return None
        result += new
        at += len(old)
    return reshaped(im.new[x][0], tuple([node.shape[a] for a in result])), tuple(result)


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[Order, Order]]:
    """Runs of axes of two shapes that hold the same elements; axes of size 1 belong to none."""
    olds, news = ([k for k, n in enumerate(shape) if n != 1] for shape in (old, new))
    groups: list[tuple[Order, Order]] = []
    while olds:
        first, second = [olds.pop(0)], [news.pop(0)]
        while (p := prod([old[k] for k in first])) != (q := prod([new[k] for k in second])):
            if p < q:
                first.append(olds.pop(0))
            else:
                second.append(news.pop(0))
        groups.append((tuple(first), tuple(second)))
    return groups


def _window_attrs(order: Order, lead: int, shape: Sequence[int], attrs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Attrs of a window op on an image: axes that now stand behind the windows' get windows of one element.

    shape: what `sizes` says of those axes. None when the windows' axes stand in another order or apart.
    """
    windows = [k for k, a in enumerate(order) if a >= lead]
    if [order[k] for k in windows] != list(range(lead, len(order))) or windows != list(range(windows[0], windows[-1] + 1)):
        return None
    neutral = {"window": 1, "strides": 1, "dilation": 1, "padding": (0, 0)}
    result: dict[str, Any] = {}
    for name, values in attrs.items():
        result[name] = tuple([values[a - lead] if a >= lead else neutral.get(name, shape[a]) for a in order[windows[0] :]])
    return result


def _window(im: _Images, node: Node) -> Made:
    (x,) = node.inputs
    order = im.order(x)
    lead = x.type.rank - len(node.attrs["window"])
    attrs = _window_attrs(order, lead, x.shape, node.attrs) if order is not None and lead < x.type.rank else None
    if order is None or attrs is None:
        return None
    result = opdef(node.op)(im.new[x][0], **attrs)
    if node.op == "window_argmax":
        im.positions[node] = result
        behind = prod([x.shape[a] for a in order[order.index(x.type.rank - 1) + 1 :]])
        result = floordiv(result, full(result.shape, behind, result.dtype))
    return result, order


def _unpool(im: _Images, node: Node) -> Made:
    """Cotangents are put where the positions, which count the axes behind the windows' too, lie."""
    x, found = node.inputs
    raw = im.positions.get(found)
    if raw is None:
        return None
    order = im.new[found][1]
    attrs = _window_attrs(order, x.type.rank - len(node.attrs["window"]), node.shape, node.attrs)
    return None if attrs is None else (opdef("unpool")(im.at(x, order), raw, **attrs), order)


_RULES: dict[str, Callable[[_Images, Node], Made]] = {
    "conv_general": _conv,
    "transpose": _transpose,
    "pad": _by_axis("low", "high", "interior"),
    "slice": _by_axis("start", "stop", "step"),
    "reverse": _reverse,
    "concat": _concat,
    "reshape": _reshape,
    "reduce_window_sum": _window,
    "reduce_window_max": _window,
    "window_argmax": _window,
    "unpool": _unpool,
    **dict.fromkeys(REDUCTIONS, _reduce),
}

__all__ = ["layout"]
