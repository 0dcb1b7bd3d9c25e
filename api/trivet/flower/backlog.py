"""What waits in Trivet, read for Flower's pages: beside its event loop, and no more often than is cheap."""

import asyncio
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from trivet.admin.budget_status import BudgetStatus, statuses
from trivet.admin.impairments import Impairment, read_impairments
from trivet_routing.most_costs import MostCosts
from trivet_store.database.engine import Store
from trivet_store.fleet.leases import Lease, living, schedulers
from trivet_store.fleet.registry import registered
from trivet_store.ledger.spending import Spent
from trivet_store.ledger.spending import by_route as by_route_spent
from trivet_store.migrations.schema_version import ensure
from trivet_store.reports.backlog import BatchBacklog, ClassBacklog, RouteBacklog, by_batch, by_class, by_route
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import StoreError
from trivet_tasks.latency import Latency
from trivet_tasks.shared_state import connect

log = logging.getLogger("trivet.flower")

BATCHES = 15
"""How many batches a page lists, those with most waiting jobs first."""
PATIENCE_S = 3.0
"""How long a page waits for the database before it does without."""
STALE_S = 30.0
"""Figures up to this age are shown without a word while newer ones take their time."""
LEAST_PAUSE_S = 1.0
PAUSE_FACTOR = 5
"""Reads are at least a second apart, and at least this many times as long as the last one took, so that open pages and
scrapes together cost the database a sixth of its time at most, however large the backlog."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the database said last. `trouble` says why it is not current; the figures are then those of `read_at`."""

    classes: tuple[ClassBacklog, ...] = ()
    batches: tuple[BatchBacklog, ...] = ()
    routes: tuple[RouteBacklog, ...] = ()
    drained: Mapping[str, bool] = field(default_factory=dict)
    """Every route that schedulers and workers made known, and whether it is taken out of service."""
    leases: tuple[Lease, ...] = ()
    schedulers: tuple[Lease, ...] = ()
    impairments: tuple[Impairment, ...] = ()
    """Impairments of processes and servers."""
    spent: Mapping[str, Spent] = field(default_factory=dict)
    """What the calls of today (UTC) cost so far, by route."""
    budgets: tuple[BudgetStatus, ...] = ()
    read_at: float | None = None
    """The database's clock when it was read, seconds since the epoch; None: never."""
    trouble: str = ""

    @property
    def waiting(self) -> int:
        """Jobs that no route has yet."""
        return sum(row.total for row in self.classes)

    @property
    def dispatched(self) -> int:
        """Jobs in the queues of routes."""
        return sum(row.dispatched for row in self.routes)

    @property
    def running(self) -> int:
        """Jobs that a worker has taken up."""
        return sum(row.running for row in self.routes)

    @property
    def oldest_at(self) -> float | None:
        """When the oldest waiting job was submitted."""
        return min((row.oldest_at for row in self.classes), default=None)

    def age_s(self, at: float | None) -> float | None:
        """Seconds between that moment and the reading."""
        return None if at is None or self.read_at is None else max(0.0, self.read_at - at)


class BacklogReader:
    """Reads the backlog in a thread of its own. `latest` is for one event loop; calls at the same time share one read."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._redis = connect(settings.redis_url)
        self._store: Store | None = None
        self._costs = MostCosts()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trivet-backlog")
        self._last = Backlog()
        self._next_at = 0.0
        self._read_until = -STALE_S
        self._reading: asyncio.Task[None] | None = None

    @property
    def last(self) -> Backlog:
        """What was read last, without waiting."""
        return self._last

    async def latest(self) -> Backlog:
        """The backlog, at most a few seconds old. Never raises: where the database is away, `trouble` says so."""
        if self._reading is None and time.monotonic() >= self._next_at:
            self._reading = asyncio.create_task(self._refresh())
        reading = self._reading
        if reading is not None:
            await asyncio.wait({reading}, timeout=PATIENCE_S)
            if not reading.done() and time.monotonic() - self._read_until > STALE_S:
                return replace(self._last, trouble=f"The database has not answered for {PATIENCE_S:g} s.")
        return self._last

    def close(self) -> None:
        """Start no further read; one under way is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _refresh(self) -> None:
        began = time.monotonic()
        try:
            self._last = await asyncio.get_running_loop().run_in_executor(self._thread, self._read)
        finally:
            ended = self._read_until = time.monotonic()
            self._next_at = ended + max(LEAST_PAUSE_S, PAUSE_FACTOR * (ended - began))
            self._reading = None

    def _read(self) -> Backlog:
        try:
            return self._read_all(self._open())
        except StoreError as error:
            return replace(self._last, trouble=str(error))
        except Exception as error:  # a page without figures is better than none
            log.exception("the backlog cannot be read")
            return replace(
                self._last, trouble=f"The backlog cannot be read ({type(error).__name__}); see Flower's log."
            )

    def _open(self) -> Store:
        if self._store is None:
            store = Store(self._settings.store_url)
            ensure(store)
            self._store = store
        return self._store

    def _read_all(self, store: Store) -> Backlog:
        wrong = read_impairments(store, self._settings, self._redis)
        with store.read() as connection:
            return Backlog(
                classes=tuple(sorted(by_class(connection), key=lambda row: list(Latency).index(Latency(row.latency)))),
                batches=tuple(by_batch(connection, BATCHES)),
                routes=tuple(by_route(connection)),
                drained={name: route.drained for name, route in registered(store, connection).items()},
                leases=tuple(living(store, connection)),
                schedulers=tuple(schedulers(store, connection)),
                impairments=wrong,
                spent=by_route_spent(connection, store.now(connection)),
                budgets=statuses(store, connection, self._costs),
                read_at=store.now(connection),
            )
