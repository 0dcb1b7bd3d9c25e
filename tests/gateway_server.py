"""`trivet serve` in a process of its own, over a Trivet that runs."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.processes import ServerProcess, free_port, listens

from trivet.testing import RunningTrivet


@contextlib.contextmanager
def gateway(running: RunningTrivet, folder: Path) -> Iterator[str]:
    """Serve within the block, and yield the base URL.

    Args:
        folder: where its log is written.
    """
    port = free_port()
    command = [sys.executable, "-m", "trivet", "--config", str(running.settings.source), "serve", "--port", str(port)]
    server = ServerProcess(command, folder)
    try:
        server.start(lambda: listens(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()
