"""`python -m trivet.local.cleaner FOLDER`: removes a temporary Trivet when the process that started this one is gone.

The parts of a demo or a rehearsal end by themselves with their supervisor, but the embedded broker and the folder, with the
prompts, would outlive a command that is killed. Standard input is a pipe that ends with the command, however it goes.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trivet.local.embedded import EmbeddedValkey
from trivet_tasks.config.finding import DATA_DIR
from trivet_tasks.errors import TrivetError
from trivet_tasks.processes.startup import python_command

_KEEP = b"k"
"""Message on standard input: the folder is to stay."""
_PARTS_END_S = 15.0
"""Seconds within which every part has ended by itself."""


@dataclass(slots=True)
class Cleanup:
    """The removal of a folder at the end of a block."""

    keep: bool = False
    """True if the folder stays after all, for a person to look into."""


@contextmanager
def cleaned_up(folder: Path) -> Iterator[Cleanup]:
    """Remove the folder at the end of the block, unless it is to be kept, and also when this process is killed within it."""
    cleanup = Cleanup()
    cleaner = subprocess.Popen(
        python_command("trivet.local.cleaner", str(folder)),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is not for it
    )
    try:
        yield cleanup
    finally:
        assert cleaner.stdin is not None
        if cleanup.keep:
            with contextlib.suppress(OSError):  # it is gone: then it removes nothing
                cleaner.stdin.write(_KEEP)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            cleaner.stdin.close()
        cleaner.wait()


def main(folder: Path) -> None:
    """Wait for the end of standard input; then end the broker and remove the folder, unless it is to stay."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    keep = False
    while said := os.read(0, 64):
        keep = _KEEP in said
    if keep:
        return
    if (folder / DATA_DIR).exists():
        with contextlib.suppress(TrivetError, OSError), EmbeddedValkey(folder / DATA_DIR):
            pass  # the one that runs there is adopted, and stopped at the end
    deadline = time.monotonic() + _PARTS_END_S
    while folder.exists() and time.monotonic() < deadline:  # a part that is about to end may add a file meanwhile
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
