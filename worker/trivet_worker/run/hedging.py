"""Hedging: a realtime call that is slower than usual for its route gets a second call on another; the first answer wins.

The hedge is an attempt of its own, with a permit, a row and a price; the loser is dropped and its cost, which is not
known exactly, is recorded as an estimate.
"""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import redis
from uuid_utils import uuid7

from trivet_routing.permits import PermitRelease, PermitRequest, Quota
from trivet_routing.route_choice import Candidate, Requirements, choose, load_of
from trivet_routing.route_directory import RouteDirectory
from trivet_store.database.engine import Store
from trivet_store.jobs.claiming import CallTarget, add_attempt
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import StoreUnavailable, place_of
from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import HealthSignal
from trivet_tasks.requests.eligibility import misfit, name_on_wire
from trivet_tasks.states import AttemptPurpose
from trivet_worker.run.calls import Call, Calls
from trivet_worker.run.deadlines import LEAST_S, is_full_time
from trivet_worker.run.pricing import Pricing
from trivet_worker.run.served_routes import ServedRoutes
from trivet_worker.run.slots import Slots

log = logging.getLogger("trivet.worker")

THREADS = 4
MAX_SAVED = 10.0
"""Maximum number of hedges saved up in quiet times: when a route turns slow, every call would ask for one."""


class Hedger:
    """Starts hedges, at most the set share of the class's calls. One per worker process."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        directory: RouteDirectory,
        slots: Slots,
        pricing: Pricing,
        served: ServedRoutes,
    ) -> None:
        self._settings = settings
        self._store = store
        self._directory = directory
        self._slots = slots
        self._pricing = pricing
        self._served = served
        self._calls: Calls | None = None
        self._credit = 0.0
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="trivet-hedge")

    def attach(self, calls: Calls) -> None:
        """Set where hedges are launched."""
        self._calls = calls

    def counted(self, calls: int) -> None:
        """Count first calls; each earns its share of a hedge."""
        share = self._settings.of_class(Latency.REALTIME).hedge_share
        with self._lock:
            self._credit = min(MAX_SAVED, self._credit + share * calls)

    def ask(self, call: Call) -> None:
        """Start a hedge for a slow call, if share, slot and route allow. Returns at once; called from the event loop."""
        with self._lock:
            if self._credit < 1:
                return
            self._credit -= 1
        self._threads.submit(self._hedge_safely, call, time.monotonic())

    def close(self) -> None:
        """Start no more hedges."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _hedge_safely(self, call: Call, asked: float) -> None:
        launched = False
        try:
            launched = self._hedge(call, asked)
        except (redis.RedisError, StoreUnavailable) as error:
            log.error("no hedge for a slow call: %s", error)
        except Exception as error:  # the first call goes on all the same
            log.error("no hedge for a slow call, by a fault of Trivet's own: %s", place_of(error))
        if not launched:
            with self._lock:
                self._credit += 1

    def _hedge(self, call: Call, asked: float) -> bool:
        route = self._second(call)
        if route is None:
            return False
        settings = self._served.now(route.name)
        wire_model = name_on_wire(settings, route.model)
        job = call.job
        unfit = misfit(settings, wire_model, route.model, job.residency, job.compliance, job.features)
        if wire_model is None or unfit or self._slots.take(1, 0) == 0:
            return False
        target = CallTarget(
            call.target.lease_id,
            route.name,
            settings.provider,
            call.target.model,
            wire_model,
            call.target.latency,
        )
        quota = Quota.of(settings, target.model)
        attempt_id = uuid7().hex
        permit = PermitRequest(f"{target.lease_id}:{attempt_id}", call.job.input_estimate, call.job.max_tokens)
        left_s = call.ends_at - time.monotonic()
        launched = False
        generation = ""
        try:
            if left_s < LEAST_S:
                return False
            grant = self._directory.limits.take(route.name, target.model, quota, [permit], left_s)
            generation = grant.generation
            if not grant.granted:
                return False
            try:
                launched = self._write(call, target, settings, attempt_id)
            finally:
                if not launched:
                    unused = PermitRelease(permit, 0, 0, HealthSignal.UNUSED, generation=generation)
                    self._directory.limits.release(route.name, target.model, Latency(target.latency), quota, [unused])
        finally:
            if not launched:
                self._slots.give(1)
        if not launched:
            return False  # the job is not ours any more
        hedge = replace(
            call,
            job=call.job._replace(attempt_id=attempt_id),
            target=target,
            route=settings,
            quota=quota,
            permit=permit,
            generation=generation,
            timeout_s=left_s,
            full_time=is_full_time(left_s, self._settings.of_class(Latency(target.latency))),
            hedge_after_s=None,
        )
        assert self._calls is not None
        call.wait_group.add(1)
        self._calls.join(hedge)
        log.info(
            "a call on %s is slow: asked %s too, %.0f ms later",
            call.target.route,
            route.name,
            1e3 * (time.monotonic() - asked),
        )
        return True

    def _write(self, call: Call, target: CallTarget, route: RouteSettings, attempt_id: str) -> bool:
        # `add_attempt` raises it where the request is marked for a cache
        estimate = self._pricing.maximum(target, route, call.job.input_estimate, call.job.max_tokens)
        with self._store.write() as connection:
            return add_attempt(
                connection,
                target,
                call.job,
                attempt_id,
                now=self._store.now(connection),
                estimate=estimate,
                purpose=AttemptPurpose.HEDGE,
            )

    def _second(self, call: Call) -> Candidate | None:
        job, target = call.job, call.target
        latency = Latency(target.latency)
        tried = (*job.tried.split(","), target.route)
        requirements = Requirements(
            target.model, latency, job.residency, job.compliance, job.features, tried, job.doubted_by
        )
        here = [route for route in self._directory.candidates(target.model) if self._served.takes(route.name)]
        return choose(requirements, here, self._settings.of_class(latency)).best(load_of)
