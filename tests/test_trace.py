"""Tracing and compiling per signature: what is captured, what recompiles, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from nets import NetXYZ

import graphopt as ms
from graphopt import Parameter, Tensor, nn, ops
from graphopt.errors import TraceError

X, Y = Tensor([1.0, 2.0]), Tensor([3.0, 4.0])


@pytest.fixture(autouse=True)
def graph_mode() -> Iterator[None]:
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


def reasons(function: Any) -> list[str]:
    return [c.reason for c in function.compile_cache.compilations]


class Scaled(nn.Cell):
    """x * factor * lr, counting its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = 2.0
        self.calls = Parameter(Tensor(0), name="calls", requires_grad=False)

    def construct(self, x: Tensor, lr: float = 1.0, flag: bool = True, names: Any = None) -> Any:
        self.calls.set_data(self.calls + 1)
        return x * self.factor * lr if flag else x


def test_one_compile_per_signature() -> None:
    net = Scaled()
    for k in range(4):
        np.testing.assert_allclose(net(X, 0.5 * k).asnumpy(), X.asnumpy() * k)
    net(Tensor([[1.0]]))
    net(X, 0.5)
    net(X, 0.5, False)
    net(X.astype(ms.float16), 0.5, False)
    assert reasons(net) == [
        "first call",
        "arguments (x, lr) -> (x)",
        "arguments (x, lr) -> (x, lr, flag)",
        "argument x: f32[2] -> f16[2]",
    ]
    assert net.calls.asnumpy() == 8
    assert net.compile_cache.explain().splitlines()[0].startswith("1. first call: (x: f32[2], lr: float) (")


def test_signature_of_constants_and_containers() -> None:
    @ms.jit
    def f(x: Any, n: int, pair: Any = (), **more: Any) -> Any:
        return x * n + sum(pair) + (0 if not more else more["z"])

    f(X, 2)
    f(X, 3)
    f(X, 3, (X, Y))
    f(X, 3, [X, Y])
    f(X, 3, [Y, X])
    f(X, 3, z=Y)
    assert reasons(f)[:3] == ["first call", "argument n: 2 -> 3", "arguments (x, n) -> (x, n, pair)"]
    assert reasons(f)[3] == "argument pair: (f32[2], f32[2]) -> [f32[2], f32[2]]"
    assert f.compile_cache.compiles == 5


def test_float_arguments_are_weak() -> None:
    @ms.jit
    def f(x: Tensor, a: float) -> Tensor:
        return x * a + 2 * a

    assert f(X.astype(ms.float16), 0.5).dtype is ms.float16
    assert ms.jit(lambda x, a: ops.mul(x, ops.exp(a)))(X.astype(ms.float16), 0.5).dtype is ms.float32
    assert ms.jit(lambda x, a: ops.mul(x, a.exp()))(X.astype(ms.float16), 0.5).dtype is ms.float16
    assert f(Tensor([2], ms.int32), 0.5).dtype is ms.float32
    assert f(X.astype(ms.float64), 0.1).dtype is ms.float64


def test_float_whose_value_is_asked_for() -> None:
    @ms.jit
    def f(x: Tensor, p: float) -> Tensor:
        return x * 2 if p > 0.5 else x

    np.testing.assert_array_equal(f(X, 0.9).asnumpy(), [2, 4])
    np.testing.assert_array_equal(f(X, 0.1).asnumpy(), [1, 2])
    f(X, 0.9)
    assert reasons(f) == ["first call", "argument p: 0.9 -> 0.1"]


def test_changed_attribute_is_traced_again() -> None:
    net = Scaled()
    net(X)
    net.factor = 3.0
    np.testing.assert_array_equal(net(X).asnumpy(), [3, 6])
    net.factor = 3.0
    net(X)
    assert reasons(net) == ["first call", "attribute factor of Scaled: 2.0 -> 3.0"]


def test_another_cell_changes_nothing() -> None:
    net, other = Scaled(), Scaled()
    net(X)
    other(X)
    other.factor = 5.0
    Scaled()
    net(X)
    assert net.compile_cache.compiles == 1


def test_training_state_is_part_of_the_signature() -> None:
    class Moody(nn.Cell):
        def construct(self, x: Tensor) -> Tensor:
            return x * 2 if self.training else x

    net = nn.SequentialCell(Moody())
    for _ in range(3):
        np.testing.assert_array_equal(net.set_train()(X).asnumpy(), [2, 4])
        np.testing.assert_array_equal(net.set_train(False)(X).asnumpy(), [1, 2])
    assert reasons(net) == ["first call", "training of SequentialCell: True -> False"]


def test_captured_tensor_that_changes() -> None:
    scale = Tensor([2.0, 2.0])
    f = ms.jit(lambda x: x * scale)
    np.testing.assert_array_equal(f(X).asnumpy(), [2, 4])
    scale[0] = 5.0
    np.testing.assert_array_equal(f(X).asnumpy(), [5, 4])
    assert reasons(f) == ["first call", "a captured Tensor was changed"]


def test_replaced_parameter_and_requires_grad() -> None:
    net = NetXYZ()
    grad = ops.GradOperation(get_by_list=True)(net, net.z)
    assert grad(X, Y).asnumpy() == 19
    net.z.requires_grad = False
    assert grad(X, Y).asnumpy() == 0
    net(X, Y)
    net.z = Parameter(Tensor([3.0]), name="z")
    np.testing.assert_array_equal(net(X, Y).asnumpy(), [9, 48])
    assert reasons(grad)[1] == "Parameter z was changed"


def test_parameters_see_each_others_updates() -> None:
    class Swap(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.a = Parameter(Tensor([1.0]), name="a")
            self.b = Parameter(Tensor([2.0]), name="b")

        def construct(self) -> Any:
            before = self.a * 1
            self.a.set_data(self.b)
            self.b.set_data(before)
            return self.a, self.b

    for mode in (ms.GRAPH_MODE, ms.PYNATIVE_MODE):
        ms.set_context(mode=mode)
        net = Swap()
        a, b = net()
        assert (a.asnumpy(), b.asnumpy()) == (2, 1)
        net()
        assert (net.a.asnumpy(), net.b.asnumpy()) == (1, 2)


def test_item_assignment_to_a_parameter() -> None:
    p = Parameter(Tensor([1.0, 2.0, 3.0]), name="p")

    @ms.jit
    def f(x: Tensor) -> Tensor:
        p[1:] = x
        return p * 2

    np.testing.assert_array_equal(f(Tensor([7.0, 8.0])).asnumpy(), [2, 14, 16])
    np.testing.assert_array_equal(p.asnumpy(), [1, 7, 8])


def test_results_keep_their_structure() -> None:
    constant = Tensor([9.0])

    @ms.jit
    def f(x: Tensor) -> Any:
        return {"a": (x, [x + 1, None, 3]), "b": "text", "c": constant, "same": x}

    result = f(X)
    assert result["a"][1][1:] == [None, 3] and result["b"] == "text" and result["c"] is constant
    np.testing.assert_array_equal(result["a"][1][0].asnumpy(), [2, 3])
    np.testing.assert_array_equal(result["same"].asnumpy(), X.asnumpy())


def test_truth_of_a_traced_tensor() -> None:
    class Branch(nn.Cell):
        def construct(self, x: Tensor) -> Tensor:
            if x.sum() > 0:
                return x
            return -x

    net = Branch()
    for given in (X, -X):
        np.testing.assert_array_equal(net(given).asnumpy(), X.asnumpy())
    assert net.compile_cache.compiles == 1
    ms.set_context(mode=ms.PYNATIVE_MODE)
    np.testing.assert_array_equal(Branch()(-X).asnumpy(), X.asnumpy())


@pytest.mark.parametrize("ask", [float, int, np.array, Tensor.asnumpy, Tensor.item, Tensor.tolist])
def test_value_of_a_traced_tensor(ask: Any) -> None:
    with pytest.raises(TraceError, match="needs the value of a tensor while GRAPH_MODE is tracing"):
        ms.jit(lambda x: ask(x.sum()))(X)


def test_value_of_a_parameter_in_a_trace() -> None:
    p = Parameter(Tensor(1.0), name="p")
    with pytest.raises(TraceError, match=r"asnumpy\(\) of Parameter p needs the value"):
        ms.jit(lambda x: x * p.asnumpy())(X)


def test_tensor_that_outlives_its_trace() -> None:
    kept: list[Tensor] = []

    @ms.jit
    def f(x: Tensor) -> Tensor:
        kept.append(x * 2)
        return x

    f(X)
    with pytest.raises(TraceError, match="a tensor of a finished trace has no value"):
        ms.jit(lambda x: x + kept[0])(X)
    with pytest.raises(TraceError):
        kept[0].asnumpy()


def test_iteration_and_constants_fold_in_a_trace() -> None:
    @ms.jit
    def f(x: Tensor) -> Tensor:
        total = x[0] * 0
        for row in x:
            total = total + row
        limit = Tensor(3) * 2
        return total * 2 if limit > 5 else total

    np.testing.assert_array_equal(f(Tensor([[1.0, 2.0], [3.0, 4.0]])).asnumpy(), [8, 12])


def test_refused_arguments() -> None:
    net = Scaled()
    for mode in (ms.GRAPH_MODE, ms.PYNATIVE_MODE):
        ms.set_context(mode=mode)
        with pytest.raises(TypeError) as caught:
            net(np.ones((2, 3), np.float32))
        lines = str(caught.value).splitlines()
        assert lines[0] == "Scaled: argument x must be a Tensor, found a numpy array of shape (2, 3) and dtype float32"
        assert lines[1].startswith("  called at test_trace.py:")
        assert lines[2] == "  hint: wrap it: Tensor(array), or Tensor.from_numpy(array) to share its memory"
        with pytest.raises(TypeError, match="Scaled: missing a required argument: 'x'"):
            net()
        with pytest.raises(TypeError, match="Scaled: too many positional arguments"):
            net(X, 1.0, True, None, 5)
        with pytest.raises(TypeError, match="Scaled: got an unexpected keyword argument 'y'"):
            net(X, y=1)
    assert net.calls.asnumpy() == 0


def test_failing_trace_leaves_parameters_and_can_be_repeated() -> None:
    class Bad(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.p = Parameter(Tensor([1.0, 2.0]), name="p")

        def construct(self, x: Tensor) -> Tensor:
            self.p.set_data(self.p * 2)
            return x + self.p

    net = Bad()
    with pytest.raises(ValueError, match="add: shapes do not broadcast together"):
        net(Tensor([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(net.p.asnumpy(), [1, 2])
    np.testing.assert_array_equal(net(X).asnumpy(), [3, 6])
    assert net.compile_cache.compiles == 1


def test_empty_batches_and_nan() -> None:
    net = Scaled()
    assert net(Tensor(np.zeros((0, 3), np.float32))).shape == (0, 3)
    assert np.isnan(net(Tensor([float("nan")])).asnumpy()).all()


def test_where_names_the_cell() -> None:
    class Inner(nn.Cell):
        def construct(self, x: Tensor) -> Tensor:
            return x + Tensor([1.0, 2.0, 3.0])

    class Outer(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.SequentialCell(Inner())

        def construct(self, x: Tensor) -> Tensor:
            return self.body(x)

    with pytest.raises(ValueError, match=r"called at test_trace.py:\d+ in body.0"):
        Outer()(X)


def test_jit_of_a_method() -> None:
    class Net(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.k = 2

        @ms.jit(jit_level="O1")
        def construct(self, x: Tensor) -> Tensor:
            return x * self.k

    ms.set_context(mode=ms.PYNATIVE_MODE)
    net = Net()
    np.testing.assert_array_equal(net(X).asnumpy(), [2, 4])
    net.k = 3
    np.testing.assert_array_equal(net(X).asnumpy(), [3, 6])
    assert Net.construct.compile_cache.compiles == 2


def test_jit_options() -> None:
    with pytest.raises(ValueError, match="jit: jit_level must be one of"):
        ms.jit(jit_level="O9")
    with pytest.raises(TypeError, match="jit: expected a function, found 3 of type int"):
        ms.jit(3)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("keywords", "kind", "text"),
    [
        ({"mode": 3}, ValueError, "set_context: mode must be GRAPH_MODE (0) or PYNATIVE_MODE (1), found 3"),
        ({"mode": "a"}, TypeError, "set_context: mode must be int, found 'a' of type str"),
        ({"device_target": "GPU"}, ValueError,
         "set_context: device_target must be 'CPU', the only device graphopt compiles for, found 'GPU'"),
        ({"save_graphs": 5}, ValueError, "set_context: save_graphs must be one of False, True, 0, 1, 2, 3, found 5"),
        ({"max_call_depth": 0}, ValueError, "set_context: max_call_depth must be >= 1, found 0"),
        ({"device_id": -1}, ValueError, "set_context: device_id must be >= 0, found -1"),
        ({"jit_config": {"a": "O0"}}, ValueError,
         "set_context: jit_config may hold jit_level: O0, O1, O2; infer_boost: on, off; found 'a': 'O0'"),
    ],
)  # fmt: skip
def test_context_errors(keywords: dict[str, Any], kind: type[BaseException], text: str) -> None:
    with pytest.raises(kind) as caught:
        ms.set_context(**keywords)
    assert str(caught.value).split("\n  called at test_trace.py:")[0] == text
    assert ms.get_context("mode") == ms.GRAPH_MODE


def test_unknown_context_keywords() -> None:
    with pytest.raises(ValueError, match="set_context: unknown keyword 'foo'"):
        ms.set_context(foo=1)
    with pytest.raises(ValueError, match="get_context: unknown keyword 'foo'"):
        ms.get_context("foo")
    with pytest.raises(ValueError, match="unknown keyword"):
        ms.set_context(mode=ms.PYNATIVE_MODE, foo=1)
    assert ms.get_context("mode") == ms.GRAPH_MODE
