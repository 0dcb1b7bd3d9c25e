"""The last known health of every (route, model) and the changes that led there, kept for people and for restarts."""

from typing import NamedTuple

from sqlalchemy import Connection, text

from trivet_tasks.store.finishing import clean


class HealthRow(NamedTuple):
    """A (route, model) as last noted. `model` is `*` for the whole route; times are seconds since the epoch."""

    route: str
    model: str
    state: str
    cause: str
    since: float
    closed_until: float | None


_UPSERT = text(
    """
    INSERT INTO route_health (route, model, state, cause, since, closed_until)
    VALUES (:route, :model, :state, :cause, :now, :closed_until)
    ON CONFLICT (route, model) DO UPDATE
       SET state = :state, cause = :cause, since = :now, closed_until = :closed_until
    """
)
_EVENT = text("INSERT INTO events (at, kind, route, model, text) VALUES (:now, :kind, :route, :model, :text)")
_ALL = text("SELECT route, model, state, cause, since, closed_until FROM route_health ORDER BY route, model")


def note(connection: Connection, route: str, model: str, state: str, cause: str, now: float, seconds: float) -> None:
    """Write down a change: `seconds` is how long the route rests before the next try."""
    closed_until = now + seconds if seconds else None
    cause = clean(cause, 500) or ""
    row = {"route": route, "model": model, "state": state, "cause": cause, "now": now, "closed_until": closed_until}
    connection.execute(_UPSERT, row)
    connection.execute(_EVENT, {"now": now, "kind": f"route {state}", "route": route, "model": model, "text": cause})


def noted(connection: Connection) -> list[HealthRow]:
    """Everything noted so far."""
    return [HealthRow(*row) for row in connection.execute(_ALL)]


def forget(connection: Connection, route: str, now: float) -> None:
    """Note that an operator declared every model of a route healthy."""
    for row in noted(connection):
        if row.route == route and row.state != "healthy":
            note(connection, route, row.model, "healthy", "restored by an operator", now, 0)
