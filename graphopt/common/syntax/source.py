"""From a function to its rewritten twin: find the source, rewrite the tree, build a function on the same variables.

The twin is compiled under the user's file name and line numbers, so that errors and tracebacks show the user's own
lines.
"""

from __future__ import annotations

import ast
import functools
import linecache
import sysconfig
import types
from collections.abc import Sequence
from typing import Any

from graphopt.common.syntax.constructs import RUNTIME, rewrite_function
from graphopt.common.syntax.jumps import PREFIX, Refused
from graphopt.where import is_our_module

_STANDARD = sysconfig.get_path("stdlib")
_codes: dict[types.CodeType, types.CodeType | None] = {}
_reasons: dict[types.CodeType, tuple[str, int]] = {}


def twin(function: Any, run: Any) -> Any:
    """A function, method or partial whose branches and loops are calls of `run`'s functions; what has none, or is not
    the user's, comes back as it is.
    """
    if isinstance(function, types.MethodType):
        made = twin(function.__func__, run)
        return function if made is function.__func__ else types.MethodType(made, function.__self__)
    if isinstance(function, functools.partial):
        made = twin(function.func, run)
        return function if made is function.func else functools.partial(made, *function.args, **function.keywords)
    if not isinstance(function, types.FunctionType) or not _users(function):
        return function
    code = function.__code__
    if code not in _codes:
        try:
            _codes[code] = _rewritten(function)
        except Refused as refused:
            _codes[code] = None
            _reasons[code] = (str(refused), refused.line)
    fresh = _codes[code]
    return function if fresh is None else _rebuilt(function, fresh, run)


def refusal(code: types.CodeType) -> tuple[str, int] | None:
    """Why a function could not be rewritten, and the line; None when it was, or was never asked for."""
    return _reasons.get(code)


def _users(function: types.FunctionType) -> bool:
    """Whether a function is the user's and not rewritten yet."""
    code = function.__code__
    standard = code.co_filename.startswith((_STANDARD, "<frozen")) and "site-packages" not in code.co_filename
    return not (standard or is_our_module(function.__globals__) or RUNTIME in code.co_freevars)


def _rewritten(function: types.FunctionType) -> types.CodeType | None:
    """The rewritten code; None when there is nothing to rewrite.

    Errors: Refused.
    """
    code = function.__code__
    definition = _definition(function)
    _Names(_class_of(function)).visit(definition)
    if not rewrite_function(definition):
        return None
    definition.decorator_list = []
    definition.returns = None
    definition.name = f"{PREFIX}function"  # its own name may be that of something global that it calls, itself perhaps
    free = sorted({*code.co_freevars, RUNTIME})
    around = ast.FunctionDef(f"{PREFIX}around", _arguments(free), [definition], [], None, None)
    module = ast.fix_missing_locations(ast.Module([ast.copy_location(around, definition)], []))
    outer = _inner(compile(module, code.co_filename, "exec", dont_inherit=True), around.name)
    return _named(_inner(outer, definition.name), code)


def _definition(function: types.FunctionType) -> ast.FunctionDef:
    """The syntax of a function, a lambda as a function that returns its value.

    Errors: Refused when there is no source, when it is asynchronous, or when several lambdas share the line.
    """
    code = function.__code__
    tree = _module(code.co_filename, "".join(linecache.getlines(code.co_filename, function.__globals__)))
    if tree is None:
        raise Refused("its source is not available", code.co_firstlineno)
    found = [n for n in ast.walk(tree) if _stands_for(n, code)]
    if len(found) > 1:
        places = [(line, column) for line, _, column, end in code.co_positions() if line and column is not None and end]
        found = [n for n in found if all(_covers(n, *place) for place in places)][-1:] if places else []
    if not found:
        raise Refused("its source has changed since it was imported", code.co_firstlineno)
    node = _copy(found[0])
    _forget_defaults(node.args)
    if isinstance(node, ast.Lambda):
        result = ast.copy_location(ast.Return(node.body), node.body)
        return ast.copy_location(ast.FunctionDef("", node.args, [result], [], None, None), node)
    if not isinstance(node, ast.FunctionDef):
        raise Refused("it is asynchronous", node.lineno)
    return node


@functools.lru_cache(maxsize=64)
def _module(file: str, text: str) -> ast.Module | None:
    if not text:
        return None
    try:
        return ast.parse(text, file)
    except SyntaxError:
        return None


def _stands_for(node: ast.AST, code: types.CodeType) -> bool:
    if isinstance(node, ast.Lambda):
        return code.co_name == "<lambda>" and node.lineno == code.co_firstlineno
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        return node.name == code.co_name and first == code.co_firstlineno
    return False


def _covers(node: ast.AST, line: int, column: int) -> bool:
    body = node.body if isinstance(node, ast.Lambda) else node
    assert isinstance(body, (ast.expr, ast.stmt)) and body.end_lineno is not None and body.end_col_offset is not None
    return (body.lineno, body.col_offset) <= (line, column) < (body.end_lineno, body.end_col_offset)


def _copy(node: Any) -> Any:
    """A copy of a subtree: rewriting changes it in place, and the tree is kept."""
    if isinstance(node, list):
        return [_copy(n) for n in node]
    if not isinstance(node, ast.AST):
        return node
    made = type(node)(**{f: _copy(getattr(node, f)) for f in node._fields if hasattr(node, f)})
    return ast.copy_location(made, node)


def _forget_defaults(arguments: ast.arguments) -> None:
    """Defaults come from the function itself, and annotations are not evaluated again."""
    arguments.defaults = [ast.copy_location(ast.Constant(None), d) for d in arguments.defaults]
    arguments.kw_defaults = [None if d is None else ast.copy_location(ast.Constant(None), d) for d in arguments.kw_defaults]
    for argument in ast.walk(arguments):
        if isinstance(argument, ast.arg):
            argument.annotation = None


class _Names(ast.NodeTransformer):
    """What a function's text means inside its class only: private names, and `super()` without arguments."""

    def __init__(self, owner: str):
        self._owner = owner.lstrip("_")
        self._first = ""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        before = self._first
        arguments = [*node.args.posonlyargs, *node.args.args]
        self._first = arguments[0].arg if arguments else ""
        node.name = self._private(node.name)
        self.generic_visit(node)
        self._first = before
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._private(node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg = self._private(node.arg)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        node.attr = self._private(node.attr)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args and self._first:
            node.args = [ast.copy_location(ast.Name(n, ast.Load()), node) for n in ("__class__", self._first)]
        return node

    def _private(self, identifier: str) -> str:
        if self._owner and identifier.startswith("__") and not identifier.endswith("__") and "." not in identifier:
            return f"_{self._owner}{identifier}"
        return identifier


def _class_of(function: types.FunctionType) -> str:
    parts = function.__qualname__.split(".")
    return parts[-2] if len(parts) > 1 and parts[-2] != "<locals>" else ""


def _arguments(names: Sequence[str]) -> ast.arguments:
    return ast.arguments([], [ast.arg(n) for n in names], None, [], [], None, [])


def _inner(code: types.CodeType, name: str) -> types.CodeType:
    return next(c for c in code.co_consts if isinstance(c, types.CodeType) and c.co_name == name)


def _named(code: types.CodeType, like: types.CodeType) -> types.CodeType:
    """The code with the user's name on it and on the local functions inside, as tracebacks show it."""
    consts = tuple(
        _named(c, like) if isinstance(c, types.CodeType) and c.co_name.startswith((PREFIX, "<lambda>")) else c
        for c in code.co_consts
    )
    return code.replace(co_consts=consts, co_name=like.co_name, co_qualname=like.co_qualname)


def _rebuilt(function: types.FunctionType, code: types.CodeType, run: Any) -> types.FunctionType:
    """A function with this code on the variables, defaults and attributes of another."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    cells[RUNTIME] = types.CellType(run)
    closure = tuple(cells[n] for n in code.co_freevars)
    made = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
    made.__kwdefaults__ = function.__kwdefaults__
    made.__qualname__ = function.__qualname__
    made.__dict__.update(function.__dict__)
    return made
