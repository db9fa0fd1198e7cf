"""Graphs as text, and back: `print_graph(parse_graph(text)) == text`.

    graph step(%x: f32[64,784], %y: i32[64]) state(%w: f32[784,10]):
      %0: f32[64,10] = dot_general(%x, %w, batch=((), ()), contract=((1,), (0,)))  # net.py:31 in fc
      update %w <- %9
      return %1

A graph among a node's attrs stands in braces, with names of its own:

      %0: (f32[3], f32[10,3]) = loop(%h, body={
        graph body() state(%h: f32[3]):
          …
      }, length=10)

The text depends on nothing but the graph's content, so without comments it can name the graph in a cache. A constant of
more than INLINE_ELEMS elements stands as the hash of its bytes, `constant(#1a2b…)`; reading it back needs the array.
"""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Callable, Mapping
from hashlib import blake2b
from textwrap import indent
from types import MappingProxyType
from typing import Any

import numpy as np

from graphopt.errors import GraphError, VerifyError
from graphopt.ir.graph import NO_ATTRS, Graph, Node, input_node, state_node, subgraphs, walk
from graphopt.ir.types import DType, TensorType, dtype_of, tuple_of
from graphopt.where import Where

INLINE_ELEMS = 16
_HEADER_COLUMNS = 110
_WHERE_COLUMN = 54
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


def print_graph(graph: Graph, where: bool = True) -> str:
    """The graph's text; `where` adds each node's line in the user's program as a comment.

    Errors: VerifyError when two leaves share a name, a leaf is missing from the signature, or an attr is no plain data.
    Cost:   O(nodes + edges + bytes of large constants).
    """
    names = leaf_names(graph)
    lines = [_header(graph, names)]
    for node in walk(graph.roots):
        if node in names:
            continue
        if node.op in ("input", "state"):
            raise VerifyError(f"leaves: {node.op} {node.attrs['name']!r} is used but is not in the signature")
        name = names[node] = f"%{len(names) - len(graph.inputs) - len(graph.state)}"
        line = f"  {name}: {node.type} = {node.op}({_arguments(node, names, where)})"
        if where and node.where is not None:
            line = f"{line.ljust(_WHERE_COLUMN)}  # {node.where}"
        lines.append(line)
    for leaf, value in graph.updates:
        lines.append(f"  update {names[leaf]} <- {names[value]}")
    lines.append(f"  return {', '.join(names[n] for n in graph.outputs)}".rstrip())
    return "\n".join(lines) + "\n"


def node_names(graph: Graph) -> dict[Node, str]:
    """The name each node has in the graph's text."""
    names = leaf_names(graph)
    count = 0
    for node in walk(graph.roots):
        if node not in names:
            names[node] = f"%{count}"
            count += 1
    return names


def leaf_names(graph: Graph) -> dict[Node, str]:
    """The names of inputs and state in the graph's text.

    Errors: VerifyError when two share a name.
    """
    names = {leaf: f"%{_quoted(leaf.attrs['name'])}" for leaf in graph.inputs + graph.state}
    if len(set(names.values())) < len(graph.inputs) + len(graph.state):
        seen: set[str] = set()
        for leaf in graph.inputs + graph.state:
            if names[leaf] in seen:
                raise VerifyError(f"names: two leaves of graph {graph.name} are called {names[leaf]}")
            seen.add(names[leaf])
    return names


def large_constants(graph: Graph) -> dict[str, np.ndarray]:
    """The arrays that the graph's text names by hash: what `parse_graph` needs to read it back."""
    found: dict[str, np.ndarray] = {}
    for node in walk(graph.roots):
        if node.op == "constant" and node.type.size > INLINE_ELEMS:
            found[content_hash(node.attrs["value"])] = node.attrs["value"]
        for inner in subgraphs(node):
            found |= large_constants(inner)
    return found


def content_hash(array: np.ndarray) -> str:
    """Names an array by its bytes (its type stands beside it in the text)."""
    return blake2b(np.ascontiguousarray(array).data.cast("B") if array.size else b"", digest_size=16).hexdigest()


def _header(graph: Graph, names: Mapping[Node, str]) -> str:
    inputs = [f"{names[n]}: {n.type}" for n in graph.inputs]
    state = [f"{names[n]}: {n.type}" for n in graph.state]
    head = f"graph {_quoted(graph.name)}"
    line = f"{head}({', '.join(inputs)})" + (f" state({', '.join(state)})" if state else "") + ":"
    if len(line) <= _HEADER_COLUMNS:
        return line
    wrap = ",\n    ".join
    return f"{head}(\n    {wrap(inputs)})" + (f" state(\n    {wrap(state)})" if state else "") + ":"


def _quoted(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) else repr(name)


def _arguments(node: Node, names: Mapping[Node, str], where: bool) -> str:
    if node.op == "constant":
        return _constant_text(node.attrs["value"], node.type.dtype)
    parts = [names[i] for i in node.inputs]
    attrs = node.attrs
    if attrs:
        for key in sorted(attrs):
            value = attrs[key]
            text = _inner_text(value, where) if type(value) is Graph else _attr_text(value)
            parts.append(f"{key}={text}")
    return ", ".join(parts)


def _inner_text(graph: Graph, where: bool) -> str:
    return "{\n" + indent(print_graph(graph, where), "    ") + "  }"


def _attr_text(value: Any) -> str:
    text = _ATTR_TEXT.get(type(value))
    if text is None:
        raise VerifyError(f"attrs: {value!r} of type {type(value).__name__} is no plain data")
    return text(value)


def _tuple_text(value: tuple[Any, ...]) -> str:
    inner = ", ".join([repr(v) if type(v) is int else _attr_text(v) for v in value])
    return f"({inner},)" if len(value) == 1 else f"({inner})"


def _float_text(value: float) -> str:
    return _element_texts(np.asarray(value), dtype_of("f64"))[0] if value != value else repr(value)


_ATTR_TEXT: dict[type, Callable[[Any], str]] = {
    int: repr,
    bool: repr,
    str: repr,
    type(None): repr,
    float: _float_text,
    tuple: _tuple_text,
    DType: lambda d: d.short,
}
PLAIN_TYPES = frozenset(_ATTR_TEXT)


def _constant_text(array: np.ndarray, dtype: DType) -> str:
    if array.size > INLINE_ELEMS:
        return f"#{content_hash(array)}"
    texts = _element_texts(array, dtype)
    return texts[0] if array.ndim == 0 else f"[{', '.join(texts)}]"


def _element_texts(array: np.ndarray, dtype: DType) -> list[str]:
    """The shortest decimal for each element that reads back to the same bits; the bits where there is none."""
    flat = array.reshape(-1)
    if not dtype.is_float:
        return [repr(v) for v in flat.tolist()]
    wide = flat if dtype.bits > 16 else flat.astype(np.float32)
    texts = [str(v) for v in wide]
    back = np.array([float(t) for t in texts]).astype(dtype.numpy)
    if back.tobytes() != flat.tobytes():
        bits = f"u{dtype.itemsize}"
        for k in np.flatnonzero(back.view(bits) != flat.view(bits)):
            texts[k] = f"0x{int(flat.view(bits)[k]):x}"
    return texts


_TOKEN = re.compile(
    r"""\s*(?:
      (?P<comment> \#\ [^\n]* )
    | (?P<hash>    \#[0-9a-f]{32} )
    | (?P<node>    %(?: \d+ | [A-Za-z_][A-Za-z0-9_.]* | '(?:[^'\\\n]|\\.)*' | "(?:[^"\\\n]|\\.)*" ) )
    | (?P<string>  '(?:[^'\\\n]|\\.)*' | "(?:[^"\\\n]|\\.)*" )
    | (?P<number>  0x[0-9a-f]+ | -?(?: \d+(?:\.\d*)?(?:[eE][-+]?\d+)? | inf\b | nan\b ) )
    | (?P<word>    [A-Za-z_][A-Za-z0-9_.]* )
    | (?P<mark>    <- | [()\[\]{}:,=] )
    )""",
    re.VERBOSE,
)
_WHERE = re.compile(r"# (.*):(\d+)(?: in (.*))?")
_WORDS = {"True": True, "False": False, "None": None}


def parse_graph(text: str, constants: Mapping[str, np.ndarray] = MappingProxyType({})) -> Graph:
    """The graph of a text; `constants` maps the hashes of large constants to their arrays.

    Errors: GraphError with the number of the line that cannot be read.
    """
    return _Parser(text, constants).graph("end")


class _Parser:
    """Recursive descent over the tokens of one graph."""

    def __init__(self, text: str, constants: Mapping[str, np.ndarray]):
        self.text = text
        self.constants = constants
        self.nodes: dict[str, Node] = {}
        self.tokens: list[tuple[str, str, int]] = []
        self.k = 0
        at, end = 0, len(text.rstrip())
        while at < end:
            match = _TOKEN.match(text, at)
            if match is None:
                raise self.error(f"cannot read {text[at : at + 20].strip()!r}", at)
            kind = match.lastgroup or ""
            self.tokens.append((kind, match[kind], match.start(kind)))
            at = match.end()
        self.tokens.append(("end", "", end))

    def error(self, what: str, at: int | None = None) -> GraphError:
        offset = self.tokens[self.k][2] if at is None else at
        return GraphError(f"graph text, line {self.text.count(chr(10), 0, offset) + 1}: {what}")

    def peek(self, text: str) -> bool:
        return self.tokens[self.k][1] == text

    def take(self, kind: str, text: str | None = None) -> str:
        found_kind, found, _ = self.tokens[self.k]
        if found_kind != kind or (text is not None and found != text):
            raise self.error(f"expected {text or kind}, found {found or 'the end'!r}")
        self.k += 1
        return found

    def accept(self, text: str) -> bool:
        if self.peek(text):
            self.k += 1
            return True
        return False

    def graph(self, closing: str) -> Graph:
        """The graph up to a token of kind `closing`: the end, or the brace around an inner graph."""
        self.take("word", "graph")
        name = self.name()
        inputs = self.leaves(input_node)
        state = self.leaves(state_node) if self.accept("state") else ()
        self.take("mark", ":")
        while self.tokens[self.k][0] == "node":
            self.node()
        updates = []
        while self.accept("update"):
            leaf = self.operand()
            self.take("mark", "<-")
            updates.append((leaf, self.operand()))
        self.take("word", "return")
        outputs = []
        while self.tokens[self.k][0] == "node":
            outputs.append(self.operand())
            if not self.accept(","):
                break
        self.take(closing, "}" if closing == "mark" else None)
        return Graph(name, inputs, state, tuple(outputs), tuple(updates))

    def name(self) -> str:
        kind, found, _ = self.tokens[self.k]
        self.k += 1
        return literal_eval(found) if kind == "string" else found

    def leaves(self, make: Callable[[str, TensorType], Node]) -> tuple[Node, ...]:
        made = []
        self.take("mark", "(")
        while not self.accept(")"):
            key = self.take("node")
            self.take("mark", ":")
            bare = key[1:]
            leaf = make(literal_eval(bare) if bare[0] in "'\"" else bare, self.type())
            self.define(key, leaf)
            made.append(leaf)
            if not self.peek(")"):
                self.take("mark", ",")
        return tuple(made)

    def define(self, key: str, node: Node) -> None:
        if key in self.nodes:
            raise self.error(f"{key} is defined twice")
        self.nodes[key] = node

    def operand(self) -> Node:
        key = self.take("node")
        if key not in self.nodes:
            self.k -= 1
            raise self.error(f"{key} is used before it is defined")
        return self.nodes[key]

    def inner(self) -> Graph:
        outer, self.nodes = self.nodes, {}
        graph = self.graph("mark")
        self.nodes = outer
        return graph

    def type(self) -> TensorType:
        if self.accept("("):
            parts = []
            while not self.accept(")"):
                parts.append(self.type())
                if not self.peek(")"):
                    self.take("mark", ",")
            return tuple_of(parts)
        word = self.take("word")
        shape = []
        self.take("mark", "[")
        while not self.accept("]"):
            shape.append(int(self.take("number")))
            if not self.peek("]"):
                self.take("mark", ",")
        try:
            return TensorType(dtype_of(word), tuple(shape))
        except TypeError as error:
            raise self.error(str(error)) from None

    def node(self) -> None:
        key = self.take("node")
        self.take("mark", ":")
        type = self.type()
        self.take("mark", "=")
        op = self.take("word")
        self.take("mark", "(")
        inputs: list[Node] = []
        attrs: Mapping[str, Any] = NO_ATTRS
        if op == "constant":
            attrs = MappingProxyType({"value": self.array(type)})
        else:
            read: dict[str, Any] = {}
            while not self.peek(")"):
                if self.tokens[self.k][0] == "node":
                    inputs.append(self.operand())
                else:
                    word = self.take("word")
                    self.take("mark", "=")
                    read[word] = self.inner() if self.accept("{") else self.value()
                if not self.peek(")"):
                    self.take("mark", ",")
            attrs = MappingProxyType(read) if read else NO_ATTRS
        self.take("mark", ")")
        self.define(key, Node(op, tuple(inputs), attrs, type, self.where()))

    def where(self) -> Where | None:
        if self.tokens[self.k][0] != "comment":
            return None
        match = _WHERE.fullmatch(self.take("comment"))
        return Where(match[1], int(match[2]), match[3] or "") if match else None

    def value(self) -> Any:
        kind, found, _ = self.tokens[self.k]
        self.k += 1
        if kind == "string":
            return literal_eval(found)
        if kind == "number":
            return _number(found, dtype_of("f64"))
        if kind == "word" and found in _WORDS:
            return _WORDS[found]
        if kind == "word":
            try:
                return dtype_of(found)
            except TypeError:
                pass
        if found != "(":
            self.k -= 1
            raise self.error(f"expected a value, found {found!r}")
        parts = []
        while not self.accept(")"):
            parts.append(self.value())
            if not self.peek(")"):
                self.take("mark", ",")
        return tuple(parts)

    def array(self, type: TensorType) -> np.ndarray:
        kind, found, _ = self.tokens[self.k]
        if kind == "hash":
            if found[1:] not in self.constants:
                raise self.error(f"the array of constant {found} is not given")
            self.k += 1
            array = np.asarray(self.constants[found[1:]], type.dtype.numpy)
        else:
            closing = self.accept("[")
            values = []
            while not self.peek("]" if closing else ")"):
                values.append(self.element(type.dtype))
                if not self.peek("]" if closing else ")"):
                    self.take("mark", ",")
            if closing:
                self.take("mark", "]")
            array = np.array(values, type.dtype.numpy)
        if array.size != type.size:
            raise self.error(f"a constant of type {type} has {type.size} elements, found {array.size}")
        array = array.reshape(type.shape)
        array.flags.writeable = False
        return array

    def element(self, dtype: DType) -> Any:
        kind, found, _ = self.tokens[self.k]
        if kind == "word" and found in ("True", "False"):
            self.k += 1
            return found == "True"
        found = self.take("number")
        if found.startswith("0x"):
            return np.array(int(found, 16), f"u{dtype.itemsize}").view(dtype.numpy)[()]
        return float(found) if dtype.is_float else int(found)


def _number(text: str, dtype: DType) -> Any:
    """A Python number of its text; `0x…` are the bits of a float that has no decimal of its own."""
    if text.startswith("0x"):
        return float(np.array(int(text, 16), "u8").view("f8"))
    return float(text) if any(c in text for c in ".enaif") else int(text)
