"""Permits: buckets, the rolling minute, calls in flight, giving back. Figures are a minute's; the clock is the test's."""

import random
import threading

import pytest
from tests.unit.gates_world import MODEL, NEIGHBOUR, ROUTE, TIMEOUT_S, World, quota

from trivet_routing.limits import BURST_S, PERMIT_GRACE_S
from trivet_routing.permits import Denial, Grant, Quota, Verdict, Want
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.shared_state import PREFIX

ROUTE_WITH_GROUP = RouteSettings.model_validate(
    {
        "provider": "anthropic",
        "requests_per_minute": 50,
        "max_concurrency": 9,
        "limits": [{"models": ["claude-haiku-*", "claude-opus-5"], "requests_per_minute": 600, "max_concurrency": 3}],
    }
)


# buckets


def test_without_limits_all_go(world: World) -> None:
    gate = world.gate()
    grant = gate.take(50, 100_000, 100_000)
    assert (grant.granted, grant.wait_s, grant.reason) == (50, 0.0, None)
    assert gate.in_flight() == gate.view().in_flight == 50


def test_the_first_that_does_not_fit_ends_it(world: World) -> None:
    """All or nothing for each call, in their order: a small one does not overtake a large one."""
    gate = world.gate(limits=quota(tokens_in=6_000))
    small, large, after = (Want(name, tokens, 0) for name, tokens in (("a", 10), ("b", 5_995), ("c", 10)))
    grant = gate.take([small, large, after])
    assert (grant.granted, grant.reason) == (1, "input_tokens")
    assert gate.client.zrange(f"{PREFIX}calls:{ROUTE}:{MODEL}", 0, -1) == [b"a"]
    assert gate.bucket("i") == pytest.approx(90)


def test_what_lacks_one_of_three_takes_none_of_them(world: World) -> None:
    gate = world.gate(limits=quota(600, 60_000, 600))
    gate.take(1, 0, 30)
    before = gate.bucket("r"), gate.bucket("i"), gate.bucket("o")
    grant = gate.take(1, 500, 20)
    assert (grant.granted, grant.reason) == (0, "output_tokens")
    assert (gate.bucket("r"), gate.bucket("i"), gate.bucket("o")) == before
    assert gate.in_flight() == 1


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (quota(requests=600), "requests"),
        (quota(tokens_in=60_000), "input_tokens"),
        (quota(tokens_out=120_000), "output_tokens"),
        (quota(tokens_out=600_000, factor=5), "output_tokens"),
        (quota(600, 60_000, 600_000, factor=5), "requests"),
    ],
)
def test_a_bucket_holds_a_burst_and_fills_at_its_rate(world: World, limits: Quota, reason: str) -> None:
    """Each call wants one request, 100 tokens in, 200 out: ten a second."""
    gate = world.gate(limits=limits)
    assert gate.take(200, 100, 200).granted == 10 * BURST_S
    refused = gate.take(1, 100, 200)
    assert (refused.granted, refused.reason) == (0, reason)
    assert 0 < refused.wait_s <= 0.11
    world.pass_time(refused.wait_s)
    assert gate.take(1, 100, 200).granted == 1
    world.pass_time(1)
    assert gate.take(200, 100, 200).granted in (9, 10)
    world.pass_time(3600)
    assert gate.take(200, 100, 200).granted == 10 * BURST_S, "never more than a burst"


def test_the_reason_is_the_limit_that_lasts_longest(world: World) -> None:
    gate = world.gate(limits=quota(600, 60_000, 60_000))
    gate.take(10, 3_000, 1_500)
    refused = gate.take(1, 10, 10)
    assert refused.reason == "input_tokens"
    assert refused.wait_s == pytest.approx(2.03, abs=0.01)
    assert gate.view().wait_s == pytest.approx(refused.wait_s, abs=0.001), "the view knows the same wait"
    world.pass_time(refused.wait_s)
    assert gate.view().wait_s == 0
    assert gate.take(1, 10, 10).granted == 1


@pytest.mark.parametrize("limit", [1, 2, 7, 59, 60])
def test_slow_limits_still_let_one_go(world: World, limit: int) -> None:
    gate = world.gate(limits=quota(requests=limit))
    assert gate.take(5).granted == 1
    assert gate.view().headroom < 1
    refused = gate.take(1)
    assert refused.wait_s == pytest.approx(60 / limit, rel=0.05)
    world.pass_time(refused.wait_s)
    assert gate.take(5).granted == 1


@pytest.mark.parametrize("limit", [1, 30])
def test_fewer_tokens_a_minute_than_one_a_second(world: World, limit: int) -> None:
    gate = world.gate(limits=quota(tokens_in=limit))
    assert gate.view().wait_s == 0
    assert gate.take(1, 1).granted == 1
    refused = gate.take(1, 1)
    world.pass_time(refused.wait_s)
    assert gate.take(1, 1).granted == 1


def test_output_counts_by_the_routes_factor(world: World) -> None:
    gate = world.gate(limits=quota(tokens_out=6_000, factor=5))
    gate.take(1, 0, 15)
    assert gate.bucket("o") == pytest.approx(100 - 75)
    assert gate.view().output_headroom == pytest.approx(5)
    gate.settle(used=(0, 5))
    assert gate.bucket("o") == pytest.approx(100 - 25)
    assert gate.view().rates[2] == pytest.approx(20, rel=0.02)


# the rolling minute


@pytest.mark.parametrize("size", [5, 100, 1_000, 3_000])
def test_a_rolling_minute_gets_what_its_limit_says_and_not_more(world: World, size: int) -> None:
    """From full buckets, asking all the time: what a provider counts."""
    gate = world.gate(limits=quota(tokens_in=6_000))
    granted = []
    for _ in range(610):
        granted.append(gate.take(200, size).granted * size)
        if gate.held:
            gate.settle(count=len(gate.held))
        world.pass_time(0.2)
    minutes = [sum(granted[at : at + 300]) for at in range(len(granted) - 300)]
    assert max(minutes) <= 6_000
    assert sum(granted) >= 0.95 * 2 * 6_000


def test_a_large_call_after_a_minute_of_small_ones_finds_no_more_than_the_limit_left(world: World) -> None:
    gate = world.gate(limits=quota(tokens_in=6_000))
    used = 0
    for _ in range(59):
        used += 10 * gate.take(20, 10).granted
        world.pass_time(1)
    refused = gate.take(1, 3_000)
    assert (refused.granted, refused.reason) == (0, "input_tokens")
    assert used + 3_000 > 6_000
    assert gate.view().input_headroom > 0, "for small ones there is room"
    world.pass_time(refused.wait_s)
    assert gate.take(1, 3_000).granted == 1


def test_a_call_larger_than_a_burst_goes_and_the_next_wait_for_what_it_took(world: World) -> None:
    gate = world.gate(limits=quota(tokens_in=6_000))
    assert gate.take(2, 1_000).granted == 1
    assert gate.bucket("i") == pytest.approx(100 - 1_000)
    assert gate.view().input_headroom == 0
    assert gate.take(1, 1).wait_s == pytest.approx(9.16, abs=0.01)
    assert gate.view().wait_s == pytest.approx(9.16, abs=0.01)


def test_a_call_larger_than_the_whole_limit_goes_alone(world: World) -> None:
    gate = world.gate(limits=quota(tokens_in=6_000))
    gate.take(1, 10)
    assert gate.take(1, 9_000).granted == 0
    world.pass_time(61)
    assert gate.take(1, 9_000).granted == 1
    assert gate.take(1, 1).wait_s > 60


def test_small_calls_do_not_starve_a_large_one(world: World) -> None:
    """Whoever asks first, and the small ones ask for more than there is."""
    draw = random.Random(1)
    gate = world.gate(limits=quota(tokens_in=6_000))
    sizes: list[int] = []

    def ask(count: int, size: int) -> None:
        sizes.extend([size] * gate.take(count, size).granted)

    for step in range(900):
        asking = [(5, 10), (1, 600)] if step >= 300 else [(5, 10)]
        for count, size in draw.sample(asking, len(asking)):
            ask(count, size)
        if gate.held:
            gate.settle(count=len(gate.held))
        world.pass_time(0.2)
    assert sizes.count(600) >= 5
    assert sizes.count(10) >= 600, "nor the other way round"
    assert sum(sizes) >= 0.85 * 3 * 6_000


def test_a_minute_that_passed_is_forgotten_however_long_ago(world: World) -> None:
    gate = world.gate(limits=quota(100, 6_000, 6_000))
    for pause in (61, 62.5, 61.7, 121, 10_000, 0.0):
        assert gate.take(1, 3_000, 6_000).granted == 1
        gate.settle()
        world.pass_time(pause)
    assert gate.take(1, 100, 0).granted == 0, "the last is not"


@pytest.mark.parametrize(("first_at", "gone_at"), [(0.0, 61.0), (0.9, 61.0), (30.5, 91.0)])
def test_a_minute_is_a_whole_one(world: World, first_at: float, gone_at: float) -> None:
    gate = world.gate(limits=quota(tokens_in=6_000))
    world.pass_time(first_at)
    gate.take(1, 6_000)
    gate.settle()
    world.pass_time(59.999)
    assert gate.take(1, 1).granted == 0
    world.pass_time(gone_at - first_at - 59.999)
    gate.client.hset(f"{PREFIX}meter:{ROUTE}:{MODEL}", "i", 0)  # the debt apart
    world.pass_time(0.1)
    assert gate.take(1, 1).granted == 1


def test_calls_made_without_a_limit_are_no_debt_when_one_is_set(world: World) -> None:
    gate = world.gate()
    for _ in range(20):
        gate.take(50, 100_000, 100_000)
        gate.settle(count=50)
    world.pass_time(61)
    limited = world.gate(limits=quota(600, 60_000, 60_000))
    assert limited.take(1, 10, 10).granted == 1


def test_a_clock_that_was_set_back_stops_nothing_for_good(world: World) -> None:
    gate = world.gate(limits=quota(600, 60_000, 60_000))
    gate.take(5, 10, 10)
    world.pass_time(-3)
    assert gate.take(1, 10, 10).granted == 1
    gate.settle(count=6)
    world.pass_time(5)
    assert gate.take(10, 100, 100).granted == 10


# giving back


def test_what_was_not_used_flows_back(world: World) -> None:
    gate = world.gate(limits=quota(60, 12_000, 12_000))
    gate.take(1, 200, 200)
    gate.settle(used=(50, 20))
    assert gate.bucket("i") == pytest.approx(200 - 50)
    assert gate.bucket("o") == pytest.approx(200 - 20)
    assert gate.bucket("r") == 0, "the request was made"


def test_what_was_not_used_is_there_again_for_the_minute(world: World) -> None:
    """Up to `max_tokens` is reserved and a fraction is used."""
    gate = world.gate(limits=quota(tokens_out=6_000))
    for _ in range(100):
        assert gate.take(1, 0, 3_000).granted == 1
        assert gate.take(1, 0, 100).granted == 0
        gate.settle(used=(0, 48))
        world.pass_time(1.0)
    assert gate.take(1, 0, 3_200).granted == 0, "of the last minute some was really used"
    assert gate.take(1, 0, 3_000).granted == 1


def test_what_a_long_call_did_not_use_comes_back_to_the_minute_it_was_taken_in(world: World) -> None:
    gate = world.gate(limits=quota(tokens_out=6_000))
    gate.take(1, 0, 3_000)
    long = gate.held.pop()
    world.pass_time(40)
    gate.take(1, 0, 2_900)
    gate.settle()
    gate.settle_these([long], used=(0, 0))
    world.pass_time(30)
    assert gate.take(1, 0, 3_200).granted == 0, "what was used 30 s ago counts in full"
    assert gate.take(1, 0, 3_000).granted == 1


def test_a_permit_not_used_gives_all_of_it_back(world: World) -> None:
    gate = world.gate(limits=quota(1, 60, 60))
    for _ in range(3):
        assert gate.take(1, 60, 60).granted == 1
        gate.settle(Verdict.UNUSED)
        assert gate.bucket("r") == 1
        assert gate.bucket("i") == gate.bucket("o") == 1
        assert gate.in_flight() == 0


def test_more_than_was_reserved_is_a_debt(world: World) -> None:
    gate = world.gate(limits=quota(tokens_in=6_000))
    gate.take(1, 100)
    gate.settle(used=(900, 0))
    assert gate.bucket("i") == pytest.approx(100 - 900)
    assert gate.view().wait_s == pytest.approx(8.2, abs=0.1)


def test_nothing_flows_back_above_the_brim(world: World) -> None:
    gate = world.gate(limits=quota(60, 6_000, 6_000))
    gate.take(1, 200, 200)
    world.pass_time(60)
    gate.settle(used=(0, 0))
    assert (gate.bucket("i"), gate.bucket("o")) == (100, 100)


def test_a_permit_given_back_twice_flows_back_once(world: World) -> None:
    """The answer to the first may have been lost on its way to us."""
    gate = world.gate(limits=quota(120, 6_000, 6_000))
    gate.take(2, 30, 30)
    first, second = gate.held
    for _ in range(3):
        gate.settle_these([first], Verdict.UNUSED)
    assert gate.bucket("r") == 1
    assert gate.bucket("i") == 70
    assert gate.in_flight() == 1
    gate.settle_these([second], Verdict.UNUSED)
    assert gate.bucket("i") == 100


def test_a_permit_that_came_back_too_late_gives_nothing(world: World) -> None:
    gate = world.gate(limits=quota(1, most=1))
    gate.take()
    world.pass_time(TIMEOUT_S + PERMIT_GRACE_S + 1)
    assert gate.take().granted == 0, "a minute has not passed"
    late = gate.held.pop()
    gate.settle_these([late], Verdict.UNUSED)
    assert gate.take().granted == 0


# calls in flight


def test_never_more_in_flight_than_allowed(world: World) -> None:
    gate = world.gate(limits=quota(most=5))
    assert gate.take(3).granted == 3
    assert gate.take(4).granted == 2
    refused = gate.take(1)
    assert (refused.granted, refused.reason) == (0, "concurrency")
    assert 0 < refused.wait_s <= 1
    gate.settle(count=2)
    assert gate.take(9).granted == 2
    assert gate.in_flight() == gate.view().places == 5


@pytest.mark.parametrize("group", ["", "claude-*"])
def test_a_permit_whose_holder_died_heals(world: World, group: str) -> None:
    gate = world.gate(limits=quota(most=2, group=group))
    gate.take(2)
    world.pass_time(TIMEOUT_S + PERMIT_GRACE_S - 0.1)
    assert gate.take(1).granted == 0
    world.pass_time(0.1)
    # a dispatcher looks first: were it to see two in flight it would send nothing, and nobody would heal anything
    assert gate.view().in_flight == 0
    assert gate.take(3).granted == 2


def test_a_long_call_is_remembered_beside_short_ones(world: World) -> None:
    gate = world.gate(limits=quota(most=2))
    gate.take(timeout_s=600)
    gate.take(timeout_s=3)
    remembered_ms = gate.client.pttl(f"{PREFIX}calls:{ROUTE}:{MODEL}")
    assert remembered_ms == -1 or remembered_ms >= 600_000
    world.pass_time(300)
    assert gate.take(2).granted == 1


def test_the_permits_of_a_dead_worker_are_given_back_together(world: World) -> None:
    gate, shared = world.gate(limits=quota(most=3)), world.gate(NEIGHBOUR, quota(most=3, group="some+group"))
    mine, others = [Want("a1:1", 0, 0), Want("a1:2", 0, 0)], [Want("a10:1", 0, 0)]
    gate.take([*mine, *others])
    shared.take([*mine, *others])
    gate.limits.release_all("a1:")
    assert gate.in_flight() == shared.in_flight() == 1
    assert gate.view().in_flight == shared.view().in_flight == 1


def test_many_at_once_never_have_too_many_in_flight(world: World) -> None:
    most, over = 0, threading.Event()
    limits = quota(most=7)
    gate = world.gate(limits=limits)
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        mine, draw = world.gate(limits=limits), random.Random(seed)
        try:
            for _ in range(60):
                mine.take(draw.randint(1, 4))
                if mine.held and draw.random() < 0.7:
                    mine.settle(draw.choice([Verdict.GOOD, Verdict.NEUTRAL, Verdict.UNUSED]), count=len(mine.held))
            if mine.held:
                mine.settle(count=len(mine.held))
        except BaseException as error:
            errors.append(error)

    def watch() -> None:
        nonlocal most
        while not over.is_set():
            most = max(most, gate.in_flight())

    watcher = threading.Thread(target=watch)
    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in (watcher, *workers):
        thread.start()
    for thread in workers:
        thread.join(60)
    over.set()
    watcher.join(60)
    assert not errors
    assert 0 < most <= 7
    assert gate.in_flight() == 0


# whose limits they are


def test_each_model_has_the_routes_figures_for_itself(world: World) -> None:
    limits = quota(requests=1, most=1)
    assert world.gate(limits=limits).take(2).granted == 1
    assert world.gate(NEIGHBOUR, limits).take(2).granted == 1


def test_a_group_of_models_shares_its_figures(world: World) -> None:
    one, other, alone = (
        world.gate(model, Quota.of(ROUTE_WITH_GROUP, model)) for model in ("claude-haiku-5", "claude-opus-5", MODEL)
    )
    assert one.quota == other.quota
    assert one.quota.group == "claude-haiku-*+claude-opus-5"
    assert alone.quota == Quota(MODEL, 50, 0, 0, 1, 9)
    assert one.take(2).granted == 2
    assert other.take(2).granted == 1
    assert other.take().reason == "concurrency"
    assert one.view().in_flight == other.view().in_flight == 3
    assert alone.take().granted == 1
    one.settle(count=2)
    assert other.view().in_flight == 1
    assert other.take(9).granted == 2
    assert one.view().headroom == pytest.approx(5)


def test_a_group_named_like_its_only_model(world: World) -> None:
    gate = world.gate(limits=quota(most=2, group=MODEL))
    assert gate.take(3).granted == 2
    gate.settle()
    assert gate.take(3).granted == 1
    assert gate.view().in_flight == 2


def test_what_nobody_asked_for_is_not_granted(world: World) -> None:
    assert world.gate().take([]) == Grant(0, 0.05, Denial.CONCURRENCY, world.gate().take().generation)


def test_many_gates_are_seen_at_once(world: World) -> None:
    gate = world.gate()
    world.open(gate)
    seen = gate.limits.view([(ROUTE, MODEL, gate.quota), (ROUTE, NEIGHBOUR, quota()), ("other", MODEL, gate.quota)])
    assert {key: view.state for key, view in seen.items()} == {
        (ROUTE, MODEL): "open",
        (ROUTE, NEIGHBOUR): "healthy",
        ("other", MODEL): "healthy",
    }
    assert gate.limits.view([]) == {}
