"""Directional derivatives and Jacobians: `vjp`, `jvp`, `jacrev`, `jacfwd`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt import context
from graphopt.common.api import Jitted, mutable
from graphopt.common.checks import check_bool, found
from graphopt.common.compiled import CompiledFunction
from graphopt.common.derivative import replace_tensors
from graphopt.common.parameter import Parameter
from graphopt.common.signature import leaves
from graphopt.common.tensor import Tensor, wrap_array, wrap_node
from graphopt.common.trace import Trace, active
from graphopt.errors import DTypeError, ShapeError, TraceError, layout
from graphopt.ir.graph import Node, input_node
from graphopt.ir.types import bool_, i32
from graphopt.opdefs.elementwise import cast, eq
from graphopt.opdefs.opdef import full, repeated
from graphopt.opdefs.shape import iota, reshape, transpose
from graphopt.ops.composite import Weights, check_weights, identity_of
from graphopt.ops.differentiate import Called, call_apart, cotangents_of, main_output, match
from graphopt.ops.traced import TracedFunction, at_once, dense, detached, function_name, kept
from graphopt.ops.vmap import keep_derivatives
from graphopt.passes.batch import Examples
from graphopt.passes.gradient import vjp as pull
from graphopt.where import here


def vjp(fn: Any, *inputs: Any, weights: Weights = None, has_aux: bool = False) -> tuple[Any, ...]:
    """(outputs of fn, a function from gradients of the outputs to gradients of the inputs).

    The function takes one gradient per output, or one tuple of them, and gives a tuple, one gradient per input; with
    weights (a Parameter, or a collection of them) it gives (that tuple, gradients by weights). It may be called any
    number of times; the values are those of inputs and Parameters when `vjp` was called.

    inputs:  Tensors, or tuples of them. has_aux: fn returns a tuple of which only the first is differentiated; what
             is left, bare when it is one, comes as a third result.
    Errors:  TypeError for an input that is no Tensor, has_aux no bool, or a gradient of another dtype; ValueError for
             a gradient of another shape, or when has_aux finds no tuple.

    >>> import graphopt as ms
    >>> y, back = ms.vjp(lambda x: x * x, ms.Tensor([1.0, 3.0]))
    >>> print(y, back(ms.Tensor([1.0, 10.0])))
    [1. 9.] (Tensor(shape=[2], dtype=Float32, value= [ 2.00000000e+00,  6.00000000e+01]),)
    """
    _check_function("vjp", fn)
    check_bool("vjp", "has_aux", has_aux)
    chosen = check_weights("vjp", weights)
    for k, value in enumerate(inputs):
        _check_input(f"vjp: inputs[{k}]", value)
    given = tuple(mutable(x) if isinstance(x, (tuple, list)) else x for x in inputs)
    if active() is not None:
        return _vjp_inline(fn, given, chosen, has_aux)
    if context.graph_mode() or isinstance(fn, Jitted):
        made = kept(fn, ("vjp", identity_of(chosen), has_aux), lambda: _CompiledVjp(fn, chosen, has_aux))
        return made(*given)
    given = tuple(_own_memory(x) for x in given)
    (output, back, *rest), trace = at_once(f"vjp of {function_name(fn)}", lambda: _vjp_inline(fn, given, chosen, has_aux))

    def later(*v: Any) -> Any:
        _check_free(v)
        with trace.running():
            return detached(back(*v))

    return (output, later, *rest)


def _vjp_inline(fn: Any, inputs: Sequence[Any], weights: Weights, has_aux: bool) -> tuple[Any, ...]:
    listed = _listed(weights)
    done = call_apart(fn, inputs, {}, lambda position: True, listed)
    main = main_output(done.output) if has_aux else done.output

    def back(*v: Any) -> Any:
        results, cotangents = cotangents_of(main, _as_outputs(main, v), done.trace)
        by_argument, by_weight = done.pull_back(results, cotangents)
        gradients = tuple(g for _, g in by_argument)
        if weights is None:
            return gradients
        return gradients, by_weight[0] if isinstance(weights, Parameter) else by_weight

    return (main, back, _rest(done.output)) if has_aux else (main, back)


class _CompiledVjp(TracedFunction):
    """`vjp` outside of a trace in GRAPH_MODE: outputs and gradients are compiled each for itself."""

    def __init__(self, fn: Any, weights: Weights, has_aux: bool):
        super().__init__("vjp", fn, f"vjp of {function_name(fn)}")
        self._weights = weights
        self._has_aux = has_aux
        self._back = CompiledFunction(f"vjp function of {function_name(fn)}", self._gradients, None, check=False)

    def __call__(self, *inputs: Any) -> Any:
        given = tuple(_own_memory(x) for x in inputs)
        entry, arrays = self.compile_cache.entry(given, {})
        state = entry.state()
        output, *rest = entry.run(arrays)

        def back(*v: Any) -> Any:
            _check_free(v)
            known, values = self._back.entry((given, v), {})
            return known.run_on(values, state)

        return (output, back, *rest)

    def _inline(self, *inputs: Any) -> Any:
        given = tuple(mutable(x) if isinstance(x, (tuple, list)) else x for x in inputs)
        output, _, *rest = _vjp_inline(self.fn, given, self._weights, self._has_aux)
        return (output, *rest)

    def _gradients(self, inputs: tuple[Any, ...], v: tuple[Any, ...]) -> Any:
        given = tuple(mutable(x) if isinstance(x, (tuple, list)) else x for x in inputs)
        return _vjp_inline(self.fn, given, self._weights, self._has_aux)[1](*v)


def _listed(weights: Weights) -> Sequence[Parameter]:
    return (weights,) if isinstance(weights, Parameter) else weights or ()


def _as_outputs(main: Any, v: tuple[Any, ...]) -> Any:
    """Gradients of the outputs in the outputs' structure: one argument each, or one tuple of all."""
    if isinstance(main, (tuple, list, dict)) and not (len(v) == 1 and isinstance(v[0], (tuple, list, dict))):
        return v
    if len(v) != 1:
        what = f"vjp: expected the gradient of one output, found {len(v)} arguments"
        raise DTypeError(layout(what, here()))
    return v[0]


def _check_free(v: Sequence[Any]) -> None:
    """Errors: TraceError inside another trace, which could not differentiate what was computed before it."""
    if active() is not None:
        what = "vjp: the function was made outside of the Cell or gradient function that calls it"
        raise TraceError(layout(what, here(), hint="call vjp there too"))


def _own_memory(value: Any) -> Any:
    """A Tensor on memory of its own, which nobody writes to later; a Parameter as it is."""
    if isinstance(value, Tensor):
        return value if value._is_parameter else wrap_array(value._value("vjp").copy())
    return type(value)(_own_memory(v) for v in value)


def jvp(fn: Any, inputs: Any, v: Any, has_aux: bool = False) -> tuple[Any, ...]:
    """(outputs of fn, their derivative along `v`): forward mode, for the price of about one more evaluation.

    inputs, v: a Tensor, or a tuple or list of equally many; the k-th of v has the shape and dtype of the k-th input.
    has_aux:   fn returns a tuple of which only the first is differentiated; what is left, bare when it is one,
               comes as a third result.
    Errors:    TypeError for something that is no Tensor, another dtype, or has_aux no bool; ValueError for another
               shape or number.

    >>> import graphopt as ms
    >>> y, slope = ms.jvp(lambda x: x * x, ms.Tensor([1.0, 3.0]), ms.Tensor([1.0, 0.5]))
    >>> print(y, slope)
    [1. 9.] [2. 3.]
    """
    _check_function("jvp", fn)
    check_bool("jvp", "has_aux", has_aux)
    points, directions = _sequence("inputs", inputs), _sequence("v", v)
    if len(points) != len(directions):
        raise ValueError(f"jvp: v must have one Tensor for each of the {len(points)} inputs, found {len(directions)}")
    made = kept(fn, ("jvp", has_aux), lambda: _Jvp(fn, has_aux))
    return made(points, directions)


class _Jvp(TracedFunction):
    """What `jvp` runs."""

    def __init__(self, fn: Any, has_aux: bool):
        super().__init__("jvp", fn, f"jvp of {function_name(fn)}")
        self._has_aux = has_aux

    def _signature(self) -> Any:
        return None

    def _inline(self, inputs: tuple[Any, ...], v: tuple[Any, ...]) -> Any:
        trace = active()
        assert trace is not None
        pairs: list[tuple[Node, Node]] = []
        for k, (point, direction) in enumerate(zip(inputs, v, strict=True)):
            match(point, direction, f"jvp: v[{k}]", trace, pairs, "the input")
        done = call_apart(self.fn, tuple(map(_as_mutable, inputs)), {}, lambda position: True, ())
        tangents = [trace.node_of(t) for t in leaves(v)]
        main = dense(main_output(done.output) if self._has_aux else done.output)
        results = [trace.node_of(t) for t in leaves(main)]
        pushed = done.push_forward(results, tangents)
        filled = (full(n.shape, 0, n.dtype) if t is None else t for n, t in zip(results, pushed, strict=True))
        slopes = replace_tensors(main, (wrap_node(t, trace) for t in filled))
        return (main, slopes, _rest(done.output)) if self._has_aux else (main, slopes)


def _as_mutable(value: Any) -> Any:
    return mutable(value) if isinstance(value, (tuple, list)) else value


def _rest(output: tuple[Any, ...]) -> Any:
    """What a function returned besides its first result; bare when it is one."""
    return output[1] if len(output) == 2 else tuple(output[1:])


def _check_function(owner: str, fn: Any) -> None:
    if not callable(fn):
        raise TypeError(f"{owner}: fn must be a Cell or a function, found {found(fn)}")


def _check_input(what: str, value: Any) -> None:
    if isinstance(value, (tuple, list)) and value:
        for k, item in enumerate(value):
            _check_input(f"{what}[{k}]", item)
    elif not isinstance(value, Tensor) or value._weak:
        raise TypeError(f"{what} must be a Tensor, or a tuple of them, found {found(value)}")


def _sequence(what: str, value: Any) -> tuple[Any, ...]:
    """One Tensor or a tuple or list of them, as a tuple."""
    items = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    for k, item in enumerate(items):
        _check_input(f"jvp: {what}[{k}]" if isinstance(value, (tuple, list)) else f"jvp: {what}", item)
    return items


def jacrev(fn: Any, grad_position: int | tuple[int, ...] = 0, has_aux: bool = False) -> TracedFunction:
    """A function of fn's arguments that gives Jacobians, by reverse mode: one pass for all elements of an output.

    grad_position: which arguments to differentiate by: a position, or a tuple of them.
    has_aux:       fn returns a tuple of which only the first is differentiated; the result is (Jacobian, what is left,
                   bare when it is one).

    Shapes: output's + input's. One output and one position: bare; several positions: a tuple over them; several
            outputs: a tuple over outputs, of tuples over positions when there are several.
    Errors: TypeError for positions that are no ints, has_aux no bool, or an argument that is no Tensor; ValueError for
            a position that is negative, stands twice or is beyond the arguments.

    >>> import graphopt as ms
    >>> print(ms.jacrev(lambda x: x * x)(ms.Tensor([1.0, 3.0])))
    [[2. 0.]
     [0. 6.]]
    """
    return _jacobian("jacrev", fn, grad_position, has_aux)


def jacfwd(fn: Any, grad_position: int | tuple[int, ...] = 0, has_aux: bool = False) -> TracedFunction:
    """A function of fn's arguments that gives Jacobians, by forward mode: one pass for all elements of an input.

    Arguments, result and errors are those of `jacrev`; `jacfwd(jacrev(f))` is the Hessian.

    >>> import graphopt as ms
    >>> print(ms.jacfwd(ms.jacrev(lambda x: (x * x * x).sum()))(ms.Tensor([1.0, 3.0])))
    [[ 6.  0.]
     [ 0. 18.]]
    """
    return _jacobian("jacfwd", fn, grad_position, has_aux)


def _jacobian(owner: str, fn: Any, grad_position: int | tuple[int, ...], has_aux: bool) -> TracedFunction:
    _check_function(owner, fn)
    check_bool(owner, "has_aux", has_aux)
    positions = grad_position if isinstance(grad_position, tuple) else (grad_position,)
    for item in positions:
        if not isinstance(item, int) or isinstance(item, bool):
            raise TypeError(f"{owner}: grad_position must be int or a tuple of ints, found {found(grad_position)}")
        if item < 0:
            raise ValueError(f"{owner}: grad_position must be >= 0, found {grad_position!r}")
    if not positions or len(set(positions)) < len(positions):
        raise ValueError(f"{owner}: grad_position must hold positions, each once, found {grad_position!r}")
    return kept(fn, (owner, positions, has_aux), lambda: _Jacobian(owner, fn, positions, has_aux))


class _Jacobian(TracedFunction):
    """What `jacrev` and `jacfwd` make."""

    def __init__(self, owner: str, fn: Any, positions: tuple[int, ...], has_aux: bool):
        super().__init__(owner, fn, f"{owner} of {function_name(fn)}")
        self._positions = positions
        self._has_aux = has_aux

    def _inline(self, *args: Any, **kwargs: Any) -> Any:
        self._check_arguments(args, kwargs)
        values = [*args, *kwargs.values()]
        for position in self._positions:
            if position >= len(values):
                what = f"{self._owner}: grad_position {position} is beyond the {len(values)} arguments"
                raise ShapeError(layout(f"{what} of {function_name(self.fn)}", here()))
            if not isinstance(values[position], Tensor) or values[position]._weak:
                what = f"{self._owner}: argument {position} must be a Tensor, found {found(values[position])}"
                raise DTypeError(layout(what, here()))
        done = call_apart(self.fn, args, kwargs, self._positions.__contains__, ())
        trace = done.trace
        main = dense(main_output(done.output) if self._has_aux else done.output)
        results = [trace.node_of(t) for t in leaves(main)]
        if not done.own:
            results = trace.roll(results)
        order = sorted(self._positions)
        nodes = [done.nodes[order.index(p)] for p in self._positions]
        rows = _by_rows(done, results, nodes) if self._owner == "jacrev" else _by_columns(done, results, nodes)
        tensors = [[wrap_node(n, trace) for n in row] for row in rows]
        single = len(self._positions) == 1
        jacobian = replace_tensors(main, (row[0] if single else tuple(row) for row in tensors))
        return (jacobian, _rest(done.output)) if self._has_aux else jacobian


def _basis(type: Any) -> Node:
    """All unit tensors of a type, along axis 0."""
    row, column = (iota(shape=(type.size, type.size), axis=k, dtype=i32) for k in (0, 1))
    return reshape(cast(eq(row, column), dtype=type.dtype), shape=(type.size, *type.shape))


def _by_rows(done: Called, results: Sequence[Node], nodes: Sequence[Node]) -> list[list[Node]]:
    """For each result and each node the Jacobian, pulled back for all elements of the result together."""
    found: list[list[Node]] = []
    for result in results:
        if result.dtype is bool_ or result.type.size == 0:
            found.append([full(result.shape + n.shape, 0, n.dtype) for n in nodes])
            continue
        one, begun = input_node("ct", result.type), len(done.trace.derivatives)
        pulled = pull([result], [one], nodes, done.own)
        every = _all_of(done.trace, one, _basis(result.type), pulled, begun)
        found.append([_shaped(e, n.dtype, result.shape + n.shape) for n, e in zip(nodes, every, strict=True)])
    return found


def _by_columns(done: Called, results: Sequence[Node], nodes: Sequence[Node]) -> list[list[Node]]:
    """For each result and each node the Jacobian, pushed forward for all elements of the node together."""
    columns: list[list[Node]] = []
    for node in nodes:
        if node.dtype is bool_ or node.type.size == 0:
            columns.append([full(r.shape + node.shape, 0, r.dtype) for r in results])
            continue
        one, begun = input_node("tangent", node.type), len(done.trace.derivatives)
        pushed = done.push_forward(results, [one if n is node else None for n in done.nodes])
        every = _all_of(done.trace, one, _basis(node.type), pushed, begun)
        column = []
        for result, e in zip(results, every, strict=True):
            last = None if e is None else transpose(e, perm=(*range(1, e.type.rank), 0))
            column.append(_shaped(last, result.dtype, result.shape + node.shape))
        columns.append(column)
    return [list(row) for row in zip(*columns, strict=True)] if results else []


def _shaped(node: Node | None, dtype: Any, shape: tuple[int, ...]) -> Node:
    return full(shape, 0, dtype) if node is None else reshape(node, shape=shape)


def _all_of(trace: Trace, one: Node, basis: Node, ones: Sequence[Node | None], begun: int) -> list[Node | None]:
    """`ones`, computed from the leaf `one`, for each tensor of `basis` in its place."""
    examples = Examples(basis.shape[0])
    examples.stand_for(one, basis)
    mapped = iter(examples.of([n for n in ones if n is not None]))
    every: list[Node | None] = []
    for node in ones:
        if node is None:
            every.append(None)
        else:
            rows = next(mapped)
            every.append(rows if node in examples else repeated(rows, examples.size))
    keep_derivatives(trace, examples, begun)
    return every
