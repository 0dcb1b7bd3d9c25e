"""Classifies errors of PostgreSQL: an outage means wait and try again, because the statement and its values are right.

Only what the values of a statement can cause (classes 22 and 23, 54 for what is too large) and what the statement
itself can (42) is an error of ours. All else is the server's state, and passes: a paid answer waits for it.
"""

from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError

_OF_SERVER = ("08", "25", "28", "40", "53", "55", "57", "58", "F0", "XX", "3D", "3F")
"""Classes: connection, transaction state, authorization, rollback, resources, object state, intervention, system,
configuration, internal, missing database, missing schema."""
_OF_SCHEMA = ("42501", "42P01", "42703")
"""No right, no table, no column: another database than the one that was migrated, e.g. after it was restored."""
_READ_ONLY = "25006"
_LOST_STATEMENT = ("26000", "42P05")
"""A prepared statement that is not there, or is there already: a connection pooler gave us another server connection."""
_STALE_PLAN = "RevalidateCachedQuery"
"""The routine of the server that refuses a prepared statement whose tables were changed by a migration."""

_RUNNING = "Is the server running and the URL right?"
_HINTS = {
    _READ_ONLY: "It is a standby, or was demoted to one. Work goes on when a server that takes writes answers; "
    "several hosts in the URL with target_session_attrs=read-write find it.",
    "53100": "Its disk is full.",
    "53300": "It takes no more connections: raise max_connections, or lower [store] pool_size and max_overflow.",
    "42501": "Grant the rights to this role.",
    "42P01": "Run `trivet db upgrade`, or point [store] url at the database that has the schema.",
    "42703": "Run `trivet db upgrade`, or point [store] url at the database that has the schema.",
}
_POOLED = (
    "A connection pooler in transaction mode keeps no prepared statements: "
    "set [store] prepared_statements = false, or prepare_threshold=none in the URL."
)


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
        return Outage(_POOLED, drop=True, drop_all=True, pooler=True)
    if _stale_plan(error):
        return Outage("Its schema was changed a moment ago; try again.", drop=True, drop_all=True)
    if not state.startswith(_OF_SERVER) and state not in _OF_SCHEMA:
        return None
    if state.startswith("40") or state == "55P03":
        return Outage("Others changed the same rows at the same time; try again.")
    drop = state.startswith(("08", "25", "28", "57P", "58", "XX", "3D"))
    return Outage(_HINTS.get(state, _RUNNING), drop=drop, drop_all=state == _READ_ONLY or state.startswith("57P"))


def reason_of(error: Exception) -> str:
    """The words of a database error for a person: the first line, or all where several hosts were tried."""
    cause = (error.orig if isinstance(error, DBAPIError) else None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    if not lines:
        return type(cause).__name__
    hosts = [line.removeprefix("- ") for line in lines if line.startswith("- host:")]
    return "; ".join(hosts or lines[:1])[:500].rstrip(".")


def _stale_plan(error: BaseException | None) -> bool:
    diagnostics = getattr(error, "diag", None)
    return getattr(diagnostics, "source_function", None) == _STALE_PLAN
