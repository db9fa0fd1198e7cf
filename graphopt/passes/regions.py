"""Control flow made smaller: what is not needed goes, what does not change moves out of the loop.

    trim     a loop without carries, outputs, operands that nobody needs; branches and loops that are decided vanish
    hoist    what depends on the loop's constants alone is computed before the loop
    move     a product reads a constant where it lies, and outputs that are one value in two shapes are one stack
    gather   products with a constant, of a row or for an output alone, are one product over all trips
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from graphopt.ir.graph import Graph, Node, input_node, subgraphs, substitute, walk, with_inputs
from graphopt.opdefs.control import Parts, branch, item, items, loop, parts_of
from graphopt.opdefs.linalg import dot_general, free_axes
from graphopt.opdefs.opdef import broadcast_to, full, opdef
from graphopt.opdefs.shape import reshape, transpose
from graphopt.passes.control import fresh_names, with_body
from graphopt.passes.rewrite import Steps
from graphopt.where import at

_EMBEDDED_ELEMS = 16  # constants up to this size become part of the body that uses them
_GATHERED_BYTES = 1 << 26  # products of all rows are kept up to this size; larger ones are computed trip by trip
_TOPMOST_ROUNDS = 8


def regions(graph: Graph, steps: Steps) -> Graph:
    """Make the graph's branches and loops smaller, until nothing changes; see the manual above.

    Claim:     every result, operand, carry and output of a loop is used; no loop computes what is the same on every trip.
    Invariant: what a loop computes stays the same, up to the order of sums in products that are gathered.
    Cost:      O(nodes + edges) a round.
    """
    for _ in range(_TOPMOST_ROUNDS):
        changed = _round(graph, steps)
        if changed is graph:
            break
        graph = changed
    return graph


def _round(graph: Graph, steps: Steps) -> Graph:
    order = walk(graph.roots)
    used: dict[Node, set[int]] = {}
    for node in order:
        if node.op == "item":
            used.setdefault(node.inputs[0], set()).add(node.attrs["index"])
    if not used:
        return graph
    new: dict[Node, Node] = {}
    results: dict[Node, Mapping[int, Node]] = {}
    for node in order:
        if node.op == "item" and node.inputs[0] in results:
            new[node] = results[node.inputs[0]][node.attrs["index"]]
            continue
        changed = node if node.op in ("input", "state") else with_inputs(node, tuple([new[i] for i in node.inputs]))
        if subgraphs(changed):
            with at(node.where):
                better = smaller(changed, used[node], steps)
            if better is not None:
                results[node] = better
        new[node] = changed
    roots = [new[r] for r in graph.roots]
    return graph if all(a is b for a, b in zip(roots, graph.roots, strict=True)) else graph.with_roots(roots)


def smaller(node: Node, used: set[int], steps: Steps) -> Mapping[int, Node] | None:
    """What stands for the used results of a branch or loop after the first rule that fits; None when none does."""
    rules = BRANCH_RULES if node.op == "branch" else LOOP_RULES
    for name, rule in rules:
        found = rule(node, used)
        if found is not None:
            return found if steps.take(name) else None
    return None


# branches -----------------------------------------------------------------------------------------------------


def _decided(node: Node, used: set[int]) -> Mapping[int, Node] | None:
    """A constant condition chooses now."""
    pred, *operands = node.inputs
    if pred.op != "constant":
        return None
    graph = node.attrs["then" if pred.attrs["value"].item() else "other"]
    roots = substitute([graph.outputs[k] for k in sorted(used)], dict(zip(graph.inputs, operands, strict=True)))
    return dict(zip(sorted(used), roots, strict=True))


def _trim_branch(node: Node, used: set[int]) -> Mapping[int, Node] | None:
    """Results and operands that nobody needs go; equal operands become one; small constants move inside."""
    sides = [node.attrs["then"], node.attrs["other"]]
    kept = sorted(used)
    outputs = [[g.outputs[k] for k in kept] for g in sides]
    operands = node.inputs[1:]
    first = {n: k for k, n in reversed(list(enumerate(operands)))}
    for j, g in enumerate(sides):
        swap = {leaf: g.inputs[first[n]] for leaf, n in zip(g.inputs, operands, strict=True) if g.inputs[first[n]] is not leaf}
        swap |= {leaf: n for leaf, n in zip(g.inputs, operands, strict=True) if _embedded(n)}
        outputs[j] = substitute(outputs[j], swap) if swap else outputs[j]
    reached = [set(walk(side)) for side in outputs]
    needed = [k for k in range(len(operands)) if any(g.inputs[k] in r for g, r in zip(sides, reached, strict=True))]
    if len(kept) == len(sides[0].outputs) and len(needed) == len(operands):
        return None
    graphs = [
        Graph(g.name, tuple([g.inputs[k] for k in needed]), (), tuple(side)) for g, side in zip(sides, outputs, strict=True)
    ]
    made = items(branch(node.inputs[0], *[operands[k] for k in needed], then=graphs[0], other=graphs[1]))
    return dict(zip(kept, made, strict=True))


def _same_result(node: Node, used: set[int]) -> Mapping[int, Node] | None:
    """A result that is the same operand on both sides needs no branch."""
    then, other = node.attrs["then"], node.attrs["other"]
    same = {}
    for k in used:
        a, b = then.outputs[k], other.outputs[k]
        if a in then.inputs and b in other.inputs and then.inputs.index(a) == other.inputs.index(b):
            same[k] = node.inputs[1 + then.inputs.index(a)]
    return {k: same.get(k) or item(node, index=k) for k in used} if same else None


# loops --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Loop:
    """A loop taken apart."""

    node: Node
    body: Graph
    test: Graph | None
    parts: Parts

    @property
    def rows(self) -> tuple[Node, ...]:
        return self.body.inputs[: self.node.attrs["stacked"]]

    @property
    def constants(self) -> tuple[Node, ...]:
        return self.body.inputs[self.node.attrs["stacked"] :]

    @property
    def always(self) -> bool:
        """Every trip happens."""
        return self.test is None and not self.node.attrs["counted"]

    @property
    def output(self) -> int:
        """The index of the first stacked result."""
        return len(self.body.state)

    def made(self, body: Graph, test: Graph | None, parts: Parts) -> Node:
        a = self.node.attrs
        return loop(
            *parts.joined(), body=body, test=test, length=a["length"], reverse=a["reverse"], stacked=len(parts.rows),
            counted=a["counted"],
        )  # fmt: skip


def _apart(node: Node) -> _Loop:
    return _Loop(node, node.attrs["body"], node.attrs["test"], parts_of(node))


def _no_trip(node: Node, used: set[int]) -> Mapping[int, Node] | None:
    """Of no trip, the carry as it came, and stacks without rows; of one trip that always happens, the body."""
    whole = _apart(node)
    length = node.attrs["length"]
    if length != 0 and (length != 1 or not whole.always):
        return None
    if length == 0:
        types = node.type.parts  # type: ignore[attr-defined]
        return {
            k: whole.parts.carry[k] if k < whole.output else full(types[k].shape, 0, types[k].dtype) for k in used
        }
    swap = dict(zip(whole.body.state, whole.parts.carry, strict=True))
    swap |= dict(zip(whole.constants, whole.parts.constants, strict=True))
    swap |= {leaf: reshape(n, shape=leaf.shape) for leaf, n in zip(whole.rows, whole.parts.rows, strict=True)}
    fresh = dict(whole.body.updates)
    roots = [fresh.get(s, s) for s in whole.body.state] + list(whole.body.outputs)
    found = dict(zip(sorted(used), substitute([roots[k] for k in sorted(used)], swap), strict=True))
    return {k: n if k < whole.output else reshape(n, shape=(1, *n.shape)) for k, n in found.items()}


def _unchanging(node: Node, used: set[int]) -> Mapping[int, Node] | None:
    """A carry that no trip changes is a constant of the loop."""
    whole = _apart(node)
    fresh = dict(whole.body.updates)
    still = [k for k, s in enumerate(whole.body.state) if fresh.get(s, s) is s]
    if not still:
        return None
    moving = [k for k in range(whole.output) if k not in still]
    parts = whole.parts
    name = fresh_names((*whole.body.inputs, *whole.body.state))

    def changed(graph: Graph) -> Graph:
        swap = {graph.state[k]: input_node(name(graph.state[k].attrs["name"]), graph.state[k].type) for k in still}
        pairs = [(s, v) for s, v in graph.updates if s not in swap]
        roots = substitute([*graph.outputs, *(v for _, v in pairs)], swap)
        updates = tuple(zip([s for s, _ in pairs], roots[len(graph.outputs) :], strict=True))
        outputs = tuple(roots[: len(graph.outputs)])
        return Graph(graph.name, (*graph.inputs, *swap.values()), tuple([graph.state[k] for k in moving]), outputs, updates)

    extra = tuple([parts.carry[k] for k in still])
    test = None if whole.test is None else changed(whole.test)
    carry = tuple([parts.carry[k] for k in moving])
    tested = (*parts.test_constants, *extra) if test is not None else ()
    made = whole.made(changed(whole.body), test, Parts(carry, parts.rows, (*parts.constants, *extra), tested, parts.trips))
    place = {k: j for j, k in enumerate(moving)}
    shift = len(still)
    return {
        k: parts.carry[k] if k in still else item(made, index=place[k] if k < whole.output else k - shift) for k in used
    }


def _embedded(n: Node) -> bool:
    """A constant that is as well made inside: small, or a number spread out."""
    while n.op in ("broadcast", "reshape"):
        n = n.inputs[0]
    return n.op == "constant" and n.type.size <= _EMBEDDED_ELEMS


def _tidy(leaves: Sequence[Node], operands: Sequence[Node]) -> dict[Node, Node]:
    """What may stand for the leaves of constants: constants themselves, another leaf for the same operand."""
    first: dict[Node, Node] = {}
    swap: dict[Node, Node] = {}
    for leaf, n in zip(leaves, operands, strict=True):
        if _embedded(n):
            swap[leaf] = n
        elif first.setdefault(n, leaf) is not leaf:
            swap[leaf] = first[n]
    return swap


def _trim(node: Node, used: set[int]) -> Mapping[int, Node] | None:
    """Carries, outputs and operands that nobody needs go; small constants move inside, equal operands become one."""
    whole = _apart(node)
    body, test, parts = whole.body, whole.test, whole.parts
    swap = _tidy(whole.constants, parts.constants)
    test_swap = _tidy(test.inputs, parts.test_constants) if test is not None else {}
    fresh = dict(body.updates)
    roots = substitute([*(fresh.get(s, s) for s in body.state), *body.outputs], swap) if swap else [
        *(fresh.get(s, s) for s in body.state), *body.outputs
    ]
    new = roots[: whole.output]
    outputs = dict.fromkeys(roots[k] for k in sorted(used) if whole.output <= k < len(roots))
    goes_on = substitute(test.outputs, test_swap) if test is not None else []
    tested = set(walk(goes_on))
    live = {k for k in range(whole.output) if k in used or (test is not None and test.state[k] in tested)}
    while True:
        reached = set(walk([*outputs, *(new[k] for k in live)]))
        more = {k for k, s in enumerate(body.state) if s in reached} - live
        if not more:
            break
        live |= more
    rows = [k for k, leaf in enumerate(whole.rows) if leaf in reached]
    constants = [k for k, leaf in enumerate(whole.constants) if leaf in reached]
    test_constants = [k for k, leaf in enumerate(test.inputs) if leaf in tested] if test is not None else []
    sizes = (len(live), len(outputs), len(rows), len(constants), len(test_constants))
    before = (whole.output, len(body.outputs), len(parts.rows), len(parts.constants), len(parts.test_constants))
    if sizes == before:
        return None
    carried = sorted(live)
    state = tuple([body.state[k] for k in carried])
    inputs = (*[whole.rows[k] for k in rows], *[whole.constants[k] for k in constants])
    updates = tuple([(body.state[k], new[k]) for k in carried])
    trimmed = Graph(body.name, inputs, state, tuple(outputs), updates)
    check = None
    if test is not None:
        leaves = tuple([test.inputs[k] for k in test_constants])
        check = Graph(test.name, leaves, tuple([test.state[k] for k in carried]), tuple(goes_on))
    made = whole.made(trimmed, check, Parts(
        tuple([parts.carry[k] for k in carried]), tuple([parts.rows[k] for k in rows]),
        tuple([parts.constants[k] for k in constants]), tuple([parts.test_constants[k] for k in test_constants]), parts.trips,
    ))  # fmt: skip
    place = {k: carried.index(k) for k in carried}
    stacks = list(outputs)
    for k in used - set(range(whole.output)):
        last = len(carried) + len(stacks)
        place[k] = len(carried) + stacks.index(roots[k]) if k < len(roots) else last
    return {k: item(made, index=place[k]) for k in used}


def _fixed_nodes(roots: Sequence[Node], leaves: set[Node]) -> set[Node]:
    """Nodes made of these leaves and constants alone."""
    fixed: set[Node] = set()
    for n in walk(roots):
        made = all(i in fixed for i in n.inputs) and n.op not in ("input", "state")
        if made or n in leaves:
            fixed.add(n)
    return fixed


def _invariant(roots: Sequence[Node], leaves: Sequence[Node]) -> list[Node]:
    """The largest parts made of these leaves alone that are worth a place of their own: more than movement."""
    fixed = _fixed_nodes(roots, set(leaves))
    found: dict[Node, None] = {}
    for n in walk(roots):
        if n not in fixed:
            for i in n.inputs:
                found.update(dict.fromkeys(_worked(i, fixed)))
    for r in roots:
        found.update(dict.fromkeys(_worked(r, fixed)))
    return list(found)


def _worked(node: Node, fixed: set[Node]) -> Iterator[Node]:
    """What is computed behind movement."""
    stack = [node]
    while stack:
        n = stack.pop()
        if n not in fixed or n.op in ("input", "constant"):
            continue
        kind = opdef(n.op).kind
        if kind == "movement":
            stack.extend(n.inputs)
        elif kind == "region":
            if n.op == "item":
                yield n
        else:
            yield n


def _hoist(node: Node, used: set[int]) -> Mapping[int, Node] | None:
    """What is the same on every trip is computed before the loop."""
    whole = _apart(node)
    body, test, parts = whole.body, whole.test, whole.parts
    moved = _invariant(body.roots, whole.constants)
    test_moved = _invariant(test.outputs, test.inputs) if test is not None else []
    if not moved and not test_moved:
        return None
    outside = substitute(moved, dict(zip(whole.constants, parts.constants, strict=True)))
    name = fresh_names((*body.inputs, *body.state))
    leaves = [input_node(name(n.op), n.type, n.where) for n in moved]
    roots = substitute(body.roots, dict(zip(moved, leaves, strict=True)))
    changed = replace(body, inputs=(*body.inputs, *leaves)).with_roots(roots)
    tested: tuple[Node, ...] = parts.test_constants
    if test is not None:
        name = fresh_names((*test.inputs, *test.state))
        test_leaves = [input_node(name(n.op), n.type, n.where) for n in test_moved]
        tested = (*tested, *substitute(test_moved, dict(zip(test.inputs, parts.test_constants, strict=True))))
        outputs = substitute(test.outputs, dict(zip(test_moved, test_leaves, strict=True)))
        test = replace(test, inputs=(*test.inputs, *test_leaves), outputs=tuple(outputs))
    made = whole.made(changed, test, replace(parts, constants=(*parts.constants, *outside), test_constants=tested))
    return {k: item(made, index=k) for k in used}


def _known_outputs(node: Node, used: set[int]) -> Mapping[int, Node] | None:
    """A stack of rows that came in is the operand; a stack of a constant of the loop is its broadcast."""
    whole = _apart(node)
    if not whole.always:
        return None
    known: dict[int, Node] = {}
    for k in used - set(range(whole.output)):
        n = whole.body.outputs[k - whole.output]
        if n in whole.rows:
            known[k] = whole.parts.rows[whole.rows.index(n)]
        elif n in whole.constants:
            constant = whole.parts.constants[whole.constants.index(n)]
            known[k] = broadcast_to(constant, (node.attrs["length"], *n.shape))
    return {k: known[k] if k in known else item(node, index=k) for k in used} if known else None


def _moved_outputs(node: Node, used: set[int]) -> Mapping[int, Node] | None:
    """An output that is another one in another order or shape needs no stack of its own."""
    whole = _apart(node)
    outputs = list(whole.body.outputs)
    bases: dict[int, tuple[Node, list[Node]]] = {}
    for j, n in enumerate(outputs):
        moves: list[Node] = []
        while n.op in ("reshape", "transpose"):
            moves.append(n)
            n = n.inputs[0]
        if moves and n in outputs:
            bases[j] = n, moves[::-1]
    if not bases:
        return None
    kept = list(dict.fromkeys([bases[j][0] if j in bases else n for j, n in enumerate(outputs)]))
    made = with_body(node, replace(whole.body, outputs=tuple(kept)))
    result: dict[int, Node] = {}
    for k in used:
        j = k - whole.output
        if not 0 <= j < len(outputs):
            result[k] = item(made, index=k if j < 0 else k + len(kept) - len(outputs))
            continue
        base, moved = bases.get(j, (outputs[j], []))
        stack = item(made, index=whole.output + kept.index(base))
        for m in moved:
            if m.op == "reshape":
                stack = reshape(stack, shape=(*stack.shape[:1], *m.shape))
            else:
                stack = transpose(stack, perm=(0, *(a + 1 for a in m.attrs["perm"])))
        result[k] = stack
    return result


def _direct_operands(node: Node, used: set[int]) -> Mapping[int, Node] | None:
    """A constant that is a transposed array, of use in products alone, comes in as it lies: products read either order."""
    whole = _apart(node)
    body, parts = whole.body, whole.parts
    wanted = {leaf: k for k, leaf in enumerate(whole.constants) if parts.constants[k].op == "transpose"}
    for n in walk(body.roots) if wanted else ():
        if not _dots(n):
            for i in n.inputs:
                wanted.pop(i, None)
    for root in body.roots:
        wanted.pop(root, None)
    if not wanted:
        return None
    name = fresh_names((*body.inputs, *body.state))
    operands, leaves = list(parts.constants), list(whole.constants)
    swap: dict[Node, Node] = {}
    for leaf, k in wanted.items():
        source = operands[k].inputs[0]
        leaves[k] = input_node(name(leaf.attrs["name"]), source.type, leaf.where)
        swap[leaf] = transpose(leaves[k], perm=operands[k].attrs["perm"])
        operands[k] = source
    changed = replace(body, inputs=(*whole.rows, *leaves)).with_roots(substitute(body.roots, swap))
    made = whole.made(changed, whole.test, replace(parts, constants=tuple(operands)))
    return {k: item(made, index=k) for k in used}


def _dots(node: Node) -> bool:
    return node.op == "dot_general" and not any(node.attrs["batch"])


def _product_of_all(dot: Node, side: int, stack: Node, constant: Node) -> Node:
    """A product with a constant, for all rows of a stack that holds its operand `side`."""
    contract = list(dot.attrs["contract"])
    contract[side] = tuple([a + 1 for a in contract[side]])
    operands = (stack, constant) if side == 0 else (constant, stack)
    result = dot_general(*operands, contract=(contract[0], contract[1]), batch=((), ()))
    if side == 0:
        return result
    lead = len(free_axes(constant.type.rank, contract[0], ()))
    return transpose(result, perm=(lead, *range(lead), *range(lead + 1, result.type.rank)))


def _gather_rows(node: Node, used: set[int]) -> Mapping[int, Node] | None:
    """Products of a row with a constant are computed for all rows at once, before the loop."""
    whole = _apart(node)
    if not whole.always:
        return None
    body, parts = whole.body, whole.parts
    fixed = _fixed_nodes(body.roots, set(whole.constants))
    found: dict[Node, Node] = {}
    outside = dict(zip(whole.constants, parts.constants, strict=True))
    for n in walk(body.roots):
        if not _dots(n):
            continue
        for side, source in enumerate(n.inputs):
            other = n.inputs[1 - side]
            small = node.attrs["length"] * n.type.bytes <= _GATHERED_BYTES
            if source in whole.rows and other in fixed and small:
                (constant,) = substitute([other], outside)
                found[n] = _product_of_all(n, side, parts.rows[whole.rows.index(source)], constant)
    if not found:
        return None
    name = fresh_names((*body.inputs, *body.state))
    leaves = {n: input_node(name("dot"), n.type, n.where) for n in found}
    inputs = (*whole.rows, *leaves.values(), *whole.constants)
    changed = replace(body, inputs=inputs).with_roots(substitute(body.roots, leaves))
    made = whole.made(changed, whole.test, replace(parts, rows=(*parts.rows, *found.values())))
    return {k: item(made, index=k) for k in used}


def _gather_outputs(node: Node, used: set[int]) -> Mapping[int, Node] | None:
    """Products with a constant that are of use as an output alone are computed for all trips at once, after the loop."""
    whole = _apart(node)
    body, parts = whole.body, whole.parts
    if not body.outputs:
        return None
    fixed = _fixed_nodes(body.roots, set(whole.constants))
    fresh = [v for _, v in body.updates]
    outputs = list(body.outputs)
    inner = set(walk([*fresh, *(o for o in outputs if not _dots(o))]))
    later: dict[int, tuple[Node, int]] = {}
    for j, n in enumerate(body.outputs):
        if not _dots(n) or n in inner:
            continue
        for side, source in enumerate(n.inputs):
            small = source.type.size <= n.type.size or source in body.outputs
            if small and source not in fixed and n.inputs[1 - side] in fixed and j not in later:
                later[j] = (n, side)
    if not later:
        return None
    for n, side in later.values():
        if n.inputs[side] not in outputs:
            outputs.append(n.inputs[side])
    made = with_body(node, replace(body, outputs=tuple(outputs)))
    outside = dict(zip(whole.constants, parts.constants, strict=True))
    result: dict[int, Node] = {}
    for k in used:
        j = k - whole.output
        if j in later:
            n, side = later[j]
            (constant,) = substitute([n.inputs[1 - side]], outside)
            stack = item(made, index=whole.output + outputs.index(n.inputs[side]))
            result[k] = _product_of_all(n, side, stack, constant)
        else:
            shifted = k + len(outputs) - len(body.outputs) if j >= len(body.outputs) else k
            result[k] = item(made, index=shifted)
    return result


Rule = Callable[[Node, set[int]], Mapping[int, Node] | None]

BRANCH_RULES: tuple[tuple[str, Rule], ...] = (
    ("decided_branch", _decided),
    ("same_result", _same_result),
    ("trim_branch", _trim_branch),
)
LOOP_RULES: tuple[tuple[str, Rule], ...] = (
    ("no_trip", _no_trip),
    ("unchanging_carry", _unchanging),
    ("trim_loop", _trim),
    ("known_outputs", _known_outputs),
    ("moved_outputs", _moved_outputs),
    ("hoist", _hoist),
    ("direct_operands", _direct_operands),
    ("gather_rows", _gather_rows),
    ("gather_outputs", _gather_outputs),
)
