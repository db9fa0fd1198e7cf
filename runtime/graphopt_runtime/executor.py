"""Executable: a Program bound to memory and threads, called with arrays."""

from __future__ import annotations

import ctypes
import os
import threading
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import is_
from struct import Struct
from time import perf_counter
from weakref import WeakSet

import numpy as np
from numpy import ndarray

from . import threads as team_threads
from .buffers import FIELD_WORKS, Arena, Results, address, aligned_empty, dtype_of
from .engine import load
from .limits import width
from .native import LINE_BYTES
from .program import BufferSpec, Program, time_words
from .threads import FOREVER, JOB_WORDS, Team, functions, rounds_of

Column = np.ndarray | Sequence[np.ndarray]
Caller = Callable[[Sequence[np.ndarray]], list[np.ndarray]]

_NATIVE_SECONDS = 0.05  # how long one native call of many steps lasts at most, but for one step: signals wait that long
_GFLOPS, _GBYTES = 50.0, 20.0  # a thread's ordinary speed: operations and bytes per nanosecond
_LEAST_NS, _WAKING_NS = 1_500.0, 100_000.0  # threads that are awake come within 0.3 us, sleepers often within 60 us,
_LATEST_NS = 4_000_000.0  # but those of a virtual machine, or whose processor another process has, after milliseconds
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

    def __init__(
        self, program: Program, threads: int | None = None, verify: bool = False, flexible: bool = False
    ) -> None:
        """Load the program's code.

        threads: 0 or None lets the environment and the machine decide; verify: look at the arrays of every run
        flexible: a run may be the caller's alone when the other threads do not come at once, the sooner the smaller the
                 step; for steps whose results do not depend on the size of the team
        Errors:  EngineError when the code does not link; ValueError for a number of threads that cannot be.
        """
        self.program = program
        self.width = width(threads) if program.parallel else 1
        self._verify = verify
        self._flexible = flexible
        team = functions()
        self._run = team.run
        self._loaded = load(program.code, program.entry, team.offered)
        self._constants = _constants(program)
        slots = list(enumerate(program.buffers, JOB_WORDS))
        self._inputs = [slot for slot, spec in slots if spec.kind == "input"]
        self._states = [slot for slot, spec in slots if spec.kind == "state"]
        self._outputs = [(slot, spec.shape, dtype_of(spec.dtype)) for slot, spec in slots if spec.kind == "output"]
        results = Results([spec.nbytes for spec in program.buffers if spec.kind == "output"])
        self._empty: Callable[[tuple[int, ...], np.dtype], np.ndarray] = results.empty if results.needed else np.empty
        self._copies = [(output + JOB_WORDS, source + JOB_WORDS) for output, source in program.aliases]
        self._bound: _Bound | None = None
        with _binding:
            _all.add(self)

    def run(self, inputs: Sequence[np.ndarray], state: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Perform one step: outputs, which nobody else has; the arrays of `state` are updated in place.

        The arrays must be C-contiguous with exactly the dtypes and shapes of the program's buffers, in their order. An
        input of shape () may be a numpy scalar of its dtype.
        Errors: TypeError for what is no array; with `verify`, ValueError naming the buffer that does not fit; without,
                dtypes and shapes are not looked at.
        """
        arrays = [v if type(v) is ndarray else self._array(k, v) for k, v in enumerate(inputs)]
        if self._verify:
            self._check("input", arrays)
            self._check("state", state)
        bound = self._bound_to(state)
        job = bound.job[:]
        for slot, value in zip(self._inputs, arrays, strict=True):
            job[slot] = address(value)
        outputs = []
        for slot, shape, dtype in self._outputs:
            output = self._empty(shape, dtype)
            job[slot] = address(output)
            outputs.append(output)
        with bound.lock:
            if not bound.team.running:
                bound.team.start()
            self._run(job.buffer_info()[0])
            if self._copies:
                self._copy(arrays, state, outputs)
        return outputs

    def caller(self, state: Sequence[np.ndarray]) -> Caller:
        """`run` for this state, as a function of the inputs that costs a fraction of it.

        The inputs must be plain numpy arrays that fit; nothing is looked at (with `verify`, everything is).
        """
        states = tuple(state)
        if self._verify or self._copies or not FIELD_WORKS:
            return lambda inputs: self.run(inputs, states)
        slots = [*self._inputs, *(slot for slot, _, _ in self._outputs)]
        shapes, dtypes = [shape for _, shape, _ in self._outputs], [dtype for _, _, dtype in self._outputs]
        pack, native, empty = Struct(f"{len(slots)}Q").pack, functions().call, self._empty
        bound = self._bound_to(states)
        team, lock, job = bound.team, bound.lock, bound.job[:]
        record = array("Q", [job.buffer_info()[0], len(slots), *slots])
        at = record.buffer_info()[0]

        def call(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            nonlocal bound, team, lock, job, record, at
            if self._bound is not bound:  # a fork, or other state meanwhile
                bound = self._bound_to(states)
                team, lock, job = bound.team, bound.lock, bound.job[:]
                record = array("Q", [job.buffer_info()[0], len(slots), *slots])
                at = record.buffer_info()[0]
            outputs = list(map(empty, shapes, dtypes))
            objects = pack(*map(id, inputs), *map(id, outputs))
            with lock:
                if not team.running:
                    team.start()
                native(at, objects)
            return outputs

        return call

    def run_many(
        self, steps: int, inputs: Sequence[Column], state: Sequence[np.ndarray], last: bool = False
    ) -> list[np.ndarray]:
        """Perform that many steps one after the other in native code: the outputs of all, stacked along a new first axis.

        inputs: for each input an array of shape (steps, ...), or one array per step, of the input's dtype and shape
        last:   only the outputs of the last step, in their own shapes; there must be a step then
        Errors: ValueError naming the first input that does not fit; TypeError for what is no array.
        """
        columns = [self._column(k, steps, column) for k, column in enumerate(inputs)]
        if len(columns) != len(self._inputs):
            raise ValueError(f"{self.program.name}: expects {len(self._inputs)} inputs, found {len(columns)}")
        if self._verify:
            self._check("state", state)
        if last and not steps:
            raise ValueError(f"{self.program.name}: no steps, so there is no last one")
        empty = self._empty if last else np.empty
        outputs = [empty(shape if last else (steps, *shape), dtype) for _, shape, dtype in self._outputs]
        if self._copies:
            for k in range(steps):
                for output, value in zip(outputs, self.run([c[k] for c in columns], state), strict=True):
                    output[... if last else k] = value
            return outputs
        bound = self._bound_to(state)
        written = [[address(o)] * steps if last else _addresses(o, steps) for o in outputs]
        moving = np.array([*(_addresses(c, steps) for c in columns), *written], np.uint64)
        moving = moving.reshape(len(columns) + len(outputs), steps)
        done, chunk = 0, 1
        while done < steps:
            block = self._many(bound, np.ascontiguousarray(moving[:, done : done + chunk].T))
            start = perf_counter()
            with bound.lock:
                if not bound.team.running:
                    bound.team.start()
                self._run(address(block))
            done += chunk
            each = (perf_counter() - start) / chunk
            chunk = max(1, min(steps - done, int(_NATIVE_SECONDS / max(each, 1e-9))))
        return outputs

    def _many(self, bound: _Bound, moving: np.ndarray) -> np.ndarray:
        """The job of as many steps as `moving` has rows; see `native` for its layout."""
        table = bound.job[JOB_WORDS:]
        width = -(-len(table) * 8 // LINE_BYTES) * (LINE_BYTES // 8)
        slots = [slot - JOB_WORDS for slot in (*self._inputs, *(slot for slot, _, _ in self._outputs))]
        own = [*table, *[0] * (width - len(table))] * bound.team.width
        head = [functions().many, *bound.job[1:JOB_WORDS], bound.job[0], len(moving), width, len(slots), *slots]
        return np.concatenate([np.array(head, np.uint64), moving.reshape(-1), np.array(own, np.uint64)])

    def times(self, inputs: Sequence[np.ndarray], state: Sequence[np.ndarray]) -> np.ndarray:
        """Perform one step that measures itself: for each call the nanoseconds that thread 0 waited before it and that it
        took; then how long it waited at the end; then how often each call ran (in loops more than once).

        Errors: ValueError when the program does not measure itself.
        """
        if self.program.times_at < 0:
            what = "its program does not measure itself; compile it with timed=True, or use Compiled.profile"
            raise ValueError(f"{self.program.name}: {what}")
        memory = self._bound_to(state).memory[1]
        words = time_words(len(self.program.calls))
        kept = np.ctypeslib.as_array((ctypes.c_int64 * words).from_address(memory.address + self.program.times_at))
        kept[:] = 0
        self.run(inputs, state)
        return kept[1:].copy()

    @property
    def arena_bytes(self) -> int:
        """Memory that runs use besides inputs, state, outputs and constants: the arena and each thread's scratch."""
        return self.program.arena_bytes + self.width * _stride(self.program)

    def _bound_to(self, state: Sequence[np.ndarray]) -> _Bound:
        """A job with the addresses of these state arrays, prepared now if the last one was for others."""
        bound = self._bound
        if bound is None or len(state) != len(bound.states) or not all(map(is_, state, bound.states)):
            bound = self._bind(state)
        return bound

    def _bind(self, state: Sequence[np.ndarray]) -> _Bound:
        """Prepare a job with the addresses of these state arrays, taking memory and threads if none were taken yet."""
        for k, value in enumerate(state):
            if not isinstance(value, ndarray):
                name = self.program.buffers[self._states[k] - JOB_WORDS].name if k < len(self._states) else k
                raise TypeError(f"{self.program.name}: state {name!r} must be a numpy array, found {value!r}")
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
        rounds = rounds_of(_waiting_ns(self.program)) if self._flexible and team.width > 1 else FOREVER
        head = [self._loaded.address, team.address, arena.address, scratch.address, stride, rounds]
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

    def _array(self, k: int, value: object) -> np.ndarray:
        """Input k as an array: itself, or a numpy scalar where the shape is ().

        Errors: TypeError for anything else.
        """
        if isinstance(value, ndarray):
            return value
        if k >= len(self._inputs):
            raise ValueError(f"{self.program.name}: expects {len(self._inputs)} inputs, found more")
        spec = self.program.buffers[self._inputs[k] - JOB_WORDS]
        if isinstance(value, np.generic) and spec.shape == () and value.dtype == dtype_of(spec.dtype):
            return np.asarray(value)
        expected = f"a numpy array {spec.dtype}{list(spec.shape)}"
        raise TypeError(f"{self.program.name}: input {spec.name!r} must be {expected}, found {value!r} of {type(value)}")

    def _column(self, k: int, steps: int, column: Column) -> Column:
        """What input k is in every step."""
        if k >= len(self._inputs):
            raise ValueError(f"{self.program.name}: expects {len(self._inputs)} inputs, found more")
        spec = self.program.buffers[self._inputs[k] - JOB_WORDS]
        if isinstance(column, ndarray):
            self._check_fit(spec, column, (steps, *spec.shape))
            return column
        arrays = [v if type(v) is ndarray else self._array(k, v) for v in column]
        dtype, shape = dtype_of(spec.dtype), spec.shape
        for value in arrays:
            if value.dtype != dtype or value.shape != shape or not value.flags.c_contiguous:
                self._check_fit(spec, value, shape)
        if len(arrays) != steps:
            raise ValueError(f"{self.program.name}: input {spec.name!r} must be given {steps} times, found {len(arrays)}")
        return arrays

    def _check_fit(self, spec: BufferSpec, value: np.ndarray, shape: tuple[int, ...]) -> None:
        found = (value.dtype.name, value.shape, value.flags.c_contiguous)
        if found != (spec.dtype, shape, True):
            expected = f"{spec.dtype}{list(shape)}, C-contiguous"
            raise ValueError(f"{self.program.name}: {spec.kind} {spec.name!r} must be {expected}; found {found}")

    def _check(self, kind: str, arrays: Sequence[np.ndarray]) -> None:
        specs = [spec for spec in self.program.buffers if spec.kind == kind]
        if len(specs) != len(arrays):
            raise ValueError(f"{self.program.name}: expects {len(specs)} arrays as {kind}, found {len(arrays)}")
        for spec, value in zip(specs, arrays, strict=True):
            self._check_fit(spec, value, spec.shape)
            if kind == "state" and not value.flags.writeable:
                raise ValueError(f"{self.program.name}: state {spec.name!r} must be writeable")


def _addresses(column: Column, steps: int) -> np.ndarray | list[int]:
    """Where each step's array begins."""
    if isinstance(column, ndarray):
        each = column.nbytes // max(steps, 1)
        return np.uint64(address(column)) + np.arange(steps, dtype=np.uint64) * np.uint64(each)
    return [address(value) for value in column]


def _waiting_ns(program: Program) -> float:
    """How long a step waits for its team: a part of the time that the team could save; a small part, when it is long."""
    shared = sum(max(c.flops / _GFLOPS, c.bytes / _GBYTES) for c in program.calls if c.extent > 1)
    return max(min(max(shared / 4, _LEAST_NS), _WAKING_NS), min(shared / 40, _LATEST_NS))


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
