"""The loop language: its text, its checker, and hand-written kernels on the interpreter and on LLVM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from graphopt.compile import module_text
from graphopt.errors import CompileError
from graphopt.ir.graph import Graph, state_node
from graphopt.ir.index import Index, Loaded, Var, index
from graphopt.ir.types import DType, TensorType, bool_, f16, f32, i8, i32, i64
from graphopt.kernel.loops import (
    Buffer,
    Const,
    Expr,
    Fold,
    For,
    If,
    IndexValue,
    Kernel,
    Load,
    Recorder,
    Stmt,
    Store,
    loop,
    make_kernel,
    reads_and_writes,
    show,
    signature,
)
from graphopt.kernel.run import run
from graphopt.kernel.step import Step
from graphopt.llvm.step import emit_step
from graphopt.llvm.target import machine_of
from graphopt.opdefs.linalg import matmul
from graphopt.passes.memory import MemoryPlan
from graphopt_runtime import engine
from graphopt_runtime.executor import Executable
from graphopt_runtime.program import BufferSpec, Program
from tests.steps import layer_norm, leaf, lowered, softmax_cross_entropy

Golden = Callable[..., None]
S = Recorder()
X, Y, OUT = Buffer("x", f32, 64), Buffer("y", f32, 64), Buffer("out", f32, 64)


def number(value: float, dtype: DType = f32) -> Const:
    return Const(value, dtype)


def interpreted(kernel: Kernel, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The arrays of the kernel's parameters after it has run."""
    mine = [a.copy() for a in arrays]
    run(kernel, dict(zip(kernel.params, mine, strict=True)))
    return mine


def native(kernel: Kernel, arrays: Sequence[np.ndarray], threads: int = 1) -> list[np.ndarray]:
    """The same by LLVM."""
    machine, target = machine_of(engine.host()), engine.host()
    leaves = tuple(state_node(b.name, TensorType(b.dtype, (b.size,))) for b in kernel.params)
    args = tuple((b, "state", n) for b, n in zip(kernel.params, leaves, strict=True))
    graph, plan = Graph("hand", (), leaves, ()), MemoryPlan({}, 0)
    step = Step(graph, (), (kernel,), args, plan, (threads > 1,), (1,), (False,), (0,), (kernel,))
    text = emit_step("step", step, machine, target.triple)
    buffers = tuple(BufferSpec(b.name, b.dtype.name, (b.size,), "state") for b in kernel.params)
    program = Program("hand", buffers, (), (), (), 0, 0, threads > 1, "step", engine.compile_ir(text, target))
    mine = [a.copy() for a in arrays]
    Executable(program, threads=threads, verify=True).run([], mine)
    return mine


RUNNERS = {"interpreter": interpreted, "llvm": native}
each_runner = pytest.mark.parametrize("runner", RUNNERS.values(), ids=RUNNERS)
Runner = Callable[[Kernel, Sequence[np.ndarray]], list[np.ndarray]]
WIDTH = machine_of(engine.host()).lanes(4)


def kernel_of(*stmts: Stmt, width: int = WIDTH) -> Kernel:
    return make_kernel("hand", stmts, width)


def lanes(body: Callable[[Index], list[Stmt]], active: int = WIDTH) -> list[Stmt]:
    return loop("lanes", "l", active, body)


def ramp(size: int = 64, dtype: DType = f32, start: int = 1) -> np.ndarray:
    return np.arange(start, start + size).astype(dtype.numpy)


def empty(size: int = 64, dtype: DType = f32) -> np.ndarray:
    return np.full(size, -7, dtype.numpy)


# text


@pytest.mark.parametrize("make", [layer_norm, softmax_cross_entropy], ids=lambda make: make.__name__)
def test_kernels_golden(make: Callable[[], object], golden: Golden) -> None:
    kernels = lowered(make()).kernels  # type: ignore[arg-type]
    lines = "\n\n".join(show(k) for k in kernels).split("\n")
    shown = lines if len(lines) <= 60 else [*lines[:60], f"... {len(lines) - 60} more lines"]
    golden(f"loops_{make.__name__}.txt", "\n".join([*shown, ""]))


def test_every_construct_prints() -> None:
    acc, ints = Buffer("acc", f32, 2 * WIDTH, local=True), Buffer("n", i32, 8)
    p = Var("p", 4)
    shared = S.mul(Load(X, index(p)), Load(X, index(p)))
    other = Load(
        Y, Index(0, ((Loaded(Load(ints, index(p))), 1),)), S.lt(IndexValue(index(p), i32), number(3, i32)), number(0.0)
    )
    body: list[Stmt] = [
        *loop("lanes", "l", 4, lambda x: [Store(acc, x, S.fma(Load(X, x), Load(Y, x * 2 + 1), number(1.5)))]),
        Store(OUT, index(p) * 8 + 1, S.add(shared, shared)),
        Store(OUT, (index(p) * 3 + 1) // 2, S.cast(Load(ints, index(p) % 3), f32)),
        If(S.eq(Load(ints, index(p)), number(2, i32)), (Store(OUT, index(0), S.bitcast(Load(ints, index(1)), f32)),)),
        Store(OUT, index(2), Fold("add", acc, index(4), 4)),
        Store(OUT, index(3), other),
        *loop(
            "unroll",
            "u",
            2,
            lambda u: [Store(OUT, u + 4, S.select(Const(True, bool_), S.exp(Load(X, u)), number(0.0)))],
        ),
    ]
    kernel = make_kernel("all", [For(p, "par", tuple(body))], 4)
    assert show(kernel).split("\n") == [
        "kernel all(y: f32[64], x: f32[64], out: f32[64], n: i32[8]) width 4:",
        f"  local acc: f32[{2 * WIDTH}]",
        "  par p < 4:",
        "    lanes l < 4:",
        "      acc[l] = fma(x[l], y[2*l + 1], 1.5)",
        "    t0 = (x[p] * x[p])",
        "    out[8*p + 1] = (t0 + t0)",
        "    out[(3*p + 1) // 2] = f32(n[(p) % 3])",
        "    if (n[p] == 2:i32):",
        "      out[0] = bitcastf32(n[1])",
        "    out[2] = fold_add(acc[4 : 4])",
        "    out[3] = (y[n[p]] if (i32(p) < 3:i32) else 0.0)",
        "    unroll u < 2:",
        "      out[u + 4] = select(True, exp(x[u]), 0.0)",
    ]
    assert kernel.extent == 4 and kernel.params == (Y, X, OUT, ints)
    assert reads_and_writes(kernel) == ({X, Y, ints}, {OUT})


def test_equal_signatures_mean_equal_code() -> None:
    """Names do not matter; every number, operation, index, size of local memory and order of statements does."""

    def made(
        names: str = "xy", value: float = 1.0, op: str = "add", shift: int = 0, kind: str = "serial", size: int = 4,
        dtype: DType = f32, room: int = 8, swapped: bool = False, masked: bool = False, by: int = 2,
    ) -> str:  # fmt: skip
        a, b = (Buffer(name, dtype, 64) for name in names)
        local = Buffer("l" + names, dtype, room, local=True)
        v = Var("v" + names, size)
        mask = S.lt(IndexValue(index(v), i32), number(3, i32)) if masked else None
        read = Load(a, index(v) + shift, mask, Const(0, dtype) if masked else None)
        stores = [Store(local, index(0), getattr(S, op)(read, Const(value, dtype))), Store(b, index(v) // by, read)]
        return signature(make_kernel("k" + names, [For(v, kind, tuple(stores[::-1] if swapped else stores))], 4))

    assert made() == made(names="pq")
    changes: list[dict[str, Any]] = [
        {"value": 2.0}, {"value": -1.0}, {"op": "mul"}, {"shift": 1}, {"kind": "unroll"}, {"size": 5},
        {"dtype": f16}, {"room": 9}, {"swapped": True}, {"masked": True}, {"by": 3},
    ]  # fmt: skip
    found = [made(**change) for change in changes]
    assert len({made(), *found}) == len(changes) + 1


def test_one_function_serves_equal_kernels() -> None:
    """Three equal contractions are one native function, called three times."""
    leaves = [(leaf(f"a{k}", 9, 9), leaf(f"b{k}", 9, 9)) for k in range(3)]
    graph = Graph("g", tuple(n for pair in leaves for n in pair), (), tuple(matmul(a, b) for a, b in leaves))
    text = module_text(lowered(graph, machine_of(engine.host())), engine.host())
    assert text.count("define internal") == 1 and text.count("call void @k0(") == 3


def test_text_stays_linear_in_shared_expressions() -> None:
    value: Expr = Load(X, index(0))
    for _ in range(60):
        value = S.add(value, value)
    assert len(show(make_kernel("deep", [Store(OUT, index(0), value)], 1))) < 3000


# the checker


def test_kernels_that_are_not_well_formed_are_refused() -> None:
    store = Store(OUT, index(0), Load(X, index(0)))

    def refused(*stmts: Stmt, match: str) -> None:
        with pytest.raises(CompileError, match=match):
            make_kernel("bad", stmts, 4)

    wide, narrow = Var("l", 5), Var("m", 2)
    refused(For(wide, "lanes", (store,)), match="kernel bad: lanes l of 5 nested or wider than 4")
    refused(For(narrow, "lanes", (For(narrow, "lanes", (store,)),)), match="nested or wider")
    refused(For(narrow, "serial", (For(narrow, "par", (store,)),)), match="parallel loop m is not outermost")
    refused(If(Const(True, bool_), (For(narrow, "par", (store,)),)), match="not outermost")
    refused(Store(OUT, index(0), Load(Buffer("n", i32, 1), index(0))), match="Int32 stored to out of Float32")
    with pytest.raises(CompileError, match="add: operands of dtypes .'f32', 'i32'."):
        S.add(number(1.0), number(1, i32))


def test_loops_of_no_and_of_one_iteration_vanish_but_not_lanes() -> None:
    seen: list[Index] = []

    def body(i: Index) -> list[Stmt]:
        seen.append(i)
        return [Store(OUT, i, number(1.0))]

    assert loop("serial", "i", 0, body) == [] and not seen
    assert isinstance(loop("serial", "i", 1, body)[0], Store) and seen == [index(0)]
    assert isinstance(loop("unroll", "i", 1, body)[0], Store)
    assert [type(loop(kind, "i", 1, body)[0]) for kind in ("lanes", "par")] == [For, For]


# running


@each_runner
def test_partly_filled_lanes_leave_the_rest_alone(runner: Runner) -> None:
    for active in range(1, WIDTH + 1):
        kernel = kernel_of(*lanes(lambda x: [Store(OUT, x + 3, S.add(Load(X, x), number(1.0)))], active))
        x, out = runner(kernel, [ramp(), empty()])
        expected = empty()
        expected[3 : 3 + active] = ramp()[:active] + 1
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(x, ramp())


@each_runner
@pytest.mark.parametrize("dtype", [f16, i8, bool_, i64, f32], ids=lambda d: d.short)
def test_every_way_to_reach_memory(runner: Runner, dtype: DType) -> None:
    """Neighbours, one for all, strided, reversed, gathered; stored in order and scattered."""
    width = machine_of(engine.host()).lanes(max(dtype.itemsize, 4))
    source, target, places = Buffer("x", dtype, 64), Buffer("out", dtype, 64), Buffer("n", i32, 64)
    data = (ramp(dtype=i64) % 2 == 0) if dtype is bool_ else ramp(dtype=dtype)
    order = np.random.default_rng(0).permutation(64).astype(np.int32)
    reads: dict[str, tuple[Callable[[Index], Index], Callable[[np.ndarray], np.ndarray]]] = {
        "neighbours": (lambda x: x + 5, lambda k: k + 5),
        "one": (lambda x: index(9), lambda k: 0 * k + 9),
        "strided": (lambda x: x * 3, lambda k: 3 * k),
        "reversed": (lambda x: x * -1 + 40, lambda k: 40 - k),
        "divided": (lambda x: (x + 1) // 3, lambda k: (k + 1) // 3),
        "wrapped": (lambda x: (x * 7) % 5, lambda k: k * 7 % 5),
        "gathered": (lambda x: Index(2, ((Loaded(Load(places, x)), 1),)), lambda k: order[k] + 2),
    }
    for name, (read, position) in reads.items():
        for active in (width, max(width - 1, 1), 1):
            if name == "gathered" and int((order[:active] + 2).max()) >= 64:
                continue
            for spread in (1, 2):
                body = lanes(
                    lambda x, read=read, spread=spread: [Store(target, x * spread, Load(source, read(x)))], active
                )  # type: ignore[misc]
                kernel = make_kernel("hand", body, width)
                given = {source: data, places: order, target: np.zeros(64, dtype.numpy)}
                out = runner(kernel, [given[b] for b in kernel.params])[kernel.params.index(target)]
                expected = np.zeros(64, dtype.numpy)
                k = np.arange(active)
                expected[k * spread] = data[position(k)]
                np.testing.assert_array_equal(out, expected, err_msg=f"{name} {active} {spread}")


@each_runner
def test_masked_loads_do_not_touch_memory(runner: Runner) -> None:
    """Where the mask is false the address may lie anywhere; with an empty buffer, everywhere."""
    short, places, nothing = Buffer("x", f32, 3), Buffer("n", i32, 64), Buffer("none", f32, 0)
    far = np.where(np.arange(64) % 2, 1 << 28, 2).astype(np.int32)

    def few(x: Index) -> Expr:
        return S.lt(IndexValue(x, i32), number(3, i32))

    kernel = kernel_of(*lanes(lambda x: [Store(OUT, x, Load(short, x, few(x), number(5.0)))]))
    out = runner(kernel, [ramp(3), empty()])[1]
    np.testing.assert_array_equal(out[:WIDTH], np.where(np.arange(WIDTH) < 3, np.arange(1, WIDTH + 1), 5))

    near = lanes(
        lambda x: [
            Store(
                OUT,
                x,
                Load(
                    short,
                    Index(0, ((Loaded(Load(places, x)), 1),)),
                    S.lt(Load(places, x), number(3, i32)),
                    number(-1.0),
                ),
            )
        ]
    )
    kernel = kernel_of(*near)
    given = {short: ramp(3), places: far, OUT: empty()}
    out = runner(kernel, [given[b] for b in kernel.params])[kernel.params.index(OUT)]
    np.testing.assert_array_equal(out[:WIDTH], np.where(np.arange(WIDTH) % 2, -1, 3))

    kernel = kernel_of(Store(OUT, index(0), Load(nothing, index(7), Const(False, bool_), number(4.0))))
    assert runner(kernel, [ramp(0), empty()])[1][0] == 4


@each_runner
def test_conditions_loops_and_negative_quotients(runner: Runner) -> None:
    """out[i] = (i - 5) // 3 where (i - 5) % 4 is even."""
    ints = Buffer("out", i64, 16)

    def body(i: Index) -> list[Stmt]:
        even = S.eq(S.and_(IndexValue((i - 5) % 4, i64), number(1, i64)), number(0, i64))
        return [If(even, (Store(ints, i, IndexValue((i - 5) // 3, i64)),))]

    kernel = kernel_of(*loop("serial", "i", 16, body))
    (out,) = runner(kernel, [empty(16, i64)])
    k = np.arange(16) - 5
    np.testing.assert_array_equal(out, np.where(k % 4 % 2 == 0, k // 3, -7))


@each_runner
def test_stores_are_seen_by_later_loads(runner: Runner) -> None:
    """The same expression before and after a store is two values; an accumulator in a loop adds up."""
    acc = Buffer("acc", f32, WIDTH, local=True)
    first = Load(X, index(0))
    kernel = kernel_of(
        Store(OUT, index(0), first),
        Store(X, index(0), S.mul(first, number(10.0))),
        Store(OUT, index(1), first),
        *lanes(lambda x: [Store(acc, x, number(0.0))]),
        *loop("serial", "j", 4, lambda j: lanes(lambda x: [Store(acc, x, S.add(Load(acc, x), Load(Y, j + x)))])),
        *lanes(lambda x: [Store(OUT, x + 2, Load(acc, x))]),
    )
    given = {X: ramp(), Y: ramp(), OUT: empty()}
    arrays = runner(kernel, [given[b] for b in kernel.params])
    out = arrays[kernel.params.index(OUT)]
    assert out[:2].tolist() == [1, 10]
    np.testing.assert_array_equal(out[2 : 2 + WIDTH], [sum(range(k + 1, k + 5)) for k in range(WIDTH)])


@each_runner
@pytest.mark.parametrize("count", [1, 2, 4])
def test_folds_add_in_a_fixed_tree(runner: Runner, count: int) -> None:
    """Element k with element k + n/2, then the halves of the rest: numbers that cancel tell orders apart."""
    size = count * WIDTH
    acc = Buffer("acc", f32, size, local=True)
    rng = np.random.default_rng(1)
    data = (rng.normal(size=64) * 10.0 ** rng.integers(-3, 8, 64)).astype(np.float32)
    fill = [s for k in range(count) for s in lanes(lambda x, k=k: [Store(acc, x + k * WIDTH, Load(X, x + k * WIDTH))])]  # type: ignore[misc]
    folds = [Store(OUT, index(k), Fold(how, acc, index(0), size)) for k, how in enumerate(("add", "max"))]
    kernel = kernel_of(*fill, *folds)
    out = runner(kernel, [data, empty()])[1]
    x = data[:size]
    while len(x) > 1:
        x = x[: len(x) // 2] + x[len(x) // 2 :]
    assert out[0] == x[0] and out[1] == data[:size].max()


def test_threads_share_parallel_loops() -> None:
    """Every iteration runs once, for any number of threads, also more than there are iterations."""
    for size in (1, 2, 3, 7, 64):
        kernel = kernel_of(*loop("par", "p", size, lambda p: [Store(OUT, p, S.add(Load(OUT, p), Load(X, p)))]))
        for threads in (1, 2, 3):
            given = {X: ramp(), OUT: ramp()}
            arrays = native(kernel, [given[b] for b in kernel.params], threads)
            expected = ramp() * np.where(np.arange(64) < size, 2, 1).astype(np.float32)
            np.testing.assert_array_equal(arrays[kernel.params.index(OUT)], expected)
