"""The Celery application of a running Trivet: reads its workers and its jobs, and changes neither behind Trivet's back."""

from functools import cache, cached_property
from pathlib import Path
from typing import Any, NoReturn

import click

from trivet.celery.commands import adapt_command, within_celery
from trivet.celery.control import Control
from trivet.celery.results import ResultBackend
from trivet.client.client import Client
from trivet_tasks.celery_app import App, make_app
from trivet_tasks.config.settings import Settings, load_settings
from trivet_tasks.errors import ConfigError
from trivet_tasks.latency import Latency
from trivet_tasks.messages import queue_of

_USAGE = 2


class TrivetApp(App):
    """Celery application whose results are Trivet's jobs, and whose tasks only Trivet's own processes send and run."""

    backend_cls = ResultBackend
    control_cls = Control
    trivet_settings: Settings

    @cached_property
    def trivet_client(self) -> Client:
        """The client through which results are read and jobs are cancelled."""
        return Client(settings=self.trivet_settings)

    @property
    def Worker(self) -> Any:  # noqa: N802 # Celery's name
        """Refuse to be a worker, and name the command that is one."""
        return self._refuse_worker

    def Beat(self, **_: Any) -> NoReturn:  # noqa: N802 # Celery's name
        """Refuse to be a beat: Trivet's scheduler does the periodic work."""
        raise click.UsageError("Trivet's scheduler does the periodic work. Run `trivet scheduler`.")

    def send_task(self, name: str, *_: Any, **__: Any) -> NoReturn:
        """Refuse: only Trivet's schedulers and workers send to its queues."""
        raise click.UsageError(
            f"{name} was not sent: Trivet's queues carry jobs from its database alone. Submit one by `trivet submit`, or in "
            "Python by `trivet.Client().submit(…)`."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the place of the configuration, and no password: results can be handed to another process."""
        return application_of, (self.trivet_settings.path,)

    def close(self) -> None:
        """Close the connections to broker, database and shared state."""
        if "trivet_client" in self.__dict__:
            self.trivet_client.close()
        super().close()

    def _refuse_worker(self, queues: Any = None, **_: Any) -> NoReturn:
        named = queues.split(",") if isinstance(queues, str) else list(queues or ())
        raise click.UsageError(f"Trivet's workers are started by their own command. Run `{worker_command(named)}`.")


def worker_command(queues: list[str]) -> str:
    """Return the command that starts a worker for these queues; without queues, for all.

    Example:
        worker_command(["bedrock-us-east-1.batch"]) == "trivet worker --routes bedrock-us-east-1 --lane bulk"
    """
    pairs = [queue.strip().rpartition(".") for queue in queues]
    routes = sorted({route for route, _, latency in pairs if route and latency in set(Latency)})
    lanes = {Latency(latency).lane for route, _, latency in pairs if route and latency in set(Latency)}
    options = [f"--routes {','.join(routes)}"] if routes else []
    options += [f"--lane {lane}" for lane in lanes if len(lanes) == 1]
    return " ".join(["trivet worker", *options])


def application(settings: Settings) -> TrivetApp:
    """Return the application for these settings. It opens no connection by itself."""
    app: TrivetApp = make_app(settings, TrivetApp)
    app.trivet_settings = settings
    app.conf.result_backend = "trivet"  # named in reports alone: the class decides
    if settings.routes:
        app.amqp.queues.select([queue_of(app, route, latency).name for route in settings.routes for latency in Latency])
    return app


@cache
def application_of(path: Path | None) -> TrivetApp:
    """Return this process's application for a configuration file; None: for the configuration in force.

    Raises:
        ConfigError: the configuration is wrong.
    """
    return application(load_settings(path))


def load_app() -> TrivetApp:
    """Return the application for the configuration in force (`TRIVET_CONFIG`, `trivet.toml`).

    Raises:
        ConfigError: the configuration is wrong. Within the `celery` command it ends the process with its text instead,
            where Celery would print a traceback.
    """
    try:
        app = application(load_settings())
    except ConfigError as error:
        if not within_celery():
            raise
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(_USAGE) from None
    if within_celery():
        adapt_command(app.trivet_broker_url)
    return app
