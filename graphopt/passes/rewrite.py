"""Local rewriting: laws as pairs of functions, rules that compute attrs, and the sweep that applies both.

    law("neg_neg", lambda x: -(-x), lambda x: x)

    @rewrite("transpose")
    def transpose_of_transpose(n: Node) -> Node | None: ...

A rule looks from a node down at its inputs and returns an equal node, or None. The sweep goes through the graph once,
inputs first, and simplifies what a rule returns before it goes on, so one sweep reaches the fixed point.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import copysign
from typing import Any

from graphopt.errors import CompileError
from graphopt.ir.graph import Graph, Node, input_node, walk, with_inputs
from graphopt.ir.types import DTYPES, DType, TensorType, bool_
from graphopt.opdefs.opdef import full
from graphopt.where import at

Rule = Callable[[Node], Node | None]


@dataclass
class Steps:
    """Counts rewrites, and stops them after the `limit`-th (-1: never): the handle by which a wrong one is bisected."""

    limit: int = -1
    count: int = 0
    names: list[str] = field(default_factory=list)

    def take(self, name: str) -> bool:
        """One rewrite called `name` may happen; it is counted."""
        if self.count == self.limit:
            return False
        self.count += 1
        self.names.append(name)
        return True


@dataclass(frozen=True, eq=False)
class Law:
    """left(x, y, …) = right(x, y, …) for elementwise ops; `pattern` is the left side on 0-d variables.

    exact:  equal in every bit (NaN may have another payload), infinities and signed zeros included.
    dtypes: for the variables; `kinds` for single ones by name.
    """

    name: str
    left: Callable[..., Node]
    right: Callable[..., Any]
    exact: bool
    dtypes: tuple[DType, ...]
    kinds: dict[str, DType]
    pattern: Node
    variables: tuple[Node, ...]

    def apply(self, node: Node) -> Node | None:
        """The right side for a node that the left side matches."""
        bound: dict[Node, Node] = {}
        for part, source in zip(self.pattern.inputs, node.inputs, strict=True):
            if not self._matches(part, source, bound):
                return None
        if self.pattern.attrs != node.attrs:
            return None
        return _as_node(self.right(*[bound[v] for v in self.variables]), node)

    def _matches(self, pattern: Node, node: Node, bound: dict[Node, Node]) -> bool:
        if pattern.op == "input":
            if pattern in bound:
                return bound[pattern] is node
            fixed = self.kinds.get(pattern.attrs["name"])
            if node.dtype is not fixed if fixed is not None else node.dtype not in self.dtypes:
                return False
            bound[pattern] = node
            return True
        if pattern.op == "constant":
            value = number(node)
            truth = pattern.dtype is bool_ and node.dtype is not bool_  # True is no 1.0
            return value is not None and not truth and same_number(value, pattern.attrs["value"].item())
        if pattern.op != node.op or pattern.attrs != node.attrs:
            return False
        pairs = zip(pattern.inputs, node.inputs, strict=True)
        return all(self._matches(part, source, bound) for part, source in pairs)


LAWS: dict[str, Law] = {}
RULES: dict[str, list[tuple[str, Rule]]] = {}


def law(
    name: str,
    left: Callable[..., Node],
    right: Callable[..., Any],
    exact: bool = True,
    dtypes: Sequence[DType] = DTYPES,
    kinds: dict[str, DType] | None = None,
) -> None:
    """Declare that `left` may be replaced by `right`. Laws that are not exact are kept for tests and never applied.

    A number on the right side becomes a constant of the node's type.
    """
    kinds = kinds or {}
    names = list(inspect.signature(left).parameters)
    variables = tuple(input_node(n, TensorType(kinds.get(n, dtypes[0]), ())) for n in names)
    made = Law(name, left, right, exact, tuple(dtypes), kinds, left(*variables), variables)
    if name in LAWS:
        raise TypeError(f"law {name} is declared twice")
    LAWS[name] = made
    if exact:
        RULES.setdefault(made.pattern.op, []).append((name, made.apply))


def rewrite(*ops: str) -> Callable[[Rule], Rule]:
    """Declare a rule for nodes of these ops; it returns an equal node of the same type, or None."""

    def declare(rule: Rule) -> Rule:
        for op in ops:
            RULES.setdefault(op, []).append((rule.__name__, rule))
        return rule

    return declare


def number(node: Node) -> float | int | bool | None:
    """The value of a constant that is one number everywhere: 0-d, or broadcast from 0-d. None for anything else."""
    op = node.op
    if op == "broadcast" or op == "reshape":
        node = node.inputs[0]
    elif op != "constant":
        return None
    if node.op != "constant" or node.type.shape:
        return None
    return node.attrs["value"].item()  # type: ignore[no-any-return]


def same_number(a: float, b: float) -> bool:
    """Equal values; zeros only with equal signs, NaN never."""
    return a == b and (a != 0 or copysign(1.0, a) == copysign(1.0, b))


def sweep(graph: Graph, rules: dict[str, list[tuple[str, Rule]]], steps: Steps) -> Graph:
    """Apply `rules` to every node, inputs first, until none matches.

    Claim:     the result is a fixed point unless `steps` ran out.
    Invariant: same signature, same types; a new node carries the line of the node it replaces.
    Errors:    CompileError when rules chase each other.
    Cost:      one visit per node and one per rewrite.
    """
    final: dict[Node, Node] = {}
    waiting: dict[Node, Node] = {}
    end = steps.count + 1000 + 50 * len(walk(graph.roots))
    stack = list(reversed(graph.roots))
    while stack:
        node = stack[-1]
        if node in final:
            stack.pop()
            continue
        if node in waiting:
            if waiting[node] not in final:
                raise CompileError(f"rewrite {steps.names[-1]}: its result contains the node it replaces")
            final[node] = final[waiting.pop(node)]
            stack.pop()
            continue
        pending = [i for i in node.inputs if i not in final]
        if pending:
            stack.extend(reversed(pending))
            continue
        changed = with_inputs(node, tuple([final[i] for i in node.inputs]))
        better = _first(changed, rules, steps)
        if better is None:
            final[node] = final[changed] = changed
            stack.pop()
            continue
        if steps.count > end:
            raise CompileError(f"rewriting does not end: {', '.join(steps.names[-4:])} chase each other")
        waiting[node] = better
        stack.append(better)
    roots = [final[r] for r in graph.roots]
    return graph if all(a is b for a, b in zip(roots, graph.roots, strict=True)) else graph.with_roots(roots)


def _first(node: Node, rules: dict[str, list[tuple[str, Rule]]], steps: Steps) -> Node | None:
    """What the first matching rule makes of the node; None when none matches."""
    candidates = rules.get(node.op)
    if candidates is None:
        return None
    with at(node.where):
        for name, rule in candidates:
            better = rule(node)
            if better is not None and better is not node:
                if better.type != node.type:
                    raise CompileError(f"rewrite {name}: {node.type} became {better.type}")
                return better if steps.take(name) else None
    return None


def _as_node(value: Any, like: Node) -> Node:
    """A right side that is a number stands for a constant of the node's type."""
    return value if isinstance(value, Node) else full(like.shape, value, like.dtype)
