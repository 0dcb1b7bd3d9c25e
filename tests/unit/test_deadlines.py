"""Time limit of one call."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import MODEL

from trivet_tasks.call_times import call_time
from trivet_tasks.jobs import DispatchedJob
from trivet_tasks.latency import DEFAULTS, Latency
from trivet_worker.run.calls import FALLBACK_RESERVE_S, attempt_timeout_s, is_full_time

NOW = 1_000.0
SHORT = DispatchedJob("j", 1, input_estimate=100, max_tokens=50)


def timeout(
    latency: Latency, *, spent: float = 0.0, left: float | None = None, reserve: float = 0.0, **terms: object
) -> float:
    of_class = DEFAULTS[latency].model_copy(update=terms)
    return attempt_timeout_s(
        latency,
        of_class,
        call_time({latency: of_class}, latency, MODEL, SHORT),
        spent_s=spent,
        deadline_at=None if left is None else NOW + left,
        now=NOW,
        reserve_s=reserve,
    )


@pytest.mark.parametrize(("latency", "usual"), [(Latency.BATCH, 15), (Latency.ASYNC, 120), (Latency.DEFERRED, 600)])
def test_a_class_has_its_timeout_as_far_as_budget_and_deadline_go(latency: Latency, usual: float) -> None:
    budget = DEFAULTS[latency].budget_s
    assert timeout(latency) == usual
    assert timeout(latency, reserve=FALLBACK_RESERVE_S) == usual, "the timeout leaves enough"
    assert timeout(latency, spent=budget - 5) == 5
    assert timeout(latency, left=4) == 4
    assert timeout(latency, spent=budget) <= 0
    assert timeout(latency, left=0) <= 0
    assert timeout(latency, left=-3) <= 0


def test_a_class_without_a_timeout_leaves_time_for_another_route() -> None:
    assert timeout(Latency.BATCH, attempt_timeout_s=None) == 15
    assert timeout(Latency.BATCH, attempt_timeout_s=None, budget_s=40) == 20
    assert timeout(Latency.BATCH, attempt_timeout_s=None, budget_s=40, spent=38) == 2


def test_realtime_keeps_a_reserve_for_one_fallback() -> None:
    assert timeout(Latency.REALTIME, left=3, reserve=FALLBACK_RESERVE_S) == 3 - FALLBACK_RESERVE_S
    assert timeout(Latency.REALTIME, left=3, reserve=0.25) == 2.75, "as much as that one needs"
    assert timeout(Latency.REALTIME, left=1.2, reserve=1) == pytest.approx(0.6), "at most half of what is left"
    assert timeout(Latency.REALTIME, left=3, reserve=40) == 1.5


def test_the_last_route_of_realtime_gets_all_that_is_left() -> None:
    assert timeout(Latency.REALTIME, left=2.2) == pytest.approx(2.2)
    assert timeout(Latency.REALTIME, spent=1, left=60) == 2


def test_realtime_with_a_timeout_of_its_own_keeps_to_it() -> None:
    assert timeout(Latency.REALTIME, left=3, attempt_timeout_s=0.7, reserve=1) == 0.7
    assert timeout(Latency.REALTIME, left=0.5, attempt_timeout_s=0.7) == 0.5


@pytest.mark.parametrize(
    ("latency", "half"),
    [(Latency.REALTIME, 0.75), (Latency.BATCH, 7.5), (Latency.ASYNC, 60), (Latency.DEFERRED, 300)],
)
def test_a_call_cut_short_says_nothing_of_its_route(latency: Latency, half: float) -> None:
    allowed = call_time(DEFAULTS, latency, MODEL, SHORT)
    assert is_full_time(half, allowed)
    assert not is_full_time(half - 0.01, allowed)


@given(
    latency=st.sampled_from(list(Latency)),
    spent=st.floats(0, 2_000),
    left=st.one_of(st.none(), st.floats(-100, 5_000)),
    reserve=st.one_of(st.just(0.0), st.floats(0.001, 100)),
)
def test_no_call_outlives_what_its_job_has(latency: Latency, spent: float, left: float | None, reserve: float) -> None:
    terms = DEFAULTS[latency]
    may = timeout(latency, spent=spent, left=left, reserve=reserve)
    # NOW + left - NOW rounds
    assert may <= max(0.0, terms.budget_s - spent) + 1e-6 or may <= 0
    if left is not None:
        assert may <= max(0.0, left) + 1e-6
    if spent < terms.budget_s - 0.01 and (left is None or left > 0.01):
        assert may > 0
    if reserve and may > 0 and (left is None or left > terms.budget_s):
        assert may <= terms.budget_s - spent
