"""Limits: through the wires where no minute must pass, and with a clock of our own where one must."""

from __future__ import annotations

import asyncio
import datetime
import time
from typing import Any

import anthropic
import pytest

from trivet_simulator import Control, Endpoints
from trivet_simulator.limits import Figures, Limits, Need, Refusal, Rule, Ticket

from .sdk import WIRES, call, client, message, request


async def _together(endpoints: Endpoints, wire: str, number: int) -> list[Any]:
    async with client(endpoints, wire) as made:
        calls = [made.messages.with_raw_response.create(**request(wire)) for _ in range(number)]
        return await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize("wire", WIRES)
def test_requests_a_minute(control: Control, endpoints: Endpoints, wire: str) -> None:
    control.limits(wire, requests_per_minute=5)
    results = asyncio.run(_together(endpoints, wire, 12))
    refused = [r for r in results if isinstance(r, anthropic.RateLimitError)]
    assert (len(results), len(refused)) == (12, 7)
    counts = control.counts()["providers"][wire]
    assert (counts["completed"], counts["by_fault"]) == (5, {"limit": 7})
    headers = refused[0].response.headers
    assert ("retry-after" in headers) == (wire == "anthropic")
    if wire == "bedrock":
        assert headers["x-amzn-errortype"].startswith("ThrottlingException")
    if wire == "vertex":
        body: Any = refused[0].body
        assert body[0]["error"]["status"] == "RESOURCE_EXHAUSTED"
    control.limits(wire)
    assert asyncio.run(message(endpoints, wire)).stop_reason == "end_turn"


@pytest.mark.parametrize("wire", WIRES)
def test_calls_at_once(control: Control, endpoints: Endpoints, wire: str) -> None:
    control.latency(wire, median_s=0.3)
    control.limits(wire, concurrency=3)
    results = asyncio.run(_together(endpoints, wire, 10))
    assert len([r for r in results if not isinstance(r, anthropic.RateLimitError)]) == 3
    results = asyncio.run(_together(endpoints, wire, 3))
    assert not [r for r in results if isinstance(r, Exception)]


def test_calls_the_client_left_give_their_place_back(control: Control, endpoints: Endpoints) -> None:
    control.limits("anthropic", concurrency=1)
    control.latency("anthropic", median_s=60)

    async def leave() -> None:
        asking = asyncio.create_task(message(endpoints, "anthropic"))
        await asyncio.to_thread(control.wait_for_calls, 1, of="started")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(leave())
    control.wait_for_calls(1)
    control.latency("anthropic", median_s=0)
    assert asyncio.run(message(endpoints, "anthropic")).stop_reason == "end_turn"


def test_anthropic_headers_tell_what_is_left(control: Control, endpoints: Endpoints) -> None:
    control.limits("anthropic", requests_per_minute=60, input_tokens_per_minute=60_000, output_tokens_per_minute=6_000)
    raw = asyncio.run(call(endpoints, "anthropic"))
    headers = raw.headers
    usage = control.calls()[0].usage
    assert usage is not None
    assert headers["anthropic-ratelimit-requests-limit"] == "60"
    assert headers["anthropic-ratelimit-requests-remaining"] == "59"
    assert headers["anthropic-ratelimit-input-tokens-limit"] == "60000"
    assert abs(60_000 - int(headers["anthropic-ratelimit-input-tokens-remaining"]) - usage["input_tokens"]) <= 2
    assert abs(6_000 - int(headers["anthropic-ratelimit-output-tokens-remaining"]) - usage["output_tokens"]) <= 2
    assert headers["anthropic-ratelimit-tokens-limit"] == "66000"
    reset = datetime.datetime.fromisoformat(headers["anthropic-ratelimit-requests-reset"]).timestamp()
    assert time.time() - 5 < reset < time.time() + 5


def test_a_refusal_carries_the_headers_too(control: Control, endpoints: Endpoints) -> None:
    control.limits("anthropic", requests_per_minute=1)
    asyncio.run(message(endpoints, "anthropic"))
    with pytest.raises(anthropic.RateLimitError) as caught:
        asyncio.run(message(endpoints, "anthropic"))
    headers = caught.value.response.headers
    assert headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert 30 < int(headers["retry-after"]) <= 60


def test_bedrock_holds_max_tokens_and_gives_back_what_was_not_used(control: Control, endpoints: Endpoints) -> None:
    control.limits("bedrock", output_tokens_per_minute=10_000)
    with pytest.raises(anthropic.RateLimitError, match="Too many tokens, please wait before trying again"):
        asyncio.run(message(endpoints, "bedrock", max_tokens=20_000))
    for _ in range(5):  # five times 4,096 would not fit if it stayed held
        assert asyncio.run(message(endpoints, "bedrock")).stop_reason == "end_turn"


def test_models_apart_and_groups_together(control: Control, endpoints: Endpoints) -> None:
    def passes(model: str) -> bool:
        try:
            asyncio.run(message(endpoints, "anthropic", model=model))
        except anthropic.RateLimitError:
            return False
        return True

    control.limits("anthropic", requests_per_minute=1, each_model=True)
    assert [passes("claude-a"), passes("claude-b"), passes("claude-a")] == [True, True, False]
    control.limits("anthropic", models={"claude-haiku-*": {"requests_per_minute": 1}})
    seen = [passes("claude-haiku-4"), passes("claude-haiku-5"), passes("claude-opus-5"), passes("claude-opus-5")]
    assert seen == [True, False, True, True]


def _limits(wire: str, **figures: Any) -> Limits:
    return Limits(wire, (Rule("*", Figures(**figures)),))


def _admitted(limits: Limits, now: float, input: float = 1, max_output: float = 1) -> Ticket | None:
    ticket = limits.admit(now, "claude", Need(input, max_output))
    return ticket if isinstance(ticket, Ticket) else None


def test_bucket_refills_continuously() -> None:
    limits = _limits("anthropic", requests_per_minute=60)
    assert sum(_admitted(limits, 0.0) is not None for _ in range(100)) == 60
    refusal = limits.admit(0.5, "claude", Need(1, 1))
    assert isinstance(refusal, Refusal)
    assert refusal.wait_s == pytest.approx(0.5)
    assert _admitted(limits, 1.0) is not None
    assert _admitted(limits, 1.0) is None
    assert sum(_admitted(limits, 31.0) is not None for _ in range(100)) == 30


def test_bucket_counts_output_when_it_is_known() -> None:
    limits = _limits("anthropic", output_tokens_per_minute=600)
    tickets = [_admitted(limits, 0.0, max_output=10_000) for _ in range(3)]
    assert all(tickets)
    for ticket in tickets:
        assert ticket is not None
        limits.settle(0.0, ticket, 300)
        limits.settle(0.0, ticket, 300)  # a second time counts nothing
    assert _admitted(limits, 29.0) is None
    assert _admitted(limits, 31.0) is not None


def test_a_call_larger_than_the_bucket_passes_when_it_is_full() -> None:
    limits = _limits("anthropic", input_tokens_per_minute=100)
    assert _admitted(limits, 0.0, input=500) is not None
    assert _admitted(limits, 60.0, input=1) is None
    assert _admitted(limits, 300.0, input=1) is not None


def test_rolling_minute_frees_what_is_a_minute_old() -> None:
    limits = _limits("vertex", requests_per_minute=10)
    assert sum(_admitted(limits, 0.0) is not None for _ in range(8)) == 8
    assert sum(_admitted(limits, 30.0) is not None for _ in range(8)) == 2
    refusal = limits.admit(40.0, "claude", Need(1, 1))
    assert isinstance(refusal, Refusal)
    assert refusal.wait_s == pytest.approx(20.0)
    assert sum(_admitted(limits, 60.0) is not None for _ in range(20)) == 8
    assert sum(_admitted(limits, 90.0) is not None for _ in range(20)) == 2


def test_only_bedrock_holds_max_tokens() -> None:
    for wire, fit in (("bedrock", 2), ("vertex", 5)):
        limits = _limits(wire, output_tokens_per_minute=1000)
        assert sum(_admitted(limits, 0.0, max_output=400) is not None for _ in range(5)) == fit


def test_input_is_counted_by_all() -> None:
    for wire in WIRES:
        limits = _limits(wire, input_tokens_per_minute=1000)
        assert sum(_admitted(limits, 0.0, input=300) is not None for _ in range(5)) == 3


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("what", ["requests_per_minute", "input_tokens_per_minute", "output_tokens_per_minute"])
def test_a_limit_of_nothing_lets_nothing_pass(wire: str, what: str) -> None:
    limits = _limits(wire, **{what: 0})
    assert [_admitted(limits, now) for now in (0.0, 600.0)] == [None, None]


def test_all_or_nothing() -> None:
    limits = Limits("vertex", (Rule("*", Figures(requests_per_minute=5)), Rule("c*", Figures(requests_per_minute=1))))
    assert [_admitted(limits, 0.0) is not None for _ in range(4)] == [True, False, False, False]
    assert limits.left(0.0, "other")["requests"][1] == 4
