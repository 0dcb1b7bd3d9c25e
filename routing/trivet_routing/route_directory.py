"""The current state of all routes: registered ones, living workers, breakers. Read often, so cached briefly."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from cachetools import LRUCache
from sqlalchemy import Connection

from trivet_routing.answer_paces import AnswerPaces
from trivet_routing.limits import Limits
from trivet_routing.permits import BreakerView, Quota
from trivet_routing.route_choice import Candidate
from trivet_store.cluster.leases import Lease, living, taking_work
from trivet_store.cluster.registry import RegisteredRoute, registered
from trivet_store.database.engine import Store
from trivet_store.ledger import budgets
from trivet_store.reports.attempts import UsedOutput, used_output
from trivet_tasks.config.route_windows import RouteWindow, window_at
from trivet_tasks.latency import Lane, Latency
from trivet_tasks.prices.cost_model import CallCost, CostModel
from trivet_tasks.requests.eligibility import day_of, name_on_wire, retired_on

FRESH_S = 1.0
"""Maximum age of the SQL part in seconds: a drain or a new worker is seen by all processes within this time."""
USUAL_SHARE = 0.5
"""Share of `max_tokens` assumed to be used while no answer of a kind is known."""
LENGTHS_FRESH_S = 10.0
LATEST_CALLS = 2_000
LATEST_WITHIN_S = 3_600.0
ENOUGH_CALLS = 20
"""Minimum number of answers from which a share is learned."""
MAX_KEPT = 1_000


@dataclass(frozen=True, slots=True)
class RouteSnapshot:
    """The SQL part: routes and the workers that serve them."""

    routes: dict[str, RegisteredRoute]
    """Routes by name, with the weight and the priority of the hour."""
    leases: tuple[Lease, ...]
    read_at: float
    windows: Mapping[str, RouteWindow] = field(default_factory=dict)
    """Windows that hold now, by route."""
    budgets: bool = False
    """True if there is any budget."""

    def lanes(self, route: str) -> frozenset[str]:
        """Return the lanes in which a living worker serves the route and takes work."""
        return frozenset(lease.lane for lease in self.leases if lease.takes(route))

    def serves_elsewhere(self, route: str, origin: str, lane: Lane | None) -> bool:
        """Return whether a worker of another origin takes the route's work, of this lane if one is named."""
        return any(
            lease.origin != origin and lease.takes(route) and lane in (None, lease.lane) for lease in self.leases
        )

    def slots(self, route: str, lane: str) -> int:
        """Return the calls that the route's living workers of a lane can have in flight together."""
        return sum(lease.slots for lease in self.leases if lease.lane == lane and lease.takes(route))


class AnswerLengths:
    """Expected share of `max_tokens` that an answer uses, learned from the latest answers of its kind.

    Reads the latest calls every ten seconds at most, when asked to. One per process; safe between threads.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._flows: LRUCache[int, float] = LRUCache(MAX_KEPT)
        self._kinds: LRUCache[tuple[str, Latency | None], float] = LRUCache(MAX_KEPT)
        self._read_at: float | None = None
        self._reading = threading.Lock()
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Read them again if it is time. StoreUnavailable."""
        with self._reading:
            if self._read_at is not None and time.monotonic() - self._read_at < LENGTHS_FRESH_S:
                return
            with self._store.read() as connection:
                found = used_output(connection, self._store.now(connection) - LATEST_WITHIN_S, LATEST_CALLS)
            self._read_at = time.monotonic()
            self.learn(found)

    def learn(self, found: Iterable[UsedOutput]) -> None:
        """Learn from these; kinds without a new answer keep their share."""
        sums: dict[tuple[str, Latency | None], list[int]] = defaultdict(lambda: [0, 0, 0])
        flows: dict[int, float] = {}
        for row in found:
            if row.calls >= ENOUGH_CALLS:
                flows[row.flow_id] = row.used / row.allowed
            for kind in ((row.model, Latency(row.latency)), (row.model, None)):
                for number, figure in enumerate((row.calls, row.used, row.allowed)):
                    sums[kind][number] += figure
        with self._lock:
            self._flows.update(flows)
            self._kinds.update(
                {kind: used / allowed for kind, (calls, used, allowed) in sums.items() if calls >= ENOUGH_CALLS}
            )

    def share(self, model: str, latency: Latency, flow_id: int | None = None) -> float:
        """Return the share of `max_tokens` that answers use: of the flow, else of model and class, the model, all."""
        with self._lock:
            of_flow = None if flow_id is None else self._flows.get(flow_id)
            if of_flow is not None:
                return of_flow
            return self._kinds.get((model, latency), self._kinds.get((model, None), USUAL_SHARE))


class RouteDirectory:
    """The current state of the routes. One per process; safe to share between threads."""

    def __init__(self, store: Store, limits: Limits) -> None:
        """Create the directory; nothing is read yet."""
        self._store = store
        self.limits = limits
        self.lengths = AnswerLengths(store)
        self.paces = AnswerPaces(store)
        self.costs = CostModel()
        self._known: RouteSnapshot | None = None
        self._lock = threading.Lock()

    def known(self, *, fresh: bool = False) -> RouteSnapshot:
        """Return routes and workers, at most `FRESH_S` old."""
        with self._lock:
            if fresh or self._known is None or time.monotonic() - self._known.read_at > FRESH_S:
                with self._store.read() as connection:
                    routes, leases = registered(self._store, connection), tuple(living(self._store, connection))
                    budgeted, now = budgets.exist(connection), self._store.now(connection)
                windows = {
                    name: window for name, route in routes.items() if (window := window_at(route.settings.windows, now))
                }
                for name, window in windows.items():
                    routes[name] = routes[name]._replace(settings=routes[name].settings.within(window))
                self._known = RouteSnapshot(routes, leases, time.monotonic(), windows, budgeted)
            return self._known

    def notice_workers(self, connection: Connection) -> None:
        """Drop the snapshot if a worker has come, gone or stopped taking work (of a route or at all) since then."""
        claiming = taking_work(self._store, connection)
        with self._lock:
            known = self._known
            if known is None:
                return
            before = {lease.id: frozenset(lease.impaired) for lease in known.leases if not lease.impairment}
            if claiming != before:
                self._known = None

    def now(self) -> float:
        """Return the database's time, without a query."""
        return self._store.clock.reckoned()

    def provider(self, route: str) -> str:
        """Return the provider of a route that was seen before, however long ago: a provider never changes."""
        known = self._known or self.known()
        return known.routes[route].settings.provider

    def candidates(self, model: str) -> list[Candidate]:
        """Return every route's state for a model. RedisError when the shared state does not answer."""
        return self.candidates_of({model})[model]

    def candidates_of(self, models: Iterable[str]) -> dict[str, list[Candidate]]:
        """Return every route's state for each of several models. One round trip to Redis for all."""
        known, models = self.known(), sorted(set(models))
        breakers = self.limits.view(
            [(name, model, Quota.of(route.settings, model)) for name, route in known.routes.items() for model in models]
        )
        return {
            model: [self._candidate(route, model, known, breakers[name, model]) for name, route in known.routes.items()]
            for model in models
        }

    def _candidate(self, route: RegisteredRoute, model: str, known: RouteSnapshot, breaker: BreakerView) -> Candidate:
        named = name_on_wire(route.settings, model)
        cost: CallCost | None = None
        now = self.now()
        if named:
            window = known.windows.get(route.name)
            factor = window.cost_factor if window and window.cost_factor is not None else Decimal(1)
            cost = self.costs.expected(route.settings, model, named, now, factor)
        retired = retired_on(model, route.settings, day_of(now)) if named else None
        return Candidate(
            route.name, model, route.settings, named, known.lanes(route.name), route.drained, breaker, cost, retired
        )
