"""A batch as Celery's group: its state is read from the batch's counters, and its results come in pages."""

from typing import Any

from celery.result import GroupResult

from trivet.client.jobs import Batch
from trivet_store.jobs.batches import Progress


class BatchResult(GroupResult):  # type: ignore[misc] # Celery has no types
    """The results of a batch, in the order of its requests.

    The counts are of the batch, and need one read however many jobs it has; Celery would ask for each job.

    Example:
        group = GroupResult.restore("contracts", app=trivet.celery.app)
        print(group.completed_count(), "of", len(group))
    """

    @property
    def batch(self) -> Batch:
        """The batch. NotFound when it is gone."""
        found: Batch = self.app.trivet_client.batch(self.id)
        return found

    @property
    def _progress(self) -> Progress:
        return self.batch.progress()

    def completed_count(self) -> int:
        """Return the number of jobs that succeeded."""
        return self._progress.succeeded

    def ready(self) -> bool:
        """Return whether every job has ended."""
        return self._progress.done

    def waiting(self) -> bool:
        """Return whether a job has not ended yet."""
        return not self.ready()

    def successful(self) -> bool:
        """Return whether every job succeeded."""
        progress = self._progress
        return progress.done and progress.succeeded == progress.total

    def failed(self) -> bool:
        """Return whether a job failed or expired."""
        progress = self._progress
        return progress.failed + progress.expired > 0

    def revoke(self, *_: Any, **__: Any) -> None:
        """Cancel the batch: what waits ends at once, and what runs within about two seconds."""
        self.batch.cancel()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.app, self.id)


def _restored(app: Any, name: str) -> GroupResult | None:
    return GroupResult.restore(name, app=app)
