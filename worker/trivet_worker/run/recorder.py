"""Record of finished calls: one thread per process, groups of calls, one transaction each.

For each group: permits and health signals go to Redis, the next step of failed jobs is decided, results,
attempts and costs are committed together (SQL), then the next messages and the notices go out. Until a group is
committed its slots stay taken, so the waiting results are bounded by the worker's slots.
"""

import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import orjson
import redis
from celery import Celery
from sqlalchemy.exc import DBAPIError

from trivet_routing.liveness.process_impairments import DATABASE, SHARED_STATE, WATCH, ProcessImpairments
from trivet_routing.permits import Change
from trivet_routing.route_directory import RouteDirectory
from trivet_store.cluster import health
from trivet_store.database.engine import BULK_BYTES, BULK_ROWS, Store
from trivet_store.jobs.finishing import finish
from trivet_store.steps import End, Finished, GoOn, Settlement, Wait, Written
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import BrokerUnavailable, StoreUnavailable, place_of
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import Latency
from trivet_tasks.messages import Chunk, publish
from trivet_tasks.outcomes import Outcome
from trivet_tasks.shared_state import FINISHED_CHANNEL, WORK_CHANNEL, unavailable_text
from trivet_tasks.states import JobState
from trivet_worker.adapters.protocol import Answer, Failure
from trivet_worker.run.cached import Cached
from trivet_worker.run.calls import CallResult
from trivet_worker.run.decisions import Decisions
from trivet_worker.run.in_progress import InProgress
from trivet_worker.run.permit_release import PermitReleaser
from trivet_worker.run.pricing import MAX_USD, Pricing
from trivet_worker.run.slots import Slots
from trivet_worker.run.witness import Witness

log = logging.getLogger("trivet.recorder")

RETRY_S = 1.0
"""Seconds between two tries to reach a database or a shared state that does not answer."""
MAX_UNNOTED = 1_000
"""Changes of routes kept while the database is away, the newest."""


class Recorder:
    """Takes results from the event loop and records them in groups."""

    def __init__(
        self,
        store: Store,
        client: redis.Redis,
        directory: RouteDirectory,
        app: Celery,
        settings: Settings,
        slots: Slots,
        in_progress: InProgress,
        pricing: Pricing,
        gather_s: float,
        cached: Cached,
        process_impairments: ProcessImpairments,
        witness: Witness,
        on_settled: Callable[[Sequence[CallResult], Sequence[Change]], None] = lambda *_: None,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            on_settled: called, before anything is decided, with every group and its changes of the circuit breakers.
        """
        self._store = store
        self._redis = client
        self._directory = directory
        self._app = app
        self._settings = settings
        self._slots = slots
        self._in_progress = in_progress
        self._decisions = Decisions(directory, settings, process_impairments, witness)
        self._permit_releaser = PermitReleaser(directory, settings, process_impairments, witness)
        self._on_settled = on_settled
        self._cached = cached
        self._process_impairments = process_impairments
        self._unnoted: list[Change] = []
        self._gather_s = gather_s
        self._pricing = pricing
        self._results: queue.SimpleQueue[CallResult | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="trivet-recorder", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, result: CallResult) -> None:
        """Hand over a finished call. Returns at once."""
        self._results.put(result)

    def close(self, within_s: float = 30.0) -> None:
        """Write what is left and end the thread."""
        self._results.put(None)
        self._thread.join(timeout=within_s)

    def _run(self) -> None:
        going = True
        while going:
            group, going = self._gather()
            if group or self._permit_releaser.waits or self._unnoted:
                self._record_safely(group)

    def _gather(self) -> tuple[list[CallResult], bool]:
        """Wait for one result, then take what comes within the gathering time, up to a transaction's worth.

        Returns nothing while a report waits to be sent again.
        """
        group: list[CallResult] = []
        size = 0
        until = time.monotonic() + RETRY_S if self._permit_releaser.waits or self._unnoted else None
        while len(group) < BULK_ROWS and size < BULK_BYTES:
            try:
                result = self._results.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if result is None:
                return group, False
            if not group:
                until = time.monotonic() + self._gather_s
            group.append(result)
            size += len(result.response.message)
        return group, True

    def _record_safely(self, group: list[CallResult]) -> None:
        """Keep the thread and the chunks going whatever goes wrong; the lease keeper puts such jobs back."""
        try:
            self._record(group)
        except Exception as error:
            log.error("%d finished calls could not be recorded: %s", len(group), place_of(error))
        finally:
            self._slots.give(len(group))
            for result in group:
                result.call.wait_group.down()

    def _record(self, group: list[CallResult]) -> None:
        try:
            changes = self._permit_releaser.settle(group)
            self._on_settled(group, changes)
            self._unnoted += changes
            self._note()
            if not group:  # only a waiting report was sent again
                return
            finished = self._finished(group)
            # before the commit: it frees the coalesced jobs, which must find these answers
            self._cached.keep(group, finished)
            written = self._commit(finished)
            self._note()
        finally:
            # before the next attempts are sent: this process may claim one at once, and holds it anew from then on
            self._in_progress.discard(result.call.job.id for result in group if result.decides)
        self._send_on(group, written)
        self._notify(written, any(isinstance(f.next, Wait) for f in finished))
        if written.crowded:
            self._cached.free_rest(written.ended_jobs)

    def _finished(self, group: Sequence[CallResult]) -> list[Finished]:
        return [
            Finished(
                result.call.job.id,
                result.call.job.claim,
                result.call.target.lease_id,
                self._settlement(result),
                step,
                result.call.target.route,
            )
            for result, step in zip(group, self._decisions.next_steps(group), strict=True)
        ]

    def _settlement(self, result: CallResult) -> Settlement:
        call, response = result.call, result.response
        try:
            match response:
                case Answer() as answer:
                    return self._pricing.settled(call, answer, result.latency_s)
                case Failure() as failure:
                    return self._pricing.failed(call, failure, result.latency_s, called=result.called)
        except Exception as error:  # the call was made, and its answer is good or bad as before
            log.error("the call %s could not be priced: %s", call.job.attempt_id, place_of(error))
            return self._pricing.unread(call, response, result.latency_s)

    def _note(self) -> None:
        """Record the changes of the routes in a transaction of their own: no refused result undoes them.

        While the database is away they are kept: the pauses that providers asked for are recorded nowhere else.
        Refused changes are given up; a scheduler compares the recorded health with the actual one.
        """
        if not self._unnoted:
            return
        try:
            with self._store.write() as connection:
                now = self._store.now(connection)
                for one in self._unnoted:
                    health.note(connection, one.route, one.model, one.state, one.cause, now, one.seconds, one.share)
        except StoreUnavailable as error:
            self._process_impairments.note(
                DATABASE, "recorder", str(error), 3 * RETRY_S
            )  # over with the next group that is written
            del self._unnoted[:-MAX_UNNOTED]
            return
        except DBAPIError as error:
            log.error("%d changes of routes were refused by the database: %s", len(self._unnoted), _kind(error))
        self._unnoted = []

    def _commit(self, finished: Sequence[Finished]) -> Written:
        """Write the group in one transaction. A result that the database refuses must not undo the others."""
        try:
            written = self._write(finished)
        except DBAPIError as error:
            log.error("a group of %d was refused by the database (%s); writing one by one", len(finished), _kind(error))
            written = _joined([self._write_one(one) for one in finished])
        if written.refused:
            log.warning("%d late results were refused: their jobs are others' now", len(written.refused))
        return written

    def _write_one(self, finished: Finished) -> Written:
        try:
            return self._write([finished])
        except DBAPIError as error:
            log.error("job %s could not be recorded: %s", finished.job_id, _kind(error))
            end = End(
                JobState.FAILED, outcome=Outcome.INCOMPLETE, error=f"the database refused the answer: {_kind(error)}"
            )
            step = None if finished.next is None else end
            # without the provider's words or figures, which may be what the database refuses; then without its answer
            bare = _without_figures(finished.settlement)
            for settlement, then in ((bare, finished.next), (bare, step)):
                try:
                    return self._write([replace(finished, settlement=settlement, next=then)])
                except DBAPIError as again:
                    log.error("job %s could not be recorded: %s", finished.job_id, _kind(again))
            return Written((), (), (), ())

    def _write(self, finished: Sequence[Finished]) -> Written:
        """Wait for a database that does not answer: finished calls are not thrown away."""
        while True:
            try:
                with self._store.write() as connection:
                    written = finish(self._store, connection, finished)
            except StoreUnavailable as error:
                self._process_impairments.note(DATABASE, "recorder", str(error), 3 * RETRY_S)
                time.sleep(RETRY_S)
            else:
                self._process_impairments.over(DATABASE, "recorder")
                return written

    def _send_on(self, group: Sequence[CallResult], written: Written) -> None:
        """Send the next attempts to their routes, failed jobs of a chunk together."""
        if not written.gone_on:
            return
        calls = {result.call.job.id: result.call for result in group if result.decides}
        jobs: dict[tuple[str, Latency, str], list[DispatchedJob]] = defaultdict(list)
        chunks: list[Chunk] = []
        for finished in written.gone_on:
            assert isinstance(finished.next, GoOn)
            call = calls[finished.job_id]
            job = call.job
            claimed = DispatchedJob(job.id, finished.claim + 1, job.input_estimate, job.max_tokens, job.cache_key)
            route, latency, model = finished.next.route, Latency(call.target.latency), call.target.model
            if call.job.isolated:
                chunks.append(Chunk(route, self._directory.provider(route), latency, model, (claimed,), isolated=True))
            else:
                jobs[route, latency, model].append(claimed)
        chunks += [
            Chunk(route, self._directory.provider(route), latency, model, tuple(claimed))
            for (route, latency, model), claimed in jobs.items()
        ]
        try:
            publish(self._app, chunks)
        except BrokerUnavailable as error:
            if not self._process_impairments.of(SHARED_STATE):  # else it is said already
                log.error("%d jobs wait to be dispatched again: %s", len(written.gone_on), error)

    def _notify(self, written: Written, waiting: bool) -> None:
        if self._process_impairments.seen(SHARED_STATE, WATCH):
            return  # coalesced jobs look by themselves
        try:
            if written.ended_jobs:
                notice = {"jobs": written.ended_jobs, "batches": written.ended_batches}
                self._redis.publish(FINISHED_CHANNEL, orjson.dumps(notice))
            if waiting:
                self._redis.publish(WORK_CHANNEL, b"")
        except redis.RedisError as error:
            why = unavailable_text(self._settings.redis_url, error)
            self._process_impairments.note(SHARED_STATE, "notices", why, RETRY_S)


def _without_figures(settlement: Settlement) -> Settlement:
    """Return the call's outcome and its cost, now an estimate; nothing else that the provider said."""
    cost = settlement.cost_usd
    if cost is not None:
        cost = min(cost, MAX_USD)
    return replace(
        settlement,
        request_id=None,
        message=None,
        usage=None,
        cost_usd=cost,
        estimated=settlement.estimated or settlement.usage is not None,
        list_price=None,
        multipliers=None,
        price_terms=None,
    )


def _kind(error: DBAPIError) -> str:
    """Return the database's error without its text, which may quote a row."""
    return type(error.orig or error).__name__


def _joined(parts: Sequence[Written]) -> Written:
    return Written(
        tuple(job for part in parts for job in part.ended_jobs),
        tuple(sorted({batch for part in parts for batch in part.ended_batches})),
        tuple(finished for part in parts for finished in part.gone_on),
        tuple(job for part in parts for job in part.refused),
        crowded=any(part.crowded for part in parts),
    )
