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
from pathlib import Path
from typing import Self

from sqlalchemy import Connection as Connection
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from trivet_store.database.clock import Clock
from trivet_store.database.postgres import Postgres, outage_of, reason_of
from trivet_tasks.config.database_url import sqlite_path
from trivet_tasks.config.server_urls import masked
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import ConfigError, StoreUnavailable

BUSY_TIMEOUT_S = 30
POOL_SIZE = 8
SLOW_S = 2.0
"""A transaction that takes longer waits for a database that hangs: renewals of leases may wait, too."""
PAUSE_S = (0.0003, 0.0015)
"""Seconds between two attempts to get SQLite's write lock: from, to."""
YIELDING_PAUSE_S = (0.003, 0.008)
"""The same for a store that lets others write first."""
BULK_ROWS = 200
"""Rows of one bulk transaction at most: longer ones make a realtime commit wait (measured: 19 ms behind these). A batch
is filled in larger ones (`trivet.client.submitting`), whose rows have become cheaper since."""
BULK_BYTES = 1_000_000
"""Bytes of request bodies in one bulk transaction at most."""


class Store:
    """The database. Use `write()` and `read()`; each is one transaction on one pooled connection.

    Safe to share between threads. After a fork the child gets fresh connections.
    """

    def __init__(
        self,
        url: str,
        *,
        yields: bool = False,
        pool_size: int = POOL_SIZE,
        max_overflow: int = POOL_SIZE,
        prepared_statements: bool | None = None,
    ) -> None:
        """Take a URL; nothing is connected yet.

        Args:
            url: as `Settings.store_url` has it.
            yields: let others that wait for SQLite's write lock go first.
            pool_size: connections kept open.
            max_overflow: connections beyond these, for a moment.
            prepared_statements: whether PostgreSQL prepares statements; None: unless a connection pooler is in between.
        """
        self.url = url
        self.shown_url = masked(url)
        self.path = sqlite_path(url)
        self.sqlite = self.path is not None
        self.clock = Clock(sqlite=self.sqlite)
        self._postgres: Postgres | None = None
        self._engine = self._open(pool_size, max_overflow, prepared_statements)
        self._urgent = self._engine.execution_options(trivet_pause=PAUSE_S)
        self._writing = self._engine.execution_options(trivet_pause=YIELDING_PAUSE_S) if yields else self._urgent
        self._begun: dict[object, float] = {}
        self.slow_at = -math.inf
        """End of the last transaction that took longer than `SLOW_S`, on the monotonic clock."""
        _stores.add(self)

    @classmethod
    def of(cls, settings: Settings, *, yields: bool = False) -> Self:
        """The database of these settings."""
        pool = settings.store.model_dump(include={"pool_size", "max_overflow", "prepared_statements"})
        return cls(settings.store_url, yields=yields, **pool)

    @contextmanager
    def write(self, *, urgent: bool = False) -> Iterator[Connection]:
        """A transaction that may write. Committed when the block ends, rolled back when it raises.

        Args:
            urgent: do not let others go first.
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
        """Seconds that the oldest transaction under way has taken so far; 0 when there is none."""
        begun = list(self._begun.values())
        return time.monotonic() - min(begun) if begun else 0.0

    @property
    def pooled(self) -> bool:
        """True if an open connection showed a connection pooler in front of PostgreSQL."""
        return self._postgres is not None and self._postgres.pooled

    @property
    def engine(self) -> Engine:
        """Engine, for migrations."""
        return self._engine

    def now(self, connection: Connection) -> float:
        """The time every process agrees on, in seconds since the epoch."""
        return self.clock.now(connection)

    def close(self) -> None:
        """Give back every connection."""
        self._engine.dispose()

    def forget_after_fork(self) -> None:
        """Leave the parent's connections alone, in the child after a fork."""
        self._engine.dispose(close=False)
        self._begun = {}

    def _open(self, pool_size: int, max_overflow: int, prepared_statements: bool | None) -> Engine:
        if self.path is not None:
            return self._open_sqlite(self.path, pool_size, max_overflow)
        try:
            self._postgres = Postgres(
                self.url, pool_size=pool_size, max_overflow=max_overflow, prepared_statements=prepared_statements
            )
        except (ArgumentError, NoSuchModuleError, ImportError, ValueError):
            raise ConfigError(f"[store] url: {self.shown_url} is not a database URL.") from None
        return self._postgres.engine

    def _open_sqlite(self, path: Path, pool_size: int, max_overflow: int) -> Engine:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._unavailable(error) from None
        engine = create_engine(
            self.url,
            hide_parameters=True,
            pool_size=pool_size,
            max_overflow=max_overflow,
            json_serializer=json.dumps,
            connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
        )
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate outages of the database into StoreUnavailable; leave programming errors as they are."""
        token = object()
        self._begun[token] = time.monotonic()
        try:
            yield
        except (DBAPIError, PoolTimeout) as error:
            if self._passes(error):
                raise self._unavailable(error) from None
            raise
        finally:
            begun = self._begun.pop(token, None)
            if begun is not None and (now := time.monotonic()) - begun > SLOW_S:
                self.slow_at = now

    def _passes(self, error: Exception) -> bool:
        """Return whether the database cannot answer now, rather than a statement or a value being wrong."""
        if not isinstance(error, DBAPIError) or error.connection_invalidated:
            return True
        if self.sqlite:
            # "file is not a database", "malformed"
            return isinstance(error, OperationalError | InterfaceError) or type(error) is DatabaseError
        if getattr(error.orig, "sqlstate", None) is None:
            return isinstance(error, OperationalError | InterfaceError)
        return outage_of(error.orig) is not None

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        outage = outage_of(getattr(error, "orig", None))
        if self.sqlite:
            hint = "Is it a SQLite file, its folder writable, the disk not full?"
        elif isinstance(error, PoolTimeout):
            hint = "All connections of this process are in use: raise [store] pool_size and max_overflow."
        else:
            hint = outage.hint if outage else "Is the server running and the URL right?"
        return StoreUnavailable(f"The database {self.shown_url} cannot be used: {reason_of(error)}.", hint=hint)


_stores: "weakref.WeakSet[Store]" = weakref.WeakSet()


def _forget_all() -> None:
    for store in list(_stores):
        store.forget_after_fork()


os.register_at_fork(after_in_child=_forget_all)  # once: it cannot be taken back


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # the driver must not begin transactions by itself: `_begin_sqlite` does
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

    SQLite's own waiting backs off to 100 ms between two tries, while a writer that has just released the lock takes
    it again within one: a heartbeat starved for 15 s behind busy writers.
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
