"""What users do wrong: exact texts in both modes, few lines, the user's own line; and nothing is left half done.

`mistakes.py` and `training_mistakes.py` hold the programs, `golden/errors.txt` what they say. Places are written as
the source text of their line, so the texts also say that the line is the right one.
"""

from __future__ import annotations

import linecache
import os
import re
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_mistakes  # noqa: F401 - it lists its mistakes beside those of `mistakes`
from mistakes import MISTAKES, Net, ones, step

import graphopt as ms
from graphopt import Tensor, config, nn, ops
from graphopt.ops.random import stream

MODES = {"graph": ms.GRAPH_MODE, "eager": ms.PYNATIVE_MODE}
LINES = 12

# Refused only when a graph is made of it: eager code may hand on whatever it likes.
GRAPH_ONLY = {"cell_returns_an_array"}
# Python names the line itself, and what may have been meant; asking for an attribute must stay cheap.
WITHOUT_PLACE = {"attribute_that_is_not_there"}


@pytest.fixture(autouse=True)
def mode_is_restored() -> Iterator[None]:
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


def told(name: str, mode: str) -> str | None:
    """Kind and text of the error that a mistake gives, places as source text; None without one."""
    ms.set_context(mode=MODES[mode])
    try:
        MISTAKES[name]()
    except Exception as error:
        check_manners(name, error)
        return f"{type(error).__name__}: {places_as_source(str(error))}"
    return None


def places_as_source(text: str) -> str:
    folder = Path(__file__).parent
    return re.sub(r"(\w*mistakes\.py):(\d+)", lambda m: f"<{linecache.getline(str(folder / m[1]), int(m[2])).strip()}>", text)


def check_manners(name: str, error: Exception) -> None:
    lines = str(error).split("\n")
    assert len(lines) <= LINES
    if name not in WITHOUT_PLACE:
        assert re.match(r"  called at \w*mistakes\.py:\d+", lines[1]), lines
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if os.sep + "graphopt" + os.sep in f.filename]
    assert len(ours) <= 1, [f"{f.filename}:{f.lineno}" for f in ours]
    assert error.__context__ is None or error.__suppress_context__


def test_texts(golden: Callable[..., None]) -> None:
    parts = []
    for name in MISTAKES:
        graph, eager = told(name, "graph"), told(name, "eager")
        assert graph is not None, f"{name} is accepted"
        assert (eager is None) == (name in GRAPH_ONLY), f"{name}: {eager}"
        parts.append(f"== {name}\n{graph}\n" + (f"-- op by op\n{eager}\n" if eager not in (None, graph) else ""))
    golden("errors.txt", "\n".join(parts))


def test_kinds_are_those_of_mindspore() -> None:
    """Errors are the built-in kinds that MindSpore documents."""
    expected = {
        "dense_input_too_wide": ValueError, "dense_float64_input": TypeError, "cell_missing_argument": TypeError,
        "cell_numpy_array": TypeError, "index_out_of_range": IndexError, "grad_sens_shape": ValueError,
        "grad_sens_dtype": TypeError, "grad_sens_number": TypeError, "grad_sens_missing": TypeError,
        "grad_position": IndexError, "train_cell_zero_sens": ValueError, "learning_rates_end": RuntimeError,
        "dense_unknown_activation": KeyError, "cell_without_construct": NotImplementedError, "context_device": ValueError,
        "jit_branches_of_two_shapes": RuntimeError, "attribute_that_is_not_there": AttributeError,
    }  # fmt: skip
    for name, kind in expected.items():
        with pytest.raises(kind):
            MISTAKES[name]()


def test_a_users_own_error_keeps_its_text() -> None:
    class Own(nn.Cell):
        def construct(self, x: Tensor) -> Tensor:
            raise ValueError("mine")

    for mode in MODES.values():
        ms.set_context(mode=mode)
        with pytest.raises(ValueError, match="^mine$") as caught:
            Own()(ones(2))
        assert [f.name for f in traceback.extract_tb(caught.tb)][-1] == "construct"


def test_debug_keeps_every_frame() -> None:
    with config.override(debug=1), pytest.raises(ValueError) as caught:
        Net()(ones(2, 5))
    assert sum(os.sep + "graphopt" + os.sep in f.filename for f in traceback.extract_tb(caught.tb)) > 3


def test_guarded_functions_can_be_pickled() -> None:
    import pickle

    assert pickle.loads(pickle.dumps(nn.cosine_decay_lr)) is nn.cosine_decay_lr
    assert pickle.loads(pickle.dumps(ms.grad)) is ms.grad


# nothing half done ---------------------------------------------------------------------------------------------


class Fragile(nn.Cell):
    """Everything that has state, and after it something that may fail."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.fc1, self.norm, self.drop, self.fc2 = nn.Dense(4, 6), nn.BatchNorm1d(6), nn.Dropout(p=0.5), nn.Dense(6, 2)
        self.fails = fails

    def construct(self, x: Tensor) -> Tensor:
        hidden = self.drop(self.norm(self.fc1(x)))
        if self.fails:
            hidden = hidden[:, :5]
        return self.fc2(hidden)


def state_of(*cells: nn.Cell) -> dict[str, bytes]:
    found = {f"{k}.{name}": p.asnumpy().tobytes() for k, c in enumerate(cells) for name, p in c.parameters_and_names()}
    return found | {"random key": stream().asnumpy().tobytes()}


def trainer(optimizer: Callable[..., nn.Optimizer]) -> tuple[Fragile, nn.Optimizer, nn.TrainOneStepCell]:
    net = Fragile()
    made = optimizer(net.trainable_params())
    return net, made, nn.TrainOneStepCell(nn.WithLossCell(net, nn.CrossEntropyLoss()), made).set_train()


OPTIMIZERS: dict[str, Callable[..., nn.Optimizer]] = {
    "sgd": lambda p: nn.SGD(p, [0.1, 0.1], momentum=0.9),
    "momentum": lambda p: nn.Momentum(p, [0.1, 0.1], 0.9),
    "adam": lambda p: nn.Adam(p, [0.1, 0.1]),
}
DATA, LABELS = ones(3, 4), Tensor([0, 1, 1], ms.int32)
BAD_CALLS: dict[str, tuple[Any, ...]] = {
    "another width": (ones(3, 5), LABELS),
    "another dtype": (ones(3, 4, dtype=np.float64), LABELS),
    "another number of labels": (DATA, Tensor([0, 1], ms.int32)),
    "a label out of range": (DATA, Tensor([0, 1, 2], ms.int32)),
    "float labels": (DATA, ones(3)),
    "a numpy array": (np.ones((3, 4), np.float32), LABELS),
    "no label": (DATA,),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_failing_step_changes_nothing(mode: str, optimizer: str) -> None:
    ms.set_context(mode=MODES[mode])
    net, made, train = trainer(OPTIMIZERS[optimizer])
    train(DATA, LABELS)
    before = state_of(net, made)
    for what, args in BAD_CALLS.items():
        with pytest.raises((ValueError, TypeError)):
            train(*args)
        assert state_of(net, made) == before, what
    net.fails = True
    with pytest.raises(ValueError, match="dense"):
        train(DATA, LABELS)
    assert state_of(net, made) == before
    net.fails = False
    train(DATA, LABELS)
    after = state_of(net, made)
    assert after != before
    with pytest.raises(RuntimeError, match="2 values.*step 2"):
        train(DATA, LABELS)
    assert state_of(net, made) == after


@pytest.mark.parametrize("mode", MODES)
def test_a_failing_forward_pass_changes_nothing(mode: str) -> None:
    """BatchNorm has moved its statistics and Dropout its key when the last layer fails."""
    ms.set_context(mode=MODES[mode])
    net = Fragile(fails=True).set_train()
    before = state_of(net)
    with pytest.raises(ValueError, match="in fc2"):
        net(DATA)
    assert state_of(net) == before
    net.fails = False
    net(DATA)
    assert state_of(net) != before


@pytest.mark.parametrize("mode", MODES)
def test_failing_gradients_change_nothing(mode: str) -> None:
    ms.set_context(mode=MODES[mode])
    net = Fragile().set_train()
    before = state_of(net)
    with pytest.raises(ValueError, match="sens"):
        ops.GradOperation(sens_param=True)(net)(DATA, ones(3, 3))
    with pytest.raises(ValueError, match="has_aux"):
        ms.value_and_grad(net, None, net.trainable_params(), has_aux=True)(DATA)
    assert state_of(net) == before


def test_an_optimizer_that_stops_half_way_changes_nothing() -> None:
    """Op by op, the first parameters are already updated when the error comes."""

    class Breaking(nn.Optimizer):
        def construct(self, gradients: Any) -> Any:
            for k, (p, g) in enumerate(zip(self.parameters, self.prepared(gradients), strict=True)):
                if k == 2:
                    raise ValueError("half way")
                ops.assign_sub(p, g)
            return self.done()

    for mode in MODES.values():
        ms.set_context(mode=mode)
        net, made, train = trainer(lambda p: Breaking(0.1, p))
        before = state_of(net, made)
        with pytest.raises(ValueError, match="half way"):
            train(DATA, LABELS)
        with pytest.raises(ValueError, match="half way"):
            made(tuple(ops.ones_like(p) for p in net.trainable_params()))
        assert state_of(net, made) == before


def test_a_wrong_keyword_leaves_the_context_alone() -> None:
    with pytest.raises(ValueError, match="max_call_depth"):
        ms.set_context(mode=ms.GRAPH_MODE, max_call_depth=0)
    assert ms.get_context("mode") == ms.PYNATIVE_MODE


@pytest.mark.parametrize("mode", MODES)
def test_model_stops_at_the_bad_row(mode: str) -> None:
    """The steps before it are done, the bad one is not."""
    ms.set_context(mode=MODES[mode])

    def rows() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield np.ones((3, 4), np.float32), np.zeros(3, np.int32)
        yield np.ones((3, 4), np.float32), np.full(3, 9, np.int32)

    net = Fragile()
    optimizer = nn.Adam(net.trainable_params())
    model = ms.Model(net, nn.CrossEntropyLoss(), optimizer)
    with pytest.raises(ValueError, match="label 9 at position 0 is outside"):
        model.train(1, ms.dataset.GeneratorDataset(rows, ["x", "y"]))
    assert optimizer.global_step.asnumpy().tolist() == [1]


# data that is no mistake ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_nan_in_data_trains_on(mode: str) -> None:
    ms.set_context(mode=MODES[mode])
    train = step()
    bad = np.ones((2, 4), np.float32)
    bad[1, 2] = np.nan
    assert np.isnan(train(Tensor(bad), ones(2, 2)).asnumpy())
    assert all(np.isnan(p.asnumpy()).any() for p in train.optimizer.parameters[1:])
    assert np.isnan(train(ones(2, 4), ones(2, 2)).asnumpy())


@pytest.mark.parametrize("mode", MODES)
def test_infinity_in_data_trains_on(mode: str) -> None:
    ms.set_context(mode=MODES[mode])
    assert not np.isfinite(step()(Tensor(np.full((2, 4), np.inf, np.float32)), ones(2, 2)).asnumpy())


@pytest.mark.parametrize("mode", MODES)
def test_empty_batches(mode: str) -> None:
    """No rows: layers give no rows, a mean is NaN, a sum 0; gradients of a sum are 0."""
    ms.set_context(mode=MODES[mode])
    none = ones(0, 4)
    assert Net()(none).shape == (0, 2)
    assert nn.Conv2d(3, 5, 3)(ones(0, 3, 8, 8)).shape == (0, 5, 8, 8)
    assert nn.MaxPool2d(2, 2)(ones(0, 3, 8, 8)).shape == (0, 3, 4, 4)
    assert nn.Embedding(5, 3)(ones(0, dtype=np.int32)).shape == (0, 3)
    assert np.isnan(nn.MSELoss()(none, none).asnumpy())
    assert nn.MSELoss("sum")(none, none).asnumpy() == 0
    assert np.isnan(nn.CrossEntropyLoss()(none, ones(0, dtype=np.int32)).asnumpy())
    net = Net()
    before = net.fc1.weight.asnumpy()
    train = nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss("sum")), nn.SGD(net.trainable_params(), 0.1))
    assert train(none, ones(0, 2)).asnumpy() == 0
    assert np.array_equal(net.fc1.weight.asnumpy(), before)


@pytest.mark.parametrize("mode", MODES)
def test_computed_labels_are_not_checked(mode: str) -> None:
    """What a graph computes is known after it ran only: a class that is not there counts as probability 1."""
    ms.set_context(mode=MODES[mode])
    loss = nn.CrossEntropyLoss(reduction="none")

    class Shifted(nn.Cell):
        def construct(self, x: Tensor, y: Tensor) -> Any:
            return loss(x, y + 2)

    if mode == "eager":
        with pytest.raises(ValueError, match="label 3 at position 0 is outside"):
            Shifted()(ones(2, 3), Tensor([1, 0], ms.int32))
    else:
        assert Shifted()(ones(2, 3), Tensor([1, 0], ms.int32)).asnumpy().tolist() == [0.0, pytest.approx(np.log(3))]


# the disk ------------------------------------------------------------------------------------------------------

CHILD = """
import numpy as np, graphopt as ms
from graphopt import Tensor, nn
ms.set_seed(1); ms.set_context(mode=ms.GRAPH_MODE)
print(nn.Dense(4, 2, weight_init="ones")(Tensor(np.ones((1, 4), np.float32))).shape)
"""


def run_with_cache(folder: str) -> subprocess.CompletedProcess[str]:
    env = dict(os.environ, GRAPHOPT_CACHE=folder, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    command = [sys.executable, "-c", CHILD]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_a_cache_folder_that_cannot_be_written_has_no_effect(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(stat.S_IRUSR | stat.S_IXUSR)
    file = tmp_path / "file"
    file.write_text("")
    for folder in (closed, file, file / "below", Path("/proc/graphopt"), Path("/dev/full")):
        done = run_with_cache(str(folder))
        assert (done.returncode, done.stdout, done.stderr) == (0, "(1, 2)\n", ""), folder


def test_a_full_disk_has_no_effect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: Any, **__: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(os, "write", full)
    ms.set_context(mode=ms.GRAPH_MODE)
    with config.override(cache=str(tmp_path)):
        assert nn.Dense(4, 7)(ones(3, 4)).shape == (3, 7)
