"""Sums of which one summand counts: an element that a number chooses, written as a comparison with every number.

Losses of classes are written so (`ops/losses.py`), since their derivatives need the comparison. The element itself is read
where it is: one pass over a row less to compute, and nothing that the row's other values would wait for.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir.graph import Node


def picked(node: Node) -> tuple[Node, Node] | None:
    """(the numbers of the chosen ones, what they are chosen from) for a sum over one axis of select(eq(iota, number), x, 0)."""
    if node.op != "reduce_sum" or len(node.attrs["axes"]) != 1 or node.inputs[0].op != "select":
        return None
    chosen, values, others = node.inputs[0].inputs
    (axis,) = node.attrs["axes"]
    if chosen.op != "eq" or not _is_zero(others) or not values.shape[axis]:
        return None
    kind = chosen.inputs[0].dtype
    if not kind.is_integer or kind.bits < 32:
        return None  # narrower ones wrap: several elements may have one number
    for place, number in (chosen.inputs, chosen.inputs[::-1]):
        if place.op == "iota" and place.attrs["axis"] == axis and number.op == "broadcast" and axis not in number.attrs["axes"]:
            return number, values
    return None


def _is_zero(node: Node) -> bool:
    while node.op in ("broadcast", "reshape"):
        node = node.inputs[0]
    return node.op == "constant" and not np.any(node.attrs["value"])


__all__ = ["picked"]
