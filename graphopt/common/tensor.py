"""Tensor: an array that can be a value, or a node of the trace at hand. `apply`: the one way ops run on tensors.

The methods that compute something are attached by `common.methods`, indexing by `common.indexing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from graphopt.common.attached import Attached
from graphopt.common.checks import found
from graphopt.common.dtype import bool_, check_dtype, float32, of_number
from graphopt.common.printing import tensor_repr, tensor_str
from graphopt.common.trace import Trace, active, needs_value, value_is_gone
from graphopt.ir.graph import Node, input_node
from graphopt.ir.types import DType, TensorType, dtype_of
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.opdefs.opdef import OpDef
from graphopt_runtime.buffers import aligned_copy

CHOICE = "choose with ops.select or ops.where, or by an `if` of your own function's; anything works in PYNATIVE_MODE"
VALUES = "use tensor operations instead, or run in PYNATIVE_MODE, where tensors have values"

_epoch = 0


def epoch() -> int:
    """A number that grows whenever something a compiled graph may have captured is changed from outside."""
    return _epoch


def bump() -> None:
    """Let compiled graphs look again whether what they captured is still as it was."""
    global _epoch
    _epoch += 1


_types: dict[tuple[np.dtype, tuple[int, ...]], TensorType] = {}
_MANY_TYPES = 1 << 14  # then the table is begun anew: shapes may come from data


def type_of(array: np.ndarray) -> TensorType:
    """The type of an array's Tensor: one object for equal types, as long as there are not too many.

    Errors: TypeError for a dtype that graphopt does not have.
    """
    known = _types.get((array.dtype, array.shape))
    return type_like(TensorType(dtype_of(array.dtype), array.shape)) if known is None else known


def type_like(kind: TensorType) -> TensorType:
    """The object that `type_of` gives for arrays of this type."""
    if len(_types) >= _MANY_TYPES:
        _types.clear()
    return _types.setdefault((kind.dtype.numpy, kind.shape), kind)


class Tensor(Attached):
    """An n-dimensional array of one dtype.

    input_data: a Tensor, numpy array (copied; `Tensor.from_numpy` shares), number, or nested lists of numbers.
                Python floats become float32, ints int64; numpy arrays keep their dtype.
    dtype:      the dtype to convert to.
    shape, init: instead of input_data, an initializer fills that shape (`common.initializer`). With None, -1 or a
                `Symbol` among the sizes and no init, the Tensor has no values: it describes an argument (`set_inputs`).

    Errors: TypeError for data that is no number or not rectangular, or an unknown dtype; ValueError when input_data and
            init are both given, or neither, and for unknown sizes without a dtype.

    >>> import graphopt as ms
    >>> ms.Tensor([1.0, 2.0]) * 3
    Tensor(shape=[2], dtype=Float32, value= [ 3.00000000e+00,  6.00000000e+00])
    """

    _is_parameter = False
    _version = 0
    _hooks: dict[int, Callable[..., Any]] | None = None  # see common/hooks.py
    _scalar = False  # computed from Python floats only, like `_weak`, but of whatever dtype
    __array_priority__ = 100.0

    _type: TensorType
    _array: np.ndarray | None
    _node: Node | None = None
    _trace: Trace | None = None
    _weak = False
    _captured = False
    _described: tuple[Any, ...] | None = None  # of a Tensor that only describes an argument, its shape with what is unknown
    _draw: Callable[..., Tensor]  # common.initializer.initializer, put here by common/__init__.py

    def __init__(self, input_data: Any = None, dtype: Any = None, shape: Any = None, init: Any = None, const_arg: bool = False):
        if input_data is None and init is None and isinstance(shape, (tuple, list)) and any(map(_unknown, shape)):
            self._describe(shape, dtype)
            return
        if init is not None:
            array = _initialized(input_data, dtype, shape, init)
        elif input_data is None:
            raise TypeError("Tensor: expected input_data, or shape, dtype and init; found neither")
        else:
            array = to_array(input_data, dtype)
            if shape is not None and tuple(shape) != array.shape:
                raise ValueError(f"Tensor: shape must be that of input_data, {array.shape}, found {tuple(shape)}")
        self._bind(array)

    def _describe(self, shape: Any, dtype: Any) -> None:
        if dtype is None:
            raise ValueError(f"Tensor: a shape with unknown sizes needs a dtype, found shape {tuple(shape)} alone")
        self._described = tuple(None if n == -1 else n for n in shape)
        sizes = tuple(n if isinstance(n, int) else -1 for n in self._described)
        self._type, self._array = TensorType(check_dtype("Tensor", dtype), sizes), None

    def _bind(self, array: np.ndarray) -> None:
        self._type = type_of(array)
        self._array = array

    @staticmethod
    def from_numpy(array: np.ndarray) -> Tensor:
        """A Tensor on the array's own memory; copied only when that is not C-contiguous.

        Errors: TypeError when `array` is no numpy array.
        """
        if not isinstance(array, np.ndarray):
            raise TypeError(f"Tensor.from_numpy: expected a numpy array, found {array!r} of type {type(array).__name__}")
        dtype_of(array.dtype)
        return wrap_array(array if array.flags.c_contiguous else np.ascontiguousarray(array))

    # what it is -----------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return self._type.shape

    @property
    def dtype(self) -> DType:
        """The dtype of the elements."""
        return self._type.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self._type.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._type.size

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self._type.bytes

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes from one element to the next, for every axis (row-major order)."""
        steps, step = [], self.itemsize
        for n in reversed(self.shape):
            steps.append(step)
            step *= n
        return tuple(reversed(steps))

    @property
    def has_init(self) -> bool:
        """Whether the value is still to be drawn from an initializer; always drawn at once here."""
        return False

    def init_data(self, *_: Any, **__: Any) -> Tensor:
        """The tensor itself: initial values are drawn when it is made."""
        return self

    def dim(self) -> int:
        """Number of axes."""
        return self.ndim

    # values ---------------------------------------------------------------------------------------------------

    def _value(self, what: str, hint: str = VALUES) -> np.ndarray:
        """The array, for reading.

        Errors: TraceError naming `what` when only the type is known.
        """
        if self._array is None:
            if self._described is not None:
                raise ValueError(f"{what}: a Tensor of shape {self._described} only describes an argument, it has no values")
            if self._trace is not None and self._trace.finished:
                raise value_is_gone(self)
            raise needs_value(what, self, hint)
        return self._array

    def asnumpy(self) -> np.ndarray:
        """The values as a numpy array on the tensor's own memory (a Parameter gives a copy).

        Errors: TraceError in a GRAPH_MODE trace.
        """
        return self._value("asnumpy()")

    def numpy(self) -> np.ndarray:
        """The same as `asnumpy()`."""
        return self._value("numpy()")

    def item(self) -> Any:
        """The only element as a Python number.

        Errors: ValueError when there is not exactly one element.
        """
        return self._one("item()").item()

    def tolist(self) -> Any:
        """The values as nested lists of Python numbers."""
        return self._value("tolist()").tolist()

    def _one(self, what: str, hint: str = VALUES) -> np.ndarray:
        if self.size != 1:
            raise ValueError(f"{what}: expected a tensor with one element, found shape {self.shape}")
        return self._value(what, hint).reshape(())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._value("numpy's array()"), dtype=dtype, copy=copy)

    def __bool__(self) -> bool:
        if self.size == 0:
            return False
        return bool(self._one("bool()", CHOICE))

    def __int__(self) -> int:
        return int(self._one("int()"))

    def __float__(self) -> float:
        return float(self._one("float()"))

    def __index__(self) -> int:
        if not self.dtype.is_integer and self.dtype is not bool_:
            raise TypeError(f"only an integer tensor can be an index, found dtype {self.dtype!r}")
        return int(self._one("use as an index"))

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len(): a 0-d tensor has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d tensor")
        return (self[k] for k in range(self.shape[0]))

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return tensor_repr(self._type, self._array)

    def __str__(self) -> str:
        return tensor_str(self._type, self._array)

    def __format__(self, spec: str) -> str:
        return str(self) if not spec else format(self.item(), spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return wrap_array(aligned_copy(self._value("deepcopy()")))

    def __reduce__(self) -> tuple[Any, ...]:
        return (wrap_array, (self._value("pickle").copy(),))

    def copy(self) -> Tensor:
        """A tensor with the same values on memory of its own."""
        return apply(lambda x: x, self) if self._array is None else wrap_array(aligned_copy(self._array))

    # writing --------------------------------------------------------------------------------------------------

    def _assign(self, value: Tensor) -> None:
        """Take the value over, in place; the dtype is converted.

        Errors: ValueError when the shapes differ; TraceError for a plain Tensor from outside of the trace at hand.
        """
        if value.shape != self.shape:
            raise ValueError(f"assignment: expected shape {self.shape}, found {value.shape}")
        value = value if value.dtype is self.dtype else value.astype(self.dtype)
        trace = active()
        if trace is not None and (trace.knows(value) or trace.knows(self) or value._is_parameter):
            node = trace.node_of(value)
            self._node, self._trace = node, trace
            self._array = trace.values.get(node)
            return
        source = value._value("assignment")
        if self._array is None or not self._array.flags.writeable:
            self._array = source.copy()
        else:
            self._array[...] = source
        self._changed()

    def assign_value(self, value: Tensor) -> Tensor:
        """Take the value of another tensor of the same shape over; the tensor itself is returned."""
        self._assign(to_tensor(value))
        return self

    def _changed(self) -> None:
        if self._captured:
            self._version += 1
            bump()


def _unknown(size: Any) -> bool:
    """Whether a size in a shape stands for any: None, -1 or a Symbol."""
    return size is None or size == -1 or hasattr(size, "admits")


def _initialized(input_data: Any, dtype: Any, shape: Any, init: Any) -> np.ndarray:
    if input_data is not None:
        raise ValueError("Tensor: input_data and init exclude each other, found both")
    if shape is None or dtype is None:
        raise ValueError("Tensor: init needs shape and dtype too")
    return Tensor._draw(init, shape, check_dtype("Tensor", dtype))._value("init")


def to_array(data: Any, dtype: Any = None) -> np.ndarray:
    """A fresh C-contiguous array of a dtype graphopt has, from whatever `Tensor(...)` accepts.

    Errors: TypeError.
    """
    wanted = None if dtype is None else check_dtype("Tensor", dtype).numpy
    if isinstance(data, Tensor):
        return aligned_copy(data._value("Tensor()"), wanted)
    if isinstance(data, (np.ndarray, np.generic)):
        check_dtype("Tensor", data.dtype)
        return aligned_copy(np.asarray(data), wanted)
    if isinstance(data, (bool, int, float)):
        return _number_array(data, of_number(data).numpy if wanted is None else wanted)
    if isinstance(data, (list, tuple)):
        return _from_lists(data, wanted)
    hint = "; name the values with shape, dtype and init" if isinstance(data, str) else ""
    expected = "a Tensor, numpy array, number, or (nested) list or tuple of numbers"
    raise TypeError(f"Tensor: input_data must be {expected}, found {data!r} of type {type(data).__name__}{hint}")


def _number_array(data: Any, dtype: np.dtype) -> np.ndarray:
    try:
        return np.array(data, dtype)
    except OverflowError:
        raise ValueError(f"Tensor: {data!r} does not fit into {dtype.name}") from None


def _from_lists(data: list[Any] | tuple[Any, ...], wanted: np.dtype | None) -> np.ndarray:
    plain = _without_tensors(data)
    try:
        array = np.array(plain)
    except ValueError:
        raise TypeError(f"Tensor: input_data must be rectangular, found rows of different lengths in {data!r}") from None
    if array.dtype.kind not in "biuf" and array.dtype != np.dtype("V2"):
        try:
            return np.ascontiguousarray(array.astype(dtype_of(array.dtype).numpy if wanted is None else wanted))
        except (TypeError, ValueError):
            raise TypeError(f"Tensor: input_data must hold numbers only, found {data!r}") from None
    if wanted is None and array.dtype == np.float64 and not _holds_float64(plain):
        wanted = float32.numpy
    return aligned_copy(array, wanted)


def _without_tensors(data: Any) -> Any:
    if isinstance(data, (list, tuple)):
        return [_without_tensors(item) for item in data]
    return data._value("Tensor()") if isinstance(data, Tensor) else data


def _holds_float64(data: Any) -> bool:
    """Whether a nested list holds numpy float64 values, which keep their dtype; Python floats become float32."""
    if isinstance(data, list):
        return any(_holds_float64(item) for item in data)
    return isinstance(data, (np.ndarray, np.generic)) and data.dtype == np.float64


_new = Tensor.__new__


def wrap_array(array: np.ndarray) -> Tensor:
    """A Tensor on this C-contiguous array, which is not copied."""
    tensor = _new(Tensor)
    tensor._type = type_of(array)
    tensor._array = array
    return tensor


def wrap_typed(array: np.ndarray, kind: TensorType) -> Tensor:
    """The same when the array's type is known already, as `type_of` or `type_like` gave it."""
    tensor = _new(Tensor)
    tensor._type = kind
    tensor._array = array
    return tensor


def wrap_node(node: Node, trace: Trace, weak: bool = False) -> Tensor:
    """The Tensor that stands for a node of a trace, with its value in a concrete one."""
    trace.compute((node,))
    tensor = _new(Tensor)
    tensor._type = node.type
    tensor._array = trace.values.get(node)
    tensor._node = node
    tensor._trace = trace
    return as_scalar(tensor) if weak else tensor


def as_scalar(tensor: Tensor) -> Tensor:
    """Let a traced tensor count as a Python float in promotions."""
    assert tensor._trace is not None and tensor._node is not None
    tensor._weak = True
    tensor._trace.scalars.add(tensor._node)
    return tensor


def to_tensor(value: Any, dtype: Any = None) -> Tensor:
    """`value` itself when it is a Tensor of that dtype, otherwise converted."""
    if isinstance(value, Tensor):
        return value if dtype is None or value.dtype is dtype else value.astype(dtype)
    return Tensor(value, dtype)


def is_tensor(obj: Any) -> bool:
    """Whether `obj` is a Tensor.

    >>> import graphopt as ms
    >>> ms.is_tensor(ms.Tensor([1])), ms.is_tensor([1])
    (True, False)
    """
    return isinstance(obj, Tensor)


def from_numpy(array: np.ndarray) -> Tensor:
    """A Tensor on the array's own memory, see `Tensor.from_numpy`.

    >>> import graphopt as ms
    >>> import numpy as np
    >>> ms.from_numpy(np.array([1, 2])).asnumpy().tolist()
    [1, 2]
    """
    return Tensor.from_numpy(array)


_FOLDED_ELEMS = 4096  # results of constants up to this size are computed while tracing; larger ones stay small in the graph


def apply(op: OpDef | Callable[..., Any], *args: Any, **attrs: Any) -> Any:
    """Run an op on tensors: at once when they have values, as nodes inside a trace.

    op:   an OpDef, or any function from nodes to a node or a tuple of nodes (several ops at once).
    args: Tensors and Python numbers; a number takes the dtype of the first tensor.

    Inside a symbolic trace, operations on constants alone are still computed at once when the result is small.
    """
    trace = active()
    tensors = [a for a in args if isinstance(a, Tensor)]
    if trace is None:
        return _at_once(op, args, attrs)
    if tensors and not any(trace.knows(t) or t._is_parameter for t in tensors):
        if trace.concrete or all(t.size <= _FOLDED_ELEMS for t in tensors):
            result = _at_once(op, args, attrs)
            parts = result if isinstance(result, tuple) else (result,)
            if trace.concrete or all(p.size <= _FOLDED_ELEMS for p in parts):
                return result
    made = op(*(trace.node_of(a) if isinstance(a, Tensor) else a for a in args), **attrs)
    if isinstance(made, tuple):
        return tuple(wrap_node(node, trace) for node in made)
    return wrap_node(made, trace)


def _at_once(op: OpDef | Callable[..., Any], args: Sequence[Any], attrs: dict[str, Any]) -> Any:
    """The numpy meaning on the tensors' values."""
    arrays = [a._value("an op") if isinstance(a, Tensor) else a for a in args]
    if isinstance(op, OpDef):
        found = _typed(op, args, arrays)
        if found is not None:
            types, values = found
            return wrap_array(_own(op.evaluate(op.infer_type(types, attrs), values, attrs), arrays))
    leaves = {input_node(f"input{k}", a._type): a._value("an op") for k, a in enumerate(args) if isinstance(a, Tensor)}
    unused = iter(leaves)
    made = op(*(next(unused) if isinstance(a, Tensor) else a for a in args), **attrs)
    nodes = made if isinstance(made, tuple) else (made,)
    results = [wrap_array(_own(v, arrays)) for v in evaluate_nodes(nodes, leaves)]
    return tuple(results) if isinstance(made, tuple) else results[0]


def _typed(op: OpDef, args: Sequence[Any], arrays: Sequence[Any]) -> tuple[list[TensorType], list[np.ndarray]] | None:
    """Types and arrays of the arguments, numbers converted, elementwise ones broadcast; None when they do not broadcast."""
    like = next((a.dtype for a in args if isinstance(a, Tensor)), None)
    if like is None and args:
        return None
    values = [a if isinstance(a, np.ndarray) else np.asarray(a).astype(like.numpy) for a in arrays]  # type: ignore[union-attr]
    types = [a._type if isinstance(a, Tensor) else TensorType(like, ()) for a in args]  # type: ignore[arg-type]
    if op.kind != "elementwise" or all(t.shape == types[0].shape for t in types):
        return types, values
    try:
        shape = np.broadcast_shapes(*(v.shape for v in values))
    except ValueError:
        return None
    return [t.with_shape(shape) for t in types], [np.broadcast_to(v, shape) for v in values]


def _own(result: np.ndarray, arrays: Sequence[Any]) -> np.ndarray:
    """The result on memory of its own: arrays of tensors may be written to later."""
    for array in arrays:
        if isinstance(array, np.ndarray) and np.may_share_memory(result, array):
            return result.copy()
    return result if result.flags.writeable else result.copy()


def refuse(op: str, value: Any) -> NoReturn:
    """TypeError for an operand that is neither Tensor nor number."""
    if isinstance(getattr(value, "_type", None), TensorType):
        raise TypeError(f"{op}: expected a Tensor or a number, found {found(value)}; its to_dense() is a Tensor")
    hint = "; wrap it: Tensor(array)" if isinstance(value, np.ndarray) else ""
    raise TypeError(f"{op}: expected a Tensor or a number, found {value!r} of type {type(value).__name__}{hint}")
