"""`tinyms.optimizers`: the optimizers of graphopt.nn under TinyMS's names.

>>> import graphopt as ms
>>> from graphopt.compat.tinyms import optimizers
>>> p = ms.Parameter(ms.Tensor([1.0, 2.0]), name="p")
>>> optimizers.SGD([p], learning_rate=0.5)((ms.Tensor([1.0, 1.0]),))
(True,)
>>> p.asnumpy().tolist()
[0.5, 1.5]
"""

from graphopt.nn.optim import (
    FTRL,
    LARS,
    SGD,
    Adagrad,
    Adam,
    AdamOffload,
    AdamWeightDecay,
    Lamb,
    LazyAdam,
    Momentum,
    Optimizer,
    ProximalAdagrad,
    RMSProp,
)

__all__ = [
    "FTRL",
    "LARS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamOffload",
    "AdamWeightDecay",
    "Lamb",
    "LazyAdam",
    "Momentum",
    "Optimizer",
    "ProximalAdagrad",
    "RMSProp",
]
