"""`graphopt check`: a network through every stage, each compared with the one before; what differs is made small."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import typer

from graphopt import Tensor, config
from graphopt import compile as compiler
from graphopt.errors import CompileError, VerifyError
from graphopt.ir.graph import Graph, Node, walk
from graphopt.ir.text import print_graph
from graphopt.kernel.machine import Machine
from graphopt.kernel.step import lower_graph
from graphopt.llvm.target import machine_of
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.passes import pipeline
from graphopt.passes.rewrite import Steps
from graphopt_runtime import engine
from graphopt_tools.reduce import reduce_graph
from graphopt_tools.show import compiled_function
from graphopt_tools.targets import parse_type, resolve

Arrays = list[np.ndarray]
Leaves = Mapping[Node, np.ndarray]
_OURS = (VerifyError, CompileError)


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


def run_check(target: str, types: Sequence[str]) -> None:
    """The command `graphopt check`; exits with 1 when two stages disagree.

    Errors: Mistake when the object cannot be found or called; GraphError when it cannot be traced.
    """
    function, inputs = resolve(target, types)
    if types:
        rng = np.random.default_rng(0)
        inputs = [Tensor(pipeline.random_array(parse_type(t), rng)) for t in types]
    graph, leaves = traced(function, inputs)
    count = len(walk(graph.roots))
    typer.echo(f"{graph.name}: {count} nodes, {len(graph.outputs)} outputs, {len(graph.updates)} updates of state")
    fault = check_graph(graph, leaves, typer.echo)
    if fault is None:
        typer.echo("all stages agree")
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


def check_graph(graph: Graph, leaves: Leaves, say: Callable[[str], object]) -> Fault | None:
    """Run every stage of a graph and say how it went; the first disagreement, made small, or None."""
    expected = evaluate_nodes(graph.roots, leaves)
    say(_line("traced, by the ops' meaning", ""))
    for step in pipeline.PASSES:
        before = graph
        problem, after, expected = _pass_problem(step, before, leaves, Steps(), expected)
        say(_line(f"pass {step.name}", problem or f"{len(walk(after.roots)) if after else 0} nodes"))
        if problem is not None or after is None:
            return _pass_fault(step, before, leaves, problem or "no graph")
        graph = after
    machine = machine_of(engine.host())
    for name, run in (("loop interpreter", _loops(machine)), ("LLVM", _llvm)):
        problem = _differences(run, graph, leaves, expected)
        say(_line(name, problem or ""))
        if problem is not None:
            return _backend_fault(name, run, graph, leaves, problem)
    return None


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


def _line(stage: str, note: str) -> str:
    return f"  {stage:<28} {note or 'ok'}"


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


def _pass_problem(
    step: pipeline.Pass, graph: Graph, leaves: Leaves, steps: Steps, values: Arrays | None = None
) -> tuple[str | None, Graph | None, Arrays]:
    """What a pass does wrong to a graph, the graph it makes of it, and the values of that graph's roots.

    values: those of the graph's roots, where they are known.
    """
    expected = evaluate_nodes(graph.roots, leaves) if values is None else values
    try:
        after = pipeline.run_pass(step, graph, steps)
        pipeline.check(after)
    except _OURS as error:
        return f"{type(error).__name__}: {error}", None, expected
    if after is graph:
        return None, after, expected
    whole = pipeline.with_updates_of(graph, after)
    found = evaluate_nodes(whole.roots, leaves)
    k = pipeline.changed_root(graph, whole, leaves, expected, found)
    updated = {s for s, _ in after.updates}
    kept = [True] * len(graph.outputs) + [s in updated for s, _ in graph.updates]
    return None if k is None else _apart(k, expected, found), after, [a for a, keep in zip(found, kept, strict=True) if keep]


def _pass_fault(step: pipeline.Pass, graph: Graph, leaves: Leaves, problem: str) -> Fault:
    def fails(some: Graph, values: Leaves) -> bool:
        return _pass_problem(step, some, values, Steps())[0] is not None

    small, values = reduce_graph(graph, leaves, fails)
    counted = Steps()
    _pass_problem(step, small, values, counted)
    low, high = 0, counted.count
    while low + 1 < high:
        middle = (low + high) // 2
        if _pass_problem(step, small, values, Steps(middle))[0] is None:
            low = middle
        else:
            high = middle
    blame = f"by its rewrite {counted.names[high - 1]}" if 0 < high <= len(counted.names) else ""
    _, after, _ = _pass_problem(step, small, values, Steps())
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
        return _results(graph, compiler.run_loops(lower_graph(graph, machine), inputs, state), state)

    return run


def _llvm(graph: Graph, leaves: Leaves) -> Arrays:
    inputs, state = _bound(graph, leaves)
    with config.override(backend="llvm", cache="off"):
        outputs = compiler.compile_graph(graph).run(inputs, state)
    return _results(graph, outputs, state)


def _differences(run: Run, graph: Graph, leaves: Leaves, expected: Arrays) -> str | None:
    try:
        found = run(graph, leaves)
        return next((_apart(k, expected, found) for k in _wrong(graph, leaves, expected, found)), None)
    except Exception as error:  # whatever a broken lowering raises is the fault that is looked for
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _wrong(graph: Graph, leaves: Leaves, expected: Arrays, found: Arrays) -> Iterator[int]:
    """The roots whose values are off by more than the rounding that the ops' meaning has as well."""
    for k, (a, b) in enumerate(zip(expected, found, strict=True)):
        if not pipeline.close(a, b):
            exact = pipeline.in_float64([graph.roots[k]], leaves)
            if exact is None or not pipeline.as_near(exact[0], a, b):
                yield k


def _backend_fault(name: str, run: Run, graph: Graph, leaves: Leaves, problem: str) -> Fault:
    raised = not problem.startswith("result ")

    def fails(some: Graph, values: Leaves) -> bool:
        found = _differences(run, some, values, evaluate_nodes(some.roots, values))
        return found is not None and found.startswith("result ") is not raised

    small, values = reduce_graph(graph, leaves, fails)
    expected = evaluate_nodes(small.roots, values)
    found = None if raised else run(small, values)
    return Fault(f"{name} disagrees with the ops' meaning: {problem}", "", small, values, found, expected)
