"""AdamWeightDecay."""

from __future__ import annotations

from typing import Any

from graphopt.ir.graph import Node
from graphopt.nn.optim.adam import check_betas
from graphopt.nn.optim.optimizer import Optimizer, update
from graphopt.opdefs.math import sqrt


class AdamWeightDecay(Optimizer):
    """Adam without bias correction, its weight decay apart from the gradient.

        m = beta1·m + (1 - beta1)·g;   v = beta2·v + (1 - beta2)·g²
        w -= lr·(m/(sqrt(v) + eps) + weight_decay·w)

    State: `adam_m.*`, `adam_v.*` (zeros). Groups, rates, names that are spared: see Optimizer; grad_centralization is
    accepted and has no effect; there is no loss_scale.

    Shapes: gradients as the parameters. Dtypes: float16, bfloat16, float32, float64 parameters.
    Errors: TypeError when beta1, beta2, eps are no floats; ValueError for betas outside (0, 1) or eps <= 0.
    Source: Loshchilov and Hutter 2017 (arXiv 1711.05101); without correction as in Devlin et al. 2018
            (arXiv 1810.04805).

    >>> import graphopt as ms
    >>> p = ms.Parameter(ms.Tensor([1.0, 2.0]), name="p")
    >>> optimizer = ms.nn.AdamWeightDecay([p], learning_rate=0.5, weight_decay=0.5)
    >>> optimizer((ms.Tensor([0.0, 0.0]),))
    (True,)
    >>> p.asnumpy().tolist()
    [0.75, 1.5]
    """

    def __init__(
        self,
        params: Any,
        learning_rate: Any = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-6,
        weight_decay: Any = 0.0,
    ) -> None:
        params = list(params) if hasattr(params, "__next__") else params
        super().__init__(learning_rate, params, weight_decay)
        check_betas("AdamWeightDecay", beta1, beta2, eps)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.adam_m = self.parameters.clone(prefix="adam_m", init="zeros")
        self.adam_v = self.parameters.clone(prefix="adam_v", init="zeros")
        self.keep_arguments(params, learning_rate, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)

    def construct(self, gradients: Any) -> Any:
        gradients = self.checked(gradients)
        self.check_step()
        decays = self.decays()
        rates = self.rates()
        states = zip(self.parameters, self.adam_m, self.adam_v, strict=True)
        for state, g, lr, decay in zip(states, gradients, rates, decays, strict=True):
            update(self._rule, state, g, lr, *decay)
        return self.done()

    def _rule(self, w: Node, m: Node, v: Node, g: Node, lr: Node, *decay: Node) -> tuple[Node, ...]:
        m = m * self.beta1 + g * (1.0 - self.beta1)
        v = v * self.beta2 + g * g * (1.0 - self.beta2)
        step = m / (sqrt(v) + self.eps)
        return w - (step + w * decay[0] if decay else step) * lr, m, v
