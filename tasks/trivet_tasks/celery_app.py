"""The Celery application and its tasks: one task for each provider, named so that Flower and its metrics tell them apart.

A task runs a chunk of jobs. Its message holds ids and fencing tokens; results and costs go to the database, so a task has
no result of its own.
"""

from collections.abc import Callable, Mapping
from typing import Any

from celery import Celery
from celery.loaders.app import AppLoader

from trivet_tasks.catalog import PROVIDERS
from trivet_tasks.config.server_urls import ServerUrl, read_server_url
from trivet_tasks.config.settings import Settings
from trivet_tasks.messages import Chunk, task_name

MAX_CONNECTIONS = 512
HEARTBEAT_S = 20
"""Heartbeat interval: RabbitMQ and a worker drop a connection on which the other was silent for two of these."""
TRANSIENT = 1
"""AMQP's delivery mode: messages are not written to disk. Jobs of lost messages are dispatched again."""


class _Loader(AppLoader):  # type: ignore[misc] # Celery has no types
    """Loader that ignores CELERY_CONFIG_MODULE, which mostly names another application's module."""

    def read_configuration(self, env: str = "") -> dict[str, Any]:
        del env
        return {}


class App(Celery):  # type: ignore[misc] # Celery has no types
    """Connects to the broker of the settings. Celery would rather follow CELERY_BROKER_URL and its variants."""

    trivet_broker_url = ""
    """URL of the broker of the settings, as Celery takes it."""

    def connection_for_read(self, url: str | None = None, **options: Any) -> Any:
        """Return a connection to consume from; `url` as in Celery."""
        return super().connection_for_read(url or self.trivet_broker_url, **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> Any:
        """Return a connection to publish to; `url` as in Celery."""
        return super().connection_for_write(url or self.trivet_broker_url, **options)

    def connection(self, hostname: str | None = None, *arguments: Any, **options: Any) -> Any:
        """Return a connection; `hostname` is a URL, as in Celery."""
        return super().connection(hostname or self.trivet_broker_url, *arguments, **options)


def make_app(settings: Settings, kind: type[App] = App) -> Celery:
    """Return a Celery application of this class for these settings. It opens no connection by itself."""
    server = read_server_url(settings.broker_url)
    app = kind("trivet", broker=server.celery_url, loader=_Loader, fixups=[], set_as_current=False)
    app.trivet_broker_url = server.celery_url
    app.conf.update(
        task_acks_late=False,  # a redelivered message would be a second bill
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_serializer="json",
        accept_content=["json"],
        task_default_queue="trivet.default",
        task_default_delivery_mode=TRANSIENT,
        task_send_sent_event=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=not server.is_amqp,  # Redis alone has it; for RabbitMQ see `trivet_worker.process.consumer_steps`
        # after a reconnect Celery would restore it from a pool thread, which reads the answer from the connection that
        # the event loop reads, too: both take parts of frames, and the worker stands still until the broker hangs up
        worker_enable_prefetch_count_reduction=False,
        worker_hijack_root_logger=False,
        worker_send_task_events=True,
        worker_enable_remote_control=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # a hundred by default, and then the worker ends
        broker_channel_error_retry=True,  # a Redis that refuses to write (a full disk) is waited for like one that is gone
        broker_heartbeat=HEARTBEAT_S,
        broker_use_ssl=server.celery_tls(),
        broker_transport_options=_amqp_options(server) if server.is_amqp else _redis_options(server),
    )
    return app


def make_sender(name: str, url: str, transport_options: Mapping[str, Any]) -> Celery:
    """Return an application that sends tasks to an application of the user. It opens no connection by itself.

    Args:
        name: name of the user's application (`Celery("NAME")`).
        url: its broker's, as `read_server_url` takes it.
        transport_options: Celery's `broker_transport_options`, over Trivet's own for such a broker.
    """
    server = read_server_url(url)
    app = App(name, broker=server.celery_url, loader=_Loader, fixups=[], set_as_current=False)
    app.trivet_broker_url = server.celery_url
    own = _amqp_options(server) if server.is_amqp else _redis_options(server)
    app.conf.update(
        task_serializer="json",
        task_send_sent_event=False,
        broker_heartbeat=HEARTBEAT_S,
        broker_use_ssl=server.celery_tls(),
        broker_transport_options={**own, **transport_options},
    )
    return app


# Kombu shares its pools between the applications of a process and tells them apart by URL and transport options, not by
# TLS: without the TLS options here one that verifies nothing could lend its connections to one that does.


def _amqp_options(server: ServerUrl) -> dict[str, Any]:
    options: dict[str, Any] = {"connect_timeout": 5, "write_timeout": 10}
    return options if server.tls is None else {**options, "ssl": server.celery_tls()}


def _redis_options(server: ServerUrl) -> dict[str, Any]:
    options: dict[str, Any] = {
        "max_connections": MAX_CONNECTIONS,
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "queue_order_strategy": "round_robin",
        "tls": server.tls,
    }
    if server.scheme == "sentinel":
        patience = {"socket_timeout": 5, "socket_connect_timeout": 5}
        options |= {"master_name": server.master, "sentinel_kwargs": {**patience, **server.sentinel_options()}}
    return options


def register_tasks(app: Celery, run: Callable[[Chunk], int]) -> None:
    """Register `trivet.run.PROVIDER` for every provider.

    Args:
        app: the application of this process (`celery_app.make_app`).
        run: runs a chunk to its end and returns the number of jobs that it ran.
    """
    for provider in PROVIDERS:
        app.task(name=task_name(provider), ignore_result=True)(_task(provider, run))


def _task(provider: str, run: Callable[[Chunk], int]) -> Callable[..., int]:
    def run_chunk(*args: Any) -> int:
        return run(Chunk.from_args(provider, args))

    return run_chunk
