"""The Scalars protocol in LLVM IR: each method appends instructions and returns the value's name.

A value is a register of one element or of a vector of lanes; float16 and bfloat16 live in float registers and are
rounded after every operation, bool lives as i1.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.errors import CompileError
from graphopt.ir.types import DType, bf16, bool_, f16, f32, f64, i32, u16, u32
from graphopt.kernel.machine import Machine
from graphopt.kernel.vmath import VectorMath


@dataclass(frozen=True, slots=True)
class Val:
    """A register or literal: `ref` as it stands in the text, its dtype, lanes (0 for a single element)."""

    ref: str
    dtype: DType
    lanes: int = 0


_OPERAND = re.compile(r"%[a-z]+\d*")
_REGISTER = {"b": "i1", "f16": "float", "bf16": "float", "f32": "float", "f64": "double"}


def element(dtype: DType) -> str:
    """The LLVM type of one element in a register."""
    if dtype.kind in "iu":
        return f"i{dtype.bits}"
    return _REGISTER.get(dtype.short) or _REGISTER[dtype.kind]


def type_of(dtype: DType, lanes: int) -> str:
    return f"<{lanes} x {element(dtype)}>" if lanes else element(dtype)


def literal(value: Any, dtype: DType) -> str:
    """A constant as LLVM text: floats by their bits."""
    if dtype.kind == "b":
        return "true" if value else "false"
    if dtype.kind in "iu":
        n = int(value)
        half = 1 << (dtype.bits - 1)
        return str((n + half) % (2 * half) - half)
    with np.errstate(all="ignore"):
        x = float(np.asarray(value).astype(dtype.numpy))
        if dtype is not f64 and math.isfinite(x):
            x = float(np.float32(x))
    return f"0x{struct.unpack('<Q', struct.pack('<d', x))[0]:016X}"


_FLOAT_COMPARE = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}
_SIGNED = {"eq": "eq", "ne": "ne", "lt": "slt", "le": "sle", "gt": "sgt", "ge": "sge"}
_UNSIGNED = {"eq": "eq", "ne": "ne", "lt": "ult", "le": "ule", "gt": "ugt", "ge": "uge"}


class LLVMScalars(VectorMath):
    """Core arithmetic as instructions. Subclasses own where the text goes (`line`)."""

    def __init__(self, machine: Machine):
        self.machine = machine
        self.scales = machine.scales
        self.lines: list[Any] = []
        self.declared: dict[str, str] = {}
        self.globals: dict[str, str] = {}
        self._count = 0
        self._pure: list[dict[str, str]] = [{}]
        self._entries: list[list[Any]] = [self.lines]
        self._depth: dict[str, int] = {}

    # text

    def fresh(self) -> str:
        self._count += 1
        return f"%x{self._count}"

    def line(self, text: str) -> None:
        self.lines.append("  " + text)

    def pure(self, text: str) -> str:
        """The name of an instruction without side effects.

        It stands as far out as its operands allow, before the loops that do not change it; an equal one is used again.
        """
        for scope in reversed(self._pure):
            if text in scope:
                return scope[text]
        inner = len(self._pure) - 1
        depth = max((self._depth.get(operand, inner) for operand in _OPERAND.findall(text)), default=0)
        name = self.fresh()
        self._depth[name] = depth
        (self.lines if depth == inner else self._entries[depth + 1]).append(f"  {name} = {text}")
        self._pure[depth][text] = name
        return name

    def opaque(self, text: str) -> str:
        """The name of an instruction that must stay where it is: a load, a masked access."""
        name = self.fresh()
        self._depth[name] = len(self._pure) - 1
        self.lines.append(f"  {name} = {text}")
        return name

    def text_lines(self) -> list[str]:
        """The lines in order, with what was moved before each loop in its place."""
        flat: list[str] = []

        def visit(lines: list[Any]) -> None:
            for line in lines:
                if isinstance(line, str):
                    flat.append(line)
                else:
                    visit(line)

        visit(self.lines)
        return flat

    def call(self, name: str, result: str, *args: tuple[str, str], math: str = "") -> str:
        """A call of a side-effect-free function, declared on first use; `math`: LLVM's fast-math flags."""
        types = ", ".join(t for t, _ in args)
        self.declared.setdefault(name, f"declare {result} @{name}({types})")
        return self.pure(f"call {math}{result} @{name}({', '.join(f'{t} {r}' for t, r in args)})")

    def intrinsic(self, stem: str, x: Val, *more: Val, flag: str = "", math: str = "") -> Val:
        t = type_of(x.dtype, x.lanes)
        suffix = element(x.dtype).replace("float", "f32").replace("double", "f64")
        name = f"llvm.{stem}.{f'v{x.lanes}' if x.lanes else ''}{suffix}"
        args = [(t, v.ref) for v in (x, *more)]
        if flag:
            args.append(("i1", flag))
        return Val(self.call(name, t, *args, math=math), x.dtype, x.lanes)

    # shapes of values

    def dtype_of(self, x: Val) -> DType:
        return x.dtype

    def const(self, value: Any, dtype: DType) -> Val:
        return Val(literal(value, dtype), dtype)

    def splat(self, x: Val, lanes: int) -> Val:
        """The same element in every lane."""
        if x.lanes or not lanes:
            return x
        e = element(x.dtype)
        if not x.ref.startswith("%"):
            return Val(f"splat ({e} {x.ref})", x.dtype, lanes)
        one = self.pure(f"insertelement <{lanes} x {e}> poison, {e} {x.ref}, i64 0")
        spread = f"shufflevector <{lanes} x {e}> {one}, <{lanes} x {e}> poison, <{lanes} x i32> zeroinitializer"
        return Val(self.pure(spread), x.dtype, lanes)

    def _together(self, *values: Val) -> list[Val]:
        lanes = max(v.lanes for v in values)
        return [self.splat(v, lanes) for v in values]

    def _rounded(self, ref: str, like: Val) -> Val:
        """The value after a float operation: float16 and bfloat16 are rounded to their own precision."""
        value = Val(ref, like.dtype, like.lanes)
        return self._round_small(value) if like.dtype in (f16, bf16) else value

    def _round_small(self, x: Val) -> Val:
        bits = self.to_memory(x)
        return self.from_memory(bits, x.dtype, x.lanes)

    # memory forms of the small floats (as integer bits, or as half where the machine converts)

    def memory_element(self, dtype: DType) -> str:
        if dtype.kind == "b":
            return "i8"
        if dtype is bf16:
            return "i16"
        if dtype is f16:
            return "half" if self.machine.half else "i16"
        return element(dtype)

    def to_memory(self, x: Val) -> str:
        """A register as what is stored."""
        t = type_of(x.dtype, x.lanes)
        m = self._memory_type(x.dtype, x.lanes)
        if x.dtype.kind == "b":
            return self.pure(f"zext {t} {x.ref} to {m}")
        if x.dtype is f16 and self.machine.half:
            return self.pure(f"fptrunc {t} {x.ref} to {m}")
        if x.dtype is bf16:
            return self._narrow(self._bfloat_bits(x), m)
        if x.dtype is f16:
            return self._narrow(self._half_bits(x), m)
        return x.ref

    def from_memory(self, ref: str, dtype: DType, lanes: int) -> Val:
        """What was loaded as a register."""
        t = type_of(dtype, lanes)
        m = self._memory_type(dtype, lanes)
        if dtype.kind == "b":
            zero = "zeroinitializer" if lanes else "0"
            return Val(self.pure(f"icmp ne {m} {ref}, {zero}"), dtype, lanes)
        if dtype is f16 and self.machine.half:
            return Val(self.pure(f"fpext {m} {ref} to {t}"), dtype, lanes)
        if dtype in (f16, bf16):
            wide = Val(self.pure(f"zext {m} {ref} to {type_of(u32, lanes)}"), u32, lanes)
            if dtype is bf16:
                return self._as(self.bitcast(self.shl(wide, self.const(16, u32)), f32), dtype)
            return self._as(self._half_value(wide), dtype)
        return Val(ref, dtype, lanes)

    def _memory_type(self, dtype: DType, lanes: int) -> str:
        return f"<{lanes} x {self.memory_element(dtype)}>" if lanes else self.memory_element(dtype)

    @staticmethod
    def _as(x: Val, dtype: DType) -> Val:
        return Val(x.ref, dtype, x.lanes)

    def _narrow(self, bits: Val, memory: str) -> str:
        return self.pure(f"trunc {type_of(u32, bits.lanes)} {bits.ref} to {memory}")

    def _bfloat_bits(self, x: Val) -> Val:
        """Upper half of the float32 bits, rounded to nearest even; NaN stays NaN."""
        c = self.const
        raw = self.bitcast(self._as(x, f32), u32)
        lsb = self.and_(self.shr(raw, c(16, u32)), c(1, u32))
        rounded = self.shr(self.add(raw, self.add(lsb, c(0x7FFF, u32))), c(16, u32))
        nan = self.gt(self.and_(raw, c(0x7FFFFFFF, u32)), c(0x7F800000, u32))
        return self.select(nan, self.or_(self.shr(raw, c(16, u32)), c(0x40, u32)), rounded)

    def _half_bits(self, x: Val) -> Val:
        """float32 -> float16 bits, rounded to nearest even, denormals and overflow included."""
        c = self.const
        raw = self.bitcast(self._as(x, f32), u32)
        sign = self.shr(self.and_(raw, c(0x80000000, u32)), c(16, u32))
        mag = self.and_(raw, c(0x7FFFFFFF, u32))
        lsb = self.and_(self.shr(mag, c(13, u32)), c(1, u32))
        normal = self.shr(self.sub(self.add(mag, self.add(lsb, c(0xFFF, u32))), c(0x38000000, u32)), c(13, u32))
        # adding 0.5 aligns the last place of a float16 denormal with that of the float32 sum
        magic = self.add(self.bitcast(mag, f32), c(0.5, f32))
        denormal = self.sub(self.bitcast(magic, u32), c(0x3F000000, u32))
        bits = self.select(self.lt(mag, c(0x38800000, u32)), denormal, normal)
        bits = self.select(self.ge(mag, c(0x477FF000, u32)), c(0x7C00, u32), bits)
        nan = self.gt(mag, c(0x7F800000, u32))
        bits = self.select(nan, c(0x7E00, u32), bits)
        return self.or_(bits, sign)

    def _half_value(self, bits: Val) -> Val:
        """float16 bits -> float32: shift into place and rescale; inf and NaN keep a full exponent."""
        c = self.const
        sign = self.shl(self.and_(bits, c(0x8000, u32)), c(16, u32))
        mag = self.shl(self.and_(bits, c(0x7FFF, u32)), c(13, u32))
        scaled = self.bitcast(self.mul(self.bitcast(mag, f32), c(2.0**112, f32)), u32)
        special = self.ge(mag, c(0x0F800000, u32))
        value = self.select(special, self.or_(mag, c(0x7F800000, u32)), scaled)
        return self.bitcast(self.or_(value, sign), f32)

    # arithmetic

    def _binary(self, float_op: str, int_op: str, a: Val, b: Val) -> Val:
        a, b = self._together(a, b)
        t = type_of(a.dtype, a.lanes)
        name = float_op if a.dtype.is_float else int_op
        return self._rounded(self.pure(f"{name} {t} {a.ref}, {b.ref}"), a)

    def add(self, a: Val, b: Val) -> Val:
        return self._binary("fadd", "add", a, b)

    def sub(self, a: Val, b: Val) -> Val:
        return self._binary("fsub", "sub", a, b)

    def mul(self, a: Val, b: Val) -> Val:
        return self._binary("fmul", "mul", a, b)

    def div(self, a: Val, b: Val) -> Val:
        return self._binary("fdiv", "", a, b) if a.dtype.is_float else self.idiv(a, b)

    def _divide(self, stem: str, a: Val, b: Val) -> tuple[Val, Val, Val]:
        """Integer division made total: (quotient or remainder by a harmless divisor, zero-divisor flag, -1 flag)."""
        signed = a.dtype.kind == "i"
        zero, one = self.const(0, a.dtype), self.const(1, a.dtype)
        is_zero = self.eq(b, zero)
        minus = self.eq(b, self.const(-1, a.dtype)) if signed else is_zero
        safe = self.select(self.or_(is_zero, minus), one, b)
        a, safe = self._together(a, safe)
        t = type_of(a.dtype, a.lanes)
        return Val(self.pure(f"{'s' if signed else 'u'}{stem} {t} {a.ref}, {safe.ref}"), a.dtype, a.lanes), is_zero, minus

    def idiv(self, a: Val, b: Val) -> Val:
        q, is_zero, minus = self._divide("div", a, b)
        if a.dtype.kind == "i":
            q = self.select(minus, self.neg(a), q)
        return self.select(is_zero, self.const(0, a.dtype), q)

    def rem(self, a: Val, b: Val) -> Val:
        if a.dtype.is_float:
            raise CompileError("rem is for integers")
        r, is_zero, _ = self._divide("rem", a, b)
        return self.select(is_zero, self.const(0, a.dtype), r)

    def fma(self, a: Val, b: Val, c: Val) -> Val:
        if not a.dtype.is_float or not self.machine.fma:
            return self.add(self.mul(a, b), c)
        a, b, c = self._together(a, b, c)
        return self._rounded(self.intrinsic("fma", a, b, c).ref, a)

    def neg(self, x: Val) -> Val:
        t = type_of(x.dtype, x.lanes)
        if x.dtype.is_float:
            return Val(self.pure(f"fneg {t} {x.ref}"), x.dtype, x.lanes)
        return self.sub(self.const(0, x.dtype), x)

    def abs(self, x: Val) -> Val:
        if x.dtype.is_float:
            return self.intrinsic("fabs", x)
        return self.intrinsic("abs", x, flag="false") if x.dtype.kind == "i" else x

    def _extreme(self, a: Val, b: Val, float_stem: str, int_stem: str, compare: str) -> Val:
        if a.dtype.kind == "b":
            return self.and_(a, b) if int_stem == "min" else self.or_(a, b)
        if not a.dtype.is_float:
            a, b = self._together(a, b)
            return self.intrinsic(("s" if a.dtype.kind == "i" else "u") + int_stem, a, b)
        for x, y in ((a, b), (b, a)):
            if x.ref.startswith("0x") and not math.isnan(struct.unpack("<d", struct.pack("<Q", int(x.ref, 16)))[0]):
                return self.select(self._compare(compare, x, y), x, y)  # one instruction, NaN in y is handed on
        a, b = self._together(a, b)
        return self.intrinsic(float_stem, a, b, math="nsz ")  # either zero will do

    def min(self, a: Val, b: Val) -> Val:
        return self._extreme(a, b, "minimum", "min", "lt")

    def max(self, a: Val, b: Val) -> Val:
        return self._extreme(a, b, "maximum", "max", "gt")

    def copysign(self, magnitude: Val, sign: Val) -> Val:
        a, b = self._together(magnitude, sign)
        return self.intrinsic("copysign", a, b)

    def sqrt(self, x: Val) -> Val:
        return self._rounded(self.intrinsic("sqrt", x).ref, x)

    def scale(self, x: Val, n: Val) -> Val:
        x, n = self._together(x, n)
        wide = self.splat(x, x.lanes or 16)
        t, m = type_of(f32, wide.lanes), wide.lanes
        more = (("i16", "-1"), ("i32", "4")) if m == 16 else (("i8", "-1"),)
        name = f"llvm.x86.avx512.mask.scalef.ps.{32 * m}"
        ref = self.call(name, t, (t, wide.ref), (t, self.splat(n, m).ref), (t, wide.ref), *more)
        return self._narrowed(ref, x)

    def estimate(self, x: Val) -> Val:
        wide = self.splat(x, x.lanes or 16)
        t, m = type_of(f32, wide.lanes), wide.lanes
        more = ("i16" if m == 16 else "i8", "-1")
        return self._narrowed(self.call(f"llvm.x86.avx512.rcp14.ps.{32 * m}", t, (t, wide.ref), (t, wide.ref), more), x)

    def _narrowed(self, ref: str, like: Val) -> Val:
        """A vector as it is, or its first element where there are no lanes."""
        return Val(ref if like.lanes else self.pure(f"extractelement <16 x float> {ref}, i64 0"), f32, like.lanes)

    def floor(self, x: Val) -> Val:
        return self.intrinsic("floor", x)

    def ceil(self, x: Val) -> Val:
        return self.intrinsic("ceil", x)

    def trunc(self, x: Val) -> Val:
        return self.intrinsic("trunc", x)

    def round(self, x: Val) -> Val:
        return self.intrinsic("roundeven", x)

    # comparison and bits

    def _compare(self, name: str, a: Val, b: Val) -> Val:
        a, b = self._together(a, b)
        t = type_of(a.dtype, a.lanes)
        if a.dtype.is_float:
            text = f"fcmp {_FLOAT_COMPARE[name]} {t} {a.ref}, {b.ref}"
        else:
            text = f"icmp {(_SIGNED if a.dtype.kind == 'i' else _UNSIGNED)[name]} {t} {a.ref}, {b.ref}"
        return Val(self.pure(text), bool_, a.lanes)

    def eq(self, a: Val, b: Val) -> Val:
        return self._compare("eq", a, b)

    def ne(self, a: Val, b: Val) -> Val:
        return self._compare("ne", a, b)

    def lt(self, a: Val, b: Val) -> Val:
        return self._compare("lt", a, b)

    def le(self, a: Val, b: Val) -> Val:
        return self._compare("le", a, b)

    def gt(self, a: Val, b: Val) -> Val:
        return self._compare("gt", a, b)

    def ge(self, a: Val, b: Val) -> Val:
        return self._compare("ge", a, b)

    def and_(self, a: Val, b: Val) -> Val:
        return self._binary("", "and", a, b)

    def or_(self, a: Val, b: Val) -> Val:
        return self._binary("", "or", a, b)

    def xor(self, a: Val, b: Val) -> Val:
        return self._binary("", "xor", a, b)

    def not_(self, x: Val) -> Val:
        return self.xor(x, self.const(True if x.dtype.kind == "b" else -1, x.dtype))

    def shl(self, a: Val, b: Val) -> Val:
        return self._binary("", "shl", a, b)

    def shr(self, a: Val, b: Val) -> Val:
        return self._binary("", "ashr" if a.dtype.kind == "i" else "lshr", a, b)

    def select(self, condition: Val, a: Val, b: Val) -> Val:
        lanes = max(condition.lanes, a.lanes, b.lanes)
        a, b = self.splat(a, lanes), self.splat(b, lanes)
        if a.ref == b.ref:
            return a
        # One condition for whole vectors would become a jump over the loads of what is not chosen, and stores to memory
        # that was not loaded before run at half the speed (ASGD: 24 ms instead of 14).
        condition = self.splat(condition, lanes)
        t = type_of(a.dtype, lanes)
        c = type_of(bool_, lanes)
        return Val(self.pure(f"select {c} {condition.ref}, {t} {a.ref}, {t} {b.ref}"), a.dtype, lanes)

    # conversion

    def cast(self, x: Val, dtype: DType) -> Val:
        source = x.dtype
        if source is dtype:
            return x
        if dtype.kind == "b":
            return self.ne(x, self.const(0, source))
        if source.is_float:
            return self._float_to_float(x, dtype) if dtype.is_float else self._float_to_int(x, dtype)
        t, to = type_of(source, x.lanes), type_of(dtype, x.lanes)
        signed = source.kind == "i"
        if dtype.is_float:
            return self._rounded(self.pure(f"{'s' if signed else 'u'}itofp {t} {x.ref} to {to}"), Val("", dtype, x.lanes))
        if dtype.bits == source.bits and source.kind != "b":
            return self._as(x, dtype)
        name = "trunc" if dtype.bits < source.bits and source.kind != "b" else "sext" if signed else "zext"
        return Val(self.pure(f"{name} {t} {x.ref} to {to}"), dtype, x.lanes)

    def _float_to_float(self, x: Val, dtype: DType) -> Val:
        x = self._to_odd(x) if x.dtype is f64 and dtype is f16 else x
        t, to = type_of(x.dtype, x.lanes), type_of(dtype, x.lanes)
        if t != to:
            ref = self.pure(f"{'fpext' if dtype is f64 else 'fptrunc'} {t} {x.ref} to {to}")
        else:
            ref = x.ref
        return self._rounded(ref, Val("", dtype, x.lanes))

    def _to_odd(self, x: Val) -> Val:
        """float64 as float32, cut off, and with an odd last bit where something was cut: then rounding once more, to
        float16, gives what rounding once gives.
        """
        t, to = type_of(f64, x.lanes), type_of(f32, x.lanes)
        near = Val(self.pure(f"fptrunc {t} {x.ref} to {to}"), f32, x.lanes)
        back = Val(self.pure(f"fpext {to} {near.ref} to {t}"), f64, x.lanes)
        bits, one = self.bitcast(near, i32), self.const(1, i32)
        beyond = self.gt(self.abs(back), self.abs(x))
        odd = self.or_(self.select(beyond, self.sub(bits, one), bits), one)
        inexact = self.or_(self.lt(back, x), self.gt(back, x))  # false for NaN
        return self.bitcast(self.select(inexact, odd, bits), f32)

    def _float_to_int(self, x: Val, dtype: DType) -> Val:
        t, to = type_of(x.dtype, x.lanes), type_of(dtype, x.lanes)
        sign = "s" if dtype.kind == "i" else "u"
        v = f"v{x.lanes}" if x.lanes else ""
        suffix = element(x.dtype).replace("float", "f32").replace("double", "f64")
        name = f"llvm.fpto{sign}i.sat.{v}{element(dtype)}.{v}{suffix}"
        value = Val(self.call(name, to, (t, x.ref)), dtype, x.lanes)
        if dtype.kind == "u":
            return value
        fits = self.lt(x, self.const(2.0 ** (dtype.bits - 1), x.dtype))  # false for NaN too
        return self.select(fits, value, self.const(-(1 << dtype.bits - 1), dtype))

    def bitcast(self, x: Val, dtype: DType) -> Val:
        if x.dtype in (f16, bf16) or dtype in (f16, bf16):
            return self._bitcast_small(x, dtype)
        if element(x.dtype) == element(dtype):
            return self._as(x, dtype)
        return Val(self.pure(f"bitcast {type_of(x.dtype, x.lanes)} {x.ref} to {type_of(dtype, x.lanes)}"), dtype, x.lanes)

    def _bitcast_small(self, x: Val, dtype: DType) -> Val:
        """float16 and bfloat16 to and from 16-bit integers, by way of what memory would hold."""
        small = x.dtype if x.dtype in (f16, bf16) else dtype
        m, i = self._memory_type(small, x.lanes), type_of(u16, x.lanes)
        bits = self.to_memory(x) if small is x.dtype else x.ref
        if m != i:
            bits = self.pure(f"bitcast {m if small is x.dtype else i} {bits} to {i if small is x.dtype else m}")
        return Val(bits, dtype, x.lanes) if small is x.dtype else self.from_memory(bits, dtype, x.lanes)

    def table(self, values: tuple[int, ...], index: Val, dtype: DType) -> Val:
        """values[index], clamped to the table."""
        e = element(dtype)
        body = ", ".join(f"{e} {literal(v, dtype)}" for v in values)
        table = f"private unnamed_addr constant [{len(values)} x {e}] [{body}]"
        name = self.globals.setdefault(table, f"@table{len(self.globals)}")
        last = self.const(len(values) - 1, index.dtype)
        index = self.min(self.max(index, self.const(0, index.dtype)), last)
        if not index.lanes:
            p = self.pure(f"getelementptr {e}, ptr {name}, {type_of(index.dtype, 0)} {index.ref}")
            return Val(self.pure(f"load {e}, ptr {p}"), dtype)
        n = index.lanes
        p = self.pure(f"getelementptr {e}, ptr {name}, {type_of(index.dtype, n)} {index.ref}")
        return Val(self.gather(p, dtype, n, "splat (i1 true)", e), dtype, n)

    def gather(self, pointers: str, dtype: DType, lanes: int, mask: str, memory: str) -> str:
        """Elements at a vector of pointers; masked-out lanes are zero and their memory is not touched."""
        suffix = memory.replace("float", "f32").replace("double", "f64").replace("half", "f16")
        t = f"<{lanes} x {memory}>"
        name = f"llvm.masked.gather.v{lanes}{suffix}.v{lanes}p0"
        self.declared.setdefault(name, f"declare {t} @{name}(<{lanes} x ptr>, <{lanes} x i1>, {t})")
        align = max(dtype.itemsize, 1)
        where = f"<{lanes} x ptr> align {align} {pointers}, <{lanes} x i1> {mask}"
        return self.opaque(f"call {t} @{name}({where}, {t} zeroinitializer)")


__all__ = ["LLVMScalars", "Val", "element", "literal", "type_of"]
