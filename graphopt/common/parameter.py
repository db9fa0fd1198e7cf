"""Parameter: a named tensor that persists. Reading it in a trace makes it state, assigning makes an update."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from graphopt.common.dtype import check_dtype
from graphopt.common.journal import note
from graphopt.common.tensor import Tensor, bump, to_array, to_tensor, type_of, wrap_array, wrap_node
from graphopt.common.trace import active, needs_value
from graphopt_runtime.buffers import aligned_empty

PARAMETER_NAME_DEFAULT = "Parameter"
_numbers = itertools.count()


class Parameter(Tensor):
    """A tensor that belongs to a network: it has a name, keeps its memory, and steps update it in place.

    default_input: the initial value: Tensor, numpy array, number or list.
    name:          its name; a Cell names nameless ones by their attribute and prefixes those of its children.
    requires_grad: whether training changes it; gradients by a Parameter without are zeros.
    layerwise_parallel, parallel_optimizer, storage_format, device: kept, without meaning on one CPU.

    Errors: TypeError for a wrong kind of argument; ValueError for an empty name.

    >>> import graphopt as ms
    >>> ms.Parameter(ms.Tensor([1.0, 2.0]), name="w")
    Parameter (name=w, shape=(2,), dtype=Float32, requires_grad=True)
    """

    _is_parameter = True
    _settled = False  # whether a compiled step relies on values found by its `common.trace.Settling`

    def __init__(
        self,
        default_input: Any,
        name: str | None = None,
        requires_grad: bool = True,
        layerwise_parallel: bool = False,
        parallel_optimizer: bool = True,
        storage_format: str = "",
        device: Any = None,
    ):
        for flag, value in (("requires_grad", requires_grad), ("layerwise_parallel", layerwise_parallel)):
            if not isinstance(value, bool):
                raise TypeError(f"Parameter: {flag} must be bool, found {value!r} of type {type(value).__name__}")
        array = to_array(default_input)
        storage = aligned_empty(array.shape, array.dtype)
        storage[...] = array
        self._bind(storage)
        self._requires_grad = requires_grad
        self.layerwise_parallel = layerwise_parallel
        self.parallel_optimizer = parallel_optimizer
        self._number = next(_numbers)
        self._named = name is not None
        self.name = name

    @property
    def name(self) -> str:
        """The name; unique within a network."""
        return self._name

    @name.setter
    def name(self, name: str | None) -> None:
        if name is None:
            name = PARAMETER_NAME_DEFAULT
        if not isinstance(name, str):
            raise TypeError(f"Parameter: name must be str or None, found {name!r} of type {type(name).__name__}")
        if not name.strip():
            raise ValueError(f"Parameter: name must not be empty, found {name!r}")
        self._named = self._named or name != PARAMETER_NAME_DEFAULT
        self._name = name

    @property
    def requires_grad(self) -> bool:
        """Whether training changes it."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise TypeError(f"Parameter: requires_grad must be bool, found {value!r} of type {type(value).__name__}")
        if value is not self._requires_grad:
            self._requires_grad = value
            self._structure_changed()

    @property
    def key(self) -> int:
        """A number of its own, in the order of construction."""
        return self._number

    @property
    def data(self) -> Parameter:
        """The Parameter itself."""
        return self

    def _structure_changed(self) -> None:
        self._version += 1
        bump()

    # values ---------------------------------------------------------------------------------------------------

    def _data(self) -> np.ndarray:
        """The storage itself, which steps update in place."""
        assert self._array is not None
        return self._array

    def _value(self, what: str, hint: str = "") -> np.ndarray:
        trace = active()
        if trace is None:
            return self._data()
        if not trace.concrete:
            hint = hint or "use tensor operations instead, or run in PYNATIVE_MODE, where tensors have values"
            raise needs_value(f"{what} of Parameter {self.name}", self, hint)
        return trace.values[trace.read(self)]

    def asnumpy(self) -> np.ndarray:
        """A copy of the values."""
        return self._value("asnumpy()").copy()

    def numpy(self) -> np.ndarray:
        """The same as `asnumpy()`."""
        return self.asnumpy()

    def value(self) -> Tensor:
        """The value as a Tensor that later steps do not change."""
        return self.copy()

    def copy(self) -> Tensor:
        """The value as a Tensor that later steps do not change."""
        trace = active()
        if trace is not None:
            return wrap_parameter(self)
        return wrap_array(self._data().copy())

    def _assign(self, value: Tensor) -> None:
        if value.shape != self.shape:
            raise ValueError(f"Parameter {self.name}: expected a value of shape {self.shape}, found {value.shape}")
        trace = active()
        if trace is not None:
            converted = value if value.dtype is self.dtype else value.astype(self.dtype)
            trace.write(self, trace.node_of(converted))
        else:
            source = value._value("assignment")
            note(self)
            self._data()[...] = source if value.dtype is self.dtype else value.astype(self.dtype)._value("")
            if self._settled:
                self._settled = False
                bump()

    def set_data(self, data: Any, slice_shape: bool = False) -> Parameter:
        """Take over the value of `data`, converted to the Parameter's dtype; with slice_shape also another shape.

        Errors: TypeError for something that is no Tensor, number or Initializer's tensor, or a float value for an
                integer Parameter; ValueError for another shape.
        """
        if not isinstance(data, (Tensor, int, float)):
            kind = type(data).__name__
            raise TypeError(f"Parameter {self.name}: data must be a Tensor or a number, found {data!r} of type {kind}")
        value = to_tensor(data)
        if value.dtype.is_float and not self.dtype.is_float:
            raise TypeError(f"Parameter {self.name}: a {self.dtype!r} Parameter cannot take {value.dtype!r} data; cast it")
        if value.shape != self.shape and slice_shape and active() is None:
            self._restore(value._value("set_data").astype(self.dtype.numpy))
        else:
            self._assign(value)
        return self

    def set_dtype(self, dtype: Any) -> Parameter:
        """Change the dtype; the values are converted."""
        self._restore(self._data().astype(check_dtype("Parameter.set_dtype", dtype).numpy))
        return self

    def _restore(self, array: np.ndarray) -> None:
        """New storage of another type."""
        storage = aligned_empty(array.shape, array.dtype)
        storage[...] = array
        self._array = storage
        self._type = type_of(array)
        self._structure_changed()

    def init_data(self, *_: Any, **__: Any) -> Parameter:
        """The Parameter itself: initial values are drawn when it is made."""
        return self

    def clone(self, init: Any = "same") -> Parameter:
        """A new Parameter of the same name, type and flags; its value is the same or drawn from `init`."""
        value: Any = self.copy() if isinstance(init, str) and init == "same" else Tensor._draw(init, self.shape, self.dtype)
        return Parameter(value, self.name, self.requires_grad, self.layerwise_parallel, self.parallel_optimizer)

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        made = self.clone()
        memo[id(self)] = made
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return (Parameter, (self.asnumpy(), self.name, self.requires_grad, self.layerwise_parallel))

    def __repr__(self) -> str:
        return f"Parameter (name={self.name}, shape={self.shape}, dtype={self.dtype!r}, requires_grad={self.requires_grad})"

    __str__ = __repr__


def wrap_parameter(parameter: Parameter) -> Tensor:
    """The Tensor of the parameter's current value in the trace at hand."""
    trace = active()
    assert trace is not None
    return wrap_node(trace.read(parameter), trace)


class ParameterTuple(tuple[Parameter, ...]):
    """A tuple of Parameters.

    Errors: TypeError for an element that is no Parameter; ValueError for two different ones of the same name.
    """

    def __new__(cls, iterable: Iterable[Parameter]) -> ParameterTuple:
        items = tuple(iterable)
        names: dict[str, Parameter] = {}
        for k, item in enumerate(items):
            if not isinstance(item, Parameter):
                raise TypeError(f"ParameterTuple: element {k} must be a Parameter, found {item!r} of type {type(item).__name__}")
            if names.setdefault(item.name, item) is not item and item.name != PARAMETER_NAME_DEFAULT:
                raise ValueError(f"ParameterTuple: two different Parameters are named {item.name!r}; rename one")
        return super().__new__(cls, items)

    def clone(self, prefix: str, init: Any = "same") -> ParameterTuple:
        """Clones of all, named `prefix.<name>`.

        Errors: TypeError when prefix is no str.
        """
        if not isinstance(prefix, str):
            raise TypeError(f"ParameterTuple.clone: prefix must be str, found {prefix!r} of type {type(prefix).__name__}")
        made = []
        for item in self:
            clone = item.clone(init)
            clone.name = f"{prefix}.{item.name}"
            made.append(clone)
        return ParameterTuple(made)
