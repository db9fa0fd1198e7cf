"""Losses."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt import ops
from graphopt.common.checks import check_bool, check_choice, check_int, check_number, check_positive, check_type
from graphopt.common.dtype import float32, float64
from graphopt.common.ranges import check_range
from graphopt.common.signature import operand
from graphopt.common.tensor import Tensor
from graphopt.errors import DTypeError, ShapeError, layout
from graphopt.nn.cell import Cell
from graphopt.where import here

REDUCTIONS = ("none", "mean", "sum")


class LossBase(Cell):
    """Base of losses with a reduction: override construct and end it with `self.get_loss(x, weights)`.

    reduction: 'none' keeps the loss per element, 'mean' and 'sum' reduce it.
    Errors: ValueError for another reduction.

    >>> import graphopt as ms
    >>> class Distance(ms.nn.LossBase):
    ...     def construct(self, logits, labels):
    ...         return self.get_loss(ms.ops.abs(logits - labels))
    >>> float(Distance()(ms.Tensor([1.0, 2.0]), ms.Tensor([0.0, 0.0])).asnumpy())
    1.5
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = check_choice(type(self).__name__, "reduction", reduction, REDUCTIONS)

    def get_axis(self, x: Tensor) -> tuple[int, ...]:
        """All axes of x."""
        return tuple(range(x.ndim))

    def get_loss(self, x: Any, weights: Any = 1.0) -> Any:
        """x times weights, reduced; computed in float32 at least, given back in the dtype of x."""
        kind = x.dtype
        wide = float64 if kind is float64 else float32
        loss = ops.cast(x, wide) * (ops.cast(weights, wide) if isinstance(weights, Tensor) else float(weights))
        if self.reduction == "mean":
            loss = ops.mean(loss)
        elif self.reduction == "sum":
            loss = ops.sum(loss)
        return ops.cast(loss, kind)

    def construct(self, logits: Tensor, labels: Tensor) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must override construct(logits, labels)")

    def extend_repr(self) -> str:
        return f"reduction={self.reduction}"


def _same(owner: str, logits: Any, labels: Any) -> None:
    """Two Tensors that broadcast.

    Errors: TypeError naming the one that is none; ShapeError when they do not.
    """
    check_type(owner, "logits", logits, Tensor)
    check_type(owner, "labels", labels, Tensor)
    try:
        np.broadcast_shapes(logits.shape, labels.shape)
    except ValueError:
        raise _unfit(owner, f"logits {logits.shape} and labels {labels.shape} do not fit", logits, labels) from None


def _unfit(owner: str, what: str, logits: Tensor, labels: Tensor, hint: str = "") -> ShapeError:
    operands = [operand("logits", logits), operand("labels", labels)]
    return ShapeError(layout(f"{owner}: {what}", here(), operands, hint))


def _classes(owner: str, logits: Any, labels: Any, ignored: int | None) -> None:
    """Two Tensors, the labels integer classes of axis 1 of the logits.

    Errors: TypeError or ShapeError when they are not.
    """
    check_type(owner, "logits", logits, Tensor)
    check_type(owner, "labels", labels, Tensor)
    if not labels.dtype.is_integer:
        operands, hint = [operand("labels", labels)], "convert them: labels.astype(ms.int32)"
        raise DTypeError(layout(f"{owner}: labels must be integer classes, found {labels.dtype!r}", here(), operands, hint))
    if logits.ndim:
        check_range(owner, "label", labels, logits.shape[1 if logits.ndim > 1 else 0], ignored)


class L1Loss(LossBase):
    """|logits - labels|.

    Shapes: two that broadcast. Dtypes: floats. Errors: ValueError for another reduction or shapes that do not
    broadcast.

    >>> import graphopt as ms
    >>> float(ms.nn.L1Loss()(ms.Tensor([1.0, 2.0, 3.0]), ms.Tensor([1.0, 2.0, 2.25])).asnumpy())
    0.25
    """

    def construct(self, logits: Tensor, labels: Tensor) -> Any:
        _same("L1Loss", logits, labels)
        return self.get_loss(ops.abs(logits - labels))


class MAELoss(L1Loss):
    """|logits - labels|; the same as L1Loss.

    Shapes, Dtypes, Errors: as L1Loss.

    >>> import graphopt as ms
    >>> float(ms.nn.MAELoss()(ms.Tensor([1.0, 2.0]), ms.Tensor([1.5, 2.0])).asnumpy())
    0.25
    """


class MSELoss(LossBase):
    """(logits - labels)².

    Shapes: two that broadcast. Dtypes: floats. Errors: ValueError for another reduction or shapes that do not
    broadcast.

    >>> import graphopt as ms
    >>> float(ms.nn.MSELoss()(ms.Tensor([1.0, 2.0]), ms.Tensor([1.0, 4.0])).asnumpy())
    2.0
    """

    def construct(self, logits: Tensor, labels: Tensor) -> Any:
        _same("MSELoss", logits, labels)
        return self.get_loss(ops.square(logits - labels))


class RMSELoss(LossBase):
    """The square root of the mean of (logits - labels)².

    Shapes: two that broadcast. Dtypes: floats. Errors: TypeError for inputs that are no Tensors; ValueError for shapes
    that do not broadcast.

    >>> import graphopt as ms
    >>> float(ms.nn.RMSELoss()(ms.Tensor([1.0, 2.0]), ms.Tensor([3.0, 4.0])).asnumpy())
    2.0
    """

    def __init__(self) -> None:
        super().__init__("mean")

    def construct(self, logits: Tensor, labels: Tensor) -> Any:
        _same("RMSELoss", logits, labels)
        return ops.sqrt(ops.mse_loss(logits, labels))


class SmoothL1Loss(LossBase):
    """d²/(2 beta) where d = |logits - labels| is below beta, d - beta/2 elsewhere.

    Shapes: two equal ones. Dtypes: floats.
    Errors: TypeError or ValueError when beta is no number >= 0, the reduction is another, or shapes differ.

    >>> import graphopt as ms
    >>> ms.nn.SmoothL1Loss()(ms.Tensor([1.0, 2.0]), ms.Tensor([1.0, 4.0])).asnumpy().tolist()
    [0.0, 1.5]
    """

    def __init__(self, beta: float = 1.0, reduction: str = "none") -> None:
        super().__init__(reduction)
        self.beta = check_number("SmoothL1Loss", "beta", beta, low=0)

    def construct(self, logits: Tensor, labels: Tensor) -> Any:
        _same("SmoothL1Loss", logits, labels)
        return ops.smooth_l1_loss(logits, labels, self.beta, self.reduction)


class HuberLoss(LossBase):
    """d²/2 where d = |logits - labels| is at most delta, delta·(d - delta/2) elsewhere.

    Shapes: two that broadcast. Dtypes: floats.
    Errors: TypeError or ValueError when delta is no number > 0 or the reduction is another.

    >>> import graphopt as ms
    >>> float(ms.nn.HuberLoss()(ms.Tensor([1.0, 2.0]), ms.Tensor([1.0, 4.0])).asnumpy())
    0.75
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        self.delta = check_positive("HuberLoss", "delta", delta)

    def construct(self, logits: Tensor, labels: Tensor) -> Any:
        _same("HuberLoss", logits, labels)
        return ops.huber_loss(logits, labels, self.reduction, self.delta)


class BCELoss(LossBase):
    """Binary cross entropy of probabilities: -(y log p + (1 - y) log(1 - p)), times weight.

    Shapes: two equal ones; weight broadcasts. Dtypes: floats.
    Errors: TypeError when weight is no Tensor or None; ValueError for another reduction or shapes.

    >>> import graphopt as ms
    >>> round(float(ms.nn.BCELoss()(ms.Tensor([0.5, 0.5]), ms.Tensor([1.0, 0.0])).asnumpy()), 4)
    0.6931
    """

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.weight = check_type("BCELoss", "weight", weight, Tensor, type(None))

    def construct(self, logits: Tensor, labels: Tensor) -> Any:
        _same("BCELoss", logits, labels)
        return ops.binary_cross_entropy(logits, labels, self.weight, self.reduction)


class BCEWithLogitsLoss(LossBase):
    """BCELoss of sigmoid(logits), without overflow; pos_weight multiplies the loss of positives.

    Shapes: two equal ones; weight and pos_weight broadcast. Dtypes: floats.
    Errors: TypeError when weight or pos_weight is no Tensor or None; ValueError for another reduction or shapes.

    >>> import graphopt as ms
    >>> round(float(ms.nn.BCEWithLogitsLoss()(ms.Tensor([0.0]), ms.Tensor([1.0])).asnumpy()), 4)
    0.6931
    """

    def __init__(
        self, reduction: str = "mean", weight: Tensor | None = None, pos_weight: Tensor | None = None
    ) -> None:
        super().__init__(reduction)
        self.weight = check_type("BCEWithLogitsLoss", "weight", weight, Tensor, type(None))
        self.pos_weight = check_type("BCEWithLogitsLoss", "pos_weight", pos_weight, Tensor, type(None))

    def construct(self, logits: Tensor, labels: Tensor) -> Any:
        _same("BCEWithLogitsLoss", logits, labels)
        return ops.binary_cross_entropy_with_logits(logits, labels, self.weight, self.pos_weight, self.reduction)


class SoftmaxCrossEntropyWithLogits(LossBase):
    """Cross entropy of softmax(logits): labels are probabilities (N, C), or with sparse=True classes (N,).

    The loss stays per row unless reduction says otherwise.
    Shapes: logits (N, C). Dtypes: floats; integer classes.
    Errors: TypeError when sparse is no bool or classes are no integers; ValueError for another reduction or shapes, or
            a class outside [0, C) among labels that are an argument of the compiled step.

    >>> import graphopt as ms
    >>> loss = ms.nn.SoftmaxCrossEntropyWithLogits(sparse=True)
    >>> [round(v, 4) for v in loss(ms.Tensor([[0.0, 0.0]]), ms.Tensor([1], ms.int32)).asnumpy().tolist()]
    [0.6931]
    """

    def __init__(self, sparse: bool = False, reduction: str = "none") -> None:
        super().__init__(reduction)
        self.sparse = check_bool("SoftmaxCrossEntropyWithLogits", "sparse", sparse)

    def construct(self, logits: Tensor, labels: Tensor) -> Any:
        owner = "SoftmaxCrossEntropyWithLogits"
        check_type(owner, "logits", logits, Tensor)
        check_type(owner, "labels", labels, Tensor)
        if logits.ndim != 2:
            raise ValueError(f"{owner}: expected logits (N, C), found shape {logits.shape}")
        if self.sparse and labels.size != logits.shape[0]:
            hint = "sparse=False takes one probability per class" if labels.shape == logits.shape else ""
            raise _unfit(owner, f"labels must be {logits.shape[0]} classes, found shape {labels.shape}", logits, labels, hint)
        if not self.sparse and labels.shape != logits.shape:
            hint = "sparse=True takes classes" if labels.ndim == 1 else ""
            what = f"labels must be probabilities of shape {logits.shape}, found shape {labels.shape}"
            raise _unfit(owner, what, logits, labels, hint)
        if self.sparse:
            _classes(owner, logits, labels, None)
        if not self.sparse:
            return self.get_loss(ops.softmax_cross_entropy_with_logits(logits, labels)[0])
        return ops.cross_entropy(logits, ops.reshape(labels, (-1,)), ignore_index=-1, reduction=self.reduction)


class CrossEntropyLoss(LossBase):
    """Cross entropy of softmax(logits) over axis 1: labels are classes (N, …), or probabilities of logits' shape.

    weight: one factor per class. ignore_index: a class that does not count. 'mean' divides by the weights that count.
    label_smoothing: that share of the truth is spread over all classes.
    Shapes: (N, C, …) with (N, …) or (N, C, …). Dtypes: floats; integer classes.
    Errors: TypeError when weight is no Tensor or None or ignore_index no int; ValueError for another reduction or
            shapes, or label_smoothing outside [0, 1].

    >>> import graphopt as ms
    >>> round(float(ms.nn.CrossEntropyLoss()(ms.Tensor([[0.0, 0.0]]), ms.Tensor([1], ms.int32)).asnumpy()), 4)
    0.6931
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction)
        self.weight = check_type("CrossEntropyLoss", "weight", weight, Tensor, type(None))
        self.ignore_index = check_int("CrossEntropyLoss", "ignore_index", ignore_index)
        if not 0 <= check_number("CrossEntropyLoss", "label_smoothing", label_smoothing) <= 1:
            raise ValueError(f"CrossEntropyLoss: label_smoothing must be in [0, 1], found {label_smoothing}")
        self.label_smoothing = float(label_smoothing)

    def construct(self, logits: Tensor, labels: Tensor) -> Any:
        check_type("CrossEntropyLoss", "logits", logits, Tensor)
        check_type("CrossEntropyLoss", "labels", labels, Tensor)
        if not labels.dtype.is_float:
            _classes("CrossEntropyLoss", logits, labels, self.ignore_index)
        return ops.cross_entropy(logits, labels, self.weight, self.ignore_index, self.reduction, self.label_smoothing)


class NLLLoss(LossBase):
    """-weight[c]·logits[n, c] for log-probabilities and classes c. Arguments as CrossEntropyLoss.

    Shapes: (N, C, …) with (N, …). Dtypes: floats; integer classes.
    Errors: as CrossEntropyLoss.

    >>> import graphopt as ms
    >>> float(ms.nn.NLLLoss()(ms.Tensor([[-1.0, -2.0]]), ms.Tensor([1], ms.int32)).asnumpy())
    2.0
    """

    def __init__(self, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.weight = check_type("NLLLoss", "weight", weight, Tensor, type(None))
        self.ignore_index = check_int("NLLLoss", "ignore_index", ignore_index)

    def construct(self, logits: Tensor, labels: Tensor) -> Any:
        _classes("NLLLoss", logits, labels, self.ignore_index)
        return ops.nll_loss(logits, labels, self.weight, self.ignore_index, self.reduction)


class KLDivLoss(LossBase):
    """labels·(log(labels) - logits), 0 where a label is 0; reduction also 'batchmean', which divides the sum by N.

    Shapes: two equal ones. Dtypes: floats. Errors: ValueError for another reduction or shapes that differ.

    >>> import graphopt as ms
    >>> round(float(ms.nn.KLDivLoss('sum')(ms.Tensor([0.0]), ms.Tensor([0.5])).asnumpy()), 4)
    -0.3466
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__("sum" if reduction == "batchmean" else reduction)
        self.reduction = reduction

    def construct(self, logits: Tensor, labels: Tensor) -> Any:
        _same("KLDivLoss", logits, labels)
        return ops.kl_div(logits, labels, self.reduction)


class CosineEmbeddingLoss(LossBase):
    """1 - cos(x1, x2) where the label is 1, max(0, cos - margin) where it is -1.

    Shapes: (N, …) twice and labels (N, …) without axis 1. Errors: TypeError or ValueError unless -1 <= margin <= 1.

    >>> import graphopt as ms
    >>> x = ms.Tensor([[1.0, 0.0]])
    >>> float(ms.nn.CosineEmbeddingLoss()(x, x, ms.Tensor([1])).asnumpy())
    0.0
    """

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        if not -1 <= check_number("CosineEmbeddingLoss", "margin", margin) <= 1:
            raise ValueError(f"CosineEmbeddingLoss: margin must be in [-1, 1], found {margin}")
        self.margin = float(margin)

    def construct(self, logits_x1: Tensor, logits_x2: Tensor, labels: Tensor) -> Any:  # type: ignore[override]
        cosine = ops.cosine_similarity(logits_x1, logits_x2)
        loss = ops.where(ops.equal(labels, 1), 1.0 - cosine, ops.relu(cosine - self.margin))
        return self.get_loss(loss)
