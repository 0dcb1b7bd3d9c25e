"""Helpers for tests of running systems: requests, and the command line over their configuration."""

from typing import Any

from tests.command_line import run_trivet

from trivet.testing import QUICK, RunningTrivet

MODEL = "claude-sonnet-5-5"
UNHURRIED = {
    **QUICK,
    "dispatch": {"interval_s": 0.1, "taken_within_s": 5},
    "classes.realtime": {"budget_s": 60, "deadline_s": 120},
}
"""Realtime jobs wait for a machine with other work; what was lost in a broker is dispatched again soon."""


def requests(count: int, word: str) -> list[dict[str, Any]]:
    """Return different requests."""
    return [
        {"model": MODEL, "max_tokens": 30, "messages": [{"role": "user", "content": f"{word} {number}"}]}
        for number in range(count)
    ]


def said_of_batch(running: RunningTrivet, name: str) -> str:
    """Return what `trivet batch status` says, in one line however wide the terminal is."""
    return " ".join(run_trivet("--config", running.settings.source, "batch", "status", name).out.split())


def routes(running: RunningTrivet) -> tuple[int, dict[str, Any]]:
    """Return exit code and output of `trivet routes --json`."""
    said = run_trivet("--config", running.settings.source, "routes", "--json")
    return said.code, said.json


def log_of(running: RunningTrivet, part: str) -> str:
    """Return what a process has logged."""
    return running.local.log_path(part).read_text(encoding="utf-8")
