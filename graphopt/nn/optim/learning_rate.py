"""What an optimizer's learning_rate argument becomes: a Parameter, a vector of rates in a Cell, or a schedule."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from graphopt import ops
from graphopt.common.checks import check_number, found
from graphopt.common.parameter import Parameter
from graphopt.common.tensor import Tensor
from graphopt.common.trace import active
from graphopt.nn.cell import Cell
from graphopt.nn.learning_rate_schedule import LearningRateSchedule

EXPECTED = "a float or int >= 0, a Tensor, an iterable of numbers or a LearningRateSchedule"


class VectorLR(Cell):
    """One rate per step, read at global_step.

    Errors: RuntimeError naming step and length when the step is past the end; it comes before anything is changed.
    """

    def __init__(self, values: np.ndarray, name: str) -> None:
        super().__init__()
        self.learning_rate = Parameter(Tensor(values.astype(np.float32)), name=name)
        self.length = len(values)

    def construct(self, global_step: Tensor) -> Any:
        return ops.gather(self.learning_rate, global_step, 0)

    def check(self, step: int) -> None:
        if step >= self.length:
            raise RuntimeError(
                f"learning_rate: it has {self.length} values (steps 0 to {self.length - 1}), found step {step}; "
                "give a longer list or a LearningRateSchedule"
            )


class ConstantLR(Cell):
    """One rate for all steps, beside dynamic ones of other groups."""

    def __init__(self, value: Any, name: str) -> None:
        super().__init__()
        self.learning_rate = Parameter(Tensor(np.float32(value)), name=name)

    def construct(self, global_step: Tensor) -> Any:
        return self.learning_rate.copy()


def read_rate(owner: str, value: Any) -> float | np.ndarray | LearningRateSchedule:
    """A number, a vector, or a schedule, from the argument.

    Errors: TypeError for other types, also str and iterables of other things; ValueError for a negative number, a
            Tensor of two or more axes, or an empty nested thing.
    """
    if isinstance(value, LearningRateSchedule):
        return value
    if isinstance(value, Tensor):
        array = value.asnumpy().astype(np.float32)
        if array.ndim > 1:
            raise ValueError(f"{owner}: a learning_rate Tensor must have 0 or 1 axes, found shape {array.shape}")
        return float(array) if array.ndim == 0 else _vector(owner, array)
    if isinstance(value, (int, float)) and not isinstance(value, np.generic):
        return float(check_number(owner, "learning_rate", float(value), low=0))
    wrong = isinstance(value, (str, bytes, Cell, np.generic)) or (isinstance(value, np.ndarray) and value.ndim == 0)
    if wrong or not isinstance(value, Iterable):
        raise TypeError(f"{owner}: learning_rate must be {EXPECTED}, found {found(value)}")
    listed = list(value)
    if not all(isinstance(v, (int, float, np.number)) or (isinstance(v, Tensor) and v.size == 1) for v in listed):
        raise TypeError(f"{owner}: learning_rate must hold numbers, found {found(value)}")
    return _vector(owner, np.array([float(v) for v in listed], np.float32))


def _vector(owner: str, values: np.ndarray) -> np.ndarray:
    if len(values) == 1:
        warnings.warn(f"{owner}: learning_rate has one value only; the second step will fail", stacklevel=2)
    return values


def guard_steps(rates: Iterable[Any], global_step: Parameter) -> None:
    """See that no VectorLR among `rates` is read past its end: now, or before each run of the graph being traced."""
    vectors = [rate for rate in rates if isinstance(rate, VectorLR)]
    if not vectors:
        return

    def check() -> None:
        step = int(global_step._data()[0])
        for vector in vectors:
            vector.check(step)

    trace = active()
    if trace is None:
        check()
    else:
        trace.guard(check)
