"""Forms that lowering expects or that run better: explicit padding, no zeros between, reductions that threads can share."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from graphopt.ir.graph import Graph, Node
from graphopt.ir.types import f32
from graphopt.opdefs.conv import by_phases, explicit_padding
from graphopt.opdefs.elementwise import cast
from graphopt.opdefs.opdef import opdef
from graphopt.opdefs.shape import reshape
from graphopt.passes.rewrite import Steps, sweep

SPLIT_REDUCTIONS = ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min")
FEW_RESULTS = 64
MANY_RESULTS = 512
LARGE_ELEMS = 1 << 15
LARGE_PRODUCTS = 1 << 22  # below it, putting the parts together takes as long as multiplying by zeros


def canon(graph: Graph, steps: Steps) -> Graph:
    """Write convolutions on padded inputs, long ones without dilation, and split large reductions to few results in two stages.

    Claim:     no convolution pads or dilates its input; one of LARGE_PRODUCTS or more does not multiply by the zeros of a
               dilation, unless strides forbid; a reduction of LARGE_ELEMS or more has FEW_RESULTS or more
               results, unless its sizes have no fitting divisor.
    Invariant: the order of a sum depends on its sizes alone, never on the number of threads.
    Cost:      one visit per node.
    """
    rules: dict[str, list[tuple[str, Callable[[Node], Node | None]]]] = {
        "conv_general": [("without_zeros", without_zeros), ("pad_explicitly", pad_explicitly)],
    }
    for op in SPLIT_REDUCTIONS:
        rules[op] = [("split_reduce", split_reduce)]
    return sweep(graph, rules, steps)


def without_zeros(n: Node) -> Node | None:
    """A long convolution of an image with zeros between its elements becomes several that skip them."""
    x, w = n.inputs
    return by_phases(x, w, n.attrs) if n.type.size * prod(w.shape[1:]) >= LARGE_PRODUCTS else None


def pad_explicitly(n: Node) -> Node | None:
    """A convolution's padding and input dilation become a `pad` before it."""
    x, w = n.inputs
    padded, attrs = explicit_padding(x, n.attrs)
    return None if padded is x else opdef("conv_general")(padded, w, **attrs)


def split_reduce(n: Node) -> Node | None:
    """reduce(x) = reduce(reduce(x)) where the first stage keeps 64 to 512 results that are computed independently.

    It keeps leading reduced axes whole as long as they fit, then the largest fitting divisor of the next one.
    16-bit floats pass from stage to stage in f32, so they are rounded once.
    """
    (x,) = n.inputs
    axes = n.attrs["axes"]
    kept = n.type.size
    if not 0 < kept < FEW_RESULTS or prod([x.shape[a] for a in axes]) < LARGE_ELEMS:
        return None
    stages = _stages(x.shape, axes, kept)
    if stages is None:
        return None
    shape, first, second = stages
    reduce = opdef(n.op)
    wide = n.dtype.is_float and n.dtype.bits == 16 and n.op in ("reduce_sum", "reduce_prod")
    source = cast(x, dtype=f32) if wide else x
    source = source if source.shape == shape else reshape(source, shape=shape)
    result = reduce(reduce(source, axes=first), axes=second)
    return cast(result, dtype=n.dtype) if wide else result


def _stages(
    shape: tuple[int, ...], axes: tuple[int, ...], kept: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
    """The shape to reduce (at most one axis is split in two), the axes of the first stage, those of the second."""
    results, whole = kept, 0
    while whole < len(axes) and results * shape[axes[whole]] <= MANY_RESULTS:
        results *= shape[axes[whole]]
        whole += 1
    if whole == len(axes):
        return None
    split = axes[whole]
    part = max([d for d in range(1, MANY_RESULTS // results + 1) if shape[split] % d == 0])
    if results >= FEW_RESULTS:
        part = 1
    if results * part < FEW_RESULTS:
        return None
    if part > 1:
        shape = (*shape[:split], part, shape[split] // part, *shape[split + 1 :])
    shift = 1 if part > 1 else 0
    first = tuple([a + shift for a in axes[whole:]])
    later = [*axes[:whole], split] if part > 1 else list(axes[:whole])
    rest = [k for k in range(len(shape)) if k not in first]
    return shape, first, tuple([rest.index(a) for a in later])
