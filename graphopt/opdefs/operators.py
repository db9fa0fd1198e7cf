"""Arithmetic operators on nodes. `==` and `!=` stay identity: nodes are keys of dictionaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphopt.ir.graph import Node
from graphopt.opdefs import bits, elementwise, math


def _attach(name: str, function: Callable[..., Node]) -> None:
    """`a name b` and, with a number or an array on the left, its reflection."""
    setattr(Node, f"__{name}__", lambda a, b: function(a, b))
    setattr(Node, f"__r{name}__", lambda a, b: function(b, a))


def _attach_all() -> None:
    binary: dict[str, Any] = {
        "add": elementwise.add,
        "sub": elementwise.sub,
        "mul": elementwise.mul,
        "truediv": elementwise.div,
        "floordiv": elementwise.floordiv,
        "mod": elementwise.mod,
        "pow": math.pow_,
    }
    for name, function in binary.items():
        _attach(name, function)
    for name, function in {"and": bits.both, "or": bits.either, "xor": bits.differ}.items():
        setattr(Node, f"__{name}__", function)
    for name, function in {"lt": elementwise.lt, "le": elementwise.le, "gt": elementwise.gt, "ge": elementwise.ge}.items():
        setattr(Node, f"__{name}__", lambda a, b, function=function: function(a, b))
    for name, function in {"neg": elementwise.neg, "abs": elementwise.abs_, "invert": bits.invert}.items():
        setattr(Node, f"__{name}__", lambda x, function=function: function(x))
    Node.__array_ufunc__ = None  # numpy arrays on the left leave the operation to the node


_attach_all()
