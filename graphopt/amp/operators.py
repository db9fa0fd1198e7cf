"""In which dtypes operators compute at the levels O1 and auto."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt import ops
from graphopt.common.dtype import float16, float32, float64
from graphopt.common.signature import leaves
from graphopt.common.tensor import Tensor
from graphopt.ir.types import DType

PRODUCTS = frozenset({"conv1d", "conv2d", "conv3d", "dense", "matmul", "bmm"})
WHITE = PRODUCTS | {"prelu", "relu", "outer"}
AUTO_WHITE = PRODUCTS | {"prelu", "addmm", "mv"}
AUTO_BLACK = frozenset({
    "pow", "acosh", "asinh", "atanh", "cosh", "exp", "expm1", "log", "log10", "log1p", "log2", "reciprocal", "rsqrt", "sinh",
    "tan", "softplus", "layer_norm", "group_norm", "rms_norm", "l2_normalize", "kl_div", "smooth_l1_loss", "l1_loss",
    "mse_loss", "huber_loss", "nll_loss", "cross_entropy", "binary_cross_entropy", "binary_cross_entropy_with_logits",
    "softmax_cross_entropy_with_logits", "softmax", "log_softmax", "softmin", "logsumexp", "prod", "sum", "reduce_sum", "cumsum",
    "norm", "mean", "std", "var",
})  # fmt: skip
AUTO_PROMOTE = frozenset({"addcdiv", "addcmul", "tensor_dot", "bias_add", "addn", "concat", "stack"})


@dataclass(frozen=True)
class OperatorRule:
    """A rule for `common.precision.computing_by`.

    narrow, wide: operators whose float32 or narrow inputs are cast to `dtype`, or to float32.
    promoted:     operators whose inputs are cast to the widest of theirs.
    widened:      whether what a narrow operator gives is cast to float32.
    """

    dtype: DType
    narrow: frozenset[str]
    wide: frozenset[str] = frozenset()
    promoted: frozenset[str] = frozenset()
    widened: bool = False

    def __call__(self, name: str, operator: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        kind = self._kind(name, (args, kwargs))
        if kind is None:
            return operator(*args, **kwargs)
        result = operator(*(in_kind(kind, a) for a in args), **{k: in_kind(kind, v) for k, v in kwargs.items()})
        return in_kind(float32, result) if self.widened and name in self.narrow else result

    def _kind(self, name: str, given: Any) -> DType | None:
        if name in self.narrow:
            return self.dtype
        if name in self.wide:
            return float32
        if name in self.promoted:
            floats = {t.dtype for t in leaves(given) if t.dtype.is_float}
            return None if len(floats) < 2 else float32 if floats - {float16} else float16
        return None


def in_kind(kind: DType, value: Any) -> Any:
    """Tensors of floats, but float64, nested in tuples, lists and dicts, in `kind`."""
    if isinstance(value, Tensor):
        return ops.cast(value, kind) if value.dtype.is_float and value.dtype not in (kind, float64) else value
    if isinstance(value, (tuple, list)):
        return type(value)(in_kind(kind, v) for v in value)
    return {k: in_kind(kind, v) for k, v in value.items()} if isinstance(value, dict) else value


def rule_of(level: str, dtype: DType) -> OperatorRule:
    """The rule of level O1 or auto."""
    if level == "O1":
        return OperatorRule(dtype, WHITE, widened=True)
    return OperatorRule(dtype, AUTO_WHITE, AUTO_BLACK, AUTO_PROMOTE)
