"""What operators and elementwise methods of Tensors compute: operands are brought to one dtype, then ops run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.common.dtype import bool_, check_dtype, float32, promote, promote_number
from graphopt.common.precision import ruled
from graphopt.common.tensor import Tensor, apply, as_scalar, refuse, to_tensor
from graphopt.errors import DTypeError, layout
from graphopt.ir.types import DType
from graphopt.opdefs import bits, elementwise, linalg, math
from graphopt.where import here

Number = (bool, int, float, np.number, np.bool_)


def method(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Attach a function to Tensor under these names."""

    def attach(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            setattr(Tensor, name, function)
        return function

    return attach


@method("astype")
def cast(x: Tensor, dtype: Any, copy: bool = True) -> Tensor:
    """The elements in another dtype; `copy=False` gives the tensor itself when it has it."""
    wanted = check_dtype("astype", dtype)
    if wanted is x.dtype:
        return x if not copy or x._node is not None or x._is_parameter else x.copy()
    return apply(elementwise.cast, x, dtype=wanted)


def as_dtype(x: Tensor, dtype: DType) -> Tensor:
    """The tensor itself when it has the dtype, a cast otherwise."""
    return x if x.dtype is dtype else apply(elementwise.cast, x, dtype=dtype)


def operand(name: str, value: Any) -> Any:
    """A Tensor or a Python number, from an operand of `name`; lists become Tensors.

    Errors: TypeError for anything else.
    """
    if isinstance(value, Tensor) or type(value) in (int, float, bool):
        return value
    if isinstance(value, (np.number, np.bool_)):
        return value.item()
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return to_tensor(value)
    refuse(name, value)


def common_dtype(name: str, a: Any, b: Any) -> DType:
    """The dtype in which two operands meet; a run-time scalar that was a Python float counts as one."""
    try:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            if a._weak is b._weak:
                return promote(a.dtype, b.dtype)
            return promote_number(b.dtype if a._weak else a.dtype, 1.0)
        return promote_number(a.dtype, b) if isinstance(a, Tensor) else promote_number(b.dtype, a)
    except DTypeError as error:
        raise DTypeError(layout(f"{name}: {error}", here())) from None


def together(name: str, a: Any, b: Any, floats: bool = False) -> tuple[Any, Any]:
    """Both operands in one dtype (with `floats`, a float one); at least one of them must be a Tensor."""
    a, b = operand(name, a), operand(name, b)
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        a = to_tensor(a)
    dtype = common_dtype(name, a, b)
    if floats and not dtype.is_float:
        dtype = float32
    return tuple(as_dtype(x, dtype) if isinstance(x, Tensor) else x for x in (a, b))  # type: ignore[return-value]


def binary(name: str, op: Any, a: Any, b: Any, floats: bool = False) -> Tensor:
    """`op` on two operands in one dtype. Run-time scalars among themselves stay run-time scalars."""
    x, y = together(name, a, b, floats)
    result = apply(op, x, y)
    if result._node is not None and result.dtype is float32 and _only_floats(x, y):
        return as_scalar(result)
    return result


def _only_floats(*operands: Any) -> bool:
    """Whether all operands are numbers or run-time scalars."""
    return all(not isinstance(x, Tensor) or x._weak for x in operands)


def unary(op: Any, x: Tensor, floats: bool = True) -> Tensor:
    """`op` on a tensor, which with `floats` becomes float32 when it is an integer or bool one."""
    result = apply(op, as_dtype(x, float32) if floats and not x.dtype.is_float else x)
    return as_scalar(result) if x._weak and result._node is not None and result.dtype is float32 else result


def _both_bool(a: Any, b: Any) -> bool:
    return all(isinstance(x, bool) or (isinstance(x, Tensor) and x.dtype is bool_) for x in (a, b))


@method("add", "__add__")
def add(self: Any, other: Any) -> Tensor:
    """self + other; of two bools, whether one holds."""
    return binary("add", bits.logical_or if _both_bool(self, other) else elementwise.add, self, other)


@method("mul", "multiply", "__mul__")
def mul(self: Any, other: Any) -> Tensor:
    """self * other; of two bools, whether both hold."""
    return binary("mul", bits.logical_and if _both_bool(self, other) else elementwise.mul, self, other)


@method("sub", "subtract", "__sub__")
def sub(self: Any, other: Any) -> Tensor:
    """self - other."""
    return binary("sub", elementwise.sub, self, other)


@method("div", "divide", "true_divide", "__truediv__")
def div(self: Any, other: Any) -> Tensor:
    """self / other; integers give float32."""
    return binary("div", elementwise.div, self, other, floats=True)


@method("floor_divide", "floor_div", "__floordiv__")
def floor_divide(self: Any, other: Any) -> Tensor:
    """The largest whole number not above self / other."""
    return binary("floor_divide", elementwise.floordiv, self, other)


@method("remainder", "floor_mod", "__mod__")
def mod(self: Any, other: Any) -> Tensor:
    """What floor division leaves; it has the sign of `other`."""
    return binary("mod", elementwise.mod, self, other)


@method("pow", "__pow__")
def power(self: Any, exponent: Any) -> Tensor:
    """self to the power of exponent."""
    done, result = ruled("pow", power, (self, exponent), {})
    if done:
        return result
    return binary("pow", math.pow_, self, exponent)


@method("matmul", "__matmul__")
def matmul(self: Any, other: Any) -> Tensor:
    """The matrix product as numpy's matmul."""
    done, result = ruled("matmul", matmul, (self, other), {})
    if done:
        return result
    a, b = together("matmul", self, other)
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        raise TypeError(f"matmul: expected two Tensors, found {self!r} and {other!r}")
    return apply(linalg.matmul, a, b)


@method("maximum")
def maximum(self: Any, other: Any) -> Tensor:
    """The larger of two elements; NaN when one is NaN."""
    return binary("maximum", elementwise.maximum, self, other)


@method("minimum")
def minimum(self: Any, other: Any) -> Tensor:
    """The smaller of two elements; NaN when one is NaN."""
    return binary("minimum", elementwise.minimum, self, other)


def _reflected(function: Callable[[Any, Any], Tensor]) -> Callable[[Tensor, Any], Tensor]:
    return lambda self, other: function(operand(function.__name__, other), self)


def _comparison(name: str, op: Any) -> Callable[[Any, Any], Tensor]:
    def compare(self: Any, other: Any) -> Tensor:
        x, y = together(name, self, other)
        result = apply(op, x, y)
        result._scalar = result._node is not None and _only_floats(x, y)
        return result

    compare.__name__ = name
    compare.__doc__ = f"Whether self is {name.replace('_', ' ')} other, element by element."
    return compare


less = _comparison("less", elementwise.lt)
less_equal = _comparison("less_equal", elementwise.le)
greater = _comparison("greater", elementwise.gt)
greater_equal = _comparison("greater_equal", elementwise.ge)
equal = _comparison("equal", elementwise.eq)
not_equal = _comparison("not_equal", elementwise.ne)


@method("__eq__")
def _eq(self: Tensor, other: Any) -> Any:
    """Element by element; False for something that is neither Tensor nor number."""
    return equal(self, other) if isinstance(other, (Tensor, *Number)) else False


@method("__ne__")
def _ne(self: Tensor, other: Any) -> Any:
    """Element by element; True for something that is neither Tensor nor number."""
    return not_equal(self, other) if isinstance(other, (Tensor, *Number)) else True


def truth(x: Any) -> Any:
    """x as a bool: whether it is not 0."""
    return as_dtype(x, bool_) if isinstance(x, Tensor) else bool(x)


def _logic(name: str, op: Any) -> Callable[[Any, Any], Tensor]:
    def logic(self: Any, other: Any) -> Tensor:
        return apply(op, truth(to_tensor(operand(name, self))), truth(operand(name, other)))

    logic.__name__ = name
    logic.__doc__ = f"{name.replace('_', ' ').capitalize()} of two truth values, element by element; numbers are true unless 0."
    return logic


logical_and = _logic("logical_and", bits.logical_and)
logical_or = _logic("logical_or", bits.logical_or)
logical_xor = _logic("logical_xor", bits.logical_xor)


@method("logical_not", "__invert__")
def logical_not(self: Tensor) -> Tensor:
    """Whether an element does not hold (is 0)."""
    return apply(bits.logical_not, truth(self))


def _bitwise(name: str, of_bools: Any, of_ints: Any) -> Callable[[Any, Any], Tensor]:
    def bitwise(self: Any, other: Any) -> Tensor:
        return binary(name, of_bools if _both_bool(self, other) else of_ints, self, other)

    bitwise.__name__ = name
    bitwise.__doc__ = f"{name.replace('_', ' ').capitalize()}: bit by bit of integers, logical of bools."
    return bitwise


bitwise_and = _bitwise("bitwise_and", bits.logical_and, bits.bitwise_and)
bitwise_or = _bitwise("bitwise_or", bits.logical_or, bits.bitwise_or)
bitwise_xor = _bitwise("bitwise_xor", bits.logical_xor, bits.bitwise_xor)


@method("abs", "absolute", "__abs__")
def absolute(self: Tensor) -> Tensor:
    """The magnitude."""
    return self if self.dtype is bool_ else unary(elementwise.abs_, self, floats=False)


@method("neg", "negative", "__neg__")
def neg(self: Tensor) -> Tensor:
    """-self."""
    return unary(elementwise.neg, self, floats=False)


@method("__pos__")
def _pos(self: Tensor) -> Tensor:
    return self


@method("square")
def square(self: Tensor) -> Tensor:
    """self * self."""
    return mul(self, self)


@method("reciprocal")
def reciprocal(self: Tensor) -> Tensor:
    """1 / self."""
    return div(1, self)


@method("clip", "clamp")
def clip(self: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """The elements moved into [min, max]; a bound may be None, a number or a Tensor.

    The derivative is 1 on both bounds.
    Errors: ValueError when both bounds are None.
    """
    if min is None and max is None:
        raise ValueError("clamp: at least one of min and max must be given, found None for both")
    result = self
    if min is not None:
        x, low = together("clamp", result, min)
        result = apply(_not_below, x, to_tensor(low, x.dtype))
    if max is not None:
        x, high = together("clamp", result, max)
        result = apply(_not_above, x, to_tensor(high, x.dtype))
    return result


def _not_below(x: Any, low: Any) -> Any:
    return elementwise.select(elementwise.lt(x, low), low, x)


def _not_above(x: Any, high: Any) -> Any:
    return elementwise.select(elementwise.gt(x, high), high, x)


_FUNCTIONS = ("exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "tanh", "sigmoid", "erf", "sin", "cos", "floor", "ceil", "trunc")


def _attach_all() -> None:
    reflected = {"radd": add, "rsub": sub, "rmul": mul, "rtruediv": div, "rfloordiv": floor_divide, "rmod": mod}
    for name, function in (reflected | {"rpow": power, "rmatmul": matmul}).items():
        setattr(Tensor, f"__{name}__", _reflected(function))
    for name, symbol, compare in (
        ("less", "lt", less),
        ("less_equal", "le", less_equal),
        ("greater", "gt", greater),
        ("greater_equal", "ge", greater_equal),
        ("equal", "eq", equal),
        ("not_equal", "ne", not_equal),
    ):
        method(name)(compare)
        if symbol not in ("eq", "ne"):
            method(symbol, f"__{symbol}__")(compare)
    for function in (logical_and, logical_or, logical_xor):
        method(function.__name__)(function)
    for name, function in (("and", bitwise_and), ("or", bitwise_or), ("xor", bitwise_xor)):
        method(function.__name__, f"__{name}__", f"__r{name}__")(function)
    for name in _FUNCTIONS:
        _attach_unary(name, getattr(math, name))
    _attach_unary("round", math.round_)
    for name, op in (("isnan", math.is_nan), ("isinf", math.is_inf), ("isfinite", math.is_finite)):
        _attach_unary(name, op)
    method("sign")(lambda self: unary(elementwise.sign, self, floats=False))


def _attach_unary(name: str, op: Any) -> None:
    def compute(self: Tensor) -> Tensor:
        return unary(op, self)

    compute.__name__ = name
    compute.__doc__ = f"{op.doc.splitlines()[0]} Integers become float32."
    method(name)(compute)


_attach_all()
