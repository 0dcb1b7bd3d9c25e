"""The version of a route's operational figures that is in force, and those that were."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from sqlalchemy import Connection, Row, text

from trivet_store import events
from trivet_tasks.config.route_settings import OPERATIONAL, RouteSettings

_SEEN = text("SELECT 1 FROM route_versions WHERE route = :route AND digest = :digest")
_ADD = text(
    """
    INSERT INTO route_versions (route, digest, operating, seen_at, seen_by)
    VALUES (:route, :digest, :operating, :now, :by)
    ON CONFLICT (route, digest) DO NOTHING
    """
)
_PUT_IN_FORCE = text(
    """
    UPDATE routes SET operating = :operating, version = :digest, version_at = :now, version_by = :by
     WHERE name = :route
    """
)


def is_old(connection: Connection, row: Row[Any], settings: RouteSettings) -> bool:
    """Return whether the figures are those of an earlier version that is no longer in force.

    Args:
        row: of the table `routes`.
    """
    digest = settings.operational_digest
    if digest == row.version:
        return False
    return connection.execute(_SEEN, {"route": row.name, "digest": digest}).one_or_none() is not None


def put_in_force(connection: Connection, row: Row[Any], settings: RouteSettings, by: str, now: float) -> list[str]:
    """Make these figures the version in force, and note who changed what. Returns the changes.

    Args:
        row: of the table `routes`, held by this transaction.
        by: the process and its file, or the person, for readers of the event.
    """
    operating = orjson.dumps(settings.operational(), option=orjson.OPT_SORT_KEYS).decode()
    version = {"route": row.name, "digest": settings.operational_digest, "operating": operating, "now": now, "by": by}
    connection.execute(_ADD, version)
    if row.version == settings.operational_digest:
        return []
    connection.execute(_PUT_IN_FORCE, version)
    before = orjson.loads(row.operating or "{}")
    made = changes(before, settings) if row.version or before else []
    if made:
        events.note(connection, "route changed", f"{', '.join(made)}; by {by}", now, route=row.name)
    return made


def changes(before: Mapping[str, Any], settings: RouteSettings) -> list[str]:
    """Return each figure that differs with its old and new value: `requests_per_minute 500 -> 600`.

    Args:
        before: operational figures, as they are kept.
    """
    old = RouteSettings.model_validate({"provider": settings.provider, **before}, extra="ignore")
    return [
        f"{name} {_shown(old, name)} -> {_shown(settings, name)}"
        for name in RouteSettings.model_fields
        if name in OPERATIONAL and getattr(old, name) != getattr(settings, name)
    ]


def since(row: Row[Any]) -> str:
    """Return the start and the author of the version in force, for a sentence."""
    at = datetime.fromtimestamp(row.version_at or 0, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return f"since {at}, by {row.version_by}"


def _shown(settings: RouteSettings, name: str) -> str:
    value = settings.model_dump(
        mode="json", include={name}, exclude_defaults=name in ("limits", "windows", "costs", "prices")
    )
    shown = value.get(name)
    return "none" if shown in (None, []) else orjson.dumps(shown).decode()
