"""The layout of `.ckpt` files: a protobuf message, written and read by hand.

    Checkpoint { repeated Value value = 1 }
    Value { string tag = 1; Tensor tensor = 2 }
    Tensor { repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3 }

A tensor of many bytes stands in several Values of one tag, one after the other. A str has the type `str`,
dims [0] and its characters as UTF-32. A file may end in `crc_num` and ten bytes: the CRC32 of all before, big
end first.

Source: the protobuf encoding, protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

CHUNK_BYTES = 512 << 20  # a protobuf field must stay below 2 GiB
_CRC_MARK, _CRC_BYTES = b"crc_num", 10
_VARINT, _BYTES = 0, 2


class Entry(NamedTuple):
    """A named tensor as the file has it."""

    tag: str
    dims: tuple[int, ...]
    type: str
    content: memoryview


class DamagedError(ValueError):
    """The bytes are no checkpoint; the text says why."""


def write(
    file: BinaryIO, entries: Iterable[Entry], crc: bool = False, chunk_bytes: int = CHUNK_BYTES
) -> None:
    """Write the entries, and with `crc` the sum of all bytes at the end."""
    total = 0
    for entry in entries:
        for start in range(0, max(len(entry.content), 1), chunk_bytes):
            part = entry.content[start : start + chunk_bytes]
            for piece in (_head(entry, len(part)), part):
                file.write(piece)
                total = zlib.crc32(piece, total) if crc else 0
    if crc:
        file.write(_CRC_MARK + total.to_bytes(_CRC_BYTES, "big"))


def _head(entry: Entry, content_bytes: int) -> bytes:
    """All of one Value up to its content."""
    dims = b"".join(b"\x08" + _varint(d) for d in entry.dims)
    tensor = dims + _field(2, entry.type.encode()) + b"\x1a" + _varint(content_bytes)
    value = _field(1, entry.tag.encode()) + b"\x12" + _varint(len(tensor) + content_bytes) + tensor
    return b"\x0a" + _varint(len(value) + content_bytes) + value


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | _BYTES]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    return bytes([value & 127 | 128]) + _varint(value >> 7) if value > 127 else bytes([value])


def read(data: bytes) -> list[Entry]:
    """The entries, parts of one tensor joined.

    Errors: DamagedError for bytes that are no checkpoint or do not have the sum they end with.
    """
    view, last = memoryview(data), -_CRC_BYTES - len(_CRC_MARK)
    if data[last:-_CRC_BYTES] == _CRC_MARK:
        view = view[:last]
        if zlib.crc32(view) != int.from_bytes(data[-_CRC_BYTES:], "big"):
            raise DamagedError("the CRC32 of its bytes is not the one it ends with")
    parts: list[tuple[Entry, list[memoryview]]] = []
    for _, value in _fields(view, {1: _BYTES}):
        entry = _entry(value)
        if parts and parts[-1][0].tag == entry.tag:
            parts[-1][1].append(entry.content)
        else:
            parts.append((entry, [entry.content]))
    return [e if len(p) == 1 else e._replace(content=memoryview(b"".join(p))) for e, p in parts]


def _entry(value: memoryview) -> Entry:
    named = dict(_fields(value, {1: _BYTES, 2: _BYTES}))
    fields = list(_fields(named.get(2, memoryview(b"")), {1: _VARINT, 2: _BYTES, 3: _BYTES}))
    tensor = dict(fields)
    if not {1, 2} <= set(named) or not {2, 3} <= set(tensor):
        raise DamagedError("an entry lacks its name, type or content")
    dims = tuple(int(size) for number, size in fields if number == 1)
    try:
        return Entry(str(named[1], "utf-8"), dims, str(tensor[2], "utf-8"), tensor[3])
    except UnicodeDecodeError:
        raise DamagedError("a name is no UTF-8") from None


def _fields(view: memoryview, known: dict[int, int]) -> Iterator[tuple[int, memoryview]]:
    """(number, value) of a message's fields, an int for a varint; `known` are the wire types by number."""
    at = 0
    while at < len(view):
        key, at = _number(view, at)
        if known.get(key >> 3) != key & 7:
            raise DamagedError(f"found field {key >> 3} of wire type {key & 7} at byte {at - 1} of a message")
        size, at = _number(view, at)
        if key & 7 == _VARINT:
            yield key >> 3, size  # type: ignore[misc]
            continue
        if size > len(view) - at:
            raise DamagedError(f"it ends early: {size} bytes are announced, {len(view) - at} are left")
        yield key >> 3, view[at : at + size]
        at += size


def _number(view: memoryview, at: int) -> tuple[int, int]:
    """A varint, and where the next byte is."""
    value = shift = 0
    while at < len(view) and shift < 64:
        value, shift, at = value | (view[at] & 127) << shift, shift + 7, at + 1
        if view[at - 1] < 128:
            return value, at
    raise DamagedError("it ends inside a number, or a number is too long")
