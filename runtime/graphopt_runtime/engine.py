"""LLVM IR text -> object code -> function pointers.

Compiling and loading are apart: object code is plain bytes that a cache can keep, and loading it costs well under a
millisecond. Kernels come as explicit vector code, so the passes here are few. Code may come in several modules, which
`Assembly` compiles on a thread of its own while the next one is being written, and on two when all are.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import struct
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import llvmlite
import llvmlite.binding as llvm

LIGHT = ("sroa",)
"""Enough for code that is already vectorised and unrolled: variables become registers, addresses are folded."""

_PIPELINES = ("O1", "O2", "O3")

_SWITCH = 0.0002  # seconds
_SEVERAL = b"graphopt objects"  # no object file begins like this

_TOGETHER = 2  # threads that generate code at the same time

_lock = threading.RLock()  # LLVM's binding and JIT are used by one thread at a time; held while the process forks
_emitting = threading.Semaphore(_TOGETHER)  # threads in LLVM without that lock; none when the process forks
_names = itertools.count()


@dataclass(frozen=True, slots=True)
class Target:
    """The machine that code is for.

    features: as LLVM writes them, "+avx2,-avx512f"; later ones win. `Target(triple, "x86-64", "")` is plain SSE2.
    """

    triple: str
    cpu: str
    features: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """Native code in memory; it stays there as long as this object lives."""

    entry: str
    address: int
    keep: Any = field(repr=False, compare=False)


class EngineError(RuntimeError):
    """LLVM refused the code: the text, its verification, or its linking. The message is LLVM's own."""


@cache
def host() -> Target:
    """The machine that this process runs on."""
    return Target(llvm.get_process_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())


@cache
def version() -> str:
    """Which LLVM compiles: part of the key of everything cached."""
    return f"llvmlite {llvmlite.__version__} llvm {'.'.join(map(str, llvm.llvm_version_info))}"


@cache
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


@cache
def _jit() -> Any:
    """The one JIT of the process."""
    _initialize()
    return llvm.create_lljit_compiler(use_jit_link=os.name == "posix", suppress_errors=True)


_machines: dict[tuple[Target, int], list[Any]] = {}


@contextmanager
def _machine(target: Target, level: int) -> Iterator[Any]:
    """LLVM's description of the target, which no other thread uses in the meantime, with position-independent code:
    constants are then one short load away.
    """
    idle = _machines.setdefault((target, level), [])
    with _lock:
        _initialize()
        try:
            found = idle.pop() if idle else llvm.Target.from_triple(target.triple).create_target_machine(
                cpu=target.cpu, features=target.features, opt=level, reloc="pic", codemodel="small", jit=True
            )
        except RuntimeError as error:
            raise EngineError(f"{target.triple}: {error}") from None
    try:
        yield found
    finally:
        idle.append(found)


@contextmanager
def _module(ir: str, target: Target, machine: Any, passes: Sequence[str]) -> Iterator[Any]:
    """A verified module in a context of its own after the passes."""
    with llvm.create_context() as context:
        try:
            module = llvm.parse_assembly(ir, context)
        except RuntimeError as error:
            raise EngineError(str(error)) from None
        with module:  # it goes before its context
            try:
                module.verify()
            except RuntimeError as error:
                raise EngineError(str(error)) from None
            module.triple = target.triple
            module.data_layout = str(machine.target_data)
            _run_passes(module, machine, passes)
            yield module


@cache
def _code_generator() -> Any:
    """LLVM's function that writes object code, without the lock that its binding puts around every call.

    LLVM itself lets threads work on modules in contexts of their own. The binding's lock is for those who share contexts; with
    it, one thread at a time generates code. None where the binding does not say which library it is.
    """
    name = getattr(llvm.ffi.lib, "_name", None)
    emit = getattr(ctypes.CDLL(name), "LLVMPY_TargetMachineEmitToMemory", None) if name else None
    if emit is not None:
        emit.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)]
        emit.restype = llvm.ffi.LLVMMemoryBufferRef
    return emit


def _object_code(machine: Any, module: Any) -> bytes:
    emit, lib = _code_generator(), llvm.ffi.lib
    if emit is None:
        return bytes(machine.emit_object(module))
    message = ctypes.c_char_p()
    buffer = emit(machine, module, 1, ctypes.byref(message))
    if not buffer:
        found = (message.value or b"").decode(errors="replace")
        lib.LLVMPY_DisposeString(message)
        raise EngineError(found)
    try:
        return ctypes.string_at(lib.LLVMPY_GetBufferStart(buffer), lib.LLVMPY_GetBufferSize(buffer))
    finally:
        lib.LLVMPY_DisposeMemoryBuffer(buffer)


def _run_passes(module: Any, machine: Any, passes: Sequence[str]) -> None:
    """Run the passes in order: LLVM's whole pipelines one by one, single passes together as far as they follow each other.

    Errors: ValueError when LLVM's binding has no such pass.
    """
    for whole, group in itertools.groupby(passes, _PIPELINES.__contains__):
        names = list(group)
        if whole:
            for name in names:
                builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(int(name[1])))
                builder.getModulePassManager().run(module, builder)
            continue
        manager = llvm.create_new_module_pass_manager()
        for name in names:
            add = getattr(manager, f"add_{name}_pass", None)
            if add is None:
                raise ValueError(f"no such pass: {name!r}")
            add()
        manager.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(1)))


def compile_ir(ir: str, target: Target | None = None, passes: Sequence[str] = LIGHT, level: int = 2) -> bytes:
    """Object code for a module of LLVM IR.

    passes: names of llvmlite's passes (`sroa` for `add_sroa_pass`), or "O1" … "O3" for LLVM's own whole pipelines
    level:  effort of code generation, 0 to 3
    Errors: EngineError when LLVM does not accept the text or the target; ValueError for an unknown pass.
    """
    target = target or host()
    with _machine(target, level) as machine, ExitStack() as prepared:
        with _lock:
            module = prepared.enter_context(_module(ir, target, machine, passes))
        with _emitting:
            code = _object_code(machine, module)
            prepared.close()
    return code


class Assembly:
    """Object code made of several modules, compiled in the background in the order they are added.

    A function that one module defines with external linkage can be called from the others. As a context it lets the
    background thread have Python's attention quickly: LLVM is called some ten times per module.
    """

    def __init__(self, target: Target | None = None, passes: Sequence[str] = LIGHT, level: int = 2):
        self._options = (target, passes, level)
        self._waiting: deque[tuple[int, str]] = deque()
        self._objects: list[bytes] = []
        self._error: Exception | None = None
        self._worker = threading.Thread()

    def add(self, ir: str) -> None:
        """Begin to compile a module of LLVM IR, after the ones added before."""
        self._waiting.append((len(self._objects), ir))
        self._objects.append(b"")
        if not self._worker.is_alive():
            self._worker = threading.Thread(target=self._compile, name="graphopt compile")
            self._worker.start()

    def __enter__(self) -> Assembly:
        self._switch = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH)
        return self

    def __exit__(self, *problem: object) -> None:
        sys.setswitchinterval(self._switch)

    def code(self) -> bytes:
        """The object code of all modules, once they are compiled, which the caller helps with.

        Errors: EngineError when LLVM does not accept a text or the target.
        """
        self._compile()
        if self._worker.is_alive():
            self._worker.join()
        if self._error is not None:
            raise self._error
        return _SEVERAL + b"".join(struct.pack("<Q", len(o)) + o for o in self._objects)

    def _compile(self) -> None:
        """Compile modules that nobody has begun with, as long as there are any."""
        while self._error is None:
            try:
                place, ir = self._waiting.popleft()
            except IndexError:
                return
            try:
                self._objects[place] = compile_ir(ir, *self._options)
            except Exception as error:  # raised where the code is asked for
                self._error = error


def _object_files(code: bytes) -> list[bytes]:
    """The object files that code consists of."""
    if not code.startswith(_SEVERAL):
        return [code]
    files, at = [], len(_SEVERAL)
    while at < len(code):
        (size,) = struct.unpack_from("<Q", code, at)
        files.append(code[at + 8 : at + 8 + size])
        at += 8 + size
    return files


def assembly(ir: str, target: Target | None = None, passes: Sequence[str] = LIGHT, level: int = 2) -> str:
    """The assembly text of what `compile_ir` emits."""
    target = target or host()
    with _lock, _machine(target, level) as machine, _module(ir, target, machine, passes) as module:
        return str(machine.emit_assembly(module))


def ir_after_passes(ir: str, target: Target | None = None, passes: Sequence[str] = LIGHT) -> str:
    """The module as code generation sees it."""
    target = target or host()
    with _lock, _machine(target, 2) as machine, _module(ir, target, machine, passes) as module:
        return str(module)


def load(code: bytes, entry: str, symbols: Mapping[str, int] | None = None) -> Loaded:
    """Link object code into this process and find `entry`.

    symbols: addresses for names the code leaves open; others are looked up in the process (the C and maths libraries).
    Errors: EngineError when the code does not link or has no such entry.
    """
    builder = llvm.JITLibraryBuilder().add_current_process().export_symbol(entry)
    for file in _object_files(code):
        builder.add_object_img(file)
    for name, address in (symbols or {}).items():
        builder.import_symbol(name, address)
    with _lock:
        try:
            tracker = builder.link(_jit(), f"graphopt_{next(_names)}")
        except RuntimeError as error:
            raise EngineError(f"{entry}: {error}") from None
    return Loaded(entry, tracker[entry], tracker)


def _before_fork() -> None:
    _lock.acquire()
    for _ in range(_TOGETHER):
        _emitting.acquire()


def _after_fork() -> None:
    _emitting.release(_TOGETHER)
    _lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
