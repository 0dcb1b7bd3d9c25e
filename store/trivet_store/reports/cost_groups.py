"""The groups of a cost report, as columns of its query."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from trivet_tasks.errors import InvalidRequest

TAG = "tag:"
"""Prefix of a tag's name: `tag:team` groups by the jobs' values of `team`."""

# the result of a succeeded job is that of its last claim; a realtime call and its hedge share it: the route tells
_ROLE = """
    CASE WHEN a.purpose = 'probe' THEN 'probe'
         WHEN a.outcome IS NULL THEN NULL
         WHEN a.outcome = 'succeeded' AND j.state = 'succeeded' AND a.claim = j.claim
              AND (a.latency <> 'realtime' OR j.attempts = 1 OR NOT EXISTS
                   (SELECT 1 FROM job_results r WHERE r.job_id = a.job_id AND r.route <> a.route)) THEN 'result'
         WHEN a.purpose = 'hedge' THEN 'hedge'
         WHEN a.outcome = 'succeeded' THEN 'late'
         WHEN a.outcome IN ('unknown', 'cancelled') THEN 'lost'
         ELSE 'failed' END
"""
GROUPINGS = {
    "route": "a.route",
    "model": "coalesce(a.model_used, a.model)",
    "provider": "a.provider",
    "class": "a.latency",
    "batch": "b.name",
    "tenant": "j.tenant",
    "day": "",  # written per database below
    "outcome": "a.outcome",
    "purpose": "a.purpose",
    "role": _ROLE,
}
"""Groups of `trivet costs --by` beside tags, with their columns."""


class Grouping(NamedTuple):
    """Columns to group by, and the parameters they hold."""

    columns: tuple[str, ...]
    parameters: dict[str, str]


def grouping(connection: Connection, by: Sequence[str]) -> Grouping:
    """The columns of these names, in order.

    Raises:
        InvalidRequest: a name is not known, or `tag` does not say which.
    """
    columns: list[str] = []
    parameters: dict[str, str] = {}
    for number, name in enumerate(by):
        if name.startswith(TAG) and name != TAG:
            parameters[f"tag{number}"] = name.removeprefix(TAG)
            columns.append(_tag(connection, f"tag{number}"))
        elif name in GROUPINGS:
            columns.append(_day(connection) if name == "day" else GROUPINGS[name])
        elif name in ("tag", TAG):
            raise InvalidRequest("--by: which tag?", field="by", hint="Name it, as in --by tag:team.")
        else:
            known = ", ".join([*GROUPINGS, f"{TAG}NAME"])
            raise InvalidRequest(f"--by: {name!r} is not known.", field="by", hint=f"Use {known}.")
    return Grouping(tuple(columns), parameters)


def _day(connection: Connection) -> str:
    if connection.dialect.name == "postgresql":
        return "to_char(to_timestamp(a.started_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD')"
    return "strftime('%Y-%m-%d', a.started_at, 'unixepoch')"


def _tag(connection: Connection, parameter: str) -> str:
    """By `json_each` on SQLite: a path could not name every tag."""
    if connection.dialect.name == "postgresql":
        return f"CAST(j.tags AS json) ->> CAST(:{parameter} AS text)"
    return f"(SELECT value FROM json_each(j.tags) WHERE key = :{parameter})"
