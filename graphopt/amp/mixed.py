"""Mixed precision: networks that compute in a narrow float, and the training step around them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from graphopt.amp.manager import DynamicLossScaleManager, LossScaleManager
from graphopt.amp.operators import OperatorRule, in_kind, rule_of
from graphopt.common.checks import check_bool, check_type, found
from graphopt.common.dtype import bfloat16, float16, float32
from graphopt.common.precision import computing_by
from graphopt.ir.types import DType
from graphopt.nn.cell import Cell
from graphopt.nn.layer.basic import Dense
from graphopt.nn.layer.conv import Conv1d, Conv2d, Conv3d
from graphopt.nn.layer.normalization import BatchNorm1d, BatchNorm2d, BatchNorm3d, LayerNorm
from graphopt.nn.loss_scale import TrainOneStepWithLossScaleCell
from graphopt.nn.optim.optimizer import Optimizer
from graphopt.nn.wrap import TrainOneStepCell, WithLossCell

LEVELS = ("O0", "O1", "O2", "O3", "auto")
NARROW_LEVELS = ("O2", "O3", "auto")  # the network's results may be narrow; what follows them is computed in float32
_WHITE: tuple[type[Cell], ...] = (Conv1d, Conv2d, Conv3d, Dense)
_BLACK: tuple[type[Cell], ...] = (BatchNorm1d, BatchNorm2d, BatchNorm3d, LayerNorm)
_KEYWORDS = ("cast_model_type", "keep_batchnorm_fp32", "loss_scale_manager")


def get_white_list() -> list[type[Cell]]:
    """The Cells that compute in the narrow dtype at level O1, by their operators; a copy.

    >>> import graphopt as ms
    >>> ms.nn.Dense in ms.amp.get_white_list()
    True
    """
    return list(_WHITE)


def get_black_list() -> list[type[Cell]]:
    """The Cells that level O2 lets compute in float32; a copy.

    >>> import graphopt as ms
    >>> ms.nn.LayerNorm in ms.amp.get_black_list()
    True
    """
    return list(_BLACK)


def auto_mixed_precision(network: Any, amp_level: str = "O0", dtype: DType = float16) -> Any:
    """Let a network compute in float16 or bfloat16, in place; its Parameters stay, and what it gives is float32.

    amp_level:
        O0    nothing changes.
        O1    matrix products, convolutions, relu, prelu and outer products compute in dtype and give float32; Cells
              with a `to_float` of their own are left alone.
        O2    everything but the Cells of `get_black_list` computes in dtype.
        O3    everything does.
        auto  products compute in dtype, exp, log, pow, norms, sums, softmax and losses in float32, sums of
              several tensors and concat in the widest of their inputs, everything else in what it gets.
    A level set before is replaced. With auto, network may be a function: then a function comes back, and it gives what
    its last operator gives.
    Cost:   narrow floats halve what is stored and moved; they are computed in float32, so small networks get no faster.
    Errors: TypeError when network is no Cell (for auto: nor a function); ValueError for another level or dtype.

    >>> import graphopt as ms
    >>> net = ms.amp.auto_mixed_precision(ms.nn.Dense(1, 1, weight_init=0.1, has_bias=False), "O2")
    >>> net.weight.dtype, net(ms.Tensor([[1.0]])).dtype, float(net(ms.Tensor([[1.0]])))
    (Float32, Float32, 0.0999755859375)
    """
    check_level("auto_mixed_precision", "amp_level", amp_level)
    if amp_level == "auto" and inspect.isroutine(network):
        _check_narrow("auto_mixed_precision", dtype)
        return _ruled_function(network, rule_of(amp_level, dtype))
    check_type("auto_mixed_precision", "network", network, Cell)
    _check_narrow("auto_mixed_precision", dtype)
    if amp_level != "O0":
        _undo(network)
    if amp_level in ("O1", "auto"):
        network._precision = rule_of(amp_level, dtype)
        _widen_results(network, [network])
    elif amp_level in ("O2", "O3"):
        _narrow_but(network, _BLACK if amp_level == "O2" else (), dtype)
        _widen_results(network, [network])
    return network


def _ruled_function(function: Any, rule: OperatorRule) -> Any:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with computing_by(rule):
            return function(*args, **kwargs)

    return run


def custom_mixed_precision(
    network: Cell,
    *,
    white_list: Sequence[type[Cell]] | None = None,
    black_list: Sequence[type[Cell]] | None = None,
    dtype: DType = float16,
) -> Cell:
    """As auto_mixed_precision, with a list of one's own: of Cells that compute in dtype, or of Cells that do not.

    Errors: TypeError when network is no Cell or a list holds other things than Cell classes; ValueError unless
            exactly one list is given, or for another dtype.

    >>> import graphopt as ms
    >>> net = ms.nn.SequentialCell(ms.nn.Dense(1, 1, weight_init=0.1, has_bias=False), ms.nn.ReLU())
    >>> float(ms.amp.custom_mixed_precision(net, white_list=[ms.nn.Dense])(ms.Tensor([[1.0]])))
    0.0999755859375
    """
    owner = "custom_mixed_precision"
    check_type(owner, "network", network, Cell)
    _check_narrow(owner, dtype)
    if (white_list is None) == (black_list is None):
        both = "both" if white_list is not None else "neither"
        raise ValueError(f"{owner}: expected white_list or black_list, found {both}")
    if white_list is not None:
        _widen_results(network, _narrow_only(network, _classes(owner, "white_list", white_list), dtype))
    else:
        _narrow_but(network, _classes(owner, "black_list", black_list), dtype)
        _widen_results(network, [network])
    return network


def build_train_network(
    network: Cell,
    optimizer: Optimizer,
    loss_fn: Any = None,
    level: str = "O0",
    boost_level: str = "O0",
    **kwargs: Any,
) -> Cell:
    """The Cell of one training step in mixed precision.

    network:     gives predictions, or the loss itself when loss_fn is None.
    level:       as auto_mixed_precision's amp_level; at O2 and O3 the loss is computed in float32. O2 comes with a
                 DynamicLossScaleManager.
    kwargs:      replace what level says. cast_model_type: float16 or float32. keep_batchnorm_fp32: whether batch and
                 layer normalization compute in float32 in a narrow network. loss_scale_manager: None or an
                 amp.LossScaleManager.
    Shapes: the step's inputs and result are those of nn.TrainOneStepCell, or nn.TrainOneStepWithLossScaleCell when the
            manager has an update cell.
    Errors: TypeError when network is no Cell, optimizer no Optimizer, loss_fn not callable, or a keyword of
            another type; ValueError for another level, a boost_level but 'O0', or another keyword.

    >>> import graphopt as ms
    >>> net = ms.nn.Dense(1, 1, weight_init="ones", has_bias=False)
    >>> optimizer = ms.nn.SGD(net.trainable_params(), 0.1)
    >>> step = ms.amp.build_train_network(net, optimizer, ms.nn.MSELoss(), level="O3")
    >>> float(step(ms.Tensor([[2.0]]), ms.Tensor([[1.0]])))
    1.0
    """
    owner = "build_train_network"
    check_type(owner, "network", network, Cell)
    check_type(owner, "optimizer", optimizer, Optimizer)
    check_level(owner, "level", level)
    check_boost(owner, boost_level)
    if loss_fn is not None and not callable(loss_fn):
        raise TypeError(f"{owner}: loss_fn must be callable or None, found {found(loss_fn)}")
    keep, narrow, manager = _settings(owner, level, kwargs)
    if narrow:
        _narrow_but(network, _BLACK if keep else (), float16)
    elif level in ("O1", "auto"):
        auto_mixed_precision(network, level)
    if loss_fn is not None:
        network = _LossInFloat32(network, loss_fn) if narrow else WithLossCell(network, loss_fn)
    if manager is None:
        return TrainOneStepCell(network, optimizer).set_train()
    update = manager.get_update_cell()
    if update is None:
        return TrainOneStepCell(network, optimizer, manager.get_loss_scale()).set_train()
    return TrainOneStepWithLossScaleCell(network, optimizer, update).set_train()


class _LossInFloat32(WithLossCell):
    """(data, label) -> loss_fn(backbone(data), label), both in float32 when they are floats."""

    def construct(self, data: Any, label: Any) -> Any:
        return self._loss_fn(in_kind(float32, self._backbone(data)), in_kind(float32, label))


# checks -------------------------------------------------------------------------------------------------------


def check_level(owner: str, name: str, level: Any) -> None:
    """See that a level is one of those offered."""
    check_type(owner, name, level, str)
    if level not in LEVELS:
        raise ValueError(f"{owner}: {name} must be one of {', '.join(LEVELS)}, found {level!r}")


def check_boost(owner: str, level: Any) -> None:
    """See that no boost is asked for: there is none here."""
    check_type(owner, "boost_level", level, str)
    if level != "O0":
        raise ValueError(f"{owner}: boost_level must be 'O0', the only one offered, found {level!r}")


def check_keywords(owner: str, keywords: dict[str, Any]) -> None:
    """See that the keywords are known, and of their types."""
    for key in keywords:
        if key not in _KEYWORDS:
            raise ValueError(f"{owner}: expected the keywords {', '.join(_KEYWORDS)}, found {key!r}")
    kind = keywords.get("cast_model_type", float32)
    if kind not in (float16, float32):
        raise TypeError(f"{owner}: cast_model_type must be float16 or float32, found {found(kind)}")
    check_bool(owner, "keep_batchnorm_fp32", keywords.get("keep_batchnorm_fp32", False))
    check_type(owner, "loss_scale_manager", keywords.get("loss_scale_manager"), LossScaleManager, type(None))


def _settings(owner: str, level: str, keywords: dict[str, Any]) -> tuple[bool, bool, LossScaleManager | None]:
    """(whether normalization keeps float32, whether the network computes in float16, the manager of the scale)."""
    check_keywords(owner, keywords)
    keep = keywords.get("keep_batchnorm_fp32", level == "O2")
    if "cast_model_type" in keywords:
        narrow = keywords["cast_model_type"] is float16
    else:
        narrow = level in ("O2", "O3")
    if "loss_scale_manager" in keywords:
        return keep, narrow, keywords["loss_scale_manager"]
    return keep, narrow, DynamicLossScaleManager() if level == "O2" else None


def _check_narrow(owner: str, dtype: Any) -> None:
    if dtype not in (float16, bfloat16):
        raise ValueError(f"{owner}: dtype must be float16 or bfloat16, found {found(dtype)}")


def _classes(owner: str, name: str, given: Any) -> tuple[type[Cell], ...]:
    check_type(owner, name, given, list, tuple)
    for kind in given:
        if not (isinstance(kind, type) and issubclass(kind, Cell)):
            raise TypeError(f"{owner}: {name} must hold Cell classes, found {found(kind)}")
    return tuple(given)


# casts --------------------------------------------------------------------------------------------------------


def _give(cell: Cell, kind: DType) -> Any:
    """Let a Cell give its results in `kind`: the handle that undoes it."""
    cast: Callable[..., Any] = functools.partial(_cast_output, kind)
    return cell.register_forward_hook(cast)


def _cast_output(kind: DType, cell: Cell, inputs: Any, output: Any) -> Any:
    return in_kind(kind, output)


def _undo(network: Cell) -> None:
    """Take back what was set here before; what the user set with `to_float` stays."""
    for _, cell in network.cells_and_names():
        for handle in cell.__dict__.pop("_amp_handles", ()):
            handle.remove()
        if cell.__dict__.pop("_amp_kind", False):
            cell._to_float = None
        if cell._precision is not None:
            cell._precision = None


def _compute_in(network: Cell, kind: DType) -> None:
    """Let a Cell and all below it compute in `kind`."""
    network.to_float(kind)
    for _, cell in network.cells_and_names():
        cell.__dict__["_amp_kind"] = True


def _keep(cell: Cell, handle: Any) -> None:
    cell.__dict__["_amp_handles"] = (*cell.__dict__.get("_amp_handles", ()), handle)


def _outermost(network: Cell, kinds: tuple[type[Cell], ...]) -> Iterator[Cell]:
    """The Cells of these kinds that do not lie in another one."""
    if isinstance(network, kinds):
        yield network
        return
    for child in network.cells():
        if child is not network:
            yield from _outermost(child, kinds)


def _narrow_but(network: Cell, kinds: tuple[type[Cell], ...], dtype: DType) -> None:
    """Everything computes in dtype but Cells of these kinds, whose results are cast to it."""
    _undo(network)
    _compute_in(network, dtype)
    for cell in list(_outermost(network, kinds)):
        _compute_in(cell, float32)
        _keep(cell, _give(cell, dtype))


def _narrow_only(network: Cell, kinds: tuple[type[Cell], ...], dtype: DType) -> list[Cell]:
    """Cells of these kinds compute in dtype; they."""
    _undo(network)
    chosen = list(dict.fromkeys(_outermost(network, kinds)))
    for cell in chosen:
        _compute_in(cell, dtype)
    return chosen


def _widen_results(network: Cell, cells: Sequence[Cell]) -> None:
    for cell in cells:
        _keep(cell, _give(cell, float32))
