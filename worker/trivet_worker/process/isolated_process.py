"""The child process in which quarantined jobs run, one at a time. Forked by the worker's fork server, never started by hand.

Reads a chunk a line from its socket; answers each with a line once it is recorded. At the end of its input (it was
told so, or its worker is gone) it finishes its call within the grace time and exits.

    python -m trivet_worker.process.isolated_process CONFIGURATION LANE ORIGIN ROUTE [ROUTE …]

is a fork server, with its socket as standard input: the one a worker starts when its own was killed.
"""

import contextlib
import logging
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import orjson

from trivet_store.cluster.leases import ISOLATED
from trivet_tasks.celery_app import make_app
from trivet_tasks.config.environment import quieten, set_aside
from trivet_tasks.config.settings import Settings, load_settings
from trivet_tasks.errors import TrivetError
from trivet_tasks.messages import Chunk
from trivet_tasks.processes.signals import StopRequests
from trivet_tasks.processes.startup import served, set_title
from trivet_worker.process.runtime import Runtime
from trivet_worker.process.stopping import Stopper
from trivet_worker.run.fork_server import serve
from trivet_worker.run.process_state import Drops


def run_isolated(settings: Settings, lane: str, origin: str, routes: Sequence[str], connection: socket.socket) -> int:
    """Run chunks until the input ends. Returns the exit code.

    Args:
        lane: of the worker, for the name of the lease.
        origin: of the worker.
    """
    set_title("worker", served(routes, len(settings.routes)), lane, "(isolated)")
    log = logging.getLogger("trivet.worker")
    logging.getLogger().setLevel(logging.WARNING)  # its worker reports what goes well
    name = f"{ISOLATED}.{lane}.{os.getpid()}@{socket.gethostname()}"
    runtime = Runtime(
        settings, make_app(settings), worker=name, lane=ISOLATED, routes=routes, drops=Drops(), origin=origin
    )
    stopper = Stopper(runtime, settings.worker.shutdown_grace_s, StopRequests(lambda: None))
    stopper.start()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it follows what is registered, and ends with its worker
    try:
        runtime.start()
    except TrivetError as error:  # its worker notices our end, and reports the job
        log.error("a process for an isolated job cannot start: %s", error)
        return 1
    chunks: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(connection, chunks), daemon=True).start()
    while (chunk := chunks.get()) is not None:
        runtime.run(chunk)
        with contextlib.suppress(OSError):  # the worker is gone; what came of the job is written down
            connection.sendall(b"\n")
    code = stopper.finish()
    logging.shutdown()
    return code


def _read(connection: socket.socket, chunks: "queue.SimpleQueue[Chunk | None]") -> None:
    with contextlib.suppress(OSError), connection.makefile("rb") as lines:
        for line in lines:
            provider, *args = orjson.loads(line)
            chunks.put(Chunk.from_args(provider, args))
    chunks.put(None)
    os.kill(os.getpid(), signal.SIGTERM)  # a call under way gets its grace


def main(arguments: Sequence[str]) -> int:
    """Be a fork server until the worker is gone. Returns the exit code."""
    source, lane, origin, *routes = arguments
    set_aside()
    quieten()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = load_settings(Path(source) if Path(source).is_file() else None)
    set_title("worker", served(routes, len(settings.routes)), lane, "(fork server)")
    control = socket.socket(fileno=os.dup(0))
    with Path(os.devnull).open("rb") as nothing:  # a child that kept it would hide the end of its server
        os.dup2(nothing.fileno(), 0)
    return serve(control, partial(run_isolated, settings, lane, origin, routes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
