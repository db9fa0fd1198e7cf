"""What rewritten branches and loops call (`graphopt.common.syntax`): Python's own meaning for Python's values, a
sub-graph for a traced Tensor.

A branch or loop on a Tensor is traced apart; the variables it may assign to are read after it. In a branch a variable
becomes a Tensor that the op chooses; a loop carries what its body changes, numbers as Tensors.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np

from graphopt import control
from graphopt.common.regions import Region, Structure
from graphopt.common.syntax import twin
from graphopt.common.syntax.jumps import PREFIX
from graphopt.common.tensor import Tensor, apply, to_tensor, wrap_node
from graphopt.common.trace import Trace, active
from graphopt.errors import ShapeError, TraceError, layout
from graphopt.ir.types import bool_
from graphopt.opdefs.bits import logical_and, logical_not, logical_or
from graphopt.opdefs.elementwise import cast, maximum, minimum
from graphopt.opdefs.opdef import full
from graphopt.opdefs.shape import reshape
from graphopt.where import here

Read = Callable[[], tuple[Any, ...]] | None
Write = Callable[[tuple[Any, ...]], None] | None

_ROUNDS = 8  # a body is traced again while it changes more variables, or their types; each round adds some


class Unset:
    """A variable without a value: not assigned yet, or not in every branch or trip of something traced."""

    def __init__(self, name: str, reason: str = ""):
        self._graphopt_name = name
        self._graphopt_reason = reason


def value(found: Any) -> Any:
    """A variable's value.

    Errors: UnboundLocalError when it was never assigned; TraceError when a traced branch or loop left it undecided.
    """
    if isinstance(found, Unset):
        name, reason = found._graphopt_name, found._graphopt_reason
        if not reason:
            raise UnboundLocalError(f"cannot access local variable '{name}' where it is not associated with a value")
        shown = "what the function returns" if name.startswith(PREFIX) else f"variable {name}"
        raise TraceError(layout(f"{shown} has no value here: {reason}", here()))
    return found


# statements -------------------------------------------------------------------------------------------------------


def branch(
    test: Any, then: Callable[[], None], otherwise: Callable[[], None], names: Sequence[str], read: Read, write: Write
) -> None:
    """`if test: then() else: otherwise()`; the branches may assign to the variables `names`."""
    if not _traced(test):
        return then() if test else otherwise()
    variables = _Variables(names, read, write)
    def side(body: Callable[[], None]) -> Callable[[], list[Any]]:
        def run() -> list[Any]:
            with variables.apart():
                given = [_own_all(v) for v in variables.now()]
                body()
                after = zip(variables.before, given, variables.now(), strict=True)
                return [before if _same(old, new) else new for before, old, new in after]

        return run

    merged = _Merge(names, variables.before, here())
    variables.write(merged.run(test, side(then), side(otherwise)))


def loop(test: Callable[[], Any], body: Callable[[], None], names: Sequence[str], read: Read, write: Write) -> None:
    """`while test(): body()`."""
    while True:
        going = test()
        if _traced(going):
            return _traced_loop(test, body, _Variables(names, read, write))
        if not going:
            return None
        body()


def each(
    items: Any, body: Callable[[Any], None], left: Callable[[], Any], names: Sequence[str], read: Read, write: Write
) -> None:
    """`for item in items: body(item)`, until `left()`."""
    if isinstance(items, Numbers):
        return _counted(items, body, left, names, read, write)
    for item in items:
        gone = left()
        if _traced(gone):
            branch(negated(gone), partial(body, item), lambda: None, names, read, write)
        elif gone:
            return None
        else:
            body(item)
    return None


@dataclass(frozen=True)
class Numbers:
    """A `range` with traced Tensors among its bounds."""

    start: Any
    stop: Any
    step: int


def numbers(kind: Any, *bounds: Any) -> Any:
    """`range(*bounds)`, whose start and stop may be traced Tensors.

    Errors: TraceError when the step is a traced Tensor.
    """
    if kind is not range or not any(_traced(b) for b in bounds) or len(bounds) > 3:
        return kind(*bounds)
    start, stop, step = (0, bounds[0], 1) if len(bounds) == 1 else (*bounds, 1)[:3]
    for bound in (start, stop):
        if isinstance(bound, Tensor) and (bound.size != 1 or not bound.dtype.is_integer):
            raise TypeError(f"range: expected an integer or a Tensor with one, found {bound.dtype.name}{list(bound.shape)}")
    if _traced(step):
        raise TraceError(layout("range: the step must be an int while GRAPH_MODE is tracing, found a Tensor", here()))
    if step == 0:
        raise ValueError("range: the step must not be zero")
    return Numbers(start, stop, int(step))


def plain(test: Any, reason: str) -> Any:
    """A condition that has to be Python's.

    Errors: TraceError when it is a traced Tensor.
    """
    if _traced(test):
        what = f"the value of a Tensor is a condition while GRAPH_MODE is tracing, and it cannot be traced: {reason}"
        raise TraceError(layout(what, here(), hint="write that part without it, or run in PYNATIVE_MODE"))
    return test


# expressions ------------------------------------------------------------------------------------------------------


def both(first: Any, *others: Callable[[], Any]) -> Any:
    """`first and ...`."""
    for other in others:
        if _traced(first):
            first = _logical(logical_and, first, other())
        elif not first:
            return first
        else:
            first = other()
    return first


def either(first: Any, *others: Callable[[], Any]) -> Any:
    """`first or ...`."""
    for other in others:
        if _traced(first):
            first = _logical(logical_or, first, other())
        elif first:
            return first
        else:
            first = other()
    return first


def negated(operand: Any) -> Any:
    """`not operand`."""
    return apply(logical_not, _truth(operand)) if _traced(operand) else not operand


def either_value(test: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """`then() if test else otherwise()`."""
    if not _traced(test):
        return then() if test else otherwise()
    return value(_Merge([f"{PREFIX}value"], [Unset("")], here()).run(test, lambda: [then()], lambda: [otherwise()])[0])


def chain(first: Any, others: Sequence[Callable[[], Any]], tests: Sequence[Callable[[Any, Any], Any]]) -> Any:
    """`first < other < ...`: each operand is computed once, and none after a comparison that is known to fail."""
    result: Any = True
    for other, test in zip(others, tests, strict=True):
        if not _traced(result) and not result:
            return result
        after = other()
        holds = test(first, after)
        result = _logical(logical_and, result, holds) if _traced(result) else holds
        first = after
    return result


def callee(function: Any) -> Any:
    """What to call instead of `function`: its rewritten twin; for `max` and `min` what also takes traced Tensors."""
    if function is builtins.max or function is builtins.min:
        return partial(_extreme, function)
    return rewritten(function)


def _extreme(function: Any, *args: Any, **kwargs: Any) -> Any:
    """`max` or `min` of some arguments, or of the elements of one."""
    values = args[0] if len(args) == 1 and isinstance(args[0], (tuple, list, Tensor)) else args
    if kwargs or not any(_traced(v) for v in (values, *values)):
        return function(*args, **kwargs)
    return reduce(partial(apply, maximum if function is builtins.max else minimum), values)


def rewritten(function: Any) -> Any:
    """A function of the user's whose branches and loops accept traced Tensors; anything else as it is."""
    return twin(function, sys.modules[__name__])


def prepared(function: Any) -> Any:
    """What the trace at hand calls instead of a function: its rewritten twin, once a Tensor was found to be a condition."""
    trace = active()
    return rewritten(function) if trace is not None and trace.rewrites else function


# traced branches --------------------------------------------------------------------------------------------------


class _Variables:
    """The variables that a construct may assign to."""

    def __init__(self, names: Sequence[str], read: Read, write: Write):
        self.names = names
        self._read = read
        self._write = write
        self.before = self.now()

    def now(self) -> list[Any]:
        return list(self._read()) if self._read is not None else []

    def write(self, values: Sequence[Any]) -> None:
        if self._write is not None:
            self._write(tuple(values))

    def apart(self) -> _Apart:
        return _Apart(self)


class _Apart:
    """Within the block the variables hold Tensor objects of their own, as assigning to elements changes an object."""

    def __init__(self, variables: _Variables):
        self._variables = variables

    def __enter__(self) -> None:
        self._variables.write([_own(v) for v in self._variables.before])

    def __exit__(self, *problem: object) -> None:
        self._variables.write(self._variables.before)


def _own(found: Any) -> Any:
    """A Tensor under an object of its own; anything else as it is."""
    trace = active()
    if not _traced(found) or found._is_parameter:
        return found
    assert trace is not None
    return wrap_node(trace.node_of(found), trace, weak=found._weak)


def _same(a: Any, b: Any) -> bool:
    """Whether a variable still holds what it held: the object, or for a traced Tensor the node."""
    if a is b:
        return True
    if not (_traced(a) and _traced(b)):
        return False
    trace = active()
    assert trace is not None
    return not a._is_parameter and not b._is_parameter and trace.node_of(a) is trace.node_of(b)


class _Merge:
    """Two lists of values, one from each branch, as one that `control.cond` chooses from.

    Both branches are traced before it is known which values differ; so `cond` sees those that are Tensors or numbers.
    """

    def __init__(self, names: Sequence[str], before: Sequence[Any], where: Any):
        self._names = names
        self._before = before
        self._where = where

    def run(self, test: Any, then: Callable[[], list[Any]], otherwise: Callable[[], list[Any]]) -> list[Any]:
        """The values after `then` where test holds, else after `otherwise`."""
        plan: list[Any] = []

        def choose(sides: Sequence[list[Any]], regions: Sequence[Region]) -> list[list[Tensor]]:
            chosen: list[list[Tensor]] = [[], []]
            for k, (a, b) in enumerate(zip(*sides, strict=True)):
                plan.append(self._decide(k, a, b, regions, chosen))
            return chosen

        made = control.cond_of(_truth(test), then, otherwise, choose)
        return [p(made) if callable(p) else p for p in plan]

    def _decide(
        self, k: int, a: Any, b: Any, regions: Sequence[Region], chosen: list[list[Tensor]]
    ) -> Callable[[list[Tensor]], Any] | Any:
        """What variable k holds afterwards: a value, or a function of the chosen Tensors."""
        before = self._before[k]
        if a is before and b is before:
            return lambda made: before
        if isinstance(a, Unset) and isinstance(b, Unset):
            return a if a._graphopt_reason else b
        if self._names[k].startswith(f"{PREFIX}result"):  # where nothing was returned nobody reads it
            a = _blank(b) if isinstance(a, Unset) else a
            b = _blank(a) if isinstance(b, Unset) else b
        if isinstance(a, Unset) or isinstance(b, Unset):
            return self._undecided(k, "only one branch assigns to it")
        ours, theirs = Structure(a), Structure(b)
        same = ours.paths == theirs.paths and [p for p, _ in ours.fixed] == [p for p, _ in theirs.fixed]
        if not same or any(x is not y and not _equal(x, y) for (_, x), (_, y) in zip(ours.fixed, theirs.fixed, strict=True)):
            return self._undecided(k, f"it is {_shown(a)} in one branch and {_shown(b)} in the other")
        if not ours.tensors or (all(ours.numbers) and all(theirs.numbers) and _equal(a, b)):
            return lambda made: a
        pairs = []
        for x, y, x_number, y_number in zip(ours.tensors, theirs.tensors, ours.numbers, theirs.numbers, strict=True):
            x, y = _joined(x, y, x_number, y_number, regions)
            if x.shape != y.shape or x.dtype is not y.dtype:
                return self._undecided(k, f"it is {_shown(x)} in one branch and {_shown(y)} in the other")
            pairs.append((x, y))
        first = len(chosen[0])
        for x, y in pairs:
            chosen[0].append(x)
            chosen[1].append(y)
        return lambda made: ours.fill(made[first : first + len(pairs)])

    def _undecided(self, k: int, reason: str) -> Unset:
        place = f" at {self._where}" if self._where is not None else ""
        return Unset(self._names[k], f"{reason} of the `if`{place}, whose condition is a Tensor")


def _joined(x: Tensor, y: Tensor, x_number: bool, y_number: bool, regions: Sequence[Region]) -> tuple[Tensor, Tensor]:
    """The two with a number in the dtype and shape of the other's Tensor."""
    if x_number and not y_number:
        return _like(x, y, regions[0]), y
    if y_number and not x_number:
        return x, _like(y, x, regions[1])
    if x_number and y_number and x.dtype is not y.dtype:
        wide = x if x.dtype.is_float else y
        return _like(x, wide, regions[0]), _like(y, wide, regions[1])
    return x, y


def _like(number: Tensor, tensor: Tensor, region: Region) -> Tensor:
    """A Python number in the dtype and shape of a Tensor; as it is when the dtype cannot hold it."""
    if number.dtype.is_float and not tensor.dtype.is_float or tensor.dtype is bool_:
        return number
    return wrap_node(full(tensor.shape, number.item(), tensor.dtype), region)


# traced loops -----------------------------------------------------------------------------------------------------


def _traced_loop(test: Callable[[], Any], body: Callable[[], None], variables: _Variables) -> None:
    """A `while` on a Tensor: first find out what its body changes, then trace it as a loop that carries that."""
    where = here()
    carried = _Carry(variables, where)
    for _ in range(_ROUNDS):
        if carried.grow(test, body):
            break
    else:
        what = "the types of the variables that a traced `while` changes do not settle"
        raise ShapeError(layout(what, where, hint="keep the shape and dtype of each variable the same in every trip"))

    def goes_on(values: list[Any]) -> Any:
        carried.enter(values)
        return _truth(test())

    def trip(values: list[Any]) -> list[Any]:
        carried.enter(values)
        body()
        return carried.leave(variables.now())

    last = control.while_loop(goes_on, trip, carried.first())
    carried.finish(last)


class _Carry:
    """The variables that a loop carries, found round by round.

    starts: position -> what the variable holds before the loop, in the type it keeps.
    inside: variables that have no value before the loop but get one in it.
    """

    def __init__(self, variables: _Variables, where: Any):
        self._variables = variables
        self._where = where
        self.starts: dict[int, Any] = {}
        self.inside: set[int] = set()

    def grow(self, test: Callable[[], Any], body: Callable[[], None]) -> bool:
        """Trace a trip for its types alone; whether the carry has settled."""
        trace = active()
        assert trace is not None
        region = Region("trip", trace)
        given: list[Any] = []
        after: list[Any] = []

        def trip() -> None:
            self.enter([_stand_in(v, region) for v in self.first()])
            given.extend(_own_all(v) for v in self._variables.now())
            test()
            body()
            after.extend(self._variables.now())

        try:
            region.run(trip)
            return self._settled(given, after, region)
        finally:
            self._variables.write(self._variables.before)

    def _settled(self, given: Sequence[Any], after: Sequence[Any], region: Region) -> bool:
        settled = True
        for k, (old, new) in enumerate(zip(given, after, strict=True)):
            with region.running():
                unchanged = _same(old, new)
            if unchanged and k not in self.starts:
                continue
            if isinstance(self._variables.before[k], Unset):
                settled &= self._assigned_inside(k, new)
            else:
                settled &= self._changed(k, new)
        return settled

    def _assigned_inside(self, k: int, new: Any) -> bool:
        """A variable without a value before the loop: what the function returns is carried, others end with the trip."""
        self.inside.add(k)
        if not self._variables.names[k].startswith(PREFIX) or isinstance(new, Unset) or k in self.starts:
            return True
        self.starts[k] = _blank(new)
        return False

    def _changed(self, k: int, new: Any) -> bool:
        """A variable that a trip changes; whether its start has the type it has after a trip."""
        known = self.starts.get(k, self._variables.before[k])
        if isinstance(new, Unset):
            raise TraceError(layout(f"variable {self._variables.names[k]} has no value after a trip of the `while`", self._where))
        before, after = Structure(known), Structure(new)
        same = before.paths == after.paths and [p for p, _ in before.fixed] == [p for p, _ in after.fixed]
        if not same or any(x is not y and not _equal(x, y) for (_, x), (_, y) in zip(before.fixed, after.fixed, strict=True)):
            self._refuse(k, known, new)
        starts: list[Any] = []
        for old, fresh, number in zip(before.tensors, after.tensors, before.numbers, strict=True):
            if number and (old.shape != fresh.shape or old.dtype is not fresh.dtype):
                if old.dtype.is_float and not fresh.dtype.is_float:
                    starts.append(old)
                    continue
                old = Tensor(np.full(fresh.shape, old.item(), fresh.dtype.numpy))
            if old.shape != fresh.shape or (old.dtype is not fresh.dtype and not fresh._weak):
                self._refuse(k, known, new)
            starts.append(old)
        settled = k in self.starts and all(a is b for a, b in zip(starts, Structure(self.starts[k]).tensors, strict=True))
        self.starts[k] = before.fill(starts)
        return settled

    def _refuse(self, k: int, before: Any, after: Any) -> None:
        what = f"a traced `while` must keep the type of what it changes: variable {self._variables.names[k]}"
        hint = "give it its final shape and dtype before the loop"
        raise ShapeError(layout(f"{what} is {_shown(before)} before and {_shown(after)} after a trip", self._where, hint=hint))

    def first(self) -> list[Any]:
        """What is carried, before the first trip."""
        return [self.starts[k] for k in sorted(self.starts)]

    def enter(self, values: Sequence[Any]) -> None:
        """Let the variables hold these values of the carry, and the rest what they held before the loop."""
        held = [_own_all(v) for v in self._variables.before]
        for k, given in zip(sorted(self.starts), values, strict=True):
            held[k] = given
        self._variables.write(held)

    def leave(self, after: Sequence[Any]) -> list[Any]:
        """What is carried on."""
        return [after[k] for k in sorted(self.starts)]

    def finish(self, last: Sequence[Any]) -> None:
        """Let the variables hold what is left after the loop."""
        self.enter(last)
        held = self._variables.now()
        for k in self.inside - set(self.starts):
            place = f" at {self._where}" if self._where is not None else ""
            held[k] = Unset(self._variables.names[k], f"only trips of the traced loop{place} assign to it, and there may be none")
        self._variables.write(held)


def _stand_in(found: Any, region: Region) -> Any:
    """Something carried as the body sees it: Tensors without values."""
    made = Structure(found)
    weak = [t._weak and t.shape == () for t in made.tensors]
    return made.fill([wrap_node(region.leaf("x", t._type), region, weak=w) for t, w in zip(made.tensors, weak, strict=True)])


def _own_all(found: Any) -> Any:
    """What a variable holds, so that assigning to its elements does not change it."""
    return _own(found) if isinstance(found, Tensor) else found


def _blank(found: Any) -> Any:
    """Zeros in the structure of something."""
    made = Structure(found)
    return made.fill([Tensor(np.zeros(t.shape, t.dtype.numpy)) for t in made.tensors])


def _counted(
    items: Numbers, body: Callable[[Any], None], left: Callable[[], Any], names: Sequence[str], read: Read, write: Write
) -> None:
    """A `for` over a range with traced bounds: a `while` with the number as one more variable."""
    at: list[Any] = [to_tensor(items.start)]

    def read_all() -> tuple[Any, ...]:
        return (*(read() if read is not None else ()), at[0])

    def write_all(values: tuple[Any, ...]) -> None:
        if write is not None:
            write(values[:-1])
        at[0] = values[-1]

    def goes_on() -> Any:
        inside = at[0] < items.stop if items.step > 0 else at[0] > items.stop
        return both(inside, lambda: negated(left()))

    def trip() -> None:
        item = at[0]
        at[0] = item + items.step
        body(item)

    loop(goes_on, trip, [*names, f"{PREFIX}at"], read_all, write_all)


# pieces -----------------------------------------------------------------------------------------------------------


def _traced(found: Any) -> bool:
    """Whether something is a Tensor without a value: known to the trace at hand by its type alone."""
    trace: Trace | None = active()
    if trace is None or trace.concrete or not isinstance(found, Tensor):
        return False
    return found._is_parameter or trace.knows(found)


def _truth(found: Any) -> Any:
    """The truth of a Tensor with one element, as a bool of shape ().

    Errors: ValueError when it has several.
    """
    if not _traced(found):
        return found
    if found.size != 1:
        raise ShapeError(layout(f"a condition must have one element, found a Tensor of shape {found.shape}", here()))
    flat = found if found.shape == () else apply(reshape, found, shape=())
    return flat if flat.dtype is bool_ else apply(cast, flat, dtype=bool_)


def _logical(op: Any, first: Any, second: Any) -> Any:
    """Two truths as one; Python's `and` and `or` of numbers choose one of the two."""
    bools = all(isinstance(t, bool) or (isinstance(t, Tensor) and t.dtype is bool_) for t in (first, second))
    if bools or not isinstance(second, Tensor):
        return apply(op, _truth(first), _truth(second) if isinstance(second, Tensor) else bool(second))
    a, b = _truth(first), to_tensor(second)
    return either_value(a, lambda: b, lambda: first) if op is logical_and else either_value(a, lambda: first, lambda: b)


def _equal(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(x is y or _equal(x, y) for x, y in zip(a, b, strict=True))
    return not isinstance(a, (Tensor, np.ndarray)) and bool(a == b)


def _shown(found: Any) -> str:
    if isinstance(found, Tensor):
        return f"{found.dtype.name}{list(found.shape)}"
    text = repr(found)
    return text if len(text) <= 40 else f"{text[:37]}..."


__all__ = [
    "Numbers", "Unset", "both", "branch", "callee", "chain", "each", "either", "either_value", "loop", "negated", "numbers",
    "plain", "prepared", "rewritten", "value",
]  # fmt: skip
