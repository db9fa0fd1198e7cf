"""Contractions in every tiling: whatever `choose` might take, the kernel computes numpy's product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from itertools import product as iterate
from math import gcd, prod
from typing import Any

import numpy as np
import pytest

from graphopt import config
from graphopt.compile import compile_graph, compile_program
from graphopt.ir.graph import Graph, Node, input_node
from graphopt.ir.index import Var, index, linear
from graphopt.ir.types import DType, TensorType, bf16, f16, f32, f64, i8, i32, i64, u8
from graphopt.kernel import asked as asking
from graphopt.kernel import contract, tile, tiles
from graphopt.kernel.loops import Buffer, Fetch, For, Kernel, Load, Stmt, Store, expressions, own_places, show
from graphopt.kernel.machine import AVX2, AVX512, SSE2, Machine
from graphopt.kernel.run import Interpreter
from graphopt.kernel.tile import Operand, Problem, Tiling
from graphopt.llvm.target import machine_of
from graphopt.opdefs.conv import conv_general
from graphopt.opdefs.elementwise import cast, maximum
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.linalg import dot_general, matmul
from graphopt.opdefs.math import tanh
from graphopt.opdefs.opdef import opdef
from graphopt.opdefs.reduce import reduce_sum
from graphopt.opdefs.shape import broadcast, reshape, reverse, slice_, transpose
from graphopt.passes.gradient import vjp
from graphopt.passes.pipeline import random_array
from graphopt_runtime import engine
from graphopt_runtime.executor import Executable
from tests.steps import adam_after_dot, agree, arguments, compiled, dense_bias_relu, leaf, lower_all, lowered, meaning, run
from tests.tolerances import assert_close

Golden = Callable[..., None]
NONE: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
Choose = Callable[[Problem, Machine], Tiling]
Make = Callable[..., Node]
HOST = machine_of(engine.host())
PLAIN = ("simplify", "resimplify")  # movement stays where it was written


def tilings(p: Problem, machine: Machine) -> list[Tiling]:
    """Of every form, choice of dimensions and packing, the smallest, a middle and the largest tile that `choose` prices."""
    kinds: dict[tuple[Any, ...], list[Tiling]] = {}
    for t in chain(tile._broadcast_tilings(p, machine), tile._dot_tilings(p, machine)):
        kinds.setdefault((t.form, t.lane, t.row, t.col, t.packed, t.rows_packed), []).append(t)
    found: dict[int, Tiling] = {}
    for alike in kinds.values():
        alike.sort(key=lambda t: (t.rows * t.cols * t.vectors, t.rows))
        for t in (alike[0], alike[len(alike) // 2], alike[-1]):
            found[id(t)] = t
    return list(found.values())


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """`choose` takes the tilings one after the other; the list holds: problems so far, tilings of the
    last one, distance from one tiling to the next."""
    counts = [0, 0, 1]
    taken: dict[int, tuple[Problem, Tiling]] = {}
    before = contract.choose

    def choose(p: Problem, machine: Machine) -> Tiling:
        if id(p) not in taken:
            found = tilings(p, machine) or [before(p, machine)]
            taken[id(p)] = p, found[counts[0] * counts[2] % len(found)]
            counts[:2] = counts[0] + 1, len(found)
        return taken[id(p)][1]

    monkeypatch.setattr(contract, "choose", choose)
    lower_all(monkeypatch)
    return counts


def spread(total: int, most: int) -> int:
    """A step through `total` places that visits different ones, far apart when only `most` are visited."""
    step = max(total // most, 1)
    while gcd(step, total) != 1 and step < total:
        step += 1
    return step


def leaves_of(shapes: Sequence[tuple[int, ...]], dtype: DType, k: int) -> list[Node]:
    return [input_node(f"x{k}_{j}", TensorType(dtype, s)) for j, s in enumerate(shapes)]


def how_many(make: Make, shapes: Sequence[tuple[int, ...]], dtype: DType, forced: list[int]) -> int:
    """Tilings of the first contraction of a computation on the machine it is compiled for."""
    forced[:] = [0, 0, 1]
    leaves = leaves_of(shapes, dtype, 0)
    lowered(Graph("g", tuple(leaves), (), (make(*leaves),)), HOST)
    count = forced[1]
    forced[:] = [0, 0, 1]
    return count


def check(
    make: Make,
    shapes: Sequence[tuple[int, ...]],
    forced: list[int],
    dtype: DType = f32,
    most: int = 12,
    skip: tuple[str, ...] = (),
    backend: str = "llvm",
    threads: int = 1,
) -> None:
    """One graph with the computation once per tiling, each on arrays of its own, against the numpy meaning.

    most: no more than that many of the tilings, evenly spread.
    """
    with config.override(skip=skip):
        total = how_many(make, shapes, dtype, forced)
    count = min(total, most)
    forced[2] = spread(total, most)
    leaves = [leaves_of(shapes, dtype, k) for k in range(count)]
    outputs = tuple(make(*group) for group in leaves)
    flat = tuple(n for group in leaves for n in group)
    graph = Graph("g", flat, (), outputs)
    rng = np.random.default_rng(0)
    arrays = [random_array(n.type, rng) for n in flat]
    with np.errstate(all="ignore"):
        expected = evaluate_nodes(outputs, dict(zip(flat, arrays, strict=True)))
        sizes = evaluate_nodes(outputs, dict(zip(flat, map(np.abs, arrays), strict=True)))
    with config.override(backend=backend, cache="off", threads=threads, skip=skip):
        found = compile_graph(graph).run(arrays, [])
    for k, (a, e, size) in enumerate(zip(found, expected, sizes, strict=True)):
        assert_close(a, e, scale=np.abs(size.astype(np.float64)), what=f"tiling {k} of {count}")
    assert forced[0] >= count


def dot(contracted: Any = ((1,), (0,)), batch: Any = NONE) -> Make:
    return lambda a, b: dot_general(a, b, contract=contracted, batch=batch)


DOTS: dict[str, tuple[Make, list[tuple[int, ...]]]] = {
    "a b": (dot(), [(13, 11), (11, 37)]),
    "aT b": (dot(((0,), (0,))), [(9, 19), (9, 21)]),
    "a bT": (dot(((1,), (1,))), [(7, 43), (9, 43)]),
    "aT bT": (dot(((0,), (1,))), [(17, 5), (18, 17)]),
    "batches": (dot(((3,), (2,)), ((0, 1), (0, 1))), [(2, 3, 5, 4), (2, 3, 4, 7)]),
    "batch inside": (dot(((2, 3), (0, 1)), ((1,), (3,))), [(5, 2, 4, 3), (4, 3, 6, 2)]),
    "sums apart": (dot(((3, 1), (0, 3)), ((0,), (1,))), [(3, 4, 2, 5), (5, 3, 6, 4)]),
    "three free axes": (dot(((1,), (2,))), [(3, 20, 2), (5, 4, 20)]),
    "scalar": (dot(((0,), (0,))), [(37,), (37,)]),
    "outer": (dot(NONE), [(13,), (35,)]),
    "outer apart": (dot(NONE, ((1,), (1,))), [(13, 4), (35, 4)]),
    "matrix vector": (dot(((1,), (0,))), [(19, 23), (23,)]),
    "pointwise": (dot(NONE, ((0, 1), (0, 1))), [(4, 9), (4, 9)]),
    "ones": (dot(), [(1, 1), (1, 1)]),
    "a row": (dot(), [(1, 16), (16, 1)]),
    "even": (dot(), [(32, 16), (16, 64)]),
}


@pytest.mark.parametrize("name", DOTS)
def test_dot_general_in_every_tiling(name: str, forced: list[int]) -> None:
    make, shapes = DOTS[name]
    check(make, shapes, forced)


@pytest.mark.parametrize("name", ["a b", "a bT", "batch inside", "outer"])
def test_dot_general_in_the_interpreter(name: str, forced: list[int]) -> None:
    make, shapes = DOTS[name]
    check(make, shapes, forced, most=12, backend="loops")


@pytest.mark.parametrize("dtype", [f16, bf16, f64, i8, u8, i32, i64], ids=lambda d: d.short)
@pytest.mark.parametrize("name", ["a b", "a bT"])
def test_dot_general_in_every_dtype(name: str, dtype: DType, forced: list[int]) -> None:
    make, shapes = DOTS[name]
    check(make, shapes, forced, dtype, most=6)


@pytest.mark.parametrize("shapes", [[(0, 5), (5, 3)], [(4, 5), (5, 0)], [(4, 0), (0, 19)], [(0, 0), (0, 0)]], ids=str)
def test_sizes_of_zero(shapes: list[tuple[int, ...]], forced: list[int]) -> None:
    """A sum of nothing is zero, and what follows it is still computed."""
    check(dot(), shapes, forced)
    check(lambda a, b: maximum(matmul(a, b) + 2.0, -1.0), shapes, forced)
    check(lambda a, b: transpose(matmul(a, b), perm=(1, 0)), shapes, forced)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 31, 61])
def test_prime_sizes_as_chosen(n: int) -> None:
    for m, k in ((3, 17), (n, n), (64, n)):
        a, b = input_node("a", TensorType(f32, (m, k))), input_node("b", TensorType(f32, (k, n)))
        graph = Graph("g", (a, b), (), (matmul(a, b), dot_general(b, a, contract=((0,), (1,)), batch=NONE)))
        inputs, _ = arguments(graph)
        agree(run(compiled(graph), inputs, []), meaning(graph, inputs, []), f"{m} {k} {n}")


# convolutions


def attrs(spatial: int, **changes: Any) -> dict[str, Any]:
    ones = (1,) * spatial
    plain = {"strides": ones, "padding": ((0, 0),) * spatial, "lhs_dilation": ones, "rhs_dilation": ones, "groups": 1}
    return {**plain, **changes}


CONVS: dict[str, tuple[list[tuple[int, ...]], dict[str, Any]]] = {
    "3x3": ([(2, 3, 9, 8), (5, 3, 3, 3)], attrs(2, padding=((1, 1), (1, 1)))),
    "strides": ([(2, 3, 11, 9), (4, 3, 3, 2)], attrs(2, strides=(2, 3))),
    "dilated": (
        [(2, 2, 4, 9), (3, 2, 3, 3)],
        attrs(2, lhs_dilation=(2, 1), rhs_dilation=(1, 3), padding=((2, 2), (1, 3))),
    ),
    "groups": ([(2, 6, 5, 5), (4, 3, 3, 3)], attrs(2, groups=2, padding=((1, 1), (1, 1)))),
    "depthwise": ([(2, 5, 6, 6), (5, 1, 3, 3)], attrs(2, groups=5, strides=(2, 2), padding=((0, 1), (0, 1)))),
    "1x1": ([(2, 7, 4, 5), (9, 7, 1, 1)], attrs(2)),
    "one axis": ([(3, 4, 21), (5, 4, 3)], attrs(1, padding=((1, 1),))),
    "cropped": ([(2, 2, 8, 9), (3, 2, 3, 3)], attrs(2, padding=((-1, -2), (-1, 0)))),
}


@pytest.mark.parametrize("name", CONVS)
def test_conv_general_in_every_tiling(name: str, forced: list[int]) -> None:
    shapes, given = CONVS[name]
    check(lambda x, w: conv_general(x, w, **given), shapes, forced, most=16)


@pytest.mark.parametrize("name", CONVS)
def test_gradients_of_convolutions(name: str, forced: list[int]) -> None:
    """Both derivatives, which are contractions again: windows that reach across strides and dilations."""
    shapes, given = CONVS[name]

    def derivative(k: int) -> Make:
        def make(x: Node, w: Node) -> Node:
            y = conv_general(x, w, **given)
            found = vjp([y], [tanh(y)], [x, w])[k]
            assert found is not None
            return found

        return make

    for k in range(2):
        check(derivative(k), shapes, forced, most=4)


# how operands are reached, and what follows


def views() -> Iterator[tuple[str, Make]]:
    """Products whose operands are read through movement, with factors of the sum anywhere."""
    yield "transposed", lambda a, b: matmul(transpose(a, perm=(1, 0)), b)
    yield "reversed", lambda a, b: matmul(reverse(transpose(a, perm=(1, 0)), axes=(0,)), reverse(b, axes=(0, 1)))
    yield (
        "sliced",
        lambda a, b: matmul(
            slice_(transpose(a, perm=(1, 0)), start=(2, 1), stop=(18, 12), step=(3, 2)),
            slice_(b, start=(6, 0), stop=(12, 20), step=(1, 3)),
        ),
    )
    yield (
        "spread",
        lambda a, b: dot_general(broadcast(a, shape=(12, 3, 19), axes=(0, 2)), b, contract=((0,), (0,)), batch=NONE),
    )
    yield (
        "spread in the sum",
        lambda a, b: dot_general(
            broadcast(a, shape=(12, 19, 5), axes=(0, 1)),
            broadcast(b, shape=(12, 5, 21), axes=(0, 2)),
            contract=((0, 2), (0, 1)),
            batch=NONE,
        ),
    )
    yield (
        "spread in all of the sum",
        lambda a, b: dot_general(
            broadcast(reduce_sum(a, axes=(0, 1)), shape=(5,), axes=()),
            broadcast(reduce_sum(b, axes=(0, 1)), shape=(5,), axes=()),
            contract=((0,), (0,)),
            batch=NONE,
        ),
    )
    yield (
        "reshaped",
        lambda a, b: dot_general(
            reshape(a, shape=(4, 3, 19)), reshape(b, shape=(4, 3, 21)), contract=((0, 1), (0, 1)), batch=NONE
        ),
    )
    yield "diagonal", lambda a, b: dot_general(
        slice_(a, start=(0, 0), stop=(12, 12), step=(1, 1)), slice_(b, start=(0, 2), stop=(12, 14), step=(1, 1)),
        contract=((0,), (1,)), batch=((1,), (0,)),
    )  # fmt: skip


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in views()])
def test_operands_through_movement(make: Make, forced: list[int]) -> None:
    check(make, [(12, 19), (12, 21)], forced)
    check(make, [(12, 19), (12, 21)], forced, most=6, skip=PLAIN)


def epilogues() -> Iterator[tuple[str, Make]]:
    dense = opdef("dot_general")

    def product(a: Node, b: Node) -> Node:
        return dense(a, b, contract=((1,), (0,)), batch=NONE)

    yield "bias and relu", lambda a, b, c: maximum(product(a, b) + slice_row(c), 0.0)
    yield "rows", lambda a, b, c: product(a, b) * broadcast(reduce_sum(c, axes=(1,)), shape=(13, 21), axes=(0,))
    yield (
        "residual across",
        lambda a, b, c: tanh(product(a, b)) + transpose(transpose(c, perm=(1, 0)) * 2.0, perm=(1, 0)),
    )
    yield "used twice", lambda a, b, c: (lambda p: p * p + tanh(p) - c * p)(product(a, b))
    yield "cast", lambda a, b, c: cast(cast(product(a, b), dtype=f16) + cast(c, dtype=f16), dtype=f32)
    yield "transposed", lambda a, b, c: transpose(product(a, b), perm=(1, 0))
    yield "then reduced", lambda a, b, c: reduce_sum(tanh(product(a, b) + c), axes=(1,))
    yield "chained", lambda a, b, c: product(product(a, b) + c, transpose(c, perm=(1, 0)))


def slice_row(c: Node) -> Node:
    return broadcast(
        reshape(slice_(c, start=(0, 0), stop=(1, 21), step=(1, 1)), shape=(21,)), shape=(13, 21), axes=(1,)
    )


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in epilogues()])
def test_what_follows_a_product(make: Make, forced: list[int]) -> None:
    check(make, [(13, 11), (11, 21), (13, 21)], forced)


def test_adam_follows_the_gradient_in_place_in_every_tiling(forced: list[int]) -> None:
    """State that the kernel reads and overwrites: no element may be read after it was written."""
    for k in range(60):
        forced[0] = k
        graph = adam_after_dot(5, 7, 19)
        inputs, states = arguments(graph)
        found = run(compiled(graph, "loops" if k % 10 == 9 else "llvm"), inputs, states)
        agree(found, meaning(graph, inputs, states), f"tiling {k}")
        if k >= forced[1]:
            break


def test_a_transposed_result_is_written_at_once(forced: list[int]) -> None:
    """The product's own order is never in memory; the passes would swap the operands instead."""
    check(lambda a, b: transpose(matmul(a, b), perm=(1, 0)), [(13, 11), (11, 37)], forced, skip=PLAIN)
    check(lambda a, b: transpose(DOTS["batches"][0](a, b), perm=(2, 0, 3, 1)), DOTS["batches"][1], forced, skip=PLAIN)


# long sums


@pytest.mark.parametrize("name", ["a bT", "a b", "scalar", "sums apart", "aT b"])
@pytest.mark.parametrize("threads", [1, 2])
def test_split_sums(name: str, threads: int, forced: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums cut into parts, in every tiling of the whole and of the parts."""
    monkeypatch.setattr(contract, "_LONG_SUM", 4)
    monkeypatch.setattr(contract, "_TASKS", 1 << 20)
    monkeypatch.setattr("graphopt.kernel.step._TEAM_WORK", 0.0)
    make = DOTS[name][0]
    shapes = {
        "a bT": [(3, 48), (5, 48)],
        "a b": [(3, 24), (24, 9)],
        "scalar": [(96,), (96,)],
        "sums apart": [(3, 4, 2, 6), (6, 3, 5, 4)],
        "aT b": [(36, 3), (36, 11)],
    }[name]
    check(lambda a, b: maximum(make(a, b), 0.5), shapes, forced, most=12, threads=threads)


def test_a_long_sum_is_split_and_one_of_a_prime_length_is_not() -> None:
    names = []
    for k in (4096, 4099):
        a, b = leaves_of([(2, k), (k, 3)], f32, 0)
        graph = Graph("g", (a, b), (), (matmul(a, b),))
        names.append([kernel.name for kernel in lowered(graph, HOST).kernels])
        inputs, _ = arguments(graph)
        expected = meaning(graph, inputs, [])
        for backend in ("llvm", "loops"):
            (found,) = run(compiled(graph, backend), inputs, [])
            assert_close(found, expected[0], scale=float(k), what=f"{backend} {k}")
    assert any(name.endswith("_parts") for name in names[0]) and len(names[0]) >= 2
    assert not any(name.endswith("_parts") for name in names[1])


@pytest.mark.parametrize("name", ["sums apart", "aT b"])
@pytest.mark.parametrize("threads", [1, 2])
def test_sums_are_cut_where_slices_are_far(
    name: str, threads: int, forced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts along several summed dimensions, because what a tile reads does not lie near, in every tiling."""
    for limit, value in (("_LONG_SUM", 4), ("_TASKS", 1), ("_SHORT_SUM", 1), ("_SLICE_BYTES", 64), ("FIRST_LEVEL_BYTES", 64)):
        monkeypatch.setattr(contract, limit, value)
    monkeypatch.setattr("graphopt.kernel.step._TEAM_WORK", 0.0)
    shapes = {
        "sums apart": [(2, 30, 2, 36), (36, 2, 3, 30)],
        "aT b": [(98, 2), (98, 3)],
    }[name]
    a, b = leaves_of(shapes, f32, 0)
    assert any(k.name.endswith("_parts") for k in lowered(Graph("g", (a, b), (), (DOTS[name][0](a, b),)), HOST).kernels)
    check(DOTS[name][0], shapes, forced, most=12, threads=threads)


@pytest.mark.parametrize(
    ("sums", "wanted", "counts", "left"),
    [
        ((64, 32, 32), 16, [16], [4, 32, 32]),
        ((8, 56, 56), 18, [8, 2], [28, 56]),
        ((7, 5), 3, [], [7, 5]),
        ((1, 6), 64, [6], [1]),
        ((0, 4), 4, [4], [0]),
    ],
)
def test_how_a_sum_is_cut(sums: tuple[int, ...], wanted: int, counts: list[int], left: list[int]) -> None:
    """Whole dimensions from the outermost on, then a divisor of the next; every element of the sum in one part."""
    outs, dims = (Var("i", 5), Var("j", 40)), tuple(Var(f"k{k}", n) for k, n in enumerate(sums))
    buffers = Buffer("a", f32, 5 * prod(sums)), Buffer("b", f32, 40 * prod(sums))
    offset = linear([index(v) for v in dims], sums)
    a, b = (Operand(x, offset + index(v) * prod(sums)) for x, v in zip(buffers, outs, strict=True))
    p = Problem(outs, dims, a, b, (), linear([index(v) for v in outs], (5, 40)), f32, 16)
    tiling = Tiling("broadcast", outs[1], outs[0], None, 5, 1, 2, 0.0)
    parts, where, rest = contract._cut(p, tiling, wanted)
    assert ([v.size for v in parts], [v.size for v in rest]) == (counts, left)
    places = [i.substitute(where) for i in map(index, dims)]
    seen = {
        tuple(int(i.substitute(dict(zip((*parts, *rest), map(index, at), strict=True))).const) for i in places)
        for at in iterate(*(range(v.size) for v in (*parts, *rest)))
    }
    assert len(seen) == prod(sums)


# the choice


def test_the_choice_is_the_cheapest_and_looks_at_shapes_alone() -> None:
    graph = dense_bias_relu()
    for machine in (AVX2, Machine(16, 16, False), Machine(64, 32, True, True)):
        seen: list[tuple[Problem, Tiling]] = []
        before = contract.choose

        def choose(
            p: Problem, m: Machine, seen: list[tuple[Problem, Tiling]] = seen, before: Choose = before
        ) -> Tiling:
            seen.append((p, before(p, m)))
            return seen[-1][1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(contract, "choose", choose)
            texts = [[show(k) for k in lowered(graph, machine).kernels] for _ in range(2)]
        assert texts[0] == texts[1]
        for p, chosen in seen:
            everything = [*tile._broadcast_tilings(p, machine), *tile._dot_tilings(p, machine)]
            assert chosen.cost == min(t.cost for t in everything)
            assert chosen.rows * chosen.cols * chosen.vectors <= machine.vector_registers
            for t in everything:
                assert {t.lane, t.row, t.col} - {None} <= {*p.outs, *p.sums} and len(
                    {t.lane, t.row, t.col} - {None}
                ) >= 1


@pytest.mark.parametrize("packed", [False, True])
def test_tiles_golden(packed: bool, golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dense layer in tiles of 3 rows and two vectors, with remainders in both directions."""

    def choose(p: Problem, machine: Machine) -> Tiling:
        row, lane = p.outs
        return Tiling("broadcast", lane, row, None, 3, 1, 2, 0.0, packed)

    monkeypatch.setattr(contract, "choose", choose)
    kernels = lowered(dense_bias_relu(), AVX2).kernels
    golden(f"contract_{'packed' if packed else 'plain'}.txt", "\n\n".join(show(k) for k in kernels) + "\n")


# lines that are asked for


class Asked(Interpreter):
    """Per tile the cache lines that it asks for, and those that it writes or asks for to write."""

    def __init__(self, kernel: Kernel, arrays: Sequence[np.ndarray]):
        super().__init__(kernel, arrays)
        self.tiles: list[tuple[set[tuple[Buffer, int]], set[tuple[Buffer, int]]]] = []

    def _loop(self, s: For) -> None:
        if s.kind == "par":
            for k in range(s.var.size):
                self.tiles.append((set(), set()))
                self.vars[s.var] = k
                self._body(s.body)
        else:
            super()._loop(s)

    def _body(self, body: Sequence[Stmt]) -> None:
        for s in body:
            if isinstance(s, Fetch):
                self.tiles[-1][0].add((s.buffer, int(self.index(s.index)) * s.buffer.dtype.itemsize // 64))
            super()._body([s])
            if isinstance(s, Store) and not s.buffer.local:
                self.tiles[-1][1].update((s.buffer, int(i) * 4 // 64) for i in np.atleast_1d(self.index(s.index)))


@pytest.mark.parametrize("shape", [(26, 128, 96), (32, 60, 64), (27, 512, 80)])
def test_a_tile_asks_for_the_lines_that_it_ends_with(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """While it sums, each tile asks once for all lines that its end writes, and for those of the array added to it."""
    monkeypatch.setattr(asking, "_FAR_BYTES", 1 << 12)
    m, k, n = shape
    a, b, c = (input_node(name, TensorType(f32, size)) for name, size in (("a", (m, k)), ("b", (k, n)), ("c", (m, n))))
    step = lowered(Graph("g", (a, b, c), (), (matmul(a, b) + c,)), HOST)
    kernel = step.kernels[-1]
    arrays = [np.zeros(x.size, np.float32) for x in kernel.params]
    ran = Asked(kernel, arrays)
    ran.run()
    written, added = kernel.params[-1], next(x for x, y in zip(kernel.params, kernel.args, strict=True) if y.name == "c")
    assert len(ran.tiles) > 1
    for asked, stored in ran.tiles:
        lines = {line for _, line in stored}
        assert {x for x, _ in asked} == {written, added}
        for x in (written, added):
            assert {line for y, line in asked if y is x} == lines


class AskedLater(Interpreter):
    """The lines that each turn of the outermost loop asks for from far away."""

    def __init__(self, kernel: Kernel, arrays: Sequence[np.ndarray]):
        super().__init__(kernel, arrays)
        self.turns: list[set[int]] = []

    def _body(self, body: Sequence[Stmt]) -> None:
        for s in body:
            if isinstance(s, For) and s.kind == "par":
                for k in range(s.var.size):
                    self.turns.append(set())
                    self.vars[s.var] = k
                    self._body(s.body)
                continue
            if isinstance(s, Fetch) and s.level == 2:
                self.turns[-1].add((int(self.index(s.index)) + s.ahead) * 4 // 64)
            super()._body([s])


@pytest.mark.parametrize("steps", [32, 64, 30])
def test_tiles_that_share_rows_ask_for_the_next_ones(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a copy of rows that is large, the tiles that read the present ones ask for the next ones, each for its part."""

    def choose(p: Problem, machine: Machine) -> Tiling:
        row, lane = p.outs
        return Tiling("broadcast", lane, row, None, 4, 1, 1, 0.0, packed=True, rows_packed=True)

    monkeypatch.setattr(contract, "choose", choose)
    monkeypatch.setattr(tile, "GROUP_BYTES", 1 << 11)
    monkeypatch.setattr(tiles, "GROUP_BYTES", 1 << 11)
    monkeypatch.setattr(tile, "NEAR_BYTES", 1 << 11)
    monkeypatch.setattr(tile, "_OWN_PANELS", 9)  # a copy that all threads read
    a, b = leaf("a", steps, 24), leaf("b", steps, 64)
    kernel = lowered(Graph("g", (a, b), (), (matmul(transpose(a, perm=(1, 0)), b),)), AVX2).kernels[-1]
    ran = AskedLater(kernel, [np.zeros(x.size, np.float32) for x in kernel.params])
    ran.run()
    panels = 2048 // (steps * 8 * 4)  # of a group
    assert len(ran.turns) == 6 * 64 // 8
    if steps % 4:
        assert not any(ran.turns)  # a turn of the sum's loop would not be as many steps as another
        return
    for first in range(0, len(ran.turns), panels):
        stripe = first // panels % 6
        asked = set().union(*ran.turns[first : first + panels])
        assert asked == set(range((stripe + 1) * steps * 16 // 64, (stripe + 2) * steps * 16 // 64))
        assert all(len(x) == len(asked) // panels for x in ran.turns[first : first + panels])


@pytest.mark.parametrize(("near", "beyond"), [(1, 1), (2, 2)])
def test_tiles_ask_for_the_next_rows_where_they_lie(near: int, beyond: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are not copied are asked for by the line; more tiles than a line has turns look further ahead."""

    def choose(p: Problem, machine: Machine) -> Tiling:
        row, lane = p.outs
        return Tiling("broadcast", lane, row, None, 4, 1, 1, 0.0, packed=True)

    monkeypatch.setattr(contract, "choose", choose)
    monkeypatch.setattr(tiles, "GROUP_BYTES", 1 << 11)
    monkeypatch.setattr(tile, "_OWN_PANELS", 2)
    monkeypatch.setattr(tile, "_OWN_GROUPS", 8 // near)
    kernel = lowered(few_rows(24, 32, 64), AVX2).kernels[-1]
    ran = AskedLater(kernel, [np.zeros(x.size, np.float32) for x in kernel.params])
    ran.run()
    stripe = 4 * 32 * 4 // 64  # lines
    assert len(ran.turns) == 8 // near
    assert all(asked == set(range(stripe, (6 + beyond) * stripe)) for asked in ran.turns)


# panels that each thread copies for itself


def few_rows(rows: int, steps: int, lanes: int) -> Graph:
    """A product whose other operand takes long to copy, if there are few rows."""
    a, b = leaf("a", rows, steps), leaf("b", steps, lanes)
    return Graph("few_rows", (a, b), (), (matmul(a, b),))


@pytest.mark.parametrize("machine", [AVX512, AVX2, SSE2])
def test_a_thread_copies_the_panels_of_a_product_of_few_rows_itself(machine: Machine) -> None:
    (kernel,) = lowered(few_rows(128, 784, 768), machine).kernels
    (panel,) = [b for b in kernel.locals if b.name == "panels"]
    places, size = own_places(kernel)
    assert places == {panel: 0} and size >= panel.size * 4
    assert not any(own_places(k)[1] for k in lowered(few_rows(2048, 784, 768), machine).kernels)  # too many rows


class Copying(Interpreter):
    """How often each element of the operand along the lanes is read by a statement that copies it, and by others."""

    def __init__(self, kernel: Kernel, arrays: Sequence[np.ndarray], source: Buffer):
        super().__init__(kernel, arrays)
        self.source = source
        self.copied = np.zeros(source.size, np.int64)
        self.summed = np.zeros(source.size, np.int64)

    def _body(self, body: Sequence[Stmt]) -> None:
        for s in body:
            if isinstance(s, Store):
                for e in expressions(s.value):
                    if isinstance(e, Load) and e.buffer is self.source:
                        at = np.unique(np.atleast_1d(self.index(e.index)))
                        (self.copied if s.buffer.name == "panels" else self.summed)[at[at < self.source.size]] += 1
            super()._body([s])


@pytest.mark.parametrize(("lanes", "near"), [(64, 1), (512, 2), (520, 2)])
def test_the_first_tile_of_a_panel_copies_it(lanes: int, near: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every element is copied once, and multiplied where it lies only by the rows of one tile."""

    def choose(p: Problem, machine: Machine) -> Tiling:
        row, lane = p.outs
        return Tiling("broadcast", lane, row, None, 3, 1, 2, 0.0, packed=True)

    monkeypatch.setattr(contract, "choose", choose)
    monkeypatch.setattr(tile, "_OWN_PANELS", 4)
    (kernel,) = lowered(few_rows(11, 12, lanes)).kernels
    (panels,) = [b for b in kernel.locals if b.name == "panels"]
    assert panels.size == near * 12 * 16
    assert max(s.var.size for s in kernel.body if isinstance(s, For)) == lanes // 16 // near
    source = next(p for p, b in zip(kernel.params, kernel.args, strict=True) if b.name == "b")
    ran = Copying(kernel, [np.ones(b.size, np.float32) for b in kernel.params], source)
    ran.run()
    assert np.all(ran.copied == 1) and np.all(ran.summed == 3)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", DOTS)
def test_own_panels_in_every_tiling(name: str, groups: int, forced: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever an operand can be copied panel by panel, however many are a group: remainders, outer dimensions, turned copies."""
    monkeypatch.setattr(tile, "_OWN_PANELS", 1)
    monkeypatch.setattr(tile, "_OWN_GROUPS", groups)
    monkeypatch.setattr(tile, "lanes_divide", lambda p, lane, vector: vector.runs == 1)
    monkeypatch.setattr(tile, "_elements", lambda p, o: 0)
    make, shapes = DOTS[name]
    check(make, shapes, forced, most=16, threads=2)


@pytest.mark.parametrize("dtype", [f16, bf16, f64, i8, i32], ids=lambda d: d.short)
def test_own_panels_in_every_dtype(dtype: DType, forced: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile, "_OWN_PANELS", 1)
    monkeypatch.setattr(tile, "lanes_divide", lambda p, lane, vector: vector.runs == 1)
    monkeypatch.setattr(tile, "_elements", lambda p, o: 0)
    make, shapes = DOTS["a b"]
    check(make, shapes, forced, dtype, most=8)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_own_panels_lie_apart(threads: int) -> None:
    """Threads that shared a panel, or clocks that lay in it, would spoil the product."""
    graph = few_rows(128, 784, 768)
    assert any(own_places(k)[1] for k in lowered(graph, HOST).kernels)
    inputs, _ = arguments(graph)
    first = compiled(graph).run(inputs, [])[0]
    agree([first], meaning(graph, inputs, []), "one thread", factor=40.0)
    for timed in (False, True):
        made = Executable(compile_program(graph, engine.host(), timed), threads)
        for _ in range(20):
            assert np.array_equal(made.run(inputs, [])[0], first), f"{threads} threads, timed {timed}"
