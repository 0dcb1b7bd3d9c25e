"""The arithmetic of a plan, against figures worked out by hand from prices that stand here."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trivet.plan.outlook import Obstacle, Outlook, outlook
from trivet.plan.terms import Charge, Per, Scenario, Terms, by_default, declared, divided, mixed, spread
from trivet.plan.workload import Load, Workload, WorkloadCounter, volume
from trivet_routing.route_choice import Requirements
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.errors import InvalidRequest
from trivet_tasks.jobs import JobSpec
from trivet_tasks.latency import Latency
from trivet_tasks.prices.price_book import Tariff, TokenPrices

D = Decimal
MODEL = "claude-sonnet-4-6"  # 55 output tokens a second by the table of models
PLAIN = Tariff((TokenPrices(-1, D("0.000003"), D("0.000015"), D("0.0000003"), D("0.00000375"), D("0.000006")),))
DEARER = Tariff((TokenPrices(-1, D("0.0000033"), D("0.0000165"), D("0.00000033"), D("0.000004125"), D("0.0000066")),))
BY_LENGTH = Tariff(
    (
        TokenPrices(100_000, D("0.0000005"), D("0.0000025"), D("0.00000005"), D("0.000000625"), D("0.000001")),
        TokenPrices(-1, D("0.0000001"), D("0.0000005"), D("0.00000001"), D("0.000000125"), D("0.0000002")),
    )
)
NO_PRICE = Tariff((), "no list has one")


def route(provider: str = "anthropic", **more: Any) -> RouteSettings:
    place = {} if provider == "anthropic" else {"region": "us-east-1"}
    return RouteSettings(provider=provider, **place, **more)  # type: ignore[arg-type]


def terms(routes: dict[str, RouteSettings], *charges: Charge, **more: Any) -> Terms:
    tariffs = {"dearer": DEARER, "by_length": BY_LENGTH, "unpriced": NO_PRICE}
    return Terms(routes, lambda name, _: tariffs.get(name, PLAIN), charges=(*declared(routes), *charges), **more)


def whole(name: str) -> Scenario:
    return Scenario(name, {name: D(1)})


def day(tokens: int = 10_000_000, per_call: int | None = 2_000, **more: Any) -> Workload:
    return volume(
        MODEL,
        D(tokens),
        input_share=D("0.6"),
        tokens_per_call=None if per_call is None else D(per_call),
        bytes_per_token=D("3.5"),
        **more,
    )


def reckoned(scenario: Scenario, work: Workload, given: Terms) -> Outlook:
    found = outlook(scenario, work.loads, given)
    assert isinstance(found, Outlook), found
    return found


def job(input_estimate: int, max_tokens: int, **more: Any) -> JobSpec:
    body = b"x" * more.pop("size", 10)
    return JobSpec(more.pop("model", MODEL), Latency.BATCH, body, "0" * 32, input_estimate, max_tokens, **more)


# --- cost


def test_six_million_in_and_four_million_out_are_78_dollars_a_day() -> None:
    found = reckoned(whole("r"), day(), terms({"r": route()}))
    assert (found.input_usd, found.output_usd, found.day_usd) == (D(18), D(60), D(78))
    assert found.month_usd == 2_340
    assert found.calls == 5_000


def test_audit_logging_is_charged_by_calls_and_a_fixed_cost_by_the_month() -> None:
    audit = Charge("audit", Per.CALL, D(2), D(100_000))
    routes = {"r": route(costs={"per_month_usd": 21.90, "per_gb_out_usd": 0.01, "per_request_usd": 0.0001})}
    found = reckoned(whole("r"), day(), terms(routes, audit))
    days = {one.charge.name: one.day_usd for one in found.charged}
    # 5,000 calls; 6,000,000 tokens of 3.5 bytes are 0.021 GB
    assert days == {"audit": D("0.1"), "requests": D("0.5"), "data out": D("0.00021"), "fixed": D("0.73")}
    assert found.day_usd == D("79.33021")
    assert found.month_usd == 30 * D("78.60021") + D("21.90")


def test_what_does_not_divide_is_rounded_in_the_day_and_exact_in_the_month() -> None:
    found = reckoned(whole("r"), day(), terms({"r": route()}, Charge("endpoint", Per.MONTH, D(100))))
    assert found.charged[0].day_usd == D("3.333333333333")
    assert found.month_usd == 2_440


def test_a_mix_costs_its_shares_and_fixed_costs_whole_where_the_route_is_in_it() -> None:
    routes = {
        "r": route(costs={"per_month_usd": 30}),
        "dearer": route("vertex", costs={"per_request_usd": 0.01}),
        "x": route(),
    }
    mix = Scenario("mix", {"r": D("0.7"), "dearer": D("0.3")})
    found = reckoned(mix, day(), terms(routes))
    # 0.7 * 78 = 54.60; 0.3 * 85.80 = 25.74; 1,500 calls at a cent; 30 dollars a month
    assert found.day_usd == D("54.60") + D("25.74") + 15 + 1
    assert reckoned(whole("x"), day(), terms(routes)).day_usd == 78, "others' hidden costs are not its own"


def test_a_charge_named_for_a_route_counts_its_calls_alone() -> None:
    charge = Charge("gateway", Per.CALL, D(1), D(1000), route="b")
    mix = Scenario("mix", {"a": D("0.6"), "b": D("0.4")})
    found = reckoned(mix, day(), terms({"a": route(), "b": route()}, charge))
    assert [one.day_usd for one in found.charged] == [D(2)]


def test_cache_reads_have_their_own_price_and_count_against_no_input_limit() -> None:
    routes = {"r": route(input_tokens_per_minute=100_000)}
    found = reckoned(whole("r"), day(), terms(routes, cache_read_share=D("0.5")))
    assert found.input_usd == D("9.9")  # 3,000,000 at 3 and as many at 0.30 dollars per million
    bound = found.bound
    assert bound is not None
    assert (bound.limit, bound.seconds) == ("input tokens", D(30 * 60))


def test_long_prompts_have_the_prices_of_long_prompts() -> None:
    routes = {"by_length": route()}
    tally = WorkloadCounter(lambda _: (100_000,))
    for tokens in (100_000, 100_001, 5):
        tally.add(job(tokens, 10))
    found = reckoned(whole("by_length"), tally.workload(D(1)), terms(routes))
    assert found.input_usd == 100_005 * D("0.0000001") + 100_001 * D("0.0000005")
    assert found.output_usd == 20 * D("0.0000005") + 10 * D("0.0000025")
    long = volume(
        MODEL, D(400_000), input_share=D("0.5"), tokens_per_call=D(400_000), bytes_per_token=D(1), steps=(100_000,)
    )
    assert reckoned(whole("by_length"), long, terms(routes)).input_usd == D("0.1")


def test_a_charge_by_the_call_needs_to_know_the_calls() -> None:
    work = day(per_call=None)
    assert reckoned(whole("r"), work, terms({"r": route(costs={"per_gb_out_usd": 1})})).day_usd == D("78.021")
    with pytest.raises(InvalidRequest, match=r"requests of r: .*--tokens-per-call"):
        outlook(whole("r"), work.loads, terms({"r": route(costs={"per_request_usd": 1})}))


UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
shares = st.lists(st.integers(1, 100), min_size=1, max_size=4)
amounts = st.integers(1, 10**12)


@UNHURRIED
@given(shares, amounts, st.integers(1, 10**6), st.integers(0, 10**6), st.integers(1, 31))
def test_the_parts_are_the_whole_and_twice_the_volume_costs_twice(
    parts: list[int], tokens: int, per_call: int, micros: int, days: int
) -> None:
    names = [f"r{number}" for number in range(len(parts))]
    routes = {name: route(costs={"per_request_usd": D(micros) / 10**6, "per_month_usd": 7}) for name in names}
    scenario = Scenario("mix", spread({name: D(part) for name, part in zip(names, parts, strict=True)}))
    given = terms(routes, Charge("out", Per.GB_OUT, D("0.09")), days=D(days))
    one, two = (reckoned(scenario, day(tokens * times, per_call), given) for times in (1, 2))
    fixed = sum(some.day_usd for some in one.charged if some.charge.per is Per.MONTH)
    assert one.input_tokens + one.output_tokens == tokens
    assert one.input_usd == sum(part.input_usd for part in one.parts) == D(tokens) * D("0.6") * D("0.000003")
    assert one.output_usd == D(tokens) * D("0.4") * D("0.000015")
    assert one.day_usd == one.input_usd + one.output_usd + sum(some.day_usd for some in one.charged)
    assert one.month_usd - 7 * len(parts) == days * (one.day_usd - fixed)
    # quotients are rounded to a millionth of a millionth of a dollar, calls likewise
    assert abs((two.day_usd - fixed) - 2 * (one.day_usd - fixed)) <= D("1E-9")


@UNHURRIED
@given(st.lists(st.decimals("0.0001", 1_000, places=4), min_size=1, max_size=9))
def test_shares_sum_to_one_and_keep_their_proportions(weights: list[Decimal]) -> None:
    found = spread({str(number): weight for number, weight in enumerate(weights)})
    assert sum(found.values()) == 1
    for number, weight in enumerate(weights):
        assert abs(found[str(number)] - divided(weight, sum(weights, D(0)))) <= D("1E-11")


# --- where calls may go


def test_what_a_route_cannot_take_goes_to_the_others_of_the_mix() -> None:
    routes = {"us": route("bedrock", residency=["us"]), "dearer": route("vertex", residency=["us"]), "any": route()}
    tally = WorkloadCounter(lambda _: ())
    tally.add(job(1_000_000, 0))
    tally.add(job(1_000_000, 0, residency=("us",)))
    mix = Scenario("mix", {"us": D("0.2"), "dearer": D("0.2"), "any": D("0.6")})
    found = reckoned(mix, tally.workload(D(1)), terms(routes))
    by_route = {
        name: sum(part.input_tokens for part in found.parts if part.route == name) for name in ("us", "dearer", "any")
    }
    assert by_route == {"us": 700_000, "dearer": 700_000, "any": 600_000}
    assert found.detours == (f"1 call of {MODEL}: any lacks residency us",)
    lacking = outlook(whole("any"), tally.workload(D(1)).loads, terms(routes))
    assert lacking == Obstacle(f"1 call of {MODEL}: any lacks residency us")


def test_a_model_without_a_price_or_a_route_is_never_free() -> None:
    work = day()
    found = outlook(whole("unpriced"), work.loads, terms({"unpriced": route()}))
    assert found == Obstacle(f"no price is known for {MODEL} on unpriced: no list has one")
    mythos = (Load(Requirements("claude-mythos-5-1", Latency.BATCH), -1, D(1), D(1), D(1), D(1)),)
    found = outlook(whole("r"), mythos, terms({"r": route("vertex")}))
    assert found == Obstacle("1 call of claude-mythos-5-1: r does not serve claude-mythos-5-1")


def test_without_a_mix_each_route_stands_alone_and_all_of_them_by_weight() -> None:
    assert by_default({"a": route()}) == [whole("a")]
    even = by_default({name: route() for name in "abc"})
    assert [one.name for one in even] == ["a", "b", "c", "even mix"]
    assert even[-1].text == "33.33 % a, 33.33 % b, 33.33 % c"
    weighted = by_default({"a": route(weight=3), "b": route(weight=1)})[-1]
    assert (weighted.name, weighted.shares) == ("mix by weight", {"a": D("0.75"), "b": D("0.25")})


def test_mixes_are_named_and_checked() -> None:
    routes = {"alpha": route(), "beta": route()}
    half = {"alpha": D("0.5"), "beta": D("0.5")}
    assert [one.name for one in mixed([half], routes)] == ["mix"]
    assert [one.name for one in mixed([half, {"beta": D(1)}, half], routes)] == ["mix 1", "beta", "mix 2"]
    for bad, said in (
        ({"alhpa": D(1)}, "no route is called 'alhpa'. Did you mean alpha? Configured are alpha, beta."),
        ({"alpha": D("0.5"), "beta": D("0.4")}, "the shares sum to 0.9, not to 1."),
        ({"alpha": D(1), "beta": D(0)}, "the share of beta must be above 0."),
    ):
        with pytest.raises(InvalidRequest) as caught:
            mixed([bad], routes)
        assert said in str(caught.value)


# --- files


def test_a_file_counts_what_is_expected_and_at_most() -> None:
    tally = WorkloadCounter(lambda _: (), output_tokens=100)
    for number in range(10):
        tally.add(job(1_000, 50 if number < 4 else 400, size=200))
    work = tally.workload(D(3))
    (expected,) = work.loads
    assert (expected.calls, expected.input_tokens, expected.bytes_out) == (D(30), D(30_000), D(6_000))
    assert expected.output_tokens == 3 * (4 * 50 + 6 * 100)
    assert work.at_most is not None
    assert work.at_most[0].output_tokens == 3 * (4 * 50 + 6 * 400)


def test_a_share_of_max_tokens_is_exact_and_none_means_all() -> None:
    tally = WorkloadCounter(lambda _: ())
    tally.add(job(1, 333))
    assert tally.workload(D(1), D("0.3")).loads[0].output_tokens == D("99.9")
    assert tally.workload(D(1)).at_most is None
    assert tally.workload(D(1)).loads[0].output_tokens == 333


# --- time


@pytest.mark.parametrize(
    ("limits", "limit", "seconds"),
    [
        ({"requests_per_minute": 50}, "requests", 6_000),  # 5,000 calls
        ({"input_tokens_per_minute": 20_000}, "input tokens", 18_000),  # 6,000,000 tokens
        ({"output_tokens_per_minute": 20_000}, "output tokens", 12_000),  # 4,000,000 tokens
        ({"output_tokens_per_minute": 20_000, "output_token_factor": 5}, "output tokens", 60_000),
        # 4,000,000 tokens at 55 a second are 72,727.27 seconds of calls
        ({"max_concurrency": 10, "requests_per_minute": 5_000}, "calls in flight", D("7272.727272727273")),
        ({"max_concurrency": 100_000}, "one call", D("14.545454545455")),  # 800 tokens
    ],
)
def test_the_limit_that_takes_longest_binds(limits: dict[str, Any], limit: str, seconds: Decimal | int) -> None:
    bound = reckoned(whole("r"), day(), terms({"r": route(**limits)})).bound
    assert bound is not None
    assert (bound.limit, bound.seconds.quantize(D("1E-9")), bound.route) == (limit, D(seconds).quantize(D("1E-9")), "r")


def test_routes_work_side_by_side_and_the_slowest_binds() -> None:
    routes = {"a": route(requests_per_minute=100), "b": route(requests_per_minute=500)}
    mix = Scenario("mix", {"a": D("0.2"), "b": D("0.8")})
    bound = reckoned(mix, day(), terms(routes)).bound
    assert bound is not None
    assert (bound.route, bound.seconds, bound.figure) == ("a", D(600), D(100))  # 1,000 calls; b: 4,000 in 480 s


def test_models_that_share_a_limit_add_up_and_others_do_not() -> None:
    models = ("claude-haiku-5-5", "claude-haiku-4-5")
    loads = [Load(Requirements(model, Latency.BATCH), -1, D(1_000), D(10), D(10), D(10)) for model in models]
    group = {"models": ["claude-haiku-*"], "requests_per_minute": 100}
    for limited, seconds in ((route(limits=[group]), 1_200), (route(requests_per_minute=100), 600)):
        found = outlook(whole("r"), loads, terms({"r": limited}))
        assert isinstance(found, Outlook)
        assert found.bound is not None
        assert found.bound.seconds == seconds


def test_without_the_calls_or_a_rate_only_what_is_known_can_bind() -> None:
    found = reckoned(whole("r"), day(per_call=None), terms({"r": route(requests_per_minute=1)})).bound
    assert found is not None
    assert found.limit == "calls in flight"
    stranger = (Load(Requirements("our-own", Latency.BATCH), -1, D(5), D(1), D(1), D(1)),)
    unlimited = outlook(whole("r"), stranger, terms({"r": route(models={"our-own": "arn"})}))
    assert isinstance(unlimited, Outlook)
    assert unlimited.bound is None
