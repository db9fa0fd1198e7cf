"""Constant folding, as a rule of the sweep: what becomes constant by a law is folded on the way."""

from __future__ import annotations

from graphopt.ir.graph import Node
from graphopt.opdefs import REGISTRY
from graphopt.opdefs.opdef import constant, opdef
from graphopt.passes.rewrite import rewrite

RESULT_ELEMS = 1024
INPUT_ELEMS = 1 << 16
FOLDABLE = tuple(name for name, d in REGISTRY.items() if d.kind not in ("leaf", "region") and name != "broadcast")


@rewrite(*FOLDABLE)
def fold(n: Node) -> Node | None:
    """A node whose inputs are all constants is the constant of its numpy meaning, when that is small.

    A number broadcast to a shape stays a broadcast: it costs no memory, and the laws see through it.
    """
    inputs = n.inputs
    if not inputs or inputs[0].op != "constant" or n.type.size > RESULT_ELEMS:
        return None
    if any(i.op != "constant" for i in inputs) or sum(i.type.size for i in inputs) > INPUT_ELEMS:
        return None
    return constant(opdef(n.op).evaluate(n.type, [i.attrs["value"] for i in inputs], n.attrs), n.dtype)
