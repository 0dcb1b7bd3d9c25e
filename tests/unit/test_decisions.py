"""Meaning of a call's end for the breaker and the jobs of a failing wave, and where dispatch sends them next."""

import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import redis
from tests.builders import MODEL, breaker, call, route
from tests.directories import FixedDirectory, dispatcher
from tests.store.world import World as StoreWorld
from tests.store.world import spec, specs

from trivet_routing.liveness.process_impairments import ProcessImpairments
from trivet_routing.permits import BreakerView
from trivet_routing.retry_policy import longest_backoff_s
from trivet_routing.route_choice import Candidate
from trivet_routing.route_directory import USUAL_SHARE
from trivet_scheduler.dispatch import LOOK_FURTHER
from trivet_store.database.engine import Store
from trivet_store.reports.attempts import RoutePace, UsedOutput
from trivet_store.steps import ClaimedJob, End, GoOn, JobRound, Next, Wait
from trivet_tasks.call_times import call_time
from trivet_tasks.catalog import known as catalogued
from trivet_tasks.config.settings import Settings
from trivet_tasks.latency import DEFAULTS, Latency
from trivet_tasks.outcomes import HealthSignal, Outcome, Scope, Usage
from trivet_tasks.states import JobState
from trivet_worker.adapters.protocol import Answer, Failure, LocalCause
from trivet_worker.run.calls import Call, CallResult, Race
from trivet_worker.run.decisions import Decisions
from trivet_worker.run.local_faults import Witness
from trivet_worker.run.permit_release import release_of
from trivet_worker.run.process_state import RouteImpairments

SETTINGS = Settings()
PROCESS_IMPAIRMENTS = ProcessImpairments(logging.getLogger("test"), "no work is taken")
TERMS = DEFAULTS[Latency.BATCH]
HERE, ELSEWHERE, FAR = "anthropic", "bedrock-us-east-1", "vertex-us-east5"
ANSWER = Answer(b"{}", "end_turn", Usage(input_tokens=1, output_tokens=1), None)
BUSY = Failure(Outcome.OVERLOADED, "busy")
LATE = Failure(Outcome.TIMEOUT, "no answer")
PLACES = 10


def decisions(*candidates: Candidate) -> Decisions:
    return deciding_over(FixedDirectory(candidates))


def deciding_over(
    routes: FixedDirectory, origin: str = "", *, impaired: bool = False, settings: Settings = SETTINGS
) -> Decisions:
    """Decisions of a worker that is the only one, as the leases of the directory have it, unless it has another origin."""
    impairments = RouteImpairments(logging.getLogger("test"))
    if impaired:
        impairments.begin(HERE, "network", "It gets no call out.")
    return Decisions(routes, settings, PROCESS_IMPAIRMENTS, Witness(routes, origin, impairments))


def here(**terms: Any) -> Candidate:
    """Return the target to which the calls of these tests go first."""
    return route(HERE, provider="anthropic", **terms)


def limited(wait_s: float) -> BreakerView:
    return breaker(state="limited", cause="429", wait_s=wait_s)


def call_result(result: Answer | Failure = BUSY, number: int = 1, *, decides: bool = True, **job: Any) -> CallResult:
    return CallResult(call(number, **job), result, 0.1, decides=decides)


def wave(count: int, **job: Any) -> list[CallResult]:
    return [call_result(BUSY, number, **job) for number in range(count)]


def routes_of(steps: Sequence[Next | None]) -> Counter[str]:
    return Counter(step.route if isinstance(step, GoOn) else type(step).__name__ for step in steps)


# a wave that fails together


def test_a_wave_that_fails_together_is_spread_over_equal_routes() -> None:
    steps = decisions(here(), route(ELSEWHERE), route(FAR, provider="vertex")).next_steps(wave(10))
    assert routes_of(steps) == {ELSEWHERE: 5, FAR: 5}


def test_a_wave_is_spread_by_weight() -> None:
    steps = decisions(here(), route(ELSEWHERE, weight=3), route(FAR, provider="vertex")).next_steps(wave(12))
    assert routes_of(steps) == {ELSEWHERE: 9, FAR: 3}


def test_what_is_under_way_at_a_route_counts() -> None:
    laden = route(ELSEWHERE, at=breaker(in_flight=6))
    steps = decisions(here(), laden, route(FAR, provider="vertex")).next_steps(wave(10))
    assert routes_of(steps) == {ELSEWHERE: 2, FAR: 8}


@pytest.mark.parametrize(
    ("outstanding", "room"),
    [
        (breaker(places=10, in_flight=7), 3),
        (breaker(headroom=2.0, rates=(3.0, math.inf, math.inf)), 5),
        (breaker(places=10, in_flight=8, headroom=2.0, rates=(3.0, math.inf, math.inf)), 2),
        (breaker(headroom=0.2, rates=(0.1, math.inf, math.inf)), 1),
    ],
)
def test_the_best_route_is_sent_no_more_than_it_can_take(outstanding: BreakerView, room: int) -> None:
    """The others go to the next best at once."""
    best, next_best = route(ELSEWHERE, cost="1", at=outstanding), route(FAR, provider="vertex", cost="9")
    steps = decisions(here(), best, next_best).next_steps(wave(12))
    assert routes_of(steps) == {ELSEWHERE: room, FAR: 12 - room}


def test_those_that_no_route_can_take_wait_in_the_same_round() -> None:
    steps = decisions(here(), route(ELSEWHERE, at=breaker(places=10, in_flight=8))).next_steps(wave(5, round=3))
    assert routes_of(steps) == {ELSEWHERE: 2, "Wait": 3}
    waiting = steps[-1]
    assert isinstance(waiting, Wait)
    assert (waiting.not_before, waiting.round.number, waiting.round.tried) == (None, 3, (HERE,))


def test_answers_and_calls_that_decide_nothing_take_no_capacity() -> None:
    group = [
        call_result(ANSWER, 1), call_result(BUSY, 2, decides=False), call_result(BUSY, 3), call_result(ANSWER, 4), call_result(BUSY, 5),
    ]  # fmt: skip
    steps = decisions(here(), route(ELSEWHERE, at=breaker(places=2))).next_steps(group)
    assert [type(step) for step in steps] == [End, type(None), GoOn, End, GoOn]
    assert routes_of([steps[2], steps[4]]) == {ELSEWHERE: 2}
    assert steps[0] == End(JobState.SUCCEEDED, message=b"{}", stop_reason="end_turn")


def test_each_group_looks_anew() -> None:
    deciding = decisions(here(), route(ELSEWHERE, at=breaker(places=1)))
    for _ in range(2):
        assert routes_of(deciding.next_steps(wave(2))) == {ELSEWHERE: 1, "Wait": 1}


def test_while_the_routes_cannot_be_read_failed_jobs_wait_in_their_round() -> None:
    routes = FixedDirectory([here(), route(ELSEWHERE)])
    routes.breakers_error = redis.ConnectionError("refused")
    (step,) = deciding_over(routes).next_steps([call_result(round=2, tried=("a",), spent_s=1.0)])
    assert isinstance(step, Wait)
    assert (step.not_before, step.round.number, step.round.tried) == (None, 2, ("a", HERE))


# both calls of a job that had a hedge


def test_where_both_calls_failed_neither_route_is_asked_again_in_the_round() -> None:
    last = call_result(tried=(FAR,))
    last = replace(last, call=replace(last.call, race=Race(failed=[ELSEWHERE], decided=True)))
    third = "bedrock-us-west-2"
    candidates = [here(), route(ELSEWHERE), route(FAR, provider="vertex"), route(third)]
    (step,) = decisions(*candidates).next_steps([last])
    assert isinstance(step, GoOn)
    assert (step.route, step.round.tried) == (third, (FAR, ELSEWHERE, HERE))


# what a call says of its route


def asked(max_tokens: int, timeout_s: float, *, full_time: bool = True, **job: Any) -> Call:
    return replace(call(max_tokens=max_tokens, **job), timeout_s=timeout_s, full_time=full_time)


def tokens_in(seconds: float) -> int:
    """Return the tokens that the model's usual rate brings in this time."""
    model = catalogued(MODEL)
    assert model is not None
    return int(seconds * model.output_tokens_per_s)


@pytest.mark.parametrize(
    ("of_answer_s", "timeout_s", "signal"),
    [
        (12.0, 8.0, HealthSignal.SHORT),  # the class allows 15 s, but this call had less
        (7.0, 8.0, HealthSignal.FAILED),
        (14.0, 15.0, HealthSignal.FAILED),
        (20.0, 15.0, HealthSignal.SHORT),
    ],
)
def test_a_timeout_is_held_against_the_route_only_where_the_answer_could_have_come_in_the_calls_own_time(
    of_answer_s: float, timeout_s: float, signal: HealthSignal
) -> None:
    assert TERMS.attempt_timeout_s == 15
    release = release_of(CallResult(asked(tokens_in(of_answer_s), timeout_s), LATE, timeout_s))
    assert release.signal is signal
    assert (release.took_s, release.late) == ((30.0, True) if signal is HealthSignal.FAILED else (0.0, False)), (
        "a short one is no sample"
    )
    assert (release.used_input, release.used_output) == (release.permit.input_tokens, release.permit.output_tokens)


CAPPED = Settings.model_validate({"classes": {"batch": {"attempt_timeout_s": 15}}})


def after_timeout(
    store: Store,
    of_answer_s: float,
    used_share: float = USUAL_SHARE,
    settings: Settings = CAPPED,
    took_s: float = 15.0,
    paces: Sequence[RoutePace] = (),
    elsewhere: BreakerView | None = None,
    **job: Any,
) -> Next | None:
    """Return the next step of a job after its call ran out of time; other routes are free."""
    routes = FixedDirectory([here(), route(FAR, provider="vertex"), route(ELSEWHERE, at=elsewhere)], store=store)
    routes.paces.learn(paces)
    routes.lengths.learn([UsedOutput(1, MODEL, "batch", 1_000, round(1e6 * used_share), 1_000_000)])
    one = asked(tokens_in(of_answer_s), 15.0, **job)
    allowed = call_time(settings.classes, Latency.BATCH, MODEL, one.job)
    (step,) = deciding_over(routes, settings=settings).next_steps(
        [CallResult(replace(one, allowed=allowed), LATE, took_s)]
    )
    return step


def test_a_job_that_cannot_be_answered_within_the_cap_ends_after_its_first_call(store: Store) -> None:
    step = after_timeout(store, 40.0)
    assert isinstance(step, End)
    assert (step.state, step.outcome) == (JobState.FAILED, Outcome.TIMEOUT)
    assert step.error is not None
    assert "class batch ends after 15 s; use latency async, or at most " in step.error
    assert "take about 40 s" in step.error
    assert step.error.endswith("; no other route is known to be fast enough, so it is not tried again")


QUICK = RoutePace(ELSEWHERE, MODEL, 3, tokens_in(40.0) / 10)
"""Pace of a route that answers in 10 s what usually takes 40 s."""


def test_a_job_that_ran_out_of_its_time_goes_only_where_answers_come_fast_enough(store: Store) -> None:
    step = after_timeout(store, 40.0, paces=[QUICK])
    assert isinstance(step, GoOn)
    assert (step.route, step.round.too_slow) == (ELSEWHERE, (HERE, FAR))


@pytest.mark.parametrize(
    "pace",
    [QUICK._replace(calls=2), QUICK._replace(tokens_per_s=QUICK.tokens_per_s / 2), QUICK._replace(model="another")],
    ids=["two calls", "too slow", "another model"],
)
def test_a_route_of_unknown_or_too_slow_a_pace_is_not_asked(store: Store, pace: RoutePace) -> None:
    assert isinstance(after_timeout(store, 40.0, paces=[pace]), End)


def test_a_job_waits_for_a_faster_route_that_is_open_and_never_returns_to_a_slow_one(store: Store) -> None:
    step = after_timeout(store, 40.0, paces=[QUICK], elsewhere=breaker(state="open", cause="down", wait_s=9.0))
    assert isinstance(step, Wait)
    assert (step.round.number, step.round.too_slow) == (1, (HERE, FAR)), "in the next round, too"


@pytest.mark.parametrize(
    "how",
    [
        {"settings": SETTINGS},
        {"of_answer_s": 14.0},
        {"used_share": 0.1},
        {"took_s": 9.0},
        {"paces": [QUICK._replace(route=HERE)]},
    ],
    ids=["no cap", "it fits", "answers of its kind are short", "it stalled", "its route answers such in time"],
)
def test_a_timeout_that_was_not_to_be_foreseen_sends_the_job_on(store: Store, how: dict[str, Any]) -> None:
    step = after_timeout(store, **{"of_answer_s": 40.0, **how})
    assert isinstance(step, GoOn)
    assert step.route in (ELSEWHERE, FAR)
    assert step.round.too_slow == ()


def test_a_route_that_answers_in_time_but_not_before_the_deadline_is_as_slow_as_the_others(store: Store) -> None:
    paces = [RoutePace(HERE, MODEL, 3, tokens_in(40.0) / 14)]
    assert isinstance(after_timeout(store, 40.0, paces=paces), GoOn)
    assert isinstance(after_timeout(store, 40.0, paces=paces, deadline_at=time.time() + 12), End)


def test_a_round_lasts_for_two_calls_of_the_time_that_the_job_needs(store: Store) -> None:
    second = after_timeout(store, 40.0, settings=SETTINGS, spent_s=31.0)
    assert isinstance(second, GoOn), "the class alone allows 30 s"


def test_a_call_that_was_cut_short_by_the_deadline_says_nothing_of_its_route() -> None:
    release = release_of(CallResult(asked(1, 2.0, full_time=False), LATE, 2.0))
    assert (release.signal, release.took_s) == (HealthSignal.NEUTRAL, 0.0)


@pytest.mark.parametrize("outcome", [Outcome.INVALID, Outcome.AMBIGUOUS])
def test_a_route_that_refuses_the_plainest_request_is_unusable_for_the_model(outcome: Outcome) -> None:
    refused = Failure(outcome, "400")
    assert release_of(CallResult(asked(1, 5.0, probe=True), refused, 0.1)).signal is HealthSignal.UNUSABLE_MODEL
    assert release_of(CallResult(asked(1, 5.0), refused, 0.1)).signal is HealthSignal.NEUTRAL


@pytest.mark.parametrize(
    ("result", "signal"),
    [
        (ANSWER, HealthSignal.GOOD),
        (LATE, HealthSignal.FAILED),
        (BUSY, HealthSignal.FAILED),
        (Failure(Outcome.CANCELLED, "dropped"), HealthSignal.NEUTRAL),
        (Failure(Outcome.RATE_LIMITED, "429"), HealthSignal.LIMITED),
        (Failure(Outcome.UNUSABLE, "no credit", scope=Scope.ROUTE), HealthSignal.UNUSABLE_ROUTE),
    ],
)
def test_a_probe_is_judged_but_no_sample_of_how_fast_jobs_are(result: Answer | Failure, signal: HealthSignal) -> None:
    release = release_of(CallResult(asked(1, 5.0, probe=True), result, 5.0))
    assert (release.signal, release.took_s) == (signal, 0.0)


@pytest.mark.parametrize("outcome", [Outcome.OVERLOADED, Outcome.INVALID, Outcome.TIMEOUT])
def test_a_probe_is_never_tried_elsewhere(outcome: Outcome) -> None:
    (step,) = decisions(here(), route(ELSEWHERE)).next_steps([call_result(Failure(outcome, "no"), probe=True)])
    assert step == End(JobState.FAILED, outcome=outcome, error=f"{HERE}: {outcome}: no")


def test_a_hedge_that_came_too_late_gives_its_permit_back_unused() -> None:
    late = CallResult(
        call(1), Failure(Outcome.CANCELLED, "another call had answered"), 0.0, called=False, decides=False
    )
    release = release_of(late)
    assert (release.signal, release.used_input, release.used_output) == (HealthSignal.UNUSED, 0, 0)


# and where dispatch sends them next


class Place:
    """A database, and what a worker and a scheduler do with its jobs while the routes are in the states that the test sets."""

    def __init__(self, store: Store) -> None:
        self.sql = StoreWorld(store)
        self.lease = self.sql.lease(routes=[HERE, ELSEWHERE])

    def dispatch(self, *candidates: Candidate) -> int:
        """One pass of a scheduler."""
        with dispatcher(self.sql.store, candidates, slots=PLACES, settings=SETTINGS) as one:
            return one.run_once().dispatched

    def fail(self, job: ClaimedJob, *candidates: Candidate) -> Next:
        """The job's call on the first route fails."""
        one = call(1)
        (step,) = decisions(*candidates).next_steps([CallResult(replace(one, job=job), BUSY, 0.1)])
        assert step is not None
        self.sql.end(self.lease, [job], step)
        return step

    def running(self) -> ClaimedJob:
        self.sql.add(spec())
        (job,) = self.sql.take(self.lease, self.sql.dispatch(1, HERE), route=HERE)
        return job

    def at(self, route: str) -> set[str]:
        rows = self.sql.sql("SELECT id FROM jobs WHERE state = 'dispatched' AND route = :route", route=route)
        return {row.id for row in rows}

    def waiting_after(self, count: int, tried: str) -> set[str]:
        """Make this many jobs that are in the middle of their round."""
        ids = {job.id for job in self.sql.add(*specs(count))}
        self.sql.sql("UPDATE jobs SET tried = :tried WHERE tried = ''", tried=tried)
        return ids


@pytest.fixture
def place(store: Store) -> Place:
    return Place(store)


SOON, LONG = longest_backoff_s(TERMS, 0), 3_600.0


def test_a_job_whose_only_other_route_is_limited_for_long_asks_the_first_again_in_the_next_round(place: Place) -> None:
    job = place.running()
    candidates = here(), route(ELSEWHERE, at=limited(LONG))
    step = place.fail(job, *candidates)
    assert isinstance(step, Wait)
    assert (step.round.number, step.round.tried) == (1, ())
    assert step.not_before is not None
    assert place.sql.job(job.id).state == "delayed"
    assert place.dispatch(*candidates) == 0, "not before its pause is over"
    place.sql.sql("UPDATE jobs SET not_before = 1")
    place.sql.wake()
    assert place.dispatch(*candidates) == 1
    assert place.at(HERE) == {job.id}


def test_a_job_whose_other_route_is_limited_for_a_moment_waits_for_that(place: Place) -> None:
    job = place.running()
    candidates = here(), route(ELSEWHERE, at=limited(SOON))
    step = place.fail(job, *candidates)
    assert isinstance(step, Wait)
    assert (step.not_before, step.round.number, step.round.tried) == (None, 0, (HERE,))
    assert place.dispatch(*candidates) == 0
    assert place.dispatch(here(), route(ELSEWHERE)) == 1
    assert place.at(ELSEWHERE) == {job.id}


@pytest.mark.parametrize("now", [limited(LONG), breaker(state="open", cause="down", wait_s=9.0)])
def test_a_job_that_waits_for_a_route_that_fell_ill_meanwhile_goes_where_it_was(place: Place, now: BreakerView) -> None:
    job = place.running()
    place.fail(job, here(), route(ELSEWHERE, at=limited(SOON)))
    assert place.dispatch(here(), route(ELSEWHERE, at=now)) == 1
    assert place.at(HERE) == {job.id}


def test_a_job_for_which_a_route_is_too_slow_is_never_dispatched_there(place: Place) -> None:
    job = place.running()
    place.sql.end(place.lease, [job], Wait(None, JobRound(1, too_slow=(HERE,)), Outcome.TIMEOUT, "too slow"))
    assert place.dispatch(here(), route(ELSEWHERE, at=limited(LONG))) == 0
    assert place.dispatch(here(), route(ELSEWHERE)) == 1
    assert place.at(ELSEWHERE) == {job.id}


def test_jobs_that_wait_for_a_route_of_their_own_do_not_starve_those_behind_them(place: Place) -> None:
    """At the head of the line are more of them than a pass looks at first."""
    room = PLACES + PLACES // 2
    blocked = place.waiting_after(3 * room, HERE)
    behind = {job.id for job in place.sql.add(*specs(5))}
    candidates = here(), route(ELSEWHERE, at=limited(SOON))
    assert place.dispatch(*candidates) == 5
    assert place.at(HERE) == behind
    assert place.dispatch(*candidates) == 0
    assert place.dispatch(here(), route(ELSEWHERE)) > 0
    assert place.at(ELSEWHERE) <= blocked, "they have lost nothing but time"


def test_jobs_that_wait_for_a_route_with_little_capacity_do_not_starve_those_behind_them(place: Place) -> None:
    """The other route takes one more at a time; the first, where they were, is idle."""
    place.waiting_after(3 * PLACES, HERE)
    behind = {job.id for job in place.sql.add(*specs(5))}
    place.dispatch(here(), route(ELSEWHERE, at=breaker(headroom=1.0, rates=(0.0, math.inf, math.inf))))
    assert len(place.at(ELSEWHERE)) == 1
    assert place.at(HERE) == behind


def test_looking_further_gives_out_no_more_than_there_is_capacity_for(place: Place) -> None:
    room = PLACES + PLACES // 2
    place.waiting_after(2 * room, HERE)
    behind = [job.id for job in place.sql.add(*specs(4 * room))]
    assert 6 * room < LOOK_FURTHER * room
    assert place.dispatch(here(), route(ELSEWHERE, at=limited(SOON))) == room
    assert place.at(HERE) == set(behind[:room]), "in their order"


def test_each_job_behind_the_blocked_ones_is_given_out_once(place: Place) -> None:
    """Some of those that take it were seen at the first look."""
    place.waiting_after(PLACES, HERE)
    behind = {job.id for job in place.sql.add(*specs(8))}
    candidates = here(), route(ELSEWHERE, at=limited(SOON))
    assert place.dispatch(*candidates) == len(behind)
    assert place.at(HERE) == behind
    assert {place.sql.job(job_id).claim for job_id in behind} == {1}


def test_a_fault_of_trivets_own_says_nothing_of_the_route() -> None:
    failure = Failure(Outcome.SERVER_ERROR, "a fault of Trivet's own: KeyError", own_fault=True)
    release = release_of(CallResult(call(1), failure, 1.0))
    assert release.signal is HealthSignal.NEUTRAL
    assert release.used_output == call(1).job.permit.output_tokens


def test_an_answer_without_usage_takes_what_is_likely_from_the_limits() -> None:
    release = release_of(CallResult(call(1), Answer(b"{}", "end_turn", None, None), 1.0))
    assert (release.signal, release.used_input) == (HealthSignal.GOOD, call(1).job.input_estimate)


# what is one worker's own fault


CUT_OFF = Failure(Outcome.CONNECTION, "no answer: refused", local_cause=LocalCause.UNREACHED)
KEYLESS = Failure(Outcome.UNUSABLE, "no key", scope=Scope.ROUTE, local_cause=LocalCause.NO_CREDENTIALS)
KEY_REFUSED = Failure(Outcome.UNUSABLE, "bad key", status=401, scope=Scope.ROUTE, local_cause=LocalCause.KEY_REFUSED)
OWN = [CUT_OFF, KEYLESS, KEY_REFUSED]


@pytest.mark.parametrize("failure", OWN)
def test_what_is_this_workers_own_fault_sends_the_job_elsewhere_and_costs_it_nothing(failure: Failure) -> None:
    deciding = deciding_over(FixedDirectory([here(), route(ELSEWHERE)]), "bad")
    (step,) = deciding.next_steps([call_result(failure, tried=(FAR,), round=2, spent_s=1.5)])
    assert isinstance(step, GoOn)
    assert (step.route, step.round.tried, step.round.spent_s) == (ELSEWHERE, (FAR,), 1.5)


@pytest.mark.parametrize("failure", OWN)
def test_with_no_other_route_it_waits_for_another_worker_even_in_its_last_round(failure: Failure) -> None:
    deciding = deciding_over(FixedDirectory([here(), route(ELSEWHERE, at=breaker(state="open", wait_s=9.0))]), "bad")
    (step,) = deciding.next_steps([call_result(failure, round=TERMS.max_rounds - 1, spent_s=1.5)])
    assert isinstance(step, Wait)
    assert (step.round.number, step.round.tried, step.round.spent_s) == (TERMS.max_rounds - 1, (), 1.5)
    assert step.not_before, "it runs in no tight loop"
    assert step.error == f"{HERE}: {failure.outcome}: {failure.message}"


@pytest.mark.parametrize("failure", OWN)
def test_once_it_takes_no_more_of_the_route_another_worker_gets_the_job_there(failure: Failure) -> None:
    """The order of the class holds: the other route is dearer."""
    deciding = deciding_over(FixedDirectory([here(), route(ELSEWHERE, cost="9")]), "bad", impaired=True)
    (step,) = deciding.next_steps([call_result(failure, spent_s=1.5)])
    assert isinstance(step, GoOn)
    assert (step.route, step.round.tried, step.round.spent_s) == (HERE, (), 1.5)
    deciding = deciding_over(FixedDirectory([here()]), impaired=True)
    (step,) = deciding.next_steps([call_result(KEYLESS)])
    assert isinstance(step, Wait), "there is no other worker"


@pytest.mark.parametrize("failure", [CUT_OFF, KEY_REFUSED])
def test_of_the_only_worker_it_is_a_failure_as_any_other(failure: Failure) -> None:
    (step,) = decisions(here()).next_steps([call_result(failure, round=TERMS.max_rounds - 1)])
    assert isinstance(step, End)
    (step,) = decisions(here(), route(ELSEWHERE)).next_steps([call_result(failure)])
    assert isinstance(step, GoOn)
    assert (step.round.tried, step.round.spent_s) == ((HERE,), 0.1)


def test_its_deadline_ends_a_job_whoever_is_at_fault() -> None:
    deciding = deciding_over(FixedDirectory([here()]), "bad")
    (step,) = deciding.next_steps([call_result(CUT_OFF, deadline_at=1.0)])
    assert isinstance(step, End)
    assert step.state is JobState.EXPIRED
