"""Helpers for tests of running systems: requests, and the command line over their configuration."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def trivet(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "trivet", "--config", str(config), *arguments],
        capture_output=True, text=True, timeout=90, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def said_of_batch(running: RunningTrivet, name: str) -> str:
    """Return what `trivet batch status` says, in one line however wide the terminal is."""
    assert running.local.config_path is not None
    return " ".join(trivet(running.local.config_path, "batch", "status", name).stdout.split())


def routes(running: RunningTrivet) -> tuple[int, dict[str, Any]]:
    """Return exit code and output of `trivet routes --json`."""
    assert running.local.config_path is not None
    said = trivet(running.local.config_path, "routes", "--json")
    return said.returncode, json.loads(said.stdout)


def log_of(running: RunningTrivet, part: str) -> str:
    """Return what a process has logged."""
    return running.local.log_path(part).read_text(encoding="utf-8")
