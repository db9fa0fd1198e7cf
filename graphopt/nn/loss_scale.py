"""Training with a scaled loss: how the scale follows overflows; the step that drops overflowing updates."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt import ops
from graphopt.common import nan_check
from graphopt.common.checks import check_int, check_number, found
from graphopt.common.dtype import float32, float64
from graphopt.common.parameter import Parameter
from graphopt.common.row_tensor import map_tensor
from graphopt.common.tensor import Tensor, to_tensor
from graphopt.common.trace import active
from graphopt.nn.cell import Cell
from graphopt.nn.optim.optimizer import Optimizer
from graphopt.nn.wrap import TrainOneStepCell, loss_and_gradients
from graphopt.ops.finite import all_finite


class FixedLossScaleUpdateCell(Cell):
    """(scale, overflow) -> overflow; the scale stays.

    Errors: TypeError when loss_scale_value is no number.

    >>> import graphopt as ms
    >>> update = ms.nn.FixedLossScaleUpdateCell(64.0)
    >>> update.get_loss_scale()
    64.0
    """

    def __init__(self, loss_scale_value: float) -> None:
        super().__init__()
        check_number("FixedLossScaleUpdateCell", "loss_scale_value", loss_scale_value)
        self.loss_scale_value = loss_scale_value

    def get_loss_scale(self) -> float:
        """The scale that training starts with."""
        return self.loss_scale_value

    def construct(self, loss_scale: Any, overflow: Any) -> Any:
        return overflow


class DynamicLossScaleUpdateCell(Cell):
    """(scale, overflow) -> overflow, after the scale, a Parameter, was moved.

    An overflow makes it scale / scale_factor, at least 1; scale_window steps without one make it
    scale · scale_factor.

    State: `current_iterator_step` and `last_overflow_iterator_step`, the last step at which the scale moved.
    Errors: TypeError when loss_scale_value or scale_factor is no number or scale_window no int.

    >>> import graphopt as ms
    >>> update = ms.nn.DynamicLossScaleUpdateCell(16.0, scale_factor=2, scale_window=3)
    >>> scale = ms.Parameter(ms.Tensor(update.get_loss_scale()), name="scale")
    >>> bool(update(scale, ms.Tensor(True)))
    True
    >>> float(scale.asnumpy())
    8.0
    """

    def __init__(self, loss_scale_value: float, scale_factor: float, scale_window: int) -> None:
        super().__init__()
        owner = "DynamicLossScaleUpdateCell"
        check_number(owner, "loss_scale_value", loss_scale_value)
        check_number(owner, "scale_factor", scale_factor)
        check_int(owner, "scale_window", scale_window)
        self.loss_scale_value, self.scale_factor, self.scale_window = (
            loss_scale_value,
            scale_factor,
            scale_window,
        )
        self.cur_iter = Parameter(Tensor(np.int32(1)), name="current_iterator_step")
        self.last_overflow_iter = Parameter(Tensor(np.int32(0)), name="last_overflow_iterator_step")

    def get_loss_scale(self) -> float:
        """The scale that training starts with."""
        return self.loss_scale_value

    def construct(self, loss_scale: Any, overflow: Any) -> Any:
        flag = overflow if isinstance(overflow, Tensor) else Tensor(bool(overflow))
        flag = ops.reshape(flag, ())
        grow = self.cur_iter - self.last_overflow_iter >= self.scale_window
        smaller = ops.maximum(loss_scale / float(self.scale_factor), 1.0)
        larger = ops.select(grow, loss_scale * float(self.scale_factor), loss_scale)
        ops.assign(loss_scale, ops.select(flag, smaller, larger))
        moved = ops.logical_or(flag, grow)
        ops.assign(self.last_overflow_iter, ops.select(moved, self.cur_iter, self.last_overflow_iter))
        ops.assign_add(self.cur_iter, 1)
        return overflow


class TrainOneStepWithLossScaleCell(TrainOneStepCell):
    """One training step with a scaled loss: (loss, overflow, scale). In GRAPH_MODE one compiled function, which
    also decides whether the update counts.

    The gradients of scale · loss are multiplied by 1 / scale. Overflow means that one of them is not finite:
    then parameters, optimizer state and global_step stay as they were. The scale comes back as it is after the
    step: in PYNATIVE_MODE as the Parameter itself.

    scale_sense: a Cell with `get_loss_scale()` that is called with (scale, overflow), as
                 nn.DynamicLossScaleUpdateCell; or a Tensor of shape () or (1,), which `set_sense_scale` replaces.
    State: `scale_sense`, and that of the Cell.
    Shapes: the network's loss; () for overflow.
    Errors: TypeError when network or optimizer is no Cell or scale_sense neither Cell nor Tensor; ValueError for
            a Tensor of another shape.

    >>> import graphopt as ms
    >>> net = ms.nn.Dense(1, 1, weight_init='ones', has_bias=False)
    >>> loss_net, optimizer = ms.nn.WithLossCell(net, ms.nn.MSELoss()), ms.nn.SGD(net.trainable_params(), 0.1)
    >>> update = ms.nn.DynamicLossScaleUpdateCell(1024.0, 2, 100)
    >>> step = ms.nn.TrainOneStepWithLossScaleCell(loss_net, optimizer, update)
    >>> loss, overflow, scale = step(ms.Tensor([[float("inf")]]), ms.Tensor([[1.0]]))
    >>> bool(overflow), float(scale), net.weight.asnumpy().tolist()
    (True, 512.0, [[1.0]])
    >>> loss, overflow, scale = step(ms.Tensor([[2.0]]), ms.Tensor([[1.0]]))
    >>> bool(overflow), float(loss), round(float(net.weight.asnumpy()[0, 0]), 4)
    (False, 1.0, 0.6)
    """

    def __init__(self, network: Cell, optimizer: Cell, scale_sense: Any) -> None:
        super().__init__(network, optimizer, sens=None)
        owner = "TrainOneStepWithLossScaleCell"
        if isinstance(scale_sense, Cell):
            self.loss_scaling_manager: Any = scale_sense
            scale: Any = Tensor(np.float32(scale_sense.get_loss_scale()))
        elif isinstance(scale_sense, Tensor):
            if scale_sense.shape not in ((), (1,)):
                raise ValueError(
                    f"{owner}: scale_sense must have shape () or (1,), found {scale_sense.shape}"
                )
            self.loss_scaling_manager = None
            scale = scale_sense
        else:
            raise TypeError(f"{owner}: scale_sense must be a Cell or a Tensor, found {found(scale_sense)}")
        self.scale_sense = Parameter(scale, name="scale_sense")
        self._compute = loss_and_gradients(self.network, self.weights, self.scale_sense)
        self._value_and_grad = self._scaled

    def _scaled(self, *inputs: Any) -> Any:
        """(loss, gradients times the scale)."""
        if not isinstance(self.optimizer, Optimizer):
            return self._compute(*inputs)
        with self.optimizer.scaled_by(self.scale_sense):
            return self._compute(*inputs)

    def construct(self, *inputs: Any) -> Any:
        if isinstance(self.optimizer, Optimizer):
            self.optimizer.check_step()
        with nan_check.unchecked():  # an overflow is dealt with below
            loss, scaled = self._value_and_grad(*inputs)
        factor = ops.reshape(ops.reciprocal(self.scale_sense), ())
        gradients = tuple(map_tensor(g, lambda t: _times(t, factor)) for g in scaled)
        overflow = self.get_overflow_status(None, gradients)
        self.update_unless(self.process_loss_scale(overflow), gradients)
        return loss, overflow, self.scale_sense

    def set_sense_scale(self, sens: Tensor) -> None:
        """Replace the scale; nothing is compiled again.

        Errors: TypeError when sens is no Tensor; ValueError when it has another shape than the scale.
        """
        if not isinstance(sens, Tensor):
            raise TypeError(f"TrainOneStepWithLossScaleCell: sens must be a Tensor, found {found(sens)}")
        self.scale_sense.set_data(sens)

    def start_overflow_check(self, pre_cond: Any, compute_input: Any) -> tuple[Any, Any]:
        """(a status for get_overflow_status, compute_input); there is nothing to clear."""
        return Tensor(np.zeros(8, np.int32)), compute_input

    def get_overflow_status(self, status: Any, compute_output: Any) -> Tensor:
        """Whether some tensor of compute_output holds NaN or an infinity: a bool Tensor of shape ()."""
        return ops.logical_not(all_finite(compute_output))

    def process_loss_scale(self, overflow: Any) -> Any:
        """Move the scale, and say again whether there was an overflow."""
        return (
            overflow
            if self.loss_scaling_manager is None
            else self.loss_scaling_manager(self.scale_sense, overflow)
        )

    def update_unless(self, overflow: Any, gradients: tuple[Tensor, ...]) -> None:
        """Call the optimizer with the gradients; what it changes counts only without overflow.

        For a `construct` of your own, which while tracing cannot say `if not overflow`.
        """
        trace, wanted = active(), ops.reshape(ops.logical_not(to_tensor(overflow)), ())
        if isinstance(self.optimizer, Optimizer):
            self.optimizer.keep_collected_if(wanted)
        if trace is not None and isinstance(overflow, Tensor):
            # Gradients that wait for the answer keep the update in one kernel, in place. It would otherwise be
            # computed where each gradient is, before the answer is there, and copied afterwards.
            gradients = tuple(
                map_tensor(g, lambda t: ops.select(wanted, t, ops.zeros_like(t))) for g in gradients
            )
            with trace.only_where(trace.node_of(wanted)):
                self.optimizer(gradients)
        elif not bool(overflow):
            self.optimizer(gradients)


def _times(gradient: Any, factor: Any) -> Any:
    """The product in the gradient's dtype, computed in float32 at least."""
    if gradient.dtype in (float32, float64):
        return gradient * ops.cast(factor, gradient.dtype)
    return ops.cast(ops.cast(gradient, float32) * factor, gradient.dtype)
