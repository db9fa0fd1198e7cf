"""The listings of public names are complete: `graphopt.ops` and what is attached to Tensor."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import graphopt.common.attached
import graphopt.common.tensor
from graphopt import Tensor, ops
from graphopt.ops.lift import Lifted
from graphopt.ops.primitives import CLASSES, Primitive

WITHOUT_A_NAME = {"range_", "split_equal"} | {  # `ops.range`, and what `ops.Split` runs
    "embedding_lookup", "gather_rows",  # what `ops.EmbeddingLookup` and `ops.SparseGatherV2` run
}  # fmt: skip


def statements(module: object, name: str) -> list[ast.stmt]:
    """The statements of a class."""
    tree = ast.parse(Path(str(vars(module)["__file__"])).read_text(encoding="utf-8"))
    return next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)


def defined(body: list[ast.stmt]) -> set[str]:
    """The names that statements bind."""
    names: set[str] = set()
    for n in body:
        targets = n.targets if isinstance(n, ast.Assign) else [n.target] if isinstance(n, ast.AnnAssign) else []
        names |= {t.id for t in targets if isinstance(t, ast.Name)}
        names |= {n.name} if isinstance(n, ast.FunctionDef) else set()
    return names


def test_ops_names_every_function() -> None:
    for found in pkgutil.iter_modules(ops.__path__, "graphopt.ops."):
        for name, value in vars(importlib.import_module(found.name)).items():
            if isinstance(value, Lifted) and not name.startswith("_") and name not in WITHOUT_A_NAME:
                assert getattr(ops, name, None) is value, f"{found.name}.{name}"


def test_ops_names_every_class_of_the_tables() -> None:
    assert {name for name, value in vars(ops).items() if isinstance(value, type) and issubclass(value, Primitive)} == {
        *CLASSES,
        "ForiLoop",
        "Primitive",
        "Scan",
        "WhileLoop",
    }


def test_all_is_all() -> None:
    assert len(set(ops.__all__)) == len(ops.__all__)
    for name in ops.__all__:
        assert hasattr(ops, name)
    assert set(CLASSES) <= set(ops.__all__)


def test_tensor_lists_what_is_attached() -> None:
    (listing,) = [n for n in statements(graphopt.common.attached, "Attached") if isinstance(n, ast.If)]
    listed = defined(listing.body) - {"_operator", "_sign", "_method"}
    own = defined(statements(graphopt.common.tensor, "Tensor"))
    made_by_python = {"__doc__", "__module__", "__annotations__", "__firstlineno__", "__static_attributes__"}
    compared = {"__eq__", "__ne__"}  # declared by object
    assert listed == set(vars(Tensor)) - own - made_by_python - compared


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_classes_show_their_name(name: str) -> None:
    assert CLASSES[name].__name__ == name and getattr(ops, name) is CLASSES[name]


def test_unique_as_a_class() -> None:
    values, places = ops.Unique()(Tensor([3, 1, 3]))
    assert values.asnumpy().tolist() == [3, 1]
    assert places.asnumpy().tolist() == [0, 1, 0]
