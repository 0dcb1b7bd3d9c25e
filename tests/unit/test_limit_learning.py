"""Lessons that a rate limiter takes from the provider: pauses it asks for, calls it bears at once, the limits it states."""

from itertools import pairwise

import pytest
from tests.unit.breakers_world import HEALTH, MODEL, NEIGHBOUR, ROUTE, Breaker, World, quota, states

from trivet_routing.permits import Change, Stated
from trivet_tasks.outcomes import HealthSignal
from trivet_tasks.states import RouteState

NOTHING = Stated()
SAID = (NOTHING, NOTHING, NOTHING)
"""A provider that states its limits, but none of them in this answer: its refusals allow no guess."""


@pytest.fixture
def breaker(world: World) -> Breaker:
    return world.breaker()


# pauses


def test_retry_after_closes_it_that_long(breaker: Breaker, world: World) -> None:
    breaker.take(2)
    (change,) = breaker.settle(HealthSignal.LIMITED, pause_s=20)
    assert change == Change(ROUTE, MODEL, RouteState.LIMITED, "limited: said the provider", 20, 0)
    refused = breaker.take()
    assert (refused.granted, refused.reason, refused.wait_s) == (0, "limited", 20)
    view = breaker.view()
    assert (view.state, view.cause, view.wait_s) == ("limited", "limited: said the provider", 20)
    world.pass_time(19.999)
    assert breaker.take().granted == 0
    world.pass_time(0.001)
    assert breaker.view().state == "healthy"
    breaker.settle()
    assert breaker.take(5).granted > 0


def test_a_later_longer_one_wins_and_a_shorter_does_not(breaker: Breaker) -> None:
    breaker.take(4)
    breaker.settle(HealthSignal.LIMITED, pause_s=20)
    assert breaker.settle(HealthSignal.LIMITED, pause_s=5) == []
    assert breaker.settle(HealthSignal.LIMITED) == []
    assert breaker.view().wait_s == 20
    (change,) = breaker.settle(HealthSignal.LIMITED, pause_s=7_200)
    assert (change.state, change.seconds) == ("limited", 7_200), "it is written down anew: a restart must know"
    assert breaker.view().wait_s == 7_200


def test_it_may_last_for_hours(breaker: Breaker, world: World) -> None:
    breaker.call(HealthSignal.LIMITED, pause_s=30 * 86_400.5)
    world.pass_time(30 * 86_400)
    assert breaker.take().wait_s == pytest.approx(15)
    world.pass_time(15)
    assert breaker.take().granted == 1


def test_a_good_answer_does_not_end_the_pause(breaker: Breaker) -> None:
    breaker.take(2)
    breaker.settle(HealthSignal.LIMITED, pause_s=20)
    breaker.settle()
    assert breaker.take().wait_s == 20


def test_without_a_word_it_rests_longer_each_time(breaker: Breaker, world: World) -> None:
    pauses = []
    for _ in range(8):
        breaker.call(HealthSignal.LIMITED)
        pauses.append(breaker.view().wait_s)
        world.pass_time(61)
    assert pauses == pytest.approx([2, 4, 8, 16, 32, 60, 60, 60])
    breaker.call()
    breaker.call(HealthSignal.LIMITED)
    assert breaker.view().wait_s == HEALTH.limited_backoff_s


def test_one_wave_of_refusals_counts_once(breaker: Breaker) -> None:
    breaker.take(30)
    changes = breaker.settle(HealthSignal.LIMITED, count=15) + breaker.settle(HealthSignal.LIMITED, count=15)
    assert states(changes) == [(MODEL, "limited")]
    assert breaker.view().wait_s == HEALTH.limited_backoff_s


def test_being_limited_is_no_failure(breaker: Breaker, world: World) -> None:
    breaker.take(10)
    breaker.settle(HealthSignal.LIMITED, pause_s=1, count=10, stated=SAID)
    world.pass_time(1)
    assert breaker.view().state == "healthy"
    assert breaker.view().calls == 0
    assert breaker.take(10).granted == 10


def test_a_pause_is_the_groups_health_the_models(world: World) -> None:
    shared = quota(group="claude-*+other")
    breaker, neighbour, apart = (
        world.breaker(limits=shared),
        world.breaker(NEIGHBOUR, shared),
        world.breaker("claude-opus-5"),
    )
    (change,) = breaker.call(HealthSignal.LIMITED, pause_s=9)
    assert (change.model, change.state) == ("claude-*+other", "limited")
    assert neighbour.take().reason == "limited"
    assert apart.take().granted == 1
    world.pass_time(9)
    world.open(breaker)
    assert neighbour.take().granted == 1


def test_nothing_flows_into_the_buckets_of_a_closed_one(world: World) -> None:
    breaker = world.breaker(limits=quota(tokens_in=6_000))
    breaker.take(10, 10)
    breaker.settle(HealthSignal.LIMITED, count=10, pause_s=30, stated=SAID)
    world.pass_time(30)
    assert breaker.take(20, 10).granted == 0, "it begins empty"
    world.pass_time(0.5)
    assert breaker.take(20, 10).granted == 5


def test_limited_and_open_at_once_it_waits_for_both(breaker: Breaker, world: World) -> None:
    before = world.breaker()
    before.take()
    world.open(breaker)
    before.settle(HealthSignal.LIMITED, pause_s=3)
    assert (breaker.view().state, breaker.view().wait_s) == ("open", HEALTH.probe_interval_s)
    assert breaker.take().reason == "open"


# calls that the provider bears at once


def test_where_nothing_is_stated_a_refusal_lowers_the_calls_in_flight(world: World) -> None:
    breaker = world.breaker(limits=quota(most=100))
    breaker.take(80)
    breaker.settle(HealthSignal.LIMITED, pause_s=2)
    assert breaker.view().places == 10, "a quarter of half of what was in flight, to climb from"
    breaker.settle(HealthSignal.LIMITED, pause_s=2, count=20)
    assert breaker.view().places == 10, "a wave counts once"
    breaker.settle(count=59)
    assert breaker.view().places == 10, "what was begun before says nothing of what it bears now"
    world.pass_time(2)
    assert breaker.take(100).granted == 10


def test_a_refusal_in_a_later_wave_lowers_them_again(world: World) -> None:
    breaker = world.breaker(limits=quota(most=100))
    breaker.take(80)
    breaker.settle(HealthSignal.LIMITED, pause_s=2, count=80)
    world.pass_time(2)
    assert breaker.take(100).granted == 10
    breaker.settle(HealthSignal.LIMITED, pause_s=2, count=10)
    assert breaker.view().places == 1
    world.pass_time(2)
    assert breaker.take(100).granted == 1, "one may always go"


def climb(breaker: Breaker, rounds: int) -> list[int]:
    """Make all calls that get a permit, again and again; return how many each time."""
    waves = []
    for _ in range(rounds):
        waves.append(breaker.take(200).granted)
        breaker.settle(count=waves[-1])
    return waves


def test_they_climb_quickly_to_half_and_slowly_from_there(world: World) -> None:
    breaker = world.breaker(limits=quota(most=100))
    breaker.take(80)
    breaker.settle(HealthSignal.LIMITED, pause_s=2, count=80)
    world.pass_time(2)
    waves = climb(breaker, 60)
    assert waves[0] == 10
    assert waves[1] == 20, "twice as many each time, up to half of what it was too much at"
    assert 38 <= waves[3] <= 46
    assert waves == sorted(waves)
    steps = [after - before for before, after in pairwise(waves[3:])]
    assert max(steps) <= 3, "a fiftieth of the whole each time"
    assert waves[-1] == 100, "and in the end nothing is known of any bound"
    assert breaker.view().places == 100


def test_they_do_not_climb_while_nobody_needs_them(world: World) -> None:
    breaker = world.breaker(limits=quota(most=100))
    breaker.take(80)
    breaker.settle(HealthSignal.LIMITED, pause_s=2, count=80)
    world.pass_time(2)
    breaker.calls(50)
    assert breaker.view().places == 10


def test_where_limits_are_stated_a_refusal_says_nothing_of_calls_in_flight(world: World) -> None:
    breaker = world.breaker(limits=quota(most=100))
    breaker.take(80)
    breaker.settle(HealthSignal.LIMITED, pause_s=2, count=80, stated=SAID)
    assert breaker.view().places == 100


# stated limits


def states_limits(
    breaker: Breaker, requests: Stated = NOTHING, tokens_in: Stated = NOTHING, tokens_out: Stated = NOTHING
) -> None:
    breaker.call(stated=(requests, tokens_in, tokens_out))


def test_stated_limits_lower_the_rates(world: World) -> None:
    breaker = world.breaker(limits=quota(6_000, 600_000, 60_000))
    states_limits(breaker, Stated(600), Stated(60_000), Stated(6_000))
    assert breaker.view().rates == pytest.approx((10, 1_000, 100), rel=0.02)
    world.pass_time(60)
    assert breaker.take(100, 10, 0).granted == 10, "the burst, too"


def test_stated_limits_never_raise_what_is_configured(world: World) -> None:
    breaker = world.breaker(limits=quota(600, 60_000, 6_000))
    before = breaker.view().rates
    states_limits(breaker, Stated(6_000), Stated(600_000), Stated(60_000))
    assert breaker.view().rates == before


def test_where_nothing_is_configured_the_stated_ones_hold(world: World) -> None:
    breaker = world.breaker()
    states_limits(breaker, Stated(600))
    rates = breaker.view().rates
    assert rates[0] == pytest.approx(10, rel=0.02)
    assert rates[1] == rates[2] == float("inf")
    world.pass_time(60)
    assert breaker.take(100).granted == 10


def test_the_latest_word_counts(world: World) -> None:
    """Limits rise with an account's tier, too."""
    breaker = world.breaker(limits=quota(6_000))
    states_limits(breaker, Stated(600))
    states_limits(breaker, Stated(1_200))
    assert breaker.view().rates[0] == pytest.approx(20, rel=0.02)
    breaker.take(2)
    first, second = breaker.held
    breaker.settle_these([first], stated=(Stated(60), NOTHING, NOTHING))
    breaker.settle_these([second], stated=SAID)
    assert breaker.view().rates[0] == pytest.approx(1, rel=0.02), "not said is not lifted"


def test_what_others_of_the_account_used_is_missing_here(world: World) -> None:
    breaker = world.breaker(limits=quota(6_000, 600_000, 60_000))
    states_limits(breaker, Stated(6_000, 5), Stated(600_000, 0), Stated(60_000, 1_000_000))
    view = breaker.view()
    assert view.headroom == pytest.approx(5)
    assert view.input_headroom == 0
    assert view.output_headroom == pytest.approx(1_000), "what is left never fills a bucket"
    assert breaker.take(1, 10).reason == "input_tokens"
    world.pass_time(1)
    assert breaker.take(1, 10).granted == 1


def test_a_limit_of_nothing_is_not_believed(world: World) -> None:
    breaker = world.breaker(limits=quota(600))
    states_limits(breaker, Stated(0))
    assert breaker.view().rates[0] == pytest.approx(10, rel=0.02)


def test_a_stated_limit_below_what_one_call_needs_lets_one_go_at_a_time(world: World) -> None:
    breaker = world.breaker(limits=quota(tokens_in=60_000))
    states_limits(breaker, tokens_in=Stated(100))
    world.pass_time(61)
    assert breaker.take(2, 500).granted == 1
    refused = breaker.take(1, 500)
    assert 61 <= refused.wait_s <= 6 * 62
    breaker.settle()
    world.pass_time(refused.wait_s)
    assert breaker.take(2, 500).granted == 1


def test_stated_limits_are_lifted_by_hand(world: World) -> None:
    breaker = world.breaker(limits=quota(6_000))
    states_limits(breaker, Stated(60, 0))
    breaker.limits.forget(ROUTE)
    assert breaker.view().rates[0] == pytest.approx(100, rel=0.02)


def test_stated_limits_are_the_groups(world: World) -> None:
    shared = quota(6_000, group="claude-*")
    states_limits(world.breaker(limits=shared), Stated(60))
    assert world.breaker(NEIGHBOUR, shared).view().rates[0] == pytest.approx(1, rel=0.02)


def test_a_pause_after_one_lifted_by_hand_is_told_again(breaker: Breaker) -> None:
    """SQL knows no other: a restart would let calls into it."""
    breaker.call(HealthSignal.LIMITED, pause_s=3_600)
    breaker.limits.forget(ROUTE)
    (change,) = breaker.call(HealthSignal.LIMITED, pause_s=60)
    assert (change.state, change.seconds) == ("limited", 60)
