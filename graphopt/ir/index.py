"""Index arithmetic of loop nests: sums of multiples of loop variables, simplified as they are built.

An `Index` is `const + sum(coefficient * atom)`. Atoms are loop variables, quotients and remainders by constants, and
integers loaded from memory. Every atom knows its range, so `(i * 5 + j) // 5` with 0 <= j < 5 is `i` at once: reshapes
and collapsed loops cost nothing when they only regroup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_FAR = 1 << 62


@dataclass(frozen=True, slots=True, eq=False)
class Var:
    """A loop variable: 0 <= var < size. Compared by identity."""

    name: str
    size: int

    @property
    def range(self) -> tuple[int, int]:
        return 0, self.size - 1

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Quotient:
    """index // by."""

    index: Index
    by: int

    @property
    def range(self) -> tuple[int, int]:
        low, high = self.index.range
        return low // self.by, high // self.by

    def __repr__(self) -> str:
        return f"({self.index}) // {self.by}"


@dataclass(frozen=True, slots=True)
class Remainder:
    """index % by."""

    index: Index
    by: int

    @property
    def range(self) -> tuple[int, int]:
        return 0, self.by - 1

    def __repr__(self) -> str:
        return f"({self.index}) % {self.by}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """An integer value used as an index."""

    value: Any

    @property
    def range(self) -> tuple[int, int]:
        return -_FAR, _FAR

    def __repr__(self) -> str:
        return f"[{self.value}]"


Atom = Var | Quotient | Remainder | Loaded


class Index:
    """An integer expression over loop variables. Immutable; equal expressions are equal and hash alike."""

    __slots__ = ("_hash", "_range", "const", "terms")

    def __init__(self, const: int, terms: tuple[tuple[Atom, int], ...] = ()):
        self.const = const
        self.terms = terms
        self._hash: int | None = None
        self._range: tuple[int, int] | None = None

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash((self.const, frozenset(self.terms)))
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Index):
            return NotImplemented
        return self.const == other.const and len(self.terms) == len(other.terms) and set(self.terms) == set(other.terms)

    @property
    def range(self) -> tuple[int, int]:
        """Least and greatest value."""
        if self._range is None:
            low = high = self.const
            for atom, c in self.terms:
                a, b = atom.range
                low += c * (a if c > 0 else b)
                high += c * (b if c > 0 else a)
            self._range = (low, high)
        return self._range

    def coefficient(self, var: Var) -> int:
        for atom, c in self.terms:
            if atom is var:
                return c
        return 0

    @property
    def is_affine(self) -> bool:
        """Only loop variables as atoms."""
        return all(isinstance(atom, Var) for atom, _ in self.terms)

    @property
    def is_loaded(self) -> bool:
        """Are integers loaded from memory in it?"""
        return any(isinstance(a, Loaded) or (not isinstance(a, Var) and a.index.is_loaded) for a, _ in self.terms)

    def variables(self) -> set[Var]:
        """All loop variables, inside quotients and remainders too (not those of loaded values)."""
        found: set[Var] = set()
        for atom, _ in self.terms:
            if isinstance(atom, Var):
                found.add(atom)
            elif not isinstance(atom, Loaded):
                found |= atom.index.variables()
        return found

    def depends(self, var: Var) -> bool:
        """Does the value change with `var`? Loaded values count as depending on it."""
        return any(
            atom is var or isinstance(atom, Loaded) or (not isinstance(atom, Var) and atom.index.depends(var))
            for atom, _ in self.terms
        )

    def substitute(self, values: dict[Var, Index]) -> Index:
        """Replace variables."""
        result = index(self.const)
        for atom, c in self.terms:
            if isinstance(atom, Var):
                result = result + (values[atom] if atom in values else index(atom)) * c
            elif isinstance(atom, Quotient):
                result = result + (atom.index.substitute(values) // atom.by) * c
            elif isinstance(atom, Remainder):
                result = result + (atom.index.substitute(values) % atom.by) * c
            else:
                result = result + Index(0, ((atom, c),))
        return result

    def __add__(self, other: Index | int) -> Index:
        if isinstance(other, int):
            return Index(self.const + other, self.terms)
        if not other.terms:
            return Index(self.const + other.const, self.terms)
        if not self.terms:
            return Index(self.const + other.const, other.terms)
        return _normal(self.const + other.const, (*self.terms, *other.terms))

    __radd__ = __add__

    def __neg__(self) -> Index:
        return self * -1

    def __sub__(self, other: Index | int) -> Index:
        return self + (-other)

    def __rsub__(self, other: int) -> Index:
        return -self + other

    def __mul__(self, by: int) -> Index:
        if by == 1:
            return self
        if by == 0:
            return ZERO
        return Index(self.const * by, tuple((a, c * by) for a, c in self.terms))

    __rmul__ = __mul__

    def __floordiv__(self, by: int) -> Index:
        if by == 1:
            return self
        whole, rest = self._split(by)
        low, high = rest.range
        if low // by == high // by:
            return whole + low // by
        if len(rest.terms) == 1 and rest.const == 0 and rest.terms[0][1] == 1 and isinstance(rest.terms[0][0], Quotient):
            inner = rest.terms[0][0]
            return whole + inner.index // (inner.by * by)
        return whole + Index(0, ((Quotient(rest, by), 1),))

    def __mod__(self, by: int) -> Index:
        if by == 1:
            return ZERO
        _, rest = self._split(by)
        low, high = rest.range
        if low // by == high // by:
            return rest - (low // by) * by
        return Index(0, ((Remainder(rest, by), 1),))

    def _split(self, by: int) -> tuple[Index, Index]:
        """self = whole * by + rest, moving every multiple of `by` into `whole`."""
        whole = tuple((a, c // by) for a, c in self.terms if c % by == 0)
        rest = tuple((a, c) for a, c in self.terms if c % by != 0)
        low = sum(c * (a.range[0] if c > 0 else a.range[1]) for a, c in rest)
        carry = self.const // by if -_FAR < low < _FAR else 0
        return Index(carry, whole), Index(self.const - carry * by, rest)

    def __repr__(self) -> str:
        parts = [f"{'' if c == 1 else '-' if c == -1 else f'{c}*'}{a!r}" for a, c in self.terms]
        if self.const or not parts:
            parts.append(str(self.const))
        return " + ".join(parts)


def _normal(const: int, terms: Iterable[tuple[Atom, int]]) -> Index:
    """Collect equal atoms; put (x // n) * n + x % n back together as x."""
    sums: dict[Atom, int] = {}
    for atom, c in terms:
        sums[atom] = sums.get(atom, 0) + c
    for atom in [a for a in sums if isinstance(a, Remainder)]:
        c = sums.get(atom, 0)
        if c == 0 or not isinstance(atom, Remainder):
            continue
        quotient = atom.index // atom.by
        if quotient.const == 0 and len(quotient.terms) == 1 and quotient.terms[0][1] == 1:
            q = quotient.terms[0][0]
            if sums.get(q) == c * atom.by:
                del sums[q], sums[atom]
                return _normal(const, sums.items()) + atom.index * c
    return Index(const, tuple((a, c) for a, c in sums.items() if c))


@lru_cache(maxsize=4096)
def _of_var(var: Var) -> Index:
    return Index(0, ((var, 1),))


def index(value: int | Var | Index) -> Index:
    """An Index from a number, a loop variable, or itself."""
    if isinstance(value, Index):
        return value
    return Index(value) if isinstance(value, int) else _of_var(value)


ZERO = Index(0)


def linear(idx: Iterable[Index], shape: tuple[int, ...]) -> Index:
    """Row-major element offset of `idx` in an array of `shape`."""
    offset = ZERO
    stride = 1
    for i, n in zip(reversed(tuple(idx)), reversed(shape), strict=True):
        if n != 1:
            offset = offset + i * stride
        stride *= n
    return offset


def delinear(offset: Index, shape: tuple[int, ...]) -> tuple[Index, ...]:
    """The row-major index of element number `offset` in an array of `shape`."""
    result: list[Index] = []
    stride = 1
    for k in range(len(shape) - 1, -1, -1):
        part = offset // stride
        result.append((part % shape[k] if k > 0 else part) if shape[k] != 1 else ZERO)
        stride *= shape[k]
    return tuple(reversed(result))


class Dims:
    """The `Contracts` protocol: records the loop dimensions and operand indices of a contraction."""

    def __init__(self, name: Callable[[int], str] = "d{}".format):
        self.outs: list[Var] = []
        self.sums: list[Var] = []
        self._name = name

    def _var(self, size: int) -> Var:
        return Var(self._name(len(self.outs) + len(self.sums)), size)

    def out(self, size: int) -> Index:
        var = self._var(size)
        self.outs.append(var)
        return index(var)

    def sum(self, size: int) -> Index:
        var = self._var(size)
        self.sums.append(var)
        return index(var)

    def product(self, out: Iterable[Any], a: Iterable[Any], b: Iterable[Any]) -> Any:
        self.c, self.a, self.b = (tuple(index(i) for i in side) for side in (out, a, b))
        return self
