"""Jobs: the newest of them, one job's whole life, and why one does not move."""

from typing import Any, NamedTuple

import orjson

from trivet.admin.blocked import Blocked, blocked_job, blocked_waiting_job
from trivet.client.connections import Connections
from trivet.client.job import find_by_id, find_by_key, find_newest
from trivet_store.jobs import coalescing
from trivet_store.reports import results
from trivet_store.reports.results import AttemptRow, JobRow, RetryRow
from trivet_tasks.states import JobState


class JobLife(NamedTuple):
    """Everything on record about a job."""

    job: JobRow
    attempts: tuple[AttemptRow, ...]
    """Its provider calls, in order."""
    retries: tuple[RetryRow, ...]
    """Its earlier ends, each before it was made to run again, in order."""
    leader: str | None
    """The id of the job with an equal request whose answer it waits for; None unless it is `coalesced`."""
    blocked: Blocked
    """The reason why no route takes it now, while it waits."""
    request: dict[str, Any] | None
    """The body of the Messages API, if it was asked for and is still kept."""
    now: float
    """Time of this reading: seconds since the epoch, by the database's clock."""


class Jobs:
    """Reports on jobs. A job is cancelled, retried and awaited through `trivet.Client.job`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def list(self, *, state: str | None = None, batch: str | None = None, limit: int = 100) -> tuple[JobRow, ...]:
        """Return the newest jobs with their present state, newest first.

            failed = admin.jobs.list(state="failed", batch="contracts")

        Args:
            state: only jobs in this state: `waiting`, `delayed`, `coalesced`, `dispatched`, `running`, `succeeded`,
                `failed`, `expired` or `cancelled`.
            batch: only jobs of the batch of this name.
            limit: jobs at most.

        Raises:
            InvalidRequest: there is no such state.
            NotFound: there is no such batch.
            StoreUnavailable, SchemaMismatch: the database cannot be used.
        """
        return tuple(find_newest(self._connections, state=state, batch=batch, limit=limit))

    def by_key(self, key: str, *, tenant: str | None = None) -> JobRow:
        """Return the job of a tenant's idempotency key.

            admin.jobs.by_key("invoice-4711", tenant="acme").id

        Args:
            tenant: as in the request; None: the job was submitted without one.

        Raises:
            NotFound: there is no such job.
        """
        return find_by_key(self._connections, key, tenant)

    def life(self, job_id: str, *, request: bool = False) -> JobLife:
        """Return a job with its attempts, its earlier ends, and why it does not move if it waits.

            for attempt in admin.jobs.life(job_id).attempts:
                print(attempt.route, attempt.outcome, attempt.cost_usd)

        Args:
            request: whether to read the request as well, prompt and all.

        Raises:
            NotFound: there is no such job.
        """
        job = find_by_id(self._connections, job_id)
        store = self._connections.store
        with store.read() as connection:
            attempts = results.attempts_of(connection, [job.id])[job.id]
            retries = results.retries_of(connection, job.id)
            body = results.request_body(connection, job.id) if request else None
            leader = coalescing.leader_of(connection, job.id) if job.state == JobState.COALESCED else None
            now = store.now(connection)
        blocked = blocked_waiting_job(self._connections, job)
        read = None if body is None else orjson.loads(body)
        return JobLife(job, tuple(attempts), tuple(retries), leader, blocked, read, now)

    def blocked(self, job_id: str) -> Blocked:
        """Return why a job that has not ended does not move; empty where it does.

            print(*admin.jobs.blocked(job_id).notes)

        Raises:
            NotFound: there is no such job.
        """
        return blocked_job(self._connections, find_by_id(self._connections, job_id))
