"""Run of one chunk: slots, permits, the fenced claim, the calls; jobs without a slot or permit go back."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import redis
from uuid_utils import uuid7

from trivet_routing.liveness.process_impairments import DATABASE, SHARED_STATE, ProcessImpairments
from trivet_routing.permits import (
    Denial,
    PermitGrant,
    PermitRelease,
    PermitRequest,
    Quota,
)
from trivet_routing.route_choice import SLOW_CALLS, Candidate, Requirements, choose
from trivet_routing.route_directory import RouteDirectory
from trivet_store.database.engine import Store
from trivet_store.jobs.claiming import CallTarget, ClaimedJob, ClaimResult, Token, claim, give_back
from trivet_store.jobs.dropped import Drop
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import Latency
from trivet_tasks.messages import Chunk
from trivet_tasks.outcomes import HealthSignal, Outcome
from trivet_tasks.requests.eligibility import misfit, name_on_wire
from trivet_tasks.shared_state import WORK_CHANNEL, unavailable_text
from trivet_worker.adapters.protocol import Failure
from trivet_worker.run.cached import Cached
from trivet_worker.run.calls import Call, CallResult, Calls, WaitGroup
from trivet_worker.run.deadlines import FALLBACK_RESERVE_S, LEAST_S, attempt_timeout_s, fallback_reserve_s, is_full_time
from trivet_worker.run.drops import Drops
from trivet_worker.run.hedging import Hedger
from trivet_worker.run.in_progress import InProgress
from trivet_worker.run.isolation import Isolation
from trivet_worker.run.lease_keeper import LeaseKeeper
from trivet_worker.run.pricing import Pricing
from trivet_worker.run.recorder import Recorder
from trivet_worker.run.route_impairments import RouteImpairments
from trivet_worker.run.served_routes import ServedRoutes
from trivet_worker.run.slots import Slots

log = logging.getLogger("trivet.worker")

AGAIN_S = 3.0
"""Pause in taking work after a chunk has met a database or shared state that failed it."""
URGENT_S = 0.005
"""Interval at which a realtime call looks for a free slot, alone: before calls of batches do."""
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
"""Why there was no permit, for a person."""


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
        settings: Settings,
        store: Store,
        client: redis.Redis,
        directory: RouteDirectory,
        served: ServedRoutes,
        slots: Slots,
        in_progress: InProgress,
        pricing: Pricing,
        calls: Calls,
        recorder: Recorder,
        lease: LeaseKeeper,
        hedger: Hedger,
        isolated: Isolation | None,
        cached: Cached,
        process_impairments: ProcessImpairments,
        impairments: RouteImpairments,
        drops: Drops,
    ) -> None:
        self._settings = settings
        self._store = store
        self._redis = client
        self._directory = directory
        self._served = served
        self._slots = slots
        self._calls = calls
        self._recorder = recorder
        self._lease = lease
        self._hedger = hedger
        self._isolation = isolated
        self._cached = cached
        self._in_progress = in_progress
        self._pricing = pricing
        self._process_impairments = process_impairments
        self._impairments = impairments
        self._drops = drops
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
        route = self._served.now(chunk.route)
        wire_model = name_on_wire(route, chunk.model)
        if wire_model is None:
            self._give_back(chunk, chunk.jobs, f"it does not serve {chunk.model} here")
            return 0
        target = CallTarget(
            self._lease.id,
            chunk.route,
            route.provider,
            chunk.model,
            wire_model,
            chunk.latency.value,
            bool(chunk.probe),
            chunk.isolated,
        )
        wave = _Wave(chunk, target, route, Quota.of(route, chunk.model), WaitGroup())
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
            self._process_impairments.note(DATABASE, "claim", str(error), AGAIN_S)
            pending = ()
        if pending:
            self._give_back(chunk, pending, why)
            self._give_up_probe(wave)
        wave.wait_group.wait()
        return to_call - len(pending)

    def _start_some(self, wave: _Wave, pending: Sequence[DispatchedJob]) -> tuple[int, str]:
        """Start as many jobs as slots and permits allow, after a short wait for them. Returns (how many, why no more)."""
        patience_s = self._settings.dispatch.permit_patience_s
        if self.stopping.is_set():
            return 0, "the worker is stopping"
        if impairment := self._process_impairments.text or self._impairments.of(wave.chunk.route):
            return 0, impairment
        places = self._slots.take(len(pending), patience_s)
        if places == 0:
            return 0, "no free place"
        # named after lease and attempt: permits of a dead process are recognisable, and SQL knows those in use
        permits = [
            PermitRequest(f"{wave.target.lease_id}:{uuid7().hex}", job.input_estimate, job.max_tokens)
            for job in pending[:places]
        ]
        until = time.monotonic() + patience_s
        terms = self._settings.of_class(wave.chunk.latency)
        timeout_s = terms.attempt_timeout_s or terms.budget_s
        while True:
            try:
                grant = self._directory.limits.take(
                    wave.chunk.route, wave.chunk.model, wave.quota, permits, timeout_s, wave.chunk.probe
                )
            except redis.RedisError as error:
                self._slots.give(places)
                self._process_impairments.note(
                    SHARED_STATE, "permits", unavailable_text(self._settings.redis_url, error), AGAIN_S
                )
                return 0, "the shared state does not answer"
            if grant.granted or not self._waits(wave, grant, until):
                break
        self._slots.give(places - grant.granted)
        if grant.granted == 0:
            return 0, _REFUSED[grant.reason] if grant.reason else ""
        self._launch(wave, pending[: grant.granted], permits[: grant.granted], grant)
        return grant.granted, ""

    def _waits(self, wave: _Wave, grant: PermitGrant, until: float) -> bool:
        """Wait for slots or permits for the rest; False when there is no time for that."""
        if grant.reason != Denial.CONCURRENCY or wave.chunk.latency is not Latency.REALTIME:
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
        self, wave: _Wave, jobs: Sequence[DispatchedJob], permits: Sequence[PermitRequest], grant: PermitGrant
    ) -> None:
        """Claim jobs in SQL and make their calls. Slots and permits of jobs that were not claimed are given back."""
        permit_of = {job.id: permit for job, permit in zip(jobs, permits, strict=True)}
        taken: list[ClaimedJob] = []
        try:
            estimates = [
                self._pricing.maximum(wave.target, wave.route, job.input_estimate, job.max_tokens) for job in jobs
            ]
            routes = self._routes_now(wave)
            with self._store.write() as connection:
                now = self._store.now(connection)
                ids = [attempt_of(permit) for permit in permits]
                found = claim(
                    connection,
                    wave.target,
                    jobs,
                    now=now,
                    attempt_ids=ids,
                    estimates=estimates,
                    unfit=partial(misfit, wave.route, wave.target.wire_model, wave.target.model),
                )
            # only now: of a commit that failed nothing was taken, and what one took whose answer was lost, the lease
            # keeper finds
            taken = found.taken
            self._count_dropped(wave.chunk, found)
        finally:
            held = {job.id for job in taken}
            self._return_unused(wave, [permit for job_id, permit in permit_of.items() if job_id not in held], grant)
        self._in_progress.add(held)
        wave.wait_group.add(len(taken))
        terms = self._settings.of_class(wave.chunk.latency)
        hedge_after_s = self._hedge_after_s(wave, routes)
        calls: list[Call] = []
        for job in taken:
            timeout_s = self._timeout_s(wave, job, now, routes)
            call = Call(
                job,
                wave.target,
                wave.route,
                wave.quota,
                permit_of[job.id],
                grant.generation,
                timeout_s,
                job.probe or is_full_time(timeout_s, terms),
                wave.wait_group,
                None if job.probe else hedge_after_s,
            )
            if timeout_s >= LEAST_S:
                calls.append(call)
            else:
                failure = Failure(Outcome.TIMEOUT, "no time was left for a call")
                self._recorder.put(CallResult(call, failure, 0.0, called=False))
        self._calls.launch(calls)
        if hedge_after_s is not None:
            self._hedger.counted(len(calls))

    def _count_dropped(self, chunk: Chunk, found: ClaimResult) -> None:
        if found.forged:
            why = f"a message says of job {found.forged[0]} what the database does not"
            self._drops.note(Drop.FORGED, chunk.route, why, len(found.forged))
        if found.misfits:
            job = found.misfits[0]
            self._drops.note(Drop.MISFIT, chunk.route, f"job {job.id} goes back: {job.reason}", len(found.misfits))

    def _routes_now(self, wave: _Wave) -> list[Candidate] | None:
        """Return the routes that could take a realtime job if its call fails; None when they are not known."""
        if wave.chunk.latency is not Latency.REALTIME or wave.chunk.probe:
            return []
        try:
            return self._directory.candidates(wave.chunk.model)
        except redis.RedisError:
            return None

    def _timeout_s(self, wave: _Wave, job: ClaimedJob, now: float, routes: Sequence[Candidate] | None) -> float:
        if job.probe:
            return self._settings.health.probe_timeout_s
        terms = self._settings.of_class(wave.chunk.latency)
        reserve_s = FALLBACK_RESERVE_S
        if routes is not None:
            tried = (*job.tried.split(","), wave.chunk.route)
            requirements = Requirements(
                wave.chunk.model, wave.chunk.latency, job.residency, job.compliance, job.features, tried, job.doubted_by
            )
            reserve_s = fallback_reserve_s(choose(requirements, routes, terms).routes) if routes else 0.0
        return attempt_timeout_s(
            wave.chunk.latency,
            terms,
            spent_s=job.round_spent_s,
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

    def _return_unused(self, wave: _Wave, permits: Sequence[PermitRequest], grant: PermitGrant) -> None:
        if not permits:
            return
        self._slots.give(len(permits))
        spent = [PermitRelease(permit, 0, 0, HealthSignal.UNUSED, generation=grant.generation) for permit in permits]
        chunk = wave.chunk
        try:
            self._directory.limits.release(chunk.route, chunk.model, chunk.latency, wave.quota, spent)
        except redis.RedisError as error:
            self._process_impairments.note(
                SHARED_STATE, "permits", unavailable_text(self._settings.redis_url, error), AGAIN_S
            )

    def _give_up_probe(self, wave: _Wave) -> None:
        """Let another probe be made in place of one without a permit, rather than wait until this one counts as lost."""
        chunk = wave.chunk
        if not chunk.probe:
            return
        spent = [PermitRelease(PermitRequest(chunk.probe, 0, 0), 0, 0, HealthSignal.UNUSED)]
        try:
            self._directory.limits.release(chunk.route, chunk.model, chunk.latency, wave.quota, spent)
        except redis.RedisError as error:
            log.error("the probe of %s counts as lost only after its time: %s", chunk.route, error)

    def _give_back(self, chunk: Chunk, jobs: Sequence[DispatchedJob], why: str) -> None:
        log.debug("%d jobs go back to waiting: %s", len(jobs), why)
        if self._process_impairments.of(DATABASE):
            return  # they are dispatched again when their time is over
        try:
            with self._store.write() as connection:
                tokens = [Token(job.id, job.claim) for job in jobs]
                give_back(connection, chunk.route, tokens, f"{chunk.route}: {why}")
            if not self._process_impairments.of(SHARED_STATE):
                self._redis.publish(WORK_CHANNEL, b"")
        except StoreUnavailable as error:
            self._process_impairments.note(DATABASE, "claim", str(error), AGAIN_S)
        except redis.RedisError as error:
            self._process_impairments.note(
                SHARED_STATE, "permits", unavailable_text(self._settings.redis_url, error), AGAIN_S
            )


def attempt_of(permit: PermitRequest) -> str:
    """Return the id of the attempt that a permit is for."""
    return permit.permit_id.rpartition(":")[2]
