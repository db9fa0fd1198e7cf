"""Every optimizer of graphopt.nn under its name, made with as few arguments as it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from graphopt import Tensor, nn
from graphopt.nn import optim

CLASSES = sorted(n for n, v in vars(nn).items() if inspect.isclass(v) and issubclass(v, nn.Optimizer) and n != "Optimizer")
EVERY = [*CLASSES, "thor"]  # thor is made of a network: its parameters come with layers that collect what it needs
assert set(EVERY) == set(optim.__all__) - {"Optimizer"}

MAKE: dict[str, Callable[..., nn.Optimizer]] = {
    "AdaFactor": lambda params, **kwargs: nn.AdaFactor(params, relative_step=False, **kwargs),
    "LARS": lambda params, **kwargs: nn.LARS(nn.Momentum(params, momentum=0.9, **kwargs), coefficient=0.1),
    "Momentum": lambda params, **kwargs: nn.Momentum(params, momentum=0.9, **kwargs),
}


def make(name: str, params: Sequence[Any], **kwargs: Any) -> nn.Optimizer:
    """The optimizer of this name for Parameters or groups of them."""
    return MAKE.get(name, getattr(nn, name))(list(params), **{"learning_rate": 0.05} | kwargs)


def trainer(name: str, net: nn.Cell, **kwargs: Any) -> nn.Optimizer:
    """The optimizer of this name for what a network trains."""
    if name == "thor":
        return nn.thor(net, Tensor(0.05), Tensor(0.1), momentum=0.9, frequency=3, **kwargs)
    return make(name, net.trainable_params(), **kwargs)
