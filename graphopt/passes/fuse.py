"""Fusion: which nodes are computed together in one kernel.

A group is one of

    loops        elementwise nodes and reductions over one iteration space `full`. Nodes are either FULL (one value per
                 point) or ROW (one value per point of the kept axes: reductions over `axes`, and what is computed from
                 them). Softmax, normalisation, cross-entropy, optimizer updates are each one such group.
    contraction  one sum of products, with the elementwise nodes that follow it point by point
    kernel       one op that brings its own loop nests
    region       a branch or loop with the items that are its results; its graphs are fused by themselves
    join         values side by side (an alias of a concat), or one in a frame (an alias of a pad); who computes them stores
                 them there, if possible

A loops group also feeds `sinks`: reductions over any other axes. Its space is cut into `slices`, as many as its shape
says, each slice leaves a partial result, and the group that `finishes` the sink reduces those. So a normalisation's
rows, the sums over columns that its parameters' gradients are, and the loss come from one pass over memory.

Pure movement (broadcast, transpose, slice, pad ...) is not computed at all: whoever reads through it computes the index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from graphopt.ir.graph import Graph, Node, users, walk
from graphopt.opdefs.opdef import opdef
from graphopt.passes import cut
from graphopt.passes.materialise import INLINE, LEAVES, computed_for, framed

_MOST_NODES = 128  # per group: keeps LLVM's register allocation near linear and expression trees shallow


@dataclass(eq=False)
class Group:
    """Nodes computed by one kernel (two when a long sum is split); see the module's docstring.

    sinks:    reductions of which this group computes `slices` partial results each; they are nodes of other groups.
    finishes: reductions of this group that are sinks of another one. The first axis of `full` counts its slices.
    """

    number: int
    kind: str
    full: tuple[int, ...]
    axes: tuple[int, ...] | None = None
    nodes: list[Node] = field(default_factory=list)
    rows: set[Node] = field(default_factory=set)
    result: Node | None = None
    stores: tuple[Node, ...] = ()
    sinks: list[Node] = field(default_factory=list)
    slices: int = 0
    finishes: dict[Node, Group] = field(default_factory=dict)

    @property
    def members(self) -> list[Node]:
        """What reads operands here: the nodes, but for sinks that only end here, and the group's own sinks."""
        return [n for n in self.nodes if n not in self.finishes] + self.sinks

    def levels(self) -> dict[Node, int]:
        """How many reductions of this group a value waits for: stage k computes FULL values of level k."""
        level: dict[Node, int] = {}
        for n in self.nodes:
            inner = [i.inputs[0] if i.op == "broadcast" and i.inputs[0] in level else i for i in n.inputs]
            depth = max((level[i] for i in inner if i in level), default=0) if n not in self.finishes else 0
            level[n] = depth + (self.kind == "loops" and opdef(n.op).kind == "reduction")
        return level

    @property
    def kept(self) -> tuple[int, ...]:
        """The shape of ROW values."""
        return tuple(n for k, n in enumerate(self.full) if k not in (self.axes or ()))


def _same_point(row: bool, source_row: bool, how: str, along_row: bool) -> bool:
    """Is what a FULL (or ROW) value reads known where it is computed? `along_row`: it is spread along the reduced axes."""
    return how == "point" and row == source_row or how == "row" and source_row and not row and along_row


class _Fusion:
    def __init__(self, graph: Graph, twins: frozenset[Node]):
        self.twins = twins
        self.order = walk(graph.roots)
        self.users = users(self.order)
        self.roots = set(graph.roots)
        self.groups: list[Group] = []
        self.of: dict[Node, Group] = {}
        self.before: list[int] = []
        self.alive: list[bool] = []
        self._reach: dict[Node, tuple[Node, ...]] = {}
        self.floating: set[Node] = set()
        self.framed: set[Node] = set()

    # sources

    def computed(self, node: Node) -> bool:
        return node in self.of

    def reached(self, node: Node) -> tuple[Node, ...]:
        """Computed nodes behind inline movement."""
        if node in self.of:
            return (node,)
        if node.op in LEAVES:
            return ()
        if node not in self._reach:
            found: dict[Node, None] = {}
            for i in node.inputs:
                found.update(dict.fromkeys(self.reached(i)))
            self._reach[node] = tuple(found)
        return self._reach[node]

    def sources(self, node: Node) -> list[tuple[Node, str, tuple[int, ...]]]:
        """(computed node, how it is read, axes along which it is spread) for every operand."""
        result: list[tuple[Node, str, tuple[int, ...]]] = []
        pointwise = opdef(node.op).kind in ("elementwise", "reduction")
        for i in node.inputs:
            if pointwise and i in self.of:
                result.append((i, "point", ()))
            elif pointwise and i in self.floating:
                result.extend(self.sources(i))
            elif pointwise and i.op == "broadcast" and i.inputs[0] in self.of:
                spread = tuple(k for k in range(len(i.shape)) if k not in i.attrs["axes"])
                result.append((i.inputs[0], "row", spread))
            else:
                result.extend((s, "other", ()) for s in self.reached(i))
        return result

    # groups

    def new(self, kind: str, full: tuple[int, ...], axes: tuple[int, ...] | None = None) -> Group:
        group = Group(len(self.groups), kind, full, axes)
        self.groups.append(group)
        self.before.append(0)
        self.alive.append(True)
        return group

    def place(self, node: Node, group: Group, row: bool = False) -> None:
        group.nodes.append(node)
        self.of[node] = group
        if row:
            group.rows.add(node)
        self._reads(node, group)

    def _reads(self, node: Node, group: Group) -> None:
        """The group comes after whatever the node reads from others."""
        add = 0
        for source, _, _ in self.sources(node):
            g = self.of[source]
            if g is not group:
                add |= 1 << g.number | self.before[g.number]
        if add & ~self.before[group.number]:
            self._after(group.number, add)

    def _after(self, number: int, add: int) -> None:
        self.before[number] |= add
        bit = 1 << number
        for k, b in enumerate(self.before):
            if b & bit:
                self.before[k] = b | self.before[number]

    def fits(self, node: Node, group: Group) -> str | None:
        """How `node` can join: "full" or "row"; None when it cannot."""
        if len(group.nodes) >= _MOST_NODES or group.kind in ("region", "join"):
            return None
        bit = 1 << group.number
        sources = self.sources(node)
        for source, _, _ in sources:
            g = self.of[source]
            if g is not group and self.before[g.number] & bit:
                return None
        inside = [(s, how, spread) for s, how, spread in sources if self.of[s] is group]
        if any(how == "other" for _, how, _ in inside):
            return None
        if group.kind == "contraction":
            return "full" if node.shape == group.full and all(how == "point" for _, how, _ in inside) else None
        for row, shape in ((False, group.full), (True, group.kept if group.axes else None)):
            if node.shape == shape and all(
                _same_point(row, s in group.rows, how, spread == group.axes) for s, how, spread in inside
            ):
                return "row" if row else "full"
        return None

    def merge(self, a: Group, b: Group) -> bool:
        """Make one group of two with the same space, when no third group stands between them."""
        if a is b or a.kind != "loops" or b.kind != "loops" or a.full != b.full:
            return False
        if a.axes is not None and b.axes is not None and a.axes != b.axes:
            return False
        if len(a.nodes) + len(b.nodes) > _MOST_NODES:
            return False
        axes = a.axes or b.axes
        if not (self._reads_at_its_point(a, b, axes) and self._reads_at_its_point(b, a, axes)):
            return False
        bits = 1 << a.number | 1 << b.number
        both = (self.before[a.number] | self.before[b.number]) & ~bits
        if any(self.before[k] & bits and both >> k & 1 for k in range(len(self.groups)) if self.alive[k]):
            return False
        if bool(a.axes) != bool(b.axes) and not cut.shares(a.full, axes or ()):
            return False
        many = a.slices or b.slices
        if b.slices not in (0, many) or not cut.sliceable(a.full, axes, a.sinks + b.sinks, many):
            return False
        order = {n: k for k, n in enumerate(self.order)}
        a.axes = axes
        a.nodes = sorted(a.nodes + b.nodes, key=order.__getitem__)
        a.rows |= b.rows
        a.sinks += b.sinks
        a.slices = a.slices or b.slices
        a.finishes |= b.finishes
        for n in b.nodes:
            self.of[n] = a
        for n in b.sinks:
            self.of[n].finishes[n] = a
        self.alive[b.number] = False
        old, new = 1 << b.number, 1 << a.number
        self.before = [x & ~old | new if x & old else x for x in self.before]
        self.before[a.number] &= ~new
        self._after(a.number, both)
        return True

    def _reads_at_its_point(self, reader: Group, other: Group, axes: tuple[int, ...] | None) -> bool:
        """Could all that `reader` reads of `other` be read in one pass over both?"""
        if other in reader.finishes.values():
            return False
        for n in reader.members:
            row = n in reader.rows and opdef(n.op).kind != "reduction"
            for source, how, spread in self.sources(n):
                if self.of[source] is other and not _same_point(row, source in other.rows, how, spread == axes):
                    return False
        return True

    def siblings(self) -> None:
        """Merge groups over one space that read the same values, or reduce what the slices of one group left."""
        readers: dict[tuple[tuple[int, ...], Node | Group], Group] = {}
        for group in self.groups:
            if group.kind != "loops" or not self.alive[group.number]:
                continue
            shared: dict[Node | Group, None] = dict.fromkeys(group.finishes.values())
            for n in group.members:
                shared.update(dict.fromkeys(i for i in n.inputs if i.shape == group.full and i.op not in INLINE))
            for key in shared:
                first = readers.setdefault((group.full, key), group)
                if first is not group and self.alive[first.number] and self.merge(first, group):
                    break

    # nodes

    def add(self, node: Node) -> None:
        d = opdef(node.op)
        if node.op == "alias" and self._joins(node):
            self._land(node, pull=False)
            self.place(node, self.new("join", node.shape))
            return
        if node.op == "item":
            group = self.of[node.inputs[0]]
            group.nodes.append(node)
            self.of[node] = group
            return
        if self._floats(node):
            self.floating.add(node)
            return
        self._land(node, pull=d.kind == "elementwise")
        if d.kind == "contraction":
            self._contraction(node)
        elif d.kind in ("kernel", "region"):
            self.place(node, self.new(d.kind, node.shape))
        elif d.kind == "reduction":
            self._reduction(node)
        else:
            self._pointwise(node)

    def _joins(self, node: Node) -> bool:
        """May the parts of an alias be stored in their places at once? A value lies in one frame only."""
        (whole,) = node.inputs
        if whole.op == "concat":
            return computed_for(whole, self.users, self.roots)
        value = framed(node, self.users, self.roots)
        if value is None or value in self.framed:
            return False
        self.framed.add(value)
        return True

    def _floats(self, node: Node) -> bool:
        """A twin, or computed from leaves alone and used once: such a node waits, to be computed where it is used."""
        if node in self.twins:
            return True
        if opdef(node.op).kind != "elementwise" or node in self.roots or len(self.users[node]) != 1:
            return False
        return all(i in self.floating or i.op in LEAVES or (i.op in INLINE and not self._reaches_work(i)) for i in node.inputs)

    def _reaches_work(self, node: Node) -> bool:
        """Is anything computed behind inline movement?"""
        stack = [node]
        while stack:
            n = stack.pop()
            if n in self.of or n in self.floating:
                return True
            if n.op in INLINE:
                stack.extend(n.inputs)
        return False

    def _land(self, node: Node, pull: bool) -> None:
        """Place the floating nodes that `node` does not take along into its own group."""
        for i in node.inputs:
            if i in self.floating:
                if not (pull and i.shape == node.shape):
                    self._place_floating(i, self.new("loops", i.shape), False)
            elif i.op in INLINE:
                self._land(i, pull=False)

    def _place_floating(self, node: Node, group: Group, row: bool) -> None:
        """A floating node, after the floating nodes it needs."""
        if node not in self.floating:
            return
        self.floating.discard(node)
        for i in node.inputs:
            self._place_floating(i, group, row)
        self.place(node, group, row)

    def _contraction(self, node: Node) -> None:
        following = self.users[node]
        result = node
        if len(following) == 1 and following[0].op == "transpose" and node not in self.roots:
            if [u.op for u in self.users[following[0]]] == ["alias"]:
                result = following[0]
        group = self.new("contraction", result.shape)
        group.result = result
        self.place(node, group)
        if result is not node:
            self.of[result] = group
            group.nodes.append(result)

    def _reduction(self, node: Node) -> None:
        operand, axes = node.inputs[0], tuple(node.attrs["axes"])
        group = self.of.get(operand)
        if group is None or group.kind != "loops" or operand in group.rows or operand.shape != group.full:
            group = None
        alone = not cut.shares(operand.shape, axes) or self._long_columns(node)
        fits = group is None or group.axes in (None, axes) and cut.sliceable(group.full, axes, group.sinks, group.slices)
        if group is not None and fits and not alone:
            group.axes = axes
            self.place(node, group, row=True)
        elif group is None and not alone or not self._sink(node, group):
            self.place(node, self.new("loops", operand.shape, axes), row=True)

    def _long_columns(self, node: Node) -> bool:
        """Are columns reduced that are long, and either too few for a team or awaited by nothing in the same space?"""
        shape, axes = node.inputs[0].shape, node.attrs["axes"]
        length = prod([shape[k] for k in axes])
        if length < cut.LONG_COLUMN or length * node.type.size <= cut.SMALL_ELEMS or cut.innermost(shape) in axes:
            return False
        if node.type.size < cut.FEW_COLUMNS:
            return True
        stack, seen = [node], {node}
        while stack:
            for user in self.users[stack.pop()]:
                if user.op == "broadcast" and user.shape == shape:
                    return False
                if user not in seen and user.shape == node.shape and opdef(user.op).kind == "elementwise":
                    seen.add(user)
                    stack.append(user)
        return True

    def _sink(self, node: Node, group: Group | None) -> bool:
        """Let the operand's group, or one that only reads it, leave partial results; another group reduces those."""
        operand = node.inputs[0]
        rows = group.axes if group is not None else None
        many = group.slices if group is not None and group.slices else cut.slices(operand.shape, rows, node)
        if not many or not cut.sliceable(operand.shape, rows, [node], many):
            return False
        group = group or self.new("loops", operand.shape)
        full = (many, *node.shape)
        others = [self.of[s] for s in group.sinks]
        finish = next((g for g in others if g.full == full and len(g.nodes) < _MOST_NODES), None)
        finish = finish or self.new("loops", full, (0,))
        finish.finishes[node] = group
        group.slices = many
        group.sinks.append(node)
        self._reads(node, group)
        self.place(node, finish, row=True)
        self._after(finish.number, 1 << group.number | self.before[group.number])
        return True

    def _pointwise(self, node: Node) -> None:
        candidates: dict[int, Group] = {}
        for source, how, _ in self.sources(node):
            if how != "other":
                g = self.of[source]
                candidates[g.number] = g
        open_to = [g for g in candidates.values() if g.kind in ("loops", "contraction")]
        fitting = [(g, fit) for g in open_to if (fit := self.fits(node, g))]
        if not fitting:
            self._place_with_floating(node, self.new("loops", node.shape), False)
            return
        loops = [g for g, how in fitting if g.kind == "loops" and how == "full"]
        for other in loops[1:]:
            if self.merge(loops[0], other):
                candidates.pop(other.number)
        fitting = [(g, how) for g, how in fitting if self.alive[g.number] and self.fits(node, g) == how]
        if not fitting:
            self._place_with_floating(node, self.new("loops", node.shape), False)
            return
        group, how = max(fitting, key=lambda f: (f[0].kind == "contraction", f[0].number))
        self._place_with_floating(node, group, how == "row")

    def _place_with_floating(self, node: Node, group: Group, row: bool) -> None:
        for i in node.inputs:
            self._place_floating(i, group, row)
        self.place(node, group, row)

    def finish(self) -> list[Group]:
        """Which values must be in memory: roots, and what is read by another group or at another point."""
        needed: set[Node] = set(self.roots)
        for node in self.order:
            group = self.of.get(node)
            if group is None:
                continue
            group = group.finishes.get(node, group)
            for source, how, _ in self.sources(node):
                if self.of[source] is not group or how == "other":
                    needed.add(source)
        for group in self.groups:
            group.stores = tuple(n for n in group.nodes if n in needed and (group.result is None or n is not _hidden(group)))
        return [g for g, alive in zip(self.groups, self.alive, strict=True) if alive]


def _hidden(group: Group) -> Node | None:
    """The contraction under a transposed result: never stored itself."""
    return group.nodes[0] if group.result is not group.nodes[0] else None


def fuse(graph: Graph, twins: frozenset[Node] = frozenset()) -> list[Group]:
    """The groups of a materialised graph; none needs itself through others, `order` puts each after what it reads.

    twins: elementwise nodes that belong to the group of their user, not to one whose values they read.
    Cost: near linear; a bitset per group answers whether a node may join without making a cycle.
    """
    fusion = _Fusion(graph, twins)
    for node in fusion.order:
        if node.op not in INLINE and node.op not in LEAVES and node not in fusion.of:
            fusion.add(node)
    fusion.siblings()
    return fusion.finish()


def show_groups(groups: Sequence[Group], names: dict[Node, str]) -> str:
    """The groups as text: kind, space, nodes in order; `*` marks what is stored."""
    lines: list[str] = []
    for g in groups:
        space = f"{list(g.full)}" + (f" over axes {list(g.axes)}" if g.axes else "")
        lines.append(f"group {g.number} {g.kind} {space}:")
        for n in g.nodes:
            mark = "*" if n in g.stores else " "
            operands = ", ".join(names.get(i, i.op) for i in n.inputs)
            lines.append(f"  {mark} {names.get(n, '?')}: {n.type} = {n.op}({operands}){'  # ' + str(n.where) if n.where else ''}")
        if g.sinks:
            lines.append(f"    in {g.slices} slices for {', '.join(names.get(n, '?') for n in g.sinks)}")
    return "\n".join(lines)


__all__ = ["Group", "fuse", "show_groups"]
