"""What the runtime keeps on disk: programs as bytes, and the cache."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graphopt_runtime import cache as cache_module
from graphopt_runtime.cache import Cache, key_of
from graphopt_runtime.program import BufferSpec, Call, Program, from_bytes, to_bytes

# ---- programs


def full_program() -> Program:
    buffers = (
        BufferSpec("x", "bfloat16", (2, 3), "input"),
        BufferSpec("c", "float32", (2,), "constant"),
        BufferSpec("w", "float64", (), "state"),
        BufferSpec("e", "bool", (0, 4), "constant"),
        BufferSpec("y", "float64", (), "output"),
    )
    calls = (Call("k0", 7, False, "net.fc1", "net.py:3", 10, 20), Call("ä", 1, True, "", "", 0, 0))
    return Program("step", buffers, (b"12345678", b""), ((4, 2),), calls, 4096, 64, True, "entry", b"\x00\xffcode" * 9)


def test_a_program_comes_back_from_bytes() -> None:
    assert from_bytes(to_bytes(full_program())) == full_program()
    assert to_bytes(full_program()) == to_bytes(full_program())


def test_a_damaged_program_is_refused() -> None:
    data = to_bytes(full_program())
    for position in range(len(data)):
        with pytest.raises(ValueError, match="graphopt program"):
            from_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        with pytest.raises(ValueError, match="graphopt program"):
            from_bytes(data[:position])
    with pytest.raises(ValueError, match="graphopt program"):
        from_bytes(data + b"x")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"constants": (b"1234567", b"")}, "program 'step': its constants do not have the sizes of its constant buffers"),
        ({"aliases": ((4, 9),)}, "program 'step': alias (4, 9) names no buffer"),
        ({"aliases": ((4, 0),)}, "program 'step': 'y' cannot be a copy of 'x'"),
        ({"arena_bytes": -1}, "program 'step': negative size of arena or scratch"),
    ],
)
def test_a_program_that_contradicts_itself_is_refused(change: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match="program 'step'") as caught:
        replace(full_program(), **change)  # type: ignore[arg-type]
    assert str(caught.value) == text


def test_a_buffer_has_a_known_kind_and_dtype() -> None:
    for spec in (("x", "float32", (), "temp"), ("x", "float", (), "input"), ("x", "int8", (-1,), "input")):
        with pytest.raises(ValueError, match="buffer 'x'"):
            BufferSpec(*spec)


# ---- the disk cache


def test_a_value_comes_back_and_keys_tell_parts_apart(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "deep" / "er")
    key = key_of("ir", b"\x00", "cpu")
    assert cache.get(key) is None
    cache.put(key, b"value")
    assert (cache.get(key), Cache(tmp_path / "deep" / "er").get(key)) == (b"value", b"value")
    cache.put(key, b"")
    assert cache.get(key) == b""
    assert len({key_of("ab", "c"), key_of("a", "bc"), key_of("abc"), key_of("abc", "")}) == 4
    assert key_of("ä") == key_of("ä".encode())
    assert cache.info() == cache_module.CacheInfo(str(tmp_path / "deep" / "er"), 1, 49, cache_module.LIMIT_BYTES)
    assert (cache.clear(), cache.get(key), cache.info().entries) == (1, None, 0)


def test_a_damaged_entry_is_a_miss_and_goes(tmp_path: Path) -> None:
    cache, key = Cache(tmp_path), key_of("k")
    cache.put(key, b"some object code")
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    damaged = [good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in range(len(good))]
    damaged += [good[:i] for i in range(len(good))] + [good + b"x", b"\x7fELF", good * 2]
    for data in damaged:
        file.write_bytes(data)
        assert cache.get(key) is None
        assert not file.exists()
    file.write_bytes(good)
    assert cache.get(key) == b"some object code"
    other = key_of("other")
    file.rename(file.with_name(file.name.replace(key, other)))  # right bytes under a wrong name
    assert cache.get(other) is None


def test_an_entry_that_cannot_be_read_is_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, key = Cache(tmp_path), key_of("k")
    cache.put(key, b"value")
    (file,) = tmp_path.iterdir()
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    if file.stat().st_uid != 0:
        assert cache.get(key) is None  # somebody else's code is not run
    monkeypatch.undo()
    file.unlink()
    file.mkdir()
    assert cache.get(key) is None
    cache.put(key, b"value")
    assert cache.get(key) is None


def test_a_folder_that_cannot_be_used_has_no_effect(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("not a folder")
    read_only = tmp_path / "read_only"
    read_only.mkdir(mode=0o500)
    for cache in (Cache(occupied), Cache(occupied / "below"), Cache(None), Cache("/proc/none"), Cache(read_only / "a")):
        if cache.folder == str(read_only / "a") and os.geteuid() == 0:
            continue  # root writes anywhere
        cache.put(key_of("k"), b"value")
        assert cache.get(key_of("k")) is None
        assert (cache.info().entries, cache.clear()) == (0, 0)
    assert occupied.read_text() == "not a folder"


@pytest.mark.parametrize("failing", ["mkstemp", "write", "replace"])
def test_a_full_disk_has_no_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    cache = Cache(tmp_path)
    cache.put(key_of("before"), b"kept")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    class FullFile:
        def __init__(self, handle: int, mode: str) -> None:
            os.close(handle)

        def __enter__(self) -> FullFile:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        write = full

    if failing == "mkstemp":
        monkeypatch.setattr(cache_module.tempfile, "mkstemp", full)
    elif failing == "replace":
        monkeypatch.setattr(cache_module.os, "replace", full)
    else:
        monkeypatch.setattr(cache_module.os, "fdopen", FullFile)
    cache.put(key_of("k"), b"value")
    monkeypatch.undo()
    assert (cache.get(key_of("k")), cache.get(key_of("before"))) == (None, b"kept")
    assert len(list(tmp_path.iterdir())) == 1  # nothing half-written stays behind


def test_the_longest_unused_entries_go_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=5 * 149)
    keys = [key_of(str(i)) for i in range(7)]
    stranger = tmp_path / "notes.txt"
    stranger.write_text("x" * 1000)
    leftover = tmp_path / "x.partial"
    leftover.write_text("a process died here")
    os.utime(leftover, (1, 1))
    for i, key in enumerate(keys[:5]):
        cache.put(key, bytes(100))
        os.utime(tmp_path / f"{key}.entry", (1000 + i, 1000 + i))
    assert cache.get(keys[0]) is not None  # used just now
    cache.put(keys[5], bytes(100))
    assert [cache.get(key) is not None for key in keys] == [True, False, True, True, True, True, False]
    cache.put(keys[6], bytes(1000))  # larger than the whole cache
    assert cache.get(keys[6]) is None
    assert (cache.info().entries, stranger.exists(), leftover.exists()) == (5, True, False)


def test_writers_do_not_disturb_each_other(tmp_path: Path) -> None:
    wrong: list[object] = []

    def work(seed: int) -> None:
        cache = Cache(tmp_path, limit_bytes=40 * 1049)
        random = np.random.default_rng(seed)
        for _ in range(150):
            number = int(random.integers(60))
            key, value = key_of(str(number)), bytes([number]) * 1000
            found = cache.get(key)
            if found not in (None, value):
                wrong.append(found)
            cache.put(key, value)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    assert not wrong
    assert Cache(tmp_path).info().bytes <= 41 * 1049 * 4
    assert not list(tmp_path.glob("*.partial"))
