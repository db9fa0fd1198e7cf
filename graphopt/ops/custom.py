"""Derivatives of one's own for functions: `custom_vjp`, and classes with `forward` and `backward`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphopt.common.checks import found
from graphopt.common.derivative import with_derivative
from graphopt.common.tensor import Tensor
from graphopt.common.trace import active
from graphopt.ops.traced import function_name


class CustomVjp:
    """What `custom_vjp` makes."""

    def __init__(self, fn: Callable[..., Any]):
        self.fn = fn
        self.bprop: Callable[..., Any] | None = None
        self.__name__ = function_name(fn)
        self.__doc__ = fn.__doc__

    def defbwd(self, bprop: Callable[..., Any]) -> Callable[..., Any]:
        """Let `bprop(*inputs, out, dout)` give the gradients of the inputs; usable as a decorator.

        Errors: TypeError when it is no function.
        """
        if not callable(bprop):
            raise TypeError(f"{self.__name__}.defbwd: expected a function, found {found(bprop)}")
        self.bprop = bprop
        return bprop

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if active() is None:
            return self.fn(*args, **kwargs)
        if self.bprop is None:
            raise TypeError(f"{self.__name__}: custom_vjp without a derivative; give one with .defbwd")
        return with_derivative(self, self.fn, args, kwargs)

    def __repr__(self) -> str:
        return f"<custom_vjp {self.__name__}>"


def custom_vjp(fn: Callable[..., Any]) -> CustomVjp:
    """A function whose derivative is given by `.defbwd(bprop)`, with bprop(*inputs, out, dout).

    bprop returns one gradient per input (a bare one for a single input, None for zeros), and is differentiated itself for
    higher orders, and transposed for forward mode. Parameters used inside get no gradient. What holds for `Cell.bprop`
    holds here.
    Errors: TypeError when fn is no function, or it is differentiated before `.defbwd`.

    >>> import graphopt as ms
    >>> @ms.custom_vjp
    ... def clipped(x):
    ...     return ms.ops.clamp(x, 0.0, 1.0)
    >>> @clipped.defbwd
    ... def straight_through(x, out, dout):
    ...     return dout
    >>> print(ms.grad(clipped)(ms.Tensor([-1.0, 0.5])))
    [1. 1.]
    """
    if not callable(fn):
        raise TypeError(f"custom_vjp: fn must be a function, found {found(fn)}")
    return CustomVjp(fn)


class Context:
    """What `forward` hands on to `backward`: attributes of any name, and Tensors by `save_for_backward`."""

    def __init__(self, needs_input_grad: tuple[bool, ...]):
        self.needs_input_grad = needs_input_grad
        self._saved: tuple[Any, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep Tensors for `saved_tensors`."""
        self._saved = tensors

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What `save_for_backward` was given."""
        return self._saved


class _Function:
    """A function with a derivative of its own: subclasses define static `forward` and `backward`, users call `apply`.

    forward(ctx, *inputs) computes; ctx keeps what backward needs. backward(ctx, *douts) gets the gradient of each output
    and returns one gradient per input, None for zeros. Both modes; backward is differentiated itself for higher orders, and
    transposed for forward mode. ctx.needs_input_grad says which inputs are float Tensors.
    Errors: NotImplementedError without forward or backward; RuntimeError for fewer gradients than inputs; ValueError for
            a gradient of another shape.

    >>> import graphopt as ms
    >>> class Cube(ms._Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x * x * x
    ...     @staticmethod
    ...     def backward(ctx, dout):
    ...         (x,) = ctx.saved_tensors
    ...         return dout * 3 * x * x
    >>> print(ms.grad(lambda x: Cube.apply(x))(ms.Tensor([1.0, 2.0])))
    [ 3. 12.]
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        """The computation."""
        raise NotImplementedError("_Function: define a static forward(ctx, *inputs)")

    @staticmethod
    def backward(ctx: Any, *douts: Any) -> Any:
        """The gradients of the inputs."""
        raise NotImplementedError("_Function: define a static backward(ctx, *douts)")

    @classmethod
    def apply(cls, *inputs: Any) -> Any:
        """Compute, so that it can be differentiated."""
        ctx = Context(tuple(isinstance(x, Tensor) and x.dtype.is_float for x in inputs))
        if active() is None:
            return cls.forward(ctx, *inputs)
        return with_derivative(_Applied(cls, ctx), lambda *given: cls.forward(ctx, *given), inputs, {})


class _Applied:
    """One use of a `_Function`, as `with_derivative` takes it."""

    def __init__(self, cls: type[_Function], ctx: Context):
        self.__name__ = cls.__name__
        self._cls, self._ctx = cls, ctx
        self.bprop = self.backward

    def backward(self, *given: Any) -> Any:
        """backward with the arguments of a bprop, of which it takes the last."""
        dout = given[-1]
        return self._cls.backward(self._ctx, *(dout if isinstance(dout, (tuple, list)) else (dout,)))
