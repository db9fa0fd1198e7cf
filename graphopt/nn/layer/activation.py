"""Activations as Cells, and `get_activation` for their names.

Cells without arguments that run one function are made from a table; each has its docstring and its example there.
"""

from __future__ import annotations

from typing import Any

from graphopt import ops
from graphopt.common.checks import check_bool, check_int, check_type, found
from graphopt.common.dtype import float32
from graphopt.common.parameter import Parameter
from graphopt.common.tensor import Tensor
from graphopt.errors import NamingError
from graphopt.nn.cell import Cell
from graphopt.ops.activation import glu as glu_function

_DOC = """{what}

    Shapes: any, kept. Dtypes: floats{more}.

    >>> import graphopt as ms
    >>> [round(v, 4) for v in ms.nn.{name}()(ms.Tensor([-1.0, 2.0])).asnumpy().tolist()]
    {shown}
    """


def _simple(name: str, function: Any, what: str, shown: list[float], more: str = "") -> type[Cell]:
    """A Cell of that name whose construct is one function."""

    def construct(self: Cell, x: Tensor) -> Any:
        return function(x)

    members = {
        "construct": construct,
        "__doc__": _DOC.format(what=what, name=name, shown=shown, more=more),
        "__module__": __name__,
    }
    return type(name, (Cell,), members)


ReLU = _simple("ReLU", ops.relu, "max(x, 0).", [0.0, 2.0], " and integers")
ReLU6 = _simple("ReLU6", ops.relu6, "min(max(x, 0), 6).", [0.0, 2.0], " and integers")
SiLU = _simple("SiLU", ops.silu, "x · sigmoid(x).", [-0.2689, 1.7616])
Sigmoid = _simple("Sigmoid", ops.sigmoid, "1 / (1 + exp(-x)).", [0.2689, 0.8808])
Tanh = _simple("Tanh", ops.tanh, "Hyperbolic tangent.", [-0.7616, 0.964])
Softsign = _simple("Softsign", ops.softsign, "x / (1 + |x|).", [-0.5, 0.6667])
Softplus = _simple("Softplus", ops.softplus, "log(1 + exp(x)).", [0.3133, 2.1269])
HSwish = _simple("HSwish", ops.hardswish, "x · min(max(x + 3, 0), 6) / 6.", [-0.3333, 1.6667])
HSigmoid = _simple("HSigmoid", ops.hardsigmoid, "min(max(x + 3, 0), 6) / 6.", [0.3333, 0.8333])
LogSigmoid = _simple("LogSigmoid", ops.logsigmoid, "log(sigmoid(x)).", [-1.3133, -0.1269])
Mish = _simple("Mish", ops.mish, "x · tanh(log(1 + exp(x))).", [-0.3034, 1.944])
FastGelu = _simple("FastGelu", ops.fast_gelu, "x · sigmoid(1.702 x).", [-0.1542, 1.9357])
Tanhshrink = _simple("Tanhshrink", ops.tanhshrink, "x - tanh(x).", [-0.2384, 1.036])
SeLU = _simple("SeLU", ops.selu, "1.0507 · elu(x, 1.6733).", [-1.1113, 2.1014])


class GELU(Cell):
    """x times the normal distribution function; approximate=True uses its tanh form, False erf.

    Shapes: any, kept. Dtypes: floats. Errors: TypeError when approximate is no bool.

    >>> import graphopt as ms
    >>> [round(v, 4) for v in ms.nn.GELU(approximate=False)(ms.Tensor([-1.0, 2.0])).asnumpy().tolist()]
    [-0.1587, 1.9545]
    """

    def __init__(self, approximate: bool = True) -> None:
        super().__init__()
        self.approximate = check_bool("GELU", "approximate", approximate)

    def construct(self, x: Tensor) -> Any:
        return ops.gelu(x, "tanh" if self.approximate else "none")


class _OneNumber(Cell):
    """What the activations with one float argument share."""

    def __init__(self, value: float, name: str) -> None:
        super().__init__()
        check_type(type(self).__name__, name, value, float, int)
        setattr(self, name, float(value))


class LeakyReLU(_OneNumber):
    """x where positive, alpha · x elsewhere.

    Shapes: any, kept. Dtypes: floats. Errors: TypeError when alpha is no number.

    >>> import graphopt as ms
    >>> [round(v, 4) for v in ms.nn.LeakyReLU(0.1)(ms.Tensor([-1.0, 2.0])).asnumpy().tolist()]
    [-0.1, 2.0]
    """

    def __init__(self, alpha: float = 0.2) -> None:
        super().__init__(alpha, "alpha")

    def construct(self, x: Tensor) -> Any:
        return ops.leaky_relu(x, self.alpha)


class ELU(_OneNumber):
    """x where positive, alpha · (exp(x) - 1) elsewhere.

    Shapes: any, kept. Dtypes: floats. Errors: TypeError when alpha is no number.

    >>> import graphopt as ms
    >>> [round(v, 4) for v in ms.nn.ELU()(ms.Tensor([-1.0, 2.0])).asnumpy().tolist()]
    [-0.6321, 2.0]
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha, "alpha")

    def construct(self, x: Tensor) -> Any:
        return ops.elu(x, self.alpha)


class CELU(_OneNumber):
    """x where positive, alpha · (exp(x/alpha) - 1) elsewhere.

    Shapes: any, kept. Dtypes: floats. Errors: TypeError when alpha is no number, ValueError when it is 0.

    >>> import graphopt as ms
    >>> [round(v, 4) for v in ms.nn.CELU(2.0)(ms.Tensor([-1.0, 2.0])).asnumpy().tolist()]
    [-0.7869, 2.0]
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha, "alpha")

    def construct(self, x: Tensor) -> Any:
        return ops.celu(x, self.alpha)


class HShrink(_OneNumber):
    """x where |x| > lambd, 0 elsewhere.

    Shapes: any, kept. Dtypes: floats. Errors: TypeError when lambd is no number.

    >>> import graphopt as ms
    >>> ms.nn.HShrink()(ms.Tensor([-0.25, 2.0])).asnumpy().tolist()
    [0.0, 2.0]
    """

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__(lambd, "lambd")

    def construct(self, x: Tensor) -> Any:
        return ops.hardshrink(x, self.lambd)


class SoftShrink(_OneNumber):
    """x moved towards 0 by lambd; 0 when it is nearer.

    Shapes: any, kept. Dtypes: floats. Errors: TypeError when lambd is no number.

    >>> import graphopt as ms
    >>> ms.nn.SoftShrink()(ms.Tensor([-0.25, 2.0])).asnumpy().tolist()
    [0.0, 1.5]
    """

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__(lambd, "lambd")

    def construct(self, x: Tensor) -> Any:
        return ops.softshrink(x, self.lambd)


class Hardtanh(Cell):
    """x brought into [min_val, max_val].

    Shapes: any, kept. Dtypes: floats. Errors: ValueError unless min_val < max_val.

    >>> import graphopt as ms
    >>> ms.nn.Hardtanh()(ms.Tensor([-3.0, 0.5])).asnumpy().tolist()
    [-1.0, 0.5]
    """

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        super().__init__()
        check_type("Hardtanh", "min_val", min_val, float, int)
        check_type("Hardtanh", "max_val", max_val, float, int)
        if min_val >= max_val:
            raise ValueError(f"Hardtanh: min_val must be below max_val, found {min_val} and {max_val}")
        self.min_val, self.max_val = min_val, max_val

    def construct(self, x: Tensor) -> Any:
        return ops.hardtanh(x, self.min_val, self.max_val)


class Threshold(Cell):
    """x where x > threshold, `value` elsewhere.

    Shapes: any, kept. Dtypes: floats.

    >>> import graphopt as ms
    >>> ms.nn.Threshold(0.1, 20)(ms.Tensor([0.0, 0.5])).asnumpy().tolist()
    [20.0, 0.5]
    """

    def __init__(self, threshold: float, value: float) -> None:
        super().__init__()
        check_type("Threshold", "threshold", threshold, float, int)
        check_type("Threshold", "value", value, float, int)
        self.threshold, self.value = threshold, value

    def construct(self, x: Tensor) -> Any:
        return ops.threshold(x, self.threshold, self.value)


class Softmax(Cell):
    """exp(x) over its sum along `axis`.

    Shapes: any, kept. Dtypes: floats. Errors: TypeError when axis is no int or tuple; ValueError when there is no
    such axis.

    >>> import graphopt as ms
    >>> [round(v, 4) for v in ms.nn.Softmax()(ms.Tensor([0.0, 1.0])).asnumpy().tolist()]
    [0.2689, 0.7311]
    """

    def __init__(self, axis: Any = -1) -> None:
        super().__init__()
        self.axis = check_type("Softmax", "axis", axis, int, tuple)

    def construct(self, x: Tensor) -> Any:
        return ops.softmax(x, self.axis)


class Softmax2d(Cell):
    """softmax over the channels of (N, C, H, W) or (C, H, W).

    >>> import graphopt as ms
    >>> ms.nn.Softmax2d()(ms.ops.zeros((1, 2, 1, 1))).asnumpy().reshape(-1).tolist()
    [0.5, 0.5]
    """

    def construct(self, x: Tensor) -> Any:
        return ops.softmax(x, -3)


class LogSoftmax(Cell):
    """log(softmax(x)) along `axis`.

    Shapes: any, kept. Dtypes: floats. Errors: TypeError when axis is no int; ValueError when there is no such axis.

    >>> import graphopt as ms
    >>> [round(v, 4) for v in ms.nn.LogSoftmax()(ms.Tensor([0.0, 1.0])).asnumpy().tolist()]
    [-1.3133, -0.3133]
    """

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = check_int("LogSoftmax", "axis", axis)

    def construct(self, x: Tensor) -> Any:
        return ops.log_softmax(x, self.axis)


class Softmin(Cell):
    """softmax(-x) along `axis`.

    >>> import graphopt as ms
    >>> [round(v, 4) for v in ms.nn.Softmin()(ms.Tensor([0.0, 1.0])).asnumpy().tolist()]
    [0.7311, 0.2689]
    """

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = check_int("Softmin", "axis", axis)

    def construct(self, x: Tensor) -> Any:
        return ops.softmin(x, self.axis)


class GLU(Cell):
    """The first half along `axis` times the sigmoid of the second.

    Errors: ValueError when the size along axis is odd.

    >>> import graphopt as ms
    >>> ms.nn.GLU()(ms.Tensor([1.0, 0.0])).asnumpy().tolist()
    [0.5]
    """

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = check_int("GLU", "axis", axis)

    def construct(self, x: Tensor) -> Any:
        return glu_function(x, self.axis)


class PReLU(Cell):
    """x where positive, w · x elsewhere, with a learned w for all channels (channel=1) or one for each (axis 1).

    Parameters: w (channel,), from the number or Tensor w.
    Shapes: (N, C, …). Dtypes: floats.
    Errors: TypeError or ValueError when channel is no int > 0, or w has another size.

    >>> import graphopt as ms
    >>> ms.nn.PReLU()(ms.Tensor([[-1.0, 2.0]])).asnumpy().tolist()
    [[-0.25, 2.0]]
    """

    def __init__(self, channel: int = 1, w: Any = 0.25) -> None:
        super().__init__()
        check_int("PReLU", "channel", channel, low=1)
        if isinstance(w, Tensor):
            if w.size not in (1, channel):
                raise ValueError(f"PReLU: w must have 1 or {channel} elements, found shape {w.shape}")
            value = ops.broadcast_to(ops.reshape(ops.cast(w, float32), (w.size,)), (channel,))
        elif isinstance(w, (list, tuple, float, int)) and not isinstance(w, bool):
            value = ops.broadcast_to(ops.reshape(Tensor(w, float32), (-1,)), (channel,))
        else:
            raise TypeError(f"PReLU: w must be a number, list or Tensor, found {found(w)}")
        self.w = Parameter(value, name="w")

    def construct(self, x: Tensor) -> Any:
        return ops.prelu(x, self.w)


_ACTIVATIONS: dict[str, type[Cell]] = {
    "softmin": Softmin,
    "softmax": Softmax,
    "softmax2d": Softmax2d,
    "logsoftmax": LogSoftmax,
    "relu": ReLU,
    "relu6": ReLU6,
    "silu": SiLU,
    "tanh": Tanh,
    "tanhshrink": Tanhshrink,
    "hardtanh": Hardtanh,
    "gelu": GELU,
    "fast_gelu": FastGelu,
    "elu": ELU,
    "sigmoid": Sigmoid,
    "softsign": Softsign,
    "softplus": Softplus,
    "prelu": PReLU,
    "leakyrelu": LeakyReLU,
    "hswish": HSwish,
    "hsigmoid": HSigmoid,
    "logsigmoid": LogSigmoid,
    "softshrink": SoftShrink,
    "hshrink": HShrink,
    "threshold": Threshold,
    "mish": Mish,
}


def get_activation(name: str | None, prim_name: str | None = None) -> Cell | None:
    """The activation of that name; None for None.

    Errors: TypeError when name is no str; KeyError for an unknown name.

    >>> import graphopt as ms
    >>> type(ms.nn.get_activation('relu')).__name__
    'ReLU'
    """
    if name is None:
        return None
    owner = prim_name or "get_activation"
    check_type(owner, "activation", name, str)
    if name not in _ACTIVATIONS:
        raise NamingError(f"{owner}: activation must be one of {', '.join(sorted(_ACTIVATIONS))}, found {name!r}")
    return _ACTIVATIONS[name]()
