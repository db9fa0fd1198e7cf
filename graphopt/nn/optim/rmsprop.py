"""RMSProp."""

from __future__ import annotations

from typing import Any

from graphopt.common.checks import check_bool, check_number, check_positive
from graphopt.ir.graph import Node
from graphopt.nn.optim.optimizer import Optimizer, update
from graphopt.opdefs.elementwise import gt, select
from graphopt.opdefs.math import sqrt


class RMSProp(Optimizer):
    """Divides the gradient by the root of a running mean of its squares.

        s = decay·s + (1 - decay)·g²
        plain:     mom = momentum·mom + lr·g/sqrt(s + epsilon);   w -= mom
        centered:  a = decay·a + (1 - decay)·g;   d = s - a² + epsilon
                   where d > 0:  mom = momentum·mom + lr·g/sqrt(d);   w -= mom

    use_locking: no effect.
    State: `mean_square.*` (s, ones), `moment.*` (mom, zeros), `mean_grad.*` (a, zeros; with centered).
    Groups, rates, decay, scale: see Optimizer.

    Shapes: gradients as the parameters. Dtypes: float16, bfloat16, float32, float64 parameters.
    Errors: TypeError when decay, momentum or epsilon is no float or a flag is no bool; ValueError for decay < 0,
            momentum < 0, epsilon <= 0.
    Source: Tieleman and Hinton 2012, lecture 6.5; centered: Graves 2013 (arXiv 1308.0850).

    >>> import graphopt as ms
    >>> p = ms.Parameter(ms.Tensor([1.0, 2.0]), name="p")
    >>> optimizer = ms.nn.RMSProp([p], learning_rate=0.5)
    >>> optimizer((ms.Tensor([1.0, 1.0]),))
    (True,)
    >>> p.asnumpy().tolist()
    [0.5, 1.5]
    """

    def __init__(
        self,
        params: Any,
        learning_rate: Any = 0.1,
        decay: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-10,
        use_locking: bool = False,
        centered: bool = False,
        loss_scale: float = 1.0,
        weight_decay: Any = 0.0,
    ) -> None:
        params = list(params) if hasattr(params, "__next__") else params
        super().__init__(learning_rate, params, weight_decay, loss_scale)
        check_number("RMSProp", "decay", decay, low=0, ints=False)
        check_number("RMSProp", "momentum", momentum, low=0, ints=False)
        check_positive("RMSProp", "epsilon", epsilon, ints=False)
        check_bool("RMSProp", "use_locking", use_locking)
        self.centered = check_bool("RMSProp", "centered", centered)
        self.decay, self.momentum, self.epsilon = decay, momentum, epsilon
        if centered:
            self.mg = self.parameters.clone(prefix="mean_grad", init="zeros")
        self.ms = self.parameters.clone(prefix="mean_square", init="ones")
        self.moment = self.parameters.clone(prefix="moment", init="zeros")
        self.keep_arguments(
            params,
            learning_rate,
            decay=decay,
            momentum=momentum,
            epsilon=epsilon,
            use_locking=use_locking,
            centered=centered,
            loss_scale=loss_scale,
            weight_decay=weight_decay,
        )

    def construct(self, gradients: Any) -> Any:
        gradients = self.prepared(gradients)
        for k, (p, g, lr) in enumerate(zip(self.parameters, gradients, self.rates(), strict=True)):
            if self.centered:
                update(self._centered, (p, self.ms[k], self.moment[k], self.mg[k]), g, lr)
            else:
                update(self._plain, (p, self.ms[k], self.moment[k]), g, lr)
        return self.done()

    def _plain(self, w: Node, s: Node, mom: Node, g: Node, lr: Node) -> tuple[Node, ...]:
        s = s * self.decay + g * g * (1.0 - self.decay)
        mom = mom * self.momentum + g * lr / sqrt(s + self.epsilon)
        return w - mom, s, mom

    def _centered(self, w: Node, s: Node, mom: Node, a: Node, g: Node, lr: Node) -> tuple[Node, ...]:
        s = s * self.decay + g * g * (1.0 - self.decay)
        a = a * self.decay + g * (1.0 - self.decay)
        spread = s - a * a + self.epsilon
        moves = gt(spread, 0.0)
        moved = mom * self.momentum + g * lr / sqrt(select(moves, spread, spread * 0.0 + 1.0))
        return select(moves, w - moved, w), s, select(moves, moved, mom), a
