"""Control flow: ops whose attrs are graphs. Each has one node of tuple type and an `item` for every result.

    branch   one of two graphs, chosen by a bool
    loop     a graph repeated: `for`, `while` and `scan` in one

A loop's body is a graph whose **state** is what goes from trip to trip (the carry) and whose **inputs** are this trip's
rows of the stacked operands, then the constants of the loop; its outputs are stacked, a row for each trip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Graph, Node
from graphopt.ir.types import TensorType, TupleType, bool_, i32, tuple_of
from graphopt.opdefs.evaluate import evaluate
from graphopt.opdefs.opdef import op


@op([], "region")
def item(value: TensorType, index: int) -> TensorType:
    """One result of a node with several.

    Errors: DTypeError when the node has one result; ShapeError for an index that it does not have.
    """
    if not isinstance(value, TupleType):
        raise DTypeError(f"expects a node with several results, found {value}")
    if not 0 <= index < len(value.parts):
        raise ShapeError(f"index {index} of {len(value.parts)} results")
    return value.parts[index]


@item.numpy
def _(value: tuple[np.ndarray, ...], index: int) -> np.ndarray:
    return value[index]


def items(node: Node) -> tuple[Node, ...]:
    """A node for each result of a node with several."""
    assert isinstance(node.type, TupleType)
    return tuple([item(node, index=k) for k in range(len(node.type.parts))])


@op([], "region")
def branch(pred: TensorType, *operands: TensorType, then: Graph, other: Graph) -> TensorType:
    """The outputs of `then(*operands)` where `pred` holds, of `other(*operands)` elsewhere; only one of them runs.

    Shapes: pred bool []; both graphs take all operands as inputs and give outputs of the same types.
    Errors: DTypeError, ShapeError when pred is no single bool, or a graph does not fit.
    """
    _single_bool("the condition", pred)
    for name, graph in (("then", then), ("other", other)):
        if graph.state:
            raise DTypeError(f"{name} must have no state, found {len(graph.state)}")
        _same_types(f"inputs of {name}", operands, [n.type for n in graph.inputs])
    _same_types("outputs of other", [n.type for n in then.outputs], [n.type for n in other.outputs])
    return tuple_of([n.type for n in then.outputs])


@branch.numpy
def _(pred: np.ndarray, *operands: np.ndarray, then: Graph, other: Graph) -> list[np.ndarray]:
    return evaluate(then if pred.item() else other, operands, ())


@op([], "region")
def loop(
    *operands: TensorType, body: Graph, test: Graph | None, length: int | None, reverse: bool, stacked: int, counted: bool
) -> TensorType:
    """`body` repeated on a carry: its state after the last trip, its outputs stacked, and with a test the number of trips.

    operands: the carry's first values (as body's state), `stacked` arrays with a row for each trip, constants of body,
              constants of test, and when `counted` the number of trips, i32 [].
    test:     before each trip, goes on while it holds; its state is the carry, it has one output. None: always.
    length:   the most trips, and the size of axis 0 of whatever is stacked; None: no limit, then nothing is stacked.
    reverse:  trips go from the last row to the first. Rows of trips that do not happen are zero.

    Errors: DTypeError, ShapeError when an operand, the body or the test does not fit the others.
    """
    parts = split(operands, body, test, stacked, counted)
    _same_types("carry", [n.type for n in body.state], parts.carry)
    if length is None and (test is None or stacked or body.outputs):
        raise ShapeError("a loop without a length must have a test, and stacks nothing")
    if length is not None and length < 0:
        raise ShapeError(f"length must not be negative, found {length}")
    for k, t in enumerate(parts.rows):
        if not t.shape or t.shape[0] != length:
            raise ShapeError(f"stacked operand {k} must have {length} rows, found shape {t.shape}")
    rows = [t.with_shape(t.shape[1:]) for t in parts.rows]
    _same_types("inputs of body", [*rows, *parts.constants], [n.type for n in body.inputs])
    if test is not None:
        _same_types("carry of test", [n.type for n in body.state], [n.type for n in test.state])
        _same_types("inputs of test", parts.test_constants, [n.type for n in test.inputs])
        if len(test.outputs) != 1 or test.updates:
            raise ShapeError("test must have one output and update nothing")
        _single_bool("the test", test.outputs[0].type)
    if counted and parts.trips != (TensorType(i32, ()),):
        raise DTypeError(f"the number of trips must be i32[], found {parts.trips}")
    stacks = [n.type.with_shape((length or 0, *n.shape)) for n in body.outputs]
    return tuple_of([*parts.carry, *stacks, *[TensorType(i32, ())] * (test is not None)])


@dataclass(frozen=True, slots=True)
class Parts:
    """A loop's operands (nodes, types or arrays), by what they are for; `trips` holds one or none."""

    carry: tuple[Any, ...]
    rows: tuple[Any, ...]
    constants: tuple[Any, ...]
    test_constants: tuple[Any, ...]
    trips: tuple[Any, ...]

    def joined(self) -> tuple[Any, ...]:
        return (*self.carry, *self.rows, *self.constants, *self.test_constants, *self.trips)


def split(operands: Sequence[Any], body: Graph, test: Graph | None, stacked: int, counted: bool) -> Parts:
    """The operands of a loop by what they are for.

    Errors: ShapeError when their number is not what body and test ask for.
    """
    sizes = [len(body.state), stacked, len(body.inputs) - stacked, len(test.inputs) if test is not None else 0, int(counted)]
    if sum(sizes) != len(operands):
        raise ShapeError(f"expects {sum(sizes)} operands for its graphs, found {len(operands)}")
    given = iter(operands)
    return Parts(*[tuple([next(given) for _ in range(size)]) for size in sizes])


def parts_of(node: Node) -> Parts:
    """The operands of a loop node."""
    a = node.attrs
    return split(node.inputs, a["body"], a["test"], a["stacked"], a["counted"])


@loop.numpy
def _(
    *operands: np.ndarray, body: Graph, test: Graph | None, length: int | None, reverse: bool, stacked: int, counted: bool
) -> Iterator[np.ndarray]:
    parts = split(operands, body, test, stacked, counted)
    carry = [np.array(a) for a in parts.carry]
    stacks = [np.zeros((length or 0, *n.shape), n.dtype.numpy) for n in body.outputs]
    most = length
    if counted:
        most = max(int(parts.trips[0]), 0) if length is None else min(max(int(parts.trips[0]), 0), length)
    done = 0
    while most is None or done < most:
        if test is not None and not evaluate(test, parts.test_constants, carry)[0].item():
            break
        k = most - 1 - done if reverse and most is not None else done
        outputs = evaluate(body, [*(a[k] for a in parts.rows), *parts.constants], carry)
        for stack, row in zip(stacks, outputs, strict=True):
            stack[k] = row
        done += 1
    yield from carry
    yield from stacks
    if test is not None:
        yield np.asarray(done, np.int32)


def _single_bool(what: str, type: TensorType) -> None:
    if type.dtype is not bool_ or type.shape:
        raise DTypeError(f"{what} must be one bool, found {type}")


def _same_types(what: str, expected: Sequence[TensorType], found: Sequence[TensorType]) -> None:
    if list(expected) != list(found):
        raise ShapeError(f"{what}: expects {list(map(str, expected))}, found {list(map(str, found))}")
