"""What `graphopt show` is asked to look at: FILE:OBJECT becomes a Cell or function with example inputs."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from graphopt import Tensor, nn
from graphopt.ir.types import TensorType, dtype_of
from graphopt_tools.mistakes import Mistake
from graphopt_tools.workloads import EVERY

_TYPE = re.compile(r"([a-z0-9]+)\[([0-9, ]*)\]")


def resolve(target: str, types: Sequence[str]) -> tuple[Callable[..., Any], list[Any]]:
    """The Cell or function and its inputs.

    target: FILE:OBJECT, or the name of a workload of `graphopt bench`.
    types:  types of the inputs, for an object that does not bring its own.
    Errors: Mistake for whatever cannot be found, loaded or called.
    """
    place, colon, name = target.rpartition(":")
    if not colon and target in EVERY:
        return EVERY[target].in_graphopt()
    if not colon or not place or not name:
        raise Mistake(f"{target}: expected FILE:OBJECT, such as net.py:net, or a workload of graphopt bench, such as mlp")
    found = _attribute(load_module(place), place, name)
    inputs = [example(parse_type(text)) for text in types]
    if isinstance(found, type) and issubclass(found, nn.Cell):
        found = _call(found, f"{name}()")
    if not callable(found):
        raise Mistake(f"{target}: expected a Cell or a function, found {type(found).__name__}")
    if inputs or isinstance(found, nn.Cell) or _parameters(found):
        if not inputs:
            raise Mistake(f"{target} takes inputs: name the type of each with --input, such as --input 'f32[64,784]'")
        return found, inputs
    return _unpack(target, _call(found, f"{name}()"))


def load_module(place: str) -> ModuleType:
    """The module of a .py file, or an importable module by its dotted name.

    Errors: Mistake when there is none, or when its code fails.
    """
    path = Path(place)
    if path.suffix != ".py" and not path.is_file():
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not (place == error.name or place.startswith(f"{error.name}.")):
                raise Mistake(f"{place} fails when it is loaded: {error}") from error
            raise Mistake(f"there is no file {place} and no module of that name") from None
        except Exception as error:
            raise Mistake(f"{place} fails when it is loaded: {_where(error)}") from error
    if not path.is_file():
        raise Mistake(f"there is no file {place}")
    spec = spec_from_file_location(path.stem, path.resolve())
    if spec is None or spec.loader is None:
        raise Mistake(f"{place} is not a Python file")
    module = module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise Mistake(f"{place} fails when it is loaded: {_where(error)}") from error
    return module


def parse_type(text: str) -> TensorType:
    """`f32[64,784]` or `float32[64,784]` as a type.

    Errors: Mistake.
    """
    match = _TYPE.fullmatch(text.strip())
    if match is None:
        raise Mistake(f"--input {text}: expected a type such as f32[64,784]")
    try:
        dtype = dtype_of(match[1])
    except TypeError as error:
        raise Mistake(f"--input {text}: {error}") from None
    return TensorType(dtype, tuple(int(size) for size in match[2].split(",") if size.strip()))


def example(type: TensorType) -> Tensor:
    """A tensor of a type; its values do not matter to what is compiled."""
    return Tensor(np.zeros(type.shape, type.dtype.numpy))


def _attribute(module: ModuleType, place: str, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), 1)
            raise Mistake(f"{place} has no {name}" + (f"; did you mean {near[0]}?" if near else ""))
        found = getattr(found, part)
    return found


def _parameters(function: Callable[..., Any]) -> bool:
    """True when a function cannot be called without arguments."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def _unpack(target: str, result: Any) -> tuple[Callable[..., Any], list[Any]]:
    """(cell, x, y) or (cell, (x, y)) as cell and inputs."""
    if isinstance(result, tuple) and len(result) >= 2 and callable(result[0]) and not isinstance(result[0], Tensor):
        inputs = list(result[1]) if len(result) == 2 and isinstance(result[1], tuple | list) else list(result[1:])
        return result[0], [Tensor(x) if isinstance(x, np.ndarray) else x for x in inputs]
    found = f"it returned {type(result).__name__}"
    raise Mistake(f"{target}() must return a Cell or function and example inputs, such as (cell, x, y); {found}")


def _call(function: Callable[..., Any], text: str) -> Any:
    try:
        return function()
    except Exception as error:
        raise Mistake(f"{text} fails: {_where(error)}") from error


def _where(error: Exception) -> str:
    """Kind and text of an exception, and the innermost line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
