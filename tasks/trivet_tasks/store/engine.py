"""Opening the database: one engine per process, short transactions, the same SQL on SQLite and PostgreSQL."""

import json
import math
import os
import random
import sqlite3
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from trivet_tasks.errors import ConfigError, StoreUnavailable
from trivet_tasks.store.clock import Clock
from trivet_tasks.store.planner import plan_by_index
from trivet_tasks.urls import masked, sqlite_path

BUSY_TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 5
POOL_SIZE = 8
SLOW_S = 2.0
"""A transaction that takes longer waits for a database that hangs: whoever renews a lease may wait, too."""
PAUSE_S = (0.0003, 0.0015)
"""Between two looks whether SQLite's write lock is free: from, to."""
STANDING_BACK_S = (0.003, 0.008)
"""The same for those who let others come first."""
BULK_ROWS = 200
"""Rows of one bulk transaction at most: longer ones make a realtime commit wait (measured: 19 ms behind these). A batch
is filled in larger ones (`trivet.submitting`), whose rows have become cheaper since."""
BULK_BYTES = 1_000_000
"""Bytes of request bodies in one bulk transaction at most."""


_TCP = {"tcp_user_timeout": 10_000, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
"""For libpq: a server that vanished without a word is noticed within about ten seconds."""


class Store:
    """The database. Use `write()` and `read()`; each is one transaction on one pooled connection.

    Safe to share between threads. After a fork the child gets fresh connections.
    """

    def __init__(self, url: str, *, stands_back: bool = False) -> None:
        """Take a URL; nothing is connected yet.

        Args:
            stands_back: whoever else waits for SQLite's write lock comes first.
        """
        self.url = url
        self.shown_url = masked(url)
        self.path = sqlite_path(url)
        self.sqlite = self.path is not None
        self.clock = Clock(sqlite=self.sqlite)
        self._engine = self._open()
        self._urgent = self._engine.execution_options(trivet_pause=PAUSE_S)
        self._writing = self._engine.execution_options(trivet_pause=STANDING_BACK_S) if stands_back else self._urgent
        self._begun: dict[object, float] = {}
        self.slow_at = -math.inf
        """When the last transaction ended that took longer than `SLOW_S`, on the monotonic clock."""
        _stores.add(self)

    @contextmanager
    def write(self, *, urgent: bool = False) -> Iterator[Connection]:
        """A transaction that may write. Committed when the block ends, rolled back when it raises.

        Args:
            urgent: do not stand back.
        """
        with self._translated(), (self._urgent if urgent else self._writing).begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self._translated(), self._engine.begin() as connection:
            yield connection

    @property
    def waited_s(self) -> float:
        """How long the oldest transaction under way has taken so far, in seconds; 0 when there is none."""
        begun = list(self._begun.values())
        return time.monotonic() - min(begun) if begun else 0.0

    @property
    def engine(self) -> Engine:
        """For migrations."""
        return self._engine

    def now(self, connection: Connection) -> float:
        """The time every process agrees on, in seconds since the epoch."""
        return self.clock.now(connection)

    @property
    def skip_locked(self) -> str:
        """What ends a SELECT of rows to be changed: on PostgreSQL a lock that passes over rows others hold."""
        return "" if self.sqlite else " FOR UPDATE SKIP LOCKED"

    @property
    def for_update(self) -> str:
        """What ends a SELECT of rows to be changed, waiting for whoever holds them."""
        return "" if self.sqlite else " FOR UPDATE"

    def close(self) -> None:
        """Give back every connection."""
        self._engine.dispose()

    def forget_after_fork(self) -> None:
        """In the child: the parent's connections are left alone."""
        self._engine.dispose(close=False)
        self._begun = {}

    def _open(self) -> Engine:
        options: dict[str, Any] = {
            "hide_parameters": True,
            "pool_size": POOL_SIZE,
            "max_overflow": 8,
            "json_serializer": json.dumps,
        }
        if self.path is not None:
            try:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise self._unavailable(error) from None
            options["connect_args"] = {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}
        else:
            options["pool_pre_ping"] = True
            options["connect_args"] = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "trivet", **_TCP}
        try:
            engine = create_engine(self.url, **options)
        except (ArgumentError, NoSuchModuleError, ImportError, ValueError):
            raise ConfigError(f"[store] url: {self.shown_url} is not a database URL.") from None
        if self.sqlite:
            event.listen(engine, "connect", _set_up_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        else:
            event.listen(engine, "connect", plan_by_index)
        return engine

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Say in our words that the database is not there; leave programming errors as they are."""
        token = object()
        self._begun[token] = time.monotonic()
        try:
            yield
        except (OperationalError, InterfaceError, PoolTimeout) as error:
            raise self._unavailable(error) from None
        except DBAPIError as error:
            damaged = self.sqlite and type(error) is DatabaseError  # "file is not a database", "malformed"
            if error.connection_invalidated or damaged:
                raise self._unavailable(error) from None
            raise
        finally:
            begun = self._begun.pop(token, None)
            if begun is not None and (now := time.monotonic()) - begun > SLOW_S:
                self.slow_at = now

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        cause = getattr(error, "orig", None) or error
        reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        hint = (
            "Is it a SQLite file, its folder writable, the disk not full?"
            if self.sqlite
            else "Is the server running and the URL right?"
        )
        return StoreUnavailable(f"The database {self.shown_url} cannot be used: {reason}.", hint=hint)


_stores: "weakref.WeakSet[Store]" = weakref.WeakSet()


def _forget_all() -> None:
    for store in list(_stores):
        store.forget_after_fork()


os.register_at_fork(after_in_child=_forget_all)  # once: it cannot be taken back


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # the driver must not begin transactions behind our back: `_begin_sqlite` does
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # an accepted job survives a power cut
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA cache_size = -16000")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # a transaction that begins reading and then writes can fail at once when another wrote in between
    options = connection.get_execution_options()
    if "trivet_pause" in options:
        _begin_writing(connection, options["trivet_pause"])
    else:
        connection.exec_driver_sql("BEGIN")


def _begin_writing(connection: Connection, pause_s: tuple[float, float]) -> None:
    """Wait for SQLite's write lock by asking about every millisecond, or less often to let others have it first.

    SQLite's own waiting backs off to 100 ms between two tries, while whoever has just let go of the lock takes it again
    within one: a heartbeat starved for 15 s behind busy writers.
    """
    driver = connection.connection.cursor()
    until = time.monotonic() + BUSY_TIMEOUT_S
    driver.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                driver.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
            time.sleep(random.uniform(*pause_s))
    finally:
        driver.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")
        driver.close()
