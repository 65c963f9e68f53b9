"""The rules of the house that a tool can hold: direction of imports, sizes, finality, names."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from importlinter import cli as importlinter

from vlmprof import registry

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "vlmprof").rglob("*.py"))
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))
LINES_OF_A_FILE, LINES_OF_A_FUNCTION, NESTING = 500, 40, 3
STEPS_OF_IMPORTS = 12
ABSTRACT_METHODS = range(1, 4)
UNION_OF_ALL_SURFACES = "AbstractModel"
"""The documented exception: a family's model provides every surface and every step of a generation."""
BANNED = {"utils", "util", "common", "helpers", "helper", "manager", "misc", "core"}
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match, ast.AsyncFor, ast.AsyncWith)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def nodes(path: Path, *kinds: type[ast.AST]) -> Iterator[ast.AST]:
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds))


def every(*kinds: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    for path in FILES:
        for node in nodes(path, *kinds):
            yield f"{name_of(path)}::{getattr(node, 'name', '')}", node


def nesting(node: ast.AST) -> int:
    """How deep blocks lie in each other; ``elif`` is no deeper than its ``if``."""
    deepest = 0
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, (*FUNCTIONS, ast.ClassDef)):
                continue
            is_elif = field == "orelse" and isinstance(node, ast.If) and len(value) == 1 and isinstance(child, ast.If)
            deepest = max(deepest, nesting(child) + (isinstance(child, BLOCKS) and not is_elif))
    return deepest


def length(node: ast.AST) -> int:
    """Lines of a function, its docstring aside: saying more is no fault."""
    assert isinstance(node, FUNCTIONS)
    said = node.body[0] if ast.get_docstring(node) is not None else None
    quoted = said.end_lineno - said.lineno + 1 if said else 0  # type: ignore[operator]
    return node.end_lineno - node.lineno + 1 - quoted  # type: ignore[operator]


def is_abstract(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return "abstractmethod" in {ast.unparse(decorator) for decorator in node.decorator_list}


def classes() -> Iterator[tuple[str, ast.ClassDef, set[str], list[str]]]:
    """Where, the class, its bases, its abstract methods."""
    for place, node in every(ast.ClassDef):
        assert isinstance(node, ast.ClassDef)
        bases = {ast.unparse(base).split("[")[0] for base in node.bases}
        yield place, node, bases, [item.name for item in node.body if isinstance(item, FUNCTIONS) and is_abstract(item)]


def test_imports_run_one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert importlinter.lint_imports() == 0


def module_of(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imports_at_start(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Those that run when the module is imported: none inside functions, none for type checkers alone."""
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports_at_start(node.orelse)
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            for part in ("body", "orelse", "finalbody"):
                yield from imports_at_start(getattr(node, part, []))


def imported_by(module: str) -> set[str]:
    """Modules of the package that a module imports at its start."""
    found: set[str] = set()
    for node in imports_at_start(ast.parse(MODULES[module].read_text()).body):
        for alias in node.names:
            inside = f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
            outside = node.module if isinstance(node, ast.ImportFrom) else alias.name
            found |= {name for name in (inside if inside in MODULES else outside,) if name in MODULES}
    return found - {module}


@cache
def longest_chain(module: str) -> tuple[str, ...]:
    """The longest way down from a module: itself, what it imports, what that imports..."""
    return (module, *max(map(longest_chain, imported_by(module)), key=len, default=()))


def test_no_chain_of_imports_is_long() -> None:
    chain = max(map(longest_chain, MODULES), key=len)
    assert len(chain) > 5, "imports were not followed"
    assert len(chain) - 1 <= STEPS_OF_IMPORTS, " -> ".join(chain)


def test_a_class_name_means_one_class() -> None:
    """Classes of a module's top level: whoever reads a name in a traceback or a search finds one place."""
    names = Counter(
        node.name for path in FILES for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)
    )
    assert len(names) > 100
    assert [name for name, count in names.items() if count > 1] == []


def test_files_are_short() -> None:
    assert {
        name_of(path): n
        for path in (*FILES, *TEST_FILES)
        if (n := len(path.read_text().splitlines())) > LINES_OF_A_FILE
    } == {}


def test_functions_are_short() -> None:
    assert {place: n for place, node in every(*FUNCTIONS) if (n := length(node)) > LINES_OF_A_FUNCTION} == {}


def test_nothing_nests_deep() -> None:
    assert {place: n for place, node in every(*FUNCTIONS) if (n := nesting(node)) > NESTING} == {}


def test_files_are_named_for_what_they_hold() -> None:
    assert [name_of(path) for path in FILES if path.stem in BANNED or path.parent.name in BANNED] == []


def test_abstract_classes_ask_for_one_to_three_methods_and_hold_no_state() -> None:
    for place, node, _, abstract in classes():
        if abstract and node.name != UNION_OF_ALL_SURFACES:
            assert len(abstract) in ABSTRACT_METHODS, place
            assert not any(isinstance(item, FUNCTIONS) and item.name == "__init__" for item in node.body), place


def test_concrete_classes_are_final() -> None:
    inherited = {base for _, _, bases, _ in classes() for base in bases}
    not_final = [
        place
        for place, node, bases, abstract in classes()
        if not (abstract or "Protocol" in bases or node.name in inherited)
        and "final" not in {ast.unparse(decorator) for decorator in node.decorator_list}
    ]
    assert not_final == []


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_leaf_exports_its_one_constant(kind: str) -> None:
    spec = registry.KINDS[kind]
    package = importlib.import_module(spec.package)
    leaves = [module.name for module in pkgutil.iter_modules(package.__path__)]
    leaves = [name for name in leaves if not name.startswith("_") and name != spec.base]
    assert leaves
    for name in leaves:
        assert hasattr(importlib.import_module(f"{spec.package}.{name}"), spec.constant), name
