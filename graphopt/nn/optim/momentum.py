"""Momentum."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.common.checks import check_bool, check_number
from graphopt.common.parameter import Parameter
from graphopt.common.tensor import Tensor
from graphopt.ir.graph import Node
from graphopt.nn.optim.optimizer import Optimizer, update


class Momentum(Optimizer):
    """v = momentum·v + g;  w -= lr·v, or w -= lr·(g + momentum·v) with use_nesterov.

    State: `momentum`, `moments.*` (zeros). Groups, rates, decay, scale: see Optimizer.

    Shapes: gradients as the parameters. Dtypes: float16, bfloat16, float32, float64 parameters.
    Errors: TypeError when momentum is no float or use_nesterov no bool; ValueError when momentum is negative.
    Source: Sutskever, Martens, Dahl, Hinton 2013.

    >>> import graphopt as ms
    >>> p = ms.Parameter(ms.Tensor([1.0, 2.0]), name="p")
    >>> optimizer = ms.nn.Momentum([p], learning_rate=0.5, momentum=0.5)
    >>> optimizer((ms.Tensor([1.0, 1.0]),))
    (True,)
    >>> p.asnumpy().tolist()
    [0.5, 1.5]
    """

    def __init__(
        self,
        params: Any,
        learning_rate: Any,
        momentum: float,
        weight_decay: Any = 0.0,
        loss_scale: float = 1.0,
        use_nesterov: bool = False,
    ) -> None:
        params = list(params) if hasattr(params, "__next__") else params
        super().__init__(learning_rate, params, weight_decay, loss_scale)
        check_number("Momentum", "momentum", momentum, low=0, ints=False)
        self.use_nesterov = check_bool("Momentum", "use_nesterov", use_nesterov)
        self.momentum = Parameter(Tensor(np.float32(momentum)), name="momentum")
        self.moments = self.parameters.clone(prefix="moments", init="zeros")
        self.keep_arguments(
            params,
            learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            loss_scale=loss_scale,
            use_nesterov=use_nesterov,
        )

    def construct(self, gradients: Any) -> Any:
        gradients = self.prepared(gradients)
        for p, moment, g, lr in zip(self.parameters, self.moments, gradients, self.rates(), strict=True):
            update(self._rule, (p, moment), g, lr, self.momentum)
        return self.done()

    def _rule(self, w: Node, v: Node, g: Node, lr: Node, momentum: Node) -> tuple[Node, ...]:
        v = v * momentum + g
        return w - (g + v * momentum if self.use_nesterov else v) * lr, v
