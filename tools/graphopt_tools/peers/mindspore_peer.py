"""MindSpore in GRAPH_MODE; graphopt itself too, since the same program runs on both."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

Contestant = tuple[Callable[[int], Any], Callable[[Any], float]]


def version(framework: str = "mindspore") -> str:
    return f"{framework} {import_module(framework).__version__}"


def layer(nn: Any, kind: str, arguments: list[int]) -> Any:
    """The Cell for one layer of a workload."""
    match kind:
        case "dense":
            return nn.Dense(*arguments)
        case "conv":
            return nn.Conv2d(*arguments, pad_mode="valid", has_bias=True)
        case "maxpool":
            return nn.MaxPool2d(arguments[0], arguments[0])
        case "relu":
            return nn.ReLU()
        case "flatten":
            return nn.Flatten()
    raise ValueError(f"no such layer: {kind}")


def contestant(spec: dict[str, Any], arrays: dict[str, np.ndarray], threads: int, framework: str = "mindspore") -> Contestant:
    """See serve.py. The number of threads stands in the environment."""
    del threads
    ms = import_module(framework)
    nn = ms.nn
    ms.set_context(mode=ms.GRAPH_MODE)
    cells = [layer(nn, kind, arguments) for kind, *arguments in spec["layers"]]
    for k, cell in enumerate(cells):
        for name in ("weight", "bias"):
            if f"{k}.{name}" in arrays:
                getattr(cell, name).set_data(ms.Tensor(arrays[f"{k}.{name}"]))
    net = nn.SequentialCell(*cells)
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    rate = spec["optimizer"]["learning_rate"]
    if spec["optimizer"]["kind"] == "momentum":
        optimizer = nn.Momentum(net.trainable_params(), rate, spec["optimizer"]["momentum"])
    else:
        optimizer = nn.Adam(net.trainable_params(), rate, eps=spec["optimizer"]["eps"])
    train = nn.TrainOneStepCell(nn.WithLossCell(net, loss), optimizer)
    train.set_train()
    images = [ms.Tensor(batch) for batch in arrays["images"]]
    labels = [ms.Tensor(batch) for batch in arrays["labels"]]
    return lambda k: train(images[k], labels[k]), lambda loss: float(loss.asnumpy())
