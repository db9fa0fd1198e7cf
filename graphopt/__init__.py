"""graphopt: whole training steps of neural networks as native CPU code, under MindSpore's API."""

from graphopt import amp, common, context, control, dataset, nn, ops, train
from graphopt.amp import DynamicLossScaleManager, FixedLossScaleManager, LossScaleManager
from graphopt.common import dtype as mstype
from graphopt.common.api import Jitted, enable_dynamic, jit, mutable
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
from graphopt.common.row_tensor import RowTensor
from graphopt.common.seed import get_seed, set_seed
from graphopt.common.symbol import Symbol
from graphopt.common.tensor import Tensor, from_numpy, is_tensor
from graphopt.context import (
    COMPATIBLE,
    GRAPH_MODE,
    LAX,
    PYNATIVE_MODE,
    STRICT,
    get_context,
    reset_context,
    set_context,
    set_device,
)
from graphopt.ops.check_grads import check_grads
from graphopt.ops.composite import get_grad, grad, value_and_grad
from graphopt.ops.custom import CustomVjp, _Function, custom_vjp
from graphopt.ops.host import constexpr
from graphopt.ops.jacobian import jacfwd, jacrev, jvp, vjp
from graphopt.ops.random import get_rng_state, set_rng_state
from graphopt.ops.traced import TracedFunction
from graphopt.ops.vmap import vmap
from graphopt.train import (
    F1,
    MAE,
    MSE,
    Accuracy,
    Callback,
    CheckpointConfig,
    Fbeta,
    History,
    LambdaCallback,
    Loss,
    LossMonitor,
    Metric,
    Model,
    ModelCheckpoint,
    Precision,
    Recall,
    RunContext,
    TimeMonitor,
    Top1CategoricalAccuracy,
    Top5CategoricalAccuracy,
    TopKCategoricalAccuracy,
    get_metric_fn,
    load_checkpoint,
    load_param_into_net,
    names,
    rearrange_inputs,
    save_checkpoint,
)

dtype = mstype
tensor = Tensor

__version__ = "0.1.0"

__all__ = [
    "_Function",
    "Accuracy",
    "COMPATIBLE",
    "Callback",
    "F1",
    "Fbeta",
    "GRAPH_MODE",
    "History",
    "LAX",
    "LambdaCallback",
    "Loss",
    "LossMonitor",
    "MAE",
    "MSE",
    "Metric",
    "Model",
    "PYNATIVE_MODE",
    "CheckpointConfig",
    "DynamicLossScaleManager",
    "FixedLossScaleManager",
    "LossScaleManager",
    "ModelCheckpoint",
    "Parameter",
    "ParameterTuple",
    "Precision",
    "Recall",
    "RowTensor",
    "RunContext",
    "STRICT",
    "Symbol",
    "Tensor",
    "TimeMonitor",
    "Top1CategoricalAccuracy",
    "Top5CategoricalAccuracy",
    "TopKCategoricalAccuracy",
    "amp",
    "bfloat16",
    "bool_",
    "check_grads",
    "common",
    "constexpr",
    "context",
    "control",
    "custom_vjp",
    "dataset",
    "dtype",
    "dtype_to_nptype",
    "dtype_to_pytype",
    "enable_dynamic",
    "float16",
    "float32",
    "float64",
    "from_numpy",
    "get_context",
    "get_grad",
    "get_metric_fn",
    "get_rng_state",
    "get_seed",
    "grad",
    "int16",
    "int32",
    "int64",
    "int8",
    "is_tensor",
    "jacfwd",
    "jacrev",
    "jit",
    "jvp",
    "load_checkpoint",
    "load_param_into_net",
    "mstype",
    "mutable",
    "names",
    "nn",
    "ops",
    "pytype_to_dtype",
    "rearrange_inputs",
    "reset_context",
    "save_checkpoint",
    "set_context",
    "set_device",
    "set_rng_state",
    "set_seed",
    "tensor",
    "train",
    "uint16",
    "uint32",
    "uint64",
    "uint8",
    "value_and_grad",
    "vjp",
    "vmap",
]

for _package in (common, common.initializer, context, dataset, nn, ops, train):
    guard(vars(_package), _package.__name__)
for _class in (TracedFunction, CustomVjp, _Function, Jitted, dataset.pipeline.EpochIterator):
    guard_class(_class)
guard(globals(), __name__)
