"""PyTorch, eager mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

Contestant = tuple[Callable[[int], Any], Callable[[Any], float]]


def version() -> str:
    return f"torch {torch.__version__.partition('+')[0]}"


def layer(kind: str, arguments: list[int]) -> nn.Module:
    """The module for one layer of a workload."""
    match kind:
        case "dense":
            return nn.Linear(*arguments)
        case "conv":
            return nn.Conv2d(*arguments)
        case "maxpool":
            return nn.MaxPool2d(*arguments)
        case "relu":
            return nn.ReLU()
        case "flatten":
            return nn.Flatten()
    raise ValueError(f"no such layer: {kind}")


def contestant(spec: dict[str, Any], arrays: dict[str, np.ndarray], threads: int) -> Contestant:
    """See serve.py."""
    torch.set_num_threads(threads)
    net = nn.Sequential(*(layer(kind, arguments) for kind, *arguments in spec["layers"]))
    net.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items() if "." in name})
    images = [torch.from_numpy(batch) for batch in arrays["images"]]
    labels = [torch.from_numpy(batch).long() for batch in arrays["labels"]]
    rate = spec["optimizer"]["learning_rate"]
    optimizer: torch.optim.Optimizer
    if spec["optimizer"]["kind"] == "momentum":
        optimizer = torch.optim.SGD(net.parameters(), rate, spec["optimizer"]["momentum"])
    else:
        optimizer = torch.optim.Adam(net.parameters(), rate, eps=spec["optimizer"]["eps"])

    def step(k: int) -> torch.Tensor:
        loss = nn.functional.cross_entropy(net(images[k]), labels[k])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step, float
