"""Connections of a client: opened when first used, reset after a fork."""

import getpass
import logging
import os
import socket
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import redis

from trivet.client.waiting import Notices
from trivet_store.database.engine import Store
from trivet_store.migrations.schema_version import ensure
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import Settings, load_settings
from trivet_tasks.errors import BrokerUnavailable, ClientClosed
from trivet_tasks.server_errors import says_what_to_do
from trivet_tasks.shared_state import connect, publish_finished, publish_work, unavailable_text

if TYPE_CHECKING:
    from celery import Celery

    from trivet.client.answer_streams import AnswerStreams
    from trivet.client.stream_loop import StreamLoop
    from trivet.client.unattended import Unattended
    from trivet_routing.limits import Limits
    from trivet_routing.route_directory import RouteDirectory
    from trivet_scheduler.dispatch import Dispatcher
    from trivet_scheduler.probing import Prober
    from trivet_store.ledger.budgets import AskedLabels

log = logging.getLogger("trivet")


class Connections:
    """Database, shared state and notices of one client. Safe to share between threads and after a fork."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.notices = Notices(settings.redis_url)
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._closed = False
        _opened.add(self)

    @property
    def store(self) -> Store:
        """The database, its schema checked once.

        Raises:
            ClientClosed: after `close`.
            StoreUnavailable, SchemaMismatch: it cannot be used.
        """
        with self._lock:
            self._check_open()
            if self._store is None:
                store = Store.of(self.settings)
                ensure(store)
                self._store = store
            return self._store

    def now(self) -> float:
        """Return the database's time, seconds since the epoch: asked once, then reckoned by this process's own clock.

        Raises:
            StoreUnavailable, SchemaMismatch: the database cannot be used.
        """
        store = self.store
        if store.clock.ahead is None:
            with store.read() as connection:
                return store.now(connection)
        return store.clock.reckoned()

    @cached_property
    def asked_labels(self) -> "AskedLabels":
        """Labels of jobs that budgets ask for."""
        from trivet_store.ledger.budgets import AskedLabels  # a command that only reads needs none

        return AskedLabels(self.store)

    @cached_property
    def unattended(self) -> "Unattended":
        """Looks whether anybody takes the jobs of this client."""
        from trivet.client.unattended import Unattended  # as for `asked_labels`

        return Unattended(self.store, self.settings)

    def known_routes(self) -> dict[str, RouteSettings]:
        """The routes of the settings, and those that schedulers and workers registered."""
        from trivet_store.cluster.registry import registered

        store = self.store
        with store.read() as connection:
            known = {name: route.settings for name, route in registered(store, connection).items()}
        return {**self.settings.routes, **known}

    @cached_property
    def redis(self) -> redis.Redis:
        """The shared state. ClientClosed after `close`."""
        self._check_open()
        return connect(self.settings.redis_url)

    @cached_property
    def limits(self) -> "Limits":
        """Health and limits of the routes, in the shared state; needs no database."""
        from trivet_routing.limits import Limits

        return Limits(self.redis, self.settings.health)

    @cached_property
    def directory(self) -> "RouteDirectory":
        """The current state of the routes."""
        from trivet_routing.route_directory import RouteDirectory

        return RouteDirectory(self.store, self.limits)

    @cached_property
    def celery(self) -> "Celery":
        """The broker, to send messages; loads Celery. ClientClosed after `close`."""
        self._check_open()
        from trivet_tasks.celery_app import make_app

        return make_app(self.settings)

    @cached_property
    def dispatcher(self) -> "Dispatcher":
        """For realtime jobs, which their producer dispatches itself."""
        from trivet_scheduler.dispatch import Dispatcher

        return Dispatcher(self.store, self.directory, self.celery, self.settings)

    @cached_property
    def stream_loop(self) -> "StreamLoop":
        """The thread in which streamed answers are read. ClientClosed after `close`."""
        self._check_open()
        from trivet.client.stream_loop import StreamLoop  # most clients read no stream

        return StreamLoop(self.answer_streams())

    def answer_streams(self) -> "AnswerStreams":
        """Return a reader of streamed answers for one event loop."""
        from trivet.client.answer_streams import AnswerStreams  # as for `stream_loop`

        return AnswerStreams(self.settings, lambda: self.store)

    @cached_property
    def prober(self) -> "Prober":
        """For a probe that a person asks for."""
        from trivet_scheduler.probing import Prober

        return Prober(self.store, self.directory, self.celery, self.settings)

    def unavailable(self, error: Exception) -> BrokerUnavailable:
        """Return the error to raise when the shared state is needed and does not answer."""
        hint = (
            ""
            if says_what_to_do(error)
            else "Its own log says why."
            if isinstance(error, redis.ResponseError)
            else "`trivet up` starts one on this machine."
            if self.settings.embedded
            else "Is the server running and the URL right?"
        )
        return BrokerUnavailable(unavailable_text(self.settings.redis_url, error), hint=hint)

    @contextmanager
    def requires_redis(self) -> Iterator[None]:
        """Raise BrokerUnavailable if the shared state does not answer inside the block."""
        try:
            yield
        except redis.RedisError as error:
            raise self.unavailable(error) from None

    def tell_work(self) -> None:
        """Wake the schedulers. Without the broker they find the jobs by themselves once it is back."""
        try:
            publish_work(self.redis)
        except (redis.RedisError, ClientClosed) as error:
            log.debug("nobody was woken: %s", error)

    def tell_finished(self, jobs: Sequence[str], batches: Sequence[int] = ()) -> None:
        """Wake clients that wait for these jobs."""
        try:
            publish_finished(self.redis, jobs, batches)
        except (redis.RedisError, ClientClosed) as error:
            log.debug("nobody was woken: %s", error)

    def close(self) -> None:
        """Close everything that was opened, for good. Does nothing a second time."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.notices.close()
        opened = {name: self.__dict__.pop(name, None) for name in _cached_names()}
        if opened["stream_loop"] is not None:
            opened["stream_loop"].close()
        if opened["celery"] is not None:
            opened["celery"].close()
        if opened["redis"] is not None:
            opened["redis"].close()
        if self._store is not None:
            self._store.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("The client was closed.")

    def reset_after_fork(self) -> None:
        """Drop the parent's connections in the child after a fork, without closing them."""
        self._lock = threading.Lock()
        self.notices.forget_after_fork()
        for name in _cached_names():
            self.__dict__.pop(name, None)


def _cached_names() -> list[str]:
    return [name for name, attribute in vars(Connections).items() if isinstance(attribute, cached_property)]


class Connected:
    """Base of `Client` and `Admin`: the connections of one Trivet. Thread-safe; may be made before a fork and used after it.

    Args:
        config: the configuration file; else `TRIVET_CONFIG`, or the nearest `trivet.toml` or running `trivet up`, in this
            folder or above; else `TRIVET_*` variables.
        settings: settings made elsewhere, instead of a file.

    Raises:
        ConfigError: the configuration is wrong, or there is none. The database is opened when first used.
    """

    def __init__(self, config: Path | str | None = None, *, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings(Path(config) if config else None, required=True)
        self._connections = Connections(self.settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def now(self) -> float:
        """Return the database's time, in seconds since the epoch: deadlines are counted by it.

        Raises:
            StoreUnavailable, SchemaMismatch: the database cannot be used.
        """
        return self._connections.now()

    def close(self) -> None:
        """Close the connections, for good. Jobs go on.

        Threads that wait for a result, and every later call, raise `ClientClosed`.
        """
        self._connections.close()


_opened: "weakref.WeakSet[Connections]" = weakref.WeakSet()


def _reset_all() -> None:
    for connections in list(_opened):
        connections.reset_after_fork()


os.register_at_fork(after_in_child=_reset_all)  # once: it cannot be taken back


def current_operator() -> str:
    """Return the user and machine that this process runs as: `anna@build-7`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
