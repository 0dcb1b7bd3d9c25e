"""Providers that are silent or slow: our own clock decides, not a socket's."""

import pytest
from tests.faults.ledger import Cost
from tests.faults.legs import CLOCK_S, RESULT_S, Legs
from tests.faults.pool import ATTEMPT_S, SILENCE_S
from tests.timing import until

BUSY_S = 2.0
"""Time that a busy machine may add."""
SILENT = [
    ("hang", {}, False, Cost.ESTIMATED),
    ("hang", {}, True, Cost.ESTIMATED),
    ("slow_first_byte", {"seconds": 30}, False, Cost.ESTIMATED),
    # bytes keep coming, so no timeout of a socket would ever end it
    ("slow_drip", {"seconds": 30}, False, Cost.ESTIMATED),
    ("slow_drip", {"seconds": 30}, True, Cost.UNSETTLED),
    ("stalled_stream", {}, False, Cost.ESTIMATED),
    ("stalled_stream", {}, True, Cost.UNSETTLED),
]


@pytest.mark.parametrize(("kind", "terms", "stream", "cost"), SILENT)
def test_a_silent_call_ends_at_its_timeout_and_the_next_route_answers(
    legs: Legs, kind: str, terms: dict[str, float], stream: bool, cost: Cost
) -> None:
    legs.fault(legs.first, kind, times=1, **terms)
    result = legs.run()
    legs.expect(result, (legs.first, "timeout", cost), (legs.second, "succeeded", Cost.BILLED))
    silent = legs.rows(legs.first)[0]
    assert silent.latency_s is not None
    assert ATTEMPT_S - CLOCK_S <= silent.latency_s < ATTEMPT_S + BUSY_S
    assert result.latency_s < ATTEMPT_S + 2 * BUSY_S
    until(lambda: legs.calls(legs.first)[0].client_gone, "the connection to be closed")
    legs.expect(legs.run(), (legs.first, "succeeded", Cost.BILLED))


@pytest.mark.parametrize(("kind", "stream"), [("slow_first_byte", False), ("slow_drip", False), ("slow_drip", True)])
def test_slow_within_the_timeout_is_an_answer(legs: Legs, kind: str, stream: bool) -> None:
    legs.fault(legs.first, kind, seconds=ATTEMPT_S / 4)
    result = legs.run()
    legs.expect(result, (legs.first, "succeeded", Cost.BILLED))
    assert result.latency_s >= ATTEMPT_S / 4


@pytest.mark.parametrize("kind", ["stalled_stream", "hang"])
@pytest.mark.parametrize("first", ["anthropic", "bedrock", "vertex"])
def test_a_long_call_that_falls_silent_is_left_within_its_limit(legs: Legs, first: str, kind: str) -> None:
    legs.fault(legs.first, kind, times=1)
    result = legs.run(latency="deferred")
    stalled = kind == "stalled_stream"
    cost = Cost.UNSETTLED if stalled else Cost.ESTIMATED
    legs.expect(result, (legs.first, "timeout", cost), (legs.second, "succeeded", Cost.BILLED))
    silent = legs.rows(legs.first)[0]
    assert silent.latency_s is not None
    assert SILENCE_S - CLOCK_S <= silent.latency_s < SILENCE_S + BUSY_S
    assert all(call.stream for call in legs.calls())
    until(lambda: legs.calls(legs.first)[0].client_gone, "the connection to be closed")


def test_a_hung_route_costs_a_realtime_job_one_attempt_and_not_its_answer(legs: Legs) -> None:
    legs.fault(legs.first, "hang")
    for _ in range(2):
        result = legs.run(latency="realtime")
        legs.expect(result, (legs.first, "timeout", Cost.ESTIMATED), (legs.second, "succeeded", Cost.BILLED))
        assert result.latency_s < 3
    assert len(legs.calls(legs.first)) == 2


def test_a_hung_route_leaves_time_for_a_fallback_that_is_known_to_be_quick(legs: Legs) -> None:
    for _ in range(6):
        legs.expect(legs.run(only=legs.second, latency="realtime"), (legs.second, "succeeded", Cost.BILLED))
    legs.fault(legs.first, "hang")
    result = legs.run(latency="realtime")
    legs.expect(result, (legs.first, "timeout", Cost.ESTIMATED), (legs.second, "succeeded", Cost.BILLED))
    assert result.latency_s < 3


def test_slow_for_realtime_is_still_good_for_a_class_with_time(legs: Legs) -> None:
    slow_s = 3.2  # more than realtime has
    legs.fault(legs.first, "slow_first_byte", seconds=slow_s)
    patient = []
    for _ in range(8):
        patient += [legs.submit(latency="async") for _ in range(4)]
        quick = legs.run(latency="realtime")
        assert quick.latency_s < 3
        if quick.attempts[0].route != legs.first:
            break
        legs.expect(quick, (legs.first, "timeout", Cost.ESTIMATED), (legs.second, "succeeded", Cost.BILLED))
    else:
        pytest.fail("eight realtime jobs paid for a route too slow for them")
    legs.expect(quick, (legs.second, "succeeded", Cost.BILLED))
    # the same calls are good ones for those who have the time
    patient.append(legs.submit(latency="async"))
    for job in patient:
        result = job.result(timeout=RESULT_S)
        legs.expect(result, (legs.first, "succeeded", Cost.BILLED))
        assert result.latency_s >= slow_s
    legs.expect(legs.run(latency="realtime"), (legs.second, "succeeded", Cost.BILLED))
