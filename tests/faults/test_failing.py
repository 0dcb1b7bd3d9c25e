"""Providers that answer with errors or not at all: the next route at once, and a dead one is left alone."""

import pytest
from tests.faults.ledger import HAIKU, SONNET, Cost
from tests.faults.legs import RESULT_S, Legs
from tests.timing import until

FAILED_OVER_S = 2.0
"""No pause and no timeout stands between a failed call and the next route; this is for a busy machine."""


@pytest.mark.parametrize("first", ["anthropic", "bedrock", "vertex"])
def test_a_single_500_costs_one_more_call_and_no_health(legs: Legs, first: str) -> None:
    legs.fault(legs.first, "server_error", times=1)
    result = legs.run()
    legs.expect(result, (legs.first, "server_error", Cost.FREE), (legs.second, "succeeded", Cost.BILLED))
    failed, good = legs.calls()
    assert failed.finished is not None
    assert good.started - failed.finished < FAILED_OVER_S
    assert legs.rows(legs.first)[0].status == 500
    legs.expect(legs.run(), (legs.first, "succeeded", Cost.BILLED))


@pytest.mark.parametrize(
    ("first", "kind", "status"),
    [("anthropic", "overloaded", 529), ("bedrock", "overloaded", 503), ("vertex", "unavailable", 503)],
)
def test_a_route_without_capacity_is_asked_three_times_and_then_not_by_jobs(
    legs: Legs, first: str, kind: str, status: int
) -> None:
    legs.fault(legs.first, kind)
    for _ in range(3):
        legs.expect(legs.run(), (legs.first, "overloaded", Cost.FREE), (legs.second, "succeeded", Cost.BILLED))
    for _ in range(6):
        legs.expect(legs.run(), (legs.second, "succeeded", Cost.BILLED))
    assert [row.status for row in legs.job_rows(legs.first)] == [status] * 3
    assert any("open" in kind for _, kind, _ in legs.events(legs.first))


def test_a_connection_reset_before_the_headers(legs: Legs) -> None:
    legs.fault(legs.first, "reset", times=1)
    result = legs.run()
    legs.expect(result, (legs.first, "connection", Cost.FREE), (legs.second, "succeeded", Cost.BILLED))
    failed, good = legs.calls()
    assert failed.finished is not None
    assert good.started - failed.finished < FAILED_OVER_S
    legs.expect(legs.run(), (legs.first, "succeeded", Cost.BILLED))


def test_a_port_that_refuses_connections(legs: Legs) -> None:
    legs.down(legs.first)
    for _ in range(3):
        legs.expect(legs.run(), (legs.first, "connection", Cost.FREE), (legs.second, "succeeded", Cost.BILLED))
    legs.expect(legs.run(), (legs.second, "succeeded", Cost.BILLED))
    assert legs.calls(legs.first) == []


def test_a_models_failure_leaves_its_neighbours_alone(legs: Legs) -> None:
    legs.fault(legs.first, "server_error", model="*haiku*")
    for _ in range(3):
        legs.expect(legs.run(), (legs.first, "server_error", Cost.FREE), (legs.second, "succeeded", Cost.BILLED))
    for _ in range(3):
        legs.expect(legs.run(), (legs.second, "succeeded", Cost.BILLED))
        legs.expect(legs.run(model=SONNET), (legs.first, "succeeded", Cost.BILLED))
    assert {row.model for row in legs.rows(legs.second)} == {HAIKU}


@pytest.mark.legs(legs=3)
def test_all_three_down_jobs_wait_and_are_served_when_one_is_back(legs: Legs) -> None:
    for route in legs.routes:
        legs.down(route)
    jobs = [legs.submit() for _ in range(10)]
    until(lambda: all(any("open" in e[1] for e in legs.events(r)) for r in legs.routes), "all three open")
    back = legs.routes[-1]
    legs.up(back)
    for job in jobs:
        result = job.result(timeout=RESULT_S)
        *failed, _ = result.attempts
        assert len(failed) < 8 * 3, "each route at most once a round"
        expected = [(a.route, "connection", Cost.FREE) for a in failed]
        legs.expect(result, *expected, (back, "succeeded", Cost.BILLED))
    # three in a row open a route; what was under way at that moment, and the trials of an open one, come on top
    for route in legs.routes:
        refused = [row for row in legs.job_rows(route) if row.outcome == "connection"]
        assert len(refused) <= 3 + len(jobs)


@pytest.mark.legs(legs=3)
def test_realtime_with_all_three_down_fails_in_time_and_names_them(legs: Legs) -> None:
    for route in legs.routes:
        legs.down(route)
    result = legs.run(latency="realtime")
    assert result.latency_s < 3
    assert result.error is not None
    for route in legs.routes:
        assert route in result.error.message, result.error.message
    refused = [(route, "connection", Cost.FREE) for route in legs.routes]
    legs.expect(result, *refused[: len(result.attempts)], status=result.status)
    assert result.status == ("failed" if len(result.attempts) == len(refused) else "expired")


def test_flapping_every_few_seconds_fails_no_job(legs: Legs) -> None:
    away_s = 1.5
    legs.fault(legs.first, "unavailable", flap=(away_s, away_s))

    def three_times() -> bool:
        """Return whether the route was away three times, and back in between."""
        spells, last = 0, None
        for call in legs.calls(legs.first):
            if call.finished is not None and (bad := call.status == 503) is not last:
                spells, last = spells + bad, bad
        return spells >= 3

    jobs = legs.load(15, three_times, limit_s=40)
    results = [job.result(timeout=RESULT_S) for job in jobs]
    for result in results:
        *failed, good = result.attempts
        expected = [(a.route, "overloaded", Cost.FREE) for a in failed]
        assert len(failed) <= 1, legs.story(result)
        legs.expect(result, *expected, (good.route, "succeeded", Cost.BILLED))
    assert {call.status for call in legs.calls(legs.second)} == {200}
    # away it may cost what opens it, with what was under way; never the calls of a whole spell (15 a second)
    wasted = sum(len(result.attempts) - 1 for result in results)
    assert wasted <= 3 * 8, f"{wasted} of {len(jobs)} jobs paid for the flapping"
