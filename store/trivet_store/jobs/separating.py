"""Separating tenants: moving jobs to flows of their tenant once it has a control, the next ones in line first."""

from hashlib import blake2b
from typing import Final, NamedTuple

from sqlalchemy import Connection, text

from trivet_store.database.engine import BULK_ROWS
from trivet_store.database.locking import lock_flows, select_locked
from trivet_store.jobs import transitions

MOVED_AT_ONCE = BULK_ROWS
"""Jobs that one transaction moves to a flow of their tenant."""
STRAYS_AT_ONCE = 20


class Stray(NamedTuple):
    """A flow with jobs of a tenant that has flows of its own."""

    flow_id: int
    batch_id: int | None
    signature: str
    tenant: str


# each flow that a controlled tenant has living jobs in, by one probe of the index: tenants may have a million jobs,
# operators thousands of controls
STRAYS: Final = """
    WITH RECURSIVE used (tenant, flow_id) AS (
        SELECT c.value, (SELECT min(flow_id) FROM jobs WHERE jobs.tenant = c.value AND ended_at IS NULL)
          FROM controls c WHERE c.kind = 'tenant'
        UNION ALL
        SELECT u.tenant, (SELECT min(jobs.flow_id) FROM jobs
                           WHERE jobs.tenant = u.tenant AND ended_at IS NULL AND jobs.flow_id > u.flow_id)
          FROM used u WHERE u.flow_id IS NOT NULL
    )
    SELECT f.id AS flow_id, f.batch_id, f.signature, u.tenant
      FROM used u JOIN flows f ON f.id = u.flow_id
     WHERE f.active AND f.tenant IS NULL AND NOT f.probe
"""
_STRAYS = text(f"{STRAYS} LIMIT :limit")
_OPEN_OWN = text(
    """
    INSERT INTO flows (signature, batch_id, latency, model, residency, compliance, features, prefix, labels, cache_write,
                       held, active, isolated, tenant)
    SELECT :signature, batch_id, latency, model, residency, compliance, features, prefix, labels, cache_write, held, true,
           isolated, :tenant
      FROM flows WHERE id = :id
    ON CONFLICT (signature) DO UPDATE SET active = true
    RETURNING id
    """
)
_STRAYED = """
    SELECT id FROM jobs WHERE tenant = :tenant AND flow_id = :flow_id AND ended_at IS NULL
     ORDER BY rank LIMIT :limit {FOR UPDATE SKIP LOCKED}
"""


def strays(connection: Connection) -> list[Stray]:
    """Return flows with jobs to `separate`, a few at a time."""
    return [Stray(*row) for row in connection.execute(_STRAYS, {"limit": STRAYS_AT_ONCE})]


def separate(connection: Connection, stray: Stray) -> int:
    """Move a group of a tenant's jobs to its own flow, the next ones in line first. Returns their number."""
    if stray.batch_id is not None:
        lock_flows(connection, stray.batch_id)  # a batch that is opened or cancelled meanwhile must find both
    signature = blake2b(f"tenant {stray.tenant} {stray.signature}".encode(), digest_size=16).hexdigest()
    own = connection.execute(_OPEN_OWN, {"signature": signature, "tenant": stray.tenant, "id": stray.flow_id})
    flow_id = own.scalar_one()
    rows = select_locked(connection, _STRAYED, tenant=stray.tenant, flow_id=stray.flow_id, limit=MOVED_AT_ONCE)
    transitions.move(connection, [row.id for row in rows], flow_id)
    return len(rows)
