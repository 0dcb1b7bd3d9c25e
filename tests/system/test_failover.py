"""Failing providers, through the whole system. (The full fault suite is tests/faults.)"""

from collections import Counter
from typing import Any

import pytest
from tests.builders import unique

from trivet.testing import RunningTrivet

TERMS: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 40}
ROUTE_OF = {"anthropic": "anthropic", "bedrock": "bedrock-us-east-1", "vertex": "vertex-global"}


def test_a_port_that_dies_while_500_jobs_run_changes_only_their_route(system: RunningTrivet) -> None:
    name = unique("port")
    for provider in ROUTE_OF:
        system.simulator.latency(provider, median_s=0.4)
    batch = system.client.submit_many([{"prompt": f"Page {i}"} for i in range(500)], name=name, **TERMS)
    system.simulator.wait_for_calls(20, 20, provider="bedrock", of="started")
    system.simulator.down("bedrock")
    found = list(batch.results(timeout=60))
    assert Counter(result.status for result in found) == {"succeeded": 500}
    moved = [result for result in found if len(result.attempts) > 1]
    assert moved
    for result in moved:
        assert result.attempts[0].route == "bedrock-us-east-1"
        assert result.attempts[0].outcome in ("connection", "incomplete")
        assert result.route in ("anthropic", "vertex-global")
    answered = Counter(call.attempt for call in system.simulator.calls() if call.complete)
    assert len(answered) == 500
    assert max(answered.values()) == 1


@pytest.mark.parametrize("kind", ["server_error", "overloaded", "reset", "garbled", "empty", "cut"])
def test_a_route_that_fails_is_left_for_another(system: RunningTrivet, kind: str) -> None:
    for provider in ("bedrock", "vertex"):
        system.simulator.fault(provider, kind)
    found = [system.client.submit(f"{kind} {i}", latency="batch", **TERMS).result(timeout=60) for i in range(3)]
    assert {(result.status, result.route) for result in found} == {("succeeded", "anthropic")}
    outcomes = {attempt.outcome for result in found for attempt in result.attempts if attempt.route != "anthropic"}
    assert outcomes <= {"server_error", "overloaded", "connection", "incomplete"}


def test_realtime_fails_over_within_its_budget(system: RunningTrivet) -> None:
    for provider in ("bedrock", "vertex"):
        system.simulator.fault(provider, "hang")
    for i in range(3):
        result = system.client.submit(f"Quick {i}", latency="realtime", **TERMS).result(timeout=60)
        assert result.status == "succeeded", result.error
        assert result.route == "anthropic"
        assert result.latency_s < 3


def test_when_all_routes_are_limited_jobs_wait_and_then_complete(system: RunningTrivet) -> None:
    for provider in ROUTE_OF:
        system.simulator.fault(provider, "rate_limited", for_s=3, retry_after_s=3)
    batch = system.client.submit_many([{"prompt": f"Patient {i}"} for i in range(30)], name=unique("limited"), **TERMS)
    found = list(batch.results(timeout=60))
    assert Counter(result.status for result in found) == {"succeeded": 30}
    outcomes = Counter(attempt.outcome for result in found for attempt in result.attempts)
    assert outcomes["succeeded"] == 30
    assert outcomes.keys() <= {"succeeded", "rate_limited"}


def test_a_request_that_is_at_fault_itself_asks_nobody_else(system: RunningTrivet) -> None:
    for provider in ROUTE_OF:
        system.simulator.fault(provider, "context_too_long")
    result = system.client.submit("Too long", latency="batch", **TERMS).result(timeout=60)
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.outcome == "invalid"
    assert [attempt.outcome for attempt in result.attempts] == ["invalid"]


def test_a_400_nobody_knows_is_checked_with_one_other_provider(system: RunningTrivet) -> None:
    for provider in ROUTE_OF:
        system.simulator.fault(provider, "unknown_400")
    result = system.client.submit("Odd", latency="batch", **TERMS).result(timeout=60)
    assert result.status == "failed"
    assert [attempt.outcome for attempt in result.attempts] == ["ambiguous", "ambiguous"]
    first, second = result.attempts
    assert first.route != second.route


def test_a_job_no_route_can_serve_fails_after_its_rounds_with_the_last_words(system: RunningTrivet) -> None:
    for provider in ROUTE_OF:
        system.simulator.fault(provider, "server_error")
    result = system.client.submit("Doomed", latency="realtime", **TERMS).result(timeout=60)
    assert result.status in ("failed", "expired")
    assert result.error is not None
    assert "server_error" in result.error.message


def test_a_refusal_is_a_result(system: RunningTrivet) -> None:
    for provider in ROUTE_OF:
        system.simulator.fault(provider, "refusal")
    result = system.client.submit("No", latency="batch", **TERMS).result(timeout=60)
    assert (result.status, result.stop_reason) == ("succeeded", "refusal")
    assert len(result.attempts) == 1
