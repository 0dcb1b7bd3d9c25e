"""Hedging: a realtime call that is slower than its route usually is gets a rival on a second route; the first answer wins.

The rival is an attempt of its own, with a permit, a row and a price; the loser is dropped and its cost, which nobody
knows exactly, is written down as an estimate.
"""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import redis
from uuid_utils import uuid7

from trivet_routing.fleet import Fleet
from trivet_routing.permits import Quota, Spent, Verdict, Want
from trivet_routing.route_choice import Candidate, Needs, choose, load_of
from trivet_store.database.engine import Store
from trivet_store.jobs.taking import Worksite, add_attempt
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.faults import place_of
from trivet_tasks.latency import Latency
from trivet_tasks.requests.eligibility import misfit, name_on_wire
from trivet_tasks.states import AttemptPurpose
from trivet_worker.run.deadlines import LEAST_S, is_full_time
from trivet_worker.run.flights import Flight, Flights
from trivet_worker.run.pricing import Pricing
from trivet_worker.run.served_routes import ServedRoutes
from trivet_worker.run.slots import Slots

log = logging.getLogger("trivet.worker")

THREADS = 4
MOST_SAVED = 10.0
"""Rivals that quiet times save up at most: when a route turns slow, every call would want one."""


class Hedger:
    """Starts rivals, at most the set share of the class's calls. One per worker process."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        fleet: Fleet,
        slots: Slots,
        pricing: Pricing,
        served: ServedRoutes,
    ) -> None:
        self._settings = settings
        self._store = store
        self._fleet = fleet
        self._slots = slots
        self._pricing = pricing
        self._served = served
        self._flights: Flights | None = None
        self._credit = 0.0
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="trivet-hedge")

    def attach(self, flights: Flights) -> None:
        """Where rivals are launched."""
        self._flights = flights

    def counted(self, calls: int) -> None:
        """So many first calls were made; each earns its share of a rival."""
        share = self._settings.of_class(Latency.REALTIME).hedge_share
        with self._lock:
            self._credit = min(MOST_SAVED, self._credit + share * calls)

    def ask(self, flight: Flight) -> None:
        """The call is slow: give it a rival, if one may be had. Returns at once; called from the event loop."""
        with self._lock:
            if self._credit < 1:
                return
            self._credit -= 1
        self._threads.submit(self._hedge_safely, flight, time.monotonic())

    def close(self) -> None:
        """No more rivals."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _hedge_safely(self, flight: Flight, asked: float) -> None:
        launched = False
        try:
            launched = self._hedge(flight, asked)
        except (redis.RedisError, StoreUnavailable) as error:
            log.error("no rival for a slow call: %s", error)
        except Exception as error:  # the first call goes on all the same
            log.error("no rival for a slow call, by a fault of Trivet's own: %s", place_of(error))
        if not launched:
            with self._lock:
                self._credit += 1

    def _hedge(self, flight: Flight, asked: float) -> bool:
        route = self._second(flight)
        if route is None:
            return False
        settings = self._served.now(route.name)
        wire_model = name_on_wire(settings, route.model)
        job = flight.job
        unfit = misfit(settings, wire_model, route.model, job.residency, job.compliance, job.features)
        if wire_model is None or unfit or self._slots.take(1, 0) == 0:
            return False
        site = Worksite(
            flight.site.lease_id,
            route.name,
            settings.provider,
            flight.site.model,
            wire_model,
            flight.site.latency,
        )
        quota = Quota.of(settings, site.model)
        attempt_id = uuid7().hex
        want = Want(f"{site.lease_id}:{attempt_id}", flight.job.input_estimate, flight.job.max_tokens)
        left_s = flight.ends_at - time.monotonic()
        launched = False
        generation = ""
        try:
            if left_s < LEAST_S:
                return False
            grant = self._fleet.limits.take(route.name, site.model, quota, [want], left_s)
            generation = grant.generation
            if not grant.granted:
                return False
            try:
                launched = self._write(flight, site, settings, attempt_id)
            finally:
                if not launched:
                    unused = Spent(want, 0, 0, Verdict.UNUSED, generation=generation)
                    self._fleet.limits.settle(route.name, site.model, Latency(site.latency), quota, [unused])
        finally:
            if not launched:
                self._slots.give(1)
        if not launched:
            return False  # the job is not ours any more
        rival = replace(
            flight,
            job=flight.job._replace(attempt_id=attempt_id),
            site=site,
            route=settings,
            quota=quota,
            want=want,
            generation=generation,
            timeout_s=left_s,
            full_time=is_full_time(left_s, self._settings.of_class(Latency(site.latency))),
            hedge_after_s=None,
        )
        assert self._flights is not None
        flight.countdown.add(1)
        self._flights.join(rival)
        log.info(
            "a call on %s is slow: asked %s too, %.0f ms later",
            flight.site.route,
            route.name,
            1e3 * (time.monotonic() - asked),
        )
        return True

    def _write(self, flight: Flight, site: Worksite, route: RouteSettings, attempt_id: str) -> bool:
        # `add_attempt` raises it where the request is marked for a cache
        estimate = self._pricing.most(site, route, flight.job.input_estimate, flight.job.max_tokens)
        with self._store.write() as connection:
            return add_attempt(
                connection,
                site,
                flight.job,
                attempt_id,
                now=self._store.now(connection),
                estimate=estimate,
                purpose=AttemptPurpose.HEDGE,
            )

    def _second(self, flight: Flight) -> Candidate | None:
        job, site = flight.job, flight.site
        latency = Latency(site.latency)
        tried = (*job.tried.split(","), site.route)
        needs = Needs(site.model, latency, job.residency, job.compliance, job.features, tried, job.doubted_by)
        here = [route for route in self._fleet.candidates(site.model) if self._served.takes(route.name)]
        return choose(needs, here, self._settings.of_class(latency)).best(load_of)
