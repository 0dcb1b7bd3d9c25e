"""Coalesced jobs: they wait for the answer to an equal request, which another job, their leader, is getting.

They hold no slot and are at no route. When the leader ends, they go back to waiting: they find its answer in the cache, or
one of them becomes the next leader. A wake-up may be lost (a worker died, or others held the rows), so each coalesced job
has a time at which a scheduler looks at it again.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text

from trivet_store import schema
from trivet_store.database.engine import BULK_ROWS, Store
from trivet_store.database.locking import select_locked
from trivet_store.database.many_rows import RowsStatement, execute_rows, of_ids, query_rows
from trivet_store.jobs import transitions
from trivet_tasks.states import OUTSTANDING_STATES, JobState

FREED_AT_ONCE = BULK_ROWS
"""Maximum number of coalesced jobs freed by the transaction that ends their leader: other transactions wait for it."""
LOOK_AGAIN_S = 10.0
"""Seconds between two looks at the leader of a coalesced job."""

_HELD = RowsStatement(
    schema.jobs,
    "SELECT id, claim, state, streamed FROM jobs WHERE id IN (SELECT r.id FROM {rows}) ORDER BY id {FOR UPDATE}",
)
_NOTE = RowsStatement(
    schema.coalesced_jobs,
    """
    INSERT INTO coalesced_jobs (job_id, leader, until) SELECT r.job_id, r.leader, r.until FROM {rows} WHERE true
    ON CONFLICT (job_id) DO UPDATE SET leader = excluded.leader, until = excluded.until
    """,
)
_OF_LEADERS = RowsStatement(
    schema.coalesced_jobs,
    """
    SELECT j.id FROM coalesced_jobs f JOIN jobs j ON j.id = f.job_id
     WHERE f.leader IN (SELECT r.leader FROM {rows}) AND j.state || '' = 'coalesced' LIMIT :limit
       {FOR UPDATE OF j SKIP LOCKED}
    """,
)
_FORGET = of_ids("DELETE FROM coalesced_jobs WHERE job_id IN :ids")
_OVERDUE = text(
    """
    SELECT f.job_id, j.id IS NULL AS gone FROM coalesced_jobs f LEFT JOIN jobs j ON j.id = f.job_id
     WHERE f.until <= :now ORDER BY f.until LIMIT :limit
    """
)
# jobs before their notes, as everywhere
_HOLD = "SELECT id FROM jobs WHERE id IN :ids ORDER BY id {FOR UPDATE SKIP LOCKED}"
_STILL = of_ids("SELECT job_id, leader FROM coalesced_jobs WHERE job_id IN :ids AND until <= :now")
_UNDER_WAY = of_ids("SELECT id FROM jobs WHERE id IN :ids AND state IN ('dispatched', 'running')")
_LONGER = of_ids("UPDATE coalesced_jobs SET until = :until WHERE job_id IN :ids")
_LEADER = text("SELECT leader FROM coalesced_jobs WHERE job_id = :id")


class CoalescedJob(NamedTuple):
    """A dispatched job, the claim number in its message, and the leader whose answer it is to wait for."""

    id: str
    claim: int
    leader: str


class Coalesced(NamedTuple):
    """The result of coalescing jobs. Jobs in neither list no longer belong to this message."""

    coalesced: tuple[str, ...]
    leaderless: tuple[CoalescedJob, ...]
    """Jobs whose leader is not outstanding, and streamed jobs, which have a call of their own: nothing was changed."""


def coalesce(
    store: Store, connection: Connection, wanted: Sequence[CoalescedJob], look_again_s: float = LOOK_AGAIN_S
) -> Coalesced:
    """Let dispatched jobs wait for their leaders' answers, under the claim numbers of their message.

    Leaders and coalesced jobs stay locked until the commit: a leader either has ended already or frees these jobs later.
    """
    ids = sorted({job.id for job in wanted} | {job.leader for job in wanted})
    held = {row.id: row for row in query_rows(connection, _HELD, [{"id": id} for id in ids]).all()}
    ours = [
        job
        for job in wanted
        if job.id in held and (held[job.id].claim, held[job.id].state) == (job.claim, JobState.DISPATCHED)
    ]
    over = {id for id in ids if id not in held or held[id].state not in OUTSTANDING_STATES}
    # a job that is coalesced in this transaction cannot be a leader
    coalesced: list[CoalescedJob] = []
    leading: set[str] = set()
    for job in ours:
        # an answer that is read while it comes is its own
        if job.leader not in over and job.id not in leading and not held[job.id].streamed:
            coalesced.append(job)
            leading.add(job.leader)
            over.add(job.id)
    until = store.now(connection) + look_again_s
    transitions.coalesce(connection, [job.id for job in coalesced])
    execute_rows(connection, _NOTE, [{"job_id": job.id, "leader": job.leader, "until": until} for job in coalesced])
    coalesced_ids = {job.id for job in coalesced}
    return Coalesced(tuple(coalesced_ids), tuple(job for job in ours if job.id not in coalesced_ids))


def free_coalesced(connection: Connection, leaders: Sequence[str]) -> int:
    """Put the coalesced jobs of these leaders back to waiting, at most `FREED_AT_ONCE`. Locked rows are skipped."""
    rows = [{"leader": leader} for leader in leaders]
    ids = [row.id for row in query_rows(connection, _OF_LEADERS, rows, limit=FREED_AT_ONCE)]
    _free(connection, ids)
    return len(ids)


def look_after(store: Store, connection: Connection) -> int:
    """Look again at coalesced jobs that have waited long; put those whose leader is not outstanding back to waiting.

    Returns:
        The number of jobs looked at.
    """
    now = store.now(connection)
    found = connection.execute(_OVERDUE, {"now": now, "limit": BULK_ROWS}).all()
    if not found:
        return 0
    held = [row.id for row in select_locked(connection, _HOLD, ids=[row.job_id for row in found])]
    overdue = connection.execute(_STILL, {"ids": held, "now": now}).all()
    leaders = sorted({row.leader for row in overdue})
    under_way = {row.id for row in connection.execute(_UNDER_WAY, {"ids": leaders})}
    if longer := [row.job_id for row in overdue if row.leader in under_way]:
        connection.execute(_LONGER, {"ids": longer, "until": now + LOOK_AGAIN_S})
    gone = [row.job_id for row in found if row.gone]  # pruned
    _free(connection, [*gone, *(row.job_id for row in overdue if row.leader not in under_way)])
    return len(gone) + len(overdue)


def leader_of(connection: Connection, job_id: str) -> str | None:
    """Return the id of the job whose answer a coalesced job waits for."""
    return connection.execute(_LEADER, {"id": job_id}).scalar()


def _free(connection: Connection, ids: Sequence[str]) -> None:
    if ids:
        # a note may have outlived the wait: its job expired, was retried, and may be delayed now
        transitions.wake(connection, ids, JobState.COALESCED)
        connection.execute(_FORGET, {"ids": ids})
