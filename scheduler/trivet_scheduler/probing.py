"""Probes: tiny calls that find out whether a route that is open, or idle, answers.

Any scheduler may look; the shared state hands out one probe at a time for all of them. The probe itself is a job and
a message to the route's own queue, made by a worker like any other call.
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence

import redis
from celery import Celery

from trivet_routing.permits import Quota
from trivet_routing.route_directory import RouteDirectory
from trivet_store.cluster.registry import RegisteredRoute
from trivet_store.database.engine import Store
from trivet_store.jobs.enqueue import PING, ProbeRequest, insert_probe
from trivet_store.reports import backlog
from trivet_tasks.catalog import MODELS
from trivet_tasks.config.route_settings import WHOLE_ROUTE
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import BrokerUnavailable, StoreUnavailable, place_of
from trivet_tasks.latency import Latency
from trivet_tasks.messages import Chunk, publish
from trivet_tasks.requests.eligibility import day_of, name_on_wire, retired_on

log = logging.getLogger("trivet.scheduler")

SETTLED_WITHIN_S = 2.0
"""Seconds allowed to a probe beside its call, for recording it."""


_IDLE_LOOK_SHARE = 0.05
"""Time between two looks for idle routes, as a share of the shortest `idle_probe_s`."""
_IDLE_LOOK_S = (0.5, 5.0)
"""Minimum and maximum of that time, in seconds."""


@contextlib.contextmanager
def _others_go_on(route: str, model: str) -> Iterator[None]:
    """Log a fault with one probe, so that the others are still made."""
    try:
        yield
    except (StoreUnavailable, BrokerUnavailable, redis.RedisError):
        raise
    except Exception as error:
        log.error("no probe of %s %s by a fault of Trivet's own: %s", route, model, place_of(error))


class Prober:
    """Sends the probes that are due."""

    def __init__(self, store: Store, directory: RouteDirectory, app: Celery, settings: Settings) -> None:
        self._store = store
        self._directory = directory
        self._app = app
        self._settings = settings
        self._idle_look_at = 0.0
        """Next look for idle routes, on the monotonic clock."""

    def run(self) -> None:
        """Send every probe that is due; one round trip when all routes are healthy, two more to look for idle ones.

        Raises:
            StoreUnavailable, BrokerUnavailable, redis.RedisError: a claimed probe counts as lost after its time.
        """
        unhealthy = self._directory.limits.unhealthy()
        self._probe_unhealthy(unhealthy)
        if time.monotonic() >= self._idle_look_at:
            self._probe_idle(unhealthy)

    def _probe_unhealthy(self, unhealthy: Sequence[tuple[str, str]]) -> None:
        known = self._directory.known().routes if unhealthy else {}
        for name, model in unhealthy:
            route = known.get(name)
            if route is None or route.drained:
                continue
            with _others_go_on(name, model):
                self.probe(route, self._model_for(route, unhealthy) if model == WHOLE_ROUTE else model)

    def _probe_idle(self, unhealthy: Sequence[tuple[str, str]]) -> None:
        """Probe the healthy routes that were not called for their `idle_probe_s`."""
        after_s = {
            name: idle_s
            for name, route in self._directory.known().routes.items()
            if not route.drained and (name, WHOLE_ROUTE) not in unhealthy and (idle_s := self._idle_probe_s(route))
        }
        shortest_s = min(after_s.values(), default=_IDLE_LOOK_S[1] / _IDLE_LOOK_SHARE)
        self._idle_look_at = time.monotonic() + min(
            max(shortest_s * _IDLE_LOOK_SHARE, _IDLE_LOOK_S[0]), _IDLE_LOOK_S[1]
        )
        if not after_s:
            return
        routes, uses = self._directory.known().routes, self._directory.limits.uses(list(after_s))
        for name, idle_s in after_s.items():
            since_s = uses[name].idle_s
            if since_s is None or since_s >= idle_s:
                with _others_go_on(name, WHOLE_ROUTE):
                    self.probe(routes[name], self._model_for(routes[name], unhealthy), idle_s=idle_s)

    def _idle_probe_s(self, route: RegisteredRoute) -> float:
        own = route.settings.idle_probe_s
        return self._settings.health.idle_probe_s if own is None else own

    def probe(
        self,
        route: RegisteredRoute,
        model: str | None,
        *,
        at_once: bool = False,
        idle_s: float = 0.0,
        request: ProbeRequest = PING,
    ) -> str | None:
        """Send one probe, if it is due or asked for at once. Returns its job's id; None when none was sent.

        Args:
            idle_s: send it if the route was not called for this many seconds.
            request: the request to send.
        """
        latency = self._class_for(route.name)
        if model is None or latency is None or name_on_wire(route.settings, model) is None:
            return None
        taken_within_s = self._settings.dispatch.taken_within_s
        token = self._directory.limits.claim_probe(
            route.name,
            model,
            Quota.of(route.settings, model),
            lost_after_s=taken_within_s + self._settings.health.probe_timeout_s + SETTLED_WITHIN_S,
            at_once=at_once,
            idle_s=idle_s,
        )
        if token is None:
            return None
        with self._store.write() as connection:
            job = insert_probe(
                self._store,
                connection,
                route=route.name,
                model=model,
                latency=latency,
                taken_within_s=taken_within_s,
                request=request,
            )
        chunk = Chunk(route.name, route.settings.provider, latency, model, (job,), probe=token)
        publish(self._app, [chunk])
        log.info("probing %s %s", route.name, model)
        return job.id

    def model_of(self, route: RegisteredRoute) -> str | None:
        """Return a model to probe a whole route with: one in use that the route serves, else any it serves."""
        return self._model_for(route, ())

    def _model_for(self, route: RegisteredRoute, unhealthy: Sequence[tuple[str, str]]) -> str | None:
        with self._store.read() as connection:
            in_use = backlog.models_in_use(connection)
        today = day_of(self._directory.now())
        served: list[str] = [
            model
            for model in [*in_use, *(model.id for model in MODELS)]
            if name_on_wire(route.settings, model) and not retired_on(model, route.settings, today)
        ]
        # one whose own breaker is open, too, may have to wait much longer
        return next((model for model in served if (route.name, model) not in unhealthy), served[0] if served else None)

    def _class_for(self, route: str) -> Latency | None:
        lanes = self._directory.known().lanes(route)
        return next((latency for latency in (Latency.BATCH, Latency.REALTIME) if latency.lane in lanes), None)
