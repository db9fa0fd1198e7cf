"""Programs as users of MindSpore write them, run in both modes: they train, agree, and compile no more than needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import graphopt as ms
import graphopt.dataset as ds
from graphopt import Model, Parameter, ParameterTuple, Tensor, nn, ops
from graphopt.common.initializer import Normal
from graphopt.ops import composite as C
from graphopt.ops import functional as F
from graphopt.ops import operations as P
from graphopt.train import Accuracy, Callback, LossMonitor, TimeMonitor

MODES = [ms.GRAPH_MODE, ms.PYNATIVE_MODE]


@pytest.fixture(params=MODES, ids=["graph", "eager"], autouse=True)
def mode(request: pytest.FixtureRequest) -> Iterator[int]:
    ms.set_seed(1)
    ms.set_context(mode=request.param, device_target="CPU")
    yield request.param
    ms.set_context(mode=ms.PYNATIVE_MODE)


def clusters(count: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Points around three centres, and which centre."""
    random = np.random.default_rng(0)
    classes = random.integers(0, 3, count).astype(np.int32)
    centres = np.array([[2, 0, 0, 1], [0, 2, 0, -1], [0, 0, 2, 0]], np.float32)
    return (centres[classes] + 0.3 * random.normal(size=(count, 4))).astype(np.float32), classes


class Classifier(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Dense(4, 16, weight_init=Normal(0.1))
        self.norm = nn.BatchNorm1d(16)
        self.relu = nn.ReLU()
        self.fc2 = nn.Dense(16, 3)

    def construct(self, x: Tensor) -> Tensor:
        return self.fc2(self.relu(self.norm(self.fc1(x))))


def create_dataset(batch_size: int = 32) -> Any:
    data, classes = clusters()
    dataset = ds.GeneratorDataset(list(zip(data, classes, strict=True)), column_names=["data", "label"], shuffle=True)
    return dataset.batch(batch_size, drop_remainder=True)


def test_model_train_eval_predict(capsys: pytest.CaptureFixture[str]) -> None:
    """The usual script: Model, monitors, metrics, prediction, and the parameters carried to a second network."""
    seen: list[float] = []

    class Watch(Callback):
        def on_train_step_end(self, run_context: Any) -> None:
            seen.append(float(run_context.original_args().net_outputs.asnumpy()))

    net = Classifier()
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    optimizer = nn.Momentum(net.trainable_params(), learning_rate=0.1, momentum=0.9)
    model = Model(net, loss_fn=loss, optimizer=optimizer, metrics={"acc": Accuracy(), "loss": nn_loss()})
    dataset = create_dataset()
    model.train(8, dataset, callbacks=[LossMonitor(3), TimeMonitor(), Watch()], dataset_sink_mode=False)
    printed = capsys.readouterr().out
    assert "epoch: 8 step: 3, loss is " in printed and printed.count("loss is") == 8
    assert len(seen) == 24 and seen[-1] < 0.3 < seen[0] and int(optimizer.global_step.asnumpy()[0]) == 24

    values = model.eval(dataset)
    assert values["acc"] > 0.95 and values["loss"] < 0.4

    data, classes = clusters()
    predicted = model.predict(Tensor(data))
    assert np.mean(predicted.asnumpy().argmax(1) == classes) > 0.95

    saved = {name: p.asnumpy() for name, p in net.parameters_dict().items()}
    assert list(saved)[:3] == ["fc1.weight", "fc1.bias", "norm.moving_mean"]
    other = Classifier().set_train(False)
    for name, p in other.parameters_dict().items():
        p.set_data(Tensor(saved[name]))
    assert np.allclose(other(Tensor(data)).asnumpy(), predicted.asnumpy(), atol=1e-6)


def nn_loss() -> Any:
    return ms.Loss()


def test_custom_loop_with_value_and_grad(mode: int) -> None:
    net = Classifier()
    loss_fn = nn.CrossEntropyLoss()
    optimizer = nn.Adam(net.trainable_params(), 1e-2)

    def forward_fn(data: Tensor, label: Tensor) -> Any:
        logits = net(data)
        return loss_fn(logits, label), logits

    grad_fn = ms.value_and_grad(forward_fn, None, optimizer.parameters, has_aux=True)

    def train_step(data: Tensor, label: Tensor) -> Tensor:
        (loss, _), grads = grad_fn(data, label)
        optimizer(grads)
        return loss

    net.set_train()
    losses = [float(train_step(x, y).asnumpy()) for _ in range(10) for x, y in create_dataset()]
    assert losses[-1] < 0.2 < losses[0]
    if mode == ms.GRAPH_MODE:
        assert grad_fn.compile_cache.compiles == 1 and optimizer.compile_cache.compiles == 1


def test_a_jitted_step_is_one_compile_and_equals_op_by_op() -> None:
    """`@ms.jit` around loss, gradients and update; the same numbers as without."""

    def losses_of(decorate: Any) -> list[float]:
        ms.set_seed(3)
        net = Classifier().set_train()
        loss_fn, optimizer = nn.CrossEntropyLoss(), nn.SGD(net.trainable_params(), 0.1, momentum=0.9)
        grad_fn = ms.value_and_grad(lambda x, y: loss_fn(net(x), y), None, optimizer.parameters)

        def train_step(x: Tensor, y: Tensor) -> Tensor:
            loss, grads = grad_fn(x, y)
            return ops.depend(loss, optimizer(grads))

        run = decorate(train_step)
        x, y = (Tensor(a) for a in clusters(32))
        found = [float(run(x, y).asnumpy()) for _ in range(6)]
        if hasattr(run, "compile_cache"):
            assert run.compile_cache.compiles == 1
        return found

    assert losses_of(ms.jit) == pytest.approx(losses_of(lambda f: f), rel=1e-5)


class GradNetWrtX(nn.Cell):
    """The example of GradOperation's page: a gradient inside construct."""

    def __init__(self, net: nn.Cell) -> None:
        super().__init__()
        self.net = net
        self.params = ParameterTuple(net.trainable_params())
        self.grad_op = C.GradOperation(get_all=True, get_by_list=True, sens_param=True)

    def construct(self, x: Tensor, y: Tensor, sens: Tensor) -> Any:
        return self.grad_op(self.net, self.params)(x, y, sens)


class Product(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.matmul = P.MatMul()
        self.z = Parameter(Tensor(np.array([2.0], np.float32)), name="z")

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return self.matmul(x * self.z, y)


def test_grad_operation_inside_a_cell() -> None:
    x = Tensor([[0.5, 0.6, 0.4], [1.2, 1.3, 1.1]], dtype=ms.float32)
    y = Tensor([[0.01, 0.3, 1.1], [0.1, 0.2, 1.3], [2.1, 1.2, 3.3]], dtype=ms.float32)
    sens = F.ones_like(F.matmul(x, y))
    (dx, dy), (dz,) = GradNetWrtX(Product())(x, y, sens)
    a, b = x.asnumpy(), y.asnumpy()
    assert np.allclose(dx.asnumpy(), 2 * np.ones((2, 3)) @ b.T, rtol=1e-5)
    assert np.allclose(dy.asnumpy(), 2 * a.T @ np.ones((2, 3)), rtol=1e-5)
    assert np.allclose(dz.asnumpy(), (a @ b).sum(), rtol=1e-5)


def test_old_style_training_cell() -> None:
    """A TrainOneStep of one's own, with operator classes and the optimizer called inside."""

    class Train(nn.Cell):
        def __init__(self, network: nn.Cell, optimizer: nn.Optimizer) -> None:
            super().__init__(auto_prefix=False)
            self.network, self.optimizer = network, optimizer
            self.weights = optimizer.parameters
            self.grad = C.GradOperation(get_by_list=True)

        def construct(self, x: Tensor, y: Tensor) -> Tensor:
            loss = self.network(x, y)
            grads = self.grad(self.network, self.weights)(x, y)
            return F.depend(loss, self.optimizer(grads))

    net = nn.SequentialCell([nn.Dense(4, 8), nn.Tanh(), nn.Dense(8, 3)])
    loss = nn.WithLossCell(net, nn.SoftmaxCrossEntropyWithLogits(True, "mean"))
    train = Train(loss, nn.Momentum(net.trainable_params(), 0.2, 0.9)).set_train()
    x, y = (Tensor(a) for a in clusters())
    losses = [float(train(x, y).asnumpy()) for _ in range(20)]
    assert losses[-1] < 0.1 < losses[0]
    assert [p.name for p in net.trainable_params()] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_jit_function_with_a_parameter(mode: int) -> None:
    counter = Parameter(Tensor(0, ms.int32), name="counter")
    scale = Parameter(Tensor([1.0, 2.0]), name="scale")

    @ms.jit
    def scaled(x: Tensor) -> Tensor:
        ops.assign_add(counter, 1)
        return x * scale

    for k in range(3):
        scale.set_data(Tensor([k + 1.0, 2.0]))
        assert scaled(Tensor([3.0, 4.0])).asnumpy().tolist() == [3.0 * (k + 1), 8.0]
    assert int(counter.asnumpy()) == 3 and scaled.compile_cache.compiles == 1


class Block(nn.Cell):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.CellList([nn.Dense(width, width), nn.Dense(width, width)])
        self.act = nn.GELU()

    def construct(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.act(layer(x)) + x
        return x


class Deep(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.CellList([Block(4) for _ in range(3)])
        self.heads = nn.CellList([nn.CellList([nn.Dense(4, 2), nn.Dense(4, 3)])])

    def construct(self, x: Tensor) -> Any:
        for block in self.blocks:
            x = block(x)
        return tuple(head(x) for head in self.heads[0])


def test_nested_cell_lists() -> None:
    net = Deep()
    names = [p.name for p in net.trainable_params()]
    assert names[:2] == ["blocks.0.layers.0.weight", "blocks.0.layers.0.bias"] and names[-1] == "heads.0.1.bias"
    assert len(set(names)) == len(names) == 16
    a, b = net(ops.ones((5, 4)))
    assert (a.shape, b.shape) == ((5, 2), (5, 3))
    grads = ms.grad(lambda x: sum(part.sum() for part in net(x)), None, net.trainable_params())(ops.ones((5, 4)))
    assert [g.shape for g in grads] == [p.shape for p in net.trainable_params()]
    net.blocks.append(Block(4))
    assert len(net.trainable_params()) == 20 and net(ops.ones((5, 4)))[0].shape == (5, 2)


def test_a_learning_rate_that_changes_every_step_compiles_once(mode: int) -> None:
    weight = Parameter(Tensor(np.ones(3, np.float32)), name="w")

    class Descent(nn.Cell):
        def construct(self, x: Tensor, rate: float) -> Tensor:
            loss, slope = ms.value_and_grad(lambda v: ((weight * v) ** 2).sum(), None, weight)(x)
            ops.assign_sub(weight, slope * rate)
            return loss

    step = Descent()
    x = Tensor([1.0, 2.0, 0.5])
    expected = np.ones(3, np.float64)
    count = 1000 if mode == ms.GRAPH_MODE else 20
    for k in range(count):
        rate = 0.01 / (1 + k)
        step(x, rate)
        expected -= rate * 2 * expected * np.array([1.0, 4.0, 0.25])
    assert np.allclose(weight.asnumpy(), expected, rtol=1e-4)
    if mode == ms.GRAPH_MODE:
        assert step.compile_cache.compiles == 1
        assert "(x: f32[3], rate: float)" in step.compile_cache.explain()


def test_layers_frozen_for_fine_tuning() -> None:
    """Only what requires_grad moves; what is frozen keeps its bits."""
    net = Classifier()
    for p in net.fc1.get_parameters():
        p.requires_grad = False
    frozen, free = net.fc1.weight.asnumpy(), net.fc2.weight.asnumpy()
    train = nn.TrainOneStepCell(nn.WithLossCell(net, nn.CrossEntropyLoss()), nn.Adam(net.trainable_params(), 0.01)).set_train()
    x, y = (Tensor(a) for a in clusters(32))
    train(x, y)
    assert [p.name for p in train.weights] == ["norm.gamma", "norm.beta", "fc2.weight", "fc2.bias"]
    assert np.array_equal(net.fc1.weight.asnumpy(), frozen) and not np.array_equal(net.fc2.weight.asnumpy(), free)


def test_gradients_clipped_between_backward_and_update() -> None:
    net = nn.Dense(4, 3)
    optimizer = nn.SGD(net.trainable_params(), 1.0)
    grad_fn = ms.value_and_grad(lambda x, y: nn.CrossEntropyLoss()(net(x), y), None, net.trainable_params())
    x, y = (Tensor(a) for a in clusters(16))
    before = net.weight.asnumpy()
    _, grads = grad_fn(x * 100, y)
    optimizer(tuple(ops.clip_by_value(g, Tensor(-0.01), Tensor(0.01)) for g in grads))
    assert 0 < np.abs(net.weight.asnumpy() - before).max() <= 0.01 + 1e-6


def test_explain_names_data_and_label() -> None:
    ms.set_context(mode=ms.GRAPH_MODE)
    net = nn.Dense(4, 3)
    train = nn.TrainOneStepCell(nn.WithLossCell(net, nn.CrossEntropyLoss()), nn.SGD(net.trainable_params(), 0.1)).set_train()
    for count in (8, 8, 5):
        train(*(Tensor(a) for a in clusters(count)))
    first, second, advice = train.compile_cache.explain().splitlines()
    assert first.startswith("1. first call: (data: f32[8,4], label: i32[8])")
    assert second.startswith("2. argument data: f32[8,4] -> f32[5,4]: (data: f32[5,4], label: i32[5])")
    assert "set_inputs(Tensor(shape=[None, 4], dtype=float32), Tensor(shape=[None], dtype=int32))" in advice


@pytest.mark.parametrize("flags", [(a, b, s) for a in (False, True) for b in (False, True) for s in (False, True)])
def test_forward_value_and_grad_is_grad_operation_with_the_value(flags: tuple[bool, bool, bool]) -> None:
    get_all, get_by_list, sens_param = flags
    net = Product()
    weights = ParameterTuple(net.trainable_params())
    x, y = ops.ones((2, 3)), ops.ones((3, 2))
    sens = (Tensor(np.arange(4).reshape(2, 2).astype(np.float32)),) if sens_param else ()
    value, grads = nn.ForwardValueAndGrad(net, weights, get_all, get_by_list, sens_param)(x, y, *sens)
    expected = ops.GradOperation(get_all, get_by_list, sens_param)(net, weights)(x, y, *sens)
    assert np.array_equal(value.asnumpy(), net(x, y).asnumpy())

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, tuple):
            return isinstance(b, tuple) and len(a) == len(b) and all(map(same, a, b))
        return bool(np.array_equal(a.asnumpy(), b.asnumpy()))

    assert same(grads, expected)
