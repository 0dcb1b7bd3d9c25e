"""Finding jobs and batches: by id, by key, the newest."""

from trivet.client.connections import Connections
from trivet_store.jobs import batches
from trivet_store.jobs.batches import Progress
from trivet_store.reports import results
from trivet_store.reports.results import JobRow
from trivet_tasks.errors import InvalidRequest, NotFound
from trivet_tasks.states import read_job_state
from trivet_tasks.tenant_scope import TenantScope


def find_by_id(connections: Connections, job_id: str, scope: TenantScope | None = None) -> JobRow:
    """Return a job's present row. NotFound when there is no such job (of the tenant of the scope)."""
    with connections.store.read() as connection:
        row = results.jobs_by_id(connection, [job_id]).get(job_id)
    if row is None or (scope is not None and (row.probe or not scope.sees(row.tenant))):
        raise not_found(job_id)
    return row


def find_by_key(connections: Connections, key: str, tenant: str | None = None) -> JobRow:
    """Return the job of this idempotency key of this tenant; without a tenant, of those that have none.

    Raises:
        NotFound: there is none.
    """
    with connections.store.read() as connection:
        row = results.job_by_key(connection, key, tenant)
    if row is None:
        of = f"of the tenant {tenant!r}" if tenant else "without a tenant"
        hint = "A key belongs to the tenant of its request, or to its batch: name that as well."
        raise NotFound(f"No job {of} has the key {key!r}.", hint=hint)
    return row


def find_line(
    connections: Connections, batch: str, key: str, tenant: str | None = None, *, scope: TenantScope | None = None
) -> JobRow:
    """Return the job of the batch of this name with this key.

    Args:
        tenant: only a job of this tenant; None: of any.
        scope: only of a batch all of whose requests are of this tenant.

    Raises:
        NotFound: there is no such batch, or none of its jobs has the key.
        InvalidRequest: jobs of several tenants have the key (a batch with `dedupe`).
    """
    with connections.store.read() as connection:
        rows = results.jobs_of_line(connection, batches.id_of(connection, batch, scope), key, tenant)
    if not rows:
        of = f" of the tenant {tenant!r}" if tenant else ""
        hint = "A request that joined an earlier job has none in this batch."
        raise NotFound(f"No job{of} in the batch {batch!r} has the key {key!r}.", hint=hint)
    if len(rows) > 1:
        tenants = ", ".join(repr(row.tenant or "") for row in rows)
        message = f"key: {key!r} is that of several tenants' jobs in the batch {batch!r}: {tenants}."
        raise InvalidRequest(message, field="key", hint="Name the tenant as well.")
    return rows[0]


def find_newest(
    connections: Connections,
    *,
    state: str | None = None,
    batch: str | None = None,
    limit: int = 100,
    scope: TenantScope | None = None,
    before: str | None = None,
) -> list[JobRow]:
    """Return the newest jobs with their present state, newest first.

    Args:
        state: only those in this state, a `JobState` or its text.
        batch: only those of the batch of this name.
        scope: only those of this tenant.
        before: only those submitted before the job of this id.

    Raises:
        InvalidRequest: there is no such state.
        NotFound: there is no such batch.
    """
    wanted = None if state is None else read_job_state(state)
    with connections.store.read() as connection:
        batch_id = batches.id_of(connection, batch, scope) if batch else None
        found = results.recent_jobs(
            connection, state=wanted, batch_id=batch_id, limit=limit, scope=scope, before=before
        )
        return results.with_estimates(connection, found)


def find_newest_batches(
    connections: Connections, limit: int, *, scope: TenantScope | None = None, before: str | None = None
) -> list[Progress]:
    """Return the newest batches with their progress, newest first.

    Args:
        scope: only batches all of whose requests are of this tenant.
        before: only batches older than the one of this name.
    """
    with connections.store.read() as connection:
        return batches.latest(connection, limit, scope=scope, before=before)


def not_found(job_id: str) -> NotFound:
    """Return the error for an id that no job has."""
    return NotFound(f"No job has the id {job_id!r}.", hint="`trivet job list` shows the newest.")
