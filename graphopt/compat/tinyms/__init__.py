"""TinyMS's names."""

from graphopt.compat.tinyms import optimizers

__all__ = ["optimizers"]
