"""Reading how it stands: one transaction over the counters and the newest attempts, one round trip for the gates."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from trivet.demo.stage import BATCH, MODEL
from trivet.demo.tally import RouteTally, RunningTally
from trivet_routing.fleet import Fleet
from trivet_routing.permits import GateView
from trivet_store.database.engine import Store
from trivet_store.jobs import batches
from trivet_store.jobs.batches import Progress
from trivet_tasks.config.settings import Settings


@dataclass(frozen=True, slots=True)
class RouteReading:
    """A route as it stands."""

    gate: GateView
    tally: RouteTally

    def next_permit_s(self) -> float:
        """Seconds until it could take the next call; a route that is open has no room, its probes are not any."""
        if self.gate.shut:
            return float("inf")
        return self.gate.wait_s


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything at one moment. `at` is on the monotonic clock, in seconds."""

    at: float
    progress: Progress
    routes: Mapping[str, RouteReading]

    @property
    def share(self) -> float:
        """Ended jobs, 0 to 1."""
        return self.progress.ended / self.progress.total if self.progress.total else 0.0

    @property
    def failovers(self) -> int:
        """Attempts that followed a failed one on another route."""
        return sum(route.tally.left for route in self.routes.values())

    @property
    def cost_usd(self) -> Decimal:
        """Settled so far."""
        return sum((route.tally.cost_usd for route in self.routes.values()), Decimal(0))

    def next_permit_s(self) -> float:
        """Seconds until any route could take the next call."""
        return min((route.next_permit_s() for route in self.routes.values()), default=0.0)


class Reader:
    """Takes readings of the demo's batch. Its own connections: nothing of it is in the way of the work."""

    def __init__(self, settings: Settings) -> None:
        self._store = Store.of(settings)
        self._fleet = Fleet(self._store, settings)
        self._running = RunningTally()

    @property
    def store(self) -> Store:
        """The database it reads."""
        return self._store

    def read(self) -> Reading:
        """How it stands now. StoreUnavailable or RedisError when that cannot be said."""
        candidates = self._fleet.candidates(MODEL)
        with self._store.read() as connection:
            progress = batches.progress(connection, BATCH)
            tallies = self._running.read(connection, self._store.now(connection))
        routes = {route.name: RouteReading(route.gate, tallies.get(route.name, RouteTally())) for route in candidates}
        return Reading(time.monotonic(), progress, routes)

    def close(self) -> None:
        """Close the connections."""
        self._store.close()
