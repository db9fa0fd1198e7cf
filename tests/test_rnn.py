"""nn.LSTM against numbers recorded with MindSpore (goldens/make_lstm.py), in both modes; and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from golden_cases import GOLDENS, in_mode

import graphopt as ms
from graphopt import Tensor, nn, ops

from make_lstm import CASES, HIDDEN, INPUTS, inputs, values  # isort: skip  (golden_cases puts its folder on the path)

RECORDED = np.load(GOLDENS / "lstm.npz")


@pytest.mark.parametrize("mode", [ms.PYNATIVE_MODE, ms.GRAPH_MODE])
@pytest.mark.parametrize("name", CASES)
def test_recorded_values_and_gradients(name: str, mode: int) -> None:
    net = nn.LSTM(INPUTS, HIDDEN, **CASES[name][0])
    parameters = net.trainable_params()
    for k, parameter in enumerate(parameters):
        parameter.set_data(Tensor(values(k, parameter.shape)))
    x, hx, lengths = inputs(name)
    state = None if hx is None else tuple(Tensor(part) for part in hx)
    length = None if lengths is None else Tensor(lengths)

    def weighted(x: Tensor) -> Tensor:
        output, (h, c) = net(x, state, length)
        return (output * output).sum() + h.sum() + (c * c * c).sum()

    with in_mode(mode):
        output, (h, c) = net(Tensor(x), state, length)
        by_x, by_weights = ms.grad(weighted, 0, parameters)(Tensor(x))
    found = {"output": output, "h": h, "c": c, "by_x": by_x}
    found |= {p.name: g for p, g in zip(parameters, by_weights, strict=True)}
    recorded = [key.partition("/")[2] for key in RECORDED.files if key.startswith(f"{name}/")]
    assert list(found) == recorded, "parameters by MindSpore's names, in its order"
    for key, value in found.items():
        assert np.allclose(value.asnumpy(), RECORDED[f"{name}/{key}"], rtol=2e-5, atol=2e-5), key


def test_dropout_between_layers_in_training_only() -> None:
    net = nn.LSTM(3, 4, num_layers=2, dropout=0.5)
    x = ops.ones((6, 5, 3))
    plain = net(x)[0].asnumpy()
    assert np.array_equal(plain, net.set_train(False)(x)[0].asnumpy())
    trained = net.set_train()(x)[0].asnumpy()
    assert not np.array_equal(trained, plain) and not np.array_equal(trained, net(x)[0].asnumpy())
    one = nn.LSTM(3, 4, dropout=0.5).set_train()
    assert np.array_equal(one(x)[0].asnumpy(), one(x)[0].asnumpy()), "the last layer's output is whole"


WRONG = [
    (lambda: nn.LSTM(0, 4), ValueError, "input_size"),
    (lambda: nn.LSTM(3.0, 4), TypeError, "input_size"),
    (lambda: nn.LSTM(3, 0), ValueError, "hidden_size"),
    (lambda: nn.LSTM(3, 4, num_layers=0), ValueError, "num_layers"),
    (lambda: nn.LSTM(3, 4, has_bias=1), TypeError, "has_bias"),
    (lambda: nn.LSTM(3, 4, batch_first="a"), TypeError, "batch_first"),
    (lambda: nn.LSTM(3, 4, bidirectional=2), TypeError, "bidirectional"),
    (lambda: nn.LSTM(3, 4, dropout=1), TypeError, "dropout"),
    (lambda: nn.LSTM(3, 4, dropout=1.0), ValueError, "dropout must be in [0, 1), found 1.0"),
    (lambda: nn.LSTM(3, 4)(ops.ones((5, 2, 4))), ValueError, "x must have shape (time, n, 3), found (5, 2, 4)"),
    (lambda: nn.LSTM(3, 4, batch_first=True)(ops.ones((5, 3))), ValueError, "x must have shape (n, time, 3), found (5, 3)"),
    (lambda: nn.LSTM(3, 4)(ops.ones((0, 2, 3))), ValueError, "found (0, 2, 3)"),
    (lambda: nn.LSTM(3, 4)(ops.ones((5, 2, 3)), (ops.ones((1, 2, 4)), ops.ones((2, 4)))), ValueError, "(1, 2, 4)"),
]


@pytest.mark.parametrize(("call", "error", "text"), WRONG)
def test_bad_input(call, error, text) -> None:
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)
