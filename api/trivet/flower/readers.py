"""Readers of what Flower's pages show: the backlog, the depths of the queues, and the shared state."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

import redis
from amqp.exceptions import NotFound
from celery import Celery

from trivet.admin import Admin, Backlog, CacheStats, RouteUse, ScheduleList
from trivet_tasks.config.server_urls import read_server_url
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import BrokerUnavailable, StoreError
from trivet_tasks.messages import BROKER_ERRORS, broker_unavailable
from trivet_tasks.shared_state import connect

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("trivet.flower")

PATIENCE_S = 3.0
"""Seconds that a page waits for a server before it does without."""
CONNECT_S = 2.0
STALE_S = 30.0
"""Figures up to this age are shown without a word while newer ones take their time."""
LEAST_PAUSE_S = 1.0
PAUSE_FACTOR = 5
"""Reads are at least a second apart, and at least this many times as long as the last one took, so that open pages and
scrapes together cost the database a sixth of its time at most, however large the backlog."""


class BacklogReader:
    """Reads the backlog and the schedules in a thread of its own. `latest` is for one event loop; calls at the same time share one read."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trivet-backlog")
        self._last = Backlog()
        self._schedules: ScheduleList | None = None
        self._next_at = 0.0
        self._read_until = -STALE_S
        self._reading: asyncio.Task[None] | None = None

    @property
    def last(self) -> Backlog:
        """Return the backlog that was read last, without waiting."""
        return self._last

    @property
    def schedules(self) -> ScheduleList | None:
        """Return the schedules that were read last; None: not read yet."""
        return self._schedules

    async def latest(self) -> Backlog:
        """Return the backlog, at most a few seconds old. Never raises: if the database is away, `stale` says so."""
        if self._reading is None and time.monotonic() >= self._next_at:
            self._reading = asyncio.create_task(self._refresh())
        reading = self._reading
        if reading is not None:
            await asyncio.wait({reading}, timeout=PATIENCE_S)
            if not reading.done() and time.monotonic() - self._read_until > STALE_S:
                return replace(self._last, stale=f"The database has not answered for {PATIENCE_S:g} s.")
        return self._last

    def close(self) -> None:
        """Start no further read; one under way is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _refresh(self) -> None:
        began = time.monotonic()
        try:
            self._last = await asyncio.get_running_loop().run_in_executor(self._thread, self._read)
        finally:
            ended = self._read_until = time.monotonic()
            self._next_at = ended + max(LEAST_PAUSE_S, PAUSE_FACTOR * (ended - began))
            self._reading = None

    def _read(self) -> Backlog:
        try:
            backlog = self._admin.health.backlog()
            self._schedules = self._admin.schedules.list()
            return backlog
        except StoreError as error:
            return replace(self._last, stale=str(error))
        except Exception as error:  # a page without figures is better than none
            log.exception("the backlog cannot be read")
            return replace(self._last, stale=f"The backlog cannot be read ({type(error).__name__}); see Flower's log.")


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
        depths = await asyncio.to_thread(self._read, list(names))
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


class SharedStateReader:
    """Reads the shared state in threads, for pages that must not wait for it."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin

    async def uses(self, routes: Sequence[str]) -> Mapping[str, RouteUse]:
        """Return the last call and the last answer of each route; nothing if the shared state does not answer."""
        return await _patiently(self._admin.routes.last_used, routes) or {}

    async def cache(self) -> CacheStats | None:
        """Return the figures of the response cache; None if the shared state does not answer."""
        return await _patiently(self._admin.cache.stats)


async def _patiently(read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.to_thread(read, *args, **kwargs)
    except (BrokerUnavailable, TimeoutError):
        return None
