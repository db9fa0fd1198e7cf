"""Forms that lowering expects or that run better: explicit padding, no zeros between."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from graphopt.ir.graph import Graph, Node
from graphopt.opdefs.conv import by_phases, explicit_padding
from graphopt.opdefs.opdef import opdef
from graphopt.passes.rewrite import Steps, sweep

LARGE_PRODUCTS = 1 << 22  # below it, putting the parts together takes as long as multiplying by zeros


def canon(graph: Graph, steps: Steps) -> Graph:
    """Write convolutions on padded inputs, long ones without dilation.

    Claim: no convolution pads or dilates its input; one of LARGE_PRODUCTS or more does not multiply by the zeros of a
           dilation, unless strides forbid.
    Cost:  one visit per node.
    """
    rules: list[tuple[str, Callable[[Node], Node | None]]]
    rules = [("without_zeros", without_zeros), ("pad_explicitly", pad_explicitly)]
    return sweep(graph, {"conv_general": rules}, steps)


def without_zeros(n: Node) -> Node | None:
    """A long convolution of an image with zeros between its elements becomes several that skip them."""
    x, w = n.inputs
    return by_phases(x, w, n.attrs) if n.type.size * prod(w.shape[1:]) >= LARGE_PRODUCTS else None


def pad_explicitly(n: Node) -> Node | None:
    """A convolution's padding and input dilation become a `pad` before it."""
    x, w = n.inputs
    padded, attrs = explicit_padding(x, n.attrs)
    return None if padded is x else opdef("conv_general")(padded, w, **attrs)
