"""Mixed precision: narrow floats in networks, and scaling the loss so that small gradients survive them."""

from graphopt.amp.manager import DynamicLossScaleManager, FixedLossScaleManager, LossScaleManager
from graphopt.amp.mixed import (
    auto_mixed_precision,
    build_train_network,
    custom_mixed_precision,
    get_black_list,
    get_white_list,
)
from graphopt.amp.scaler import DynamicLossScaler, LossScaler, StaticLossScaler
from graphopt.ops.finite import all_finite

__all__ = [
    "DynamicLossScaleManager",
    "DynamicLossScaler",
    "FixedLossScaleManager",
    "LossScaleManager",
    "LossScaler",
    "StaticLossScaler",
    "all_finite",
    "auto_mixed_precision",
    "build_train_network",
    "custom_mixed_precision",
    "get_black_list",
    "get_white_list",
]
