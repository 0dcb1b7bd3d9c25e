"""Credit: the number of further jobs that may be sent to each route now.

The outstanding jobs of a route may fill the slots of its workers and a second's work more, so that queues stay short:
an outage strands little, and no message grows old waiting for a slot or a permit.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from trivet_routing.route_choice import UNKNOWN_LATENCY_S, Candidate
from trivet_routing.route_directory import RouteSnapshot
from trivet_store.jobs.dispatching import Head, Outstanding
from trivet_tasks.latency import Lane, Latency, kept_slots

RESERVE_S = 1.0
"""Seconds of a route's work that may be in its queues."""


@dataclass(slots=True)
class _Room:
    """Free capacity of a route for a model: its limits less what is queued; infinite where nothing limits."""

    jobs: float
    input_tokens: float
    output_tokens: float


class Credits:
    """The credit of every route, taken job by job."""

    def __init__(
        self,
        known: RouteSnapshot,
        candidates: Iterable[Iterable[Candidate]],
        outstanding: Sequence[Outstanding],
        factor: float,
        isolated_processes: int,
    ) -> None:
        queued: dict[tuple[str, str], list[Outstanding]] = defaultdict(list)
        at_route: dict[tuple[str, str], int] = defaultdict(int)
        for row in outstanding:
            queued[row.route, row.model].append(row)
            at_route[row.route, row.latency.lane] += row.jobs
        self._room: dict[tuple[str, str], _Room] = {}
        latency: dict[str, float] = {}
        for of_model in candidates:
            for route in of_model:
                self._room[route.name, route.model] = _room(route, queued[route.name, route.model], factor)
                seen = min((pace.p50_s for pace in route.breaker.paces.values()), default=UNKNOWN_LATENCY_S)
                latency[route.name] = min(seen, latency.get(route.name, seen))
        self._route: dict[tuple[str, str], int] = {}
        self._lane: dict[str, int] = {}
        self._kept: dict[str, int] = {}
        self._isolation: dict[str, int] = {}
        for lane in Lane:
            for name, registered in known.routes.items():
                places = min(registered.settings.max_concurrency, known.slots(name, lane))
                room = _with_reserve(places, latency.get(name, UNKNOWN_LATENCY_S), factor)
                self._route[name, lane] = room - at_route[name, lane]
            # routes share workers: together they must not be sent more than those can take
            workers = [lease for lease in known.leases if lease.lane == lane and not lease.impairment]
            self._isolation[lane] = isolated_processes * len(workers) - sum(
                r.isolated for r in outstanding if r.latency.lane == lane
            )
            places = sum(lease.slots for lease in workers)
            room = _with_reserve(places, min(latency.values(), default=UNKNOWN_LATENCY_S), factor)
            self._kept[lane] = room - places + kept_slots(places)
            self._lane[lane] = room - sum(count for (_, of), count in at_route.items() if of == lane)

    @property
    def total(self) -> int:
        """Maximum number of jobs that may be sent."""
        return sum(
            max(0, min(self._lane[lane], sum(max(0, left) for (_, of), left in self._route.items() if of == lane)))
            for lane in Lane
        )

    def room_for(self, latency: Latency, model: str, *, isolated: bool) -> Callable[[Candidate], bool]:
        """Return a filter of routes that may be sent one more such job."""
        return lambda route: self.left(route.name, latency, model, isolated=isolated)

    def left(self, route: str, latency: Latency, model: str, *, isolated: bool) -> bool:
        """Return whether the route may be sent one more job; an isolated one needs a process of its own, too."""
        room, lane = self._room.get((route, model)), latency.lane
        kept = self._kept[lane] if latency is Latency.INTERACTIVE else 0
        if room is None or self._lane[lane] <= kept or self._route.get((route, lane), 0) <= 0:
            return False
        if isolated and self._isolation[lane] <= 0:
            return False
        # a job larger than what is left may go while there is some: the permit decides, this only keeps queues short
        return room.jobs >= 1 and room.input_tokens > 0 and room.output_tokens > 0

    def take(self, route: str, lane: Lane, model: str, head: Head, *, isolated: bool) -> None:
        """Send the route one more job."""
        self._isolation[lane] -= isolated
        self._lane[lane] -= 1
        self._route[route, lane] -= 1
        room = self._room[route, model]
        room.jobs -= 1
        room.input_tokens -= head.input_estimate
        room.output_tokens -= head.max_tokens


def _room(route: Candidate, outstanding: Sequence[Outstanding], factor: float) -> _Room:
    breaker = route.breaker
    queued = sum(row.queued for row in outstanding)
    refill = [0.0 if math.isinf(rate) else rate * RESERVE_S for rate in breaker.rates]
    # at least one, or a limit of fewer than one a second would never be asked
    jobs = max(breaker.headroom + refill[0], 1.0) - queued
    if breaker.places < route.settings.max_concurrency:
        jobs = min(jobs, math.ceil(breaker.places * factor) - sum(row.jobs for row in outstanding))
    return _Room(
        jobs,
        breaker.input_headroom + refill[1] - sum(row.input_tokens for row in outstanding),
        breaker.output_headroom + refill[2] - sum(row.output_tokens for row in outstanding),
    )


def _with_reserve(places: int, latency_s: float, factor: float) -> int:
    """Return the slots plus those that become free within the reserve's time, up to a multiple of the slots."""
    return math.floor(places * min(factor, 1 + RESERVE_S / max(latency_s, 0.001)))
