"""The routes that schedulers and workers have made known, without secrets, so that producers need no copy of the file.

Of each route SQL holds two parts. Its place, which decides where prompts go, is what the workers that serve it agree on;
each takes it from its own file, and one whose file says otherwise serves it only once the leases of the others are dropped.
Its operational figures are versions (`route_versions.py`), of which one is in force for every process.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Row, text

from trivet_store import events
from trivet_store.cluster import route_overrides, route_versions
from trivet_store.cluster.leases import not_dropped
from trivet_store.database.engine import Store
from trivet_store.database.locking import select_locked
from trivet_tasks.config.route_overrides import Override, overridden, with_clashes
from trivet_tasks.config.route_settings import PLACE, RouteSettings
from trivet_tasks.errors import NotFound


class RegisteredRoute(NamedTuple):
    """A route as everybody may know it."""

    name: str
    settings: RouteSettings
    """The settings with the figures in force, including those that were set by hand."""
    drained: bool
    place: str = ""
    """Digest of the settings that decide where its prompts go; a worker with another digest takes no work of it."""
    overrides: tuple[Override, ...] = ()
    """Limits that were set by hand, whose time is not over; those that clash with a group do not apply."""
    version_at: float | None = None
    """Time from which the version of its figures is in force, in seconds since the epoch."""
    version_by: str = ""
    """The process or person that brought that version."""


class Kind(Enum):
    """Kinds of news that registering a route brings."""

    CHANGED = auto()
    """New version of its figures, in force from now on; or a redefined place."""
    OUTDATED = auto()
    """Older version of its figures: those in force stay."""
    ELSEWHERE = auto()
    """Place other than the one that other workers serve."""


class Finding(NamedTuple):
    """One piece of news from registering a route, for a log."""

    route: str
    kind: Kind
    text: str


class Redefinition(NamedTuple):
    """A route whose place in a file is not the registered one."""

    fields: tuple[str, ...]
    """The settings that differ, by name alone."""
    workers: tuple[str, ...]
    """Workers that serve it where it is registered: redefined, they take no more work of it until they are restarted."""


class Applied(NamedTuple):
    """The outcome of applying a file, or of a dry run."""

    changes: dict[str, list[str]]
    """Changed figures and fields by route; unchanged routes are left out."""
    redefinitions: dict[str, Redefinition]
    """Routes whose place differs; it stays unchanged unless places were asked for."""


_ADD = text(
    """
    INSERT INTO routes (name, provider, definition, registered_at) VALUES (:name, :provider, '{}', :now)
    ON CONFLICT (name) DO NOTHING
    """
)
_DEFINE = text(
    """
    UPDATE routes SET provider = :provider, definition = :definition, place = :place, registered_at = :now
     WHERE name = :name
    """
)
_COLUMNS = "name, definition, operating, drained, place, version, version_at, version_by"
_HOLD = f"SELECT {_COLUMNS} FROM routes WHERE name IN :names ORDER BY name {{FOR UPDATE}}"
_SET_DRAINED = text("UPDATE routes SET drained = :drained WHERE name = :name")
_REMOVED = text("SELECT removed_by FROM removed_routes WHERE name = :name")
_NOT_REMOVED = text("DELETE FROM removed_routes WHERE name = :name")
_NOTE_REMOVED = text(
    """
    INSERT INTO removed_routes (name, removed_by, removed_at) VALUES (:name, :by, :now)
    ON CONFLICT (name) DO UPDATE SET removed_by = :by, removed_at = :now
    """
)
_DRAINED = text("SELECT name FROM routes WHERE drained")
_ALL = text(f"SELECT {_COLUMNS} FROM routes ORDER BY name")
_REMOVE = tuple(
    text(f"DELETE FROM {table} WHERE {column} = :name")
    for table, column in (
        ("routes", "name"),
        ("route_versions", "route"),
        ("route_overrides", "route"),
        ("route_health", "route"),
        ("route_limits", "route"),
    )
)


def register(
    store: Store,
    connection: Connection,
    routes: Mapping[str, RouteSettings],
    *,
    by: str = "a process",
    serves: bool = True,
    lease_id: str = "",
) -> list[Finding]:
    """Make routes known. Figures never seen before are in force from now on; those of an older version change nothing.

    Args:
        by: the process and the file it read, for events and logs.
        serves: whether the process will make calls, so that its file may define the place of a route that no other
            worker serves. A scheduler only adds routes that are not known.
        lease_id: the process's own, where it has one.
    """
    now = store.now(connection)
    held = _hold(connection, routes, now)
    serving = _serving(connection, lease_id) if held else {}
    found: list[Finding] = []
    for name, settings in routes.items():
        row = held[name]
        found += _register_place(connection, row, settings, by, now, serving.get(name), serves=serves)
        if route_versions.is_old(connection, row, settings):
            found.append(Finding(name, Kind.OUTDATED, _outdated(row, settings, by)))
        elif changes := route_versions.put_in_force(connection, row, settings, by, now):
            text = f"[routes.{name}] {', '.join(changes)}: in force from now on, by {by}."
            found.append(Finding(name, Kind.CHANGED, text))
    return found


def apply(
    store: Store,
    connection: Connection,
    routes: Mapping[str, RouteSettings],
    *,
    by: str,
    places: bool = False,
    dry_run: bool = False,
) -> Applied:
    """Put the figures of these routes in force, whatever version they are.

    Args:
        places: whether routes that lead elsewhere are redefined, also where living workers serve the registered place.
    """
    now = store.now(connection)
    known = {row.name: row for row in connection.execute(_ALL)}
    held = known if dry_run else _hold(connection, routes, now)
    applied = Applied({}, {})
    for name, settings in routes.items():
        before = known.get(name)
        if before is not None and before.place not in (None, settings.place_digest):
            workers = _workers(connection, name)
            applied.redefinitions[name] = Redefinition(tuple(_differing(before, settings)), workers)
        if made := _changes(before, settings, places=places):
            applied.changes[name] = made
        if not dry_run:
            row = held[name]
            _take_back_removal(connection, row, by, now)
            if row.place is None or (places and row.place != settings.place_digest):
                _define(connection, row, settings, by, now)
            route_versions.put_in_force(connection, row, settings, by, now)
    return applied


def registered(store: Store, connection: Connection) -> dict[str, RegisteredRoute]:
    """Return the routes made known so far, by name, with the figures in force."""
    by_hand = route_overrides.in_force(store, connection)
    return {row.name: _route(row, by_hand.get(row.name, ())) for row in connection.execute(_ALL)}


def drained(connection: Connection) -> frozenset[str]:
    """Return the routes that an operator took out of service."""
    return frozenset(row.name for row in connection.execute(_DRAINED))


def set_drained(connection: Connection, name: str, drained: bool) -> None:
    """Take a route out of service, or back in, until the next such call. An earlier removal no longer counts."""
    connection.execute(_NOT_REMOVED, {"name": name})
    if connection.execute(_SET_DRAINED, {"name": name, "drained": drained}).rowcount == 0:
        raise NotFound(f"No route is called {name!r}.", hint="`trivet routes` lists them.")


def remove(connection: Connection, name: str, by: str, now: float) -> None:
    """Forget a route with its versions, limits set by hand and health. Its calls and costs stay.

    Registered again, it is drained until somebody restores it or applies a file that has it.
    """
    connection.execute(_NOTE_REMOVED, {"name": name, "by": by, "now": now})
    for statement in _REMOVE:
        connection.execute(statement, {"name": name})
    events.note(connection, "route removed", f"by {by}", now, route=name)


def _take_back_removal(connection: Connection, row: Row[Any], by: str, now: float) -> None:
    """Put a route back into service that is drained because it was removed."""
    if connection.execute(_NOT_REMOVED, {"name": row.name}).rowcount and row.drained:
        connection.execute(_SET_DRAINED, {"name": row.name, "drained": False})
        events.note(connection, "route restored", f"by {by}", now, route=row.name)


def _changes(row: Row[Any] | None, settings: RouteSettings, *, places: bool) -> list[str]:
    """Return what these settings would change of a route, in words."""
    if row is None:
        return ["is new"]
    moved = places and row.place is not None and row.place != settings.place_digest
    fields = [f"{field} as in this file" for field in _differing(row, settings)] if moved else []
    return fields + route_versions.changes(orjson.loads(row.operating or "{}"), settings)


def _hold(connection: Connection, routes: Mapping[str, RouteSettings], now: float) -> dict[str, Row[Any]]:
    """Add the rows that are missing, in one order, and hold all of them until the commit."""
    if not routes:
        return {}
    for name in sorted(routes):
        connection.execute(_ADD, {"name": name, "provider": routes[name].provider, "now": now})
    return {row.name: row for row in select_locked(connection, _HOLD, names=list(routes))}


def _serving(connection: Connection, lease_id: str) -> dict[str, str]:
    """Return by route a worker, other than this one, whose place is the one that is registered.

    It may take no work just now, or not have renewed its lease yet after an outage of the database: that passes.
    """
    return {
        route: lease.worker
        for lease in not_dropped(connection)
        if lease.id != lease_id
        for route in lease.routes
        if route not in lease.elsewhere
    }


def _workers(connection: Connection, name: str) -> tuple[str, ...]:
    """Return the workers that serve a route at its registered place."""
    return tuple(
        lease.worker for lease in not_dropped(connection) if name in lease.routes and name not in lease.elsewhere
    )


def _register_place(
    connection: Connection,
    row: Row[Any],
    settings: RouteSettings,
    by: str,
    now: float,
    worker: str | None,
    *,
    serves: bool,
) -> list[Finding]:
    if row.place == settings.place_digest:
        return []
    if row.place is None or (serves and worker is None):
        said = _define(connection, row, settings, by, now)
        return [Finding(row.name, Kind.CHANGED, said)] if said else []
    if worker is None:  # a worker decides, once one serves it
        return []
    fields = ", ".join(_differing(row, settings))
    return [
        Finding(row.name, Kind.ELSEWHERE, f"[routes.{row.name}]: {fields} of {by} differ from what {worker} serves.")
    ]


def _define(connection: Connection, row: Row[Any], settings: RouteSettings, by: str, now: float) -> str:
    if row.place is None and (removed_by := connection.execute(_REMOVED, {"name": row.name}).scalar()):
        connection.execute(_SET_DRAINED, {"name": row.name, "drained": True})
        said = f"it was removed by {removed_by}, and registered again by {by}"
        events.note(connection, "route drained", said, now, route=row.name)
    definition = orjson.dumps(settings.place(), option=orjson.OPT_SORT_KEYS).decode()
    place = {"name": row.name, "provider": settings.provider, "definition": definition, "now": now}
    connection.execute(_DEFINE, {**place, "place": settings.place_digest})
    if row.place is None:
        return ""
    fields = ", ".join(_differing(row, settings))
    events.note(connection, "route redefined", f"{fields}; by {by}", now, route=row.name)
    return f"[routes.{row.name}] {fields}: redefined by {by}."


def _differing(row: Row[Any], settings: RouteSettings) -> list[str]:
    """Return the fields of a place that differ, by name alone: a URL may hold what is not for a log."""
    before, after = orjson.loads(row.definition), settings.place()
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def _outdated(row: Row[Any], settings: RouteSettings, by: str) -> str:
    """Return the news that figures are of an older version, with the changes they would make."""
    changes = ", ".join(route_versions.changes(orjson.loads(row.operating or "{}"), settings))
    return (
        f"[routes.{row.name}] of {by} has an older version of its figures, which changes nothing ({changes}). The newer one "
        f"is in force {route_versions.since(row)}. `trivet config apply` puts a file's figures in force."
    )


def _route(row: Row[Any], by_hand: tuple[Override, ...]) -> RegisteredRoute:
    """A newer Trivet may have registered the route with keys that this one does not know."""
    place = {key: value for key, value in orjson.loads(row.definition).items() if key in PLACE}
    settings = RouteSettings.model_validate(place | orjson.loads(row.operating or "{}"), extra="ignore")
    by_hand = with_clashes(settings, by_hand)
    effective = overridden(settings, by_hand) if by_hand else settings
    drained = bool(row.drained)
    return RegisteredRoute(row.name, effective, drained, row.place or "", by_hand, row.version_at, row.version_by or "")
