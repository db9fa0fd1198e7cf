"""`graphopt check`: a network through every stage, each compared with the one before; what differs is made small."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import typer

from graphopt import Tensor, config
from graphopt import compile as compiler
from graphopt.errors import CompileError, VerifyError
from graphopt.ir.graph import Graph, Node, walk
from graphopt.ir.text import print_graph
from graphopt.kernel.machine import Machine
from graphopt.kernel.step import Step
from graphopt.kernel.wide import run_wide
from graphopt.llvm.target import machine_of
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.passes import pipeline
from graphopt.passes.rewrite import Steps
from graphopt_runtime import engine
from graphopt_tools.kernel_check import Comparison, Mismatch, compare_kernels, seconds_of
from graphopt_tools.reduce import graph_of_nodes, reduce_graph
from graphopt_tools.show import compiled_function
from graphopt_tools.targets import parse_type, resolve

Arrays = list[np.ndarray]
Leaves = Mapping[Node, np.ndarray]
_OURS = (VerifyError, CompileError)

INTERPRETED = 30.0
"""Seconds that the loop interpreter may take, by estimate; of a step that needs more, it runs a sample."""


@dataclass(frozen=True)
class Fault:
    """Two stages that disagree.

    what:   the later stage, and how it differs. blame: the rewrite that did it, for a pass.
    graph:  the smallest graph that shows it. inputs: values of its inputs. found, expected: its outputs.
    """

    what: str
    blame: str
    graph: Graph
    inputs: Leaves
    found: Arrays | None
    expected: Arrays


def run_check(target: str, types: Sequence[str], whole: bool = False) -> None:
    """The command `graphopt check`; exits with 1 when two stages disagree.

    whole:  the loop interpreter runs everything, however long that takes.
    Errors: Mistake when the object cannot be found or called; GraphError when it cannot be traced.
    """
    function, inputs = resolve(target, types)
    if types:
        rng = np.random.default_rng(0)
        inputs = [Tensor(pipeline.random_array(parse_type(t), rng)) for t in types]
    graph, leaves = traced(function, inputs)
    count = len(walk(graph.roots))
    typer.echo(f"{graph.name}: {count} nodes, {len(graph.outputs)} outputs, {len(graph.updates)} updates of state")
    report = Report(typer.echo)
    fault = check_graph(graph, leaves, report, float("inf") if whole else INTERPRETED)
    if fault is None:
        sampled = "; the loop interpreter ran a sample (--whole: everything)" if report.sampled else ""
        typer.echo(f"all stages agree{sampled}")
        return
    typer.echo("\n" + describe(fault))
    raise typer.Exit(1)


def traced(function: Callable[..., Any], inputs: Sequence[Any]) -> tuple[Graph, dict[Node, np.ndarray]]:
    """The traced graph of a Cell or function, and the values of its leaves."""
    with config.override(backend="numpy"):
        entry, arrays = compiled_function(function).entry(tuple(inputs), {})
    state = entry.state()
    leaves = dict(zip(entry.graph.inputs, arrays, strict=True))
    leaves |= {leaf: state[id(p)] for leaf, p in zip(entry.graph.state, entry.parameters, strict=True)}
    return entry.graph, leaves


class Report:
    """Says of each stage what was compared, and how long that took. sampled: whether a stage was not run whole."""

    def __init__(self, say: Callable[[str], object]):
        self.sampled = False
        self._say = say
        self._last = perf_counter()

    def stage(self, name: str, note: str) -> None:
        now = perf_counter()
        self._say(f"  {name:<28} {now - self._last:6.1f} s  {note}")
        self._last = now


def check_graph(graph: Graph, leaves: Leaves, report: Report, seconds: float = INTERPRETED) -> Fault | None:
    """Run every stage of a graph and say how it went; the first disagreement, made small, or None.

    seconds: how long the loop interpreter may take, by estimate. It runs the whole step by itself when it can; else
             the native kernels run one by one, and it computes a sample of their iterations from the same inputs.
    """
    expected = evaluate_nodes(graph.roots, leaves)
    truth = pipeline.Truth(leaves)
    report.stage("traced, by the ops' meaning", f"{len(expected)} results")
    for step in pipeline.PASSES:
        before = graph
        found = _pass_result(step, before, truth, Steps(), expected)
        report.stage(f"pass {step.name}", found.problem or found.note(before))
        if found.problem is not None or found.graph is None:
            return _pass_fault(step, before, leaves, found.problem or "no graph")
        graph, expected = found.graph, found.values
    target = engine.host()
    lowered = _lowered(graph, target)
    sampled = isinstance(lowered, Step) and seconds_of(lowered) > seconds
    report.sampled = sampled
    alone: Arrays | None = None
    if sampled:
        assert isinstance(lowered, Step)
        compared, alone = _kernel_by_kernel(lowered, graph, leaves, target, seconds)
        report.stage("loop interpreter, sampled", f"beside LLVM's kernels: {compared}")
        if compared.mismatch is not None:
            return _kernel_fault(compared.mismatch, graph, leaves)
    else:
        run = _loops(machine_of(target))
        problem = _differences(run, graph, truth, expected)
        report.stage("loop interpreter", problem or _as_meant(expected))
        if problem is not None:
            return _backend_fault("loop interpreter", run, graph, leaves, problem)
    return _check_native(graph, truth, expected, alone, seconds, report)


def _check_native(
    graph: Graph, truth: pipeline.Truth, expected: Arrays, alone: Arrays | None, seconds: float, report: Report
) -> Fault | None:
    """The whole step by LLVM. alone: what its kernels gave that were run one by one, beside a sample of the interpreter's."""
    kept: list[Arrays] = []

    def run(some: Graph, values: Leaves) -> Arrays:
        kept.append(_llvm(some, values))
        return kept[-1]

    problem = _differences(run, graph, truth, expected)
    if problem is not None:
        report.stage("LLVM", problem)
        fault = _backend_fault("LLVM", _llvm, graph, truth.leaves, problem)
        return fault if alone is None else _with_the_interpreter(fault, seconds)
    note = _as_meant(expected)
    if alone is None:
        report.stage("LLVM", note)
        return None
    other = _other_bits(alone, kept[0])
    report.stage("LLVM", f"{note}, with the bits of its kernels one by one" if other is None else f"{_TOGETHER}: {other}")
    return None if other is None else _together_fault(graph, truth.leaves, other)


_TOGETHER = "the step gives other bits than its kernels one by one"


def _with_the_interpreter(fault: Fault, seconds: float) -> Fault:
    """A fault of LLVM's found before the interpreter has run it all: one of the loops, if the interpreter has it as well."""
    target = engine.host()
    step = _lowered(fault.graph, target)
    if step is None or seconds_of(step) > seconds:
        return fault
    problem = _differences(_loops(machine_of(target)), fault.graph, pipeline.Truth(fault.inputs), fault.expected)
    if problem is None:
        return fault
    return replace(fault, what=fault.what.replace("LLVM disagrees", "loop interpreter and LLVM disagree"))


def describe(fault: Fault) -> str:
    """The fault as text: who is to blame, the smallest graph, its inputs, what comes out and what should."""
    lines = [fault.what, *([f"  {fault.blame}"] if fault.blame else []), "", "the smallest graph that shows it:"]
    lines.append(print_graph(fault.graph).rstrip())
    lines += [f"  {leaf.attrs['name']} = {_short(value)}" for leaf, value in fault.inputs.items()]
    for k, value in enumerate(fault.expected):
        found = "nothing" if fault.found is None else _short(fault.found[k])
        lines.append(f"output {k}: expected {_short(value)}")
        lines.append(f"          found    {found}")
    return "\n".join(lines)


def _as_meant(expected: Arrays) -> str:
    return f"{len(expected)} results as the ops mean them"


def _short(value: np.ndarray) -> str:
    """An array in a line: its values when they are few, else their range."""
    if value.size <= 12:
        return np.array2string(value, separator=", ", precision=8).replace("\n", " ")
    numbers = value.astype(np.float64)
    return f"{value.dtype}{list(value.shape)} from {np.nanmin(numbers):.6g} to {np.nanmax(numbers):.6g}"


def _apart(k: int, expected: Arrays, found: Arrays) -> str:
    with np.errstate(all="ignore"):
        apart = np.max(np.abs(expected[k].astype(np.float64) - found[k].astype(np.float64)), initial=0.0)
    return f"result {k} differs by up to {apart:.3g}"


# passes


@dataclass(frozen=True)
class _Passed:
    """What a pass made of a graph: what is wrong with it, and the values of the new graph's roots.

    exactly: how many of the roots had to be compared in float64.
    """

    problem: str | None
    graph: Graph | None
    values: Arrays
    exactly: int = 0

    def note(self, before: Graph) -> str:
        assert self.graph is not None
        count = f"{len(walk(self.graph.roots))} nodes"
        if self.graph is before:
            return f"{count}, unchanged"
        return f"{count}, {len(self.values)} results equal" + (f", {self.exactly} of them in float64" if self.exactly else "")


def _pass_result(step: pipeline.Pass, graph: Graph, truth: pipeline.Truth, steps: Steps, values: Arrays | None = None) -> _Passed:
    """What a pass does to a graph. values: those of the graph's roots, where they are known."""
    expected = evaluate_nodes(graph.roots, truth.leaves) if values is None else values
    try:
        after = pipeline.run_pass(step, graph, steps)
        pipeline.check(after)
    except _OURS as error:
        return _Passed(f"{type(error).__name__}: {error}", None, expected)
    if after is graph:
        return _Passed(None, after, expected)
    whole = pipeline.with_updates_of(graph, after)
    found = evaluate_nodes(whole.roots, truth.leaves)
    k = pipeline.changed_root(graph, whole, truth, expected, found)
    updated = {s for s, _ in after.updates}
    kept = [True] * len(graph.outputs) + [s in updated for s, _ in graph.updates]
    problem = None if k is None else _apart(k, expected, found)
    left = [a for a, keep in zip(found, kept, strict=True) if keep]
    return _Passed(problem, after, left, len(pipeline.apart(expected, found)))


def _pass_fault(step: pipeline.Pass, graph: Graph, leaves: Leaves, problem: str) -> Fault:
    def fails(some: Graph, values: Leaves) -> bool:
        return _pass_result(step, some, pipeline.Truth(values), Steps()).problem is not None

    small, values = reduce_graph(graph, leaves, fails)
    truth = pipeline.Truth(values)
    counted = Steps()
    _pass_result(step, small, truth, counted)
    low, high = 0, counted.count
    while low + 1 < high:
        middle = (low + high) // 2
        if _pass_result(step, small, truth, Steps(middle)).problem is None:
            low = middle
        else:
            high = middle
    blame = f"by its rewrite {counted.names[high - 1]}" if 0 < high <= len(counted.names) else ""
    after = _pass_result(step, small, truth, Steps()).graph
    found = None if after is None else evaluate_nodes(after.outputs, values)
    expected = evaluate_nodes(small.outputs, values)
    return Fault(f"pass {step.name} changes the meaning: {problem}", blame, small, values, found, expected)


# backends


Run = Callable[[Graph, Leaves], Arrays]


def _bound(graph: Graph, leaves: Leaves) -> tuple[Arrays, Arrays]:
    """Fresh arrays for the inputs and the state."""
    return [leaves[n].copy() for n in graph.inputs], [leaves[n].copy() for n in graph.state]


def _results(graph: Graph, outputs: Arrays, state: Arrays) -> Arrays:
    by_leaf = dict(zip(graph.state, state, strict=True))
    return [*outputs, *(by_leaf[leaf] for leaf, _ in graph.updates)]


def _loops(machine: Machine) -> Run:
    def run(graph: Graph, leaves: Leaves) -> Arrays:
        inputs, state = _bound(graph, leaves)
        return _results(graph, compiler.run_loops(_step(graph, machine), inputs, state, run_wide), state)

    return run


def _llvm(graph: Graph, leaves: Leaves) -> Arrays:
    inputs, state = _bound(graph, leaves)
    with config.override(backend="llvm", cache="off", skip=_all_passes()):
        outputs = compiler.compile_graph(graph).run(inputs, state)
    return _results(graph, outputs, state)


def _step(graph: Graph, machine: Machine) -> Step:
    """The kernels of a graph that the passes have changed already."""
    with config.override(skip=_all_passes()):
        return compiler.planned_step(graph, machine)


def _all_passes() -> tuple[str, ...]:
    return tuple([p.name for p in pipeline.PASSES])


def _lowered(graph: Graph, target: engine.Target) -> Step | None:
    """The graph's kernels; None when lowering fails, which the stages that need them say."""
    try:
        return _step(graph, machine_of(target))
    except Exception:
        return None


def _differences(run: Run, graph: Graph, truth: pipeline.Truth, expected: Arrays) -> str | None:
    try:
        found = run(graph, truth.leaves)
        return next((_apart(k, expected, found) for k in _wrong(graph, truth, expected, found)), None)
    except Exception as error:  # whatever a broken lowering raises is the fault that is looked for
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _wrong(graph: Graph, truth: pipeline.Truth, expected: Arrays, found: Arrays) -> Iterator[int]:
    """The roots whose values are off by more than the rounding that the ops' meaning has as well."""
    return (k for k in pipeline.apart(expected, found) if not pipeline.explained(graph, k, truth, expected[k], found[k]))


def _backend_fault(name: str, run: Run, graph: Graph, leaves: Leaves, problem: str) -> Fault:
    raised = not problem.startswith("result ")

    def fails(some: Graph, values: Leaves) -> bool:
        found = _differences(run, some, pipeline.Truth(values), evaluate_nodes(some.roots, values))
        return found is not None and found.startswith("result ") is not raised

    small, values = reduce_graph(graph, leaves, fails)
    expected = evaluate_nodes(small.roots, values)
    found = None if raised else run(small, values)
    return Fault(f"{name} disagrees with the ops' meaning: {problem}", "", small, values, found, expected)


# kernel by kernel


def _kernel_by_kernel(
    step: Step, graph: Graph, leaves: Leaves, target: engine.Target, seconds: float
) -> tuple[Comparison, Arrays]:
    """What comparing the kernels gave, and the results of the step that they computed on the way."""
    inputs, state = _bound(graph, leaves)
    compared = compare_kernels(step, target, inputs, state, seconds)
    return compared, _results(graph, compared.outputs, state)


def _one_by_one(graph: Graph, leaves: Leaves) -> Arrays:
    """A step's native kernels, each run alone."""
    inputs, state = _bound(graph, leaves)
    target = engine.host()
    step = _step(graph, machine_of(target))
    return _results(graph, compiler.run_loops(step, inputs, state, compiler.native_kernels(step, target)), state)


def _other_bits(alone: Arrays, found: Arrays) -> str | None:
    """The first result whose bits differ; None when all are the same."""
    other = (k for k, (a, b) in enumerate(zip(alone, found, strict=True)) if a.tobytes() != b.tobytes())
    return next((_apart(k, alone, found) for k in other), None)


def _together_fault(graph: Graph, leaves: Leaves, problem: str) -> Fault:
    def fails(some: Graph, values: Leaves) -> bool:
        return _other_bits(_one_by_one(some, values), _llvm(some, values)) is not None

    small, values = reduce_graph(graph, leaves, fails)
    return Fault(f"{_TOGETHER}: {problem}", "", small, values, _llvm(small, values), _one_by_one(small, values))


def _kernel_fault(mismatch: Mismatch, graph: Graph, leaves: Leaves) -> Fault:
    """A kernel's nodes by themselves: LLVM's fault if it does not give what they mean, else the interpreter's."""
    kernel = mismatch.kernel
    what = f"loop interpreter and LLVM disagree in kernel {kernel.name}: {mismatch.buffer} differs by up to {mismatch.apart:.3g}"
    nodes = [n for n in kernel.nodes if isinstance(n, Node)]
    if not nodes:
        return Fault(what, "", graph, leaves, None, [])
    small, values = graph_of_nodes(graph.name, nodes, leaves)
    truth, expected = pipeline.Truth(values), evaluate_nodes(small.roots, values)
    problem = _differences(_llvm, small, truth, expected)
    if problem is None:
        return Fault(f"{what}; LLVM gives what the ops mean", "", small, values, None, expected)
    fault = _backend_fault("LLVM", _llvm, small, values, problem)
    return replace(fault, what=f"{what}; {fault.what}")
