"""After the shared state lost its data no call is made until one of several processes has restored it from SQL."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.store.world import World as StoreWorld
from tests.unit.breakers_world import (
    HEALTH,
    MODEL,
    NEIGHBOUR,
    ROUTE,
    WHOLE_ROUTE,
    Breaker,
    ClockedRedis,
    Held,
    World,
    quota,
)

from trivet_routing.limits import EPOCH, FORGOTTEN, PERMIT_GRACE_S, Limits
from trivet_routing.permits import PermitRequest, Quota
from trivet_routing.route_directory import RouteDirectory
from trivet_scheduler.restoring import LOCK, Restorer
from trivet_store.cluster import health, registry
from trivet_store.database.engine import Store
from trivet_store.migrations.schema_version import upgrade
from trivet_tasks.config.route_settings import RouteSettings
from trivet_tasks.config.settings import Settings
from trivet_tasks.outcomes import HealthSignal
from trivet_tasks.states import RouteState

GROUP = "claude-haiku-*+claude-opus-5"
SETTINGS = Settings(
    routes={
        ROUTE: RouteSettings.model_validate(
            {
                "provider": "bedrock",
                "requests_per_minute": 600,
                "input_tokens_per_minute": 60_000,
                "max_concurrency": 10,
                "limits": [{"models": GROUP.split("+"), "requests_per_minute": 600, "max_concurrency": 5}],
            }
        )
    },
    health=HEALTH,
)

"""Of a deferred job: whose permit it was is not known."""


class Place:
    """SQL and shared state of one Trivet."""

    def __init__(self, world: World, store: Store) -> None:
        self.world = world
        self.sql = StoreWorld(store)
        self.store = store
        with store.write() as connection:
            registry.register(store, connection, SETTINGS.routes)

    def breaker(self, model: str = MODEL) -> Breaker:
        return self.world.breaker(model, Quota.of(SETTINGS.routes[ROUTE], model))

    def restorer(self, client: ClockedRedis | None = None) -> Restorer:
        client = client or self.world.client
        return Restorer(self.store, client, RouteDirectory(self.store, Limits(client, SETTINGS.health)), SETTINGS)

    def note(self, model: str, state: str, cause: str, seconds: float = 0.0, *, ago_s: float = 0.0) -> None:
        """As the recorder writes down what a settlement changed."""
        with self.store.write() as connection:
            health.note(connection, ROUTE, model, RouteState(state), cause, self.store.now(connection) - ago_s, seconds)


@pytest.fixture
def place(world: World, tmp_path: Path) -> Iterator[Place]:
    store = Store(f"sqlite:///{tmp_path / 'trivet.db'}")
    upgrade(store)
    yield Place(world, store)
    store.close()


def near(seconds: float) -> Any:
    """SQL's clock goes on while a test runs: a pause is shorter by what that took."""
    return pytest.approx(seconds - 15, abs=15.001)


def test_while_the_memory_is_gone_nobody_calls(place: Place) -> None:
    breaker = place.breaker()
    place.world.lose_memory()
    refused = breaker.take()
    assert (refused.granted, refused.reason) == (0, "forgotten")
    assert 0 < refused.wait_s <= 1
    view = breaker.view()
    assert (view.state, view.cause) == ("limited", FORGOTTEN)
    assert view.wait_s > 0
    assert view.headroom == view.input_headroom == view.output_headroom == 0
    assert breaker.claim(at_once=True) is None, "nor does anybody probe"


def test_a_first_start_begins_empty(place: Place) -> None:
    place.world.lose_memory()
    assert place.restorer().run()
    assert place.world.client.exists(EPOCH)
    assert place.breaker().view().state == "healthy"
    assert place.breaker().take(20).granted == 10


def test_nothing_is_done_where_nothing_was_lost(place: Place) -> None:
    place.note(MODEL, "open", "down")
    before = {key: place.world.client.dump(key) for key in place.world.client.scan_iter()}
    assert not place.restorer().run()
    assert {key: place.world.client.dump(key) for key in place.world.client.scan_iter()} == before


def test_what_was_out_of_service_is_so_again_and_probed_soon(place: Place) -> None:
    place.note(MODEL, "open", "server_error: down", 3_600, ago_s=100)
    place.note(NEIGHBOUR, "recovering", "good probes")
    place.note("claude-opus-5", "healthy", "it held its last share")
    place.world.lose_memory()
    place.restorer().run()
    breaker, neighbour = place.breaker(), place.breaker(NEIGHBOUR)
    view = breaker.view()
    assert (view.state, view.cause) == ("open", "server_error: down")
    assert view.since is not None
    assert 0 < view.wait_s <= HEALTH.probe_interval_s, "however long the last pause was"
    assert breaker.take().reason == "open"
    assert neighbour.view().state == "open", "its share was not reached for the asking: from the beginning"
    assert place.breaker("claude-opus-5").take().granted == 1
    assert breaker.limits.unhealthy() == [(ROUTE, NEIGHBOUR), (ROUTE, MODEL)]
    place.world.pass_time(HEALTH.probe_interval_s)
    place.world.recover(breaker)


def test_a_whole_route_is_out_of_service_again(place: Place) -> None:
    place.note(WHOLE_ROUTE, "open", "unusable: no credit")
    place.world.lose_memory()
    place.restorer().run()
    assert place.breaker().take().reason == "open"
    assert place.breaker(NEIGHBOUR).view().cause == "unusable: no credit"
    assert place.breaker().limits.unhealthy() == [(ROUTE, WHOLE_ROUTE)]


def test_late_words_of_calls_from_before_the_loss_change_no_restored_breaker(place: Place) -> None:
    breaker = place.breaker()
    breaker.take(10)
    place.note(MODEL, "open", "down")
    place.world.lose_memory()
    place.restorer().run()
    for signal in (
        HealthSignal.GOOD,
        HealthSignal.FAILED,
        HealthSignal.UNUSABLE_MODEL,
        HealthSignal.CONTRADICTED,
        HealthSignal.UNUSED,
    ):
        assert breaker.settle(signal) == []
    assert breaker.view().cause == "down"


def test_pauses_that_are_not_over_are_kept(place: Place) -> None:
    place.note(MODEL, "limited", "rate_limited: slow down", 120, ago_s=20)
    place.note(GROUP, "limited", "rate_limited: spend", 7_200)
    place.note("claude-opus-4", "limited", "rate_limited: once", 30, ago_s=31)
    place.sql.running(1)
    place.world.lose_memory()
    place.restorer().run()
    refused = place.breaker().take()
    assert (refused.granted, refused.reason) == (0, "limited")
    assert refused.wait_s == near(100)
    assert place.breaker().view().cause == "rate_limited: slow down"
    assert place.breaker("claude-haiku-5").take().wait_s == place.breaker("claude-opus-5").take().wait_s == near(7_200)
    assert place.breaker("claude-opus-4").take().granted == 1
    assert place.breaker().bucket("r") == 0, "and the bucket is empty then"
    place.world.pass_time(101)
    assert place.breaker().take().granted == 1


def test_a_pause_that_was_told_meanwhile_is_not_shortened(place: Place) -> None:
    """A call came back after the loss and before anything was put back; its word is not in SQL yet."""
    breaker = place.breaker()
    breaker.take()
    place.note(MODEL, "limited", "rate_limited: a while", 30)
    place.world.lose_memory()
    breaker.settle(HealthSignal.LIMITED, pause_s=500)
    place.restorer().run()
    assert breaker.take().wait_s == 500


def test_calls_under_way_hold_their_places_until_they_come_back(place: Place) -> None:
    breaker = place.breaker()
    lease, jobs = place.sql.running(4)
    dead, _ = place.sql.running(3)
    place.sql.let_die(dead)
    place.sql.rescue()
    place.world.lose_memory()
    place.restorer().run()
    assert breaker.view().in_flight == 4
    place.world.pass_time(3)
    assert breaker.take(9).granted == 6
    breaker.settle(count=6)
    back = [PermitRequest(f"{lease}:{job.attempt_id}", 10, 5) for job in jobs]
    for number, permit in enumerate(back, 1):
        breaker.settle_these([Held(permit, "7.7.1799999999")])
        assert breaker.view().in_flight == 4 - number, "each gives its own back"


def test_calls_under_way_that_never_come_back_are_written_off(place: Place) -> None:
    place.sql.running(10)
    place.world.lose_memory()
    place.restorer().run()
    breaker = place.breaker()
    place.world.pass_time(15.0)  # the time of a batch job's call
    assert breaker.take().reason == "concurrency"
    place.world.pass_time(PERMIT_GRACE_S + 1)
    assert breaker.take(20).granted == 10


def test_permits_of_a_dead_worker_can_be_given_back_after_a_loss(place: Place) -> None:
    lease, _ = place.sql.running(4)
    place.world.lose_memory()
    place.restorer().run()
    place.breaker().limits.release_all(lease)
    assert place.breaker().view().in_flight == 0


def test_calls_of_a_group_hold_places_of_the_group(place: Place) -> None:
    place.sql.running(4)
    place.sql.sql("UPDATE attempts SET model = 'claude-haiku-5'")
    place.world.lose_memory()
    place.restorer().run()
    assert place.breaker("claude-opus-5").view().in_flight == 4
    place.world.pass_time(3)
    assert place.breaker("claude-opus-5").take(9).granted == 1


def test_what_was_used_in_the_last_minute_begins_empty(place: Place) -> None:
    place.sql.running(1)
    place.world.lose_memory()
    place.restorer().run()
    used, unused = place.breaker(), place.breaker(NEIGHBOUR)
    assert used.take().reason in ("requests", "input_tokens")
    assert unused.take(2).granted == 2
    place.world.pass_time(0.5)
    assert 4 <= used.take(20).granted <= 5


def test_what_was_used_longer_ago_begins_full(place: Place) -> None:
    place.sql.running(1)
    place.sql.sql("UPDATE attempts SET started_at = started_at - 61")
    place.world.lose_memory()
    place.restorer().run()
    assert place.breaker().take(20).granted == 9


def test_calls_that_came_back_after_the_loss_free_no_capacity_that_is_not_there(place: Place) -> None:
    """Their reservations were forgotten with the rest; giving them back twice would be too much."""
    breaker = place.breaker()
    breaker.take(1, 30_000)
    place.sql.running(1)
    place.world.lose_memory()
    place.restorer().run()
    breaker.settle(used=(0, 0))
    assert breaker.view().input_headroom <= 1_000, "a burst"
    place.world.pass_time(3)
    granted = 0
    for _ in range(600):
        granted += breaker.take(10, 500).granted
        if breaker.held:
            breaker.settle(count=len(breaker.held))
        place.world.pass_time(0.1)
    assert granted * 500 <= 60_000


def test_routes_that_are_gone_from_the_configuration_are_no_error(place: Place) -> None:
    place.sql.running(2)
    place.sql.sql("UPDATE attempts SET route = 'gone'")
    place.sql.sql("DELETE FROM routes WHERE name = 'gone'")
    place.world.lose_memory()
    assert place.restorer().run()


def test_two_at_once_put_back_once(place: Place) -> None:
    place.note(MODEL, "open", "down")
    for _ in range(10):
        place.world.lose_memory()
        done: list[bool] = []
        barrier = threading.Barrier(4)
        restorers = [place.restorer() for _ in range(4)]

        def restore(restorer: Restorer, barrier: threading.Barrier = barrier, done: list[bool] = done) -> None:
            barrier.wait(60)
            done.append(restorer.run())

        threads = [threading.Thread(target=restore, args=(restorer,)) for restorer in restorers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(done) == [False, False, False, True]
        assert place.breaker().state == "open"
        assert not place.world.client.exists(LOCK)


def test_one_that_was_slower_than_the_lock_lasts_undoes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has restored everything meanwhile, and the breaker was probed and is healthy."""
    place.note(MODEL, "open", "down")
    place.world.lose_memory()
    slow = place.restorer()
    reads = health.used_lately

    def meanwhile(connection: Any, since: float) -> Any:
        monkeypatch.setattr(health, "used_lately", reads)
        place.world.client.delete(LOCK)
        assert place.restorer().run()
        place.breaker().limits.forget(ROUTE)
        return reads(connection, since)

    monkeypatch.setattr(health, "used_lately", meanwhile)
    assert not slow.run()
    assert place.breaker().state == "healthy"


def test_a_database_that_does_not_answer_leaves_everything_shut(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.world.lose_memory()

    def fails(*_: Any) -> Any:
        raise RuntimeError("no")

    restorer = place.restorer()
    monkeypatch.setattr(health, "noted", fails)
    with pytest.raises(RuntimeError):
        restorer.run()
    assert place.breaker().take().reason == "forgotten"
    monkeypatch.undo()
    assert restorer.run(), "the lock is free again"


def test_the_scripts_come_back_by_themselves(place: Place) -> None:
    """A new server does not know them."""
    place.world.client.script_flush()
    assert Limits(place.world.client, HEALTH).view([(ROUTE, MODEL, quota())])
    assert place.breaker().take().granted == 1
