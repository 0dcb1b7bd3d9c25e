"""The rate of a gateway key on a real Valkey, with a clock that only the test moves."""

import pytest
from tests.unit.breakers_world import World

from trivet_routing.request_rate import BUCKETS, RequestRate


@pytest.fixture
def rate(world: World) -> RequestRate:
    return RequestRate(world.client)


def test_a_minutes_requests_may_come_at_once_and_then_evenly(world: World, rate: RequestRate) -> None:
    assert [rate.take("search", 60) for _ in range(60)] == [0.0] * 60
    assert rate.take("search", 60) == pytest.approx(1.0)
    world.pass_time(0.4)
    assert rate.take("search", 60) == pytest.approx(0.6)
    world.pass_time(0.6)
    assert rate.take("search", 60) == 0.0
    assert rate.take("search", 60) == pytest.approx(1.0)
    world.pass_time(60)
    assert [rate.take("search", 60) for _ in range(60)] == [0.0] * 60
    assert rate.take("search", 60) > 0


def test_a_request_that_is_refused_costs_nothing(world: World, rate: RequestRate) -> None:
    assert rate.take("slow", 1) == 0.0
    assert [round(rate.take("slow", 1)) for _ in range(5)] == [60] * 5
    world.pass_time(60)
    assert rate.take("slow", 1) == 0.0


def test_keys_have_buckets_of_their_own_which_processes_share(world: World, rate: RequestRate) -> None:
    other = RequestRate(world.client)
    assert rate.take("a", 1) == other.take("b", 1) == 0.0
    assert other.take("a", 1) > 0
    assert rate.take("b", 1) > 0


def test_a_bucket_that_is_full_again_leaves_nothing_in_the_server(world: World, rate: RequestRate) -> None:
    rate.take("search", 600)
    left_ms = world.client.pttl(f"{BUCKETS}search")
    assert 0 < left_ms <= 101


def test_a_rate_that_was_lowered_waits_a_minute_at_most(world: World, rate: RequestRate) -> None:
    for _ in range(1_000):
        assert rate.take("search", 1_000) == 0.0
    assert rate.take("search", 1) == pytest.approx(60, abs=1)
