"""How the routes stand: what `trivet routes` shows, and why a batch does not move."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import redis

from trivet_scheduler.fleet import Fleet, Known, name_on_wire
from trivet_scheduler.permits import WHOLE_ROUTE, GateView, Pace, Quota
from trivet_scheduler.routing import Candidate, Needs, choose
from trivet_tasks.latency import Latency
from trivet_tasks.route_settings import RouteSettings
from trivet_tasks.store import backlog
from trivet_tasks.store.backlog import ClassBacklog, Line, RouteBacklog
from trivet_tasks.store.leases import Lease

if TYPE_CHECKING:
    from trivet.connections import Connections

UNKNOWN = "unknown"
"""The state of a route while the shared state does not answer."""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A (route, model). Times are seconds; `since` counts from the epoch."""

    model: str
    """`*` where no job named a model yet: the route as a whole."""
    state: str
    """`healthy`, `limited`, `open`, `probing`, `recovering` or `unknown`."""
    cause: str = ""
    since: float | None = None
    wait_s: float = 0.0
    """Until the next call may be made; 0 = now."""
    share: float = 1.0
    """Of its work that it gets; below 1 while it recovers."""
    in_flight: int = 0
    """Calls under way."""
    places: int | None = None
    """Calls that may be under way together just now."""
    requests: float | None = None
    """Calls that the minute limit allows now, a burst at most; None = nothing limits. The next two likewise."""
    input_tokens: float | None = None
    output_tokens: float | None = None
    calls: int = 0
    """Made within the last seconds (`health.window_s`)."""
    failed: int = 0
    """Of them."""
    paces: Mapping[Latency, Pace] = field(default_factory=dict)
    """How long calls took lately, by latency class."""


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """A route and the models it serves."""

    name: str
    settings: RouteSettings
    drained: bool
    known: bool
    """False: the configuration names it, but no scheduler or worker has made it known yet."""
    queued: int
    """Jobs dispatched to it and not taken up yet."""
    running: int
    slots: dict[str, int]
    """By lane: calls that its living workers can have in flight together. A lane without workers is missing."""
    models: tuple[ModelStatus, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything at one moment."""

    routes: tuple[RouteStatus, ...]
    standing: tuple[RouteBacklog, ...]
    waiting: tuple[ClassBacklog, ...]
    workers: tuple[Lease, ...]
    now: float
    """By the database's clock, seconds since the epoch."""
    trouble: str | None
    """Why the states are not known, if they are not."""


def gather(connections: "Connections") -> Picture:
    """Read it all: a few SQL queries over living jobs, and two round trips to the shared state.

    Raises:
        StoreUnavailable, SchemaMismatch. When the shared state does not answer, `trouble` says so.
    """
    store = connections.store
    fleet = Fleet(store, connections.settings, connections.redis)
    known = fleet.known()
    with store.read() as connection:
        models = backlog.models_in_use(connection)
        standing = tuple(backlog.by_route(connection))
        waiting = tuple(backlog.by_class(connection))
        now = store.now(connection)
    served = {
        name: [model for model in models if name_on_wire(route.settings, model)] or [WHOLE_ROUTE]
        for name, route in known.routes.items()
    }
    gates: dict[tuple[str, str], GateView] = {}
    trouble = None
    try:
        connections.redis.ping()
        gates = fleet.limits.view(
            [
                (name, model, Quota.of(known.routes[name].settings, model))
                for name, found in served.items()
                for model in found
            ]
        )
    except redis.RedisError as error:
        trouble = str(connections.unavailable(error))
    routes = [
        RouteStatus(
            name=name,
            settings=route.settings,
            drained=route.drained,
            known=True,
            queued=sum(row.dispatched for row in standing if row.route == name),
            running=sum(row.running for row in standing if row.route == name),
            slots=_slots(known, name),
            models=tuple(_model(model, gates.get((name, model))) for model in served[name]),
        )
        for name, route in known.routes.items()
    ]
    for name, settings in connections.settings.routes.items():
        if name not in known.routes:
            routes.append(RouteStatus(name, settings, False, False, 0, 0, {}, (_model(WHOLE_ROUTE, None),)))
    return Picture(tuple(routes), standing, waiting, known.leases, now, trouble)


def holdup(connections: "Connections", batch: str) -> str | None:
    """Why nothing of a batch runs, in one sentence; None when a route has room for it this moment."""
    store = connections.store
    with store.read() as connection:
        lines = backlog.lines_of(connection, batch)
    fleet = Fleet(store, connections.settings, connections.redis)
    try:
        candidates = fleet.candidates_of({line.model for line in lines})
    except redis.RedisError as error:
        return str(connections.unavailable(error))
    if not fleet.known().routes:
        return "No route is known yet: a worker makes its routes known when it starts (trivet up, trivet worker)."
    return _holdup(lines, candidates, connections)


def _holdup(lines: Iterable[Line], candidates: dict[str, list[Candidate]], connections: "Connections") -> str | None:
    waits: list[tuple[float, str, str]] = []
    reasons = ""
    for line in lines:
        latency = Latency(line.latency)
        needs = Needs(line.model, latency, line.residency, line.compliance, line.features)
        choice = choose(needs, candidates[line.model], connections.settings.of_class(latency))
        if choice.routes:
            return None
        reasons = reasons or choice.reasons()
        if wait := choice.wait_s():
            gate = next(candidate.gate for candidate in candidates[line.model] if candidate.name == wait[1])
            waits.append((*wait, gate.state))
    if not waits:
        return f"No route can take it now. {reasons}." if reasons else None
    seconds, route, state = min(waits)
    if state in ("open", "probing"):
        return f"No route is healthy: next probe in {seconds:.0f} s on {route}."
    return f"Throttled: next headroom in {max(1, math.ceil(seconds))} s on {route}."


def _slots(known: Known, route: str) -> dict[str, int]:
    slots: dict[str, int] = defaultdict(int)
    for lease in known.leases:
        if route in lease.routes and not lease.trouble:
            slots[lease.lane] += lease.slots
    return dict(slots)


def _model(model: str, gate: GateView | None) -> ModelStatus:
    if gate is None:
        return ModelStatus(model, UNKNOWN)
    return ModelStatus(
        model,
        "limited" if gate.state == "healthy" and gate.wait_s > 0 else gate.state,
        gate.cause if gate.state != "healthy" else "",
        gate.since,
        gate.wait_s,
        gate.share,
        gate.in_flight,
        gate.places,
        _finite(gate.headroom),
        _finite(gate.input_headroom),
        _finite(gate.output_headroom),
        gate.calls,
        gate.failed,
        gate.paces,
    )


def _finite(figure: float) -> float | None:
    return None if math.isinf(figure) else figure
