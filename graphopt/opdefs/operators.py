"""Arithmetic operators on nodes. `==` and `!=` stay identity: nodes are keys of dictionaries."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.ir.graph import Node
from graphopt.opdefs import bits, elementwise, math

_Function = Callable[..., Node]

_REFLECTED: dict[str, _Function] = {
    "add": elementwise.add,
    "sub": elementwise.sub,
    "mul": elementwise.mul,
    "truediv": elementwise.div,
    "floordiv": elementwise.floordiv,
    "mod": elementwise.mod,
    "pow": math.pow_,
    "and": bits.both,
    "or": bits.either,
    "xor": bits.differ,
}
_PLAIN: dict[str, _Function] = {
    "lt": elementwise.lt,
    "le": elementwise.le,
    "gt": elementwise.gt,
    "ge": elementwise.ge,
    "neg": elementwise.neg,
    "abs": elementwise.abs_,
    "invert": bits.invert,
}


def _method(function: _Function) -> _Function:
    """A plain function, which a class binds; an OpDef is an object, which it does not."""

    def method(*nodes: Node) -> Node:
        return function(*nodes)

    return method


def _reflection(function: _Function) -> _Function:
    return lambda a, b: function(b, a)


for _name, _function in (_REFLECTED | _PLAIN).items():
    setattr(Node, f"__{_name}__", _method(_function))
for _name, _function in _REFLECTED.items():
    setattr(Node, f"__r{_name}__", _reflection(_function))
setattr(Node, "__array_ufunc__", None)  # noqa: B010  numpy arrays on the left leave the operation to the node
