"""A waiting job with its flow, as a dispatcher sees them: to show what blocks it."""

from sqlalchemy import Connection, Row, text

from trivet_store.jobs.dispatching import Flow, Head
from trivet_tasks.jobs import tried_of
from trivet_tasks.latency import Latency

_OF_JOB = text(
    """
    SELECT f.*, j.tried, j.input_estimate, j.max_tokens FROM jobs j JOIN flows f ON f.id = j.flow_id
     WHERE j.id = :id AND j.state = 'waiting'
    """
)
_OF_BATCH = text(
    """
    SELECT f.*, j.tried, j.input_estimate, j.max_tokens FROM batches b
      JOIN flows f ON f.batch_id = b.id AND f.active AND NOT f.held
      JOIN jobs j ON j.flow_id = f.id AND j.state = 'waiting' AND j.ended_at IS NULL
     WHERE b.name = :name ORDER BY j.rank LIMIT 1
    """
)


def waiting_job(connection: Connection, job_id: str) -> tuple[Flow, Head] | None:
    """Return a job that waits; None when there is none of this id, or it does not wait."""
    return _read(connection.execute(_OF_JOB, {"id": job_id}).one_or_none())


def next_of_batch(connection: Connection, name: str) -> tuple[Flow, Head] | None:
    """Return the job of a batch that is next in line; None when none waits."""
    return _read(connection.execute(_OF_BATCH, {"name": name}).one_or_none())


def _read(row: "Row[tuple[object, ...]] | None") -> tuple[Flow, Head] | None:
    if row is None:
        return None
    flow = Flow(row.id, Latency(row.latency), row.model, (), (), (), False, row.batch_id, row.labels, row.cache_write)
    return flow, Head("", row.id, 0.0, tried_of(row.tried), None, row.input_estimate, row.max_tokens)
