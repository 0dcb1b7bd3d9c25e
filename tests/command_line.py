"""The command line as the system tests use it: in this process, with its output."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import pytest

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
