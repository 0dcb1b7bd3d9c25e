"""Choice of a route: routes that may take a job at all, those that can take it now, and their order."""

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import MODEL, breaker, pace, recovering, route

from trivet_routing.permits import Pace
from trivet_routing.route_choice import (
    SHORT_WAIT_S,
    SLOW_CALLS,
    SLOW_FOR_S,
    Candidate,
    Choice,
    Refusal,
    Requirements,
    Why,
    choose,
    load_of,
)
from trivet_tasks.latency import DEFAULTS, ClassSettings, Latency, Order

NEEDS = Requirements(MODEL, Latency.BATCH)
REALTIME = Requirements(MODEL, Latency.REALTIME)


def by(order: Order, latency: Latency = Latency.BATCH) -> ClassSettings:
    """The class's settings but for the order."""
    return DEFAULTS[latency].model_copy(update={"order": order})


def names(choice: Choice) -> list[str]:
    return [candidate.name for candidate in choice.routes]


def refusal(requirements: Requirements, candidate: Candidate) -> Refusal:
    choice = choose(requirements, [candidate], by("priority"))
    assert choice.routes == ()
    (found,) = choice.refusals
    assert found.route == candidate.name
    return found


@pytest.mark.parametrize(
    ("requirements", "candidate", "why", "text"),
    [
        (NEEDS, route("r", wire_model=None), Why.NEVER, f"does not serve {MODEL}"),
        (Requirements(MODEL, Latency.BATCH, residency=("eu", "us")), route("r", residency=["us"]), Why.NEVER, "lacks residency eu"),
        (Requirements(MODEL, Latency.BATCH, residency=("eu",)), route("r"), Why.NEVER, "lacks residency eu"),
        (Requirements(MODEL, Latency.BATCH, compliance=("hipaa", "c5")), route("r"), Why.NEVER, "lacks compliance c5, hipaa"),
        (Requirements(MODEL, Latency.BATCH, features=("files",)), route("r"), Why.NEVER, "its wire has no files"),
        (Requirements(MODEL, Latency.BATCH, features=("unheard_of",)), route("r", provider="anthropic"), Why.NEVER, "its wire has no unheard_of"),
        (Requirements(MODEL, Latency.BATCH, doubted_by="bedrock"), route("r"), Why.NEVER, "its provider refused the request"),
        (Requirements(MODEL, Latency.BATCH, tried=("q", "r")), route("r"), Why.TRIED, "asked in this round"),
        (NEEDS, route("r", drained=True), Why.UNFIT, "drained by an operator"),
        (NEEDS, route("r", lanes=("realtime",)), Why.UNFIT, "no bulk worker serves it"),
        (NEEDS, route("r", at=breaker(state="open", cause="timeout: x", wait_s=7.2)), Why.UNFIT, "open (timeout: x), next probe in 7.2 s"),
        (NEEDS, route("r", at=breaker(state="probing", wait_s=3)), Why.UNFIT, "probing, next probe in 3.0 s"),
        (NEEDS, route("r", at=breaker(state="limited", cause="429", wait_s=12)), Why.LIMITED, "limited (429), next headroom in 12.0 s"),
        (NEEDS, route("r", at=breaker(state="open", cause="529")), Why.UNFIT, "open (529), next probe in 0.0 s"),
        (NEEDS, route("r", at=breaker(wait_s=0.4)), Why.LIMITED, "limited, next headroom in 0.4 s"),
        (NEEDS, route("r", at=recovering(0.5, wait_s=0.4)), Why.LIMITED, "limited, next headroom in 0.4 s"),
        (NEEDS, route("r", at=breaker(in_flight=5, places=5)), Why.LIMITED, "all 5 calls it may have are in flight"),
        (NEEDS, route("r", at=breaker(in_flight=3, places=2), max_concurrency=9), Why.LIMITED, "all 2 calls it may have are in flight"),
    ],
)  # fmt: skip
def test_each_reason_to_refuse(requirements: Requirements, candidate: Candidate, why: Why, text: str) -> None:
    found = refusal(requirements, candidate)
    assert (found.why, found.text) == (why, text)
    assert found.wait_s == candidate.breaker.wait_s * (why in (Why.UNFIT, Why.LIMITED))


@pytest.mark.parametrize(
    ("requirements", "candidate"),
    [
        (NEEDS, route("r")),
        (Requirements(MODEL, Latency.REALTIME), route("r", lanes=("realtime",))),
        (Requirements(MODEL, Latency.BATCH, residency=("us",), compliance=("soc2",)), route("r", residency=["eu", "us"], compliance=["hipaa", "soc2"])),
        (Requirements(MODEL, Latency.BATCH, features=("files", "service_tier")), route("r", provider="anthropic")),
        (Requirements(MODEL, Latency.BATCH, features=("web_search",)), route("r", provider="vertex")),
        (Requirements(MODEL, Latency.BATCH, doubted_by="anthropic", tried=("q",)), route("r")),
        (NEEDS, route("r", at=recovering(0.1))),
        (NEEDS, route("r", at=breaker(in_flight=4, places=5))),
    ],
)  # fmt: skip
def test_whoever_fits_takes_it(requirements: Requirements, candidate: Candidate) -> None:
    choice = choose(requirements, [candidate], by("priority"))
    assert (names(choice), choice.refusals, choice.levels) == (["r"], (), (1,))


def test_lasting_reasons_are_told_first() -> None:
    requirements = Requirements(MODEL, Latency.BATCH, residency=("eu",), tried=("r",))
    assert refusal(requirements, route("r", drained=True, at=breaker(wait_s=5))).why is Why.NEVER


def test_priority_goes_by_number() -> None:
    routes = [route("c", priority=3), route("a", priority=1), route("b", priority=2)]
    choice = choose(NEEDS, routes, by("priority"))
    assert (names(choice), choice.levels) == (["a", "b", "c"], (1, 2, 3))


def busy(name: str, in_flight: int, **terms: Any) -> Candidate:
    return route(name, at=breaker(in_flight=in_flight), **terms)


def test_equal_priority_shares_by_load_and_weight() -> None:
    assert names(choose(NEEDS, [busy("a", 2), busy("b", 4, weight=4), busy("c", 5)], by("priority"))) == ["b", "a", "c"]
    assert names(choose(NEEDS, [busy("a", 2), busy("b", 9, weight=4), busy("c", 1)], by("priority"))) == ["c", "a", "b"]


def test_weight_makes_all_equal_and_shares_by_it() -> None:
    routes = [busy("a", 1, priority=9), busy("b", 2, priority=1), busy("c", 5, weight=10, priority=5)]
    choice = choose(NEEDS, routes, by("weight"))
    assert (names(choice), choice.levels) == (["c", "a", "b"], (0, 0, 0))
    idle = [replace(candidate, breaker=breaker()) for candidate in routes]
    assert names(choose(NEEDS, idle, by("weight"))) == ["b", "c", "a"], "all idle: by priority"


def test_cost_goes_by_price_and_forgives_two_percent() -> None:
    routes = [
        route("dear", cost="1.10"),
        busy("near", 1, cost="1.015"),
        busy("cheap", 9, cost="1.00"),
        route("none", cost=None),
    ]
    choice = choose(NEEDS, routes, by("cost"))
    assert names(choice) == ["near", "cheap", "dear", "none"]
    assert choice.levels[0] == choice.levels[1] == 0
    assert choice.levels[2] < choice.levels[3]


def test_cost_without_any_price_shares_by_load() -> None:
    assert names(choose(NEEDS, [busy("a", 5, cost=None), route("b", cost=None)], by("cost"))) == ["b", "a"]
    free = [route("a", cost="0"), route("b", cost="1"), route("c", cost="0")]
    assert names(choose(NEEDS, free, by("cost"))) == ["a", "c", "b"]


def test_a_cheaper_route_that_is_refused_does_not_set_the_price() -> None:
    routes = [route("closed", cost="0.1", at=breaker(wait_s=5)), route("a", cost="1.0"), route("b", cost="1.01")]
    assert choose(NEEDS, routes, by("cost")).levels == (0, 0)


# latency


def paced(name: str, p50_s: float, latency: Latency = Latency.REALTIME, **terms: Any) -> Candidate:
    return route(name, at=breaker(paces={latency: pace(p50_s)}, **terms))


def test_latency_goes_by_speed_and_load() -> None:
    terms = by("latency", Latency.REALTIME)
    routes = [paced("slow", 1.2), paced("quick", 0.5), route("unknown")]
    choice = choose(REALTIME, routes, terms)
    assert (names(choice), choice.levels) == (["quick", "unknown", "slow"], (0, 1, 2))
    routes[1] = paced("quick", 0.5, in_flight=9, places=10)
    assert names(choose(REALTIME, routes, terms)) == ["quick", "unknown", "slow"], "0.95 s"
    routes[1] = paced("quick", 0.65, in_flight=9, places=10)
    assert names(choose(REALTIME, routes, terms)) == ["unknown", "slow", "quick"], "1.235 s"


def test_speed_is_that_of_the_class_or_the_quickest_known() -> None:
    both = route("both", at=breaker(paces={Latency.REALTIME: pace(0.9), Latency.DEFERRED: pace(0.1)}))
    other = paced("other class", 0.7, Latency.DEFERRED)
    assert names(choose(REALTIME, [both, other], by("latency", Latency.REALTIME))) == ["other class", "both"]


def test_a_short_wait_counts_as_latency_where_latency_decides() -> None:
    terms = by("latency", Latency.REALTIME)
    soon, whole = paced("soon", 0.3, wait_s=0.4), paced("whole", 0.6)
    assert names(choose(REALTIME, [whole, soon], terms)) == ["whole", "soon"], "0.7 s against 0.6 s"
    assert names(choose(REALTIME, [paced("whole", 0.8), soon], terms)) == ["soon", "whole"]
    too_long = paced("soon", 0.1, wait_s=SHORT_WAIT_S + 0.01)
    choice = choose(REALTIME, [too_long, whole], terms)
    assert (names(choice), [r.why for r in choice.refusals]) == (["whole"], [Why.LIMITED])


@pytest.mark.parametrize("order", ["cost", "priority", "weight"])
def test_elsewhere_nobody_waits_for_a_permit(order: Order) -> None:
    choice = choose(NEEDS, [route("a", at=breaker(wait_s=0.001))], by(order))
    assert (choice.routes, [r.why for r in choice.refusals]) == ((), [Why.LIMITED])
    assert choice.best(load_of) is None


@pytest.mark.parametrize("order", ["latency", "cost", "priority", "weight"])
@pytest.mark.parametrize("wait_s", [0.001, 0.1, 3.0])
def test_a_route_whose_provider_said_wait_is_never_chosen(order: Order, wait_s: float) -> None:
    at = breaker(state="limited", cause="429", wait_s=wait_s)
    choice = choose(REALTIME, [route("a", at=at)], by(order, Latency.REALTIME))
    assert (choice.best(load_of), [r.why for r in choice.refusals]) == (None, [Why.LIMITED])


@pytest.mark.parametrize("order", ["latency", "cost", "priority", "weight"])
@pytest.mark.parametrize("state", ["open", "probing"])
@pytest.mark.parametrize("wait_s", [0.0, 0.001, 60.0])
def test_an_open_route_is_never_chosen_whatever_its_wait(order: Order, state: str, wait_s: float) -> None:
    """Only a probe may call it, also when its time has come."""
    choice = choose(REALTIME, [route("a", at=breaker(state=state, wait_s=wait_s))], by(order, Latency.REALTIME))
    assert (choice.best(load_of), [r.why for r in choice.refusals]) == (None, [Why.UNFIT])
    assert not choice.worth_waiting(3600)


# slow for a class


@pytest.mark.parametrize(
    ("seen", "last"),
    [
        (pace(1, calls=SLOW_CALLS, late=1), True),
        (pace(1, 900, late=5), False),
        (pace(1, calls=SLOW_CALLS - 1, late=4), False),
        (pace(1, late=6, age_s=SLOW_FOR_S), True),
        (pace(1, late=99, age_s=SLOW_FOR_S + 1), False),
    ],
    ids=["slow", "long answers in time", "seen too seldom", "still known", "long ago: tried again"],
)
@pytest.mark.parametrize("order", ["latency", "cost", "priority", "weight"])
def test_a_route_too_slow_for_the_class_comes_last(seen: Pace, last: bool, order: Order) -> None:
    """However cheap, near, strong or usually quick it is."""
    at = breaker(paces={Latency.BATCH: seen})
    routes = [
        route("slow", cost="0.1", priority=1, weight=9, at=at),
        route("b", cost="1", priority=2, at=breaker(in_flight=1, paces={Latency.BATCH: pace(5, 6)})),
        route("c", cost="2", priority=3, at=breaker(in_flight=2, paces={Latency.BATCH: pace(6, 7)})),
    ]
    assert names(choose(NEEDS, routes, by(order))) == (["b", "c", "slow"] if last else ["slow", "b", "c"])


def test_a_slow_route_is_slow_for_its_class_only() -> None:
    at = breaker(paces={Latency.REALTIME: pace(2, late=9), Latency.BATCH: pace(2, 40)})
    routes = [route("slow", cost="0.1", at=at), route("b")]
    assert names(choose(REALTIME, routes, by("cost", Latency.REALTIME))) == ["b", "slow"]
    assert names(choose(NEEDS, routes, by("cost"))) == ["slow", "b"]
    unseen = breaker(paces={Latency.DEFERRED: pace(40, late=9)})
    assert names(choose(NEEDS, [route("slow", cost="0.1", at=unseen), route("b")], by("cost"))) == ["slow", "b"]


def test_a_slow_route_takes_work_when_there_is_no_other() -> None:
    at = breaker(paces={Latency.BATCH: pace(20, late=9)})
    choice = choose(NEEDS, [route("slow", at=at), route("b", drained=True)], by("cost"))
    assert names(choice) == ["slow"]
    assert choice.best(load_of) is not None


# recovering

DRAWS = 4_000


@pytest.fixture
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same draws every time."""
    monkeypatch.setattr(random, "random", random.Random(7).random)


def drawn(choice: Choice, count: int = DRAWS, *, full: tuple[str, ...] = ()) -> Counter[str | None]:
    """Count how often each was the best."""
    best = (choice.best(load_of, has_room=lambda r: r.name not in full) for _ in range(count))
    return Counter(found.name if found else None for found in best)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
@pytest.mark.usefixtures("seeded")
def test_a_recovering_route_gets_its_share_of_what_it_would_be_the_best_for(share: float) -> None:
    choice = choose(NEEDS, [route("a", at=recovering(share)), route("b", cost="2")], by("cost"))
    found = drawn(choice)
    assert set(found) == {"a", "b"}
    # five standard deviations at the most are 0.04
    assert found["a"] / DRAWS == pytest.approx(share, abs=0.04)


@pytest.mark.usefixtures("seeded")
def test_a_recovering_route_among_equals_leaves_the_rest_to_them() -> None:
    routes = [route("a", at=recovering(0.25)), busy("b", 1), busy("c", 2)]
    found = drawn(choose(NEEDS, routes, by("weight")))
    assert set(found) == {"a", "b"}, "c is more laden than b"
    assert found["a"] / DRAWS == pytest.approx(0.25, abs=0.04)


@pytest.mark.usefixtures("seeded")
def test_each_of_two_recovering_routes_gets_its_own_share() -> None:
    routes = [route("a", at=recovering(0.5)), route("b", cost="2", at=recovering(0.5)), route("c", cost="3")]
    found = drawn(choose(NEEDS, routes, by("cost")))
    assert found["a"] / DRAWS == pytest.approx(0.5, abs=0.04)
    assert found["b"] / DRAWS == pytest.approx(0.25, abs=0.04), "half of what came to it"
    assert found["c"] == DRAWS - found["a"] - found["b"]


@pytest.mark.usefixtures("seeded")
def test_a_recovering_route_gets_all_where_no_whole_one_would_take_it() -> None:
    refused = [route("b", drained=True), route("c", at=breaker(state="open", wait_s=9)), route("d", wire_model=None)]
    alone = choose(NEEDS, [route("a", at=recovering(0.1)), *refused], by("cost"))
    assert drawn(alone) == {"a": DRAWS}
    two = choose(NEEDS, [route("a", at=recovering(0.1)), route("b", cost="2", at=recovering(0.1))], by("cost"))
    assert drawn(two) == {"a": DRAWS}, "the best of them"


@pytest.mark.usefixtures("seeded")
def test_a_job_waits_when_the_whole_routes_are_full_and_the_draw_was_lost() -> None:
    choice = choose(NEEDS, [route("a", at=recovering(0.25)), route("b", cost="2")], by("cost"))
    found = drawn(choice, full=("b",))
    assert set(found) == {"a", None}, "b has no room in its queue: it will have some soon"
    assert found["a"] / DRAWS == pytest.approx(0.25, abs=0.04)
    assert drawn(choice, 5, full=("a", "b")) == {None: 5}


@pytest.mark.parametrize(("drawn_number", "expected"), [(0.0999, "a"), (0.1, "b"), (0.9, "b")])
def test_the_draw_is_below_the_share(monkeypatch: pytest.MonkeyPatch, drawn_number: float, expected: str) -> None:
    monkeypatch.setattr(random, "random", lambda: drawn_number)
    choice = choose(NEEDS, [route("a", at=recovering(0.1)), route("b", cost="2")], by("cost"))
    best = choice.best(load_of)
    assert best is not None
    assert best.name == expected


def test_a_whole_route_is_not_drawn_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> float:
        raise AssertionError("nothing is to be drawn")

    monkeypatch.setattr(random, "random", never)
    best = choose(NEEDS, [route("a"), route("b", cost="2", at=recovering(0.1))], by("cost")).best(load_of)
    assert best is not None
    assert best.name == "a"


# what is asked of a choice


def test_what_is_worth_waiting_for() -> None:
    limited = choose(NEEDS, [route("a", at=breaker(state="limited", wait_s=20))], by("cost"))
    assert limited.worth_waiting(20)
    assert not limited.worth_waiting(19)
    full = choose(NEEDS, [route("a", at=breaker(in_flight=1, places=1))], by("cost"))
    assert full.worth_waiting(0)
    for refused in (
        route("a", drained=True),
        route("a", at=breaker(state="open", wait_s=1)),
        route("a", wire_model=None),
    ):
        assert not choose(NEEDS, [refused], by("cost")).worth_waiting(3600)


def test_hopeless() -> None:
    never, unfit = route("a", wire_model=None), route("b", drained=True)
    tried = Requirements(MODEL, Latency.BATCH, tried=("c",))
    assert choose(NEEDS, [never], by("cost")).hopeless
    assert choose(NEEDS, [], by("cost")).hopeless
    assert not choose(NEEDS, [never, unfit], by("cost")).hopeless
    assert not choose(tried, [never, route("c")], by("cost")).hopeless


def test_reasons_in_one_line_and_the_known_waits() -> None:
    routes = [
        route("a", drained=True),
        route("b", at=breaker(state="limited", wait_s=12)),
        route("c", at=breaker(wait_s=3)),
    ]
    choice = choose(NEEDS, routes, by("cost"))
    a, b, c = (
        "a: drained by an operator",
        "b: limited, next headroom in 12.0 s",
        "c: limited, next headroom in 3.0 s",
    )
    assert choice.reasons() == f"{a}; {b}; {c}"
    assert choice.reasons(without="b") == f"{a}; {c}"
    assert {refusal.route: refusal.wait_s for refusal in choice.refusals} == {"a": 0, "b": 12, "c": 3}
    assert (choice.worth_waiting(2.9), choice.worth_waiting(3)) == (False, True)
    assert not choose(NEEDS, routes[:1], by("cost")).worth_waiting(60)


@given(
    wanted=st.sets(st.sampled_from(["us", "eu", "apac"])),
    places=st.lists(st.sets(st.sampled_from(["us", "eu", "apac"])), max_size=4),
    order=st.sampled_from(["latency", "cost", "priority", "weight"]),
)
def test_nothing_goes_where_it_may_not(wanted: set[str], places: list[set[str]], order: Order) -> None:
    routes = [route(f"r{n}", residency=sorted(has)) for n, has in enumerate(places)]
    choice = choose(Requirements(MODEL, Latency.BATCH, residency=tuple(wanted)), routes, by(order))
    allowed = {f"r{n}" for n, has in enumerate(places) if wanted <= has}
    assert set(names(choice)) == allowed
    assert {r.route for r in choice.refusals} == {candidate.name for candidate in routes} - allowed
    assert len(choice.levels) == len(choice.routes)
    assert list(choice.levels) == sorted(choice.levels)
