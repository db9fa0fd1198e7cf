"""The inverse of positive definite matrices: sizes of THOR's blocks, poor conditions, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt import config
from graphopt.compile import compile_graph
from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Graph, input_node
from graphopt.ir.types import TensorType, f16, f32, f64
from graphopt.opdefs.factor import definite_inverse


def inverse(a: np.ndarray, threads: int) -> np.ndarray:
    x = input_node("x", TensorType(f32 if a.dtype == np.float32 else f64, a.shape))
    with config.override(threads=threads, cache="off"):
        return compile_graph(Graph("inverse", (x,), (), (definite_inverse(x),))).run([a], [])[0]


@pytest.mark.parametrize(("n", "batch"), [(128, 1), (100, 3), (16, 5)])
@pytest.mark.parametrize("least", [1.0, 1e-3])
def test_error_is_that_of_the_condition(n: int, batch: int, least: float) -> None:
    """With eigenvalues from `least` to about 4 the relative error stays below a few units times the condition."""
    rng = np.random.default_rng(n)
    half = rng.normal(size=(batch, n, n)) / np.sqrt(n)
    a = (half @ half.swapaxes(1, 2) + least * np.eye(n)).astype(np.float32)
    exact = np.linalg.inv(a.astype(np.float64))
    error = np.abs(inverse(a, 2) - exact).max() / np.abs(exact).max()
    assert error <= 4 * 6e-8 * 4 / least, error


def test_threads_do_not_change_a_bit() -> None:
    rng = np.random.default_rng(1)
    half = rng.normal(size=(4, 40, 40))
    a = half @ half.swapaxes(1, 2) + np.eye(40)
    assert inverse(a, 1).tobytes() == inverse(a, 2).tobytes()


def test_a_matrix_of_nan_gives_nan() -> None:
    assert np.isnan(inverse(np.full((3, 3), np.nan, np.float32), 1)).all()


def test_refusals() -> None:
    with pytest.raises(ShapeError, match="square"):
        definite_inverse(input_node("x", TensorType(f32, (3, 4))))
    with pytest.raises(ShapeError, match="square"):
        definite_inverse(input_node("x", TensorType(f32, (3,))))
    with pytest.raises(DTypeError, match="f16"):
        definite_inverse(input_node("x", TensorType(f16, (3, 3))))
