"""Files of named arrays: `.ckpt` and safetensors, written whole or not at all."""

from __future__ import annotations

import itertools
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import Any

import numpy as np

from graphopt.ir.types import DTYPES, dtype_of
from graphopt.train import wire

Values = Mapping[str, "np.ndarray | str"]
_TYPES = {repr(d): d.numpy for d in DTYPES}
_SAFE_TYPES = {"BOOL" if d.kind == "b" else d.short.upper(): d.numpy for d in DTYPES}
_MOST_ZEROS = 1 << 24  # MindSpore itself cannot sum larger numbers than memory has bytes
_numbers = itertools.count()


def save(path: str, values: Values, format: str, crc: bool) -> None:
    """Write the file; if that fails, the one that was there stays.

    Errors: OSError; ValueError for a str in a safetensors file; ImportError without the package.
    """
    if format == "safetensors":
        _save_safetensors(path, values, crc)
        return
    with replacing(path) as temporary, open(temporary, "xb") as file:
        wire.write(file, (_entry(n, v) for n, v in values.items()), crc)
        _settle(file)


@contextmanager
def replacing(path: str) -> Iterator[str]:
    """The name of a file in the same folder, which becomes `path` when the block ends without an error."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}-{next(_numbers)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.remove(temporary)


def _settle(file: Any) -> None:
    """See that the bytes are on the disk before the name is."""
    file.flush()
    os.fsync(file.fileno())


def load(file: str | BytesIO, format: str, crc: bool) -> dict[str, np.ndarray | str]:
    """The arrays and strs of a file.

    Errors: ValueError naming the file and what is wrong with it; ImportError without the package.
    """
    name = file if isinstance(file, str) else "the BytesIO"
    try:
        data = _bytes(file)
        return _from_safetensors(data, crc) if format == "safetensors" else _from_ckpt(data)
    except (OSError, wire.DamagedError) as error:
        raise ValueError(f"load_checkpoint: {name} cannot be read: {error}") from error


def _bytes(file: str | BytesIO) -> bytes:
    """All bytes of a file."""
    if isinstance(file, BytesIO):
        return file.getvalue()
    with open(file, "rb") as opened:
        return opened.read()


def _entry(name: str, value: np.ndarray | str) -> wire.Entry:
    if isinstance(value, str):
        characters = (value or "\0").encode("utf-32-le", "surrogatepass")
        return wire.Entry(name, (0,), "str", memoryview(characters))
    flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    return wire.Entry(name, value.shape, repr(dtype_of(value.dtype)), memoryview(flat))  # type: ignore[arg-type]


def _from_ckpt(data: bytes) -> dict[str, np.ndarray | str]:
    values: dict[str, np.ndarray | str] = {}
    for entry in wire.read(data):
        if entry.tag in values:
            raise wire.DamagedError(f"the name {entry.tag!r} stands in it twice")
        values[entry.tag] = _text(entry) if entry.type == "str" else _array(entry)
    return values


def _text(entry: wire.Entry) -> str:
    try:
        return bytes(entry.content).decode("utf-32-le", "surrogatepass").rstrip("\0")
    except UnicodeDecodeError:
        raise wire.DamagedError(f"the text of {entry.tag!r} is no UTF-32") from None


def _array(entry: wire.Entry) -> np.ndarray:
    kind = _TYPES.get(entry.type)
    if kind is None:
        raise wire.DamagedError(f"{entry.tag!r} has the unknown dtype {entry.type!r}")
    scalar = entry.dims == (0,) and len(entry.content) > 0  # how older files write shape ()
    shape = () if scalar else entry.dims
    expected = math.prod(shape) * kind.itemsize
    if len(entry.content) != expected:
        what = f"{entry.type} of shape {shape} has {expected} bytes, found {len(entry.content)}"
        raise wire.DamagedError(f"{entry.tag!r} does not fit its type: {what}")
    return np.frombuffer(entry.content, np.uint8).copy().view(kind).reshape(shape)


# safetensors ------------------------------------------------------------------------------------------------


def _package() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        text = "format 'safetensors' needs the package safetensors: pip install 'graphopt[safetensors]'"
        raise ImportError(text) from None
    return safetensors


def _save_safetensors(path: str, values: Values, crc: bool) -> None:
    package = _package()
    arrays = {}
    for name in sorted(values):
        value = values[name]
        if isinstance(value, str):
            raise ValueError(
                f"save_checkpoint: a safetensors file holds no str, found {name!r}; use format='ckpt'"
            )
        arrays[name] = np.ascontiguousarray(value).reshape(value.shape)
    metadata = {"format": "ms"} | ({"crc_num": str(_sum(arrays))} if crc else {})
    with replacing(path) as temporary:
        with open(temporary, "xb"):
            pass  # so that the rights of the file are those of any new one
        package.numpy.save_file(arrays, temporary, metadata)
        with open(temporary, "rb+") as file:
            _settle(file)


def _sum(arrays: Mapping[str, np.ndarray]) -> int:
    """MindSpore's CRC32 of names and values. It takes Python's bytes(array), and bytes(3) are three zeros: so a
    single integer counts as that many zeros.
    """
    total = 0
    for name in sorted(arrays):
        array = arrays[name]
        zeros = array.ndim == 0 and array.dtype.kind in "iu" and 0 <= array <= _MOST_ZEROS
        total = zlib.crc32(bytes(int(array)) if zeros else array.tobytes(), zlib.crc32(name.encode(), total))
    return total


def _from_safetensors(data: bytes, crc: bool) -> dict[str, np.ndarray | str]:
    package = _package()
    try:
        listed = package.deserialize(data)
    except package.SafetensorError as error:
        raise wire.DamagedError(str(error)) from None
    arrays: dict[str, np.ndarray] = {}
    for name, tensor in sorted(listed):
        kind = _SAFE_TYPES.get(tensor["dtype"])
        if kind is None:
            raise wire.DamagedError(f"{name!r} has the unknown dtype {tensor['dtype']}")
        arrays[name] = np.frombuffer(tensor["data"], np.uint8).copy().view(kind).reshape(tensor["shape"])
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    expected = header.get("__metadata__", {}).get("crc_num")
    if crc and expected is not None and expected != str(_sum(arrays)):
        raise wire.DamagedError("the CRC32 of its tensors is not the one it notes")
    return dict(arrays)
