"""The profile of a step: its times add up, every kernel is there once, and its line is the user's."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import graphopt as ms
from graphopt import Tensor, config, nn, ops
from graphopt.compile import Compiled, compile_program
from graphopt_runtime import engine
from graphopt_runtime.executor import Executable
from graphopt_runtime.profile import KernelTime, Profile
from graphopt_runtime.program import Call, from_bytes, to_bytes
from graphopt_tools.main import app


class Net(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Dense(256, 256), nn.Dense(256, 10)

    def construct(self, x: Any) -> Any:
        h = ops.tanh(self.fc1(x))
        return self.fc2(h)


def line_of(text: str) -> str:
    lines, start = inspect.getsourcelines(Net)
    return f"test_profile.py:{start + next(k for k, line in enumerate(lines) if text in line)}"


@pytest.fixture(autouse=True)
def graph_mode() -> Iterator[None]:
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.fixture(scope="module")
def measured() -> tuple[nn.Cell, Compiled, list[np.ndarray], list[np.ndarray]]:
    """A training step on one thread, and its arrays."""
    net = Net()
    loss = nn.WithLossCell(net, nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean"))
    step = nn.TrainOneStepCell(loss, nn.Momentum(net.trainable_params(), 0.01, 0.9))
    rng = np.random.default_rng(0)
    x, y = Tensor(rng.standard_normal((128, 256)).astype(np.float32)), Tensor(rng.integers(0, 10, 128).astype(np.int32))
    with config.override(threads=1):
        entry, arrays = step.compile_cache.entry((x, y), {})
    return step, entry.compiled, arrays, [p._data() for p in entry.parameters]


def test_times_add_up_to_the_step(measured: Any) -> None:
    _, compiled, arrays, state = measured
    ratios = []
    for _ in range(5):  # another process may take the processor from either of the twins
        profile = compiled.profile(arrays, state, 0.4)
        ratios.append(profile.seconds / profile.step_seconds)
        if abs(ratios[-1] - 1) < 0.1:
            return
    raise AssertionError(f"the times do not add up to the step: {ratios}")


def test_every_kernel_once_with_its_line_and_nothing_is_trained(measured: Any) -> None:
    step, compiled, arrays, state = measured
    before = [v.copy() for v in state]
    profile = compiled.profile(arrays, state, 0.1)
    assert all(np.array_equal(a, b) for a, b in zip(before, state, strict=True))
    assert [k.number for k in profile.kernels] == list(range(len(compiled.program.calls)))
    assert [k.call for k in profile.kernels] == list(compiled.program.calls)
    assert sorted(r["number"] for r in profile.rows()) == list(range(len(profile.kernels)))
    seconds = [r["seconds"] for r in profile.rows()]
    assert seconds == sorted(seconds, reverse=True) and seconds[0] > 0
    slowest = max(profile.kernels, key=lambda k: k.seconds).call  # 128 x 256 x 256 multiply-adds
    assert (slowest.cell, slowest.where) == ("fc1", line_of("fc1(x)"))
    assert slowest.flops >= 2 * 128 * 256 * 256
    assert {k.call.where for k in profile.kernels} >= {line_of("fc1(x)"), line_of("fc2(h)")}


def test_two_threads_and_waiting(measured: Any) -> None:
    _, compiled, arrays, state = measured
    with config.override(threads=2):
        program = compile_program(compiled.graph, engine.host(), timed=True)
    timed = Executable(from_bytes(to_bytes(program)), 2)
    plain, copies, others = compiled.executable, [v.copy() for v in state], [v.copy() for v in state]
    for _ in range(3):
        times = timed.times(arrays, copies)
        plain.run(arrays, others)
    count = len(program.calls)
    assert times.shape == (3 * count + 1,) and (times >= 0).all() and times.sum() > 0
    assert times[2 * count + 1 :].tolist() == [1] * count
    assert all(not times[2 * k] for k, call in enumerate(program.calls) if not call.barrier)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(copies, others, strict=True)), "clocks change no bits"


def test_kernels_of_a_loop_are_counted_and_their_work_with_them() -> None:
    @ms.jit
    def power(x: Any) -> Any:
        return ops.ForiLoop()(0, 7, lambda k, y: ops.tanh(y @ x), x)

    x = Tensor(np.eye(48, dtype=np.float32))
    with config.override(threads=1):
        entry, arrays = power.compile_cache.entry((x,), {})
    profile = entry.compiled.profile(arrays, [], 0.1)
    assert 7 in {k.runs for k in profile.kernels}
    dense = max(profile.kernels, key=lambda k: k.call.flops)
    assert dense.gflops == pytest.approx(7 * dense.call.flops / dense.seconds / 1e9)


def test_a_plain_step_has_no_times(measured: Any) -> None:
    _, compiled, arrays, state = measured
    with pytest.raises(ValueError, match="does not measure itself; compile it with timed=True"):
        compiled.executable.times(arrays, state)
    with config.override(backend="loops"):
        other = ms.jit(lambda x: x + 1).compile_cache.entry((Tensor([1.0]),), {})[0].compiled
    with pytest.raises(ValueError, match="only native code has a profile"):
        other.profile([], [])


def test_speeds_and_roofline() -> None:
    call = Call("k", 1, False, "", "", 2_000_000, 8_000)
    slow = KernelTime(0, call, 1e-4, 5e-5)
    assert (slow.gflops, slow.gbytes) == (pytest.approx(20), pytest.approx(0.08))
    assert slow.roofline(100, 10) == pytest.approx(0.2)  # 20 us of arithmetic, 0.8 us of memory
    assert slow.roofline(1e9, 0.1) == pytest.approx(0.8)  # 80 us of memory
    idle = KernelTime(1, call, 0.0, 0.0)
    assert (idle.gflops, idle.gbytes, idle.roofline(1, 1)) == (0, 0, 0)
    profile = Profile("p", 1, 1, (slow, idle), 1e-5, 2e-4)
    assert profile.seconds == pytest.approx(1.6e-4) and profile.wait_seconds == pytest.approx(6e-5)
    assert [row["number"] for row in profile.rows(100, 10)] == [0, 1]


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt_tools import profile as command
    from graphopt_tools.probes import Speeds

    monkeypatch.setattr(command, "measure", lambda threads: Speeds(threads, 100.0, 10.0, 10.0, 10.0, 10.0))
    (tmp_path / "nets.py").write_text("from graphopt import ops\ndef f(x):\n    return ops.exp(x) @ x\n")
    out = tmp_path / "profile.json"
    call = ["profile", f"{tmp_path}/nets.py:f", "--input", "f32[64,64]", "--threads", "1", "--seconds", "0.1", "--json", str(out)]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    data = json.loads(out.read_text())
    assert data["threads"] == 1 and {k["where"] for k in data["kernels"]} == {"nets.py:3"}
    assert data["total_seconds"] == pytest.approx(sum(k["seconds"] + k["wait_seconds"] for k in data["kernels"]), rel=0.2)
    rows = [line for line in result.output.splitlines() if re.match(r" \d+ ", line)]
    assert len(rows) == len(data["kernels"]) and "total, with waiting" in result.output
    monkeypatch.setenv("GRAPHOPT_BACKEND", "loops")
    with config.override(backend="loops"):
        result = CliRunner().invoke(app, call)
    assert result.exit_code == 2 and "only native code has a profile" in result.output
