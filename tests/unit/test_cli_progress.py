"""Reasons that a command reports while it waits."""

import logging
import sys
from pathlib import Path

import pytest
from tests.timing import until

from trivet.admin import Blocked
from trivet.cli import output, progress
from trivet.cli.log_lines import LogFormatter
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


@pytest.mark.parametrize(
    ("level", "line"),
    [(logging.WARNING, "warning: 2 routes are down\n"), (logging.INFO, "WARNING trivet.x: 2 routes are down\n")],
    ids=["a command", "a service"],
)
def test_a_warning_has_one_form_whether_it_is_printed_or_logged(
    capsys: pytest.CaptureFixture[str], level: int, line: str
) -> None:
    root = logging.getLogger()
    before = root.level
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter())
    logger = logging.getLogger("trivet.x")
    logger.addHandler(handler)
    root.setLevel(level)
    try:
        logger.warning("%d routes are down", 2)
    finally:
        root.setLevel(before)
        logger.removeHandler(handler)
    assert capsys.readouterr().err.endswith(line)
    output.print_warning("2 routes are down")
    assert capsys.readouterr().err == "warning: 2 routes are down\n"


def test_a_pause_is_reported_once_and_its_end_too(capsys: pytest.CaptureFixture[str]) -> None:
    teller = progress.Teller()
    paused = Blocked(("The batch contracts is paused (`trivet batch resume contracts`).",), paused=True)
    for found in (paused, paused, Blocked(), Blocked()):
        teller.tell(found)
    assert capsys.readouterr().err == f"{paused.notes[0]}\nIt was resumed.\n"
