"""check_nan="first": what made the first NaN or infinity is named, Parameters stay, sound steps are untouched."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import graphopt as ms
from graphopt import Parameter, Tensor, nn, ops
from graphopt.errors import NonFiniteError
from graphopt.ir.graph import Graph, Node, input_node, state_node, walk
from graphopt.ir.types import TensorType, f32, i32
from graphopt.opdefs.control import items, loop
from graphopt.opdefs.elementwise import gt, select
from graphopt.opdefs.evaluate import evaluate
from graphopt.opdefs.linalg import dot_general, matmul
from graphopt.opdefs.math import tanh
from graphopt.opdefs.opdef import constant, full
from graphopt.opdefs.reduce import reduce_sum
from graphopt.opdefs.rows import scatter_set
from graphopt.opdefs.shape import pad, reshape, slice_, transpose
from graphopt.passes.guard import guarded


@pytest.fixture(params=[ms.PYNATIVE_MODE, ms.GRAPH_MODE], ids=["pynative", "graph"], autouse=True)
def mode(request: pytest.FixtureRequest) -> Iterator[int]:
    ms.set_context(mode=request.param, check_nan="first")
    yield request.param
    ms.set_context(mode=ms.PYNATIVE_MODE, check_nan="off")


class Head(nn.Cell):
    def __init__(self, rule: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.rule = rule

    def construct(self, x: Tensor) -> Tensor:
        return self.rule(x)


class Net(nn.Cell):
    def __init__(self, rule: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.dense = nn.Dense(3, 4)
        self.head = Head(rule)

    def construct(self, x: Tensor, label: Tensor) -> Tensor:
        return ((self.head(self.dense(x)) - label) ** 2).mean()


def data(scale: float = 1.0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 3)).astype(np.float32) * np.float32(scale)
    return Tensor(x), Tensor(np.zeros((5, 4), np.float32))


def training(rule: Callable[[Tensor], Tensor]) -> nn.Cell:
    net = Net(rule)
    net.dense.bias.set_data(Tensor(np.zeros(4, np.float32)))
    return nn.TrainOneStepCell(net, nn.Adam(net.trainable_params(), 0.1)).set_train()


def values(step: nn.Cell) -> list[np.ndarray]:
    return [p.asnumpy() for p in step.get_parameters()]


def same(before: list[np.ndarray], step: nn.Cell) -> bool:
    return all(np.array_equal(a, p.asnumpy()) for a, p in zip(before, step.get_parameters(), strict=True))


def failure(call: Callable[[], Any]) -> list[str]:
    with pytest.raises(FloatingPointError) as caught:
        call()
    assert isinstance(caught.value, NonFiniteError)
    return str(caught.value).split("\n")


def test_backward(mode: int) -> None:
    """sqrt(h^2) is fine at 0, its derivative is not: 0 / 0 by way of an infinity."""
    step = training(lambda h: ops.sqrt(h * h))
    step(*data())
    before, again = values(step), training(lambda h: ops.sqrt(h * h))
    lines = failure(lambda: again(*data(0.0)))
    assert lines[0].endswith("a gradient is not finite" if mode == ms.GRAPH_MODE else "a result is not finite")
    assert lines[1].startswith("  called at test_nan_check.py:")
    assert lines[2].startswith("  it begins with ") and " in head (backward): f32[5,4] 20 " in lines[2]
    assert "from 0 to 0" in "".join(lines[3:5])
    assert lines[-1] == "  all Parameters are as they were before the step"
    step(*data())
    assert not same(before, step)


def test_parameters_stay_as_they_were() -> None:
    step = training(lambda h: ops.log(h * h))
    for _ in range(3):
        step(*data())
    before = values(step)
    trained = [p for p in step.trainable_params() if p.dtype.is_float]
    kept = [p.asnumpy() for p in trained]
    for p in trained:
        p.set_data(Tensor(np.zeros(p.shape, np.float32)))
    zeroed = values(step)
    lines = failure(lambda: step(*data()))
    assert same(zeroed, step)
    assert any("log at test_nan_check.py:" in line and "in head (forward)" in line for line in lines)
    for p, value in zip(trained, kept, strict=True):
        p.set_data(Tensor(value))
    assert same(before, step)
    assert np.isfinite(step(*data()).asnumpy())


def test_forward_names_the_line_the_cell_and_the_ranges() -> None:
    lines = failure(lambda: training(lambda h: ops.log(h - h))(*data()))
    assert "it begins with log at test_nan_check.py:" in lines[2]
    assert "in head (forward): f32[5,4] 20 infinite" in lines[2]
    assert lines[3].startswith("    input 0: f32[5,4] from 0 to 0  = sub at test_nan_check.py:")
    assert any("and becomes NaN in " in line for line in lines) or "infinite" in lines[2]


def test_an_input_or_parameter_that_is_not_finite() -> None:
    step = training(lambda h: h)
    x, label = data()
    bad = x.asnumpy().copy()
    bad[1, 2] = np.nan
    before = values(step)
    lines = failure(lambda: step(Tensor(bad), label))
    assert "1 NaN" in lines[2]
    assert same(before, step)


def test_a_constant_infinity_is_no_fault() -> None:
    """A mask of -inf in front of a softmax is meant; a row of nothing else is not."""
    mask = np.zeros((5, 4), bool)
    mask[:, 1] = True

    def masked(h: Tensor) -> Tensor:
        return ops.softmax(ops.masked_fill(h, Tensor(mask), -np.inf), -1)

    step = training(masked)
    assert np.isfinite(step(*data()).asnumpy())
    mask[3] = True
    lines = failure(lambda: training(masked)(*data()))
    assert "it begins with sub at test_nan_check.py:" in lines[2] and "4 NaN" in lines[2]


def test_sound_steps_are_the_same_to_the_bit(mode: int) -> None:
    ms.set_seed(3)
    watched = training(ops.tanh)
    losses = [watched(*data()).asnumpy() for _ in range(5)]
    ms.set_context(check_nan="off")
    ms.set_seed(3)
    plain = training(ops.tanh)
    assert losses == [plain(*data()).asnumpy() for _ in range(5)]
    assert same(values(plain), watched)


def test_switching_compiles_once_more_and_back_again_not(mode: int) -> None:
    if mode == ms.PYNATIVE_MODE:
        return
    step = training(ops.tanh)
    for chosen in ("first", "off", "first", "off"):
        ms.set_context(check_nan=chosen)
        step(*data())
    assert step.compile_cache.compiles == 2
    assert "check_nan: off" in step.compile_cache.explain()


def test_a_loss_scale_that_skips_a_step_is_no_fault() -> None:
    """An overflow that the loss scale takes care of changes the scale, and raises nothing."""
    net = Net(lambda h: h)
    scale = nn.DynamicLossScaleUpdateCell(2.0**127, 2, 1000)
    step = nn.TrainOneStepWithLossScaleCell(net, nn.SGD(net.trainable_params(), 0.1), scale).set_train()
    before = net.dense.weight.asnumpy()
    x, label = data(1e3)
    _, overflow, left = step(x, label)
    assert bool(overflow) and float(left.asnumpy()) == 2.0**126
    assert np.array_equal(net.dense.weight.asnumpy(), before)


# inside loops and branches


def told(call: Callable[[], Any]) -> list[str]:
    """What a report says after its head, without the names of files."""
    return [line.strip().replace("test_nan_check.py:", "") for line in failure(call)[2:-1]]


def line_of(code: Callable[..., Any], text: str) -> int:
    """The line of a function that holds a text."""
    lines, start = inspect.getsourcelines(code)
    (found,) = [k for k, line in enumerate(lines) if text in line]
    return start + found


def test_in_a_trip_of_a_loop() -> None:
    """An op in the body is named, with its line, and the trip: 2, 0.69, -0.37, NaN."""

    def f(x: Tensor) -> Tensor:
        return ms.control.fori_loop(0, 5, lambda i, s: ops.log(s), x)

    run = ms.jit(ms.vmap(f))
    lines, line = told(lambda: run(Tensor([1e30, 2.0]))), line_of(f, "fori_loop")
    assert lines[0].startswith(f"it begins with log at {line} (forward): f32[2] from ") and lines[0].endswith(", 1 NaN")
    assert lines[1] == f"in trip 3 of 5 of the loop at {line}"
    assert lines[2].startswith("input 0: f32[2] from -0.366513 to ") and lines[2].endswith(f"= log at {line}, of the trip before")


def while_loop(x: Tensor) -> Tensor:
    def body(s: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h = s[1] - 1.0
        return s[0] + 1, ops.sqrt(h)

    return ms.control.while_loop(lambda s: s[0] < 5, body, (Tensor(0, ms.int32), x))[1].sum()


def test_in_trip_3_of_a_while_loop() -> None:
    """4 -> 1.73 -> 0.86 -> the root of less than nothing; with its gradient the loop is run again, over spans of trips."""
    line, loop = line_of(while_loop, "ops.sqrt(h)"), line_of(while_loop, "control.while_loop")
    for call in (ms.jit(while_loop), ms.jit(ms.grad(while_loop))):
        lines = told(lambda call=call: call(Tensor([1e30, 4.0])))
        assert lines[0].startswith(f"it begins with sqrt at {line} (forward): f32[2] from ")
        assert lines[1] == f"in trip 3 of 5 of the loop at {loop}"
        assert lines[2].startswith("input 0: f32[2] from -0.1444") and lines[2].endswith(f"= sub at {line - 1}")


def scan(x: Tensor, rows: Tensor) -> Tensor:
    def body(c: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        c = c * 0.5 + ops.sqrt(row)
        return c, c * 2.0

    return ms.control.scan(body, x, rows)[1].sum()


def rows_with(value: float) -> Tensor:
    """Six rows of ones, but one number in the third."""
    rows = np.ones((6, 3), np.float32)
    rows[2, 1] = value
    return Tensor(rows)


def test_in_trip_3_of_a_scan_and_of_its_derivative() -> None:
    x = Tensor(np.zeros(3, np.float32))
    line, loop = line_of(scan, "ops.sqrt"), line_of(scan, "control.scan")
    for value, call, what, kind in (
        (-1.0, ms.jit(scan), "sqrt", "forward"),
        (-1.0, ms.jit(ms.value_and_grad(scan, 1)), "sqrt", "forward"),
        (0.0, ms.jit(ms.grad(scan, 1)), "div", "backward"),
    ):
        lines = told(lambda call=call, value=value: call(x, rows_with(value)))
        assert lines[0].startswith(f"it begins with {what} at {line} ({kind}): f32[3] from ")
        assert lines[1] == f"in trip 3 of 6 of the loop at {loop}"
        call(x, rows_with(2.0))
    assert lines[3] == f"input 1: f32[3] from 0 to 1  = sqrt at {line}"


class Recurrent(nn.Cell):
    """Gates and a state, as in an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Dense(4, 8)

    def construct(self, x: Tensor, h: Tensor) -> Tensor:
        z = self.gates(h)
        kept, new = ops.sigmoid(z[:, :4]), ops.tanh(z[:, 4:])
        return kept * h + new * 0.5 + ops.sqrt(x)


class Unrolled(nn.Cell):
    """A Python loop."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Recurrent()
        self.shift = Parameter(Tensor(np.zeros(1, np.float32)), name="shift")

    def construct(self, xs: Tensor) -> Tensor:
        h = ops.zeros((2, 4), ms.float32)
        for t in range(xs.shape[0]):
            h = self.cell(xs[t] + self.shift, h)
        return (h * h).mean()


def test_in_trip_3_of_a_python_loop() -> None:
    """Forward alone, in a training step, and where the derivative alone is not finite: the Cell and the trip are named."""
    ms.set_context(mode=ms.GRAPH_MODE)
    net = Unrolled()
    step = nn.TrainOneStepCell(net, nn.SGD(net.trainable_params(), 0.1)).set_train()
    line, loop = line_of(Recurrent, "ops.sqrt"), line_of(Unrolled, "self.cell(xs[t]")
    xs = np.ones((12, 2, 4), np.float32)
    before = values(step)
    for value, call, what, kind in ((-1, net, "sqrt", "forward"), (-1, step, "sqrt", "forward"), (0, step, "div", "backward")):
        xs[2, 1, 1] = value
        lines = told(lambda call=call: call(Tensor(xs)))
        assert lines[0].startswith(f"it begins with {what} at {line} in cell ({kind}): f32[2,4] from ")
        assert lines[1] == f"in trip 3 of 12 of the loop at {loop}"
        assert same(before, step)
    xs[2, 1, 1] = 1
    assert np.isfinite(step(Tensor(xs)).asnumpy())


@pytest.mark.parametrize("bound", [True, False])
def test_in_the_way_back_through_a_loop_alone(bound: bool) -> None:
    """|s| - 1, from 1500: the derivative of sqrt(s^2) at 0 is none. Without a bound spans of trips are run again."""

    def f(x: Tensor) -> Tensor:
        return ms.control.fori_loop(0, 2000, body, x).sum() if bound else ms.control.while_loop(
            lambda s: s[0] < 2000, lambda s: (s[0] + 1, body(s[0], s[1])), (Tensor(0, ms.int32), x)
        )[1].sum()  # fmt: skip

    def body(_: Any, s: Tensor) -> Tensor:
        return ops.sqrt(s * s) - 1.0

    call = ms.jit(ms.value_and_grad(f))
    assert np.isfinite(call(Tensor([3000.0]))[1].asnumpy()).all()
    lines, line = told(lambda: call(Tensor([3000.0, 1998.0]))), line_of(body, "ops.sqrt")
    assert lines[0].startswith(f"it begins with div at {line} (backward): f32[2] from ") and "1 infinite" in lines[0]
    assert lines[1].startswith("in trip 1999 of 2000 of the loop at ")
    assert lines[2].startswith("input 0: ") and lines[3].endswith(f"= sqrt at {line}")
    assert lines[4].startswith(f"and becomes NaN in mul at {line} (backward)") and lines[5] == lines[1]


def test_in_a_branch_inside_a_loop_inside_a_loop() -> None:
    def f(x: Tensor, rows: Tensor) -> Tensor:
        def inner(c: Tensor, row: Tensor) -> tuple[Tensor, None]:
            return ms.control.cond(row.sum() > 2.5, lambda c, r: c + ops.log(r), lambda c, r: c - r, c, row), None

        return ms.control.fori_loop(0, 4, lambda i, s: ms.control.scan(inner, s, rows - i)[0], x).sum()

    rows = np.array([[4, 4, 5], [6, 6, 6], [2.5, 5, 5], [9, 9, 9], [7, 8, 9]], np.float32)
    call, x = ms.jit(f), Tensor(np.zeros(3, np.float32))
    assert np.isfinite(call(x, Tensor(rows + 4)).asnumpy())
    line, outer = line_of(f, "ops.log"), line_of(f, "fori_loop")
    assert told(lambda: call(x, Tensor(rows)))[:4] == [
        f"it begins with log at {line} (forward): f32[3] from 0.693147 to 0.693147, 1 NaN",
        f"in trip 4 of 4 of the loop at {outer}",
        f"in trip 3 of 5 of the loop at {outer}",
        f"in the branch at {line}, its condition true",
    ]


def test_an_infinity_that_a_loop_only_chooses_from_is_no_fault() -> None:
    """A running maximum begins with -inf; the loop's result is finite, and the division behind it is to blame."""

    def f(x: Tensor, rows: Tensor) -> Tensor:
        low = ops.full((3,), -np.inf, dtype=ms.float32)
        most, seen = ms.control.scan(lambda c, row: (ops.maximum(c, row), c), low, rows)
        return x / (most - rows.max(axis=0)) + seen[1:].sum()

    lines = told(lambda: ms.jit(f)(Tensor([1.0, 2.0, 3.0]), rows_with(2.0)))
    assert lines[0].startswith(f"it begins with div at {line_of(f, 'x /')} (forward): f32[3] 3 infinite")


def test_functions_and_gradients() -> None:
    x = Tensor([0.0, 1.0])
    assert "sqrt" in "".join(failure(lambda: ms.grad(ops.sqrt)(x)))
    lines = failure(lambda: ms.jit(lambda a: 1.0 / a)(x)) if ms.get_context("mode") == ms.GRAPH_MODE else ["", "", "div"]
    assert "div" in lines[2]
    ms.grad(lambda a: ops.sqrt(a + 1))(x)


def test_the_context_refuses_other_values() -> None:
    with pytest.raises(ValueError, match="check_nan must be one of 'off', 'first', found 'all'"):
        ms.set_context(check_nan="all")
    with pytest.raises(TypeError, match="check_nan must be str"):
        ms.set_context(check_nan=True)


# the pass


def guarded_step() -> tuple[Graph, list[np.ndarray], list[np.ndarray]]:
    """w -= x^T d, b -= sum d: two gradients."""
    x, d = input_node("x", TensorType(f32, (4, 3))), input_node("d", TensorType(f32, (4, 2)))
    w, b = state_node("w", TensorType(f32, (3, 2))), state_node("b", TensorType(f32, (2,)))
    loss = reduce_sum(d * d, axes=(0, 1))
    updates = ((w, w - matmul(transpose(x, perm=(1, 0)), d)), (b, b - reduce_sum(d, axes=(0,))))
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=n.shape).astype(np.float32) for n in (x, d)]
    state = [rng.normal(size=n.shape).astype(np.float32) for n in (w, b)]
    return Graph("step", (x, d), (w, b), (loss,), updates), inputs, state


def test_rows_of_a_table_are_not_chosen_from_the_whole_table() -> None:
    """A step that reads a few rows of a large table writes as many where it is sound, and none where it is not."""
    table, rows = state_node("table", TensorType(f32, (50, 3))), input_node("rows", TensorType(f32, (4, 3)))
    indices = input_node("indices", TensorType(i32, (4,)))
    loss = reduce_sum(rows, axes=(0, 1))
    new = scatter_set(table, indices, rows - rows * loss)
    made = guarded(Graph("step", (rows, indices), (table,), (loss,), ((table, new),)))
    assert not [n for n in walk(made.roots) if n.op == "select" and n.shape == table.shape]
    state = np.zeros((50, 3), np.float32)
    values, places = np.ones((4, 3), np.float32), np.array([1, 7, 3, 49], np.int32)
    assert evaluate(made, [values, places], [state])[-1] and (state[places] == -11).all() and not state[0].any()
    values[2, 1] = np.inf
    before = state.copy()
    assert not evaluate(made, [values, places], [state])[-1] and np.array_equal(state, before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("k", [0, 1])
def test_guard(k: int, value: float) -> None:
    graph, inputs, state = guarded_step()
    made = guarded(graph)
    before = [s.copy() for s in state]
    assert evaluate(made, inputs, state)[-1]
    assert not np.array_equal(before[0], state[0])
    before = [s.copy() for s in state]
    inputs[k][2, 1] = value
    assert not evaluate(made, inputs, state)[-1]
    assert all(np.array_equal(a, s) for a, s in zip(before, state, strict=True))


def test_guard_reads_no_matrix_product() -> None:
    """The weight's gradient may stay inside the kernel of its update: only the update uses it."""
    graph, _, _ = guarded_step()
    made = guarded(graph)
    order = walk(made.roots)
    (product,) = [n for n in order if n.op == "dot_general"]
    assert [n.op for n in order if product in n.inputs] == ["sub"]
    assert len([n for n in order if n.op == "reduce_sum" and n.inputs[0].op == "mul"]) <= 4


def test_a_parameter_keeps_its_memory() -> None:
    p = Parameter(Tensor([1.0, 2.0]), name="p")

    class Assigns(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.p = p

        def construct(self, x: Tensor) -> Tensor:
            ops.assign(self.p, x / x)
            return x

    cell = Assigns()
    if ms.get_context("mode") == ms.PYNATIVE_MODE:
        return
    cell(Tensor([1.0, 2.0]))
    assert p.asnumpy().tolist() == [1.0, 1.0]


def test_guard_reads_what_is_summed_once() -> None:
    """An operand of a gradient that was sliced, padded with zeros and turned is tested by its sum alone."""
    d, x = input_node("d", TensorType(f32, (4, 2))), input_node("x", TensorType(f32, (4, 3)))
    w, b = state_node("w", TensorType(f32, (3, 3))), state_node("b", TensorType(f32, (3,)))
    made = slice_(d * 2.0, start=(0, 0), stop=(4, 2), step=(1, 1))
    padded = pad(made, constant(0.0, f32), low=(0, 1), high=(0, 0), interior=(0, 0))
    updates = ((w, w - matmul(transpose(x, perm=(1, 0)), padded)), (b, b - reduce_sum(padded, axes=(0,))))
    made = guarded(Graph("step", (x, d), (w, b), (), updates))
    tested = [n.inputs[0].inputs[0] for n in walk(made.roots) if n.op == "reduce_sum" and n.inputs[0].op == "mul"]
    assert sum(n is x for n in tested) == 1 and not [n for n in tested if n.shape in ((4, 2), (4, 3)) and n is not x]
    inputs = [np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)]
    state = [np.zeros((3, 3), np.float32), np.zeros(3, np.float32)]
    assert evaluate(made, inputs, state)[-1] and state[0].any()
    inputs[1][3, 1] = np.inf
    before = [s.copy() for s in state]
    assert not evaluate(made, inputs, state)[-1] and all(np.array_equal(a, s) for a, s in zip(before, state, strict=True))


def only_tested(made: Graph) -> list[Node]:
    """What a guarded graph reads only to see whether it is finite."""
    zeros = [n for n in walk(made.roots) if n.op == "mul" and n.inputs[1].op == "broadcast" and len(n.inputs[0].shape) > 1]
    return [n.inputs[0] for n in zeros if n.inputs[1].inputs[0].op == "constant" and not n.inputs[1].inputs[0].attrs["value"]]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_guard_reads_only_what_would_go_unnoticed(masked: bool, value: float) -> None:
    """x reaches the loss through sums and products, or by way of a choice that may drop what is not finite."""
    x, w = input_node("x", TensorType(f32, (4, 3))), state_node("w", TensorType(f32, (3, 3)))
    h = matmul(x, w)
    h = select(gt(h, 0.0), h, full(h.shape, 0.0, f32)) if masked else transpose(h, perm=(1, 0)) / 3.0 - 1.0
    loss = reduce_sum(h * h, axes=(0, 1))
    new = w - matmul(transpose(x, perm=(1, 0)), tanh(x))
    made = guarded(Graph("step", (x,), (w,), (loss,), ((w, new),)))
    assert sorted(n.op for n in only_tested(made)) == (["input", "tanh"] if masked else ["tanh"])
    state, array = [np.zeros((3, 3), np.float32)], np.ones((4, 3), np.float32)
    assert evaluate(made, [array], state)[-1]
    before = state[0].copy()
    array[2, 1] = value
    assert not evaluate(made, [array], state)[-1] and np.array_equal(before, state[0])


def test_guard_reads_what_a_loop_stacks_twice_once() -> None:
    """A recurrent layer's gate gradients make weight gradients and, in another shape, those of the bias."""
    xs, w, b = (leaf(*a) for a in ((input_node, "xs", (5, 2, 3)), (state_node, "w", (3, 3)), (state_node, "b", (3,))))
    row, carry = leaf(input_node, "row", (2, 3)), leaf(state_node, "carry", (2, 3))
    fresh = tanh(carry + row)
    body = Graph("body", (row,), (carry,), (fresh, reshape(fresh, shape=(6,))), ((carry, fresh),))
    first = full((2, 3), 0.0, f32)
    node = loop(first, xs, body=body, test=None, length=5, reverse=False, stacked=1, counted=False)
    _, stack, flat = items(node)
    product = dot_general(xs, stack, contract=((0, 1), (0, 1)), batch=((), ()))
    total = reduce_sum(reshape(flat, shape=(10, 3)), axes=(0,))
    made = guarded(Graph("step", (xs,), (w, b), (), ((w, w - product), (b, b - total))))
    assert [n.op for n in only_tested(made)] == ["input"]


def leaf(make: Callable[[str, TensorType], Node], name: str, shape: tuple[int, ...]) -> Node:
    return make(name, TensorType(f32, shape))
