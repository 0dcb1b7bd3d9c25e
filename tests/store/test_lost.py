"""Processes that fell silent: remembered until they are back, replaced or long gone."""

from tests.store.world import World

from trivet_store.cluster import leases
from trivet_store.cluster.leases import SCHEDULER

TTL_S = 15.0


def silent(world: World) -> list[str]:
    with world.store.read() as connection:
        living = [*leases.living(world.store, connection), *leases.schedulers(world.store, connection)]
        return [one.process for one in leases.silent(world.store, connection, living, TTL_S)]


def fall_silent(world: World, lease: str, *, for_s: float = 1.0) -> None:
    """Its heartbeats stopped a term and so many seconds ago."""
    at = world.now() - for_s
    world.sql(
        "UPDATE leases SET expires_at = :at, started_at = :began WHERE id = :id", at=at, began=at - 3_600, id=lease
    )


def test_a_scheduler_holds_a_lease_and_serves_nothing(world: World) -> None:
    world.lease(worker="s", part=SCHEDULER, lane="", routes=())
    worker = world.lease(worker="w")
    with world.store.read() as connection:
        assert [one.worker for one in leases.schedulers(world.store, connection)] == ["s"]
        assert [one.worker for one in leases.living(world.store, connection)] == ["w"]
        assert set(leases.taking_work(world.store, connection)) == {worker}


def test_a_process_is_silent_before_and_after_its_lease_is_dropped(world: World) -> None:
    worker, _ = world.running(1)
    scheduler = world.lease(worker="s", part=SCHEDULER, lane="", routes=())
    assert silent(world) == []
    fall_silent(world, worker)
    assert silent(world) == ["worker-1"]
    assert world.rescue() == {worker: 1}
    assert world.rescue() == {}
    assert world.value("SELECT count(*) FROM leases") == 1
    assert silent(world) == ["worker-1"]
    fall_silent(world, scheduler)
    assert silent(world) == ["s", "worker-1"]


def test_one_that_took_its_place_since_makes_it_forgotten(world: World) -> None:
    older = world.lease(worker="older")
    first, second = world.lease(worker="first"), world.lease(worker="second")
    for lease in (first, second):
        fall_silent(world, lease)
    world.sql("UPDATE leases SET started_at = started_at - 3600 WHERE id = :id", id=older)
    assert silent(world) == ["first", "second"]
    world.lease(worker="other-lane", lane="realtime")
    world.lease(worker="other-routes", routes=["elsewhere"])
    assert silent(world) == ["first", "second"]
    world.lease(worker="third")
    assert len(silent(world)) == 1, "one takes the place of one"
    world.rescue()
    world.lease(worker="fourth")
    assert silent(world) == []


def covered(world: World) -> dict[str, bool]:
    with world.store.read() as connection:
        living = [*leases.living(world.store, connection), *leases.schedulers(world.store, connection)]
        return {one.process: one.covered for one in leases.silent(world.store, connection, living, TTL_S)}


def test_one_whose_jobs_are_rescued_and_whose_routes_others_serve_holds_nothing_up(world: World) -> None:
    older = world.lease(worker="older", routes=["a", "b", "c"])
    scheduler = world.lease(worker="older-scheduler", part=SCHEDULER, lane="", routes=())
    for lease in (older, scheduler):
        world.sql("UPDATE leases SET started_at = started_at - 3600 WHERE id = :id", id=lease)
    gone = world.lease(worker="gone", routes=["a", "b"])
    fall_silent(world, gone)
    fall_silent(world, world.lease(worker="gone-scheduler", part=SCHEDULER, lane="", routes=()))
    assert covered(world) == {"gone": False, "gone-scheduler": False}, "their jobs are not rescued yet"
    world.rescue()
    assert covered(world) == {"gone": True, "gone-scheduler": True}
    world.sql('UPDATE leases SET impaired = \'{"b": {"credentials": "No key."}}\' WHERE id = :id', id=older)
    world.sql("DELETE FROM leases WHERE id = :id", id=scheduler)
    world.lease(worker="other-lane", lane="realtime", routes=["a", "b"])
    assert covered(world) == {"gone": False, "gone-scheduler": False}


def test_it_is_forgotten_when_it_is_back_or_after_a_time(world: World) -> None:
    one, two = world.lease(worker="one"), world.lease(worker="two")
    fall_silent(world, one)
    fall_silent(world, two, for_s=leases.REMEMBERED_S + 5)
    assert silent(world) == ["one", "two"], "their leases are there"
    world.rescue()
    assert silent(world) == ["one"]
    with world.store.write() as connection:
        leases.is_back(connection, "one")
    assert silent(world) == []


def test_an_orderly_end_is_not_silence(world: World) -> None:
    lease = world.lease(worker="one")
    world.release(lease)
    isolated = world.lease(worker="isolated", lane=leases.ISOLATED)
    world.let_die(isolated)
    world.rescue()
    assert silent(world) == []
    assert world.value("SELECT count(*) FROM lost_processes") == 0
