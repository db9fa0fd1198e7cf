"""The operator classes alone: `from graphopt.ops import operations as P; P.MatMul()`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.ops.primitives import CLASSES, Primitive

globals().update(CLASSES, Primitive=Primitive)

if TYPE_CHECKING:

    def __getattr__(name: str) -> type[Primitive]:
        """The classes made from the tables, under their names."""
