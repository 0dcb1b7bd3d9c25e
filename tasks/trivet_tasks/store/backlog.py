"""What waits and what is under way, for people who watch: by class, by batch, by route. Ended jobs are never read.

Waiting jobs are counted through the partial index of jobs that have not ended, jobs under way through that of
outstanding ones, so the cost grows with the backlog and not with the table.
"""

from typing import NamedTuple

from sqlalchemy import Connection, text


class ClassBacklog(NamedTuple):
    """The jobs of one latency class that wait. Counts are jobs, times are seconds since the epoch."""

    latency: str
    waiting: int
    """Could be dispatched now, if a route had room."""
    delayed: int
    """Wait for a time of their own: a backoff, or `not_before`."""
    held: int
    """Belong to a batch that is not complete yet or was cancelled: nothing dispatches them."""
    oldest_at: float
    """When the oldest of them was submitted."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.waiting + self.delayed + self.held


class BatchBacklog(NamedTuple):
    """The jobs of one batch that wait; `batch` is None for the jobs that were submitted one by one."""

    batch: str | None
    waiting: int
    delayed: int
    held: int
    oldest_at: float

    @property
    def total(self) -> int:
        """All of them."""
        return self.waiting + self.delayed + self.held


class RouteBacklog(NamedTuple):
    """The jobs of one latency class that stand at a route."""

    route: str
    latency: str
    dispatched: int
    """In the route's queue, not taken up yet."""
    running: int
    """Taken up by a worker."""
    oldest_at: float
    """When the oldest of them was submitted, seconds since the epoch."""


_WAITING = """
       coalesce(sum(CASE WHEN j.state = 'waiting' AND NOT f.held THEN 1 ELSE 0 END), 0) AS waiting,
       coalesce(sum(CASE WHEN j.state = 'delayed' AND NOT f.held THEN 1 ELSE 0 END), 0) AS delayed,
       coalesce(sum(CASE WHEN f.held THEN 1 ELSE 0 END), 0) AS held,
       min(j.created_at) AS oldest_at
  FROM flows f
  JOIN jobs j ON j.flow_id = f.id AND j.ended_at IS NULL AND j.state IN ('waiting', 'delayed')
"""
_BY_CLASS = text(f"SELECT f.latency, {_WAITING} WHERE f.active GROUP BY f.latency ORDER BY f.latency")
_BY_BATCH = text(
    f"""
    SELECT b.name AS batch, {_WAITING} LEFT JOIN batches b ON b.id = f.batch_id
     WHERE f.active GROUP BY f.batch_id, b.name ORDER BY count(*) DESC, b.name LIMIT :limit
    """
)
_BY_ROUTE = text(
    """
    SELECT j.route, f.latency,
           sum(CASE WHEN j.state = 'dispatched' THEN 1 ELSE 0 END) AS dispatched,
           sum(CASE WHEN j.state = 'running' THEN 1 ELSE 0 END) AS running,
           min(j.created_at) AS oldest_at
      FROM jobs j JOIN flows f ON f.id = j.flow_id
     WHERE j.state IN ('dispatched', 'running') AND j.route IS NOT NULL
     GROUP BY j.route, f.latency ORDER BY j.route, f.latency
    """
)


def by_class(connection: Connection) -> list[ClassBacklog]:
    """The jobs that wait, by latency class; classes without any are left out."""
    return [ClassBacklog(*row) for row in connection.execute(_BY_CLASS)]


def by_batch(connection: Connection, limit: int) -> list[BatchBacklog]:
    """The jobs that wait, by batch, the batches with most of them first."""
    return [BatchBacklog(*row) for row in connection.execute(_BY_BATCH, {"limit": limit})]


def by_route(connection: Connection) -> list[RouteBacklog]:
    """The jobs that stand at each route, by class; routes without any are left out."""
    return [RouteBacklog(*row) for row in connection.execute(_BY_ROUTE)]
