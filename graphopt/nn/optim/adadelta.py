"""Adadelta."""

from __future__ import annotations

from typing import Any

from graphopt.common.checks import check_number
from graphopt.ir.graph import Node
from graphopt.nn.optim.optimizer import Optimizer, update
from graphopt.opdefs.math import sqrt


class Adadelta(Optimizer):
    """Steps measured by the running size of the earlier steps.

        n = rho·n + (1 - rho)·g²;   step = g·sqrt(d + epsilon)/sqrt(n + epsilon)
        d = rho·d + (1 - rho)·step²;   w -= lr·step

    State: `accum.*` (n), `accum_update.*` (d), zeros. Groups, rates, decay, scale: see Optimizer.

    Shapes: gradients as the parameters. Dtypes: float16, bfloat16, float32, float64 parameters.
    Errors: TypeError when rho or epsilon is no float; ValueError for rho outside [0, 1] or epsilon < 0.
    Source: Zeiler 2012 (arXiv 1212.5701).

    >>> import graphopt as ms
    >>> p = ms.Parameter(ms.Tensor([1.0, 2.0]), name="p")
    >>> optimizer = ms.nn.Adadelta([p], rho=0.0, epsilon=1.0)
    >>> optimizer((ms.Tensor([0.75, 0.75]),))
    (True,)
    >>> [round(v, 4) for v in p.asnumpy().tolist()]
    [0.4, 1.4]
    """

    def __init__(
        self,
        params: Any,
        learning_rate: Any = 1.0,
        rho: float = 0.9,
        epsilon: float = 1e-6,
        loss_scale: float = 1.0,
        weight_decay: Any = 0.0,
    ) -> None:
        params = list(params) if hasattr(params, "__next__") else params
        super().__init__(learning_rate, params, weight_decay, loss_scale)
        check_number("Adadelta", "rho", rho, low=0, ints=False)
        if rho > 1:
            raise ValueError(f"Adadelta: rho must be in [0, 1], found {rho}")
        check_number("Adadelta", "epsilon", epsilon, low=0, ints=False)
        self.rho, self.epsilon = rho, epsilon
        self.accum = self.parameters.clone(prefix="accum", init="zeros")
        self.accum_update = self.parameters.clone(prefix="accum_update", init="zeros")
        self.keep_arguments(params, learning_rate, rho=rho, epsilon=epsilon, loss_scale=loss_scale, weight_decay=weight_decay)

    def construct(self, gradients: Any) -> Any:
        gradients = self.prepared(gradients)
        states = zip(self.parameters, self.accum, self.accum_update, strict=True)
        for state, g, lr in zip(states, gradients, self.rates(), strict=True):
            update(self._rule, state, g, lr)
        return self.done()

    def _rule(self, w: Node, n: Node, d: Node, g: Node, lr: Node) -> tuple[Node, ...]:
        n = n * self.rho + g * g * (1.0 - self.rho)
        step = g * sqrt(d + self.epsilon) / sqrt(n + self.epsilon)
        return w - step * lr, n, d * self.rho + step * step * (1.0 - self.rho)
