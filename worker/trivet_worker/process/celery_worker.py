"""The Celery worker of one lane: its tasks, its queues, its name, its signals, its memory."""

import contextlib
import ctypes
import gc
import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from celery import Celery, signals
from celery.apps.worker import Worker
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning
from celery.worker import state
from kombu import Connection

from trivet_tasks.celery_app import make_app, register_tasks
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import ConfigError
from trivet_tasks.latency import Lane, Latency
from trivet_tasks.messages import queue_of
from trivet_tasks.processes.signals import Reloader, StopRequests
from trivet_tasks.processes.startup import python_command, served, set_title, without_collecting
from trivet_worker.process.consumer_steps import consuming, inspection_only
from trivet_worker.process.intake import Intake, strict_consumer
from trivet_worker.process.isolated_process import run_isolated
from trivet_worker.process.runtime import Runtime
from trivet_worker.process.stopping import Stopper
from trivet_worker.process.strict_transport import strict_connection
from trivet_worker.run.context import origin_of
from trivet_worker.run.fork_server import ForkServer
from trivet_worker.run.process_state import Drops

log = logging.getLogger("trivet.worker")

MAX_THREADS = 256
"""A chunk holds a thread until its last job is written down; idle threads cost nothing to speak of."""
CRASHED = 1
_M_ARENA_MAX = -8  # malloc.h of glibc


def run_worker(settings: Settings, *, lane: Lane, routes: Sequence[str], on_ready: Callable[[], None]) -> int:
    """Run a worker process for the queues of these routes and this lane until it is told to stop. Returns the exit code.

    SIGTERM, SIGINT: no new chunk, running calls get the grace time. A second one: at once (`stopping.py`). SIGHUP: the
    routes are read from the file again; where standard input is a terminal, which is gone then, as SIGTERM.

    Raises:
        ConfigError: a route is not configured. StoreError: the database cannot be used.
    """
    _refuse_unknown(settings, routes)
    if lane == Lane.BULK and settings.worker.bulk_nice:
        os.nice(settings.worker.bulk_nice)
    _share_one_heap()
    # Celery warns root of pickled messages; only JSON is taken here
    warnings.filterwarnings("ignore", category=SecurityWarning)
    forks = _forked_server(settings, lane, routes)
    app = make_app(settings)
    name = worker_name(lane, routes, len(settings.routes))
    drops = Drops()
    runtime = Runtime(settings, app, worker=name, lane=lane, routes=routes, drops=drops, forks=forks)
    queues = {
        queue_of(app, route, latency).name: route for route in routes for latency in Latency if latency.lane == lane
    }
    intake = Intake({name: settings.routes[name] for name in routes}, lane, queues, drops)
    _adapt(app, runtime, intake, queues)
    signals.worker_ready.connect(lambda **_: on_ready(), weak=False)
    requests = StopRequests(_end_celery, on_hangup=Reloader(settings, runtime.reload, log).ask)
    stopper = Stopper(runtime, settings.worker.shutdown_grace_s, requests)
    stopper.start()
    code = CRASHED
    try:
        with without_collecting():  # it imports the SDKs
            runtime.start()
        _collect_seldom()
        code = _consume(app, name, queues, min(MAX_THREADS, settings.worker.slots))
    finally:
        left = stopper.finish()
    return code or left


def _refuse_unknown(settings: Settings, routes: Sequence[str]) -> None:
    for route in routes:
        if route not in settings.routes:
            raise ConfigError(
                f"{settings.source}: no route is called {route!r}.",
                hint=f"Configured: {', '.join(settings.routes) or 'none'}.",
            )


def _forked_server(settings: Settings, lane: Lane, routes: Sequence[str]) -> ForkServer:
    """Fork the server of quarantined jobs' processes. Call it before anything is begun."""
    origin, of_routes = origin_of(settings), served(routes, len(settings.routes))
    set_title("worker", of_routes, lane, "(fork server)")  # the forked process keeps it
    forks = ForkServer(python_command("trivet_worker.process.isolated_process", settings.source, lane, origin, *routes))
    forks.fork(partial(run_isolated, settings, lane, origin, routes))
    set_title("worker", of_routes, lane)
    return forks


def _adapt(app: Celery, runtime: Runtime, intake: Intake, queues: Mapping[str, str]) -> None:
    """Give the application Trivet's tasks, and the consumer and transport that take nothing but its messages."""
    register_tasks(app, runtime.run)
    app.steps["consumer"].update((consuming(runtime, queues), inspection_only(intake.unreadable)))
    app.conf.worker_consumer = strict_consumer(intake)
    app.amqp.Connection = strict_connection(_PatientConnection, intake.unreadable)


def _consume(app: Celery, name: str, queues: Iterable[str], threads: int) -> int:
    """Run Celery's worker until it is told to stop. Returns the exit code."""
    worker = app.subclass_with_self(_LaneWorker, name="Worker")(
        hostname=name,
        pool="threads",
        concurrency=threads,
        queues=list(queues),
        loglevel=logging.getLogger().getEffectiveLevel(),
        task_events=True,
        without_gossip=True,
        without_mingle=True,
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def worker_name(lane: Lane, routes: Sequence[str], configured: int) -> str:
    """Return the worker's name in Flower: what it serves, its lane, its process and machine."""
    return f"{served(routes, configured)}.{lane}.{os.getpid()}@{socket.gethostname()}"


def _share_one_heap() -> None:
    """Let all threads take memory from one heap, so that one can use what another gave back. Call it at a process's start.

    By default glibc gives each thread one of its own, up to eight for each core: 16 MB more for 1,000 prompts of 40 KB,
    which are read by the threads of their chunks and sent by another. Nothing is changed where the C library is not glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _collect_seldom() -> None:
    """Keep the garbage collector from objects that live as long as the process, and let it run less often.

    Measured: with Python's own thresholds a seventh of a busy worker's CPU went into walks over modules and settings.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


class _LaneWorker(Worker):  # type: ignore[misc] # Celery has no types
    """Celery's worker without its signal handlers, which the stopper replaces, and without its process title."""

    def set_process_status(self, info: str) -> None:
        del info

    def install_platform_tweaks(self, worker: Any) -> None:
        del worker
        # Celery turned it on: at every loss of the broker it tells of late acknowledgement, which is not used here
        warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)


class _PatientConnection(Connection):  # type: ignore[misc] # kombu has no types
    """Asks every few seconds for a broker that went away; Celery would wait up to half a minute longer."""

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        return super().ensure_connection(*args, **{**options, "interval_step": 1, "interval_max": 3})


def _end_celery() -> None:
    """Let Celery take no more messages and end once its threads have. Called from a signal handler."""
    state.should_stop = 0
