"""Every example in the public library's docstrings runs by itself; every public class and function has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import graphopt
import graphopt.amp
import graphopt.common
import graphopt.compat
import graphopt.dataset
import graphopt.nn
import graphopt.ops
import graphopt.train
from graphopt.ops.primitives import CLASSES, Primitive

PACKAGES = (
    graphopt.amp,
    graphopt.common,
    graphopt.compat,
    graphopt.dataset,
    graphopt.nn,
    graphopt.ops,
    graphopt.train,
)
PACKED = [m.name for p in PACKAGES for m in pkgutil.walk_packages(p.__path__, p.__name__ + ".")]
MODULES = ["graphopt.context", "graphopt.control", *sorted(PACKED)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(name)
    graphopt.set_context(mode=graphopt.PYNATIVE_MODE)
    failed = []
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, globs={}):
        out: list[str] = []
        if doctest.DocTestRunner().run(test, out=out.append).failed:
            failed.append("".join(out))
    assert not failed, "\n".join(failed)


PUBLIC = {
    f"{package.__name__}.{name}": value
    for package in (graphopt.amp, graphopt.nn, graphopt.train, graphopt.dataset)
    for name, value in vars(package).items()
    if inspect.isclass(value) and not name.startswith("_")
}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_classes_have_an_example(name: str) -> None:
    assert ">>> " in (PUBLIC[name].__doc__ or ""), f"{name} has no example"


FUNCTIONS = {
    f"{package.__name__}.{name}": value
    for package in (graphopt, graphopt.amp, graphopt.nn, graphopt.ops, graphopt.train, graphopt.dataset)
    for name, value in vars(package).items()
    if name in getattr(package, "__all__", ()) and callable(value) and not inspect.isclass(value)
}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_public_functions_have_an_example(name: str) -> None:
    assert ">>> " in (FUNCTIONS[name].__doc__ or ""), f"{name} has no example"


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_operator_classes_say_what_they_run(name: str) -> None:
    assert issubclass(CLASSES[name], Primitive) and f"ops.{name}(" in CLASSES[name].__doc__
