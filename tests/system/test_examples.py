"""The example script, as it is, over a running Trivet."""

import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.builders import unique
from tests.command_line import Said

from trivet.admin import Admin
from trivet.testing import RunningTrivet
from trivet_tasks.config.settings import Settings

SCRIPT = Path(__file__).parents[2] / "examples" / "bulk_documents.py"


@pytest.fixture
def script() -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("bulk_documents", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_database_that_is_away_is_named_in_the_place_of_progress(script: Any) -> None:
    away = Settings.model_validate({"store": {"url": "postgresql://nobody@127.0.0.1:1/none"}})
    with Admin(settings=away) as admin:
        assert "Is the server running" in script.progress_line(admin, "contracts")


def test_the_example_runs_a_folder_and_prints_lines_where_there_is_no_terminal(
    script: Any,
    system: RunningTrivet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(script, "LINE_EVERY_S", 0.05)
    folder, out = tmp_path / unique("documents"), tmp_path / "results.jsonl"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"Document {number} of {folder.name}")
    monkeypatch.setenv("TRIVET_CONFIG", system.settings.source)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(folder), "--out", str(out)])
    for provider in ("anthropic", "bedrock", "vertex"):
        system.simulator.fault(provider, "latency", factor=10)

    assert script.main() == 0
    *lines, last = capsys.readouterr().err.splitlines()
    assert last == f"0 failed; results in {out}"
    form = r"\d+/40 done, 0 failed, \$\d+\.\d{4}(, [\d.,]+ jobs/s)?(, [\d.]+ min left)?"
    assert lines
    assert all(re.fullmatch(form, line) for line in lines), lines
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(row["document"] for row in rows) == sorted(f"{number}.txt" for number in range(40))

    assert script.main() == 0
    assert len(out.read_text().splitlines()) == 40, "run again, it writes nothing twice"

    first, *others = out.read_text().splitlines(keepends=True)
    failed = json.dumps({**json.loads(first), "status": "failed", "text": None, "error": "overloaded"})
    out.write_text(f"{failed}\n" + "".join(others))  # as it is before a retry
    assert script.main() == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(row["document"] for row in rows) == sorted(f"{number}.txt" for number in range(40))
    assert {row["status"] for row in rows} == {"succeeded"}


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial/first-job.md", "docs/reference/python.md"])
def test_the_first_example_of_a_page_runs_without_a_warning(
    page: str,
    system: RunningTrivet,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = (SCRIPT.parents[1] / page).read_text()
    example = next(code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "client.submit(" in code)
    monkeypatch.setenv("TRIVET_CONFIG", system.settings.source)
    exec(compile(example, page, "exec"), {})
    out, err = capsys.readouterr()
    assert out.strip()
    assert (err, [one.message for one in caplog.records if one.name.startswith("trivet")]) == ("", [])


def test_the_first_command_of_the_readme_runs_without_a_warning(
    system: RunningTrivet, trivet: Callable[..., Said]
) -> None:
    text = (SCRIPT.parents[1] / "README.md").read_text()
    (command,) = re.findall(r"`trivet (submit .*? --wait)`", text)
    said = trivet(*shlex.split(command))
    assert (said.code, said.err) == (0, "")
