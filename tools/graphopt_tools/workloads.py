"""What `graphopt bench` measures: each benchmark is one entry of WORKLOADS; how to compute it says `peers/programs/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

from graphopt_tools.peers.programs.updates import RULES

Sizes = Mapping[str, Any]
EAGER = ("eager", "compile")


@dataclass(frozen=True, slots=True)
class Workload:
    """A program of `peers/programs/` and its sizes.

    small:    other sizes, with which the tests run it.
    variants: the forms in which PyTorch takes part (torch_peer.py); the fastest counts.
    """

    about: str
    program: str
    sizes: Sizes
    small: Sizes = field(default_factory=dict)
    variants: tuple[str, ...] = EAGER

    def spec(self) -> dict[str, Any]:
        """What a contestant is told: plain data."""
        return {"program": self.program, "sizes": dict(self.sizes)}

    def arrays(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Initial weights `weight.<name>` and batches `batch.<name>`, the same for every contestant."""
        program = import_module(f"graphopt_tools.peers.programs.{self.program}")
        found: dict[str, np.ndarray] = program.arrays(self.sizes, np.random.default_rng(seed))
        return found

    def in_graphopt(self) -> tuple[Any, list[Any]]:
        """The Cell that graphopt compiles for it, in this process, and its first batch."""
        kit = import_module("graphopt_tools.peers.mindspore_peer").Kit("", 0, "graphopt")
        arrays = self.arrays()
        named = {p: {n.removeprefix(p): a for n, a in arrays.items() if n.startswith(p)} for p in ("weight.", "batch.")}
        program = import_module(f"graphopt_tools.peers.programs.{self.program}")
        program.in_mindspore(kit, dict(self.sizes), named["weight."])
        batch = [kit.tensor(a[0]) for a in named["batch."].values()]
        return kit.made, [tuple(batch)] if self.program == "updates" else batch

    def shrunk(self) -> Workload:
        """The same in its small sizes."""
        return Workload(self.about, self.program, {**self.sizes, **self.small}, {}, self.variants)


MLP: Sizes = {
    "batch": 128,
    "image": [784],
    "classes": 10,
    "layers": [["dense", 784, 512], ["relu"], ["dense", 512, 256], ["relu"], ["dense", 256, 10]],
    "optimizer": "momentum",
}
LENET5: Sizes = {
    "batch": 64,
    "image": [1, 32, 32],
    "classes": 10,
    "layers": [
        ["conv", 1, 6, 5], ["relu"], ["maxpool", 2], ["conv", 6, 16, 5], ["relu"], ["maxpool", 2], ["flatten"],
        ["dense", 400, 120], ["relu"], ["dense", 120, 84], ["relu"], ["dense", 84, 10],
    ],
    "optimizer": "adam",
}  # fmt: skip
RESNET20: Sizes = {"batch": 64, "image": 32, "blocks": 3, "widths": [16, 32, 64], "classes": 10}
GPT: Sizes = {"batch": 8, "length": 128, "width": 256, "heads": 4, "ffn": 1024, "layers": 4, "vocabulary": 1024}
LSTM: Sizes = {"batch": 32, "length": 64, "inputs": 64, "hidden": 256, "classes": 10, "loop": False}
WIDE_DEEP: Sizes = {"batch": 2048, "rows": 200_000, "fields": 26, "width": 16, "hidden": [256, 128]}
SMALL_LSTM: Sizes = {"batch": 3, "length": 4, "inputs": 5, "hidden": 6}


def _update(optimizer: str, *variants: str) -> Workload:
    sizes = {"optimizer": optimizer, "tensors": 24, "rows": 1000, "columns": 1000}
    about = f"{optimizer}: the update of 24 tensors of 1 M floats"
    return Workload(about, "updates", sizes, {"tensors": 2, "rows": 7, "columns": 9}, variants)


def _function(about: str, name: str, small: Sizes, **sizes: int) -> Workload:
    return Workload(about, "functions", {"name": name, **sizes}, small)


def _matmul(m: int, k: int, n: int) -> Workload:
    about = f"matrix product {m}x{k}x{n}"
    return Workload(about, "functions", {"name": "matmul", "m": m, "k": k, "n": n}, {"m": 5, "k": 7, "n": 9}, ("eager",))


def _deep(depth: int) -> Workload:
    sizes = {"batch": 32, "width": 64, "depth": depth, "classes": 10}
    about = f"{depth} residual layers 64-64, batch 32, Momentum"
    return Workload(about, "residual", sizes, {"batch": 3, "width": 5, "depth": 2})


WORKLOADS: dict[str, Workload] = {
    "mlp": Workload(
        "MLP 784-512-256-10, batch 128, Momentum",
        "classifier",
        MLP,
        {"batch": 4, "image": [6], "layers": [["dense", 6, 5], ["relu"], ["dense", 5, 10]]},
    ),
    "lenet5": Workload(
        "LeNet-5 1x32x32, batch 64, Adam",
        "classifier",
        LENET5,
        {
            "batch": 3,
            "image": [1, 8, 8],
            "layers": [["conv", 1, 2, 3], ["relu"], ["maxpool", 2], ["flatten"], ["dense", 18, 10]],
        },
    ),
    "resnet20": Workload(
        "ResNet-20 3x32x32, BatchNorm in training, batch 64, Momentum + weight decay",
        "resnet",
        RESNET20,
        {"batch": 2, "image": 8, "blocks": 1, "widths": [4, 6]},
        ("eager", "channels_last", "compile"),
    ),
    "gpt": Workload(
        "4 pre-LN layers, d 256, 4 heads, ffn 1024, seq 128, batch 8, vocab 1024, AdamWeightDecay",
        "gpt",
        GPT,
        {"batch": 2, "length": 5, "width": 8, "heads": 2, "ffn": 12, "layers": 2, "vocabulary": 11},
    ),
    "lstm": Workload("LSTM 64-256, seq 64, batch 32, Adam, as nn.LSTM", "lstm", LSTM, SMALL_LSTM),
    "lstm_loop": Workload("LSTM 64-256, seq 64, batch 32, Adam, as a Python loop", "lstm", {**LSTM, "loop": True}, SMALL_LSTM),
    "wide_deep": Workload(
        "200,000 rows, 26 fields, batch 2048, MLP 416-256-128-1, lazy Adam + FTRL",
        "wide_deep",
        WIDE_DEEP,
        {"batch": 4, "rows": 20, "fields": 3, "width": 2, "hidden": [5, 4]},
    ),
    "adam_update": _update("Adam", "fused", "foreach", "compile"),
    "lamb_update": _update("Lamb", "foreach", "compile"),
    "gelu_chain": _function(
        "sum(gelu(x) sigmoid(x) + tanh(x)/2), 4 M, value and gradient", "gelu_chain", {"elements": 50}, elements=4 << 20
    ),
    "layernorm": _function(
        "LayerNorm (8192, 1024), sum of squares, all gradients", "layernorm", {"rows": 5, "columns": 9}, rows=8192, columns=1024
    ),
    "softmax_xent": _function(
        "softmax cross entropy (4096, 1000), value and gradient",
        "softmax_xent",
        {"rows": 5, "columns": 9},
        rows=4096,
        columns=1000,
    ),
    "conv_block": _function(
        "conv 3x3 64-64 + BatchNorm + ReLU, 56x56, batch 8, all gradients",
        "conv_block",
        {"batch": 2, "channels": 3, "side": 6},
        batch=8,
        channels=64,
        side=56,
    ),
    "matmul_mlp": _matmul(128, 784, 512),
    "matmul_512": _matmul(512, 512, 512),
    "matmul_1024": _matmul(1024, 1024, 1024),
    "matmul_2048": _matmul(2048, 2048, 2048),
    "pinn": Workload(
        "2-64-64-64-1 tanh, 4,096 points, Burgers' residual with u_t, u_x, u_xx, Adam",
        "pinn",
        {"points": 4096, "hidden": [64, 64, 64]},
        {"points": 7, "hidden": [5, 4]},
    ),
    "dispatch": _function("8 elements, gradient + SGD, called from Python", "dispatch", {}, elements=8),
    "custom_vjp": _function("10 ops with own derivatives, 1 M", "custom_vjp", {"elements": 30}, elements=1 << 20),
}
DEPTHS = {f"deep_{depth}": _deep(depth) for depth in (16, 32, 64, 128, 256)}
LOOPS = {
    f"lstm_{length}": Workload(
        f"LSTM 64-256, seq {length}, batch 32, Adam, as a Python loop",
        "lstm",
        {**LSTM, "length": length, "loop": True},
        SMALL_LSTM,
        ("eager",),
    )
    for length in (25, 50, 100)
}
LOOPS["lorenz"] = Workload(
    "Lorenz system, 1,000 steps of RK4, gradient for the start",
    "functions",
    {"name": "lorenz", "steps": 1000},
    {"steps": 7},
    ("eager",),
)
OPTIMIZERS = {f"update_{name}": _update(name, *rule.variants) for name, rule in RULES.items()}
OPTIMIZERS["rows_LazyAdam"] = Workload(
    "200,000 x 32 table, 2,048 look-ups, mean squared error, lazy Adam",
    "rows",
    {"batch": 2048, "rows": 200_000, "width": 32},
    {"batch": 4, "rows": 20, "width": 3},
)
SETS: dict[str, tuple[str, ...]] = {
    "all": tuple(WORKLOADS),
    "matmul": tuple(name for name in WORKLOADS if name.startswith("matmul_")),
    "optimizers": tuple(OPTIMIZERS),
    "depths": tuple(DEPTHS),
    "loops": tuple(LOOPS),
}
EVERY: dict[str, Workload] = WORKLOADS | OPTIMIZERS | DEPTHS | LOOPS
"""Every benchmark by name: `all`, `optimizers`, and those whose first calls show how compiling grows with a network's
`depths` and with the trips of its `loops`.
"""
