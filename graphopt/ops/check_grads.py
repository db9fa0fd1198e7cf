"""`check_grads`: derivatives against finite differences, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from graphopt.common.api import mutable
from graphopt.common.checks import found
from graphopt.common.parameter import Parameter
from graphopt.common.signature import is_cell, leaves, parameters_of
from graphopt.common.tensor import Tensor, wrap_node
from graphopt.common.trace import Trace
from graphopt.errors import GradientError
from graphopt.ir.graph import Node
from graphopt.ir.types import TensorType, f64
from graphopt.opdefs.elementwise import add, cast, mul
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.opdef import constant, full
from graphopt.opdefs.reduce import reduce_sum
from graphopt.ops.differentiate import Called, call_apart
from graphopt.ops.traced import function_name
from graphopt.passes.forward import jvp
from graphopt.passes.gradient import vjp
from graphopt.passes.widen import widen

MODES = ("rev", "fwd")
_STEPS = (1e-2, 1e-4, 1e-5)  # where Richardson's tables start: long steps are exact, short ones jump over no kink
_HALVINGS = 6


@dataclass(frozen=True)
class GradientRow:
    """One comparison.

    what:      an argument or a Parameter. mode: how it was differentiated, the last derivative first ("fwd of rev").
    found:     the derivative along a random direction of length 1. expected, error: the finite difference, and how far
               it may be off. smooth: whether that is known at all; at a kink or a jump it is not.
    """

    what: str
    order: int
    mode: str
    found: float
    expected: float
    error: float
    tolerance: float
    smooth: bool

    @property
    def off(self) -> float:
        """How far the derivative is off, as a multiple of what is allowed; 0 where nothing is known."""
        if not self.smooth:
            return 0.0
        distance = abs(self.found - self.expected)
        return float(distance / self.tolerance) if np.isfinite(distance) else np.inf

    def __str__(self) -> str:
        verdict = "not smooth here" if not self.smooth else "ok" if self.off <= 1 else "WRONG"
        numbers = f"{self.found:>16.9g} {self.expected:>16.9g} {abs(self.found - self.expected):>9.1e}"
        return f"{self.what:<24} {self.order:>5} {self.mode:<12} {numbers}  {verdict}"


@dataclass(frozen=True)
class GradientReport:
    """What `check_grads` found: a row for every argument and Parameter, order and mode. Prints as a table."""

    name: str
    rows: tuple[GradientRow, ...]

    @property
    def worst(self) -> GradientRow:
        """The row that is off the most."""
        return max(self.rows, key=lambda row: row.off)

    def __str__(self) -> str:
        head = f"{'':<24} {'order':>5} {'mode':<12} {'derivative':>16} {'differences':>16} {'apart':>9}"
        return "\n".join([f"gradients of {self.name}", head, *map(str, self.rows)])


def check_grads(
    fn: Callable[..., Any],
    args: Any,
    order: int = 2,
    modes: Sequence[str] = MODES,
    *,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> GradientReport:
    """Compare derivatives of `fn` with finite differences, in float64 along random directions.

    fn:        a Cell or a function of `args`, a Tensor or a tuple or list of arguments. Its outputs are summed with
               random weights. All float Tensors among args and all trainable Parameters that take part are checked;
               integers, numbers and other arguments stay as they are.
    order:     1 checks gradients, 2 also derivatives of gradients, and so on; modes: "rev" and "fwd", any order of them.
    tolerance: how far apart is wrong, relative to the size of the derivative; what the differences may be off is
               allowed besides.

    The function is traced at `args` as it would run there, and its nodes are evaluated in float64 by the ops' own
    meaning, so that rounding plays no part. Where differences do not settle, at a kink or a jump, nothing is known, and
    the row says so. Parameters are not changed.
    Errors: GradientError, an AssertionError, naming the worst row; ValueError for an order below 1, unknown modes, or
            when there is nothing to differentiate.

    >>> import graphopt as ms
    >>> report = ms.check_grads(ms.ops.tanh, ms.Tensor([0.5, 1.0]), order=2)
    >>> len(report.rows), report.worst.off < 1
    (6, True)
    """
    if not callable(fn):
        raise TypeError(f"check_grads: fn must be a Cell or a function, found {found(fn)}")
    if not isinstance(order, int) or isinstance(order, bool) or order < 1:
        raise ValueError(f"check_grads: order must be an int >= 1, found {order!r}")
    modes = tuple(modes)
    if not modes or not set(modes) <= set(MODES) or len(set(modes)) < len(modes):
        raise ValueError(f"check_grads: modes must be some of 'rev' and 'fwd', found {modes!r}")
    given = tuple(args) if isinstance(args, (tuple, list)) else (args,)
    check = _Check(fn, given, seed)
    rows = []
    for level in range(1, order + 1):
        for lower in product(modes, repeat=level - 1):
            rows.extend(check.rows(level, lower, modes, tolerance))
    report = GradientReport(function_name(fn), tuple(rows))
    worst = report.worst
    if worst.off > 1:
        what = f"check_grads: {worst.what} of {report.name}, order {worst.order}, {worst.mode}"
        raise GradientError(
            f"{what}: the derivative is {worst.found:.9g}, differences say {worst.expected:.9g} +- {worst.error:.1g}\n{report}"
        )
    return report


class _Check:
    """A traced function with its variables: float Tensors among the arguments, and Parameters."""

    def __init__(self, fn: Callable[..., Any], args: Sequence[Any], seed: int):
        self.fn, self.args = fn, args
        self.rng = np.random.default_rng(seed)
        self.trace = Trace("check_grads", concrete=True)
        with self.trace.running():
            self.tensors = self._leaf(args, self._names(len(args)))
            probe = fn(*self.tensors)
            outputs = [self.trace.node_of(t) for t in leaves(probe)]
        self.weights = [self.rng.normal(size=n.shape) if n.dtype.is_float else None for n in outputs]
        taking_part = [p for p in self.trace.parameters if p.requires_grad and p.dtype.is_float]
        self.parameters: list[Parameter] = list({id(p): p for p in taking_part}.values())
        self.variables = [n for n in self.trace.inputs if n.dtype.is_float]
        self.variables += [leaf for p in self.parameters if (leaf := self.trace.leaf_of(p)) is not None]
        if not self.variables or not any(w is not None for w in self.weights):
            raise ValueError("check_grads: expected float Tensors or trainable Parameters, and a float output, found none")
        self.directions = [self._direction(n.type) for n in self.variables]

    def _names(self, count: int) -> list[str]:
        function: Any = self.fn
        signature = parameters_of(function.construct if is_cell(function) else function)
        known = list(signature.parameters) if signature is not None else []
        return [known[k] if k < len(known) else f"args[{k}]" for k in range(count)]

    def _leaf(self, value: Any, name: Any) -> Any:
        """The arguments with every float Tensor as a leaf of the trace."""
        if isinstance(value, Tensor):
            if value._is_parameter or not value.dtype.is_float:
                return value
            node = self.trace.input(name, value._type)
            self.trace.values[node] = value._value("check_grads")
            return wrap_node(node, self.trace)
        if isinstance(value, (tuple, list)):
            names = name if isinstance(name, list) else [f"{name}[{k}]" for k in range(len(value))]
            return tuple(self._leaf(v, n) for v, n in zip(value, names, strict=True))
        return value

    def _direction(self, type: TensorType) -> np.ndarray:
        direction = np.asarray(self.rng.normal(size=type.shape))
        direction /= max(float(np.sqrt((direction**2).sum())), 1e-300)
        return direction.astype(type.dtype.numpy).astype(np.float64)  # as the graph will hold it

    def rows(self, level: int, lower: tuple[str, ...], modes: Sequence[str], tolerance: float) -> list[GradientRow]:
        """Derivatives of the derivative that `lower` makes, by each variable in each mode."""
        known = len(self.trace.derivatives)
        with self.trace.running(), self.trace.unwritten():
            base = self._derivative(lower)()
            slopes = [[self._slope(lower, mode, k) for mode in modes] for k in range(len(self.variables))]
        del self.trace.derivatives[known:]
        flat = [base, *(node for row in slopes for node in row)]
        wide, replaced = widen(flat)
        point = {new: self.trace.values[old].astype(new.dtype.numpy) for old, new in replaced.items()}
        derivatives = iter(float(v) for v in evaluate_nodes(wide[1:], point))
        rows = []
        for k, variable in enumerate(self.variables):
            leaf = replaced.get(variable)
            expected, error = _difference(wide[0], point, leaf, self.directions[k])
            for mode in modes:
                value, name = next(derivatives), " of ".join((mode, *reversed(lower)))
                allowed = tolerance * max(abs(expected), abs(value), self._scale(wide[0], point)) + 10 * error
                smooth = bool(np.isfinite(expected)) and error <= 1e-3 * (abs(expected) + 1e-3)
                what = variable.attrs["name"]
                rows.append(GradientRow(what, level, name, value, expected, error, allowed, smooth))
        return rows

    @staticmethod
    def _scale(base: Node, point: dict[Node, np.ndarray]) -> float:
        """Below this size of the derivative, rounding counts."""
        return 1e-6 * abs(float(evaluate_nodes([base], point)[0]))

    def _slope(self, lower: tuple[str, ...], mode: str, k: int) -> Node:
        only = [d if j == k else None for j, d in enumerate(self.directions)]
        return _along(self._call(self._derivative(lower)), mode, only, self.trace)

    def _derivative(self, chain: tuple[str, ...]) -> Callable[..., Node]:
        """The function's weighted sum, differentiated along all directions once for each of `chain`."""
        if not chain:
            return self._weighted

        def along(*tensors: Any) -> Node:
            return _along(self._call(self._derivative(chain[:-1]), tensors), chain[-1], self.directions, self.trace)

        return along

    def _weighted(self, *tensors: Any) -> Node:
        output = self.fn(*(tensors or self.tensors))
        total = constant(0.0, f64)
        for tensor, weight in zip(leaves(output), self.weights, strict=True):
            if weight is not None:
                node = cast(self.trace.node_of(tensor), dtype=f64)
                total = add(total, _inner(node, constant(weight)))
        return total

    def _call(self, function: Callable[..., Node], tensors: Sequence[Any] = ()) -> Called:
        def returning(*inner: Any) -> Any:
            return wrap_node(function(*inner), self.trace)

        given = [mutable(t) if isinstance(t, tuple) else t for t in (tensors or self.tensors)]
        return call_apart(returning, given, {}, lambda position: True, self.parameters)


def _inner(a: Node, b: Node) -> Node:
    return reduce_sum(mul(a, b), axes=tuple(range(a.type.rank)))


def _along(done: Called, mode: str, directions: Sequence[np.ndarray | None], trace: Trace) -> Node:
    """The derivative of a called scalar function along directions, None for one that stands still."""
    result = trace.node_of(done.output)
    wrt = [n for n in [*done.nodes, *done.weight_nodes.values()] if n.dtype.is_float]
    fixed = [None if d is None else constant(d, n.dtype) for n, d in zip(wrt, directions, strict=True)]
    if mode == "fwd":
        with trace.unwritten():
            (slope,) = jvp([result], wrt, fixed, lambda: done.own)
        return constant(0.0, f64) if slope is None else slope
    total = constant(0.0, f64)
    for gradient, d in zip(vjp([result], [full((), 1, f64)], wrt, done.own), fixed, strict=True):
        if gradient is not None and d is not None:
            total = add(total, _inner(cast(gradient, dtype=f64), cast(d, dtype=f64)))
    return total


def _difference(root: Node, point: dict[Node, np.ndarray], leaf: Node | None, direction: np.ndarray) -> tuple[float, float]:
    """The derivative of `root` along a direction of one leaf, and an estimate of its error.

    Source: central differences at halved steps, extrapolated to 0 (Richardson), the table's steadiest entry taken
            (Ridders 1982); from several first steps, the steadiest of all.
    """
    if leaf is None:
        return 0.0, 0.0
    scale = max(1.0, float(np.sqrt((point[leaf] ** 2).mean()))) if point[leaf].size else 1.0

    def at(h: float) -> float:
        return float(evaluate_nodes([root], {**point, leaf: point[leaf] + h * direction})[0])

    def slope(h: float) -> float:
        return (at(h) - at(-h)) / (2 * h)

    def bend(h: float) -> float:
        """The slope to the right minus that to the left: falls with h where the function is smooth."""
        return abs(at(h) - 2 * middle + at(-h)) / h

    middle = at(0.0)
    best, least = np.nan, np.inf
    for first in _STEPS:
        table: list[list[float]] = []
        for k in range(_HALVINGS):
            row = [slope(first * scale / 2**k)]
            for j in range(1, k + 1):
                row.append(row[-1] + (row[-1] - table[-1][j - 1]) / (4**j - 1))
                error = max(abs(row[j] - row[j - 1]), abs(row[j] - table[-1][j - 1]))
                if error < least:
                    best, least = row[j], error
            table.append(row)
    wide, narrow = bend(1e-5 * scale), bend(2.5e-6 * scale)
    kink = narrow > 0.5 * wide and narrow > 1e-6 * (abs(best) + abs(middle))
    return (np.nan if kink else best), least
