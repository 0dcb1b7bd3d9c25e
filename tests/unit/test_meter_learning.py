"""What a meter learns from the provider: pauses it asks for, calls it bears at once, the limits it states."""

from itertools import pairwise

import pytest
from tests.unit.gates_world import HEALTH, MODEL, NEIGHBOUR, ROUTE, Gate, World, quota, states

from trivet_routing.permits import Change, Stated, Verdict
from trivet_tasks.states import RouteState

NOTHING = Stated()
SAID = (NOTHING, NOTHING, NOTHING)
"""A provider that states its limits, but none of them in this answer: nothing is to be guessed from its refusals."""


@pytest.fixture
def gate(world: World) -> Gate:
    return world.gate()


# pauses


def test_retry_after_closes_it_that_long(gate: Gate, world: World) -> None:
    gate.take(2)
    (change,) = gate.settle(Verdict.LIMITED, pause_s=20)
    assert change == Change(ROUTE, MODEL, RouteState.LIMITED, "limited: said the provider", 20, 0)
    refused = gate.take()
    assert (refused.granted, refused.reason, refused.wait_s) == (0, "limited", 20)
    view = gate.view()
    assert (view.state, view.cause, view.wait_s) == ("limited", "limited: said the provider", 20)
    world.pass_time(19.999)
    assert gate.take().granted == 0
    world.pass_time(0.001)
    assert gate.view().state == "healthy"
    gate.settle()
    assert gate.take(5).granted > 0


def test_a_later_longer_one_wins_and_a_shorter_does_not(gate: Gate) -> None:
    gate.take(4)
    gate.settle(Verdict.LIMITED, pause_s=20)
    assert gate.settle(Verdict.LIMITED, pause_s=5) == []
    assert gate.settle(Verdict.LIMITED) == []
    assert gate.view().wait_s == 20
    (change,) = gate.settle(Verdict.LIMITED, pause_s=7_200)
    assert (change.state, change.seconds) == ("limited", 7_200), "it is written down anew: a restart must know"
    assert gate.view().wait_s == 7_200


def test_it_may_last_for_hours(gate: Gate, world: World) -> None:
    gate.call(Verdict.LIMITED, pause_s=30 * 86_400.5)
    world.pass_time(30 * 86_400)
    assert gate.take().wait_s == pytest.approx(15)
    world.pass_time(15)
    assert gate.take().granted == 1


def test_a_good_answer_does_not_end_the_pause(gate: Gate) -> None:
    gate.take(2)
    gate.settle(Verdict.LIMITED, pause_s=20)
    gate.settle()
    assert gate.take().wait_s == 20


def test_without_a_word_it_rests_longer_each_time(gate: Gate, world: World) -> None:
    pauses = []
    for _ in range(8):
        gate.call(Verdict.LIMITED)
        pauses.append(gate.view().wait_s)
        world.pass_time(61)
    assert pauses == pytest.approx([2, 4, 8, 16, 32, 60, 60, 60])
    gate.call()
    gate.call(Verdict.LIMITED)
    assert gate.view().wait_s == HEALTH.limited_backoff_s


def test_one_wave_of_refusals_counts_once(gate: Gate) -> None:
    gate.take(30)
    changes = gate.settle(Verdict.LIMITED, count=15) + gate.settle(Verdict.LIMITED, count=15)
    assert states(changes) == [(MODEL, "limited")]
    assert gate.view().wait_s == HEALTH.limited_backoff_s


def test_being_limited_is_no_failure(gate: Gate, world: World) -> None:
    gate.take(10)
    gate.settle(Verdict.LIMITED, pause_s=1, count=10, stated=SAID)
    world.pass_time(1)
    assert gate.view().state == "healthy"
    assert gate.view().calls == 0
    assert gate.take(10).granted == 10


def test_a_pause_is_the_groups_health_the_models(world: World) -> None:
    shared = quota(group="claude-*+other")
    gate, neighbour, alone = world.gate(limits=shared), world.gate(NEIGHBOUR, shared), world.gate("claude-opus-5")
    (change,) = gate.call(Verdict.LIMITED, pause_s=9)
    assert (change.model, change.state) == ("claude-*+other", "limited")
    assert neighbour.take().reason == "limited"
    assert alone.take().granted == 1
    world.pass_time(9)
    world.open(gate)
    assert neighbour.take().granted == 1


def test_nothing_flows_into_the_buckets_of_a_closed_one(world: World) -> None:
    gate = world.gate(limits=quota(tokens_in=6_000))
    gate.take(10, 10)
    gate.settle(Verdict.LIMITED, count=10, pause_s=30, stated=SAID)
    world.pass_time(30)
    assert gate.take(20, 10).granted == 0, "it begins empty"
    world.pass_time(0.5)
    assert gate.take(20, 10).granted == 5


def test_limited_and_open_at_once_it_waits_for_both(gate: Gate, world: World) -> None:
    before = world.gate()
    before.take()
    world.open(gate)
    before.settle(Verdict.LIMITED, pause_s=3)
    assert (gate.view().state, gate.view().wait_s) == ("open", HEALTH.probe_interval_s)
    assert gate.take().reason == "open"


# calls that the provider bears at once


def test_where_nothing_is_stated_a_refusal_lowers_the_calls_in_flight(world: World) -> None:
    gate = world.gate(limits=quota(most=100))
    gate.take(80)
    gate.settle(Verdict.LIMITED, pause_s=2)
    assert gate.view().places == 10, "a quarter of half of what was in flight, to climb from"
    gate.settle(Verdict.LIMITED, pause_s=2, count=20)
    assert gate.view().places == 10, "a wave counts once"
    gate.settle(count=59)
    assert gate.view().places == 10, "what was begun before says nothing of what it bears now"
    world.pass_time(2)
    assert gate.take(100).granted == 10


def test_a_refusal_in_a_later_wave_lowers_them_again(world: World) -> None:
    gate = world.gate(limits=quota(most=100))
    gate.take(80)
    gate.settle(Verdict.LIMITED, pause_s=2, count=80)
    world.pass_time(2)
    assert gate.take(100).granted == 10
    gate.settle(Verdict.LIMITED, pause_s=2, count=10)
    assert gate.view().places == 1
    world.pass_time(2)
    assert gate.take(100).granted == 1, "one may always go"


def climb(gate: Gate, rounds: int) -> list[int]:
    """All that may go, go and come back well: how many each time."""
    waves = []
    for _ in range(rounds):
        waves.append(gate.take(200).granted)
        gate.settle(count=waves[-1])
    return waves


def test_they_climb_quickly_to_half_and_slowly_from_there(world: World) -> None:
    gate = world.gate(limits=quota(most=100))
    gate.take(80)
    gate.settle(Verdict.LIMITED, pause_s=2, count=80)
    world.pass_time(2)
    waves = climb(gate, 60)
    assert waves[0] == 10
    assert waves[1] == 20, "twice as many each time, up to half of what it was too much at"
    assert 38 <= waves[3] <= 46
    assert waves == sorted(waves)
    steps = [after - before for before, after in pairwise(waves[3:])]
    assert max(steps) <= 3, "a fiftieth of the whole each time"
    assert waves[-1] == 100, "and in the end nothing is known of any bound"
    assert gate.view().places == 100


def test_they_do_not_climb_while_nobody_needs_them(world: World) -> None:
    gate = world.gate(limits=quota(most=100))
    gate.take(80)
    gate.settle(Verdict.LIMITED, pause_s=2, count=80)
    world.pass_time(2)
    gate.calls(50)
    assert gate.view().places == 10


def test_where_limits_are_stated_a_refusal_says_nothing_of_calls_in_flight(world: World) -> None:
    gate = world.gate(limits=quota(most=100))
    gate.take(80)
    gate.settle(Verdict.LIMITED, pause_s=2, count=80, stated=SAID)
    assert gate.view().places == 100


# stated limits


def states_limits(
    gate: Gate, requests: Stated = NOTHING, tokens_in: Stated = NOTHING, tokens_out: Stated = NOTHING
) -> None:
    gate.call(stated=(requests, tokens_in, tokens_out))


def test_stated_limits_lower_the_rates(world: World) -> None:
    gate = world.gate(limits=quota(6_000, 600_000, 60_000))
    states_limits(gate, Stated(600), Stated(60_000), Stated(6_000))
    assert gate.view().rates == pytest.approx((10, 1_000, 100), rel=0.02)
    world.pass_time(60)
    assert gate.take(100, 10, 0).granted == 10, "the burst, too"


def test_stated_limits_never_raise_what_is_configured(world: World) -> None:
    gate = world.gate(limits=quota(600, 60_000, 6_000))
    before = gate.view().rates
    states_limits(gate, Stated(6_000), Stated(600_000), Stated(60_000))
    assert gate.view().rates == before


def test_where_nothing_is_configured_the_stated_ones_hold(world: World) -> None:
    gate = world.gate()
    states_limits(gate, Stated(600))
    rates = gate.view().rates
    assert rates[0] == pytest.approx(10, rel=0.02)
    assert rates[1] == rates[2] == float("inf")
    world.pass_time(60)
    assert gate.take(100).granted == 10


def test_the_latest_word_counts(world: World) -> None:
    """Limits rise with an account's tier, too."""
    gate = world.gate(limits=quota(6_000))
    states_limits(gate, Stated(600))
    states_limits(gate, Stated(1_200))
    assert gate.view().rates[0] == pytest.approx(20, rel=0.02)
    gate.take(2)
    first, second = gate.held
    gate.settle_these([first], stated=(Stated(60), NOTHING, NOTHING))
    gate.settle_these([second], stated=SAID)
    assert gate.view().rates[0] == pytest.approx(1, rel=0.02), "not said is not lifted"


def test_what_others_of_the_account_used_is_missing_here(world: World) -> None:
    gate = world.gate(limits=quota(6_000, 600_000, 60_000))
    states_limits(gate, Stated(6_000, 5), Stated(600_000, 0), Stated(60_000, 1_000_000))
    view = gate.view()
    assert view.headroom == pytest.approx(5)
    assert view.input_headroom == 0
    assert view.output_headroom == pytest.approx(1_000), "what is left never fills a bucket"
    assert gate.take(1, 10).reason == "input_tokens"
    world.pass_time(1)
    assert gate.take(1, 10).granted == 1


def test_a_limit_of_nothing_is_not_believed(world: World) -> None:
    gate = world.gate(limits=quota(600))
    states_limits(gate, Stated(0))
    assert gate.view().rates[0] == pytest.approx(10, rel=0.02)


def test_a_stated_limit_below_what_one_call_needs_lets_one_go_at_a_time(world: World) -> None:
    gate = world.gate(limits=quota(tokens_in=60_000))
    states_limits(gate, tokens_in=Stated(100))
    world.pass_time(61)
    assert gate.take(2, 500).granted == 1
    refused = gate.take(1, 500)
    assert 61 <= refused.wait_s <= 6 * 62
    gate.settle()
    world.pass_time(refused.wait_s)
    assert gate.take(2, 500).granted == 1


def test_stated_limits_are_lifted_by_hand(world: World) -> None:
    gate = world.gate(limits=quota(6_000))
    states_limits(gate, Stated(60, 0))
    gate.limits.forget(ROUTE)
    assert gate.view().rates[0] == pytest.approx(100, rel=0.02)


def test_stated_limits_are_the_groups(world: World) -> None:
    shared = quota(6_000, group="claude-*")
    states_limits(world.gate(limits=shared), Stated(60))
    assert world.gate(NEIGHBOUR, shared).view().rates[0] == pytest.approx(1, rel=0.02)


def test_a_pause_after_one_lifted_by_hand_is_told_again(gate: Gate) -> None:
    """SQL knows no other: a restart would let calls into it."""
    gate.call(Verdict.LIMITED, pause_s=3_600)
    gate.limits.forget(ROUTE)
    (change,) = gate.call(Verdict.LIMITED, pause_s=60)
    assert (change.state, change.seconds) == ("limited", 60)
