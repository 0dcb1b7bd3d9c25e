"""Time that a class gives a job, and requests that do not fit in it."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet_tasks.call_times import CallTime, call_time, enough_s, longest_call_s, too_short_text, usual_s
from trivet_tasks.catalog import MODELS, Model, known
from trivet_tasks.config.settings import Settings
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import DEFAULTS, ClassSettings, Latency
from trivet_tasks.requests.reading import parse_request
from trivet_worker.run.calls import attempt_timeout_s

SONNET, HAIKU = "claude-sonnet-5-5", "claude-haiku-5-5"
GROWS = [Latency.BATCH, Latency.ASYNC, Latency.DEFERRED]


def job(max_tokens: int, input_tokens: int = 500) -> DispatchedJob:
    return DispatchedJob("j", 1, input_tokens, max_tokens)


def classes(**terms: object) -> Mapping[Latency, ClassSettings]:
    """Classes as a file has them that sets these keys of class `batch`."""
    return Settings.model_validate({"classes": {"batch": terms}}).classes


def model(name: str) -> Model:
    found = known(name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", [SONNET, HAIKU, "claude-opus-5-5", "a-model-nobody-knows"])
def test_a_provider_at_40_tokens_a_second_has_time_for_3_000_of_them(name: str) -> None:
    allowed = call_time(DEFAULTS, Latency.BATCH, name, job(4_096))
    assert allowed.attempt_s > 3_000 / 40 + 10
    assert allowed.budget_s == 2 * allowed.attempt_s, "one silent route leaves time for another"


def test_short_answers_keep_the_figures_of_their_class() -> None:
    for latency, terms in DEFAULTS.items():
        allowed = call_time(DEFAULTS, latency, SONNET, job(100))
        assert allowed == CallTime(terms.attempt_timeout_s or terms.budget_s / 2, terms.budget_s)


@given(
    latency=st.sampled_from(GROWS),
    of=st.sampled_from(MODELS),
    max_tokens=st.integers(1, 128_000),
    input_tokens=st.integers(0, 1_000_000),
)
def test_a_call_is_given_what_its_answer_needs(latency: Latency, of: Model, max_tokens: int, input_tokens: int) -> None:
    terms = DEFAULTS[latency]
    allowed = call_time(DEFAULTS, latency, of.id, job(max_tokens, input_tokens))
    assert allowed.attempt_s >= max(terms.attempt_timeout_s or 0, 1.5 * usual_s(of, max_tokens))
    assert allowed.budget_s >= max(terms.budget_s, 2 * allowed.attempt_s)
    assert enough_s(of, max_tokens, input_tokens) <= enough_s(of, max_tokens, input_tokens + 1_000)
    assert too_short_text(of, latency, max_tokens, DEFAULTS) is None


def test_an_explicit_timeout_is_a_cap_even_where_it_is_the_default() -> None:
    assert call_time(classes(attempt_timeout_s=15), Latency.BATCH, SONNET, job(4_096)) == CallTime(15, 30)
    assert call_time(classes(attempt_timeout_s=40), Latency.BATCH, SONNET, job(4_096)) == CallTime(40, 80)
    assert call_time(classes(max_rounds=3), Latency.BATCH, SONNET, job(4_096)).attempt_s > 100


def test_an_explicit_budget_bounds_the_round_and_its_calls() -> None:
    assert call_time(classes(budget_s=60), Latency.BATCH, SONNET, job(4_096)) == CallTime(60, 60)
    assert call_time(classes(budget_s=60, attempt_timeout_s=20), Latency.BATCH, SONNET, job(4_096)) == CallTime(20, 60)


def test_somebody_waits_for_an_interactive_answer_and_for_five_minutes_at_most() -> None:
    allowed = call_time(DEFAULTS, Latency.INTERACTIVE, SONNET, job(2_000))
    assert 2_000 / 40 < allowed.attempt_s < 90
    assert call_time(DEFAULTS, Latency.INTERACTIVE, SONNET, job(64_000)) == CallTime(300, 300)


def test_a_permit_outlives_a_realtime_call_that_no_other_route_is_left_for() -> None:
    terms = DEFAULTS[Latency.REALTIME].model_copy(update={"budget_s": 120.0})
    of = {**DEFAULTS, Latency.REALTIME: terms}
    allowed = call_time(of, Latency.REALTIME, SONNET, job(100))
    left_s = attempt_timeout_s(Latency.REALTIME, terms, allowed, spent_s=0, deadline_at=None, now=0, reserve_s=0)
    assert left_s == 120
    assert longest_call_s(of, Latency.REALTIME, SONNET, job(100)) >= left_s
    assert longest_call_s(DEFAULTS, Latency.BATCH, SONNET, job(100)) == 15


def test_a_variable_sets_a_cap_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVET_CLASSES__BATCH__ATTEMPT_TIMEOUT_S", "15")
    assert call_time(Settings().classes, Latency.BATCH, SONNET, job(4_096)).attempt_s == 15


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"attempt_timeout_s": 15}, "class batch ends after 15 s; use latency async, or at most 825 max_tokens."),
        ({"budget_s": 20}, "class batch ends after 20 s; use latency async, or at most 1,100 max_tokens."),
        ({"deadline_s": 60}, "class batch ends after 60 s; use latency async, or at most 3,300 max_tokens."),
    ],
)
def test_a_request_that_does_not_fit_is_told_the_limit_and_the_cure(terms: dict[str, object], words: str) -> None:
    text = too_short_text(model(SONNET), Latency.BATCH, 4_096, classes(**terms))
    assert text == f"max_tokens: 4,096 tokens take about 74 s with {SONNET}, but a call of {words}"


def test_where_no_slower_class_fits_the_setting_is_named() -> None:
    capped = Settings.model_validate({"classes": {"deferred": {"attempt_timeout_s": 15}}}).classes
    text = too_short_text(model(SONNET), Latency.DEFERRED, 4_096, capped)
    assert text is not None
    assert "raise [classes.deferred] attempt_timeout_s" in text


def test_nothing_is_said_of_a_model_whose_pace_is_unknown() -> None:
    assert too_short_text(None, Latency.REALTIME, 100_000, DEFAULTS) is None


@pytest.mark.parametrize(("terms", "left_s"), [({"deadline": 30}, 30), ({"deadline": "40s", "not_before": "10s"}, 30)])
def test_a_deadline_that_comes_before_the_answer_is_warned_of_at_submit(terms: dict[str, object], left_s: int) -> None:
    request = {"prompt": "Hi", "model": SONNET, "max_tokens": 4_096, "latency": "async"}
    spec = parse_request({**request, **terms}, settings=Settings(), now=0.0)
    assert spec.warnings == (
        f"deadline: 4,096 tokens take about 74 s with {SONNET}, but the job's deadline leaves {left_s} s; "
        "give it more time, or at most 1,650 max_tokens.",
    )
    assert parse_request({**request, "deadline": 80}, settings=Settings(), now=0.0).warnings == ()


def test_a_quicker_pace_needs_less_time() -> None:
    quick, usual = classes(pace=10), classes()
    at_pace, at_usual = (call_time(one, Latency.BATCH, SONNET, job(64_000)) for one in (quick, usual))
    assert at_pace.attempt_s == pytest.approx(at_usual.attempt_s / 10)
    capped = classes(pace=10, attempt_timeout_s=15)
    assert too_short_text(known(SONNET), Latency.BATCH, 4_096, capped) is None
    assert too_short_text(known(SONNET), Latency.BATCH, 4_096, classes(attempt_timeout_s=15)) is not None
