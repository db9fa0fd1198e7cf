"""Gradient functions: `GradOperation`, `grad`, `value_and_grad`, `get_grad`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.common.checks import check_bool, found
from graphopt.common.parameter import Parameter, ParameterTuple
from graphopt.common.signature import is_cell
from graphopt.errors import layout
from graphopt.ops.creation import ones_like as ones_like
from graphopt.ops.creation import zeros_like as zeros_like
from graphopt.ops.differentiate import NO_SENS, Differentiated, differentiate
from graphopt.ops.traced import TracedFunction, function_name, kept
from graphopt.where import here

Weights = Parameter | Sequence[Parameter] | None


class GradientFunction(TracedFunction):
    """A function of `fn`'s arguments (and the sensitivity) that gives gradients; see `TracedFunction` for how it runs."""

    def __init__(self, owner: str, fn: Any, weights: Weights, sens_param: bool, has_aux: bool = False):
        super().__init__(owner, fn, f"gradient of {function_name(fn)}")
        self.weights = weights
        self._sens_param = sens_param
        self._has_aux = has_aux

    def _inline(self, *args: Any, **kwargs: Any) -> Any:
        """The gradients, in the trace at hand."""
        args, kwargs, sens = self._take_sens(args, dict(kwargs))
        self._check_arguments(args, kwargs)
        self._check(len(args) + len(kwargs))
        done = differentiate(self.fn, args, kwargs, self._wants, self._parameters(), sens, self._has_aux)
        return self._result(done)

    def _take_sens(self, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        """The arguments without the sensitivity, and the sensitivity.

        Errors: TypeError when there is none.
        """
        if not self._sens_param:
            return tuple(args), kwargs, NO_SENS
        if "sens" in kwargs:
            return tuple(args), {k: v for k, v in kwargs.items() if k != "sens"}, kwargs["sens"]
        if not args:
            what = f"{self.__name__}: sens is missing; sens_param=True takes it as the last positional argument or as sens="
            raise TypeError(layout(what, here()))
        return tuple(args[:-1]), kwargs, args[-1]

    def _check(self, count: int) -> None:
        """Whether the call has the arguments that are asked for."""

    def _wants(self, position: int) -> bool:
        raise NotImplementedError

    def _parameters(self) -> Sequence[Parameter] | None:
        if isinstance(self.weights, Parameter):
            return (self.weights,)
        return self.weights if self.weights is not None else ()

    def _result(self, done: Differentiated) -> Any:
        raise NotImplementedError


def check_weights(owner: str, weights: Any) -> Weights:
    """A Parameter, or a tuple of Parameters, or None.

    Errors: TypeError for anything else.
    """
    if weights is None or isinstance(weights, Parameter):
        return weights
    expected = "a Parameter, or a ParameterTuple, tuple or list of Parameters"
    if not isinstance(weights, (tuple, list)):
        raise TypeError(f"{owner}: weights must be {expected}, found {found(weights)}")
    for k, item in enumerate(weights):
        if not isinstance(item, Parameter):
            raise TypeError(f"{owner}: weights[{k}] must be a Parameter, found {found(item)}")
    return tuple(weights)


def identity_of(weights: Weights) -> Any:
    """A key for weights; the gradient function that is kept under it holds them, so ids stay theirs."""
    return tuple(map(id, weights)) if isinstance(weights, tuple) else id(weights)


class GradOperation:
    """Makes gradient functions: `GradOperation(...)(fn, weights)(*args)`.

    get_all:     gradients by all Tensor arguments instead of the first one only.
    get_by_list: gradients by `weights` (a Parameter, or a collection of them; None for a Cell's trainable ones).
    sens_param:  the gradient function takes the gradient of the output as its last argument, or as `sens=`.

    Result, for fn(x, y) and weights (w,):
        neither             dx              (`()` when the first argument is no Tensor)
        get_all             (dx, dy)
        get_by_list         (dw,)           (dw for a bare Parameter)
        both                ((dx, dy), (dw,))
    Arguments that are numbers, strings or containers do not count. What the output does not depend on gets zeros.
    A gradient has the dtype and shape of what it belongs to.

    Errors: TypeError when an argument here is no bool, fn is no function, an argument is missing, or the sensitivity is
            no Tensor of the output's dtype; ValueError when it has another shape.

    >>> import graphopt as ms
    >>> grad = ms.ops.GradOperation(get_all=True)(lambda x, y: x * y)
    >>> dx, dy = grad(ms.Tensor([1.0, 2.0]), ms.Tensor([3.0, 4.0]))
    >>> print(dx, dy)
    [3. 4.] [1. 2.]
    """

    def __init__(self, get_all: bool = False, get_by_list: bool = False, sens_param: bool = False):
        self.get_all = check_bool("GradOperation", "get_all", get_all)
        self.get_by_list = check_bool("GradOperation", "get_by_list", get_by_list)
        self.sens_param = check_bool("GradOperation", "sens_param", sens_param)

    def __call__(self, fn: Any, weights: Weights = None) -> GradientFunction:
        chosen = check_weights("GradOperation", weights) if self.get_by_list else None
        flags = (self.get_all, self.get_by_list, self.sens_param)
        return kept(fn, ("GradOperation", flags, identity_of(chosen)), lambda: _ByFlags(fn, chosen, *flags))

    def __repr__(self) -> str:
        return f"GradOperation(get_all={self.get_all}, get_by_list={self.get_by_list}, sens_param={self.sens_param})"


class _ByFlags(GradientFunction):
    """What `GradOperation` makes."""

    def __init__(self, fn: Any, weights: Weights, get_all: bool, get_by_list: bool, sens_param: bool):
        super().__init__("GradOperation", fn, weights, sens_param)
        self._get_all = get_all
        self._get_by_list = get_by_list

    def _wants(self, position: int) -> bool:
        return self._get_all or (position == 0 and not self._get_by_list)

    def _parameters(self) -> Sequence[Parameter] | None:
        if not self._get_by_list:
            return ()
        if self.weights is None:
            return ParameterTuple(self.fn.trainable_params()) if is_cell(self.fn) else None
        return super()._parameters()

    def _result(self, done: Differentiated) -> Any:
        inputs = tuple(gradient for _, gradient in done.inputs)
        weights = done.weights[0] if isinstance(self.weights, Parameter) else done.weights
        if self._get_all:
            return (inputs, weights) if self._get_by_list else inputs
        if self._get_by_list:
            return weights
        return inputs[0] if inputs else ()


def grad(
    fn: Any,
    grad_position: int | tuple[int, ...] | None = 0,
    weights: Weights = None,
    has_aux: bool = False,
    return_ids: bool = False,
    sens_param: bool = False,
) -> GradientFunction:
    """A function of fn's arguments that gives gradients.

    grad_position: which arguments to differentiate by: a position (bare gradient), a tuple of them, or None.
    weights:       Parameters to differentiate by: one (bare gradient), or a collection of them (tuple).
    has_aux:       fn returns a tuple of which only the first is differentiated; the result is (gradients, the rest).
    return_ids:    every gradient is a pair (position, gradient) or (Parameter's name, gradient); see `get_grad`.
    sens_param:    the last argument is the gradient of the output.

    With positions and weights: (gradients by arguments, gradients by weights).
    Errors: ValueError when positions and weights are both None, a position is negative or stands twice; TypeError for
            other types; when called, IndexError for a position beyond the arguments.

    >>> import graphopt as ms
    >>> print(ms.grad(lambda x, y: x * y, 1)(ms.Tensor([1.0, 2.0]), ms.Tensor([3.0, 4.0])))
    [1. 2.]
    """
    return _by_position("grad", fn, grad_position, weights, has_aux, return_ids, sens_param)


def value_and_grad(
    fn: Any,
    grad_position: int | tuple[int, ...] | None = 0,
    weights: Weights = None,
    has_aux: bool = False,
    return_ids: bool = False,
    sens_param: bool = False,
) -> GradientFunction:
    """As `grad`, but the result is (what fn returned, gradients).

    >>> import graphopt as ms
    >>> value, dx = ms.value_and_grad(lambda x: x * x)(ms.Tensor([1.0, 2.0]))
    >>> print(value, dx)
    [1. 4.] [2. 4.]
    """
    return _by_position("value_and_grad", fn, grad_position, weights, has_aux, return_ids, sens_param)


def _by_position(
    owner: str, fn: Any, grad_position: Any, weights: Any, has_aux: bool, return_ids: bool, sens_param: bool
) -> GradientFunction:
    for name, flag in (("has_aux", has_aux), ("return_ids", return_ids), ("sens_param", sens_param)):
        check_bool(owner, name, flag)
    if grad_position is None and weights is None:
        raise ValueError(f"{owner}: grad_position and weights are both None; nothing to differentiate by")
    positions = _check_positions(owner, grad_position)
    chosen = check_weights(owner, weights)
    key = (owner, positions, isinstance(grad_position, tuple), identity_of(chosen), has_aux, return_ids, sens_param)
    return kept(fn, key, lambda: _ByPosition(owner, fn, positions, chosen, has_aux, return_ids, sens_param))


def _check_positions(owner: str, position: Any) -> tuple[int, ...] | None:
    """The positions as a tuple.

    Errors: TypeError for other types; ValueError for a negative or repeated position.
    """
    if position is None:
        return None
    listed = position if isinstance(position, tuple) else (position,)
    for item in listed:
        if not isinstance(item, int):
            what = f"{owner}: grad_position must be int, a tuple of ints, or None"
            raise TypeError(f"{what}; found {found(position)}")
        if item < 0:
            raise ValueError(f"{owner}: grad_position must be >= 0, found {position!r}")
    if len(set(listed)) < len(listed):
        raise ValueError(f"{owner}: grad_position holds a position twice: {position!r}")
    return tuple(int(item) for item in listed)


class _ByPosition(GradientFunction):
    """What `grad` and `value_and_grad` make."""

    def __init__(
        self,
        owner: str,
        fn: Any,
        positions: tuple[int, ...] | None,
        weights: Weights,
        has_aux: bool,
        return_ids: bool,
        sens_param: bool,
    ):
        super().__init__(owner, fn, weights, sens_param, has_aux)
        self._positions = positions
        self._return_ids = return_ids

    def _wants(self, position: int) -> bool:
        return self._positions is not None and position in self._positions

    def _check(self, count: int) -> None:
        if self._positions == ():
            raise RuntimeError(layout(f"{self._owner}: grad_position is an empty tuple; nothing to differentiate by", here()))
        for position in self._positions or ():
            if position >= count:
                what = f"{self._owner}: grad_position {position} is beyond the {count} arguments of {function_name(self.fn)}"
                raise IndexError(layout(what, here()))

    def _result(self, done: Differentiated) -> Any:
        gradients = self._gradients(done)
        if self._owner == "value_and_grad":
            return done.output, gradients
        return (gradients, tuple(done.output[1:])) if self._has_aux else gradients

    def _gradients(self, done: Differentiated) -> Any:
        parts = []
        if self._positions is not None:
            by_position = dict(done.inputs)
            found = [(p, by_position[p]) for p in self._positions if p in by_position]
            parts.append(self._shaped(found, len(self._positions) == 1))
        if self.weights is not None:
            listed = (self.weights,) if isinstance(self.weights, Parameter) else self.weights
            named = [(p.name, g) for p, g in zip(listed, done.weights, strict=True)]
            parts.append(self._shaped(named, isinstance(self.weights, Parameter)))
        return parts[0] if len(parts) == 1 else tuple(parts)

    def _shaped(self, found: Sequence[tuple[Any, Any]], bare: bool) -> Any:
        items = [pair if self._return_ids else pair[1] for pair in found]
        return items[0] if bare and items else tuple(items)


def get_grad(gradients: Any, identifier: int | Parameter) -> Any:
    """The gradient of one position or Parameter in a result of `grad` or `value_and_grad` with return_ids=True.

    Errors: TypeError when identifier is neither; RuntimeError when it is not there.

    >>> import graphopt as ms
    >>> pairs = ms.grad(lambda x, y: x * y, (0, 1), return_ids=True)(ms.Tensor([1.0]), ms.Tensor([3.0]))
    >>> print(ms.get_grad(pairs, 1))
    [1.]
    """
    if not isinstance(identifier, (int, Parameter)):
        kind = type(identifier).__name__
        raise TypeError(f"get_grad: identifier must be int or Parameter, found {identifier!r} of type {kind}")
    wanted = identifier.name if isinstance(identifier, Parameter) else int(identifier)
    found = _find(gradients, wanted)
    if found is None:
        raise RuntimeError(f"get_grad: no gradient of {wanted!r} in the result; was it made with return_ids=True?")
    return found


def _find(gradients: Any, wanted: int | str) -> Any:
    if not isinstance(gradients, tuple):
        return None
    if len(gradients) == 2 and isinstance(gradients[0], (int, str)):
        return gradients[1] if type(gradients[0]) is type(wanted) and gradients[0] == wanted else None
    for item in gradients:
        found = _find(item, wanted)
        if found is not None:
            return found
    return None
