"""Layers and functions against numbers recorded with MindSpore; and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from golden_cases import check_case, in_mode
from layer_cases import FUNCTIONS, LAYERS

import graphopt as ms
from graphopt import Tensor, nn, ops


@pytest.mark.parametrize("name", [case[0] for case in LAYERS + FUNCTIONS])
def test_recorded_values(name: str) -> None:
    with in_mode(ms.PYNATIVE_MODE):
        check_case(name)


@pytest.mark.parametrize("name", [case[0] for case in LAYERS])
def test_recorded_values_in_graph_mode(name: str) -> None:
    with in_mode(ms.GRAPH_MODE):
        check_case(name)


@pytest.mark.parametrize("mode", [ms.PYNATIVE_MODE, ms.GRAPH_MODE])
def test_dropout_draws_anew_and_repeats_after_set_seed(mode: int) -> None:
    with in_mode(mode):
        net, x = nn.Dropout(p=0.25).set_train(), ops.ones((200, 50))
        ms.set_seed(3)
        first, second = net(x).asnumpy(), net(x).asnumpy()
        ms.set_seed(3)
        again = net(x).asnumpy()
    assert not np.array_equal(first, second)
    assert np.array_equal(first, again)
    assert abs((first == 0).mean() - 0.25) < 0.02
    assert np.allclose(first[first != 0], 1 / 0.75)


def test_dropout_gradient_uses_the_mask_of_its_forward() -> None:
    net, x = nn.Dropout(p=0.5).set_train(), ops.ones((64,))
    out, grad = nn.ForwardValueAndGrad(net)(x)
    assert np.array_equal(out.asnumpy(), grad.asnumpy())


def test_parameter_names() -> None:
    class Net(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.bn, self.p, self.fc = nn.BatchNorm2d(2), nn.PReLU(), nn.Dense(2, 2)
            self.bn3 = nn.BatchNorm3d(2)

    names = [p.name for p in Net().get_parameters()]
    assert names[:7] == ["bn.moving_mean", "bn.moving_variance", "bn.gamma", "bn.beta", "p.w", "fc.weight", "fc.bias"]
    assert names[7] == "bn3.bn2d.moving_mean"
    assert [p.name for p in nn.BatchNorm2d(2).trainable_params()] == ["gamma", "beta"]


def test_max_pool_hands_out_positions() -> None:
    x = Tensor(np.array([[[[1, 5, 2], [7, 3, 0], [4, 6, 8]]]], np.float32))
    values, at = nn.MaxPool2d(2, 1, pad_mode="pad", return_indices=True)(x)
    assert values.asnumpy().tolist() == [[[[7, 5], [7, 8]]]]
    assert at.asnumpy().tolist() == [[[[3, 1], [3, 8]]]]


WRONG = [
    (lambda: nn.Dense(0, 3), ValueError, "in_channels"),
    (lambda: nn.Dense(2.5, 3), TypeError, "in_channels"),
    (lambda: nn.Dense(2, 3, activation=3), TypeError, "activation"),
    (lambda: nn.Dense(2, 3, activation="rely"), KeyError, "rely"),
    (lambda: nn.Dense(2, 3, weight_init=Tensor(np.ones((2, 3)))), ValueError, "weight_init"),
    (lambda: nn.Dense(2, 3)(ops.ones((4, 3))), ValueError, "f32[4,3]"),
    (lambda: nn.Conv2d(3, 4, 3, pad_mode="full"), ValueError, "'full'"),
    (lambda: nn.Conv2d(3, 4, 3, padding=1), ValueError, "padding"),
    (lambda: nn.Conv2d(3, 4, 3, pad_mode="pad", padding=(1, 2, 3)), ValueError, "(1, 2, 3)"),
    (lambda: nn.Conv2d(3, 4, 3, pad_mode="pad", padding=-1), ValueError, "-1"),
    (lambda: nn.Conv2d(3, 4, 3, group=2), ValueError, "group"),
    (lambda: nn.Conv2d(3, 4, 0), ValueError, "kernel_size"),
    (lambda: nn.Conv2d(3, 4, 3, data_format="NHWC"), ValueError, "NHWC"),
    (lambda: nn.Conv2d(3, 4, 3)(ops.ones((1, 2, 5, 5))), ValueError, "3 channels"),
    (lambda: nn.MaxPool2d(2, pad_mode="round"), ValueError, "'round'"),
    (lambda: nn.MaxPool2d(2, padding=1), ValueError, "pad"),
    (lambda: nn.MaxPool2d(2, pad_mode="pad", padding=2), ValueError, "half"),
    (lambda: nn.AvgPool2d(2, divisor_override=0), ValueError, "divisor_override"),
    (lambda: nn.BatchNorm2d(0), ValueError, "num_features"),
    (lambda: nn.BatchNorm2d(2, momentum=1.5), ValueError, "1.5"),
    (lambda: nn.BatchNorm2d(2, use_batch_statistics=1), ValueError, "use_batch_statistics"),
    (lambda: nn.BatchNorm2d(2)(ops.ones((1, 3, 2, 2))), ValueError, "2 channels"),
    (lambda: nn.LayerNorm(3), TypeError, "normalized_shape"),
    (lambda: nn.LayerNorm((3,))(ops.ones((2, 4))), ValueError, "(2, 4)"),
    (lambda: nn.GroupNorm(2, 3), ValueError, "multiple"),
    (lambda: nn.Dropout(p=1.0), ValueError, "1.0"),
    (lambda: nn.Dropout(p="a"), TypeError, "'a'"),
    (lambda: nn.Dropout(keep_prob=0.0), ValueError, "keep_prob"),
    (lambda: nn.Embedding(4, 2, padding_idx=4), ValueError, "padding_idx"),
    (lambda: nn.Embedding(4, 2)(ops.ones((2,))), TypeError, "integers"),
    (lambda: ops.softmax(ops.ones((2,)), 1), ValueError, "axis 1"),
    (lambda: ops.concat(()), ValueError, "none"),
    (lambda: ops.reshape(ops.ones((2, 3)), (4, -1)), ValueError, "(4, -1)"),
    (lambda: ops.split(ops.ones((4,)), [1, 2]), ValueError, "add up"),
    (lambda: ops.MatMul(transpose=True), TypeError, "MatMul"),
]


@pytest.mark.parametrize(("call", "error", "text"), WRONG)
def test_bad_input(call, error, text) -> None:
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)


def test_operator_classes_run_their_functions() -> None:
    x = Tensor(np.arange(12, dtype=np.float32).reshape(3, 4) - 5)
    assert ops.ReduceSum(keep_dims=True)(x, 1).shape == (3, 1)
    assert np.array_equal(ops.MatMul(transpose_b=True)(x, x).asnumpy(), x.asnumpy() @ x.asnumpy().T)
    assert np.array_equal(ops.MatMul(transpose_a=True)(x, x).asnumpy(), x.asnumpy().T @ x.asnumpy())
    assert ops.Split(1, 2)(x)[1].shape == (3, 2)
    assert ops.Argmax()(x).asnumpy().tolist() == [3, 3, 3] and ops.Argmax()(x).dtype is ms.int32
    assert ops.Concat(1)((x, x)).shape == (3, 8)
    assert ops.BiasAdd()(x, Tensor(np.ones(4, np.float32))).asnumpy()[0].tolist() == [-4, -3, -2, -1]
    assert ops.Cast()(x, ms.int32).dtype is ms.int32
    exclusive = ops.CumSum(exclusive=True, reverse=True)(x, 1).asnumpy()
    assert np.array_equal(exclusive, x.asnumpy()[:, ::-1].cumsum(1)[:, ::-1] - x.asnumpy())
    p = ms.Parameter(Tensor([1.0]), name="p")
    ops.AssignAdd()(p, Tensor([2.0]))
    assert p.asnumpy().tolist() == [3.0]


def test_dtypes_meet_as_in_mindspore() -> None:
    i, h, f = Tensor([1], ms.int32), Tensor([1.0], ms.float16), Tensor([1.0], ms.float32)
    assert ops.add(i, 2.5).dtype is ms.float32
    assert ops.add(i, h).dtype is ms.float16
    assert ops.add(h, f).dtype is ms.float32
    assert ops.div(i, i).dtype is ms.float32
    assert ops.sum(Tensor([True, False])).dtype is ms.int64
    assert ops.add(h, 1).dtype is ms.float16
