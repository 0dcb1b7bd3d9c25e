"""Recorded health and limits of routes, for people and for restarts."""

from typing import Any

import pytest
from sqlalchemy import Row
from tests.store.world import MODEL, OTHER_ROUTE, ROUTE, World, specs

from trivet_store.cluster import health
from trivet_store.cluster.health import CallRow, HealthRow
from trivet_tasks.config.route_settings import LimitGroup
from trivet_tasks.states import RouteState

NOW = 1_000_000.0


def note(
    world: World,
    state: str,
    cause: str = "",
    *,
    route: str = ROUTE,
    model: str = MODEL,
    at: float = NOW,
    seconds: float = 0.0,
    share: float = 0.0,
) -> None:
    with world.store.write() as connection:
        health.note(connection, route, model, RouteState(state), cause, at, seconds, share)


def noted(world: World) -> list[HealthRow]:
    with world.store.read() as connection:
        return health.noted(connection)


def closed(world: World, now: float) -> list[tuple[str, str, float, str]]:
    with world.store.read() as connection:
        found = health.closed(connection, now)
    return sorted((row.route, row.models, row.closed_until, row.cause) for row in found)


def events(world: World) -> list[Row[Any]]:
    return world.sql("SELECT kind, route, model, text FROM events ORDER BY id")


def test_the_last_change_is_the_health_and_every_change_an_event(world: World) -> None:
    note(world, "open", "timeout: silent", seconds=15)
    assert noted(world) == [HealthRow(ROUTE, MODEL, RouteState.OPEN, "timeout: silent", NOW, NOW + 15)]
    note(world, "probing", "a probe was answered", at=NOW + 15, seconds=3)
    note(world, "recovering", "3 good probes", at=NOW + 21, share=0.25)
    note(world, "healthy", "recovered", at=NOW + 90)
    note(world, "open", "unusable: 401", model="*", seconds=60)
    assert noted(world) == [
        HealthRow(ROUTE, "*", RouteState.OPEN, "unusable: 401", NOW, NOW + 60),
        HealthRow(ROUTE, MODEL, RouteState.HEALTHY, "recovered", NOW + 90, None),
    ]
    assert events(world) == [
        ("route open", ROUTE, MODEL, "timeout: silent"),
        ("route probing", ROUTE, MODEL, "a probe was answered"),
        ("route recovering", ROUTE, MODEL, "25% of its work: 3 good probes"),
        ("route healthy", ROUTE, MODEL, "recovered"),
        ("route open", ROUTE, "*", "unusable: 401"),
    ]


def test_being_limited_is_kept_apart_from_health_until_it_is_over(world: World) -> None:
    note(world, "open", "timeout", seconds=15)
    note(world, "limited", "429", seconds=20)
    note(world, "limited", "429: all haikus", model="claude-haiku-*", seconds=60)
    assert [(row.model, row.state) for row in noted(world)] == [(MODEL, "open")]
    assert closed(world, NOW + 19) == [
        (ROUTE, "claude-haiku-*", NOW + 60, "429: all haikus"),
        (ROUTE, MODEL, NOW + 20, "429"),
    ]
    assert [row[1] for row in closed(world, NOW + 20)] == ["claude-haiku-*"]
    note(world, "limited", "429 again", at=NOW + 30, seconds=5)
    assert (ROUTE, MODEL, NOW + 35, "429 again") in closed(world, NOW + 30)
    assert closed(world, NOW + 60) == []
    assert [(row.kind, row.model) for row in events(world)].count(("route limited", MODEL)) == 2


def test_what_a_provider_says_is_written_clean_and_short(world: World) -> None:
    note(world, "open", "bad\x00 words " * 200, seconds=1)
    note(world, "limited", "bad\x00 words " * 200, seconds=1)
    for cause in (noted(world)[0].cause, closed(world, NOW)[0][3]):
        assert "\x00" not in cause
        assert 0 < len(cause) <= 500


def test_a_route_declared_well_has_neither_illness_nor_limits(world: World) -> None:
    for route in (ROUTE, OTHER_ROUTE):
        note(world, "open", "timeout", route=route, seconds=15)
        note(world, "open", "unusable", route=route, model="*", seconds=15)
        note(world, "healthy", "recovered", route=route, model="claude-haiku-4-5")
        note(world, "limited", "429", route=route, seconds=600)
        note(world, "limited", "429", route=route, model="claude-haiku-*", seconds=600)
    before = len(events(world))
    with world.store.write() as connection:
        health.forget(connection, ROUTE, NOW + 1)
    mine = [row for row in noted(world) if row.route == ROUTE]
    assert [(row.model, row.state, row.closed_until) for row in mine] == [
        ("*", "healthy", None),
        ("claude-haiku-4-5", "healthy", None),
        (MODEL, "healthy", None),
    ]
    assert [row.since for row in mine] == [NOW + 1, NOW, NOW + 1], "what was well stays as it was"
    assert {row[0] for row in closed(world, NOW + 1)} == {OTHER_ROUTE}
    assert [row.state for row in noted(world) if row.route == OTHER_ROUTE] == ["open", "healthy", "open"]
    said = events(world)[before:]
    assert {(row.kind, row.route, row.text) for row in said} == {("route healthy", ROUTE, "restored by an operator")}
    assert len(said) == 2


def test_resetting_an_unknown_route_does_nothing(world: World) -> None:
    with world.store.write() as connection:
        health.forget(connection, "nowhere", NOW)
    assert (noted(world), events(world)) == ([], [])


def test_calls_under_way_are_those_of_workers_with_a_valid_lease(world: World) -> None:
    lease, (running, done) = world.running(2)
    dead, _ = world.running(1)
    world.end(lease, [done])
    world.let_die(dead)
    world.rescue()
    gone, _ = world.running(1)
    world.sql("DELETE FROM leases WHERE id = :id", id=gone)
    with world.store.read() as connection:
        assert health.under_way(connection) == [
            CallRow(running.attempt_id, lease, ROUTE, MODEL, "batch", running.max_tokens, running.input_estimate)
        ]


def test_what_was_used_lately_is_told_once(world: World) -> None:
    lease = world.lease()
    world.add(*specs(4))
    world.take(lease, world.dispatch(2))
    world.take(lease, world.dispatch(1, OTHER_ROUTE), route=OTHER_ROUTE)
    world.sql("UPDATE attempts SET started_at = :at", at=NOW)
    world.take(lease, world.dispatch(1))
    with world.store.read() as connection:
        assert sorted(health.used_lately(connection, NOW - 1)) == [(ROUTE, MODEL), (OTHER_ROUTE, MODEL)]
        assert list(health.used_lately(connection, NOW)) == [(ROUTE, MODEL)]


@pytest.mark.parametrize("count", [1, 12, 60])
def test_the_name_of_a_group_of_many_models_can_be_written(world: World, count: int) -> None:
    group = LimitGroup(models=tuple(f"claude-haiku-{n}-20260101-*" for n in range(count)))
    note(world, "limited", "429", model=group.name, seconds=60)
    assert [row[1] for row in closed(world, NOW)] == [group.name]
    assert [row.model for row in events(world)] == [group.name]
