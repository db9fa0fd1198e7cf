"""Hooks on gradients: what `register_hook` of Tensors and the backward hooks of Cells mean to the tracer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphopt.common.checks import found
from graphopt.common.derivative import checked_gradient, replace_tensors, with_gradient_hook
from graphopt.common.regions import Region
from graphopt.common.signature import leaves
from graphopt.common.tensor import Tensor, bump, wrap_node
from graphopt.common.trace import Trace, active
from graphopt.errors import TraceError, layout
from graphopt.ir.graph import Node
from graphopt.opdefs.elementwise import stop_gradient, zeros_like
from graphopt.opdefs.opdef import full
from graphopt.passes.gradient import Derivative
from graphopt.where import here

Hooks = Mapping[int, tuple[Callable[..., Any], bool]]


class HookHandle:
    """Takes a hook away again: `handle.remove()`."""

    _numbers = itertools.count()

    def __init__(self, hooks: dict[int, Any], changed: Callable[[], None]):
        self.handle_id = next(HookHandle._numbers)
        self._hooks = hooks
        self._changed = changed

    def remove(self) -> None:
        """Take the hook away; doing it twice is fine."""
        if self._hooks.pop(self.handle_id, None) is not None:
            self._changed()


def register_hook(self: Tensor, hook_fn: Callable[[Tensor], Any]) -> HookHandle:
    """Let the gradient by this tensor go through `hook_fn(gradient)`; a Tensor it returns replaces the gradient.

    On a Parameter, or a Tensor that is given to a differentiated function, the hook acts on the gradient that is
    handed out; on a Tensor inside such a function, on what flows back through its uses from here on. Outside of
    differentiation it does nothing. In forward mode the hook's linear map is transposed. `remove()` of the result ends it.

    Errors: TypeError when hook_fn is no function; in the backward pass TypeError for a result that is no Tensor,
            ValueError for another shape.

    >>> import graphopt as ms
    >>> x = ms.Tensor([1.0, 2.0])
    >>> handle = x.register_hook(lambda g: g * 10)
    >>> print(ms.grad(lambda x: x * x)(x))
    [20. 40.]
    >>> handle.remove()
    >>> print(ms.grad(lambda x: x * x)(x))
    [2. 4.]
    """
    if not callable(hook_fn):
        raise TypeError(f"register_hook: hook_fn must be a function, found {found(hook_fn)}")
    trace = active()
    if trace is not None and self._trace is trace and not self._is_parameter:
        hooks: dict[int, Any] = {}
        handle = HookHandle(hooks, lambda: _stays(trace))
        hooks[handle.handle_id] = hook_fn
        passed = with_gradient_hook("register_hook", self, lambda g: hook_fn(g) if hooks else None)
        self._node = passed._node
        return handle
    if self._hooks is None:
        self._hooks = {}

    def changed() -> None:
        self._version += 1
        bump()

    handle = HookHandle(self._hooks, changed)
    self._hooks[handle.handle_id] = hook_fn
    changed()
    return handle


def _stays(trace: Trace) -> None:
    """A hook taken away: too late where it has become part of a body.

    Errors: TraceError.
    """
    if isinstance(trace, Region):
        what = "register_hook: a hook of a tensor in a body of control flow cannot be removed"
        raise TraceError(layout(what, here(), hint="register it where it is wanted only"))


def hooked(node: Node, tensor: Tensor, trace: Trace) -> Node:
    """A node that stands for `tensor` in a differentiated call, its gradient going through the tensor's hooks."""
    for hook in list((tensor._hooks or {}).values()):
        passed = with_gradient_hook("register_hook", wrap_node(node, trace), hook)
        assert passed._node is not None
        node = passed._node
    return node


def with_backward_hooks(owner: Any, before: Hooks, after: Hooks, body: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Run `body`; `before(cell, grad_outputs)` sees the gradients of its outputs, `after(cell, grad_inputs,
    grad_outputs)` those of its inputs too, as tuples with one entry for each Tensor. What they return replaces.

    When a gradient reaches the inputs and none came by the outputs, grad_outputs are zeros.
    """
    trace = active()
    assert trace is not None
    name = type(owner).__name__
    given = list(leaves((args, kwargs)))
    sources = tuple(trace.node_of(t) for t in given)

    def inputs_rule(values: Sequence[Node], cotangents: Sequence[Node | None]) -> Sequence[Node | None]:
        grads = _filled(values[: len(sources)], cotangents[: len(sources)], trace)
        grad_outputs = _filled(values[len(sources) :], cotangents[len(sources) :], trace)
        for hook, _ in list(after.values()):
            changed = hook(owner, grads, grad_outputs)
            grads = grads if changed is None else _replaced(f"{name}: grad_inputs", changed, given)
        return [trace.node_of(g) for g in grads]

    def run(passed: Sequence[Node]) -> Any:
        new_args, new_kwargs = replace_tensors((args, kwargs), iter([wrap_node(n, trace) for n in passed]))
        return body(*new_args, **new_kwargs)

    # The anchors lead from the outputs' hooks to the inputs': what flows into them are the gradients of the outputs.
    if isinstance(trace, Region):  # there a rule is traced at once, so the outputs' types must be known before
        like = leaves(Region("types", trace).run(body, *args, **kwargs))
        ends = trace.ruled(sources, [*sources, *(full(t.shape, 0, t.dtype) for t in like)], inputs_rule)
        cut, anchors = ends[: len(sources)], ends[len(sources) :]
        output = run(cut)
    else:
        cut = tuple(trace.compute([stop_gradient(n) for n in sources]))
        output = run(cut)
        zeros = [zeros_like(trace.node_of(t)) for t in leaves(output)]
        anchors = tuple(trace.compute([stop_gradient(n) for n in zeros]))
        ends = (*cut, *anchors)
        trace.derivatives.append(Derivative(sources, ends, lambda cotangents: inputs_rule(ends, cotangents)))
    results = list(leaves(output))

    def outputs_rule(values: Sequence[Node], cotangents: Sequence[Node | None]) -> Sequence[Node | None]:
        grads = _filled(values, cotangents, trace)
        for hook, _ in list(before.values()):
            changed = hook(owner, grads)
            grads = grads if changed is None else _replaced(f"{name}: grad_outputs", changed, results)
        nodes = [trace.node_of(g) for g in grads]
        return [*nodes, *nodes]

    inner = [trace.node_of(t) for t in results]
    outer = trace.ruled([*inner, *anchors], inner, outputs_rule)
    return replace_tensors(output, iter([wrap_node(n, trace) for n in outer]))


def _filled(nodes: Sequence[Node], cotangents: Sequence[Node | None], trace: Trace) -> tuple[Tensor, ...]:
    pairs = zip(nodes, cotangents, strict=True)
    return tuple(wrap_node(zeros_like(n) if ct is None else ct, trace) for n, ct in pairs)


def _replaced(what: str, changed: Any, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What a hook returned, one gradient for each tensor of `like`.

    Errors: ValueError for another number or shape, TypeError for something that is no Tensor.
    """
    items = tuple(changed) if isinstance(changed, (tuple, list)) else (changed,)
    if len(items) != len(like):
        raise ValueError(f"{what}: a backward hook must return {len(like)} gradients or None, found {len(items)}")
    return tuple(checked_gradient(f"{what}[{k}]", g, t) for k, (g, t) in enumerate(zip(items, like, strict=True)))
