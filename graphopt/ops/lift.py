"""From functions of nodes to functions of Tensors: `lift`.

The ops of this package are written once, on nodes, with everything `opdefs` offers. Lifted, such a function takes
Tensors wherever it took nodes (in tuples and lists too) and goes through `common.tensor.apply`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, ParamSpec, TypeVar

from graphopt.common.border import told
from graphopt.common.precision import ruled
from graphopt.common.signature import operand
from graphopt.common.tensor import Tensor, apply
from graphopt.errors import GraphError
from graphopt.ir.graph import Node
from graphopt.opdefs.opdef import REGISTRY

P = ParamSpec("P")
R = TypeVar("R")


class Lifted(Generic[P, R]):
    """A function of Tensors; `on_nodes` is the function of nodes it was made from."""

    __name__: str

    def __init__(self, on_nodes: Callable[P, R]):
        self.on_nodes = on_nodes
        functools.update_wrapper(self, on_nodes)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        done, result = ruled(self.__name__, self, args, kwargs)
        if done:
            return result
        tensors: list[Tensor] = []
        plan = _take_out((args, kwargs), tensors)
        rest: list[Any] = []

        def run(*nodes: Node) -> tuple[Node, ...]:
            given, named = _put_in(plan, nodes)
            made: list[Node] = []
            rest.append(_collect(self.on_nodes(*given, **named), made))
            return tuple(made)

        try:
            results = apply(run, *tensors)
        except Exception as error:
            raise told(self._detailed(error, args, kwargs), self.on_nodes, args, kwargs, self.__name__) from error.__cause__
        return _put_in(rest[-1], results)

    def _detailed(self, error: Exception, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Exception:
        """An error of the user's in this function's name, with the Tensors it was called with."""
        text = str(error)
        owner, colon, rest = text.partition(":")
        if not isinstance(error, GraphError) or "\n  called at" in text and owner not in REGISTRY:
            return error
        if colon and owner in REGISTRY and owner != self.__name__:
            text = f"{self.__name__}:{rest}"
        if "  input 0: " not in text:
            names = list(inspect.signature(self.on_nodes).parameters)
            given = [*zip(names, args, strict=False), *kwargs.items()]
            lines = [f"  {operand(n, v)}" for n, v in given if isinstance(v, Tensor)]
            what, newline, others = text.partition("\n")
            text = "\n".join([what, *lines]) + newline + others
        error.args = (text,)
        return error

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __repr__(self) -> str:
        return f"<function {self.on_nodes.__name__}>"


class _Place:
    """Where the k-th tensor stands in a structure."""

    __slots__ = ("k",)

    def __init__(self, k: int):
        self.k = k


def _take_out(value: Any, tensors: list[Tensor]) -> Any:
    """The structure with its Tensors, which are appended to `tensors`, replaced by places."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return _Place(len(tensors) - 1)
    if type(value) in (tuple, list):
        return type(value)(_take_out(v, tensors) for v in value)
    if type(value) is dict:
        return {k: _take_out(v, tensors) for k, v in value.items()}
    if isinstance(value, (tuple, list)) and any(isinstance(v, Tensor) for v in value):
        return tuple(_take_out(v, tensors) for v in value)
    return value


def _collect(value: Any, nodes: list[Node]) -> Any:
    if isinstance(value, Node):
        nodes.append(value)
        return _Place(len(nodes) - 1)
    if type(value) in (tuple, list):
        return type(value)(_collect(v, nodes) for v in value)
    return value


def _put_in(plan: Any, values: Any) -> Any:
    if isinstance(plan, _Place):
        return values[plan.k]
    if type(plan) in (tuple, list):
        return type(plan)(_put_in(v, values) for v in plan)
    if type(plan) is dict:
        return {k: _put_in(v, values) for k, v in plan.items()}
    return plan


def lift(on_nodes: Callable[P, R]) -> Lifted[P, R]:
    """Decorate a function of nodes, numbers and structures of them so that it takes and gives Tensors."""
    return Lifted(on_nodes)
