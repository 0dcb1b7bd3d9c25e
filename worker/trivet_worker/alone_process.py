"""The child process in which suspects run, one at a time. Started by `alone.Alone`, never by hand.

    python -m trivet_worker.alone_process CONFIGURATION LANE ROUTE [ROUTE …]

Reads a chunk a line on its standard input; answers each with a line once it is written down. At the end of its input
(it was told so, or its worker is gone) it finishes its call within the grace time and goes.
"""

import contextlib
import logging
import os
import queue
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import orjson

from trivet_tasks.celery_app import make_app
from trivet_tasks.errors import TrivetError
from trivet_tasks.messages import Chunk
from trivet_tasks.settings import load_settings
from trivet_tasks.store.leases import ALONE
from trivet_worker.runtime import Runtime
from trivet_worker.stopping import Stopper


def main(arguments: list[str]) -> int:
    """Run until the input ends. Returns the exit code."""
    source, lane, *routes = arguments
    answers = _private_stdout()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = load_settings(Path(source) if Path(source).is_file() else None)
    name = f"{ALONE}.{lane}.{os.getpid()}@{socket.gethostname()}"
    runtime = Runtime(settings, make_app(settings), worker=name, lane=ALONE, routes=routes)
    stopper = Stopper(runtime, settings.worker.shutdown_grace_s, on_asked=lambda: None)
    stopper.start()
    try:
        runtime.start()
    except TrivetError as error:  # its worker hears it by our end, and says what it is about
        logging.getLogger("trivet.worker").error("a process for a job that runs alone cannot start: %s", error)
        return 1
    chunks: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(chunks,), daemon=True).start()
    while (chunk := chunks.get()) is not None:
        runtime.run(chunk)
        with contextlib.suppress(BrokenPipeError):  # the worker is gone; what came of the job is written down
            answers.write(b"\n")
            answers.flush()
    return stopper.finish()


def _read(chunks: "queue.SimpleQueue[Chunk | None]") -> None:
    for line in sys.stdin.buffer:
        provider, *args = orjson.loads(line)
        chunks.put(Chunk.from_args(provider, args))
    chunks.put(None)
    os.kill(os.getpid(), signal.SIGTERM)  # a call under way gets its grace


def _private_stdout() -> BinaryIO:
    """Standard output for the answers alone; what anybody else prints goes where errors go."""
    private = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return private


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
