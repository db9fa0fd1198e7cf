"""What `graphopt bench` trains: each workload is one entry of WORKLOADS, described so that every contestant can build it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import prod, sqrt
from typing import Any

import numpy as np

Layer = tuple[str | int, ...]
BATCHES = 8
ADAM_EPS = 1e-12  # so small that it does not matter whether a framework adds it before or after the bias correction


@dataclass(frozen=True, slots=True)
class Workload:
    """A classifier with softmax cross entropy, trained on random batches.

    layers: (kind, arguments): `dense` in out, `conv` in out window (valid padding), `maxpool` size, `relu`, `flatten`;
    adding a kind means a line in each contestant. optimizer: kind `momentum` or `adam`, with its numbers.
    """

    about: str
    batch: int
    image: tuple[int, ...]
    classes: int
    layers: tuple[Layer, ...]
    optimizer: dict[str, Any] = field(default_factory=dict)

    def spec(self) -> dict[str, Any]:
        """The description as plain data."""
        return asdict(self)

    def arrays(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Initial weights `<layer>.weight`, `<layer>.bias` (outputs first), and BATCHES batches `images`, `labels`."""
        rng = np.random.default_rng(seed)
        arrays: dict[str, np.ndarray] = {}
        for k, (kind, *numbers) in enumerate(self.layers):
            if kind in ("dense", "conv"):
                inputs, outputs, *window = (int(n) for n in numbers)
                shape = (outputs, inputs, *window, *window)
                bound = 1 / sqrt(prod(shape[1:]))
                arrays[f"{k}.weight"] = rng.uniform(-bound, bound, shape).astype(np.float32)
                arrays[f"{k}.bias"] = rng.uniform(-bound, bound, outputs).astype(np.float32)
        arrays["images"] = rng.random((BATCHES, self.batch, *self.image), np.float32)
        arrays["labels"] = rng.integers(0, self.classes, (BATCHES, self.batch)).astype(np.int32)
        return arrays


WORKLOADS = {
    "mlp": Workload(
        "MLP 784-512-256-10, batch 128, Momentum",
        128,
        (784,),
        10,
        (("dense", 784, 512), ("relu",), ("dense", 512, 256), ("relu",), ("dense", 256, 10)),
        {"kind": "momentum", "learning_rate": 0.01, "momentum": 0.9},
    ),
    "lenet5": Workload(
        "LeNet-5 1x32x32, batch 64, Adam",
        64,
        (1, 32, 32),
        10,
        (
            ("conv", 1, 6, 5),
            ("relu",),
            ("maxpool", 2),
            ("conv", 6, 16, 5),
            ("relu",),
            ("maxpool", 2),
            ("flatten",),
            ("dense", 400, 120),
            ("relu",),
            ("dense", 120, 84),
            ("relu",),
            ("dense", 84, 10),
        ),
        {"kind": "adam", "learning_rate": 0.001, "eps": ADAM_EPS},
    ),
}
