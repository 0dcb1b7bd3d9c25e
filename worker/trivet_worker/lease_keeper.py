"""Keeping this process's lease: a heartbeat a second, whose reply says which calls to drop."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from uuid_utils import uuid7

from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.faults import place_of
from trivet_tasks.settings import LeaseSettings
from trivet_tasks.store import leases, leaving
from trivet_tasks.store.engine import Store
from trivet_tasks.troubles import DATABASE, Troubles
from trivet_worker.holdings import Holdings
from trivet_worker.route_impairments import RouteImpairments

log = logging.getLogger("trivet.lease")

STRAY_S = 5.0
"""How long a job may run by SQL alone: between a take-up's commit and its answer lie milliseconds."""


class LeaseKeeper:
    """One lease at a time. When it was lost (the process slept, the database was away) a new one is opened."""

    def __init__(
        self,
        store: Store,
        settings: LeaseSettings,
        *,
        worker: str,
        lane: str,
        routes: Sequence[str],
        slots: int,
        holdings: Holdings,
        in_flight: Callable[[], int],
        troubles: Troubles,
        impairments: RouteImpairments,
        on_cancel: Callable[[Sequence[str]], None],
    ) -> None:
        self._store = store
        self._settings = settings
        self._worker = worker
        self._lane = lane
        self._routes = routes
        self._slots = slots
        self._holdings = holdings
        self._strays: dict[str, float] = {}
        self._in_flight = in_flight
        self._troubles = troubles
        self._impairments = impairments
        self._on_cancel = on_cancel
        self._stopping = threading.Event()
        self._soon = threading.Event()
        self._renewing = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="trivet-lease", daemon=True)
        self.id = ""

    def start(self) -> None:
        """Open the lease; raises StoreUnavailable when that fails. Then keep it in a thread."""
        self._open()
        self._thread.start()

    def beat_soon(self) -> None:
        """Say now, not within a second, how things stand here."""
        self._soon.set()

    def close(self) -> int:
        """Take the lease back. Jobs that it still holds wait again. Returns their number.

        Raises:
            StoreUnavailable: the lease runs out by itself, and its jobs are rescued then.
        """
        self._stopping.set()
        self._soon.set()
        if not self.id:
            return 0
        with self._renewing, self._store.write() as connection:
            return leaving.lay_down(self._store, connection, self.id)

    def _open(self) -> None:
        lease_id = uuid7().hex
        with self._store.write() as connection:
            leases.open_lease(
                self._store,
                connection,
                lease_id,
                self._worker,
                self._lane,
                self._routes,
                self._slots,
                self._settings.ttl_s,
                self._impairments.current(),
            )
        self.id = lease_id

    def _keep(self) -> None:
        while True:
            self._soon.wait(self._settings.heartbeat_s)
            self._soon.clear()
            if self._stopping.is_set():
                return
            try:
                self._beat()
                self._troubles.over(DATABASE, "lease")
            except StoreUnavailable as error:
                self._troubles.note(DATABASE, "lease", str(error))
            except Exception as error:  # without heartbeats every job here would run twice
                log.error("a heartbeat failed by a fault of Trivet's own: %s", place_of(error))

    def _beat(self) -> None:
        with self._renewing:
            if self._stopping.is_set():
                return
            with self._store.write(urgent=True) as connection:
                renewal = leases.renew(
                    self._store,
                    connection,
                    self.id,
                    self._in_flight(),
                    self._troubles.text,
                    self._settings.ttl_s,
                    self._impairments.current(),
                )
            if not renewal.held:
                before = self.id
                self._strays.clear()
                self._open()
                log.warning("the lease %s ran out; going on under a new one", before)
                return
        if renewal.cancelled:
            self._on_cancel(renewal.cancelled)
        self._return_strays(renewal.running)

    def _return_strays(self, running: Sequence[str]) -> None:
        """Put back jobs that run under this lease by SQL, and of which this process knows nothing."""
        unknown = self._holdings.without(running)
        now = time.monotonic()
        self._strays = {job_id: self._strays.get(job_id, now) for job_id in unknown}
        lost = [job_id for job_id, since in self._strays.items() if now - since > STRAY_S]
        if lost:
            log.warning("%d jobs that nobody was running go back to waiting", len(lost))
            with self._store.write() as connection:
                leases.put_back(connection, self.id, lost)
