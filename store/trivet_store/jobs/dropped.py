"""Counters of messages and answers that came through the broker or the shared state and were dropped."""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from sqlalchemy import Connection, text

from trivet_store import schema
from trivet_store.database.engine import Store
from trivet_store.database.many_rows import RowsStatement, execute_rows


class Drop(StrEnum):
    """Reason for which something was dropped."""

    UNREADABLE = "unreadable"
    """An element of a queue that is no message of Trivet's."""
    FORGED = "forged"
    """A message that contradicts the database, or that does not belong into its queue."""
    MISFIT = "misfit"
    """A job that the configuration of the worker does not allow on its route. It waits for another."""
    ANSWER = "answer"
    """A cached answer whose signature does not verify."""


class Dropped(NamedTuple):
    """Counter of one kind of drop on a route. Times are seconds since the epoch."""

    kind: Drop
    route: str
    """Empty where it is not known."""
    times: int
    first_at: float
    last_at: float


_ADD = RowsStatement(
    schema.dropped,
    """
    INSERT INTO dropped (kind, route, times, first_at, last_at)
    SELECT r.kind, r.route, r.times, r.first_at, r.first_at FROM {rows} WHERE true
    ON CONFLICT (kind, route) DO UPDATE SET times = dropped.times + excluded.times, last_at = excluded.last_at
    """,
)
_ALL = text("SELECT kind, route, times, first_at, last_at FROM dropped ORDER BY kind, route")


def add(store: Store, connection: Connection, counts: Mapping[tuple[Drop, str], int]) -> None:
    """Add to the counters, by kind and route."""
    if not counts:
        return
    now = store.now(connection)
    rows = [
        {"kind": kind.value, "route": route, "times": times, "first_at": now}
        for (kind, route), times in sorted(counts.items())
    ]
    execute_rows(connection, _ADD, rows)


def read(connection: Connection) -> list[Dropped]:
    """Return all counters that are above zero."""
    return [
        Dropped(Drop(row.kind), row.route, row.times, row.first_at, row.last_at) for row in connection.execute(_ALL)
    ]
