"""Networks: Cell, layers, losses, optimizers."""

from graphopt.nn.cell import Cell
from graphopt.nn.container import CellList, SequentialCell

__all__ = ["Cell", "CellList", "SequentialCell"]
