"""The cost model: expected costs, by which routes are ordered, and maximum costs, which budgets reserve."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import MODEL, breaker, pace, route

from trivet_routing.route_choice import Candidate, Requirements, choose, load_of
from trivet_routing.route_directory import ENOUGH_CALLS, USUAL_SHARE, AnswerLengths
from trivet_store.database.engine import Store
from trivet_store.reports.attempts import UsedOutput
from trivet_tasks.catalog import MODELS, Model
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.latency import DEFAULTS, Latency
from trivet_tasks.outcomes import Usage
from trivet_tasks.prices.cost_model import CallCost, CostModel, Mix
from trivet_tasks.prices.price_book import TokenPrices
from trivet_tasks.requests.prompt_cache import CacheWrite

MOMENT = datetime(2026, 11, 20, tzinfo=UTC)
TODAY = MOMENT.timestamp()
COSTS = CostModel()
BY_COST = DEFAULTS[Latency.BATCH]
INPUT_HEAVY = Mix(20_000, 100)
OUTPUT_HEAVY = Mix(200, 4_000)
NO_CACHE = (Decimal(0),) * 3


def usd(per_million: str) -> Decimal:
    return Decimal(per_million).scaleb(-6)


def price(incoming: str, outgoing: str, **hidden: Decimal) -> CallCost:
    return CallCost((TokenPrices(0, usd(incoming), usd(outgoing), *NO_CACHE),), **hidden)


def order(mix: Mix, *routes: Candidate) -> list[str]:
    return [one.name for one in choose(Requirements(MODEL, Latency.BATCH, mix=mix), routes, BY_COST).routes]


def test_flows_of_different_mixes_choose_different_routes() -> None:
    cheap_in, cheap_out = route("in", cost=price("2", "30")), route("out", cost=price("4", "10"))
    assert order(INPUT_HEAVY, cheap_in, cheap_out) == ["in", "out"], "0.043 against 0.081"
    assert order(OUTPUT_HEAVY, cheap_in, cheap_out) == ["out", "in"], "0.0408 against 0.1204"


def test_what_a_request_costs_beside_tokens_decides_for_small_calls_alone() -> None:
    plain, gateway = (
        route("plain", cost=price("3", "15")),
        route("gateway", cost=price("2", "10", per_call=usd("5000"))),
    )
    assert order(Mix(100, 100), plain, gateway) == ["plain", "gateway"], "0.0018 against 0.0062"
    assert order(Mix(5_000, 1_000), plain, gateway) == ["gateway", "plain"], "0.030 against 0.025"


def test_data_sent_counts_by_the_bytes_of_the_input() -> None:
    settings = RouteSettings.model_validate({"provider": "anthropic", "costs": {"per_gb_out_usd": "2000"}})
    cost = CostModel().expected(settings, "claude-sonnet-4-5", "claude-sonnet-4-5", TODAY)
    assert cost is not None
    assert cost.of(Mix(1_000_000, 0)) - replace(cost, per_input_token=Decimal(0)).of(Mix(1_000_000, 0)) == Decimal(7)


def test_what_is_fixed_by_the_month_does_not_decide() -> None:
    fixed = RouteSettings.model_validate({"provider": "anthropic", "costs": {"per_month_usd": "9999"}})
    plain = RouteSettings.model_validate({"provider": "anthropic"})
    costs = CostModel()
    assert costs.expected(fixed, MODEL, MODEL, TODAY) == costs.expected(plain, MODEL, MODEL, TODAY)


def test_a_discount_is_on_the_provider_s_price_alone() -> None:
    cost = price("3", "15", per_call=Decimal(1), factor=Decimal("0.5"))
    assert cost.of(Mix(1_000_000, 1_000_000)) == Decimal(10)


def test_long_prompts_have_the_price_of_their_tier() -> None:
    tiers = (TokenPrices(100, usd("6"), usd("20"), *NO_CACHE), TokenPrices(0, usd("3"), usd("15"), *NO_CACHE))
    assert CallCost(tiers).of(Mix(100, 10)) == usd("450")
    assert CallCost(tiers).of(Mix(101, 10)) == usd("806")


def test_the_price_is_the_provider_s_for_the_region() -> None:
    costs = CostModel()
    sonnet = "claude-sonnet-4-5"
    regional = costs.expected(RouteSettings(provider="vertex", region="us-east5"), sonnet, sonnet, TODAY)
    everywhere = costs.expected(RouteSettings(provider="vertex", region="global"), sonnet, sonnet, TODAY)
    assert regional is not None
    assert everywhere is not None
    assert everywhere.of(Mix(200_000, 0)) == Decimal("0.6"), "no tier for prompts longer than its window"
    assert everywhere.of(Mix(1_000, 1_000)) == Decimal("0.018")
    assert regional.of(Mix(1_000, 1_000)) == Decimal("0.0198")


def test_the_price_is_that_of_the_day() -> None:
    """Opus 4.6 lost its premium for long prompts on 2026-03-13."""
    costs, settings, opus = CostModel(), RouteSettings(provider="anthropic"), "claude-opus-4-6"
    days = [datetime(2026, 3, day, 12, tzinfo=UTC).timestamp() for day in (12, 13)]
    found = [costs.expected(settings, opus, opus, day) for day in days]
    assert [cost and cost.of(Mix(300_000, 0)) for cost in found] == [Decimal(3), Decimal("1.5")]


def test_the_maximum_is_the_price_of_an_uncached_call() -> None:
    costs, sonnet, haiku = CostModel(), "claude-sonnet-5-5", "claude-haiku-5-5"
    first_party, vertex = RouteSettings(provider="anthropic"), RouteSettings(provider="vertex", region="us")
    assert costs.maximum(first_party, sonnet, sonnet, TODAY, 6_000_000, 0) == 12
    assert costs.maximum(vertex, haiku, haiku, TODAY, 200_000, 0) == Decimal("0.11")
    assert costs.maximum(first_party, "claude-next-9", "claude-next-9", TODAY, 1_000, 10) is None


@pytest.mark.parametrize(("cache_write", "factor"), [("", "1"), ("5m", "1.25"), ("1h", "2")])
def test_what_writes_to_the_prompt_cache_may_cost_more(cache_write: CacheWrite, factor: str) -> None:
    costs, sonnet, route = CostModel(), "claude-sonnet-5-5", RouteSettings(provider="anthropic")
    plain = costs.maximum(route, sonnet, sonnet, TODAY, 1_000, 100)
    assert plain is not None
    assert costs.maximum(route, sonnet, sonnet, TODAY, 1_000, 100, cache_write) == plain * Decimal(factor)


def test_without_a_price_list_nothing_has_a_price() -> None:
    costs, route = CostModel(), RouteSettings(provider="anthropic")
    costs.known = False
    assert costs.expected(route, MODEL, MODEL, TODAY) is None
    assert costs.maximum(route, MODEL, MODEL, TODAY, 1_000, 10) is None


@settings(deadline=None)
@given(st.sampled_from(MODELS), st.integers(0, 1_000_000), st.integers(0, 100_000))
def test_the_maximum_is_exactly_the_price_of_such_a_call(model: Model, tokens: int, output: int) -> None:
    found = COSTS.maximum(RouteSettings(provider="anthropic"), model.id, model.id, TODAY, tokens, output)
    priced = COSTS.book.price("anthropic", model.id, model.id, None, MOMENT, Usage(tokens, output))
    assert found == priced.cost_usd


def test_ties_go_to_latency_and_then_to_weight() -> None:
    def at(p50_s: float, in_flight: int = 0) -> Any:
        return breaker(paces={Latency.BATCH: pace(p50_s)}, in_flight=in_flight)

    slow, quick = route("slow", cost="1.00", at=at(2)), route("quick", cost="1.015", at=at(1))
    assert order(INPUT_HEAVY, slow, quick) == ["quick", "slow"], "1.5 % dearer is no dearer"
    dear = route("dear", cost="1.03", at=at(0.1))
    assert order(INPUT_HEAVY, dear, slow, quick) == ["quick", "slow", "dear"]
    unknown = route("unknown", cost="1")
    assert order(INPUT_HEAVY, slow, unknown, quick)[2] == "slow", "what nothing is known of is tried"
    heavy = route("heavy", cost="1.00", at=at(1.2, 6), weight=3)
    choice = choose(Requirements(MODEL, Latency.BATCH), [route("light", cost="1", at=at(1.0, 3)), heavy], BY_COST)
    assert choice.levels == (0, 0)
    best = choice.best(load_of)
    assert best is not None
    assert best.name == "heavy", "twice the load on thrice the weight"


def test_the_least_laden_of_equally_quick_routes_is_the_quicker() -> None:
    full = breaker(paces={Latency.BATCH: pace(1)}, in_flight=150)
    idle = breaker(paces={Latency.BATCH: pace(1.2)}, in_flight=0)
    assert order(INPUT_HEAVY, route("full", at=full, weight=1000), route("idle", at=idle)) == ["idle", "full"]


prices = st.integers(1, 50).map(str)


@given(
    st.lists(st.tuples(prices, prices, st.integers(0, 20_000)), min_size=2, max_size=5),
    st.integers(1, 10**6),
    st.integers(1, 10**5),
)
def test_the_first_is_within_a_step_of_the_cheapest(
    rates: list[tuple[str, str, int]], incoming: int, outgoing: int
) -> None:  # fmt: skip
    routes = [route(str(n), cost=price(i, o, per_call=usd(str(hidden)))) for n, (i, o, hidden) in enumerate(rates)]
    mix = Mix(incoming, outgoing)
    costs = {one.name: one.cost.of(mix) for one in routes if one.cost}
    first = order(mix, *routes)
    assert costs[first[0]] < min(costs.values()) * Decimal("1.02001")


# how long answers are


def used(flow: int, calls: int, share: float, model: str = MODEL, latency: str = "batch") -> UsedOutput:
    return UsedOutput(flow, model, latency, calls, round(calls * 1_000 * share), calls * 1_000)


def test_answers_are_expected_as_long_as_the_latest_of_their_kind() -> None:
    lengths = AnswerLengths(cast("Store", None))
    assert lengths.share(MODEL, Latency.BATCH, 1) == USUAL_SHARE
    lengths.learn([used(1, ENOUGH_CALLS, 0.1), used(2, ENOUGH_CALLS - 1, 0.9), used(3, 40, 0.4, latency="async")])
    assert lengths.share(MODEL, Latency.BATCH, 1) == pytest.approx(0.1)
    both = (20 * 0.1 + 19 * 0.9) / 39
    assert lengths.share(MODEL, Latency.BATCH, 2) == pytest.approx(both, abs=0.001), "too few of its own"
    assert lengths.share(MODEL, Latency.BATCH) == pytest.approx(both, abs=0.001)
    of_model = (20 * 0.1 + 19 * 0.9 + 40 * 0.4) / 79
    assert lengths.share(MODEL, Latency.DEFERRED, 9) == pytest.approx(of_model, abs=0.001)
    assert lengths.share("another", Latency.BATCH, 9) == USUAL_SHARE
    lengths.learn([])
    assert lengths.share(MODEL, Latency.BATCH, 1) == pytest.approx(0.1), "remembered"
