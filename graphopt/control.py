"""Control flow on Tensors as functions: `cond`, `while_loop`, `fori_loop`, `scan`.

In GRAPH_MODE a body is traced once, and stays one body however often it runs: loops are loops in the native code too.
In PYNATIVE_MODE the same functions run step by step. Everything a body uses from outside is passed to it, Parameters
included; it may assign to Parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.common.border import border
from graphopt.common.checks import found
from graphopt.common.parameter import Parameter
from graphopt.common.regions import NUMBERS, Region, Structure, all_hold, same_types
from graphopt.common.tensor import Tensor, apply, to_tensor, wrap_array, wrap_node
from graphopt.common.trace import Trace, active
from graphopt.errors import DTypeError, ShapeError, layout
from graphopt.ir.graph import Graph, Node, substitute
from graphopt.ir.types import DType, TensorType, bool_, i32, i64
from graphopt.opdefs import control
from graphopt.opdefs.bits import logical_and, logical_not
from graphopt.opdefs.elementwise import cast, le, lt, maximum, minimum, ne, sub
from graphopt.opdefs.opdef import constant
from graphopt.opdefs.shape import concat, iota, reshape
from graphopt.where import here

BODY = ("starts as", "the body returns")


@border
def cond(pred: Any, then: Callable[..., Any], other: Callable[..., Any], *operands: Any) -> Any:
    """`then(*operands)` where `pred` holds, else `other(*operands)`; only the chosen one runs, its derivative too.

    pred:        a Tensor with one element, or a Python value.
    then, other: functions that return the same structure of Tensors with the same shapes and dtypes. A number that one
                 of them returns takes the dtype of the other's Tensor.

    Errors: TypeError when then or other cannot be called; ValueError when pred has several elements, or the results
            differ in structure, shape or dtype.

    >>> import graphopt as ms
    >>> x = ms.Tensor(-3.0)
    >>> float(ms.control.cond(x > 0, lambda: x, lambda: x * x))
    9.0
    """
    _callable("cond", then=then, other=other)
    trace = active()
    if not isinstance(pred, Tensor) or trace is None or pred._array is not None:
        return (then if _one("cond", pred) else other)(*operands)
    structure: list[Structure] = []

    def choose(results: Sequence[Any], regions: Sequence[Region]) -> list[list[Tensor]]:
        structure.extend(Structure(r) for r in results)
        return _same_branches(structure, regions)

    made = cond_of(pred, lambda: then(*operands), lambda: other(*operands), choose)
    return structure[0].fill(made)


def _same_branches(results: Sequence[Structure], regions: Sequence[Region]) -> list[list[Tensor]]:
    """The tensors of both branches; a number takes the dtype of the other branch's Tensor.

    Errors: ShapeError naming the element that differs.
    """
    chosen: list[list[Tensor]] = [[], []]
    for k, (path, *tensors) in enumerate(
        results[0].pairs(results[1], "cond: the branches differ", ("then returns", "other returns"))
    ):
        nodes = [r.node_of(t) for r, t in zip(regions, tensors, strict=True)]
        for mine, theirs in ((0, 1), (1, 0)):
            if results[mine].numbers[k] and not results[theirs].numbers[k]:
                nodes[mine] = cast(nodes[mine], dtype=nodes[theirs].dtype)
        if nodes[0].type != nodes[1].type:
            a, b = (f"{n.dtype.name}{list(n.shape)}" for n in nodes)
            place = f"element {path} is" if path else "result is"
            raise ShapeError(layout(f"cond: {place} {a} in then, {b} in other", here(), hint="cast or broadcast one of them"))
        for side, region, node in zip(chosen, regions, nodes, strict=True):
            side.append(wrap_node(node, region))
    return chosen


def cond_of(
    pred: Tensor,
    then: Callable[[], Any],
    other: Callable[[], Any],
    choose: Callable[[Sequence[Any], Sequence[Region]], list[list[Tensor]]],
) -> list[Tensor]:
    """A traced branch: of two lists of Tensors, the one that `pred` picks.

    choose: both lists, of equal types, from what the two functions returned and the regions they were traced in.
    """
    trace = active()
    assert trace is not None
    regions = [Region(name, trace) for name in ("then", "other")]
    results = [r.run(f) for r, f in zip(regions, (then, other), strict=True)]
    chosen = choose(results, regions)
    outputs = [[r.node_of(t) for t in side] for r, side in zip(regions, chosen, strict=True)]
    count = len(outputs[0])
    written = _distinct([p for r in regions for p, _, _ in r.updates()])
    errors = [error for r in regions for _, error in r.results]
    for region, side in zip(regions, outputs, strict=True):
        side += [region.read(p) for p in written]
        side += [all_hold([flag for flag, _ in region.results])] * bool(errors)
    operand_nodes = list(dict.fromkeys(o for r in regions for o in r.captured))
    graphs = [r.graph_of([r.capture(o) for o in operand_nodes], side) for r, side in zip(regions, outputs, strict=True)]
    made = control.items(control.branch(_single(trace.node_of(pred)), *operand_nodes, then=graphs[0], other=graphs[1]))
    _write(trace, written, made[count:])
    if errors:
        trace.results.append((made[-1], errors[0]))
    return [wrap_node(n, trace) for n in made[:count]]


@border
def while_loop(test: Callable[[Any], Any], body: Callable[[Any], Any], init: Any, bound: int | None = None) -> Any:
    """`init = body(init)` as long as `test(init)` holds; the last value.

    init:  a Tensor or number, or tuples, lists and dicts of them; `body` returns the same structure, shapes and dtypes.
    bound: the most trips there can be. More are a RuntimeError, and change no Parameter. With a bound a gradient keeps
           what it needs of so many trips; without one it keeps some carries, and runs trips again from them.

    Errors: TypeError when test or body cannot be called or bound is no int; ValueError when the body's result differs
            from init in structure, shape or dtype (it names the element), or test gives no single value; RuntimeError.

    >>> import graphopt as ms
    >>> float(ms.control.while_loop(lambda x: x < 100.0, lambda x: x * 2.0, ms.Tensor(3.0)))
    192.0
    """
    _callable("while_loop", test=test, body=body)
    _whole("while_loop", bound=bound)
    carry = Structure(init)
    trace = active()
    if trace is None or trace.concrete:
        value, trips = carry.fill(carry.tensors), 0
        while _one("while_loop", test(value)):
            if trips == bound:
                raise RuntimeError(_too_many("while_loop", bound))
            value = carry.fill(same_types("while_loop: the carry must keep its type", carry, Structure(body(value)), BODY))
            trips += 1
        return value
    made = _Loop("while_loop", trace, carry)
    made.test_with(test)
    made.body_with(lambda value: (body(value), None))
    return made.finish(bound, False)[0]


@border
def fori_loop(lower: Any, upper: Any, body: Callable[[Any, Any], Any], init: Any, bound: int | None = None) -> Any:
    """`init = body(i, init)` for i from lower to upper - 1; the last value. i is an int64 Tensor.

    lower, upper: ints, or integer Tensors with one element.
    init, bound:  as in `while_loop`; a bound is of use for Tensors only.

    Errors: as `while_loop`; TypeError when lower or upper is no integer.

    >>> import graphopt as ms
    >>> int(ms.control.fori_loop(0, 5, lambda i, total: total + i, 0))
    10
    """
    _callable("fori_loop", body=body)
    _whole("fori_loop", bound=bound)
    limits = [_limit(name, value) for name, value in (("lower", lower), ("upper", upper))]
    carry = Structure(init)
    trace = active()
    known = [v if isinstance(v, int) else v._array for v in limits]
    if trace is None or trace.concrete:
        first, last = (int(v) for v in known)
        if bound is not None and last - first > bound:
            raise RuntimeError(_too_many("fori_loop", bound))
        value = carry.fill(carry.tensors)
        for i in range(first, last):
            result = body(Tensor(i), value)
            value = carry.fill(same_types("fori_loop: the carry must keep its type", carry, Structure(result), BODY))
        return value
    if None not in [v if isinstance(v, int) else None for v in known]:
        first, last = (int(v) for v in known)
        count = max(last - first, 0)
        made = _Loop("fori_loop", trace, carry)
        row = made.row(iota(shape=(count,), axis=0, dtype=i64) + first)
        made.region.counters[row] = range(first, first + count)
        made.body_with(lambda value: (body(wrap_node(row, made.region), value), None))
        return made.finish(count, False)[0]
    return _fori_between(limits, body, carry, bound, trace)


def _fori_between(
    limits: Sequence[Any], body: Callable[[Any, Any], Any], carry: Structure, bound: int | None, trace: Trace
) -> Any:
    """A counted loop between limits that are known when it runs."""
    first, last = (_single(trace.node_of(to_tensor(v)), i64) for v in limits)
    if bound is not None:
        made = _Loop("fori_loop", trace, carry)
        row = made.row(iota(shape=(bound,), axis=0, dtype=i64) + first)
        made.body_with(lambda value: (body(wrap_node(row, made.region), value), None))
        count = sub(last, first)
        trips = cast(minimum(maximum(count, constant(0, i64)), constant(bound, i64)), dtype=i32)
        trace.results.append((le(count, constant(bound, i64)), _too_many("fori_loop", bound)))
        return made.finish(bound, False, trips)[0]
    whole = Structure((wrap_node(first, trace), carry.fill(carry.tensors)))
    loop = _Loop("fori_loop", trace, whole)
    loop.test_with(lambda v: wrap_node(lt(loop.test.node_of(v[0]), loop.test.capture(last)), loop.test))
    loop.body_with(lambda v: ((v[0] + 1, body(v[0], v[1])), None))
    return loop.finish(None, False)[0][1]


@border
def scan(
    body: Callable[[Any, Any], Any], init: Any, xs: Any = None, length: int | None = None, reverse: bool = False
) -> tuple[Any, Any]:
    """Carry a value along the rows of `xs`: `carry, y = body(carry, x)` for each; (the last carry, all y stacked).

    init:    as in `while_loop`.
    xs:      Tensors (in tuples, lists, dicts) of one size along axis 0; None: the body gets None, `length` times.
    reverse: from the last row to the first; y of a row stands where its x does.

    Errors: TypeError when body cannot be called, or length is no int; ValueError when the rows of xs and length differ,
            body does not return two values, or its carry differs from init in structure, shape or dtype.

    >>> import graphopt as ms
    >>> total, sums = ms.control.scan(lambda total, x: (total + x, total + x), ms.Tensor(0.0), ms.Tensor([1.0, 2.0, 3.0]))
    >>> float(total), sums.asnumpy().tolist()
    (6.0, [1.0, 3.0, 6.0])
    """
    _callable("scan", body=body)
    _whole("scan", length=length)
    carry, rows = Structure(init), Structure(xs)
    length = _rows("scan", rows, length)
    trace = active()
    if trace is None or trace.concrete:
        return _scan_eagerly(body, carry, rows, length, reverse)
    made = _Loop("scan", trace, carry)
    leaves = [made.row(trace.node_of(t)) for t in rows.tensors]
    x = rows.fill([wrap_node(n, made.region) for n in leaves])
    made.body_with(lambda value: pair("scan: body", body(value, x)))
    return made.finish(length, reverse)


def _scan_eagerly(
    body: Callable[[Any, Any], Any], carry: Structure, rows: Structure, length: int, reverse: bool
) -> tuple[Any, Any]:
    value = carry.fill(carry.tensors)
    results: list[Any] = [None] * length
    for k in reversed(range(length)) if reverse else range(length):
        value, y = pair("scan: body", body(value, rows.fill([t[k] for t in rows.tensors])))
        value = carry.fill(same_types("scan: the carry must keep its type", carry, Structure(value), BODY))
        results[k] = Structure(y)
    if not length:
        trace = Trace("scan")
        with trace.running():
            given = rows.fill([wrap_node(trace.input("x", t._type.with_shape(t.shape[1:])), trace) for t in rows.tensors])
            y = Structure(pair("scan: body", body(value, given))[1])
        return value, y.fill([wrap_array(np.zeros((0, *t.shape), t.dtype.numpy)) for t in y.tensors])
    for y in results[1:]:
        same_types("scan: y must keep its type", results[0], y, ("first it is", "later"))
    return value, results[0].fill([stacked([y.tensors[k] for y in results]) for k in range(len(results[0].tensors))])


@dataclass(frozen=True)
class _Traced:
    """A traced body: the new carry, the results of a trip, and the structure of these."""

    carry: list[Node]
    outputs: list[Node]
    structure: Structure


class _Loop:
    """A loop in the making: operands, traced test and body."""

    def __init__(self, owner: str, trace: Trace, carry: Structure):
        self.owner = owner
        self.trace = trace
        self.carry = carry
        self.first = [trace.node_of(t) for t in carry.tensors]
        self.weak = [t._weak or (number and t.dtype.is_float) for t, number in zip(carry.tensors, carry.numbers, strict=True)]
        self.region = Region("body", trace)
        self.test = Region("test", trace)
        self.leaves = self._leaves(self.region)
        self.test_leaves = self._leaves(self.test)
        self.goes_on: Node | None = None
        self.rows: list[tuple[Node, Node]] = []
        self.traced: _Traced

    def _leaves(self, region: Region) -> list[Node]:
        return [region.leaf(f"carry{k}", n.type) for k, n in enumerate(self.first)]

    def _given(self, region: Region, leaves: Sequence[Node]) -> Any:
        made = [wrap_node(n, region, weak=w and n.shape == ()) for n, w in zip(leaves, self.weak, strict=True)]
        return self.carry.fill(made)

    def row(self, stacked: Node) -> Node:
        """The leaf for a row of an operand."""
        leaf = self.region.leaf("x", stacked.type.with_shape(stacked.shape[1:]))
        self.rows.append((leaf, stacked))
        return leaf

    def test_with(self, test: Callable[[Any], Any]) -> None:
        result = self.test.run(test, self._given(self.test, self.test_leaves))
        if self.test.updates():
            (parameter, _, _), *_ = self.test.updates()
            raise DTypeError(layout(f"{self.owner}: test assigns to Parameter {parameter.name}; only the body may", here()))
        if not isinstance(result, (Tensor, *NUMBERS)):
            raise DTypeError(layout(f"{self.owner}: test must return a bool, found {found(result)}", here()))
        self.goes_on = _single(self.test.node_of(to_tensor(result)))

    def body_with(self, body: Callable[[Any], Any]) -> None:
        value, result = self.region.run(body, self._given(self.region, self.leaves))
        after = Structure(value)
        for k, (number, old) in enumerate(zip(after.numbers, self.carry.tensors, strict=False)):
            if number and after.tensors[k].shape == old.shape == ():
                after.tensors[k] = after.tensors[k].astype(old.dtype)
        fresh = same_types(f"{self.owner}: the carry must keep its type", self.carry, after, BODY)
        results = Structure(result)
        self.traced = _Traced([self.region.node_of(t) for t in fresh], [self.region.node_of(t) for t in results.tensors], results)

    def finish(self, length: int | None, reverse: bool, trips: Node | None = None) -> tuple[Any, Any]:
        """Append the loop: (the last carry, the stacked results)."""
        region, test, trace = self.region, self.test, self.trace
        written = [(p, region.captured[trace.read(p)], value) for p, _, value in region.updates()]
        first = [*self.first, *(trace.read(p) for p, _, _ in written)]
        leaves = [*self.leaves, *(leaf for _, leaf, _ in written)]
        fresh = [*self.traced.carry, *(value for _, _, value in written)]
        test_leaves = [*self.test_leaves, *(test.capture(trace.read(p)) for p, _, _ in written)]
        if region.results:
            first.append(constant(True, bool_))
            leaves.append(region.leaf("ok", TensorType(bool_, ())))
            test_leaves.append(test.leaf("ok", TensorType(bool_, ())))
            fresh.append(logical_and(leaves[-1], all_hold([flag for flag, _ in region.results])))
        outside = {o: leaf for o, leaf in region.captured.items() if leaf not in leaves}
        tested = {o: leaf for o, leaf in test.captured.items() if leaf not in test_leaves}
        inputs = [*(leaf for leaf, _ in self.rows), *outside.values()]
        body = region.graph_of(inputs, self.traced.outputs, leaves, fresh)
        check = test.graph_of(list(tested.values()), [self.goes_on], test_leaves) if self.goes_on is not None else None
        operands = [*first, *(stacked for _, stacked in self.rows), *outside, *(tested if check is not None else ())]
        node = control.loop(
            *operands, *([] if trips is None else [trips]), body=body, test=check, length=length, reverse=reverse,
            stacked=len(self.rows), counted=trips is not None,
        )  # fmt: skip
        made = control.items(node)
        _write(trace, [p for p, _, _ in written], made[len(self.first) :])
        if region.results:
            trace.results.append((made[len(first) - 1], region.results[0][1]))
        if check is not None and length is not None:
            self._bounded(check, made, list(tested), length)
        return self._results(made, len(first))

    def _bounded(self, check: Graph, made: Sequence[Node], constants: Sequence[Node], bound: int) -> None:
        """After the last trip the test must fail."""
        final = dict(zip(check.state, made, strict=False)) | dict(zip(check.inputs, constants, strict=True))
        (goes_on,) = substitute(check.outputs, final)
        self.trace.results.append((logical_not(goes_on), _too_many(self.owner, bound)))

    def _results(self, made: Sequence[Node], carried: int) -> tuple[Any, Any]:
        last = [wrap_node(n, self.trace, weak=w and n.shape == ()) for n, w in zip(made, self.weak, strict=False)]
        stacked = made[carried : carried + len(self.traced.outputs)]
        return self.carry.fill(last), self.traced.structure.wrapped(stacked, self.trace)


def _write(trace: Trace, parameters: Sequence[Parameter], values: Sequence[Node]) -> None:
    for parameter, value in zip(parameters, values, strict=False):
        trace.write(parameter, value)


def _distinct(parameters: Sequence[Parameter]) -> list[Parameter]:
    return list({id(p): p for p in parameters}.values())


def _single(node: Node, dtype: DType = bool_) -> Node:
    """A node of one element as one value of shape () and that dtype."""
    if node.type.size != 1:
        raise ShapeError(
            layout(f"a condition must have one element, found shape {node.shape}", here(), hint="reduce it: .any() or .all()")
        )
    node = node if node.shape == () else reshape(node, shape=())
    if node.dtype is dtype:
        return node
    return ne(node, constant(0, node.dtype)) if dtype is bool_ else cast(node, dtype=dtype)


def _one(owner: str, value: Any) -> bool:
    """A condition that has a value."""
    if isinstance(value, Tensor) and value.size != 1:
        what = f"{owner}: a condition must have one element, found shape {value.shape}"
        raise ShapeError(layout(what, here(), hint="reduce it: .any() or .all()"))
    return bool(value)


def pair(owner: str, result: Any) -> tuple[Any, Any]:
    """The two values that a body of scan returns.

    Errors: ValueError when it returns anything else.
    """
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise ShapeError(layout(f"{owner} must return (carry, y), found {found(result)}", here()))
    return result[0], result[1]


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one type as the rows of one."""

    def stack(*nodes: Node) -> Node:
        return concat(*[reshape(n, shape=(1, *n.shape)) for n in nodes], axis=0)

    return apply(stack, *tensors)  # type: ignore[no-any-return]


def _rows(owner: str, rows: Structure, length: int | None) -> int:
    """The number of trips along stacked operands."""
    for path, tensor in zip(rows.paths, rows.tensors, strict=True):
        if not tensor.shape:
            raise ShapeError(layout(f"{owner}: xs{path} has no axis to go along: its shape is ()", here()))
        length = tensor.shape[0] if length is None else length
        if tensor.shape[0] != length:
            raise ShapeError(layout(f"{owner}: xs{path} has {tensor.shape[0]} rows, expected {length}", here()))
    if length is None:
        raise ShapeError(layout(f"{owner}: xs holds no Tensor, so length must say how many trips there are", here()))
    return length


def _limit(name: str, value: Any) -> Any:
    """A bound of fori_loop: an int or an integer Tensor of one element."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return int(value)
    if not isinstance(value, Tensor) or not value.dtype.is_integer or value.size != 1:
        shown = found(value) if not isinstance(value, Tensor) else f"{value.dtype.name}{list(value.shape)}"
        raise DTypeError(layout(f"fori_loop: {name} must be an int or an integer Tensor with one element, found {shown}", here()))
    return value


def _whole(owner: str, **values: Any) -> None:
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise DTypeError(layout(f"{owner}: {name} must be an int, found {found(value)}", here()))
        if value < 0:
            raise ShapeError(layout(f"{owner}: {name} must not be negative, found {value}", here()))


def _callable(owner: str, **functions: Any) -> None:
    for name, function in functions.items():
        if not callable(function):
            raise DTypeError(layout(f"{owner}: {name} must be a function, found {found(function)}", here()))


def _too_many(owner: str, bound: int | None) -> str:
    return layout(f"{owner}: the loop went on after {bound} trips, its bound", here(), hint="raise bound=")


__all__ = ["cond", "cond_of", "fori_loop", "scan", "while_loop"]
