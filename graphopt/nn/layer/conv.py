"""Convolutions."""

from __future__ import annotations

import math
from typing import Any

from graphopt import ops
from graphopt.common.checks import check_bool, check_choice, check_format, check_int, found, int_tuple
from graphopt.common.dtype import check_dtype, float32
from graphopt.common.initializer import HeUniform, Uniform, fans
from graphopt.common.tensor import Tensor
from graphopt.ir.types import DType
from graphopt.nn.cell import Cell
from graphopt.nn.layer.basic import make_parameter

FORMATS = {1: "NCL", 2: "NCHW", 3: "NCDHW"}


class _Conv(Cell):
    """What the convolutions share: arguments, weight and bias."""

    _rank = 2

    def _read_arguments(
        self, in_channels: Any, out_channels: Any, kernel_size: Any, stride: Any, dilation: Any, group: Any
    ) -> None:
        owner = type(self).__name__
        self.in_channels = check_int(owner, "in_channels", in_channels, low=1)
        self.out_channels = check_int(owner, "out_channels", out_channels, low=1)
        self.kernel_size = int_tuple(owner, "kernel_size", kernel_size, self._rank)
        self.stride = int_tuple(owner, "stride", stride, self._rank)
        self.dilation = int_tuple(owner, "dilation", dilation, self._rank)
        self.group = check_int(owner, "group", group, low=1)
        if in_channels % group or out_channels % group:
            raise ValueError(
                f"{owner}: group must divide in_channels and out_channels, found {group}, {in_channels}, {out_channels}"
            )

    def _read_padding(self, pad_mode: Any, padding: Any) -> None:
        owner = type(self).__name__
        self.pad_mode = check_choice(owner, "pad_mode", pad_mode, ("same", "valid", "pad"))
        if not isinstance(padding, (int, tuple)) or isinstance(padding, bool):
            raise TypeError(f"{owner}: padding must be an int or a tuple of ints, found {found(padding)}")
        numbers = padding if isinstance(padding, tuple) else (padding,)
        for n in numbers:
            check_int(owner, "padding", n, low=0)
        if len(numbers) not in (1, self._rank, 2 * self._rank):
            raise ValueError(f"{owner}: padding must be an int or {2 * self._rank} ints, found {padding}")
        if pad_mode != "pad" and any(numbers):
            raise ValueError(f"{owner}: padding must be 0 when pad_mode is {pad_mode!r}, found {padding}")
        self.padding = padding

    def _make_parameters(self, has_bias: Any, weight_init: Any, bias_init: Any, dtype: Any) -> None:
        owner = type(self).__name__
        kind = check_dtype(owner, dtype)
        shape = (self.out_channels, self.in_channels // self.group, *self.kernel_size)
        weight_init = HeUniform(math.sqrt(5)) if weight_init is None else weight_init
        self.weight = make_parameter(owner, "weight", weight_init, shape, kind)
        self.has_bias = check_bool(owner, "has_bias", has_bias)
        self.bias = None
        if has_bias:
            bias_init = Uniform(1 / math.sqrt(fans(shape)[0])) if bias_init is None else bias_init
            self.bias = make_parameter(owner, "bias", bias_init, (self.out_channels,), kind)

    def construct(self, x: Tensor) -> Any:
        if x.ndim != self._rank + 2 or x.shape[1] != self.in_channels:
            expected = f"{FORMATS[self._rank]} with {self.in_channels} channels"
            raise ValueError(f"{type(self).__name__}: expected an input {expected}, found shape {x.shape}")
        function = {1: ops.conv1d, 2: ops.conv2d, 3: ops.conv3d}[self._rank]
        padding = self.padding if isinstance(self.padding, int) or len(self.padding) > 1 else self.padding[0]
        return function(x, self.weight, self.bias, self.stride, self.pad_mode, padding, self.dilation, self.group)

    def extend_repr(self) -> str:
        return (
            f"input_channels={self.in_channels}, output_channels={self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, pad_mode={self.pad_mode}, padding={self.padding}, dilation={self.dilation}, "
            f"group={self.group}, has_bias={self.has_bias}"
        )


class Conv2d(_Conv):
    """Cross-correlation of images (N, C, H, W) with learned kernels.

    pad_mode: 'same' (output ceil(size/stride); the odd zero stands after), 'valid' (none), 'pad' (`padding`: an int,
    or (top, bottom, left, right)).
    Parameters: weight (out_channels, in_channels/group, kh, kw), HeUniform(sqrt(5)) unless weight_init says
    otherwise; bias (out_channels,), uniform on ±1/sqrt(fan_in).

    Shapes: (N, in_channels, H, W) -> (N, out_channels, H', W'). Dtypes: floats.
    Errors: TypeError or ValueError for arguments that do not fit, padding without pad_mode 'pad', a data_format
            other than 'NCHW', or an input with other channels.

    >>> import graphopt as ms
    >>> net = ms.nn.Conv2d(3, 8, 3, stride=2, has_bias=True)
    >>> net(ms.ops.ones((1, 3, 9, 8))).shape
    (1, 8, 5, 4)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        pad_mode: str = "same",
        padding: Any = 0,
        dilation: Any = 1,
        group: int = 1,
        has_bias: bool = False,
        weight_init: Any = None,
        bias_init: Any = None,
        data_format: str = "NCHW",
        dtype: DType = float32,
    ) -> None:
        super().__init__()
        self._read_arguments(in_channels, out_channels, kernel_size, stride, dilation, group)
        self._read_padding(pad_mode, padding)
        check_format("Conv2d", data_format)
        self.data_format = data_format
        self._make_parameters(has_bias, weight_init, bias_init, dtype)


class Conv1d(_Conv):
    """Cross-correlation of sequences (N, C, L) with learned kernels. Arguments as Conv2d; padding is an int or
    (before, after).

    Parameters: weight (out_channels, in_channels/group, 1, k) as MindSpore stores it, bias (out_channels,).
    Shapes: (N, in_channels, L) -> (N, out_channels, L'). Dtypes: floats.
    Errors: as Conv2d.

    >>> import graphopt as ms
    >>> ms.nn.Conv1d(3, 8, 4, stride=2)(ms.ops.ones((1, 3, 9))).shape
    (1, 8, 5)
    """

    _rank = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        pad_mode: str = "same",
        padding: Any = 0,
        dilation: int = 1,
        group: int = 1,
        has_bias: bool = False,
        weight_init: Any = None,
        bias_init: Any = None,
        dtype: DType = float32,
    ) -> None:
        super().__init__()
        self._read_arguments(in_channels, out_channels, kernel_size, stride, dilation, group)
        self._read_padding(pad_mode, padding)
        window = self.kernel_size
        self.kernel_size = (1, *window)
        self._make_parameters(has_bias, weight_init, bias_init, dtype)
        self.kernel_size = window

    def construct(self, x: Tensor) -> Any:
        if x.ndim != 3 or x.shape[1] != self.in_channels:
            raise ValueError(f"Conv1d: expected an input NCL with {self.in_channels} channels, found shape {x.shape}")
        weight = ops.reshape(self.weight, (self.out_channels, self.in_channels // self.group, *self.kernel_size))
        return ops.conv1d(x, weight, self.bias, self.stride, self.pad_mode, self.padding, self.dilation, self.group)


class Conv3d(_Conv):
    """Cross-correlation of volumes (N, C, D, H, W) with learned kernels. Arguments as Conv2d; padding is an int or
    six of them.

    Parameters: weight (out_channels, in_channels/group, kd, kh, kw), bias (out_channels,).
    Shapes: (N, in_channels, D, H, W) -> (N, out_channels, D', H', W'). Dtypes: floats.
    Errors: as Conv2d.

    >>> import graphopt as ms
    >>> ms.nn.Conv3d(2, 3, 2)(ms.ops.ones((1, 2, 4, 4, 4))).shape
    (1, 3, 4, 4, 4)
    """

    _rank = 3

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        pad_mode: str = "same",
        padding: Any = 0,
        dilation: Any = 1,
        group: int = 1,
        has_bias: bool = False,
        weight_init: Any = None,
        bias_init: Any = None,
        data_format: str = "NCDHW",
        dtype: DType = float32,
    ) -> None:
        super().__init__()
        self._read_arguments(in_channels, out_channels, kernel_size, stride, dilation, group)
        self._read_padding(pad_mode, padding)
        if data_format != "NCDHW":
            raise ValueError(f"Conv3d: data_format must be 'NCDHW', found {data_format!r}")
        self.data_format = data_format
        self._make_parameters(has_bias, weight_init, bias_init, dtype)
