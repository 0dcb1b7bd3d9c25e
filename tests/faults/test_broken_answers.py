"""A 200 that is no whole answer is never a result: one attempt row, and the next route."""

import json

import pytest
from tests.faults.ledger import Cost
from tests.faults.legs import Legs

BROKEN = [
    ("cut", False, Cost.ESTIMATED),
    ("garbled", False, Cost.ESTIMATED),
    ("empty", False, Cost.ESTIMATED),
    ("no_stop_reason", False, Cost.BILLED),
    ("cut", True, Cost.UNSETTLED),
    ("garbled", True, Cost.BILLED),
    ("empty", True, Cost.ESTIMATED),
    ("stream_without_end", True, Cost.UNSETTLED),
    ("no_stop_reason", True, Cost.BILLED),
]


@pytest.mark.parametrize(("kind", "stream", "cost"), BROKEN)
def test_a_broken_answer_is_left_for_another_route(legs: Legs, kind: str, stream: bool, cost: Cost) -> None:
    legs.fault(legs.first, kind, times=1)
    result = legs.run()
    legs.expect(result, (legs.first, "incomplete", cost), (legs.second, "succeeded", Cost.BILLED))
    broken = legs.calls(legs.first)[0]
    assert (broken.status, broken.complete, broken.stream) == (200, False, stream)
    legs.expect(legs.run(), (legs.first, "succeeded", Cost.BILLED))


@pytest.mark.legs(stream=True)
@pytest.mark.parametrize("first", ["anthropic", "bedrock", "vertex"])
def test_an_error_event_inside_a_stream_is_the_providers_failure(legs: Legs, first: str) -> None:
    legs.fault(legs.first, "stream_error", times=1)
    result = legs.run()
    failed, good = result.attempts
    assert (failed.route, failed.outcome, good.route) == (legs.first, "server_error", legs.second)
    row = legs.rows(legs.first)[0]
    assert row.cost_usd is not None
    assert 0 <= row.cost_usd <= row.most_usd
    assert result.cost_usd == row.cost_usd + (good.cost_usd or 0)
    assert result.text
    legs.expect(legs.run(), (legs.first, "succeeded", Cost.BILLED))


@pytest.mark.parametrize("first", ["anthropic", "bedrock", "vertex"])
@pytest.mark.parametrize(
    "usage", [None, {"input_tokens": None, "output_tokens": None}, {"input_tokens": 10**19, "output_tokens": 10**12}]
)
def test_a_whole_answer_without_a_readable_usage_is_a_result_whose_cost_is_estimated(
    legs: Legs, first: str, usage: object
) -> None:
    message = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "Hello \ud83d"}],
               "stop_reason": "end_turn", "usage": usage}  # fmt: skip
    legs.fault(legs.first, "raw", status=200, body=json.dumps(message), headers={"content-type": "application/json"})
    for _ in range(4):
        result = legs.run()
        assert (result.status, result.text, result.route) == ("succeeded", "Hello \ufffd", legs.first)
        assert result.cost_usd
    assert all(row.estimated and row.cost_usd for row in legs.rows(legs.first))


@pytest.mark.legs(stream=True)
@pytest.mark.parametrize("first", ["anthropic", "bedrock", "vertex"])
def test_three_broken_streams_open_the_route(legs: Legs, first: str) -> None:
    legs.fault(legs.first, "stream_without_end")
    for _ in range(3):
        legs.expect(legs.run(), (legs.first, "incomplete", Cost.UNSETTLED), (legs.second, "succeeded", Cost.BILLED))
    legs.expect(legs.run(), (legs.second, "succeeded", Cost.BILLED))
