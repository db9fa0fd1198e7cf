"""Every op of the registry on its samples, in every dtype it claims. A new op adds no code here.

A machine is a function (graph, arrays) -> arrays; each is compared with the ops' numpy meaning.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import numpy as np
import pytest

from graphopt import config
from graphopt.compile import compile_graph
from graphopt.errors import DTypeError, ShapeError
from graphopt.ir.graph import Graph, Node, input_node
from graphopt.ir.text import large_constants, parse_graph, print_graph
from graphopt.ir.types import FLOATS, DType, TensorType, bool_, dtype_of, f16, f32, f64, i32, u32
from graphopt.ir.verify import verify
from graphopt.opdefs import REGISTRY
from graphopt.opdefs.evaluate import evaluate, evaluate_nodes
from graphopt.opdefs.opdef import OpDef, constant
from graphopt.passes.batch import Examples
from graphopt.passes.forward import jvp
from graphopt.passes.gradient import vjp
from tests.rules import rules_machine
from tests.tolerances import FIRST_DERIVATIVE, RELATIVE, SECOND_DERIVATIVE, assert_close

Machine = Callable[[Graph, Sequence[np.ndarray]], list[np.ndarray]]


def numpy_machine(graph: Graph, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The ops' own meaning."""
    return evaluate(graph, arrays, [])


def backend(name: str) -> Machine:
    """A compiled graph on one of the backends."""

    def run(graph: Graph, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        with config.override(backend=name, cache="off"):
            return compile_graph(graph).run([np.ascontiguousarray(a) for a in arrays], [])

    return run


MACHINES: dict[str, Machine] = {
    "numpy": numpy_machine,
    "rules": rules_machine,
    "loops": backend("loops"),
    "llvm": backend("llvm"),
}

OPS = [d for d in REGISTRY.values() if d.kind not in ("leaf", "region")]
CASES = [pytest.param(d, dtype, id=f"{d.name}-{dtype.short}") for d in OPS for dtype in d.dtypes]


class Case:
    """One op on one sample in one dtype: its inputs and the graph of that single use."""

    def __init__(self, d: OpDef, k: int, dtype: DType):
        self.op, self.sample, self.dtype = d, d.samples[k], dtype
        self.what = f"{d.name} sample {k} in {dtype.short} {dict(self.sample.attrs)}"
        self.rng = np.random.default_rng(zlib.crc32(f"{d.name} {k}".encode()))
        self.arrays = self.sample.arrays(self.rng, dtype)
        self.leaves = [
            input_node(f"x{i}", TensorType(dtype_of(a.dtype), a.shape)) for i, a in enumerate(self.arrays)
        ]
        self.node = d(*self.leaves, **self.sample.attrs)

    def graph(self, outputs: Sequence[Node], more: Sequence[Node] = ()) -> Graph:
        return Graph(self.op.name, (*self.leaves, *more), (), tuple(outputs))


def cases(d: OpDef, dtype: DType) -> Iterator[Case]:
    return (Case(d, k, dtype) for k in range(len(d.samples)))


# values


@pytest.mark.parametrize(("d", "dtype"), CASES)
def test_inferred_type_is_numpys(d: OpDef, dtype: DType) -> None:
    """The shape rule foretells what the numpy meaning returns; 16-bit floats may still be wide."""
    for case in cases(d, dtype):
        arrays = np.broadcast_arrays(*case.arrays) if d.kind == "elementwise" else case.arrays
        with np.errstate(all="ignore"):
            raw = np.asarray(d.rules["numpy"](*arrays, **case.sample.attrs))
        expected = case.node.dtype
        assert raw.shape == case.node.shape, case.what
        wide = {expected.numpy, f32.numpy} if expected.bits == 16 and expected.is_float else {expected.numpy}
        assert raw.dtype in wide, f"{case.what}: numpy gives {raw.dtype}, the shape rule {expected}"


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("d", "dtype"), CASES)
def test_machines_agree(machine: str, d: OpDef, dtype: DType) -> None:
    """Every machine computes the numpy meaning; it neither changes its inputs nor hands one out."""
    for case in cases(d, dtype):
        before = [a.copy() for a in case.arrays]
        (expected,) = evaluate_nodes([case.node], dict(zip(case.leaves, case.arrays, strict=True)))
        (actual,) = MACHINES[machine](case.graph([case.node]), case.arrays)
        assert_close(
            actual,
            expected,
            scale=_magnitude(case),
            stored=d.kind == "kernel",
            what=f"{machine}: {case.what}",
        )
        for array, copy in zip(case.arrays, before, strict=True):
            assert array.tobytes() == copy.tobytes(), f"{machine}: {case.what}: an input was changed"
            assert not np.shares_memory(actual, array), (
                f"{machine}: {case.what}: the result is an input's memory"
            )


@pytest.mark.parametrize(
    ("d", "dtype"), [c for c in CASES if c.values[1] in FLOATS and c.values[1] is not f64]
)
def test_rounding_is_the_only_difference_between_dtypes(d: OpDef, dtype: DType) -> None:
    """A narrow float result is the float64 result of the same inputs, rounded: steps were wide enough."""
    for case in cases(d, dtype):
        if not case.node.dtype.is_float or "dtype" in case.sample.attrs:
            continue
        with np.errstate(all="ignore"):
            exact = _exact(case)
            if exact is None:
                continue
            (actual,) = evaluate_nodes([case.node], dict(zip(case.leaves, case.arrays, strict=True)))
            expected = exact.astype(case.node.dtype.numpy)
        # The largest finite number and infinity are neighbours.
        at_end = np.isinf(expected.astype(np.float64)) != np.isinf(actual.astype(np.float64))
        largest = np.abs(exact) > 0.999 * float(_largest(case.node.dtype))
        assert not (at_end & ~largest).any(), f"{case.what}: infinite where float64 is not, or the reverse"
        keep = ~at_end
        scale = np.broadcast_to(_magnitude(case), keep.shape)[keep]
        assert_close(actual[keep], expected[keep], scale=scale, stored=d.kind == "kernel", what=case.what)


def _exact(case: Case) -> np.ndarray | None:
    """The op in float64 on the case's inputs; None when an input of it is not of the dtype under test."""
    arrays = [a.astype(np.float64) if a.dtype == case.dtype.numpy else a for a in case.arrays]
    leaves = [input_node(f"x{i}", TensorType(dtype_of(a.dtype), a.shape)) for i, a in enumerate(arrays)]
    node = case.op(*leaves, **case.sample.attrs)
    (result,) = evaluate_nodes([node], dict(zip(leaves, arrays, strict=True)))
    return result if node.dtype is f64 else None


def _largest(dtype: DType) -> float:
    return {"f16": 65504.0, "bf16": 3.39e38, "f32": 3.4028235e38, "f64": 1.79e308}[dtype.short]


def _magnitude(case: Case) -> np.ndarray | float:
    """What an op that adds gives on the magnitudes of its inputs: cancellation is measured against it."""
    if case.op.kind == "elementwise" or not case.node.dtype.is_float:
        return 0.0
    if case.op.name == "definite_inverse":  # every element of an inverse depends on all of them
        (result,) = evaluate_nodes([case.node], dict(zip(case.leaves, case.arrays, strict=True)))
        return float(np.abs(result).max(initial=0.0))
    with np.errstate(all="ignore"):
        arrays = [a if a.dtype.kind in "biu" else np.abs(a.astype(np.float64)) for a in case.arrays]
        leaves = [input_node(f"x{i}", TensorType(dtype_of(a.dtype), a.shape)) for i, a in enumerate(arrays)]
        (scale,) = evaluate_nodes(
            [case.op(*leaves, **case.sample.attrs)], dict(zip(leaves, arrays, strict=True))
        )
    return np.where(np.isfinite(scale), scale, 0.0)


NAN_HAS_NO_SAY = {"pow", "select", "is_nan", "is_inf", "is_finite"}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.short)
@pytest.mark.parametrize(
    "d", [d for d in OPS if d.kind in ("elementwise", "reduction")], ids=lambda d: d.name
)
def test_nan_is_handed_on(d: OpDef, dtype: DType, machine: str) -> None:
    """NaN in any one input of an elementwise op or reduction gives NaN, unless the result is no float."""
    if dtype not in d.dtypes or d.name in NAN_HAS_NO_SAY:
        return
    count = len(d.samples[0].shapes)
    attrs = dict(d.samples[0].attrs)
    shapes = [s or (1,) for s in d.samples[0].shapes]
    for k in range(count):
        arrays = [np.ones(s, dtype.numpy) for s in shapes]
        arrays[k][...] = np.nan
        leaves = [input_node(f"x{i}", TensorType(dtype, a.shape)) for i, a in enumerate(arrays)]
        node = d(*leaves, **attrs)
        if node.dtype.is_float:
            (out,) = MACHINES[machine](Graph(d.name, tuple(leaves), (), (node,)), arrays)
            assert np.isnan(out.astype(np.float64)).all(), (
                f"{d.name} in {dtype.short}: NaN in input {k} was lost"
            )


# derivatives


class Function:
    """A function of float64 arrays: the sum of a graph's outputs, each times fixed weights."""

    def __init__(
        self,
        leaves: Sequence[Node],
        fixed: dict[Node, np.ndarray],
        outputs: Sequence[Node],
        weights: Sequence[np.ndarray],
    ):
        self.leaves, self.fixed, self.outputs, self.weights = leaves, fixed, outputs, weights

    def __call__(self, point: Sequence[np.ndarray]) -> float:
        values = evaluate_nodes(self.outputs, self.fixed | dict(zip(self.leaves, point, strict=True)))
        return float(sum(np.sum(v * w) for v, w in zip(values, self.weights, strict=True)))

    def slope(
        self, point: Sequence[np.ndarray], direction: Sequence[np.ndarray], tolerance: float
    ) -> float | None:
        """The central difference along a direction; None where it is no derivative (a kink, a jump, NaN)."""
        estimates = []
        middle = self(point)
        for h in (1e-4, 5e-5):
            ahead = self([p + h * v for p, v in zip(point, direction, strict=True)])
            behind = self([p - h * v for p, v in zip(point, direction, strict=True)])
            if not np.isfinite([ahead, middle, behind]).all():
                return None
            right, left = (ahead - middle) / h, (middle - behind) / h
            if abs(right - left) > 0.02 * (abs(right) + abs(left)) + 1e-2:
                return None
            estimates.append((ahead - behind) / (2 * h))
        a, b = estimates
        # The truncation error falls with h squared, so two steps give the limit.
        limit = (4 * b - a) / 3
        return limit if abs(a - b) <= 1e3 * tolerance * (abs(limit) + 1) else None


def float_leaves(case: Case) -> list[int]:
    return [k for k, a in enumerate(case.arrays) if a.dtype == np.float64]


def derivative_of(case: Case, wrt: Sequence[int]) -> tuple[Node, list[Node | None]]:
    """A cotangent leaf for the case's node, and the derivatives by the inputs `wrt`."""
    ct = input_node("ct", case.node.type)
    return ct, vjp([case.node], [ct], [case.leaves[k] for k in wrt])


DIFFERENTIABLE = [d for d in OPS if f64 in d.dtypes and "vjp" in d.rules]


@pytest.mark.parametrize("d", DIFFERENTIABLE, ids=lambda d: d.name)
def test_derivative_is_the_central_difference(d: OpDef) -> None:
    """First derivative along a random direction, at every sample where the op is smooth; at least at one."""
    checked = applicable = 0
    for case in cases(d, f64):
        wrt = float_leaves(case)
        if not case.node.dtype.is_float or not wrt or case.dtype is not f64 or case.node.dtype is not f64:
            continue
        ct, found = derivative_of(case, wrt)
        with_path = [(k, g) for k, g in zip(wrt, found, strict=True) if g is not None]
        applicable += bool(with_path) and case.node.type.size > 0
        weight = case.rng.normal(size=case.node.shape)
        leaves = [case.leaves[k] for k, _ in with_path]
        fixed = {n: a for n, a in zip(case.leaves, case.arrays, strict=True) if n not in leaves}
        point = [case.arrays[k] for k, _ in with_path]
        direction = [case.rng.normal(size=p.shape) for p in point]
        expected = Function(leaves, fixed, [case.node], [weight]).slope(point, direction, FIRST_DERIVATIVE)
        values = evaluate_nodes(
            [g for _, g in with_path], dict(zip(case.leaves, case.arrays, strict=True)) | {ct: weight}
        )
        if expected is None:
            continue
        slope = sum(float(np.sum(v * u)) for v, u in zip(values, direction, strict=True))
        size = sum(float(np.sum(np.abs(v * u))) for v, u in zip(values, direction, strict=True))
        assert abs(slope - expected) <= FIRST_DERIVATIVE * (1 + size), (
            f"{case.what}: {slope}, central difference {expected}"
        )
        checked += case.node.type.size > 0 and bool(with_path)
    assert checked or not applicable, f"{d.name}: no sample lies where the op is smooth"


@pytest.mark.parametrize("d", DIFFERENTIABLE, ids=lambda d: d.name)
def test_derivative_of_the_derivative(d: OpDef) -> None:
    """The gradient graph, a function of inputs and cotangent, has a right derivative itself."""
    checked = applicable = 0
    for case in cases(d, f64):
        wrt = float_leaves(case)
        if not wrt or case.node.dtype is not f64 or case.node.type.size == 0:
            continue
        ct, found = derivative_of(case, wrt)
        outputs = [g for g in found if g is not None]
        if not outputs:
            continue
        leaves = [*(case.leaves[k] for k in wrt), ct]
        point = [*(case.arrays[k] for k in wrt), case.rng.normal(size=case.node.shape)]
        fixed = {n: a for n, a in zip(case.leaves, case.arrays, strict=True) if n not in leaves}
        applicable += 1
        weights = [case.rng.normal(size=g.shape) for g in outputs]
        direction = [case.rng.normal(size=p.shape) for p in point]
        expected = Function(leaves, fixed, outputs, weights).slope(point, direction, SECOND_DERIVATIVE)
        if expected is None:
            continue
        second = vjp(outputs, [constant(w) for w in weights], leaves)
        pairs = [(g, u) for g, u in zip(second, direction, strict=True) if g is not None]
        values = evaluate_nodes([g for g, _ in pairs], fixed | dict(zip(leaves, point, strict=True)))
        slope = sum(float(np.sum(v * u)) for v, (_, u) in zip(values, pairs, strict=True))
        size = sum(float(np.sum(np.abs(v * u))) for v, (_, u) in zip(values, pairs, strict=True))
        assert abs(slope - expected) <= SECOND_DERIVATIVE * (1 + size), (
            f"{case.what}: {slope}, central difference {expected}"
        )
        checked += 1
    assert checked or not applicable, f"{d.name}: no sample's derivative lies where it is smooth"


@pytest.mark.parametrize(("d", "dtype"), [c for c in CASES if "vjp" in c.values[0].rules])
def test_derivatives_have_their_inputs_types(d: OpDef, dtype: DType) -> None:
    """In every claimed dtype a cotangent has its input's type, and can be evaluated."""
    for case in cases(d, dtype):
        ct = constant(np.ones(case.node.shape, case.node.dtype.numpy))
        found = [g for g in vjp([case.node], [ct], case.leaves) if g is not None]
        for value, g in zip(
            evaluate_nodes(found, dict(zip(case.leaves, case.arrays, strict=True))), found, strict=True
        ):
            assert (value.dtype, value.shape) == (g.dtype.numpy, g.shape), case.what


@pytest.mark.parametrize("d", DIFFERENTIABLE, ids=lambda d: d.name)
def test_forward_mode_is_the_transpose_of_reverse_mode(d: OpDef) -> None:
    """(ct, J tangents) = (J^T ct, tangents) for every choice of inputs that have a tangent."""
    for case in cases(d, f64):
        wrt = float_leaves(case)
        if case.node.dtype is not f64:
            continue
        for chosen in subsets(wrt):
            tangents = {case.leaves[k]: case.rng.normal(size=case.leaves[k].shape) for k in chosen}
            known = dict(zip(case.leaves, case.arrays, strict=True))
            (pushed,) = jvp([case.node], list(tangents), [constant(t) for t in tangents.values()])
            ct, pulled = derivative_of(case, chosen)
            pairs = [(g, t) for g, t in zip(pulled, tangents.values(), strict=True) if g is not None]
            assert bool(pairs) >= (pushed is not None), case.what
            if pushed is None or case.node.type.size == 0:
                continue
            assert pushed.type == case.node.type, case.what
            weight = case.rng.normal(size=case.node.shape)
            values = evaluate_nodes([pushed, *(g for g, _ in pairs)], known | {ct: weight})
            with np.errstate(all="ignore"):
                forward = values[0] * weight
                terms = [v * t for v, (_, t) in zip(values[1:], pairs, strict=True)]
            if not all(np.isfinite(a).all() for a in (forward, *terms)):
                continue
            size = np.abs(forward).sum() + sum(np.abs(a).sum() for a in terms)
            expected = sum(a.sum() for a in terms)
            assert abs(forward.sum() - expected) <= 1e-12 * (1 + size), f"{case.what}, tangents of {chosen}"


def subsets(items: Sequence[int]) -> list[tuple[int, ...]]:
    """Every choice of at least one."""
    return [c for n in range(1, len(items) + 1) for c in combinations(items, n)]


# many examples


@pytest.mark.parametrize(
    ("d", "dtype"), [c for c in CASES if "batch" in c.values[0].rules and c.values[1] in (f32, i32, bool_, u32)]
)
def test_many_examples_are_a_loop_over_them(d: OpDef, dtype: DType) -> None:
    """For every sample and every choice of inputs that differ from example to example."""
    size = 3
    for case in cases(d, dtype):
        draws = [case.arrays] + [case.sample.arrays(case.rng, dtype) for _ in range(size - 1)]
        for chosen in subsets(range(len(case.leaves))):
            examples = Examples(size)
            known = dict(zip(case.leaves, case.arrays, strict=True))
            for k in chosen:
                leaf = case.leaves[k]
                every = input_node(f"all{k}", leaf.type.with_shape((size, *leaf.shape)))
                examples.stand_for(leaf, every)
                known[every] = np.stack([draw[k] for draw in draws])
            (node,) = examples.of([case.node])
            assert case.node in examples and node.shape == (size, *case.node.shape), case.what
            (found,) = evaluate_nodes([node], known)
            for i, draw in enumerate(draws):
                mine = {case.leaves[k]: draw[k] for k in chosen}
                (expected,) = evaluate_nodes([case.node], known | mine)
                with np.errstate(all="ignore"):
                    largest = np.abs(expected).max(initial=0.0)
                scale = largest if d.kind in ("contraction", "kernel") else _magnitude(case)
                what = f"{case.what}, example {i} of inputs {chosen}"
                assert_close(found[i], expected, scale=scale, stored=d.kind == "kernel", what=what)


# text


@pytest.mark.parametrize(("d", "dtype"), CASES)
def test_text_round_trip(d: OpDef, dtype: DType) -> None:
    """A graph with the op is valid, its text can be read, and reading and printing it again gives the same text."""
    for case in cases(d, dtype):
        graph = case.graph([case.node])
        verify(graph, lambda name, types, attrs: REGISTRY[name].infer(*types, **attrs), kind_of)
        text = print_graph(graph)
        parsed = parse_graph(text, large_constants(graph))
        assert print_graph(parsed) == text, case.what
        assert parsed.outputs[0].type == case.node.type, case.what


def kind_of(name: str) -> str | None:
    return REGISTRY[name].kind if name in REGISTRY else None


# errors


@pytest.mark.parametrize("d", [d for d in OPS if d.kind == "elementwise"], ids=lambda d: d.name)
def test_elementwise_errors_name_the_op_the_line_and_the_operands(d: OpDef) -> None:
    """Unclaimed dtypes, mixed dtypes and shapes that do not broadcast are refused, in the laid-out form."""
    count = len(d.samples[0].shapes)
    attrs = dict(d.samples[0].attrs)
    refused = [t for t in (bool_, i32, f32) if t not in d.dtypes]
    wrong = [([t] * count, [(2,)] * count) for t in refused]
    if count > 1:
        wrong.append(([*[bool_] * (count - 1), f32] if count == 2 else [bool_, f16, f32], [(2,)] * count))
        wrong.append(([*[bool_] * (count - 2), d.dtypes[0], d.dtypes[0]], [*[(2,)] * (count - 1), (3,)]))
    for dtypes, shapes in wrong:
        leaves = [
            input_node(f"x{k}", TensorType(t, s)) for k, (t, s) in enumerate(zip(dtypes, shapes, strict=True))
        ]
        with pytest.raises(ShapeError if len(set(shapes)) > 1 else DTypeError) as caught:
            d(*leaves, **attrs)
        lines = str(caught.value).split("\n")
        assert lines[0].startswith(f"{d.name}: ") and ("expects" in lines[0] or "shapes" in lines[0]), lines[
            0
        ]
        assert lines[1].startswith("  called at test_ops.py:"), lines
        assert lines[2] == f"  input 0: {leaves[0].type}", lines


def test_a_number_becomes_a_constant_of_the_nodes_dtype() -> None:
    x = input_node("x", TensorType(f16, (2,)))
    assert (x + 1).dtype is f16
    assert (2 / x).inputs[0].op == "broadcast"
    with pytest.raises(DTypeError, match="add: expects at least one node"):
        REGISTRY["add"](1, 2)


def test_tolerances_cover_every_float() -> None:
    assert set(RELATIVE) == {t.name for t in FLOATS}
