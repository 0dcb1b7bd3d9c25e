"""The Celery worker of one lane: its tasks, its queues, its name, its signals."""

import logging
import os
import socket
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from celery import Celery, signals
from celery.exceptions import SecurityWarning

from trivet_tasks.celery_app import make_app
from trivet_tasks.errors import ConfigError
from trivet_tasks.latency import Latency
from trivet_tasks.messages import Chunk, queue_name, task_name
from trivet_tasks.settings import Settings
from trivet_worker.runtime import Runtime

log = logging.getLogger("trivet.worker")

MAX_THREADS = 256
"""A chunk holds a thread until its last job is written down; idle threads cost nothing to speak of."""
PROVIDERS = ("anthropic", "bedrock", "vertex")


def run_worker(
    settings: Settings, *, lane: str, routes: Sequence[str], on_ready: Callable[[], None] | None = None
) -> int:
    """Run a worker process for the queues of these routes and this lane until it is told to stop. Returns the exit code.

    SIGTERM and SIGINT: no new chunk, running calls get the grace time. A second one: at once.

    Raises:
        ConfigError: a route is not configured. StoreError: the database cannot be used.
    """
    for route in routes:
        if route not in settings.routes:
            raise ConfigError(
                f"{settings.source}: no route is called {route!r}.",
                hint=f"Configured: {', '.join(settings.routes) or 'none'}.",
            )
    # it warns root of pickled messages; only JSON is taken here
    warnings.filterwarnings("ignore", category=SecurityWarning)
    app = make_app(settings)
    name = worker_name(lane, routes, len(settings.routes))
    runtime = Runtime(settings, app, worker=name, lane=lane, routes=routes)
    _register_tasks(app, runtime)
    _connect_signals(runtime, on_ready)
    runtime.start()
    try:
        worker = app.Worker(
            hostname=name,
            pool="threads",
            concurrency=min(MAX_THREADS, settings.worker.slots),
            queues=[queue_name(route, latency) for route in routes for latency in Latency if latency.lane == lane],
            loglevel=logging.getLogger().getEffectiveLevel(),
            task_events=True,
            without_gossip=True,
            without_mingle=True,
            quiet=True,
        )
        worker.start()
        return int(worker.exitcode or 0)
    finally:
        runtime.close()


def worker_name(lane: str, routes: Sequence[str], configured: int) -> str:
    """What Flower calls the worker: what it serves, its lane, its process and machine."""
    served = "all" if len(routes) == configured and configured > 1 else "+".join(routes)
    return f"{served[:80]}.{lane}.{os.getpid()}@{socket.gethostname()}"


def _register_tasks(app: Celery, runtime: Runtime) -> None:
    for provider in PROVIDERS:
        app.task(name=task_name(provider), ignore_result=True)(_runner(runtime, provider))


def _runner(runtime: Runtime, provider: str) -> Callable[..., int]:
    def run_chunk(*args: Any) -> int:
        return runtime.run(Chunk.from_args(provider, args))

    return run_chunk


def _connect_signals(runtime: Runtime, on_ready: Callable[[], None] | None) -> None:
    def stopping(**_: Any) -> None:
        runtime.begin_stop()

    def ready(**_: Any) -> None:
        if on_ready:
            on_ready()

    signals.worker_shutting_down.connect(stopping, weak=False)
    signals.worker_ready.connect(ready, weak=False)
