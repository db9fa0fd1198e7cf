"""Windows: against numpy's sliding windows, ties and NaN, and windows too large to be read at once."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from graphopt.errors import ShapeError
from graphopt.ir.graph import Node, input_node, walk
from graphopt.ir.types import TensorType, dtype_of, f32
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.opdef import constant
from graphopt.opdefs.window import (
    LARGEST,
    reduce_window_max,
    reduce_window_sum,
    window_argmax,
    window_attrs,
    window_max,
    window_mean,
    window_sum,
)
from graphopt.passes.gradient import vjp

Attrs = dict[str, Any]


def leaf(x: np.ndarray) -> Node:
    return input_node("x", TensorType(dtype_of(x.dtype), x.shape))


def value(node: Node | None, x: Node, array: np.ndarray) -> np.ndarray:
    assert node is not None
    return evaluate_nodes([node], {x: array})[0]


def windows(x: np.ndarray, attrs: Attrs, fill: float) -> np.ndarray:
    """Every window along the last axis, by numpy's own sliding windows."""
    rank = len(attrs["window"])
    padded = np.pad(x, ((0, 0),) * (x.ndim - rank) + attrs["padding"], constant_values=fill)
    spans = tuple((k - 1) * d + 1 for k, d in zip(attrs["window"], attrs["dilation"], strict=True))
    axes = tuple(range(x.ndim - rank, x.ndim))
    view = np.lib.stride_tricks.sliding_window_view(padded, spans, axes)
    outer = tuple(slice(None, None, s) for s in attrs["strides"])
    inner = tuple(slice(None, None, d) for d in attrs["dilation"])
    view = view[(..., *outer, *inner)]
    return view.reshape(*view.shape[: x.ndim], -1)


def gradient(out: Node, x: Node, array: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return value(vjp([out], [constant(weight)], [x])[0], x, array)


GRID = [
    window_attrs(w, s, p, d)
    for w, s, p, d in product(
        ((2, 3), (1, 4)), ((1, 1), (2, 3)), (((0, 0), (0, 0)), ((1, 0), (1, 2))), ((1, 1), (2, 1))
    )
]


@pytest.mark.parametrize("attrs", GRID, ids=str)
def test_against_sliding_windows(attrs: Attrs) -> None:
    array = np.random.default_rng(0).normal(size=(2, 3, 7, 8))
    x = leaf(array)
    expected = windows(array, attrs, 0)
    np.testing.assert_allclose(value(reduce_window_sum(x, **attrs), x, array), expected.sum(-1), rtol=1e-12, atol=1e-12)
    seen = windows(array, attrs, -np.inf)
    assert np.array_equal(value(reduce_window_max(x, **attrs), x, array), seen.max(-1))
    places = windows(np.broadcast_to(np.arange(56.0).reshape(7, 8), array.shape), attrs, 56)
    chosen = np.take_along_axis(places, seen.argmax(-1)[..., None], -1)[..., 0]
    assert np.array_equal(value(window_argmax(x, **attrs), x, array), chosen)


def test_the_first_of_equal_maxima_takes_the_gradient() -> None:
    array = np.array([[1.0, 3.0, 3.0], [3.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    x = leaf(array)
    out = reduce_window_max(x, **window_attrs((2, 2)))
    found = gradient(out, x, array, np.array([[1.0, 10.0], [100.0, 1000.0]]))
    assert found.tolist() == [[0, 11, 0], [100, 1000, 0], [0, 0, 0]]


def test_nan_wins_and_the_first_one_takes_the_gradient() -> None:
    array = np.array([1.0, np.nan, 5.0, np.nan, 2.0])
    x = leaf(array)
    attrs = window_attrs((3,), (2,))
    assert np.isnan(value(reduce_window_max(x, **attrs), x, array)).all()
    assert value(window_argmax(x, **attrs), x, array).tolist() == [1, 3]
    assert gradient(reduce_window_max(x, **attrs), x, array, np.array([1.0, 2.0])).tolist() == [0, 1, 0, 2, 0]
    assert value(window_argmax(x, **window_attrs((5,))), x, array).tolist() == [1]


def test_padding_never_wins() -> None:
    """Not against minus infinity, nor against the least integer; alone in its window it has a place of its own."""
    attrs = window_attrs((2,), padding=((2, 1),))
    for array in (np.full(2, -np.inf), np.full(2, -128, np.int8)):
        x = leaf(array)
        assert value(window_argmax(x, **attrs), x, array).tolist() == [2, 0, 0, 1]
    floats = np.array([-5.0, -7.0])
    x = leaf(floats)
    assert value(reduce_window_max(x, **attrs), x, floats).tolist() == [-np.inf, -5, -5, -7]
    assert gradient(reduce_window_max(x, **attrs), x, floats, np.ones(4)).tolist() == [2, 1]


LARGE = [
    window_attrs((9, 9)),
    window_attrs((8, 11), (3, 2), ((4, 3), (0, 5))),
    window_attrs((5, 17), (1, 4), ((2, 2), (8, 8)), (3, 1)),
    window_attrs((1, 67), (2, 3), ((0, 0), (30, 31))),
    window_attrs((20, 37)),
    window_attrs((3, 33), (2, 1), ((0, 1), (0, 0)), (2, 1)),
]


@pytest.mark.parametrize("attrs", LARGE, ids=str)
def test_large_windows_are_split(attrs: Attrs) -> None:
    """The value and derivative of the whole window, with ties, although no op reads more than a few elements."""
    rng = np.random.default_rng(0)
    array = rng.integers(-9, 9, (2, 20, 37)).astype(np.float64)
    x = leaf(array)
    for builder, op in ((window_sum, reduce_window_sum), (window_max, reduce_window_max)):
        split, whole = builder(x, **attrs), op(x, **attrs)
        assert split.type == whole.type
        used = [n.attrs["window"] for n in walk([split]) if n.op.startswith("reduce_window")]
        assert all(np.prod(w) <= 8 < LARGEST for w in used) and (used or split.shape[1:] == (1, 1))
        assert np.array_equal(value(split, x, array), value(whole, x, array))
        weight = rng.integers(-9, 9, split.shape).astype(np.float64)
        assert np.array_equal(gradient(split, x, array, weight), gradient(whole, x, array, weight))


@pytest.mark.parametrize("size", range(1, 80))
def test_every_length_of_a_window(size: int) -> None:
    array = np.random.default_rng(size).integers(-99, 99, (1, 83)).astype(np.int64)
    x = leaf(array)
    attrs = window_attrs((1, size), (1, 2))
    many = window_attrs((1, size), (1, 2), dilation=(1, 1))
    assert np.array_equal(value(window_sum(x, **attrs), x, array), windows(array, many, 0).sum(-1))
    assert np.array_equal(value(window_max(x, **attrs), x, array), windows(array, many, 0).max(-1))


def test_a_window_that_covers_everything_is_a_plain_sum() -> None:
    x = input_node("x", TensorType(f32, (2, 3, 70, 70)))
    out = window_sum(x, (70, 70))
    assert out.shape == (2, 3, 1, 1)
    assert [n.op for n in walk([out])] == ["input", "reduce_sum", "reshape"]


def test_mean_divides_by_what_it_is_told_to() -> None:
    array = np.ones((1, 3, 3))
    x = leaf(array)
    pad = ((1, 1), (1, 1))
    counted = value(window_mean(x, (2, 2), (2, 2), pad), x, array)
    assert counted.tolist() == [[[0.25, 0.5], [0.5, 1.0]]]
    assert np.all(value(window_mean(x, (2, 2), (2, 2), pad, count_padding=False), x, array) == 1)
    assert np.all(value(window_mean(x, (2, 3), (1, 1), pad, count_padding=False), x, array) == 1)
    assert value(window_mean(x, (2, 2), (2, 2), pad, divisor=2), x, array).tolist() == [[[0.5, 1.0], [1.0, 2.0]]]


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        (window_attrs((4, 1)), "the window exceeds the padded input: 4 (dilated), 3 (axis 1, padded)"),
        (window_attrs((1, 1, 1, 1)), "a window of 4 axes does not fit into 3 axes"),
        (window_attrs((2, 2), (1,)), "strides has 1 entries, window has 2"),
        (window_attrs((2, 0)), "window must be positive, found (2, 0)"),
        (window_attrs((2, 2), padding=((0, -1), (0, 0))), "padding must not be negative, found ((0, -1), (0, 0))"),
    ],
)
def test_errors(attrs: Attrs, message: str) -> None:
    x = input_node("x", TensorType(f32, (2, 3, 4)))
    for builder, op in ((window_sum, reduce_window_sum), (window_max, reduce_window_max)):
        for call in (builder, op):
            with pytest.raises(ShapeError) as caught:
                call(x, **attrs)
            assert str(caught.value).split("\n")[0] == f"{op.name}: {message}"
