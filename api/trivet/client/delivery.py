"""A delivery from the side of its task: the run that a callback began, and its end."""

from collections.abc import Mapping
from typing import Any

from trivet.client.client import Client
from trivet.client.jobs import Batch, Job
from trivet_store.jobs import deliveries
from trivet_store.reports import results
from trivet_tasks.errors import InvalidRequest


class Delivery:
    """A confirmed callback that came to its task.

    Example:
        delivery = Delivery(client, "save", notice)  # the callback's name, and its first argument
        if delivery.begin(seconds=60):
            save(delivery.job.result())
            delivery.confirm()
    """

    def __init__(self, client: Client, name: str, notice: Mapping[str, Any]) -> None:
        """Nothing is read yet, except the id of a batch.

        Args:
            notice: first argument of the callback; has the id of a job, or else the name of a batch.

        Raises:
            InvalidRequest: `notice` is no notice of a callback.
            NotFound: there is no such batch.
        """
        self._connections = client._connections
        self.name = name
        job_id = notice.get("job") if isinstance(notice, Mapping) else None
        batch = notice.get("batch") if isinstance(notice, Mapping) else None
        if isinstance(job_id, str):
            self.job: Job | None = Job(self._connections, job_id)
            self.batch: Batch | None = None
        elif isinstance(batch, str):
            self.job, self.batch = None, client.batch(batch)
        else:
            raise InvalidRequest("The first argument of the task is no notice of a callback.")

    def begin(self, seconds: float) -> bool:
        """Take it for a run of so many seconds. False when it is confirmed, another run has it, or its job goes on."""
        store = self._connections.store
        with store.write() as connection:
            return deliveries.begin(store, connection, self._owner, self.name, seconds)

    def confirm(self) -> None:
        """Note that the run is done: the callback is not sent again."""
        with self._connections.store.write() as connection:
            deliveries.confirm(connection, self._owner, self.name)

    @property
    def retries(self) -> int:
        """Number of times that the job was run again after an end."""
        assert self.job is not None
        with self._connections.store.read() as connection:
            return len(results.retries_of(connection, self.job.id))

    @property
    def _owner(self) -> str | int:
        if self.job is not None:
            return self.job.id
        assert self.batch is not None
        return self.batch._id
