"""What an op declaration is: the form, the registry, and the protocols its rules are written against.

An op is declared by its shape rule; the other rules hang on it::

    @op([Sample([(45, 65)]), Sample([()])], "elementwise", dtypes=FLOATS)
    def tanh(x: TensorType) -> TensorType:
        \"\"\"Hyperbolic tangent of each element.\"\"\"
        return x

    tanh.numpy(np.tanh)

    @tanh.vjp
    def _(ct: Node, out: Node, x: Node) -> tuple[Node]:
        return (ct * (1.0 - out * out),)

    @tanh.scalar
    def _(s: Scalars, x: Any) -> Any:
        return s.tanh(x)

Kinds, and the lowering rule each must have:

    elementwise  `scalar`    one element of the output from one element of each input; shapes are equal
                             (a call broadcasts its arguments first, so a node's inputs always have one shape)
    movement     `at`        one element of the output read from elements of the inputs at computed indices
    reduction    `combine`   running value and element -> running value; attrs: axes (sorted tuple)
    contraction  `contract`  a sum of products with affine indices, for the contraction engine
    kernel       `loops`     loop nests of its own
    leaf         (none)      input, state, constant
    region       (none)      control flow over graphs in attrs; several results, see `opdefs/control.py`

Forward mode needs no rule: it transposes the vjp, which is linear in its cotangent. `linear` says it shorter where an op
is linear itself, and a `jvp` rule of an op's own goes first. `batch` runs an op on many examples at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from graphopt.errors import DTypeError, GraphError, ShapeError, layout
from graphopt.ir.graph import Node
from graphopt.ir.types import DTYPES, DType, TensorType, TupleType, dtype_of
from graphopt.where import here

KINDS = ("elementwise", "movement", "reduction", "contraction", "kernel", "leaf", "region")
_RULE_OF_KIND = {"elementwise": "scalar", "movement": "at", "reduction": "combine", "contraction": "contract", "kernel": "loops"}


class Scalars(Protocol):
    """Arithmetic on one element (in fact a vector of lanes). Values are opaque; each has a dtype.

    Both operands of a binary method have the same dtype. Comparison gives bool. Integers wrap. Floats round to
    nearest even and follow IEEE 754; `min` and `max` hand on NaN as numpy's minimum and maximum do.
    `idiv` and `rem` truncate as C does, with 0 for a zero divisor. `shr` is arithmetic for signed dtypes.
    `cast` is numpy's astype; float to integer out of range is the lowest integer (saturating for unsigned).
    The mathematical functions below the core are written with the core (see `kernel/vmath.py`).
    """

    def dtype_of(self, x: Any) -> DType: ...
    def const(self, value: float, dtype: DType) -> Any: ...
    def add(self, a: Any, b: Any) -> Any: ...
    def sub(self, a: Any, b: Any) -> Any: ...
    def mul(self, a: Any, b: Any) -> Any: ...
    def div(self, a: Any, b: Any) -> Any: ...
    def idiv(self, a: Any, b: Any) -> Any: ...
    def rem(self, a: Any, b: Any) -> Any: ...
    def fma(self, a: Any, b: Any, c: Any) -> Any: ...
    def neg(self, x: Any) -> Any: ...
    def abs(self, x: Any) -> Any: ...
    def min(self, a: Any, b: Any) -> Any: ...
    def max(self, a: Any, b: Any) -> Any: ...
    def copysign(self, magnitude: Any, sign: Any) -> Any: ...
    def sqrt(self, x: Any) -> Any: ...
    def floor(self, x: Any) -> Any: ...
    def ceil(self, x: Any) -> Any: ...
    def trunc(self, x: Any) -> Any: ...
    def round(self, x: Any) -> Any: ...
    def eq(self, a: Any, b: Any) -> Any: ...
    def ne(self, a: Any, b: Any) -> Any: ...
    def lt(self, a: Any, b: Any) -> Any: ...
    def le(self, a: Any, b: Any) -> Any: ...
    def gt(self, a: Any, b: Any) -> Any: ...
    def ge(self, a: Any, b: Any) -> Any: ...
    def and_(self, a: Any, b: Any) -> Any: ...
    def or_(self, a: Any, b: Any) -> Any: ...
    def xor(self, a: Any, b: Any) -> Any: ...
    def not_(self, x: Any) -> Any: ...
    def shl(self, a: Any, b: Any) -> Any: ...
    def shr(self, a: Any, b: Any) -> Any: ...
    def select(self, condition: Any, a: Any, b: Any) -> Any: ...
    def cast(self, x: Any, dtype: DType) -> Any: ...
    def bitcast(self, x: Any, dtype: DType) -> Any: ...
    def table(self, values: tuple[int, ...], index: Any, dtype: DType) -> Any: ...
    # vector math, for f32 and f64 (f16 and bf16 compute in f32)
    def exp(self, x: Any) -> Any: ...
    def expm1(self, x: Any) -> Any: ...
    def log(self, x: Any) -> Any: ...
    def log1p(self, x: Any) -> Any: ...
    def tanh(self, x: Any) -> Any: ...
    def sigmoid(self, x: Any) -> Any: ...
    def erf(self, x: Any) -> Any: ...
    def sin(self, x: Any) -> Any: ...
    def cos(self, x: Any) -> Any: ...
    def pow(self, x: Any, y: Any) -> Any: ...


class Reader(Protocol):
    """What an `at` rule sees. Indices are integers with `+ - *` (by ints), `//` and `%` (by positive ints).

    `s` is the arithmetic for values. A guarded read never touches memory outside its condition.
    """

    s: Scalars

    def read(self, k: int, index: tuple[Any, ...]) -> Any:
        """The element of input k at `index`."""

    def within(self, index: Any, low: int, high: int) -> Any:
        """low <= index < high, as a bool value."""

    def guard(self, condition: Any, then: Callable[[], Any], other: Any) -> Any:
        """`then()` where `condition` holds (its reads happen only there), the value `other` elsewhere."""

    def value(self, index: Any, dtype: DType) -> Any:
        """An index as a value."""

    def index(self, value: Any) -> Any:
        """An integer value as an index."""


class Contracts(Protocol):
    """What a `contract` rule sees: it names loop dimensions and says which elements are multiplied and summed."""

    def out(self, size: int) -> Any:
        """A loop dimension of the output; usable in index arithmetic (`+`, `* int`)."""

    def sum(self, size: int) -> Any:
        """A loop dimension that is summed over."""

    def product(self, out: Sequence[Any], a: Sequence[Any], b: Sequence[Any]) -> Any:
        """out[out] = sum of a[a] * b[b]."""


class Loops(Protocol):
    """What a `loops` rule sees. Places are tuples of indices, as in Reader; the rule has stored every element once it ends.

    `s` is the arithmetic for values. A store is seen by the loads of the same independent iteration that follow it.
    The output of an op with `starts_from` holds that input's values already: the rule stores what differs.
    """

    s: Scalars

    def independent(self, shape: tuple[int, ...], body: Callable[[tuple[Any, ...]], None], lanes: bool) -> None:
        """`body(place)` for every place of `shape`, in any order, by any number of threads; outermost.

        No iteration may load what another one stores, and none stores what another one does. `lanes`: neighbours along
        the last axis may run as one vector; conditions must then be the same for all of them.
        """

    def serial(self, shape: tuple[int, ...], body: Callable[[tuple[Any, ...]], None]) -> None:
        """`body(place)` for every place of `shape`, one after the other in row-major order."""

    def each(self, size: int, body: Callable[[Any], None]) -> None:
        """`body(i)` for every i < size, in any order: iterations do not depend on one another."""

    def when(self, condition: Any, body: Callable[[], None]) -> None:
        """`body()` where the bool value `condition` holds; loads and stores happen only there."""

    def read(self, k: int, place: tuple[Any, ...]) -> Any:
        """The element of input k."""

    def load(self, place: tuple[Any, ...]) -> Any:
        """The element of the output as it is now."""

    def store(self, place: tuple[Any, ...], value: Any) -> None:
        """Write an element of the output."""

    def keep(self, value: Any) -> Any:
        """The value as it is now, whatever is stored later. Not inside `each`."""

    def scratch(self, size: int, dtype: DType) -> Any:
        """Memory of the rule's own, with `load(i)` and `store(i, value)`. It holds anything at first, so what is loaded
        proves itself by something that was stored; one independent iteration alone may use it.
        """

    def within(self, index: Any, low: int, high: int) -> Any:
        """low <= index < high, as a bool value."""

    def value(self, index: Any, dtype: DType) -> Any:
        """An index as a value."""

    def index(self, value: Any) -> Any:
        """An integer value as an index."""


@dataclass(frozen=True)
class Sample:
    """Inputs for the generic tests: shapes, attrs, the range values are drawn from.

    dtypes: per input, None for the dtype under test. low, high: the range; values: exact arrays instead.
    """

    shapes: Sequence[tuple[int, ...]]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    low: float = -2.0
    high: float = 2.0
    dtypes: tuple[DType | None, ...] | None = None
    values: Callable[[np.random.Generator, DType], Sequence[np.ndarray]] | None = None

    def arrays(self, rng: np.random.Generator, dtype: DType) -> list[np.ndarray]:
        """One array per input, drawn from the sample's range in the given dtype."""
        if self.values is not None:
            return [np.asarray(v) for v in self.values(rng, dtype)]
        kinds = self.dtypes or (None,) * len(self.shapes)
        result = []
        for shape, fixed in zip(self.shapes, kinds, strict=True):
            d = fixed or dtype
            if d.kind == "b":
                result.append(np.asarray(rng.integers(0, 2, shape), bool))
            elif d.is_integer:
                low = max(self.low, 0.0) if d.kind == "u" else max(self.low, float(np.iinfo(d.numpy).min))
                high = max(min(self.high, float(np.iinfo(d.numpy).max)), low + 1)
                result.append(np.asarray(rng.integers(int(low), int(high) + 1, shape)).astype(d.numpy))
            else:
                result.append(np.asarray(rng.uniform(self.low, self.high, shape)).astype(d.numpy))
        return result


class OpDef:
    """One op: its shape rule and the rules hung on it. Calling it with nodes makes a node."""

    def __init__(
        self,
        infer: Callable[..., TensorType],
        kind: str,
        samples: Sequence[Sample],
        dtypes: Sequence[DType],
        starts_from: int | None = None,
    ):
        self.infer = infer
        self.starts_from = starts_from
        self.name = infer.__name__.rstrip("_")
        self.doc = infer.__doc__ or ""
        self.kind = kind
        self.samples = tuple(samples)
        self.dtypes = tuple(dtypes)
        self.rules: dict[str, Callable[..., Any]] = {}
        self.no_vjp_reason = ""
        self.no_batch_reason = ""
        self.__doc__ = self.doc

    def _rule(self, name: str, rule: Callable[..., Any]) -> Callable[..., Any]:
        if name in self.rules:
            raise TypeError(f"op {self.name}: rule {name} is declared twice")
        self.rules[name] = rule
        return rule

    def numpy(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """numpy meaning: arrays and attrs -> array. Its result is cast to the inferred dtype."""
        return self._rule("numpy", rule)

    def vjp(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """(ct, out, *inputs, **attrs) -> one cotangent per input, None for an input without one."""
        return self._rule("vjp", rule)

    def jvp(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """(tangents, out, *inputs, **attrs) -> tangent of the output; None, there and here, is zero."""
        return self._rule("jvp", rule)

    def linear(self, *groups: Sequence[int]) -> None:
        """The op is linear in each group of inputs taken together, the others fixed: its jvp is a sum of itself."""

        def rule(tangents: Sequence[Node | None], out: Node, *inputs: Node, **attrs: Any) -> Node | None:
            total: Node | None = None
            for group in groups or [tuple(range(len(inputs)))]:
                if all(tangents[k] is None for k in group):
                    continue
                given = list(inputs)
                for k in group:
                    tangent = tangents[k]
                    given[k] = full(inputs[k].shape, 0, inputs[k].dtype) if tangent is None else tangent
                part = self(*given, **attrs)
                total = part if total is None else opdef("add")(total, part)
            return total

        self._rule("jvp", rule)

    def batch(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """(size, mapped, *inputs, **attrs) -> the op on `size` examples, which are axis 0 of the result.

        mapped: for each input whether it has examples, also along axis 0; the others are the same for all.
        """
        return self._rule("batch", rule)

    def no_batch(self, reason: str) -> None:
        """The op cannot be mapped over examples, and why."""
        self.no_batch_reason = reason

    def scalar(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """(s: Scalars, *elements, **attrs) -> element."""
        return self._rule("scalar", rule)

    def at(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """(r: Reader, index, *input types, **attrs) -> element at index."""
        return self._rule("at", rule)

    def combine(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """(s: Scalars, running, element) -> running."""
        return self._rule("combine", rule)

    def initial(self, rule: Callable[[DType], float]) -> Callable[[DType], float]:
        """dtype -> the neutral value a reduction starts from."""
        return self._rule("initial", rule)

    def contract(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """(c: Contracts, *input types, **attrs) -> c.product(...)."""
        return self._rule("contract", rule)

    def loops(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """(nest: Loops, *input types, **attrs): the op's own loop nests, by their effects."""
        return self._rule("loops", rule)

    def no_vjp(self, reason: str) -> None:
        """The op has no derivative, and why."""
        self.no_vjp_reason = reason

    def evaluate(self, type: TensorType, arrays: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        """The numpy meaning on arrays, as an array of `type`; of an op with several results, a tuple of arrays."""
        if isinstance(type, TupleType):
            return tuple(self.rules["numpy"](*arrays, **attrs))
        with np.errstate(all="ignore"):
            result = np.asarray(self.rules["numpy"](*arrays, **attrs))
            return np.ascontiguousarray(result.astype(type.dtype.numpy, copy=False)).reshape(type.shape)

    def infer_type(self, types: Sequence[TensorType], attrs: Mapping[str, Any], operands: Sequence[Node] = ()) -> TensorType:
        """The shape rule, with its error laid out for the user."""
        try:
            return self.infer(*types, **attrs)
        except GraphError as error:
            names = [f"input {k}: {t}{_origin(operands, k)}" for k, t in enumerate(types)]
            what = str(error)
            prefix = "" if what.startswith(f"{self.name}:") else f"{self.name}: "
            raise type(error)(layout(prefix + what, here(), names)) from None

    def __call__(self, *args: Node | float, **attrs: Any) -> Node:
        like = next((a for a in args if isinstance(a, Node)), None)
        nodes = [a if isinstance(a, Node) else constant(a, _like(like, self.name).dtype) for a in args]
        if self.kind == "elementwise" and len(nodes) > 1:
            nodes = broadcast_together(self.name, nodes)
        type = self.infer_type([n.type for n in nodes], attrs, nodes)
        return Node(self.name, tuple(nodes), MappingProxyType(attrs), type, here())

    def __repr__(self) -> str:
        return f"<op {self.name}>"


def _like(like: Node | None, name: str) -> Node:
    if like is None:
        raise DTypeError(f"{name}: expects at least one node among its arguments, found numbers only")
    return like


def _origin(operands: Sequence[Node], k: int) -> str:
    if k < len(operands) and operands[k].where is not None:
        return f"  = {operands[k].op} at {operands[k].where}"
    return ""


REGISTRY: dict[str, OpDef] = {}


def op(
    samples: Sequence[Sample], kind: str, dtypes: Sequence[DType] = DTYPES, starts_from: int | None = None
) -> Callable[[Callable[..., TensorType]], OpDef]:
    """Declare an op; the decorated function is its shape rule and names it (a trailing underscore is dropped).

    samples:     a usual shape, the smallest, an odd size, the saturated and the tiny range, every attribute's second
                 value.
    dtypes:      what the op claims for the dtype under test of its samples.
    starts_from: for a `kernel` op, the input whose values the output has where the loops rule stores nothing. The
                 output may then lie on that input's memory, and nothing of it is copied.
    """
    if kind not in KINDS:
        raise TypeError(f"op kind {kind!r}: expected one of {', '.join(KINDS)}")
    if starts_from is not None and kind != "kernel":
        raise TypeError(f"op kind {kind!r}: only a kernel op can start from one of its inputs")

    def declare(infer: Callable[..., TensorType]) -> OpDef:
        made = OpDef(infer, kind, samples, dtypes, starts_from)
        if made.name in REGISTRY:
            raise TypeError(f"op {made.name} is declared twice")
        REGISTRY[made.name] = made
        return made

    return declare


def opdef(name: str) -> OpDef:
    """The declaration of an op."""
    return REGISTRY[name]


def seal() -> None:
    """Refuse half an op: every declaration must have its manual, samples, numpy meaning, derivative and lowering.

    Errors: TypeError naming the op and the missing rule. Called once all families are imported.
    """
    for d in REGISTRY.values():
        if d.kind in ("leaf", "region"):
            continue
        needed = ["numpy", _RULE_OF_KIND[d.kind]] + (["initial"] if d.kind == "reduction" else [])
        for rule in needed:
            if rule not in d.rules:
                raise TypeError(f"op {d.name}: a {d.kind} op needs the rule {rule}")
        if not d.doc or not d.samples:
            raise TypeError(f"op {d.name}: needs a docstring and samples")
        if ("vjp" in d.rules) == bool(d.no_vjp_reason):
            raise TypeError(f"op {d.name}: needs a vjp, or no_vjp with the reason")
        if d.kind in _BATCHED_KINDS and not d.no_batch_reason:
            d.rules.setdefault("batch", partial(_BATCHED_KINDS[d.kind], d))
        if ("batch" in d.rules) == bool(d.no_batch_reason):
            raise TypeError(f"op {d.name}: needs a batch rule, or no_batch with the reason")


def _elementwise_batch(d: OpDef, size: int, mapped: Sequence[bool], *inputs: Node, **attrs: Any) -> Node:
    return d(*inputs, **attrs)  # the call broadcasts what is the same for all examples


def _reduction_batch(d: OpDef, size: int, mapped: Sequence[bool], x: Node, *, axes: tuple[int, ...]) -> Node:
    return d(x, axes=shifted(axes))


_BATCHED_KINDS = {"elementwise": _elementwise_batch, "reduction": _reduction_batch}


def shifted(axes: Sequence[int]) -> tuple[int, ...]:
    """The same axes behind one more axis."""
    return tuple(k + 1 for k in axes)


def repeated(x: Node, size: int) -> Node:
    """x for each of `size` examples, which are axis 0."""
    return opdef("broadcast")(x, shape=(size, *x.shape), axes=shifted(range(x.type.rank)))


def all_mapped(size: int, mapped: Sequence[bool], inputs: Sequence[Node]) -> list[Node]:
    """The inputs of a batch rule, each with examples along axis 0."""
    return [x if m else repeated(x, size) for m, x in zip(mapped, inputs, strict=True)]


def constant(value: Any, dtype: DType | None = None) -> Node:
    """A constant of any shape. Small values are printed in graph text, large ones by their hash."""
    array = np.asarray(value) if dtype is None else np.asarray(value).astype(dtype.numpy)
    array = np.ascontiguousarray(array).reshape(array.shape)
    array.flags.writeable = False
    type = TensorType(dtype or dtype_of(array.dtype), array.shape)
    return Node("constant", (), MappingProxyType({"value": array}), type, here())


def full(shape: tuple[int, ...], value: float, dtype: DType) -> Node:
    """A constant number broadcast to `shape`."""
    return broadcast_to(constant(value, dtype), shape)


def broadcast_to(x: Node, shape: tuple[int, ...]) -> Node:
    """Broadcast by numpy's rules (axes aligned at the end; size 1 stretches).

    Errors: ShapeError when the shapes do not fit.
    """
    if x.shape == tuple(shape):
        return x
    lead = len(shape) - x.type.rank
    if lead < 0 or any(n not in (1, m) for n, m in zip(x.shape, shape[lead:], strict=True)):
        raise ShapeError(f"cannot broadcast {x.type} to shape {tuple(shape)}")
    kept = tuple(k for k, n in enumerate(x.shape) if n == shape[lead + k])
    if len(kept) != x.type.rank:
        x = opdef("reshape")(x, shape=tuple(x.shape[k] for k in kept))
    return opdef("broadcast")(x, shape=tuple(shape), axes=tuple(lead + k for k in kept))


def broadcast_together(name: str, nodes: Sequence[Node]) -> list[Node]:
    """All nodes broadcast to their common shape.

    Errors: ShapeError, laid out, when there is none.
    """
    shapes = {n.shape for n in nodes}
    if len(shapes) == 1:
        return list(nodes)
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        operands = [f"input {k}: {n.type}{_origin(nodes, k)}" for k, n in enumerate(nodes)]
        found = " and ".join(str(n.shape) for n in nodes)
        raise ShapeError(layout(f"{name}: shapes do not broadcast together: {found}", here(), operands)) from None
    return [broadcast_to(n, shape) for n in nodes]
