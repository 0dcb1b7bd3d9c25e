"""The command line as tests use it: in this process or in one of its own, with its output."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest
from tests.timing import PATIENCE_S

from trivet.cli import run as run_command


class Capture(Protocol):
    """Capture of what a command writes: `capsys`, or `capsysbinary` decoded."""

    def readouterr(self) -> tuple[str, str]: ...


class Said(NamedTuple):
    """Output of a command, and the code it ended with."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as one JSON document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


@contextmanager
def commands(config: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Iterator[Callable[..., Said]]:
    """Runs commands as a person would type them, over this configuration."""
    level = logging.getLogger("trivet").level
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["trivet", "--config", config, *arguments])
        code = run_command()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Said(code, out, err)

    yield run
    logging.getLogger("trivet").setLevel(level)


def run_trivet(*arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Said:
    """Run one command in a process of its own, to its end.

    Args:
        env: variables on top of this process's.
    """
    done = subprocess.run(
        [sys.executable, "-m", "trivet", *arguments],
        env={**os.environ, **(env or {})}, cwd=cwd, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return Said(done.returncode, done.stdout, done.stderr)
