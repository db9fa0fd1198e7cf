"""Metrics: numbers gathered over the batches of an evaluation. Plain numpy; they never enter a graph."""

from __future__ import annotations

import functools
import sys
from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.common.checks import check_bool, check_int, check_positive, found, meant
from graphopt.common.tensor import Tensor
from graphopt.errors import NamingError

_TINY = sys.float_info.min


def rearrange_inputs(update: Callable[..., None]) -> Callable[..., None]:
    """Decorate `update`: its inputs are chosen and ordered by `set_indexes` first.

    >>> import graphopt as ms
    >>> class Second(ms.train.Metric):
    ...     def clear(self):
    ...         self.value = None
    ...     @ms.train.rearrange_inputs
    ...     def update(self, *inputs):
    ...         self.value = inputs[0]
    ...     def eval(self):
    ...         return self.value
    >>> metric = Second().set_indexes([1])
    >>> metric.update(5, 6)
    >>> metric.eval()
    6
    """

    @functools.wraps(update)
    def ordered(self: Metric, *inputs: Any) -> None:
        if self.indexes:
            inputs = tuple(inputs[k] for k in self.indexes)
        update(self, *inputs)

    return ordered


class Metric(metaclass=ABCMeta):
    """Base of all metrics: override `clear`, `update(*inputs)` and `eval`.

    `set_indexes([2, 0])` makes update see its inputs 2 and 0 only, when update is decorated with `rearrange_inputs`.
    Errors: ValueError when indexes is no list of ints.

    >>> import graphopt as ms
    >>> class Largest(ms.train.Metric):
    ...     def clear(self):
    ...         self.value = float("-inf")
    ...     def update(self, *inputs):
    ...         self.value = max(self.value, float(inputs[0].asnumpy().max()))
    ...     def eval(self):
    ...         return self.value
    >>> metric = Largest()
    >>> metric.clear()
    >>> metric.update(ms.Tensor([1.0, 3.0]))
    >>> metric.eval()
    3.0
    """

    def __init__(self) -> None:
        self._indexes: list[int] | None = None

    @property
    def indexes(self) -> list[int] | None:
        return self._indexes

    def set_indexes(self, indexes: list[int]) -> Metric:
        if not isinstance(indexes, list) or not all(isinstance(k, int) for k in indexes):
            raise ValueError(f"set_indexes: indexes must be a list of ints, found {found(indexes)}")
        self._indexes = indexes
        return self

    @abstractmethod
    def clear(self) -> None:
        """Forget everything."""

    @abstractmethod
    def update(self, *inputs: Any) -> None:
        """Take in one batch."""

    @abstractmethod
    def eval(self) -> Any:
        """The value over everything since clear."""

    def _arrays(self, inputs: tuple[Any, ...], count: int) -> list[np.ndarray]:
        if len(inputs) != count:
            what = "prediction and truth" if count == 2 else "the loss"
            raise ValueError(f"{type(self).__name__}.update: expected {count} inputs ({what}), found {len(inputs)}")
        return [_array(type(self).__name__, x) for x in inputs]

    def _require(self, count: float) -> None:
        if not count:
            raise RuntimeError(f"{type(self).__name__}.eval: there are no samples; call update first")


class EvaluationBase(Metric):
    """Base of Accuracy, Precision and Recall: eval_type 'classification' or 'multilabel'.

    Errors: TypeError or ValueError for another eval_type.

    >>> import graphopt as ms
    >>> ms.train.Accuracy('classification').eval_type
    'classification'
    """

    def __init__(self, eval_type: str) -> None:
        super().__init__()
        if eval_type not in ("classification", "multilabel"):
            raise TypeError(
                f"{type(self).__name__}: eval_type must be 'classification' or 'multilabel', found {eval_type!r}"
            )
        self.eval_type = eval_type
        self._classes = 0
        self.clear()

    def clear(self) -> None:
        self._classes = 0

    def _labels(self, inputs: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray]:
        """(prediction, truth), checked; a one-hot truth becomes class numbers."""
        owner = f"{type(self).__name__}.update"
        prediction, truth = self._arrays(inputs, 2)
        if self.eval_type == "classification":
            if prediction.ndim == truth.ndim and _is_one_hot(truth):
                truth = truth.argmax(axis=1)
            if prediction.ndim != truth.ndim + 1 or prediction.shape[:1] + prediction.shape[2:] != truth.shape:
                raise ValueError(
                    f"{owner}: expected scores (N, C, …) and classes (N, …), found {prediction.shape}, {truth.shape}"
                )
        else:
            if prediction.shape != truth.shape or prediction.ndim < 2:
                raise ValueError(
                    f"{owner}: expected equal shapes (N, C, …), found {prediction.shape} and {truth.shape}"
                )
            if not (np.isin(prediction, (0, 1)).all() and np.isin(truth, (0, 1)).all()):
                raise ValueError(f"{owner}: multilabel values must be 0 or 1")
        classes = prediction.shape[1]
        if self._classes not in (0, classes):
            raise ValueError(f"{owner}: expected {self._classes} classes as before, found {classes}")
        self._classes = classes
        if self.eval_type == "classification" and truth.size and truth.max() >= classes:
            raise ValueError(f"{owner}: expected classes below {classes}, found {truth.max()}")
        return prediction, truth

    def _one_hot(self, inputs: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray]:
        """(prediction, truth) as zeros and ones: rows are samples, or with multilabel columns are samples."""
        prediction, truth = self._labels(inputs)
        if self.eval_type == "classification":
            eye = np.eye(self._classes)
            return eye[prediction.argmax(axis=1).reshape(-1)], eye[truth.astype(np.int64).reshape(-1)]
        return tuple(v.swapaxes(0, 1).reshape(self._classes, -1) for v in (prediction, truth))  # type: ignore[return-value]


class Accuracy(EvaluationBase):
    """Share of correct predictions; names 'acc' and 'accuracy'.

    Shapes: classification: scores (N, C) and classes (N,) or one-hot (N, C); multilabel: zeros and ones (N, C)
    twice, a sample counts when all its labels are right.
    Errors: ValueError for other shapes; RuntimeError from eval without samples.

    >>> import graphopt as ms
    >>> metric = ms.train.Accuracy()
    >>> metric.update(ms.Tensor([[0.2, 0.5], [0.3, 0.1], [0.9, 0.6]]), ms.Tensor([1, 0, 1]))
    >>> round(float(metric.eval()), 4)
    0.6667
    """

    def __init__(self, eval_type: str = "classification") -> None:
        super().__init__(eval_type)

    def clear(self) -> None:
        super().clear()
        self._correct = self._total = 0

    @rearrange_inputs
    def update(self, *inputs: Any) -> None:
        prediction, truth = self._labels(inputs)
        if self.eval_type == "classification":
            right = (prediction.argmax(axis=1) == truth).reshape(-1)
        else:
            flat = [v.swapaxes(1, v.ndim - 1).reshape(-1, self._classes) for v in (prediction, truth)]
            right = (flat[0] == flat[1]).all(axis=1)
        self._correct += int(right.sum())
        self._total += right.shape[0]

    def eval(self) -> float:
        self._require(self._total)
        return self._correct / self._total


class _PerClass(EvaluationBase):
    """Precision and Recall: true positives over a per-class (per-sample with multilabel) count."""

    _of_truth = False

    def clear(self) -> None:
        super().clear()
        self._true: list[np.ndarray] = []
        self._count: list[np.ndarray] = []

    @rearrange_inputs
    def update(self, *inputs: Any) -> None:
        prediction, truth = self._one_hot(inputs)
        self._true.append((prediction * truth).sum(axis=0))
        self._count.append((truth if self._of_truth else prediction).sum(axis=0))

    def eval(self, average: bool = False) -> Any:
        """The value per class, or with average=True their mean."""
        self._require(self._classes)
        check_bool(f"{type(self).__name__}.eval", "average", average)
        if self.eval_type == "multilabel":
            true, count = np.concatenate(self._true), np.concatenate(self._count)
        else:
            true, count = np.sum(self._true, axis=0), np.sum(self._count, axis=0)
        values = true / (count + _TINY)
        return values.mean() if average else values


class Precision(_PerClass):
    """Correct predictions of a class over all predictions of it; name 'precision'. `eval(average=True)` gives the
    mean.

    Shapes: as Accuracy. Errors: as Accuracy.

    >>> import graphopt as ms
    >>> metric = ms.train.Precision()
    >>> metric.update(ms.Tensor([[0.2, 0.5], [0.3, 0.1], [0.9, 0.6]]), ms.Tensor([1, 0, 1]))
    >>> metric.eval().tolist()
    [0.5, 1.0]
    """

    def __init__(self, eval_type: str = "classification") -> None:
        super().__init__(eval_type)


class Recall(_PerClass):
    """Correct predictions of a class over all samples of it; name 'recall'. `eval(average=True)` gives the mean.

    Shapes: as Accuracy. Errors: as Accuracy.

    >>> import graphopt as ms
    >>> metric = ms.train.Recall()
    >>> metric.update(ms.Tensor([[0.2, 0.5], [0.3, 0.1], [0.9, 0.6]]), ms.Tensor([1, 0, 1]))
    >>> metric.eval().tolist()
    [1.0, 0.5]
    """

    _of_truth = True

    def __init__(self, eval_type: str = "classification") -> None:
        super().__init__(eval_type)


class Fbeta(Metric):
    """Weighted harmonic mean of precision and recall, per class; `eval(average=True)` gives the mean.

    Shapes: scores (N, C) and classes (N,) or one-hot (N, C).
    Errors: ValueError when beta <= 0 or shapes do not fit; RuntimeError from eval without samples.

    >>> import graphopt as ms
    >>> metric = ms.train.Fbeta(1)
    >>> metric.update(ms.Tensor([[0.2, 0.5], [0.3, 0.1], [0.9, 0.6]]), ms.Tensor([1, 0, 1]))
    >>> [round(v, 4) for v in metric.eval().tolist()]
    [0.6667, 0.6667]
    """

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = check_positive("Fbeta", "beta", beta)
        self._recall, self._precision = Recall(), Precision()

    def clear(self) -> None:
        self._recall.clear()
        self._precision.clear()

    @rearrange_inputs
    def update(self, *inputs: Any) -> None:
        self._arrays(inputs, 2)
        self._recall.update(*inputs)
        self._precision.update(*inputs)

    def eval(self, average: bool = False) -> Any:
        check_bool("Fbeta.eval", "average", average)
        self._require(self._recall._classes)
        true, actual = np.sum(self._recall._true, axis=0), np.sum(self._recall._count, axis=0)
        said = np.sum(self._precision._count, axis=0)
        square = self.beta**2
        values = (1.0 + square) * true / (square * actual + said + _TINY)
        return values.mean() if average else values


class F1(Fbeta):
    """Fbeta with beta 1; name 'F1'.

    >>> import graphopt as ms
    >>> ms.train.F1().beta
    1.0
    """

    def __init__(self) -> None:
        super().__init__(1.0)


class TopKCategoricalAccuracy(Metric):
    """Share of samples whose class is among the k best scores; name 'topk'.

    Shapes: scores (N, C) and classes (N,) or one-hot (N, C).
    Errors: TypeError when k is no int, ValueError when k < 1; RuntimeError from eval without samples.

    >>> import graphopt as ms
    >>> metric = ms.train.TopKCategoricalAccuracy(2)
    >>> metric.update(ms.Tensor([[0.1, 0.5, 0.4], [0.7, 0.2, 0.1]]), ms.Tensor([2, 2]))
    >>> float(metric.eval())
    0.5
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = check_int(type(self).__name__, "k", k, low=1)
        self.clear()

    def clear(self) -> None:
        self._correct = self._total = 0

    @rearrange_inputs
    def update(self, *inputs: Any) -> None:
        prediction, truth = self._arrays(inputs, 2)
        if prediction.ndim == truth.ndim and _is_one_hot(truth):
            truth = truth.argmax(axis=1)
        if prediction.ndim != 2 or truth.reshape(-1).shape[0] != prediction.shape[0]:
            raise ValueError(
                f"{type(self).__name__}.update: expected scores (N, C) and classes (N,), found {prediction.shape}, {truth.shape}"
            )
        best = np.argsort(-prediction, axis=1)[:, : self.k]
        self._correct += int((best == truth.reshape(-1, 1)).sum())
        self._total += prediction.shape[0]

    def eval(self) -> float:
        self._require(self._total)
        return self._correct / self._total


class Top1CategoricalAccuracy(TopKCategoricalAccuracy):
    """TopKCategoricalAccuracy with k = 1; name 'top_1_accuracy'.

    >>> import graphopt as ms
    >>> ms.train.Top1CategoricalAccuracy().k
    1
    """

    def __init__(self) -> None:
        super().__init__(1)


class Top5CategoricalAccuracy(TopKCategoricalAccuracy):
    """TopKCategoricalAccuracy with k = 5; name 'top_5_accuracy'.

    >>> import graphopt as ms
    >>> ms.train.Top5CategoricalAccuracy().k
    5
    """

    def __init__(self) -> None:
        super().__init__(5)


class Loss(Metric):
    """Mean of the losses of all batches; name 'loss'.

    Shapes: a loss is () or (N,), which counts as its mean.
    Errors: ValueError for another shape; RuntimeError from eval without samples.

    >>> import graphopt as ms
    >>> metric = ms.train.Loss()
    >>> metric.update(ms.Tensor(2.0)); metric.update(ms.Tensor(4.0))
    >>> float(metric.eval())
    3.0
    """

    def __init__(self) -> None:
        super().__init__()
        self.clear()

    def clear(self) -> None:
        self._sum, self._total = 0.0, 0

    @rearrange_inputs
    def update(self, *inputs: Any) -> None:
        (loss,) = self._arrays(inputs, 1)
        if loss.ndim > 1:
            raise ValueError(f"Loss.update: expected a loss of shape () or (N,), found {loss.shape}")
        self._sum += float(loss.mean())
        self._total += 1

    def eval(self) -> float:
        self._require(self._total)
        return self._sum / self._total


class _Error(Metric):
    """MAE and MSE: a sum over all elements, over the number of samples (the first axis)."""

    def __init__(self) -> None:
        super().__init__()
        self.clear()

    def clear(self) -> None:
        self._sum, self._total = 0.0, 0

    def _each(self, difference: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    @rearrange_inputs
    def update(self, *inputs: Any) -> None:
        prediction, truth = self._arrays(inputs, 2)
        if prediction.size != truth.size:
            owner = type(self).__name__
            raise ValueError(
                f"{owner}.update: expected as many values twice, found {prediction.shape}, {truth.shape}"
            )
        self._sum += float(self._each(truth.reshape(prediction.shape) - prediction).sum())
        self._total += truth.shape[0] if truth.ndim else 1

    def eval(self) -> float:
        self._require(self._total)
        return self._sum / self._total


class MAE(_Error):
    """Sum of absolute errors over the number of samples; name 'mae'.

    Shapes: prediction and truth have equally many elements; the first axis counts samples.
    Errors: ValueError for other sizes; RuntimeError from eval without samples.

    >>> import graphopt as ms
    >>> metric = ms.train.MAE()
    >>> metric.update(ms.Tensor([1.0, 2.0]), ms.Tensor([1.5, 2.0]))
    >>> float(metric.eval())
    0.25
    """

    def _each(self, difference: np.ndarray) -> np.ndarray:
        return np.abs(difference)


class MSE(_Error):
    """Sum of squared errors over the number of samples; name 'mse'. Shapes and errors as MAE.

    >>> import graphopt as ms
    >>> metric = ms.train.MSE()
    >>> metric.update(ms.Tensor([1.0, 2.0]), ms.Tensor([1.5, 2.0]))
    >>> float(metric.eval())
    0.125
    """

    def _each(self, difference: np.ndarray) -> np.ndarray:
        return np.square(difference)


_METRICS: dict[str, type[Metric]] = {
    "accuracy": Accuracy,
    "acc": Accuracy,
    "precision": Precision,
    "recall": Recall,
    "F1": F1,
    "topk": TopKCategoricalAccuracy,
    "top_1_accuracy": Top1CategoricalAccuracy,
    "top_5_accuracy": Top5CategoricalAccuracy,
    "mae": MAE,
    "mse": MSE,
    "loss": Loss,
}


def names() -> list[str]:
    """The names `get_metric_fn` knows, sorted.

    >>> import graphopt as ms
    >>> "accuracy" in ms.train.names()
    True
    """
    return sorted(_METRICS)


def get_metric_fn(name: str, *args: Any, **kwargs: Any) -> Metric:
    """The metric of that name.

    Errors: KeyError for an unknown name.

    >>> import graphopt as ms
    >>> type(ms.train.get_metric_fn('acc')).__name__
    'Accuracy'
    """
    if name not in _METRICS:
        raise NamingError(f"get_metric_fn: no metric {name!r}; there are {', '.join(names())}{meant(name, names())}")
    return _METRICS[name](*args, **kwargs)


def get_metrics(metrics: Any) -> dict[str, Metric] | None:
    """Metrics by name, from None, a set of names or a dict {name: Metric}.

    Errors: TypeError for anything else.

    >>> import graphopt as ms
    >>> sorted(ms.train.get_metrics({"acc", "loss"}))
    ['acc', 'loss']
    """
    if metrics is None:
        return None
    if isinstance(metrics, dict):
        for name, metric in metrics.items():
            if not isinstance(name, str) or not isinstance(metric, Metric):
                raise TypeError(f"metrics: expected a dict {{str: Metric}}, found {name!r}: {found(metric)}")
        return metrics
    if isinstance(metrics, (set, frozenset)):
        return {name: get_metric_fn(name) for name in sorted(metrics)}
    raise TypeError(f"metrics: expected None, a dict or a set, found {found(metrics)}")


def _array(owner: str, value: Any) -> np.ndarray:
    if isinstance(value, Tensor):
        return value.asnumpy()
    if isinstance(value, (list, tuple, np.ndarray, int, float, np.number)):
        return np.asarray(value)
    raise TypeError(f"{owner}.update: inputs must be Tensor, list or ndarray, found {found(value)}")


def _is_one_hot(values: np.ndarray) -> bool:
    return values.ndim > 1 and bool(np.isin(values, (0, 1)).all() and (values.sum(axis=1) == 1).all())
