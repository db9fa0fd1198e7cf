"""AdaMax."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt import ops
from graphopt.common.parameter import Parameter
from graphopt.common.tensor import Tensor
from graphopt.ir.graph import Node
from graphopt.nn.optim.adam import check_betas
from graphopt.nn.optim.optimizer import Optimizer, update
from graphopt.opdefs.elementwise import abs_, maximum


class AdaMax(Optimizer):
    """Adam with the largest recent gradient in place of the root of squares.

        m = beta1·m + (1 - beta1)·g;   v = max(beta2·v, |g|)
        w -= lr/(1 - beta1^t)·m/(v + eps)                          t = 1, 2, …

    State: `beta1_power` (shape (1,)), `moment1.*` (m), `moment2.*` (v), zeros. Groups, rates, decay, scale: see
    Optimizer.

    Shapes: gradients as the parameters. Dtypes: float16, bfloat16, float32, float64 parameters.
    Errors: TypeError when beta1, beta2, eps are no floats; ValueError for betas outside (0, 1) or eps <= 0.
    Source: Kingma and Ba 2014 (arXiv 1412.6980), section 7.

    >>> import graphopt as ms
    >>> p = ms.Parameter(ms.Tensor([1.0, 2.0]), name="p")
    >>> optimizer = ms.nn.AdaMax([p], learning_rate=0.5)
    >>> optimizer((ms.Tensor([1.0, 1.0]),))
    (True,)
    >>> [round(v, 4) for v in p.asnumpy().tolist()]
    [0.5, 1.5]
    """

    def __init__(
        self,
        params: Any,
        learning_rate: Any = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-08,
        weight_decay: Any = 0.0,
        loss_scale: float = 1.0,
    ) -> None:
        params = list(params) if hasattr(params, "__next__") else params
        super().__init__(learning_rate, params, weight_decay, loss_scale)
        check_betas("AdaMax", beta1, beta2, eps)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.beta1_power = Parameter(Tensor(np.ones(1, np.float32)), name="beta1_power")
        self.moment1 = self.parameters.clone(prefix="moment1", init="zeros")
        self.moment2 = self.parameters.clone(prefix="moment2", init="zeros")
        self.keep_arguments(
            params,
            learning_rate,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            weight_decay=weight_decay,
            loss_scale=loss_scale,
        )

    def construct(self, gradients: Any) -> Any:
        gradients = self.prepared(gradients)
        rates = self.rates()
        power = ops.assign(self.beta1_power, ops.mul(self.beta1_power, self.beta1))
        correction = ops.reshape(1.0 / (1.0 - power), ())
        states = zip(self.parameters, self.moment1, self.moment2, strict=True)
        for state, g, lr in zip(states, gradients, rates, strict=True):
            update(self._rule, state, g, lr, correction)
        return self.done()

    def _rule(self, w: Node, m: Node, v: Node, g: Node, lr: Node, correction: Node) -> tuple[Node, ...]:
        m = m * self.beta1 + g * (1.0 - self.beta1)
        v = maximum(v * self.beta2, abs_(g))
        return w - m * (lr * correction) / (v + self.eps), m, v
