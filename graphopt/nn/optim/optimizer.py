"""The base of all optimizers: parameters and groups, learning rates, weight decay, loss scale, and the order of
work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from graphopt import ops
from graphopt.common.checks import check_bool, found
from graphopt.common.dtype import float16, float32, float64
from graphopt.common.parameter import Parameter, ParameterTuple
from graphopt.common.ranges import check_range
from graphopt.common.row_tensor import RowTensor, map_tensor
from graphopt.common.tensor import Tensor, apply
from graphopt.ir.graph import Node
from graphopt.nn.cell import Cell
from graphopt.nn.container import CellList
from graphopt.nn.learning_rate_schedule import LearningRateSchedule
from graphopt.nn.optim.groups import ParameterGroups, read_parameters
from graphopt.nn.optim.learning_rate import ConstantLR, VectorLR, guard_steps, read_rate
from graphopt.opdefs import reduce
from graphopt.opdefs.math import sqrt
from graphopt.opdefs.rows import no_row
from graphopt.ops.promote import in_float32

DEVICES = ("CPU", "Ascend", "GPU")


class Optimizer(Cell):
    """Base of all optimizers: subclasses override `construct(gradients)`, begin it with `self.prepared(gradients)`
    and `self.rates()`, and end it with `self.done()`.

    learning_rate: a float or int >= 0, a Tensor, an iterable (one rate per step), or a LearningRateSchedule.
    parameters:    Parameters, or dicts {'params', 'lr', 'weight_decay', 'grad_centralization'} and {'order_params'}.
    weight_decay:  a number >= 0, or a Cell from global_step to one. Ungrouped it spares parameters named *beta* or
    *gamma*.
    loss_scale:    gradients are divided by it; it must be > 0.

    Calling an optimizer takes one tuple of gradients, in the order of `parameters`, updates the parameters and gives
    a tuple of True. A gradient may be a RowTensor; optimizers without a rule for rows make it dense first.
    Work of one call: weight decay, centralization (groups), un-scaling, reading the rates, global_step + 1, the
    update.

    Errors: TypeError, ValueError, KeyError or RuntimeError for arguments that do not fit; NotImplementedError when
            construct is not overridden; RuntimeError before a step past the end of a list of rates, which changes
            nothing; ValueError for a RowTensor with an index outside the table.

    >>> import graphopt as ms
    >>> class Plain(ms.nn.Optimizer):
    ...     def construct(self, gradients):
    ...         gradients = self.prepared(gradients)
    ...         for p, g, lr in zip(self.parameters, gradients, self.rates()):
    ...             ms.ops.assign_sub(p, g * lr)
    ...         return self.done()
    >>> p = ms.Parameter(ms.Tensor([1.0]), name="p")
    >>> Plain(0.5, [p])((ms.Tensor([1.0]),))
    (True,)
    >>> p.asnumpy().tolist()
    [0.5]
    """

    _decays_all_names = False
    _keeps_rows = False  # whether `construct` takes RowTensors; otherwise they are made dense before
    _target = "CPU"

    def __init__(self, learning_rate: Any, parameters: Any, weight_decay: Any = 0.0, loss_scale: Any = 1.0) -> None:
        super().__init__(auto_prefix=False)
        owner = type(self).__name__
        read = read_parameters(owner, parameters)
        self.loss_scale = _loss_scale(owner, loss_scale)
        self.reciprocal_scale = 1.0 / self.loss_scale
        self.need_scale = self.loss_scale != 1.0
        self.global_step = Parameter(Tensor(np.zeros(1, np.int32)), name="global_step")
        self.is_group = read.groups is not None
        self._groups = read.groups or ()
        self.is_group_params_ordered = read.ordered
        self.is_group_lr = False
        self.dynamic_lr = False
        self._unique = not any(vars(p).get("unique", False) for p, _ in read.order)
        self._read_rates(read, learning_rate)
        self.parameters = ParameterTuple(p for p, _ in read.order)
        self.param_length = len(self.parameters)
        self._read_decay(read, weight_decay)
        if self.is_group:
            self._read_centralization(read)
            self.group_params = list(self.parameters)

    # constructor ----------------------------------------------------------------------------------------------

    def _read_rates(self, read: ParameterGroups, learning_rate: Any) -> None:
        owner = type(self).__name__
        default = read_rate(owner, learning_rate)
        self._lr_place: list[int] = [0] * len(read.order)
        if read.groups is None:
            self._rate_cells: list[Any] = [self._make_rate(default, "learning_rate", False)]
            self.learning_rate = self._rate_cells[0]
            return
        read_groups = [read_rate(owner, g.settings["lr"]) if "lr" in g.settings else None for g in read.groups]
        self.is_group_lr = any(r is not None for r in read_groups)
        used = [default if r is None else r for r in read_groups]
        self._check_lengths(owner, [default, *used])
        self.dynamic_lr = any(not isinstance(r, float) for r in used)
        if not self.is_group_lr:
            self._rate_cells = [self._make_rate(default, "learning_rate", False)]
            self.learning_rate = self._rate_cells[0]
            return
        shared: Any = None
        self._rate_cells = []
        for group, own, rate in zip(read.groups, read_groups, used, strict=True):
            if own is None and shared is not None:
                self._rate_cells.append(shared)
                continue
            name = "learning_rate" if own is None else f"learning_rate_group_{group.index}"
            made = self._make_rate(rate, name, self.dynamic_lr)
            shared = made if own is None else shared
            self._rate_cells.append(made)
        self._lr_place = [place for _, place in read.order]
        per_parameter = [self._rate_cells[place] for place in self._lr_place]
        self.group_lr = per_parameter
        if self.dynamic_lr:
            self.learning_rate = CellList(list(dict.fromkeys(self._rate_cells)), auto_prefix=False)
        else:
            self.learning_rate = ParameterTuple(dict.fromkeys(self._rate_cells))

    def _make_rate(self, rate: Any, name: str, as_cell: bool) -> Any:
        if isinstance(rate, float):
            return ConstantLR(rate, name) if as_cell else Parameter(Tensor(np.float32(rate)), name=name)
        self.dynamic_lr = True
        return rate if isinstance(rate, LearningRateSchedule) else VectorLR(rate, name)

    @staticmethod
    def _check_lengths(owner: str, rates: list[Any]) -> None:
        lengths = {len(r) for r in rates if isinstance(r, np.ndarray)}
        if len(lengths) > 1:
            raise ValueError(f"{owner}: lists of learning rates must have the same size, found {sorted(lengths)}")

    def _read_decay(self, read: ParameterGroups, weight_decay: Any) -> None:
        default = self._decay_value(weight_decay)
        if read.groups is None:
            on = isinstance(default, Cell) or default > 0
            spared = () if self._decays_all_names else ("beta", "gamma")
            self.decay_flags = tuple(on and not any(s in p.name for s in spared) for p in self.parameters)
            self.dynamic_weight_decay = isinstance(default, Cell)
            self.dynamic_decay_flags: Any = self.dynamic_weight_decay
            self._decays: list[Any] = [default] * len(self.parameters)
        else:
            per_group = [
                self._decay_value(g.settings["weight_decay"]) if "weight_decay" in g.settings else default
                for g in read.groups
            ]
            self._decays = [per_group[place] for _, place in read.order]
            self.decay_flags = tuple(isinstance(d, Cell) or d > 0 for d in self._decays)
            self.dynamic_decay_flags = tuple(isinstance(d, Cell) for d in self._decays)
            self.dynamic_weight_decay = any(self.dynamic_decay_flags)
            self.group_weight_decay = self._decays
        self.exec_weight_decay = any(self.decay_flags)
        cells = list(dict.fromkeys(d for d in self._decays if isinstance(d, Cell)))
        self.weight_decay_cells = CellList(cells, auto_prefix=False)
        self.weight_decay = tuple(self._decays) if self.is_group else default

    def _decay_value(self, weight_decay: Any) -> Any:
        """A Cell, or a float >= 0 (not yet times loss_scale)."""
        owner = type(self).__name__
        if isinstance(weight_decay, Cell):
            return weight_decay
        if isinstance(weight_decay, bool) or not isinstance(weight_decay, (int, float)):
            raise TypeError(f"{owner}: weight_decay must be a float, an int or a Cell, found {found(weight_decay)}")
        if weight_decay < 0:
            raise ValueError(f"{owner}: weight_decay must be >= 0, found {weight_decay}")
        return float(weight_decay)

    def _read_centralization(self, read: ParameterGroups) -> None:
        owner = type(self).__name__
        assert read.groups is not None
        per_group = [
            check_bool(owner, "grad_centralization", g.settings.get("grad_centralization", False))
            for g in read.groups
        ]
        flags = tuple(per_group[place] for _, place in read.order)
        for p, flag in zip(self.parameters, flags, strict=True):
            if flag and p.ndim == 2:
                raise ValueError(
                    f"{owner}: grad_centralization is for convolution kernels (3 or more axes) and their biases, "
                    f"found parameter {p.name!r} of shape {p.shape}"
                )
        self.grad_centralization_flags = flags
        self.group_grad_centralization = list(flags)

    def keep_arguments(self, params: Any, learning_rate: Any, **arguments: Any) -> None:
        """Keep what the constructor was called with, in `init_params`, `init_learning_rate` and `init_args`."""
        self.init_params = {"params": params}
        self.init_learning_rate = None if isinstance(learning_rate, LearningRateSchedule) else learning_rate
        self.init_args = arguments

    # one call -------------------------------------------------------------------------------------------------

    def construct(self, gradients: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must override construct(gradients)")

    def checked(self, gradients: Any) -> tuple[Any, ...]:
        """The gradients as a tuple, one of the right shape for each parameter: Tensors, and RowTensors where the
        optimizer knows them.

        Errors: RuntimeError for something that is no tuple or list of as many; TypeError for an element that is no
                Tensor or RowTensor or does not convert; ValueError for another shape, or an index outside the table.
        """
        owner = type(self).__name__
        if not isinstance(gradients, (tuple, list)) or len(gradients) != len(self.parameters):
            count = f" of {len(gradients)}" if isinstance(gradients, (tuple, list)) else ""
            kind = type(gradients).__name__
            raise RuntimeError(f"{owner}: expected a tuple of {len(self.parameters)} gradients, found {kind}{count}")
        return tuple(self._checked_one(owner, p, g) for p, g in zip(self.parameters, gradients, strict=True))

    def _checked_one(self, owner: str, p: Parameter, g: Any) -> Any:
        if not isinstance(g, (Tensor, RowTensor)):
            raise TypeError(f"{owner}: the gradient of {p.name!r} must be a Tensor, found {found(g)}")
        if g.shape != p.shape:
            raise ValueError(f"{owner}: the gradient of {p.name!r} must have shape {p.shape}, found {g.shape}")
        if g.dtype is float64 and p.dtype is not float64:
            raise TypeError(f"{owner}: the gradient of {p.name!r} must fit {p.dtype!r}, found {g.dtype!r}")
        if isinstance(g, RowTensor):
            filler = no_row(g.indices.dtype)
            check_range(owner, f"the gradient of {p.name!r}: index", g.indices, p.shape[0], filler=filler)
        if not g.dtype.is_float or (g.dtype is float16 and p.dtype is float32):
            g = map_tensor(g, lambda t: ops.cast(t, float32))
        return g.to_dense() if isinstance(g, RowTensor) and not self._keeps_rows else g

    def prepared(self, gradients: Any) -> tuple[Any, ...]:
        """Checked, decayed, centralized and un-scaled gradients: what an update starts from."""
        gradients = self.flatten_gradients(self.checked(gradients))
        self.check_step()
        return self.scale_grad(self.gradients_centralization(self.decay_weight(gradients)))

    def check_step(self) -> None:
        """See that no list of learning rates ends before global_step: now, or before each run of the graph being
        traced.

        Errors: RuntimeError naming the step and the length.
        """
        guard_steps(self._rate_cells, self.global_step)

    @contextmanager
    def scaled_by(self, scale: Any) -> Iterator[None]:
        """Gradients of a backward pass inside the block carry a factor that `construct` will not see; for optimizers
        that also look at the backward pass itself.
        """
        yield

    def keep_collected_if(self, wanted: Tensor) -> None:
        """Unless `wanted`, a bool of shape (), forget what was seen in the last such pass."""

    def rates(self) -> list[Any]:
        """One learning rate per parameter, read at global_step, which is then advanced."""
        rates = self.get_lr()
        ops.assign_add(self.global_step, 1)
        return list(rates) if isinstance(rates, tuple) else [rates] * len(self.parameters)

    def done(self) -> tuple[bool, ...]:
        """What a call returns: True for each parameter."""
        return (True,) * len(self.parameters)

    def decay_weight(self, gradients: Sequence[Any]) -> tuple[Any, ...]:
        """Each flagged gradient plus weight_decay · loss_scale · its parameter; of a RowTensor each row plus that of
        the parameter's row.
        """
        if not self.exec_weight_decay:
            return tuple(gradients)
        decays = self.get_weight_decay()
        each = decays if isinstance(decays, tuple) else (decays,) * len(self.parameters)
        return tuple(
            _plus_decay(g, p, decay) if flag else g
            for g, p, decay, flag in zip(gradients, self.parameters, each, self.decay_flags, strict=True)
        )

    def gradients_centralization(self, gradients: Sequence[Any]) -> tuple[Any, ...]:
        """Each flagged gradient of 3 or more axes minus its mean over all axes but the first; nothing when
        ungrouped.
        """
        if not self.is_group:
            return tuple(gradients)
        return tuple(
            map_tensor(g, lambda t: apply(_centred, t)) if flag and len(g.shape) >= 3 else g
            for g, flag in zip(gradients, self.grad_centralization_flags, strict=True)
        )

    def scale_grad(self, gradients: Sequence[Any]) -> tuple[Any, ...]:
        """Each gradient over loss_scale."""
        if not self.need_scale:
            return tuple(gradients)
        return tuple(map_tensor(g, lambda t: t * self.reciprocal_scale) for g in gradients)

    def flatten_gradients(self, gradients: Any) -> Any:
        """The argument."""
        return gradients

    def broadcast_params(self, optim_result: Any) -> Any:
        """The argument: there is one device."""
        return optim_result

    # rates and decay ------------------------------------------------------------------------------------------

    def get_lr(self) -> Any:
        """The learning rate at global_step: a Parameter or 0-d Tensor, a tuple with one per parameter for groups
        with rates.
        """
        if not self.is_group_lr:
            return self._rate_at(self._rate_cells[0])
        values = {id(c): self._rate_at(c) for c in self._rate_cells}
        return tuple(values[id(self._rate_cells[place])] for place in self._lr_place)

    def _rate_at(self, rate: Any) -> Any:
        if isinstance(rate, Parameter):
            return rate
        value = rate(self.global_step)
        return ops.reshape(ops.cast(value, float32) if value.dtype is not float32 else value, ())

    def get_weight_decay(self) -> Any:
        """Weight decay times loss_scale at global_step: a 0-d float32 Tensor, a tuple with one per parameter for
        groups.
        """
        values = self._decays_at(self.loss_scale)
        return values if self.is_group else values[0]

    def decays(self) -> list[tuple[Any, ...]]:
        """Per parameter (its weight decay at global_step,), not times loss_scale; () where nothing decays."""
        if not self.exec_weight_decay:
            return [()] * len(self.parameters)
        return [(d,) if flag else () for d, flag in zip(self._decays_at(1.0), self.decay_flags, strict=True)]

    def _decays_at(self, scale: float) -> tuple[Any, ...]:
        values = {id(d): self._decay_at(d, scale) for d in self._decays}
        return tuple(values[id(d)] for d in self._decays)

    def _decay_at(self, decay: Any, scale: float) -> Any:
        if not isinstance(decay, Cell):
            return Tensor(np.float32(decay * scale))
        value = ops.reshape(ops.cast(decay(self.global_step), float32), ())
        return value if scale == 1.0 else value * scale

    def get_lr_parameter(self, param: Any) -> Any:
        """The Parameter that holds the rate of a parameter (the schedule itself for a schedule); a list for a list.

        Errors: TypeError for other things; ValueError for a parameter that is not the optimizer's.
        """
        if isinstance(param, Parameter):
            return self._lr_of(param)
        if not isinstance(param, list):
            raise TypeError(f"get_lr_parameter: param must be a Parameter or a list of them, found {found(param)}")
        for p in param:
            if not isinstance(p, Parameter):
                raise TypeError(f"get_lr_parameter: param must hold Parameters, found {found(p)}")
        return [self._lr_of(p) for p in param]

    def _lr_of(self, param: Parameter) -> Any:
        for p, place in zip(self.parameters, self._lr_place, strict=True):
            if p is param or p.name == param.name:
                rate = self._rate_cells[place]
                return rate.learning_rate if isinstance(rate, (VectorLR, ConstantLR)) else rate
        raise ValueError(
            f"get_lr_parameter: parameter {param.name!r} is not among those of this {type(self).__name__}"
        )

    # target and unique ----------------------------------------------------------------------------------------

    @property
    def target(self) -> str:
        """The device that computes the update."""
        return self._target

    @target.setter
    def target(self, value: str) -> None:
        self._set_target(value)

    def _set_target(self, value: Any) -> None:
        raise NotImplementedError(f"{type(self).__name__}: target cannot be set")

    def _check_target(self, value: Any) -> None:
        """The rule of optimizers that offer `target`: a device name, and here that can only be the CPU."""
        owner = type(self).__name__
        if not isinstance(value, str):
            raise TypeError(f"{owner}: target must be a str, found {found(value)}")
        if value != "CPU":
            known = "one of CPU, Ascend, GPU" if value not in DEVICES else "CPU, the only device here"
            raise ValueError(f"{owner}: target must be {known}, found {value!r}")

    @property
    def unique(self) -> bool:
        """Whether equal indices of a row-sparse gradient are summed before the update."""
        return self._unique

    @unique.setter
    def unique(self, value: bool) -> None:
        self._unique = check_bool(type(self).__name__, "unique", value)


    def _set_any_target(self, value: Any) -> None:
        """The rule of FTRL and ProximalAdagrad: any of the three names is taken over; the update runs on the CPU."""
        owner = type(self).__name__
        if not isinstance(value, str):
            raise TypeError(f"{owner}: target must be a str, found {found(value)}")
        if value not in DEVICES:
            raise ValueError(f"{owner}: target must be one of {', '.join(DEVICES)}, found {value!r}")
        self._target = value


def _loss_scale(owner: str, loss_scale: Any) -> float:
    if not isinstance(loss_scale, (int, float)):
        raise TypeError(f"{owner}: loss_scale must be a float, found {found(loss_scale)}")
    if loss_scale <= 0:
        raise ValueError(f"{owner}: loss_scale must be > 0, found {loss_scale}")
    return float(loss_scale)


def _plus_decay(g: Any, p: Any, decay: Any) -> Any:
    if isinstance(g, RowTensor):
        rows = ops.gather(p, g.indices, 0)
        return g.map_values(lambda t: t + ops.cast(rows * decay, p.dtype))
    return g + ops.cast(p * decay, p.dtype)


def _centred(g: Node) -> Node:
    axes = tuple(range(1, g.type.rank))
    count = max(g.type.size // max(g.shape[0], 1), 1)
    mean = reduce.reduce_sum(g, axes=axes) * (1.0 / count)
    return g - reduce.spread(mean, g.shape, axes)


def norm(x: Node) -> Node:
    """The root of the sum of squares of all elements."""
    return sqrt(reduce.reduce_sum(x * x, axes=tuple(range(x.type.rank))))


def update(rule: Any, state: Sequence[Parameter], *others: Any) -> None:
    """Run an update rule and assign its results to `state`, the parameter first."""
    made = apply(in_float32(rule), *state, *others)
    for p, value in zip(state, made, strict=True):
        ops.assign(p, value)
