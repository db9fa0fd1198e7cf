"""The step as LLVM IR text: a function that runs kernels, in their branches and loops, and the modules it comes in.

Every thread of the team runs the same function. Kernels that the team does not share are run by thread 0 alone, and so are
whole loops of such kernels; a barrier stands where the plan says. A kernel that is dealt out in chunks is called for one after
the other, as if the team had as many threads. Conditions of what the team runs are read by each thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphopt.errors import CompileError
from graphopt.kernel.barriers import LARGER, TEAMS
from graphopt.kernel.items import Choose, Item, Repeat, kernels_of
from graphopt.kernel.loops import Buffer, Kernel, Stmt, own_places, signature
from graphopt.kernel.machine import Machine
from graphopt.kernel.step import Step
from graphopt.llvm.emit import KernelEmitter

_X86 = ("declare void @llvm.x86.sse.ldmxcsr(ptr)", "store i32 {}, ptr %mode", "call void @llvm.x86.sse.ldmxcsr(ptr %mode)")
_ARM = ("declare void @llvm.aarch64.set.fpcr(i64)", "call void @llvm.aarch64.set.fpcr(i64 {})")
_FLUSH = {"x86_64": (_X86, 0x9FC0, 0x1F80), "aarch64": (_ARM, 1 << 24, 0), "arm64": (_ARM, 1 << 24, 0)}
"""By processor: what sets its mode, the mode in which denormals are 0, and that in which the runtime calls a step."""

_PART = 60_000  # characters of a module: LLVM takes some 25 ms for it, and some 1 ms for a module without code


def emit_step(
    entry: str,
    step: Step,
    machine: Machine,
    triple: str,
    part: Callable[[str], None] | None = None,
    times_at: int = -1,
    flush: bool = False,
) -> str:
    """The module of a step: its kernels and `entry(thread, team, args, arena, scratch, barrier)`.

    part:     is handed kernels as modules of their own while the rest is being written; None keeps all in one module.
    times_at: where in its scratch a thread keeps the times of its waits and calls; -1 measures nothing.
    flush:    denormals count as 0 in this step, where graphopt knows the processor's switch.
    """
    written = _Modules(machine, triple, part)
    names = {kernel: written.add(kernel) for kernel in step.kernels}
    lines = [f"define void @{entry}(i64 %thread, i64 %team, ptr %args, ptr %arena, ptr %scratch, ptr %barrier) #1 {{", "entry:"]
    writer = _Writer(step, names, times_at)
    offered = ["declare void @graphopt_barrier(ptr)"]
    body = writer.text()
    if flush and (processor := triple.partition("-")[0]) in _FLUSH:
        (declared, *setting), flushing, usual = _FLUSH[processor]
        offered.append(declared)
        before, after = ([f"  {text.format(mode)}" for text in setting] for mode in (flushing, usual))
        body = ["  %mode = alloca i32", *before, *body, *after]
    if any(n > 1 for n in step.chunks):
        offered += ["declare void @graphopt_deal(ptr)", "declare i64 @graphopt_take(ptr, i64)"]
    offered += ["declare void @graphopt_mark(ptr, i64)"] if times_at >= 0 else []
    return written.last("\n".join([*lines, *body, "  ret void", "}"]), offered)


def emit_kernels(
    entry: str, kernels: Sequence[Kernel], machine: Machine, triple: str, part: Callable[[str], None] | None = None
) -> str:
    """The module of `entry(number, buffers)`, which runs a kernel alone: its number, and an array of its buffers' addresses.

    part: as for `emit_step`.
    """
    written = _Modules(machine, triple, part)
    names = [written.add(kernel) for kernel in kernels]
    cases = " ".join([f"i64 {k}, label %k{k}" for k in range(len(kernels))])
    lines = [f"define void @{entry}(i64 %number, ptr %buffers) #1 {{", f"  switch i64 %number, label %done [ {cases} ]"]
    for k, (kernel, name) in enumerate(zip(kernels, names, strict=True)):
        lines.append(f"k{k}:")
        for j in range(len(kernel.params)):
            lines.append(f"  %k{k}.{j}.p = getelementptr inbounds ptr, ptr %buffers, i64 {j}")
            lines.append(f"  %k{k}.{j} = load ptr, ptr %k{k}.{j}.p")
        pointers = "".join([f", ptr %k{k}.{j}" for j in range(len(kernel.params))])
        if own := own_places(kernel)[1]:
            lines.append(f"  %k{k}.own = alloca [{own} x i8], align 64")
            pointers += f", ptr %k{k}.own"
        lines += [f"  call void @{name}(i64 0, i64 1{pointers})", "  br label %done"]
    return written.last("\n".join([*lines, "done:", "  ret void", "}"]), [])


class _Writer:
    """The body of a step's function."""

    def __init__(self, step: Step, names: Mapping[Kernel, str], times_at: int = -1):
        self.step = step
        self.times_at = times_at
        self.numbers = {kernel: k for k, kernel in enumerate(step.kernels)}
        self.names = names
        self.shared = {k for k, team in zip(step.kernels, step.parallel, strict=True) if team}
        self.chunks = {k: n for k, n in zip(step.kernels, step.chunks, strict=True) if n > 1}
        self.guarded = {k for k, barrier in zip(step.kernels, step.barriers, strict=True) if barrier}
        self.spared = dict(zip(step.kernels, step.spared, strict=True))
        self.args = {b: k for k, (b, _, _) in enumerate(step.args)}
        self.rows: dict[Buffer, str] = {}  # pointers to this trip's rows of stacks
        self.head: list[str] = []
        self.lines: list[str] = []
        self.labels = 0

    def text(self) -> list[str]:
        self.head += ["  %first = icmp eq i64 %thread, 0", f"  %small = icmp ule i64 %team, {TEAMS}"]
        self.head += [f"  %kind = select i1 %small, i64 %team, i64 {LARGER}", "  %size = shl i64 1, %kind"]
        for n in sorted(set(self.chunks.values())):  # of each thread's share, and of all
            self.head += [f"  %each.{n}.d = udiv i64 {n}, %team", f"  %each.{n}.n = icmp eq i64 %each.{n}.d, 0"]
            self.head += [f"  %each.{n}.o = icmp eq i64 %team, 1", f"  %each.{n}.s = or i1 %each.{n}.n, %each.{n}.o"]
            self.head += [f"  %each.{n} = select i1 %each.{n}.s, i64 1, i64 %each.{n}.d"]
            self.head += [f"  %all.{n} = mul i64 %each.{n}, %team"]
        if self.times_at >= 0:
            self.lines.append(f"  %times = getelementptr inbounds i8, ptr %scratch, i64 {self.times_at}")
            self._mark(0)
            self.lines.append("  %begin = getelementptr inbounds i64, ptr %times, i64 1")
            self.lines.append("  store i64 0, ptr %begin")
        self._sequence(self.step.items, False)
        if self.times_at >= 0:
            self._barrier()
            self._mark(2 * len(self.step.kernels))
        return self.head + self.lines

    def _mark(self, counter: int) -> None:
        """The time since the last mark is this counter's, in a step that measures itself."""
        if self.times_at >= 0:
            self.lines.append(f"  call void @graphopt_mark(ptr %times, i64 {counter})")

    def _pointer(self, b: Buffer) -> str:
        """Where a buffer lies, found out right where it is used: kept from the start of a long step, thousands of pointers
        would be spilled, and LLVM's time for that grows faster than the step.
        """
        if b in self.rows:
            return self.rows[b]
        name = f"%{self._label('p')}"
        if b in self.args:
            self.lines.append(f"  {name}.p = getelementptr inbounds ptr, ptr %args, i64 {self.args[b]}")
            self.lines.append(f"  {name} = load ptr, ptr {name}.p")
        else:
            self.lines.append(f"  {name} = getelementptr inbounds i8, ptr %arena, i64 {self.step.plan.offsets[b]}")
        return name

    def _label(self, name: str) -> str:
        """A new name. Labels and values share one namespace in LLVM: names written elsewhere have a dot before a number."""
        self.labels += 1
        return f"{name}{self.labels}"

    def _open(self, label: str) -> None:
        self.lines.append(f"{label}:")

    def _jump(self, label: str) -> None:
        self.lines.append(f"  br label %{label}")

    def _barrier(self, spared: int = 0) -> None:
        """A barrier, left out by teams of the sizes that `spared` has bits for."""
        wait, on = self._label("wait"), self._label("on")
        if spared:
            self.lines.append(f"  %{wait}.s = and i64 %size, {spared}")
            self.lines.append(f"  %{wait}.i = icmp eq i64 %{wait}.s, 0")
            self.lines.append(f"  br i1 %{wait}.i, label %{wait}, label %{on}")
            self._open(wait)
        self.lines.append("  call void @graphopt_barrier(ptr %barrier)")
        if spared:
            self._jump(on)
            self._open(on)

    def _count(self, kernel: Kernel) -> None:
        """One more run of this kernel, in a step that measures itself."""
        if self.times_at >= 0:
            name, word = f"%{self._label('runs')}", 2 + 2 * len(self.numbers) + self.numbers[kernel]
            self.lines.append(f"  {name}.p = getelementptr inbounds i64, ptr %times, i64 {word}")
            self.lines.append(f"  {name} = load i64, ptr {name}.p")
            self.lines.append(f"  {name}.n = add i64 {name}, 1")
            self.lines.append(f"  store i64 {name}.n, ptr {name}.p")

    def _mark_wait(self, items: Sequence[Item]) -> None:
        """The time since the last mark was spent waiting for what these items begin with."""
        kernel = next(kernels_of(items), None)
        self._mark(2 * (len(self.numbers) - 1 if kernel is None else self.numbers[kernel]))

    def _alone(self, item: Item) -> bool:
        return not any(k in self.shared for k in kernels_of([item]))

    def _sequence(self, items: Sequence[Item], alone: bool) -> None:
        """Items one after the other; `alone`: only thread 0 comes here. Neighbours that thread 0 runs share one test."""
        done: str | None = None
        for item in items:
            waits = item in self.guarded or item in self.step.waits
            mine = self._alone(item)
            if waits and alone:
                raise CompileError("a barrier stands where only thread 0 comes")
            if done is not None and (waits or not mine):
                self._jump(done)
                self._open(done)
                done = None
            if waits:
                if item in self.chunks:
                    self.lines.append("  call void @graphopt_deal(ptr %barrier)")
                else:
                    self._barrier(self.spared[item] if isinstance(item, Kernel) else 0)
                self._mark_wait([item])
            if mine and not alone and done is None:
                then, done = self._label("alone"), self._label("all")
                self.lines.append(f"  br i1 %first, label %{then}, label %{done}")
                self._open(then)
            self._item(item, alone or mine)
        if done is not None:
            self._jump(done)
            self._open(done)

    def _item(self, item: Item, alone: bool) -> None:
        if isinstance(item, Kernel):
            pointers = "".join([f", ptr {self._pointer(b)}" for b in item.args])
            pointers += ", ptr %scratch" if own_places(item)[1] else ""
            if item in self.chunks:
                self._dealt(item, pointers)
            else:
                share = "i64 %thread, i64 %team" if item in self.shared else "i64 0, i64 1"
                self.lines.append(f"  call void @{self.names[item]}({share}{pointers})")
            self._mark(2 * self.numbers[item] + 1)
            self._count(item)
        elif isinstance(item, Choose):
            self._choose(item, alone)
        else:
            self._repeat(item, alone)

    def _dealt(self, kernel: Kernel, pointers: str) -> None:
        """Chunks of a kernel, as long as there are any."""
        ask, take, done = (self._label(n) for n in ("ask", "take", "done"))
        n = self.chunks[kernel]
        self._jump(ask)
        self._open(ask)
        self.lines.append(f"  %{ask}.c = call i64 @graphopt_take(ptr %barrier, i64 %each.{n})")
        self.lines.append(f"  %{ask}.m = icmp sge i64 %{ask}.c, 0")
        self.lines.append(f"  br i1 %{ask}.m, label %{take}, label %{done}")
        self._open(take)
        self.lines.append(f"  call void @{self.names[kernel]}(i64 %{ask}.c, i64 %all.{n}{pointers})")
        self._jump(ask)
        self._open(done)

    def _flag(self, buffer: Buffer) -> str:
        """A bool in memory."""
        name = f"%{self._label('f')}"
        self.lines.append(f"  {name}.b = load i8, ptr {self._pointer(buffer)}")
        self.lines.append(f"  {name} = icmp ne i8 {name}.b, 0")
        return name

    def _choose(self, item: Choose, alone: bool) -> None:
        then, other, done = (self._label(n) for n in ("then", "else", "joined"))
        self.lines.append(f"  br i1 {self._flag(item.pred)}, label %{then}, label %{other}")
        for label, side in ((then, item.then), (other, item.other)):
            self._open(label)
            self._sequence(side, alone)
            self._jump(done)
        self._open(done)

    def _repeat(self, item: Repeat, alone: bool) -> None:
        head, body, done = (self._label(n) for n in ("next", "trip", "done"))
        count, most = f"%{self._label('i')}", self._most(item)
        self.head.append(f"  {count}.p = alloca i64")
        self.lines.append(f"  store i64 0, ptr {count}.p")
        self._jump(head)
        self._open(head)
        self.lines.append(f"  {count} = load i64, ptr {count}.p")
        if most is not None:
            tested = self._label("test")
            self.lines.append(f"  {count}.more = icmp ult i64 {count}, {most}")
            self.lines.append(f"  br i1 {count}.more, label %{tested}, label %{done}")
            self._open(tested)
        if item.goes_on is not None:
            self._sequence(item.test, alone)
            if item in self.step.test_waits:
                self._barrier()
                self._mark_wait(item.test)
            self.lines.append(f"  br i1 {self._flag(item.goes_on)}, label %{body}, label %{done}")
            self._open(body)
        self._rows(item, count, most)
        self._sequence(item.body, alone)
        self.lines.append(f"  {count}.next = add nuw nsw i64 {count}, 1")
        self.lines.append(f"  store i64 {count}.next, ptr {count}.p")
        self._jump(head)
        self._open(done)
        if item.count is not None:
            self._store_count(item.count, count, alone)

    def _most(self, item: Repeat) -> str | None:
        """How many trips there are at most."""
        if item.trips is None:
            return None if item.length is None else str(item.length)
        n = f"%{self._label('n')}"
        self.lines.append(f"  {n}.s = load i32, ptr {self._pointer(item.trips)}")
        self.lines.append(f"  {n}.w = sext i32 {n}.s to i64")
        self.lines.append(f"  {n}.neg = icmp slt i64 {n}.w, 0")
        self.lines.append(f"  {n}.p = select i1 {n}.neg, i64 0, i64 {n}.w")
        self.lines.append(f"  {n}.large = icmp ugt i64 {n}.p, {item.length}")
        self.lines.append(f"  {n} = select i1 {n}.large, i64 {item.length}, i64 {n}.p")
        return n

    def _rows(self, item: Repeat, count: str, most: str | None) -> None:
        """Where this trip's rows are."""
        if not item.windows:
            return
        if item.reverse:
            row = f"%{self._label('r')}"
            self.lines.append(f"  {row}.l = sub i64 {most}, 1")
            self.lines.append(f"  {row} = sub i64 {row}.l, {count}")
        else:
            row = count
        for w in item.windows:
            name = f"%{self._label('w')}"
            stride = w.row.size * w.row.dtype.itemsize
            self.lines.append(f"  {name}.o = mul i64 {row}, {stride}")
            self.lines.append(f"  {name} = getelementptr inbounds i8, ptr {self._pointer(w.base)}, i64 {name}.o")
            self.rows[w.row] = name

    def _store_count(self, buffer: Buffer, count: str, alone: bool) -> None:
        store, on = self._label("store"), self._label("on")
        if not alone:
            self.lines.append(f"  br i1 %first, label %{store}, label %{on}")
            self._open(store)
        self.lines.append(f"  {count}.n = trunc i64 {count} to i32")
        self.lines.append(f"  store i32 {count}.n, ptr {self._pointer(buffer)}")
        if not alone:
            self._jump(on)
            self._open(on)


class _Modules:
    """The kernels of a step, each function once, in as many modules as they need.

    part: takes each full module; None keeps everything for the last.
    """

    def __init__(self, machine: Machine, triple: str, part: Callable[[str], None] | None):
        self._machine = machine
        self._triple = triple
        self._part = part
        self._known: dict[str, str] = {}  # equal kernels (layers of one shape) are one function
        self._bodies: dict[tuple[Stmt, ...], str] = {}
        self._elsewhere: list[str] = []
        self._begin()

    def _begin(self) -> None:
        self._functions: list[str] = []
        self._constants: dict[str, str] = {}
        self._declared: dict[str, str] = {}
        self._signatures: list[str] = []

    def add(self, kernel: Kernel) -> str:
        """The name of a kernel's function."""
        name = self._bodies.get(kernel.body)
        if name is None:
            key = signature(kernel)
            if key not in self._known:
                self._known[key] = f"k{len(self._known)}"
                self._write(kernel, self._known[key])
            name = self._bodies[kernel.body] = self._known[key]
        return name

    def _write(self, kernel: Kernel, name: str) -> None:
        emitter = KernelEmitter(kernel, self._machine, self._constants)
        self._functions.append(emitter.function(name, "internal" if self._part is None else "hidden"))
        self._declared |= emitter.declared
        pointers = ", ptr" * len(kernel.params)
        pointers += ", ptr" if own_places(kernel)[1] else ""
        self._signatures.append(f"declare hidden void @{name}(i64, i64{pointers})")
        if self._part is not None and sum(map(len, self._functions)) >= _PART:
            self._part(self._module([]))
            self._elsewhere += self._signatures
            self._begin()

    def last(self, entry: str, offered: Sequence[str]) -> str:
        """The module with the step's entry, what the runtime offers it, and the kernels that are in no other module."""
        return self._module([*offered, *self._elsewhere], entry)

    def _module(self, declarations: Sequence[str], *more: str) -> str:
        bits = self._machine.vector_bytes * 8
        tables = [f"{name} = {body}" for body, name in self._constants.items()]
        attributes = f'attributes #0 = {{ nounwind "min-legal-vector-width"="{bits}" "prefer-vector-width"="{bits}" }}'
        head = [f'target triple = "{self._triple}"', *tables, *declarations, *self._declared.values()]
        quick = "attributes #1 = { nounwind noinline optnone }"  # long and plain: LLVM's simplest selection is 3 times as fast
        return "\n".join([*head, *self._functions, *more, attributes, quick, ""])


__all__ = ["emit_kernels", "emit_step"]
