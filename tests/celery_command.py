"""The command `celery -A trivet.celery …`, in this process or in one of its own."""

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from celery.bin.celery import celery as celery_command
from click.testing import CliRunner, Result
from tests.timing import PATIENCE_S

from trivet.celery.application import TrivetApp

Celery = Callable[..., Result]


@contextmanager
def celery_commands(app: TrivetApp, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """Runs commands in this process, as a person would type them."""
    monkeypatch.setenv("TRIVET_CONFIG", app.trivet_settings.source)
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://127.0.0.1:1/0")  # another application's
    monkeypatch.setattr(importlib.import_module("trivet.celery"), "app", app)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(celery_command, ["-A", "trivet.celery", "--no-color", *arguments])

    yield run


def command(*arguments: str) -> list[str]:
    """Return the command as a process runs it."""
    return [str(Path(sys.executable).with_name("celery")), "-A", "trivet.celery", "--no-color", *arguments]


def typed(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    return subprocess.run(
        command(*arguments), cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
