"""The runtime alone: teams, barriers, forks, signals, widths, running programs, the engine."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import platform
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graphopt_runtime import engine, native
from graphopt_runtime.buffers import Arena, Results, address, aligned_copy, aligned_empty, dtype_of
from graphopt_runtime.executor import Executable
from graphopt_runtime.limits import width
from graphopt_runtime.program import BufferSpec, Call, Program, from_bytes, to_bytes

# Each round, every thread writes round * (thread + 1), waits, and adds what all threads wrote; then waits again.
# state[0] counts begun steps and state[1] ended ones; out[thread] is the thread's total.
ROUNDS_IR = """
declare void @graphopt_barrier(ptr)
define void @step(i64 %thread, i64 %team, ptr %args, ptr %arena, ptr %scratch, ptr %barrier) {
entry:
  %rounds_at = load ptr, ptr %args
  %rounds = load i64, ptr %rounds_at
  %a1 = getelementptr ptr, ptr %args, i64 1
  %state = load ptr, ptr %a1
  %state1 = getelementptr i64, ptr %state, i64 1
  %a2 = getelementptr ptr, ptr %args, i64 2
  %out = load ptr, ptr %a2
  %mine = getelementptr i64, ptr %arena, i64 %thread
  %factor = add i64 %thread, 1
  store i64 0, ptr %scratch
  %first = icmp eq i64 %thread, 0
  br i1 %first, label %begin, label %loop
begin:
  %s0 = load i64, ptr %state
  %s0n = add i64 %s0, 1
  store i64 %s0n, ptr %state
  br label %loop
loop:
  %r = phi i64 [ 0, %entry ], [ 0, %begin ], [ %rn, %after ]
  %more = icmp ult i64 %r, %rounds
  br i1 %more, label %write, label %end
write:
  %value = mul i64 %r, %factor
  store i64 %value, ptr %mine
  call void @graphopt_barrier(ptr %barrier)
  br label %sum
sum:
  %t = phi i64 [ 0, %write ], [ %tn, %sum ]
  %at = getelementptr i64, ptr %arena, i64 %t
  %x = load i64, ptr %at
  %acc = load i64, ptr %scratch
  %accn = add i64 %acc, %x
  store i64 %accn, ptr %scratch
  %tn = add i64 %t, 1
  %again = icmp ult i64 %tn, %team
  br i1 %again, label %sum, label %after
after:
  call void @graphopt_barrier(ptr %barrier)
  %rn = add i64 %r, 1
  br label %loop
end:
  %total = load i64, ptr %scratch
  %place = getelementptr i64, ptr %out, i64 %thread
  store i64 %total, ptr %place
  br i1 %first, label %finish, label %done
finish:
  %s1 = load i64, ptr %state1
  %s1n = add i64 %s1, 1
  store i64 %s1n, ptr %state1
  br label %done
done:
  ret void
}
"""


def rounds_program(parallel: bool = True) -> Program:
    buffers = (
        BufferSpec("rounds", "int64", (), "input"),
        BufferSpec("count", "int64", (2,), "state"),
        BufferSpec("totals", "int64", (8,), "output"),
    )
    calls = (Call("step", 8, False, "net.fc", "net.py:3", 8, 64),)
    return Program("rounds", buffers, (), (), calls, 64, 8, parallel, "step", engine.compile_ir(ROUNDS_IR))


@pytest.fixture(scope="module")
def program() -> Program:
    return rounds_program()


# Each round deals out 4 chunks per thread; who performs a chunk notes its own number there and counts it. Thread 0 rests
# after each of its chunks, so others take what is left of its share.
DEALT_IR = """
declare void @graphopt_barrier(ptr)
declare void @graphopt_deal(ptr)
declare i64 @graphopt_take(ptr, i64)
define void @step(i64 %thread, i64 %team, ptr %args, ptr %arena, ptr %scratch, ptr %barrier) {
entry:
  %rounds_at = load ptr, ptr %args
  %rounds = load i64, ptr %rounds_at
  %a1 = getelementptr ptr, ptr %args, i64 1
  %counts = load ptr, ptr %a1
  %a2 = getelementptr ptr, ptr %args, i64 2
  %owners = load ptr, ptr %a2
  %slow = icmp eq i64 %thread, 0
  br label %loop
loop:
  %r = phi i64 [ 0, %entry ], [ %rn, %none ]
  %more = icmp ult i64 %r, %rounds
  br i1 %more, label %deal, label %end
deal:
  call void @graphopt_deal(ptr %barrier)
  br label %ask
ask:
  %chunk = call i64 @graphopt_take(ptr %barrier, i64 4)
  %some = icmp sge i64 %chunk, 0
  br i1 %some, label %work, label %none
work:
  %count_at = getelementptr i64, ptr %counts, i64 %chunk
  %count = load i64, ptr %count_at
  %countn = add i64 %count, 1
  store i64 %countn, ptr %count_at
  %owner_at = getelementptr i64, ptr %owners, i64 %chunk
  store i64 %thread, ptr %owner_at
  br i1 %slow, label %rest, label %ask
rest:
  %k = phi i64 [ 0, %work ], [ %kn, %rest ]
  store volatile i64 %k, ptr %scratch
  %kn = add i64 %k, 1
  %on = icmp ult i64 %kn, 20000
  br i1 %on, label %rest, label %ask
none:
  %rn = add i64 %r, 1
  br label %loop
end:
  ret void
}
"""


def expected_total(rounds: int, team: int) -> int:
    return rounds * (rounds - 1) // 2 * (team * (team + 1) // 2)


PREFIX = """
import os, signal, sys, threading, time
import numpy as np
from graphopt_runtime import engine, stop_all, use_cache
from graphopt_runtime import threads as team_threads
from graphopt_runtime.cache import Cache
from graphopt_runtime.executor import Executable
from test_runtime import expected_total, rounds_program
"""


def in_process(body: str, tmp_path: Path, timeout: float = 30.0, **environ: str) -> str:
    """What a script prints that must end with exit code 0 and no word on standard error."""
    script = tmp_path / "script.py"
    script.write_text(PREFIX + textwrap.dedent(body))
    folders = [str(Path(__file__).parent), *(path for path in sys.path if path)]
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", str(script)],
        capture_output=True, text=True, timeout=timeout, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)} | environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(autouse=True)
def a_hang_ends_the_run() -> Iterator[None]:
    """Threads that wait for each other for ever would hang the tests: show where, and end."""
    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


# ---- teams


@pytest.mark.parametrize("team", [1, 2, 3, 4, 8])
def test_barriers_order_every_write_before_every_read(program: Program, team: int) -> None:
    executable = Executable(program, team)
    state = [np.zeros(2, np.int64)]
    for rounds in (0, 1, 2, 300, *[5] * 40):
        (out,) = executable.run([np.array(rounds)], state)
        assert out[:team].tolist() == [expected_total(rounds, team)] * team
    assert state[0].tolist() == [44, 44]


@pytest.mark.parametrize("team", [1, 2, 3, 8])
def test_dealt_chunks_are_performed_once_each_and_by_whoever_is_free(team: int) -> None:
    chunks = 4 * team
    buffers = (
        BufferSpec("rounds", "int64", (), "input"),
        BufferSpec("counts", "int64", (chunks,), "state"),
        BufferSpec("owners", "int64", (chunks,), "output"),
    )
    code = engine.compile_ir(DEALT_IR, engine.host())
    executable = Executable(Program("dealt", buffers, (), (), (), 0, 128, True, "step", code), team)
    counts = np.zeros(chunks, np.int64)
    others = 0
    for done, rounds in enumerate([1, 2, 3, 7] * 10, 1):
        before = counts.copy()
        (owners,) = executable.run([np.array(rounds)], [counts])
        assert (counts - before).tolist() == [rounds] * chunks, f"run {done}"
        assert set(owners.tolist()) <= set(range(team))
        others += int((owners != np.arange(chunks) // 4).sum())
    assert (others > 0) == (team > 1), "who is done early takes from who is not"


@pytest.mark.parametrize("team", [2, 3, 8])
def test_a_flexible_step_is_run_by_all_or_by_its_caller_alone(program: Program, team: int) -> None:
    executable, state = Executable(program, team, flexible=True), [np.zeros(2, np.int64)]
    sizes = set()
    for k in range(600):
        (out,) = executable.run([np.array(5)], state)
        size = team if out[0] == expected_total(5, team) else 1
        assert out[:size].tolist() == [expected_total(5, size)] * size
        sizes.add(size)
        if k % 50 == 0:
            time.sleep(0.02)  # the workers fall asleep: nobody waits for them
    assert 1 in sizes and state[0].tolist() == [600, 600]
    (many,) = executable.run_many(100, [np.full(100, 5)], state)
    assert {int(v) for v in many[:, 0]} <= {expected_total(5, 1), expected_total(5, team)}
    assert state[0].tolist() == [700, 700]


def test_threads_start_with_the_first_parallel_run_only(tmp_path: Path) -> None:
    body = """
    tasks = lambda: len(os.listdir("/proc/self/task"))
    before = tasks()
    one, two = Executable(rounds_program(), 1), Executable(rounds_program(False), 2)
    for executable in (one, two, Executable(rounds_program(), 3)):
        state = [np.zeros(2, np.int64)]
        if executable.width < 3:
            executable.run([np.array(3)], state)
    assert tasks() == before, (tasks(), before)
    executable.run([np.array(3)], state)
    assert tasks() == before + 2
    stop_all()
    assert tasks() == before
    executable.run([np.array(3)], state)
    assert tasks() == before + 2 and state[0].tolist() == [2, 2]
    print("good")
    """
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("the system does not list threads")
    assert in_process(body, tmp_path) == "good\n"


def test_an_idle_team_uses_no_processor_time(program: Program) -> None:
    executable = Executable(program, 4)
    state = [np.zeros(2, np.int64)]
    executable.run([np.array(10)], state)

    def used() -> float:
        before = time.process_time()
        time.sleep(0.3)
        return time.process_time() - before

    # Where others have the processors, a worker may come late, and stays awake for some milliseconds from then on.
    assert min(used() for _ in range(3)) < 0.03
    (out,) = executable.run([np.array(10)], state)  # and it wakes up again
    assert out[:4].tolist() == [expected_total(10, 4)] * 4


def test_workers_fall_asleep_and_wake_at_any_moment(program: Program) -> None:
    executable = Executable(program, 3)
    state = [np.zeros(2, np.int64)]
    random = np.random.default_rng(0)
    for pause in random.uniform(0, 300e-6, 300):  # around the time for which an idle worker spins
        until = time.perf_counter() + pause
        while time.perf_counter() < until:
            pass
        (out,) = executable.run([np.array(2)], state)
        assert out[:3].tolist() == [expected_total(2, 3)] * 3


def test_python_threads_take_turns(program: Program) -> None:
    shared, other = Executable(program, 2), Executable(program, 2)
    alone = Executable(replace(program, parallel=False))
    states = {executable: [np.zeros(2, np.int64)] for executable in (shared, other, alone)}
    wrong: list[object] = []

    def work(executable: Executable) -> None:
        for rounds in range(60):
            (out,) = executable.run([np.array(rounds)], states[executable])
            if out[0] != expected_total(rounds, executable.width):
                wrong.append((rounds, out))

    workers = [threading.Thread(target=work, args=(executable,)) for executable in (shared, shared, other, alone, alone)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    assert not wrong
    assert [states[executable][0].tolist() for executable in (shared, other, alone)] == [[120] * 2, [60] * 2, [120] * 2]


FORKS = """
executable = Executable(rounds_program(), 2)
state = [np.zeros(2, np.int64)]
def check(runs):
    for _ in range(runs):
        (out,) = executable.run([np.array(7)], state)
        assert out[:2].tolist() == [expected_total(7, 2)] * 2
def wait_for(child):
    for _ in range(1000):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, status
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    raise SystemExit("the child hangs")
def fork():
    child = os.fork()
    if child == 0:
        try:
            assert state[0][0] == state[0][1], state  # a fork never falls into the middle of a step
            check(3)
            os._exit(0)
        finally:
            os._exit(1)
    return child
"""


def test_parent_and_child_run_after_a_fork(tmp_path: Path) -> None:
    body = """
    check(1)
    for _ in range(15):
        child = fork()
        check(3)
        wait_for(child)
    print(state[0].tolist())
    """
    assert in_process(FORKS + textwrap.dedent(body), tmp_path) == "[46, 46]\n"


def test_a_fork_while_another_python_thread_runs_steps(tmp_path: Path) -> None:
    body = """
    import warnings
    warnings.simplefilter("ignore")  # newer Pythons warn that the process has a second Python thread
    running = True
    def work():
        while running:
            check(1)
    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(10):
        wait_for(fork())
    running = False
    thread.join()
    print("good")
    """
    assert in_process(FORKS + textwrap.dedent(body), tmp_path) == "good\n"


def test_the_process_ends_cleanly_with_workers_asleep_or_spinning(tmp_path: Path) -> None:
    body = """
    executable = Executable(rounds_program(), 4)
    executable.run([np.array(3)], [np.zeros(2, np.int64)])
    if os.environ["PAUSE"]:
        time.sleep(0.05)
    print("end")
    """
    assert in_process(body, tmp_path, PAUSE="1") == "end\n"
    assert in_process(body, tmp_path, PAUSE="") == "end\n"


def test_an_interrupt_falls_between_steps(tmp_path: Path) -> None:
    body = """
    executable = Executable(rounds_program(), 2)
    state = [np.zeros(2, np.int64)]
    rounds = np.array(2000)
    caught = 0
    executable.run([rounds], state)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background of a shell ignores it
    for delay in (0.05, 0.08, 0.02):
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            for _ in range(100000):
                executable.run([rounds], state)
        except KeyboardInterrupt:
            caught += 1
            assert state[0][0] == state[0][1] > 0, state
    (out,) = executable.run([rounds], state)
    assert out[:2].tolist() == [expected_total(2000, 2)] * 2
    print("interrupted", caught)
    """
    assert in_process(body, tmp_path) == "interrupted 3\n"


MODE_IR = """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
define void @read(ptr %at) {
  call void @llvm.x86.sse.stmxcsr(ptr %at)
  ret void
}
define void @write(ptr %at) {
  call void @llvm.x86.sse.ldmxcsr(ptr %at)
  ret void
}
define void @step(i64 %thread, i64 %team, ptr %args, ptr %arena, ptr %scratch, ptr %barrier) {
  %x_at = load ptr, ptr %args
  %x = load float, ptr %x_at
  %y = fmul float %x, 5.0e-01
  %a1 = getelementptr ptr, ptr %args, i64 1
  %out = load ptr, ptr %a1
  %at = getelementptr float, ptr %out, i64 %thread
  store float %y, ptr %at
  ret void
}
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads the x86 control register")
@pytest.mark.parametrize("team", [1, 2])
def test_a_step_computes_denormals_whatever_mode_its_caller_is_in(team: int) -> None:
    import ctypes

    code = engine.compile_ir(MODE_IR)
    loaded = {name: engine.load(code, name) for name in ("read", "write")}
    call = {name: ctypes.CFUNCTYPE(None, ctypes.c_void_p)(found.address) for name, found in loaded.items()}
    buffers = (BufferSpec("x", "float32", (), "input"), BufferSpec("y", "float32", (2,), "output"))
    executable = Executable(Program("mode", buffers, (), (), (), 0, 0, True, "step", code), team)
    tiny = np.array(1e-38, np.float32)
    half = (tiny.astype(np.float64) / 2).astype(np.float32)
    mode, found = np.array([0], np.uint32), np.array([0], np.uint32)
    call["read"](address(mode))
    flushing = mode | np.uint32(0x8040)
    try:
        call["write"](address(flushing))
        (out,) = executable.run([tiny], [])
        call["read"](address(found))
    finally:
        call["write"](address(mode))
    assert found == flushing
    assert 0 < half < np.finfo(np.float32).tiny
    assert out[:team].tolist() == [float(half)] * team


# ---- how many threads


def test_width_asks_argument_then_environment_then_machine(tmp_path: Path) -> None:
    assert width(3, {"GRAPHOPT_THREADS": "5"}) == 3
    assert width(0, {"GRAPHOPT_THREADS": "5", "OMP_NUM_THREADS": "7"}) == 5
    assert width(None, {"GRAPHOPT_THREADS": "0", "OMP_NUM_THREADS": " 7 "}) == 7
    assert width(None, {"GRAPHOPT_THREADS": "", "OMP_NUM_THREADS": "6,2"}) == 6
    assert width(None, {}, tmp_path) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("threads", "environ", "text"),
    [
        (-1, {}, "threads: expected a number of threads from 1 to 1024, found '-1'"),
        (None, {"GRAPHOPT_THREADS": "two"}, "GRAPHOPT_THREADS: expected a number of threads from 1 to 1024, found 'two'"),
        (None, {"GRAPHOPT_THREADS": "-2"}, "GRAPHOPT_THREADS: expected a number of threads from 1 to 1024, found '-2'"),
        (None, {"OMP_NUM_THREADS": "0"}, "OMP_NUM_THREADS: expected a number of threads from 1 to 1024, found '0'"),
        (None, {"OMP_NUM_THREADS": "1e3"}, "OMP_NUM_THREADS: expected a number of threads from 1 to 1024, found '1e3'"),
    ],
)
def test_width_names_the_variable_that_is_wrong(threads: int | None, environ: dict[str, str], text: str) -> None:
    with pytest.raises(ValueError, match="expected a number") as caught:
        width(threads, environ)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "sys/fs/cgroup/a/cpu.max": "250000 100000\n"}, 2),
        ("0::/../x\n", {"sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        (
            "5:cpu,cpuacct:/docker/1\n0::/\n",
            {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
             "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            4,
        ),
        (
            "5:cpu:/\n",
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
            8,
        ),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "nonsense"}, 8),
        ("nonsense", {}, 8),
    ],
)  # fmt: skip
def test_width_keeps_to_the_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name, text in {"proc/self/cgroup": group, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert width(None, {}, tmp_path) == expected


# ---- running


COPY_IR = """
define void @step(i64 %thread, i64 %team, ptr %args, ptr %arena, ptr %scratch, ptr %barrier) {
  %x_at = load ptr, ptr %args
  %x = load float, ptr %x_at
  %a1 = getelementptr ptr, ptr %args, i64 1
  %c_at = load ptr, ptr %a1
  %c = load float, ptr %c_at
  %a2 = getelementptr ptr, ptr %args, i64 2
  %w_at = load ptr, ptr %a2
  %w = load float, ptr %w_at
  %p = fmul float %x, %c
  %s = fadd float %w, %p
  store float %s, ptr %w_at
  ret void
}
"""


def axpy_program() -> Program:
    buffers = (
        BufferSpec("x", "float32", (), "input"),
        BufferSpec("c", "float32", (), "constant"),
        BufferSpec("w", "float32", (1,), "state"),
        BufferSpec("seen", "float32", (1,), "output"),
        BufferSpec("again", "float32", (), "output"),
    )
    code = engine.compile_ir(COPY_IR)
    three = np.float32(3).tobytes()
    return Program("axpy", buffers, (three,), ((3, 2), (4, 0)), (), 0, 0, False, "step", code)


def test_constants_state_and_outputs_that_are_copies() -> None:
    executable = Executable(from_bytes(to_bytes(axpy_program())))
    first, second = np.array([1], np.float32), np.array([10], np.float32)
    x = np.array(2, np.float32)
    out = executable.run([x], [first])
    assert [value.tolist() for value in out] == [[7.0], 2.0]
    executable.run([x], [second])
    executable.run([x], [first])  # other arrays as state, in turn
    assert (first.tolist(), second.tolist(), out[0].tolist()) == ([13.0], [16.0], [7.0])
    with pytest.raises(ValueError, match="zip"):
        executable.run([x, x], [first])
    with pytest.raises(ValueError, match="zip"):
        executable.run([x], [first, second])
    assert first.tolist() == [13.0]


@pytest.mark.parametrize("verify", [False, True])
def test_numpy_scalars_are_inputs_of_shape_0_and_nothing_else(verify: bool) -> None:
    executable, w = Executable(axpy_program(), verify=verify), np.array([1], np.float32)
    assert executable.run([np.float32(2)], [w])[0].tolist() == [7.0]
    for wrong in (2.0, np.float64(2), None, [2.0]):
        with pytest.raises(TypeError, match=r"axpy: input 'x' must be a numpy array float32\[\], found"):
            executable.run([wrong], [w])  # type: ignore[list-item]
    with pytest.raises((TypeError, ValueError), match="axpy: state"):
        executable.run([np.float32(2)], [np.float32(1)])  # type: ignore[list-item]
    assert w.tolist() == [7.0]


@pytest.mark.parametrize("verify", [False, True])
def test_a_caller_is_run_for_one_state(program: Program, verify: bool) -> None:
    executable = Executable(program, 2, verify)
    state, other = [np.zeros(2, np.int64)], [np.zeros(2, np.int64)]
    call = executable.caller(state)
    kept = [call([np.array(k)])[0] for k in range(5)]
    executable.run([np.array(3)], other)  # other state in between
    kept.append(call([np.array(5)])[0])
    assert [out[:2].tolist() for out in kept] == [[expected_total(k, 2)] * 2 for k in range(6)]
    assert (state[0].tolist(), other[0].tolist()) == ([6, 6], [1, 1])


@pytest.mark.parametrize("team", [1, 2, 3])
@pytest.mark.parametrize("stacked", [True, False])
def test_many_steps_are_as_many_runs(program: Program, team: int, stacked: bool) -> None:
    executable, state = Executable(program, team), [np.zeros(2, np.int64)]
    rounds = np.arange(70)
    column = rounds if stacked else [np.array(k) for k in rounds]
    (out,) = executable.run_many(70, [column], state)  # type: ignore[list-item]
    assert out.shape == (70, 8)
    assert out[:, :team].tolist() == [[expected_total(int(k), team)] * team for k in rounds]
    assert state[0].tolist() == [70, 70]
    assert executable.run_many(0, [rounds[:0]], state)[0].shape == (0, 8)
    executable.run([np.array(3)], state)
    assert state[0].tolist() == [71, 71]


def test_many_steps_with_copies_and_what_they_refuse() -> None:
    executable, w = Executable(axpy_program()), np.array([1], np.float32)
    seen, again = executable.run_many(3, [[np.float32(2), np.array(3, np.float32), np.float32(4)]], [w])  # type: ignore[list-item]
    assert (seen.tolist(), again.tolist(), w.tolist()) == ([[7.0], [16.0], [28.0]], [2.0, 3.0, 4.0], [28.0])
    for wrong in ([np.zeros(2, np.float32)], [np.zeros(3)], [[np.float32(1)] * 2], [[np.zeros(1, np.float32)] * 3], [], [[]] * 2):
        with pytest.raises(ValueError, match="axpy: "):
            executable.run_many(3, wrong, [w])
    assert w.tolist() == [28.0]


def test_verify_names_the_array_that_does_not_fit() -> None:
    executable = Executable(axpy_program(), verify=True)
    x, w = np.array(2, np.float32), np.array([1], np.float32)
    frozen = w.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="axpy: input 'x' must be float32") as caught:
        executable.run([x.astype(np.float64)], [w])
    assert str(caught.value) == "axpy: input 'x' must be float32[], C-contiguous; found ('float64', (), True)"
    for inputs, state in (([x], [np.zeros(2, np.float32)]), ([x], [frozen]), ([], [w]), ([x], [])):
        with pytest.raises(ValueError, match="axpy: "):
            executable.run(inputs, state)
    assert executable.run([x], [w])[0].tolist() == [7.0]


def test_memory_of_large_results_is_used_again_when_nobody_has_it() -> None:
    shape, dtype = (1 << 10, 1 << 10), np.dtype(np.float32)
    results = Results([4 << 20, 4 << 20, 8])
    assert results.needed
    a, b, c = (results.empty(shape, dtype) for _ in range(3))
    places = [address(v) for v in (a, b, c)]
    assert len(set(places)) == 3 and all(v.flags.writeable and v.flags.c_contiguous for v in (a, b, c))
    held = a[5:, ::2].T
    a[:] = 1.0
    del a, b, c
    again = [results.empty(shape, dtype) for _ in range(2)]
    assert {address(v) for v in again} == set(places[1:])
    for value in again:
        value[:] = 2.0
    assert (held == 1.0).all()
    del held, again, value
    assert len(results._free[4 << 20]) == 2  # one block for each result of a step, no more
    small = results.empty((2,), dtype)
    assert small.base is None and not Results([8]).needed


def test_memory_is_aligned_and_writable() -> None:
    for nbytes in (0, 1, 4096, 5 << 20):
        arena = Arena(nbytes)
        assert arena.address % 64 == 0
        if nbytes:
            import ctypes

            ctypes.memset(arena.address, 7, nbytes)
            assert ctypes.string_at(arena.address + nbytes - 1, 1) == b"\x07"
    array = aligned_empty((3, 5), dtype_of("bfloat16"), 256)
    assert (array.shape, array.dtype.name, array.flags.c_contiguous) == ((3, 5), "bfloat16", True)
    for value in (array, np.zeros(0), np.arange(9)[3:], np.array(1.0), np.zeros((2, 3, 4))):
        assert address(value) == value.ctypes.data
    assert address(array) % 256 == 0


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (7, 300), (1025,), (3, 400_000)])
@pytest.mark.parametrize("target", [None, "float64", "bfloat16", "bool"])
def test_a_copy_is_aligned_contiguous_and_of_its_own(shape: tuple[int, ...], target: str | None) -> None:
    values = (np.arange(np.prod(shape, dtype=int)) % 5).astype(np.float32).reshape(shape)
    dtype = None if target is None else dtype_of(target)
    for array in (values, values.T.copy().T, values[..., ::-1] if shape else values):
        copy = aligned_copy(array, dtype)
        assert (copy.shape, copy.dtype) == (shape, dtype or array.dtype)
        assert copy.flags.c_contiguous and copy.flags.writeable and not np.shares_memory(copy, array)
        assert copy.nbytes <= 4096 or address(copy) % 64 == 0
        np.testing.assert_array_equal(copy, array.astype(copy.dtype))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.parametrize("nbytes", [0, 64, (1 << 21) - 1, 1 << 21, (1 << 22) - 4096, (5 << 21) + 1])
def test_memory_of_any_size_is_aligned_and_a_process_of_its_own(nbytes: int) -> None:
    array = aligned_empty((nbytes,), np.dtype(np.uint8))
    array[:] = 1
    assert array.shape == (nbytes,)
    assert not nbytes or address(array) % 64 == 0
    child = os.fork()
    if not child:
        array[:] = 2
        os._exit(0)
    os.waitpid(child, 0)
    assert (array == 1).all()


# ---- the engine

VECTOR_IR = """
define void @add(ptr %a, ptr %b) {
  %x = load <16 x float>, ptr %a, align 4
  %y = load <16 x float>, ptr %b, align 4
  %z = fadd <16 x float> %x, %y
  store <16 x float> %z, ptr %a, align 4
  ret void
}
"""


@pytest.mark.parametrize(
    ("cpu", "features", "register", "absent"),
    [
        ("x86-64", "", "%xmm", "%ymm"),
        ("x86-64", "+avx2,+fma", "%ymm", "%zmm"),
        ("x86-64", "+avx512f", "%zmm", "%ymm"),
        ("skylake-avx512", "-avx512f", "%ymm", "%zmm"),
        ("skylake-avx512", "+sse2,-avx", "%xmm", "%ymm"),
    ],
)
def test_code_is_for_the_target_that_was_named(cpu: str, features: str, register: str, absent: str) -> None:
    text = engine.assembly(VECTOR_IR, engine.Target("x86_64-unknown-linux-gnu", cpu, features))
    assert register in text
    assert absent not in text


@pytest.mark.parametrize(
    ("triple", "features", "words"),
    [
        ("x86_64-unknown-linux-gnu", "", ("pause", "ldmxcsr", "sched_yield", "syscall")),
        ("aarch64-unknown-linux-gnu", "", ("yield", "stlr", "ldar", "fpcr")),
        ("arm64-apple-darwin", "", ("yield", "stlr", "ldar")),
        ("riscv64-unknown-linux-gnu", "+a", ("fence", "syscall")),
    ],
)
def test_the_team_compiles_for_other_machines(triple: str, features: str, words: tuple[str, ...]) -> None:
    ir = native.team_ir(triple)
    text = engine.assembly(ir, engine.Target(triple, "", features), ("always_inliner", *engine.LIGHT)).lower()
    assert all(word in text for word in words)


def test_passes_are_the_callers_choice() -> None:
    ir = "define i32 @f() {\n  %a = alloca i32\n  store i32 3, ptr %a\n  %x = load i32, ptr %a\n  ret i32 %x\n}\n"
    assert "alloca" in engine.ir_after_passes(ir, passes=())
    for passes in (engine.LIGHT, ("sroa",), ("O1",), ("sroa", "O2", "dead_code_elimination")):
        assert "alloca" not in engine.ir_after_passes(ir, passes=passes)
    with pytest.raises(ValueError, match="no such pass: 'faster'"):
        engine.compile_ir(ir, passes=("faster",))


@pytest.mark.parametrize("ir", ["nonsense", "define i32 @f() {\n  ret i64 0\n}", "define void @f() {\n  br label %x\n}"])
def test_text_that_llvm_refuses(ir: str) -> None:
    with pytest.raises(engine.EngineError):
        engine.compile_ir(ir)


def test_a_target_that_llvm_does_not_have() -> None:
    with pytest.raises(engine.EngineError, match="pdp11"):
        engine.compile_ir(VECTOR_IR, engine.Target("pdp11-dec-unix", "", ""))


def test_modules_that_are_compiled_while_the_next_is_written() -> None:
    """They link across each other, in the order they were added; an error of one is raised once; switching is put back."""
    before = sys.getswitchinterval()
    with engine.Assembly() as assembly:
        assembly.add("define hidden i64 @one(i64 %x) {\n  %y = add i64 %x, 1\n  ret i64 %y\n}")
        assembly.add("declare hidden i64 @one(i64)\ndefine i64 @two(i64 %x) {\n  %y = call i64 @one(i64 %x)\n  ret i64 %y\n}")
        loaded = engine.load(assembly.code(), "two")
    assert ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(loaded.address)(41) == 42
    with engine.Assembly() as assembly, pytest.raises(engine.EngineError):
        for ir in ("nonsense", "define void @f() {\n  ret void\n}"):
            assembly.add(ir)
        assembly.code()
    assert sys.getswitchinterval() == before


def adding(count: int) -> str:
    """A module that takes LLVM a moment: functions that add up an array's elements in another order each."""
    return "\n".join(
        f"define i64 @add{k}(ptr %a) {{\n"
        + "\n".join(
            f"  %p{j} = getelementptr i64, ptr %a, i64 {j * (k + 1) % 64}\n  %x{j} = load i64, ptr %p{j}\n"
            f"  %y{j} = add i64 %x{j}, {f'%y{j - 1}' if j else 0}"
            for j in range(64)
        )
        + "\n  ret i64 %y63\n}"
        for k in range(count)
    )


def test_threads_that_generate_code_at_the_same_time() -> None:
    texts = [adding(n) for n in range(1, 13)]
    expected = [engine.compile_ir(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert list(pool.map(engine.compile_ir, texts)) == expected
    with engine.Assembly() as assembly:
        for text in texts:
            assembly.add(text)
        code = assembly.code()
    assert engine._object_files(code) == expected


def test_code_without_the_bindings_library(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = engine.compile_ir(adding(3))
    monkeypatch.setattr(engine, "_code_generator", lambda: None)
    assert engine.compile_ir(adding(3)) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_a_fork_while_other_threads_generate_code(tmp_path: Path) -> None:
    body = """
    done = threading.Event()

    def compile_on() -> None:
        while not done.is_set():
            engine.compile_ir(os.environ["TEXT"])

    others = [threading.Thread(target=compile_on) for _ in range(3)]
    for other in others:
        other.start()
    for _ in range(15):
        time.sleep(0.005)
        child = os.fork()
        if not child:
            os._exit(0 if engine.compile_ir(os.environ["TEXT"]) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    done.set()
    for other in others:
        other.join()
    print("ok")
    """
    assert in_process(body, tmp_path, TEXT=adding(8)) == "ok\n"


def test_code_that_does_not_link() -> None:
    code = engine.compile_ir("declare void @nobody_has_this()\ndefine void @f() {\n  call void @nobody_has_this()\n  ret void\n}")
    for data, entry in ((code, "f"), (code, "g"), (code[:64], "f"), (b"", "f"), (b"nonsense", "f")):
        with pytest.raises(engine.EngineError):
            engine.load(data, entry)


def test_the_team_itself_comes_from_the_cache(tmp_path: Path) -> None:
    body = """
    compiled = []
    original = engine.compile_ir
    team_threads.compile_ir = lambda *args: compiled.append(1) or original(*args)
    use_cache(Cache(os.environ["FOLDER"]))
    team_threads.functions()
    print(len(compiled))
    """
    folder = tmp_path / "cache"
    assert [in_process(body, tmp_path, FOLDER=str(folder)) for _ in range(2)] == ["1\n", "0\n"]
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert in_process(body, tmp_path, FOLDER=str(folder)) == "1\n"
