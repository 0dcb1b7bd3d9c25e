"""Discarding: deleting a batch that never was complete, with its jobs, none of which ever ran.

Several short transactions, which may be interrupted and repeated. From the first one on the batch is `discarding`, and
nobody fills, opens or cancels it.
"""

from shlex import quote

from sqlalchemy import Connection, text

from trivet_store.database.batched_scan import turn
from trivet_store.database.engine import BULK_ROWS, Store
from trivet_store.database.locking import lock_flows, select_locked
from trivet_store.jobs import batches
from trivet_store.retention import delete_batches, delete_jobs
from trivet_tasks.errors import InvalidRequest

JOBS = BULK_ROWS // 2
"""Jobs of one transaction: each has a row and a request."""
_MARK = text(
    """
    UPDATE batches SET state = 'discarding', error = NULL
     WHERE id = :id AND NOT opened AND NOT (dedupe AND total > 0)
    """
)
_OPENED = text("SELECT opened FROM batches WHERE id = :id")
# by the partial indexes that are there: jobs that have not ended, and ended ones (cancelled, or past their deadline)
_REST = text(
    """
    SELECT id FROM jobs WHERE flow_id IN (SELECT id FROM flows WHERE batch_id = :id) AND ended_at IS NULL
    UNION ALL
    SELECT id FROM jobs WHERE batch_id = :id AND batch_seq IS NOT NULL
    LIMIT :limit
    """
)
_LOCK = "SELECT id FROM jobs WHERE id IN :ids ORDER BY id {FOR UPDATE}"


def discard(store: Store, name: str) -> int:
    """Delete a batch and its jobs. Returns the number of jobs.

    Raises:
        NotFound: there is no batch of this name.
        InvalidRequest: it was complete once, so that its jobs may have run; or its keys are those of its tenant, so that
            others may wait for its jobs.
    """
    with store.write() as connection:
        batch_id = _begin(connection, name)
    deleted = 0
    while True:
        with turn(store) as connection:
            jobs = _delete_some(connection, batch_id)
        if not jobs:
            return deleted
        deleted += jobs


def _begin(connection: Connection, name: str) -> int:
    batch_id = batches.id_of(connection, name)
    lock_flows(connection, batch_id)
    if connection.execute(_MARK, {"id": batch_id}).rowcount == 0:
        opened = connection.execute(_OPENED, {"id": batch_id}).scalar_one()
        why = "was complete: its jobs may have run" if opened else 'has dedupe="tenant": others may wait for its jobs'
        raise InvalidRequest(
            f"The batch {name!r} {why}.", field="name", hint=f"`trivet batch cancel {quote(name)}` ends its jobs."
        )
    return batch_id


def _delete_some(connection: Connection, batch_id: int) -> int:
    """Delete some of the batch's jobs, or the batch when it has none. Returns the number of jobs."""
    lock_flows(connection, batch_id)
    ids = list(connection.execute(_REST, {"id": batch_id, "limit": JOBS}).scalars())
    if not ids:
        delete_batches(connection, [batch_id])
        return 0
    held = [row.id for row in select_locked(connection, _LOCK, ids=ids)]
    return delete_jobs(connection, held)["jobs"]
