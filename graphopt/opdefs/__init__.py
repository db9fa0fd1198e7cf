"""Every primitive op, declared once. Importing this package fills and seals the registry."""

from graphopt.opdefs import conv, elementwise, index, linalg, random, reduce, shape, window
from graphopt.opdefs.opdef import REGISTRY, opdef, seal

seal()

__all__ = ["REGISTRY", "conv", "elementwise", "index", "linalg", "opdef", "random", "reduce", "shape", "window"]
