"""Symbolic axes in graphs: the graph that serves all sizes gives for each what that size's own graph gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from graphopt import config
from graphopt.compile import compile_graph
from graphopt.errors import GraphError
from graphopt.ir.graph import Graph, Node, substitute
from graphopt.ir.types import DType, TensorType, dtype_of, f32, f64, i32, u32
from graphopt.opdefs import REGISTRY
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.index import gather, scatter_add
from graphopt.opdefs.linalg import dot_general, matmul
from graphopt.opdefs.math import tanh
from graphopt.opdefs.opdef import Sample, full, opdef
from graphopt.opdefs.reduce import reduce_max
from graphopt.passes.batch import Examples
from graphopt.passes.gradient import vjp
from graphopt.passes.masks import masked
from graphopt.passes.pipeline import check, close
from graphopt.passes.symbolic import Unfit, analyse, matches
from tests.graphs import graphs
from tests.steps import leaf

CAPACITY = 6
FEWER = (1, 2, 5)
Arrays = Sequence[np.ndarray]


def padded(arrays: Arrays, graph: Graph, sizes: Graph) -> list[np.ndarray]:
    """Arrays of a smaller graph in those of `graph`; what is behind them is as nasty as can be."""
    found = []
    for array, node, small in zip(arrays, graph.inputs, sizes.inputs, strict=True):
        kind = node.dtype.kind
        nasty = np.nan if kind == "f" else True if kind == "b" else np.iinfo(node.dtype.numpy).min
        nasty = 0 if graph.name == "unpool" and kind == "i" else nasty  # positions are always in range
        wide = np.full(node.shape, nasty, node.dtype.numpy)
        wide[tuple(slice(n) for n in small.shape)] = array
        found.append(wide)
    return found


def served(whole: Graph, smaller: Mapping[int, Graph], arrays: Mapping[int, Arrays], backend: str = "") -> None:
    """`whole` serves the smaller graphs: analysed against one for CAPACITY + 1 rows, run for the others.

    Errors: Unfit.
    """
    region = analyse(whole, CAPACITY, smaller[CAPACITY + 1], CAPACITY + 1)
    values = {rows: matches(region, smaller[rows], rows) for rows in arrays}
    graph = masked(region, ())
    check(graph)
    compiled = None
    if backend:
        with config.override(backend=backend, cache="off"):
            compiled = compile_graph(graph)
    for rows, given_arrays in arrays.items():
        small = smaller[rows]
        given = [*padded(given_arrays, whole, small), np.asarray(rows, np.int32), *values[rows]]
        expected = evaluate_nodes(small.outputs, dict(zip(small.inputs, given_arrays, strict=True)))
        if compiled is None:
            found = evaluate_nodes(graph.outputs, dict(zip(graph.inputs, given, strict=True)))
        else:
            found = compiled.run(given, [])
        for a, b, node in zip(expected, found, small.outputs, strict=True):
            valid = b[tuple(slice(n) for n in a.shape)]
            assert close(a, valid), f"{rows} rows, {node.op}: {a} became {valid}"


# each op, each axis


def _resized(value: Any, size: int, rows: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_resized(v, size, rows) for v in value)
    return rows if type(value) is int and value == size else value


def graph_of(name: str, sample: Sample, dtype: DType, size: int, rows: int) -> Graph:
    """An op on its sample's shapes, where sizes of `size` are `rows`, with its derivatives.

    Errors: GraphError when such shapes do not fit.
    """
    arrays = sample.arrays(np.random.default_rng(0), dtype)
    types = [(_resized(tuple(a.shape), size, rows), dtype_of(a.dtype)) for a in arrays]
    leaves = [leaf(f"x{k}", *shape, dtype=d) for k, (shape, d) in enumerate(types)]
    attrs = {k: _resized(v, size, rows) if k in ("shape", "start", "stop") else v for k, v in sample.attrs.items()}
    out = opdef(name)(*leaves, **attrs)
    outputs = [out]
    if out.dtype.is_float and "vjp" in opdef(name).rules:
        wrt = [x for x in leaves if x.dtype.is_float]
        weights = mul_by_place(out)
        outputs += [g for g in vjp([out], [weights], wrt) if g is not None]
    return Graph(name, tuple(leaves), (), tuple(outputs))


def mul_by_place(out: Node) -> Node:
    """A cotangent that differs from element to element, of the values themselves."""
    return opdef("sin")(out) if out.dtype in (f32, f64) else full(out.shape, 1.0, out.dtype)


def _cases() -> list[tuple[str, int, int]]:
    found = []
    for name, declared in REGISTRY.items():
        for k, sample in enumerate(declared.samples):
            shapes = [*sample.shapes, sample.attrs.get("shape", ())]
            sizes = {n for shape in shapes for n in shape if n > 1}
            found += [(name, k, size) for size in sorted(sizes)]
    return found


def _draw(sample: Sample, dtype: DType, graph: Graph) -> list[np.ndarray]:
    """The sample's values, again and again in arrays of the graph's shapes."""
    arrays = sample.arrays(np.random.default_rng(1), dtype)
    return [np.resize(a, n.shape) for a, n in zip(arrays, graph.inputs, strict=True)]


def serve_sample(name: str, number: int, size: int) -> bool:
    """Whether an op serves several sizes of the axes that have `size` in one of its samples; if it does, it is right."""
    declared = REGISTRY[name]
    sample = declared.samples[number]
    dtype = f32 if f32 in declared.dtypes else i32 if i32 in declared.dtypes else declared.dtypes[0]
    try:
        whole = graph_of(name, sample, dtype, size, CAPACITY)
        smaller = {rows: graph_of(name, sample, dtype, size, rows) for rows in (CAPACITY + 1, *FEWER)}
        served(whole, smaller, {rows: _draw(sample, dtype, smaller[rows]) for rows in FEWER})
    except (GraphError, Unfit):
        return False
    return True


CASES = _cases()
WITHOUT = {"slice": "its samples take parts of every axis"}


@pytest.mark.parametrize("name", sorted({name for name, _, _ in CASES}))
def test_each_op_is_right_for_fewer_rows_or_refused(name: str) -> None:
    results = [serve_sample(*case) for case in CASES if case[0] == name]
    assert any(results) != (name in WITHOUT), f"{name} serves no size of any axis of its samples"


# whole graphs


def many(graph: Graph, size: int) -> Graph:
    """So many examples of a graph: its outputs, and their sums over the examples."""
    examples = Examples(size)
    every = [leaf(f"all{k}", size, *n.shape, dtype=n.dtype) for k, n in enumerate(graph.inputs)]
    same = [leaf(f"same{k}", *n.shape, dtype=n.dtype) for k, n in enumerate(graph.state)]
    for one, all_of_them in zip(graph.inputs, every, strict=True):
        examples.stand_for(one, all_of_them)
    nodes = substitute(examples.of(graph.outputs), dict(zip(graph.state, same, strict=True)))
    sums = [opdef("reduce_sum")(n, axes=(0,)) for n in nodes if n.type.rank and n.dtype.is_float]
    return Graph("many", (*every, *same), (), (*nodes, *sums))


@given(graphs())
def test_examples_of_a_random_graph_share_a_graph(graph: Graph) -> None:
    """What batch rules make of any op has a leading axis that is understood."""
    rng = np.random.default_rng(3)
    smaller = {rows: many(graph, rows) for rows in (CAPACITY + 1, *FEWER)}
    arrays = {rows: [_random(n.type, rng) for n in smaller[rows].inputs] for rows in FEWER}
    served(many(graph, CAPACITY), smaller, arrays)


def test_native_code_agrees() -> None:
    """Sums, extremes, products and look-ups over the rows in one graph, compiled."""

    def made(rows: int) -> Graph:
        x, w, k = leaf("x", rows, 5), leaf("w", 5, 3), leaf("k", rows, dtype=i32)
        y = tanh(matmul(x, w))
        own = dot_general(y, y, contract=((1,), (1,)), batch=((), ()))
        seen = gather(y, k, axis=0)
        added = scatter_add(full((rows, 3), 0.0, f32), k, y, axis=0)
        best = reduce_max(own, axes=(0,))
        grads = vjp([own, seen], [full(own.shape, 1.0 / rows, f32), seen], [w, x])
        return Graph("rows", (x, w, k), (), (y, own, seen, added, best, *(g for g in grads if g is not None)))

    rng = np.random.default_rng(0)
    smaller = {rows: made(rows) for rows in (CAPACITY + 1, *FEWER)}
    arrays = {
        rows: [rng.normal(size=(rows, 5)).astype("f"), rng.normal(size=(5, 3)).astype("f"),
               rng.integers(-rows - 1, rows + 2, rows).astype("i")]
        for rows in FEWER
    }  # fmt: skip
    for backend in ("numpy", "loops", "llvm"):
        served(made(CAPACITY), smaller, arrays, backend)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("slice", lambda x, n: opdef("slice")(x, start=(n - 1, 0), stop=(n, 4), step=(1, 1))),
        ("reverse", lambda x, n: opdef("reverse")(x, axes=(0,))),
        ("reshape", lambda x, n: opdef("reshape")(opdef("transpose")(x, perm=(1, 0)), shape=(2, 2 * n))),
        ("random_bits", lambda x, n: opdef("random_bits")(full((2,), 1, u32), shape=(4, n))),
        ("other", lambda x, n: x if n > 6 else x + 1.0),
    ],
)
def test_refused(name: str, change: Callable[[Node, int], Node]) -> None:
    def made(rows: int) -> Graph:
        x = leaf("x", rows, 4)
        return Graph("refused", (x,), (), (change(x, rows),))

    with pytest.raises(Unfit):
        analyse(made(6), 6, made(7), 7)


def _random(kind: TensorType, rng: np.random.Generator) -> np.ndarray:
    if kind.dtype.kind == "b":
        return rng.integers(0, 2, kind.shape).astype(bool)
    if kind.dtype.is_integer:
        return rng.integers(0, 3, kind.shape).astype(kind.dtype.numpy)
    return (rng.integers(-8, 9, kind.shape) / 4).astype(kind.dtype.numpy)


