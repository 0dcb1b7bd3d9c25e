"""The shares with which all routes are done soonest, against every other split."""

import itertools
from decimal import Decimal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trivet.plan.losses import without_each
from trivet.plan.terms import Terms
from trivet.plan.workload import Load
from trivet_routing.route_choice import Requirements
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.latency import Latency
from trivet_tasks.prices.price_book import Tariff, TokenPrices

D = Decimal
MODEL = "claude-sonnet-4-6"
TARIFF = Tariff((TokenPrices(-1, D("3e-6"), D("15e-6"), D("3e-7"), D("3.75e-6"), D("6e-6")),))
UNHURRIED = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
PLACES = ((), ("us",), ("eu",))
"""Residency of loads; a route of `us` or of both may take them."""


def load(calls: int, output: int, place: int) -> Load:
    tokens = D(calls * output)
    return Load(Requirements(MODEL, Latency.BATCH, PLACES[place]), -1, D(calls), D(calls * 1_000), tokens, D(0))


def route(requests: int, tokens: int, places: list[str]) -> RouteSettings:
    return RouteSettings(
        provider="bedrock",
        region="us-east-1",
        requests_per_minute=requests,
        output_tokens_per_minute=tokens,
        residency=tuple(places),
    )


loads = st.lists(st.builds(load, st.integers(1, 500), st.integers(1, 2_000), st.integers(0, 2)), min_size=1, max_size=3)
routes = st.lists(
    st.builds(
        route,
        st.integers(1, 1_000),
        st.integers(100, 100_000),
        st.lists(st.sampled_from(["us", "eu"]), max_size=2, unique=True),
    ),
    min_size=1,
    max_size=4,
)


def seconds_of(shares: list[dict[str, float]], work: list[Load], terms: Terms) -> float:
    """The time of a split: of each route the longer of its two limits."""
    longest = 0.0
    for name, one in terms.routes.items():
        pairs = [(load, share.get(name, 0.0)) for load, share in zip(work, shares, strict=True)]
        calls = sum(float(load.calls or 0) * share for load, share in pairs) / (one.requests_per_minute or 1)
        tokens = sum(float(load.output_tokens) * share for load, share in pairs) / (one.output_tokens_per_minute or 1)
        longest = max(longest, 60 * calls, 60 * tokens)
    return longest


@UNHURRIED
@given(loads, routes)
def test_a_loss_never_makes_it_quicker_and_loses_no_call(work: list[Load], given_routes: list[RouteSettings]) -> None:
    named = {f"r{number}": one for number, one in enumerate(given_routes)}
    whole, *lost = without_each(list(named), work, Terms(named, lambda *_: TARIFF))
    every = sum((load.calls or D(0) for load in work), D(0))
    for loss in (whole, *lost):
        assert loss.outlook.calls is not None
        assert loss.waiting_calls is not None
        assert loss.outlook.calls + loss.waiting_calls == every
        assert not {part.route for part in loss.outlook.parts} & set(loss.lost)
        if not loss.waiting and whole.outlook.bound and loss.outlook.bound:
            assert loss.outlook.bound.seconds >= whole.outlook.bound.seconds * D("0.98")


@UNHURRIED
@given(
    st.lists(st.builds(load, st.integers(1, 500), st.integers(1, 2_000), st.integers(0, 1)), min_size=1, max_size=2),
    st.lists(
        st.builds(route, st.integers(1, 1_000), st.integers(100, 100_000), st.just(["us"])), min_size=2, max_size=2
    ),
)
def test_no_other_split_is_much_quicker(work: list[Load], given_routes: list[RouteSettings]) -> None:
    named = {f"r{number}": one for number, one in enumerate(given_routes)}
    terms = Terms(named, lambda *_: TARIFF)
    whole = without_each(list(named), work, terms)[0]
    found = [{part.route: float(part.share) for part in whole.outlook.parts if part.load is one} for one in work]
    steps = [number / 50 for number in range(51)]
    best = min(
        seconds_of([{"r0": share, "r1": 1 - share} for share in split], work, terms)
        for split in itertools.product(steps, repeat=len(work))
    )
    assert seconds_of(found, work, terms) <= 1.02 * best
