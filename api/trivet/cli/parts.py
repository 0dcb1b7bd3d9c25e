"""One part of Trivet each, for real deployments: `trivet worker`, `scheduler`, `simulate`, `flower`."""

import logging
import signal
from typing import Annotated

import typer

from trivet.cli import context
from trivet_tasks.errors import ConfigError
from trivet_tasks.supervised import announce_ready


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(worker)
    app.command()(scheduler)


def worker(
    routes: Annotated[str, typer.Option(help="The routes to serve, by comma; all that are configured when not given.")] = "",
    lane: Annotated[str, typer.Option(help="realtime or bulk; both, a process each, when not given.")] = "both",
) -> None:
    """Run a worker: it takes chunks from the queues of its routes and makes the calls."""
    settings = context.settings()
    logging.getLogger().setLevel(logging.INFO)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    named = [name.strip() for name in routes.split(",") if name.strip()] or list(settings.routes)
    if not named:
        raise ConfigError(f"{settings.source}: no route is configured.", hint="`trivet config init` writes a file with some.")
    if lane not in ("realtime", "bulk", "both"):
        raise ConfigError(f"--lane: {lane!r} is not a lane.", hint="Use realtime, bulk or both.")
    if lane == "both":
        from trivet.cli.lanes import run_both

        raise SystemExit(run_both(named))
    from trivet_worker.celery_worker import run_worker

    raise SystemExit(run_worker(settings, lane=lane, routes=named, on_ready=announce_ready))


def scheduler() -> None:
    """Run a scheduler: it dispatches waiting jobs and keeps house. Any number may run."""
    from trivet_scheduler.service import Scheduler

    logging.getLogger().setLevel(logging.INFO)
    running = Scheduler(context.settings())
    signal.signal(signal.SIGTERM, lambda *_: running.stop())
    signal.signal(signal.SIGINT, lambda *_: running.stop())
    running.run(on_ready=announce_ready)
