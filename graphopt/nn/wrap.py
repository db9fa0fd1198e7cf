"""Cells around networks: with a loss, with gradients, with a training step."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np

from graphopt import ops
from graphopt.common.checks import check_bool, check_number, check_type, found
from graphopt.common.dtype import float32
from graphopt.common.parameter import Parameter, ParameterTuple
from graphopt.common.row_tensor import RowTensor
from graphopt.common.signature import parameters_of
from graphopt.common.tensor import Tensor
from graphopt.nn.cell import Cell
from graphopt.nn.optim.optimizer import Optimizer
from graphopt.ops.composite import _ByFlags


class WithLossCell(Cell):
    """(data, label) -> loss_fn(backbone(data), label).

    Shapes, Dtypes: those of backbone and loss_fn. Errors: TypeError when backbone is no Cell; a call's are theirs.

    >>> import graphopt as ms
    >>> net = ms.nn.WithLossCell(ms.nn.Identity(), ms.nn.MSELoss())
    >>> float(net(ms.Tensor([1.0]), ms.Tensor([3.0])).asnumpy())
    4.0
    """

    _unnamed = ("_backbone",)

    def __init__(self, backbone: Cell, loss_fn: Any) -> None:
        super().__init__(auto_prefix=False)
        self._backbone = check_type("WithLossCell", "backbone", backbone, Cell)
        self._loss_fn = loss_fn

    def construct(self, data: Any, label: Any) -> Any:
        return self._loss_fn(self._backbone(data), label)

    @property
    def backbone_network(self) -> Cell:
        return self._backbone


class WithEvalCell(Cell):
    """(data, label) -> (loss, output, label).

    add_cast_fp32: whether output and label are cast to float32 before the loss.
    Errors: TypeError when network is no Cell or add_cast_fp32 no bool.

    >>> import graphopt as ms
    >>> net = ms.nn.WithEvalCell(ms.nn.Identity(), ms.nn.MSELoss())
    >>> [v.asnumpy().tolist() for v in net(ms.Tensor([1.0]), ms.Tensor([3.0]))]
    [4.0, [1.0], [3.0]]
    """

    _unnamed = ("_network",)

    def __init__(self, network: Cell, loss_fn: Any, add_cast_fp32: bool = False) -> None:
        super().__init__(auto_prefix=False)
        self._network = check_type("WithEvalCell", "network", network, Cell)
        self._loss_fn = loss_fn
        self.add_cast_fp32 = check_bool("WithEvalCell", "add_cast_fp32", add_cast_fp32)

    def construct(self, data: Any, label: Any) -> Any:
        output = self._network(data)
        if self.add_cast_fp32:
            label, output = _as_float32(label), _as_float32(output)
        return self._loss_fn(output, label), output, label


def _as_float32(value: Any) -> Any:
    return ops.cast(value, float32) if isinstance(value, Tensor) and value.dtype.is_float else value


class _ValueAndGradient(_ByFlags):
    """A gradient function that gives (output, gradients)."""

    def _result(self, done: Any) -> Any:
        return done.output, super()._result(done)


class ForwardValueAndGrad(Cell):
    """(network output, gradients), the gradients as GradOperation gives them with the same flags.

    network: a Cell or a function. weights: what get_by_list differentiates by. sens_param: the last argument is the
    sensitivity of the output and not passed to the network.
    Shapes, Dtypes: a gradient has those of what it belongs to, the sensitivity those of the output.
    Errors: TypeError for a network that is neither, flags that are no bools, or get_by_list without a
            ParameterTuple, tuple or list; when called, as GradOperation.

    >>> import graphopt as ms
    >>> square = ms.nn.ForwardValueAndGrad(lambda x: x * x)
    >>> [float(v.asnumpy()) for v in square(ms.Tensor(3.0))]
    [9.0, 6.0]
    """

    _unnamed = ("network",)

    def __init__(
        self,
        network: Any,
        weights: Any = None,
        get_all: bool = False,
        get_by_list: bool = False,
        sens_param: bool = False,
    ) -> None:
        super().__init__(auto_prefix=False)
        if not callable(network):
            raise TypeError(f"ForwardValueAndGrad: network must be a Cell or a function, found {found(network)}")
        check_bool("ForwardValueAndGrad", "get_all", get_all)
        check_bool("ForwardValueAndGrad", "get_by_list", get_by_list)
        check_bool("ForwardValueAndGrad", "sens_param", sens_param)
        if get_by_list and not isinstance(weights, (ParameterTuple, tuple, list)):
            raise TypeError(
                "ForwardValueAndGrad: with get_by_list weights must be a ParameterTuple, tuple or list, "
                f"found {found(weights)}"
            )
        self.network = network
        self.weights = weights if weights is None or isinstance(weights, Parameter) else ParameterTuple(weights)
        self.get_all, self.get_by_list, self.sens_param = get_all, get_by_list, sens_param
        chosen = self.weights if get_by_list else None
        self._value_and_grad = _ValueAndGradient(network, chosen, get_all, get_by_list, sens_param)

    def _signature(self) -> inspect.Signature | None:
        if self.sens_param:
            return super()._signature()
        return parameters_of(self.network.construct if isinstance(self.network, Cell) else self.network)

    def construct(self, *inputs: Any) -> Any:
        return self._value_and_grad(*inputs)


class Jvp(Cell):
    """(inputs..., v) -> (output, its derivative along v): forward mode as a Cell.

    fn: a Cell or a function. v: a Tensor for one input, a tuple of them for several.
    Shapes, Dtypes: v as the inputs, the derivative as the output. Errors: TypeError when fn is neither; when called, as
    `jvp`.

    >>> import graphopt as ms
    >>> out, slope = ms.nn.Jvp(lambda x: x * x)(ms.Tensor([3.0]), ms.Tensor([1.0]))
    >>> print(out, slope)
    [9.] [6.]
    """

    _unnamed = ("fn",)

    def __init__(self, fn: Any) -> None:
        super().__init__(auto_prefix=False)
        if not callable(fn):
            raise TypeError(f"Jvp: fn must be a Cell or a function, found {found(fn)}")
        self.fn = fn

    def construct(self, *inputs: Any) -> Any:
        return ops.jvp(self.fn, inputs[:-1], inputs[-1])


class Vjp(Cell):
    """(inputs..., v) -> (output, gradients of the inputs for the output's gradient v): reverse mode as a Cell.

    fn: a Cell or a function. The gradients are bare for one input, a tuple for several.
    Shapes, Dtypes: v as the output, a gradient as its input. Errors: TypeError when fn is neither; when called, as `vjp`.

    >>> import graphopt as ms
    >>> out, gradient = ms.nn.Vjp(lambda x: x * x)(ms.Tensor([3.0]), ms.Tensor([1.0]))
    >>> print(out, gradient)
    [9.] [6.]
    """

    _unnamed = ("fn",)

    def __init__(self, fn: Any) -> None:
        super().__init__(auto_prefix=False)
        if not callable(fn):
            raise TypeError(f"Vjp: fn must be a Cell or a function, found {found(fn)}")
        self.fn = fn

    def construct(self, *inputs: Any) -> Any:
        output, back = ops.vjp(self.fn, *inputs[:-1])
        gradients = back(inputs[-1])
        return output, gradients[0] if len(gradients) == 1 else gradients


class WithGradCell(Cell):
    """(data, label) -> gradients of the loss by the trainable parameters of the network.

    loss_fn: None when the network computes the loss itself. sens: the sensitivity, 1 when None.
    Errors: TypeError when network is no Cell.

    >>> import graphopt as ms
    >>> net = ms.nn.Dense(1, 1, weight_init='ones', has_bias=False)
    >>> grad = ms.nn.WithGradCell(net, ms.nn.MSELoss())
    >>> [g.asnumpy().tolist() for g in grad(ms.Tensor([[2.0]]), ms.Tensor([[1.0]]))]
    [[[4.0]]]
    """

    _unnamed = ("network", "network_with_loss")

    def __init__(self, network: Cell, loss_fn: Any = None, sens: Any = None) -> None:
        super().__init__(auto_prefix=False)
        self.network = check_type("WithGradCell", "network", network, Cell)
        self.loss_fn = loss_fn
        self.weights = ParameterTuple(network.trainable_params())
        self.sens = sens
        self.network_with_loss = network if loss_fn is None else WithLossCell(network, loss_fn)
        self._value_and_grad = loss_and_gradients(self.network_with_loss, self.weights, sens)

    def _signature(self) -> inspect.Signature | None:
        return parameters_of(self.network_with_loss.construct)

    def construct(self, *inputs: Any) -> Any:
        return self._value_and_grad(*inputs)[1]


class _Weighted:
    """(sum of sens times everything the network returns, what it returns): what is differentiated for a
    sensitivity.
    """

    def __init__(self, network: Cell, sens: Any):
        self.network, self.sens = network, sens
        self.__name__ = f"{type(network).__name__} with sens"

    def __call__(self, *inputs: Any) -> Any:
        output = self.network(*inputs)
        return _total(output, self.sens), output


def _total(value: Any, sens: Any) -> Any:
    if isinstance(value, RowTensor):
        value = value.values
    if isinstance(value, (tuple, list)):
        terms = [_total(v, sens) for v in value]
        return functools.reduce(lambda a, b: a + b, terms)
    return ops.reduce_sum(value * (ops.cast(sens, value.dtype) if isinstance(sens, Tensor) else float(sens)))


def loss_and_gradients(network: Cell, weights: Any, sens: Any) -> Any:
    """A function from the network's inputs to (its output, gradients by `weights` for the sensitivity `sens`)."""
    if sens is None:
        return ops.value_and_grad(network, None, weights)
    inner = ops.value_and_grad(_Weighted(network, sens), None, weights, has_aux=True)

    def both(*inputs: Any) -> Any:
        (_, output), gradients = inner(*inputs)
        return output, gradients

    return both


class TrainOneStepCell(Cell):
    """One training step: loss of the parameters before the step; gradients; the optimizer's update. In GRAPH_MODE
    one compiled function.

    network: computes the loss. sens: the sensitivity of the loss, everywhere (None: 1). return_grad: also hand out
    the gradients, as {parameter name: gradient}, including sens.

    A call that fails, also half way through the optimizer, changes no Parameter.
    Shapes, Dtypes: the network's. Errors: TypeError when network or optimizer is of another kind or sens no number;
    ValueError when sens is 0.

    >>> import graphopt as ms
    >>> net = ms.nn.Dense(1, 1, weight_init='ones', has_bias=False)
    >>> loss_net = ms.nn.WithLossCell(net, ms.nn.MSELoss())
    >>> step = ms.nn.TrainOneStepCell(loss_net, ms.nn.SGD(net.trainable_params(), 0.1))
    >>> float(step(ms.Tensor([[2.0]]), ms.Tensor([[1.0]])).asnumpy())
    1.0
    >>> [round(v, 4) for v in net.weight.asnumpy()[0].tolist()]
    [0.6]
    """

    _unnamed = ("network",)

    def __init__(self, network: Cell, optimizer: Cell, sens: Any = None, return_grad: bool = False) -> None:
        super().__init__(auto_prefix=False)
        self.network = check_type("TrainOneStepCell", "network", network, Cell)
        self.optimizer = check_type("TrainOneStepCell", "optimizer", optimizer, Cell)
        self.weights = (
            optimizer.parameters if hasattr(optimizer, "parameters") else ParameterTuple(network.trainable_params())
        )
        if sens is not None and not isinstance(sens, Tensor):
            check_number("TrainOneStepCell", "sens", float(sens) if isinstance(sens, np.generic) else sens)
            if sens == 0:
                raise ValueError("TrainOneStepCell: sens must not be 0, found 0")
        self.sens = sens
        self.return_grad = check_bool("TrainOneStepCell", "return_grad", return_grad)
        self.network.set_grad()
        self._value_and_grad = loss_and_gradients(self.network, self.weights, sens)

    def _signature(self) -> inspect.Signature | None:
        return parameters_of(self.network.construct)

    def construct(self, *inputs: Any) -> Any:
        if isinstance(self.optimizer, Optimizer):
            self.optimizer.check_step()
        loss, gradients = self._value_and_grad(*inputs)
        named = {p.name: g for p, g in zip(self.weights, gradients, strict=True)} if self.return_grad else None
        self.optimizer(tuple(gradients))
        return loss if named is None else (loss, named)
