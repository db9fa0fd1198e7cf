"""Optimizers."""

from graphopt.nn.optim.adadelta import Adadelta
from graphopt.nn.optim.adafactor import AdaFactor
from graphopt.nn.optim.adagrad import Adagrad, ProximalAdagrad
from graphopt.nn.optim.adam import Adam
from graphopt.nn.optim.adam_offload import AdamOffload
from graphopt.nn.optim.adam_weight_decay import AdamWeightDecay
from graphopt.nn.optim.adamax import AdaMax
from graphopt.nn.optim.asgd import ASGD
from graphopt.nn.optim.ftrl import FTRL
from graphopt.nn.optim.lamb import Lamb
from graphopt.nn.optim.lars import LARS
from graphopt.nn.optim.lazy_adam import LazyAdam
from graphopt.nn.optim.momentum import Momentum
from graphopt.nn.optim.optimizer import Optimizer
from graphopt.nn.optim.rmsprop import RMSProp
from graphopt.nn.optim.rprop import Rprop
from graphopt.nn.optim.sgd import SGD
from graphopt.nn.optim.thor import thor

__all__ = [
    "ASGD",
    "FTRL",
    "LARS",
    "SGD",
    "AdaMax",
    "Adadelta",
    "Adagrad",
    "AdaFactor",
    "Adam",
    "AdamOffload",
    "AdamWeightDecay",
    "Lamb",
    "LazyAdam",
    "Momentum",
    "Optimizer",
    "ProximalAdagrad",
    "RMSProp",
    "Rprop",
    "thor",
]
