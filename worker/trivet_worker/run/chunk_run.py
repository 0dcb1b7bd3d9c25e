"""Run of one chunk: slots, permits, the fenced claim, the calls; jobs without a slot or permit go back."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import redis
from uuid_utils import uuid7

from trivet_routing.liveness.process_impairments import DATABASE, SHARED_STATE
from trivet_routing.permits import Denial, PermitGrant, PermitRelease, PermitRequest, Quota
from trivet_routing.route_choice import SLOW_CALLS, Candidate, choose
from trivet_store.events import Drop
from trivet_store.jobs.claiming import ClaimResult, claim, give_back
from trivet_store.steps import CallTarget, ClaimedJob
from trivet_tasks.call_times import CallTime, call_time, longest_call_s
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.jobs import DispatchedJob, Permit, permit_id
from trivet_tasks.latency import Lane, Latency, kept_slots
from trivet_tasks.messages import Chunk
from trivet_tasks.outcomes import HealthSignal, Outcome
from trivet_tasks.requests.eligibility import misfit, name_on_wire
from trivet_tasks.shared_state import publish_work
from trivet_worker.adapters.protocol import Failure
from trivet_worker.run.cached import Cached
from trivet_worker.run.calls import (
    FALLBACK_RESERVE_S,
    LEAST_S,
    Call,
    CallResult,
    Calls,
    attempt_timeout_s,
    fallback_reserve_s,
    is_full_time,
    requirements_of,
)
from trivet_worker.run.context import WorkerContext
from trivet_worker.run.hedging import Hedger
from trivet_worker.run.isolation import Isolation
from trivet_worker.run.lease_keeper import LeaseKeeper
from trivet_worker.run.process_state import WaitGroup
from trivet_worker.run.recorder import Recorder
from trivet_worker.run.stream_choice import stream_limits

log = logging.getLogger("trivet.worker")

AGAIN_S = 3.0
"""Pause in taking work after a chunk has met a database or shared state that failed it."""
URGENT_S = 0.005
"""Interval at which a call of the realtime lane looks for a free slot, alone: before calls of batches do."""
_REFUSED = {
    Denial.LIMITED: "limited by its provider",
    Denial.OPEN: "open, only a probe may call",
    Denial.PROBING: "probing, only a probe may call",
    Denial.CONCURRENCY: "all the calls it may have are in flight",
    Denial.REQUESTS: "its requests of this minute are used up",
    Denial.INPUT_TOKENS: "its input tokens of this minute are used up",
    Denial.OUTPUT_TOKENS: "its output tokens of this minute are used up",
    Denial.FORGOTTEN: "limits and health are being put back",
}
"""Reasons for which there was no permit, for a person."""


@dataclass(frozen=True, slots=True)
class _Wave:
    """Jobs of a chunk that start together, and their common terms."""

    chunk: Chunk
    target: CallTarget
    route: RouteSettings
    quota: Quota
    wait_group: WaitGroup


class ChunkRunner:
    """Runs chunks in the threads of Celery's pool, one thread per chunk."""

    def __init__(
        self,
        context: WorkerContext,
        calls: Calls,
        recorder: Recorder,
        lease: LeaseKeeper,
        hedger: Hedger,
        isolation: Isolation | None,
        cached: Cached,
    ) -> None:
        self._context = context
        self._settings = context.settings
        self._store = context.store
        self._directory = context.directory
        self._slots = context.slots
        self._impairments = context.impairments
        self._process_impairments = context.process_impairments
        self._calls = calls
        self._recorder = recorder
        self._lease = lease
        self._hedger = hedger
        self._isolation = isolation
        self._cached = cached
        self._running = 0
        self._hurrying = 0
        self._counting = threading.Lock()
        self.stopping = threading.Event()

    @property
    def running(self) -> int:
        """Chunks in hand: some of their jobs are neither recorded nor back in waiting."""
        return self._running

    def run(self, chunk: Chunk) -> int:
        """Run the chunk until each of its jobs is recorded or back in waiting. Returns the number of calls made."""
        self._count(1)
        try:
            return self._run(chunk)
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._counting:
            self._running += change

    def _run(self, chunk: Chunk) -> int:
        if impairment := self._impairments.of(chunk.route):
            self._give_back(chunk, chunk.jobs, impairment)
            return 0
        if chunk.isolated and self._isolation is not None:
            if self._isolation.run(chunk):
                return len(chunk.jobs)
            self._give_back(chunk, chunk.jobs, "no process is free to run it isolated")
            return 0
        wave = self._wave(chunk)
        if wave is None:
            self._give_back(chunk, chunk.jobs, f"it does not serve {chunk.model} here")
            return 0
        pending: Sequence[DispatchedJob] = ()
        to_call = 0
        why = ""
        try:
            pending = self._cached.serve(chunk)
            to_call = len(pending)
            while pending:
                started, why = self._start_some(wave, pending)
                pending = pending[started:]
                if why:
                    break
        except StoreUnavailable as error:
            # what was not claimed is dispatched again when its time is over
            self._context.note_database("claim", error, AGAIN_S)
            pending = ()
        if pending:
            self._give_back(chunk, pending, why)
            self._give_up_probe(wave)
        wave.wait_group.wait()
        return to_call - len(pending)

    def _wave(self, chunk: Chunk) -> _Wave | None:
        """Return the common terms of a chunk's calls; None where the route does not serve its model."""
        route = self._context.served.now(chunk.route)
        wire_model = name_on_wire(route, chunk.model)
        if wire_model is None:
            return None
        target = CallTarget(
            self._lease.id,
            chunk.route,
            route.provider,
            chunk.model,
            wire_model,
            chunk.latency,
            bool(chunk.probe),
            chunk.isolated,
        )
        return _Wave(chunk, target, route, Quota.of(route, chunk.model), WaitGroup())

    def _start_some(self, wave: _Wave, pending: Sequence[DispatchedJob]) -> tuple[int, str]:
        """Start as many jobs as slots and permits allow, after a short wait for them. Returns (how many, why no more)."""
        if self.stopping.is_set():
            return 0, "the worker is stopping"
        if impairment := self._process_impairments.text or self._impairments.of(wave.chunk.route):
            return 0, impairment
        slots = self._take_slots(wave.chunk.latency, len(pending))
        if slots == 0:
            return 0, "no free slot"
        jobs = pending[:slots]
        attempt_ids = [uuid7().hex for _ in jobs]
        try:
            grant = self._take_permits(wave, jobs, attempt_ids)
        except redis.RedisError as error:
            self._slots.give(slots)
            self._context.note_shared_state("permits", error, AGAIN_S)
            return 0, "the shared state does not answer"
        self._slots.give(slots - grant.granted)
        if not grant.permits:
            return 0, _REFUSED[grant.reason] if grant.reason else "no permit"
        self._launch(wave, jobs[: grant.granted], attempt_ids[: grant.granted], grant)
        return grant.granted, ""

    def _take_slots(self, latency: Latency, wanted: int) -> int:
        if latency is Latency.INTERACTIVE:
            # such calls last for minutes: neither slots nor threads may run out for realtime ones
            return self._slots.take(wanted, 0.0, keep=kept_slots(self._slots.total))
        return self._slots.take(wanted, self._settings.dispatch.permit_patience_s)

    def _take_permits(self, wave: _Wave, jobs: Sequence[DispatchedJob], attempt_ids: Sequence[str]) -> PermitGrant:
        """Take permits for the first of these jobs; wait a while for one. Raises RedisError."""
        requests = [
            PermitRequest(permit_id(wave.target.lease_id, attempt_id), job.input_estimate, job.max_tokens)
            for job, attempt_id in zip(jobs, attempt_ids, strict=True)
        ]
        until = time.monotonic() + self._settings.dispatch.permit_patience_s
        chunk, classes = wave.chunk, self._settings.classes
        timeout_s = max(longest_call_s(classes, chunk.latency, chunk.model, job) for job in jobs)
        while True:
            grant = self._directory.limits.take(
                wave.chunk.route,
                wave.chunk.model,
                wave.chunk.latency,
                wave.quota,
                requests,
                timeout_s,
                wave.chunk.probe,
            )
            if grant.permits or not self._waits(wave, grant, until):
                return grant

    def _waits(self, wave: _Wave, grant: PermitGrant, until: float) -> bool:
        """Wait until permits may be free; False when there is no time for that."""
        if grant.reason != Denial.CONCURRENCY or wave.chunk.latency.lane is not Lane.REALTIME:
            return time.monotonic() + grant.wait_s <= until and not self.stopping.wait(grant.wait_s)
        self._hurry(1)
        try:
            # all of them together ask so often, however many wait
            wait_s = min(grant.wait_s, URGENT_S * self._hurrying)
            return time.monotonic() + wait_s <= until and not self.stopping.wait(wait_s)
        finally:
            self._hurry(-1)

    def _hurry(self, change: int) -> None:
        with self._counting:
            self._hurrying += change

    def _launch(
        self, wave: _Wave, jobs: Sequence[DispatchedJob], attempt_ids: Sequence[str], grant: PermitGrant
    ) -> None:
        """Claim jobs in SQL and make their calls. Slots and permits of jobs that were not claimed are given back."""
        claimed: list[ClaimedJob] = []
        permits = grant.permits
        try:
            routes = self._routes_now(wave)
            found, now = self._claim(wave, jobs, attempt_ids, permits)
            # only now: of a commit that failed nothing was claimed, and what one claimed whose answer was lost, the
            # lease keeper finds
            claimed = found.claimed
            self._count_dropped(wave.chunk, found)
        finally:
            used = {job.permit.id for job in claimed}
            self._return_unused(wave, [permit for permit in permits if permit.id not in used])
        self._context.in_progress.add(job.id for job in claimed)
        wave.wait_group.add(len(claimed))
        hedge_after_s = self._hedge_after_s(wave, routes)
        calls = [self._call(wave, job, now, routes, hedge_after_s) for job in claimed]
        calls = [replace(call, stream=stream_limits(call, self._settings, grant.p95_s)) for call in calls]
        for call in calls:
            if call.timeout_s < LEAST_S:
                failure = Failure(Outcome.TIMEOUT, "no time was left for a call")
                self._recorder.put(CallResult(call, failure, 0.0, called=False))
        calls = [call for call in calls if call.timeout_s >= LEAST_S]
        self._calls.launch(calls)
        if hedge_after_s is not None:
            self._hedger.count_calls(len(calls))

    def _claim(
        self, wave: _Wave, jobs: Sequence[DispatchedJob], attempt_ids: Sequence[str], permits: Sequence[Permit]
    ) -> tuple[ClaimResult, float]:
        """Claim jobs in SQL. Returns the database's time, too."""
        target, route = wave.target, wave.route
        pricing = self._context.pricing
        estimates = [pricing.maximum_cost(target, route, job.input_estimate, job.max_tokens) for job in jobs]
        with self._store.write() as connection:
            now = self._store.now(connection)
            found = claim(
                connection,
                target,
                jobs,
                now=now,
                attempt_ids=attempt_ids,
                permits=permits,
                estimates=estimates,
                unfit=partial(misfit, route, target.wire_model, target.model),
            )
        return found, now

    def _call(
        self,
        wave: _Wave,
        job: ClaimedJob,
        now: float,
        routes: Sequence[Candidate] | None,
        hedge_after_s: float | None,
    ) -> Call:
        probe = wave.target.probe
        allowed = call_time(self._settings.classes, wave.chunk.latency, wave.chunk.model, job)
        timeout_s = self._timeout_s(wave, job, allowed, now, routes)
        full_time = probe or is_full_time(timeout_s, allowed)
        return Call(
            job,
            wave.route,
            timeout_s,
            allowed,
            full_time,
            wave.wait_group,
            None if probe or job.streamed else hedge_after_s,
        )

    def _count_dropped(self, chunk: Chunk, found: ClaimResult) -> None:
        if found.forged:
            why = f"a message says of job {found.forged[0]} what the database does not"
            self._context.drops.note(Drop.FORGED, chunk.route, why, len(found.forged))
        if found.misfits:
            job = found.misfits[0]
            self._context.drops.note(
                Drop.MISFIT, chunk.route, f"job {job.id} goes back: {job.reason}", len(found.misfits)
            )

    def _routes_now(self, wave: _Wave) -> list[Candidate] | None:
        """Return the routes that could take a realtime job if its call fails; None when they are not known."""
        if wave.chunk.latency is not Latency.REALTIME or wave.chunk.probe:
            return []
        try:
            return self._directory.candidates(wave.chunk.model)
        except redis.RedisError:
            return None

    def _timeout_s(
        self, wave: _Wave, job: ClaimedJob, allowed: CallTime, now: float, routes: Sequence[Candidate] | None
    ) -> float:
        if wave.target.probe:
            return self._settings.health.probe_timeout_s
        terms = self._settings.of_class(wave.chunk.latency)
        reserve_s = FALLBACK_RESERVE_S if routes is None else 0.0
        if routes:
            requirements = requirements_of(job, (*job.round.tried, wave.chunk.route))
            reserve_s = fallback_reserve_s(choose(requirements, routes, terms).routes)
        return attempt_timeout_s(
            wave.chunk.latency,
            terms,
            allowed,
            spent_s=job.round.spent_s,
            deadline_at=job.deadline_at,
            now=now,
            reserve_s=reserve_s,
        )

    def _hedge_after_s(self, wave: _Wave, routes: Sequence[Candidate] | None) -> float | None:
        """Return the time after which a call is slow for this route; None where a call gets no hedge."""
        if not self._settings.of_class(wave.chunk.latency).hedge_share:
            return None
        own = next((r.breaker.paces.get(Latency.REALTIME) for r in routes or () if r.name == wave.chunk.route), None)
        return own.p95_s if own is not None and own.calls >= SLOW_CALLS else None

    def _return_unused(self, wave: _Wave, permits: Sequence[Permit]) -> None:
        if not permits:
            return
        self._slots.give(len(permits))
        try:
            self._release_unused(wave, permits)
        except redis.RedisError as error:
            self._context.note_shared_state("permits", error, AGAIN_S)

    def _release_unused(self, wave: _Wave, permits: Sequence[Permit]) -> None:
        unused = [PermitRelease(permit, 0, 0, HealthSignal.UNUSED) for permit in permits]
        chunk = wave.chunk
        self._directory.limits.release(chunk.route, chunk.model, chunk.latency, wave.quota, unused)

    def _give_up_probe(self, wave: _Wave) -> None:
        """Let another probe be made in place of one without a permit, rather than wait until this one counts as lost."""
        if not wave.chunk.probe:
            return
        try:
            self._release_unused(wave, [Permit(wave.chunk.probe, 0, 0)])
        except redis.RedisError as error:
            log.error("the probe of %s counts as lost only after its time: %s", wave.chunk.route, error)

    def _give_back(self, chunk: Chunk, jobs: Sequence[DispatchedJob], why: str) -> None:
        log.debug("%d jobs go back to waiting: %s", len(jobs), why)
        if self._process_impairments.of(DATABASE):
            return  # they are dispatched again when their time is over
        try:
            with self._store.write() as connection:
                give_back(connection, chunk.route, jobs, f"{chunk.route}: {why}")
            if not self._process_impairments.of(SHARED_STATE):
                publish_work(self._context.client)
        except StoreUnavailable as error:
            self._context.note_database("claim", error, AGAIN_S)
        except redis.RedisError as error:
            self._context.note_shared_state("permits", error, AGAIN_S)
