"""Retries of failed jobs: they go back to waiting, with the same ids, keys and attempts."""

from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import Connection, Integer, Row, bindparam, text

from trivet_store.database.engine import BULK_ROWS, Store
from trivet_store.database.locking import lock_flows_by_id, select_locked
from trivet_store.database.many_rows import of_ids
from trivet_store.jobs import deliveries, transitions
from trivet_store.jobs.ending import costs_of
from trivet_store.jobs.enqueue import ranks_of
from trivet_store.schema import Usd
from trivet_tasks.errors import InvalidRequest, NotFound
from trivet_tasks.latency import ClassSettings, Latency
from trivet_tasks.states import BatchState, JobState

RETRIABLE = frozenset({JobState.FAILED, JobState.EXPIRED})
"""End states after which a job may run again. A succeeded job has its result, a cancelled one is not wanted."""


class Group(NamedTuple):
    """The result of one transaction. `last` is the number within the batch after which the next one goes on."""

    ids: tuple[str, ...]
    last: int


_PICKED = """
    SELECT j.id, j.batch_id, j.batch_seq, j.flow_id, j.tenant, f.latency, b.name AS batch
      FROM jobs j JOIN flows f ON f.id = j.flow_id LEFT JOIN batches b ON b.id = j.batch_id
"""
_PICK_IN_BATCH = text(
    _PICKED
    + """
     WHERE j.batch_id = :batch_id AND j.batch_seq IS NOT NULL AND j.batch_seq > :after AND j.batch_seq <= :upto
       AND j.state IN :states
     ORDER BY j.batch_seq LIMIT :limit
    """
).bindparams(bindparam("states", expanding=True))
_PICK_JOB = text(_PICKED + " WHERE j.id = :id AND NOT f.probe")
_JOB = text("SELECT state FROM jobs WHERE id = :id")
_BATCH = text("SELECT name, state, seq FROM batches WHERE id = :id")
_LOCK_JOBS = """
    SELECT id, state, batch_seq, created_at, deadline_at FROM jobs WHERE id IN :ids ORDER BY id {FOR UPDATE}
"""
_WAKE_FLOWS = of_ids("UPDATE flows SET active = true, warmer = NULL WHERE id IN :ids", Integer)
_BEGUN = of_ids("SELECT job_id, max(at) AS at FROM retries WHERE job_id IN :ids GROUP BY job_id")
_NOT_PRUNED = of_ids(
    """
    SELECT r.job_id FROM job_results r JOIN job_requests q ON q.job_id = r.job_id WHERE r.job_id IN :ids
    """
)
_KEEP_ENDS = of_ids(
    """
    INSERT INTO retries (job_id, at, ended_at, state, error_outcome, error_message)
    SELECT j.id, :now, j.ended_at, j.state, r.error_outcome, r.error_message
      FROM jobs j JOIN job_results r ON r.job_id = j.id WHERE j.id IN :ids ORDER BY j.id
    """
)
_DELETE_RESULTS = of_ids("DELETE FROM job_results WHERE job_id IN :ids")
# `seq` stays: a number is given once, so that a reader who goes on finds the new result behind the old one
_COUNT_BACK = text(
    """
    UPDATE batches SET ended = ended - :jobs, failed = failed - :failed, expired = expired - :expired,
                       cost_usd = cost_usd - :cost
     WHERE id = :id
    """
).bindparams(bindparam("cost", type_=Usd()))


def begin_retry(connection: Connection, batch_id: int) -> int:
    """Return the last number that the batch has given to an ended job: the retry goes up to it.

    What fails again meanwhile gets a higher one, so a retry comes to an end.

    Raises:
        InvalidRequest: the batch was cancelled.
    """
    return int(_uncancelled(connection, batch_id).seq)


def retry_group(
    store: Store,
    connection: Connection,
    batch_id: int,
    states: Collection[JobState],
    *,
    classes: Mapping[Latency, ClassSettings],
    after: int,
    upto: int,
) -> Group | None:
    """Put a group of the batch's jobs that ended in one of these states back to waiting.

    Args:
        states: some of `RETRIABLE`.
        after: the number within the batch to go on from; 0 at first.
        upto: from `begin_retry`.

    Returns:
        None when there is none any more.

    Raises:
        InvalidRequest: the batch was cancelled.
    """
    span = {"batch_id": batch_id, "after": after, "upto": upto, "limit": BULK_ROWS}
    picked = connection.execute(_PICK_IN_BATCH, {**span, "states": sorted(states)}).all()
    if not picked:
        return None
    return Group(_run_again(store, connection, picked, states, classes), picked[-1].batch_seq)


def retry_job(
    store: Store, connection: Connection, job_id: str, *, classes: Mapping[Latency, ClassSettings]
) -> bool | None:
    """Put one job that failed or expired back to waiting.

    Returns:
        False when it ended otherwise, has not ended, or its request was pruned; None when there is no such job.

    Raises:
        InvalidRequest: its batch was cancelled.
    """
    row = connection.execute(_JOB, {"id": job_id}).one_or_none()
    if row is None:
        return None
    if row.state not in RETRIABLE:
        return False
    picked = connection.execute(_PICK_JOB, {"id": job_id}).all()
    return bool(picked) and bool(_run_again(store, connection, picked, RETRIABLE, classes))


def _run_again(
    store: Store,
    connection: Connection,
    picked: Sequence[Row[Any]],
    states: Collection[JobState],
    classes: Mapping[Latency, ClassSettings],
) -> tuple[str, ...]:
    """Put jobs of one batch, or of none, back to waiting. Those that another retry has put back are left out."""
    # locked in the order that `locking` gives
    ranks = ranks_of(connection, [(Latency(job.latency), job.tenant, job.batch) for job in picked], classes)
    flows = sorted({job.flow_id for job in picked})
    lock_flows_by_id(connection, flows)
    batch_id = picked[0].batch_id
    if batch_id is not None:
        _uncancelled(connection, batch_id)
    rank_of = {(job.id, job.batch_seq): rank for job, rank in zip(picked, ranks, strict=True)}
    locked = select_locked(connection, _LOCK_JOBS, ids=[job.id for job in picked])
    kept = set(connection.execute(_NOT_PRUNED, {"ids": [job.id for job in locked]}).scalars())
    jobs = [job for job in locked if job.state in states and (job.id, job.batch_seq) in rank_of and job.id in kept]
    if not jobs:
        return ()
    connection.execute(_WAKE_FLOWS, {"ids": flows})
    ids = [job.id for job in jobs]
    now = store.now(connection)
    begun = {row.job_id: row.at for row in connection.execute(_BEGUN, {"ids": ids})}
    connection.execute(_KEEP_ENDS, {"ids": ids, "now": now})
    connection.execute(_DELETE_RESULTS, {"ids": ids})
    transitions.run_again(
        connection,
        [
            {
                "id": job.id,
                "rank": rank_of[job.id, job.batch_seq],
                "deadline_at": _same_time_again(job, begun.get(job.id), now),
            }
            for job in jobs
        ],
    )
    if batch_id is not None:
        ends = [job.state for job in jobs]
        cost = sum((cost.known for cost in costs_of(connection, ids).values()), Decimal(0))
        counts = {"failed": ends.count(JobState.FAILED), "expired": ends.count(JobState.EXPIRED)}
        connection.execute(_COUNT_BACK, {"id": batch_id, "jobs": len(jobs), **counts, "cost": cost})
    deliveries.goes_on(connection, ids, batch_id)
    return tuple(ids)


def _uncancelled(connection: Connection, batch_id: int) -> Row[Any]:
    """Return the batch.

    Raises:
        InvalidRequest: it was cancelled: nobody would ever dispatch a job of it.
        NotFound: it was deleted.
    """
    batch = connection.execute(_BATCH, {"id": batch_id}).one_or_none()
    if batch is None:
        raise NotFound("The batch was deleted.", hint="`trivet batch list` shows those that are there.")
    if batch.state == BatchState.CANCELLED:
        raise InvalidRequest(
            f"The batch {batch.name!r} was cancelled; nothing of it runs again.",
            field="name",
            hint="Submit what is still wanted under another name.",
        )
    return batch


def _same_time_again(job: Row[Any], begun_at: float | None, now: float) -> float | None:
    """Return the deadline, as far from now as it was from the submit or the last retry."""
    if job.deadline_at is None:
        return None
    return float(now + job.deadline_at - (job.created_at if begun_at is None else begun_at))
