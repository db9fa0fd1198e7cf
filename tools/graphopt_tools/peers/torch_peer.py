"""PyTorch: eager, with images in channels-last order, through torch.compile, or with an optimizer's fused or foreach form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

Step = Callable[..., Any]


class Kit:
    """What the programs need of PyTorch. variant: eager, channels_last, compile, fused or foreach (of optimizers)."""

    def __init__(self, variant: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.variant = variant
        self.version = f"torch {torch.__version__.partition('+')[0]} {variant}"

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        made = torch.from_numpy(array)
        return made.contiguous(memory_format=torch.channels_last) if self._moves(made) else made

    def _moves(self, tensor: torch.Tensor) -> bool:
        return self.variant == "channels_last" and tensor.dim() == 4

    def numpy(self, value: torch.Tensor) -> np.ndarray:
        return value.detach().numpy()

    def wait(self, result: Any) -> None:
        """Nothing: PyTorch returns when the work is done."""

    def weights(self, arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """The initial weights, each asking for its gradient."""
        return {name: torch.from_numpy(value).requires_grad_() for name, value in arrays.items()}

    def load(self, net: torch.nn.Module, arrays: Mapping[str, np.ndarray]) -> torch.nn.Module:
        """The module with the initial weights, which stand in the order of its parameters."""
        with torch.no_grad():
            for parameter, value in zip(net.parameters(), arrays.values(), strict=True):
                parameter.copy_(torch.from_numpy(value).view(parameter.shape))
        return net.to(memory_format=torch.channels_last) if self.variant == "channels_last" else net

    def compiled(self, function: Step) -> Step:
        return torch.compile(function) if self.variant == "compile" else function

    def training(self, loss: Step, optimizers: Sequence[Any], compiled: bool = True) -> Step:
        """A step that returns the loss of its batch before the update. compiled: the variant `compile` compiles the loss."""
        loss = self.compiled(loss) if compiled else loss

        def step(*batch: torch.Tensor) -> torch.Tensor:
            value: torch.Tensor = loss(*batch)
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            value.backward()
            for optimizer in optimizers:
                optimizer.step()
            return value.detach()

        return step

    def gradients(self, function: Step, count: int, weights: Sequence[torch.Tensor] = ()) -> Step:
        """A step that returns the value of a function and its gradients for the first `count` inputs and the weights."""
        function = self.compiled(function)

        def step(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            wanted = [x.requires_grad_() for x in inputs[:count]] + list(weights)
            value = function(*inputs)
            return (value.detach(), *torch.autograd.grad(value, wanted))

        return step

    def plain(self, function: Step) -> Step:
        """A step that returns what a function returns."""
        function = self.compiled(function)

        def step(*inputs: torch.Tensor) -> Any:
            with torch.inference_mode():
                return function(*inputs)

        return step
