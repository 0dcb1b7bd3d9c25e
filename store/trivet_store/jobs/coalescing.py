"""Coalesced jobs: they wait for the answer to an equal request, which another job, their leader, is getting.

They hold no slot and are at no route. When the leader ends, they go back to waiting: they find its answer in the cache, or
one of them becomes the next leader. A wake-up may be lost (a worker died, or others held the rows), so each coalesced job
has a time at which a scheduler looks at it again.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, String, bindparam, text

from trivet_store import schema
from trivet_store.database.engine import BULK_ROWS, Store
from trivet_store.database.many_rows import RowsStatement, execute_rows, query_rows
from trivet_tasks.states import OUTSTANDING_STATES, JobState

FREED_AT_ONCE = BULK_ROWS
"""Maximum number of coalesced jobs freed by the transaction that ends their leader: other transactions wait for it."""
LOOK_AGAIN_S = 10.0
"""Seconds between two looks at the leader of a coalesced job."""

_IDS = bindparam("ids", expanding=True, type_=String())
_HELD = RowsStatement(
    schema.jobs,
    "SELECT id, claim, state FROM jobs WHERE id IN (SELECT r.id FROM {rows}) ORDER BY id {FOR UPDATE}",
)
_COALESCE = RowsStatement(
    schema.jobs,
    """
    UPDATE jobs SET state = 'coalesced', route = NULL, dispatched_until = NULL,
                    last_error = coalesce(last_error, 'it waits for the answer to an equal request')
      FROM {rows} WHERE jobs.id = r.id
    """,
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
_FREE = text("UPDATE jobs SET state = 'waiting' WHERE id IN :ids AND state = 'coalesced'").bindparams(_IDS)
_FORGET = text("DELETE FROM coalesced_jobs WHERE job_id IN :ids").bindparams(_IDS)
_OVERDUE = text(
    """
    SELECT f.job_id, j.id IS NULL AS gone FROM coalesced_jobs f LEFT JOIN jobs j ON j.id = f.job_id
     WHERE f.until <= :now ORDER BY f.until LIMIT :limit
    """
)
_HOLD = "SELECT id FROM jobs WHERE id IN :ids ORDER BY id"
_STILL = text("SELECT job_id, leader FROM coalesced_jobs WHERE job_id IN :ids AND until <= :now").bindparams(_IDS)
_UNDER_WAY = text("SELECT id FROM jobs WHERE id IN :ids AND state IN :states").bindparams(
    _IDS, bindparam("states", expanding=True, value=sorted(OUTSTANDING_STATES))
)
_LONGER = text("UPDATE coalesced_jobs SET until = :until WHERE job_id IN :ids").bindparams(_IDS)
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
    """Jobs whose leader is not outstanding: nothing was changed."""


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
        if job.leader not in over and job.id not in leading:
            coalesced.append(job)
            leading.add(job.leader)
            over.add(job.id)
    until = store.now(connection) + look_again_s
    execute_rows(connection, _COALESCE, [{"id": job.id} for job in coalesced])
    execute_rows(connection, _NOTE, [{"job_id": job.id, "leader": job.leader, "until": until} for job in coalesced])
    coalesced_ids = {job.id for job in coalesced}
    return Coalesced(tuple(coalesced_ids), tuple(job for job in ours if job.id not in coalesced_ids))


def free_coalesced(connection: Connection, leaders: Sequence[str]) -> int:
    """Put the coalesced jobs of these leaders back to waiting, at most `FREED_AT_ONCE`. Locked rows are skipped."""
    rows = [{"leader": leader} for leader in leaders]
    ids = [row.id for row in query_rows(connection, _OF_LEADERS, rows, limit=FREED_AT_ONCE)]
    _free(connection, ids)
    return len(ids)


def look_after(store: Store, connection: Connection, limit: int = BULK_ROWS) -> int:
    """Look again at coalesced jobs that have waited long; put those whose leader is not outstanding back to waiting.

    Returns:
        The number of jobs looked at.
    """
    now = store.now(connection)
    found = connection.execute(_OVERDUE, {"now": now, "limit": limit}).all()
    if not found:
        return 0
    # lock jobs before their notes, in the order that all transactions use
    hold = text(_HOLD + store.skip_locked).bindparams(_IDS)
    held = [row.id for row in connection.execute(hold, {"ids": [row.job_id for row in found]})]
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
        connection.execute(_FREE, {"ids": ids})
        connection.execute(_FORGET, {"ids": ids})
