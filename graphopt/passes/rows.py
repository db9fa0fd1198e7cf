"""The algebra of rows: what is only meant for derivatives becomes plain reads and sums, and what concerns a few rows
does not touch the whole table.
"""

from __future__ import annotations

from graphopt.ir.graph import Node, with_inputs
from graphopt.opdefs.elementwise import cast, select
from graphopt.opdefs.index import gather, scatter_add
from graphopt.opdefs.opdef import broadcast_to, full
from graphopt.opdefs.rows import numbered
from graphopt.passes.rewrite import rewrite


@rewrite("gather_rows")
def rows_are_gathered(n: Node) -> Node | None:
    """gather_rows(x, i) = gather(x, i): its derivative has been taken."""
    return gather(*n.inputs, axis=0)


@rewrite("row_tensor")
def rows_are_scattered(n: Node) -> Node | None:
    """row_tensor(i, r) = zeros + r at i: somebody wants all of it."""
    return scatter_add(full(n.shape, 0, n.dtype), *n.inputs, axis=0)


@rewrite("gather")
def gather_of_cast(n: Node) -> Node | None:
    """gather(cast(x), i) = cast(gather(x, i)) where fewer elements are read than there are."""
    x, indices = n.inputs
    if x.op != "cast" or n.type.size > x.type.size:
        return None
    return cast(gather(x.inputs[0], indices, **n.attrs), dtype=n.dtype)


@rewrite("select")
def select_of_scatter(n: Node) -> Node | None:
    """select(c, x with rows changed, x) = x with rows changed at indices that one number c may put out of range."""
    c, changed, x = n.inputs
    if changed.op not in ("scatter_set", "scatter_add") or changed.inputs[0] is not x or x.op == "constant":
        return None
    if c.op != "broadcast" or c.inputs[0].shape:
        return None
    size = x.shape[changed.attrs.get("axis", 0)]
    at = numbered(changed.inputs[1], size)
    kept = select(broadcast_to(c.inputs[0], at.shape), at, full(at.shape, size, at.dtype))
    return with_inputs(changed, (x, kept, changed.inputs[2]))
