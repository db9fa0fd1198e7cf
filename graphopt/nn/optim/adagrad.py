"""Adagrad and ProximalAdagrad."""

from __future__ import annotations

from typing import Any

from graphopt.common.checks import check_bool, check_number
from graphopt.ir.graph import Node
from graphopt.nn.optim.optimizer import Optimizer, update
from graphopt.nn.optim.rows import update_touched
from graphopt.opdefs.elementwise import abs_, maximum, sign
from graphopt.opdefs.math import sqrt

_UNDER_ROOT = 1e-8  # keeps the first steps finite when accum is 0


class Adagrad(Optimizer):
    """Divides the gradient by the root of the sum of all its squares.

        n += g²  (with update_slots);   w -= lr·g/sqrt(n + 1e-8)

    State: `accum.*` (n, accum). Groups, rates, decay, scale: see Optimizer.

    Shapes: gradients as the parameters. Dtypes: float16, bfloat16, float32, float64 parameters.
    Errors: TypeError when accum is no float or update_slots no bool; ValueError for accum < 0.
    Source: Duchi, Hazan, Singer 2011, Adaptive subgradient methods.

    >>> import graphopt as ms
    >>> p = ms.Parameter(ms.Tensor([1.0, 2.0]), name="p")
    >>> optimizer = ms.nn.Adagrad([p], accum=0.0, learning_rate=0.5)
    >>> optimizer((ms.Tensor([1.0, 1.0]),))
    (True,)
    >>> p.asnumpy().tolist()
    [0.5, 1.5]
    """

    def __init__(
        self,
        params: Any,
        accum: float = 0.1,
        learning_rate: Any = 0.001,
        update_slots: bool = True,
        loss_scale: float = 1.0,
        weight_decay: Any = 0.0,
    ) -> None:
        params = list(params) if hasattr(params, "__next__") else params
        super().__init__(learning_rate, params, weight_decay, loss_scale)
        check_number("Adagrad", "accum", accum, low=0, ints=False)
        self.update_slots = check_bool("Adagrad", "update_slots", update_slots)
        self.accum = self.parameters.clone(prefix="accum", init=accum)
        self.keep_arguments(
            params,
            learning_rate,
            accum=accum,
            update_slots=update_slots,
            loss_scale=loss_scale,
            weight_decay=weight_decay,
        )

    def construct(self, gradients: Any) -> Any:
        gradients = self.prepared(gradients)
        for p, n, g, lr in zip(self.parameters, self.accum, gradients, self.rates(), strict=True):
            if self.update_slots:
                update(self._growing, (p, n), g, lr)
            else:
                update(self._rule, (p,), n, g, lr)
        return self.done()

    def _rule(self, w: Node, n: Node, g: Node, lr: Node) -> tuple[Node, ...]:
        return (w - g * lr / sqrt(n + _UNDER_ROOT),)

    def _growing(self, w: Node, n: Node, g: Node, lr: Node) -> tuple[Node, ...]:
        n = n + g * g
        return *self._rule(w, n, g, lr), n


class ProximalAdagrad(Optimizer):
    """Adagrad followed by a shrinking of the weights towards 0, with the rate of each element.

        n += g²;   r = lr/sqrt(n);   z = w - r·g;   w = sign(z)·max(|z| - r·l1, 0)/(1 + r·l2)

    With accum 0 an element whose first gradient is 0 becomes NaN, as r is infinite there. use_locking: no effect. A
    RowTensor changes its rows only, those of equal indices added up first.
    State: `accum.*` (n, accum). Groups, rates, decay, scale: see Optimizer.

    Shapes: gradients as the parameters. Dtypes: float16, bfloat16, float32, float64 parameters.
    Errors: TypeError when accum, l1 or l2 is no float or use_locking no bool; ValueError when one is < 0.
    Source: Duchi and Singer 2009, Efficient learning using forward-backward splitting.

    >>> import graphopt as ms
    >>> p = ms.Parameter(ms.Tensor([1.0, 2.0]), name="p")
    >>> optimizer = ms.nn.ProximalAdagrad([p], accum=0.0, learning_rate=0.5, l1=0.5)
    >>> optimizer((ms.Tensor([1.0, 1.0]),))
    (True,)
    >>> p.asnumpy().tolist()
    [0.25, 1.25]
    """

    _keeps_rows = True

    def __init__(
        self,
        params: Any,
        accum: float = 0.1,
        learning_rate: Any = 0.001,
        l1: float = 0.0,
        l2: float = 0.0,
        use_locking: bool = False,
        loss_scale: float = 1.0,
        weight_decay: Any = 0.0,
    ) -> None:
        params = list(params) if hasattr(params, "__next__") else params
        super().__init__(learning_rate, params, weight_decay, loss_scale)
        for name, value in (("accum", accum), ("l1", l1), ("l2", l2)):
            check_number("ProximalAdagrad", name, value, low=0, ints=False)
        check_bool("ProximalAdagrad", "use_locking", use_locking)
        self.l1, self.l2 = l1, l2
        self.accum = self.parameters.clone(prefix="accum", init=accum)
        self.keep_arguments(
            params,
            learning_rate,
            accum=accum,
            l1=l1,
            l2=l2,
            use_locking=use_locking,
            loss_scale=loss_scale,
            weight_decay=weight_decay,
        )

    def construct(self, gradients: Any) -> Any:
        gradients = self.prepared(gradients)
        for p, n, g, lr in zip(self.parameters, self.accum, gradients, self.rates(), strict=True):
            update_touched(self._rule, (p, n), g, lr)
        return self.done()

    def _rule(self, w: Node, n: Node, g: Node, lr: Node) -> tuple[Node, ...]:
        n = n + g * g
        rate = lr / sqrt(n)
        moved = w - rate * g
        shrunk = sign(moved) * maximum(abs_(moved) - rate * self.l1, 0.0) if self.l1 else moved
        return shrunk / (rate * self.l2 + 1.0) if self.l2 else shrunk, n

    def _set_target(self, value: Any) -> None:
        self._set_any_target(value)
