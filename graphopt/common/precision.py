"""Who decides in which dtypes operators compute: nobody, or the rule of the network that is running."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Rule = Callable[[str, Callable[..., Any], Sequence[Any], Mapping[str, Any]], Any]
"""(the operator's name, the operator, its arguments) -> its result."""

_rule: ContextVar[Rule | None] = ContextVar("graphopt_precision", default=None)


@contextmanager
def computing_by(rule: Rule | None) -> Iterator[None]:
    """Operators called inside the block, but not those that they call themselves, are run by `rule`."""
    token = _rule.set(rule)
    try:
        yield
    finally:
        _rule.reset(token)


def ruled(name: str, operator: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[bool, Any]:
    """(whether a rule ran the operator, its result)."""
    rule = _rule.get()
    if rule is None:
        return False, None
    with computing_by(None):
        return True, rule(name, operator, args, kwargs)
