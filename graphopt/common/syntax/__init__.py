"""Python's own `if`, `while`, `for`, `and`, `or` and `not` on traced Tensors: rewriting a function's syntax tree."""

from graphopt.common.syntax.source import refusal, twin

__all__ = ["refusal", "twin"]
