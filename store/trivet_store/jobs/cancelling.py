"""Cancelling one job."""

from sqlalchemy import Connection, text

from trivet_store.database.engine import Store
from trivet_store.jobs.ending import end_jobs
from trivet_store.steps import End, Ended
from trivet_tasks.states import END_STATES, JobState

_ASK = text("UPDATE jobs SET cancel_requested = true WHERE id = :id")


def cancel_job(store: Store, connection: Connection, job_id: str) -> bool | None:
    """End a job that no worker holds; ask the worker of a running one to drop it.

    Returns:
        True when it was ended or its worker asked, False when it had ended before, None when there is no such job.
    """
    statement = text("SELECT state, batch_id, created_at FROM jobs WHERE id = :id" + store.for_update)
    row = connection.execute(statement, {"id": job_id}).one_or_none()
    if row is None:
        return None
    if row.state in END_STATES:
        return False
    if row.state == JobState.RUNNING:
        connection.execute(_ASK, {"id": job_id})
    else:
        ended = Ended(job_id, row.batch_id, row.created_at, End(JobState.CANCELLED), None)
        end_jobs(connection, [ended], store.now(connection))
    return True
