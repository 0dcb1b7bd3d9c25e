"""Routes: their status; draining, restoring, probing, limiting and removing them."""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

import redis

from trivet.admin.cluster_reading import read_cluster
from trivet.admin.cluster_status import ClusterStatus
from trivet.admin.group import Group, known_route
from trivet.admin.route_measure import RouteMeasurement, measure
from trivet.admin.route_probe import ProbeResult, probe_now
from trivet.client.connections import Connections, current_operator
from trivet.times import moment
from trivet_routing.permits import BreakerView, RouteUse
from trivet_store import events
from trivet_store.cluster import health, leases, registry, route_overrides
from trivet_store.cluster.registry import RegisteredRoute
from trivet_store.database.engine import Connection, Store
from trivet_store.reports import backlog
from trivet_store.reports.backlog import FlowRequirements
from trivet_tasks.config.route_overrides import FIGURES, Override, target_of
from trivet_tasks.config.route_settings import WHOLE_ROUTE, RouteSettings
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.requests.eligibility import misfit, name_on_wire

_MAX_PER_MINUTE = 2_000_000_000
_MAX_CALLS = 100_000


class RouteLimits(NamedTuple):
    """The limits of a route that are in force."""

    route: str
    figures: Mapping[str, Mapping[str, int | None]]
    """Requests, input, output tokens per minute and calls at once, by group of models (`*`: the route); None = no limit."""
    overrides: tuple[Override, ...]
    """Limits that were set by hand."""
    now: float
    """Seconds since the epoch, by the database's clock."""
    removed: tuple[Override, ...] = ()
    """Limits that this call removed."""


class DrainedRoute(NamedTuple):
    """A route that was taken out of service."""

    route: str
    was_drained: bool
    """True if it was out of service before."""
    queued: int
    """Jobs in its queue at that moment: they go back to waiting within two seconds."""
    running: int
    """Jobs that ran there: they end there."""


class RestoredRoute(NamedTuple):
    """A route that was put back into service."""

    route: str
    was_drained: bool


class RemovedRoute(NamedTuple):
    """A route that was removed."""

    route: str
    health_forgotten: bool
    """False: the shared state did not answer, so a route of this name begins with the health that this one had."""


class KnownRoute(NamedTuple):
    """A route that a scheduler or worker registered."""

    name: str
    settings: RouteSettings
    """Without credentials; limits as they are in force."""
    drained: bool


class Routes(Group):
    """The routes that schedulers and workers made known."""

    def known(self) -> tuple[KnownRoute, ...]:
        """Return the registered routes, by name. Cheaper than `status`.

        [route.name for route in admin.routes.known() if not route.drained]
        """
        store = self._connections.store
        with store.read() as connection:
            known = registry.registered(store, connection)
        return tuple(KnownRoute(name, route.settings, route.drained) for name, route in sorted(known.items()))

    def status(self) -> ClusterStatus:
        """Return health, limits and headroom of every route, waiting jobs with what blocks them, and living processes.

            for route in admin.routes.status().routes:
                print(route.name, [model.state for model in route.models])

        Where the shared state does not answer, `impairment` says so, and the states are those last noted in the database.
        """
        return read_cluster(self._connections)

    def breakers(self, model: str) -> Mapping[str, BreakerView]:
        """Return the state of each route's circuit breaker and limits for one model. Cheaper than `status`.

            [name for name, breaker in admin.routes.breakers("claude-haiku-4-5").items() if breaker.shut]

        Args:
            model: by its first-party id.

        Raises:
            BrokerUnavailable: the shared state does not answer.
        """
        with self._connections.requires_redis():
            return {route.name: route.breaker for route in self._connections.directory.candidates(model)}

    def drain(self, name: str, *, why: str = "", by: str | None = None) -> DrainedRoute:
        """Send a route no more jobs: within two seconds its queue is empty. It stays out until it is restored.

            admin.routes.drain("bedrock-us-east-1", why="maintenance")

        Args:
            why: the reason, for later readers.
            by: the person; None: an operator, without a name.

        Raises:
            NotFound: there is no such route.
        """
        known_route(self._connections, name)
        store = self._connections.store
        with store.write() as connection:
            before = name in registry.drained(connection)
            rows = [row for row in backlog.by_route(connection) if row.route == name]
            registry.set_drained(connection, name, True)
            if not before or why:
                who = by or "an operator"
                said = f"by {who}: {why}" if why else f"by {who}"
                events.note(connection, "route drained", said, store.now(connection), route=name)
        self._connections.tell_work()
        return DrainedRoute(name, before, sum(row.dispatched for row in rows), sum(row.running for row in rows))

    def restore(self, name: str, *, by: str | None = None) -> RestoredRoute:
        """Put a route back into service and reset its failures, pauses and learned limits.

            admin.routes.restore("bedrock-us-east-1")

        Args:
            by: as of `drain`.

        Raises:
            NotFound: there is no such route.
            BrokerUnavailable: the shared state does not answer; then nothing was changed.
        """
        connections = self._connections
        known_route(connections, name)
        with connections.requires_redis():  # first, so that while it does not answer nothing is half restored
            connections.limits.forget(name)
        with connections.store.write() as connection:
            before = name in registry.drained(connection)
            now = connections.store.now(connection)
            registry.set_drained(connection, name, False)
            events.note(connection, "route restored", f"by {by or 'an operator'}", now, route=name)
            health.forget(connection, name, now)
        connections.tell_work()
        return RestoredRoute(name, before)

    def limits(self, name: str, *, models: str | None = None) -> RouteLimits:
        """Return the limits of a route that are in force, and those among them that were set by hand.

            admin.routes.limits("anthropic").figures["*"]["requests_per_minute"]

        Args:
            models: a model or a glob, to check that it can have limits of its own.

        Raises:
            NotFound: there is no such route.
            InvalidRequest: the models share their limits with others.
        """
        route = known_route(self._connections, name)
        target_of(route.settings, models)
        return _limits_of(self._connections, route)

    def limit(
        self,
        name: str,
        figures: Mapping[str, int],
        *,
        models: str | None = None,
        for_s: float | None = None,
        until: float | None = None,
        by: str | None = None,
    ) -> RouteLimits:
        """Set limits of a route by hand, in force everywhere within two seconds and over restarts.

        They beat the configuration files until their time is over or they are reset.

            admin.routes.limit("anthropic", {"requests_per_minute": 600}, for_s=7_200)

        Args:
            figures: `requests_per_minute`, `input_tokens_per_minute`, `output_tokens_per_minute` and `max_concurrency`,
                any of them.
            models: a group of limits, a model or a glob; None: the route's own figures.
            for_s: seconds until they end.
            until: the moment when they end, seconds since the epoch. Without both they stay until they are reset.
            by: the person; None: the user of this process.

        Raises:
            NotFound: there is no such route.
            InvalidRequest: a figure or the time is wrong, or the models share their limits with others.
        """
        checked = _checked_figures(figures)
        if for_s is not None and for_s < 0:
            raise InvalidRequest(f"for_s: {for_s:g} is no time to come.", field="for_s")
        if for_s is not None and until is not None:
            raise InvalidRequest("Give for_s or until, not both.", field="until")
        target = target_of(known_route(self._connections, name).settings, models)
        store = self._connections.store
        with store.write() as connection:
            now = store.now(connection)
            until = until if for_s is None else now + for_s
            if until is not None and until < now:
                raise InvalidRequest(f"until: {moment(until)} is no moment to come.", field="until")
            route_overrides.put(store, connection, name, target, checked, by=by or current_operator(), until=until)
        self._connections.tell_work()
        return _limits_of(self._connections, known_route(self._connections, name))

    def reset_limits(self, name: str, *, models: str | None = None, by: str | None = None) -> RouteLimits:
        """Remove limits that were set by hand; those of the configuration hold again.

            admin.routes.reset_limits("anthropic").removed

        Args:
            models: only limits of these models; None: all limits of the route.
            by: the person; None: the user of this process.

        Raises:
            NotFound: there is no such route.
            InvalidRequest: the models share their limits with others.
        """
        route = known_route(self._connections, name)
        by_hand = {override.models for override in route.overrides}
        target = models if models in by_hand else target_of(route.settings, models)
        store = self._connections.store
        with store.write() as connection:
            of_models = None if models is None else target
            removed = route_overrides.reset(store, connection, name, of_models, by=by or current_operator())
        self._connections.tell_work()
        return _limits_of(self._connections, known_route(self._connections, name))._replace(removed=tuple(removed))

    def probe(self, name: str, *, model: str | None = None) -> ProbeResult:
        """Make one probe of a route now, drained, open or healthy: a call of one token by a worker, priced like any other.

        It counts for the route's health as a probe of the scheduler's does.

            admin.routes.probe("anthropic").outcome

        Args:
            model: one that it serves; None: one in use.

        Raises:
            NotFound: there is no such route.
            InvalidRequest: the route does not serve the model.
            ProbeNotMade: no call was made; says why.
            BrokerUnavailable: the shared state or the broker does not answer.
        """
        return probe_now(self._connections, known_route(self._connections, name), model)

    def measure(
        self,
        names: Sequence[str] = (),
        *,
        model: str | None = None,
        calls: int = 20,
        max_usd: Decimal = Decimal("0.05"),
        on_call: Callable[[], None] = lambda: None,
    ) -> tuple[RouteMeasurement, ...]:
        """Measure routes with real calls: time to the first token, and tokens per second. All at once, each call by call.

        Workers make the calls, under the routes' limits. They are booked as probes and count for health as probes do.

            for measured in admin.routes.measure(["anthropic"], calls=10):
                print(measured.route, measured.first_token_s.p50, measured.tokens_per_s.p50)

        Args:
            names: none: every route that is in service.
            model: None: one in use that the route serves.
            calls: calls per route, from 2 on: one token and a longer answer in turn.
            max_usd: limit over all routes. A call that might exceed it is not made.
            on_call: called after each call, from several threads.

        Raises:
            NotFound: there is no such route.
            InvalidRequest: fewer than 2 calls, no money, or a route that does not serve the model.
            BrokerUnavailable: the shared state or the broker does not answer.
            MeasurementInterrupted: Ctrl-C; it has what was measured so far.
        """
        named = [known_route(self._connections, name) for name in dict.fromkeys(names)]
        return measure(self._connections, named, model=model, calls=calls, max_usd=max_usd, on_call=on_call)

    def remove(self, name: str, *, by: str | None = None) -> RemovedRoute:
        """Remove a route that no living worker serves and no job needs. Its calls and costs stay.

        Where a file still has it, a process that reads the file registers it again, drained.

            admin.routes.remove("bedrock-us-west-2")

        Args:
            by: the person; None: the user of this process.

        Raises:
            NotFound: there is no such route.
            InvalidRequest: a worker serves it, or jobs need it; says what to do.
        """
        known_route(self._connections, name)
        store = self._connections.store
        with store.write() as connection:
            _check_removable(store, connection, name)
            registry.remove(connection, name, by or current_operator(), store.now(connection))
        try:
            self._connections.limits.forget(name)
        except redis.RedisError:
            return RemovedRoute(name, False)
        return RemovedRoute(name, True)

    def last_used(self, names: Sequence[str]) -> Mapping[str, RouteUse]:
        """Return the seconds since each of these routes was called and answered last. It needs no database.

            admin.routes.last_used(["anthropic"])["anthropic"].proven_s

        Raises:
            BrokerUnavailable: the shared state does not answer.
        """
        with self._connections.requires_redis():
            return self._connections.limits.uses(names)


def _limits_of(connections: Connections, route: RegisteredRoute) -> RouteLimits:
    """Return the limits of a route as it was just read."""
    settings = route.settings
    holders = {WHOLE_ROUTE: settings, **{group.name: group for group in settings.limits}}
    figures = {name: {figure: getattr(holder, figure) for figure in FIGURES} for name, holder in holders.items()}
    return RouteLimits(route.name, figures, route.overrides, connections.store.clock.reckoned())


def _checked_figures(figures: Mapping[str, int]) -> Mapping[str, int]:
    """Return the figures in their order.

    Raises:
        InvalidRequest: there is none, one has an unknown name, or is out of range.
    """
    if not figures:
        raise InvalidRequest("figures: no limit is given.", field="figures", hint=f"Give any of: {', '.join(FIGURES)}.")
    for name, value in figures.items():
        if name not in FIGURES:
            raise InvalidRequest(f"figures: {name!r} is no limit.", field="figures", hint=f"Use {', '.join(FIGURES)}.")
        most = _MAX_CALLS if name == "max_concurrency" else _MAX_PER_MINUTE
        if not 1 <= value <= most:
            raise InvalidRequest(f"figures: {name} is {value}; it is 1 to {most:,}.", field="figures")
    return {name: figures[name] for name in FIGURES if name in figures}


def _check_removable(store: Store, connection: Connection, name: str) -> None:
    """Refuse to remove a route that a living worker serves, where jobs are queued or run, or that some need.

    Raises:
        InvalidRequest: says what prevents it, and what to do about it.
    """
    if workers := [lease.worker for lease in leases.living(store, connection) if name in lease.routes]:
        raise _refused(
            name,
            f"a worker serves it: {', '.join(workers)}",
            "Stop it, or take the route out of its file and restart it.",
        )
    here = [row for row in backlog.by_route(connection) if row.route == name]
    if jobs := sum(row.dispatched + row.running for row in here):
        raise _refused(
            name, f"it has {jobs:,} jobs queued or running there", f"`trivet route drain {name}`, then wait."
        )
    known = registry.registered(store, connection)
    others = {route.name: route.settings for route in known.values() if route.name != name and not route.drained}
    for needed in backlog.requirements_of_living(connection):
        if _fits(needed, known[name].settings) and not any(_fits(needed, other) for other in others.values()):
            raise _refused(
                name,
                f"it is the only route for {needed.latency} jobs of {needed.model} that have not ended",
                "Add a route that takes them, or cancel these jobs.",
            )


def _fits(needed: FlowRequirements, route: RouteSettings) -> bool:
    named = name_on_wire(route, needed.model)
    return not misfit(route, named, needed.model, needed.residency, needed.compliance, needed.features)


def _refused(name: str, why: str, hint: str) -> InvalidRequest:
    return InvalidRequest(f"{name} is not removed: {why}.", field="name", hint=hint)
