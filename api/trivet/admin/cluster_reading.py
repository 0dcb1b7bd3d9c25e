"""Reading the status of a cluster out of the database and the shared state."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import redis

from trivet.admin.budgets import statuses
from trivet.admin.cluster_status import ClusterStatus, ModelStatus, RouteStatus
from trivet.client.blocked import BlockedReason, blocked_reasons
from trivet.client.connections import Connections
from trivet.client.impairments import Processes, full_disk, impairments, lacking_lanes, read_processes
from trivet_routing.liveness.process_impairments import Announced, announced
from trivet_routing.permits import BreakerView, Quota, RouteUse
from trivet_routing.route_directory import RouteSnapshot
from trivet_store import controls, events
from trivet_store.cluster import health
from trivet_store.cluster.health import HealthRow, LimitRow
from trivet_store.events import Event
from trivet_store.jobs import deliveries
from trivet_store.ledger import spending
from trivet_store.ledger.spending import Spent
from trivet_store.reports import backlog
from trivet_store.reports.backlog import FlowRequirements, RouteBacklog
from trivet_store.reports.spend_rate import SpendRate, spend_rate
from trivet_tasks.config.route_settings import WHOLE_ROUTE
from trivet_tasks.requests.eligibility import name_on_wire
from trivet_tasks.shared_state import check_writable
from trivet_tasks.states import RouteState

SHORT_WAIT_S = 1.0
"""A route that waits less than this for its own minute limits is busy, not limited."""


@dataclass(frozen=True, slots=True)
class _Noted:
    """Health and limits as the database has them."""

    states: Mapping[tuple[str, str], HealthRow]
    closed: Mapping[tuple[str, str], LimitRow]
    drains: Mapping[str, Event]


@dataclass(slots=True)
class _Shared:
    """Health and limits as the shared state has them, as far as it answered."""

    served: Mapping[str, Sequence[str]]
    """Models to show of each route."""
    breakers: Mapping[tuple[str, str], BreakerView] = field(default_factory=dict)
    uses: Mapping[str, RouteUse] = field(default_factory=dict)
    announced: Sequence[Announced] = ()
    blocked: Sequence[BlockedReason] = ()
    unavailable: str | None = None
    """Reason why it did not answer."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """Everything read at one moment; the status of each route is made from it."""

    known: RouteSnapshot
    processes: Processes
    lanes: Sequence[str]
    outstanding: Sequence[RouteBacklog]
    spent: Mapping[str, Spent]
    rate: SpendRate
    noted: _Noted
    shared: _Shared
    now: float

    def route(self, name: str) -> RouteStatus:
        """Return the status of a route."""
        known, route, use = self.known, self.known.routes[name], self.shared.uses.get(name)
        able = [lease for lease in known.leases if lease.takes(name)]
        drain = self.noted.drains.get(name) if route.drained else None
        return RouteStatus(
            name=name,
            settings=route.settings,
            drained=route.drained,
            known=True,
            queued=sum(row.dispatched for row in self.outstanding if row.route == name),
            running=sum(row.running for row in self.outstanding if row.route == name),
            slots={lane: known.slots(name, lane) for lane in known.lanes(name)},
            workers=Counter(lease.lane for lease in able),
            models=tuple(self.model(name, model) for model in self.shared.served[name]),
            drained_at=drain.at if drain else None,
            drained_why=drain.text if drain else "",
            window=known.windows.get(name),
            overrides=route.overrides,
            version_at=route.version_at,
            version_by=route.version_by,
            lacking=lacking_lanes(name, self.processes.workers, self.lanes),
            scheduled=bool(self.processes.schedulers),
            spent=self.spent.get(name, Spent()),
            usd_per_hour=self.rate.by_route.get(name, Decimal(0)),
            proven_at=None if use is None or use.proven_s is None else self.now - use.proven_s,
        )

    def model(self, route: str, model: str) -> ModelStatus:
        """Return the status of one of its models; without the shared state, as the database noted it last."""
        quota = Quota.of(self.known.routes[route].settings, model)
        breaker, noted, use = self.shared.breakers.get((route, model)), self.noted, self.shared.uses.get(route)
        if breaker is None:
            row = noted.states.get((route, WHOLE_ROUTE))
            if row is None or row.state == RouteState.HEALTHY:
                row = noted.states.get((route, model))
            if row is None or row.state == RouteState.HEALTHY:
                return ModelStatus(model, RouteState.UNKNOWN, quota)
            return ModelStatus(
                model, RouteState.UNKNOWN, quota, cause=f"{row.state} when last noted: {row.cause}", since=row.since
            )
        state, cause, since = breaker.state, breaker.cause, breaker.since
        if state == RouteState.HEALTHY:
            cause = ""
            if use is None or use.proven_s is None:
                state, since = RouteState.UNPROVEN, None
            if breaker.wait_s >= SHORT_WAIT_S:
                state, cause, since = RouteState.LIMITED, f"it used up {_used_up(breaker)}", None
        elif state == RouteState.LIMITED:
            closed = noted.closed.get((route, quota.group))
            since = closed.since if closed else None
        return ModelStatus(
            model=model,
            state=state,
            quota=quota,
            cause=cause,
            since=since,
            wait_s=breaker.wait_s,
            share=breaker.share,
            in_flight=breaker.in_flight,
            places=breaker.places,
            requests=_finite(breaker.headroom),
            input_tokens=_finite(breaker.input_headroom),
            output_tokens=_finite(breaker.output_headroom),
            per_minute=(_finite(60 * breaker.rates[0]), _finite(60 * breaker.rates[1]), _finite(60 * breaker.rates[2])),
            calls=breaker.calls,
            failed=breaker.failed,
            paces=breaker.paces,
            doubt=breaker.doubt,
        )


def read_cluster(connections: Connections) -> ClusterStatus:
    """Read the whole status: some SQL queries over living jobs, and seven or eight round trips to the shared state.

    Raises:
        StoreUnavailable, SchemaMismatch. When the shared state does not answer, `impairment` says so.
    """
    store, settings = connections.store, connections.settings
    known = connections.directory.known(fresh=True)
    with store.read() as connection:
        now = store.now(connection)
        models = backlog.models_in_use(connection)
        outstanding = tuple(backlog.by_route(connection))
        waiting = tuple(backlog.by_class(connection))
        required = backlog.requirements_of_waiting(connection)
        budgets = statuses(connection, known.routes, now, connections.directory.costs) if known.budgets else ()
        spent = spending.by_route(connection, now)
        rate = spend_rate(connection, now)
        processes = read_processes(store, connection, settings.leases.ttl_s)
        drops = tuple(events.drops(connection))
        set_by_hand = tuple(controls.every(connection))
        callbacks = tuple(deliveries.on_their_way(connection))
        noted = _Noted(
            {(row.route, row.model): row for row in health.noted(connection)},
            {(row.route, row.models): row for row in health.closed(connection, now)},
            events.last_drains(connection) if any(route.drained for route in known.routes.values()) else {},
        )
    shared = _read_shared_state(connections, known, models, required)
    reading = _Reading(known, processes, settings.worker.lanes, outstanding, spent, rate, noted, shared, now)
    routes = [reading.route(name) for name in known.routes]
    for name, route in settings.routes.items():
        if name not in known.routes:
            nothing = ModelStatus(WHOLE_ROUTE, RouteState.UNKNOWN, Quota.of(route, WHOLE_ROUTE))
            routes.append(RouteStatus(name, route, False, False, 0, 0, {}, {}, (nothing,)))
    drained = {name: route.drained for name, route in known.routes.items()}
    server = " ".join(filter(None, (full_disk(store), shared.unavailable))) or None
    return ClusterStatus(
        routes=tuple(routes),
        outstanding=outstanding,
        waiting=waiting,
        workers=processes.workers,
        blocked=tuple(shared.blocked),
        now=now,
        announced=tuple(shared.announced),
        budgets=budgets,
        schedulers=processes.schedulers,
        silent=processes.silent,
        impairments=impairments(processes, drained, settings.worker.lanes, now, said=shared.announced, server=server),
        dropped=drops,
        controls=set_by_hand,
        callbacks=callbacks,
    )


def _read_shared_state(
    connections: Connections, known: RouteSnapshot, models: Sequence[str], required: Sequence[FlowRequirements]
) -> _Shared:
    """Read the routes' health and what blocks jobs with these requirements.

    Args:
        models: those that living jobs name.
    """
    shared, limits = _Shared(_served(known, models, ())), connections.directory.limits
    try:
        shared.announced = announced(connections.redis)
        check_writable(connections.redis)  # a Redis that is out of memory answers, and yet nothing moves
        shared.served = _served(known, models, limits.unhealthy())
        shared.breakers = limits.view(
            [
                (name, model, Quota.of(known.routes[name].settings, model))
                for name, models in shared.served.items()
                for model in models
            ]
        )
        shared.uses = limits.uses(list(known.routes))
        shared.blocked = blocked_reasons(connections, required)
    except redis.RedisError as error:
        shared.unavailable = str(connections.unavailable(error))
    return shared


def _served(known: RouteSnapshot, in_use: Sequence[str], unhealthy: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the models to show of each route: those that jobs name, and those that are not healthy."""
    return {
        name: [
            model
            for model in sorted({*in_use, *(model for at, model in unhealthy if at == name)} - {WHOLE_ROUTE})
            if name_on_wire(route.settings, model)
        ]
        or [WHOLE_ROUTE]
        for name, route in known.routes.items()
    }


def _used_up(breaker: BreakerView) -> str:
    """Return which of the account's limits has nothing left."""
    levels = (breaker.headroom, breaker.input_headroom, breaker.output_headroom)
    names = ("requests", "input tokens", "output tokens")
    empty = [name for name, level in zip(names, levels, strict=True) if level < 1]
    return f"its limit of {' and '.join(empty) or 'calls'}"


def _finite(figure: float) -> float | None:
    return None if math.isinf(figure) else figure
