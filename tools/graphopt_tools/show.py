"""`graphopt show`: the stages between a network and machine code, and a summary of the native function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import typer

from graphopt import compile as compiler
from graphopt import config, nn, ops
from graphopt.common.compiled import CompiledFunction
from graphopt.common.signature import parameters_of
from graphopt.ir.graph import Graph
from graphopt_runtime.program import Call, Program
from graphopt_tools.report import megabytes
from graphopt_tools.targets import resolve

_OURS = ("show.py", "profile.py")  # the files of the tools that trace


def run_show(target: str, stage: str | None, types: Sequence[str]) -> None:
    """The command `graphopt show`.

    Errors: Mistake when the object cannot be found or called; GraphError when it cannot be traced.
    """
    function, inputs = resolve(target, types)
    if stage is None:
        compiled = compiler.compile_graph(graph_of(function, inputs))
        if compiled.program is None:
            typer.echo(f"{compiled.graph.name}: no native code, the backend is another (GRAPHOPT_BACKEND)")
        else:
            print_summary(compiled.program, compiled.graph)
    elif stage == "grad":
        typer.echo(compiler.stages(graph_of(gradient_of(function), inputs))["graph"])
    else:
        typer.echo(compiler.stages(graph_of(function, inputs))[stage])


def graph_of(function: Callable[..., Any], inputs: Sequence[Any]) -> Graph:
    """The traced graph of a Cell or function; nothing is optimized or compiled on the way."""
    with config.override(backend="numpy"):
        return compiled_function(function).graph(tuple(inputs), {})


def compiled_function(function: Callable[..., Any]) -> CompiledFunction:
    """A Cell or function as something that is compiled per signature."""
    if isinstance(function, nn.Cell):
        return function.compile_cache
    name = getattr(function, "__name__", type(function).__name__)
    return CompiledFunction(name, function, parameters_of(function))


def gradient_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that gives the gradients: for the trainable parameters of a Cell, for the inputs where there are none.

    Of a training step, the gradients of the network that it trains.
    """
    network = function.network if isinstance(function, nn.TrainOneStepCell) else function
    weights = list(network.trainable_params()) if isinstance(network, nn.Cell) else []
    gradient: Callable[..., Any]
    if weights:
        gradient = ops.GradOperation(get_by_list=True)(network, weights)
    else:
        gradient = ops.GradOperation(get_all=True)(network)
    return gradient


def print_summary(program: Program, graph: Graph) -> None:
    """What the native function consists of."""
    state = sum(spec.nbytes for spec in program.buffers if spec.kind == "state")
    barriers = sum(call.barrier for call in program.calls)
    typer.echo(f"{program.name}: 1 native function with {len(program.calls)} kernels and {barriers} barriers")
    typer.echo(f"arena {program.arena_bytes} bytes, state {megabytes(state)}, code {megabytes(len(program.code))}")
    typer.echo(f"{len(graph.updates)} of {len(graph.state)} states are updated in place")
    width = max((len(call.kernel) for call in program.calls), default=0)
    typer.echo(f"\n{'kernel':{width}}  {'extent':>7}  {'kflop':>9}  {'kB':>8}  chunks  barrier  from")
    for call in program.calls:
        barrier = "before" if call.barrier else ""
        chunks = call.chunks if call.chunks > 1 else ""
        numbers = f"{call.extent:7}  {call.flops / 1e3:9,.0f}  {call.bytes / 1e3:8,.0f}  {chunks:6}"
        typer.echo(f"{call.kernel:{width}}  {numbers}  {barrier:7}  {origin(call)}".rstrip())


def origin(call: Call) -> str:
    """The Cell and the user's line that a kernel comes from; what graphopt adds by itself has no line."""
    ours = call.where.partition(":")[0] in _OURS
    return " ".join(part for part in (call.cell, "" if ours else call.where) if part)
