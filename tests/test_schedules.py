"""Learning-rate schedules and lists against recorded values; and what they refuse."""

from __future__ import annotations

import builtins
import json
import pathlib

import numpy as np
import pytest
from golden_cases import in_mode

import graphopt as ms
from graphopt import Tensor, nn

GOLDENS = pathlib.Path(__file__).parent / "goldens"
DATA = np.load(GOLDENS / "schedules.npz")
ENTRIES = json.loads(str(DATA["meta"]))["entries"]
CALLS = json.loads((GOLDENS / "errors.json").read_text())


@pytest.mark.parametrize("entry", [e for e in ENTRIES if "class" in e], ids=lambda e: e["name"])
@pytest.mark.parametrize("mode", [ms.PYNATIVE_MODE, ms.GRAPH_MODE])
def test_classes(entry: dict, mode: int) -> None:
    schedule = getattr(nn, entry["class"])(**entry["kwargs"])
    with in_mode(mode):
        found = [schedule(Tensor([step], ms.int32)) for step in range(20)]
    assert all(v.shape == (1,) and v.dtype is ms.float32 for v in found)
    assert np.allclose([float(v.asnumpy()[0]) for v in found], DATA[entry["name"]], rtol=0, atol=1e-7)


@pytest.mark.parametrize("entry", [e for e in ENTRIES if "class" not in e], ids=lambda e: e["name"])
def test_functions(entry: dict) -> None:
    found = getattr(nn, entry["function"])(*entry.get("args", ()), **entry.get("kwargs", {}))
    assert isinstance(found, list) and np.allclose(found[:20], DATA[entry["name"]], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    "entry", [e for e in CALLS if "LR(" in e["call"] or "_lr(" in e["call"]], ids=lambda e: e["call"]
)
def test_arguments(entry: dict) -> None:
    if not entry["call"].startswith(("nn.Adam", "nn.SGD", "nn.Momentum", "nn.Optimizer")):
        if entry["raises"] is None:
            eval(entry["call"])
            return
        with pytest.raises(getattr(builtins, entry["raises"])) as caught:
            eval(entry["call"])
        assert "found" in str(caught.value)


def test_schedules_combine() -> None:
    class WarmUpThenDecay(nn.LearningRateSchedule):
        def __init__(self) -> None:
            super().__init__()
            self.warm, self.decay = nn.WarmUpLR(0.1, 4), nn.PolynomialDecayLR(0.1, 0.01, 10, 1.0)

        def construct(self, global_step: Tensor) -> Tensor:
            return ms.ops.where(global_step < 4, self.warm(global_step), self.decay(global_step))

    optimizer = nn.SGD([ms.Parameter(Tensor([1.0]), name="p")], WarmUpThenDecay())
    seen = []
    for _ in range(6):
        seen.append(round(float(optimizer.get_lr().asnumpy()), 6))
        optimizer((Tensor([0.0]),))
    assert seen == [0.0, 0.025, 0.05, 0.075, 0.064, 0.055]


def test_base_class_must_be_overridden() -> None:
    with pytest.raises(NotImplementedError):
        nn.LearningRateSchedule()(Tensor([0], ms.int32))
