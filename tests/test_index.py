"""Index arithmetic equals that of plain integers, whatever it simplifies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import prod

from hypothesis import given
from hypothesis import strategies as st

from graphopt.ir.index import Index, Quotient, Remainder, Var, delinear, index, linear

X, Y, Z = Var("i", 5), Var("j", 4), Var("k", 3)
VARS = (X, Y, Z)
POINTS = [dict(zip(VARS, point, strict=True)) for point in product(*(range(v.size) for v in VARS))]


@dataclass(frozen=True)
class Both:
    """The same expression as an Index and as a function of plain integers."""

    index: Index
    value: Callable[[dict[Var, int]], int]


def evaluated(i: Index, point: dict[Var, int]) -> int:
    """An Index at a point, by its terms."""
    total = i.const
    for atom, c in i.terms:
        if isinstance(atom, Var):
            total += c * point[atom]
        elif isinstance(atom, Quotient):
            total += c * (evaluated(atom.index, point) // atom.by)
        else:
            assert isinstance(atom, Remainder)
            total += c * (evaluated(atom.index, point) % atom.by)
    return total


def _leaf(draw: Callable[..., int]) -> Both:
    k = draw(st.integers(0, len(VARS)))
    if k < len(VARS):
        return Both(index(VARS[k]), lambda p: p[VARS[k]])
    number = draw(st.integers(-20, 20))
    return Both(index(number), lambda p: number)


@st.composite
def expressions(draw: Callable[..., int], depth: int = 5) -> Both:
    """A random expression of sums, multiples, quotients and remainders; multiples favour each other's divisors."""
    if depth == 0 or draw(st.integers(0, 5)) == 0:
        return _leaf(draw)
    a: Both = draw(expressions(depth - 1))  # type: ignore[assignment]
    what = draw(st.sampled_from(("add", "sub", "mul", "div", "mod", "div", "mod", "again")))
    if what in ("add", "sub"):
        b: Both = draw(expressions(depth - 1))  # type: ignore[assignment]
        if what == "add":
            return Both(a.index + b.index, lambda p: a.value(p) + b.value(p))
        return Both(a.index - b.index, lambda p: a.value(p) - b.value(p))
    n = draw(st.sampled_from((1, 2, 3, 4, 5, 6, 12, 20)))
    if what == "mul":
        n *= draw(st.sampled_from((1, -1, 0, 1)))
        return Both(a.index * n, lambda p: a.value(p) * n)
    if what == "div":
        return Both(a.index // n, lambda p: a.value(p) // n)
    if what == "mod":
        return Both(a.index % n, lambda p: a.value(p) % n)
    # what reshapes write: the quotient and the remainder put together again, or something close to it
    m = draw(st.sampled_from((n, n, 1, 2, -n, 2 * n)))
    return Both((a.index // n) * m + a.index % n, lambda p: (a.value(p) // n) * m + a.value(p) % n)


@given(expressions())
def test_every_expression_equals_plain_integers(e: Both) -> None:
    for point in POINTS:
        assert evaluated(e.index, point) == e.value(point), (e.index, point)


@given(expressions())
def test_the_range_is_a_bound_and_constants_are_known(e: Both) -> None:
    low, high = e.index.range
    values = [e.value(point) for point in POINTS]
    assert low <= min(values) and max(values) <= high, e.index
    for v in VARS:
        if not e.index.depends(v):
            assert all(e.value(p) == e.value({**p, v: 0}) for p in POINTS), (e.index, v)
    assert e.index.variables() == {v for v in VARS if e.index.depends(v)}


@given(expressions(), expressions(depth=2), expressions(depth=2))
def test_substitution_evaluates_in_the_new_place(e: Both, a: Both, b: Both) -> None:
    """A variable is replaced by something inside its range: a reading of a and b at that point."""
    inside = {X: a.index % X.size, Y: b.index % Y.size}
    found = e.index.substitute(inside)
    for point in POINTS:
        there = {**point, X: a.value(point) % X.size, Y: b.value(point) % Y.size}
        assert evaluated(found, point) == e.value(there), (e.index, inside, point)


@given(expressions(), expressions())
def test_equal_expressions_agree_and_hash_alike(a: Both, b: Both) -> None:
    assert (a.index + b.index) == (b.index + a.index)
    assert hash(a.index + b.index) == hash(b.index + a.index)
    assert a.index - a.index == index(0)
    assert a.index + b.index - b.index == a.index
    if a.index == b.index:
        assert all(a.value(p) == b.value(p) for p in POINTS)


SHAPES = st.lists(st.sampled_from((1, 2, 3, 4, 5)), min_size=1, max_size=4).map(tuple)


@given(SHAPES)
def test_linear_and_delinear_undo_each_other(shape: tuple[int, ...]) -> None:
    """The element number's index is the index again, without a quotient left; and the other way round."""
    vars = tuple(Var(f"v{k}", n) for k, n in enumerate(shape))
    place = tuple(index(v) for v in vars)
    offset = linear(place, shape)
    assert offset.is_affine
    back = delinear(offset, shape)
    assert all(b == p or n == 1 for b, p, n in zip(back, place, shape, strict=True)), (back, place)
    flat = Var("p", prod(shape))
    assert linear(delinear(index(flat), shape), shape) == index(flat) or flat.size == 1


@given(SHAPES, SHAPES)
def test_delinear_gives_the_places_of_a_reshape(shape: tuple[int, ...], other: tuple[int, ...]) -> None:
    """Element numbers of one array split by another array's shape: the first axis takes what is over."""
    flat = Var("p", prod(shape))
    parts = delinear(index(flat), (1 + prod(shape) // prod(other[1:]), *other[1:]))
    for p in range(flat.size):
        rest = p
        for part, n in zip(reversed(parts[1:]), reversed(other[1:]), strict=True):
            assert evaluated(part, {flat: p}) == rest % n
            rest //= n
        assert evaluated(parts[0], {flat: p}) == rest


def test_regrouping_costs_nothing() -> None:
    """Quotients and remainders that only regroup are gone at once; others stay, as one atom."""
    i, j = index(X), index(Y)
    both = i * Y.size + j
    assert (both // Y.size, both % Y.size) == (i, j)
    assert (both * 3 + index(Z)) // 12 == i
    assert (both + 40) // Y.size == i + 10
    assert (both // 2) // 2 == i
    assert (both // 3 * 3 + both % 3) == both
    assert len((both // 3).terms) == 1 and not (both // 3).is_affine
    assert (i * 8 + j * 2) % 4 == (j * 2) % 4
    assert i.coefficient(Y) == 0 and both.coefficient(X) == Y.size
