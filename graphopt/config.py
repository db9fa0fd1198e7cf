"""The switches of graphopt: one frozen dataclass, read from `GRAPHOPT_…` once, replaced by `override` in tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class Config:
    """All switches; the README's table explains them.

    debug:   0 silent, 1 a line per compile, 2 the kernels of each compile, 3 the table of passes, 4 graphs, 5 loops, 6 LLVM IR
    dump:    folder that receives every stage as a text file; empty for none
    verify:  0 off, 1 check the graph after each pass, 2 also run each pass's output in numpy and compare
    backend: who runs compiled graphs: "llvm", "loops" (the loop interpreter) or "numpy" (the ops' own meaning)
    skip:    names of passes to leave out
    limit:   stop after that many rewrites; -1 for no limit
    threads: width of the team; 0 lets affinity, cgroup and OMP_NUM_THREADS decide
    cache:   folder of the disk cache; empty for the user's cache folder, "off" for none
    denormals: numbers too small for a full mantissa: "flush" counts them as 0 in compiled steps, as MindSpore's CPU does; "keep"
             computes with them, some hundred times as slowly; "auto" flushes in graphs that update state, whose momentum fades
    """

    debug: int = 0
    dump: str = ""
    verify: int = 0
    backend: str = "llvm"
    skip: tuple[str, ...] = ()
    limit: int = -1
    threads: int = 0
    cache: str = ""
    denormals: str = "auto"

    def __post_init__(self) -> None:
        if self.backend not in ("llvm", "loops", "numpy"):
            raise ValueError(f"GRAPHOPT_BACKEND: expected llvm, loops or numpy, found {self.backend!r}")
        if self.denormals not in ("auto", "flush", "keep"):
            raise ValueError(f"GRAPHOPT_DENORMALS: expected auto, flush or keep, found {self.denormals!r}")
        if self.threads < 0:
            raise ValueError(f"GRAPHOPT_THREADS: expected a number of threads or 0, found {self.threads}")


def from_environment(environ: dict[str, str] | os._Environ[str] = os.environ) -> Config:
    """Read `GRAPHOPT_<FIELD>` for every field.

    Errors: ValueError naming the variable when its value does not fit.
    """
    values: dict[str, object] = {}
    for field in fields(Config):
        text = environ.get(f"GRAPHOPT_{field.name.upper()}")
        if text is None or text == "":
            continue
        if isinstance(field.default, int):
            try:
                values[field.name] = int(text)
            except ValueError:
                raise ValueError(f"GRAPHOPT_{field.name.upper()}: expected a whole number, found {text!r}") from None
        elif isinstance(field.default, tuple):
            values[field.name] = tuple(part.strip() for part in text.split(",") if part.strip())
        else:
            values[field.name] = text
    return Config(**values)  # type: ignore[arg-type]


_current = from_environment()


def current() -> Config:
    """The switches in force."""
    return _current


def set_config(**changes: object) -> None:
    """Change switches for the rest of the process."""
    global _current
    _current = replace(_current, **changes)  # type: ignore[arg-type]


@contextmanager
def override(**changes: object) -> Iterator[Config]:
    """Change switches within a `with` block."""
    global _current
    before = _current
    _current = replace(_current, **changes)  # type: ignore[arg-type]
    try:
        yield _current
    finally:
        _current = before
