"""Retry policy: the next step of a job whose call failed. Pure functions; `trivet_tasks.outcomes` has the table.

A page of a proxy that came instead of an answer says nothing certain: neither of the route's key nor of the job. A job is at
fault where two routes refused it so, each twice, and between these two pages each route answered another call or a probe.
Until then it waits, and no round of it is over.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from trivet_routing.permits import BreakerView
from trivet_routing.route_choice import Candidate, Choice, load_of
from trivet_store.steps import End, GoOn, JobRound, Next, Wait
from trivet_tasks.jobs import ProxyError
from trivet_tasks.latency import ClassSettings
from trivet_tasks.outcomes import RULES, Outcome, Scope
from trivet_tasks.states import JobState

ROUTES_THAT_AGREE = 2
_LONGEST_MESSAGE = 200

LOCAL_MOST_S = 10.0
"""Maximum seconds between two tries of a job that only an impaired worker takes."""


def with_proxy_error(
    errors: Sequence[ProxyError],
    route: str,
    message: str,
    *,
    now: float,
    generation: str,
    breakers: Mapping[str, BreakerView] | None,
) -> tuple[ProxyError, ...]:
    """Return the pages that still count, with the one that has just come from `route`.

    Args:
        now: the database's time.
        generation: of the route's breakers when the call was begun.
        breakers: the routes' breakers for the job's model; None where they cannot be read.
    """
    others = [
        error
        for error in errors
        if error.route != route and (breakers is None or _generation(breakers, error.route) == error.generation)
    ]
    before = next((error for error in errors if error.route == route and error.generation == generation), None)
    if before is None:
        return (*others, ProxyError(route, now, generation, 1, False, message[:_LONGEST_MESSAGE]))
    proven = breakers is not None and _is_proven(before, breakers, now)
    return (*others, before._replace(times=before.times + 1, confirmed=before.confirmed or proven))


def worth_asking_again(errors: Sequence[ProxyError], breakers: Mapping[str, BreakerView], now: float) -> frozenset[str]:
    """Return the routes that answered others since the job met a page there: a second page would tell whose fault it is."""
    return frozenset(error.route for error in errors if not error.confirmed and _is_proven(error, breakers, now))


def _is_proven(error: ProxyError, breakers: Mapping[str, BreakerView], now: float) -> bool:
    return error.route in breakers and breakers[error.route].proven_s < now - error.at


def _generation(breakers: Mapping[str, BreakerView], route: str) -> str | None:
    return breakers[route].generation if route in breakers else None


def proxies_agree(errors: Sequence[ProxyError]) -> str | None:
    """Return why the proxies refuse the job itself, with the reasons of the routes; None = that is not known."""
    confirmed = [error for error in errors if error.confirmed]
    if len(confirmed) < ROUTES_THAT_AGREE:
        return None
    said = "; ".join(f"{error.route}: {error.message}" for error in confirmed)
    return f"Proxies before {len(confirmed)} routes refuse this request and let others through: {said}"


@dataclass(frozen=True, slots=True)
class Failed:
    """A failed call: its route and provider, its outcome, and the provider's words."""

    route: str
    provider: str
    outcome: Outcome
    message: str
    scope: Scope | None = None
    """Reach of an `unusable` outcome."""
    local: bool = False
    """The worker that made the call is at fault, or may be: neither the job nor the route is blamed."""
    predicted: bool = False
    """The call ran out of a time that its answer does not fit in, and another would have no more: only on a faster route."""

    @property
    def ambiguous(self) -> bool:
        """True if another provider must be asked before the request is called invalid."""
        return self.outcome is Outcome.AMBIGUOUS or self.scope is Scope.FEATURE


def tried_after(job_round: JobRound, failed: Failed) -> tuple[str, ...]:
    """Return the routes not to be asked again in this round."""
    if failed.local or not RULES[failed.outcome].tried:
        return job_round.tried
    return (*job_round.tried, failed.route)


def doubted_after(job_round: JobRound, failed: Failed) -> str | None:
    """Return the provider whose refusal is to be checked with another provider."""
    return failed.provider if failed.ambiguous else job_round.doubted_by


def next_step(
    job_round: JobRound,
    failed: Failed,
    choice: Choice,
    terms: ClassSettings,
    *,
    budget_s: float,
    now: float,
    deadline_at: float | None,
    claims: int,
    taken_within_s: float,
    load: Callable[[Candidate], float] = load_of,
    has_room: Callable[[Candidate], bool] = lambda _: True,
) -> Next:
    """Decide what happens to a job whose call failed.

    Args:
        job_round: its round so far: the time of the failed call and the pages of proxies are in it, its route is not.
        choice: the routes for the rest of the round, chosen with `tried_after` and `doubted_after`; after a local
            failure without the route of the call, while the same worker might claim the job again there.
        budget_s: latency budget of its round, in seconds.
        claims: number of times that a worker claimed the job.
        taken_within_s: seconds that a message may wait for a worker.
        load: returns the load of a route, including jobs sent there since it was read.
        has_room: returns whether a route could take one more job.
    """
    error = f"{failed.route}: {failed.outcome}: {failed.message}"
    if failed.outcome is Outcome.INVALID:
        return End(JobState.FAILED, outcome=Outcome.INVALID, error=error)
    if failed.outcome is Outcome.PROXY_ERROR and (why := proxies_agree(job_round.proxy_errors)):
        return End(JobState.FAILED, outcome=Outcome.PROXY_ERROR, error=why)
    if deadline_at is not None and now >= deadline_at:
        return End(
            JobState.EXPIRED, outcome=failed.outcome, error=f"The deadline passed. {_last_word(error, failed, choice)}"
        )
    if failed.predicted and choice.hopeless:
        why = f"{error}; no other route is known to be fast enough, so it is not tried again"
        return End(JobState.FAILED, outcome=failed.outcome, error=why)
    after = job_round._replace(doubted_by=doubted_after(job_round, failed))
    if failed.outcome is Outcome.CANCELLED:  # dropped on our side, not by the provider: as if it had not been tried
        return Wait(None, after, None, None)
    # a provider that was asked in this round and answered nothing has not agreed
    if failed.ambiguous and (job_round.doubted_by not in (None, failed.provider) or choice.hopeless):
        return End(JobState.FAILED, outcome=Outcome.INVALID, error=error)  # nobody disagrees
    after = after._replace(tried=tried_after(job_round, failed))
    in_time = job_round.spent_s < budget_s
    best = choice.best(load, has_room=has_room) if in_time else None
    if best is not None:
        return GoOn(best.name, now + taken_within_s, after, failed.outcome, error)
    if failed.local:
        return Wait(now + _local_pause_s(terms, claims), after, failed.outcome, error)
    if in_time and (choice.routes or _may_wait(job_round, failed, choice, terms)):
        return Wait(None, after, failed.outcome, error)
    number = job_round.number
    if terms.max_rounds > 1 and _undecided(job_round, failed):
        return Wait(now + _look_again_s(terms, job_round), after.anew(number), failed.outcome, error)
    if number + 1 >= terms.max_rounds:
        said = f"{_rounds(number + 1)}. {_last_word(error, failed, choice)}"
        return End(JobState.FAILED, outcome=failed.outcome, error=said)
    return Wait(now + backoff_s(terms, number), after.anew(number + 1), failed.outcome, error)


def _may_wait(job_round: JobRound, failed: Failed, choice: Choice, terms: ClassSettings) -> bool:
    """Return whether the job waits, in this round, for a route that is limited; else the round is over."""
    if failed.outcome is not Outcome.RATE_LIMITED:
        # no longer than it would back off: after that those that failed may be asked again
        return choice.worth_waiting(longest_backoff_s(terms, job_round.number))
    # where nobody has failed, being told to wait, however long, burns no round; realtime has but one: it fails
    return not job_round.tried and (terms.max_rounds > 1 or choice.worth_waiting(longest_backoff_s(terms, 0)))


def _local_pause_s(terms: ClassSettings, claims: int) -> float:
    """Return the pause in seconds of a job that only an impaired worker claims: exponential, to avoid a tight loop."""
    return min(terms.backoff_max_s, LOCAL_MOST_S, 0.1 * 2.0 ** min(claims - 1, 30)) * random.uniform(0.5, 1.0)


def _undecided(job_round: JobRound, failed: Failed) -> bool:
    """Return whether it is not yet known if the job or the route's proxy is at fault: then the round goes on."""
    return failed.outcome is Outcome.PROXY_ERROR and not any(
        page.confirmed for page in job_round.proxy_errors if page.route == failed.route
    )


def _look_again_s(terms: ClassSettings, job_round: JobRound) -> float:
    """Return the pause in seconds of a job that met proxies' pages: a quarter to a half at first, then exponential."""
    times = max((page.times for page in job_round.proxy_errors), default=1)
    return min(terms.backoff_max_s, 0.5 * 2.0 ** min(times - 1, 30)) * random.uniform(0.5, 1.0)


def longest_backoff_s(terms: ClassSettings, round_: int) -> float:
    """Return the maximum seconds between a round without success and the next: exponential."""
    return min(terms.backoff_max_s, terms.backoff_base_s * 2.0 ** min(round_ + 1, 30))


def backoff_s(terms: ClassSettings, round_: int) -> float:
    """Return the seconds between a round without success and the next: full jitter."""
    return random.uniform(0, longest_backoff_s(terms, round_))


def _last_word(error: str, failed: Failed, choice: Choice) -> str:
    """Return the last failure, and the reasons why every other route does not take the job."""
    others = choice.reasons(without=failed.route)
    return f"Last word: {error}" + (f" ({others})" if others else "")


def _rounds(count: int) -> str:
    return "No route answered" if count == 1 else f"No route answered in {count} rounds"
