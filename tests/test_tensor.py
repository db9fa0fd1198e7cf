"""Tensor: construction, promotion, operators, indexing, methods and printing, at once and traced."""

from __future__ import annotations

import operator
import pickle
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import graphopt as ms
from graphopt import Parameter, Tensor
from graphopt.errors import TraceError

A = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def same(found: Any, wanted: Any) -> None:
    """Equal dtype, shape and values."""
    array = found.asnumpy() if isinstance(found, Tensor) else np.asarray(found)
    wanted = np.asarray(wanted)
    assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(array, wanted)


def both(function: Callable[..., Any], *arrays: np.ndarray) -> Any:
    """The result at once, after checking that the traced one is the same."""
    tensors = [Tensor(a) for a in arrays]
    at_once = function(*tensors)
    traced = ms.jit(function)(*tensors)
    for a, b in zip(*(x if isinstance(x, tuple) else (x,) for x in (at_once, traced)), strict=True):
        same(b, a.asnumpy())
    return at_once


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1, ms.int64), (1.0, ms.float32), (True, ms.bool_), ([1, 2], ms.int64), ([1.0, 2], ms.float32), ((1, 2.5), ms.float32),
        ([[1, 2], [3, 4]], ms.int64), (np.float64(2), ms.float64), (np.array([1.0]), ms.float64), ([np.float32(1)], ms.float32),
        ([np.float64(1)], ms.float64), (np.int8(1), ms.int8), ([Tensor(1.0), Tensor(2.0)], ms.float32), ([], ms.float32),
        ([True, False], ms.bool_), (np.zeros((0, 2), np.uint16), ms.uint16),
    ],
)  # fmt: skip
def test_dtype_of_data(data: Any, dtype: Any) -> None:
    assert Tensor(data).dtype is dtype


def test_construction_copies_and_from_numpy_shares() -> None:
    array = np.ones(3, np.float32)
    copied, shared = Tensor(array), Tensor.from_numpy(array)
    array[0] = 5
    assert copied[0] == 1 and shared[0] == 5
    assert shared.asnumpy() is array
    assert Tensor.from_numpy(np.ones((4, 4))[:, ::2]).shape == (4, 2)


def test_init_draws_values() -> None:
    same(Tensor(shape=(2, 2), dtype=ms.float32, init="ones"), np.ones((2, 2), np.float32))


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: Tensor("a"), TypeError,
         "Tensor: input_data must be a Tensor, numpy array, number, or (nested) list or tuple of numbers, found 'a' of type str"
         "; name the values with shape, dtype and init"),
        (lambda: Tensor(None), TypeError, "Tensor: expected input_data, or shape, dtype and init; found neither"),
        (lambda: Tensor([[1, 2], [3]]), TypeError,
         "Tensor: input_data must be rectangular, found rows of different lengths in [[1, 2], [3]]"),
        (lambda: Tensor(["a"]), TypeError, "Tensor: input_data must hold numbers only, found ['a']"),
        (lambda: Tensor([1.0], dtype="float31"), TypeError,
         "Tensor: dtype must be one of bool, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float16, bfloat16, "
         "float32, float64, found 'float31'"),
        (lambda: Tensor(np.array(["x"])), TypeError, None),
        (lambda: Tensor(np.array([1j])), TypeError, None),
        (lambda: Tensor([1.0], init="ones", shape=(1,), dtype=ms.float32), ValueError,
         "Tensor: input_data and init exclude each other, found both"),
        (lambda: Tensor(init="ones"), ValueError, "Tensor: init needs shape and dtype too"),
        (lambda: Tensor(300, ms.uint8), ValueError, "Tensor: 300 does not fit into uint8"),
        (lambda: Tensor.from_numpy([1]), TypeError, "Tensor.from_numpy: expected a numpy array, found [1] of type list"),
        (lambda: bool(Tensor([1, 2])), ValueError, "bool(): expected a tensor with one element, found shape (2,)"),
        (lambda: Tensor([1, 2]).item(), ValueError, "item(): expected a tensor with one element, found shape (2,)"),
        (lambda: len(Tensor(1.0)), TypeError, "len(): a 0-d tensor has no length"),
        (lambda: iter(Tensor(1.0)), TypeError, "iteration over a 0-d tensor"),
        (lambda: Tensor([1.0]) + "a", TypeError, "add: expected a Tensor or a number, found 'a' of type str"),
        (lambda: Tensor([1.0]) + None, TypeError, "add: expected a Tensor or a number, found None of type NoneType"),
        (lambda: Tensor([1.0]) * np.ones(1), TypeError,
         "mul: expected a Tensor or a number, found array([1.]) of type ndarray; wrap it: Tensor(array)"),
        (lambda: Tensor([1, 2])[2], IndexError, "index: index 2 is out of bounds for axis 0 with size 2; the shape is (2,)"),
        (lambda: Tensor([1, 2])["a"], IndexError,
         "index: expected int, slice, None, Ellipsis, list, numpy array or Tensor, found 'a' of type str"),
        (lambda: Tensor([1, 2])[Tensor([0.5])], IndexError, "index: an index tensor must hold integers or bools, found Float32"),
        (lambda: Tensor([1, 2]).reshape(3), ValueError, "reshape: cannot reshape (2,) (2 elements) to (3,)"),
        (lambda: Tensor([1, 2]).sum(axis=1), ValueError, "sum: axis 1 is out of range for a tensor of 1 axes"),
        (lambda: Tensor([[1, 2]]).squeeze(1), ValueError, "squeeze: axis 1 has size 2, expected 1"),
        (lambda: Tensor([[1, 2]]).transpose(0, 0), ValueError, "transpose: (0, 0) is no order of the 2 axes"),
        (lambda: Tensor([1]).astype("x"), TypeError, None),
        (lambda: Tensor([1.0]).clip(), ValueError, "clamp: at least one of min and max must be given, found None for both"),
        (lambda: Tensor([1], ms.uint64) + Tensor([1]), TypeError,
         "add: no integer dtype holds both UInt64 and Int64; cast one of them"),
        (lambda: Tensor([1.0, 2.0]) + Tensor([1.0, 2.0, 3.0]), ValueError,
         "add: shapes do not broadcast together: (2,) and (3,)"),
    ],
)  # fmt: skip
def test_errors(call: Callable[[], Any], kind: type[BaseException], text: str | None) -> None:
    with pytest.raises(kind) as caught:
        call()
    if text is not None:
        assert str(caught.value).splitlines()[0] == text


def test_broadcast_error_names_the_line() -> None:
    with pytest.raises(ValueError, match="called at test_tensor.py:"):
        Tensor([1.0, 2.0]) + Tensor([1.0, 2.0, 3.0])


# Promotion, as recorded from MindSpore.

MEETINGS = [
    ("bool", "int8", "int8"), ("bool", "float16", "float16"), ("int8", "int16", "int16"), ("int8", "uint8", "int16"),
    ("int32", "uint8", "int32"), ("int64", "bfloat16", "bfloat16"), ("int64", "float32", "float32"),
    ("uint8", "float64", "float64"),
    ("float16", "bfloat16", "float32"), ("float16", "float32", "float32"), ("float64", "int64", "float64"),
    ("uint16", "int16", "int32"), ("uint32", "int8", "int64"), ("uint8", "uint32", "uint32"), ("int64", "float16", "float16"),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b", "c"), MEETINGS)
def test_promotion_of_tensors(a: str, b: str, c: str) -> None:
    x, y = Tensor([1], a), Tensor([1], b)
    assert (x * y).dtype.name == c and (y * x).dtype.name == c


@pytest.mark.parametrize(
    ("dtype", "number", "wanted"),
    [
        ("int8", 2, "int8"), ("uint8", 2, "uint8"), ("int32", 0.5, "float32"), ("bool", 1, "int64"), ("bool", 1.5, "float32"),
        ("bool", True, "bool"), ("float16", 2.0, "float16"), ("bfloat16", 2, "bfloat16"), ("float64", 0.1, "float64"),
        ("int64", True, "int64"), ("int64", 2.0, "float32"),
    ],
)  # fmt: skip
def test_promotion_with_numbers(dtype: str, number: Any, wanted: str) -> None:
    x = Tensor([1], dtype)
    assert (x + number).dtype.name == wanted and (number + x).dtype.name == wanted


def test_numbers_wrap_and_divide() -> None:
    same(Tensor([1, 2], ms.int8) + 1000, np.array([-23, -22], np.int8))
    same(Tensor([1, 2]) / 2, np.array([0.5, 1], np.float32))
    same(1 / Tensor([2, 4]), np.array([0.5, 0.25], np.float32))
    same(Tensor([-7, 7]) // 2, np.array([-4, 3]))
    same(Tensor([-7, 7]) % 3, np.array([2, 1]))
    same(Tensor([2, 3]) ** 0.5, np.sqrt(np.array([2, 3], np.float32)))
    same(Tensor([2.0]) + [1, 2], np.array([3, 4], np.float32))
    same(Tensor([True, False]) + Tensor([True, True]), np.array([True, True]))
    same(~Tensor([True, False]), np.array([False, True]))
    same(Tensor([6]) & 3, np.array([2]))


OPERATORS = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.lt, operator.le, operator.gt, operator.ge,
    operator.eq, operator.ne,
]  # fmt: skip


@given(st.sampled_from(OPERATORS), st.sampled_from([(3,), (1, 3), (2, 1), ()]), st.sampled_from([(2, 3), (3,), (2, 1)]))
def test_operators_are_numpys(op: Callable[..., Any], a: tuple[int, ...], b: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.integers(-3, 4, shape).astype(np.float32) + 0.5 for shape in (a, b))
    same(op(Tensor(x), Tensor(y)), op(x, y))


def test_comparison_with_other_things() -> None:
    assert (Tensor([1, 2]) == None) is False  # noqa: E711
    assert (Tensor([1, 2]) == "a") is False
    assert (Tensor([1, 2]) != [1, 2]) is True


# Indexing: what numpy gives, at once and traced.

INDICES = [
    0, -1, (1, 2), (0, -1, 2), slice(None), slice(1, None), slice(None, None, -1), (slice(None), slice(2, 0, -1)),
    (slice(None), 1, slice(None, None, 2)), (slice(None), slice(None), slice(5, 0, -2)), (..., 0), (0, ...), None,
    (slice(None), None, 1), (None, ..., None), ([0, 1],), ([0, 1], [1, 2]), ([0, 1], slice(None), [1, 2]),
    (slice(None), [0, 2, 1]), (slice(None), [-1, 0], [1, -2]), (np.array([[0, 1], [1, 0]]),), (1, [0, 2], slice(1, 3)),
    (slice(None), np.array([True, False, True])), slice(5, 9), (slice(1, 1),), np.int64(1), ([],), (0, [0, 1], None),
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_getitem(index: Any) -> None:
    same(both(lambda x: x[index], A), A[index])


def test_getitem_with_tensors() -> None:
    where = np.array([1, -1, 0])
    same(both(lambda x, i: x[:, i], A, where), A[:, where])
    same(both(lambda x, i, j: x[i, j], A, where % 2, where), A[where % 2, where])
    same(Tensor(A)[Tensor(A) > 20], A[A > 20])


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_setitem(index: Any) -> None:
    def put(x: Tensor) -> Tensor:
        x = x * 1
        x[index] = 7
        return x

    wanted = A.copy()
    wanted[index] = 7
    same(both(put, A), wanted)


def test_setitem_broadcasts_and_the_last_of_repeats_wins() -> None:
    def put(x: Tensor, v: Tensor) -> Tensor:
        x = x * 1
        x[:, [0, 2, 0]] = v
        return x

    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    wanted = A.copy()
    wanted[:, [0, 2, 0]] = values
    same(both(put, A, values), wanted)


def test_gradient_of_setitem() -> None:
    def f(x: Tensor, v: Tensor) -> Tensor:
        x = x * 2
        x[1:] = v
        return x * x

    dx, dv = ms.grad(f, (0, 1))(Tensor([1.0, 2.0, 3.0]), Tensor([5.0]))
    same(dx, np.array([8, 0, 0], np.float32))
    same(dv, np.array([20], np.float32))


def test_mask_in_a_trace() -> None:
    with pytest.raises(TraceError) as caught:
        ms.jit(lambda x: x[x > 0])(Tensor([1.0, -1.0]))
    lines = str(caught.value).splitlines()
    assert lines[0] == "indexing with a bool mask needs the value of a tensor while GRAPH_MODE is tracing"
    assert lines[1].startswith("  called at test_tensor.py:")
    assert lines[-1] == (
        "  hint: choose with ops.select(mask, a, b) or ops.where, which keep the shape; bool masks work in PYNATIVE_MODE"
    )


def test_results_do_not_share_memory_with_parameters() -> None:
    p = Parameter(Tensor([1.0, 2.0]), name="p")
    seen = p.reshape(2, 1), p[0:1], p.asnumpy(), p.value(), p.T
    p.set_data(Tensor([8.0, 9.0]))
    assert [float(np.asarray(s).reshape(-1)[0]) for s in seen] == [1.0] * 5


# Methods.

METHODS: list[tuple[Callable[[Any], Any], Callable[[np.ndarray], Any]]] = [
    (lambda x: x.sum(), lambda a: a.sum()),
    (lambda x: x.sum((0, -1)), lambda a: a.sum((0, -1))),
    (lambda x: x.sum(1, keepdims=True), lambda a: a.sum(1, keepdims=True)),
    (lambda x: x.mean(1), lambda a: a.mean(1)),
    (lambda x: x.max(axis=2), lambda a: a.max(axis=2)),
    (lambda x: x.min(), lambda a: a.min()),
    (lambda x: x.prod(0), lambda a: a.prod(0)),
    (lambda x: x.argmax(axis=1), lambda a: a.argmax(axis=1)),
    (lambda x: x.argmin(), lambda a: a.argmin()),
    (lambda x: (x > 3).all(axis=0), lambda a: (a > 3).all(axis=0)),
    (lambda x: (x > 22).any(), lambda a: (a > 22).any()),
    (lambda x: x.transpose(1, 0, 2), lambda a: a.transpose(1, 0, 2)),
    (lambda x: x.transpose((2, 0, 1)), lambda a: a.transpose(2, 0, 1)),
    (lambda x: x.T, lambda a: a.T),
    (lambda x: x.swapaxes(0, -1), lambda a: a.swapaxes(0, -1)),
    (lambda x: x.reshape(4, -1), lambda a: a.reshape(4, -1)),
    (lambda x: x.view(24), lambda a: a.reshape(24)),
    (lambda x: x.flatten(), lambda a: a.flatten()),
    (lambda x: x.flatten(order="F"), lambda a: a.flatten(order="F")),
    (lambda x: x.flatten(start_dim=1), lambda a: a.reshape(2, 12)),
    (lambda x: x.expand_dims(1), lambda a: np.expand_dims(a, 1)),
    (lambda x: x[:, :1].squeeze(), lambda a: a[:, :1].squeeze()),
    (lambda x: x[:, :1].broadcast_to((2, 3, 4)), lambda a: np.broadcast_to(a[:, :1], (2, 3, 4))),
    (lambda x: x.tile((2, 1, 3)), lambda a: np.tile(a, (2, 1, 3))),
    (lambda x: x.split(2, axis=1)[1], lambda a: a[:, 2:]),
    (lambda x: x.clip(3, 7), lambda a: a.clip(3, 7)),
    (lambda x: abs(-x), lambda a: abs(-a)),
    (lambda x: x.matmul(x[0].T), lambda a: a @ a[0].T),
    (lambda x: x @ x[0, 0], lambda a: a @ a[0, 0]),
    (lambda x: x.astype(ms.int32), lambda a: a.astype(np.int32)),
    (lambda x: x.half(), lambda a: a.astype(np.float16)),
    (lambda x: x.to(ms.float64), lambda a: a.astype(np.float64)),
    (lambda x: x.floor() - x.ceil(), lambda a: np.floor(a) - np.ceil(a)),
    (lambda x: -x + 2 * x - x / 4, lambda a: -a + 2 * a - a / 4),
    (lambda x: 2 - x, lambda a: 2 - a),
]  # fmt: skip


@pytest.mark.parametrize("k", range(len(METHODS)))
def test_methods_are_numpys(k: int) -> None:
    ours, numpys = METHODS[k]
    same(both(ours, A), numpys(A))


def test_functions() -> None:
    x = Tensor([0.5, 2.0])
    for name in ("exp", "log", "sqrt", "tanh", "sin", "cos", "log1p", "expm1"):
        np.testing.assert_allclose(getattr(x, name)().asnumpy(), getattr(np, name)(x.asnumpy()), rtol=1e-6)
    np.testing.assert_allclose(Tensor(A).var(1, ddof=1).asnumpy(), A.var(1, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(Tensor(A).std().asnumpy(), A.std(), rtol=1e-6)
    assert Tensor([4]).sqrt().dtype is ms.float32


def test_dtypes_of_reductions() -> None:
    x = Tensor([1, 2, 4], ms.int32)
    assert (x.sum().dtype, x.prod().dtype, x.mean().dtype, x.var().dtype) == (ms.int64, ms.int64, ms.int32, ms.float32)
    assert Tensor([True, True]).sum() == 2
    assert x.mean() == 2


def test_facts_and_conversions() -> None:
    x = Tensor(A)
    assert (x.shape, x.ndim, x.size, x.itemsize, x.nbytes, x.strides) == ((2, 3, 4), 3, 24, 4, 96, (48, 16, 4))
    assert (len(x), [t.shape for t in x]) == (2, [(3, 4), (3, 4)])
    assert x.tolist() == A.tolist() and float(Tensor(1.5)) == 1.5 and int(Tensor([3.7])) == 3 and [10, 20][Tensor(1)] == 20
    np.testing.assert_array_equal(np.array(x), A)
    np.testing.assert_array_equal(np.add(x, 1), A + 1)
    same(pickle.loads(pickle.dumps(x)), A)
    assert isinstance(x.copy(), Tensor) and x.copy().asnumpy() is not x.asnumpy()


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (Tensor([1.0, 2.0]), "Tensor(shape=[2], dtype=Float32, value= [ 1.00000000e+00,  2.00000000e+00])"),
        (Tensor(1.0), "Tensor(shape=[], dtype=Float32, value= 1)"),
        (Tensor(0.1), "Tensor(shape=[], dtype=Float32, value= 0.1)"),
        (Tensor(True), "Tensor(shape=[], dtype=Bool, value= True)"),
        (Tensor([[1, 10], [3, 4]]), "Tensor(shape=[2, 2], dtype=Int64, value=\n[[ 1, 10],\n [ 3,  4]])"),
        (Tensor([1.5], ms.float16), "Tensor(shape=[1], dtype=Float16, value= [ 1.5000e+00])"),
        (Tensor(np.zeros((0, 2))), "Tensor(shape=[0, 2], dtype=Float64, value=\n)"),
        (Tensor([-1.0, float("nan"), float("inf")]),
         "Tensor(shape=[3], dtype=Float32, value= [-1.00000000e+00,             nan,             inf])"),
        (Tensor(np.arange(2000).astype(np.float32)),
         "Tensor(shape=[2000], dtype=Float32, value= [ 0.00000000e+00,  1.00000000e+00,  2.00000000e+00 ...  1.99700000e+03,"
         "  1.99800000e+03,  1.99900000e+03])"),
        (Parameter(Tensor([1.0, 2.0]), name="w"), "Parameter (name=w, shape=(2,), dtype=Float32, requires_grad=True)"),
    ],
)  # fmt: skip
def test_repr(tensor: Tensor, text: str) -> None:
    assert repr(tensor) == text


def test_three_axes_print_as_mindspore_prints_them() -> None:
    lines = repr(Tensor(A.astype(np.float64))).splitlines()
    assert lines[1] == "[[[ 0.00000000e+00,  1.00000000e+00,  2.00000000e+00,  3.00000000e+00],"
    assert lines[4] == " [[ 1.20000000e+01,  1.30000000e+01,  1.40000000e+01,  1.50000000e+01],"


def test_str_is_numpys() -> None:
    assert str(Tensor([1.0, 2.5])) == "[1.  2.5]" and str(Tensor(3.0)) == "3.0" and f"{Tensor(2.5):.2f}" == "2.50"
    assert str(Tensor([1.5], ms.bfloat16)) == "[1.5]"
