"""The loop language: what a kernel is, how it prints, and when it is well formed.

A kernel is a list of loops over flat buffers. Loop variables count from 0; five kinds of loop:

    par     iterations are divided among the threads; only outermost; iterations touch disjoint elements
    serial  one after the other
    unroll  copied out when the code is emitted
    steps   the same, and instructions of one iteration stay apart from those of the next
    lanes   one vector: at most `width` iterations at once; what does not depend on the variable stays a scalar

Local buffers are registers or stack, large ones memory of the thread; all others are the kernel's parameters, in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphopt.errors import CompileError
from graphopt.ir.index import Index, Loaded, Quotient, Var, index
from graphopt.ir.types import DType, bf16, bool_, f16, f32


@dataclass(frozen=True, slots=True, eq=False)
class Buffer:
    """A flat array: a kernel's parameter, or local to one iteration of its outermost loop."""

    name: str
    dtype: DType
    size: int
    local: bool = False

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, eq=False)
class Const:
    value: Any
    dtype: DType


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """buffer[index]; where `mask` is given and false, memory is not touched and the value is `other`.

    own: 0, or a number: loads of one element that differ in it are not one load, so that instructions can read it themselves.
    """

    buffer: Buffer
    index: Index
    mask: Expr | None = None
    other: Expr | None = None
    own: int = 0

    @property
    def dtype(self) -> DType:
        return self.buffer.dtype


@dataclass(frozen=True, slots=True, eq=False)
class IndexValue:
    """An index as a number."""

    index: Index
    dtype: DType


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """A method of the Scalars protocol on values; `extra` holds the table of `table`."""

    name: str
    args: tuple[Expr, ...]
    dtype: DType
    extra: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """Lanes of a local buffer combined in a fixed tree: element k with element k + n/2, then halve."""

    name: str
    buffer: Buffer
    offset: Index
    lanes: int

    @property
    def dtype(self) -> DType:
        return self.buffer.dtype


Expr = Const | Load | IndexValue | Op | Fold


@dataclass(frozen=True, slots=True, eq=False)
class For:
    var: Var
    kind: str
    body: tuple[Stmt, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Store:
    buffer: Buffer
    index: Index
    value: Expr


@dataclass(frozen=True, slots=True, eq=False)
class If:
    """A uniform condition (it may not depend on a lane)."""

    condition: Expr
    body: tuple[Stmt, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Fetch:
    """The cache line of an element is needed soon, for writing if `write` says so: no effect but that it comes.

    ahead: it is the line so many elements further on. It, and the element, may lie behind the array's end.
    level: the cache it should come to, 1 or 2: few lines can be on their way to the first at once, and it holds little.
    """

    buffer: Buffer
    index: Index
    write: bool = False
    ahead: int = 0
    level: int = 1


Stmt = For | Store | If | Fetch


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """A function of its buffers. `width` is the number of lanes; `work` an estimate in instructions.

    params: what the body calls its buffers; reads, writes: those of them that it reads and writes.
    args:   the buffers it works on, one for each parameter. Kernels that do the same to different buffers share a body.
    """

    name: str
    params: tuple[Buffer, ...]
    locals: tuple[Buffer, ...]
    body: tuple[Stmt, ...]
    width: int
    reads: frozenset[Buffer]
    writes: frozenset[Buffer]
    args: tuple[Buffer, ...]
    work: float = 0.0
    flops: int = 0
    nodes: tuple[Any, ...] = field(default=())

    @property
    def contracts(self) -> bool:
        """Whether it, or what it copies, belongs to a contraction."""
        return any(n.op in ("dot_general", "conv_general") for n in self.nodes)

    @property
    def extent(self) -> int:
        """Iterations of the widest parallel loop."""
        return max((s.var.size for s in self.body if isinstance(s, For) and s.kind == "par"), default=1)


_SAME = {"eq": bool_, "ne": bool_, "lt": bool_, "le": bool_, "gt": bool_, "ge": bool_}


class Recorder:
    """The Scalars protocol as a recorder: every method makes an expression."""

    def dtype_of(self, x: Expr) -> DType:
        return x.dtype

    def const(self, value: Any, dtype: DType) -> Expr:
        return Const(value, dtype)

    def cast(self, x: Expr, dtype: DType) -> Expr:
        return x if x.dtype is dtype else Op("cast", (x,), dtype)

    def bitcast(self, x: Expr, dtype: DType) -> Expr:
        return x if x.dtype is dtype else Op("bitcast", (x,), dtype)

    def select(self, condition: Expr, a: Expr, b: Expr) -> Expr:
        return Op("select", (condition, a, b), a.dtype)

    def table(self, values: tuple[int, ...], index: Expr, dtype: DType) -> Expr:
        return Op("table", (index,), dtype, tuple(values))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def record(*args: Expr) -> Expr:
            first = args[0].dtype
            if any(a.dtype is not first for a in args):
                raise CompileError(f"{name}: operands of dtypes {[a.dtype.short for a in args]}; an op's scalar rule mixes them")
            return Op(name, args, _SAME.get(name, first))

        return record


def statements(body: Sequence[Stmt]) -> Iterator[Stmt]:
    """All statements, outer before inner."""
    for s in body:
        yield s
        if isinstance(s, For | If):
            yield from statements(s.body)


def expressions(expr: Expr, seen: set[int] | None = None) -> Iterator[Expr]:
    """All sub-expressions, shared ones once."""
    seen = set() if seen is None else seen
    stack = [expr]
    while stack:
        e = stack.pop()
        if id(e) in seen:
            continue
        seen.add(id(e))
        yield e
        stack.extend(operands(e))


def loaded(i: Index) -> list[Expr]:
    """The values an index depends on."""
    found: list[Expr] = []
    for atom, _ in i.terms:
        if isinstance(atom, Loaded):
            found.append(atom.value)
        elif not isinstance(atom, Var):
            found.extend(loaded(atom.index))
    return found


def reads_and_writes(kernel: Kernel) -> tuple[set[Buffer], set[Buffer]]:
    """The buffers that a kernel reads, and those it writes."""
    pairs = list(zip(kernel.params, kernel.args, strict=True))
    return {b for p, b in pairs if p in kernel.reads}, {b for p, b in pairs if p in kernel.writes}


def accumulator(dtype: DType) -> DType:
    """The dtype sums run in."""
    return f32 if dtype in (f16, bf16) else dtype


HEAVY = frozenset({"exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf", "sin", "cos", "pow"})
"""Scalars methods that take about _HEAVY_WORK instructions."""

_HEAVY_WORK = 25.0


def work_of(body: Sequence[Stmt], width: int, lane: Var | None = None) -> float:
    """Instructions that the statements execute, roughly: a vector operation is one, a gathered lane is one."""
    total = 0.0
    for s in body:
        if isinstance(s, For):
            inner = s.var if s.kind == "lanes" else lane
            total += work_of(s.body, width, inner) * (1 if s.kind == "lanes" else s.var.size) + s.var.size * (s.kind == "serial")
        elif isinstance(s, If):
            total += 1.0 + work_of(s.body, width, lane)
        elif isinstance(s, Fetch):
            total += 1.0
        else:
            for e in expressions(s.value):
                total += _work(e, width, lane)
            total += width if lane is not None and s.index.coefficient(lane) not in (0, 1) else 1.0
    return total


def _work(e: Expr, width: int, lane: Var | None) -> float:
    if isinstance(e, Op):
        return _HEAVY_WORK if e.name in HEAVY else 4.0 if e.name in ("div", "sqrt", "idiv", "rem") else 1.0
    if isinstance(e, Load):
        scattered = lane is not None and (e.index.coefficient(lane) not in (0, 1) or not e.index.is_affine)
        return float(width) if scattered else 1.0
    return 8.0 if isinstance(e, Fold) else 0.0


def make_kernel(name: str, body: Sequence[Stmt], width: int, flops: int = 0, nodes: tuple[Any, ...] = ()) -> Kernel:
    """A checked kernel; parameters and locals are collected from the body in order of appearance."""
    order: dict[Buffer, None] = {}
    reads: set[Buffer] = set()
    writes: set[Buffer] = set()
    seen: set[int] = set()
    for s in statements(body):
        if isinstance(s, For | Fetch):
            continue
        for v in (s.value, *loaded(s.index)) if isinstance(s, Store) else (s.condition,):
            for e in expressions(v, seen):
                if isinstance(e, Load | Fold):
                    order.setdefault(e.buffer)
                    reads.add(e.buffer)
        if isinstance(s, Store):
            order.setdefault(s.buffer)
            writes.add(s.buffer)
    params = tuple(b for b in order if not b.local)
    local = tuple(b for b in order if b.local)
    kernel = Kernel(
        name, params, local, tuple(body), width, frozenset(reads.difference(local)), frozenset(writes.difference(local)),
        params, work_of(body, width), flops, nodes,
    )  # fmt: skip
    check(kernel)
    return kernel


def check(kernel: Kernel) -> None:
    """Errors: CompileError when a loop of lanes is too wide or nested, or a parallel loop is not outermost."""

    def visit(body: Sequence[Stmt], depth: int, lanes: bool) -> None:
        for s in body:
            if isinstance(s, For):
                if s.kind == "lanes" and (lanes or s.var.size > kernel.width):
                    raise CompileError(f"kernel {kernel.name}: lanes {s.var} of {s.var.size} nested or wider than {kernel.width}")
                if s.kind == "par" and depth:
                    raise CompileError(f"kernel {kernel.name}: parallel loop {s.var} is not outermost")
                visit(s.body, depth + 1, lanes or s.kind == "lanes")
            elif isinstance(s, If):
                visit(s.body, depth + 1, lanes)
            elif isinstance(s, Fetch):
                if s.buffer not in (*kernel.params, *kernel.locals):
                    raise CompileError(f"kernel {kernel.name}: fetches {s.buffer}, which it neither reads nor writes")
            elif s.value.dtype is not s.buffer.dtype:
                raise CompileError(f"kernel {kernel.name}: {s.value.dtype} stored to {s.buffer} of {s.buffer.dtype}")

    visit(kernel.body, 0, False)


_STACK_BYTES = 1 << 14
_LINE_BYTES = 64


def own_places(kernel: Kernel) -> tuple[dict[Buffer, int], int]:
    """Where the local buffers that are too large for a stack lie in a thread's own memory, and how many bytes they take."""
    places: dict[Buffer, int] = {}
    end = 0
    for b in kernel.locals:
        size = b.size * b.dtype.itemsize
        if size > _STACK_BYTES:
            places[b] = end
            end += -(-size // _LINE_BYTES) * _LINE_BYTES
    return places, end


def same_lanes(kernel: Kernel) -> frozenset[Buffer]:
    """Local vectors of which the same lanes are read and written everywhere: a store need not keep the others.

    If it did, such a vector would live on from loop to loop, and take a register from a contraction's accumulators.
    """
    lanes: dict[Buffer, set[int]] = {b: set() for b in kernel.locals if b.size == kernel.width}

    def visit(body: Sequence[Stmt], lane: For | None) -> None:
        for s in body:
            if isinstance(s, For):
                visit(s.body, s if s.kind == "lanes" else lane)
                continue
            if isinstance(s, Fetch):
                continue
            found = [(s.buffer, s.index)] if isinstance(s, Store) else []
            for root in (s.value, *loaded(s.index)) if isinstance(s, Store) else (s.condition,):
                for e in expressions(root):
                    if isinstance(e, Load | Fold) and e.buffer in lanes:
                        found.append((e.buffer, e.index if isinstance(e, Load) else e.offset + e.lanes))
            for buffer, at in found:
                if buffer in lanes:
                    lanes[buffer].add(lane.var.size if lane is not None and at == index(lane.var) else 0)
            if isinstance(s, If):
                visit(s.body, lane)

    if lanes:
        visit(kernel.body, None)
    return frozenset(b for b, found in lanes.items() if len(found) == 1 and 0 not in found)


class _Signature:
    """Numbers buffers, variables and expressions in order of appearance."""

    def __init__(self, kernel: Kernel):
        self.parts: list[str] = [str(kernel.width)]
        self.buffers = {b: f"b{k}" for k, b in enumerate((*kernel.params, *kernel.locals))}
        self.parts += [f"{n}:{b.dtype.short}{b.size if b.local else ''}" for b, n in self.buffers.items()]
        self.vars: dict[Var, str] = {}
        self.known: dict[int, str] = {}
        self.body(kernel.body)

    def body(self, body: Sequence[Stmt]) -> None:
        for s in body:
            if isinstance(s, For):
                name = self.vars.setdefault(s.var, f"v{len(self.vars)}")
                self.parts.append(f"{s.kind} {name}<{s.var.size}{{")
            elif isinstance(s, If):
                self.parts.append(f"if {self.expr(s.condition)}{{")
            elif isinstance(s, Fetch):
                self.parts.append(f"fetch {self.buffers[s.buffer]}[{self.index(s.index)}]{s.write}{s.ahead},{s.level}")
                continue
            else:
                self.parts.append(f"{self.buffers[s.buffer]}[{self.index(s.index)}]={self.expr(s.value)}")
                continue
            self.body(s.body)
            self.parts.append("}")

    def index(self, i: Index) -> str:
        parts = [str(i.const)]
        for atom, c in i.terms:
            if isinstance(atom, Var):
                parts.append(f"{c}{self.vars[atom]}")
            elif isinstance(atom, Loaded):
                parts.append(f"{c}[{self.expr(atom.value)}]")
            else:
                parts.append(f"{c}({self.index(atom.index)}){'/' if isinstance(atom, Quotient) else '%'}{atom.by}")
        return "+".join(parts)

    def expr(self, e: Expr) -> str:
        known = self.known.get(id(e))
        if known is not None:
            return known
        if isinstance(e, Const):
            return f"{e.value!r}:{e.dtype.short}"
        if isinstance(e, Load):
            mask = "" if e.mask is None or e.other is None else f"?{self.expr(e.mask)}|{self.expr(e.other)}"
            text = f"{self.buffers[e.buffer]}[{self.index(e.index)}]{mask}{'!' * e.own}"
        elif isinstance(e, IndexValue):
            text = f"{e.dtype.short}({self.index(e.index)})"
        elif isinstance(e, Fold):
            text = f"fold_{e.name}({self.buffers[e.buffer]}[{self.index(e.offset)}:{e.lanes}])"
        else:
            text = f"{e.name}:{e.dtype.short}({','.join([self.expr(a) for a in e.args])}){e.extra or ''}"
        self.known[id(e)] = name = f"e{len(self.known)}"
        self.parts.append(f"{name}={text}")
        return name


def signature(kernel: Kernel) -> str:
    """Equal for kernels that are the same code, whatever their buffers, variables and name are called.

    Cost: linear in the kernel's text, far less than emitting it.
    """
    return "\n".join(_Signature(kernel).parts)


def loop(kind: str, name: str, size: int, body: Any) -> list[Stmt]:
    """`size` iterations of `body(index)`, which returns statements.

    Loops of nothing vanish, and so do loops of one iteration, but for lanes.
    """
    if size == 0:
        return []
    if size == 1 and kind in ("serial", "unroll", "steps"):
        return list(body(index(0)))
    var = Var(name, size)
    inner = tuple(body(index(var)))
    return [For(var, kind, inner)] if inner else []


_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}


class _Namer:
    """Names shared and long sub-expressions of one statement, so that its text stays linear in its size."""

    def __init__(self, roots: Sequence[Expr], called: Mapping[Buffer, Buffer]):
        self.called = called
        self.uses: dict[int, int] = {}
        self.names: dict[int, str] = {}
        self.lines: list[str] = []
        seen: set[int] = set()
        for root in roots:
            for e in expressions(root, seen):
                for child in operands(e):
                    self.uses[id(child)] = self.uses.get(id(child), 0) + 1

    def text(self, e: Expr) -> str:
        if id(e) in self.names:
            return self.names[id(e)]
        shown = self._plain(e)
        if isinstance(e, Op) and (self.uses.get(id(e), 0) > 1 or len(shown) > 100):
            name = f"t{len(self.names)}"
            self.names[id(e)] = name
            self.lines.append(f"{name} = {shown}")
            return name
        return shown

    def index(self, i: Index) -> str:
        parts: list[str] = []
        for atom, c in i.terms:
            if isinstance(atom, Var):
                text = atom.name
            elif isinstance(atom, Loaded):
                text = self.text(atom.value)
            else:
                text = f"({self.index(atom.index)}) {'//' if isinstance(atom, Quotient) else '%'} {atom.by}"
                text = f"({text})" if c != 1 else text
            parts.append(text if c == 1 else f"{c}*{text}")
        return " + ".join(parts + ([str(i.const)] if i.const or not parts else []))

    def _plain(self, e: Expr) -> str:
        if isinstance(e, Const):
            if e.dtype.kind == "b":
                return str(bool(e.value))
            kind = "" if e.dtype.short == "f32" else f":{e.dtype.short}"
            return f"{float(e.value) if e.dtype.is_float else int(e.value)}{kind}"
        if isinstance(e, Load):
            text = f"{self.called.get(e.buffer, e.buffer)}[{self.index(e.index)}]{'!' * e.own}"
            return text if e.mask is None or e.other is None else f"({text} if {self.text(e.mask)} else {self.text(e.other)})"
        if isinstance(e, IndexValue):
            return f"{e.dtype.short}({self.index(e.index)})"
        if isinstance(e, Fold):
            return f"fold_{e.name}({e.buffer}[{self.index(e.offset)} : {e.lanes}])"
        args = [self.text(a) for a in e.args]
        if e.name in _INFIX:
            return f"({args[0]} {_INFIX[e.name]} {args[1]})"
        if e.name in ("cast", "bitcast"):
            return f"{e.name if e.name == 'bitcast' else ''}{e.dtype.short}({args[0]})"
        return f"{e.name}({', '.join(args)})"


def operands(e: Expr) -> list[Expr]:
    """The expressions that one is computed from, those in indices too."""
    if isinstance(e, Op):
        return list(e.args)
    if isinstance(e, Load):
        return [x for x in (e.mask, e.other) if x is not None] + loaded(e.index)
    return loaded(e.index) if isinstance(e, IndexValue) else []


def show(kernel: Kernel) -> str:
    """A kernel as readable pseudo-code."""
    called = dict(zip(kernel.params, kernel.args, strict=True))
    head = ", ".join(f"{b}: {b.dtype.short}[{b.size}]" for b in kernel.args)
    lines = [f"kernel {kernel.name}({head}) width {kernel.width}:"]
    lines.extend(f"  local {b}: {b.dtype.short}[{b.size}]" for b in kernel.locals)

    def visit(body: Sequence[Stmt], indent: str) -> None:
        for s in body:
            if isinstance(s, For):
                lines.append(f"{indent}{s.kind} {s.var} < {s.var.size}:")
                visit(s.body, indent + "  ")
            elif isinstance(s, If):
                namer = _Namer([s.condition], called)
                text = namer.text(s.condition)
                lines.extend(indent + line for line in namer.lines)
                lines.append(f"{indent}if {text}:")
                visit(s.body, indent + "  ")
            elif isinstance(s, Fetch):
                place = _Namer([], called).index(s.index + s.ahead)
                lines.append(f"{indent}fetch{'' if s.level == 1 else s.level} {called.get(s.buffer, s.buffer)}[{place}]")
            else:
                namer = _Namer([s.value, *loaded(s.index)], called)
                text = f"{called.get(s.buffer, s.buffer)}[{namer.index(s.index)}] = {namer.text(s.value)}"
                lines.extend(indent + line for line in namer.lines)
                lines.append(indent + text)

    visit(kernel.body, "  ")
    return "\n".join(lines)
