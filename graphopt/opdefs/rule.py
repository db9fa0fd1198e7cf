"""A derivative of the user's own as part of a graph: what `bprop`, hooks and the like are inside a body of control flow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.errors import DTypeError, ShapeError, TraceError, layout
from graphopt.ir.graph import Graph, Node, substitute
from graphopt.ir.types import TensorType, tuple_of
from graphopt.opdefs.control import items
from graphopt.opdefs.elementwise import zeros_like
from graphopt.opdefs.opdef import op


@op([], "region")
def with_rule(*operands: TensorType, back: Graph | None, results: int, sources: int) -> TensorType:
    """The first `results` operands as they are; what flows into them goes on as `back` says, and no other way.

    operands: the results, the `sources` that back gives cotangents for, then whatever else back needs.
    back:     inputs are the results, what else it needs, and the cotangents of the results; outputs are the cotangents of
              the sources. None: the rule was not traced so deep.

    Errors: DTypeError, ShapeError when back does not fit the operands.
    """
    given = operands[:results]
    if back is not None:
        if back.state or back.updates:
            raise DTypeError(f"back must have no state, found {len(back.state)}")
        expected = [*given, *operands[results + sources :], *given]
        for what, types, nodes in (
            ("inputs of back", expected, back.inputs),
            ("outputs of back", operands[results : results + sources], back.outputs),
        ):
            found = [n.type for n in nodes]
            if list(types) != found:
                raise ShapeError(f"{what}: expects {list(map(str, types))}, found {list(map(str, found))}")
    return tuple_of(given)


@with_rule.numpy
def _(*operands: np.ndarray, back: Graph | None, results: int, sources: int) -> Sequence[np.ndarray]:
    return operands[:results]


def ruled_back(node: Node, cotangents: Sequence[Node | None]) -> list[Node | None]:
    """The cotangents of the operands of a `with_rule`: those of its sources, None for the others.

    Errors: TraceError when the rule was not traced so deep.
    """
    back, results, sources = node.attrs["back"], node.attrs["results"], node.attrs["sources"]
    if back is None:
        what = "a derivative of one's own that uses itself, in a body of control flow, has derivatives up to order 4 there"
        raise TraceError(layout(what, node.where, hint="write the rule with plain operations, or move it out of the body"))
    values = items(node)
    arrived = [zeros_like(v) if ct is None else ct for v, ct in zip(values, cotangents, strict=True)]
    given = [*values, *node.inputs[results + sources :], *arrived]
    found = substitute(back.outputs, dict(zip(back.inputs, given, strict=True)))
    return [*[None] * results, *found, *[None] * (len(node.inputs) - results - sources)]


__all__ = ["ruled_back", "with_rule"]
