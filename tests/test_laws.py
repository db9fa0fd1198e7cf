"""Laws and rules: both sides are equal on delicate values, and the left side is in fact matched."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from graphopt.errors import CompileError
from graphopt.ir.graph import Graph, Node, input_node, state_node, walk
from graphopt.ir.types import DTYPES, FLOATS, DType, TensorType, bf16, bool_, f16, f32, f64, i8, i32, i64, u8
from graphopt.opdefs import elementwise
from graphopt.opdefs.control import items, loop
from graphopt.opdefs.elementwise import alias, cast, eq, neg, select, special_values
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.index import gather, scatter_add
from graphopt.opdefs.linalg import dot_general
from graphopt.opdefs.math import exp
from graphopt.opdefs.opdef import constant, full, opdef
from graphopt.opdefs.reduce import reduce_max, reduce_sum
from graphopt.opdefs.rows import gather_rows, row_tensor, scatter_set
from graphopt.opdefs.shape import broadcast, concat, iota, pad, reshape, reverse, slice_, transpose
from graphopt.passes.laws import holds
from graphopt.passes.pipeline import close, random_array
from graphopt.passes.rewrite import LAWS, RULES, Law, Steps, law, same_number, sweep
from graphopt.passes.simplify import simplify


def _leaf(name: str, shape: tuple[int, ...], dtype: DType = f32) -> Node:
    return input_node(name, TensorType(dtype, shape))


def _delicate(kinds: list[DType]) -> list[np.ndarray]:
    """Every combination of three zeros, ones, infinities, NaN, ends of the range, one array for each variable."""
    values = [special_values(d) for d in kinds]
    if len(kinds) > 2:
        values = [v[:: max(1, len(v) // 8)] for v in values]
    grid = list(product(*values))
    return [np.array([row[k] for row in grid], d.numpy) for k, d in enumerate(kinds)]


def _dtypes_of(rule: Law, dtype: DType) -> list[DType]:
    return [rule.kinds.get(v.attrs["name"], dtype) for v in rule.variables]


LAW_CASES = [pytest.param(rule, d, id=f"{rule.name}-{d.short}") for rule in LAWS.values() for d in rule.dtypes]


@pytest.mark.parametrize(("rule", "dtype"), LAW_CASES)
def test_both_sides_of_a_law_are_equal(rule: Law, dtype: DType) -> None:
    kinds = _dtypes_of(rule, dtype)
    rng = np.random.default_rng(0)
    arrays = _delicate(kinds) if rule.exact else [random_array(TensorType(d, (100,)), rng) for d in kinds]
    leaves = [_leaf(f"x{k}", a.shape, d) for k, (a, d) in enumerate(zip(arrays, kinds, strict=True))]
    left = rule.left(*leaves)
    right = rule.apply(left)
    assert right is not None, "the left side is not matched"
    assert right.type == left.type
    a, b = evaluate_nodes([left, right], dict(zip(leaves, arrays, strict=True)))
    if not rule.exact:
        assert close(a, b)
        return
    different = (a != b) & ~((a != a) & (b != b))
    if dtype.is_float and a.dtype == dtype.numpy:
        different |= (np.signbit(a) != np.signbit(b)) & (a == a)
    assert not different.any(), f"{[x[different] for x in arrays]}: {a[different]} became {b[different]}"


@pytest.mark.parametrize("rule", LAWS.values(), ids=lambda rule: rule.name)
def test_exact_laws_are_applied_and_others_never(rule: Law) -> None:
    kinds = _dtypes_of(rule, rule.dtypes[-1])
    leaves = tuple(_leaf(v.attrs["name"], (3,), d) for v, d in zip(rule.variables, kinds, strict=True))
    steps = Steps()
    graph = Graph("law", leaves, (), (rule.left(*leaves),))
    simplify(graph, steps)
    if not rule.exact:
        assert rule.name not in steps.names
    elif rule.name not in ("maximum_again", "minimum_again"):
        assert steps.names, "nothing was rewritten"
    assert (rule.name in [n for n, _ in RULES.get(rule.pattern.op, [])]) == rule.exact


def test_minus_zero_is_not_zero() -> None:
    x = _leaf("x", (3,))
    for value, vanishes in ((0.0, False), (-0.0, True)):
        graph = Graph("zero", (x,), (), (x + value,))
        assert (simplify(graph, Steps()).outputs == (x,)) is vanishes
    assert not same_number(0.0, -0.0) and not same_number(float("nan"), float("nan"))


X = _leaf("x", (4, 6))
Y = _leaf("y", (6, 5))
Z = _leaf("z", (2, 3, 4))
V = _leaf("v", (6,))
W = _leaf("w", (6,))
P = _leaf("p", ())
ONE = _leaf("one", (1, 4, 1))
INT = _leaf("k", (5,), i32)
PLACE = _leaf("place", (3,), i32)
HALF = _leaf("half", (3,), f16)
BOOL = _leaf("c", (4, 6), bool_)
MATRIX = {"batch": ((), ()), "contract": ((1,), (0,))}


def _sized(x: Node, low: int, high: int, value: float = 0.0) -> Node:
    return pad(x, constant(value, x.dtype), low=(low,) * x.type.rank, high=(high,) * x.type.rank, interior=(0,) * x.type.rank)


def _spread(x: Node, axis: int, start: int, size: int) -> Node:
    """Zeros of a size along an axis with x from a place on."""
    low = tuple(start if k == axis else 0 for k in range(x.type.rank))
    high = tuple(size - start - x.shape[axis] if k == axis else 0 for k in range(x.type.rank))
    return pad(x, constant(0.0, x.dtype), low=low, high=high, interior=(0,) * x.type.rank)


AT = _leaf("at", (3,), i32)


def _unless(changed: Node) -> Node:
    """The change where one number says so."""
    flag = broadcast(_leaf("flag", (), bool_), shape=changed.shape, axes=())
    return elementwise.select(flag, changed, changed.inputs[0])


def _cut(x: Node, start: int, stop: int, step: int = 1) -> Node:
    return slice_(x, start=(start,) * x.type.rank, stop=(stop,) * x.type.rank, step=(step,) * x.type.rank)


def _stack(reverse: bool) -> Node:
    """The carry of each trip of a loop, stacked."""
    h, row = state_node("h", TensorType(f32, (6,))), input_node("row", TensorType(f32, (6,)))
    fresh = h * row
    body = Graph("body", (row,), (h,), (fresh,), ((h, fresh),))
    return items(loop(V, X, body=body, test=None, length=4, reverse=reverse, stacked=1, counted=False))[1]


# rule -> left sides it must match
EXAMPLES: dict[str, list[Callable[[], Node]]] = {
    "fold": [lambda: constant([1.0, 2.0]) * constant([3.0, 4.0]), lambda: reduce_sum(constant(np.ones((3, 4))), axes=(0,))],
    "constant_right": [lambda: 2.0 * X, lambda: elementwise.eq(full((4, 6), 1, f32), X)],
    "dissolve": [lambda: alias(X), lambda: elementwise.stop_gradient(X)],
    "select_known": [lambda flag=flag: elementwise.select(full((4, 6), flag, bool_), X, -X) for flag in (True, False)],
    "neg_of_scaled": [lambda: -(X * 3.0), lambda: -(X / 3.0), lambda: -(INT * 3)],
    "divide_by_power_of_two": [lambda: X / 8.0, lambda: X / -0.25, lambda: HALF / 1024.0],
    "small_power": [lambda k=k: X**k for k in (0, 1, 2, 3, -1)] + [lambda k=k: INT**k for k in (0, 1, 2, 3)],
    "cast_of_cast": [
        lambda: cast(X, dtype=f32),
        lambda: cast(cast(X, dtype=f64), dtype=f16),
        lambda: cast(cast(HALF, dtype=f32), dtype=i8),
        lambda: cast(cast(BOOL, dtype=i32), dtype=f32),
        lambda: cast(cast(INT, dtype=i64), dtype=u8),
    ],
    "lift_broadcast": [
        lambda: exp(broadcast(V, shape=(4, 6), axes=(1,))),
        lambda: broadcast(V, shape=(4, 6), axes=(1,)) * broadcast(P, shape=(4, 6), axes=()),
        lambda: cast(full((4, 6), 2, f32), dtype=i32),
    ],
    "lift_reshape": [
        lambda: exp(reshape(V, shape=(6, 1))),
        lambda: reshape(V, shape=(6, 1)) * reshape(W, shape=(6, 1)),
        lambda: reshape(V, shape=(1, 6)) * 2.0,
    ],
    "reshape_of_reshape": [lambda: reshape(X, shape=(4, 6)), lambda: reshape(reshape(X, shape=(3, 8)), shape=(2, 12))],
    "reshape_of_broadcast": [
        lambda: reshape(broadcast(P, shape=(4, 6), axes=()), shape=(8, 3)),
        lambda: reshape(broadcast(V, shape=(1, 6, 2), axes=(1,)), shape=(6, 1, 2, 1)),
    ],
    "broadcast_of_few": [
        lambda: broadcast(X, shape=(4, 6), axes=(0, 1)),
        lambda: broadcast(X, shape=(4, 1, 6), axes=(0, 2)),
        lambda: broadcast(ONE, shape=(1, 4, 3, 1), axes=(0, 1, 3)),
    ],
    "broadcast_of_broadcast": [lambda: broadcast(broadcast(V, shape=(4, 6), axes=(1,)), shape=(4, 2, 6), axes=(0, 2))],
    "transpose_of_transpose": [
        lambda: transpose(X, perm=(0, 1)),
        lambda: transpose(transpose(Z, perm=(1, 2, 0)), perm=(1, 0, 2)),
        lambda: transpose(ONE, perm=(1, 0, 2)),
    ],
    "transpose_of_broadcast": [lambda: transpose(broadcast(X, shape=(4, 2, 6), axes=(0, 2)), perm=(1, 0, 2))],
    "transpose_of_dot_general": [
        lambda: transpose(dot_general(X, Y, **MATRIX), perm=(1, 0)),
        lambda: transpose(dot_general(Z, Z, batch=((0,), (0,)), contract=((2,), (2,))), perm=(0, 2, 1)),
    ],
    "dot_general_of_transpose": [
        lambda: dot_general(transpose(_leaf("a", (6, 4)), perm=(1, 0)), Y, **MATRIX),
        lambda: dot_general(X, transpose(_leaf("b", (5, 6)), perm=(1, 0)), **MATRIX),
    ],
    "slice_of_slice": [
        lambda: slice_(Y, start=(0, 0), stop=(6, 5), step=(1, 1)),
        lambda: _cut(_cut(X, 0, 4), 1, 3),
        lambda: _cut(slice_(X, start=(0, 1), stop=(4, 6), step=(1, 2)), 1, 3, 2),
        lambda: _cut(broadcast(P, shape=(4, 6), axes=()), 1, 3),
        lambda: slice_(slice_(V, start=(2,), stop=(5,), step=(2,)), start=(2,), stop=(2,), step=(3,)),
    ],
    "sum_of_pads": [
        lambda: _spread(X, 1, 2, 11) + _spread(_leaf("r", (4, 2)), 1, 0, 11) + _spread(_leaf("q", (4, 3)), 1, 8, 11),
        lambda: _spread(HALF, 0, 3, 6) + _spread(HALF, 0, 0, 6),
    ],
    "slice_of_stack": [
        lambda: slice_(_stack(False), start=(3, 1), stop=(4, 6), step=(1, 2)),
        lambda: slice_(_stack(True), start=(0, 0), stop=(1, 6), step=(2, 1)),
    ],
    "slice_of_pad": [lambda: _cut(_sized(X, 2, 3), 3, 6, 2)],
    "pad_of_nothing": [lambda: _sized(X, 0, 0), lambda: _sized(X, -1, -2), lambda: _sized(X, -1, 0)],
    "pad_of_pad": [lambda: _sized(_sized(X, 1, 2), 3, 0), lambda: _sized(_sized(X, 1, 0, -0.0), -3, 1, -0.0)],
    "concat_of_concat": [
        lambda: concat(X, axis=0),
        lambda: concat(X, concat(-X, X, axis=1), axis=1),
        lambda: concat(_leaf("e", (0, 6)), X, axis=0),
    ],
    "reverse_of_reverse": [
        lambda: reverse(X, axes=()),
        lambda: reverse(reverse(X, axes=(0, 1)), axes=(1,)),
        lambda: reverse(broadcast(V, shape=(4, 6), axes=(1,)), axes=(0, 1)),
        lambda: reverse(ONE, axes=(0, 1)),
    ],
    "reduce_of_ones": [
        lambda: reduce_sum(X, axes=()),
        lambda: reduce_max(ONE, axes=(0, 2)),
        lambda: reduce_sum(ONE, axes=(0, 1)),
    ],
    "reduce_of_broadcast": [
        lambda: reduce_sum(broadcast(V, shape=(4, 6, 2), axes=(1,)), axes=(0, 2)),
        lambda: reduce_sum(broadcast(V, shape=(4, 6, 2), axes=(1,)), axes=(1, 2)),
        lambda: reduce_max(broadcast(V, shape=(4, 6, 2), axes=(1,)), axes=(0, 1, 2)),
        lambda: reduce_sum(broadcast(HALF, shape=(3, 70000), axes=(0,)), axes=(1,)),
        lambda: reduce_sum(broadcast(X, shape=(4, 6, 2), axes=(0, 1)), axes=(1,)),
    ],
    "reduce_of_transpose": [
        lambda: reduce_sum(transpose(Z, perm=(2, 0, 1)), axes=(1,)),
        lambda: reduce_max(transpose(Z, perm=(2, 1, 0)), axes=(1,)),
    ],
    "sum_of_hit": [
        lambda: reduce_sum(_hit(broadcast(PLACE, shape=(3, 9), axes=(0,)), 1), axes=(1,)),
        lambda: reduce_sum(_hit(broadcast(PLACE, shape=(2, 3), axes=(1,)), 0), axes=(0,)),
    ],
    "sum_of_neg": [lambda: reduce_sum(-X, axes=(0,))],
    "rows_are_gathered": [lambda: gather_rows(X, AT), lambda: gather_rows(INT, AT)],
    "rows_are_scattered": [lambda: row_tensor(AT, _leaf("r", (3, 6)), shape=(4, 6))],
    "gather_of_cast": [lambda: gather(cast(X, dtype=f16), AT, axis=0), lambda: gather(cast(X, dtype=bool_), AT, axis=1)],
    "select_of_scatter": [
        lambda: _unless(scatter_set(X, constant([2, 7, 0], i32), _leaf("r", (3, 6)))),
        lambda: _unless(scatter_add(X, AT, _leaf("r", (4, 3)), axis=1)),
        lambda: _unless(scatter_add(X, constant([2, 2, -1], i8), _leaf("r", (3, 6)), axis=0)),
    ],
}


def test_every_rule_has_an_example() -> None:
    rules = {name for candidates in RULES.values() for name, _ in candidates} - set(LAWS)
    assert rules == set(EXAMPLES)


@pytest.mark.parametrize(("rule", "left"), [(r, left) for r, lefts in EXAMPLES.items() for left in lefts])
def test_a_rule_matches_and_keeps_the_value(rule: str, left: Callable[[], Node]) -> None:
    node = left()
    leaves = tuple(n for n in walk([node]) if n.op == "input")
    steps = Steps()
    only = {op: [(n, r) for n, r in candidates if n == rule] for op, candidates in RULES.items()}
    after = sweep(Graph("rule", leaves, (), (node,)), only, steps)
    assert rule in steps.names, "the left side is not matched"
    assert after.outputs[0].type == node.type
    arrays = {n: random_array(n.type, np.random.default_rng(1)) for n in leaves}
    if rule == "reduce_of_broadcast":  # 70,000 equal halves must stay in range
        arrays = {n: (a * 1e-2).astype(a.dtype) for n, a in arrays.items()}
    a, b = evaluate_nodes([node, after.outputs[0]], arrays)
    assert close(a, b), f"{a} became {b}"


def _hit(place: Node, axis: int) -> Node:
    """A value of each row, or column, at one position of it; zero elsewhere."""
    hit = eq(place, iota(shape=place.shape, axis=axis, dtype=i32))
    value = broadcast(_leaf("value", (3,)), shape=place.shape, axes=(1 - axis,))
    return select(hit, value, full(place.shape, 0.0, f32))


UNTOUCHED: list[Callable[[], Node]] = [
    lambda: _spread(V, 0, 2, 9) + _spread(_leaf("r", (1,)), 0, 8, 9),
    lambda: _spread(V, 0, 2, 8) + _spread(V, 0, 0, 8),
    lambda: X / 3.0,
    lambda: X / 0.0,
    lambda: X / float("inf"),
    lambda: X**0.5,
    lambda: cast(cast(X, dtype=f16), dtype=f32),
    lambda: cast(cast(HALF, dtype=bf16), dtype=f32),
    lambda: cast(cast(INT, dtype=f64), dtype=i8),
    lambda: _sized(_sized(X, -1, 1), 1, 0),
    lambda: _sized(_sized(X, 1, 1, 1.0), 1, 1, 0.0),
    lambda: _cut(_sized(X, 1, 1), 0, 3),
    lambda: transpose(broadcast(X, shape=(4, 2, 6), axes=(0, 2)), perm=(2, 1, 0)),
    lambda: dot_general(transpose(Z, perm=(1, 0, 2)), _leaf("w", (4, 7)), batch=((), ()), contract=((2,), (0,))),
    lambda: reshape(broadcast(V, shape=(4, 6), axes=(1,)), shape=(24,)),
]


@pytest.mark.parametrize("left", UNTOUCHED)
def test_what_only_looks_like_a_law_stays(left: Callable[[], Node]) -> None:
    node = left()
    steps = Steps()
    simplify(Graph("same", tuple(n for n in walk([node]) if n.op == "input"), (), (node,)), steps)
    assert steps.names == []


@pytest.mark.parametrize("dtype", FLOATS)
def test_dividing_by_a_power_of_two_is_exact(dtype: DType) -> None:
    values = special_values(dtype)
    x = _leaf("x", values.shape, dtype)
    for divisor in (2.0**14, -2.0, 2.0**-14):
        graph = Graph("div", (x,), (), (x / divisor,))
        after = simplify(graph, Steps())
        assert after.outputs[0].op == "mul"
        a, b = evaluate_nodes([graph.outputs[0], after.outputs[0]], {x: values})
        np.testing.assert_array_equal(a.astype(np.float64), b.astype(np.float64))


def test_the_sum_of_many_equal_halves_does_not_overflow() -> None:
    x = _leaf("x", (), f16)
    graph = Graph("sum", (x,), (), (reduce_sum(broadcast(x, shape=(70000,), axes=()), axes=(0,)),))
    after = simplify(graph, Steps())
    assert "reduce_sum" not in [n.op for n in walk(after.roots)]
    (found,) = evaluate_nodes(after.roots, {x: np.array(0.5, np.float16)})
    assert found == np.float16(35000)


@pytest.mark.parametrize("source", DTYPES, ids=lambda d: d.short)
def test_casts_by_way_of_another_dtype_keep_their_value(source: DType) -> None:
    values = special_values(source)
    x = _leaf("x", values.shape, source)
    for middle, target in product(DTYPES, DTYPES):
        node = cast(cast(x, dtype=middle), dtype=target)
        after = simplify(Graph("cast", (x,), (), (node,)), Steps()).outputs[0]
        a, b = evaluate_nodes([node, after], {x: values})
        assert a.dtype == b.dtype and np.array_equal(a.astype(f64.numpy), b.astype(f64.numpy), equal_nan=True), (middle, target)


@pytest.mark.parametrize("narrow", DTYPES, ids=lambda d: d.short)
@pytest.mark.parametrize("wide", DTYPES, ids=lambda d: d.short)
def test_a_dtype_holds_another_when_it_has_all_its_values(wide: DType, narrow: DType) -> None:
    values = special_values(narrow)
    same = cast.evaluate(TensorType(wide, values.shape), [values], {"dtype": wide}).tolist()
    pairs = [(a, b) for a, b in zip(values.tolist(), same, strict=True) if a == a]
    assert holds(wide, narrow) == all(a == b for a, b in pairs)


def test_rules_that_chase_each_other_are_reported() -> None:
    def there(n: Node) -> Node:
        return opdef("abs")(n.inputs[0])

    def back(n: Node) -> Node:
        return neg(n.inputs[0])

    graph = Graph("chase", (X,), (), (-X,))
    with pytest.raises(CompileError, match="chase each other"):
        sweep(graph, {"neg": [("there", there)], "abs": [("back", back)]}, Steps())
    with pytest.raises(CompileError, match="contains the node it replaces"):
        sweep(graph, {"neg": [("wrap", opdef("abs"))]}, Steps())
    with pytest.raises(CompileError, match=r"rewrite grow: f32\[4,6\] became f32\[24\]"):
        sweep(graph, {"neg": [("grow", lambda n: reshape(n.inputs[0], shape=(24,)))]}, Steps())


def test_the_limit_stops_after_the_nth_rewrite() -> None:
    graph = Graph("limit", (X,), (), (alias(alias(alias(X))),))
    assert [len(walk(simplify(graph, Steps(k)).roots)) for k in range(5)] == [4, 3, 2, 1, 1]


def test_a_law_is_declared_once() -> None:
    with pytest.raises(TypeError, match="law neg_neg is declared twice"):
        law("neg_neg", lambda x: neg(neg(x)), lambda x: x, dtypes=FLOATS)
