"""LARS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphopt.common.checks import check_bool, check_type, found
from graphopt.common.parameter import Parameter
from graphopt.common.tensor import apply
from graphopt.ir.graph import Node
from graphopt.nn.cell import Cell
from graphopt.nn.optim.optimizer import Optimizer, in_float32, norm
from graphopt.opdefs.elementwise import gt, minimum, select
from graphopt.opdefs.scaffold import zero_of


def _no_norm_no_bias(parameter: Parameter) -> bool:
    return "LayerNorm" not in parameter.name and "bias" not in parameter.name


class LARS(Optimizer):
    """Scales the gradients of another optimizer layer by layer, then calls it.

        rate = coefficient·‖w‖ / (‖g‖ + weight_decay·‖w‖ + epsilon);   use_clip: rate = max(min(rate/lr, 1), 0)
        g = rate·(g + weight_decay·w)                  for parameters that lars_filter keeps; others: g, no decay

    Parameters, global_step, weight decay, names that it spares, and loss_scale are the wrapped optimizer's; its own
    decay and un-scaling are switched off. A parameter that is all zero stays so. What is returned, and the state,
    are the wrapped optimizer's.

    Shapes: gradients as the parameters. Dtypes: those of the wrapped optimizer.
    Errors: TypeError when optimizer is no Optimizer, epsilon or coefficient no float, use_clip no bool, lars_filter
            not callable; ValueError for use_clip with groups of which one has a dynamic rate.
    Source: You, Gitman, Ginsburg 2017 (arXiv 1708.03888).

    >>> import graphopt as ms
    >>> p = ms.Parameter(ms.Tensor([3.0, 4.0]), name="p")
    >>> optimizer = ms.nn.LARS(ms.nn.Momentum([p], learning_rate=0.1, momentum=0.9), coefficient=0.5)
    >>> optimizer((ms.Tensor([0.0, 5.0]),))
    (True,)
    >>> [round(v, 4) for v in p.asnumpy().tolist()]
    [3.0, 3.75]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        epsilon: float = 1e-05,
        coefficient: float = 0.001,
        use_clip: bool = False,
        lars_filter: Callable[[Parameter], bool] = _no_norm_no_bias,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"LARS: optimizer must be an Optimizer, found {found(optimizer)}")
        check_type("LARS", "epsilon", epsilon, float)
        check_type("LARS", "coefficient", coefficient, float)
        check_bool("LARS", "use_clip", use_clip)
        if not callable(lars_filter):
            raise TypeError(f"LARS: lars_filter must be callable, found {found(lars_filter)}")
        if use_clip and optimizer.is_group_lr and optimizer.dynamic_lr:
            raise ValueError("LARS: use_clip excludes groups of which one has a dynamic learning rate")
        Cell.__init__(self, auto_prefix=False)
        self.opt = optimizer
        self.epsilon, self.coefficient, self.use_clip = epsilon, coefficient, use_clip
        self._take_over(optimizer)
        self.lars_flag = tuple(bool(lars_filter(p)) for p in self.parameters)
        self.init_args = {
            "epsilon": epsilon, "coefficient": coefficient, "use_clip": use_clip, "lars_filter": lars_filter,
        }  # fmt: skip

    _TAKEN = (
        "global_step", "parameters", "param_length", "learning_rate", "dynamic_lr", "is_group", "is_group_lr",
        "is_group_params_ordered", "loss_scale", "reciprocal_scale", "need_scale", "weight_decay", "weight_decay_cells",
        "decay_flags", "dynamic_weight_decay", "dynamic_decay_flags", "exec_weight_decay", "_decays", "_unique",
    )  # fmt: skip

    def _take_over(self, optimizer: Optimizer) -> None:
        """Its facts become ours; in it, decay and un-scaling are switched off."""
        for name in self._TAKEN:
            setattr(self, name, getattr(optimizer, name))
        optimizer.decay_flags = (False,) * len(self.parameters)
        optimizer.dynamic_decay_flags = optimizer.decay_flags if self.is_group else False
        optimizer.dynamic_weight_decay = optimizer.exec_weight_decay = optimizer.need_scale = False
        optimizer.reciprocal_scale = 1.0

    def construct(self, gradients: Any) -> Any:
        gradients = self.scale_grad(self.checked(gradients))
        self.check_step()
        rates: Any = self.get_lr() if self.use_clip else ()
        rates = rates if isinstance(rates, tuple) and rates else (rates,) * self.param_length
        scaled = [
            self._scaled(p, g, lr, decay) if flag else g
            for p, g, lr, decay, flag in zip(self.parameters, gradients, rates, self.decays(), self.lars_flag, strict=True)
        ]
        return self.opt(tuple(scaled))

    def _scaled(self, p: Any, g: Any, lr: Any, decay: tuple[Any, ...]) -> Any:
        scalars = (*decay, lr) if self.use_clip else decay
        (made,) = apply(in_float32(lambda w, g, *rest: (self._rule(w, g, *rest),)), p, g, *scalars)
        return made

    def _rule(self, w: Node, g: Node, *scalars: Node) -> Node:
        size, length = norm(w), norm(g)
        decayed = len(scalars) > self.use_clip
        below = length + size * scalars[0] if decayed else length
        rate = size * self.coefficient / (below + self.epsilon)
        if self.use_clip:
            clipped = minimum(rate / scalars[-1], 1.0)  # NaN when both are 0: a zero parameter in a warm-up
            rate = select(gt(rate, 0.0), clipped, zero_of(rate))
        return (g + w * scalars[0] if decayed else g) * rate

    def check_step(self) -> None:
        self.opt.check_step()

    def get_lr(self) -> Any:
        return self.opt.get_lr()

    def get_lr_parameter(self, param: Any) -> Any:
        return self.opt.get_lr_parameter(param)

    def gradients_centralization(self, gradients: Any) -> Any:
        return self.opt.gradients_centralization(gradients)
