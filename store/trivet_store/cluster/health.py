"""The last known health and limits of every route, kept for people and for restarts."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text

from trivet_store import events
from trivet_tasks.foreign_text import clean
from trivet_tasks.states import RouteState


class HealthRow(NamedTuple):
    """A (route, model) as last noted. `model` is `*` for the whole route; times are seconds since the epoch."""

    route: str
    model: str
    state: RouteState
    cause: str
    since: float
    closed_until: float | None
    """Time of the next probe of an open breaker."""


class LimitRow(NamedTuple):
    """A pause that a provider asked for. `models` is a model or the name of a group of models."""

    route: str
    models: str
    closed_until: float
    cause: str
    since: float


class CallRow(NamedTuple):
    """A call that a living worker is making now."""

    id: str
    lease_id: str
    route: str
    model: str
    latency: str
    max_tokens: int
    input_estimate: int
    """Tokens."""


_UPSERT = text(
    """
    INSERT INTO route_health (route, model, state, cause, since, closed_until)
    VALUES (:route, :model, :state, :cause, :now, :closed_until)
    ON CONFLICT (route, model) DO UPDATE
       SET state = :state, cause = :cause, since = :now, closed_until = :closed_until
    """
)
_CLOSE = text(
    """
    INSERT INTO route_limits (route, models, closed_until, cause, since)
    VALUES (:route, :model, :closed_until, :cause, :now)
    ON CONFLICT (route, models) DO UPDATE SET closed_until = :closed_until, cause = :cause, since = :now
    """
)
_ALL = text("SELECT route, model, state, cause, since, closed_until FROM route_health ORDER BY route, model")
_CLOSED = text("SELECT route, models, closed_until, cause, since FROM route_limits WHERE closed_until > :now")
_LIFT = text("DELETE FROM route_limits WHERE route = :route")
_UNDER_WAY = text(
    """
    SELECT a.id, a.lease_id, a.route, a.model, a.latency, j.max_tokens, j.input_estimate
      FROM attempts a JOIN leases l ON l.id = a.lease_id JOIN jobs j ON j.id = a.job_id
     WHERE a.outcome IS NULL
    """
)
_USED_LATELY = text("SELECT DISTINCT route, model FROM attempts WHERE started_at > :since")


def note(
    connection: Connection,
    route: str,
    model: str,
    state: RouteState,
    cause: str,
    now: float,
    seconds: float,
    share: float = 0,
) -> None:
    """Record a change.

    Args:
        model: `*` for the whole route; for the state `limited` the model or group whose limits are meant.
        seconds: how long the route rests before the next try.
        share: the share of its work that a recovering route gets.
    """
    cause = clean(cause, 500) or ""
    row = {"route": route, "model": model, "cause": cause, "now": now, "closed_until": now + seconds}
    if state == RouteState.LIMITED:
        connection.execute(_CLOSE, row)
    else:
        connection.execute(_UPSERT, {**row, "state": state.value, "closed_until": now + seconds if seconds else None})
    said = cause
    if state == RouteState.RECOVERING:
        said = f"{share:.0%} of its work: {cause}"
    elif state == RouteState.LIMITED:
        said = f"for {seconds:.3g} s: {cause}"
    events.note(connection, f"route {state}", said, now, route=route, model=model)


def noted(connection: Connection) -> list[HealthRow]:
    """Return the health of everything, as last noted."""
    return [
        HealthRow(row.route, row.model, RouteState(row.state), row.cause, row.since, row.closed_until)
        for row in connection.execute(_ALL)
    ]


def closed(connection: Connection, now: float) -> list[LimitRow]:
    """Return the pauses that providers asked for and that are not over."""
    return [LimitRow(*row) for row in connection.execute(_CLOSED, {"now": now})]


def under_way(connection: Connection) -> list[CallRow]:
    """Return the calls under way, as far as the database knows."""
    return [CallRow(*row) for row in connection.execute(_UNDER_WAY)]


def used_lately(connection: Connection, since: float) -> Sequence[tuple[str, str]]:
    """Return the (route, model) pairs that were called since then."""
    return [(row.route, row.model) for row in connection.execute(_USED_LATELY, {"since": since})]


def forget(connection: Connection, route: str, now: float) -> None:
    """Note that an operator declared every model of a route healthy, and no longer limited."""
    for row in noted(connection):
        if row.route == route and row.state != RouteState.HEALTHY:
            note(connection, route, row.model, RouteState.HEALTHY, "restored by an operator", now, 0)
    connection.execute(_LIFT, {"route": route})
