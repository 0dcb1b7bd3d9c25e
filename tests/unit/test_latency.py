"""The defaults of the latency classes."""

import pytest
from pydantic import ValidationError

from trivet_tasks.latency import DEFAULTS, ClassSettings, Latency

DAY = 86_400


@pytest.mark.parametrize(
    ("latency", "budget", "timeout", "rounds", "pauses", "deadline", "order"),
    [
        ("realtime", 3, None, 1, None, 3, "latency"),
        ("interactive", 300, 30, 2, (0.1, 1), 300, "latency"),
        ("batch", 30, 15, 8, (1, 60), None, "cost"),
        ("async", 300, 120, 8, (2, 300), DAY, "cost"),
        ("deferred", 1_200, 600, 8, (10, 900), DAY, "cost"),
    ],
)
def test_the_defaults(
    latency: str, budget: float, timeout: float | None, rounds: int, pauses: tuple[float, float] | None,
    deadline: float | None, order: str,
) -> None:  # fmt: skip
    terms = DEFAULTS[Latency(latency)]
    assert (terms.budget_s, terms.attempt_timeout_s, terms.max_rounds) == (budget, timeout, rounds)
    assert pauses is None or (terms.backoff_base_s, terms.backoff_max_s) == pauses
    assert (terms.deadline_s, terms.order) == (deadline, order)


def test_each_class_has_its_terms_and_a_lane() -> None:
    assert set(DEFAULTS) == set(Latency)
    assert {latency: latency.lane for latency in Latency} == {
        Latency.REALTIME: "realtime",
        Latency.INTERACTIVE: "realtime",
        Latency.BATCH: "bulk",
        Latency.ASYNC: "bulk",
        Latency.DEFERRED: "bulk",
    }


def test_one_silent_route_leaves_time_for_another() -> None:
    for terms in DEFAULTS.values():
        assert (terms.attempt_timeout_s or 0) <= terms.budget_s / 2


def test_quicker_classes_get_the_larger_share_and_those_of_the_realtime_lane_go_alone() -> None:
    assert sorted(Latency, key=lambda latency: -DEFAULTS[latency].share) == list(Latency)
    assert DEFAULTS[Latency.REALTIME].chunk_jobs == DEFAULTS[Latency.INTERACTIVE].chunk_jobs == 1


@pytest.mark.parametrize(
    "wrong",
    [{"budget_s": 0}, {"budget_s": -1}, {"max_rounds": 0}, {"attempt_timeout_s": 0}, {"order": "colour"}, {"share": 0},
     {"chunk_jobs": 0}, {"chunk_jobs": 501}, {"deadline_s": 0}, {"budget_s": float("nan")}, {"colour": 1}],
)  # fmt: skip
def test_absurd_terms_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ClassSettings.model_validate({**DEFAULTS[Latency.BATCH].model_dump(), **wrong})
