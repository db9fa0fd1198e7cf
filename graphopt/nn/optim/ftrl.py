"""Follow the regularized leader."""

from __future__ import annotations

from typing import Any

from graphopt.common.checks import check_bool, check_number, check_positive
from graphopt.ir.graph import Node
from graphopt.nn.optim.optimizer import Optimizer
from graphopt.nn.optim.rows import update_touched
from graphopt.opdefs.elementwise import abs_, gt, select, sign
from graphopt.opdefs.math import pow_, sqrt
from graphopt.opdefs.scaffold import zero_of


class FTRL(Optimizer):
    """Follow the regularized leader, which keeps weights at exactly 0 where l1 outweighs them.

        n' = n + g²;   u = u + g - (n'^q - n^q)/lr·w;   n = n'               q = -lr_power
        w = (sign(u)·l1 - u) / (n^q/lr + 2·l2)  where |u| > l1,  0 elsewhere

    The old weight enters through u alone, so the first step may jump. use_locking: no effect. A RowTensor changes its
    rows only, those of equal indices added up first.
    State: `moments.*` (n, initial_accum), `linear.*` (u, zeros). Groups have no lr; without groups weight_decay goes
    to every parameter. Decay and scale: see Optimizer.

    Shapes: gradients as the parameters. Dtypes: float16, bfloat16, float32, float64 parameters.
    Errors: TypeError when initial_accum, learning_rate, lr_power, l1 or l2 is no float or use_locking no bool;
            ValueError for initial_accum, l1, l2 < 0, learning_rate <= 0, lr_power > 0, a dynamic rate, or `lr` in a
            group.
    Source: McMahan et al. 2013, Ad click prediction: a view from the trenches.

    >>> import graphopt as ms
    >>> p = ms.Parameter(ms.Tensor([1.0, 2.0]), name="p")
    >>> optimizer = ms.nn.FTRL([p], initial_accum=0.0, learning_rate=0.5)
    >>> optimizer((ms.Tensor([1.0, 1.0]),))
    (True,)
    >>> p.asnumpy().tolist()
    [0.5, 1.5]
    """

    _decays_all_names = True
    _keeps_rows = True

    def __init__(
        self,
        params: Any,
        initial_accum: float = 0.1,
        learning_rate: float = 0.001,
        lr_power: float = -0.5,
        l1: float = 0.0,
        l2: float = 0.0,
        use_locking: bool = False,
        loss_scale: float = 1.0,
        weight_decay: Any = 0.0,
    ) -> None:
        params = list(params) if hasattr(params, "__next__") else params
        super().__init__(learning_rate, params, weight_decay, loss_scale)
        if self.dynamic_lr or self.is_group_lr:
            raise ValueError("FTRL: learning_rate must be one float for all parameters and steps")
        check_positive("FTRL", "learning_rate", learning_rate, ints=False)
        for name, value in (("initial_accum", initial_accum), ("l1", l1), ("l2", l2)):
            check_number("FTRL", name, value, low=0, ints=False)
        check_number("FTRL", "lr_power", lr_power, ints=False)
        if lr_power > 0:
            raise ValueError(f"FTRL: lr_power must be <= 0, found {lr_power}")
        check_bool("FTRL", "use_locking", use_locking)
        self.l1, self.l2, self.lr_power = l1, l2, lr_power
        self.moments = self.parameters.clone(prefix="moments", init=initial_accum)
        self.linear = self.parameters.clone(prefix="linear", init="zeros")
        self.keep_arguments(
            params,
            learning_rate,
            initial_accum=initial_accum,
            lr_power=lr_power,
            l1=l1,
            l2=l2,
            use_locking=use_locking,
            loss_scale=loss_scale,
            weight_decay=weight_decay,
        )

    def construct(self, gradients: Any) -> Any:
        gradients = self.prepared(gradients)
        states = zip(self.parameters, self.moments, self.linear, strict=True)
        for state, g, lr in zip(states, gradients, self.rates(), strict=True):
            update_touched(self._rule, state, g, lr)
        return self.done()

    def _power(self, n: Node) -> Node:
        """n^q."""
        if self.lr_power == -0.5:
            return sqrt(n)
        return n if self.lr_power == -1.0 else pow_(n, -self.lr_power)

    def _rule(self, w: Node, n: Node, u: Node, g: Node, lr: Node) -> tuple[Node, ...]:
        grown = n + g * g
        power = self._power(grown)
        u = u + g - (power - self._power(n)) / lr * w
        below = power / lr + 2.0 * self.l2
        return select(gt(abs_(u), self.l1), (sign(u) * self.l1 - u) / below, zero_of(u)), grown, u

    def _set_target(self, value: Any) -> None:
        self._set_any_target(value)
