"""Losses against numbers recorded with MindSpore; and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from golden_cases import check_case, in_mode
from layer_cases import LOSSES

import graphopt as ms
from graphopt import Tensor, nn, ops


@pytest.mark.parametrize("mode", [ms.PYNATIVE_MODE, ms.GRAPH_MODE])
@pytest.mark.parametrize("name", [case[0] for case in LOSSES])
def test_recorded_values(name: str, mode: int) -> None:
    with in_mode(mode):
        check_case(name)


def test_no_overflow_for_large_logits() -> None:
    logits = Tensor(np.array([[1000.0, -1000.0], [-1000.0, 1000.0]], np.float32))
    loss = nn.CrossEntropyLoss(reduction="none")(logits, Tensor([0, 0], ms.int32)).asnumpy()
    assert loss.tolist() == [0.0, 2000.0]
    assert np.isfinite(nn.BCEWithLogitsLoss()(logits, ops.ones((2, 2))).asnumpy())


@pytest.mark.parametrize("mode", [ms.PYNATIVE_MODE, ms.GRAPH_MODE])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_float64_losses_are_computed_in_float64(reduction: str, mode: int) -> None:
    rng = np.random.default_rng(0)
    x, y, classes = rng.normal(size=(3, 5)), rng.normal(size=(3, 5)), np.array([4, 0, 2], np.int32)
    scores = x - np.log(np.exp(x).sum(1, keepdims=True))
    reduce = {"none": lambda v: v, "mean": np.mean, "sum": np.sum}[reduction]
    expected = {
        nn.MSELoss(reduction): (y, reduce((x - y) ** 2)),
        nn.L1Loss(reduction): (y, reduce(abs(x - y))),
        nn.SoftmaxCrossEntropyWithLogits(True, reduction): (classes, reduce(-scores[np.arange(3), classes])),
        nn.SoftmaxCrossEntropyWithLogits(False, reduction): (np.eye(5)[classes], reduce(-scores[np.arange(3), classes])),
    }
    with in_mode(mode):
        for loss, (labels, wanted) in expected.items():
            found = loss(Tensor(x), Tensor(labels)).asnumpy()
            assert found.dtype == np.float64 and np.allclose(found, wanted, rtol=1e-14, atol=1e-15), loss


WRONG = [
    (lambda: nn.MSELoss("avg"), ValueError, "'avg'"),
    (lambda: nn.SmoothL1Loss(beta=-1.0), ValueError, "beta"),
    (lambda: nn.HuberLoss(delta=0.0), ValueError, "delta"),
    (lambda: nn.SoftmaxCrossEntropyWithLogits(sparse=1), TypeError, "sparse"),
    (lambda: nn.SoftmaxCrossEntropyWithLogits()(ops.ones((2, 3)), ops.ones((2, 4))), ValueError, "f32[2,4]"),
    (lambda: nn.CrossEntropyLoss(label_smoothing=2.0), ValueError, "label_smoothing"),
    (lambda: nn.CrossEntropyLoss(weight=3), TypeError, "weight"),
    (lambda: nn.CrossEntropyLoss()(ops.ones((2, 3)), Tensor([1, 2, 0], ms.int32)), ValueError, "(2,)"),
    (lambda: nn.NLLLoss()(ops.ones((2, 3)), ops.ones((2,))), TypeError, "integer classes"),
    (lambda: nn.BCELoss()(ops.ones((2, 3)), ops.ones((2,))), ValueError, "do not fit"),
    (lambda: nn.KLDivLoss("max"), ValueError, "'max'"),
]


@pytest.mark.parametrize(("call", "error", "text"), WRONG)
def test_bad_input(call, error, text) -> None:
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)
