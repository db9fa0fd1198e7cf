"""Loss scaling for training loops of one's own: scale the loss, unscale the gradients, adjust the scale."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt import ops
from graphopt.common.checks import check_int, check_number, found
from graphopt.common.dtype import float32, float64
from graphopt.common.parameter import Parameter
from graphopt.common.row_tensor import RowTensor
from graphopt.common.tensor import Tensor, to_tensor


class LossScaler(ABC):
    """Base of the scalers; one of your own overrides `scale`, `unscale` and `adjust`.

    >>> import graphopt as ms
    >>> class Off(ms.amp.LossScaler):
    ...     def scale(self, inputs):
    ...         return inputs
    ...     def unscale(self, inputs):
    ...         return inputs
    ...     def adjust(self, grads_finite):
    ...         return False
    >>> Off().scale(3.0)
    3.0
    """

    @abstractmethod
    def scale(self, inputs: Any) -> Any:
        """The loss, or a structure of tensors, times the scale."""

    @abstractmethod
    def unscale(self, inputs: Any) -> Any:
        """Gradients over the scale."""

    @abstractmethod
    def adjust(self, grads_finite: Any) -> Any:
        """Move the scale after a step; whether it can move at all."""


class StaticLossScaler(LossScaler):
    """A scale that stays.

    Errors: TypeError when scale_value is no number; ValueError when it is below 1.

    >>> import graphopt as ms
    >>> scaler = ms.amp.StaticLossScaler(8)
    >>> float(scaler.scale(ms.Tensor(0.5)))
    4.0
    >>> [float(g) for g in scaler.unscale((ms.Tensor(16.0), ms.Tensor(4.0)))]
    [2.0, 0.5]
    """

    def __init__(self, scale_value: float) -> None:
        self.scale_value = _scale_parameter(type(self).__name__, scale_value)

    def scale(self, inputs: Any) -> Any:
        """Every tensor of `inputs`, nested in tuples, lists and dicts, times the scale, in its own dtype."""
        return _mapped(inputs, lambda x: x * self.scale_value, "scale")

    def unscale(self, inputs: Any) -> Any:
        """Every tensor of `inputs`, nested in tuples, lists and dicts, over the scale, in its own dtype."""
        return _mapped(inputs, lambda x: x / self.scale_value, "unscale")

    def adjust(self, grads_finite: Any) -> bool:
        """False: the scale stays."""
        return False


class DynamicLossScaler(StaticLossScaler):
    """A scale that gradients that are not finite divide by scale_factor (at least 1 remains) and scale_window
    finite steps in a row multiply by it, unless it became infinite.

    `scale_value` and `counter` are Parameters, so `adjust` works inside `jit` too.
    Errors: TypeError when scale_value is no number or scale_factor, scale_window no int; ValueError when
            scale_value is below 1 or one of the others not positive.

    >>> import graphopt as ms
    >>> scaler = ms.amp.DynamicLossScaler(1024, scale_factor=2, scale_window=50)
    >>> scaler.adjust(ms.amp.all_finite((ms.Tensor(float("nan")),)))
    True
    >>> float(scaler.scale_value.asnumpy())
    512.0
    """

    def __init__(self, scale_value: float, scale_factor: int, scale_window: int) -> None:
        super().__init__(scale_value)
        self.scale_window = check_int("DynamicLossScaler", "scale_window", scale_window, low=1)
        self.scale_factor = check_int("DynamicLossScaler", "scale_factor", scale_factor, low=1)
        self.counter = Parameter(Tensor(np.int32(0)), name="counter", requires_grad=False)

    def adjust(self, grads_finite: Any) -> bool:
        """Move the scale by whether all gradients were finite, a bool or bool Tensor; True."""
        finite = ops.reshape(to_tensor(grads_finite), ())
        scale, factor = self.scale_value, float(self.scale_factor)
        larger = scale * factor
        due = ops.logical_and(ops.equal(self.counter, self.scale_window - 1), ops.isfinite(larger))
        grown = ops.select(due, larger, scale)
        ops.assign(scale, ops.select(finite, grown, ops.maximum(scale / factor, 1.0)))
        counted = (self.counter + 1) % self.scale_window
        ops.assign(self.counter, ops.select(finite, counted, ops.zeros_like(self.counter)))
        return True


def _scale_parameter(owner: str, value: Any) -> Parameter:
    check_number(owner, "scale_value", value, low=1)
    return Parameter(Tensor(np.float32(value)), name="scale_value", requires_grad=False)


def _mapped(value: Any, rule: Callable[[Any], Any], owner: str) -> Any:
    if isinstance(value, Tensor):
        wide = value if value.dtype in (float32, float64) else ops.cast(value, float32)
        return ops.cast(rule(wide), value.dtype)
    if isinstance(value, RowTensor):
        return value.map_values(lambda part: _mapped(part, rule, owner))
    if isinstance(value, (tuple, list)):
        items = [_mapped(v, rule, owner) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {k: _mapped(v, rule, owner) for k, v in value.items()}
    raise TypeError(f"{owner}: inputs must be a Tensor or tuples, lists and dicts of Tensors, found {found(value)}")
