"""Every primitive op, declared once. Importing this package fills and seals the registry."""

from graphopt.opdefs import (
    bits,
    control,
    conv,
    elementwise,
    factor,
    index,
    linalg,
    math,
    operators,
    random,
    reduce,
    rows,
    rule,
    shape,
    window,
)
from graphopt.opdefs.opdef import REGISTRY, opdef, seal

seal()

__all__ = [
    "REGISTRY",
    "bits",
    "control",
    "conv",
    "elementwise",
    "factor",
    "index",
    "linalg",
    "math",
    "opdef",
    "operators",
    "random",
    "reduce",
    "rows",
    "rule",
    "shape",
    "window",
]
