"""The price book: equal to genai-prices where that is complete, and to figures worked out by hand where it is not."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, localcontext
from typing import TypeAlias

import genai_prices
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet_tasks.catalog import MANTLE_IDS, MODELS, Provider
from trivet_tasks.outcomes import Usage
from trivet_tasks.prices.price_book import PriceBook, Priced, Processing
from trivet_tasks.prices.price_rules import RULES, RULES_VERSION

Wire: TypeAlias = tuple[Provider, str, str, str | None]
"""Provider, first-party id, wire id, region."""
DatedWire: TypeAlias = tuple[Provider, str, str, str | None, datetime]

BOOK = PriceBook()
NOW = datetime(2026, 11, 20, 15, 0, tzinfo=UTC)
LIST_ID = {"anthropic": "anthropic", "bedrock": "aws", "vertex": "google"}
DAYS = [datetime(*day, 12, tzinfo=UTC) for day in ((2026, 1, 10), (2026, 3, 13), (2026, 10, 13), (2026, 10, 14))] + [
    NOW
]

# Every model on every wire that serves it, by every Bedrock profile
WIRES: list[Wire] = [
    *(("anthropic", m.id, m.anthropic, None) for m in MODELS if m.anthropic),
    *(("bedrock", m.id, f"{p}.{m.bedrock}", "us-east-1") for m in MODELS if m.bedrock for p in m.bedrock_profiles),
    *(("bedrock", m.id, m.bedrock, "us-east-1") for m in MODELS if m.bedrock),
    *(("vertex", m.id, m.vertex, "global") for m in MODELS if m.vertex),
]
ALL_KINDS = Usage(1_000, 300, 7_000, 500, 900)


def cost(priced: Priced) -> Decimal:
    assert priced.cost_usd is not None
    return priced.cost_usd


def by_genai_prices(
    provider: Provider, wire: str, at: datetime, usage: Usage, context: dict[str, str]
) -> genai_prices.types.PriceCalculation:
    return genai_prices.calc_price(
        genai_prices.Usage(
            input_tokens=usage.prompt_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_5m_tokens + usage.cache_write_1h_tokens,
            cache_write_5m_tokens=usage.cache_write_5m_tokens,
            cache_write_1h_tokens=usage.cache_write_1h_tokens,
            web_searches=usage.web_searches,
        ),
        wire,
        provider_id=LIST_ID[provider],
        genai_request_timestamp=at,
        price_context=context or None,
    )


def is_listed(wire: Wire) -> bool:
    """Return whether genai-prices has this very id."""
    try:
        by_genai_prices(wire[0], wire[2], NOW, Usage(), {})
    except LookupError:
        return False
    return True


LISTED = [wire for wire in WIRES if is_listed(wire)]
GOV = [wire for wire in LISTED if wire[2].startswith("us-gov.")]  # the list has them at the price of other regions


counts = st.one_of(
    st.integers(0, 3_000),
    st.integers(0, 1_000_000),
    st.sampled_from([0, 1, 99_999, 100_000, 100_001, 200_000, 200_001]),
)


def agrees_with_genai_prices(
    wire: Wire, at: datetime, how: str, tokens: tuple[int, int, int, int, int], searches: int
) -> None:
    provider, model, wire_id, region = wire
    context = {"batch": {"processing": "batch"}, "fast": {"speed": "fast"}}.get(how, {})
    entry = by_genai_prices(provider, wire_id, at, Usage(), context).model_price
    fresh, out, read, write_5m, write_1h = tokens
    if model == "claude-sonnet-4-5" and sum(tokens) - out > 200_000:
        return  # the lists keep the price of a window it has not any more, tested below
    usage = Usage(
        fresh,
        out,
        read,
        write_5m,
        write_1h if entry.cache_write_1h_mtok is not None else 0,  # where the list has none we add our own,
        searches if entry.web_searches_kcount is not None else 0,  # tested below
        speed="fast" if how == "fast" else "standard",
    )
    priced = BOOK.price(provider, model, wire_id, region, at, usage, "batch" if how == "batch" else "online")
    theirs = by_genai_prices(provider, wire_id, at, usage, context).total_price
    plain = by_genai_prices(provider, wire_id, at, ALL_KINDS, {}).total_price
    own = by_genai_prices(provider, wire_id, at, ALL_KINDS, context).total_price
    if how == "online" or own != plain:  # the list knows the case: ours must add nothing
        assert priced.cost_usd == theirs, wire
        assert priced.multipliers == {}, wire
    elif usage.web_searches == 0:
        assert cost(priced) == theirs * Decimal(priced.multipliers.get(how, "1")), wire


# genai-prices ignores batch and speed for a price it borrows from another list
BORROWED = [wire for wire in LISTED if wire[:2] == ("vertex", "claude-sonnet-5")]
COMPARED = [
    (wire, at, how)
    for wire in LISTED
    if wire not in GOV
    for at in DAYS
    for how in ("online", "batch", "fast")
    if how == "online" or wire not in BORROWED
]


@settings(max_examples=1000, deadline=None)
@given(
    case=st.sampled_from(COMPARED),
    tokens=st.tuples(counts, counts, counts, counts, counts),
    searches=st.integers(0, 50),
)
def test_equals_genai_prices(
    case: tuple[Wire, datetime, str], tokens: tuple[int, int, int, int, int], searches: int
) -> None:
    agrees_with_genai_prices(*case, tokens, searches)


@pytest.mark.parametrize("tokens", [(1_201, 307, 5_003, 101, 53), (150_001, 307, 90_003, 101, 53)])
def test_equals_genai_prices_for_every_model_wire_and_day(tokens: tuple[int, int, int, int, int]) -> None:
    assert len(COMPARED) > 1000
    for case in COMPARED:
        agrees_with_genai_prices(*case, tokens, 0)


def test_every_wire_id_of_the_catalog_has_a_price_but_what_was_sold_to_few() -> None:
    unpriced = {
        (provider, model)
        for provider, model, wire_id, region in WIRES
        if BOOK.price(provider, model, wire_id, region, NOW, ALL_KINDS).cost_usd is None
    }
    mythos = ("claude-mythos-preview", "claude-mythos-5", "claude-mythos-5-1")
    assert unpriced == {("anthropic", mythos[0]), *(("bedrock", model) for model in mythos)}


def test_nothing_of_the_catalog_is_an_estimate_but_what_google_does_not_list() -> None:
    estimated = {
        (provider, model)
        for provider, model, wire_id, region in WIRES
        if model != "claude-opus-4-1"
        and is_listed((provider, model, wire_id, region))
        and wire_id not in MANTLE_IDS
        and BOOK.price(provider, model, wire_id, region, NOW, ALL_KINDS).estimated
    }
    assert estimated == {("vertex", "claude-sonnet-5")}


SONNET = ("anthropic", "claude-sonnet-5-5", "claude-sonnet-5-5", None)
HAIKU = ("anthropic", "claude-haiku-5-5", "claude-haiku-5-5", None)
OPUS = ("anthropic", "claude-opus-5-5", "claude-opus-5-5", None)
MYTHOS = ("anthropic", "claude-mythos-5-1", "claude-mythos-5-1", None)
AWS_GLOBAL = ("bedrock", "claude-sonnet-5-5", "global.anthropic.claude-sonnet-5-5", "us-east-1")
AWS_US = ("bedrock", "claude-sonnet-5-5", "us.anthropic.claude-sonnet-5-5", "us-east-1")
OLD_OPUS = ("vertex", "claude-opus-4-1", "claude-opus-4-1@20250805", "us-east5")
REGIONAL, HALF, IN_US = {"regional": "1.1"}, {"batch": "0.5"}, {"inference_geo_us": "1.1"}


def vertex(model: str, region: str) -> tuple[str, str, str, str]:
    return "vertex", model, model, region


# Worked out by hand from the price pages named in genai-prices' data, USD per million tokens.
@pytest.mark.parametrize(
    ("wire", "usage", "processing", "usd", "multipliers"),
    [
        # 1,000,000 x 2 + 100,000 x 10
        (SONNET, Usage(1_000_000, 100_000), "online", "3", {}),
        # 10 x 0.10 + 5 x 0.50
        (HAIKU, Usage(10, 5), "online", "0.0000035", {}),
        # a prompt of 100,000 is still base; one token more, and all are in the tier of five times the price
        (HAIKU, Usage(100_000, 1), "online", "0.0100005", {}),
        (HAIKU, Usage(100_001, 1), "online", "0.050003", {}),
        # cached tokens count to the length: 1 x 0.5 + 100,000 x 0.05
        (HAIKU, Usage(1, 0, 100_000), "online", "0.0050005", {}),
        # 100 x 4 + 10 x 20 + 1000 x 0.2 + 200 x 5 + 300 x 8 = 4200
        (OPUS, Usage(100, 10, 1000, 200, 300), "online", "0.0042", {}),
        (OPUS, Usage(100, 10, 1000, 200, 300), "batch", "0.0021", {}),
        # three searches at 10 USD a thousand: what halves or uplifts tokens leaves them as they are
        (OPUS, Usage(100, 10, web_searches=3), "online", "0.0306", {}),
        (OPUS, Usage(100, 10, web_searches=3), "batch", "0.0303", {}),
        (OPUS, Usage(100, 10, web_searches=3, inference_geo="us"), "online", "0.03066", IN_US),
        (OPUS, Usage(100, 10, speed="fast", inference_geo="us"), "online", "0.00132", IN_US),
        # batch told by the provider's usage alone
        (SONNET, Usage(1000, service_tier="batch"), "online", "0.001", {}),
        # Mythos 5.1 costs what Fable 5.1 does: 1000 x 10 + 100 x 50 + 4000 x 0.25
        (MYTHOS, Usage(1000, 100, 4000), "online", "0.016", {}),
        # Bedrock: global profile; geo profile at 10 % more, from the list itself; batch half, by our rule
        (AWS_GLOBAL, Usage(1000, 100), "online", "0.003", {}),
        (AWS_US, Usage(1000, 100), "online", "0.0033", {}),
        (AWS_US, Usage(1000, 100), "batch", "0.00165", HALF),
        # inference_geo belongs to the first-party API alone
        (AWS_GLOBAL, Usage(1000, 100, inference_geo="us"), "online", "0.003", {}),
        # Vertex: global as listed, 10 % more elsewhere, batch half; only Fable 5.2's batch price is in the list
        (vertex("claude-sonnet-5-5", "global"), Usage(1000, 100), "online", "0.003", {}),
        (vertex("claude-sonnet-5-5", "us-east5"), Usage(1000, 100), "online", "0.0033", REGIONAL),
        (vertex("claude-sonnet-5-5", "eu"), Usage(1000, 100), "online", "0.0033", REGIONAL),
        (vertex("claude-haiku-5-5", "us"), Usage(0, 0, 0, 1), "batch", "0.00000006875", REGIONAL | HALF),
        (vertex("claude-fable-5-2", "global"), Usage(1000, 100), "batch", "0.006", {}),
        (vertex("claude-fable-5-2", "us"), Usage(1000, 100), "batch", "0.0066", REGIONAL),
        # before Sonnet 4.5 there was no regional premium: 1000 x 15 + 100 x 75
        (OLD_OPUS, Usage(1000, 100), "online", "0.0225", {}),
    ],
)
def test_figures_worked_out_by_hand(
    wire: Wire,
    usage: Usage,
    processing: Processing,
    usd: str,
    multipliers: dict[str, str],
) -> None:
    priced = BOOK.price(*wire, NOW, usage, processing)
    assert priced.cost_usd == Decimal(usd)
    assert priced.multipliers == multipliers
    assert not priced.estimated, priced.note


@pytest.mark.parametrize("at", DAYS)
def test_batch_is_half_of_online_on_every_wire_and_day_and_never_a_quarter(at: datetime) -> None:
    for provider, model, wire_id, region in LISTED:
        for usage in (ALL_KINDS, Usage(150_000, 10), Usage(250_000, 10)):
            online = cost(BOOK.price(provider, model, wire_id, region, at, usage))
            batch = cost(BOOK.price(provider, model, wire_id, region, at, usage, "batch"))
            assert batch * 2 == online, (provider, wire_id)


def test_a_geo_profile_costs_a_tenth_more_on_bedrock_exactly_once() -> None:
    for provider, model, wire_id, region in LISTED:
        if provider == "bedrock" and not wire_id.startswith(("global.", "us-gov.")) and model != "claude-opus-4-1":
            base = next(m.bedrock for m in MODELS if m.id == model)
            everywhere = cost(BOOK.price("bedrock", model, f"global.{base}", region, NOW, ALL_KINDS))
            here = BOOK.price("bedrock", model, wire_id, region, NOW, ALL_KINDS)
            assert cost(here) == everywhere * Decimal("1.1"), wire_id
            assert here.multipliers == {}


@pytest.mark.parametrize(
    ("model", "wire_id", "region", "usd", "estimated"),
    [
        # the rows of AWS's list for us-gov-west-1: 1000 x 2.4 + 100 x 12 + 1000 x 0.12 + 200 x 3 + 300 x 4.8
        ("claude-sonnet-5-5", "us-gov.anthropic.claude-sonnet-5-5", "us-gov-west-1", "0.00576", False),
        ("claude-sonnet-5-5", "anthropic.claude-sonnet-5-5", "us-gov-west-1", "0.00576", False),  # bedrock-mantle
        ("claude-sonnet-5-5", "arn:aws-us-gov:bedrock:us-gov-west-1:1:inference-profile/"
         "us-gov.anthropic.claude-sonnet-5-5", None, "0.00576", False),
        # 1000 x 1.2 + 100 x 6 + 1000 x 0.12 + 200 x 1.5 + 300 x 2.4
        ("claude-haiku-4-5", "us-gov.anthropic.claude-haiku-4-5-20251001-v1:0", "us-gov-east-1", "0.00294", False),
        # 1000 x 3.6 + 100 x 18 + 1000 x 0.36 + 200 x 4.5 + 300 x 7.2
        ("claude-sonnet-4-5", "us-gov.anthropic.claude-sonnet-4-5-20250929-v1:0", "us-gov-east-1", "0.00882", False),
        # no row: approximate; 1000 x 6 + 100 x 30 + 1000 x 0.6 + 200 x 7.5 + 300 x 12
        ("claude-opus-4-7", "us-gov.anthropic.claude-opus-4-7", "us-gov-west-1", "0.0147", True),
        ("claude-sonnet-5-5", "arn:aws-us-gov:bedrock:us-gov-west-1:1:application-inference-profile/k3", "us-gov-west-1",
         "0.00576", True),
    ],
)  # fmt: skip
def test_govcloud_costs_a_fifth_more_than_the_global_profile(
    model: str, wire_id: str, region: str | None, usd: str, estimated: bool
) -> None:
    found = BOOK.price("bedrock", model, wire_id, region, NOW, Usage(1000, 100, 1000, 200, 300))
    assert (found.cost_usd, found.estimated, found.multipliers) == (Decimal(usd), estimated, {"us_gov": "1.2"})


def test_govcloud_has_long_prompts_and_batch_at_a_fifth_more_too() -> None:
    wire: DatedWire = ("bedrock", "claude-haiku-5-5", "us-gov.anthropic.claude-haiku-5-5", "us-gov-west-1", NOW)
    assert cost(BOOK.price(*wire, Usage(100_001))) == Decimal("0.0600006")  # 0.60 a million
    opus: DatedWire = ("bedrock", "claude-opus-5", "us-gov.anthropic.claude-opus-5", "us-gov-west-1", NOW)
    assert cost(BOOK.price(*opus, Usage(1000, 100), "batch")) == Decimal("0.0045")  # 3 and 15


@pytest.mark.parametrize(
    ("model", "wire_id", "usd"),
    [
        ("claude-3-5-sonnet", "claude-3-5-sonnet-v2@20241022", "0.0045"),
        ("claude-3-5-sonnet", "claude-3-5-sonnet@20240620", "0.0045"),
        ("claude-3-7-sonnet", "claude-3-7-sonnet@20250219", "0.0045"),
        ("claude-3-haiku", "claude-3-haiku@20240307", "0.000375"),
        ("claude-3-opus", "claude-3-opus@20240229", "0.0225"),
        ("claude-sonnet-4-0", "claude-sonnet-4@20250514", "0.0045"),
        ("claude-opus-4-0", "claude-opus-4@20250514", "0.0225"),
        ("claude-opus-4-1", "claude-opus-4-1@20250805", "0.0225"),
    ],
)
def test_models_before_sonnet_4_5_cost_the_same_in_every_region_of_vertex(model: str, wire_id: str, usd: str) -> None:
    for region in ("us-east5", "europe-west1", "global"):
        found = BOOK.price("vertex", model, wire_id, region, NOW, Usage(1000, 100))
        assert (found.cost_usd, found.multipliers, found.estimated) == (Decimal(usd), {}, False), found.note


def test_no_model_has_prices_for_prompts_that_its_window_does_not_hold() -> None:
    """Sonnet 4.5 had them while a beta gave it a window of a million, until 2026-04-30."""
    for provider, model, wire_id, region in WIRES:
        entry = next(one for one in MODELS if one.id == model)
        tariff = BOOK.tariff(provider, model, wire_id, region, NOW)
        assert all(tier.above < entry.context_window for tier in tariff.tiers), wire_id
    sonnet: Wire = ("anthropic", "claude-sonnet-4-5", "claude-sonnet-4-5-20250929", None)
    assert cost(BOOK.price(*sonnet, NOW, Usage(300_000, 100))) == Decimal("0.9015")  # 3 and 15, not 6 and 22.50
    assert cost(BOOK.price(*sonnet, datetime(2026, 4, 30, tzinfo=UTC), Usage(300_000, 100))) == Decimal("0.9015")
    assert cost(BOOK.price(*sonnet, datetime(2026, 4, 29, tzinfo=UTC), Usage(300_000, 100))) == Decimal("1.80225")


def test_claude_platform_on_aws_has_anthropics_prices_and_geographies() -> None:
    wire: DatedWire = ("bedrock", "claude-opus-5-5", "claude-opus-5-5", "us-east-1", NOW)
    plain, in_us = BOOK.price(*wire, Usage(1000, 100)), BOOK.price(*wire, Usage(1000, 100, inference_geo="us"))
    assert (plain.cost_usd, plain.multipliers, plain.estimated) == (Decimal("0.006"), {}, False)
    assert (in_us.cost_usd, in_us.multipliers, in_us.estimated) == (Decimal("0.0066"), IN_US, False)
    assert BOOK.price(*wire, Usage(1000, inference_geo="eu")).estimated


def test_models_before_the_geographies_have_no_price_for_them() -> None:
    found = BOOK.price("anthropic", "claude-haiku-4-5", "claude-haiku-4-5", None, NOW, Usage(1000, inference_geo="us"))
    assert (found.cost_usd, found.estimated) == (Decimal("0.001"), True)


def test_a_geo_profile_the_list_does_not_name_is_an_estimate_by_the_rule() -> None:
    priced = BOOK.price(
        "bedrock", "claude-fable-5-1", "jp.anthropic.claude-fable-5-1", "ap-northeast-1", NOW, Usage(1000)
    )
    assert priced.cost_usd == Decimal("0.011")
    assert priced.multipliers == {"regional": "1.1"}
    assert priced.estimated


@pytest.mark.parametrize(
    ("model", "at", "factor", "by_rule", "estimated"),
    [
        ("claude-opus-5-5", NOW, 2, False, False),
        ("claude-fable-5-2", NOW, 2, False, False),
        ("claude-opus-4-8", NOW, 2, False, False),
        ("claude-opus-4-6", datetime(2026, 4, 2, tzinfo=UTC), 6, True, False),
        ("claude-opus-4-7", datetime(2026, 5, 2, tzinfo=UTC), 6, True, True),
        ("claude-haiku-5-5", NOW, 2, True, True),
    ],
)
def test_fast_mode(model: str, at: datetime, factor: int, by_rule: bool, estimated: bool) -> None:
    plain = BOOK.price("anthropic", model, model, None, at, Usage(1000, 100, 50, speed="standard"))
    fast = BOOK.price("anthropic", model, model, None, at, Usage(1000, 100, 50, speed="fast"))
    assert cost(fast) == cost(plain) * factor
    assert fast.multipliers == ({"fast": str(factor)} if by_rule else {})
    assert fast.estimated == estimated


def test_a_fast_answer_of_a_wire_without_fast_prices_says_so() -> None:
    priced = BOOK.price(
        "bedrock", "claude-opus-5-5", "us.anthropic.claude-opus-5-5", "us-east-1", NOW, Usage(9, speed="fast")
    )
    assert priced.estimated
    assert "fast" in priced.note


def test_the_day_is_counted_in_utc() -> None:
    usage = Usage(300_000, 10)  # Opus 4.6 lost its long-context premium on 2026-03-13
    late = datetime(2026, 3, 12, 23, 30, tzinfo=UTC)
    east = late.astimezone(timezone(timedelta(hours=9)))
    assert east.day == 13
    for provider, wire_id, region in (("anthropic", "claude-opus-4-6", None), ("vertex", "claude-opus-4-6", "global")):
        before = [cost(BOOK.price(provider, "claude-opus-4-6", wire_id, region, at, usage)) for at in (late, east)]  # type: ignore[arg-type]
        naive = cost(BOOK.price(provider, "claude-opus-4-6", wire_id, region, late.replace(tzinfo=None), usage))  # type: ignore[arg-type]
        after = cost(BOOK.price(provider, "claude-opus-4-6", wire_id, region, late + timedelta(hours=1), usage))  # type: ignore[arg-type]
        assert {*before, naive} == {Decimal("3.000375")}  # 300,000 x 10 + 10 x 37.5
        assert after == Decimal("1.50025")  # 300,000 x 5 + 10 x 25


ACCOUNT = "arn:aws:bedrock:us-east-1:123456789012"


@pytest.mark.parametrize(
    ("wire_id", "usd", "estimated"),
    [
        (f"{ACCOUNT}:inference-profile/global.anthropic.claude-sonnet-5-5", "0.002", False),
        (f"{ACCOUNT}:inference-profile/us.anthropic.claude-sonnet-5-5", "0.0022", False),
        ("arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-sonnet-5-5", "0.0022", False),
        ("global.anthropic.claude-sonnet-5-5-v1:0", "0.002", False),
        (f"{ACCOUNT}:application-inference-profile/k3j2h1", "0.0022", True),
        ("my-alias", "0.0022", True),
    ],
)
def test_ids_and_arns_of_bedrock(wire_id: str, usd: str, estimated: bool) -> None:
    priced = BOOK.price("bedrock", "claude-sonnet-5-5", wire_id, "us-east-1", NOW, Usage(1000))
    assert priced.cost_usd == Decimal(usd)
    assert priced.estimated == estimated
    assert bool(priced.note) == estimated


@pytest.mark.parametrize(
    ("provider", "model", "wire_id"),
    [
        ("anthropic", "claude-next-9", "claude-next-9"),
        ("bedrock", "claude-next-9", f"{ACCOUNT}:application-inference-profile/k3j2h1"),
        ("vertex", "claude-next-9", "claude-next-9@20270101"),
        # the lists match by fragments: these must not be taken for an Opus 4.5, a Sonnet 5.5, a Haiku 4.5
        ("anthropic", "claude-opus-4-55", "claude-opus-4-55"),
        ("vertex", "claude-sonnet-5-5-ultra", "claude-sonnet-5-5-ultra"),
        ("bedrock", "claude-opus-4-55", "global.anthropic.claude-opus-4-55"),
        ("anthropic", "claude-mythos-preview", "claude-mythos-preview"),
        ("bedrock", "claude-sonnet-5-5", f"{ACCOUNT}:provisioned-model/abcd"),  # by the hour
    ],
)
def test_what_no_list_knows_is_unpriced_and_says_so(provider: Provider, model: str, wire_id: str) -> None:
    priced = BOOK.price(provider, model, wire_id, "us-east-1", NOW, Usage(1000, 10))
    assert priced.cost_usd is None
    assert priced.note
    assert priced.version == BOOK.version
    assert BOOK.tariff(provider, model, wire_id, "us-east-1", NOW).tiers == ()


def test_an_unknown_id_is_priced_by_its_model() -> None:
    priced = BOOK.price("anthropic", "claude-haiku-4-5", "internal-alias", None, NOW, Usage(1000))
    assert (priced.cost_usd, priced.estimated) == (Decimal("0.001"), True)
    priced = BOOK.price("vertex", "claude-haiku-4-5", "internal-alias", "global", NOW, Usage(1000))
    assert (priced.cost_usd, priced.estimated) == (Decimal("0.001"), True)


def test_kinds_the_list_has_no_price_for() -> None:
    # aws has no one-hour price for Opus 4.1: twice the input price of 15
    old = BOOK.price("bedrock", "claude-opus-4-1", "us.anthropic.claude-opus-4-1-20250805-v1:0", "us-east-1", NOW,
                     Usage(cache_write_1h_tokens=1000))  # fmt: skip
    assert (old.cost_usd, old.estimated) == (Decimal("0.03"), True)
    # google has no search price for Sonnet 5.5
    search = BOOK.price("vertex", "claude-sonnet-5-5", "claude-sonnet-5-5", "global", NOW, Usage(1000, web_searches=2))
    assert (search.cost_usd, search.estimated) == (Decimal("0.022"), True)
    # and what is not used is not guessed
    assert not BOOK.price("vertex", "claude-sonnet-5-5", "claude-sonnet-5-5", "global", NOW, Usage(1000)).estimated


@pytest.mark.parametrize(
    "usage",
    [
        Usage(10, service_tier="priority"),
        Usage(10, speed="ludicrous"),
        Usage(10, inference_geo="eu"),
    ],
)
def test_ways_of_processing_nobody_has_a_price_for_are_estimates(usage: Usage) -> None:
    priced = BOOK.price("anthropic", "claude-sonnet-5-5", "claude-sonnet-5-5", None, NOW, usage)
    assert (priced.cost_usd, priced.estimated) == (Decimal("0.00002"), True)


@pytest.mark.parametrize("kind", ["input_tokens", "output_tokens", "cache_read_tokens", "cache_write_1h_tokens"])
def test_a_negative_count_is_unpriced(kind: str) -> None:
    priced = BOOK.price("anthropic", "claude-sonnet-5-5", "claude-sonnet-5-5", None, NOW, Usage(**{kind: -1}))  # type: ignore[arg-type]
    assert priced.cost_usd is None
    assert "negative" in priced.note


def test_twelve_decimals_hold_every_cost_and_eleven_every_token() -> None:
    finest = set[int]()
    for provider, model, wire_id, _ in LISTED:
        for region in ("global", "us-east5"):
            for geo in (None, "us"):
                for processing in ("online", "batch"):
                    for usage in (Usage(1), Usage(0, 1), Usage(0, 0, 1), Usage(0, 0, 0, 1), Usage(0, 0, 0, 0, 1)):
                        used = Usage(**{**{s: getattr(usage, s) for s in Usage.__slots__}, "inference_geo": geo})
                        price = cost(BOOK.price(provider, model, wire_id, region, NOW, used, processing))
                        assert price.as_tuple().exponent == -12
                        finest.add(int(price.normalize().as_tuple().exponent))
    assert min(finest) == -11


def test_the_cost_does_not_depend_on_the_threads_decimal_context() -> None:
    usage = Usage(123_457, 7_919, 1_000_003)
    expected = BOOK.price("anthropic", "claude-haiku-5-5", "claude-haiku-5-5", None, NOW, usage)
    with localcontext() as context:
        context.prec = 3
        again = PriceBook().price("anthropic", "claude-haiku-5-5", "claude-haiku-5-5", None, NOW, usage)
    assert again == expected
    # 123,457 x 0.5 + 7,919 x 2.5 + 1,000,003 x 0.05
    assert expected.cost_usd == Decimal("0.13152615")


def test_a_record_can_be_priced_again_from_what_it_stores() -> None:
    usage = Usage(1200, 340, 5000, 100, 60)
    priced = BOOK.price("vertex", "claude-haiku-5-5", "claude-haiku-5-5", "us-east5", NOW, usage, "batch")
    listed = {kind: Decimal(price) for kind, price in priced.list_price.items()}
    tokens = (
        1200 * listed["input"]
        + 340 * listed["output"]
        + 5000 * listed["cache_read"]
        + 100 * listed["cache_write_5m"]
        + 60 * listed["cache_write_1h"]
    )
    factor = Decimal(1)
    for value in priced.multipliers.values():
        factor *= Decimal(value)
    assert priced.cost_usd == tokens * factor / 1_000_000
    assert set(priced.multipliers) == {"regional", "batch"}
    assert priced.version == f"genai-prices {genai_prices.__version__} + rules {RULES_VERSION}"


def test_list_prices_are_those_of_the_tier() -> None:
    book = [BOOK.price("anthropic", "claude-haiku-5-5", "claude-haiku-5-5", None, NOW, Usage(n)) for n in (5, 200_000)]
    assert [priced.list_price["output"] for priced in book] == ["0.5", "2.5"]


def test_zero_tokens_cost_nothing_and_that_is_a_price() -> None:
    assert BOOK.price("anthropic", "claude-sonnet-5-5", "claude-sonnet-5-5", None, NOW, Usage()).cost_usd == 0


def test_every_rule_names_its_source_and_day() -> None:
    for rule in RULES:
        assert rule.source
        assert rule.since.isoformat() <= RULES_VERSION
        assert 0 < rule.factor < 10


# --- prices of tokens, for reckoning ahead


@settings(deadline=None)
@given(st.sampled_from(LISTED), st.integers(0, 300_000), st.integers(0, 10_000), st.integers(0, 300_000))
def test_a_tariff_says_what_a_call_is_priced_by(wire: Wire, fresh: int, answer: int, read: int) -> None:
    provider, model, name, region = wire
    tariff = BOOK.tariff(provider, model, name, region, NOW)
    tier = next(one for one in tariff.tiers if fresh + read > one.above)
    usage = Usage(input_tokens=fresh, output_tokens=answer, cache_read_tokens=read)
    with localcontext(prec=60):
        by_tariff = fresh * tier.input + answer * tier.output + read * tier.cache_read
    assert by_tariff == cost(BOOK.price(provider, model, name, region, NOW, usage))


def test_a_tariff_without_a_price_says_why() -> None:
    tariff = BOOK.tariff("anthropic", "claude-mythos-preview", "claude-mythos-preview", None, NOW)
    assert tariff.tiers == ()
    assert "no list has a price" in tariff.note
