"""Meaning of a finished call: the health signal for its route, and the next state of its job."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import redis

from trivet_routing.liveness.process_impairments import DATABASE, SHARED_STATE, WATCH, ProcessImpairments
from trivet_routing.permits import PermitRelease, Stated
from trivet_routing.retry_policy import (
    Failed,
    JobRound,
    doubted_after,
    next_step,
    proxy_errors_of,
    tried_after,
    with_proxy_error,
    worth_asking_again,
)
from trivet_routing.route_choice import Candidate, Choice, Refusal, Requirements, Why, choose, load_of
from trivet_routing.route_directory import RouteDirectory
from trivet_store.steps import End, GoOn, Next
from trivet_tasks.catalog import known
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import RULES, HealthSignal, Outcome, signal_of
from trivet_tasks.prices.cost_model import Mix
from trivet_tasks.requests.request_terms import needed_s, too_short_text
from trivet_tasks.shared_state import unavailable_text
from trivet_tasks.states import JobState
from trivet_worker.adapters.protocol import Answer, Failure, LimitReading, LimitWindow, LocalCause
from trivet_worker.run.calls import Call, CallResult
from trivet_worker.run.pricing import likely_usage
from trivet_worker.run.witness import Witness

_NO_VIEW = Choice((), (), (Refusal("", Why.LIMITED, "the shared state does not answer"),))
"""While the routes cannot be read, a failed job goes back to waiting."""
BRIEFLY_S = 1.0
"""Time for which it counts that they could not be read."""


_LOCAL_SIGNALS = {
    LocalCause.NO_CREDENTIALS: HealthSignal.UNUSED,
    LocalCause.KEY_REFUSED: HealthSignal.LOCAL_REFUSED,
    LocalCause.UNREACHED: HealthSignal.LOCAL_FAILED,
}


def spent_of(result: CallResult, settings: Settings, *, local: bool = False) -> PermitRelease:
    """Return a call's use of its permit, and its health signal for the route.

    A call that ran out of time counts, where speed is compared, as one that took its class's whole budget.

    Args:
        local: its failure is this worker's own, as far as this worker can tell (`Witness.local`).
    """
    call = result.call
    permit, generation = call.permit, call.generation
    match result.response:
        case Answer(limits=limits) as answer:
            used = answer.usage or likely_usage(call, answer)
            # what came out of the prompt cache does not count against the input limit
            input_tokens = used.input_tokens + used.cache_write_5m_tokens + used.cache_write_1h_tokens
            took_s = 0.0 if call.job.probe else result.latency_s
            return PermitRelease(
                permit,
                input_tokens,
                used.output_tokens,
                HealthSignal.GOOD,
                generation=generation,
                took_s=took_s,
                job=call.job.id,
                lasted_s=result.latency_s,
                stated=_stated(limits),
            )
        case Failure() if not result.called:
            return PermitRelease(permit, 0, 0, HealthSignal.UNUSED, generation=generation)
        case Failure(outcome=outcome) as failure:
            if local and failure.local_cause is not None:
                cause = f"{outcome}: {failure.message}"[:200]
                return PermitRelease(permit, 0, 0, _LOCAL_SIGNALS[failure.local_cause], cause, generation)
            # a fault of Trivet's own says nothing of the route
            signal = HealthSignal.NEUTRAL if failure.own_fault else signal_of(outcome, failure.scope)
            timed_out = outcome is Outcome.TIMEOUT and call.full_time and not call.job.probe
            if outcome is Outcome.TIMEOUT and not call.full_time:
                signal = HealthSignal.NEUTRAL
            elif timed_out and _asked_too_much(call):
                signal = HealthSignal.SHORT
            elif call.job.probe and not failure.own_fault:
                signal = _of_probe(signal, outcome)
            elif signal is HealthSignal.DOUBTED and call.job.proxy_errors:
                signal = HealthSignal.CHECK
            budget_s = settings.of_class(Latency(call.target.latency)).budget_s
            # the usage of a call without an answer is not known: it counts as all of its permit
            all_used = RULES[outcome].may_be_billed or failure.own_fault
            return PermitRelease(
                permit,
                permit.input_tokens if all_used else 0,
                permit.output_tokens if all_used else 0,
                signal,
                f"{outcome}: {failure.message}"[:200],
                generation,
                pause_s=failure.retry_after_s or 0.0,
                took_s=budget_s if timed_out and signal is HealthSignal.FAILED else 0.0,
                job="" if _is_of_route(failure) else call.job.id,
                stated=_stated(failure.limits),
            )


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
    return model is not None and needed_s(model, call.job.max_tokens) > call.timeout_s


def _too_short(call: Call, settings: Settings) -> str | None:
    """Return why the call could hardly be answered in its time, or empty."""
    target = call.target
    return too_short_text(known(target.model), Latency(target.latency), call.job.max_tokens, settings)


def _stated(reading: LimitReading | None) -> tuple[Stated, Stated, Stated] | None:
    if reading is None:
        return None

    def one(window: LimitWindow | None) -> Stated:
        return Stated(window.limit, window.remaining) if window else Stated()

    return one(reading.requests), one(reading.input_tokens), one(reading.output_tokens)


class Decisions:
    """Decides the next states of jobs, a group of finished calls at a time."""

    def __init__(
        self, directory: RouteDirectory, settings: Settings, process_impairments: ProcessImpairments, witness: Witness
    ) -> None:
        self._directory = directory
        self._settings = settings
        self._process_impairments = process_impairments
        self._witness = witness

    def next_steps(self, group: Sequence[CallResult]) -> list[Next | None]:
        """Return for each call, in order, the next state of its job; None where another call decides.

        The routes are read once for all.
        """
        models = {result.call.target.model for result in group if isinstance(result.response, Failure)}
        candidates: dict[str, list[Candidate]] = {}
        if models and not self._process_impairments.seen(SHARED_STATE, WATCH):
            try:
                candidates = self._directory.candidates_of(models)
            except redis.RedisError as error:
                self._process_impairments.note(
                    SHARED_STATE, "routes", unavailable_text(self._settings.redis_url, error), BRIEFLY_S
                )
            except StoreUnavailable as error:
                self._process_impairments.note(DATABASE, "routes", str(error), BRIEFLY_S)
        now, sent = self._directory.now(), Counter[str]()
        return [
            self._next(result, candidates.get(result.call.target.model), now, sent) if result.decides else None
            for result in group
        ]

    def _next(self, result: CallResult, candidates: list[Candidate] | None, now: float, sent: Counter[str]) -> Next:
        match result.response:
            case Answer(message=message, stop_reason=stop_reason):
                return End(JobState.SUCCEEDED, message=message, stop_reason=stop_reason)
            case Failure() as failure:
                step = self._after_failure(result, failure, candidates, now, sent)
                if isinstance(step, GoOn):
                    sent[step.route] += 1
                return step

    def _after_failure(
        self,
        result: CallResult,
        failure: Failure,
        candidates: list[Candidate] | None,
        now: float,
        sent: Counter[str],
    ) -> Next:
        call = result.call
        job, target = call.job, call.target
        if job.probe:
            return End(
                JobState.FAILED, outcome=failure.outcome, error=f"{target.route}: {failure.outcome}: {failure.message}"
            )
        latency = Latency(target.latency)
        terms = self._settings.of_class(latency)
        # the budget bounds the work on a job: not a wait that a provider asks for, nor a failure of this worker alone
        local = self._witness.local(result)
        idle = local or failure.outcome is Outcome.RATE_LIMITED
        spent_s = job.round_spent_s + (0.0 if idle else result.latency_s)
        tried = (*(job.tried.split(",") if job.tried else ()), *call.race.failed)
        pages, again = proxy_errors_of(job.proxy_errors), frozenset[str]()
        if failure.outcome is Outcome.PROXY_ERROR:
            breakers = None if candidates is None else {route.name: route.breaker for route in candidates}
            again = worth_asking_again(pages, breakers or {}, now)
            generation = call.generation.rpartition(".")[0]
            pages = with_proxy_error(
                pages, target.route, failure.message, now=now, generation=generation, breakers=breakers
            )
        job_round = JobRound(job.round, spent_s, tried, job.doubted_by, job.deadline_at, pages, job.claim)
        message = failure.message
        if failure.outcome is Outcome.TIMEOUT and (why := _too_short(call, self._settings)):
            message = f"{message} ({why.rstrip('.')})"
        failed = Failed(target.route, target.provider, failure.outcome, message, failure.scope, local)
        choice = _NO_VIEW
        if candidates is not None:
            requirements = Requirements(
                target.model,
                latency,
                job.residency,
                job.compliance,
                job.features,
                tried_after(job_round, failed)
                if not local or self._witness.hands_over(result)
                else (*tried, target.route),
                doubted_after(job_round, failed),
                Mix.of(job.input_estimate, job.max_tokens, self._directory.lengths.share(target.model, latency)),
            )
            choice = choose(requirements, candidates, terms)
            if again and not choice.routes:
                rest = tuple(name for name in requirements.tried if name not in again or name == target.route)
                choice = choose(replace(requirements, tried=rest), candidates, terms)
        return next_step(
            job_round,
            failed,
            choice,
            terms,
            now=now,
            taken_within_s=self._settings.taken_within_s(latency, isolated=job.isolated),
            # a wave that fails together must not fall on one route together
            load=lambda route: load_of(route) + sent[route.name] / route.settings.weight,
            has_room=lambda route: sent[route.name] < _room(route),
        )


def _room(route: Candidate) -> float:
    """Return how many more calls a route can take at once, at least one."""
    return max(
        1.0, min(route.breaker.places - route.breaker.in_flight, route.breaker.headroom + route.breaker.rates[0])
    )
