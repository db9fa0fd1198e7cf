"""What a call looks like to the compiler: arguments become a key and arrays, results go back into their structure."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.common.checks import found as shown
from graphopt.common.checks import meant
from graphopt.common.row_tensor import RowTensor
from graphopt.common.tensor import Tensor, type_like, wrap_node, wrap_typed
from graphopt.common.trace import Trace
from graphopt.errors import DTypeError, layout
from graphopt.ir.graph import Node
from graphopt.ir.types import DType, TensorType, f32
from graphopt.where import here

FLOAT = TensorType(f32, ())
_CONSTANT = (int, bool, str, bytes, type(None), DType, type(Ellipsis))
CURE = "wrap it: Tensor(array), or Tensor.from_numpy(array) to share its memory"


def describe(value: Any, path: str, owner: str, arrays: list[np.ndarray], floats: bool = True) -> Any:
    """A hashable key of an argument; the arrays of its Tensors and floats are appended in order.

    A float is a run-time scalar unless `floats` is off; ints, bools, strings and None are constants, part of the key.
    Errors: TypeError naming the argument when it is a numpy array or of another type that cannot be an argument.
    """
    kind = type(value)
    if isinstance(value, Tensor):
        if value._is_parameter:
            return ("parameter", id(value))
        arrays.append(value._value(f"argument {path} of {owner}"))
        return ("hooked", value._type, *value._hooks) if value._hooks else value._type
    if isinstance(value, (float, np.floating)) and floats:
        arrays.append(np.asarray(value, np.float32))
        return float
    if kind in _CONSTANT or isinstance(value, (int, float, np.integer, np.floating, np.bool_)):
        return (kind, value)
    if isinstance(value, (tuple, list)):
        return (kind, *(describe(v, f"{path}[{k}]", owner, arrays, floats) for k, v in enumerate(value)))
    if isinstance(value, RowTensor):
        parts = ((name, getattr(value, name)) for name in ("indices", "values"))
        return (RowTensor, value.dense_shape, *(describe(v, f"{path}.{n}", owner, arrays) for n, v in parts))
    if isinstance(value, dict):
        return (dict, *((k, describe(v, f"{path}[{k!r}]", owner, arrays, floats)) for k, v in value.items()))
    if isinstance(value, slice):
        return (slice, value.start, value.stop, value.step)
    if isinstance(value, np.ndarray):
        refuse_array(value, path, owner)
    if callable(value) or hasattr(value, "__dict__"):
        return ("object", id(value))
    expected = "a Tensor, number, str, None, or a tuple, list or dict of these"
    what = f"{owner}: argument {path} must be {expected}, found {shown(value)}"
    raise DTypeError(layout(what, here()))


def refuse_array(value: np.ndarray, path: str, owner: str) -> None:
    """TypeError for a numpy array where a Tensor is expected."""
    found = f"a numpy array of shape {value.shape} and dtype {value.dtype}"
    raise DTypeError(layout(f"{owner}: argument {path} must be a Tensor, found {found}", here(), hint=CURE))


def refuse_value(value: object, path: str, owner: str) -> None:
    """TypeError for anything that stands where a Tensor is expected."""
    if isinstance(value, np.ndarray):
        refuse_array(value, path, owner)
    hint = "wrap it: Tensor(values)" if isinstance(value, (list, tuple)) else ""
    raise DTypeError(layout(f"{owner}: argument {path} must be a Tensor, found {shown(value)}", here(), hint=hint))


def tensor_arguments(construct: Callable[..., Any]) -> tuple[str, ...]:
    """The positional parameters of a layer's construct that are annotated as Tensors; "" for the others."""
    parameters = [p for p in inspect.signature(construct).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    return tuple(p.name if p.annotation == "Tensor" else "" for p in parameters[1:])


def traced(value: Any, path: str, trace: Trace, floats: bool = True) -> Any:
    """The argument as the traced function sees it: every Tensor and run-time scalar is an input of the trace.

    The inputs are made in the order in which `describe` appends arrays.
    """
    if isinstance(value, Tensor):
        if value._is_parameter:
            return value
        made = wrap_node(trace.input(path, value._type), trace)
        made._hooks = value._hooks
        return made
    if isinstance(value, (float, np.floating)) and floats:
        return wrap_node(trace.input(path, FLOAT), trace, weak=True)
    if isinstance(value, (tuple, list)):
        return _like(value, [traced(v, f"{path}_{k}", trace, floats) for k, v in enumerate(value)])
    if isinstance(value, RowTensor):
        names = iter((f"{path}_indices", f"{path}_values"))
        return value.map_parts(lambda part: traced(part, next(names), trace))
    if isinstance(value, dict):
        return type(value)({k: traced(v, f"{path}_{k}", trace, floats) for k, v in value.items()})
    return value


def _like(original: Any, items: list[Any]) -> Any:
    if hasattr(original, "_fields"):
        return type(original)(*items)
    return type(original)(items)


class Template:
    """The structure of a result: which tensors of the graph stand where, and everything else as it is.

    fill: arrays, one for each of `nodes`, of their types -> the result, its tensors on these arrays.
    """

    def __init__(self, result: Any, trace: Trace, owner: str):
        self.nodes: list[Node] = []
        self._owner = owner
        self.fill: Callable[[Sequence[np.ndarray]], Any] = self._take(result, trace)

    def _take(self, value: Any, trace: Trace) -> Callable[[Sequence[np.ndarray]], Any]:
        if isinstance(value, Tensor):
            if value._trace is not trace and not value._is_parameter:
                return lambda arrays: value
            self.nodes.append(trace.node_of(value))
            k, kind = len(self.nodes) - 1, type_like(self.nodes[-1].type)
            return lambda arrays: wrap_typed(arrays[k], kind)
        if isinstance(value, (tuple, list)):
            parts = [self._take(v, trace) for v in value]
            return lambda arrays: _like(value, [part(arrays) for part in parts])
        if isinstance(value, RowTensor):
            rows, made = self._take(value.indices, trace), self._take(value.values, trace)
            return lambda arrays: RowTensor(rows(arrays), made(arrays), value.dense_shape)
        if isinstance(value, dict):
            entries = {k: self._take(v, trace) for k, v in value.items()}
            return lambda arrays: {k: part(arrays) for k, part in entries.items()}
        if isinstance(value, np.ndarray):
            raise DTypeError(layout(f"{self._owner}: returned a numpy array; a traced function returns Tensors", here()))
        return lambda arrays: value


def leaves(value: Any) -> Iterator[Tensor]:
    """The Tensors of a nested result, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, RowTensor):
        yield value.indices
        yield value.values
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item)


def is_cell(function: Any) -> bool:
    """Whether a callable is a Cell; code that Cells are built on cannot import their class."""
    return hasattr(function, "construct") and hasattr(function, "trainable_params")


def parameters_of(function: Callable[..., Any]) -> inspect.Signature | None:
    """The call signature of a function; None when Python does not know it."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def positional_names(signature: inspect.Signature | None, count: int) -> list[str]:
    """Names for so many positional arguments of a function."""
    names: list[str] = []
    for parameter in signature.parameters.values() if signature is not None else ():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names.extend(f"{parameter.name}_{k}" for k in range(count - len(names)))
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    return (names + [f"arg{k}" for k in range(len(names), count)])[:count]


def check_call(owner: str, signature: inspect.Signature | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """The names of the positional arguments.

    Errors: TypeError, with the user's line, when the arguments do not fit the signature.
    """
    if signature is None:
        return [f"arg{k}" for k in range(len(args))]
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise wrong_call(owner, signature, error) from None
    names: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names.extend(f"{parameter.name}_{k}" for k in range(len(args) - len(names)))
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    return names[: len(args)]


def wrong_call(owner: str, signature: inspect.Signature, problem: object) -> DTypeError:
    """The error for arguments that do not fit a signature, which it shows without annotations."""
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values() if p.name != "self"]
    plain = signature.replace(parameters=parameters, return_annotation=signature.empty)
    unknown = str(problem).partition("unexpected keyword argument ")[2].strip("'")
    hint = meant(unknown, [p.name for p in parameters]) if unknown else ""
    return DTypeError(layout(f"{owner}: {problem}{hint}", here(), [f"signature: {owner}{plain}"]))


def operand(name: str, value: Tensor) -> str:
    """A line of an error: the tensor's type, and where it comes from."""
    if value._is_parameter:
        return f"{name}: {value._type}  = Parameter {value.name}"  # type: ignore[attr-defined]
    node = value._node
    return f"{name}: {value._type}" + (f"  = {node.op} at {node.where}" if node is not None and node.where is not None else "")
