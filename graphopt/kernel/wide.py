"""The loop interpreter on whole axes: loops whose iterations cannot meet run as one array operation.

Iterations of parallel loops touch disjoint elements, by the loop language's own rule; of any other loop that is proved
from its indices before it is run so. Each element is computed by the same operations in the same order as by
`kernel.run`, so the bits are the same; what is left of a large kernel's time is that of its sums, whose steps follow one another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import prod
from typing import Any

import numpy as np

from graphopt.ir.index import Index, Quotient, Remainder, Var
from graphopt.kernel.loops import (
    HEAVY,
    Buffer,
    Const,
    Expr,
    Fold,
    For,
    If,
    Kernel,
    Load,
    Op,
    Stmt,
    Store,
    expressions,
    loaded,
    statements,
)
from graphopt.kernel.run import Interpreter

_LOOKED_AT = 1 << 14  # elements of a place, at most
_ELEMS = 1 << 15  # of one array operation: operands and results stay in the second-level cache
_OPERATION = 1e-5  # seconds for an operation, however few elements it has
_ELEMENT = 3e-9  # seconds for an element of an operation of weight 1

Chosen = Mapping[For, np.ndarray]
"""Iterations of outermost parallel loops, for those that are not run whole."""


class WideInterpreter(Interpreter):
    """Runs one kernel over flat arrays, one per parameter.

    chosen:  the iterations that are run; all of loops that are not in it.
    written: for each parameter that is written, which elements were.

    A loop that is run whole is an axis of the arrays that values are: the outermost the first. Local buffers have a copy
    for each iteration of a parallel loop, and of any other that each of its iterations fills for itself.
    """

    def __init__(self, kernel: Kernel, arrays: Sequence[np.ndarray], chosen: Chosen | None = None):
        super().__init__(kernel, arrays)
        self.written = {b: np.zeros(self.memory[b].size, bool) for b in kernel.params if b in kernel.writes}
        self._chosen = chosen or {}
        self._rank = _depth(kernel.body)
        self._axes: list[int] = []  # the sizes of those around
        self._copies: dict[Buffer, np.ndarray] = {}  # which copy of a local buffer each iteration has
        self._whole: Whole = {} if _overlap(kernel, self.memory) else _whole_loops(kernel.body)
        self._tokens = count()
        self._around: tuple[Any, ...] = ()  # what tells apart the values that variables of axes have
        self._steady: dict[tuple[Any, ...], dict[Index, tuple[Any, tuple[tuple[Var, int], ...]]]] = {}
        self._constants: dict[Const, Any] = {}

    def _loop(self, s: For) -> None:
        if s.kind == "par":
            which = self._chosen.get(s)
            which = np.arange(s.var.size) if which is None else which
            size = max(1, _ELEMS // _width(s.body, self._whole))
            for start in range(0, len(which), size):
                self._parallel(s, which[start : start + size])
        elif s.kind == "lanes" or s in self._whole:
            size = s.var.size if s.kind == "lanes" else max(1, _ELEMS // max(1, prod(self._axes) * _width(s.body, self._whole)))
            for start in range(0, s.var.size, size):
                stop = min(start + size, s.var.size)
                self._several(s, np.arange(start, stop), (s.var, start, stop), self._whole.get(s, ()))
        else:
            super()._loop(s)

    def _parallel(self, s: For, which: np.ndarray) -> None:
        """Some iterations of a parallel loop, with copies of all local buffers."""
        self._several(s, which, (next(self._tokens),), self.kernel.locals)
        self._steady.clear()

    def _several(self, s: For, values: np.ndarray, token: tuple[Any, ...], own: Iterable[Buffer]) -> None:
        """Some iterations of a loop, with copies of its `own` local buffers."""
        before, copies = {b: self.memory[b] for b in own}, dict(self._copies)
        for b in before:
            self.memory[b] = np.zeros(self.memory[b].size * len(values), b.dtype.numpy)
            self._copies[b] = self._copies.get(b, 0) * len(values) + self._lying(np.arange(len(values)))
        self._axis(s, values, token)
        self.memory |= before
        self._copies = copies

    def _lying(self, values: np.ndarray) -> np.ndarray:
        """Values along the next axis."""
        return values.reshape(-1, *[1] * (self._rank - len(self._axes) - 1))

    def _axis(self, s: For, values: np.ndarray, token: tuple[Any, ...]) -> None:
        around = self._around
        self.vars[s.var] = self._lying(values)
        self._axes.append(len(values))
        self._around = (*around, *token)
        self._body(s.body)
        self._around = around
        self._axes.pop()

    def _if(self, s: If, condition: Any) -> None:
        """A condition may differ between parallel iterations, which are then those that the body is run for."""
        condition = np.asarray(condition)
        if condition.all():
            self._body(s.body)
        elif condition.any():
            taken, around = condition.reshape(-1), self._around
            kept, copies = dict(self.vars), self._copies
            assert len(taken) == self._axes[0]
            outermost = self._rank
            self.vars |= {v: a[taken] for v, a in kept.items() if np.ndim(a) == outermost and len(a) == len(taken)}
            self._copies = {b: copy[taken] for b, copy in copies.items()}
            self._axes[0], self._around = int(taken.sum()), (*around, next(self._tokens))
            self._body(s.body)
            self._copies, self._axes[0], self._around = copies, len(taken), around
            self.vars |= kept

    def _store(self, s: Store) -> None:
        value = np.asarray(self.value(s.value))
        where = np.asarray(self._place(s.buffer, s.index))
        where, value = np.broadcast_arrays(where, value)
        self.memory[s.buffer][where] = value
        if s.buffer in self.written:
            self.written[s.buffer][where] = True

    def _place(self, buffer: Buffer, i: Index) -> Any:
        where = self.index(i)
        return where + self._copies[buffer] * buffer.size if buffer in self._copies else where

    def index(self, i: Index) -> Any:
        """What axes contribute is computed once for as long as they are the same."""
        steady = self._steady.setdefault(self._around, {})
        if i not in steady:
            if loaded(i):
                return super().index(i)
            moving = tuple([(a, c) for a, c in i.terms if isinstance(a, Var) and not isinstance(self.vars[a], np.ndarray)])
            inside = [a for a, _ in i.terms if isinstance(a, Quotient | Remainder)]
            if any(not isinstance(self.vars[v], np.ndarray) for a in inside for v in a.index.variables()):
                return super().index(i)
            rest = Index(i.const, tuple([(a, c) for a, c in i.terms if (a, c) not in moving]))
            steady[i] = super().index(rest), moving
        total, moving = steady[i]
        more = sum([c * self.vars[v] for v, c in moving])
        return total + more if more else total

    def _value(self, e: Expr) -> Any:
        if isinstance(e, Const):
            if e not in self._constants:
                self._constants[e] = super()._value(e)
            return self._constants[e]
        if isinstance(e, Fold):
            start = np.asarray(self._place(e.buffer, e.offset))
            x = self.memory[e.buffer][start[..., None] + np.arange(e.lanes)]
            while x.shape[-1] > 1:
                half = x.shape[-1] // 2
                x = getattr(self.scalars, e.name)(x[..., :half], x[..., half:])
            return x[..., 0]
        return super()._value(e)


def run_wide(kernel: Kernel, arrays: Mapping[Buffer, np.ndarray], chosen: Chosen | None = None) -> dict[Buffer, np.ndarray]:
    """Run a kernel in place on the flat arrays of its buffers; of loops in `chosen`, those iterations alone.

    Which elements were written comes back, for each buffer that is written.
    """
    made = WideInterpreter(kernel, [arrays[b] for b in kernel.args], chosen)
    made.run()
    called = dict(zip(kernel.params, kernel.args, strict=True))
    return {called[b]: mask for b, mask in made.written.items()}


def _depth(body: Sequence[Stmt]) -> int:
    return max([isinstance(s, For) + _depth(s.body) for s in body if isinstance(s, For | If)], default=0)


def _overlap(kernel: Kernel, memory: Mapping[Buffer, np.ndarray]) -> bool:
    """Whether a parameter that is written lies where another one does."""
    arrays = [memory[b] for b in kernel.params]
    return any(
        np.may_share_memory(memory[b], a)
        for b in kernel.params
        if b in kernel.writes
        for p, a in zip(kernel.params, arrays, strict=True)
        if p is not b
    )


# which iterations cannot meet


Whole = Mapping[For, frozenset[Buffer]]
"""Loops that are run whole, and the local buffers of which each of their iterations has a copy."""


def _whole_loops(body: Sequence[Stmt]) -> Whole:
    """The loops, but for parallel ones and lanes, of which no iteration touches what another one writes."""
    uses = _uses(body)
    found = {}
    for s in statements(body):
        if isinstance(s, For) and s.kind in ("serial", "unroll", "steps"):
            mine = _uses(s.body)
            own = frozenset([b for b, n in mine.items() if b.local and n == uses[b] and _fills(s.body, b)])
            if _apart(s, own):
                found[s] = own
    return found


def _uses(body: Sequence[Stmt]) -> Counter[Buffer]:
    """How many statements read or write each buffer."""
    found = Counter[Buffer]()
    for s in statements(body):
        found.update({b for b, _, _ in _accessed(s)})
    return found


def _accessed(s: Stmt) -> Iterator[tuple[Buffer, Index, int]]:
    """The places that a statement by itself reads, and the one that it writes, each with the number of elements."""
    if isinstance(s, Store):
        yield s.buffer, s.index, 1
    yield from _read(s)


def _fills(body: Sequence[Stmt], buffer: Buffer) -> bool:
    """Whether every element of a buffer is stored before one is read, each time the statements are run."""
    filled = np.zeros(buffer.size, bool)
    for s in body:
        if any(b is buffer for x in statements([s]) for b, _, _ in _read(x)):
            return bool(filled.all()) or (isinstance(s, For) and _fills(s.body, buffer))
        for i, around in _stored([s], buffer, ()):
            if not i.is_affine or not i.variables() <= set(around):
                return False
            where = np.full((1,), i.const)
            for v in around:
                where = np.add.outer(where, np.arange(v.size) * i.coefficient(v))
            filled[where] = True
    return bool(filled.all())


def _stored(body: Sequence[Stmt], buffer: Buffer, around: tuple[Var, ...]) -> Iterator[tuple[Index, tuple[Var, ...]]]:
    """Where a buffer is stored to, come what may, and the variables of the loops around."""
    for s in body:
        if isinstance(s, For):
            yield from _stored(s.body, buffer, (*around, s.var))
        elif isinstance(s, Store) and s.buffer is buffer:
            yield s.index, around


def _apart(s: For, own: frozenset[Buffer]) -> bool:
    """Whether it is sure that no iteration of a loop touches what another iteration writes, but for `own` buffers."""
    inner, accesses, stored = set[Var](), list[tuple[Buffer, Index, int]](), set[Buffer]()
    for x in statements(s.body):
        if isinstance(x, If):
            return False
        if isinstance(x, For):
            inner.add(x.var)
        if isinstance(x, Store):
            stored.add(x.buffer)
            accesses += _accessed(x)
    touched = {b: [(i, n) for buffer, i, n in accesses if buffer is b] for b in stored - own}
    return all(_spread(s.var, inner, places) for places in touched.values())


def _read(s: Stmt) -> Iterator[tuple[Buffer, Index, int]]:
    """What a statement by itself reads: the first place, and how many elements from there on."""
    seen: set[int] = set()
    for root in (s.value, *loaded(s.index)) if isinstance(s, Store) else (s.condition,) if isinstance(s, If) else ():
        for e in expressions(root, seen):
            if isinstance(e, Load):
                yield e.buffer, e.index, 1
            elif isinstance(e, Fold):
                yield e.buffer, e.offset, e.lanes


def _spread(var: Var, inner: set[Var], places: Sequence[tuple[Index, int]]) -> bool:
    """Whether places of a buffer move with a variable so far that its values have no place in common.

    inner: variables of the loops inside; those of loops outside are the same for all of the iterations.
    """
    found: set[tuple[int, frozenset[Any]]] = set()
    lows, highs = [], []
    for i, size in places:
        low = high = i.const
        outside = []
        if loaded(i):
            return False
        for atom, c in i.terms:
            if atom is var:
                continue
            within = atom.index.variables() if isinstance(atom, Quotient | Remainder) else {atom}
            if var in within:
                return False
            if within & inner:
                a, b = atom.range
                low, high = low + c * (a if c > 0 else b), high + c * (b if c > 0 else a)
            else:
                outside.append((atom, c))
        found.add((i.coefficient(var), frozenset(outside)))
        lows.append(low)
        highs.append(high + size - 1)
    if len(found) == 1 and max(highs) - min(lows) < abs(next(iter(found))[0]):
        return True
    return len({outside for _, outside in found}) == 1 and _disjoint(var, inner, places)


def _disjoint(var: Var, inner: set[Var], places: Sequence[tuple[Index, int]]) -> bool:
    """The same by looking at every element; False, too, where those are many."""
    elements, iterations = [], []
    for i, size in places:
        turning = [(v, i.coefficient(v)) for v in (var, *inner) if v is var or i.coefficient(v)]
        if not i.is_affine or prod(v.size for v, _ in turning) * size > _LOOKED_AT:
            return False
        where = np.arange(size) + i.const
        for v, c in reversed(turning):
            where = np.add.outer(np.arange(v.size) * c, where)
        elements.append(where.reshape(var.size, -1))
        iterations.append(np.broadcast_to(np.arange(var.size)[:, None], elements[-1].shape))
    found, mine = (np.concatenate([a.reshape(-1) for a in arrays]) for arrays in (elements, iterations))
    order = np.argsort(found, kind="stable")
    found, mine = found[order], mine[order]
    return bool(np.all((np.diff(found) != 0) | (np.diff(mine) == 0)))


def _width(body: Sequence[Stmt], whole: Whole) -> int:
    """Elements of the largest array operation in a body."""
    return max(
        [
            _width(s.body, whole) * (s.var.size if isinstance(s, For) and (s.kind == "lanes" or s in whole) else 1)
            for s in body
            if isinstance(s, For | If)
        ],
        default=1,
    )


# how long it takes


@dataclass(frozen=True, slots=True)
class Price:
    """What an outermost parallel loop costs: `start` seconds for every `chunk` iterations, and `each` for an iteration."""

    loop: For
    chunk: int
    start: float
    each: float

    def seconds(self, iterations: int) -> float:
        return -(-iterations // self.chunk) * self.start + iterations * self.each

    def affordable(self, seconds: float) -> int:
        """How many iterations that many seconds are enough for; at least a few, and those that cost little more."""
        if seconds >= self.seconds(self.loop.var.size):
            return self.loop.var.size
        chunks = int(seconds // (self.start + self.chunk * self.each))
        more = int((seconds - self.seconds(chunks * self.chunk) - self.start) / self.each)
        return min(self.loop.var.size, max(chunks * self.chunk + max(more, 0), int(self.start / self.each), _LEAST))


def prices(kernel: Kernel) -> tuple[float, list[Price]]:
    """(about how many seconds `run_wide` needs for what stands outside of parallel loops, the price of each of those)."""
    whole = _whole_loops(kernel.body)
    rest = 0.0
    found = []
    for s in kernel.body:
        inside = s.body if isinstance(s, For) and s.kind == "par" else (s,)
        calls, elements = _work(inside, whole)
        if isinstance(s, For) and s.kind == "par":
            found.append(Price(s, max(1, _ELEMS // _width(s.body, whole)), calls * _OPERATION, elements * _ELEMENT))
        else:
            rest += calls * _OPERATION + elements * _ELEMENT
    return rest, found


def _work(body: Sequence[Stmt], whole: Whole) -> tuple[float, float]:
    """(operations executed, elements that they have)"""
    calls = elements = 0.0
    for s in body:
        if isinstance(s, Store):
            weights = [_WEIGHT.get(e.name, 1.0) if isinstance(e, Op) else 1.0 for e in expressions(s.value)]
            calls, elements = calls + len(weights), elements + sum(weights, 1.0)
        elif isinstance(s, For | If):
            n, k = _work(s.body, whole)
            if isinstance(s, For):
                calls += n * (1 if s.kind == "lanes" or s in whole else s.var.size)
                elements += k * s.var.size
            else:
                calls, elements = calls + n, elements + k
    return calls, elements


_LEAST = 4  # iterations
_WEIGHT = dict.fromkeys(HEAVY, 40.0) | {"fma": 4.0}
