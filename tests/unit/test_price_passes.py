"""Passes of other models, models that answered for others, refusals: read from answers, then priced."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet_tasks.catalog import MODELS, same_model
from trivet_tasks.outcomes import Usage, UsagePart
from trivet_tasks.prices import price_records
from trivet_tasks.prices.price_book import PriceBook, Priced
from trivet_worker.adapters.answers import Whole, read_message
from trivet_worker.adapters.assembly import Assembly

BOOK = PriceBook()
NOW = datetime(2026, 11, 29, 15, 0, tzinfo=UTC)


def answer(model: str, usage: dict[str, Any], **message: Any) -> Usage:
    """The usage of an answer as it is read."""
    whole = {"type": "message", "model": model, "content": [{"type": "text", "text": "yes"}], "stop_reason": "end_turn"}
    found = read_message(orjson.dumps({**whole, **message, "usage": usage}))
    assert isinstance(found, Whole)
    assert found.usage is not None
    return found.usage


def priced(asked: str, usage: Usage, provider: Any = "anthropic", region: str | None = None, **how: Any) -> Priced:
    return BOOK.price(provider, how.get("model", asked), asked, region, how.get("at", NOW), usage)


def tokens(fresh: int, output: int, read: int = 0, written: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "input_tokens": fresh,
        "output_tokens": output,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        **more,
    }


def entry(kind: str, *counts: int, **more: Any) -> dict[str, Any]:
    return tokens(*counts, type=kind, **more)


ADVISOR = entry("advisor_message", 159_419, 7_805, model="claude-opus-4-7")
FALLBACK = [
    entry("message", 408, 0, model="claude-fable-5"),
    entry("fallback_message", 412, 264, model="claude-opus-4-8"),
]


def hop(category: str | None, model: str = "claude-fable-5") -> dict[str, Any]:
    trigger = {"type": "refusal", "category": category}
    return {"type": "fallback", "from": {"model": model}, "to": {"model": "claude-opus-4-8"}, "trigger": trigger}


def test_an_advisor_is_priced_as_the_model_it_is() -> None:
    """2 and 491 tokens at Sonnet 4.6's 3 and 15 USD, 159,419 and 7,805 at Opus 4.7's 5 and 25; it was 0.602703."""
    iterations = [entry("message", 1, 45), ADVISOR, entry("message", 1, 446)]
    usage = answer("claude-sonnet-4-6", tokens(2, 491, iterations=iterations))
    assert (usage.input_tokens, usage.output_tokens) == (159_421, 8_296)
    found = priced("claude-sonnet-4-6", usage)
    assert found.cost_usd == Decimal("0.999591")
    assert not found.estimated, found.note
    assert found.model_used is None
    assert [part.list_price["output"] for part in found.parts] == ["15", "25", "15"]
    assert found.list_price == {}


def test_an_advisor_that_nothing_else_is_listed_beside_adds_to_the_totals() -> None:
    usage = answer("claude-sonnet-4-6", tokens(2, 491, iterations=[ADVISOR]))
    assert (usage.input_tokens, usage.output_tokens) == (159_421, 8_296)
    assert priced("claude-sonnet-4-6", usage).cost_usd == Decimal("0.999591")


def test_a_server_side_fallback_is_priced_as_the_model_that_answered() -> None:
    """412 x 5 + 264 x 25; a decline before output costs nothing. It was 0.017320, at the prices of Fable 5."""
    usage = answer("claude-opus-4-8", tokens(412, 264, iterations=FALLBACK), content=[hop("cyber")])
    found = priced("claude-fable-5", usage)
    assert found.cost_usd == Decimal("0.008660")
    assert found.model_used == "claude-opus-4-8"
    assert not found.estimated, found.note


@pytest.mark.parametrize("iterations", [None, [], [FALLBACK[1]], [{**FALLBACK[1], "model": "claude-opus-4-8"}]])
def test_a_fallback_without_the_model_that_declined_costs_the_same(iterations: Any) -> None:
    usage = answer("claude-opus-4-8", tokens(412, 264, iterations=iterations))
    found = priced("claude-fable-5", usage)
    assert (found.cost_usd, found.model_used, found.parts) == (Decimal("0.008660"), "claude-opus-4-8", ())
    assert not found.estimated, found.note


@pytest.mark.parametrize("category", ["bio", "frontier_llm", "reasoning_extraction"])
def test_a_hop_declined_for_a_billed_category_is_billed(category: str) -> None:
    usage = answer("claude-opus-4-8", tokens(412, 264, iterations=FALLBACK), content=[hop(category)])
    assert priced("claude-fable-5", usage).cost_usd == Decimal("0.008660") + Decimal("0.00408")


def test_a_hop_whose_category_is_not_told_is_free_and_an_estimate() -> None:
    usage = answer("claude-opus-4-8", tokens(412, 264, iterations=FALLBACK))
    found = priced("claude-fable-5", usage)
    assert (found.cost_usd, found.estimated) == (Decimal("0.008660"), True)


def test_a_hop_that_declined_after_output_is_billed_by_its_own_model() -> None:
    """Fable 5: 2 x 10 + 578 x 50 + 72,769 x 1 + 10,421 x 12.5; Opus 4.8: 2 x 5 + 13,658 x 25 + 79,214 x 0.5."""
    iterations = [
        entry("message", 2, 578, 72_769, 10_421, model="claude-fable-5"),
        entry("fallback_message", 2, 13_658, 79_214, 0, model="claude-opus-4-8"),
    ]
    usage = answer("claude-opus-4-8", tokens(2, 13_658, 79_214, 0, iterations=iterations), content=[hop("cyber")])
    assert priced("claude-fable-5", usage).cost_usd == Decimal("0.2319515") + Decimal("0.381067")


def test_each_pass_has_its_own_long_context_tier() -> None:
    """Haiku 5.5 costs five times as much above 100,000 tokens; no pass is that long."""
    iterations = [entry("message", 99_195, 100), entry("message", 2_000, 50)]
    usage = answer("claude-haiku-5-5", tokens(101_195, 150, iterations=iterations))
    found = priced("claude-haiku-5-5", usage)
    assert found.cost_usd == Decimal("0.0101945")  # 101,195 x 0.10 + 150 x 0.50
    assert found.list_price["input"] == "0.1"  # alike, so the call's own
    long = answer("claude-haiku-5-5", tokens(101_195, 150, iterations=[entry("message", 101_195, 150)]))
    assert priced("claude-haiku-5-5", long).cost_usd == Decimal("0.0509725")
    mixed = answer(
        "claude-haiku-5-5", tokens(1, 1, iterations=[entry("compaction", 150_000, 10), entry("message", 1, 1)])
    )
    found = priced("claude-haiku-5-5", mixed)
    assert (found.cost_usd, found.list_price) == (Decimal("0.0750256"), {})


def test_a_kind_of_pass_yet_to_come_is_priced_and_an_estimate() -> None:
    iterations = [entry("message", 10, 1), entry("critic_message", 1_000, 100, model="claude-opus-4-8")]
    within = answer("claude-sonnet-5-5", tokens(1_010, 101, iterations=iterations))
    beside = answer("claude-sonnet-5-5", tokens(10, 1, iterations=iterations))
    assert within.parts == beside.parts  # whether the totals hold it or not
    found = priced("claude-sonnet-5-5", within)
    assert (found.cost_usd, found.estimated) == (Decimal("0.00003") + Decimal("0.0075"), True)
    assert "critic_message" in found.note


def test_what_no_pass_accounts_for_is_priced_as_the_answering_model() -> None:
    usage = answer("claude-sonnet-5-5", tokens(100, 10, iterations=[entry("message", 40, 10)]))
    assert (usage.input_tokens, usage.output_tokens) == (100, 10)
    assert usage.parts == (UsagePart("message", None, 40, 10), UsagePart("message", None, 60, 0))


def test_hours_that_only_the_totals_tell_hold_for_the_passes() -> None:
    split = {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 900}
    iterations = [entry("message", 1, 1, 0, 700), entry("message", 1, 1, 0, 300)]
    usage = answer("claude-sonnet-5-5", tokens(2, 2, 0, 1_000, cache_creation=split, iterations=iterations))
    assert (usage.cache_write_5m_tokens, usage.cache_write_1h_tokens) == (100, 900)


@pytest.mark.parametrize(
    "iterations",
    [
        ["text"],
        [entry("message", -1, 5)],
        [entry("message", 2**31, 5)],
        [entry("message", 2**31 - 1, 5), entry("compaction", 1, 1)],
        [{**entry("message", 1, 1), "input_tokens": 1.5}],
        [{**entry("message", 1, 1), "output_tokens": True}],
        [entry("message", 1, 1)] * 257,
    ],
)
def test_passes_that_cannot_be_read_leave_the_totals_and_are_an_estimate(iterations: list[Any]) -> None:
    usage = answer("claude-sonnet-5-5", tokens(1_000, 100, iterations=iterations))
    assert (usage.input_tokens, usage.output_tokens, usage.parts) == (1_000, 100, ())
    found = priced("claude-sonnet-5-5", usage)
    assert (found.cost_usd, found.estimated) == (Decimal("0.003"), True)


def test_searches_are_counted_once_for_all_passes() -> None:
    usage = tokens(20, 2, iterations=[entry("message", 10, 1)] * 2, server_tool_use={"web_search_requests": 3})
    assert priced("claude-sonnet-5-5", answer("claude-sonnet-5-5", usage)).cost_usd == Decimal("0.03006")


def test_a_stream_tells_passes_and_models_as_an_answer_does() -> None:
    assembly = Assembly()
    start = {"type": "message", "model": "claude-opus-4-8", "content": [], "usage": tokens(412, 1)}
    for event in (
        {"type": "message_start", "message": start},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": tokens(412, 264, iterations=FALLBACK)},
        {"type": "message_stop"},
    ):
        assembly.take(event)
    assert assembly.usage is not None
    assert priced("claude-fable-5", assembly.usage).cost_usd == Decimal("0.008660")


# --- refusals


def refused(category: Any, output: int = 0, content: Any = (), model: str = "claude-fable-5") -> Usage:
    details = {"type": "refusal", "category": category, "explanation": None}
    return answer(
        model, tokens(1_000, output), stop_reason="refusal", stop_details=details, content=list(content)
    )  # fmt: skip


@pytest.mark.parametrize("category", ["cyber", "general_harms", None])
@pytest.mark.parametrize("output", [0, 1])
def test_a_refusal_before_output_is_free_and_keeps_its_tokens(category: str | None, output: int) -> None:
    usage = refused(category, output)
    assert usage.input_tokens == 1_000
    found = priced("claude-fable-5", usage)
    assert (found.cost_usd, found.estimated, found.multipliers) == (Decimal(0), False, {"refused": "0"})


@pytest.mark.parametrize("category", ["bio", "frontier_llm", "reasoning_extraction"])
@pytest.mark.parametrize("wire", [("anthropic", "claude-fable-5", None), ("vertex", "claude-fable-5", "global"),
                                  ("bedrock", "global.anthropic.claude-fable-5", "us-east-1")])  # fmt: skip
def test_a_refusal_of_these_categories_is_billed_on_every_wire(category: str, wire: tuple[str, str, str]) -> None:
    provider, name, region = wire
    found = priced(name, refused(category), provider, region, model="claude-fable-5")
    assert (found.cost_usd, found.estimated) == (Decimal("0.01"), False)


def test_a_refusal_after_output_is_billed() -> None:
    found = priced("claude-fable-5", refused("cyber", 20, [{"type": "text", "text": "First"}]))
    assert (found.cost_usd, found.estimated) == (Decimal("0.011"), False)
    thought = [{"type": "thinking", "thinking": "", "signature": "x"}]
    assert priced("claude-fable-5", refused("cyber", 20, thought)).cost_usd == Decimal("0.011")


def test_what_cannot_be_known_of_a_refusal_is_an_estimate() -> None:
    strange = priced("claude-fable-5", refused("weather"))
    assert (strange.cost_usd, strange.estimated) == (Decimal(0), True)
    assert "weather" in strange.note
    hidden = priced("claude-fable-5", refused("cyber", 20))
    assert (hidden.cost_usd, hidden.estimated) == (Decimal(0), True)


def test_a_refusal_without_details_is_one_without_category() -> None:
    usage = answer("claude-fable-5", tokens(1_000, 0), stop_reason="refusal", stop_details=None, content=[])
    assert priced("claude-fable-5", usage).cost_usd == 0


def test_refusals_were_billed_before_june_2026() -> None:
    at = datetime(2026, 6, 1, 12, tzinfo=UTC)
    assert priced("claude-opus-4-8", refused("cyber", model="claude-opus-4-8"), at=at).cost_usd == Decimal("0.005")


def test_a_chain_that_refused_as_a_whole_is_free() -> None:
    iterations = [entry("message", 408, 0, model="claude-fable-5"), entry("message", 412, 0, model="claude-opus-4-8")]
    details = {"type": "refusal", "category": "cyber"}
    usage = answer(
        "claude-opus-4-8", tokens(412, 0, iterations=iterations), stop_reason="refusal", stop_details=details,
        content=[hop("cyber")],
    )  # fmt: skip
    assert priced("claude-fable-5", usage).cost_usd == 0


# --- models that answered for others


@pytest.mark.parametrize(
    ("provider", "asked", "model", "answered"),
    [
        ("anthropic", "claude-haiku-4-5-20251001", "claude-haiku-4-5", "claude-haiku-4-5"),
        ("anthropic", "claude-haiku-4-5", "claude-haiku-4-5", "claude-haiku-4-5-20251001"),
        ("anthropic", "claude-opus-4-6", "claude-opus-4-6", "claude-opus-4-6-20260205"),
        ("anthropic", "claude-haiku-5-5", "claude-haiku-5-5", "anthropic/claude-haiku-5.5-20261007"),
        ("bedrock", "us.anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5", "claude-haiku-4-5-20251001"),
        ("bedrock", "global.anthropic.claude-opus-4-6-v1", "claude-opus-4-6", "claude-opus-4-6"),
        ("bedrock", "us.anthropic.claude-fable-5", "claude-fable-5", "anthropic.claude-fable-5"),
        ("bedrock", "anthropic.claude-3-5-sonnet-20241022-v2:0", "claude-3-5-sonnet", "claude-3-5-sonnet-20241022"),
        ("bedrock", "arn:aws:bedrock:us-east-1:1:inference-profile/eu.anthropic.claude-sonnet-4-5-20250929-v1:0",
         "claude-sonnet-4-5", "claude-sonnet-4-5-20250929"),
        ("bedrock", "arn:aws:bedrock:us-east-1:1:application-inference-profile/k3", "claude-sonnet-5-5", "claude-sonnet-5-5"),
        ("vertex", "claude-haiku-4-5@20251001", "claude-haiku-4-5", "claude-haiku-4-5-20251001"),
        ("vertex", "claude-opus-4-6@default", "claude-opus-4-6", "claude-opus-4-6"),
        ("vertex", "claude-3-5-sonnet-v2@20241022", "claude-3-5-sonnet", "claude-3-5-sonnet-20241022"),
        ("vertex", "claude-opus-4@20250514", "claude-opus-4-0", "claude-4-opus"),
    ],
)  # fmt: skip
def test_other_spellings_are_the_same_model(provider: str, asked: str, model: str, answered: str) -> None:
    said = priced(asked, Usage(1_000, 10, model=answered), provider, "us-east-1", model=model)
    silent = priced(asked, Usage(1_000, 10), provider, "us-east-1", model=model)
    assert said == silent
    assert said.model_used is None
    assert said.cost_usd


def test_no_two_models_of_the_catalog_are_one() -> None:
    for one in MODELS:
        assert [other.id for other in MODELS if same_model(one.id, other.id)] == [one.id]
        for name in (one.anthropic, one.bedrock, one.vertex, *one.aliases):
            assert name is None or same_model(name, one.id)


@pytest.mark.parametrize(
    ("provider", "asked", "region", "usd"),
    [
        ("anthropic", "claude-fable-5", None, "0.005"),
        ("bedrock", "global.anthropic.claude-fable-5", "us-east-1", "0.005"),
        ("bedrock", "eu.anthropic.claude-fable-5", "eu-west-1", "0.0055"),
        ("bedrock", "anthropic.claude-fable-5", "us-east-1", "0.0055"),
        ("bedrock", "claude-fable-5", "us-east-1", "0.005"),
        ("vertex", "claude-fable-5", "global", "0.005"),
        ("vertex", "claude-fable-5", "eu", "0.0055"),
    ],
)
def test_another_model_is_priced_where_the_call_went(provider: str, asked: str, region: str | None, usd: str) -> None:
    found = priced(asked, Usage(1_000, model="claude-opus-4-8"), provider, region, model="claude-fable-5")
    on_mantle = asked.startswith("anthropic.")
    assert (found.cost_usd, found.model_used, found.estimated) == (Decimal(usd), "claude-opus-4-8", on_mantle)


def test_a_model_that_no_list_knows_is_priced_as_asked_and_an_estimate() -> None:
    found = priced("claude-sonnet-5-5", Usage(1_000, model="claude-next-9"))
    assert (found.cost_usd, found.estimated, found.model_used) == (Decimal("0.002"), True, "claude-next-9")
    assert "claude-next-9" in found.note


def test_a_name_of_ones_own_is_priced_by_the_answer() -> None:
    found = priced("internal-alias", Usage(1_000, model="claude-haiku-4-5-20251001"), model="house-model")
    assert (found.cost_usd, found.model_used, found.estimated) == (Decimal("0.001"), "claude-haiku-4-5", False)


def test_every_model_may_answer_for_another_on_its_own_wires() -> None:
    for provider in ("anthropic", "vertex"):
        for one in MODELS:
            wire = getattr(one, provider)
            if wire is None:
                continue
            region = "global" if provider == "vertex" else None
            own = BOOK.price(provider, one.id, wire, region, NOW, Usage(1_000, 10))
            asked = "claude-opus-5-5" if one.id != "claude-opus-5-5" else "claude-sonnet-5-5"
            found = priced(asked, Usage(1_000, 10, model=one.id), provider, region)
            if own.cost_usd is not None:
                assert (found.cost_usd, found.model_used) == (own.cost_usd, one.id)


# --- service tiers, and what a row keeps


@pytest.mark.parametrize("tier", ["priority", "flex", "reserved", "tier of tomorrow"])
def test_service_tiers_stay_open(tier: str) -> None:
    usage = answer("claude-sonnet-5-5", tokens(1_000, 0, service_tier=tier))
    found = priced("claude-sonnet-5-5", usage)
    assert (usage.service_tier, found.cost_usd, found.estimated) == (tier, Decimal("0.002"), True)
    assert tier in found.note


counts = st.tuples(*[st.integers(0, 150_000)] * 5)
passes = st.builds(
    UsagePart,
    st.sampled_from(["message", "compaction", "advisor_message", "fallback_message", "critic"]),
    st.sampled_from([None, "claude-opus-4-7", "claude-haiku-5-5", "claude-next-9"]),
    *[st.integers(0, 150_000)] * 5,
    st.sampled_from([None, "cyber", "bio", "unknown"]),
)


@settings(deadline=None)
@given(st.lists(passes, min_size=1, max_size=6), st.sampled_from(["claude-haiku-5-5", "claude-fable-5"]))
def test_a_call_of_passes_is_the_sum_of_calls_and_is_priced_again_from_its_row(
    parts: list[UsagePart], asked: str
) -> None:
    usage = Usage(model=asked, parts=tuple(parts), web_searches=2)
    found = priced(asked, usage)
    each = [
        priced(asked, Usage(part.input_tokens, part.output_tokens, part.cache_read_tokens, part.cache_write_5m_tokens,
                            part.cache_write_1h_tokens, model=part.model or asked, refused=part.refused)).cost_usd
        for part in parts
    ]  # fmt: skip
    assert found.cost_usd == sum((cost for cost in each if cost is not None), Decimal("0.02"))
    kept = price_records.write_parts(found.parts, alike=bool(found.list_price))
    again = Usage(
        web_searches=price_records.read_terms(price_records.write_terms(None, usage)).web_searches,
        parts=price_records.read_parts(kept),
    )
    assert priced(asked, again) == found
