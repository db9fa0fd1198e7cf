"""Normalisation."""

from __future__ import annotations

from typing import Any

from graphopt import ops
from graphopt.common.checks import check_bool, check_format, check_int, check_number, check_type, found
from graphopt.common.dtype import check_dtype, float32
from graphopt.common.tensor import Tensor
from graphopt.ir.types import DType
from graphopt.nn.cell import Cell
from graphopt.nn.layer.basic import make_parameter
from graphopt.ops.primitives import CLASSES

_ARGUMENTS = """num_features: channels. eps: added to the variance. momentum: share of the old moving statistics that is kept.
    affine: whether gamma and beta are trained. use_batch_statistics: None follows set_train, True and False fix it.
    Parameters: gamma (ones), beta (zeros), moving_mean (zeros) and moving_variance (ones), each (num_features,); the
    last two are state and not trained. Training moves them: moving = momentum·moving + (1 - momentum)·batch, with
    the unbiased batch variance.
"""


class _BatchNorm(Cell):
    """What the BatchNorm layers share."""

    _ranks: tuple[int, ...] = ()

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.9,
        affine: bool = True,
        gamma_init: Any = "ones",
        beta_init: Any = "zeros",
        moving_mean_init: Any = "zeros",
        moving_var_init: Any = "ones",
        use_batch_statistics: bool | None = None,
        data_format: str = "NCHW",
        dtype: DType = float32,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        self.num_features = check_int(owner, "num_features", num_features, low=1)
        self.eps = float(check_number(owner, "eps", eps, low=0))
        if not 0 <= check_number(owner, "momentum", momentum) <= 1:
            raise ValueError(f"{owner}: momentum must be in [0, 1], found {momentum}")
        if use_batch_statistics is not None and not isinstance(use_batch_statistics, bool):
            raise ValueError(
                f"{owner}: use_batch_statistics must be a bool or None, found {found(use_batch_statistics)}"
            )
        check_format(owner, data_format)
        self.use_batch_statistics = use_batch_statistics
        self.momentum = float(momentum)
        affine, kind = check_bool(owner, "affine", affine), check_dtype(owner, dtype)
        shape = (num_features,)
        self.moving_mean = make_parameter(owner, "moving_mean", moving_mean_init, shape, kind, requires_grad=False)
        self.moving_variance = make_parameter(
            owner, "moving_variance", moving_var_init, shape, kind, requires_grad=False
        )
        self.gamma = make_parameter(owner, "gamma", gamma_init, shape, kind, requires_grad=affine)
        self.beta = make_parameter(owner, "beta", beta_init, shape, kind, requires_grad=affine)
        self._train_op = CLASSES["BatchNorm"](is_training=True, epsilon=self.eps, momentum=1.0 - self.momentum)
        self._infer_op = CLASSES["BatchNorm"](is_training=False, epsilon=self.eps)

    def construct(self, x: Tensor) -> Any:
        if x.ndim not in self._ranks or x.shape[1] != self.num_features:
            ranks = " or ".join(map(str, self._ranks))
            raise ValueError(
                f"{type(self).__name__}: expected {ranks} axes and {self.num_features} channels, found shape {x.shape}"
            )
        training = self.training if self.use_batch_statistics is None else self.use_batch_statistics
        op = self._train_op if training else self._infer_op
        return op(x, self.gamma, self.beta, self.moving_mean, self.moving_variance)[0]

    def extend_repr(self) -> str:
        return f"num_features={self.num_features}, eps={self.eps}, momentum={self.momentum}"


class BatchNorm1d(_BatchNorm):
    __doc__ = f"""Channels of (N, C) or (N, C, L) normalised by the batch's statistics in training, by moving ones otherwise.

    {_ARGUMENTS}
    Shapes: (N, C) or (N, C, L), kept. Dtypes: floats.
    Errors: TypeError or ValueError for arguments or inputs that do not fit.
    Source: Ioffe and Szegedy 2015 (arXiv 1502.03167).

    >>> import graphopt as ms
    >>> net = ms.nn.BatchNorm1d(2).set_train()
    >>> [[round(v, 2) for v in row] for row in net(ms.Tensor([[1.0, 4.0], [3.0, 8.0]])).asnumpy().tolist()]
    [[-1.0, -1.0], [1.0, 1.0]]
    """

    _ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    __doc__ = f"""Channels of images (N, C, H, W) normalised by the batch's statistics in training, by moving ones otherwise.

    {_ARGUMENTS}
    Shapes: (N, C, H, W), kept. Dtypes: floats.
    Errors: TypeError or ValueError for arguments or inputs that do not fit.
    Source: Ioffe and Szegedy 2015 (arXiv 1502.03167).

    >>> import graphopt as ms
    >>> net = ms.nn.BatchNorm2d(3)
    >>> net(ms.ops.ones((2, 3, 4, 4))).shape
    (2, 3, 4, 4)
    """

    _ranks = (4,)


class BatchNorm3d(Cell):
    __doc__ = f"""Channels of volumes (N, C, D, H, W) normalised by the batch's statistics in training, by moving ones otherwise.

    {_ARGUMENTS}
    The Parameters belong to a child `bn2d`, as in MindSpore.

    Shapes: (N, C, D, H, W), kept. Dtypes: floats.
    Errors: TypeError or ValueError for arguments or inputs that do not fit.

    >>> import graphopt as ms
    >>> ms.nn.BatchNorm3d(3)(ms.ops.ones((2, 3, 2, 4, 4))).shape
    (2, 3, 2, 4, 4)
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.9,
        affine: bool = True,
        gamma_init: Any = "ones",
        beta_init: Any = "zeros",
        moving_mean_init: Any = "zeros",
        moving_var_init: Any = "ones",
        use_batch_statistics: bool | None = None,
        dtype: DType = float32,
    ) -> None:
        super().__init__()
        self.bn2d = BatchNorm2d(
            num_features,
            eps,
            momentum,
            affine,
            gamma_init,
            beta_init,
            moving_mean_init,
            moving_var_init,
            use_batch_statistics,
            dtype=dtype,
        )

    def construct(self, x: Tensor) -> Any:
        if x.ndim != 5:
            raise ValueError(f"BatchNorm3d: expected 5 axes, found shape {x.shape}")
        n, c, d, h, w = x.shape
        return ops.reshape(self.bn2d(ops.reshape(x, (n, c, d * h, w))), x.shape)


class LayerNorm(Cell):
    """The axes from begin_norm_axis on brought to mean 0 and variance 1, times gamma, plus beta.

    Parameters: gamma (ones) and beta (zeros), of normalized_shape, applied from begin_params_axis on.
    Shapes: (…, *normalized_shape), kept. Dtypes: floats.
    Errors: TypeError when normalized_shape is no tuple or list; ValueError when axes or shapes do not fit.
    Source: Ba, Kiros, Hinton 2016 (arXiv 1607.06450).

    >>> import graphopt as ms
    >>> net = ms.nn.LayerNorm((2,))
    >>> [round(v, 3) for v in net(ms.Tensor([[1.0, 3.0]])).asnumpy()[0].tolist()]
    [-1.0, 1.0]
    """

    def __init__(
        self,
        normalized_shape: Any,
        begin_norm_axis: int = -1,
        begin_params_axis: int = -1,
        gamma_init: Any = "ones",
        beta_init: Any = "zeros",
        epsilon: float = 1e-7,
        dtype: DType = float32,
    ) -> None:
        super().__init__()
        check_type("LayerNorm", "normalized_shape", normalized_shape, tuple, list)
        if not normalized_shape:
            raise ValueError("LayerNorm: normalized_shape must not be empty")
        self.normalized_shape = tuple(check_int("LayerNorm", "normalized_shape", n, low=1) for n in normalized_shape)
        self.begin_norm_axis = check_int("LayerNorm", "begin_norm_axis", begin_norm_axis)
        self.begin_params_axis = check_int("LayerNorm", "begin_params_axis", begin_params_axis)
        self.epsilon = check_number("LayerNorm", "epsilon", epsilon, low=0)
        kind = check_dtype("LayerNorm", dtype)
        self.gamma = make_parameter("LayerNorm", "gamma", gamma_init, self.normalized_shape, kind)
        self.beta = make_parameter("LayerNorm", "beta", beta_init, self.normalized_shape, kind)
        self._op = CLASSES["LayerNorm"](begin_norm_axis, begin_params_axis, self.epsilon)

    def construct(self, x: Tensor) -> Any:
        for axis in (self.begin_norm_axis, self.begin_params_axis):
            if not -x.ndim <= axis < x.ndim:
                raise ValueError(f"LayerNorm: there is no axis {axis} in shape {x.shape}")
        if x.shape[self.begin_params_axis % x.ndim :] != self.normalized_shape:
            raise ValueError(f"LayerNorm: expected a shape ending with {self.normalized_shape}, found {x.shape}")
        return self._op(x, self.gamma, self.beta)[0]

    def extend_repr(self) -> str:
        return f"normalized_shape={self.normalized_shape}, begin_norm_axis={self.begin_norm_axis}, epsilon={self.epsilon}"


class GroupNorm(Cell):
    """Channels in num_groups groups, each group of each sample brought to mean 0 and variance 1, times gamma, plus
    beta.

    Parameters: gamma (ones) and beta (zeros), (num_channels,), trained when affine.
    Shapes: (N, num_channels, …), kept. Dtypes: floats.
    Errors: TypeError or ValueError for arguments that do not fit, or num_channels that are no multiple of num_groups.
    Source: Wu and He 2018 (arXiv 1803.08494).

    >>> import graphopt as ms
    >>> ms.nn.GroupNorm(2, 4)(ms.ops.ones((1, 4, 3, 3))).shape
    (1, 4, 3, 3)
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        gamma_init: Any = "ones",
        beta_init: Any = "zeros",
        dtype: DType = float32,
    ) -> None:
        super().__init__()
        self.num_groups = check_int("GroupNorm", "num_groups", num_groups, low=1)
        self.num_channels = check_int("GroupNorm", "num_channels", num_channels, low=1)
        if num_channels % num_groups:
            raise ValueError(
                f"GroupNorm: num_channels must be a multiple of num_groups, found {num_channels} and {num_groups}"
            )
        self.eps = check_number("GroupNorm", "eps", eps, low=0)
        affine, kind = check_bool("GroupNorm", "affine", affine), check_dtype("GroupNorm", dtype)
        self.gamma = make_parameter("GroupNorm", "gamma", gamma_init, (num_channels,), kind, requires_grad=affine)
        self.beta = make_parameter("GroupNorm", "beta", beta_init, (num_channels,), kind, requires_grad=affine)

    def construct(self, x: Tensor) -> Any:
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ValueError(f"GroupNorm: expected {self.num_channels} channels at axis 1, found shape {x.shape}")
        return ops.group_norm(x, self.num_groups, self.gamma, self.beta, self.eps)

    def extend_repr(self) -> str:
        return f"num_groups={self.num_groups}, num_channels={self.num_channels}"
