"""The functional API and the operator classes, under MindSpore's names."""

from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.common.tensor import Tensor as Tensor
from graphopt.common.tensor import is_tensor as is_tensor
from graphopt.ops import array, math, nn, random, state
from graphopt.ops.composite import GradOperation as GradOperation
from graphopt.ops.composite import get_grad as get_grad
from graphopt.ops.composite import grad as grad
from graphopt.ops.composite import value_and_grad as value_and_grad
from graphopt.ops.hooks import HookBackward as HookBackward
from graphopt.ops.hooks import InsertGradientOf as InsertGradientOf
from graphopt.ops.lift import Lifted
from graphopt.ops.primitives import CLASSES, Primitive

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """The names below are made from tables."""


_HIDDEN = {"lift", "fmod_floor"}


def _public(module: Any) -> dict[str, Any]:
    """The functions a module offers."""
    names = {}
    for name, value in vars(module).items():
        if name.startswith("_") or name in _HIDDEN:
            continue
        if isinstance(value, Lifted) or (callable(value) and getattr(value, "__module__", "") == module.__name__):
            names[name] = value
    return names


_NODE_FUNCTIONS = {
    "avg_pool_node", "batch_norm_infer", "batch_norm_train", "dropout_node", "log_sum_exp", "matmul_flags", "max_pool_node",
    "moments", "per_channel", "picked", "pool_padding", "reduced", "softmax_node", "spatial_padding", "take_slices", "weighted",
    "check_probability", "dropped", "dropout_channels", "fresh_key", "stream", "unit", "split_equal",
    "get_rng_state", "set_rng_state",
}  # fmt: skip

for _module in (math, array, nn, random, state):
    globals().update({k: v for k, v in _public(_module).items() if k not in _NODE_FUNCTIONS})
globals().update(CLASSES)
globals()["range"] = array.range_


def batch_norm(
    input_x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any,
    bias: Any,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Channels (axis 1) normalised by the running statistics, or when training by the batch's.

    Training moves Parameters running_mean and running_var by `momentum` towards the batch's mean and unbiased
    variance.
    """
    op: Any = CLASSES["BatchNorm"](is_training=training, epsilon=eps, momentum=momentum)
    return op(input_x, weight, bias, running_mean, running_var)[0]


def unique(input: Tensor) -> tuple[Tensor, Tensor]:
    """(distinct elements in order of appearance, the position among them of every element). Its size depends on
    values, so it works on tensors that have values only.
    """
    flat = input.asnumpy().reshape(-1)
    values, first, inverse = np.unique(flat, return_index=True, return_inverse=True)
    order = np.argsort(first)
    places = np.argsort(order)
    return Tensor(values[order]), Tensor(places[inverse].astype(np.int32).reshape(input.shape))


def nonzero(input: Tensor) -> Tensor:
    """The positions of the elements that are not 0, one row each. Works on tensors that have values only."""
    return Tensor(np.argwhere(input.asnumpy()).astype(np.int64))


class Unique(Primitive):
    """`ops.Unique()(x)`: see `ops.unique`.

    >>> import graphopt as ms
    >>> values, positions = ms.ops.Unique()(ms.Tensor([3, 1, 3]))
    >>> values.asnumpy().tolist(), positions.asnumpy().tolist()
    ([3, 1], [0, 1, 0])
    """

    def __init__(self) -> None:
        super().__init__("Unique")
        self.name = "Unique"

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return unique(x)


def _attach() -> None:
    """Functions that Tensors offer as methods, where there is none yet."""
    for name in [
        "softmax",
        "log_softmax",
        "relu",
        "gather",
        "gather_elements",
        "masked_fill",
        "select",
        "where",
        "tril",
        "triu",
        "flip",
        "roll",
        "cumsum",
        "logsumexp",
        "stop_gradient",
        "bmm",
        "mv",
        "outer",
        "addmm",
        "square",
        "log2",
        "log10",
        "tan",
        "sinh",
        "cosh",
        "asinh",
        "acosh",
        "atanh",
        "erfc",
        "xlogy",
        "fmod",
        "repeat_interleave",
        "unbind",
        "chunk",
        "narrow",
        "movedim",
        "moveaxis",
        "index_select",
        "count_nonzero",
        "type_as",
        "isfinite",
        "gelu",
        "silu",
    ]:
        if not hasattr(Tensor, name):
            setattr(Tensor, name, globals()[name])
    for name in ("unique", "nonzero"):
        if not hasattr(Tensor, name):
            setattr(Tensor, name, globals()[name])


_attach()
