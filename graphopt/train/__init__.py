"""Training: Model, callbacks, metrics, checkpoints."""

from graphopt.amp.manager import DynamicLossScaleManager, FixedLossScaleManager, LossScaleManager
from graphopt.train.callback import (
    Callback,
    History,
    LambdaCallback,
    LossMonitor,
    ProgressBar,
    RunContext,
    TimeMonitor,
)
from graphopt.train.checkpoint import CheckpointConfig, ModelCheckpoint
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
from graphopt.train.serialization import load_checkpoint, load_param_into_net, save_checkpoint, wait_for_saves
from graphopt.train.train_thor import ConvertModelUtils, ConvertNetUtils

__all__ = [
    "F1",
    "MAE",
    "MSE",
    "Accuracy",
    "Callback",
    "CheckpointConfig",
    "DynamicLossScaleManager",
    "ConvertModelUtils",
    "ConvertNetUtils",
    "Fbeta",
    "FixedLossScaleManager",
    "History",
    "LambdaCallback",
    "Loss",
    "LossMonitor",
    "LossScaleManager",
    "Metric",
    "Model",
    "ModelCheckpoint",
    "Precision",
    "ProgressBar",
    "Recall",
    "RunContext",
    "TimeMonitor",
    "Top1CategoricalAccuracy",
    "Top5CategoricalAccuracy",
    "TopKCategoricalAccuracy",
    "get_metric_fn",
    "get_metrics",
    "load_checkpoint",
    "load_param_into_net",
    "names",
    "rearrange_inputs",
    "save_checkpoint",
    "wait_for_saves",
]
