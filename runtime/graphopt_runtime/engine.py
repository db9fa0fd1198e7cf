"""LLVM IR text -> object code -> function pointers.

Compiling and loading are apart: object code is plain bytes that a cache can keep, and loading it costs well under a
millisecond. Kernels come as explicit vector code, so the passes here are few. Code may come in several modules, which
`Assembly` compiles on a thread of its own while the next one is being written.
"""

from __future__ import annotations

import itertools
import os
import struct
import sys
import threading
from collections.abc import Mapping, Sequence
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

_lock = threading.RLock()  # LLVM's contexts and JIT are used by one thread at a time; held while the process forks
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


@cache
def _machine(target: Target, level: int) -> Any:
    """LLVM's description of the target, with position-independent code: constants are then one short load away."""
    _initialize()
    try:
        found = llvm.Target.from_triple(target.triple)
        return found.create_target_machine(
            cpu=target.cpu, features=target.features, opt=level, reloc="pic", codemodel="small", jit=True
        )
    except RuntimeError as error:
        raise EngineError(f"{target.triple}: {error}") from None


def _prepare(ir: str, target: Target, passes: Sequence[str], level: int) -> tuple[Any, Any]:
    """A verified module in a context of its own after the passes, and the machine it is for."""
    machine = _machine(target, level)
    try:
        module = llvm.parse_assembly(ir, llvm.create_context())
        module.verify()
    except RuntimeError as error:
        raise EngineError(str(error)) from None
    module.triple = target.triple
    module.data_layout = str(machine.target_data)
    _run_passes(module, machine, passes)
    return module, machine


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
    with _lock:
        module, machine = _prepare(ir, target or host(), passes, level)
        return bytes(machine.emit_object(module))


class Assembly:
    """Object code made of several modules, compiled in the background in the order they are added.

    A function that one module defines with external linkage can be called from the others. As a context it lets the
    background thread have Python's attention quickly: LLVM is called some ten times per module.
    """

    def __init__(self, target: Target | None = None, passes: Sequence[str] = LIGHT, level: int = 2):
        self._options = (target, passes, level)
        self._objects: list[bytes] = []
        self._error: Exception | None = None
        self._last: threading.Thread | None = None

    def add(self, ir: str) -> None:
        """Begin to compile a module of LLVM IR, after the ones added before."""
        before = self._last
        self._last = threading.Thread(target=self._compile, args=(ir, before), name="graphopt compile")
        self._last.start()

    def __enter__(self) -> Assembly:
        self._switch = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH)
        return self

    def __exit__(self, *problem: object) -> None:
        sys.setswitchinterval(self._switch)

    def code(self) -> bytes:
        """The object code of all modules, once they are compiled.

        Errors: EngineError when LLVM does not accept a text or the target.
        """
        if self._last is not None:
            self._last.join()
        if self._error is not None:
            raise self._error
        return _SEVERAL + b"".join(struct.pack("<Q", len(o)) + o for o in self._objects)

    def _compile(self, ir: str, before: threading.Thread | None) -> None:
        if before is not None:
            before.join()
        if self._error is None:
            try:
                self._objects.append(compile_ir(ir, *self._options))
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
    with _lock:
        module, machine = _prepare(ir, target or host(), passes, level)
        return str(machine.emit_assembly(module))


def ir_after_passes(ir: str, target: Target | None = None, passes: Sequence[str] = LIGHT) -> str:
    """The module as code generation sees it."""
    with _lock:
        return str(_prepare(ir, target or host(), passes, 2)[0])


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


os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
