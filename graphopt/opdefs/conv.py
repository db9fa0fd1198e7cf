"""Convolution: one op that contains its own two derivatives, and the builders around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from graphopt.errors import CompileError, ShapeError
from graphopt.ir.graph import Node
from graphopt.ir.types import NUMBERS, TensorType
from graphopt.opdefs.elementwise import add
from graphopt.opdefs.linalg import accumulator, require_numbers
from graphopt.opdefs.opdef import Contracts, Sample, constant, op
from graphopt.opdefs.shape import pad, reshape, reverse, slice_, transpose

Padding = tuple[tuple[int, int], ...]
_BLOCK_BYTES = 32 << 20  # of unfolded image at a time in the numpy meaning


def dilated(size: int, dilation: int) -> int:
    """The extent of `size` elements that stand `dilation` apart."""
    return (size - 1) * dilation + 1 if size else 0


def _attrs(rank: int, **changes: Any) -> dict[str, Any]:
    ones = (1,) * rank
    plain = {
        "strides": ones,
        "padding": ((0, 0),) * rank,
        "lhs_dilation": ones,
        "rhs_dilation": ones,
        "groups": 1,
    }
    return {**plain, **changes}


def _check_attrs(spatial: int, padding: Padding, **steps: tuple[int, ...]) -> None:
    for name, values in (("padding", padding), *steps.items()):
        if len(values) != spatial:
            raise ShapeError(f"{name} has {len(values)} entries, the inputs have {spatial} spatial axes")
    for name, counts in steps.items():
        for k, n in enumerate(counts):
            if n < 1:
                raise ShapeError(f"{name} must be positive, found {n} for spatial axis {k}")


@op(
    [
        Sample([(2, 3, 9, 8), (5, 3, 3, 3)], _attrs(2, padding=((1, 1), (1, 1)))),
        Sample([(1, 1, 1, 1), (1, 1, 1, 1)], _attrs(2)),
        Sample([(3, 5, 7), (4, 5, 1)], _attrs(1)),
        Sample([(2, 3, 11, 9), (4, 3, 3, 2)], _attrs(2, strides=(2, 3))),
        Sample([(2, 2, 5, 6), (3, 2, 3, 3)], _attrs(2, padding=((2, 0), (-1, 3)))),
        Sample([(2, 2, 4, 3), (3, 2, 3, 3)], _attrs(2, lhs_dilation=(2, 3), padding=((2, 2), (1, 3)))),
        Sample([(1, 2, 9, 10), (3, 2, 3, 2)], _attrs(2, rhs_dilation=(2, 4), padding=((1, 0), (0, 2)))),
        Sample([(2, 6, 5, 5), (4, 3, 3, 3)], _attrs(2, groups=2, padding=((1, 1), (1, 1)))),
        Sample([(2, 5, 6, 6), (5, 1, 3, 3)], _attrs(2, groups=5, strides=(2, 2), padding=((0, 1), (0, 1)))),
        Sample([(2, 3, 8), (4, 3, 3)], _attrs(1, strides=(2,), padding=((1, 1),))),
        Sample([(1, 2, 4, 5, 3), (3, 2, 2, 3, 2)], _attrs(3, padding=((0, 1), (1, 1), (0, 0)), strides=(1, 2, 1))),
    ],
    "contraction",
    NUMBERS,
)
def conv_general(
    x: TensorType,
    w: TensorType,
    *,
    strides: tuple[int, ...],
    padding: Padding,
    lhs_dilation: tuple[int, ...],
    rhs_dilation: tuple[int, ...],
    groups: int,
) -> TensorType:
    """Cross-correlation of a batch of images with a bank of windows.

    strides: steps of the window. padding: zeros before and after each spatial axis; negative crops.
    lhs_dilation: distance of the image's elements (zeros between them), applied before padding.
    rhs_dilation: distance of the window's elements. groups: output block g sees input channel block g alone.
    16-bit floats accumulate in float32 and are rounded once; integers wrap.

    Shapes: x (n, c, *image), w (o, c / groups, *window) -> (n, o, *out), where an axis of out has
            (padded - extent of the window) // stride + 1 elements.
    Errors: DTypeError when dtypes differ or are bool; ShapeError when ranks, channels or groups do not fit,
            or a window exceeds the padded image.
    """
    require_numbers((x, w))
    if x.rank != w.rank or x.rank < 3:
        raise ShapeError(f"expects x (n, c, *image), w (o, c, *window) of one rank >= 3, found ranks {x.rank} and {w.rank}")
    spatial = x.rank - 2
    _check_attrs(spatial, padding, strides=strides, lhs_dilation=lhs_dilation, rhs_dilation=rhs_dilation)
    if groups < 1 or x.shape[1] % groups or w.shape[0] % groups:
        raise ShapeError(
            f"groups must divide {x.shape[1]} (axis 1 of input 0) and {w.shape[0]} (axis 0 of input 1), found {groups}"
        )
    if x.shape[1] != w.shape[1] * groups:
        raise ShapeError(
            f"channels differ: {x.shape[1]} (axis 1 of input 0), {w.shape[1]} (axis 1 of input 1) times {groups} groups"
        )
    shape = [x.shape[0], w.shape[0]]
    for k in range(spatial):
        image = dilated(x.shape[2 + k], lhs_dilation[k]) + sum(padding[k])
        window = dilated(w.shape[2 + k], rhs_dilation[k])
        if window < 1 or image < window:
            raise ShapeError(
                f"the window exceeds the padded image: {window} (axis {2 + k} of input 1, dilated), "
                f"{image} (axis {2 + k} of input 0, padded)"
            )
        shape.append((image - window) // strides[k] + 1)
    return TensorType(x.dtype, tuple(shape))


def _padded(x: np.ndarray, padding: Padding, dilation: tuple[int, ...]) -> np.ndarray:
    """x with its trailing axes dilated by zeros, then padded by zeros or cropped."""
    lead = x.ndim - len(padding)
    if all(d == 1 for d in dilation) and not any(map(any, padding)):
        return x
    sizes = [dilated(n, d) + lo + hi for n, d, (lo, hi) in zip(x.shape[lead:], dilation, padding, strict=True)]
    out = np.zeros((*x.shape[:lead], *sizes), x.dtype)
    source, target = [slice(None)] * lead, [slice(None)] * lead
    for n, size, d, (lo, _) in zip(x.shape[lead:], sizes, dilation, padding, strict=True):
        first = max(0, -(lo // d))  # the first element that is not cropped away
        count = max(0, min(n - first, -((lo + first * d - size) // d)))
        source.append(slice(first, first + count))
        start = lo + first * d
        target.append(slice(start, start + dilated(count, d), d))
    out[tuple(target)] = x[tuple(source)]
    return out


@conv_general.numpy
def _(
    x: np.ndarray,
    w: np.ndarray,
    *,
    strides: tuple[int, ...],
    padding: Padding,
    lhs_dilation: tuple[int, ...],
    rhs_dilation: tuple[int, ...],
    groups: int,
) -> np.ndarray:
    dtype = accumulator(x.dtype)
    x = _padded(x.astype(dtype, copy=False), padding, lhs_dilation)
    (n, c, *image), (o, per_group, *window) = x.shape, w.shape
    out = [(m - dilated(k, d)) // s + 1 for m, k, d, s in zip(image, window, rhs_dilation, strides, strict=True)]
    weights = w.astype(dtype, copy=False).reshape(groups, o // groups, per_group * prod(window))
    result = np.empty((n, groups, o // groups, *out), dtype)
    unfolded_bytes = max(1, c * prod(window) * prod(out) * dtype.itemsize)
    block = max(1, _BLOCK_BYTES // unfolded_bytes)
    for start in range(0, n, block):
        part = x[start : start + block]
        here = part.strides
        view = np.lib.stride_tricks.as_strided(
            part,
            (groups, per_group, *window, len(part), *out),
            (
                per_group * here[1],
                here[1],
                *(b * d for b, d in zip(here[2:], rhs_dilation, strict=True)),
                here[0],
                *(b * s for b, s in zip(here[2:], strides, strict=True)),
            ),
            writeable=False,
        )
        unfolded = view.reshape(groups, per_group * prod(window), len(part) * prod(out))
        product = np.matmul(weights, unfolded).reshape(groups, o // groups, len(part), *out)
        result[start : start + block] = np.moveaxis(product, 2, 0)
    return result.reshape(n, o, *out)


def _split_groups(w: Node, groups: int) -> Node:
    """(g * o, c, *window) -> (g * c, o, *window): the window bank that maps outputs back to inputs."""
    o, c, *window = w.shape
    if groups == 1:
        return transpose(w, perm=(1, 0, *range(2, w.type.rank)))
    split = reshape(w, shape=(groups, o // groups, c, *window))
    swapped = transpose(split, perm=(0, 2, 1, *range(3, w.type.rank + 1)))
    return reshape(swapped, shape=(groups * c, o // groups, *window))


def conv_input_gradient(ct: Node, w: Node, image: Sequence[int], attrs: Mapping[str, Any]) -> Node:
    """The derivative of conv_general(x, w) with respect to x; also the transposed convolution of `ct`.

    image: x's spatial sizes. attrs: those of the convolution it belongs to.
    """
    padding = []
    for k, size in enumerate(image):
        lo = attrs["padding"][k][0]
        window = dilated(w.shape[2 + k], attrs["rhs_dilation"][k])
        full = dilated(size, attrs["lhs_dilation"][k])
        before = window - 1 - lo
        padding.append((before, full + window - 1 - dilated(ct.shape[2 + k], attrs["strides"][k]) - before))
    flipped = reverse(_split_groups(w, attrs["groups"]), axes=tuple(range(2, w.type.rank)))
    return conv_general(
        ct,
        flipped,
        strides=attrs["lhs_dilation"],
        padding=tuple(padding),
        lhs_dilation=attrs["strides"],
        rhs_dilation=attrs["rhs_dilation"],
        groups=attrs["groups"],
    )


def conv_weight_gradient(ct: Node, x: Node, window: Sequence[int], attrs: Mapping[str, Any]) -> Node:
    """The derivative of conv_general(x, w) with respect to w: the images are the windows of each other.

    Batch and channels change places; with groups, the batch joins the group's channels instead.
    window: w's spatial sizes. attrs: those of the convolution it belongs to.
    """
    padding = []
    for k, size in enumerate(window):
        lo = attrs["padding"][k][0]
        needed = dilated(size, attrs["rhs_dilation"][k]) - 1 + dilated(ct.shape[2 + k], attrs["strides"][k])
        padding.append((lo, needed - dilated(x.shape[2 + k], attrs["lhs_dilation"][k]) - lo))
    n, c, *image = x.shape
    groups = attrs["groups"]
    spatial = tuple(range(2, x.type.rank))
    if groups == 1:
        images = transpose(x, perm=(1, 0, *spatial))
    else:
        split = reshape(x, shape=(n, groups, c // groups, *image))
        swapped = transpose(split, perm=(2, 1, 0, *(k + 1 for k in spatial)))
        images = reshape(swapped, shape=(c // groups, groups * n, *image))
    out = conv_general(
        images,
        transpose(ct, perm=(1, 0, *spatial)),
        strides=attrs["rhs_dilation"],
        padding=tuple(padding),
        lhs_dilation=attrs["lhs_dilation"],
        rhs_dilation=attrs["strides"],
        groups=groups,
    )
    return transpose(out, perm=(1, 0, *spatial))


conv_general.linear((0,), (1,))


@conv_general.batch
def _(size: int, mapped: tuple[bool, ...], x: Node, w: Node, **attrs: Any) -> Node:
    """Examples of images join the batch; examples of windows join each group's outputs; those of both are groups."""
    groups = attrs["groups"]
    if mapped == (True, False):
        out = conv_general(_joined(x, 0), w, **attrs)
        return reshape(out, shape=(size, x.shape[1], *out.shape[1:]))
    if mapped == (False, True):
        o = w.shape[1]
        split = reshape(w, shape=(size, groups, o // groups, *w.shape[2:]))
        bank = transpose(split, perm=(1, 0, *range(2, split.type.rank)))
        out = conv_general(x, reshape(bank, shape=(size * o, *w.shape[2:])), **attrs)
        apart = reshape(out, shape=(x.shape[0], groups, size, o // groups, *out.shape[2:]))
        moved = transpose(apart, perm=(2, 0, 1, *range(3, apart.type.rank)))
        return reshape(moved, shape=(size, x.shape[0], o, *out.shape[2:]))
    n, o = x.shape[1], w.shape[1]
    images = _joined(transpose(x, perm=(1, 0, *range(2, x.type.rank))), 1)
    out = conv_general(images, _joined(w, 0), **{**attrs, "groups": size * groups})
    apart = reshape(out, shape=(n, size, o, *out.shape[2:]))
    return transpose(apart, perm=(1, 0, *range(2, apart.type.rank)))


def _joined(x: Node, axis: int) -> Node:
    """An axis and the one behind it as one."""
    return reshape(x, shape=(*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :]))


@conv_general.vjp
def _(ct: Node, out: Node, x: Node, w: Node, **attrs: Any) -> tuple[Node, Node]:
    return conv_input_gradient(ct, w, x.shape[2:], attrs), conv_weight_gradient(ct, x, w.shape[2:], attrs)


@conv_general.contract
def _(
    c: Contracts,
    x: TensorType,
    w: TensorType,
    *,
    strides: tuple[int, ...],
    padding: Padding,
    lhs_dilation: tuple[int, ...],
    rhs_dilation: tuple[int, ...],
    groups: int,
) -> Any:
    if any(map(any, padding)) or any(d != 1 for d in lhs_dilation):
        raise CompileError("conv_general: padding and lhs_dilation must be an explicit pad before lowering")
    o, per_group, *window = w.shape
    out = [(n - dilated(k, d)) // s + 1 for n, k, d, s in zip(x.shape[2:], window, rhs_dilation, strides, strict=True)]
    n = c.out(x.shape[0])
    group = c.out(groups) if groups > 1 else None
    channel_out = c.out(o // groups)
    places = [c.out(size) for size in out]
    channel = c.sum(per_group)
    inside = [c.sum(size) for size in window]
    x_channel = channel if group is None else group * per_group + channel
    w_channel = channel_out if group is None else group * (o // groups) + channel_out
    pixels = [p * s + q * d for p, s, q, d in zip(places, strides, inside, rhs_dilation, strict=True)]
    return c.product([n, w_channel, *places], [n, x_channel, *pixels], [w_channel, channel, *inside])


def explicit_padding(x: Node, attrs: Mapping[str, Any]) -> tuple[Node, dict[str, Any]]:
    """A convolution's padding and lhs_dilation as a `pad` node: (padded x, the new attributes).

    conv_general(x, w, **attrs) equals conv_general(padded, w, **new); x itself if nothing is padded.
    """
    padding, between = attrs["padding"], attrs["lhs_dilation"]
    spatial = len(padding)
    plain = {**attrs, "padding": ((0, 0),) * spatial, "lhs_dilation": (1,) * spatial}
    if not any(map(any, padding)) and all(d == 1 for d in between):
        return x, plain
    low, high = ((0, 0, *side) for side in zip(*padding, strict=True))
    interior = (0, 0, *(d - 1 for d in between))
    return pad(x, constant(0, x.dtype), low=low, high=high, interior=interior), plain


def by_phases(x: Node, w: Node, attrs: Mapping[str, Any]) -> Node | None:
    """A convolution of a dilated image without its zeros: one for each position of the output between two elements.

    Each takes the elements of the window that meet elements of the image there; the results are put side by side.
    None when nothing is dilated, or strides or a dilated window would mix the positions.
    """
    between, spatial = attrs["lhs_dilation"], x.type.rank - 2
    plain = all(s == 1 for s in attrs["strides"]) and all(
        d == 1 or r == 1 for d, r in zip(between, attrs["rhs_dilation"], strict=True)
    )
    out = conv_general.infer_type([x.type, w.type], attrs, [x, w])
    if not plain or all(d == 1 for d in between) or not out.size or not x.type.size:
        return None
    axes = [
        _phases(out.shape[2 + k], x.shape[2 + k], w.shape[2 + k], attrs["rhs_dilation"][k], between[k], attrs["padding"][k][0])
        for k in range(spatial)
    ]
    if not all(axes):
        return None
    most = [tuple(max(0, *(side)) for side in zip(*[p.padding for p in axis], strict=True)) for axis in axes]
    low, high = ((0, 0, *side) for side in zip(*most, strict=True))
    zero = constant(0, x.dtype)
    padded = pad(x, zero, low=low, high=high, interior=(0,) * x.type.rank) if any(map(any, most)) else x
    total: Node | None = None
    for phase in product(*axes):
        start = (0, 0, *[m[0] - p.padding[0] for m, p in zip(most, phase, strict=True)])
        stop = (
            *x.shape[:2],
            *[padded.shape[2 + k] - m[1] + p.padding[1] for k, (m, p) in enumerate(zip(most, phase, strict=True))],
        )
        image = slice_(padded, start=start, stop=stop, step=(1,) * x.type.rank)
        first = (0, 0, *[p.tap for p in phase])
        window = slice_(w, start=first, stop=w.shape, step=(1, 1, *between))
        part = conv_general(image, window, **{**attrs, "padding": ((0, 0),) * spatial, "lhs_dilation": (1,) * spatial})
        places = [
            (p.place, n - p.place - dilated(m, d))
            for p, n, m, d in zip(phase, out.shape[2:], part.shape[2:], between, strict=True)
        ]
        low, high = ((0, 0, *side) for side in zip(*places, strict=True))
        apart = pad(part, zero, low=low, high=high, interior=(0, 0, *[d - 1 for d in between]))
        total = apart if total is None else add(total, apart)
    return total


@dataclass(frozen=True, slots=True)
class _Phase:
    """Every so-many-th output from `place` on: the first element of the window it uses, the padding of the image."""

    place: int
    tap: int
    padding: tuple[int, int]


def _phases(out: int, image: int, window: int, spread: int, between: int, low: int) -> list[_Phase]:
    """The phases of one axis; those that no element of the window reaches are left out."""
    found: list[_Phase] = []
    for place in range(min(between, out)):
        tap = (low - place) % between
        taps = len(range(tap, window, between))
        if taps:
            count = len(range(place, out, between))
            before = (low - place - tap) // between
            found.append(_Phase(place, tap, (before, count + dilated(taps, spread) - 1 - image - before)))
    return found


def conv(
    x: Node,
    w: Node,
    strides: tuple[int, ...] | None = None,
    padding: Padding | None = None,
    dilation: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Node:
    """A convolution whose omitted attributes are plain: stride 1, no padding, no dilation, one group."""
    ones = (1,) * max(x.type.rank - 2, 0)
    return conv_general(
        x,
        w,
        strides=strides or ones,
        padding=padding or ((0, 0),) * len(ones),
        lhs_dilation=ones,
        rhs_dilation=dilation or ones,
        groups=groups,
    )


def same_padding(image: Sequence[int], window: Sequence[int], strides: Sequence[int], dilation: Sequence[int]) -> Padding:
    """Padding with which the output has ceil(image / stride) elements; the odd zero stands after."""
    padding = []
    for n, k, s, d in zip(image, window, strides, dilation, strict=True):
        total = max(0, (-(-n // s) - 1) * s + dilated(k, d) - n)
        padding.append((total // 2, total - total // 2))
    return tuple(padding)
