"""What gradient functions, Jacobians and `vmap` are: functions of a function, that run like a Cell does."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from graphopt import context
from graphopt.common import nan_check
from graphopt.common.api import Jitted
from graphopt.common.checks import found
from graphopt.common.compiled import CompiledFunction
from graphopt.common.row_tensor import RowTensor
from graphopt.common.signature import check_call, is_cell, leaves, parameters_of, refuse_array
from graphopt.common.tensor import Tensor, wrap_array
from graphopt.common.trace import Trace, active


class TracedFunction:
    """A function made of `fn` that needs a trace.

    In GRAPH_MODE, and when `fn` is a `jit` function, it is compiled once per signature (`compile_cache`); in
    PYNATIVE_MODE it runs at once. Inside a Cell or another such function it is traced along, so they nest.
    """

    def __init__(self, owner: str, fn: Any, name: str):
        self.fn = fn
        self._owner = owner
        self._steps: CompiledFunction | None = None
        self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not callable(self.fn):
            raise TypeError(f"{self._owner}: fn must be a Cell or a function, found {found(self.fn)}")
        if active() is not None:
            return self._inline(*args, **kwargs)
        if self._compiles():
            return self.compile_cache(args, kwargs)
        return at_once(self.__name__, lambda: self._inline(*args, **kwargs))[0]

    def _compiles(self) -> bool:
        """Whether an outermost call is compiled as a whole."""
        return context.graph_mode() or isinstance(self.fn, Jitted)

    @property
    def compile_cache(self) -> CompiledFunction:
        """The compiled signatures: `compiles`, `compilations`, `explain()`."""
        if self._steps is None:
            self._steps = CompiledFunction(self.__name__, self._inline, self._signature(), check=False)
        return self._steps

    def _signature(self) -> Any:
        return parameters_of(self.fn.construct if is_cell(self.fn) else self.fn)

    def _check_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Errors: TypeError when the arguments do not fit `fn`, or one is a numpy array."""
        signature = self._signature()
        names = list(signature.parameters) if signature is not None else []
        for k, value in enumerate([*args, *kwargs.values()]):
            if isinstance(value, np.ndarray):
                refuse_array(value, names[k] if k < len(names) else f"arg{k}", self.__name__)
        check_call(function_name(self.fn), signature, args, kwargs)

    def _inline(self, *args: Any, **kwargs: Any) -> Any:
        """The result, in the trace at hand."""
        raise NotImplementedError


def at_once(name: str, body: Callable[[], Any]) -> tuple[Any, Trace]:
    """The result of `body` in a trace with values, and the trace; Parameters change only when everything has succeeded."""
    trace = Trace(name, concrete=True)
    with trace.running():
        made = body()
        if nan_check.mode() == "first":
            outputs = [t._node for t in leaves(made) if t._node is not None]
            nan_check.check_values(name, outputs, [value for _, _, value in trace.updates()], trace.values)
        result = detached(made)
    trace.commit()
    return result, trace


def detached(value: Any) -> Any:
    """A result of a concrete trace as plain Tensors on memory of their own."""
    if isinstance(value, Tensor):
        return wrap_array(value._value("result").copy()) if value._node is not None or value._is_parameter else value
    if isinstance(value, RowTensor):
        return value.map_parts(detached)
    if isinstance(value, (tuple, list)):
        return type(value)(detached(v) for v in value)
    if isinstance(value, dict):
        return {k: detached(v) for k, v in value.items()}
    return value


def dense(value: Any) -> Any:
    """A nested result with its RowTensors as Tensors: one whose rows differ from example to example, or move, is none."""
    if isinstance(value, RowTensor):
        return value.to_dense()
    if isinstance(value, (tuple, list)):
        return type(value)(dense(v) for v in value)
    if isinstance(value, dict):
        return {k: dense(v) for k, v in value.items()}
    return value


def function_name(fn: Any) -> str:
    """The name of a function, or the class of a Cell."""
    name = getattr(fn, "__name__", None)
    return name if isinstance(name, str) else type(fn).__name__


_Made = TypeVar("_Made", bound=TracedFunction)


def kept(fn: Any, key: Any, make: Callable[[], _Made]) -> _Made:
    """What was made of `fn` before under this key, or a new one: what it compiled is found again.

    It lives on the function (or Cell, or a bound method's object) itself.
    """
    holder = fn
    if isinstance(fn, types.MethodType):
        holder, key = fn.__self__, (fn.__func__, key)
    home = getattr(holder, "__dict__", None)
    if home is None or isinstance(holder, type):
        return make()
    if "_gradient_functions" not in home:
        try:
            object.__setattr__(holder, "_gradient_functions", {})
        except (AttributeError, TypeError):
            return make()
    known: dict[Any, _Made] = holder._gradient_functions
    if key not in known:
        known[key] = make()
    return known[key]
