"""AdaFactor beyond the recorded trajectories: states, groups, refusals, dynamic decay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from golden_cases import in_mode

import graphopt as ms
from graphopt import Parameter, Tensor, nn, ops

MODES = [ms.PYNATIVE_MODE, ms.GRAPH_MODE]


def make(dtype: Any = np.float32) -> list[Parameter]:
    rng = np.random.default_rng(5)
    shapes = {"conv.weight": (4, 3, 2, 2), "fc.weight": (5, 3), "bn.beta": (5,)}
    return [Parameter(Tensor(rng.normal(size=s).astype(dtype)), name=n) for n, s in shapes.items()]


def test_states_have_the_documented_names_and_shapes() -> None:
    optimizer = nn.AdaFactor(make(), compression=True)
    state = {p.name: (p.shape, p.dtype) for p in optimizer.get_parameters()}
    assert state["exp_avg_sq_row_conv.weight"] == ((4, 3, 2), ms.float32)
    assert state["exp_avg_sq_col_conv.weight"] == ((4, 3, 2), ms.float32)
    assert state["exp_avg_sq_conv.weight"] == ((1,), ms.float32)
    assert state["exp_avg_sq_col_bn.beta"] == ((1,), ms.float32)
    assert state["exp_avg_sq_bn.beta"] == ((5,), ms.float16)
    assert state["exp_avg.fc.weight"] == ((5, 3), ms.float32)
    assert state["afactor_step"] == ((1,), ms.float32)
    for beta1 in (None, 0, 0.0):
        assert not any(
            p.name.startswith("exp_avg.") for p in nn.AdaFactor(make(), beta1=beta1).get_parameters()
        )
    optimizer.target = "CPU"
    with pytest.raises(ValueError):
        optimizer.target = "GPU"


@pytest.mark.parametrize("mode", MODES)
def test_a_threshold_of_zero_is_refused_before_anything_changes(mode: int) -> None:
    p = make()
    optimizer = nn.AdaFactor(p, clip_threshold=0.0)
    before = {q.name: q.asnumpy() for q in optimizer.get_parameters()}
    with in_mode(mode), pytest.raises(ValueError, match="clip_threshold"):
        optimizer(tuple(ops.ones_like(q) for q in p))
    assert all(np.array_equal(before[q.name], q.asnumpy()) for q in optimizer.get_parameters())


def test_groups() -> None:
    p = make()
    groups = [{"params": p[:1], "lr": 0.1}, {"params": p[1:]}]
    with pytest.raises(ValueError, match="relative_step"):
        nn.AdaFactor(groups)
    with pytest.raises(ValueError, match="weight_decay"):
        nn.AdaFactor([{"params": p, "weight_decay": 1.5}])
    with pytest.raises(TypeError, match="weight_decay"):
        nn.AdaFactor(p, weight_decay=None)


@pytest.mark.parametrize("mode", MODES)
def test_a_rate_that_is_no_number_is_not_scaled_by_the_parameter(mode: int) -> None:
    """Two groups of equal parameters differ by the factor rms(w) when one has a number and the other a list."""
    p = [Parameter(Tensor(np.full((2, 3), 4.0, np.float32)), name=n) for n in "ab"]
    groups = [{"params": [p[0]], "lr": 0.1}, {"params": [p[1]], "lr": [0.1, 0.1]}]
    optimizer = nn.AdaFactor(groups, learning_rate=0.5, beta1=None, relative_step=False)
    with in_mode(mode):
        optimizer((ops.ones((2, 3)), ops.ones((2, 3))))
    assert np.allclose(p[0].asnumpy(), 4.0 - 0.4, atol=1e-6) and np.allclose(
        p[1].asnumpy(), 4.0 - 0.1, atol=1e-6
    )


class Half(nn.Cell):
    def construct(self, step: Tensor) -> Any:
        return 0.5 / (1.0 + step.astype(ms.float32))


@pytest.mark.parametrize("mode", MODES)
def test_a_groups_decay_may_follow_the_step(mode: int) -> None:
    p = Parameter(Tensor(np.full((2, 3), 4.0, np.float32)), name="p")
    groups = [{"params": [p], "weight_decay": Half()}]
    optimizer = nn.AdaFactor(
        groups, 0.1, beta1=None, scale_parameter=False, relative_step=False, loss_scale=8.0
    )
    expected = 4.0
    with in_mode(mode):
        for t in range(3):
            optimizer((ops.ones((2, 3)) * 8.0,))
            expected -= 0.1 + 0.1 * 0.5 / (1 + t) * expected
            assert np.allclose(p.asnumpy(), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_dtypes(dtype: Any) -> None:
    p, q = make(dtype), make()
    narrow, wide = nn.AdaFactor(p), nn.AdaFactor(q)
    for _ in range(3):
        narrow(tuple(ops.ones(v.shape, v.dtype) for v in p))
        wide(tuple(ops.ones(v.shape) for v in q))
    for a, b in zip(p, q, strict=True):
        assert a.asnumpy().dtype == dtype and np.allclose(a.asnumpy(), b.asnumpy(), atol=5e-3)


def test_a_gradient_of_zeros_leaves_the_parameters() -> None:
    p = make()
    before = [q.asnumpy() for q in p]
    nn.AdaFactor(p, eps=(0.0, 0.0))(tuple(ops.zeros(q.shape) for q in p))
    assert all(np.array_equal(a, q.asnumpy()) for a, q in zip(before, p, strict=True))


def test_one_compile_for_all_steps() -> None:
    p = make()
    optimizer = nn.AdaFactor(p, warmup_init=True)
    with in_mode(ms.GRAPH_MODE):
        for _ in range(4):
            optimizer(tuple(ops.ones(v.shape) for v in p))
        assert optimizer.compile_cache.compiles == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_large_matrix_follows_the_formula(mode: int) -> None:
    """Column means of 64 rows and more are taken by another way."""
    rng = np.random.default_rng(2)
    w = rng.normal(size=(130, 70)).astype(np.float32)
    p = Parameter(Tensor(w), name="p")
    optimizer = nn.AdaFactor([p], weight_decay=0.1)
    w, row, col, moment = w.astype(np.float64), 0.0, 0.0, 0.0
    with in_mode(mode):
        for t in range(1, 4):
            g = rng.normal(size=w.shape).astype(np.float32)
            optimizer((Tensor(g),))
            keep, q = 1 - t**-0.8, g.astype(np.float64) ** 2 + 1e-30
            row, col = keep * row + (1 - keep) * q.mean(1), keep * col + (1 - keep) * q.mean(0)
            u = g / np.sqrt(np.outer(row / row.mean(), col))
            rate = min(1e-2, t**-0.5) * max(1e-3, np.sqrt((w**2).mean()))
            moment = 0.9 * moment + 0.1 * rate * u / max(1.0, np.sqrt((u**2).mean()))
            w = w - moment - 0.1 * rate * w
            assert np.abs(p.asnumpy() - w).max() <= 1e-5
