"""The next states of jobs whose calls have ended."""

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import redis

from trivet_routing.answer_paces import AnswerPaces
from trivet_routing.liveness.process_impairments import DATABASE, SHARED_STATE, WATCH, ProcessImpairments
from trivet_routing.retry_policy import (
    Failed,
    doubted_after,
    next_step,
    tried_after,
    with_proxy_error,
    worth_asking_again,
)
from trivet_routing.route_choice import Candidate, Choice, Refusal, Why, choose, load_of
from trivet_routing.route_directory import AnswerLengths
from trivet_store.steps import End, GoOn, JobRound, Next
from trivet_tasks.call_times import too_short_text, usual_s
from trivet_tasks.catalog import known
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import Outcome
from trivet_tasks.prices.cost_model import Mix
from trivet_tasks.shared_state import unavailable_text
from trivet_tasks.states import JobState
from trivet_worker.adapters.protocol import Answer, Failure
from trivet_worker.run.calls import LEAST_S, Call, CallResult, requirements_of
from trivet_worker.run.local_faults import Witness

_NO_VIEW = Choice((), (), (Refusal("", Why.LIMITED, "the shared state does not answer"),))
"""While the routes cannot be read, a failed job goes back to waiting."""
BRIEFLY_S = 1.0
"""Time for which a failure to read the routes counts, in seconds."""
LONG_ANSWER = 2.0
"""Length of a long answer, as a multiple of the usual length of its kind."""
WHOLE_TIME = 0.95
"""Share of its time after which a call counts as one that used all of it; a stall ends a call before."""


class RouteStates(Protocol):
    """The part of a `RouteDirectory` that decisions need."""

    lengths: AnswerLengths
    paces: AnswerPaces

    def candidates_of(self, models: set[str]) -> dict[str, list[Candidate]]:
        """Return every route's state for each of several models."""
        ...

    def now(self) -> float:
        """Return the database's time."""
        ...


class Decisions:
    """Decides the next states of jobs, a group of finished calls at a time."""

    def __init__(
        self, routes: RouteStates, settings: Settings, process_impairments: ProcessImpairments, witness: Witness
    ) -> None:
        self._routes = routes
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
                candidates = self._routes.candidates_of(models)
            except redis.RedisError as error:
                self._process_impairments.note(
                    SHARED_STATE, "routes", unavailable_text(self._settings.redis_url, error), BRIEFLY_S
                )
            except StoreUnavailable as error:
                self._process_impairments.note(DATABASE, "routes", str(error), BRIEFLY_S)
        now, sent = self._routes.now(), Counter[str]()
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
        job, target = result.call.job, result.call.target
        if target.probe:
            return End(
                JobState.FAILED, outcome=failure.outcome, error=f"{target.route}: {failure.outcome}: {failure.message}"
            )
        terms = self._settings.of_class(target.latency)
        local = self._witness.local(result)
        job_round, again = self._round_after(result, failure, candidates, now, local=local)
        message, predicted = failure.message, False
        if failure.outcome is Outcome.TIMEOUT and (why := self._too_short(result.call)):
            message = f"{message} ({why.rstrip('.')})"
            if needed := self._tokens_out_of_time(result, now):
                predicted = True
                job_round = job_round._replace(too_slow=self._too_slow(result.call, needed, candidates or [], now))
        failed = Failed(target.route, target.provider, failure.outcome, message, failure.scope, local, predicted)
        choice = _NO_VIEW
        if candidates is not None:
            hands_over = not local or self._witness.hands_over(result)
            tried = tried_after(job_round, failed) if hands_over else (*job_round.tried, target.route)
            so_far = job_round._replace(tried=tried, doubted_by=doubted_after(job_round, failed))
            choice = self._choose(result.call, so_far, candidates, again)
        return next_step(
            job_round,
            failed,
            choice,
            terms,
            budget_s=result.call.allowed.budget_s,
            now=now,
            deadline_at=job.deadline_at,
            claims=job.claim,
            taken_within_s=self._settings.taken_within_s(target.latency, isolated=target.isolated),
            # a wave that fails together must not fall on one route together
            load=lambda route: load_of(route) + sent[route.name] / route.settings.weight,
            has_room=lambda route: sent[route.name] < _room(route),
        )

    def _too_short(self, call: Call) -> str | None:
        """Return why the call could hardly be answered in its time; None where it could."""
        target = call.target
        return too_short_text(known(target.model), target.latency, call.job.max_tokens, self._settings.classes)

    def _tokens_out_of_time(self, result: CallResult, now: float) -> float | None:
        """Return the length in tokens of a long answer of the job's kind that no call of it at the usual pace has time for.

        None where it has. A silent provider is another matter: where answers are short as observed, or the route usually
        has them ready in time, or the stream stalled, the next one is asked.
        """
        call, target = result.call, result.call.target
        ends_by_itself = call.job.deadline_at is not None and call.job.deadline_at - now < LEAST_S
        if target.latency is Latency.REALTIME or ends_by_itself or result.latency_s < WHOLE_TIME * call.timeout_s:
            return None
        with contextlib.suppress(StoreUnavailable):  # then as they were known before
            self._routes.lengths.refresh()
            self._routes.paces.refresh()
        share = min(1.0, LONG_ANSWER * self._routes.lengths.share(target.model, target.latency))
        tokens = share * call.job.max_tokens
        if self._is_fast(target.route, call, tokens, now):
            return None
        usual = usual_s(known(target.model), tokens, call.allowed.pace)
        return tokens if usual > max(call.timeout_s, call.allowed.attempt_s) else None

    def _too_slow(self, call: Call, tokens: float, candidates: Sequence[Candidate], now: float) -> tuple[str, ...]:
        """Return the routes of which no observation says that they answer at this length within the time of a call."""
        slow = {route.name for route in candidates if not self._is_fast(route.name, call, tokens, now)}
        return tuple(sorted({call.target.route, *call.job.round.too_slow, *slow}))

    def _is_fast(self, route: str, call: Call, tokens: float, now: float) -> bool:
        """Return whether a route, as observed, answers at this length within the time of a call of the job."""
        allowed_s, job = call.allowed.attempt_s, call.job
        if job.deadline_at is not None:
            allowed_s = min(allowed_s, job.deadline_at - now)
        pace = self._routes.paces.tokens_per_s(route, call.target.model)
        return pace is not None and tokens / pace <= allowed_s

    def _round_after(
        self, result: CallResult, failure: Failure, candidates: list[Candidate] | None, now: float, *, local: bool
    ) -> tuple[JobRound, frozenset[str]]:
        """Return the job's round after a failed call, and the routes whose proxies are worth asking again."""
        call, job = result.call, result.call.job
        # the budget bounds the work on a job: not a wait that a provider asks for, nor a failure of this worker alone
        idle = local or failure.outcome is Outcome.RATE_LIMITED
        spent_s = job.round.spent_s + (0.0 if idle else result.latency_s)
        pages, again = job.round.proxy_errors, frozenset[str]()
        if failure.outcome is Outcome.PROXY_ERROR:
            breakers = None if candidates is None else {route.name: route.breaker for route in candidates}
            again = worth_asking_again(pages, breakers or {}, now)
            generation = job.permit.generation.rpartition(".")[0]
            pages = with_proxy_error(
                pages, call.target.route, failure.message, now=now, generation=generation, breakers=breakers
            )
        tried = (*job.round.tried, *call.race.failed)
        return job.round._replace(spent_s=spent_s, tried=tried, proxy_errors=pages), again

    def _choose(
        self,
        call: Call,
        so_far: JobRound,
        candidates: list[Candidate],
        again: frozenset[str],
    ) -> Choice:
        """Choose among the routes that were not tried; where none takes the job, among those worth asking again, too."""
        job, target = call.job, call.target
        mix = Mix.of(job.input_estimate, job.max_tokens, self._routes.lengths.share(target.model, target.latency))
        requirements = requirements_of(job._replace(round=so_far), so_far.tried, mix)
        terms = self._settings.of_class(target.latency)
        choice = choose(requirements, candidates, terms)
        if again and not choice.routes:
            rest = tuple(name for name in so_far.tried if name not in again or name == target.route)
            choice = choose(replace(requirements, tried=rest), candidates, terms)
        return choice


def _room(route: Candidate) -> float:
    """Return the number of further calls that a route can take at once, at least one."""
    return max(
        1.0, min(route.breaker.places - route.breaker.in_flight, route.breaker.headroom + route.breaker.rates[0])
    )
