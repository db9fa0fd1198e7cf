"""Branches and loops as calls: each becomes local functions handed to `graphopt.common.branching`, which decides at run
time whether a condition is Python's or a traced Tensor's.

A local function shares the variables of the function it stands in (`nonlocal`); the ones it may assign to are named to
the call, so that a Tensor's branch or loop knows what it has to carry.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence

from graphopt.common.syntax.jumps import LOOPS, PREFIX, SCOPES, Jumps, Refused, name

RUNTIME = f"{PREFIX}run"


def rewrite_function(function: ast.FunctionDef, outer: frozenset[str] = frozenset()) -> bool:
    """Rewrite a function definition in place; whether there was anything to rewrite.

    outer: variables of enclosing functions that were rewritten, which may be unset.
    Errors: Refused.
    """
    jumps = Jumps()
    function.body = jumps.function(function.body)
    arguments = {a.arg for a in ast.walk(function.args) if isinstance(a, ast.arg)}
    declared = _declared(function.body)
    own = {n for s in function.body for n in _stored(s)} | arguments | declared
    inside = (_assigned_in_constructs(function.body, jumps.plain) & own) | set(jumps.made)
    unset = frozenset(inside - arguments - declared)
    rewriter = _Constructs(jumps, own, unset | (outer - own), declared - _nonlocals(function.body))
    body = [made for statement in function.body for made in rewriter.statements(statement)]
    if rewriter.changed and unset:
        body = [*_preamble(body), *(_unset(n, function) for n in sorted(unset)), *_after_preamble(body)]
    function.body = body
    return rewriter.changed


class _Constructs(ast.NodeTransformer):
    """Rewrites the statements of one function scope.

    changed: whether anything was rewritten.
    """

    def __init__(self, jumps: Jumps, own: set[str], unset: frozenset[str], globals: set[str]):
        self.changed = False
        self._jumps = jumps
        self._own = own
        self._unset = unset
        self._globals = globals
        self._count = 0

    def statements(self, statement: ast.AST) -> list[ast.stmt]:
        made = self.visit(statement)
        return made if isinstance(made, list) else [made]

    # statements --------------------------------------------------------------------------------------------------

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        if node in self._jumps.plain:
            return self._left_alone(node)
        names = self._own & _assigned([*node.body, *node.orelse])
        test = self.visit(node.test)
        then = self._local("then", node.body, names, node)
        other = self._local("otherwise", node.orelse or [ast.copy_location(ast.Pass(), node)], names, node)
        call = self._call("branch", [test, *map(_load, (then, other)), *self._carried(names, node)], node)
        return [then, other, *self._setter(names, node), ast.copy_location(ast.Expr(call), node)]

    def visit_While(self, node: ast.While) -> ast.AST | list[ast.stmt]:
        if node in self._jumps.plain:
            return self._left_alone(node)
        names = self._own & (_assigned(node.body) | _walrus(node.test))
        test: ast.expr = node.test
        flag = self._jumps.flags.get(node)
        if flag is not None:
            going = ast.copy_location(ast.UnaryOp(ast.Not(), name(flag, node)), node)
            test = ast.copy_location(ast.BoolOp(ast.And(), [going, test]), node)
        check = self._local("test", [ast.copy_location(ast.Return(test), node.test)], names, node)
        body = self._local("body", node.body, names, node)
        call = self._call("loop", [*map(_load, (check, body)), *self._carried(names, node)], node)
        return [check, body, *self._setter(names, node), ast.copy_location(ast.Expr(call), node)]

    def visit_For(self, node: ast.For) -> ast.AST | list[ast.stmt]:
        if node in self._jumps.plain:
            node.iter = self.visit(node.iter)
            node.body = [made for s in node.body for made in self.statements(s)]
            node.orelse = [made for s in node.orelse for made in self.statements(s)]
            return node
        item = f"{PREFIX}item"
        take = ast.copy_location(ast.Assign([node.target], name(item, node)), node)
        names = self._own & _assigned([take, *node.body])
        items = self._items(node.iter)
        body = self._local("body", [take, *node.body], names, node, item)
        flag = self._jumps.flags.get(node)
        left = _lambda(name(flag, node) if flag else ast.Constant(False), node)
        call = self._call("each", [items, _load(body), left, *self._carried(names, node)], node)
        return [body, *self._setter(names, node), ast.copy_location(ast.Expr(call), node)]

    def _items(self, iterated: ast.expr) -> ast.expr:
        """What a `for` runs over: a `range` may have Tensors as bounds."""
        if isinstance(iterated, ast.Call) and isinstance(iterated.func, ast.Name) and iterated.func.id == "range":
            arguments = [self.visit(a) for a in iterated.args]
            return self._call("numbers", [iterated.func, *arguments], iterated)
        return self.visit(iterated)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.test = self._plain_test(self.visit(node.test), "an `assert` needs a value")
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.decorator_list = [self.visit(d) for d in node.decorator_list]
        _visit_defaults(self, node.args)
        self.changed |= rewrite_function(node, self._unset)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return node

    def _left_alone(self, node: ast.If | ast.While) -> ast.AST:
        """A branch or loop that stays Python's: its condition must be Python's too."""
        node.test = self._plain_test(self.visit(node.test), self._jumps.plain[node])
        node.body = [made for s in node.body for made in self.statements(s)]
        node.orelse = [made for s in node.orelse for made in self.statements(s)]
        return node

    def _plain_test(self, test: ast.expr, reason: str) -> ast.expr:
        return self._call("plain", [test, ast.copy_location(ast.Constant(reason), test)], test)

    # expressions -------------------------------------------------------------------------------------------------

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        which = "both" if isinstance(node.op, ast.And) else "either"
        for value in node.values[1:]:
            if _walrus(value):
                raise Refused("an assignment `:=` stands in the right side of `and` or `or`", node.lineno)
        parts = [self.visit(v) for v in node.values]
        return self._call(which, [parts[0], *(_lambda(p, node) for p in parts[1:])], node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        operand = self.visit(node.operand)
        if isinstance(node.op, ast.Not):
            return self._call("negated", [operand], node)
        node.operand = operand
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        if _walrus(node.body) or _walrus(node.orelse):
            raise Refused("an assignment `:=` stands in a conditional expression", node.lineno)
        test, body, orelse = self.visit(node.test), self.visit(node.body), self.visit(node.orelse)
        return self._call("either_value", [test, _lambda(body, node), _lambda(orelse, node)], node)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) == 1:
            return node
        operands = [node.left, *node.comparators]
        tests = []
        for k, op in enumerate(node.ops):
            names = [ast.copy_location(ast.arg(n), node) for n in (f"{PREFIX}a", f"{PREFIX}b")]
            test = ast.copy_location(ast.Compare(name(names[0].arg, node), [op], [name(names[1].arg, node)]), node)
            tests.append(_lambda(test, node, names))
            operands[k + 1] = _lambda(operands[k + 1], node)
        listed = ast.copy_location(ast.Tuple(operands[1:], ast.Load()), node)
        return self._call("chain", [operands[0], listed, ast.copy_location(ast.Tuple(tests, ast.Load()), node)], node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id == "super":
            return node
        self.generic_visit(node)
        node.func = self._call("callee", [node.func], node.func)
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if isinstance(node.ctx, ast.Load) and node.id in self._unset:
            return self._call("value", [node], node, counts=False)
        return node

    # pieces ------------------------------------------------------------------------------------------------------

    def _call(self, what: str, arguments: list[ast.expr], like: ast.AST, counts: bool = True) -> ast.Call:
        self.changed |= counts
        function = ast.copy_location(ast.Attribute(name(RUNTIME, like), what, ast.Load()), like)
        if (function.end_lineno or 0) > function.lineno:  # a call counts as standing where its function's name ends
            function.end_lineno, function.end_col_offset = function.lineno, function.col_offset
        return ast.copy_location(ast.Call(function, arguments, []), like)

    def _local(
        self, what: str, body: Sequence[ast.stmt], names: set[str], like: ast.AST, *parameters: str
    ) -> ast.FunctionDef:
        """A local function with these statements that assigns to the variables of the function around it."""
        self._count += 1
        statements = [made for statement in body for made in self.statements(statement)]
        shared = sorted(names - self._globals)
        heads: list[ast.stmt] = [ast.Nonlocal(shared)] if shared else []
        if names & self._globals:
            heads.append(ast.Global(sorted(names & self._globals)))
        return _function(f"{PREFIX}{what}_{self._count}", [*heads, *statements], like, *parameters)

    def _setter(self, names: set[str], like: ast.AST) -> list[ast.stmt]:
        """A local function that gives the variables new values."""
        if not names:
            return []
        value = f"{PREFIX}values"
        targets: list[ast.expr] = [name(n, like, True) for n in sorted(names)]
        self._count += 1
        take = ast.copy_location(ast.Assign([ast.Tuple(targets, ast.Store())], name(value, like)), like)
        heads: list[ast.stmt] = []
        if names - self._globals:
            heads.append(ast.Nonlocal(sorted(names - self._globals)))
        if names & self._globals:
            heads.append(ast.Global(sorted(names & self._globals)))
        return [_function(f"{PREFIX}set", [*heads, take], like, value)]

    def _carried(self, names: set[str], like: ast.AST) -> list[ast.expr]:
        """The last arguments of a construct's call: the names, how to read them, how to set them."""
        ordered = sorted(names)
        texts = ast.Tuple([ast.Constant(n) for n in ordered], ast.Load())
        if not ordered:
            return [texts, ast.Constant(None), ast.Constant(None)]
        values = ast.Tuple([name(n, like) for n in ordered], ast.Load())
        return [texts, _lambda(values, like), name(f"{PREFIX}set", like)]


def _function(identifier: str, body: list[ast.stmt], like: ast.AST, *parameters: str) -> ast.FunctionDef:
    arguments = ast.arguments([], [ast.arg(p) for p in parameters], None, [], [], None, [])
    made = ast.FunctionDef(identifier, arguments, body, [], None, None)
    return ast.copy_location(made, like)


def _lambda(value: ast.expr, like: ast.AST, parameters: Sequence[ast.arg] = ()) -> ast.expr:
    arguments = ast.arguments([], list(parameters), None, [], [], None, [])
    return ast.copy_location(ast.Lambda(arguments, value), like)


def _load(function: ast.FunctionDef) -> ast.expr:
    return name(function.name, function)


def _visit_defaults(visitor: ast.NodeTransformer, arguments: ast.arguments) -> None:
    arguments.defaults = [visitor.visit(d) for d in arguments.defaults]
    arguments.kw_defaults = [None if d is None else visitor.visit(d) for d in arguments.kw_defaults]


def _unset(identifier: str, like: ast.AST) -> ast.stmt:
    """`identifier = Unset("identifier")`: a variable before its first assignment."""
    function = ast.Attribute(ast.Name(RUNTIME, ast.Load()), "Unset", ast.Load())
    value = ast.Call(function, [ast.Constant(identifier)], [])
    return ast.copy_location(ast.Assign([ast.Name(identifier, ast.Store())], value), like)


def _preamble(body: Sequence[ast.stmt]) -> list[ast.stmt]:
    """The docstring and the `global` and `nonlocal` statements at the head of a function."""
    count = 0
    for statement in body:
        documents = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if not documents and not isinstance(statement, (ast.Global, ast.Nonlocal)):
            break
        count += 1
    return list(body[:count])


def _after_preamble(body: Sequence[ast.stmt]) -> list[ast.stmt]:
    return list(body[len(_preamble(body)) :])


# which variables statements assign to -------------------------------------------------------------------------------


def _assigned(statements: Iterable[ast.AST]) -> set[str]:
    """The variables that statements may assign to, or whose elements they may."""
    found: set[str] = set()
    for statement in statements:
        _collect(statement, found)
    return found


def _stored(statement: ast.AST) -> set[str]:
    """The variables a statement binds; not those it changes the elements of."""
    found: set[str] = set()
    _collect(statement, found, elements=False)
    return found


def _collect(node: ast.AST, found: set[str], elements: bool = True) -> None:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        found.add(node.name)
        return
    if isinstance(node, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
        found |= _walrus(node)
        return
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        found.add(node.id)
    elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
        if elements:
            found.add(node.value.id)
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        found |= {(a.asname or a.name).partition(".")[0] for a in node.names}
    elif isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name:
        found.add(node.name)
    elif isinstance(node, ast.MatchMapping) and node.rest:
        found.add(node.rest)
    for child in ast.iter_child_nodes(node):
        _collect(child, found, elements)


def _walrus(node: ast.AST) -> set[str]:
    """The variables that `:=` assigns to inside an expression."""
    return {n.target.id for n in ast.walk(node) if isinstance(n, ast.NamedExpr)}


def _declared(statements: Iterable[ast.AST]) -> set[str]:
    """The names that `global` and `nonlocal` of this scope take from elsewhere."""
    return {n for s in _scope(statements) if isinstance(s, (ast.Global, ast.Nonlocal)) for n in s.names}


def _nonlocals(statements: Iterable[ast.AST]) -> set[str]:
    return {n for s in _scope(statements) if isinstance(s, ast.Nonlocal) for n in s.names}


def _scope(statements: Iterable[ast.AST]) -> Iterable[ast.AST]:
    """All nodes of a scope, without those of functions and classes inside it."""
    for node in statements:
        yield node
        if not isinstance(node, SCOPES):
            yield from _scope(ast.iter_child_nodes(node))


def _assigned_in_constructs(statements: Iterable[ast.AST], plain: dict[ast.AST, str]) -> set[str]:
    """The variables assigned to inside branches and loops that will be rewritten."""
    found: set[str] = set()
    for node in _scope(statements):
        if isinstance(node, (ast.If, *LOOPS)) and node not in plain:
            found |= _assigned([node])
    return found
