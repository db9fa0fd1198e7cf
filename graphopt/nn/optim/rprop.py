"""Resilient backpropagation."""

from __future__ import annotations

from typing import Any

from graphopt import ops
from graphopt.common.checks import check_between, check_number, found
from graphopt.ir.graph import Node
from graphopt.nn.optim.optimizer import Optimizer, update
from graphopt.opdefs.elementwise import eq, gt, lt, maximum, minimum, select, sign
from graphopt.opdefs.scaffold import zero_of


class Rprop(Optimizer):
    """Each element has a step size of its own: it grows while the gradient keeps its sign and shrinks when that turns.

        size = clip(size·f, step_sizes),   f = etaplus where g·prev > 0, etaminus where < 0, 1 where 0
        g = 0 where the sign turned;   w -= sign(g)·size;   prev = g                  (in step 1 size starts as lr)

    etas: (etaminus, etaplus). step_sizes: (smallest, largest).
    State: `prev.*`, `step_size.*` (zeros). Groups, rates, decay: see Optimizer; there is no loss_scale.

    Shapes: gradients as the parameters. Dtypes: float16, bfloat16, float32, float64 parameters.
    Errors: TypeError when etas or step_sizes is no tuple of floats; ValueError when it has not two elements,
            etaminus is outside (0, 1), etaplus <= 1, or the smallest size is above the largest.
    Source: Riedmiller and Braun 1993, A direct adaptive method for faster backpropagation learning.

    >>> import graphopt as ms
    >>> p = ms.Parameter(ms.Tensor([1.0, 2.0]), name="p")
    >>> optimizer = ms.nn.Rprop([p], learning_rate=0.5)
    >>> optimizer((ms.Tensor([0.1, -10.0]),))
    (True,)
    >>> p.asnumpy().tolist()
    [0.5, 2.5]
    """

    def __init__(
        self,
        params: Any,
        learning_rate: Any = 0.1,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        weight_decay: Any = 0.0,
    ) -> None:
        params = list(params) if hasattr(params, "__next__") else params
        super().__init__(learning_rate, params, weight_decay)
        for name, pair in (("etas", etas), ("step_sizes", step_sizes)):
            if not isinstance(pair, tuple):
                raise TypeError(f"Rprop: {name} must be a tuple of two floats, found {found(pair)}")
            if len(pair) != 2:
                raise ValueError(f"Rprop: {name} must be a tuple of two floats, found {len(pair)} elements")
        check_between("Rprop", "etas[0]", etas[0], 0, 1, ints=False)
        check_number("Rprop", "etas[1]", etas[1], ints=False)
        if etas[1] <= 1:
            raise ValueError(f"Rprop: etas[1] must be > 1, found {etas[1]}")
        for k, value in enumerate(step_sizes):
            check_number("Rprop", f"step_sizes[{k}]", value, ints=False)
        if step_sizes[0] > step_sizes[1]:
            raise ValueError(f"Rprop: step_sizes must not fall, found {step_sizes}")
        self.etaminus, self.etaplus = etas
        self.step_size_min, self.step_size_max = step_sizes
        self.prev = self.parameters.clone(prefix="prev", init="zeros")
        self.step_size = self.parameters.clone(prefix="step_size", init="zeros")
        self.keep_arguments(params, learning_rate, etas=etas, step_sizes=step_sizes, weight_decay=weight_decay)

    def construct(self, gradients: Any) -> Any:
        gradients = self.prepared(gradients)
        rates = self.rates()
        first = ops.reshape(self.global_step, ())
        states = zip(self.parameters, self.prev, self.step_size, strict=True)
        for state, g, lr in zip(states, gradients, rates, strict=True):
            update(self._rule, state, g, lr, first)
        return self.done()

    def _rule(self, w: Node, prev: Node, size: Node, g: Node, lr: Node, t: Node) -> tuple[Node, ...]:
        agreement = g * prev
        turned = lt(agreement, zero_of(agreement))
        kept = agreement * 0.0 + 1.0
        shrunk = select(turned, kept * self.etaminus, kept)
        factor = select(gt(agreement, zero_of(agreement)), kept * self.etaplus, shrunk)
        size = select(eq(t, 1.0), lr, size) * factor
        size = minimum(maximum(size, self.step_size_min), self.step_size_max)
        g = select(turned, zero_of(g), g)
        return w - sign(g) * size, g, size
