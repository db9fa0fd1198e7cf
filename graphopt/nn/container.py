"""Cells that hold other Cells in order: `SequentialCell` runs them, `CellList` only keeps them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from graphopt.common.checks import found
from graphopt.nn.cell import Cell


def _check_cell(owner: str, cell: Any) -> Cell:
    if not isinstance(cell, Cell):
        raise TypeError(f"{owner}: each element must be a Cell, found {found(cell)}")
    return cell


def _position(owner: str, index: Any, count: int, end: int = 0) -> int:
    """A non-negative position.

    Errors: TypeError when it is no int, IndexError when it is out of range.
    """
    if isinstance(index, bool) or not isinstance(index, int):
        raise TypeError(f"{owner}: an index must be int or slice, found {found(index)}")
    if not -count <= index < count + end:
        raise IndexError(f"{owner}: index {index} is out of range for {count} Cells")
    return index % count if count and index != count else index


class _Ordered(Cell):
    """Children named by their position."""

    def _refill(self, cells: Iterable[Cell]) -> None:
        self._note_change("cells", list(cells := list(cells)))
        self._cells = OrderedDict((str(k), c) for k, c in enumerate(cells))
        for name, child in self._cells.items():
            assert child is not None
            child._scope_name = name
            if self._auto_prefix:
                child.update_parameters_name(name + ".")

    def _listed(self) -> list[Cell]:
        return [c for c in self._cells.values() if c is not None]

    def __getitem__(self, index: Any) -> Any:
        cells = self._listed()
        if isinstance(index, slice):
            return self._part(index)
        if isinstance(index, str) and index in self._cells:
            return self._cells[index]
        return cells[_position(type(self).__name__, index, len(cells))]

    def _part(self, index: slice) -> Any:
        """Some of the children in a container of the same class; they keep the names of their parameters."""
        made = type(self).__new__(type(self))
        Cell.__init__(made, auto_prefix=False)
        items = list(self._cells.items())[index]
        names = [name for name, _ in items] if self._named() else [str(k) for k in range(len(items))]
        made._cells = OrderedDict(zip(names, (cell for _, cell in items), strict=True))
        return made

    def _named(self) -> bool:
        return list(self._cells) != [str(k) for k in range(len(self._cells))]

    def __setitem__(self, index: int, cell: Cell) -> None:
        names = list(self._cells)
        name = names[_position(type(self).__name__, index, len(names))]
        child = _check_cell(type(self).__name__, cell)
        self._note_change(name, child)
        self._cells[name] = child
        child._scope_name = name
        if self._auto_prefix:
            child.update_parameters_name(name + ".")

    def __delitem__(self, index: Any) -> None:
        items = list(self._cells.items())
        named = self._named()
        if isinstance(index, slice):
            del items[index]
        else:
            del items[_position(type(self).__name__, index, len(items))]
        if named:
            self._note_change("cells", [c for _, c in items])
            self._cells = OrderedDict(items)
        else:
            self._refill([c for _, c in items if c is not None])

    def __len__(self) -> int:
        return len(self._cells)

    def __iter__(self) -> Iterator[Cell]:
        return iter(self._listed())

    def __bool__(self) -> bool:
        return len(self) != 0

    def append(self, cell: Cell) -> Any:
        """Add a Cell at the end."""
        self._refill([*self._listed(), _check_cell(type(self).__name__, cell)])
        return self

    def extend(self, cells: Iterable[Cell]) -> Any:
        """Add several Cells at the end.

        Errors: TypeError when `cells` is no list.
        """
        if not isinstance(cells, (list, tuple, Cell)):
            raise TypeError(f"{type(self).__name__}: extend expects a list of Cells, found {cells!r}")
        self._refill([*self._listed(), *(_check_cell(type(self).__name__, c) for c in cells)])  # type: ignore[union-attr]
        return self

    def insert(self, index: int, cell: Cell) -> None:
        """Add a Cell before position `index`."""
        cells = self._listed()
        where = _position(type(self).__name__, index, len(cells), 1)
        self._refill([*cells[:where], _check_cell(type(self).__name__, cell), *cells[where:]])


class SequentialCell(_Ordered):
    """Runs Cells one after the other, each on the result of the one before.

    args: Cells, or one list of them, or one OrderedDict from names to Cells.
    Errors: TypeError for an element that is no Cell.

    >>> import graphopt as ms
    >>> print(ms.nn.SequentialCell(ms.nn.ReLU(), ms.nn.ReLU())(ms.Tensor([-1.0, 2.0])))
    [0. 2.]
    """

    def __init__(self, *args: Any):
        super().__init__()
        if len(args) == 1 and isinstance(args[0], OrderedDict):
            for name, cell in args[0].items():
                self.insert_child_to_cell(name, _check_cell("SequentialCell", cell))
                cell.update_parameters_name(name + ".")
        else:
            cells = args[0] if len(args) == 1 and isinstance(args[0], (list, tuple)) else args
            self._refill([_check_cell("SequentialCell", c) for c in cells])

    def set_grad(self, flag: bool = True) -> Cell:
        """Note for this Cell and its children that they will be differentiated."""
        for cell in self._listed():
            cell.set_grad(flag)
        return super().set_grad(flag)

    def construct(self, input_data: Any) -> Any:
        """The last Cell's result."""
        for cell in self._listed():
            input_data = cell(input_data)
        return input_data


class CellList(_Ordered):
    """A list of Cells whose Parameters belong to the Cell it is assigned to; it cannot be called.

    args: Cells, or one list of them. auto_prefix: whether Parameters are named after the path to them.
    Errors: TypeError for an element that is no Cell.

    >>> import graphopt as ms
    >>> len(ms.nn.CellList([ms.nn.ReLU(), ms.nn.Tanh()]))
    2
    """

    def __init__(self, *args: Any, auto_prefix: bool = True):
        super().__init__(auto_prefix)
        cells = args[0] if len(args) == 1 and isinstance(args[0], (list, tuple)) else args
        self._refill([_check_cell("CellList", c) for c in cells])

    def construct(self, *inputs: Any) -> Any:
        """Nothing: a CellList only holds Cells.

        Errors: NotImplementedError always.
        """
        raise NotImplementedError("CellList: it cannot be called; call its Cells")
