"""Hedging: a realtime call that is slower than usual for its route gets a second call on another; the first answer wins.

The hedge is an attempt of its own, with a permit, a row and a price; the loser is dropped and its cost, which is not
known exactly, is recorded as an estimate.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import redis
from uuid_utils import uuid7

from trivet_routing.permits import PermitRelease, PermitRequest, Quota
from trivet_routing.route_choice import choose, load_of, misfit
from trivet_store.jobs.claiming import add_attempt
from trivet_store.steps import CallTarget, ClaimedJob
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.errors import StoreUnavailable, place_of
from trivet_tasks.jobs import permit_id
from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import HealthSignal
from trivet_tasks.requests.eligibility import name_on_wire
from trivet_tasks.states import AttemptPurpose
from trivet_worker.run.calls import LEAST_S, Call, is_full_time, requirements_of
from trivet_worker.run.context import WorkerContext

log = logging.getLogger("trivet.worker")

THREADS = 4
MAX_SAVED = 10.0
"""Maximum number of hedges saved up in quiet times: when a route turns slow, every call would ask for one."""


class Hedger:
    """Starts hedges, at most the set share of the class's calls. One per worker process."""

    def __init__(self, context: WorkerContext, launch: Callable[[Call], None]) -> None:
        """Prepare; no hedge is started yet.

        Args:
            launch: starts a second call for a job whose first is still under way (`Calls.join`).
        """
        self._settings = context.settings
        self._store = context.store
        self._directory = context.directory
        self._slots = context.slots
        self._pricing = context.pricing
        self._served = context.served
        self._launch = launch
        self._credit = 0.0
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="trivet-hedge")

    def count_calls(self, calls: int) -> None:
        """Count first calls: each adds its share to the hedges that may be made."""
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
        second = self._second(call)
        if second is None or self._slots.take(1, 0) == 0:
            return False
        hedge = None
        try:
            left_s = call.ends_at - time.monotonic()
            if left_s >= LEAST_S:
                hedge = self._claim(call, *second, left_s)
        finally:
            if hedge is None:
                self._slots.give(1)
        if hedge is None:
            return False
        call.wait_group.add(1)
        self._launch(hedge)
        waited_ms = 1e3 * (time.monotonic() - asked)
        log.info("a call on %s is slow: asked %s too, %.0f ms later", call.target.route, hedge.target.route, waited_ms)
        return True

    def _claim(self, call: Call, target: CallTarget, route: RouteSettings, left_s: float) -> Call | None:
        """Take a permit and write the attempt's row. None where there is no permit, or the job is not ours any more."""
        job, quota, attempt_id = call.job, Quota.of(route, target.model), uuid7().hex
        request = PermitRequest(permit_id(target.lease_id, attempt_id), job.input_estimate, job.max_tokens)
        limits = self._directory.limits
        grant = limits.take(target.route, target.model, target.latency, quota, [request], left_s)
        if not grant.permits:
            return None
        (permit,) = grant.permits
        job = job._replace(target=target, attempt_id=attempt_id, permit=permit)
        written = False
        try:
            written = self._write(job, route)
        finally:
            if not written:
                unused = PermitRelease(permit, 0, 0, HealthSignal.UNUSED)
                limits.release(target.route, target.model, target.latency, quota, [unused])
        hedge = replace(
            call,
            job=job,
            route=route,
            timeout_s=left_s,
            full_time=is_full_time(left_s, call.allowed),
            hedge_after_s=None,
            born_at=time.monotonic(),
        )
        return hedge if written else None

    def _write(self, job: ClaimedJob, route: RouteSettings) -> bool:
        # `add_attempt` raises it where the request is marked for a cache
        estimate = self._pricing.maximum_cost(job.target, route, job.input_estimate, job.max_tokens)
        with self._store.write() as connection:
            now = self._store.now(connection)
            return add_attempt(connection, job, now=now, estimate=estimate, purpose=AttemptPurpose.HEDGE)

    def _second(self, call: Call) -> tuple[CallTarget, RouteSettings] | None:
        """Return the best route for a second call, if this process may make calls there."""
        job, target = call.job, call.target
        requirements = requirements_of(job, (*job.round.tried, target.route))
        here = [route for route in self._directory.candidates(target.model) if self._served.takes(route.name)]
        best = choose(requirements, here, self._settings.of_class(target.latency)).best(load_of)
        if best is None:
            return None
        route = self._served.now(best.name)
        wire_model = name_on_wire(route, target.model)
        if wire_model is None or misfit(requirements, route, wire_model):
            return None
        return replace(target, route=best.name, provider=route.provider, wire_model=wire_model), route
