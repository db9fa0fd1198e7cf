"""Layers that collect what THOR needs: second moments of their inputs (A) and of the gradients of their outputs (G)."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from graphopt import ops
from graphopt.common.derivative import with_gradient_hook
from graphopt.common.dtype import float32, float64
from graphopt.common.parameter import Parameter
from graphopt.common.tensor import Tensor, apply
from graphopt.common.trace import active
from graphopt.ir.graph import Node
from graphopt.nn.cell import Cell
from graphopt.nn.layer.basic import Dense, Embedding
from graphopt.nn.layer.conv import Conv2d
from graphopt.nn.layer.embedding import EmbeddingLookup
from graphopt.opdefs.elementwise import cast
from graphopt.opdefs.index import scatter_add
from graphopt.opdefs.linalg import dot_general
from graphopt.opdefs.opdef import constant, full
from graphopt.opdefs.shape import concat, pad, reshape, slice_, transpose
from graphopt.ops.linear import spatial_padding

BLOCK = 128  # larger factors are kept as blocks of this size along their diagonal


def factor_shape(n: int) -> tuple[int, ...]:
    """The shape of a factor over n features: (n, n), or (blocks, 128, 128), the last one filled up with zeros."""
    return (n, n) if n <= BLOCK else (-(-n // BLOCK), BLOCK, BLOCK)


def in_blocks(x: Node, axis: int) -> Node:
    """An axis of more than 128 split into (blocks, 128), filled up with zeros."""
    n = x.shape[axis]
    blocks = -(-n // BLOCK)
    high = tuple(blocks * BLOCK - n if k == axis else 0 for k in range(x.type.rank))
    none = (0,) * x.type.rank
    filled = pad(x, constant(0, x.dtype), low=none, high=high, interior=none) if high[axis] else x
    return reshape(filled, shape=(*x.shape[:axis], blocks, BLOCK, *x.shape[axis + 1 :]))


def second_moment(rows: Node) -> Node:
    """The mean over rows of row^T row: (count, n) -> factor_shape(n)."""
    count, n = rows.shape
    if n <= BLOCK:
        total = dot_general(rows, rows, contract=((0,), (0,)), batch=((), ()))
    else:
        split = in_blocks(rows, 1)
        total = dot_general(split, split, contract=((0,), (0,)), batch=((1,), (1,)))
    return total * (1.0 / max(count, 1))


class RefreshClock:
    """Tells when the factors are due: in every frequency-th call of the optimizer that counts `step`.

    scale:  a factor of the gradients that flow now which the optimizer will not see any more; None: there is none.
    former: the statistics and their values before the last scaled backward pass.
    """

    def __init__(self, step: Parameter, frequency: int) -> None:
        self.step, self.frequency = step, frequency
        self.scale: Any = None
        self.former: list[tuple[Parameter, Tensor]] = []

    def due(self) -> bool:
        return int(self.step._data()[0]) % self.frequency == 0


class ThorLayer(Cell):
    """What the THOR layers share.

    thor: whether statistics are collected when a gradient flows through the layer. They are Parameters that no
    gradient changes, made by `_make_statistics`; an optimizer's clock says in which steps they are needed.
    """

    thor: bool
    _clock: RefreshClock | None
    weight_name = "weight"

    def become_thor(self) -> None:
        """Add the statistics, named after the layer's weight."""
        self.thor, self._clock = True, None
        weight: Parameter = getattr(self, self.weight_name)
        self._prefix = weight.name.removesuffix(self.weight_name)
        self._kind = float64 if weight.dtype is float64 else float32
        self._make_statistics()

    def _statistic(self, name: str, shape: tuple[int, ...], value: float = 0.0) -> Parameter:
        array = np.full(shape, value, self._kind.numpy)
        return Parameter(Tensor(array), name=self._prefix + name, requires_grad=False)

    def _make_statistics(self) -> None:
        raise NotImplementedError

    def _collecting(self) -> bool:
        trace = active()
        if trace is None or not self.thor:
            return False
        return self._clock is None or bool(trace.choose("refresh of THOR's factors", self._clock.due))

    def statistics(self) -> tuple[Parameter, Parameter]:
        """A and G."""
        raise NotImplementedError

    def _with_statistics(self, y: Any, collect: Callable[[Any], None]) -> Any:
        """y, whose gradient, free of a scale that the optimizer will not see either, is shown to `collect` on its way."""

        def collect_unscaled(dout: Any) -> None:
            scale = None if self._clock is None else self._clock.scale
            if scale is not None:  # before it is squared, which could leave float32
                dout = ops.cast(dout, self._kind) / ops.cast(ops.reshape(scale, ()), self._kind)
            collect(dout)

        return with_gradient_hook(type(self).__name__, y, collect_unscaled)


def _rows(x: Any, kind: Any) -> Node:
    wide = x if x.dtype is kind else cast(x, dtype=kind)
    return reshape(wide, shape=(prod(x.shape[:-1]), x.shape[-1]))


class DenseThor(Dense, ThorLayer):
    """Dense that collects A = mean of input^T input and G = mean of gradient^T gradient over its rows, the gradient
    taken at the matrix product.

    Statistics: matrix_a over in_channels, matrix_g over out_channels. More than 128 features are kept as blocks
    (blocks, 128, 128) along the diagonal. Arguments, shapes and errors as Dense.

    >>> import graphopt as ms
    >>> from graphopt.nn.layer.thor_layer import DenseThor
    >>> net = DenseThor(2, 1, weight_init="ones", has_bias=False)
    >>> gradient = ms.grad(net)(ms.Tensor([[1.0, 2.0]]))
    >>> net.matrix_a.asnumpy().tolist(), net.matrix_g.asnumpy().tolist()
    ([[1.0, 2.0], [2.0, 4.0]], [[1.0]])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.become_thor()

    def _make_statistics(self) -> None:
        self.matrix_a = self._statistic("matrix_a", factor_shape(self.in_channels))
        self.matrix_g = self._statistic("matrix_g", factor_shape(self.out_channels))

    def statistics(self) -> tuple[Parameter, Parameter]:
        return self.matrix_a, self.matrix_g

    def construct(self, x: Tensor) -> Any:
        if not self._collecting():
            return super().construct(x)

        def collect(dout: Any) -> None:
            ops.assign(self.matrix_a, apply(lambda n: second_moment(_rows(n, self._kind)), x))
            ops.assign(self.matrix_g, apply(lambda n: second_moment(_rows(n, self._kind)), dout))

        y = self._with_statistics(ops.dense(x, self.weight), collect)
        if self.bias is not None:
            y = y + ops.cast(self.bias, y.dtype)
        return y if self.activation is None else self.activation(y)


class Conv2dThor(Conv2d, ThorLayer):
    """Conv2d that collects A = mean of column column^T over images and output positions, a column being the
    (channel, height, width) patch under the kernel, and G = mean of gradient gradient^T over the same.

    Statistics: matrix_a_cov over in_channels/group · kh · kw (with groups: the mean of theirs), matrix_g_cov over
    out_channels, a_normalizer and g_normalizer: the number of output positions. Arguments, shapes and errors as
    Conv2d.

    >>> import graphopt as ms
    >>> from graphopt.nn.layer.thor_layer import Conv2dThor
    >>> net = Conv2dThor(1, 1, 1, weight_init="ones")
    >>> gradient = ms.grad(net)(ms.Tensor([[[[1.0, 3.0]]]]))
    >>> net.matrix_a_cov.asnumpy().tolist(), net.a_normalizer.asnumpy().tolist()
    ([[5.0]], [2.0])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.become_thor()

    def _make_statistics(self) -> None:
        patch = prod(self.kernel_size) * self.in_channels // self.group
        self.matrix_a_cov = self._statistic("matrix_a_cov", factor_shape(patch))
        self.matrix_g_cov = self._statistic("matrix_g_cov", factor_shape(self.out_channels))
        self.a_normalizer = self._statistic("a_normalizer", (1,), 1.0)
        self.g_normalizer = self._statistic("g_normalizer", (1,), 1.0)

    def statistics(self) -> tuple[Parameter, Parameter]:
        return self.matrix_a_cov, self.matrix_g_cov

    def construct(self, x: Tensor) -> Any:
        if not self._collecting() or x.ndim != 4 or x.shape[1] != self.in_channels:
            return super().construct(x)
        padding = self.padding if isinstance(self.padding, int) or len(self.padding) > 1 else self.padding[0]
        arguments = (self.stride, self.pad_mode, padding, self.dilation, self.group)

        def collect(dout: Any) -> None:
            positions = np.full(1, prod(dout.shape[2:]), self._kind.numpy)
            ops.assign(self.a_normalizer, Tensor(positions))
            ops.assign(self.g_normalizer, Tensor(positions))
            ops.assign(self.matrix_a_cov, apply(lambda n: second_moment(self._columns(n, padding)), x))
            ops.assign(self.matrix_g_cov, apply(lambda n: second_moment(self._pixels(n)), dout))

        y = self._with_statistics(ops.conv2d(x, self.weight, None, *arguments), collect)
        return y if self.bias is None else y + ops.reshape(ops.cast(self.bias, y.dtype), (1, -1, 1, 1))

    def _pixels(self, dout: Node) -> Node:
        """(N, O, H, W) -> (N·H·W, O)."""
        return _rows(transpose(dout, perm=(0, 2, 3, 1)), self._kind)

    def _columns(self, x: Node, padding: Any) -> Node:
        """(N, C, H, W) -> (N·positions·groups, patch)."""
        wide = x if x.dtype is self._kind else cast(x, dtype=self._kind)
        (n, c), image = x.shape[:2], x.shape[2:]
        sides = spatial_padding("Conv2dThor", self.pad_mode, padding, image, self.kernel_size, self.stride, self.dilation)
        low, high = (0, 0, *(a for a, _ in sides)), (0, 0, *(b for _, b in sides))
        filled = pad(wide, constant(0, wide.dtype), low=low, high=high, interior=(0, 0, 0, 0))
        reach = tuple(d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True))
        sizes = tuple((m - r - 1) // s + 1 for m, r, s in zip(filled.shape[2:], reach, self.stride, strict=True))
        parts = [
            reshape(self._shifted(filled, place, sizes), shape=(n, c, 1, prod(sizes))) for place in np.ndindex(*self.kernel_size)
        ]
        columns = concat(*parts, axis=2)
        rows, patch = n * prod(sizes) * self.group, c // self.group * len(parts)
        grouped = reshape(columns, shape=(n, self.group, patch, prod(sizes)))
        return reshape(transpose(grouped, perm=(0, 3, 1, 2)), shape=(rows, patch))

    def _shifted(self, x: Node, place: tuple[int, ...], sizes: tuple[int, ...]) -> Node:
        """What one element of the kernel sees."""
        start = tuple(p * d for p, d in zip(place, self.dilation, strict=True))
        stop = tuple(a + s * (m - 1) + 1 for a, s, m in zip(start, self.stride, sizes, strict=True))
        return slice_(x, start=(0, 0, *start), stop=(*x.shape[:2], *stop), step=(1, 1, *self.stride))


class TableThor(ThorLayer):
    """A table that collects A = how often each id occurs, and G = mean of gradient^T gradient over the ids.

    Statistics: matrix_a (vocab_size,), matrix_g over embedding_size.
    """

    weight_name = "embedding_table"
    vocab_size: int
    embedding_size: int

    def _make_statistics(self) -> None:
        self.matrix_a = self._statistic("matrix_a", (self.vocab_size,))
        self.matrix_g = self._statistic("matrix_g", factor_shape(self.embedding_size))

    def statistics(self) -> tuple[Parameter, Parameter]:
        return self.matrix_a, self.matrix_g

    def construct(self, ids: Tensor) -> Any:
        y = super().construct(ids)
        if not self._collecting():
            return y

        def collect(dout: Any) -> None:
            ops.assign(self.matrix_a, apply(self._counts, ids))
            ops.assign(self.matrix_g, apply(lambda n: second_moment(_rows(n, self._kind)), dout))

        return self._with_statistics(y, collect)

    def _counts(self, ids: Node) -> Node:
        flat = reshape(ids, shape=(ids.type.size,))
        none = full((self.vocab_size,), 0, self._kind)
        return scatter_add(none, flat, full(flat.shape, 1, self._kind), axis=0)


class EmbeddingThor(TableThor, Embedding):
    """Embedding that collects its factors. Arguments, shapes and errors as Embedding; statistics as TableThor.

    >>> import graphopt as ms
    >>> from graphopt.nn.layer.thor_layer import EmbeddingThor
    >>> net = EmbeddingThor(3, 1)
    >>> gradient = ms.grad(lambda ids: net(ids).sum(), None, net.trainable_params())(ms.Tensor([2, 0, 2], ms.int32))
    >>> net.matrix_a.asnumpy().tolist(), net.matrix_g.asnumpy().tolist()
    ([1.0, 0.0, 2.0], [[1.0]])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.become_thor()


class EmbeddingLookupThor(TableThor, EmbeddingLookup):
    """EmbeddingLookup that collects its factors. Arguments, shapes and errors as EmbeddingLookup; statistics as TableThor.

    Its gradient, which may be a RowTensor, is made dense by `nn.thor`.

    >>> import graphopt as ms
    >>> from graphopt.nn.layer.thor_layer import EmbeddingLookupThor
    >>> EmbeddingLookupThor(5, 3).matrix_a.shape
    (5,)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.become_thor()


CONVERTED: dict[type[Cell], type[ThorLayer]] = {
    Dense: DenseThor,
    Conv2d: Conv2dThor,
    Embedding: EmbeddingThor,
    EmbeddingLookup: EmbeddingLookupThor,
}
SPARED = ("rpn_with_loss.rpn_convs_list.", "wide")


def convert(net: Cell) -> None:
    """Let every Dense, Conv2d, Embedding and EmbeddingLookup whose weight is trained become its THOR layer, in place.

    Parameters, names and everything else of the layers stay. Subclasses, converted layers, and paths that hold
    `wide` or `rpn_with_loss.rpn_convs_list.` are left alone.
    """
    for path, cell in net.cells_and_names():
        made = CONVERTED.get(type(cell))
        if made is None or any(part in f"{path.lower()}." for part in SPARED):
            continue
        if getattr(cell, made.weight_name).requires_grad:
            object.__setattr__(cell, "__class__", made)
            assert isinstance(cell, ThorLayer)
            cell.become_thor()
            cell._changed()
