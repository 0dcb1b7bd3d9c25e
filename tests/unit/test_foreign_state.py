"""Foreign values in limits and circuit breakers: they are named, steer no terminal, and can be removed."""

import pytest
import redis
from tests.unit.breakers_world import MODEL, ROUTE, World, quota

from trivet_tasks.server_errors import explain

QUOTA = quota()


def breaker_key(world: World) -> bytes:
    """The hash of the breaker of the one model."""
    world.open(world.breaker())
    (key,) = [
        key
        for key in world.client.keys("*")
        if world.client.type(key) == b"hash" and world.client.hexists(key, "cause")
    ]
    assert isinstance(key, bytes)
    return key


def test_words_are_shown_without_escape_sequences(world: World) -> None:
    world.client.hset(breaker_key(world), "cause", "down\x1b[2J\x1b]0;mine\x07 for\ngood")
    (view,) = world.limits.view([(ROUTE, MODEL, QUOTA)]).values()
    assert view.cause == "down for good"


def test_what_is_no_figure_is_named_with_a_way_out(world: World) -> None:
    key = breaker_key(world)
    world.client.hset(key, "since", "yesterday")
    with pytest.raises(redis.RedisError) as refused:
        world.limits.view([(ROUTE, MODEL, QUOTA)])
    assert f"`trivet route restore {ROUTE}`" in explain(refused.value)
    world.limits.forget(ROUTE)
    assert world.limits.view([(ROUTE, MODEL, QUOTA)])[ROUTE, MODEL].state == "healthy"
