"""Calls under way: started in groups from Celery's threads, run on the process's one event loop."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from trivet_routing.answer_publishing import AnswerPublisher, AttemptStream
from trivet_routing.liveness.monitors import Pulse
from trivet_routing.permits import Quota
from trivet_routing.route_choice import Candidate, Requirements
from trivet_store.steps import CallTarget, ClaimedJob
from trivet_tasks.call_times import CallTime
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.errors import place_of
from trivet_tasks.latency import ClassSettings, Latency
from trivet_tasks.outcomes import RULES, Outcome
from trivet_tasks.prices.cost_model import TYPICAL, Mix
from trivet_worker.adapters import build_caller
from trivet_worker.adapters.protocol import Answer, Caller, CallLimits, CallPurpose, Credentials, Failure, StreamLimits
from trivet_worker.run.process_state import WaitGroup

log = logging.getLogger("trivet.worker")

CREDENTIALS_S = 10.0
"""Seconds that a look at credentials may take; calls fetch them anew if that was not enough."""
REACH_S = 10.0
"""Seconds an endpoint may take to answer the test of the way out."""
STALLED_S = 3.0
"""Seconds without a turn after which the loop counts as stalled: none of its work takes that long at a stretch."""
_BEAT_EVERY_S = 0.5
LEAST_S = 0.05
"""Minimum time of a call: with less it ends before its provider can answer, and is not worth its cost."""
FALLBACK_RESERVE_S = 1.0
"""Time that realtime keeps back for one fallback while nothing is known of its speed."""
HANDOVER_S = 0.5
"""Time to write a failure down and to hand the job to another worker: 0.05 s, and ten times that on a busy
machine."""


@dataclass(slots=True)
class Race:
    """The calls of one job that are under way together. Touched on the event loop only."""

    under_way: int = 0
    decided: bool = False
    failed: list[str] = field(default_factory=list)
    """Routes whose call failed while another was still under way."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a claimed job, and its time."""

    job: ClaimedJob
    route: RouteSettings
    """The route's settings when the job was claimed."""
    timeout_s: float
    allowed: CallTime
    """The time that its class gives the job: `timeout_s` before deadline and budget cut it."""
    full_time: bool
    """False where deadline or budget left the call so little time that a timeout says nothing about the route."""
    wait_group: WaitGroup
    hedge_after_s: float | None = None
    """A call that takes longer than this is slow for its route; None: no hedge is wanted."""
    stream: StreamLimits | None = None
    """None: its answer is not streamed."""
    race: Race = field(default_factory=Race)
    born_at: float = field(default_factory=time.monotonic)

    @property
    def target(self) -> CallTarget:
        """Target of the job's attempt."""
        return self.job.target

    @property
    def quota(self) -> Quota:
        """Limits under which its permit was granted."""
        return Quota.of(self.route, self.job.target.model)

    @property
    def limits(self) -> CallLimits:
        """Limits that the route's caller keeps."""
        return CallLimits(self.timeout_s, self.stream)

    @property
    def ends_at(self) -> float:
        """Time at which the guard around the call fires, on the monotonic clock, about."""
        return self.born_at + self.timeout_s


@dataclass(frozen=True, slots=True)
class CallResult:
    """A finished call."""

    call: Call
    response: Answer | Failure
    latency_s: float
    called: bool = True
    """False where no time was left to make the call."""
    decides: bool = True
    """False where another call of the same job decided, or may still decide, its next state."""


class Calls:
    """The event loop of a worker process and the calls on it."""

    def __init__(
        self,
        routes: Mapping[str, RouteSettings],
        on_result: Callable[[CallResult], None],
        on_slow: Callable[[Call], None] = lambda _: None,
        publisher: AnswerPublisher | None = None,
    ) -> None:
        self._on_result = on_result
        self._on_slow = on_slow
        self._publisher = publisher
        self._streams: dict[str, AttemptStream] = {}
        self._routes = routes
        self._callers: dict[str, Caller] = {}
        self._under_way: dict[str, tuple[str, asyncio.Task[Answer | Failure]]] = {}
        self.pulse = Pulse("Its loop of calls", STALLED_S)
        self._loop = _new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="trivet-calls", daemon=True)

    def start(self) -> None:
        """Start the loop's thread, and build every route's caller, so that no call waits for that (over a second)."""
        self._thread.start()
        self._loop.call_soon_threadsafe(self._beat)
        asyncio.run_coroutine_threadsafe(self._build_callers(), self._loop).result()

    def credentials(self) -> dict[str, Credentials]:
        """Return the state of each route's credentials; routes whose look takes too long are left out."""
        return asyncio.run_coroutine_threadsafe(self._credentials(), self._loop).result()

    def reach(self, routes: Sequence[str]) -> dict[str, str]:
        """Return the reason why each endpoint gives no answer; empty where it answers."""
        return asyncio.run_coroutine_threadsafe(self._reach(routes), self._loop).result()

    def launch(self, calls: Sequence[Call]) -> None:
        """Start these calls. Returns at once; each ends in one result."""
        self._loop.call_soon_threadsafe(self._launch, calls)

    def join(self, hedge: Call) -> None:
        """Start a second call for a job whose first is still under way. It, too, ends in one result."""
        self._loop.call_soon_threadsafe(self._join, hedge)

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Drop the calls of these jobs."""
        self._loop.call_soon_threadsafe(self._cancel, frozenset(job_ids))

    def cancel_all(self) -> None:
        """Drop every call under way."""
        self._loop.call_soon_threadsafe(lambda: self._cancel({job_id for job_id, _ in self._under_way.values()}))

    def close(self) -> None:
        """Close the connections and end the loop. No call may be under way."""
        closing = asyncio.run_coroutine_threadsafe(self._close_callers(), self._loop)
        _quietly(closing)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)

    def _beat(self) -> None:
        self.pulse.beat()
        self._loop.call_later(_BEAT_EVERY_S, self._beat)

    def _launch(self, calls: Sequence[Call]) -> None:
        for call in calls:
            call.race.under_way += 1
            if call.hedge_after_s is not None and call.hedge_after_s < call.timeout_s:
                self._loop.call_later(call.hedge_after_s, self._slow, call)
            task = self._loop.create_task(self._call(call))
            self._under_way[call.job.attempt_id] = (call.job.id, task)
            # a callback, because a task cancelled before its first step runs none of its own code
            task.add_done_callback(partial(self._finish, call, time.perf_counter()))

    def _slow(self, call: Call) -> None:
        if call.job.attempt_id in self._under_way:
            self._on_slow(call)

    def _join(self, hedge: Call) -> None:
        if hedge.race.decided:
            failure = Failure(Outcome.CANCELLED, "another call had answered")
            self._on_result(CallResult(hedge, failure, 0.0, called=False, decides=False))
        else:
            self._launch([hedge])

    def _cancel(self, job_ids: Container[str]) -> None:
        for job_id, task in list(self._under_way.values()):
            if job_id in job_ids:
                task.cancel()

    def _finish(self, call: Call, started: float, task: "asyncio.Task[Answer | Failure]") -> None:
        self._under_way.pop(call.job.attempt_id, None)
        result = _result_of(task, call.job.attempt_id)
        if (stream := self._streams.pop(call.job.attempt_id, None)) is not None:
            _end_stream(stream, result)
        decides = self._decide(call, result)
        self._on_result(CallResult(call, result, time.perf_counter() - started, decides=decides))

    def _decide(self, call: Call, result: Answer | Failure) -> bool:
        """Return whether this call decides the next state of its job: the first final result does, or the last failure."""
        race = call.race
        race.under_way -= 1
        if race.decided:
            return False
        rules = RULES[result.outcome if isinstance(result, Failure) else Outcome.SUCCEEDED]
        race.decided = rules.final or race.under_way == 0
        if race.decided and race.under_way:
            self._cancel([call.job.id])
        elif not race.decided and rules.tried and not _is_local(result):
            race.failed.append(call.target.route)
        return race.decided

    async def _call(self, call: Call) -> Answer | Failure:
        job, caller = call.job, self._callers[call.target.route]
        purpose = CallPurpose(call.target.model, job.id, job.batch_id)
        sink = None
        if job.streamed and self._publisher is not None:
            sink = self._streams[job.attempt_id] = self._publisher.open(job.id, job.attempt_id)
        answer = caller.call(job.prompt.body, call.target.wire_model, job.attempt_id, call.limits, purpose, sink)
        if call.hedge_after_s is None:  # no hedge will want it
            job.prompt.release()
        return await answer

    async def _build_callers(self) -> None:
        self._callers = {name: build_caller(route) for name, route in self._routes.items()}

    async def _credentials(self) -> dict[str, Credentials]:
        found: dict[str, Credentials] = {}

        async def look(name: str, caller: Caller) -> None:
            try:
                found[name] = await caller.credentials()
            except Exception as error:  # of one route: the others are looked at all the same
                found[name] = Credentials(missing=f"the look at them failed: {place_of(error)}")

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CREDENTIALS_S):
                await asyncio.gather(*(look(name, caller) for name, caller in self._callers.items()))
        return found

    async def _reach(self, routes: Sequence[str]) -> dict[str, str]:
        async def reach(caller: Caller) -> str:
            try:
                return await caller.reach(REACH_S)
            except Exception as error:
                return f"the test failed: {place_of(error)}"

        found = await asyncio.gather(*(reach(self._callers[route]) for route in routes))
        return dict(zip(routes, found, strict=True))

    async def _close_callers(self) -> None:
        if self._publisher is not None:
            await self._publisher.close()
        for caller in self._callers.values():
            await caller.close()


def _result_of(task: "asyncio.Task[Answer | Failure]", attempt_id: str) -> Answer | Failure:
    if task.cancelled():
        return Failure(Outcome.CANCELLED, "dropped on our side")
    error = task.exception()
    if error is None:
        return task.result()
    place = place_of(error)
    log.error("the call %s ended in a fault of Trivet's own: %s", attempt_id, place)
    return Failure(Outcome.SERVER_ERROR, f"a fault of Trivet's own: {place}", own_fault=True)


def _end_stream(stream: AttemptStream, result: Answer | Failure) -> None:
    if isinstance(result, Failure):
        stream.end(result.outcome, result.message)
    else:
        stream.end(Outcome.SUCCEEDED)


def _is_local(result: Answer | Failure) -> bool:
    """Return whether the reason may concern this worker alone."""
    return isinstance(result, Failure) and result.local_cause is not None


def _quietly(closing: "Future[None]") -> None:
    try:
        closing.result(timeout=5)
    except Exception as error:
        log.warning("closing the connections failed: %s", type(error).__name__)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def requirements_of(job: ClaimedJob, tried: tuple[str, ...], mix: Mix = TYPICAL) -> Requirements:
    """Return the requirements of a job on its next route.

    Args:
        tried: routes that are not to be asked again.
        mix: expected usage of the call, where cost decides.
    """
    target = job.target
    return Requirements(
        target.model,
        target.latency,
        job.residency,
        job.compliance,
        job.features,
        tried,
        job.round.doubted_by,
        mix,
        too_slow=job.round.too_slow,
    )


def fallback_reserve_s(fallbacks: Sequence[Candidate]) -> float:
    """Return the time that the quickest of these routes needs for a realtime call, in seconds; 0 when there is none."""
    paces = [route.breaker.pace(Latency.REALTIME) for route in fallbacks]
    return min((HANDOVER_S + pace.p95_s if pace else FALLBACK_RESERVE_S for pace in paces), default=0.0)


def attempt_timeout_s(
    latency: Latency,
    terms: ClassSettings,
    allowed: CallTime,
    *,
    spent_s: float,
    deadline_at: float | None,
    now: float,
    reserve_s: float,
) -> float:
    """Return the time limit of the next call, in seconds; 0 or less when no time is left for one.

    Args:
        allowed: the time that the class gives the job.
        spent_s: what the round has used of its budget.
        reserve_s: what the quickest route that could still take the job would need; 0 = there is none.
    """
    left = allowed.budget_s - spent_s
    if deadline_at is not None:
        left = min(left, deadline_at - now)
    if latency is Latency.REALTIME and terms.attempt_timeout_s is None:
        return left - min(reserve_s, left / 2)
    return min(left, allowed.attempt_s)


def is_full_time(timeout_s: float, allowed: CallTime) -> bool:
    """Return whether a call had at least half of its time: only then does a timeout count."""
    return timeout_s >= allowed.attempt_s / 2
