"""A worker's lease: each heartbeat carries what was dropped; its reply names calls to drop, and jobs that run in SQL only."""

import logging
import time
from collections.abc import Callable, Sequence

from sqlalchemy import Connection

from trivet_routing.liveness.heartbeat import Heartbeat, Holder
from trivet_store import events
from trivet_store.cluster.leases import Renewal
from trivet_store.jobs import rescuing
from trivet_worker.run.context import WorkerContext

log = logging.getLogger("trivet.lease")

STRAY_S = 5.0
"""Time for which a job may run in SQL alone: a claim's commit and its answer are milliseconds apart."""


class LeaseKeeper:
    """The heartbeat of a worker, and the actions on its replies."""

    def __init__(self, context: WorkerContext, holder: Holder, on_cancel: Callable[[Sequence[str]], None]) -> None:
        """Prepare; no lease is opened yet.

        Args:
            on_cancel: called with the jobs whose calls are to be dropped.
        """
        self._store = context.store
        self._in_progress = context.in_progress
        self._strays: dict[str, float] = {}
        self._drops = context.drops
        self._on_cancel = on_cancel
        self._heartbeat = Heartbeat(
            context.store,
            context.settings.leases,
            holder,
            context.process_impairments,
            in_flight=lambda: context.slots.in_use,
            impaired=context.impairments.by_kind,
            write_also=self._write_drops,
            on_renewed=self._renewed,
        )

    @property
    def id(self) -> str:
        """The lease held now; empty before the start."""
        return self._heartbeat.id

    def start(self) -> None:
        """Open the lease; raises StoreUnavailable when that fails. Then keep it in a thread."""
        self._heartbeat.start()

    def beat_soon(self) -> None:
        """Send a heartbeat now, rather than within a second."""
        self._heartbeat.beat_soon()

    def close(self) -> int:
        """Release the lease. Jobs that it still holds wait again. Returns their number.

        Raises:
            StoreUnavailable: the lease runs out by itself, and its jobs are rescued then.
        """
        return self._heartbeat.close()

    def _write_drops(self, connection: Connection) -> Callable[[], None]:
        counts = self._drops.unwritten()
        events.count_drops(self._store, connection, counts, self._drops.why)
        return lambda: self._drops.written(counts)

    def _renewed(self, renewal: Renewal) -> None:
        if not renewal.held:
            self._strays.clear()
            return
        if renewal.cancelled:
            self._on_cancel(renewal.cancelled)
        self._return_strays(renewal.running)

    def _return_strays(self, running: Sequence[str]) -> None:
        """Put back jobs that run under this lease in SQL but are not in progress in this process."""
        unknown = self._in_progress.without(running)
        now = time.monotonic()
        self._strays = {job_id: self._strays.get(job_id, now) for job_id in unknown}
        stray = [job_id for job_id, since in self._strays.items() if now - since > STRAY_S]
        if stray:
            log.warning("%d jobs that nobody was running go back to waiting", len(stray))
            with self._store.write() as connection:
                rescuing.put_back_strays(connection, self.id, stray)
