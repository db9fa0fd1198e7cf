"""How fast this machine is: multiply-adds and memory traffic, measured with small loops run by graphopt's own thread team."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.llvm.target import machine_of
from graphopt_runtime.buffers import aligned_empty
from graphopt_runtime.engine import compile_ir, host
from graphopt_runtime.executor import Executable
from graphopt_runtime.program import BufferSpec, Call, Program

ACCUMULATORS = 10  # independent chains: enough to hide the latency of a multiply-add, few enough for 16 registers
ROUNDS = 2_000_000
SECONDS = 0.4  # of each probe
ARRAY_BYTES = 128 << 20  # larger than the caches that a few cores have to themselves
UNROLL = 4

_ENTRY = "define void @probe(i64 %thread, i64 %team, ptr %args, ptr %arena, ptr %scratch, ptr %barrier) nounwind {"


@dataclass(frozen=True, slots=True)
class Speeds:
    """Best of several runs on a number of threads: 10^9 operations and 10^9 bytes per second, of what `stream_ir` says."""

    threads: int
    gflops: float
    read: float
    copy: float
    triad: float
    update: float

    @property
    def bandwidth(self) -> float:
        """The most bytes per second (in 10^9) that any of them moved."""
        return max(self.read, self.copy, self.triad, self.update)


def measure(threads: int) -> Speeds:
    """Measure on that many threads.

    Cost: about three seconds and three arrays of ARRAY_BYTES.
    """
    machine = machine_of(host())
    lanes = machine.lanes(4)
    sink = aligned_empty((64 * threads,), np.dtype(np.float32))
    sink[:] = 1e-6
    seconds = _best(fma_ir(lanes, machine.fma), [sink], threads)
    flops = 2.0 * lanes * ACCUMULATORS * ROUNDS * threads
    arrays = [aligned_empty((ARRAY_BYTES // 4,), np.dtype(np.float32)) for _ in range(3)]
    for array in arrays:
        array[:] = 1.0
    traffic = [
        used * ARRAY_BYTES / _best(stream_ir(kind, lanes), [sink, *arrays], threads)
        for kind, used in (("read", 3), ("copy", 2), ("triad", 3), ("update", 5))
    ]
    return Speeds(threads, flops / seconds / 1e9, *(rate / 1e9 for rate in traffic))


def _best(ir: str, arrays: Sequence[np.ndarray], threads: int, runs: int = 6) -> float:
    """Seconds of the fastest of some runs of @probe on these arrays; the first run wakes the team.

    They go on for SECONDS at least: the system may begin with all threads on one processor.
    """
    buffers = tuple(BufferSpec(f"array{k}", "float32", array.shape, "state") for k, array in enumerate(arrays))
    call = Call("probe", threads, False, "", "", 0, 0)
    executable = Executable(Program("probe", buffers, (), (), (call,), 0, 0, True, "probe", compile_ir(ir)), threads)
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) <= runs or time.perf_counter() < end:
        start = time.perf_counter()
        executable.run([], arrays)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _done_ir(vector: str, chains: int) -> str:
    """The end of a probe: every %y counts into what is stored, so none can be left out; %s keeps its value."""
    sums = "\n".join(f"  %t{k + 1} = fadd {vector} %t{k}, %y{k}" for k in range(chains))
    return f"""done:
  %t0 = fadd {vector} %s, %s
{sums}
  %small = fmul {vector} %t{chains}, zeroinitializer
  %same = fadd {vector} %s, %small
  store {vector} %same, ptr %at, align 64
  ret void
}}"""


def fma_ir(lanes: int, fused: bool = True) -> str:
    """Independent chains x = x * s + s on full registers, each thread for itself; s is read, so nothing can be foreseen.

    fused: by one instruction; otherwise a multiplication and an addition.
    """
    vector = f"<{lanes} x float>"
    chains = range(ACCUMULATORS)
    phis = "\n".join(f"  %x{k} = phi {vector} [ %s, %entry ], [ %y{k}, %loop ]" for k in chains)
    if fused:
        call = f"call {vector} @llvm.fma.v{lanes}f32"
        steps = "\n".join(f"  %y{k} = {call}({vector} %x{k}, {vector} %s, {vector} %s)" for k in chains)
    else:
        steps = "\n".join(f"  %m{k} = fmul {vector} %x{k}, %s\n  %y{k} = fadd {vector} %m{k}, %s" for k in chains)
    return f"""
declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})
{_ENTRY}
entry:
  %sink = load ptr, ptr %args
  %offset = mul i64 %thread, 64
  %at = getelementptr float, ptr %sink, i64 %offset
  %s = load {vector}, ptr %at, align 64
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{phis}
{steps}
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, {ROUNDS}
  br i1 %more, label %loop, label %done
{_done_ir(vector, ACCUMULATORS)}
"""


def stream_ir(kind: str, lanes: int) -> str:
    """Each thread's share of: `read` the sum of a, b and c; `copy` c = a; `triad` c = a + s * b; `update` b = a + s * b and
    c = a + s * c, in place, as optimizers do.
    """
    vector = f"<{lanes} x float>"
    block = lanes * UNROLL
    steps = []
    reads = {"read": "abc", "copy": "a", "triad": "ab", "update": "abc"}[kind]
    writes = {"read": "", "copy": "c", "triad": "c", "update": "bc"}[kind]
    scaled = {"triad": {"c": "b"}, "update": {"b": "b", "c": "c"}}.get(kind, {})  # the factor of s in what is written
    for k in range(UNROLL):
        steps.append(f"  %p{k} = add i64 %i, {k * lanes}")
        for x in sorted({*reads, *writes}):
            steps.append(f"  %{x}{k}p = getelementptr float, ptr %{x}, i64 %p{k}")
        for x in reads:
            steps.append(f"  %{x}{k} = load {vector}, ptr %{x}{k}p, align 64")
        for x, y in scaled.items():
            steps.append(f"  %m{x}{k} = fmul {vector} %{y}{k}, %s")
            steps.append(f"  %v{x}{k} = fadd {vector} %a{k}, %m{x}{k}")
        for x in writes:
            steps.append(f"  store {vector} %{f'v{x}' if scaled else 'a'}{k}, ptr %{x}{k}p, align 64")
        if kind == "read":
            steps.append(f"  %ab{k} = fadd {vector} %a{k}, %b{k}")
            steps.append(f"  %abc{k} = fadd {vector} %ab{k}, %c{k}")
            steps.append(f"  %y{k} = fadd {vector} %x{k}, %abc{k}")
        else:
            steps.append(f"  %y{k} = fadd {vector} %x{k}, zeroinitializer")
    phis = "\n".join(f"  %x{k} = phi {vector} [ %s, %entry ], [ %y{k}, %loop ]" for k in range(UNROLL))
    body = "\n".join(steps)
    pointers = "\n".join(
        f"  %{name}at = getelementptr ptr, ptr %args, i64 {k}\n  %{name} = load ptr, ptr %{name}at"
        for k, name in enumerate(("sink", "a", "b", "c"))
    )
    return f"""
{_ENTRY}
entry:
{pointers}
  %offset = mul i64 %thread, 64
  %at = getelementptr float, ptr %sink, i64 %offset
  %s = load {vector}, ptr %at, align 64
  %share = udiv i64 {ARRAY_BYTES // 4 // block}, %team
  %size = mul i64 %share, {block}
  %first = mul i64 %size, %thread
  %last = add i64 %first, %size
  br label %loop
loop:
  %i = phi i64 [ %first, %entry ], [ %next, %loop ]
{phis}
{body}
  %next = add i64 %i, {block}
  %more = icmp ult i64 %next, %last
  br i1 %more, label %loop, label %done
{_done_ir(vector, UNROLL)}
"""
