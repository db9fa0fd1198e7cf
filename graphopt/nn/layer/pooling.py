"""Pooling."""

from __future__ import annotations

from typing import Any

from graphopt import ops
from graphopt.common.checks import check_bool, check_format, check_int, check_type, found
from graphopt.common.tensor import Tensor, apply
from graphopt.nn.cell import Cell
from graphopt.ops.pooling import avg_pool_node, max_pool_node


class _Pool(Cell):
    """What the pooling layers share: window, stride, padding; an input without batch axis gets one for the time
    being.
    """

    _rank = 2

    def _read_arguments(self, kernel_size: Any, stride: Any, pad_mode: Any, padding: Any, ceil_mode: Any) -> None:
        owner = type(self).__name__
        check_type(owner, "pad_mode", pad_mode, str)
        if pad_mode.lower() not in ("valid", "same", "pad"):
            raise ValueError(f"{owner}: pad_mode must be 'valid', 'same' or 'pad', found {pad_mode!r}")
        self.pad_mode = pad_mode.upper()
        self.kernel_size = self._sizes("kernel_size", kernel_size)
        self.stride = self._sizes("stride", stride)
        self.padding = self._padding(padding)
        self.ceil_mode = check_bool(owner, "ceil_mode", ceil_mode)

    def _sizes(self, name: str, value: Any) -> tuple[int, ...]:
        owner = type(self).__name__
        check_type(owner, name, value, int, tuple)
        listed = (value,) * self._rank if isinstance(value, int) else value * self._rank if len(value) == 1 else value
        if len(listed) != self._rank:
            raise ValueError(f"{owner}: {name} must be an int or a tuple of {self._rank} ints, found {found(value)}")
        for n in listed:
            if isinstance(n, bool) or not isinstance(n, int) or n < 1:
                raise ValueError(f"{owner}: {name} must be ints > 0, found {found(value)}")
        return tuple(listed)

    def _padding(self, padding: Any) -> Any:
        owner = type(self).__name__
        check_type(owner, "padding", padding, int, tuple, list)
        listed = (padding,) * self._rank if isinstance(padding, int) else tuple(padding)
        listed = listed * self._rank if len(listed) == 1 else listed
        if len(listed) != self._rank:
            raise ValueError(f"{owner}: padding must be an int or {self._rank} ints, found {found(padding)}")
        for n, k in zip(listed, self.kernel_size, strict=True):
            check_int(owner, "padding", n, low=0)
            if 2 * n > k:
                raise ValueError(
                    f"{owner}: padding must be at most half of kernel_size {self.kernel_size}, found {padding}"
                )
        return listed

    def _plain(self, x: Tensor) -> tuple[Any, bool]:
        if x.ndim == self._rank + 1:
            return ops.expand_dims(x, 0), True
        if x.ndim != self._rank + 2:
            raise ValueError(
                f"{type(self).__name__}: expected {self._rank + 1} or {self._rank + 2} axes, found shape {x.shape}"
            )
        return x, False

    def extend_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, pad_mode={self.pad_mode}"


class _MaxPool(_Pool):
    """The largest element of each window."""

    def _read_max(self, dilation: Any, return_indices: Any) -> None:
        owner = type(self).__name__
        self.dilation = self._sizes("dilation", dilation)
        self.return_indices = check_bool(owner, "return_indices", return_indices)
        special = any(self.padding) or any(d != 1 for d in self.dilation) or return_indices or self.ceil_mode
        if self.pad_mode != "PAD" and special:
            raise ValueError(
                f"{owner}: padding, dilation, return_indices and ceil_mode need pad_mode 'pad', found {self.pad_mode!r}"
            )

    def construct(self, x: Tensor) -> Any:
        x, alone = self._plain(x)
        made = apply(
            lambda n: max_pool_node(
                n,
                type(self).__name__,
                self.kernel_size,
                self.stride,
                self.pad_mode,
                self.padding,
                self.dilation,
                self.ceil_mode,
                self.return_indices,
            ),
            x,
        )
        if isinstance(made, tuple):
            values, at = made
            at = ops.cast(at, "int64")
            return (ops.squeeze(values, 0), ops.squeeze(at, 0)) if alone else (values, at)
        return ops.squeeze(made, 0) if alone else made


class MaxPool2d(_MaxPool):
    """The largest element of each window of images.

    pad_mode: 'valid', 'same', or 'pad' (`padding`: an int or (h, w), at most half a window; padding never wins).
    With 'pad' also dilation,
    ceil_mode, and return_indices: (values, int64 positions in the plane).

    Shapes: (N, C, H, W) or (C, H, W). Dtypes: numbers. The derivative goes to the first of several maxima.
    Errors: TypeError or ValueError for arguments that do not fit or another data_format than 'NCHW'.

    >>> import graphopt as ms
    >>> ms.nn.MaxPool2d(2, 2)(ms.Tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).asnumpy().tolist()
    [[[[4.0]]]]
    """

    def __init__(
        self,
        kernel_size: Any = 1,
        stride: Any = 1,
        pad_mode: str = "valid",
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        data_format: str = "NCHW",
    ) -> None:
        super().__init__()
        check_format("MaxPool2d", data_format)
        self._read_arguments(kernel_size, stride, pad_mode, padding, ceil_mode)
        self._read_max(dilation, return_indices)


class MaxPool1d(_MaxPool):
    """The largest element of each window of sequences. Arguments as MaxPool2d.

    Shapes: (N, C, L) or (C, L). Dtypes: numbers.
    Errors: TypeError or ValueError for arguments that do not fit.

    >>> import graphopt as ms
    >>> ms.nn.MaxPool1d(2, 2)(ms.Tensor([[[1.0, 2.0, 3.0, 0.0]]])).asnumpy().tolist()
    [[[2.0, 3.0]]]
    """

    _rank = 1

    def __init__(
        self,
        kernel_size: Any = 1,
        stride: Any = 1,
        pad_mode: str = "valid",
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self._read_arguments(kernel_size, stride, pad_mode, padding, ceil_mode)
        self._read_max(dilation, return_indices)


class _AvgPool(_Pool):
    """The mean of each window."""

    def _read_avg(self, count_include_pad: Any, divisor_override: Any) -> None:
        owner = type(self).__name__
        self.count_include_pad = check_bool(owner, "count_include_pad", count_include_pad)
        self.divisor_override = (
            None if divisor_override is None else check_int(owner, "divisor_override", divisor_override, low=1)
        )
        if self.pad_mode != "PAD" and any(self.padding):
            raise ValueError(f"{owner}: padding needs pad_mode 'pad', found {self.pad_mode!r}")

    def construct(self, x: Tensor) -> Any:
        x, alone = self._plain(x)
        made = apply(
            lambda n: avg_pool_node(
                n,
                type(self).__name__,
                self.kernel_size,
                self.stride,
                self.pad_mode,
                self.padding,
                self.ceil_mode,
                self.count_include_pad,
                self.divisor_override,
            ),
            x,
        )
        return ops.squeeze(made, 0) if alone else made


class AvgPool2d(_AvgPool):
    """The mean of each window of images.

    pad_mode: 'valid', 'same' (padding does not count), or 'pad' (`padding`: an int or (h, w), at most half a window).
    count_include_pad: whether padding counts as zeros with 'pad'. divisor_override: divide by this instead of the
    number of elements.

    Shapes: (N, C, H, W) or (C, H, W). Dtypes: floats.
    Errors: TypeError or ValueError for arguments that do not fit or another data_format than 'NCHW'.

    >>> import graphopt as ms
    >>> ms.nn.AvgPool2d(2, 2)(ms.Tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).asnumpy().tolist()
    [[[[2.5]]]]
    """

    def __init__(
        self,
        kernel_size: Any = 1,
        stride: Any = 1,
        pad_mode: str = "valid",
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        data_format: str = "NCHW",
    ) -> None:
        super().__init__()
        check_format("AvgPool2d", data_format)
        self._read_arguments(kernel_size, stride, pad_mode, padding, ceil_mode)
        self._read_avg(count_include_pad, divisor_override)


class AvgPool1d(_AvgPool):
    """The mean of each window of sequences. Arguments as AvgPool2d.

    Shapes: (N, C, L) or (C, L). Dtypes: floats.
    Errors: TypeError or ValueError for arguments that do not fit.

    >>> import graphopt as ms
    >>> ms.nn.AvgPool1d(2, 2)(ms.Tensor([[[1.0, 2.0, 3.0, 0.0]]])).asnumpy().tolist()
    [[[1.5, 1.5]]]
    """

    _rank = 1

    def __init__(
        self,
        kernel_size: Any = 1,
        stride: Any = 1,
        pad_mode: str = "valid",
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self._read_arguments(kernel_size, stride, pad_mode, padding, ceil_mode)
        self._read_avg(count_include_pad, None)


class AdaptiveAvgPool2d(Cell):
    """Means over a grid of output_size windows, as equal as can be.

    output_size: an int, or (h, w) with None for a size that stays.
    Shapes: (N, C, H, W) or (C, H, W) -> (…, *output_size). Dtypes: floats.
    Errors: TypeError or ValueError for another output_size.

    >>> import graphopt as ms
    >>> ms.nn.AdaptiveAvgPool2d(1)(ms.Tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).asnumpy().tolist()
    [[[[2.5]]]]
    """

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        sizes = output_size if isinstance(output_size, tuple) else (output_size, output_size)
        if len(sizes) != 2:
            raise ValueError(f"AdaptiveAvgPool2d: output_size must be an int or two, found {found(output_size)}")
        for n in sizes:
            if n is not None:
                check_int("AdaptiveAvgPool2d", "output_size", n, low=1)
        self.output_size = sizes

    def construct(self, x: Tensor) -> Any:
        if x.ndim not in (3, 4):
            raise ValueError(f"AdaptiveAvgPool2d: expected 3 or 4 axes, found shape {x.shape}")
        return ops.adaptive_avg_pool2d(x, self.output_size)


class AdaptiveAvgPool1d(Cell):
    """Means over output_size windows, as equal as can be.

    Shapes: (N, C, L) -> (N, C, output_size). Dtypes: floats.
    Errors: TypeError or ValueError when output_size is no int > 0.

    >>> import graphopt as ms
    >>> ms.nn.AdaptiveAvgPool1d(2)(ms.Tensor([[[1.0, 2.0, 3.0, 4.0]]])).asnumpy().tolist()
    [[[1.5, 3.5]]]
    """

    def __init__(self, output_size: int) -> None:
        super().__init__()
        self.output_size = check_int("AdaptiveAvgPool1d", "output_size", output_size, low=1)

    def construct(self, x: Tensor) -> Any:
        return ops.adaptive_avg_pool1d(x, self.output_size)
