"""Tests use shared modules and public names alone, so that product code may move without them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PUBLIC_ALL_THE_SAME = {"_replace", "_asdict", "_fields", "_make", "_exit"}
"""Of named tuples, and of `os`."""
BY_NAME = {"setattr", "getattr", "delattr", "before", "after"}
"""Functions that take the name of an attribute."""


def _private(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last.startswith("_") and not last.startswith("__") and last not in PUBLIC_ALL_THE_SAME


def _reaches(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the private names of others that a module uses."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                continue
            case ast.Attribute(attr=name) if _private(name):
                yield node.lineno, name
            case ast.ImportFrom(names=names):
                yield from ((node.lineno, one.name) for one in names if _private(one.name))
            case ast.Call(func=ast.Attribute(attr=function) | ast.Name(id=function), args=args) if function in BY_NAME:
                words = [one.value for one in args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
                yield from ((node.lineno, word) for word in words if _private(word))


def _test_modules(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the test modules that a module imports."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), names=names):
                imported = [f"{module}.{one.name}" for one in names]
            case ast.Import(names=names):
                imported = [one.name for one in names]
            case _:
                continue
        for name in imported:
            if name.startswith("tests.") and any(part.startswith("test_") for part in name.split(".")):
                yield node.lineno, name


def test_nothing_private_and_no_test_module_is_used() -> None:
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(ROOT)}:{line}: {name}" for line, name in [*_reaches(tree), *_test_modules(tree)]]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "client._connections",
        "from trivet import _x",
        "monkeypatch.setattr(calls, '_call', 1)",
        "monkeypatch.setattr('trivet.x._call', 1)",
    ],
)
def test_a_private_name_is_found(code: str) -> None:
    assert len(list(_reaches(ast.parse(code)))) == 1


def test_an_import_of_a_test_module_is_found() -> None:
    tree = ast.parse(
        "from tests.unit.test_calls import call\nfrom tests.unit import test_calls\nfrom tests.builders import call"
    )
    assert [line for line, _ in _test_modules(tree)] == [1, 2]


@pytest.mark.parametrize("code", ["self._x", "row._replace(a=1)", "value.__class__", "os._exit(1)"])
def test_a_public_name_is_not(code: str) -> None:
    assert list(_reaches(ast.parse(code))) == []
