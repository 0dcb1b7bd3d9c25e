"""The client of a process that runs `generate` tasks: one, made when first used."""

import atexit
import threading
from typing import Any

from celery.signals import worker_process_shutdown, worker_shutdown

from trivet.client.client import Client

_lock = threading.Lock()
_client: Client | None = None


def process_client() -> Client:
    """Return the client of this process, for all of its threads. A child of a prefork pool opens connections of its own.

    Raises:
        ConfigError: the configuration is wrong, or there is none.
    """
    global _client
    with _lock:
        if _client is None:
            _client = Client()
        return _client


def close_client(**_: Any) -> None:
    """Close the client of this process, if it has one. The next use makes another."""
    global _client
    with _lock:
        client, _client = _client, None
    if client is not None:
        client.close()


worker_process_shutdown.connect(close_client)
worker_shutdown.connect(close_client)
atexit.register(close_client)
