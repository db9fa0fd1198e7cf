"""Execution order of groups, and which values may be written straight over those they come from.

An update is in place when every other reader of the old value runs before the group that computes the new one, and
that group itself reads the old value only at the point it then overwrites, or not at all because its op starts from
it (`OpDef.starts_from`). Such an op also continues a temporary that nobody reads later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from graphopt.ir.graph import Graph, Node, walk
from graphopt.opdefs.opdef import opdef
from graphopt.passes.fuse import Group
from graphopt.passes.materialise import INLINE, LEAVES, stored_base

_MANY = 1024  # elements that are worth a place of their own in the order


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """groups in execution order.

    in_place:  new value, and what it is made of by ops that start from it -> the state leaf whose buffer they overwrite
    continued: value -> the temporary whose buffer it overwrites, in execution order
    inside:    value -> the one whose buffer it is stored in as a part, and the place there of its first element; nothing is
               left to do for that one
    """

    groups: tuple[Group, ...]
    in_place: dict[Node, Node]
    continued: dict[Node, Node]
    inside: dict[Node, tuple[Node, tuple[int, ...]]]


def _leaves_read(group: Group, memo: dict[Node, frozenset[Node]]) -> set[Node]:
    """State leaves that a group reads, through movement too."""
    found: set[Node] = set()
    for n in group.members:
        for i in n.inputs:
            found |= _states(i, memo)
    return found


def _states(node: Node, memo: dict[Node, frozenset[Node]]) -> frozenset[Node]:
    """State leaves that an operand is, or reaches through movement."""
    stack = [node]
    while stack:
        n = stack[-1]
        if n.op in INLINE - LEAVES:
            waiting = [i for i in n.inputs if i not in memo]
            if waiting:
                stack += waiting
                continue
            memo[n] = frozenset().union(*(memo[i] for i in n.inputs))
        else:
            memo[n] = frozenset((n,) if n.op == "state" else ())
        stack.pop()
    return memo[node]


def _only_at_its_point(group: Group, state: Node, value: Node) -> bool:
    """Does the group read `state` only where, and not later than, it stores `value`?"""
    if group.kind == "kernel":
        start = _started_from(value)
        return start is not None and stored_base(start) is state and not any(state in _states(i, {}) for i in _changes(value))
    if group.kind == "region" or stored_base(value) is not value or value.shape != state.shape:
        return False
    level = group.levels()
    stage_of_value = level[value]
    row = value in group.rows
    last = max((level[n] for n in group.nodes if n not in group.rows), default=0)
    for n in group.members:
        for i in n.inputs:
            if i is state:
                if opdef(n.op).kind != "elementwise" or (n in group.rows) != row or level[n] > stage_of_value:
                    return False
                if not row and last > stage_of_value:
                    return False  # a later pass over the row would read the new value
            elif i.op in INLINE and state in _states(i, {}):
                return False
    return True


def _started_from(value: Node) -> Node | None:
    """The input whose values a value has where its op stores nothing; None for ops without one."""
    start = opdef(value.op).starts_from
    return None if start is None else value.inputs[start]


def _changes(value: Node) -> list[Node]:
    """The other inputs of an op that starts from one."""
    return [i for k, i in enumerate(value.inputs) if k != opdef(value.op).starts_from]


def _continued(
    graph: Graph, groups: Sequence[Group], owner: dict[Node, Group], needs: dict[Group, set[Group]]
) -> dict[Node, Node]:
    """Values whose op starts from a temporary that no other input of it is made of, and that is read before it only;
    `needs` says so afterwards.
    """
    readers: dict[Node, list[Group]] = {}
    for g in groups:
        for source in {m for n in g.members for i in n.inputs for m in owned(i, owner)}:
            readers.setdefault(source, []).append(g)
    roots = set(graph.roots)
    found: dict[Node, Node] = {}
    for g in groups:
        start = _started_from(g.nodes[0]) if g.kind == "kernel" else None
        if start is None:
            continue
        base = stored_base(start)
        if base not in owner or base in roots or any(base in owned(i, owner) for i in _changes(g.nodes[0])):
            continue
        others = [r for r in readers[base] if r is not g and r is not owner[base]]
        if not any(_depends(r, g, needs) for r in others):
            needs[g].update(others)
            found[g.nodes[0]] = base
    return found


def _over_state(state: Node, value: Node, owner: dict[Node, Group], continued: dict[Node, Node]) -> list[Node]:
    """The values, the first of them first, that lead from a state to its new value, each written over the former."""
    steps = [value]
    while steps[-1] in continued:
        steps.append(continued[steps[-1]])
    steps.reverse()
    if not _only_at_its_point(owner[steps[0]], state, steps[0]):
        return []
    if any(state in _states(i, {}) for step in steps[1:] for i in _changes(step)):
        return []
    return steps


def order(graph: Graph, groups: Sequence[Group]) -> Schedule:
    """Order the groups: each after what it reads; writers of a state after its other readers where that is possible.

    Cost: O((groups + edges) log groups).
    """
    memo: dict[Node, frozenset[Node]] = {}
    owner = {n: g for g in groups for n in g.nodes}
    rank = {n: k for k, n in enumerate(_program(graph.roots))}
    readers: dict[Node, list[Group]] = {}
    for g in groups:
        for s in _leaves_read(g, memo):
            readers.setdefault(s, []).append(g)
    needs: dict[Group, set[Group]] = {g: set() for g in groups}
    for g in groups:
        needs[g].update(g.finishes.values())
        for n in g.members:
            for i in n.inputs:
                needs[g] |= {owner[m] for m in owned(i, owner)} - {g}
    in_place: dict[Node, Node] = {}
    continued = _continued(graph, groups, owner, needs)
    for state, value in graph.updates:
        steps = _over_state(state, value, owner, continued) if value is not state else []
        if not steps:
            continue
        g = owner[steps[0]]
        others = [r for r in readers.get(state, ()) if r is not g]
        if any(_depends(r, g, needs) for r in others):
            continue
        in_place |= dict.fromkeys(steps, state)
        needs[g].update(others)
    place = {g: max(rank.get(n, 0) for n in g.nodes + g.sinks) for g in groups}
    ordered = tuple(_topological(groups, needs, _summed_at_once(groups, owner, place)))
    continued = {n: continued[n] for g in ordered for n in g.nodes if n in continued}
    return Schedule(ordered, in_place, continued, _inside(groups, {*in_place, *continued, *continued.values()}))


def _inside(groups: Sequence[Group], taken: set[Node]) -> dict[Node, tuple[Node, tuple[int, ...]]]:
    """The parts of each `join` that those who compute them store in its place, which nobody needs for another value then.

    taken: values whose memory is another one's too.
    """
    apart = {n for g in groups if g.kind in ("loops", "contraction") for n in g.stores}
    inside: dict[Node, tuple[Node, tuple[int, ...]]] = {}
    for node in (g.nodes[0] for g in groups if g.kind == "join"):
        parts = _parts(node.inputs[0])
        if taken.isdisjoint((node, *parts)) and apart.issuperset(parts):
            inside |= {part: (node, start) for part, start in parts.items()}
    return inside


def _parts(whole: Node) -> dict[Node, tuple[int, ...]]:
    """What is put side by side, or in a frame, with the place of its first element."""
    if whole.op == "pad":
        return {whole.inputs[0]: whole.attrs["low"]}
    axis, start = whole.attrs["axis"], 0
    parts: dict[Node, tuple[int, ...]] = {}
    for part in whole.inputs:
        parts[part] = tuple([start if k == axis else 0 for k in range(whole.type.rank)])
        start += part.shape[axis]
    return parts


def _program(roots: Sequence[Node]) -> list[Node]:
    """All nodes, each after its inputs: of several roots or inputs, what takes the longest chain of nodes first among
    inputs and last among roots.

    So what a long chain leaves behind is used as soon as the chain has come there (a weight's gradient right after the
    gradient that flows through its layer), and what is computed from few values waits for its only use.
    """
    depth: dict[Node, int] = {}
    for n in walk(roots):
        depth[n] = 1 + max((depth[i] for i in n.inputs), default=0)
    program: list[Node] = []
    done: set[Node] = set()
    stack = sorted(dict.fromkeys(roots), key=lambda n: -depth[n])
    entered: set[Node] = set()
    while stack:
        n = stack[-1]
        if n in done or n in entered:
            stack.pop()
            if n not in done:
                done.add(n)
                program.append(n)
            continue
        entered.add(n)
        stack += sorted((i for i in n.inputs if i not in done), key=lambda i: depth[i])
    return program


def owned(node: Node, owner: dict[Node, Group]) -> list[Node]:
    """Computed nodes behind movement."""
    found: list[Node] = []
    stack, seen = [node], {node}
    while stack:
        n = stack.pop()
        if n in owner:
            found.append(n)
        elif n.op not in LEAVES:
            for i in n.inputs:
                if i not in seen:
                    seen.add(i)
                    stack.append(i)
    return found


def _depends(group: Group, on: Group, needs: dict[Group, set[Group]]) -> bool:
    """Does `group` need `on`, directly or through others?"""
    stack, seen = [group], {group}
    while stack:
        g = stack.pop()
        if g is on:
            return True
        for h in needs[g]:
            if h not in seen:
                seen.add(h)
                stack.append(h)
    return False


def _summed_at_once(
    groups: Sequence[Group], owner: dict[Node, Group], place: dict[Group, int]
) -> dict[Group, tuple[int, int]]:
    """Where groups stand in the program; but sums of many elements to numbers stand where these are made, or read first.

    They lie in a cache there: what a guarded step of an MLP adds to look at activations is half as much.
    """
    reads = {g: {m for n in g.members for i in n.inputs for m in _read(i, owner)}.difference(g.nodes) for g in groups}
    first: dict[Node, int] = {}
    for g in groups:
        for n in reads[g]:
            first[n] = min(first.get(n, place[g]), place[g])
    found = {g: (place[g], 0) for g in groups}
    for g in groups:
        numbers = g.kind == "loops" and all(n.type.size == 1 for n in (*g.stores, *g.sinks))
        if numbers and any(n.type.size >= _MANY for n in reads[g]):
            made = [place[owner[n]] for n in reads[g] if n in owner]
            found[g] = (max(made), 1) if made else (min(first[n] for n in reads[g]), -1)
    return found


def _read(node: Node, owner: dict[Node, Group]) -> list[Node]:
    """Computed nodes behind movement, and leaves but constants."""
    found: list[Node] = []
    stack, seen = [node], {node}
    while stack:
        n = stack.pop()
        if n in owner or n.op in ("input", "state"):
            found.append(n)
        else:
            fresh = [i for i in n.inputs if i not in seen]
            seen.update(fresh)
            stack += fresh
    return found


def _topological(
    groups: Sequence[Group], needs: dict[Group, set[Group]], place: dict[Group, tuple[int, int]]
) -> list[Group]:
    """Kahn's algorithm; among ready groups, the one that comes first in the program."""
    waiting = {g: len(needs[g]) for g in groups}
    users: dict[Group, list[Group]] = {g: [] for g in groups}
    for g, required in needs.items():
        for r in required:
            users[r].append(g)
    heap: list[tuple[tuple[int, int], int, Group]] = []
    for k, g in enumerate(groups):
        if waiting[g] == 0:
            heappush(heap, (place[g], k, g))
    number = {g: k for k, g in enumerate(groups)}
    done: list[Group] = []
    while heap:
        _, _, g = heappop(heap)
        done.append(g)
        for u in users[g]:
            waiting[u] -= 1
            if waiting[u] == 0:
                heappush(heap, (place[u], number[u], u))
    return done
