"""Model, callbacks and metrics."""

from __future__ import annotations

import io

import numpy as np
import pytest
from golden_cases import in_mode
from rich.console import Console

import graphopt as ms
from graphopt import Model, Tensor, nn, ops, train
from graphopt import dataset as ds


def problem(n: int = 64, shuffle: bool = True) -> ds.Dataset:
    """Two classes, apart by a line."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 2)).astype(np.float32)
    return ds.NumpySlicesDataset({"x": x, "y": (x.sum(1) > 0).astype(np.int32)}, shuffle=shuffle)


def make(metrics=("acc", "loss")) -> Model:
    ms.set_seed(1)
    net = nn.SequentialCell(nn.Dense(2, 8, activation="relu"), nn.Dense(8, 2))
    return Model(
        net, nn.CrossEntropyLoss(), nn.Adam(net.trainable_params(), 0.05), metrics=set(metrics) if metrics else None
    )


class Record(train.Callback):
    def __init__(self) -> None:
        self.moments: list[str] = []
        self.losses: list[float] = []

    def __getattribute__(self, name):
        if name.startswith("on_"):
            self.moments.append(name)
        return super().__getattribute__(name)

    def on_train_step_end(self, run_context) -> None:
        self.losses.append(float(run_context.original_args().net_outputs.asnumpy()))


@pytest.mark.parametrize("mode", [ms.PYNATIVE_MODE, ms.GRAPH_MODE])
def test_training_learns(mode: int) -> None:
    with in_mode(mode):
        model, record = make(), Record()
        model.train(20, problem().batch(16), callbacks=[record])
        values = model.eval(problem().batch(16))
        predicted = model.predict(Tensor([[2.0, 2.0], [-2.0, -2.0]])).asnumpy().argmax(1)
    assert len(record.losses) == 80 and record.losses[-1] < 0.3 * record.losses[0]
    assert values["acc"] > 0.93 and values["loss"] < 0.3 and predicted.tolist() == [1, 0]


def test_moments_come_in_order() -> None:
    model, record = make(), Record()
    model.fit(2, problem(32).batch(16), problem(32).batch(32), valid_frequency=2, callbacks=record)
    step = ["on_train_step_begin", "on_train_step_end"]
    assert record.moments == (
        ["on_train_begin", "on_train_epoch_begin", *step * 2, "on_train_epoch_end", "on_train_epoch_begin", *step * 2]
        + [
            "on_eval_begin",
            "on_eval_epoch_begin",
            "on_eval_step_begin",
            "on_eval_step_end",
            "on_eval_epoch_end",
            "on_eval_end",
        ]
        + ["on_train_epoch_end", "on_train_end"]
    )


def test_stop_sink_and_initial_epoch() -> None:
    class Stop(train.Callback):
        def step_end(self, run_context) -> None:
            if run_context.original_args().cur_step_num == 3:
                run_context.request_stop()

    record = Record()
    make().train(5, problem().batch(16), callbacks=[Stop(), record])
    assert len(record.losses) == 3
    record = Record()
    make().train(3, problem().batch(16), callbacks=record, dataset_sink_mode=True, sink_size=3)
    assert len(record.losses) == 9
    record = Record()
    make().train(3, problem().batch(16), callbacks=record, initial_epoch=2)
    assert len(record.losses) == 4


@pytest.mark.parametrize("size", [-1, 3])
def test_a_sunk_epoch_is_one_step_to_callbacks_and_the_same_training(size: int) -> None:
    class Counter(Record):
        def on_train_step_end(self, run_context) -> None:
            super().on_train_step_end(run_context)
            steps.append(run_context.original_args().cur_step_num)

    trained, steps = [], []
    for sink in (False, True):
        ms.set_seed(3)
        model, record = make(), Counter()
        epoch = 4 if size == -1 else size
        with in_mode(ms.GRAPH_MODE):
            if sink:
                del steps[:]
                model.train(4, problem().batch(16), callbacks=record, dataset_sink_mode=True, sink_size=size)
                assert steps == [epoch * k for k in (1, 2, 3, 4)]
                assert record.moments.count("on_train_step_begin") == record.moments.count("on_train_epoch_end") == 4
            else:
                model.train(epoch, problem().batch(16), callbacks=record)  # 4 rows in an epoch
            assert model.train_network.compile_cache.compiles == 1
        trained.append(([p.asnumpy() for p in model.train_network.get_parameters()], record.losses))
    (plain, losses), (sunk, last) = trained
    assert all(np.array_equal(a, b) for a, b in zip(plain, sunk, strict=True))
    assert last == losses[epoch - 1 :: epoch]


def test_a_sunk_epoch_in_pieces_and_with_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for rows, data in ((4096, 60), (3, 60), (1, 60)):
        monkeypatch.setattr("graphopt.train.model._WAITING_ROWS", rows)
        ms.set_seed(5)
        model = make()
        with in_mode(ms.GRAPH_MODE):
            model.train(2, problem(data).batch(16), dataset_sink_mode=True)  # 16, 16, 16 and 12
        found.append([p.asnumpy() for p in model.train_network.get_parameters()])
    assert all(np.array_equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_a_sunk_epoch_of_an_iterable_without_length_and_with_guards() -> None:
    net = nn.Dense(2, 2)
    model = Model(net, nn.MSELoss(), nn.SGD(net.trainable_params(), [0.1] * 5))
    x = Tensor(np.ones((2, 2), np.float32))
    with in_mode(ms.GRAPH_MODE):
        model.train(1, iter([(x, x)] * 3), dataset_sink_mode=True)
        with pytest.raises(RuntimeError, match="learning_rate"):
            model.train(1, [(x, x)] * 3, dataset_sink_mode=True)


def test_labels_out_of_range_in_a_sunk_epoch_change_nothing() -> None:
    ms.set_seed(1)
    net = nn.Dense(2, 2)
    loss = nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean")
    model = Model(net, loss, nn.SGD(net.trainable_params(), 0.1))
    x, good, bad = Tensor(np.ones((2, 2), np.float32)), Tensor([0, 1], ms.int32), Tensor([0, 7], ms.int32)
    before = [p.asnumpy() for p in net.get_parameters()]
    with in_mode(ms.GRAPH_MODE), pytest.raises(ValueError, match="7 at position 1 is outside"):
        model.train(1, [(x, good), (x, good), (x, bad)], dataset_sink_mode=True)
    assert all(np.array_equal(a, p.asnumpy()) for a, p in zip(before, net.get_parameters(), strict=True))


def test_training_state_of_the_network_is_set() -> None:
    class Probe(nn.Cell):
        def construct(self, x):
            return x * (2.0 if self.training else 1.0)

    net = nn.SequentialCell(Probe(), nn.Dense(2, 2))
    model = Model(net, nn.CrossEntropyLoss(), nn.SGD(net.trainable_params(), 0.1), metrics={"loss"})
    model.train(1, problem(16).batch(16))
    assert net[0].training
    model.eval(problem(16).batch(16))
    assert not net[0].training


def test_monitors_print(capsys) -> None:
    model = make()
    model.fit(1, problem(32).batch(16), problem(32).batch(32), callbacks=[train.LossMonitor(1), train.TimeMonitor()])
    text = capsys.readouterr().out
    assert (
        "epoch: 1 step: 2, loss is " in text
        and "Train epoch time: " in text
        and "Eval result: epoch 1, metrics: {" in text
    )


def test_loss_monitor_stops_at_nan() -> None:
    monitor = train.LossMonitor()
    context = train.RunContext({"cur_step_num": 1, "batch_num": 4, "net_outputs": Tensor(float("nan"))})
    with pytest.raises(ValueError, match="nan"):
        monitor.step_end(context)


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_bar(terminal: bool) -> None:
    out = io.StringIO()
    bar = train.ProgressBar(every=1, console=Console(file=out, force_terminal=terminal, width=120))
    make().train(1, problem(32).batch(16), callbacks=bar)
    assert "loss" in out.getvalue() and "images/s" in out.getvalue()
    assert ("\x1b" in out.getvalue()) is terminal


def test_history_and_lambda() -> None:
    history, seen = train.History(), []
    each = train.LambdaCallback(on_train_step_end=lambda context: seen.append(context.original_args().cur_step_num))
    make().fit(2, problem(32).batch(16), problem(32).batch(32), callbacks=[history, each])
    assert seen == [1, 2, 3, 4] and len(history.history["acc"]) == 2 and history.epoch["epoch"] == [1, 2]


def test_a_network_with_its_own_loss() -> None:
    net = nn.Dense(2, 2)
    loss_net = nn.WithLossCell(net, nn.CrossEntropyLoss())
    model = Model(loss_net, optimizer=nn.SGD(net.trainable_params(), 0.5))
    before = net.weight.asnumpy()
    model.train(1, problem(16).batch(16))
    assert not np.array_equal(before, net.weight.asnumpy())


LABELS = np.array([0, 1, 2, 1, 0, 2])
SCORES = np.eye(3, dtype=np.float32)[[0, 1, 1, 1, 2, 2]] + 0.1


def test_metric_values() -> None:
    def run(metric, *inputs):
        metric.update(*(Tensor(v) for v in inputs))
        return metric

    assert run(train.Accuracy(), SCORES, LABELS).eval() == pytest.approx(4 / 6)
    assert run(train.Accuracy(), SCORES, np.eye(3)[LABELS]).eval() == pytest.approx(4 / 6)
    multi = np.array([[1, 0], [1, 1]]), np.array([[1, 0], [0, 1]])
    assert run(train.Accuracy("multilabel"), *multi).eval() == 0.5
    precision, recall = run(train.Precision(), SCORES, LABELS), run(train.Recall(), SCORES, LABELS)
    assert np.allclose(precision.eval(), [1, 2 / 3, 1 / 2]) and np.allclose(recall.eval(), [1 / 2, 1, 1 / 2])
    assert precision.eval(average=True) == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    assert np.allclose(run(train.F1(), SCORES, LABELS).eval(), [2 / 3, 4 / 5, 1 / 2])
    assert run(train.TopKCategoricalAccuracy(3), SCORES, LABELS).eval() == 1
    assert run(train.Top1CategoricalAccuracy(), SCORES, LABELS).eval() == pytest.approx(4 / 6)
    assert run(train.MAE(), SCORES[:2], np.zeros((2, 3))).eval() == pytest.approx(1.3)
    assert run(train.MSE(), SCORES[:2], np.zeros((2, 3))).eval() == pytest.approx(1.23)
    loss = run(run(train.Loss(), np.float32(1)), np.array([2.0, 4.0]))
    assert loss.eval() == 2.0
    loss.clear()
    with pytest.raises(RuntimeError, match="samples"):
        loss.eval()


def test_indexes_choose_metric_inputs() -> None:
    metric = train.Accuracy().set_indexes([2, 0])
    metric.update(Tensor(LABELS), None, Tensor(SCORES))
    assert metric.eval() == pytest.approx(4 / 6)


def test_metric_names() -> None:
    assert {"acc", "accuracy", "precision", "recall", "F1", "mae", "mse", "loss", "topk"} <= set(train.names())
    assert isinstance(ms.get_metric_fn("topk", 2), train.TopKCategoricalAccuracy)


NET = nn.Dense(2, 2)
WRONG = [
    (lambda: Model(3), TypeError, "network"),
    (lambda: Model(NET, 3), TypeError, "loss_fn"),
    (lambda: Model(NET, nn.MSELoss(), 3), TypeError, "optimizer"),
    (lambda: Model(NET, nn.MSELoss(), metrics=["acc"]), TypeError, "metrics"),
    (lambda: Model(NET, nn.MSELoss(), metrics={"nothing"}), KeyError, "nothing"),
    (lambda: Model(NET, metrics={"acc"}), ValueError, "loss_fn"),
    (lambda: Model(NET, amp_level="O2"), ValueError, "amp_level needs an optimizer"),
    (lambda: Model(NET, amp_level="auto"), ValueError, "amp_level needs an optimizer"),
    (lambda: Model(NET, boost_level="O1"), ValueError, "boost_level"),
    (lambda: Model(NET, cast_model_type=ms.float64), TypeError, "cast_model_type"),
    (lambda: Model(NET, keep_batchnorm_fp32=1), TypeError, "keep_batchnorm_fp32"),
    (lambda: Model(NET, amp_level="O9"), ValueError, "'O9'"),
    (lambda: Model(NET, amp_level=2), TypeError, "amp_level"),
    (lambda: Model(NET, colour="red"), ValueError, "colour"),
    (lambda: make().train(0, problem()), ValueError, "epoch"),
    (lambda: make().train(1, 3), TypeError, "Dataset"),
    (lambda: make().train(1, problem().batch(4), callbacks=3), TypeError, "callbacks"),
    (lambda: make().train(1, problem().batch(4), sink_size=0), ValueError, "sink_size"),
    (lambda: make().train(1, problem().batch(4), initial_epoch=1), ValueError, "initial_epoch"),
    (lambda: make().train(1, problem().project("x").batch(4)), ValueError, "two columns"),
    (lambda: make(None).eval(problem().batch(4)), ValueError, "metrics"),
    (lambda: make(None).fit(1, problem().batch(4), problem().batch(4)), ValueError, "metrics"),
    (lambda: train.LossMonitor(-1), ValueError, "per_print_times"),
    (lambda: train.TimeMonitor(0), ValueError, "data_size"),
    (lambda: train.LambdaCallback(on_fire=print), TypeError, "on_fire"),
    (lambda: train.Accuracy("binary"), TypeError, "'binary'"),
    (lambda: train.Accuracy().update(ops.ones((2, 2))), ValueError, "2 inputs"),
    (lambda: train.Accuracy().update(ops.ones((2, 2)), ops.ones((3,))), ValueError, "(3,)"),
    (lambda: train.Fbeta(0), ValueError, "beta"),
    (lambda: train.TopKCategoricalAccuracy(0), ValueError, "k"),
    (lambda: train.Accuracy().set_indexes("a"), ValueError, "indexes"),
]


@pytest.mark.parametrize(("call", "error", "text"), WRONG)
def test_bad_input(call, error, text) -> None:
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)
