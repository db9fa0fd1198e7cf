"""Tensors, Parameters, dtypes, tracing: what every other part of the public library stands on."""

from graphopt.common import arithmetic, indexing, methods
from graphopt.common.hooks import register_hook as _register_hook
from graphopt.common.initializer import initializer as _draw
from graphopt.common.parameter import Parameter, ParameterTuple
from graphopt.common.seed import get_seed, set_seed
from graphopt.common.tensor import Tensor, apply, from_numpy, is_tensor

Tensor._draw = staticmethod(_draw)
Tensor.register_hook = _register_hook  # type: ignore[method-assign, assignment]

__all__ = [
    "Parameter",
    "ParameterTuple",
    "Tensor",
    "apply",
    "arithmetic",
    "from_numpy",
    "get_seed",
    "indexing",
    "initializer",
    "is_tensor",
    "methods",
    "set_seed",
]
