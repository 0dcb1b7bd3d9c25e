"""Negotiated prices of a route: settings, the price of calls, and what is decided by it."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.builders import MODEL, route

from trivet_routing.route_choice import Requirements, choose
from trivet_tasks.config.route_prices import RoutePrice
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import load_settings
from trivet_tasks.errors import ConfigError
from trivet_tasks.latency import DEFAULTS, Latency
from trivet_tasks.outcomes import Usage, UsagePart
from trivet_tasks.prices import price_records
from trivet_tasks.prices.cost_model import CostModel, Mix
from trivet_tasks.prices.price_book import PriceBook, Priced

D = Decimal
BOOK = PriceBook()
SONNET, HAIKU = "claude-sonnet-5-5", "claude-haiku-5-5"
MOMENT = datetime(2026, 11, 30, 12, tzinfo=UTC)
MILLION = 1_000_000


def prices(*lines: dict[str, Any]) -> tuple[RoutePrice, ...]:
    return RouteSettings.model_validate({"provider": "bedrock", "prices": lines}).prices


def priced(usage: Usage, *lines: dict[str, Any], model: str = SONNET, at: datetime = MOMENT) -> Priced:
    return BOOK.price("anthropic", model, model, None, at, usage, prices=prices(*lines))


OFF = {"from": "2026-11-01", "factor": "0.85"}
FIXED = {"from": "2026-11-01", "usd": {"input": 1, "output": 8}}


def test_a_factor_applies_to_tokens_and_the_list_price_is_kept_beside() -> None:
    usage = Usage(10_000, 1_000, web_searches=2)  # 0.02 + 0.01 for tokens, 0.02 for searches
    found = priced(usage, OFF)
    assert (found.cost_usd, found.list_usd) == (D("0.0455"), D("0.05"))
    assert (found.list_price["input"], found.negotiated_price["input"]) == ("2", "1.7")
    assert not found.estimated
    plain = priced(usage)
    assert (plain.cost_usd, plain.list_usd, plain.negotiated_price, plain.contract) == (D("0.05"), None, {}, None)


def test_named_prices_take_the_place_of_list_and_regional_surcharge() -> None:
    usage = Usage(1_000, 1_000, 1_000, 1_000, 1_000)
    found = BOOK.price("vertex", SONNET, SONNET, "us-east5", MOMENT, usage, prices=prices(FIXED))
    # input 1, output 8, read 0.1, written 1.25 and 2, a million
    assert found.cost_usd == D("0.01235")
    listed = BOOK.price("vertex", SONNET, SONNET, "us-east5", MOMENT, usage)
    assert found.list_usd == listed.cost_usd
    assert (found.list_price, found.multipliers) == (listed.list_price, listed.multipliers)
    assert found.negotiated_price == {
        "input": "1", "output": "8", "cache_read": "0.1", "cache_write_5m": "1.25", "cache_write_1h": "2"
    }  # fmt: skip
    in_us = priced(Usage(MILLION, 0, inference_geo="us"), FIXED)
    assert in_us.cost_usd == D("1.1")
    fast = Usage(1_000, 0, speed="fast")
    assert priced(fast, FIXED, model="claude-opus-5").cost_usd == priced(fast, model="claude-opus-5").cost_usd


def test_the_price_that_began_last_counts_for_the_model_that_answered() -> None:
    lines = (
        {"from": "2026-11-01", "factor": 0.9}, {"from": "2026-11-30", "factor": 0.5, "model": "claude-haiku-*"},
        {"from": "2026-12-01", "factor": 0.1},
    )  # fmt: skip
    usage = Usage(MILLION, 0)
    at_list = {model: priced(usage, model=model).cost_usd or D(0) for model in (SONNET, HAIKU)}
    assert priced(usage, *lines).cost_usd == at_list[SONNET] * D("0.9")
    assert priced(usage, *lines, model=HAIKU).cost_usd == at_list[HAIKU] * D("0.5")
    before = datetime(2026, 10, 31, 23, 59, tzinfo=UTC)
    assert priced(usage, *lines, at=before).contract is None
    after = datetime(2026, 12, 1, tzinfo=UTC)
    assert priced(usage, *lines, model=HAIKU, at=after).cost_usd == at_list[HAIKU] * D("0.1")
    answered = priced(Usage(MILLION, 0, model=HAIKU), *lines)
    assert answered.cost_usd == at_list[HAIKU] * D("0.5")


def test_a_model_that_no_list_knows_has_the_named_price() -> None:
    found = priced(Usage(MILLION, 0), FIXED, model="claude-next-9")
    assert (found.cost_usd, found.list_usd, found.list_price, found.note) == (D(1), None, {}, "")
    assert priced(Usage(MILLION, 0), OFF, model="claude-next-9").cost_usd is None


def test_passes_are_summed_and_each_keeps_its_price() -> None:
    usage = Usage(
        20_000, 0, parts=(UsagePart("message", None, 10_000), UsagePart("advisor_message", HAIKU, 10_000))
    )  # fmt: skip
    found, listed = priced(usage, OFF | {"model": "claude-sonnet-*"}), priced(usage)
    assert (found.cost_usd, found.list_usd) == ((listed.cost_usd or D(0)) - D("0.003"), listed.cost_usd)
    record = price_records.record_of(found, None, usage)
    assert (record.list_price, record.negotiated_price) == (None, None)
    assert record.price_parts is not None
    negotiated = [part.negotiated_price.get("input") for part in price_records.read_priced_parts(record.price_parts)]
    assert negotiated == ["1.7", None]


def test_costs_are_rounded_to_the_digits_of_the_ledger() -> None:
    found = priced(Usage(1, 0), {"from": "2026-11-01", "factor": "0.123456789"})
    assert found.cost_usd == D("0.000000246914"), "0.000000246913578"


def test_the_row_tells_the_contract() -> None:
    usage = Usage(10, 5)
    record = price_records.record_of(priced(usage, FIXED), None, usage)
    contract = price_records.read_terms(record.price_terms).contract
    assert contract is not None
    assert (RoutePrice.model_validate_json(contract),) == prices(FIXED)


def test_the_order_by_cost_and_the_maximum_follow_it() -> None:
    costs, at = CostModel(), MOMENT.timestamp()
    plain = RouteSettings(provider="anthropic")
    cheap = RouteSettings.model_validate({"provider": "anthropic", "prices": [OFF]})
    mix = Mix(1_000, 1_000)
    dearer, cheaper = (
        route(name, cost=costs.expected(settings, SONNET, SONNET, at)) for name, settings in (("a", plain), ("b", cheap))
    )  # fmt: skip
    ordered = choose(Requirements(MODEL, Latency.BATCH, mix=mix), (dearer, cheaper), DEFAULTS[Latency.BATCH])
    assert [one.name for one in ordered.routes] == ["b", "a"]
    most, less = (costs.maximum(one, SONNET, SONNET, at, 1_000, 1_000) for one in (plain, cheap))
    assert (most, less) == (D("0.012"), D("0.0102"))
    assert costs.tariff(cheap, SONNET, SONNET, at).tiers[-1].cache_read == D("0.85") * (
        costs.tariff(plain, SONNET, SONNET, at).tiers[-1].cache_read
    )


HEAD = "[routes.r]\nprovider = 'anthropic'\n[[routes.r.prices]]\n"


def test_prices_are_figures_of_a_route_and_read_back_the_same(tmp_path: Path) -> None:
    file = tmp_path / "trivet.toml"
    file.write_text(
        f"{HEAD}from = 2026-11-01\nfactor = 0.85\n[[routes.r.prices]]\nfrom = 2026-12-01\nmodel = 'claude-haiku-*'\n"
        "usd = { input = 0.8, output = 4 }\n",
        encoding="utf-8",
    )
    settings = load_settings(file).routes["r"]
    kept = settings.operational()
    assert kept["prices"][0] == {"from": "2026-11-01", "factor": "0.85"}
    again = RouteSettings.model_validate({"provider": "anthropic", **kept})
    assert again.prices == settings.prices
    assert again.operational_digest == settings.operational_digest
    assert again.place_digest == RouteSettings(provider="anthropic").place_digest


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ("factor = 0.85", "[routes.r.prices.0] from: field required"),
        ("from = 2026-11-01", "needs either factor (e.g. factor = 0.85) or usd"),
        ("from = 2026-11-01\nfactor = 1\nusd = { input = 1, output = 2 }", "needs either factor"),
        ("from = 2026-11-01\nfactor = -1", "[routes.r.prices.0] factor: input should be greater than or equal to 0"),
        ("from = 2026-11-01\nfacter = 1", "facter: unknown key. Did you mean factor?"),
        ("from = 2026-11-01\nusd = { input = 1 }", "usd] output: field required"),
        ("from = 2026-11-01\nusd = { input = 1, output = 2, cache_raed = 1 }", "Did you mean cache_read?"),
        ("from = 'soon'\nfactor = 1", "[routes.r.prices.0] from: input should be a valid date"),
        ("from = 2026-11-01\nfactor = 1\n[[routes.r.prices]]\nfrom = 2026-11-01\nfactor = 2", "two prices of * begin on 2026-11-01"),
    ],
)  # fmt: skip
def test_a_wrong_price_is_named(tmp_path: Path, lines: str, error: str) -> None:
    file = tmp_path / "trivet.toml"
    file.write_text(HEAD + lines, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_settings(file)
    assert error in str(caught.value)
