"""dot_general against einsum, the form of its derivatives, matmul against numpy's."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node, input_node, walk
from graphopt.ir.types import TensorType, bool_, dtype_of, f16, f32, f64
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.linalg import NO_AXES, dot_general, matmul
from graphopt.opdefs.opdef import constant
from graphopt.passes.gradient import vjp


def leaves_of(*arrays: np.ndarray) -> list[Node]:
    return [input_node(f"x{k}", TensorType(dtype_of(a.dtype), a.shape)) for k, a in enumerate(arrays)]


def value(node: Node, leaves: list[Node], arrays: list[np.ndarray]) -> np.ndarray:
    return evaluate_nodes([node], dict(zip(leaves, arrays, strict=True)))[0]


SIZES = {"i": 3, "j": 4, "k": 5, "m": 2, "n": 6}


@pytest.mark.parametrize(
    "formula",
    ["ij,jk->ik", "ij,kj->ik", "ji,jk->ik", "ijk,kmj->im", "mij,njm->min", "jmni,nkjm->nmik", "i,j->ij", "ij,ij->ij"],
)
def test_einsum(formula: str) -> None:
    """Value and both derivatives: each derivative of an einsum is an einsum with the letters exchanged."""
    left, right, result = formula.replace("->", ",").split(",")
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=[SIZES[c] for c in word]) for word in (left, right)]
    shared = [c for c in left if c in right]
    batch = [c for c in result if c in shared]
    contract = [c for c in shared if c not in result]
    pairs = [tuple(tuple(map(word.index, letters)) for word in (left, right)) for letters in (contract, batch)]
    leaves = leaves_of(*arrays)
    node = dot_general(*leaves, contract=pairs[0], batch=pairs[1])
    order = "".join([*batch, *(c for c in left if c not in shared), *(c for c in right if c not in shared)])
    np.testing.assert_allclose(value(node, leaves, arrays), np.einsum(f"{left},{right}->{order}", *arrays), rtol=1e-12)
    weight = rng.normal(size=node.shape)
    for_left, for_right = vjp([node], [constant(weight)], leaves)
    assert for_left is not None and for_right is not None
    expected = np.einsum(f"{order},{right}->{left}", weight, arrays[1])
    np.testing.assert_allclose(value(for_left, leaves, arrays), expected, rtol=1e-11, atol=1e-13)
    expected = np.einsum(f"{order},{left}->{right}", weight, arrays[0])
    np.testing.assert_allclose(value(for_right, leaves, arrays), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("contract", [((1,), (0,)), ((1,), (1,)), ((0,), (0,)), ((0,), (1,))])
def test_derivatives_of_matrix_products_transpose_nothing(contract: tuple[tuple[int], tuple[int]]) -> None:
    """The operands of a derivative are put in the order that gives the axes as they are wanted."""
    shapes = [(3, 5) if contract[0] == (1,) else (5, 3), (5, 4) if contract[1] == (0,) else (4, 5)]
    leaves = [input_node("x", TensorType(f32, s)) for s in shapes]
    node = dot_general(*leaves, contract=contract, batch=NO_AXES)
    found = vjp([node], [input_node("ct", node.type)], leaves)
    assert [g.op for g in found if g is not None] == ["dot_general", "dot_general"]
    assert [g.type for g in found if g is not None] == [n.type for n in leaves]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3,), (3,)),
        ((3,), (3, 4)),
        ((2, 3), (3,)),
        ((2, 3), (3, 4)),
        ((5, 2, 3), (3, 4)),
        ((5, 2, 3), (3,)),
        ((3,), (5, 3, 4)),
    ]
    + [
        ((5, 2, 3), (5, 3, 4)),
        ((1, 2, 3), (5, 3, 4)),
        ((2, 3), (5, 3, 4)),
        ((6, 1, 2, 3), (5, 3, 4)),
        ((0, 3), (3, 2)),
        ((2, 0), (0, 3)),
    ],
)
def test_matmul_is_numpys(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=a), rng.normal(size=b)]
    leaves = leaves_of(*arrays)
    found = value(matmul(*leaves), leaves, arrays)
    assert found.shape == np.matmul(*arrays).shape
    np.testing.assert_allclose(found, np.matmul(*arrays), rtol=1e-12)


def test_a_shared_matrix_is_not_repeated_for_a_batch() -> None:
    x, w = input_node("x", TensorType(f32, (7, 5, 3))), input_node("w", TensorType(f32, (3, 4)))
    assert [n.op for n in walk([matmul(x, w)])] == ["input", "input", "dot_general"]


def test_half_precision_accumulates_in_single() -> None:
    a = np.ones((1, 4096), np.float16)
    a[0, 0] = 0.5
    leaves = leaves_of(a, np.ones((4096, 1), np.float16))
    out = matmul(*leaves)
    assert out.dtype is f16
    assert value(out, leaves, [a, np.ones((4096, 1), np.float16)]).item() == np.float16(4095.5)


def errors_of(a: TensorType, b: TensorType, contract: tuple, batch: tuple = NO_AXES) -> str:
    with pytest.raises((ShapeError, DTypeError)) as caught:
        dot_general(input_node("a", a), input_node("b", b), contract=contract, batch=batch)
    return str(caught.value).split("\n")[0]


def test_errors() -> None:
    a, b = TensorType(f32, (64, 128)), TensorType(f32, (64, 10))
    assert errors_of(a, b, ((1,), (0,))) == (
        "dot_general: inner sizes differ: 128 (axis 1 of input 0), 64 (axis 0 of input 1)"
    )
    assert errors_of(a, b, NO_AXES, ((1,), (0,))) == (
        "dot_general: batch sizes differ: 128 (axis 1 of input 0), 64 (axis 0 of input 1)"
    )
    assert errors_of(a, b, ((2,), (0,))) == "dot_general: contract axis 2 of input 0 is outside 0..1"
    assert (
        errors_of(a, b, ((0, 1), (0,)))
        == "dot_general: contract axes do not pair up: (0, 1) of input 0, (0,) of input 1"
    )
    assert errors_of(a, b, ((0,), (0,)), ((0,), (1,))) == (
        "dot_general: an axis of input 0 is used twice: contract (0,), batch (0,)"
    )
    assert errors_of(a, b.with_dtype(f64), ((0,), (0,))) == "dot_general: dtypes differ: f32 (input 0), f64 (input 1)"
    assert errors_of(a.with_dtype(bool_), b.with_dtype(bool_), ((0,), (0,))) == "dot_general: expects numbers, found b1"


def test_matmul_errors() -> None:
    scalar, matrix = input_node("a", TensorType(f32, ())), input_node("b", TensorType(f32, (2, 3)))
    with pytest.raises(ShapeError, match=r"expects vectors or matrices, found a scalar \(input 0\)"):
        matmul(scalar, matrix)
    with pytest.raises(ShapeError, match=r"leading axes do not broadcast: \(4,\) and \(5,\)"):
        matmul(input_node("a", TensorType(f32, (4, 2, 3))), input_node("b", TensorType(f32, (5, 3, 2))))
    with pytest.raises(ShapeError, match=r"inner sizes differ: 3 \(axis 1 of input 0\), 2 \(axis 0 of input 1\)"):
        matmul(matrix, matrix)
