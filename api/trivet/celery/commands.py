"""The `celery` command over Trivet: a sentence in place of a traceback, and Trivet's command for what Celery's cannot do."""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import click
from celery.exceptions import NotRegistered
from celery.exceptions import TimeoutError as CeleryTimeout

from trivet_tasks.errors import TrivetError
from trivet_tasks.messages import BROKER_ERRORS, broker_text

INSTEAD: Mapping[str, str] = {
    "purge": "A message is a hint, and the jobs of one that is deleted are dispatched again. `trivet batch cancel NAME` "
    "and `trivet job cancel ID` stop jobs.",
    "migrate": "Jobs are in the database, not in the broker. Set `[broker] url` of all processes to the new broker and "
    "restart them; jobs of lost messages are dispatched again.",
    "multi": "Trivet's workers are started by their own command. Run `trivet up --workers N`, or one `trivet worker` a "
    "unit of your service manager.",
}
"""Trivet's own way to the same end, by Celery's command. Commands that the application itself refuses are not here."""
_COMMANDS = ("celery", "flower")
_PROGRAM = "__main__.py"


def within_celery() -> bool:
    """Return whether this process is the `celery` or the `flower` command, or `python -m celery`."""
    program = Path(sys.argv[0])
    return program.name in _COMMANDS or (program.name == _PROGRAM and program.parent.name in _COMMANDS)


def adapt_command(broker_url: str) -> None:
    """Let the `celery` command of this process name Trivet's commands, and its errors be sentences. Call it once."""
    from celery.bin.celery import celery

    for name, instead in INSTEAD.items():
        celery.commands[name].callback = partial(_refuse, name, instead)
    sys.excepthook = partial(_say, broker_url, sys.excepthook)


def _refuse(name: str, instead: str, *_: Any, **__: Any) -> NoReturn:
    raise click.UsageError(f"celery {name} does nothing here. {instead}")


def _say(
    broker_url: str,
    usual: Callable[[type[BaseException], BaseException, TracebackType | None], Any],
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
) -> None:
    if isinstance(error, TrivetError | CeleryTimeout):
        said = str(error)
    elif isinstance(error, NotRegistered):
        said = "A job's result needs no name of a task: leave `--task` out."
    elif isinstance(error, BROKER_ERRORS):
        said = broker_text(broker_url, error)
    else:
        usual(kind, error, trace)
        return
    click.echo(f"Error: {said}", err=True)
