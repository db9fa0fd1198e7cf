"""Training: Model, callbacks, metrics."""

from graphopt.train.callback import (
    Callback,
    History,
    LambdaCallback,
    LossMonitor,
    ProgressBar,
    RunContext,
    TimeMonitor,
)
from graphopt.train.metrics import (
    F1,
    MAE,
    MSE,
    Accuracy,
    Fbeta,
    Loss,
    Metric,
    Precision,
    Recall,
    Top1CategoricalAccuracy,
    Top5CategoricalAccuracy,
    TopKCategoricalAccuracy,
    get_metric_fn,
    get_metrics,
    names,
    rearrange_inputs,
)
from graphopt.train.model import Model

__all__ = [name for name in dir() if not name.startswith("_") and name not in ("callback", "metrics", "model")]
