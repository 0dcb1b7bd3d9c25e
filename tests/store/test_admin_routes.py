"""Routes, events, health and configuration through `trivet.admin`, over either database; the shared state is away."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.store.world import MODEL, OTHER_ROUTE, ROUTE, World, specs

from trivet.admin import Admin, DrainedRoute, Event, FoldedEvent, RemovedRoute, folded
from trivet_tasks.config.settings import Settings
from trivet_tasks.errors import BrokerUnavailable, InvalidRequest, NotFound

GROUP = "claude-haiku-*+claude-3-*"


@pytest.fixture
def admin(routes: World, store_url: str) -> Iterator[Admin]:
    here = {ROUTE: {"provider": "bedrock", "region": "us-east-1", "requests_per_minute": 700}}
    settings = Settings.model_validate(
        {"store": {"url": store_url}, "redis": {"url": "redis://127.0.0.1:1/0"}, "routes": here}
    )
    with Admin(settings=settings) as admin:
        yield admin


def test_a_drain_counts_the_jobs_there_and_is_an_event(admin: Admin, routes: World) -> None:
    routes.lease(routes=[ROUTE])
    routes.add(*specs(2))
    routes.dispatch(1)
    assert admin.routes.drain(ROUTE, why="maintenance") == DrainedRoute(ROUTE, False, queued=1, running=0)
    assert admin.routes.drain(ROUTE) == DrainedRoute(ROUTE, True, queued=1, running=0)
    (event,) = admin.events.list(since=0, route=ROUTE)
    assert (event.kind, event.text) == ("route drained", "by an operator: maintenance")
    assert admin.events.list(since=0, route=OTHER_ROUTE) == ()
    assert admin.events.list(since=event.at + 1) == ()
    (drained,) = [route for route in admin.routes.status().routes if route.drained]
    assert (drained.name, drained.drained_why, drained.queued) == (ROUTE, "by an operator: maintenance", 1)
    assert [drained.state_of(model) for model in drained.models] == ["drained"]


def test_known_routes_need_no_shared_state_and_say_which_is_drained(admin: Admin) -> None:
    admin.routes.drain(ROUTE)
    assert {route.name: route.drained for route in admin.routes.known()} == {ROUTE: True, OTHER_ROUTE: False}


def test_nothing_is_restored_while_the_shared_state_is_away(admin: Admin) -> None:
    admin.routes.drain(ROUTE)
    with pytest.raises(BrokerUnavailable):
        admin.routes.restore(ROUTE)
    assert [route.drained for route in admin.routes.status().routes] == [True, False]


def test_the_status_says_that_the_shared_state_is_away(admin: Admin, routes: World) -> None:
    routes.add(*specs(3))
    status = admin.routes.status()
    assert status.impairment is not None
    assert "127.0.0.1:1" in status.impairment
    assert status.held_up
    assert [row.total for row in status.waiting] == [3]
    assert {model.state for route in status.routes for model in route.models} == {"unknown"}


@pytest.mark.parametrize(
    "ask",
    [
        lambda admin, name: admin.routes.drain(name),
        lambda admin, name: admin.routes.restore(name),
        lambda admin, name: admin.routes.limits(name),
        lambda admin, name: admin.routes.limit(name, {"max_concurrency": 1}),
        lambda admin, name: admin.routes.reset_limits(name),
        lambda admin, name: admin.routes.probe(name),
        lambda admin, name: admin.routes.remove(name),
        lambda admin, name: admin.events.list(since=0, route=name),
    ],
)
def test_an_unknown_route_is_named_with_the_nearest(admin: Admin, ask: Callable[[Admin, str], object]) -> None:
    with pytest.raises(NotFound, match=f"Did you mean {ROUTE}?"):
        ask(admin, f"{ROUTE}1")
    assert admin.events.list(since=0) == ()


def test_limits_of_a_route_are_set_for_a_time_and_reset(admin: Admin, routes: World) -> None:
    found = admin.routes.limit(ROUTE, {"max_concurrency": 7, "requests_per_minute": 600}, for_s=7_200, by="anna@here")
    assert (found.figures["*"]["requests_per_minute"], found.figures["*"]["max_concurrency"]) == (600, 7)
    assert {(one.figure, one.set_by) for one in found.overrides} == {
        ("max_concurrency", "anna@here"),
        ("requests_per_minute", "anna@here"),
    }
    (until,) = {one.until for one in found.overrides}
    assert until is not None
    assert 7_000 < until - routes.now() <= 7_200
    assert admin.routes.limits(ROUTE).figures == found.figures
    reset = admin.routes.reset_limits(ROUTE, by="ben@here")
    assert {one.figure for one in reset.removed} == {"max_concurrency", "requests_per_minute"}
    assert (reset.figures["*"]["requests_per_minute"], reset.overrides) == (500, ())
    assert admin.routes.reset_limits(ROUTE).removed == ()
    assert [(event.kind, event.text) for event in admin.events.list(since=0, route=ROUTE)] == [
        ("route override", "requests_per_minute 600, max_concurrency 7; by anna@here"),
        ("route override over", "max_concurrency, requests_per_minute: reset by ben@here"),
    ]


def test_limits_of_a_group_and_of_a_model(admin: Admin) -> None:
    admin.routes.limit(ROUTE, {"requests_per_minute": 40}, models="claude-3-*")
    found = admin.routes.limit(ROUTE, {"requests_per_minute": 30}, models=MODEL)
    assert {name: figures["requests_per_minute"] for name, figures in found.figures.items()} == {
        "*": 500,
        GROUP: 40,
        MODEL: 30,
    }
    with pytest.raises(InvalidRequest, match=r"shares its limits with claude-haiku-\*"):
        admin.routes.limit(ROUTE, {"requests_per_minute": 40}, models="claude-haiku-4-5")
    with pytest.raises(InvalidRequest, match="shares its limits"):
        admin.routes.limits(ROUTE, models="claude-haiku-4-5")
    assert set(admin.routes.reset_limits(ROUTE, models=MODEL).figures) == {"*", GROUP}


def test_limits_hold_until_a_moment(admin: Admin, routes: World) -> None:
    until = routes.now() + 600
    assert {one.until for one in admin.routes.limit(ROUTE, {"max_concurrency": 7}, until=until).overrides} == {until}


@pytest.mark.parametrize(
    ("figures", "terms", "says"),
    [
        ({}, {}, "no limit is given"),
        ({"requests": 5}, {}, "'requests' is no limit"),
        ({"requests_per_minute": 0}, {}, "requests_per_minute is 0"),
        ({"max_concurrency": 100_001}, {}, "it is 1 to 100,000"),
        ({"requests_per_minute": 5}, {"for_s": -1.0}, "no time to come"),
        ({"requests_per_minute": 5}, {"until": 1_000_000.0}, "until: 1970-01-12 13:46:40Z is no moment to come"),
        ({"requests_per_minute": 5}, {"until": 1e10, "for_s": 60.0}, "not both"),
    ],
)
def test_limits_that_cannot_be_set(admin: Admin, figures: dict[str, int], terms: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        admin.routes.limit(ROUTE, figures, **terms)
    assert admin.routes.limits(ROUTE).overrides == ()


def test_a_route_is_removed_once_nobody_serves_or_needs_it(admin: Admin, routes: World) -> None:
    lease = routes.lease(worker="w-7", routes=[ROUTE])
    with pytest.raises(InvalidRequest, match="a worker serves it: w-7"):
        admin.routes.remove(ROUTE)
    routes.let_die(lease)
    routes.add(*specs(2))
    routes.dispatch(1)
    with pytest.raises(InvalidRequest, match="has 1 jobs queued or running there"):
        admin.routes.remove(ROUTE)
    routes.sql("UPDATE jobs SET state = 'waiting', route = NULL, dispatched_until = NULL")
    assert admin.routes.remove(ROUTE, by="anna@here") == RemovedRoute(ROUTE, health_forgotten=False), "no Redis here"
    with pytest.raises(NotFound):
        admin.routes.remove(ROUTE)
    with pytest.raises(InvalidRequest, match=f"is the only route for batch jobs of {MODEL}"):
        admin.routes.remove(OTHER_ROUTE)
    assert [event.text for event in admin.events.list(since=0) if event.kind == "route removed"] == ["by anna@here"]


def test_jobs_that_no_other_route_may_take_keep_theirs(admin: Admin, routes: World) -> None:
    routes.add(*specs(1, residency=("us",)))
    with pytest.raises(InvalidRequest, match="is the only route"):
        admin.routes.remove(OTHER_ROUTE)
    routes.sql("UPDATE flows SET active = false")
    assert admin.routes.remove(OTHER_ROUTE).route == OTHER_ROUTE


def test_a_configuration_is_put_in_force(admin: Admin) -> None:
    dry = admin.configuration.apply(dry_run=True)
    assert dry.changes[ROUTE][0] == "requests_per_minute 500 -> 700"
    assert admin.routes.limits(ROUTE).figures["*"]["requests_per_minute"] == 500
    assert admin.configuration.apply(by="anna@here") == dry
    assert admin.routes.limits(ROUTE).figures["*"]["requests_per_minute"] == 700
    assert admin.configuration.apply().changes == {}
    (event,) = admin.events.list(since=0, route=ROUTE)
    assert event.kind == "route changed"
    assert "anna@here from " in event.text


def test_the_state_of_a_database_is_read_without_a_change(admin: Admin, routes: World) -> None:
    state = admin.configuration.database_state()
    if routes.store.sqlite:
        assert state is None
    else:
        assert state is not None
        assert (bool(state.schema), state.impairment, state.pooled) == (True, "", False)


def test_health_names_what_is_wrong_and_the_backlog_what_waits(admin: Admin, routes: World) -> None:
    routes.batch("contracts", *specs(4))
    routes.lease(worker="w-1", routes=[ROUTE])
    kinds = [one.kind for one in admin.health.impairments()]
    assert {"server", "scheduler", "route"} <= set(kinds)
    with pytest.raises(BrokerUnavailable):
        admin.health.announced()
    with pytest.raises(BrokerUnavailable):
        admin.routes.last_used([ROUTE])
    backlog = admin.health.backlog()
    assert (backlog.waiting, backlog.dispatched, backlog.running) == (4, 0, 0)
    assert [(row.batch, row.total) for row in backlog.batches] == [("contracts", 4)]
    assert [lease.worker for lease in backlog.leases] == ["w-1"]
    assert dict(backlog.drained) == {ROUTE: False, OTHER_ROUTE: False}
    assert backlog.read_at == pytest.approx(time.time(), abs=60)


def test_repeated_pauses_of_a_model_are_one_event() -> None:
    pause = Event(10.0, "route limited", ROUTE, MODEL, "for 2 s")
    other = pause._replace(route=OTHER_ROUTE)
    opened = pause._replace(kind="route open")
    assert folded([pause, other, pause._replace(at=12.0), opened, pause]) == (
        FoldedEvent(pause, 2, 12.0),
        FoldedEvent(other),
        FoldedEvent(opened),
        FoldedEvent(pause),
    )
