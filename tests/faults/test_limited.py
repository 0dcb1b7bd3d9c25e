"""Limits: a route that says "later" is left alone until then, waiting costs nothing, and everything is served."""

import logging
import re
import sys

import pytest
from tests.faults.ledger import Cost
from tests.faults.legs import CLOCK_S, RESULT_S, Legs, outcomes
from tests.faults.pool import LIMITED_S

from trivet.cli import run as run_command
from trivet_simulator.calls import Call

LIMITED = "rate_limited"
PAUSE_S = 1.5


@pytest.mark.parametrize(
    ("form", "pause_s"), [("seconds", 2.0), ("float", PAUSE_S), ("date", PAUSE_S), ("ms", PAUSE_S)]
)
def test_a_limited_route_is_left_alone_as_long_as_it_said(legs: Legs, form: str, pause_s: float) -> None:
    legs.fault(legs.first, LIMITED, times=1, retry_after_s=pause_s, retry_after_as=form)
    moved = legs.run()
    legs.expect(moved, (legs.first, LIMITED, Cost.FREE), (legs.second, "succeeded", Cost.BILLED))
    # waiting costs no attempt
    legs.expect(legs.run(only=legs.first), (legs.first, "succeeded", Cost.BILLED))
    refused, next_one = legs.calls(legs.first)
    assert refused.finished is not None
    assert next_one.started >= refused.finished + pause_s - CLOCK_S


def test_a_route_limited_for_hours_is_parked_and_no_worker_with_it(legs: Legs) -> None:
    legs.fault(legs.first, LIMITED, times=1, retry_after_s=13_262)
    legs.expect(legs.run(), (legs.first, LIMITED, Cost.FREE), (legs.second, "succeeded", Cost.BILLED))
    parked = legs.submit(only=legs.first)
    for job in [legs.submit() for _ in range(20)]:
        legs.expect(job.result(timeout=RESULT_S), (legs.second, "succeeded", Cost.BILLED))
    assert len(legs.calls(legs.first)) == 1
    parked.cancel()
    legs.expect(parked.result(timeout=RESULT_S), status="cancelled")


def test_a_shorter_pause_that_is_told_later_does_not_shorten_a_longer_one(legs: Legs) -> None:
    longer, shorter, *after = _two_pauses(legs, 3, 1)
    assert longer.finished is not None
    assert shorter.finished is not None
    assert longer.finished < shorter.finished
    assert min(call.started for call in after) >= longer.finished + 3 - CLOCK_S


def test_a_longer_pause_that_is_told_later_wins(legs: Legs) -> None:
    _, longer, *after = _two_pauses(legs, 1, 3)
    assert longer.finished is not None
    assert min(call.started for call in after) >= longer.finished + 3 - CLOCK_S


def _two_pauses(legs: Legs, first_s: float, second_s: float) -> list[Call]:
    """The calls of two jobs that are under way together and are told to wait, one after the other."""
    legs.simulator.faults(
        legs.first,
        [
            {"kind": LIMITED, "times": 1, "retry_after_s": first_s, "delay_s": 0.2},
            {"kind": LIMITED, "times": 1, "retry_after_s": second_s, "delay_s": 0.6},
        ],
    )
    for job in [legs.submit(only=legs.first) for _ in range(2)]:
        result = job.result(timeout=RESULT_S)
        legs.expect(result, (legs.first, LIMITED, Cost.FREE), (legs.first, "succeeded", Cost.BILLED))
    return legs.calls(legs.first)


@pytest.mark.parametrize(
    ("first", "kind", "status"),
    [
        ("anthropic", "rate_limited", 429),
        ("bedrock", "rate_limited", 429),
        ("bedrock", "too_many_tokens", 429),
        ("bedrock", "quota_exceeded", 400),
        ("vertex", "resource_exhausted", 429),
        ("vertex", "resource_exhausted_in_500", 500),
    ],
)
def test_a_limit_without_a_time_closes_the_route_for_our_own_pause(
    legs: Legs, first: str, kind: str, status: int
) -> None:
    legs.fault(legs.first, kind, times=2, retry_after_as="none")
    legs.expect(legs.run(), (legs.first, LIMITED, Cost.FREE), (legs.second, "succeeded", Cost.BILLED))
    patient = legs.run(only=legs.first)
    legs.expect(patient, (legs.first, LIMITED, Cost.FREE), (legs.first, "succeeded", Cost.BILLED))
    once, again, good = legs.calls(legs.first)
    assert [once.status, again.status, good.status] == [status, status, 200]
    assert [row.status for row in legs.rows(legs.first)] == [status, status, 200]
    assert once.finished is not None
    assert again.finished is not None
    assert again.started >= once.finished + LIMITED_S - CLOCK_S
    # refused again at once, the route rests twice as long
    assert good.started >= again.finished + 2 * LIMITED_S - CLOCK_S


def test_a_wave_of_refusals_is_one_pause_and_no_illness(legs: Legs) -> None:
    legs.fault(legs.first, LIMITED, times=6, delay_s=0.4, retry_after_as="none")
    jobs = [legs.submit(only=legs.first) for _ in range(6)]
    legs.simulator.wait_for_calls(6, RESULT_S, provider=legs.first, of="started")
    for job in jobs:
        result = job.result(timeout=RESULT_S)
        legs.expect(result, (legs.first, LIMITED, Cost.FREE), (legs.first, "succeeded", Cost.BILLED))
    refused, answered = legs.calls(legs.first)[:6], legs.calls(legs.first)[6:]
    assert len(answered) == 6, "six failures in a row would have opened it, and a probe would have come"
    last = max(call.finished or 0 for call in refused)
    # six pauses one after the other would have doubled to sixteen seconds
    assert min(call.started for call in answered) < last + 2**5 * LIMITED_S / 2


@pytest.mark.legs(legs=3)
@pytest.mark.parametrize("pause_s", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_with_all_three_limited_nothing_is_tried_and_then_all_is_served(
    legs: Legs, pause_s: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    legs.fault_all(LIMITED, times=1, retry_after_s=pause_s)
    first_ones = [legs.submit(only=route) for route in legs.routes]
    for route in legs.routes:
        legs.simulator.wait_for_calls(1, RESULT_S, provider=route)
    name = f"limited-{legs.tag}"
    batch = legs.system.client.submit_many(
        [{"prompt": f"Page {i}", "key": f"{name}/{i}"} for i in range(30)], name=name, **legs.terms()
    )
    monkeypatch.setattr(sys, "argv", ["trivet", "--config", str(legs.system.config), "batch", "status", name])
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(logging.getLogger("trivet"), "level", logging.NOTSET)  # the command line sets it
    run_command()
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(rf"hrottled.*next headroom in \d+ s on {legs.tag}-", said), said

    found = list(batch.results(timeout=pause_s + RESULT_S))
    assert outcomes(found) == {"succeeded": 30}, "a job that waited paid with an attempt"
    for result in found:
        assert result.cost_usd == sum(a.cost_usd or 0 for a in result.attempts) > 0
    for route, job in zip(legs.routes, first_ones, strict=True):
        result = job.result(timeout=RESULT_S)
        legs.expect(result, (route, LIMITED, Cost.FREE), (route, "succeeded", Cost.BILLED))
        refused, *after = legs.calls(route)
        assert refused.finished is not None
        assert after
        assert min(call.started for call in after) >= refused.finished + pause_s - CLOCK_S


@pytest.mark.legs(legs=3)
def test_realtime_with_all_three_limited_fails_in_time_and_says_why(legs: Legs) -> None:
    legs.fault_all(LIMITED, retry_after_s=30)
    result = legs.run(latency="realtime")
    assert result.status in ("failed", "expired")
    assert result.latency_s < 3 + 1
    assert result.error is not None
    for route in legs.routes:
        assert route in result.error.message, result.error.message
    assert "limited" in result.error.message
    assert set(outcomes([result])) == {LIMITED}
    assert result.cost_usd == 0
    # now that it is known: no call at all
    again = legs.run(latency="realtime")
    assert again.status in ("failed", "expired")
    assert again.error is not None
    for route in legs.routes:
        assert route in again.error.message, again.error.message
    assert not again.attempts
    assert [len(legs.calls(route)) for route in legs.routes] == [1, 1, 1]
