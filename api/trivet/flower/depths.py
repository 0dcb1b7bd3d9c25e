"""Number of messages in the broker's queues: asked of Redis or RabbitMQ over the connection that Trivet itself uses.

Flower asks with clients of its own: they know no Sentinels with TLS, verify certificates by other settings, and need
RabbitMQ's management plugin. Here a queue of RabbitMQ is declared passively, which any of its users may do.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import redis
from amqp.exceptions import NotFound
from celery import Celery

from trivet_tasks.config.server_urls import read_server_url
from trivet_tasks.config.settings import Settings
from trivet_tasks.server_errors import BROKER_ERRORS, broker_unavailable
from trivet_tasks.shared_state import connect

CONNECT_S = 2.0


class QueueDepths:
    """Reads depths in threads, in the form of Flower's brokers: `await depths.queues(names)`."""

    def __init__(self, settings: Settings, celery: Celery) -> None:
        self._url = settings.broker_url
        self._celery = celery
        self._redis: redis.Redis | None = None if read_server_url(self._url).is_amqp else connect(self._url)

    async def queues(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """Return `{"name": …, "messages": …}` for each of these queues; 0 for one that nobody has declared.

        Raises:
            BrokerUnavailable: the broker does not answer, or refuses.
        """
        depths = await asyncio.get_running_loop().run_in_executor(None, self._read, list(names))
        return [{"name": name, "messages": messages} for name, messages in depths.items()]

    def _read(self, names: list[str]) -> dict[str, int]:
        try:
            return self._of_rabbitmq(names) if self._redis is None else self._of_redis(self._redis, names)
        except BROKER_ERRORS as error:
            raise broker_unavailable(self._url, error) from None

    @staticmethod
    def _of_redis(client: redis.Redis, names: list[str]) -> dict[str, int]:
        with client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.llen(name)
            return dict(zip(names, pipeline.execute(), strict=True))

    def _of_rabbitmq(self, names: list[str]) -> dict[str, int]:
        depths = {}
        with self._celery.connection_for_read(connect_timeout=CONNECT_S) as connection:
            channel = connection.channel()
            for name in names:
                try:
                    depths[name] = int(channel.queue_declare(name, passive=True).message_count)
                except NotFound:  # it closes the channel
                    depths[name] = 0
                    channel = connection.channel()
        return depths
