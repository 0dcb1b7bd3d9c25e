"""Reading the status of a cluster out of the database and the shared state."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import redis

from trivet.admin.blocked_reason import BlockedReason, blocked_reasons
from trivet.admin.budget_status import statuses
from trivet.admin.cluster_status import ClusterStatus, ModelStatus, RouteStatus
from trivet.admin.impairments import Processes, full_disk, impairments, lacking_lanes, read_processes
from trivet_routing.liveness.process_impairments import Announced, announced
from trivet_routing.permits import BreakerView, Quota, RouteUse
from trivet_routing.route_directory import RouteDirectory, RouteSnapshot
from trivet_store.cluster import health
from trivet_store.cluster.health import Event, HealthRow, LimitRow
from trivet_store.jobs import dropped
from trivet_store.ledger import spending
from trivet_store.ledger.spending import Spent
from trivet_store.reports import backlog
from trivet_store.reports.backlog import RouteBacklog
from trivet_tasks.config.route_settings import WHOLE_ROUTE
from trivet_tasks.requests.eligibility import name_on_wire
from trivet_tasks.shared_state import check_writable
from trivet_tasks.states import RouteState

if TYPE_CHECKING:
    from trivet.client.connections import Connections

SHORT_WAIT_S = 1.0
"""A route that waits less than this for its own minute limits is busy, not limited."""


@dataclass(frozen=True, slots=True)
class _Noted:
    """Health and limits as the database has them."""

    states: Mapping[tuple[str, str], HealthRow]
    closed: Mapping[tuple[str, str], LimitRow]
    drains: Mapping[str, Event]


def read_cluster(connections: "Connections") -> ClusterStatus:
    """Read the whole status: a few SQL queries over living jobs, and five round trips to the shared state.

    Raises:
        StoreUnavailable, SchemaMismatch. When the shared state does not answer, `impairment` says so.
    """
    store, directory = connections.store, connections.directory
    known = directory.known(fresh=True)
    with store.read() as connection:
        models = backlog.models_in_use(connection)
        outstanding = tuple(backlog.by_route(connection))
        waiting = tuple(backlog.by_class(connection))
        lines = backlog.lines_waiting(connection)
        budgets = statuses(store, connection, directory.costs) if known.budgets else ()
        spent = spending.by_route(connection, store.now(connection))
        processes = read_processes(store, connection, connections.settings.leases.ttl_s)
        now = store.now(connection)
        drops = tuple(dropped.read(connection))
        noted = _Noted(
            {(row.route, row.model): row for row in health.noted(connection)},
            {(row.route, row.models): row for row in health.closed(connection, now)},
            health.last_drains(connection) if any(route.drained for route in known.routes.values()) else {},
        )
    breakers: dict[tuple[str, str], BreakerView] = {}
    uses: dict[str, RouteUse] = {}
    held: tuple[BlockedReason, ...] = ()
    impairment = None
    served = _served(known, models, ())
    said: list[Announced] = []
    try:
        said = announced(connections.redis)
        check_writable(connections.redis)
        served = _served(known, models, directory.limits.unhealthy())
        breakers = _view(directory, known, served)
        uses = directory.limits.uses(list(known.routes))
        held = tuple(blocked_reasons(connections, lines))
    except redis.RedisError as error:
        impairment = str(connections.unavailable(error))
    if full := full_disk(store):
        impairment = f"{full} {impairment}" if impairment else full
    lanes = connections.settings.worker.lanes
    routes = [
        _route(
            known, processes, lanes, name,
            [_model(known, name, model, breakers.get((name, model)), noted, uses.get(name)) for model in served[name]],
            outstanding, noted, spent, _proven_at(uses.get(name), now),
        )
        for name in known.routes
    ]  # fmt: skip
    for name, settings in connections.settings.routes.items():
        if name not in known.routes:
            nothing = ModelStatus(WHOLE_ROUTE, RouteState.UNKNOWN, Quota.of(settings, WHOLE_ROUTE))
            routes.append(RouteStatus(name, settings, False, False, 0, 0, {}, {}, (nothing,)))
    drained = {name: route.drained for name, route in known.routes.items()}
    return ClusterStatus(
        tuple(routes), outstanding, waiting, processes.workers, held, now, impairment, tuple(said), budgets,
        processes.schedulers, processes.silent,
        impairments(processes, drained, lanes, now, said=said, server=impairment),
        drops,
    )  # fmt: skip


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


def _view(
    directory: RouteDirectory, known: RouteSnapshot, served: Mapping[str, Sequence[str]]
) -> dict[tuple[str, str], BreakerView]:
    return directory.limits.view(
        [(name, model, Quota.of(known.routes[name].settings, model)) for name, models in served.items() for model in models]
    )  # fmt: skip


def _route(
    known: RouteSnapshot,
    processes: Processes,
    lanes: Sequence[str],
    name: str,
    models: Sequence[ModelStatus],
    outstanding: Sequence[RouteBacklog],
    noted: _Noted,
    spent: Mapping[str, Spent],
    proven_at: float | None,
) -> RouteStatus:
    route = known.routes[name]
    able = [lease for lease in known.leases if lease.takes(name)]
    drain = noted.drains.get(name) if route.drained else None
    return RouteStatus(
        name=name,
        settings=route.settings,
        drained=route.drained,
        known=True,
        queued=sum(row.dispatched for row in outstanding if row.route == name),
        running=sum(row.running for row in outstanding if row.route == name),
        slots={lane: known.slots(name, lane) for lane in known.lanes(name)},
        workers=Counter(lease.lane for lease in able),
        models=tuple(models),
        drained_at=drain.at if drain else None,
        drained_why=drain.text if drain else "",
        window=known.windows.get(name),
        overrides=route.overrides,
        version_at=route.version_at,
        version_by=route.version_by,
        lacking=lacking_lanes(name, processes.workers, lanes),
        scheduled=bool(processes.schedulers),
        spent=spent.get(name, Spent()),
        proven_at=proven_at,
    )


def _proven_at(use: RouteUse | None, now: float) -> float | None:
    return None if use is None or use.proven_s is None else now - use.proven_s


def _model(
    known: RouteSnapshot, route: str, model: str, breaker: BreakerView | None, noted: _Noted, use: RouteUse | None
) -> ModelStatus:
    quota = Quota.of(known.routes[route].settings, model)
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
        model,
        state,
        quota,
        cause,
        since,
        breaker.wait_s,
        breaker.share,
        breaker.in_flight,
        breaker.places,
        _finite(breaker.headroom),
        _finite(breaker.input_headroom),
        _finite(breaker.output_headroom),
        (_finite(60 * breaker.rates[0]), _finite(60 * breaker.rates[1]), _finite(60 * breaker.rates[2])),
        breaker.calls,
        breaker.failed,
        breaker.paces,
        breaker.doubt,
    )


def _used_up(breaker: BreakerView) -> str:
    """Return which of the account's limits has nothing left."""
    levels = (breaker.headroom, breaker.input_headroom, breaker.output_headroom)
    names = ("requests", "input tokens", "output tokens")
    empty = [name for name, level in zip(names, levels, strict=True) if level < 1]
    return f"its limit of {' and '.join(empty) or 'calls'}"


def _finite(figure: float) -> float | None:
    return None if math.isinf(figure) else figure
