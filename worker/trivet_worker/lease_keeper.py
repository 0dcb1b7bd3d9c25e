"""Keeping this process's lease: a heartbeat a second, whose reply says which calls to drop."""

import logging
import threading
from collections.abc import Callable, Sequence

from uuid_utils import uuid7

from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.settings import LeaseSettings
from trivet_tasks.store import leases
from trivet_tasks.store.engine import Store

log = logging.getLogger("trivet.lease")


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
        in_flight: Callable[[], int],
        trouble: Callable[[], str | None],
        on_cancel: Callable[[Sequence[str]], None],
    ) -> None:
        self._store = store
        self._settings = settings
        self._worker = worker
        self._lane = lane
        self._routes = routes
        self._slots = slots
        self._in_flight = in_flight
        self._trouble = trouble
        self._on_cancel = on_cancel
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="trivet-lease", daemon=True)
        self.id = ""

    def start(self) -> None:
        """Open the lease; raises StoreUnavailable when that fails. Then keep it in a thread."""
        self._open()
        self._thread.start()

    def close(self) -> None:
        """Take the lease back: this process holds no job any more."""
        self._stopping.set()
        self._thread.join(timeout=10)
        try:
            with self._store.write() as connection:
                leases.close(connection, self.id)
        except StoreUnavailable as error:
            log.warning("the lease could not be taken back, it runs out by itself: %s", error)

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
            )
        self.id = lease_id

    def _keep(self) -> None:
        while not self._stopping.wait(self._settings.heartbeat_s):
            try:
                with self._store.write() as connection:
                    renewal = leases.renew(
                        self._store, connection, self.id, self._in_flight(), self._trouble(), self._settings.ttl_s
                    )
                if not renewal.held:
                    log.warning("the lease %s ran out; going on under a new one", self.id)
                    self._open()
                if renewal.cancelled:
                    self._on_cancel(renewal.cancelled)
            except StoreUnavailable as error:
                log.error("no heartbeat: %s", error)
