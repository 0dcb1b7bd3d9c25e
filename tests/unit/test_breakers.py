"""Health: when a (route, model) is taken out of service, how it is probed, and how it comes back."""

import math
import threading

import pytest
from redis.utils import str_if_bytes
from tests.unit.breakers_world import (
    HEALTH,
    LOST_AFTER_S,
    MODEL,
    NEIGHBOUR,
    ROUTE,
    TIMEOUT_S,
    WHOLE_ROUTE,
    Breaker,
    ClockedRedis,
    World,
    quota,
    states,
)

from trivet_routing.limits import PERMIT_GRACE_S, STEP_CALLS, Limits
from trivet_routing.permits import NO_PERMIT, Change, Pace, PermitRelease
from trivet_tasks.config.settings import HealthSettings
from trivet_tasks.latency import Latency
from trivet_tasks.outcomes import HealthSignal
from trivet_tasks.states import RouteState

INTERVAL_S = HEALTH.probe_interval_s
STEP_S = HEALTH.recovery_step_s
UNUSABLE = [HealthSignal.UNUSABLE_MODEL, HealthSignal.UNUSABLE_ROUTE]


@pytest.fixture
def breaker(world: World) -> Breaker:
    return world.breaker()


def hold(world: World, breaker: Breaker) -> list[Change]:
    """Pass the time and calls for which a recovering breaker keeps its share."""
    world.pass_time(STEP_S)
    return breaker.calls(STEP_CALLS)


# opening


def test_it_opens_after_failures_in_a_row(breaker: Breaker, world: World) -> None:
    assert breaker.calls(2, HealthSignal.FAILED) == []
    assert breaker.state == "healthy"
    (change,) = breaker.call(HealthSignal.FAILED, cause="server_error: oh dear")
    assert change == Change(ROUTE, MODEL, RouteState.OPEN, "server_error: oh dear", INTERVAL_S, 0)
    view = breaker.view()
    assert (view.state, view.cause, view.wait_s, view.since) == ("open", change.cause, INTERVAL_S, world.now)
    assert view.shut
    refused = breaker.take(5)
    assert (refused.granted, refused.reason, refused.wait_s) == (0, "open", INTERVAL_S)
    assert breaker.limits.unhealthy() == [(ROUTE, MODEL)]


def test_a_success_between_starts_the_count_anew(breaker: Breaker) -> None:
    breaker.calls(2, HealthSignal.FAILED)
    breaker.call()
    assert breaker.calls(2, HealthSignal.FAILED) == []
    assert breaker.state == "healthy"


@pytest.mark.parametrize("signal", [HealthSignal.NEUTRAL, HealthSignal.UNUSED, HealthSignal.LIMITED])
def test_what_is_not_the_routes_fault_neither_counts_nor_breaks_a_row(
    breaker: Breaker, world: World, signal: HealthSignal
) -> None:
    for _ in range(10):
        breaker.call(signal, pause_s=0.1)
        world.pass_time(0.2)
    assert breaker.state == "healthy"
    assert breaker.view().calls == 0
    breaker.calls(2, HealthSignal.FAILED)
    breaker.call(signal, pause_s=0.1)
    world.pass_time(0.2)
    assert states(breaker.call(HealthSignal.FAILED)) == [(MODEL, "open")]


def test_a_wave_of_failures_opens_it_once(breaker: Breaker) -> None:
    breaker.take(20)
    changes = breaker.settle(HealthSignal.FAILED, count=10) + breaker.settle(HealthSignal.FAILED, count=10)
    assert states(changes) == [(MODEL, "open")]
    assert breaker.view().wait_s == INTERVAL_S


def flapping(breaker: Breaker, good: int, failed: int) -> list[Change]:
    """Never as many failures in a row as would open it by themselves."""
    changes: list[Change] = []
    row = 0
    while good or failed:
        may_fail = failed and (row < HEALTH.open_after_failures - 1 or not good)
        changes += breaker.call(HealthSignal.FAILED if may_fail else HealthSignal.GOOD)
        row = row + 1 if may_fail else 0
        failed, good = (failed - 1, good) if may_fail else (failed, good - 1)
    return changes


def test_it_opens_when_more_than_the_set_share_of_enough_calls_failed(breaker: Breaker) -> None:
    assert flapping(breaker, 5, 5) == [], "half is not more than half"
    assert (breaker.view().calls, breaker.view().failed) == (10, 5)
    (change,) = breaker.call(HealthSignal.FAILED, cause="overloaded: busy")
    assert (change.state, change.cause) == ("open", "6 of 11 calls failed, the last: overloaded: busy")
    assert (breaker.view().calls, breaker.view().failed) == (0, 0), "it begins anew"


def test_a_share_of_few_calls_says_nothing(breaker: Breaker) -> None:
    flapping(breaker, 3, 6)
    assert breaker.state == "healthy"
    assert breaker.call(HealthSignal.FAILED)[0].state == "open", "the tenth is enough"


def test_failures_leave_the_window_with_time(breaker: Breaker, world: World) -> None:
    flapping(breaker, 4, 5)
    seen = []
    for _ in range(12):
        world.pass_time(HEALTH.window_s / 12)
        seen.append(breaker.view().failed)
    assert seen[0] == 5
    assert seen[-1] == 0
    assert 5 in seen[:9], "they stay for most of it"
    assert flapping(breaker, 5, 5) == []


@pytest.mark.parametrize("window_s", [0.001, 0.7, 3_600])
def test_windows_of_any_width(valkey: ClockedRedis, no_jitter: None, window_s: float) -> None:
    world = World(valkey, HealthSettings(window_s=window_s))
    breaker = world.breaker()
    flapping(breaker, 5, 5)
    assert (breaker.view().calls, breaker.view().failed) == (10, 5)
    world.pass_time(window_s * 7 / 6)
    assert breaker.view().calls == 0
    breaker.call()
    assert breaker.view().calls == 1
    assert (
        len([name for name in valkey.hkeys(f"trivet:breaker:{ROUTE}:{MODEL}") if str_if_bytes(name).startswith("w")])
        <= 7
    )


def test_a_window_of_another_width_counts_for_nothing(breaker: Breaker, world: World) -> None:
    """The settings changed; the old slots of time have other numbers."""
    breaker.calls(5)
    breaker.limits = Limits(world.client, HEALTH.model_copy(update={"window_s": 300}))
    assert breaker.view().calls == 0
    breaker.call()
    assert breaker.view().calls == 1


def test_calls_that_ran_out_of_too_short_a_time_count_only_when_many_do_and_none_succeeds(breaker: Breaker) -> None:
    assert breaker.calls(HEALTH.min_calls - 1, HealthSignal.SHORT) == []
    breaker.call()
    assert breaker.view().calls == 1
    assert breaker.calls(HEALTH.min_calls - 1, HealthSignal.SHORT) == []
    assert states(breaker.calls(1, HealthSignal.SHORT)) == [(MODEL, "open")]


def test_what_is_told_twice_counts_once(breaker: Breaker) -> None:
    breaker.take(2)
    held = list(breaker.held)
    assert breaker.settle(HealthSignal.FAILED, count=2) == []
    assert breaker.settle_these(held, HealthSignal.FAILED) == [], "four failures would have opened it"


def test_one_models_failure_leaves_its_neighbours_alone(breaker: Breaker, world: World) -> None:
    neighbour = world.breaker(NEIGHBOUR)
    neighbour.calls(2, HealthSignal.FAILED)
    world.open(breaker)
    assert neighbour.take(3).granted == 3
    assert neighbour.state == "healthy"
    assert world.breaker(WHOLE_ROUTE).state == "healthy"


# generations


@pytest.mark.parametrize("signal", list(HealthSignal))
@pytest.mark.parametrize("state", ["open", "probing", "recovering", "healthy"])
def test_late_words_of_calls_from_before_change_nothing(
    breaker: Breaker, world: World, signal: HealthSignal, state: str
) -> None:
    """They say how it was, not how it is."""
    before = world.breaker()
    before.take(10)
    world.open(breaker)
    if state != "open":
        world.probing(breaker)
    if state in ("recovering", "healthy"):
        world.probing(breaker)
        world.probing(breaker)
    if state == "healthy":
        for _ in HEALTH.recovery_shares[1:]:
            hold(world, breaker)
    seen = breaker.view()
    changes = before.settle(signal, count=10)
    if signal is HealthSignal.LIMITED:
        assert states(changes) == [(MODEL, "limited")], "that is no matter of health"
    elif signal in (HealthSignal.UNUSABLE_ROUTE, HealthSignal.UNREACHABLE):
        assert states(changes) == [(WHOLE_ROUTE, "open")], "of the route, which has not changed, it is the first word"
    else:
        in_doubt = signal is HealthSignal.CONTRADICTED and state in ("recovering", "healthy")
        assert bool(breaker.view().doubt) == in_doubt, "a word from now, of a call of any age"
        assert changes == []
        assert (breaker.view().state, breaker.view().share, breaker.view().places) == (
            seen.state,
            seen.share,
            seen.places,
        )
        assert (breaker.view().calls, breaker.view().failed) == (seen.calls, seen.failed)


@pytest.mark.parametrize("signal", [HealthSignal.GOOD, HealthSignal.FAILED, HealthSignal.UNUSED, HealthSignal.NEUTRAL])
def test_late_words_leave_a_probe_under_way_alone(breaker: Breaker, world: World, signal: HealthSignal) -> None:
    before = world.breaker()
    before.take()
    world.open(breaker)
    world.pass_time(INTERVAL_S)
    token = breaker.claim()
    assert breaker.take(probe=token or "").granted == 1
    before.settle(signal)
    world.pass_time(INTERVAL_S)
    assert breaker.claim() is None, "it is under way still"
    assert states(breaker.settle()) == [(MODEL, "probing")]


# probes


def test_only_a_probe_passes_an_open_breaker_and_only_when_it_is_due(breaker: Breaker, world: World) -> None:
    world.open(breaker)
    world.pass_time(INTERVAL_S - 0.1)
    assert breaker.claim() is None
    world.pass_time(0.2)
    assert breaker.take(5).reason == "open", "being due opens nothing to others"
    token = breaker.claim()
    assert token
    assert breaker.take(probe="another").granted == 0
    assert breaker.take(3, probe=token).granted == 1, "one call, whatever is asked for"


def test_a_token_is_good_for_one_call(breaker: Breaker, world: World) -> None:
    """The message with it may be delivered twice."""
    world.open(breaker)
    world.pass_time(INTERVAL_S)
    token = breaker.claim() or ""
    assert breaker.take(probe=token).granted == 1
    assert breaker.take(probe=token).granted == 0
    breaker.settle()
    assert breaker.take(probe=token).granted == 0


def test_one_probe_at_a_time_however_many_look(breaker: Breaker, world: World) -> None:
    world.open(breaker)
    world.pass_time(INTERVAL_S)
    tokens: list[str | None] = []
    barrier = threading.Barrier(8)

    def look() -> None:
        mine = world.breaker()
        barrier.wait(60)
        tokens.extend(mine.claim() for _ in range(5))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(tokens) == 40
    assert len([token for token in tokens if token]) == 1


def test_good_probes_in_a_row_begin_the_recovery(breaker: Breaker, world: World) -> None:
    world.open(breaker)
    assert states(world.probing(breaker)) == [(MODEL, "probing")]
    assert breaker.view().wait_s == INTERVAL_S / 5, "the next comes sooner"
    assert breaker.take().reason == "probing"
    assert breaker.claim() is None
    world.pass_time(INTERVAL_S / 5)
    assert breaker.probe() == []
    (change,) = world.probing(breaker)
    assert change == Change(ROUTE, MODEL, RouteState.RECOVERING, "good probes", 0, 0.10)
    assert not breaker.view().shut


def test_a_bad_probe_starts_the_row_anew(breaker: Breaker, world: World) -> None:
    world.open(breaker)
    world.probing(breaker)
    world.probing(breaker)
    assert states(world.probing(breaker, HealthSignal.FAILED)) == [(MODEL, "open")]
    for _ in range(2):
        assert breaker.view().wait_s == INTERVAL_S
        assert world.probing(breaker, HealthSignal.FAILED) == [], "open already: no news"
        assert breaker.state == "open"
    since = breaker.view().since
    assert since is not None
    assert since < world.now - INTERVAL_S, "it is open since it was opened, not since the last probe"
    world.probing(breaker)
    world.probing(breaker)
    assert breaker.state == "probing"


def test_one_good_probe_is_enough_where_settings_say_so(valkey: ClockedRedis, no_jitter: None) -> None:
    world = World(valkey, HEALTH.model_copy(update={"close_after_successes": 1, "recovery_shares": (1.0,)}))
    breaker = world.breaker()
    world.open(breaker)
    assert states(world.probing(breaker)) == [(MODEL, "healthy")]
    assert breaker.take(9).granted == 9


def test_a_lost_probe_is_followed_by_another(breaker: Breaker, world: World) -> None:
    world.open(breaker)
    world.pass_time(INTERVAL_S)
    first = breaker.claim() or ""
    assert breaker.take(probe=first).granted == 1
    world.pass_time(TIMEOUT_S + PERMIT_GRACE_S - 0.1)
    assert breaker.claim() is None
    world.pass_time(0.2)
    second = breaker.claim() or ""
    assert second not in ("", first)
    assert breaker.settle(HealthSignal.FAILED) == [], "the lost one says nothing any more"
    assert breaker.take(probe=first).granted == 0
    assert breaker.take(probe=second).granted == 1
    assert states(breaker.settle()) == [(MODEL, "probing")]


def test_a_probe_that_was_not_made_lets_another_go_soon(breaker: Breaker, world: World) -> None:
    world.open(breaker)
    assert world.probing(breaker, HealthSignal.UNUSED) == []
    assert breaker.claim() is None
    world.pass_time(INTERVAL_S / 4)
    assert states(breaker.probe()) == [(MODEL, "probing")]


def test_a_probe_that_says_nothing_is_followed_by_one_in_its_time(breaker: Breaker, world: World) -> None:
    world.open(breaker)
    assert world.probing(breaker, HealthSignal.NEUTRAL) == []
    assert breaker.claim() is None
    assert states(world.probing(breaker)) == [(MODEL, "probing")]


def test_nobody_probes_a_limited_route(breaker: Breaker, world: World) -> None:
    world.open(breaker)
    world.probing(breaker, HealthSignal.LIMITED, pause_s=3 * INTERVAL_S)
    assert breaker.state == "open"
    assert breaker.view().wait_s == 3 * INTERVAL_S
    world.pass_time(3 * INTERVAL_S - 0.1)
    assert breaker.claim() is None
    world.pass_time(0.2)
    assert states(breaker.probe()) == [(MODEL, "probing")]


def test_a_probe_asked_for_by_hand_waits_for_nothing_but_another_probe(breaker: Breaker, world: World) -> None:
    assert breaker.claim() is None, "a healthy one needs none"
    assert breaker.claim(at_once=True)
    world.open(breaker)
    token = breaker.claim(at_once=True) or ""
    assert breaker.claim(at_once=True) is None
    assert breaker.take(probe=token).granted == 1
    assert states(breaker.settle()) == [(MODEL, "probing")]


def test_a_full_route_makes_a_probe_wait(world: World) -> None:
    """Earlier calls may still hang there; the limit holds."""
    breaker = world.breaker(limits=quota(most=3))
    before = world.breaker(limits=quota(most=3))
    breaker.take(3)
    before.held, breaker.held = breaker.held[:2], breaker.held[2:]
    breaker.settle(HealthSignal.UNUSABLE_MODEL)
    breaker.take()
    world.pass_time(INTERVAL_S)
    token = breaker.claim() or ""
    assert breaker.take(probe=token).granted == 1
    breaker.settle(HealthSignal.FAILED)
    assert before.settle(HealthSignal.FAILED, count=2) == []


def test_probes_of_several_routes_do_not_fall_together(valkey: ClockedRedis) -> None:
    world = World(valkey)
    waits = set()
    for number in range(30):
        breaker = world.breaker(f"model-{number}")
        breaker.calls(3, HealthSignal.FAILED)
        waits.add(breaker.view().wait_s)
    assert len(waits) > 20
    assert 0.8 * INTERVAL_S <= min(waits) < 0.95 * INTERVAL_S
    assert 1.05 * INTERVAL_S < max(waits) <= 1.2 * INTERVAL_S


# recovery


def test_the_share_climbs_while_it_holds(breaker: Breaker, world: World) -> None:
    world.open(breaker)
    world.recover(breaker)
    shares = [breaker.view().share]
    changes: list[Change] = []
    while breaker.state == "recovering":
        changes += hold(world, breaker)
        shares.append(breaker.view().share)
    assert shares == [0.10, 0.25, 0.50, 1.0]
    assert [(change.state, change.share) for change in changes] == [
        ("recovering", 0.25),
        ("recovering", 0.50),
        ("healthy", 1),
    ]
    assert breaker.state == "healthy"
    assert breaker.limits.unhealthy() == []
    assert breaker.take(300).granted == 300
    breaker.settle(count=300)
    assert breaker.calls(2, HealthSignal.FAILED) == [], "the failures of then are forgotten"


def test_a_step_needs_time_and_calls(breaker: Breaker, world: World) -> None:
    world.open(breaker)
    world.recover(breaker)
    assert breaker.calls(50) == []
    assert breaker.view().share == 0.10, "no time has passed"
    world.pass_time(STEP_S - 0.1)
    assert breaker.call() == []
    world.pass_time(0.1)
    assert breaker.call()[0].share == 0.25
    world.pass_time(10 * STEP_S)
    assert breaker.calls(STEP_CALLS - 1) == []
    assert breaker.view().share == 0.25, "nor is time alone enough"
    assert breaker.call()[0].share == 0.50


def test_a_route_let_back_in_is_not_flooded(world: World) -> None:
    """One at a time, then two more for every good answer, up to the share of what it may have in flight."""
    breaker = world.breaker(limits=quota(most=100))
    world.open(breaker)
    world.recover(breaker)
    waves: list[int] = []
    for _ in range(5):
        assert breaker.view().places == min(10, 1 + 2 * sum(waves))
        waves.append(breaker.take(100).granted)
        assert breaker.take().reason == "concurrency"
        breaker.settle(count=waves[-1])
    assert waves == [1, 3, 9, 10, 10]
    world.pass_time(STEP_S)
    assert breaker.calls(STEP_CALLS)[0].share == 0.25
    assert breaker.take(100).granted == 25


@pytest.mark.parametrize(("failures", "state"), [(1, "recovering"), (2, "open")])
def test_it_is_open_again_if_it_fails(breaker: Breaker, world: World, failures: int, state: str) -> None:
    world.open(breaker)
    world.recover(breaker)
    hold(world, breaker)
    changes = breaker.calls(failures, HealthSignal.FAILED)
    assert breaker.state == state
    assert [change.state for change in changes] == (["open"] if state == "open" else [])
    if state == "open":
        assert breaker.view().wait_s == INTERVAL_S
        world.recover(breaker)
        assert breaker.view().share == 0.10, "from the first share on"
        assert breaker.view().places == 1


def test_a_recovering_one_opens_by_its_failed_share_too(breaker: Breaker, world: World) -> None:
    world.open(breaker)
    world.recover(breaker)
    assert flapping_in_turn(breaker, 10) == [], "not more than half, nor two in a row"
    assert breaker.call(HealthSignal.FAILED, cause="no")[0].cause == "6 of 11 calls failed, the last: no"


def flapping_in_turn(breaker: Breaker, count: int) -> list[Change]:
    return [
        change for n in range(count) for change in breaker.call(HealthSignal.GOOD if n % 2 else HealthSignal.FAILED)
    ]


def test_a_recovering_one_that_nobody_uses_is_probed(breaker: Breaker, world: World) -> None:
    world.open(breaker)
    world.recover(breaker)
    assert breaker.claim() is None
    rounds = 0
    while breaker.state == "recovering":
        world.pass_time(INTERVAL_S + 0.1)
        breaker.probe()
        rounds += 1
    assert breaker.state == "healthy"
    assert rounds == 3 * STEP_CALLS


def test_a_recovering_one_in_use_is_not_probed(breaker: Breaker, world: World) -> None:
    world.open(breaker)
    world.recover(breaker)
    for _ in range(10):
        world.pass_time(INTERVAL_S / 2)
        breaker.call()
        assert breaker.claim() is None


def test_a_recovering_model_finds_its_places_beside_a_busy_neighbour(world: World) -> None:
    """They share their limits, not their health."""
    shared = quota(most=100, group="claude-*")
    breaker, neighbour = world.breaker(limits=shared), world.breaker(NEIGHBOUR, shared)
    neighbour.take(50)
    world.open(breaker)
    assert neighbour.state == "healthy"
    world.recover(breaker)
    assert (breaker.view().in_flight, breaker.view().places) == (0, 1)
    assert breaker.take(9).granted == 1
    breaker.settle()
    assert breaker.take(9).granted == 3
    assert (neighbour.view().in_flight, neighbour.view().places) == (53, 100)
    assert neighbour.take(100).granted == 47
    breaker.settle(count=3)
    assert breaker.take(9).granted == 3, "the group's own limit holds as well"
    assert breaker.take().reason == "concurrency"


# what refuses us


@pytest.mark.parametrize("signal", UNUSABLE)
def test_probes_of_what_refuses_us_back_off_to_the_longest_pause(
    breaker: Breaker, world: World, signal: HealthSignal
) -> None:
    (change,) = breaker.call(signal)
    pauses = [change.seconds]
    for _ in range(10):
        world.pass_time(breaker.view().wait_s)
        assert breaker.probe(signal) == []
        pauses.append(breaker.view().wait_s)
    assert pauses == pytest.approx([min(INTERVAL_S * 2**n, HEALTH.unusable_probe_max_s) for n in range(11)])
    world.pass_time(HEALTH.unusable_probe_max_s)
    breaker.probe()
    assert breaker.view().wait_s == INTERVAL_S / 5, "a good one, and it goes on as with any other"


def test_a_model_that_is_not_to_be_had_closes_only_itself(breaker: Breaker, world: World) -> None:
    assert states(breaker.call(HealthSignal.UNUSABLE_MODEL)) == [(MODEL, "open")]
    assert breaker.take().reason == "open"
    assert world.breaker(NEIGHBOUR).take().granted == 1


def test_an_account_that_refuses_us_closes_the_whole_route(breaker: Breaker, world: World) -> None:
    neighbour, elsewhere = world.breaker(NEIGHBOUR), world.breaker()
    elsewhere.route = "vertex-us-east5"
    (change,) = breaker.call(HealthSignal.UNUSABLE_ROUTE, cause="unusable: no credit")
    assert change == Change(ROUTE, WHOLE_ROUTE, RouteState.OPEN, "unusable: no credit", INTERVAL_S, 0)
    assert (neighbour.take().reason, breaker.take().reason) == ("open", "open")
    assert (neighbour.state, neighbour.view().cause) == ("open", "unusable: no credit")
    assert elsewhere.take().granted == 1
    assert breaker.limits.unhealthy() == [(ROUTE, WHOLE_ROUTE)]


def test_one_models_probe_speaks_for_the_whole_route(breaker: Breaker, world: World) -> None:
    neighbour = world.breaker(NEIGHBOUR)
    breaker.call(HealthSignal.UNUSABLE_ROUTE)
    world.pass_time(INTERVAL_S)
    token = neighbour.claim() or ""
    assert breaker.claim() is None, "one at a time for the route, whichever model"
    assert breaker.take(probe=token).granted == 1, "whoever has the token"
    assert breaker.take().granted == 0
    assert states(breaker.settle()) == [(WHOLE_ROUTE, "probing")]
    world.probing(neighbour)
    assert states(world.probing(breaker)) == [(WHOLE_ROUTE, "recovering")]
    assert (breaker.view().share, neighbour.view().share) == (0.10, 0.10)
    assert (breaker.view().places, neighbour.view().places) == (1, 1)


def test_a_bad_probe_between_breaks_the_row_of_the_whole_route(breaker: Breaker, world: World) -> None:
    breaker.call(HealthSignal.UNUSABLE_ROUTE)
    world.probing(breaker)
    world.probing(breaker)
    assert states(world.probing(breaker, HealthSignal.FAILED)) == [(WHOLE_ROUTE, "open")]
    world.probing(breaker)
    world.probing(breaker)
    assert breaker.state == "probing"
    assert states(world.probing(breaker)) == [(WHOLE_ROUTE, "recovering")]


def test_route_and_model_come_back_together(breaker: Breaker, world: World) -> None:
    neighbour = world.breaker(NEIGHBOUR)
    before = world.breaker()
    before.take()
    world.open(breaker)
    assert states(before.settle(HealthSignal.UNUSABLE_ROUTE)) == [(WHOLE_ROUTE, "open")]
    assert breaker.limits.unhealthy() == [(ROUTE, WHOLE_ROUTE), (ROUTE, MODEL)]
    changes = [change for _ in range(HEALTH.close_after_successes) for change in world.probing(breaker)]
    assert states(changes) == [
        (MODEL, "probing"),
        (WHOLE_ROUTE, "probing"),
        (MODEL, "recovering"),
        (WHOLE_ROUTE, "recovering"),
    ]
    world.pass_time(STEP_S)
    neighbour.calls(STEP_CALLS)
    assert (neighbour.view().share, breaker.view().share) == (0.25, 0.10), "the lesser of the two counts"
    breaker.calls(STEP_CALLS)
    assert breaker.view().share == 0.25
    assert states(breaker.calls(2, HealthSignal.FAILED)) == [(MODEL, "open")]
    assert neighbour.state == "recovering"
    while neighbour.state != "healthy":
        hold(world, neighbour)
    assert breaker.state == "open"
    world.recover(breaker)
    while breaker.state != "healthy":
        hold(world, breaker)
    assert breaker.limits.unhealthy() == []


def test_an_open_model_does_not_hide_behind_a_recovering_route(breaker: Breaker, world: World) -> None:
    before = world.breaker()
    before.take(3)
    world.breaker(NEIGHBOUR).call(HealthSignal.UNUSABLE_ROUTE)
    assert states(before.settle(HealthSignal.FAILED, count=3)) == [(MODEL, "open")]
    world.recover(world.breaker(NEIGHBOUR))
    assert breaker.state == "open"
    assert breaker.take().reason == "open"
    assert world.breaker(NEIGHBOUR).take().granted == 1


# contradicted


def contradict(breaker: Breaker) -> list[Change]:
    """Another route served what this one refused; there is no permit to give back."""
    spent = PermitRelease(NO_PERMIT, 0, 0, HealthSignal.CONTRADICTED, "unusable: it refused what anthropic served")
    return breaker.limits.release(breaker.route, breaker.model, Latency.BATCH, breaker.quota, [spent])


def test_five_contradictions_in_a_row_are_for_a_probe_to_judge(breaker: Breaker, world: World) -> None:
    neighbour = world.breaker(NEIGHBOUR)
    for _ in range(4):
        assert contradict(breaker) == []
    assert contradict(neighbour) == []
    assert (breaker.claim(), breaker.view().doubt) == (None, "")
    assert contradict(breaker) == []
    assert breaker.view().doubt == "unusable: it refused what anthropic served"
    assert breaker.view().state == "healthy", "what some requests have in common closes it for no other"
    assert contradict(breaker) == [], "once"
    assert states(breaker.probe(HealthSignal.UNUSABLE_MODEL)) == [(MODEL, "open")]
    assert neighbour.state == "healthy"
    assert neighbour.claim() is None


def test_a_good_answer_between_breaks_the_row(breaker: Breaker) -> None:
    for _ in range(4):
        contradict(breaker)
    breaker.call()
    for _ in range(4):
        assert contradict(breaker) == []
    assert breaker.state == "healthy"


# one job's failures, and pages of proxies


@pytest.mark.parametrize("signal", [HealthSignal.FAILED, HealthSignal.SHORT, HealthSignal.DOUBTED])
def test_one_jobs_failures_close_nothing_however_often(breaker: Breaker, world: World, signal: HealthSignal) -> None:
    for _ in range(3 * HEALTH.min_calls):
        assert breaker.call(signal, job="poison") == []
        world.pass_time(HEALTH.window_s / 2)
    assert (breaker.state, breaker.claim()) == ("healthy", None)


def test_one_jobs_failure_counts_once_in_the_window(breaker: Breaker) -> None:
    breaker.calls(3, job="good")
    for _ in range(HEALTH.min_calls):
        breaker.call(HealthSignal.FAILED, job="poison")
        breaker.call(job="good")
    view = breaker.view()
    assert (view.state, view.failed) == ("healthy", 1)


def test_after_an_answer_a_job_counts_in_the_row_again(breaker: Breaker) -> None:
    for _ in range(HEALTH.open_after_failures - 1):
        breaker.call(HealthSignal.FAILED)
    breaker.call(HealthSignal.FAILED, job="poison")
    assert breaker.state == "open"


def doubt(breaker: Breaker, *jobs: str) -> None:
    for job in jobs:
        assert breaker.call(HealthSignal.DOUBTED, job=job, cause="proxy_error: HTTP 403") == []


def test_pages_to_several_jobs_in_a_row_are_for_a_probe_to_judge(breaker: Breaker) -> None:
    doubt(breaker, "a", "b", "b", "a")
    assert (breaker.view().doubt, breaker.claim()) == ("", None)
    doubt(breaker, "c")
    view = breaker.view()
    assert (view.state, view.doubt) == ("healthy", "proxy_error: HTTP 403")
    assert breaker.take(3).granted == 3, "until the probe is back it works on"
    assert breaker.limits.unhealthy() == [(ROUTE, MODEL)]
    assert breaker.probe() == []
    assert (breaker.view().state, breaker.view().doubt) == ("healthy", "")
    assert breaker.limits.unhealthy() == []
    assert breaker.claim() is None


def test_good_probes_of_a_breaker_in_doubt_do_not_make_it_recover(breaker: Breaker, world: World) -> None:
    for number in range(2 * HEALTH.close_after_successes):
        doubt(breaker, *(f"{number}-{job}" for job in "abc"))
        token = breaker.claim()
        assert token
        assert breaker.take(probe=token).granted == 1
        probe = breaker.held.pop()
        assert breaker.call() == [], "an answer to somebody else comes first"
        assert breaker.settle_these([probe]) == []
        assert breaker.view().state == "healthy"
        world.pass_time(HEALTH.probe_interval_s)


def test_an_answer_ends_the_doubt(breaker: Breaker) -> None:
    doubt(breaker, "a", "b", "c")
    breaker.call(job="d")
    assert (breaker.view().doubt, breaker.claim(), breaker.limits.unhealthy()) == ("", None, [])
    doubt(breaker, "a", "b")
    assert breaker.claim() is None, "a row begins anew"


def test_a_probe_that_meets_the_page_closes_the_whole_route_until_one_gets_through(
    breaker: Breaker, world: World
) -> None:
    doubt(breaker, "a", "b", "c")
    assert states(breaker.probe(HealthSignal.UNREACHABLE)) == [(WHOLE_ROUTE, "open")]
    assert breaker.take().granted == 0
    world.pass_time(HEALTH.probe_interval_s)
    assert breaker.probe(HealthSignal.UNREACHABLE) == []
    world.pass_time(HEALTH.probe_interval_s)
    assert breaker.probe() != [], "the pause does not grow: a proxy is mended without a word to anybody"


def test_a_job_that_met_two_pages_is_checked_at_once(breaker: Breaker, world: World) -> None:
    breaker.call(HealthSignal.CHECK, job="a")
    assert breaker.probe() == []
    breaker.call(HealthSignal.CHECK, job="a")
    assert breaker.claim() is None, "not one probe after the other"
    world.pass_time(HEALTH.probe_interval_s)
    assert breaker.probe() == []


def test_a_doubt_that_stands_is_probed_again_when_the_probe_is_lost(breaker: Breaker, world: World) -> None:
    doubt(breaker, "a", "b", "c")
    assert breaker.claim()
    assert breaker.claim() is None
    world.pass_time(LOST_AFTER_S)
    assert breaker.claim()


def test_the_newest_answered_call_is_known_by_its_beginning(breaker: Breaker, world: World) -> None:
    assert breaker.view().proven_s == math.inf
    breaker.call(lasted_s=4.0)
    world.pass_time(2)
    assert breaker.view().proven_s == pytest.approx(6.0)
    breaker.call(lasted_s=9.0)
    assert breaker.view().proven_s == pytest.approx(6.0), "one that began earlier says nothing newer"
    breaker.call(HealthSignal.FAILED)
    assert breaker.view().proven_s == pytest.approx(6.0)


# by hand


def test_what_was_set_right_is_forgotten_by_hand(breaker: Breaker, world: World) -> None:
    neighbour = world.breaker(NEIGHBOUR)
    before = world.breaker()
    before.take(2)
    world.open(breaker)
    before.settle(HealthSignal.UNUSABLE_ROUTE)
    before.settle(HealthSignal.LIMITED, pause_s=3_600)
    breaker.limits.forget(ROUTE)
    assert breaker.view().state == neighbour.view().state == "healthy"
    assert breaker.view().wait_s == 0
    assert breaker.limits.unhealthy() == []
    assert breaker.take(5).granted == neighbour.take(5).granted == 5


def test_what_was_used_is_not_forgotten(world: World) -> None:
    breaker = world.breaker(limits=quota(tokens_in=6_000))
    breaker.take(2, 3_000)
    breaker.settle(HealthSignal.LIMITED, pause_s=3_600)
    breaker.limits.forget(ROUTE)
    assert breaker.state == "healthy"
    assert 25 < breaker.view().wait_s < 61, "the provider still counts it"
    world.pass_time(61)
    assert breaker.take(1, 3_000).granted == 1


def test_other_routes_are_not_forgotten(breaker: Breaker, world: World) -> None:
    other = world.breaker()
    other.route = f"{ROUTE}-2"
    for one in (breaker, other):
        world.open(one)
    breaker.limits.forget(ROUTE)
    assert (breaker.state, other.state) == ("healthy", "open")
    assert breaker.limits.unhealthy() == [(other.route, MODEL)]


@pytest.mark.parametrize("signal", [HealthSignal.FAILED, *UNUSABLE])
def test_late_words_do_not_undo_what_was_forgotten(breaker: Breaker, world: World, signal: HealthSignal) -> None:
    before = world.breaker()
    before.take(5)
    world.open(breaker)
    breaker.limits.forget(ROUTE)
    assert before.settle(signal, count=5) == []
    assert breaker.state == "healthy"


@pytest.mark.parametrize("signal", [HealthSignal.GOOD, HealthSignal.FAILED, HealthSignal.UNUSED, *UNUSABLE])
def test_forgotten_while_a_probe_is_under_way(breaker: Breaker, world: World, signal: HealthSignal) -> None:
    world.open(breaker)
    world.pass_time(INTERVAL_S)
    breaker.take(probe=breaker.claim() or "")
    breaker.limits.forget(ROUTE)
    probe = breaker.held.pop()
    world.pass_time(1)
    world.open(breaker)
    assert breaker.settle_these([probe], signal) == []
    assert breaker.state == "open"
    assert breaker.view().wait_s == INTERVAL_S
    world.recover(breaker)


# pace


def test_paces_are_kept_per_class_from_the_calls_that_say_something(breaker: Breaker, world: World) -> None:
    assert breaker.view().paces == {}
    for took in (1.0, 2.0, 3.0, 4.0):
        breaker.call(took_s=took)
    breaker.call(HealthSignal.FAILED, took_s=10.0, late=True)
    breaker.call(HealthSignal.FAILED)
    breaker.call(HealthSignal.NEUTRAL, took_s=30.0, latency=Latency.REALTIME)
    world.pass_time(7)
    paces = breaker.view().paces
    assert set(paces) == {Latency.BATCH, Latency.REALTIME}
    batch = paces[Latency.BATCH]
    assert batch == Pace(3.0, 10.0, 5, 7.0, late=1)
    assert paces[Latency.REALTIME].p50_s == 30.0
    assert breaker.view().pace(Latency.ASYNC) == batch, "the quickest of the others"


def test_old_and_surplus_samples_do_not_count(breaker: Breaker, world: World) -> None:
    breaker.take(20)
    breaker.settle(count=20, took_s=50.0)
    world.pass_time(301)
    breaker.call(took_s=1.0)
    assert (breaker.view().paces[Latency.BATCH].p95_s, breaker.view().paces[Latency.BATCH].calls) == (1.0, 1)
    breaker.take(150)
    breaker.settle(count=150, took_s=2.0)
    assert breaker.view().paces[Latency.BATCH].calls == 100


# words


@pytest.mark.parametrize("cause", ["half a \ud800 pair", "nul \0 and % and %s", "x" * 100_000, "ünïcode", ""])
def test_whatever_a_provider_says_it_is_settled(breaker: Breaker, cause: str) -> None:
    breaker.take(3)
    spent = [PermitRelease(held, 0, 0, HealthSignal.FAILED, cause) for held in breaker.held]
    (change,) = breaker.limits.release(ROUTE, MODEL, Latency.BATCH, breaker.quota, spent)
    assert change.state == "open"
    assert len(change.cause) <= 300
    assert breaker.view().cause == change.cause


def test_a_lease_outlives_its_calls_timeout(breaker: Breaker, world: World) -> None:
    """A slow call's permit is not given to another while the call is still made."""
    breaker.quota = quota(most=1, group=MODEL)
    breaker.take(timeout_s=TIMEOUT_S)
    world.pass_time(TIMEOUT_S + PERMIT_GRACE_S - 0.1)
    assert breaker.take().granted == 0
