"""Program: everything the runtime needs to run a compiled step; the border between compiler and runtime.

A Program is plain frozen data. On disk it is a short header in JSON followed by its constants and its object code as
they are, and a checksum over all of it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from math import prod

KINDS = ("input", "state", "output", "constant")
ITEMSIZES = {
    "bool": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8,
}  # fmt: skip

_MAGIC = b"graphopt program\n"
_VERSION = 3
_PREFIX = struct.Struct("<II")  # version, bytes of the header
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class BufferSpec:
    """One array that the step reads or writes.

    dtype: numpy's name, or "bfloat16"; kind: "input", "state" (updated in place), "output" or "constant".
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    kind: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"buffer {self.name!r}: expected a kind of {', '.join(KINDS)}, found {self.kind!r}")
        if self.dtype not in ITEMSIZES:
            raise ValueError(f"buffer {self.name!r}: no such dtype: {self.dtype!r}")
        if any(size < 0 for size in self.shape):
            raise ValueError(f"buffer {self.name!r}: negative size in {self.shape}")

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEMSIZES[self.dtype]


@dataclass(frozen=True, slots=True)
class Call:
    """One kernel inside the step, in order of execution.

    extent: iterations of its parallel loop, 1 when thread 0 runs it alone; barrier: one stands before it;
    cell: the Cell it came from; where: the user's line; chunks: in how many it is dealt out, 1 when each thread has a share.
    For reports: the native code needs none of this.
    """

    kernel: str
    extent: int
    barrier: bool
    cell: str
    where: str
    flops: int
    bytes: int
    chunks: int = 1


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled step.

    buffers:   in the order of the native function's table of pointers
    constants: the values of the constant buffers, raw, in order
    aliases:   (output buffer, state or input buffer): the output is a copy of the other once the step has run;
               the native code never touches such an output
    arena_bytes, scratch_bytes: shared by the team; for each thread alone
    parallel:  False when thread 0 runs the step alone
    times_at:  of a step that measures itself, where in a thread's scratch its times are: the time of the last mark, then
               for each call the nanoseconds of waiting before it and of running it, and of waiting at the end,
               then how often each call ran; -1 for other steps
    entry:     the native function `void entry(i64 thread, i64 team, ptr args, ptr arena, ptr scratch, ptr barrier)`
    code:      object code for the machine it was compiled for
    """

    name: str
    buffers: tuple[BufferSpec, ...]
    constants: tuple[bytes, ...]
    aliases: tuple[tuple[int, int], ...]
    calls: tuple[Call, ...]
    arena_bytes: int
    scratch_bytes: int
    parallel: bool
    entry: str
    code: bytes
    times_at: int = -1

    def __post_init__(self) -> None:
        specs = [spec for spec in self.buffers if spec.kind == "constant"]
        if [spec.nbytes for spec in specs] != [len(value) for value in self.constants]:
            raise ValueError(f"program {self.name!r}: its constants do not have the sizes of its constant buffers")
        if self.arena_bytes < 0 or self.scratch_bytes < 0:
            raise ValueError(f"program {self.name!r}: negative size of arena or scratch")
        if self.times_at >= 0 and self.times_at + 8 * time_words(len(self.calls)) > self.scratch_bytes:
            raise ValueError(f"program {self.name!r}: its times do not fit into its scratch")
        for output, source in self.aliases:
            if not (0 <= output < len(self.buffers) and 0 <= source < len(self.buffers)):
                raise ValueError(f"program {self.name!r}: alias ({output}, {source}) names no buffer")
            a, b = self.buffers[output], self.buffers[source]
            if a.kind != "output" or b.kind not in ("state", "input") or (a.dtype, a.shape) != (b.dtype, b.shape):
                raise ValueError(f"program {self.name!r}: {a.name!r} cannot be a copy of {b.name!r}")


def time_words(calls: int) -> int:
    """Words of 8 bytes that the times of a step with so many calls take."""
    return 2 + 3 * calls


def to_bytes(program: Program) -> bytes:
    """The program as bytes; `from_bytes` reads them back."""
    header = {
        "name": program.name,
        "buffers": [[b.name, b.dtype, list(b.shape), b.kind] for b in program.buffers],
        "aliases": [list(pair) for pair in program.aliases],
        "calls": [[c.kernel, c.extent, c.barrier, c.cell, c.where, c.flops, c.bytes, c.chunks] for c in program.calls],
        "arena_bytes": program.arena_bytes,
        "scratch_bytes": program.scratch_bytes,
        "parallel": program.parallel,
        "entry": program.entry,
        "times_at": program.times_at,
        "sections": [len(section) for section in (*program.constants, program.code)],
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    body = b"".join((_MAGIC, _PREFIX.pack(_VERSION, len(text)), text, *program.constants, program.code))
    return body + hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()


def from_bytes(data: bytes) -> Program:
    """The program that `to_bytes` wrote.

    Errors: ValueError when the bytes are damaged, incomplete, or of another version.
    """
    start = len(_MAGIC) + _PREFIX.size
    if len(data) < start + _DIGEST_BYTES or not data.startswith(_MAGIC):
        raise ValueError("not a graphopt program")
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    version, header_bytes = _PREFIX.unpack_from(data, len(_MAGIC))
    if version != _VERSION:
        raise ValueError(f"graphopt program of version {version}, this runtime reads version {_VERSION}")
    if hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() != digest:
        raise ValueError("damaged graphopt program: its checksum differs")
    try:
        header = json.loads(body[start : start + header_bytes])
        sections = _split(body, start + header_bytes, header["sections"])
        return Program(
            name=header["name"],
            buffers=tuple(BufferSpec(name, dtype, tuple(shape), kind) for name, dtype, shape, kind in header["buffers"]),
            constants=sections[:-1],
            aliases=tuple((output, source) for output, source in header["aliases"]),
            calls=tuple(Call(*fields) for fields in header["calls"]),
            arena_bytes=header["arena_bytes"],
            scratch_bytes=header["scratch_bytes"],
            parallel=header["parallel"],
            entry=header["entry"],
            times_at=header["times_at"],
            code=sections[-1],
        )
    except (KeyError, TypeError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"damaged graphopt program: {error}") from None


def _split(body: bytes, start: int, sizes: list[int]) -> tuple[bytes, ...]:
    """Cut `body` from `start` on into sections of these sizes, with nothing left over."""
    sections = []
    for size in sizes:
        sections.append(body[start : start + size])
        start += size
    if start != len(body) or not sections:
        raise ValueError("damaged graphopt program: its sections do not fill it")
    return tuple(sections)
