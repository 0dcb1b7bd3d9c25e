"""The backlog for people who watch: jobs by class, by batch, by route. Ended jobs are never read.

Trivet's own probes are nobody's jobs and are not counted.

Waiting jobs are counted through the partial index of jobs that have not ended, jobs under way through that of
outstanding ones, so the cost grows with the backlog and not with the table.
"""

from typing import NamedTuple

import orjson
from sqlalchemy import Connection, TextClause, text

from trivet_store.controls import PAUSED
from trivet_tasks.jobs import tried_of
from trivet_tasks.latency import Latency


class ClassBacklog(NamedTuple):
    """The jobs of one latency class that wait. Counts are jobs, times are seconds since the epoch."""

    latency: str
    waiting: int
    """Jobs that could be dispatched now, if a route took them."""
    delayed: int
    """Jobs that wait for a time of their own: a backoff, or `not_before`."""
    held: int
    """Jobs of a batch that is not complete yet or was cancelled: nothing dispatches them."""
    oldest_at: float
    """Submission time of the oldest of them."""
    coalesced: int = 0
    """Jobs that wait for the answer to an equal request, which another job is getting."""
    paused: int = 0
    """Jobs whose batch, tenant or class an operator paused."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.waiting + self.delayed + self.held + self.coalesced + self.paused


class BatchBacklog(NamedTuple):
    """The jobs of one batch that wait; `batch` is None for the jobs that were submitted one by one."""

    batch: str | None
    waiting: int
    delayed: int
    held: int
    oldest_at: float
    coalesced: int = 0
    paused: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.waiting + self.delayed + self.held + self.coalesced + self.paused


class RouteBacklog(NamedTuple):
    """The outstanding jobs of one latency class at a route."""

    route: str
    latency: str
    dispatched: int
    """Jobs in the route's queue, not claimed yet."""
    running: int
    """Jobs that a worker has claimed."""
    oldest_at: float
    """Submission time of the oldest of them, seconds since the epoch."""


# materialized: a pause is looked up once for each flow, and not for each job
_ACTIVE = f"""
    WITH f AS MATERIALIZED (
        SELECT f.id, f.batch_id, f.latency, f.held, NOT f.held AND {PAUSED} AS paused, NOT f.held AND NOT {PAUSED} AS free
          FROM flows f WHERE f.active AND NOT f.probe
    )
"""
_WAITING = """
       coalesce(sum(CASE WHEN j.state = 'waiting' AND f.free THEN 1 ELSE 0 END), 0) AS waiting,
       coalesce(sum(CASE WHEN j.state = 'delayed' AND f.free THEN 1 ELSE 0 END), 0) AS delayed,
       coalesce(sum(CASE WHEN f.held THEN 1 ELSE 0 END), 0) AS held,
       min(j.created_at) AS oldest_at,
       coalesce(sum(CASE WHEN j.state = 'coalesced' AND f.free THEN 1 ELSE 0 END), 0) AS coalesced,
       coalesce(sum(CASE WHEN f.paused THEN 1 ELSE 0 END), 0) AS paused
  FROM f
  JOIN jobs j ON j.flow_id = f.id AND j.ended_at IS NULL AND j.state IN ('waiting', 'delayed', 'coalesced')
"""
_BY_CLASS = text(f"{_ACTIVE} SELECT f.latency, {_WAITING} GROUP BY f.latency ORDER BY f.latency")
_BY_BATCH = text(
    f"""
    {_ACTIVE}
    SELECT b.name AS batch, {_WAITING} LEFT JOIN batches b ON b.id = f.batch_id
     GROUP BY f.batch_id, b.name ORDER BY count(*) DESC, b.name LIMIT :limit
    """
)
_BY_ROUTE = text(
    """
    SELECT j.route, f.latency,
           sum(CASE WHEN j.state = 'dispatched' THEN 1 ELSE 0 END) AS dispatched,
           sum(CASE WHEN j.state = 'running' THEN 1 ELSE 0 END) AS running,
           min(j.created_at) AS oldest_at
      FROM jobs j JOIN flows f ON f.id = j.flow_id
     WHERE j.state IN ('dispatched', 'running') AND j.route IS NOT NULL AND NOT f.probe
     GROUP BY j.route, f.latency ORDER BY j.route, f.latency
    """
)


def by_class(connection: Connection) -> list[ClassBacklog]:
    """Return the jobs that wait, by latency class; classes without any are left out."""
    return [ClassBacklog(*row) for row in connection.execute(_BY_CLASS)]


def by_batch(connection: Connection, limit: int) -> list[BatchBacklog]:
    """Return the jobs that wait, by batch, the batches with most of them first."""
    return [BatchBacklog(*row) for row in connection.execute(_BY_BATCH, {"limit": limit})]


def by_route(connection: Connection) -> list[RouteBacklog]:
    """Return the outstanding jobs of each route, by class; routes without any are left out."""
    return [RouteBacklog(*row) for row in connection.execute(_BY_ROUTE)]


class FlowRequirements(NamedTuple):
    """The requirements that living jobs have of a route."""

    model: str
    latency: Latency
    residency: tuple[str, ...]
    compliance: tuple[str, ...]
    features: tuple[str, ...]
    too_slow: tuple[str, ...] = ()
    """Routes that cannot answer these jobs in time, as a call showed."""


_OF_FLOW = "f.model, f.latency, f.residency, f.compliance, f.features"
_REQUIREMENTS = f"SELECT DISTINCT {_OF_FLOW}, '' AS too_slow FROM flows f"
# few jobs have found a route too slow, and those have an index of their own; on SQLite a cross join keeps its order
_OF_SLOWED = f"""
    SELECT {_OF_FLOW}, j.too_slow FROM jobs j CROSS JOIN flows f LEFT JOIN batches b ON b.id = f.batch_id
     WHERE j.ended_at IS NULL AND j.too_slow <> '' AND j.state = 'waiting' AND f.id = j.flow_id
       AND f.active AND NOT f.held AND NOT {PAUSED}
"""
_OF_BATCH = text(
    f"""
    {_REQUIREMENTS} JOIN batches b ON b.id = f.batch_id WHERE b.name = :batch AND f.active AND NOT {PAUSED}
    UNION {_OF_SLOWED} AND b.name = :batch
    """
)
_OF_WAITING = text(
    f"""
    {_REQUIREMENTS}
     WHERE f.active AND NOT f.held AND NOT {PAUSED}
       AND EXISTS (SELECT 1 FROM jobs j WHERE j.flow_id = f.id AND j.state = 'waiting' AND j.ended_at IS NULL)
    UNION {_OF_SLOWED}
    """
)
_PAUSE = text(
    """
    SELECT min(j.not_before) AS first, sum(CASE WHEN j.state = 'delayed' THEN 0 ELSE 1 END) AS others
      FROM batches b JOIN flows f ON f.batch_id = b.id AND f.active
      JOIN jobs j ON j.flow_id = f.id AND j.ended_at IS NULL
       AND j.state IN ('waiting', 'delayed', 'coalesced', 'dispatched', 'running')
     WHERE b.name = :batch
    """
)
_OF_LIVING = text(f"{_REQUIREMENTS} WHERE f.active AND NOT f.probe")
_OF_JOB = text(
    f"SELECT {_OF_FLOW}, j.too_slow FROM jobs j JOIN flows f ON f.id = j.flow_id WHERE j.id = :id AND NOT {PAUSED}"
)
_RECENT_FLOWS = 500
"""Number of the latest kinds of jobs that count as in use."""
_SPEED_OVER_S = 60.0
SPEED_OF_JOBS = 5_000
"""Number of the latest ended jobs of a batch that its speed is taken from, at most."""
_MODELS = text(
    """
    SELECT model FROM flows WHERE active AND NOT probe
    UNION SELECT model FROM (SELECT model FROM flows WHERE NOT probe ORDER BY id DESC LIMIT :recent) AS newest
    """
)
# a batch's ended jobs are numbered in the order they ended: only the last of them are read
_SPEED = text(
    """
    SELECT count(*) AS jobs, min(j.ended_at) AS first
      FROM jobs j JOIN batches b ON b.id = j.batch_id
     WHERE b.name = :batch AND j.batch_seq IS NOT NULL AND j.batch_seq > b.seq - :most AND j.ended_at >= :since
    """
)


def requirements_of_batch(connection: Connection, batch: str) -> list[FlowRequirements]:
    """Return what the living jobs of a batch require of a route."""
    return _requirements(connection, _OF_BATCH, batch=batch)


def requirements_of_waiting(connection: Connection) -> list[FlowRequirements]:
    """Return what the jobs that only wait for a route require of it."""
    return _requirements(connection, _OF_WAITING)


def requirements_of_living(connection: Connection) -> list[FlowRequirements]:
    """Return what the jobs that have not ended require of a route."""
    return _requirements(connection, _OF_LIVING)


def requirements_of_job(connection: Connection, job_id: str) -> list[FlowRequirements]:
    """Return what one job requires of a route; none when there is no such job."""
    return _requirements(connection, _OF_JOB, id=job_id)


def pause_of(connection: Connection, batch: str) -> float | None:
    """Return the due time of a batch's first living job, if all of them wait for a time of their own; else None."""
    row = connection.execute(_PAUSE, {"batch": batch}).one()
    return None if row.others or row.first is None else float(row.first)


def models_in_use(connection: Connection) -> list[str]:
    """Return the models of jobs that have not ended, and of the latest kinds of jobs that were submitted."""
    return sorted(row.model for row in connection.execute(_MODELS, {"recent": _RECENT_FLOWS}))


def recent_speed(connection: Connection, batch: str, now: float) -> float | None:
    """Return a batch's ended jobs per second within the last minute; None when hardly any ended."""
    row = connection.execute(_SPEED, {"batch": batch, "since": now - _SPEED_OVER_S, "most": SPEED_OF_JOBS}).one()
    if row.jobs < 2 or now - row.first < 1:
        return None
    return float(row.jobs / (now - row.first))


def _requirements(connection: Connection, statement: TextClause, **parameters: str) -> list[FlowRequirements]:
    return [
        FlowRequirements(
            row.model,
            Latency(row.latency),
            tuple(orjson.loads(row.residency)),
            tuple(orjson.loads(row.compliance)),
            tuple(orjson.loads(row.features)),
            tried_of(row.too_slow),
        )
        for row in connection.execute(statement, parameters)
    ]
