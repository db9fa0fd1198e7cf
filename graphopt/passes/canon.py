"""Forms that lowering expects: explicit padding."""

from __future__ import annotations

from graphopt.ir.graph import Graph, Node
from graphopt.opdefs.conv import explicit_padding
from graphopt.opdefs.opdef import opdef
from graphopt.passes.rewrite import Steps, sweep


def canon(graph: Graph, steps: Steps) -> Graph:
    """Write convolutions on padded inputs.

    Claim: no convolution pads or dilates its input.
    Cost:  one visit per node.
    """
    return sweep(graph, {"conv_general": [("pad_explicitly", pad_explicitly)]}, steps)


def pad_explicitly(n: Node) -> Node | None:
    """A convolution's padding and input dilation become a `pad` before it."""
    x, w = n.inputs
    padded, attrs = explicit_padding(x, n.attrs)
    return None if padded is x else opdef("conv_general")(padded, w, **attrs)
