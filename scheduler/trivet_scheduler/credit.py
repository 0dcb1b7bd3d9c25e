"""Credit: how many more jobs may be sent to each route now.

What stands at a route (dispatched or running) may fill the places of its workers and a second's work more, so that
queues stay short: an outage strands little, and no message grows old waiting for a place.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trivet_scheduler.fleet import Known
from trivet_scheduler.routing import UNKNOWN_LATENCY_S, Candidate
from trivet_tasks.store.dispatching import Head

RESERVE_S = 1.0
"""How many seconds of a route's work may stand in its queues."""
LANES = ("realtime", "bulk")

Standing = Mapping[tuple[str, str], int]
"""Jobs that stand at a route, by (route, lane)."""


@dataclass(slots=True)
class _Room:
    """What a route's limits allow one model now; infinite where nothing limits."""

    jobs: float
    input_tokens: float
    output_tokens: float


class Credits:
    """The credit of every route, taken job by job."""

    def __init__(
        self, known: Known, candidates: Iterable[Iterable[Candidate]], standing: Standing, factor: float
    ) -> None:
        self._room: dict[tuple[str, str], _Room] = {}
        latency: dict[str, float] = {}
        for of_model in candidates:
            for route in of_model:
                gate = route.gate
                jobs = 1.0 if gate.state in ("open", "probing") else gate.headroom  # one may try; more would only wait
                self._room[route.name, route.model] = _Room(jobs, gate.input_headroom, gate.output_headroom)
                seen = UNKNOWN_LATENCY_S if gate.latency_s is None else gate.latency_s
                latency[route.name] = min(seen, latency.get(route.name, seen))
        self._route: dict[tuple[str, str], int] = {}
        self._lane: dict[str, int] = {}
        for lane in LANES:
            for name, registered in known.routes.items():
                places = min(registered.settings.max_concurrency, known.slots(name, lane))
                room = _with_reserve(places, latency.get(name, UNKNOWN_LATENCY_S), factor)
                self._route[name, lane] = room - standing.get((name, lane), 0)
            # routes share workers: together they must not be sent more than those can take
            places = sum(lease.slots for lease in known.leases if lease.lane == lane and not lease.trouble)
            room = _with_reserve(places, min(latency.values(), default=UNKNOWN_LATENCY_S), factor)
            self._lane[lane] = room - sum(count for (_, of), count in standing.items() if of == lane)

    @property
    def total(self) -> int:
        """Jobs that may be sent at most."""
        return sum(
            max(0, min(self._lane[lane], sum(max(0, left) for (_, of), left in self._route.items() if of == lane)))
            for lane in LANES
        )

    def left(self, route: str, lane: str, model: str) -> bool:
        """Whether the route may be sent one more job."""
        room = self._room.get((route, model))
        if room is None or self._lane[lane] <= 0 or self._route.get((route, lane), 0) <= 0:
            return False
        # a job larger than what is left may go while there is some: the permit decides, this only keeps queues short
        return room.jobs >= 1 and room.input_tokens > 0 and room.output_tokens > 0

    def take(self, route: str, lane: str, model: str, head: Head) -> None:
        """Send the route one more job."""
        self._lane[lane] -= 1
        self._route[route, lane] -= 1
        room = self._room[route, model]
        room.jobs -= 1
        room.input_tokens -= head.input_estimate
        room.output_tokens -= head.max_tokens


def _with_reserve(places: int, latency_s: float, factor: float) -> int:
    """The places, and what comes free within the reserve's time, up to a multiple of them."""
    return math.floor(places * min(factor, 1 + RESERVE_S / max(latency_s, 0.001)))
