"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from graphopt.common.checks import check_bool, check_number, found
from graphopt.common.journal import note
from graphopt.common.parameter import Parameter
from graphopt.common.tensor import Tensor
from graphopt.common.trace import Trace, active
from graphopt.ir.graph import Node
from graphopt.nn.optim.optimizer import Optimizer, update
from graphopt.opdefs.elementwise import gt, select
from graphopt.opdefs.scaffold import zero_of


class SGD(Optimizer):
    """w -= lr·u, where u is the gradient, or with momentum the running sum accum (nesterov: gradient +
    momentum·accum).

        first step: accum = g;   later: accum = momentum·accum + (1 - dampening)·g

    State: `momentum`, `accum.*` (zeros), `stat.*` (ones, 0 after an element's first step). Groups, rates, decay,
    scale: see Optimizer.

    Shapes: gradients as the parameters. Dtypes: float16, bfloat16, float32, float64 parameters.
    Errors: TypeError or ValueError for arguments that do not fit: negative momentum or dampening; nesterov without
            momentum or with dampening; a Cell as weight_decay.

    >>> import graphopt as ms
    >>> p = ms.Parameter(ms.Tensor([1.0, 2.0]), name="p")
    >>> optimizer = ms.nn.SGD([p], learning_rate=0.5)
    >>> optimizer((ms.Tensor([1.0, 1.0]),))
    (True,)
    >>> p.asnumpy().tolist()
    [0.5, 1.5]
    """

    def __init__(
        self,
        params: Any,
        learning_rate: Any = 0.1,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: Any = 0.0,
        nesterov: bool = False,
        loss_scale: float = 1.0,
    ) -> None:
        params = list(params) if hasattr(params, "__next__") else params
        super().__init__(learning_rate, params, weight_decay, loss_scale)
        if self.dynamic_weight_decay:
            raise TypeError(f"SGD: weight_decay must be a number, found {found(weight_decay)} or a Cell in a group")
        check_number("SGD", "momentum", momentum, low=0)
        check_number("SGD", "dampening", dampening, low=0)
        check_bool("SGD", "nesterov", nesterov)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError(f"SGD: nesterov needs momentum > 0 and dampening 0, found {momentum} and {dampening}")
        self.dampening, self.nesterov = float(dampening), nesterov
        self._moving = momentum > 0
        self.momentum = Parameter(Tensor(np.float32(momentum)), name="momentum")
        self.accum = self.parameters.clone(prefix="accum", init="zeros")
        self.stat = self.parameters.clone(prefix="stat", init="ones")
        self.keep_arguments(
            params,
            learning_rate,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            loss_scale=loss_scale,
        )

    def construct(self, gradients: Any) -> Any:
        gradients = self.prepared(gradients)
        rates = self.rates()
        undamped = self._settles()
        for p, accum, stat, g, lr in zip(self.parameters, self.accum, self.stat, gradients, rates, strict=True):
            if undamped:
                update(self._undamped, (p, accum), g, lr, self.momentum)
            elif self._moving:
                update(self._with_momentum, (p, accum, stat), g, lr, self.momentum)
            else:
                update(lambda w, g, lr: (w - g * lr,), (p,), g, lr)
        return self.done()

    def _settles(self) -> bool:
        """Whether the graph being traced may do without `stat`, because the host says which steps are first ones."""
        trace = active()
        if not self._moving or self.dampening != 0 or type(trace) is not Trace or trace.concrete:
            return False
        if not any(isinstance(work, _FirstSteps) and work.optimizer is self for work in trace.settling):
            trace.settling.append(_FirstSteps(self))
        return True

    def _with_momentum(self, w: Node, accum: Node, stat: Node, g: Node, lr: Node, momentum: Node) -> tuple[Node, ...]:
        first = gt(stat, zero_of(stat))
        accum = select(first, g, accum * momentum + g * (1.0 - self.dampening))
        step = g + accum * momentum if self.nesterov else accum
        return w - step * lr, accum, select(first, zero_of(stat), stat)

    def _undamped(self, w: Node, accum: Node, g: Node, lr: Node, momentum: Node) -> tuple[Node, ...]:
        accum = accum * momentum + g
        step = g + accum * momentum if self.nesterov else accum
        return w - step * lr, accum


class _FirstSteps:
    """Says an element's first step by its state: undamped, it is a later step from an accum of 0.

    So a compiled step neither reads nor writes `stat`, which would be a quarter of its traffic.
    """

    def __init__(self, optimizer: SGD):
        self.optimizer = optimizer
        self._steps = -1

    def before(self) -> None:
        self._steps = int(self.optimizer.global_step._data()[0])
        for accum, stat in self._pairs():
            first = stat._data() > 0
            if accum._data()[first].any():
                note(accum)
                accum._data()[first] = 0

    def after(self) -> bool:
        if self._steps == int(self.optimizer.global_step._data()[0]):
            return False  # the step was dropped
        for accum, stat in self._pairs():
            first = stat._data() > 0
            if first.any():
                note(stat)
                stat._data()[first] = 0
            accum._settled = stat._settled = True
        return True

    def _pairs(self) -> Iterator[tuple[Parameter, Parameter]]:
        return zip(self.optimizer.accum, self.optimizer.stat, strict=True)
