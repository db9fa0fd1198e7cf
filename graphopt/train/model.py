"""Model: a network with loss, optimizer and metrics, trained and evaluated over datasets."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any

from graphopt.amp.mixed import NARROW_LEVELS, build_train_network, check_boost, check_keywords, check_level
from graphopt.common.checks import check_bool, check_int, check_type, found
from graphopt.common.signature import parameters_of
from graphopt.common.tensor import Tensor
from graphopt.context import graph_mode
from graphopt.dataset.pipeline import Dataset
from graphopt.nn.cell import Cell
from graphopt.nn.optim.optimizer import Optimizer
from graphopt.nn.wrap import WithEvalCell, WithLossCell
from graphopt.train.callback import CallbackList, CallbackParameters, RunContext
from graphopt.train.metrics import Loss, Metric, get_metrics

_WAITING_BYTES, _WAITING_ROWS = 64 << 20, 4096  # of a sunk epoch, what is held at a time


class Model:
    """A network, its loss, optimizer and metrics, to be trained, evaluated and used.

    network:      gives predictions from data, or the loss itself when loss_fn is None.
    metrics:      None, a set of names, or {name: Metric}. eval_network: (inputs) -> (loss, output, label) in the
                  order of eval_indexes, instead of network with loss_fn.
    eval_indexes: three positions of eval_network's outputs: loss, prediction, label; -1 for a loss that is not there.
    amp_level:    'O0' to 'O3': in which dtypes training computes, as amp.build_train_network says, which also takes the
                  keywords. loss_scale_manager: an amp.LossScaleManager; its update cell makes the training step
                  nn.TrainOneStepWithLossScaleCell; without one the scale is the sensitivity of nn.TrainOneStepCell.

    Errors: TypeError or ValueError for arguments that do not fit.

    >>> import graphopt as ms
    >>> data = ms.dataset.NumpySlicesDataset({"x": [[1.0], [2.0]], "y": [[2.0], [4.0]]}, shuffle=False)
    >>> data = data.map(lambda v: v.astype("float32"), "x").map(lambda v: v.astype("float32"), "y").batch(2)
    >>> net = ms.nn.Dense(1, 1, weight_init="zeros", has_bias=False)
    >>> model = ms.Model(net, ms.nn.MSELoss(), ms.nn.SGD(net.trainable_params(), 0.1), metrics={"mse"})
    >>> model.train(20, data)
    >>> model.eval(data)["mse"] < 1e-3
    True
    """

    def __init__(
        self,
        network: Cell,
        loss_fn: Any = None,
        optimizer: Any = None,
        metrics: Any = None,
        eval_network: Cell | None = None,
        eval_indexes: list[int] | None = None,
        amp_level: str = "O0",
        boost_level: str = "O0",
        **kwargs: Any,
    ) -> None:
        self._network = check_type("Model", "network", network, Cell)
        if loss_fn is not None and not callable(loss_fn):
            raise TypeError(f"Model: loss_fn must be callable or None, found {found(loss_fn)}")
        check_type("Model", "optimizer", optimizer, Optimizer, type(None))
        check_type("Model", "eval_network", eval_network, Cell, type(None))
        check_level("Model", "amp_level", amp_level)
        check_boost("Model", boost_level)
        check_keywords("Model", kwargs)
        if optimizer is None:
            for name, given in ({"amp_level": amp_level} | kwargs).items():
                if given not in ("O0", None):
                    raise ValueError(f"Model: {name} needs an optimizer, found None")
        self._level, self._keywords = amp_level, kwargs
        self._loss_fn, self._optimizer = loss_fn, optimizer
        self._metrics = get_metrics(metrics)
        self._eval_network, self._indexes = self._build_eval(eval_network, eval_indexes)
        self._train_network = self._build_train()
        self._columns = -1  # of the rows that were found to fit
        self._predict_network = network

    def _build_train(self) -> Cell:
        if self._optimizer is not None:
            return build_train_network(
                self._network, self._optimizer, self._loss_fn, self._level, **self._keywords
            )
        return self._network if self._loss_fn is None else WithLossCell(self._network, self._loss_fn)

    def _build_eval(self, eval_network: Cell | None, indexes: Any) -> tuple[Cell | None, list[int]]:
        if self._metrics is None:
            return None, [0, 1, 2]
        if eval_network is None:
            if self._loss_fn is None:
                raise ValueError("Model: metrics need loss_fn or eval_network, found neither")
            return WithEvalCell(self._network, self._loss_fn, self._level in NARROW_LEVELS), [0, 1, 2]
        if indexes is None:
            return eval_network, [0, 1, 2]
        if not isinstance(indexes, list) or len(indexes) != 3 or not all(isinstance(k, int) for k in indexes):
            raise ValueError(f"Model: eval_indexes must be a list of 3 ints, found {found(indexes)}")
        return eval_network, indexes

    @property
    def train_network(self) -> Cell:
        """The Cell of one training step."""
        return self._train_network

    @property
    def eval_network(self) -> Cell | None:
        """The Cell of one evaluation step; None without metrics."""
        return self._eval_network

    @property
    def predict_network(self) -> Cell:
        return self._predict_network

    # training -------------------------------------------------------------------------------------------------

    def train(
        self,
        epoch: int,
        train_dataset: Any,
        callbacks: Any = None,
        dataset_sink_mode: bool = False,
        sink_size: int = -1,
        initial_epoch: int = 0,
    ) -> None:
        """Train for the epochs initial_epoch + 1 … epoch.

        dataset_sink_mode: in GRAPH_MODE an epoch's steps run one after the other in native code, and are one step to
        callbacks: `cur_step_num` counts all of them, `net_outputs` is the last one's. Not in PYNATIVE_MODE, nor where
        the host decides before each step what it does (`nn.thor`).
        sink_size: with dataset_sink_mode, how many steps an epoch has (-1: the whole dataset); the dataset goes on
        where the epoch before stopped. A callback may end the training with `request_stop`.
        Errors: TypeError or ValueError for arguments that do not fit; ValueError when loss_fn is given and a row has
                not two columns.
        """
        self._fit("train", epoch, train_dataset, None, 1, callbacks, dataset_sink_mode, sink_size, initial_epoch)

    def fit(
        self,
        epoch: int,
        train_dataset: Any,
        valid_dataset: Any = None,
        valid_frequency: Any = 1,
        callbacks: Any = None,
        dataset_sink_mode: bool = False,
        valid_dataset_sink_mode: bool = False,
        sink_size: int = -1,
        initial_epoch: int = 0,
    ) -> None:
        """Train as `train`, and evaluate on valid_dataset after every valid_frequency-th epoch, or after the epochs
        it lists.

        Callbacks find the values as `metrics` among their facts.
        Errors: as train; ValueError when valid_dataset is given and the Model has no metrics.
        """
        if valid_dataset is not None and self._metrics is None:
            raise ValueError("Model.fit: valid_dataset needs metrics, found none; give them to Model")
        if not isinstance(valid_frequency, int) and not isinstance(valid_frequency, Iterable):
            raise TypeError(
                f"Model.fit: valid_frequency must be an int or a list of epochs, found {found(valid_frequency)}"
            )
        if isinstance(valid_frequency, int):
            check_int("Model.fit", "valid_frequency", valid_frequency, low=1)
        self._fit(
            "fit",
            epoch,
            train_dataset,
            valid_dataset,
            valid_frequency,
            callbacks,
            dataset_sink_mode,
            sink_size,
            initial_epoch,
        )

    def _fit(
        self,
        owner: str,
        epoch: int,
        data: Any,
        valid: Any,
        frequency: Any,
        callbacks: Any,
        sink: bool,
        size: int,
        first: int,
    ) -> None:
        check_int(f"Model.{owner}", "epoch", epoch, low=1)
        check_int(f"Model.{owner}", "initial_epoch", first, low=0)
        check_bool(f"Model.{owner}", "dataset_sink_mode", sink)
        if first >= epoch:
            raise ValueError(f"Model.{owner}: initial_epoch must be below epoch {epoch}, found {first}")
        if check_int(f"Model.{owner}", "sink_size", size) == 0 or size < -1:
            raise ValueError(f"Model.{owner}: sink_size must be -1 or > 0, found {size}")
        _check_dataset(f"Model.{owner}", data)
        if self._loss_fn is not None and self._optimizer is None:
            raise ValueError(f"Model.{owner}: loss_fn is given but no optimizer, so nothing would be trained; give both")
        facts = self._facts("train", data, callbacks)
        facts.update(epoch_num=epoch, dataset_sink_mode=sink, train_dataset=data, train_network=self._train_network)
        if sink and size > 0:
            facts.batch_num = size
        self._train_network.set_train(True)
        with CallbackList(callbacks) as listed:
            facts.list_callback = listed
            context = RunContext(facts)
            listed.call("on_train_begin", context)
            steps = _Steps(data, size if sink else -1)
            for number in range(first, epoch):
                facts.cur_epoch_num = number + 1
                self._train_epoch(steps, facts, listed, context)
                if valid is not None and _due(number + 1, frequency):
                    facts.metrics = self._evaluate(valid, listed)
                    self._train_network.set_train(True)
                listed.call("on_train_epoch_end", context)
                facts.pop("metrics", None)
                if context.get_stop_requested():
                    break
            listed.call("on_train_end", context)

    def _train_epoch(
        self, steps: _Steps, facts: CallbackParameters, listed: CallbackList, context: RunContext
    ) -> None:
        listed.call("on_train_epoch_begin", context)
        rows = iter(steps.epoch())
        if facts.dataset_sink_mode and graph_mode():
            first = next(rows, None)
            if first is None:
                return
            self._check_row(first)
            rows = itertools.chain([first], rows)
            if not self._train_network.compile_cache.asks_the_host(first):
                self._sink_epoch(rows, facts, listed, context)
                return
        for row in rows:
            self._check_row(row)
            facts.cur_step_num += 1
            facts.train_dataset_element = row
            listed.call("on_train_step_begin", context)
            facts.net_outputs = self._train_network(*row)
            listed.call("on_train_step_end", context)
            if context.get_stop_requested():
                return

    def _sink_epoch(
        self, rows: Iterator[list[Any]], facts: CallbackParameters, listed: CallbackList, context: RunContext
    ) -> None:
        """An epoch whose steps callbacks see as one."""
        count = facts.batch_num
        if count is None:  # an iterable without a length
            rows = iter(whole := list(rows))
            count = len(whole)
        facts.cur_step_num += count
        facts.train_dataset_element = ()
        listed.call("on_train_step_begin", context)
        while sunk := _some(rows):
            for row in sunk:
                self._check_row(row)
            facts.net_outputs = self._train_network._run_many(sunk)
        listed.call("on_train_step_end", context)

    def _check_row(self, row: list[Any]) -> None:
        if len(row) == self._columns:
            return
        self._check_columns(row)
        self._columns = len(row)

    def _check_columns(self, row: list[Any]) -> None:
        if self._loss_fn is not None:
            if len(row) != 2:
                raise ValueError(f"Model.train: with loss_fn a row must have two columns (data, label), found {len(row)}")
            return
        signature = parameters_of(self._network.construct)
        try:
            if signature is not None:
                signature.bind(*row)
        except TypeError as error:
            name = type(self._network).__name__
            what = f"Model.train: without loss_fn the network gets all {len(row)} columns of a row, {name}: {error}"
            raise TypeError(f"{what}; give loss_fn to Model, or let construct take them") from None

    def _facts(self, mode: str, data: Any, callbacks: Any) -> CallbackParameters:
        facts = CallbackParameters()
        facts.update(
            mode=mode,
            network=self._network,
            loss_fn=self._loss_fn,
            optimizer=self._optimizer,
            eval_network=self._eval_network,
            batch_num=data.get_dataset_size() if isinstance(data, Dataset) else _length(data),
            cur_epoch_num=1,
            cur_step_num=0,
            start_time=time.time(),
            _train_callbacks=callbacks,
        )
        return facts

    # evaluation and use ---------------------------------------------------------------------------------------

    def eval(self, valid_dataset: Any, callbacks: Any = None, dataset_sink_mode: bool = False) -> dict[str, Any]:
        """The value of each metric over the dataset.

        Errors: ValueError when the Model has no metrics; TypeError or ValueError for arguments that do not fit.
        """
        check_bool("Model.eval", "dataset_sink_mode", dataset_sink_mode)
        if not self._metrics:
            raise ValueError("Model.eval: the Model has no metrics; give them to Model(metrics={'acc'})")
        with CallbackList(callbacks) as listed:
            return self._evaluate(valid_dataset, listed)

    def _evaluate(self, data: Any, listed: CallbackList) -> dict[str, Any]:
        _check_dataset("Model.eval", data)
        assert self._metrics is not None and self._eval_network is not None
        facts = self._facts("eval", data, listed)
        facts.update(valid_dataset=data, list_callback=listed)
        context = RunContext(facts)
        for metric in self._metrics.values():
            metric.clear()
        self._eval_network.set_train(False)
        listed.call("on_eval_begin", context)
        listed.call("on_eval_epoch_begin", context)
        for row in _rows(data):
            facts.cur_step_num += 1
            facts.eval_dataset_element = row
            listed.call("on_eval_step_begin", context)
            facts.net_outputs = outputs = self._eval_network(*row)
            for metric in self._metrics.values():
                self._update(metric, outputs)
            listed.call("on_eval_step_end", context)
            if context.get_stop_requested():
                break
        facts.metrics = values = {name: metric.eval() for name, metric in self._metrics.items()}
        listed.call("on_eval_epoch_end", context)
        listed.call("on_eval_end", context)
        return values

    def _update(self, metric: Metric, outputs: Any) -> None:
        """Give a metric its inputs: those it chose by set_indexes, the loss for Loss, else prediction and label."""
        listed = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
        if metric.indexes:
            metric.update(*listed)
            return
        loss, prediction, label = self._indexes
        if isinstance(metric, Loss):
            if loss != -1:
                metric.update(listed[loss])
            return
        metric.update(listed[prediction], listed[label])

    def predict(self, *predict_data: Any, backend: Any = None, config: Any = None) -> Any:
        """The network's output for the data, in evaluation state."""
        self._predict_network.set_train(False)
        return self._predict_network(*predict_data)


class _Steps:
    """The rows of each epoch: a pass over the dataset, or `size` rows that go on where the last epoch stopped."""

    def __init__(self, data: Any, size: int) -> None:
        self._data, self._size = data, size
        self._running: Any = None

    def epoch(self) -> Iterable[list[Any]]:
        if self._size == -1:
            yield from _rows(self._data)
            return
        for _ in range(self._size):
            row = next(self._running, None) if self._running is not None else None
            if row is None:
                self._running = iter(_rows(self._data))
                row = next(self._running, None)
            if row is None:
                raise RuntimeError("Model.train: the dataset has no rows")
            yield row


def _rows(data: Any) -> Iterable[list[Any]]:
    for row in data:
        columns = (
            list(row.values()) if isinstance(row, dict) else list(row) if isinstance(row, (tuple, list)) else [row]
        )
        yield [c if isinstance(c, Tensor) else Tensor(c) for c in columns]


def _some(rows: Iterator[list[Any]]) -> list[list[Any]]:
    """The next rows, as many as may wait in memory for their steps; none at the end."""
    taken: list[list[Any]] = []
    room = _WAITING_BYTES
    while room > 0 and len(taken) < _WAITING_ROWS:
        row = next(rows, None)
        if row is None:
            break
        taken.append(row)
        room -= sum(column.nbytes for column in row)
    return taken


def _length(data: Any) -> int | None:
    return len(data) if hasattr(data, "__len__") else None


def _due(epoch: int, frequency: Any) -> bool:
    return epoch % frequency == 0 if isinstance(frequency, int) else epoch in frequency


def _check_dataset(owner: str, data: Any) -> None:
    if not isinstance(data, Dataset) and not hasattr(data, "__iter__"):
        raise TypeError(f"{owner}: expected a Dataset or an iterable of rows, found {found(data)}")
