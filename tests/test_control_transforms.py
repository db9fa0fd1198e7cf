"""vmap, jvp, vjp and Jacobians of branches and loops, whose decisions are the same for all examples or are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt as ms
from graphopt import Tensor, config, control, ops
from graphopt.ir.graph import subgraphs, walk

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def graph_mode() -> Iterator[None]:
    """Traced, verified, and computed by the ops' meaning and natively."""
    ms.set_context(mode=ms.GRAPH_MODE)
    with config.override(verify=2, cache="off", threads=1):
        yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


def t(value: Any) -> Tensor:
    array = np.asarray(value)
    return Tensor(array if array.dtype.kind in "ib" else array.astype(np.float64))


def chosen(x: Tensor, y: Tensor) -> Tensor:
    return control.cond(x.sum() > 0, lambda a: ops.tanh(a) * y, lambda a: a - y * y, x)


def until(x: Tensor, y: Tensor) -> Tensor:
    """Grows x by y until its sum is large; how often depends on the example."""
    total, count = control.while_loop(lambda s: s[0].sum() < 4.0, lambda s: (s[0] * 1.5 + y * y, s[1] + 1.0), (x, t(0.0)))
    return total * count


def limited(x: Tensor, y: Tensor) -> Tensor:
    return control.while_loop(lambda s: s.sum() < 4.0, lambda s: s * 1.5 + y * y * ops.cos(s), x, bound=20)


def repeated(x: Tensor, y: Tensor) -> Tensor:
    return control.fori_loop(0, 4, lambda i, s: ops.sin(s) * y + x, x)


def scanned(x: Tensor, y: Tensor) -> Any:
    """Rows differ from example to example where x does, the carry starts the same for all."""
    last, rows = control.scan(lambda s, row: (ops.tanh(s + row * y), s * row), t(0.5), x)
    return last, rows


def pythons(x: Tensor, y: Tensor) -> Tensor:
    """Python's own control flow."""
    if x.sum() > 0:
        total = x
        while total.sum() < 3.0:
            total = total * 1.5 + 0.1
        return total * y
    return y * x


FUNCTIONS: list[Callable[..., Any]] = [chosen, until, limited, repeated, scanned, pythons]
CASES = [(f, axes) for f, axes in product(FUNCTIONS, [(0, None), (None, 0), (0, 0), (1, None)])]
X, Y = np.abs(RNG.normal(size=(3, 3))) + 0.1, RNG.normal(size=(3, 3))
X[1] *= -0.2


def operands(f: Callable[..., Any], axes: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray]:
    """x (…, 3) and y of f: of a scan y is a number, else it is like x."""
    x, y = (X if axes[0] is not None else X[0]), (Y if axes[1] is not None else Y[0])
    if f is scanned:
        y = Y[:, 0] if axes[1] is not None else Y[0, 0]
    return np.asarray(x), np.asarray(y)


def examples(f: Callable[..., Any], axes: tuple[Any, ...], x: np.ndarray, y: np.ndarray) -> list[list[np.ndarray]]:
    rows = []
    for k in range(3):
        one = [a if axis is None else np.take(a, k, axis) for axis, a in zip(axes, (x, y), strict=True)]
        result = ms.jit(f)(*map(t, one))
        rows.append([r.asnumpy() for r in (result if isinstance(result, tuple) else (result,))])
    return rows


def close(found: Any, rows: list[list[np.ndarray]]) -> None:
    results = found if isinstance(found, tuple) else (found,)
    for k, result in enumerate(results):
        np.testing.assert_allclose(result.asnumpy(), np.stack([r[k] for r in rows]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("f", "axes"), CASES, ids=lambda v: getattr(v, "__name__", str(v)))
def test_vmap_is_a_loop(f: Callable[..., Any], axes: tuple[Any, ...]) -> None:
    x, y = operands(f, axes)
    close(ms.vmap(f, axes)(t(x), t(y)), examples(f, axes, x, y))


def total(f: Callable[..., Any]) -> Callable[..., Any]:
    def summed(x: Tensor, y: Tensor) -> Tensor:
        result = f(x, y)
        return sum((r.sum() for r in result), t(0.0)) if isinstance(result, tuple) else result.sum()

    return summed


@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
def test_vmap_of_gradients_and_gradients_of_vmap(f: Callable[..., Any]) -> None:
    x, y = operands(f, (0, None))
    config.set_config(verify=1)  # numpy's meaning of a loop that runs backwards without a limit takes its time
    gradient = ms.grad(total(f), (0, 1))
    rows = [[g.asnumpy() for g in ms.jit(gradient)(t(r), t(y))] for r in x]
    close(ms.vmap(gradient, (0, None))(t(x), t(y)), rows)
    dx, dy = ms.grad(lambda a, b: ms.vmap(total(f), (0, None))(a, b).sum(), (0, 1))(t(x), t(y))
    np.testing.assert_allclose(dx.asnumpy(), np.stack([r[0] for r in rows]), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(dy.asnumpy(), np.sum([r[1] for r in rows], 0), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
def test_forward_and_reverse_mode_agree(f: Callable[..., Any]) -> None:
    x, y = operands(f, (None, None))
    summed = total(f)
    config.set_config(verify=1)  # numpy's meaning of a loop that runs backwards without a limit takes its time
    v, w = RNG.normal(size=x.shape), RNG.normal(size=y.shape)
    _, slope = ms.jvp(summed, (t(x), t(y)), (t(v), t(w)))
    _, back = ms.vjp(summed, t(x), t(y))
    dx, dy = (g.asnumpy() for g in back(t(1.0)))
    np.testing.assert_allclose(slope.asnumpy(), (dx * v).sum() + (dy * w).sum(), rtol=1e-11)
    for jacobian in (ms.jacfwd, ms.jacrev):
        found = jacobian(summed, (0, 1))(t(x), t(y))
        np.testing.assert_allclose(found[0].asnumpy(), dx, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(found[1].asnumpy(), dy, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("f", [repeated, limited, scanned], ids=lambda f: f.__name__)
def test_hessians_by_every_nesting(f: Callable[..., Any]) -> None:
    x, y = operands(f, (None, None))
    nestings = product((ms.jacfwd, ms.jacrev), repeat=2)
    found = [outer(inner(total(f)))(t(x), t(y)).asnumpy() for outer, inner in nestings]
    assert np.abs(found[0]).max() > 1e-3
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-9, atol=1e-11)


def test_a_loop_whose_trips_are_the_same_for_all_stays_one_plain_loop() -> None:
    def f(x: Tensor) -> Tensor:
        return control.while_loop(lambda s: s[0] < 5, lambda s: (s[0] + 1, ops.tanh(s[1]) + x), (0, x))[1]

    mapped = ms.vmap(f)
    mapped(t(X))
    graph = mapped.compile_cache.graph((t(X),), {})
    (loop,) = [n for n in walk(graph.roots) if n.op == "loop"]
    inner = [n.op for g in subgraphs(loop) for n in walk(g.roots)]
    assert "select" not in inner and "reduce_or" not in inner


def test_as_many_trips_as_each_example_asks_for() -> None:
    def f(n: Tensor, x: Tensor) -> Tensor:
        return control.fori_loop(0, n, lambda i, s: s * 2.0 + 1.0, x, bound=6)

    found = ms.vmap(f)(Tensor([0, 3, 6], ms.int32), t([1.0, 1.0, 1.0]))
    assert found.asnumpy().tolist() == [1.0, 15.0, 127.0]


@pytest.mark.parametrize("f", [chosen, repeated, scanned], ids=lambda f: f.__name__)
def test_vmap_in_pynative_mode(f: Callable[..., Any]) -> None:
    """The functions of `control` make graphs there too; what asks for a value says so."""
    x, y = operands(f, (0, None))
    rows = examples(f, (0, None), x, y)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    close(ms.vmap(f, (0, None))(t(x), t(y)), rows)
    with pytest.raises(RuntimeError, match="or run in GRAPH_MODE, where branches and loops become parts of the graph"):
        ms.vmap(pythons, (0, None))(t(X), t(Y[0]))
    with pytest.raises(RuntimeError, match="or run in GRAPH_MODE, where branches and loops become parts of the graph"):
        ms.vmap(until, (0, None))(t(X), t(Y[0]))


# generated programs

W = RNG.normal(size=(4, 4)) / 2
Step = Callable[[Tensor], Tensor]

SIMPLE: dict[str, Step] = {
    "tanh": ops.tanh,
    "sin": lambda x: ops.sin(x) + 0.1,
    "contract": lambda x: ops.matmul(x, t(W)),
    "outer": lambda x: (x.reshape((4, 1)) * x.reshape((1, 4))).sum(0) * 0.2,
    "turned": lambda x: ops.flip(x, (0,)),
    "part": lambda x: ops.pad(x[1:3], (1, 1)) + x * 0.5,
    "every other": lambda x: ops.concat((x[::2], x[1::2] * x[::-2]), 0),
    "transposed": lambda x: (x.reshape((2, 2)).T @ x.reshape((2, 2))).T.reshape(4) * 0.4,
    "joined": lambda x: ops.concat((x[2:], x[:2]), 0) * x,
    "largest": lambda x: x - x.max() * 0.5,
    "mean": lambda x: (x - x.mean()) / (1 + (x * x).mean()),
    "indexed": lambda x: ops.gather(x, Tensor([3, 0, 0, 2], ms.int32), 0) * 0.7,
}


def control_step(kind: str, inner: Step, other: Step) -> Step:
    """One of them, or a branch or loop around them."""
    if kind == "cond":
        return lambda x: control.cond(x.sum() > 0.1, inner, other, x)
    if kind == "for":
        return lambda x: control.fori_loop(0, 3, lambda i, s: inner(s) + x * 0.1, x)
    if kind == "while":
        return lambda x: control.while_loop(lambda s: (s * s).sum() < 2.0, lambda s: s * 1.7 + inner(s) * 0.1 + 0.2, x, bound=12)
    if kind == "scan":
        return lambda x: control.scan(lambda s, row: (inner(s) * 0.5, (s * row).sum()), x, x)[1]
    if kind == "unrolled":
        return lambda x: other(inner(other(inner(x)) * 0.8) * 0.8)
    if kind == "until":
        small = lambda s: ops.logical_and((s[0] * s[0]).sum() < 3.0, s[1] < 6)  # noqa: E731
        return lambda x: control.while_loop(small, lambda s: (s[0] * 1.6 + inner(s[0]) * 0.1 + 0.3, s[1] + 1), (x, 0))[0]
    if kind == "for to a Tensor":
        return lambda x: control.fori_loop(0, (x * x).sum().astype(ms.int64) % 3 + 1, lambda i, s: inner(s) + x * 0.1, x)
    if kind == "backwards":
        rows = lambda s, row: (inner(s) + row[0], other(s) * row)  # noqa: E731
        return lambda x: control.scan(rows, x, ops.stack([x, x[::-1], other(x)]), reverse=True)[1].sum(0)
    if kind == "python":
        return lambda x: pythons_own(x, inner, other)
    return inner


def pythons_own(x: Tensor, inner: Step, other: Step) -> Tensor:
    """An early return, and a branch and a break in a loop."""
    if x.max() > 4:
        return other(x) * 0.25
    k = 0
    while (x * x).sum() < 2.5:
        x = x * 1.5 + 0.2
        if x[1] > x[2]:
            x = inner(x) * 0.3 + x
        k = k + 1
        if k > 3:
            break
    return x


KINDS = ["cond", "for", "while", "scan", "unrolled", "until", "for to a Tensor", "backwards"]
Part = str | tuple["Part", "Part", "Part"]
PLAIN: st.SearchStrategy[Part] = st.sampled_from(sorted(SIMPLE))
CONTROL: st.SearchStrategy[Part] = st.tuples(st.sampled_from([*KINDS, "python"]), PLAIN, PLAIN)
NESTED: st.SearchStrategy[Part] = st.tuples(st.sampled_from(KINDS), st.tuples(st.sampled_from(KINDS), PLAIN, PLAIN), PLAIN)


def step_of(part: Part) -> Step:
    """The step that a name, or (kind of control flow, what is in it) stands for."""
    if isinstance(part, str):
        return SIMPLE[part]
    kind, inner, other = part
    return control_step(str(kind), step_of(inner), step_of(other))


def program(parts: Sequence[Part]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        for part in parts:
            x = ops.clamp(step_of(part)(x), -6.0, 6.0)
        return (x * x).sum() + x.sum()

    return run


@settings(max_examples=12)
@given(st.lists(st.one_of(PLAIN, CONTROL), min_size=1, max_size=2))
def test_generated_programs_and_their_derivatives(parts: list[Part]) -> None:
    same_derivatives(parts)


@settings(max_examples=4)
@given(PLAIN, NESTED)
def test_generated_programs_with_control_flow_in_control_flow(first: Part, second: Part) -> None:
    same_derivatives([first, second])


def same_derivatives(parts: Sequence[Part]) -> None:
    """Value, gradient, and Hessian times a vector, forward over reverse and reverse over reverse: on every backend, and op
    by op, where loops are Python's.
    """
    x, v = t([0.3, -0.4, 0.9, 0.2]), t([1.0, -0.5, 0.25, 2.0])
    found: dict[str, list[np.ndarray]] = {}
    for backend in ("numpy", "loops", "llvm", "op by op"):
        f = program(parts)
        ms.set_context(mode=ms.PYNATIVE_MODE if backend == "op by op" else ms.GRAPH_MODE)
        with config.override(backend="llvm" if backend == "op by op" else backend, verify=0):
            value, gradient = ms.value_and_grad(f)(x)
            forward = ms.jvp(ms.grad(f), x, v)[1]
            backward = ms.grad(lambda a, f=f: (ms.grad(f)(a) * v).sum())(x)
        found[backend] = [r.asnumpy() for r in (value, gradient, forward, backward)]
    for results in found.values():
        scale = max(1.0, float(np.abs(results[2]).max()))
        np.testing.assert_allclose(results[2], results[3], rtol=1e-8, atol=1e-9 * scale)
        for a, b in zip(results, found["numpy"], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10 * max(1.0, float(np.abs(b).max())))
