"""Cancelling jobs and batches: jobs that no worker holds end at once, the workers of the others are asked to drop them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, text

from trivet_store.database.engine import BULK_ROWS, Store
from trivet_store.database.locking import lock_flows, select_locked
from trivet_store.jobs import batches, deliveries, transitions
from trivet_store.jobs.ending import end_jobs
from trivet_store.steps import End, Ended
from trivet_tasks.states import END_STATES, JobState

_JOB = "SELECT id, state, batch_id, created_at FROM jobs WHERE id = :id {FOR UPDATE}"
_CLOSE = text(
    "UPDATE batches SET state = 'cancelled', error = NULL WHERE id = :id AND state NOT IN ('cancelled', 'discarding')"
)
_UNENDED = text("SELECT id FROM batches WHERE state = 'cancelled' AND ended < total ORDER BY id LIMIT :limit")
_FREE = """
    SELECT id, batch_id, created_at FROM jobs
     WHERE flow_id IN (SELECT id FROM flows WHERE batch_id = :id) AND ended_at IS NULL AND state <> 'running'
     LIMIT :limit
"""
_OUTSTANDING = """
    SELECT id FROM jobs
     WHERE state IN ('dispatched', 'running') AND batch_id = :id AND NOT cancel_requested ORDER BY id {FOR UPDATE}
"""


def cancel_job(store: Store, connection: Connection, job_id: str) -> bool | None:
    """End a job that no worker holds; ask the worker of a running one to drop it.

    Returns:
        True when it was ended or its worker asked, False when it had ended before, None when there is no such job.
    """
    rows = select_locked(connection, _JOB, id=job_id)
    if not rows:
        return None
    if rows[0].state in END_STATES:
        return False
    if rows[0].state == JobState.RUNNING:
        transitions.ask_to_cancel(connection, [job_id])
    else:
        _end(store, connection, rows)
    return True


def begin_cancel(store: Store, connection: Connection, batch_id: int) -> None:
    """Stop the batch: none of its jobs is dispatched any more, and running ones are asked to stop."""
    lock_flows(connection, batch_id)
    batches.hold(connection, batch_id, held=True)
    _ask_outstanding(connection, batch_id)
    done_by_this = batches.all_ended_unopened(connection, batch_id)
    connection.execute(_CLOSE, {"id": batch_id})
    if done_by_this:
        deliveries.end_of(connection, [], [batch_id], store.now(connection))


def cancelled_unended(connection: Connection, limit: int) -> list[int]:
    """Return cancelled batches with jobs that have not ended, e.g. because the cancelling process died half way."""
    return [row.id for row in connection.execute(_UNENDED, {"limit": limit})]


def cancel_waiting(store: Store, connection: Connection, batch_id: int) -> list[str]:
    """End a group of the batch's jobs that no worker holds. Call until it returns none: those that run are asked then.

    Some may have been claimed at the moment of the cancel, when they were not seen to be under way.
    """
    rows = select_locked(connection, f"{_FREE} {{FOR UPDATE SKIP LOCKED}}", id=batch_id, limit=BULK_ROWS)
    if not rows:  # no free row: a dispatcher may have locked the last of them, and would leave them waiting
        rows = select_locked(connection, f"{_FREE} {{FOR UPDATE}}", id=batch_id, limit=1)
    if not rows:
        _ask_outstanding(connection, batch_id)
    _end(store, connection, rows)
    return [row.id for row in rows]


def _end(store: Store, connection: Connection, rows: Sequence[Row[Any]]) -> None:
    ended = [Ended(row.id, row.batch_id, row.created_at, End(JobState.CANCELLED), None) for row in rows]
    end_jobs(connection, ended, store.now(connection))


def _ask_outstanding(connection: Connection, batch_id: int) -> None:
    transitions.ask_to_cancel(connection, [row.id for row in select_locked(connection, _OUTSTANDING, id=batch_id)])
