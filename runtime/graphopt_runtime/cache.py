"""A content-addressed cache on disk that can only help.

Every entry is one file, written whole to a temporary name and then renamed, and carries a checksum over its key and
its bytes. Whatever goes wrong (a read-only or full disk, a damaged or foreign file) is a miss, never an error.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

LIMIT_BYTES = 512 << 20

_MAGIC = b"graphopt cache 1\n"
_DIGEST_BYTES = 32
_ENTRY = ".entry"
_TEMPORARY = ".partial"
_STALE_SECONDS = 3600.0  # a temporary file this old was left behind by a process that died


def key_of(*parts: bytes | str) -> str:
    """The key of a value made from these parts: equal parts in the same order, equal key."""
    digest = hashlib.blake2b(digest_size=24)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What a cache holds; folder is None when nothing is kept."""

    folder: str | None
    entries: int
    bytes: int
    limit_bytes: int


class Cache:
    """Values by key in `folder`; `Cache(None)` keeps nothing.

    When the files exceed `limit_bytes`, those that were used longest ago go. Safe with threads and processes that
    share the folder. Entries of other users (but root) are not read: they hold code that would be run.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder = None if folder is None else os.fspath(folder)
        self.limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._estimate_bytes = -1  # of all entries; -1 until they were counted

    def _path(self, key: str) -> str | None:
        if self.folder is None or not key.isalnum():
            return None
        return os.path.join(self.folder, key + _ENTRY)

    def get(self, key: str) -> bytes | None:
        """The value last put under `key`, or None."""
        path = self._path(key)
        if path is None:
            return None
        try:
            with open(path, "rb") as file:
                if hasattr(os, "geteuid") and os.fstat(file.fileno()).st_uid not in (0, os.geteuid()):
                    return None
                data = file.read()
        except OSError:
            return None
        start = len(_MAGIC) + _DIGEST_BYTES
        value = data[start:]
        if len(data) < start or data[:start] != _MAGIC + _digest(key, value):
            _remove(path)
            return None
        with suppress(OSError):
            os.utime(path)  # it was used now: the time of change is what decides who goes first
        return value

    def put(self, key: str, value: bytes) -> None:
        """Keep `value` under `key` when that is possible."""
        path = self._path(key)
        if path is None or self.folder is None:
            return
        data = _MAGIC + _digest(key, value) + value
        if len(data) > self.limit_bytes or not _write(self.folder, path, data):
            return
        with self._lock:
            if self._estimate_bytes >= 0:
                self._estimate_bytes += len(data)
            if self._estimate_bytes < 0 or self._estimate_bytes > self.limit_bytes:
                self._estimate_bytes = self._shrink()

    def info(self) -> CacheInfo:
        """Count what is there."""
        sizes = [size for _, size, _ in self._entries()]
        return CacheInfo(self.folder, len(sizes), sum(sizes), self.limit_bytes)

    def clear(self) -> int:
        """Remove all entries; how many were removed."""
        removed = sum(_remove(path) for _, _, path in self._entries())
        with self._lock:
            self._estimate_bytes = -1
        return removed

    def _entries(self) -> list[tuple[float, int, str]]:
        """(time of last use, bytes, path) of each entry; temporary files left behind are removed on the way."""
        found: list[tuple[float, int, str]] = []
        if self.folder is None:
            return found
        try:
            with os.scandir(self.folder) as files:
                for file in files:
                    try:
                        stat = file.stat(follow_symlinks=False)
                    except OSError:
                        continue  # another process removed it meanwhile
                    if file.name.endswith(_ENTRY):
                        found.append((stat.st_mtime, stat.st_size, file.path))
                    elif file.name.endswith(_TEMPORARY) and time.time() - stat.st_mtime > _STALE_SECONDS:
                        _remove(file.path)
        except OSError:
            return []
        return found

    def _shrink(self) -> int:
        """Remove the longest unused entries until the limit holds; the bytes that remain."""
        entries = sorted(self._entries())
        total = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if total <= self.limit_bytes:
                break
            _remove(path)
            total -= size
        return total


def _digest(key: str, value: bytes) -> bytes:
    digest = hashlib.blake2b(key.encode() + b"\n", digest_size=_DIGEST_BYTES)
    digest.update(value)
    return digest.digest()


def _write(folder: str, path: str, data: bytes) -> bool:
    """Write a file so that it appears whole or not at all; whether it did."""
    temporary = ""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        handle, temporary = tempfile.mkstemp(suffix=_TEMPORARY, dir=folder)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError:
        if temporary:
            _remove(temporary)
        return False
    return True


def _remove(path: str) -> bool:
    try:
        os.remove(path)
    except OSError:
        return False
    return True
