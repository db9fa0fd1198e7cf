"""Graph -> Program -> something that runs: the whole route, named in order."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache as memoize
from pathlib import Path
from time import perf_counter

import numpy as np
from platformdirs import user_cache_dir

from graphopt import config
from graphopt.collector import resting_collector
from graphopt.ir.graph import Graph, Node, walk
from graphopt.ir.text import print_graph
from graphopt.kernel.items import Choose, Item, Repeat, show_items
from graphopt.kernel.loops import Buffer, Kernel, own_places, reads_and_writes, show
from graphopt.kernel.machine import Machine
from graphopt.kernel.run import run as interpret
from graphopt.kernel.step import Step, constant_bytes, lower_graph
from graphopt.llvm.step import emit_kernels, emit_step
from graphopt.llvm.target import machine_of
from graphopt.opdefs.evaluate import evaluate
from graphopt.passes.fuse import show_groups
from graphopt.passes.pipeline import check, optimize
from graphopt.passes.remat import fit, recompute_cells
from graphopt_runtime import engine
from graphopt_runtime.cache import Cache, key_of
from graphopt_runtime.engine import Target
from graphopt_runtime.executor import Executable
from graphopt_runtime.profile import Profile, profile
from graphopt_runtime.program import BufferSpec, Call, Program, from_bytes, time_words, to_bytes
from graphopt_runtime.threads import use_cache

ENTRY = "step"

Memory = Mapping[Buffer, np.ndarray]
"""The flat arrays of buffers."""

RunKernel = Callable[[Kernel, Memory], object]
"""Runs a kernel in place."""


@dataclass(frozen=True, eq=False)
class Compiled:
    """A graph ready to run.

    graph:   as it was given. seconds: what compiling took. cached: the code came from the disk cache.
    program: the native code and its plan; None for the other backends.
    """

    graph: Graph
    seconds: float
    cached: bool
    executable: Executable | None
    step: Step | None = None
    target: Target | None = None

    @property
    def program(self) -> Program | None:
        return self.executable.program if self.executable is not None else None

    @property
    def arena_bytes(self) -> int:
        """Bytes of temporaries, planned before the first step."""
        if self.executable is not None:
            return self.executable.program.arena_bytes
        return self.step.plan.arena_bytes if self.step is not None else 0

    def run(self, inputs: Sequence[np.ndarray], state: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Outputs, which nobody else has; the arrays of `state` are updated in place.

        Arrays are C-contiguous and of exactly the graph's dtypes and shapes.
        """
        if self.executable is not None:
            return self.executable.run(inputs, state)
        if self.step is not None:
            return run_loops(self.step, inputs, state)
        return evaluate(self.graph, inputs, state)

    def profile(self, inputs: Sequence[np.ndarray], state: Sequence[np.ndarray], seconds: float = 1.0) -> Profile:
        """Where a step's time goes, kernel by kernel, measured for about `seconds` on copies of the arrays of `state`.

        The kernels are compiled once more, with clocks between them. Arrays are as for `run`.
        Errors: ValueError for a backend other than llvm, which has no kernels to time.
        """
        if self.executable is None:
            raise ValueError(f"{self.graph.name}: only native code has a profile, the backend is another (GRAPHOPT_BACKEND)")
        program = compile_program(self.graph, self.target or engine.host(), timed=True)
        timed = Executable(program, threads=self.executable.width)
        return profile(timed, self.executable, inputs, state, seconds)


@memoize
def disk_cache(folder: str) -> Cache:
    """The disk cache in a folder; "" is the user's cache folder, "off" none at all."""
    return Cache(None if folder == "off" else folder or user_cache_dir("graphopt", appauthor=False))


@resting_collector()
def compile_graph(graph: Graph, target: Target | None = None) -> Compiled:
    """Compile a graph for this machine (or another target), by the backend that the switches name.

    Errors: VerifyError, CompileError when graphopt itself is at fault; ValueError for a memory budget that is less than
            the least possible. The graph is never changed.
    """
    start = perf_counter()
    switches = config.current()
    if switches.backend == "numpy":
        return Compiled(graph, perf_counter() - start, False, None)
    if switches.backend == "loops":
        step = planned_step(graph, machine_of(target or engine.host()))
        return Compiled(graph, perf_counter() - start, False, None, step)
    chosen = target or engine.host()
    store = disk_cache(switches.cache)
    use_cache(store)
    key = key_of(
        compiler_key(), print_graph(graph, where=bool(graph.memory.cells)), repr(graph.memory), chosen.triple, chosen.cpu,
        chosen.features, engine.version(), ",".join(switches.skip), str(switches.limit), switches.denormals,
    )  # fmt: skip
    program = _from_disk(store, key)
    cached = program is not None
    if program is None:
        program = compile_program(graph, chosen)
        store.put(key, to_bytes(program))
    executable = Executable(program, threads=switches.threads or None, verify=switches.verify > 0, flexible=True)
    seconds = perf_counter() - start
    if switches.debug >= 1:
        origin = "disk cache" if cached else "compiled"
        print(
            f"graphopt: {graph.name}: {origin} in {seconds * 1e3:.0f} ms, {len(program.calls)} kernels, "
            f"{sum(c.barrier for c in program.calls)} barriers, arena {program.arena_bytes} bytes",
            file=sys.stderr,
        )
    return Compiled(graph, seconds, cached, executable, target=chosen)


@memoize
def compiler_key() -> str:
    """The compiler's own sources, as part of every cache key: another compiler never meets this one's code."""
    folder = Path(__file__).parent
    files = [Path(__file__), Path(engine.__file__)]
    for part in ("ir", "opdefs", "passes", "kernel", "llvm"):
        files += sorted((folder / part).glob("*.py"))
    return key_of(*(f.read_bytes() for f in files))


def _from_disk(store: Cache, key: str) -> Program | None:
    data = store.get(key)
    if data is None:
        return None
    try:
        return from_bytes(data)
    except ValueError:
        return None


def compile_program(graph: Graph, target: Target, timed: bool = False) -> Program:
    """Every stage from graph to object code; `timed` puts clocks between the kernels."""
    machine = machine_of(target)
    step = planned_step(graph, machine)
    _trace_stages(graph.name, step, target)
    own = max((own_places(k)[1] for k in step.kernels), default=0)
    with engine.Assembly(target) as modules:
        modules.add(module_text(step, target, modules.add, own if timed else -1))
        code = modules.code()
    return Program(
        name=graph.name,
        buffers=tuple(BufferSpec(b.name, n.dtype.name, n.shape, kind) for b, kind, n in step.args),
        constants=constant_bytes(step),
        aliases=(),
        calls=tuple(_call(step, k) for k in range(len(step.kernels))),
        arena_bytes=step.plan.arena_bytes,
        scratch_bytes=own + (8 * time_words(len(step.kernels)) if timed else 0),
        parallel=any(step.parallel),
        entry=ENTRY,
        code=code,
        times_at=own if timed else -1,
    )


def planned_step(graph: Graph, machine: Machine) -> Step:
    """All passes, then all kernels, in the memory that the graph asks for.

    Errors: ValueError when its budget is less than the least possible.
    """
    whole = optimize(graph)
    if graph.memory.cells:
        whole = recompute_cells(whole)

    def lower(changed: Graph) -> Step:
        if config.current().verify:
            check(changed)
        return lower_graph(changed, machine)

    return lower(whole) if graph.memory.budget is None else fit(whole, graph.memory.budget, lower)


def _call(step: Step, k: int) -> Call:
    kernel = step.kernels[k]
    reads, writes = reads_and_writes(kernel)
    moved = sum(b.size * b.dtype.itemsize for b in reads) + sum(b.size * b.dtype.itemsize for b in writes)
    where = next((n.where for n in kernel.nodes if n.where is not None), None)
    return Call(
        kernel=kernel.name,
        extent=kernel.extent if step.parallel[k] else 1,
        barrier=step.barriers[k],
        cell=where.cell if where else "",
        where=f"{Path(where.file).name}:{where.line}" if where else "",
        flops=kernel.flops,
        bytes=moved,
        chunks=step.chunks[k],
    )


def module_text(
    step: Step, target: Target, part: Callable[[str], None] | None = None, times_at: int = -1
) -> str:
    """The LLVM module of a step; with `part`, the last one, after `part` was given the others. times_at: see `emit_step`."""
    wish = config.current().denormals
    flush = bool(step.graph.updates) if wish == "auto" else wish == "flush"
    return emit_step(ENTRY, step, machine_of(target), target.triple, part, times_at, flush)


def _trace_stages(name: str, step: Step, target: Target) -> None:
    """Dumps and debug output of the stages after the passes."""
    switches = config.current()
    if not switches.dump and switches.debug < 2:
        return
    fused, loops = stage_texts(step)
    ir = module_text(step, target) if switches.dump or switches.debug >= 6 else ""
    if switches.dump:
        folder = Path(switches.dump)
        folder.mkdir(parents=True, exist_ok=True)
        for number, suffix, text in ((90, "fused.txt", fused), (91, "loops.txt", loops), (92, "step.ll", ir)):
            (folder / f"{name}-{number}-{suffix}").write_text(text)
    if switches.debug >= 2:
        print(fused, file=sys.stderr)
    if switches.debug >= 5:
        print(loops, file=sys.stderr)
    if switches.debug >= 6:
        print(ir, file=sys.stderr)


def stage_texts(step: Step) -> tuple[str, str]:
    """(fused groups, loop nests) as text; those of graphs inside the graph follow it."""
    fused, names = [], dict[Node, str]()
    for number, (graph, groups) in enumerate(step.graphs):
        inside = f"{number}." if number else ""
        names |= {n: f"%{inside}{k}" for k, n in enumerate(walk(graph.roots)) if n not in names}
        fused.append((f"inside, {graph.name} {number}:\n" if number else "") + show_groups(groups, names))
    kernels = [show(k) for k in step.kernels]
    if len(step.graphs) > 1:
        kernels.insert(0, "\n".join(["order:", *show_items(step.items, "  ")]))
    return "\n".join(fused), "\n\n".join(kernels)


def stages(graph: Graph, target: Target | None = None) -> dict[str, str]:
    """Every stage of a graph as text: graph, fused, loops, llvm, asm."""
    chosen = target or engine.host()
    step = planned_step(graph, machine_of(chosen))
    fused, loops = stage_texts(step)
    ir = module_text(step, chosen)
    return {"graph": print_graph(optimize(graph)), "fused": fused, "loops": loops, "llvm": ir, "asm": engine.assembly(ir, chosen)}


def native_kernels(step: Step, target: Target) -> RunKernel:
    """The kernels of a step as native code that runs each of them alone, on one thread."""
    with engine.Assembly(target) as modules:
        modules.add(emit_kernels(ENTRY, step.kernels, machine_of(target), target.triple, modules.add))
        loaded = engine.load(modules.code(), ENTRY)
    call = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(loaded.address)
    numbers = {kernel: k for k, kernel in enumerate(step.kernels)}

    def run(kernel: Kernel, memory: Memory, loaded: engine.Loaded = loaded) -> None:
        buffers = np.array([memory[b].ctypes.data for b in kernel.args], np.uint64)
        call(numbers[kernel], buffers.ctypes.data)

    return run


def run_loops(
    step: Step, inputs: Sequence[np.ndarray], state: Sequence[np.ndarray], run: RunKernel = interpret
) -> list[np.ndarray]:
    """Run a step's kernels one after the other, in the loop interpreter or by `run`, on one memory."""
    given = iter([*inputs, *state])
    memory: dict[Buffer, np.ndarray] = {}
    outputs: list[np.ndarray] = []
    for buffer, kind, node in step.args:
        if kind in ("input", "state"):
            memory[buffer] = next(given).reshape(-1)
        elif kind == "constant":
            memory[buffer] = np.ascontiguousarray(node.attrs["value"]).reshape(-1)
        else:
            outputs.append(np.empty(node.shape, node.dtype.numpy))
            memory[buffer] = outputs[-1].reshape(-1)
    arena = np.full(step.plan.arena_bytes + 64, 0xA5, np.uint8)
    for held, offset in step.plan.offsets.items():
        assert isinstance(held, Buffer)
        size = held.size * held.dtype.itemsize
        memory[held] = arena[offset : offset + size].view(held.dtype.numpy)
    _run_items(step.items, memory, run)
    return outputs


def _run_items(items: Sequence[Item], memory: dict[Buffer, np.ndarray], run: RunKernel) -> None:
    """Kernels with their branches and loops."""
    for item in items:
        if isinstance(item, Kernel):
            run(item, memory)
        elif isinstance(item, Choose):
            _run_items(item.then if memory[item.pred][0] else item.other, memory, run)
        else:
            _run_loop(item, memory, run)


def _run_loop(item: Repeat, memory: dict[Buffer, np.ndarray], run: RunKernel) -> None:
    most = item.length
    if item.trips is not None and most is not None:
        most = min(max(int(memory[item.trips][0]), 0), most)
    done = 0
    while most is None or done < most:
        if item.goes_on is not None:
            _run_items(item.test, memory, run)
            if not memory[item.goes_on][0]:
                break
        row = most - 1 - done if item.reverse and most is not None else done
        for w in item.windows:
            memory[w.row] = memory[w.base][row * w.row.size : (row + 1) * w.row.size]
        _run_items(item.body, memory, run)
        done += 1
    if item.count is not None:
        memory[item.count][0] = done
