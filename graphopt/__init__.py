"""graphopt: whole training steps of neural networks as native CPU code, under MindSpore's API."""

from graphopt import common, context, dataset, nn, ops, train
from graphopt.common import dtype as mstype
from graphopt.common.api import Jitted, jit, mutable
from graphopt.common.border import guard, guard_class
from graphopt.common.dtype import (
    bfloat16,
    bool_,
    dtype_to_nptype,
    dtype_to_pytype,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    pytype_to_dtype,
    uint8,
    uint16,
    uint32,
    uint64,
)
from graphopt.common.parameter import Parameter, ParameterTuple
from graphopt.common.seed import get_seed, set_seed
from graphopt.common.tensor import Tensor, from_numpy, is_tensor
from graphopt.context import GRAPH_MODE, PYNATIVE_MODE, get_context, reset_context, set_context
from graphopt.ops.composite import GradientFunction, get_grad, grad, value_and_grad
from graphopt.train import Callback, LossMonitor, Model, RunContext, TimeMonitor, get_metric_fn

dtype = mstype
tensor = Tensor

__version__ = "0.1.0"

__all__ = [
    "GRAPH_MODE",
    "PYNATIVE_MODE",
    "Callback",
    "LossMonitor",
    "Model",
    "Parameter",
    "ParameterTuple",
    "RunContext",
    "Tensor",
    "TimeMonitor",
    "bfloat16",
    "bool_",
    "common",
    "context",
    "dataset",
    "dtype",
    "dtype_to_nptype",
    "dtype_to_pytype",
    "float16",
    "float32",
    "float64",
    "from_numpy",
    "get_context",
    "get_grad",
    "get_metric_fn",
    "get_seed",
    "grad",
    "int8",
    "int16",
    "int32",
    "int64",
    "is_tensor",
    "jit",
    "mstype",
    "mutable",
    "nn",
    "ops",
    "pytype_to_dtype",
    "reset_context",
    "set_context",
    "set_seed",
    "tensor",
    "train",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "value_and_grad",
]

for _package in (common, common.initializer, context, dataset, nn, ops, train):
    guard(vars(_package), _package.__name__)
for _class in (GradientFunction, Jitted, dataset.pipeline.EpochIterator):
    guard_class(_class)
guard(globals(), __name__)
