"""Release of a lease: a worker process that ends in order gives up its lease and the jobs it still holds."""

from sqlalchemy import Connection, bindparam, text

from trivet_store.database.engine import Store
from trivet_store.jobs.ending import end_jobs
from trivet_store.ledger import spending
from trivet_store.steps import End, Ended
from trivet_tasks.outcomes import Outcome
from trivet_tasks.states import JobState

# SQLite uses a partial index only where the statement repeats its condition word for word
_HELD = """
    SELECT id, batch_id, created_at, route, cancel_requested FROM jobs
     WHERE state IN ('dispatched', 'running') AND state = 'running' AND lease_id = :lease_id ORDER BY id
"""
_LOCK = "SELECT id FROM leases WHERE id = :lease_id"
_PUT_DOWN = text(
    """
    UPDATE jobs SET state = 'waiting', lease_id = NULL, route = NULL, dispatched_until = NULL
     WHERE id IN :ids AND state = 'running' AND lease_id = :lease_id
    """
).bindparams(bindparam("ids", expanding=True))
_UNKNOWN = text(
    """
    UPDATE attempts SET outcome = :outcome, estimated = true WHERE lease_id = :lease_id AND outcome IS NULL
    RETURNING id
    """
)
_DROP_LEASE = text("DELETE FROM leases WHERE id = :lease_id")


def release(store: Store, connection: Connection, lease_id: str) -> int:
    """End a lease whose process is about to end. Returns the number of jobs that it still held.

    They wait again and are not quarantined: the process did not die of them. The outcome of their calls stays unknown.
    Cancelled ones end here.
    """
    # wait for a claim that is under way under this lease; a later one finds no lease
    connection.execute(text(_LOCK + store.for_update), {"lease_id": lease_id})
    held = connection.execute(text(_HELD + store.for_update), {"lease_id": lease_id}).all()
    lost = connection.execute(_UNKNOWN, {"lease_id": lease_id, "outcome": Outcome.UNKNOWN.value}).scalars().all()
    end_jobs(
        connection,
        [
            Ended(row.id, row.batch_id, row.created_at, End(JobState.CANCELLED), row.route)
            for row in held
            if row.cancel_requested
        ],
        store.now(connection),
    )
    waiting = [row.id for row in held if not row.cancel_requested]
    if waiting:
        connection.execute(_PUT_DOWN, {"ids": waiting, "lease_id": lease_id})
    connection.execute(_DROP_LEASE, {"lease_id": lease_id})
    spending.book_lost(connection, lost)
    return len(held)
