"""The engine of a PostgreSQL database: its pool, its connections, and the treatment of broken ones.

A connection pooler (PgBouncer in transaction mode, and its likes) gives each transaction another server connection.
Whatever a session keeps is then lost, or somebody else's: prepared statements and settings made by SET. Nothing else
here lives longer than a transaction: locks are `pg_advisory_xact_lock`, there is no LISTEN, no temporary table, no
cursor of the server's. So where a pooler is seen, nothing is prepared and the settings are made in each transaction.

Of its errors, only what the values of a statement can cause (classes 22 and 23, 54 for what is too large) and what the
statement itself can (42) is an error of ours. All else is an outage, the server's state, and passes: the statement and its
values are right, and a paid answer waits for it.

Statements on the way of a job use indexes, a report may read whole tables. A statement is planned once and kept. One that
first meets tables of a few rows is planned to read them whole, and goes on doing so, until the server looks at these tables
again, when they have long grown: measured, 100 ms to update 32 of 100,000 rows, by their index 0.45 ms.
"""

import json
import logging
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, InvalidatePoolError

from trivet_tasks.config.database_url import connect_arguments, prepare_in

log = logging.getLogger("trivet.store")

_POOLED, _READ_ONLY, _OPENED, _NEW = "trivet_pooled", "trivet_read_only", "trivet_opened", "trivet_new"
"""Keys of what is known of a connection: whether a pooler is in between, whether the server took no writes when it was
opened, when that was (monotonic clock), and whether nobody has used it yet."""
READ_ONLY_S = 1.0
"""Seconds that a connection to a read-only server is kept for reading: another server may have become the primary."""
_METHODS = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "enable_material", "jit")
_BY_INDEX = "SELECT " + ", ".join(f"set_config('{method}', 'off', false)" for method in _METHODS)
_BY_INDEX_NOW = _BY_INDEX.replace("false", "true")
_FREELY = "; ".join(f"SET LOCAL {method} TO DEFAULT" for method in _METHODS)
_OF_SERVER = ("08", "25", "28", "40", "53", "55", "57", "58", "F0", "XX", "3D", "3F")
"""Classes: connection, transaction state, authorization, rollback, resources, object state, intervention, system,
configuration, internal, missing database, missing schema."""
_OF_SCHEMA = ("42501", "42P01", "42703")
"""No right, no table, no column: another database than the one that was migrated, e.g. after it was restored."""
_IS_READ_ONLY = "25006"
_LOST_STATEMENT = ("26000", "42P05")
"""A prepared statement that is not there, or is there already: a connection pooler gave us another server connection."""
_STALE_PLAN = "RevalidateCachedQuery"
"""The routine of the server that refuses a prepared statement whose tables were changed by a migration."""

_RUNNING = "Is the server running and the URL right?"
_HINTS = {
    _IS_READ_ONLY: "It is a standby, or was demoted to one. Work goes on when a server that takes writes answers; "
    "several hosts in the URL with target_session_attrs=read-write find it.",
    "53100": "Its disk is full.",
    "53300": "It takes no more connections: raise max_connections, or lower [store] pool_size and max_overflow.",
    "42501": "Grant the rights to this role.",
    "42P01": "Run `trivet db upgrade`, or point [store] url at the database that has the schema.",
    "42703": "Run `trivet db upgrade`, or point [store] url at the database that has the schema.",
}
_POOLER_HINT = (
    "A connection pooler in transaction mode keeps no prepared statements: "
    "set [store] prepared_statements = false, or prepare_threshold=none in the URL."
)


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
            _plan_by_index(connection)

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


@dataclass(frozen=True, slots=True)
class Outage:
    """An error that passes. `drop`: the connection is useless; `drop_all`: so are all others to that server."""

    hint: str
    drop: bool = False
    drop_all: bool = False
    pooler: bool = False


def outage_of(error: BaseException | None) -> Outage | None:
    """Read psycopg's error; None when it is no outage, or says nothing of the server's state."""
    state = getattr(error, "sqlstate", None)
    if state is None:
        return None
    if state in _LOST_STATEMENT:
        return Outage(_POOLER_HINT, drop=True, drop_all=True, pooler=True)
    if _stale_plan(error):
        return Outage("Its schema was changed a moment ago; try again.", drop=True, drop_all=True)
    if not state.startswith(_OF_SERVER) and state not in _OF_SCHEMA:
        return None
    if state.startswith("40") or state == "55P03":
        return Outage("Others changed the same rows at the same time; try again.")
    drop = state.startswith(("08", "25", "28", "57P", "58", "XX", "3D"))
    return Outage(_HINTS.get(state, _RUNNING), drop=drop, drop_all=state == _IS_READ_ONLY or state.startswith("57P"))


def reason_of(error: Exception) -> str:
    """The words of a database error for a person: the first line, or all where several hosts were tried."""
    cause = (error.orig if isinstance(error, DBAPIError) else None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    if not lines:
        return type(cause).__name__
    hosts = [line.removeprefix("- ") for line in lines if line.startswith("- host:")]
    return "; ".join(hosts or lines[:1])[:500].rstrip(".")


def plan_freely(connection: Connection) -> None:
    """Leave the choice to the planner, as the server is set up, in this transaction: for reports over most rows of a table."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_FREELY)


def _plan_by_index(connection: Any) -> None:
    """Set up a new connection of the driver, `psycopg.Connection`."""
    with connection.cursor() as cursor:
        cursor.execute(_BY_INDEX)
    connection.commit()


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
    except connection.Error:
        raise InvalidatePoolError from None
    if read_only == "on" and (not info[_READ_ONLY] or time.monotonic() - info[_OPENED] > READ_ONLY_S):
        raise InvalidatePoolError


def _begin(connection: Connection) -> None:
    if connection.info.get(_POOLED):
        connection.exec_driver_sql(_BY_INDEX_NOW)


def _prepare_nothing(connection: Any, _record: object) -> None:
    connection.prepare_threshold = None


def _stale_plan(error: BaseException | None) -> bool:
    diagnostics = getattr(error, "diag", None)
    return getattr(diagnostics, "source_function", None) == _STALE_PLAN
