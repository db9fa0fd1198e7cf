"""Initial values: shapes, moments, bounds, the seed, names, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

import graphopt as ms
import graphopt.common.initializer as init
from graphopt import Tensor
from graphopt.common.initializer import fans, gain_of, initializer

SHAPE = (64, 32, 3, 3)
FAN_IN, FAN_OUT = 32 * 9, 64 * 9


def draw(kind, shape=SHAPE) -> np.ndarray:
    ms.set_seed(1)
    return initializer(kind, shape, ms.float32).asnumpy()


UNIFORM = [
    ("uniform", 0.07),
    (init.Uniform(0.5), 0.5),
    ("xavier_uniform", math.sqrt(6 / (FAN_IN + FAN_OUT))),
    (init.XavierUniform(2), 2 * math.sqrt(6 / (FAN_IN + FAN_OUT))),
    ("he_uniform", math.sqrt(3) * math.sqrt(2 / FAN_IN)),
    (init.HeUniform(math.sqrt(5)), 1 / math.sqrt(FAN_IN)),
    (init.HeUniform(mode="fan_out", nonlinearity="relu"), math.sqrt(6 / FAN_OUT)),
    (init.VarianceScaling(2.0, "fan_avg", "uniform"), math.sqrt(6 / ((FAN_IN + FAN_OUT) / 2))),
]
NORMAL = [
    ("normal", 0.01),
    (init.Normal(0.2), 0.2),
    ("xavier_normal", math.sqrt(2 / (FAN_IN + FAN_OUT))),
    ("HeNormal", math.sqrt(2 / FAN_IN)),
    (init.HeNormal(nonlinearity="tanh"), 5 / 3 / math.sqrt(FAN_IN)),
    (init.VarianceScaling(1.0, "fan_out", "untruncated_normal"), math.sqrt(1 / FAN_OUT)),
    (init.VarianceScaling(), math.sqrt(1 / FAN_IN)),
]


@pytest.mark.parametrize(("kind", "bound"), UNIFORM)
def test_uniform_bounds(kind, bound) -> None:
    values = draw(kind)
    assert abs(values).max() <= bound * (1 + 1e-6) and abs(values).max() > 0.99 * bound
    assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.03) and abs(values.mean()) < 0.02 * bound


@pytest.mark.parametrize(("kind", "deviation"), NORMAL)
def test_normal_deviations(kind, deviation) -> None:
    values = draw(kind)
    assert values.std() == pytest.approx(deviation, rel=0.03) and abs(values.mean()) < 0.03 * deviation


def test_truncated_normal_stays_inside() -> None:
    values = draw(init.TruncatedNormal(1.0, 0.5, -0.5, 1.0))
    assert values.min() >= -0.5 and values.max() <= 1.0 and values.std() > 0.3
    far = draw(init.TruncatedNormal(0.01, 0.0, 5.0, 6.0))
    assert far.min() >= 5.0 and far.max() <= 6.0


def test_plain_values() -> None:
    assert draw("zeros", (2,)).tolist() == [0, 0] and draw("ones", (2,)).tolist() == [1, 1]
    assert draw(init.Constant(3), (2,)).tolist() == [3, 3] and draw(0.5, (2,)).tolist() == [0.5, 0.5]
    assert np.array_equal(draw("identity", (2, 3)), np.eye(2, 3))
    w = draw(init.Orthogonal(2.0), (4, 2, 3)).reshape(4, 6)
    assert np.allclose(w @ w.T, 4 * np.eye(4), atol=1e-5)
    tall = draw("orthogonal", (6, 3))
    assert np.allclose(tall.T @ tall, np.eye(3), atol=1e-5)
    dirac = draw(init.Dirac(2), (4, 2, 3, 3))
    assert dirac.sum() == 4 and all(dirac[g * 2 + k, k, 1, 1] == 1 for g in range(2) for k in range(2))
    assert ((draw(init.Sparse(0.25), (8, 3)) == 0).sum(0) == 2).all()


def test_the_seed_decides() -> None:
    first = draw("normal", (5,))
    assert np.array_equal(first, draw("normal", (5,)))
    assert not np.array_equal(first, initializer("normal", (5,)).asnumpy())
    ms.set_seed(2)
    assert not np.array_equal(first, initializer("normal", (5,)).asnumpy())
    ms.set_seed(1)
    a = ms.nn.Dense(3, 4)
    ms.set_seed(1)
    b = ms.nn.Dense(3, 4)
    assert np.array_equal(a.weight.asnumpy(), b.weight.asnumpy()) and np.array_equal(
        a.bias.asnumpy(), b.bias.asnumpy()
    )


def test_dtypes_and_tensors() -> None:
    assert initializer("normal", (2,), ms.float16).dtype is ms.float16
    assert initializer("ones", [2], ms.int32).asnumpy().tolist() == [1, 1]
    assert initializer("ones", 3).shape == (3,)
    given = Tensor([1.0, 2.0])
    assert initializer(given, (2,)) is given
    assert Tensor(shape=(2, 2), dtype=ms.float32, init=init.One()).asnumpy().sum() == 4


def test_fans_and_gains() -> None:
    assert fans((8, 4)) == (4, 8) and fans(SHAPE) == (FAN_IN, FAN_OUT)
    assert gain_of("leaky_relu", 1) == 1 and gain_of("sigmoid") == 1 and gain_of("relu") == math.sqrt(2)


WRONG = [
    (lambda: initializer("nromal", (2,)), ValueError, "nromal"),
    (lambda: initializer([1], (2,)), TypeError, "[1]"),
    (lambda: initializer("ones", (2, -1)), ValueError, "-1"),
    (lambda: initializer("ones", ("a",)), TypeError, "'a'"),
    (lambda: initializer(Tensor([1.0]), (2,)), ValueError, "(2,)"),
    (lambda: initializer("xavier_uniform", (2,)), ValueError, "(2,)"),
    (lambda: initializer("identity", (2,)), ValueError, "(2,)"),
    (lambda: initializer(init.Dirac(3), (4, 2, 3)), ValueError, "groups"),
    (lambda: init.Normal(-1.0), ValueError, "-1.0"),
    (lambda: init.HeUniform(mode="fan"), ValueError, "'fan'"),
    (lambda: init.HeUniform(nonlinearity="swish"), ValueError, "'swish'"),
    (lambda: init.VarianceScaling(0.0), ValueError, "scale"),
    (lambda: init.VarianceScaling(distribution="normal"), ValueError, "'normal'"),
    (lambda: init.TruncatedNormal(a=1.0, b=0.0), ValueError, "below"),
    (lambda: ms.set_seed(-1), ValueError, "-1"),
    (lambda: ms.set_seed(1.5), TypeError, "1.5"),
]


@pytest.mark.parametrize(("call", "error", "text"), WRONG)
def test_bad_input(call, error, text) -> None:
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)
