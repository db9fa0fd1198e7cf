"""THOR's names in training: turning networks and Models into ones that THOR trains."""

from __future__ import annotations

from typing import Any

from graphopt.common.checks import check_type
from graphopt.nn.cell import Cell
from graphopt.nn.layer.thor_layer import convert
from graphopt.nn.optim.thor import Thor
from graphopt.nn.wrap import TrainOneStepCell
from graphopt.train.model import Model


class ModelThor(Model):
    """A Model whose optimizer came from `nn.thor`. The optimizer itself counts its calls, so every way of training
    refreshes in every frequency-th step.

    >>> import graphopt as ms
    >>> from graphopt.train.train_thor import ModelThor
    >>> net = ms.nn.Dense(1, 1)
    >>> optimizer = ms.nn.thor(net, ms.Tensor(0.1), ms.Tensor(0.1), momentum=0.9)
    >>> isinstance(ModelThor(net, ms.nn.MSELoss(), optimizer), ms.Model)
    True
    """


class ConvertNetUtils:
    """Conversion of networks alone.

    >>> import graphopt as ms
    >>> from graphopt.train.train_thor import ConvertNetUtils
    >>> net = ms.nn.SequentialCell(ms.nn.Dense(2, 2))
    >>> ConvertNetUtils().convert_to_thor_net(net)
    >>> type(net[0]).__name__
    'DenseThor'
    """

    @staticmethod
    def convert_to_thor_net(net: Cell) -> None:
        """Let every Dense, Conv2d and Embedding whose weight is trained collect THOR's statistics, in place.

        Errors: TypeError when net is no Cell.
        """
        convert(check_type("convert_to_thor_net", "net", net, Cell))


class ConvertModelUtils:
    """Conversion of Models.

    >>> import graphopt as ms
    >>> from graphopt.train.train_thor import ConvertModelUtils
    >>> net = ms.nn.Dense(1, 1)
    >>> optimizer = ms.nn.thor(net, ms.Tensor(0.1), ms.Tensor(0.1), momentum=0.9)
    >>> model = ms.Model(net, ms.nn.MSELoss(), optimizer)
    >>> model = ConvertModelUtils.convert_to_thor_model(model, net, ms.nn.MSELoss(), optimizer)
    >>> type(model).__name__
    'ModelThor'
    """

    @staticmethod
    def convert_to_thor_model(
        model: Model,
        network: Cell,
        loss_fn: Any = None,
        optimizer: Any = None,
        metrics: Any = None,
        amp_level: str = "O0",
        loss_scale_manager: Any = None,
        keep_batchnorm_fp32: bool = False,
    ) -> Model:
        """A Model of these parts when the optimizer came from `nn.thor`, else `model` as it is. Of a TrainOneStepCell
        as network, only the network is used.

        Errors: TypeError when model is no Model or network no Cell; otherwise as Model.
        """
        check_type("convert_to_thor_model", "model", model, Model)
        check_type("convert_to_thor_model", "network", network, Cell)
        if not isinstance(optimizer, Thor):
            return model
        if isinstance(network, TrainOneStepCell):
            return ModelThor(network)
        more: dict[str, Any] = {}
        if loss_scale_manager is not None:
            more["loss_scale_manager"] = loss_scale_manager
        if amp_level != "O0":  # at O0 nothing is cast, batch normalization least of all
            more["keep_batchnorm_fp32"] = keep_batchnorm_fp32
        return ModelThor(network, loss_fn, optimizer, metrics, amp_level=amp_level, **more)

    @staticmethod
    def convert_to_thor_network(network: Cell) -> Cell:
        """The network, converted in place; see ConvertNetUtils."""
        ConvertNetUtils.convert_to_thor_net(network)
        return network
