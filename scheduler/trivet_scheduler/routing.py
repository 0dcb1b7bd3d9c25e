"""Choosing a route: who may take the job at all, who can take it now, and in what order. Pure functions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from trivet_scheduler.limits import GateView
from trivet_tasks.features import lacks
from trivet_tasks.latency import Order
from trivet_tasks.settings import RouteSettings

UNKNOWN_LATENCY_S = 1.0
"""What a route without a good call yet is taken to need."""
SAME_COST = Decimal("0.02")
"""Prices within this share of each other count as equal."""
UNPRICED_LEVEL = 1_000_000


@dataclass(frozen=True, slots=True)
class Needs:
    """What a job asks of a route, and where it has been in this round."""

    model: str
    lane: str
    residency: tuple[str, ...] = ()
    compliance: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    doubted_by: str | None = None
    """The provider that answered with a 400 nobody knows: another one is to be asked."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A route as it stands for one model."""

    name: str
    model: str
    """The model by its first-party id."""
    settings: RouteSettings
    wire_model: str | None
    """What the route's wire calls it; None = it does not serve it."""
    lanes: frozenset[str]
    """The lanes in which a living worker serves it."""
    drained: bool
    gate: GateView
    unit_cost_usd: Decimal | None
    """What a typical call of the model costs here; None = no price known."""


class Why(StrEnum):
    """Why a route does not take a job now."""

    NEVER = "never"
    """It does not fit the job: waiting will not help."""
    TRIED = "tried"
    """It was asked in this round."""
    UNFIT = "unfit"
    """Nobody can say when it takes calls again: open, drained, without a worker."""
    LIMITED = "limited"
    """It has no room now, and will have some by itself."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A route that does not take the job now, and why, for a person."""

    route: str
    why: Why
    text: str
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Choice:
    """The routes that would take the job now, the best first, and the others with their reasons."""

    routes: tuple[Candidate, ...]
    levels: tuple[int, ...]
    """For each of `routes`, how good it is by the order of the class; equal ones share the work by load."""
    refusals: tuple[Refusal, ...]

    def worth_waiting(self, at_most_s: float) -> bool:
        """True when a route that was not asked yet will have room within this time."""
        return any(refusal.why is Why.LIMITED and refusal.wait_s <= at_most_s for refusal in self.refusals)

    @property
    def hopeless(self) -> bool:
        """True when there is no route that could ever take the job in this round or a later one."""
        return not self.routes and all(refusal.why is Why.NEVER for refusal in self.refusals)

    @property
    def untried(self) -> bool:
        """True when there is a route, fit or not at the moment, that was not asked in this round."""
        return bool(self.routes) or any(refusal.why in (Why.UNFIT, Why.LIMITED) for refusal in self.refusals)

    def reasons(self) -> str:
        """All refusals in one line: `route: reason; route: reason`."""
        return "; ".join(f"{refusal.route}: {refusal.text}" for refusal in self.refusals)

    def wait_s(self) -> tuple[float, str] | None:
        """The shortest known wait and the route it is for; None when no route is said to open by itself."""
        waits = [(refusal.wait_s, refusal.route) for refusal in self.refusals if refusal.wait_s > 0]
        return min(waits) if waits else None


NO_LOADS: Mapping[str, float] = {}


def choose(
    needs: Needs, candidates: Iterable[Candidate], order: Order, loads: Mapping[str, float] = NO_LOADS
) -> Choice:
    """Sort the candidates into those that would take the job now, in the order of its class, and those that would not.

    Args:
        loads: by route, the jobs that stand there as a share of what it can have in flight; missing = idle.
    """
    able: list[Candidate] = []
    refusals: list[Refusal] = []
    for candidate in candidates:
        refusal = _refusal(needs, candidate)
        if refusal is None:
            able.append(candidate)
        else:
            refusals.append(refusal)
    level = _levels(able, order, loads)
    able.sort(key=lambda r: (level[r.name], loads.get(r.name, 0.0) / r.settings.weight, r.settings.priority))
    return Choice(tuple(able), tuple(level[route.name] for route in able), tuple(refusals))


def _refusal(needs: Needs, route: Candidate) -> Refusal | None:
    """The first reason why the route does not take the job now, the lasting ones first."""
    if route.wire_model is None:
        return Refusal(route.name, Why.NEVER, f"does not serve {needs.model}")
    for kind, wanted, has in (
        ("residency", needs.residency, route.settings.residency),
        ("compliance", needs.compliance, route.settings.compliance),
    ):
        missing = sorted(set(wanted) - set(has))
        if missing:
            return Refusal(route.name, Why.NEVER, f"lacks {kind} {', '.join(missing)}")
    without = lacks(route.settings.provider, needs.features)
    if without:
        return Refusal(route.name, Why.NEVER, f"its wire has no {', '.join(without)}")
    if needs.doubted_by == route.settings.provider:
        return Refusal(route.name, Why.NEVER, "its provider refused the request")
    if route.name in needs.tried:
        return Refusal(route.name, Why.TRIED, "asked in this round")
    if route.drained:
        return Refusal(route.name, Why.UNFIT, "drained by an operator")
    if needs.lane not in route.lanes:
        return Refusal(route.name, Why.UNFIT, f"no {needs.lane} worker serves it")
    gate = route.gate
    if gate.wait_s > 0:
        until = f", next try in {gate.wait_s:.1f} s"
        cause = f" ({gate.cause})" if gate.cause else ""
        why = Why.UNFIT if gate.state in ("open", "probing") else Why.LIMITED
        state = "limited" if gate.state == "healthy" else gate.state
        return Refusal(route.name, why, f"{state}{cause}{until}", gate.wait_s)
    if gate.in_flight >= route.settings.max_concurrency:
        return Refusal(route.name, Why.LIMITED, f"all {route.settings.max_concurrency} calls in flight")
    return None


def _levels(routes: list[Candidate], order: Order, loads: Mapping[str, float]) -> dict[str, int]:
    """How good each route is by the order of the class, 0 the best; equal ones share the work by weight and load."""
    match order:
        case "weight":
            return {route.name: 0 for route in routes}
        case "priority":
            return {route.name: route.settings.priority for route in routes}
        case "latency":
            quickest = sorted(routes, key=lambda r: _expected_latency_s(r, loads.get(r.name, 0.0)))
            return {route.name: place for place, route in enumerate(quickest)}
        case "cost":
            cheapest = min((r.unit_cost_usd for r in routes if r.unit_cost_usd is not None), default=None)
            return {route.name: _cost_steps(route.unit_cost_usd, cheapest) for route in routes}


def _expected_latency_s(route: Candidate, load: float) -> float:
    latency = UNKNOWN_LATENCY_S if route.gate.latency_s is None else route.gate.latency_s
    return latency * (1 + load)


def _cost_steps(cost: Decimal | None, cheapest: Decimal | None) -> int:
    """How many steps dearer than the cheapest; routes without a price come last."""
    if cost is None or cheapest is None:
        return UNPRICED_LEVEL
    if cheapest == 0:
        return 0 if cost == 0 else 1
    return int((cost - cheapest) / (cheapest * SAME_COST))
