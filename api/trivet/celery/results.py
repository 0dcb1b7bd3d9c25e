"""Celery's result backend over Trivet's database: a task id is the id of a job, a group's id the name of a batch.

It is read only. Waiting is pushed: a notice wakes who waits, and the database decides.
"""

import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeAlias

from celery import states
from celery.backends.base import BaseBackend
from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as CeleryTimeout
from celery.result import AsyncResult, ResultSet

from trivet.celery.batch_result import BatchResult
from trivet.celery.failures import JobFailed
from trivet.client.result import Result
from trivet_store.reports.results import JobRow
from trivet_tasks.errors import NotFound, ResultTimeout
from trivet_tasks.states import END_STATES, JobState

Meta: TypeAlias = dict[str, Any]
"""Values that Celery knows of a task: `status`, `result`, `traceback`, `date_done`, `task_id`."""


class ResultBackend(BaseBackend):  # type: ignore[misc] # Celery has no types
    """Reads the state and the result of jobs. A result is a `trivet.Result`: `.text`, `.message`, `.usage`, `.cost_usd`."""

    supports_native_join = True

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Any = None,
    ) -> Meta:
        """Wait for the end of a job, and return its values for Celery.

        Raises:
            celery.exceptions.TimeoutError: it has not ended within `timeout` seconds. The text says why.
            NotFound: there is no such job.
        """
        del interval, no_ack, on_interval  # nothing is polled
        try:
            result = self.app.trivet_client.job(task_id).result(timeout)
        except ResultTimeout as error:
            raise CeleryTimeout(str(error)) from error
        except NotFound as error:
            if self._is_batch(task_id):
                raise NotFound(
                    f"{task_id!r} is no job but a batch.", hint=f"Use GroupResult.restore({task_id!r}, app=app)."
                ) from None
            raise error
        return _meta_of_result(result)

    def iter_native(
        self, result: ResultSet, timeout: float | None = None, *_: Any, **__: Any
    ) -> Iterator[tuple[str, Meta]]:
        """Yield the values of all jobs of a set, those of a batch as they end.

        Args:
            timeout: seconds for all of them together.

        Raises:
            celery.exceptions.TimeoutError: they have not all ended by then. The text says why.
        """
        until = None if timeout is None else time.monotonic() + timeout
        wanted = [each.id for each in result.results]
        if isinstance(result, BatchResult):
            yield from self._of_batch(result, set(wanted), until)
        else:
            yield from self._one_by_one(wanted, until)

    def get_many(
        self, task_ids: Iterable[str], timeout: float | None = None, *_: Any, **__: Any
    ) -> Iterator[tuple[str, Meta]]:
        """Yield the values of these jobs as `iter_native` does."""
        return self._one_by_one(task_ids, None if timeout is None else time.monotonic() + timeout)

    def restore_group(self, group_id: str, cache: bool = True) -> BatchResult | None:
        """Return the results of a batch, in the order of its requests; None when there is no such batch."""
        del cache
        try:
            ids = self.app.trivet_client.batch(group_id).job_ids()
        except NotFound:
            return None
        return BatchResult(group_id, [AsyncResult(job_id, app=self.app) for job_id in ids], app=self.app)

    def save_group(self, group_id: str, *_: Any) -> None:
        """Do nothing for a batch, which is in the database; refuse any other group."""
        if not self._is_batch(group_id):
            raise NotImplementedError(f"{group_id} was not saved: a group is a batch, made by `submit_many`")

    def delete_group(self, group_id: str) -> None:
        """Refuse, as `forget`."""
        self.forget(group_id)

    def task_result_exists(self, task_id: str) -> bool:
        """Return whether there is such a job, whether it has ended or not."""
        try:
            self.app.trivet_client.job(task_id)
        except NotFound:
            return False
        return True

    def store_result(self, task_id: str, *_: Any, **__: Any) -> None:
        """Refuse: only Trivet's workers write results."""
        raise NotImplementedError(f"the result of {task_id} was not stored: only Trivet's workers write results")

    def forget(self, task_id: str) -> None:
        """Refuse: `trivet db prune` and `[retention]` delete results."""
        raise NotImplementedError(
            f"{task_id} was not forgotten: `trivet db prune` and `[retention]` delete results of a certain age"
        )

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> tuple[Any, ...]:
        del args, kwargs
        return _backend_of, (self.app,)

    def _is_batch(self, name: str) -> bool:
        try:
            self.app.trivet_client.batch(name)
        except NotFound:
            return False
        return True

    def _of_batch(self, group: BatchResult, wanted: set[str], until: float | None) -> Iterator[tuple[str, Meta]]:
        batch = group.batch
        if until is None:
            ended = batch.results()
        else:
            try:
                batch.wait(max(0.0, until - time.monotonic()))
            except ResultTimeout as error:
                raise CeleryTimeout(str(error)) from error
            ended = batch.ended()
        for result in ended:
            if result.id in wanted:
                wanted.discard(result.id)
                yield result.id, _meta_of_result(result)
        yield from self._one_by_one(wanted, until)  # added to the group, or retried meanwhile

    def _one_by_one(self, ids: Iterable[str], until: float | None) -> Iterator[tuple[str, Meta]]:
        for job_id in ids:
            yield job_id, self.wait_for(job_id, None if until is None else max(0.0, until - time.monotonic()))

    def _get_task_meta_for(self, task_id: str) -> Meta:
        """Return a job's values for Celery. As with any backend, an id that nobody knows is PENDING."""
        try:
            job = self.app.trivet_client.job(task_id)
        except NotFound:
            return _meta(task_id, states.PENDING)
        row = job.look()
        return _meta_of_result(job.result(timeout=0)) if row.state in END_STATES else _meta_of_waiting(row)


def _backend_of(app: Any) -> "ResultBackend":
    found: ResultBackend = app.backend
    return found


def _meta_of_waiting(row: JobRow) -> Meta:
    if row.state == JobState.RUNNING:
        return _meta(row.id, states.STARTED)
    if row.last_outcome is None:
        return _meta(row.id, states.PENDING)
    said = row.last_error or f"the last call ended as {row.last_outcome}"
    return _meta(row.id, states.RETRY, JobFailed(row.id, said, row.last_outcome.value), traceback=said)


def _meta_of_result(result: Result) -> Meta:
    done = {"date_done": datetime.fromtimestamp(result.ended_at, UTC)}
    if result.succeeded:
        return _meta(result.id, states.SUCCESS, result, **done)
    said = result.error.message if result.error else "The job succeeded, and its result was deleted (`[retention]`)."
    if result.status == JobState.CANCELLED.value:
        return _meta(result.id, states.REVOKED, TaskRevokedError(said), traceback=said, **done)
    failed = JobFailed(result.id, said, result.error.outcome if result.error else None)
    return _meta(result.id, states.FAILURE, failed, traceback=said, **done)


def _meta(job_id: str, status: str, result: object = None, **more: Any) -> Meta:
    return {"task_id": job_id, "status": status, "result": result, "traceback": None, "children": [], **more}
