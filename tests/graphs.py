"""Random valid graphs for hypothesis, and random values for their leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
from hypothesis import strategies as st

from graphopt.ir.graph import Graph, Node, input_node, state_node
from graphopt.ir.types import DType, TensorType, bool_, f32, i32
from graphopt.opdefs.bits import logical_and, logical_not, logical_or
from graphopt.opdefs.conv import conv_general
from graphopt.opdefs.elementwise import (
    abs_,
    add,
    alias,
    cast,
    div,
    gt,
    maximum,
    minimum,
    mul,
    neg,
    select,
    stop_gradient,
    sub,
)
from graphopt.opdefs.index import gather, scatter_add
from graphopt.opdefs.linalg import dot_general
from graphopt.opdefs.math import floor, pow_, sigmoid, tanh
from graphopt.opdefs.opdef import constant, full, opdef
from graphopt.opdefs.shape import broadcast, concat, iota, pad, reshape, reverse, slice_, transpose

Draw = Callable[..., object]
SIZES = (2, 3, 1, 4, 2, 3, 0)
NUMBERS = (-2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0)
UNARY = (neg, abs_, tanh, sigmoid, floor, alias, stop_gradient)
BINARY = (add, sub, mul, maximum, minimum)


def _ints(draw: Draw, low: int, high: int) -> int:
    return draw(st.integers(low, high))  # type: ignore[return-value]


def _subset(draw: Draw, rank: int) -> tuple[int, ...]:
    return tuple(sorted(draw(st.sets(st.integers(0, rank - 1))))) if rank else ()  # type: ignore[call-overload]


def _unary(draw: Draw, x: Node, pool: Sequence[Node]) -> Node:
    return draw(st.sampled_from(UNARY))(x)  # type: ignore[operator]


def _binary(draw: Draw, x: Node, pool: Sequence[Node]) -> Node:
    same = [n for n in pool if n.type == x.type]
    other = draw(st.sampled_from(same))
    a, b = (x, other) if draw(st.booleans()) else (other, x)
    return draw(st.sampled_from(BINARY))(a, b)  # type: ignore[operator]


def _with_number(draw: Draw, x: Node, pool: Sequence[Node]) -> Node:
    value = draw(st.sampled_from(NUMBERS))
    kind = _ints(draw, 0, 4)
    if kind == 0:
        return mul(value, x)
    if kind == 1:
        return div(x, value or 4.0)
    if kind == 2:
        return pow_(tanh(x), float(_ints(draw, 0, 3)))
    if kind == 3:
        return sub(x, value)
    return add(x, full(x.shape, value, x.dtype))


def _choice(draw: Draw, x: Node, pool: Sequence[Node]) -> Node:
    condition = gt(x, draw(st.sampled_from(NUMBERS)))
    if draw(st.booleans()):
        condition = logical_not(condition)
    if draw(st.booleans()):
        condition = logical_or(condition, bool(_ints(draw, 0, 1)))
    if draw(st.booleans()):
        condition = logical_and(condition, bool(_ints(draw, 0, 1)))
    same = [n for n in pool if n.type == x.type]
    return select(condition, x, draw(st.sampled_from(same)))


def _casts(draw: Draw, x: Node, pool: Sequence[Node]) -> Node:
    dtype: DType = draw(st.sampled_from((f32, i32, bool_)))  # type: ignore[assignment]
    return cast(cast(minimum(maximum(x, -100.0), 100.0), dtype=dtype), dtype=f32)


def _transpose(draw: Draw, x: Node, pool: Sequence[Node]) -> Node:
    return transpose(x, perm=tuple(draw(st.permutations(range(x.type.rank)))))  # type: ignore[arg-type]


def _reshape(draw: Draw, x: Node, pool: Sequence[Node]) -> Node:
    shape = [n for n in x.shape if n != 1 or draw(st.booleans())]
    if x.type.size and draw(st.booleans()):
        shape = [x.type.size]
    for _ in range(_ints(draw, 0, 2)):
        shape.insert(_ints(draw, 0, len(shape)), 1)
    return reshape(x, shape=tuple(shape))


def _broadcast(draw: Draw, x: Node, pool: Sequence[Node]) -> Node:
    shape, axes = list(x.shape), list(range(x.type.rank))
    for _ in range(_ints(draw, 1, 2)):
        place = _ints(draw, 0, len(shape))
        shape.insert(place, draw(st.sampled_from(SIZES[:-1])))  # type: ignore[arg-type]
        axes = [a + (a >= place) for a in axes]
    return broadcast(x, shape=tuple(shape), axes=tuple(axes))


def _slice(draw: Draw, x: Node, pool: Sequence[Node]) -> Node:
    start = tuple(_ints(draw, 0, n) for n in x.shape)
    stop = tuple(_ints(draw, a, n) for a, n in zip(start, x.shape, strict=True))
    return slice_(x, start=start, stop=stop, step=tuple(_ints(draw, 1, 2) for _ in x.shape))


def _pad(draw: Draw, x: Node, pool: Sequence[Node]) -> Node:
    low = tuple(_ints(draw, -1 if n > 1 else 0, 2) for n in x.shape)
    high = tuple(_ints(draw, -1 if n > 2 else 0, 2) for n in x.shape)
    value = constant(draw(st.sampled_from((0.0, 1.0))), x.dtype)
    return pad(x, value, low=low, high=high, interior=tuple(_ints(draw, 0, 1) for _ in x.shape))


def _concat(draw: Draw, x: Node, pool: Sequence[Node]) -> Node:
    if not x.type.rank:
        return x
    same = [n for n in pool if n.type == x.type]
    parts = [x] + [draw(st.sampled_from(same)) for _ in range(_ints(draw, 0, 2))]
    return concat(*parts, axis=_ints(draw, 0, x.type.rank - 1))


def _reverse(draw: Draw, x: Node, pool: Sequence[Node]) -> Node:
    return reverse(x, axes=_subset(draw, x.type.rank))


def _reduce(draw: Draw, x: Node, pool: Sequence[Node]) -> Node:
    axes = _subset(draw, x.type.rank)
    names = ["reduce_sum", "reduce_prod"] + ["reduce_max", "reduce_min"] * all(x.shape[a] for a in axes)
    return opdef(draw(st.sampled_from(names)))(x, axes=axes)  # type: ignore[arg-type]


def _dot_general(draw: Draw, x: Node, pool: Sequence[Node]) -> Node:
    y = draw(st.sampled_from(pool))
    assert isinstance(y, Node)
    pairs = [(i, j) for i in range(x.type.rank) for j in range(y.type.rank) if x.shape[i] == y.shape[j]]
    contract: list[tuple[int, int]] = []
    batch: list[tuple[int, int]] = []
    for i, j in pairs:
        used = contract + batch
        if all(i != a and j != b for a, b in used):
            (contract if draw(st.booleans()) else batch).append((i, j))
    if x.type.rank + y.type.rank - len(contract) * 2 - len(batch) > 4:
        return x
    axes = [(tuple(i for i, _ in p), tuple(j for _, j in p)) for p in (contract, batch)]
    return dot_general(x, y, contract=axes[0], batch=axes[1])


def _conv(draw: Draw, x: Node, pool: Sequence[Node]) -> Node:
    if x.type.rank not in (3, 4) or 0 in x.shape:
        return x
    spatial = x.type.rank - 2
    window = tuple(_ints(draw, 1, 2) for _ in range(spatial))
    shape = (_ints(draw, 1, 2), x.shape[1], *window)
    w = iota(shape=shape, axis=len(shape) - 1, dtype=x.dtype)
    return conv_general(
        x,
        w,
        strides=tuple(_ints(draw, 1, 2) for _ in range(spatial)),
        padding=tuple((_ints(draw, 0, 2), _ints(draw, 1, 2)) for _ in range(spatial)),
        lhs_dilation=tuple(_ints(draw, 1, 2) for _ in range(spatial)),
        rhs_dilation=(1,) * spatial,
        groups=1,
    )


def _index(draw: Draw, x: Node, pool: Sequence[Node]) -> Node:
    if not x.type.rank:
        return x
    axis = _ints(draw, 0, x.type.rank - 1)
    places = draw(st.lists(st.integers(-5, 5), min_size=1, max_size=3))
    indices = constant(np.array(places, np.int32))
    read = gather(x, indices, axis=axis)
    return scatter_add(x, indices, read, axis=axis) if draw(st.booleans()) else read


STEPS = (
    (_unary, _binary, _with_number, _choice, _casts)
    + (_transpose, _reshape, _broadcast, _slice, _pad, _concat, _reverse)
    + (_reduce, _dot_general, _conv, _index)
)
LARGEST_ELEMS = 600


@st.composite
def graphs(draw: Draw, steps: int = 14, sizes: tuple[int, ...] = SIZES) -> Graph:
    """A graph of about `steps` ops over float inputs and state of the given sizes."""
    shapes = st.lists(st.sampled_from(sizes), max_size=3).filter(lambda s: prod(s) <= LARGEST_ELEMS).map(tuple)
    inputs = [input_node(f"x{k}", TensorType(f32, draw(shapes))) for k in range(2)]  # type: ignore[arg-type]
    state = [state_node("s", TensorType(f32, draw(shapes)))]  # type: ignore[arg-type]
    pool: list[Node] = [*inputs, *state]
    for _ in range(_ints(draw, 4, steps)):
        x = pool[-min(len(pool), draw(st.sampled_from((1, 1, 1, 2, 3, 5))))]  # type: ignore[type-var]
        made = draw(st.sampled_from(STEPS))(draw, x, pool)  # type: ignore[operator]
        if made.type.size <= LARGEST_ELEMS and made.type.rank <= 4:
            pool.append(made)
    outputs = tuple(pool[-3:])
    fitting = [n for n in pool if n.type == state[0].type]
    updates = ((state[0], draw(st.sampled_from(fitting))),)
    return Graph("random", tuple(inputs), tuple(state), outputs, updates)


def values(graph: Graph, seed: int = 0) -> dict[Node, np.ndarray]:
    """Ordinary values for the leaves."""
    rng = np.random.default_rng(seed)
    return {n: np.array(rng.normal(size=n.shape), n.dtype.numpy) for n in graph.inputs + graph.state}


def quarters(graph: Graph, seed: int = 0) -> dict[Node, np.ndarray]:
    """Values for the leaves that are small multiples of 1/4: sums and products of them are exact in any order."""
    rng = np.random.default_rng(seed)
    return {n: np.array(rng.integers(-8, 9, n.shape) / 4, n.dtype.numpy) for n in graph.inputs + graph.state}
