"""MindSpore's loop operators: `WhileLoop`, `ForiLoop`, `Scan`. In GRAPH_MODE they are `graphopt.control`'s loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphopt import control
from graphopt.common.checks import found
from graphopt.common.regions import NUMBERS, Structure
from graphopt.common.tensor import Tensor
from graphopt.common.trace import active
from graphopt.errors import DTypeError, TraceError, layout
from graphopt.ops.primitives import Primitive, signature_of
from graphopt.where import here


class WhileLoop(Primitive):
    """`while cond_func(value): value = loop_func(value)`, and the last value; called as (cond_func, loop_func, init_val).

    init_val: a Tensor, number or bool, or tuples, lists and dicts of them; loop_func keeps structure, shapes and dtypes.
              In GRAPH_MODE numbers become Tensors. For a gradient use `graphopt.control.while_loop` with a bound.

    Errors: TypeError when cond_func or loop_func is no function; ValueError when loop_func changes the type of the value.

    >>> import graphopt as ms
    >>> ms.ops.WhileLoop()(lambda x: x < 100, lambda x: x + 1, 10)
    100
    """

    _arguments = signature_of("")

    def __call__(self, cond_func: Callable[[Any], Any], loop_func: Callable[[Any], Any], init_val: Any) -> Any:
        _functions("WhileLoop", cond_func=cond_func, loop_func=loop_func)
        if _traces():
            return control.while_loop(cond_func, loop_func, init_val)
        while cond_func(init_val):
            init_val = loop_func(init_val)
        return init_val


class ForiLoop(Primitive):
    """`for i in range(lower, upper): value = loop_func(i, value)`, and the last value; called as
    (lower, upper, loop_func, init_val, unroll=True).

    lower, upper:  ints, or integer Tensors with one element.
    loop_func:     a function of (index, value). In GRAPH_MODE index is an int64 Tensor; where loop_func needs an int, as
                   to pick from a list of Cells, and lower and upper are ints, the loop is unrolled, unless unroll is False.

    Errors: TypeError when lower or upper is no integer, or loop_func no function; ValueError when loop_func changes the
            type of the value.

    >>> import graphopt as ms
    >>> ms.ops.ForiLoop()(0, 4, lambda index, total: index + total, 0)
    6
    """

    _arguments = signature_of("")

    def __call__(self, lower: Any, upper: Any, loop_func: Callable[[Any, Any], Any], init_val: Any, unroll: bool = True) -> Any:
        for name, value in (("lower", lower), ("upper", upper)):
            if isinstance(value, bool) or not isinstance(value, (int, Tensor)):
                raise DTypeError(layout(f"ForiLoop: {name} must be an int or a Tensor, found {found(value)}", here()))
        _functions("ForiLoop", loop_func=loop_func)
        if _traces():
            try:
                return control.fori_loop(lower, upper, loop_func, init_val)
            except TraceError:
                if not unroll or isinstance(lower, Tensor) or isinstance(upper, Tensor):
                    raise
        for index in range(int(lower), int(upper)):
            init_val = loop_func(index, init_val)
        return init_val


class Scan(Primitive):
    """`for x in xs: carry, y = loop_func(carry, x)`: (the last carry, a list of all y); called as
    (loop_func, init, xs, length=None, unroll=True).

    xs:     a list or tuple with what every trip gets: Tensors or numbers of one type, or tuples, lists, dicts of them.
            None: loop_func gets None, `length` times.
    unroll: as in `ForiLoop`; elements of different types are unrolled too.

    Errors: TypeError when loop_func is no function, xs no list or tuple, length no int; ValueError when loop_func does
            not return two values, or changes the type of the carry.

    >>> import graphopt as ms
    >>> ms.ops.Scan()(lambda total, x: (total + x, total + x), 0, [1, 2, 3, 4])
    (10, [1, 3, 6, 10])
    """

    _arguments = signature_of("")

    def __call__(
        self, loop_func: Callable[[Any, Any], Any], init: Any, xs: Any, length: int | None = None, unroll: bool = True
    ) -> tuple[Any, list[Any]]:
        _functions("Scan", loop_func=loop_func)
        if xs is not None and not isinstance(xs, (list, tuple)):
            hint = "graphopt.control.scan takes Tensors and goes along axis 0"
            raise DTypeError(layout(f"Scan: xs must be a list, a tuple or None, found {found(xs)}", here(), hint=hint))
        if xs is None and (isinstance(length, bool) or not isinstance(length, int)):
            raise DTypeError(layout(f"Scan: length must be an int when xs is None, found {found(length)}", here()))
        elements = [None] * (length or 0) if xs is None else list(xs)
        if not elements:
            return init, []
        if _traces():
            try:
                return _scan(loop_func, init, elements)
            except TraceError:
                if not unroll:
                    raise
        results = []
        for x in elements:
            init, y = control.pair("Scan: loop_func", loop_func(init, x))
            results.append(y)
        return init, results


def _scan(loop_func: Callable[[Any, Any], Any], init: Any, elements: list[Any]) -> tuple[Any, list[Any]]:
    """As one loop, along the stacked elements.

    Errors: TraceError when the elements are not all of one type.
    """
    parts = [Structure(x) for x in elements]
    first = parts[0]
    for part in parts[1:]:
        same = (part.paths, part.fixed) == (first.paths, first.fixed)
        if not same or [t._type for t in part.tensors] != [t._type for t in first.tensors]:
            raise TraceError(layout("Scan: with unroll=False the elements of xs must have one type", here()))
    rows = [control.stacked([p.tensors[k] for p in parts]) for k in range(len(first.tensors))]
    carry, ys = control.scan(loop_func, init, first.fill(rows), length=len(elements))
    result = Structure(ys)
    return carry, [result.fill([t[k] for t in result.tensors]) for k in range(len(elements))]


def _traces() -> bool:
    trace = active()
    return trace is not None and not trace.concrete


def _functions(owner: str, **functions: Any) -> None:
    for name, function in functions.items():
        if not callable(function) or isinstance(function, (type, *NUMBERS)):
            raise DTypeError(layout(f"{owner}: {name} must be a function, found {found(function)}", here()))


__all__ = ["ForiLoop", "Scan", "WhileLoop"]
