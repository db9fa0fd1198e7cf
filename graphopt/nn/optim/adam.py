"""Adam."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from graphopt import ops
from graphopt.common.checks import check_between, check_bool, check_positive, meant
from graphopt.common.parameter import Parameter
from graphopt.common.row_tensor import RowTensor
from graphopt.common.tensor import Tensor
from graphopt.errors import NamingError
from graphopt.ir.graph import Node
from graphopt.nn.optim.optimizer import Optimizer, update
from graphopt.nn.optim.rows import update_each, update_touched
from graphopt.opdefs.elementwise import maximum
from graphopt.opdefs.math import sqrt


def check_betas(owner: str, beta1: Any, beta2: Any, eps: Any) -> None:
    """beta1 and beta2 floats in (0, 1), eps a float > 0."""
    check_between(owner, "beta1", beta1, 0, 1, ints=False)
    check_between(owner, "beta2", beta2, 0, 1, ints=False)
    check_positive(owner, "eps", eps, ints=False)


class DenseAdam(Optimizer):
    """What Adam, LazyAdam and AdamOffload share: moments, powers of the betas, and the rule.

    State: `beta1_power`, `beta2_power` (of shape `_power_shape`), `moment1.*`, `moment2.*`.
    """

    _power_shape: tuple[int, ...] = (1,)
    use_amsgrad = False
    use_lazy = False

    def _start(self, beta1: Any, beta2: Any, eps: Any, use_locking: Any, use_nesterov: Any) -> None:
        owner = type(self).__name__
        check_betas(owner, beta1, beta2, eps)
        check_bool(owner, "use_locking", use_locking)
        self.use_nesterov = check_bool(owner, "use_nesterov", use_nesterov)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.beta1_power = Parameter(Tensor(np.ones(self._power_shape, np.float32)), name="beta1_power")
        self.beta2_power = Parameter(Tensor(np.ones(self._power_shape, np.float32)), name="beta2_power")
        self.moment1 = self.parameters.clone(prefix="moment1", init="zeros")
        self.moment2 = self.parameters.clone(prefix="moment2", init="zeros")

    def construct(self, gradients: Any) -> Any:
        gradients = self.prepared(gradients)
        rates = self.rates()
        power1 = ops.assign(self.beta1_power, ops.mul(self.beta1_power, self.beta1))
        power2 = ops.assign(self.beta2_power, ops.mul(self.beta2_power, self.beta2))
        correction = ops.reshape(ops.sqrt(1.0 - power2) / (1.0 - power1), ())
        scaled: dict[int, Any] = {}
        for k, (p, g, lr) in enumerate(zip(self.parameters, gradients, rates, strict=True)):
            rate = scaled.setdefault(id(lr), lr * correction)
            state = (p, self.moment1[k], self.moment2[k], *((self.vhat[k],) if self.use_amsgrad else ()))
            self._update_one(state, g, rate)
        return self.done()

    def _update_one(self, state: tuple[Parameter, ...], g: Any, rate: Any) -> None:
        rule = self._amsgrad if self.use_amsgrad else self._rule
        if not isinstance(g, RowTensor):
            update(rule, state, g, rate)
        elif self.use_lazy:
            (update_touched if self.unique else update_each)(rule, state, g, rate)
        elif self.unique:
            update(rule, state, g.to_dense(), rate)
        else:
            update(rule, state, g.to_dense(), rate, g.map_values(lambda t: t * t).to_dense())

    def _moments(self, m: Node, v: Node, g: Node, square: tuple[Node, ...]) -> tuple[Node, Node]:
        """The moments after a gradient, whose squares are given where they are not those of its sums."""
        squared = square[0] if square else g * g
        return m * self.beta1 + g * (1.0 - self.beta1), v * self.beta2 + squared * (1.0 - self.beta2)

    def _rule(self, w: Node, m: Node, v: Node, g: Node, rate: Node, *square: Node) -> tuple[Node, ...]:
        m, v = self._moments(m, v, g, square)
        step = m * self.beta1 + g * (1.0 - self.beta1) if self.use_nesterov else m
        return w - step * rate / (sqrt(v) + self.eps), m, v

    def _amsgrad(self, w: Node, m: Node, v: Node, vhat: Node, g: Node, rate: Node, *square: Node) -> tuple[Node, ...]:
        m, v = self._moments(m, v, g, square)
        vhat = maximum(vhat, v)
        return w - m * rate / (sqrt(vhat) + self.eps), m, v, vhat


class Adam(DenseAdam):
    """m = beta1·m + (1 - beta1)·g;  v = beta2·v + (1 - beta2)·g²;  w -= lr_t·m/(sqrt(v) + eps),
    where lr_t = lr·sqrt(1 - beta2^t)/(1 - beta1^t) in step t = 1, 2, …

    use_nesterov: beta1·m + (1 - beta1)·g instead of m. use_amsgrad: the largest v so far instead of v (nesterov has
    no effect then).
    use_lazy: row-sparse gradients touch their rows only. use_offload: same numbers, no centralization. use_locking:
    no effect.
    State: `beta1_power`, `beta2_power`, `moment1.*`, `moment2.*`, `vhat.*` (use_amsgrad). Groups, rates, decay,
    scale: see Optimizer.

    Shapes: gradients as the parameters. Dtypes: float16, bfloat16, float32, float64 parameters.
    Errors: TypeError when beta1, beta2, eps are no floats or a flag is no bool; ValueError for betas outside (0, 1),
            eps <= 0, or flags that exclude each other; KeyError for another keyword.
    Source: Kingma and Ba 2014 (arXiv 1412.6980); Reddi, Kale, Kumar 2018 for use_amsgrad.

    >>> import graphopt as ms
    >>> p = ms.Parameter(ms.Tensor([1.0, 2.0]), name="p")
    >>> optimizer = ms.nn.Adam([p], learning_rate=0.5)
    >>> optimizer((ms.Tensor([1.0, 1.0]),))
    (True,)
    >>> [round(v, 4) for v in p.asnumpy().tolist()]
    [0.5, 1.5]
    """

    _power_shape = ()
    _keeps_rows = True

    def __init__(
        self,
        params: Any,
        learning_rate: Any = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        use_locking: bool = False,
        use_nesterov: bool = False,
        weight_decay: Any = 0.0,
        loss_scale: float = 1.0,
        use_amsgrad: bool = False,
        **kwargs: Any,
    ) -> None:
        for key in kwargs:
            if key not in ("use_lazy", "use_offload"):
                hint = meant(key, inspect.signature(Adam).parameters)
                raise NamingError(f"Adam: got an unexpected keyword argument {key!r}{hint}")
        params = list(params) if hasattr(params, "__next__") else params
        super().__init__(learning_rate, params, weight_decay, loss_scale)
        self._read_flags(use_amsgrad, kwargs.get("use_lazy", False), kwargs.get("use_offload", False))
        self._start(beta1, beta2, eps, use_locking, use_nesterov)
        if use_amsgrad:
            self.vhat = self.parameters.clone(prefix="vhat", init="zeros")
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
            use_amsgrad=use_amsgrad,
            kwargs=kwargs,
        )

    def _read_flags(self, amsgrad: Any, lazy: Any, offload: Any) -> None:
        self.use_amsgrad = check_bool("Adam", "use_amsgrad", amsgrad)
        self.use_lazy = check_bool("Adam", "use_lazy", lazy)
        self.use_offload = check_bool("Adam", "use_offload", offload)
        if lazy and offload:
            raise ValueError("Adam: use_lazy and use_offload exclude each other, found True for both")
        if amsgrad and (lazy or offload):
            raise ValueError("Adam: use_amsgrad excludes use_lazy and use_offload")

    def gradients_centralization(self, gradients: Any) -> Any:
        return tuple(gradients) if self.use_offload else super().gradients_centralization(gradients)

    def _set_target(self, value: Any) -> None:
        self._check_target(value)
