"""Makes the command independent of the shell, service manager or scheduler that started it."""

import io
import os
import sys

from trivet_tasks.processes.stop_signals import drop_inherited_settings

_ROOM = ("COLUMNS", "LINES")


def settle() -> None:
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
