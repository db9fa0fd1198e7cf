"""THOR: statistics, refreshing, updates and conversion, against float64 trajectories in both modes."""

from __future__ import annotations

import builtins
import json
import pathlib
import re
from typing import Any

import numpy as np
import pytest
from golden_cases import in_mode

import graphopt as ms
from graphopt import Tensor, nn, ops
from graphopt.dataset.digits import load_digits
from graphopt.nn.layer.thor_layer import Conv2dThor, DenseThor, EmbeddingLookupThor, EmbeddingThor, convert
from graphopt.train.train_thor import ConvertModelUtils, ConvertNetUtils
from graphopt_tools import thor_race as race
from graphopt_tools.picture import write_picture

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
GOLDENS = pathlib.Path(__file__).parent / "goldens"
TOLERANCE = 2e-5
MODES = [ms.PYNATIVE_MODE, ms.GRAPH_MODE]


class DenseNet(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.relu = nn.Dense(6, 5), nn.Dense(5, 3), nn.ReLU()

    def construct(self, x: Tensor) -> Any:
        return self.fc2(self.relu(self.fc1(x)))


class ConvNet(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.flatten, self.fc = (
            nn.Conv2d(2, 3, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dense(48, 4),
        )

    def construct(self, x: Tensor) -> Any:
        return self.fc(self.flatten(self.relu(self.conv(x))))


class EmbedNet(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.ln, self.fc = nn.Embedding(7, 4), nn.LayerNorm((4,), epsilon=1e-5), nn.Dense(4, 3)

    def construct(self, ids: Tensor) -> Any:
        return self.fc(self.ln(self.emb(ids).mean(1)))


NETS = {"dense": DenseNet, "conv": ConvNet, "embedding": EmbedNet}
CASES = sorted(p.stem for p in (GOLDENS / "thor").glob("*.npz"))


def close(found: Any, expected: np.ndarray, what: str, scale: float = 1.0) -> None:
    values = found.asnumpy().astype(np.float64) / scale
    assert values.shape == expected.shape, (what, values.shape, expected.shape)
    worst = np.max(np.abs(values - expected) / (1 + np.abs(expected)), initial=0)
    assert worst <= TOLERANCE, (what, worst)


def made(name: str) -> tuple[Any, dict[str, Any], nn.Cell, Any]:
    """(arrays, arguments, network with the recorded initial values, optimizer)."""
    data = np.load(GOLDENS / "thor" / f"{name}.npz")
    case = json.loads(str(data["meta"]))["case"]
    net = NETS[case.pop("net")]()
    for p in net.get_parameters():
        p.set_data(Tensor(data[f"init:{p.name}"]))
    lr, damping = Tensor(data["lr"].astype(np.float32)), Tensor(data["damping"].astype(np.float32))
    return data, case, net, nn.thor(net, lr, damping, **case)


def batch(data: Any, t: int) -> tuple[Tensor, Tensor]:
    x = data["x"][t]
    return Tensor(x.astype(np.int32) if x.dtype.kind == "i" else x), Tensor(data["labels"][t].astype(np.int32))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_trajectory(name: str, mode: int) -> None:
    data, case, net, optimizer = made(name)
    scale = case.get("loss_scale", 1.0)
    loss_net = nn.WithLossCell(net, nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean"))
    step = nn.TrainOneStepCell(loss_net, optimizer, sens=scale, return_grad=True).set_train()
    stats = {p.name: p for p in net.untrainable_params()}
    kinds = {"A": ("matrix_a", "matrix_a_cov"), "G": ("matrix_g", "matrix_g_cov")}
    with in_mode(mode):
        for t in range(8):
            loss, gradients = step(*batch(data, t))
            close(loss, data["loss"][t], f"loss {t}")
            for p in net.trainable_params():
                close(gradients[p.name], data[f"grad:{p.name}"][t], f"gradient of {p.name} {t}", scale)
                close(p, data[f"param:{p.name}"][t], f"{p.name} after step {t}")
            if data["refreshed"][t]:
                for key in (k for k in data.files if k[:2] in ("A:", "G:")):
                    layer = key[2:].rsplit(".", 1)[0]
                    found = next(stats[f"{layer}.{n}"] for n in kinds[key[0]] if f"{layer}.{n}" in stats)
                    gain = scale**2 if key[0] == "G" else 1.0
                    close(found, data[key][t] / gain, f"{key} {t}", gain)
    if mode == ms.GRAPH_MODE:
        assert step.compile_cache.compiles == 2, step.compile_cache.explain()
        assert "refresh of THOR's factors: True -> False" in step.compile_cache.explain()


# scaled losses


def scaled_run(case: str, update: Any, mode: int, spoilt: tuple[int, ...] = ()) -> tuple[list[Any], nn.Cell, Any]:
    """Eight steps of a recorded case, batches `spoilt` first tried with a weight that is not finite; what the
    parameters and factors were after each.
    """
    data, arguments, net, optimizer = made(case)
    arguments.pop("loss_scale", None)
    loss_net = nn.WithLossCell(net, nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean"))
    step = nn.TrainOneStepCell(loss_net, optimizer) if update is None else None
    step = step or nn.TrainOneStepWithLossScaleCell(loss_net, optimizer, update)
    step.set_train()
    seen = []
    bias = next(p for p in net.get_parameters() if p.name.endswith("bias"))
    with in_mode(mode):
        for t in range(8):
            if t in spoilt:
                good, before = bias.asnumpy(), values(step, "scale_sense", "iterator_step")
                bias.set_data(Tensor(np.full_like(good, np.inf)))
                assert bool(step(*batch(data, t))[1])
                bias.set_data(Tensor(good))
                after = values(step, "scale_sense", "iterator_step")
                assert [k for k in before if before[k].tobytes() != after[k].tobytes()] == []
            step(*batch(data, t))
            seen.append(values(step, "scale_sense", "iterator_step"))
    return seen, step, optimizer


def values(cell: nn.Cell, *but: str) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy() for p in cell.get_parameters() if not any(word in p.name for word in but)}


SCALED = {
    "fixed": lambda: ms.FixedLossScaleManager(128.0).get_update_cell(),
    "dynamic": lambda: ms.DynamicLossScaleManager(2.0**20, 2, 3).get_update_cell(),
    "huge": lambda: nn.FixedLossScaleUpdateCell(2.0**100),
    "tensor": lambda: Tensor(np.full(1, 64, np.float32)),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("update", SCALED)
@pytest.mark.parametrize("case", ["dense", "conv", "embedding"])
def test_a_scaled_loss_gives_the_unscaled_run(case: str, update: str, mode: int) -> None:
    """The factors of the gradients carry the scale twice: it is taken out before they are squared, so powers of two
    change no bit, not even where the square of the scale leaves float32.
    """
    plain, scaled = (scaled_run(case, make and make(), mode)[0] for make in (None, SCALED[update]))
    for t in range(8):
        assert [k for k in plain[t] if not np.array_equal(plain[t][k], scaled[t][k])] == [], t


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("update", ["fixed", "dynamic"])
def test_an_overflow_spoils_neither_factors_nor_rhythm(update: str, mode: int) -> None:
    """In steps that refresh and in steps that do not; the step after it is the one that would have come."""
    plain = scaled_run("dense", None, mode)[0]
    scaled, _, optimizer = scaled_run("dense", SCALED[update](), mode, spoilt=(0, 1, 3, 5))
    assert optimizer.cov_step.asnumpy().tolist() == [8]
    assert all(np.array_equal(plain[-1][k], scaled[-1][k]) for k in plain[-1])


# statistics


def patches(x: np.ndarray, conv: nn.Conv2d, sides: tuple[tuple[int, int], tuple[int, int]]) -> np.ndarray:
    """(N, groups, patch, positions), one position after the other."""
    n, c = x.shape[:2]
    padded = np.pad(x, ((0, 0), (0, 0), *sides))
    reach = [d * (k - 1) + 1 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    columns = []
    for i in range(0, padded.shape[2] - reach[0] + 1, conv.stride[0]):
        for j in range(0, padded.shape[3] - reach[1] + 1, conv.stride[1]):
            window = padded[:, :, i : i + reach[0] : conv.dilation[0], j : j + reach[1] : conv.dilation[1]]
            columns.append(window.reshape(n, conv.group, -1))
    return np.stack(columns, -1)


CONVOLUTIONS = [
    ({"kernel_size": (3, 2), "stride": (2, 1), "pad_mode": "valid"}, ((0, 0), (0, 0))),
    ({"kernel_size": 3, "pad_mode": "pad", "padding": (1, 0, 2, 1), "has_bias": True}, ((1, 0), (2, 1))),
    ({"kernel_size": 2, "dilation": (2, 3), "pad_mode": "valid"}, ((0, 0), (0, 0))),
    ({"kernel_size": 3, "group": 2, "stride": 2}, ((1, 1), (0, 1))),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("arguments", "sides"), CONVOLUTIONS)
def test_statistics_of_convolutions(arguments: dict[str, Any], sides: Any, mode: int) -> None:
    rng = np.random.default_rng(0)
    plain = nn.Conv2d(4, 6, **arguments)
    layer = nn.SequentialCell(nn.Conv2d(4, 6, **arguments))
    for p, q in zip(layer.get_parameters(), plain.get_parameters(), strict=True):
        p.set_data(q.value())
    convert(layer)
    x = rng.normal(size=(3, 4, 7, 8)).astype(np.float32)
    weights = rng.normal(size=plain(Tensor(x)).shape).astype(np.float32)

    def loss(net: nn.Cell) -> Any:
        return lambda v: (net(v) * Tensor(weights)).sum()

    with in_mode(mode):
        value, gradient = ms.value_and_grad(loss(layer))(Tensor(x))
        expected, wanted = ms.value_and_grad(loss(plain))(Tensor(x))
    close(value, expected.asnumpy(), "output")
    close(gradient, wanted.asnumpy(), "gradient")
    columns = patches(x, plain, sides)
    count = columns.shape[0] * columns.shape[3]
    close(layer[0].matrix_a_cov, np.einsum("ngit,ngjt->ij", columns, columns) / (count * plain.group), "A")
    close(layer[0].matrix_g_cov, np.einsum("nohw,nphw->op", weights, weights) / count, "G")
    assert layer[0].a_normalizer.asnumpy().tolist() == [columns.shape[3]]


@pytest.mark.parametrize("mode", MODES)
def test_large_factors_are_kept_inverted_and_applied_in_blocks(mode: int) -> None:
    """300 inputs and 130 outputs: three and two blocks, the last ones smaller."""
    rng = np.random.default_rng(0)
    net = nn.SequentialCell(nn.Dense(300, 130, has_bias=False))
    optimizer = nn.thor(net, Tensor(0.5), Tensor(4.0), momentum=0.0, batch_size=1)
    weight = net[0].weight.asnumpy().astype(np.float64)
    x, dout = rng.normal(size=(9, 300)).astype(np.float32), rng.normal(size=(9, 130)).astype(np.float32)
    with in_mode(mode):
        gradient = ms.grad(lambda v: (net(v) * Tensor(dout)).sum(), None, net.trainable_params())(Tensor(x))
        optimizer(tuple(gradient) if isinstance(gradient, (tuple, list)) else (gradient,))
    assert net[0].matrix_a.shape == (3, 128, 128) and net[0].matrix_g.shape == (2, 128, 128)

    def inverse(rows: np.ndarray, gain: float) -> np.ndarray:
        full = rows.T.astype(np.float64) @ rows / len(rows) * gain
        made = np.zeros_like(full)
        for low in range(0, len(full), 128):
            part = slice(low, low + 128)
            made[part, part] = np.linalg.inv(full[part, part] + 2.0 * np.eye(len(full[part])))
        return made

    moved = inverse(dout, 1.0) @ (dout.T.astype(np.float64) @ x) @ inverse(x, 1.0)
    close(net[0].weight, weight - 0.5 * moved, "weight")


def test_a_forward_pass_alone_collects_nothing_and_a_flag_turns_it_off() -> None:
    net = nn.SequentialCell(nn.Dense(2, 2))
    convert(net)
    with in_mode(ms.GRAPH_MODE):
        net(ops.ones((3, 2)))
    assert not net[0].matrix_a.asnumpy().any()
    net.add_flags_recursive(thor=False)
    ms.grad(net)(ops.ones((3, 2)))
    assert not net[0].matrix_a.asnumpy().any()
    net.add_flags_recursive(thor=True)
    ms.grad(net)(ops.ones((3, 2)))
    assert net[0].matrix_a.asnumpy().tolist() == [[1.0, 1.0], [1.0, 1.0]]


# conversion


class Mixed(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.flatten = (
            nn.Conv2d(3, 4, 3, has_bias=True),
            nn.BatchNorm2d(4),
            nn.Flatten(),
        )
        self.fc, self.ln = nn.Dense(64, 6, activation="relu"), nn.LayerNorm((6,))
        self.wide_fc, self.frozen = nn.Dense(6, 6), nn.Dense(6, 6)
        self.listed = [self.fc]
        self.inner = nn.SequentialCell(nn.SequentialCell(nn.Dense(6, 6)), nn.Conv1d(1, 1, 1))
        self.frozen.weight.requires_grad = False

    def construct(self, x: Tensor) -> Any:
        y = self.listed[0](self.flatten(self.norm(self.conv(x))))
        return self.inner[0](self.frozen(self.wide_fc(self.ln(y))))


def test_conversion_keeps_everything_but_the_class() -> None:
    net = Mixed()
    before = {p.name: (p, p.asnumpy()) for p in net.get_parameters()}
    x = Tensor(np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32))
    expected = net(x).asnumpy()
    convert(net)
    assert type(net.conv) is Conv2dThor and type(net.fc) is DenseThor and type(net.inner[0][0]) is DenseThor
    for cell in (net.wide_fc, net.frozen):
        assert type(cell) is nn.Dense
    assert type(net.inner[1]) is nn.Conv1d and type(net.norm) is nn.BatchNorm2d
    after = {p.name: p for p in net.get_parameters()}
    assert all(after[name] is p and np.array_equal(p.asnumpy(), v) for name, (p, v) in before.items())
    added = set(after) - set(before)
    assert "inner.0.0.matrix_a" in added and "conv.matrix_g_cov" in added and len(added) == 8
    assert not any(after[name].requires_grad for name in added)
    assert np.array_equal(net(x).asnumpy(), expected)
    statistics = net.fc.matrix_a
    convert(net)
    assert net.fc.matrix_a is statistics


def test_a_network_compiled_before_is_traced_again() -> None:
    net = nn.SequentialCell(nn.Dense(2, 2))
    step = ms.jit(ms.grad(net))
    step(ops.ones((3, 2)))
    convert(net)
    step(ops.ones((3, 2)))
    assert net[0].matrix_a.asnumpy().any()


# the optimizer


def test_state_and_facts() -> None:
    net = Mixed()
    optimizer = nn.thor(net, Tensor([0.1, 0.2]), Tensor(0.1), 0.9, frequency=4, split_indices=[1])
    names = {p.name: p.shape for p in optimizer.get_parameters()}
    assert names["cov_step"] == (1,) and names["momentum"] == () and names["moments.fc.weight"] == (6, 64)
    assert names["matrix_a_inv_0"] == (27, 27) and names["matrix_g_inv_1"] == (6, 6) and "matrix_a_inv_3" not in names
    assert optimizer.get_frequency() == 4 and isinstance(optimizer, nn.Optimizer)
    trained = [p.name for p in net.trainable_params()]
    assert [p.name for p in optimizer.parameters] == trained and "frozen.weight" not in trained
    decayed = nn.thor(net, Tensor(0.1), Tensor(0.1), 0.9, 0.1, decay_filter=lambda p: "bias" not in p.name)
    assert decayed.decay_flags == tuple("bias" not in name for name in trained)


RATES = Tensor([0.1, 0.2, 0.3, 0.4])
CALLS = json.loads((GOLDENS / "errors_adafactor_thor.json").read_text())
MORE = [  # (call, error): what the recordings leave out, or the specification wants otherwise
    ("nn.thor(tnet(),lr,0.1,0.9)", TypeError),
    ("nn.thor(tnet(),lr,Tensor([[0.1]]),0.9)", ValueError),
    ("nn.thor(3,lr,lr,0.9)", TypeError),
    ("nn.thor(tnet(),[0.1],lr,0.9)", TypeError),
    ("nn.thor(tnet(),Tensor([[0.1]]),lr,0.9)", ValueError),
    ("nn.thor(tnet(),lr,lr,0.9,loss_scale=-1.0)", ValueError),
    ("nn.thor(tnet(),lr,lr,0.9,weight_decay=nn.Identity())", TypeError),
    ("nn.thor(tnet(),lr,lr,0.9,batch_size=0)", ValueError),
    ("nn.thor(tnet(),lr,lr,0.9,batch_size=2.0)", TypeError),
    ("nn.thor(tnet(),lr,lr,0.9,enable_clip_grad=1)", TypeError),
    ("nn.thor(tnet(),lr,lr,0.9,decay_filter=3)", TypeError),
    ("nn.thor(tnet(),lr,lr,0.9,split_indices=3)", TypeError),
    ("nn.thor(tnet(),lr,lr,0.9,frequency=True)", TypeError),
    ("nn.thor(tnet(),lr,lr)", TypeError),
    ("nn.thor(nn.ReLU(),lr,lr,0.9)", ValueError),
]
RECORDED = [(e["call"], e["raises"]) for e in CALLS if e["call"].startswith("nn.thor(")]


@pytest.mark.parametrize(("call", "error"), MORE + [r for r in RECORDED if r[0] not in dict(MORE)])
def test_constructor(call: str, error: Any) -> None:
    scope = {"nn": nn, "Tensor": Tensor, "lr": RATES, "tnet": Mixed}
    if error is None:
        assert eval(call, scope) is not None
        return
    with pytest.raises(error if isinstance(error, type) else getattr(builtins, error)) as caught:
        eval(call, scope)
    assert len(str(caught.value)) > 10


def step_of(net: nn.Cell, optimizer: nn.Optimizer) -> nn.Cell:
    return nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), optimizer).set_train()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("short", ["learning_rate", "damping"])
def test_a_call_past_the_end_changes_nothing(short: str, mode: int) -> None:
    net = nn.SequentialCell(nn.Dense(3, 2), nn.LayerNorm((2,)))
    vectors = {"learning_rate": Tensor([0.1] * 4), "damping": Tensor([0.1] * 4), short: Tensor([0.1, 0.1])}
    optimizer = nn.thor(net, momentum=0.9, frequency=2, **vectors)
    step, x, y = step_of(net, optimizer), ops.ones((4, 3)), ops.zeros((4, 2))
    with in_mode(mode):
        step(x, y)
        step(x, y)
        before = {p.name: p.asnumpy() for p in step.get_parameters()}
        for _ in range(2):
            with pytest.raises(RuntimeError, match=f"{short}.* has 2 values.*step 2"):
                step(x, y)
    after = {p.name: p.asnumpy() for p in step.get_parameters()}
    assert [name for name in before if before[name].tobytes() != after[name].tobytes()] == []
    assert optimizer.cov_step.asnumpy().tolist() == [2]


@pytest.mark.parametrize("mode", MODES)
def test_a_failed_call_does_not_count(mode: int) -> None:
    net = nn.SequentialCell(nn.Dense(3, 2))
    optimizer = nn.thor(net, Tensor(0.1), Tensor(0.1), 0.9, frequency=2)
    with in_mode(mode):
        for wrong in ((ops.ones((2, 3)),), (ops.ones((2, 2)), ops.ones(2))):
            with pytest.raises((RuntimeError, ValueError)):
                optimizer(wrong)
        assert optimizer.cov_step.asnumpy().tolist() == [0]
        step = step_of(net, optimizer)
        seen = []
        for _ in range(5):
            step(ops.ones((4, 3)), ops.zeros((4, 2)))
            seen.append(optimizer.matrix_g_inv[0].asnumpy())
    changed = [not np.array_equal(a, b) for a, b in zip(seen, seen[1:], strict=False)]
    assert changed == [False, True, False, True]


def test_both_modes_and_separate_functions_count_alike() -> None:
    """Gradients and optimizer compiled apart, switching modes between calls, equal one compiled step."""
    data, _, net, optimizer = made("dense")
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    gradients = ms.grad(lambda x, y: loss(net(x), y), None, optimizer.parameters)
    for t in range(8):
        with in_mode(MODES[t % 2]):
            optimizer(gradients(*batch(data, t)))
        for p in net.trainable_params():
            close(p, data[f"param:{p.name}"][t], f"{p.name} after step {t}")


def test_a_restored_counter_keeps_the_rhythm() -> None:
    """Parameters, inverses and counter copied into a new optimizer continue the run bit for bit."""
    data, _, net, optimizer = made("dense")
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    step = nn.TrainOneStepCell(nn.WithLossCell(net, loss), optimizer).set_train()
    other_net, other = made("dense")[2:]
    again = nn.TrainOneStepCell(nn.WithLossCell(other_net, loss), other).set_train()
    with in_mode(ms.GRAPH_MODE):
        for t in range(4):
            step(*batch(data, t))
        for p, q in zip(again.get_parameters(), step.get_parameters(), strict=True):
            p.set_data(q.value())
        for t in range(4, 8):
            assert np.array_equal(step(*batch(data, t)).asnumpy(), again(*batch(data, t)).asnumpy())
    assert all(np.array_equal(p.asnumpy(), q.asnumpy()) for p, q in zip(other.parameters, optimizer.parameters, strict=True))


def test_half_precision_parameters() -> None:
    nets = [nn.SequentialCell(nn.Dense(3, 2, dtype=kind)) for kind in (ms.float16, ms.float32)]
    for p, q in zip(nets[1].get_parameters(), nets[0].get_parameters(), strict=True):
        p.set_data(ops.cast(q.value(), ms.float32))
    for net, kind in zip(nets, (ms.float16, ms.float32), strict=True):
        optimizer = nn.thor(net, Tensor(0.1), Tensor(0.1), 0.9, frequency=2)
        step = step_of(net, optimizer)
        for _ in range(3):
            step(ops.ones((4, 3), kind), ops.zeros((4, 2), kind))
    assert nets[0][0].weight.dtype is ms.float16 and nets[0][0].matrix_a.dtype is ms.float32
    assert np.allclose(nets[0][0].weight.asnumpy(), nets[1][0].weight.asnumpy(), atol=5e-3)


def test_embedding_ids_through_one_hot() -> None:
    net = EmbeddingThor(5, 3, use_one_hot=True)
    ms.grad(lambda ids: net(ids).sum(), None, net.trainable_params())(Tensor([[1, 4], [4, 4]], ms.int32))
    assert net.matrix_a.asnumpy().tolist() == [0, 1, 0, 0, 3] and net.matrix_g.asnumpy().tolist() == [[1.0] * 3] * 3


@pytest.mark.parametrize("sparse", [True, False])
def test_a_look_up_trains_as_an_embedding(sparse: bool) -> None:
    """Its rows as gradient come to the same as the dense gradient of Embedding, repeated ids too."""
    ids, target = Tensor([3, 1, 3, 0], ms.int32), ops.ones((4, 2))
    tables = []
    for layer in (nn.Embedding(5, 2), nn.EmbeddingLookup(5, 2, target="DEVICE", sparse=sparse)):
        layer.embedding_table.set_data(Tensor(np.arange(10).reshape(5, 2).astype(np.float32) / 10))
        net = nn.SequentialCell(layer)
        step = step_of(net, nn.thor(net, Tensor(0.1), Tensor(0.1), 0.9, frequency=2, batch_size=4))
        for _ in range(3):
            step(ids, target)
        assert isinstance(layer, (EmbeddingLookupThor, EmbeddingThor))
        tables.append((layer.embedding_table.asnumpy(), layer.matrix_a.asnumpy(), layer.matrix_g.asnumpy()))
    for a, b in zip(*tables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert not np.allclose(tables[0][0], np.arange(10).reshape(5, 2) / 10)


# training


def test_digits_take_fewer_steps_than_with_the_best_momentum() -> None:
    """What the README's picture shows; its numbers are those of another processor, perhaps."""
    with in_mode(ms.GRAPH_MODE):
        rates = {r: race.losses(race.with_momentum(r), 150, race.TARGET) for r in race.RATES}
        thor = race.losses(race.with_thor, 150, race.TARGET)
    found, best = race.steps_to(thor), min(n for m in rates.values() if (n := race.steps_to(m)) is not None)
    assert found is not None and found <= 0.75 * best, (found, best)
    said = re.search(r"in (\d+) steps, Momentum at the best of (\w+) rates in (\d+)", README)
    assert said is not None and abs(int(said[1]) - found) <= 15 and abs(int(said[3]) - best) <= 15
    assert said[2] == "five" and len(race.RATES) == 5


def test_the_picture_of_the_race(tmp_path: pathlib.Path) -> None:
    """Drawn from losses; the one in the repository is of this kind."""
    thor, momentum = [2.3, 0.5, 0.04], {0.1: [2.3, 1.0, 0.5], 0.2: [2.3, 0.9, 0.05]}
    panels = race.panels(thor, momentum)
    assert [c.label for c in panels[0].curves] == ["thor", "Momentum, rate 0.2 (the best)", ""]
    assert list(panels[1].curves[0].x) == [0.0, race.EVERY, 2 * race.EVERY]
    write_picture(tmp_path / "race.svg", "race", panels)
    drawn = (REPOSITORY / race.PICTURE).read_text(encoding="utf-8")
    assert "<polyline" in drawn and "thor and Momentum on the digits" in drawn and str(race.PICTURE) in README


class Watch(ms.Callback):
    """Loss and second inverse after each step."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer, self.losses, self.inverses = optimizer, [], []

    def on_train_step_end(self, run_context: Any) -> None:
        self.losses.append(float(run_context.original_args().net_outputs.asnumpy()))
        self.inverses.append(self.optimizer.matrix_g_inv[1].asnumpy())


def digits_dataset() -> Any:
    """Eight batches of 32 digits."""
    images, labels = load_digits()
    columns = {"data": images[:256].reshape(256, -1), "label": labels[:256]}
    return ms.dataset.NumpySlicesDataset(columns, shuffle=False).batch(32, drop_remainder=True)


@pytest.mark.parametrize("sink", [False, True])
def test_model_train(sink: bool) -> None:
    """A converted Model refreshes in every fourth step, whether data are sunk or not."""
    dataset = digits_dataset()
    net = nn.SequentialCell(nn.Dense(64, 32), nn.ReLU(), nn.Dense(32, 10))
    rates, damping = Tensor([0.05] * 8), Tensor([0.1] * 8)
    optimizer = nn.thor(net, rates, damping, momentum=0.9, batch_size=32, frequency=4)
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    model = ms.Model(net, loss, optimizer, metrics={"acc"})
    model = ConvertModelUtils.convert_to_thor_model(
        model=model,
        network=net,
        loss_fn=loss,
        optimizer=optimizer,
        metrics={"acc"},
        keep_batchnorm_fp32=False,
    )
    watch = Watch(optimizer)
    with in_mode(ms.GRAPH_MODE):
        model.train(1, dataset, callbacks=watch, dataset_sink_mode=sink, sink_size=8 if sink else -1)
        assert model.train_network.compile_cache.compiles == 2
        assert 0 <= model.eval(dataset)["acc"] <= 1
    kept = [np.array_equal(a, b) for a, b in zip(watch.inverses, watch.inverses[1:], strict=False)]
    assert kept == [True, True, True, False, True, True, True]
    assert len(watch.losses) == 8 and np.isfinite(watch.losses).all()


MANAGERS = {
    "none": (1.0, lambda: None),
    "fixed": (128.0, lambda: ms.FixedLossScaleManager(128.0, drop_overflow_update=False)),
    "fixed, dropping": (1.0, lambda: ms.FixedLossScaleManager(128.0)),
    "dynamic": (1.0, lambda: ms.DynamicLossScaleManager(128.0, 2, 2)),
}


def documented_example(level: str, manager: str) -> list[np.ndarray]:
    """What the parameters are after the example of the documentation, at this level."""
    ms.set_seed(5)
    net = nn.SequentialCell(nn.Dense(64, 32), nn.ReLU(), nn.Dense(32, 10))
    temp = Tensor([4e-2, 1e-2, 1e-2, 1e-2], ms.float32)
    scale, make = MANAGERS[manager]
    optim = nn.thor(net, learning_rate=temp, damping=temp, momentum=0.9, loss_scale=scale, frequency=4)
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    more: dict[str, Any] = {"amp_level": level, "loss_scale_manager": make(), "keep_batchnorm_fp32": False}
    model = ms.Model(net, loss_fn=loss, optimizer=optim, metrics={"acc"}, **more)
    model = ConvertModelUtils.convert_to_thor_model(
        model=model, network=net, loss_fn=loss, optimizer=optim, metrics={"acc"}, **more
    )
    with in_mode(ms.GRAPH_MODE):
        model.train(1, digits_dataset(), callbacks=ms.LossMonitor(), sink_size=4, dataset_sink_mode=True)
        assert 0 <= model.eval(digits_dataset())["acc"] <= 1
    assert optim.cov_step.asnumpy().tolist() == [4]
    return [p.asnumpy() for p in net.trainable_params()]


@pytest.mark.parametrize("manager", MANAGERS)
def test_model_train_with_every_manager(manager: str) -> None:
    """Whoever takes the scale back, numbers stay."""
    plain, found = documented_example("O0", "none"), documented_example("O0", manager)
    assert all(np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(plain, found, strict=True))


@pytest.mark.parametrize("level", ["O1", "O2", "O3"])
@pytest.mark.parametrize("manager", ["fixed", "dynamic"])
def test_model_train_in_mixed_precision(level: str, manager: str) -> None:
    """Statistics, inverses and parameters are float32; narrow gradients move the result a little."""
    plain, found = documented_example("O0", "none"), documented_example(level, manager)
    assert all(p.dtype == np.float32 for p in found)
    worst = max(np.abs(a - b).max() for a, b in zip(plain, found, strict=True))
    assert 0 < worst < 0.02, worst


def test_conversion_of_models() -> None:
    net = nn.SequentialCell(nn.Dense(2, 2))
    loss, plain = nn.MSELoss(), nn.SGD(net.trainable_params())
    model = ms.Model(net, loss, plain)
    assert ConvertModelUtils.convert_to_thor_model(model, net, loss, plain) is model
    optimizer = nn.thor(net, Tensor(0.1), Tensor(0.1), 0.9)
    step = step_of(net, optimizer)
    trained = ConvertModelUtils().convert_to_thor_model(model, step, optimizer=optimizer)
    assert trained is not model and trained.train_network is step
    other = nn.SequentialCell(nn.Dense(2, 2))
    ConvertNetUtils().convert_to_thor_net(other)
    assert type(other[0]) is DenseThor
    assert ConvertModelUtils.convert_to_thor_network(other) is other
    for wrong in ((3, net), (model, 3)):
        with pytest.raises(TypeError):
            ConvertModelUtils.convert_to_thor_model(*wrong, optimizer=optimizer)
    with pytest.raises(TypeError):
        ConvertNetUtils().convert_to_thor_net(3)
