"""Monitor of a process's dependencies: notices a database, shared state or broker that hangs or refuses to write."""

import logging
import threading
from collections.abc import Callable

import redis

from trivet_routing.liveness.process_impairments import (
    BROKER,
    DATABASE,
    SHARED_STATE,
    WATCH,
    ProcessImpairments,
    announce,
    withdraw,
)
from trivet_store.database.engine import Store
from trivet_tasks.config.server_urls import masked, read_server_url
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import place_of
from trivet_tasks.server_errors import explain
from trivet_tasks.shared_state import check_writable, connect, unavailable_text

log = logging.getLogger("trivet")

LOOK_EVERY_S = 1.0
HUNG_S = 5.0
"""A transaction that takes longer is an impairment: nothing here needs a tenth of it."""


class DependencyMonitor:
    """One per process. Looks once a second, from a thread of its own, because the others may hang."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        process_impairments: ProcessImpairments,
        *,
        process: str,
        part: str,
        look_also: Callable[[], None] = lambda: None,
    ) -> None:
        """Create the monitor; nothing is started yet.

        Args:
            look_also: called at each look, before the queries that may hang.
        """
        self._store = store
        self._look_also = look_also
        self._url = settings.redis_url
        self._client = connect(self._url)
        self._broker_url = settings.broker_url
        self._broker = _broker_beside(settings)
        self._process_impairments = process_impairments
        self._process = process
        self._part = part
        self._announced = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trivet-watch", daemon=True)

    def start(self) -> None:
        """Start looking."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking. Announcements expire by themselves within seconds."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_S):
            try:
                self._look()
            except Exception as error:
                log.error("the watch failed by a fault of Trivet's own: %s", place_of(error))

    def _look(self) -> None:
        self._process_impairments.forget_old()
        self._look_also()
        if (waited_s := self._store.waited_s) > HUNG_S:
            why = f"The database {self._store.shown_url} has not answered for {waited_s:.0f} s."
            self._process_impairments.note(DATABASE, WATCH, why)
        else:
            self._process_impairments.over(DATABASE, WATCH)
        if self._broker is not None:
            self._look_at_broker(self._broker)
        try:
            check_writable(self._client)  # one without memory answers a PING
        except redis.RedisError as error:
            self._process_impairments.note(SHARED_STATE, WATCH, unavailable_text(self._url, error))
            return
        self._process_impairments.over(SHARED_STATE, WATCH)
        self._announce()

    def _look_at_broker(self, broker: redis.Redis) -> None:
        try:
            check_writable(broker)
        except redis.RedisError as error:
            self._process_impairments.note(BROKER, WATCH, f"The broker {masked(self._broker_url)} {explain(error)}")
            return
        self._process_impairments.over(BROKER, WATCH)

    def _announce(self) -> None:
        impairment = self._process_impairments.text
        try:
            if impairment:
                announce(self._client, self._process, self._part, impairment, self._process_impairments.since)
            elif self._announced:
                withdraw(self._client, self._process)
        except redis.RedisError as error:
            self._process_impairments.note(SHARED_STATE, WATCH, unavailable_text(self._url, error))
        else:
            self._announced = bool(impairment)


def _broker_beside(settings: Settings) -> redis.Redis | None:
    """Return a client of the broker, where that is a Redis and not the one of the shared state."""
    broker, shared = read_server_url(settings.broker_url), read_server_url(settings.redis_url)
    return None if broker.is_amqp or broker == shared else connect(settings.broker_url)
