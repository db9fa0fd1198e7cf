"""Training gives the same bits: for any number of threads, in any process, from a cold or a warm cache."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import graphopt as ms
from graphopt import Tensor, config, nn
from tests.golden_cases import in_mode

STEPS = 100


class LeNet(nn.Cell):
    """Two convolutions with pooling, two dense layers: small, but every kind of kernel is in its step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, pad_mode="same")
        self.conv2 = nn.Conv2d(4, 6, 3, pad_mode="valid")
        self.norm = nn.BatchNorm2d(6)
        self.pool = nn.MaxPool2d(2, 2)
        self.relu = nn.ReLU()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Dense(24, 17)
        self.fc2 = nn.Dense(17, 10)

    def construct(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.conv1(x)))
        x = self.pool(self.relu(self.norm(self.conv2(x))))
        return self.fc2(self.relu(self.fc1(self.flatten(x))))


def lenet_with_adam() -> tuple[nn.Cell, nn.Cell, tuple[int, ...]]:
    net = LeNet()
    return net, nn.Adam(net.trainable_params(), 0.01), (8, 1, 12, 12)


def mlp_with_momentum() -> tuple[nn.Cell, nn.Cell, tuple[int, ...]]:
    net = nn.SequentialCell(nn.Dense(20, 33, activation="relu"), nn.LayerNorm((33,)), nn.Dense(33, 10))
    return net, nn.Momentum(net.trainable_params(), 0.05, 0.9), (16, 20)


NETS = {make.__name__: make for make in (lenet_with_adam, mlp_with_momentum)}


def fingerprint(make: Callable[[], tuple[nn.Cell, nn.Cell, tuple[int, ...]]], steps: int = STEPS) -> str:
    """The hash of all parameters, moments and losses after compiled training; the losses must have fallen."""
    with in_mode(ms.GRAPH_MODE):
        return _fingerprint(make, steps)


def _fingerprint(make: Callable[[], tuple[nn.Cell, nn.Cell, tuple[int, ...]]], steps: int) -> str:
    ms.set_seed(7)
    net, optimizer, shape = make()
    step = nn.TrainOneStepCell(nn.WithLossCell(net, nn.CrossEntropyLoss()), optimizer)
    step.set_train()
    rng = np.random.default_rng(3)
    x = Tensor(rng.normal(size=(4, *shape)).astype(np.float32))
    y = Tensor(rng.integers(0, 10, (4, shape[0])).astype(np.int32))
    digest = hashlib.sha256()
    losses = []
    for k in range(steps):
        loss = step(Tensor(x.asnumpy()[k % 4]), Tensor(y.asnumpy()[k % 4])).asnumpy()
        losses.append(float(loss))
        digest.update(loss.tobytes())
    for p in step.get_parameters():
        value = p.asnumpy()
        assert np.isfinite(value).all(), p.name
        digest.update(p.name.encode() + value.tobytes())
    assert steps < 20 or np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4]), losses
    return digest.hexdigest()


@pytest.fixture(params=["slices", "chunks"])
def shared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the smallest kernel is shared by the team, in equal slices or dealt out in chunks."""
    monkeypatch.setattr("graphopt.kernel.step._TEAM_WORK", 0.0)
    monkeypatch.setattr("graphopt.kernel.step._CHUNK_WORK", 1.0 if request.param == "chunks" else 1e12)


@pytest.mark.parametrize("name", NETS)
def test_the_number_of_threads_changes_no_bit(name: str, shared: None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for threads in (1, 2, 3):
        with config.override(threads=threads, cache="off"):
            found[threads] = fingerprint(NETS[name])
    assert len(set(found.values())) == 1, found
    monkeypatch.undo()
    with config.override(threads=2, cache="off"):
        assert fingerprint(NETS[name]) == found[1], "whether a kernel is shared must not change a bit"


def in_a_process(name: str, cache: Path, threads: int) -> str:
    code = f"from tests.test_determinism import NETS, fingerprint; print(fingerprint(NETS[{name!r}]))"
    switches = {"GRAPHOPT_CACHE": str(cache), "GRAPHOPT_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | switches, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("name", NETS)
def test_processes_and_caches_change_no_bit(name: str, tmp_path: Path) -> None:
    """Two processes, one with a cold cache and one with what the first left there, and this one without a cache."""
    with config.override(threads=1, cache="off"):
        expected = fingerprint(NETS[name])
    assert in_a_process(name, tmp_path, 2) == expected
    entries = sorted(tmp_path.glob("*.entry"))
    assert entries
    assert in_a_process(name, tmp_path, 1) == expected
    assert sorted(tmp_path.glob("*.entry")) == entries, "the second process compiled something"


def test_another_seed_gives_other_bits() -> None:
    """The fingerprint tells networks apart: a run of one step more is another one."""
    with config.override(threads=1, cache="off"):
        assert fingerprint(NETS["mlp_with_momentum"], 3) != fingerprint(NETS["mlp_with_momentum"], 4)
