"""The thread team: native threads that run a step together.

Thread 0 is the caller. The others are started by the first parallel run, spin for a moment after each job in case the
next comes at once, and then sleep: an idle team uses no processor time. A forked child starts its own team when it
needs one; the end of the process joins the workers. The system's threads are POSIX threads.
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

JOB_WORDS = 5
"""Words of a job before its table of arguments: function, team, arena, scratch, bytes of scratch per thread."""

_IDLE_NS = 60_000  # how long an idle worker spins before it sleeps
_EXIT_SECONDS = 5.0  # how long the end of the process waits for a step that another thread still runs
_OWN_SIGNALS = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGABRT")  # belong to the thread that caused them

_lock = threading.RLock()
_disks = [Cache(None)]
_teams: dict[int, Team] = {}
_held: list[Team] = []  # teams whose lock the forking thread took


@dataclass(frozen=True, slots=True)
class Native:
    """The team's native functions: run(job) returns when all threads are done; barrier is an address."""

    start: Callable[[int, int], int]
    stop: Callable[[int], None]
    run: Callable[[int], None]
    spin: Callable[[int], None]
    barrier: int
    keep: Loaded


class Team:
    """A number of threads; `address` is the team's block of memory. A new team is the caller alone.

    Hold `lock` while a job runs.
    """

    __slots__ = ("_memory", "address", "lock")

    def __init__(self, room: int = 1) -> None:
        nbytes = native.RECORDS + native.RECORD_BYTES * room
        self._memory = aligned_empty((nbytes // 8,), np.dtype(np.int64), 128)
        self._memory[:] = 0
        self._memory[native.SIZE // 8] = 1
        self.address: int = self._memory.ctypes.data
        self._memory[native.RECORDS // 8] = self.address
        self.lock = threading.RLock()

    @property
    def width(self) -> int:
        return int(self._memory[native.SIZE // 8])

    def start(self, width: int) -> None:
        """Start the workers; the team stays narrower when the system has no more threads to give."""
        self._memory[native.PATIENCE // 8] = _patience()
        signals = set(signal.valid_signals()) - {getattr(signal, name) for name in _OWN_SIGNALS}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # the workers inherit it: Python's threads handle them
        try:
            functions().start(self.address, width)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def stop(self) -> None:
        """Send the workers home and join them."""
        if self._memory[native.STARTED // 8]:
            functions().stop(self.address)
        self._memory[native.SIZE // 8] = 1


def use_cache(disk: Cache) -> None:
    """Keep the team's object code there; without it each process compiles it anew (30 ms instead of 4)."""
    _disks[:] = [disk]


@cache
def functions() -> Native:
    """The team's native code, compiled or read from the cache once per process."""
    with _lock:
        target = host()
        ir = native.team_ir(target.triple.split("-")[0])
        key = key_of("team", version(), target.triple, target.cpu, target.features, ir)
        code = _disks[0].get(key)
        if code is None:
            code = compile_ir(ir, target, ("always_inliner", *LIGHT))
            _disks[0].put(key, code)
        loaded = load(code, native.TABLE)
        start, stop, run, spin, barrier = (ctypes.c_uint64 * 5).from_address(loaded.address)
        word = ctypes.c_uint64
        return Native(
            start=ctypes.CFUNCTYPE(word, word, word)(start),
            stop=ctypes.CFUNCTYPE(None, word)(stop),
            run=ctypes.CFUNCTYPE(None, word)(run),
            spin=ctypes.CFUNCTYPE(None, word)(spin),
            barrier=barrier,
            keep=loaded,
        )


@cache
def _patience() -> int:
    """Rounds of spinning that last about `_IDLE_NS`: how long a pause takes differs tenfold between processors."""
    spin, rounds = functions().spin, 512
    spin(rounds)
    times = []
    for _ in range(3):
        before = perf_counter_ns()
        spin(rounds)
        times.append(perf_counter_ns() - before)
    return max(1, _IDLE_NS * rounds // max(min(times), 1))


def team(width: int) -> Team:
    """The process's team of that many threads, started now if it was not.

    Errors: ValueError when width is not positive.
    """
    if width < 1:
        raise ValueError(f"a team needs a thread, found {width}")
    with _lock:
        found = _teams.get(width)
        if found is None:
            found = Team(width)
            _teams[width] = found  # before the start, so that an interrupt cannot lose running threads
        if width > 1 and found.width == 1:
            found.start(width)
        return found


def stop_all() -> None:
    """Join all workers; the next parallel run starts new ones."""
    with _lock:
        for found in list(_teams.values()):
            if found.lock.acquire(timeout=_EXIT_SECONDS):
                try:
                    found.stop()
                finally:
                    found.lock.release()
        _teams.clear()


def _before_fork() -> None:
    """Wait until no step runs, so that the child's state is that of a whole number of steps."""
    _lock.acquire()
    for found in _teams.values():
        found.lock.acquire()
        _held.append(found)


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop().lock.release()
    _lock.release()


def _after_fork_in_child() -> None:
    """The child has none of the workers: forget the parent's teams without touching them."""
    _held.clear()
    _teams.clear()
    _lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
atexit.register(stop_all)
