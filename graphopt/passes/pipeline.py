"""The order of the passes, and what surrounds each: skip, limit, check, dump, time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np

from graphopt import config
from graphopt.errors import GraphError, VerifyError
from graphopt.ir.graph import Graph, Node, rebuild, subgraphs, walk
from graphopt.ir.text import print_graph
from graphopt.ir.types import TensorType
from graphopt.ir.verify import verify
from graphopt.opdefs import REGISTRY
from graphopt.opdefs.evaluate import evaluate_nodes
from graphopt.passes.canon import canon
from graphopt.passes.cse import cse
from graphopt.passes.dce import dce
from graphopt.passes.join import join
from graphopt.passes.layout import layout
from graphopt.passes.plain import plain
from graphopt.passes.regions import regions
from graphopt.passes.reroll import reroll
from graphopt.passes.rewrite import Steps
from graphopt.passes.simplify import simplify
from graphopt.passes.widen import widen

Run = Callable[[Graph, Steps], Graph]


@dataclass(frozen=True, slots=True)
class Pass:
    """A function from graphs to graphs, and the reason for its place in the order."""

    name: str
    run: Run
    why: str
    inside: bool = True  # run it on the graphs in nodes too; a pass that looks into them by itself says no


PASSES = (
    Pass("plain", plain, "first of all: derivatives of one's own have been asked, and hide what is computed"),
    Pass("reroll", reroll, "before any rewriting: it looks for what Python's loop left, line by line"),
    Pass("join", join, "then: what twin loops share is lost once their bodies are rewritten", inside=False),
    Pass("regions", regions, "before the laws: it brings constants into bodies, and takes what never changes out"),
    Pass("simplify", simplify, "on the traced graph: what tracing and differentiation left is mostly identities"),
    Pass("canon", canon, "before the last laws, so that explicit pads join the user's own"),
    Pass("cse", cse, "laws look for the same node on both sides: equal nodes must be one first"),
    Pass("resimplify", simplify, "what canon and cse made possible"),
    Pass("reregions", regions, "operands that became constant or equal, results that became unused"),
    Pass("recse", cse, "rewriting made equal nodes anew; nothing after this may make twins but on purpose"),
    Pass("dce", dce, "an update may have become its own state"),
    Pass("layout", layout, "after all laws, which would move its transpositions about"),
)


def optimize(graph: Graph) -> Graph:
    """The graph after all passes, with the same inputs, state, outputs and meaning.

    Errors: VerifyError naming the pass and the rewrite when a pass breaks the graph (switch `verify`).
    Cost:   see `graphopt bench`; about 30 us per node together.
    """
    switches = config.current()
    return run_passes(graph, PASSES, switches)


def run_passes(graph: Graph, passes: tuple[Pass, ...], switches: config.Config) -> Graph:
    """Run some passes under given switches."""
    steps = Steps(switches.limit)
    rows: list[tuple[str, float, int, int]] = []
    if switches.verify:
        check(graph)
    stage = "00-traced"
    _dump(graph, stage, switches)
    for k, step in enumerate(passes, 1):
        if step.name in switches.skip:
            continue
        before, count, start = graph, steps.count, perf_counter()
        graph = run_pass(step, before, steps)
        rows.append((step.name, perf_counter() - start, steps.count - count, _nodes(graph, switches)))
        if switches.verify and graph is not before:
            _check_pass(step, before, graph, switches, count, steps, stage)
        stage = f"{k:02d}-{step.name}"
        _dump(graph, stage, switches)
        if switches.debug >= 4 and graph is not before:
            print(f"after {step.name}:\n{print_graph(graph)}", file=sys.stderr)
    if switches.debug >= 3:
        print(_table(graph.name, rows), file=sys.stderr)
    return graph


def everywhere(run: Run, graph: Graph, steps: Steps) -> Graph:
    """A pass run on the graphs inside the graph's nodes, the innermost first, then on the graph."""

    def change(node: Node) -> Node:
        if not subgraphs(node):
            return node
        inner = {k: everywhere(run, v, steps) if type(v) is Graph else v for k, v in node.attrs.items()}
        if all(v is node.attrs[k] for k, v in inner.items()):
            return node
        return Node(node.op, node.inputs, MappingProxyType(inner), node.type, node.where)

    return run(rebuild(graph, change), steps)


def run_pass(step: Pass, graph: Graph, steps: Steps) -> Graph:
    """One pass on a graph, and on the graphs inside its nodes."""
    return everywhere(step.run, graph, steps) if step.inside else step.run(graph, steps)


def check(graph: Graph) -> None:
    """Verify a graph against the shape rules of the registered ops."""
    verify(graph, _infer, _kind)


def _infer(op: str, types: tuple[TensorType, ...], attrs: Mapping[str, Any]) -> TensorType:
    return REGISTRY[op].infer(*types, **attrs)


def _kind(op: str) -> str | None:
    found = REGISTRY.get(op)
    return None if found is None else found.kind


def _nodes(graph: Graph, switches: config.Config) -> int:
    return len(walk(graph.roots)) if switches.debug >= 3 else 0


def _table(name: str, rows: list[tuple[str, float, int, int]]) -> str:
    lines = [f"passes of {name}:", f"  {'pass':<12}{'ms':>8}{'rewrites':>10}{'nodes':>8}"]
    lines.extend(f"  {p:<12}{seconds * 1e3:>8.2f}{count:>10}{nodes:>8}" for p, seconds, count, nodes in rows)
    return "\n".join(lines)


def _dump(graph: Graph, stem: str, switches: config.Config) -> None:
    if switches.dump:
        folder = Path(switches.dump)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{stem}.graph").write_text(print_graph(graph), encoding="utf-8")


def _check_pass(
    step: Pass, before: Graph, after: Graph, switches: config.Config, count: int, steps: Steps, stage: str
) -> None:
    """The pass left a valid graph of the same signature and, at level 2, of the same values.

    count: rewrites before this pass; stage: the dump that holds its input.
    """
    problem = _problem(before, after, switches.verify)
    if problem is None:
        return
    # The first rewrite of this pass after which the graph is broken: everything before it is harmless.
    low, high = 0, steps.count - count
    while low + 1 < high:
        middle = (low + high) // 2
        if _problem(before, run_pass(step, before, Steps(middle)), switches.verify) is None:
            low = middle
        else:
            high = middle
    blame = f"after pass {step.name}"
    if high:
        blame += f", rewrite {count + high} ({steps.names[count + high - 1]})"
    lines = [problem, f"  {blame}", f"  reproduce: graphopt opt {stage}.graph -p {step.name} --limit {high}"]
    raise VerifyError("\n".join(lines))


def _problem(before: Graph, after: Graph, level: int) -> str | None:
    """What is wrong with the result of a pass; None when nothing is."""
    try:
        check(after)
    except VerifyError as error:
        return str(error)
    if after.inputs != before.inputs or after.state != before.state:
        return "signature: the inputs or the state changed"
    if [n.type for n in after.outputs] != [n.type for n in before.outputs]:
        return "signature: the types of the outputs changed"
    return _difference(before, after) if level >= 2 else None


def _difference(before: Graph, after: Graph) -> str | None:
    """Which output or update has another value on random inputs; None when all agree within rounding."""
    rng = np.random.default_rng(0)
    leaves = {n: random_array(n.type, rng) for n in before.inputs + before.state}
    whole = with_updates_of(before, after)
    expected, found = evaluate_nodes(before.roots, leaves), evaluate_nodes(whole.roots, leaves)
    k = changed_root(before, whole, Truth(leaves), expected, found)
    if k is None:
        return None
    place = f"output {k}" if k < len(before.outputs) else f"update {k - len(before.outputs)}"
    return f"values: {place} changed"


def with_updates_of(before: Graph, after: Graph) -> Graph:
    """`after` with an update for every state that `before` updates, so that their roots are of one meaning."""
    updates = dict(after.updates)
    return replace(after, updates=tuple((s, updates.get(s, s)) for s, _ in before.updates))


class Truth:
    """Values of graphs' roots in float64, for one assignment of values to their leaves; each root's is computed once.

    """

    def __init__(self, leaves: Mapping[Node, np.ndarray]):
        self.leaves = leaves
        self._known: dict[Node, np.ndarray] = {}

    @cached_property
    def nearby(self) -> Truth:
        """The same for leaves that are off by noise of some units in their last places. It shows what rounding may do where a
        result jumps, as a gradient does when an activation changes its sign.
        """
        return Truth(_noisy(self.leaves))

    def of(self, graph: Graph, which: Sequence[int]) -> dict[int, np.ndarray] | None:
        """The values of some of a graph's roots, by their numbers; None where an op above them is not made for float64.

        The others are computed with them, as the next pass's graph may need those.
        """
        wanted = [graph.roots[k] for k in which]
        for roots in (graph.roots, wanted):
            if all(n in self._known for n in wanted):
                break
            new = [n for n in dict.fromkeys(roots) if n not in self._known]
            found = in_float64(new, self.leaves)
            if found is not None:
                self._known |= dict(zip(new, found, strict=True))
            elif roots is wanted:
                return None
        return {k: self._known[graph.roots[k]] for k in which}


def _noisy(leaves: Mapping[Node, np.ndarray]) -> Mapping[Node, np.ndarray]:
    """Leaves off by up to _NOISE units in the last place; floats come in float64."""
    rng = np.random.default_rng(0)

    def off(a: np.ndarray) -> np.ndarray:
        if a.dtype.kind in "biu":
            return a
        size = _NOISE * float(ml_dtypes.finfo(a.dtype).eps)  # type: ignore[no-untyped-call]
        return a.astype(np.float64) * (1.0 + rng.uniform(-size, size, a.shape))

    return {n: off(a) for n, a in leaves.items()}


def apart(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> list[int]:
    """The numbers of the arrays that differ by more than the ordinary rounding of their dtypes."""
    return [k for k, (a, b) in enumerate(zip(expected, found, strict=True)) if not close(a, b)]


def changed_root(
    before: Graph, after: Graph, truth: Truth, expected: Sequence[np.ndarray], found: Sequence[np.ndarray]
) -> int | None:
    """The first of the roots that rounding cannot explain; None when all agree.

    after: its roots stand for those of `before`. expected, found: their values on the leaves of `truth`.

    What differs is computed in float64 too: there both must agree, and what was found may be off by little more than
    what was expected. Deep networks make so much of the last digit that float32 alone could not tell.
    """
    doubtful = apart(expected, found)
    if not doubtful:
        return None
    exact, again = truth.of(before, doubtful), truth.of(after, doubtful)
    if exact is None or again is None:
        return doubtful[0]
    for k in doubtful:
        if not close(exact[k], again[k]) or not explained(before, k, truth, expected[k], found[k]):
            return k
    return None


def explained(graph: Graph, k: int, truth: Truth, expected: np.ndarray, found: np.ndarray) -> bool:
    """Whether rounding explains what was found for a root: it is about as near to the truth as what was expected, or as
    what leaves with some noise give.
    """
    exact = truth.of(graph, [k])
    if exact is None:
        return False
    if as_near(exact[k], expected, found):
        return True
    moved = truth.nearby.of(graph, [k])
    return moved is not None and as_near(exact[k], expected, found, moved[k])


def in_float64(roots: Sequence[Node], leaves: Mapping[Node, np.ndarray]) -> list[np.ndarray] | None:
    """The values of nodes without the rounding of smaller floats; None where an op among them is not made for float64."""
    try:
        wide, replaced = widen(roots)
    except GraphError:
        return None
    values = {new: leaves[old].astype(new.dtype.numpy) for old, new in replaced.items()}
    return evaluate_nodes(wide, values)


def as_near(truth: np.ndarray, expected: np.ndarray, found: np.ndarray, moved: np.ndarray | None = None) -> bool:
    """Whether `found` is about as near to the truth as `expected` is; integers that rounding may move count as near.

    moved: the truth for leaves with some noise, if that may be the measure too.
    """
    if expected.dtype.kind in "biu":
        movable = not np.array_equal(expected, truth) or (moved is not None and not np.array_equal(moved, truth))
        return movable or np.array_equal(expected, found)
    with np.errstate(all="ignore"):
        rounded = truth.astype(expected.dtype).astype(np.float64)
        off, allowed = (_distance(rounded, a.astype(np.float64)) for a in (found, expected))
        scale = float(np.max(np.abs(rounded[np.isfinite(rounded)]), initial=0.0))
        further = 0.0 if moved is None else _NEAR_NOISE * _distance(truth, moved)
    return off <= _NEARLY * allowed + further + TOLERANCE[expected.dtype.name] * max(scale, 1e-3)


def _distance(truth: np.ndarray, array: np.ndarray) -> float:
    """The largest difference; infinite where one is NaN or infinite and the other is not that too."""
    finite = np.isfinite(truth) & np.isfinite(array)
    if not np.array_equal(truth[~finite], array[~finite], equal_nan=True):
        return np.inf
    return float(np.max(np.abs(truth[finite] - array[finite]), initial=0.0))


def random_array(type: TensorType, rng: np.random.Generator) -> np.ndarray:
    """Ordinary values of a type: floats of both signs about 1, small integers."""
    if type.dtype.kind == "b":
        return rng.integers(0, 2, type.shape).astype(bool)
    if type.dtype.is_integer:
        return rng.integers(0, 4, type.shape).astype(type.dtype.numpy)
    return rng.normal(size=type.shape).astype(type.dtype.numpy)


_NEARLY = 16.0  # sums in another order round differently; an error that is no rounding is far larger
_NOISE = 256.0  # units in the last place: in ResNet-20 that changes the signs of some activations in every layer
_NEAR_NOISE = 2.0  # float32 is off by 1.1 times what such noise does there at most, 0.16 times by the median
TOLERANCE = {"float16": 2e-2, "bfloat16": 1e-1, "float32": 2e-4, "float64": 1e-9}


def close(expected: np.ndarray, found: np.ndarray) -> bool:
    """Equal within a dtype's rounding over a graph, relative to the array's largest element; NaN equals NaN."""
    if expected.dtype.kind in "biu":
        return bool(np.array_equal(expected, found))
    a, b = expected.astype(np.float64), found.astype(np.float64)
    finite = a[np.isfinite(a)]
    tolerance = TOLERANCE[expected.dtype.name]
    scale = max(float(np.max(np.abs(finite), initial=0.0)), 1e-3)
    return bool(np.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True))
