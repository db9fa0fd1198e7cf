"""The tracer: while a trace is active, operations on tensors append nodes.

A trace is *symbolic* (GRAPH_MODE: tensors have types only) or *concrete* (gradients in PYNATIVE_MODE: every tensor
also carries its value, so Python may branch on it). There is at most one at a time; whatever is called inside it,
Cells, `jit` functions and gradients, is traced into it.

A Parameter is state: its first reading makes a `state` leaf, assigning to it changes its current value within the
trace, and the trace's graph lists the change as an update. Nothing outside is touched until the graph has run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from graphopt.common.journal import note
from graphopt.common.syntax import refusal
from graphopt.errors import TraceError, layout
from graphopt.ir.graph import Graph, Node, input_node, state_node, substitute
from graphopt.ir.types import TensorType
from graphopt.opdefs.elementwise import alias, select, stop_gradient
from graphopt.opdefs.opdef import constant, opdef
from graphopt.passes.cse import met
from graphopt.passes.gradient import Derivative
from graphopt.passes.reroll import rolled
from graphopt.passes.rewrite import Steps
from graphopt.where import here, user_frame

if TYPE_CHECKING:
    from graphopt.common.parameter import Parameter
    from graphopt.common.tensor import Tensor

Rule = Callable[[Sequence[Node], Sequence[Node | None]], Sequence[Node | None]]
"""(results, their cotangents) -> cotangents of the sources; None: nothing flows, or zero."""

_active: ContextVar[Trace | None] = ContextVar("graphopt_trace", default=None)


def active() -> Trace | None:
    """The trace that operations append to; None when they run at once."""
    return _active.get()


class Settling(Protocol):
    """Work on the host around the first runs of a compiled step, until the step no longer needs it."""

    def before(self) -> None:
        """Before a run."""

    def after(self) -> bool:
        """After a run that succeeded; whether runs need this no longer, until a Parameter is written to."""


class Trace:
    """One run of Python code over nodes.

    inputs:      leaves in the order they were made.
    derivatives: parts of the trace with a derivative of their own, in the order they were made.
    guards:      checks on the host that stand before every run of what was traced; they raise.
    settling:    work on the host around the first runs.
    checks:      the same for values: (number of the input, check of its array).
    choices:     what the traced code asked the host, and the answers it went by: {question: (what it asks, answer)}.
    scalars:     nodes that stand for Python floats: in promotions they follow the tensors, as floats do.
    rolled:      what stands for nodes of unrolled loops once these are loops again.
    apart:       what derivatives that are being traced are taken by: these nodes must stay what they are.
    results:     values that must hold once what was traced has run: (a bool of shape (), the error if it does not).
    rewrites:    whether the user's functions are called as twins whose conditions may be Tensors (`common.branching`).
    recomputed:  paths of the Cells that asked for `recompute`, and whether their outputs are computed again too.
    derived:     whether anything was differentiated in reverse.
    symbolic:    inputs (by number) whose first axis a Cell declared to be symbolic, and the most rows, 0 for no limit.
    resized:     inputs that have another number of rows here than their arguments.
    visited:     what the trace read besides tensors: (object, its version), for `common.compiled` to watch.
    certain:     whether what is traced runs whenever the graph does.
    """

    certain = True

    def __init__(
        self, name: str, concrete: bool = False, rewrites: bool = False, resized: Mapping[int, int] | None = None
    ):
        self.name = name
        self.resized = resized or {}
        self.symbolic: dict[int, int] = {}
        self.concrete = concrete
        self.rewrites = rewrites
        self.finished = False
        self.inputs: list[Node] = []
        self.values: dict[Node, np.ndarray] = {}
        self.derivatives: list[Derivative] = []
        self.scalars: set[Node] = set()
        self.guards: list[Callable[[], None]] = []
        self.settling: list[Settling] = []
        self.checks: list[tuple[int, Callable[[np.ndarray], None]]] = []
        self.results: list[tuple[Node, str]] = []
        self.choices: dict[Callable[[], Any], tuple[str, Any]] = {}
        self.visited: dict[int, tuple[Any, int, tuple[Any, ...]]] = {}
        self.rolled: dict[Node, Node] = {}
        self.apart: list[Node] = []
        self.recomputed: dict[str, bool] = {}
        self.derived = False
        self._states: dict[int, tuple[Parameter, Node]] = {}
        self._current: dict[int, Node] = {}
        self._constants: dict[int, tuple[np.ndarray, Node]] = {}
        self._names: set[str] = set()
        self._valueless: set[Node] = set()

    @contextmanager
    def running(self) -> Iterator[Trace]:
        """Operations inside the block append to this trace."""
        token = _active.set(self)
        try:
            yield self
        finally:
            _active.reset(token)
            self.finished = True

    def input(self, name: str, type: TensorType) -> Node:
        """A new input leaf; equal names get a number."""
        if len(self.inputs) in self.resized:
            type = type.with_shape((self.resized[len(self.inputs)], *type.shape[1:]))
        node = input_node(self._unique(name), type, here())
        self.inputs.append(node)
        return node

    def knows(self, tensor: Tensor) -> bool:
        """Whether a tensor stands for a node of this trace, or of one around it."""
        return tensor._trace is self

    def node_of(self, tensor: Tensor) -> Node:
        """The node that stands for a tensor in this trace: its own, its Parameter's current value, or a constant.

        Errors: TraceError for a tensor of another, finished trace that has no value.
        """
        if tensor._trace is self and tensor._node is not None:
            return tensor._node
        if tensor._is_parameter:
            return self.read(tensor)  # type: ignore[arg-type]
        array = tensor._array
        if array is None:
            raise value_is_gone(tensor)
        known = self._constants.get(id(tensor))
        if known is not None and known[0] is array:
            return known[1]
        tensor._captured = True
        node = constant(array)
        self._constants[id(tensor)] = (array, node)
        self.visit(tensor, tensor._version)
        if self.concrete:
            self.values[node] = array
        return node

    def read(self, parameter: Parameter) -> Node:
        """The parameter's current value in this trace."""
        key = id(parameter)
        node = self._current.get(key)
        if node is None:
            node = state_node(self._unique(parameter.name), parameter._type, here())
            self._states[key] = (parameter, node)
            self._current[key] = node
            self.visited[key] = (parameter, parameter._version, ())
            if self.concrete:
                self.values[node] = parameter._data().copy()
        return node

    def write(self, parameter: Parameter, value: Node) -> None:
        """Let `value`, of the parameter's type, be its current value from here on."""
        self.read(parameter)
        self._current[id(parameter)] = value
        self.compute((value,))

    @contextmanager
    def separate(self, parameters: Sequence[Parameter], seen: Callable[[Parameter, Node], Node]) -> Iterator[list[Node]]:
        """Within the block, reading one of `parameters` gives an alias of its own, so that only this block's uses count.

        Gives the aliases; what is read is what `seen` makes of one. A parameter that was not assigned to has its former
        node back afterwards.
        """
        before = {id(p): self.read(p) for p in parameters}
        aliases = [self.compute((alias(before[id(p)]),))[0] for p in parameters]
        inside = {id(p): seen(p, node) for p, node in zip(parameters, aliases, strict=True)}
        self._current.update(inside)
        try:
            yield aliases
        finally:
            for key, node in inside.items():
                if self._current[key] is node:
                    self._current[key] = before[key]

    def written_since(self, before: Mapping[int, Node]) -> Iterator[tuple[Parameter, Node]]:
        """(Parameter, value) of those that have another value than in `before`, a former `current`."""
        for key, node in self._current.items():
            if node is not before.get(key, self._states[key][1]):
                yield self._states[key][0], node

    @property
    def current(self) -> Mapping[int, Node]:
        """A snapshot of all Parameters' values, by their ids."""
        return dict(self._current)

    @contextmanager
    def unwritten(self) -> Iterator[None]:
        """What the block assigns to Parameters is forgotten afterwards."""
        before = self.current
        yield
        for key, (_, leaf) in self._states.items():
            self._current[key] = before.get(key, leaf)

    @contextmanager
    def only_where(self, condition: Node) -> Iterator[None]:
        """What the block assigns to Parameters holds only when `condition`, a bool of shape (), is true; else they
        keep the value they had. The block is traced either way.
        """
        before = dict(self._current)
        yield
        for key, node in list(self._current.items()):
            old = before.get(key, self._states[key][1])
            if node is not old:
                self._current[key] = self.compute((select(condition, node, old),))[0]

    def ruled(self, sources: Sequence[Node], results: Sequence[Node], rule: Rule) -> tuple[Node, ...]:
        """Nodes with the values of `results`; what flows into them goes on to `sources` as `rule` says, and no other way."""
        cut = tuple(self.compute([stop_gradient(n) for n in results]))
        self.derivatives.append(Derivative(tuple(sources), cut, lambda cotangents: rule(cut, cotangents)))
        return cut

    def compute(self, nodes: Sequence[Node]) -> Sequence[Node]:
        """In a concrete trace, give the nodes (and whatever they need) their values; the nodes again.

        What depends on a leaf without a value, one example of many or a cotangent to come, has none either.
        """
        if self.concrete:
            for node in nodes:
                if node not in self.values and node not in self._valueless:
                    self._evaluate(node)
        return nodes

    def _evaluate(self, node: Node) -> None:
        stack = [node]
        while stack:
            top = stack[-1]
            missing = [n for n in top.inputs if n not in self.values and n not in self._valueless]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            if top in self.values:
                continue
            if top.op in ("input", "state") or any(n in self._valueless for n in top.inputs):
                self._valueless.add(top)
            else:
                self.values[top] = self._meaning(top)

    def _meaning(self, node: Node) -> np.ndarray:
        if node.op == "constant":
            return node.attrs["value"]
        return opdef(node.op).evaluate(node.type, [self.values[n] for n in node.inputs], node.attrs)

    @property
    def parameters(self) -> list[Parameter]:
        """The parameters that were read or assigned to, in order."""
        return [parameter for parameter, _ in self._states.values()]

    def leaf_of(self, parameter: Parameter) -> Node | None:
        """The state leaf of a parameter; None when the trace did not touch it."""
        known = self._states.get(id(parameter))
        return None if known is None else known[1]

    def updates(self) -> list[tuple[Parameter, Node, Node]]:
        """(parameter, state leaf, new value) of every parameter whose value is not its leaf any more."""
        current = [(p, leaf, self._current[key]) for key, (p, leaf) in self._states.items()]
        return [(p, leaf, value) for p, leaf, value in current if value is not leaf]

    def graph(self, outputs: Sequence[Node]) -> Graph:
        """The pure function that was traced."""
        state = tuple(leaf for _, leaf in self._states.values())
        updates = tuple((leaf, value) for _, leaf, value in self.updates())
        for flag, _ in self.results:
            updates = tuple((leaf, select(flag, value, leaf)) for leaf, value in updates)
        graph = Graph(self.name, tuple(self.inputs), state, tuple(outputs), updates)
        return graph.with_roots(self._with_loops(graph.roots)) if self.rolled else graph

    def roll(self, nodes: Sequence[Node], wrt: Sequence[Node]) -> list[Node]:
        """The nodes computed with loops where Python's loops were unrolled; the trace remembers what stands for what.
        Where derivatives are differentiated, what several of them computed for themselves is computed once.

        wrt: nodes to differentiate by; they and what they are made of stay as they are.
        """
        if self.concrete:
            return list(nodes)
        fixed = [*self.apart, *wrt]
        roots, found = rolled(self._with_loops(nodes, fixed), Steps(), fixed)
        self.rolled |= found
        if not self.derived:
            return roots
        return met(roots, [*fixed, *(n for part in self.derivatives for n in (*part.inputs, *part.outputs))])

    def _with_loops(self, nodes: Sequence[Node], fixed: Sequence[Node] = ()) -> list[Node]:
        """The nodes with loops instead of what was found to be unrolled; nothing below `fixed` changes."""
        mapping = self.rolled | {n: n for n in fixed}
        current = list(nodes)
        while True:
            changed = substitute(current, mapping)
            if changed == current:
                return current
            current = changed

    def commit(self) -> None:
        """Write the updates of a concrete trace into the parameters."""
        fresh = [(parameter, self.values[value].copy()) for parameter, _, value in self.updates()]
        for parameter, array in fresh:
            note(parameter)
            parameter._data()[...] = array

    def guard(self, check: Callable[[], None]) -> None:
        """Let `check` be called before every run of the traced graph; in a concrete trace it is called now."""
        if self.concrete:
            check()
        self.guards.append(check)

    def check_value(self, node: Node, check: Callable[[np.ndarray], None]) -> bool:
        """Let `check` see a node's integers: now when they are known, before every run when they are an input's, moved or
        joined or in a wider dtype; else never. Whether it sees all of them.
        """
        if node not in self.values and (node.op in ("reshape", "alias", "concat") or _widens(node)):
            checked = [self.check_value(source, check) for source in node.inputs]
            return all(checked)
        if node in self.values or node.op == "constant":
            check(self.values[node] if node in self.values else node.attrs["value"])
        elif node in self.inputs:
            self.checks.append((self.inputs.index(node), check))
        else:
            return False
        return True

    def within(self, node: Node, low: int, high: int) -> bool:
        """Whether a node's integers are known to be in [low, high)."""
        return False

    def choose(self, what: str, ask: Callable[[], Any]) -> Any:
        """The answer of `ask`, on which the traced code may branch.

        It is asked again before every run: for another answer the code is traced anew, and both graphs are kept.
        """
        if ask not in self.choices:
            self.choices[ask] = (what, ask())
        return self.choices[ask][1]

    def declare(self, node: Node, most: int) -> None:
        """Note that a Cell declared the first axis of a value to be symbolic, when that is an input of the trace."""
        while node.op in ("alias", "stop_gradient", "cast"):
            node = node.inputs[0]
        if node in self.inputs:
            self.symbolic[self.inputs.index(node)] = most

    def visit(self, thing: Any, version: int, flags: tuple[Any, ...] = ()) -> None:
        """Note that the trace depends on `thing` as it is in this version, with these flags."""
        self.visited.setdefault(id(thing), (thing, version, flags))

    def watch(self, thing: Any) -> None:
        """Note that the trace may depend on a Cell's attributes; of a bound method, on those of its object."""
        owner = getattr(thing, "__self__", thing)
        if hasattr(owner, "_trace_flags"):
            object.__setattr__(owner, "_traced", True)
            self.visit(owner, owner._version, owner._trace_flags())

    def _unique(self, name: str) -> str:
        unique, k = name, 1
        while unique in self._names:
            unique, k = f"{name}_{k}", k + 1
        self._names.add(unique)
        return unique


def _widens(node: Node) -> bool:
    """Whether a node holds the integers of its input in a wider dtype."""
    return node.op == "cast" and node.inputs[0].dtype.is_integer and node.inputs[0].dtype.bits < node.dtype.bits


def _why_not_rewritten() -> list[str]:
    """Why the user's function at hand is called as it is, when its rewriting was refused."""
    frame = user_frame()
    refused = None if frame is None else refusal(frame.f_code)
    if frame is None or refused is None:
        return []
    return [f"{frame.f_code.co_name}: its branches cannot be traced: {refused[0]} (line {refused[1]})"]


CONDITIONS = ("bool()", "use as an index")
"""What Python asks of a value in a condition, or of a bound of a range: rewriting the function may do without it."""


def value_is_gone(tensor: Tensor) -> TraceError:
    """The error for using a symbolic tensor after its trace."""
    node = tensor._node
    operands = [] if node is None else [f"tensor: {node.type}  = {node.op} at {node.where}"]
    hint = "return it from the traced function instead of storing it"
    return TraceError(layout("a tensor of a finished trace has no value", here(), operands, hint))


def needs_value(what: str, tensor: Tensor, hint: str) -> TraceError:
    """The error for asking a symbolic tensor for its value.

    `scalar` says that the tensor was a Python float; `condition` that control flow asked.
    """
    node = tensor._node
    operands = [] if node is None else [f"tensor: {node.type}  = {node.op} at {node.where}"]
    operands += _why_not_rewritten() if what in CONDITIONS else []
    trace = tensor._trace
    when = "while GRAPH_MODE is tracing"
    if trace is not None and trace.concrete:
        when = "that stands for many: inside vmap, or a custom derivative in forward mode"
        hint = "use tensor operations instead, or run in GRAPH_MODE, where branches and loops become parts of the graph"
    error = TraceError(layout(f"{what} needs the value of a tensor {when}", here(), operands, hint))
    error.scalar = tensor._weak or tensor._scalar  # type: ignore[attr-defined]
    error.condition = what in CONDITIONS  # type: ignore[attr-defined]
    return error
