"""The thread team: native threads that run a step together.

Thread 0 is the caller. The others are started by the first parallel run, spin for a moment after each job in case the
next comes at once, and then sleep: an idle team uses no processor time. Before a fork and at the end of the process
the workers are joined; parent and child start new ones when they need them. The system's threads are POSIX threads.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from time import perf_counter_ns

import numpy as np

from . import native
from .buffers import aligned_empty
from .cache import Cache, key_of
from .engine import LIGHT, Loaded, compile_ir, host, load, version

JOB_WORDS = 6
"""Words of a job before its table of arguments: function, team, arena, scratch, bytes of scratch per thread, rounds of
waiting for the workers, or FOREVER.
"""

FOREVER = (1 << 64) - 1

_PATIENCE_NS = 60_000  # how long a thread that waits spins before it sleeps
_EXIT_SECONDS = 5.0  # how long the end of the process waits for a step that another thread still runs
_OWN_SIGNALS = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGABRT")  # belong to the thread that caused them

_lock = threading.RLock()
_disks = [Cache(None)]
_teams: dict[int, Team] = {}
_held: list[Team] = []  # teams whose lock the forking thread took


@dataclass(frozen=True, slots=True)
class Native:
    """The team's native functions: run(job) returns when all threads are done.

    call(record, objects) runs a job on array objects: `objects` holds the addresses of the objects, 8 bytes each; the
    record says where in the job the addresses of their memory belong. many is the address of a step that is many steps, see
    `native`; offered are the addresses of what the code of steps calls, under the names that it calls them by.
    """

    start: Callable[[int, int], int]
    stop: Callable[[int], None]
    run: Callable[[int], None]
    spin: Callable[[int], None]
    call: Callable[[int, bytes], None]
    many: int
    offered: dict[str, int]
    keep: Loaded


class Team:
    """Up to `width` threads; `address` is their block of memory. Hold `lock` while a job runs.

    `running` says whether the workers were started; a team of one has none and always runs.
    """

    __slots__ = ("_memory", "_solo", "address", "lock", "running", "width")

    def __init__(self, width: int = 1) -> None:
        self._solo = native.RECORDS + native.RECORD_BYTES * width
        nbytes = self._solo + native.LINE_BYTES + native.RECORD_BYTES
        self._memory = aligned_empty((nbytes // 8,), np.dtype(np.int64), native.LINE_BYTES)
        self.address: int = self._memory.ctypes.data
        self.width = width
        self.running = width == 1
        self.lock = threading.RLock()
        self._clear()

    def _clear(self) -> None:
        """The state of a team that is its caller alone."""
        self._memory[:] = 0
        self._memory[native.SIZE // 8] = 1
        self._memory[native.RECORDS // 8] = self.address
        solo = self.address + self._solo
        self._memory[native.SOLO // 8] = solo + native.LINE_BYTES
        self._memory[self._solo // 8 + native.SIZE // 8] = 1
        self._memory[(self._solo + native.LINE_BYTES) // 8] = solo

    def start(self) -> None:
        """Start the workers; the team is narrower than asked for when the system has no more threads to give."""
        if not self._memory[native.STARTED // 8]:
            self._clear()
            self._memory[native.PATIENCE // 8] = _patience()
            signals = set(signal.valid_signals()) - {getattr(signal, name) for name in _OWN_SIGNALS}
            before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # for the workers, which inherit it
            try:
                functions().start(self.address, self.width)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.running = True

    def stop(self) -> None:
        """Send the workers home and join them; the next run starts new ones."""
        self.running = self.width == 1
        if self._memory[native.STARTED // 8]:
            functions().stop(self.address)
            self._clear()


def use_cache(disk: Cache) -> None:
    """Keep the team's object code there; without it each process compiles it anew (30 ms instead of 4)."""
    _disks[:] = [disk]


def functions() -> Native:
    """The team's native code, compiled or read from the cache once per process."""
    with _lock:
        return _functions()


@cache
def _functions() -> Native:
    target = host()
    ir = native.team_ir(target.triple)
    key = key_of("team", version(), target.triple, target.cpu, target.features, ir)
    code = _disks[0].get(key)
    if code is None:
        code = compile_ir(ir, target, ("always_inliner", *LIGHT))
        _disks[0].put(key, code)
    loaded = load(code, native.TABLE)
    start, stop, run, spin, barrier, deal, take, call, many, mark = (ctypes.c_uint64 * 10).from_address(loaded.address)
    word = ctypes.c_uint64
    return Native(
        start=ctypes.CFUNCTYPE(word, word, word)(start),
        stop=ctypes.CFUNCTYPE(None, word)(stop),
        run=ctypes.CFUNCTYPE(None, word)(run),
        spin=ctypes.CFUNCTYPE(None, word)(spin),
        call=ctypes.CFUNCTYPE(None, word, ctypes.c_char_p)(call),
        offered={"graphopt_barrier": barrier, "graphopt_deal": deal, "graphopt_take": take, "graphopt_mark": mark},
        many=many,
        keep=loaded,
    )


@cache
def _patience() -> int:
    """Rounds of spinning that last about `_PATIENCE_NS`: how long a pause takes differs tenfold between processors."""
    spin, rounds = functions().spin, 512
    spin(rounds)
    times = []
    for _ in range(3):
        before = perf_counter_ns()
        spin(rounds)
        times.append(perf_counter_ns() - before)
    return max(1, _PATIENCE_NS * rounds // max(min(times), 1))


def rounds_of(nanoseconds: float) -> int:
    """Rounds of waiting that last about so long."""
    return int(_patience() * nanoseconds / _PATIENCE_NS)


def team(width: int) -> Team:
    """The process's team of that many threads; its first run starts them.

    Errors: ValueError when width is not a number of threads.
    """
    if not 1 <= width <= native.MAX_WIDTH:
        raise ValueError(f"expected a number of threads from 1 to {native.MAX_WIDTH}, found {width}")
    with _lock:
        if width not in _teams:
            _teams[width] = Team(width)
        return _teams[width]


def stop_all() -> None:
    """Join all workers; the next parallel run starts new ones."""
    with _lock:
        for found in _teams.values():
            if found.lock.acquire(timeout=_EXIT_SECONDS):
                try:
                    found.stop()
                finally:
                    found.lock.release()


def _before_fork() -> None:
    """Wait until no team runs, and join the workers: a process without threads is forked without surprises."""
    _lock.acquire()
    for found in _teams.values():
        found.lock.acquire()
        _held.append(found)
        found.stop()


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop().lock.release()
    _lock.release()


def _after_fork_in_child() -> None:
    """Python threads that waited for the parent's teams do not exist here: begin with new ones."""
    _held.clear()
    _teams.clear()
    _lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
atexit.register(stop_all)
