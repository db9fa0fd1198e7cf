"""Derivatives of control flow. The derivative of a branch is a branch, that of a loop a loop in the other direction.

What the way back through a loop needs of each trip is kept in stacks: the loop is given more outputs, and its twin without
them becomes one with it in the pass `regions`. What can be computed again from the rest for next to nothing is not kept.

Contributions to the gradient of a loop's constants that are products of two values of a trip (those of weights) are not
added up from trip to trip: the factors are stacked, and one product over all trips follows the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from graphopt.ir.graph import Graph, Node, input_node, state_node, substitute, walk
from graphopt.opdefs.control import Parts, branch, items, loop, parts_of
from graphopt.opdefs.elementwise import add
from graphopt.opdefs.linalg import dot_general
from graphopt.opdefs.opdef import full, opdef
from graphopt.opdefs.reduce import reduce_sum
from graphopt.opdefs.rows import added, as_rows, joined_rows, row_tensor, rows_of_either
from graphopt.opdefs.rule import ruled_back
from graphopt.opdefs.shape import reshape, transpose
from graphopt.passes.unbounded import pull_back_unbounded

Vjp = Callable[[Sequence[Node], Sequence[Node | None], Sequence[Node]], list[Node | None]]

COSTLY = frozenset({"exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf", "sin", "cos", "pow", "div", "sqrt"})
LOOKED_THROUGH = ("broadcast", "reshape", "transpose", "reverse", "pad")


def pull_back_region(vjp: Vjp, node: Node, cotangents: Sequence[Node | None], wanted: Sequence[bool]) -> list[Node | None]:
    """The cotangents of the operands of a node with several results; None where none is wanted or nothing reaches."""
    if node.op == "with_rule":
        return ruled_back(node, cotangents)
    if node.op == "branch":
        return _branch_back(vjp, node, cotangents, wanted)
    if node.attrs["length"] is None:
        return pull_back_unbounded(vjp, node, cotangents, wanted)
    return _Back(vjp, node, cotangents, wanted).run()


def fresh_names(taken: Iterable[Node]) -> Callable[[str], str]:
    """A function that makes a name none of these leaves has."""
    used = {n.attrs["name"] for n in taken}

    def fresh(name: str) -> str:
        unique, k = name, 1
        while unique in used:
            unique, k = f"{name}_{k}", k + 1
        used.add(unique)
        return unique

    return fresh


def _branch_back(vjp: Vjp, node: Node, cotangents: Sequence[Node | None], wanted: Sequence[bool]) -> list[Node | None]:
    flowing = [(k, ct) for k, ct in enumerate(cotangents) if ct is not None]
    leaves: list[tuple[Node, ...]] = []
    found: list[list[Node | None]] = []
    sides = [node.attrs["then"], node.attrs["other"]]
    floats = [k for k, n in enumerate(node.inputs[1:]) if wanted[k + 1] and n.dtype.is_float]
    for graph in sides:
        fresh = fresh_names(graph.inputs)
        mine = tuple([input_node(fresh("ct"), ct.type) for _, ct in flowing])
        leaves.append(mine)
        found.append(vjp([graph.outputs[k] for k, _ in flowing], mine, [graph.inputs[k] for k in floats]))
    kept = [j for j in range(len(floats)) if any(side[j] is not None for side in found)]
    result: list[Node | None] = [None] * len(node.inputs)
    if not kept:
        return result
    rows = {j: rows_of_either([side[j] for side in found], node.inputs[floats[j] + 1]) for j in kept}
    graphs = []
    for k, (graph, mine, side) in enumerate(zip(sides, leaves, found, strict=True)):
        outputs: list[Node] = []
        for j in kept:
            few = rows[j]
            outputs += [_or_zeros(side[j], graph.inputs[floats[j]])] if few is None else few[k]
        graphs.append(Graph(f"{graph.name}_back", (*graph.inputs, *mine), (), tuple(outputs)))
    operands = [*node.inputs, *(ct for _, ct in flowing)]
    made = iter(items(branch(*operands, then=graphs[0], other=graphs[1])))
    for j in kept:
        whole = node.inputs[floats[j] + 1]
        result[floats[j] + 1] = next(made) if rows[j] is None else row_tensor(next(made), next(made), shape=whole.shape)
    return result


def _or_zeros(node: Node | None, like: Node) -> Node:
    return full(like.shape, 0, like.dtype) if node is None else node


# loops --------------------------------------------------------------------------------------------------------


@dataclass
class _Making:
    """The backward loop in the making: leaves of its body with the operands they stand for, results of its body."""

    carry: list[tuple[Node, Node]] = field(default_factory=list)  # leaf, first value
    updates: list[Node] = field(default_factory=list)
    rows: list[tuple[Node, Node]] = field(default_factory=list)  # leaf, stacked operand
    outputs: list[Node] = field(default_factory=list)

    def output(self, node: Node) -> int:
        """The position of `node` among the outputs; it becomes one if it is none."""
        if node not in self.outputs:
            self.outputs.append(node)
        return self.outputs.index(node)


class _Back:
    """The way back through one loop."""

    def __init__(self, vjp: Vjp, node: Node, cotangents: Sequence[Node | None], wanted: Sequence[bool]):
        self.vjp = vjp
        self.node = node
        self.body: Graph = node.attrs["body"]
        self.parts: Parts = parts_of(node)
        carried, stacked = len(self.parts.carry), node.attrs["stacked"]
        self.of_carry = list(cotangents[:carried])
        self.of_outputs = list(cotangents[carried : carried + len(self.body.outputs)])
        self.rows = self.body.inputs[:stacked]
        self.constants = self.body.inputs[stacked:]
        self.wanted_rows = [n for n, w in zip(self.rows, wanted[carried:], strict=False) if w and n.dtype.is_float]
        later = wanted[carried + stacked :]
        self.wanted_constants = [n for n, w in zip(self.constants, later, strict=False) if w and n.dtype.is_float]
        self.name = fresh_names((*self.body.inputs, *self.body.state))
        self.making = _Making()
        self.known_free: dict[Node, tuple[bool, bool]] = {}

    def run(self) -> list[Node | None]:
        result: list[Node | None] = [None] * len(self.node.inputs)
        arriving, found = self._through_body()
        if not any(n is not None for n in found.values()):
            return result
        swap = self._saved([n for n in found.values() if n is not None])
        roots = [k for k, n in found.items() if n is not None]
        inside = dict(zip(roots, substitute([found[k] for k in roots], swap), strict=True))  # type: ignore[misc]
        for leaf, ct in arriving.items():
            first = _or_zeros(self.of_carry[self.body.state.index(leaf)], leaf)
            self.making.carry.append((ct, first))
            self.making.updates.append(inside[leaf] if leaf in inside else full(leaf.shape, 0, leaf.dtype))
        at = {leaf: self.making.output(inside[leaf]) for leaf in self.wanted_rows if leaf in inside}
        sums = {leaf: self._summed(inside[leaf]) for leaf in self.wanted_constants if leaf in inside}
        carry, outputs = self._loop()
        for k, leaf in enumerate(arriving):
            result[self.body.state.index(leaf)] = carry[k]
        offset = len(self.parts.carry)
        for leaf, k in at.items():
            result[offset + self.rows.index(leaf)] = outputs[k]
        offset += len(self.rows)
        for leaf, finish in sums.items():
            result[offset + self.constants.index(leaf)] = finish(carry, outputs)
        return result

    def _through_body(self) -> tuple[dict[Node, Node], dict[Node, Node | None]]:
        """(carry leaf -> leaf of its cotangent) of what something flows into on some trip; cotangents of all leaves."""
        fresh = dict(self.body.updates)
        arriving: dict[Node, Node] = {}
        self.of_rows: list[tuple[Node, Node]] = []
        for ct in self.of_outputs:
            if ct is not None:
                leaf = input_node(self.name("ct_y"), ct.type.with_shape(ct.shape[1:]))
                self.of_rows.append((leaf, ct))
        given = iter(self.of_rows)
        pairs = [(n, next(given)[0]) for n, ct in zip(self.body.outputs, self.of_outputs, strict=True) if ct is not None]
        new = [s for s, ct in zip(self.body.state, self.of_carry, strict=True) if ct is not None and s.dtype.is_float]
        floats = [s for s in self.body.state if s.dtype.is_float]
        wrt = [*floats, *self.wanted_rows, *self.wanted_constants]
        found: dict[Node, Node | None] = {}
        while new or not found:
            arriving |= {s: state_node(self.name(f"ct_{s.attrs['name']}"), s.type) for s in new}
            arriving = {s: arriving[s] for s in floats if s in arriving}
            outputs = [*(fresh.get(s, s) for s in arriving), *(n for n, _ in pairs)]
            cotangents = [*arriving.values(), *(ct for _, ct in pairs)]
            found = dict(zip(wrt, self.vjp(outputs, cotangents, wrt), strict=True))
            new = [s for s in floats if found[s] is not None and s not in arriving]
        return arriving, found

    # what is kept of each trip

    def _saved(self, roots: Sequence[Node]) -> dict[Node, Node]:
        """Values of the trip that the way back needs -> leaves for them; their stacks join the rows."""
        forward = set(walk((*self.body.roots, *self.body.state, *self.body.inputs)))
        needed = [n for n in border(roots, forward) if not self._free(n)]
        kept = _without_cheap(self._looked_through(needed), self._free)
        node, at = _with_outputs(self.node, kept)
        results = items(node)
        swap: dict[Node, Node] = {}
        for n in kept:
            stack = results[len(self.parts.carry) + at[n]]
            swap[n] = input_node(self.name(str(n.attrs.get("name", n.op))), n.type, n.where)
            self.making.rows.append((swap[n], stack))
        self.making.rows += self.of_rows
        self.making.rows += zip(self.rows, self.parts.rows, strict=True)
        self.trips = (results[-1],) if self.node.attrs["test"] is not None else self.parts.trips
        return swap

    def _free(self, node: Node) -> bool:
        """Made of this trip's rows and the loop's constants alone, by movement; or of constants alone."""
        known = self.known_free
        for n in walk([node]):
            if n in known:
                continue
            if n.op in ("input", "constant"):
                known[n] = n.op == "constant" or n in self.constants, True
            elif n.op == "state":
                known[n] = False, False
            else:
                fixed = all(known[i][0] for i in n.inputs)
                known[n] = fixed, fixed or (opdef(n.op).kind == "movement" and all(known[i][1] for i in n.inputs))
        return known[node][1]

    def _looked_through(self, needed: Sequence[Node]) -> list[Node]:
        """What lies behind movement, where that is no larger."""
        result: dict[Node, None] = {}
        stack = list(reversed(needed))
        wanted = set(needed)
        read: dict[Node, int] = {}  # how many elements slices take of a node
        for n in needed:
            while n.op in LOOKED_THROUGH:
                n = n.inputs[0]
            if n.op == "slice":
                read[n.inputs[0]] = read.get(n.inputs[0], 0) + n.type.size
        while stack:
            n = stack.pop()
            if self._free(n):
                continue
            source = n.inputs[0] if n.inputs else n
            most = source.op == "state" and 2 * read.get(source, 0) > source.type.size
            cut = n.op == "slice" and (most or source in wanted or source in result)
            if n.op in LOOKED_THROUGH or cut:
                stack.extend(n.inputs)
            else:
                result[n] = None
        return list(result)

    # gradients of the loop's constants

    def _summed(self, total: Node) -> Callable[[Sequence[Node], Sequence[Node]], Node]:
        """Add what every trip contributes: given the last carry and the stacked outputs, the sum."""
        later: list[Callable[[Sequence[Node], Sequence[Node]], Node]] = []
        rest: Node | None = None
        for term in _terms(total):
            product = self._product(term)
            if product is not None:
                later.append(product)
            else:
                rest = term if rest is None else added([rest, term])
        if rest is not None:
            leaf = state_node(self.name("sum"), total.type)
            self.making.carry.append((leaf, full(leaf.shape, 0, leaf.dtype)))
            self.making.updates.append(added([leaf, rest]))
            k = len(self.making.carry) - 1
            later.append(lambda carry, outputs: carry[k])

        def finish(carry: Sequence[Node], outputs: Sequence[Node]) -> Node:
            parts = [make(carry, outputs) for make in later]
            rows = [as_rows(p) for p in parts]
            if all(r is not None for r in rows):
                return joined_rows([r for r in rows if r is not None])
            result = parts[0]
            for part in parts[1:]:
                result = add(result, part)
            return result

        return finish

    def _product(self, term: Node) -> Callable[[Sequence[Node], Sequence[Node]], Node] | None:
        """A product of two values of a trip, summed over all trips as one product; a sum of what is stacked anyway; rows
        of a table side by side.
        """
        rows = None if self.trips else as_rows(term)  # a trip that does not happen would leave rows of index 0
        if rows is not None:
            return self._stacked_rows(rows)
        moves: list[Node] = []
        while term.op in ("transpose", "reshape"):
            moves.append(term)
            term = term.inputs[0]
        if term.op == "dot_general" and not any(term.attrs["batch"]):
            sources = [self._stack_of(n) for n in term.inputs]
            contract = [(0, *(a + 1 for a in axes)) for axes in term.attrs["contract"]]

            def make(outputs: Sequence[Node]) -> Node:
                a, b = (s(outputs) for s in sources)
                return dot_general(a, b, contract=(contract[0], contract[1]), batch=((), ()))

        elif term.op == "reduce_sum" and self._is_stacked(term.inputs[0]):
            source = self._stack_of(term.inputs[0])
            axes = (0, *(a + 1 for a in term.attrs["axes"]))

            def make(outputs: Sequence[Node]) -> Node:
                return reduce_sum(source(outputs), axes=axes)

        else:
            return None

        def moved(carry: Sequence[Node], outputs: Sequence[Node]) -> Node:
            result = make(outputs)
            for n in reversed(moves):
                perm = n.attrs.get("perm")
                result = reshape(result, shape=n.shape) if perm is None else transpose(result, perm=perm)
            return result

        return moved

    def _stacked_rows(self, term: Node) -> Callable[[Sequence[Node], Sequence[Node]], Node]:
        """The rows of all trips."""
        indices, values = (self._stack_of(n) for n in term.inputs)
        shape = term.shape

        def make(carry: Sequence[Node], outputs: Sequence[Node]) -> Node:
            at, rows = indices(outputs), values(outputs)
            flat = (reshape(at, shape=(at.type.size,)), reshape(rows, shape=(at.type.size, *shape[1:])))
            return row_tensor(*flat, shape=shape)

        return make

    def _is_stacked(self, node: Node) -> bool:
        return node in self.making.outputs or any(leaf is node for leaf, _ in self.making.rows)

    def _stack_of(self, node: Node) -> Callable[[Sequence[Node]], Node]:
        for leaf, stack in self.making.rows:
            if leaf is node:
                return lambda outputs: stack
        k = self.making.output(node)
        return lambda outputs: outputs[k]

    def _loop(self) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
        """(the last carry, the stacked outputs) of the backward loop, with the operands that it uses."""
        making = self.making
        used = set(walk((*making.outputs, *making.updates)))
        rows = [(leaf, stack) for leaf, stack in making.rows if leaf in used]
        constants = [(leaf, n) for leaf, n in zip(self.constants, self.parts.constants, strict=True) if leaf in used]
        state = tuple([leaf for leaf, _ in making.carry])
        inputs = tuple([leaf for leaf, _ in (*rows, *constants)])
        updates = tuple(zip(state, making.updates, strict=True))
        body = Graph(f"{self.body.name}_back", inputs, state, tuple(making.outputs), updates)
        operands = [n for _, n in (*making.carry, *rows, *constants)]
        made = items(
            loop(
                *operands, *self.trips, body=body, test=None, length=self.node.attrs["length"],
                reverse=not self.node.attrs["reverse"], stacked=len(rows), counted=bool(self.trips),
            )
        )  # fmt: skip
        return made[: len(state)], made[len(state) :]


def border(roots: Sequence[Node], forward: set[Node]) -> list[Node]:
    """The nodes of `forward` that computing `roots` starts from."""
    found: dict[Node, None] = {}
    seen: set[Node] = set()
    stack = list(reversed(roots))
    while stack:
        n = stack.pop()
        if n in seen:
            continue
        seen.add(n)
        if n in forward or (n.op == "item" and n.inputs[0] in forward):
            if n.op != "constant":
                found[n] = None
        else:
            stack.extend(reversed(n.inputs))
    return list(found)


def _without_cheap(needed: Sequence[Node], free: Callable[[Node], bool]) -> list[Node]:
    """Leave out what a few cheap operations make of the others."""
    order = {n: k for k, n in enumerate(walk(needed))}
    kept = dict.fromkeys(needed)

    def available(n: Node, depth: int) -> bool:
        if n in kept or free(n):
            return True
        if n.op in ("state", "input"):
            return False
        kind = opdef(n.op).kind
        cheap = kind == "movement" or (kind == "elementwise" and n.op not in COSTLY)
        return cheap and depth < 8 and bool(n.inputs) and all(available(i, depth + 1) for i in n.inputs)

    for n in sorted(needed, key=order.__getitem__, reverse=True):
        if n.op in ("state", "input"):
            continue
        del kept[n]
        if not available(n, 0):
            kept[n] = None
    return sorted(kept, key=order.__getitem__)


def _terms(total: Node) -> list[Node]:
    """The parts of a sum."""
    if total.op != "add":
        return [total]
    return [part for i in total.inputs for part in _terms(i)]


def _with_outputs(node: Node, more: Sequence[Node]) -> tuple[Node, Mapping[Node, int]]:
    """The loop with more values of a trip among its outputs, and where each of them stands."""
    body: Graph = node.attrs["body"]
    outputs = list(body.outputs)
    at: dict[Node, int] = {}
    for n in more:
        if n not in outputs:
            outputs.append(n)
        at[n] = outputs.index(n)
    if len(outputs) == len(body.outputs):
        return node, at
    return with_body(node, Graph(body.name, body.inputs, body.state, tuple(outputs), body.updates)), at


def with_body(node: Node, body: Graph) -> Node:
    """The same loop on the same operands with another body of the same leaves."""
    attrs = MappingProxyType({**node.attrs, "body": body})
    type = opdef("loop").infer(*[n.type for n in node.inputs], **attrs)
    return Node("loop", node.inputs, attrs, type, node.where)


__all__ = ["border", "fresh_names", "pull_back_region", "with_body"]
