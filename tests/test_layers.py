"""Imports point down: each file imports its own floor and lower ones. Imports inside functions count."""

from __future__ import annotations

import ast
import configparser
import sys
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ROOTS = {"graphopt": "graphopt", "graphopt_runtime": "runtime/graphopt_runtime", "graphopt_tools": "tools/graphopt_tools"}

FLOORS = {
    "graphopt.errors": 0,
    "graphopt.collector": 0,
    "graphopt.config": 0,
    "graphopt.where": 0,
    "graphopt.ir": 1,
    "graphopt.opdefs": 2,
    "graphopt.passes": 3,
    "graphopt.kernel": 4,
    "graphopt.llvm": 5,
    "graphopt.compile": 6,
    "graphopt.common": 7,
    "graphopt.compat": 7,
    "graphopt.ops": 7,
    "graphopt.nn": 7,
    "graphopt.train": 7,
    "graphopt.amp": 7,
    "graphopt.dataset": 7,
    "graphopt.context": 7,
    "graphopt.control": 7,
    "graphopt": 7,
    "graphopt_tools": 8,
}
MAY_IMPORT_RUNTIME = (
    "graphopt.llvm",
    "graphopt.compile",
    "graphopt.common",
    "graphopt.ops",
    "graphopt.nn",
    "graphopt.train",
    "graphopt.amp",
    "graphopt.dataset",
    "graphopt.context",
    "graphopt_tools",
)
RUNTIME_PACKAGES = {"numpy", "llvmlite", "ml_dtypes", "platformdirs"}


def module_files() -> dict[str, Path]:
    """Every module of the three packages: dotted name -> file."""
    found = {}
    for package, folder in ROOTS.items():
        root = REPOSITORY / folder
        for file in sorted(root.rglob("*.py")):
            parts = (package, *file.relative_to(root).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(name: str, file: Path, source: str | ast.AST, modules: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """What a file imports, as full names with their line; `from package import module` names the module."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(source if isinstance(source, ast.AST) else ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield (full if full in modules else base), node.lineno


class WithoutTyping(ast.NodeTransformer):
    """Drops `if TYPE_CHECKING:` blocks: what they import is never imported while the program runs."""

    def visit_If(self, node: ast.If) -> ast.AST:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = [ast.Pass()]
        return self.generic_visit(node)


def area(name: str) -> str:
    """The entry of FLOORS a module belongs to: the longest prefix that stands there."""
    parts = name.split(".")
    for k in range(len(parts), 0, -1):
        if ".".join(parts[:k]) in FLOORS and (k > 1 or len(parts) == 1 or parts[0] != "graphopt"):
            return ".".join(parts[:k])
    raise KeyError(f"{name} stands on no floor: add it to FLOORS")


def upward(name: str, target: str) -> str | None:
    """Why module `name` must not import module `target`; None when it may."""
    own, other = name.split(".")[0], target.split(".")[0]
    if other not in ROOTS:
        if own == "graphopt_runtime" and other not in RUNTIME_PACKAGES | set(sys.stdlib_module_names):
            return f"the runtime may use {', '.join(sorted(RUNTIME_PACKAGES))} only"
        return None
    if own == "graphopt_runtime":
        return None if other == own else "the runtime stands below everything else"
    if other == "graphopt_runtime":
        return None if area(name) in MAY_IMPORT_RUNTIME or name == "graphopt" else "this floor may not know the runtime"
    low, high = FLOORS[area(name)], FLOORS[area(target)]
    return f"floor {low} imports floor {high}" if high > low else None


MODULES = module_files()
EDGES = [
    (name, target, line)
    for name, file in MODULES.items()
    for target, line in imports(name, file, file.read_text(encoding="utf-8"), MODULES)
]


def test_every_module_stands_on_a_floor() -> None:
    assert len(MODULES) > 10
    for name in MODULES:
        if not name.startswith("graphopt_runtime"):
            assert area(name)


def test_setup_lists_every_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    folders = {name for name, file in MODULES.items() if file.name == "__init__.py"}
    without = {str(file.parent) for file in MODULES.values() if not (file.parent / "__init__.py").exists()}
    assert not without, "folders with modules but without __init__.py"
    assert set(setup["options"]["packages"].split()) == folders


def test_imports_point_down() -> None:
    wrong = [
        f"{MODULES[name].relative_to(REPOSITORY)}:{line} imports {target}: {why}"
        for name, target, line in EDGES
        if (why := upward(name, target))
    ]
    assert not wrong, "\n".join(wrong)


def test_runtime_imports_itself_relatively() -> None:
    wrong = [
        f"{MODULES[name]}:{line}"
        for name in MODULES
        if name.startswith("graphopt_runtime")
        for target, line in absolute_imports(MODULES[name])
        if target.startswith("graphopt_runtime")
    ]
    assert not wrong, "\n".join(wrong)


def absolute_imports(file: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module, node.lineno


def test_no_cycles() -> None:
    graph = nx.DiGraph()
    for name, file in MODULES.items():
        tree = WithoutTyping().visit(ast.parse(file.read_text(encoding="utf-8")))
        targets = {target for target, _ in imports(name, file, tree, MODULES)} & set(MODULES) - {name}
        graph.add_edges_from((name, target) for target in targets)
    cycles = [" -> ".join(sorted(group)) for group in nx.strongly_connected_components(graph) if len(group) > 1]
    assert not cycles, "modules that import one another: " + "; ".join(cycles)


def test_nothing_imports_the_tools() -> None:
    wrong = [
        (name, line)
        for name, target, line in EDGES
        if target.startswith("graphopt_tools") and not name.startswith("graphopt_tools")
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("name", "target", "allowed"),
    [
        ("graphopt.ir.graph", "graphopt.where", True),
        ("graphopt.ir.graph", "graphopt.opdefs.opdef", False),
        ("graphopt.passes.fuse", "graphopt_runtime.threads", False),
        ("graphopt.llvm.target", "graphopt_runtime.engine", True),
        ("graphopt_runtime.engine", "graphopt.errors", False),
        ("graphopt_runtime.engine", "networkx", False),
        ("graphopt.nn.cell", "graphopt.compile", True),
        ("graphopt.compile", "graphopt", False),
    ],
)
def test_the_rule_itself(name: str, target: str, allowed: bool) -> None:
    assert (upward(name, target) is None) is allowed


def test_imports_inside_functions_are_seen() -> None:
    source = "def f():\n    from ..opdefs import opdef\n    import graphopt.compile as c\n"
    found = list(imports("graphopt.ir.graph", Path("graph.py"), source, {"graphopt.opdefs.opdef": Path("opdef.py")}))
    assert found == [("graphopt.opdefs.opdef", 2), ("graphopt.compile", 3)]


def test_a_module_without_a_floor_is_refused() -> None:
    with pytest.raises(KeyError, match="add it to FLOORS"):
        area("graphopt.attic")
