"""What Model is told about the loss scale: a fixed one, or one that follows the overflows."""

from __future__ import annotations

from graphopt.common.checks import check_int, check_number, check_positive
from graphopt.nn.cell import Cell
from graphopt.nn.loss_scale import DynamicLossScaleUpdateCell, FixedLossScaleUpdateCell


class LossScaleManager:
    """Base of the managers; a manager of your own overrides all three methods.

    >>> import graphopt as ms
    >>> class Eight(ms.amp.LossScaleManager):
    ...     def get_loss_scale(self):
    ...         return 8.0
    ...     def get_update_cell(self):
    ...         return ms.nn.FixedLossScaleUpdateCell(8.0)
    >>> Eight().get_loss_scale()
    8.0
    """

    def get_loss_scale(self) -> float | None:
        """The scale."""
        return None

    def update_loss_scale(self, overflow: bool) -> None:
        """Move the scale after a step of a training loop of one's own."""

    def get_update_cell(self) -> Cell | None:
        """The Cell that nn.TrainOneStepWithLossScaleCell calls; None: overflowing updates are not dropped."""
        return None


class FixedLossScaleManager(LossScaleManager):
    """A scale that stays.

    drop_overflow_update: whether steps with overflow leave the parameters alone. If not, the optimizer needs the
    same loss_scale.
    Errors: TypeError when loss_scale is no number; ValueError when it is below 1.

    >>> import graphopt as ms
    >>> ms.amp.FixedLossScaleManager(1024.0).get_update_cell().get_loss_scale()
    1024.0
    """

    def __init__(self, loss_scale: float = 128.0, drop_overflow_update: bool = True) -> None:
        check_number("FixedLossScaleManager", "loss_scale", loss_scale, low=1)
        self._loss_scale, self._drop = loss_scale, drop_overflow_update

    def get_loss_scale(self) -> float:
        return self._loss_scale

    def get_drop_overflow_update(self) -> bool:
        """Whether steps with overflow leave the parameters alone."""
        return self._drop

    def update_loss_scale(self, overflow: bool) -> None:
        """Nothing: the scale stays."""

    def get_update_cell(self) -> Cell | None:
        return FixedLossScaleUpdateCell(self._loss_scale) if self._drop else None


class DynamicLossScaleManager(LossScaleManager):
    """A scale that an overflow divides by scale_factor (at least 1 remains) and scale_window steps without one
    multiply by it.

    Steps with overflow leave the parameters alone.
    Errors: TypeError when init_loss_scale or scale_factor is no number or scale_window no int; ValueError when
            init_loss_scale is below 1, scale_factor or scale_window not positive; RuntimeError from
            update_loss_scale after more than 1000 overflows in a row.

    >>> import graphopt as ms
    >>> manager = ms.amp.DynamicLossScaleManager(init_loss_scale=1024, scale_factor=2, scale_window=2)
    >>> manager.update_loss_scale(overflow=True)
    >>> manager.get_loss_scale()
    512.0
    """

    bad_step_max = 1000

    def __init__(self, init_loss_scale: float = 2**24, scale_factor: float = 2, scale_window: int = 2000) -> None:
        owner = "DynamicLossScaleManager"
        check_number(owner, "init_loss_scale", init_loss_scale, low=1)
        check_positive(owner, "scale_factor", scale_factor)
        check_int(owner, "scale_window", scale_window, low=1)
        self.loss_scale, self.scale_factor, self.scale_window = init_loss_scale, scale_factor, scale_window
        self.cur_iter, self.last_overflow_iter, self.bad_step = 1, 0, 0

    def get_loss_scale(self) -> float:
        return self.loss_scale

    def get_drop_overflow_update(self) -> bool:
        """True."""
        return True

    def update_loss_scale(self, overflow: bool) -> None:
        if overflow:
            self.loss_scale = max(self.loss_scale / self.scale_factor, 1)
            self.last_overflow_iter = self.cur_iter
            self.bad_step += 1
        else:
            if (self.cur_iter - self.last_overflow_iter) % self.scale_window == 0:
                self.loss_scale *= self.scale_factor
            self.bad_step = 0
        if self.bad_step > self.bad_step_max:
            raise RuntimeError(f"DynamicLossScaleManager: {self.bad_step} overflows in a row; lower the rate or look for NaN")
        self.cur_iter += 1

    def get_update_cell(self) -> Cell:
        return DynamicLossScaleUpdateCell(self.loss_scale, self.scale_factor, self.scale_window)
