"""Permits: buckets, the rolling minute, calls in flight, giving back. Figures are a minute's; the clock is the test's."""

import random
import threading

import pytest
from tests.unit.breakers_world import MODEL, NEIGHBOUR, ROUTE, TIMEOUT_S, World, quota

from trivet_routing.limits import BURST_S, PERMIT_GRACE_S
from trivet_routing.permits import Denial, PermitGrant, PermitRequest, Quota
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.outcomes import HealthSignal
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
    breaker = world.breaker()
    grant = breaker.take(50, 100_000, 100_000)
    assert (grant.granted, grant.wait_s, grant.reason) == (50, 0.0, None)
    assert breaker.in_flight() == breaker.view().in_flight == 50


def test_the_first_that_does_not_fit_ends_it(world: World) -> None:
    """All or nothing for each call, in their order: a small one does not overtake a large one."""
    breaker = world.breaker(limits=quota(tokens_in=6_000))
    small, large, after = (PermitRequest(name, tokens, 0) for name, tokens in (("a", 10), ("b", 5_995), ("c", 10)))
    grant = breaker.take([small, large, after])
    assert (grant.granted, grant.reason) == (1, "input_tokens")
    assert breaker.client.zrange(f"{PREFIX}calls:{ROUTE}:{MODEL}", 0, -1) == [b"a"]
    assert breaker.bucket("i") == pytest.approx(90)


def test_what_lacks_one_of_three_takes_none_of_them(world: World) -> None:
    breaker = world.breaker(limits=quota(600, 60_000, 600))
    breaker.take(1, 0, 30)
    before = breaker.bucket("r"), breaker.bucket("i"), breaker.bucket("o")
    grant = breaker.take(1, 500, 20)
    assert (grant.granted, grant.reason) == (0, "output_tokens")
    assert (breaker.bucket("r"), breaker.bucket("i"), breaker.bucket("o")) == before
    assert breaker.in_flight() == 1


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
    breaker = world.breaker(limits=limits)
    assert breaker.take(200, 100, 200).granted == 10 * BURST_S
    refused = breaker.take(1, 100, 200)
    assert (refused.granted, refused.reason) == (0, reason)
    assert 0 < refused.wait_s <= 0.11
    world.pass_time(refused.wait_s)
    assert breaker.take(1, 100, 200).granted == 1
    world.pass_time(1)
    assert breaker.take(200, 100, 200).granted in (9, 10)
    world.pass_time(3600)
    assert breaker.take(200, 100, 200).granted == 10 * BURST_S, "never more than a burst"


def test_the_reason_is_the_limit_that_lasts_longest(world: World) -> None:
    breaker = world.breaker(limits=quota(600, 60_000, 60_000))
    breaker.take(10, 3_000, 1_500)
    refused = breaker.take(1, 10, 10)
    assert refused.reason == "input_tokens"
    assert refused.wait_s == pytest.approx(2.03, abs=0.01)
    assert breaker.view().wait_s == pytest.approx(refused.wait_s, abs=0.001), "the view knows the same wait"
    world.pass_time(refused.wait_s)
    assert breaker.view().wait_s == 0
    assert breaker.take(1, 10, 10).granted == 1


@pytest.mark.parametrize("limit", [1, 2, 7, 59, 60])
def test_slow_limits_still_let_one_go(world: World, limit: int) -> None:
    breaker = world.breaker(limits=quota(requests=limit))
    assert breaker.take(5).granted == 1
    assert breaker.view().headroom < 1
    refused = breaker.take(1)
    assert refused.wait_s == pytest.approx(60 / limit, rel=0.05)
    world.pass_time(refused.wait_s)
    assert breaker.take(5).granted == 1


@pytest.mark.parametrize("limit", [1, 30])
def test_fewer_tokens_a_minute_than_one_a_second(world: World, limit: int) -> None:
    breaker = world.breaker(limits=quota(tokens_in=limit))
    assert breaker.view().wait_s == 0
    assert breaker.take(1, 1).granted == 1
    refused = breaker.take(1, 1)
    world.pass_time(refused.wait_s)
    assert breaker.take(1, 1).granted == 1


def test_output_counts_by_the_routes_factor(world: World) -> None:
    breaker = world.breaker(limits=quota(tokens_out=6_000, factor=5))
    breaker.take(1, 0, 15)
    assert breaker.bucket("o") == pytest.approx(100 - 75)
    assert breaker.view().output_headroom == pytest.approx(5)
    breaker.settle(used=(0, 5))
    assert breaker.bucket("o") == pytest.approx(100 - 25)
    assert breaker.view().rates[2] == pytest.approx(20, rel=0.02)


# the rolling minute


@pytest.mark.parametrize("size", [5, 100, 1_000, 3_000])
def test_a_rolling_minute_gets_what_its_limit_says_and_not_more(world: World, size: int) -> None:
    """Ask all the time, from full buckets; return what a provider counts."""
    breaker = world.breaker(limits=quota(tokens_in=6_000))
    granted = []
    for _ in range(610):
        granted.append(breaker.take(200, size).granted * size)
        if breaker.held:
            breaker.settle(count=len(breaker.held))
        world.pass_time(0.2)
    minutes = [sum(granted[at : at + 300]) for at in range(len(granted) - 300)]
    assert max(minutes) <= 6_000
    assert sum(granted) >= 0.95 * 2 * 6_000


def test_a_large_call_after_a_minute_of_small_ones_finds_no_more_than_the_limit_left(world: World) -> None:
    breaker = world.breaker(limits=quota(tokens_in=6_000))
    used = 0
    for _ in range(59):
        used += 10 * breaker.take(20, 10).granted
        world.pass_time(1)
    refused = breaker.take(1, 3_000)
    assert (refused.granted, refused.reason) == (0, "input_tokens")
    assert used + 3_000 > 6_000
    assert breaker.view().input_headroom > 0, "for small ones there is room"
    world.pass_time(refused.wait_s)
    assert breaker.take(1, 3_000).granted == 1


def test_a_call_larger_than_a_burst_goes_and_the_next_wait_for_what_it_took(world: World) -> None:
    breaker = world.breaker(limits=quota(tokens_in=6_000))
    assert breaker.take(2, 1_000).granted == 1
    assert breaker.bucket("i") == pytest.approx(100 - 1_000)
    assert breaker.view().input_headroom == 0
    assert breaker.take(1, 1).wait_s == pytest.approx(9.16, abs=0.01)
    assert breaker.view().wait_s == pytest.approx(9.16, abs=0.01)


def test_a_call_larger_than_the_whole_limit_goes_alone(world: World) -> None:
    breaker = world.breaker(limits=quota(tokens_in=6_000))
    breaker.take(1, 10)
    assert breaker.take(1, 9_000).granted == 0
    world.pass_time(61)
    assert breaker.take(1, 9_000).granted == 1
    assert breaker.take(1, 1).wait_s > 60


def test_small_calls_do_not_starve_a_large_one(world: World) -> None:
    """The first to ask is served first, and the small ones ask for more than there is."""
    draw = random.Random(1)
    breaker = world.breaker(limits=quota(tokens_in=6_000))
    sizes: list[int] = []

    def ask(count: int, size: int) -> None:
        sizes.extend([size] * breaker.take(count, size).granted)

    for step in range(900):
        asking = [(5, 10), (1, 600)] if step >= 300 else [(5, 10)]
        for count, size in draw.sample(asking, len(asking)):
            ask(count, size)
        if breaker.held:
            breaker.settle(count=len(breaker.held))
        world.pass_time(0.2)
    assert sizes.count(600) >= 5
    assert sizes.count(10) >= 600, "nor the other way round"
    assert sum(sizes) >= 0.85 * 3 * 6_000


def test_a_minute_that_passed_is_forgotten_however_long_ago(world: World) -> None:
    breaker = world.breaker(limits=quota(100, 6_000, 6_000))
    for pause in (61, 62.5, 61.7, 121, 10_000, 0.0):
        assert breaker.take(1, 3_000, 6_000).granted == 1
        breaker.settle()
        world.pass_time(pause)
    assert breaker.take(1, 100, 0).granted == 0, "the last is not"


@pytest.mark.parametrize(("first_at", "gone_at"), [(0.0, 61.0), (0.9, 61.0), (30.5, 91.0)])
def test_a_minute_is_a_whole_one(world: World, first_at: float, gone_at: float) -> None:
    breaker = world.breaker(limits=quota(tokens_in=6_000))
    world.pass_time(first_at)
    breaker.take(1, 6_000)
    breaker.settle()
    world.pass_time(59.999)
    assert breaker.take(1, 1).granted == 0
    world.pass_time(gone_at - first_at - 59.999)
    breaker.client.hset(f"{PREFIX}limiter:{ROUTE}:{MODEL}", "i", 0)  # the debt apart
    world.pass_time(0.1)
    assert breaker.take(1, 1).granted == 1


def test_calls_made_without_a_limit_are_no_debt_when_one_is_set(world: World) -> None:
    breaker = world.breaker()
    for _ in range(20):
        breaker.take(50, 100_000, 100_000)
        breaker.settle(count=50)
    world.pass_time(61)
    limited = world.breaker(limits=quota(600, 60_000, 60_000))
    assert limited.take(1, 10, 10).granted == 1


def test_a_clock_that_was_set_back_stops_nothing_for_good(world: World) -> None:
    breaker = world.breaker(limits=quota(600, 60_000, 60_000))
    breaker.take(5, 10, 10)
    world.pass_time(-3)
    assert breaker.take(1, 10, 10).granted == 1
    breaker.settle(count=6)
    world.pass_time(5)
    assert breaker.take(10, 100, 100).granted == 10


# giving back


def test_what_was_not_used_flows_back(world: World) -> None:
    breaker = world.breaker(limits=quota(60, 12_000, 12_000))
    breaker.take(1, 200, 200)
    breaker.settle(used=(50, 20))
    assert breaker.bucket("i") == pytest.approx(200 - 50)
    assert breaker.bucket("o") == pytest.approx(200 - 20)
    assert breaker.bucket("r") == 0, "the request was made"


def test_what_was_not_used_is_there_again_for_the_minute(world: World) -> None:
    """Up to `max_tokens` is reserved and a fraction is used."""
    breaker = world.breaker(limits=quota(tokens_out=6_000))
    for _ in range(100):
        assert breaker.take(1, 0, 3_000).granted == 1
        assert breaker.take(1, 0, 100).granted == 0
        breaker.settle(used=(0, 48))
        world.pass_time(1.0)
    assert breaker.take(1, 0, 3_200).granted == 0, "of the last minute some was really used"
    assert breaker.take(1, 0, 3_000).granted == 1


def test_what_a_long_call_did_not_use_comes_back_to_the_minute_it_was_taken_in(world: World) -> None:
    breaker = world.breaker(limits=quota(tokens_out=6_000))
    breaker.take(1, 0, 3_000)
    long = breaker.held.pop()
    world.pass_time(40)
    breaker.take(1, 0, 2_900)
    breaker.settle()
    breaker.settle_these([long], used=(0, 0))
    world.pass_time(30)
    assert breaker.take(1, 0, 3_200).granted == 0, "what was used 30 s ago counts in full"
    assert breaker.take(1, 0, 3_000).granted == 1


def test_a_permit_not_used_gives_all_of_it_back(world: World) -> None:
    breaker = world.breaker(limits=quota(1, 60, 60))
    for _ in range(3):
        assert breaker.take(1, 60, 60).granted == 1
        breaker.settle(HealthSignal.UNUSED)
        assert breaker.bucket("r") == 1
        assert breaker.bucket("i") == breaker.bucket("o") == 1
        assert breaker.in_flight() == 0


def test_more_than_was_reserved_is_a_debt(world: World) -> None:
    breaker = world.breaker(limits=quota(tokens_in=6_000))
    breaker.take(1, 100)
    breaker.settle(used=(900, 0))
    assert breaker.bucket("i") == pytest.approx(100 - 900)
    assert breaker.view().wait_s == pytest.approx(8.2, abs=0.1)


def test_nothing_flows_back_above_the_brim(world: World) -> None:
    breaker = world.breaker(limits=quota(60, 6_000, 6_000))
    breaker.take(1, 200, 200)
    world.pass_time(60)
    breaker.settle(used=(0, 0))
    assert (breaker.bucket("i"), breaker.bucket("o")) == (100, 100)


def test_a_permit_given_back_twice_flows_back_once(world: World) -> None:
    """The answer to the first may have been lost on its way to us."""
    breaker = world.breaker(limits=quota(120, 6_000, 6_000))
    breaker.take(2, 30, 30)
    first, second = breaker.held
    for _ in range(3):
        breaker.settle_these([first], HealthSignal.UNUSED)
    assert breaker.bucket("r") == 1
    assert breaker.bucket("i") == 70
    assert breaker.in_flight() == 1
    breaker.settle_these([second], HealthSignal.UNUSED)
    assert breaker.bucket("i") == 100


def test_a_permit_that_came_back_too_late_gives_nothing(world: World) -> None:
    breaker = world.breaker(limits=quota(1, most=1))
    breaker.take()
    world.pass_time(TIMEOUT_S + PERMIT_GRACE_S + 1)
    assert breaker.take().granted == 0, "a minute has not passed"
    late = breaker.held.pop()
    breaker.settle_these([late], HealthSignal.UNUSED)
    assert breaker.take().granted == 0


# calls in flight


def test_never_more_in_flight_than_allowed(world: World) -> None:
    breaker = world.breaker(limits=quota(most=5))
    assert breaker.take(3).granted == 3
    assert breaker.take(4).granted == 2
    refused = breaker.take(1)
    assert (refused.granted, refused.reason) == (0, "concurrency")
    assert 0 < refused.wait_s <= 1
    breaker.settle(count=2)
    assert breaker.take(9).granted == 2
    assert breaker.in_flight() == breaker.view().places == 5


@pytest.mark.parametrize("group", ["", "claude-*"])
def test_a_permit_whose_holder_died_heals(world: World, group: str) -> None:
    breaker = world.breaker(limits=quota(most=2, group=group))
    breaker.take(2)
    world.pass_time(TIMEOUT_S + PERMIT_GRACE_S - 0.1)
    assert breaker.take(1).granted == 0
    world.pass_time(0.1)
    # a dispatcher looks first: were it to see two in flight it would send nothing, and nobody would heal anything
    assert breaker.view().in_flight == 0
    assert breaker.take(3).granted == 2


def test_a_long_call_is_remembered_beside_short_ones(world: World) -> None:
    breaker = world.breaker(limits=quota(most=2))
    breaker.take(timeout_s=600)
    breaker.take(timeout_s=3)
    remembered_ms = breaker.client.pttl(f"{PREFIX}calls:{ROUTE}:{MODEL}")
    assert remembered_ms == -1 or remembered_ms >= 600_000
    world.pass_time(300)
    assert breaker.take(2).granted == 1


def test_the_permits_of_a_dead_worker_are_given_back_together(world: World) -> None:
    breaker, shared = world.breaker(limits=quota(most=3)), world.breaker(NEIGHBOUR, quota(most=3, group="some+group"))
    mine, others = [PermitRequest("a1:1", 0, 0), PermitRequest("a1:2", 0, 0)], [PermitRequest("a10:1", 0, 0)]
    breaker.take([*mine, *others])
    shared.take([*mine, *others])
    breaker.limits.release_all("a1:")
    assert breaker.in_flight() == shared.in_flight() == 1
    assert breaker.view().in_flight == shared.view().in_flight == 1


def test_many_at_once_never_have_too_many_in_flight(world: World) -> None:
    most, over = 0, threading.Event()
    limits = quota(most=7)
    breaker = world.breaker(limits=limits)
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        mine, draw = world.breaker(limits=limits), random.Random(seed)
        try:
            for _ in range(60):
                mine.take(draw.randint(1, 4))
                if mine.held and draw.random() < 0.7:
                    mine.settle(
                        draw.choice([HealthSignal.GOOD, HealthSignal.NEUTRAL, HealthSignal.UNUSED]),
                        count=len(mine.held),
                    )
            if mine.held:
                mine.settle(count=len(mine.held))
        except BaseException as error:
            errors.append(error)

    def watch() -> None:
        nonlocal most
        while not over.is_set():
            most = max(most, breaker.in_flight())

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
    assert breaker.in_flight() == 0


# whose limits they are


def test_each_model_has_the_routes_figures_for_itself(world: World) -> None:
    limits = quota(requests=1, most=1)
    assert world.breaker(limits=limits).take(2).granted == 1
    assert world.breaker(NEIGHBOUR, limits).take(2).granted == 1


def test_a_group_of_models_shares_its_figures(world: World) -> None:
    one, other, apart = (
        world.breaker(model, Quota.of(ROUTE_WITH_GROUP, model)) for model in ("claude-haiku-5", "claude-opus-5", MODEL)
    )
    assert one.quota == other.quota
    assert one.quota.group == "claude-haiku-*+claude-opus-5"
    assert apart.quota == Quota(MODEL, 50, 0, 0, 1, 9)
    assert one.take(2).granted == 2
    assert other.take(2).granted == 1
    assert other.take().reason == "concurrency"
    assert one.view().in_flight == other.view().in_flight == 3
    assert apart.take().granted == 1
    one.settle(count=2)
    assert other.view().in_flight == 1
    assert other.take(9).granted == 2
    assert one.view().headroom == pytest.approx(5)


def test_a_group_named_like_its_only_model(world: World) -> None:
    breaker = world.breaker(limits=quota(most=2, group=MODEL))
    assert breaker.take(3).granted == 2
    breaker.settle()
    assert breaker.take(3).granted == 1
    assert breaker.view().in_flight == 2


def test_what_nobody_asked_for_is_not_granted(world: World) -> None:
    assert world.breaker().take([]) == PermitGrant((), 0.05, Denial.CONCURRENCY)


def test_many_breakers_are_seen_at_once(world: World) -> None:
    breaker = world.breaker()
    world.open(breaker)
    seen = breaker.limits.view(
        [(ROUTE, MODEL, breaker.quota), (ROUTE, NEIGHBOUR, quota()), ("other", MODEL, breaker.quota)]
    )
    assert {key: view.state for key, view in seen.items()} == {
        (ROUTE, MODEL): "open",
        (ROUTE, NEIGHBOUR): "healthy",
        ("other", MODEL): "healthy",
    }
    assert breaker.limits.view([]) == {}
