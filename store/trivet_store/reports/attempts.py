"""Attempts counted by route, with the failovers between routes, and every attempt as it ended.

A failover is an attempt that followed a failed attempt of the same job on another route. Attempts are ordered by
claim number, which rises with each attempt of a job. A call dropped on our side (`cancelled`) is not a failed one.
Recent lengths of answers are read here too, relative to their `max_tokens`.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import Connection, text

from trivet_store.schema import Usd, usd_sum
from trivet_tasks.outcomes import Outcome

FOREVER = float("inf")
SETTLING_S = 5.0
"""An attempt begun longer ago than this is seen by every reader: its row's transaction is over."""


@dataclass(slots=True)
class RouteAttempts:
    """Attempts of one route. `cost_usd` is the settled cost, `estimated_usd` the maximum cost of the rest."""

    attempts: int = 0
    running: int = 0
    succeeded: int = 0
    succeeded_s: float = 0.0
    """Seconds that the successful ones took, added up."""
    output_tokens: int = 0
    """Tokens of their answers."""
    failed: int = 0
    limited: int = 0
    """The failed ones that were refused with a rate limit."""
    left_to: Counter[str] = field(default_factory=Counter)
    """Failovers away from this route, by the route that they went to."""
    probes: int = 0
    """Trivet's own probes of the route; not among `attempts`, but in the costs."""
    cost_usd: Decimal = Decimal(0)
    estimated_usd: Decimal = Decimal(0)

    @property
    def left(self) -> int:
        """Failovers away from this route."""
        return self.left_to.total()


class UsedOutput(NamedTuple):
    """The latest good calls of one flow. Sums are output tokens."""

    flow_id: int
    model: str
    latency: str
    calls: int
    used: int
    allowed: int


class RoutePace(NamedTuple):
    """The latest answers of one route and model that are long enough to tell its pace."""

    route: str
    model: str
    calls: int
    tokens_per_s: float
    """Output tokens a second, over the whole of the calls."""


class AttemptFate(NamedTuple):
    """An attempt row: its job and its outcome (None: under way)."""

    id: str
    job_id: str
    outcome: str | None


class JobCount(NamedTuple):
    """Jobs on record, without Trivet's own probes."""

    total: int
    not_ended: int


class _Group(NamedTuple):
    """Attempts of one route with the same outcome, and the route on which their jobs had failed just before, if any."""

    route: str
    outcome: str | None
    left: str | None
    probe: bool
    attempts: int
    seconds: float | None
    output_tokens: int | None
    cost: Decimal | None
    estimated: Decimal | None


_GROUPS = """
    SELECT a.route, a.outcome, p.route AS "left", a.purpose = 'probe' AS probe, count(*) AS attempts,
           sum(a.latency_s) AS seconds, sum(a.output_tokens) AS output_tokens, {cost} AS cost, {estimated} AS estimated
      FROM attempts a
      LEFT JOIN attempts p
             ON p.job_id = a.job_id AND p.route <> a.route AND p.outcome NOT IN ('succeeded', 'cancelled')
            AND p.claim = (SELECT max(q.claim) FROM attempts q WHERE q.job_id = a.job_id AND q.claim < a.claim)
     WHERE a.started_at >= :since AND a.started_at < :until
     GROUP BY a.route, a.outcome, p.route, a.purpose = 'probe'
"""
_OLDEST_RUNNING = text("SELECT min(started_at) FROM attempts WHERE outcome IS NULL")

# the newest calls by the index on their start, whatever their outcome: an outage must not make this a long scan
_LATEST = text(
    """
    SELECT j.flow_id, latest.model, latest.latency, count(*) AS calls, sum(latest.output_tokens) AS used,
           sum(j.max_tokens) AS allowed
      FROM (SELECT job_id, model, latency, outcome, purpose, output_tokens FROM attempts
             WHERE started_at >= :since ORDER BY started_at DESC LIMIT :most) AS latest
      JOIN jobs j ON j.id = latest.job_id
     WHERE latest.outcome = 'succeeded' AND latest.purpose = 'job' AND latest.output_tokens IS NOT NULL
     GROUP BY j.flow_id, latest.model, latest.latency
    """
)
_PACES = text(
    """
    SELECT route, model, count(*) AS calls, sum(output_tokens) / sum(latency_s) AS tokens_per_s
      FROM (SELECT route, model, outcome, purpose, output_tokens, latency_s FROM attempts
             WHERE started_at >= :since ORDER BY started_at DESC LIMIT :most) AS latest
     WHERE outcome = 'succeeded' AND purpose = 'job' AND output_tokens >= :least_tokens AND latency_s > 0
     GROUP BY route, model
    """
)
_ATTEMPTS = text("SELECT id, job_id, outcome FROM attempts")
_JOBS = text(
    """
    SELECT count(*), count(*) - count(j.ended_at) FROM jobs j JOIN flows f ON f.id = j.flow_id WHERE NOT f.probe
    """
)


def used_output(connection: Connection, since: float, most: int) -> list[UsedOutput]:
    """Return the output used by the answered ones among the newest calls, at most `most` of them, by flow."""
    return [
        UsedOutput(flow_id, model, latency, calls, int(used), int(allowed))
        for flow_id, model, latency, calls, used, allowed in connection.execute(_LATEST, {"since": since, "most": most})
    ]


def route_paces(connection: Connection, since: float, most: int, least_tokens: int) -> list[RoutePace]:
    """Return the observed pace of each route and model, by the newest calls, at most `most` of them.

    Args:
        least_tokens: shorter answers tell the time of a first token, not a pace.
    """
    bounds = {"since": since, "most": most, "least_tokens": least_tokens}
    return [RoutePace(*row) for row in connection.execute(_PACES, bounds)]


def attempt_fates(connection: Connection) -> list[AttemptFate]:
    """Return every attempt there is, probes included."""
    return [AttemptFate(*row) for row in connection.execute(_ATTEMPTS)]


def job_count(connection: Connection) -> JobCount:
    """Return how many jobs there are, and how many of them have not ended."""
    return JobCount(*connection.execute(_JOBS).one())


@dataclass(slots=True)
class AttemptCounter:
    """Counts all attempts by route; from the second time on it reads only those that may have changed since."""

    _settled: list[_Group] = field(default_factory=list)
    _settled_until: float = 0.0

    def read(self, connection: Connection, now: float) -> dict[str, RouteAttempts]:
        """Return all attempts so far, by route. `now` is the database's time, in seconds since the epoch."""
        oldest = connection.execute(_OLDEST_RUNNING).scalar_one()
        settled = max(self._settled_until, min(now - SETTLING_S, now if oldest is None else oldest))
        self._settled = _merged(self._settled + _groups(connection, self._settled_until, settled))
        self._settled_until = settled
        return _summed(self._settled + _groups(connection, settled, FOREVER))


def _groups(connection: Connection, since: float, until: float) -> list[_Group]:
    # a large number: PostgreSQL and SQLite do not agree on how infinity is bound
    bounds = {"since": since, "until": min(until, 1e18)}
    groups = _GROUPS.format(
        cost=usd_sum(connection.dialect, "CASE WHEN a.estimated THEN 0 ELSE a.cost_usd END"),
        estimated=usd_sum(connection.dialect, "CASE WHEN a.estimated THEN a.cost_usd ELSE 0 END"),
    )
    statement = text(groups).columns(cost=Usd(), estimated=Usd())
    return [_Group(*row) for row in connection.execute(statement, bounds)]


def _merged(groups: list[_Group]) -> list[_Group]:
    merged: dict[tuple[str, str | None, str | None, bool], _Group] = {}
    for group in groups:
        before = merged.get(group[:4])
        merged[group[:4]] = group if before is None else _Group(
            *group[:4],
            group.attempts + before.attempts,
            (group.seconds or 0.0) + (before.seconds or 0.0),
            int((group.output_tokens or 0) + (before.output_tokens or 0)),
            (group.cost or Decimal(0)) + (before.cost or Decimal(0)),
            (group.estimated or Decimal(0)) + (before.estimated or Decimal(0)),
        )  # fmt: skip
    return list(merged.values())


def _summed(groups: list[_Group]) -> dict[str, RouteAttempts]:
    tallies: defaultdict[str, RouteAttempts] = defaultdict(RouteAttempts)
    for group in groups:
        entry = tallies[group.route]
        if group.probe:
            entry.cost_usd += group.cost or Decimal(0)
            entry.probes += group.attempts
            continue
        entry.attempts += group.attempts
        if group.left is not None:
            tallies[group.left].left_to[group.route] += group.attempts
        if group.outcome is None:
            entry.running += group.attempts
            continue
        entry.cost_usd += group.cost or Decimal(0)
        entry.estimated_usd += group.estimated or Decimal(0)
        if group.outcome == Outcome.SUCCEEDED:
            entry.succeeded += group.attempts
            entry.succeeded_s += group.seconds or 0.0
            entry.output_tokens += int(group.output_tokens or 0)
        else:
            entry.failed += group.attempts
            entry.limited += group.attempts if group.outcome == Outcome.RATE_LIMITED else 0
    return dict(tallies)
