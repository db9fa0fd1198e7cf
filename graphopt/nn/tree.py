"""What is in a Cell: the Cells and Parameters below it, by name and path."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, cast

from graphopt.common.parameter import PARAMETER_NAME_DEFAULT, Parameter
from graphopt.errors import NamingError

if TYPE_CHECKING:
    from graphopt.nn.cell import Cell


class CellTree:
    """The part of a Cell that knows its children and Parameters."""

    _cells: dict[str, Cell | None]
    _params: dict[str, Parameter]

    def _label(self) -> str:
        """What error messages call it."""
        return type(self).__name__

    def insert_param_to_cell(self, param_name: str, param: Parameter, check_name_contain_dot: bool = True) -> None:
        """Add a Parameter; a nameless one is named param_name.

        Errors: AttributeError before `Cell.__init__`; TypeError for something that is no Parameter; KeyError for an
                empty name, one with a '.', or one in use for something else.
        """
        if "_params" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__}: call super().__init__() before assigning {param_name!r}")
        if not isinstance(param_name, str):
            raise TypeError(f"insert_param_to_cell: param_name must be str, found {param_name!r}")
        if not isinstance(param, Parameter):
            raise TypeError(f"insert_param_to_cell: param must be Parameter, found {param!r} of type {type(param).__name__}")
        if not param_name or (check_name_contain_dot and "." in param_name):
            raise NamingError(f"insert_param_to_cell: param_name must be a name without '.', found {param_name!r}")
        if param_name in self.__dict__ or param_name in self._cells:
            raise NamingError(f"insert_param_to_cell: {param_name!r} is in use for something that is no Parameter")
        if param.name == PARAMETER_NAME_DEFAULT:
            param.name = param_name
        self._params[param_name] = param

    def update_parameters_name(self, prefix: str = "", recurse: bool = True) -> None:
        """Name the parameters `prefix` + the path to them.

        Errors: TypeError for a prefix that is no str.
        """
        if not isinstance(prefix, str):
            raise TypeError(f"update_parameters_name: prefix must be str, found {prefix!r} of type {type(prefix).__name__}")
        for name, param in self.parameters_and_names(expand=recurse):
            param.name = prefix + name

    def cells(self) -> Iterable[Cell]:
        """The direct child Cells."""
        return self.name_cells().values()

    def name_cells(self) -> OrderedDict[str, Cell]:
        """The direct child Cells by name."""
        found: OrderedDict[str, Cell] = OrderedDict()
        for name, child in self._cells.items():
            if child is not None and all(child is not other for other in found.values()):
                found[name] = child
        return found

    def cells_and_names(self, cells: set[int] | None = None, name_prefix: str = "") -> Iterator[tuple[str, Cell]]:
        """(path, Cell) for this Cell and all below it, each Cell once."""
        seen = set() if cells is None else cells
        if id(self) in seen:
            return
        seen.add(id(self))
        yield name_prefix, cast("Cell", self)
        for name, child in self._cells.items():
            if child is not None:
                yield from child.cells_and_names(seen, f"{name_prefix}.{name}" if name_prefix else name)

    def parameters_and_names(self, name_prefix: str = "", expand: bool = True) -> Iterator[tuple[str, Parameter]]:
        """(path, Parameter) of this Cell and, with expand, of all below it; each Parameter once."""
        found = self.cells_and_names(name_prefix=name_prefix) if expand else [(name_prefix, self)]
        seen: set[int] = set()
        for path, child in found:
            for name, param in child._params.items():
                if id(param) not in seen:
                    seen.add(id(param))
                    yield (f"{path}.{name}" if path else name), param

    def get_parameters(self, expand: bool = True) -> Iterator[Parameter]:
        """The Parameters of this Cell and, with expand, of all below it."""
        for _, param in self.parameters_and_names(expand=expand):
            yield param

    def trainable_params(self, recurse: bool = True) -> list[Parameter]:
        """The Parameters that training changes."""
        return [p for p in self.get_parameters(expand=recurse) if p.requires_grad]

    def untrainable_params(self, recurse: bool = True) -> list[Parameter]:
        """The Parameters that training leaves alone."""
        return [p for p in self.get_parameters(expand=recurse) if not p.requires_grad]

    def parameters_dict(self, recurse: bool = True) -> OrderedDict[str, Parameter]:
        """The Parameters by their names."""
        return OrderedDict((p.name, p) for p in self.get_parameters(expand=recurse))

    def init_parameters_data(self, auto_parallel_mode: bool = False) -> dict[Parameter, Parameter]:
        """Every Parameter as its own replacement: initial values are drawn when a Parameter is made."""
        return {p: p for p in self.get_parameters()}

    def check_names(self) -> None:
        """Check that no two Parameters have the same name.

        Errors: ValueError naming the first that do.
        """
        names: dict[str, Parameter] = {}
        for param in self.get_parameters():
            if names.setdefault(param.name, param) is not param:
                raise ValueError(f"{self._label()}: two different Parameters are named {param.name!r}; rename one")
