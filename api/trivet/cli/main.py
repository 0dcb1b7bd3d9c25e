"""The command's entry: what every sub-command shares."""

import contextlib
import logging
import os
import sys

from trivet.cli import inherited
from trivet.cli.exit_codes import USAGE
from trivet_tasks.config.environment import quieten, set_aside
from trivet_tasks.processes.quick_start import without_collecting
from trivet_tasks.processes.supervised import follow_parent


def main() -> None:
    """Run the command line. Exit codes: those of `exit_codes`, and 130 for Ctrl-C."""
    inherited.settle()
    follow_parent()  # before the slow imports: the parent may be gone by the time they are done
    set_aside()  # before any library could follow the variables
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", level=logging.WARNING)
    quieten()
    _leave(run())


def run() -> int:
    """Run the command of `sys.argv` and return its exit code; this process lives on."""
    try:
        with without_collecting():
            from trivet.cli.app import app

        app()
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # of which Typer makes a 1
            return 0
        return _code(ended)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output went away, e.g. `trivet job list | head`
        with contextlib.suppress(OSError):
            sys.stdout.close()
    except Exception as error:
        from trivet_tasks.errors import TrivetError

        if not isinstance(error, TrivetError):
            raise
        print(f"trivet: {error}", file=sys.stderr)  # noqa: T201
        return USAGE
    return 0


def _code(ended: SystemExit) -> int:
    if isinstance(ended.code, str):
        print(ended.code, file=sys.stderr)  # noqa: T201
        return 1
    return ended.code or 0


def _leave(code: int) -> None:
    """End the process now: Python's own tear-down of threads and modules takes up to seconds, and nothing needs it."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
