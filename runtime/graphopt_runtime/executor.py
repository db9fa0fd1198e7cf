"""Executable: a Program bound to memory and threads, called with arrays."""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from operator import is_
from weakref import WeakSet

import numpy as np

from . import threads as team_threads
from .buffers import Arena, address, aligned_empty, dtype_of
from .engine import load
from .limits import width
from .native import LINE_BYTES
from .program import Program
from .threads import JOB_WORDS, Team, functions

_binding = threading.RLock()
_all: WeakSet[Executable] = WeakSet()
_held: list[threading.RLock] = []  # what the forking thread took
_alone = Team()


@dataclass(frozen=True, slots=True)
class _Bound:
    """What a call needs that does not change from call to call.

    job: the job with all addresses known in advance filled in; states: the arrays whose addresses are among them
    """

    team: Team
    lock: threading.RLock
    memory: tuple[Arena, Arena]
    job: array[int]
    states: tuple[np.ndarray, ...]


class Executable:
    """A program ready to run on a team of `threads` threads.

    Memory and threads are taken by the first run. Several Python threads may share an Executable: their steps run one
    after the other. A fork waits for the end of a step.
    """

    def __init__(self, program: Program, threads: int | None = None, verify: bool = False) -> None:
        """Load the program's code.

        threads: 0 or None lets the environment and the machine decide; verify: look at the arrays of every run
        Errors:  EngineError when the code does not link; ValueError for a number of threads that cannot be.
        """
        self.program = program
        self.width = width(threads) if program.parallel else 1
        self._verify = verify
        self._run = functions().run
        self._loaded = load(program.code, program.entry, {"graphopt_barrier": functions().barrier})
        self._constants = _constants(program)
        slots = list(enumerate(program.buffers, JOB_WORDS))
        self._inputs = [slot for slot, spec in slots if spec.kind == "input"]
        self._states = [slot for slot, spec in slots if spec.kind == "state"]
        self._outputs = [(slot, spec.shape, dtype_of(spec.dtype)) for slot, spec in slots if spec.kind == "output"]
        self._copies = [(output + JOB_WORDS, source + JOB_WORDS) for output, source in program.aliases]
        self._bound: _Bound | None = None
        with _binding:
            _all.add(self)

    def run(self, inputs: Sequence[np.ndarray], state: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Perform one step: outputs, freshly allocated; the arrays of `state` are updated in place.

        The arrays must be C-contiguous with exactly the dtypes and shapes of the program's buffers, in their order.
        Errors: with `verify`, ValueError naming the buffer that does not fit; without, nothing is looked at.
        """
        if self._verify:
            self._check("input", inputs)
            self._check("state", state)
        bound = self._bound
        if bound is None or len(state) != len(bound.states) or not all(map(is_, state, bound.states)):
            bound = self._bind(state)
        job = bound.job[:]
        for slot, value in zip(self._inputs, inputs, strict=True):
            job[slot] = address(value)
        outputs = []
        for slot, shape, dtype in self._outputs:
            output = np.empty(shape, dtype)
            job[slot] = address(output)
            outputs.append(output)
        with bound.lock:
            if not bound.team.running:
                bound.team.start()
            self._run(job.buffer_info()[0])
            if self._copies:
                self._copy(inputs, state, outputs)
        return outputs

    @property
    def arena_bytes(self) -> int:
        """Memory that runs use besides inputs, state, outputs and constants: the arena and each thread's scratch."""
        return self.program.arena_bytes + self.width * _stride(self.program)

    def _bind(self, state: Sequence[np.ndarray]) -> _Bound:
        """Prepare a job with the addresses of these state arrays, taking memory and threads if none were taken yet."""
        with _binding:
            taken = self._bound or self._take()
            job = taken.job[:]
            for slot, value in zip(self._states, state, strict=True):
                job[slot] = address(value)
            bound = _Bound(taken.team, taken.lock, taken.memory, job, tuple(state))
            self._bound = bound
        return bound

    def _take(self) -> _Bound:
        """Take threads and memory, and prepare a job that knows all addresses but those of arguments."""
        team = team_threads.team(self.width) if self.width > 1 else _alone
        stride = _stride(self.program)
        arena, scratch = Arena(self.program.arena_bytes), Arena(stride * team.width)
        head = [self._loaded.address, team.address, arena.address, scratch.address, stride]
        job = array("Q", head + [0] * len(self.program.buffers))
        constants = iter(self._constants)
        for slot, spec in enumerate(self.program.buffers, JOB_WORDS):
            if spec.kind == "constant":
                job[slot] = address(next(constants))
        lock = team.lock if self.width > 1 else threading.RLock()
        return _Bound(team, lock, (arena, scratch), job, ())

    def _copy(self, inputs: Sequence[np.ndarray], state: Sequence[np.ndarray], outputs: list[np.ndarray]) -> None:
        """Fill the outputs that are copies of other buffers."""
        slots = [*self._inputs, *self._states, *(slot for slot, _, _ in self._outputs)]
        arrays = dict(zip(slots, [*inputs, *state, *outputs], strict=True))
        for output, source in self._copies:
            np.copyto(arrays[output], arrays[source])

    def _check(self, kind: str, arrays: Sequence[np.ndarray]) -> None:
        specs = [spec for spec in self.program.buffers if spec.kind == kind]
        if len(specs) != len(arrays):
            raise ValueError(f"{self.program.name}: expects {len(specs)} arrays as {kind}, found {len(arrays)}")
        for spec, value in zip(specs, arrays, strict=True):
            found = (value.dtype.name, value.shape, value.flags.c_contiguous)
            if found != (spec.dtype, spec.shape, True) or (kind == "state" and not value.flags.writeable):
                expected = f"{spec.dtype}{list(spec.shape)}, C-contiguous{', writeable' if kind == 'state' else ''}"
                raise ValueError(f"{self.program.name}: {kind} {spec.name!r} must be {expected}; found {found}")


def _stride(program: Program) -> int:
    """Bytes from one thread's scratch to the next's: whole pairs of cache lines, which no two threads then share."""
    return -(-program.scratch_bytes // LINE_BYTES) * LINE_BYTES


def _constants(program: Program) -> list[np.ndarray]:
    """The program's constants in aligned memory."""
    arrays = []
    for value in program.constants:
        aligned = aligned_empty((len(value),), np.dtype(np.uint8))
        aligned[:] = np.frombuffer(value, np.uint8)
        arrays.append(aligned)
    return arrays


def _before_fork() -> None:
    """Wait until no step runs, so that the child's state is that of a whole number of steps."""
    _binding.acquire()
    for executable in _all:
        if executable._bound is not None:
            executable._bound.lock.acquire()
            _held.append(executable._bound.lock)


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop().release()
    _binding.release()


def _after_fork_in_child() -> None:
    """Everything is bound anew on its next run: locks and teams may be those that the parent's other threads wait for."""
    _held.clear()
    for executable in _all:
        executable._bound = None
    _binding.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
