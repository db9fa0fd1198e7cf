"""The loop interpreter: kernels on numpy arrays, one iteration after another, a loop of lanes as one array operation.

Slow and obviously right: it is the oracle of the LLVM emitter, and folds in the same order, so both give equal bits
wherever the machine fuses no multiply-add.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.ir.index import Index, Loaded, Quotient, Var
from graphopt.kernel.loops import Buffer, Const, Expr, Fold, For, If, IndexValue, Kernel, Load, Stmt, Store
from graphopt.kernel.numpy_scalars import NumpyScalars


class Interpreter:
    """Runs one kernel over flat arrays, one per parameter."""

    def __init__(self, kernel: Kernel, arrays: Sequence[np.ndarray]):
        self.kernel = kernel
        self.memory: dict[Buffer, np.ndarray] = dict(zip(kernel.params, arrays, strict=True))
        for b in kernel.locals:
            self.memory[b] = np.zeros(b.size, b.dtype.numpy)
        self.vars: dict[Var, Any] = {}
        self.scalars = NumpyScalars()
        self.lanes = 0
        self._known: dict[int, Any] = {}

    def run(self) -> None:
        with np.errstate(all="ignore"):
            self._body(self.kernel.body)

    def _body(self, body: Sequence[Stmt]) -> None:
        for s in body:
            if isinstance(s, For):
                self._loop(s)
            elif isinstance(s, If):
                self._known = {}
                self._if(s, self.value(s.condition))
            elif isinstance(s, Store):
                self._known = {}
                self._store(s)

    def _if(self, s: If, condition: Any) -> None:
        if bool(condition):
            self._body(s.body)

    def _store(self, s: Store) -> None:
        value = self.value(s.value)
        where = self._place(s.buffer, s.index)
        self.memory[s.buffer][where] = np.broadcast_to(value, np.shape(where)) if np.ndim(where) else value

    def _place(self, buffer: Buffer, i: Index) -> Any:
        """The elements of an array that an index of its buffer means."""
        return self.index(i)

    def _loop(self, s: For) -> None:
        if s.kind == "lanes":
            self.lanes = s.var.size
            self.vars[s.var] = np.arange(s.var.size)
            self._body(s.body)
            self.lanes = 0
            return
        for k in range(s.var.size):
            self.vars[s.var] = k
            self._body(s.body)

    def index(self, i: Index) -> Any:
        total: Any = i.const
        for atom, c in i.terms:
            if isinstance(atom, Var):
                part = self.vars[atom]
            elif isinstance(atom, Loaded):
                part = np.asarray(self.value(atom.value)).astype(np.int64)
            else:
                inner = self.index(atom.index)
                part = inner // atom.by if isinstance(atom, Quotient) else inner % atom.by
            total = total + c * part
        return total

    def value(self, e: Expr) -> Any:
        if id(e) not in self._known:
            self._known[id(e)] = self._value(e)
        return self._known[id(e)]

    def _value(self, e: Expr) -> Any:
        if isinstance(e, Const):
            return self.scalars.const(e.value, e.dtype)
        if isinstance(e, Load):
            return self._load(e)
        if isinstance(e, IndexValue):
            return np.asarray(self.index(e.index)).astype(e.dtype.numpy)
        if isinstance(e, Fold):
            start = int(self.index(e.offset))
            x = self.memory[e.buffer][start : start + e.lanes]
            while len(x) > 1:
                half = len(x) // 2
                x = getattr(self.scalars, e.name)(x[:half], x[half:])
            return x[0]
        args = [self.value(a) for a in e.args]
        if e.name in ("cast", "bitcast"):
            return getattr(self.scalars, e.name)(args[0], e.dtype)
        if e.name == "table":
            return self.scalars.table(e.extra, args[0], e.dtype)
        return getattr(self.scalars, e.name)(*args)

    def _load(self, e: Load) -> Any:
        where = self._place(e.buffer, e.index)
        memory = self.memory[e.buffer]
        if e.mask is None:
            return memory[where]
        mask = np.asarray(self.value(e.mask))
        other = self.value(e.other) if e.other is not None else np.zeros((), memory.dtype)
        if memory.size == 0:
            return np.broadcast_to(other, np.broadcast_shapes(mask.shape, np.shape(where))).copy()
        safe = np.where(mask, where, 0)
        return np.where(mask, memory[safe], other).astype(memory.dtype)


def run(kernel: Kernel, arrays: Mapping[Buffer, np.ndarray]) -> None:
    """Run a kernel in place on the flat arrays of its buffers."""
    Interpreter(kernel, [arrays[b] for b in kernel.args]).run()
