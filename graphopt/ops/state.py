"""Writing to Parameters."""

from __future__ import annotations

from typing import Any

from graphopt.common.checks import found
from graphopt.common.parameter import Parameter
from graphopt.common.tensor import Tensor, to_tensor


def assign(variable: Parameter, value: Any) -> Tensor:
    """Let `value` be the Parameter's value from here on; in a graph, when the step has run. The new value comes back.

    Errors: TypeError when variable is no Parameter; ValueError when the shapes differ.

    >>> import graphopt as ms
    >>> p = ms.Parameter(ms.Tensor([1.0, 2.0]), name="p")
    >>> ms.ops.assign(p, ms.Tensor([3.0, 4.0])).asnumpy().tolist()
    [3.0, 4.0]
    """
    _checked(variable)
    new: Any = to_tensor(value)
    if new.dtype is not variable.dtype:
        new = new.astype(variable.dtype)
    if new.shape != variable.shape and new.size == variable.size == 1:
        new = new.reshape(variable.shape)
    variable._assign(new)
    return variable.copy()


def assign_add(variable: Parameter, value: Any) -> Tensor:
    """Add `value` to the Parameter; see assign.

    >>> import graphopt as ms
    >>> ms.ops.assign_add(ms.Parameter(ms.Tensor([1.0]), name="p"), 2.0).asnumpy().tolist()
    [3.0]
    """
    return assign(variable, _checked(variable) + value)


def assign_sub(variable: Parameter, value: Any) -> Tensor:
    """Take `value` off the Parameter; see assign.

    >>> import graphopt as ms
    >>> p = ms.Parameter(ms.Tensor([5.0]), name="p")
    >>> ms.ops.assign_sub(p, ms.Tensor([2.0])).asnumpy().tolist()
    [3.0]
    """
    return assign(variable, _checked(variable) - value)


def _checked(variable: Any) -> Any:
    if not isinstance(variable, Parameter):
        raise TypeError(f"assign: variable must be a Parameter, found {found(variable)}")
    return variable


def apply_momentum(
    variable: Parameter,
    accumulation: Parameter,
    learning_rate: Any,
    gradient: Any,
    momentum: Any,
    use_nesterov: bool = False,
    gradient_scale: float = 1.0,
) -> Tensor:
    """accumulation = momentum * accumulation + gradient; variable -= learning_rate * accumulation (with use_nesterov:
    learning_rate * (gradient + momentum * accumulation)). The variable's new value comes back.

    Errors: TypeError when variable or accumulation is no Parameter; ValueError when shapes differ.

    >>> import graphopt as ms
    >>> w, v = ms.Parameter(ms.Tensor([1.0]), name="w"), ms.Parameter(ms.Tensor([0.0]), name="v")
    >>> ms.ops.ApplyMomentum()(w, v, 0.5, ms.Tensor([1.0]), 0.9).asnumpy().tolist()
    [0.5]
    """
    scaled = gradient if gradient_scale == 1.0 else gradient * gradient_scale
    moved = assign(accumulation, _checked(accumulation) * momentum + scaled)
    return assign_sub(variable, (scaled + moved * momentum if use_nesterov else moved) * learning_rate)
