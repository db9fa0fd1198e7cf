"""LAMB."""

from __future__ import annotations

import math
from typing import Any

from graphopt import ops
from graphopt.common.dtype import float32
from graphopt.common.tensor import apply
from graphopt.ir.graph import Node
from graphopt.nn.optim.adam import check_betas
from graphopt.nn.optim.optimizer import Optimizer, norm, update
from graphopt.opdefs.bits import both
from graphopt.opdefs.elementwise import gt, select
from graphopt.opdefs.math import expm1, sqrt


class Lamb(Optimizer):
    """Adam's step, scaled layer by layer to the size of the parameter.

        m = beta1·m + (1 - beta1)·g;   v = beta2·v + (1 - beta2)·g²
        r = (m/(1 - beta1^t)) / (sqrt(v/(1 - beta2^t)) + eps) + weight_decay·w        t = 1, 2, …
        w -= lr·ratio·r,   ratio = ‖w‖/‖r‖, or 1 when one of the norms is 0

    Norms are over the whole parameter. State: `lamb_m.*`, `lamb_v.*` (zeros). Groups, rates, names that decay
    spares: see Optimizer; there is no loss_scale.

    Shapes: gradients as the parameters. Dtypes: float16, bfloat16, float32, float64 parameters.
    Errors: TypeError when beta1, beta2, eps are no floats; ValueError for betas outside (0, 1) or eps <= 0.
    Source: You et al. 2019 (arXiv 1904.00962).

    >>> import graphopt as ms
    >>> p = ms.Parameter(ms.Tensor([3.0, 4.0]), name="p")
    >>> optimizer = ms.nn.Lamb([p], learning_rate=0.1)
    >>> optimizer((ms.Tensor([2.0, 2.0]),))
    (True,)
    >>> [round(v, 3) for v in p.asnumpy().tolist()]
    [2.646, 3.646]
    """

    def __init__(
        self,
        params: Any,
        learning_rate: Any,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-6,
        weight_decay: Any = 0.0,
    ) -> None:
        params = list(params) if hasattr(params, "__next__") else params
        super().__init__(learning_rate, params, weight_decay)
        check_betas("Lamb", beta1, beta2, eps)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.lamb_m = self.parameters.clone(prefix="lamb_m", init="zeros")
        self.lamb_v = self.parameters.clone(prefix="lamb_v", init="zeros")
        self.keep_arguments(params, learning_rate, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)

    def construct(self, gradients: Any) -> Any:
        gradients = self.checked(gradients)
        self.check_step()
        decays = self.decays()
        rates = self.rates()
        gradients = self.gradients_centralization(gradients)
        shares = apply(self._shares, ops.cast(ops.reshape(self.global_step, ()), float32))
        states = zip(self.parameters, self.lamb_m, self.lamb_v, strict=True)
        for state, g, lr, decay in zip(states, gradients, rates, decays, strict=True):
            update(self._rule, state, g, lr, *shares, *decay)
        return self.done()

    def _shares(self, t: Node) -> tuple[Node, Node]:
        """1/(1 - beta^t) for both betas; 1 - beta^t as -expm1(t·log beta), which keeps the digits for small t."""
        return 1.0 / -expm1(t * math.log(self.beta1)), 1.0 / -expm1(t * math.log(self.beta2))

    def _rule(self, w: Node, m: Node, v: Node, g: Node, lr: Node, share1: Node, share2: Node, *decay: Node) -> tuple[Node, ...]:
        m = m * self.beta1 + g * (1.0 - self.beta1)
        v = v * self.beta2 + g * g * (1.0 - self.beta2)
        r = m * share1 / (sqrt(v * share2) + self.eps)
        r = r + w * decay[0] if decay else r
        size, length = norm(w), norm(r)
        ratio = select(both(gt(size, 0.0), gt(length, 0.0)), size / length, size * 0.0 + 1.0)
        return w - r * (ratio * lr), m, v
