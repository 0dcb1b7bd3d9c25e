"""After the shared state lost its data no call is made until one of several processes has restored it from SQL."""

import threading
from typing import Any

import pytest
from tests.unit.backends import GROUP, Backends
from tests.unit.breakers_world import (
    HEALTH,
    MODEL,
    NEIGHBOUR,
    ROUTE,
    WHOLE_ROUTE,
    World,
    quota,
)

from trivet_routing.limits import EPOCH, FORGOTTEN, PERMIT_GRACE_S, Limits
from trivet_scheduler.restoring import LOCK, Restorer
from trivet_store.cluster import health
from trivet_store.database.engine import Store
from trivet_tasks.jobs import Permit, permit_id
from trivet_tasks.outcomes import HealthSignal


@pytest.fixture
def backends(world: World, store: Store) -> Backends:
    return Backends(world, store)


def near(seconds: float) -> Any:
    """SQL's clock goes on while a test runs: a pause is shorter by what that took."""
    return pytest.approx(seconds - 15, abs=15.001)


def test_while_the_memory_is_gone_nobody_calls(backends: Backends) -> None:
    breaker = backends.breaker()
    backends.world.lose_memory()
    refused = breaker.take()
    assert (refused.granted, refused.reason) == (0, "forgotten")
    assert 0 < refused.wait_s <= 1
    view = breaker.view()
    assert (view.state, view.cause) == ("limited", FORGOTTEN)
    assert view.wait_s > 0
    assert view.headroom == view.input_headroom == view.output_headroom == 0
    assert breaker.claim(at_once=True) is None, "nor does anybody probe"


def test_a_first_start_begins_empty(backends: Backends) -> None:
    backends.world.lose_memory()
    assert backends.restorer().run()
    assert backends.world.client.exists(EPOCH)
    assert backends.breaker().view().state == "healthy"
    assert backends.breaker().take(20).granted == 10


def test_nothing_is_done_where_nothing_was_lost(backends: Backends) -> None:
    backends.note(MODEL, "open", "down")
    before = {key: backends.world.client.dump(key) for key in backends.world.client.scan_iter()}
    assert not backends.restorer().run()
    assert {key: backends.world.client.dump(key) for key in backends.world.client.scan_iter()} == before


def test_what_was_out_of_service_is_so_again_and_probed_soon(backends: Backends) -> None:
    backends.note(MODEL, "open", "server_error: down", 3_600, ago_s=100)
    backends.note(NEIGHBOUR, "recovering", "good probes")
    backends.note("claude-opus-5", "healthy", "it held its last share")
    backends.world.lose_memory()
    backends.restorer().run()
    breaker, neighbour = backends.breaker(), backends.breaker(NEIGHBOUR)
    view = breaker.view()
    assert (view.state, view.cause) == ("open", "server_error: down")
    assert view.since is not None
    assert 0 < view.wait_s <= HEALTH.probe_interval_s, "however long the last pause was"
    assert breaker.take().reason == "open"
    assert neighbour.view().state == "open", "its share was not reached for the asking: from the beginning"
    assert backends.breaker("claude-opus-5").take().granted == 1
    assert breaker.limits.unhealthy() == [(ROUTE, NEIGHBOUR), (ROUTE, MODEL)]
    backends.world.pass_time(HEALTH.probe_interval_s)
    backends.world.recover(breaker)


def test_a_whole_route_is_out_of_service_again(backends: Backends) -> None:
    backends.note(WHOLE_ROUTE, "open", "unusable: no credit")
    backends.world.lose_memory()
    backends.restorer().run()
    assert backends.breaker().take().reason == "open"
    assert backends.breaker(NEIGHBOUR).view().cause == "unusable: no credit"
    assert backends.breaker().limits.unhealthy() == [(ROUTE, WHOLE_ROUTE)]


def test_late_words_of_calls_from_before_the_loss_change_no_restored_breaker(backends: Backends) -> None:
    breaker = backends.breaker()
    breaker.take(10)
    backends.note(MODEL, "open", "down")
    backends.world.lose_memory()
    backends.restorer().run()
    for signal in (
        HealthSignal.GOOD,
        HealthSignal.FAILED,
        HealthSignal.UNUSABLE_MODEL,
        HealthSignal.CONTRADICTED,
        HealthSignal.UNUSED,
    ):
        assert breaker.settle(signal) == []
    assert breaker.view().cause == "down"


def test_pauses_that_are_not_over_are_kept(backends: Backends) -> None:
    backends.note(MODEL, "limited", "rate_limited: slow down", 120, ago_s=20)
    backends.note(GROUP, "limited", "rate_limited: spend", 7_200)
    backends.note("claude-opus-4", "limited", "rate_limited: once", 30, ago_s=31)
    backends.sql.running(1)
    backends.world.lose_memory()
    backends.restorer().run()
    refused = backends.breaker().take()
    assert (refused.granted, refused.reason) == (0, "limited")
    assert refused.wait_s == near(100)
    assert backends.breaker().view().cause == "rate_limited: slow down"
    assert (
        backends.breaker("claude-haiku-5").take().wait_s
        == backends.breaker("claude-opus-5").take().wait_s
        == near(7_200)
    )
    assert backends.breaker("claude-opus-4").take().granted == 1
    assert backends.breaker().bucket("r") == 0, "and the bucket is empty then"
    backends.world.pass_time(101)
    assert backends.breaker().take().granted == 1


def test_a_pause_that_was_told_meanwhile_is_not_shortened(backends: Backends) -> None:
    """A call came back after the loss and before anything was put back; its word is not in SQL yet."""
    breaker = backends.breaker()
    breaker.take()
    backends.note(MODEL, "limited", "rate_limited: a while", 30)
    backends.world.lose_memory()
    breaker.settle(HealthSignal.LIMITED, pause_s=500)
    backends.restorer().run()
    assert breaker.take().wait_s == 500


def test_calls_under_way_hold_their_places_until_they_come_back(backends: Backends) -> None:
    breaker = backends.breaker()
    lease, jobs = backends.sql.running(4)
    dead, _ = backends.sql.running(3)
    backends.sql.let_die(dead)
    backends.sql.rescue()
    backends.world.lose_memory()
    backends.restorer().run()
    assert breaker.view().in_flight == 4
    backends.world.pass_time(3)
    assert breaker.take(9).granted == 6
    breaker.settle(count=6)
    back = [Permit(permit_id(lease, job.attempt_id), 10, 5, "7.7.1799999999") for job in jobs]
    for number, permit in enumerate(back, 1):
        breaker.settle_these([permit])
        assert breaker.view().in_flight == 4 - number, "each gives its own back"


def test_calls_under_way_that_never_come_back_are_written_off(backends: Backends) -> None:
    backends.sql.running(10)
    backends.world.lose_memory()
    backends.restorer().run()
    breaker = backends.breaker()
    backends.world.pass_time(15.0)  # the time of a batch job's call
    assert breaker.take().reason == "concurrency"
    backends.world.pass_time(PERMIT_GRACE_S + 1)
    assert breaker.take(20).granted == 10


def test_permits_of_a_dead_worker_can_be_given_back_after_a_loss(backends: Backends) -> None:
    lease, _ = backends.sql.running(4)
    backends.world.lose_memory()
    backends.restorer().run()
    backends.breaker().limits.release_all(lease)
    assert backends.breaker().view().in_flight == 0


def test_calls_of_a_group_hold_places_of_the_group(backends: Backends) -> None:
    backends.sql.running(4)
    backends.sql.sql("UPDATE attempts SET model = 'claude-haiku-5'")
    backends.world.lose_memory()
    backends.restorer().run()
    assert backends.breaker("claude-opus-5").view().in_flight == 4
    backends.world.pass_time(3)
    assert backends.breaker("claude-opus-5").take(9).granted == 1


def test_what_was_used_in_the_last_minute_begins_empty(backends: Backends) -> None:
    backends.sql.running(1)
    backends.world.lose_memory()
    backends.restorer().run()
    used, unused = backends.breaker(), backends.breaker(NEIGHBOUR)
    assert used.take().reason in ("requests", "input_tokens")
    assert unused.take(2).granted == 2
    backends.world.pass_time(0.5)
    assert 4 <= used.take(20).granted <= 5


def test_what_was_used_longer_ago_begins_full(backends: Backends) -> None:
    backends.sql.running(1)
    backends.sql.sql("UPDATE attempts SET started_at = started_at - 61")
    backends.world.lose_memory()
    backends.restorer().run()
    assert backends.breaker().take(20).granted == 9


def test_calls_that_came_back_after_the_loss_free_no_capacity_that_is_not_there(backends: Backends) -> None:
    """Their reservations were forgotten with the rest; giving them back twice would be too much."""
    breaker = backends.breaker()
    breaker.take(1, 30_000)
    backends.sql.running(1)
    backends.world.lose_memory()
    backends.restorer().run()
    breaker.settle(used=(0, 0))
    assert breaker.view().input_headroom <= 1_000, "a burst"
    backends.world.pass_time(3)
    granted = 0
    for _ in range(600):
        granted += breaker.take(10, 500).granted
        if breaker.held:
            breaker.settle(count=len(breaker.held))
        backends.world.pass_time(0.1)
    assert granted * 500 <= 60_000


def test_routes_that_are_gone_from_the_configuration_are_no_error(backends: Backends) -> None:
    backends.sql.running(2)
    backends.sql.sql("UPDATE attempts SET route = 'gone'")
    backends.sql.sql("DELETE FROM routes WHERE name = 'gone'")
    backends.world.lose_memory()
    assert backends.restorer().run()


def test_two_at_once_put_back_once(backends: Backends) -> None:
    backends.note(MODEL, "open", "down")
    for _ in range(10):
        backends.world.lose_memory()
        done: list[bool] = []
        barrier = threading.Barrier(4)
        restorers = [backends.restorer() for _ in range(4)]

        def restore(restorer: Restorer, barrier: threading.Barrier = barrier, done: list[bool] = done) -> None:
            barrier.wait(60)
            done.append(restorer.run())

        threads = [threading.Thread(target=restore, args=(restorer,)) for restorer in restorers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(done) == [False, False, False, True]
        assert backends.breaker().state == "open"
        assert not backends.world.client.exists(LOCK)


def test_one_that_was_slower_than_the_lock_lasts_undoes_nothing(
    backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has restored everything meanwhile, and the breaker was probed and is healthy."""
    backends.note(MODEL, "open", "down")
    backends.world.lose_memory()
    slow = backends.restorer()
    reads = health.used_lately

    def meanwhile(connection: Any, since: float) -> Any:
        monkeypatch.setattr(health, "used_lately", reads)
        backends.world.client.delete(LOCK)
        assert backends.restorer().run()
        backends.breaker().limits.forget(ROUTE)
        return reads(connection, since)

    monkeypatch.setattr(health, "used_lately", meanwhile)
    assert not slow.run()
    assert backends.breaker().state == "healthy"


def test_a_database_that_does_not_answer_leaves_everything_shut(
    backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends.world.lose_memory()

    def fails(*_: Any) -> Any:
        raise RuntimeError("no")

    restorer = backends.restorer()
    monkeypatch.setattr(health, "noted", fails)
    with pytest.raises(RuntimeError):
        restorer.run()
    assert backends.breaker().take().reason == "forgotten"
    monkeypatch.undo()
    assert restorer.run(), "the lock is free again"


def test_the_scripts_come_back_by_themselves(backends: Backends) -> None:
    """A new server does not know them."""
    backends.world.client.script_flush()
    assert Limits(backends.world.client, HEALTH).view([(ROUTE, MODEL, quota())])
    assert backends.breaker().take().granted == 1
