"""Release of permits, and the report of finished calls to the circuit breakers."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import redis

from trivet_routing.limits import Limits
from trivet_routing.liveness.process_impairments import SHARED_STATE, WATCH, ProcessImpairments
from trivet_routing.permits import NO_PERMIT, Change, PermitRelease, Quota, Stated
from trivet_routing.route_directory import RouteSnapshot
from trivet_tasks.call_times import usual_s
from trivet_tasks.catalog import known
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import StoreUnavailable, place_of
from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import RULES, HealthSignal, Outcome, signal_of
from trivet_tasks.shared_state import is_away, unavailable_text
from trivet_tasks.states import RouteState
from trivet_worker.adapters.protocol import Answer, Failure, LimitReading, LimitWindow, LocalCause
from trivet_worker.run.calls import Call, CallResult
from trivet_worker.run.local_faults import Witness
from trivet_worker.run.pricing import likely_usage

log = logging.getLogger("trivet.recorder")


class PermitRoutes(Protocol):
    """The part of a `RouteDirectory` that the release of permits needs."""

    limits: Limits

    def known(self) -> RouteSnapshot:
        """Return routes and workers."""
        ...


class PermitReleaser:
    """Reports finished calls to the shared state. Undelivered reports are retried.

    Used by one thread. Waiting reports are bounded by the process's slots: while one waits, no work is taken.
    """

    def __init__(
        self, routes: PermitRoutes, settings: Settings, process_impairments: ProcessImpairments, witness: Witness
    ) -> None:
        self._routes = routes
        self._settings = settings
        self._process_impairments = process_impairments
        self._witness = witness
        self._undelivered: list[_Report] = []

    @property
    def waits(self) -> bool:
        """Return whether a report still waits."""
        return bool(self._undelivered)

    def release(self, group: Sequence[CallResult]) -> list[Change]:
        """Release the permits of these calls, with the waiting ones; one round trip per (route, model, class).

        Returns the changes. Raises nothing: undelivered reports wait. While the shared state is known to be away it is
        not asked: a server that hangs would delay the records for seconds.
        """
        self._undelivered += self._reports_of(group)
        changes: list[Change] = []
        if self._process_impairments.seen(SHARED_STATE, WATCH):
            return changes
        try:
            while self._undelivered:
                changes += self._deliver(self._undelivered[0])
                self._undelivered.pop(0)
            self._process_impairments.over(SHARED_STATE, "permits released")
        except redis.RedisError as error:
            why = unavailable_text(self._settings.redis_url, error)
            self._process_impairments.note(SHARED_STATE, "permits released", why)
        for change in changes:
            level = logging.ERROR if change.state == RouteState.OPEN else logging.WARNING
            log.log(level, "%s %s is %s: %s", change.route, change.model, change.state, change.cause)
        return changes

    def _deliver(self, report: "_Report") -> list[Change]:
        try:
            return self._routes.limits.release(*report)
        except redis.RedisError as error:
            if is_away(error):
                raise
            log.error("%d permits of %s expire by themselves: %s", len(report.releases), report.route, error)
            return []
        except Exception as error:  # it would be refused again, and all later reports would wait
            log.error("%d permits of %s expire by themselves: %s", len(report.releases), report.route, place_of(error))
            return []

    def _reports_of(self, group: Sequence[CallResult]) -> list["_Report"]:
        by_breaker: dict[tuple[str, str, Latency], list[CallResult]] = defaultdict(list)
        for result in group:
            target = result.call.target
            by_breaker[target.route, target.model, target.latency].append(result)
        reports = [
            _Report(*breaker, results[0].call.quota, [self._release_of(result) for result in results])
            for breaker, results in by_breaker.items()
        ]
        doubted = [one for one in group if one.call.job.round.doubted_by and isinstance(one.response, Answer)]
        reports += [found for result in doubted if (found := self._contradicted(result))]
        pages = [one for one in group if one.call.job.round.proxy_errors and _met_a_page(one)]
        return [*reports, *(check for result in pages for check in self._checks(result))]

    def _release_of(self, result: CallResult) -> PermitRelease:
        return release_of(result, local=self._witness.local(result))

    def _checks(self, result: CallResult) -> Iterator["_Report"]:
        """Yield reports for other routes where the job met a proxy's page: a probe decides which of them is at fault."""
        job, target = result.call.job, result.call.target
        try:
            routes = self._routes.known().routes
        except StoreUnavailable:
            return
        for page in job.round.proxy_errors:
            if page.route != target.route and not page.confirmed and page.route in routes:
                quota = Quota.of(routes[page.route].settings, target.model)
                cause = f"{Outcome.PROXY_ERROR}: {page.message}"
                check = PermitRelease(NO_PERMIT, 0, 0, HealthSignal.CHECK, cause, job=job.id)
                yield _Report(page.route, target.model, target.latency, quota, [check])

    def _contradicted(self, result: CallResult) -> "_Report | None":
        """Return a report for a route that refused, for an unknown reason, a request that another provider has now served."""
        job, target = result.call.job, result.call.target
        try:
            routes = self._routes.known().routes
        except StoreUnavailable:
            return None
        refused = [
            name
            for name in job.round.tried
            if name in routes and routes[name].settings.provider == job.round.doubted_by
        ]
        if not refused:
            return None
        quota = Quota.of(routes[refused[-1]].settings, target.model)
        cause = f"unusable: it refused what {target.provider} served, time and again"
        release = PermitRelease(NO_PERMIT, 0, 0, HealthSignal.CONTRADICTED, cause)
        return _Report(refused[-1], target.model, target.latency, quota, [release])


def _met_a_page(result: CallResult) -> bool:
    return isinstance(result.response, Failure) and result.response.outcome is Outcome.PROXY_ERROR


class _Report(NamedTuple):
    """The calls of one (route, model, class), as `Limits.release` takes them."""

    route: str
    model: str
    latency: Latency
    quota: Quota
    releases: list[PermitRelease]


_CAUSE_CHARS = 200
_LOCAL_SIGNALS = {
    LocalCause.NO_CREDENTIALS: HealthSignal.UNUSED,
    LocalCause.KEY_REFUSED: HealthSignal.LOCAL_REFUSED,
    LocalCause.UNREACHED: HealthSignal.LOCAL_FAILED,
}


def release_of(result: CallResult, *, local: bool = False) -> PermitRelease:
    """Return the release of a call's permit: its use, and the call's health signal for the route.

    A call that ran out of time counts, where speed is compared, as one that took its job's whole budget.

    Args:
        local: its failure is this worker's own, as far as this worker can tell (`Witness.local`).
    """
    permit = result.call.job.permit
    match result.response:
        case Answer() as answer:
            return _after_answer(result, answer)
        case Failure() if not result.called:
            return PermitRelease(permit, 0, 0, HealthSignal.UNUSED)
        case Failure(local_cause=LocalCause() as cause) as failure if local:
            return PermitRelease(permit, 0, 0, _LOCAL_SIGNALS[cause], _text_of(failure))
        case Failure() as failure:
            return _after_failure(result.call, failure)


def _after_answer(result: CallResult, answer: Answer) -> PermitRelease:
    call = result.call
    used = answer.usage or likely_usage(call, answer)
    return PermitRelease(
        call.job.permit,
        # what came out of the prompt cache does not count against the input limit
        used.input_tokens + used.cache_write_5m_tokens + used.cache_write_1h_tokens,
        used.output_tokens,
        HealthSignal.GOOD,
        took_s=0.0 if call.target.probe else result.latency_s,
        job=call.job.id,
        lasted_s=result.latency_s,
        stated=_stated(answer.limits),
    )


def _after_failure(call: Call, failure: Failure) -> PermitRelease:
    permit, signal = call.job.permit, _signal_of(call, failure)
    # the usage of a call without an answer is not known: it counts as all of its permit
    all_used = RULES[failure.outcome].may_be_billed or failure.own_fault
    timed_out = signal is HealthSignal.FAILED and failure.outcome is Outcome.TIMEOUT and not call.target.probe
    return PermitRelease(
        permit,
        permit.input_tokens if all_used else 0,
        permit.output_tokens if all_used else 0,
        signal,
        _text_of(failure),
        pause_s=failure.retry_after_s or 0.0,
        took_s=call.allowed.budget_s if timed_out else 0.0,
        late=timed_out,
        job="" if _is_of_route(failure) else call.job.id,
        stated=_stated(failure.limits),
    )


def _signal_of(call: Call, failure: Failure) -> HealthSignal:
    outcome = failure.outcome
    # a fault of Trivet's own says nothing of the route
    signal = HealthSignal.NEUTRAL if failure.own_fault else signal_of(outcome, failure.scope)
    if outcome is Outcome.TIMEOUT and not failure.stalled and not call.full_time:
        return HealthSignal.NEUTRAL
    if outcome is Outcome.TIMEOUT and not failure.stalled and not call.target.probe and _asked_too_much(call):
        return HealthSignal.SHORT
    if call.target.probe and not failure.own_fault:
        return _of_probe(signal, outcome)
    if signal is HealthSignal.DOUBTED and call.job.round.proxy_errors:
        return HealthSignal.CHECK
    return signal


def _text_of(failure: Failure) -> str:
    return f"{failure.outcome}: {failure.message}"[:_CAUSE_CHARS]


def _is_of_route(failure: Failure) -> bool:
    """Return whether no request can have caused it: then every failure counts, also of the same job."""
    return failure.from_api and RULES[failure.outcome].of_route


def _of_probe(signal: HealthSignal, outcome: Outcome) -> HealthSignal:
    """Return the meaning of a probe's failure: a route that refuses the plainest request serves nobody."""
    if signal is HealthSignal.DOUBTED:
        return HealthSignal.UNREACHABLE
    if signal is HealthSignal.NEUTRAL and outcome is not Outcome.CANCELLED:
        return HealthSignal.UNUSABLE_MODEL
    return signal


def _asked_too_much(call: Call) -> bool:
    """Return whether `max_tokens` could hardly come within the time that this call had."""
    model = known(call.target.model)
    return model is not None and usual_s(model, call.job.max_tokens, call.allowed.pace) > call.timeout_s


def _stated(reading: LimitReading | None) -> tuple[Stated, Stated, Stated] | None:
    if reading is None:
        return None

    def one(window: LimitWindow | None) -> Stated:
        return Stated(window.limit, window.remaining) if window else Stated()

    return one(reading.requests), one(reading.input_tokens), one(reading.output_tokens)
