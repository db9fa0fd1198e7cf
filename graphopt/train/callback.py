"""Callbacks: what happens at the beginnings and ends of training, evaluation, epochs and steps."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.common.checks import check_bool, check_int, found
from graphopt.common.tensor import Tensor

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


class CallbackParameters(dict[str, Any]):
    """The facts callbacks see, as keys and as attributes (None for a missing one).

    mode, epoch_num, batch_num, cur_epoch_num, cur_step_num, net_outputs, train_dataset, network, train_network,
    optimizer, loss_fn, dataset_sink_mode, list_callback, and after an evaluation metrics.
    """

    def __getattr__(self, name: str) -> Any:
        return self.get(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class RunContext:
    """What callbacks receive: `original_args()` gives the facts, `request_stop()` ends the training after this step.

    Errors: TypeError when made from something that is no dict.

    >>> import graphopt as ms
    >>> context = ms.train.RunContext({"cur_epoch_num": 1})
    >>> context.request_stop()
    >>> context.get_stop_requested()
    True
    """

    def __init__(self, original_args: dict[str, Any]) -> None:
        if not isinstance(original_args, dict):
            raise TypeError(f"RunContext: original_args must be a dict, found {found(original_args)}")
        self._args = original_args
        self._stop = False

    def original_args(self) -> Any:
        return self._args

    def request_stop(self) -> None:
        self._stop = True

    def get_stop_requested(self) -> bool:
        return self._stop


_MOMENTS = ("begin", "epoch_begin", "step_begin", "step_end", "epoch_end", "end")


class Callback:
    """Base of all callbacks: override what you need.

    `on_train_begin`, `on_train_epoch_begin`, `on_train_step_begin`, `on_train_step_end`, `on_train_epoch_end`,
    `on_train_end` and the same with `eval`; each calls `begin`, `epoch_begin` … unless overridden. As a context
    manager it is entered before training.

    >>> import graphopt as ms
    >>> class Stop(ms.train.Callback):
    ...     def step_end(self, run_context):
    ...         if run_context.original_args().cur_step_num >= 10:
    ...             run_context.request_stop()
    """

    def __enter__(self) -> Callback:
        return self

    def __exit__(self, *error: Any) -> None:
        return None

    def begin(self, run_context: RunContext) -> None:
        """Before the first epoch."""

    def epoch_begin(self, run_context: RunContext) -> None:
        """Before each epoch."""

    def epoch_end(self, run_context: RunContext) -> None:
        """After each epoch."""

    def step_begin(self, run_context: RunContext) -> None:
        """Before each step."""

    def step_end(self, run_context: RunContext) -> None:
        """After each step."""

    def end(self, run_context: RunContext) -> None:
        """After the last epoch."""

    def on_train_begin(self, run_context: RunContext) -> None:
        self.begin(run_context)

    def on_train_epoch_begin(self, run_context: RunContext) -> None:
        self.epoch_begin(run_context)

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        self.epoch_end(run_context)

    def on_train_step_begin(self, run_context: RunContext) -> None:
        self.step_begin(run_context)

    def on_train_step_end(self, run_context: RunContext) -> None:
        self.step_end(run_context)

    def on_train_end(self, run_context: RunContext) -> None:
        self.end(run_context)

    def on_eval_begin(self, run_context: RunContext) -> None:
        self.begin(run_context)

    def on_eval_epoch_begin(self, run_context: RunContext) -> None:
        self.epoch_begin(run_context)

    def on_eval_epoch_end(self, run_context: RunContext) -> None:
        self.epoch_end(run_context)

    def on_eval_step_begin(self, run_context: RunContext) -> None:
        self.step_begin(run_context)

    def on_eval_step_end(self, run_context: RunContext) -> None:
        self.step_end(run_context)

    def on_eval_end(self, run_context: RunContext) -> None:
        self.end(run_context)


class CallbackList:
    """Several callbacks as one: each moment is passed to all, in order.

    Errors: TypeError when an element is no Callback.
    """

    def __init__(self, callbacks: Any) -> None:
        listed: Sequence[Any] = (
            () if callbacks is None else [callbacks] if isinstance(callbacks, Callback) else callbacks
        )
        if not isinstance(listed, (list, tuple)):
            raise TypeError(f"callbacks: expected a Callback or a list of them, found {found(callbacks)}")
        for callback in listed:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks: expected a Callback, found {found(callback)}")
        self.callbacks = list(listed)
        self._stack = ExitStack()

    def __enter__(self) -> CallbackList:
        for callback in self.callbacks:
            self._stack.enter_context(callback)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def call(self, moment: str, run_context: RunContext) -> None:
        """moment: 'on_train_begin', 'on_eval_step_end' …"""
        for callback in self.callbacks:
            getattr(callback, moment)(run_context)


class LossMonitor(Callback):
    """Print the loss every `per_print_times` steps (0: never), and the metrics that `fit` gathers.

    Errors: ValueError when per_print_times is negative, and during training when the loss is NaN or infinite.

    >>> import graphopt as ms
    >>> monitor = ms.train.LossMonitor(10)
    """

    def __init__(self, per_print_times: int = 1) -> None:
        self._every = check_int("LossMonitor", "per_print_times", per_print_times, low=0)
        self._last = 0

    def step_end(self, run_context: RunContext) -> None:
        facts = run_context.original_args()
        step = facts.get("cur_step_num", 1)
        self._last = min(self._last, step - 1)
        due = self._every and step - self._last >= self._every
        if not due:
            return
        self._last = step
        loss = loss_of(facts.get("net_outputs"))
        epoch, in_epoch = facts.get("cur_epoch_num", 1), (step - 1) % max(facts.get("batch_num") or 1, 1) + 1
        if loss is not None and not math.isfinite(loss):
            raise ValueError(f"epoch {epoch}, step {in_epoch}: the loss is {loss}; training cannot go on")
        print(f"epoch: {epoch} step: {in_epoch}, loss is {loss}", flush=True)

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        facts = run_context.original_args()
        if facts.get("metrics"):
            print(f"Eval result: epoch {facts.get('cur_epoch_num')}, metrics: {facts['metrics']}", flush=True)


class TimeMonitor(Callback):
    """Print the milliseconds of each epoch and of one step.

    data_size: steps of an epoch when the dataset does not tell. data_time: also the time spent waiting for data.
    Errors: TypeError or ValueError for other arguments.

    >>> import graphopt as ms
    >>> monitor = ms.train.TimeMonitor()
    """

    def __init__(self, data_size: int | None = None, data_time: bool = False) -> None:
        self.data_size = None if data_size is None else check_int("TimeMonitor", "data_size", data_size, low=1)
        self.data_time = check_bool("TimeMonitor", "data_time", data_time)
        self._starts: list[float] = []  # an evaluation may begin and end inside an epoch of training
        self._waiting = time.perf_counter()
        self._data_seconds = 0.0

    def epoch_begin(self, run_context: RunContext) -> None:
        self._starts.append(time.perf_counter())
        self._waiting = time.perf_counter()
        self._data_seconds = 0.0

    def step_begin(self, run_context: RunContext) -> None:
        self._data_seconds += time.perf_counter() - self._waiting

    def step_end(self, run_context: RunContext) -> None:
        self._waiting = time.perf_counter()

    def epoch_end(self, run_context: RunContext) -> None:
        facts = run_context.original_args()
        epoch_ms = (time.perf_counter() - self._starts.pop()) * 1000
        steps = facts.get("batch_num") or self.data_size
        if not steps:
            raise ValueError("TimeMonitor: the dataset does not tell its size; give data_size")
        line = f"{str(facts.get('mode', '')).title()} epoch time: {epoch_ms:5.3f} ms, per step time: {epoch_ms / steps:5.3f} ms"
        if self.data_time:
            line += f" (data time: {self._data_seconds * 1000 / steps:5.3f} ms)"
        print(line, flush=True)


class ProgressBar(Callback):
    """A bar with loss and images per second; where standard error is no terminal, a plain line per epoch (and every
    `every` steps).

    Units: images are rows of the first input of a batch.
    Errors: TypeError or ValueError when `every` is no int >= 0.

    >>> import graphopt as ms
    >>> bar = ms.train.ProgressBar()
    """

    def __init__(self, every: int = 0, console: Any = None) -> None:
        self._every = check_int("ProgressBar", "every", every, low=0)
        from rich.console import Console  # a twentieth of the time that graphopt takes to import

        self._console: Console = console if console is not None else Console(file=sys.stderr)
        self._progress: Progress | None = None
        self._training = False
        self._bar: Any = None
        self._images, self._start = 0, 0.0

    def epoch_begin(self, run_context: RunContext) -> None:
        facts = run_context.original_args()
        self._images, self._start = 0, time.perf_counter()
        if not self._console.is_terminal:
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, TextColumn("{task.fields[facts]}"), console=self._console)
        self._progress.start()
        title = f"epoch {facts.get('cur_epoch_num', 1)}/{facts.get('epoch_num', 1)}"
        self._bar = self._progress.add_task(title, total=facts.get("batch_num"), facts="")

    def step_end(self, run_context: RunContext) -> None:
        facts = run_context.original_args()
        element = facts.get("train_dataset_element") or facts.get("eval_dataset_element")
        self._images += int(np.shape(element[0])[0]) if element and np.ndim(element[0]) else 1
        step = facts.get("cur_step_num", 0)
        if self._progress is not None:
            self._progress.update(self._bar, advance=1, facts=self._facts(facts))
        elif self._every and step % self._every == 0:
            print(f"epoch {facts.get('cur_epoch_num', 1)} step {step}: {self._facts(facts)}", file=self._console.file)

    def epoch_end(self, run_context: RunContext) -> None:
        facts = run_context.original_args()
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        else:
            print(f"epoch {facts.get('cur_epoch_num', 1)}: {self._facts(facts)}", file=self._console.file, flush=True)

    def end(self, run_context: RunContext) -> None:
        self.__exit__()

    def on_eval_begin(self, run_context: RunContext) -> None:
        """An evaluation inside a training leaves the bar of the training alone."""

    def on_eval_epoch_begin(self, run_context: RunContext) -> None:
        if not self._training:
            self.epoch_begin(run_context)

    def on_eval_step_end(self, run_context: RunContext) -> None:
        if not self._training:
            self.step_end(run_context)

    def on_eval_epoch_end(self, run_context: RunContext) -> None:
        if not self._training:
            self.epoch_end(run_context)

    def on_eval_end(self, run_context: RunContext) -> None:
        if not self._training:
            self.end(run_context)

    def on_train_begin(self, run_context: RunContext) -> None:
        self._training = True

    def on_train_end(self, run_context: RunContext) -> None:
        self.end(run_context)
        self._training = False

    def __exit__(self, *error: Any) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _facts(self, facts: Any) -> str:
        loss = loss_of(facts.get("net_outputs")) if facts.get("mode") != "eval" else None
        speed = self._images / max(time.perf_counter() - self._start, 1e-9)
        return (f"loss {loss:.4f}, " if loss is not None else "") + f"{speed:.0f} images/s"


class History(Callback):
    """Keep what each epoch ended with: `history.epoch` and `history.history` {'net_output': [...], metric: [...]}.

    >>> import graphopt as ms
    >>> ms.train.History().history
    {}
    """

    def __init__(self) -> None:
        self.history: dict[str, list[Any]] = {}
        self.epoch: dict[str, list[int]] = {}

    def on_train_begin(self, run_context: RunContext) -> None:
        self.epoch = {"epoch": []}

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        facts = run_context.original_args()
        self.epoch.setdefault("epoch", []).append(facts.get("cur_epoch_num", 1))
        self.history.setdefault("net_output", []).append(facts.get("net_outputs"))
        for name, value in (facts.get("metrics") or {}).items():
            self.history.setdefault(name, []).append(value)


class LambdaCallback(Callback):
    """A callback made of functions: `LambdaCallback(on_train_step_end=print)`.

    Errors: TypeError for an unknown moment or something that is not callable.

    >>> import graphopt as ms
    >>> callback = ms.train.LambdaCallback(on_train_epoch_end=lambda run_context: print("done"))
    """

    def __init__(self, **functions: Any) -> None:
        moments = [f"on_{kind}_{moment}" for kind in ("train", "eval") for moment in _MOMENTS]
        for moment, function in functions.items():
            if moment not in moments:
                raise TypeError(f"LambdaCallback: no moment {moment!r}; there are {', '.join(moments)}")
            if function is None:
                continue
            if not callable(function):
                raise TypeError(f"LambdaCallback: {moment} must be callable, found {found(function)}")
            setattr(self, moment, function)


def loss_of(outputs: Any) -> float | None:
    """The loss among the outputs of a training step: the first, averaged; None when it is no number."""
    first = outputs[0] if isinstance(outputs, (tuple, list)) and outputs else outputs
    if isinstance(first, Tensor):
        return float(np.mean(first.asnumpy().astype(np.float64)))
    return float(np.mean(first)) if isinstance(first, (int, float, np.ndarray, np.number)) else None
