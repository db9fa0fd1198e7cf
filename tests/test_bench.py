"""`graphopt bench`: every benchmark runs and is right, whatever goes wrong is said, reports hold what was measured."""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner
from typer.testing import Result as Outcome

from graphopt import Tensor, config, nn, ops
from graphopt_tools import bench, contest, count, standings
from graphopt_tools.contest import Contestant, Result
from graphopt_tools.main import app
from graphopt_tools.mistakes import Mistake
from graphopt_tools.probes import Speeds
from graphopt_tools.standings import Standing
from graphopt_tools.workloads import EVERY, OPTIMIZERS, SETS, WORKLOADS, Workload

NEEDS = {"lstm": "LSTM", "wide_deep": "EmbeddingLookup"}
"""Workloads with a layer that may be missing."""
SPEEDS = Speeds(2, 100.0, 10.0, 20.0, 15.0, 10.0)


@pytest.fixture(scope="module")
def peers() -> Iterator[ModuleType]:
    """The modules beside serve.py, as a contestant sees them."""
    sys.path.insert(0, str(contest.PEER_FOLDER))
    yield importlib.import_module("serve")
    sys.path.remove(str(contest.PEER_FOLDER))


def results_of(serve: ModuleType, workload: Workload, file: Path, steps: int) -> dict[str, Any]:
    """What graphopt as a contestant answers to `init`, in this process."""
    np.savez(file, **workload.arrays())  # type: ignore[arg-type]
    server = serve.Server("graphopt", "", 1)
    answer: dict[str, Any] = server.init(**json.loads(json.dumps(workload.spec())), file=str(file), warm=steps)
    assert server.run(1)["seconds"] > 0
    return answer


@pytest.mark.parametrize("name", EVERY)
def test_every_workload_is_right(name: str, peers: ModuleType, tmp_path: Path) -> None:
    if name in NEEDS and not hasattr(nn, NEEDS[name]):
        pytest.skip(f"there is no nn.{NEEDS[name]}")
    workload = EVERY[name].shrunk()
    native = results_of(peers, workload, tmp_path / "data.npz", 2)
    with config.override(backend="numpy"):
        oracle = results_of(peers, workload, tmp_path / "data.npz", 2)
    reference = Result("numpy", results=oracle["results"])
    assert contest.difference(reference, Result("llvm", results=native["results"])) == ""
    assert all(math.isfinite(x) for step in native["results"] for tensor in step for x in tensor)
    assert native["counts"]["bytes"] > 0 and native["counts"]["kernels"] > 0
    assert json.loads(json.dumps(workload.spec())) == workload.spec()


@pytest.mark.parametrize("name", [n for n in WORKLOADS if n not in NEEDS and "matmul" not in n])
def test_two_seeds_are_two_results(name: str, peers: ModuleType, tmp_path: Path) -> None:
    """What is compared depends on the data: a program that ignored its weights would be found."""
    workload = EVERY[name].shrunk()
    with config.override(backend="numpy"):
        first = results_of(peers, workload, tmp_path / "data.npz", 1)
        np.savez(tmp_path / "data.npz", **workload.arrays(1))  # type: ignore[arg-type]
        other = peers.Server("graphopt", "", 1).init(**workload.spec(), file=str(tmp_path / "data.npz"), warm=1)
    assert contest.difference(Result("", results=first["results"]), Result("", results=other["results"]))


def test_sizes_are_those_of_the_name() -> None:
    about = {name: {**workload.spec()["sizes"]} for name, workload in WORKLOADS.items()}
    assert len({json.dumps(sizes, sort_keys=True) for sizes in about.values()}) == len(WORKLOADS)
    for workload in EVERY.values():
        assert set(workload.small) <= set(workload.sizes), workload.about


def test_every_optimizer_takes_part() -> None:
    exported = {name for name, thing in vars(nn).items() if isinstance(thing, type) and issubclass(thing, nn.Optimizer)}
    there = {name.removeprefix("update_").partition("_")[0] for name in OPTIMIZERS}
    assert exported - there == {"Optimizer"}, "only thor, which is a function, needs more than gradients"


# --- the work that is necessary


def counted(function: Any, *inputs: np.ndarray) -> dict[str, int]:
    class Cell(nn.Cell):
        def construct(self, *x: Any) -> Any:
            return function(*x)

    cell = Cell()
    cell.compile_cache([Tensor(x) for x in inputs], {})
    return count.counts(cell.compile_cache)


def array(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def test_counts_of_a_product() -> None:
    found = counted(ops.matmul, array(3, 5), array(5, 7))
    assert found["flops"] == 2 * 3 * 5 * 7 and found["bytes"] == 4 * (15 + 35 + 21)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_counts_of_a_convolution_are_its_multiplications(stride: int, padding: int) -> None:
    """Ones meet ones: the sum of the result is the number of multiply-adds that are not with padding."""
    image, window = array(2, 3, 7, 6), array(4, 3, 3, 2)
    result = ops.conv2d(Tensor(image), Tensor(window), None, stride, "pad", padding)
    found = counted(lambda x, w: ops.conv2d(x, w, None, stride, "pad", padding), image, window)
    assert found["flops"] == 2 * float(result.asnumpy().sum())


def test_counts_of_a_loop_are_those_of_all_its_trips() -> None:
    def powers(x: Any, w: Any) -> Any:
        for _ in range(9):
            x = ops.tanh(ops.matmul(x, w))
        return x

    assert counted(powers, array(3, 5), array(5, 5))["flops"] == 9 * 2 * 3 * 5 * 5


def test_a_table_counts_with_the_rows_looked_up() -> None:
    ids = np.array([1, 2, 1], np.int32)
    found = counted(lambda table, ids: ops.gather(table, ids, 0), array(1000, 4), ids)
    assert found["bytes"] == 4 * (12 + 3 + 12)
    both = counted(lambda table, ids: ops.gather(table, ids, 0).sum() + table.sum(), array(1000, 4), ids)
    assert both["bytes"] == 4 * (4000 + 3 + 1)


# --- the command


def invoke(*arguments: str) -> Outcome:
    return CliRunner().invoke(app, ["bench", *arguments])


def refused(*arguments: str) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    return result.output.strip()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small sizes, short turns, a machine that need not be measured."""
    for name in ("mlp", "dispatch"):
        monkeypatch.setitem(EVERY, name, EVERY[name].shrunk())
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(contest, "TURN_SECONDS", 0.02)
    monkeypatch.setattr(bench.probes, "measure", lambda threads: Speeds(threads, 100.0, 10.0, 20.0, 15.0, 10.0))


def test_mistakes(tmp_path: Path) -> None:
    known = "there are all, matmul, optimizers, depths, loops"
    assert refused("--workloads", "mpl").startswith(f"graphopt bench: no workload mpl; {known}")
    expected = "graphopt bench: --peer torch: expected NAME=PYTHON with a name of torch, jax, mindspore"
    assert refused("--peer", "torch") == expected
    peer = f"torch={tmp_path / 'python'}"
    assert refused("--peer", peer) == f"graphopt bench: --peer {peer}: there is no program {tmp_path / 'python'}"
    file = tmp_path / "absent" / "x.json"
    assert refused("--json", str(file)) == f"graphopt bench: {file}: there is no folder {file.parent}"


def test_sets_are_resolved_and_nothing_twice() -> None:
    assert bench.chosen(["matmul", "mlp", "matmul_512"]) == [*SETS["matmul"], "mlp"]
    assert bench.chosen(["all"]) == list(WORKLOADS) and bench.chosen(["optimizers"]) == list(OPTIMIZERS)


def test_graphopt_and_a_peer_that_is_not_there(quick: None, tmp_path: Path) -> None:
    numbers, page = tmp_path / "numbers.json", tmp_path / "page.html"
    outcome = invoke(
        "--workloads", "mlp,dispatch", "--seconds", "0.1", "--threads", "1", "--peer", f"jax={sys.executable}",
        "--json", str(numbers), "--html", str(page),
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.output
    reason = "jax failed: ModuleNotFoundError: No module named 'jax'"
    assert outcome.output.count(reason) == 2 and "graphopt 0." in outcome.output
    report = json.loads(numbers.read_text())
    assert report["gflops"] == 100 and report["gigabytes_per_second"] == 20 and report["threads"] == 1
    own, peer = report["workloads"]["mlp"]["results"]
    assert peer == {"contestant": "jax", "version": "", "failure": reason, "ratio": None, "share_of_limit": None}
    assert own["step_ms"] >= own["step_ms_min"] > 0 and own["turns"] >= 3 and own["peak_bytes"] > 1e7
    assert own["first_call_s"] > 0 and own["first_call_from_cache_s"] > 0 and own["ratio"] is None
    assert len(own["results"]) == contest.CHECKED_STEPS and own["difference"] == ""
    assert own["share_of_limit"] == pytest.approx(report["workloads"]["mlp"]["limit_ms"] / own["step_ms"])
    assert reason.replace("'", "&#x27;") in page.read_text()


def test_what_graphopt_cannot_do_is_an_error(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EVERY, "mlp", Workload("", "updates", {"optimizer": "Adm", "tensors": 1, "rows": 2, "columns": 2}))
    outcome = invoke("--workloads", "mlp", "--seconds", "0.1", "--threads", "1")
    assert outcome.exit_code == 2 and "mlp: graphopt failed: KeyError: 'Adm'" in outcome.output


# --- contestants


def test_a_contestant_that_fails_or_dies_is_reported() -> None:
    with Contestant("absent", "", sys.executable, 1, os.environ, 60) as contestant:
        with pytest.raises(Mistake, match="^absent failed: ModuleNotFoundError: No module named 'absent_peer'$"):
            contestant.ask("init", program="", sizes={}, file="", warm=1)
        contestant.process.kill()
        with pytest.raises(Mistake, match="^absent ended without an answer"):
            contestant.ask("run", steps=1)


def slow_peer(folder: Path, answers: int) -> None:
    """A serve.py that answers some commands and then no more."""
    code = f"""
        import sys, time
        for k, line in enumerate(sys.stdin):
            if k == {answers}:
                time.sleep(60)
            print('{{"version": "slow", "first_seconds": 1, "results": [], "counts": null, "seconds": 1, "peak_bytes": 1}}')
            sys.stdout.flush()
    """
    (folder / "serve.py").write_text("\n".join(line[8:] for line in code.splitlines()), encoding="utf-8")


def test_nobody_is_waited_for_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest, "PEER_FOLDER", tmp_path)
    slow_peer(tmp_path, 2)
    with Contestant("torch", "eager", sys.executable, 1, os.environ, 5) as contestant:
        result = contest.start(contestant, EVERY["dispatch"], "")
        assert result.version == "slow" and not result.failure
        contestant.limit = 0.2
        contest.take_turns([contestant], [result], 0.1)
        assert result.failure == "torch eager gave no answer within 0.2 s"
        assert contestant.process.wait() != 0


def test_turns_begin_when_the_others_are_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that spins after its last work would take a processor from the next one's first step."""
    pauses: list[float] = []
    turns: list[int] = []
    monkeypatch.setattr(contest.time, "sleep", pauses.append)
    monkeypatch.setattr(contest, "PEER_FOLDER", tmp_path)
    slow_peer(tmp_path, 99)
    with Contestant("torch", "eager", sys.executable, 1, os.environ, 5) as contestant:
        ask = contestant.ask
        monkeypatch.setattr(contestant, "ask", lambda *a, **k: (turns.append(len(pauses)), ask(*a, **k))[1])
        contest.take_turns([contestant], [Result("torch eager")], 0.1)
        assert turns == list(range(1, len(turns) + 1)) and set(pauses) == {contest.QUIET_SECONDS}


def test_contestants_get_the_same_threads_and_stock_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("PYTHONPATH", "here")
    environment = contest.child_environment(3, "somewhere")
    assert "OPENBLAS_CORETYPE" not in environment and environment["PYTHONPATH"] == os.path.abspath("here")
    assert {environment[name] for name in ("OMP_NUM_THREADS", "GRAPHOPT_THREADS", "MKL_NUM_THREADS")} == {"3"}


def test_differing_results_are_found() -> None:
    own = Result("graphopt", results=[[[2.0, 2.0]], [[1.0, 1.0]]])
    assert contest.difference(own, Result("torch", results=[[[2.0005, 2.0005]], [[1.0, 1.0]]])) == ""
    nan = Result("jax", results=[[[2.0, 2.0]], [[float("nan")] * 2]])
    assert contest.difference(own, nan) == "the result of step 2 is nan, with graphopt 1"
    fewer = Result("jax", results=[[[2.0, 2.0]], []])
    assert contest.difference(own, fewer) == "step 2 gives 0 tensors, with graphopt 1"
    two = Result("graphopt", results=[[[2.0, 2.0], [1.0, 0.5]]])
    wrong = Result("torch", results=[[[2.0, 2.0], [1.0, 0.6]]])
    assert contest.difference(two, wrong) == "tensor 1 of step 1 is 0.6, with graphopt 0.5"


def test_a_failed_reference_leaves_the_others_compared() -> None:
    first = Result("graphopt", failure="no")
    one, two = Result("torch", results=[[[1.0, 1.0]]]), Result("jax", results=[[[1.0, 2.0]]])
    contest.compare([first, one, two])
    assert (one.difference, two.difference) == ("", "the result of step 1 is 2, with torch 1")


# --- reports


def example() -> list[Standing]:
    """Two workloads: one with every kind of row, one that graphopt cannot do."""
    own = Result("graphopt", "graphopt 1", counts={"flops": 10**8, "bytes": 10**6}, seconds=[0.004, 0.002, 0.003])
    fast = Result("torch eager", "torch 2 eager", seconds=[0.004], peak_bytes=2_000_000)
    wrong = Result("jax", "jax 3", seconds=[0.001], difference="the result of step 1 is 2, with graphopt 1")
    dead = Result("mindspore", failure="mindspore failed: RuntimeError: [x]")
    other = [Result("graphopt", failure="graphopt failed: no <LSTM>"), Result("jax", "jax 3", seconds=[0.05])]
    return [Standing("mlp", "an MLP", [own, fast, wrong, dead], SPEEDS), Standing("lstm", "an LSTM", other, SPEEDS)]


def test_ratios_and_limits() -> None:
    first, second = example()
    own, fast, wrong, dead = first.results
    assert first.best_peer == 0.004, "a peer whose results differ does not count"
    assert first.limit == pytest.approx(0.001), "10^8 flops at 10^11 per second; the bytes take less"
    assert (first.ratio(own), first.share(own)) == (pytest.approx(0.75), pytest.approx(1 / 3))
    assert first.ratio(wrong) == pytest.approx(0.25) and first.ratio(dead) is None
    assert second.limit is None and second.share(second.results[1]) is None
    assert bench.complaints([first, second]) == [
        "mlp: jax: the result of step 1 is 2, with graphopt 1",
        "lstm: graphopt failed: no <LSTM>",
    ]


def test_the_table_says_everything() -> None:
    console = Console(width=150, record=True, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    console.print(standings.table(example()))
    text = console.export_text()
    lines = [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]
    assert "mlp graphopt 1 3 ms 0.75x 33% 0.00 0" in lines
    assert "torch 2 eager 4 ms 1.00x 25% 0.00 2" in lines
    assert "DIFFERS: the result of step 1 is 2, with graphopt 1" in text and "RuntimeError: [x]" in text
    assert "limits 100 GFLOP/s, 20 GB/s" in text


def test_the_page_is_complete_and_well_formed() -> None:
    page = standings.html(example(), "some machine")
    root = ET.fromstring(page.replace("<!doctype html>\n", "").replace('<meta charset="utf-8">', ""))
    text = "".join(root.itertext())
    for expected in ("some machine", "mlp", "0.75x", "no <LSTM>", "with graphopt 1", "best peer"):
        assert expected in text, expected
    bars = [e for e in root.iter() if e.tag.endswith("rect")]
    assert len(bars) == 4, "a bar for everybody who was measured"
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert widths[0] == pytest.approx(0.75 * widths[1], rel=1e-2)
    assert "src=" not in page and "http://www.w3.org" in page and page.count("http") == 1


def test_a_bar_that_is_too_long_is_cut_and_says_so() -> None:
    first, _ = example()
    first.results[0].seconds[:] = [0.4]
    assert "400 ms (100.0x)" in standings.picture([first])


@pytest.mark.parametrize(("seconds", "text"), [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (1.2e-5, "12 us"), (3e-8, "0.03 us")])
def test_durations(seconds: float, text: str) -> None:
    assert standings.duration(seconds) == text
