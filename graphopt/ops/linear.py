"""Linear maps: bias, dense layers, convolutions, under MindSpore's names."""

from __future__ import annotations

from typing import Any

from graphopt.common.checks import check_choice, int_tuple
from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node
from graphopt.opdefs import conv as convs
from graphopt.opdefs import linalg
from graphopt.opdefs import shape as shapes
from graphopt.ops.lift import lift
from graphopt.ops.promote import as_node, promoted, to_dtype


@lift
def bias_add(input_x: Any, bias: Any) -> Any:
    """input_x plus bias along axis 1.

    Errors: ValueError when bias has not the size of axis 1.

    >>> import graphopt as ms
    >>> ms.ops.bias_add(ms.Tensor([[1.0, 2.0]]), ms.Tensor([10.0, 20.0])).asnumpy().tolist()
    [[11.0, 22.0]]
    """
    x, b = promoted(input_x, bias)
    if b.type.rank != 1 or x.type.rank < 2 or x.shape[1] != b.shape[0]:
        raise ShapeError(f"bias_add: expected a bias for axis 1 of {x.type}, found {b.type}")
    return x + shapes.broadcast(b, shape=x.shape, axes=(1,))


def _of_one_dtype(owner: str, input: Any, weight: Any) -> list[Node]:
    """Input and weight as nodes.

    Errors: DTypeError when their dtypes differ: data that is wider than the weights would slow everything down.
    """
    x, w = as_node(input), as_node(weight)
    if x.dtype is not w.dtype:
        hint = f"\n  hint: convert the data: x.astype(ms.{w.dtype.name})"
        raise DTypeError(f"{owner}: input and weight must have the same dtype, found {x.dtype!r} and {w.dtype!r}{hint}")
    return [x, w]


@lift
def dense(input: Any, weight: Any, bias: Any = None) -> Any:
    """input @ weight.T + bias.

    Shapes: (…, in), (out, in), (out,) -> (…, out).
    Errors: ValueError when sizes do not fit, TypeError when the dtypes of input and weight differ.

    >>> import graphopt as ms
    >>> ms.ops.dense(ms.Tensor([[1.0, 2.0]]), ms.Tensor([[3.0, 4.0]]), ms.Tensor([0.5])).asnumpy().tolist()
    [[11.5]]
    """
    x, w = _of_one_dtype("dense", input, weight)
    if x.type.rank < 1 or w.type.rank != 2 or x.shape[-1] != w.shape[1]:
        raise ShapeError(f"dense: expected an input (…, {w.shape[-1]}) for weight {w.type}, found {x.type}")
    y = linalg.dot_general(x, w, contract=((x.type.rank - 1,), (1,)), batch=((), ()))
    return y if bias is None else y + to_dtype(bias, y.dtype)


def spatial_padding(
    owner: str,
    pad_mode: str,
    padding: Any,
    image: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: Any,
    dilation: Any,
) -> tuple[tuple[int, int], ...]:
    """(before, after) per spatial axis for 'same', 'valid' or 'pad'; padding is an int, one per axis, or two per
    axis.

    Errors: ValueError for another mode, or padding given without 'pad'.
    """
    mode = check_choice(
        owner, "pad_mode", pad_mode.lower() if isinstance(pad_mode, str) else pad_mode, ("same", "valid", "pad")
    )
    axes = len(kernel)
    numbers = (padding,) * (2 * axes) if isinstance(padding, int) else tuple(padding)
    if len(numbers) == axes:
        numbers = tuple(n for n in numbers for _ in range(2))
    if len(numbers) != 2 * axes or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in numbers):
        raise ShapeError(f"{owner}: padding must be an int >= 0 or {2 * axes} of them, found {padding!r}")
    if mode != "pad" and any(numbers):
        raise ShapeError(f"{owner}: padding must be 0 when pad_mode is {mode!r}, found {padding!r}")
    if mode == "same":
        return convs.same_padding(image, kernel, stride, dilation)
    return tuple((numbers[2 * k], numbers[2 * k + 1]) for k in range(axes))


def _convolution(
    owner: str,
    rank: int,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    pad_mode: str,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Node:
    x, w = _of_one_dtype(owner, input, weight)
    if x.type.rank != rank + 2 or w.type.rank != rank + 2:
        raise ShapeError(f"{owner}: expected input and weight with {rank + 2} axes, found {x.type} and {w.type}")
    strides = int_tuple(owner, "stride", spatial(stride, rank), rank)
    steps = int_tuple(owner, "dilation", spatial(dilation, rank), rank)
    pads = spatial_padding(owner, pad_mode, padding, x.shape[2:], w.shape[2:], strides, steps)
    y = convs.conv(x, w, strides=strides, padding=pads, dilation=steps, groups=groups)
    return y if bias is None else y + shapes.broadcast(to_dtype(bias, y.dtype), shape=y.shape, axes=(1,))


def spatial(value: Any, rank: int) -> Any:
    """A 1-tuple stands for every axis; a 4-tuple (1, 1, h, w) for its last two."""
    if isinstance(value, (tuple, list)):
        return value[0] if len(value) == 1 else tuple(value)[-rank:] if len(value) == rank + 2 else tuple(value)
    return value


@lift
def conv1d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    pad_mode: str = "valid",
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Cross-correlation over one axis. Shapes: (N, C, L), (O, C/groups, K) -> (N, O, L').

    >>> import graphopt as ms
    >>> ms.ops.conv1d(ms.Tensor([[[1.0, 2.0, 3.0]]]), ms.ops.ones((1, 1, 2))).asnumpy().tolist()
    [[[3.0, 5.0]]]
    """
    return _convolution("conv1d", 1, input, weight, bias, stride, pad_mode, padding, dilation, groups)


@lift
def conv2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    pad_mode: str = "valid",
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Cross-correlation over two axes. Shapes: (N, C, H, W), (O, C/groups, KH, KW) -> (N, O, H', W').

    pad_mode: 'valid' none, 'same' so that H' = ceil(H/stride), 'pad' by `padding`: an int, (h, w) or (top, bottom,
    left, right).
    Errors: ValueError for shapes or arguments that do not fit, TypeError when the dtypes of input and weight differ.

    >>> import graphopt as ms
    >>> ms.ops.conv2d(ms.ops.ones((1, 3, 9, 9)), ms.ops.ones((8, 3, 3, 3)), stride=2).shape
    (1, 8, 4, 4)
    """
    return _convolution("conv2d", 2, input, weight, bias, stride, pad_mode, padding, dilation, groups)


@lift
def conv3d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    pad_mode: str = "valid",
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Cross-correlation over three axes. Shapes: (N, C, D, H, W), (O, C/groups, KD, KH, KW).

    >>> import graphopt as ms
    >>> ms.ops.conv3d(ms.ops.ones((1, 1, 2, 3, 3)), ms.ops.ones((4, 1, 2, 2, 2))).shape
    (1, 4, 1, 2, 2)
    """
    return _convolution("conv3d", 3, input, weight, bias, stride, pad_mode, padding, dilation, groups)
