"""Operators that update rows of tables, against the formulas in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from golden_cases import in_mode

import graphopt as ms
from graphopt import Parameter, Tensor, nn, ops

INDICES = np.array([4, 1, 4, 7], np.int32)  # one of them twice, one outside the table
GRAD = np.random.default_rng(1).normal(size=(4, 1, 3))
START = np.abs(np.random.default_rng(2).normal(size=(3, 6, 1, 3))) + 0.1
Tables = tuple[np.ndarray, ...]


def adam(w: np.ndarray, m: np.ndarray, v: np.ndarray, g: np.ndarray, nesterov: bool = False) -> Tables:
    m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
    step = 0.9 * m + 0.1 * g if nesterov else m
    return w - 0.05 * np.sqrt(1 - 0.98) / (1 - 0.81) * step / (np.sqrt(v) + 1e-3), m, v


def ftrl(w: np.ndarray, n: np.ndarray, u: np.ndarray, g: np.ndarray) -> Tables:
    grown = n + g * g
    u = u + g - (grown**0.5 - n**0.5) / 0.1 * w
    return np.where(np.abs(u) > 0.02, (np.sign(u) * 0.02 - u) / (grown**0.5 / 0.1 + 0.6), 0), grown, u


def proximal(w: np.ndarray, n: np.ndarray, g: np.ndarray) -> Tables:
    n = n + g * g
    rate = 0.1 / np.sqrt(n)
    moved = w - rate * g
    return np.sign(moved) * np.maximum(np.abs(moved) - rate * 0.2, 0) / (1 + rate * 0.3), n


def adagrad(w: np.ndarray, n: np.ndarray, g: np.ndarray, epsilon: float = 0.0) -> Tables:
    n = n + g * g
    return w - 0.1 * g / (np.sqrt(n) + epsilon), n


NUMBERS = [Tensor(np.float32(x)) for x in (0.81, 0.98, 0.05, 0.9, 0.99, 1e-3)]
RATES = [Tensor(np.float32(x)) for x in (0.1, 0.2, 0.3)]
FTRL = {"lr": 0.1, "l1": 0.02, "l2": 0.3, "lr_power": -0.5}
CASES: dict[str, tuple[Callable[[], Any], list[Any], Callable[..., Tables], bool]] = {
    "FusedSparseAdam": (ops.FusedSparseAdam, NUMBERS, adam, True),
    "FusedSparseAdam nesterov": (
        lambda: ops.FusedSparseAdam(use_nesterov=True), NUMBERS, lambda *a: adam(*a, nesterov=True), True,
    ),
    "FusedSparseLazyAdam": (ops.FusedSparseLazyAdam, NUMBERS, adam, False),
    "FusedSparseFtrl": (lambda: ops.FusedSparseFtrl(**FTRL), [], ftrl, False),
    "SparseApplyFtrl": (lambda: ops.SparseApplyFtrl(**FTRL), [], ftrl, False),
    "FusedSparseProximalAdagrad": (ops.FusedSparseProximalAdagrad, RATES, proximal, False),
    "SparseApplyProximalAdagrad": (ops.SparseApplyProximalAdagrad, [0.1, 0.2, 0.3], proximal, False),
    "SparseApplyAdagrad": (lambda: ops.SparseApplyAdagrad(0.1), [], adagrad, False),
    "SparseApplyAdagradV2": (
        lambda: ops.SparseApplyAdagradV2(0.1, 0.01), [], lambda *a: adagrad(*a, epsilon=0.01), False,
    ),
}  # fmt: skip


class Update(nn.Cell):
    """An operator on tables of its own."""

    def __init__(self, operator: Any, count: int, dtype: Any) -> None:
        super().__init__()
        self.operator = operator
        for k in range(count):
            setattr(self, f"table{k}", Parameter(Tensor(START[k].astype(dtype)), name=f"table{k}"))

    def construct(self, numbers: Any, grad: Tensor, indices: Tensor) -> Any:
        return self.operator(*self.get_parameters(), *numbers, grad, indices)


@pytest.mark.parametrize("mode", [ms.PYNATIVE_MODE, ms.GRAPH_MODE])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", CASES)
def test_rows_change_by_the_formula(name: str, dtype: Any, mode: int) -> None:
    make, numbers, rule, whole = CASES[name]
    count = 3 if rule in (adam, ftrl) or "Adam" in name and "Adag" not in name else 2
    net = Update(make(), count, dtype)
    with in_mode(mode):
        returned = net(tuple(numbers), Tensor(GRAD.astype(dtype)), Tensor(INDICES))
    summed = np.zeros((6, 1, 3))
    np.add.at(summed, INDICES[:3], GRAD[:3].astype(dtype).astype(np.float64))
    before = [START[k].astype(dtype).astype(np.float64) for k in range(count)]
    touched = slice(None) if whole else [1, 4]
    expected = [b.copy() for b in before]
    for table, made in zip(expected, rule(*(b[touched] for b in before), summed[touched]), strict=True):
        table[touched] = made
    for k, (p, e) in enumerate(zip(net.get_parameters(), expected, strict=True)):
        assert p.asnumpy().dtype == dtype
        worst = np.max(np.abs(p.asnumpy() - e) / (1 + np.abs(e)))
        assert worst <= (2e-6 if dtype == np.float32 else 1e-3), f"table {k}: {worst}"
    shapes = {r.shape for r in returned}
    assert shapes == ({(1,)} if name.startswith("Fused") else {(6, 1, 3)}) and len(returned) == count


P = Parameter(Tensor(np.ones((6, 2), np.float32)), name="p")
G, AT = Tensor(np.ones((2, 2), np.float32)), Tensor([0, 1])
MISTAKES: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: ops.SparseApplyAdagrad(0.1)(Tensor([[1.0]]), P, G, AT), TypeError, "SparseApplyAdagrad: expected Parameters"),
    (lambda: ops.SparseApplyAdagrad(1)(P, P, G, AT), TypeError, "lr"),
    (lambda: ops.SparseApplyAdagradV2(0.1, 1)(P, P, G, AT), TypeError, "epsilon"),
    (lambda: ops.SparseApplyAdagrad(0.1)(P, P, AT, AT), TypeError, "grad must be a Tensor of floats"),
    (lambda: ops.SparseApplyAdagrad(0.1)(P, P, G, G), TypeError, "indices must be a Tensor of integers"),
    (lambda: ops.SparseApplyAdagrad(0.1)(P, P, G, Tensor([0])), ValueError, "found (1,) and (2, 2)"),
    (lambda: ops.FusedSparseFtrl(0.0, 0.0, 0.0, -0.5)(P, P, P, G, AT), ValueError, "FusedSparseFtrl: lr"),
    (lambda: ops.SparseApplyFtrl(0.1, -1.0, 0.0, -0.5)(P, P, P, G, AT), ValueError, "l1"),
    (lambda: ops.SparseApplyFtrl(0.1, 0.0, 0.0, 0.5)(P, P, P, G, AT), ValueError, "lr_power must be <= 0, found 0.5"),
    (lambda: ops.FusedSparseAdam()(P, P, P, 0.9), TypeError, ""),
]


@pytest.mark.parametrize(("call", "error", "text"), MISTAKES)
def test_mistakes(call: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value), caught.value
