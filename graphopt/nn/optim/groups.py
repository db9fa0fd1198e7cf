"""Reading an optimizer's `parameters` argument: a list of Parameters, or of groups with settings of their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from graphopt.common.checks import found, meant
from graphopt.common.parameter import Parameter
from graphopt.errors import NamingError

KEYS = ("params", "lr", "weight_decay", "grad_centralization", "order_params")


@dataclass(frozen=True)
class Group:
    """One dict of the argument: its Parameters, its own settings, and its number among the dicts."""

    index: int
    params: tuple[Parameter, ...]
    settings: dict[str, Any]


@dataclass(frozen=True)
class ParameterGroups:
    """The argument, read.

    groups: None for a plain list of Parameters. order: the Parameters in the order of updates, each with its group's
    place.
    """

    order: tuple[tuple[Parameter, int], ...]
    groups: tuple[Group, ...] | None
    ordered: bool


def read_parameters(owner: str, parameters: Any) -> ParameterGroups:
    """Check and read the argument.

    Errors: ValueError for None, nothing, equal names, or an order_params that does not fit; TypeError for other
            things than Parameters or dicts; KeyError for a wrong key; RuntimeError for a Parameter in two groups.
    """
    if parameters is None:
        raise ValueError(f"{owner}: parameters must not be None; give network.trainable_params()")
    if isinstance(parameters, Parameter) or not isinstance(parameters, Iterable):
        hint = "; give network.trainable_params()" if hasattr(parameters, "trainable_params") else ""
        raise TypeError(f"{owner}: parameters must be an iterable of Parameters or dicts, found {found(parameters)}{hint}")
    listed = list(parameters)
    if not listed:
        raise ValueError(f"{owner}: parameters must not be empty; has the network any with requires_grad=True?")
    if all(isinstance(p, dict) for p in listed):
        return _read_groups(owner, listed)
    for k, p in enumerate(listed):
        if not isinstance(p, Parameter):
            raise TypeError(f"{owner}: parameters must all be Parameters or all be dicts, found {found(p)} at {k}")
    names: set[str] = set()
    for p in listed:
        if p.name in names:
            raise ValueError(f"{owner}: two parameters are named {p.name!r}; rename one: Parameter(..., name=...)")
        names.add(p.name)
    return ParameterGroups(tuple((p, 0) for p in listed), None, False)


def _read_groups(owner: str, dicts: list[dict[str, Any]]) -> ParameterGroups:
    groups: list[Group] = []
    order: list[Any] | None = None
    for index, given in enumerate(dicts):
        for key in given:
            if key not in KEYS:
                raise NamingError(f"{owner}: a group may have the keys {', '.join(KEYS)}, found {key!r}{meant(key, KEYS)}")
        if "order_params" in given:
            if len(given) > 1:
                raise ValueError(f"{owner}: order_params must be alone in its dict, found {sorted(given)}")
            if not isinstance(given["order_params"], Iterable):
                raise TypeError(f"{owner}: order_params must be an iterable, found {found(given['order_params'])}")
            order = list(given["order_params"])
        else:
            groups.append(
                Group(index, _group_params(owner, given), {k: v for k, v in given.items() if k != "params"})
            )
    return ParameterGroups(tuple(_ordered(owner, groups, order)), tuple(groups), bool(order))


def _group_params(owner: str, given: dict[str, Any]) -> tuple[Parameter, ...]:
    if "params" not in given:
        raise NamingError(f"{owner}: a group needs the key 'params', found {sorted(given)}")
    params = given["params"]
    if params is None:
        raise ValueError(f"{owner}: 'params' of a group must not be None")
    if isinstance(params, Parameter) or not isinstance(params, Iterable):
        raise TypeError(f"{owner}: 'params' of a group must be an iterable of Parameters, found {found(params)}")
    listed = tuple(params)
    if not listed:
        raise ValueError(f"{owner}: 'params' of a group must not be empty")
    for p in listed:
        if not isinstance(p, Parameter):
            raise TypeError(f"{owner}: 'params' of a group must hold Parameters, found {found(p)}")
    return listed


def _ordered(owner: str, groups: list[Group], order: list[Any] | None) -> list[tuple[Parameter, int]]:
    """(Parameter, place of its group) in the order of updates."""
    pairs = [(p, place) for place, group in enumerate(groups) for p in group.params]
    names: dict[str, tuple[Parameter, int]] = {}
    for p, place in pairs:
        if p.name in names:
            raise RuntimeError(f"{owner}: parameter {p.name!r} is set twice")
        names[p.name] = (p, place)
    if not order:
        if not pairs:
            raise ValueError(f"{owner}: parameters must hold at least one group with 'params'")
        return pairs
    for p in order:
        if not isinstance(p, Parameter):
            raise TypeError(f"{owner}: order_params must hold Parameters, found {found(p)}")
    if len(order) != len(pairs):
        raise ValueError(
            f"{owner}: order_params must be as long as all groups together, {len(pairs)}, found {len(order)}"
        )
    missing = set(names) - {p.name for p in order}
    if missing:
        raise ValueError(f"{owner}: order_params lacks the grouped parameter {sorted(missing)[0]!r}")
    return [names[p.name] for p in order]
