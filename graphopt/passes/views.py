"""The algebra of movement, and of reductions and products of moved values.

Normal form: the input of a broadcast has no axis of size 1 and at least one axis is repeated; a movement that keeps
the order of elements is a reshape; nothing is moved twice where once does.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from graphopt.ir.graph import Node, with_inputs
from graphopt.ir.types import DType, f32
from graphopt.opdefs.bits import logical_and
from graphopt.opdefs.control import item
from graphopt.opdefs.elementwise import cast, ge, lt, neg
from graphopt.opdefs.linalg import dot_general, free_axes
from graphopt.opdefs.opdef import full, opdef
from graphopt.opdefs.shape import broadcast, concat, inverse, pad, reshape, reverse, slice_, transpose
from graphopt.passes.rewrite import number, rewrite, same_number

_MOST_PARTS = 64
REDUCTIONS = ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or")


def reshaped(x: Node, shape: tuple[int, ...]) -> Node:
    """x under another shape; x itself when it has it."""
    return x if x.shape == shape else reshape(x, shape=shape)


def without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple([n for n in shape if n != 1])


@rewrite("reshape")
def reshape_of_reshape(n: Node) -> Node | None:
    """reshape(reshape(x, s), t) = reshape(x, t); the identity vanishes."""
    (x,) = n.inputs
    if x.op == "reshape":
        return reshaped(x.inputs[0], n.shape)
    return x if x.shape == n.shape else None


@rewrite("reshape")
def reshape_of_broadcast(n: Node) -> Node | None:
    """A reshape that only inserts or removes axes of size 1 joins the broadcast below it; any joins a number's."""
    (b,) = n.inputs
    if b.op != "broadcast":
        return None
    (x,) = b.inputs
    if not x.shape:
        return broadcast(x, shape=n.shape, axes=())
    if without_ones(n.shape) != without_ones(b.shape) or 1 in x.shape:
        return None
    old = [k for k, size in enumerate(b.shape) if size != 1]
    new = [k for k, size in enumerate(n.shape) if size != 1]
    return broadcast(x, shape=n.shape, axes=tuple([new[old.index(a)] for a in b.attrs["axes"]]))


@rewrite("broadcast")
def broadcast_of_few(n: Node) -> Node | None:
    """A broadcast that repeats nothing is a reshape; axes of size 1 are taken from the input first."""
    (x,) = n.inputs
    if x.shape == n.shape:
        return x
    if x.type.size == n.type.size:
        return reshape(x, shape=n.shape)
    if 1 not in x.shape:
        return None
    axes = tuple([a for a, size in zip(n.attrs["axes"], x.shape, strict=True) if size != 1])
    return broadcast(reshape(x, shape=without_ones(x.shape)), shape=n.shape, axes=axes)


@rewrite("broadcast")
def broadcast_of_broadcast(n: Node) -> Node | None:
    """broadcast(broadcast(x)) = broadcast(x)."""
    (x,) = n.inputs
    if x.op != "broadcast":
        return None
    axes = n.attrs["axes"]
    return broadcast(x.inputs[0], shape=n.shape, axes=tuple([axes[a] for a in x.attrs["axes"]]))


@rewrite("transpose")
def transpose_of_transpose(n: Node) -> Node | None:
    """transpose(transpose(x, p), q) = transpose(x, p[q]); one that moves only axes of size 1 is a reshape."""
    (x,) = n.inputs
    perm = n.attrs["perm"]
    if x.op == "transpose":
        return transpose(x.inputs[0], perm=tuple([x.attrs["perm"][k] for k in perm]))
    moved = [k for k in perm if x.shape[k] != 1]
    return reshaped(x, n.shape) if moved == sorted(moved) else None


@rewrite("transpose")
def transpose_of_broadcast(n: Node) -> Node | None:
    """transpose(broadcast(x)) = broadcast(x) along other axes, when x's own keep their order."""
    (b,) = n.inputs
    if b.op != "broadcast":
        return None
    place = inverse(n.attrs["perm"])
    axes = tuple([place[a] for a in b.attrs["axes"]])
    return broadcast(b.inputs[0], shape=n.shape, axes=axes) if list(axes) == sorted(axes) else None


@rewrite("transpose")
def transpose_of_dot_general(n: Node) -> Node | None:
    """A transposition that exchanges the free axes of a product exchanges its operands."""
    (d,) = n.inputs
    if d.op != "dot_general":
        return None
    (a, b), contract, batch = d.inputs, d.attrs["contract"], d.attrs["batch"]
    lead, m = len(batch[0]), a.type.rank - len(contract[0])
    swapped = (*range(lead), *range(m, d.type.rank), *range(lead, m))
    if n.attrs["perm"] != swapped:
        return None
    return dot_general(b, a, contract=(contract[1], contract[0]), batch=(batch[1], batch[0]))


@rewrite("dot_general")
def dot_general_of_transpose(n: Node) -> Node | None:
    """A product reads a transposed operand through its attrs, when the operand's free axes keep their order."""
    contract, batch = list(n.attrs["contract"]), list(n.attrs["batch"])
    inputs = list(n.inputs)
    for k, x in enumerate(n.inputs):
        if x.op != "transpose":
            continue
        perm = x.attrs["perm"]
        free = [perm[a] for a in free_axes(x.type.rank, contract[k], batch[k])]
        if free == sorted(free):
            inputs[k] = x.inputs[0]
            contract[k] = tuple([perm[a] for a in contract[k]])
            batch[k] = tuple([perm[a] for a in batch[k]])
    if inputs == list(n.inputs):
        return None
    return dot_general(*inputs, contract=tuple(contract), batch=tuple(batch))


@rewrite("slice")
def slice_of_slice(n: Node) -> Node | None:
    """slice(slice(x)) = slice(x); the whole of x is x; a part of a number's broadcast is a smaller broadcast."""
    (x,) = n.inputs
    if x.shape == n.shape:
        return x
    if x.op == "broadcast" and not x.inputs[0].shape:
        return broadcast(x.inputs[0], shape=n.shape, axes=())
    if x.op != "slice":
        return None
    outer = list(zip(n.attrs["start"], n.attrs["stop"], n.attrs["step"], strict=True))
    inner = list(zip(x.attrs["start"], x.attrs["stop"], x.attrs["step"], strict=True))
    start = tuple([a + i * c for (i, _, _), (a, _, c) in zip(outer, inner, strict=True)])
    stop = tuple([min(b, a + j * c) for (_, j, _), (a, b, c) in zip(outer, inner, strict=True)])
    step = tuple([k * c for (_, _, k), (_, _, c) in zip(outer, inner, strict=True)])
    return slice_(x.inputs[0], start=tuple(map(min, start, stop)), stop=stop, step=step)


@rewrite("slice")
def slice_of_stack(n: Node) -> Node | None:
    """The row that a loop's last trip stacked is what the loop leaves in its carry, where the two are one value."""
    (x,) = n.inputs
    if x.op != "item" or x.inputs[0].op != "loop" or n.shape[:1] != (1,):
        return None
    a = x.inputs[0].attrs
    body, length = a["body"], a["length"]
    k = x.attrs["index"] - len(body.state)
    last = 0 if a["reverse"] else (length or 0) - 1
    if a["test"] is not None or a["counted"] or not 0 <= k < len(body.outputs) or n.attrs["start"][0] != last:
        return None
    for j, s in enumerate(body.state):
        if dict(body.updates).get(s, s) is body.outputs[k]:
            row = item(x.inputs[0], index=j)
            where = {name: n.attrs[name][1:] for name in ("start", "stop", "step")}
            return reshape(slice_(row, **where), shape=n.shape)
    return None


@rewrite("slice")
def slice_of_pad(n: Node) -> Node | None:
    """A slice that sees nothing of the padding is a slice of what was padded."""
    (p,) = n.inputs
    if p.op != "pad" or any(p.attrs["interior"]) or 0 in n.shape:
        return None
    x, low = p.inputs[0], p.attrs["low"]
    start = tuple([a - lo for a, lo in zip(n.attrs["start"], low, strict=True)])
    stop = tuple([b - lo for b, lo in zip(n.attrs["stop"], low, strict=True)])
    if any(a < 0 or b > size for a, b, size in zip(start, stop, x.shape, strict=True)):
        return None
    return slice_(x, start=start, stop=stop, step=n.attrs["step"])


@rewrite("pad")
def pad_of_nothing(n: Node) -> Node | None:
    """A pad without padding is its input; one that only crops is a slice."""
    x, low, high = n.inputs[0], n.attrs["low"], n.attrs["high"]
    if any(n.attrs["interior"]) or any(a > 0 for a in low) or any(b > 0 for b in high):
        return None
    if not any(low) and not any(high):
        return x
    stop = tuple([size + b for size, b in zip(x.shape, high, strict=True)])
    return slice_(x, start=tuple([-a for a in low]), stop=stop, step=(1,) * x.type.rank)


@rewrite("pad")
def pad_of_pad(n: Node) -> Node | None:
    """pad(pad(x)) with one value = pad(x) with the sum of the amounts, unless what the inner one cropped is padded again."""
    p, value = n.inputs
    if p.op != "pad" or any(n.attrs["interior"]) or not _same_value(value, p.inputs[1]):
        return None
    for side in ("low", "high"):
        if any(a < 0 < b for a, b in zip(p.attrs[side], n.attrs[side], strict=True)):
            return None
    low = tuple(map(sum, zip(p.attrs["low"], n.attrs["low"], strict=True)))
    high = tuple(map(sum, zip(p.attrs["high"], n.attrs["high"], strict=True)))
    return pad(p.inputs[0], value, low=low, high=high, interior=p.attrs["interior"])


def _same_value(a: Node, b: Node) -> bool:
    x, y = number(a), number(b)
    return a is b or (x is not None and y is not None and same_number(x, y))


@rewrite("add")
def sum_of_pads(n: Node) -> Node | None:
    """Values that a sum of pads puts side by side, each where the others are zero, are joined.

    Zero is added to each still, which makes zero of minus zero.
    """
    parts, stack = [], [n]
    while stack:
        x = stack.pop()
        if x.op == "add" and x.dtype.is_float and len(stack) < _MOST_PARTS:
            stack.extend(x.inputs)
        elif x.op == "pad" and number(x.inputs[1]) == 0 and not any(x.attrs["interior"]):
            parts.append(x)
        else:
            return None
    axes = {k for p in parts for k in range(n.type.rank) if p.attrs["low"][k] or p.attrs["high"][k]}
    if len(axes) != 1:
        return None
    (axis,) = axes
    parts.sort(key=lambda p: int(p.attrs["low"][axis]))
    end = 0
    for p in parts:
        if p.attrs["low"][axis] != end or p.inputs[0].shape[axis] == 0:
            return None
        end += p.inputs[0].shape[axis]
    if end != n.shape[axis]:
        return None
    return concat(*[p.inputs[0] + full(p.inputs[0].shape, 0.0, n.dtype) for p in parts], axis=axis)


@rewrite("concat")
def concat_of_concat(n: Node) -> Node | None:
    """concat(x) = x; empty parts vanish, parts joined along the same axis join the rest."""
    axis = n.attrs["axis"]
    parts: list[Node] = []
    for x in n.inputs:
        same = x.op == "concat" and x.attrs["axis"] == axis
        parts.extend(i for i in (x.inputs if same else (x,)) if i.shape[axis] != 0)
    if not parts or len(parts) == 1:
        return parts[0] if parts else n.inputs[0]
    return None if parts == list(n.inputs) else concat(*parts, axis=axis)


@rewrite("reverse")
def reverse_of_reverse(n: Node) -> Node | None:
    """Reversing twice, along axes of size 0 or 1, or where a broadcast repeats, does nothing."""
    (x,) = n.inputs
    axes = {a for a in n.attrs["axes"] if x.shape[a] > 1}
    if x.op == "broadcast":
        axes &= set(x.attrs["axes"])
    if x.op == "reverse":
        x, axes = x.inputs[0], axes ^ set(x.attrs["axes"])
    if not axes:
        return x
    return None if tuple(sorted(axes)) == n.attrs["axes"] and x is n.inputs[0] else reverse(x, axes=tuple(sorted(axes)))


@rewrite(*REDUCTIONS)
def reduce_of_ones(n: Node) -> Node | None:
    """A reduction over no axes is its input; axes of size 1 are reshaped away instead of reduced."""
    (x,) = n.inputs
    axes = n.attrs["axes"]
    ones = [a for a in axes if x.shape[a] == 1]
    if not axes or len(ones) == len(axes):
        return reshaped(x, n.shape)
    if not ones:
        return None
    kept = [k for k in range(x.type.rank) if k not in ones]
    small = reshape(x, shape=tuple([x.shape[k] for k in kept]))
    return opdef(n.op)(small, axes=tuple([kept.index(a) for a in axes if a not in ones]))


@rewrite("reduce_sum", "reduce_max", "reduce_min", "reduce_and", "reduce_or")
def reduce_of_broadcast(n: Node) -> Node | None:
    """Equal elements are counted, not summed, and need no comparison.

    The sum of k equal floats is rounded once instead of k - 1 times; 16-bit floats are multiplied in f32.
    """
    (b,) = n.inputs
    if b.op != "broadcast" or 0 in b.shape:
        return None
    x, places, axes = b.inputs[0], b.attrs["axes"], set(n.attrs["axes"])
    inner = tuple([k for k, a in enumerate(places) if a in axes])
    if len(inner) == len(axes) == b.type.rank:
        return None
    if inner:
        x = opdef(n.op)(x, axes=inner)
    count = prod([b.shape[a] for a in axes if a not in places])
    if n.op == "reduce_sum" and count > 1:
        wide = f32 if n.dtype.is_float and n.dtype.bits == 16 else n.dtype
        product = opdef("mul")(_cast(x, wide), full(x.shape, count, wide))
        x = _cast(product, n.dtype)
    kept = [k for k in range(b.type.rank) if k not in axes]
    at = tuple([kept.index(a) for a in places if a not in axes])
    return x if x.shape == n.shape else broadcast(x, shape=n.shape, axes=at)


def _cast(x: Node, dtype: DType) -> Node:
    return x if x.dtype is dtype else cast(x, dtype=dtype)


@rewrite(*REDUCTIONS)
def reduce_of_transpose(n: Node) -> Node | None:
    """The input is reduced along its own axes; what remains, which is smaller, is transposed if need be."""
    (t,) = n.inputs
    if t.op != "transpose":
        return None
    perm, axes = t.attrs["perm"], n.attrs["axes"]
    small = opdef(n.op)(t.inputs[0], axes=tuple(sorted([perm[a] for a in axes])))
    rest = [perm[k] for k in range(len(perm)) if k not in axes]
    order = sorted(rest)
    return small if rest == order else transpose(small, perm=tuple([order.index(k) for k in rest]))


@rewrite("reduce_sum")
def sum_of_hit(n: Node) -> Node | None:
    """The sum along an axis of what stands at one position of it, and zeros: that value, if the position is inside.

    select(position == 0, 1, 2, ..., value, 0) is what the derivative of picking one element leaves.
    """
    (x,) = n.inputs
    if x.op != "select" or len(n.attrs["axes"]) != 1 or number(x.inputs[2]) != 0:
        return None
    (axis,), (hit, value, rest) = n.attrs["axes"], x.inputs
    if hit.op != "eq" or value.op != "broadcast" or axis in value.attrs["axes"]:
        return None
    place, count = hit.inputs if hit.inputs[1].op == "iota" else hit.inputs[::-1]
    if count.op != "iota" or count.attrs["axis"] != axis or place.op != "broadcast" or axis in place.attrs["axes"]:
        return None
    place, value, zero = _without_axis(place, axis), _without_axis(value, axis), full(n.shape, number(rest) or 0, n.dtype)
    if not place.dtype.is_integer or x.shape[axis] > 1 << place.dtype.bits - 1:
        return None
    inside = logical_and(ge(place, full(n.shape, 0, place.dtype)), lt(place, full(n.shape, x.shape[axis], place.dtype)))
    return opdef("select")(inside, value, zero) + zero


def _without_axis(b: Node, axis: int) -> Node:
    """A broadcast as it was before it was repeated along one axis."""
    shape = (*b.shape[:axis], *b.shape[axis + 1 :])
    return broadcast(b.inputs[0], shape=shape, axes=tuple([a - (a > axis) for a in b.attrs["axes"]]))


@rewrite("reduce_sum")
def sum_of_neg(n: Node) -> Node | None:
    """sum(-x) = -sum(x) for floats: the roundings are mirrored, and the sum is smaller."""
    (x,) = n.inputs
    return neg(with_inputs(n, x.inputs)) if x.op == "neg" else None
