"""Health: when a (route, model) is taken out of service, how it is probed, and how it comes back."""

import math
import threading

import pytest
from redis.utils import str_if_bytes
from tests.unit.gates_world import (
    HEALTH,
    LOST_AFTER_S,
    MODEL,
    NEIGHBOUR,
    ROUTE,
    TIMEOUT_S,
    WHOLE_ROUTE,
    ClockedRedis,
    Gate,
    World,
    limits_on_test_clock,
    quota,
    states,
)

from trivet_routing.limits import PERMIT_GRACE_S, STEP_CALLS
from trivet_routing.permits import Change, Spent, Verdict, Want
from trivet_tasks.config.settings import HealthSettings
from trivet_tasks.latency import Latency
from trivet_tasks.states import RouteState

INTERVAL_S = HEALTH.probe_interval_s
STEP_S = HEALTH.recovery_step_s
UNUSABLE = [Verdict.UNUSABLE_MODEL, Verdict.UNUSABLE_ROUTE]


@pytest.fixture
def gate(world: World) -> Gate:
    return world.gate()


def hold(world: World, gate: Gate) -> list[Change]:
    """A recovering gate holds its share: time and calls enough."""
    world.pass_time(STEP_S)
    return gate.calls(STEP_CALLS)


# opening


def test_it_opens_after_failures_in_a_row(gate: Gate, world: World) -> None:
    assert gate.calls(2, Verdict.FAILED) == []
    assert gate.state == "healthy"
    (change,) = gate.call(Verdict.FAILED, cause="server_error: oh dear")
    assert change == Change(ROUTE, MODEL, RouteState.OPEN, "server_error: oh dear", INTERVAL_S, 0)
    view = gate.view()
    assert (view.state, view.cause, view.wait_s, view.since) == ("open", change.cause, INTERVAL_S, world.now)
    assert view.shut
    refused = gate.take(5)
    assert (refused.granted, refused.reason, refused.wait_s) == (0, "open", INTERVAL_S)
    assert gate.limits.unwell() == [(ROUTE, MODEL)]


def test_a_success_between_starts_the_count_anew(gate: Gate) -> None:
    gate.calls(2, Verdict.FAILED)
    gate.call()
    assert gate.calls(2, Verdict.FAILED) == []
    assert gate.state == "healthy"


@pytest.mark.parametrize("verdict", [Verdict.NEUTRAL, Verdict.UNUSED, Verdict.LIMITED])
def test_what_is_not_the_routes_fault_neither_counts_nor_breaks_a_row(
    gate: Gate, world: World, verdict: Verdict
) -> None:
    for _ in range(10):
        gate.call(verdict, pause_s=0.1)
        world.pass_time(0.2)
    assert gate.state == "healthy"
    assert gate.view().calls == 0
    gate.calls(2, Verdict.FAILED)
    gate.call(verdict, pause_s=0.1)
    world.pass_time(0.2)
    assert states(gate.call(Verdict.FAILED)) == [(MODEL, "open")]


def test_a_wave_of_failures_opens_it_once(gate: Gate) -> None:
    gate.take(20)
    changes = gate.settle(Verdict.FAILED, count=10) + gate.settle(Verdict.FAILED, count=10)
    assert states(changes) == [(MODEL, "open")]
    assert gate.view().wait_s == INTERVAL_S


def flapping(gate: Gate, good: int, failed: int) -> list[Change]:
    """Never as many failures in a row as would open it by themselves."""
    changes: list[Change] = []
    row = 0
    while good or failed:
        may_fail = failed and (row < HEALTH.open_after_failures - 1 or not good)
        changes += gate.call(Verdict.FAILED if may_fail else Verdict.GOOD)
        row = row + 1 if may_fail else 0
        failed, good = (failed - 1, good) if may_fail else (failed, good - 1)
    return changes


def test_it_opens_when_more_than_the_set_share_of_enough_calls_failed(gate: Gate) -> None:
    assert flapping(gate, 5, 5) == [], "half is not more than half"
    assert (gate.view().calls, gate.view().failed) == (10, 5)
    (change,) = gate.call(Verdict.FAILED, cause="overloaded: busy")
    assert (change.state, change.cause) == ("open", "6 of 11 calls failed, the last: overloaded: busy")
    assert (gate.view().calls, gate.view().failed) == (0, 0), "it begins anew"


def test_a_share_of_few_calls_says_nothing(gate: Gate) -> None:
    flapping(gate, 3, 6)
    assert gate.state == "healthy"
    assert gate.call(Verdict.FAILED)[0].state == "open", "the tenth is enough"


def test_failures_leave_the_window_with_time(gate: Gate, world: World) -> None:
    flapping(gate, 4, 5)
    seen = []
    for _ in range(12):
        world.pass_time(HEALTH.window_s / 12)
        seen.append(gate.view().failed)
    assert seen[0] == 5
    assert seen[-1] == 0
    assert 5 in seen[:9], "they stay for most of it"
    assert flapping(gate, 5, 5) == []


@pytest.mark.parametrize("window_s", [0.001, 0.7, 3_600])
def test_windows_of_any_width(valkey: ClockedRedis, no_jitter: None, window_s: float) -> None:
    world = World(valkey, HealthSettings(window_s=window_s))
    gate = world.gate()
    flapping(gate, 5, 5)
    assert (gate.view().calls, gate.view().failed) == (10, 5)
    world.pass_time(window_s * 7 / 6)
    assert gate.view().calls == 0
    gate.call()
    assert gate.view().calls == 1
    assert (
        len([name for name in valkey.hkeys(f"trivet:gate:{ROUTE}:{MODEL}") if str_if_bytes(name).startswith("w")]) <= 7
    )


def test_a_window_of_another_width_counts_for_nothing(gate: Gate, world: World) -> None:
    """The settings changed; the slots of old are numbered otherwise."""
    gate.calls(5)
    gate.limits = limits_on_test_clock(world.client, HEALTH.model_copy(update={"window_s": 300}))
    assert gate.view().calls == 0
    gate.call()
    assert gate.view().calls == 1


def test_calls_that_ran_out_of_too_short_a_time_count_only_when_many_do_and_none_succeeds(gate: Gate) -> None:
    assert gate.calls(HEALTH.min_calls - 1, Verdict.SHORT) == []
    gate.call()
    assert gate.view().calls == 1
    assert gate.calls(HEALTH.min_calls - 1, Verdict.SHORT) == []
    assert states(gate.calls(1, Verdict.SHORT)) == [(MODEL, "open")]


def test_what_is_told_twice_counts_once(gate: Gate) -> None:
    gate.take(2)
    held = list(gate.held)
    assert gate.settle(Verdict.FAILED, count=2) == []
    assert gate.settle_these(held, Verdict.FAILED) == [], "four failures would have opened it"


def test_one_models_trouble_leaves_its_neighbours_alone(gate: Gate, world: World) -> None:
    neighbour = world.gate(NEIGHBOUR)
    neighbour.calls(2, Verdict.FAILED)
    world.open(gate)
    assert neighbour.take(3).granted == 3
    assert neighbour.state == "healthy"
    assert world.gate(WHOLE_ROUTE).state == "healthy"


# generations


@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize("state", ["open", "probing", "recovering", "healthy"])
def test_late_words_of_calls_from_before_change_nothing(gate: Gate, world: World, verdict: Verdict, state: str) -> None:
    """They say how it was, not how it is."""
    before = world.gate()
    before.take(10)
    world.open(gate)
    if state != "open":
        world.probing(gate)
    if state in ("recovering", "healthy"):
        world.probing(gate)
        world.probing(gate)
    if state == "healthy":
        for _ in HEALTH.recovery_shares[1:]:
            hold(world, gate)
    seen = gate.view()
    changes = before.settle(verdict, count=10)
    if verdict is Verdict.LIMITED:
        assert states(changes) == [(MODEL, "limited")], "that is no matter of health"
    elif verdict in (Verdict.UNUSABLE_ROUTE, Verdict.UNREACHABLE):
        assert states(changes) == [(WHOLE_ROUTE, "open")], "of the route, which has not changed, it is the first word"
    else:
        in_doubt = verdict is Verdict.CONTRADICTED and state in ("recovering", "healthy")
        assert bool(gate.view().doubt) == in_doubt, "a word from now, of a call of any age"
        assert changes == []
        assert (gate.view().state, gate.view().share, gate.view().places) == (seen.state, seen.share, seen.places)
        assert (gate.view().calls, gate.view().failed) == (seen.calls, seen.failed)


@pytest.mark.parametrize("verdict", [Verdict.GOOD, Verdict.FAILED, Verdict.UNUSED, Verdict.NEUTRAL])
def test_late_words_leave_a_probe_under_way_alone(gate: Gate, world: World, verdict: Verdict) -> None:
    before = world.gate()
    before.take()
    world.open(gate)
    world.pass_time(INTERVAL_S)
    token = gate.claim()
    assert gate.take(probe=token or "").granted == 1
    before.settle(verdict)
    world.pass_time(INTERVAL_S)
    assert gate.claim() is None, "it is under way still"
    assert states(gate.settle()) == [(MODEL, "probing")]


# probes


def test_only_a_probe_passes_an_open_gate_and_only_when_it_is_due(gate: Gate, world: World) -> None:
    world.open(gate)
    world.pass_time(INTERVAL_S - 0.1)
    assert gate.claim() is None
    world.pass_time(0.2)
    assert gate.take(5).reason == "open", "being due opens nothing to others"
    token = gate.claim()
    assert token
    assert gate.take(probe="another").granted == 0
    assert gate.take(3, probe=token).granted == 1, "one call, whatever is asked for"


def test_a_token_is_good_for_one_call(gate: Gate, world: World) -> None:
    """The message with it may be delivered twice."""
    world.open(gate)
    world.pass_time(INTERVAL_S)
    token = gate.claim() or ""
    assert gate.take(probe=token).granted == 1
    assert gate.take(probe=token).granted == 0
    gate.settle()
    assert gate.take(probe=token).granted == 0


def test_one_probe_at_a_time_however_many_look(gate: Gate, world: World) -> None:
    world.open(gate)
    world.pass_time(INTERVAL_S)
    tokens: list[str | None] = []
    barrier = threading.Barrier(8)

    def look() -> None:
        mine = world.gate()
        barrier.wait(60)
        tokens.extend(mine.claim() for _ in range(5))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(tokens) == 40
    assert len([token for token in tokens if token]) == 1


def test_good_probes_in_a_row_begin_the_recovery(gate: Gate, world: World) -> None:
    world.open(gate)
    assert states(world.probing(gate)) == [(MODEL, "probing")]
    assert gate.view().wait_s == INTERVAL_S / 5, "the next comes sooner"
    assert gate.take().reason == "probing"
    assert gate.claim() is None
    world.pass_time(INTERVAL_S / 5)
    assert gate.probe() == []
    (change,) = world.probing(gate)
    assert change == Change(ROUTE, MODEL, RouteState.RECOVERING, "good probes", 0, 0.10)
    assert not gate.view().shut


def test_a_bad_probe_starts_the_row_anew(gate: Gate, world: World) -> None:
    world.open(gate)
    world.probing(gate)
    world.probing(gate)
    assert states(world.probing(gate, Verdict.FAILED)) == [(MODEL, "open")]
    for _ in range(2):
        assert gate.view().wait_s == INTERVAL_S
        assert world.probing(gate, Verdict.FAILED) == [], "open already: no news"
        assert gate.state == "open"
    since = gate.view().since
    assert since is not None
    assert since < world.now - INTERVAL_S, "it is open since it was opened, not since the last probe"
    world.probing(gate)
    world.probing(gate)
    assert gate.state == "probing"


def test_one_good_probe_is_enough_where_settings_say_so(valkey: ClockedRedis, no_jitter: None) -> None:
    world = World(valkey, HEALTH.model_copy(update={"close_after_successes": 1, "recovery_shares": (1.0,)}))
    gate = world.gate()
    world.open(gate)
    assert states(world.probing(gate)) == [(MODEL, "healthy")]
    assert gate.take(9).granted == 9


def test_a_lost_probe_is_followed_by_another(gate: Gate, world: World) -> None:
    world.open(gate)
    world.pass_time(INTERVAL_S)
    first = gate.claim() or ""
    assert gate.take(probe=first).granted == 1
    world.pass_time(TIMEOUT_S + PERMIT_GRACE_S - 0.1)
    assert gate.claim() is None
    world.pass_time(0.2)
    second = gate.claim() or ""
    assert second not in ("", first)
    assert gate.settle(Verdict.FAILED) == [], "the lost one says nothing any more"
    assert gate.take(probe=first).granted == 0
    assert gate.take(probe=second).granted == 1
    assert states(gate.settle()) == [(MODEL, "probing")]


def test_a_probe_that_was_not_made_lets_another_go_soon(gate: Gate, world: World) -> None:
    world.open(gate)
    assert world.probing(gate, Verdict.UNUSED) == []
    assert gate.claim() is None
    world.pass_time(INTERVAL_S / 4)
    assert states(gate.probe()) == [(MODEL, "probing")]


def test_a_probe_that_says_nothing_is_followed_by_one_in_its_time(gate: Gate, world: World) -> None:
    world.open(gate)
    assert world.probing(gate, Verdict.NEUTRAL) == []
    assert gate.claim() is None
    assert states(world.probing(gate)) == [(MODEL, "probing")]


def test_nobody_probes_a_limited_route(gate: Gate, world: World) -> None:
    world.open(gate)
    world.probing(gate, Verdict.LIMITED, pause_s=3 * INTERVAL_S)
    assert gate.state == "open"
    assert gate.view().wait_s == 3 * INTERVAL_S
    world.pass_time(3 * INTERVAL_S - 0.1)
    assert gate.claim() is None
    world.pass_time(0.2)
    assert states(gate.probe()) == [(MODEL, "probing")]


def test_a_probe_asked_for_by_hand_waits_for_nothing_but_another_probe(gate: Gate, world: World) -> None:
    assert gate.claim() is None, "a healthy one needs none"
    assert gate.claim(at_once=True)
    world.open(gate)
    token = gate.claim(at_once=True) or ""
    assert gate.claim(at_once=True) is None
    assert gate.take(probe=token).granted == 1
    assert states(gate.settle()) == [(MODEL, "probing")]


def test_a_full_route_makes_a_probe_wait(world: World) -> None:
    """Calls from before may hang in there still; the limit holds."""
    gate = world.gate(limits=quota(most=3))
    before = world.gate(limits=quota(most=3))
    gate.take(3)
    before.held, gate.held = gate.held[:2], gate.held[2:]
    gate.settle(Verdict.UNUSABLE_MODEL)
    gate.take()
    world.pass_time(INTERVAL_S)
    token = gate.claim() or ""
    assert gate.take(probe=token).granted == 1
    gate.settle(Verdict.FAILED)
    assert before.settle(Verdict.FAILED, count=2) == []


def test_probes_of_several_routes_do_not_fall_together(valkey: ClockedRedis) -> None:
    world = World(valkey)
    waits = set()
    for number in range(30):
        gate = world.gate(f"model-{number}")
        gate.calls(3, Verdict.FAILED)
        waits.add(gate.view().wait_s)
    assert len(waits) > 20
    assert 0.8 * INTERVAL_S <= min(waits) < 0.95 * INTERVAL_S
    assert 1.05 * INTERVAL_S < max(waits) <= 1.2 * INTERVAL_S


# recovery


def test_the_share_climbs_while_it_holds(gate: Gate, world: World) -> None:
    world.open(gate)
    world.recover(gate)
    shares = [gate.view().share]
    changes: list[Change] = []
    while gate.state == "recovering":
        changes += hold(world, gate)
        shares.append(gate.view().share)
    assert shares == [0.10, 0.25, 0.50, 1.0]
    assert [(change.state, change.share) for change in changes] == [
        ("recovering", 0.25),
        ("recovering", 0.50),
        ("healthy", 1),
    ]
    assert gate.state == "healthy"
    assert gate.limits.unwell() == []
    assert gate.take(300).granted == 300
    gate.settle(count=300)
    assert gate.calls(2, Verdict.FAILED) == [], "the failures of then are forgotten"


def test_a_step_needs_time_and_calls(gate: Gate, world: World) -> None:
    world.open(gate)
    world.recover(gate)
    assert gate.calls(50) == []
    assert gate.view().share == 0.10, "no time has passed"
    world.pass_time(STEP_S - 0.1)
    assert gate.call() == []
    world.pass_time(0.1)
    assert gate.call()[0].share == 0.25
    world.pass_time(10 * STEP_S)
    assert gate.calls(STEP_CALLS - 1) == []
    assert gate.view().share == 0.25, "nor is time alone enough"
    assert gate.call()[0].share == 0.50


def test_a_route_let_back_in_is_not_flooded(world: World) -> None:
    """One at a time, then two more for every good answer, up to the share of what it may have in flight."""
    gate = world.gate(limits=quota(most=100))
    world.open(gate)
    world.recover(gate)
    waves: list[int] = []
    for _ in range(5):
        assert gate.view().places == min(10, 1 + 2 * sum(waves))
        waves.append(gate.take(100).granted)
        assert gate.take().reason == "concurrency"
        gate.settle(count=waves[-1])
    assert waves == [1, 3, 9, 10, 10]
    world.pass_time(STEP_S)
    assert gate.calls(STEP_CALLS)[0].share == 0.25
    assert gate.take(100).granted == 25


@pytest.mark.parametrize(("failures", "state"), [(1, "recovering"), (2, "open")])
def test_it_is_open_again_if_it_fails(gate: Gate, world: World, failures: int, state: str) -> None:
    world.open(gate)
    world.recover(gate)
    hold(world, gate)
    changes = gate.calls(failures, Verdict.FAILED)
    assert gate.state == state
    assert [change.state for change in changes] == (["open"] if state == "open" else [])
    if state == "open":
        assert gate.view().wait_s == INTERVAL_S
        world.recover(gate)
        assert gate.view().share == 0.10, "from the first share on"
        assert gate.view().places == 1


def test_a_recovering_one_opens_by_its_failed_share_too(gate: Gate, world: World) -> None:
    world.open(gate)
    world.recover(gate)
    assert flapping_in_turn(gate, 10) == [], "not more than half, nor two in a row"
    assert gate.call(Verdict.FAILED, cause="no")[0].cause == "6 of 11 calls failed, the last: no"


def flapping_in_turn(gate: Gate, count: int) -> list[Change]:
    return [change for n in range(count) for change in gate.call(Verdict.GOOD if n % 2 else Verdict.FAILED)]


def test_a_recovering_one_that_nobody_uses_is_probed(gate: Gate, world: World) -> None:
    world.open(gate)
    world.recover(gate)
    assert gate.claim() is None
    rounds = 0
    while gate.state == "recovering":
        world.pass_time(INTERVAL_S + 0.1)
        gate.probe()
        rounds += 1
    assert gate.state == "healthy"
    assert rounds == 3 * STEP_CALLS


def test_a_recovering_one_in_use_is_not_probed(gate: Gate, world: World) -> None:
    world.open(gate)
    world.recover(gate)
    for _ in range(10):
        world.pass_time(INTERVAL_S / 2)
        gate.call()
        assert gate.claim() is None


def test_a_recovering_model_finds_its_places_beside_a_busy_neighbour(world: World) -> None:
    """They share their limits, not their health."""
    shared = quota(most=100, group="claude-*")
    gate, neighbour = world.gate(limits=shared), world.gate(NEIGHBOUR, shared)
    neighbour.take(50)
    world.open(gate)
    assert neighbour.state == "healthy"
    world.recover(gate)
    assert (gate.view().in_flight, gate.view().places) == (0, 1)
    assert gate.take(9).granted == 1
    gate.settle()
    assert gate.take(9).granted == 3
    assert (neighbour.view().in_flight, neighbour.view().places) == (53, 100)
    assert neighbour.take(100).granted == 47
    gate.settle(count=3)
    assert gate.take(9).granted == 3, "the group's own limit holds as well"
    assert gate.take().reason == "concurrency"


# what refuses us


@pytest.mark.parametrize("verdict", UNUSABLE)
def test_probes_of_what_refuses_us_back_off_to_the_longest_pause(gate: Gate, world: World, verdict: Verdict) -> None:
    (change,) = gate.call(verdict)
    pauses = [change.seconds]
    for _ in range(10):
        world.pass_time(gate.view().wait_s)
        assert gate.probe(verdict) == []
        pauses.append(gate.view().wait_s)
    assert pauses == pytest.approx([min(INTERVAL_S * 2**n, HEALTH.unusable_probe_max_s) for n in range(11)])
    world.pass_time(HEALTH.unusable_probe_max_s)
    gate.probe()
    assert gate.view().wait_s == INTERVAL_S / 5, "a good one, and it goes on as with any other"


def test_a_model_that_is_not_to_be_had_closes_only_itself(gate: Gate, world: World) -> None:
    assert states(gate.call(Verdict.UNUSABLE_MODEL)) == [(MODEL, "open")]
    assert gate.take().reason == "open"
    assert world.gate(NEIGHBOUR).take().granted == 1


def test_an_account_that_refuses_us_closes_the_whole_route(gate: Gate, world: World) -> None:
    neighbour, elsewhere = world.gate(NEIGHBOUR), world.gate()
    elsewhere.route = "vertex-us-east5"
    (change,) = gate.call(Verdict.UNUSABLE_ROUTE, cause="unusable: no credit")
    assert change == Change(ROUTE, WHOLE_ROUTE, RouteState.OPEN, "unusable: no credit", INTERVAL_S, 0)
    assert (neighbour.take().reason, gate.take().reason) == ("open", "open")
    assert (neighbour.state, neighbour.view().cause) == ("open", "unusable: no credit")
    assert elsewhere.take().granted == 1
    assert gate.limits.unwell() == [(ROUTE, WHOLE_ROUTE)]


def test_one_models_probe_speaks_for_the_whole_route(gate: Gate, world: World) -> None:
    neighbour = world.gate(NEIGHBOUR)
    gate.call(Verdict.UNUSABLE_ROUTE)
    world.pass_time(INTERVAL_S)
    token = neighbour.claim() or ""
    assert gate.claim() is None, "one at a time for the route, whichever model"
    assert gate.take(probe=token).granted == 1, "whoever has the token"
    assert gate.take().granted == 0
    assert states(gate.settle()) == [(WHOLE_ROUTE, "probing")]
    world.probing(neighbour)
    assert states(world.probing(gate)) == [(WHOLE_ROUTE, "recovering")]
    assert (gate.view().share, neighbour.view().share) == (0.10, 0.10)
    assert (gate.view().places, neighbour.view().places) == (1, 1)


def test_a_bad_probe_between_breaks_the_row_of_the_whole_route(gate: Gate, world: World) -> None:
    gate.call(Verdict.UNUSABLE_ROUTE)
    world.probing(gate)
    world.probing(gate)
    assert states(world.probing(gate, Verdict.FAILED)) == [(WHOLE_ROUTE, "open")]
    world.probing(gate)
    world.probing(gate)
    assert gate.state == "probing"
    assert states(world.probing(gate)) == [(WHOLE_ROUTE, "recovering")]


def test_route_and_model_come_back_together(gate: Gate, world: World) -> None:
    neighbour = world.gate(NEIGHBOUR)
    before = world.gate()
    before.take()
    world.open(gate)
    assert states(before.settle(Verdict.UNUSABLE_ROUTE)) == [(WHOLE_ROUTE, "open")]
    assert gate.limits.unwell() == [(ROUTE, WHOLE_ROUTE), (ROUTE, MODEL)]
    changes = [change for _ in range(HEALTH.close_after_successes) for change in world.probing(gate)]
    assert states(changes) == [
        (MODEL, "probing"),
        (WHOLE_ROUTE, "probing"),
        (MODEL, "recovering"),
        (WHOLE_ROUTE, "recovering"),
    ]
    world.pass_time(STEP_S)
    neighbour.calls(STEP_CALLS)
    assert (neighbour.view().share, gate.view().share) == (0.25, 0.10), "the lesser of the two counts"
    gate.calls(STEP_CALLS)
    assert gate.view().share == 0.25
    assert states(gate.calls(2, Verdict.FAILED)) == [(MODEL, "open")]
    assert neighbour.state == "recovering"
    while neighbour.state != "healthy":
        hold(world, neighbour)
    assert gate.state == "open"
    world.recover(gate)
    while gate.state != "healthy":
        hold(world, gate)
    assert gate.limits.unwell() == []


def test_an_open_model_does_not_hide_behind_a_recovering_route(gate: Gate, world: World) -> None:
    before = world.gate()
    before.take(3)
    world.gate(NEIGHBOUR).call(Verdict.UNUSABLE_ROUTE)
    assert states(before.settle(Verdict.FAILED, count=3)) == [(MODEL, "open")]
    world.recover(world.gate(NEIGHBOUR))
    assert gate.state == "open"
    assert gate.take().reason == "open"
    assert world.gate(NEIGHBOUR).take().granted == 1


# contradicted


def contradict(gate: Gate) -> list[Change]:
    """Another route served what this one refused; there is no permit to give back."""
    spent = Spent(Want("", 0, 0), 0, 0, Verdict.CONTRADICTED, "unusable: it refused what anthropic served")
    return gate.limits.settle(gate.route, gate.model, Latency.BATCH, gate.quota, [spent])


def test_five_contradictions_in_a_row_are_for_a_probe_to_judge(gate: Gate, world: World) -> None:
    neighbour = world.gate(NEIGHBOUR)
    for _ in range(4):
        assert contradict(gate) == []
    assert contradict(neighbour) == []
    assert (gate.claim(), gate.view().doubt) == (None, "")
    assert contradict(gate) == []
    assert gate.view().doubt == "unusable: it refused what anthropic served"
    assert gate.view().state == "healthy", "what some requests have in common closes it for no other"
    assert contradict(gate) == [], "once"
    assert states(gate.probe(Verdict.UNUSABLE_MODEL)) == [(MODEL, "open")]
    assert neighbour.state == "healthy"
    assert neighbour.claim() is None


def test_a_good_answer_between_breaks_the_row(gate: Gate) -> None:
    for _ in range(4):
        contradict(gate)
    gate.call()
    for _ in range(4):
        assert contradict(gate) == []
    assert gate.state == "healthy"


# one job's failures, and pages of proxies


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.SHORT, Verdict.DOUBTED])
def test_one_jobs_failures_close_nothing_however_often(gate: Gate, world: World, verdict: Verdict) -> None:
    for _ in range(3 * HEALTH.min_calls):
        assert gate.call(verdict, job="poison") == []
        world.pass_time(HEALTH.window_s / 2)
    assert (gate.state, gate.claim()) == ("healthy", None)


def test_one_jobs_failure_counts_once_in_the_window(gate: Gate) -> None:
    gate.calls(3, job="good")
    for _ in range(HEALTH.min_calls):
        gate.call(Verdict.FAILED, job="poison")
        gate.call(job="good")
    view = gate.view()
    assert (view.state, view.failed) == ("healthy", 1)


def test_after_an_answer_a_job_counts_in_the_row_again(gate: Gate) -> None:
    for _ in range(HEALTH.open_after_failures - 1):
        gate.call(Verdict.FAILED)
    gate.call(Verdict.FAILED, job="poison")
    assert gate.state == "open"


def doubt(gate: Gate, *jobs: str) -> None:
    for job in jobs:
        assert gate.call(Verdict.DOUBTED, job=job, cause="proxy_error: HTTP 403") == []


def test_pages_to_several_jobs_in_a_row_are_for_a_probe_to_judge(gate: Gate) -> None:
    doubt(gate, "a", "b", "b", "a")
    assert (gate.view().doubt, gate.claim()) == ("", None)
    doubt(gate, "c")
    view = gate.view()
    assert (view.state, view.doubt) == ("healthy", "proxy_error: HTTP 403")
    assert gate.take(3).granted == 3, "until the probe is back it works on"
    assert gate.limits.unwell() == [(ROUTE, MODEL)]
    assert gate.probe() == []
    assert (gate.view().state, gate.view().doubt) == ("healthy", "")
    assert gate.limits.unwell() == []
    assert gate.claim() is None


def test_good_probes_of_a_gate_in_doubt_do_not_make_it_recover(gate: Gate, world: World) -> None:
    for number in range(2 * HEALTH.close_after_successes):
        doubt(gate, *(f"{number}-{job}" for job in "abc"))
        token = gate.claim()
        assert token
        assert gate.take(probe=token).granted == 1
        probe = gate.held.pop()
        assert gate.call() == [], "an answer to somebody else comes first"
        assert gate.settle_these([probe]) == []
        assert gate.view().state == "healthy"
        world.pass_time(HEALTH.probe_interval_s)


def test_an_answer_ends_the_doubt(gate: Gate) -> None:
    doubt(gate, "a", "b", "c")
    gate.call(job="d")
    assert (gate.view().doubt, gate.claim(), gate.limits.unwell()) == ("", None, [])
    doubt(gate, "a", "b")
    assert gate.claim() is None, "a row begins anew"


def test_a_probe_that_meets_the_page_closes_the_whole_route_until_one_gets_through(gate: Gate, world: World) -> None:
    doubt(gate, "a", "b", "c")
    assert states(gate.probe(Verdict.UNREACHABLE)) == [(WHOLE_ROUTE, "open")]
    assert gate.take().granted == 0
    world.pass_time(HEALTH.probe_interval_s)
    assert gate.probe(Verdict.UNREACHABLE) == []
    world.pass_time(HEALTH.probe_interval_s)
    assert gate.probe() != [], "the pause does not grow: a proxy is mended without a word to anybody"


def test_a_job_that_met_two_pages_is_checked_at_once(gate: Gate, world: World) -> None:
    gate.call(Verdict.CHECK, job="a")
    assert gate.probe() == []
    gate.call(Verdict.CHECK, job="a")
    assert gate.claim() is None, "not one probe after the other"
    world.pass_time(HEALTH.probe_interval_s)
    assert gate.probe() == []


def test_a_doubt_that_stands_is_probed_again_when_the_probe_is_lost(gate: Gate, world: World) -> None:
    doubt(gate, "a", "b", "c")
    assert gate.claim()
    assert gate.claim() is None
    world.pass_time(LOST_AFTER_S)
    assert gate.claim()


def test_the_newest_answered_call_is_known_by_its_beginning(gate: Gate, world: World) -> None:
    assert gate.view().proven_s == math.inf
    gate.call(lasted_s=4.0)
    world.pass_time(2)
    assert gate.view().proven_s == pytest.approx(6.0)
    gate.call(lasted_s=9.0)
    assert gate.view().proven_s == pytest.approx(6.0), "one that began earlier says nothing newer"
    gate.call(Verdict.FAILED)
    assert gate.view().proven_s == pytest.approx(6.0)


# by hand


def test_what_was_set_right_is_forgotten_by_hand(gate: Gate, world: World) -> None:
    neighbour = world.gate(NEIGHBOUR)
    before = world.gate()
    before.take(2)
    world.open(gate)
    before.settle(Verdict.UNUSABLE_ROUTE)
    before.settle(Verdict.LIMITED, pause_s=3_600)
    gate.limits.forget(ROUTE)
    assert gate.view().state == neighbour.view().state == "healthy"
    assert gate.view().wait_s == 0
    assert gate.limits.unwell() == []
    assert gate.take(5).granted == neighbour.take(5).granted == 5


def test_what_was_used_is_not_forgotten(world: World) -> None:
    gate = world.gate(limits=quota(tokens_in=6_000))
    gate.take(2, 3_000)
    gate.settle(Verdict.LIMITED, pause_s=3_600)
    gate.limits.forget(ROUTE)
    assert gate.state == "healthy"
    assert 25 < gate.view().wait_s < 61, "the provider still counts it"
    world.pass_time(61)
    assert gate.take(1, 3_000).granted == 1


def test_other_routes_are_not_forgotten(gate: Gate, world: World) -> None:
    other = world.gate()
    other.route = f"{ROUTE}-2"
    for one in (gate, other):
        world.open(one)
    gate.limits.forget(ROUTE)
    assert (gate.state, other.state) == ("healthy", "open")
    assert gate.limits.unwell() == [(other.route, MODEL)]


@pytest.mark.parametrize("verdict", [Verdict.FAILED, *UNUSABLE])
def test_late_words_do_not_undo_what_was_forgotten(gate: Gate, world: World, verdict: Verdict) -> None:
    before = world.gate()
    before.take(5)
    world.open(gate)
    gate.limits.forget(ROUTE)
    assert before.settle(verdict, count=5) == []
    assert gate.state == "healthy"


@pytest.mark.parametrize("verdict", [Verdict.GOOD, Verdict.FAILED, Verdict.UNUSED, *UNUSABLE])
def test_forgotten_while_a_probe_is_under_way(gate: Gate, world: World, verdict: Verdict) -> None:
    world.open(gate)
    world.pass_time(INTERVAL_S)
    gate.take(probe=gate.claim() or "")
    gate.limits.forget(ROUTE)
    probe = gate.held.pop()
    world.pass_time(1)
    world.open(gate)
    assert gate.settle_these([probe], verdict) == []
    assert gate.state == "open"
    assert gate.view().wait_s == INTERVAL_S
    world.recover(gate)


# pace


def test_paces_are_kept_per_class_from_the_calls_that_say_something(gate: Gate, world: World) -> None:
    assert gate.view().paces == {}
    for took in (1.0, 2.0, 3.0, 4.0, 10.0):
        gate.call(took_s=took)
    gate.call(Verdict.FAILED)
    gate.call(Verdict.NEUTRAL, took_s=30.0, latency=Latency.REALTIME)
    world.pass_time(7)
    paces = gate.view().paces
    assert set(paces) == {Latency.BATCH, Latency.REALTIME}
    batch = paces[Latency.BATCH]
    assert (batch.p50_s, batch.p95_s, batch.calls, batch.age_s) == (3.0, 10.0, 5, 7.0)
    assert paces[Latency.REALTIME].p50_s == 30.0
    assert gate.view().pace(Latency.ASYNC) == batch, "the quickest of the others"


def test_old_and_surplus_samples_do_not_count(gate: Gate, world: World) -> None:
    gate.take(20)
    gate.settle(count=20, took_s=50.0)
    world.pass_time(301)
    gate.call(took_s=1.0)
    assert (gate.view().paces[Latency.BATCH].p95_s, gate.view().paces[Latency.BATCH].calls) == (1.0, 1)
    gate.take(150)
    gate.settle(count=150, took_s=2.0)
    assert gate.view().paces[Latency.BATCH].calls == 100


# words


@pytest.mark.parametrize("cause", ["half a \ud800 pair", "nul \0 and % and %s", "x" * 100_000, "ünïcode", ""])
def test_whatever_a_provider_says_it_is_settled(gate: Gate, cause: str) -> None:
    gate.take(3)
    spent = [Spent(held.want, 0, 0, Verdict.FAILED, cause, held.generation) for held in gate.held]
    (change,) = gate.limits.settle(ROUTE, MODEL, Latency.BATCH, gate.quota, spent)
    assert change.state == "open"
    assert len(change.cause) <= 300
    assert gate.view().cause == change.cause


def test_a_lease_outlives_its_calls_timeout(gate: Gate, world: World) -> None:
    """So that a slow call's permit is not given to another while it is still made."""
    gate.quota = quota(most=1, group=MODEL)
    gate.take(timeout_s=TIMEOUT_S)
    world.pass_time(TIMEOUT_S + PERMIT_GRACE_S - 0.1)
    assert gate.take().granted == 0
