"""Choice of route: routes that may take the job at all, those that can take it now, and their order. Pure functions."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum

from trivet_routing.permits import BreakerView
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.latency import ClassSettings, Latency
from trivet_tasks.prices.cost_model import TYPICAL, CallCost, Mix
from trivet_tasks.requests import eligibility
from trivet_tasks.states import RouteState

UNKNOWN_LATENCY_S = 1.0
"""Latency assumed for a route without a good call yet."""
SAME_COST = Decimal("0.02")
"""Expected costs within this share of each other count as equal."""
SAME_LATENCY = 0.25
"""Latencies, likewise, of routes that cost the same."""
WARM_LEVEL = -1
"""Level before all others."""
DEGRADED_LEVEL = 10_000_000
"""Level behind every route that is quick enough for the class."""
SLOW_SHARE = 0.05
"""A route with more than this share of calls that ran out of time is too slow for their class."""
SLOW_CALLS = 5
"""Number of calls of a class that must be known before a route counts as too slow for it."""
SLOW_FOR_S = 60.0
"""Seconds after the last of them at which it is tried again."""
SHORT_WAIT_S = 0.5
"""A permit that comes free within this time is worth waiting for where latency decides; the wait counts as latency."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """The requirements of a job on a route, and the routes it has tried in this round."""

    model: str
    latency: Latency
    residency: tuple[str, ...] = ()
    compliance: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    doubted_by: str | None = None
    """The provider that answered with an unknown 400 (ambiguous): another one is to be asked."""
    mix: Mix = TYPICAL
    """Expected usage of its call; it counts where cost decides."""
    warm_route: str | None = None
    """The route whose provider has the beginning of the request in its cache: it is preferred."""
    too_slow: tuple[str, ...] = ()
    """Routes that cannot answer within the job's time, as a call of it showed."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """The state of a route for one model."""

    name: str
    model: str
    """The model by its first-party id."""
    settings: RouteSettings
    wire_model: str | None
    """The model's name on the route's wire; None = the route does not serve it."""
    lanes: frozenset[str]
    """The lanes in which a living worker serves it."""
    drained: bool
    breaker: BreakerView
    cost: CallCost | None
    """Expected cost of calls of the model here; None = no price known."""
    retired: date | None = None
    """The day on which the route's provider stopped serving the model."""


class Why(StrEnum):
    """A reason why a route does not take a job now."""

    NEVER = "never"
    """Route that does not fit the job: waiting will not help."""
    TRIED = "tried"
    """Route that was asked in this round."""
    UNFIT = "unfit"
    """Route that takes calls again at an unknown time: open, drained, without a worker."""
    LIMITED = "limited"
    """Route at its limits, which will have headroom again by itself."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A route that does not take the job now, with the reason for a person."""

    route: str
    why: Why
    text: str
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Choice:
    """The routes that would take the job now, the best first, and the others with their reasons."""

    routes: tuple[Candidate, ...]
    levels: tuple[int, ...]
    """The rank of each of `routes` by the order of the class; equal ones share the work by load."""
    refusals: tuple[Refusal, ...]

    def best(
        self, load: Callable[[Candidate], float], *, has_room: Callable[[Candidate], bool] = lambda _: True
    ) -> Candidate | None:
        """Return the route for one job: the best that can take one more, of equally good ones the least laden.

        A recovering route gets its share of the jobs it would be the best for, and those that no other could take.
        """
        able = [(r, level) for r, level in zip(self.routes, self.levels, strict=True) if has_room(r)]
        whole = any(route.breaker.share >= 1 for route in self.routes)
        while able:
            level = able[0][1]
            best = min((route for route, of in able if of == level), key=load)
            if best.breaker.share >= 1 or not whole or random.random() < best.breaker.share:
                return best
            able = [(route, of) for route, of in able if route is not best]
        return None

    def worth_waiting(self, at_most_s: float) -> bool:
        """Return whether a route that was not asked yet will have headroom within this time."""
        return any(refusal.why is Why.LIMITED and refusal.wait_s <= at_most_s for refusal in self.refusals)

    @property
    def hopeless(self) -> bool:
        """True when there is no route that could ever take the job in this round or a later one."""
        return not self.routes and all(refusal.why is Why.NEVER for refusal in self.refusals)

    def reasons(self, *, without: str = "") -> str:
        """Return all refusals in one line, `route: reason; route: reason`; unfit routes only if there is no other."""
        told = [refusal for refusal in self.refusals if refusal.why is not Why.NEVER] or self.refusals
        return "; ".join(f"{r.route}: {r.text}" for r in told if r.route and r.route != without)


def choose(requirements: Requirements, candidates: Iterable[Candidate], terms: ClassSettings) -> Choice:
    """Sort the candidates into those that would take the job now, in the order of its class, and those that would not.

    A route whose calls of the class ran out of time comes behind those that are quick enough.
    """
    patience_s = SHORT_WAIT_S if terms.order == "latency" else 0.0
    able: list[Candidate] = []
    refusals: list[Refusal] = []
    for candidate in candidates:
        refusal = _refusal(requirements, candidate, patience_s)
        if refusal is None:
            able.append(candidate)
        else:
            refusals.append(refusal)
    level = _levels(able, requirements, terms)
    able.sort(key=lambda r: (level[r.name], load_of(r), r.settings.priority))
    return Choice(tuple(able), tuple(level[route.name] for route in able), tuple(refusals))


def load_of(route: Candidate) -> float:
    """Return the load of a route: its calls in flight, relative to its weight."""
    return route.breaker.in_flight / route.settings.weight


def is_slow(breaker: BreakerView, latency: Latency) -> bool:
    """Return whether the route's recent calls of the class took longer than they may."""
    pace = breaker.paces.get(latency)
    if pace is None or pace.calls < SLOW_CALLS or pace.age_s > SLOW_FOR_S:
        return False
    return pace.late > SLOW_SHARE * pace.calls


def misfit(requirements: Requirements, route: RouteSettings, wire_model: str | None) -> str:
    """Return why a route, as it is configured, never takes such a job; empty = it fits.

    Args:
        wire_model: the model's name on the route's wire; None = it does not serve it.
    """
    return eligibility.misfit(
        route, wire_model, requirements.model, requirements.residency, requirements.compliance, requirements.features
    )


def _refusal(requirements: Requirements, route: Candidate, patience_s: float) -> Refusal | None:
    """Return the first reason why the route does not take the job now, the lasting ones first."""
    if unfit := misfit(requirements, route.settings, route.wire_model):
        return Refusal(route.name, Why.NEVER, unfit)
    if route.retired:
        return Refusal(route.name, Why.NEVER, f"{requirements.model} was retired there on {route.retired.isoformat()}")
    if requirements.doubted_by == route.settings.provider:
        return Refusal(route.name, Why.NEVER, "its provider refused the request")
    if route.name in requirements.too_slow:
        return Refusal(route.name, Why.NEVER, "not known to answer within the time of the job's call")
    if route.name in requirements.tried:
        return Refusal(route.name, Why.TRIED, "asked in this round")
    if route.drained:
        return Refusal(route.name, Why.UNFIT, "drained by an operator")
    if requirements.latency.lane not in route.lanes:
        return Refusal(route.name, Why.UNFIT, f"no {requirements.latency.lane} worker serves it")
    breaker = route.breaker
    if breaker.shut or breaker.wait_s > (0.0 if breaker.state == RouteState.LIMITED else patience_s):
        again = "next probe" if breaker.shut else "next headroom"
        cause = f" ({breaker.cause})" if breaker.cause and breaker.state != RouteState.RECOVERING else ""
        state = breaker.state if breaker.shut else RouteState.LIMITED
        text = f"{state}{cause}, {again} in {breaker.wait_s:.1f} s"
        return Refusal(route.name, Why.UNFIT if breaker.shut else Why.LIMITED, text, breaker.wait_s)
    if breaker.in_flight >= breaker.places:
        return Refusal(route.name, Why.LIMITED, f"all {breaker.places} calls it may have are in flight")
    return None


def _levels(routes: list[Candidate], requirements: Requirements, terms: ClassSettings) -> dict[str, int]:
    """Rank the routes by the order of the class, 0 the best; equal ones share the work by weight and load."""
    levels = _ordered(routes, requirements, terms)
    for route in routes:
        if is_slow(route.breaker, requirements.latency):
            levels[route.name] += DEGRADED_LEVEL
        elif route.name == requirements.warm_route:
            levels[route.name] = WARM_LEVEL
    return levels


def _ordered(routes: list[Candidate], requirements: Requirements, terms: ClassSettings) -> dict[str, int]:
    match terms.order:
        case "weight":
            return {route.name: 0 for route in routes}
        case "priority":
            return {route.name: route.settings.priority for route in routes}
        case "latency":
            quickest = sorted(routes, key=lambda r: _expected_latency_s(r, requirements.latency))
            return {route.name: place for place, route in enumerate(quickest)}
        case "cost":
            return _by_cost(routes, requirements)


def _expected_latency_s(route: Candidate, latency: Latency) -> float:
    pace = route.breaker.pace(latency)
    usual = UNKNOWN_LATENCY_S if pace is None else pace.p50_s
    return usual * (1 + route.breaker.in_flight / route.breaker.places) + route.breaker.wait_s


def _by_cost(routes: list[Candidate], requirements: Requirements) -> dict[str, int]:
    """Rank by expected cost, those that cost the same by latency; routes without a price come last."""
    costs = {route.name: None if route.cost is None else route.cost.of(requirements.mix) for route in routes}
    cheapest = min((cost for cost in costs.values() if cost is not None), default=None)
    step = {name: _cost_steps(cost, cheapest) for name, cost in costs.items()}
    quickest: dict[tuple[bool, int], float] = {}
    # a route without calls counts among the quickest: else it would never get any
    known = [route for route in routes if route.breaker.pace(requirements.latency) is not None]
    expected = {route.name: _expected_latency_s(route, requirements.latency) for route in known}
    for name, seconds in expected.items():
        quickest[step[name]] = min(seconds, quickest.get(step[name], seconds))
    grade = {
        name: (*step[name], _steps_beyond(expected[name], quickest[step[name]]) if name in expected else 0)
        for name in costs
    }
    places = {key: place for place, key in enumerate(sorted(set(grade.values())))}
    return {name: places[key] for name, key in grade.items()}


def _cost_steps(cost: Decimal | None, cheapest: Decimal | None) -> tuple[bool, int]:
    """Return whether it has no price, and by how many steps it is dearer than the cheapest."""
    if cost is None or cheapest is None:
        return True, 0
    if cheapest == 0:
        return False, 0 if cost == 0 else 1
    return False, int((cost - cheapest) / (cheapest * SAME_COST))


def _steps_beyond(seconds: float, least: float) -> int:
    return int((seconds - least) / (max(least, 0.001) * SAME_LATENCY))
