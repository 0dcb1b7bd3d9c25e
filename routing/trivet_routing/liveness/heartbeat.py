"""Heartbeat of a process's lease: one UPDATE a second, by which all others know that it is alive.

Workers and schedulers have one each. A lease that was lost (the process slept, the database was away) is opened anew.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection
from uuid_utils import uuid7

from trivet_routing.liveness.process_impairments import DATABASE, ProcessImpairments
from trivet_store.cluster import leases
from trivet_store.database.engine import Store
from trivet_store.jobs import rescuing
from trivet_tasks.config.settings import LeaseSettings
from trivet_tasks.errors import StoreUnavailable, place_of

log = logging.getLogger("trivet.lease")


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that a lease announces."""

    process: str
    part: str
    """`worker` or `scheduler`."""
    lane: str = ""
    routes: Sequence[str] = ()
    slots: int = 0
    origin: str = ""
    """See `leases.Lease`."""


class Heartbeat:
    """One lease at a time, renewed by a thread of its own.

    Args:
        in_flight: returns the number of calls under way.
        impaired: returns the reasons why no work of some routes is taken, by route and kind.
        write_also: writes something with each renewal, in its transaction; returns a function to call after the commit.
        on_renewed: called after each renewal, also after one that found the lease gone.
    """

    def __init__(
        self,
        store: Store,
        settings: LeaseSettings,
        holder: Holder,
        process_impairments: ProcessImpairments,
        *,
        in_flight: Callable[[], int] = lambda: 0,
        impaired: Callable[[], Mapping[str, Mapping[str, str]]] = dict,
        write_also: Callable[[Connection], Callable[[], None]] = lambda _: lambda: None,
        on_renewed: Callable[[leases.Renewal], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._holder = holder
        self._process_impairments = process_impairments
        self._in_flight = in_flight
        self._impaired = impaired
        self._write_also = write_also
        self._on_renewed = on_renewed
        self._stopping = threading.Event()
        self._soon = threading.Event()
        self._renewing = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="trivet-lease", daemon=True)
        self.id = ""
        """The lease held now; empty before the start."""

    def start(self) -> None:
        """Open the lease; raises StoreUnavailable when that fails. Then keep it in a thread."""
        self._open()
        self._thread.start()

    def beat_soon(self) -> None:
        """Renew the lease at once, with the present state of this process."""
        self._soon.set()

    def close(self) -> int:
        """Release the lease. Jobs that it still holds wait again. Returns their number.

        Raises:
            StoreUnavailable: the lease runs out by itself, and its jobs are rescued then.
        """
        self._stopping.set()
        self._soon.set()
        if not self.id:
            return 0
        with self._renewing, self._store.write() as connection:
            self._write_also(connection)
            return rescuing.release(self._store, connection, self.id)

    def _open(self) -> None:
        lease_id = uuid7().hex
        holder = self._holder
        with self._store.write() as connection:
            leases.is_back(connection, holder.process)
            leases.open_lease(
                self._store,
                connection,
                lease_id,
                holder.process,
                holder.lane,
                holder.routes,
                holder.slots,
                self._settings.ttl_s,
                holder.part,
                holder.origin,
                self._impaired(),
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
                self._process_impairments.over(DATABASE, "lease")
            except StoreUnavailable as error:
                self._process_impairments.note(DATABASE, "lease", str(error))
            except Exception as error:  # without heartbeats every job here would run twice
                log.error("a heartbeat failed by a fault of Trivet's own: %s", place_of(error))

    def _beat(self) -> None:
        with self._renewing:
            if self._stopping.is_set():
                return
            with self._store.write(urgent=True) as connection:
                committed = self._write_also(connection)
                renewal = leases.renew(
                    self._store,
                    connection,
                    self.id,
                    self._in_flight(),
                    self._process_impairments.text,
                    self._settings.ttl_s,
                    self._impaired(),
                )
            committed()
            if not renewal.held:
                before = self.id
                self._open()
                log.warning("the lease %s ran out; going on under a new one", before)
        self._on_renewed(renewal)
