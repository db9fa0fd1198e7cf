"""Gathers and scatters where indices repeat, count from the end, or lie out of range."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node, input_node, walk
from graphopt.ir.types import NUMBERS, DType, TensorType, bf16, dtype_of, f16, f32, i32, i64, u64
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.index import INDICES, gather, put_along_add, scatter_add, take_along
from graphopt.opdefs.opdef import OpDef, constant
from graphopt.passes.gradient import vjp


def run(d: OpDef, *arrays: Any, axis: int) -> np.ndarray:
    values = [np.asarray(a) for a in arrays]
    leaves = [input_node(f"x{k}", TensorType(dtype_of(a.dtype), a.shape)) for k, a in enumerate(values)]
    return evaluate_nodes([d(*leaves, axis=axis)], dict(zip(leaves, values, strict=True)))[0]


X = np.arange(1.0, 13.0, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize("dtype", INDICES, ids=lambda d: d.short)
def test_every_integer_is_an_index(dtype: DType) -> None:
    indices = np.array([3, 0, 3, 4, 100], dtype.numpy)
    expected = np.concatenate([X[[3, 0, 3]], np.zeros((2, 3), np.float32)])
    assert np.array_equal(run(gather, X, indices, axis=0), expected)
    if dtype.kind == "i":
        assert np.array_equal(run(gather, X, np.array([-1, -4, -5], dtype.numpy), axis=0), [X[3], X[0], [0, 0, 0]])


def test_the_largest_unsigned_index_is_out_of_range_and_not_the_last() -> None:
    assert run(gather, X[:, 0], np.array([2**32 - 1], np.uint32), axis=0).tolist() == [0.0]


def test_an_index_tensor_replaces_the_axis() -> None:
    indices = np.array([[0, 2], [1, -1]])
    assert np.array_equal(run(gather, X, indices, axis=1), X[:, indices])
    assert run(gather, X, np.array(1), axis=1).shape == (4,)


def test_nothing_can_be_read_from_an_empty_axis() -> None:
    assert run(gather, np.ones((0, 2), np.float32), np.array([0, -1]), axis=0).tolist() == [[0, 0], [0, 0]]
    assert run(take_along, np.ones((2, 0)), np.zeros((2, 1), int), axis=1).tolist() == [[0], [0]]
    assert run(scatter_add, np.ones((0, 2)), np.array([0]), np.ones((1, 2)), axis=0).shape == (0, 2)


@pytest.mark.parametrize("dtype", NUMBERS, ids=lambda d: d.short)
def test_repeats_add_up(dtype: DType) -> None:
    x = np.array([[1, 2], [3, 4]], dtype.numpy)
    updates = np.array([[1, 2], [4, 8], [16, 32], [64, 100]], dtype.numpy)
    found = run(scatter_add, x, np.array([1, -1, 2, 1]), updates, axis=0)
    expected = x.copy()
    expected[1] = x[1] + updates[0] + updates[1] + updates[3]  # in int8 the second column wraps
    assert np.array_equal(found, expected)
    found = run(
        put_along_add, x, np.array([[0, 0, -2], [1, 5, 1]]), np.array([[1, 2, 4], [8, 16, 32]], dtype.numpy), axis=1
    )
    assert np.array_equal(found, np.array([[8, 2], [3, 44]], dtype.numpy))


def test_scatter_agrees_with_add_at_for_many_repeats() -> None:
    rng = np.random.default_rng(0)
    x, indices, updates = rng.normal(size=(5, 7, 3)), rng.integers(-7, 7, (40, 5)), rng.normal(size=(5, 40, 5, 3))
    expected = x.copy()
    np.add.at(expected, (slice(None), indices), updates)
    np.testing.assert_allclose(run(scatter_add, x, indices, updates, axis=1), expected, rtol=1e-12, atol=1e-12)


def test_inputs_are_left_alone() -> None:
    x = X.copy()
    run(scatter_add, x, np.array([0]), np.ones((1, 3), np.float32), axis=0)
    run(put_along_add, x, np.zeros((1, 3), int), np.ones((1, 3), np.float32), axis=0)
    assert np.array_equal(x, X)


@pytest.mark.parametrize("dtype", [f16, bf16], ids=lambda d: d.short)
def test_the_gradient_of_a_gather_adds_halves_in_single(dtype: DType) -> None:
    """4096 contributions of 1 to one element: added in half precision they would stop at 2048, in bfloat16 at 256."""
    table = input_node("table", TensorType(dtype, (2,)))
    out = gather(table, constant(np.zeros(4096, np.int32)), axis=0)
    (g,) = vjp([out], [constant(np.ones(4096), dtype)], [table])
    assert g is not None and g.dtype is dtype
    assert evaluate_nodes([g], {table: np.ones(2, dtype.numpy)})[0].astype(float).tolist() == [4096.0, 0.0]


def test_gather_and_scatter_are_each_others_derivative() -> None:
    x, i = input_node("x", TensorType(f32, (4, 3))), input_node("i", TensorType(i32, (2,)))
    out = gather(x, i, axis=0)
    ct = input_node("ct", out.type)
    (back,) = vjp([out], [ct], [x])
    assert back is not None and back.op == "scatter_add"
    (again,) = vjp([back], [input_node("u", back.type)], [ct])
    assert again is not None and again.op == "gather" and "scatter_add" not in {n.op for n in walk([again])}


def refused(d: OpDef, kinds: list[tuple[DType, tuple[int, ...]]], axis: int) -> str:
    nodes: list[Node] = [input_node(f"x{k}", TensorType(*kind)) for k, kind in enumerate(kinds)]
    with pytest.raises((ShapeError, DTypeError)) as caught:
        d(*nodes, axis=axis)
    return str(caught.value).split("\n")[0]


def test_errors() -> None:
    x = (f32, (4, 3))
    assert (
        refused(gather, [x, (f32, (2,))], 0)
        == "gather: expects indices of an integer dtype up to i64, found f32 (input 1)"
    )
    assert "found u64" in refused(gather, [x, (u64, (2,))], 0)
    assert refused(gather, [x, (i32, (2,))], 2) == "gather: axis 2 is outside 0..1 of input 0"
    assert refused(gather, [(f32, ()), (i32, (2,))], 0) == "gather: expects a tensor, found a scalar"
    assert refused(scatter_add, [x, (i32, (2,)), (f32, (2, 4))], 0) == (
        "scatter_add: updates differ in shape: expected (2, 3), found (2, 4) (input 2)"
    )
    assert (
        refused(scatter_add, [x, (i32, (2,)), (f16, (2, 3))], 0)
        == "scatter_add: dtypes differ: f32 (input 0), f16 (input 2)"
    )
    assert refused(take_along, [x, (i64, (4,))], 0) == "take_along: ranks differ: 2 (input 0), 1 (input 1)"
    assert refused(take_along, [x, (i64, (5, 1))], 1) == (
        "take_along: sizes differ beside axis 1: 4 (axis 0 of input 0), 5 (axis 0 of input 1)"
    )
