"""Mixed precision: scaling the loss so that small gradients survive narrow floats."""

from graphopt.amp.manager import DynamicLossScaleManager, FixedLossScaleManager, LossScaleManager
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
]
