"""A stack of layers with softmax cross entropy, trained on random batches.

sizes: batch, image, classes; layers: [kind, arguments]: `dense` in out, `conv` in out window (valid padding), `maxpool`
size, `relu`, `flatten`; optimizer: momentum or adam.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod, sqrt
from typing import Any

import numpy as np

BATCHES = 8
ADAM_EPS = 1e-12  # so small that it does not matter whether a framework adds it before or after the bias correction
RATES = {"momentum": 0.01, "adam": 0.001}


def uniform(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Weights of a layer, outputs first: uniform within 1/sqrt(inputs); of a bias or a table, within its last size."""
    bound = 1 / sqrt(prod(shape[1:]) if len(shape) > 1 else shape[0])
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def arrays(sizes: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for k, (kind, *numbers) in enumerate(sizes["layers"]):
        if kind in ("dense", "conv"):
            inputs, outputs, *window = numbers
            found[f"weight.{k}.weight"] = uniform(rng, outputs, inputs, *window, *window)
            found[f"weight.{k}.bias"] = uniform(rng, outputs)
    found["batch.images"] = rng.random((BATCHES, sizes["batch"], *sizes["image"]), np.float32)
    found["batch.labels"] = rng.integers(0, sizes["classes"], (BATCHES, sizes["batch"])).astype(np.int32)
    return found


def in_torch(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    import torch
    from torch import nn

    kinds = {"dense": nn.Linear, "conv": nn.Conv2d, "maxpool": nn.MaxPool2d, "relu": nn.ReLU, "flatten": nn.Flatten}
    net = kit.load(nn.Sequential(*(kinds[kind](*numbers) for kind, *numbers in sizes["layers"])), arrays)
    rate = RATES[sizes["optimizer"]]
    if sizes["optimizer"] == "momentum":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(net.parameters(), rate, 0.9, fused=True)
    else:
        optimizer = torch.optim.Adam(net.parameters(), rate, eps=ADAM_EPS, fused=True)
    return kit.training(lambda x, y: nn.functional.cross_entropy(net(x), y.long()), [optimizer])


def in_jax(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    import jax
    import jax.numpy as jnp
    import optax
    from jax import lax

    def forward(weights: Any, x: Any) -> Any:
        if x.ndim == 4:
            x = x.transpose(0, 2, 3, 1)
        for k, (kind, *numbers) in enumerate(sizes["layers"]):
            match kind:
                case "dense":
                    x = x @ weights[f"{k}.weight"].T + weights[f"{k}.bias"]
                case "conv":
                    kernel = weights[f"{k}.weight"].transpose(2, 3, 1, 0)
                    x = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
                    x = x + weights[f"{k}.bias"]
                case "maxpool":
                    size = (1, numbers[0], numbers[0], 1)
                    x = lax.reduce_window(x, -jnp.inf, lax.max, size, size, "VALID")
                case "relu":
                    x = jax.nn.relu(x)
                case "flatten":
                    x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        return x

    def loss(weights: Any, x: Any, y: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(forward(weights, x), y).mean()

    rate = RATES[sizes["optimizer"]]
    optimizer = optax.sgd(rate, 0.9) if sizes["optimizer"] == "momentum" else optax.adam(rate, eps=ADAM_EPS)
    return kit.training(loss, kit.weights(arrays), optimizer)


def in_mindspore(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    nn = kit.ms.nn
    kinds = {
        "dense": nn.Dense,
        "conv": lambda *numbers: nn.Conv2d(*numbers, pad_mode="valid", has_bias=True),
        "maxpool": lambda size: nn.MaxPool2d(size, size),
        "relu": nn.ReLU,
        "flatten": nn.Flatten,
    }
    net = kit.load(nn.SequentialCell(*(kinds[kind](*numbers) for kind, *numbers in sizes["layers"])), arrays)
    rate = RATES[sizes["optimizer"]]
    if sizes["optimizer"] == "momentum":
        optimizer = nn.Momentum(net.trainable_params(), rate, 0.9)
    else:
        optimizer = nn.Adam(net.trainable_params(), rate, eps=ADAM_EPS)
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    return kit.training(nn.WithLossCell(net, loss), optimizer)
