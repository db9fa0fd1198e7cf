"""`graphopt check`: healthy networks pass; broken passes and lowerings are named with the smallest graph that shows it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from graphopt.ir.graph import Graph, Node, input_node, rebuild, state_node, walk
from graphopt.ir.types import TensorType, f32
from graphopt.kernel.numpy_scalars import NumpyScalars
from graphopt.llvm import scalars
from graphopt.opdefs.control import items, loop
from graphopt.opdefs.elementwise import add, maximum, mul
from graphopt.opdefs.math import tanh
from graphopt.opdefs.opdef import opdef
from graphopt.opdefs.reduce import reduce_sum
from graphopt.passes import pipeline
from graphopt.passes.rewrite import Steps
from graphopt_tools import check
from graphopt_tools.check import Fault, Report, check_graph, describe
from graphopt_tools.main import app
from graphopt_tools.reduce import reduce_graph

NETWORK = """
import numpy as np
from graphopt import Tensor, nn, ops

class Tiny(nn.Cell):
    def __init__(self):
        super().__init__()
        self.dense = nn.Dense(6, 3)

    def construct(self, x):
        return ops.tanh(self.dense(x))

def step():
    loss = nn.WithLossCell(Tiny(), nn.MSELoss())
    train = nn.TrainOneStepCell(loss, nn.Momentum(loss.trainable_params(), 0.1, 0.9)).set_train()
    return train, Tensor(np.ones((4, 6), np.float32)), Tensor(np.ones((4, 3), np.float32))
"""


@pytest.fixture
def network(tmp_path: Path) -> str:
    path = tmp_path / "checked_network.py"
    path.write_text(NETWORK)
    return str(path)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["check", *arguments])


def test_a_healthy_network(network: str) -> None:
    result = invoke(f"{network}:Tiny", "--input", "f32[4,6]")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("Tiny: ") and lines[-1] == "all stages agree"
    stages = [line.split("  ")[1].strip() for line in lines[1:-1]]
    assert stages == [
        "traced, by the ops' meaning", *(f"pass {p.name}" for p in pipeline.PASSES), "loop interpreter", "LLVM",
    ]  # fmt: skip
    assert all(re.fullmatch(r"  .{28} +\d+\.\d s  .+", line) for line in lines[1:-1])
    assert lines[1].endswith("  1 results") and lines[2].endswith(" nodes, unchanged")
    assert lines[-2].endswith("1 results as the ops mean them")


def test_a_healthy_training_step(network: str) -> None:
    result = invoke(f"{network}:step")
    assert result.exit_code == 0, result.output
    assert ", 1 outputs, 5 updates of state" in result.output


def test_mistakes(network: str) -> None:
    assert invoke(f"{network}:nothing").exit_code == 2
    assert invoke(f"{network}:Tiny").exit_code == 2


# broken on purpose


def drop_addend(graph: Graph, steps: Steps) -> Graph:
    """Takes (a + b) * c for a * c."""

    def change(node: Node) -> Node:
        match node:
            case Node(op="mul", inputs=(Node(op="add", inputs=(a, _)), c)) if steps.take("drop_addend"):
                return mul(a, c)
        return node

    return rebuild(graph, change)


def wrong_type(graph: Graph, steps: Steps) -> Graph:
    """Says that every tanh is one element longer."""

    def change(node: Node) -> Node:
        if node.op == "tanh" and steps.take("wrong_type"):
            return Node("tanh", node.inputs, node.attrs, TensorType(f32, (node.shape[0] + 1,)), node.where)
        return node

    return rebuild(graph, change)


def example() -> tuple[Graph, dict[Node, np.ndarray]]:
    """A graph in which much goes on around (x + y) * x."""
    x, y = input_node("x", TensorType(f32, (40,))), input_node("y", TensorType(f32, (40,)))
    a = tanh(x * 2.0)
    b = mul(add(a, y), x)
    c = maximum(b, a * y)
    graph = Graph("example", (x, y), (), (reduce_sum(c * 3.0, axes=(0,)), tanh(c), a))
    rng = np.random.default_rng(0)
    return graph, {n: rng.normal(size=40).astype(np.float32) for n in (x, y)}


def fault_of(graph: Graph, leaves: dict[Node, np.ndarray], seconds: float = 1e9) -> tuple[Fault | None, list[str]]:
    lines: list[str] = []
    return check_graph(graph, leaves, Report(lines.append), seconds), lines


def ops_of(graph: Graph) -> list[str]:
    return [n.op for n in walk(graph.roots) if n.op not in ("input", "state", "constant")]


@pytest.mark.parametrize("place", [0, 2, len(pipeline.PASSES)])
def test_a_broken_pass_is_named_and_its_graph_is_small(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = pipeline.Pass("broken", drop_addend, "a test")
    monkeypatch.setattr(pipeline, "PASSES", (*pipeline.PASSES[:place], broken, *pipeline.PASSES[place:]))
    fault, lines = fault_of(*example())
    assert fault is not None
    assert fault.what.startswith("pass broken changes the meaning: result 0 differs by up to ")
    assert fault.blame == "by its rewrite drop_addend"
    assert ops_of(fault.graph) == ["add", "mul"]
    assert len(fault.graph.inputs) <= 3 and len(fault.graph.outputs) == 1
    assert lines[-1].split()[:2] == ["pass", "broken"]
    text = describe(fault)
    assert "mul(" in text and "output 0: expected" in text and "found" in text


def test_a_pass_that_breaks_a_rule_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "PASSES", (pipeline.Pass("broken", wrong_type, "a test"),))
    fault, _ = fault_of(*example())
    assert fault is not None and "pass broken" in fault.what and "VerifyError" in fault.what
    assert ops_of(fault.graph) == ["tanh"] and fault.found is None


def test_a_broken_lowering_is_named_and_its_graph_is_one_node(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = opdef("tanh").rules["scalar"]
    monkeypatch.setitem(opdef("tanh").rules, "scalar", lambda s, x: s.mul(rule(s, x), s.const(1.01, s.dtype_of(x))))
    fault, lines = fault_of(*example())
    assert fault is not None and fault.what.startswith("loop interpreter disagrees with the ops' meaning: result ")
    assert ops_of(fault.graph) == ["tanh"]
    assert fault.found is not None
    np.testing.assert_allclose(fault.found[0], fault.expected[0] * 1.01, rtol=1e-5)
    assert "loop interpreter" in lines[-1]


def test_a_lowering_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(s: Any, *values: Any) -> Any:
        raise ValueError("a rule of a test")

    monkeypatch.setitem(opdef("maximum").rules, "scalar", fails)
    fault, _ = fault_of(*example())
    assert fault is not None and "ValueError: a rule of a test" in fault.what
    assert ops_of(fault.graph) == ["maximum"] and fault.found is None
    assert "found    nothing" in describe(fault)


def test_broken_native_code_is_told_from_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = next(v for v in vars(scalars).values() if isinstance(v, type) and "max" in vars(v) and "min" in vars(v))
    monkeypatch.setattr(machine, "max", machine.min)
    fault, lines = fault_of(*example())
    assert fault is not None and fault.what.startswith("LLVM disagrees with the ops' meaning: ")
    assert ops_of(fault.graph) == ["maximum"]
    assert lines[-2].startswith("  loop interpreter  ") and lines[-2].endswith("3 results as the ops mean them")


def test_the_command_prints_the_smallest_graph(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = opdef("tanh").rules["scalar"]
    monkeypatch.setitem(opdef("tanh").rules, "scalar", lambda s, x: s.neg(rule(s, x)))
    result = invoke(f"{network}:step")
    assert result.exit_code == 1
    assert "the smallest graph that shows it:" in result.output
    assert result.output.count("tanh(") == 1 and "checked_network.py:" in result.output


# more than the interpreter can run: native kernels one by one, beside a sample


def large() -> tuple[Graph, dict[Node, np.ndarray]]:
    """A graph whose kernels have thousands of iterations."""
    x, y = input_node("x", TensorType(f32, (300, 500))), input_node("y", TensorType(f32, (300, 500)))
    a = tanh(x * 2.0)
    rows = reduce_sum(maximum(a, y), axes=(1,))
    graph = Graph("large", (x, y), (), (mul(add(a, y), x), tanh(rows)))
    rng = np.random.default_rng(0)
    return graph, {n: rng.normal(size=(300, 500)).astype(np.float32) for n in (x, y)}


def test_a_healthy_large_graph_is_sampled_and_says_so() -> None:
    fault, lines = fault_of(*large(), 0.0)
    assert fault is None
    found = re.search(r"  loop interpreter, sampled +[\d.]+ s  beside LLVM's kernels: (.*)", lines[-2])
    assert found is not None
    shares = re.search(r"(\d+) on ([\d.]+) % or more of their iterations, ([\d.]+) % of .* of ([\d,]+) elements", found[1])
    assert shares is not None and int(shares[1]) > 0
    assert 0 < float(shares[2]) <= float(shares[3]) < 100
    assert 0 < int(shares[4].replace(",", "")) < 150_000
    assert lines[-1].endswith("2 results as the ops mean them, with the bits of its kernels one by one")


def test_a_large_graph_can_be_run_whole() -> None:
    fault, lines = fault_of(*large(), float("inf"))
    assert fault is None and lines[-2].startswith("  loop interpreter   ")


def test_the_command_says_that_it_sampled(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "INTERPRETED", 0.0)
    result = invoke(f"{network}:step")
    assert result.exit_code == 0 and "all stages agree; the loop interpreter ran a sample" in result.output
    result = invoke(f"{network}:step", "--whole")
    assert result.exit_code == 0 and result.output.splitlines()[-1] == "all stages agree"


def test_a_broken_native_kernel_is_found_in_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = next(v for v in vars(scalars).values() if isinstance(v, type) and "max" in vars(v) and "min" in vars(v))
    monkeypatch.setattr(machine, "max", machine.min)
    fault, lines = fault_of(*large(), 0.0)
    assert fault is not None and fault.what.startswith("loop interpreter and LLVM disagree in kernel ")
    assert ops_of(fault.graph) == ["maximum"]
    assert lines[-1].startswith("  loop interpreter, sampled ")


def test_a_broken_interpreter_is_told_from_native_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NumpyScalars, "max", NumpyScalars.min)
    fault, _ = fault_of(*large(), 0.0)
    assert fault is not None and fault.what.endswith("; LLVM gives what the ops mean")
    assert "maximum" in ops_of(fault.graph)


def test_a_broken_lowering_is_named_where_the_interpreter_agrees_with_native_code(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = opdef("tanh").rules["scalar"]
    monkeypatch.setitem(opdef("tanh").rules, "scalar", lambda s, x: s.mul(rule(s, x), s.const(1.01, s.dtype_of(x))))
    monkeypatch.setattr(check, "seconds_of", lambda step: float(len(walk(step.graph.roots)) > 4))
    fault, lines = fault_of(*large(), 0.5)
    assert "sampled" in lines[-2] and lines[-1].startswith("  LLVM  ")
    assert fault is not None and fault.what.startswith("loop interpreter and LLVM disagree with the ops' meaning: result ")
    assert ops_of(fault.graph) == ["tanh"]


def test_a_step_that_differs_from_its_kernels_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def off(graph: Graph, leaves: Any) -> list[np.ndarray]:
        moved = "maximum" in ops_of(graph)
        return [np.nextafter(a, np.float32(9)) if moved else a for a in run(graph, leaves)]

    run = check._llvm
    monkeypatch.setattr(check, "_llvm", off)
    fault, lines = fault_of(*large(), 0.0)
    assert fault is not None and fault.what.startswith("the step gives other bits than its kernels one by one: result 0 ")
    assert ops_of(fault.graph) == ["maximum"] and lines[-1].startswith("  LLVM  ")


def test_kernels_in_loops_are_compared_on_some_trips() -> None:
    x, s = input_node("x", TensorType(f32, (40, 50))), input_node("s", TensorType(f32, (40, 50)))
    state = state_node("s", s.type)
    body = Graph("body", (), (state,), (), ((state, tanh(state) * 0.5),))
    made = loop(s, body=body, test=None, length=30, reverse=False, stacked=0, counted=False)
    graph = Graph("looped", (x, s), (), (add(items(made)[0], x),))
    fault, lines = fault_of(graph, {n: np.full((40, 50), 0.5, np.float32) for n in (x, s)}, 0.0)
    assert fault is None and " % of all work; " in lines[-2]


def looped() -> tuple[Graph, dict[Node, np.ndarray]]:
    """A loop between other nodes."""
    x, s, y = (input_node(n, TensorType(f32, (4,))) for n in "xsy")
    state = state_node("s", s.type)
    body = Graph("body", (y,), (state,), (), ((state, tanh(state) * y),))
    made = loop(mul(x, 2.0), x, body=body, test=None, length=3, reverse=False, stacked=0, counted=False)
    graph = Graph("looped", (x,), (), (add(items(made)[0], x),))
    return graph, {x: np.array([0.5, -1.0, 2.0, 0.25], np.float32)}


def test_a_broken_lowering_inside_a_loop_keeps_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, leaves = looped()
    assert fault_of(graph, leaves)[0] is None
    rule = opdef("tanh").rules["scalar"]
    monkeypatch.setitem(opdef("tanh").rules, "scalar", lambda s, x: s.neg(rule(s, x)))
    fault, _ = fault_of(graph, leaves)
    assert fault is not None and fault.what.startswith("loop interpreter disagrees")
    assert ops_of(fault.graph) == ["loop", "item"]


@pytest.mark.parametrize("wanted", [("add", "mul"), ("tanh",), ("mul", "tanh", "add", "mul", "maximum")])
def test_reduce_graph_finds_patterns(wanted: tuple[str, ...]) -> None:
    """A fault that needs a chain of ops above one another keeps those and nothing else."""
    graph, leaves = example()

    def chain(node: Node, rest: tuple[str, ...]) -> bool:
        return node.op == rest[-1] and (len(rest) == 1 or any(chain(i, rest[:-1]) for i in node.inputs))

    def fails(some: Graph, values: Any) -> bool:
        return any(chain(n, wanted) for n in walk(some.roots))

    small, values = reduce_graph(graph, leaves, fails)
    assert fails(small, values)
    assert sorted(ops_of(small)) == sorted(wanted)
    assert set(values) == set(small.inputs)


def test_reduce_graph_keeps_what_cannot_be_reduced() -> None:
    graph, leaves = example()
    calls: list[Callable[..., Any]] = []

    def fails(some: Graph, values: Any) -> bool:
        calls.append(fails)
        return some is graph

    assert reduce_graph(graph, leaves, fails)[0] is graph
