"""Python's control flow on Tensors in GRAPH_MODE: against a real MindSpore's results, against PYNATIVE_MODE, and the errors."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import graphopt as ms
from graphopt import Parameter, Tensor, nn, ops
from graphopt.errors import ShapeError, TraceError
from graphopt.opdefs.evaluate import evaluate

GOLDENS = Path(__file__).parent / "goldens"


def _cases() -> ModuleType:
    spec = importlib.util.spec_from_file_location("control_cases", GOLDENS / "control_cases.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cases = _cases()
recorded = np.load(GOLDENS / "control.npz")


@pytest.fixture(autouse=True)
def graph_mode() -> Any:
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


def arrays(results: Any) -> list[np.ndarray]:
    parts = results if isinstance(results, tuple) else (results,)
    return [np.asarray(r.asnumpy() if isinstance(r, Tensor) else r) for r in parts]


@pytest.mark.parametrize("name", cases.CASES)
def test_as_mindspore(name: str) -> None:
    """Values and gradients of a real MindSpore, from one compile for all values."""
    function, argument_lists = cases.CASES[name]
    compiled = ms.jit(function)
    gradient = ops.GradOperation(get_all=True)(function)
    for k, arguments in enumerate(argument_lists):
        inputs = [Tensor(a) for a in cases.tensors(arguments)]
        for r, result in enumerate(arrays(compiled(*inputs))):
            np.testing.assert_allclose(result, recorded[f"{name}/{k}/{r}"], rtol=1e-6, err_msg=f"{name} {k}")
        np.testing.assert_allclose(gradient(*inputs)[-1].asnumpy(), recorded[f"{name}/{k}/grad"], rtol=1e-6)
    assert compiled.compile_cache.compiles == 1


# what MindSpore does not have a case for ---------------------------------------------------------------------------


def number_grows_into_a_tensor(n: Any, x: Any) -> Any:
    total, i = 0, 0
    while i < n:
        total = total + x * i
        i += 1
    return total, i


def collatz_in_a_condition(n: Any, x: Any) -> Any:
    k = 0
    while n > 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        k += 1
        if k > 100 and x > 0:
            return x, k
    return -x, k


def range_of_a_tensor(n: Any, x: Any) -> Any:
    s = x * 0
    for i in range(n):
        for j in range(i, n, 2):
            if (i + j) % 2 == 0:
                s = s + i * j * x
            else:
                s -= x
    for k in range(n, 0, -1):
        if k == 3:
            continue
        if s > 1000:
            break
        s = s + k
    return s


def returns_from_an_inner_loop(n: Any, x: Any) -> Any:
    for i in range(4):
        for j in range(n):
            if i * j > x:
                return x * i, j
    return x, -1


def lists_and_tuples(n: Any, x: Any) -> Any:
    pair = (x, [x + 1, 2.0])
    if x > n:
        pair = (x * 2, [pair[1][0], 3.0])
    a, (b, c) = pair
    return a + b + c, max(a, b), min(a, b, x)


FUNCTIONS = [
    number_grows_into_a_tensor,
    collatz_in_a_condition,
    range_of_a_tensor,
    returns_from_an_inner_loop,
    lists_and_tuples,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_as_python(function: Any) -> None:
    """GRAPH_MODE gives what Python gives op by op."""
    compiled = ms.jit(function)
    for n, x in ((5, 2.0), (0, 3.0), (7, -1.5), (27, 0.25)):
        inputs = Tensor(np.int32(n)), Tensor(np.float32(x))
        ms.set_context(mode=ms.PYNATIVE_MODE)
        expected = arrays(function(*inputs))
        ms.set_context(mode=ms.GRAPH_MODE)
        for want, got in zip(expected, arrays(compiled(*inputs)), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5)
    assert compiled.compile_cache.compiles == 1


class Counting(nn.Cell):
    """A Parameter is assigned to in a branch of one loop and in the test's network."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Dense(3, 3, weight_init="ones", bias_init="zeros")
        self.count = Parameter(Tensor(np.zeros(2, np.float32)), name="count", requires_grad=False)

    def construct(self, x: Any) -> Any:
        y = self.dense(x)
        while y.sum() < 100:
            if y.max() > 5:
                self.count = self.count + 1
            else:
                self.count += 10
            y = y * 2
        return self.helper(y)

    def helper(self, y: Any) -> Any:
        return y if y.sum() < 120 else y - 1


def test_parameters_and_methods() -> None:
    """The same in both modes, results and Parameters."""
    found = []
    for mode in (ms.PYNATIVE_MODE, ms.GRAPH_MODE):
        ms.set_context(mode=mode)
        net = Counting()
        results = [net(Tensor(np.full((2, 3), v, np.float32))).asnumpy() for v in (0.1, 1.0, 30.0)]
        found.append((results, net.count.asnumpy()))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-6)
    assert found[0][1].tolist() == found[1][1].tolist() and found[0][1].max() > 10


def decays(n: Any, x: Any) -> Any:
    while n > 0:
        x = x * 0.999 + 0.001 * ops.sin(x)
        n = n - 1
    return x


@pytest.mark.parametrize("trips", [0, 1, 1023, 1024, 1025, 3000])
def test_the_gradient_of_a_while_with_any_number_of_trips(trips: int) -> None:
    """First and second derivative against the recurrences written out, beyond the spans that are kept, in float64."""
    x, first, second = 0.7, 1.0, 0.0
    for _ in range(trips):
        second = (0.999 + 0.001 * np.cos(x)) * second - 0.001 * np.sin(x) * first * first
        first = (0.999 + 0.001 * np.cos(x)) * first
        x = 0.999 * x + 0.001 * np.sin(x)
    inputs = Tensor(np.int32(trips)), Tensor(np.float64(0.7))
    by_x = ms.grad(decays, grad_position=1)
    assert ms.jit(decays)(*inputs).item() == pytest.approx(x, rel=1e-12)
    assert by_x(*inputs).item() == pytest.approx(first, rel=1e-10)
    assert ms.grad(by_x, grad_position=1)(*inputs).item() == pytest.approx(second, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_derivatives_of_a_while_run_as_many_trips_as_there_are(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as many as could be kept: twice the trips are twice the work, and an order four times that of the last."""
    ran = 0

    def counting(graph: Any, inputs: Any, state: Any) -> Any:
        nonlocal ran
        ran += 1
        return evaluate(graph, inputs, state)

    monkeypatch.setattr("graphopt.opdefs.control.evaluate", counting)
    f = decays
    for _ in range(order):
        f = ms.grad(f, grad_position=1)
    work = []
    with ms.config.override(backend="numpy", cache="off"):
        compiled = ms.jit(f)
        for trips in (0, 4, 8):
            ran = 0
            compiled(Tensor(np.int32(trips)), Tensor(np.float64(0.7)))
            work.append(ran)
    assert work[0] == 1
    assert work[1] < 4 * 12 * 4 ** (order - 1)
    assert work[2] <= 2 * work[1]


def test_a_constant_of_the_loop_gets_its_gradient() -> None:
    def f(n: Any, w: Any, x: Any) -> Any:
        while n > 0:
            x = ops.tanh(ops.matmul(x, w))
            n = n - 1
        return x.sum()

    rng = np.random.default_rng(0)
    w, x = (Tensor(rng.standard_normal(s)) for s in ((3, 3), (2, 3)))

    def unrolled(w: Any, x: Any) -> Any:
        for _ in range(5):
            x = ops.tanh(ops.matmul(x, w))
        return x.sum()

    got = ms.grad(f, grad_position=(1, 2))(Tensor(np.int32(5)), w, x)
    want = ms.grad(unrolled, grad_position=(0, 1))(w, x)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a.asnumpy(), b.asnumpy(), rtol=1e-12)


# errors ------------------------------------------------------------------------------------------------------------


def set_in_one_branch(n: Any, x: Any) -> Any:
    if x > 0:
        y = x
    return y


def returns_two_shapes(n: Any, x: Any) -> Any:
    if x > 0:
        return x
    return ops.zeros((3,), ms.float32)


def grows(n: Any, x: Any) -> Any:
    x = x.reshape(1)
    while n > 0:
        x = ops.concat([x, x])
        n = n - 1
    return x


def set_in_the_loop(n: Any, x: Any) -> Any:
    while n > 0:
        t = x * 2
        n = n - 1
    return t


def several_elements(n: Any, x: Any) -> Any:
    v = ops.ones((3,), ms.float32)
    if v > 0:
        return x
    return v


def leaves_a_try(n: Any, x: Any) -> Any:
    try:
        if x > 0:
            return x
    finally:
        n = n + 1
    return n


def asserts(n: Any, x: Any) -> Any:
    assert x > 0
    return x


def chooses_a_string(n: Any, x: Any) -> Any:
    s = "a" if x > 0 else "b"
    return x, s


ERRORS = [
    (set_in_one_branch, TraceError, "variable y has no value here: only one branch assigns to it of the `if` at test_", 3),
    (returns_two_shapes, TraceError, r"returns has no value here: it is float32\[\] in one branch and float32\[3\]", 1),
    (grows, ShapeError, r"variable x is float32\[1\] before and float32\[2\] after a trip", 2),
    (set_in_the_loop, TraceError, "variable t has no value here: only trips of the traced loop", 4),
    (several_elements, ValueError, r"one element, found (a Tensor of )?shape \(3,\)", 2),
    (leaves_a_try, TraceError, "cannot be traced: a `try` inside is left by return", 2),
    (asserts, TraceError, "cannot be traced: an `assert` needs a value", 1),
    (chooses_a_string, TraceError, "it is 'a' in one branch and 'b' in the other", 1),
]


@pytest.mark.parametrize("function, kind, message, line", ERRORS, ids=lambda v: getattr(v, "__name__", ""))
def test_errors_name_the_line_and_the_reason(function: Any, kind: type[Exception], message: str, line: int) -> None:
    with pytest.raises(kind, match=message) as caught:
        ms.jit(function)(Tensor(np.int32(2)), Tensor(np.float32(1)))
    assert f"called at test_branching.py:{function.__code__.co_firstlineno + line}" in str(caught.value)


def test_a_function_without_source_says_so() -> None:
    names: dict[str, Any] = {"__name__": "elsewhere"}
    exec("def f(x):\n    if x > 0:\n        return x\n    return -x", names)
    with pytest.raises(TraceError, match="f: its branches cannot be traced: its source is not available"):
        ms.jit(names["f"])(Tensor(np.float32(1)))


def test_a_network_without_tensor_conditions_is_traced_as_it_is() -> None:
    """Nothing is rewritten before a Tensor is found to be a condition: the user's own function runs."""
    seen = []

    def f(x: Any) -> Any:
        seen.append(f.__code__.co_freevars)
        return x if x.ndim else -x

    ms.jit(f)(Tensor(np.float32(1)))
    assert len(seen) == 1
