"""The rules of the house that a tool can hold: direction of imports, sizes, finality, names."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter import cli as importlinter

from vlmprof import registry

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "vlmprof").rglob("*.py"))
LINES_OF_A_FILE, LINES_OF_A_FUNCTION, NESTING = 500, 40, 3
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


def test_files_are_short() -> None:
    assert {name_of(path): n for path in FILES if (n := len(path.read_text().splitlines())) > LINES_OF_A_FILE} == {}


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
