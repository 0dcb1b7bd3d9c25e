"""Jobs of a batch counted by latency class, state and reason, with the longest time that one of them took."""

from dataclasses import dataclass

from sqlalchemy import Connection, text

from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import Outcome
from trivet_tasks.states import JobState


@dataclass(frozen=True, slots=True)
class BatchEnds:
    """Jobs of one latency class in one state, for one reason."""

    latency: Latency
    state: JobState
    outcome: Outcome | None
    """Outcome that ended those that did not succeed."""
    jobs: int
    longest_s: float
    """Seconds from submit to the end of the one that took longest; of jobs that have not ended, until now."""
    message: str | None
    """Words of the error of one of them."""


_ENDS = text(
    """
    SELECT f.latency, j.state, r.error_outcome, count(*) AS jobs,
           max(coalesce(j.ended_at, :now) - j.created_at) AS longest_s, min(r.error_message) AS message
      FROM jobs j
      JOIN flows f ON f.id = j.flow_id
      LEFT JOIN job_results r ON r.job_id = j.id
     WHERE j.batch_id = :batch_id
     GROUP BY f.latency, j.state, r.error_outcome
     ORDER BY f.latency, j.state, r.error_outcome
    """
)


def batch_ends(connection: Connection, batch_id: int, now: float) -> list[BatchEnds]:
    """Return the counts of a batch. `now` is the database's time. Reads the whole batch."""
    return [
        BatchEnds(
            Latency(row.latency),
            JobState(row.state),
            Outcome(row.error_outcome) if row.error_outcome else None,
            row.jobs,
            float(row.longest_s),
            row.message,
        )
        for row in connection.execute(_ENDS, {"batch_id": batch_id, "now": now})
    ]
