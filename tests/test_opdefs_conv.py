"""Convolution against its definition written as loops, in many combinations of attributes, and its derivatives."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node, input_node, walk
from graphopt.ir.types import TensorType, dtype_of, f32, f64, i8, i32
from graphopt.opdefs.conv import (
    Padding,
    by_phases,
    conv,
    conv_general,
    conv_input_gradient,
    conv_weight_gradient,
    explicit_padding,
    same_padding,
)
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.opdef import constant
from graphopt.passes.gradient import vjp

Attrs = dict[str, Any]


def attributes(rank: int = 2, **changes: Any) -> Attrs:
    ones = (1,) * rank
    padding = ((0, 0),) * rank
    return {"strides": ones, "padding": padding, "lhs_dilation": ones, "rhs_dilation": ones, "groups": 1, **changes}


def by_definition(x: np.ndarray, w: np.ndarray, attrs: Attrs) -> np.ndarray:
    """One output element after the other; a tap beside the image or between its elements is zero."""
    rank = x.ndim - 2
    strides, padding, groups = attrs["strides"], attrs["padding"], attrs["groups"]
    between, apart = attrs["lhs_dilation"], attrs["rhs_dilation"]
    image = [(n - 1) * d + 1 + lo + hi for n, d, (lo, hi) in zip(x.shape[2:], between, padding, strict=True)]
    spans = [(n - 1) * d + 1 for n, d in zip(w.shape[2:], apart, strict=True)]
    out = np.zeros((len(x), len(w), *((n - m) // s + 1 for n, m, s in zip(image, spans, strides, strict=True))))
    per_in, per_out = w.shape[1], len(w) // groups
    for place in product(*map(range, out.shape)):
        o = place[1]
        for c, *tap in product(*map(range, w.shape[1:])):
            at = [place[2 + k] * strides[k] + tap[k] * apart[k] - padding[k][0] for k in range(rank)]
            inside = all(a % d == 0 and 0 <= a // d < n for a, d, n in zip(at, between, x.shape[2:], strict=True))
            if inside:
                source = tuple(a // d for a, d in zip(at, between, strict=True))
                out[place] += x[(place[0], o // per_out * per_in + c, *source)] * w[(o, c, *tap)]
    return out


def leaves_of(*arrays: np.ndarray) -> list[Node]:
    return [input_node(f"x{k}", TensorType(dtype_of(a.dtype), a.shape)) for k, a in enumerate(arrays)]


def value(node: Node, leaves: list[Node], arrays: list[np.ndarray]) -> np.ndarray:
    return evaluate_nodes([node], dict(zip(leaves, arrays, strict=True)))[0]


COMBINATIONS = [
    attributes(strides=s, padding=p, lhs_dilation=a, rhs_dilation=b, groups=g)
    for s, p, a, b, g in product(
        ((1, 1), (2, 3)), (((0, 0), (0, 0)), ((2, 1), (-1, 3))), ((1, 1), (3, 2)), ((1, 1), (2, 1)), (1, 2)
    )
]


def operands(attrs: Attrs, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(2, 4, 6, 5)), rng.normal(size=(6, 4 // attrs["groups"], 3, 2))]


@pytest.mark.parametrize("attrs", COMBINATIONS, ids=lambda a: "-".join(str(v).replace(" ", "") for v in a.values()))
def test_every_combination_of_attributes(attrs: Attrs) -> None:
    """The value is the definition's, explicit padding keeps it, both derivatives and their derivatives are right."""
    arrays = operands(attrs)
    x, w = leaves = leaves_of(*arrays)
    node = conv_general(x, w, **attrs)
    np.testing.assert_allclose(value(node, leaves, arrays), by_definition(*arrays, attrs), rtol=1e-12, atol=1e-12)

    padded, plain = explicit_padding(x, attrs)
    assert not any(map(any, plain["padding"])) and set(plain["lhs_dilation"]) == {1}
    again = conv_general(padded, w, **plain)
    np.testing.assert_allclose(value(again, leaves, arrays), value(node, leaves, arrays), rtol=1e-12, atol=1e-12)

    rng = np.random.default_rng(1)
    weight = rng.normal(size=node.shape)
    first = [g for g in vjp([node], [constant(weight)], leaves) if g is not None]
    # The op is linear in each operand alone, so its derivative is the definition's response to each unit tensor.
    for k, g in enumerate(first):
        direction = rng.normal(size=arrays[k].shape)
        moved = [direction if j == k else a for j, a in enumerate(arrays)]
        expected = np.sum(weight * by_definition(*moved, attrs))
        assert np.isclose(np.sum(value(g, leaves, arrays) * direction), expected, rtol=1e-10)
    # d/dw of the derivative by x, along a direction in w, is the derivative by x of the convolution with it.
    across = rng.normal(size=arrays[0].shape)
    (mixed,) = vjp([first[0]], [constant(across)], [w])
    assert mixed is not None
    direction = rng.normal(size=arrays[1].shape)
    expected = np.sum(weight * by_definition(across, direction, attrs))
    assert np.isclose(np.sum(value(mixed, leaves, arrays) * direction), expected, rtol=1e-10)


def test_derivatives_are_convolutions_again() -> None:
    """Nothing but convolution and movement appears, even in the third derivative."""
    attrs = attributes(strides=(2, 1), groups=2, padding=((1, 0), (1, 1)))
    leaves = leaves_of(*operands(attrs))
    nodes: list[Node] = [conv_general(*leaves, **attrs)]
    for _ in range(3):
        cotangents = [input_node("ct", n.type) for n in nodes]
        nodes = [g for g in vjp(nodes, cotangents, leaves + cotangents) if g is not None]
    allowed = {"conv_general", "input", "transpose", "reshape", "reverse", "add"}
    seen, stack = set(), list(nodes)
    while stack:
        n = stack.pop()
        if n not in seen:
            seen.add(n)
            stack.extend(n.inputs)
    assert {n.op for n in seen} <= allowed


@pytest.mark.parametrize("groups", [1, 2])
def test_gradient_builders_have_the_operands_shapes(groups: int) -> None:
    """Also where the stride leaves elements at the end that no window covers: their gradient is zero."""
    attrs = attributes(strides=(4, 3), groups=groups)
    arrays = operands(attrs)
    x, w = leaves = leaves_of(*arrays)
    ct = constant(np.ones(conv_general(x, w, **attrs).shape))
    for_x, for_w = conv_input_gradient(ct, w, x.shape[2:], attrs), conv_weight_gradient(ct, x, w.shape[2:], attrs)
    assert (for_x.type, for_w.type) == (x.type, w.type)
    found = value(for_x, leaves, arrays)
    assert np.all(found[:, :, 3:] == 0) and np.all(found[:, :, :3].any(axis=(0, 1, 3)))


def test_large_batches_are_computed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    attrs = attributes(padding=((1, 1), (1, 1)), groups=2)
    arrays = operands(attrs)
    leaves = leaves_of(*arrays)
    node = conv_general(*leaves, **attrs)
    whole = value(node, leaves, arrays)
    monkeypatch.setattr("graphopt.opdefs.conv._BLOCK_BYTES", 1)
    np.testing.assert_allclose(value(node, leaves, arrays), whole, rtol=1e-12)


def test_an_image_that_is_a_view_is_not_misread() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(6, 5, 3, 2)).transpose(3, 2, 0, 1), rng.normal(size=(4, 3, 2, 2))
    leaves = leaves_of(x, w)
    found = value(conv_general(*leaves, **attributes()), leaves, [x, w])
    np.testing.assert_allclose(found, by_definition(x, w, attributes()), rtol=1e-12)


def test_half_precision_accumulates_in_single() -> None:
    x, w = np.full((1, 4096, 1), 1.0, np.float16), np.full((1, 4096, 1), 1.0, np.float16)
    x[0, 0] = 0.5
    leaves = leaves_of(x, w)
    assert value(conv(*leaves), leaves, [x, w]).item() == np.float16(4095.5)  # in half, 2048 + 1 = 2048


def test_integers_wrap() -> None:
    x, w = np.full((1, 2, 3), 100, np.int8), np.full((1, 2, 1), 2, np.int8)
    leaves = leaves_of(x, w)
    assert value(conv(*leaves), leaves, [x, w]).ravel().tolist() == [-112, -112, -112]  # 400 - 512


@pytest.mark.parametrize(("n", "k", "s", "d"), list(product((5, 6, 9), (1, 2, 3, 5), (1, 2, 3), (1, 2))))
def test_same_padding_gives_the_rounded_up_quotient(n: int, k: int, s: int, d: int) -> None:
    ((lo, hi),) = padding = same_padding((n,), (k,), (s,), (d,))
    x, w = (input_node("x", TensorType(f32, shape)) for shape in ((1, 1, n), (1, 1, k)))
    assert conv(x, w, (s,), padding, (d,)).shape[2] == -(-n // s)
    assert hi - lo in (0, 1)


@pytest.mark.parametrize(
    ("x", "w", "changes", "message"),
    [
        (
            (2, 3, 8, 8),
            (4, 2, 3, 3),
            {},
            "channels differ: 3 (axis 1 of input 0), 2 (axis 1 of input 1) times 1 groups",
        ),
        (
            (2, 6, 8, 8),
            (4, 2, 3, 3),
            {"groups": 4},
            "groups must divide 6 (axis 1 of input 0) and 4 (axis 0 of input 1), found 4",
        ),
        (
            (2, 3, 8, 8),
            (4, 3, 3),
            {},
            "expects x (n, c, *image), w (o, c, *window) of one rank >= 3, found ranks 4 and 3",
        ),
        (
            (2, 3, 4, 8),
            (4, 3, 5, 3),
            {},
            "the window exceeds the padded image: 5 (axis 2 of input 1, dilated), 4 (axis 2 of input 0, padded)",
        ),
        ((2, 3, 8, 8), (4, 3, 3, 3), {"strides": (1,)}, "strides has 1 entries, the inputs have 2 spatial axes"),
        (
            (2, 3, 8, 8),
            (4, 3, 3, 3),
            {"rhs_dilation": (1, 0)},
            "rhs_dilation must be positive, found 0 for spatial axis 1",
        ),
    ],
)
def test_errors(x: tuple[int, ...], w: tuple[int, ...], changes: Attrs, message: str) -> None:
    nodes = [input_node("x", TensorType(f32, x)), input_node("w", TensorType(f32, w))]
    with pytest.raises(ShapeError) as caught:
        conv_general(*nodes, **attributes(**changes))
    lines = str(caught.value).split("\n")
    assert lines[0] == f"conv_general: {message}"
    assert lines[1].startswith("  called at test_opdefs_conv.py:")
    assert lines[2:] == [f"  input {k}: {n.type}" for k, n in enumerate(nodes)]


def test_dtypes_must_agree() -> None:
    x, w = input_node("x", TensorType(i8, (1, 1, 3))), input_node("w", TensorType(i32, (1, 1, 3)))
    with pytest.raises(DTypeError, match=r"conv_general: dtypes differ: i8 \(input 0\), i32 \(input 1\)"):
        conv(x, w)


@pytest.mark.parametrize("dilation", [(2, 1), (3, 2), (2, 2)])
@pytest.mark.parametrize("window", [(1, 1), (2, 3), (5, 3)])
@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((2, 1), (1, 3)), ((4, -1), (-2, 2))])
@pytest.mark.parametrize("groups", [1, 2])
def test_phases_are_the_dilated_convolution(
    dilation: tuple[int, int], window: tuple[int, int], padding: Padding, groups: int
) -> None:
    """One convolution for each position between two elements of the image, zeros left out."""
    x = input_node("x", TensorType(f64, (2, 4, 4, 5)))
    w = input_node("w", TensorType(f64, (6, 4 // groups, *window)))
    attrs = attributes(padding=padding, lhs_dilation=dilation, groups=groups)
    whole = conv_general(x, w, **attrs)
    parts = by_phases(x, w, attrs)
    assert parts is not None
    assert all(n.attrs["lhs_dilation"] == (1, 1) for n in walk([parts]) if n.op == "conv_general")
    rng = np.random.default_rng(0)
    expected, found = evaluate_nodes([whole, parts], {n: rng.normal(size=n.shape) for n in (x, w)})
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "change",
    [{"lhs_dilation": (1, 1)}, {"strides": (2, 1)}, {"rhs_dilation": (2, 1)}],
    ids=["nothing dilated", "strides", "dilated window"],
)
def test_what_has_no_phases(change: dict[str, tuple[int, int]]) -> None:
    x, w = input_node("x", TensorType(f32, (1, 2, 4, 4))), input_node("w", TensorType(f32, (3, 2, 2, 2)))
    assert by_phases(x, w, attributes(padding=((1, 1), (1, 1)), **{"lhs_dilation": (2, 2), **change})) is None
