"""`python -m trivet.rehearse.cleaner FOLDER`: removes a rehearsal when the process that started this one is gone.

The parts of a rehearsal end by themselves with their supervisor, but the embedded broker and the folder, with the prompts,
would outlive a command that is killed. Standard input is a pipe that ends with the command, however it goes.
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
from pathlib import Path

from trivet.local.embedded import EmbeddedValkey
from trivet_tasks.config.finding import DATA_DIR
from trivet_tasks.errors import TrivetError

_PARTS_END_S = 15.0
"""Seconds within which every part has ended by itself."""


@contextmanager
def cleaned_up(folder: Path) -> Iterator[None]:
    """Remove the folder at the end of the block, and also when this process is killed within it."""
    cleaner = subprocess.Popen(
        [sys.executable, "-m", "trivet.rehearse.cleaner", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is not for it
    )
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        assert cleaner.stdin is not None
        cleaner.stdin.close()
        cleaner.wait()


def main(folder: Path) -> None:
    """Wait for the end of standard input; then end the broker and remove the folder."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 64):
        pass
    if (folder / DATA_DIR).exists():
        with contextlib.suppress(TrivetError, OSError), EmbeddedValkey(folder / DATA_DIR):
            pass  # the one that runs there is adopted, and stopped at the end
    deadline = time.monotonic() + _PARTS_END_S
    while folder.exists() and time.monotonic() < deadline:  # a part that is about to end may add a file meanwhile
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
