"""The `trivet` command. Its entry is here: independent of whatever started it, with one meaning of exit codes."""

import contextlib
import io
import logging
import os
import sys

from trivet.cli.log_lines import LogFormatter
from trivet_tasks.config.environment import quieten, set_aside
from trivet_tasks.processes.signals import drop_inherited_settings, leave
from trivet_tasks.processes.startup import follow_parent, without_collecting

_ROOM = ("COLUMNS", "LINES")


def main() -> None:
    """Run the command line. Exit codes: those of `output`, and 130 for Ctrl-C."""
    _settle()
    follow_parent()  # before the slow imports: the parent may be gone by the time they are done
    set_aside()  # before any library could follow the variables
    _log()
    quieten()
    leave(run())


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
        from trivet.cli.extras import explained
        from trivet.cli.output import USAGE
        from trivet_tasks.errors import TrivetError

        if isinstance(error, ModuleNotFoundError):
            error = explained("this command", error) or error
        if not isinstance(error, TrivetError):
            raise
        print(f"trivet: {error}", file=sys.stderr)  # noqa: T201
        return USAGE
    return 0


def _log() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def _settle() -> None:
    """Repair the standard files, their encoding, the size of the terminal and the signals. Call it first of all.

    Example: under a service manager that closes standard error, the next file to be opened would become standard error.
    """
    _open_standard_files()
    _speak_utf8()
    for name in _ROOM:
        if os.environ.get(name) == "0":  # not known; it would be taken for no room at all
            del os.environ[name]
    drop_inherited_settings()


def _open_standard_files() -> None:
    """Open what is closed of descriptors 0, 1 and 2, to nowhere."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is not None:
            continue
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - a descriptor


def _speak_utf8() -> None:
    """Write UTF-8 to files and pipes; on a terminal what it speaks, with escapes for what it cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=stream.encoding if stream.isatty() else "utf-8", errors="backslashreplace")


def _code(ended: SystemExit) -> int:
    if isinstance(ended.code, str):
        print(ended.code, file=sys.stderr)  # noqa: T201
        return 1
    return ended.code or 0
