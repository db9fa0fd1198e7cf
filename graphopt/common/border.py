"""The border between the user's program and graphopt. An error that crosses it names the user's line and Cell, says
which argument was at fault, and shows the user's frames alone.

`border` wraps one function, `guard` the public functions and methods of a namespace. Outside of an error a wrapper
costs a call. With GRAPHOPT_DEBUG=1 or more nothing is taken out of tracebacks; nothing ever is when graphopt itself
is at fault.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import types
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, TypeVar

from graphopt import config
from graphopt.common.signature import parameters_of, refuse_value, wrong_call
from graphopt.common.tensor import Tensor
from graphopt.errors import CompileError, DTypeError, GraphError, VerifyError, layout
from graphopt.where import Where, here, in_cell, is_ours

F = TypeVar("F", bound=Callable[..., Any])

_THEIRS = (GraphError, TypeError, ValueError, IndexError, KeyError, AttributeError, RuntimeError, OverflowError)
_OURS = (VerifyError, CompileError, RecursionError)
_MARK = "_graphopt_border"
_INNER = frozenset(("__getattribute__", "__getattr__", "__hash__", "__init_subclass__", "__set_name__", "__reduce__"))
_COVERED = frozenset(("__call__", "construct", "bprop"))


def border(function: F) -> F:
    """`function`, whose errors are told as the user needs them; see `told`."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def steps(*args: Any, **kwargs: Any) -> Any:
            try:
                yield from function(*args, **kwargs)
            except Exception as error:
                raise told(error, function, args, kwargs) from error.__cause__

        wrapper: Any = steps
    else:

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                raise told(error, function, args, kwargs) from error.__cause__

        wrapper = call
    setattr(wrapper, _MARK, True)
    return wrapper


def guard(names: MutableMapping[str, Any], package: str) -> None:
    """Put a border around the public functions of a namespace, and around the methods of its classes.

    package: functions count as living there from now on, so that they can be pickled by name.
    """
    for name, value in list(names.items()):
        if name.startswith("_") or hasattr(value, _MARK):
            continue
        if isinstance(value, types.FunctionType) and value.__module__.startswith("graphopt."):
            names[name] = border(value)
            if value.__name__ == name:
                names[name].__module__ = package
        elif isinstance(value, type):
            for cls in value.__mro__:
                if cls.__module__.startswith("graphopt."):
                    guard_class(cls)


def guard_class(cls: type) -> None:
    """Put a border around a class's constructor, public methods, properties' setters and operators, in place."""
    if issubclass(cls, Exception):
        return
    for name, value in list(vars(cls).items()):
        hidden = name.startswith("_") and not name.startswith("__")
        covered = name in _COVERED and hasattr(cls, "construct")  # a Cell's call looks after itself
        if hidden or covered or name in _INNER or hasattr(value, _MARK):
            continue
        if isinstance(value, types.FunctionType):
            setattr(cls, name, border(value))
        elif isinstance(value, staticmethod):
            setattr(cls, name, staticmethod(border(value.__func__)))
        elif isinstance(value, property) and value.fset is not None and not hasattr(value.fset, _MARK):
            setattr(cls, name, value.setter(border(value.fset)))


def told(
    error: Exception, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], owner: str = ""
) -> Exception:
    """The error to raise instead of one that has come up to a border: the same one, or one that says more.

    An error raised by the user's own code keeps its text. One of ours gets the user's line. One that Python made
    inside graphopt is traced back to the argument that caused it, where there is one; else it is left as it is.
    """
    if isinstance(error, _OURS) or not isinstance(error, _THEIRS):
        return error
    known = getattr(error, _MARK, None)
    if known is None:
        known = _classify(error)
        if known == "ours":
            explained = _explained(error, function, args, kwargs, owner)
            if explained is not None:
                error, known = explained, "deliberate"
        if known != "user":
            _locate(error, owner)
        if known != "ours":  # an outer border may know which argument it was
            setattr(error, _MARK, known)
    if known == "ours" or config.current().debug > 0:
        return error
    return error.with_traceback(_trimmed(error.__traceback__))


def _classify(error: Exception) -> str:
    """Who raised it: "user" code, graphopt on purpose ("deliberate"), or Python while running graphopt ("ours")."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or isinstance(error, GraphError):
        return "deliberate"
    if not is_ours(last.tb_frame):
        return "user"
    code = last.tb_frame.f_code
    module = str(last.tb_frame.f_globals.get("__name__", ""))
    raised = linecache.getline(code.co_filename, last.tb_lineno).strip().startswith("raise ")
    return "deliberate" if raised and module.startswith("graphopt") else "ours"


def _locate(error: Exception, owner: str) -> None:
    """Put the user's line under the first line of the error's text, and before it who found fault, if they are missing."""
    text = error.args[0] if error.args else ""
    where = _innermost(error)
    if not isinstance(text, str) or where is None or "\n  called at " in text or type(error) is KeyError:
        return
    what, _, rest = text.partition("\n")
    what = f"{owner}: {what}" if owner and what.startswith(("expected ", "cannot ")) else what
    error.args = (layout(what, where) + ("\n" + rest if rest else ""), *error.args[1:])


def _innermost(error: Exception) -> Where | None:
    place: Where | None = None
    step = error.__traceback__
    while step is not None:
        if not is_ours(step.tb_frame):
            place = in_cell(step.tb_frame.f_code.co_filename, step.tb_lineno)
        step = step.tb_next
    return place or here()


def _trimmed(traceback: types.TracebackType | None) -> types.TracebackType | None:
    """The traceback without our own frames."""
    steps = []
    while traceback is not None:
        if not is_ours(traceback.tb_frame):
            steps.append(traceback)
        traceback = traceback.tb_next
    made: types.TracebackType | None = None
    for step in reversed(steps):
        made = types.TracebackType(made, step.tb_frame, step.tb_lasti, step.tb_lineno)
    return made


# what Python's own errors mean --------------------------------------------------------------------------------


def _explained(
    error: Exception, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], owner: str
) -> Exception | None:
    """The argument that made Python fail inside `function`: one that is missing, unknown, or no Tensor."""
    signature = parameters_of(function)
    if signature is None or not isinstance(error, (TypeError, AttributeError, ValueError, IndexError)):
        return None
    owner = owner or _public_name(function)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as problem:
        return wrong_call(owner, signature, problem)
    for name, value in bound.arguments.items():
        if name != "self" and _wants_tensor(signature.parameters[name]) and not _can_be_tensor(value):
            try:
                refuse_value(value, name, owner)
            except DTypeError as refused:
                return refused
    return None


def _public_name(function: Any) -> str:
    """What the user calls the function: a constructor by its class."""
    parts = str(getattr(function, "__qualname__", type(function).__name__)).split(".")
    return parts[-2] if parts[-1] in ("__init__", "__call__") and len(parts) > 1 else parts[-1]


def _wants_tensor(parameter: inspect.Parameter) -> bool:
    wanted = parameter.annotation
    return wanted in ("Tensor", "Node", "Parameter") or (isinstance(wanted, type) and issubclass(wanted, Tensor))


def _can_be_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
