"""Loss scale: recorded training runs and scale sequences in both modes, dropped updates, errors."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
from golden_cases import in_mode

import graphopt as ms
from graphopt import Parameter, Tensor, amp, nn, ops
from graphopt import dataset as ds
from graphopt.passes.fuse import fuse
from graphopt.passes.materialise import materialise
from graphopt.passes.pipeline import optimize

RECORDED = np.load(pathlib.Path(__file__).parent / "goldens" / "training.npz")
MODES = [ms.PYNATIVE_MODE, ms.GRAPH_MODE]
TOLERANCE = 2e-5  # of 1 + |value|, as the recordings recommend


def small_net() -> nn.Dense:
    weight = Tensor(np.arange(6).reshape(2, 3).astype(np.float32) / 10)
    return nn.Dense(3, 2, weight_init=weight, bias_init=Tensor(np.array([0.1, 0.2], np.float32)))


def scaled_step(update: Any, make_optimizer: Any = None) -> nn.TrainOneStepWithLossScaleCell:
    net = small_net()
    make = make_optimizer or (lambda p: nn.Momentum(p, 0.1, 0.9))
    loss_net = nn.WithLossCell(net, nn.MSELoss())
    return nn.TrainOneStepWithLossScaleCell(loss_net, make(net.trainable_params()), update).set_train()


def close(found: Any, expected: np.ndarray, what: Any) -> None:
    worst = np.max(np.abs(found.asnumpy() - expected) / (1 + np.abs(expected)))
    assert worst <= TOLERANCE, (what, worst)


def state_of(step: nn.Cell) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy() for p in step.get_parameters()}


UPDATES = {
    "fixed": (lambda: nn.FixedLossScaleUpdateCell(64.0), [1, 4]),
    "dynamic": (lambda: nn.DynamicLossScaleUpdateCell(1024.0, 2, 2), [1, 4, 5]),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", UPDATES)
def test_recorded_training(name: str, mode: int) -> None:
    update, infinite = UPDATES[name]
    step = scaled_step(update())
    net = step.network.backbone_network
    x, y, key = RECORDED["x"], RECORDED["y"], f"loss_scale_{name}"
    with in_mode(mode):
        for t in range(8):
            batch = x * np.float32(np.inf) if t in infinite else x
            _, overflow, scale = step(Tensor(batch), Tensor(y))
            assert overflow.shape == () and overflow.dtype is ms.bool_
            assert bool(overflow) == RECORDED[f"{key}/overflow"][t]
            assert float(scale) == RECORDED[f"{key}/scale_after"][t] == float(step.scale_sense.asnumpy())
            close(net.weight, RECORDED[f"{key}/weight"][t], (t, "weight"))
            close(net.bias, RECORDED[f"{key}/bias"][t], (t, "bias"))
    if mode == ms.GRAPH_MODE:
        assert step.compile_cache.compiles == 1


def test_the_update_stays_one_kernel_for_each_parameter() -> None:
    """New and old state meet in the kernel that computes the update: nothing is copied afterwards."""
    net = nn.SequentialCell(nn.Dense(64, 96, activation="relu"), nn.Dense(96, 64))
    loss_net = nn.WithLossCell(net, nn.MSELoss())
    optimizer = nn.Adam(net.trainable_params(), 0.01)
    step = nn.TrainOneStepWithLossScaleCell(loss_net, optimizer, nn.DynamicLossScaleUpdateCell(8.0, 2, 2))
    x = ops.ones((4, 64))
    graph = materialise(optimize(step.compile_cache.graph((x, x), {})))
    places = {n: group.number for group in fuse(graph) for n in group.nodes}
    large = [new for leaf, new in graph.updates if leaf.type.size >= 64]
    assert len(large) == 12 and len({places[new] for new in large}) == 4


SEQUENCE = RECORDED["overflow_sequence"].astype(bool).tolist()


@pytest.mark.parametrize("mode", MODES)
def test_update_cell_follows_the_recorded_sequence(mode: int) -> None:
    cell, scale = nn.DynamicLossScaleUpdateCell(16.0, 2, 3), Parameter(Tensor(16.0), name="scale")
    found = []
    with in_mode(mode):
        for flag in SEQUENCE:
            assert bool(cell(scale, Tensor(flag))) == flag
            found.append(float(scale.asnumpy()))
    assert found == RECORDED["update_cell/scale"].tolist()


def test_manager_follows_the_recorded_sequence() -> None:
    manager, found = ms.DynamicLossScaleManager(16.0, 2, 3), []
    for flag in SEQUENCE:
        manager.update_loss_scale(flag)
        found.append(manager.get_loss_scale())
    assert found == RECORDED["manager/scale"].tolist()


@pytest.mark.parametrize("compiled", [False, True])
def test_scaler_follows_the_recorded_sequence(compiled: bool) -> None:
    scaler, found = amp.DynamicLossScaler(16, 2, 3), []
    adjust: Any = ms.jit(scaler.adjust) if compiled else scaler.adjust
    for flag in SEQUENCE:
        assert adjust(Tensor(not flag)) is True
        found.append([float(scaler.scale_value.asnumpy()), int(scaler.counter.asnumpy())])
    assert found == RECORDED["scaler/scale_counter"].tolist()
    assert not compiled or adjust.compile_cache.compiles == 1


def test_scaler_does_not_grow_to_infinity() -> None:
    scaler = amp.DynamicLossScaler(3e38, 2, 1)
    scaler.adjust(True)
    assert float(scaler.scale_value.asnumpy()) == np.float32(3e38)


OPTIMIZERS = {
    "sgd": lambda p: nn.SGD(p, 0.1, 0.9, weight_decay=0.1),
    "momentum": lambda p: nn.Momentum(p, [0.1, 0.2, 0.3, 0.4], 0.9),
    "adam": lambda p: nn.Adam(p, nn.ExponentialDecayLR(0.1, 0.9, 4), weight_decay=0.1),
    "groups": lambda p: nn.Adam(
        [{"params": [p[0]], "lr": 0.1}, {"params": [p[1]], "weight_decay": 0.1}], use_amsgrad=True
    ),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan])
def test_overflow_leaves_every_state_alone(name: str, mode: int, wrong: float) -> None:
    """Parameters, moments, powers, global_step keep their bits; the next step equals one that never saw it."""
    tried, plain = (scaled_step(nn.FixedLossScaleUpdateCell(8.0), OPTIMIZERS[name]) for _ in range(2))
    x, y = RECORDED["x"].copy(), Tensor(RECORDED["y"])
    spoilt = x.copy()
    spoilt[1, 2] = wrong
    with in_mode(mode):
        tried(Tensor(x), y)
        before = state_of(tried)
        loss, overflow, _ = tried(Tensor(spoilt), y)
        assert bool(overflow) and not np.isfinite(loss.asnumpy())
        after = state_of(tried)
        assert all(np.array_equal(before[k], after[k]) for k in before) and "global_step" in before
        tried(Tensor(x), y)
        plain(Tensor(x), y)
        plain(Tensor(x), y)
    assert all(np.array_equal(v, state_of(plain)[k]) for k, v in state_of(tried).items())


@pytest.mark.parametrize("mode", MODES)
def test_a_gradient_that_overflows_only_when_scaled(mode: int) -> None:
    """scale · gradient leaves float32 although loss and gradient are fine: the scale comes down until it fits."""
    step = scaled_step(nn.DynamicLossScaleUpdateCell(2.0**127, 16, 100), lambda p: nn.SGD(p, 1e-6))
    x, y = Tensor(RECORDED["x"] * 100), Tensor(RECORDED["y"])
    flags, scales = [], []
    with in_mode(mode):
        for _ in range(6):
            loss, overflow, scale = step(x, y)
            assert np.isfinite(loss.asnumpy())
            flags.append(bool(overflow))
            scales.append(float(scale))
    falling = sum(flags)
    assert 0 < falling < 6 and flags == sorted(flags, reverse=True) and scales[-1] == 2.0**127 / 16**falling


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(), (1,)])
def test_scale_from_a_tensor(mode: int, shape: tuple[int, ...]) -> None:
    step = scaled_step(Tensor(np.full(shape, 64, np.float32)))
    plain = small_net()
    one = nn.TrainOneStepCell(
        nn.WithLossCell(plain, nn.MSELoss()), nn.Momentum(plain.trainable_params(), 0.1, 0.9)
    )
    x, y = Tensor(RECORDED["x"]), Tensor(RECORDED["y"])
    with in_mode(mode):
        for t in range(4):
            step.set_sense_scale(Tensor(np.full(shape, 2.0 ** (t + 3), np.float32)))
            loss, overflow, scale = step(x, y)
            assert scale.shape == shape and float(scale) == 2.0 ** (t + 3) and not bool(overflow)
            assert np.array_equal(loss.asnumpy(), one(x, y).asnumpy())
            assert np.allclose(
                step.network.backbone_network.weight.asnumpy(), plain.weight.asnumpy(), rtol=1e-6
            )
    if mode == ms.GRAPH_MODE:
        assert step.compile_cache.compiles == 1
    with pytest.raises(TypeError, match="sens"):
        step.set_sense_scale(3.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shape"):
        step.set_sense_scale(Tensor([1.0, 2.0]))


def test_names_of_the_state() -> None:
    step = scaled_step(nn.DynamicLossScaleUpdateCell(16.0, 2, 3))
    names = {p.name for p in step.get_parameters()}
    assert names >= {
        "weight",
        "bias",
        "scale_sense",
        "global_step",
        "learning_rate",
        "moments.weight",
        "moments.bias",
    }
    assert names >= {"current_iterator_step", "last_overflow_iterator_step"}


def test_all_finite() -> None:
    good, bad = Tensor([[1.0, 2.0]]), Tensor(np.array([1.0, np.nan], np.float16))
    for value, expected in (
        (good, True),
        (bad, False),
        ((good, bad), False),
        ((good, [good, {"a": bad}]), False),
        ((good, Tensor([1, 2])), True),
        ((), True),
        (Tensor(float("-inf")), False),
    ):
        for found in (amp.all_finite(value), ms.jit(amp.all_finite)(value)):
            assert found.shape == () and found.dtype is ms.bool_ and bool(found) is expected
    with pytest.raises(TypeError, match="all_finite"):
        amp.all_finite(3.0)


def test_scalers_keep_structure_and_dtype() -> None:
    scaler = amp.StaticLossScaler(1024)
    half = Tensor(np.array([1.5, 1.0], np.float16))
    for made in (
        scaler.unscale((half, [Tensor(2.0)], {"a": half})),
        amp.DynamicLossScaler(1024, 2, 5).unscale((half, [half], {})),
    ):
        assert isinstance(made, tuple) and isinstance(made[1], list) and isinstance(made[2], dict)
        assert made[0].dtype is ms.float16 and made[0].asnumpy().tolist() == [1.5 / 1024, 1.0 / 1024]
    assert float(scaler.scale(Tensor(0.5))) == 512.0 and scaler.adjust(Tensor(False)) is False
    with pytest.raises(TypeError, match="scale"):
        scaler.scale(3.0)


def test_a_training_loop_with_a_scaler() -> None:
    """The functional style: scale the loss, unscale the gradients, update when they are finite."""
    net, loss_fn = small_net(), nn.MSELoss()
    optimizer, scaler = nn.SGD(net.trainable_params(), 0.1), amp.DynamicLossScaler(1024, 2, 2)
    both = ms.value_and_grad(lambda x, y: scaler.scale(loss_fn(net(x), y)), None, optimizer.parameters)
    losses = []
    for bad in (False, True, False, False):
        x = RECORDED["x"] * np.float32(np.inf if bad else 1)
        loss, gradients = both(Tensor(x), Tensor(RECORDED["y"]))
        gradients = scaler.unscale(gradients)
        finite = amp.all_finite(gradients)
        if finite:
            optimizer(gradients)
            losses.append(float(scaler.unscale(loss)))
        scaler.adjust(finite)
    assert losses == sorted(losses, reverse=True) and len(losses) == 3
    assert float(scaler.scale_value.asnumpy()) == 1024.0


@pytest.mark.parametrize("mode", MODES)
def test_model_with_managers(mode: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 3)).astype(np.float32)
    x[8:16] = np.inf
    data = ds.NumpySlicesDataset(
        {"x": x, "y": rng.normal(size=(32, 2)).astype(np.float32)}, shuffle=False
    ).batch(8)
    seen: list[tuple[bool, float]] = []

    def note(context: Any) -> None:
        _, overflow, scale = context.original_args().net_outputs
        seen.append((bool(overflow), float(scale)))

    watch = ms.train.LambdaCallback(on_train_step_end=note)
    with in_mode(mode):
        net = small_net()
        manager = ms.DynamicLossScaleManager(64, 2, 2)
        model = ms.Model(net, nn.MSELoss(), nn.SGD(net.trainable_params(), 0.1), loss_scale_manager=manager)
        model.train(2, data, callbacks=watch)
        assert [o for o, _ in seen] == [False, True, False, False] * 2
        assert [s for _, s in seen] == [64, 32, 32, 64, 64, 32, 32, 64]
        assert np.isfinite(net.weight.asnumpy()).all()
        losses = []
        for scale in (None, 128.0):
            net = small_net()
            optimizer = nn.SGD(net.trainable_params(), 0.1, loss_scale=scale or 1.0)
            fixed = ms.FixedLossScaleManager(scale, False) if scale else None
            model = ms.Model(net, nn.MSELoss(), optimizer, loss_scale_manager=fixed)
            assert type(model.train_network) is nn.TrainOneStepCell
            model.train_network.set_train()
            for row in (x[:8], x[16:24]):
                value = model.train_network(Tensor(row), ops.ones((8, 2)))
            losses.append(float(value))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert type(ms.Model(net, nn.MSELoss(), optimizer, loss_scale_manager=manager).train_network) is (
        nn.TrainOneStepWithLossScaleCell
    )


def test_managers() -> None:
    assert (
        ms.FixedLossScaleManager().get_loss_scale() == 128.0
        and ms.FixedLossScaleManager().get_drop_overflow_update()
    )
    assert (
        ms.DynamicLossScaleManager().get_loss_scale() == 16777216
        and ms.DynamicLossScaleManager().get_drop_overflow_update()
    )
    assert ms.FixedLossScaleManager(4.0, False).get_update_cell() is None
    assert isinstance(ms.FixedLossScaleManager(4.0).get_update_cell(), nn.FixedLossScaleUpdateCell)
    update = ms.DynamicLossScaleManager(4.0, 3, 5).get_update_cell()
    assert (update.get_loss_scale(), update.scale_factor, update.scale_window) == (4.0, 3, 5)
    fixed = ms.FixedLossScaleManager(4.0)
    fixed.update_loss_scale(True)
    assert fixed.get_loss_scale() == 4.0
    base = amp.LossScaleManager()
    assert (
        base.get_loss_scale() is None
        and base.get_update_cell() is None
        and base.update_loss_scale(True) is None
    )
    assert ms.train.LossScaleManager is ms.LossScaleManager is amp.LossScaleManager
    manager = ms.DynamicLossScaleManager(8.0)
    for _ in range(1000):
        manager.update_loss_scale(True)
    assert manager.get_loss_scale() == 1
    with pytest.raises(RuntimeError, match="1001 overflows"):
        manager.update_loss_scale(True)


NET = small_net()
LOSS_NET = nn.WithLossCell(NET, nn.MSELoss())
SGD = nn.SGD(NET.trainable_params(), 0.1)
ERRORS = [
    ("ms.FixedLossScaleManager(0.5)", ValueError, "loss_scale"),
    ("ms.FixedLossScaleManager('a')", TypeError, "loss_scale"),
    ("ms.DynamicLossScaleManager(0.5)", ValueError, "init_loss_scale"),
    ("ms.DynamicLossScaleManager('a')", TypeError, "init_loss_scale"),
    ("ms.DynamicLossScaleManager(2.0, 0)", ValueError, "scale_factor"),
    ("ms.DynamicLossScaleManager(2.0, -1)", ValueError, "scale_factor"),
    ("ms.DynamicLossScaleManager(2.0, 2, 0)", ValueError, "scale_window"),
    ("ms.DynamicLossScaleManager(2.0, 2, 1.5)", TypeError, "scale_window"),
    ("amp.StaticLossScaler(0.5)", ValueError, "scale_value"),
    ("amp.StaticLossScaler('a')", TypeError, "scale_value"),
    ("amp.StaticLossScaler(True)", TypeError, "scale_value"),
    ("amp.DynamicLossScaler(0.5, 2, 2)", ValueError, "scale_value"),
    ("amp.DynamicLossScaler('a', 2, 2)", TypeError, "scale_value"),
    ("amp.DynamicLossScaler(2, 0, 2)", ValueError, "scale_factor"),
    ("amp.DynamicLossScaler(2, 1.5, 2)", TypeError, "scale_factor"),
    ("amp.DynamicLossScaler(2, 2, 0)", ValueError, "scale_window"),
    ("amp.DynamicLossScaler(2, 2, 1.5)", TypeError, "scale_window"),
    ("amp.LossScaler()", TypeError, "abstract"),
    ("nn.FixedLossScaleUpdateCell('a')", TypeError, "loss_scale_value"),
    ("nn.DynamicLossScaleUpdateCell('a', 2, 3)", TypeError, "loss_scale_value"),
    ("nn.DynamicLossScaleUpdateCell(2.0, 'a', 3)", TypeError, "scale_factor"),
    ("nn.DynamicLossScaleUpdateCell(2.0, 2, 1.5)", TypeError, "scale_window"),
    ("nn.TrainOneStepWithLossScaleCell(LOSS_NET, SGD, 3.0)", TypeError, "scale_sense"),
    ("nn.TrainOneStepWithLossScaleCell(LOSS_NET, SGD, None)", TypeError, "scale_sense"),
    ("nn.TrainOneStepWithLossScaleCell(LOSS_NET, SGD, ms.Tensor([1.0, 2.0]))", ValueError, "scale_sense"),
    ("nn.TrainOneStepWithLossScaleCell(LOSS_NET, SGD, ms.Tensor([[1.0]]))", ValueError, "scale_sense"),
    ("nn.TrainOneStepWithLossScaleCell(3, SGD, ms.Tensor(1.0))", TypeError, "network"),
    ("nn.TrainOneStepWithLossScaleCell(LOSS_NET, 3, ms.Tensor(1.0))", TypeError, "optimizer"),
    ("ms.Model(NET, nn.MSELoss(), SGD, loss_scale_manager=3)", TypeError, "loss_scale_manager"),
    (
        "ms.Model(NET, nn.MSELoss(), loss_scale_manager=ms.FixedLossScaleManager())",
        ValueError,
        "loss_scale_manager",
    ),
]


@pytest.mark.parametrize(("call", "error", "text"), ERRORS)
def test_errors(call: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        eval(call)
    assert type(caught.value) is error


@pytest.mark.parametrize("mode", MODES)
def test_a_construct_of_ones_own(mode: int) -> None:
    """A subclass that assembles the step from the methods."""

    class Step(nn.TrainOneStepWithLossScaleCell):
        def construct(self, *inputs: Any) -> Any:
            loss, gradients = self._value_and_grad(*inputs)
            status, loss = self.start_overflow_check(loss, loss)
            overflow = self.process_loss_scale(self.get_overflow_status(status, gradients))
            self.update_unless(overflow, tuple(g / self.scale_sense for g in gradients))
            return loss, overflow, self.scale_sense

    net = small_net()
    step = Step(
        nn.WithLossCell(net, nn.MSELoss()),
        nn.SGD(net.trainable_params(), 0.1),
        nn.DynamicLossScaleUpdateCell(8.0, 2, 9),
    )
    with in_mode(mode):
        before = net.weight.asnumpy()
        assert bool(step(Tensor(RECORDED["x"] * np.float32(np.inf)), Tensor(RECORDED["y"]))[1])
        assert np.array_equal(before, net.weight.asnumpy())
        assert not bool(step(Tensor(RECORDED["x"]), Tensor(RECORDED["y"]))[1])
        assert not np.array_equal(before, net.weight.asnumpy())
