"""Indices of loop nests, and the addresses that they mean, as LLVM IR text.

The turns of an unrolled loop come with the same `Index` objects and other numbers for the loop's variable. What is known of an
object is kept: how it grows by lane, what it is in lane 0, and, inside the loops around it, the sum of what varies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from graphopt.ir.index import Index, Loaded, Quotient, Remainder, Var, index
from graphopt.ir.types import DType, i32, i64
from graphopt.kernel.loops import Buffer, Expr
from graphopt.kernel.machine import Machine
from graphopt.llvm.scalars import LLVMScalars, Val, type_of


@dataclass(frozen=True, slots=True)
class Lane:
    """The vector loop being emitted: its variable, the width, how many lanes are active."""

    var: Var
    width: int
    active: int

    @property
    def mask(self) -> str:
        bits = ", ".join(f"i1 {'true' if k < self.active else 'false'}" for k in range(self.width))
        return "splat (i1 true)" if self.active == self.width else f"<{bits}>"


class Places(LLVMScalars, ABC):
    """Numbers and addresses for the indices of a kernel.

    vars: what the variables of open loops are, numbers in unrolled ones. lane: the vector loop that is open.
    """

    _names: dict[Buffer, str]
    _held: bool  # a contraction: addresses stay in registers of their own

    def __init__(self, machine: Machine):
        super().__init__(machine)
        self.vars: dict[Var, int | str] = {}
        self.lane: Lane | None = None
        # The Index is kept with what is known of it, so that no other takes its id.
        self._firsts: dict[tuple[int, Var], tuple[Index, Index]] = {}
        self._strides: dict[tuple[int, Var], tuple[Index, int | None]] = {}
        self._sums: list[dict[int, tuple[Index, list[tuple[Var, int]], Val | None, int]]] = [{}]  # for each open loop

    @abstractmethod
    def value(self, e: Expr) -> Val:
        """The value of an expression, which an index may have been loaded by."""

    def _lane_stride(self, i: Index) -> int | None:
        """Growth per lane: 0 for a uniform index, 1 for neighbours, None for anything else."""
        if self.lane is None:
            return 0
        key = id(i), self.lane.var
        known = self._strides.get(key)
        if known is not None:
            return known[1]
        stride = self._stride_of(i, self.lane.var)
        if not i.is_loaded:
            self._strides[key] = i, stride
        return stride

    def _stride_of(self, i: Index, lane: Var) -> int | None:
        if not self._varies(i):
            return 0
        return 1 if i.coefficient(lane) == 1 and not any(self._atom_varies(a) for a, _ in i.terms if a is not lane) else None

    def _varies(self, i: Index) -> bool:
        return any(self._atom_varies(a) for a, _ in i.terms)

    def _atom_varies(self, atom: Var | Quotient | Remainder | Loaded) -> bool:
        if isinstance(atom, Var):
            return self.lane is not None and atom is self.lane.var
        if isinstance(atom, Loaded):
            return self.value(atom.value).lanes > 0
        return self._varies(atom.index)

    def _index_as(self, i: Index, dtype: DType) -> Val:
        """An index as a number: lanes are counted in 32 bits where those hold the index, half the vectors of 64."""
        lane = self.lane
        least, most = i.range
        if lane is None or self._lane_stride(i) == 0 or not -(1 << 31) <= least <= most < 1 << 31 or dtype.bits > 32:
            return self.cast(self.index_value(i), dtype)
        stride = i.coefficient(lane.var)
        if not stride or any(self._atom_varies(a) for a, _ in i.terms if a is not lane.var):
            return self.cast(self.index_value(i), dtype)
        first = self.cast(self.index_value(self._first(i, lane)), i32)
        steps = Val(f"<{', '.join(f'i32 {k * stride}' for k in range(lane.width))}>", i32, lane.width)
        return self.cast(self.add(first, steps), dtype)

    def index_value(self, i: Index) -> Val:
        """An index as an i64, a vector of them when it varies by lane."""
        total, const = self._index_parts(i)
        if total is None:
            return self.const(const, i64)
        return self.add(total, self.const(const, i64)) if const else total

    def _first(self, i: Index, lane: Lane) -> Index:
        """An index of the kernel in lane 0, the same object for the same index."""
        key = id(i), lane.var
        if key not in self._firsts:
            self._firsts[key] = i, i.substitute({lane.var: index(0)})
        return self._firsts[key][1]

    def _index_parts(self, i: Index) -> tuple[Val | None, int]:
        """(what varies, the constant rest). Outer loops' terms are added first, so that their sum leaves the inner loop.

        The turns of an unrolled loop come here with the same index and other numbers: what varies is known then.
        """
        known = self._sums[-1].get(id(i))
        if known is None:
            if not all(self._is_steady(atom) for atom, _ in i.terms):
                return self._sum_of(i)
            counted = [(atom, c) for atom, c in i.terms if isinstance(atom, Var) and isinstance(self.vars[atom], int)]
            rest = Index(i.const, tuple([term for term in i.terms if term not in counted])) if counted else i
            known = self._sums[-1][id(i)] = i, counted, *self._sum_of(rest)
        _, counted, total, const = known
        for var, c in counted:
            const += c * int(self.vars[var])
        return total, const

    def _is_steady(self, atom: Var | Quotient | Remainder | Loaded) -> bool:
        """Is a variable, or what is made of loops' variables, the same wherever it is used inside these loops?"""
        if isinstance(atom, Var):
            return self.lane is None or atom is not self.lane.var
        if isinstance(atom, Loaded):
            return False
        return all(
            isinstance(self.vars.get(a), str) if isinstance(a, Var) else self._is_steady(a) for a, _ in atom.index.terms
        )

    def _sum_of(self, i: Index) -> tuple[Val | None, int]:
        const = i.const
        parts: list[tuple[int, Val]] = []
        for atom, c in i.terms:
            v = self._atom(atom)
            if isinstance(v, int):
                const += c * v
            else:
                part = v if c == 1 else self.mul(v, self.const(c, i64))
                parts.append((self._depth.get(part.ref, 1 << 30), part))
        total: Val | None = None
        for _, part in sorted(parts, key=lambda p: (p[1].lanes, p[0])):
            total = part if total is None else self.add(total, part)
        return total, const

    def _atom(self, atom: Var | Quotient | Remainder | Loaded) -> Val | int:
        if isinstance(atom, Var):
            if self.lane is not None and atom is self.lane.var:
                steps = ", ".join(f"i64 {k}" for k in range(self.lane.width))
                return Val(f"<{steps}>", i64, self.lane.width)
            bound = self.vars[atom]
            return bound if isinstance(bound, int) else Val(bound, i64)
        if isinstance(atom, Loaded):
            return self.cast(self.value(atom.value), i64)
        inner = self.index_value(atom.index)
        if not inner.ref.startswith("%") and not inner.ref.startswith("<"):
            return int(inner.ref) // atom.by if isinstance(atom, Quotient) else int(inner.ref) % atom.by
        low = atom.index.range[0]
        shift = 0 if low >= 0 else -(low // atom.by)
        if shift:
            inner = self.add(inner, self.const(shift * atom.by, i64))
        inner_t = type_of(i64, inner.lanes)
        by = self.splat(self.const(atom.by, i64), inner.lanes).ref
        name = "udiv" if isinstance(atom, Quotient) else "urem"
        result = Val(self.pure(f"{name} {inner_t} {inner.ref}, {by}"), i64, inner.lanes)
        return self.sub(result, self.const(shift, i64)) if shift and isinstance(atom, Quotient) else result

    def _address(self, buffer: Buffer, i: Index, own: int = 0) -> str:
        """The varying part and the constant part apart: neighbours share the first, the second is free.

        A contraction has the first in one register: Intel's processors split a multiply-add that reads memory at the
        sum of two registers, and start half as many. LLVM would add them up in each instruction, if it saw the sum.

        own: loads that LLVM should not make one have the first in registers of their own, as often copied as this says.
        """
        total, const = self._index_parts(i)
        m = self.memory_element(buffer.dtype)
        base = self._names[buffer]
        if total is not None:
            base = self.pure(f"getelementptr inbounds {m}, ptr {base}, i64 {total.ref}")
        for _ in range(own + (total is not None and self._held and not buffer.local)):
            base = self.pure(f'call ptr asm "", "=r,0"(ptr {base})')
        return self.pure(f"getelementptr inbounds {m}, ptr {base}, i64 {const}") if const else base

    def _addresses(self, buffer: Buffer, i: Index) -> str:
        assert self.lane is not None
        offset = self.splat(self.index_value(i), self.lane.width)
        m = self.memory_element(buffer.dtype)
        return self.pure(f"getelementptr {m}, ptr {self._names[buffer]}, <{self.lane.width} x i64> {offset.ref}")


__all__ = ["Lane", "Places"]
