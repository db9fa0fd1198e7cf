"""AdaFactor: second moments as an outer product of row and column means."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from graphopt import ops
from graphopt.common.checks import check_between, check_bool, check_number, check_type, found
from graphopt.common.dtype import float16
from graphopt.common.parameter import Parameter, ParameterTuple
from graphopt.common.tensor import Tensor
from graphopt.ir.graph import Node
from graphopt.nn.cell import Cell
from graphopt.nn.optim.optimizer import Optimizer, update
from graphopt.opdefs.elementwise import maximum
from graphopt.opdefs.linalg import dot_general
from graphopt.opdefs.math import sqrt
from graphopt.opdefs.opdef import full
from graphopt.opdefs.reduce import reduce_sum, spread

_MANY_ROWS = 64  # 1024 x 1024: 1.5 ms instead of 9 ms for the whole update
TINY = 1e-30  # what the second moments of MindSpore's kernel never fall below


class AdaFactor(Optimizer):
    """In step t = 1, 2, … with b = 1 - t^(-decay_rate) and q = g² + eps[0]:

        two or more axes:  R = b·R + (1 - b)·mean(q, last axis);  C = b·C + (1 - b)·mean(q, last axis but one)
                           u = g / (sqrt(R / mean(R, last axis)) ⊗ sqrt(C))
        else:              V = b·V + (1 - b)·q;  u = g / sqrt(V)
        u = rate · u / max(1, rms(u) / clip_threshold)
        beta1 > 0:         M = beta1·M + (1 - beta1)·u;  u = M
        w -= u + weight_decay · rate · w

    rate: learning_rate, or with relative_step min(0.01, 1/sqrt(t)), where warmup_init has 1e-6·t for 0.01; with
    scale_parameter times max(eps[1], rms(w)), unless learning_rate is a Tensor, a list or a schedule.
    beta1: None or 0 keeps no first moment. compression: V is kept as float16. Decay reaches all parameters; groups
    may have `lr` (without relative_step) and `weight_decay`.
    State: `exp_avg_sq_row_*`, `exp_avg_sq_col_*`, `exp_avg_sq_*` (shape (1,) where not in use), `exp_avg.*` (with
    beta1), `afactor_step`.

    Shapes: gradients as the parameters. Dtypes: float16, bfloat16, float32, float64 parameters.
    Errors: ValueError for a learning_rate beside relative_step or neither, warmup_init without relative_step, or
            numbers outside their range: eps >= 0, clip_threshold >= 0 (0 fails in the first call), decay_rate in (0, 1),
            beta1 and weight_decay in [0, 1); TypeError for other types.
    Source: Shazeer and Stern 2018 (arXiv 1804.04235), with the learning rate inside the first moment.

    >>> import graphopt as ms
    >>> p = ms.Parameter(ms.Tensor([3.0, 4.0]), name="p")
    >>> optimizer = ms.nn.AdaFactor([p], learning_rate=0.5, beta1=None, scale_parameter=False, relative_step=False)
    >>> optimizer((ms.Tensor([1.0, -2.0]),))
    (True,)
    >>> p.asnumpy().tolist()
    [2.5, 4.5]
    """

    _decays_all_names = True

    def __init__(
        self,
        params: Any,
        learning_rate: Any = None,
        eps: Any = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = 0.8,
        beta1: float | None = 0.9,
        weight_decay: float = 0.0,
        scale_parameter: bool = True,
        relative_step: bool = True,
        warmup_init: bool = False,
        compression: bool = False,
        loss_scale: float = 1.0,
    ) -> None:
        self._check_steps(learning_rate, relative_step, warmup_init)
        check_type("AdaFactor", "weight_decay", weight_decay, float)
        params = list(params) if hasattr(params, "__next__") else params
        super().__init__(0.0 if learning_rate is None else learning_rate, params, weight_decay, loss_scale)
        self._check_decays()
        self.eps = _epsilons(eps)
        self.clip_threshold = check_number("AdaFactor", "clip_threshold", clip_threshold, low=0, ints=False)
        self.decay_rate = check_between("AdaFactor", "decay_rate", decay_rate, 0, 1, ints=False)
        self.beta1 = _first_moment(beta1)
        self.scale_parameter = check_bool("AdaFactor", "scale_parameter", scale_parameter)
        self.relative_step, self.warmup_init = relative_step, warmup_init
        self.compression = check_bool("AdaFactor", "compression", compression)
        if self.relative_step and self.is_group_lr:
            raise ValueError("AdaFactor: a group's lr needs relative_step=False, found True")
        self._scaled = self._which_are_scaled(learning_rate)
        self.init_ada_factor_state(self.beta1)
        self.afactor_step = Parameter(
            Tensor(np.zeros(1, np.float32)), name="afactor_step", requires_grad=False
        )
        self.keep_arguments(
            params,
            learning_rate,
            eps=eps,
            clip_threshold=clip_threshold,
            decay_rate=decay_rate,
            beta1=beta1,
            weight_decay=weight_decay,
            scale_parameter=scale_parameter,
            relative_step=relative_step,
            warmup_init=warmup_init,
            compression=compression,
            loss_scale=loss_scale,
        )

    # constructor ----------------------------------------------------------------------------------------------

    @staticmethod
    def _check_steps(learning_rate: Any, relative_step: Any, warmup_init: Any) -> None:
        check_bool("AdaFactor", "relative_step", relative_step)
        check_bool("AdaFactor", "warmup_init", warmup_init)
        if relative_step and learning_rate is not None:
            raise ValueError(
                f"AdaFactor: learning_rate needs relative_step=False, found {found(learning_rate)} and True"
            )
        if not relative_step and learning_rate is None:
            raise ValueError("AdaFactor: relative_step=False needs a learning_rate, found None")
        if warmup_init and not relative_step:
            raise ValueError("AdaFactor: warmup_init needs relative_step=True, found False")

    def _check_decays(self) -> None:
        for decay in self._decays:
            if not isinstance(decay, Cell) and decay >= 1:
                raise ValueError(f"AdaFactor: weight_decay must be in [0, 1), found {decay}")

    def _which_are_scaled(self, learning_rate: Any) -> tuple[bool, ...]:
        """For each parameter whether its rate follows its size: not where the rate is no plain number."""
        plain = learning_rate is None or isinstance(learning_rate, (int, float))
        each = {p.name: plain for p in self.parameters}
        for group in self._groups:
            if "lr" in group.settings:
                each |= dict.fromkeys(
                    (p.name for p in group.params), isinstance(group.settings["lr"], (int, float))
                )
        return tuple(self.scale_parameter and each[p.name] for p in self.parameters)

    def init_ada_factor_state(self, beta1: float) -> None:
        """Make the states, all zeros; first moments only when beta1 > 0."""
        rows, cols, flat = [], [], []
        for p in self.parameters:
            factored = p.ndim >= 2
            rows.append(_zeros(f"exp_avg_sq_row_{p.name}", p.shape[:-1] if factored else (1,), p.dtype))
            cols.append(
                _zeros(f"exp_avg_sq_col_{p.name}", p.shape[:-2] + p.shape[-1:] if factored else (1,), p.dtype)
            )
            kind = float16 if self.compression and not factored else p.dtype
            flat.append(_zeros(f"exp_avg_sq_{p.name}", (1,) if factored else p.shape, kind))
        self.exp_avg_sq_row, self.exp_avg_sq_col = ParameterTuple(rows), ParameterTuple(cols)
        self.exp_avg_sq = ParameterTuple(flat)
        if beta1 > 0:
            self.exp_avg = self.parameters.clone(prefix="exp_avg", init="zeros")

    # one call -------------------------------------------------------------------------------------------------

    def construct(self, gradients: Any) -> Any:
        if self.clip_threshold == 0:
            raise ValueError("AdaFactor: clip_threshold must be > 0 to make a step, found 0.0")
        gradients = self.scale_grad(self.flatten_gradients(self.checked(gradients)))
        self.check_step()
        decays = self._current_decays()
        rates = self.rates()
        step = ops.reshape(ops.assign_add(self.afactor_step, 1.0), ())
        share = ops.pow(step, -self.decay_rate)
        if self.relative_step:
            rates = [self._relative_rate(step)] * len(self.parameters)
        for k, g in enumerate(gradients):
            self._update_one(k, g, rates[k], share, decays[k])
        return self.done()

    def _relative_rate(self, step: Any) -> Any:
        return ops.minimum(step * 1e-6 if self.warmup_init else ops.ones_like(step) * 1e-2, ops.rsqrt(step))

    def _current_decays(self) -> list[Any]:
        """The decay of each parameter: a float, or what its Cell says at global_step."""
        made = {id(d): d(self.global_step) if isinstance(d, Cell) else d for d in self._decays}
        return [
            ops.reshape(v, ()) if isinstance(v, Tensor) else v for v in (made[id(d)] for d in self._decays)
        ]

    def _update_one(self, k: int, g: Any, rate: Any, share: Any, decay: Any) -> None:
        p = self.parameters[k]
        factored, first = p.ndim >= 2, self.beta1 > 0
        second = (self.exp_avg_sq_row[k], self.exp_avg_sq_col[k]) if factored else (self.exp_avg_sq[k],)
        state = (p, *second, *((self.exp_avg[k],) if first else ()))
        given = (g, rate, share, *((decay,) if isinstance(decay, Tensor) else ()))

        def rule(w: Node, *others: Node) -> tuple[Node, ...]:
            moments, (g, rate, share, *more) = others[: len(state) - 1], others[len(state) - 1 :]
            rate = rate * maximum(_rms(w), self.eps[1]) if self._scaled[k] else rate
            u, *new = (
                self._factored(g, share, *moments[:2]) if factored else self._plain(g, share, moments[0])
            )
            u = u * (rate / maximum(_rms(u) * (1.0 / self.clip_threshold), 1.0))
            if first:
                u = moments[-1] * self.beta1 + u * (1.0 - self.beta1)
                new.append(u)
            shrink = more[0] if more else decay
            moved = w - u - w * (rate * shrink) if isinstance(shrink, Node) or shrink > 0 else w - u
            return moved, *new

        update(rule, state, *given)

    def _factored(self, g: Node, share: Node, row: Node, col: Node) -> tuple[Node, ...]:
        last, shape = g.type.rank - 1, g.shape
        q = g * g + self.eps[0]
        row = row * (1.0 - share) + _mean(q, (last,)) * share
        col = maximum(col * (1.0 - share) + _mean_of_columns(q) * share, TINY)
        middle = spread(maximum(_mean(row, (last - 1,)), TINY), row.shape, (last - 1,))
        root = spread(sqrt(row / middle), shape, (last,)) * spread(sqrt(col), shape, (last - 1,))
        return g / maximum(root, TINY), row, col

    def _plain(self, g: Node, share: Node, second: Node) -> tuple[Node, ...]:
        second = maximum(second * (1.0 - share) + (g * g + self.eps[0]) * share, TINY)
        return g / sqrt(second), second

    def _set_target(self, value: Any) -> None:
        self._check_target(value)


def _epsilons(eps: Any) -> tuple[float, float]:
    check_type("AdaFactor", "eps", eps, tuple, list)
    if len(eps) != 2:
        raise ValueError(f"AdaFactor: eps must hold 2 floats, found {found(eps)}")
    first, second = (check_number("AdaFactor", f"eps[{k}]", e, low=0, ints=False) for k, e in enumerate(eps))
    return first, second


def _first_moment(beta1: Any) -> float:
    if beta1 is None:
        return 0.0
    check_number("AdaFactor", "beta1", beta1, low=0)
    if beta1 >= 1:
        raise ValueError(f"AdaFactor: beta1 must be in [0, 1), found {beta1}")
    return float(beta1)


def _zeros(name: str, shape: tuple[int, ...], dtype: Any) -> Parameter:
    return Parameter(ops.zeros(shape, dtype), name=name, requires_grad=False)


def _mean(x: Node, axes: tuple[int, ...]) -> Node:
    return reduce_sum(x, axes=axes) * (1.0 / max(prod(x.shape[k] for k in axes), 1))


def _mean_of_columns(x: Node) -> Node:
    """The mean over the last axis but one; of a large matrix as a product, which reads it row by row."""
    if x.type.rank > 2 or x.shape[0] < _MANY_ROWS:
        return _mean(x, (x.type.rank - 2,))
    weights = full((x.shape[0],), 1.0 / x.shape[0], x.dtype)
    return dot_general(weights, x, contract=((0,), (0,)), batch=((), ()))


def _rms(x: Node) -> Node:
    """The root of the mean square; rows are summed first, so that no square is stored."""
    square = x * x
    rows = reduce_sum(square, axes=tuple(range(1, x.type.rank))) if x.type.rank > 1 else square
    return sqrt(reduce_sum(rows, axes=tuple(range(rows.type.rank))) * (1.0 / max(x.type.size, 1)))
