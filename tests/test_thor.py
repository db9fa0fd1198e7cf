"""THOR: statistics, refreshing, updates and conversion, against float64 trajectories in both modes."""

from __future__ import annotations

import builtins
import json
import pathlib
from typing import Any

import numpy as np
import pytest
from golden_cases import in_mode

import graphopt as ms
from graphopt import Tensor, nn, ops
from graphopt.nn.layer.thor_layer import Conv2dThor, DenseThor, EmbeddingThor, convert

GOLDENS = pathlib.Path(__file__).parent / "goldens"
TOLERANCE = 2e-5
MODES = [ms.PYNATIVE_MODE, ms.GRAPH_MODE]


class DenseNet(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.relu = nn.Dense(6, 5), nn.Dense(5, 3), nn.ReLU()

    def construct(self, x: Tensor) -> Any:
        return self.fc2(self.relu(self.fc1(x)))


class ConvNet(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.flatten, self.fc = nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Dense(48, 4)

    def construct(self, x: Tensor) -> Any:
        return self.fc(self.flatten(self.relu(self.conv(x))))


class EmbedNet(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.ln, self.fc = nn.Embedding(7, 4), nn.LayerNorm((4,), epsilon=1e-5), nn.Dense(4, 3)

    def construct(self, ids: Tensor) -> Any:
        return self.fc(self.ln(self.emb(ids).mean(1)))


NETS = {"dense": DenseNet, "conv": ConvNet, "embedding": EmbedNet}
CASES = sorted(p.stem[len("derived_thor_") :] for p in GOLDENS.glob("derived_thor_*.npz"))


def close(found: Any, expected: np.ndarray, what: str, scale: float = 1.0) -> None:
    values = found.asnumpy().astype(np.float64) / scale
    assert values.shape == expected.shape, (what, values.shape, expected.shape)
    worst = np.max(np.abs(values - expected) / (1 + np.abs(expected)), initial=0)
    assert worst <= TOLERANCE, (what, worst)


def made(name: str) -> tuple[Any, dict[str, Any], nn.Cell, Any]:
    """(arrays, arguments, network with the recorded initial values, optimizer)."""
    data = np.load(GOLDENS / f"derived_thor_{name}.npz")
    case = json.loads(str(data["meta"]))["case"]
    net = NETS[case.pop("net")]()
    for p in net.get_parameters():
        p.set_data(Tensor(data[f"init:{p.name}"]))
    lr, damping = Tensor(data["lr"].astype(np.float32)), Tensor(data["damping"].astype(np.float32))
    return data, case, net, nn.thor(net, lr, damping, **case)


def batch(data: Any, t: int) -> tuple[Tensor, Tensor]:
    x = data["x"][t]
    return Tensor(x.astype(np.int32) if x.dtype.kind == "i" else x), Tensor(data["labels"][t].astype(np.int32))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_trajectory(name: str, mode: int) -> None:
    data, case, net, optimizer = made(name)
    scale = case.get("loss_scale", 1.0)
    loss_net = nn.WithLossCell(net, nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean"))
    step = nn.TrainOneStepCell(loss_net, optimizer, sens=scale, return_grad=True).set_train()
    stats = {p.name: p for p in net.untrainable_params()}
    kinds = {"A": ("matrix_a", "matrix_a_cov"), "G": ("matrix_g", "matrix_g_cov")}
    with in_mode(mode):
        for t in range(8):
            loss, gradients = step(*batch(data, t))
            close(loss, data["loss"][t], f"loss {t}")
            for p in net.trainable_params():
                close(gradients[p.name], data[f"grad:{p.name}"][t], f"gradient of {p.name} {t}", scale)
                close(p, data[f"param:{p.name}"][t], f"{p.name} after step {t}")
            if data["refreshed"][t]:
                for key in (k for k in data.files if k[:2] in ("A:", "G:")):
                    layer = key[2:].rsplit(".", 1)[0]
                    found = next(stats[f"{layer}.{n}"] for n in kinds[key[0]] if f"{layer}.{n}" in stats)
                    gain = scale**2 if key[0] == "G" else 1.0
                    close(found, data[key][t] / gain, f"{key} {t}", gain)
    if mode == ms.GRAPH_MODE:
        assert step.compile_cache.compiles == 2, step.compile_cache.explain()
        assert "refresh of THOR's factors: True -> False" in step.compile_cache.explain()
