"""What single ops do where opinions differ: conventions of derivatives, NaN, ends of ranges, texts of errors."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from graphopt import Tensor, ops
from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Node, input_node
from graphopt.ir.types import (
    FLOATS,
    DType,
    TensorType,
    bf16,
    bool_,
    dtype_of,
    f16,
    f32,
    f64,
    i8,
    i32,
    i64,
    u8,
    u32,
)
from graphopt.opdefs import bits, elementwise, math, reduce, shape
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.opdef import REGISTRY, OpDef, constant
from graphopt.passes.gradient import vjp

NAN, INF = float("nan"), float("inf")


def run(f: Callable[..., Node], *arrays: object, dtype: DType = f32) -> np.ndarray:
    """f of the arrays in `dtype`."""
    nodes = [constant(np.asarray(a), dtype) for a in arrays]
    (result,) = evaluate_nodes([f(*nodes)], {})
    return result


def slopes(f: Callable[..., Node], *arrays: object, dtype: DType = f32) -> list[list[float]]:
    """The derivatives of f by each of its arguments, with ones as the cotangent."""
    nodes = [constant(np.asarray(a), dtype) for a in arrays]
    out = f(*nodes)
    found = vjp([out], [constant(np.ones(out.shape), out.dtype)], nodes)
    return [
        np.zeros(n.shape).tolist() if g is None else evaluate_nodes([g], {})[0].tolist()
        for n, g in zip(nodes, found, strict=True)
    ]


# derivatives


def test_derivatives_at_edges() -> None:
    assert slopes(elementwise.abs_, [0.0, -1.0, 1.0]) == [[0.0, -1.0, 1.0]]
    root = slopes(math.sqrt, [0.0, -1.0, 1.0])[0]
    assert root[0] == INF and np.isnan(root[1]) and root[2] == 0.5
    assert slopes(elementwise.maximum, [0.0, -1.0, 1.0], [0.0, 0.0, 0.0]) == [
        [0.5, 0.0, 1.0],
        [0.5, 1.0, 0.0],
    ]
    assert slopes(elementwise.minimum, [0.0, -1.0, 1.0], [0.0, 0.0, 0.0]) == [
        [0.5, 1.0, 0.0],
        [0.5, 0.0, 1.0],
    ]
    assert slopes(lambda x: reduce.reduce_max(x, axes=(0,)), [1.0, 1.0, 0.0]) == [[0.5, 0.5, 0.0]]
    assert slopes(lambda x: reduce.reduce_min(x, axes=(0,)), [0.0, 0.0, 0.0, 3.0]) == [
        [1 / np.float32(3)] * 3 + [0.0]
    ]


def test_derivative_of_a_power_at_zero() -> None:
    by_base, by_exponent = slopes(math.pow_, [0.0, 0.0, 0.0, 0.0, 2.0], [2.0, 1.0, 0.0, -1.0, 3.0])
    assert by_base == [0.0, 1.0, 0.0, -INF, 12.0]
    assert by_exponent[:4] == [0.0, 0.0, 0.0, -INF] and by_exponent[4] == pytest.approx(8 * np.log(2))


@pytest.mark.parametrize("base", [0.0, -1.5, 2.0])
def test_a_square_can_be_differentiated_three_times(base: float) -> None:
    x = input_node("x", TensorType(f64, ()))
    y, expected = x**2, [2 * base, 2.0, 0.0]
    for value in expected:
        (y,) = vjp([y], [constant(1.0, f64)], [x])  # type: ignore[assignment]
        assert evaluate_nodes([y], {x: np.array(base)})[0] == value


@pytest.mark.parametrize(
    "row", [[2.0, 3.0, 4.0, 5.0, 6.0], [2.0, 0.0, 4.0, 5.0, 6.0], [0.0, 3.0, 0.0, 5.0, 6.0], [0.0] * 5]
)
def test_derivatives_of_a_product_with_zeros(row: list[float]) -> None:
    """First and mixed second derivatives are products of the other elements, however many are zero."""
    x = input_node("x", TensorType(f64, (5,)))
    (first,) = vjp([reduce.reduce_prod(x, axes=(0,))], [constant(1.0, f64)], [x])
    assert first is not None
    leaves = {x: np.array(row)}
    others = [float(np.prod(np.delete(row, k))) for k in range(5)]
    assert evaluate_nodes([first], leaves)[0].tolist() == others
    for k in range(5):
        (second,) = vjp([first], [constant(np.eye(5)[k], f64)], [x])
        expected = [0.0 if j == k else float(np.prod(np.delete(row, [j, k]))) for j in range(5)]
        assert second is not None and evaluate_nodes([second], leaves)[0].tolist() == expected


def test_derivatives_pass_through_casts_of_numbers_and_stop_at_bools() -> None:
    def through(dtype: DType) -> Callable[[Node], Node]:
        return lambda x: elementwise.cast(elementwise.cast(x, dtype=dtype), dtype=f32) * 2

    assert slopes(through(i32), [1.0, 2.5]) == [[2.0, 2.0]]
    assert slopes(through(f16), [1.0, 2.5]) == [[2.0, 2.0]]
    assert slopes(through(bool_), [1.0, 2.5]) == [[0.0, 0.0]]
    assert slopes(elementwise.stop_gradient, [1.0]) == [[0.0]]
    assert slopes(elementwise.alias, [1.0]) == [[1.0]]


def test_what_select_does_not_choose_has_no_influence() -> None:
    def guarded(x: Node) -> Node:
        return elementwise.select(x > 0, math.log(elementwise.select(x > 0, x, constant(1.0, f32))), x)

    assert run(guarded, [-1.0, 1.0]).tolist() == [-1.0, 0.0]
    assert slopes(guarded, [-1.0, 1.0]) == [[1.0, 1.0]]


def test_many_equal_maxima_of_a_short_float_share() -> None:
    """More ties than a float16 can count to: the count is kept in f32."""
    (share,) = slopes(lambda x: reduce.reduce_max(x, axes=(0,)), np.zeros(70000), dtype=f16)
    assert share[0] == float(np.float16(1 / 70000)) and len(set(share)) == 1


# values


def test_integers_wrap_and_divide_as_numpy() -> None:
    assert run(elementwise.add, [127], [1], dtype=i8).tolist() == [-128]
    assert run(elementwise.neg, [1, 0], dtype=u8).tolist() == [255, 0]
    assert run(elementwise.floordiv, [7, -7, 7, 5], [2, 2, -2, 0], dtype=i32).tolist() == [3, -4, -4, 0]
    assert run(elementwise.mod, [7, -7, 7, 5], [2, 2, -2, 0], dtype=i32).tolist() == [1, 1, -1, 0]
    assert run(math.pow_, [2, 1, -1, -1, 0, 3], [-1, -5, -3, -2, -1, 4], dtype=i32).tolist() == [
        0,
        1,
        -1,
        1,
        0,
        81,
    ]
    assert run(math.pow_, [3], [64], dtype=u32).tolist() == [pow(3, 64, 2**32)]
    assert run(bits.shift_left, [1, 1, 1], [31, 32, -1], dtype=i32).tolist() == [-(2**31), 0, 0]
    assert run(bits.shift_right, [-8, -8, 8], [1, 40, 40], dtype=i32).tolist() == [-4, -1, 0]


@pytest.mark.parametrize(
    ("source", "target", "value", "expected"),
    [
        (f32, i32, [NAN, INF, -INF, 3e9, -2.9, 2.9], [-(2**31), -(2**31), -(2**31), -(2**31), -2, 2]),
        (f64, i8, [127.9, 128.0, -128.9, -129.0], [127, -128, -128, -128]),
        (f32, u8, [NAN, INF, -INF, 256.0, 255.9, -0.5, -1.0], [0, 255, 0, 255, 255, 0, 0]),
        (f32, i64, [2.0**63, -(2.0**63), 2.0**62], [-(2**63), -(2**63), 2**62]),
        (bf16, u8, [300.0, 2.5], [255, 2]),
        (f32, bool_, [0.0, -0.0, NAN, 0.5], [False, False, True, True]),
        (i32, u8, [-1, 256, 257], [255, 0, 1]),
        (bool_, f32, [True, False], [1.0, 0.0]),
        (f64, f16, [70000.0, 1e-9], [INF, 0.0]),
    ],
)
def test_casts_at_the_ends_of_ranges(
    source: DType, target: DType, value: list[float], expected: list[float]
) -> None:
    result = run(lambda x: elementwise.cast(x, dtype=target), value, dtype=source)
    assert result.dtype == target.numpy and result.tolist() == expected


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.short)
def test_short_floats_are_added_and_multiplied_in_f32(dtype: DType) -> None:
    """4096 ones and then many small numbers: a running value in 16 bits would stand still."""
    assert run(lambda x: reduce.reduce_sum(x, axes=(0,)), np.ones(4096), dtype=dtype) == 4096
    factors = np.full(64, 1.0078125)
    product = run(lambda x: reduce.reduce_prod(x, axes=(0,)), factors, dtype=dtype)
    assert float(product) == pytest.approx(1.0078125**64, rel=5e-3)


def test_sign_and_division_by_zero() -> None:
    assert np.array_equal(
        run(elementwise.sign, [-2.0, -0.0, 0.0, 3.0, NAN]), [-1, 0, 0, 1, NAN], equal_nan=True
    )
    assert run(elementwise.div, [1.0, -1.0], [0.0, 0.0]).tolist() == [INF, -INF]
    assert np.isnan(run(elementwise.maximum, [NAN, 1.0], [1.0, NAN])).all()
    assert run(math.round_, [0.5, 1.5, -2.5]).tolist() == [0.0, 2.0, -2.0]


def test_tiny_and_huge_arguments_keep_their_digits() -> None:
    tiny = np.float32(1e-8)
    for f in (math.expm1, math.log1p, math.tanh, math.sin):
        assert run(f, tiny) == tiny
    assert run(math.sigmoid, -100.0) == pytest.approx(float(np.exp(-100.0)), rel=1e-5)
    assert run(math.sigmoid, [-INF, INF, 1000.0]).tolist() == [0.0, 1.0, 1.0]
    assert run(math.erf, [-INF, INF, 0.5]).tolist() == [-1.0, 1.0, np.float32(0.5204998778130465)]


def test_positions_of_extremes() -> None:
    rows = [[1.0, 3.0, 3.0], [NAN, 5.0, NAN], [-INF, -INF, -INF], [2.0, 1.0, 1.0]]
    assert run(lambda x: reduce.argmax(x, axis=1), rows).tolist() == [1, 0, 0, 0]
    assert run(lambda x: reduce.argmin(x, axis=1), rows).tolist() == [0, 0, 0, 1]
    assert run(lambda x: reduce.argmax(x, axis=0, dtype=i64), [[1, 0], [2, 0]], dtype=u8).tolist() == [1, 0]
    assert run(lambda x: reduce.argmin(x, axis=0), [True, False, False], dtype=bool_) == 1
    assert reduce.argmax(constant([1.0]), axis=0).type == TensorType(i32, ())
    rng = np.random.default_rng(0)
    for dtype in (f16, f32, i8, u8):
        x = rng.integers(0, 5, (3, 4, 5)).astype(dtype.numpy)
        for axis in range(3):
            node = constant(x)
            assert np.array_equal(evaluate_nodes([reduce.argmax(node, axis=axis)], {})[0], np.argmax(x, axis))
            assert np.array_equal(evaluate_nodes([reduce.argmin(node, axis=axis)], {})[0], np.argmin(x, axis))


def test_iota_of_short_dtypes_wraps_and_rounds() -> None:
    wrapped = evaluate_nodes([shape.iota(shape=(300,), axis=0, dtype=u8)], {})[0]
    assert wrapped[299] == 43
    rounded = evaluate_nodes([shape.iota(shape=(2, 300), axis=1, dtype=bf16)], {})[0]
    assert rounded[1, 257] == ml_dtypes.bfloat16(257.0) and float(rounded[1, 257]) == 256.0


# operators


def test_operators_of_nodes() -> None:
    x, n, c = constant([4.0, -1.0]), constant([6, 3]), constant([True, False])
    values: list[tuple[Node, list[object]]] = [
        (x + 1, [5.0, 0.0]),
        (1 - x, [-3.0, 2.0]),
        (x * np.array([2.0, 3.0]), [8.0, -3.0]),
        (np.array([2.0, 3.0]) * x, [8.0, -3.0]),
        (8 / x, [2.0, -8.0]),
        (x // 3, [1.0, -1.0]),
        (x % 3, [1.0, 2.0]),
        (x**2, [16.0, 1.0]),
        (2**x, [16.0, 0.5]),
        (-x, [-4.0, 1.0]),
        (abs(x), [4.0, 1.0]),
        (x < 0, [False, True]),
        (0 <= x, [True, False]),
        (x >= 4.0, [True, False]),
        (n & 2, [2, 2]),
        (1 | n, [7, 3]),
        (n ^ 1, [7, 2]),
        (~n, [-7, -4]),
        (c & (x > 0), [True, False]),
        (c | True, [True, True]),
        (c ^ True, [False, True]),
        (~c, [False, True]),
    ]
    for node, expected in values:
        assert evaluate_nodes([node], {})[0].tolist() == expected, node
    assert (x == x) is True and (x == constant([4.0, -1.0])) is False
    assert (x + 1).dtype is f64 and (n & 2).dtype is dtype_of("int64")


# errors


@pytest.mark.parametrize(
    ("name", "types", "attrs", "error", "text"),
    [
        (
            "add",
            [(f32, (2,)), (i32, (2,))],
            {},
            DTypeError,
            "expects inputs of one dtype, found f32 and i32; cast one of them",
        ),
        (
            "div",
            [(i32, ()), (i32, ())],
            {},
            DTypeError,
            "expects floats, found i32; cast to a float or use floordiv",
        ),
        ("exp", [(i32, ())], {}, DTypeError, "expects floats, found i32; cast it to a float"),
        ("add", [(bool_, ()), (bool_, ())], {}, DTypeError, "expects numbers, found b1"),
        (
            "logical_not",
            [(f32, ())],
            {},
            DTypeError,
            "expects bool, found f32; compare with 0, or use the bitwise ops",
        ),
        (
            "bitwise_and",
            [(bool_, ()), (bool_, ())],
            {},
            DTypeError,
            "expects integers, found b1; truth values have the logical ops",
        ),
        (
            "select",
            [(f32, ()), (f32, ()), (f32, ())],
            {},
            DTypeError,
            "expects a b1 condition, found f32; compare it with something",
        ),
        (
            "mul",
            [(f32, (2, 3)), (f32, (2,))],
            {},
            ShapeError,
            "shapes do not broadcast together: (2, 3) and (2,)",
        ),
        ("reduce_sum", [(f32, (2, 3))], {"axes": (2,)}, ShapeError, "axes (2,): axis 2 is outside 0..1"),
        (
            "reduce_sum",
            [(f32, (2, 3))],
            {"axes": (1, 0)},
            ShapeError,
            "axes (1, 0): expects increasing axes, each once",
        ),
        (
            "reduce_max",
            [(f32, (2, 0))],
            {"axes": (1,)},
            ShapeError,
            "axis 1 is empty: nothing has no extreme",
        ),
        (
            "reduce_or",
            [(f32, (2,))],
            {"axes": (0,)},
            DTypeError,
            "expects bool, found f32; compare it with 0",
        ),
        (
            "reshape",
            [(f32, (2, 3))],
            {"shape": (4,)},
            ShapeError,
            "6 elements of shape (2, 3) do not fill shape (4,)",
        ),
        (
            "reshape",
            [(f32, (2, 3))],
            {"shape": (-2, -3)},
            ShapeError,
            "6 elements of shape (2, 3) do not fill shape (-2, -3)",
        ),
        (
            "transpose",
            [(f32, (2, 3))],
            {"perm": (0, 0)},
            ShapeError,
            "perm (0, 0): expects each of the 2 axes once",
        ),
        (
            "broadcast",
            [(f32, (2,))],
            {"shape": (3, 3), "axes": (0,)},
            ShapeError,
            "axis 0 of size 2 cannot become axis 0 of size 3",
        ),
        (
            "slice",
            [(f32, (5,))],
            {"start": (0,), "stop": (6,), "step": (1,)},
            ShapeError,
            "0:6 on axis 0: expects 0 <= start <= stop <= 5, the size of the axis",
        ),
        (
            "slice",
            [(f32, (5,))],
            {"start": (0,), "stop": (5,), "step": (0,)},
            ShapeError,
            "step 0 on axis 0: expects a positive step; reverse the axis for a negative one",
        ),
        (
            "pad",
            [(f32, (2,)), (i32, ())],
            {"low": (0,), "high": (0,), "interior": (0,)},
            DTypeError,
            "expects a value of the input's dtype f32, found i32",
        ),
        (
            "pad",
            [(f32, (2,)), (f32, ())],
            {"low": (-3,), "high": (0,), "interior": (0,)},
            ShapeError,
            "low (-3,) and high (0,) crop more than the shape (2,) with interior (0,) has",
        ),
        (
            "concat",
            [(f32, (2, 3)), (f32, (2, 4))],
            {"axis": 0},
            ShapeError,
            "shapes differ outside axis 0: (2, 3) (input 0), (2, 4) (input 1)",
        ),
        (
            "concat",
            [(f32, (2,)), (f16, (2,))],
            {"axis": 0},
            DTypeError,
            "dtypes differ: f32 (input 0), f16 (input 1)",
        ),
        ("iota", [], {"shape": (2,), "axis": 1, "dtype": f32}, ShapeError, "axis 1 is outside 0..0"),
    ],
)
def test_errors(
    name: str,
    types: list[tuple[DType, tuple[int, ...]]],
    attrs: dict[str, object],
    error: type[Exception],
    text: str,
) -> None:
    leaves = [input_node(f"x{k}", TensorType(*t)) for k, t in enumerate(types)]
    d: OpDef = REGISTRY[name]
    with pytest.raises(error) as caught:
        d(*leaves, **attrs)
    lines = str(caught.value).split("\n")
    assert lines[0] == f"{name}: {text}"
    assert lines[1].startswith("  called at test_op_edges.py:")
    assert lines[2:] == [f"  input {k}: {leaf.type}" for k, leaf in enumerate(leaves)]


def test_scattering_elements_is_put_along_axis() -> None:
    x, at, new = np.arange(12.0).reshape(3, 4), np.array([[0, 2], [1, 0], [3, 2]]), -np.arange(6.0).reshape(3, 2)
    expected = x.copy()
    np.put_along_axis(expected, at, new, axis=1)
    found = ops.tensor_scatter_elements(Tensor(x), Tensor(at), Tensor(new), 1)
    assert np.array_equal(found.asnumpy(), expected)
    added = ops.tensor_scatter_elements(Tensor(x), Tensor(at), Tensor(new), 1, "add")
    assert np.array_equal(added.asnumpy(), np.where(expected == x, x, x + expected))
