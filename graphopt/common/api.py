"""`jit`: compile a function or method as a whole, whatever the mode. `mutable` for containers that are differentiated."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, overload

from graphopt.common.branching import prepared
from graphopt.common.checks import check_bytes, check_choice, found
from graphopt.common.compiled import CompiledFunction
from graphopt.common.signature import parameters_of
from graphopt.common.symbol import ALL, Specs, check_specs
from graphopt.common.tensor import Tensor
from graphopt.common.trace import active

_MARK = "_graphopt_dynamic"
_OPTIONS = {
    "capture_mode": ("ast", "bytecode", "trace"),
    "jit_level": ("", "O0", "O1", "O2"),
    "dynamic": (0, 1),
    "fullgraph": (False, True),
    "backend": ("", "ms_backend", "GE"),
    "mode": ("PSJit", "PIJit"),
}


class Jitted:
    """A function that is traced and compiled once per signature; see `jit`."""

    def __init__(self, function: Callable[..., Any], budget: int | None = None, dynamic: bool = False):
        functools.update_wrapper(self, function, updated=())
        self.function = function
        name = getattr(function, "__name__", type(function).__name__)
        self.compile_cache = CompiledFunction(name, function, parameters_of(function), budget=budget)
        self._dynamic = dynamic
        self.compile_cache.declared = self._declared

    def _declared(self) -> Specs | str | None:
        """What `enable_dynamic` said of the arguments, or `dynamic`."""
        specs: Specs | None = getattr(self, _MARK, None) or getattr(self.function, _MARK, None)
        return specs or (ALL if self._dynamic else None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if active() is not None:
            return prepared(self.function)(*args, **kwargs)
        return self.compile_cache(args, kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __repr__(self) -> str:
        return f"<jit {self.compile_cache.name}>"


@overload
def jit(function: Callable[..., Any], *, memory_budget: str | int | None = None, **options: Any) -> Jitted: ...
@overload
def jit(
    function: None = None, *, memory_budget: str | int | None = None, **options: Any
) -> Callable[[Callable[..., Any]], Jitted]: ...
def jit(function: Callable[..., Any] | None = None, *, memory_budget: str | int | None = None, **options: Any) -> Any:
    """Compile a function or method as one native step per signature, in both modes.

    function: what to compile; left out when `jit` is used with options: `@jit(jit_level="O1")`.
    memory_budget: the most memory that temporaries of one call may take, "512MB" or a number of bytes; left out, the
              context's. Values are computed again where that is needed to stay below it, with the same results.
    dynamic:  1 when calls come with different numbers of rows, which then share a compile: the first Tensor's rows, and
              those of every argument that has as many.
    options:  capture_mode, jit_level, fullgraph, backend, and whatever else MindSpore's jit takes; checked and without
              effect.

    What a Cell's call counts as its signature counts here too. `compile_cache` on the result tells about the compiles.
    Errors: TypeError when function is not callable; ValueError for an option's unknown value, and at the first call for
            a memory_budget below the least possible, which it tells.

    >>> import graphopt as ms
    >>> @ms.jit
    ... def f(x, y):
    ...     return x * y + 1
    >>> print(f(ms.Tensor([1.0, 2.0]), ms.Tensor([3.0, 4.0])))
    [4. 9.]
    >>> f.compile_cache.compiles
    1
    """
    for name, value in options.items():
        if name in _OPTIONS:
            check_choice("jit", name, value, _OPTIONS[name])
    budget = None if memory_budget is None else check_bytes("jit", "memory_budget", memory_budget)
    if function is None:
        return lambda f: jit(f, memory_budget=budget, **options)
    dynamic = bool(options.get("dynamic", 0))
    if not callable(function):
        raise TypeError(f"jit: expected a function, found {function!r} of type {type(function).__name__}")
    if isinstance(function, Jitted):
        return function if budget is None and not dynamic else Jitted(function.function, budget, dynamic)
    return Jitted(function, budget, dynamic)


def enable_dynamic(**kwargs: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Say which arguments of a `jit` function have sizes that change from call to call; goes around or under `jit`.

    kwargs: a Tensor for an argument, `x=Tensor(shape=[None, 8], dtype=ms.float32)`. Calls with different first sizes
            share a compile; see `Cell.set_inputs`, which does the same for a Cell.
    Errors: ValueError without arguments, or for a name that the function does not have; TypeError for what is no function.

    >>> import graphopt as ms
    >>> @ms.enable_dynamic(x=ms.Tensor(shape=[None, 2], dtype=ms.float32))
    ... @ms.jit
    ... def total(x):
    ...     return x.sum(axis=0)
    >>> [total(ms.ops.ones((n, 2))).tolist() for n in (6, 3, 5)]
    [[6.0, 6.0], [3.0, 3.0], [5.0, 5.0]]
    >>> total.compile_cache.compiles
    1
    """
    if not kwargs:
        raise ValueError("enable_dynamic: expected arguments as names with Tensors, found none")

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        if not callable(function):
            raise TypeError(f"enable_dynamic: expected a function, found {found(function)}")
        check_specs("enable_dynamic", kwargs, parameters_of(function))
        setattr(function, _MARK, kwargs)
        return function

    return mark


class _MutableTuple(tuple[Any, ...]):
    """A tuple whose tensors are arguments to differentiate by."""


class _MutableList(list[Any]):
    """A list whose tensors are arguments to differentiate by."""


class _MutableDict(dict[Any, Any]):
    """A dict whose tensors are arguments to differentiate by."""


def mutable(input_data: Any, dynamic_len: bool = False) -> Any:
    """A container whose tensors count as arguments to differentiate by; tensors and numbers come back as they are.

    Errors: TypeError for another type, or when dynamic_len is no bool.

    >>> import graphopt as ms
    >>> ms.mutable((1, 2))
    (1, 2)
    """
    if not isinstance(dynamic_len, bool):
        raise TypeError(f"mutable: dynamic_len must be bool, found {dynamic_len!r} of type {type(dynamic_len).__name__}")
    for kind, made in ((tuple, _MutableTuple), (list, _MutableList), (dict, _MutableDict)):
        if isinstance(input_data, kind):
            return made(input_data)
    if isinstance(input_data, (Tensor, int, float)):
        return input_data
    what = "a tuple, list, dict, Tensor or number"
    raise TypeError(f"mutable: input_data must be {what}, found {input_data!r} of type {type(input_data).__name__}")


def is_mutable(value: Any) -> bool:
    """Whether `mutable` made this container."""
    return isinstance(value, (_MutableTuple, _MutableList, _MutableDict))
