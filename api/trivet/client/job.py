"""A job for its submitter."""

from typing import TYPE_CHECKING

from trivet.client.result import Result, to_result
from trivet_store.jobs import batches
from trivet_store.jobs.cancelling import cancel_job
from trivet_store.jobs.retrying import retry_job
from trivet_store.reports import results
from trivet_store.reports.results import JobRow
from trivet_tasks.errors import NotFound
from trivet_tasks.states import END_STATES, read_job_state

if TYPE_CHECKING:
    from trivet.client.connections import Connections


class Job:
    """A submitted job. Cheap to make and to keep: it holds the id and the client's connections."""

    def __init__(self, connections: "Connections", job_id: str) -> None:
        self._connections = connections
        self.id = job_id

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    def look(self) -> JobRow:
        """Return the job's present row. NotFound when there is no such job."""
        return find_by_id(self._connections, self.id)

    @property
    def state(self) -> str:
        """Its state: `waiting`, `delayed`, `coalesced`, `dispatched`, `running`, or its end state."""
        return self.look().state.value

    def result(self, timeout: float | None = None) -> Result:
        """Wait for the end of the job.

        Args:
            timeout: seconds; None waits as long as it takes.

        Raises:
            ResultTimeout: it has not ended by then; it goes on.
            NotFound: there is no such job.
        """
        return self._connections.notices.wait_for(f"job {self.id}", self._ended, timeout, f"The job {self.id}")

    def cancel(self) -> bool:
        """Stop the job: at once if it waits, within about two seconds if it runs. False when it had ended before."""
        with self._connections.store.write() as connection:
            cancelled = cancel_job(self._connections.store, connection, self.id)
        if cancelled is None:
            raise NotFound(f"No job has the id {self.id!r}.")
        if cancelled:
            self._connections.tell_finished([self.id])
        return cancelled

    def retry(self) -> bool:
        """Run a job that failed or expired again, as `Batch.retry` does. False when it ended otherwise or has not ended.

        Raises:
            InvalidRequest: its batch was cancelled.
        """
        store, classes = self._connections.store, self._connections.settings.classes
        with store.write() as connection:
            again = retry_job(store, connection, self.id, classes=classes)
        if again is None:
            raise NotFound(f"No job has the id {self.id!r}.")
        if again:
            self._connections.tell_work()
        return again

    def _ended(self) -> Result | None:
        with self._connections.store.read() as connection:
            row = results.jobs_by_id(connection, [self.id]).get(self.id)
            if row is None:
                raise NotFound(f"No job has the id {self.id!r}.")
            if row.state not in END_STATES:
                return None
            return to_result(row, results.attempts_of(connection, [self.id])[self.id])


def find_by_id(connections: "Connections", job_id: str) -> JobRow:
    """Return a job's present row. NotFound when there is no such job."""
    with connections.store.read() as connection:
        row = results.jobs_by_id(connection, [job_id]).get(job_id)
    if row is None:
        raise NotFound(f"No job has the id {job_id!r}.")
    return row


def find_by_key(connections: "Connections", key: str, tenant: str | None = None) -> JobRow:
    """Return the job of this idempotency key of this tenant; without a tenant, of those that have none.

    Raises:
        NotFound: there is none.
    """
    with connections.store.read() as connection:
        row = results.job_by_key(connection, key, tenant)
    if row is None:
        of = f"of the tenant {tenant!r}" if tenant else "without a tenant"
        raise NotFound(f"No job {of} has the key {key!r}.", hint="A key belongs to the tenant of its request.")
    return row


def find_newest(
    connections: "Connections", *, state: str | None = None, batch: str | None = None, limit: int = 100
) -> list[JobRow]:
    """Return the newest jobs with their present state, newest first.

    Args:
        state: only those in this state, a `JobState` or its text.
        batch: only those of the batch of this name.

    Raises:
        InvalidRequest: there is no such state.
        NotFound: there is no such batch.
    """
    wanted = None if state is None else read_job_state(state)
    with connections.store.read() as connection:
        batch_id = batches.id_of(connection, batch) if batch else None
        return results.recent_jobs(connection, state=wanted, batch_id=batch_id, limit=limit)
