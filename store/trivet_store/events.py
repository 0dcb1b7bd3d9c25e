"""Records for people who read them afterwards: events, and counters of messages and answers that were dropped."""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from sqlalchemy import Connection, text

from trivet_store import schema
from trivet_store.database.engine import Store
from trivet_store.database.many_rows import RowsStatement, execute_rows
from trivet_tasks.config.route_settings import WHOLE_ROUTE
from trivet_tasks.foreign_text import clean

QUIET_S = 3_600.0
"""Seconds without a drop of a kind on a route, after which the next one is an event."""


class Event(NamedTuple):
    """Something that happened to a route, a budget or a schedule. `at` is seconds since the epoch."""

    at: float
    kind: str
    """`route open`, `route probing`, `route recovering`, `route healthy`, `route limited`; of operators and files `route
    drained`, `route restored`, `route changed`, `route redefined`, `route override`, `route override over`, `route removed`;
    `budget set`, `budget raised` and the like; `schedule set`,
    `schedule missed`, `schedule failed` and the like; `dropped` of messages and answers that were not acted on."""
    route: str | None
    model: str | None
    """`*` or None: the whole route; of `route limited` a model or the name of a group of models."""
    text: str
    """Cause, for a person."""


class Drop(StrEnum):
    """Reason for which something that came through the broker or the shared state was dropped."""

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
    """Name of the route; empty where it is not known."""
    times: int
    first_at: float
    last_at: float


_ADD = text("INSERT INTO events (at, kind, route, model, text) VALUES (:at, :kind, :route, :model, :text)")
_LATEST = """
    SELECT at, kind, route, model, text FROM events WHERE at >= :since {of_route} ORDER BY at DESC, id DESC LIMIT :limit
"""
_AFTER = text("SELECT id, at, kind, route, model, text FROM events WHERE id > :after ORDER BY id LIMIT :limit")
_LAST_ID = text("SELECT coalesce(max(id), 0) FROM events")
_LAST_DRAINS = text(
    """
    SELECT at, kind, route, model, text FROM events
     WHERE id IN (SELECT max(id) FROM events WHERE kind = 'route drained' GROUP BY route)
    """
)
_COUNT_DROPS = RowsStatement(
    schema.dropped,
    """
    INSERT INTO dropped (kind, route, times, first_at, last_at)
    SELECT r.kind, r.route, r.times, r.first_at, r.first_at FROM {rows} WHERE true
    ON CONFLICT (kind, route) DO UPDATE SET times = dropped.times + excluded.times, last_at = excluded.last_at
    """,
)
_LAST_DROPS = text("SELECT kind, route, last_at FROM dropped")
_DROPS = text("SELECT kind, route, times, first_at, last_at FROM dropped ORDER BY kind, route")


def note(
    connection: Connection, kind: str, said: str, now: float, *, route: str | None = None, model: str | None = None
) -> None:
    """Record an event.

    Args:
        said: its cause, for a person.
        route: None: it is about no route.
        model: None: it is about the whole route.
    """
    whole = WHOLE_ROUTE if route else None
    row = Event(now, kind, route, model or whole, clean(said, 600) or "")
    connection.execute(_ADD, row._asdict())


def latest(connection: Connection, *, since: float, route: str | None = None, limit: int = 1_000) -> list[Event]:
    """Return the latest events since a time, of one route or of all, the newest last."""
    statement = text(_LATEST.format(of_route="" if route is None else "AND route = :route"))
    parameters: dict[str, object] = {"since": since, "limit": limit}
    if route is not None:
        parameters["route"] = route
    return [Event(*row) for row in connection.execute(statement, parameters)][::-1]


def last_id(connection: Connection) -> int:
    """Return the id of the newest event; 0 where there is none."""
    return int(connection.execute(_LAST_ID).scalar_one())


def after(connection: Connection, event_id: int, limit: int) -> list[tuple[int, Event]]:
    """Return the events that were recorded after the one of this id, oldest first, with their ids."""
    rows = connection.execute(_AFTER, {"after": event_id, "limit": limit})
    return [(row.id, Event(*row[1:])) for row in rows]


def last_drains(connection: Connection) -> dict[str, Event]:
    """Return each route's last drain: when and why. Some were restored since."""
    return {str(row.route): Event(*row) for row in connection.execute(_LAST_DRAINS)}


def count_drops(
    store: Store, connection: Connection, counts: Mapping[tuple[Drop, str], int], why: Mapping[tuple[Drop, str], str]
) -> None:
    """Add to the counters of drops, by kind and route. The first after `QUIET_S` is an event, too.

    Args:
        why: a sentence for each.
    """
    if not counts:
        return
    now = store.now(connection)
    last = {(Drop(row.kind), row.route): row.last_at for row in connection.execute(_LAST_DROPS)}
    for key in sorted(counts):
        if now - last.get(key, -QUIET_S) >= QUIET_S:
            kind, route = key
            note(connection, "dropped", f"{kind.value}: {why.get(key, '')}", now, route=route or None)
    rows = [
        {"kind": kind.value, "route": route, "times": times, "first_at": now}
        for (kind, route), times in sorted(counts.items())
    ]
    execute_rows(connection, _COUNT_DROPS, rows)


def drops(connection: Connection) -> list[Dropped]:
    """Return all counters of drops that are above zero."""
    return [Dropped(Drop(kind), *rest) for kind, *rest in connection.execute(_DROPS)]
