"""Requests that no route would take, answers that say no, and 400s that nobody knows."""

import pytest
from tests.faults.ledger import Cost
from tests.faults.legs import Legs


@pytest.mark.parametrize(
    ("first", "kind", "words"),
    [
        ("anthropic", "context_too_long", "prompt is too long"),
        ("bedrock", "context_too_long", "prompt is too long"),
        ("vertex", "context_too_long", "prompt is too long"),
        ("anthropic", "content_policy", "content filtering policy"),
        ("bedrock", "content_policy", "content filtering policy"),
        ("vertex", "content_policy", "content filtering policy"),
    ],
)
def test_a_request_at_fault_fails_with_the_providers_words_and_asks_nobody_else(
    legs: Legs, first: str, kind: str, words: str
) -> None:
    legs.fault_all(kind)
    for _ in range(4):
        result = legs.run()
        legs.expect(result, (legs.first, "invalid", Cost.FREE), status="failed")
        assert result.error is not None
        assert result.error.outcome == "invalid"
        assert words in result.error.message
        assert result.route is None or result.route == legs.first
    legs.simulator.clear(legs.first)
    legs.expect(legs.run(), (legs.first, "succeeded", Cost.BILLED))  # its health was never in question


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_is_a_result(legs: Legs, stream: bool) -> None:
    legs.fault(legs.first, "refusal")
    result = legs.run()
    legs.expect(result, (legs.first, "succeeded", Cost.FREE))
    assert (result.stop_reason, result.text) == ("refusal", "")
    assert len(legs.calls()) == 1


@pytest.mark.legs(legs=3)
def test_a_400_nobody_knows_is_asked_of_one_other_provider(legs: Legs) -> None:
    legs.fault_all("unknown_400")
    result = legs.run()
    legs.expect(result, (legs.first, "ambiguous", Cost.FREE), (legs.second, "ambiguous", Cost.FREE), status="failed")
    assert result.error is not None
    assert result.error.outcome == "invalid"


def test_a_route_that_alone_refuses_job_after_job_becomes_unusable_by_its_probe(legs: Legs) -> None:
    legs.fault(legs.first, "unknown_400")
    for _ in range(4):
        legs.expect(legs.run(), (legs.first, "ambiguous", Cost.FREE), (legs.second, "succeeded", Cost.BILLED))
    legs.load(10, lambda: any("open" in kind for _, kind, _ in legs.events(legs.first)), limit_s=30)
    legs.expect(legs.run(), (legs.second, "succeeded", Cost.BILLED))


def test_what_some_requests_have_in_common_closes_a_route_for_no_other(legs: Legs) -> None:
    legs.fault(legs.first, "unknown_400", contains="PECULIAR")
    for _ in range(7):
        result = legs.run("Something PECULIAR.")
        legs.expect(result, (legs.first, "ambiguous", Cost.FREE), (legs.second, "succeeded", Cost.BILLED))
    legs.expect(legs.run(), (legs.first, "succeeded", Cost.BILLED))
    assert not any("open" in kind for _, kind, _ in legs.events(legs.first))
