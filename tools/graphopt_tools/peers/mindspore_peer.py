"""MindSpore in GRAPH_MODE; graphopt itself too, since the same program runs on both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

Step = Callable[..., Any]


class Kit:
    """What the programs need of MindSpore. The number of threads stands in the environment."""

    def __init__(self, variant: str, threads: int, framework: str = "mindspore") -> None:
        del variant, threads
        self.framework = framework
        self.ms: Any = import_module(framework)
        self.version = f"{framework} {self.ms.__version__}"
        self.ms.set_context(mode=self.ms.GRAPH_MODE)

    def tensor(self, array: np.ndarray) -> Any:
        return self.ms.Tensor(array)

    def numpy(self, value: Any) -> np.ndarray:
        array: np.ndarray = value.asnumpy()
        return array

    def wait(self, result: Any) -> None:
        """Until the smallest result, which is ready when all are."""
        min(flat(result), key=lambda value: value.size).asnumpy()

    def load(self, net: Any, arrays: Mapping[str, np.ndarray]) -> Any:
        """The Cell with the initial weights, which stand in the order of its parameters."""
        for parameter, value in zip(net.trainable_params(), arrays.values(), strict=True):
            parameter.set_data(self.ms.Tensor(value.reshape(parameter.shape)))
        return net

    def training(self, loss: Any, optimizer: Any) -> Any:
        """A step that returns the loss of its batch before the update; `loss` is a Cell."""
        return self.cell(self.ms.nn.TrainOneStepCell(loss, optimizer).set_train())

    def updating(self, optimizer: Any, parameters: Sequence[Any]) -> Step:
        """A step that returns the parameters, updated with the gradients that are its inputs."""
        cell = self.cell(optimizer)

        def step(*gradients: Any) -> Any:
            cell(gradients)
            return parameters

        return step

    def cell(self, made: Any) -> Any:
        """The Cell that is compiled, remembered."""
        self.made = made
        return made

    def gradients(self, function: Any, count: int, weights: Sequence[Any] = ()) -> Any:
        """A step that returns the value of a function or Cell and its gradients for the first inputs and the weights."""
        ms = self.ms
        derived = ms.value_and_grad(function, tuple(range(count)), tuple(weights) or None)

        class Gradients(ms.nn.Cell):
            def __init__(self) -> None:
                super().__init__()
                self.function = function

            def construct(self, *inputs: Any) -> Any:
                return derived(*inputs)

        return self.cell(Gradients().set_train())

    def plain(self, function: Any) -> Any:
        """A step that returns what a function returns."""
        ms = self.ms

        class Plain(ms.nn.Cell):
            def construct(self, *inputs: Any) -> Any:
                return function(*inputs)

        return self.cell(Plain())


def flat(result: Any) -> list[Any]:
    """The tensors of a result, in order."""
    return [x for part in result for x in flat(part)] if isinstance(result, (tuple, list)) else [result]
