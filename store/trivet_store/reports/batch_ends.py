"""Jobs of a batch counted by latency class, state and reason, with the longest time that one of them took."""

from collections.abc import Mapping
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
    late: int = 0
    """Number of them that ended after their deadline, or longer after their first call than the budget of their class."""


# by the partial indexes that are there: ended jobs, which are numbered, and those that have not ended; a cross join, so that
# SQLite begins with the flows
NO_BUDGET_S = 1e18
_BUDGETS = " ".join(f"WHEN '{latency}' THEN :{latency}_s" for latency in Latency)
_ENDS = text(
    """
    SELECT o.latency, o.state, r.error_outcome, count(*) AS jobs,
           max(coalesce(o.ended_at, :now) - o.created_at) AS longest_s, min(r.error_message) AS message,
           sum(CASE WHEN o.state = 'expired' OR o.ended_at > o.deadline_at THEN 1
                    WHEN o.ended_at - (SELECT min(a.started_at) FROM attempts a WHERE a.job_id = o.id)
                         > CASE o.latency {budgets} END THEN 1
                    ELSE 0 END) AS late
      FROM (SELECT f.latency, j.id, j.state, j.created_at, j.ended_at, j.deadline_at FROM jobs j JOIN flows f ON f.id = j.flow_id
             WHERE j.batch_id = :batch_id AND j.batch_seq IS NOT NULL
            UNION ALL
            SELECT f.latency, j.id, j.state, j.created_at, j.ended_at, j.deadline_at FROM flows f CROSS JOIN jobs j
             WHERE f.batch_id = :batch_id AND j.flow_id = f.id AND j.ended_at IS NULL
           ) AS o
      LEFT JOIN job_results r ON r.job_id = o.id
     GROUP BY o.latency, o.state, r.error_outcome
     ORDER BY o.latency, o.state, r.error_outcome
    """.replace("{budgets}", _BUDGETS)
)


def batch_ends(
    connection: Connection, batch_id: int, now: float, budgets_s: Mapping[Latency, float] = {}
) -> list[BatchEnds]:
    """Return the counts of a batch. Reads the whole batch.

    Args:
        now: the database's time.
        budgets_s: latency budgets in seconds, by which jobs count as late; of a class that lacks one, only deadlines do.
    """
    bounds = {f"{latency}_s": budgets_s.get(latency, NO_BUDGET_S) for latency in Latency}
    return [
        BatchEnds(
            Latency(row.latency),
            JobState(row.state),
            Outcome(row.error_outcome) if row.error_outcome else None,
            row.jobs,
            float(row.longest_s),
            row.message,
            int(row.late),
        )
        for row in connection.execute(_ENDS, {"batch_id": batch_id, "now": now, **bounds})
    ]
