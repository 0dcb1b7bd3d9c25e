"""The backlog: jobs that wait or are under way, the processes that do them, and today's spending."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trivet.admin.budget_status import BudgetStatus, statuses
from trivet.admin.impairments import Impairment, read_impairments
from trivet_store.cluster.leases import Lease, living, schedulers
from trivet_store.cluster.registry import registered
from trivet_store.ledger.spending import Spent
from trivet_store.ledger.spending import by_route as spent_by_route
from trivet_store.reports.backlog import BatchBacklog, ClassBacklog, RouteBacklog, by_batch, by_class, by_route
from trivet_tasks.latency import Latency

if TYPE_CHECKING:
    from trivet.client.connections import Connections


@dataclass(frozen=True, slots=True)
class Backlog:
    """The backlog as it was read last. If it is not current, `impairment` says why; its figures are of `read_at`."""

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
    """Cost of the calls of today (UTC) so far, by route."""
    budgets: tuple[BudgetStatus, ...] = ()
    read_at: float | None = None
    """The database's clock when it was read, seconds since the epoch; None: never."""
    impairment: str = ""

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
        """Jobs that a worker has claimed."""
        return sum(row.running for row in self.routes)

    @property
    def oldest_at(self) -> float | None:
        """Time when the oldest waiting job was submitted, seconds since the epoch."""
        return min((row.oldest_at for row in self.classes), default=None)

    def age_s(self, at: float | None) -> float | None:
        """Return the seconds between that moment and the reading."""
        return None if at is None or self.read_at is None else max(0.0, self.read_at - at)


def read_backlog(connections: "Connections", batches: int) -> Backlog:
    """Read the backlog: SQL over living jobs, and two round trips to the shared state for its impairments."""
    store = connections.store
    wrong = read_impairments(store, connections.settings, connections.redis)
    with store.read() as connection:
        return Backlog(
            classes=tuple(sorted(by_class(connection), key=lambda row: list(Latency).index(Latency(row.latency)))),
            batches=tuple(by_batch(connection, batches)),
            routes=tuple(by_route(connection)),
            drained={name: route.drained for name, route in registered(store, connection).items()},
            leases=tuple(living(store, connection)),
            schedulers=tuple(schedulers(store, connection)),
            impairments=wrong,
            spent=spent_by_route(connection, store.now(connection)),
            budgets=statuses(store, connection, connections.directory.costs),
            read_at=store.now(connection),
        )
