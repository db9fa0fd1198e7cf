"""A machine that follows the ops' lowering rules literally, all elements at once, with no lowering between.

It tells a wrong rule from a wrong compiler. Contractions and ops with own loops keep their numpy meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from graphopt.ir.graph import Graph, Node, walk
from graphopt.ir.types import DType, f32
from graphopt.kernel.numpy_scalars import NumpyScalars
from graphopt.opdefs.opdef import opdef


class Elements:
    """The Reader protocol for all elements of one output: an index is an array of integers."""

    def __init__(self, s: NumpyScalars, arrays: Sequence[np.ndarray]):
        self.s = s
        self.arrays = arrays
        self.allowed: Any = True

    def read(self, k: int, index: tuple[Any, ...]) -> Any:
        """The elements at `index`; where a guard forbids the read, anything; elsewhere it must lie inside."""
        array = self.arrays[k]
        assert len(index) == array.ndim, f"{len(index)} indices for {array.ndim} axes of input {k}"
        for axis, (i, n) in enumerate(zip(index, array.shape, strict=True)):
            inside = (np.asarray(i) >= 0) & (np.asarray(i) < n)
            assert np.all(inside | ~np.asarray(self.allowed)), f"input {k} is read outside axis {axis}"
        if array.size == 0:
            return np.zeros((), array.dtype)
        return array[tuple(np.clip(i, 0, n - 1) for i, n in zip(index, array.shape, strict=True))]

    def within(self, index: Any, low: int, high: int) -> Any:
        return (np.asarray(index) >= low) & (np.asarray(index) < high)

    def guard(self, condition: Any, then: Callable[[], Any], other: Any) -> Any:
        before = self.allowed
        self.allowed = before & np.asarray(condition)
        value = then()
        self.allowed = before
        return np.where(condition, value, other)

    def value(self, index: Any, dtype: DType) -> Any:
        return self.s.cast(np.asarray(index), dtype)

    def index(self, value: Any) -> Any:
        return np.asarray(value).astype(np.int64)


def _move(s: NumpyScalars, node: Node, arrays: Sequence[np.ndarray]) -> Any:
    """Every element of a movement op by its `at` rule."""
    if node.type.size == 0:
        return np.zeros(0, node.dtype.numpy)
    places = tuple(i.ravel() for i in np.indices(node.shape)) if node.shape else ()
    types = [n.type for n in node.inputs]
    value = opdef(node.op).rules["at"](Elements(s, arrays), places, *types, **node.attrs)
    return np.broadcast_to(np.asarray(value).reshape(-1), node.type.size)


def _reduce(s: NumpyScalars, node: Node, x: np.ndarray) -> Any:
    """The running value takes one element after the other; 16-bit floats run in f32."""
    axes = node.attrs["axes"]
    kept = [k for k in range(x.ndim) if k not in axes]
    rows = x.transpose(*kept, *axes).reshape(prod(x.shape[k] for k in kept), prod(x.shape[k] for k in axes))
    dtype = f32 if node.dtype.is_float and node.dtype.bits == 16 else node.dtype
    d = opdef(node.op)
    running = np.broadcast_to(s.const(d.rules["initial"](node.dtype), dtype), rows.shape[0])
    for k in range(rows.shape[1]):
        running = d.rules["combine"](s, running, s.cast(rows[:, k], dtype))
    return s.cast(running, node.dtype)


def _one(s: NumpyScalars, node: Node, inputs: Sequence[np.ndarray]) -> Any:
    """A node by the rule of its op's kind."""
    if node.op == "constant":
        return node.attrs["value"]
    d = opdef(node.op)
    if d.kind == "elementwise":
        return d.rules["scalar"](s, *inputs, **node.attrs)
    if d.kind == "movement":
        return _move(s, node, inputs)
    if d.kind == "reduction":
        return _reduce(s, node, inputs[0])
    return d.evaluate(node.type, inputs, node.attrs)


def _shaped(value: Any, node: Node) -> np.ndarray:
    """The rule's result in the node's shape; a rule may give one element for all, but no other dtype."""
    array = np.asarray(value)
    assert array.dtype == node.dtype.numpy, f"{node.op}: the rule gives {array.dtype}, the op {node.dtype!r}"
    return array.reshape(node.shape) if array.size == node.type.size else np.broadcast_to(array, node.shape)


def rules_machine(graph: Graph, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a graph without state, each node by its lowering rule."""
    s = NumpyScalars()
    values: dict[Node, Any] = dict(zip(graph.inputs, arrays, strict=True))
    for node in walk(graph.roots):
        if node in values:
            continue
        inputs = [values[n] for n in node.inputs]
        with np.errstate(all="ignore"):
            values[node] = _shaped(_one(s, node, inputs), node)
    return [np.array(values[r]) for r in graph.roots]
