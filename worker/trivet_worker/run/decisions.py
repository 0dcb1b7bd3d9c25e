"""What a finished call means: for its route's gate, and for what becomes of its job."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import redis

from trivet_routing.call_costs import Mix
from trivet_routing.fleet import Fleet
from trivet_routing.liveness.troubles import DATABASE, SHARED_STATE, WATCH, Troubles
from trivet_routing.outcome_rules import RULES, verdict_of
from trivet_routing.permits import Spent, Stated, Verdict
from trivet_routing.proxy_errors import proxy_errors_of, with_another, worth_asking_again
from trivet_routing.retry_policy import Failed, Standing, doubted_after, next_step, tried_after
from trivet_routing.route_choice import Candidate, Choice, Needs, Refusal, Why, choose, load_of
from trivet_store.steps import End, GoOn, Next
from trivet_tasks.catalog import known
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import StoreUnavailable
from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import Outcome
from trivet_tasks.requests.call_time import needed_s, too_short_text
from trivet_tasks.shared_state import unavailable_text
from trivet_tasks.states import JobState
from trivet_worker.adapters.calls import Answer, Failure, LimitReading, LimitWindow, LocalCause
from trivet_worker.run.flights import Flight, Landing
from trivet_worker.run.pricing import likely_usage
from trivet_worker.run.witness import Witness

_NO_VIEW = Choice((), (), (Refusal("", Why.LIMITED, "the shared state does not answer"),))
"""While the routes cannot be read, a failed job goes back to waiting."""
BRIEFLY_S = 1.0
"""How long it counts that they could not be."""


_LOCAL_VERDICTS = {
    LocalCause.NO_CREDENTIALS: Verdict.UNUSED,
    LocalCause.KEY_REFUSED: Verdict.LOCAL_REFUSED,
    LocalCause.UNREACHED: Verdict.LOCAL_FAILED,
}


def spent_of(landing: Landing, settings: Settings, *, local: bool = False) -> Spent:
    """What a call used of its permit, and what it said of the route.

    A call that ran out of time counts, where speed is compared, as one that took its class's whole budget.

    Args:
        local: its failure is this worker's own, as far as this worker can tell (`Witness.local`).
    """
    flight = landing.flight
    want, generation = flight.want, flight.generation
    match landing.result:
        case Answer(limits=limits) as answer:
            used = answer.usage or likely_usage(flight, answer)
            # what came out of the prompt cache does not count against the input limit
            input_tokens = used.input_tokens + used.cache_write_5m_tokens + used.cache_write_1h_tokens
            took_s = 0.0 if flight.job.probe else landing.latency_s
            return Spent(
                want,
                input_tokens,
                used.output_tokens,
                Verdict.GOOD,
                generation=generation,
                took_s=took_s,
                job=flight.job.id,
                lasted_s=landing.latency_s,
                stated=_stated(limits),
            )
        case Failure() if not landing.called:
            return Spent(want, 0, 0, Verdict.UNUSED, generation=generation)
        case Failure(outcome=outcome) as failure:
            if local and failure.local_cause is not None:
                cause = f"{outcome}: {failure.message}"[:200]
                return Spent(want, 0, 0, _LOCAL_VERDICTS[failure.local_cause], cause, generation)
            # a fault of Trivet's own says nothing of the route
            verdict = Verdict.NEUTRAL if failure.own_fault else verdict_of(outcome, failure.scope)
            timed_out = outcome is Outcome.TIMEOUT and flight.full_time and not flight.job.probe
            if outcome is Outcome.TIMEOUT and not flight.full_time:
                verdict = Verdict.NEUTRAL
            elif timed_out and _asked_too_much(flight):
                verdict = Verdict.SHORT
            elif flight.job.probe and not failure.own_fault:
                verdict = _of_probe(verdict, outcome)
            elif verdict is Verdict.DOUBTED and flight.job.proxy_errors:
                verdict = Verdict.CHECK
            budget_s = settings.of_class(Latency(flight.site.latency)).budget_s
            # nobody knows what a call without an answer used: it is taken to have used it all
            all_used = RULES[outcome].may_be_billed or failure.own_fault
            return Spent(
                want,
                want.input_tokens if all_used else 0,
                want.output_tokens if all_used else 0,
                verdict,
                f"{outcome}: {failure.message}"[:200],
                generation,
                pause_s=failure.retry_after_s or 0.0,
                took_s=budget_s if timed_out and verdict is Verdict.FAILED else 0.0,
                job="" if _is_of_route(failure) else flight.job.id,
                stated=_stated(failure.limits),
            )


def _is_of_route(failure: Failure) -> bool:
    """Return whether no request can have brought it about: then every failure counts, also the same job's."""
    return failure.from_api and RULES[failure.outcome].of_route


def _of_probe(verdict: Verdict, outcome: Outcome) -> Verdict:
    """What a probe's failure means: a route that refuses the plainest request serves nobody."""
    if verdict is Verdict.DOUBTED:
        return Verdict.UNREACHABLE
    if verdict is Verdict.NEUTRAL and outcome is not Outcome.CANCELLED:
        return Verdict.UNUSABLE_MODEL
    return verdict


def _asked_too_much(flight: Flight) -> bool:
    """Whether `max_tokens` could hardly come within the time that this call had."""
    model = known(flight.site.model)
    return model is not None and needed_s(model, flight.job.max_tokens) > flight.timeout_s


def _too_short(flight: Flight, settings: Settings) -> str | None:
    """Why the call could hardly be answered in its time, if so."""
    site = flight.site
    return too_short_text(known(site.model), Latency(site.latency), flight.job.max_tokens, settings)


def _stated(reading: LimitReading | None) -> tuple[Stated, Stated, Stated] | None:
    if reading is None:
        return None

    def one(window: LimitWindow | None) -> Stated:
        return Stated(window.limit, window.remaining) if window else Stated()

    return one(reading.requests), one(reading.input_tokens), one(reading.output_tokens)


class Decisions:
    """Decides what becomes of jobs, a group of finished calls at a time."""

    def __init__(self, fleet: Fleet, settings: Settings, troubles: Troubles, witness: Witness) -> None:
        self._fleet = fleet
        self._settings = settings
        self._troubles = troubles
        self._witness = witness

    def next_steps(self, group: Sequence[Landing]) -> list[Next | None]:
        """For each call, in order, what becomes of its job; None where another call of it decides.

        The routes are read once for all.
        """
        models = {landing.flight.site.model for landing in group if isinstance(landing.result, Failure)}
        candidates: dict[str, list[Candidate]] = {}
        if models and not self._troubles.seen(SHARED_STATE, WATCH):
            try:
                candidates = self._fleet.candidates_of(models)
            except redis.RedisError as error:
                self._troubles.note(
                    SHARED_STATE, "routes", unavailable_text(self._settings.redis_url, error), BRIEFLY_S
                )
            except StoreUnavailable as error:
                self._troubles.note(DATABASE, "routes", str(error), BRIEFLY_S)
        now, sent = self._fleet.now(), Counter[str]()
        return [
            self._next(landing, candidates.get(landing.flight.site.model), now, sent) if landing.decides else None
            for landing in group
        ]

    def _next(self, landing: Landing, candidates: list[Candidate] | None, now: float, sent: Counter[str]) -> Next:
        match landing.result:
            case Answer(message=message, stop_reason=stop_reason):
                return End(JobState.SUCCEEDED, message=message, stop_reason=stop_reason)
            case Failure() as failure:
                step = self._after_failure(landing, failure, candidates, now, sent)
                if isinstance(step, GoOn):
                    sent[step.route] += 1
                return step

    def _after_failure(
        self,
        landing: Landing,
        failure: Failure,
        candidates: list[Candidate] | None,
        now: float,
        sent: Counter[str],
    ) -> Next:
        flight = landing.flight
        job, site = flight.job, flight.site
        if job.probe:
            return End(
                JobState.FAILED, outcome=failure.outcome, error=f"{site.route}: {failure.outcome}: {failure.message}"
            )
        latency = Latency(site.latency)
        terms = self._settings.of_class(latency)
        # the budget bounds the work on a job; being told to wait is no work, nor is what another worker would have done
        local = self._witness.local(landing)
        idle = local or failure.outcome is Outcome.RATE_LIMITED
        spent_s = job.round_spent_s + (0.0 if idle else landing.latency_s)
        tried = (*(job.tried.split(",") if job.tried else ()), *flight.race.failed)
        pages, again = proxy_errors_of(job.proxy_errors), frozenset[str]()
        if failure.outcome is Outcome.PROXY_ERROR:
            gates = None if candidates is None else {route.name: route.gate for route in candidates}
            again = worth_asking_again(pages, gates or {}, now)
            generation = flight.generation.rpartition(".")[0]
            pages = with_another(pages, site.route, failure.message, now=now, generation=generation, gates=gates)
        standing = Standing(job.round, spent_s, tried, job.doubted_by, job.deadline_at, pages, job.take_up)
        message = failure.message
        if failure.outcome is Outcome.TIMEOUT and (why := _too_short(flight, self._settings)):
            message = f"{message} ({why.rstrip('.')})"
        failed = Failed(site.route, site.provider, failure.outcome, message, failure.scope, local)
        choice = _NO_VIEW
        if candidates is not None:
            needs = Needs(
                site.model,
                latency,
                job.residency,
                job.compliance,
                job.features,
                tried_after(standing, failed)
                if not local or self._witness.hands_over(landing)
                else (*tried, site.route),
                doubted_after(standing, failed),
                Mix.of(job.input_estimate, job.max_tokens, self._fleet.lengths.share(site.model, latency)),
            )
            choice = choose(needs, candidates, terms)
            if again and not choice.routes:
                rest = tuple(name for name in needs.tried if name not in again or name == site.route)
                choice = choose(replace(needs, tried=rest), candidates, terms)
        return next_step(
            standing,
            failed,
            choice,
            terms,
            now=now,
            taken_within_s=self._settings.taken_within_s(latency, alone=job.alone),
            # a wave that fails together must not fall on one route together
            load=lambda route: load_of(route) + sent[route.name] / route.settings.weight,
            has_room=lambda route: sent[route.name] < _room(route),
        )


def _room(route: Candidate) -> float:
    """How many more calls a route can take at once, at least one."""
    return max(1.0, min(route.gate.places - route.gate.in_flight, route.gate.headroom + route.gate.rates[0]))
