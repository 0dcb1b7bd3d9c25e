"""The table of habits in docs/explanation/celery.md: each row has a test, and names settings and commands that exist."""

import ast
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import WorkerSettings
from trivet_tasks.latency import ClassSettings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/celery.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
SECTIONS: dict[str, type[BaseModel]] = {
    "classes": ClassSettings,
    "routes": RouteSettings,
    "worker": WorkerSettings,
}


def table() -> list[list[str]]:
    _, _, habits = PAGE.partition("\n## Habits\n")
    lines = [line for line in habits.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


ROWS = {re.split(r"[,(]", row[0].replace("`", ""))[0].strip(): row for row in table()}


def marked() -> set[str]:
    """Return the names in `pytest.mark.habit(…)` of all tests."""
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.habit":
                        found.add(ast.literal_eval(mark.args[0]))
    return found


def test_each_row_has_a_test_and_each_test_a_row() -> None:
    assert len(ROWS) > 10
    assert set(ROWS) == marked()


@pytest.mark.parametrize("habit", ROWS)
def test_the_settings_and_commands_of_a_row_exist(habit: str) -> None:
    text = " ".join(ROWS[habit])
    for section, first, more in re.findall(r"`\[(\w+)(?:\.NAME)?\] (\w+)`((?:(?:,| and) `\w+`)*)", text):
        for name in (first, *re.findall(r"`(\w+)`", more)):
            assert name in SECTIONS[section].model_fields, f"[{section}] {name}"
    for words in re.findall(r"`trivet ((?:[a-z]+ ?)+)", text):
        assert f"trivet {words.strip()}" in COMMANDS
