"""LazyAdam."""

from __future__ import annotations

from typing import Any

from graphopt.common.checks import check_number
from graphopt.nn.optim.adam import DenseAdam


class LazyAdam(DenseAdam):
    """Adam whose row-sparse gradients touch their rows only; with dense gradients it is Adam.

        m = beta1·m + (1 - beta1)·g;   v = beta2·v + (1 - beta2)·g²
        w -= lr·sqrt(1 - beta2^t)/(1 - beta1^t)·m/(sqrt(v) + eps)                 t = 1, 2, …

    use_nesterov: beta1·m + (1 - beta1)·g instead of m. use_locking: no effect.
    State: `beta1_power`, `beta2_power` (shape (1,)), `moment1.*`, `moment2.*`. Groups, rates, scale: see Optimizer.

    Shapes: gradients as the parameters. Dtypes: float16, bfloat16, float32, float64 parameters.
    Errors: TypeError when beta1, beta2, eps or weight_decay is no float (an int or a Cell neither) or a flag is no
            bool; ValueError for betas outside (0, 1), eps <= 0, weight_decay < 0.
    Source: Kingma and Ba 2014 (arXiv 1412.6980).

    >>> import graphopt as ms
    >>> p = ms.Parameter(ms.Tensor([1.0, 2.0]), name="p")
    >>> optimizer = ms.nn.LazyAdam([p], learning_rate=0.5)
    >>> optimizer((ms.Tensor([1.0, 1.0]),))
    (True,)
    >>> [round(v, 4) for v in p.asnumpy().tolist()]
    [0.5, 1.5]
    """

    _keeps_rows = True
    use_lazy = True

    def __init__(
        self,
        params: Any,
        learning_rate: Any = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        use_locking: bool = False,
        use_nesterov: bool = False,
        weight_decay: float = 0.0,
        loss_scale: float = 1.0,
    ) -> None:
        params = list(params) if hasattr(params, "__next__") else params
        check_number("LazyAdam", "weight_decay", weight_decay, ints=False)
        super().__init__(learning_rate, params, weight_decay, loss_scale)
        self._start(beta1, beta2, eps, use_locking, use_nesterov)
        self.keep_arguments(
            params,
            learning_rate,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            use_locking=use_locking,
            use_nesterov=use_nesterov,
            weight_decay=weight_decay,
            loss_scale=loss_scale,
        )

    def _set_target(self, value: Any) -> None:
        self._check_target(value)
