"""Consequences of an outcome, for the route and for the job."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import MODEL, breaker, route

from trivet_routing.retry_policy import (
    LOCAL_MOST_S,
    Failed,
    backoff_s,
    doubted_after,
    next_step,
    tried_after,
)
from trivet_routing.route_choice import Candidate, Choice, Refusal, Requirements, Why, choose
from trivet_store.steps import End, GoOn, JobRound, Next, Wait
from trivet_tasks.latency import DEFAULTS, ClassSettings, Latency
from trivet_tasks.outcomes import RULES, HealthSignal, Outcome, Scope, signal_of
from trivet_tasks.states import JobState

NOW = 1_000_000.0
TERMS = DEFAULTS[Latency.BATCH]
FRESH = JobRound(0, spent_s=1.0)

NOBODY = Choice((), (), ())
OPEN = Choice((), (), (Refusal("b", Why.UNFIT, "open", 5.0),))
LIMITED = Choice((), (), (Refusal("b", Why.LIMITED, "limited", 5.0),))
LIMITED_LONG = Choice((), (), (Refusal("b", Why.LIMITED, "limited", 7200.0),))
HOPELESS = Choice((), (), (Refusal("b", Why.NEVER, "lacks residency eu"),))


def able(*names: str) -> Choice:
    routes: tuple[Candidate, ...] = tuple(route(name) for name in names)
    return Choice(routes, (0,) * len(routes), ())


def step(
    outcome: Outcome,
    choice: Choice,
    job_round: JobRound = FRESH,
    *,
    terms: ClassSettings = TERMS,
    provider: str = "bedrock",
    deadline_at: float | None = None,
) -> Next:
    failed = Failed("a", provider, outcome, "the provider's words")
    return after(failed, choice, job_round, terms, deadline_at=deadline_at)


def after(
    failed: Failed,
    choice: Choice,
    job_round: JobRound = FRESH,
    terms: ClassSettings = TERMS,
    *,
    now: float = NOW,
    deadline_at: float | None = None,
    claims: int = 1,
) -> Next:
    return next_step(
        job_round,
        failed,
        choice,
        terms,
        budget_s=terms.budget_s,
        now=now,
        deadline_at=deadline_at,
        claims=claims,
        taken_within_s=15,
    )


def at(**terms: Any) -> JobRound:
    return FRESH._replace(**terms)


COUNTED = [Outcome.OVERLOADED, Outcome.SERVER_ERROR, Outcome.TIMEOUT, Outcome.CONNECTION, Outcome.INCOMPLETE]


@pytest.mark.parametrize(
    ("outcome", "signal"),
    [
        (Outcome.SUCCEEDED, HealthSignal.GOOD),
        (Outcome.RATE_LIMITED, HealthSignal.LIMITED),
        *((outcome, HealthSignal.FAILED) for outcome in COUNTED),
        (Outcome.UNUSABLE, HealthSignal.UNUSABLE_MODEL),
        (Outcome.PROXY_ERROR, HealthSignal.DOUBTED),
        (Outcome.INVALID, HealthSignal.NEUTRAL),
        (Outcome.AMBIGUOUS, HealthSignal.NEUTRAL),
        (Outcome.CANCELLED, HealthSignal.NEUTRAL),
        (Outcome.UNKNOWN, HealthSignal.NEUTRAL),
    ],
)
def test_what_an_outcome_says_of_its_route(outcome: Outcome, signal: HealthSignal) -> None:
    assert signal_of(outcome) is signal
    for scope, reach in (
        (Scope.ROUTE, HealthSignal.UNUSABLE_ROUTE),
        (Scope.MODEL, signal),
        (Scope.FEATURE, HealthSignal.NEUTRAL),
    ):
        assert signal_of(outcome, scope) is (reach if outcome is Outcome.UNUSABLE else signal)


def test_every_outcome_has_its_rules() -> None:
    assert RULES.keys() == set(Outcome)
    assert {one for one, rules in RULES.items() if rules.final} == {Outcome.SUCCEEDED, Outcome.INVALID}
    assert {one for one, rules in RULES.items() if rules.may_be_billed} == {
        Outcome.TIMEOUT, Outcome.INCOMPLETE, Outcome.CANCELLED, Outcome.UNKNOWN
    }  # fmt: skip


@pytest.mark.parametrize("outcome", [*COUNTED, Outcome.UNUSABLE, Outcome.RATE_LIMITED, Outcome.AMBIGUOUS])
def test_the_next_route_at_once(outcome: Outcome) -> None:
    got = step(outcome, able("b", "c"))
    assert isinstance(got, GoOn)
    assert (got.route, got.until, got.round.spent_s, got.outcome) == ("b", NOW + 15, 1.0, outcome)
    assert got.round.tried == (() if outcome is Outcome.RATE_LIMITED else ("a",))
    assert got.round.doubted_by == ("bedrock" if outcome is Outcome.AMBIGUOUS else None)
    assert got.error == f"a: {outcome}: the provider's words"


@pytest.mark.parametrize("latency", [Latency.BATCH, Latency.REALTIME])
def test_a_job_that_only_an_impaired_worker_takes_waits_ever_longer(latency: Latency) -> None:
    terms = DEFAULTS[latency]
    failed = Failed("a", "bedrock", Outcome.CONNECTION, "no connection", local=True)
    for claims, most in ((1, 0.1), (2, 0.2), (5, 1.6), (500, LOCAL_MOST_S)):
        got = after(failed, NOBODY, FRESH, terms, claims=claims)
        assert isinstance(got, Wait)
        assert got.not_before is not None
        pause_s = got.not_before - NOW
        assert min(most, terms.backoff_max_s) * 0.49 < pause_s <= min(most, terms.backoff_max_s) + 0.01
        assert (got.round.number, got.round.tried) == (0, ())


@pytest.mark.parametrize("outcome", [*COUNTED, Outcome.UNUSABLE])
def test_others_that_are_limited_are_waited_for_as_long_as_a_backoff(outcome: Outcome) -> None:
    got = step(outcome, LIMITED, at(number=2, tried=("z",)))
    assert isinstance(got, Wait)
    assert (got.not_before, got.round.number, got.round.spent_s, got.round.tried) == (None, 2, 1.0, ("z", "a"))
    early = step(outcome, LIMITED, at(number=0, tried=("z",)))
    assert isinstance(early, Wait)
    assert (early.round.number, early.round.tried) == (1, ()), (
        "five seconds are longer than the first backoff of a batch job"
    )
    assert early.not_before is not None


def test_a_job_that_failed_once_does_not_wait_for_ever_for_one_that_is_limited_again_and_again() -> None:
    got = step(Outcome.RATE_LIMITED, LIMITED, at(number=2, tried=("z",)))
    assert isinstance(got, Wait)
    assert (got.round.number, got.round.tried) == (3, ()), "the first route is asked again"


def test_a_provider_that_failed_in_this_round_has_not_agreed_to_a_doubt() -> None:
    tried = Choice((), (), (Refusal("b", Why.TRIED, "asked in this round"), Refusal("c", Why.NEVER, "its provider")))
    got = step(Outcome.AMBIGUOUS, tried, at(tried=("b",)))
    assert isinstance(got, Wait)
    assert (got.round.number, got.round.doubted_by) == (1, "bedrock")


@pytest.mark.parametrize("outcome", [*COUNTED, Outcome.UNUSABLE])
@pytest.mark.parametrize("choice", [NOBODY, OPEN, LIMITED_LONG, HOPELESS])
def test_with_nobody_left_the_next_round_begins_after_a_pause(outcome: Outcome, choice: Choice) -> None:
    got = step(outcome, choice, at(number=3, tried=("y", "z"), spent_s=9.0))
    assert isinstance(got, Wait)
    assert (got.round.number, got.round.tried, got.round.spent_s, got.outcome) == (4, (), 0.0, outcome)
    assert got.not_before is not None
    assert NOW <= got.not_before <= NOW + min(TERMS.backoff_max_s, TERMS.backoff_base_s * 2**4)


@pytest.mark.parametrize("outcome", [*COUNTED, Outcome.UNUSABLE])
def test_after_the_last_round_it_has_failed_with_its_last_word(outcome: Outcome) -> None:
    got = step(outcome, NOBODY, at(number=TERMS.max_rounds - 1))
    assert isinstance(got, End)
    assert (got.state, got.outcome) == (JobState.FAILED, outcome)
    assert got.error == f"No route answered in 8 rounds. Last word: a: {outcome}: the provider's words"
    realtime = step(outcome, NOBODY, terms=DEFAULTS[Latency.REALTIME])
    assert isinstance(realtime, End)
    assert realtime.error == f"No route answered. Last word: a: {outcome}: the provider's words"


def test_the_last_error_names_the_other_routes_and_why_none_took_it() -> None:
    others = [
        route("a", at=breaker(state="limited", cause="429", wait_s=900)),
        route("b", at=breaker(state="open", cause="timeout: 504", wait_s=7.2)),
        route("c"),
        route("d", wire_model=None),
        route("e", drained=True),
        route("f", at=breaker(state="limited", cause="429: slow down", wait_s=70)),
    ]
    choice = choose(Requirements(MODEL, Latency.BATCH, tried=("c", "a")), others, TERMS)
    got = step(Outcome.TIMEOUT, choice, at(number=TERMS.max_rounds - 1, tried=("c",)))
    assert isinstance(got, End)
    assert got.error == (
        "No route answered in 8 rounds. Last word: a: timeout: the provider's words (b: open (timeout: 504), next probe"
        " in 7.2 s; c: asked in this round; e: drained by an operator;"
        " f: limited (429: slow down), next headroom in 70.0 s)"
    )


def test_realtime_that_is_limited_everywhere_says_when_there_is_headroom_again() -> None:
    terms = DEFAULTS[Latency.REALTIME]
    closed = [route(name, at=breaker(state="limited", cause="429", wait_s=30)) for name in ("a", "b")]
    choice = choose(Requirements(MODEL, Latency.REALTIME), closed, terms)
    got = step(Outcome.RATE_LIMITED, choice, terms=terms)
    assert isinstance(got, End)
    assert got.error == (
        "No route answered. Last word: a: rate_limited: the provider's words (b: limited (429), next headroom in 30.0 s)"
    )


def test_a_shared_state_that_does_not_answer_is_no_route_of_that_name() -> None:
    nameless = Choice((), (), (Refusal("", Why.NEVER, "the shared state does not answer"),))
    got = step(Outcome.TIMEOUT, nameless, terms=DEFAULTS[Latency.REALTIME])
    assert isinstance(got, End)
    assert got.error == "No route answered. Last word: a: timeout: the provider's words"


@pytest.mark.parametrize("choice", [able("b"), LIMITED])
def test_a_spent_budget_ends_the_round(choice: Choice) -> None:
    got = step(Outcome.TIMEOUT, choice, at(spent_s=30.0))
    assert isinstance(got, Wait)
    assert (got.round.number, got.round.tried, got.round.spent_s) == (1, (), 0.0)
    assert got.not_before is not None


def test_a_bad_request_fails_at_once() -> None:
    for choice in (able("b"), LIMITED, NOBODY):
        got = step(Outcome.INVALID, choice)
        assert got == End(JobState.FAILED, outcome=Outcome.INVALID, error="a: invalid: the provider's words")


def test_an_ambiguous_answer_asks_another_provider_and_two_that_agree_settle_it() -> None:
    first = step(Outcome.AMBIGUOUS, able("b"))
    assert isinstance(first, GoOn)
    second = step(Outcome.AMBIGUOUS, able("c"), at(tried=("z",), doubted_by="anthropic"))
    assert isinstance(second, End)
    assert (second.state, second.outcome) == (JobState.FAILED, Outcome.INVALID)


@pytest.mark.parametrize("choice", [NOBODY, HOPELESS])
def test_an_ambiguous_answer_is_final_where_nobody_else_can_be_asked(choice: Choice) -> None:
    got = step(Outcome.AMBIGUOUS, choice)
    assert isinstance(got, End)
    assert (got.state, got.outcome) == (JobState.FAILED, Outcome.INVALID)


@pytest.mark.parametrize("choice", [OPEN, LIMITED, LIMITED_LONG])
def test_an_ambiguous_answer_waits_for_another_provider(choice: Choice) -> None:
    got = step(Outcome.AMBIGUOUS, choice)
    assert isinstance(got, Wait)
    assert got.round.doubted_by == "bedrock"


def test_doubt_is_kept_while_others_fail_otherwise() -> None:
    got = step(Outcome.TIMEOUT, able("c"), at(doubted_by="anthropic"))
    assert isinstance(got, GoOn)
    assert got.round.doubted_by == "anthropic"


def test_one_provider_doubting_twice_is_one_word() -> None:
    got = step(Outcome.AMBIGUOUS, able("c"), at(doubted_by="bedrock"))
    assert isinstance(got, GoOn)


@pytest.mark.parametrize("choice", [able("b"), NOBODY, LIMITED])
def test_a_call_dropped_on_our_side_was_none(choice: Choice) -> None:
    got = step(Outcome.CANCELLED, choice, at(number=7, tried=("z",)))
    assert got == Wait(None, JobRound(7, 1.0, ("z",)), None, None)


@pytest.mark.parametrize("choice", [able("b"), NOBODY, LIMITED, OPEN])
@pytest.mark.parametrize("outcome", [*COUNTED, Outcome.RATE_LIMITED, Outcome.CANCELLED, Outcome.AMBIGUOUS])
def test_nothing_begins_after_the_deadline(choice: Choice, outcome: Outcome) -> None:
    got = step(outcome, choice, deadline_at=NOW)
    assert isinstance(got, End)
    assert (got.state, got.outcome) == (JobState.EXPIRED, outcome)
    others = f" ({choice.reasons()})" if choice.refusals else ""
    assert got.error == f"The deadline passed. Last word: a: {outcome}: the provider's words{others}"
    later = step(outcome, able("b"), deadline_at=NOW + 1)
    assert not isinstance(later, End)


@pytest.mark.parametrize("choice", [LIMITED, LIMITED_LONG, OPEN, NOBODY])
def test_being_limited_burns_no_round(choice: Choice) -> None:
    """No other route was asked; with every route limited, however long, jobs wait and then complete."""
    got = step(Outcome.RATE_LIMITED, choice, at(number=TERMS.max_rounds - 1, spent_s=0.0))
    assert isinstance(got, Wait)
    assert (got.not_before, got.round.number, got.round.tried) == (None, TERMS.max_rounds - 1, ())


def test_a_round_in_which_others_failed_is_over_when_the_last_is_limited_for_hours() -> None:
    got = step(Outcome.RATE_LIMITED, LIMITED_LONG, at(tried=("y", "z")))
    assert isinstance(got, Wait)
    assert (got.round.number, got.round.tried) == (1, ())
    assert got.not_before is not None


def test_realtime_does_not_wait_for_what_takes_longer_than_it_has() -> None:
    got = step(Outcome.RATE_LIMITED, LIMITED_LONG, terms=DEFAULTS[Latency.REALTIME])
    assert isinstance(got, End)
    assert (got.state, got.outcome) == (JobState.FAILED, Outcome.RATE_LIMITED)


def test_helpers_of_the_next_choice() -> None:
    for outcome in Outcome:
        failed = Failed("a", "bedrock", outcome, "x")
        again = outcome in (Outcome.RATE_LIMITED, Outcome.CANCELLED)
        assert tried_after(at(tried=("z",)), failed) == (("z",) if again else ("z", "a"))
        assert doubted_after(at(doubted_by="vertex"), failed) == (
            "bedrock" if outcome is Outcome.AMBIGUOUS else "vertex"
        )


@given(round_=st.integers(0, 10_000), latency=st.sampled_from(list(Latency)))
def test_the_pause_grows_and_stays_below_its_bound(round_: int, latency: Latency) -> None:
    terms = DEFAULTS[latency]
    pause = backoff_s(terms, round_)
    assert 0 <= pause <= terms.backoff_max_s
    assert pause <= terms.backoff_base_s * 2 ** (min(round_, 40) + 1)


def test_the_pause_has_full_jitter() -> None:
    pauses = [backoff_s(TERMS, 3) for _ in range(300)]
    assert min(pauses) < 4 < 12 < max(pauses) <= 16


OUTCOMES = [outcome for outcome in Outcome if outcome is not Outcome.SUCCEEDED]


@given(
    calls=st.lists(
        st.tuples(
            st.sampled_from(OUTCOMES),
            st.sampled_from(["anthropic", "bedrock", "vertex"]),
            st.sampled_from([able("b"), NOBODY, OPEN, LIMITED, LIMITED_LONG, HOPELESS]),
            st.floats(0, 20),
        ),
        min_size=1,
        max_size=60,
    ),
    latency=st.sampled_from(list(Latency)),
    deadline=st.one_of(st.none(), st.floats(0, 500)),
)
def test_however_calls_fail(
    calls: list[tuple[Outcome, str, Choice, float]], latency: Latency, deadline: float | None
) -> None:
    """Rounds never exceed their number, nothing goes on after the deadline, only rounds that were spent count."""
    terms = DEFAULTS[latency]
    now, job_round = 0.0, at(spent_s=0.0)
    for outcome, provider, choice, took in calls:
        now += took
        counted = 0.0 if outcome is Outcome.RATE_LIMITED else took
        job_round = job_round._replace(spent_s=job_round.spent_s + counted)
        got = after(Failed("a", provider, outcome, "x"), choice, job_round, terms, now=now, deadline_at=deadline)
        if deadline is not None and now >= deadline:
            assert isinstance(got, End)
        if outcome in (Outcome.INVALID,):
            assert isinstance(got, End)
        match got:
            case End():
                assert got.state in (JobState.FAILED, JobState.EXPIRED)
                assert got.error
                if got.state is JobState.EXPIRED:
                    assert deadline is not None
                return
            case GoOn():
                assert job_round.spent_s < terms.budget_s
                assert got.route not in job_round.tried or got.route == "b"
                job_round = got.round
            case Wait():
                assert got.round.number in (job_round.number, job_round.number + 1)
                assert got.round.number < terms.max_rounds
                assert got.not_before is not None or got.round.number == job_round.number
                if outcome is not Outcome.PROXY_ERROR:  # after which a job may wait without its round being over
                    assert (got.not_before is None) == (got.round.number == job_round.number)
                if got.round.number > job_round.number:
                    assert (got.round.tried, got.round.spent_s) == ((), 0.0)
                job_round = got.round
