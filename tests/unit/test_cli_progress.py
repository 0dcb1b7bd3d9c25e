"""Reasons that a command reports while it waits."""

from pathlib import Path

import pytest
from tests.timing import until

from trivet.admin import Blocked
from trivet.cli import progress
from trivet_tasks.config.settings import load_settings


def test_a_waiting_command_reports_what_holds_its_jobs_up_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress, "FIRST_LOOK_S", progress.OPEN_S)
    blocked = Blocked(
        ("No route is healthy.", "No scheduler is alive."), ("a: open (unusable: invalid key)",), wrong=True
    )
    said: list[str] = []

    def told() -> bool:
        said.append(capsys.readouterr().err)
        return "unusable" in "".join(said)

    with progress.telling(load_settings(), lambda _: blocked) as teller:
        until(told, "the reason to be told")
    assert (
        "".join(said) == "Held up: No route is healthy.\n  No scheduler is alive.\n  a: open (unusable: invalid key)\n"
    )
    assert teller.held


def test_a_pause_is_reported_once_and_its_end_too(capsys: pytest.CaptureFixture[str]) -> None:
    teller = progress.Teller()
    paused = Blocked(("The batch contracts is paused (`trivet batch resume contracts`).",), paused=True)
    for found in (paused, paused, Blocked(), Blocked()):
        teller.tell(found)
    assert capsys.readouterr().err == f"{paused.notes[0]}\nIt was resumed.\n"
