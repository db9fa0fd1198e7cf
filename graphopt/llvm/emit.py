"""Kernels and the step that calls them, as LLVM IR text.

Every kernel is a function of (thread, threads, buffers...); the step runs its kernels in order, each thread on its own
slice, with barriers where the plan says. Loops of lanes become vector instructions: an index that grows by one per lane
is a vector load, one that does not change a scalar, anything else a gather.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from graphopt.errors import CompileError
from graphopt.ir.index import Index, Quotient, index
from graphopt.kernel.loops import (
    Buffer,
    Const,
    Expr,
    Fetch,
    Fold,
    For,
    If,
    IndexValue,
    Kernel,
    Load,
    Stmt,
    Store,
    operands,
    own_places,
    same_lanes,
)
from graphopt.kernel.machine import Machine
from graphopt.llvm.ahead import LINE, TURNS, Ahead, rows_ahead, streamed
from graphopt.llvm.places import Lane, Places
from graphopt.llvm.scalars import Val, type_of
from graphopt.llvm.streams import LEAST, merged, most_live
from graphopt.llvm.turned import Turned, transposed, turned


class KernelEmitter(Places):
    """One kernel as an LLVM function."""

    def __init__(self, kernel: Kernel, machine: Machine, constants: dict[str, str] | None = None):
        super().__init__(machine)
        self.globals = {} if constants is None else constants
        self.kernel = kernel
        self.block = "entry"
        self._labels = 0
        self._exprs: list[dict[int, Val]] = [{}]
        self._loads: dict[Buffer, dict[str, Val]] = {}  # by the text of the address, and of the mask
        self._held = kernel.contracts
        self._streams = streamed(kernel)
        self._rows = rows_ahead(kernel)
        self._ahead = Ahead()
        self._same_lanes = same_lanes(kernel)
        self._names = {b: f"%{'l' if b.local else 'p'}{k}" for k, b in enumerate((*kernel.params, *kernel.locals))}

    def function(self, name: str, linkage: str = "internal") -> str:
        """The text of the whole function."""
        places, own = own_places(self.kernel)
        for b in self.kernel.locals:
            if b in places:
                self.line(f"{self._names[b]} = getelementptr inbounds i8, ptr %own, i64 {places[b]}")
                continue
            self.line(f"{self._names[b]} = alloca [{b.size} x {self.memory_element(b.dtype)}], align 64")
        self._depth.update(dict.fromkeys(["%thread", "%team", *self._names.values()], 0))
        self.emit(self.kernel.body)
        params = "".join(f", ptr nocapture %p{k}" for k in range(len(self.kernel.params)))
        params += ", ptr nocapture %own" if own else ""
        head = f"define {linkage} void @{name}(i64 %thread, i64 %team{params}) #0 {{\nentry:"
        return "\n".join([head, *self.text_lines(), "  ret void", "}"])

    # statements

    def emit(self, body: Sequence[Stmt]) -> None:
        for s in body:
            before, self._ahead = self._ahead, self._rows.get(s, self._ahead)
            if isinstance(s, Store):
                self._store(s)
            elif isinstance(s, If):
                self._if(s)
            elif isinstance(s, Fetch):
                self._prefetch(self._address(s.buffer, s.index), s.ahead * s.buffer.dtype.itemsize, s.level, s.write)
            elif s.kind == "lanes":
                self._lanes(s)
            elif s.kind in ("unroll", "steps"):
                abreast = self._abreast(s)
                for k in range(s.var.size):
                    if k > 0 and s.kind == "steps":
                        self._stay_apart()
                    if k % abreast == 0 and k > 0:
                        self._side_by_side(s, range(k, min(k + abreast, s.var.size)))
                    self.vars[s.var] = k
                    self._scoped(s.body)
            else:
                self._loop(s)
            self._ahead = before

    def _stay_apart(self) -> None:
        """No instruction moves across this place: it is a label for debuggers of another system, which makes no code.

        LLVM would begin as many steps of a sum as it sees, and spill the accumulators of those that wait.
        """
        self.declared.setdefault("llvm.codeview.annotation", "declare void @llvm.codeview.annotation(metadata)")
        self.line('call void @llvm.codeview.annotation(metadata !{!"step"})')

    def _abreast(self, s: For) -> int:
        """How many turns of an unrolled loop are computed side by side; the first of them are computed here.

        They hold a few values more than there are registers: storing those costs less than waiting for long chains does.
        """
        inner = s.body[0]
        if self._held or len(s.body) != 1 or not isinstance(inner, For) or inner.kind != "lanes":
            return s.var.size
        if not all(isinstance(x, Store) for x in inner.body):
            return s.var.size
        first = self._stream(s, 0)
        many = max(self.machine.vector_registers * 9 // 8 // max(most_live(first), 1), 1) if len(first) >= LEAST else 1
        self.lines += merged([first, *[self._stream(s, k) for k in range(1, min(many, s.var.size))]])
        return many if many > 1 else s.var.size

    def _stream(self, s: For, turn: int) -> list[Any]:
        """The instructions of one turn's values, as far as they do not read what the turns store."""
        self.vars[s.var] = turn
        before, self.lines = self.lines, []
        inner = s.body[0]
        assert isinstance(inner, For)
        stores = [x for x in inner.body if isinstance(x, Store)]
        stored = {x.buffer for x in stores}
        free: dict[int, bool] = {}

        def is_free(e: Expr) -> bool:
            if id(e) not in free:
                own = not (isinstance(e, Load | Fold) and e.buffer in stored)
                free[id(e)] = own and all(is_free(x) for x in operands(e))
            return free[id(e)]

        self.lane = Lane(inner.var, self.kernel.width, inner.var.size)
        self._exprs.append({})
        pending = [x.value for x in reversed(stores)]
        while pending:
            e = pending.pop()
            if is_free(e):
                self.value(e)
            else:
                pending += reversed(operands(e))
        self._exprs.pop()
        self.lane = None
        stream, self.lines = self.lines, before
        return stream

    def _side_by_side(self, s: For, turns: range) -> None:
        """Compute the values of several turns; each turn finds its own when it comes to store them."""
        self.lines += merged([self._stream(s, k) for k in turns])

    def _scoped(self, body: Sequence[Stmt]) -> None:
        """Emit straight-line code whose expressions depend on variables just bound."""
        self._exprs.append({})
        self.emit(body)
        self._exprs.pop()

    def _lanes(self, s: For) -> None:
        self.lane = Lane(s.var, self.kernel.width, s.var.size)
        self._scoped(s.body)
        self.lane = None

    def _label(self) -> str:
        self._labels += 1
        return f"b{self._labels}"

    def _enter(self) -> None:
        """A place before the loop to come, for what the loop does not change."""
        place: list[Any] = []
        self.lines.append(place)
        self._entries.append(place)

    def _open(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.block = label
        self._pure.append({})
        self._sums.append({})
        self._loads = {}
        self._exprs = [{} for _ in self._exprs]

    def _close(self, label: str) -> None:
        self._pure.pop()
        self._sums.pop()
        self._entries.pop()
        self._loads = {}
        self._exprs = [{} for _ in self._exprs]
        self.lines.append(f"{label}:")
        self.block = label

    def _loop(self, s: For) -> None:
        """A counted loop; a parallel one runs over this thread's share [size*thread/team, size*(thread+1)/team)."""
        if parts := turned(s, self.machine.lanes):
            for part in parts:
                self._turn(s, part)
            return
        head, done = self._label(), self._label()
        low, high = "0", str(s.var.size)
        if s.kind == "par":
            low = self.pure(f"udiv i64 {self.pure(f'mul i64 %thread, {s.var.size}')}, %team")
            after = self.pure("add i64 %thread, 1")
            high = self.pure(f"udiv i64 {self.pure(f'mul i64 {after}, {s.var.size}')}, %team")
            some = self.pure(f"icmp ult i64 {low}, {high}")
            self._enter()
            self.line(f"br i1 {some}, label %{head}, label %{done}")
        else:
            self._enter()
            self.line(f"br label %{head}")
        before = self.block
        self._open(head)
        name, follow, more = self.fresh(), self.fresh(), self.fresh()
        self._depth[name] = len(self._pure) - 1
        place = len(self.lines)
        self.vars[s.var] = name
        self._scoped(s.body)
        self.lines.insert(place, f"  {name} = phi i64 [ {low}, %{before} ], [ {follow}, %{self.block} ]")
        self.line(f"{follow} = add nuw nsw i64 {name}, 1")
        self.line(f"{more} = icmp ult i64 {follow}, {high}")
        self.line(f"br i1 {more}, label %{head}, label %{done}")
        self._close(done)

    def _turn(self, s: For, part: Turned) -> None:
        """Squares of vectors, read along the rows and written along the columns."""
        buffer, m, var = part.store.buffer, self.memory_element(part.load.dtype), part.lane.var
        width, align = self.machine.lanes(part.load.dtype.itemsize), max(buffer.dtype.itemsize, 1)
        t = f"<{width} x {m}>"

        def row(k: int, lane: Lane) -> str:
            self.vars[var] = k
            self._exprs.append({})
            base = self._address(part.load.buffer, part.load.index)
            mask = None if part.load.mask is None else self.splat(self.value(part.load.mask), width).ref
            self._exprs.pop()
            if mask is None:
                return self.opaque(f"load {t}, ptr {base}, align {align}")
            return self._masked_load(t, base, align, mask, m, lane)

        def shuffle(a: str, b: str, order: Sequence[int]) -> str:
            picked = ", ".join([f"i32 {k}" for k in order])
            return self.pure(f"shufflevector {t} {a}, {t} {b}, <{width} x i32> <{picked}>")

        for first, low in product(range(0, s.var.size, width), range(0, var.size, width)):
            lane = Lane(var, width, min(width, var.size - low))
            self.vars[s.var] = first
            rows = [row(low + k, lane) for k in range(lane.active)] + ["poison"] * (width - lane.active)
            for k, column in enumerate(transposed(rows, shuffle)):
                self.vars[s.var], self.vars[var] = first + k, low
                self._store_vector(buffer, f"{t} {column}", self._address(buffer, part.store.index), lane, align, m)
        self._forget(buffer)

    def _if(self, s: If) -> None:
        condition = self.value(s.condition)
        then, done = self._label(), self._label()
        self._enter()
        self.line(f"br i1 {condition.ref}, label %{then}, label %{done}")
        self._open(then)
        self._scoped(s.body)
        self.line(f"br label %{done}")
        self._close(done)

    def _store(self, s: Store) -> None:
        value = self.value(s.value)
        lane = self.lane
        stride = self._lane_stride(s.index)
        m = self.memory_element(s.buffer.dtype)
        align = max(s.buffer.dtype.itemsize, 1)
        if stride == 0:
            if value.lanes:
                raise CompileError(f"kernel {self.kernel.name}: a vector is stored to one element of {s.buffer}")
            self.line(f"store {m} {self.to_memory(value)}, ptr {self._address(s.buffer, s.index)}, align {align}")
        else:
            assert lane is not None
            value = self.splat(value, lane.width)
            data = f"<{lane.width} x {m}> {self.to_memory(value)}"
            if stride == 1:
                base = self._address(s.buffer, self._first(s.index, lane))
                self._store_vector(s.buffer, data, base, lane, align, m)
            else:
                pointers = self._addresses(s.buffer, s.index)
                suffix = m.replace("float", "f32").replace("double", "f64").replace("half", "f16")
                name = f"llvm.masked.scatter.v{lane.width}{suffix}.v{lane.width}p0"
                vector = f"<{lane.width} x "
                self.declared.setdefault(name, f"declare void @{name}({vector}{m}>, {vector}ptr>, {vector}i1>)")
                self.line(f"call void @{name}({data}, {vector}ptr> align {align} {pointers}, {vector}i1> {lane.mask})")
        self._forget(s.buffer)

    def _store_vector(self, buffer: Buffer, data: str, base: str, lane: Lane, align: int, m: str) -> None:
        t = f"<{lane.width} x {m}>"
        if buffer in self._same_lanes:
            pass  # nobody reads the lanes that are not active
        elif lane.active < lane.width and buffer.local:
            old = self.opaque(f"load {t}, ptr {base}, align {align}")
            data = f"{t} {self.pure(f'select <{lane.width} x i1> {lane.mask}, {data}, {t} {old}')}"
        elif lane.active == 1:
            # one element by itself: LLVM 22 turns a truncating masked store of one lane into a store of the wide element
            self.line(f"store {m} {self.pure(f'extractelement {data}, i64 0')}, ptr {base}, align {align}")
            return
        elif lane.active < lane.width:
            suffix = m.replace("float", "f32").replace("double", "f64").replace("half", "f16")
            name = f"llvm.masked.store.v{lane.width}{suffix}.p0"
            self.declared.setdefault(name, f"declare void @{name}({t}, ptr, <{lane.width} x i1>)")
            self.line(f"call void @{name}({data}, ptr align {align} {base}, <{lane.width} x i1> {lane.mask})")
            return
        self.line(f"store {data}, ptr {base}, align {align}")

    def _forget(self, buffer: Buffer) -> None:
        """After a store: values read from that buffer are stale, and everything computed from them in this scope."""
        self._loads.pop(buffer, None)
        self._exprs = [{} for _ in self._exprs]

    # expressions

    def value(self, e: Expr) -> Val:
        for scope in reversed(self._exprs):
            known = scope.get(id(e))
            if known is not None:
                return known
        result = self._value(e)
        self._exprs[-1][id(e)] = result
        return result

    def _value(self, e: Expr) -> Val:
        if isinstance(e, Const):
            return self.const(e.value, e.dtype)
        if isinstance(e, Load):
            return self._load(e)
        if isinstance(e, IndexValue):
            return self._index_as(e.index, e.dtype)
        if isinstance(e, Fold):
            return self._fold(e)
        args = [self.value(a) for a in e.args]
        if e.name in ("cast", "bitcast"):
            result: Val = getattr(self, e.name)(args[0], e.dtype)
        elif e.name == "table":
            result = self.table(e.extra, args[0], e.dtype)
        else:
            result = getattr(self, e.name)(*args)
        return result

    def _load(self, e: Load) -> Val:
        stride = self._lane_stride(e.index)
        mask = self.value(e.mask) if e.mask is not None else None
        other = self.value(e.other) if e.other is not None else None
        lane = self.lane
        if stride == 0 and (mask is None or not mask.lanes):
            return self._load_one(e, mask, other)
        assert lane is not None
        m = self.memory_element(e.buffer.dtype)
        guard = lane.mask
        if mask is not None:
            wide = self.splat(mask, lane.width)
            guard = wide.ref if lane.active == lane.width else self.pure(f"and <{lane.width} x i1> {wide.ref}, {lane.mask}")
        if stride == 1:
            value = self._load_vector(e, guard, m, lane)
        elif mask is None and (shuffled := self._load_shuffled(e, m, lane)) is not None:
            value = shuffled
        else:
            pointers = self._addresses(e.buffer, e.index)
            value = self.from_memory(self.gather(pointers, e.buffer.dtype, lane.width, guard, m), e.dtype, lane.width)
        return value if mask is None or other is None else self.select(mask, value, other)

    def _load_one(self, e: Load, mask: Val | None, other: Val | None) -> Val:
        m = self.memory_element(e.buffer.dtype)
        address = self._address(e.buffer, e.index, e.own if self.machine.spreads else 0)
        if mask is not None:
            safe = self.globals.setdefault("private unnamed_addr constant [16 x i8] zeroinitializer, align 16", "@safe")
            address = self.pure(f"select i1 {mask.ref}, ptr {address}, ptr {safe}")
        loads = self._loads.setdefault(e.buffer, {})
        if address not in loads:
            ref = self.opaque(f"load {m}, ptr {address}, align {max(e.dtype.itemsize, 1)}")
            loads[address] = self.from_memory(ref, e.dtype, 0)
        value = loads[address]
        return value if mask is None or other is None else self.select(mask, value, other)

    def _load_shuffled(self, e: Load, m: str, lane: Lane) -> Val | None:
        """Every second element, or every element several times, as vector loads and one shuffle; None for other patterns.

        Pooling, strided convolutions and their derivatives read like this; a gather takes several times as long.
        """
        varying = [(atom, c) for atom, c in e.index.terms if self._atom_varies(atom)]
        if len(varying) != 1 or e.buffer.local:
            return None
        atom, c = varying[0]
        rest = Index(e.index.const, tuple(t for t in e.index.terms if t[0] is not atom))
        t = f"<{lane.width} x {m}>"
        if atom is lane.var and c == 2:
            last = 2 * (lane.active - 1)
            halves = [self._load_part(e, rest + k * lane.width, last + 1 - k * lane.width, m, lane) for k in (0, 1)]
            order = list(range(0, 2 * lane.width, 2))
        elif isinstance(atom, Quotient) and c == 1 and atom.index == index(lane.var):
            halves = [self._load_part(e, rest, -(-lane.active // atom.by), m, lane), "poison"]
            order = [k // atom.by for k in range(lane.width)]
        else:
            return None
        picked = ", ".join(f"i32 {k}" for k in order)
        ref = self.pure(f"shufflevector {t} {halves[0]}, {t} {halves[1]}, <{lane.width} x i32> <{picked}>")
        return self.from_memory(ref, e.dtype, lane.width)

    def _load_part(self, e: Load, start: Index, count: int, m: str, lane: Lane) -> str:
        """`count` neighbours, at most a vector of them; the others are not touched."""
        if count <= 0:
            return "zeroinitializer"
        part = Lane(lane.var, lane.width, min(count, lane.width))
        t = f"<{lane.width} x {m}>"
        base, align = self._address(e.buffer, start), max(e.dtype.itemsize, 1)
        if part.active == lane.width:
            return self.opaque(f"load {t}, ptr {base}, align {align}")
        return self._masked_load(t, base, align, part.mask, m, lane)

    def _masked_load(self, t: str, base: str, align: int, mask: str, m: str, lane: Lane) -> str:
        suffix = m.replace("float", "f32").replace("double", "f64").replace("half", "f16")
        name = f"llvm.masked.load.v{lane.width}{suffix}.p0"
        self.declared.setdefault(name, f"declare {t} @{name}(ptr, <{lane.width} x i1>, {t})")
        return self.opaque(f"call {t} @{name}(ptr align {align} {base}, <{lane.width} x i1> {mask}, {t} zeroinitializer)")

    def _load_vector(self, e: Load, guard: str, m: str, lane: Lane) -> Val:
        first = self._first(e.index, lane)
        base = self._address(e.buffer, first)
        t = f"<{lane.width} x {m}>"
        align = max(e.dtype.itemsize, 1)
        key, loads = f"{base},{guard}", self._loads.setdefault(e.buffer, {})
        if key not in loads:
            if e.buffer.local or guard == "splat (i1 true)":
                ref = self.opaque(f"load {t}, ptr {base}, align {align}")
            else:
                ref = self._masked_load(t, base, align, guard, m, lane)
            self._ask_ahead(e, first, base, lane.width * e.dtype.itemsize == LINE)
            loads[key] = self.from_memory(ref, e.dtype, lane.width)
        return loads[key]

    def _ask_ahead(self, e: Load, first: Index, base: str, line: bool) -> None:
        """Ask for the lines that are needed some turns or a row later than what is read here, a line or a part of one."""
        if line and e.buffer in self._streams:
            self._prefetch(base, TURNS, 1)
        elif line and e.buffer in self._ahead.reads:
            self._prefetch(base, self._ahead.reads[e.buffer], 1)
            for target, further in self._ahead.writes[e.buffer]:
                self._prefetch(self._address(target, first), further, 2)  # what is to be overwritten need not come nearer

    def _prefetch(self, base: str, further: int, level: int, write: bool = False) -> None:
        """Ask for a line so many bytes on, into the cache of that level; behind an array's end that is nothing."""
        self.declared.setdefault("llvm.prefetch.p0", "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        address = self.pure(f"getelementptr i8, ptr {base}, i64 {further}") if further else base
        self.line(f"call void @llvm.prefetch.p0(ptr {address}, i32 {int(write)}, i32 {4 - level}, i32 1)")

    def _fold(self, e: Fold) -> Val:
        """Halve until one is left; while halves are whole vectors no element moves between lanes."""
        width = min(self.kernel.width, e.lanes)
        m = self.memory_element(e.dtype)
        parts: list[Val] = []
        for k in range(0, e.lanes, width):
            ref = self.opaque(f"load <{width} x {m}>, ptr {self._address(e.buffer, e.offset + k)}, align {e.dtype.itemsize}")
            parts.append(self.from_memory(ref, e.dtype, width))
        combine = getattr(self, e.name)
        while len(parts) > 1:
            half = len(parts) // 2
            parts = [combine(a, b) for a, b in zip(parts[:half], parts[half:], strict=True)]
        x = parts[0]
        while x.lanes > 2:
            half = x.lanes // 2
            t = type_of(x.dtype, x.lanes)
            low, high = (
                Val(
                    self.pure(f"shufflevector {t} {x.ref}, {t} poison, <{half} x i32> <{', '.join(f'i32 {k}' for k in r)}>"),
                    x.dtype,
                    half,
                )
                for r in (range(half), range(half, x.lanes))
            )
            x = combine(low, high)
        t = type_of(x.dtype, x.lanes)
        first, *rest = [Val(self.pure(f"extractelement {t} {x.ref}, i64 {k}"), x.dtype) for k in range(x.lanes)]
        return combine(first, rest[0]) if rest else first


__all__ = ["KernelEmitter"]
