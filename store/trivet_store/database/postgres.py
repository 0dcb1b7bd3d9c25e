"""The engine of a PostgreSQL database: its pool, its connections, and the treatment of broken ones.

A connection pooler (PgBouncer in transaction mode, and its likes) gives each transaction another server connection.
Whatever a session keeps is then lost, or somebody else's: prepared statements and settings made by SET. Nothing else
here lives longer than a transaction: locks are `pg_advisory_xact_lock`, there is no LISTEN, no temporary table, no
cursor of the server's. So where a pooler is seen, nothing is prepared and the settings are made in each transaction.
"""

import json
import logging
import time
from typing import Any

from psycopg import Error as DriverError
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import InvalidatePoolError

from trivet_store.database.outages import outage_of
from trivet_store.database.planner import plan_by_index, plan_transaction_by_index
from trivet_tasks.config.database_url import connect_arguments, prepare_in

log = logging.getLogger("trivet.store")

_POOLED, _READ_ONLY, _OPENED, _NEW = "trivet_pooled", "trivet_read_only", "trivet_opened", "trivet_new"
"""Keys of what is known of a connection: whether a pooler is in between, whether the server took no writes when it was
opened, when that was (monotonic clock), and whether nobody has used it yet."""
READ_ONLY_S = 1.0
"""Seconds that a connection to a read-only server is kept for reading: another server may have become the primary."""


class Postgres:
    """The engine, and the properties found of the server."""

    def __init__(self, url: str, *, pool_size: int, max_overflow: int, prepared_statements: bool | None) -> None:
        """Take a URL as `trivet_tasks.config.database_url` makes it; nothing is connected yet.

        Args:
            prepared_statements: None: unless a pooler is seen. The URL's prepare_threshold wins.
        """
        self.pooled = False
        """True if the last connection that was opened showed a connection pooler."""
        address, prepare = prepare_in(url)
        self._prepared = (prepare.threshold is not None) if prepare else prepared_statements
        arguments = connect_arguments(address)
        if prepare and prepare.threshold is not None:
            arguments["prepare_threshold"] = prepare.threshold
        elif self._prepared is False:
            arguments["prepare_threshold"] = None
        self.engine: Engine = create_engine(
            address,
            hide_parameters=True,
            pool_size=pool_size,
            max_overflow=max_overflow,
            json_serializer=json.dumps,
            connect_args=arguments,
        )
        event.listen(self.engine, "connect", self._set_up)
        event.listen(self.engine, "checkout", _look)
        event.listen(self.engine, "begin", _begin)
        event.listen(self.engine, "handle_error", self._on_error)

    def _set_up(self, connection: Any, record: Any) -> None:
        """Make a new connection of the driver, `psycopg.Connection`, ready."""
        pooled, read_only = _greeting(connection)
        record.info.update({_POOLED: pooled, _READ_ONLY: read_only, _OPENED: time.monotonic(), _NEW: True})
        self.pooled = pooled
        if pooled and not self._prepared:
            connection.prepare_threshold = None
        if not pooled:
            plan_by_index(connection)

    def _on_error(self, context: ExceptionContext) -> None:
        """Drop connections that are of no use: one to a server that became read-only would stay so for ever."""
        outage = outage_of(context.original_exception)
        if outage is None:
            return
        if outage.pooler and self._prepared is None:
            self._prepared = False  # one that was not seen; from now on nothing is prepared
            event.listen(self.engine, "connect", _prepare_nothing)
            log.warning("a connection pooler keeps no prepared statements; none are prepared from now on")
        if outage.drop:
            context.is_disconnect = True
            context.invalidate_pool_on_disconnect = outage.drop_all


def _greeting(connection: Any) -> tuple[bool, bool]:
    """Return (pooled: another process answers than at the start, as a pooler gives its own keys; read-only)."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), current_setting('transaction_read_only')")
        served_by, read_only = cursor.fetchone()
    connection.rollback()
    return served_by != connection.info.backend_pid, read_only == "on"


def _look(connection: Any, record: Any, _proxy: object) -> None:
    """Look whether a pooled connection is good before it is used: one short question, as a ping would be.

    A connection to a server that became read-only is dropped with all others: else readers would not notice, and go on
    reading the old state of a demoted primary.
    """
    info = record.info
    if info.pop(_NEW, False):
        return
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            (read_only,) = cursor.execute("SHOW transaction_read_only", prepare=False).fetchone()
        connection.autocommit = False
    except DriverError:
        raise InvalidatePoolError from None
    if read_only == "on" and (not info[_READ_ONLY] or time.monotonic() - info[_OPENED] > READ_ONLY_S):
        raise InvalidatePoolError


def _begin(connection: Connection) -> None:
    if connection.info.get(_POOLED):
        plan_transaction_by_index(connection)


def _prepare_nothing(connection: Any, _record: object) -> None:
    connection.prepare_threshold = None
