"""Callbacks of a job or a batch, as a report: where each goes, how far it is, and why it was not sent."""

from typing import NamedTuple

from sqlalchemy import Connection, text

from trivet_tasks.states import CallbackState


class CallbackRow(NamedTuple):
    """A callback of a job or a batch. Times are seconds since the epoch."""

    app: str
    """Its application, `[celery_apps.NAME]`."""
    task: str
    """Name of its task; of a chain, of the first."""
    name: str
    """Name within its job or batch: that of the task, or for `generate` the id of the task."""
    state: CallbackState
    sends: int
    """Times that the application's broker took it, for the present end."""
    failures: int
    """Failed tries since then."""
    ended_at: float | None
    """End of the job or batch that it is about; None: that goes on."""
    due_at: float | None
    """Time of the next try; None: none is due."""
    error: str | None
    """Reason of the last failed try."""


_ROWS = """
    SELECT app, task, name, done, sends, failures, ended_at, due_at, error FROM deliveries WHERE {owner} = :owner
     ORDER BY id LIMIT :limit
"""
_OF_JOB = text(_ROWS.format(owner="job_id"))
_OF_BATCH = text(_ROWS.format(owner="batch_id"))
MOST = 1_000


def callbacks_of(connection: Connection, owner: str | int) -> list[CallbackRow]:
    """Return the callbacks of a job or a batch, in the order in which they were added; `MOST` of them.

    Args:
        owner: id of the job, or row id of the batch.
    """
    statement = _OF_JOB if isinstance(owner, str) else _OF_BATCH
    return [
        CallbackRow(
            row.app,
            row.task,
            row.name,
            _state(bool(row.done), row.sends, row.due_at),
            row.sends,
            row.failures,
            row.ended_at,
            row.due_at,
            row.error,
        )
        for row in connection.execute(statement, {"owner": owner, "limit": MOST})
    ]


def _state(done: bool, sends: int, due_at: float | None) -> CallbackState:
    if done:
        return CallbackState.CONFIRMED
    if sends:
        return CallbackState.SENT
    return CallbackState.WAITING if due_at is None else CallbackState.DUE
