"""Early exits: `return`, `break` and `continue` inside branches and loops, said with branches and flags alone.

What follows a branch that may be left goes into the branch, so that afterwards every exit is the last thing its block
does. It then becomes an assignment: of the result, or of a flag that ends the loop.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Sequence

EXITS = (ast.Return, ast.Break, ast.Continue)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
LOOPS = (ast.While, ast.For)
_WHOLE = (ast.Try, ast.TryStar, ast.With, ast.Match, ast.AsyncFor, ast.AsyncWith)
_MOST_COPIES = 20_000

PREFIX = "graphopt_"


class Refused(Exception):
    """What cannot be rewritten, and why; `line` is the user's."""

    def __init__(self, reason: str, line: int):
        super().__init__(reason)
        self.line = line


def may_be_left(node: ast.AST, inside_loop: bool = False) -> bool:
    """Whether an exit inside `node` leads out of it."""
    if isinstance(node, ast.Return):
        return True
    if isinstance(node, (ast.Break, ast.Continue)):
        return not inside_loop
    if isinstance(node, SCOPES):
        return False
    if isinstance(node, LOOPS):
        return any(may_be_left(s, True) for s in node.body) or any(may_be_left(s, inside_loop) for s in node.orelse)
    return any(may_be_left(child, inside_loop) for child in ast.iter_child_nodes(node))


def name(identifier: str, like: ast.AST, stored: bool = False) -> ast.Name:
    """A variable, at the place of `like`."""
    return ast.copy_location(ast.Name(identifier, ast.Store() if stored else ast.Load()), like)


def assign(identifier: str, value: ast.expr, like: ast.AST) -> ast.stmt:
    """`identifier = value`, at the place of `like`."""
    return ast.copy_location(ast.Assign([name(identifier, like, True)], value), like)


def _constant(value: object, like: ast.AST) -> ast.expr:
    return ast.copy_location(ast.Constant(value), like)  # type: ignore[arg-type]


class Jumps:
    """Rewrites the exits of one function.

    plain: statements that stay Python's, and why; their conditions cannot be traced Tensors.
    flags: loop -> the variable that is true once the loop was left.
    made:  variables that were introduced; they need a value before the function's first line.
    """

    def __init__(self) -> None:
        self.plain: dict[ast.AST, str] = {}
        self.flags: dict[ast.AST, str] = {}
        self.made: list[str] = []
        self._copied = 0

    def function(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        """The function's statements with at most one `return`, their last, outside of what stays Python's."""
        for statement in body:
            self._mark(statement)
        arranged = self._arranged(self._block(body))
        if not arranged or not self._moved(arranged[-1]):
            return arranged
        last, result = arranged[-1], self._new("result")

        def by(leave: ast.stmt) -> list[ast.stmt]:
            value = leave.value if isinstance(leave, ast.Return) and leave.value else _constant(None, leave)
            return [assign(result, value, leave)]

        replaced = self._replaced(arranged, by, [assign(result, _constant(None, last), last)])
        return [*replaced, ast.copy_location(ast.Return(name(result, last)), last)]

    def _new(self, what: str) -> str:
        self.made.append(f"{PREFIX}{what}_{len(self.made)}")
        return self.made[-1]

    # what stays Python's -----------------------------------------------------------------------------------------

    def _mark(self, node: ast.AST) -> bool:
        """Mark what cannot be rewritten, inside out: it, and the branches and loops around it. Says whether it was."""
        if isinstance(node, SCOPES):
            return False
        inner = [self._mark(child) for child in ast.iter_child_nodes(node)]
        reason = ""
        if isinstance(node, _WHOLE) and may_be_left(node):
            reason = f"a `{_keyword(node)}` inside is left by return, break or continue"
        elif isinstance(node, ast.Delete) and any(isinstance(t, ast.Name) for t in node.targets):
            reason = "a variable is deleted inside"
        elif isinstance(node, (ast.Yield, ast.YieldFrom, ast.Await)):
            reason = f"`{_keyword(node)}` stands inside"
        elif any(inner):
            reason = next(self.plain[c] for c in ast.iter_child_nodes(node) if c in self.plain)
        if reason:
            self.plain[node] = reason
            for child in ast.iter_child_nodes(node):
                self._keep(child, reason)
        return bool(reason)

    def _keep(self, node: ast.AST, reason: str) -> None:
        """Mark the branches that may be left within `node`."""
        if isinstance(node, SCOPES) or not may_be_left(node):
            return
        self.plain.setdefault(node, reason)
        for child in ast.iter_child_nodes(node):
            self._keep(child, reason)

    # loops, inside out --------------------------------------------------------------------------------------------

    def _block(self, statements: Sequence[ast.stmt]) -> list[ast.stmt]:
        return [made for statement in statements for made in self._statement(statement)]

    def _statement(self, statement: ast.stmt) -> list[ast.stmt]:
        if isinstance(statement, SCOPES):
            return [statement]
        for part in ("body", "orelse", "finalbody"):
            if getattr(statement, part, None):
                setattr(statement, part, self._block(getattr(statement, part)))
        for handler in getattr(statement, "handlers", ()):
            handler.body = self._block(handler.body)
        for case in getattr(statement, "cases", ()):
            case.body = self._block(case.body)
        if isinstance(statement, (ast.While, ast.For)) and statement not in self.plain:
            return self._loop(statement)
        return [statement]

    def _loop(self, loop: ast.While | ast.For) -> list[ast.stmt]:
        exits = [e for s in loop.body for e in _exits(s)]
        if not any(isinstance(e, (ast.Return, ast.Break)) for e in exits):
            loop.body = self._replaced(self._arranged(loop.body), lambda leave: [ast.copy_location(ast.Pass(), leave)], [])
            return [loop, *self._after(loop, None)]
        left = self._new("left")
        returns = any(isinstance(e, ast.Return) for e in exits)
        returned, result = (self._new("returned"), self._new("result")) if returns else ("", "")

        def by(leave: ast.stmt) -> list[ast.stmt]:
            if isinstance(leave, ast.Continue):
                return [ast.copy_location(ast.Pass(), leave)]
            done = [assign(left, _constant(True, leave), leave)]
            if isinstance(leave, ast.Return):
                value = leave.value or _constant(None, leave)
                return [assign(result, value, leave), assign(returned, _constant(True, leave), leave), *done]
            return done

        loop.body = self._replaced(self._arranged(loop.body), by, [])
        self.flags[loop] = left
        before = [assign(flag, _constant(False, loop), loop) for flag in (left, returned) if flag]
        after = self._after(loop, left)
        if returns:
            leave = ast.copy_location(ast.Return(name(result, loop)), loop)
            after.append(ast.copy_location(ast.If(name(returned, loop), [leave], []), loop))
        return [*before, loop, *after]

    def _after(self, loop: ast.While | ast.For, left: str | None) -> list[ast.stmt]:
        """The loop's `else`, taken out of it."""
        orelse, loop.orelse = loop.orelse, []
        if not orelse or left is None:
            return orelse
        whole = ast.copy_location(ast.UnaryOp(ast.Not(), name(left, loop)), loop)
        return [ast.copy_location(ast.If(whole, orelse, []), loop)]

    # branches ----------------------------------------------------------------------------------------------------

    def _arranged(self, statements: Sequence[ast.stmt]) -> list[ast.stmt]:
        """The same statements with what follows a branch that may be left moved into it."""
        done: list[ast.stmt] = []
        for k, statement in enumerate(statements):
            if isinstance(statement, EXITS):
                return [*done, statement]
            if isinstance(statement, ast.If) and statement not in self.plain and may_be_left(statement):
                rest = list(statements[k + 1 :])
                reason = next((self.plain[s] for s in rest if s in self.plain and may_be_left(s)), "")
                if reason:
                    self._keep(statement, reason)
                    done.append(statement)
                    continue
                follows = [] if isinstance(statement.body[-1], EXITS) else self._copies(rest)
                statement.body = self._arranged([*statement.body, *follows])
                statement.orelse = self._arranged([*statement.orelse, *rest])
                return [*done, statement]
            done.append(statement)
        return done

    def _copies(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        self._copied += sum(1 for s in statements for _ in ast.walk(s))
        if self._copied > _MOST_COPIES:
            raise Refused("too many branches that return, break or continue follow each other", statements[0].lineno)
        fresh = copy.deepcopy(statements)
        for old, new in zip(statements, fresh, strict=True):
            for a, b in zip(ast.walk(old), ast.walk(new), strict=True):
                if a in self.plain:
                    self.plain[b] = self.plain[a]
                if a in self.flags:
                    self.flags[b] = self.flags[a]
        return fresh

    def _moved(self, statement: ast.stmt) -> bool:
        return isinstance(statement, ast.If) and statement not in self.plain and may_be_left(statement)

    def _replaced(
        self, statements: list[ast.stmt], by: Callable[[ast.stmt], list[ast.stmt]], fall: list[ast.stmt]
    ) -> list[ast.stmt]:
        """An arranged block with its exits replaced, and `fall` wherever its end is reached without one."""
        last = statements[-1] if statements else None
        if isinstance(last, EXITS):
            return [*statements[:-1], *by(last)]
        if last is not None and self._moved(last):
            assert isinstance(last, ast.If)
            last.body = self._replaced(last.body, by, fall) or [_nothing(last)]
            last.orelse = self._replaced(last.orelse, by, fall)
            return statements
        return [*statements, *copy.deepcopy(fall)]


def _nothing(like: ast.AST) -> ast.stmt:
    return ast.copy_location(ast.Pass(), like)


def _exits(node: ast.AST, inside_loop: bool = False) -> list[ast.stmt]:
    """The exits inside `node` that leave it."""
    if isinstance(node, ast.Return):
        return [node]
    if isinstance(node, (ast.Break, ast.Continue)):
        return [] if inside_loop else [node]
    if isinstance(node, SCOPES):
        return []
    inside_loop = inside_loop or isinstance(node, LOOPS)
    return [e for child in ast.iter_child_nodes(node) for e in _exits(child, inside_loop)]


def _keyword(node: ast.AST) -> str:
    words = {ast.TryStar: "try", ast.YieldFrom: "yield", ast.AsyncFor: "async for", ast.AsyncWith: "async with"}
    return words.get(type(node), type(node).__name__.lower())
