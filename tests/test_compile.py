"""The whole route: backends agree, the disk cache only helps, every stage can be seen, a step allocates nothing."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graphopt import config
from graphopt.compile import Compiled, compile_graph, compile_program, disk_cache, module_text, stages
from graphopt.ir.graph import Graph
from graphopt.ir.text import print_graph
from graphopt.ir.types import f32
from graphopt.kernel.step import lower_graph
from graphopt.llvm.target import machine_of
from graphopt.opdefs.elementwise import mul
from graphopt.opdefs.math import exp
from graphopt.opdefs.opdef import constant
from graphopt.opdefs.shape import broadcast
from graphopt.passes.pipeline import optimize
from graphopt_runtime import engine
from graphopt_runtime.engine import Target
from graphopt_runtime.program import from_bytes, to_bytes
from tests.steps import GRAPHS, agree, arguments, compiled, leaf, meaning, mlp_step, run, state
from tests.test_llvm import ALLOWED, called, step_text


def cached(graph: Graph, folder: Path | str, target: Target | None = None, **switches: object) -> Compiled:
    with config.override(cache=str(folder), threads=1, **switches):
        return compile_graph(graph, target)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.entry"))


# backends


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", GRAPHS)
def test_backends_agree_over_several_steps(name: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps in a row, each backend on states of its own; with two threads every kernel is shared."""
    monkeypatch.setattr("graphopt.kernel.step._TEAM_WORK", 0.0 if threads > 1 else 1e9)
    graph = GRAPHS[name]()
    inputs, states = arguments(graph)
    runs = {backend: compiled(graph, backend, threads) for backend in ("numpy", "loops", "llvm")}
    mine = {backend: [s.copy() for s in states] for backend in runs}
    for step in range(3):
        results = {b: [*c.run(inputs, mine[b]), *mine[b]] for b, c in runs.items()}
        for backend in ("loops", "llvm"):
            agree(results[backend], results["numpy"], f"{backend}, step {step}", factor=16)  # three steps in a row
    assert runs["numpy"].program is None and runs["loops"].program is None and runs["llvm"].program is not None
    assert runs["numpy"].arena_bytes == 0


def test_results_are_fresh_and_inputs_stay() -> None:
    graph = mlp_step()
    inputs, states = arguments(graph)
    executable = compiled(graph)
    before = [a.copy() for a in inputs]
    (first,) = executable.run(inputs, states)
    kept = first.copy()
    (second,) = executable.run(inputs, states)
    assert second is not first and np.array_equal(first, kept) and not np.array_equal(first, second)
    assert all(np.array_equal(a, b) for a, b in zip(inputs, before, strict=True))


def test_graphs_without_work() -> None:
    """Nothing to compute, nothing to return, an output that is an input, a constant, an array without elements."""
    x, s, none = leaf("x", 3), state("s", 3), leaf("none", 0, 4)
    a, b = np.arange(3, dtype=np.float32), np.ones(3, np.float32)
    empty = np.zeros((0, 4), np.float32)
    number = constant(np.arange(6.0, dtype=np.float32).reshape(2, 3))
    graphs = [
        (Graph("nothing", (), (), ()), [], []),
        (Graph("same", (x,), (s,), (x, s, x), ((s, s),)), [a], [b]),
        (Graph("store", (x,), (s,), (), ((s, x),)), [a], [b]),
        (Graph("number", (), (), (number, constant(2.0, f32))), [], []),
        (Graph("empty", (none,), (), (exp(none), none + 1.0)), [empty], []),
    ]
    for graph, inputs, states in graphs:
        for backend in ("numpy", "loops", "llvm"):
            agree(
                run(compiled(graph, backend), inputs, states), meaning(graph, inputs, states), f"{graph.name} {backend}"
            )


# the disk cache


def test_the_second_compile_comes_from_the_cache(tmp_path: Path) -> None:
    graph = mlp_step()
    first, second = cached(graph, tmp_path), cached(mlp_step(), tmp_path)
    assert not first.cached and second.cached and len(entries(tmp_path)) >= 1
    assert first.program == second.program
    inputs, states = arguments(graph)
    for a, b in zip(run(first, inputs, states), run(second, inputs, states), strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("place", [0, 40, -1, None])
def test_a_damaged_entry_is_compiled_anew(
    place: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flipped byte anywhere, or half a file: silently another compile, which repairs the entry."""
    graph = mlp_step()
    expected = cached(graph, tmp_path).program
    assert expected is not None
    for path in entries(tmp_path):
        data = bytearray(path.read_bytes())
        if place is None:
            del data[len(data) // 2 :]
        else:
            data[place] ^= 0x10
        path.write_bytes(data)
    again = cached(graph, tmp_path)
    assert not again.cached and again.program == expected
    assert cached(graph, tmp_path).cached
    assert capsys.readouterr() == ("", "")


def test_an_entry_that_is_no_program_is_compiled_anew(tmp_path: Path) -> None:
    """A whole entry under the right key, but of other content: its own checksum does not help."""
    graph = mlp_step()
    cached(graph, tmp_path)
    store = disk_cache(str(tmp_path))
    for path in entries(tmp_path):
        store.put(path.stem, b"not a program")
    assert not cached(graph, tmp_path).cached


def test_a_cache_that_cannot_be_written_has_no_effect(tmp_path: Path) -> None:
    graph = mlp_step()
    file = tmp_path / "file"
    file.write_text("in the place of a folder")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    for folder in (file, file / "below", locked, "off", "/proc/nowhere"):
        assert not cached(graph, folder).cached
        again = cached(graph, folder)
        assert not again.cached or os.geteuid() == 0 and folder == locked, "root writes anywhere"
        inputs, states = arguments(graph)
        agree(run(again, inputs, states), meaning(graph, inputs, states), str(folder))
    assert file.read_text() == "in the place of a folder"


def test_whatever_decides_the_code_is_part_of_the_key(tmp_path: Path) -> None:
    """Another target, pass list, limit, shape, number, name or constant array compiles; equal ones do not."""
    host = engine.host()
    graph = mlp_step()
    assert not cached(graph, tmp_path).cached
    assert cached(graph, tmp_path, host).cached
    assert not cached(graph, tmp_path, Target(host.triple, host.cpu, host.features + ",-fma")).cached
    assert not cached(graph, tmp_path, skip=("cse",)).cached
    assert not cached(graph, tmp_path, limit=2).cached
    assert not cached(mlp_step(25), tmp_path).cached
    assert not cached(mlp_step(rate=0.2), tmp_path).cached
    assert not cached(replace(graph, name="other"), tmp_path).cached
    assert cached(graph, tmp_path).cached
    x = leaf("x", 5000)
    arrays = [np.arange(5000, dtype=np.float32), np.arange(5000, dtype=np.float32)]
    arrays[1][2500] = -1
    for array in arrays:
        one = Graph("table", (x,), (), (x + constant(array),))
        found = cached(one, tmp_path)
        assert not found.cached
        np.testing.assert_array_equal(found.run([np.ones(5000, np.float32)], [])[0], array + 1)


def test_another_compiler_compiles_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = mlp_step()
    cached(graph, tmp_path)
    assert cached(graph, tmp_path).cached
    monkeypatch.setattr(engine, "version", lambda: "another")
    assert not cached(graph, tmp_path).cached
    monkeypatch.undo()
    monkeypatch.setattr("graphopt.compile.compiler_key", lambda: "other sources")
    assert not cached(graph, tmp_path).cached


# what can be seen


def test_dump_writes_every_stage(tmp_path: Path) -> None:
    graph = mlp_step()
    folder = tmp_path / "new" / "dump"
    cached(graph, "off", dump=str(folder))
    found = {p.name: p.read_text() for p in folder.iterdir()}
    assert "group 0" in found["mlp_step-90-fused.txt"] or "group 1" in found["mlp_step-90-fused.txt"]
    assert "kernel " in found["mlp_step-91-loops.txt"] and "lanes" in found["mlp_step-91-loops.txt"]
    assert "define void @step(" in found["mlp_step-92-step.ll"]
    graphs = [name for name in found if name.endswith(".graph")]
    assert len(graphs) >= 5 and all("mlp_step" in found[name] for name in graphs)


def test_debug_levels_print_more_and_more(capsys: pytest.CaptureFixture[str]) -> None:
    marks = {
        1: r"graphopt: mlp_step: compiled in",
        2: "group ",
        3: "passes of mlp_step:",
        4: "after simplify:",
        5: "kernel dot_general",
        6: "define void @step(",
    }
    for level in range(7):
        cached(mlp_step(), "off", debug=level)
        out, err = capsys.readouterr()
        assert out == ""
        for needed, mark in marks.items():
            assert (mark in err) == (level >= needed), f"level {level}: {mark!r}"


def test_stages_are_texts_of_one_graph() -> None:
    found = stages(mlp_step())
    assert list(found) == ["graph", "fused", "loops", "llvm", "asm"]
    assert found["graph"].startswith("graph mlp_step(") and "step" in found["asm"] and all(found.values())


# the program of a step


def test_a_training_step_is_one_native_function() -> None:
    """One entry in the object code; its plan survives the way to disk; reports name kernels, lines and sizes."""
    graph = mlp_step()
    program = compile_program(graph, engine.host())
    assert program.entry == "step" and engine.load(program.code, "step", {"graphopt_barrier": 1}).address
    parts: list[str] = []
    parts.append(module_text(lower_graph(optimize(graph), machine_of(engine.host())), engine.host(), parts.append))
    defined = re.findall(r"^define (.*) @(\w+)\(", "\n".join(parts), re.MULTILINE)
    assert len(parts) > 1 and len({name for _, name in defined}) == len(defined)
    assert [name for linkage, name in defined if linkage != "hidden void"] == ["step"]
    assert from_bytes(to_bytes(program)) == program
    kinds = [b.kind for b in program.buffers]
    assert kinds.count("input") == 2 and kinds.count("state") == 8 and kinds.count("output") == 1
    assert [b.name for b in program.buffers if b.kind == "state"] == [s.attrs["name"] for s in graph.state]
    dense = [c for c in program.calls if c.kernel.startswith("dot_general")]
    assert len(dense) >= 5 and all(c.flops > 0 and c.bytes > 0 for c in dense)
    assert any(c.where.startswith("steps.py:") for c in program.calls)
    assert called(engine.assembly(step_text(graph, engine.host()))) <= ALLOWED


def test_memory_is_taken_once_and_every_step_starts_from_garbage() -> None:
    """The arena stays where it is over steps, and nothing in it is read before the step itself has written it."""
    graph = mlp_step()
    inputs, states = arguments(graph)
    executable = compiled(graph).executable
    assert executable is not None and executable.program.arena_bytes > 0
    quiet = [s.copy() for s in states]
    expected = [executable.run(inputs, quiet)[0].tobytes() for _ in range(5)]
    bound = executable._bound
    assert bound is not None
    arena = bound.memory[0]
    places = set()
    for k in range(5):
        ctypes.memset(arena.address, (0xA5, 0xFF, 0x00, 0x7F, 0xC1)[k], executable.program.arena_bytes)
        assert executable.run(inputs, states)[0].tobytes() == expected[k], f"step {k} read what lay in the arena"
        assert executable._bound is not None
        places.add(executable._bound.memory[0].address)
    assert places == {arena.address}
    assert [s.tobytes() for s in states] == [q.tobytes() for q in quiet]


def test_a_step_makes_no_python_objects_but_its_outputs() -> None:
    """The number of memory blocks after many steps is that after few: nothing is kept from step to step."""
    graph = mlp_step()
    inputs, states = arguments(graph)
    executable = compiled(graph)

    def blocks(steps: int) -> int:
        for _ in range(steps):
            executable.run(inputs, states)
        return sys.getallocatedblocks()

    blocks(5)
    assert blocks(200) - blocks(2) < 20


def test_compiling_does_not_change_the_graph() -> None:
    graph = mlp_step()
    before = print_graph(graph)
    for backend in ("numpy", "loops", "llvm"):
        assert compiled(graph, backend).graph is graph
    assert print_graph(graph) == before


# numbers without a full mantissa


def faded(update: bool) -> Graph:
    """x / 2, of as many elements as a team shares; with `update`, of state."""
    x = state("x", 1 << 18) if update else leaf("x", 1 << 18)
    half = mul(x, broadcast(constant(0.5, f32), shape=(1 << 18,), axes=()))
    return Graph("faded", () if update else (x,), (x,) if update else (), (half,), ((x, half),) if update else ())


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64", "aarch64", "arm64"), reason="no known switch")
@pytest.mark.parametrize("threads", [1, 2])
def test_denormals_are_flushed_where_state_is_updated(threads: int) -> None:
    tiny = np.full(1 << 18, 1.5e-38, np.float32)
    half = (tiny.astype(np.float64) / 2).astype(np.float32)
    assert 0 < half[0] < np.finfo(np.float32).tiny

    def halved(update: bool, wish: str) -> np.ndarray:
        made = compiled(faded(update), threads=threads, denormals=wish)
        return run(made, *([], [tiny]) if update else ([tiny], []))[0]

    for update, wish, flushed in [
        (True, "auto", True), (False, "auto", False), (False, "flush", True), (True, "keep", False), (False, "keep", False),
    ]:  # fmt: skip
        assert np.array_equal(halved(update, wish), np.zeros_like(half) if flushed else half), (update, wish)


def test_an_unknown_wish_for_denormals_is_refused() -> None:
    with pytest.raises(ValueError, match="GRAPHOPT_DENORMALS: expected auto, flush or keep, found 'never'"):
        config.Config(denormals="never")
