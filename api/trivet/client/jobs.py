"""Jobs and batches for their submitter: state and results, cancelling, running failed jobs again."""

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from trivet.client.connections import Connections, current_operator
from trivet.client.lookup import find_by_id, find_line, not_found
from trivet.client.result import Result, add_request, read_ends, to_result
from trivet_store import controls
from trivet_store.controls import ControlKind, Work
from trivet_store.database.batched_scan import Candidate, groups
from trivet_store.jobs import batches, cancelling, discarding, retrying
from trivet_store.jobs.batches import Progress
from trivet_store.reports import results
from trivet_store.reports.results import JobRow
from trivet_tasks.errors import ResultTimeout
from trivet_tasks.states import END_STATES, JobState, JobStateName

if TYPE_CHECKING:
    from trivet.client.blocked import BlockedReason

PAGE_JOBS = 200


class Job:
    """A submitted job. Cheap to make and to keep: it holds the id and the client's connections."""

    def __init__(
        self, connections: Connections, job_id: str, warnings: tuple[str, ...] = (), *, existed: bool = False
    ) -> None:
        self._connections = connections
        self.id = job_id
        self.existed = existed
        """True if `submit` found it under its key: it was submitted before."""
        self.warnings = warnings
        """Warnings of its submit: a `max_tokens` that its time is too short for, and reasons for which nothing takes it: no
        scheduler, no worker, no route that ever could."""

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    def look(self) -> JobRow:
        """Return the job's present row. NotFound when there is no such job."""
        return find_by_id(self._connections, self.id)

    @property
    def state(self) -> JobStateName:
        """Its state: `waiting`, `delayed`, `coalesced`, `dispatched`, `running`, or its end state."""
        return self.look().state.value

    def result(self, timeout: float | None = None, *, with_request: bool = False) -> Result:
        """Wait for the end of the job.

        Args:
            timeout: seconds; None waits as long as it takes.
            with_request: read its request as well, for `Result.request`.

        Raises:
            ResultTimeout: it has not ended by then; says why, and whether something is wrong (`held_up`).
            NotFound: there is no such job.
        """
        what = f"The job {self.id}"
        found = self._connections.notices.wait_for(f"job {self.id}", self._ended, timeout, what, self._timed_out)
        return next(_with_requests(self._connections, [found])) if with_request else found

    def cancel(self) -> bool:
        """Stop the job: at once if it waits, within about two seconds if it runs. False when it had ended before."""
        with self._connections.store.write() as connection:
            cancelled = cancelling.cancel_job(self._connections.store, connection, self.id)
        if cancelled is None:
            raise not_found(self.id)
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
            again = retrying.retry_job(store, connection, self.id, classes=classes)
        if again is None:
            raise not_found(self.id)
        if again:
            self._connections.tell_work()
        return again

    def blocked_reasons(self) -> "list[BlockedReason]":
        """Return what blocks jobs like this one now, whether it has ended or not; empty where some route takes them.

        Raises:
            BrokerUnavailable: the shared state does not answer.
        """
        from trivet.client.blocked import blocked_reasons_of  # as below

        return blocked_reasons_of(self._connections, self.id)

    def _timed_out(self, message: str) -> ResultTimeout:
        from trivet.client.blocked import timed_out_job  # routes and limits: a client that only submits needs none

        return timed_out_job(self._connections, self.look(), message)

    def _ended(self) -> Result | None:
        with self._connections.store.read() as connection:
            end = read_ends(connection, [self.id]).get(self.id)
        if end is None:
            raise not_found(self.id)
        return end if isinstance(end, Result) else None


class Batch:
    """Jobs that were submitted together under one name."""

    def __init__(self, connections: Connections, name: str, batch_id: int, warnings: tuple[str, ...] = ()) -> None:
        self._connections = connections
        self._id = batch_id
        self.name = name
        self.warnings = warnings
        """As of a `Job`, when its requests were taken in."""

    def __repr__(self) -> str:
        return f"Batch({self.name!r})"

    def job(self, key: str, *, tenant: str | None = None) -> Job:
        """Return the job of this batch with this key. NotFound when there is none.

            client.batch("contracts").job("page/7").result().text

        Args:
            tenant: as in the request, where several of a batch with `dedupe` have one key; None: of any tenant.
        """
        return Job(self._connections, find_line(self._connections, self.name, key, tenant).id)

    def progress(self) -> Progress:
        """Return its progress: counts by state, and the cost so far."""
        with self._connections.store.read() as connection:
            return batches.progress(connection, self.name)

    def job_ids(self) -> list[str]:
        """Return the ids of its jobs, in the order of their requests."""
        with self._connections.store.read() as connection:
            return results.batch_job_ids(connection, self._id)

    def results(self, timeout: float | None = None, *, with_request: bool = False) -> Iterator[Result]:
        """Yield every result once, in the order the jobs end; failures are results too.

        Args:
            timeout: maximum seconds to wait for the next result; None waits as long as it takes.
            with_request: read the requests as well, for `Result.request`.

        Raises:
            ResultTimeout: no further job ended in that time; says why, as `Job.result` does.
        """
        seen = 0
        while True:
            seen, page = self._connections.notices.wait_for(
                f"batch {self._id}",
                partial(self._page, seen),
                timeout,
                f"The next job of {self.name!r}",
                self._timed_out,
            )
            yield from _with_requests(self._connections, page) if with_request else page
            if not page:
                return

    def ended(self, states: Collection[str] = END_STATES, *, with_request: bool = False) -> Iterator[Result]:
        """Yield the results that exist when the first of them is asked for, each once, in the order the jobs ended.

        Waits for nothing, and holds one page of them in memory. A job that is retried meanwhile is left out.

        Args:
            states: only results in these end states: `succeeded`, `failed`, `expired`, `cancelled`.
            with_request: read the requests as well, for `Result.request`.
        """
        store, seen = self._connections.store, 0
        ended = {state for state in END_STATES if state in states}
        with store.read() as connection:
            upto = results.last_number(connection, self._id)
        while seen < upto:
            with store.read() as connection:
                rows = results.batch_page_upto(connection, self._id, seen, upto, ended, PAGE_JOBS)
                attempts = results.attempts_of(connection, [row.id for row in rows])
            seen = rows[-1].batch_seq or upto if rows else upto
            page = [to_result(row, attempts[row.id]) for row in rows]
            yield from _with_requests(self._connections, page) if with_request else page

    def wait(self, timeout: float | None = None) -> Progress:
        """Wait until every job has ended. ResultTimeout when that takes longer than `timeout` seconds."""

        def done() -> Progress | None:
            progress = self.progress()
            return progress if progress.done else None

        what = f"The batch {self.name!r}"
        return self._connections.notices.wait_for(f"batch {self._id}", done, timeout, what, self._timed_out)

    def cancel(self) -> int:
        """Stop the batch: waiting jobs end at once, running ones are dropped within about two seconds.

        Returns:
            The number of jobs ended here; workers end the running ones.
        """
        store = self._connections.store
        with store.write() as connection:
            cancelling.begin_cancel(self._connections.store, connection, self._id)
        ended = 0
        while True:
            with store.write() as connection:
                ids = cancelling.cancel_waiting(store, connection, self._id)
            if not ids:
                return ended
            ended += len(ids)
            self._connections.tell_finished(ids, [self._id])

    def pause(self, reason: str = "", *, by: str | None = None, owner: bool = False) -> bool:
        """Let no further job begin until `resume`, over restarts too. What runs ends; what is in a queue waits again.

            client.batch("contracts").pause("the prompt is wrong")

        Args:
            reason: shown wherever the batch is.
            by: the person; None: the user of this process.
            owner: true where this is done for its tenant, not by an operator, whose pause takes the place of the tenant's.

        Returns:
            False when it was paused already.

        Raises:
            InvalidRequest: the batch is done.
        """
        store = self._connections.store
        with store.write() as connection:
            return controls.pause(
                store, connection, self._work, by=by or current_operator(), reason=reason, owner=owner
            )

    def resume(self, *, by: str | None = None, owner: bool = False) -> bool:
        """Let a paused batch go on. False when it was not paused; a tenant or class of it may still be.

        Args:
            by: the person; None: the user of this process.
            owner: true where this is done for its tenant, who lifts no pause of an operator.

        Raises:
            SetByOperator: an operator paused it.
        """
        store = self._connections.store
        with store.write() as connection:
            resumed = controls.resume(store, connection, self._work, by=by or current_operator(), owner=owner)
        self._connections.tell_work()
        return resumed

    def prioritize(self, priority: int, *, by: str | None = None, owner: bool = False) -> None:
        """Dispatch its jobs before all of lower priority, from -10 to 10; 0 is the default.

            client.batch("contracts").prioritize(5)

        Args:
            by: the person; None: the user of this process.
            owner: true where this is done for its tenant, who may not go above 0, nor above what an operator lowered it to.

        Raises:
            InvalidRequest: the priority is out of bounds.
            SetByOperator: the tenant may not go so high.
        """
        store = self._connections.store
        with store.write() as connection:
            controls.prioritize(store, connection, self._work, priority, by=by or current_operator(), owner=owner)
        self._connections.tell_work()

    @property
    def _work(self) -> Work:
        return Work(ControlKind.BATCH, self.name, self._id)

    def retry(self, failed: bool = True, expired: bool = False) -> int:
        """Run failed jobs again, with their ids and keys, behind the waiting jobs of the batch.

        They start anew, with all their rounds and with a deadline as far from now as it was from the submit. Every
        attempt made before stays with its reason and its cost, and `latency_s` goes on counting from the submit.
        Readers of `results` get the new results after the old ones. Safe to interrupt: another call does the rest.

        Args:
            failed: run jobs again that ended as `failed`.
            expired: run jobs again that ended as `expired`.

        Returns:
            The number of jobs that run again.

        Raises:
            InvalidRequest: the batch was cancelled.
        """
        wanted = {JobState.FAILED: failed, JobState.EXPIRED: expired}
        states = {state for state, included in wanted.items() if included}
        store, classes = self._connections.store, self._connections.settings.classes
        with store.read() as connection:
            upto = retrying.begin_retry(connection, self._id)
        after = again = 0
        while True:
            with store.write() as connection:
                group = retrying.retry_group(
                    store, connection, self._id, states, classes=classes, after=after, upto=upto
                )
            if group is None:
                return again
            after, again = group.last, again + len(group.ids)
            self._connections.tell_work()

    def discard(self) -> int:
        """Delete a batch that never was complete, with its jobs, none of which ever ran. Its name is free then.

        Safe to interrupt: another call does the rest.

        Returns:
            The number of jobs deleted.

        Raises:
            InvalidRequest: it was complete once, so that its jobs may have run; `cancel` stops them.
            NotFound: there is no such batch any more.
        """
        return discarding.discard(self._connections.store, self.name)

    def accept(self) -> None:
        """Run an incomplete batch as it is, without the requests that were not accepted."""
        with self._connections.store.write() as connection:
            batches.open_batch(self._connections.store, connection, self._id)
        self._connections.tell_work()

    def _timed_out(self, message: str) -> ResultTimeout:
        from trivet.client.blocked import timed_out_batch  # as of a job

        return timed_out_batch(self._connections, self.progress(), message)

    def _page(self, after: int) -> tuple[int, list[Result]] | None:
        """Return the next results after a number, with the last of theirs; none when there will be no more.

        None when there are none yet.
        """
        with self._connections.store.read() as connection:
            rows = results.batch_page(connection, self._id, after, PAGE_JOBS)
            if not rows:
                if not batches.progress(connection, self.name).done:
                    return None
                rows = results.batch_page(connection, self._id, after, PAGE_JOBS)
            if not rows:  # nor has one ended between the two reads
                return after, []
            attempts = results.attempts_of(connection, [row.id for row in rows])
        return rows[-1].batch_seq or after, [to_result(row, attempts[row.id]) for row in rows]


def _with_requests(connections: Connections, page: Sequence[Result]) -> Iterator[Result]:
    """Yield the results with their requests, which are read in groups of a megabyte: one may have 32 MB."""
    by_id = {result.id: result for result in page}
    with connections.store.read() as connection:
        sizes = results.request_sizes(connection, list(by_id))
    for ids in groups(Candidate(job_id, 1, sizes.get(job_id, 0)) for job_id in by_id):
        with connections.store.read() as connection:
            bodies = results.request_bodies(connection, ids)
        for job_id in ids:
            yield add_request(by_id[job_id], bodies.get(job_id))
