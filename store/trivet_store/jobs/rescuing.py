"""Periodic work on jobs, in groups: due again, not claimed in time, held by a dead process, past the deadline.

Any number of schedulers may do this at once; each group is one transaction over rows that nobody else has locked.
"""

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import Connection, String, bindparam, text

from trivet_store.cluster import lost
from trivet_store.database.engine import BULK_ROWS, Store
from trivet_store.jobs import quarantine
from trivet_store.jobs.ending import end_jobs
from trivet_store.ledger import spending
from trivet_store.steps import End, Ended
from trivet_tasks.outcomes import Outcome
from trivet_tasks.states import JobState

_WAKE = text("UPDATE jobs SET state = 'waiting', not_before = NULL WHERE id IN :ids AND state = 'delayed'").bindparams(
    bindparam("ids", expanding=True)
)
_UNTAKEN = text(
    """
    UPDATE jobs SET state = 'waiting', route = NULL, dispatched_until = NULL,
                    tried = CASE WHEN tried = '' THEN route ELSE tried || ',' || route END
     WHERE id IN :ids AND state = 'dispatched'
    """
).bindparams(bindparam("ids", expanding=True))
_AT_DRAINED = """
    SELECT j.id FROM jobs j
     WHERE j.state IN ('dispatched', 'running') AND j.state = 'dispatched'
       AND j.route IN (SELECT name FROM routes WHERE drained)
       AND NOT EXISTS (SELECT 1 FROM flows f WHERE f.id = j.flow_id AND f.probe)
     LIMIT :limit"""
_SENT_BACK = text(
    """
    UPDATE jobs SET state = 'waiting', route = NULL, dispatched_until = NULL
     WHERE id IN :ids AND state = 'dispatched'
    """
).bindparams(bindparam("ids", expanding=True))
_DEAD_LEASES = "SELECT id FROM leases WHERE expires_at < :now AND id NOT IN :but ORDER BY id LIMIT 1"
# SQLite uses a partial index only where the statement repeats its condition word for word
_HELD = "state IN ('dispatched', 'running') AND state = 'running' AND lease_id = :lease_id"
_ANY_HELD = text(f"SELECT 1 FROM jobs WHERE {_HELD} LIMIT 1")
# flows by signature, before jobs
_HELD_FLOWS = text(
    f"SELECT id FROM flows WHERE id IN (SELECT flow_id FROM jobs WHERE {_HELD}) ORDER BY signature LIMIT :limit"
)
_UNKNOWN = text(
    """
    UPDATE attempts SET outcome = :outcome, estimated = true WHERE lease_id = :lease_id AND outcome IS NULL
    RETURNING id
    """
)
_UNKNOWN_OF = text(
    """
    UPDATE attempts SET outcome = 'unknown', estimated = true
     WHERE lease_id = :lease_id AND job_id IN :ids AND outcome IS NULL
    RETURNING id
    """
).bindparams(bindparam("ids", expanding=True, type_=String()))
_DROP_LEASE = text("DELETE FROM leases WHERE id = :id")


class Due(NamedTuple):
    """Kinds of periodic work, each true if there is some."""

    delayed: bool
    untaken: bool
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


_DUE = text(
    """
    SELECT EXISTS (SELECT 1 FROM jobs WHERE state = 'delayed' AND not_before <= :now) AS delayed,
           EXISTS (SELECT 1 FROM jobs WHERE state IN ('dispatched', 'running') AND state = 'dispatched'
                                        AND dispatched_until < :now) AS untaken,
           EXISTS (SELECT 1 FROM leases WHERE expires_at < :now) AS dead,
           EXISTS (SELECT 1 FROM jobs WHERE ended_at IS NULL AND deadline_at IS NOT NULL AND deadline_at <= :now
                                        AND state <> 'running') AS late,
           EXISTS (SELECT 1 FROM flows WHERE active
                      AND NOT EXISTS (SELECT 1 FROM jobs WHERE flow_id = flows.id AND ended_at IS NULL)) AS empty,
           EXISTS (SELECT 1 FROM batches WHERE state = 'cancelled' AND ended < total) AS cancelled,
           EXISTS (SELECT 1 FROM routes r WHERE r.drained
                      AND EXISTS (SELECT 1 FROM jobs j WHERE j.route = r.name AND j.state IN ('dispatched', 'running')
                                                         AND j.state = 'dispatched')) AS drained,
           EXISTS (SELECT 1 FROM coalesced_jobs WHERE until <= :now) AS coalesced
    """
)


def due(store: Store, connection: Connection) -> Due:
    """Return what there is to do, in one read and without locks."""
    return Due(*(bool(value) for value in connection.execute(_DUE, {"now": store.now(connection)}).one()))


def wake_delayed(store: Store, connection: Connection, limit: int = 5 * BULK_ROWS) -> int:
    """Put jobs whose `not_before` has come back to waiting."""
    ids = _pick(
        store, connection, "state = 'delayed' AND not_before <= :now ORDER BY not_before", store.now(connection), limit
    )
    if ids:
        connection.execute(_WAKE, {"ids": ids})
    return len(ids)


def recall_untaken(store: Store, connection: Connection, limit: int = BULK_ROWS) -> int:
    """Put dispatched jobs that were not claimed in time back to waiting; their old messages are stale from then on."""
    outstanding = "state IN ('dispatched', 'running')"  # the condition of the partial index, word for word
    condition = f"{outstanding} AND state = 'dispatched' AND dispatched_until < :now ORDER BY dispatched_until"
    ids = _pick(store, connection, condition, store.now(connection), limit)
    if ids:
        connection.execute(_UNTAKEN, {"ids": ids})
    return len(ids)


def empty_drained(store: Store, connection: Connection, limit: int = BULK_ROWS) -> int:
    """Put jobs in the queues of drained routes back to waiting; a probe that somebody asked for stays."""
    statement = text(_AT_DRAINED + store.skip_locked)
    ids = [row.id for row in connection.execute(statement, {"limit": limit})]
    if ids:
        connection.execute(_SENT_BACK, {"ids": ids})
    return len(ids)


class Rescued(NamedTuple):
    """The result of rescuing one dead lease."""

    jobs: int
    dropped: bool
    """True if no job runs under it any more; else it is found the next time, or its process lives and renews it."""


def hold_dead(store: Store, connection: Connection, but: Collection[str]) -> str | None:
    """Lock one lease that ran out, other than these, until the transaction ends. None when there is none."""
    dead = text(_DEAD_LEASES + store.skip_locked).bindparams(bindparam("but", expanding=True, type_=String()))
    found = connection.execute(dead, {"now": store.now(connection), "but": sorted(but)}).one_or_none()
    return None if found is None else str(found.id)


def rescue(store: Store, connection: Connection, lease_id: str) -> Rescued:
    """Put the jobs of a process whose lease ran out back to waiting; the outcome of their calls is unknown.

    They are quarantined from now on: each runs in a process of its own. Cancelled ones end here. The lease is dropped
    once no job runs under it any more. One lease per transaction: rows are locked in `locking`'s order.
    """
    now = store.now(connection)
    held = {"lease_id": lease_id, "limit": BULK_ROWS}
    isolated = {
        row.id: quarantine.isolated_flow(store, connection, row.id)
        for row in connection.execute(_HELD_FLOWS, held).all()
    }
    statement = text(
        f"""
        SELECT id, flow_id, batch_id, created_at, route, cancel_requested, crashes FROM jobs
         WHERE {_HELD} LIMIT :limit{store.skip_locked}
        """
    )
    rows = [row for row in connection.execute(statement, held) if row.flow_id in isolated]
    quarantine.put_aside(
        connection, [(row.id, isolated[row.flow_id], row.crashes) for row in rows if not row.cancel_requested], now
    )
    cancelled = [
        Ended(row.id, row.batch_id, row.created_at, End(JobState.CANCELLED), row.route)
        for row in rows
        if row.cancel_requested
    ]
    unknown: list[str] = []
    if cancelled:
        theirs = {"lease_id": lease_id, "ids": [entry.job_id for entry in cancelled]}
        unknown += connection.execute(_UNKNOWN_OF, theirs).scalars()
        end_jobs(connection, cancelled, now)
    # a late worker may be recording one at this moment: then it ends there, or is found here the next time
    dropped = connection.execute(_ANY_HELD, {"lease_id": lease_id}).one_or_none() is None
    if dropped:
        unknown += connection.execute(_UNKNOWN, {"lease_id": lease_id, "outcome": Outcome.UNKNOWN.value}).scalars()
        lost.remember(store, connection, lease_id)
        connection.execute(_DROP_LEASE, {"id": lease_id})
    spending.book_lost(connection, unknown)
    return Rescued(len(rows), dropped)


def expire_late(store: Store, connection: Connection, limit: int = BULK_ROWS) -> tuple[list[str], tuple[int, ...]]:
    """End jobs whose deadline has passed and that no worker holds. Returns (jobs, their batches)."""
    now = store.now(connection)
    statement = text(
        f"""
        SELECT id, batch_id, created_at, deadline_at, last_outcome, last_error FROM jobs
         WHERE ended_at IS NULL AND deadline_at IS NOT NULL AND deadline_at <= :now AND state <> 'running'
         ORDER BY deadline_at LIMIT :limit{store.skip_locked}
        """
    )
    rows = connection.execute(statement, {"now": now, "limit": limit}).all()
    ended = [
        Ended(
            row.id,
            row.batch_id,
            row.created_at,
            End(
                JobState.EXPIRED,
                outcome=Outcome(row.last_outcome) if row.last_outcome else None,
                error=expiry_text(row.deadline_at - row.created_at, row.last_error),
            ),
            None,
        )
        for row in rows
    ]
    return [entry.job_id for entry in ended], end_jobs(connection, ended, now).batches


def expiry_text(after_s: float, last_error: str | None) -> str:
    """Return the error message of a job whose deadline passed."""
    said = f" Last word: {last_error}" if last_error else " No route could take it in time."
    return f"The deadline passed {after_s:.1f} s after submit.{said}"


def _pick(store: Store, connection: Connection, condition: str, now: float, limit: int) -> list[str]:
    statement = text(f"SELECT id FROM jobs WHERE {condition} LIMIT :limit{store.skip_locked}")
    return [row.id for row in connection.execute(statement, {"now": now, "limit": limit})]
