"""Derivatives of one's own: what `Cell.bprop`, gradient hooks and `ops.InsertGradientOf` mean to the tracer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graphopt.common.row_tensor import RowTensor
from graphopt.common.signature import leaves
from graphopt.common.tensor import Tensor, to_tensor, wrap_node
from graphopt.common.trace import Trace, active
from graphopt.errors import DTypeError, ShapeError, layout
from graphopt.ir.graph import Node
from graphopt.opdefs.elementwise import alias, zeros_like
from graphopt.where import here


def replace_tensors(value: Any, given: Any) -> Any:
    """A nested value with its Tensors replaced, in order, by the next of `given` (an iterator)."""
    if isinstance(value, Tensor):
        return next(given)
    if isinstance(value, RowTensor):
        return value.map_parts(lambda _: next(given))
    if isinstance(value, (tuple, list)):
        return type(value)(replace_tensors(v, given) for v in value)
    if isinstance(value, dict):
        return {k: replace_tensors(v, given) for k, v in value.items()}
    return value


def with_derivative(owner: Any, body: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run `body` so that its derivative is `owner.bprop(*args, out, dout)`.

    Parameters used inside get no gradient. bprop returns one gradient per argument (a bare one for a single argument,
    None for zeros).
    Errors: TypeError when bprop is no function or does not take the arguments, out and dout; RuntimeError for fewer
            gradients than arguments; ValueError for a gradient of another shape.
    """
    trace = active()
    assert trace is not None
    name = getattr(owner, "__name__", type(owner).__name__)
    bprop = owner.bprop
    if not callable(bprop):
        raise TypeError(f"{name}: bprop must be a function, found {bprop!r} of type {type(bprop).__name__}")
    rule_name = f"{name}.{getattr(bprop, '__name__', 'bprop')}"
    inputs = [_separate(a, trace) for a in args]
    output = body(*inputs, **kwargs)
    results = [trace.node_of(t) for t in leaves(output)]

    def rule(values: Sequence[Node], cotangents: Sequence[Node | None]) -> list[Node | None]:
        filled = (zeros_like(n) if ct is None else ct for n, ct in zip(values, cotangents, strict=True))
        dout = replace_tensors(output, (wrap_node(ct, trace) for ct in filled))
        result = replace_tensors(output, (wrap_node(n, trace) for n in values))
        given = bprop(*inputs, *kwargs.values(), result, dout)
        return _per_input(rule_name, inputs, given, trace)

    cut = trace.ruled([trace.node_of(t) for t in inputs if isinstance(t, Tensor)], results, rule)
    return replace_tensors(output, (wrap_node(n, trace) for n in cut))


def with_gradient_hook(name: str, x: Tensor, hook: Callable[[Tensor], Any]) -> Tensor:
    """x itself; its gradient goes through `hook`, which gives another one, or None to leave it.

    Errors: in the backward pass TypeError for a result that is no Tensor, ValueError for another shape.
    """
    trace = active()
    if trace is None:
        return x
    source = trace.node_of(x)

    def rule(values: Sequence[Node], cotangents: Sequence[Node | None]) -> list[Node | None]:
        arrived = cotangents[0]
        assert arrived is not None
        changed = hook(wrap_node(arrived, trace))
        return [arrived if changed is None else trace.node_of(checked_gradient(f"{name}: the gradient", changed, x))]

    return wrap_node(trace.ruled([source], [source], rule)[0], trace)


def _separate(value: Any, trace: Trace) -> Any:
    """A Tensor argument under a node of its own; other arguments as they are."""
    return wrap_node(alias(trace.node_of(value)), trace) if isinstance(value, Tensor) else value


def _per_input(name: str, inputs: Sequence[Any], given: Any, trace: Trace) -> list[Node | None]:
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], tuple) and isinstance(given[1], dict):
        given = given[0]
    gradients = list(given) if isinstance(given, (tuple, list)) else [given]
    if len(gradients) < len(inputs):
        raise RuntimeError(layout(f"{name}: expected {len(inputs)} gradients, found {len(gradients)}", here()))
    result: list[Node | None] = []
    for k, (source, gradient) in enumerate(zip(inputs, gradients, strict=False)):
        if not isinstance(source, Tensor):
            continue
        if gradient is None:
            result.append(None)
            continue
        result.append(trace.node_of(checked_gradient(f"{name}: gradient {k}", gradient, source)))
    return result


def checked_gradient(what: str, gradient: Any, source: Tensor) -> Tensor:
    """A gradient of `source`, in its dtype.

    Errors: TypeError when it is no Tensor, ValueError for another shape.
    """
    if not isinstance(gradient, (Tensor, int, float)):
        raise DTypeError(layout(f"{what} must be a Tensor, found {gradient!r} of type {type(gradient).__name__}", here()))
    tensor = to_tensor(to_tensor(gradient), source.dtype)
    if tensor.shape != source.shape:
        raise ShapeError(layout(f"{what} has shape {tensor.shape}, expected {source.shape}", here()))
    return tensor
