"""Dense, Flatten, Dropout, Embedding, Identity and small helpers of networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from graphopt import ops
from graphopt.common.checks import check_bool, check_int, check_type, found
from graphopt.common.dtype import check_dtype, float32
from graphopt.common.initializer import HeUniform, Uniform, initializer
from graphopt.common.parameter import Parameter
from graphopt.common.ranges import check_range
from graphopt.common.signature import operand
from graphopt.common.tensor import Tensor
from graphopt.errors import DTypeError, layout
from graphopt.ir.types import DType
from graphopt.nn.cell import Cell
from graphopt.nn.layer.activation import get_activation
from graphopt.ops.primitives import Primitive
from graphopt.ops.random import check_probability, dropout_channels
from graphopt.where import here


def make_parameter(owner: str, name: str, init: Any, shape: Sequence[int], dtype: DType, **flags: Any) -> Parameter:
    """A Parameter of that shape, drawn from `init`.

    Errors: ValueError when init is a Tensor of another shape.
    """
    if isinstance(init, Tensor) and tuple(init.shape) != tuple(shape):
        raise ValueError(f"{owner}: {name}_init must have shape {tuple(shape)}, found {tuple(init.shape)}")
    return Parameter(initializer(init, list(shape), dtype), name=name, **flags)


class Dense(Cell):
    """activation(x @ weight.T + bias).

    Parameters: weight (out_channels, in_channels), HeUniform(sqrt(5)) unless weight_init says otherwise; bias
    (out_channels,), uniform on ±1/sqrt(in_channels) unless bias_init says otherwise.
    activation: None, a name ('relu', …), a Cell or a Primitive.

    Shapes: (…, in_channels) -> (…, out_channels). Dtypes: floats.
    Errors: TypeError or ValueError for channels that are no ints > 0, a has_bias that is no bool, another
            activation, or initial Tensors of another shape; ValueError when the input does not end with in_channels.

    >>> import graphopt as ms
    >>> net = ms.nn.Dense(3, 4, activation='relu')
    >>> net(ms.ops.ones((2, 3), ms.float32)).shape
    (2, 4)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        weight_init: Any = None,
        bias_init: Any = None,
        has_bias: bool = True,
        activation: Any = None,
        dtype: DType = float32,
    ) -> None:
        super().__init__()
        self.in_channels = check_int("Dense", "in_channels", in_channels, low=1)
        self.out_channels = check_int("Dense", "out_channels", out_channels, low=1)
        self.has_bias = check_bool("Dense", "has_bias", has_bias)
        kind = check_dtype("Dense", dtype)
        weight_init = HeUniform(math.sqrt(5)) if weight_init is None else weight_init
        self.weight = make_parameter("Dense", "weight", weight_init, (out_channels, in_channels), kind)
        self.bias = None
        if has_bias:
            bias_init = Uniform(1 / math.sqrt(in_channels)) if bias_init is None else bias_init
            self.bias = make_parameter("Dense", "bias", bias_init, (out_channels,), kind)
        self.activation = get_activation(activation) if isinstance(activation, str) else activation
        if self.activation is not None and not isinstance(self.activation, (Cell, Primitive)):
            raise TypeError(f"Dense: activation must be a str, Cell or Primitive, found {found(activation)}")
        self.activation_flag = self.activation is not None

    def construct(self, x: Tensor) -> Any:
        y = ops.dense(x, self.weight, self.bias)
        return y if self.activation is None else self.activation(y)

    def extend_repr(self) -> str:
        return f"input_channels={self.in_channels}, output_channels={self.out_channels}, has_bias={self.has_bias}"


class Flatten(Cell):
    """The axes start_dim … end_dim as one.

    Errors: TypeError when an argument is no int; ValueError when there is no such axis.

    >>> import graphopt as ms
    >>> ms.nn.Flatten()(ms.ops.ones((2, 3, 4))).shape
    (2, 12)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = check_int("Flatten", "start_dim", start_dim)
        self.end_dim = check_int("Flatten", "end_dim", end_dim)

    def construct(self, x: Tensor) -> Any:
        return ops.flatten(x, start_dim=self.start_dim, end_dim=self.end_dim)


class Identity(Cell):
    """The input itself. Arguments are accepted and ignored.

    >>> import graphopt as ms
    >>> ms.nn.Identity()(ms.Tensor([1, 2])).asnumpy().tolist()
    [1, 2]
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def construct(self, x: Any) -> Any:
        return x


class Dropout(Cell):
    """In training each element is zeroed with probability p, the others are divided by 1 - p; else the input itself.

    keep_prob: the former name of 1 - p, used when p is None.
    Every call, also of a compiled step, draws anew from the global seed's stream.

    Shapes: any. Dtypes: floats.
    Errors: TypeError for other types; ValueError unless 0 <= p < 1 (0 < keep_prob <= 1).

    >>> import graphopt as ms
    >>> net = ms.nn.Dropout(p=0.5)
    >>> net(ms.Tensor([1.0, 2.0])).asnumpy().tolist()
    [1.0, 2.0]
    >>> sorted(set(net.set_train()(ms.ops.ones(1000)).asnumpy().tolist()))
    [0.0, 2.0]
    """

    def __init__(self, keep_prob: float = 0.5, p: float | None = None, dtype: DType = float32) -> None:
        super().__init__()
        if p is None:
            check_type("Dropout", "keep_prob", keep_prob, float)
            if not 0 < keep_prob <= 1:
                raise ValueError(f"Dropout: keep_prob must be in (0, 1], found {keep_prob}")
        self.keep_prob, self.p = keep_prob, p
        self._probability = check_probability("Dropout", "p", 1.0 - keep_prob if p is None else p)

    def construct(self, x: Tensor) -> Any:
        return ops.dropout(x, self._probability) if self.training else x

    def extend_repr(self) -> str:
        return f"p={self._probability}"


class _ChannelDropout(Cell):
    """What Dropout1d to Dropout3d share: whole channels are zeroed."""

    _axes = 0

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = check_probability(type(self).__name__, "p", p)

    def construct(self, x: Tensor) -> Any:
        if x.ndim not in (self._axes + 1, self._axes + 2):
            raise ValueError(
                f"{type(self).__name__}: expected {self._axes + 1} or {self._axes + 2} axes, found shape {x.shape}"
            )
        return dropout_channels(x, self.p, self._axes) if self.training else x

    def extend_repr(self) -> str:
        return f"p={self.p}"


class Dropout1d(_ChannelDropout):
    """In training each channel (N, C) of (N, C, L) is zeroed with probability p, the others divided by 1 - p.

    Errors: TypeError or ValueError unless 0 <= p < 1.

    >>> import graphopt as ms
    >>> ms.nn.Dropout1d(0.5).set_train()(ms.ops.ones((2, 3, 4))).shape
    (2, 3, 4)
    """

    _axes = 1


class Dropout2d(_ChannelDropout):
    """In training each channel (N, C) of (N, C, H, W) is zeroed with probability p, the others divided by 1 - p.

    Errors: TypeError or ValueError unless 0 <= p < 1.

    >>> import graphopt as ms
    >>> ms.nn.Dropout2d(0.5).set_train()(ms.ops.ones((2, 3, 4, 4))).shape
    (2, 3, 4, 4)
    """

    _axes = 2


class Dropout3d(_ChannelDropout):
    """In training each channel (N, C) of (N, C, D, H, W) is zeroed with probability p, the others divided by 1 - p.

    Errors: TypeError or ValueError unless 0 <= p < 1.

    >>> import graphopt as ms
    >>> ms.nn.Dropout3d(0.5).set_train()(ms.ops.ones((2, 3, 2, 2, 2))).shape
    (2, 3, 2, 2, 2)
    """

    _axes = 3


class Embedding(Cell):
    """The rows of a table at the given ids.

    Parameters: embedding_table (vocab_size, embedding_size), 'normal' unless embedding_table says otherwise; row
    padding_idx starts as zeros.
    use_one_hot: multiply by one-hot rows instead of gathering.

    Shapes: ids of any shape -> ids.shape + (embedding_size,). Dtypes: integer ids.
    Errors: TypeError or ValueError for arguments that do not fit, ids that are no integers, or one outside the table;
            an id that the graph itself computes is not checked and reads 0.

    >>> import graphopt as ms
    >>> ms.nn.Embedding(20, 5)(ms.Tensor([[1, 2, 3]], ms.int32)).shape
    (1, 3, 5)
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_size: int,
        use_one_hot: bool = False,
        embedding_table: Any = "normal",
        dtype: DType = float32,
        padding_idx: int | None = None,
    ) -> None:
        super().__init__()
        self.vocab_size = check_int("Embedding", "vocab_size", vocab_size, low=1)
        self.embedding_size = check_int("Embedding", "embedding_size", embedding_size, low=1)
        self.use_one_hot = check_bool("Embedding", "use_one_hot", use_one_hot)
        self.dtype = check_dtype("Embedding", dtype)
        self.padding_idx = padding_idx
        table = make_parameter(
            "Embedding", "embedding_table", embedding_table, (vocab_size, embedding_size), self.dtype
        )
        if padding_idx is not None:
            if not 0 <= check_int("Embedding", "padding_idx", padding_idx) < vocab_size:
                raise ValueError(f"Embedding: padding_idx must be in [0, {vocab_size}), found {padding_idx}")
            values = table.asnumpy()
            values[padding_idx] = 0
            table.set_data(Tensor(values))
        self.embedding_table = table

    def construct(self, ids: Tensor) -> Any:
        if not ids.dtype.is_integer:
            hint = "convert them: ids.astype(ms.int32)"
            raise DTypeError(layout(f"Embedding: ids must be integers, found {ids.dtype!r}", here(), [operand("ids", ids)], hint))
        check_range("Embedding", "id", ids, self.vocab_size)
        if self.use_one_hot:
            one_hot = ops.one_hot(ids, self.vocab_size, 1.0, 0.0)
            return ops.matmul(ops.cast(one_hot, self.dtype), self.embedding_table)
        return ops.gather(self.embedding_table, ids, 0)

    def extend_repr(self) -> str:
        return f"vocab_size={self.vocab_size}, embedding_size={self.embedding_size}, use_one_hot={self.use_one_hot}"


class OneHot(Cell):
    """on_value at the position each index names along a new axis, off_value elsewhere.

    Errors: TypeError when indices are no integers.

    >>> import graphopt as ms
    >>> ms.nn.OneHot(depth=3)(ms.Tensor([1, 0])).asnumpy().tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """

    def __init__(
        self, axis: int = -1, depth: int = 1, on_value: float = 1.0, off_value: float = 0.0, dtype: DType = float32
    ) -> None:
        super().__init__()
        self.axis, self.depth = check_int("OneHot", "axis", axis), check_int("OneHot", "depth", depth, low=0)
        self.on_value, self.off_value, self.dtype = on_value, off_value, check_dtype("OneHot", dtype)

    def construct(self, indices: Tensor) -> Any:
        made = ops.one_hot(indices, self.depth, float(self.on_value), float(self.off_value), self.axis)
        return ops.cast(made, self.dtype)


class Pad(Cell):
    """Elements added at both ends of every axis: paddings ((before, after), …), one pair per axis.

    mode: 'CONSTANT' (zeros), 'REFLECT' (without the edge) or 'SYMMETRIC' is not offered.
    Errors: TypeError when paddings is no tuple; ValueError for another mode or other pairs.

    >>> import graphopt as ms
    >>> ms.nn.Pad(((1, 0),))(ms.Tensor([1.0, 2.0])).asnumpy().tolist()
    [0.0, 1.0, 2.0]
    """

    def __init__(self, paddings: tuple[tuple[int, int], ...], mode: str = "CONSTANT") -> None:
        super().__init__()
        check_type("Pad", "paddings", paddings, tuple)
        if any(not isinstance(pair, (tuple, list)) or len(pair) != 2 for pair in paddings):
            raise ValueError(f"Pad: paddings must hold pairs, found {found(paddings)}")
        if mode not in ("CONSTANT", "REFLECT"):
            raise ValueError(f"Pad: mode must be 'CONSTANT' or 'REFLECT', found {mode!r}")
        self.paddings, self.mode = paddings, mode

    def construct(self, x: Tensor) -> Any:
        numbers = tuple(int(n) for pair in reversed(self.paddings) for n in pair)
        return ops.pad(x, numbers, self.mode.lower())


class Norm(Cell):
    """The Euclidean norm over `axis` (() for all axes).

    >>> import graphopt as ms
    >>> float(ms.nn.Norm()(ms.Tensor([3.0, 4.0])).asnumpy())
    5.0
    """

    def __init__(self, axis: Any = (), keep_dims: bool = False) -> None:
        super().__init__()
        check_type("Norm", "axis", axis, int, tuple)
        self.axis, self.keep_dims = axis, check_bool("Norm", "keep_dims", keep_dims)

    def construct(self, x: Tensor) -> Any:
        return ops.norm(x, dim=self.axis, keepdim=self.keep_dims)


class ClipByNorm(Cell):
    """x scaled down so that its Euclidean norm over `axis` (None: all) is at most clip_norm.

    >>> import graphopt as ms
    >>> [round(v, 4) for v in ms.nn.ClipByNorm()(ms.Tensor([3.0, 4.0]), ms.Tensor(1.0)).asnumpy().tolist()]
    [0.6, 0.8]
    """

    def __init__(self, axis: Any = None) -> None:
        super().__init__()
        self.axis = axis

    def construct(self, x: Tensor, clip_norm: Any) -> Any:
        size = ops.norm(x, dim=self.axis, keepdim=True)
        return x * clip_norm / ops.maximum(size, clip_norm)


class MatMul(Cell):
    """The matrix product, each input possibly with its last two axes swapped.

    >>> import graphopt as ms
    >>> ms.nn.MatMul(transpose_x2=True)(ms.ops.ones((2, 3)), ms.ops.ones((4, 3))).shape
    (2, 4)
    """

    def __init__(self, transpose_x1: bool = False, transpose_x2: bool = False) -> None:
        super().__init__()
        self.transpose_x1 = check_bool("MatMul", "transpose_x1", transpose_x1)
        self.transpose_x2 = check_bool("MatMul", "transpose_x2", transpose_x2)

    def construct(self, x1: Tensor, x2: Tensor) -> Any:
        x1 = ops.swapaxes(x1, -1, -2) if self.transpose_x1 and x1.ndim > 1 else x1
        x2 = ops.swapaxes(x2, -1, -2) if self.transpose_x2 and x2.ndim > 1 else x2
        return ops.matmul(x1, x2)
