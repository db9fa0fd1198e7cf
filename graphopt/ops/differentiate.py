"""Reverse mode on traced calls: run a function, pull its outputs' cotangents back to arguments and Parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.common.api import is_mutable
from graphopt.common.branching import prepared
from graphopt.common.checks import found
from graphopt.common.hooks import hooked
from graphopt.common.parameter import Parameter
from graphopt.common.row_tensor import RowTensor, wrap_gradient
from graphopt.common.signature import leaves
from graphopt.common.tensor import Tensor, wrap_node
from graphopt.common.trace import Trace, active
from graphopt.errors import DTypeError, ShapeError, layout
from graphopt.ir.graph import Node
from graphopt.ir.types import bool_
from graphopt.opdefs.elementwise import alias, stop_gradient
from graphopt.opdefs.opdef import full
from graphopt.passes.forward import jvp
from graphopt.passes.gradient import Derivative, vjp
from graphopt.where import here

NO_SENS = object()


@dataclass(frozen=True)
class Differentiated:
    """The result of one call and its gradients.

    output: what the function returned. inputs: (position, gradient) of the arguments that count.
    weights: one gradient for each Parameter asked for.
    """

    output: Any
    inputs: tuple[tuple[int, Any], ...]
    weights: tuple[Tensor | RowTensor, ...]


def differentiate(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    wanted: Callable[[int], bool],
    weights: Sequence[Parameter] | None,
    sens: Any = NO_SENS,
    has_aux: bool = False,
) -> Differentiated:
    """Call `function` in the trace at hand and differentiate its output.

    wanted:  which arguments (positional first, then keywords in the order of the call) are asked for.
    weights: Parameters to differentiate by; None for all trainable ones that take part.
    sens:    cotangents in the structure of the output; ones when left out.
    has_aux: only the first of the function's results is differentiated.

    Errors: ShapeError, DTypeError when sens does not fit the output; ValueError when has_aux finds no tuple.
    """
    done = call_apart(function, args, kwargs, wanted, weights)
    main = main_output(done.output) if has_aux else done.output
    results, cotangents = cotangents_of(main, sens, done.trace)
    by_argument, by_weight = done.pull_back(results, cotangents)
    return Differentiated(_without_aux_gradient(done.output, has_aux, done.trace), by_argument, by_weight)


@dataclass(frozen=True)
class Called:
    """A call in a trace, ready to be differentiated.

    output:     what the function returned. nodes: what the arguments asked for are in it, in order.
    begun:      how many derivatives of one's own the trace had before. weights: Parameters, and their nodes by id.
    """

    trace: Trace
    output: Any
    begun: int
    arguments: _Arguments
    weights: Sequence[Parameter]
    weight_nodes: Mapping[int, Node]

    @property
    def nodes(self) -> list[Node]:
        return self.arguments.nodes

    @property
    def own(self) -> list[Derivative]:
        """The derivatives of one's own that belong to the call."""
        return self.trace.derivatives[self.begun :]

    def pull_back(
        self, results: Sequence[Node], cotangents: Sequence[Node | None]
    ) -> tuple[tuple[tuple[int, Any], ...], tuple[Tensor | RowTensor, ...]]:
        """((position, gradient) of the arguments asked for, gradients of the weights)."""
        trace = self.trace
        wrt = [*self.nodes, *self.weight_nodes.values()]
        if not self.own:
            results = trace.roll(results, wrt)
        trace.derived = True
        found = dict(zip(wrt, vjp(results, cotangents, wrt, self.own), strict=True))
        tensors = {n: wrap_gradient(full(n.shape, 0, n.dtype) if g is None else g, trace) for n, g in found.items()}
        by_weight = tuple(_weight_gradient(p, self.weight_nodes, tensors, trace) for p in self.weights)
        return self.arguments.gradients(tensors), by_weight

    def push_forward(self, results: Sequence[Node], tangents: Sequence[Node | None]) -> list[Node | None]:
        """The tangents of `results`, given those of `nodes`."""
        with self.trace.unwritten():  # derivatives of one's own run on placeholders; what they store is not kept
            if not self.own:
                results = self.trace.roll(results, self.nodes)
            return jvp(results, self.nodes, tangents, lambda: self.own)


def call_apart(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    wanted: Callable[[int], bool],
    weights: Sequence[Parameter] | None,
) -> Called:
    """Call `function` in the trace at hand so that its uses of arguments and Parameters can be told from others."""
    trace = active()
    assert trace is not None
    trace.watch(function)
    begun = len(trace.derivatives)
    separate = _Arguments(trace, wanted)
    given = [separate.take(k, a) for k, a in enumerate(args)]
    named = {name: separate.take(len(args) + k, a) for k, (name, a) in enumerate(kwargs.items())}
    trainable = _distinct([p for p in weights or () if p.requires_grad])
    before = {id(p) for p in trace.parameters}
    with trace.separate(trainable, lambda p, node: hooked(node, p, trace)) as apart:
        held = len(trace.apart)
        trace.apart += [*separate.nodes, *apart]
        output = prepared(function)(*given, **named)
        del trace.apart[held:]
        by_parameter = {id(p): node for p, node in zip(trainable, apart, strict=True)}
    if weights is None:
        weights = [p for p in trace.parameters if p.requires_grad and id(p) not in before]
        by_parameter = {id(p): leaf for p in weights if (leaf := trace.leaf_of(p)) is not None}
    return Called(trace, output, begun, separate, weights, by_parameter)


class _Arguments:
    """The arguments of a call, those to differentiate by under nodes of their own."""

    def __init__(self, trace: Trace, wanted: Callable[[int], bool]):
        self.nodes: list[Node] = []
        self._trace = trace
        self._wanted = wanted
        self._found: list[tuple[int, Any]] = []

    def take(self, position: int, value: Any) -> Any:
        """The argument as the function gets it."""
        if not self._wanted(position) or not _counts(value):
            return value
        passed, place = self._separate(value)
        self._found.append((position, place))
        return passed

    def _separate(self, value: Any) -> tuple[Any, Any]:
        if isinstance(value, Tensor) and not value._weak:
            node = alias(self._trace.node_of(value))
            self.nodes.append(node)
            return wrap_node(hooked(node, value, self._trace), self._trace), node
        if isinstance(value, dict):
            pairs = {k: self._separate(v) for k, v in value.items()}
            return {k: p[0] for k, p in pairs.items()}, {k: p[1] for k, p in pairs.items()}
        if isinstance(value, (tuple, list)):
            parts = [self._separate(v) for v in value]
            kind = tuple if isinstance(value, tuple) else list
            return kind(p[0] for p in parts), kind(p[1] for p in parts)
        return value, None

    def gradients(self, tensors: Mapping[Node, Tensor | RowTensor]) -> tuple[tuple[int, Any], ...]:
        """(position, gradient) of every argument taken apart."""
        return tuple((position, _filled(place, tensors)) for position, place in self._found)


def _filled(place: Any, tensors: Mapping[Node, Tensor | RowTensor]) -> Any:
    if isinstance(place, Node):
        return tensors[place]
    if isinstance(place, dict):
        return {k: _filled(v, tensors) for k, v in place.items()}
    if isinstance(place, (tuple, list)):
        return type(place)(_filled(v, tensors) for v in place if v is not None)
    return place


def _counts(value: Any) -> bool:
    """Whether an argument is differentiated by: Tensors and `mutable` containers, no numbers."""
    return is_mutable(value) or (isinstance(value, Tensor) and not value._weak)


def _distinct(parameters: Sequence[Parameter]) -> list[Parameter]:
    return list({id(p): p for p in parameters}.values())


def _weight_gradient(
    parameter: Parameter, nodes: Mapping[int, Node], tensors: Mapping[Node, Tensor | RowTensor], trace: Trace
) -> Tensor | RowTensor:
    node = nodes.get(id(parameter))
    if node is not None:
        return tensors[node]
    return wrap_node(full(parameter.shape, 0, parameter.dtype), trace)


def main_output(output: Any) -> Any:
    if not isinstance(output, tuple) or len(output) < 2:
        what = "has_aux: the function must return a tuple of 2 or more, the first of which is differentiated"
        raise ValueError(layout(f"{what}; found {type(output).__name__}", here()))
    return output[0]


def _without_aux_gradient(output: Any, has_aux: bool, trace: Trace) -> Any:
    """The output; what stands beside the first result carries no gradient further out."""
    if not has_aux:
        return output
    return (output[0], *(_stopped(part, trace) for part in output[1:]))


def _stopped(value: Any, trace: Trace) -> Any:
    if isinstance(value, Tensor):
        return wrap_node(stop_gradient(trace.node_of(value)), trace)
    if isinstance(value, RowTensor):
        return value.map_values(lambda part: _stopped(part, trace))
    if isinstance(value, (tuple, list)):
        return type(value)(_stopped(v, trace) for v in value)
    if isinstance(value, dict):
        return {k: _stopped(v, trace) for k, v in value.items()}
    return value


def cotangents_of(output: Any, sens: Any, trace: Trace) -> tuple[list[Node], list[Node]]:
    """The output's nodes and their cotangents: those of `sens`, or ones."""
    if sens is NO_SENS:
        nodes = [trace.node_of(t) for t in _numbers(output)]
        numbers = [n for n in nodes if n.dtype is not bool_]
        return numbers, [full(n.shape, 1, n.dtype) for n in numbers]
    pairs: list[tuple[Node, Node]] = []
    match(output, sens, "sens", trace, pairs)
    return [p[0] for p in pairs], [p[1] for p in pairs]


def _numbers(output: Any) -> Iterator[Tensor]:
    """The tensors of an output that are differentiated: of a RowTensor the values."""
    if isinstance(output, RowTensor):
        yield output.values
    elif isinstance(output, (tuple, list, Mapping)):
        for item in output.values() if isinstance(output, Mapping) else output:
            yield from _numbers(item)
    else:
        yield from leaves(output)


def match(
    output: Any, sens: Any, path: str, trace: Trace, pairs: list[tuple[Node, Node]], whose: str = "the output"
) -> None:
    """Pair the tensors of `output` with those of `sens`, which must have its structure.

    whose: what `output` is called in errors.

    Errors: TypeError, DTypeError for another structure, kind or dtype; ShapeError for another shape.
    """
    if isinstance(output, Tensor):
        _match_tensor(output, sens, path, trace, pairs, whose)
    elif isinstance(output, RowTensor):
        _match_tensor(output.values, sens.values if isinstance(sens, RowTensor) else sens, path, trace, pairs, whose)
    elif isinstance(output, (tuple, list, dict)):
        items = list(output.values()) if isinstance(output, dict) else list(output)
        parts = list(sens.values()) if isinstance(sens, dict) else list(sens) if isinstance(sens, (tuple, list)) else None
        if parts is None or len(parts) != len(items):
            found = f"{len(parts)}" if parts is not None else _kind(sens)
            what = f"{path}: expected a tuple of {len(items)}, one for each output, found {found}"
            raise DTypeError(layout(what, here()))
        for k, (item, part) in enumerate(zip(items, parts, strict=True)):
            match(item, part, f"{path}[{k}]", trace, pairs, whose)


def _match_tensor(
    output: Tensor, sens: Any, path: str, trace: Trace, pairs: list[tuple[Node, Node]], whose: str
) -> None:
    if not isinstance(sens, Tensor) or sens._weak:
        raise DTypeError(layout(f"{path}: expected a Tensor, {output._type} as {whose}, found {_kind(sens)}", here()))
    if sens.shape != output.shape:
        raise ShapeError(layout(f"{path}: expected shape {output.shape}, that of {whose}, found {sens.shape}", here()))
    if sens.dtype is not output.dtype:
        raise DTypeError(layout(f"{path}: expected dtype {output.dtype!r}, that of {whose}, found {sens.dtype!r}", here()))
    if output.dtype is not bool_:
        pairs.append((trace.node_of(output), trace.node_of(sens)))


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return "a Python float" if value._weak else "a Tensor"
    return found(value)
