"""Periodic work on jobs, in groups: due again, not claimed in time, at a drained route, past the deadline; empty flows.

Any number of schedulers may do this at once; each group is one transaction over rows that nobody else has locked.
"""

from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, text

from trivet_store import controls
from trivet_store.database.engine import BULK_ROWS, Store
from trivet_store.database.locking import lock_flows_by_id, select_locked
from trivet_store.jobs import separating, transitions
from trivet_store.jobs.ending import end_jobs
from trivet_store.steps import End, Ended
from trivet_tasks.jobs import tried_of, tried_text
from trivet_tasks.outcomes import Outcome
from trivet_tasks.states import JobState

WOKEN_AT_ONCE = 5 * BULK_ROWS
"""Jobs that one transaction puts back to waiting when their time has come."""
_DELAYED = """
    SELECT id FROM jobs WHERE state = 'delayed' AND not_before <= :now
     ORDER BY not_before LIMIT :limit {FOR UPDATE SKIP LOCKED}
"""
# SQLite uses a partial index only where the statement repeats its condition word for word
_UNCLAIMED = """
    SELECT id, claim, route, tried FROM jobs
     WHERE state IN ('dispatched', 'running') AND state = 'dispatched' AND dispatched_until < :now
     ORDER BY dispatched_until LIMIT :limit {FOR UPDATE SKIP LOCKED}
"""
_AT_DRAINED = """
    SELECT j.id, j.claim, j.route FROM jobs j
     WHERE j.state IN ('dispatched', 'running') AND j.state = 'dispatched'
       AND j.route IN (SELECT name FROM routes WHERE drained)
       AND NOT EXISTS (SELECT 1 FROM flows f WHERE f.id = j.flow_id AND f.probe)
     LIMIT :limit {FOR UPDATE OF j SKIP LOCKED}
"""
_AT_PAUSED = f"""
    SELECT j.id, j.claim, j.route FROM jobs j
     WHERE j.state IN ('dispatched', 'running') AND j.state = 'dispatched'
       AND EXISTS (SELECT 1 FROM flows f WHERE f.id = j.flow_id AND NOT f.probe AND {controls.PAUSED})
"""
_LATE = f"""
    SELECT id, batch_id, created_at, deadline_at, last_outcome, last_error,
           EXISTS (SELECT 1 FROM flows f WHERE f.id = jobs.flow_id AND NOT f.probe AND {controls.PAUSED}) AS paused
      FROM jobs
     WHERE ended_at IS NULL AND deadline_at IS NOT NULL AND deadline_at <= :now AND state <> 'running'
     ORDER BY deadline_at LIMIT :limit {{FOR UPDATE SKIP LOCKED}}
"""
_EMPTY_FLOWS = text(
    """
    SELECT id FROM flows
     WHERE active AND NOT EXISTS (SELECT 1 FROM jobs WHERE flow_id = flows.id AND ended_at IS NULL) LIMIT :limit
    """
)
_RETIRE_FLOW = text(
    """
    UPDATE flows SET active = false
     WHERE id = :id AND NOT EXISTS (SELECT 1 FROM jobs WHERE flow_id = :id AND ended_at IS NULL)
    """
)
_DUE = text(
    f"""
    SELECT EXISTS (SELECT 1 FROM jobs WHERE state = 'delayed' AND not_before <= :now) AS delayed,
           EXISTS (SELECT 1 FROM jobs WHERE state IN ('dispatched', 'running') AND state = 'dispatched'
                                        AND dispatched_until < :now) AS unclaimed,
           EXISTS (SELECT 1 FROM leases WHERE expires_at < :now) AS dead,
           EXISTS (SELECT 1 FROM jobs WHERE ended_at IS NULL AND deadline_at IS NOT NULL AND deadline_at <= :now
                                        AND state <> 'running') AS late,
           EXISTS (SELECT 1 FROM flows WHERE active
                      AND NOT EXISTS (SELECT 1 FROM jobs WHERE flow_id = flows.id AND ended_at IS NULL)) AS empty,
           EXISTS (SELECT 1 FROM batches WHERE state = 'cancelled' AND ended < total) AS cancelled,
           EXISTS (SELECT 1 FROM routes r WHERE r.drained
                      AND EXISTS (SELECT 1 FROM jobs j WHERE j.route = r.name AND j.state IN ('dispatched', 'running')
                                                         AND j.state = 'dispatched')) AS drained,
           EXISTS (SELECT 1 FROM coalesced_jobs WHERE until <= :now) AS coalesced,
           EXISTS (SELECT 1 FROM controls WHERE paused_at IS NOT NULL) AND EXISTS ({_AT_PAUSED}) AS paused,
           EXISTS ({separating.STRAYS}) AS strays
    """
)


class Due(NamedTuple):
    """Kinds of periodic work, each true if there is some."""

    delayed: bool
    unclaimed: bool
    dead: bool
    late: bool
    empty: bool
    """Flows without a living job."""
    cancelled: bool
    """Jobs of cancelled batches that have not ended."""
    drained: bool
    """Jobs in the queues of routes that an operator took out of service."""
    coalesced: bool
    """Jobs that have waited long for the answer to an equal request."""
    paused: bool
    """Jobs in queues whose batch, tenant or class was paused."""
    strays: bool
    """Jobs that are not yet in the flows of their tenant."""


def due(store: Store, connection: Connection) -> Due:
    """Return what there is to do, in one read and without locks."""
    return Due(*(bool(value) for value in connection.execute(_DUE, {"now": store.now(connection)}).one()))


def wake_delayed(store: Store, connection: Connection) -> int:
    """Put jobs whose `not_before` has come back to waiting."""
    rows = select_locked(connection, _DELAYED, now=store.now(connection), limit=WOKEN_AT_ONCE)
    transitions.wake(connection, [row.id for row in rows], JobState.DELAYED)
    return len(rows)


def recall_unclaimed(store: Store, connection: Connection) -> int:
    """Put dispatched jobs that were not claimed in time back to waiting; their routes count as tried."""
    rows = select_locked(connection, _UNCLAIMED, now=store.now(connection), limit=BULK_ROWS)
    tried = [row._asdict() | {"tried": tried_text((*tried_of(row.tried), row.route))} for row in rows]
    transitions.recall(connection, tried)
    return len(rows)


def empty_drained(_store: Store, connection: Connection) -> int:
    """Put jobs in the queues of drained routes back to waiting; a probe that somebody asked for stays."""
    rows = select_locked(connection, _AT_DRAINED, limit=BULK_ROWS)
    transitions.recall(connection, [row._asdict() for row in rows])
    return len(rows)


def recall_paused(_store: Store, connection: Connection) -> int:
    """Put jobs in queues that an operator paused back to waiting; those that a worker has claimed end there."""
    rows = select_locked(connection, f"{_AT_PAUSED} LIMIT :limit {{FOR UPDATE OF j SKIP LOCKED}}", limit=BULK_ROWS)
    transitions.recall(connection, [row._asdict() for row in rows])
    return len(rows)


def expire_late(store: Store, connection: Connection) -> tuple[list[str], tuple[int, ...]]:
    """End jobs whose deadline has passed and that no worker holds. Returns (jobs, their batches)."""
    now = store.now(connection)
    ended = [
        Ended(
            row.id,
            row.batch_id,
            row.created_at,
            End(
                JobState.EXPIRED,
                outcome=Outcome(row.last_outcome) if row.last_outcome else None,
                error=f"The deadline passed {row.deadline_at - row.created_at:.1f} s after submit. {_why_late(connection, row)}",
            ),
            None,
        )
        for row in select_locked(connection, _LATE, now=now, limit=BULK_ROWS)
    ]
    return [entry.job_id for entry in ended], end_jobs(connection, ended, now).batches


def _why_late(connection: Connection, row: Row[Any]) -> str:
    pauses = controls.pauses_of_job(connection, row.id) if row.paused else ()
    if pauses:  # none: it was resumed since the row was read
        return f"The {pauses[0].words(named=False)}."
    return f"Last word: {row.last_error}" if row.last_error else "No route could take it in time."


def empty_flows(connection: Connection, limit: int) -> list[int]:
    """Return active flows without a living job."""
    return [row.id for row in connection.execute(_EMPTY_FLOWS, {"limit": limit})]


def retire_if_empty(connection: Connection, flow_id: int) -> None:
    """Deactivate a flow without living jobs, so that no pass reads it. A new job makes it active again."""
    # the row lock waits for inserts under way; only a statement begun after it sees them
    lock_flows_by_id(connection, [flow_id])
    connection.execute(_RETIRE_FLOW, {"id": flow_id})
