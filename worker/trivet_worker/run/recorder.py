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

import redis
from celery import Celery
from sqlalchemy.exc import DBAPIError

from trivet_routing.liveness.process_impairments import DATABASE, SHARED_STATE, WATCH
from trivet_routing.permits import Change
from trivet_store.cluster import health
from trivet_store.database.engine import BULK_BYTES, BULK_ROWS
from trivet_store.jobs.finishing import finish
from trivet_store.steps import End, GoOn, Settlement, Transition, Wait, Written
from trivet_tasks.errors import BrokerUnavailable, StoreUnavailable, place_of
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import Latency
from trivet_tasks.messages import Chunk, publish
from trivet_tasks.outcomes import Outcome
from trivet_tasks.shared_state import publish_finished, publish_work
from trivet_tasks.states import JobState
from trivet_worker.adapters.protocol import Answer, Failure
from trivet_worker.run.cached import Cached
from trivet_worker.run.calls import CallResult
from trivet_worker.run.context import WorkerContext
from trivet_worker.run.decisions import Decisions
from trivet_worker.run.permit_release import PermitReleaser
from trivet_worker.run.pricing import MAX_USD

log = logging.getLogger("trivet.recorder")

RETRY_S = 1.0
"""Seconds between two tries to reach a database or a shared state that does not answer."""
MAX_UNRECORDED = 1_000
"""Changes of routes kept while the database is away, the newest."""


class Recorder:
    """Takes results from the event loop and records them in groups."""

    def __init__(
        self,
        context: WorkerContext,
        app: Celery,
        cached: Cached,
        *,
        gather_s: float,
        on_released: Callable[[Sequence[CallResult], Sequence[Change]], None] = lambda *_: None,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            gather_s: seconds to wait for more calls to finish before a commit.
            on_released: called, before anything is decided, with every group and its changes of the circuit breakers.
        """
        self._context = context
        self._store = context.store
        self._directory = context.directory
        self._app = app
        self._slots = context.slots
        self._in_progress = context.in_progress
        self._pricing = context.pricing
        self._process_impairments = context.process_impairments
        parts = context.directory, context.settings, context.process_impairments, context.witness
        self._decisions = Decisions(*parts)
        self._permit_releaser = PermitReleaser(*parts)
        self._on_released = on_released
        self._cached = cached
        self._unrecorded: list[Change] = []
        self._gather_s = gather_s
        self._results: queue.SimpleQueue[CallResult] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="trivet-recorder", daemon=True)

    def start(self) -> None:
        """Start the thread; it runs as long as the process."""
        self._thread.start()

    def put(self, result: CallResult) -> None:
        """Hand over a finished call. Returns at once."""
        self._results.put(result)

    def _run(self) -> None:
        while True:
            group = self._gather()
            if group or self._permit_releaser.waits or self._unrecorded:
                self._record_safely(group)

    def _gather(self) -> list[CallResult]:
        """Wait for one result, then take what comes within the gathering time, up to a transaction's worth.

        Returns nothing while a report waits to be sent again.
        """
        group: list[CallResult] = []
        size = 0
        until = time.monotonic() + RETRY_S if self._permit_releaser.waits or self._unrecorded else None
        while len(group) < BULK_ROWS and size < BULK_BYTES:
            try:
                result = self._results.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if not group:
                until = time.monotonic() + self._gather_s
            group.append(result)
            size += len(result.response.message)
        return group

    def _record_safely(self, group: list[CallResult]) -> None:
        """Record a group. Whatever goes wrong, the thread and the chunks go on; the lease keeper puts such jobs back."""
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
            changes = self._permit_releaser.release(group)
            self._on_released(group, changes)
            self._unrecorded += changes
            self._record_changes()
            if not group:  # only a waiting report was sent again
                return
            transitions = self._transitions(group)
            # before the commit: it frees the coalesced jobs, which must find these answers
            self._cached.keep(group, transitions)
            written = self._commit(transitions)
            self._record_changes()
        finally:
            # before the next attempts are sent: this process may claim one at once, and holds it anew from then on
            self._in_progress.discard(result.call.job.id for result in group if result.decides)
        self._send_on(written)
        self._notify(written, any(isinstance(one.next, Wait) for one in transitions))
        if written.crowded:
            self._cached.free_rest(written.ended_jobs)

    def _transitions(self, group: Sequence[CallResult]) -> list[Transition]:
        steps = zip(group, self._decisions.next_steps(group), strict=True)
        return [Transition(result.call.job, self._settlement(result), step) for result, step in steps]

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

    def _record_changes(self) -> None:
        """Record the changes of the routes in a transaction of their own: no refused result undoes them.

        While the database is away they are kept: the pauses that providers asked for are recorded nowhere else.
        Refused changes are given up; a scheduler compares the recorded health with the actual one.
        """
        if not self._unrecorded:
            return
        try:
            with self._store.write() as connection:
                now = self._store.now(connection)
                for one in self._unrecorded:
                    health.note(connection, one.route, one.model, one.state, one.cause, now, one.seconds, one.share)
        except StoreUnavailable as error:
            self._context.note_database("recorder", error, 3 * RETRY_S)  # over with the next group that is written
            del self._unrecorded[:-MAX_UNRECORDED]
            return
        except DBAPIError as error:
            log.error("%d changes of routes were refused by the database: %s", len(self._unrecorded), _kind(error))
        self._unrecorded = []

    def _commit(self, transitions: Sequence[Transition]) -> Written:
        """Write the group in one transaction. A result that the database refuses must not undo the others."""
        try:
            written = self._write(transitions)
        except DBAPIError as error:
            log.error(
                "a group of %d was refused by the database (%s); writing one by one", len(transitions), _kind(error)
            )
            written = _joined([self._write_one(one) for one in transitions])
        if written.refused:
            log.warning("%d late results were refused: their jobs belong to other workers now", len(written.refused))
        return written

    def _write_one(self, transition: Transition) -> Written:
        try:
            return self._write([transition])
        except DBAPIError as error:
            log.error("job %s could not be recorded: %s", transition.job.id, _kind(error))
            end = End(
                JobState.FAILED, outcome=Outcome.INCOMPLETE, error=f"the database refused the answer: {_kind(error)}"
            )
            step = None if transition.next is None else end
            # without the provider's words or figures, which may be what the database refuses; then without its answer
            bare = _without_figures(transition.settlement)
            for settlement, then in ((bare, transition.next), (bare, step)):
                try:
                    return self._write([replace(transition, settlement=settlement, next=then)])
                except DBAPIError as again:
                    log.error("job %s could not be recorded: %s", transition.job.id, _kind(again))
            return Written((), (), (), ())

    def _write(self, transitions: Sequence[Transition]) -> Written:
        """Wait for a database that does not answer: finished calls are not thrown away."""
        while True:
            try:
                with self._store.write() as connection:
                    written = finish(self._store, connection, transitions)
            except StoreUnavailable as error:
                self._context.note_database("recorder", error, 3 * RETRY_S)
                time.sleep(RETRY_S)
            else:
                self._process_impairments.over(DATABASE, "recorder")
                return written

    def _send_on(self, written: Written) -> None:
        """Send the next attempts to their routes, failed jobs of a chunk together."""
        if not written.gone_on:
            return
        bulk: dict[tuple[str, Latency, str], list[DispatchedJob]] = defaultdict(list)
        chunks: list[Chunk] = []
        for transition in written.gone_on:
            assert isinstance(transition.next, GoOn)
            job, route = transition.job, transition.next.route
            latency, model = job.target.latency, job.target.model
            again = DispatchedJob(job.id, job.claim + 1, job.input_estimate, job.max_tokens, job.cache_key)
            if job.target.isolated:
                chunks.append(Chunk(route, self._directory.provider(route), latency, model, (again,), isolated=True))
            else:
                bulk[route, latency, model].append(again)
        chunks += [
            Chunk(route, self._directory.provider(route), latency, model, tuple(dispatched))
            for (route, latency, model), dispatched in bulk.items()
        ]
        try:
            publish(self._app, chunks)
        except BrokerUnavailable as error:
            if not self._process_impairments.of(SHARED_STATE):  # else it was reported already
                log.error("%d jobs wait to be dispatched again: %s", len(written.gone_on), error)

    def _notify(self, written: Written, waiting: bool) -> None:
        if self._process_impairments.seen(SHARED_STATE, WATCH):
            return  # coalesced jobs look by themselves
        try:
            if written.ended_jobs:
                publish_finished(self._context.client, written.ended_jobs, written.ended_batches)
            if waiting:
                publish_work(self._context.client)
        except redis.RedisError as error:
            self._context.note_shared_state("notices", error, RETRY_S)


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
        list_usd=None,
        negotiated_price=None,
        price_terms=None,
        price_parts=None,
        model_used=None,
    )


def _kind(error: DBAPIError) -> str:
    """Return the database's error without its text, which may quote a row."""
    return type(error.orig or error).__name__


def _joined(parts: Sequence[Written]) -> Written:
    return Written(
        tuple(job for part in parts for job in part.ended_jobs),
        tuple(sorted({batch for part in parts for batch in part.ended_batches})),
        tuple(transition for part in parts for transition in part.gone_on),
        tuple(job for part in parts for job in part.refused),
        crowded=any(part.crowded for part in parts),
    )
