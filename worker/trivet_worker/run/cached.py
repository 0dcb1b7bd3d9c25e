"""A worker's use of the response cache: jobs of a chunk that need no call, and answers to keep for other jobs."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import redis
from sqlalchemy.exc import DBAPIError

from trivet_routing.liveness.process_impairments import SHARED_STATE, WATCH
from trivet_routing.response_cache import CachedResult, Coalesce, LookUp, ResponseCache
from trivet_store.database.engine import BULK_BYTES
from trivet_store.events import Drop
from trivet_store.jobs.answering import Answered, CachedAnswer, Served, end_answered
from trivet_store.jobs.coalescing import FREED_AT_ONCE, LOOK_AGAIN_S, CoalescedJob, coalesce, free_coalesced
from trivet_store.steps import End, Settlement, Transition
from trivet_tasks.call_times import call_time
from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import Lane, Latency
from trivet_tasks.messages import Chunk
from trivet_tasks.outcomes import Outcome
from trivet_tasks.shared_state import is_away, publish_finished, publish_work
from trivet_tasks.states import JobState
from trivet_worker.adapters.protocol import Answer
from trivet_worker.run.calls import CallResult
from trivet_worker.run.context import WorkerContext
from trivet_worker.run.process_state import SAID_EVERY_S

log = logging.getLogger("trivet.worker")

WHOLE = frozenset({"end_turn", "stop_sequence"})
"""Stop reasons of answers that serve equal requests: whole ones that ask for nothing to be done."""
LOOKS = 3
"""Maximum number of times that a job asks anew because its leader had just ended; then it calls."""
REALTIME_LOOK_AGAIN_S = 1.0


class _Found(NamedTuple):
    to_call: list[DispatchedJob]
    answered: list[Answered]
    coalesced: list[CoalescedJob]


class Cached:
    """A worker's view of the response cache. Safe to share between threads; nothing fails where Redis is away."""

    def __init__(self, context: WorkerContext, cache: ResponseCache) -> None:
        self._store = context.store
        self._client = context.client
        self._cache = cache
        self._settings = context.settings
        self._process_impairments = context.process_impairments
        self._drops = context.drops
        self._said_at = -SAID_EVERY_S

    def serve(self, chunk: Chunk) -> Sequence[DispatchedJob]:
        """End the jobs of a chunk that have a cached answer, and coalesce those whose answer is on its way.

        Returns:
            The other jobs, which need a call. All, without a round trip, where none may be served from the cache.

        Raises:
            StoreUnavailable: jobs that were not recorded are dispatched again in time.
        """
        if chunk.probe or chunk.isolated or not self._keeps(chunk.latency):
            return chunk.jobs
        asking = {job.id: job for job in chunk.jobs if job.cache_key}
        if not asking:
            return chunk.jobs
        if not self._cache.sealed:
            self._say("answers are not cached, though requests ask for it: [security] key is not set")
            return chunk.jobs
        to_call = {job.id for job in chunk.jobs if not job.cache_key}
        classes = self._settings.classes
        looks = [
            LookUp(job.cache_key or "", job.id, budget_s=call_time(classes, chunk.latency, chunk.model, job).budget_s)
            for job in asking.values()
        ]
        for _ in range(LOOKS):
            if not looks:
                break
            found = self._look_up(chunk, asking, looks)
            if found is None:
                break
            to_call.update(job.id for job in found.to_call)
            to_call.update(job.id for job in self._end_safely(chunk, found.answered))
            leaderless = self._coalesce(chunk, found.coalesced)
            over = {job.id: job.leader for job in leaderless}
            looks = [look._replace(over=over[look.job_id]) for look in looks if look.job_id in over]
        to_call.update(look.job_id for look in looks)
        return [job for job in chunk.jobs if job.id in to_call]

    def keep(self, group: Sequence[CallResult], transitions: Sequence[Transition]) -> None:
        """Keep the answers of a group of calls before its commit; jobs coalesced with calls that brought none may call."""
        results: dict[Latency, list[CachedResult]] = {}
        for result, transition in zip(group, transitions, strict=True):
            key = result.call.job.cache_key
            if key is not None and result.decides and isinstance(transition.next, End):
                kept = self._cached_result(key, result, transition.settlement, transition.next)
                results.setdefault(result.call.target.latency, []).append(kept)
        if not self._cache.sealed or self._process_impairments.seen(SHARED_STATE, WATCH):
            return
        for latency, of_class in results.items():
            if self._keeps(latency):
                self._keep(latency, of_class)

    def free_rest(self, leaders: Sequence[str]) -> None:
        """Free coalesced jobs whose leaders ended, where they are more than one transaction frees."""
        try:
            while True:
                with self._store.write() as connection:
                    freed = free_coalesced(connection, leaders)
                self._publish(publish_work)
                if freed < FREED_AT_ONCE:
                    return
        except StoreUnavailable as error:
            log.warning("jobs that wait for an answer are looked at in time: %s", error)

    def _keeps(self, latency: Latency) -> bool:
        return self._settings.of_class(latency).cache_ttl_s > 0

    def _look_up(self, chunk: Chunk, asking: dict[str, DispatchedJob], looks: Sequence[LookUp]) -> _Found | None:
        """Look up the answers of jobs. None where the cache does not answer."""
        if self._process_impairments.seen(SHARED_STATE, WATCH):
            return None
        try:
            said = self._cache.look_up(chunk.latency, looks)
        except (redis.RedisError, ValueError) as error:
            self._without(error)
            return None
        found = _Found([], [], [])
        if said.rejected:
            why = "a cached answer was not signed by this installation for its request"
            self._drops.note(Drop.ANSWER, chunk.route, why, said.rejected)
        for look, of in zip(looks, said.found, strict=True):
            job = asking[look.job_id]
            match of:
                case CachedAnswer():
                    found.answered.append(Answered(job.id, job.claim, look.key, of))
                case Coalesce(leader=leader):
                    found.coalesced.append(CoalescedJob(job.id, job.claim, leader))
                case None:
                    found.to_call.append(job)
        return found

    def _end(self, chunk: Chunk, answered: Sequence[Answered]) -> Iterable[str]:
        """End jobs with their answers. Returns the ids of jobs of other tenants, to which the answer does not belong."""
        missed: list[str] = []
        for group in _groups(answered):
            with self._store.write() as connection:
                served = end_answered(
                    self._store, connection, group, route=chunk.route, latency=chunk.latency.value, model=chunk.model
                )
            if served.forged:
                why = f"a message says of job {served.forged[0]} what the database does not"
                self._drops.note(Drop.FORGED, chunk.route, why, len(served.forged))
            missed += served.missed
            self._notify(served)
        return missed

    def _end_safely(self, chunk: Chunk, answered: Sequence[Answered]) -> list[DispatchedJob]:
        """End jobs with their answers. Returns those that need a call: of another tenant, or refused by the database."""
        try:
            missed = set(self._end(chunk, answered))
        except DBAPIError as error:
            log.error("the database refuses answers from the cache (%s)", type(error.orig or error).__name__)
            missed = {one.id for one in answered}
        return [job for job in chunk.jobs if job.id in missed]

    def _notify(self, served: Served) -> None:
        if served.jobs:
            self._publish(lambda client: publish_finished(client, served.jobs, served.batches))
        if served.crowded:
            self.free_rest(served.jobs)

    def _coalesce(self, chunk: Chunk, wanted: Sequence[CoalescedJob]) -> Sequence[CoalescedJob]:
        """Let jobs wait for their leaders. Returns those whose leader has already ended."""
        if not wanted:
            return ()
        look_again_s = REALTIME_LOOK_AGAIN_S if chunk.latency.lane is Lane.REALTIME else LOOK_AGAIN_S
        with self._store.write() as connection:
            result = coalesce(self._store, connection, wanted, look_again_s)
        if result.coalesced:
            self._publish(publish_work)  # they take up no route any more: others can be dispatched
        return result.leaderless

    def _cached_result(self, key: str, result: CallResult, settlement: Settlement, end: End) -> CachedResult:
        job, model = result.call.job, result.call.target.model
        response = result.response
        if end.state is not JobState.SUCCEEDED or not isinstance(response, Answer):
            # a fault of the request is one for all equal requests
            return CachedResult(key, job.id, model, None, never=end.outcome is Outcome.INVALID)
        if response.stop_reason not in WHOLE or len(response.message) > self._settings.cache.max_answer_bytes:
            return CachedResult(key, job.id, model, None, never=True)
        cost = None if settlement.estimated else settlement.cost_usd
        tenant = None if self._settings.cache.shared else job.tenant
        answer = CachedAnswer(response.message, response.stop_reason, result.call.target.route, cost, tenant)
        return CachedResult(key, job.id, model, answer)

    def _keep(self, latency: Latency, results: Sequence[CachedResult]) -> None:
        try:
            self._cache.keep(latency, results)
        except redis.RedisError as error:
            self._without(error)

    def _publish(self, notice: Callable[[redis.Redis], None]) -> None:
        if self._process_impairments.seen(SHARED_STATE, WATCH):
            return
        try:
            notice(self._client)
        except redis.RedisError as error:  # coalesced jobs look by themselves
            self._without(error)

    def _without(self, error: Exception) -> None:
        """Log an error. An outage is reported by the parts that cannot do without Redis."""
        if not (isinstance(error, redis.RedisError) and is_away(error)):
            self._say(f"the response cache is not used: {type(error).__name__}")

    def _say(self, words: str) -> None:
        """Log this, at most once a minute."""
        now = time.monotonic()
        if now - self._said_at >= SAID_EVERY_S:
            self._said_at = now
            log.error(words)


def _groups(answered: Iterable[Answered]) -> Iterable[list[Answered]]:
    """Yield parts of one transaction's size."""
    group: list[Answered] = []
    size = 0
    for one in answered:
        if group and size + len(one.answer.message) > BULK_BYTES:
            yield group
            group, size = [], 0
        group.append(one)
        size += len(one.answer.message)
    if group:
        yield group
