"""The Celery application, set up so that SQL does the remembering and Celery the carrying."""

from typing import Any

from celery import Celery
from celery.loaders.app import AppLoader

from trivet_tasks.settings import Settings

MAX_CONNECTIONS = 512


class _Loader(AppLoader):  # type: ignore[misc] # Celery has no types
    """Takes no configuration from a module that CELERY_CONFIG_MODULE names: another application's, mostly."""

    def read_configuration(self, env: str = "") -> dict[str, Any]:
        del env
        return {}


class _App(Celery):  # type: ignore[misc] # Celery has no types
    """Connects to the broker of the settings. Celery would rather follow CELERY_BROKER_URL and its variants."""

    trivet_broker_url = ""

    def connection_for_read(self, url: str | None = None, **options: Any) -> Any:
        return super().connection_for_read(url or self.trivet_broker_url, **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> Any:
        return super().connection_for_write(url or self.trivet_broker_url, **options)

    def connection(self, hostname: str | None = None, *arguments: Any, **options: Any) -> Any:
        return super().connection(hostname or self.trivet_broker_url, *arguments, **options)


def make_app(settings: Settings) -> Celery:
    """A Celery application for these settings. It opens no connection by itself."""
    app = _App("trivet", broker=settings.broker_url, loader=_Loader, fixups=[], set_as_current=False)
    app.trivet_broker_url = settings.broker_url
    app.conf.update(
        task_acks_late=False,  # a redelivered message would be a second bill
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_serializer="json",
        accept_content=["json"],
        task_default_queue="trivet.default",
        task_send_sent_event=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_hijack_root_logger=False,
        worker_send_task_events=True,
        worker_enable_remote_control=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # a hundred by default, and then the worker ends
        broker_channel_error_retry=True,  # a Redis that refuses to write (a full disk) is waited for like one that is gone
        broker_transport_options={
            "max_connections": MAX_CONNECTIONS,
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 25,
            "queue_order_strategy": "round_robin",
        },
    )
    return app
