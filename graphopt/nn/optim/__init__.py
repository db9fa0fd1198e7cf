"""Optimizers."""

from graphopt.nn.optim.adafactor import AdaFactor
from graphopt.nn.optim.adam import Adam
from graphopt.nn.optim.momentum import Momentum
from graphopt.nn.optim.optimizer import Optimizer
from graphopt.nn.optim.sgd import SGD
from graphopt.nn.optim.thor import thor

__all__ = ["SGD", "AdaFactor", "Adam", "Momentum", "Optimizer", "thor"]
