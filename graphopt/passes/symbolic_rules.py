"""How a symbolic axis goes through each op: where the rows of a smaller size lie in what is computed at capacity.

An axis of size k in a graph traced for `capacity` rows is symbolic when it has another size in the graph for `n` rows.
It then lies in blocks of `m * capacity` places, of which the first `m * n` are valid and hold what the smaller graph
has there; everything behind them is of no account, and may be NaN. Axes are described by the number m for each: 0 for
an axis that is not symbolic, `ANY` for one whose places are all alike in what counts, so that any blocks will do.

A rule gives the axes of a node's result from those of its inputs, and asks for masks where places that do not count
would come together with ones that do. An op without a rule, or one whose rule refuses, makes its graph `Unfit`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from graphopt.ir.graph import Node
from graphopt.opdefs.linalg import free_axes
from graphopt.opdefs.opdef import opdef

Axes = tuple[int, ...]
ANY = -1


class Unfit(Exception):
    """A graph cannot serve several sizes, and why; `node` is the one that prevents it."""

    def __init__(self, reason: str, node: Node | None = None):
        place = f" at {node.where}" if node is not None and node.where is not None else ""
        super().__init__(f"{reason}{place}")


@dataclass(frozen=True)
class Mask:
    """Places of an operand that do not count shall hold `fill`: (axis, m) of the axes it concerns.

    wraps: the operand holds indices into an axis that is symbolic itself, of (m,) rows: negative ones count from the end
           of the valid rows, and what is outside of them becomes `fill`.
    """

    fill: Any
    axes: tuple[tuple[int, int], ...]
    wraps: int = 0


@dataclass
class Use:
    """A node whose axes are sought: those of its inputs, and which of its own have another size at another number of rows."""

    node: Node
    axes: tuple[Axes, ...]
    free: tuple[bool, ...]
    capacity: int
    masks: dict[int, Mask] = field(default_factory=dict)

    def resolved(self, m: int, size: int) -> int:
        """The number for an axis, all of it one block where any will do."""
        return size // self.capacity if m == ANY else m

    def whole(self, m: int, size: int) -> bool:
        """Whether the valid places of an axis are its first ones."""
        return m == ANY or m * self.capacity == size

    def joined(self, *ms: int) -> int:
        """One number for axes that lie on each other."""
        known = {m for m in ms if m != ANY}
        if len(known) > 1:
            raise self.refused("joins axes whose rows lie in different places")
        return known.pop() if known else ANY

    def mask(self, k: int, axes: Sequence[tuple[int, int]], fill: Any) -> None:
        """Ask for a mask on input k, on those of `axes`, (axis, m), that are symbolic."""
        shape = self.node.inputs[k].shape
        chosen = tuple((axis, self.resolved(m, shape[axis])) for axis, m in axes if m)
        if chosen:
            self.masks[k] = Mask(fill, chosen)

    def refused(self, why: str) -> Unfit:
        return Unfit(f"{self.node.op} {why}", self.node)


Rule = Callable[[Use], Axes]
RULES: dict[str, Rule] = {}


def axes_of(use: Use) -> Axes:
    """The axes of a node's result; `use.masks` is what it asks for.

    Errors: Unfit.
    """
    kind = opdef(use.node.op).kind
    rule = RULES.get(use.node.op, _KINDS.get(kind))
    if rule is None:
        if any(map(any, use.axes)) or any(use.free):
            raise use.refused("has no rule for rows whose number changes")
        return (0,) * len(use.free)
    found = rule(use)
    if tuple(map(bool, found)) != use.free:
        raise use.refused("changes its shape with the number of rows in a way that is not understood")
    return found


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def declare(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return declare


def _elementwise(use: Use) -> Axes:
    return tuple(use.joined(*ms) for ms in zip(*use.axes, strict=True))


def _reduction(use: Use) -> Axes:
    (axes,) = use.axes
    x = use.node.inputs[0]
    gone = use.node.attrs["axes"]
    use.mask(0, [(k, axes[k]) for k in gone], opdef(use.node.op).rules["initial"](x.dtype))
    return tuple(m for k, m in enumerate(axes) if k not in gone)


_KINDS: dict[str, Rule] = {"elementwise": _elementwise, "reduction": _reduction}


@_rule("broadcast")
def _(use: Use) -> Axes:
    made = [ANY if free else 0 for free in use.free]
    for axis, m in zip(use.node.attrs["axes"], use.axes[0], strict=True):
        made[axis] = m
    return tuple(made)


@_rule("transpose")
def _(use: Use) -> Axes:
    return tuple(use.axes[0][k] for k in use.node.attrs["perm"])


@_rule("reshape")
def _(use: Use) -> Axes:
    """Axes are split and merged in groups; in each, one may be symbolic."""
    before, after = use.node.inputs[0].shape, use.node.shape
    made = [0] * len(after)
    i = k = 0
    while i < len(before) or k < len(after):
        j, end = i + 1, k + 1
        while prod(before[i:j]) != prod(after[k:end]) or not _balanced(use, (i, j), (k, end)):
            if j >= len(before) and end >= len(after):
                raise use.refused("splits or merges an axis whose size changes with the number of rows")
            if (prod(before[i:j]) <= prod(after[k:end]) and j < len(before)) or end >= len(after):
                j += 1
            else:
                end += 1
        _regroup(use, (i, j), (k, end), made)
        i, k = min(j, len(before)), min(end, len(after))
    return tuple(made)


def _balanced(use: Use, old: tuple[int, int], new: tuple[int, int]) -> bool:
    """Whether as many axes are symbolic in a group of the input's axes as in one of the result's."""
    return sum(map(bool, use.axes[0][old[0] : old[1]])) == sum(use.free[new[0] : new[1]])


def _regroup(use: Use, old: tuple[int, int], new: tuple[int, int], made: list[int]) -> None:
    before, after = use.node.inputs[0].shape, use.node.shape
    sources = [k for k in range(old[0], min(old[1], len(before))) if use.axes[0][k]]
    targets = [k for k in range(new[0], min(new[1], len(after))) if use.free[k]]
    if not sources and not targets:
        return
    if len(sources) != 1 or len(targets) != 1:
        raise use.refused("merges or splits several axes whose sizes change with the number of rows")
    axis, target = sources[0], targets[0]
    rest = prod(before[axis + 1 : old[1]])
    later = prod(after[target + 1 : new[1]])
    m = use.axes[0][axis]
    if m == ANY and rest == later and before[axis] == after[target]:
        made[target] = ANY
        return
    block = use.resolved(m, before[axis]) * rest
    if block % later or after[target] % (block // later * use.capacity):
        raise use.refused("cuts the rows, whose number changes")
    made[target] = block // later


@_rule("slice")
def _(use: Use) -> Axes:
    """Whole blocks stay; rows with fixed numbers are rows that the smaller sizes have as well."""
    a, x = use.node.attrs, use.node.inputs[0]
    made = []
    for k, m in enumerate(use.axes[0]):
        if not m:
            made.append(0)
        elif use.free[k]:
            block = use.resolved(m, x.shape[k]) * use.capacity
            if a["step"][k] != 1 or a["start"][k] % block or a["stop"][k] % block:
                raise use.refused("takes a part of the rows that depends on their number")
            made.append(use.resolved(m, x.shape[k]))
        else:
            if not use.whole(m, x.shape[k]):
                raise use.refused("takes rows of an axis that others are merged into")
            made.append(0)
    return tuple(made)


@_rule("pad")
def _(use: Use) -> Axes:
    """Rows get whole blocks of others beside them, or are of a fixed number and get as many behind them as there is room."""
    a, x, made = use.node.attrs, use.node.inputs[0], []
    for k, m in enumerate(use.axes[0]):
        low, high = a["low"][k], a["high"][k]
        if m and (low or high or a["interior"][k]):
            block = (m := use.resolved(m, x.shape[k])) * use.capacity
            if low % block or high % block or low < 0 or high < 0 or a["interior"][k]:
                raise use.refused("adds to the rows, whose number changes")
        elif not m and use.free[k]:
            if low < 0 or high < 0:
                raise use.refused("cuts the rows, whose number changes")
            m = use.node.shape[k] // use.capacity
        made.append(m)
    return tuple(made)


@_rule("concat")
def _(use: Use) -> Axes:
    axis = use.node.attrs["axis"]
    made = [use.joined(*ms) if k != axis else 0 for k, ms in enumerate(zip(*use.axes, strict=True))]
    own = [axes[axis] for axes in use.axes]
    if any(own):
        if not all(own):
            raise use.refused("puts rows whose number changes beside others")
        sizes = [x.shape[axis] for x in use.node.inputs]
        made[axis] = use.joined(*[use.resolved(m, size) for m, size in zip(own, sizes, strict=True)])
    return tuple(made)


@_rule("reverse")
def _(use: Use) -> Axes:
    if any(use.axes[0][k] for k in use.node.attrs["axes"]):
        raise use.refused("turns round the rows, whose number changes")
    return use.axes[0]


@_rule("iota")
def _(use: Use) -> Axes:
    axis, shape = use.node.attrs["axis"], use.node.shape
    return tuple((shape[k] // use.capacity if k == axis else ANY) if free else 0 for k, free in enumerate(use.free))


@_rule("random_bits")
def _(use: Use) -> Axes:
    """The numbers are those of the elements in their order, so only the first axis may grow."""
    lead = use.node.inputs[0].type.rank - 1
    made = list(use.axes[0][:lead])
    for k in range(lead, len(use.free)):
        if use.free[k] and prod(use.node.shape[lead:k]) != 1:
            raise use.refused("would draw other numbers: its rows do not come first")
        made.append(use.node.shape[k] // use.capacity if use.free[k] else 0)
    return tuple(made)


@_rule("dot_general")
def _(use: Use) -> Axes:
    """What is summed over is masked on both sides: zero times NaN is NaN."""
    a, b = use.axes
    contract, batch = use.node.attrs["contract"], use.node.attrs["batch"]
    shared = [use.joined(a[i], b[j]) for i, j in zip(*contract, strict=True)]
    sizes = [use.node.inputs[0].shape[i] for i in contract[0]]
    shared = [use.resolved(m, size) for m, size in zip(shared, sizes, strict=True)]
    for k in (0, 1):
        use.mask(k, list(zip(contract[k], shared, strict=True)), 0)
    made = [use.joined(a[i], b[j]) for i, j in zip(*batch, strict=True)]
    made += [a[k] for k in free_axes(len(a), contract[0], batch[0])]
    return (*made, *[b[k] for k in free_axes(len(b), contract[1], batch[1])])


@_rule("conv_general")
def _(use: Use) -> Axes:
    x, w = use.axes
    if any(x[2:]) or any(w[2:]):
        raise use.refused("moves a window over the rows, whose number changes")
    if x[1] or w[1]:
        shared = use.resolved(use.joined(x[1], w[1]), use.node.inputs[1].shape[1])
        use.mask(0, [(1, shared)], 0)
        use.mask(1, [(1, shared)], 0)
    return (x[0], w[0], *[0] * (len(x) - 2))


@_rule("reduce_window_sum", "reduce_window_max", "window_argmax")
def _(use: Use) -> Axes:
    lead = len(use.axes[0]) - len(use.node.attrs["window"])
    if any(use.axes[0][lead:]):
        raise use.refused("moves a window over the rows, whose number changes")
    return use.axes[0]


@_rule("unpool")
def _(use: Use) -> Axes:
    made = _elementwise(use)
    if any(made[len(made) - len(use.node.attrs["window"]) :]):
        raise use.refused("moves a window over the rows, whose number changes")
    return made


@_rule("definite_inverse")
def _(use: Use) -> Axes:
    if any(use.axes[0][-2:]):
        raise use.refused("inverts a matrix whose size is the number of rows")
    return use.axes[0]


def _outside(use: Use, k: int, size: int, m: int = 0) -> None:
    """Indices (input k) that do not count shall be out of range of an axis of `size`, symbolic itself when m is not 0."""
    x = use.node.inputs[k]
    axes = tuple((axis, use.resolved(a, x.shape[axis])) for axis, a in enumerate(use.axes[k]) if a)
    if not axes and not m:
        return
    last = int(np.iinfo(x.dtype.numpy).max)
    if last < size:
        raise use.refused(f"has indices of {x.dtype.short}, which cannot say that one is not valid")
    if m and not use.whole(m, size):
        raise use.refused("looks up rows of an axis that others are merged into")
    use.masks[k] = Mask(last, axes, use.resolved(m, size) if m else 0)


@_rule("gather")
def _(use: Use) -> Axes:
    return _gathered(use, use.node.attrs["axis"])


@_rule("gather_rows")
def _(use: Use) -> Axes:
    return _gathered(use, 0)


def _gathered(use: Use, axis: int) -> Axes:
    """An index that is out of range reads 0."""
    x, indices = use.axes
    if x[axis]:
        _outside(use, 1, use.node.inputs[0].shape[axis], x[axis])
    return (*x[:axis], *indices, *x[axis + 1 :])


@_rule("scatter_add")
def _(use: Use) -> Axes:
    x, indices, updates = use.axes
    axis, rank = use.node.attrs["axis"], len(indices)
    _outside(use, 1, use.node.inputs[0].shape[axis], x[axis])
    for k in range(rank):
        use.joined(indices[k], updates[axis + k])
    others = zip((*x[:axis], *x[axis + 1 :]), (*updates[:axis], *updates[axis + rank :]), strict=True)
    made = [use.joined(a, b) for a, b in others]
    return (*made[:axis], x[axis], *made[axis:])


@_rule("take_along")
def _(use: Use) -> Axes:
    x, indices = use.axes
    axis = use.node.attrs["axis"]
    if x[axis]:
        _outside(use, 1, use.node.inputs[0].shape[axis], x[axis])
    return tuple(indices[k] if k == axis else use.joined(x[k], indices[k]) for k in range(len(x)))


@_rule("put_along_add")
def _(use: Use) -> Axes:
    x, indices, updates = use.axes
    axis = use.node.attrs["axis"]
    if x[axis] or indices[axis]:
        _outside(use, 1, use.node.inputs[0].shape[axis], x[axis])
        use.joined(indices[axis], updates[axis])
    return tuple(x[k] if k == axis else use.joined(x[k], indices[k], updates[k]) for k in range(len(x)))


@_rule("row_tensor")
def _(use: Use) -> Axes:
    indices, values = use.axes
    _outside(use, 0, use.node.shape[0])
    use.joined(indices[0], values[0])
    return (0, *values[1:])


@_rule("scatter_set")
def _(use: Use) -> Axes:
    x, indices, rows = use.axes
    _outside(use, 1, use.node.inputs[0].shape[0], x[0])
    use.joined(indices[0], rows[0])
    return (x[0], *[use.joined(a, b) for a, b in zip(x[1:], rows[1:], strict=True)])


@_rule("first_occurrence")
def _(use: Use) -> Axes:
    """One that does not count is out of range, so it is the first of nothing that does."""
    size = use.node.inputs[0].shape[0]
    if use.axes[0][0] and not use.whole(use.axes[0][0], size):
        raise use.refused("gives positions among rows that lie in several places")
    _outside(use, 0, use.node.attrs["size"])
    return use.axes[0]


__all__ = ["ANY", "Axes", "Mask", "Unfit", "Use", "axes_of"]
