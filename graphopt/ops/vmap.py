"""`vmap`: a function of one example as a function of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.common.branching import prepared
from graphopt.common.checks import found
from graphopt.common.derivative import replace_tensors
from graphopt.common.signature import is_cell, leaves
from graphopt.common.tensor import Tensor, apply, to_tensor, wrap_node
from graphopt.common.trace import Trace, active
from graphopt.errors import TraceError, layout
from graphopt.ir.graph import Node, input_node
from graphopt.opdefs.opdef import repeated
from graphopt.opdefs.reduce import reduce_and
from graphopt.opdefs.shape import along, concat, reshape, transpose
from graphopt.ops.traced import TracedFunction, dense, function_name, kept
from graphopt.passes.batch import Examples
from graphopt.where import here

Axes = int | None | tuple[Any, ...] | list[Any]


def vmap(fn: Any, in_axes: Axes = 0, out_axes: Axes = 0) -> TracedFunction:
    """A function that applies `fn` to many examples at once, each op to all of them together.

    fn:       a function or Cell of one example; or a CellList, the k-th Cell of which gets the k-th example.
    in_axes:  where an argument has its examples: an axis for all arguments, or a tuple or list with one entry for each
              argument: an axis (negative ones count from the end), None for an argument that is the same for all, or
              a tuple or list again for an argument that is one.
    out_axes: where results get their examples, of the same forms; None for a result that is the same for all.

    Random numbers are drawn once and are the same for all examples. fn may assign to Parameters only what is the same
    for all examples.
    Errors: RuntimeError for an axis that is no int or None or out of bounds, structures that do not fit, no argument
            with examples, different numbers of examples, or None for a result that differs from example to example;
            TypeError when fn is neither.

    >>> import graphopt as ms
    >>> x, w = ms.Tensor([[1.0, 2.0], [3.0, 4.0]]), ms.Tensor([1.0, 10.0])
    >>> print(ms.vmap(lambda x, w: (x * w).sum(), in_axes=(0, None))(x, w))
    [21. 43.]
    """
    cells = _cells(fn)
    if not callable(fn) and cells is None:
        raise TypeError(f"vmap: fn must be a Cell, a function or a CellList, found {found(fn)}")
    for name, axes in (("in_axes", in_axes), ("out_axes", out_axes)):
        _check_axes(name, axes)
    if cells is None and not _some(in_axes):
        raise RuntimeError(f"vmap: in_axes must name an axis of some argument, found {in_axes!r}")
    key = ("vmap", _frozen(in_axes), _frozen(out_axes))
    return kept(fn, key, lambda: _Vmapped(fn, in_axes, out_axes, cells))


def _cells(fn: Any) -> list[Any] | None:
    """The Cells of a CellList, or of a list or tuple of Cells; None for anything else."""
    if isinstance(fn, (list, tuple)) or (is_cell(fn) and type(fn).__name__ == "CellList"):
        items = list(fn)
        return items if items and all(map(is_cell, items)) else None
    return None


def _check_axes(name: str, axes: Any) -> None:
    if isinstance(axes, (tuple, list)):
        for item in axes:
            _check_axes(name, item)
    elif axes is not None and (not isinstance(axes, int) or isinstance(axes, bool)):
        raise RuntimeError(f"vmap: {name} must hold ints and None, found {found(axes)}")


def _some(axes: Any) -> bool:
    return any(map(_some, axes)) if isinstance(axes, (tuple, list)) else axes is not None


def _frozen(axes: Any) -> Any:
    return tuple(map(_frozen, axes)) if isinstance(axes, (tuple, list)) else axes


class _Vmapped(TracedFunction):
    """What `vmap` makes."""

    def __init__(self, fn: Any, in_axes: Axes, out_axes: Axes, cells: list[Any] | None):
        super().__init__("vmap", fn, f"vmap of {function_name(fn)}")
        self._in_axes = in_axes
        self._out_axes = out_axes
        self._cells = cells

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs:
            raise TypeError(f"{self.__name__}: takes positional arguments only, found {', '.join(map(repr, kwargs))}")
        return super().__call__(*args)

    def _signature(self) -> Any:
        return None if self._cells is not None else super()._signature()

    def _inline(self, *args: Any) -> Any:
        if self._cells is None:
            self._check_arguments(args, {})
        trace = active()
        assert trace is not None
        axes = self._per_argument(len(args))
        sizes: dict[int, str] = {}
        for k, (axis, value) in enumerate(zip(axes, args, strict=True)):
            _find_sizes(axis, value, f"argument {k}", sizes)
        if len(sizes) > 1:
            described = " and ".join(f"{n} ({what})" for n, what in sizes.items())
            raise TraceError(layout(f"{self.__name__}: different numbers of examples: {described}", here()))
        if self._cells is not None:
            return self._over_cells(self._cells, args, axes, sizes)
        if not sizes:
            raise TraceError(layout(f"{self.__name__}: no argument has examples", here()))
        examples, begun, before = Examples(next(iter(sizes))), len(trace.derivatives), trace.current
        asked = len(trace.results)
        trace.watch(self.fn)
        output = dense(prepared(self.fn)(*(_one(v, axis, examples, trace) for axis, v in zip(axes, args, strict=True))))
        nodes = [trace.node_of(t) for t in leaves(output)]
        every = examples.of(nodes)
        self._check_writes(trace, before, examples)
        keep_derivatives(trace, examples, begun)
        trace.results[asked:] = [(_all_hold(flag, examples), error) for flag, error in trace.results[asked:]]
        placed = zip(nodes, every, strict=True)
        return _place(output, self._out_axes, placed, examples, trace)

    def _per_argument(self, count: int) -> Sequence[Any]:
        if not isinstance(self._in_axes, (tuple, list)):
            return [self._in_axes] * count
        if len(self._in_axes) != count:
            what = f"{self.__name__}: in_axes has {len(self._in_axes)} entries for {count} arguments"
            raise TraceError(layout(what, here()))
        return self._in_axes

    def _check_writes(self, trace: Trace, before: Any, examples: Examples) -> None:
        for parameter, node in trace.written_since(before):
            examples.of([node])
            if node in examples:
                what = f"{self.__name__}: Parameter {parameter.name} is assigned a value of its own for each example"
                raise TraceError(layout(what, here(), hint="return the value, and assign to the Parameter outside"))

    def _over_cells(self, cells: list[Any], args: Sequence[Any], axes: Sequence[Any], sizes: dict[int, str]) -> Any:
        """The k-th Cell on the k-th example; what differs is stacked."""
        if sizes and next(iter(sizes)) != len(cells):
            what = f"{self.__name__}: {next(iter(sizes))} examples for {len(cells)} Cells"
            raise TraceError(layout(what, here()))
        outputs = [cell(*(_nth(v, axis, k) for axis, v in zip(axes, args, strict=True))) for k, cell in enumerate(cells)]
        rows = [list(leaves(output)) for output in outputs]
        stacked = [apply(_stacked, *column) for column in zip(*rows, strict=True)]
        every = Examples(len(cells))
        trace = active()
        assert trace is not None
        pairs = []
        for tensor in stacked:
            node = trace.node_of(tensor)
            one = input_node("one", node.type.with_shape(node.shape[1:]))
            every.stand_for(one, node)
            pairs.append((one, node))
        ones = replace_tensors(outputs[0], (wrap_node(one, trace) for one, _ in pairs))
        return _place(ones, self._out_axes, iter(pairs), every, trace)


def _all_hold(flag: Node, examples: Examples) -> Node:
    """Whether a bool of one example holds for all."""
    (every,) = examples.of([flag])
    return reduce_and(every, axes=(0,)) if flag in examples else every


def keep_derivatives(trace: Trace, examples: Examples, begun: int) -> None:
    """Let derivatives of one's own that the trace met for one example since `begun` be those of all examples."""
    trace.derivatives[begun:] = [examples.derivative(part) for part in trace.derivatives[begun:]]


def _place_of(axis: int, rank: int, name: str) -> int:
    """The axis counted from the start.

    Errors: RuntimeError when it is out of bounds.
    """
    if not -rank <= axis < rank:
        raise TraceError(layout(f"vmap: axis {axis} of {name} is outside -{rank}..{rank - 1}", here()))
    return axis % rank


def _entries(axes: Any, value: Any, name: str) -> Sequence[Any]:
    """The axes of a container's items."""
    if not isinstance(axes, (tuple, list)):
        return [axes] * len(value)
    if len(axes) != len(value):
        raise TraceError(layout(f"vmap: {name} has {len(axes)} entries for a container of {len(value)}", here()))
    return axes


def _find_sizes(axes: Any, value: Any, what: str, sizes: dict[int, str]) -> None:
    """Note the numbers of examples that an argument has."""
    if isinstance(value, (tuple, list, dict)):
        items = list(value.values()) if isinstance(value, dict) else value
        for k, (axis, item) in enumerate(zip(_entries(axes, items, "in_axes"), items, strict=True)):
            _find_sizes(axis, item, f"{what}[{k}]", sizes)
    elif isinstance(axes, (tuple, list)):
        raise TraceError(layout(f"vmap: in_axes {axes!r} stands for {what}, which is no container", here()))
    elif axes is not None:
        if not isinstance(value, Tensor) or value._weak:
            described = f"vmap: {what} must be a Tensor, as in_axes names axis {axes} of it, found {found(value)}"
            raise TraceError(layout(described, here(), hint="None in in_axes passes it on as it is"))
        sizes.setdefault(value.shape[_place_of(axes, value.ndim, f"{what} in in_axes")], what)


def _one(value: Any, axes: Any, examples: Examples, trace: Trace) -> Any:
    """The argument as one example sees it."""
    if isinstance(value, dict):
        listed = _entries(axes, value, "in_axes")
        return {k: _one(v, a, examples, trace) for a, (k, v) in zip(listed, value.items(), strict=True)}
    if isinstance(value, (tuple, list)):
        return type(value)(_one(v, a, examples, trace) for a, v in zip(_entries(axes, value, "in_axes"), value, strict=True))
    if axes is None:
        return value
    node = trace.node_of(value)
    rows = _moved(node, axes % node.type.rank, 0)
    one = input_node("example", rows.type.with_shape(rows.shape[1:]), here())
    examples.stand_for(one, rows)
    return wrap_node(one, trace)


def _nth(value: Any, axes: Any, k: int) -> Any:
    """The k-th example of an argument."""
    if isinstance(value, (tuple, list)):
        return type(value)(_nth(v, a, k) for a, v in zip(_entries(axes, value, "in_axes"), value, strict=True))
    if axes is None:
        return value

    def take(node: Node) -> Node:
        place = axes % node.type.rank
        row = along(node, place, k, k + 1)
        return reshape(row, shape=node.shape[:place] + node.shape[place + 1 :])

    return apply(take, value)


def _stacked(*rows: Node) -> Node:
    return concat(*(reshape(r, shape=(1, *r.shape)) for r in rows), axis=0)


def _moved(node: Node, source: int, target: int) -> Node:
    if source == target:
        return node
    perm = [k for k in range(node.type.rank) if k != source]
    perm.insert(target, source)
    return transpose(node, perm=tuple(perm))


def _place(output: Any, axes: Any, pairs: Any, examples: Examples, trace: Trace) -> Any:
    """The result with the examples of its tensors where out_axes says."""
    if isinstance(output, dict):
        listed = _entries(axes, output, "out_axes")
        return {k: _place(v, a, pairs, examples, trace) for a, (k, v) in zip(listed, output.items(), strict=True)}
    if isinstance(output, (tuple, list)):
        listed = _entries(axes, output, "out_axes")
        return type(output)(_place(v, a, pairs, examples, trace) for a, v in zip(listed, output, strict=True))
    if output is None:
        return None
    if isinstance(output, Tensor):
        node, every = next(pairs)
    else:
        node = every = trace.node_of(to_tensor(output))
    if isinstance(axes, (tuple, list)):
        raise TraceError(layout(f"vmap: out_axes {axes!r} stands for a result that is no container", here()))
    if axes is None:
        if node in examples:
            what = "vmap: out_axes is None for a result that differs from example to example"
            raise TraceError(layout(what, here(), [f"result: {node.type}"]))
        return wrap_node(every, trace)
    rows = every if node in examples else repeated(every, examples.size)
    return wrap_node(_moved(rows, 0, _place_of(axes, rows.type.rank, "a result in out_axes")), trace)
