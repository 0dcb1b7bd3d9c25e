"""The Celery application, set up so that SQL does the remembering and Celery the carrying."""

from celery import Celery

from trivet_tasks.settings import Settings

MAX_CONNECTIONS = 512


def make_app(settings: Settings) -> Celery:
    """A Celery application for these settings. It opens no connection by itself."""
    app = Celery("trivet", broker=settings.broker_url, set_as_current=False)
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
