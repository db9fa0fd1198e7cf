"""THOR: natural gradient by Kronecker factors of each layer that are refreshed now and then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from graphopt import ops
from graphopt.common.checks import check_bool, check_int, check_number, check_type, found
from graphopt.common.dtype import float32, float64
from graphopt.common.parameter import Parameter, ParameterTuple
from graphopt.common.tensor import Tensor, apply
from graphopt.common.trace import active
from graphopt.ir.graph import Node
from graphopt.ir.types import i32
from graphopt.nn.cell import Cell
from graphopt.nn.layer.normalization import LayerNorm
from graphopt.nn.layer.thor_layer import (
    Conv2dThor,
    RefreshClock,
    TableThor,
    ThorLayer,
    convert,
    in_blocks,
)
from graphopt.nn.optim.optimizer import Optimizer, update
from graphopt.opdefs.elementwise import cast, eq, maximum
from graphopt.opdefs.factor import definite_inverse
from graphopt.opdefs.linalg import dot_general
from graphopt.opdefs.math import sqrt
from graphopt.opdefs.reduce import reduce_sum
from graphopt.opdefs.shape import iota, reshape, slice_, transpose


def thor(
    net: Cell,
    learning_rate: Tensor,
    damping: Tensor,
    momentum: float,
    weight_decay: float = 0.0,
    loss_scale: float = 1.0,
    batch_size: int = 32,
    use_nesterov: bool = False,
    decay_filter: Callable[[Parameter], bool] = lambda x: x.name not in [],
    split_indices: list[int] | None = None,
    enable_clip_grad: bool = False,
    frequency: int = 100,
) -> Thor:
    """Convert a network in place to layers that collect THOR's statistics, and make the optimizer of its parameters.

    See Thor for what a call does, for the arguments and for the errors.

    >>> import graphopt as ms
    >>> net = ms.nn.SequentialCell(ms.nn.Dense(2, 3), ms.nn.ReLU(), ms.nn.Dense(3, 2))
    >>> rates = ms.Tensor([0.1, 0.1, 0.05, 0.05])
    >>> optimizer = ms.nn.thor(net, rates, ms.Tensor([0.3, 0.3, 0.1, 0.1]), momentum=0.9, batch_size=4, frequency=2)
    >>> step = ms.nn.TrainOneStepCell(ms.nn.WithLossCell(net, ms.nn.MSELoss()), optimizer)
    >>> losses = [float(step(ms.ops.ones((4, 2)), ms.ops.zeros((4, 2))).asnumpy()) for _ in range(4)]
    >>> losses[-1] < losses[0]
    True
    """
    return Thor(
        net,
        learning_rate,
        damping,
        momentum,
        weight_decay,
        loss_scale,
        batch_size,
        use_nesterov,
        decay_filter,
        split_indices,
        enable_clip_grad,
        frequency,
    )


@dataclass(frozen=True)
class _Preconditioned:
    """A layer's weight and the inverses its gradient is multiplied by."""

    layer: ThorLayer
    a_inverse: Parameter
    g_inverse: Parameter


class Thor(Optimizer):
    """What `thor` returns. With B = batch_size, s = loss_scale, and d = damping of this call:

        g = g / s
        Dense, Conv2d:   g = G' · g · A', g as a matrix (outputs, rest)
        Embedding:       g = (A' ⊙ rows of g) · G'
        LayerNorm:       g = g / (g²/B + sqrt(d))
        g = g + weight_decay · w for parameters that pass decay_filter
        enable_clip_grad: g scaled down to norm 1 at most, each parameter by itself
        v = momentum · v + g;   w -= rate · v        (use_nesterov: rate · (g + momentum · v))

    The inverses A', G' are made anew in every frequency-th call, the first one included, from the statistics of the
    step at hand; T is the number of output positions:

        Dense:      A' = inverse(A + sqrt(d) I)               G' = inverse(G B²/s² + sqrt(d) I)
        Conv2d:     A' = inverse(A + sqrt(d/T) I)/sqrt(T)     G' = inverse(G B²/s² + sqrt(d/T) I)/sqrt(T)
        Embedding:  A' = 1/(A/B + sqrt(d))                    G' = inverse(G B²/s² + sqrt(d) I)

    Factors over more than 128 features are inverted as independent blocks of 128. Steps that do not refresh are
    compiled apart and collect nothing.
    learning_rate, damping: Tensors with one value per call, or a single one. split_indices: accepted, without effect
    on one machine.
    loss_scale: what the gradients are still multiplied by; 1 when the training step divides them itself, as
    nn.TrainOneStepWithLossScaleCell does, which also keeps statistics and inverses clean of steps it drops.
    State: `momentum`, `moments.*`, `cov_step` (calls so far), `matrix_a_inv_<i>`, `matrix_g_inv_<i>` per layer.

    Shapes: gradients as the parameters.
    Errors: TypeError when net is no Cell, learning_rate or damping no Tensor, momentum no float, frequency or
            batch_size no int, a flag no bool, decay_filter no function, weight_decay no number; ValueError for
            momentum or weight_decay < 0, loss_scale <= 0, frequency < 2, batch_size < 1; RuntimeError, before
            anything changes, in a call past the end of learning_rate or damping.
    Source: Chen et al. 2021, THOR: Trace-based Hardware-driven layer-ORiented Natural Gradient Descent Computation.

    >>> import graphopt as ms
    >>> net = ms.nn.SequentialCell(ms.nn.Dense(2, 2))
    >>> optimizer = ms.nn.thor(net, ms.Tensor(0.1), ms.Tensor(0.1), momentum=0.9)
    >>> type(net[0]).__name__, optimizer.get_frequency()
    ('DenseThor', 100)
    """

    def __init__(
        self,
        net: Cell,
        learning_rate: Tensor,
        damping: Tensor,
        momentum: float,
        weight_decay: float,
        loss_scale: float,
        batch_size: int,
        use_nesterov: bool,
        decay_filter: Callable[[Parameter], bool],
        split_indices: list[int] | None,
        enable_clip_grad: bool,
        frequency: int,
    ) -> None:
        check_type("thor", "net", net, Cell)
        check_type("thor", "learning_rate", learning_rate, Tensor)
        check_type("thor", "weight_decay", weight_decay, int, float)
        super().__init__(learning_rate, net.trainable_params(), weight_decay, loss_scale)
        self._read_numbers(damping, momentum, batch_size, frequency)
        self.use_nesterov = check_bool("thor", "use_nesterov", use_nesterov)
        self.enable_clip_grad = check_bool("thor", "enable_clip_grad", enable_clip_grad)
        check_type("thor", "split_indices", split_indices, list, tuple, type(None))
        self.split_indices = split_indices
        if not callable(decay_filter):
            raise TypeError(f"thor: decay_filter must be a function, found {found(decay_filter)}")
        self.decay_flags = tuple(weight_decay > 0 and bool(decay_filter(p)) for p in self.parameters)
        self.exec_weight_decay = any(self.decay_flags)
        convert(net)
        self.momentum = Parameter(Tensor(np.float32(momentum)), name="momentum", requires_grad=False)
        self.moments = self.parameters.clone(prefix="moments", init="zeros")
        self.cov_step = Parameter(Tensor(np.zeros(1, np.int32)), name="cov_step", requires_grad=False)
        self._clock = RefreshClock(self.cov_step, frequency)
        self._attach(net)
        self.keep_arguments(
            net,
            learning_rate,
            damping=damping,
            momentum=momentum,
            weight_decay=weight_decay,
            loss_scale=loss_scale,
            batch_size=batch_size,
            use_nesterov=use_nesterov,
            decay_filter=decay_filter,
            split_indices=split_indices,
            enable_clip_grad=enable_clip_grad,
            frequency=frequency,
        )

    # constructor ----------------------------------------------------------------------------------------------

    def _read_numbers(self, damping: Any, momentum: Any, batch_size: Any, frequency: Any) -> None:
        check_type("thor", "damping", damping, Tensor)
        if damping.ndim > 1:
            raise ValueError(f"thor: damping must have 0 or 1 axes, found shape {damping.shape}")
        check_number("thor", "momentum", momentum, low=0, ints=False)
        self.batch_size = check_int("thor", "batch_size", batch_size, low=1)
        self.frequency = check_int("thor", "frequency", frequency, low=2)
        self.damping = Tensor(damping.asnumpy().astype(np.float32))

    def _attach(self, net: Cell) -> None:
        """Find each parameter's layer, and let the layers know when statistics are due."""
        mine = {id(p): k for k, p in enumerate(self.parameters)}
        self._layers: dict[int, _Preconditioned] = {}
        self._normed: set[int] = set()
        self._collectors = [c for _, c in net.cells_and_names() if isinstance(c, ThorLayer)]
        inverses: tuple[list[Parameter], list[Parameter]] = ([], [])
        for _, cell in net.cells_and_names():
            if isinstance(cell, LayerNorm):
                self._normed |= {mine[id(p)] for p in (cell.gamma, cell.beta) if id(p) in mine}
            if not isinstance(cell, ThorLayer):
                continue
            cell._clock = self._clock
            place = mine.get(id(getattr(cell, cell.weight_name)))
            if place is None:
                continue
            number = len(inverses[0])
            for name, made, statistic in zip("ag", inverses, cell.statistics(), strict=True):
                zeros = ops.zeros(statistic.shape, statistic.dtype)
                made.append(Parameter(zeros, name=f"matrix_{name}_inv_{number}", requires_grad=False))
            self._layers[place] = _Preconditioned(cell, inverses[0][-1], inverses[1][-1])
        self.matrix_a_inv, self.matrix_g_inv = ParameterTuple(inverses[0]), ParameterTuple(inverses[1])

    def get_frequency(self) -> int:
        """How many calls one set of inverses serves."""
        return self.frequency

    @contextmanager
    def scaled_by(self, scale: Any) -> Iterator[None]:
        clock, statistics = self._clock, (p for c in self._collectors for p in c.get_parameters(expand=False))
        clock.scale, clock.former = scale, [(p, p.value()) for p in statistics if not p.requires_grad]
        try:
            yield
        finally:
            clock.scale = None

    def keep_collected_if(self, wanted: Tensor) -> None:
        trace = active()
        for p, old in self._clock.former:
            if trace is None or trace.node_of(p) is not trace.node_of(old):
                ops.assign(p, ops.select(wanted, p, old))
        self._clock.former = []

    # one call -------------------------------------------------------------------------------------------------

    def check_step(self) -> None:
        super().check_step()
        if self.damping.ndim == 0:
            return
        trace = active()
        if trace is None:
            self._check_damping()
        else:
            trace.guard(self._check_damping)

    def _check_damping(self) -> None:
        step, length = int(self.cov_step._data()[0]), self.damping.shape[0]
        if step >= length:
            raise RuntimeError(f"thor: damping has {length} values (steps 0 to {length - 1}), found step {step}")

    def construct(self, gradients: Any) -> Any:
        gradients = self.checked(gradients)
        self.check_step()
        trace = active()
        due = self._clock.due
        refresh = due() if trace is None else trace.choose("refresh of THOR's factors", due)
        damping = self._damping_now()
        rates = self.rates()
        ops.assign_add(self.cov_step, 1)
        for k, g in enumerate(self.scale_grad(gradients)):
            if k in self._layers:
                if refresh:
                    self._refresh(self._layers[k], damping)
                g = self._preconditioned(self._layers[k], g)
            elif k in self._normed:
                g = apply(self._normalized, g, damping)
            update(self._rule(k), (self.parameters[k], self.moments[k]), g, rates[k], self.momentum)
        return self.done()

    def _damping_now(self) -> Any:
        if self.damping.ndim == 0:
            return self.damping
        return ops.reshape(ops.gather(self.damping, self.cov_step, 0), ())

    def _refresh(self, one: _Preconditioned, damping: Any) -> None:
        """Make the inverses of a layer anew."""
        a, g = one.layer.statistics()
        gain = (self.batch_size / self.loss_scale) ** 2
        if isinstance(one.layer, TableThor):
            ops.assign(one.a_inverse, apply(lambda a, d: 1.0 / (a * (1.0 / self.batch_size) + sqrt(d)), a, damping))
            ops.assign(one.g_inverse, apply(lambda g, d: _inverse(g * gain, sqrt(d)), g, damping))
        elif isinstance(one.layer, Conv2dThor):
            positions = ops.reshape(one.layer.a_normalizer, ())
            ops.assign(one.a_inverse, apply(_inverse_per_position, a, damping, positions))
            scaled = ops.mul(g, gain)
            ops.assign(one.g_inverse, apply(_inverse_per_position, scaled, damping, positions))
        else:
            ops.assign(one.a_inverse, apply(lambda a, d: _inverse(a, sqrt(d)), a, damping))
            ops.assign(one.g_inverse, apply(lambda g, d: _inverse(g * gain, sqrt(d)), g, damping))

    def _preconditioned(self, one: _Preconditioned, gradient: Any) -> Any:
        embedding = isinstance(one.layer, TableThor)

        def rule(g: Node, a: Node, b: Node) -> Node:
            wide = g if g.dtype is a.dtype else cast(g, dtype=a.dtype)
            if embedding:
                return _from_right(wide * reshape(a, shape=(a.shape[0], 1)), b)
            matrix = reshape(wide, shape=(g.shape[0], prod(g.shape[1:])))
            return reshape(_from_right(_from_left(b, matrix), a), shape=g.shape)

        return apply(rule, gradient, one.a_inverse, one.g_inverse)

    def _normalized(self, g: Node, damping: Node) -> Node:
        kind = damping.dtype if g.dtype not in (float32, float64) else g.dtype
        wide, d = (n if n.dtype is kind else cast(n, dtype=kind) for n in (g, damping))
        return wide / (wide * wide * (1.0 / self.batch_size) + sqrt(d))

    def _rule(self, k: int) -> Callable[..., tuple[Node, ...]]:
        """Decay, clipping and momentum of one parameter."""
        decay = float(self._decays[k]) if self.decay_flags[k] else 0.0

        def rule(w: Node, v: Node, g: Node, rate: Node, momentum: Node) -> tuple[Node, ...]:
            if decay > 0:
                g = g + w * decay
            if self.enable_clip_grad:
                g = g / maximum(sqrt(reduce_sum(g * g, axes=tuple(range(g.type.rank)))), 1.0)
            v = v * momentum + g
            return w - (g + v * momentum if self.use_nesterov else v) * rate, v

        return rule


def _inverse(factor: Node, shift: Node) -> Node:
    """The inverse of factor + shift · I, or of each of its blocks."""
    rank = factor.type.rank
    row, column = (iota(shape=factor.shape, axis=k, dtype=i32) for k in (rank - 2, rank - 1))
    unit = cast(eq(row, column), dtype=factor.dtype)
    wide = shift if shift.dtype is factor.dtype else cast(shift, dtype=factor.dtype)
    return definite_inverse(factor + unit * wide)


def _inverse_per_position(factor: Node, damping: Node, positions: Node) -> Node:
    wide = damping if damping.dtype is factor.dtype else cast(damping, dtype=factor.dtype)
    return _inverse(factor, sqrt(wide / positions)) / sqrt(positions)


def _from_left(factor: Node, x: Node) -> Node:
    """factor · x; a factor in blocks acts on 128 rows each."""
    if factor.type.rank == 2:
        return dot_general(factor, x, contract=((1,), (0,)), batch=((), ()))
    made = dot_general(factor, in_blocks(x, 0), contract=((2,), (1,)), batch=((0,), (0,)))
    whole = reshape(made, shape=(prod(made.shape[:2]), x.shape[1]))
    return slice_(whole, start=(0, 0), stop=x.shape, step=(1, 1))


def _from_right(x: Node, factor: Node) -> Node:
    """x · factor; a factor in blocks acts on 128 columns each."""
    if factor.type.rank == 2:
        return dot_general(x, factor, contract=((1,), (0,)), batch=((), ()))
    made = transpose(dot_general(in_blocks(x, 1), factor, contract=((2,), (1,)), batch=((1,), (0,))), perm=(1, 0, 2))
    whole = reshape(made, shape=(x.shape[0], prod(made.shape[1:])))
    return slice_(whole, start=(0, 0), stop=x.shape, step=(1, 1))
