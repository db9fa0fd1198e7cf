"""What holds for every optimizer that graphopt.nn exports: goldens, errors, groups, loss scale, threads, state, fusion."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_cases import in_mode

import graphopt as ms
from graphopt import Parameter, RowTensor, Tensor, config, nn
from graphopt import compile as compiler
from graphopt.kernel.step import Step
from graphopt_tools.show import graph_of
from tests.optimizers import CLASSES as NAMES
from tests.optimizers import EVERY, make, trainer
from tests.test_optimizers import CALLS, EXPECTED, GOLDENS, OVERRIDES
from tests.traffic import sweeps

SHAPES = {"conv.weight": (4, 3, 3, 3), "fc.weight": (5, 3), "bn.gamma": (5,), "scale": ()}


def takes(name: str, argument: str) -> bool:
    kind = nn.Momentum if name == "LARS" else getattr(nn, name)
    return argument in inspect.signature(kind).parameters


def random(shape: tuple[int, ...], seed: int, dtype: Any = np.float32) -> Any:
    return np.asarray(np.random.default_rng(seed).normal(size=shape)).astype(dtype)


def parameters(shapes: dict[str, tuple[int, ...]] = SHAPES, dtype: Any = np.float32) -> dict[str, Parameter]:
    return {n: Parameter(Tensor(random(s, k, dtype)), name=n) for k, (n, s) in enumerate(shapes.items())}


def run(optimizer: nn.Optimizer, steps: int, scale: float = 1.0, first: int = 0) -> dict[str, np.ndarray]:
    """Steps with gradients that depend on the parameter's name and the step; then the values of everything."""
    for t in range(first, first + steps):
        gradients = (random(p.shape, len(p.name) + 100 * t) * scale for p in optimizer.parameters)
        returned = optimizer(
            tuple(Tensor(g.astype(p.asnumpy().dtype)) for g, p in zip(gradients, optimizer.parameters, strict=True))
        )
        assert returned == (True,) * len(optimizer.parameters)
    return {p.name: p.asnumpy().copy() for p in optimizer.get_parameters()}


def same_bits(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    assert [k for k in a if a[k].tobytes() != b[k].tobytes()] == []


@pytest.mark.parametrize("name", NAMES)
def test_has_recorded_trajectories_and_refused_calls(name: str) -> None:
    recorded = [json.loads(str(np.load(f)["meta"])) for f in GOLDENS.glob("*_*.npz") if f.name.startswith(("opt_", "derived_"))]
    mine = [m for m in recorded if m["optimizer"] == name]
    assert len(mine) >= 3 and any("groups" in m for m in mine)
    refused = [c for c, kind in CALLS.items() if kind == name and (EXPECTED[c] or c in OVERRIDES)]
    assert len(refused) >= 4


def test_thor_has_them_too() -> None:
    assert len(list((GOLDENS / "thor").glob("*.npz"))) >= 3
    calls = json.loads((GOLDENS / "errors_adafactor_thor.json").read_text())
    assert sum(c["call"].startswith("nn.thor(") and bool(c["raises"]) for c in calls) >= 4


@pytest.mark.parametrize("name", NAMES)
def test_is_documented(name: str) -> None:
    text = inspect.getdoc(getattr(nn, name)) or ""
    assert all(f"{part}:" in text for part in ("Shapes", "Errors")) and ">>> " in text and "State" in text or name == "LARS"


@pytest.mark.parametrize("name", NAMES)
def test_a_group_is_updated_as_an_optimizer_of_its_own_would(name: str) -> None:
    """Own rate and own decay; names are not looked at in groups, and order_params gives the order."""
    rate = {} if name == "FTRL" else {"lr": 0.02}
    p, q = parameters(), parameters()
    first, second = ["conv.weight"], ["fc.weight", "scale"]
    order = ["fc.weight", "conv.weight", "scale"]
    groups = [
        {"params": [p[n] for n in first], "weight_decay": 0.1},
        {"params": (p[n] for n in second), **rate},
        {"order_params": [p[n] for n in order]},
    ]
    grouped = make(name, groups, weight_decay=0.0)
    assert [x.name for x in grouped.parameters] == order and grouped.is_group
    run(grouped, 3)
    run(make(name, [q[n] for n in first], weight_decay=0.1), 3)
    run(make(name, [q[n] for n in second], **({"learning_rate": 0.02} if rate else {})), 3)
    for n in order:
        assert np.allclose(p[n].asnumpy(), q[n].asnumpy(), rtol=0, atol=1e-6), n


@pytest.mark.parametrize("name", NAMES)
def test_loss_scale_is_taken_back(name: str) -> None:
    if not takes(name, "loss_scale"):
        with pytest.raises(TypeError, match="loss_scale"):
            make(name, parameters().values(), loss_scale=8.0)
        return
    plain = run(make(name, parameters().values(), weight_decay=0.1), 3)
    scaled = run(make(name, parameters().values(), weight_decay=0.1, loss_scale=8.0), 3, scale=8.0)
    assert plain.keys() == scaled.keys()
    assert all(np.allclose(plain[k], scaled[k], rtol=0, atol=1e-6) for k in plain)


@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_threads_gives_the_same_bits(name: str) -> None:
    shapes = {"a.weight": (301, 130), "b.weight": (70000,), "c.weight": (7,)}
    results = []
    for threads in (1, 2, 3):
        with in_mode(ms.GRAPH_MODE), config.override(threads=threads):
            results.append(run(make(name, parameters(shapes).values(), weight_decay=0.01), 3))
    same_bits(results[0], results[1])
    same_bits(results[0], results[2])


# whole training steps, thor's too


class Net(nn.Cell):
    """A matrix, vectors, and everything else that has state: moving statistics and random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn = nn.Dense(6, 8), nn.BatchNorm1d(8)
        self.drop, self.out = nn.Dropout(p=0.3), nn.Dense(8, 3)

    def construct(self, x: Tensor) -> Any:
        return self.out(self.drop(self.bn(self.fc(x))))


def training(name: str, scale: Any = None, seed: int = 1, plain: bool = False) -> nn.Cell:
    """A training step of `Net`, or of a plain one."""
    ms.set_seed(seed)
    net = nn.SequentialCell(nn.Dense(6, 8), nn.Tanh(), nn.Dense(8, 3)) if plain else Net()
    loss_net = nn.WithLossCell(net, nn.CrossEntropyLoss())
    if scale is None:
        return nn.TrainOneStepCell(loss_net, trainer(name, net)).set_train()
    return nn.TrainOneStepWithLossScaleCell(loss_net, trainer(name, net), scale).set_train()


def train(step: nn.Cell, first: int, last: int, spoilt: float | None = None) -> dict[str, np.ndarray]:
    """Steps on batches that depend on the step alone; then the values of everything."""
    for k in range(first, last):
        x = random((16, 6), k)
        if spoilt is not None:
            x[3, 2] = spoilt
        step(Tensor(x), Tensor(np.arange(16, dtype=np.int32) % 3))
    return {p.name: p.asnumpy() for p in step.get_parameters()}


@pytest.mark.parametrize("mode", [ms.PYNATIVE_MODE, ms.GRAPH_MODE])
@pytest.mark.parametrize("name", EVERY)
def test_a_step_that_overflows_leaves_no_trace(name: str, mode: int) -> None:
    """Parameters, every state and the counters keep their bits, and the step after it does as if it had not been."""
    tried, other = (training(name, nn.FixedLossScaleUpdateCell(8.0), plain=True) for _ in range(2))
    with in_mode(mode):
        before = train(tried, 0, 2)
        for wrong in (np.inf, np.nan):
            same_bits(before, train(tried, 2, 3, wrong))
        after = train(tried, 2, 4)
        assert all(np.isfinite(v).all() for v in after.values())
        same_bits(after, train(other, 0, 4))


@pytest.mark.parametrize("name", EVERY)
def test_training_with_any_number_of_threads_gives_the_same_bits(name: str) -> None:
    results = []
    for threads in (1, 2, 3):
        with in_mode(ms.GRAPH_MODE), config.override(threads=threads):
            results.append(train(training(name), 0, 4))
    same_bits(results[0], results[1])
    same_bits(results[0], results[2])


def saved_and_continued(name: str, path: str) -> dict[str, np.ndarray]:
    """Four steps, a file, and what four more steps make of it."""
    step = training(name, nn.DynamicLossScaleUpdateCell(2.0**10, 2, 3))
    train(step, 0, 4)
    ms.save_checkpoint(step, path, append_dict={"rng": ms.get_rng_state()})
    return train(step, 4, 8)


def loaded_and_continued(name: str, path: str) -> dict[str, np.ndarray]:
    """The same four steps, by objects that had other values."""
    step = training(name, nn.DynamicLossScaleUpdateCell(2.0, 2, 3), seed=2)
    loaded = ms.load_checkpoint(path)
    ms.set_rng_state(loaded.pop("rng"))
    assert ms.load_param_into_net(step, loaded, strict_load=True) == ([], [])
    return train(step, 4, 8)


@pytest.mark.parametrize("mode", [ms.PYNATIVE_MODE, ms.GRAPH_MODE])
@pytest.mark.parametrize("name", EVERY)
def test_a_run_restored_from_a_file_continues_with_the_same_bits(name: str, mode: int, tmp_path: Path) -> None:
    path = str(tmp_path / "run.ckpt")
    with in_mode(mode):
        expected = saved_and_continued(name, path)
        same_bits(loaded_and_continued(name, path), expected)


def continue_all(folder: str) -> None:
    """What another process does with the files of this one."""
    for name in EVERY:
        with in_mode(ms.GRAPH_MODE):
            np.savez(f"{folder}/{name}.npz", **loaded_and_continued(name, f"{folder}/{name}.ckpt"))


def test_another_process_continues_with_the_same_bits(tmp_path: Path) -> None:
    with in_mode(ms.GRAPH_MODE):
        expected = {name: saved_and_continued(name, str(tmp_path / f"{name}.ckpt")) for name in EVERY}
    code = f"from tests.test_every_optimizer import continue_all; continue_all({str(tmp_path)!r})"
    paths = {"PYTHONPATH": os.pathsep.join(["tests", *sys.path])}
    subprocess.run([sys.executable, "-c", code], env=os.environ | paths, check=True, cwd=Path(__file__).parents[1])
    for name in EVERY:
        same_bits(dict(np.load(tmp_path / f"{name}.npz")), expected[name])


# details


@pytest.mark.parametrize("mode", [ms.PYNATIVE_MODE, ms.GRAPH_MODE])
@pytest.mark.parametrize("name", NAMES)
def test_rows_of_a_gradient_are_the_gradient(name: str, mode: int) -> None:
    """A RowTensor that names every row changes a table as the dense gradient does; equal indices are added up."""
    indices = np.array([3, 0, 2, 3, 1, 0, 4], np.int32)
    p, q = parameters({"table": (5, 3)}), parameters({"table": (5, 3)})
    optimizer, dense = make(name, p.values()), make(name, q.values())
    with in_mode(mode):
        for t in range(3):
            values = random((7, 3), 20 + t)
            summed = np.zeros((5, 3), np.float32)
            np.add.at(summed, indices, values)
            assert optimizer((RowTensor(Tensor(indices), Tensor(values), (5, 3)),)) == (True,)
            dense((Tensor(summed),))
    for a, b in zip(optimizer.get_parameters(), dense.get_parameters(), strict=True):
        assert np.allclose(a.asnumpy(), b.asnumpy(), rtol=0, atol=2e-6), a.name


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_parameters_keep_their_dtype_in_the_state(name: str) -> None:
    p, q = parameters(dtype=np.float16), parameters()
    optimizer = make(name, p.values())
    run(optimizer, 3)
    run(make(name, q.values()), 3)
    for n in SHAPES:
        assert p[n].dtype is ms.float16 and np.allclose(p[n].asnumpy(), q[n].asnumpy(), rtol=0, atol=0.02), n
    states = [s for s in optimizer.get_parameters() if s.name.endswith(".fc.weight")]
    assert all(s.dtype is ms.float16 for s in states)


@pytest.mark.parametrize("name", NAMES)
def test_a_changing_rate_does_not_compile_again(name: str) -> None:
    optimizer = make(name, parameters().values())
    with in_mode(ms.GRAPH_MODE):
        run(optimizer, 1)
        compiled = optimizer.compile_cache.compiles
        for rate in (0.04, 0.03):
            optimizer.learning_rate.set_data(Tensor(np.float32(rate)))
            run(optimizer, 1)
        assert optimizer.compile_cache.compiles == compiled


SHAPES_OF_STEPS = {"a.weight": (300, 257), "b.weight": (129,)}
READ_MORE = {  # {optimizer: {start of the state's name: how often it may be read}}; norms of whole arrays come first
    "AdaFactor": {"exp_avg_sq_row_a": 3, "": 2},  # the mean of the row factor; the norm of the parameter
    "Lamb": {"": 3},  # the norm of the parameter, the direction, the update
    "LARS": {"": 3},  # the norm of the parameter, the decayed gradient, the update
}
ONE_PASS = sorted(set(NAMES) - set(READ_MORE))


def lowered(name: str) -> tuple[nn.Optimizer, Step]:
    """The optimizer with everything that takes part in an update, and its kernels."""
    extra = {"loss_scale": 8.0} if takes(name, "loss_scale") else {}
    optimizer = make(name, parameters(SHAPES_OF_STEPS).values(), weight_decay=0.1, **extra)
    gradients = tuple(Tensor(random(s, 3)) for s in SHAPES_OF_STEPS.values())
    with in_mode(ms.GRAPH_MODE):
        graph = graph_of(optimizer, (gradients,))
    return optimizer, compiler.lower_graph(compiler.optimize(graph), compiler.machine_of(compiler.engine.host()))


@pytest.mark.parametrize("name", NAMES)
def test_every_state_is_touched_once_a_step(name: str) -> None:
    """Read once and written once in place, gradients read once; only norms of whole arrays need a look before."""
    optimizer, step = lowered(name)
    found = sweeps(step)
    allowed = READ_MORE.get(name, {})
    large = [p for p in optimizer.get_parameters() if p.size >= 129]
    for state in (p.name for p in large if p.name in found):
        most = next((n for start, n in allowed.items() if state.startswith(start)), 1)
        reads, writes = found.pop(state)
        assert writes == 1 and 1 <= reads <= most, (state, reads, writes)
    gradients = {n: v for n, v in found.items() if n.startswith("gradients")}
    assert len(gradients) == 2 and all(1 <= r <= (2 if allowed else 1) and w == 0 for r, w in gradients.values())
    assert {s.shape for s in large} >= set(SHAPES_OF_STEPS.values())
    copied = [k.args for k in step.kernels if k.name == "copy" and k.args[0].size >= 1000]
    assert not copied, "a state went through a copy"


@pytest.mark.parametrize("name", ONE_PASS)
def test_an_update_is_one_kernel_per_parameter(name: str) -> None:
    """Decay, un-scaling and the rule in one group that stores each state once; the rest works on single numbers."""
    optimizer, step = lowered(name)
    shapes = SHAPES_OF_STEPS
    for shape in shapes.values():
        large = [g for g in step.groups if g.full == shape]
        states = [p for p in optimizer.get_parameters() if p.shape == shape]
        assert len(large) == 1 and len(large[0].stores) == len(states) - unchanged(optimizer), (name, shape)
    assert all(int(np.prod(g.full)) == 1 for g in step.groups if g.full not in shapes.values())


def unchanged(optimizer: nn.Optimizer) -> int:
    """States of each parameter that this configuration never writes: SGD's without momentum."""
    return 2 if isinstance(optimizer, nn.SGD) else 0


@pytest.mark.parametrize("clip", [False, True])
def test_lars_hands_decay_and_scale_over(clip: bool) -> None:
    inner = nn.Momentum(parameters().values(), 0.1, 0.9, weight_decay=0.1, loss_scale=4.0)
    optimizer = nn.LARS(inner, use_clip=clip)
    assert optimizer.need_scale and optimizer.exec_weight_decay and optimizer.decay_flags == (True, True, False, True)
    assert not inner.need_scale and not inner.exec_weight_decay and inner.decay_flags == (False,) * 4
    assert (
        float(optimizer.get_lr().asnumpy()) == np.float32(0.1)
        and optimizer.get_lr_parameter(inner.parameters[0]) is inner.learning_rate
    )
    run(optimizer, 2)
    assert optimizer.global_step is inner.global_step and inner.global_step.asnumpy().tolist() == [2]


def test_lars_with_a_decay_that_changes_counts_each_step_once() -> None:
    class Decay(nn.Cell):
        def construct(self, step: Tensor) -> Any:
            return 0.1 / (1.0 + step.astype(ms.float32))

    p = Parameter(Tensor([3.0, 4.0]), name="p")
    optimizer = nn.LARS(nn.Momentum([p], 1.0, 0.0, weight_decay=Decay(), loss_scale=2.0), coefficient=0.5)
    w = np.array([3.0, 4.0])
    for t in range(3):
        optimizer((Tensor([0.0, 2.0]),))
        decay, size = 0.1 / (1 + t), np.linalg.norm(w)
        w = w - 0.5 * size / (1.0 + decay * size + 1e-5) * (np.array([0.0, 1.0]) + decay * w)
        assert np.allclose(p.asnumpy(), w, rtol=1e-6) and optimizer.global_step.asnumpy().tolist() == [t + 1]


@pytest.mark.parametrize("mode", [ms.PYNATIVE_MODE, ms.GRAPH_MODE])
def test_lars_stops_before_a_step_past_the_rates(mode: int) -> None:
    p = Parameter(Tensor([3.0, 4.0]), name="p")
    optimizer = nn.LARS(nn.Momentum([p], [0.1, 0.2], 0.9), use_clip=True)
    with in_mode(mode):
        before = run(optimizer, 2)
        with pytest.raises(RuntimeError, match="2 values.*step 2"):
            optimizer((Tensor([1.0, 1.0]),))
    same_bits({q.name: q.asnumpy() for q in optimizer.get_parameters()}, before)


def test_lars_leaves_a_zero_parameter_alone_when_a_schedule_starts_at_zero() -> None:
    p = [Parameter(Tensor([0.0, 0.0]), name="zero"), Parameter(Tensor([3.0, 4.0]), name="p")]
    optimizer = nn.LARS(nn.Momentum(p, nn.WarmUpLR(0.1, 4), 0.9), use_clip=True)
    for _ in range(3):
        optimizer((Tensor([1.0, 1.0]), Tensor([1.0, 1.0])))
    assert p[0].asnumpy().tolist() == [0.0, 0.0] and np.isfinite(p[1].asnumpy()).all() and p[1].asnumpy()[0] < 3


def test_target_of_ftrl_and_proximal_adagrad_takes_any_device() -> None:
    for optimizer in (nn.FTRL(parameters().values()), nn.ProximalAdagrad(parameters().values())):
        assert optimizer.target == "CPU"
        optimizer.target = "Ascend"
        assert optimizer.target == "Ascend"


def test_tinyms_names() -> None:
    from graphopt.compat.tinyms import optimizers

    for name in optimizers.__all__:
        assert getattr(optimizers, name) is getattr(nn, name)
    documented = {"Momentum", "LARS", "Adam", "AdamWeightDecay", "LazyAdam", "AdamOffload", "Lamb", "SGD", "FTRL", "RMSProp"}
    assert documented | {"Optimizer", "ProximalAdagrad", "Adagrad"} <= set(optimizers.__all__)
