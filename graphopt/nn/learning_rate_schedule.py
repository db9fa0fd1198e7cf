"""Learning-rate schedules: Cells from the step to the rate, evaluated inside the training step."""

from __future__ import annotations

import math
from typing import Any

from graphopt import ops
from graphopt.common.checks import check_bool, check_int, check_number, check_positive
from graphopt.common.dtype import float32
from graphopt.common.tensor import Tensor
from graphopt.nn.cell import Cell
from graphopt.nn.dynamic_lr import check_cosine, check_polynomial


class LearningRateSchedule(Cell):
    """Base of the schedules: override `construct(global_step)`.

    Shapes: an int32 step of any shape (optimizers pass (1,)) -> float32 of that shape.
    Errors: NotImplementedError when construct is not overridden.

    >>> import graphopt as ms
    >>> class Halving(ms.nn.learning_rate_schedule.LearningRateSchedule):
    ...     def construct(self, global_step):
    ...         return 0.1 * 0.5 ** global_step.astype(ms.float32)
    >>> round(float(Halving()(ms.Tensor([2], ms.int32)).asnumpy()[0]), 4)
    0.025
    """

    def __init__(self) -> None:
        super().__init__()

    def construct(self, global_step: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must override construct(global_step)")


def _steps(global_step: Tensor) -> Any:
    return ops.cast(global_step, float32)


class _Decay(LearningRateSchedule):
    """What the three decays share: their arguments and the exponent."""

    def __init__(self, learning_rate: float, decay_rate: float, decay_steps: int, is_stair: bool = False) -> None:
        super().__init__()
        owner = type(self).__name__
        self.learning_rate = check_positive(owner, "learning_rate", learning_rate, ints=False)
        self.decay_rate = check_positive(owner, "decay_rate", decay_rate, ints=False)
        self.decay_steps = check_int(owner, "decay_steps", decay_steps, low=1)
        self.is_stair = check_bool(owner, "is_stair", is_stair)

    def periods(self, global_step: Tensor) -> Any:
        """How many times decay_steps have passed; whole ones when is_stair."""
        count = _steps(global_step) / float(self.decay_steps)
        return ops.floor(count) if self.is_stair else count


class ExponentialDecayLR(_Decay):
    """learning_rate · decay_rate^(step/decay_steps); is_stair floors the exponent.

    Shapes: as LearningRateSchedule.
    Errors: TypeError unless the rates are floats, decay_steps an int, is_stair a bool; ValueError for values <= 0.

    >>> import graphopt as ms
    >>> schedule = ms.nn.ExponentialDecayLR(0.1, 0.9, 4)
    >>> round(float(schedule(ms.Tensor(2, ms.int32)).asnumpy()), 6)
    0.094868
    """

    def construct(self, global_step: Tensor) -> Any:
        return self.learning_rate * ops.pow(self.decay_rate, self.periods(global_step))


class NaturalExpDecayLR(_Decay):
    """learning_rate · exp(-decay_rate·step); is_stair: the step rounded down to a multiple of decay_steps.

    Shapes: as LearningRateSchedule. Errors: as ExponentialDecayLR.

    >>> import graphopt as ms
    >>> schedule = ms.nn.NaturalExpDecayLR(0.1, 0.9, 4, True)
    >>> round(float(schedule(ms.Tensor(2, ms.int32)).asnumpy()), 6)
    0.1
    """

    def construct(self, global_step: Tensor) -> Any:
        step = self.periods(global_step) * float(self.decay_steps) if self.is_stair else _steps(global_step)
        return self.learning_rate * ops.exp(step * -self.decay_rate)


class InverseDecayLR(_Decay):
    """learning_rate / (1 + decay_rate·step/decay_steps); is_stair floors step/decay_steps.

    Shapes: as LearningRateSchedule. Errors: as ExponentialDecayLR.

    >>> import graphopt as ms
    >>> schedule = ms.nn.InverseDecayLR(0.1, 0.5, 4, True)
    >>> round(float(schedule(ms.Tensor(4, ms.int32)).asnumpy()), 6)
    0.066667
    """

    def construct(self, global_step: Tensor) -> Any:
        return self.learning_rate / (self.periods(global_step) * self.decay_rate + 1.0)


class CosineDecayLR(LearningRateSchedule):
    """Half a cosine from max_lr down to min_lr over decay_steps steps, then min_lr.

    Shapes: as LearningRateSchedule.
    Errors: TypeError unless the rates are floats; ValueError unless 0 <= min_lr < max_lr and decay_steps > 0.

    >>> import graphopt as ms
    >>> schedule = ms.nn.CosineDecayLR(0.01, 0.1, 8)
    >>> round(float(schedule(ms.Tensor(4, ms.int32)).asnumpy()), 6)
    0.055
    """

    def __init__(self, min_lr: float, max_lr: float, decay_steps: int) -> None:
        super().__init__()
        check_cosine("CosineDecayLR", min_lr, max_lr)
        self.min_lr, self.max_lr = min_lr, max_lr
        self.decay_steps = check_int("CosineDecayLR", "decay_steps", decay_steps, low=1)

    def construct(self, global_step: Tensor) -> Any:
        share = ops.minimum(_steps(global_step), float(self.decay_steps)) / float(self.decay_steps)
        return (ops.cos(share * math.pi) + 1.0) * (0.5 * (self.max_lr - self.min_lr)) + self.min_lr


class PolynomialDecayLR(LearningRateSchedule):
    """(learning_rate - end)·(1 - step/n)^power + end with n = decay_steps, then end; with update_decay_steps n grows
    to the next multiple of decay_steps instead.

    Shapes: as LearningRateSchedule.
    Errors: TypeError for other types; ValueError for a negative end or values <= 0 elsewhere.

    >>> import graphopt as ms
    >>> schedule = ms.nn.PolynomialDecayLR(0.1, 0.01, 4, 1.0)
    >>> round(float(schedule(ms.Tensor(2, ms.int32)).asnumpy()), 6)
    0.055
    """

    def __init__(
        self,
        learning_rate: float,
        end_learning_rate: float,
        decay_steps: int,
        power: float,
        update_decay_steps: bool = False,
    ) -> None:
        super().__init__()
        owner = "PolynomialDecayLR"
        check_polynomial(owner, learning_rate, end_learning_rate, power)
        self.start_learning_rate, self.end_learning_rate, self.power = learning_rate, end_learning_rate, power
        self.decay_steps = check_int(owner, "decay_steps", decay_steps, low=1)
        self.update_decay_steps = check_bool(owner, "update_decay_steps", update_decay_steps)

    def construct(self, global_step: Tensor) -> Any:
        step, span = _steps(global_step), float(self.decay_steps)
        if self.update_decay_steps:
            share = step / (ops.maximum(ops.ceil(step / span), 1.0) * span)
        else:
            share = ops.minimum(step, span) / span
        rest = ops.pow(1.0 - share, self.power)
        return rest * (self.start_learning_rate - self.end_learning_rate) + self.end_learning_rate


class WarmUpLR(LearningRateSchedule):
    """learning_rate · min(step, warmup_steps)/warmup_steps: 0 at step 0.

    Shapes: as LearningRateSchedule.
    Errors: TypeError unless learning_rate is a float and warmup_steps an int; ValueError when one is negative or
            warmup_steps 0.

    >>> import graphopt as ms
    >>> schedule = ms.nn.WarmUpLR(0.1, 2)
    >>> round(float(schedule(ms.Tensor(1, ms.int32)).asnumpy()), 6)
    0.05
    """

    def __init__(self, learning_rate: float, warmup_steps: int) -> None:
        super().__init__()
        self.learning_rate = check_number("WarmUpLR", "learning_rate", learning_rate, low=0, ints=False)
        self.warmup_steps = check_int("WarmUpLR", "warmup_steps", warmup_steps, low=1)

    def construct(self, global_step: Tensor) -> Any:
        span = float(self.warmup_steps)
        return ops.minimum(_steps(global_step), span) / span * self.learning_rate
