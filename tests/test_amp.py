"""Mixed precision: which Cells compute in which dtype at which level, training steps, levels set twice, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from golden_cases import in_mode

import graphopt as ms
from graphopt import Tensor, amp, nn, ops

MODES = [ms.PYNATIVE_MODE, ms.GRAPH_MODE]
NARROW = {ms.float16: "Float16", ms.bfloat16: "BFloat16"}


class Net(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.body = nn.SequentialCell(nn.Flatten(), nn.Dense(64, 8), nn.LayerNorm((8,)), nn.Dense(8, 3))
        self.seen: dict[str, Any] = {}

    def construct(self, x: Tensor) -> Any:
        y = self.bn(self.conv(x))
        z = self.relu(y)
        self.seen["relu"] = z.dtype
        return self.body(z)


def net() -> Net:
    ms.set_seed(1)
    return Net()


def computed(network: nn.Cell, x: Tensor) -> dict[str, Any]:
    """The dtype in which Cells get their input, and the one in which they give their output."""
    found: dict[str, Any] = {}
    watched = {"conv": network.conv, "bn": network.bn, "fc": network.body[1], "ln": network.body[2]}
    for name, cell in watched.items():
        inner = cell.construct

        def construct(*args: Any, inner: Any = inner, name: str = name) -> Any:
            found[name] = args[0].dtype
            return inner(*args)

        cell.construct = construct
    out = network(x)
    for cell in watched.values():
        del cell.construct
    return found | {"out": out.dtype, "relu": network.seen["relu"]}


WIDE, HALF = ms.float32, ms.float16
WHERE = {
    "O0": dict.fromkeys(("conv", "bn", "fc", "ln", "relu"), WIDE),
    "O1": dict.fromkeys(("conv", "bn", "fc", "ln", "relu"), WIDE),  # operators cast, Cells do not
    "auto": {"conv": WIDE, "bn": HALF, "relu": HALF, "fc": HALF, "ln": HALF},
    "O2": {"conv": HALF, "fc": HALF, "bn": WIDE, "ln": WIDE, "relu": HALF},
    "O3": dict.fromkeys(("conv", "bn", "fc", "ln", "relu"), HALF),
}
X = np.random.default_rng(0).normal(size=(8, 1, 4, 4)).astype(np.float32)
LABELS = np.arange(8).astype(np.int32) % 3


@pytest.mark.parametrize("level", WHERE)
@pytest.mark.parametrize("dtype", NARROW)
def test_what_computes_in_what(level: str, dtype: Any) -> None:
    """Normalization gets narrow inputs as float32, though they hold no more digits than the narrow dtype has."""
    network = net()
    names = [p.name for p in network.get_parameters()]
    with in_mode(ms.PYNATIVE_MODE):
        assert amp.auto_mixed_precision(network, level, dtype) is network
        found = computed(network, Tensor(X))
    expected = {k: dtype if v is HALF else v for k, v in WHERE[level].items()} | {"out": WIDE}
    inside = {k: v for k, v in found.items() if k not in ("bn", "ln") or level == "O3"}
    assert all(inside[k] is expected[k] for k in inside), (found, expected)
    assert [p.name for p in network.get_parameters()] == names
    assert all(p.dtype is WIDE for p in network.get_parameters())


@pytest.mark.parametrize("mode", MODES)
def test_a_level_replaces_the_one_before(mode: int) -> None:
    network, plain = net(), net()
    with in_mode(mode):
        expected = plain(Tensor(X)).asnumpy()
        for level in ("O2", "O2", "O3", "O1", "auto", "O2", "O1"):
            amp.auto_mixed_precision(network, level)
            again = amp.auto_mixed_precision(net(), level)
            found = network(Tensor(X)).asnumpy()
            assert found.tobytes() == again(Tensor(X)).asnumpy().tobytes() != expected.tobytes()
            assert np.allclose(found, expected, atol=0.05)


def test_lists_of_ones_own() -> None:
    with in_mode(ms.PYNATIVE_MODE):
        found = computed(amp.custom_mixed_precision(net(), white_list=[nn.Dense]), Tensor(X))
        assert found["fc"] is HALF and found["conv"] is found["out"] is WIDE
        found = computed(amp.custom_mixed_precision(net(), black_list=[nn.Dense], dtype=ms.bfloat16), Tensor(X))
        assert found["fc"] is WIDE and found["conv"] is ms.bfloat16 and found["out"] is WIDE
    assert nn.Conv2d in amp.get_white_list() and nn.BatchNorm2d in amp.get_black_list()
    amp.get_black_list().clear()
    assert amp.get_black_list()


def narrow(x: Any) -> Any:
    return x.asnumpy().astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
def test_operators_at_o1(mode: int) -> None:
    """Products round their inputs and their result, everything else keeps its digits; methods and operators too."""
    x, y = Tensor(np.float32([[1.0001, 2.0]])), Tensor(np.float32([[1.0001], [3.0]]))

    class Body(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Dense(2, 1, weight_init="ones", has_bias=False).to_float(ms.float32)

        def construct(self, a: Tensor, b: Tensor) -> Any:
            return ops.matmul(a, b), a @ b, ops.MatMul()(a, b), a.matmul(b), ops.relu(a), self.own(a), ops.exp(a), a * a

    with in_mode(mode):
        *products, relu, own, exp, square = amp.auto_mixed_precision(Body(), "O1")(x, y)
    for p in products:
        assert p.dtype is WIDE and p.asnumpy().tolist() == [[7.0]]
    assert relu.asnumpy().tolist() == narrow(x).tolist()
    assert own.asnumpy().tolist() == [[np.float32(1.0001) + np.float32(2.0)]]
    for found, expected in ((exp, np.exp(x.asnumpy())), (square, x.asnumpy() ** 2)):
        assert np.allclose(found.asnumpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_operators_at_auto(mode: int) -> None:
    """A function; what it gives is what its operators give."""
    x, half = Tensor(np.float32([[1.0001, 2.0]])), Tensor(np.float16([[0.5, 2.0]]))

    def body(a: Tensor, b: Tensor) -> Any:
        product = ops.matmul(a, b.swapaxes(0, 1))
        return product, ops.exp(b), b**3.0, ops.concat((a, b)), ops.sigmoid(b), ops.softmax(b), ops.addn([b, b])

    ruled = amp.auto_mixed_precision(body, "auto")
    with in_mode(mode):
        found = (ms.jit(ruled) if mode == ms.GRAPH_MODE else ruled)(x, half)
        kinds = [f.dtype for f in found]
        assert kinds == [HALF, WIDE, WIDE, WIDE, HALF, WIDE, HALF]
        assert body(x, ops.cast(half, WIDE))[0].dtype is WIDE, "the rule ends with the call"


# training


def losses(level: str, mode: int, **more: Any) -> tuple[list[float], Net, nn.Cell]:
    network = net()
    optimizer = nn.Momentum(network.trainable_params(), 0.05, 0.9)
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    step = amp.build_train_network(network, optimizer, loss, level, **more)
    found = []
    with in_mode(mode):
        for _ in range(12):
            out = step(Tensor(X), Tensor(LABELS))
            value = out[0] if isinstance(out, tuple) else out
            assert value.dtype is WIDE
            found.append(float(value.asnumpy()))
    assert all(p.dtype is WIDE for p in step.get_parameters() if p.dtype.is_float)
    return found, network, step


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("level", ["O1", "O2", "O3", "auto"])
def test_training_follows_the_wide_run(level: str, mode: int) -> None:
    plain, found = losses("O0", mode)[0], losses(level, mode, loss_scale_manager=None)[0]
    assert np.allclose(found, plain, atol=0.03) and found != plain and found[-1] < 0.6 * found[0]


def test_what_a_level_brings() -> None:
    """O2 comes with a scale that moves, here down until it fits, and with normalization in float32; keywords replace
    both.
    """
    mode = ms.PYNATIVE_MODE
    step = losses("O2", mode)[2]
    assert isinstance(step, nn.TrainOneStepWithLossScaleCell) and 2.0**12 <= float(step.scale_sense.asnumpy()) < 2.0**24
    assert isinstance(step.loss_scaling_manager, nn.DynamicLossScaleUpdateCell) and step.training
    plain = losses("O2", mode, loss_scale_manager=None)[2]
    assert type(plain) is nn.TrainOneStepCell and plain.sens is None
    fixed = amp.FixedLossScaleManager(64.0, drop_overflow_update=False)
    assert losses("O3", mode, loss_scale_manager=fixed)[2].sens == 64.0
    wide = losses("O2", mode, cast_model_type=ms.float32, loss_scale_manager=None)[0]
    assert wide == losses("O0", mode)[0]
    narrow = losses("O0", mode, cast_model_type=ms.float16)[0]
    assert narrow == losses("O3", mode)[0]
    kept = losses("O3", mode, keep_batchnorm_fp32=True)[0]
    assert kept == losses("O2", mode, loss_scale_manager=None)[0] != narrow
    assert losses("O2", mode, loss_scale_manager=None, keep_batchnorm_fp32=False)[0] == narrow


def test_a_network_with_the_loss_inside() -> None:
    network = nn.WithLossCell(nn.Dense(2, 1), nn.MSELoss())
    step = amp.build_train_network(network, nn.SGD(network.trainable_params(), 0.1), level="O3")
    assert step(ops.ones((3, 2)), ops.zeros((3, 1))).dtype is ms.float16


@pytest.mark.parametrize("level", ["O1", "O2", "O3", "auto"])
def test_model(level: str) -> None:
    data = ms.dataset.NumpySlicesDataset({"x": X, "y": LABELS}, shuffle=False).batch(4)
    network = net()
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    optimizer = nn.Adam(network.trainable_params(), 0.02)
    model = ms.Model(network, loss, optimizer, metrics={"acc", "loss"}, amp_level=level)
    with in_mode(ms.GRAPH_MODE):
        model.train(20, data)
        assert model.eval(data)["acc"] == 1.0
    assert all(p.dtype is WIDE for p in network.get_parameters())


NET = nn.Dense(2, 2)
SGD = nn.SGD(NET.trainable_params(), 0.1)
ERRORS = [
    ("amp.auto_mixed_precision(3)", TypeError, "network"),
    ("amp.auto_mixed_precision(NET, 'O4')", ValueError, "O0, O1, O2, O3, auto, found 'O4'"),
    ("amp.auto_mixed_precision(len, 'O1')", TypeError, "network"),
    ("amp.auto_mixed_precision(3, 'auto')", TypeError, "network"),
    ("amp.auto_mixed_precision(NET, 2)", TypeError, "amp_level"),
    ("amp.auto_mixed_precision(NET, 'O2', ms.float32)", ValueError, "dtype must be float16 or bfloat16"),
    ("amp.custom_mixed_precision(NET)", ValueError, "found neither"),
    ("amp.custom_mixed_precision(NET, white_list=[], black_list=[])", ValueError, "found both"),
    ("amp.custom_mixed_precision(NET, white_list=nn.Dense)", TypeError, "white_list"),
    ("amp.custom_mixed_precision(NET, white_list=[ms.ops.MatMul])", TypeError, "Cell classes"),
    ("amp.custom_mixed_precision(3, white_list=[])", TypeError, "network"),
    ("amp.build_train_network(3, SGD)", TypeError, "network"),
    ("amp.build_train_network(NET, 3)", TypeError, "optimizer"),
    ("amp.build_train_network(NET, SGD, 3)", TypeError, "loss_fn"),
    ("amp.build_train_network(NET, SGD, level='O9')", ValueError, "level"),
    ("amp.build_train_network(NET, SGD, level=0)", TypeError, "level"),
    ("amp.build_train_network(NET, SGD, boost_level='O1')", ValueError, "boost_level"),
    ("amp.build_train_network(NET, SGD, colour=3)", ValueError, "'colour'"),
    ("amp.build_train_network(NET, SGD, cast_model_type=ms.float64)", TypeError, "cast_model_type"),
    ("amp.build_train_network(NET, SGD, keep_batchnorm_fp32=1)", TypeError, "keep_batchnorm_fp32"),
    ("amp.build_train_network(NET, SGD, loss_scale_manager=8.0)", TypeError, "loss_scale_manager"),
]


@pytest.mark.parametrize(("call", "error", "text"), ERRORS)
def test_errors(call: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        eval(call)
    assert NET._to_float is None
