"""Pooling over windows, under MindSpore's names."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.common.checks import int_tuple
from graphopt.errors import ShapeError
from graphopt.ir.graph import Node
from graphopt.opdefs import linalg, window
from graphopt.opdefs import shape as shapes
from graphopt.opdefs.opdef import broadcast_to, constant
from graphopt.ops.lift import lift
from graphopt.ops.linear import spatial_padding
from graphopt.ops.promote import as_node, floating


def pool_padding(
    x: Node,
    owner: str,
    kernel: tuple[int, ...],
    stride: Any,
    pad_mode: str,
    padding: Any,
    ceil_mode: bool,
    dilation: Any,
) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """(padding of each spatial axis, the extra elements at its end that ceil_mode asks for)."""
    image = x.shape[x.type.rank - len(kernel) :]
    pads = spatial_padding(owner, pad_mode, padding, image, kernel, stride, dilation)
    extra = []
    for n, k, s, d, (lo, hi) in zip(image, kernel, stride, dilation, pads, strict=True):
        rest = (n + lo + hi - ((k - 1) * d + 1)) % s
        windows = (n + lo + hi - ((k - 1) * d + 1)) // s + 1
        starts_inside = windows * s < n + lo
        extra.append(s - rest if ceil_mode and rest and starts_inside else 0)
    return pads, tuple(extra)


def max_pool_node(
    x: Node,
    owner: str,
    kernel: Any,
    stride: Any,
    pad_mode: str,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    indices: bool,
) -> Any:
    """Largest element of each window, and its position in the plane when asked for."""
    pads, extra = pool_padding(x, owner, kernel, stride, pad_mode, padding, ceil_mode, dilation)
    whole = tuple((lo, hi + e) for (lo, hi), e in zip(pads, extra, strict=True))
    values = window.window_max(x, kernel, stride, whole, dilation)
    if not indices:
        return values
    return values, window.window_argmax(x, **window.window_attrs(kernel, stride, whole, dilation))


def avg_pool_node(
    x: Node,
    owner: str,
    kernel: Any,
    stride: Any,
    pad_mode: str,
    padding: Any,
    ceil_mode: bool,
    count_pad: bool,
    divisor: int | None,
) -> Node:
    """Mean of each window. With 'same', padding never counts; what ceil_mode adds never counts either."""
    x = floating(x)
    ones = (1,) * len(kernel)
    pads, extra = pool_padding(x, owner, kernel, stride, pad_mode, padding, ceil_mode, ones)
    if pad_mode.lower() == "same":
        return window.window_mean(x, kernel, stride, pads, count_padding=False, divisor=divisor)
    if not any(extra):
        return window.window_mean(x, kernel, stride, pads, count_padding=count_pad, divisor=divisor)
    whole = tuple((lo, hi + e) for (lo, hi), e in zip(pads, extra, strict=True))
    total = window.window_sum(x, kernel, stride, whole)
    if divisor is not None:
        return total * (1.0 / divisor)
    counts = np.ones(())
    lead = x.type.rank - len(kernel)
    for n, k, s, (lo, hi), size in zip(x.shape[lead:], kernel, stride, pads, total.shape[lead:], strict=True):
        first = np.arange(size) * s - lo
        low, high = (-lo, n + hi) if count_pad else (0, n)
        counts = np.multiply.outer(counts, np.minimum(first + k, high) - np.maximum(first, low))
    return total * broadcast_to(constant(1.0 / np.maximum(counts, 1), x.dtype), total.shape)


@lift
def max_pool2d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    return_indices: bool = False,
    ceil_mode: bool = False,
) -> Any:
    """The largest element of each window; padding never wins. return_indices: also its position in the (H, W) plane
    (int64).

    Shapes: (N, C, H, W) -> (N, C, H', W'). stride is kernel_size unless given.

    >>> import graphopt as ms
    >>> ms.ops.max_pool2d(ms.Tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), 2).asnumpy().tolist()
    [[[[4.0]]]]
    """
    kernel = int_tuple("max_pool2d", "kernel_size", kernel_size, 2)
    steps = int_tuple("max_pool2d", "stride", kernel_size if stride is None else stride, 2)
    spread = int_tuple("max_pool2d", "dilation", dilation, 2)
    return max_pool_node(as_node(x), "max_pool2d", kernel, steps, "pad", padding, spread, ceil_mode, return_indices)


def _avg(
    owner: str, rank: int, x: Any, kernel_size: Any, stride: Any, padding: Any, ceil: bool, count: bool, divisor: Any
) -> Node:
    kernel = int_tuple(owner, "kernel_size", kernel_size, rank)
    steps = int_tuple(owner, "stride", stride, rank)
    return avg_pool_node(as_node(x), owner, kernel, steps, "pad", padding, ceil, count, divisor or None)


@lift
def avg_pool1d(
    input_x: Any,
    kernel_size: Any = 1,
    stride: Any = 1,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """The mean of each window. Shapes: (N, C, L) -> (N, C, L').

    >>> import graphopt as ms
    >>> ms.ops.avg_pool1d(ms.Tensor([[[1.0, 3.0, 5.0, 7.0]]]), 2, 2).asnumpy().tolist()
    [[[2.0, 6.0]]]
    """
    return _avg("avg_pool1d", 1, input_x, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


@lift
def avg_pool2d(
    input_x: Any,
    kernel_size: Any = 1,
    stride: Any = 1,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int = 0,
) -> Any:
    """The mean of each window. Shapes: (N, C, H, W) -> (N, C, H', W').

    >>> import graphopt as ms
    >>> ms.ops.avg_pool2d(ms.Tensor([[[[1.0, 3.0], [5.0, 7.0]]]]), 2, 2).asnumpy().tolist()
    [[[[4.0]]]]
    """
    return _avg(
        "avg_pool2d", 2, input_x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


@lift
def adaptive_avg_pool2d(input: Any, output_size: Any) -> Any:
    """Means over a grid of output_size windows as equal as can be; None keeps the size of an axis.

    Shapes: (N, C, H, W) or (C, H, W) -> (…, *output_size).

    >>> import graphopt as ms
    >>> ms.ops.adaptive_avg_pool2d(ms.Tensor([[[[1.0, 3.0], [5.0, 7.0]]]]), 1).asnumpy().tolist()
    [[[[4.0]]]]
    """
    x = floating(input)
    sizes = output_size if isinstance(output_size, tuple) else (output_size, output_size)
    return _adaptive(x, sizes)


@lift
def adaptive_avg_pool1d(input: Any, output_size: int) -> Any:
    """Means over output_size windows as equal as can be. Shapes: (N, C, L) -> (N, C, output_size).

    >>> import graphopt as ms
    >>> ms.ops.adaptive_avg_pool1d(ms.Tensor([[[1.0, 3.0, 5.0, 7.0]]]), 2).asnumpy().tolist()
    [[[2.0, 6.0]]]
    """
    return _adaptive(floating(input), (output_size,))


def _adaptive(x: Node, sizes: tuple[int | None, ...]) -> Node:
    lead = x.type.rank - len(sizes)
    if lead < 1:
        raise ShapeError(f"adaptive_avg_pool: expected more than {len(sizes)} axes, found {x.type}")
    targets = tuple(n if m is None else m for n, m in zip(x.shape[lead:], sizes, strict=True))
    if all(n % m == 0 for n, m in zip(x.shape[lead:], targets, strict=True)):
        kernel = tuple(n // m for n, m in zip(x.shape[lead:], targets, strict=True))
        return window.window_mean(x, kernel, kernel)
    for axis, (n, m) in enumerate(zip(x.shape[lead:], targets, strict=True), lead):
        share = np.zeros((n, m))
        for k in range(m):
            low, high = k * n // m, -(-(k + 1) * n // m)
            share[low:high, k] = 1.0 / (high - low)
        y = linalg.dot_general(x, constant(share, x.dtype), contract=((axis,), (0,)), batch=((), ()))
        order = (*range(axis), x.type.rank - 1, *range(axis, x.type.rank - 1))
        x = shapes.transpose(y, perm=order) if order != tuple(range(x.type.rank)) else y
    return x
