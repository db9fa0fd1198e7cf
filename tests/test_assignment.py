"""`x[i] = v` where the position is a traced Tensor: numpy's meaning on every backend, in branches and loops, differentiable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import graphopt as ms
from graphopt import Tensor, config, control, nn
from graphopt.kernel import small
from graphopt.kernel.items import Repeat, kernels_of

A = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.fixture(params=("numpy", "loops", "llvm"))
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(small, "MOST_WORK", 0)
    ms.set_context(mode=ms.GRAPH_MODE)
    with config.override(verify=2, cache="off", backend=request.param):
        yield request.param


WAYS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "[i]": lambda i, j, k: (i,),
    "[:, j]": lambda i, j, k: (slice(None), j),
    "[..., k]": lambda i, j, k: (..., k),
    "[i, j]": lambda i, j, k: (i, j),
    "[i, 1:]": lambda i, j, k: (i, slice(1, None)),
    "[i, ::-1]": lambda i, j, k: (i, slice(None, None, -1)),
    "[1, :, k]": lambda i, j, k: (1, slice(None), k),
    "[i, :, k]": lambda i, j, k: (i, slice(None), k),
    "[i, None, j]": lambda i, j, k: (i, None, j),
    "[i, j, k]": lambda i, j, k: (i, j, k),
    "[i, [0, 2, 2], k]": lambda i, j, k: (i, [0, 2, 2], k),
    "[0, j:=...]": lambda i, j, k: (0, ..., k),
}
PLACES = {
    "0-d": (1, -1, 2),
    "1-d": ([1, 0, -1], [2, -3, 2], [0, 3, -4]),
    "0-d and 1-d": (0, [1, 2, -2], 3),
    "2-d": ([[1], [0]], [[2, 0, -1]], [[0, 1, 2]]),
}


@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_as_numpy(way: str, places: str, dtype: Any) -> None:
    """The value broadcasts; the last of repeated positions counts; `+=` adds once."""
    index = WAYS[way]
    given = [np.array(p, dtype) for p in PLACES[places]]
    try:
        part = A[index(*given)]
    except IndexError:
        pytest.skip("these shapes do not broadcast")
    values = np.random.default_rng(0).normal(size=part.shape).astype(np.float32)

    def put(x: Any, v: Any, i: Any, j: Any, k: Any) -> Any:
        x = x * 1
        x[index(i, j, k)] = v
        x[index(i, j, k)] += 10.0
        return x

    ms.set_context(mode=ms.GRAPH_MODE)
    for v in (values, np.float32(5)):
        expected = A.copy()
        expected[index(*given)] = v
        expected[index(*given)] += np.float32(10)
        found = ms.jit(put)(Tensor(A), Tensor(v), *map(Tensor, given))
        np.testing.assert_array_equal(found.asnumpy(), expected)
        read = ms.jit(lambda x, *p: x[index(*p)])(Tensor(A), *map(Tensor, given))
        np.testing.assert_array_equal(read.asnumpy(), part)


def test_a_traced_mask() -> None:
    def put(x: Any, v: Any) -> Any:
        x[x > 5] = v
        x[x[:, 0, 0] < 3] = v * 2
        return x

    ms.set_context(mode=ms.GRAPH_MODE)
    expected = A.copy()
    expected[expected > 5] = -1
    expected[expected[:, 0, 0] < 3] = -2
    np.testing.assert_array_equal(ms.jit(put)(Tensor(A), Tensor(np.float32(-1))).asnumpy(), expected)
    with pytest.raises(ValueError, match="cannot broadcast shape"):
        ms.jit(put)(Tensor(A), Tensor(np.ones(3, np.float32)))


@pytest.mark.parametrize("position", [2, -3, 100])
def test_an_argument_out_of_range(position: int) -> None:
    def put(x: Any, i: Any) -> Any:
        x[i] = 0.0
        return x

    ms.set_context(mode=ms.GRAPH_MODE)
    with pytest.raises(IndexError, match=f"index {position} is out of range for axis 0 of size 2"):
        ms.jit(put)(Tensor(A), Tensor(position))


class Table(nn.Cell):
    """Counts in a Parameter at positions that the step computes."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = ms.Parameter(Tensor(np.zeros(4, np.float32)), name="counts")

    def construct(self, i: Any) -> Any:
        place = i * 2
        if place >= 0:
            self.counts[place] += 1.0
        return self.counts * 1


def test_a_computed_position_out_of_range_changes_no_parameter(backend: str) -> None:
    net = Table()
    assert net(Tensor(1)).asnumpy().tolist() == [0, 0, 1, 0]
    with pytest.raises(RuntimeError, match="a position is out of range for axis 0 of size 4"):
        net(Tensor(2))
    assert net(Tensor(-100)).asnumpy().tolist() == [0, 0, 1, 0]  # the branch with the assignment is not taken
    assert net.counts.asnumpy().tolist() == [0, 0, 1, 0]


def prefix_sums(n: Any, x: Any) -> Any:
    x = x * 1
    i = n * 0 + 1
    while i < n:
        x[i] += x[i - 1] * 0.5
        i += 1
    return x


def swapped_where_larger(n: Any, x: Any) -> Any:
    for k in range(n - 1):
        if x[k].sum() > x[k + 1].sum():
            low, high = x[k + 1] * 1, x[k] * 1
            x[k] = low
            x[k + 1] = high
        else:
            x[k, 0] *= 2.0
    return x


def columns(n: Any, x: Any) -> Any:
    def body(i: Any, c: Any) -> Any:
        c[:, i] = c[:, i - 1] * c[:, i]
        c[i, 0] = 3.0
        return c

    return control.fori_loop(1, 3, body, x * n)


LOOPS: list[Callable[..., Any]] = [prefix_sums, swapped_where_larger, columns]


@pytest.mark.parametrize("function", LOOPS, ids=lambda f: f.__name__)
def test_in_loops_and_branches(function: Callable[..., Any], backend: str) -> None:
    """As op by op, the gradient too."""
    x = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)

    def loss(n: Any, x: Any) -> Any:
        made = function(n, x * 1.5)
        return (made * made * made).sum()

    n = Tensor(np.int32(4))
    for f in (lambda n, x: function(n, x * 1.0), ms.grad(loss, 1)):
        ms.set_context(mode=ms.PYNATIVE_MODE)
        expected = f(n, Tensor(x)).asnumpy()
        ms.set_context(mode=ms.GRAPH_MODE)
        np.testing.assert_allclose(ms.jit(f)(n, Tensor(x)).asnumpy(), expected, rtol=2e-5, atol=1e-6)


def test_second_derivatives_and_many_examples() -> None:
    def f(x: Any, i: Any) -> Any:
        x = x * 1.0
        x[i] = x[0] * x[1]
        x[0] += (x[i] * x[i]).sum()
        return (x * x).sum()

    i = Tensor([2, 1, 2])
    report = ms.check_grads(lambda x: f(x, i), Tensor(np.array([0.5, -1.5, 2.0])), order=2)
    assert report.worst.off < 1
    xs, places = Tensor(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)), Tensor([0, 1, 2, -1, -3])
    ms.set_context(mode=ms.GRAPH_MODE)
    together = ms.jit(ms.vmap(ms.grad(f)))(xs, places)
    one_by_one = [ms.grad(f)(x, p).asnumpy() for x, p in zip(xs, places, strict=True)]
    np.testing.assert_allclose(together.asnumpy(), np.stack(one_by_one), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("differentiate", [False, True])
def test_a_trip_touches_only_what_it_changes(differentiate: bool) -> None:
    """The work of a trip, forward and backward, does not grow with the array, nor does what is kept of a trip."""

    def f(x: Any) -> Any:
        def body(i: Any, c: Any) -> Any:
            c[i] += c[i - 1] * c[0]
            c[i, 2] = 2.0
            return c

        return (control.fori_loop(1, 9, body, x * 1.0) ** 2).sum()

    def column(x: Any) -> Any:
        return control.fori_loop(1, 4, lambda i, c: put(c, i), x * 1.0).sum()

    def put(c: Any, i: Any) -> Any:
        c[2, i] = c[2, i - 1] * c[0, i]
        c[1] = c[2] * c[0]
        return c

    ms.set_context(mode=ms.GRAPH_MODE)
    for function, shapes in ((f, ((20, 8), (2000, 8))), (column, ((10, 8), (1000, 8)))):
        found = []
        for shape in shapes:
            with config.override(backend="loops", cache="off"):
                compiled = ms.jit(ms.grad(function) if differentiate else function)
                entry, _ = compiled.compile_cache.entry([Tensor(np.ones(shape, np.float32))], {})
            step = entry.compiled.step
            assert step is not None
            found.append([k.work for i in step.items if isinstance(i, Repeat) for k in kernels_of(i.body)])
        assert found[0] == found[1] and found[0]
