"""Functions of this package that Tensors offer as methods."""

from __future__ import annotations

from types import ModuleType

from graphopt.common.tensor import Tensor
from graphopt.ops import activation, array, host, indexing, joining, math, products, reduction

METHODS: dict[ModuleType, str] = {
    activation: "gelu log_softmax relu silu softmax",
    array: "moveaxis movedim repeat_interleave stop_gradient type_as",
    host: "nonzero unique",
    indexing: "gather gather_elements index_select masked_fill select tril triu where",
    joining: "chunk flip narrow roll unbind",
    math: "acosh asinh atanh cosh erfc fmod isfinite log10 log2 sinh square tan xlogy",
    products: "addmm bmm mv outer",
    reduction: "count_nonzero cumsum logsumexp",
}


def attach() -> None:
    """Give Tensor the methods of the table that it has not yet."""
    for module, names in METHODS.items():
        for name in names.split():
            if not hasattr(Tensor, name):
                setattr(Tensor, name, getattr(module, name))
