"""The routes that schedulers and workers have made known, without secrets, so that producers need no copy of the file."""

from collections.abc import Mapping
from typing import NamedTuple

import orjson
from sqlalchemy import Connection, text

from trivet_tasks.errors import ConfigError, NotFound
from trivet_tasks.route_settings import RouteSettings
from trivet_tasks.store.engine import Store
from trivet_tasks.store.leases import living


class RegisteredRoute(NamedTuple):
    """A route as everybody may know it."""

    name: str
    settings: RouteSettings
    drained: bool


_UPSERT = text(
    """
    INSERT INTO routes (name, provider, definition, registered_at) VALUES (:name, :provider, :definition, :now)
    ON CONFLICT (name) DO UPDATE SET provider = :provider, definition = :definition, registered_at = :now
    """
)
_OPERATE = text("UPDATE routes SET operating = :operating WHERE name = :name")
_DRAINED = text("SELECT name FROM routes WHERE drained")
_ALL = text("SELECT name, definition, operating, drained FROM routes ORDER BY name")


def register(store: Store, connection: Connection, routes: Mapping[str, RouteSettings]) -> None:
    """Make routes known. Of hidden costs and windows, which may differ, those of whoever started last count.

    Raises:
        ConfigError: a living worker serves a route of this name with a different definition.
    """
    now = store.now(connection)
    rows = list(connection.execute(_ALL))
    known = {row.name: row.definition for row in rows}
    operated = {row.name: row.operating for row in rows}
    served = {route: lease.worker for lease in living(store, connection) for route in lease.routes}
    for name, settings in routes.items():
        definition = orjson.dumps(settings.definition(), option=orjson.OPT_SORT_KEYS).decode()
        operating = settings.operating()
        written = orjson.dumps(operating, option=orjson.OPT_SORT_KEYS).decode() if operating else None
        if known.get(name) == definition:
            if operated[name] != written:
                connection.execute(_OPERATE, {"name": name, "operating": written})
            continue
        if name in known and name in served:
            keys = ", ".join(_differing(orjson.loads(known[name]), orjson.loads(definition)))
            raise ConfigError(
                f"[routes.{name}]: is defined differently ({keys}) for the worker {served[name]}, which is running.",
                hint="Give both the same configuration, or stop that worker first.",
            )
        connection.execute(_UPSERT, {"name": name, "provider": settings.provider, "definition": definition, "now": now})
        connection.execute(_OPERATE, {"name": name, "operating": written})


def registered(connection: Connection) -> dict[str, RegisteredRoute]:
    """The routes made known so far, by name."""
    return {
        name: RegisteredRoute(name, _settings(definition, operating), bool(drained))
        for name, definition, operating, drained in connection.execute(_ALL)
    }


def drained(connection: Connection) -> frozenset[str]:
    """The routes that an operator took out of service."""
    return frozenset(row.name for row in connection.execute(_DRAINED))


def set_drained(connection: Connection, name: str, drained: bool) -> None:
    """Take a route out of service, or back in; kept until it is said otherwise."""
    statement = text("UPDATE routes SET drained = :drained WHERE name = :name")
    if connection.execute(statement, {"name": name, "drained": drained}).rowcount == 0:
        raise NotFound(f"No route is called {name!r}.", hint="`trivet routes` lists them.")


def _settings(definition: str, operating: str | None) -> RouteSettings:
    """A newer Trivet may have registered the route with keys that this one does not know."""
    known = orjson.loads(definition) | orjson.loads(operating or "{}")
    return RouteSettings.model_validate(known, extra="ignore")


def _differing(before: dict[str, object], after: dict[str, object]) -> list[str]:
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
