"""Averaged stochastic gradient descent."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt import ops
from graphopt.common.checks import check_number
from graphopt.common.dtype import float32
from graphopt.common.parameter import Parameter, ParameterTuple
from graphopt.common.tensor import Tensor, apply
from graphopt.ir.graph import Node
from graphopt.nn.optim.optimizer import Optimizer, update
from graphopt.opdefs.elementwise import eq, maximum, select
from graphopt.opdefs.math import pow_


class ASGD(Optimizer):
    """Gradient descent with a falling rate, which also keeps the mean of the weights.

        w = w·(1 - lambd·eta) - eta·g;   ax += mu·(w - ax), or ax = w while mu is 1            t = 1, 2, …
        then eta = lr/(1 + lambd·lr·t)^alpha;   mu = 1/max(1, t - t0)         (in step 1 eta is lr and mu is 1)

    The mean starts after step t0. State, per parameter: `ax_.*` (zeros), the numbers `mu_<name>` (1) and `eta_<name>`
    (0). Groups, rates, decay: see Optimizer; there is no loss_scale.

    Shapes: gradients as the parameters. Dtypes: float16, bfloat16, float32, float64 parameters.
    Errors: TypeError when lambd, alpha or t0 is no float.
    Source: Polyak and Juditsky 1992, Acceleration of stochastic approximation by averaging.

    >>> import graphopt as ms
    >>> p = ms.Parameter(ms.Tensor([1.0, 2.0]), name="p")
    >>> optimizer = ms.nn.ASGD([p], learning_rate=0.5, lambd=0.0)
    >>> optimizer((ms.Tensor([1.0, 1.0]),))
    (True,)
    >>> p.asnumpy().tolist(), optimizer.ax[0].asnumpy().tolist()
    ([0.5, 1.5], [0.5, 1.5])
    """

    def __init__(
        self,
        params: Any,
        learning_rate: Any = 0.1,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: Any = 0.0,
    ) -> None:
        params = list(params) if hasattr(params, "__next__") else params
        super().__init__(learning_rate, params, weight_decay)
        for name, value in (("lambd", lambd), ("alpha", alpha), ("t0", t0)):
            check_number("ASGD", name, value, ints=False)
        self.lambd, self.alpha, self.t0 = lambd, alpha, t0
        self.mu = ParameterTuple(Parameter(Tensor(np.float32(1)), name=f"mu_{p.name}") for p in self.parameters)
        self.eta = ParameterTuple(Parameter(Tensor(np.float32(0)), name=f"eta_{p.name}") for p in self.parameters)
        self.ax = self.parameters.clone(prefix="ax_", init="zeros")
        self.keep_arguments(params, learning_rate, lambd=lambd, alpha=alpha, t0=t0, weight_decay=weight_decay)

    def construct(self, gradients: Any) -> Any:
        gradients = self.prepared(gradients)
        rates = self.rates()
        t = ops.cast(ops.reshape(self.global_step, ()), float32)
        for k, (p, g, lr) in enumerate(zip(self.parameters, gradients, rates, strict=True)):
            mu = ops.identity(self.mu[k])
            eta, eta_after, mu_after = apply(self._rates_after, self.eta[k], lr, t)
            update(self._rule, (p, self.ax[k]), g, eta, mu)
            ops.assign(self.eta[k], eta_after)
            ops.assign(self.mu[k], mu_after)
        return self.done()

    def _rates_after(self, eta: Node, lr: Node, t: Node) -> tuple[Node, Node, Node]:
        """eta of this step, eta and mu of the next."""
        after = lr / pow_(t * lr * self.lambd + 1.0, self.alpha)
        return select(eq(t, 1.0), lr, eta), after, 1.0 / maximum(t - self.t0, 1.0)

    def _rule(self, w: Node, ax: Node, g: Node, eta: Node, mu: Node) -> tuple[Node, ...]:
        w = w * (1.0 - eta * self.lambd) - g * eta
        return w, select(eq(mu, 1.0), w, ax + (w - ax) * mu)
