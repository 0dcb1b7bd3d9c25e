"""Batches: the newest, the status of one, and why one does not move."""

from typing import NamedTuple

from trivet.admin.blocked import Blocked, blocked_batch
from trivet.client.connections import Connections
from trivet_store.jobs import batches
from trivet_store.jobs.batches import Progress
from trivet_store.reports import backlog


class BatchStatus(NamedTuple):
    """A batch at one moment."""

    progress: Progress
    jobs_per_s: float | None
    """Jobs that ended per second in the last minute; None when hardly any did."""
    left_s: float | None
    """Seconds until its last job ends, at this speed; None when it is done or the speed is not known."""
    blocked: Blocked


class Batches:
    """Reports on batches. A batch is cancelled, retried and read through `trivet.Client.batch`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def list(self, limit: int = 100) -> tuple[Progress, ...]:
        """Return the newest batches with their progress, newest first.

            running = [batch.name for batch in admin.batches.list() if not batch.done]

        Args:
            limit: batches at most.

        Raises:
            StoreUnavailable, SchemaMismatch: the database cannot be used.
        """
        with self._connections.store.read() as connection:
            return tuple(batches.latest(connection, limit))

    def progress(self, name: str) -> Progress:
        """Return the counts and the cost of a batch.

            admin.batches.progress("contracts").failed

        Raises:
            NotFound: there is no such batch.
        """
        with self._connections.store.read() as connection:
            return batches.progress(connection, name)

    def status(self, name: str) -> BatchStatus:
        """Return the progress of a batch, its speed, and why it does not move if it does not.

            status = admin.batches.status("contracts")
            print(status.progress.ended, status.left_s, *status.blocked.notes)

        Raises:
            NotFound: there is no such batch.
        """
        store = self._connections.store
        with store.read() as connection:
            progress = batches.progress(connection, name)
            speed = backlog.recent_speed(connection, name, store.now(connection))
        left_s = (progress.total - progress.ended) / speed if speed and not progress.done else None
        return BatchStatus(progress, speed, left_s, blocked_batch(self._connections, progress))

    def blocked(self, name: str) -> Blocked:
        """Return why a batch, or a part of it, does not move; empty where it does.

            if admin.batches.blocked("contracts").wrong:
                alert()

        Raises:
            NotFound: there is no such batch.
        """
        return blocked_batch(self._connections, self.progress(name))
