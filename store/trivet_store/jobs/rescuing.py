"""Jobs of worker processes that end, in order or not: they wait again.

A process that stops in order releases its lease. The jobs of one that died, whose lease runs out, are quarantined: one of
them may have killed it. So each runs isolated from then on, in a process of its own, and only the crash of an isolated
process proves something: three of them end the job. A process that dies with its worker, as in a kill storm or when a
machine goes down, proves nothing.

Any number of schedulers may rescue at once; each lease is one transaction over rows that nobody else has locked.
"""

from collections.abc import Collection, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, text

from trivet_store.cluster import leases
from trivet_store.database.engine import BULK_ROWS, Store
from trivet_store.database.locking import select_locked
from trivet_store.jobs import transitions
from trivet_store.jobs.ending import end_jobs
from trivet_store.ledger import spending
from trivet_store.steps import End, Ended
from trivet_tasks.outcomes import Outcome
from trivet_tasks.states import JobState

ISOLATED_CRASHES = 3
"""Number of isolated crashes that end a job."""
PATIENT_AFTER = 3
"""A job that was in flight in this many crashes waits ever longer: it may take its whole machine with it."""
LONGEST_WAIT_S = 900.0

_COLUMNS = "id, flow_id, batch_id, created_at, route, cancel_requested, crashes"
# SQLite uses a partial index only where the statement repeats its condition word for word
_HELD = "state IN ('dispatched', 'running') AND state = 'running' AND lease_id = :lease_id"
_ALL_HELD = f"SELECT {_COLUMNS} FROM jobs WHERE {_HELD} ORDER BY id {{FOR UPDATE}}"
_SOME_HELD = f"SELECT {_COLUMNS} FROM jobs WHERE {_HELD} LIMIT :limit {{FOR UPDATE SKIP LOCKED}}"
_ANY_HELD = text(f"SELECT 1 FROM jobs WHERE {_HELD} LIMIT 1")
# flows by signature, before jobs
_HELD_FLOWS = text(
    f"SELECT id FROM flows WHERE id IN (SELECT flow_id FROM jobs WHERE {_HELD}) ORDER BY signature LIMIT :limit"
)
_LEASE = "SELECT id FROM leases WHERE id = :lease_id {FOR UPDATE}"
_DEAD_LEASE = """
    SELECT id FROM leases WHERE expires_at < :now AND id NOT IN :but ORDER BY id LIMIT 1 {FOR UPDATE SKIP LOCKED}
"""
_DROP_LEASE = text("DELETE FROM leases WHERE id = :lease_id")
# held while it is copied: a batch that is opened or cancelled meanwhile must find both
_FLOW = "SELECT signature, isolated, probe FROM flows WHERE id = :id {FOR UPDATE}"
_OPEN_ISOLATED = text(
    """
    INSERT INTO flows (signature, batch_id, latency, model, residency, compliance, features, labels, cache_write, held,
                       active, isolated, tenant)
    SELECT :signature, batch_id, latency, model, residency, compliance, features, labels, cache_write, held, true, true,
           tenant
      FROM flows WHERE id = :id
    ON CONFLICT (signature) DO UPDATE SET active = true
    RETURNING id
    """
)
_DIED = f"""
    SELECT {_COLUMNS}, lease_id, isolated_crashes FROM jobs
     WHERE id = :id AND claim = :claim AND state = 'running' {{FOR UPDATE}}
"""
_RESCUED = f"SELECT {_COLUMNS}, state, isolated_crashes FROM jobs WHERE id = :id AND ended_at IS NULL {{FOR UPDATE}}"
_RUNS = text("SELECT 1 FROM jobs WHERE id = :id AND claim = :claim AND state IN ('dispatched', 'running')")


class Rescued(NamedTuple):
    """The result of rescuing one dead lease."""

    jobs: int
    dropped: bool
    """True if no job runs under it any more; else it is found the next time, or its process lives and renews it."""


def release(store: Store, connection: Connection, lease_id: str) -> int:
    """End a lease whose process is about to end. Returns the number of jobs that it still held.

    They wait again and are not quarantined: the process did not die of them. The outcome of their calls stays unknown.
    Cancelled ones end here.
    """
    # wait for a claim that is under way under this lease; a later one finds no lease
    select_locked(connection, _LEASE, lease_id=lease_id)
    held = select_locked(connection, _ALL_HELD, lease_id=lease_id)
    unknown = transitions.mark_unknown(connection, lease_id)
    _end_cancelled(connection, held, store.now(connection))
    transitions.put_back(connection, lease_id, [{"id": row.id} for row in held if not row.cancel_requested])
    connection.execute(_DROP_LEASE, {"lease_id": lease_id})
    spending.book_lost(connection, unknown)
    return len(held)


def put_back_strays(connection: Connection, lease_id: str, ids: Sequence[str]) -> None:
    """Put jobs that run under the lease by name only back to waiting; whether their calls were made is unknown."""
    transitions.put_back(connection, lease_id, [{"id": job_id} for job_id in sorted(ids)])
    spending.book_lost(connection, transitions.mark_unknown(connection, lease_id, ids))


def hold_dead(store: Store, connection: Connection, but: Collection[str]) -> str | None:
    """Lock one lease that ran out, other than these, until the transaction ends. None when there is none."""
    found = select_locked(connection, _DEAD_LEASE, now=store.now(connection), but=sorted(but))
    return str(found[0].id) if found else None


def rescue(store: Store, connection: Connection, lease_id: str) -> Rescued:
    """Put the jobs of a process whose lease ran out back to waiting; the outcome of their calls is unknown.

    They are quarantined from now on: each runs in a process of its own. Cancelled ones end here. The lease is dropped
    once no job runs under it any more. One lease per transaction: rows are locked in `locking`'s order.
    """
    now = store.now(connection)
    some = {"lease_id": lease_id, "limit": BULK_ROWS}
    isolated = {row.id: _isolated_flow(connection, row.id) for row in connection.execute(_HELD_FLOWS, some).all()}
    rows = [row for row in select_locked(connection, _SOME_HELD, **some) if row.flow_id in isolated]
    quarantined = [_quarantined(row, isolated[row.flow_id], now) for row in rows if not row.cancel_requested]
    transitions.put_back(connection, lease_id, quarantined)
    cancelled = [row.id for row in rows if row.cancel_requested]
    unknown = transitions.mark_unknown(connection, lease_id, cancelled) if cancelled else []
    _end_cancelled(connection, rows, now)
    # a late worker may be recording one at this moment: then it ends there, or is found here the next time
    dropped = connection.execute(_ANY_HELD, {"lease_id": lease_id}).one_or_none() is None
    if dropped:
        unknown += transitions.mark_unknown(connection, lease_id)
        leases.remember(store, connection, lease_id)
        connection.execute(_DROP_LEASE, {"lease_id": lease_id})
    spending.book_lost(connection, unknown)
    return Rescued(len(rows), dropped)


def runs(connection: Connection, job_id: str, claim: int) -> bool:
    """Return whether the job is still to be worked, or is being worked, under this claim."""
    return connection.execute(_RUNS, {"id": job_id, "claim": claim}).one_or_none() is not None


def strike(
    store: Store, connection: Connection, job_id: str, claim: int, *, hung: bool = False
) -> tuple[str | None, int] | None:
    """Count an isolated crash: the process that ran this job and nothing else died. The third one ends the job.

    Args:
        hung: the process hung and had to be ended. That counts even if the job was rescued before.

    Returns:
        The lease of the dead process, if the job still ran there, and its isolated crashes; None where none counts.
    """
    found = select_locked(connection, _DIED, id=job_id, claim=claim)
    if not found:
        return _strike_rescued(store, connection, job_id) if hung else None
    (row,) = found
    transitions.count_isolated_crash(connection, job_id)
    crashes = row.isolated_crashes + 1
    if crashes >= ISOLATED_CRASHES and not row.cancel_requested:
        _give_up(store, connection, row, row.route, crashes)
    elif not row.cancel_requested:
        again = _quarantined(row, row.flow_id, store.now(connection))
        transitions.put_back(connection, row.lease_id, [again])
    release(store, connection, row.lease_id)  # ends it where it was cancelled; its calls, too, are over: `unknown`
    return row.lease_id, crashes


def _strike_rescued(store: Store, connection: Connection, job_id: str) -> tuple[None, int] | None:
    found = select_locked(connection, _RESCUED, id=job_id)
    if not found:
        return None
    (row,) = found
    transitions.count_isolated_crash(connection, job_id)
    crashes = row.isolated_crashes + 1
    if crashes >= ISOLATED_CRASHES and row.state in (JobState.WAITING, JobState.DELAYED):
        _give_up(store, connection, row, None, crashes)
    return None, crashes


def _give_up(store: Store, connection: Connection, row: Row[Any], route: str | None, crashes: int) -> None:
    said = f"{crashes} worker processes died while they ran this job and nothing else; it is not tried again."
    end = End(JobState.FAILED, outcome=Outcome.UNKNOWN, error=said)
    end_jobs(connection, [Ended(row.id, row.batch_id, row.created_at, end, route)], store.now(connection))


def _isolated_flow(connection: Connection, flow_id: int) -> int:
    """Return the isolated flow with the same requirements; a probe stays in its own, it is given up soon."""
    (flow,) = select_locked(connection, _FLOW, id=flow_id)
    if flow.isolated or flow.probe:
        return flow_id
    signature = blake2b(f"isolated {flow.signature}".encode(), digest_size=16).hexdigest()
    return int(connection.execute(_OPEN_ISOLATED, {"signature": signature, "id": flow_id}).scalar_one())


def _quarantined(row: Row[Any], flow_id: int, now: float) -> dict[str, object]:
    """Return the values with which a job that was in flight in a crash goes back to waiting, to run isolated."""
    crashes = row.crashes + 1
    wait_s = min(LONGEST_WAIT_S, 2.0**crashes) if crashes > PATIENT_AFTER else 0.0
    return {"id": row.id, "flow_id": flow_id, "crashes": crashes, "not_before": now + wait_s if wait_s else None}


def _end_cancelled(connection: Connection, rows: Sequence[Row[Any]], now: float) -> None:
    ended = [
        Ended(row.id, row.batch_id, row.created_at, End(JobState.CANCELLED), row.route)
        for row in rows
        if row.cancel_requested
    ]
    end_jobs(connection, ended, now)
