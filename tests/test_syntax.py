"""Rewriting a function's branches and loops: on Python's values the twin does what the original does."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.common.branching import rewritten
from graphopt.common.syntax import refusal

COUNTER = 3


def early_returns(x: Any) -> Any:
    if x > 0:
        if x > 10:
            return "big"
        y = 1
    elif x == 0:
        return "zero"
    else:
        y = -1
    return y * x


def for_else(n: int) -> int:
    total = 0
    for i in range(n):
        if i % 2:
            continue
        if i > 10:
            break
        total += i
    else:
        total = -total
    return total


def nested_loops(n: int, m: int) -> Any:
    for i in range(n):
        j = 0
        while True:
            j += 1
            if j > m:
                break
            if i * j == 12:
                return i, j
            if j == 3:
                continue
        else:
            return "never"
        if i == 7:
            return "seven"
    return None


def while_with_try(n: int) -> list[Any]:
    found: list[Any] = []
    k = 0
    while k < n and not (k == 5 or k > 8):
        k += 1
        try:
            if k == 3:
                raise ValueError("x")
            found.append(k)
        except ValueError as error:
            found.append(str(error))
        finally:
            found.append("f")
    return found


def left_by_finally(n: int) -> int:
    for i in range(n):
        try:
            if i == 4:
                return i
            if i == 2:
                continue
        finally:
            n += 1
    return -1


def closures(a: int, *, b: int = 3, c: list[int] | None = None) -> Any:
    """Keeps its defaults and its inner functions' variables."""
    c = [1] if c is None else c
    d = [q for q in range(b) if q != 1]

    def inner(z: int, w: int = 2) -> Any:
        nonlocal a
        if z:
            a += 1
            return w
        return None

    inner(1)
    inner(0)
    if 0 < a < 10:
        c[0] = a
    if b:
        e = 3
    choose = lambda t: t if t else -1  # noqa: E731
    return a, c, d, choose(0), choose(5), (e if b else None), a and b, a or b


def maybe_unbound(n: int) -> int:
    if n:
        q = 1
    return q


def left_with(n: int) -> Any:
    while n:
        if n == 3:
            with open("/dev/null") as file:
                return file.name
        n -= 1
    return n


def unpacking(n: int) -> Any:
    for a, (b, c) in zip(range(n), [(1, 2), (3, 4), (5, 6)], strict=False):  # noqa: B007
        if a == 1:
            break
    return a, b, c


def loop_else(n: int) -> Any:
    out = []
    for k in range(n):
        if k == 2:
            for j in range(3):
                if j == k:
                    break
                if j == 5:
                    return "no"
                out.append((k, j))
            else:
                return out
            if n > 4:
                return "early", out
        if k == 3:
            break
    else:
        return "full", out
    return out


def globals_and_imports(n: int) -> Any:
    global COUNTER
    if n:
        COUNTER += n
    import math as m

    if n > 2:
        import os.path

        return os.path.sep + str(m.floor(2.5))
    return COUNTER


def steps(n: int) -> Iterator[int]:
    for i in range(n):
        if i == 2:
            return
        yield i


def calls_a_generator(n: int) -> list[int]:
    return list(steps(n)) if n else [v + 1 for v in steps(5)]


def walrus(n: int) -> Any:
    found = []
    while (k := n - 1) > 0:
        n = k
        if (m := k * 2) > 6:
            found.append(m)
    return found, n, k


def match_statement(n: Any) -> Any:
    if n:
        match n:
            case [a, b]:
                r = a + b
            case {"k": v, **rest}:
                r = v, rest
            case _:
                r = "other"
    else:
        r = None
    return r


class Base:
    def greet(self) -> str:
        return "base"


class Owner(Base):
    def __secret(self, v: int) -> int:
        return v + 1

    def greet(self) -> str:
        if self.v:
            self.__kept = self.v
            return super().greet() + str(self.__secret(self.__kept))
        return super().greet()

    def __init__(self, v: int):
        self.v = v


CASES: list[tuple[Callable[..., Any], list[tuple[Any, ...]]]] = [
    (early_returns, [(20,), (5,), (0,), (-3,)]),
    (for_else, [(0,), (5,), (30,)]),
    (nested_loops, [(0, 0), (3, 3), (5, 4), (9, 1), (7, 0), (13, 1)]),
    (while_with_try, [(0,), (4,), (20,)]),
    (left_by_finally, [(0,), (3,), (20,)]),
    (closures, [(1,), (0,), (50,)]),
    (maybe_unbound, [(1,), (0,)]),
    (left_with, [(1,), (5,)]),
    (unpacking, [(1,), (3,), (0,)]),
    (loop_else, [(1,), (3,), (5,), (4,), (0,)]),
    (globals_and_imports, [(0,), (1,), (5,)]),
    (calls_a_generator, [(0,), (4,)]),
    (walrus, [(0,), (3,), (9,)]),
    (match_statement, [(0,), ([1, 2],), ({"k": 1, "l": 2},), (5,)]),
    (Owner(0).greet, [()]),
    (Owner(4).greet, [()]),
    (functools.partial(closures, b=0), [(1,), (0,)]),
]


def outcome(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    global COUNTER
    COUNTER = 3
    try:
        return function(*arguments), COUNTER
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("function, arguments", CASES, ids=lambda v: getattr(v, "__name__", ""))
def test_a_twin_does_what_the_function_does(function: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> None:
    twin = rewritten(function)
    assert twin is not function
    for values in arguments:
        assert outcome(twin, values) == outcome(function, values)


def test_lambdas_are_told_apart() -> None:
    first, second = (lambda x: x if x else 3), (lambda x: x or 4)
    assert (rewritten(first)(0), rewritten(second)(0)) == (3, 4)
    assert rewritten(first) is not first and rewritten(second) is not second


def countdown(n: int) -> list[int]:
    return [n, *countdown(n - 1)] if n > 0 else []


class Namesake:
    def countdown(self, n: int) -> list[int]:
        return countdown(n) if n > 1 else []


def test_a_global_of_the_functions_own_name() -> None:
    """A function that calls itself, a method that calls a function of its name."""
    for function in (countdown, Namesake().countdown):
        twin = rewritten(function)
        assert twin is not function
        assert twin(3) == [3, 2, 1] and twin.__name__ == twin.__code__.co_name == "countdown"


def test_what_is_not_rewritten() -> None:
    """Library functions, builtins, twins; a function without source says why."""
    twin = rewritten(early_returns)
    for function in (sorted, functools.lru_cache, pytest.approx.__init__, twin):
        assert rewritten(function) is function
    names: dict[str, Any] = {"__name__": "elsewhere"}
    exec("def f(x):\n    if x: return 1\n    return 2", names)
    assert rewritten(names["f"]) is names["f"]
    assert refusal(names["f"].__code__) == ("its source is not available", 1)
    assert refusal(early_returns.__code__) is None


def raises(n: int) -> None:
    if n:
        for k in range(3):
            if k == 1:
                raise KeyError(k)


def test_tracebacks_show_the_users_lines() -> None:
    with pytest.raises(KeyError) as caught:
        rewritten(raises)(1)
    mine = [f for f in traceback.extract_tb(caught.tb) if f.filename == __file__ and f.name == "raises"]
    first = raises.__code__.co_firstlineno
    assert [f.lineno - first for f in mine if f.lineno is not None] == [1, 2, 3, 4]


# generated programs

TESTS = ("a > b", "a % 3 == 0", "not b", "a < b < 7", "a and b > 1", "a % 2 or b % 2", "c is None")
SIMPLE = ("a += 1", "b = b * 2 % 11", "a, b = b, a", "c = a", "log.append((a, b))", "a = b if a % 2 else a - b")


@st.composite
def block(draw: Any, depth: int, inside_loop: bool) -> list[str]:
    lines: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        kinds = ["simple", "simple", "if", "for", "while", "exit"] if depth else ["simple", "exit"]
        kind = draw(st.sampled_from(kinds))
        indented = [f"    {line}" for line in draw(block(depth - 1, inside_loop or kind in ("for", "while")))] if depth else []
        if kind == "if":
            lines += [f"if {draw(st.sampled_from(TESTS))}:", *indented]
            if draw(st.booleans()):
                lines += ["else:", *(f"    {line}" for line in draw(block(depth - 1, inside_loop)))]
        elif kind == "for":
            lines += [f"for k in range({draw(st.integers(0, 4))}):", *indented]
            if draw(st.booleans()):
                lines += ["else:", "    log.append('else')"]
        elif kind == "while":
            n = f"n{depth}"
            lines += [f"{n} = 0", f"while {n} < 4 and ({draw(st.sampled_from(TESTS))}):", f"    {n} += 1", *indented]
        elif kind == "exit":
            exits = ["return a, b, c, log", *(["break", "continue"] if inside_loop else [])]
            lines += [f"if {draw(st.sampled_from(TESTS))}:", f"    {draw(st.sampled_from(exits))}"]
        else:
            lines.append(draw(st.sampled_from(SIMPLE)))
    return lines


@settings(max_examples=150, deadline=None)
@given(block(3, False), st.integers(0, 9), st.integers(0, 9))
def test_generated_programs(lines: list[str], a: int, b: int) -> None:
    body = "\n".join(f"    {line}" for line in ["c = None", "log = []", *lines, "return a, b, c, log"])
    source = f"def program(a, b):\n{body}\n"
    names: dict[str, Any] = {"__name__": "generated", "__loader__": _Source(source)}
    exec(compile(source, f"program_{hash(source)}.py", "exec"), names)
    program = names["program"]
    twin = rewritten(program)
    assert refusal(program.__code__) is None
    assert outcome(twin, (a, b)) == outcome(program, (a, b))


class _Source:
    """A loader that knows the source of one module, as linecache asks for it."""

    def __init__(self, text: str):
        self._text = text

    def get_source(self, name: str) -> str:
        return self._text
