"""A ResNet for small images: three stages of basic blocks, BatchNorm in training, Momentum with weight decay.

sizes: batch, image (side), blocks (per stage), widths (channels of the stages), classes.
The running averages of BatchNorm are kept by the frameworks whose layer does so; in JAX there is no such layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import sqrt
from typing import Any

import numpy as np

BATCHES = 4
RATE, MOMENTUM, DECAY, EPS = 0.02, 0.9, 1e-4, 1e-5


def blocks(sizes: dict[str, Any]) -> Iterator[tuple[int, int, int]]:
    """Input channels, output channels and stride of each block."""
    channels = sizes["widths"][0]
    for stage, width in enumerate(sizes["widths"]):
        for k in range(sizes["blocks"]):
            yield channels, width, 2 if stage and not k else 1
            channels = width


def arrays(sizes: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}

    def conv(name: str, inputs: int, outputs: int, window: int) -> None:
        scale = sqrt(2 / (inputs * window * window))
        found[f"weight.{name}"] = (rng.standard_normal((outputs, inputs, window, window)) * scale).astype(np.float32)
        found[f"weight.{name}.gamma"] = np.ones(outputs, np.float32)
        found[f"weight.{name}.beta"] = np.zeros(outputs, np.float32)

    conv("stem", 3, sizes["widths"][0], 3)
    for k, (inputs, outputs, stride) in enumerate(blocks(sizes)):
        conv(f"{k}.first", inputs, outputs, 3)
        conv(f"{k}.second", outputs, outputs, 3)
        if stride != 1:
            conv(f"{k}.skip", inputs, outputs, 1)
    width, classes = sizes["widths"][-1], sizes["classes"]
    found["weight.head"] = (rng.standard_normal((classes, width)) / sqrt(width)).astype(np.float32)
    found["weight.head.bias"] = np.zeros(classes, np.float32)
    shape = (BATCHES, sizes["batch"], 3, sizes["image"], sizes["image"])
    found["batch.images"] = rng.standard_normal(shape).astype(np.float32)
    found["batch.labels"] = rng.integers(0, classes, (BATCHES, sizes["batch"])).astype(np.int32)
    return found


def in_torch(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    import torch
    from torch import nn

    def conv(inputs: int, outputs: int, window: int, stride: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, window, stride, window // 2, bias=False), nn.BatchNorm2d(outputs))

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.first = conv(inputs, outputs, 3, stride)
            self.second = conv(outputs, outputs, 3, 1)
            self.skip = conv(inputs, outputs, 1, stride) if stride != 1 else nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.second(torch.relu(self.first(x)))
            return torch.relu(y + self.skip(x))

    width = sizes["widths"][0]
    body = [Block(*numbers) for numbers in blocks(sizes)]
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(sizes["widths"][-1], sizes["classes"])]
    net = kit.load(nn.Sequential(conv(3, width, 3, 1), nn.ReLU(), *body, *tail), arrays).train()
    optimizer = torch.optim.SGD(net.parameters(), RATE, MOMENTUM, weight_decay=DECAY, fused=True)
    return kit.training(lambda x, y: nn.functional.cross_entropy(net(x), y.long()), [optimizer])


def in_jax(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    import jax
    import optax
    from jax import lax

    def conv(weights: Any, name: str, x: Any, stride: int) -> Any:
        kernel = weights[name].transpose(2, 3, 1, 0)
        pad = [(kernel.shape[0] // 2,) * 2] * 2
        x = lax.conv_general_dilated(x, kernel, (stride, stride), pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) * (lax.rsqrt(variance + EPS) * weights[f"{name}.gamma"]) + weights[f"{name}.beta"]

    def loss(weights: Any, x: Any, y: Any) -> Any:
        x = jax.nn.relu(conv(weights, "stem", x.transpose(0, 2, 3, 1), 1))
        for k, (_, _, stride) in enumerate(blocks(sizes)):
            z = conv(weights, f"{k}.second", jax.nn.relu(conv(weights, f"{k}.first", x, stride)), 1)
            x = jax.nn.relu(z + (conv(weights, f"{k}.skip", x, stride) if stride != 1 else x))
        logits = x.mean((1, 2)) @ weights["head"].T + weights["head.bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    optimizer = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE, MOMENTUM))
    return kit.training(loss, kit.weights(arrays), optimizer)


def in_mindspore(kit: Any, sizes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    nn = kit.ms.nn

    def conv(inputs: int, outputs: int, window: int, stride: int) -> Any:
        layer = nn.Conv2d(inputs, outputs, window, stride, pad_mode="pad", padding=window // 2, has_bias=False)
        return nn.SequentialCell(layer, nn.BatchNorm2d(outputs, eps=EPS))

    class Block(nn.Cell):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.first = conv(inputs, outputs, 3, stride)
            self.second = conv(outputs, outputs, 3, 1)
            self.skip = conv(inputs, outputs, 1, stride) if stride != 1 else nn.Identity()
            self.relu = nn.ReLU()

        def construct(self, x: Any) -> Any:
            y = self.second(self.relu(self.first(x)))
            return self.relu(y + self.skip(x))

    class Net(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.stem = conv(3, sizes["widths"][0], 3, 1)
            self.relu = nn.ReLU()
            self.body = nn.SequentialCell(*(Block(*numbers) for numbers in blocks(sizes)))
            self.head = nn.Dense(sizes["widths"][-1], sizes["classes"])

        def construct(self, x: Any) -> Any:
            return self.head(self.body(self.relu(self.stem(x))).mean((2, 3)))

    net = kit.load(Net(), arrays)
    optimizer = nn.Momentum(net.trainable_params(), RATE, MOMENTUM, weight_decay=DECAY)
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    return kit.training(nn.WithLossCell(net, loss), optimizer)
