"""Choosing a route: who may take a job at all, who can take it now, and in what order."""

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet_scheduler.permits import GateView
from trivet_scheduler.routing import Candidate, Choice, Needs, Refusal, Why, choose
from trivet_tasks.latency import Order
from trivet_tasks.route_settings import RouteSettings

MODEL = "claude-sonnet-5-5"
NEEDS = Needs(MODEL, "bulk")


def gate(**terms: object) -> GateView:
    healthy: dict[str, object] = {
        "state": "healthy",
        "cause": "",
        "wait_s": 0.0,
        "in_flight": 0,
        "headroom": math.inf,
        "input_headroom": math.inf,
        "output_headroom": math.inf,
        "latency_s": None,
        "since": None,
    }
    return GateView(**{**healthy, **terms})  # type: ignore[arg-type]


def route(
    name: str,
    *,
    provider: str = "bedrock",
    wire_model: str | None = "wire",
    lanes: tuple[str, ...] = ("bulk", "realtime"),
    drained: bool = False,
    cost: str | None = "1",
    at: GateView | None = None,
    **terms: object,
) -> Candidate:
    settings = RouteSettings.model_validate({"provider": provider, **terms})
    unit = Decimal(cost) if cost is not None else None
    return Candidate(name, MODEL, settings, wire_model, frozenset(lanes), drained, at or gate(), unit)


def names(choice: Choice) -> list[str]:
    return [candidate.name for candidate in choice.routes]


def refusal(needs: Needs, candidate: Candidate) -> Refusal:
    choice = choose(needs, [candidate], "priority")
    assert choice.routes == ()
    (found,) = choice.refusals
    assert found.route == candidate.name
    return found


@pytest.mark.parametrize(
    ("needs", "candidate", "why", "text"),
    [
        (NEEDS, route("r", wire_model=None), Why.NEVER, f"does not serve {MODEL}"),
        (Needs(MODEL, "bulk", residency=("eu", "us")), route("r", residency=["us"]), Why.NEVER, "lacks residency eu"),
        (Needs(MODEL, "bulk", residency=("eu",)), route("r"), Why.NEVER, "lacks residency eu"),
        (Needs(MODEL, "bulk", compliance=("hipaa", "c5")), route("r"), Why.NEVER, "lacks compliance c5, hipaa"),
        (Needs(MODEL, "bulk", features=("files",)), route("r"), Why.NEVER, "its wire has no files"),
        (Needs(MODEL, "bulk", features=("unheard_of",)), route("r", provider="anthropic"), Why.NEVER, "its wire has no unheard_of"),
        (Needs(MODEL, "bulk", doubted_by="bedrock"), route("r"), Why.NEVER, "its provider refused the request"),
        (Needs(MODEL, "bulk", tried=("q", "r")), route("r"), Why.TRIED, "asked in this round"),
        (NEEDS, route("r", drained=True), Why.UNFIT, "drained by an operator"),
        (NEEDS, route("r", lanes=("realtime",)), Why.UNFIT, "no bulk worker serves it"),
        (NEEDS, route("r", at=gate(state="open", cause="timeout: x", wait_s=7.2)), Why.UNFIT, "open (timeout: x), next try in 7.2 s"),
        (NEEDS, route("r", at=gate(state="probing", wait_s=3)), Why.UNFIT, "probing, next try in 3.0 s"),
        (NEEDS, route("r", at=gate(state="limited", cause="429", wait_s=12)), Why.LIMITED, "limited (429), next try in 12.0 s"),
        (NEEDS, route("r", at=gate(wait_s=0.4)), Why.LIMITED, "limited, next try in 0.4 s"),
        (NEEDS, route("r", at=gate(in_flight=5), max_concurrency=5), Why.LIMITED, "all 5 calls in flight"),
    ],
)  # fmt: skip
def test_each_reason_to_refuse(needs: Needs, candidate: Candidate, why: Why, text: str) -> None:
    found = refusal(needs, candidate)
    assert (found.why, found.text) == (why, text)
    assert found.wait_s == candidate.gate.wait_s * (why in (Why.UNFIT, Why.LIMITED))


@pytest.mark.parametrize(
    ("needs", "candidate"),
    [
        (NEEDS, route("r")),
        (Needs(MODEL, "realtime"), route("r", lanes=("realtime",))),
        (Needs(MODEL, "bulk", residency=("us",), compliance=("soc2",)), route("r", residency=["eu", "us"], compliance=["hipaa", "soc2"])),
        (Needs(MODEL, "bulk", features=("files", "service_tier")), route("r", provider="anthropic")),
        (Needs(MODEL, "bulk", features=("web_search",)), route("r", provider="vertex")),
        (Needs(MODEL, "bulk", doubted_by="anthropic", tried=("q",)), route("r")),
        (NEEDS, route("r", at=gate(state="open"))),
        (NEEDS, route("r", at=gate(in_flight=4), max_concurrency=5)),
    ],
)  # fmt: skip
def test_whoever_fits_takes_it(needs: Needs, candidate: Candidate) -> None:
    """Also a gate that is open whose time for a try has come."""
    choice = choose(needs, [candidate], "priority")
    assert (names(choice), choice.refusals, choice.levels) == (["r"], (), (1,))


def test_lasting_reasons_are_told_first() -> None:
    needs = Needs(MODEL, "bulk", residency=("eu",), tried=("r",))
    assert refusal(needs, route("r", drained=True, at=gate(wait_s=5))).why is Why.NEVER


def test_priority_goes_by_number() -> None:
    routes = [route("c", priority=3), route("a", priority=1), route("b", priority=2)]
    choice = choose(NEEDS, routes, "priority")
    assert (names(choice), choice.levels) == (["a", "b", "c"], (1, 2, 3))


def test_equal_priority_shares_by_load_and_weight() -> None:
    routes = [route("a"), route("b", weight=4), route("c")]
    assert names(choose(NEEDS, routes, "priority", {"a": 0.2, "b": 0.4, "c": 0.5})) == ["b", "a", "c"]
    assert names(choose(NEEDS, routes, "priority", {"a": 0.2, "b": 0.9, "c": 0.1})) == ["c", "a", "b"]


def test_weight_makes_all_equal_and_shares_by_it() -> None:
    routes = [route("a", priority=9), route("b", priority=1), route("c", weight=10, priority=5)]
    choice = choose(NEEDS, routes, "weight", {"a": 0.1, "b": 0.2, "c": 0.5})
    assert (names(choice), choice.levels) == (["c", "a", "b"], (0, 0, 0))
    assert names(choose(NEEDS, routes, "weight")) == ["b", "c", "a"], "all idle: by priority"


def test_cost_goes_by_price_and_forgives_two_percent() -> None:
    routes = [
        route("dear", cost="1.10"),
        route("near", cost="1.015"),
        route("cheap", cost="1.00"),
        route("none", cost=None),
    ]
    choice = choose(NEEDS, routes, "cost", {"cheap": 0.9, "near": 0.1})
    assert names(choice) == ["near", "cheap", "dear", "none"]
    assert choice.levels[0] == choice.levels[1] == 0
    assert choice.levels[2] < choice.levels[3]


def test_cost_without_any_price_shares_by_load() -> None:
    routes = [route("a", cost=None), route("b", cost=None)]
    assert names(choose(NEEDS, routes, "cost", {"a": 0.5})) == ["b", "a"]
    assert names(choose(NEEDS, [route("a", cost="0"), route("b", cost="1"), route("c", cost="0")], "cost")) == [
        "a",
        "c",
        "b",
    ]


def test_latency_goes_by_speed_and_load() -> None:
    routes = [route("slow", at=gate(latency_s=4.0)), route("quick", at=gate(latency_s=0.5)), route("unknown")]
    choice = choose(NEEDS, routes, "latency")
    assert (names(choice), choice.levels) == (["quick", "unknown", "slow"], (0, 1, 2))
    assert names(choose(NEEDS, routes, "latency", {"quick": 9.0})) == ["unknown", "slow", "quick"]


def test_a_cheaper_route_that_is_refused_does_not_set_the_price() -> None:
    routes = [route("closed", cost="0.1", at=gate(wait_s=5)), route("a", cost="1.0"), route("b", cost="1.01")]
    assert choose(NEEDS, routes, "cost").levels == (0, 0)


def test_what_is_worth_waiting_for() -> None:
    limited = choose(NEEDS, [route("a", at=gate(state="limited", wait_s=20))], "cost")
    assert limited.worth_waiting(20)
    assert not limited.worth_waiting(19)
    full = choose(NEEDS, [route("a", at=gate(in_flight=1), max_concurrency=1)], "cost")
    assert full.worth_waiting(0)
    for refused in (route("a", drained=True), route("a", at=gate(state="open", wait_s=1)), route("a", wire_model=None)):
        assert not choose(NEEDS, [refused], "cost").worth_waiting(3600)


def test_hopeless_and_untried() -> None:
    never, unfit = route("a", wire_model=None), route("b", drained=True)
    tried = Needs(MODEL, "bulk", tried=("c",))
    assert choose(NEEDS, [never], "cost").hopeless
    assert choose(NEEDS, [], "cost").hopeless
    assert not choose(NEEDS, [never, unfit], "cost").hopeless
    assert not choose(tried, [never, route("c")], "cost").hopeless
    assert not choose(tried, [never, route("c")], "cost").untried
    assert choose(tried, [unfit, route("c")], "cost").untried
    assert choose(NEEDS, [route("c")], "cost").untried


def test_reasons_in_one_line_and_the_shortest_wait() -> None:
    routes = [route("a", drained=True), route("b", at=gate(state="limited", wait_s=12)), route("c", at=gate(wait_s=3))]
    choice = choose(NEEDS, routes, "cost")
    assert (
        choice.reasons() == "a: drained by an operator; b: limited, next try in 12.0 s; c: limited, next try in 3.0 s"
    )
    assert choice.wait_s() == (3, "c")
    assert choose(NEEDS, routes[:1], "cost").wait_s() is None


@given(
    wanted=st.sets(st.sampled_from(["us", "eu", "apac"])),
    places=st.lists(st.sets(st.sampled_from(["us", "eu", "apac"])), max_size=4),
    order=st.sampled_from(["latency", "cost", "priority", "weight"]),
)
def test_nothing_goes_where_it_may_not(wanted: set[str], places: list[set[str]], order: Order) -> None:
    routes = [route(f"r{n}", residency=sorted(has)) for n, has in enumerate(places)]
    choice = choose(Needs(MODEL, "bulk", residency=tuple(wanted)), routes, order)
    allowed = {f"r{n}" for n, has in enumerate(places) if wanted <= has}
    assert set(names(choice)) == allowed
    assert {r.route for r in choice.refusals} == {candidate.name for candidate in routes} - allowed
    assert len(choice.levels) == len(choice.routes)
    assert list(choice.levels) == sorted(choice.levels)
