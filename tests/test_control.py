"""Control flow: cond, while_loop, fori_loop, scan and MindSpore's loop operators, in both modes and on all backends."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import graphopt as ms
from graphopt import config, control, ops
from graphopt.compile import stages
from graphopt.errors import VerifyError
from graphopt.ir.graph import Graph, Node, input_node, state_node, walk
from graphopt.ir.text import large_constants, parse_graph, print_graph
from graphopt.ir.types import TensorType, bool_, f32, i32
from graphopt.kernel import small
from graphopt.kernel import step as stepping
from graphopt.opdefs import control as regions
from graphopt.opdefs.opdef import constant
from graphopt.passes.pipeline import check, optimize


@pytest.fixture
def kernel_by_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """No loop is small enough to be one kernel."""
    monkeypatch.setattr(small, "MOST_WORK", 0)


MODES = ("pynative", "numpy", "loops", "llvm")


@pytest.fixture(params=MODES)
def run(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """run(f, *args): op by op, or traced and run by each backend."""
    with config.override(verify=2, cache="off", threads=1, backend="numpy" if request.param == "pynative" else request.param):
        yield (lambda f, *args: f(*args)) if request.param == "pynative" else lambda f, *args: ms.jit(f)(*args)


def t(value: Any, dtype: Any = np.float32) -> ms.Tensor:
    return ms.Tensor(np.asarray(value, dtype))


def values(result: Any) -> Any:
    """A nested result as nested lists of numbers."""
    if isinstance(result, ms.Tensor):
        return result.asnumpy().tolist()
    return [values(v) for v in result] if isinstance(result, (tuple, list)) else result


def test_cond_takes_one_side(run: Callable[..., Any]) -> None:
    def f(x: ms.Tensor) -> Any:
        return control.cond(x.sum() > 0, lambda a: (a * 2, 1.0), lambda a: (a - y, a.sum()), x)

    y = t([1.0, 2.0])
    assert values(run(f, t([1.0, 2.0]))) == [[2.0, 4.0], 1.0]
    assert values(run(f, t([-1.0, -2.0]))) == [[-2.0, -4.0], -3.0]


def test_while_loop_runs_as_often_as_it_must(run: Callable[..., Any]) -> None:
    def f(x: ms.Tensor) -> Any:
        return control.while_loop(lambda s: s[1] < 100.0, lambda s: (s[0] + 1, s[1] * 3.0), (0, x))

    assert values(run(f, t(1.0))) == [5, 243.0]
    assert values(run(f, t(200.0))) == [0, 200.0]


def test_bound_is_kept(run: Callable[..., Any]) -> None:
    counted = ms.Parameter(t(0.0), name="counted")

    def f(x: ms.Tensor) -> Any:
        ops.assign(counted, counted + 1.0)
        return control.while_loop(lambda v: v < 8.0, lambda v: v * 2.0, x, bound=3)

    assert values(run(f, t(1.0))) == 8.0
    with pytest.raises(RuntimeError, match=r"while_loop: the loop went on after 3 trips, its bound\n.*called at test_control"):
        run(f, t(0.5))


def test_a_broken_bound_changes_no_parameter() -> None:
    counted = ms.Parameter(t(0.0), name="counted")

    @ms.jit
    def f(x: ms.Tensor) -> Any:
        ops.assign(counted, counted + 1.0)

        def body(total: ms.Tensor, x: ms.Tensor) -> Any:
            return total + control.while_loop(lambda v: v < 8.0, lambda v: v * 2.0, x, bound=3), None

        return control.scan(body, t(0.0), x)[0]

    with config.override(backend="numpy"):
        assert values(f(t([1.0, 5.0]))) == 18.0
        with pytest.raises(RuntimeError, match="after 3 trips"):
            f(t([0.5, 5.0]))
    assert values(counted) == 1.0


def test_fori_loop(run: Callable[..., Any]) -> None:
    assert values(run(lambda x: control.fori_loop(2, 5, lambda i, v: v * i, x), t(1.0))) == 24.0
    assert values(run(lambda x: control.fori_loop(5, 2, lambda i, v: v * i, x), t(1.0))) == 1.0
    between = lambda n, x: control.fori_loop(0, n, lambda i, v: v + i, x)  # noqa: E731
    bounded = lambda n, x: control.fori_loop(n - 2, n, lambda i, v: v + i, x, bound=4)  # noqa: E731
    for n in (0, 1, 5):
        assert values(run(between, t(n, np.int32), t(0.5))) == 0.5 + sum(range(n))
        assert values(run(bounded, t(n, np.int64), t(0.5))) == 0.5 + 2 * n - 3


def test_scan(run: Callable[..., Any]) -> None:
    def f(h: ms.Tensor, xs: Any) -> Any:
        def body(h: ms.Tensor, x: Any) -> Any:
            h = h * x["a"] + x["b"]
            return h, (h, {"twice": h + h})

        return control.scan(body, h, xs), control.scan(body, h, xs, reverse=True)

    xs = {"a": t([1.0, 2.0, 3.0]), "b": t([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])}
    (last, (ys, twice)), (first, (back, _)) = run(f, t([1.0, 1.0]), xs)
    assert values(last) == [13.0, 10.0] and values(ys) == [[2.0, 1.0], [4.0, 3.0], [13.0, 10.0]]
    assert values(twice["twice"]) == [[4.0, 2.0], [8.0, 6.0], [26.0, 20.0]]
    assert values(first) == [9.0, 9.0] and values(back) == [[9.0, 9.0], [8.0, 9.0], [4.0, 4.0]]


def test_scan_of_nothing(run: Callable[..., Any]) -> None:
    last, ys = run(lambda h, x: control.scan(lambda h, x: (h + x, (h, x)), h, x), t(3.0), t(np.zeros((0,))))
    assert values(last) == 3.0 and [y.shape for y in ys] == [(0,), (0,)]
    last, y = run(lambda h: control.scan(lambda h, x: (h * 2, h), h, length=3), t(1.0))
    assert values(last) == 8.0 and values(y) == [1.0, 2.0, 4.0]


def test_loops_inside_of_each_other(run: Callable[..., Any]) -> None:
    def f(xs: ms.Tensor) -> Any:
        def body(total: ms.Tensor, x: ms.Tensor) -> Any:
            grown = control.while_loop(lambda v: (v < 10.0).all(), lambda v: v * 2.0, x)
            total = control.cond(grown.sum() > 25.0, lambda: total + grown.sum(), lambda: total - 1.0)
            return total, control.fori_loop(0, 3, lambda i, v: v + i * grown, x)

        return control.scan(body, t(0.0), xs)

    total, ys = run(f, t([[1.0, 2.0], [3.0, 9.0], [30.0, 1.0]]))
    assert values(total) == 29.0 and values(ys) == [[25.0, 50.0], [21.0, 63.0], [120.0, 4.0]]


def test_parameters_assigned_to_in_a_body() -> None:
    count = ms.Parameter(t(0.0), name="count")
    seen = ms.Parameter(t([0.0, 0.0]), name="seen")

    @ms.jit
    def f(xs: ms.Tensor) -> Any:
        def body(h: ms.Tensor, x: ms.Tensor) -> Any:
            ops.assign(count, count + 1.0)
            control.cond(x.sum() > 0, lambda: ops.assign(seen, x), lambda: seen + 0.0)
            return h + x, count * 2.0

        return control.scan(body, t([0.0, 0.0]), xs)

    with config.override(backend="numpy", verify=2):
        _, y = f(t([[1.0, 2.0], [-3.0, 1.0]]))
    assert values(y) == [2.0, 4.0] and values(count) == 2.0 and values(seen) == [1.0, 2.0]


def test_operators_of_mindspore(run: Callable[..., Any]) -> None:
    assert values(run(lambda x: ops.WhileLoop()(lambda v: v < 100, lambda v: v + 1, x), t(10, np.int64))) == 100
    assert values(run(lambda x: ops.ForiLoop()(0, 4, lambda i, v: v + i, x), t(0, np.int64))) == 6
    last, ys = run(lambda x: ops.Scan()(lambda r, el: (r + el, r + el), x, [1, 2, 3, 4]), t(0, np.int64))
    assert values(last) == 10 and values(ys) == [1, 3, 6, 10]
    layers = [lambda v: v + 1.0, lambda v: v * 3.0]
    assert values(run(lambda x: ops.ForiLoop()(0, 2, lambda i, v: layers[int(i)](v), x), t(1.0))) == 6.0
    assert ops.Scan()(lambda c, x: (c, x), 1, []) == (1, [])


WRONG: list[tuple[str, Callable[[ms.Tensor], Any], type[Exception], str]] = [
    ("carry shape", lambda x: control.scan(lambda h, x: ({"h": h["h"][:1]}, None), {"h": x}, x), ValueError,
     r"scan: the carry must keep its type: element \['h'\]: starts as float32\[2\], the body returns float32\[1\]"),
    ("carry dtype", lambda x: control.while_loop(lambda v: v.sum() > 0, lambda v: v.astype(ms.float16), x), ValueError,
     r"while_loop: the carry must keep its type: it: starts as float32\[2\], the body returns float16\[2\]"),
    ("structure", lambda x: control.fori_loop(0, 2, lambda i, v: (v, v), x), ValueError,
     r"fori_loop: the carry must keep its type: starts as a Tensor, the body returns \(a Tensor, a Tensor\)"),
    ("branches", lambda x: control.cond(x.sum() > 0, lambda: x, lambda: x[:1]), ValueError,
     r"cond: result is float32\[2\] in then, float32\[1\] in other"),
    ("condition", lambda x: control.cond(x > 0, lambda: x, lambda: x), ValueError, "a condition must have one element"),
    ("no function", lambda x: control.scan(3, x, x), TypeError, "scan: body must be a function, found 3"),
    ("rows", lambda x: control.scan(lambda h, x: (h, None), x, x, length=3), ValueError, "scan: xs has 2 rows, expected 3"),
    ("pair", lambda x: control.scan(lambda h, x: h, x, x), ValueError, r"scan: body must return \(carry, y\), found"),
    ("length", lambda x: control.scan(lambda h, x: (h, None), x), ValueError, "length must say how many"),
    ("upper", lambda x: control.fori_loop(0, 2.5, lambda i, v: v, x), TypeError, "fori_loop: upper must be an int"),
    ("bound", lambda x: control.while_loop(lambda v: v, lambda v: v, x, bound=-1), ValueError, "must not be negative"),
    ("xs", lambda x: ops.Scan()(lambda h, x: (h, None), x, x), TypeError, "Scan: xs must be a list, a tuple or None"),
    ("lower", lambda x: ops.ForiLoop()(0.5, 2, lambda i, v: v, x), TypeError, "ForiLoop: lower must be an int or a Tensor"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "call", "kind", "text"), WRONG, ids=[w[0] for w in WRONG])
def test_refused(name: str, call: Callable[..., Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=rf"{text}[^\n]*\n  called at test_control.py:\d+"):
        ms.jit(call)(t([1.0, 2.0]))


def test_a_test_that_assigns_is_refused() -> None:
    p = ms.Parameter(t(0.0), name="p")

    def test(v: ms.Tensor) -> Any:
        ops.assign(p, p + 1.0)
        return v < 3.0

    with pytest.raises(TypeError, match="while_loop: test assigns to Parameter p; only the body may"):
        ms.jit(lambda x: control.while_loop(test, lambda v: v + 1.0, x))(t(0.0))


# the graph ---------------------------------------------------------------------------------------------------------


def running_sum() -> Graph:
    """A scan with everything in it: carry, rows, constants, results; and a branch around its result."""
    x, w = input_node("x", TensorType(f32, (4, 2))), input_node("w", TensorType(f32, (2,)))
    h, row, inside = state_node("h", w.type), input_node("x", w.type), input_node("w", w.type)
    fresh = h * inside + row
    body = Graph("body", (row, inside), (h,), (fresh,), ((h, fresh),))
    node = regions.loop(w, x, w, body=body, test=None, length=4, reverse=False, stacked=1, counted=False)
    last, ys = regions.items(node)
    a = input_node("a", ys.type)
    then = Graph("then", (a,), (), (a + 1.0,))
    other = Graph("other", (a,), (), (a * constant(np.arange(8, dtype=np.float32).reshape(4, 2)),))
    flag = input_node("flag", TensorType(bool_, ()))
    (chosen,) = regions.items(regions.branch(flag, ys, then=then, other=other))
    return Graph("step", (x, w, flag), (), (last, chosen))


def test_text(golden) -> None:  # type: ignore[no-untyped-def]
    graph = running_sum()
    text = print_graph(graph)
    golden("text_scan.graph", print_graph(graph, where=False))
    again = parse_graph(text, large_constants(graph))
    assert print_graph(again) == text
    check(again)
    optimized = optimize(graph)
    check(optimized)
    assert print_graph(parse_graph(print_graph(optimized), large_constants(optimized))) == print_graph(optimized)


def _changed(node: Node, **attrs: Any) -> Node:
    return Node(node.op, node.inputs, node.attrs | attrs, node.type, node.where)  # type: ignore[operator]


def test_verifier_looks_inside() -> None:
    graph = running_sum()
    (node,) = [n for n in walk(graph.roots) if n.op == "loop"]
    stray = input_node("stray", TensorType(f32, (2,)))
    body = node.attrs["body"]
    broken = Graph("body", body.inputs, body.state, (stray,), body.updates)
    outputs = regions.items(_changed(node, body=broken))
    with pytest.raises(VerifyError, match="leaves: in body of .* 'stray' is used but is not in the signature"):
        check(Graph("g", graph.inputs, (), outputs))
    with pytest.raises(VerifyError, match="results: input 0 of .* is a tuple; an item must pick"):
        check(Graph("g", graph.inputs, (), (Node("neg", (node,), {}, TensorType(i32, ())),)))


# derivatives -------------------------------------------------------------------------------------------------------


def f64(value: Any) -> ms.Tensor:
    return ms.Tensor(np.asarray(value, np.float64))


W, B = np.random.default_rng(0).normal(size=(3, 3)) / 2, np.random.default_rng(1).normal(size=3)
XS, H = np.random.default_rng(2).normal(size=(5, 2, 3)), np.random.default_rng(3).normal(size=(2, 3))


def recurrent(w: Any, b: Any, xs: Any, h: Any) -> Any:
    def body(h: Any, x: Any) -> Any:
        h = (h @ w + x + b).tanh()
        return h, (h * h * x).sum()

    h, y = control.scan(body, h, xs)
    return (h * h).sum() + (y * y).sum()


def until_large(w: Any, b: Any, xs: Any, h: Any) -> Any:
    h = control.while_loop(lambda h: (h * h).sum() < 40.0, lambda h: h * 1.3 + (h @ w).sin() + b * 0.1, h, bound=20)
    return (h * h * b).sum()


def never(w: Any, b: Any, xs: Any, h: Any) -> Any:
    h = control.while_loop(lambda h: (h * h).sum() < 0.0, lambda h: h @ w + b, h, bound=3)
    return (h * h * b).sum()


def choosing(w: Any, b: Any, xs: Any, h: Any) -> Any:
    def body(h: Any, x: Any) -> Any:
        return control.cond((h * x).sum() > 0, lambda: (h @ w).tanh() * x, lambda: h * b), None

    h, _ = control.scan(body, h, xs, reverse=True)
    return (h * xs[0]).sum()


def counting(w: Any, b: Any, xs: Any, h: Any) -> Any:
    n = ms.Tensor(3) + (h.sum() * 0).astype(ms.int64)
    return (control.fori_loop(0, n, lambda i, h: (h @ w).sin() + b * i, h, bound=4) ** 2).sum()


def nested(w: Any, b: Any, xs: Any, h: Any) -> Any:
    def body(h: Any, x: Any) -> Any:
        grow = lambda h: h * 1.5 + x * w.sum() * 0.1  # noqa: E731
        h = control.while_loop(lambda h: (h * h).sum() < 9.0, grow, h, bound=9)
        h = control.fori_loop(0, 2, lambda i, h: (h @ w).tanh() * b, h)
        return h, h.sum()

    h, y = control.scan(body, h, xs)
    return (h * h).sum() + (y * y * y).sum()


PROGRAMS = (recurrent, until_large, never, choosing, counting, nested)


def along(f: Callable[..., Any], at: list[np.ndarray], way: list[np.ndarray], order: int) -> float:
    """The derivative of f of that order along `way`, by reverse mode over itself."""

    def derived(k: int) -> Callable[..., Any]:
        if k == 0:
            return f

        def inner(*args: Any) -> Any:
            parts = ms.grad(derived(k - 1), (0, 1, 2, 3))(*args)
            terms = [(p * f64(w)).sum() for p, w in zip(parts, way, strict=True)]
            return terms[0] + terms[1] + terms[2] + terms[3]

        return inner

    return float(ms.jit(derived(order))(*map(f64, at)))


@pytest.mark.parametrize("order", (1, 2))
@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_derivatives_equal_differences(f: Callable[..., Any], order: int) -> None:
    rng = np.random.default_rng(7)
    at = [W, B, XS, H]
    way = [rng.normal(size=a.shape) for a in at]
    step = 1e-5
    with config.override(backend="numpy"):
        ahead, behind = (along(f, [a + e * w for a, w in zip(at, way, strict=True)], way, order - 1) for e in (step, -step))
        found = along(f, at, way, order)
    expected = (ahead - behind) / (2 * step)
    assert abs(found - expected) <= 1e-6 * max(1.0, abs(expected))


@pytest.mark.parametrize("most_work", (0, 1000), ids=("kernels", "small"))
@pytest.mark.parametrize("backend", ("loops", "llvm"))
@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_backends_agree_on_derivatives(
    f: Callable[..., Any], backend: str, most_work: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small, "MOST_WORK", most_work)
    args = [f64(a) for a in (W, B, XS, H)]

    def both(*args: Any) -> Any:
        return ms.value_and_grad(f, (0, 1, 2, 3))(*args)

    with config.override(backend="numpy"):
        value, gradients = ms.jit(both)(*args)
    with config.override(backend=backend, cache="off", threads=1):
        found, parts = ms.jit(both)(*args)
    for a, b in zip((value, *gradients), (found, *parts), strict=True):
        np.testing.assert_allclose(b.asnumpy(), a.asnumpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_passes_keep_values_and_op_by_op_agrees(f: Callable[..., Any]) -> None:
    args = [f64(a) for a in (W, B, XS, H)]
    gradient = ms.grad(f, (0, 1, 2, 3))
    expected = [g.asnumpy() for g in gradient(*args)]
    compiled = ms.jit(gradient)
    with config.override(backend="numpy", verify=2):
        found = compiled(*args)
        optimize(compiled.compile_cache.graph(args, {}))
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(b.asnumpy(), a, rtol=1e-12, atol=1e-12)


def test_reverse_derivative_without_a_bound() -> None:
    def f(x: ms.Tensor) -> Any:
        return control.while_loop(lambda v: v < 9.0, lambda v: v * v, x)

    assert values(ms.jit(ms.grad(f))(t(2.0))) == values(ms.grad(f)(t(2.0))) == 32.0


def test_gradient_of_a_weight_is_one_product(golden) -> None:  # type: ignore[no-untyped-def]
    f = ms.jit(ms.grad(recurrent, (0, 1, 2, 3)))
    with config.override(backend="numpy"):
        graph = optimize(f.compile_cache.graph([f64(a) for a in (W, B, XS, H)], {}))
    golden("control_recurrent.graph", print_graph(graph, where=False))


def test_a_loop_stacks_a_value_once_and_reads_weights_where_they_lie(run: Callable[..., Any]) -> None:
    def f(w: ms.Tensor, xs: ms.Tensor) -> Any:
        across = w.T

        def body(h: Any, x: Any) -> Any:
            new = ops.tanh(h @ across + x)
            return new, (new, new.reshape(4), new.T, new.sum())

        return control.scan(body, w[:, :2] * 0.5, xs)

    w, xs = t([[1.0, -0.5], [0.25, 0.75]]), t(np.arange(8).reshape(2, 2, 2) / 8)
    expected, found = f(w, xs), run(f, w, xs)
    for a, b in zip(expected[1], found[1], strict=True):
        np.testing.assert_allclose(b.asnumpy(), a.asnumpy(), rtol=1e-6)
    graph = optimize(ms.jit(f).compile_cache.graph([w, xs], {}))
    (loop,) = [n for n in walk(graph.roots) if n.op == "loop"]
    assert len(loop.attrs["body"].outputs) == 2
    assert regions.parts_of(loop).constants == graph.inputs[:1]


@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_same_bits_for_any_number_of_threads(
    f: Callable[..., Any], kernel_by_kernel: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even the smallest kernel is shared by the team, so that every loop and branch is gone through by all threads."""
    args = [f64(a) for a in (W, B, XS, H)]

    def both(threads: int) -> list[bytes]:
        compiled = ms.jit(ms.value_and_grad(f, (0, 1, 2, 3)))
        with config.override(backend="llvm", cache="off", threads=threads):
            runs = [compiled(*args) for _ in range(20)]
        bits = [[x.asnumpy().tobytes() for x in (value, *gradients)] for value, gradients in runs]
        assert all(b == bits[0] for b in bits)
        return bits[0]

    alone = both(1)
    monkeypatch.setattr(stepping, "_TEAM_WORK", 0.0)
    for threads in (1, 2, 3):
        assert both(threads) == alone


# the native step ---------------------------------------------------------------------------------------------------


def test_stages_show_what_is_inside(golden, kernel_by_kernel: None) -> None:  # type: ignore[no-untyped-def]
    texts = stages(running_sum())
    assert "stop unless" not in texts["loops"] and "repeat 4 times:" in texts["loops"]
    golden("control_fused.txt", re.sub(r"  # test_control.py:\d+", "", texts["fused"]) + "\n")
    golden("control_order.txt", texts["loops"].split("\n\n")[0] + "\n")


def test_cached_code_is_that_of_the_body(tmp_path: Any) -> None:
    """Two loops that differ in a number inside the body alone."""

    def f(factor: float) -> Callable[..., Any]:
        return lambda x: control.fori_loop(0, 3, lambda i, v: v * factor, x)

    with config.override(backend="llvm", cache=str(tmp_path), threads=1):
        found = [values(ms.jit(f(k))(t(1.0))) for k in (2.0, 3.0, 2.0)]
    assert found == [8.0, 27.0, 8.0]


def test_a_loop_needs_no_memory_for_its_trips() -> None:
    def arena(trips: int) -> int:
        f = ms.jit(lambda x: control.fori_loop(0, trips, lambda i, v: (v @ v).tanh() + 1.0, x))
        with config.override(backend="llvm", cache="off"):
            return f.compile_cache.entry([t(np.eye(16))], {})[0].compiled.arena_bytes

    assert arena(1000) == arena(2) < 8 << 10


def test_a_loop_over_a_few_numbers_is_one_kernel() -> None:
    """All kinds of ops at fixed places: movement, reductions, a product, integers, a carry that swaps with another."""

    def body(carry: Any, x: Any) -> Any:
        a, b, n = carry
        z = ops.concat([a[::2], b[1:2]], 0) @ w + x.flip(0)
        low = (z * z).sum() + z.max() - ops.stack([z, a]).mean()
        return (b, (z - low).tanh(), n * 2 + n % 3), (z, low > 0, ops.pad(a, (1, 2), value=2.0).reshape(2, 3))

    def f(a: Any, b: Any, xs: Any) -> Any:
        return control.scan(body, (a, b, ms.Tensor(1)), xs, reverse=True)

    w = f64(W)
    args = [f64(B), f64(B[::-1].copy()), f64(XS[:, 0])]
    expected = f(*args)
    for backend in ("numpy", "loops", "llvm"):
        compiled = ms.jit(f)
        with config.override(backend=backend, cache="off", threads=1):
            found = compiled(*args)
            if backend == "llvm":
                program = compiled.compile_cache.entry(args, {})[0].compiled.program
                assert program is not None and [c.kernel for c in program.calls].count("loop_of_5") == 1
                assert len(program.calls) <= 4
        for a, b in zip(values(expected[0]) + values(expected[1]), values(found[0]) + values(found[1]), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-12)
