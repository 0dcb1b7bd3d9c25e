"""Jobs that need no call: they end with an answer that an equal request has brought."""

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import Connection

from trivet_store import schema
from trivet_store.database.engine import Store
from trivet_store.database.many_rows import RowsStatement, query_rows
from trivet_store.jobs.ending import cancelled_batches, end_jobs
from trivet_store.steps import End, Ended, Hit
from trivet_tasks.states import JobState

_HELD = RowsStatement(
    schema.jobs,
    """
    SELECT j.id, j.claim, j.state, j.batch_id, j.created_at, j.deadline_at, j.cancel_requested, j.route, j.cache_key, j.tenant,
           j.called_back,
           f.latency, f.model, f.probe, f.isolated
      FROM jobs j JOIN flows f ON f.id = j.flow_id
     WHERE j.id IN (SELECT r.id FROM {rows}) ORDER BY j.id {FOR UPDATE OF j}
    """,
)


class CachedAnswer(NamedTuple):
    """An answer in the response cache and its source."""

    message: bytes
    """The provider's, JSON."""
    stop_reason: str
    route: str
    """Route of the call that brought it."""
    cost_usd: Decimal | None
    """Cost of that call; None where it has no price."""
    tenant: str | None = None
    """Tenant whose jobs it may serve; None: those of all."""

    def __repr__(self) -> str:
        """Return a text without the answer."""
        return f"CachedAnswer({len(self.message)} bytes, {self.stop_reason}, {self.route})"


class Answered(NamedTuple):
    """A dispatched job, the claim number and the cache key in its message, and the cached answer under that key."""

    id: str
    claim: int
    cache_key: str
    answer: CachedAnswer


class Served(NamedTuple):
    """The result for a group. Jobs that no longer belong to their messages are left alone."""

    jobs: tuple[str, ...]
    batches: tuple[int, ...]
    crowded: bool
    forged: tuple[str, ...] = ()
    """Ids of jobs whose message contradicts the database; they are left unchanged."""
    missed: tuple[str, ...] = ()
    """Ids of jobs of another tenant than the answer's; they are left unchanged, to be called for."""


def end_answered(
    store: Store, connection: Connection, group: Sequence[Answered], *, route: str, latency: str, model: str
) -> Served:
    """End dispatched jobs of one message with their cached answers, under the message's claim numbers.

    Args:
        route: where the message sends them; with the class and the model it must be what the database has.

    No call is made and no attempt written. One whose deadline has passed is left to expire, one that somebody cancelled ends so.
    """
    now = store.now(connection)
    found = query_rows(connection, _HELD, [{"id": job.id} for job in group])
    held = {row.id: row for row in found}
    batch_ids = {row.batch_id for row in held.values() if row.batch_id is not None}
    cancelled = cancelled_batches(connection, batch_ids)
    ended: list[Ended] = []
    forged: list[str] = []
    missed: list[str] = []
    for job in group:
        row = held.get(job.id)
        if row is None or (row.claim, row.state) != (job.claim, JobState.DISPATCHED):
            continue
        if row.deadline_at is not None and row.deadline_at <= now:
            continue
        known = row.route, row.latency, row.model, row.cache_key, bool(row.probe), bool(row.isolated)
        if known != (route, latency, model, job.cache_key, False, False):
            forged.append(job.id)
            continue
        answer = job.answer
        if answer.tenant not in (None, row.tenant):  # producers and workers differ in whether tenants share answers
            missed.append(job.id)
            continue
        end = End(
            JobState.SUCCEEDED,
            message=answer.message,
            stop_reason=answer.stop_reason,
            hit=Hit(answer.cost_usd, latency, model),
        )
        if row.cancel_requested or row.batch_id in cancelled:
            end = End(JobState.CANCELLED)
        served_by = answer.route if end.hit else None
        ended.append(Ended(row.id, row.batch_id, row.created_at, end, served_by, called_back=bool(row.called_back)))
    ending = end_jobs(connection, ended, now)
    return Served(tuple(entry.job_id for entry in ended), ending.batches, ending.crowded, tuple(forged), tuple(missed))
