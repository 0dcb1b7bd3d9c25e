"""The lock of a data directory: one Trivet at a time runs there, and tells other commands its configuration.

`trivet up` holds `.trivet/local.lock` until it ends, however it ends. The file has its process id and, in the second
line, the configuration that its parts read.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from trivet_tasks.errors import ProcessFailed

LOCK_NAME = "local.lock"
_TRIES = 10
_PAUSE_S = 0.02
"""A command that asks `running_in` holds the lock, too, for less than this."""


class Running(NamedTuple):
    """A Trivet that runs on this machine."""

    process: int
    config: Path | None
    """Its configuration file; None: it has none, or has not told it yet."""


@contextmanager
def only_one(data_dir: Path) -> Iterator[Callable[[Path | None], None]]:
    """Hold the lock of a data directory; yields a function that tells others the configuration.

    Raises:
        ProcessFailed: another Trivet runs there.
    """
    path = data_dir / LOCK_NAME
    holder = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def tell(config: Path | None) -> None:
        text = f"{os.getpid()}\n{config or ''}\n"
        os.ftruncate(holder, 0)
        os.pwrite(holder, text.encode(errors="surrogateescape"), 0)

    try:
        if not _locked(holder):
            raise ProcessFailed(
                f"Trivet is already running in {data_dir} (process {_read(path).process}).",
                hint="Stop that one first, or use another folder.",
            )
        tell(None)
        yield tell
    finally:
        os.close(holder)


def running_in(data_dir: Path) -> Running | None:
    """Return the Trivet that runs in a data directory; None: none does, or the lock cannot be read."""
    path = data_dir / LOCK_NAME
    try:
        reader = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(reader, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(path)
    finally:
        os.close(reader)
    return None


def _locked(holder: int) -> bool:
    for _ in range(_TRIES):
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE_S)
        else:
            return True
    return False


def _read(path: Path) -> Running:
    process, _, config = path.read_bytes().decode(errors="surrogateescape").strip().partition("\n")
    return Running(int(process) if process.isdecimal() else 0, Path(config) if config else None)
