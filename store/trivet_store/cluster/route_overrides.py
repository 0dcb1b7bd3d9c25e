"""Limits that an operator set by hand, as SQL keeps them."""

from collections.abc import Mapping

from sqlalchemy import Connection, text

from trivet_store import events
from trivet_store.database.engine import Store
from trivet_tasks.config.route_overrides import Override

_COLUMNS = "route, models, figure, value, set_by, set_at, until"
_IN_FORCE = text(
    f"SELECT {_COLUMNS} FROM route_overrides WHERE until IS NULL OR until > :now ORDER BY route, models, figure"
)
_SET = text(
    """
    INSERT INTO route_overrides (route, models, figure, value, set_by, set_at, until)
    VALUES (:route, :models, :figure, :value, :by, :now, :until)
    ON CONFLICT (route, models, figure) DO UPDATE
       SET value = :value, set_by = :by, set_at = :now, until = :until
    """
)
_DUE = text("SELECT 1 FROM route_overrides WHERE until <= :now LIMIT 1")
_OVER = text(f"DELETE FROM route_overrides WHERE until <= :now RETURNING {_COLUMNS}")
_RESET = "DELETE FROM route_overrides WHERE route = :route {of_models} RETURNING " + _COLUMNS


def in_force(store: Store, connection: Connection) -> dict[str, tuple[Override, ...]]:
    """Return the limits set by hand that hold now, by route."""
    found: dict[str, tuple[Override, ...]] = {}
    for row in connection.execute(_IN_FORCE, {"now": store.now(connection)}):
        found[row.route] = (*found.get(row.route, ()), Override(*row))
    return found


def put(
    store: Store,
    connection: Connection,
    route: str,
    models: str,
    figures: Mapping[str, int],
    *,
    by: str,
    until: float | None = None,
) -> None:
    """Set these limits, each until its time is over or it is reset. Others that were set before stay.

    Args:
        models: as `target_of` names them.
        by: the person, for later readers.
        until: seconds since the epoch; None: for good.
    """
    now = store.now(connection)
    for figure, value in figures.items():
        row = {"route": route, "models": models, "figure": figure, "value": value, "by": by, "now": now, "until": until}
        connection.execute(_SET, row)
    said = ", ".join(f"{figure} {value}" for figure, value in figures.items())
    events.note(connection, "route override", f"{said}; by {by}", now, route=route, model=models)


def reset(store: Store, connection: Connection, route: str, models: str | None, *, by: str) -> list[Override]:
    """Take back limits set by hand, those of some models or all of the route; the version in force holds again."""
    statement = text(_RESET.format(of_models="" if models is None else "AND models = :models"))
    parameters = {"route": route} if models is None else {"route": route, "models": models}
    removed = [Override(*row) for row in connection.execute(statement, parameters)]
    if removed:
        _note_ended(connection, removed, f"reset by {by}", store.now(connection))
    return removed


def due(store: Store, connection: Connection) -> bool:
    """Return whether any limit set by hand has run out and is not dropped yet."""
    return connection.execute(_DUE, {"now": store.now(connection)}).one_or_none() is not None


def expire(store: Store, connection: Connection) -> int:
    """Drop those whose time is over, and note it. Returns their number."""
    now = store.now(connection)
    over = [Override(*row) for row in connection.execute(_OVER, {"now": now})]
    if over:
        _note_ended(connection, over, "its time is over", now)
    return len(over)


def _note_ended(connection: Connection, ended: list[Override], why: str, now: float) -> None:
    of: dict[tuple[str, str], list[str]] = {}
    for one in sorted(ended, key=lambda one: one.figure):
        of.setdefault((one.route, one.models), []).append(one.figure)
    for (route, models), figures in of.items():
        events.note(connection, "route override over", f"{', '.join(figures)}: {why}", now, route=route, model=models)
