"""vjp, jvp, jacrev, jacfwd and vmap: values in any nesting, structures, state, errors, in both modes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from nets import NetBprop, NetXYZ

import graphopt as ms
from graphopt import Parameter, Tensor, nn, ops
from graphopt.ir.graph import walk
from graphopt.passes.pipeline import optimize


@pytest.fixture(params=[ms.PYNATIVE_MODE, ms.GRAPH_MODE], ids=["pynative", "graph"], autouse=True)
def mode(request: pytest.FixtureRequest) -> Iterator[int]:
    ms.set_context(mode=request.param)
    yield request.param
    ms.set_context(mode=ms.PYNATIVE_MODE)


RNG = np.random.default_rng(0)
A = RNG.normal(size=(3,))
M = RNG.normal(size=(4, 3))


def t(values: Any, dtype: Any = ms.float64) -> Tensor:
    return Tensor(np.asarray(values), dtype)


def quartic(x: Tensor) -> Tensor:
    """sum(x^4) + (sum x)^3: Hessian 12 x^2 on the diagonal plus 6 sum(x) everywhere."""
    return (x * x * x * x).sum() + x.sum() ** 3


def hessian(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.diag(12 * x**2) + 6 * x.sum())


def close(found: Tensor, expected: Any, tolerance: float = 1e-12) -> None:
    assert found.shape == np.shape(expected)
    np.testing.assert_allclose(found.asnumpy(), expected, rtol=tolerance, atol=tolerance)


# nesting


@pytest.mark.parametrize("outer", [ms.jacfwd, ms.jacrev])
@pytest.mark.parametrize("inner", [ms.jacfwd, ms.jacrev, ms.grad])
def test_hessian_by_any_nesting(outer: Any, inner: Any) -> None:
    close(outer(inner(quartic))(t(A)), hessian(A))


def test_hessian_vector_product_by_any_nesting() -> None:
    v = RNG.normal(size=3)
    expected = hessian(A) @ v
    close(ms.jvp(ms.grad(quartic), t(A), t(v))[1], expected)
    close(ms.grad(lambda x: ms.jvp(quartic, x, t(v))[1])(t(A)), expected)
    close(ms.grad(lambda x: (ms.grad(quartic)(x) * t(v)).sum())(t(A)), expected)
    close(ms.vjp(ms.grad(quartic), t(A))[1](t(v))[0], expected)
    close(ms.jvp(lambda x: ms.vjp(quartic, x)[1](t(1.0))[0], t(A), t(v))[1], expected)


def test_third_derivatives() -> None:
    third = ms.jacfwd(ms.jacrev(ms.jacfwd(quartic)))(t(A)).asnumpy()
    expected = np.full((3, 3, 3), 6.0)
    for k in range(3):
        expected[k, k, k] += 24 * A[k]
    np.testing.assert_allclose(third, expected, rtol=1e-12)


def test_vmap_of_derivatives_and_derivatives_of_vmap() -> None:
    every = np.stack([hessian(row) for row in M])
    close(ms.vmap(ms.jacfwd(ms.grad(quartic)))(t(M)), every)
    close(ms.grad(lambda x: ms.vmap(quartic)(x).sum())(t(M)), 4 * M**3 + 3 * M.sum(1, keepdims=True) ** 2)
    full = ms.jacrev(ms.vmap(ms.grad(quartic)))(t(M)).asnumpy()
    np.testing.assert_allclose(np.einsum("kikj->kij", full), every, rtol=1e-12)
    close(ms.vmap(lambda v: ms.jvp(ms.grad(quartic), t(A), v)[1])(t(np.eye(3))), hessian(A))
    close(ms.vmap(ms.vmap(lambda x, y: x * y, (None, 0)), (0, None))(t(A), t(M[0])), np.outer(A, M[0]))


def test_inside_a_compiled_cell() -> None:
    """A network whose output is a Laplacian, and the gradient of that by its weights."""

    class Laplace(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.w = Parameter(t(M), name="w")

        def field(self, x: Tensor) -> Tensor:
            return ops.tanh(ops.matmul(self.w, x)).sum()

        def construct(self, points: Tensor) -> Tensor:
            second = ms.vmap(ms.jacfwd(ms.jacrev(self.field)))(points)
            return (second * t(np.eye(3))).sum()

    net, points = Laplace(), RNG.normal(size=(5, 3))

    def expected(w: np.ndarray) -> float:
        y = np.tanh(points @ w.T)
        return float((-2 * y * (1 - y**2) * (w**2).sum(1)).sum())

    close(net(t(points)), expected(M))
    gradient = ops.GradOperation(get_by_list=True)(net)(t(points))[0].asnumpy()
    h = 1e-5
    for place in np.ndindex(4, 3):
        step = np.zeros((4, 3))
        step[place] = h
        np.testing.assert_allclose(gradient[place], (expected(M + step) - expected(M - step)) / (2 * h), rtol=1e-7)


# vjp


def test_vjp_gives_the_structure_of_its_inputs_and_weights() -> None:
    net = NetXYZ()
    x, y = Tensor([1.0, 2.0]), Tensor([3.0, 4.0])
    _, back = ms.vjp(net, x, y, weights=ms.ParameterTuple(net.trainable_params()))
    inputs, weights = back(Tensor([1.0, 1.0]))
    assert [g.asnumpy().tolist() for g in inputs] == [[12.0, 32.0], [2.0, 8.0]]
    assert [g.asnumpy().tolist() for g in weights] == [[19.0], [0.0]]
    _, back = ms.vjp(net, x, y, weights=net.z)
    assert back(Tensor([1.0, 1.0]))[1].asnumpy().tolist() == [19.0]
    _, back = ms.vjp(lambda p, q: p[0] * p[1] + q, (x, y), x)
    (dx, dy), dq = back(Tensor([1.0, 10.0]))
    assert [g.asnumpy().tolist() for g in (dx, dy, dq)] == [[3.0, 40.0], [1.0, 20.0], [1.0, 10.0]]


def test_vjp_aux() -> None:
    x = Tensor([1.0, 2.0])
    out, back, aux = ms.vjp(lambda a: (a * a, a + 1), x, has_aux=True)
    assert aux.asnumpy().tolist() == [2.0, 3.0] and out.asnumpy().tolist() == [1.0, 4.0]
    assert back(Tensor([1.0, 1.0]))[0].asnumpy().tolist() == [2.0, 4.0]
    _, _, aux = ms.vjp(lambda a: (a * a, a + 1, a + 2), x, has_aux=True)
    assert [v.asnumpy().tolist() for v in aux] == [[2.0, 3.0], [3.0, 4.0]]
    with pytest.raises(ValueError, match="must return a tuple of 2 or more"):
        ms.vjp(lambda a: a, x, has_aux=True)


def test_vjp_belongs_to_the_values_it_was_made_with() -> None:
    """Writing to inputs and Parameters, and calling it again, changes nothing."""
    w = Parameter(Tensor([2.0, 3.0]), name="w")
    x = Tensor([1.0, 2.0])
    _, back = ms.vjp(lambda a: a * a * w, x, weights=w)
    w.set_data(Tensor([0.0, 0.0]))
    x.assign_value(Tensor([9.0, 9.0]))
    for _ in range(2):
        (dx,), dw = back(Tensor([1.0, 1.0]))
        assert dx.asnumpy().tolist() == [4.0, 12.0] and dw.asnumpy().tolist() == [1.0, 4.0]
    assert w.asnumpy().tolist() == [0.0, 0.0]


def test_a_functions_updates_happen_once() -> None:
    count = Parameter(Tensor([0.0]), name="count", requires_grad=False)

    def f(a: Tensor) -> Tensor:
        ops.assign_add(count, Tensor([1.0]))
        return a * count

    _, back = ms.vjp(f, Tensor([3.0]))
    assert back(Tensor([1.0]))[0].asnumpy().tolist() == [1.0]
    assert back(Tensor([1.0]))[0].asnumpy().tolist() == [1.0]
    assert count.asnumpy().tolist() == [1.0]
    ms.jvp(f, Tensor([3.0]), Tensor([1.0]))
    ms.jacrev(f)(Tensor([3.0]))
    assert count.asnumpy().tolist() == [3.0]


def test_a_vjp_of_another_trace_is_refused() -> None:
    _, back = ms.vjp(lambda a: a * a, Tensor([3.0]))
    with pytest.raises(RuntimeError, match="made outside of the Cell or gradient function"):
        ms.grad(lambda v: back(v)[0])(Tensor([1.0]))


# derivatives of one's own


def test_own_derivatives_in_forward_mode_and_under_vmap() -> None:
    """NetBprop says dx = 100 dout + out, dy = dout x, which is no linear map; this Cell's is one."""

    class Scaled(nn.Cell):
        def construct(self, x: Tensor, y: Tensor) -> Tensor:
            return ops.tanh(x) * y

        def bprop(self, x: Tensor, y: Tensor, out: Tensor, dout: Tensor) -> Any:
            return dout * y * 3, dout * out

    net, x, y = Scaled(), M[0], M[1]
    out = np.tanh(x) * y
    close(ms.jvp(net, (t(x), t(y)), (t(A), t(A)))[1], 3 * y * A + out * A)
    for jacobian in (ms.jacfwd, ms.jacrev):
        dx, dy = jacobian(net, (0, 1))(t(x), t(y))
        close(dx, np.diag(3 * y))
        close(dy, np.diag(out))
    # The rule is code: d(3 dout y)/dy = 3 dout, and through out once more by the rule itself.
    close(ms.jacfwd(ms.grad(net, 0), 1)(t(x), t(y)), np.diag([3.0] * 3))
    close(ms.jacfwd(ms.grad(net, 1), 0)(t(x), t(y)), np.diag(3 * y))
    rows = ms.vmap(net, (0, None))
    close(rows(t(M), t(y)), np.tanh(M) * y)
    dx, dy = ms.grad(lambda a, b: rows(a, b).sum(), (0, 1))(t(M), t(y))
    close(dx, np.broadcast_to(3 * y, (4, 3)))
    close(dy, (np.tanh(M) * y).sum(0))
    close(ms.vmap(ms.grad(net), (0, None))(t(M), t(y)), np.broadcast_to(3 * y, (4, 3)))
    with pytest.raises(RuntimeError, match="must be linear in the gradient it receives"):
        ms.jvp(NetBpropSquare(), t(A), t(A))
    close(ms.jvp(NetBprop(), (t(x), t(y)), (t(A), t(0 * A)))[1], 100 * A)


class NetBpropSquare(nn.Cell):
    """A derivative that is no linear map."""

    def construct(self, x: Tensor) -> Tensor:
        return x

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> Any:
        return (dout * dout,)


def test_custom_vjp() -> None:
    @ms.custom_vjp
    def clipped(x: Tensor, low: float) -> Tensor:
        """Between low and 1."""
        return ops.clamp(x, low, 1.0)

    with pytest.raises(TypeError, match="clipped: custom_vjp without a derivative; give one with .defbwd"):
        ms.grad(clipped)(t(A), 0.0)

    @clipped.defbwd
    def straight(x: Tensor, low: float, out: Tensor, dout: Tensor) -> Any:
        return dout * x, None

    close(clipped(t(A), 0.0), np.clip(A, 0, 1))
    close(ms.grad(clipped)(t(A), 0.0), A)
    close(ms.jacfwd(ms.grad(clipped))(t(A), 0.0), np.eye(3))
    close(ms.jvp(lambda x: clipped(x, 0.0), t(A), t(M[0]))[1], A * M[0])
    close(ms.vmap(ms.grad(clipped), (0, None))(t(M), 0.0), M)
    assert clipped.__doc__ == "Between low and 1."
    for wrong in (lambda: ms.custom_vjp(3), lambda: clipped.defbwd(3)):
        with pytest.raises(TypeError, match="found 3"):
            wrong()


def test_functions_with_forward_and_backward() -> None:
    class Scaled(ms._Function):
        @staticmethod
        def forward(ctx: Any, a: Tensor, b: Tensor, k: float) -> Any:
            ctx.save_for_backward(a, b)
            ctx.k = k
            assert ctx.needs_input_grad == (True, True, False)
            return a * b * k, a + b

        @staticmethod
        def backward(ctx: Any, first: Tensor, second: Tensor) -> Any:
            a, b = ctx.saved_tensors
            return first * b * ctx.k * 10, first * a * ctx.k + second, None

    def f(a: Tensor, b: Tensor) -> Tensor:
        product, total = Scaled.apply(a, b, 2.0)
        return product + total

    close(f(t(A), t(M[0])), 2 * A * M[0] + A + M[0])
    da, db = ms.grad(f, (0, 1))(t(A), t(M[0]))
    close(da, 20 * M[0])
    close(db, 2 * A + 1)
    close(ms.jvp(f, (t(A), t(M[0])), (t(M[1]), t(M[2])))[1], 20 * M[0] * M[1] + (2 * A + 1) * M[2])
    close(ms.jacrev(ms.grad(f, 0), 1)(t(A), t(M[0])), 20 * np.eye(3))

    class Few(ms._Function):
        @staticmethod
        def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
            return a * b

        @staticmethod
        def backward(ctx: Any, dout: Tensor) -> Any:
            return dout

    with pytest.raises(RuntimeError, match=r"Few.backward: expected 2 gradients, found 1"):
        ms.grad(Few.apply)(t(A), t(A))
    with pytest.raises(NotImplementedError, match="define a static forward"):
        ms._Function.apply(t(A))


def test_jvp_and_vjp_as_cells() -> None:
    def f(x: Tensor, y: Tensor) -> Tensor:
        return x**3 + y

    v = t(M[1])
    out, slope = nn.Jvp(f)(t(A), t(M[0]), (v, v))
    close(out, A**3 + M[0])
    close(slope, 3 * A**2 * M[1] + M[1])
    close(nn.Jvp(lambda x: x**3)(t(A), v)[1], 3 * A**2 * M[1])
    _, (dx, dy) = nn.Vjp(f)(t(A), t(M[0]), v)
    close(dx, 3 * A**2 * M[1])
    close(dy, M[1])
    close(nn.Vjp(lambda x: x**3)(t(A), v)[1], 3 * A**2 * M[1])
    for kind in (nn.Jvp, nn.Vjp):
        with pytest.raises(TypeError, match="fn must be a Cell or a function, found 3"):
            kind(3)


def test_insert_gradient_of_is_transposed_too() -> None:
    double = ops.InsertGradientOf(lambda g: g * 2)
    close(ms.jvp(lambda x: double(x) * 3, t(A), t(M[0]))[1], 6 * M[0])


# vmap


def example_net(x: Tensor, w: Tensor, k: Tensor) -> Any:
    """Contraction, softmax, reduction, indexing and a branch, of one example."""
    h = ops.softmax(ops.matmul(w, x), -1)
    best = ops.gather(h, k, 0)
    return ops.where(x > 0, x, -x).sum() + best, {"h": h, "top": h.max()}


def one_by_one(in_axes: tuple[Any, ...], args: tuple[np.ndarray, ...], size: int) -> list[Any]:
    results = []
    for i in range(size):
        row = [a if axis is None else np.take(a, i, axis) for axis, a in zip(in_axes, args, strict=True)]
        results.append(example_net(*(Tensor(np.asarray(a)) for a in row)))
    return results


@pytest.mark.parametrize("in_axes", [(0, None, None), (1, 0, 0), (-1, 2, None), (None, None, 0), (None, -2, None)])
def test_vmap_is_a_loop(in_axes: tuple[Any, ...]) -> None:
    size, shapes = 5, ((3,), (4, 3), ())
    args = []
    for axis, shape in zip(in_axes, shapes, strict=True):
        place = None if axis is None else axis % (len(shape) + 1)
        full = shape if place is None else (*shape[:place], size, *shape[place:])
        args.append(RNG.normal(size=full) if len(args) < 2 else RNG.integers(0, 4, full).astype(np.int32))
    total, parts = ms.vmap(example_net, in_axes, (0, (-1, 0)))(*map(Tensor, args))
    results = one_by_one(in_axes, tuple(args), size)
    close(total, np.stack([r[0].asnumpy() for r in results]))
    close(parts["h"], np.stack([r[1]["h"].asnumpy() for r in results], -1))
    close(parts["top"], np.stack([r[1]["top"].asnumpy() for r in results]))


def test_vmap_structures() -> None:
    x, w = t(M), t(A)
    close(ms.vmap(lambda p, q: p[0] * p[1] + q, ((0, None), None))((x, w), w), M * A + A)
    close(ms.vmap(lambda p: p[0] * p[1])((x, x)), M * M)
    close(ms.vmap(lambda a, b: a * b, [0, None])(x, w), M * A)
    first, second = ms.vmap(lambda a: (a, w), out_axes=(1, None))(x)
    close(first, M.T)
    close(second, A)
    close(ms.vmap(lambda a: w)(x), np.broadcast_to(A, (4, 3)))
    _, nothing, number = ms.vmap(lambda a: (a, None, 2))(x)
    assert nothing is None and number.asnumpy().tolist() == [2] * 4
    close(ms.vmap(lambda a, c: a * c, (0, None))(x, 2.0), 2 * M)
    close(ms.ops.vmap(lambda a: a.sum(), 1)(x), M.sum(0))


def test_vmap_of_cells_and_of_lists_of_cells() -> None:
    x = Tensor(RNG.normal(size=(5, 3)).astype(np.float32))
    dense = nn.Dense(3, 4)
    close(ms.vmap(dense)(x), dense(x).asnumpy(), 1e-6)
    image = Tensor(RNG.normal(size=(5, 2, 3, 8, 8)).astype(np.float32))
    conv = nn.Conv2d(3, 4, 3)
    close(ms.vmap(conv)(image), np.stack([conv(image[k]).asnumpy() for k in range(5)]), 1e-5)
    cells = nn.CellList([nn.Dense(3, 4) for _ in range(5)])
    every = np.stack([cells[k](x[k]).asnumpy() for k in range(5)])
    close(ms.vmap(cells)(x), every, 1e-6)
    close(ms.vmap(cells, None, 1)(x[0]), np.stack([cells[k](x[0]).asnumpy() for k in range(5)], 1), 1e-6)
    gradients = ms.grad(lambda a: ms.vmap(cells)(a).sum(), 0, cells.trainable_params())(x)[1]
    assert len(gradients) == 10


def test_per_example_gradients_of_weights() -> None:
    """What differential privacy needs: the norm of every example's gradient."""
    net, loss = nn.Dense(3, 2), nn.MSELoss()
    x, y = RNG.normal(size=(6, 3)).astype(np.float32), RNG.normal(size=(6, 2)).astype(np.float32)
    gradient = ms.grad(lambda a, b: loss(net(a), b), None, net.trainable_params())
    every = ms.vmap(gradient)(Tensor(x), Tensor(y))
    for k in range(6):
        for found, expected in zip(every, gradient(Tensor(x[k]), Tensor(y[k])), strict=True):
            np.testing.assert_allclose(found.asnumpy()[k], expected.asnumpy(), rtol=1e-5, atol=1e-6)


def test_gradients_that_are_rows() -> None:
    """The gradient of a table of which a few rows are read: dense where rows differ from example to example."""
    table = nn.EmbeddingLookup(10, 3)
    (weight,) = table.trainable_params()
    ids = np.array([[1, 2], [3, 3]], np.int32)
    gradient = ms.grad(lambda i: (table(i) ** 2).sum(), None, weight)
    expected = np.zeros((2, 10, 3), np.float32)
    for k, i in np.ndindex(2, 2):
        expected[k, ids[k, i]] += 2 * weight.asnumpy()[ids[k, i]]
    close(ms.vmap(gradient)(Tensor(ids)), expected, 1e-6)
    whole = ms.grad(lambda i: ms.vmap(lambda row: (table(row) ** 2).sum())(i).sum(), None, weight)(Tensor(ids))
    assert isinstance(whole, ms.RowTensor)
    close(whole.to_dense(), expected.sum(0), 1e-6)
    _, back = ms.vjp(lambda i: (table(i) ** 2).sum(), Tensor(ids), weights=weight)
    close(back(Tensor(1.0))[1].to_dense(), expected.sum(0), 1e-6)
    _, slope = ms.jvp(lambda s: gradient(Tensor(ids[0])).to_dense() * s, Tensor(2.0), Tensor(1.0))
    close(slope, expected[0], 1e-6)
    _, slope = ms.jvp(
        lambda s: ms.grad(lambda i: (table(i) ** 2).sum() * s, None, weight)(Tensor(ids[0])), Tensor(2.0), Tensor(1.0)
    )
    close(slope, expected[0], 1e-6)


def test_parameters_may_be_assigned_what_is_the_same_for_all() -> None:
    p = Parameter(Tensor([0.0]), name="p")

    def counts(x: Tensor) -> Tensor:
        ops.assign_add(p, Tensor([1.0]))
        return x * p.value()

    close(ms.vmap(counts)(Tensor([[1.0], [2.0]])), [[1.0], [2.0]])
    assert p.asnumpy().tolist() == [1.0]
    with pytest.raises(RuntimeError, match="Parameter p is assigned a value of its own for each example"):
        ms.vmap(lambda x: ops.assign_add(p, x))(Tensor([[1.0], [2.0]]))
    assert p.asnumpy().tolist() == [1.0]


def test_an_example_has_no_value(mode: int) -> None:
    """In PYNATIVE_MODE a branch asks for it; in GRAPH_MODE it becomes a choice."""

    def magnitude(x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x

    if mode == ms.GRAPH_MODE:
        close(ms.vmap(magnitude)(t(M)), M * np.sign(M.sum(1, keepdims=True)))
        close(ms.vmap(ms.grad(lambda x: magnitude(x).sum()))(t(M)), np.sign(M.sum(1, keepdims=True)) * np.ones((4, 3)))
        return
    with pytest.raises(RuntimeError, match="needs the value of a tensor that stands for many"):
        ms.vmap(magnitude)(t(M))


def test_compiled_once_per_signature() -> None:
    if ms.get_context("mode") != ms.GRAPH_MODE:
        return

    def f(x: Tensor) -> Tensor:
        return x * x

    for _ in range(3):
        ms.vmap(f)(t(M))
        ms.jacrev(f)(t(A))
        ms.jvp(f, t(A), t(A))
    assert ms.vmap(f).compile_cache.compiles == 1
    assert ms.jacrev(f).compile_cache.compiles == 1


# errors


X, Y = Tensor([1.0, 2.0]), Tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def both(a: Tensor, b: Tensor) -> Tensor:
    return a + b


MISTAKES: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: ms.vjp(both, X, 2.0), TypeError, r"vjp: inputs\[1\] must be a Tensor, or a tuple of them"),
    (lambda: ms.vjp(3, X), TypeError, "vjp: fn must be a Cell or a function"),
    (lambda: ms.vjp(both, X, X, has_aux=1), TypeError, "has_aux"),
    (lambda: ms.vjp(both, X, X)[1](Tensor([1.0])), ValueError, r"expected shape \(2,\)"),
    (lambda: ms.vjp(both, X, X)[1](X, X), TypeError, "the gradient of one output, found 2"),
    (lambda: ms.vjp(lambda a: (a, a), X)[1](X), TypeError, "expected a tuple of 2, one for each output, found 1"),
    (lambda: ms.jvp(both, (X, X), (X,)), ValueError, "jvp: v must have one Tensor for each of the 2 inputs, found 1"),
    (lambda: ms.jvp(both, (X, 1.0), (X, X)), TypeError, r"jvp: inputs\[1\] must be a Tensor"),
    (lambda: ms.jvp(both, (X, X), (X, Tensor([1.0]))), ValueError, r"v\[1\]: expected shape \(2,\), that of the input"),
    (lambda: ms.jvp(both, (X, X), (X, X.astype(ms.float64))), TypeError, r"v\[1\]: expected dtype Float32"),
    (lambda: ms.jvp(both, X, X, "no"), TypeError, "has_aux"),
    (lambda: ms.jacrev(both, -1), ValueError, "grad_position must be >= 0"),
    (lambda: ms.jacfwd(both, (0, 0)), ValueError, "each once"),
    (lambda: ms.jacfwd(both, 0.5), TypeError, "grad_position must be int or a tuple of ints"),
    (lambda: ms.jacfwd(both, 2)(X, X), ValueError, "grad_position 2 is beyond the 2 arguments of both"),
    (lambda: ms.jacrev(both, 1)(X, 2.0), TypeError, "argument 1 must be a Tensor"),
    (lambda: ms.vmap(3), TypeError, "vmap: fn must be a Cell, a function or a CellList"),
    (lambda: ms.vmap(both, 0.5), RuntimeError, "vmap: in_axes must hold ints and None, found 0.5"),
    (lambda: ms.vmap(both, True), RuntimeError, "in_axes must hold ints and None"),
    (lambda: ms.vmap(both, out_axes="0"), RuntimeError, "out_axes must hold ints and None"),
    (lambda: ms.vmap(both, (None, None)), RuntimeError, "in_axes must name an axis of some argument"),
    (lambda: ms.vmap(both, None), RuntimeError, "in_axes must name an axis of some argument"),
    (lambda: ms.vmap(both, (0,))(Y, Y), RuntimeError, "in_axes has 1 entries for 2 arguments"),
    (lambda: ms.vmap(both, (2, 0))(Y, Y), RuntimeError, r"axis 2 of argument 0 in in_axes is outside -2\.\.1"),
    (lambda: ms.vmap(both)(X, Y), RuntimeError, r"different numbers of examples: 2 \(argument 0\) and 3 \(argument 1\)"),
    (lambda: ms.vmap(both, out_axes=3)(Y, Y), RuntimeError, "axis 3 of a result in out_axes"),
    (lambda: ms.vmap(both, out_axes=None)(Y, Y), RuntimeError, "out_axes is None for a result that differs"),
    (lambda: ms.vmap(both, out_axes=(0, 0))(Y, Y), RuntimeError, "stands for a result that is no container"),
    (lambda: ms.vmap(lambda a: (a, a), out_axes=(0,))(Y), RuntimeError, "out_axes has 1 entries for a container of 2"),
    (lambda: ms.vmap(both, (0, (0,)))(Y, Y), RuntimeError, "stands for argument 1, which is no container"),
    (lambda: ms.vmap(both)(Y, 2), RuntimeError, "argument 1 must be a Tensor, as in_axes names axis 0 of it"),
    (lambda: ms.vmap(both)(Tensor(1.0), Y), RuntimeError, "axis 0 of argument 0"),
    (lambda: ms.vmap(both)(Y, b=Y), TypeError, "takes positional arguments only"),
    (lambda: ms.vmap(nn.CellList([nn.Dense(2, 2)]))(Y), RuntimeError, "3 examples for 1 Cells"),
]


@pytest.mark.parametrize(("call", "kind", "text"), MISTAKES)
def test_mistakes(call: Callable[[], Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call()


def test_derivatives_of_derivatives_share_what_each_computed() -> None:
    """A network whose slopes by its input are trained: one way back through what all three of them computed."""
    w = ms.Tensor(np.linspace(-1, 1, 16).reshape(4, 4), ms.float32)

    def u(x: Tensor, w: Tensor) -> Tensor:
        return ops.tanh(ops.tanh(x @ w) @ w)

    def loss(w: Tensor, x: Tensor) -> Tensor:
        slope = ms.grad(lambda x: u(x, w).sum())
        bend = ms.grad(lambda x: slope(x).sum())
        return (bend(x) + slope(x) * u(x, w)).sum()

    x = ms.Tensor(np.linspace(0, 1, 12).reshape(3, 4), ms.float32)
    graph = ms.jit(ms.grad(loss)).compile_cache.graph([w, x], {})
    products = [n for n in walk(optimize(graph).roots) if n.op == "dot_general"]
    assert len(products) <= 19
    ms.check_grads(loss, (w, x), order=1)
