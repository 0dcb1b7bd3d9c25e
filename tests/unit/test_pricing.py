"""Booked cost of a call: by its usage, by an estimate, or nothing."""

import time
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from tests.builders import call

from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.outcomes import Outcome, Usage, UsagePart
from trivet_tasks.prices import price_records
from trivet_tasks.prices.cost_model import CostModel
from trivet_tasks.prices.price_records import PriceTerms
from trivet_worker.adapters.protocol import Answer, Failure
from trivet_worker.run.calls import Call
from trivet_worker.run.pricing import Pricing

PRICING = Pricing(CostModel(), time.time)


def call_of(
    model: str, *, wire_model: str | None = None, region: str | None = None, provider: str = "anthropic"
) -> Call:
    one = call(provider=provider, model=model, wire_model=wire_model or model, input_estimate=1_000, max_tokens=100)
    return replace(one, route=RouteSettings(provider=provider, region=region))  # type: ignore[arg-type]


def answer(usage: Usage) -> Answer:
    return Answer(b"{}", "end_turn", usage, None)


def test_a_call_no_list_knows_is_unpriced_never_free() -> None:
    unknown, used = call_of("claude-next-9"), Usage(10, 5)
    good = PRICING.settled(unknown, answer(used), 1)
    cut = PRICING.failed(unknown, Failure(Outcome.INCOMPLETE, "", usage=used), 1, called=True)
    hung = PRICING.failed(unknown, Failure(Outcome.TIMEOUT, ""), 1, called=True)
    assert [one.cost_usd for one in (good, cut, hung)] == [None, None, None]
    assert [one.estimated for one in (good, cut, hung)] == [False, False, True]
    assert good.price_terms is not None
    assert "claude-next-9" in good.price_terms


def test_a_call_that_used_nothing_costs_nothing_whatever_its_model() -> None:
    refused = PRICING.failed(call_of("claude-next-9"), Failure(Outcome.RATE_LIMITED, ""), 1, called=True)
    assert (refused.cost_usd, refused.estimated, refused.price_terms) == (Decimal(0), False, None)
    unmade = PRICING.failed(call_of("claude-sonnet-5-5"), Failure(Outcome.TIMEOUT, ""), 1, called=False)
    assert (unmade.cost_usd, unmade.estimated) == (Decimal(0), False)


def test_a_failed_call_keeps_what_it_was_priced_by() -> None:
    usage = Usage(1_000, 100, web_searches=2, service_tier="standard", inference_geo="us", speed="standard")
    settled = PRICING.failed(
        call_of("claude-sonnet-5-5"), Failure(Outcome.INCOMPLETE, "cut", usage=usage), 1, called=True
    )
    # (1,000 x 2 + 100 x 10) x 1.1 and two searches at 10 USD a thousand
    assert (settled.cost_usd, settled.estimated) == (Decimal("0.0233"), False)
    assert settled.multipliers == '{"inference_geo_us":"1.1"}'
    assert settled.list_price is not None
    assert settled.price_terms is not None
    assert price_records.read_terms(settled.price_terms) == PriceTerms(web_searches=2, inference_geo="us")


@pytest.mark.parametrize(("region", "cost"), [("global", "0.002"), ("us-east5", "0.0022")])
def test_the_region_is_kept(region: str, cost: str) -> None:
    settled = PRICING.settled(call_of("claude-sonnet-5-5", region=region, provider="vertex"), answer(Usage(1_000)), 1)
    assert (settled.cost_usd, settled.price_terms) == (Decimal(cost), f'{{"region":"{region}"}}')


def test_what_is_priced_approximately_is_booked_and_says_why() -> None:
    arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/k3j2h1"
    one = call_of("claude-sonnet-5-5", wire_model=arn, region="us-east-1", provider="bedrock")
    settled = PRICING.settled(one, answer(Usage(1_000)), 1)
    assert (settled.cost_usd, settled.estimated) == (Decimal("0.0022"), False)
    assert settled.price_terms is not None
    assert settled.price_terms.startswith(price_records.NOTED)
    assert "k3j2h1" in settled.price_terms


@pytest.mark.parametrize(("ago_s", "cost"), [(1_800, "3"), (10, "1.5")])
def test_a_call_has_the_price_of_the_day_on_which_it_began(ago_s: float, cost: str) -> None:
    """Opus 4.6 lost its premium for long prompts on 2026-03-13."""
    pricing = Pricing(CostModel(), datetime(2026, 3, 13, 0, 20, tzinfo=UTC).timestamp)
    begun = replace(call_of("claude-opus-4-6"), born_at=time.monotonic() - ago_s)
    assert pricing.settled(begun, answer(Usage(300_000)), 1).cost_usd == Decimal(cost)


@pytest.mark.parametrize("word", ["pri\ud800ority", "x" * 10_000, 'quo"te\x00'])
def test_words_of_a_provider_are_written_and_read(word: str) -> None:
    text = price_records.write_terms("eu", Usage(service_tier=word))
    assert price_records.read_terms(text) == PriceTerms("eu", service_tier=word[:60])
    assert text.isascii()
    assert "\x00" not in text


MESSAGE = b'{"type":"message","content":[{"type":"text","text":"' + b"a" * 123 + b'"}],"stop_reason":"end_turn"}'


@pytest.mark.parametrize("usage", [None, Usage(2**31 - 1, 2**31 - 1)])
def test_an_answer_whose_usage_cannot_be_read_or_believed_is_estimated_by_its_size(usage: Usage | None) -> None:
    settled = PRICING.settled(call_of("claude-opus-5"), Answer(MESSAGE, "end_turn", usage, None), 1)
    assert settled.usage == Usage(1_000, 37), "the estimate of the prompt, and 150 bytes of content"
    assert settled.estimated
    assert settled.cost_usd


def test_no_estimate_of_an_answer_is_longer_than_it_could_be() -> None:
    settled = PRICING.settled(call_of("claude-sonnet-5-5"), Answer(MESSAGE * 1_000, "end_turn", None, None), 1)
    assert (settled.cost_usd, settled.estimated) == (Decimal("0.003"), True)


@pytest.mark.parametrize(
    "failure",
    [
        Failure(Outcome.SERVER_ERROR, "a fault of Trivet's own", own_fault=True),
        Failure(Outcome.OVERLOADED, "in the middle of a stream", may_be_billed=True),
        Failure(Outcome.SERVER_ERROR, "", usage=Usage(2**31 - 1, 2**31 - 1)),
    ],
)
def test_a_call_that_may_have_been_billed_is_never_free(failure: Failure) -> None:
    settled = PRICING.failed(call_of("claude-opus-5"), failure, 1, called=True)
    assert settled.estimated
    assert settled.cost_usd
    assert settled.cost_usd < 1


def test_passes_that_differ_in_price_are_kept_with_their_own() -> None:
    parts = (UsagePart("message", None, 2, 491), UsagePart("advisor_message", "claude-opus-4-7", 159_419, 7_805))
    usage = Usage(159_421, 8_296, model="claude-sonnet-4-6", parts=parts)
    settled = PRICING.settled(call_of("claude-sonnet-4-6"), answer(usage), 1)
    assert (settled.cost_usd, settled.model_used) == (Decimal("0.999591"), None)
    assert (settled.list_price, settled.multipliers) == (None, None)
    assert settled.price_parts is not None
    assert price_records.read_parts(settled.price_parts) == parts
    assert [part.list_price["input"] for part in price_records.read_priced_parts(settled.price_parts)] == ["3", "5"]


def test_passes_of_one_price_are_kept_without_it() -> None:
    parts = (UsagePart("message", None, 99_195), UsagePart("message", None, 2_000))
    settled = PRICING.settled(call_of("claude-haiku-5-5"), answer(Usage(101_195, parts=parts)), 1)
    assert settled.cost_usd == Decimal("0.0101195")
    assert settled.price_parts == '[{"kind":"message","input_tokens":99195},{"kind":"message","input_tokens":2000}]'
    assert settled.list_price is not None
    assert '"input":"0.1"' in settled.list_price


def test_a_model_that_answered_for_another_is_named() -> None:
    usage = Usage(412, 264, model="claude-opus-4-8")
    settled = PRICING.settled(call_of("claude-fable-5"), answer(usage), 1)
    assert (settled.cost_usd, settled.model_used, settled.price_terms) == (Decimal("0.008660"), "claude-opus-4-8", "{}")
    assert PRICING.settled(call_of("claude-fable-5"), answer(Usage(1, model="claude-fable-5")), 1).model_used is None


def test_a_free_refusal_says_so() -> None:
    settled = PRICING.settled(call_of("claude-fable-5"), answer(Usage(1_000, refused="cyber")), 1)
    assert (settled.cost_usd, settled.estimated, settled.usage) == (Decimal(0), False, Usage(1_000, refused="cyber"))
    assert settled.multipliers == '{"refused":"0"}'
    assert settled.price_terms is not None
    assert price_records.read_terms(settled.price_terms) == PriceTerms(refused="cyber")
