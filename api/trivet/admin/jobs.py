"""Jobs, batches and attempts: lists, one job's whole life, progress, and why one does not move."""

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from trivet.admin.group import Group
from trivet.client.blocked import Blocked, blocked_batch, blocked_job
from trivet.client.connections import Connections
from trivet.client.lookup import find_by_id, find_by_key, find_line, find_newest, find_newest_batches
from trivet_store.jobs import batches, coalescing
from trivet_store.jobs.batches import Progress
from trivet_store.reports import backlog, callbacks, results
from trivet_store.reports.attempts import (
    AttemptCounter,
    AttemptFate,
    JobCount,
    RouteAttempts,
    attempt_fates,
    job_count,
)
from trivet_store.reports.batch_ends import BatchEnds, batch_ends
from trivet_store.reports.callbacks import CallbackRow
from trivet_store.reports.results import AttemptRow, JobRow, RetryRow
from trivet_tasks.latency import Latency
from trivet_tasks.requests.request_body import as_submitted
from trivet_tasks.states import JobState
from trivet_tasks.tenant_scope import TenantScope


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
    """The reason why it does not move; empty where it does."""
    request: dict[str, Any] | None
    """The request as `submit` takes it, if it was asked for and is still kept."""
    now: float
    """Time of this reading: seconds since the epoch, by the database's clock."""
    callbacks: tuple[CallbackRow, ...] = ()
    """Its callbacks (`on_done=`), in the order in which they were added."""

    def __repr__(self) -> str:
        """Return the id and the state alone: the request is a prompt."""
        return f"JobLife({self.job.id!r}, {self.job.state.value!r})"


class Jobs(Group):
    """Reports on jobs. A job is cancelled, retried and awaited through `trivet.Client.job`."""

    def list(
        self,
        *,
        state: str | None = None,
        batch: str | None = None,
        limit: int = 100,
        scope: TenantScope | None = None,
        before: str | None = None,
    ) -> tuple[JobRow, ...]:
        """Return the newest jobs with their present state, newest first.

            failed = admin.jobs.list(state="failed", batch="contracts")

        Args:
            state: only jobs in this state: `waiting`, `delayed`, `coalesced`, `dispatched`, `running`, `succeeded`,
                `failed`, `expired` or `cancelled`.
            batch: only jobs of the batch of this name.
            limit: jobs at most.
            scope: only jobs of this tenant.
            before: only jobs that were submitted before the one of this id.

        Raises:
            InvalidRequest: there is no such state.
            NotFound: there is no such batch.
        """
        return tuple(find_newest(self._connections, state=state, batch=batch, limit=limit, scope=scope, before=before))

    def by_key(
        self, key: str, *, tenant: str | None = None, batch: str | None = None, scope: TenantScope | None = None
    ) -> JobRow:
        """Return the job of a tenant's idempotency key, or of a request's in a batch.

            admin.jobs.by_key("invoice-4711", tenant="acme").id
            admin.jobs.by_key("page/7", batch="contracts").id

        Args:
            tenant: as in the request; None: the job was submitted without one, or, with `batch`, of any tenant.
            batch: the name of the request's batch; None: a single job, or one of a batch with `dedupe`.
            scope: only a job of this tenant, whose `tenant` need not be given then.

        Raises:
            NotFound: there is no such job.
        """
        if scope is not None:
            tenant = scope.tenant
        if batch is not None:
            return find_line(self._connections, batch, key, tenant, scope=scope)
        return find_by_key(self._connections, key, tenant)

    def life(self, job_id: str, *, request: bool = False, scope: TenantScope | None = None) -> JobLife:
        """Return a job with its attempts, its earlier ends, and why it does not move if it waits.

            for attempt in admin.jobs.life(job_id).attempts:
                print(attempt.route, attempt.outcome, attempt.cost_usd)

        Args:
            request: whether to read the request as well, prompt and all.
            scope: only a job of this tenant.

        Raises:
            NotFound: there is no such job.
        """
        job = find_by_id(self._connections, job_id, scope)
        store = self._connections.store
        with store.read() as connection:
            attempts = results.attempts_of(connection, [job.id])[job.id]
            retries = results.retries_of(connection, job.id)
            body = results.request_bodies(connection, [job.id]).get(job.id) if request else None
            leader = coalescing.leader_of(connection, job.id) if job.state == JobState.COALESCED else None
            called_back = callbacks.callbacks_of(connection, job.id)
            now = store.now(connection)
        blocked = blocked_job(self._connections, job)
        read = None if body is None else as_submitted(orjson.loads(body), job.model, job.metadata)
        job = replace(job, estimated_usd=results.estimated(attempts))
        return JobLife(job, tuple(attempts), tuple(retries), leader, blocked, read, now, tuple(called_back))

    def blocked(self, job_id: str) -> Blocked:
        """Return why a job that has not ended does not move; empty where it does.

            print(*admin.jobs.blocked(job_id).notes)

        Raises:
            NotFound: there is no such job.
        """
        return blocked_job(self._connections, find_by_id(self._connections, job_id))


class BatchStatus(NamedTuple):
    """A batch at one moment."""

    progress: Progress
    jobs_per_s: float | None
    """Jobs that ended per second in the last minute; None when hardly any did."""
    left_s: float | None
    """Seconds until its last job ends, at this speed; None when it is done, paused or held by a budget, or the speed is not known."""
    blocked: Blocked


class Batches(Group):
    """Reports on batches. A batch is cancelled, retried and read through `trivet.Client.batch`."""

    def list(
        self, limit: int = 100, *, scope: TenantScope | None = None, before: str | None = None
    ) -> tuple[Progress, ...]:
        """Return the newest batches with their progress, newest first.

            running = [batch.name for batch in admin.batches.list() if not batch.done]

        Args:
            limit: batches at most.
            scope: only batches all of whose requests are of this tenant.
            before: only batches older than the one of this name.

        Raises:
            NotFound: there is no batch of the name `before`.
        """
        return tuple(find_newest_batches(self._connections, limit, scope=scope, before=before))

    def progress(self, name: str) -> Progress:
        """Return the counts and the cost of a batch.

            admin.batches.progress("contracts").failed

        Raises:
            NotFound: there is no such batch.
        """
        with self._connections.store.read() as connection:
            return batches.progress(connection, name)

    def status(self, name: str, *, scope: TenantScope | None = None) -> BatchStatus:
        """Return the progress of a batch, its speed, and why it does not move if it does not.

            status = admin.batches.status("contracts")
            print(status.progress.ended, status.left_s, *status.blocked.notes)

        Args:
            scope: only a batch all of whose requests are of this tenant.

        Raises:
            NotFound: there is no such batch.
        """
        store = self._connections.store
        with store.read() as connection:
            progress = batches.progress(connection, name, scope)
            speed = backlog.recent_speed(connection, name, store.now(connection))
        blocked = blocked_batch(self._connections, progress)
        known = speed and not progress.done and not blocked.budget and not blocked.paused
        left_s = (progress.total - progress.ended) / speed if speed and known else None
        return BatchStatus(progress, speed, left_s, blocked)

    def blocked(self, name: str) -> Blocked:
        """Return why a batch, or a part of it, does not move; empty where it does.

            if admin.batches.blocked("contracts").wrong:
                alert()

        Raises:
            NotFound: there is no such batch.
        """
        return blocked_batch(self._connections, self.progress(name))

    def callbacks(self, name: str) -> tuple[CallbackRow, ...]:
        """Return the callbacks of a batch (`on_done=` of `submit_many`), in the order in which they were added.

            [(one.app, one.error) for one in admin.batches.callbacks("contracts") if one.failures]

        Raises:
            NotFound: there is no such batch.
        """
        with self._connections.store.read() as connection:
            return tuple(callbacks.callbacks_of(connection, batches.id_of(connection, name)))

    def ends(self, name: str, budgets_s: Mapping[Latency, float] = {}) -> tuple[BatchEnds, ...]:
        """Return the jobs of a batch counted by latency class, state and reason. Reads the whole batch.

            [(one.jobs, one.message) for one in admin.batches.ends("contracts") if one.state == "failed"]

        Args:
            name: of the batch.
            budgets_s: latency budgets in seconds, by which jobs count as late; of a class that lacks one, only deadlines do.

        Raises:
            NotFound: there is no such batch.
        """
        store = self._connections.store
        with store.read() as connection:
            return tuple(batch_ends(connection, batches.id_of(connection, name), store.now(connection), budgets_s))


class AttemptBook(NamedTuple):
    """All attempts and jobs on record, read in one transaction."""

    jobs: JobCount
    attempts: tuple[AttemptFate, ...]
    by_route: Mapping[str, RouteAttempts]


class Attempts(Group):
    """Reports on provider calls. Those of one job are in `admin.jobs.life`."""

    def __init__(self, connections: Connections) -> None:
        super().__init__(connections)
        self._counter = AttemptCounter()
        self._lock = threading.Lock()

    def by_route(self) -> Mapping[str, RouteAttempts]:
        """Return all attempts so far, counted by route. Cheap to repeat: settled ones are not read again.

        sum(route.left for route in admin.attempts.by_route().values())  # failovers
        """
        store = self._connections.store
        with self._lock, store.read() as connection:
            return self._counter.read(connection, store.now(connection))

    def all(self) -> AttemptBook:
        """Return every attempt, to compare with another record. Reads whole tables: for small databases.

        unsettled = [one.id for one in admin.attempts.all().attempts if one.outcome is None]
        """
        store = self._connections.store
        with store.read() as connection:
            return AttemptBook(
                job_count(connection),
                tuple(attempt_fates(connection)),
                AttemptCounter().read(connection, store.now(connection)),
            )
