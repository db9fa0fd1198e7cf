"""Generated code: every target gives the same meaning, stays inside its arrays and calls nothing it should not."""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import llvmlite.binding as llvm
import numpy as np
import pytest

from graphopt import config
from graphopt.compile import Compiled, compile_graph, module_text
from graphopt.ir.graph import Graph, Node, input_node
from graphopt.ir.types import FLOATS, DType, TensorType, bf16, f16, f32, f64, i8, i32
from graphopt.kernel.loops import For, statements
from graphopt.kernel.machine import AVX2, AVX512, NEON, SSE2
from graphopt.kernel.step import lower_graph
from graphopt.llvm.ahead import rows_ahead
from graphopt.llvm.streams import merged, most_live
from graphopt.llvm.target import machine_of
from graphopt.llvm.turned import transposed, turned
from graphopt.opdefs import REGISTRY
from graphopt.opdefs.elementwise import add, cast, div, maximum, minimum, mul, neg, sub
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.linalg import matmul
from graphopt.opdefs.math import exp, sqrt
from graphopt.opdefs.opdef import opdef
from graphopt.opdefs.reduce import reduce_max, reduce_sum
from graphopt.opdefs.scaffold import special_pairs
from graphopt.opdefs.shape import broadcast, transpose
from graphopt.passes.guard import guarded
from graphopt.passes.pipeline import optimize
from graphopt_runtime import engine
from graphopt_runtime.engine import Target
from tests.steps import GRAPHS, adam_after_dot, agree, arguments, leaf, meaning
from tests.test_ops import Case, _magnitude
from tests.tolerances import assert_close

HOST = engine.host()
X86 = platform.machine().lower() in ("x86_64", "amd64")
TARGETS = {
    "sse2": Target(HOST.triple, "x86-64", ""),
    "avx2": Target(HOST.triple, "x86-64", "+avx2,+fma,+f16c"),
    "avx512": Target(HOST.triple, "x86-64-v4", "+avx512f,+avx512dq,+avx512bw,+avx512vl,+avx2,+fma,+f16c"),
}
AARCH64 = Target("aarch64-unknown-linux-gnu", "generic", "+neon")
NEEDS = {"sse2": (), "avx2": ("+avx2", "+fma", "+f16c"), "avx512": ("+avx512f", "+avx512dq", "+avx512bw", "+avx512vl")}


def runnable(name: str) -> bool:
    features = HOST.features.split(",")
    return X86 and all(f in features for f in NEEDS[name])


each_target = pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.skipif(not runnable(n), reason="this processor cannot run it"))
        for n in TARGETS
    ],
)


def compiled_for(graph: Graph, target: Target, threads: int = 1) -> Compiled:
    with config.override(cache="off", threads=threads, backend="llvm"):
        return compile_graph(graph, target)


def test_machines_follow_from_features() -> None:
    found = {name: machine_of(t) for name, t in TARGETS.items()}
    assert found == {"sse2": SSE2, "avx2": AVX2, "avx512": AVX512}
    assert machine_of(AARCH64) is NEON
    assert machine_of(Target(HOST.triple, "x86-64", "+avx2,+fma,+f16c,-fma")) is SSE2
    without = Target(HOST.triple, "x86-64-v4", f"{TARGETS['avx512'].features},-fma")
    assert machine_of(without) is SSE2, "LLVM takes the vectors of 512 bits away together with the multiply-add"


# every op on every target


def batches(dtype: DType, size: int = 40, samples: int = 100) -> Iterator[list[Case]]:
    """All ops' first `samples` samples in a dtype, `size` of them together."""
    found = [
        Case(d, k, dtype)
        for d in REGISTRY.values()
        if d.kind != "leaf" and dtype in d.dtypes
        for k in range(min(samples, len(d.samples)))
    ]
    for start in range(0, len(found), size):
        yield found[start : start + size]


def together(cases: Sequence[Case]) -> Graph:
    """One graph with the op of every case, on inputs of its own."""
    leaves: list[Node] = []
    outputs: list[Node] = []
    for k, case in enumerate(cases):
        mine = [input_node(f"x{k}_{i}", n.type) for i, n in enumerate(case.leaves)]
        leaves += mine
        outputs.append(case.op(*mine, **case.sample.attrs))
    return Graph("ops", tuple(leaves), (), tuple(outputs))


# (dtype, samples of each op); this machine, in every dtype: test_ops.py
PAIRS = {"sse2": ((f32, 100), (f16, 1)), "avx2": ((f32, 2), (bf16, 2), (i8, 2)), "avx512": ((f64, 2),)}


@each_target
def test_every_op_on_every_target(name: str) -> None:
    for dtype, samples in PAIRS[name]:
        check_ops(name, dtype, samples)


def check_ops(name: str, dtype: DType, samples: int) -> None:
    for cases in batches(dtype, samples=samples):
        graph = together(cases)
        arrays = [np.array(a, order="C") for case in cases for a in case.arrays]
        found = compiled_for(graph, TARGETS[name]).run(arrays, [])
        expected = evaluate_nodes(graph.outputs, dict(zip(graph.inputs, arrays, strict=True)))
        for case, a, e in zip(cases, found, expected, strict=True):
            assert_close(a, e, scale=_magnitude(case), stored=case.op.kind == "kernel", what=f"{name}: {case.what}")


# the module


def step_text(graph: Graph, target: Target) -> str:
    with config.override(cache="off"):
        return module_text(lower_graph(optimize(graph), machine_of(target)), target)


ALLOWED = {"graphopt_barrier", "memcpy", "memset", "memmove"}
# SSE2 has neither rounding nor 16-bit floats: the C library and the compiler's own have.
WITHOUT_SSE4 = {"floor", "floorf", "ceil", "ceilf", "trunc", "truncf", "rint", "rintf", "roundeven", "roundevenf"}
WITHOUT_F16C = {"__extendhfsf2", "__truncsfhf2", "__truncdfhf2", "__truncsfbf2", "__truncdfbf2"}


def called(assembly: str) -> set[str]:
    """Symbols that the code calls or jumps to, but its own."""
    found = set(re.findall(r"^\s+(?:callq?|jmpq?|bl?)\s+\*?([A-Za-z_]\w*)", assembly, re.MULTILINE))
    own = set(re.findall(r"^([A-Za-z_]\w*):", assembly, re.MULTILINE))
    return found - own


@pytest.mark.parametrize("name", GRAPHS)
def test_a_module_has_one_external_function_and_calls_the_barrier_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphopt.kernel.step._TEAM_WORK", 0.0)
    for target in (*(TARGETS.values() if X86 else (HOST,)), AARCH64):
        text = step_text(GRAPHS[name](), target)
        engine.version()
        module = llvm.parse_assembly(text, llvm.create_context())
        module.verify()
        defined = [f for f in module.functions if not f.is_declaration]
        assert [f.name for f in defined if f.linkage == llvm.Linkage.external] == ["step"]
        assert all(re.fullmatch(r"k\d+|step", f.name) for f in defined)
        declared = {f.name for f in module.functions if f.is_declaration}
        assert {n for n in declared if not n.startswith("llvm.")} == {"graphopt_barrier"}
        assembly = engine.assembly(text, target)
        assert called(assembly) <= ALLOWED, (name, target)
        assert re.search(r"^step:", assembly, re.MULTILINE)


def test_lines_are_asked_for_where_a_kernel_reads_more_than_caches_hold() -> None:
    def prefetches(n: int, result: Callable[[Node], Node]) -> int:
        x = input_node("x", TensorType(f32, (n,)))
        return step_text(Graph("g", (x,), (), (result(x),)), TARGETS["avx512"]).count("call void @llvm.prefetch")

    assert prefetches(1 << 16, sqrt) == 0
    assert prefetches(1 << 22, lambda x: reduce_sum(x, axes=(0,))) == 8  # in slices, the last with a loop of its own
    assert prefetches(1 << 22, sqrt) == 4  # one per line of a turn


def test_the_next_row_is_asked_for_where_several_passes_read_one() -> None:
    def prefetches(rows: int, result: Callable[[Node], Node]) -> list[str]:
        x = input_node("x", TensorType(f32, (rows, 256)))
        text = step_text(Graph("g", (x,), (), (result(x),)), TARGETS["avx512"])
        return re.findall(r"call void @llvm.prefetch.p0\(ptr %\w+, i32 0, i32 (\d)", text)

    def normalised(x: Node) -> Node:
        return x / broadcast(reduce_sum(exp(x), axes=(1,)), shape=x.shape, axes=(0,))

    assert prefetches(1 << 8, normalised) == []
    assert sorted(prefetches(1 << 14, normalised)) == ["2"] * 4 + ["3"] * 4  # what is stored later, and what is read

    x = input_node("x", TensorType(f32, (1 << 14, 256)))
    product = lower_graph(Graph("g", (x,), (), (matmul(x, transpose(x, perm=(1, 0))),)), AVX512).kernels
    assert not any(rows_ahead(k) for k in product)  # contractions plan for themselves


def test_values_of_several_vectors_are_computed_side_by_side() -> None:
    """One vector's chain is as long as what a processor looks ahead: the next one's stands between its links."""
    x = input_node("x", TensorType(f32, (1 << 12,)))
    y = x
    for _ in range(12):
        y = y * (y + 0.5)
    text = step_text(Graph("g", (x,), (), (y,)), TARGETS["avx512"])
    ops = [line.split(" = ")[1].split()[0] for line in text.splitlines() if "<16 x float> %" in line and " = f" in line]
    assert ops[:8] == ["fadd"] * 4 + ["fmul"] * 4


def test_merged_streams_keep_what_a_line_reads_before_it() -> None:
    first = ["  %a1 = load <4 x float>, ptr %p0", "  %a2 = fadd <4 x float> %a1, %c", "  %a3 = fmul <4 x float> %a2, %a1"]
    second = ["  %b1 = fmul <4 x float> %a3, %a3"]
    assert merged([first, second]) == [first[0], first[1], first[2], second[0]]
    assert merged([first, ["  %b1 = load <4 x float>, ptr %p1"]]) == [first[0], "  %b1 = load <4 x float>, ptr %p1", *first[1:]]
    assert most_live(first) == 3


@pytest.mark.parametrize("dtype", [f32, f16, i32], ids=lambda d: d.short)
def test_no_op_calls_an_allocator(dtype: DType) -> None:
    """Every op's code calls nothing, or what the processor lacks; a step allocates nothing."""
    for target in [TARGETS["sse2"] if X86 else HOST] + [AARCH64] * (dtype is f32):
        for cases in batches(dtype, 100, samples=1):
            allowed = ALLOWED | (WITHOUT_SSE4 | WITHOUT_F16C if target is not AARCH64 else set())
            found = called(engine.assembly(step_text(together(cases), target), target))
            assert found <= allowed, (target, found - allowed)


@pytest.mark.parametrize("name", ["dense_bias_relu", "softmax_cross_entropy", "adam_after_dot"])
def test_other_processors_get_their_own_vectors(name: str) -> None:
    """What cannot run here can be compiled here: the fused multiply-adds of each instruction set are in the code."""
    marks = {"aarch64": (AARCH64, r"\bfmla\s+v\d+\.4s"), **({
        "avx512": (TARGETS["avx512"], r"\bvfmadd\w+ps\b.*%zmm"),
        "avx2": (TARGETS["avx2"], r"\bvfmadd\w+ps\b.*%ymm"),
        "sse2": (TARGETS["sse2"], r"\bmulps\b"),
    } if X86 else {})}  # fmt: skip
    for label, (target, pattern) in marks.items():
        assembly = engine.assembly(step_text(GRAPHS[name](), target), target)
        assert re.search(pattern, assembly), f"{label}: no {pattern}"


def innermost(graph: Graph) -> list[str]:
    """The loops of a graph's products, compiled for AVX-512."""
    target = TARGETS["avx512"]
    found = []
    for block in re.split(r"^(?=\.LBB)", engine.assembly(step_text(graph, target), target), flags=re.MULTILINE):
        turn = re.search(rf"\tj\w+\t{re.escape(block.partition(':')[0])}\n", block)
        if turn and block.count("\tvfmadd", 0, turn.end()) >= 32:
            found.append(block[: turn.end()])
    return found


@pytest.mark.skipif(not X86, reason="reads x86-64 assembly")
@pytest.mark.parametrize("rows", [2048, 128, 122, 27])
def test_a_product_keeps_its_accumulators_in_registers(rows: int) -> None:
    """What follows a product does not: the values of a guarded update that are held while others are stored."""
    sums = innermost(guarded(adam_after_dot(rows, 1024, 64)))
    sums += innermost(Graph("g", (a := leaf("a", rows, 784), b := leaf("b", 784, 512)), (), (matmul(a, b),)))
    assert len(sums) >= 2 and not [s for s in sums if "(%rsp)" in s]


@pytest.mark.skipif(not X86, reason="reads x86-64 assembly")
def test_two_thirds_of_the_rows_of_a_product_are_read_by_its_multiply_adds() -> None:
    a, b = leaf("a", 140, 784), leaf("b", 784, 512)
    loops = innermost(Graph("g", (a, b), (), (matmul(a, b),)))
    assert len(loops) == 2  # the tiles that copy a panel, and those that read it
    steps, rows, vectors, own = 4, 14, 2, 9
    for loop in loops:
        assert loop.count("\tvfmadd") == steps * rows * vectors
        assert loop.count("{1to16}") == steps * own * vectors
        assert loop.count("\tvbroadcastss") == steps * (rows - own)


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_decks_of_cards_turn_a_square(size: int) -> None:
    rows = {f"r{k}": [(k, j) for j in range(size)] for k in range(size)}

    def shuffle(a: str, b: str, order: Sequence[int]) -> str:
        rows[f"s{len(rows)}"] = [[*rows[a], *rows[b]][k] for k in order]
        return f"s{len(rows) - 1}"

    columns = transposed([f"r{k}" for k in range(size)], shuffle)
    assert [rows[c] for c in columns] == [[(k, j) for k in range(size)] for j in range(size)]


@each_target
@pytest.mark.parametrize("dtype", [f32, bf16], ids=lambda d: d.short)
def test_copies_that_turn_an_operand_read_whole_vectors(name: str, dtype: DType) -> None:
    """Lanes of the one operand lie pages apart, rows of the other as well, and the last tile is a part."""
    a, b = leaf("a", 1001, 1024, dtype=dtype), leaf("b", 503, 1024, dtype=dtype)
    graph = Graph("g", (a, b), (), (matmul(a, transpose(b, perm=(1, 0))),))
    machine = machine_of(TARGETS[name])
    copies = [k for k in lower_graph(optimize(graph), machine).kernels if not k.flops]
    loops = [s for k in copies for s in statements(k.body) if isinstance(s, For) and s.kind == "serial"]
    assert loops and all(turned(s, machine.lanes) for s in loops)
    assert "gather" not in step_text(graph, TARGETS[name])
    inputs, _ = arguments(graph)
    agree(compiled_for(graph, TARGETS[name]).run(inputs, []), meaning(graph, inputs, []), name, factor=40.0)


def test_names_in_a_step_do_not_meet() -> None:
    """A kernel of any number of arrays that is dealt out in chunks, and one after it that one thread runs."""
    arrays = [leaf(f"x{k}", 1 << 18) for k in range(34)]
    for count in range(1, len(arrays)):
        large = exp(functools.reduce(add, arrays[:count]))
        text = step_text(Graph("g", tuple(arrays[:count]), (), (large, reduce_sum(large, axes=(0,)))), HOST)
        step = text[text.index("define void @step") :]
        assert "@graphopt_take" in step and "br i1 %first" in step
        values, labels = (set(re.findall(p, step, re.MULTILINE)) for p in (r"^  %([\w.]+) =", r"^([\w.]+):"))
        assert not values & labels


# special numbers


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.short)
def test_special_numbers_in_fused_arithmetic(dtype: DType, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN, infinities, subnormal numbers and both zeros, to the bit; no thread flushes subnormal numbers to zero."""
    monkeypatch.setattr("graphopt.kernel.step._TEAM_WORK", 0.0)
    a, b = special_pairs(dtype)
    a, b = (np.tile(v, 3) for v in (a, b))
    x, y = leaf("x", *a.shape, dtype=dtype), leaf("y", *a.shape, dtype=dtype)
    outputs = tuple(op(x, y) for op in (add, sub, mul, div, maximum, minimum)) + tuple(
        op(x) for op in (neg, sqrt, opdef("abs"))
    )
    graph = Graph("special", (x, y), (), outputs)
    expected = meaning(graph, [a, b], [])
    for name, target in [("host", HOST), *((n, t) for n, t in TARGETS.items() if runnable(n))]:
        found = compiled_for(graph, target, threads).run([a, b], [])
        for n, got, want in zip(outputs, found, expected, strict=True):
            nan = np.isnan(want.astype(np.float64))
            assert np.array_equal(np.isnan(got.astype(np.float64)), nan), (name, n)
            assert np.array_equal(got[~nan], want[~nan]), (name, n)
            if n.op not in ("maximum", "minimum"):  # which of two zeros is larger is nobody's promise
                assert got[~nan].tobytes() == want[~nan].tobytes(), (name, n)


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.short)
def test_special_numbers_in_reductions_and_products(dtype: DType) -> None:
    """An infinity or NaN anywhere in a row shows in the row's result, in the masked rest of a vector too."""
    width = 37
    for k in (0, 8, 35, 36):
        for value in (np.nan, np.inf, -np.inf):
            x = np.ones((4, width), np.float32)
            x[1, k] = value
            given = x.astype(dtype.numpy)
            n = leaf("x", 4, width, dtype=dtype)
            one = leaf("one", width, 5, dtype=dtype)
            outputs = (
                reduce_sum(n, axes=(1,)),
                reduce_max(n, axes=(1,)),
                reduce_max(n, axes=(0,)),
                opdef("dot_general")(n, one, contract=((1,), (0,)), batch=((), ())),
                opdef("dot_general")(n, n, contract=((1,), (1,)), batch=((), ())),
            )
            graph = Graph("special", (n, one), (), outputs)
            arrays = [given, np.ones((width, 5), dtype.numpy)]
            agree(compiled_for(graph, HOST).run(arrays, []), meaning(graph, arrays, []), f"{value} at {k}")


# the ends of arrays


GUARDED = """
import ctypes, mmap, sys
import numpy as np
from graphopt import config
from graphopt.compile import compile_graph
from graphopt.ir.graph import Graph
from graphopt.ir.types import dtype_of
from graphopt.opdefs.elementwise import cast, maximum
from graphopt.opdefs.linalg import matmul
from graphopt.opdefs.reduce import reduce_sum
from graphopt.opdefs.shape import reverse, transpose
from graphopt_runtime import engine, executor
from tests.steps import arguments, leaf, meaning, state
from tests.tolerances import assert_close

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
keep = []

def guarded(shape, dtype, at_end):
    dtype = np.dtype(dtype)
    nbytes = int(np.prod(shape, dtype=int)) * dtype.itemsize
    pages = -(-max(nbytes, 1) // PAGE)
    whole = mmap.mmap(-1, (pages + 2) * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(whole))
    for page in (start, start + (pages + 1) * PAGE):
        assert libc.mprotect(ctypes.c_void_p(page), PAGE, 0) == 0
    keep.append(whole)
    first = (pages + 1) * PAGE - nbytes if at_end else PAGE
    return np.frombuffer(whole, np.uint8, nbytes, first).view(dtype).reshape(shape)

def placed(array, at_end):
    result = guarded(array.shape, array.dtype, at_end)
    result[...] = array
    return result

class Guarded:
    copyto = staticmethod(np.copyto)
    at_end = True
    @staticmethod
    def empty(shape, dtype):
        return guarded(shape, dtype, Guarded.at_end)

executor.np = Guarded
name, cpu, features = sys.argv[1:4]
target = engine.Target(engine.host().triple, cpu, features) if cpu else engine.host()
dtype = dtype_of(np.dtype(bool) if name == "bool" else executor.dtype_of(name))
inputs, states, outputs, updates = [], [], [], []
for n in (1, 7, 16, 17, 33):
    x, s = leaf(f"x{n}", n, dtype=dtype), state(f"s{n}", n, dtype=dtype)
    inputs.append(x); states.append(s)
    if name == "bool":
        outputs.append(~(x & s)); updates.append((s, x ^ s))
        continue
    m, w = leaf(f"m{n}", 3, n, dtype=dtype), leaf(f"w{n}", n, 5, dtype=dtype)
    inputs += [m, w]
    outputs += [maximum(x, s), reverse(x, axes=(0,)) + x, transpose(m, perm=(1, 0)) + 1]
    outputs += [matmul(m, w), matmul(transpose(w, perm=(1, 0)), w)]
    outputs += [reduce_sum(m, axes=(1,)), reduce_sum(m, axes=(0,)), cast(m, dtype=dtype_of(np.dtype("float32")))]
    updates.append((s, s + x))
graph = Graph("guarded", tuple(inputs), tuple(states), tuple(outputs), tuple(updates))
given, old = arguments(graph)
expected = meaning(graph, given, old)
with config.override(cache="off", threads=1):
    compiled = compile_graph(graph, target)
for Guarded.at_end in (True, False):
    mine = [placed(a, Guarded.at_end) for a in old]
    found = compiled.run([placed(a, Guarded.at_end) for a in given], mine)
    for a, e in zip([*found, *mine], expected, strict=True):
        assert_close(a, e, scale=100.0)
print("inside")
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="needs mprotect")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "bool", "float32"])
def test_nothing_is_read_or_written_beside_an_array(dtype: str) -> None:
    """Arrays whose neighbouring bytes must not be touched, at every rest of a vector: masked loads and stores are exact."""
    chosen = [("", "")] + [
        (TARGETS[n].cpu, TARGETS[n].features) for n in ("sse2",) if runnable(n) and dtype != "bfloat16"
    ]
    for cpu, features in chosen:
        done = subprocess.run(
            [sys.executable, "-c", GUARDED, dtype, cpu, features],
            capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=False,
        )  # fmt: skip
        assert done.stdout == "inside\n", f"{cpu or 'host'}: exit {done.returncode}: {done.stderr[-2000:]}"


@pytest.mark.parametrize("backend", ["loops", "llvm"])
def test_float64_is_rounded_to_float16_once(backend: str) -> None:
    """By way of float32, values just beside the middle of two float16 numbers would be rounded to it, and then away."""
    rng = np.random.default_rng(0)
    exact = rng.integers(0, 0x7C00, 3000).astype(np.uint16)  # all finite ones, denormal ones too
    low = exact.view(np.float16).astype(np.float64)
    high = (exact + 1).view(np.float16).astype(np.float64)
    middle = np.where(np.isfinite(high), (low + high) / 2, 65520.0)
    beside = middle * (1 + rng.choice([-1.0, 0.0, 1.0], 3000) * 2.0**-45)
    values = np.concatenate([beside, -beside, [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e39, -1e39, 5e-324, 2.0**-25]])
    x = input_node("x", TensorType(f64, values.shape))
    with config.override(backend=backend, cache="off"):
        (found,) = compile_graph(Graph("g", (x,), (), (cast(x, dtype=f16),), ())).run([values], [])
    with np.errstate(over="ignore"):
        assert found.tobytes() == values.astype(np.float16).tobytes()
