"""Health of a Trivet: impairments of its processes and servers, its backlog, and the events of its routes."""

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from trivet.admin.budgets import BudgetStatus, statuses
from trivet.admin.group import Group, known_route
from trivet.admin.happenings import Happenings, follow, past
from trivet.client.connections import Connections
from trivet.client.impairments import Impairment, read_impairments
from trivet_routing.liveness.process_impairments import Announced, announced
from trivet_store import events
from trivet_store.cluster import health, leases, registry
from trivet_store.cluster.leases import Lease
from trivet_store.events import Dropped, Event
from trivet_store.jobs import deliveries
from trivet_store.jobs.deliveries import AppDeliveries
from trivet_store.ledger import spending
from trivet_store.ledger.spending import Spent
from trivet_store.reports import backlog
from trivet_store.reports.backlog import BatchBacklog, ClassBacklog, RouteBacklog
from trivet_tasks.latency import Latency

_BATCHES = 15
_LIMITED = "route limited"


@dataclass(frozen=True, slots=True)
class Backlog:
    """The backlog as it was read last. If it is not current, `stale` says why; its figures are of `read_at`."""

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
    callbacks: tuple[AppDeliveries, ...] = ()
    """Callbacks (`on_done=`) that are on their way, by Celery application."""
    dropped: tuple[Dropped, ...] = ()
    """Messages and answers that were not acted on, counted since the database began."""
    read_at: float | None = None
    """The database's clock when it was read, seconds since the epoch; None: never."""
    stale: str = ""
    """Reason why it is not current."""

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


@dataclass(frozen=True, slots=True)
class FoldedEvent:
    """An event, with the number of repetitions before anything else happened to its route and model."""

    event: Event
    times: int = 1
    last_at: float = 0.0
    """Time of the last one, seconds since the epoch; 0 where it came once."""


class Health(Group):
    """Impairments of processes and servers, and the backlog."""

    def callbacks(self) -> tuple[AppDeliveries, ...]:
        """Return the callbacks (`on_done=`) that are on their way, and brokers that take none, by Celery application.

        waiting = {one.app: one.error for one in admin.health.callbacks() if one.failing_since}
        """
        with self._connections.store.read() as connection:
            return tuple(deliveries.on_their_way(connection))

    def impairments(self) -> tuple[Impairment, ...]:
        """Return all present impairments of processes and servers, the most general first.

            for one in admin.health.impairments():
                print(one.kind, one.text)

        A shared state that does not answer is one of them.
        """
        return read_impairments(self._connections.store, self._connections.settings, self._connections.redis)

    def announced(self) -> tuple[Announced, ...]:
        """Return the processes that announce in Redis that they do no work, by name.

        It needs no database: it tells which processes noticed that the database is away.

            for one in admin.health.announced():
                print(one.process, one.impairment)

        Raises:
            BrokerUnavailable: the shared state does not answer.
        """
        with self._connections.requires_redis():
            return tuple(announced(self._connections.redis))

    def forget(self, *routes: str) -> None:
        """Reset the health of routes: failures, pauses and learned limits. Notes no event.

        For tests that put a system back; an operator uses `admin.routes.restore`.

            admin.health.forget("bedrock-us-east-1")

        Raises:
            BrokerUnavailable: the shared state does not answer.
        """
        connections = self._connections
        with connections.requires_redis():
            for route in routes:
                connections.limits.forget(route)
        with connections.store.write() as connection:
            now = connections.store.now(connection)
            for route in routes:
                health.forget(connection, route, now)

    def backlog(self, *, batches: int = _BATCHES) -> Backlog:
        """Return the numbers of jobs waiting and under way, by class, batch and route, and the living processes.

            print(admin.health.backlog().waiting)

        Args:
            batches: number of batches at most, those with most waiting jobs first.
        """
        return _read_backlog(self._connections, batches)


class Events(Group):
    """Events of routes, and the live feed of what happens."""

    def list(self, *, since: float, route: str | None = None, limit: int = 200) -> tuple[Event, ...]:
        """Return the latest events, the newest last.

            for event in admin.events.list(since=time.time() - 3_600, route="anthropic"):
                print(event.at, event.kind, event.text)

        Args:
            since: seconds since the epoch.
            route: None: all routes.
            limit: number of events at most.

        Raises:
            NotFound: there is no such route.
        """
        if route is not None:
            known_route(self._connections, route)
        with self._connections.store.read() as connection:
            return tuple(events.latest(connection, since=since, route=route, limit=limit))

    def past(self, after: int) -> Happenings:
        """Return the events that were recorded after the one of this id, the newest 1,000 at most.

        [one.what.text for one in admin.events.past(last_id)]
        """
        return past(self._connections, after)

    def follow(self, stop: threading.Event) -> Iterator[Happenings]:
        """Yield what happens from now on, in groups: ends of jobs and batches, and events. Blocks until `stop` is set.

            for group in admin.events.follow(stop):
                print([one.what for one in group])

        Ends of jobs are not told while the shared state or the database is away. Events are told later.
        """
        return follow(self._connections, stop)


def _read_backlog(connections: Connections, batches: int) -> Backlog:
    """Read the backlog: SQL over living jobs, and two round trips to the shared state for its impairments."""
    store = connections.store
    wrong = read_impairments(store, connections.settings, connections.redis)
    with store.read() as connection:
        now, known = store.now(connection), registry.registered(store, connection)
        classes = backlog.by_class(connection)
        return Backlog(
            classes=tuple(sorted(classes, key=lambda row: list(Latency).index(Latency(row.latency)))),
            batches=tuple(backlog.by_batch(connection, batches)),
            routes=tuple(backlog.by_route(connection)),
            drained={name: route.drained for name, route in known.items()},
            leases=tuple(leases.living(store, connection)),
            schedulers=tuple(leases.schedulers(store, connection)),
            impairments=wrong,
            spent=spending.by_route(connection, now),
            budgets=statuses(connection, known, now, connections.directory.costs),
            callbacks=tuple(deliveries.on_their_way(connection)),
            dropped=tuple(events.drops(connection)),
            read_at=now,
        )


def folded(events: Iterable[Event]) -> tuple[FoldedEvent, ...]:
    """Return the events with repeated pauses of one route and model as one.

    >>> pause = Event(10.0, "route limited", "vertex", "claude-sonnet-5-5", "for 2 s")
    >>> [(one.times, one.last_at) for one in folded([pause, pause._replace(at=12.0)])]
    [(2, 12.0)]
    """
    entries: list[FoldedEvent] = []
    latest: dict[tuple[str | None, str | None], int] = {}
    for event in events:
        about = (event.route, event.model)
        at = latest.get(about)
        if at is not None and event.kind == _LIMITED == entries[at].event.kind:
            entries[at] = replace(entries[at], times=entries[at].times + 1, last_at=event.at)
            continue
        latest[about] = len(entries)
        entries.append(FoldedEvent(event))
    return tuple(entries)
