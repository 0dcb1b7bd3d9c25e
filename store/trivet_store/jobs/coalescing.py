"""Jobs that wait for the answer to an equal request, which another job, their leader, is getting: they are `coalesced`.

They hold no slot and stand at no route. When the leader ends they wait for a route again, and find its answer in the cache, or
one of them leads. A wake-up may be lost (a worker that knows nothing of coalesced jobs, rows that others held): so each has a moment
at which a scheduler looks again.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, String, bindparam, text

from trivet_store import schema
from trivet_store.database.engine import BULK_ROWS, Store
from trivet_store.database.many_rows import RowsStatement, execute_rows, query_rows
from trivet_tasks.states import OUTSTANDING_STATES, JobState

FREED_AT_ONCE = BULK_ROWS
"""So many coalesced jobs at most are freed by the transaction that ends their leader: others wait behind it."""
LOOK_AGAIN_S = 10.0
"""How long a coalesced job waits without another look at its leader."""

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
    """A dispatched job, the claim its message names, and whose answer it is to wait for."""

    id: str
    claim: int
    leader: str


class Coalesced(NamedTuple):
    """What became of jobs that were to follow. Those in neither list are not this message's any more."""

    coalesced: tuple[str, ...]
    leaderless: tuple[CoalescedJob, ...]
    """Whose leader is not under way: nothing was changed."""


def follow(
    store: Store, connection: Connection, wanted: Sequence[CoalescedJob], look_again_s: float = LOOK_AGAIN_S
) -> Coalesced:
    """Let dispatched jobs wait for their leaders' answers, under the tokens of their message.

    Leaders and coalesced jobs are held together until the commit: a leader either has ended, or frees these when it does.
    """
    ids = sorted({job.id for job in wanted} | {job.leader for job in wanted})
    held = {row.id: row for row in query_rows(connection, _HELD, [{"id": id} for id in ids]).all()}
    ours = [
        job
        for job in wanted
        if job.id in held and (held[job.id].claim, held[job.id].state) == (job.claim, JobState.DISPATCHED)
    ]
    over = {id for id in ids if id not in held or held[id].state not in OUTSTANDING_STATES}
    # one that follows in this very transaction leads nobody either
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
    followed = {job.id for job in coalesced}
    return Coalesced(tuple(followed), tuple(job for job in ours if job.id not in followed))


def free_coalesced(connection: Connection, leaders: Sequence[str]) -> int:
    """Followers of these jobs wait for a route again, at most `FREED_AT_ONCE`. Those that others hold are passed over."""
    rows = [{"leader": leader} for leader in leaders]
    ids = [row.id for row in query_rows(connection, _OF_LEADERS, rows, limit=FREED_AT_ONCE)]
    _free(connection, ids)
    return len(ids)


def look_after(store: Store, connection: Connection, limit: int = BULK_ROWS) -> int:
    """Look again at coalesced jobs that have waited long: those whose leader is not under way wait for a route again.

    Returns:
        How many were looked at.
    """
    now = store.now(connection)
    found = connection.execute(_OVERDUE, {"now": now, "limit": limit}).all()
    if not found:
        return 0
    # jobs before what is noted of them, as everybody does it
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
    """Whose answer a job that is `coalesced` waits for."""
    return connection.execute(_LEADER, {"id": job_id}).scalar()


def _free(connection: Connection, ids: Sequence[str]) -> None:
    if ids:
        connection.execute(_FREE, {"ids": ids})
        connection.execute(_FORGET, {"ids": ids})
