"""Unavailable accounts and models: no job pays twice to find out, and an operator is told."""

import itertools

import pytest
from tests.faults.ledger import SONNET, Cost, check_cost
from tests.faults.legs import Legs
from tests.faults.pool import PROBE_S

UNUSABLE = "unusable"


@pytest.mark.parametrize(
    ("first", "kind", "status"),
    [
        ("anthropic", "auth", 401),
        ("bedrock", "auth", 403),
        ("vertex", "auth", 401),
        ("bedrock", "billing", 403),
        ("anthropic", "billing", 400),
        ("anthropic", "workspace_spend_limit", 400),
        ("anthropic", "payment_required", 402),
        ("anthropic", "spend_limit", 429),
    ],
)
def test_an_account_that_is_refused_closes_the_whole_route_at_once(
    legs: Legs, first: str, kind: str, status: int
) -> None:
    legs.fault(legs.first, kind)
    legs.expect(legs.run(), (legs.first, UNUSABLE, Cost.FREE), (legs.second, "succeeded", Cost.BILLED))
    legs.expect(legs.run(), (legs.second, "succeeded", Cost.BILLED))
    legs.expect(legs.run(model=SONNET), (legs.second, "succeeded", Cost.BILLED))
    assert [row.status for row in legs.job_rows(legs.first)] == [status]
    assert any(UNUSABLE in f"{kind} {text}" for _, kind, text in legs.events(legs.first))


def test_a_spend_limit_is_tried_ever_more_seldom_and_by_no_job(legs: Legs) -> None:
    legs.fault(legs.first, "spend_limit")
    legs.expect(legs.run(), (legs.first, UNUSABLE, Cost.FREE), (legs.second, "succeeded", Cost.BILLED))
    jobs = legs.load(10, lambda: len(legs.calls(legs.first)) >= 4, limit_s=40)
    for job in jobs:
        legs.expect(job.result(timeout=30), (legs.second, "succeeded", Cost.BILLED))
    tried = [call.started for call in legs.calls(legs.first)]
    pauses = [later - earlier for earlier, later in itertools.pairwise(tried)]
    # twice as long every time, give or take a fifth
    assert pauses[1] >= 0.8 * 2 * PROBE_S, pauses
    assert pauses[2] >= 0.8 * 4 * PROBE_S, pauses
    for row in legs.rows(legs.first)[1:]:
        if row.outcome is not None:  # the last probe may be under way
            assert (row.purpose, row.outcome) == ("probe", UNUSABLE)
            check_cost(row, None, Cost.FREE)


def test_an_account_that_is_good_again_is_used_again(legs: Legs) -> None:
    legs.fault(legs.first, "auth", times=2)
    legs.expect(legs.run(), (legs.first, UNUSABLE, Cost.FREE), (legs.second, "succeeded", Cost.BILLED))
    served = legs.load(10, lambda: any(r.outcome == "succeeded" for r in legs.job_rows(legs.first)), limit_s=40)
    for job in served:
        result = job.result(timeout=30)
        legs.expect(result, (result.attempts[0].route, "succeeded", Cost.BILLED))


@pytest.mark.parametrize("first", ["anthropic", "bedrock", "vertex"])
def test_a_model_missing_on_one_route_is_served_by_another_and_its_neighbours_stay(legs: Legs, first: str) -> None:
    legs.fault(legs.first, "model_missing", model="*haiku*")
    legs.expect(legs.run(), (legs.first, UNUSABLE, Cost.FREE), (legs.second, "succeeded", Cost.BILLED))
    legs.expect(legs.run(), (legs.second, "succeeded", Cost.BILLED))
    legs.expect(legs.run(model=SONNET), (legs.first, "succeeded", Cost.BILLED))
    assert [row.outcome for row in legs.job_rows(legs.first)] == [UNUSABLE, "succeeded"]
