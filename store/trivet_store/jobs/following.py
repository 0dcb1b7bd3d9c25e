"""Jobs that wait for the answer to an equal request, which another job, their leader, is getting: they are `following`.

They hold no slot and stand at no route. When the leader ends they wait for a route again, and find its answer in the cache, or
one of them leads. A wake-up may be lost (a worker that knows nothing of followers, rows that others held): so each has a moment
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
"""So many followers at most are freed by the transaction that ends their leader: others wait behind it."""
LOOK_AGAIN_S = 10.0
"""How long a follower waits without another look at its leader."""

_IDS = bindparam("ids", expanding=True, type_=String())
_HELD = RowsStatement(
    schema.jobs,
    "SELECT id, take_up, state FROM jobs WHERE id IN (SELECT r.id FROM {rows}) ORDER BY id {FOR UPDATE}",
)
_FOLLOW = RowsStatement(
    schema.jobs,
    """
    UPDATE jobs SET state = 'following', route = NULL, dispatched_until = NULL,
                    last_error = coalesce(last_error, 'it waits for the answer to an equal request')
      FROM {rows} WHERE jobs.id = r.id
    """,
)
_NOTE = RowsStatement(
    schema.followers,
    """
    INSERT INTO followers (job_id, leader, until) SELECT r.job_id, r.leader, r.until FROM {rows} WHERE true
    ON CONFLICT (job_id) DO UPDATE SET leader = excluded.leader, until = excluded.until
    """,
)
_OF_LEADERS = RowsStatement(
    schema.followers,
    """
    SELECT j.id FROM followers f JOIN jobs j ON j.id = f.job_id
     WHERE f.leader IN (SELECT r.leader FROM {rows}) AND j.state || '' = 'following' LIMIT :limit
       {FOR UPDATE OF j SKIP LOCKED}
    """,
)
_FREE = text("UPDATE jobs SET state = 'waiting' WHERE id IN :ids AND state = 'following'").bindparams(_IDS)
_FORGET = text("DELETE FROM followers WHERE job_id IN :ids").bindparams(_IDS)
_OVERDUE = text(
    """
    SELECT f.job_id, j.id IS NULL AS gone FROM followers f LEFT JOIN jobs j ON j.id = f.job_id
     WHERE f.until <= :now ORDER BY f.until LIMIT :limit
    """
)
_HOLD = "SELECT id FROM jobs WHERE id IN :ids ORDER BY id"
_STILL = text("SELECT job_id, leader FROM followers WHERE job_id IN :ids AND until <= :now").bindparams(_IDS)
_UNDER_WAY = text("SELECT id FROM jobs WHERE id IN :ids AND state IN :states").bindparams(
    _IDS, bindparam("states", expanding=True, value=sorted(OUTSTANDING_STATES))
)
_LONGER = text("UPDATE followers SET until = :until WHERE job_id IN :ids").bindparams(_IDS)
_LEADER = text("SELECT leader FROM followers WHERE job_id = :id")


class Follower(NamedTuple):
    """A dispatched job, the take-up its message names, and whose answer it is to wait for."""

    id: str
    take_up: int
    leader: str


class Followed(NamedTuple):
    """What became of jobs that were to follow. Those in neither list are not this message's any more."""

    following: tuple[str, ...]
    leaderless: tuple[Follower, ...]
    """Whose leader is not under way: nothing was changed."""


def follow(
    store: Store, connection: Connection, wanted: Sequence[Follower], look_again_s: float = LOOK_AGAIN_S
) -> Followed:
    """Let dispatched jobs wait for their leaders' answers, under the tokens of their message.

    Leaders and followers are held together until the commit: a leader either has ended, or frees these when it does.
    """
    ids = sorted({job.id for job in wanted} | {job.leader for job in wanted})
    held = {row.id: row for row in query_rows(connection, _HELD, [{"id": id} for id in ids]).all()}
    ours = [
        job
        for job in wanted
        if job.id in held and (held[job.id].take_up, held[job.id].state) == (job.take_up, JobState.DISPATCHED)
    ]
    over = {id for id in ids if id not in held or held[id].state not in OUTSTANDING_STATES}
    # one that follows in this very transaction leads nobody either
    following: list[Follower] = []
    leading: set[str] = set()
    for job in ours:
        if job.leader not in over and job.id not in leading:
            following.append(job)
            leading.add(job.leader)
            over.add(job.id)
    until = store.now(connection) + look_again_s
    execute_rows(connection, _FOLLOW, [{"id": job.id} for job in following])
    execute_rows(connection, _NOTE, [{"job_id": job.id, "leader": job.leader, "until": until} for job in following])
    followed = {job.id for job in following}
    return Followed(tuple(followed), tuple(job for job in ours if job.id not in followed))


def free_followers(connection: Connection, leaders: Sequence[str]) -> int:
    """Followers of these jobs wait for a route again, at most `FREED_AT_ONCE`. Those that others hold are passed over."""
    rows = [{"leader": leader} for leader in leaders]
    ids = [row.id for row in query_rows(connection, _OF_LEADERS, rows, limit=FREED_AT_ONCE)]
    _free(connection, ids)
    return len(ids)


def look_after(store: Store, connection: Connection, limit: int = BULK_ROWS) -> int:
    """Look again at followers that have waited long: those whose leader is not under way wait for a route again.

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
    """Whose answer a job that is `following` waits for."""
    return connection.execute(_LEADER, {"id": job_id}).scalar()


def _free(connection: Connection, ids: Sequence[str]) -> None:
    if ids:
        connection.execute(_FREE, {"ids": ids})
        connection.execute(_FORGET, {"ids": ids})
