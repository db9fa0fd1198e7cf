"""Operators that act on gradients only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphopt.common.checks import found
from graphopt.common.derivative import with_gradient_hook
from graphopt.common.tensor import Tensor


class InsertGradientOf:
    """Identity; in the backward pass the gradient is replaced by `f(gradient)`. None from f leaves it.

    Errors: TypeError when f is no function, or x is no Tensor.

    >>> import graphopt as ms
    >>> double = ms.ops.InsertGradientOf(lambda g: g * 2)
    >>> print(ms.grad(lambda x: double(x) * 3)(ms.Tensor([1.0])))
    [6.]
    """

    def __init__(self, f: Callable[[Tensor], Any]):
        if not callable(f):
            raise TypeError(f"InsertGradientOf: f must be a function, found {found(f)}")
        self.f = f

    def __call__(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise TypeError(f"InsertGradientOf: x must be a Tensor, found {found(x)}")
        return with_gradient_hook("InsertGradientOf", x, self.f)


class HookBackward:
    """Identity; in the backward pass `hook_fn` gets the tuple `(gradient,)` and may return another gradient.

    Errors: TypeError when hook_fn is no function, or an input is no Tensor.

    >>> import graphopt as ms
    >>> halve = ms.ops.HookBackward(lambda grads: grads[0] / 2)
    >>> print(ms.grad(lambda x: halve(x) * 3)(ms.Tensor([1.0])))
    [1.5]
    """

    def __init__(self, hook_fn: Callable[[tuple[Tensor, ...]], Any], cell_id: str = ""):
        if not callable(hook_fn):
            raise TypeError(f"HookBackward: hook_fn must be a function, found {found(hook_fn)}")
        self.hook_fn = hook_fn
        self.cell_id = cell_id

    def __call__(self, *inputs: Tensor) -> Any:
        for k, x in enumerate(inputs):
            if not isinstance(x, Tensor):
                raise TypeError(f"HookBackward: input {k} must be a Tensor, found {found(x)}")
        passed = tuple(with_gradient_hook("HookBackward", x, self._one) for x in inputs)
        return passed[0] if len(passed) == 1 else passed

    def _one(self, gradient: Tensor) -> Any:
        changed = self.hook_fn((gradient,))
        return changed[0] if isinstance(changed, tuple) and len(changed) == 1 else changed
